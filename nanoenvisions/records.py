"""Records: one JSON object a line. Reading, writing, resuming, metrics, errors in one line.

May import the standard library only, so that every stage starts at once.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent  # the repository

WRITTEN_BY = {"question": "envs.py", "answer": "envs.py", "program": "explore.py",
              "candidate": "explore.py", "iteration": "explore.py", "source": "explore.py",
              "logprob": "explore.py", "reference": "refine.py", "reward": "reward.py",
              "self_reward": "reward.py", "prompt": "select.py", "completion": "select.py",
              "chosen": "select.py", "rejected": "select.py"}


def is_number(value) -> bool:
    """A finite one: 1 and 0.5 are, True, "1" and nan are not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


# What a field must be, wherever it is: (in words, test)
TEXT = ("a string", lambda value: isinstance(value, str))
COUNT = ("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
NUMBER = ("a finite number", is_number)
FIELD_RULES = {"id": TEXT, "env": TEXT, "question": TEXT, "program": TEXT, "reference": TEXT,
               "prompt": TEXT, "completion": TEXT, "chosen": TEXT,
               "rejected": TEXT, "iteration": COUNT,
               "candidate": COUNT, "tokens": COUNT, "logprob": NUMBER, "self_reward": NUMBER,
               "level": NUMBER, "few_shot": NUMBER,
               "source": ("explore or refine", lambda value: value in ("explore", "refine")),
               "reward": ("0 or 1", lambda value: type(value) is int and value in (0, 1))}
OPTIONAL = ("logprob", "self_reward", "tokens")  # may be null: programs come from elsewhere, too


def fail(message: str):
    """Stop with exit code 1 and one line on stderr. For faults that the user can mend."""
    raise SystemExit(in_settings(f"{Path(sys.argv[0]).name}: {message}"))


TYPED_AS = {"LIMIT": "NUM_TRAIN", "NUM": "NUM_TRAIN", "STYLE": "EXAMPLES"}  # flags of envs.py


def in_settings(message: str) -> str:
    """In a stage that run.sh has started: the settings that were typed, instead of flags.

    "more --num-samples" -> "more NUM_SAMPLES"; "--slots" -> "--slots in EXPLORE_FLAGS"
    """
    settings = os.environ.get("RUN_SH_SETTINGS", "").split()
    stage, named = Path(sys.argv[0]).stem, []
    flags = "MAKE_FLAGS" if stage == "envs" else f"{stage.upper()}_FLAGS"

    def typed(found):
        name = found[1].replace("-", "_").upper()
        name = TYPED_AS.get(name, name) if stage == "envs" else name
        named.append(name)
        return name if name in settings else f"{found[0]} in {flags}"
    if flags in settings:
        message = re.sub(r"(?<![\w-])--([a-z][a-z0-9-]*)", typed, message)
        if {*named} - {"OUT", "IN", "METRICS"}:
            message += "; changed settings need another OUT"
    return message


# ------------------------------------------------------------------------------------ Reading --

def read_jsonl(path, require=(), limit=None, allow_empty=False,
               check=lambda record: None) -> list[dict]:
    """All records of a JSON Lines file, each with the fields of `require`.

    check(record) says what is wrong with a record, or None.
    Fails with `file:line: what is wrong (what to do)`.
    """
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
                except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
                    fail(f"{path}:{number}: not JSON: {error} ({cure(line)})")
                if fault := complaint(record, require) or check(record):
                    fail(f"{path}:{number}: {fault}")
                records.append(record)
    except OSError as error:
        fail(f"{path}: {error.strerror} (give --in a file that the stage before has written)")
    if not records and not allow_empty:
        fail(f"{path}: no records (give --in a file with at least one line)")
    return records


def cure(line: bytes, otherwise="mend or delete this line") -> str:
    """What to do about a line that is not JSON, judged by how it begins."""
    if line.startswith(b"\x1f\x8b"):
        return "this file is compressed: unpack it with gunzip first"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "this file is UTF-16: save it as UTF-8"
    return otherwise


def complaint(record, require) -> str | None:
    """What is wrong with the fields of a record, and the remedy; None if nothing is."""
    if not isinstance(record, dict):
        return "not a JSON object (each line must be one record: {...})"
    for field in require:
        if field not in record:
            return f'no "{field}" ({WRITTEN_BY.get(field, "envs.py make")} writes it)'
    for field, (words, fits) in FIELD_RULES.items():
        value = record.get(field)
        if field in record and not fits(value) and not (value is None and field in OPTIONAL):
            return f'"{field}" is {value!r:.60} (it must be {words})'
    return None


def read_rewarded(paths, limit, fault) -> list[dict]:
    """All rewarded candidates; two of one name would be joined wrongly, so they are refused.

    fault(record)   what else is wrong with one; None if nothing is
    """
    fields = ("id", "env", "question", "program", "source", "iteration", "candidate", "reward")
    seen, records = set(), []

    def check(record):
        key = tuple(record[field] for field in ("source", "id", "iteration", "candidate"))
        if key in seen:
            return (f'a second "{key[0]}" program of task "{key[1]}", iteration {key[2]}, '
                    f"candidate {key[3]} (drafts and rewrites are joined by these)")
        seen.add(key)
        return fault(record)
    for path in paths:
        left = None if limit is None else limit - len(records)
        records += read_jsonl(path, fields, left, allow_empty=left == 0, check=check)
    return records


# ------------------------------------------------------------------------------------ Writing --

def dump(record: dict) -> str:
    """One line of JSON. Lone surrogates (models do emit them) are escaped, and so come back."""
    try:
        line = json.dumps(record, ensure_ascii=False)
        line.encode("utf-8")
    except RecursionError:
        fail("a record has fields within fields, too deep to be written (mend it in the input)")
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"


def protect_inputs(outputs, inputs):
    """Fail if an output, or its PATH.part, is an input under whatever name, or lies in a folder
    that is one (a model, an adapter), or is another output: it would be overwritten.
    """
    outputs, inputs = ([str(path) for path in some if path] for some in (outputs, inputs))
    for number, out in enumerate(outputs):
        for place in filter(os.path.isfile, (out, f"{out}.part")):
            for path in filter(os.path.exists, inputs):
                folder = os.path.dirname(place) or "."
                if os.path.samefile(place, path) or os.path.samefile(folder, path):
                    fail(f"{place} is an input, too, and would be overwritten "
                         "(choose another --out)")
        new = not os.path.exists(out) or os.path.isfile(out)  # else /dev/null, say
        if new and os.path.realpath(out) in map(os.path.realpath, outputs[:number]):
            fail(f"{out} is to hold two outputs, and one would be overwritten (name another)")


class Output:
    """A resumable writer: the file appears under its name only when it is whole.

    Lines go to PATH.part, flushed group by group; `done` holds the records that an earlier run
    already wrote. The settings they were made with lie beside them in PATH.part.settings: other
    settings are refused, not mixed in.

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
        if self.path.exists() and not self.path.is_file():
            fail(f"{self.path}: not a file (choose an --out that can be written)")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            begun = self.part.exists()  # without it a note is of a file that somebody deleted
            with contextlib.ExitStack() as opened:  # closes the file unless all is well
                self.file = opened.enter_context(open(self.part, "ab"))
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if begun and self.note.exists():
                    self._resume()
                elif self.part.stat().st_size:
                    fail(f"{self.part} is in the way: nobody knows what it was made with "
                         "(move or delete it, or choose another --out)")
                else:
                    write_whole(self.note, dump(self.settings))
                opened.pop_all()
        except BlockingIOError:
            fail(f"{self.part} is being written by another process (wait for it, or choose another "
                 "--out)")
        except OSError as error:
            fail(f"{self.path}: {error.strerror} (choose an --out that can be written)")
        return self

    def _resume(self):
        try:
            before = json.loads(self.note.read_text())
            lines = self.part.read_bytes().split(b"\n")[:-1]  # a line torn by the kill is dropped
            begun = list(map(json.loads, lines))
        except (RecursionError, ValueError):  # not ours, or a disk has failed
            fail(f"{self.part} is broken (delete it, and run again)")
        changed = [key for key in {**before, **self.settings}
                   if before.get(key) != self.settings.get(key)]
        if changed:
            what = ", ".join(f"{key}: {before.get(key)} -> {self.settings.get(key)}"
                             for key in sorted(changed))
            fail(f"{self.part} was begun with other settings ({what}); "
                 "delete it or use the same settings")
        lines = lines[:len(lines) - len(lines) % self.unit]
        with open(self.part, "r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
        self.done = begun[:len(lines)]

    def write(self, *records: dict):
        try:
            self.file.write("".join(map(dump, records)).encode())
            self.file.flush()
        except OSError as error:
            fail(f"{self.part}: {error.strerror} "
                 "(free some space and run again: finished lines are kept)")

    def __exit__(self, kind, error, trace):
        try:
            self.file.close()
            if kind is None:
                os.replace(self.part, self.path)
                self.note.unlink()
        except OSError as fault:
            fail(f"{self.path}: {fault.strerror} "
                 "(free some space and run again: finished lines are kept)")


def write_whole(path, text: str):
    """Write a small file so that it is either the old one or the new one, never half."""
    part = Path(f"{path}.tmp{os.getpid()}")
    try:
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_text(text, encoding="utf-8")  # /dev/null: write into it, keep it
            return
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        fail(f"{path}: {error.strerror} (free some space, or choose another place)")


def fingerprint(*paths) -> str:
    """A hash of the input files, so that a half-written output is never continued from others."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(Path(path).read_bytes())
        except OSError as error:
            fail(f"{path}: {error.strerror} (give --in a file that the stage before has written)")
    return digest.hexdigest()[:16]


def add_metrics(path, row: dict):
    """Put a row into metrics.jsonl, in place of an earlier one of the same stage and iteration."""
    if path is None:
        return
    def key(one): return one.get("stage"), one.get("iteration")
    rows = read_jsonl(path, allow_empty=True) if os.path.isfile(path) else []
    rows = [old for old in rows if key(old) != key(row)] + [row]
    write_whole(path, "".join(map(dump, rows)))


def says_all() -> bool:
    """Whether stages speak at length: started by hand, or by `run.sh -v`."""
    return "RUN_SH_SETTINGS" not in os.environ or bool(os.environ.get("RUN_SH_VERBOSE"))


def say(line: str, *details: str, out):
    """A stage's line, with details and where the output is if all is to be said."""
    if says_all():
        line = f"{', '.join([line, *details])} -> {out}"
    print(line)


def progress(items, label: str, total=None):
    """Iterate with a progress bar on a terminal and nothing but the summary line in a log."""
    from tqdm.auto import tqdm  # comes with transformers
    label = os.environ.get("RUN_SH_WHERE", "") + label
    return tqdm(items, desc=label, total=total, disable=not on_terminal(), leave=False)


def on_terminal() -> bool:
    """Whether a person looks on; of several ranks one speaks, see ranks.py."""
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def waiting(what: str):
    """On a terminal: says what is done while nothing moves, such as "loading the model"."""
    shown, where = on_terminal(), os.environ.get("RUN_SH_WHERE", "")
    if shown:
        print(f"{where}{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
