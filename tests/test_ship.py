"""data/ship.py: what is shipped writes, in transformers alone, the programs that ours writes, token by token."""
import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, load_stage
from safetensors import safe_open

import envs
from data import ship

TASKS = [{"id": str(number), "env": "math", "question": f"{name} {'had some nuts. ' * times}How many?", "answer": 1}
         for number, (name, times) in enumerate((name, times) for name in "ABCDEF" for times in (0, 1))]
ALONE = """
import json, sys
import torch, transformers
folder, questions = sys.argv[1], json.loads(sys.argv[2])
assert not {"nanoenvisions", "envs", "peft", "bitsandbytes"} & set(sys.modules)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
assert model.dtype == torch.bfloat16
for question in questions:
    ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)
    ids.pop("token_type_ids", None)
    made = model.generate(**ids, tokenizer=tokenizer)[0]
    start = ids["input_ids"].shape[1]
    print(json.dumps([made[:start].tolist(), made[start:].tolist(), tokenizer.decode(made[start:])]))
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, tiny_model):
    """(the folder that was shipped, the run's)."""
    run, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("ship") / "shipped"
    settings = {"ENV": "math", "METHOD": "rft", "MODEL": tiny_model, "DATA": "", "BITS": "4", "MAX_NEW_TOKENS": "20"}
    (run / "settings").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    (run / "metrics.jsonl").write_text("".join(map(envs.dump, (
        {"stage": "eval", "iteration": t, "seconds": 1, "accuracy": share, "num": 8} for t, share in ((0, .25), (1, .5))))))
    rows = [{"prompt": envs.solve_prompt(task), "completion": envs.completion("def solution():\n    return 7")}
            for task in TASKS]
    (run / "sft.jsonl").write_text("".join(map(envs.dump, rows)))
    load_stage("train").main(["--in", str(run / "sft.jsonl"), "--out", str(run / "iter0/adapter"), "--model", tiny_model,
                              "--steps", "50", "--learning-rate", "8e-3"])
    ship.main(["--in", str(run), "--out", str(out)])
    return out, run


def test_transformers_alone_writes_the_same_tokens(shipped, tiny_model, tmp_path):
    out, run = shipped
    explore = load_stage("explore")
    (tmp_path / "tasks.jsonl").write_text("".join(map(envs.dump, TASKS)))
    written = {}
    for name, flags in (("ours", ["--adapter", str(run / "iter0/adapter")]), ("base", [])):
        explore.main(["--in", str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / name), "--model", tiny_model,
                      "--greedy", "--max-new-tokens", "20", *flags])
        written[name] = {record["question"]: record for record in envs.read_jsonl(tmp_path / name)}
    questions = [task["question"] for task in TASKS]
    done = subprocess.run([sys.executable, "-c", ALONE, str(out), json.dumps(questions)], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for task, line in zip(TASKS, done.stdout.splitlines()):
        prompt, tokens, text = json.loads(line)
        ours = written["ours"][task["question"]]
        assert prompt == tokenizer(envs.solve_prompt(task)).input_ids
        assert envs.parse_program(text) == ours["program"]
        assert len(tokens) == ours["tokens"] and tokens == tokenizer(text).input_ids
        assert text == ours["program"] + ship.STOP  # it stopped there, not at the 20th token
    changed = [question for question in questions if written["base"][question]["program"] !=
               written["ours"][question]["program"]]
    assert changed  # else the base model would pass as well


def test_the_weights_are_plain_bfloat16(shipped):
    with safe_open(shipped[0] / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
        assert kinds == {"BF16"} and not [name for name in file.keys() if "lora" in name or "absmax" in name]
    assert "quantization_config" not in json.loads((shipped[0] / "config.json").read_text())


def test_the_card_the_modelfile_and_the_stop_string(shipped):
    out, _ = shipped
    card = (out / "README.md").read_text()
    assert "METHOD=rft" in card and "the adapter of iter0" in card and "rounded to 4 bits" in card
    assert "that of the base model" in card and "apache" not in card  # nobody knows the tiny model's licence
    assert " 25.0 (" in card and " 50.0 (" in card and "base_model" not in card
    assert (out / "Modelfile").read_text().splitlines()[:4] == [
        "FROM .", 'TEMPLATE """Question: {{ .Prompt }}', "```python", '"""']
    assert 'PARAMETER stop "```"' in (out / "Modelfile").read_text()
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["stop_strings"] == ["\n```"] and generation["max_new_tokens"] == 20


def test_the_embedded_models_licence_is_known():
    known = {"ENV": "logic", "METHOD": "envisions", "BITS": "16", "MODEL": ""}
    card = ship.model_card({"iterations": {}}, known, ship.HUB_NAME, "runs/a/iter3/adapter")
    assert "license: apache-2.0" in card and "as they were" in card and "not evaluated" in card
    assert f"base_model: {ship.HUB_NAME}" in card and "```logic" in card


def test_what_the_base_model_samples_with_is_not_shipped(shipped, tiny_model, tmp_path):
    """Its temperature would end in an error of transformers, its repetition penalty in other programs."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_model, base)
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.3, "eos_token_id": [0, 1]}
    (base / "generation_config.json").write_text(json.dumps(own))
    shutil.copytree(shipped[1], run)
    (run / "settings").write_text((run / "settings").read_text().replace(tiny_model, str(base)))
    ship.main(["--in", str(run), "--out", str(tmp_path / "out")])
    shipped_too = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert shipped_too["eos_token_id"] == [0, 1] and shipped_too["do_sample"] is False
    assert not {"temperature", "top_k", "top_p", "repetition_penalty"} & {*shipped_too}


@pytest.mark.parametrize("env", envs.ENVS)
def test_the_prompt_is_that_of_envs(env):
    before, behind = ship.prompt_around(env)
    assert f"{before}Who?{behind}" == envs.solve_prompt({"env": env, "question": "Who?"})


def test_what_cannot_be_shipped(shipped, tmp_path, monkeypatch):
    out, run = shipped
    for flags, said in ((["--in", str(run), "--out", str(out)], "is there already, and is not replaced"),
                        (["--in", str(tmp_path), "--out", "x"], "settings: No such file"),
                        (["--in", str(run), "--out", "x", "--iteration", "3"], "iter3/adapter: no adapter there")):
        with pytest.raises(SystemExit, match=said):
            ship.main(flags)
    (tmp_path / "settings").write_text("ENV=math\n")
    with pytest.raises(SystemExit, match="no adapter in it yet"):
        ship.main(["--in", str(tmp_path), "--out", "x"])
    assert not list(out.parent.glob(".ship*")) and not (ROOT / "x").exists()
