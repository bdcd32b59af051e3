"""Stage 4 of 5, select: from rewarded candidates to training rows.

    superior trajectory   of (a_k, ã_k) keep ã_k  if b_k = 0 and b̃_k = 1,
                                              or  b_k = b̃_k = 1 and r̃_k > r_k
    candidate pool        P+ and P- of a task: distinct programs of all iterations so far,
                          each sorted by r, highest first
    U1  (kind "solve")    the n1 = min(N1, max(1, |P+| - 1)) best positives:      x       -> a+
    U2  (kind "refine")   n2 = min(N2, |P+| - n1, |P-|): the lowest-ranked positives
                          with the highest-ranked (confident and wrong) negatives: (x, a-) -> a+
    ours, off by default  --reuse: n2 = min(N2, |P-|), so a task with a single right program has
                          mistakes to learn from, too; positives of U1 serve again
                          --n3: the n3 = min(N3, |P+|) best positives as their own drafts,
                          "return it as it is":                                    (x, a+) -> a+
                          --either: the former of half of the tasks, the latter of the other half

Worked example, N1 = 10, N2 = 2: |P+| = 4 and |P-| = 3 give n1 = 3 and n2 = 1, so the fourth
positive is paired with the first negative. A single positive is always learned from (n1 = 1) and
leaves nothing for U2.

Reads   id env question candidate iteration source program reward [self_reward] (rewarded.jsonl),
        and the pool so far.
Writes  the new pool (the same fields + sampled), and training rows: prompt completion kind id.

    python select.py --in rewarded.jsonl --pool iter0/pool.jsonl --pool-out iter1/pool.jsonl \\
                     --out sft.jsonl

Cost: seconds, no GPU. Where we differ from the article, or it is silent:
1. What is pooled and trained on is the *tidied* program: without unreachable statements, unused
   assignments and the like (nanoenvisions/tidy.py). Else `return 42` with junk behind it is one
   more solution, and the model learns the junk. r stays that of the program as it was sampled.
2. Of equal programs the pool keeps a right one before a wrong one, then the one with the highest r.
3. Empty programs teach nothing, so they stay out; and so does a right one that only states its
   number, `return 42`: it is luck, and a model that learns it guesses (--stated keeps them).
4. A program without r (a teacher's) ranks last.

--pairs FILE adds what DPO learns from: (a+, a-) of the same prompt x, ranked like U2, in the format
of TRL (prompt chosen rejected).

Ablations: --rows-from now (no candidate pool), --n2 0 (no mistakes), --rank random (no
self-reward), --refined drop (no refinement), --all-positives (U1 is all of P+, no U2: RFT).
"""
from __future__ import annotations

if __name__ == "select":
    # This file shadows the standard library's `select`, which subprocess, asyncio and torch's
    # DataLoader import when they are started from this folder. Be that module for them: find it
    # behind us on the path, lend it our name.
    import importlib.machinery
    import importlib.util
    import os
    import sys
    _elsewhere = [folder for folder in sys.path
                  if not os.path.isfile(os.path.join(folder or ".", "select.py"))]
    _spec = (importlib.machinery.BuiltinImporter.find_spec("select")
             or importlib.machinery.PathFinder.find_spec("select", _elsewhere))
    _real = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_real)
    sys.modules["select"] = _real
    globals().update(vars(_real))
else:
    import random
    import time
    import zlib
    from collections import defaultdict
    from itertools import cycle

    import envs
    from nanoenvisions.analysis import pool_counts, self_reward
    from nanoenvisions.flags import Parser, metrics_file
    from nanoenvisions.records import read_rewarded


# ------------------------------------------------------------------------ Superior trajectory --

def superior(explored: dict, refined: dict | None, r=None) -> dict:
    """Of a program and its rewrite, the better one. A rewrite must turn wrong into right, or be
    right and likelier.

    >>> superior({"reward": 1, "self_reward": -0.5}, {"reward": 1, "self_reward": -0.2})
    {'reward': 1, 'self_reward': -0.2}
    """
    r = r or self_reward
    if refined is None or refined["reward"] == 0:
        return explored
    if explored["reward"] == 0 or r(refined) > r(explored):
        return refined
    return explored


def superior_trajectories(records, r=None) -> list[dict]:
    """Pair each rewrite with its draft by (id, iteration, candidate) and keep one of the two."""
    explored, refined = {}, {}
    for record in records:
        side = refined if record["source"] == "refine" else explored
        side[place(record)] = record
    # A rewrite whose draft is not in the file stands for itself.
    return ([superior(record, refined.get(key), r) for key, record in explored.items()]
            + [record for key, record in refined.items() if key not in explored])


def place(record: dict) -> tuple:
    """What a draft and its rewrite have in common."""
    return record["id"], record["iteration"], record["candidate"]


def lessons_of(records) -> tuple[list[dict], int]:
    """Without right programs that state their answer, and what rewrites made wrong of such a
    draft; and how many state it."""
    stated = {(record["source"], *place(record)) for record in records
              if record["reward"] and not envs.ENVS[record["env"]].teaches(record)}
    return [record for record in records if (record["source"], *place(record)) not in stated
            and (record["reward"] or ("explore", *place(record)) not in stated)], len(stated)


# ------------------------------------------------------------------------------ Candidate pool --

def tidied(record: dict) -> dict:
    """The record with the program to learn from; `sampled` keeps what the model wrote."""
    program = envs.ENVS[record["env"]].tidy(record)
    if program == record["program"]:
        return record
    return {**record, "program": program, "sampled": record.get("sampled", record["program"])}


def distinct(records) -> list[dict]:
    """One record per different program of a task, tidied; right before wrong, then the highest r.

    The order is that in which the programs were first seen.
    """
    best = {}
    for record in map(tidied, records):
        if not record["program"].strip():
            continue
        key = record["id"], envs.ENVS[record["env"]].canonical(record)
        if key not in best or rank(record) > rank(best[key]):
            best[key] = record
    return list(best.values())


def rank(record: dict) -> tuple:
    """Sort key, the larger the better: reward, then the soft self-reward r."""
    return record["reward"], self_reward(record)


def split_pool(pool, order: str = "self-reward", seed: int = 0) -> dict:
    """{id: (P+, P-)}, each sorted by r, highest first (or shuffled: the ablation without r)."""
    tasks = defaultdict(lambda: ([], []))
    for record in pool:
        tasks[record["id"]][1 - record["reward"]].append(record)
    for task, (positives, negatives) in tasks.items():
        for name, side in (("P+", positives), ("P-", negatives)):
            side.sort(key=rank, reverse=True)
            if order == "random":  # each task and side in an order of its own
                random.Random(f"{seed} {task} {name}").shuffle(side)
    return tasks


# ------------------------------------------------------------------------------- Training rows --

def training_rows(positives, negatives, n1_max, n2_max, n3_max=0, reuse=False) -> list[dict]:
    """U1, U2 and the rows that keep what is right, of one task, as prompt-completion rows.

    positives, negatives   P+ and P- of the task, each in the order of its ranks
    """
    if not positives:
        return []
    n1 = min(n1_max, max(1, len(positives) - 1))
    n2 = max(0, min(n2_max, len(positives) - n1, len(negatives)))
    rows = [solve_row(good) for good in positives[:n1]]
    rows += [refine_row(good, bad)
             for good, bad in zip(positives[len(positives) - n2:], negatives[:n2])]
    if reuse:  # the mistakes that are left, from the lowest-ranked positive upwards, in turns
        rows += [refine_row(positives[-1 - place % len(positives)], negatives[place])
                 for place in range(n2, min(n2_max, len(negatives)))]
    return rows + [refine_row(good, good) for good in positives[:n3_max]]


def preference_pairs(positives, negatives, most: int, far=False) -> list[dict]:
    """Up to `most` pairs of a task for DPO: which of two programs to prefer for the same prompt x.

    As in U2 the highest-ranked mistakes come first, beside positives from the lowest-ranked
    upwards, in turns; far: the lowest-ranked mistakes beside the highest-ranked positives.
    """
    if far:
        positives, negatives = positives[::-1], negatives[::-1]
    return [{"prompt": envs.solve_prompt(good), "chosen": envs.completion(good["program"]),
             "rejected": envs.completion(bad["program"]), "id": good["id"]}
            for good, bad in zip(cycle(positives[::-1]), negatives[:most])]


def solve_row(good: dict) -> dict:
    """x -> a+"""
    return {"prompt": envs.solve_prompt(good), "completion": envs.completion(good["program"]),
            "kind": "solve", "id": good["id"]}


def refine_row(good: dict, draft: dict) -> dict:
    """(x, a-) -> a+"""
    return {"prompt": envs.refine_prompt(good, draft["program"]),
            "completion": envs.completion(good["program"]), "kind": "refine", "id": good["id"]}


# ---------------------------------------------------------------------------------------- Main --

def parse_args(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--in", dest="inputs", nargs="+", required=True, help="rewarded candidates of an iteration")
    add("--pool", default=None, help="pool of the iteration before; nothing: an empty pool")
    add("--pool-out", required=True, help="pool to write: all distinct candidates so far")
    add("--out", required=True, help="training rows to write")
    add("--n1", type=int, default=10, help="N1, most positives per task to learn from (web: 2)")
    add("--n2", type=int, default=2, help="N2, most mistakes per task to learn from")
    add("--reuse", action="store_true", help="mistakes may be paired with positives of U1 again")
    add("--n3", type=int, default=0, help="N3, most right programs per task to learn to keep")
    add("--either", action="store_true",
        help="learn from a task's mistakes or what to keep, not both (by a hash of its id)")
    add("--all-positives", action="store_true", help="learn from all of P+ and no mistakes (RFT)")
    add("--pairs", help="file to write pairs (a+, a-) to, for DPO")
    add("--num-pairs", type=int, default=2, help="most pairs per task")
    add("--far-pairs", action="store_true", help="the best with the worst, not the hardest pairs")
    add("--rank", choices=("self-reward", "random"), default="self-reward",
        help="how P+ and P- are sorted, and which of two right programs is superior")
    add("--refined", choices=("keep", "drop"), default="keep",
        help="drop: select among explored ones only")
    add("--stated", action="store_true",
        help="learn from right programs that state their number and compute nothing, too")
    add("--rows-from", choices=("pool", "now"), default="pool",
        help="now: rows are made of this iteration's candidates only; the pool grows all the same")
    add("--seed", type=int, default=0, help="for --rank random")
    add("--limit", type=int, default=None, help="read only the first so many records of --in")
    add("--metrics", type=metrics_file, help="file to add this stage's counts to")
    args = parser.parse_args(argv)
    for name, least in (("n1", 1), ("n2", 0), ("n3", 0), ("num_pairs", 1), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} is {value}, it must be at least {least}")
    return args


def main(argv=None):
    args, started = parse_args(argv), time.time()
    envs.protect_inputs([args.out, args.pool_out, args.pairs, args.metrics],
                        [*args.inputs, args.pool])
    records = read_rewarded(args.inputs, args.limit, envs.unknown_env)
    if args.refined == "drop":
        records = [record for record in records if record["source"] != "refine"]
        if not records:
            envs.fail(f"{args.inputs[0]}: nothing but rewrites (leave --refined drop away)")
    lessons, stated = (records, 0) if args.stated else lessons_of(records)
    fields = ("id", "env", "question", "program", "reward")
    before = envs.read_jsonl(args.pool, fields, allow_empty=True,
                             check=envs.unknown_env) if args.pool else []
    # Without r, chance decides between two right programs as well.
    coin = random.Random(args.seed)
    kept = superior_trajectories(
        lessons, self_reward if args.rank == "self-reward" else lambda record: coin.random())
    pool = distinct(before + kept)
    rows, pairs = [], []
    tasks = split_pool(distinct(kept) if args.rows_from == "now" else pool, args.rank, args.seed)
    for task, (positives, negatives) in tasks.items():
        n2, n3 = args.n2, args.n3
        if args.either:
            n2, n3 = (n2, 0) if negatives and zlib.crc32(task.encode()) % 2 else (0, n3)
        if args.all_positives:
            rows += map(solve_row, positives)
        else:
            rows += training_rows(positives, negatives, args.n1, n2, n3, args.reuse)
        pairs += preference_pairs(positives, negatives, args.num_pairs, args.far_pairs)
    counts = {"tasks": len({record["id"] for record in records + pool}),
              **pool_counts(lessons, kept, before, pool), "stated": stated}
    left_out = f", {stated:,} stated answers left out" * bool(stated)
    solve = sum(row["kind"] == "solve" for row in rows)
    # The rows come last: run.sh takes a file that exists for a stage that has finished.
    envs.add_metrics(args.metrics, {
        "stage": "select", "iteration": records[0]["iteration"],
        "seconds": round(time.time() - started, 1), **counts,
        "rows": len(rows), "solve": solve, "refine": len(rows) - solve,
        **({"pairs": len(pairs)} if args.pairs else {})})
    envs.write_whole(args.pool_out, "".join(map(envs.dump, pool)))
    if args.pairs:
        envs.write_whole(args.pairs, "".join(map(envs.dump, pairs)))
    if not rows:
        envs.fail(f"no task is solved yet{left_out}, so there is nothing to learn from (easier "
                  "tasks, more --num-samples, or a larger --model; the pool is in "
                  f"{args.pool_out})")
    envs.write_whole(args.out, "".join(map(envs.dump, rows)))
    envs.say(f"select: {counts['solved_now']} of {counts['tasks']} tasks solved now "
             f"({counts['solved_new']} new{left_out}), {counts['solved_pool']} in the pool of "
             f"{len(pool):,}; {solve:,} solve + {len(rows) - solve:,} refine rows", out=args.out)


if __name__ == "__main__":
    main()
