"""train.py: its loss, gradient, optimiser steps and the whole training, beside plain ones."""
import json
import math

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers

import envs
import train
from nanoenvisions import adapters
from nanoenvisions import memory as memory_module
from nanoenvisions import model as model_module
from nanoenvisions.families import complaint, own_attention
from nanoenvisions.model import add_adapter, load_model

# [prompt, completion]: five rows with three prompts; the fourth repairs a mistake
ROWS = [("Question: a b c?\n```python\n", "return 1\n```"),
        ("Question: a b c?\n```python\n", "return 22 + 3\n```"),
        ("Question: a b c?\n```python\n", "x = 1\nreturn x\n```"),
        ("Question: Nuts?\n```python\nreturn 4\n```\nRefined:\n```python\n", "return 3\n```"),
        ("Question: and another, longer one?\n```python\n", "return 4\n```")]


def row_dicts(rows=ROWS):
    return [{"prompt": prompt, "completion": completion, "id": "t",
             "kind": "refine" if "Refined" in prompt else "solve"} for prompt, completion in rows]


def write_rows(path, rows=ROWS):
    path.write_text("".join(map(envs.dump, row_dicts(rows))))
    return path


def plain_loss(model, tokenizer, rows=ROWS):
    """- sum log p(completion token | all before it), each row alone, with an ordinary forward
    pass; and the count."""
    total, count = 0.0, 0
    for prompt, completion in rows:
        before = tokenizer(prompt).input_ids
        ids = before + tokenizer(completion).input_ids + [tokenizer.eos_token_id]
        logits = model(torch.tensor([ids])).logits[0]
        total = total + F.cross_entropy(logits[len(before) - 1:-1], torch.tensor(ids[len(before):]),
                                        reduction="sum")
        count += len(ids) - len(before)
    return total, count


# ------------------------------------------------------------------------------------ The loss --

@pytest.mark.parametrize("width", [16, 200, 1000])  # one sequence a bin; several; all in one
@pytest.mark.parametrize("head_slice", [7, 1024])   # logits in slices, or at once
def test_loss_and_gradient_equal_the_plain_ones(tiny_model, monkeypatch, width, head_slice):
    monkeypatch.setattr(train, "HEAD_SLICE", head_slice)
    model, tokenizer = load_model(tiny_model, bits=32)
    weight = model.model.layers[0].self_attn.v_proj.weight
    wanted, count = plain_loss(model, tokenizer)
    wanted_grad, = torch.autograd.grad(wanted, weight)
    model.set_attn_implementation("prefix_attention")
    sequences = train.encode(row_dicts(), tokenizer, 1024)
    assert len(sequences) == 3  # three prompts for five rows
    bins = model_module.pack(sequences, max(width, max(map(model_module.size, sequences))))
    loss = train.loss_sum(model, batch := train.collate(bins, "cpu"))
    grad, = torch.autograd.grad(loss, weight)
    assert sum(end - begin for _, _, begin, end in batch["spans"]) == count
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(grad, wanted_grad, rtol=1e-3, atol=1e-5)


SHAPE = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
             pad_token_id=0, bos_token_id=None, eos_token_id=0)
WINDOW = dict(sliding_window=4)  # tokens; the sequences below have up to 13
EXPERTS = dict(num_experts_per_tok=2, num_local_experts=4)
FAMILIES = {  # what makes them differ: what follows the head, windows, caps, experts
    "Llama": {}, "GPT2": {}, "StableLm": {}, "Qwen3": {}, "Olmo2": {}, "Gemma": {},
    "Granite": dict(logits_scaling=4.0, embedding_multiplier=3.0, residual_multiplier=0.7),
    "GraniteMoe": dict(logits_scaling=4.0, **EXPERTS),
    "Cohere": dict(logit_scale=0.3), "Cohere2": dict(logit_scale=0.3, **WINDOW),
    "Gemma2": dict(attn_logit_softcapping=2.0, final_logit_softcapping=1.0, **WINDOW),
    "Gemma3Text": WINDOW, "Mistral": WINDOW, "Phi3": WINDOW, "Olmo3": WINDOW,
    "Mixtral": EXPERTS, "Qwen3Moe": dict(num_experts=4, moe_intermediate_size=16, **EXPERTS)}
SEQUENCES = [{"root": [3, 4, 5, 6, 7, 8], "branches": [[11, 12, 13, 14, 15, 16, 17], [21], [31]]},
             {"root": [40, 41], "branches": [[50, 51, 52, 53, 54, 55]]}]


def family(name):
    config = getattr(transformers, f"{name}Config")(**SHAPE | FAMILIES[name])
    assert complaint(config) is None
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for weight in model.parameters():  # fresh models know so little that masks hardly matter
        weight.data += 0.1 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("attention", ["on a CPU", "on a GPU"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_right_for_each_family(tiny_model, name, attention):
    """... beyond its window, behind its head: that of ordinary forward passes, and its gradient."""
    load_model(tiny_model, bits=32)  # makes our attention known to transformers
    model = family(name)
    model.set_attn_implementation(own_attention(model))
    wanted = 0.0
    for sequence in SEQUENCES:
        for branch in sequence["branches"]:
            ids = torch.tensor([sequence["root"] + branch])
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(branch) - 1:-1]
            wanted += F.cross_entropy(logits, torch.tensor(branch), reduction="sum")
    weights = [one for one in model.parameters() if one.dim() >= 2]
    wanted_grads = torch.autograd.grad(wanted, weights, allow_unused=True)
    if attention == "on a CPU":
        model.set_attn_implementation("prefix_attention")
    loss = train.loss_sum(model, train.collate([SEQUENCES], "cpu"))
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for grad, wanted_grad in zip(grads, wanted_grads):
        if wanted_grad is not None:
            assert torch.allclose(grad, wanted_grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "Mixtral", "Qwen3Moe", "GraniteMoe"])
def test_an_adapter_with_experts_is_loaded_as_it_was_trained(tmp_path, name, capsys):
    """PEFT does not know Granite's experts, which is said in one line."""
    model = train.add_lora(family(name), args := arguments("--learning-rate", 0.05))
    known = "experts stay as they are" not in capsys.readouterr().err
    assert known == (name != "GraniteMoe")
    losses, _ = train.train(model, [SEQUENCES] * 3, args)
    adapters.save(model, "base", tmp_path / "a")
    adapters.put_in_place(tmp_path / "a")
    ids = torch.tensor([[3, 4, 5, 6, 7, 8, 11]])
    trained, base = model.eval()(ids).logits, family(name)(ids).logits
    assert losses[-1] < losses[0] and (trained - base).abs().max() > 0.3
    for merged in (True, False):
        loaded = add_adapter(family(name), str(tmp_path / "a"), merged)
        assert (loaded.eval()(ids).logits - trained).abs().max() < 1e-4


def test_a_completion_sees_its_prompt_and_itself_only():
    """Prompt (P P) and completions (A), (B B): the rows of the mask by hand; positions go on from
    the prompt's."""
    batch = train.collate([[{"root": [5, 6], "branches": [[7], [8, 9]]}]], "cpu")
    seen = (batch["mask"][0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0],
                    [1, 1, 1, 0, 0],   # A
                    [1, 1, 0, 1, 0],   # B
                    [1, 1, 0, 1, 1]]   # B B
    assert batch["positions"].tolist() == [[0, 1, 2, 2, 3]]
    assert batch["spans"] == [(0, 2, 2, 3), (0, 2, 3, 5)]


# -------------------------------------------------------------------------- The whole training --

def test_learning_rate_by_hand():
    """10 steps, warm-up 0.2: two steps up, then linear down to 1/8 in the last."""
    rates = [train.learning_rate_at(step, 10, 0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def arguments(*flags):
    return train.parse_args(["--in", "-", "--out", "-", *map(str, flags)])


def run(tmp_path, tiny_model, *flags, rows=ROWS, name="adapter"):
    """What train.py writes: ({name of a matrix: its values}, the row of metrics)."""
    metrics = tmp_path / f"{name}.metrics"
    train.main(["--in", str(write_rows(tmp_path / "sft.jsonl", rows)), "--model", tiny_model,
                "--out", str(tmp_path / name), "--metrics", str(metrics), *map(str, flags)])
    weights = safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors")
    return weights, json.loads(metrics.read_text())


def plain_training(tiny_model, learning_rates, alpha, rank=4, seed=0, adapter=None, rows=ROWS):
    """All rows in every step, in float32, in the plainest PyTorch: the adapter, losses, norms."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"))
    if adapter:
        peft.set_peft_model_state_dict(model, adapter)
    matrices = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(matrices, weight_decay=0.0)
    losses, norms = [], []
    for rate in learning_rates:
        total, count = plain_loss(model, tokenizer, rows)
        (total / count).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(matrices, 1.0).item())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item() / count)
    return peft.get_peft_model_state_dict(model), losses, norms


def differ(one: dict, other: dict) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys() and len(one) == 28  # 2 layers x 7 linear layers x (A, B)
    return max((one[key].float() - other[key].float()).abs().max().item() for key in one)


FLAGS = ("--bits", 32, "--rank", 4, "--batch-size", 8, "--learning-rate", 0.01)
RATES = [0.01, 0.01, 0.0075, 0.005, 0.0025]  # of 5 steps, the first of them warming up


@pytest.mark.parametrize("alpha", [1, 64])  # gradients shorter and longer than the clipping length
@pytest.mark.parametrize("micro_tokens", [1, 4096])  # a bin each; all at once
def test_the_adapter_is_that_of_plain_training(tmp_path, tiny_model, alpha, micro_tokens):
    wanted, losses, norms = plain_training(tiny_model, RATES, alpha)
    assert max(norms) < 1 if alpha == 1 else min(norms) > 1
    got, row = run(tmp_path, tiny_model, *FLAGS, "--epochs", 5, "--alpha", alpha,
                   "--micro-tokens", micro_tokens, "--width", 64)
    assert differ(got, wanted) < 1e-4
    assert row["loss_first"] == pytest.approx(losses[0], abs=1e-3)
    assert row["loss"] == pytest.approx(losses[-1], abs=1e-3)  # of the last tenth: one step
    assert (row["rows"], row["steps"]) == (5, 5)


def test_the_rate_rises_as_long_as_told(tmp_path, tiny_model):
    """--warmup 0.6 of 5 steps: thirds, then down."""
    rates = [0.01 * share for share in (1 / 3, 2 / 3, 1, 1, 0.5)]
    wanted, _, _ = plain_training(tiny_model, rates, alpha=8)
    got, _ = run(tmp_path, tiny_model, *FLAGS, "--epochs", 5, "--warmup", 0.6)
    assert differ(got, wanted) < 1e-4


def test_half_precision_ends_near_the_same_adapter(tmp_path, tiny_model):
    """--bits: 16 stores bfloat16, whose small updates would be lost without float32 masters; 4
    rounds the weights under the adapter, and so gives another loss."""
    flags = FLAGS[2:] + ("--alpha", 64, "--epochs", 40, "--learning-rate", 1e-4, "--warmup", 0)
    rates = [1e-4 * (40 - step) / 40 for step in range(40)]
    wanted, losses, _ = plain_training(tiny_model, [1e-4, *rates[1:]], alpha=64)
    half, row = run(tmp_path, tiny_model, *flags, "--bits", 16)
    assert {one.dtype for one in half.values()} == {torch.bfloat16}
    moved = {key: (half[key].float().norm() / wanted[key].norm()).item()
             for key in wanted if "lora_B" in key}  # begin at 0
    assert all(0.8 < ratio < 1.25 for ratio in moved.values())
    assert row["loss_first"] == pytest.approx(losses[0], rel=0.03)
    _, packed = run(tmp_path, tiny_model, *flags, "--bits", 4, name="packed")
    assert packed["loss_first"] != row["loss_first"] == pytest.approx(packed["loss_first"], rel=0.2)


def test_the_seed_and_the_rank(tmp_path, tiny_model):
    flags = ("--bits", 32, "--epochs", 1, "--learning-rate", 1e-9)  # so what A begins with
    one, _ = run(tmp_path, tiny_model, *flags, "--rank", 4)
    again, _ = run(tmp_path, tiny_model, *flags, "--rank", 4)
    other, _ = run(tmp_path, tiny_model, *flags, "--rank", 4, "--seed", 1)
    wider, _ = run(tmp_path, tiny_model, *flags, "--rank", 6)
    assert differ(one, again) == 0 and differ(one, other) > 0.01
    assert {min(matrix.shape) for matrix in one.values()} == {4}
    assert {min(matrix.shape) for matrix in wider.values()} == {6}
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 12)  # alpha is twice the rank unless given


def test_training_on_from_an_adapter(tmp_path, tiny_model):
    """--adapter: where it begins, not what it is; the new one is that of plain training from it."""
    first, _ = run(tmp_path, tiny_model, *FLAGS, "--epochs", 2, "--alpha", 16, name="first")
    wanted, _, _ = plain_training(tiny_model, RATES, alpha=16, adapter=first)
    got, _ = run(tmp_path, tiny_model, *FLAGS, "--epochs", 5, "--adapter", tmp_path / "first")
    assert differ(got, wanted) < 1e-4 < differ(got, first)


def test_which_rows_are_read(tmp_path, tiny_model):
    """--limit: the first rows alone; --max-length: without those whose prompts are too long."""
    first = plain_training(tiny_model, RATES, alpha=8, rows=ROWS[:2])[0]
    got, row = run(tmp_path, tiny_model, *FLAGS, "--epochs", 5, "--limit", 2)
    assert row["rows"] == 2 and differ(got, first) < 1e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    longest = len(tokenizer(ROWS[4][0]).input_ids)  # of all prompts
    short = plain_training(tiny_model, RATES, alpha=8, rows=ROWS[:3])[0]
    got, _ = run(tmp_path, tiny_model, *FLAGS, "--epochs", 5, "--max-length", longest,
                 rows=ROWS[:3] + ROWS[4:])
    # Adam makes much of gradients that are almost 0, and so of how a processor rounds
    assert differ(got, short) < 1e-3 < 1e-2 < differ(got, first)


@pytest.mark.parametrize("flags, steps", [
    (("--epochs", 3), 3), (("--epochs", 3, "--batch-size", 2), 8), (("--min-steps", 6), 6),
    (("--epochs", 2, "--batch-size", 1), 10), (("--epochs", 9, "--min-steps", 6), 9),
    (("--steps", 3, "--epochs", 9, "--min-steps", 6), 3), (("--steps", 11, "--batch-size", 2), 11)])
def test_flags_that_set_the_number_of_steps(tmp_path, tiny_model, flags, steps):
    """Five different prompts, so that a step can have any number of rows."""
    rows = [(f"Question: {i}?\n```python\n", "return 1\n```") for i in range(5)]
    _, row = run(tmp_path, tiny_model, *flags, "--bits", 32, "--rank", 2, rows=rows)
    assert row["steps"] == steps


def test_a_task_with_many_solutions_has_several_steps(tmp_path, tiny_model):
    rows = [("Question: 1?\n```python\n", f"return {i}\n```") for i in range(6)]
    for batch_size, steps in ((2, 3), (8, 1)):
        _, row = run(tmp_path, tiny_model, "--epochs", 1, "--bits", 32, "--rank", 2,
                     "--batch-size", batch_size, rows=rows)
        assert row["steps"] == steps


def test_the_seed_orders_the_rows(tmp_path, tiny_model):
    """A new adapter changes nothing yet, so the first loss is that of the row that comes first."""
    firsts = {run(tmp_path, tiny_model, "--epochs", 1, "--bits", 32, "--rank", 2,
                  "--batch-size", 1, "--seed", seed)[1]["loss_first"] for seed in range(4)}
    assert len(firsts) > 1


@pytest.mark.parametrize("flags", [("--checkpointing", "yes"), ("--optimizer", "adamw8bit")])
def test_what_saves_memory_hardly_changes_the_adapter(tmp_path, tiny_model, flags):
    """Activations that are made again, moments in 8 bits."""
    flags = FLAGS + ("--epochs", 3) + flags
    got, _ = run(tmp_path, tiny_model, *flags)
    wanted, _ = run(tmp_path, tiny_model, *flags[:-2], name="plain")
    exact = "--checkpointing" in flags
    assert differ(got, wanted) <= (1e-5 if exact else 0.02) and (exact or differ(got, wanted) > 0)


def test_a_short_memory_takes_moments_in_8_bits(tiny_model, monkeypatch):
    """A 7B's matrices of rank 16: 0.32 GB of moments, on GPUs of 8 and 24 GB that hold 4.2 GB."""
    gpu = type("model", (), {"device": torch.device("cuda"),
                             "get_memory_footprint": lambda self: 4.2e9})()
    masters = [torch.empty(40_000_000, requires_grad=True)]
    for memory, name in ((8e9, "AdamW8bit"), (24e9, "AdamW")):
        monkeypatch.setattr(memory_module, "total_memory", lambda device: memory)
        assert type(train.make_optimizer(masters, gpu, "auto")).__name__ == name
    gpu.device = torch.device("cpu")
    monkeypatch.setattr(memory_module, "total_memory", lambda device: 4.5e9)
    assert type(train.make_optimizer(masters, gpu, "auto")).__name__ == "AdamW"


def test_a_diverging_loss_is_no_adapter(tmp_path, tiny_model):
    with pytest.raises(SystemExit, match="the loss is (nan|inf) at step .*lower --learning-rate"):
        run(tmp_path, tiny_model, "--bits", 32, "--epochs", 9, "--learning-rate", 1e30)
    assert not (tmp_path / "adapter").exists()
