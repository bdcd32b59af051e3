"""run.sh, METHOD by METHOD: what each does and leaves out, and that adapters are handed on."""
import collections
import json

import pytest
from runs import (K0, TASKS, K, best_first, check_stages, learned, most, read, right, run, same, samples, solved, stage,  # noqa: F401
                  start, teacher_file)

import envs

METHODS = ["envisions", "star", "rft", "no-refine", "no-pool", "no-mistakes", "no-ranking"]


# -------------------------------------------------------------------------------- Every METHOD --

@pytest.mark.parametrize("method", METHODS)
def test_every_method_counts_each_stage_once_and_in_order(run, method):
    check_stages(run(method), refines=method not in ("star", "rft", "no-refine"))


def test_envisions_has_all_parts(run):
    """K programs and K rewrites, a pool that only grows, rows of all kinds, the best programs."""
    out = run("envisions")
    assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(K, K)}
    pools = [read(out, f"iter{t}/pool") for t in (0, 1)]
    rights = [{(record["id"], record["program"]) for record in pool if record["reward"]} for pool in pools]
    assert rights[0] and rights[0] <= rights[1] and len(pools[0]) < len(pools[1])
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
    """Same tasks (all, since it would forget the solved ones), programs and pool as with it: only the rows differ."""
    out, whole = run("no-pool"), run("envisions", AGAIN="1")
    assert len(read(out, "iter1/tasks")) == TASKS
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


def test_an_equal_budget_gives_star_a_choice(run):
    """2K programs where envisions rewrites, of which it learns the likeliest right one."""
    out = run("star", BUDGET="equal")
    assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(2 * K, 0)}
    for t in (0, 1):
        assert most(name for name, _ in learned(out, t)) == 1 and not learned(out, t, "refine")
        assert set(learned(out, t)) <= right(out, t)
        assert {name for name, _ in learned(out, t)} == solved(out, f"iter{t}/rewarded")


def test_steps_are_the_same_for_every_method(run):
    for method in ("envisions", "rft"):
        steps = [row["steps"] for row in read(run(method, STEPS="5"), "metrics")
                 if row["stage"] == "train"]
        assert steps == [5, 5]


def test_the_last_adapter_may_be_trained_on(run, stage, tmp_path):
    """START=last: iteration 0 as ever; iteration 1 goes on from its adapter, here by hand."""
    out, name = run("envisions", START="last"), "adapter/adapter_model.safetensors"
    assert same(out, run("envisions"), "iter0/eval", "iter1/eval", "iter1/sft")
    for t, start in ((0, ()), (1, ("--adapter", out / "iter0/adapter"))):
        stage("train", "--in", out / f"iter{t}/sft.jsonl", "--out", tmp_path / f"{t}/adapter",
              "--epochs", 2, "--min-steps", 9, "--learning-rate", 5e-3, *start)
        assert (tmp_path / f"{t}" / name).read_bytes() == (out / f"iter{t}" / name).read_bytes()
    assert (run("envisions") / "iter1" / name).read_bytes() != (out / "iter1" / name).read_bytes()


def test_all_programs_may_be_judged_on_the_same_probability(run):
    """RESCORE=1: equal programs of a task and an iteration have one r, however they came about."""
    for out, same_r in ((run("envisions", RESCORE="1"), True), (run("envisions"), False)):
        rs = collections.defaultdict(set)
        for name in ("explored", "refined"):
            for record in read(out, f"iter1/{name}"):
                rs[record["id"], record["program"]].add(record["logprob"])
        assert all(max(group) - min(group) < 1e-4 for group in rs.values()) == same_r


def test_more_samples_and_fewer_tasks_by_the_iteration(run):
    """MORE_SAMPLES=3: K + 3 in iteration 1. MOST_TASKS=5 of 8: in iteration 1 the other 3 first."""
    out = run("no-refine", MORE_SAMPLES="3", MOST_TASKS="5", AGAIN="1")
    assert samples(out, 0) == {(K0, 0)} and samples(out, 1) == {(K + 3, 0)}
    first, second = ({task["id"] for task in read(out, f"iter{t}/tasks")} for t in (0, 1))
    assert len(first) == len(second) == 5 and len(first | second) == TASKS


# ------------------------------------------------------------------- What stages are handed on --

def test_the_adapter_of_an_iteration_is_the_policy_of_the_next(run, stage, tmp_path):
    """Explore, refine and evaluate by hand, with adapter t: the run's files; without it: others.

    START=last, so that no two adapters are alike, as they are where an iteration solves nothing new.
    """
    out = run("envisions", START="last")

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
              SELECT_FLAGS="--all-positives --stated", TRAIN_FLAGS="--rank 4", EPOCHS="5", MIN_STEPS="0")
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
