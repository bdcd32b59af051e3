"""The sandbox, trusted side: send programs to servers, collect what they state.

Every program is run as if an enemy had written it. Three parties:

    caller   run_programs() in reward.py: knows the gold answers, sends jobs, trusts nothing back
    server   jail.py in a clean Python: forks one child per program and times it
    child    gives up every right it does not need, runs the program, states one value, dies

No gold answer ever enters server or child, so a child cannot state more than *its own* answer.
May import records and environment; what it shares with jail.py are the constants below.
"""
from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import queue
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

from nanoenvisions.environment import parse_program
from nanoenvisions.jail import HELLO, SLEEPERS, PR_SET_DUMPABLE, prctl
from nanoenvisions.records import HERE, fail

PATIENCE = 20    # a program starved of CPU by its neighbours may take this many times its limit
MAX_LOSSES = 3   # so many servers may die over one program before it is called an error
# Our folder goes last on the path, so that our select.py does not hide the standard library's.
SERVER = "import sys; sys.path.append(sys.argv[1]); from nanoenvisions import jail; jail.main(sys.argv[2])"
STATUS = {b"o": "ok", b"e": "error", b"t": "timeout"}


def run_programs(environments, jobs, timeout=2.0, workers=None, memory_mb=512, seed=0):
    """Run untrusted programs; yield (status, value) for each job, in the order of the jobs.

    environments   {name: Environment}; a server imports their classes by name
    jobs     dicts {"env", "program", and the fields that ENVS[env].job_fields names}; may be a generator
    status   "ok" | "error" | "timeout" | "no_program"
    value    what ENVS[env].run returned (ok), else what went wrong, in one line

    list(run_programs(ENVS, [{"env": "math", "program": "answer = 6 * 7"}])) -> [("ok", "42")]
    """
    caller = Caller(environments, timeout=timeout, workers=workers or len(os.sched_getaffinity(0)), memory_mb=memory_mb, seed=seed)
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

    def __init__(self, environments, **settings):
        self.environments, self.settings = environments, settings
        if sys.platform != "linux":
            fail("running programs needs Linux (elsewhere, run this in a container)")
        self.scratch = tempfile.mkdtemp(prefix="sandbox-")
        self.servers = {}                    # (environment, modules) -> server process
        self.inbox = queue.SimpleQueue()     # (process, number, status, text) from all servers
        self.flying = {}                     # number -> (process, job): sent, not yet answered
        self.results = {}                    # number -> (status, text): answered, not yet yielded
        self.suspects = []                   # (number, job) that were flying when their server died
        self.losses = collections.Counter()  # number -> how often that was
        prctl(PR_SET_DUMPABLE, 0)  # the gold answers are in this process: nobody may trace it

    def has_room(self):
        return not self.suspects and len(self.flying) < 2 * SLEEPERS * self.settings["workers"]

    def start(self, env, modules):
        kind = type(self.environments[env])
        clean = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": str(self.settings["seed"]),
                 "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                 "MALLOC_ARENA_MAX": "1",  # else every thread takes 128 MB of address space
                 "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}  # some Pythons need it to start
        # -s -P and a clean environment isolate as well as -I does, and keep the hash seed: same seed, same results.
        process = subprocess.Popen([sys.executable, "-s", "-P", "-c", SERVER, str(HERE), json.dumps(
                                       {**self.settings, "scratch": self.scratch, "modules": modules,
                                        "environment": [kind.__module__, kind.__qualname__]})],
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
            pass  # the server has died; its end of file is in the inbox or on its way

    def receive(self):
        """Wait for one message and file it."""
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
        self.servers = {key: other for key, other in self.servers.items() if other is not process}
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
        shutil.rmtree(self.scratch, ignore_errors=True)
