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
    return {"id": "t1", "env": "math", "question": "?", "answer": answer, "iteration": 0,
            "candidate": 0, "source": "explore", "program": program, "logprob": -0.5, "tokens": 4,
            **fields}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path):
    return [json.loads(line) for line in open(path)]


def run(*args):
    return subprocess.run([sys.executable, "reward.py", *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)


@pytest.mark.parametrize("answer, value, outcome", [
    # b = 1[y_k = y], y = 42: within 1e-3 of it, or 5e-3 of a y with two decimals
    (42, "42", "correct"), (42, "42.0", "correct"), (42, "42.0009", "correct"),
    (42, "42.0011", "wrong"), (42, "43", "wrong"), (48320, "48325", "wrong"), (42, "0", "wrong"),
    (3.33, "10/3", "correct"), (3.33, "3.336", "wrong"), ("3.30", "3.304", "correct"),
    (0, "0.0", "correct"), (0, "False", "wrong"), (0, "None", "wrong"),
    ("36%", "36", "correct"),
    (1234.5, "$1,234.50", "correct"),
    (1, "True", "wrong"), (1, "nan", "wrong"), (1e6, "1000001", "wrong"), (0.5, "1/2", "correct"),
    (-5, "\u22125", "correct"),
])
def test_binary_reward_by_hand(answer, value, outcome):
    record = candidate("...", answer)
    judged = reward.judge(record, "ok", value)
    assert judged == {**record, "reward": int(outcome == "correct"), "outcome": outcome,
                      "result": value, "self_reward": -0.5}


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
                     [candidate("answer = 42", id="a"),
                      candidate("answer = 0", id="a", candidate=1),
                      candidate("while True: pass", id="b"), candidate("", id="c", extra=[1])])
    refined = write(tmp_path / "refined.jsonl",
                    [candidate("answer = 42", id="b", source="refine", reference="while 1: pass"),
                     candidate("answer =", id="c", source="refine")])
    done = run("--in", explored, refined, "--out", tmp_path / "new" / "rewarded.jsonl",
               "--timeout", 0.5, "--metrics", tmp_path / "metrics.jsonl")
    assert done.returncode == 0, done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("reward: 6 programs, 2 correct (33%), 2 of 3 tasks solved, 1 error, "
                              "1 timeout, ")
    assert summary.endswith(f" s -> {tmp_path / 'new' / 'rewarded.jsonl'}")
    records = read(tmp_path / "new" / "rewarded.jsonl")
    assert [record["outcome"] for record in records] == ["correct", "wrong", "timeout",
                                                         "no_program", "correct", "error"]
    for before, after in zip(read(explored) + read(refined), records):
        assert {key: after[key] for key in before} == before and after["self_reward"] == -0.5
    row, = read(tmp_path / "metrics.jsonl")
    assert (row["stage"], row["iteration"], row["num"], row["correct"], row["tasks"],
            row["tasks_solved"]) == ("reward", 0, 6, 2, 3, 2)
    assert row["by_source"] == {
        "explore": {"num": 4, "correct": 1, "share": 0.25, "tasks_solved": 1},
        "refine": {"num": 2, "correct": 1, "share": 0.5, "tasks_solved": 1}}
    assert row["outcomes"] == {"correct": 2, "wrong": 1, "timeout": 1, "no_program": 1, "error": 1}
    assert row["seconds"] > 0 and row["share"] == 0.3333


def test_counts_of_many(tmp_path):
    """Several right programs of one task: by source, solved tasks are counted once."""
    records = [candidate("answer = 42", id=name, source=source, candidate=number)
               for name in "ab" for source in ("explore", "refine") for number in range(2)]
    records += [candidate("answer = 1", id=name, source="explore") for name in "abcd"]
    reward.main(["--in", str(write(tmp_path / "in", records)), "--out", str(tmp_path / "out"),
                 "--metrics", str(tmp_path / "m")])
    row, = read(tmp_path / "m")
    assert (row["num"], row["correct"], row["tasks"], row["tasks_solved"]) == (12, 8, 4, 2)
    assert row["by_source"] == {
        "explore": {"num": 8, "correct": 4, "share": 0.5, "tasks_solved": 2},
        "refine": {"num": 4, "correct": 4, "share": 1.0, "tasks_solved": 2}}


def test_timeout_and_seed_are_heeded(tmp_path):
    """--timeout decides between a timeout and an answer, --seed what random and hash() give."""
    slow = candidate("import time; time.sleep(0.8); answer = 42")
    chance = candidate("import random; answer = random.random()")
    hashed = candidate("answer = hash('a') % 1000003")
    path = write(tmp_path / "in", [slow, chance, hashed])
    def outcome(name, *flags):
        reward.main(["--in", str(path), "--out", str(tmp_path / name), *flags])
        return [(record["outcome"], record["result"]) for record in read(tmp_path / name)]
    short, long = outcome("a", "--timeout", "0.3"), outcome("b", "--timeout", "5")
    assert short[0] == ("timeout", "no answer within 0.3 s") and long[0] == ("correct", "42")
    assert short[1:] == long[1:] == outcome("c", "--seed", "0")[1:]
    other = outcome("d", "--seed", "7")
    assert other[1][1] != long[1][1] and other[2][1] != long[2][1]


def test_lines_are_as_they_were(tmp_path):
    """Lone surrogates, other alphabets, extra fields, doubles: lines come out as they went in."""
    records = [candidate("answer = 42  # \ud800 \u4e2d \U0001f642"),
               candidate("x\u2028y = '\udfff'"), candidate("answer = 42", note={"a": [1, None]}),
               candidate("answer = 42")]
    path = write(tmp_path / "in", [*records, records[2], records[3]])  # doubles, too
    reward.main(["--in", str(path), "--out", str(tmp_path / "out")])
    given, got = read(path), read(tmp_path / "out")
    assert [{key: after[key] for key in before} for before, after in zip(given, got)] == given
    assert [record["outcome"] for record in got] == ["correct", "error"] + 4 * ["correct"]


def test_a_teacher_s_file(tmp_path):
    """Programs of a teacher or a person: no log-probabilities, iteration, candidate, source."""
    bare = {"id": "a", "env": "math", "question": "?", "answer": 42, "program": "answer = 42"}
    path = write(tmp_path / "in", [bare, {**bare, "logprob": None, "tokens": None}])
    assert run("--in", path, "--out", tmp_path / "out", "--metrics", tmp_path / "m").returncode == 0
    assert [record["reward"] for record in read(tmp_path / "out")] == [1, 1]
    assert not any("self_reward" in record for record in read(tmp_path / "out"))
    row, = read(tmp_path / "m")
    assert row["iteration"] == 0 and row["by_source"] == {}


def test_a_program_cannot_watch_its_siblings(tmp_path):
    """Our output does not grow while programs of the same task run; elsewhere it does grow."""
    watch = ("import os, time\ndef size():\n    try: return os.stat(PART).st_size\n"
             "    except OSError: return 0\n"
             "before, end = size(), time.monotonic() + SECONDS\n"
             "while time.monotonic() < end and size() == before: time.sleep(0.01)\n"
             "answer = 42 if size() != before else 7")
    watch = f"SECONDS, PART = 1.2, {str(tmp_path / 'out.part')!r}\n" + watch
    slow = "import time; time.sleep(0.3); answer = 42"
    records = [candidate(slow, id="a", candidate=k) for k in range(reward.BATCH + 10)]
    records[-3:] = [candidate(watch, id="a", candidate=k) for k in range(3)]
    other = [candidate(slow, id="b"), candidate(watch.replace("1.2", "4"), id="c")]
    path = write(tmp_path / "in", records + other)
    assert run("--in", path, "--out", tmp_path / "out", "--timeout", 9, "--workers",
               2).returncode == 0
    values = [record["result"] for record in read(tmp_path / "out")]
    assert values[-5:] == ["7", "7", "7", "42", "42"]


def test_batches_by_hand(monkeypatch):
    monkeypatch.setattr(reward, "BATCH", 2)
    def ends(names): return list(reward.batch_ends([{"id": name} for name in names]))
    assert ends("aaabbc") == [3, 5, 6] and ends("abcde") == [2, 4, 5] and ends("aaaa") == [4]
    assert ends("a") == [1] and ends("") == []


def test_evaluation(tmp_path):
    """--eval: accuracy over all and per group; 1 of 3 right, of the known 1 of 2."""
    path = write(tmp_path / "eval.jsonl", [
        candidate("answer = 42", id="a", group="known", iteration=3),
        candidate("answer = 1", id="b", group="known", iteration=3),
        candidate("answer = 1", id="c", group="unseen", iteration=3)])
    reward.main(["--in", str(path), "--out", str(tmp_path / "out.jsonl"), "--eval",
                 "--metrics", str(tmp_path / "m.jsonl")])
    row, = read(tmp_path / "m.jsonl")
    assert (row["stage"], row["iteration"], row["accuracy"], row["num"]) == ("eval", 3, 0.3333, 3)
    assert row["by_group"] == {"known": {"accuracy": 0.5, "num": 2},
                               "unseen": {"accuracy": 0.0, "num": 1}}


def test_limit_goes_over_all_files(tmp_path):
    """The first four lines of both: three of the first file, one of the second."""
    paths = [write(tmp_path / name, [candidate(f"answer = '{name}{n}'") for n in range(3)])
             for name in "ab"]
    reward.main(["--in", *map(str, paths), "--out", str(tmp_path / "out"), "--limit", "4"])
    assert [record["result"] for record in read(tmp_path / "out")] == ["a0", "a1", "a2", "b0"]


def test_killed_and_run_again(tmp_path):
    """SIGKILL in the middle: nothing under the final name; the second run continues to the same."""
    program = "import time, random; time.sleep(0.05); answer = random.random() + {}"
    path = write(tmp_path / "in", [candidate(program.format(n), n + 0.8444, id=str(n // 5))
                                   for n in range(160)])
    assert run("--in", path, "--out", tmp_path / "whole").returncode == 0
    process = subprocess.Popen([sys.executable, "reward.py", "--in", path, "--out",
                                tmp_path / "out"], cwd=ROOT)
    part = tmp_path / "out.part"
    while not part.exists() or part.read_text().count("\n") < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = part.read_text().count("\n")
    assert not (tmp_path / "out").exists() and reward.BATCH <= finished < 160
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-2]) + '{"id": "to')  # torn
    changed = run("--in", path, "--out", tmp_path / "out", "--timeout", 1)
    assert changed.returncode == 1 and "timeout: 2.0 -> 1.0" in changed.stderr
    assert run("--in", path, "--out", tmp_path / "out", "--metrics", tmp_path / "m").returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert read(tmp_path / "m")[0]["correct"] == 160  # the lines of the first run are counted, too
    assert sorted(os.listdir(tmp_path)) == ["in", "m", "out", "whole"]


def test_the_counts_stand_before_the_output(tmp_path, monkeypatch):
    """run.sh skips a stage whose output stands: a death between the two would lose the counts for good."""
    source, seen = write(tmp_path / "in.jsonl", [candidate("answer = 42")]), []
    monkeypatch.setattr(envs, "add_metrics", lambda path, row: seen.append((tmp_path / "out.jsonl").exists()))
    reward.main(["--in", str(source), "--out", str(tmp_path / "out.jsonl")])
    assert seen == [False] and len(read(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize("flags, said", [
    (["--seed", "1"], "seed: 0 -> 1"), (["--limit", "2"], "limit: None -> 2"), ([], "inputs: ")])
def test_other_settings_or_inputs_do_not_continue_a_file(tmp_path, monkeypatch, flags, said):
    path, out = write(tmp_path / "in", [candidate("answer = 42")]), str(tmp_path / "out")

    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield
    with monkeypatch.context() as change, pytest.raises(KeyboardInterrupt):
        change.setattr(envs, "run_programs", interrupted)
        reward.main(["--in", str(path), "--out", out])
    write(tmp_path / "out.part", [candidate("answer = 42", reward=1)])  # a line that was finished
    if not flags:
        write(path, [candidate("answer = 43")])
    with pytest.raises(SystemExit, match="begun with other settings") as stop:
        reward.main(["--in", str(path), "--out", out, *flags])
    assert said in str(stop.value)


def test_an_input_is_not_overwritten(tmp_path):
    path = write(tmp_path / "in", [candidate("answer = 42")])
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for flags in (["--out", path], ["--out", tmp_path / "link"],
                  ["--out", tmp_path / "out", "--metrics", path]):
        done = run("--in", path, *flags)
        assert done.returncode == 1 and "is an input, too" in done.stderr
        assert path.read_bytes() == before


@pytest.mark.parametrize("field, value, message", [
    ("program", None, ':3: no "program" (explore.py writes it)'),
    ("program", 7, ':3: "program" is 7 (it must be a string'),
    ("answer", "many", ":3: \"answer\" is 'many' (math needs a finite number)"),
    ("answer", True, ':3: "answer" is True (math needs a finite number)'),
    ("answer", 10 ** 400, "(math needs a finite number)"),
    ("env", "chess", ":3: \"env\" is 'chess' (use one of: "),
    ("style", "step", ":3: \"style\" is 'step' (use one of: expression, steps)"),
    ("few_shot", "0.5", ":3: \"few_shot\" is '0.5' (it must be a finite number"),
])
def test_bad_line(tmp_path, field, value, message):
    bad = candidate("answer = 1")
    bad[field] = value
    if value is None:
        del bad[field]
    path = tmp_path / "in.jsonl"
    good = json.dumps(candidate("answer = 1"))
    path.write_text(f"{good}\n\n{json.dumps(bad)}\n")  # a blank line is no record
    done = run("--in", path, "--out", tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr.startswith(f"reward.py: {path}:3: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("args, message", [
    (["--in", "no/such/file"], "No such file or directory"), (["--in", os.devnull], "no records"),
    *((["--in", os.devnull, *flag.split()], must) for flag, must in {
        "--timeout 0": "--timeout is 0.0, it must be more than 0 and at most 3600 seconds",
        "--timeout -1": "--timeout is -1.0, ", "--timeout inf": "--timeout is inf, ",
        "--timeout nan": "--timeout is nan, ", "--timeout 1e10": "--timeout is 10000000000.0, ",
        "--seed -1": "--seed is -1, it must be from 0 to 4294967295",
        "--seed 4294967296": "--seed is 4294967296, ", "--workers 0": "--workers is 0, it must be ",
        "--limit 0": "--limit is 0, it must be at least 1"}.items()),
    (["--in", os.devnull, "--wrokers", "2"], "unrecognized arguments"),
    (["--in", os.devnull, "--work", "2"], "unrecognized"),
])
def test_bad_arguments(tmp_path, args, message):
    done = run(*args, "--out", tmp_path / "out")
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 or "unrecognized" in message


def test_help_teaches():
    done = run("--help")
    assert done.returncode == 0
    for word in ("Stage 3 of 5", "b_k = 1[y_k = y]", "self_reward"):
        assert word in done.stdout


PUBLIC = {  # questions of GSM8K's, SVAMP's and MATH's kinds; programs written by hand, all right
    "Janet's ducks lay 16 eggs a day. She eats 3, bakes with 4, sells the rest at $2. How much?":
        (18, "def solution():\n    eggs = 16\n    sold = eggs - 3 - 4\n    return sold * 2"),
    "A robe takes 2 bolts of blue fiber and half that much white. How many bolts?":
        (3, "blue = 2\nanswer = blue + blue / 2"),
    "A house for $80,000 plus $50,000 in repairs rises by 150 %. The profit?":
        (70000, "def solution():\n    value = 80_000 * 2.5\n    return f'${value - 130_000:,.2f}'"),
    "A third of 60 pupils are girls. What per cent are boys?":
        (66.6667, "from fractions import Fraction\nboys = 1 - Fraction(20, 60)\n"
                  "print(float(boys) * 100)"),
    "Find x: 3x + 7 = 25.":
        (6, "from sympy import symbols, solve\nx = symbols('x')\nresult = solve(3*x + 7 - 25, x)"),
    "The mean of 3, 5 and 10?": (6, "import statistics\nans = statistics.mean([3, 5, 10])"),
    "How many days from 2024-02-27 to 2024-03-02?":
        (4, "from datetime import date\ndef solution():\n"
            "    return (date(2024, 3, 2) - date(2024, 2, 27)).days"),
    "17 * 0.1 to two places?": (1.7, "from decimal import Decimal\nanswer = Decimal('0.1') * 17"),
    "The larger root of x^2 - 5x + 6?":
        (3, "import numpy as np\nanswer = max(np.roots([1, -5, 6]).real)"),
    "12 choose 5?": (792, "import math\nprint(math.comb(12, 5))"),
}


def test_gold_programs_are_accepted(tmp_path):
    """And a program whose value is off by one never is."""
    records = [candidate(program, answer, id=question)
               for question, (answer, program) in PUBLIC.items()]
    records += [{**record, "answer": record["answer"] + 1} for record in records]
    reward.main(["--in", str(write(tmp_path / "in", records)), "--out", str(tmp_path / "out")])
    assert [record["reward"] for record in read(tmp_path / "out")] == [1] * 10 + [0] * 10


def test_mixed_environments(tmp_path):
    """One file may hold all environments: each line is judged by its own.

    What a task may leave out has a default (logic's `guards`).
    """
    program = "Anne is cold\nAnne is cold?"
    task = {"id": "l", "env": "logic", "question": "Anne is cold. Is Anne cold?", "answer": "True",
            "semantics": "owa", "source": "explore", "iteration": 0, "candidate": 0}
    records = [{**task, "program": "this is no logic program ("}, candidate("answer = 42"),
               {**task, "program": program}]
    reward.main(["--in", str(write(tmp_path / "in", records)), "--out", str(tmp_path / "out")])
    assert [record["outcome"] for record in read(tmp_path / "out")] == [
        "error", "correct", "correct"]
