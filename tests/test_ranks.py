"""nanoenvisions/ranks.py: several processes, started by torchrun, do the work of one, and it comes out the same."""
import json
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from conftest import ROOT, run_stage

import envs

TASKS = [{"id": f"t{number}", "env": "math", "answer": 1, "question":
          f"{'Ann had some nuts. ' * (number % 3)}How many are {number}?"} for number in range(7)]
ROWS = [{"prompt": f"Question: How many are {number}?\n```python\n", "kind": "solve", "id": str(number),
         "completion": f"def solution():\n    return {number}\n```"} for number in range(1, 10)]


def write(path, records):
    path.write_text("".join(map(envs.dump, records)))
    return path


def torchrun(ranks, *words):
    return [sys.executable, "-W", "ignore", "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(ranks), *map(str, words)]


def run(ranks, *words):
    done = subprocess.run(torchrun(ranks, *words), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def explore(tmp_path, tiny_model, name):
    tasks = write(tmp_path / "tasks.jsonl", TASKS)
    return ["explore.py", "--in", tasks, "--out", tmp_path / name, "--model", tiny_model, "--bits", 32, "--num-samples",
            3, "--batch-size", 6, "--metrics", tmp_path / "metrics.jsonl"]


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny_model):
    """What a single process samples."""
    folder = tmp_path_factory.mktemp("one")
    assert run_stage("explore", *explore(folder, tiny_model, "one.jsonl")[1:]).returncode == 0
    return (folder / "one.jsonl").read_bytes()


def test_two_ranks_sample_what_one_samples(tmp_path, tiny_model, one):
    """Byte for byte: four batches of two tasks; and one summary, one row of metrics."""
    done = run(2, *explore(tmp_path, tiny_model, "two.jsonl"))
    assert (tmp_path / "two.jsonl").read_bytes() == one
    assert done.stdout.count("7 tasks, 21 programs") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tasks.jsonl", "two.jsonl"]


def test_killed_ranks_go_on(tmp_path, tiny_model, one):
    """Killed when a batch is there; the batches that are there are not made again."""
    words = explore(tmp_path, tiny_model, "two.jsonl")
    for _ in range(9):  # the tiny model may be done before it can be killed: then once more
        (tmp_path / "two.jsonl").unlink(missing_ok=True)
        process = subprocess.Popen(torchrun(2, *words), cwd=ROOT, stderr=subprocess.DEVNULL)
        pieces, end = [], time.time() + 200
        while not pieces and process.poll() is None and time.time() < end:
            time.sleep(0.01)
            pieces = list(tmp_path.glob("two.jsonl.ranks-*/*.jsonl"))
        subprocess.run(["pkill", "-KILL", "-f", tmp_path / "two.jsonl"])  # its ranks have sessions of their own
        process.wait()
        if pieces and pieces[0].exists() and not (tmp_path / "two.jsonl").exists():
            break
    else:
        pytest.fail("never killed in time")
    marked = json.loads(pieces[0].read_text().splitlines()[0]) | {"mark": "kept"}
    pieces[0].write_text(envs.dump(marked) + "".join(pieces[0].read_text().splitlines(True)[1:]))
    run(2, *words)
    records = envs.read_jsonl(tmp_path / "two.jsonl")
    assert [record.pop("mark") for record in records if "mark" in record] == ["kept"]
    assert records == list(map(json.loads, one.splitlines()))


def test_two_ranks_train_what_one_trains(tmp_path, tiny_model):
    """The sum of the gradients is that of one process, but for rounding; up to three bins a step. Rows, then pairs."""
    rows = write(tmp_path / "sft.jsonl", ROWS)
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": row["prompt"], "chosen": row["completion"],
                                              "rejected": "def solution():\n    return 0\n```"} for row in ROWS[:3]])
    words = ["--in", rows, "--model", tiny_model, "--bits", 32, "--batch-size", 3, "--width", 60, "--epochs", 1,
             "--optimizer", "adamw", "--metrics", tmp_path / "metrics.jsonl", "--pairs", pairs]
    assert run_stage("train", *words, "--out", tmp_path / "one").returncode == 0
    before = envs.read_jsonl(tmp_path / "metrics.jsonl")[0]
    done = run(2, "train.py", *words, "--out", tmp_path / "two")
    after = envs.read_jsonl(tmp_path / "metrics.jsonl")[0]
    assert done.stdout.count("train: 9 rows") == 1
    assert (after["rows"], after["steps"]) == (before["rows"], before["steps"])
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-3)
    one, two = (safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    moved = max(weight.abs().max().item() for name, weight in one.items() if "lora_B" in name)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=0.02 * moved), name


def test_a_fault_is_said_and_ends_all_ranks(tmp_path, tiny_model):
    words = explore(tmp_path, tiny_model, "out.jsonl")
    words[2] = tmp_path / "missing.jsonl"
    done = subprocess.run(torchrun(2, *words), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode and "missing.jsonl: No such file" in done.stderr
