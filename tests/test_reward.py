"""reward.py: steps 2, 3, 5, 6 and 7, by hand and as a user would run it."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
import reward  # noqa: E402


def candidate(program, answer=42, **fields):
    return {"id": "t1", "env": "math", "question": "?", "answer": answer, "iteration": 0, "candidate": 0,
            "source": "explore", "program": program, "logprob": -0.5, "tokens": 4, **fields}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path):
    return [json.loads(line) for line in open(path)]


def run(*args):
    return subprocess.run([sys.executable, "reward.py", *map(str, args)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("answer, value, outcome", [
    # b = 1[y_k = y], y = 42: within 1e-3 of it, relative
    (42, "42", "correct"), (42, "42.0", "correct"), (42, "42.04", "correct"), (42, "42.05", "wrong"),
    (42, "0", "wrong"),
    (0, "0.0", "correct"), (0, "False", "wrong"), (0, "None", "wrong"), (1234.5, "$1,234.50", "correct"),
    ("36%", "36", "correct"),
    (1, "True", "wrong"), (1, "nan", "wrong"), (1e6, "1000999", "correct"), (-5, "-5", "correct"),
    (0.5, "1/2", "correct"),
])
def test_binary_reward_by_hand(answer, value, outcome):
    record = candidate("...", answer)
    judged = reward.judge(record, "ok", value)
    assert judged == {**record, "reward": int(outcome == "correct"), "outcome": outcome, "result": value,
                      "self_reward": -0.5}


def test_what_did_not_run_earns_nothing():
    for status in ("error", "timeout", "no_program"):
        judged = reward.judge(candidate("..."), status, "why")
        assert (judged["reward"], judged["outcome"], judged["result"]) == (0, status, "why")


def test_no_logprob_no_self_reward():
    """Programs may come from elsewhere, a teacher or a person: nobody measured r for them."""
    record = candidate("answer = 42")
    del record["logprob"]
    assert "self_reward" not in reward.judge(record, "ok", "42")


def test_the_answer_stays_here():
    job = reward.make_job(candidate("answer = 42"))
    assert job == {"env": "math", "program": "answer = 42"}


def test_as_a_user(tmp_path):
    """Two files in, the same lines in the same order out; counts per source and task."""
    explored = write(tmp_path / "explored.jsonl",
                     [candidate("answer = 42", id="a"), candidate("answer = 0", id="a", candidate=1),
                                                   candidate("while True: pass", id="b"),
                                                   candidate("", id="c", extra=[1])])
    refined = write(tmp_path / "refined.jsonl",
                    [candidate("answer = 42", id="b", source="refine", reference="while True: pass"),
                                                 candidate("answer =", id="c", source="refine")])
    done = run("--in", explored, refined, "--out", tmp_path / "new" / "rewarded.jsonl", "--timeout", 0.5, "--metrics",
               tmp_path / "metrics.jsonl")
    assert done.returncode == 0, done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("reward: 6 programs, 2 correct (33%), 2 of 3 tasks solved, 1 error, 1 timeout, ")
    assert summary.endswith(f" s -> {tmp_path / 'new' / 'rewarded.jsonl'}")
    records = read(tmp_path / "new" / "rewarded.jsonl")
    assert [record["outcome"] for record in records] == ["correct", "wrong", "timeout", "no_program", "correct",
                                                         "error"]
    for before, after in zip(read(explored) + read(refined), records):
        assert {key: after[key] for key in before} == before and after["self_reward"] == -0.5
    row, = read(tmp_path / "metrics.jsonl")
    assert (row["stage"], row["iteration"], row["num"], row["correct"], row["tasks"],
            row["tasks_solved"]) == ("reward", 0, 6, 2, 3, 2)
    assert row["by_source"] == {"explore": {"num": 4, "correct": 1, "share": 0.25, "tasks_solved": 1},
                                "refine": {"num": 2, "correct": 1, "share": 0.5, "tasks_solved": 1}}
    assert row["outcomes"] == {"correct": 2, "wrong": 1, "timeout": 1, "no_program": 1,
                               "error": 1} and row["seconds"] > 0


def test_evaluation(tmp_path):
    """--eval: accuracy over all and per group; 1 of 3 right, of the known 1 of 2."""
    path = write(tmp_path / "eval.jsonl", [candidate("answer = 42", id="a", group="known", iteration=3),
                                           candidate("answer = 1", id="b", group="known", iteration=3),
                                           candidate("answer = 1", id="c", group="unseen", iteration=3)])
    assert reward.main(["--in", str(path), "--out", str(tmp_path / "out.jsonl"), "--eval", "--metrics",
                        str(tmp_path / "m.jsonl")]) is None
    row, = read(tmp_path / "m.jsonl")
    assert (row["stage"], row["iteration"], row["accuracy"], row["num"]) == ("eval", 3, 0.3333, 3)
    assert row["by_group"] == {"known": {"accuracy": 0.5, "num": 2}, "unseen": {"accuracy": 0.0, "num": 1}}


def test_limit_goes_over_all_files(tmp_path):
    paths = [write(tmp_path / name, [candidate("answer = 42")] * 3) for name in ("a", "b")]
    reward.main(["--in", *map(str, paths), "--out", str(tmp_path / "out"), "--limit", "4"])
    assert len(read(tmp_path / "out")) == 4


def test_killed_and_run_again(tmp_path):
    """SIGKILL in the middle: nothing under the final name; the second run continues and the file is the same."""
    path = write(tmp_path / "in",
                 [candidate(f"import time, random; time.sleep(0.05); answer = random.random() + {n}", n + 0.8444)
                                   for n in range(60)])
    assert run("--in", path, "--out", tmp_path / "whole").returncode == 0
    process = subprocess.Popen([sys.executable, "reward.py", "--in", path, "--out", tmp_path / "out"], cwd=ROOT)
    part = tmp_path / "out.part"
    while not part.exists() or part.read_text().count("\n") < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = part.read_text().count("\n")
    assert not (tmp_path / "out").exists() and 5 <= finished < 60
    changed = run("--in", path, "--out", tmp_path / "out", "--timeout", 1)
    assert changed.returncode == 1 and "timeout: 2.0 -> 1.0" in changed.stderr
    assert run("--in", path, "--out", tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "whole"]


@pytest.mark.parametrize("field, value, message", [
    ("program", None, ':3: no "program" (explore.py writes it)'),
    ("program", 7, ':3: "program" is 7 (it must be a string'),
    ("answer", "many", ":3: \"answer\" is 'many' (math needs a finite number)"),
    ("answer", True, ':3: "answer" is True (it must be a number or a string'),
    ("answer", 10 ** 400, "(math needs a finite number)"),
    ("env", "chess", ":3: \"env\" is 'chess' (use one of: "),
])
def test_bad_line(tmp_path, field, value, message):
    bad = candidate("answer = 1")
    bad[field] = value
    if value is None:
        del bad[field]
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(candidate("answer = 1")) + "\n\n" + json.dumps(bad) + "\n")  # a blank line is no record
    done = run("--in", path, "--out", tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr.startswith(f"reward.py: {path}:3: ") and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("args, message", [
    (["--in", "no/such/file"], "No such file or directory"), (["--in", os.devnull], "no records"),
    (["--in", os.devnull, "--timeout", "0"], "--timeout is 0"),
    (["--in", os.devnull, "--workers", "0"], "--workers is 0"),
    (["--in", os.devnull, "--wrokers", "2"], "unrecognized arguments"),
    (["--in", os.devnull, "--work", "2"], "unrecognized"),
])
def test_bad_arguments(tmp_path, args, message):
    done = run(*args, "--out", tmp_path / "out")
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


def test_help_teaches():
    done = run("--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("Stage 3 of 5", "b_k = 1[y_k = y]",
                                                                         "self_reward"))


PUBLIC = {  # questions of GSM8K's, SVAMP's and MATH's kinds, with programs written by hand: all must be accepted
    "Janet's ducks lay 16 eggs a day. She eats 3, bakes with 4 and sells the rest at $2. Dollars a day?":
        (18, "def solution():\n    eggs = 16\n    sold = eggs - 3 - 4\n    return sold * 2"),
    "A robe takes 2 bolts of blue fiber and half that much white. How many bolts?":
        (3, "blue = 2\nanswer = blue + blue / 2"),
    "A house for $80,000 plus $50,000 in repairs rises by 150 %. The profit?":
        (70000, "def solution():\n    value = 80_000 * 2.5\n    return f'${value - 130_000:,.2f}'"),
    "A third of 60 pupils are girls. What per cent are boys?":
        (66.6667, "from fractions import Fraction\nboys = 1 - Fraction(20, 60)\nprint(float(boys) * 100)"),
    "Find x: 3x + 7 = 25.": (6, "from sympy import symbols, solve\nx = symbols('x')\nresult = solve(3*x + 7 - 25, x)"),
    "The mean of 3, 5 and 10?": (6, "import statistics\nans = statistics.mean([3, 5, 10])"),
    "How many days from 2024-02-27 to 2024-03-02?":
        (4, "from datetime import date\ndef solution():\n    return (date(2024, 3, 2) - date(2024, 2, 27)).days"),
    "17 * 0.1 to two places?": (1.7, "from decimal import Decimal\nanswer = Decimal('0.1') * 17"),
    "The larger root of x^2 - 5x + 6?": (3, "import numpy as np\nanswer = max(np.roots([1, -5, 6]).real)"),
    "12 choose 5?": (792, "import math\nprint(math.comb(12, 5))"),
}


def test_gold_programs_are_accepted(tmp_path):
    records = [candidate(program, answer, id=question) for question, (answer, program) in PUBLIC.items()]
    reward.main(["--in", str(write(tmp_path / "in", records)), "--out", str(tmp_path / "out")])
    assert [record["id"] for record in read(tmp_path / "out") if not record["reward"]] == []


def test_mixed_environments(tmp_path):
    """One file may hold all environments: each line is judged by its own."""
    records = [candidate("answer = 42")]
    if "logic" in envs.ENVS:
        env = envs.ENVS["logic"]
        task = {"id": "l", "env": "logic", "question": "?", "answer": "True", "logprob": -1.0, "source": "explore",
                "iteration": 0,
                "candidate": 0, **{field: "open" for field in env.job_fields}, "program": "this is no logic program ("}
        records = [task, *records, task]
    reward.main(["--in", str(write(tmp_path / "in", records)), "--out", str(tmp_path / "out")])
    assert [record["reward"] for record in read(tmp_path / "out")] == ([0, 1, 0] if len(records) == 3 else [1])
