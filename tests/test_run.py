"""run.sh: the whole loop on a tiny model, killed and continued; its settings, before and after.

The undisturbed run has a warm Python (tests/warm.py); the one that is killed starts every stage as
people do, and must end with the same files.
"""
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import xml.dom.minidom

import pytest
from conftest import ROOT, TEMPLATES

import envs
import mutants
from nanoenvisions.web import Web

SETTINGS = {"SETUP": "0", "ITERS": "2", "NUM_TRAIN": "12", "NUM_TEST": "6", "NUM_SAMPLES": "4",
            "MAX_NEW_TOKENS": "40", "EPOCHS": "1", "MIN_STEPS": "4", "LEARNING_RATE": "5e-4",
            "TEMPERATURE": "1.0", "REFINE_FROM": "0", "OMP_NUM_THREADS": "1",
            "SELECT_FLAGS": "--reuse --n3 1 --stated"}  # the tiny model states numbers, no more


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model):
    """start(out, ITERS="1"): run.sh in a process group of its own; the Python of the tests."""
    templates = tmp_path_factory.mktemp("data") / "templates.json"
    templates.write_text(json.dumps(TEMPLATES))

    def start(out, *words, folder=ROOT, **settings):
        return subprocess.Popen(
            ["bash", str(ROOT / "run.sh"), *words], cwd=folder, text=True, start_new_session=True,
            # Ctrl-C works, though these tests may have been started where it is ignored (`... &` in a script)
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
                **os.environ, **SETTINGS, "PYTHON": sys.executable, "MODEL": tiny_model,
                "OUT": str(out), "MAKE_FLAGS": f"--templates {templates}", **settings})
    return start


def finish(process) -> str:
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    return text


def refused(process) -> str:
    """The one line that run.sh ends with if it does not begin."""
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in text
    assert len(text.strip().splitlines()) == 1, text
    return text


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, start, warm_python):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, finish(start(out, PYTHON=warm_python))


FILES_0 = [*(f"iter0/{name}.jsonl" for name in (
    "tasks", "explored", "refined", "rewarded", "pool", "sft", "eval")), "iter1/eval.jsonl",
    "tasks.jsonl", "test.jsonl", "iter0/adapter/adapter_model.safetensors"]
FILES_1 = [name.replace("iter1", "iter2").replace("iter0", "iter1")
           for name in FILES_0 if name.startswith("iter")]


# ------------------------------------------------------------------------------------ The loop --

def test_the_loop_writes_what_the_contract_says(whole_run):
    out, text = whole_run
    for name in [*FILES_0, *FILES_1]:
        assert (out / name).exists(), name
    metrics = envs.read_jsonl(out / "metrics.jsonl")
    stages = {(row["stage"], row["iteration"]) for row in metrics}
    names = ("explore", "refine", "reward", "select", "train")
    assert {("eval", t) for t in (0, 1, 2)} | {(name, t) for name in names for t in (0, 1)} < stages
    assert all(row["seconds"] >= 0 for row in metrics)
    evaluations = [row for row in metrics if row["stage"] == "eval"]
    assert all(row["num"] == 6 and 0 <= row["accuracy"] <= 1 for row in evaluations)
    assert "test %" in text and "explore:" in text and "train:" in text
    assert "mean log-probability" not in text and "sandbox:" not in text  # without -v
    xml.dom.minidom.parse(str(out / "curve.svg"))


def test_train_and_held_out_share_no_question(whole_run):
    out, _ = whole_run
    train, test = ({task["question"] for task in envs.read_jsonl(out / name)}
                   for name in ("tasks.jsonl", "test.jsonl"))
    assert len(train) == 12 and len(test) == 6 and not train & test


def test_killed_anywhere_it_ends_with_the_same_files(whole_run, tmp_path, start):
    """SIGKILL to all its processes in every stage; the last start ends like the undisturbed run."""
    whole, _ = whole_run
    out = tmp_path / "killed"
    begun = [f"iter0/{name}.part.settings" for name in (
        "eval.jsonl.explored", "explored.jsonl", "refined.jsonl", "rewarded.jsonl")]
    for wait_for in [*begun, "iter0/sft.jsonl"]:
        process = start(out, ITERS="1")
        deadline = time.time() + 300
        while not (out / wait_for).exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, wait_for
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (out / "iter0/adapter").exists()
    finish(start(out, ITERS="1"))
    for name in FILES_0:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(out.rglob("*.part*")) and not list(out.rglob("*.tmp*"))


def test_a_finished_run_is_done_at_once(whole_run, start, warm_python):
    out, text = whole_run
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    again = finish(start(out, PYTHON=warm_python))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    table, pictures = text.partition("iter ")[2].split("report: ", 1)
    assert "report.html" in pictures and (out / "report.html").exists()
    assert again.partition("iter ")[2] == table and "explore:" not in again
    (out / "report.html").unlink()  # what is missing is drawn again
    assert again + "report: " + pictures == finish(start(out, PYTHON=warm_python))


def test_with_v_it_says_more(tmp_path, start, warm_python):
    text = finish(start(tmp_path / "out", "-v", PYTHON=warm_python, ITERS="0"))
    assert "mean log-probability" in text and "sandbox: own process" in text
    assert f"-> {tmp_path}/out/iter0/eval.jsonl\n" in text


def test_two_runs_in_one_folder_wait_for_one_another(whole_run, start, warm_python):
    out, _ = whole_run
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(out, PYTHON=warm_python)
        assert "waiting for another run" in process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    assert "test %" in finish(process)


def test_from_elsewhere_paths_are_meant_so(tmp_path, start, tiny_model, warm_python):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tiny_model)
    finish(start("here/out", folder=tmp_path, MODEL="models/mine", ITERS="0", PYTHON=warm_python))
    assert (tmp_path / "here/out/iter0/eval.jsonl").exists()  # no iteration: the base model alone
    assert f"MODEL={tmp_path}/models/mine" in (tmp_path / "here/out/settings").read_text()


# ------------------------------------------------------------------------------------ Settings --

@pytest.mark.parametrize("name, value", [("SEED", "5"), ("NUM_SAMPLES", "3"), ("METHOD", "rft"),
                                         ("TRAIN_FLAGS", "--rank 4"), ("ENOUGH", "0.5")])
def test_changed_settings_are_refused_and_named(whole_run, start, warm_python, name, value):
    out, _ = whole_run
    text = refused(start(out, PYTHON=warm_python, **{name: value}))
    assert f"now {name}={value}" in text and f"was {name}=" in text
    other = {"SEED": "TEMPERATURE"}.get(name, "SEED")
    assert f"{other}=" not in text.replace(f"{name}=", "")


@pytest.mark.parametrize("settings, message", [
    ({"METHOD": "magic"}, "METHOD=magic is unknown"), ({"ENV": "chess"}, "ENV=chess is unknown ("),
    ({"ENV": "../x"}, "ENV=../x is not a name"), ({"MODEL": "/no/model"}, "MODEL=/no/model: "),
    ({"SETUP": "1", "PYTHON": "/no/python"}, "no /no/python here"),
    ({"SETUP": "2"}, "SETUP=2 is not one of 0, 1"),
    ({"BITS": "8"}, "BITS=8 is not one of 4, 16, 32"),
    ({"ITERS": "abc"}, "ITERS=abc is not a whole number from 0 on"),
    ({"ITERS": "-1"}, "ITERS=-1 is not a whole number"),
    ({"ITERS": "08"}, "ITERS=08 is not a whole number"),
    ({"NUM_TEST": "0"}, "NUM_TEST=0 is not a whole number from 1 on"),
    ({"TEMPERATURE": "-1"}, "TEMPERATURE=-1 is not a number from 0 to 100"),
    ({"TEMPERATURE": "nan"}, "TEMPERATURE=nan is not a number"),
    ({"TEMPERATURE_0": "101"}, "TEMPERATURE_0=101 is not a number from 0 to 100"),
    ({"PRESET": "web"}, "PRESET=web is unknown (gsm8k-0.5b gsm8k-1.5b gsm8k-7b)"),
    ({"PRESET": "gsm8k-7b", "QUICK": "1"}, "PRESET=gsm8k-7b and QUICK=1: choose one of them"),
    ({"DATA": "/no/a.csv,README.md"}, "DATA or TEST names /no/a.csv: there is no such file"),
    ({"EXAMPLES": "steps"}, "EXAMPLES and HOLD_OUT are for DATA only"),
    ({"HOLD_OUT": "0.4"}, "EXAMPLES and HOLD_OUT are for DATA only"),
    ({"TEACHER_MODEL": "wise"}, "TEACHER_MODEL needs TEACHER_URL"),
    ({"METHOD": "star", "LOSS": "dpo"}, "METHOD=star samples one program a task: there are no pairs"),
    ({"METHOD": "sft-dpo", "STEPS": "1"}, "STEPS=1 has no step for pairs"),
    ({"FEW_SHOT": "2"}, "FEW_SHOT=2 is not a number from 0 to 1"),
    ({"AGAIN": "1.1"}, "AGAIN=1.1 is not a number from 0 to 1"),
    ({"LEARNING_RATE": "0"}, "LEARNING_RATE=0 is not a number above 0"),
    ({"BUDGET": "double"}, "BUDGET=double is not one of plain, equal"),
    ({"TRAIN_FLAGS": "--rnak 4"}, "TRAIN_FLAGS: train.py: error: unrecognized arguments: --rnak 4"),
    ({"SELECT_FLAGS": "--n1 0"}, "SELECT_FLAGS: select.py: error: --n1 is 0"),
    ({"EXPLORE_FLAGS": "--top-p 2"}, "EXPLORE_FLAGS: explore.py: error: "),
    ({"MAKE_FLAGS": "--guards"}, "MAKE_FLAGS: envs.py: error: unrecognized arguments: --guards")])
def test_wrong_settings_leave_one_line(tmp_path, start, warm_python, settings, message):
    line = refused(start(tmp_path / "out", **{"PYTHON": warm_python, **settings}))
    assert line.startswith(f"run.sh: {message}")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, start):
    """OUT=/, OUT=. in another project, and OUT with somebody's own picture in it."""
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "curve.svg").write_text("<svg/>")
    for out in (thesis, "/"):
        assert "is no folder of a run: " in refused(start(out))
    assert [path.name for path in thesis.iterdir()] == ["curve.svg"]
    (thesis / "curve.svg").rename(thesis / ".lock")
    (thesis / "settings").write_text("colour=blue\n")  # of another program
    assert "was colour=blue" in refused(start(thesis))
    assert (thesis / ".lock").read_text() == "<svg/>"


def test_an_environment_that_others_made_is_not_cleared(tmp_path):
    """uv's have no pip; `venv --clear` on one would take all its packages away. A half-made one of
    ours is made anew: here with `false` as Python, which cannot."""
    clone = tmp_path / "clone"
    mutants.copy_product(clone)
    (clone / ".venv/lib").mkdir(parents=True)
    (clone / ".venv/lib/package.py").write_text("years = 5")
    script = '. nanoenvisions/setup.sh; PYTHON="$0"; : > no.txt; set_up no.txt'
    for begun, python, said in ((False, sys.executable, "no pip, and is not replaced"),
                                (True, "true", "pip failed")):
        if begun:
            (clone / ".venv.begun").touch()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script, python], cwd=clone,
                              capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr + done.stdout
        assert (clone / ".venv/lib/package.py").exists()
    assert not (clone / ".venv.begun").exists()


@pytest.mark.parametrize("name, value", [("AGAIN", "1.0"), ("AGAIN", ".5"), ("FEW_SHOT", "0"),
                                         ("TEMPERATURE", "2"), ("LEARNING_RATE", "0.0005"),
                                         ("LEARNING_RATE", "1.5e-4"), ("SEED", "0"), ("N2", "0")])
def test_right_settings_are_taken(tmp_path, start, name, value):
    """What follows is refused for the unknown METHOD, so the setting was not."""
    text = refused(start(tmp_path / "out", METHOD="magic", **{name: value}))
    assert "METHOD=magic is unknown" in text


def test_tasks_that_are_new_in_each_iteration_are_made_at_first(tmp_path, start, warm_python):
    """web: ITERS decides how many are made, so it may not be raised later."""
    try:
        Web().browse(lambda browser: browser.open("click-test", 0))
    except (BrokenPipeError, SystemExit) as error:
        pytest.skip(str(error))
    finally:
        Web().close()
    settings = {"ENV": "web", "PYTHON": warm_python, "NUM_TRAIN": "2", "NUM_TEST": "1",
                "MAKE_FLAGS": "--tasks click-test-2,click-test", "REFINE_FROM": "1"}
    start(tmp_path, **settings).communicate(timeout=300)  # the tiny model solves none: an error
    assert [task["round"] for task in envs.read_jsonl(tmp_path / "tasks.jsonl")] == [0, 0, 1, 1]
    assert {task["round"] for task in envs.read_jsonl(tmp_path / "iter0/tasks.jsonl")} == {0}
    text = refused(start(tmp_path, **settings, ITERS="3"))
    assert "now ITERS=3" in text and "was ITERS=2" in text


@pytest.mark.parametrize("words, wanted", [
    ("-k sum", "tests -k sum"), ("tests/test_rows.py", "tests/test_rows.py"),
    ("tests/test_rows.py::test_packing_by_hand -x", "tests/test_rows.py::test_packing_by_hand -x")])
def test_named_tests_are_run_alone(words, wanted):
    said = subprocess.run(["bash", "-c", f"set -euo pipefail; . nanoenvisions/setup.sh; PYTHON=echo; run_tests {words}"],
                          cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith(f"--no-loadscope-reorder {wanted}\n")
