"""Mistakes that a person can make: each gets one line with a remedy, before a model is loaded, and leaves nothing behind."""
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, load_stage
from safetensors.numpy import save_file

import envs
from nanoenvisions import begin, flags, folders, model, records, sampling, scoring

TASK = {"id": "a", "env": "math", "question": "How many?", "answer": 1}
CANDIDATE = {**TASK, "iteration": 0, "candidate": 0, "source": "explore", "program": "answer = 1", "logprob": -1.0,
             "tokens": 3}
REWARDED = {**CANDIDATE, "reward": 1, "outcome": "correct", "result": "1", "self_reward": -1.0}
LAYER = "model.layers.0.mlp.up_proj"


def folder_of(place, config, weights, adapter=False):
    """A model's folder, or an adapter's, of these sizes; nobody loads it."""
    place.mkdir()
    kind = "adapter_" if adapter else ""
    (place / f"{kind}config.json").write_text(json.dumps(config))
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()},
              place / f"{kind or ''}model.safetensors")
    return place


def adapter_of(place, rank=2, config_rank=2, wide=8, layer=LAYER):
    return folder_of(place, {"r": config_rank, "base_model_name_or_path": "its/base"},
                     {f"base_model.model.{layer}.lora_A.weight": (rank, wide),
                      f"base_model.model.{layer}.lora_B.weight": (6, rank)}, adapter=True)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Files to be wrong with."""
    at = tmp_path_factory.mktemp("things")
    for name, record in (("tasks", TASK), ("candidates", CANDIDATE), ("rewarded", REWARDED),
                         ("rows", {"prompt": "Question", "completion": "answer"}),
                         ("empty_completion", {"prompt": "Question", "completion": " "}),
                         ("level", {**TASK, "level": "hard"}), ("reward2", {**REWARDED, "reward": 2}),
                         ("rewrites", {**REWARDED, "source": "refine", "reference": "x"})):
        (at / f"{name}.jsonl").write_text(envs.dump(record))
    (at / "twice.jsonl").write_text(2 * envs.dump(REWARDED))
    (at / "nan.jsonl").write_text(json.dumps({**REWARDED, "self_reward": float("nan")}) + "\n")
    (at / "deep.json").write_text("[" * 200_000)
    (at / "packed.jsonl").write_bytes(gzip.compress(envs.dump(TASK).encode()))
    (at / "wide.jsonl").write_text(envs.dump(TASK), encoding="utf-16")
    (at / "corrupt.jsonl").write_text('{"stage": "eval"\n')
    (at / "empty").write_text("")
    base = folder_of(at / "model", {"model_type": "llama"}, {f"{LAYER}.weight": (6, 8)})
    for name, change in (("cut_off", lambda data: data[:-9]), ("emptied", lambda data: b""),
                         ("headless", lambda data: data[:12])):
        folder_of(at / name, {"model_type": "llama"}, {f"{LAYER}.weight": (6, 8)})
        file = at / name / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    (at / "no_config").mkdir()
    (at / "no_weights").mkdir()
    (at / "no_weights/config.json").write_text((base / "config.json").read_text())
    folder_of(at / "half_config", {}, {"x": (1,)})
    (at / "half_config/config.json").write_text('{"model_type": "lla')
    adapter_of(at / "adapter")
    adapter_of(at / "other_rank", rank=4)
    adapter_of(at / "other_width", wide=9)
    adapter_of(at / "deeper", layer=LAYER.replace("0", "7"))
    cut = adapter_of(at / "cut_adapter") / "adapter_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    (adapter_of(at / "half_adapter") / "adapter_model.safetensors").unlink()
    return at


SAMPLE, TRAIN = "--in tasks.jsonl --out new", "--in rows.jsonl --out new"
MISTAKES = [  # (command, what the one line says)
    (f"explore {SAMPLE} --max-new-tokens 0", "--max-new-tokens: '0' is not a whole number from 1 on"),
    (f"explore {SAMPLE} --slots 0", "--slots: '0' is not"), (f"explore {SAMPLE} --batch-size 0", "--batch-size: '0' is not"),
    (f"explore {SAMPLE} --num-samples 0", "--num-samples: '0' is not"), (f"explore {SAMPLE} --limit 0", "--limit: '0' is not"),
    (f"explore {SAMPLE} --top-p 0", "--top-p: '0' is not a number above 0, to 1"),
    (f"explore {SAMPLE} --temperature -1", "--temperature: '-1' is not"),
    (f"explore {SAMPLE} --temperature nan", "--temperature: 'nan' is not"),
    (f"explore {SAMPLE} --seed -1", "--seed: '-1' is not"), (f"explore {SAMPLE} --iteration x", "--iteration: 'x' is not"),
    (f"explore {SAMPLE} --max-new-token 9", "did you mean --max-new-tokens?"),
    (f"explore {SAMPLE} --metrics corrupt.jsonl", "corrupt.jsonl:1: not JSON"),
    (f"explore {SAMPLE} --metrics model", "--metrics model: is a folder"),
    (f"explore {SAMPLE} --model cut_off", "model.safetensors is not whole"),
    (f"explore {SAMPLE} --model emptied", "model.safetensors is not whole"),
    (f"explore {SAMPLE} --model headless", "it ends within its table"),
    (f"explore {SAMPLE} --model no_config", "--model no_config: no config.json in it"),
    (f"explore {SAMPLE} --model no_weights", "--model no_weights: no weights in it"),
    (f"explore {SAMPLE} --model half_config", "config.json cannot be read"),
    (f"explore {SAMPLE} --model ./nowhere", "--model ./nowhere: there is no such folder"),
    (f"explore {SAMPLE} --model no/such-model", "--model no/such-model: not on this disk"),
    (f"explore {SAMPLE} --model model --adapter other_rank", "its weights have rank 4, its adapter_config.json says 2"),
    (f"explore {SAMPLE} --model model --adapter other_width", "it is of another model"),
    (f"explore {SAMPLE} --model model --adapter deeper", "(give --model its/base)"),
    (f"explore {SAMPLE} --model model --adapter cut_adapter", "adapter_model.safetensors is not whole"),
    (f"explore {SAMPLE} --model model --adapter half_adapter", "adapter_model.safetensors is missing"),
    (f"explore {SAMPLE} --model model --adapter nowhere", "--adapter nowhere: no adapter there"),
    ("explore --in level.jsonl --out new", '"level" is \'hard\' (it must be a finite number)'),
    ("explore --in packed.jsonl --out new", "this file is compressed: unpack it with gunzip"),
    ("explore --in wide.jsonl --out new", "this file is UTF-16: save it as UTF-8"),
    ("explore --in deep.json --out new", "deep.json:1: not JSON"),
    ("explore --in empty --out new", "empty: no records"),
    ("refine --in candidates.jsonl --out new --slots 0", "--slots: '0' is not"),
    ("refine --in candidates.jsonl --out new --model model --adapter cut_adapter", "is not whole"),
    ("refine --in candidates.jsonl --out model --model model", "model: not a file"),
    ("reward --in candidates.jsonl --out new --timeout nan", "--timeout is nan, it must be more than 0"),
    ("reward --in candidates.jsonl --out new --limit 0", "--limit is 0, it must be at least 1"),
    ("reward --in candidates.jsonl --out new --metrics corrupt.jsonl", "corrupt.jsonl:1: not JSON"),
    ("reward --in candidates.jsonl --out new --judge --model model --adapter other_rank", "rank 4"),
    ("select --in rewarded.jsonl --out new --pool-out new2 --n1 0", "--n1 is 0, it must be at least 1"),
    ("select --in rewarded.jsonl --out new --pool-out new2 --n1 -1", "--n1 is -1"),
    ("select --in twice.jsonl --out new --pool-out new2", 'a second "explore" program of task "a"'),
    ("select --in reward2.jsonl --out new --pool-out new2", '"reward" is 2 (it must be 0 or 1)'),
    ("select --in nan.jsonl --out new --pool-out new2", '"self_reward" is nan (it must be a finite number)'),
    ("select --in rewrites.jsonl --out new --pool-out new2 --refined drop", "nothing but rewrites"),
    ("train --in empty_completion.jsonl --out new", '"completion" is empty'),
    (f"train {TRAIN} --rank 0", "--rank is 0"), (f"train {TRAIN} --epochs 0", "--epochs is 0"),
    (f"train {TRAIN} --rank x", "--rank: invalid int value"), (f"train {TRAIN} --batch-size 0", "--batch-size is 0"),
    (f"train {TRAIN} --micro-tokens 0", "--micro-tokens is 0"), (f"train {TRAIN} --learning-rate -1", "--learning-rate is -1"),
    (f"train {TRAIN} --learning-rate nan", "--learning-rate is nan"), (f"train {TRAIN} --metrics model", "is a folder"),
    ("train --in rows.jsonl --out rows.jsonl --model model", "rows.jsonl is in the way and will not be removed: it is a file"),
    (f"train {TRAIN} --model cut_off", "model.safetensors is not whole"),
    (f"train {TRAIN} --model model --adapter other_width", "it is of another model"),
    ("envs make --num 0 --out new", "--num: '0' is not"),
    ("envs make --templates deep.json --out new", "deep.json: not JSON"),
    ("envs import packed.jsonl --out new", "this file is compressed"),
    ("envs import deep.json --out new", "deep.json: "),
]


@pytest.fixture(scope="module")
def stages():
    return {"envs": envs, **{name: load_stage(name) for name in ("explore", "refine", "reward", "select", "train")}}


@pytest.mark.parametrize("command, said", MISTAKES, ids=[command for command, _ in MISTAKES])
def test_one_line_before_anything_is_loaded(things, stages, monkeypatch, capsys, command, said):
    name, *flags_ = command.split()
    monkeypatch.chdir(things)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags_])
    monkeypatch.setattr(subprocess, "Popen", too_late)  # a sandbox, a browser
    for module in (model, sampling, scoring, stages["train"]):
        monkeypatch.setattr(module, "load_model", too_late)
    before = sorted(things.rglob("*"))
    with pytest.raises(SystemExit) as end:
        stages[name].main(flags_)
    lines = (end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err).splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{name}.py") and said in lines[0], lines
    assert lines[0].endswith(")") or "it must be" in lines[0] or "at least" in lines[0]  # a remedy
    assert end.value.code != 0
    left = [path for path in things.rglob("*") if path not in before]
    assert not [path for path in left if path.suffix not in (".part", ".settings")]


def too_late(*_, **__):
    raise AssertionError("long work has begun")


def test_whole_folders_that_fit_are_taken(things, tiny_model):
    folders.check_folders(str(things / "model"), str(things / "adapter"))
    folders.check_folders(tiny_model)


def test_packed_weights_are_not_measured(things, tmp_path):
    """Those of a checkpoint in 4 bits are a column of bytes, whatever the layer's shape."""
    base = folder_of(tmp_path / "packed", {"model_type": "llama"}, {"model.norm.weight": (8,)})
    save_file({f"{LAYER}.weight": np.zeros((24, 1), np.uint8), "model.norm.weight": np.zeros(8, np.float32)},
              base / "model.safetensors")
    folders.check_folders(str(base), str(things / "adapter"))


def test_a_model_in_pieces_needs_all_of_them(things, tmp_path):
    first, second = f"{LAYER}.weight", "lm_head.weight"
    folder_of(tmp_path / "pieces", {}, {first: (6, 8)})
    (tmp_path / "pieces/model.safetensors").rename(tmp_path / "pieces/model-1.safetensors")
    (tmp_path / "pieces" / folders.SHARDS).write_text(
        json.dumps({"weight_map": {first: "model-1.safetensors", second: "model-2.safetensors"}}))
    with pytest.raises(SystemExit, match="model-2.safetensors is missing"):
        folders.check_folders(tmp_path / "pieces")
    save_file({second: np.zeros((3, 8), np.float32)}, tmp_path / "pieces/model-2.safetensors")
    folders.check_folders(tmp_path / "pieces", things / "adapter")
    with pytest.raises(SystemExit, match="of another model"):
        folders.check_folders(tmp_path / "pieces", things / "other_width")


def test_a_model_is_looked_at_without_torch():
    code = ("import sys; from nanoenvisions import folders; folders.check_folders(None); "
            "assert not {'torch', 'transformers', 'safetensors', 'huggingface_hub'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ------------------------------------------------------------------------------ The room for it --

def test_a_full_disk_is_found_before_training(tmp_path):
    """A limit on the size of files stands for the disk: both end a write that is too long."""
    import torch
    from nanoenvisions import adapters
    net = torch.nn.Linear(1000, 100)  # 400 kB
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, old[1]))
    try:
        with pytest.raises(SystemExit, match="0.5 MB are needed .free some space"):
            adapters.reserve(net, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())
    adapters.reserve(net, tmp_path / "out")
    assert (tmp_path / "out.part/adapter_model.safetensors").stat().st_size > 400_000
    adapters.claim(tmp_path / "out")  # what a kill leaves is no obstacle


def test_a_broken_begun_file_is_named(tmp_path):
    out = tmp_path / "a.jsonl"
    with pytest.raises(RuntimeError), records.Output(out, {}) as output:
        output.write({"id": 1})
        raise RuntimeError("killed")
    Path(f"{out}.part.settings").write_text("{")
    with pytest.raises(SystemExit, match=r"a.jsonl.part is broken \(delete it"):
        records.Output(out, {}).__enter__()


# ---------------------------------------------------------------------------------- The words --

def test_run_sh_is_spoken_to_in_its_own_words(monkeypatch):
    said = "no task is solved (more --num-samples, or --slots, or another --out)"
    monkeypatch.setattr(sys, "argv", ["explore.py"])
    assert records.in_settings(said) == said  # a stage that was started by hand
    monkeypatch.setenv("RUN_SH_SETTINGS", "NUM_SAMPLES OUT EXPLORE_FLAGS")
    assert records.in_settings(said) == ("no task is solved (more NUM_SAMPLES, or --slots in EXPLORE_FLAGS, or another "
                                         "OUT); changed settings need another OUT")
    assert records.in_settings("OUT is no folder (another --out)") == "OUT is no folder (another OUT)"
    monkeypatch.setattr(sys, "argv", ["envs.py"])
    monkeypatch.setenv("RUN_SH_SETTINGS", "NUM_TRAIN MAKE_FLAGS")
    assert records.in_settings("raise --num, or --rules") == (
        "raise NUM_TRAIN, or --rules in MAKE_FLAGS; changed settings need another OUT")


SETTINGS = ["ENV", "OUT", "DATA", "ITERS", "NUM_SAMPLES", "N1", "PYTHON", "METHOD", "METHODS"]


@pytest.mark.parametrize("name, meant", [
    ("DATE", "DATA"), ("ITER", "ITERS"), ("ITRES", "ITERS"), ("NUM_SAMPELS", "NUM_SAMPLES"), ("METOD", "METHOD")])
def test_a_misspelt_setting_is_named(name, meant):
    assert f"{name}=3 is no setting: did you mean {meant}?" in begin.misspelt({name: "3"}, SETTINGS)


@pytest.mark.parametrize("name", ["HOME", "PATH", "PYTHONPATH", "EDITOR", "TERM", "LANG", "PS1", "N3", "ENVS", "iter",
                                  "METHODS", "OUTPUT", "SSH_TTY", "data"])
def test_what_others_set_is_none_of_our_business(name):
    assert begin.misspelt({name: "3"}, SETTINGS) is None


@pytest.mark.parametrize("stage", ["explore", "refine", "train"])
def test_the_wrong_python_is_told_so(stage):
    done = subprocess.run([sys.executable, "-S", f"{stage}.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == f"{stage}.py: this Python has no torch (source .venv/bin/activate; bash run.sh makes it)\n"
    assert done.returncode == 1


# ------------------------------------------------------------------------------- run.sh's own --

def run_sh(out, folder=ROOT, **settings):
    return subprocess.run(["bash", "run.sh"], cwd=folder, capture_output=True, text=True, timeout=60, env={
        **os.environ, "SETUP": "0", "PYTHON": sys.executable, "OUT": str(out), **settings})


@pytest.mark.parametrize("settings, said", [
    ({"DATE": "a.csv"}, "DATE=a.csv is no setting: did you mean DATA?"),
    ({"MODEL": "no/such-model"}, "MODEL=no/such-model: not on this disk"),
    ({"MODEL": "cut_off"}, "cut_off/model.safetensors is not whole"),
    ({"PYTHON": "bare"}, "bare has no torch, transformers, peft, bitsandbytes (pip install"),
    ({"PYTHON": "old"}, "old is Python 3.9.1, but 3.11 or newer is needed")])
def test_run_sh_says_it_before_it_writes(things, tmp_path, settings, said):
    for name, text in (("bare", f'exec {sys.executable} -S "$@"'),
                       ("old", f"""case "$*" in -V) echo Python 3.9.1 ;; *) exec {sys.executable} -c '
import sys; sys.version_info = (3, 9, 1); sys.argv[1:] = sys.argv[2:]; exec(sys.argv[1])' "$@" ;; esac""")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    where = {"MODEL": things, "PYTHON": tmp_path}
    settings = {name: str(where[name] / value) if name in where and "/" not in value else value
                for name, value in settings.items()}
    done = run_sh(tmp_path / "out", **settings)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr


def test_a_typo_binds_nobody(tmp_path):
    """Settings that nothing was made with are replaced; those of results, and of others, are not."""
    script = ('. nanoenvisions/setup.sh; names=(PRESET DATA); PRESET=; MODEL=; LOG=none; STALE=say; new_tasks=0; PYTHON=true\n'
              'for OUT in "$1"; do DATA="$2"; one_run; done')

    def begin_with(data):
        return subprocess.run(["bash", "-euo", "pipefail", "-c", script, "x", str(tmp_path / "out"), data], cwd=ROOT,
                              capture_output=True, text=True)
    for data in ("tipo.csv", "typo.csv"):
        assert begin_with(data).returncode == 0
        assert (tmp_path / "out/settings").read_text() == f"PRESET=\nDATA={data}\n"
    (tmp_path / "out/tasks.jsonl").write_text("{}\n")
    assert "now DATA=tipo.csv;was DATA=typo.csv" in begin_with("tipo.csv").stderr
    assert begin_with("typo.csv").returncode == 0
    (tmp_path / "out/tasks.jsonl").unlink()
    (tmp_path / "out/settings").write_text("colour=blue\n")
    assert "was colour=blue" in begin_with("tipo.csv").stderr
    assert (tmp_path / "out/settings").read_text() == "colour=blue\n"


# ------------------------------------------------------------------------------------- Ctrl-C --

def interrupted(begun, *command, **settings):
    """What a command says that gets Ctrl-C once begun(process) is true, and its exit code."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    until = time.time() + 60
    while not begun(process) and process.poll() is None and time.time() < until:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    return process.returncode, [line for line in said.splitlines() if not line.startswith("sandbox: ")]


def test_ctrl_c_is_one_line_and_nothing_is_lost(tmp_path):
    endless = {**CANDIDATE, "program": "while True: pass"}
    quick = [{**CANDIDATE, "id": f"quick{number}"} for number in range(64)]
    (tmp_path / "in.jsonl").write_text("".join(map(envs.dump, [*quick, endless])))
    part = tmp_path / "out.jsonl.part"
    command = ("reward.py", "--in", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--timeout", "9")
    code, lines = interrupted(lambda _: part.exists() and part.stat().st_size, sys.executable, *command)
    assert code == -signal.SIGINT  # a shell calls it 130
    assert lines == ["reward.py: stopped; run the same command again to go on"]
    assert len(part.read_text().splitlines()) == 64


def test_ctrl_c_while_torch_is_imported(tmp_path):
    (tmp_path / "t.jsonl").write_text(envs.dump(TASK))
    command = ("explore.py", "--in", tmp_path / "t.jsonl", "--out", tmp_path / "out.jsonl")

    def begun(process):
        return "/libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
    code, lines = interrupted(begun, sys.executable, *command)
    assert code == -signal.SIGINT and lines == ["explore.py: stopped; run the same command again to go on"]


def test_ctrl_c_ends_run_sh_with_one_line(tmp_path):
    code, lines = interrupted(lambda _: (tmp_path / "out/iter0/tasks.jsonl").exists(), "bash", "run.sh", SETUP="0",
                              PYTHON=sys.executable, OUT=str(tmp_path / "out"), NUM_TRAIN="4", NUM_TEST="4")
    assert (code, len(lines)) == (130, 1), lines
    assert "run the same command again to go on" in lines[0]


def test_other_faults_keep_their_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import nanoenvisions\n1 / 0"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr
