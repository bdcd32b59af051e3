"""Stage 4 of 5, select: from rewarded candidates to training rows.

    superior trajectory   of (a_k, ã_k) keep ã_k  if b_k = 0 and b̃_k = 1,  or  b_k = b̃_k = 1 and r̃_k > r_k
    candidate pool        P+ and P- of a task: distinct programs of all iterations so far, sorted by r, highest first
    U1  (kind "solve")    the n1 = min(N1, max(1, |P+| - 1)) best positives:           x       -> a+
    U2  (kind "refine")   n2 = min(N2, |P+| - n1, |P-|): the lowest-ranked positives
                          with the highest-ranked (confident and wrong) negatives:      (x, a-) -> a+

Worked example, N1 = 10, N2 = 2: |P+| = 4 and |P-| = 3 give n1 = 3 and n2 = 1, so the fourth positive is paired with the
first negative. A single positive is always learned from (n1 = 1) and leaves nothing for U2.

Reads   id env question candidate iteration source program reward self_reward (rewarded.jsonl), and the pool so far.
Writes  the new pool, and training rows: prompt completion kind id.

    python select.py --in rewarded.jsonl --pool iter0/pool.jsonl --pool-out iter1/pool.jsonl --out sft.jsonl

Ablations: leave --pool away (no candidate pool), --n2 0 (no mistakes), --rank random (no self-reward), --refined drop
(no refinement). Where the article is silent: of equal programs the pool keeps the one with the highest r, and empty
programs teach nothing, so they stay out.
"""
from __future__ import annotations

if __name__ == "select":
    # This file shadows the standard library's `select`, which subprocess, asyncio and torch's DataLoader import when
    # they are started from this folder. Be that module for them: find it behind us on the path, lend it our name.
    import importlib.machinery
    import importlib.util
    import os
    import sys
    _elsewhere = [folder for folder in sys.path if not os.path.isfile(os.path.join(folder or ".", "select.py"))]
    _spec = (importlib.machinery.BuiltinImporter.find_spec("select")
             or importlib.machinery.PathFinder.find_spec("select", _elsewhere))
    _real = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_real)
    sys.modules["select"] = _real
    globals().update(vars(_real))
else:
    import argparse
    import random
    import time
    from collections import defaultdict

    import envs


def superior(explored: dict, refined: dict | None) -> dict:
    """Of a program and its rewrite, the better one: a rewrite must turn wrong into right, or be right and likelier.

    >>> superior({"reward": 1, "self_reward": -0.5}, {"reward": 1, "self_reward": -0.2})["self_reward"]
    -0.2
    """
    if refined is None or refined["reward"] == 0:
        return explored
    if explored["reward"] == 0 or refined["self_reward"] > explored["self_reward"]:
        return refined
    return explored


def superior_trajectories(records) -> list[dict]:
    """Pair each rewrite with its draft by (id, iteration, candidate) and keep one of the two."""
    explored, refined = {}, {}
    for record in records:
        side = refined if record["source"] == "refine" else explored
        side[record["id"], record["iteration"], record["candidate"]] = record
    # A rewrite whose draft is not in the file stands for itself.
    return ([superior(record, refined.get(key)) for key, record in explored.items()]
            + [record for key, record in refined.items() if key not in explored])


def distinct(records) -> list[dict]:
    """One record per different program of a task; right before wrong, then the highest r. Order: first seen."""
    best = {}
    for record in records:
        if not record["program"].strip():
            continue
        key = record["id"], envs.ENVS[record["env"]].canonical(record)
        if key not in best or rank(record) > rank(best[key]):
            best[key] = record
    return list(best.values())


def rank(record) -> tuple:
    """Sort key, the larger the better: reward, then the soft self-reward r."""
    return record["reward"], record["self_reward"]


def split_pool(pool, order: str = "self-reward", seed: int = 0) -> dict:
    """{id: (P+, P-)}, each sorted by r, highest first (or shuffled: the ablation without self-rewards)."""
    tasks = defaultdict(lambda: ([], []))
    for record in pool:
        tasks[record["id"]][1 - record["reward"]].append(record)
    for task, sides in tasks.items():
        for side in sides:
            side.sort(key=rank, reverse=True)
            if order == "random":
                random.Random(f"{seed} {task}").shuffle(side)
    return tasks


def training_rows(positives, negatives, n1_max: int, n2_max: int) -> list[dict]:
    """U1 and U2 of one task, as prompt-completion rows."""
    if not positives:
        return []
    n1 = min(n1_max, max(1, len(positives) - 1))
    n2 = max(0, min(n2_max, len(positives) - n1, len(negatives)))
    rows = [{"prompt": envs.solve_prompt(good), "completion": envs.completion(good["program"]), "kind": "solve",
             "id": good["id"]} for good in positives[:n1]]
    rows += [{"prompt": envs.refine_prompt(good, bad["program"]), "completion": envs.completion(good["program"]),
              "kind": "refine", "id": good["id"]}
             for good, bad in zip(positives[len(positives) - n2:], negatives[:n2])]
    return rows


def pool_counts(kept, before, pool) -> dict:
    """What the article analyses: tasks solved now, newly, lost again; r of right minus wrong; distinct solutions."""
    solved_now = {record["id"] for record in kept if record["reward"]}
    solved_before = {record["id"] for record in before if record["reward"]}
    sides = split_pool(pool)
    right = [record["self_reward"] for record in pool if record["reward"]]
    wrong = [record["self_reward"] for record in pool if not record["reward"]]
    solved = sum(1 for positives, _ in sides.values() if positives)
    margin = round(sum(right) / len(right) - sum(wrong) / len(wrong), 4) if right and wrong else None
    return {"tasks": len({record["id"] for record in kept} | set(sides)), "solved_now": len(solved_now),
            "solved_new": len(solved_now - solved_before),
            "lost": len((solved_before & {record["id"] for record in kept}) - solved_now), "solved_pool": solved,
            "pool": len(pool), "positives": len(right), "negatives": len(wrong), "margin": margin,
            "solutions_per_solved_task": round(len(right) / solved, 2) if solved else 0}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, help="rewarded candidates of one iteration")
    parser.add_argument("--pool", default=None, help="pool of the iteration before; nothing means an empty pool")
    parser.add_argument("--pool-out", required=True, help="pool to write: all distinct candidates so far")
    parser.add_argument("--out", required=True, help="training rows to write")
    parser.add_argument("--n1", type=int, default=10, help="N1, most positives per task to learn from (web: 2)")
    parser.add_argument("--n2", type=int, default=2, help="N2, most mistakes per task to learn from")
    parser.add_argument("--rank", choices=("self-reward", "random"), default="self-reward",
                        help="how P+ and P- are sorted")
    parser.add_argument("--refined", choices=("keep", "drop"), default="keep",
                        help="drop: select among explored ones only")
    parser.add_argument("--seed", type=int, default=0, help="for --rank random")
    parser.add_argument("--limit", type=int, default=None, help="read only the first so many records of --in")
    parser.add_argument("--metrics", default=None, help="file to add this stage's counts to")
    return parser.parse_args(argv)


def main(argv=None):
    args, started = parse_args(argv), time.time()
    fields = ("id", "env", "question", "program", "source", "iteration", "candidate", "reward", "self_reward")
    records = [record for path in args.inputs for record in envs.read_jsonl(path, require=fields, limit=args.limit)]
    if args.refined == "drop":
        records = [record for record in records if record["source"] != "refine"]
    before = envs.read_jsonl(args.pool, require=fields, allow_empty=True) if args.pool else []
    kept = superior_trajectories(records)
    pool = distinct(before + kept)
    rows = [row for positives, negatives in split_pool(pool, args.rank, args.seed).values()
            for row in training_rows(positives, negatives, args.n1, args.n2)]
    counts = pool_counts(kept, before, pool)
    solve = sum(row["kind"] == "solve" for row in rows)
    seconds = time.time() - started
    envs.add_metrics(args.metrics, {"stage": "select", "iteration": records[0]["iteration"],
                                    "seconds": round(seconds, 1), **counts, "rows": len(rows), "solve": solve,
                                    "refine": len(rows) - solve})
    envs.write_whole(args.pool_out, "".join(map(envs.dump, pool)))
    if not rows:
        envs.fail(f"no task is solved yet, so there is nothing to learn from (easier tasks, more --num-samples, or a "
                  f"larger --model; the pool is in {args.pool_out})")
    envs.write_whole(args.out, "".join(map(envs.dump, rows)))
    print(f"select: {counts['solved_now']} of {counts['tasks']} tasks solved now ({counts['solved_new']} new), "
          f"{counts['solved_pool']} in the pool of {len(pool):,}; {solve:,} solve + {len(rows) - solve:,} refine rows "
          f"-> {args.out}")


if __name__ == "__main__":
    main()
