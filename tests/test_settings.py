"""What run.sh makes of its settings before a stage is started: METHOD, BUDGET, paths, flags for refine.py."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from nanoenvisions import stale


def shell(script, folder=ROOT, **settings):
    """What a script prints that has read setup.sh and methods.sh; METHOD and the like are as run.sh sets them."""
    names = "PRESET= METHOD=envisions BUDGET=plain RESCORE=0 LOSS=sft NEGATIVES=repair STEPS=0 AGAIN=0 TEACHER_URL= "
    names += "TEACHER_MODEL= TEACHER_FILE= TEACHER_LIMIT=9"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". {ROOT}/nanoenvisions/setup.sh; . {ROOT}/nanoenvisions/methods.sh\n{script}"],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable, **dict(one.split("=") for one in names.split()), **settings})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("method", ["no-pool", "rft", "star"])
def test_what_has_no_pool_explores_solved_tasks_again(method):
    """Its rows are of this iteration alone; with logic's AGAIN=0 it would forget what it has solved."""
    assert shell('method; echo "$AGAIN"', METHOD=method) == "1"
    assert shell('method; echo "$AGAIN"', METHOD="envisions") == "0"


@pytest.mark.parametrize("method", ["envisions", "no-refine", "no-pool", "sft-dpo", "rft"])
def test_an_equal_budget_has_equally_many_tasks(method):
    assert shell('method; echo "$AGAIN"', METHOD=method, BUDGET="equal") == "1"


@pytest.mark.parametrize("flags, wanted", [
    ("--plain --top-p 0.9", "--top-p 0.9"), ("--slots 64", "--slots 64"), ("", ""),
    ("--teacher-timeout 30 --slots 64 --eval-limit 20 --top-p 0.9", "--slots 64 --top-p 0.9"),
    ("--teacher-timeout=30 --greedy --temperature 0.5 --num-samples 3", "--temperature 0.5")])
def test_refine_gets_the_flags_of_explore_that_it_knows(flags, wanted):
    assert shell("refine_flags", EXPLORE_FLAGS=flags) == wanted


@pytest.mark.parametrize("seen, found", [("0", "1"), ("1,3", "2"), ("", "1"), (None, "4"), ("0,1,2", "3")])
def test_ranks_are_the_gpus_that_torch_will_see(tmp_path, seen, found):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo \"GPU $n: a card\"; done\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | ({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen})
    assert shell("gpus", **settings) == found


def test_paths_with_spaces_and_commas(tmp_path):
    for name in ("my data.jsonl", "a,b.json", "c.csv"):
        (tmp_path / name).touch()
    for given, wanted in [("my data.jsonl", "F/my data.jsonl"), ("c.csv:mawps,hub:x/y:z@test", "F/c.csv:mawps,hub:x/y:z@test"),
                          ("a,b.json", "F/a,b.json"), ("my data.jsonl,c.csv", "F/my data.jsonl,F/c.csv"), ("", ""),
                          ("/abs.json,none.csv", "/abs.json,none.csv")]:
        assert shell('seen_from "$0" "$GIVEN"'.replace("$0", str(tmp_path)), GIVEN=given) \
            == wanted.replace("F/", f"{tmp_path}/"), given


def test_the_users_own_files_are_inputs_too(tmp_path):
    """DATA, TEST and TEACHER_FILE lie outside OUT: edited, what was made of them is out of date."""
    out = tmp_path / "o"
    out.mkdir()
    for name in ("my data.csv", "test.json", "teacher.jsonl", "o/tasks.jsonl", "o/explored.jsonl"):
        (tmp_path / name).write_text(name)
    (out / "code").write_text("envs.py c0de\nexplore.py c0de\n")
    shell('OUT=o; made o/tasks.jsonl envs.py import "my data.csv:mawps,hub:x/y" --env math --test "test.json" --out o/tasks.jsonl\n'
          'made o/explored.jsonl explore.py --in o/tasks.jsonl --out o/explored.jsonl --teacher-file teacher.jsonl', tmp_path)
    code = {"envs.py": "c0de", "explore.py": "c0de"}
    assert stale.out_of_date(out, code) == {}
    (tmp_path / "teacher.jsonl").write_text("another")
    assert stale.out_of_date(out, code) == {"explored.jsonl": f"{tmp_path}/teacher.jsonl has changed"}
    (tmp_path / "my data.csv").write_text("another")
    assert list(stale.out_of_date(out, code)) == ["tasks.jsonl", "explored.jsonl"]
