"""METHODS and SEEDS of run.sh: every run is what run.sh makes of it alone; broken ones; going on."""
import os
import shutil
import signal
import sys
import time

import pytest
from test_run import FILES_0, finish, refused, start  # noqa: F401 (start is a fixture)

SWEEP = {"METHODS": "star envisions", "SEEDS": "0 1", "ITERS": "1", "AGAIN": "0.5"}
FOLDERS = ["star/seed0", "envisions/seed0", "star/seed1", "envisions/seed1"]


def headings(text) -> list[str]:
    """The folders of the runs, in the order in which they were begun."""
    return [line.rpartition("/METHODS/")[2] for line in text.splitlines() if line.startswith("run.sh: METHOD=")]


def table(text) -> list[list[str]]:
    lines = text.splitlines()
    return [line.split() for line in lines[next(i for i, line in enumerate(lines) if "pooled % (95 %)" in line):]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, start, warm_python):  # noqa: F811
    """(folder, what was printed, exit code): one of four runs cannot begin, the first."""
    out = tmp_path_factory.mktemp("sweep") / "METHODS"
    (out / "star/seed0").mkdir(parents=True)
    (out / "star/seed0/settings").write_text("SEED=7\n")
    process = start(out, PYTHON=warm_python, **SWEEP)
    text, _ = process.communicate(timeout=900)
    return out, text, process.returncode


def test_a_broken_run_is_named_and_stops_no_other(swept):
    out, text, code = swept
    assert code == 1 and "Traceback" not in text
    assert headings(text) == FOLDERS
    assert "was SEED=7" in text
    assert text.splitlines()[-1].startswith(f"run.sh: broken: {out}/star/seed0 (")
    for folder in FOLDERS[1:]:
        assert (out / folder / "iter1/eval.jsonl").exists(), folder
    rows = table(text)
    assert [row[:2] for row in rows[1:3]] == [["envisions", "2"], ["star", "1"]]


def test_each_run_is_the_one_that_run_sh_makes_alone(swept, tmp_path, start, warm_python):  # noqa: F811
    """All files but the times, and the settings: star sets AGAIN, and must do so for itself alone."""
    out, _, _ = swept
    one = {"METHOD": "envisions", "SEED": "1", "ITERS": "1", "AGAIN": "0.5"}
    finish(start(tmp_path / "alone", PYTHON=warm_python, **one))
    for name in [*FILES_0, "settings"]:
        assert (tmp_path / "alone" / name).read_bytes() == (out / "envisions/seed1" / name).read_bytes(), name
    settings = [(out / folder / "settings").read_text() for folder in FOLDERS]
    assert "AGAIN=0.5\n" in settings[1] and "AGAIN=1\n" in settings[2]


def test_what_is_missing_is_made_up_and_nothing_else(swept, start, warm_python):  # noqa: F811
    out, _, _ = swept
    shutil.rmtree(out / "star/seed0")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    text = finish(start(out, PYTHON=warm_python, **SWEEP))
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}.items()
    assert (out / "star/seed0/iter1/eval.jsonl").exists() and "broken" not in text
    assert ["star", "2"] in [row[:2] for row in table(text)]


def test_stopped_by_the_keyboard_none_is_begun_after(tmp_path, start, warm_python):  # noqa: F811
    settings = {"SEEDS": "3 4", "ITERS": "0"}
    process = start(tmp_path, PYTHON=sys.executable, **settings)
    while not (tmp_path / "seed3/tasks.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode and text.splitlines()[-1].startswith("run.sh: stopped"), text
    assert [path.name for path in tmp_path.iterdir()] == ["seed3"]
    text = finish(start(tmp_path, PYTHON=warm_python, **settings))
    assert (tmp_path / "seed4/iter0/eval.jsonl").exists()
    assert table(text)[1][:2] == ["envisions", "2"]


@pytest.mark.parametrize("settings, message", [
    ({"METHODS": "envisions magic"}, "METHOD=magic is unknown"),
    ({"METHODS": "../x"}, "METHODS=../x is not names with spaces between"),
    ({"SEEDS": "0 one"}, "SEEDS=0 one is not whole numbers"), ({"SEEDS": "08"}, "SEEDS=08 is not"),
    ({"SEEDS": " "}, "SEEDS=  is not"), ({"SEEDS": "1", "N1": "0"}, "N1=0 is not a whole number from 1 on"),
    ({"SEEDS": "1", "TRAIN_FLAGS": "--rnak 4"}, "TRAIN_FLAGS: train.py: error: unrecognized")])
def test_what_is_wrong_is_refused_before_anything_starts(tmp_path, start, warm_python, settings, message):  # noqa: F811
    line = refused(start(tmp_path / "out", PYTHON=warm_python, **settings))
    assert line.startswith(f"run.sh: {message}")
    assert not (tmp_path / "out").exists()
