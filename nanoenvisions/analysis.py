"""What the article analyses about a pool: ability, stability, margin, diversity.

May import tidy.
"""
from __future__ import annotations

import math

from nanoenvisions.tidy import computes


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
    constants  share of the pool's right programs that state a number without computing it
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
        "tasks": len(seen | {record["id"] for record in pool}),
        "solved_now": len(solved(kept)),
        "solved_new": len(solved(kept) - solved(before)),
        "solved_by_refinement": len(solved(rewrites) - explored),
        "lost": len((solved(before) & seen) - solved(kept)),
        "solved_pool": len(solved(pool)),
        "pool": len(pool), "positives": len(positives), "negatives": len(pool) - len(positives),
        "margin": None if right is None or wrong is None else round(right - wrong, 4),
        "solutions_per_solved_task": round(len(positives) / max(1, len(solved(pool))), 2),
        "tidied": sum("sampled" in record for record in positives),
        "constants": mean(not computes(record["program"]) for record in positives
                          if record["env"] == "math"),
        "copies": mean(record["program"] == record.get("reference") for record in rewrites)}
