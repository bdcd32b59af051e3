"""The sandbox under load, and when processes die: nothing is lost, mislabelled, or left behind."""
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import envs  # noqa: E402
from nanoenvisions import sandbox  # noqa: E402
from sandbox_tools import children, run  # noqa: E402

CORES = len(os.sched_getaffinity(0))
WORK = ("import time\nend = time.process_time() + {seconds}\n"
        "while time.process_time() < end: pass\nanswer = 42")
THREAD = ("import threading, time\ndef work():\n    global answer\n"
          "    end = time.process_time() + {seconds}\n    while time.process_time() < end: pass\n"
          "    answer = 42\nthread = threading.Thread(target=work)\nthread.start()\nthread.join()")


def gone(before, seconds=30):
    """Whether all child processes that were not there before end within some seconds."""
    end = time.monotonic() + seconds
    while (left := children() - before) and time.monotonic() < end:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    return not left


# ------------------------------------------------------------------------------ order and time --

def test_order_and_crashes():
    """Every job gets its own answer, in order, whatever happens around it."""
    bad = ["import os; os._exit(3)", "1 / 0", "import ctypes; ctypes.string_at(0)",
           "import time; time.sleep(0.2); answer = -1"]
    programs = [bad[n // 7 % len(bad)] if n % 7 == 0 else f"answer = {n}" for n in range(200)]
    for n, (status, value) in enumerate(run(programs)):
        assert (status, value) == ("ok", str(n)) if n % 7 else status in ("ok", "error")


def test_long_programs_in_order():
    """Jobs and answers that fill pipes many times over, in both directions at once."""
    programs = [f"# {'x' * 300_000}\nanswer = 'y' * 290 + str({n})" for n in range(40)]
    assert run(programs) == [("ok", "y" * 290 + str(n)) for n in range(40)]


def test_time_limit():
    for program in ("while True: pass", "import time; time.sleep(99)"):
        results = envs.run_programs(({"env": "math", "program": one}
                                     for one in ("answer = 1", program)), timeout=0.5)
        assert next(results) == ("ok", "1")  # the server has started
        start = time.monotonic()
        assert list(results) == [("timeout", "no answer within 0.5 s")]
        seconds = time.monotonic() - start  # on an idle machine 0.5; waiting is not charged
        assert 0.45 < seconds < (4 if "sleep" in program else 20 * 0.5 + 4)


def test_sleepers_overlap():
    """30 programs that sleep for ever, 2 s each on one worker: not 60 s, they need no core."""
    start = time.monotonic()
    results = run(["import time; time.sleep(99)"] * 30 + ["answer = 42"], timeout=2, workers=1)
    assert [status for status, _ in results] == ["timeout"] * 30 + ["ok"]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("program", [WORK, THREAD], ids=["main thread", "another thread"])
def test_a_starved_program_is_no_timeout(program):
    """0.3 s of work under a limit of 0.6 s, while four processes share each core: correct."""
    burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * CORES)]
    try:
        assert run([program.format(seconds=0.3)] * 6, timeout=0.6) == [("ok", "42")] * 6
    finally:
        for process in burn:
            process.kill()
            process.wait()


def test_who_waits_for_a_thread_is_not_asleep():
    """Else the programs below would all run at once, and each would wait for the others."""
    assert run([THREAD.format(seconds=0.3)] * 12, timeout=1) == [("ok", "42")] * 12
    start = time.monotonic()
    results = run([THREAD.format(seconds=99)] * 3, timeout=0.5, workers=1)
    assert [status for status, _ in results] == ["timeout"] * 3
    assert time.monotonic() - start > 1.4  # one after the other


def test_many_threads_are_charged_once():
    """Nine threads that wait for one another do not make their program's time stop."""
    busy = ("import threading\ndef f():\n    while True: pass\n"
            "for _ in range(8): threading.Thread(target=f).start()\nf()")
    start = time.monotonic()
    assert [status for status, _ in run([busy], timeout=1)] == ["timeout"]
    assert time.monotonic() - start < 8


# ------------------------------------------------------------------------ memory and processes --

def memory_of_children(before) -> int:
    """Bytes that all new descendants hold, each page counted once for those who share it."""
    total = 0
    for pid in children() - before:
        below = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        for one in below:
            try:
                pages = Path(f"/proc/{one}/statm").read_text().split()
                total += max(0, int(pages[1]) - 8000) * os.sysconf("SC_PAGESIZE")  # the server's
            except (OSError, IndexError):
                pass
    return total


def test_one_budget_for_all():
    """Twelve sleepers take 150 MB each at once; one worker of 256 MB has a budget of 512.

    Those who go beyond it are run again, alone, so that no honest program pays for its neighbours.
    """
    program = ("import time\ntime.sleep(0.7 - time.time() % 0.7)\ntime.sleep(0.7)\n"
               "block = bytearray(150 << 20)\ntime.sleep(0.2)\nanswer = 42")
    before, peak, done = children(), [], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak.append(memory_of_children(before))
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert run([program] * 12, timeout=5, workers=1, memory_mb=256) == [("ok", "42")] * 12
    finally:
        done.set()
        watcher.join()
    # on a busy machine they need not meet, so that one is the least; without the budget: 1,800 MB
    assert 100 << 20 < max(peak) < 1000 << 20


def ordinary_user():
    """Arguments for subprocess to become a user whom limits bind, and who can read our files."""
    if os.geteuid() != 0:
        return {}
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", "import envs"], cwd=ROOT, check=True, **user)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("an ordinary user cannot read this folder, or this Python")
    return user


@pytest.mark.parametrize("spare", [4, 8, 20])
def test_few_processes(spare):
    """`ulimit -u`: the server goes on with as many programs at a time as there can be."""
    user = ordinary_user()
    uid = user.get("user", os.getuid())
    mine = 0
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            words = path.read_text()
        except OSError:
            continue
        if f"\nUid:\t{uid}\t" in words:
            mine += int(words.split("\nThreads:\t")[1].split()[0])
    script = ("import resource, sys, envs\nmost = int(sys.argv[1])\n"
              "resource.setrlimit(resource.RLIMIT_NPROC, (most, most))\n"
              "jobs = [{'env': 'math', 'program': f'import time; time.sleep(0.3); answer = {n}'}"
              " for n in range(40)]\n"
              "assert list(envs.run_programs(jobs)) == [('ok', str(n)) for n in range(40)]")
    done = subprocess.run([sys.executable, "-c", script, str(mine + spare)], cwd=ROOT, timeout=120,
                          capture_output=True, text=True, **user)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------- deaths of servers --

@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_server_is_replaced(how):
    """Kill the server while programs run: no line is lost, none mislabelled, no child lives on."""
    before = children()
    programs = [f"import time; time.sleep(0.1); answer = {n}" for n in range(60)]
    results = envs.run_programs([{"env": "math", "program": program} for program in programs])
    found = [next(results) for _ in range(3)]
    for pid in children() - before:
        os.kill(pid, how)
    assert found + list(results) == [("ok", str(n)) for n in range(60)]
    assert gone(before)


def test_a_program_that_kills_servers_is_found():
    """Here by our own hand, whenever job 1 is on its way: only this one is called an error."""
    jobs = [{"env": "math", "program": f"import time; time.sleep(0.3); answer = {n}"}
            for n in range(5)]
    caller = sandbox.Caller(envs.ENVS, timeout=2, workers=1, memory_mb=512, seed=0)
    send = caller.send

    def send_and_kill(number, job):
        send(number, job)
        if number == 1:
            caller.flying[1][0].kill()
    caller.send = send_and_kill
    for number, job in enumerate(jobs):
        caller.send(number, job)
    while len(caller.results) < 5:
        caller.receive()
    caller.close()
    assert caller.results.pop(1) == ("error", "the sandbox's server died twice over this program")
    assert caller.results == {n: ("ok", str(n)) for n in (0, 2, 3, 4)}


# ---------------------------------------------------------------------------------- what is left --

def test_closing_early_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()
    results = envs.run_programs({"env": "math", "program": "import time; time.sleep(1)"}
                                for _ in range(20))
    next(results)
    assert list(tmp_path.iterdir())
    results.close()
    assert not children() - before and not list(tmp_path.iterdir())


CALLER = """
import envs, sys, time
programs = ['answer = 1', 'import numpy\\nanswer = 1',
            *['open("x", "w").write("y")\\nimport time\\ntime.sleep(60)'] * 4]
for one in envs.run_programs({'env': 'math', 'program': program} for program in programs):
    print(one, flush=True)
"""


def start_caller(folder):
    return subprocess.Popen([sys.executable, "-c", CALLER], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, start_new_session=True,
                            env={**os.environ, "TMPDIR": str(folder)})


@pytest.mark.parametrize("wait", [0.05, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1, None])
def test_a_killed_caller_leaves_nothing(tmp_path, wait):
    """SIGKILL for the caller's process group, at any time: its servers clean up.

    From the first moments, before there is a server, the next one to start does.
    """
    before = children()
    caller = start_caller(tmp_path)
    if wait is None:
        caller.stdout.readline()  # programs run
        assert list(tmp_path.iterdir())
    else:
        time.sleep(wait)
    os.killpg(caller.pid, signal.SIGKILL)
    caller.wait()
    assert gone(before)
    if list(tmp_path.iterdir()):
        sweep_by_another(tmp_path)
    assert not list(tmp_path.iterdir())


def sweep_by_another(folder):
    script = "import envs; assert list(envs.run_programs([{'env': 'math', 'program': ''}]))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True,
                   env={**os.environ, "TMPDIR": str(folder)})


def test_the_next_start_sweeps_what_nobody_could(tmp_path):
    """All processes killed at the same time; and a caller that lives keeps its folder."""
    before = children()
    dead, alive = start_caller(tmp_path), start_caller(tmp_path)
    for caller in (dead, alive):
        caller.stdout.readline()
    folders = set(tmp_path.iterdir())
    assert len(folders) == 2
    parent = f"\nPPid:\t{dead.pid}\n"
    servers = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/status")
               if parent in read(path)]
    for pid in (*servers, dead.pid):  # stop all first: none is to see another die
        os.kill(pid, signal.SIGSTOP)
    for pid in (dead.pid, *servers):
        os.kill(pid, signal.SIGKILL)
    dead.wait()
    time.sleep(0.3)
    assert set(tmp_path.iterdir()) == folders
    sweep_by_another(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and alive.poll() is None
    os.killpg(alive.pid, signal.SIGKILL)
    alive.wait()
    assert gone(before) and not list(tmp_path.iterdir())


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def test_nothing_else_is_swept(tmp_path):
    """Folders that merely have such a name, of another user, links, those in use: all survive."""
    def make(name, text=sandbox.OWNED):
        folder = tmp_path / f"{sandbox.PREFIX}{name}"
        folder.mkdir()
        (folder / "thesis").write_text("years of work")
        if text is not None:
            (folder / sandbox.OWNER).write_bytes(text)
        return folder
    make("dead")
    make("named-alike", None)
    make("other-lock", b"mine")
    (tmp_path / "elsewhere").mkdir()
    make("target").rename(tmp_path / "elsewhere" / "target")
    (tmp_path / f"{sandbox.PREFIX}link").symlink_to(tmp_path / "elsewhere" / "target")
    (tmp_path / f"{sandbox.PREFIX}file").write_bytes(sandbox.OWNED)
    os.mkfifo(make("fifo", None) / sandbox.OWNER)
    kept = {"named-alike", "other-lock", "link", "file", "fifo", "locked"}
    if os.geteuid() == 0:
        os.chown(make("foreign"), 1234, 1234)
        kept.add("foreign")
    with open(make("locked") / sandbox.OWNER) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep_by_another(tmp_path)
    names = {name.removeprefix(sandbox.PREFIX) for name in os.listdir(tmp_path)}
    assert names == {*kept, "elsewhere"}
    assert (tmp_path / "elsewhere" / "target" / "thesis").read_text() == "years of work"


def test_the_sandbox_says_why_it_cannot_start(tmp_path):
    """A server that dies before its first word: one line, no endless loop."""
    script = ("import envs; envs.sandbox.SERVER = 'raise SystemExit(\"no luck\")'\n"
              "print(list(envs.run_programs([{'env': 'math', 'program': 'answer = 1'}])))")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines() == ["no luck", "-c: the sandbox does not start "
                                        "(its own message is above)"]
    assert not list(tmp_path.iterdir())


def test_answers_travel_as_they_are():
    """Line feeds, NUL, other alphabets, lone surrogates: one value, one answer."""
    for value in ("a", "\u00fc\u4e2d\U0001f642", "x" * 300):
        assert run([f"answer = {value!r}"]) == [("ok", value)]
    assert run(["answer = 'a\\nb\\0c'", "answer = chr(0xd800)"]) == [("ok", "a b\0c"), ("ok", "?")]
