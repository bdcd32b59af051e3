"""envs.py schedule: which tasks an iteration explores, by level, round, need and chance.

May import flags and records.
"""
from __future__ import annotations

import random

from nanoenvisions.flags import count, share
from nanoenvisions.records import dump, fail, protect_inputs, read_jsonl, say, write_whole


def add_arguments(add):
    """The flags of the command."""
    add("--in", dest="inputs", required=True, metavar="FILE", help="all tasks")
    add("--out", required=True, metavar="FILE", help="the tasks to explore now")
    add("--iteration", type=int, required=True, help="t")
    add("--pool", metavar="FILE", help="pool so far: says which tasks are solved")
    add("--enough", type=share, default=0, metavar="SHARE",
        help="share of a level to solve before the next is let in (default: all levels at once)")
    add("--few-shot-unsolved", type=share, default=0, metavar="SHARE",
        help="share of an unsolved task's samples with examples in the prompt (default: none)")
    add("--most", type=count, metavar="N",
        help="explore N tasks, those that need it most (default: all)")
    add("--history", nargs="*", default=[], metavar="FILE",
        help="rewarded programs of the iterations so far, for --most")
    add("--again", type=share, default=1, metavar="SHARE",
        help="share of the tasks that the pool has solved to explore again (default: all)")


def schedule_tasks(args):
    """envs.py schedule: which tasks are explored in this iteration, and which with examples.

    round                 tasks that have one belong to that iteration (web: new seeds each time)
    --enough              a curriculum, for environments where the hardest tasks are out of reach at
                          first: see `reached_level`
    --again               of the solved tasks explore this share once more: the pool keeps their
                          solutions, and the time goes to the others
    --most                so many tasks: first those not explored for longest, of these those that
                          were seldom solved when they were (AdaSTaR, arXiv 2505.16322); --history
                          tells. What is left out then comes first in the next iteration
    --few-shot-unsolved   unsolved tasks keep examples in this share of their samples: without them
                          a model that has learned from small tasks only writes small programs
    """
    protect_inputs([args.out], [args.inputs, args.pool, *args.history])
    tasks = read_jsonl(args.inputs, require=("id",))
    pool = read_jsonl(args.pool, ("id", "reward"), allow_empty=True) if args.pool else []
    solved = {record["id"] for record in pool if record["reward"]}
    reached = reached_level(tasks, solved, args.enough)
    chosen = [task for task in tasks if task.get("level", 0) <= reached
              and task.get("round", args.iteration) == args.iteration]
    if not chosen:
        fail(f"{args.inputs}: no task for iteration {args.iteration} "
             "(make tasks with more --rounds)")
    rng = random.Random(args.iteration)
    chosen = [task for task in chosen
              if task["id"] not in solved or rng.random() < args.again] or chosen
    if args.most and args.most < len(chosen):
        records = [record for path in args.history
                   for record in read_jsonl(path, ("id", "iteration", "reward"))]
        first = by_need(chosen, records, rng)[:args.most]
        chosen = [task for task in chosen if task["id"] in first]
    for task in chosen:
        if args.pool and args.few_shot_unsolved and task["id"] not in solved:
            task["few_shot"] = args.few_shot_unsolved
    write_whole(args.out, "".join(map(dump, chosen)))
    say(f"schedule: {len(chosen)} of {len(tasks)} tasks, levels to {reached}, "
        f"{sum('few_shot' in task for task in chosen)} with examples", out=args.out)


def reached_level(tasks, solved, enough: float) -> int:
    """The hardest level that is let in: level n + 1 waits until `enough` of level n is solved.

    >>> reached_level([{"id": "a", "level": 1}, {"id": "b", "level": 2}], {"a"}, 0.5)
    2
    """
    levels = sorted({task.get("level", 0) for task in tasks})
    for level in levels[:-1]:
        of_level = [task["id"] in solved for task in tasks if task.get("level", 0) == level]
        if sum(of_level) < enough * len(of_level):
            return level
    return levels[-1]


def by_need(tasks, history, rng) -> list[str]:
    """Ids of the tasks: explored longest ago first, then the lower share of right programs in that
    iteration, then by chance. Those never explored come before all others.

    >>> past = [{"id": "a", "iteration": 0, "reward": 1}, {"id": "b", "iteration": 0, "reward": 0}]
    >>> by_need([{"id": "a"}, {"id": "b"}, {"id": "c"}], past, random.Random(0))
    ['c', 'b', 'a']
    """
    last, rewards = {}, {}
    for record in history:
        last[record["id"]] = max(record["iteration"], last.get(record["id"], -1))
    for record in history:
        if record["iteration"] == last[record["id"]]:
            rewards.setdefault(record["id"], []).append(record["reward"])
    names = [task["id"] for task in tasks]
    rng.shuffle(names)
    return sorted(names, key=lambda name: (last.get(name, -1), name in last
                                           and sum(rewards[name]) / len(rewards[name])))
