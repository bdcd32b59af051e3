"""How fast and how dear is the sandbox? python tests/bench_reward.py [--num 2000] [--endless 40] [--timeout 1]

Every way runs the same ordinary programs; the slow ones run fewer of them, the rate is what counts.
"""
import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402

FORMS = [
    "def solution():\n    apples = {n}\n    eaten = 4\n    left = apples - eaten\n    return left * 3",
    "price = {n}\ncount = 12\nanswer = price * count * 0.9",
    "from fractions import Fraction\ndef solution():\n    return Fraction({n}, 7) * 14",
    "total = 0\nfor day in range(1, 31):\n    total += day * {n}\nprint(total)",
    "import math\ndef solution():\n    return math.ceil({n} / 8) + math.sqrt(16)",
]
# The child of the subprocess way sets the same limits, and then does what Math.run does.
LIMITED = """import resource, sys
for kind, most in ((resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_CPU, 3), (resource.RLIMIT_FSIZE, 2 << 20),
                   (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(kind, (most, most))
names = {}
exec(compile(sys.stdin.read(), "<program>", "exec"), names)
print(names["solution"]() if "solution" in names else names.get("answer"))"""


def programs(num: int, start: str = "") -> list[str]:
    return [start + FORMS[n % len(FORMS)].format(n=n) for n in range(num)]


def cpu_seconds() -> float:
    """Of this process and all of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def rate(run, texts) -> tuple:
    """(programs per second, CPU ms per program): the second also means something on a machine that others use."""
    start, used = time.monotonic(), cpu_seconds()
    run(texts)
    return len(texts) / (time.monotonic() - start), 1000 * (cpu_seconds() - used) / len(texts)


def in_sandbox(texts, **settings):
    results = list(envs.run_programs([{"env": "math", "program": text} for text in texts], **settings))
    assert all(status == "ok" for status, _ in results), [one for one in results if one[0] != "ok"][:3]


def in_subprocess(texts, workers=None):
    def one(text):
        return subprocess.run([sys.executable, "-I", "-c", LIMITED], input=text, text=True, timeout=10, check=True,
                              stdout=subprocess.PIPE, start_new_session=True)
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, texts))


def unsafe(texts):
    for text in texts:
        names = {}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "<program>", "exec"), names)
            if "solution" in names:
                names["solution"]()


def endless(num: int, program: str, timeout: float) -> float:
    """Seconds for num endless programs, as a share of timeout x count / workers."""
    workers = len(os.sched_getaffinity(0))
    start = time.monotonic()
    results = list(envs.run_programs([{"env": "math", "program": program}] * num, timeout=timeout))
    assert {status for status, _ in results} == {"timeout"}
    return (time.monotonic() - start) / (timeout * num / workers)


def bench_reward(num=2000, num_endless=40, timeout=1.0) -> dict:
    """All figures as one row for a results file."""
    plain = programs(num)
    row = {"bench": "reward", "num": num, "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    for name, run, texts in (
            ("sandbox", in_sandbox, plain),
            ("sandbox, 1 worker", lambda texts: in_sandbox(texts, workers=1), plain[:num // 2]),
            ("sandbox with numpy and sympy", in_sandbox, programs(num // 4, "import sympy\n")),
            ("subprocess with limits", in_subprocess, plain[:num // 4]),
            ("unsafe exec", unsafe, plain)):
        row[f"{name}: programs/s"], row[f"{name}: CPU ms each"] = rate(run, texts)
    for unit in ("programs/s", "CPU ms each"):
        row[f"sandbox / subprocess: {unit}"] = row[f"sandbox: {unit}"] / row[f"subprocess with limits: {unit}"]
    row["busy endless programs, cost / (timeout x count / workers)"] = endless(num_endless, "while True: pass", timeout)
    row["sleeping endless programs, the same"] = endless(num_endless, "import time; time.sleep(99)", timeout)
    row["layers"] = envs.sandbox.Caller.layers
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=2000, help="ordinary programs (default: %(default)s)")
    parser.add_argument("--endless", type=int, default=40, help="endless programs (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds for each of these (default: %(default)s)")
    args = parser.parse_args()
    print(json.dumps(bench_reward(args.num, args.endless, args.timeout), indent=1))
