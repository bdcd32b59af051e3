"""The sandbox, untrusted side: what a child gives up before it runs a program.

It stops           endless and sleeping programs; memory, file, thread and fork bombs; reading and
                   writing files outside a scratch directory, except reading Python's own; the
                   network; other processes; finding what other programs are or have stated
It does not stop   a bug in the kernel; looking up that a file exists (os.stat); a right guess

More on both in docs/SANDBOX.md. server.py forks the children and keeps the time. Limits confine
memory and size, Landlock confines files, seccomp confines system calls; none of them needs root,
and none can be taken back. May import the standard library only.
"""
from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import random
import resource
import shutil
import signal
import site
import stat
import struct
import sys

MESSAGE_BYTES = 32_000  # the most a child may state: fits into a pipe, so that writing never blocks
THREADS = 64            # a program may have so many of them,
FILES = 64              # so many files open, so many left in its scratch directory,
FILE_BYTES = 2 << 20    # of this size each
RESULT_FD = 3


def run_child(jail, data, scratch, token, pipe, write=os.write, leave=os._exit):
    """From fork to death. What it needs at the end is bound before the program can patch it."""
    status = b"e"
    try:
        try:
            jail.enter(*scratch, pipe)
            job = json.loads(data)
            text = jail.run(job.pop("program"), job).encode("utf-8", "replace")
            status = b"o"
            if len(text) > MESSAGE_BYTES:
                status, text = b"e", b"the value is too long"
        except BaseException as error:  # anything: SystemExit and MemoryError, too
            text = one_line(error).encode("utf-8", "replace")
        write(RESULT_FD, token + status + text)
        leave(0)
    finally:
        leave(1)  # whatever was patched to fail: a child never returns into the server's loop


def proc(path) -> bytes:
    """A file under /proc, b"" if there is none. (open() would touch, and so copy, 100 more pages.)

    >>> proc("self/status")[:5]
    b'Name:'
    """
    with contextlib.suppress(OSError):
        file = os.open(f"/proc/{path}", os.O_RDONLY)
        try:
            return os.read(file, 4096)
        finally:
            os.close(file)
    return b""


def one_line(error) -> str:
    """ValueError("a\\nb") -> "ValueError: a b"; also if the exception's own __str__ raises."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    except BaseException:
        return "an exception that cannot be shown"


class Jail:
    """Prepared once in the server, entered in every child.

    Kernels differ, so Landlock and seccomp are tried in a child at the start: what fails is left
    out, and said.
    """

    def __init__(self, run, timeout, memory_mb, seed, scratch, slots):
        self.run = run  # of the environment: what a child calls
        self.timeout, self.memory_mb, self.seed = timeout, memory_mb, seed
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] % (1 << 63)  # -1: no limit
        self.slots = max(1, min(slots, (most - 64) // 2))  # a program that runs takes two
        self.max_fds = min(64 + 2 * slots, most)
        self.base, self.server = f"{scratch}/{os.getpid()}", os.getpid()
        os.mkdir(self.base)
        self.free = []  # scratch directories to be used again
        self.set_capabilities = LIBC.capset  # looked up once, here
        mapped, self.resident = (int(pages) * resource.getpagesize()
                                 for pages in proc("self/statm").split()[:2])
        limits = {
            resource.RLIMIT_AS: mapped + (memory_mb << 20),
            resource.RLIMIT_CPU: math.ceil(timeout) + 1,  # seconds; in case the server is stopped
            resource.RLIMIT_FSIZE: FILE_BYTES,
            resource.RLIMIT_NOFILE: FILES,
            resource.RLIMIT_STACK: 8 << 20,
            resource.RLIMIT_CORE: 0,
        }
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.max_fds, self.max_fds))
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_DUMPABLE, 0)  # and for children: none can look into another or into the server
        self.abi = max(0, system_call(CREATE_RULESET, 0, 0, 1))  # version of Landlock, 0 if none
        self.readable = [os.open(path, os.O_PATH) for path in READABLE
                         if self.abi and os.path.exists(path)]
        self.landlock = bool(self.abi) and self.works(
            lambda: must(system_call(RESTRICT_SELF, self.make_ruleset(self.base), 0)))
        code = seccomp_filter(files=self.landlock)
        self.code = ctypes.create_string_buffer(code, len(code))  # read at every child's entry
        self.filter = struct.pack("@HP", len(code) // 8, ctypes.addressof(self.code))
        self.seccomp = bool(code) and self.works(self.confine_calls)
        # Programs need no processes. Where seccomp does not forbid them the limit must. It also
        # counts threads, for an ordinary user those of all his processes: so the server counts too.
        limits[resource.RLIMIT_NPROC] = (0 if not self.seccomp else
                                         THREADS if os.geteuid() == 0 else 4096)
        hard = {kind: resource.getrlimit(kind)[1] % (1 << 63) for kind in limits}  # -1: no limit
        self.limits = {kind: min(most, hard[kind]) for kind, most in limits.items()}

    def take_scratch(self):
        """A scratch directory, and the Landlock rules that let a program write in it."""
        if self.free:
            return self.free.pop()
        folder = f"{self.base}/{os.urandom(8).hex()}"  # a name that no other program guesses
        os.mkdir(folder)
        return folder, self.make_ruleset(folder) if self.landlock else None

    def give_back(self, scratch):
        """Empty directories are used again; others are removed."""
        folder, ruleset = scratch
        if self.count_files(scratch) == 0:
            self.free.append(scratch)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            if ruleset is not None:
                os.close(ruleset)

    def count_files(self, scratch):
        try:
            return len(os.listdir(scratch[0]))
        except OSError:  # where no layer forbids it, a program may have removed or locked it
            return math.inf

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
        layers = ["own process", f"{self.timeout:g} s", f"{self.memory_mb} MB", "own session",
                  "no_new_privs", "no capabilities" * (os.geteuid() == 0),
                  f"Landlock (ABI {self.abi})" * self.landlock, "seccomp" * self.seccomp]
        signals = "" if self.abi >= 6 else "signal your processes, and "
        missing = {
            (True, True): "",
            (False, True): "; NO Landlock in this kernel: so programs can open no files at all, "
                           "nor import other modules",
            (True, False): "; NO seccomp in this kernel or for this processor: programs can use "
                           "sockets, and change mode, owner and times of your files, and "
                           f"{signals}they cannot start threads",
            (False, False): "; NO Landlock, NO seccomp in this kernel: programs can read and write "
                            "your files, use the network and signal your processes, so run this in "
                            "a container"}
        return ", ".join(filter(None, layers)) + missing[self.landlock, self.seccomp]

    def enter(self, folder, ruleset, pipe):
        """In the child: from here on there is no way back."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        os.chdir(folder)
        if os.geteuid() == 0:
            # Limits on processes do not bind root. A real user id of its own makes them bind, while
            # the effective one still reads what root owns; without capabilities it can do no more.
            with contextlib.suppress(OSError):
                os.setresuid(60_000 + os.getpid() % 5_000, 0, 0)
            must(self.set_capabilities(NO_CAPABILITIES, bytes(24)))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if the server dies, so does the child
        if os.getppid() != self.server:
            os._exit(1)
        must(prctl(PR_SET_NO_NEW_PRIVS, 1))
        if self.landlock:
            must(system_call(RESTRICT_SELF, ruleset, 0))
        null = os.open(os.devnull, os.O_RDWR)
        for old, new in ((null, 0), (null, 1), (null, 2), (pipe, RESULT_FD)):
            os.dup2(old, new)
        if system_call(CLOSE_RANGE, RESULT_FD + 1, 0xFFFFFFFF, 0) < 0:  # before Linux 5.9
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
        """Landlock: read Python's own files, write in one directory; no TCP, no signals."""
        every_right = (1 << (13, 14, 15, 15, 16)[min(self.abi, 5) - 1]) - 1
        attributes = struct.pack("=QQQ", every_right, 0b11, 0b11)  # files; TCP; sockets, signals
        attributes = attributes[:8 if self.abi < 4 else 16 if self.abi < 6 else 24]
        ruleset = must(system_call(CREATE_RULESET, attributes, len(attributes), 0))
        here = os.open(folder, os.O_PATH)
        for fd, rights in [*((fd, READ) for fd in self.readable), (here, SCRATCH & every_right)]:
            kind = os.fstat(fd).st_mode
            if not stat.S_ISDIR(kind):
                rights = READ_FILE | WRITE_FILE if stat.S_ISCHR(kind) else READ_FILE
            must(system_call(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0))
        os.close(here)
        return ruleset

    def confine_calls(self):
        """seccomp: allow what an ordinary program needs; the rest is "operation not permitted"."""
        must(prctl(PR_SET_SECCOMP, 2, self.filter))


# ------------------------------------------------------------------------ the kernel's interface --

LIBC = ctypes.CDLL(None, use_errno=True)
NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # header of capset: version 3, this process
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CLOSE_RANGE = 436
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # of Landlock
WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
READ = READ_FILE | 1 << 3                                # and list directories
SCRATCH = READ | WRITE_FILE | 1 << 5 | 1 << 8 | 1 << 14  # and remove, make, truncate plain files
READABLE = [os.path.dirname(os.__file__), *site.getsitepackages(), f"{sys.base_prefix}/lib",
            "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache",
            "/dev/null", "/dev/zero", "/dev/urandom"]


def system_call(number, *arguments) -> int:
    return LIBC.syscall(*(word if isinstance(word, bytes) else ctypes.c_long(word)
                          for word in (number, *arguments)))


def prctl(option, *values) -> int:
    words = (*values, 0, 0, 0)[:4]  # it is variadic: all four, and all as wide as a register
    return LIBC.prctl(option, *(word if isinstance(word, bytes) else ctypes.c_ulong(word)
                                for word in words))


def must(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"no confinement: {os.strerror(ctypes.get_errno())}")
    return result


# System calls by their numbers on (x86-64, arm64), None where a processor does not have one.
AUDIT_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, kernel's name


def table(text: str) -> dict:
    """"read 0 63, poll 7 -" -> {"read": (0, 63), "poll": (7, None)}"""
    rows = (entry.split() for entry in text.split(","))
    return {name: tuple(None if word == "-" else int(word) for word in numbers)
            for name, *numbers in rows}


# harmless in a child that holds nothing but its pipe and files that Landlock let it open
CALLS = table("""
    read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, mmap 9 222, mprotect 10 226,
    munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214, pread64 17 67, pwrite64 18 68,
    readv 19 65, writev 20 66, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, poll 7 -,
    ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20, epoll_ctl 233 21,
    epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, futex 202 98, set_robust_list 273 99,
    rseq 334 293, sched_yield 24 124, sched_getaffinity 204 123, membarrier 324 283,
    rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132,
    rt_sigpending 127 136, rt_sigtimedwait 128 137, restart_syscall 219 128, setitimer 38 103,
    getitimer 36 102, alarm 37 -, pause 34 -, nanosleep 35 101, clock_nanosleep 230 115,
    clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153,
    getrusage 98 165, getrlimit 97 163, sysinfo 99 179, uname 63 160, getcpu 309 168,
    getrandom 318 278, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174,
    geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158, getpgrp 111 -,
    getpgid 121 155, getsid 124 156, getcwd 79 17, umask 95 166, wait4 61 260, waitid 247 95,
    exit 60 93, exit_group 231 94, fsync 74 82, fdatasync 75 83, ftruncate 77 46,
    fadvise64 221 223""")
# harmless under Landlock only
FILE_CALLS = table("""
    stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48,
    faccessat2 439 439, getdents64 217 61, readlink 89 -, readlinkat 267 78, unlink 87 -,
    unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, chdir 80 49, fstatfs 138 44,
    statfs 137 43""")
# harmless with certain arguments only
CHECKED_CALLS = table("""
    open 2 -, openat 257 56, clone 56 220, clone3 435 435, prlimit64 302 261, fcntl 72 25,
    ioctl 16 29""")


def seccomp_filter(files: bool) -> bytes:
    """The list of allowed system calls as a program for the kernel's packet filter.

    An instruction is ("load", offset), ("return", verdict), ("and", mask), or a test with a number
    and how many instructions to skip if it holds and if it does not.
    """
    column, arch = AUDIT_ARCH.get(os.uname().machine, (None, None))
    if column is None:
        return b""
    allow, refuse, missing, no_terminal = (  # EPERM, ENOSYS, ENOTTY
        ("return", code) for code in (0x7FFF0000, 0x50001, 0x50026, 0x50019))

    def low(n): return ("load", 16 + 8 * n)   # halves of the n-th argument
    def high(n): return ("load", 20 + 8 * n)

    def opens(flags):
        new = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY
        return [low(flags), ("any bit", new, 0, 2),  # no new set-user-id files: on to `refuse`
                low(flags + 1), ("any bit", stat.S_ISUID | stat.S_ISGID, 3, 0),
                # Landlock before ABI 3 lets read-only with O_TRUNC empty what may only be read
                low(flags), ("and", os.O_ACCMODE | os.O_TRUNC), ("equal", os.O_TRUNC, 0, 1),
                refuse, allow]

    checked = {
        "clone": [low(0), ("any bit", 0x10000, 0, 1), allow, refuse],  # threads, no processes
        "clone3": [missing],                                           # so libc goes back to clone
        # limits: read them, do not set them
        "prlimit64": [low(2), ("equal", 0, 0, 2), high(2), ("equal", 0, 1, 0), refuse, allow],
        # no signals to others, no locks that others see
        "fcntl": [low(1), ("at least", 5, 0, 1), ("equal", 1030, 0, 1), allow, refuse],
        "ioctl": [no_terminal]}
    if files:
        checked |= {"open": opens(1), "openat": opens(2)}
    bodies = {name: [allow] for name in (CALLS | FILE_CALLS if files else CALLS)} | checked
    numbers = CALLS | FILE_CALLS | CHECKED_CALLS
    leaves = sorted((numbers[name][column], body) for name, body in bodies.items()
                    if numbers[name][column] is not None)

    def search(leaves):  # binary: the kernel runs the filter once per call when it is installed
        if len(leaves) == 1:
            (number, body), = leaves
            return [("equal", number, 0, len(body)), *body, refuse]
        middle = len(leaves) // 2
        below, above = search(leaves[:middle]), search(leaves[middle:])
        return [("at least", leaves[middle][0], len(below), 0), *below, *above]

    # offset 4 holds the processor, 0 the number of the system call
    program = [("load", 4), ("equal", arch, 1, 0), refuse, ("load", 0), *search(leaves)]
    codes = {"load": 0x20, "and": 0x54, "equal": 0x15, "at least": 0x35, "any bit": 0x45,
             "return": 0x06}
    return b"".join(struct.pack("=HBBI", codes[name], *(jumps or (0, 0)), value)
                    for name, value, *jumps in program)
