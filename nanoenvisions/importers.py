"""Importers: the rows of a public data set, or of your own file, as tasks.

A source is a path or "hub:NAME" (read by the `datasets` package). collect.py puts several together.
May import records, templates and theories.
"""
from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import math
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

from nanoenvisions.theories import numbered
from nanoenvisions.records import cure, fail, read_jsonl
from nanoenvisions.templates import whole

# Public data sets: the fields of the question, that of the answer, where in it the number stands
MATH_FORMATS = {
    "gsm8k": (["question"], "answer", r".*####(.*)"),
    "gsm-hard": (["input"], "target", r"(.*)"),
    "svamp": (["Body", "Question"], "Answer", r"(.*)"),
    "asdiv": (["Body", "Question"], "Answer", r"([^()]*)(?:\([^()]*\))?\s*$"),  # 9 (apples)
    # the last \boxed{...}, which may hold braces of its own; rarely \boxed 5
    "math": (["problem"], "solution",
             r".*(?:\\boxed|\\fbox)(?!.*\\boxed)(?:\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
             r"|\s*([^\s{}$]+))"),
    "pal": (["input"], "target", r"(.*)"),
    "envisions": (["input"], "label", r"(.*)"),
    "mawps": (["Question"], "Answer", r"(.*)"),  # and ASDiv-A, SVAMP in the same form
    "multiarith": (["sQuestion"], "lSolutions", r"\[(.*)\]"),  # and SingleEq, AddSub
    "own": (["question"], "answer", r"(.*)"),
}
# answers may be words, roots or pairs: such rows are left out and counted, not refused
OWN_FILE = "give the data set's own file"  # the remedy for what cannot be read
WORDY = ("math", "asdiv", "own")
CALCULATION = re.compile(r"(?:[\d\s+\-*/^().!{}\[\]]|"
                         r"\\(?:[dt]?frac|sqrt|pi|cdot|times|binom|left|right)(?![A-Za-z]))+")


def bare(text: str) -> str:
    """An answer without units at its end, spacing, and signs of money, degrees and percent."""
    return re.sub(r"\\(text|mbox)\{[^{}]*\}(\^\{?\d\}?)?\s*$|\\[!,; ]|\\?[$%]|\^\{?\\circ\}?",
                  "", text.replace("\u2212", "-"))  # the minus sign of typesetting


def plain_number(text: str):
    r"""The number that an answer states, or None.

    "$1,234.50" -> 1234.5, "\frac{3}{4}" -> 0.75, "3:2" -> None
    """
    text = bare(text)
    # a fraction alone: the digits of 2\frac12, however braced, must not run together as 21/2
    text = re.sub(r"^(\D*)\\[dt]?frac(\d|\{-?\d+\})(\d|\{\d+\})(?!.*\d)", r"\1\2/\3", text)
    text = re.sub(r"[{}]", "", text).strip()
    if not re.fullmatch(r"[-+]?((\d+|\d{1,3}(,\d{3})+)(\.\d*)?|\.\d+)(e[-+]?\d\d?)?(/[1-9]\d*)?",
                        text):
        return None
    above, _, below = text.replace(",", "").partition("/")
    value = float(above) / float(below or 1)
    return whole(value) if math.isfinite(value) else None  # 400 digits are beyond all floats


def latex_number(text: str):
    r"""The number that LaTeX such as \frac{\sqrt{3}}{2} states, where math-verify is installed.

    Of 3:2, 0.\overline{3} and 4 hours 30 minutes the library would read a part.
    """
    text = bare(text)
    if not CALCULATION.fullmatch(text):
        return None
    try:
        from math_verify import parse
    except ImportError:
        return None
    # a limit that is never met: a busy machine must not leave out what an idle one reads
    found = parse(f"${text}$", raise_on_error=False, parsing_timeout=3600)
    with contextlib.suppress(ArithmeticError, AttributeError, TypeError, ValueError):
        if found and found[0].is_number and found[0].is_real and found[0].is_finite:
            return whole(float(found[0]))
    return None


def read_rows(source) -> list:
    """The rows of a source: JSON (Lines), CSV, ASDiv's XML, MATH's folder of JSON, a hub data set.
    """
    if str(source).startswith("hub:"):
        return hub_rows(str(source))
    path = file = Path(source)
    rows = []
    try:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            text = file.read_text(encoding="utf-8-sig").strip()
            if text.startswith("<"):
                problems = xml.etree.ElementTree.fromstring(text).iter("Problem")
                rows += [{field.tag: field.text for field in problem} for problem in problems]
            elif text.startswith(("[", "{\n")) or path.is_dir():
                found = json.loads(text)
                rows += found if isinstance(found, list) else [found]
            elif not text.startswith("{") and path.suffix.lower() in (".csv", ".tsv"):
                comma = "\t" if path.suffix.lower() == ".tsv" else ","
                rows += csv.DictReader(io.StringIO(text), delimiter=comma)
            else:
                rows += read_jsonl(file)
    except (OSError, ValueError, RecursionError, csv.Error,
            xml.etree.ElementTree.ParseError) as error:
        begins = file.read_bytes()[:9] if file.is_file() else b""
        fail(f"{file}: {getattr(error, 'strerror', None) or error} ({cure(begins, OWN_FILE)})")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            fail(f"{entry(source, number, rows)} is {row!r:.40}, not an object of fields "
                 f"({OWN_FILE})")
    return rows


def hub_rows(source: str) -> list[dict]:
    """Rows of "hub:NAME[:CONFIG][@SPLIT]"; NAME may be a folder of Parquet, JSON or CSV files.

    Without a CONFIG the set's first, without a SPLIT "train".
    """
    try:
        import datasets
    except ImportError:
        fail(f'{source} needs the package datasets: pip install "datasets>=4,<6" (into .venv)')
    name, _, split = source.removeprefix("hub:").partition("@")
    name, _, config = name.partition(":")
    datasets.disable_progress_bars()
    try:
        config = config or datasets.get_dataset_config_names(name)[0]
        return list(datasets.load_dataset(name, config, split=split or "train"))
    except Exception as error:  # the package raises whatever its readers raise
        fail(f"{source}: {str(error).strip().splitlines()[0]:.200} (is the name right, and the hub "
             "within reach? hub:NAME:CONFIG@SPLIT names all)")


def filled(row: dict) -> dict:
    """A row of MAWPS's CSV with its numbers in place: number0 -> 56, and ordinary spacing.

    {"Question": "Bo has number0 pens , right ?", "Numbers": "2.0"} -> "Bo has 2 pens, right?"
    """
    numbers = [f"{whole(round(float(one), 4))}" for one in str(row.get("Numbers", "")).split()]
    text = re.sub(r"\bnumber(\d+)\b", lambda found: numbers[int(found[1])], str(row["Question"]))
    text = re.sub(r" (?=[.,?!;:%)]|n't\b|'(?:s|m|d|re|ve|ll)\b)", "", text)  # "books ." -> "books."
    return {**row, "Question": text}


def entry(source, number: int, rows: list) -> str:
    """For messages: "data.csv: entry 3"; of a folder with a row in each file, that file."""
    files = sorted(Path(source).rglob("*.json")) if Path(source).is_dir() else []
    return str(files[number - 1]) if len(files) == len(rows) else (
        f"{source_name(source)}: entry {number}")


def import_math(source, format: str, rows=None) -> list[dict]:
    """The rows of a public data set as tasks; MATH_FORMATS says where question and answer stand.

    rows: those of the source, if they have been read already
    """
    fields, answer_field, where = MATH_FORMATS[format]
    rows, tasks, path = rows or read_rows(source), [], source_name(source)
    for number, row in enumerate(rows, 1):
        for field in [*fields, answer_field]:
            if row.get(field) in (None, ""):
                fail(f'{entry(source, number, rows)}: no "{field}" '
                     f"(mend it, or choose another --format than {format})")
        if format == "mawps":
            try:
                row = filled(row)
            except (IndexError, ValueError, OverflowError):
                fail(f'{entry(source, number, rows)}: "Numbers" does not have the numbers of '
                     '"Question" (mend it)')
        stated = re.match(where, str(row[answer_field]), re.DOTALL)
        answer = plain_number(stated[stated.lastindex]) if stated else None
        if answer is None and stated and format == "math":
            answer = latex_number(stated[stated.lastindex])
        if answer is not None:
            question = " ".join(str(row[field]).strip() for field in fields)
            tasks.append({"id": f"math/{format}/{Path(path).stem}/{number:05d}", "env": "math",
                          "question": question, "answer": answer})
        elif format not in WORDY:
            fail(f'{entry(source, number, rows)}: "{answer_field}" ends in '
                 f"{str(row[answer_field])[-40:]!r}, not in a number "
                 f"(mend it, or choose another --format than {format})")
    if len(tasks) < len(rows):
        print(f"{path}: {len(rows) - len(tasks)} of {len(rows)} rows left out: no number as answer",
              file=sys.stderr)
    return tasks


def source_name(source) -> str:
    """For ids and messages: hub:openai/gsm8k:main@test -> openai-gsm8k-main-test"""
    if not str(source).startswith("hub:"):
        return str(source)
    return re.sub(r"[^\w.-]+", "-", str(source).removeprefix("hub:")).strip("-")


def told(row, field: str, kind=str):
    """What a field of a row says, if it is of that kind; else an error that names the field."""
    if not isinstance(row, dict):
        raise ValueError(f'{row!r:.40} stands where "{field}" is to be found')
    if not isinstance(row[field], kind):
        words = {str: "a text", list: "a list", dict: "an object"}[kind]
        raise ValueError(f'"{field}" is {row[field]!r:.40}, not {words}')
    return row[field]


def logic_row(row: dict) -> tuple:
    """(context, [(statement, its answer)], whether it may be unknown) of a row of whatever form."""
    context = told(row, "theory" if row.get("theory") else
                   "context" if "context" in row else "question")
    options = told(row, "options", list) if "options" in row else []
    if isinstance(row.get("questions"), dict):  # ProofWriter, and RuleTaker's meta files
        asked = [(told(item, "question"), item["answer"]) for item in row["questions"].values()]
    elif "questions" in row:  # RuleTaker
        asked = [(told(item, "text"), item["label"]) for item in told(row, "questions", list)]
    elif "query" in row:  # ProntoQA
        asked = [(told(row, "query"), row["answer"])]
    else:  # ENVISIONS and Logic-LM: "A" with the options ["A) True", "B) False", ...]
        letters = dict(str(option).partition(") ")[::2] for option in options)
        if str(row["answer"]) not in letters:
            raise ValueError(f'"answer" is {row["answer"]!r:.40}, none of "options"')
        asked = [(told(row, "question"), letters[str(row["answer"])])]
    unknown = ("OWA" in str(row.get("id")) or len(options) == 3
               or "Unknown" in [answer for _, answer in asked])
    return context, asked, unknown


def import_logic(source, format: str, rows=None) -> list[dict]:
    """A public data set as tasks; logiclm-programs as candidates that a language model wrote."""
    rows, tasks, path = rows or read_rows(source), [], source_name(source)
    # ProntoQA is one object: {"example1": {"test_example": {...}, ...}, ...}
    published = format == "prontoqa" and rows and "example1" in rows[0]
    pronto = "pronto" in f"{format} {Path(source).name}".lower()  # no matter in which folder
    for number, row in enumerate(rows[0].values() if published else rows, 1):
        try:
            row = told(row, "test_example", dict) if published else row
            context, asked, unknown = logic_row(row)
            programs = (told(row, "raw_logic_programs", list)
                        if format == "logiclm-programs" else [])
        except (KeyError, ValueError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            fail(f"{path}: entry {number}: {why} "
                 f"(mend it, or choose another --format than {format})")
        semantics = "owa" if unknown else "pronto" if pronto else "cwa"
        sentences = re.split(r"(?<=[.!])\s+", context.strip())
        for place, (text, answer) in enumerate(asked):
            statement = re.split(r"[:?]\s+(?=\S)", text)[-1].strip(" .?") + "?"
            task = {"id": f"logic/{format}/{number:05d}-{row.get('id', '')}/{place}",
                    "env": "logic", "question": numbered([*sentences, statement]),
                    "answer": str(answer), "semantics": semantics, "guards": False}
            if format != "logiclm-programs":
                tasks.append(task)
                continue
            for candidate, program in enumerate(programs):
                tasks.append({**task, "iteration": 0, "candidate": candidate, "source": "explore",
                              "program": program})
    return tasks


def import_tasks(source, rows=None) -> list[dict]:
    """Rows that are tasks already (envs.py make writes such), or your own ones of any environment.

    A row needs "question" and "answer"; "env" is math, and an id is made, where there is none.
    """
    rows, path = rows or read_rows(source), source_name(source)
    for number, row in enumerate(rows, 1):
        for field in ("question", "answer"):
            if row.get(field) in (None, ""):
                fail(f'{entry(source, number, rows)}: no "{field}" (a task needs "question" and '
                     '"answer")')
    return [{"id": f"{row.get('env', 'math')}/own/{Path(path).stem}/{number:05d}", "env": "math",
             **row} for number, row in enumerate(rows, 1)]


FORMATS = {"tasks": import_tasks,
           **{name: functools.partial(import_math, format=name) for name in MATH_FORMATS},
           **{name: functools.partial(import_logic, format=name) for name in
              ("proofwriter", "ruletaker", "prontoqa", "logiclm", "logiclm-programs",
               "envisions-logic")}}
