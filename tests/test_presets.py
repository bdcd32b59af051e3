"""The presets for a GPU, each run end to end: its own settings, a tiny model of its architecture, rows in GSM8K's form.

What is left to a GPU is speed and accuracy. A tiny model of random weights is never right, so each is taught, in
seconds, to answer the preset's own prompts with a digit, which is right now and then.
"""
import json
import os
import random
import re
import subprocess

import pytest
from conftest import ROOT

import envs

PRESETS = {"gsm8k-0.5b": "Qwen2", "gsm8k-1.5b": "Qwen2", "gsm8k-7b": "Llama"}
ROWS = [{"question": f"{name} packs 3 boxes of {n} pens and loses some. How many pens are left?",
         "answer": f"{name} has 3*{n}=<<3*{n}={3 * n}>>{3 * n} pens.\n#### {5 + n % 2}"}
        for name in ("Ana", "Ben", "Cem", "Dia") for n in range(4, 10)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """taught("Qwen2") -> folder of a model with that architecture, and a tokenizer of real words."""
    import torch
    import transformers

    from nanoenvisions import model as models
    made = {}

    def taught(family):
        if family not in made:
            tokenizer = transformers.AutoTokenizer.from_pretrained(models.default_model())
            torch.manual_seed(0)
            model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(
                vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id, bos_token_id=None, tie_word_embeddings=True))
            optimizer, rng = torch.optim.AdamW(model.parameters(), lr=4e-3), random.Random(0)
            for number in range(150):
                row = {"env": "math", "question": rng.choice(ROWS)["question"], "style": "steps"}
                prompt = envs.solve_prompt(row, few_shot=number % 3 == 0)
                program = f"def solution():\n    return {rng.randint(4, 7)}"
                ids, answer = (tokenizer(text).input_ids for text in (prompt, envs.completion(program)))
                logits = model(input_ids=torch.tensor([ids + answer]), logits_to_keep=len(answer) + 1).logits[0]
                torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(answer)).backward()
                optimizer.step()
                optimizer.zero_grad()
            made[family] = str(tmp_path_factory.mktemp("models") / family)
            model.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]
    return taught


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_to_the_end(tmp_path, warm_python, taught, preset):
    iterations = 2 if preset == "gsm8k-0.5b" else 1  # the second one refines
    for name, rows in (("train", ROWS[:10]), ("exam", ROWS[20:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(["bash", "run.sh"], cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=400,
                          stderr=subprocess.STDOUT, env={
        **os.environ, "SETUP": "0", "PYTHON": warm_python, "OMP_NUM_THREADS": "1", "PRESET": preset, "ITERS": str(iterations),
        "MODEL": taught(PRESETS[preset]), "OUT": str(tmp_path / "run"), "DATA": str(tmp_path / "train.jsonl"),
        "TEST": str(tmp_path / "exam.jsonl"), "NUM_TEST": "2",
        "SELECT_FLAGS": "--stated"})  # the tiny model states numbers, no more
    assert done.returncode == 0, done.stdout
    settings = (tmp_path / "run/settings").read_text()
    for name, value in re.findall(r'^: "\$\{(\w+)[:]?=([^}]*)\}"', (ROOT / f"data/{preset}.sh").read_text(), re.M):
        if name not in ("MODEL", "DATA", "TEST", "NUM_TEST", "ITERS", "SELECT_FLAGS"):  # given by this test
            assert f"{name}={value}\n" in settings, name
    assert all((tmp_path / f"run/iter{t}/adapter").exists() for t in range(iterations))
    assert iterations == 1 or (tmp_path / "run/iter1/refined.jsonl").read_text()
    test = (tmp_path / f"run/iter{iterations}/eval.jsonl").read_text().splitlines()
    assert len(test) == 4 and json.loads(test[0])["style"] == "steps"  # NUM_TEST_ENDS=all
