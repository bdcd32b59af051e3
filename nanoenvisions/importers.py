"""Importers: public data sets as tasks.

May import records, templates and theories.
"""
from __future__ import annotations

import functools
import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

from nanoenvisions.theories import numbered
from nanoenvisions.records import fail, read_jsonl
from nanoenvisions.templates import whole

# Public data sets: the fields of the question, that of the answer, where in it the number stands
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
WORDY = ("math", "asdiv")  # answers may be words, roots or pairs: such rows are left out, counted


def plain_number(text: str):
    r"""The number that an answer states, or None.

    "$1,234.50" -> 1234.5, "\frac{3}{4}" -> 0.75, "3:2" -> None
    """
    # without units at the end, spacing and signs
    text = re.sub(r"\\(text|mbox)\{[^{}]*\}(\^\{?\d\}?)?\s*$|\\[!,; ]|\\?[$%]|\^\{?\\circ\}?",
                  "", text)
    text = re.sub(r"(?<!\d)\\[dt]?frac(\d|\{-?\d+\})(\d|\{\d+\})(?!\d)", r"\1/\2", text)
    text = re.sub(r"[{}]", "", text).strip()
    if not re.fullmatch(r"[-+]?(\d+|\d{1,3}(,\d{3})+|\d*\.\d+)(\.\d*)?(e[-+]?\d\d?)?(/[1-9]\d*)?",
                        text):
        return None
    above, _, below = text.replace(",", "").partition("/")
    return whole(float(above) / int(below or 1))


def read_rows(path) -> list:
    """The rows of a public data set: JSON (Lines), ASDiv's XML, or MATH's folder of JSON."""
    path, rows = Path(path), []
    try:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            text = file.read_text(encoding="utf-8-sig").strip()
            if text.startswith("<"):
                problems = xml.etree.ElementTree.fromstring(text).iter("Problem")
                rows += [{field.tag: field.text for field in problem} for problem in problems]
            elif text.startswith(("[", "{\n")) or path.is_dir():
                found = json.loads(text)
                rows += found if isinstance(found, list) else [found]
            else:
                rows += read_jsonl(file)
    except (OSError, ValueError, xml.etree.ElementTree.ParseError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error} (give the data set's own file)")
    return rows


def import_math(path, format: str) -> list[dict]:
    """The rows of a public data set as tasks; MATH_FORMATS says where question and answer stand."""
    fields, answer_field, where = MATH_FORMATS[format]
    rows, tasks = read_rows(path), []
    for number, row in enumerate(rows, 1):
        for field in [*fields, answer_field]:
            if not isinstance(row, dict) or row.get(field) in (None, ""):
                fail(f'{path}: entry {number}: no "{field}" '
                     f"(mend it, or choose another --format than {format})")
        stated = re.match(where, str(row[answer_field]), re.DOTALL)
        answer = plain_number(stated[stated.lastindex]) if stated else None
        if answer is not None:
            question = " ".join(str(row[field]).strip() for field in fields)
            tasks.append({"id": f"math/{format}/{Path(path).stem}/{number:05d}", "env": "math",
                          "question": question, "answer": answer})
        elif format not in WORDY:
            fail(f'{path}: entry {number}: "{answer_field}" ends in '
                 f"{str(row[answer_field])[-40:]!r}, not in a number "
                 f"(mend it, or choose another --format than {format})")
    if len(tasks) < len(rows):
        print(f"{path}: {len(rows) - len(tasks)} of {len(rows)} rows left out: no number as answer",
              file=sys.stderr)
    return tasks


def import_logic(path, format: str) -> list[dict]:
    """A public data set as tasks; logiclm-programs as candidates that a language model wrote."""
    rows, tasks = read_rows(path), []
    # ProntoQA is one object: {"example1": {"test_example": {...}, ...}, ...}
    if format == "prontoqa" and "example1" in rows[0]:
        rows = [example["test_example"] for example in rows[0].values()]
    for number, row in enumerate(rows, 1):
        try:
            context = row.get("theory") or row["context" if "context" in row else "question"]
            if isinstance(row.get("questions"), dict):  # ProofWriter, and RuleTaker's meta files
                asked = [(item["question"], item["answer"]) for item in row["questions"].values()]
            elif "questions" in row:  # RuleTaker
                asked = [(item["text"], item["label"]) for item in row["questions"]]
            elif "query" in row:  # ProntoQA
                asked = [(row["query"], row["answer"])]
            else:  # ENVISIONS and Logic-LM: "A" with the options ["A) True", "B) False", ...]
                options = dict(option.split(") ") for option in row["options"])
                asked = [(row["question"], options[row["answer"]])]
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            fail(f"{path}: entry {number} is not of --format {format} "
                 f"({error!r}; mend it, or choose another format)")
        open_world = ("OWA" in str(row.get("id")) or len(row.get("options", "")) == 3
                      or "Unknown" in dict(asked).values())
        pronto = "pronto" in f"{format} {path}".lower()
        semantics = "pronto" if pronto else "owa" if open_world else "cwa"
        sentences = re.split(r"(?<=[.!])\s+", context.strip())
        for place, (text, answer) in enumerate(asked):
            statement = re.split(r"[:?]\s+(?=\S)", text)[-1].strip(" .?") + "?"
            task = {"id": f"logic/{format}/{number:05d}-{row.get('id', '')}/{place}",
                    "env": "logic", "question": numbered([*sentences, statement]),
                    "answer": str(answer), "semantics": semantics, "guards": False}
            if format != "logiclm-programs":
                tasks.append(task)
                continue
            for candidate, program in enumerate(row["raw_logic_programs"]):
                tasks.append({**task, "iteration": 0, "candidate": candidate, "source": "explore",
                              "program": program})
    return tasks


FORMATS = {**{name: functools.partial(import_math, format=name) for name in MATH_FORMATS},
           **{name: functools.partial(import_logic, format=name) for name in
              ("proofwriter", "ruletaker", "prontoqa", "logiclm", "logiclm-programs",
               "envisions-logic")}}
