"""train.py: the loss equals the plain one, whatever is shared and packed; the script; resuming by starting again."""
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import run_stage

import envs
import explore
import train

ROWS = [("Question: a b c?\n```python\n", "return 1\n```"), ("Question: a b c?\n```python\n", "return 22 + 3\n```"),
        ("Question: a b c?\n```python\n", "x = 1\nreturn x\n```"), ("Question: How many nuts?\n```python\n", "return 3\n```"),
        ("Question: and another, longer one?\n```python\n", "return 4\n```")]


def row_dicts():
    return [{"prompt": prompt, "completion": completion} for prompt, completion in ROWS]


def plain_loss(model, tokenizer):
    """- sum log p(completion token | all before it), each row alone, with an ordinary forward pass; and the count."""
    model.set_attn_implementation("sdpa")
    total, count = 0.0, 0
    for prompt, completion in ROWS:
        before = tokenizer(prompt).input_ids
        ids = before + tokenizer(completion).input_ids + [tokenizer.eos_token_id]
        logits = model(torch.tensor([ids])).logits[0]
        total = total + F.cross_entropy(logits[len(before) - 1:-1], torch.tensor(ids[len(before):]), reduction="sum")
        count += len(ids) - len(before)
    return total, count


@pytest.mark.parametrize("width", [16, 200, 1000])  # one sequence a bin; several; all in one
@pytest.mark.parametrize("head_slice", [7, 1024])   # logits in slices, or at once
def test_loss_and_gradient_equal_the_plain_ones(tiny_model, monkeypatch, width, head_slice):
    monkeypatch.setattr(train, "HEAD_SLICE", head_slice)
    model, tokenizer = explore.load_model(tiny_model, bits=32)
    weight = model.model.layers[0].self_attn.v_proj.weight
    wanted, count = plain_loss(model, tokenizer)
    wanted_grad, = torch.autograd.grad(wanted, weight)
    model.set_attn_implementation("prefix_attention")
    sequences = train.encode(row_dicts(), tokenizer, 1024)
    assert len(sequences) == 3  # three prompts for five rows
    bins = train.pack(sequences, max(width, max(map(train.size, sequences))))
    loss = train.loss_sum(model, batch := train.collate(bins, "cpu"))
    grad, = torch.autograd.grad(loss, weight)
    assert sum(end - begin for _, _, begin, end in batch["spans"]) == count
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(grad, wanted_grad, rtol=1e-3, atol=1e-5)


def test_a_completion_sees_its_prompt_and_itself_only():
    """Prompt (P P) and completions (A), (B B): the rows of the mask by hand; positions go on from the prompt's."""
    batch = train.collate([[{"root": [5, 6], "branches": [[7], [8, 9]]}]], "cpu")
    seen = (batch["mask"][0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0],
                    [1, 1, 1, 0, 0],   # A
                    [1, 1, 0, 1, 0],   # B
                    [1, 1, 0, 1, 1]]   # B B
    assert batch["positions"].tolist() == [[0, 1, 2, 2, 3]]
    assert batch["spans"] == [(0, 2, 2, 3), (0, 2, 3, 5)]


def test_packing_by_hand():
    sequences = [{"root": [0] * (n - 1), "branches": [[0]]} for n in (2, 3, 4, 5)]
    assert [[train.size(one) for one in bin] for bin in train.pack(sequences, 7)] == [[5, 2], [4, 3]]


def test_learning_rate_by_hand():
    """10 steps, warm-up 0.2: two steps up, then linear down to 1/8 in the last."""
    rates = [train.learning_rate_at(step, 10, 0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_every_row_is_seen_once_an_epoch():
    sequences = [{"root": [i], "branches": [[i]] * n} for i, n in enumerate((1, 5, 2, 3, 1))]
    steps = train.make_steps(train.split_wide(sequences, 4, 1000), batch_size=4, epochs=2, seed=0)
    seen = [ids[0] for step in steps for sequence in step for ids in sequence["branches"]]
    assert sorted(seen) == sorted([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4] * 2)
    assert max(sum(len(s["branches"]) for s in step) for step in steps) < 2 * 4


@pytest.fixture
def row_file(tmp_path):
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(envs.dump({"prompt": f"Question: How many are {i}?\n```python\n", "kind": "solve", "id": str(i),
                                       "completion": f"def solution():\n    return {i}\n```"}) for i in range(1, 10)))
    return path


def test_training_learns_and_repeats_itself(tmp_path, row_file, tiny_model):
    """The loss falls, the same seed gives the same adapter, and explore.py can use it.

    At least 26 steps of 4 rows are 104 rows, and 9 rows make 104 in 12 epochs: the same as 12 epochs to begin with.
    """
    flags = ["--in", row_file, "--model", tiny_model, "--batch-size", 4, "--learning-rate", 5e-3]
    for name, length in (("one", ("--epochs", 12)), ("two", ("--epochs", 1, "--min-steps", 26))):
        done = run_stage("train", *flags, *length, "--out", tmp_path / name, "--metrics", tmp_path / "m")
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    row = json.loads((tmp_path / "m").read_text())
    assert row["loss"] < 0.6 * row["loss_first"] and row["rows"] == 9
    (tmp_path / "t").write_text(envs.dump({"id": "t", "env": "math", "question": "How many are 7?", "answer": 7}))
    done = run_stage("explore", "--in", tmp_path / "t", "--out", tmp_path / "e", "--model", tiny_model, "--adapter",
                     tmp_path / "one", "--max-new-tokens", 40)
    assert done.returncode == 0, done.stderr


def test_only_the_low_rank_matrices_are_trained(tiny_model):
    model, _ = explore.load_model(tiny_model, merge=False)
    model = train.add_lora(model, train.parse_args(["--in", "x", "--out", "y", "--rank", "4"]))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    # 7 linear layers x 2 matrices x 2 decoder layers
    assert len(trained) == 28
