"""What the rewarded candidates of a run say, iteration by iteration: pass@k, mixed tasks, examples.

Read from iterN/rewarded.jsonl, one iteration in memory at a time.
"""
from __future__ import annotations

import math
import sys

import envs

FIELDS = "id", "question", "candidate", "source", "program", "reward"
MOST_EXAMPLES = 4


def pass_at(k: int, num: int, right: int) -> float:
    """Probability that at least one of k samples is right, where `right` of `num` were: unbiased.

    1 - C(num - right, k) / C(num, k), Chen et al. 2021: the k are drawn from the num, not again.

    >>> pass_at(1, 5, 2), pass_at(2, 4, 1), pass_at(4, 5, 2)
    (0.4, 0.5, 1.0)
    """
    return 1 - math.comb(num - right, k) / math.comb(num, k)


def counts(records) -> list[tuple[int, int]]:
    """[(samples, right ones)] of each task; rewrites are no samples."""
    tasks = {}
    for record in records:
        if record["source"] != "refine":
            num, right = tasks.get(record["id"], (0, 0))
            tasks[record["id"]] = num + 1, right + record["reward"]
    return list(tasks.values())


def examples(records) -> list[tuple[str, dict, dict]]:
    """[("repaired", draft, its rewrite)]: wrong drafts made right, and one that went wrong.

    Without rewrites: ("sampled", a wrong program, a right one of the same task).
    """
    drafts = {(record["id"], record["candidate"]): record for record in records
              if record["source"] != "refine"}
    repaired, spoilt, sampled = {}, {}, {}
    for record in records:
        draft = drafts.get((record["id"], record["candidate"]))
        if record["source"] == "refine" and draft and draft["reward"] != record["reward"]:
            some = repaired if record["reward"] else spoilt
            some.setdefault(record["id"], (draft, record))
    for (task, _), record in drafts.items():
        wrong, right = sampled.get(task, (None, None))
        sampled[task] = (wrong, right or record) if record["reward"] else (wrong or record, right)
    pairs = [("repaired", *pair) for pair in list(repaired.values())[:MOST_EXAMPLES - 1]]
    pairs += [("spoilt", *pair) for pair in list(spoilt.values())[:1]]
    return pairs or [("sampled", *pair) for pair in sampled.values() if all(pair)][:MOST_EXAMPLES]


def read_samples(run) -> dict:
    """{"counts": {iteration: counts}, "examples": those of the last iteration that has some,
    "iteration": that one, "missing": ["iter1/rewarded.jsonl: why", ...]}."""
    found = {"counts": {}, "examples": [], "iteration": None, "missing": []}
    for iteration, stages in run["iterations"].items():
        if "reward" not in stages:
            continue
        try:
            records = envs.read_jsonl(run["folder"] / f"iter{iteration}" / "rewarded.jsonl", FIELDS)
        except SystemExit as error:
            found["missing"].append(str(error).partition(": ")[2])
            print(f"{error} - left out", file=sys.stderr)
            continue
        found["counts"][iteration] = counts(records)
        if pairs := examples(records):
            found["examples"], found["iteration"] = pairs, iteration
    return found


def smallest(samples) -> int:
    """K: the fewest samples that any task of any iteration has; 0 if there are none."""
    return min((num for tasks in samples["counts"].values() for num, _ in tasks), default=0)


def passed(samples, k: int) -> dict[int, float]:
    """{iteration: mean pass@k over the tasks}, where every task has k samples."""
    return {iteration: sum(pass_at(k, *task) for task in tasks) / len(tasks)
            for iteration, tasks in samples["counts"].items()
            if tasks and k and min(num for num, _ in tasks) >= k}


def mixture(samples) -> dict[int, dict]:
    """{iteration: {"all right": share of the tasks, "some right": ..., "none right": ...}}"""
    return {iteration: {
        "all right": sum(right == num for num, right in tasks) / len(tasks),
        "some right": sum(0 < right < num for num, right in tasks) / len(tasks),
        "none right": sum(right == 0 for _, right in tasks) / len(tasks)}
        for iteration, tasks in samples["counts"].items() if tasks}
