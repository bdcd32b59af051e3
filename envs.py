"""Environments: tasks, prompts, parsing, execution, checking - and the records that every stage shares.

Nothing here imports torch, so reward.py, select.py and most tests start at once. In chapters:

    Records   one dict per line of JSON; reading, writing, resuming, one-line errors
    Sandbox   run model-written programs where they can do no harm
    Math      word problems       -> Python programs            (PAL, arXiv 2211.10435)
    Logic     facts and questions -> logic programs, clingo     (Logic-LM, arXiv 2305.12295)
    Web       MiniWoB++ pages     -> action programs, Chromium  (ENVISIONS, arXiv 2406.11736)
    Prompts   one place for every prompt, for sampling and for training
    Commands  python envs.py make | import | schedule

An environment is a class with the members of Math. To add one, imitate Math and enter it in ENVS.

Fields of a record (a plain dict that grows from stage to stage; joined by `id`, never by position):

    id          str    the task, unique in a task file                        envs.py
    env         str    "math", "logic" or "web"                               envs.py
    question    str    the instruction x as the model sees it                 envs.py
    answer      num|str the known outcome y                                   envs.py
    group       str    optional: accuracy is also reported per group          envs.py
    level       int    optional: harder levels wait until easier ones are solved   envs.py
    iteration   int    t                                                      explore.py
    candidate   int    k, 0 ... K-1                                           explore.py
    source      str    "explore" or "refine"                                  explore.py, refine.py
    program     str    the symbolic solution a, without fences                explore.py, refine.py
    reference   str    the program that was to be refined                     refine.py
    logprob     float  mean log-probability per token, nats, temperature 1    explore.py, refine.py
    tokens      int    number of generated tokens behind `logprob`            explore.py, refine.py
    reward      0|1    b = 1[ENV(a) = y]                                      reward.py
    outcome     str    correct | wrong | error | timeout | no_program         reward.py
    result      str    the value the program gave, or the error in one line   reward.py
    self_reward float  r, the soft self-reward (= logprob)                    reward.py
"""
from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import os
import random
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent


# ------------------------------------------------------------------------------------- Records --

def fail(message: str):
    """Stop with exit code 1 and one line on stderr. For faults that the user can mend."""
    raise SystemExit(f"{Path(sys.argv[0]).name}: {message}")


WRITTEN_BY = {"question": "envs.py", "answer": "envs.py", "program": "explore.py", "candidate": "explore.py",
              "iteration": "explore.py", "source": "explore.py", "logprob": "explore.py",
              "reference": "refine.py", "reward": "reward.py", "self_reward": "reward.py",
              "prompt": "select.py", "completion": "select.py"}

FIELD_TYPES = {**dict.fromkeys(("id", "env", "question", "program", "reference", "source", "prompt", "completion"), str),
               **dict.fromkeys(("iteration", "candidate", "reward"), int),
               **dict.fromkeys(("logprob", "self_reward"), (int, float))}
FIELD_NAMES = {str: "a string", int: "a whole number", (int, float): "a number"}


def read_jsonl(path, require=(), limit=None, allow_empty=False) -> list[dict]:
    """All records of a JSON Lines file. Fails with `file:line: what is wrong (what to do)`."""
    records = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(records) >= limit:
                    break
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:  # also UnicodeDecodeError
                    fail(f"{path}:{number}: not JSON: {error} (mend or delete this line)")
                if not isinstance(record, dict):
                    fail(f"{path}:{number}: not a JSON object (each line must be one record: {{...}})")
                for field in require:
                    if field not in record:
                        fail(f'{path}:{number}: no "{field}" ({WRITTEN_BY.get(field, "envs.py make")} writes it)')
                    if field in FIELD_TYPES and not isinstance(record[field], FIELD_TYPES[field]):
                        fail(f'{path}:{number}: "{field}" is {record[field]!r:.60} (it must be '
                             f'{FIELD_NAMES[FIELD_TYPES[field]]})')
                if "env" in require and record["env"] not in ENVS:
                    fail(f'{path}:{number}: "env" is {record["env"]!r} (use one of: {", ".join(ENVS)})')
                records.append(record)
    except OSError as error:
        fail(f"{path}: {error.strerror} (give --in a file that the stage before has written)")
    if not records and not allow_empty:
        fail(f"{path}: no records (give --in a file with at least one line)")
    return records


def dump(record: dict) -> str:
    """One line of JSON. Lone surrogates (models do emit them) become "?" so that the line is valid UTF-8."""
    line = json.dumps(record, ensure_ascii=False)
    return line.encode("utf-8", "replace").decode("utf-8") + "\n"


class Output:
    """A file that appears under its name only when it is whole, and that continues where a killed run stopped.

    Lines go to PATH.part, flushed one by one; `done` holds the records that an earlier run already wrote. The
    settings they were made with lie beside them in PATH.part.settings: other settings are refused, not mixed in.

        with Output("explored.jsonl", settings={"seed": 0}) as out:
            for task in tasks[len(out.done):]:
                out.write({...})
    """

    def __init__(self, path, settings: dict, unit: int = 1):
        self.unit = unit  # lines that are written together; a torn group is dropped on resume
        self.path, self.part = Path(path), Path(f"{path}.part")
        self.note = Path(f"{path}.part.settings")
        self.settings, self.done = json.loads(json.dumps(settings)), []

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.part.exists() and self.note.exists():
                self._resume()
            else:
                self.part.write_bytes(b"")
                write_whole(self.note, dump(self.settings))
            self.file = open(self.part, "ab")
        except OSError as error:
            fail(f"{self.path}: {error.strerror} (choose an --out that can be written)")
        return self

    def _resume(self):
        before = json.loads(self.note.read_text())
        changed = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
        if changed:
            what = ", ".join(f"{key}: {before.get(key)} -> {self.settings.get(key)}" for key in sorted(changed))
            fail(f"{self.part} was begun with other settings ({what}); delete it or use the same settings")
        lines = self.part.read_bytes().split(b"\n")[:-1]  # a line torn by the kill is dropped
        lines = lines[:len(lines) - len(lines) % self.unit]
        with open(self.part, "r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
        self.done = [json.loads(line) for line in lines]

    def write(self, *records: dict):
        try:
            self.file.write("".join(map(dump, records)).encode())
            self.file.flush()
        except OSError as error:
            fail(f"{self.part}: {error.strerror} (free some space and run again: finished lines are kept)")

    def __exit__(self, kind, error, trace):
        try:
            self.file.close()
            if kind is None:
                os.replace(self.part, self.path)
                self.note.unlink()
        except OSError as fault:
            fail(f"{self.path}: {fault.strerror} (free some space and run again: finished lines are kept)")


def write_whole(path, text: str):
    """Write a small file so that it is either the old one or the new one, never half."""
    part = Path(f"{path}.tmp{os.getpid()}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        fail(f"{path}: {error.strerror} (free some space, or choose another place)")


def fingerprint(*paths) -> str:
    """A hash of the input files, so that a half-written output is never continued from other inputs."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(Path(path).read_bytes())
        except OSError as error:
            fail(f"{path}: {error.strerror} (give --in a file that the stage before has written)")
    return digest.hexdigest()[:16]


def add_metrics(path, row: dict):
    """Put one row into metrics.jsonl, in place of an earlier row of the same stage and iteration."""
    if path is None:
        return
    key = (row["stage"], row["iteration"])
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []
    rows = [old for old in rows if (old["stage"], old["iteration"]) != key] + [row]
    write_whole(path, "".join(map(dump, rows)))


def progress(items, label: str, total=None):
    """Iterate with a progress bar on a terminal and nothing but the summary line in a log."""
    from tqdm.auto import tqdm  # comes with transformers
    return tqdm(items, desc=label, total=total, disable=not sys.stderr.isatty(), leave=False)


# ------------------------------------------------------------------------------------- Sandbox --

# ---------------------------------------------------------------------------------------- Math --

def evaluate(expression: str, numbers: dict):
    """Work out an expression of a template file: evaluate("(a + b) / c", {"a": 4, "b": 8, "c": 3}) -> 4.0"""
    # a template file may come from anywhere: nothing but one-letter names, numbers and arithmetic reaches eval
    if not re.fullmatch(r"(\b[a-z]\b|and|or|(?<=\d)\.(?=\d)|[\d\s+\-*/%()<>=!])*", expression):
        raise SyntaxError(f"{expression!r} is more than + - * / % and comparisons of a, b, c ...")
    return eval(expression, {"__builtins__": {}}, numbers)


def whole(number):
    """An int where there is no fraction: whole(34.0) -> 34, whole(2.5) -> 2.5"""
    return int(number) if number == int(number) else round(number, 10)


def fill_template(template: dict, lists: dict, rng: random.Random):
    """One question of a template: (question, answer, numbers), or None if the numbers drawn do not fit.

    {"texts": ["{girl} has {a} pens and buys {b}. How many?"], "numbers": {"a": [2, 9], "b": [2, 9]}, "answer": "a + b"}
    -> ("Mia has 4 pens and buys 7. How many?", 11, {"a": 4, "b": 7})
    """
    numbers = {}
    for name, (low, high, *step) in template["numbers"].items():
        step = step[0] if step else 1
        numbers[name] = low + step * rng.randint(0, int((high - low) / step))
    if not evaluate(template.get("where", "1 > 0"), numbers):
        return None
    answer = whole(evaluate(template["answer"], numbers))
    if len({answer, *numbers.values()}) <= len(numbers):
        return None  # 4 - 2 = 4 / 2: where numbers coincide, a wrong program would earn the reward
    words = {}
    for name, options in lists.items():
        words[name], words[name + "2"] = rng.sample(options, 2)
    return rng.choice(template["texts"]).format(**words, **numbers), answer, numbers


def split_of(template: dict, numbers: dict) -> str:
    """The split that owns these numbers of this template, whatever their order, the wording, the names and the seed."""
    digest = hashlib.sha256(f"{template['id']} {sorted(numbers.values())}".encode()).digest()
    return ("train", "test")[digest[0] % 2]


# Public data sets: the fields of the question, the field of the answer, and where in it the number stands
MATH_FORMATS = {
    "gsm8k": (["question"], "answer", r".*####(.*)"),
    "gsm-hard": (["input"], "target", r"(.*)"),
    "svamp": (["Body", "Question"], "Answer", r"(.*)"),
    "asdiv": (["Body", "Question"], "Answer", r"([^()]*)(?:\([^()]*\))?\s*$"),  # 9 (apples)
    # the last \boxed{...}, which may hold braces of its own; rarely \boxed 5
    "math": (["problem"], "solution",
             r".*(?:\\boxed|\\fbox)(?!.*\\boxed)(?:\{((?:[^{}]|\{[^{}]*\})*)\}|\s*([^\s{}$]+))"),
    "pal": (["input"], "target", r"(.*)"),
    "envisions": (["input"], "label", r"(.*)"),
}
WORDY = ("math", "asdiv")  # answers may also be words, roots or pairs: such rows are left out, and counted


def plain_number(text: str):
    r"""The number that an answer states, or None: "$1,234.50" -> 1234.5, "\frac{3}{4}" -> 0.75, "3:2" -> None"""
    # without units at the end, spacing and signs
    text = re.sub(r"\\(text|mbox)\{[^{}]*\}(\^\{?\d\}?)?\s*$|\\[!,; ]|\\?[$%]|\^\{?\\circ\}?", "", text)
    text = re.sub(r"(?<!\d)\\[dt]?frac(\d|\{-?\d+\})(\d|\{\d+\})(?!\d)", r"\1/\2", text)
    text = re.sub(r"[{}]", "", text).strip()
    if not re.fullmatch(r"[-+]?(\d+|\d{1,3}(,\d{3})+|\d*\.\d+)(\.\d*)?(e[-+]?\d\d?)?(/[1-9]\d*)?", text):
        return None
    above, _, below = text.replace(",", "").partition("/")
    return whole(float(above) / int(below or 1))


def read_rows(path) -> list:
    """The rows of a public data set: JSON, JSON Lines, ASDiv's XML, or a folder of JSON files (MATH)."""
    path, rows = Path(path), []
    try:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            text = file.read_text(encoding="utf-8-sig").strip()
            if text.startswith("<"):
                problems = xml.etree.ElementTree.fromstring(text).iter("Problem")
                rows += [{field.tag: field.text for field in problem} for problem in problems]
            elif text.startswith("[") or path.is_dir():
                found = json.loads(text)
                rows += found if isinstance(found, list) else [found]
            else:
                rows += read_jsonl(file)
    except (OSError, ValueError, xml.etree.ElementTree.ParseError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error} (give the data set's own file)")
    return rows


def import_math(path, format: str) -> list[dict]:
    """The rows of a public data set as tasks; MATH_FORMATS says where question and answer stand in them."""
    fields, answer_field, where = MATH_FORMATS[format]
    rows, tasks = read_rows(path), []
    for number, row in enumerate(rows, 1):
        for field in [*fields, answer_field]:
            if not isinstance(row, dict) or row.get(field) in (None, ""):
                fail(f'{path}: entry {number}: no "{field}" (mend it, or choose another --format than {format})')
        stated = re.match(where, str(row[answer_field]), re.DOTALL)
        answer = plain_number(stated[stated.lastindex]) if stated else None
        if answer is not None:
            question = " ".join(str(row[field]).strip() for field in fields)
            tasks.append({"id": f"math/{format}/{Path(path).stem}/{number:05d}", "env": "math",
                          "question": question, "answer": answer})
        elif format not in WORDY:
            fail(f'{path}: entry {number}: "{answer_field}" ends in {str(row[answer_field])[-40:]!r}, not in a number '
                 f"(mend it, or choose another --format than {format})")
    if len(tasks) < len(rows):
        print(f"{path}: {len(rows) - len(tasks)} of {len(rows)} rows left out: no number as answer", file=sys.stderr)
    return tasks


class Math:
    """Word problems; a solution is a Python function solution() that returns the number (PAL)."""

    # tasks
    fence = "python"
    instruction = "Write a Python function solution() that returns the answer to the question."
    job_fields = ()
    formats = {name: functools.partial(import_math, format=name) for name in MATH_FORMATS}

    def add_arguments(parser):
        parser.add_argument("--templates", default=HERE / "data" / "math_templates.json", metavar="FILE",
                            help="templates of the word problems; the file explains its form (default: %(default)s)")
        parser.add_argument("--unseen", type=share, default=0.5, metavar="SHARE",
                            help="share of a test that comes from held-out templates, 0 to 1 (default: %(default)s)")

    def make(args) -> list[dict]:
        """args.num word problems, the same for the same seed and split; a larger num only adds to them."""
        path = args.templates
        try:
            file = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            fail(f"{path}: {error.strerror} (give --templates a file like data/math_templates.json)")
        except ValueError as error:
            fail(f"{path}: not JSON: {error} (look there for a missing or extra comma or quote)")
        share = args.unseen if args.split == "test" else 0
        tasks, used, template = [], set(), {}
        try:
            for number in range(args.num):
                unseen = int(number * share)  # how many tasks come from held-out templates so far
                is_unseen = int((number + 1) * share) > unseen
                pool = [template for template in file["templates"] if template.get("held_out", False) == is_unseen]
                # balanced: each template once, in a new order each time, before any comes again
                turn, place = divmod(unseen if is_unseen else number - unseen, len(pool))
                template = random.Random(f"{args.seed} {args.split} {turn}").sample(pool, len(pool))[place]
                rng = random.Random(f"{args.seed} {args.split} {number}")
                draws = (fill_template(template, file["lists"], rng) for _ in range(10_000))
                question, answer, _ = next(draw for draw in draws if draw and draw[0] not in used
                                           and split_of(template, draw[2]) == args.split)
                used.add(question)
                tasks.append({"id": f"math/{args.split}/s{args.seed}/{number:04d}-{template['id']}", "env": "math",
                              "question": question, "answer": answer, "group": "unseen" if is_unseen else "known",
                              "level": template["steps"], "template": template["id"]})
        except StopIteration:
            fail(f'{path}: template "{template["id"]}" has no further question after {len(tasks)} tasks '
                 f'(widen its "numbers", ease its "where", or ask for fewer tasks)')
        except (LookupError, AttributeError, SyntaxError, NameError, TypeError, ValueError, ArithmeticError) as error:
            fail(f'{path}: template "{template.get("id", "?")}": {error!r} (compare it with the form explained on top)')
        return tasks

    def canonical(program):
        try:
            return ast.dump(ast.parse(program))
        except Exception:
            return program

    def examples(task) -> list[dict]:
        """Three worked examples for iteration 0, their stories in no template; a draft is a faulty first attempt."""
        return [
            {"question": "Kim has 15 fish. 6 fish swim away. How many fish are left?",
             "program": "def solution():\n    fish = 15\n    away = 6\n    return fish - away",
             "draft": "def solution():\n    fish = 15\n    away = 6\n    return fish + away"},
            {"question": "A box holds 4 cups. How many cups do 12 boxes hold?",
             "program": "def solution():\n    cups = 4\n    boxes = 12\n    return cups * boxes",
             "draft": "def solution():\n    cups = 4\n    return cups * boxes"},
            {"question": "Joe has 20 songs. He adds 7 and cuts 9. How many songs does he have now?",
             "program": "def solution():\n    songs = 20\n    adds = 7\n    cuts = 9\n    return songs + adds - cuts",
             "draft": "def solution():\n    songs = 20\n    adds = 7\n    cuts = 9\n    songs + adds - cuts"},
        ]


# --------------------------------------------------------------------------------------- Logic --

# ----------------------------------------------------------------------------------------- Web --

# ------------------------------------------------------------------------------------- Prompts --
# Plain text without a chat template, so that sampling (explore.py, refine.py) and training (select.py) use the same
# characters for every model, and no stage but the sampling ones needs a tokenizer.

REFINE = "Check the program: repair it, refine it, or return it as it is."


def solve_prompt(task: dict, few_shot: bool = False) -> str:
    """x as the model sees it. The completion is the program and a closing fence: see `completion`."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [env.instruction] + [_ask(env, one["question"]) + completion(one["program"]) for one in examples]
    return "\n\n".join(parts + [_ask(env, task["question"])])


def refine_prompt(task: dict, reference: str, few_shot: bool = False) -> str:
    """(x, a) as the model sees it when it rewrites its own program a."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [f"{env.instruction} {REFINE}"]
    parts += [_ask(env, one["question"], one["draft"]) + completion(one["program"]) for one in examples]
    return "\n\n".join(parts + [_ask(env, task["question"], reference)])


def _ask(env, question: str, draft: str | None = None) -> str:
    again = "" if draft is None else f"{completion(draft)}\nRefined:\n```{env.fence}\n"
    return f"Question: {question}\n```{env.fence}\n{again}"


def completion(program: str) -> str:
    """What the model should write after a prompt. Sampling stops at the closing fence."""
    return f"{program}\n```"


def parse_program(text: str) -> str:
    """The program in a completion: without fences and without blank lines around it.

    >>> parse_program("def solution():\\n    return 2\\n```\\n\\nQuestion: ...")
    'def solution():\\n    return 2'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].startswith("```"):  # some models open a fence of their own
        lines = lines[1:]
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    return "\n".join(lines[:fences[0]] if fences else lines).strip("\n").rstrip()

# ------------------------------------------------------------------------------------ Commands --

ENVS = {"math": Math}
FORMATS = {name: importer for env in ENVS.values() for name, importer in env.formats.items()}


def make_tasks(args):
    """envs.py make: generate tasks."""
    tasks = ENVS[args.env].make(args)
    write_whole(args.out, "".join(map(dump, tasks)))
    print(f"make: {len(tasks)} {args.env} tasks, split {args.split}, seed {args.seed} -> {args.out}")


def import_tasks(args):
    """envs.py import: turn a public data set into tasks."""
    tasks = FORMATS[args.format](args.file)[:args.limit]
    if not tasks:
        fail(f"{args.file}: no tasks in it (is it the right file for --format {args.format}?)")
    write_whole(args.out, "".join(map(dump, tasks)))
    print(f"import: {len(tasks)} tasks of {args.format} -> {args.out}")


def share(text: str) -> float:
    """A flag's value from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def count(text: str) -> int:
    """A flag's value that is a whole number from 1 on."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="envs.py", description="Make tasks, or import them from public data sets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser("make", help="generate tasks", allow_abbrev=False, description=
                               "Generate tasks. The flags of one environment: envs.py make --env NAME --help")
    make.add_argument("--env", choices=ENVS, default="math", help="environment (default: %(default)s)")
    make.add_argument("--split", choices=["train", "test"], default="train",
                      help="train and test never share a question, whatever their seeds (default: %(default)s)")
    make.add_argument("--num", type=count, default=96, help="number of tasks (default: %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="another seed, other tasks (default: %(default)s)")
    make.add_argument("--out", required=True, help="task file to write, JSON Lines")
    make.set_defaults(command=make_tasks)
    # each environment has flags of its own, so it must be known before the rest can be parsed
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", choices=ENVS, default="math")
    ENVS[first.parse_known_args(argv)[0].env].add_arguments(make)

    imports = commands.add_parser("import", help="turn a public data set's own file into tasks", allow_abbrev=False)
    imports.add_argument("file", metavar="FILE", help="the data set's own file (MATH: or its folder)")
    imports.add_argument("--format", choices=FORMATS, required=True, help="which data set it is")
    imports.add_argument("--limit", type=count, metavar="N", help="only the first N tasks (default: all)")
    imports.add_argument("--out", required=True, help="task file to write, JSON Lines")
    imports.set_defaults(command=import_tasks)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(sys.argv[1:] if argv is None else argv)
    args.command(args)


if __name__ == "__main__":
    main()
