"""The sandbox, trusted side: send programs to servers, collect what they state.

Every program is run as if an enemy had written it. Three parties:

    caller   run_programs() in reward.py: knows the gold answers, sends jobs, trusts nothing back
    server   server.py in a clean Python: forks one child per program, and keeps the time
    child    jail.py: gives up every right it does not need, runs the program, states a value, dies

No gold answer ever enters server or child, so a child cannot state more than *its own* answer.
May import environment, jail, records and server (its constants: no server runs in this process).
"""
from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import stat
import struct
import sys
import tempfile

from nanoenvisions.environment import parse_program
from nanoenvisions.jail import PR_SET_DUMPABLE, prctl
from nanoenvisions.records import HERE, fail, says_all
from nanoenvisions.server import HELLO, PATIENCE, SLEEPERS

# With the library's `select` already loaded, ours (the stage) does not take its place.
SERVER = ("import select, sys; sys.path.insert(0, sys.argv[1]); "
          "from nanoenvisions import server; server.main(*sys.argv[1:])")
STATUS = {b"o": "ok", b"e": "error", b"t": "timeout", b"a": "again"}
PREFIX, OWNER = "nanoenvisions-sandbox-", "owner"  # of scratch folders; of the lock file in each
OWNED = b"Locked while a nanoENVISIONS process uses this folder. The next to start removes it.\n"


def run_programs(environments, jobs, timeout=2.0, workers=None, memory_mb=512, seed=0):
    """Run untrusted programs; yield (status, value) for each job, in the order of the jobs.

    environments   {name: Environment}; a server imports their classes by name
    jobs           dicts {"env", "program", and what that environment's job_fields names}, in any
                   iterable, which is read as they are needed
    status         "ok" | "error" | "timeout" | "no_program"
    value          what the environment's `run` returned (ok), else what went wrong, in one line

    list(run_programs(ENVS, [{"env": "math", "program": "answer = 6 * 7"}])) -> [("ok", "42")]
    """
    workers = workers or len(os.sched_getaffinity(0))
    caller = Caller(environments, timeout=timeout, workers=workers, memory_mb=memory_mb, seed=seed)
    source = enumerate(jobs)
    try:
        for number in itertools.count():
            while number not in caller.results:
                while caller.has_room() and (job := next(source, None)):
                    caller.send(*job)
                if number in caller.results:
                    break
                if not caller.flying and not caller.again:
                    return
                caller.receive()
            yield caller.results.pop(number)
    finally:
        caller.close()


class Caller:
    """Starts servers, sends jobs, collects results, replaces servers that die."""

    layers = None  # what the servers said about themselves; the same for all

    def __init__(self, environments, **settings):
        if sys.platform != "linux":
            fail("running programs needs Linux (elsewhere, run this in a container)")
        import queue  # here and below: not in servers, where this module is loaded as well
        self.environments, self.settings = environments, settings
        self.scratch, self.lock = make_scratch()
        self.servers = {}                 # (environment, modules) -> server process
        self.inbox = queue.SimpleQueue()  # (process, number, status, text) from all servers
        self.flying = {}                  # number -> (process, job): sent, not yet answered
        self.results = {}                 # number -> (status, text): answered, not yet yielded
        self.again = collections.deque()  # (number, job) to be run once more, alone
        self.alone = None                 # the number that is
        prctl(PR_SET_DUMPABLE, 0)  # the gold answers are in this process: nobody may trace it

    def has_room(self):
        most = 2 * SLEEPERS * self.settings["workers"]
        return not self.again and self.alone is None and len(self.flying) < most

    def start(self, env, modules):
        import subprocess
        import threading
        kind = type(self.environments[env])
        settings = {**self.settings, "scratch": self.scratch, "modules": modules,
                    "environment": [kind.__module__, kind.__qualname__]}
        # -s, -P and this environment isolate as well as -I does, and keep the hash seed: same seed,
        # same results. Some Pythons need the library path to start.
        clean = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC",
                 "PYTHONHASHSEED": str(self.settings["seed"]),
                 "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
                 "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                 "MALLOC_ARENA_MAX": "1"}  # else every thread takes 128 MB of address space
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", SERVER, str(HERE), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=clean,
            start_new_session=True, pass_fds=[self.lock])
        threading.Thread(target=self.listen, args=(process,), daemon=True).start()
        return process

    def listen(self, process):
        """In a thread of its own, so that a server is always rid of results while we write jobs."""
        while len(head := process.stdout.read(9)) == 9:
            number, status, length = struct.unpack(">IcI", head)
            text = process.stdout.read(length).decode("utf-8", "replace")
            self.inbox.put((process, number, STATUS[status], text))
        self.inbox.put((process, None, None, None))

    def send(self, number, job):
        program = parse_program(job["program"])
        if not program.strip():
            self.results[number] = ("no_program", "no code")
            return
        key = job["env"], self.environments[job["env"]].modules(program)
        if key not in self.servers:
            self.servers[key] = self.start(*key)
        process = self.servers[key]
        self.flying[number] = (process, job)
        program = program.encode("utf-8", "replace").decode()  # lone surrogates: no source code
        data = json.dumps({**job, "program": program}).encode()
        try:
            process.stdin.write(struct.pack(">II", number, len(data)) + data)
            process.stdin.flush()
        except OSError:
            pass  # the server died; the end of its results is in the inbox or on its way

    def receive(self):
        """Wait for one message and file it."""
        import queue
        if self.again and not self.flying:
            self.alone, job = self.again.popleft()
            self.send(self.alone, job)
        try:
            limit = PATIENCE * self.settings["timeout"] + 30
            process, number, status, text = self.inbox.get(timeout=limit)
        except queue.Empty:  # a server that hangs is as good as dead
            for process in self.servers.values():
                process.kill()
            return
        if number is None:
            self.server_died(process)
        elif number == HELLO:
            if Caller.layers != text and (says_all() or not text.endswith("seccomp")):
                clear = "\r\033[K" if sys.stderr.isatty() else ""  # the progress bar's line
                print(f"{clear}sandbox: {text}", file=sys.stderr)
            Caller.layers = text
        elif number in self.flying:
            _, job = self.flying.pop(number)
            if status == "again" and number != self.alone:
                self.again.append((number, job))
            else:
                self.file(number, status, text)

    def file(self, number, status, text):
        if status != "ok":  # a child may have written anything: one line of it
            status, text = status.replace("again", "error"), " ".join(text.split())[:300]
        self.results[number] = (status, text)
        if number == self.alone:
            self.alone = None

    def server_died(self, process):
        """Its jobs are run again, one at a time, so that one which kills servers is told apart."""
        if Caller.layers is None:
            fail("the sandbox does not start (its own message is above)")
        self.servers = {key: other for key, other in self.servers.items() if other is not process}
        process.wait()
        for number, (owner, job) in list(self.flying.items()):
            if owner is process:
                del self.flying[number]
                if number == self.alone:
                    self.file(number, "error", "the sandbox's server died twice over this program")
                else:
                    self.again.append((number, job))

    def close(self):
        for process in self.servers.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # at the end of its jobs a server kills its children and ends
        for process in self.servers.values():
            process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self.lock)


def make_scratch():
    """(path, lock) of a new folder for scratch directories; those that nobody uses any more go.

    The lock is held as long as this process or one of its servers lives, whatever ends them.
    """
    for name in os.listdir(tempfile.gettempdir()):
        if name.startswith(PREFIX):
            sweep(os.path.join(tempfile.gettempdir(), name))
    folder = tempfile.mkdtemp(prefix=PREFIX)
    lock = os.open(f"{folder}/new", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, OWNED)
    os.rename(f"{folder}/new", f"{folder}/{OWNER}")  # so it is never seen without its lock
    return folder, lock


def sweep(folder):
    """Remove a folder if it is one of ours, made by this user, and its processes have died."""
    try:
        about = os.lstat(folder)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return
        lock = os.open(f"{folder}/{OWNER}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if os.read(lock, len(OWNED) + 1) == OWNED:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # locked: in use
        pass
    finally:
        os.close(lock)
