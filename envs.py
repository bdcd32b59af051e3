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
import hashlib
import json
import os
import random
import sys
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


def read_jsonl(path, require=(), limit=None) -> list[dict]:
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
                if "env" in require and record["env"] not in ENVS:
                    fail(f'{path}:{number}: "env" is {record["env"]!r} (use one of: {", ".join(ENVS)})')
                records.append(record)
    except OSError as error:
        fail(f"{path}: {error.strerror} (give --in a file that the stage before has written)")
    if not records:
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
