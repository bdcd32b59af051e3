"""Stage 3 of 5, reward: run every program and see whether it gives the known answer.

Steps 2, 3, 5, 6 and 7 of the article's iteration (arXiv 2406.11736, section 2):

    2, 5   execute            y_k = ENV(a_k)           once for explored, once for refined programs
    3, 6   binary reward      b_k = 1[y_k = y]         `reward`, 0 or 1; y is the task's `answer`
    7      soft self-reward   r_k = (1/|a|) sum_i log p(a_i | ., a_<i)   `self_reward`, nats a token

The programs are written by a model, so they run in the sandbox (docs/SANDBOX.md), each in a process
of its own that may neither read nor harm anything. The sandbox never learns the answers: programs
state values, and the comparison happens here. r was measured when the program was sampled
(`logprob`); here it only gets its name.

    reads    id, env, answer, program, and if there: logprob, iteration, source, group
    writes   the same lines in the same order, with
             reward       0 or 1
             outcome      correct | wrong | error | timeout | no_program
             result       the value that the program gave, or the error in one line
             self_reward  r

    python reward.py --in iter0/explored.jsonl iter0/refined.jsonl --out iter0/rewarded.jsonl

--judge is another reward, that of METHOD=self-rewarding: no program is run and no answer looked at,
the model reads each program and says Yes or No (`judge_by_model`). That loads a model and torch.

Cost: milliseconds per program, no GPU. An endless program costs --timeout seconds of one core.

Differences from the authors' code:
1. A wrong answer of 0 is wrong, not a timeout: outcomes are words, no value is tested for truth.
2. Results belong to their line by construction; a program that hangs costs its own reward only.
3. No program is rejected unread, no list of programs to skip: the sandbox bears them all.
"""
from __future__ import annotations

import collections
import itertools
import time

import envs
from nanoenvisions.analysis import metrics_row
from nanoenvisions.flags import Parser, metrics_file
from nanoenvisions.folders import check_folders

BATCH = 64  # lines that are written at once, at least


def read_candidates(paths, limit=None) -> list[dict]:
    """All records of all files, one file after the other, each fit to be rewarded."""
    records = []
    for path in paths:
        room = None if limit is None else limit - len(records)
        records += envs.read_jsonl(path, ("id", "env", "answer", "program"), room,
                                   allow_empty=len(paths) > 1, check=envs.unfit)
    if not records:
        envs.fail(f"{paths[0]}: no records (give --in a file that explore.py has written)")
    return records


def make_job(record: dict) -> dict:
    """What travels into the sandbox: the program and what it needs to run; never the answer."""
    fields = envs.ENVS[record["env"]].job_fields
    return {"env": record["env"], "program": record["program"],
            **{field: record.get(field, default) for field, default in fields.items()}}


def batch_ends(records):
    """After which lines we write: whole tasks, BATCH lines at least.

    A program that runs can watch the size of our output grow, and must not learn from it whether
    another solution of its task is right. With BATCH = 2, ids a a a b b c -> 3, 5, 6.
    """
    begin = 0
    for end, (last, following) in enumerate(itertools.zip_longest(records, records[1:]), 1):
        if following is None or end - begin >= BATCH and following["id"] != last["id"]:
            yield end
            begin = end


def judge(record: dict, status: str, value: str) -> dict:
    """Steps 3, 6 and 7: the record with its reward fields.

    judge({"env": "math", "answer": 42, "logprob": -0.5, ...}, "ok", "42.0")
    -> {..., "reward": 1, "outcome": "correct", "result": "42.0", "self_reward": -0.5}
    """
    outcome, result = status, value
    if status == "ok":  # a value: only here it meets the known answer
        outcome, result = envs.ENVS[record["env"]].compare(record, value)
    rewarded = {**record, "reward": int(outcome == "correct"),  # b = 1[ENV(a) = y]
                "outcome": outcome, "result": result}
    if record.get("logprob") is not None:  # it is if the program came from outside, without a model
        rewarded["self_reward"] = record["logprob"]             # r
    return rewarded


def judge_by_model(records, args, out) -> list[dict]:
    """Self-rewarding (arXiv 2401.10020): r = log p(Yes | x, a), the model's word for "right".

    b = 1[r > the mean r of the task's programs], since what a small model says is worth more as a
    comparison than as a number; programs that are all alike get 0.
    """
    from nanoenvisions import scoring  # imports torch, without which rewards by running start fast
    scores = scoring.verdicts([envs.judge_prompt(record) for record in records], envs.YES, envs.NO,
                              args.model, args.adapter, args.bits)
    of_task, judged = collections.defaultdict(list), []
    for record, score in zip(records, scores):
        if record["program"].strip():
            of_task[record["id"]].append(score)
    for record, score in zip(records, scores):
        others = of_task[record["id"]]
        right = bool(record["program"].strip()) and score > max(
            sum(others) / len(others), min(others))  # a mean of equals may be rounded below them
        judged.append({**record, "reward": int(right), "outcome": "correct" if right else "wrong",
                       "result": "judged, not run", "self_reward": score, "judged": True})
    out.write(*judged[len(out.done):])
    return judged


def run_and_judge(candidates, args, out) -> list[dict]:
    """All candidates with their reward fields, written as they come."""
    rewarded, todo = list(out.done), candidates[len(out.done):]
    results = envs.run_programs(map(make_job, todo), timeout=args.timeout,
                                workers=args.workers, seed=args.seed)
    judged = (judge(record, *result) for record, result in
              zip(todo, envs.progress(results, "reward", total=len(todo))))
    for end in batch_ends(candidates):
        batch = list(itertools.islice(judged, max(0, end - len(rewarded))))
        out.write(*batch)
        rewarded += batch
    results.close()
    for environment in envs.ENVS.values():
        environment.close()
    return rewarded


def parse_args(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--in", dest="inputs", nargs="+", required=True, metavar="FILE",
        help="candidates of explore.py and refine.py, one file or more; environments may be mixed")
    add("--out", required=True, metavar="FILE", help="the same lines with reward fields")
    add("--timeout", type=float, default=2.0, metavar="SECONDS",
        help="for one program; time spent waiting for a core is not counted (default: 2)")
    add("--workers", type=int, metavar="N",
        help="programs that compute at the same time (default: one per core)")
    add("--seed", type=int, default=0, metavar="N",
        help="for programs that use random or depend on hashing (default: 0)")
    add("--limit", type=int, metavar="N", help="only the first N candidates")
    add("--eval", action="store_true",
        help="greedy answers to held-out tasks: report the accuracy")
    add("--judge", action="store_true",
        help="the model's own verdict instead of what a program does and the known answer")
    add("--model", help="who judges: hub name or folder (default: the embedded SmolLM2-135M)")
    add("--adapter", help="its adapter (default: the base model)")
    add("--bits", type=int, default=4, choices=(4, 16, 32), help="of its weights (default: 4)")
    add("--metrics", type=metrics_file, metavar="FILE", help="put the counts into this file")
    args = parser.parse_args(argv)
    for name, fits, must in (  # nan fits nowhere
            ("timeout", 0 < args.timeout <= 3600, "more than 0 and at most 3600 seconds"),
            ("seed", 0 <= args.seed < 2 ** 32, "from 0 to 4294967295"),  # as for Python's hashing
            ("workers", args.workers is None or args.workers > 0, "at least 1"),
            ("limit", args.limit is None or args.limit > 0, "at least 1"),
            ("judge", not (args.judge and args.eval), "left away with --eval: that is measured")):
        if not fits:
            envs.fail(f"--{name} is {getattr(args, name)}, it must be {must}")
    return args


def main(argv=None):
    args = parse_args(argv)
    start = time.monotonic()
    candidates = read_candidates(args.inputs, args.limit)
    envs.protect_inputs([args.out, args.metrics], [*args.inputs, args.model, args.adapter])
    settings = {"inputs": envs.fingerprint(*args.inputs), "timeout": args.timeout,
                "seed": args.seed, "limit": args.limit}
    if args.judge:
        check_folders(args.model, args.adapter)
        settings |= {"judge": [args.model, args.adapter, args.bits]}
    with envs.Output(args.out, settings) as out:
        rewarded = (judge_by_model if args.judge else run_and_judge)(candidates, args, out)
        row = metrics_row(rewarded, time.monotonic() - start, args.eval)
        envs.add_metrics(args.metrics, row)  # before the output stands: who has it is finished
    outcomes = collections.Counter(row["outcomes"])
    envs.say(f"{'held out' if args.eval else 'reward'}: {row['num']:,} programs, "
             f"{row['correct']:,} {'judged right' if args.judge else 'correct'} "
             f"({row['share']:.0%}), {row['tasks_solved']} of {row['tasks']} tasks solved",
             *(f"{outcomes[kind]} {kind}" for kind in ("error", "timeout")),
             f"{row['seconds']} s", out=args.out)


if __name__ == "__main__":
    main()
