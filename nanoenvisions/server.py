"""The sandbox's server: forks a confined child per program, times it, passes on what it states.

Runs in a clean Python of its own that sandbox.py has started. It never sees a gold answer, and it
keeps nothing of a program or of what one stated, since each child inherits a copy of its memory.
Each module that it has imported makes every fork dearer, above all threading, which runs code in
each child.

May import jail, environments by their names, and otherwise the standard library only.
"""
from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time

from nanoenvisions.jail import FILES, MESSAGE_BYTES, THREADS, Jail, proc, run_child

COMMON = ("bisect calendar cmath collections copy dataclasses datetime decimal enum fractions "
          "functools heapq itertools math numbers operator random re statistics string textwrap "
          "time typing unicodedata").split()
SLEEPERS = 16             # per worker: so many sleeping programs may wait beside the computing ones
SLEEPER_BYTES = 32 << 20  # one that holds more memory keeps its core
PATIENCE = 20             # one that is starved of CPU may take this many times its limit
TICK = 0.02               # seconds between two polls of the running programs
HELLO = 0xFFFFFFFF        # the message number under which a new server names its layers
PAGE = resource.getpagesize()
ANSWER = bytearray(2 * MESSAGE_BYTES)  # what a child has stated, until it is passed on


def main(folder: str, settings: str):
    sys.argv[1:] = []  # as `python program.py` has it: our paths are not a program's business
    serve(folder, **json.loads(settings))


def serve(folder, timeout, workers, memory_mb, seed, scratch, modules, environment):
    """Take jobs from stdin, run each in a child, write what it stated to stdout."""
    for name in [*COMMON, *modules]:
        with contextlib.suppress(ImportError):  # a program that needs it will say so
            importlib.import_module(name)
    module, name = environment
    run = getattr(importlib.import_module(module), name)().run
    sys.path.remove(folder)  # programs find the library's modules, never ours
    try:
        jail = Jail(run, timeout, memory_mb, seed, scratch, slots=workers * (SLEEPERS + 1))
    except FileNotFoundError:  # the caller died while we started, and the scratch directory is gone
        return
    running, left = {}, jail.base
    try:
        loop(jail, workers, running)
    except (EOFError, BrokenPipeError):  # the caller has closed its pipes, or died: the end
        left = scratch
    finally:
        for run in running.values():
            run.kill()
            os.waitpid(run.pid, 0)
        shutil.rmtree(left, ignore_errors=True)


def loop(jail, workers, running):
    import select  # the library's: loaded before our folder, with a stage of this name, is known
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)  # the death of a child ends poll() below
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, the pages that all children share
    gc.disable()
    reply(HELLO, b"o", jail.describe().encode())

    poller, job, next_poll = select.poll(), None, time.monotonic()
    poller.register(wake, select.POLLIN)
    while True:
        room = (len(running) < jail.slots
                and sum(not run.asleep for run in running.values()) < workers)
        if job and room:
            try:
                run = Run(jail, running, *job)
                running[run.pid] = run
                job[1][:] = bytes(len(job[1]))  # no other child finds this program in its memory
                job = None
                continue
            except OSError:  # no process to be had (ulimit -u): wait until another one has ended
                room = False
        # A job stays in the pipe, out of every child's reach, until there is room to run it.
        # That the pipe was closed is reported in any case.
        poller.register(0, select.POLLIN if room else 0)
        events = dict(poller.poll(1000 * (TICK if running or job else 0.5)))
        if events.get(0, 0) & ~select.POLLIN:
            raise EOFError
        if wake in events:
            os.read(wake, 4096)
            reap(running)
        elif 0 in events:
            number, length = struct.unpack(">II", read(8))
            job = number, read(length)
        if (late := time.monotonic() - next_poll) > 0:
            for run in running.values():
                run.poll(stopped=late if late > 1 else 0)
            keep_budget(running, (workers + 1) * jail.memory_mb << 20)
            next_poll = time.monotonic() + TICK


def read(length: int) -> bytearray:
    """Exactly so many bytes of stdin."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if not (size := os.readv(0, [view])):
            raise EOFError
        view = view[size:]
    return data


def reply(number: int, status: bytes, text: bytes):
    write(memoryview(struct.pack(">IcI", number, status, len(text)) + text))


def write(view: memoryview):
    while view:
        view = view[os.write(1, view):]


def reap(running):
    """Report every child that has died, and kill whatever it left behind."""
    with contextlib.suppress(ChildProcessError):  # there are no children
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in running:  # else it was an orphan of some program
                running.pop(pid).finish(status, usage)
    # The server is sub-reaper: processes that left their group became its own children.
    for pid in map(int, proc(f"self/task/{os.getpid()}/children").split()):
        if pid not in running:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def keep_budget(running, budget):
    """All programs together may have what the workers may have, and one more.

    Sleepers can take memory after they were judged asleep. If it is too much, the largest of them
    goes, and the caller has it run once more, alone.
    """
    while len(running) > 1 and sum(run.memory for run in running.values()) > budget:
        run = max(running.values(), key=lambda run: (run.memory > 0, run.slept, run.memory))
        run.memory = 0
        run.kill(b"a", "too much memory beside other programs")


class Run:
    """One program on its way."""

    def __init__(self, jail, running, number, data):
        self.jail, self.number, self.verdict = jail, number, None
        self.token = os.urandom(16)  # opens the message: bytes sprayed on all pipes are no message
        self.scratch = jail.take_scratch()
        self.pipe, pipe = os.pipe()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                running.clear()
                run_child(jail, data, self.scratch, self.token, pipe)
        except OSError:
            os.close(self.pipe)
            jail.give_back(self.scratch)
            raise
        finally:
            os.close(pipe)
        os.set_blocking(self.pipe, False)
        self.start = self.mark = self.looked = time.monotonic()
        self.used = self.queued = self.active = 0.0  # seconds
        self.credit = self.early = self.idle = 0.0
        self.asleep = self.slept = False
        self.memory = 0  # bytes, beside what it shares with the server

    def poll(self, stopped):
        """Is it out of time? Then kill it. Does it sleep? Then its core is free for another.

        Its time is the wall clock less that spent waiting for a core: no honest program is a
        timeout because the machine is busy; up to a point (PATIENCE), as everything must end. Nor
        because all of us were stopped for `stopped` seconds.
        """
        self.start, self.mark = self.start + stopped, self.mark + stopped
        self.looked += stopped
        if time.monotonic() - self.start < TICK:
            return
        now, used, queued, ready, threads, resident = measure(self.pid)
        self.count_waiting(now, used, queued, ready, threads)
        wall = now - self.start
        self.memory = max(0, resident - self.jail.resident)
        if now - self.looked > 4 * TICK:
            active = used + self.credit + self.idle
            self.asleep = (active - self.active < 0.1 * (now - self.looked) and not ready
                           and self.memory < SLEEPER_BYTES)
            self.slept |= self.asleep
            self.active, self.looked = active, now
        limit = self.jail.timeout
        if wall - self.credit - self.idle >= limit or wall >= PATIENCE * limit:
            self.kill(b"t", f"no answer within {limit:g} s")
        elif threads > THREADS:
            self.kill(b"e", f"more than {THREADS} threads")
        elif self.jail.count_files(self.scratch) > FILES:
            self.kill(b"e", f"more than {FILES} files in its scratch directory")

    def count_waiting(self, now, used, queued, ready, threads):
        """Add to `credit` the time spent waiting for a core; to `idle` what may turn out to be it.

        A program that is ready but has not run since the last poll has waited since then. Else the
        kernel tells how long, once the wait is over. But threads wait beside one another: what
        counts for several is at most the time in which none ran, now and one span before.
        """
        span, ran = now - self.mark, used - self.used
        self.mark = now
        if ready and not ran:
            self.credit, self.early = self.credit + span, self.early + span
            return
        rest, still = self.idle, max(0.0, span - ran)
        told = max(0.0, queued - self.queued - self.early)
        if threads > 1:
            told = min(told, rest + still)
        self.credit, self.early = self.credit + told, 0.0
        self.idle = min(still, max(0.0, rest + still - told)) if ready else 0.0
        self.used, self.queued = used, queued

    def kill(self, status=b"e", text="stopped"):
        self.verdict = (status, text)
        for kill in (os.killpg, os.kill):  # the group, and the child if it has not made its own yet
            with contextlib.suppress(OSError):
                kill(self.pid, signal.SIGKILL)

    def finish(self, status, usage):
        """The child is dead: report. Only a whole message and a clean exit make an answer."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            size = os.readv(self.pipe, [ANSWER])
        except BlockingIOError:  # empty, and held open by something it left behind
            size = 0
        os.close(self.pipe)
        files = self.jail.count_files(self.scratch)
        self.jail.give_back(self.scratch)
        code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if files > FILES:
            reply(self.number, b"e", b"more than %d files in its scratch directory" % FILES)
        elif code == 0 and ANSWER[:16] == self.token and ANSWER[16] in b"oe":
            ANSWER[8:17] = struct.pack(">IBI", self.number, ANSWER[16], size - 17)
            write(memoryview(ANSWER)[8:size])
        elif self.verdict:
            reply(self.number, self.verdict[0], self.verdict[1].encode())
        elif code == -signal.SIGXCPU or code == -signal.SIGKILL and seconds >= self.jail.timeout:
            reply(self.number, b"t", b"more than %g s of CPU time" % self.jail.timeout)
        else:
            how = (f"exit code {code}" if code >= 0 else
                   f"killed by signal {-code}, {signal.strsignal(-code)}")
            reply(self.number, b"e", f"ended without stating an answer ({how})".encode())
        ANSWER[:size] = bytes(size)  # no other child finds it in its memory


def measure(pid) -> tuple:
    """(time, CPU seconds, seconds waited for a core, is one ready to run?, threads, bytes held).

    Of all threads together. What a kernel does not tell is 0.
    """
    for _ in range(4):
        now, used, queued = time.monotonic(), 0.0, 0.0
        with contextlib.suppress(OSError):
            used = time.clock_gettime(~pid << 3 | 2)  # the CPU clock of a process
        words = proc(f"{pid}/stat").rpartition(b")")[2].split()  # before it: any name
        if not words:
            return now, used, queued, False, 1, 0
        threads, resident = int(words[17]), int(words[21]) * PAGE
        tasks, states = [str(pid)], [words[0]]
        if 1 < threads <= THREADS:
            with contextlib.suppress(OSError):
                tasks = [f"{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
            states = [proc(f"{task}/stat").rpartition(b")")[2][1:2] for task in tasks]
        for task in tasks:
            queued += int((proc(f"{task}/schedstat").split() or [0, 0])[1]) / 1e9
        if time.monotonic() - now < TICK / 4:  # else we had to wait ourselves: the parts do not fit
            break
    return now, used, queued, b"R" in states, threads, resident
