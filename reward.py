"""Stage 3 of 5, reward: run every program and see whether it gives the known answer.

Steps 2, 3, 5, 6 and 7 of the article's iteration (arXiv 2406.11736, section 2):

    2, 5   execute             y_k = ENV(a_k)            once for explored, once for refined programs
    3, 6   binary reward       b_k = 1[y_k = y]          `reward`, 0 or 1; y is the task's `answer`
    7      soft self-reward    r_k = (1/|a|) sum_i log p(a_i | ., a_<i)      `self_reward`, nats per token

The programs are written by a model, so they run in the sandbox (chapter Sandbox of envs.py), each in a process of its
own that may neither read nor harm anything. The sandbox never learns the answers: programs state values, and the
comparison happens here. r was measured when the program was sampled (`logprob`); here it only gets its name.

    reads    id, env, answer, program, and if there: logprob, iteration, source, group
    writes   the same lines in the same order, with
             reward       0 or 1
             outcome      correct | wrong | error | timeout | no_program
             result       the value that the program gave, or the error in one line
             self_reward  r

    python reward.py --in iter0/explored.jsonl iter0/refined.jsonl --out iter0/rewarded.jsonl

Cost: milliseconds per program, no GPU. An endless program costs --timeout seconds of one core.

Differences from the authors' code:
1. A wrong answer of 0 is wrong, not a timeout: outcomes are words and values are never tested for truth.
2. Results belong to their line by construction; a program that hangs or crashes costs its own reward only.
3. No program is rejected unread, no list of programs to skip: the sandbox bears them all.
"""
from __future__ import annotations

import argparse
import collections
import time

import envs


def complaint(record: dict) -> str | None:
    """What makes a record unfit to be rewarded, and the remedy; None if nothing does."""
    return envs.unknown_env(record) or envs.ENVS[record["env"]].complaint(record)


def read_candidates(paths, limit=None) -> list[dict]:
    """All records of all files, one file after the other, each fit to be rewarded."""
    records = []
    for path in paths:
        room = None if limit is None else limit - len(records)
        if room == 0:
            break
        records += envs.read_jsonl(path, ("id", "env", "answer", "program"), room,
                                   allow_empty=len(paths) > 1, check=complaint)
    if not records:
        envs.fail(f"{paths[0]}: no records (give --in a file that explore.py has written)")
    return records


def make_job(record: dict) -> dict:
    """What travels into the sandbox: the program and what it needs to run; never the answer."""
    fields = envs.ENVS[record["env"]].job_fields
    return {"env": record["env"], "program": record["program"],
            **{field: record.get(field, default) for field, default in fields.items()}}


def judge(record: dict, status: str, value: str) -> dict:
    """Steps 3, 6 and 7: the record with its reward fields.

    judge({"env": "math", "answer": 42, "logprob": -0.5, ...}, "ok", "42.0")
    -> {..., "reward": 1, "outcome": "correct", "result": "42.0", "self_reward": -0.5}
    """
    outcome, result = (status, value) if status != "ok" else envs.ENVS[record["env"]].compare(record, value)
    rewarded = {**record, "reward": int(outcome == "correct"),  # b = 1[ENV(a) = y]
                "outcome": outcome, "result": result}
    if record.get("logprob") is not None:
        rewarded["self_reward"] = record["logprob"]             # r; None came from outside, without a model
    return rewarded


def share(records) -> dict:
    """{"num": 4, "correct": 1, "share": 0.25}"""
    correct = sum(record["reward"] for record in records)
    return {"num": len(records), "correct": correct, "share": round(correct / max(1, len(records)), 4)}


def grouped(records, field) -> dict:
    """Records by the value of a field, leaving out those without it."""
    groups = collections.defaultdict(list)
    for record in records:
        if record.get(field) is not None:
            groups[str(record[field])].append(record)
    return groups


def metrics_row(records, seconds: float, is_eval: bool) -> dict:
    """The row for metrics.jsonl: all counts, per source (explore: b, refine: b~) and, for evaluation, the accuracy."""
    row = {"stage": "eval" if is_eval else "reward", "iteration": records[0].get("iteration", 0),
           "seconds": round(seconds, 1), **share(records),
           "tasks": len({record["id"] for record in records}),
           "tasks_solved": len({record["id"] for record in records if record["reward"]}),
           "outcomes": dict(collections.Counter(record["outcome"] for record in records)),
           "by_source": {source: {**share(group), "tasks_solved": len({r["id"] for r in group if r["reward"]})}
                         for source, group in grouped(records, "source").items()}}
    if is_eval:
        row["accuracy"] = row["share"]
        row["by_group"] = {name: {"accuracy": share(group)["share"], "num": len(group)}
                           for name, group in sorted(grouped(records, "group").items())}
    return row


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, metavar="FILE",
                        help="candidates of explore.py and refine.py, one file or more; environments may be mixed")
    parser.add_argument("--out", required=True, metavar="FILE", help="the same lines with reward fields")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS",
                        help="for one program; time spent waiting for a core is not counted (default: 2)")
    parser.add_argument("--workers", type=int, default=None, metavar="N",
                        help="programs that compute at the same time (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="for programs that use random or depend on hashing (0)")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N candidates")
    parser.add_argument("--eval", action="store_true", help="greedy answers to held-out tasks: report the accuracy")
    parser.add_argument("--metrics", default=None, metavar="FILE", help="put the counts into this metrics.jsonl")
    args = parser.parse_args(argv)
    if args.timeout <= 0:
        parser.error(f"--timeout is {args.timeout:g}, it must be more than 0 seconds")
    for name in ("workers", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, it must be at least 1")
    return args


def main(argv=None):
    args = parse_args(argv)
    start = time.monotonic()
    candidates = read_candidates(args.inputs, args.limit)
    settings = {"inputs": envs.fingerprint(*args.inputs), "timeout": args.timeout, "seed": args.seed,
                "limit": args.limit}
    with envs.Output(args.out, settings) as out:
        rewarded, todo = list(out.done), candidates[len(out.done):]
        results = envs.run_programs(map(make_job, todo), timeout=args.timeout, workers=args.workers,
                                    seed=args.seed)
        for record, (status, value) in zip(todo, envs.progress(results, "reward", total=len(todo))):
            rewarded.append(judge(record, status, value))
            out.write(rewarded[-1])
        for environment in envs.ENVS.values():
            environment.close()
    row = metrics_row(rewarded, time.monotonic() - start, args.eval)
    envs.add_metrics(args.metrics, row)
    outcomes = collections.Counter(row["outcomes"])
    print(f"reward: {row['num']:,} programs, {row['correct']:,} correct ({row['share']:.0%}), "
          f"{row['tasks_solved']} of {row['tasks']} tasks solved, {outcomes['error']} error, "
          f"{outcomes['timeout']} timeout, {row['seconds']} s -> {args.out}")


if __name__ == "__main__":
    main()
