"""What is out of date in a run: said, redone by STALE=redo, and nothing said where only words or nothing changed."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import envs
import mutants
from nanoenvisions import stale

SCRIPT = """
. nanoenvisions/setup.sh
eval "$(sed -n '/^start() {/,/^}/p; /^stage() {/,/^}/p' run.sh)"; RANKS=1
"$PYTHON" -m nanoenvisions.stale "$OUT" "$STALE"
stage "$OUT/tasks.jsonl" envs.py make --num 2 --out "$OUT/tasks.jsonl"
stage "$OUT/rewarded.jsonl" reward.py --in "$OUT/explored.jsonl" --out "$OUT/rewarded.jsonl" --metrics "$OUT/metrics.jsonl"
stage "$OUT/sft.jsonl" select.py --in "$OUT/rewarded.jsonl" --pool-out "$OUT/pool.jsonl" --out "$OUT/sft.jsonl" \\
  --metrics "$OUT/metrics.jsonl"
"""


def explored(answer):
    return envs.dump({"id": "a", "env": "math", "question": "How many?", "answer": 7, "iteration": 0, "candidate": 0,
                      "source": "explore", "program": f"def solution():\n    return {answer}", "logprob": -1.0})


@pytest.fixture
def start(tmp_path):
    """start("redo"): the stages that need no model, in a copy of the product; what is said of its files."""
    clone, out = tmp_path / "clone", tmp_path / "out"
    mutants.copy_product(clone)
    out.mkdir()
    (out / "explored.jsonl").write_text(explored("3 + 4"))

    def start(what="say"):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", SCRIPT], cwd=clone, capture_output=True, text=True,
                              env={**os.environ, "PYTHON": sys.executable, "OUT": str(out), "STALE": what})
        assert done.returncode == 0, done.stderr
        return "".join(line for line in done.stdout.splitlines() if "out of date" in line)
    start.clone, start.out = clone, out
    assert start() == ""
    return start


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_code_that_has_changed_is_said_and_redone(start):
    rows = (start.out / "sft.jsonl").read_text()
    assert start() == ""
    edit(start.clone / "envs.py", '"""What the model should write after a prompt.', '"""Reworded. ')
    edit(start.clone / "envs.py", "# Plain text without a chat template", "# Plainest text")
    assert start() == ""
    edit(start.clone / "envs.py", 'f"Question: {question}', 'f"Task: {question}')
    said = start()
    assert "tasks.jsonl, rewarded.jsonl, sft.jsonl (envs.py or what it imports has changed; " in said
    assert "STALE=redo" in said and (start.out / "sft.jsonl").read_text() == rows
    assert start() == said  # not silenced by having been said
    assert ": made again" in start("redo")
    assert (start.out / "sft.jsonl").read_text() == rows.replace("Question:", "Task:") != rows
    assert start() == ""


def test_a_stage_that_outlives_run_sh_is_noted(start):
    for name in ("made", "tasks.jsonl"):
        (start.out / name).unlink()
    dies = SCRIPT.replace("RANKS=1", 'RANKS=1; start() { "$PYTHON" "$@"; kill -9 $$; }')
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", dies], cwd=start.clone, capture_output=True,
                          env={**os.environ, "PYTHON": sys.executable, "OUT": str(start.out), "STALE": "say"})
    assert done.returncode == -9 and (start.out / "tasks.jsonl").exists()
    edit(start.clone / "envs.py", 'f"Question: {question}', 'f"Task: {question}')
    assert ": tasks.jsonl (envs.py" in start()


def test_what_follows_a_replaced_file_is_out_of_date(start):
    (start.out / "explored.jsonl").write_text(explored("3 + 2 + 2"))
    said = start()
    assert ": rewarded.jsonl, sft.jsonl (explored.jsonl has changed)" in said
    tasks = (start.out / "tasks.jsonl").stat().st_mtime_ns
    start("redo")
    assert "3 + 2 + 2" in (start.out / "sft.jsonl").read_text()
    assert (start.out / "tasks.jsonl").stat().st_mtime_ns == tasks and start() == ""


def test_data_of_the_prompts_is_code_too(start):
    edit(start.clone / "data/math_examples.json", '"about"', '"About"')
    assert "sft.jsonl" in start()


def test_an_adapter_and_what_follows(tmp_path):
    for name in ("sft.jsonl", "eval.jsonl", "old.jsonl"):
        (tmp_path / name).write_text(name)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    known = {name: stale.content_hash(tmp_path / name) for name in ("sft.jsonl", "adapter")}
    (tmp_path / "made").write_text(
        "eval.jsonl\texplore.py w\n"  # it was deleted by hand, and made again
        f"adapter\ttrain.py x\tsft.jsonl {known['sft.jsonl']}\neval.jsonl\texplore.py y\tadapter {known['adapter']}\n"
        "gone.jsonl\texplore.py z\n")
    code = {"train.py": "x", "explore.py": "y"}
    assert stale.out_of_date(tmp_path, code) == {}  # what is gone will be made anyway, what is unknown is not judged
    assert list(stale.out_of_date(tmp_path, {**code, "train.py": "new"})) == ["adapter", "eval.jsonl"]
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"other weights")
    assert stale.out_of_date(tmp_path, code) == {"eval.jsonl": "adapter has changed"}
    (tmp_path / "sft.jsonl").unlink()
    gone = stale.out_of_date(tmp_path, code)
    assert gone["adapter"] == "sft.jsonl has changed"
    stale.remove(tmp_path, gone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "old.jsonl"]
    assert (tmp_path / "made").read_text() == "gone.jsonl\texplore.py z\n"


@pytest.mark.parametrize("command, lines", [
    ("explored explore.py --in o/tasks --out o/explored --adapter o/adapter --metrics o/metrics "
     "--also-eval o/test.jsonl o/eval.explored --seed 0", {"explored": "tasks adapter test.jsonl",
                                                           "eval.explored": "tasks adapter test.jsonl"}),
    ("sft select.py --in o/rewarded --pool o/pool --pool-out o/pool2 --out o/sft --pairs o/pairs", {"sft": "rewarded pool"}),
    ("adapter train.py --in o/sft --out o/adapter --pairs o/pairs --adapter o/last", {"adapter": "sft pairs last"}),
    ("tasks2 envs.py schedule --in o/tasks --out o/tasks2 --pool o/pool --history o/a o/b", {"tasks2": "tasks pool a b"})])
def test_what_a_stage_reads_is_noted(tmp_path, command, lines):
    (tmp_path / "o").mkdir()
    for name in "explored tasks metrics test.jsonl eval.explored rewarded pool pool2 sft pairs a b tasks2".split():
        (tmp_path / "o" / name).write_text(name)
    for name in ("adapter", "last"):
        (tmp_path / "o" / name).mkdir()
        (tmp_path / "o" / name / "adapter_model.safetensors").write_text(name)
    (tmp_path / "o/code").write_text("".join(f"{one} c0de-{one}\n" for one in stale.STAGES))
    output, *words = command.split()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", f'. {ROOT}/nanoenvisions/setup.sh; OUT=o; made "$@"', "x",
                           f"o/{output}", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    made = stale.read_made(tmp_path / "o")
    assert {name: " ".join(inputs) for name, (_, _, inputs) in made.items()} == lines
    for stage, code, inputs in made.values():
        assert stage == words[0] and code == f"c0de-{stage}"
        assert all(digest == stale.content_hash(tmp_path / "o" / name) for name, digest in inputs.items())


def test_what_every_start_asks_is_asked_without_torch():
    code = ("import sys, nanoenvisions.begin, nanoenvisions.stale, nanoenvisions.watch\n"
            "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
