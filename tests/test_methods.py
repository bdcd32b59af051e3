"""run.sh, METHOD by METHOD: what each does and leaves out, and that adapters are handed on.

Seen in the files of finished runs: two iterations on the tiny model, in a warm Python.
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
            "SELECT_FLAGS": "--reuse --n3 1"}
METHODS = ["envisions", "star", "rft", "no-refine", "no-pool", "no-mistakes", "no-ranking"]


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
            "OUT": str(out), **settings})
        assert done.returncode == 0, done.stdout
    return start


@pytest.fixture(scope="module")
def run(tmp_path_factory, start):
    """run("rft", BUDGET="equal") -> folder of that run, made when first asked for."""
    @functools.cache
    def run(method, **settings):
        out = tmp_path_factory.mktemp("methods") / method
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


# -------------------------------------------------------------------------------- Every METHOD --

@pytest.mark.parametrize("method", METHODS)
def test_every_method_counts_each_stage_once_and_in_order(run, method):
    """No row twice, none lost: star explores greedily, which is not an evaluation."""
    rows = envs.read_jsonl(run(method) / "metrics.jsonl")
    refines = method not in ("star", "rft", "no-refine")
    expected = []
    for t in (0, 1):
        refine = [("refine", t)] * (refines and t == 1)  # the base model does not rewrite
        expected += [("eval-explore", t), ("eval", t), ("explore", t), *refine,
                     ("reward", t), ("select", t), ("train", t)]
    expected += [("eval-explore", 2), ("eval", 2)]
    assert [(row["stage"], row["iteration"]) for row in rows] == expected
    assert all(row["num"] == 4 for row in rows if row["stage"] == "eval")
    for row in rows:
        if row["stage"] == "train":
            assert row["rows"] == len(read(run(method), f"iter{row['iteration']}/sft")) > 0


def test_envisions_has_all_parts(run):
    """K programs and K rewrites, a pool that only grows, rows of all kinds, the best programs."""
    out = run("envisions")
    assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(K, K)}
    pools = [{(record["id"], record["program"]) for record in read(out, f"iter{t}/pool")
              if record["reward"]} for t in (0, 1)]
    assert pools[0] and pools[0] < pools[1]
    ids = {record["id"] for record in read(out, "iter1/explored")}
    assert {task for task, _ in learned(out, 1)} - ids, "a task of the pool that was not explored"
    assert most(r["id"] for r in read(out, "iter1/pool") if r["reward"]) > 1  # so N1 below decides
    assert most(name for name, _ in learned(out, 1)) == 1  # N1 = 1
    assert most(name for name, _ in learned(out, 1, "refine")) == 2  # N2 = 1, and --n3 1


def test_star_takes_one_greedy_sample_and_learns_from_the_right_ones(run, stage, tmp_path):
    out = run("star")
    for t in (0, 1):
        assert samples(out, t) == {(1, 0)}
        assert len(read(out, f"iter{t}/explored")) == TASKS  # solved or not
        assert set(learned(out, t)) == right(out, t) and not learned(out, t, "refine")
    stage("explore", "--in", out / "iter0/tasks.jsonl", "--out", tmp_path / "greedy.jsonl",
          "--few-shot", "--greedy", "--max-new-tokens", 20)
    assert (tmp_path / "greedy.jsonl").read_bytes() == (out / "iter0/explored.jsonl").read_bytes()


def test_rft_learns_from_all_right_programs_of_the_iteration(run):
    out = run("rft")
    assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(K, 0)}
    for t in (0, 1):
        assert len(read(out, f"iter{t}/tasks")) == TASKS
        assert sorted(learned(out, t)) == sorted(right(out, t))
        assert not learned(out, t, "refine")
    assert len(learned(out, 0)) > len(solved(out, "iter0/pool"))  # several of one task


def test_no_refine_only_leaves_the_rewrites_out(run):
    out = run("no-refine")
    assert samples(out, 1) == {(K, 0)}
    assert same(out, run("envisions"), "iter0/explored", "iter0/sft", "iter1/explored")
    assert solved(out, "iter0/pool") <= solved(out, "iter1/pool") == {
        task for task, _ in learned(out, 1)}
    assert learned(out, 1, "refine")  # mistakes are learned from all the same


def test_no_pool_explores_the_same_and_learns_from_this_iteration(run):
    """Same tasks, programs and pool as with it: only the rows of iteration 1 differ."""
    out, whole = run("no-pool"), run("envisions")
    assert same(out, whole, "iter0/sft", "iter1/tasks", "iter1/explored", "iter1/refined",
                "iter1/rewarded", "iter1/pool")
    assert set(learned(out, 1)) <= right(out, 1) and not set(learned(whole, 1)) <= right(out, 1)
    assert solved(out, "iter1/rewarded") == {task for task, _ in learned(out, 1)}


def test_no_mistakes_learns_from_right_programs_only(run):
    out, whole = run("no-mistakes"), run("envisions")
    assert same(out, whole, "iter0/pool") and learned(out, 0) == learned(whole, 0)
    assert samples(out, 1) == {(K, K)}
    for t in (0, 1):
        assert learned(out, t) and not learned(out, t, "refine") and learned(whole, t, "refine")


def test_no_ranking_takes_any_right_program(run):
    out, whole = run("no-ranking"), run("envisions")
    assert same(out, whole, "iter0/explored", "iter0/pool")
    assert len(learned(out, 0)) == len(learned(whole, 0))
    for t in (0, 1):
        assert best_first(whole, t) and not best_first(out, t)


def test_an_equal_budget_samples_as_many_programs_as_envisions_does(run):
    """Twice K where envisions rewrites; in iteration 0 it does not, so there K as ever."""
    for method in ("rft", "no-refine"):
        out = run(method, BUDGET="equal")
        assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(2 * K, 0)}


# ------------------------------------------------------------------- What stages are handed on --

def test_the_adapter_of_an_iteration_is_the_policy_of_the_next(run, stage, tmp_path):
    """Explore, refine and evaluate by hand, with adapter t: the run's files; without it: others."""
    out = run("envisions")

    def by_hand(name, source, adapter, *flags):
        result = tmp_path / "by-hand.jsonl"
        result.unlink(missing_ok=True)
        adapter = () if adapter is None else ("--adapter", out / adapter)
        stage(name, "--in", out / f"{source}.jsonl", "--out", result, "--max-new-tokens", 20,
              *adapter, *flags)
        return result.read_bytes()
    warm = ("--temperature", 1.2)
    explore = ("explore", "iter1/tasks", "--iteration", 1, "--num-samples", K, *warm)
    cases = [("iter1/explored.jsonl", "iter0/adapter", *explore),
             ("iter1/refined.jsonl", "iter0/adapter", "refine", "iter1/explored", *warm)]
    cases += [(f"iter{t}/eval.jsonl.explored", f"iter{t - 1}/adapter", "explore", "test", "--eval",
               "--iteration", t) for t in (1, 2)]
    for made, adapter, name, source, *flags in cases:
        assert by_hand(name, source, adapter, *flags) == (out / made).read_bytes(), made
        other = "iter1/adapter" if adapter == "iter0/adapter" else "iter0/adapter"
        for wrong in (None, other):
            assert by_hand(name, source, wrong, *flags) != (out / made).read_bytes(), made


def test_iteration_0_is_the_base_model_with_examples(run, stage, tmp_path):
    out = run("envisions")
    stage("explore", "--in", out / "iter0/tasks.jsonl", "--out", tmp_path / "explored.jsonl",
          "--few-shot", "--num-samples", K0, "--temperature", 0.9, "--max-new-tokens", 20)
    stage("explore", "--in", out / "test.jsonl", "--out", tmp_path / "eval", "--few-shot", "--eval",
          "--max-new-tokens", 20)
    assert (tmp_path / "explored.jsonl").read_bytes() == (out / "iter0/explored.jsonl").read_bytes()
    assert (tmp_path / "eval").read_bytes() == (out / "iter0/eval.jsonl.explored").read_bytes()


def test_every_iteration_trains_the_base_model_with_the_settings(run, stage, tmp_path):
    out = run("envisions")
    for t in (0, 1):
        stage("train", "--in", out / f"iter{t}/sft.jsonl", "--out", tmp_path / f"adapter{t}",
              "--epochs", 2, "--min-steps", 9, "--learning-rate", 5e-3)
        name = "adapter_model.safetensors"
        made = out / f"iter{t}/adapter" / name
        assert (tmp_path / f"adapter{t}" / name).read_bytes() == made.read_bytes()


def test_tasks_are_scheduled_by_the_pool_so_far(run):
    """AGAIN: some of the solved tasks; FEW_SHOT: the unsolved ones, in this share of samples."""
    out = run("envisions")
    before = solved(out, "iter0/pool")
    tasks = {task["id"]: task for task in read(out, "iter1/tasks")}
    unsolved = {task["id"] for task in read(out, "tasks")} - before
    assert unsolved < set(tasks) and not before <= set(tasks)
    assert {name for name, task in tasks.items() if "few_shot" in task} == unsolved
    assert {tasks[name]["few_shot"] for name in unsolved} == {0.4}


def test_flags_reach_their_stages(run):
    out = run("envisions", ITERS="1", REFINE_FROM="0", EXPLORE_FLAGS="--limit 6",
              REFINE_FLAGS="--limit 100", REWARD_FLAGS="--limit 200",
              SELECT_FLAGS="--all-positives", TRAIN_FLAGS="--rank 4", EPOCHS="5", MIN_STEPS="0")
    assert len(read(out, "iter0/tasks")) == TASKS and len(read(out, "iter0/explored")) == 6 * K0
    assert len(read(out, "iter0/refined")) == 100 and len(read(out, "iter0/rewarded")) == 200
    assert learned(out, 0) and not learned(out, 0, "refine")
    assert json.loads((out / "iter0/adapter/adapter_config.json").read_text())["r"] == 4
    rows = len(read(out, "iter0/sft"))
    steps = [row["steps"] for row in read(out, "metrics") if row["stage"] == "train"]
    assert 5 * rows / 8 <= steps[0] <= 5 * rows / 8 + 5  # five epochs in batches of 8


def test_iterations_may_be_added_later(run, start, tmp_path):
    """The same files as in one go; what was there is not made again."""
    start(tmp_path / "run", "no-refine", ITERS="1")
    assert not (tmp_path / "run/iter1/adapter").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("iter*/*.jsonl")}
    start(tmp_path / "run", "no-refine")
    assert len(before) > 6 and before.items() <= {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("iter*/*.jsonl")}.items()
    assert same(tmp_path / "run", run("no-refine"), "iter1/sft", "iter2/eval")
