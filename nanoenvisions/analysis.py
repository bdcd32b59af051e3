"""What is counted: the programs that were rewarded, and, as the article analyses them, the pool's
ability, stability, margin and diversity.

May import nothing of this project.
"""
from __future__ import annotations

import collections
import math


def self_reward(record: dict) -> float:
    """r, in nats per token; of a program that no model was asked about: below all others."""
    r = record.get("self_reward")
    return -math.inf if r is None else r


def mean(values) -> float | None:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else None


def pool_counts(records, kept, before, pool) -> dict:
    """What the article analyses, of this iteration and of the pool.

    solved_*   tasks: now; now for the first time; lost (solved before, explored, not solved now);
               by a rewrite only; in the pool
    margin     mean r of right programs minus mean r of wrong ones, in the pool
    copies     share of the rewrites that are their draft, to the letter
    """
    def solved(some): return {record["id"] for record in some if record["reward"]}
    rewrites = [record for record in records if record["source"] == "refine"]
    explored = solved(record for record in records if record["source"] != "refine")
    positives = [record for record in pool if record["reward"]]
    known = [record for record in pool if math.isfinite(self_reward(record))]
    right = mean(self_reward(record) for record in known if record["reward"])
    wrong = mean(self_reward(record) for record in known if not record["reward"])
    seen = {record["id"] for record in kept}
    return {
        "solved_now": len(solved(kept)),
        "solved_new": len(solved(kept) - solved(before)),
        "solved_by_refinement": len(solved(rewrites) - explored),
        "lost": len((solved(before) & seen) - solved(kept)),
        "solved_pool": len(solved(pool)),
        "pool": len(pool), "positives": len(positives), "negatives": len(pool) - len(positives),
        "margin": None if right is None or wrong is None else round(right - wrong, 4),
        "solutions_per_solved_task": round(len(positives) / max(1, len(solved(pool))), 2),
        "tidied": sum("sampled" in record for record in positives),
        "copies": mean(record["program"] == record.get("reference") for record in rewrites)}


# ------------------------------------------------------------------------- Rewarded programs --

def tally(records) -> dict:
    """{"num": 4, "correct": 1, "share": 0.25}"""
    correct = sum(record["reward"] for record in records)
    return {"num": len(records), "correct": correct,
            "share": round(correct / max(1, len(records)), 4)}


def solved(records) -> int:
    """How many tasks have a right program."""
    return len({record["id"] for record in records if record["reward"]})


def grouped(records, field) -> dict:
    """Records by the value of a field, leaving out those without it."""
    groups = collections.defaultdict(list)
    for record in records:
        if record.get(field) is not None:
            groups[str(record[field])].append(record)
    return groups


def metrics_row(records, seconds: float, is_eval: bool) -> dict:
    """The row for metrics.jsonl: all counts, and per source (explore: b, refine: b~).

    For an evaluation also the accuracy, over all tasks and per group.
    """
    row = {"stage": "eval" if is_eval else "reward", "iteration": records[0].get("iteration", 0),
           "seconds": round(seconds, 1), **tally(records),
           "tasks": len({record["id"] for record in records}), "tasks_solved": solved(records),
           "outcomes": dict(collections.Counter(record["outcome"] for record in records)),
           "by_source": {source: {**tally(group), "tasks_solved": solved(group)}
                         for source, group in grouped(records, "source").items()}}
    if is_eval:
        row["accuracy"] = row["share"]
        row["by_group"] = {name: {"accuracy": tally(group)["share"], "num": len(group)}
                           for name, group in sorted(grouped(records, "group").items())}
    return row
