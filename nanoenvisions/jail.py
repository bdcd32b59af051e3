"""The sandbox, untrusted side: a server that forks one confined child per program.

Runs in a clean Python of its own, started by sandbox.py. May import environments by name (to run
their programs) and otherwise only the standard library: each module that the server has imported
makes every fork dearer, above all threading, which runs code in each child.
"""
from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import site
import stat
import struct
import sys
import time

COMMON = ("bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools heapq itertools"
          " math numbers operator random re statistics string textwrap time typing unicodedata").split()
MESSAGE_BYTES = 32_000  # the most that a child may state: fits into a pipe (64 KiB), so that writing never blocks
SLEEPERS = 16           # per worker: so many sleeping programs, which need no core, wait beside the computing ones
PATIENCE = 20           # a program starved of CPU by its neighbours may take this many times its time limit
TICK = 0.02             # seconds between two looks at the running programs
FILES = 64              # a program may have so many files open, and leave so many in its scratch directory,
FILE_BYTES = 2 << 20    # of this size each
HELLO = 0xFFFFFFFF      # the message number under which a new server names its layers


def main(settings: str):
    serve(**json.loads(settings))


def serve(timeout, workers, memory_mb, seed, scratch, modules, environment):
    """Fork a child for every job that arrives on stdin; write (number, status, text) to stdout when it has ended."""
    for name in [*COMMON, *modules]:
        with contextlib.suppress(ImportError):  # a program that needs it will say so
            importlib.import_module(name)
    module, name = environment
    run = getattr(importlib.import_module(module), name)().run
    slots = workers * (SLEEPERS + 1)
    jail = Jail(run, timeout, memory_mb, seed, scratch, max_fds=64 + 2 * slots)
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
    shutil.rmtree(scratch, ignore_errors=True)  # also when the caller was killed and cannot do it


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
            text = jail.run(job.pop("program"), job).encode("utf-8", "replace")
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

    def __init__(self, run, timeout, memory_mb, seed, scratch, max_fds):
        self.run = run  # of the environment: what a child calls
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
            shutil.rmtree(folder, ignore_errors=True)
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
