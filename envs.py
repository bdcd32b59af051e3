"""Environments: the door that every stage enters by. Records, math, prompts, and the task commands.

Nothing here imports torch, so reward.py, select.py and most tests start at once. In chapters:

    Math      word problems       -> Python programs   (PAL, arXiv 2211.10435), the worked example
    ENVS      all environments; logic and web are in nanoenvisions/
    Prompts   one place for every prompt, for sampling and for training
    Commands  python envs.py make | import | schedule | show

To add an environment, see class Environment in nanoenvisions/environment.py.

Fields of a record (a plain dict that grows from stage to stage; joined by `id`, never by position):

    id          str     the task, unique in a task file                        envs.py
    env         str     "math", "logic" or "web"                               envs.py
    question    str     the instruction x as the model sees it                 envs.py
    answer      num|str the known outcome y                                    envs.py
    group       str     optional: accuracy is also reported per group          envs.py
    style       str     optional: which examples of math it gets                envs.py import
    level       int     optional: harder levels wait until easier are solved   envs.py
    few_shot    float   optional: share of the K samples with examples         envs.py schedule
    iteration   int     t                                                      explore.py
    candidate   int     k, 0 ... K-1                                           explore.py
    source      str     "explore" or "refine"                                  explore.py, refine.py
    program     str     the symbolic solution a, without fences                explore.py, refine.py
    reference   str     the program that was to be refined                     refine.py
    logprob     float   mean log-probability per token, nats, temperature 1    explore.py, refine.py
    tokens      int     number of generated tokens behind `logprob`            explore.py, refine.py
    reward      0|1     b = 1[ENV(a) = y]; --judge: the model's own verdict    reward.py
    outcome     str     correct | wrong | error | timeout | no_program         reward.py
    result      str     the value the program gave, or the error in one line   reward.py
    self_reward float   r, the soft self-reward (= logprob)                    reward.py
    judged      bool    optional: true if the model judged it, without running it  reward.py --judge
    teacher     str     optional: who wrote the program, if not the model      explore.py
    sampled     str     optional: the program as sampled, if it was tidied     select.py (pool)
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from nanoenvisions import collect, importers, sandbox, schedule, show, templates, tidy
from nanoenvisions.environment import Environment, parse_program
from nanoenvisions.flags import Parser, count, share
from nanoenvisions.logic import Logic
from nanoenvisions.records import (HERE, Output, add_metrics, dump, fail, fingerprint, progress,
                                   protect_inputs, read_jsonl, say, write_whole)
from nanoenvisions.values import equal, execute, library_kinds, number, plain
from nanoenvisions.web import Web


def ran(record: dict) -> bool:
    """Whether a rewarded program ran to its end: only then nothing in it can have failed."""
    return not record.get("judged") and record.get("outcome", "correct") in ("correct", "wrong")


MATH_EXAMPLES = json.loads((HERE / "data" / "math_examples.json").read_text(encoding="utf-8"))
STYLES = tuple(name for name in MATH_EXAMPLES if name != "about")


class Math(Environment):
    """Word problems; a solution is a Python function solution() that returns the number (PAL)."""

    # tasks
    fence = "python"
    instruction = "Write a Python function solution() that returns the answer to the question."

    def add_arguments(self, parser):
        parser.add_argument("--templates", default=HERE / "data" / "math_templates.json",
                            metavar="FILE", help="templates of the word problems; the file "
                                                 "explains its form (default: %(default)s)")
        parser.add_argument("--new-formula", type=share, default=0.2, metavar="SHARE",
                            help="share of a test whose formulas are in no training task, 0 to 1 "
                                 "(default: %(default)s)")
        parser.add_argument("--unseen", type=share, default=0.5, metavar="SHARE",
                            help="share of the rest from templates that are in no training task, "
                                 "though their formulas are (default: %(default)s)")

    def make(self, args) -> list[dict]:
        return templates.make_word_problems(args)

    def examples(self, task) -> list[dict]:
        """Worked examples for iteration 0, their stories in no template; a draft is faulty."""
        return MATH_EXAMPLES[task.get("style", "expression")]

    # ---- running and judging ----

    def modules(self, program):
        """Modules worth a server of their own: slow to import and to fork."""
        slow = re.search(r"\b(numpy|sympy|mpmath|scipy|pandas)\b", program)
        return ("numpy", "numpy.random", "sympy") if slow else ()

    def __init__(self):
        self.kinds = library_kinds()  # of numpy's and sympy's numbers, before programs run

    def run(self, program, job):
        """In the child: what solution() returns, else the last line printed, else a variable.

        Math().run("def solution():\\n    return [6 * 7]", {}) -> "42"
        """
        value, printed, names = execute(program)
        if value is not None:
            return plain(value, self.kinds)
        if number(printed) is not None:  # `result = 6; print(result * 7)` says 42
            return printed
        for name in ("answer", "ans", "result"):
            if names.get(name) is not None and not callable(names[name]):
                return plain(names[name], self.kinds)
        if not printed:
            raise ValueError("no answer: no solution() without arguments that returns something, "
                             "no variable answer, nothing printed")
        return printed

    def compare(self, task, value):
        """In the caller: compare({"answer": 42}, "$42.00") -> ("correct", "$42.00")."""
        right = equal(value, str(task["answer"]))
        return "correct" if right else "wrong", " ".join(value.split())[:300]

    def complaint(self, task):
        if number(str(task["answer"])) is None:
            return f'"answer" is {task["answer"]!r:.60} (math needs a finite number)'
        if task.get("style", "expression") not in STYLES:
            return f'"style" is {task["style"]!r:.60} (use one of: {", ".join(STYLES)})'
        return super().complaint(task)

    def tidy(self, record):
        """Without dead code, so that `return 42` followed by junk is no second solution."""
        return tidy.tidy(parse_program(record["program"]), ran=ran(record))

    def teaches(self, record):
        """`return 42` states its answer: a number of the question that fits by luck, most often."""
        return tidy.computes(self.tidy(record))

    def canonical(self, record):
        """The syntax tree of the tidied program: layout and comments make no other solution."""
        return tidy.canonical(parse_program(record["program"]), ran=ran(record))


# ------------------------------------------------------------------------------------ Prompts --
# Plain text without a chat template, so that sampling (explore.py, refine.py) and training
# (select.py) use the same characters for every model, and no other stage needs a tokenizer.
# Instruction and examples stand in iteration 0, and later in a share of an unsolved task's samples:
# else the format has been learned, and prompt tokens cost time.

REFINE = "Check the program: repair it, refine it, or return it as it is."
JUDGE, YES, NO = "Is the program right?", "Yes", "No"
KNOWS_THE_ANSWER = ("answer", "reward", "outcome", "result", "self_reward")


def solve_prompt(task: dict, few_shot: bool = False) -> str:
    """x as the model sees it. The completion is the program and a closing fence: `completion`."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [ask(env, one["question"]) + completion(one["program"]) for one in examples]
    return "\n\n".join([env.instruction] * few_shot + parts + [ask(env, task["question"])])


def refine_prompt(task: dict, reference: str, few_shot: bool = False) -> str:
    """(x, a) as the model sees it when it rewrites its own program a."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [ask(env, one["question"], one["draft"]) + completion(one["program"])
             for one in examples]
    return "\n\n".join([f"{env.instruction} {REFINE}"] * few_shot + parts
                       + [ask(env, task["question"], reference)])


def judge_prompt(record: dict) -> tuple[str, str]:
    """(examples, question) for the model that judges a program itself; the answer stays outside.

    Each worked example is shown twice, right and as the faulty draft, so that neither verdict has
    the majority. The model goes on with YES or NO.
    """
    task = {field: value for field, value in record.items() if field not in KNOWS_THE_ANSWER}
    env, parts = ENVS[task["env"]], []

    def question(asked, program):
        return f"{ask(env, asked)}{completion(program)}\n{JUDGE}\n"
    for number, one in enumerate(env.examples(task)):
        pair = [question(one["question"], one["program"]) + YES,
                question(one["question"], one["draft"]) + NO]
        parts += pair if number % 2 else pair[::-1]
    return "".join(f"{part}\n\n" for part in parts), question(task["question"], task["program"])


def ask(env: Environment, question: str, draft: str | None = None) -> str:
    """A question up to the place where the program is to be written."""
    again = "" if draft is None else f"{completion(draft)}\nRefined:\n```{env.fence}\n"
    return f"Question: {question}\n```{env.fence}\n{again}"


def completion(program: str) -> str:
    """What the model should write after a prompt. Sampling stops at the closing fence."""
    return f"{program}\n```"


# ----------------------------------------------------------------------------- ENVS, Commands --

ENVS = {"math": Math(), "logic": Logic(), "web": Web()}
FORMATS = importers.FORMATS | {name: read for env in ENVS.values()
                               for name, read in env.formats.items()}


def run_programs(jobs, **settings):
    """Run untrusted programs, see nanoenvisions/sandbox.py: yields (status, value) in order."""
    return sandbox.run_programs(ENVS, jobs, **settings)


def unknown_env(record: dict) -> str | None:
    """For read_jsonl: what is wrong with the name of a record's environment."""
    if record["env"] not in ENVS:
        return f'"env" is {record["env"]!r} (use one of: {", ".join(ENVS)})'
    return None


def unfit(record: dict) -> str | None:
    """For read_jsonl: why this task cannot be explored or rewarded; None if it can."""
    fault = unknown_env(record)
    if fault is None and "answer" in record:
        fault = ENVS[record["env"]].complaint(record)
    return fault


def make_tasks(args):
    """envs.py make: generate tasks."""
    protect_inputs([args.out], [getattr(args, "templates", None)])
    tasks = ENVS[args.env].make(args)
    write_whole(args.out, "".join(map(dump, tasks)))
    say(f"make: {len(tasks)} {args.env} tasks, split {args.split}, seed {args.seed}", out=args.out)


def import_tasks(args):
    """envs.py import: turn public data sets, or files of your own, into tasks."""
    collect.import_tasks(args, FORMATS, unknown_env, unfit)


def parse_args(argv):
    parser = Parser(
        prog="envs.py", description="Make tasks, choose among them, or import public data sets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser(
        "make", help="generate tasks", allow_abbrev=False,
        description="Generate tasks. The flags of one environment: envs.py make --env NAME --help")
    add = make.add_argument
    add("--env", choices=ENVS, default="math", help="environment (default: %(default)s)")
    add("--split", choices=["train", "test"], default="train",
        help="they never share a question, whatever their seeds (default: %(default)s)")
    add("--num", type=count, default=96, help="number of tasks (default: %(default)s)")
    add("--rounds", type=count, default=1, metavar="R",
        help="an environment that has new tasks in every iteration (web) makes --num for each of R "
             "iterations, on seeds of their own; others make --num in all (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other tasks (default: %(default)s)")
    add("--out", required=True, help="task file to write, JSON Lines")
    make.set_defaults(command=make_tasks)
    # each environment has flags of its own, so it must be known before the rest can be parsed
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", choices=ENVS, default="math")
    ENVS[first.parse_known_args(argv)[0].env].add_arguments(make)

    schedules = commands.add_parser("schedule", help="choose the tasks of one iteration",
                                   allow_abbrev=False)
    schedule.add_arguments(schedules.add_argument)
    schedules.set_defaults(command=schedule.schedule_tasks)

    imports = commands.add_parser("import", help="turn public data sets, or your files, into tasks",
                                  allow_abbrev=False)
    collect.add_arguments(imports.add_argument, FORMATS, ENVS, styles=STYLES)
    imports.set_defaults(command=import_tasks)

    shows = commands.add_parser("show", help="print a task's life: its programs, rewards, rows",
                                allow_abbrev=False)
    show.add_arguments(shows.add_argument)
    shows.set_defaults(command=show.show_task)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(sys.argv[1:] if argv is None else argv)
    args.command(args)


if __name__ == "__main__":
    main()
