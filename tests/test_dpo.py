"""train.py --pairs: the loss of DPO by hand, beside plain forward passes and TRL's; unlikelihood."""
import json
import math

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from conftest import run_stage

import envs
import train
from nanoenvisions import model as model_module
from nanoenvisions import preference
from nanoenvisions.model import load_model

PAIRS = [("Question: a b c?\n```python\n", "return 1\n```", "return 22 + 3\n```"),
         ("Question: a b c?\n```python\n", "x = 1\nreturn x\n```", "return 2\n```"),
         ("Question: another?\n```python\n", "return 4\n```", "return 4 + x\n```")]
ROWS = [{"prompt": prompt, "completion": chosen, "id": "t", "kind": "solve"} for prompt, chosen, _ in PAIRS]
DICTS = [{"prompt": prompt, "chosen": chosen, "rejected": rejected, "id": "t"} for prompt, chosen, rejected in PAIRS]


@pytest.fixture
def models(tiny_model):
    """(policy with random low-rank matrices, the untouched model, tokenizer), all in float32."""
    model, tokenizer = load_model(tiny_model, bits=32)
    model.set_attn_implementation("prefix_attention")
    torch.manual_seed(1)
    policy = peft.get_peft_model(model, peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    return policy, transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tokenizer


def plain_logprobs(model, tokenizer, prompt, completion):
    """log p of each token of a completion and its end, by one ordinary forward pass."""
    before = tokenizer(prompt).input_ids
    ids = before + tokenizer(completion).input_ids + [tokenizer.eos_token_id]
    logits = model(torch.tensor([ids])).logits[0, len(before) - 1:-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[len(before):])[:, None])[:, 0]


def plain_dpo(policy, base, tokenizer, beta, pairs=PAIRS):
    total = 0.0
    for prompt, chosen, rejected in pairs:
        with torch.no_grad():
            reference = [plain_logprobs(base, tokenizer, prompt, one).sum() for one in (chosen, rejected)]
        better, worse = (plain_logprobs(policy, tokenizer, prompt, one).sum() for one in (chosen, rejected))
        total = total - F.logsigmoid(beta * ((better - reference[0]) - (worse - reference[1])))
    return total


def plain_copy(tiny_model, policy):
    """The policy again, with the attention that transformers itself uses."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    copy = peft.get_peft_model(model, policy.peft_config["default"])
    peft.set_peft_model_state_dict(copy, peft.get_peft_model_state_dict(policy))
    return copy


def batch_of(tokenizer, width=200):
    sequences = train.encode_pairs(DICTS, tokenizer, 1024)
    assert [len(one["branches"]) for one in sequences] == [2, 2, 2]
    return train.collate(model_module.pack(sequences, max(width, max(map(model_module.size, sequences)))), "cpu")


# ------------------------------------------------------------------------------------ The loss --

def test_the_loss_by_hand():
    """Two pairs. Sums under pi: -3, -4; -1, -2. Under pi0: -5, -3; -1, -2. beta 0.5.

    Pair 1: 0.5 ((-3 + 5) - (-4 + 3)) = 1.5, - log sigma(1.5) = log(1 + e^-1.5) = 0.201413
    Pair 2: nothing has moved, log 2 = 0.693147. Together 0.894560.
    """
    now = [torch.tensor([-1., -2., -4., -1., -0.5, -1.5]), torch.tensor([-2., -3., -3., -1., -1., -1.])]

    class Model:
        off = False

        def disable_adapter(self):
            return self

        def __enter__(self):
            self.off = True

        def __exit__(self, *_):
            self.off = False

    def logprobs(model, batch):
        return now[model.off]
    spans = [(0, 1, 1, 3), (0, 1, 3, 4), (0, 1, 4, 5), (0, 1, 5, 7)]
    assert preference.dpo_loss(logprobs, Model(), {"spans": spans}, 0.5).item() == pytest.approx(0.894560, abs=1e-6)


@pytest.mark.parametrize("width", [16, 1000])  # a pair in each bin; all in one
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradient_equal_the_plain_ones(tiny_model, models, width, beta):
    """... whose reference is another model, loaded anew: so ours is truly the base model."""
    policy, base, tokenizer = models
    plain = plain_copy(tiny_model, policy)
    wanted = plain_dpo(plain, base, tokenizer, beta)
    loss = preference.dpo_loss(train.token_logprobs, policy, batch_of(tokenizer, width), beta)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert abs(loss.item() - len(PAIRS) * math.log(2)) > 1e-2
    wanted.backward()
    loss.backward()
    grads = {name: one.grad for name, one in policy.named_parameters() if one.requires_grad}
    for name, one in plain.named_parameters():
        if one.requires_grad:
            assert torch.allclose(grads[name], one.grad, rtol=1e-3, atol=2e-4), name
    assert len(grads) == 28 and all(grad is not None for grad in grads.values())


def test_the_reference_keeps_no_graph(models):
    """Checkpointing lets the inputs require gradients, and so all that is computed from them: memory for nothing."""
    policy, _, tokenizer = models
    policy.enable_input_require_grads()
    learned = []

    def token_logprobs(model, batch):
        logprobs = train.token_logprobs(model, batch)
        learned.append(logprobs.requires_grad)
        return logprobs
    preference.dpo_loss(token_logprobs, policy, batch_of(tokenizer), 0.1)
    assert learned == [False, True]


def test_a_new_adapter_prefers_nothing(tiny_model):
    """B = 0: the policy is its reference, in 4 bits too, and every pair costs log 2."""
    for bits in (4, 32):
        model, tokenizer = load_model(tiny_model, bits=bits, merge=False)
        model.set_attn_implementation("prefix_attention")
        model = train.add_lora(model, train.parse_args(["--in", "-", "--out", "-"]))
        loss = preference.dpo_loss(train.token_logprobs, model, batch_of(tokenizer), 0.1)
        assert loss.item() == pytest.approx(len(PAIRS) * math.log(2), abs=1e-6)


def test_packed_weights_are_their_own_reference(tiny_model, monkeypatch):
    """4-bit weights that stay packed, as on a GPU: plain passes of the same model, adapter on and off."""
    monkeypatch.setattr(model_module, "unpacks", lambda *_: False)
    model, tokenizer = load_model(tiny_model, bits=4, merge=False)
    assert any(type(one).__name__ == "Params4bit" for one in model.parameters())
    torch.manual_seed(1)
    policy = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM",
                                                        init_lora_weights=False))
    model.set_attn_implementation("sdpa")

    def margins():
        sums = [[plain_logprobs(policy, tokenizer, prompt, one).float().sum() for one in programs]
                for prompt, *programs in PAIRS]
        return [better - worse for better, worse in sums]
    with torch.no_grad():
        now = margins()
        with policy.disable_adapter():
            before = margins()
    wanted = -sum(F.logsigmoid(0.1 * (one - other)) for one, other in zip(now, before))
    model.set_attn_implementation("prefix_attention")
    loss = preference.dpo_loss(train.token_logprobs, policy, batch_of(tokenizer), 0.1)
    assert loss.item() == pytest.approx(wanted.item(), abs=0.1)  # bfloat16 rounds each log-probability
    assert max(abs(one - other) for one, other in zip(now, before)) > 5  # the adapter matters
    loss.backward()
    assert all(one.grad.isfinite().all() for one in policy.parameters() if one.requires_grad)


def test_the_loss_is_that_of_trl(tmp_path, tiny_model, models):
    """DPOTrainer's first loss, a mean over pairs, on the same adapter, pairs and reference."""
    trl = pytest.importorskip("trl", reason="pip install -r tests/bench-requirements.txt")
    datasets = pytest.importorskip("datasets")
    policy, base, tokenizer = models
    ours = preference.dpo_loss(train.token_logprobs, policy, batch_of(tokenizer), 0.3).item() / len(PAIRS)
    trainer = trl.DPOTrainer(
        plain_copy(tiny_model, policy), base, processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(DICTS), args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.3, per_device_train_batch_size=len(PAIRS), max_steps=1,
            use_cpu=True, bf16=False, report_to=[], logging_steps=1, save_strategy="no",
            gradient_checkpointing=False))
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(ours, abs=2e-4)


def test_unlikelihood_equals_the_plain_one(tiny_model, models):
    """Of a wrong program the tokens after what it shares with the right one: `return ` is no fault."""
    policy, _, tokenizer = models
    plain, wanted = plain_copy(tiny_model, policy), 0.0
    for (prompt, chosen, rejected), shared in zip(PAIRS, ("return ", "", "return 4")):
        wanted = wanted - plain_logprobs(plain, tokenizer, prompt, chosen).sum()
        wrong = plain_logprobs(plain, tokenizer, prompt, rejected)[len(tokenizer(shared).input_ids):]
        wanted = wanted - (1 - wrong.exp()).log().sum()
    loss = preference.unlikelihood_loss(train.token_logprobs, policy, batch_of(tokenizer))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    loss.backward()
    assert all(one.grad.isfinite().all() for one in policy.parameters() if one.requires_grad)


def test_a_certain_mistake_is_a_large_finite_loss():
    sure = torch.tensor([-0.5, 0.0], requires_grad=True)  # log p: 0 is certainty
    batch = {"spans": [(0, 1, 1, 2), (0, 1, 2, 3)], "tokens": torch.tensor([[0, 1, 2]])}
    loss = preference.unlikelihood_loss(lambda *_: sure, None, batch)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 - math.log(1e-6), rel=0.05) and sure.grad.isfinite().all()


# -------------------------------------------------------------------------- The whole training --

def run(tmp_path, tiny_model, *flags, pairs=DICTS, name="adapter"):
    for file, rows in (("sft", ROWS), ("pairs", pairs)):
        (tmp_path / f"{file}.jsonl").write_text("".join(map(envs.dump, rows)))
    train.main(["--in", f"{tmp_path}/sft.jsonl", "--pairs", f"{tmp_path}/pairs.jsonl", "--model", tiny_model,
                "--out", f"{tmp_path}/{name}", "--metrics", f"{tmp_path}/{name}.metrics", "--bits", "32",
                "--rank", "4", *map(str, flags)])
    weights = safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors")
    return weights, json.loads((tmp_path / f"{name}.metrics").read_text())


def test_the_adapter_is_that_of_plain_training(tmp_path, tiny_model):
    """Two steps on the rows, two of DPO at another rate, each time a new optimiser."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    base, model = (transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
                   for _ in range(2))
    torch.manual_seed(0)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear",
                                                       task_type="CAUSAL_LM"))
    matrices = [one for one in model.parameters() if one.requires_grad]
    losses = []
    for rate, dpo in ((0.01, False), (0.002, True)):
        optimizer = torch.optim.AdamW(matrices, weight_decay=0.0)
        for share in (1, 1):  # of two steps the first warms up, and the second is at the top
            if dpo:
                loss = plain_dpo(model, base, tokenizer, 0.7) / len(PAIRS)
            else:
                parts = [plain_logprobs(model, tokenizer, *pair[:2]) for pair in PAIRS]
                loss = -sum(part.sum() for part in parts) / sum(map(len, parts))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(matrices, 1.0)
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    wanted = peft.get_peft_model_state_dict(model)
    got, row = run(tmp_path, tiny_model, "--epochs", 2, "--batch-size", 6, "--learning-rate", 0.01,
                   "--pair-learning-rate", 0.002, "--beta", 0.7)
    assert max((got[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-4
    assert [row["loss_first"], row["pair_loss_first"], row["pair_loss"]] == pytest.approx(
        [losses[0], *losses[2:]], abs=1e-3)
    assert (row["rows"], row["pairs"], row["steps"]) == (3, 3, 4)


def margin(tiny_model, adapter):
    """Mean of log p(a+|x) - log p(a-|x)."""
    model, tokenizer = load_model(tiny_model, str(adapter), bits=32)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        return sum((plain_logprobs(model, tokenizer, prompt, chosen).sum()
                    - plain_logprobs(model, tokenizer, prompt, rejected).sum()).item()
                   for prompt, chosen, rejected in PAIRS) / len(PAIRS)


def test_pairs_widen_the_margin(tmp_path, tiny_model):
    """DPO beside no pairs (an empty file), with the same rows; unlikelihood lowers its own loss."""
    flags = ("--epochs", 3, "--learning-rate", 5e-3, "--pair-learning-rate", 5e-3)
    _, alone = run(tmp_path, tiny_model, *flags, pairs=[], name="alone")
    _, dpo = run(tmp_path, tiny_model, *flags, name="dpo")
    _, unlike = run(tmp_path, tiny_model, *flags, "--pair-loss", "unlikelihood", name="unlike")
    assert "pairs" not in alone and dpo["pair_loss"] < dpo["pair_loss_first"]
    assert unlike["pair_loss"] < unlike["pair_loss_first"] != dpo["pair_loss_first"]
    assert margin(tiny_model, tmp_path / "dpo") > margin(tiny_model, tmp_path / "alone") + 0.5


def test_steps_count_both_and_flags_are_checked(tmp_path, tiny_model):
    """--steps 5: three on the rows, two on the pairs; none for pairs that are not there."""
    _, row = run(tmp_path, tiny_model, "--steps", 5)
    assert row["steps"] == 5
    _, row = run(tmp_path, tiny_model, "--steps", 5, pairs=[])
    assert row["steps"] == 5
    for flags, said in ((("--steps", 1), "at least 2"), (("--beta", 0), "above 0"),
                        (("--pair-learning-rate", -1), "above 0")):
        with pytest.raises(SystemExit, match=said):
            run(tmp_path, tiny_model, *flags)
    with pytest.raises(SystemExit, match='pairs.jsonl:1: no "rejected"'):
        run(tmp_path, tiny_model, pairs=[{"prompt": "x", "chosen": "y"}])
    with pytest.raises(SystemExit, match="every prompt has 2 tokens or more"):
        run(tmp_path, tiny_model, "--max-length", 2)


# ----------------------------------------------------------------------------------- The pairs --

def pool_of(positives, negatives):
    """p0, p1, ... are right and n0, n1, ... wrong, each likelier than the next."""
    return [{"id": "t1", "env": "math", "question": "What is 1 + 1?", "answer": 2, "iteration": 0, "source": "explore",
             "candidate": k, "program": f"{name} = 1", "reward": int(name[0] == "p"),
             "self_reward": -0.1 * (k + 1)}
            for k, name in enumerate([f"p{i}" for i in range(positives)] + [f"n{i}" for i in range(negatives)])]


@pytest.mark.parametrize("positives, negatives, flags, wanted", [
    (3, 2, (), "p2n0 p1n1"), (1, 3, (), "p0n0 p0n1"), (2, 5, ("--num-pairs", 3), "p1n0 p0n1 p1n2"),
    (3, 3, ("--far-pairs",), "p0n2 p1n1"), (3, 0, (), ""), (2, 1, ("--num-pairs", 9), "p1n0")])
def test_pairs_are_ranked_as_u2_is(tmp_path, positives, negatives, flags, wanted):
    """Prompt, chosen and rejected, as TRL takes them; the rows are what they are without pairs."""
    (tmp_path / "in.jsonl").write_text("".join(map(envs.dump, pool_of(positives, negatives))))
    for extra in ((), ("--pairs", tmp_path / "pairs.jsonl", *flags)):
        done = run_stage("select", "--in", tmp_path / "in.jsonl", "--pool-out", tmp_path / "pool.jsonl",
                         "--out", tmp_path / f"sft{len(extra) > 0}.jsonl", "--stated", *extra)
        assert done.returncode == 0, done.stderr
    pairs = envs.read_jsonl(tmp_path / "pairs.jsonl", allow_empty=True)
    assert [pair["chosen"][:2] + pair["rejected"][:2] for pair in pairs] == wanted.split()
    for pair in pairs:
        assert pair == {"prompt": "Question: What is 1 + 1?\n```python\n", "id": "t1",
                        "chosen": f"{pair['chosen'][:2]} = 1\n```", "rejected": f"{pair['rejected'][:2]} = 1\n```"}
    assert (tmp_path / "sftTrue.jsonl").read_bytes() == (tmp_path / "sftFalse.jsonl").read_bytes()


def test_an_input_is_no_place_for_pairs(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(map(envs.dump, pool_of(1, 1))))
    flags = ("--in", tmp_path / "in.jsonl", "--pool-out", tmp_path / "p", "--out", tmp_path / "o")
    done = run_stage("select", *flags, "--pairs", tmp_path / "in.jsonl")
    assert done.returncode == 1 and "would be overwritten" in done.stderr
    done = run_stage("select", *flags, "--num-pairs", 0)
    assert done.returncode == 2 and "--num-pairs is 0, it must be at least 1" in done.stderr
