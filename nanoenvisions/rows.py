"""From training rows to optimiser steps: tokens, rows of the same task together, batches.

A sequence is {"root": ids, "branches": [ids, ...], "given": [how many of a branch's tokens belong
to its prompt]}; model.py packs and runs it. May import model.
"""
from __future__ import annotations

import os
import random

from nanoenvisions.model import completion_ids, given, size, token_ids


def encode(rows, tokenizer, max_length: int) -> list[dict]:
    """One sequence per task: its root is what all its prompts begin with, which is run once.

    The rows x -> a+ and (x, a-) -> a+ of a task become the tree

        x -+- a+
           +- a- and "Refined:" -- a+        of which a- and the word are given

    Completions end with the end token: that is how a model learns to stop. They are cut at
    max_length tokens, prompt included; rows whose prompt alone is that long are left out.
    Rows are of one task if they have the same id, or, without one, the same prompt; rows with a
    field "pair" are of one pair.
    """
    tasks, left_out = {}, 0
    for row in rows:
        prompt = token_ids(tokenizer, [row["prompt"]])[0]
        ids = completion_ids(tokenizer, row["prompt"], row["completion"]) + [tokenizer.eos_token_id]
        room = max_length - len(prompt)
        if room > 0:
            task = str(row.get("pair", row.get("id", row["prompt"])))
            tasks.setdefault(task, []).append((prompt, ids[:room]))
        left_out += room <= 0
    if left_out:
        print(f"train: {left_out} rows left out, their prompts have {max_length} tokens or more "
              "(--max-length)")
    sequences = []
    for pairs in tasks.values():
        root = os.path.commonprefix([prompt for prompt, _ in pairs])
        rests = [prompt[len(root):] for prompt, _ in pairs]
        sequences.append({"root": root, "given": list(map(len, rests)),
                          "branches": [rest + ids for rest, (_, ids) in zip(rests, pairs)]})
    return sequences


def encode_pairs(pairs, tokenizer, max_length: int) -> list[dict]:
    """One sequence per pair of the same prompt: {"root": x, "branches": [a+, a-]}."""
    return encode([{"prompt": pair["prompt"], "completion": pair[side], "pair": number}
                   for number, pair in enumerate(pairs) for side in ("chosen", "rejected")],
                  tokenizer, max_length)


def split_wide(sequences, most_completions: int, widest: int) -> list[dict]:
    """Cut sequences with many completions into several: no step is dominated by one task."""
    parts = []
    for sequence in sequences:
        part = None
        for ids, skipped in zip(sequence["branches"], given(sequence)):
            if part is None or len(part["branches"]) == most_completions \
                    or size(part) + len(ids) > widest:
                part = {"root": sequence["root"], "branches": [], "given": []}
                parts.append(part)
            part["branches"].append(ids)
            part["given"].append(skipped)
    return parts


def count_rows(sequences) -> int:
    return sum(len(sequence["branches"]) for sequence in sequences)


def make_steps(sequences, batch_size: int, epochs: int, min_steps: int, seed: int) -> list[list]:
    """Optimiser steps, each a list of sequences with at least batch_size completions together.

    As many as `epochs` passes over the rows give, at least min_steps: then more passes follow. A
    step takes rows of the next pass where one ends, so only the last step can be smaller; and no
    step is larger than a pass.
    Example: 3 rows, batch_size 8, 2 epochs, min_steps 5: five steps of all 3 rows.
    0 epochs: exactly min_steps steps, all of them full.
    """
    rng, order, steps, step = random.Random(seed), list(sequences), [], []
    batch_size = min(batch_size, count_rows(sequences))
    left = epochs * len(order)  # sequences to be seen before we may stop
    while True:
        rng.shuffle(order)
        for sequence in order:
            step.append(sequence)
            left -= 1
            full = count_rows(step) >= batch_size
            last = len(steps) + 1 >= min_steps and (left == 0 or left < 0 and full)
            if full or last:
                steps.append(step)
                step = []
            if last:
                return steps
