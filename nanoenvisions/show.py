"""envs.py show: a task's life, from the files of a run: question, programs, rewrites, pool, rows.

May import records.
"""
from __future__ import annotations

import difflib
import os
import sys
from collections import Counter
from pathlib import Path

from nanoenvisions.records import fail, is_number, read_jsonl

KINDS = "tasks", "test", "explored", "refined", "rewarded", "eval", "pool", "sft"  # a run's files
MARGIN = "      "


def add_arguments(add):
    add("files", nargs="+", metavar="FILE", help="files of one run (tasks, explored, refined, "
        "rewarded, eval, pool, sft), or its folder")
    add("--id", metavar="ID", help="the task (default: all are listed, one a line)")


def show_task(args):
    """envs.py show: print what became of one task, or which tasks there are."""
    tasks = collect(files_of(args.files))
    if args.id is None:
        lines = [summary(name, task) for name, task in tasks.items()]
    elif args.id in tasks:
        lines = life(args.id, tasks[args.id])
    else:
        near = difflib.get_close_matches(args.id, tasks, 3, 0) or ["none"]
        fail(f"no task {clean(args.id, keep='')!r:.200} in {len(tasks)} tasks (such as "
             f"{', '.join(clean(name, keep='') for name in near)}; without --id all are listed)")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows \u03b1
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ------------------------------------------------------------------------------------ Reading --

def files_of(paths) -> list[Path]:
    """The files named, and those of a run in the folders named; iter2 before iter10."""
    files = []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            found = [file for file in (*path.glob("*.jsonl"), *path.glob("iter*/*.jsonl"))
                     if file.stem in KINDS]
            found.sort(key=lambda file: (len(file.parent.name), file.parent.name,
                                         KINDS.index(file.stem)))
            if not found:
                fail(f"{path}: no files of a run in it (give OUT of run.sh, or files)")
        files += [file for file in found if file not in files]
    return files


def collect(files) -> dict:
    """{id: {"about": fields, "programs": {(iteration, candidate, stage): record},
             "pools": {file: records}, "rows": {file: rows}}}"""
    tasks = {}
    for file in files:
        for record in read_jsonl(file, ("id",), allow_empty=True):
            task = tasks.setdefault(record["id"], {"about": {}, "programs": {}, "pools": {},
                                                   "rows": {}})
            if "completion" in record:
                task["rows"].setdefault(file, []).append(record)
                continue
            task["about"] = record | task["about"]
            if "program" not in record:
                continue
            if file.stem.startswith("pool"):  # tidied programs, and those of all iterations so far
                task["pools"].setdefault(file, []).append(record)
                continue
            stage = "test" if file.stem.startswith("eval") else record.get("source", "explore")
            key = record.get("iteration", 0), record.get("candidate", 0), stage
            before = task["programs"].get(key, record)
            if before["program"] != record["program"]:
                fail(f"{file}: another program of {clean(name_of(key), keep='')} of task "
                     f"{clean(record['id'], keep='')} (give the files of one run)")
            task["programs"][key] = before | record
    return tasks


def name_of(key) -> str:
    """(1, 0, "refine") -> "refine 0 of iteration 1" """
    iteration, candidate, stage = key
    return f"{stage} {candidate} of iteration {iteration}"


# ------------------------------------------------------------------------------------ Writing --

def clean(text, keep="\n") -> str:
    """Text that a terminal shows and never obeys: other than printable characters are escaped.

    >>> clean("red: \\x1b[31m" + chr(0x202e) + "\\n")
    'red: \\\\x1b[31m\\\\u202e\\n'
    """
    return "".join(one if one.isprintable() or one in keep
                   else one.encode("unicode_escape").decode() for one in str(text))


def block(text, first="") -> list[str]:
    """A text of several lines, indented; `first` stands before the first one."""
    lines = clean(text).strip("\n").split("\n")
    return [MARGIN + (first if not number else " " * len(first)) + line
            for number, line in enumerate(lines)]


def compared(draft, rewrite) -> list[str]:
    """The rewrite beside its draft: "- " is gone, "+ " is new; nothing if it is a copy."""
    lines = [clean(text).split("\n") for text in (draft, rewrite)]
    longest = max(map(len, lines))
    return [f"{MARGIN}{line[0]} {line[1:]}" for line in
            list(difflib.unified_diff(*lines, n=longest, lineterm=""))[3:]]  # without its header


def verdict(record) -> str:
    """What the reward said: "correct, reward 1, gave 42, r -0.12 nats a token" """
    parts = [record.get("outcome", "not rewarded")]
    if "reward" in record:
        parts.append(f"reward {record['reward']}")
    if record.get("result"):
        parts.append(f"gave {' '.join(str(record['result']).split())[:100]}")
    r = record.get("self_reward", record.get("logprob"))
    parts.append(f"r {r:.2f} nats a token" if is_number(r) else "no r")
    return clean(", ".join(map(str, parts)), keep="")


def life(name, task) -> list[str]:
    """All that the files say of a task, in the order in which it happened."""
    about, drafts, seen, now = task["about"], {}, {}, None
    lines = [f"task {clean(name, keep='')}"]
    lines += [f"  {field} {clean(about[field], keep='')}" for field in ("env", "level", "group")
              if field in about]
    lines += ["", "question"] + block(about.get("question", "in none of these files"))
    lines += ["known outcome"] + block(about.get("answer", "in none of these files"))
    for key, record in sorted(task["programs"].items(), key=lambda item: (*item[0][:2],
                                                                          str(item[0][2]))):
        iteration, candidate, stage = key
        if iteration != now:
            lines += ["", f"iteration {iteration}"]
            now = iteration
        lines.append(f"  {clean(stage, keep='')} {candidate}: {verdict(record)}")
        program = record["program"]
        if stage == "refine":
            draft = record.get("reference", drafts.get((iteration, candidate), ""))
            lines += compared(draft, program) or [f"{MARGIN}(a copy of its draft)"]
        elif program in seen:
            lines.append(f"{MARGIN}(the same as {clean(seen[program], keep='')})")
        else:
            lines += block(program)
        seen.setdefault(program, name_of(key))
        drafts.setdefault((iteration, candidate), program)
    for file, pool in task["pools"].items():
        lines += ["", f"pool in {clean(file, keep='')}"]
        for reward, side in ((1, "P+"), (0, "P-")):
            some = [record for record in pool if record.get("reward") == reward]
            some.sort(key=lambda one: -one["self_reward"] if is_number(one.get("self_reward"))
                      else float("inf"))
            for place, record in enumerate(some, 1):
                key = (record.get(field) for field in ("iteration", "candidate", "source"))
                lines.append(f"  {side} {place} of {len(some)}: {verdict(record)}; "
                             f"{clean(name_of(key), keep='')}")
                sampled = record.get("sampled", record["program"])
                lines += compared(sampled, record["program"]) or block(record["program"])
    for file, rows in task["rows"].items():
        lines += ["", f"training rows in {clean(file, keep='')}"]
        for row in rows:
            prompt = str(row.get("prompt", ""))
            if about.get("question"):
                prompt = prompt.replace(about["question"], "[the question]")
            lines.append(f"  {clean(row.get('kind', 'row'), keep='')}")
            lines += block(prompt, "x  ") + block(row["completion"], "a+ ")
    return lines


def summary(name, task) -> str:
    """One line of the list: "math/train/7  3 of 10 right, 2 rows  A farm has ..." """
    rewards = Counter(record.get("reward") for record in task["programs"].values())
    # the rows of the last iteration, which are made of the pool of all
    rows = len(list(task["rows"].values())[-1]) if task["rows"] else 0
    question = " ".join(str(task["about"].get("question", "")).split())
    return (f"{clean(name, keep='')}  {rewards[1]} of {sum(rewards.values())} right, "
            f"{rows} rows  {clean(question, keep='')[:70]}")
