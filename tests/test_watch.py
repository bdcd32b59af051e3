"""The line at the end of an iteration, and LOG=tensorboard and wandb: the numbers of metrics.jsonl."""
import contextlib
import os
import pty
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

import envs
from nanoenvisions import begin, records, watch

ROWS = [{"stage": "eval", "iteration": 1, "seconds": 2.0, "accuracy": 0.46, "num": 50},
        {"stage": "explore", "iteration": 2, "seconds": 100.0, "tokens": 9},
        {"stage": "eval", "iteration": 2, "seconds": 2.0, "accuracy": 0.53, "num": 50,
         "by_group": {"new": {"accuracy": 0.25, "num": 4}}},
        {"stage": "reward", "iteration": 2, "seconds": 3.5, "share": 0.4, "num": 800},
        {"stage": "select", "iteration": 2, "seconds": 0.5, "solved_pool": 114, "tasks": 160, "margin": None}]


def test_the_line_by_hand():
    """190 s, two more iterations of the same length: 6.3 minutes."""
    assert watch.summary(ROWS, 2, 5, 190) == [
        "run.sh: iteration 2 of 5: 53 % held out (+7), 114 of 160 tasks solved, 3 min 10 s, about 6 min left"]


@pytest.mark.parametrize("rows, iteration, of, seconds, line", [
    (ROWS, 2, 5, 10, "iteration 2 of 5: 53 % held out (+7), 114 of 160 tasks solved, 1 min 46 s, about 4 min left"),
    (ROWS, 2, 3, 190, "iteration 2 of 3: 53 % held out (+7), 114 of 160 tasks solved, 3 min 10 s"),
    ([{**ROWS[0], "iteration": 0, "accuracy": 0.3125}, {**ROWS[0], "accuracy": 0.4375}], 1, 2, 60,
     "iteration 1 of 2: 44 % held out (+13), 1 min"),  # 43.75 and 31.25: the change is that of what is shown
    (ROWS, 1, 3, 60, "iteration 1 of 3: 46 % held out, 1 min, about 1 min left"),
    ([*ROWS, {**ROWS[0], "iteration": 3, "accuracy": 0.5}], 3, 3, 5, "after the last iteration: 50 % held out (-3), 5 s"),
])
def test_resumed_first_and_last_iterations(rows, iteration, of, seconds, line):
    assert watch.summary(rows, iteration, of, seconds) == [f"run.sh: {line}"]


@pytest.mark.parametrize("share, hint", [(0.0, "only 0.0% of the programs are right"), (0.01, "more NUM_SAMPLES_0"),
                                         (0.02, None), (0.95, None), (0.96, "harder or more tasks"),
                                         (1.0, "100% of the programs are right")])
def test_what_nobody_can_learn_from_is_said(share, hint):
    _, *hints = watch.summary([*ROWS, {**ROWS[3], "share": share}], 2, 5, 190)
    assert [hint in line for line in hints] == [True] * (hint is not None)


NUMBERS = {"explore/seconds": 100.0, "explore/tokens": 9, "eval/seconds": 2.0, "eval/accuracy": 0.53, "eval/num": 50,
           "eval/by_group/new/accuracy": 0.25, "eval/by_group/new/num": 4, "reward/seconds": 3.5, "reward/share": 0.4,
           "reward/num": 800, "select/seconds": 0.5, "select/solved_pool": 114, "select/tasks": 160}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(map(envs.dump, ROWS)))
    (tmp_path / "settings").write_text("ENV=math\nSEED=0\n")
    return tmp_path


def test_tensorboard_has_the_numbers(run, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for iteration in ("1", "2"):
        watch.main(["--run", str(run), "--iteration", iteration, "--of", "5", "--log", "tensorboard"])
    log = EventAccumulator(str(run / "log")).Reload()
    seen = {tag: {event.step: event.value for event in log.Scalars(tag)} for tag in log.Tags()["scalars"]}
    assert {tag: steps[2] for tag, steps in seen.items()} == pytest.approx(NUMBERS)
    assert seen["eval/accuracy"] == pytest.approx({1: 0.46, 2: 0.53})
    assert capsys.readouterr().out.count("run.sh: iteration") == 2


def test_wandb_has_the_numbers(run, monkeypatch):
    wandb = pytest.importorskip("wandb")
    logged = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = wandb.sdk.wandb_run.Run.log
    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log",
                        lambda self, numbers, step: (logged.append((numbers, step)), log(self, numbers, step=step)))
    watch.main(["--run", str(run), "--iteration", "2", "--of", "5", "--log", "wandb"])
    assert logged == [(NUMBERS, 2)] and list((run / "log").rglob("*.wandb"))


def test_the_numbers_are_those_of_metrics():
    numbers = {}
    for row in ROWS[1:]:
        numbers |= watch.scalars(row)
    assert numbers == NUMBERS


def test_a_log_that_is_not_installed_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "argv", ["begin", "", "tensorboard"])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setenv("RUN_SH_SETTINGS", "")
    with pytest.raises((SystemExit, ValueError)) as end:
        begin.main()
    assert "LOG=tensorboard needs a package" in str(end.value)


def test_a_bar_says_where_a_run_is_on_a_terminal_and_a_log_stays_plain():
    code = ("from nanoenvisions.records import progress, waiting\n"
            "with waiting('loading'): pass\n"
            "bar = progress(None, 'explore', total=4); bar.update(); bar.refresh(); bar.close()")
    settings = {**os.environ, "RUN_SH_WHERE": "iteration 1 of 5, "}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    subprocess.run(command, cwd=ROOT, env=settings, stderr=theirs, check=True)
    os.close(theirs)
    shown = ""
    with contextlib.suppress(OSError):  # at its end
        while piece := os.read(ours, 10_000).decode():
            shown += piece
    os.close(ours)
    assert "iteration 1 of 5, loading ...\r\x1b[K" in shown and "iteration 1 of 5, explore:  25%" in shown


def test_run_sh_speaks_after_each_iteration_that_did_something(tmp_path):
    """`told` of setup.sh, with a Python that says what it is asked for."""
    (tmp_path / "python").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    script = '. nanoenvisions/setup.sh; ITERS=3; LOG=none; OUT=o; told 0; ran=1; told 1; told 2'
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHON": str(tmp_path / "python")})
    assert done.stdout == "-W ignore -m nanoenvisions.watch --run o --iteration 1 --of 3 --seconds 0 --log none\n"


def test_waiting_ends_when_what_is_waited_for_fails(capsys):
    with pytest.raises(ValueError), records.waiting("loading"):
        raise ValueError
    assert capsys.readouterr().err == ""
