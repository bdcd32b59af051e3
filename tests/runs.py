"""Runs of run.sh on the tiny model, METHOD by METHOD, for test_methods.py and test_other_methods.py.

Two iterations each, in a warm Python; what they did is seen in their files.
"""
import collections
import functools
import json
import os
import subprocess

import pytest
from conftest import ROOT

import envs

TEMPLATES = {  # like what the tiny model was taught; its guess is right about once in nine
    "lists": {"name": list("ABCDEFGH")},
    "templates": [{"id": "hidden", "steps": 1, "answer": "a + b",
                   "texts": ["{name} How many?", "{name} had some nuts. How many?"],
                   "numbers": {"a": [1, 8], "b": [1, 8]}, "where": "a + b > 4 and a + b < 7"}]}
K, K0, TASKS = 10, 24, 8
SETTINGS = {"ITERS": "2", "NUM_TRAIN": str(TASKS), "NUM_TEST": "4", "NUM_SAMPLES": str(K),
            "NUM_SAMPLES_0": str(K0), "SEED": "3", "TEMPERATURE_0": "0.9", "TEMPERATURE": "1.2",
            "MAX_NEW_TOKENS": "20", "AGAIN": "0.5", "FEW_SHOT": "0.4", "N1": "1", "N2": "1",
            "EPOCHS": "2", "MIN_STEPS": "9", "LEARNING_RATE": "5e-3", "BITS": "32",
            "SELECT_FLAGS": "--reuse --n3 1 --stated"}  # it states numbers and nothing else


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model, warm_python):
    """start(out, "rft", BUDGET="equal"): run.sh with these settings."""
    templates = tmp_path_factory.mktemp("data") / "templates.json"
    templates.write_text(json.dumps(TEMPLATES))

    def start(out, method, **settings):
        done = subprocess.run(["bash", "run.sh"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300, env={
            **os.environ, **SETTINGS, "SETUP": "0", "PYTHON": warm_python, "MODEL": tiny_model,
            "MAKE_FLAGS": f"--templates {templates}", "OMP_NUM_THREADS": "1", "METHOD": method,
            "OUT": str(out), **settings,
            # every METHOD makes its report, which takes a quarter of the time; variants of them need not
            "WARM_SKIPS": "data/report.py" if set(settings) - {"TEACHER_FILE"} else ""})
        assert done.returncode == 0, done.stdout
    return start


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """For six of the eight tasks two programs: the answer is 5 or 6, so one of them is right."""
    file = tmp_path_factory.mktemp("teacher") / "programs.jsonl"
    file.write_text("".join(envs.dump({"id": f"math/train/s3/{number:04}-hidden", "program": f"answer = {guess}"})
                            for number in range(6) for guess in (5, 6)))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory, start, teacher_file):
    """run("rft", BUDGET="equal") -> folder of that run, made when first asked for."""
    @functools.cache
    def run(method, **settings):
        out = tmp_path_factory.mktemp("methods") / method
        if method == "distill":
            settings = {"TEACHER_FILE": str(teacher_file), **settings}
        start(out, method, **settings)
        return out
    return run


@pytest.fixture(scope="module")
def stage(warm_python, tiny_model):
    """A stage started by hand, with the run's general settings."""
    def stage(name, *flags):
        done = subprocess.run([warm_python, f"{name}.py", *map(str, flags), "--seed", "3"]
                              + ["--model", tiny_model, "--bits", "32"], cwd=ROOT, text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return stage


def read(out, name):
    return envs.read_jsonl(out / f"{name}.jsonl", allow_empty=True)


def same(out, other, *names) -> bool:
    return all((out / f"{name}.jsonl").read_bytes() == (other / f"{name}.jsonl").read_bytes()
               for name in names)


def right(out, t) -> set:
    """(id, completion) of each right program of iteration t, as it is learned from."""
    return {(record["id"], envs.completion(envs.ENVS["math"].tidy(record)))
            for record in read(out, f"iter{t}/rewarded") if record["reward"]}


def learned(out, t, kind="solve") -> list:
    return [(row["id"], row["completion"]) for row in read(out, f"iter{t}/sft")
            if row["kind"] == kind]


def most(names) -> int:
    return max(collections.Counter(names).values())


def solved(out, name) -> set:
    return {record["id"] for record in read(out, name) if record["reward"]}


def best_first(out, t) -> bool:
    """Whether U1 of every task holds its likeliest right programs, U2 its likeliest wrong ones."""
    prompts = {row["prompt"] for row in read(out, f"iter{t}/sft")}
    solutions, verdicts = set(learned(out, t)), []
    pool = sorted(read(out, f"iter{t}/pool"), key=lambda record: -record["self_reward"])
    for task in {name for name, _ in solutions}:
        mine = [record for record in pool if record["id"] == task]
        taught = [(task, envs.completion(record["program"])) in solutions
                  for record in mine if record["reward"]]
        shown = [envs.refine_prompt(record, record["program"]) in prompts
                 for record in mine if not record["reward"]]
        verdicts += [some == sorted(some, reverse=True) for some in (taught, shown)]
    return all(verdicts)


def samples(out, t) -> set:
    """How many programs each task was explored with, and how many of them were rewritten."""
    counts = {}
    for place, name in enumerate(("explored", "refined")):
        for record in read(out, f"iter{t}/{name}"):
            counts.setdefault(record["id"], [0, 0])[place] += 1
    return set(map(tuple, counts.values()))


def check_stages(out, refines: bool):
    """No row twice, none lost: star explores greedily, which is not an evaluation."""
    rows = envs.read_jsonl(out / "metrics.jsonl")
    expected = []
    for t in (0, 1):
        refine = [("refine", t)] * (refines and t == 1)  # the base model does not rewrite
        expected += [("eval-explore", t), ("explore", t), ("eval", t), *refine,
                     ("reward", t), ("select", t), ("train", t)]
    expected += [("eval-explore", 2), ("eval", 2)]
    assert [(row["stage"], row["iteration"]) for row in rows] == expected
    assert all(row["num"] == 4 for row in rows if row["stage"] == "eval")
    for row in rows:
        if row["stage"] == "train":
            assert row["rows"] == len(read(out, f"iter{row['iteration']}/sft")) > 0
