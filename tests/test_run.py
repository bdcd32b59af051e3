"""run.sh: the whole loop on a tiny model, killed and continued; settings; the curve. Minutes, not seconds."""
import json
import os
import signal
import subprocess
import sys
import time
import xml.dom.minidom

import pytest
from conftest import ROOT, TEMPLATES, load_stage

import envs


def start(out, tiny_model, templates, **settings):
    environment = {**os.environ, "SETUP": "0", "PYTHON": sys.executable, "MODEL": tiny_model, "OUT": str(out), "ITERS": "2",
                   "NUM_TRAIN": "12", "NUM_TEST": "6", "NUM_SAMPLES": "4", "MAX_NEW_TOKENS": "40", "EPOCHS": "1",
                   "MIN_STEPS": "4", "LEARNING_RATE": "5e-4", "TEMPERATURE": "1.0", "MAKE_FLAGS": f"--templates {templates}",
                   "OMP_NUM_THREADS": "1", **settings}
    return subprocess.Popen(["bash", "run.sh"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)


def finish(process):
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "templates.json"
    path.write_text(json.dumps(TEMPLATES))
    return path


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, tiny_model, templates):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, finish(start(out, tiny_model, templates))


FILES = ["tasks.jsonl", "test.jsonl", *(f"iter{t}/{name}.jsonl" for t in (0, 1) for name in (
    "tasks", "explored", "refined", "rewarded", "pool", "sft", "eval")), "iter2/eval.jsonl",
    "iter0/adapter/adapter_model.safetensors", "iter1/adapter/adapter_model.safetensors"]


def test_the_loop_writes_what_the_contract_says(whole_run):
    out, text = whole_run
    for name in FILES:
        assert (out / name).exists(), name
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    stages = {(row["stage"], row["iteration"]) for row in metrics}
    assert {("eval", 0), ("eval", 1), ("eval", 2)} < stages
    assert {(stage, t) for stage in ("explore", "refine", "reward", "select", "train") for t in (0, 1)} - stages in (
        set(), {("refine", 0)})  # as the authors do, run.sh may leave refinement out of iteration 0
    for row in metrics:
        assert row["seconds"] >= 0
    evaluations = [row for row in metrics if row["stage"] == "eval"]
    assert all(row["num"] == 6 and 0 <= row["accuracy"] <= 1 for row in evaluations)
    assert "test %" in text and "explore:" in text and "train:" in text


def test_train_and_held_out_share_no_question(whole_run):
    out, _ = whole_run
    train, test = ({task["question"] for task in envs.read_jsonl(out / name)} for name in ("tasks.jsonl", "test.jsonl"))
    assert not train & test


def test_iteration_1_learns_from_the_pool_of_both(whole_run):
    """Every positive of iteration 0 is still in the pool of iteration 1."""
    out, _ = whole_run
    pools = [{(r["id"], envs.Math.canonical(r["program"])) for r in envs.read_jsonl(out / f"iter{t}/pool.jsonl")
              if r["reward"]} for t in (0, 1)]
    assert pools[0] and pools[0] <= pools[1]


def test_killed_anywhere_it_ends_with_the_same_files(whole_run, tmp_path, tiny_model, templates):
    """SIGKILL to the whole process group, in several stages; the last start must end like the undisturbed run."""
    whole, _ = whole_run
    out = tmp_path / "killed"
    for wait_for in ("iter0/eval.jsonl.explored.part.settings", "iter0/explored.jsonl.part.settings",
                     "iter0/rewarded.jsonl.part.settings", "iter0/sft.jsonl", "iter1/explored.jsonl"):
        process = start(out, tiny_model, templates)
        deadline = time.time() + 300
        while not (out / wait_for).exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(out, tiny_model, templates))
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.tmp*"))


def test_a_finished_run_is_done_at_once(whole_run, tiny_model, templates):
    out, _ = whole_run
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    started = time.time()
    finish(start(out, tiny_model, templates))
    assert time.time() - started < 60
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}


@pytest.mark.parametrize("name, value", [("SEED", "5"), ("NUM_SAMPLES", "3"), ("METHOD", "rft")])
def test_changed_settings_are_refused_and_named(whole_run, tiny_model, templates, name, value):
    out, _ = whole_run
    process = start(out, tiny_model, templates, **{name: value})
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and f"now {name}={value}" in text and f"was {name}=" in text


@pytest.mark.parametrize("settings, message", [({"METHOD": "magic"}, "METHOD=magic is unknown"),
                                               ({"ENV": "chess"}, "ENV=chess is unknown"),
                                               ({"SETUP": "1", "PYTHON": "/no/python"}, "no /no/python here")])
def test_wrong_settings_are_one_line(tmp_path, tiny_model, templates, settings, message):
    process = start(tmp_path / "out", tiny_model, templates, **settings)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and message in text and "Traceback" not in text


def test_the_curve_is_a_picture_of_the_numbers(whole_run, tmp_path):
    """100 % lies at the top of the chart, 0 % at the bottom; every curve is named at its end."""
    out, _ = whole_run
    xml.dom.minidom.parse(str(out / "curve.svg"))
    report = load_stage("data/report")
    text = report.picture({"up": [0, 100], "gap": [50, None]}, "title")
    assert f'points="{report.LEFT:.1f},{report.HEIGHT - report.BOTTOM:.1f} ' \
           f'{report.WIDTH - report.RIGHT:.1f},{report.TOP:.1f}"' in text
    assert "up 100 %" in text and "gap 50 %" in text
