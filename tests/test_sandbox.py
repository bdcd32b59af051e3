"""The sandbox: nothing gets out, nothing is mislabelled. Programs are in battery.py and hostile.py.

What happens under load, and when processes die, is in test_sandbox_load.py.
"""
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import battery  # noqa: E402
import envs  # noqa: E402
from nanoenvisions import jail  # noqa: E402
from sandbox_tools import children, run  # noqa: E402

# -------------------------------------------------------------------------------- the battery --

@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """All cases through reward.py, as a user would: the records, and the world after it."""
    folder = tmp_path_factory.mktemp("user")
    canary, gold, out = folder / "canary", folder / "gold.jsonl", folder / "rewarded.jsonl"
    canary.write_text("mine")
    os.utime(canary, (1e9, 1e9))
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    words = {"CANARY": str(canary), "FOLDER": str(folder), "GOLD": str(gold),
             "PORT": str(tcp.getsockname()[1])}
    with open(gold, "w") as file:
        for number, (why, _, program, *answer) in enumerate(battery.CASES):
            for word, value in words.items():
                program = program.replace(word, value)
            file.write(json.dumps({
                "id": f"{number} {why}", "env": "math", "question": why, "program": program,
                "answer": (answer or [42])[0], "candidate": 0, "iteration": 0,
                "source": "explore"}) + "\n")
    driver = ("import os, pathlib, sys; gold = pathlib.Path(sys.argv[1]); "
              "gold.write_text(gold.read_text().replace('PID', str(os.getpid()))); import reward; "
              "reward.main(['--in', sys.argv[1], '--out', sys.argv[2], '--timeout', '1'])")
    before, start = children(), time.monotonic()
    done = subprocess.run([sys.executable, "-c", driver, gold, out], cwd=ROOT, capture_output=True,
                          text=True, timeout=600)
    world = {"seconds": time.monotonic() - start, "left": children() - before,
             "stderr": done.stderr, "stat": canary.stat(), "folder": sorted(os.listdir(folder)),
             "canary": canary.read_text() if canary.exists() else None}
    for server in (tcp, udp):
        server.setblocking(False)
    with pytest.raises(BlockingIOError):
        tcp.accept()
    with pytest.raises(BlockingIOError):
        udp.recv(10)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in open(out)], world


@pytest.mark.parametrize("number", range(len(battery.CASES)),
                         ids=[case[0] for case in battery.CASES])
def test_case(judged, number):
    why, expected, program, *_ = battery.CASES[number]
    record = judged[0][number]
    assert record["id"] == f"{number} {why}"  # in the order of the input
    assert record["outcome"] in expected.split("|"), f"{record['outcome']}: {record['result']}"
    assert record["reward"] == (record["outcome"] == "correct")
    assert "\n" not in record["result"] and len(record["result"]) <= 300
    if not re.search("CANARY|FOLDER|GOLD|PORT|PID", program):
        assert record["program"] == program  # unchanged, surrogates and all


def test_world_is_as_before(judged):
    records, world = judged
    assert len(records) == len(battery.CASES)
    assert world["canary"] == "mine" and world["stat"].st_mtime == 1e9
    assert world["stat"].st_mode & 0o400
    assert world["folder"] == ["canary", "gold.jsonl", "rewarded.jsonl"]
    assert not world["left"]
    for place in ("/tmp", "/dev/shm"):
        assert not os.path.exists(f"{place}/owned-by-a-program")
    timeouts = sum(record["outcome"] == "timeout" for record in records)
    assert world["seconds"] < 60 + 10 * timeouts  # generous: the machine may be busy


def test_layers_are_named(judged):
    lines = [line for line in judged[1]["stderr"].splitlines() if line.startswith("sandbox: ")]
    assert len(lines) == 1 and "own process, 1 s, 512 MB" in lines[0]
    assert "Landlock" in lines[0] and "seccomp" in lines[0]  # present, or named as missing
    assert ("no capabilities" in lines[0]) == (os.geteuid() == 0)


# ------------------------------------------------------------------------- missing kernel layers --

@pytest.mark.parametrize("changes, says, cases", [
    # a kernel without Landlock: seccomp must refuse all files instead
    ([("= 444, 445, 446", "= 9444, 9445, 9446")], "NO Landlock in",
     ("reads", "deletes", "TCP", "fork", "a set-user-id file")),
    # a processor whose system calls are not known: Landlock must hold the files, a limit processes
    ([("AUDIT_ARCH = {", "AUDIT_ARCH = {} and {")], "NO seccomp",
     ("reads", "deletes", "fork", "daemon")),
    # neither: what is left is time, memory, and no processes; and it says what to do
    ([("= 444, 445, 446", "= 9444, 9445, 9446"), ("AUDIT_ARCH = {", "AUDIT_ARCH = {} and {")],
     "run this in a container", ("fork", "10 GB at once", "endless loop", "300 files")),
])
def test_without_a_layer(tmp_path, changes, says, cases):
    for name in ("envs.py", "nanoenvisions", "data"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    path = tmp_path / "nanoenvisions" / "jail.py"
    for old, new in changes:
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    (tmp_path / "canary").write_text("mine")
    programs = [case[2].replace("CANARY", str(tmp_path / "canary"))
                for case in battery.CASES if case[0] in cases]
    script = ("import json, sys, envs\n"
              "for one in envs.run_programs([{'env': 'math', 'program': program} for program in "
              "['answer = 42', *json.loads(sys.argv[1])]]): print(json.dumps(one))")
    done = subprocess.run([sys.executable, "-c", script, json.dumps(programs)], cwd=tmp_path,
                          capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert says in done.stderr
    assert results[0] == ["ok", "42"]
    assert len(results) == 1 + len(cases) and ["ok", "42"] not in results[1:], results
    assert (tmp_path / "canary").read_text() == "mine"


def test_filter_knows_this_processor():
    """Every instruction of the filter jumps forward and inside the program; a verdict ends it."""
    code = jail.seccomp_filter(files=True)
    size = len(code) // 8
    for place in range(size):
        kind, yes, no, _ = struct.unpack_from("=HBBI", code, 8 * place)
        assert place + 1 + max(yes, no) < size or kind == 0x06
    assert code[-8:-6] == b"\x06\x00" and size < 4096


def test_system_call_numbers():
    """The x86-64 numbers are those of the kernel's header, where a compiler has brought it."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    calls = jail.CALLS | jail.FILE_CALLS | jail.CHECKED_CALLS
    assert len(calls) > 100
    for name, (number, _) in calls.items():
        assert number is None or int(known[name]) == number


# ---------------------------------------------------------------------- programs and each other --

SCAN = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
get, put = os.pipe()
pages = set()
for middle in (libc.sbrk(0), id([]), id(""), id(os), id("x" * 5000)):
    pages.update(range(middle // 4096 - 8000, middle // 4096 + 8000))
found = set()
for page in sorted(pages):  # a page that is not there is an error, no crash
    if libc.write(put, page * 4096, 4096) == 4096:
        data = os.read(get, 4096)
        for word in WORDS:
            if bytes(reversed(word)) in data: found.add(bytes(reversed(word)).decode())
answer = sorted(found)
"""


def test_no_program_finds_another():
    """Neither those that wait, nor those that ran, nor what they stated, are in its memory."""
    words = ["needle-of-a-program", "needle-of-a-value", "needle-of-its-own"]
    backward = [word[::-1].encode() for word in words]
    scan = f"mine = '{words[2]}'\nWORDS = {backward}" + SCAN
    other = f"# {words[0]}\nimport time\ntime.sleep(%s)\nanswer = 'needle-of-' + 'a-value'"
    programs = [other % 0] * 20 + [other % 0.3, scan, other % 0.3, scan] + [other % 0] * 20
    for workers in (1, 2):
        results = run(programs, timeout=10, workers=workers)
        assert [results[21], results[23]] == 2 * [("ok", words[2])]
        assert set(results) == {("ok", words[1]), ("ok", words[2])}


def test_no_program_sees_another_in_frames():
    """What the server knows of other programs is gone: the table of those that run is empty."""
    walk = ("import sys\nframe, seen = sys._getframe(), []\nwhile frame:\n"
            "    seen += [name for name, value in frame.f_locals.items()"
            " if name == 'running' and value]\n    frame = frame.f_back\nanswer = len(seen)")
    nap = "import time\ntime.sleep(0.5)\nanswer = 1"
    assert run([nap, nap, walk, nap], timeout=5, workers=2)[2] == ("ok", "0")


def test_scratch_directories_have_no_guessable_names():
    shown = run(["import os\nopen('x', 'w')\nanswer = os.path.basename(os.getcwd())"] * 3)
    assert len(set(shown)) == 3 and all(len(name) >= 16 for _, name in shown)


def test_our_select_is_never_the_library_s():
    """The server's folder has a stage named select.py; poll() must come from the library."""
    program = ("import select, sys\nanswer = hasattr(select, 'poll')"
               f" and {str(ROOT)!r} not in sys.path")
    assert run([program]) == [("ok", "True")]


def test_the_server_is_light():
    """Each module that it has imported makes every fork dearer, threading by a tenth: it runs code
    in each child."""
    program = "import sys\nanswer = [name in sys.modules for name in ('threading', 'subprocess')]"
    assert run([program]) == [("ok", "[False, False]")]


def test_same_seed_same_results():
    programs = ["import random; answer = random.random()", "answer = hash('a')",
                "import numpy; answer = numpy.random.rand()"]
    first = run(programs, seed=3)
    assert run(programs, seed=3) == first
    assert all(one != other for one, other in zip(first, run(programs, seed=4)))


def test_few_descriptors_slow_down_and_judge_nobody():
    """A program that runs takes two. `ulimit -n 96`: sixteen at once, though the cores would bear more that sleep."""
    code = ("from sandbox_tools import run; from collections import Counter\n"
            "print(Counter(run(64 * ['import time; time.sleep(1.5); answer = 42'], workers=8)))")
    done = subprocess.run(["bash", "-c", f"ulimit -n 96; exec {sys.executable} -c \"$0\"", code], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"})
    assert done.stdout == "Counter({('ok', '42'): 64})\n", done.stderr


@pytest.mark.parametrize("program, most", [
    ("block = bytearray(%d << 20); answer = 1", 512), ("open('x', 'wb').write(bytes(%d))", 2 << 20),
    ("for n in range(%d): open(str(n), 'w').close()", 64),
    ("import threading, time\nthreading.stack_size(1 << 16)\nfor _ in range(%d):\n"
     "    threading.Thread(target=time.sleep, args=(0.3,)).start()\ntime.sleep(0.2)", 64)],
    ids=["memory", "a file", "files", "threads"])
def test_limits_are_where_they_are_said_to_be(program, most):
    """Somewhat less is allowed, somewhat more is an error."""
    less, more = run([program % (share * most // 10) + "\nanswer = 1" for share in (8, 12)])
    assert less == ("ok", "1") and more[0] == "error"
