"""nanoenvisions/rows.py: from training rows to optimiser steps."""
import pytest
import transformers

import train
from nanoenvisions import model as model_module
from nanoenvisions import rows as row_module


def test_completions_end_with_the_end_token_and_are_cut_at_max_length(tiny_model, capsys):
    """The prompt counts: its 5 tokens leave 3 of 8. One that fills it is left out, and said."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"prompt": "abcde", "completion": text} for text in ("x", "xyzw")]
    end = tokenizer.eos_token_id
    x, y, z = tokenizer("xyz").input_ids
    assert train.encode(rows, tokenizer, 8) == [{"root": tokenizer("abcde").input_ids,
                                                 "branches": [[x, end], [x, y, z]]}]
    assert capsys.readouterr().out == ""
    long = {"prompt": "abcdefgh", "completion": "x"}
    assert train.encode([long, *rows], tokenizer, 8) == train.encode(rows, tokenizer, 8)
    assert "1 rows left out" in capsys.readouterr().out


def test_packing_by_hand():
    sequences = [{"root": [0] * (n - 1), "branches": [[0]]} for n in (2, 3, 4, 5)]
    bins = model_module.pack(sequences, 7)
    assert [[model_module.size(one) for one in bin] for bin in bins] == [[5, 2], [4, 3]]


def sizes(bins):
    return [[model_module.size(one) for one in bin] for bin in bins]


def test_tight_packing_by_hand():
    """60, 50, 40: bins of 100 are two, half of the second empty: 200 tokens instead of 150."""
    sequences = [{"root": [0] * n, "branches": []} for n in (40, 50, 60)]
    assert sizes(model_module.pack_tightly(sequences, 100, 1000)) == [[60, 50, 40]]
    assert sizes(model_module.pack_tightly(sequences, 100, 149)) == [[60, 40], [50]]     # not over `most` tokens
    assert sizes(model_module.pack_tightly(sequences, 60, 1)) == [[60], [50], [40]]      # but whole sequences
    assert sizes(model_module.pack_tightly(sequences, 100, 1000, shares=2)) == [[60, 40], [50]]  # one each
    wide = [{"root": [0] * 100 * n, "branches": []} for n in (40, 50, 60)]  # attention costs more than padding
    assert sizes(model_module.pack_tightly(wide, 10000, 10**6)) == [[6000, 4000], [5000]]


def sequences_of(*counts):
    return [{"root": [i], "branches": [[i]] * n} for i, n in enumerate(counts)]


def seen(steps):
    return [ids[0] for step in steps for sequence in step for ids in sequence["branches"]]


def test_every_row_is_seen_once_an_epoch():
    parts = train.split_wide(sequences_of(1, 5, 2, 3, 1), 4, 1000)
    steps = train.make_steps(parts, batch_size=4, epochs=2, min_steps=0, seed=0)
    assert sorted(seen(steps)) == sorted([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4] * 2)
    assert sorted(seen(train.make_steps(parts, 4, 1, 0, 0))) == sorted(seen(steps)[:12])
    assert max(row_module.count_rows(step) for step in steps) < 2 * 4
    assert all(row_module.count_rows(step) >= 4 for step in steps[:-1])
    other = train.make_steps(parts, batch_size=4, epochs=2, min_steps=0, seed=1)
    assert seen(other) != seen(steps) == seen(train.make_steps(parts, 4, 2, 0, 0))


@pytest.mark.parametrize("counts, batch_size, epochs, min_steps, wanted", [
    ((1, 1, 1), 8, 2, 40, [3] * 40),           # a step is never more than a pass
    ((1, 1, 1), 8, 50, 40, [3] * 50),          # more epochs than that: they count
    ((1,) * 9, 4, 1, 0, [4, 4, 1]),
    ((1,) * 9, 4, 4, 0, [4] * 9),              # steps go on over the ends of passes
    ((1,) * 9, 4, 1, 3, [4, 4, 1]),            # enough already
    ((1,) * 9, 4, 1, 7, [4] * 7),              # exactly so many
    ((3, 3), 4, 1, 5, [6] * 5),                # a prompt's completions stay together
    ((1,) * 9, 4, 0, 2, [4, 4]),               # exactly so many, less than a pass
    ((1,) * 9, 4, 0, 5, [4] * 5),              # and more than two
])
def test_the_number_of_steps(counts, batch_size, epochs, min_steps, wanted):
    steps = train.make_steps(sequences_of(*counts), batch_size, epochs, min_steps, seed=0)
    assert [row_module.count_rows(step) for step in steps] == wanted
