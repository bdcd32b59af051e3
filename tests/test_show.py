"""envs.py show: what became of a task, from the files of a run, whatever stands in them."""
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, load_stage, run_stage

import envs
from nanoenvisions.show import clean

select = load_stage("select")
TASK = {"id": "fish", "env": "math", "question": "15 fish, 6 swim away. How many are left?", "answer": 9}
HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202egnp \u200b \r gone \b \ud800"


def program(expression):
    return f"def solution():\n    return {expression}"


def candidate(expression, right, r, k, **more):
    return {**TASK, "iteration": 1, "candidate": k, "source": "explore", "program": program(expression), "reward": right,
            "outcome": "correct" if right else "wrong", "result": str(eval(expression)), "self_reward": r, **more}


@pytest.fixture
def run(tmp_path):
    """A run of one task: a right draft, one that a rewrite mends, one that is copied; pool and rows by select.py."""
    folder = tmp_path / "run"
    records = [candidate("15 - 6", 1, -0.5, 0), candidate("6 - 15", 0, -0.3, 1), candidate("15 + 6", 0, -0.9, 2),
               candidate("9 + 0", 1, -0.8, 3), candidate("15 - 6", 1, -0.5, 4)]
    for draft, expression, right, r in ((1, "-6 + 15", 1, -0.25), (2, "15 + 6", 0, -0.1)):
        records.append(candidate(expression, right, r, draft, source="refine", reference=records[draft]["program"]))
    (folder / "iter1").mkdir(parents=True)
    write(folder / "tasks.jsonl", [TASK])
    write(folder / "iter1/rewarded.jsonl", records)
    select.main(["--in", f"{folder}/iter1/rewarded.jsonl", "--pool-out", f"{folder}/iter1/pool.jsonl",
                 "--out", f"{folder}/iter1/sft.jsonl"])
    (folder / "metrics.jsonl").write_text('{"stage": "select"}\n')  # none of the files that it reads
    return folder


def write(path, records):
    path.write_text("".join(map(envs.dump, records)))


def show(*flags, **options):
    return run_stage("envs", "show", *flags, **options)


def test_a_life_by_hand(run):
    done = show(run, "--id", "fish")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "question\n      15 fish, 6 swim away. How many are left?\nknown outcome\n      9\n\niteration 1\n" in text
    assert ("  explore 0: correct, reward 1, gave 9, r -0.50 nats a token\n"
            "      def solution():\n          return 15 - 6\n") in text
    assert ("  refine 1: correct, reward 1, gave 9, r -0.25 nats a token\n        def solution():\n"
            "      -     return 6 - 15\n      +     return -6 + 15\n") in text
    assert "  refine 2: wrong, reward 0, gave 21, r -0.10 nats a token\n      (a copy of its draft)\n" in text
    assert "  explore 4: correct, reward 1, gave 9, r -0.50 nats a token\n      (the same as explore 0 of iteration 1)" in text
    # the pool, by rank: the mended one is the likeliest; the wrong draft it came from is gone
    assert [line.strip() for line in text.splitlines() if re.match("  P[+-] ", line)] == [
        "P+ 1 of 3: correct, reward 1, gave 9, r -0.25 nats a token; refine 1 of iteration 1",
        "P+ 2 of 3: correct, reward 1, gave 9, r -0.50 nats a token; explore 0 of iteration 1",
        "P+ 3 of 3: correct, reward 1, gave 9, r -0.80 nats a token; explore 3 of iteration 1",
        "P- 1 of 1: wrong, reward 0, gave 21, r -0.90 nats a token; explore 2 of iteration 1"]
    rows = text[text.index("training rows in"):]
    assert re.findall(r"^  (\w+)$", rows, re.MULTILINE) == ["solve", "solve", "refine"]
    assert "x  Question: [the question]\n" in rows and "a+ def solution():\n             return -6 + 15\n" in rows
    assert text.index("iteration 1") < text.index("pool in") < text.index("training rows in")


def test_the_list_says_how_many_are_right(run):
    done = show(run)
    assert done.stdout == "fish  4 of 7 right, 3 rows  15 fish, 6 swim away. How many are left?\n"


def test_a_tidied_program_is_shown_beside_the_sampled_one(run, tmp_path):
    write(run / "iter1/pool.jsonl", [candidate("15 - 6", 1, -0.5, 0, sampled=program("15 - 6") + "\n    print(1)")])
    text = show(run, "--id", "fish").stdout
    assert "          return 15 - 6\n      -     print(1)\n" in text[text.index("pool in"):]


def test_nothing_hostile_reaches_the_terminal(run):
    """Not from any field: escape sequences, overrides of the writing direction, returns."""
    records = [json.loads(line) for line in (run / "iter1/rewarded.jsonl").read_text().splitlines()]
    for record in records:
        for field in ("program", "reference", "question", "answer", "outcome", "result", "env", "source"):
            record[field] = HOSTILE + str(record.get(field, ""))
        record["id"] = HOSTILE + "fish"
        record["candidate"] += 10 * (record["program"] != record["reference"])
    write(run / "iter1/rewarded.jsonl", records)
    write(run / "iter1/sft.jsonl", [{"id": HOSTILE + "fish", "prompt": HOSTILE, "completion": HOSTILE, "kind": HOSTILE}])
    write(run / "iter1/pool.jsonl", [{**records[0], "sampled": HOSTILE}])
    for flags in ((), ("--id", (HOSTILE + "fish").replace("\ud800", "")), ("--id", "fish\x1b[2J")):
        done = show(run, *flags, errors="surrogateescape")
        assert all(one.isprintable() or one == "\n" for one in done.stdout + done.stderr), flags
        assert "Traceback" not in done.stderr
    shown = load_stage("envs").show.life(HOSTILE, {"about": records[0], "pools": {"p": records}, "programs": {
        (1, 0, HOSTILE): records[0]}, "rows": {HOSTILE: [{"completion": HOSTILE, "kind": HOSTILE}]}})
    assert all(line.isprintable() for line in shown)
    assert any("\\x1b[2J" in line for line in shown)  # said, not hidden
    assert clean("é α 漢\n\x1b\u202e", keep="") == "é α 漢\\n\\x1b\\u202e"


def test_a_terminal_without_unicode_is_served(run):
    write(run / "iter1/rewarded.jsonl", [candidate("15 - 6", 1, -0.5, 0, question="α fish")])
    (run / "tasks.jsonl").unlink()
    done = show(run, "--id", "fish", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u03b1 fish" in done.stdout


def test_a_reader_who_has_seen_enough_is_no_error(run):
    write(run / "iter1/rewarded.jsonl", [candidate("15 - 6", 1, -0.5, k) for k in range(3000)])
    done = subprocess.run(f"{sys.executable} envs.py show {run} --id fish | head -n 1", shell=True, cwd=ROOT,
                          capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("task fish\n", "")


@pytest.mark.parametrize("break_it, flags, message", [
    (lambda run: None, ("--id", "fisch"), "no task 'fisch' in 1 tasks (such as fish"),
    (lambda run: (run / "iter1/rewarded.jsonl").write_text('{"id": "fish", "progr'), ("--id", "fish"),
     "iter1/rewarded.jsonl:1: not JSON"),
    (lambda run: (run / "iter1/pool.jsonl").write_text('{"env": "math"}\n'), (), 'iter1/pool.jsonl:1: no "id"'),
    (lambda run: write(run / "iter1/explored.jsonl", [candidate("1 + 1", 0, -1, 0)]), (),
     "another program of explore 0 of iteration 1 of task fish (give the files of one run)")])
def test_what_cannot_be_shown_is_named(run, break_it, flags, message):
    break_it(run)
    done = show(run, *flags)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_folder_without_a_run_and_a_file_that_is_gone(tmp_path):
    for path, message in ((tmp_path, "no files of a run in it"), (tmp_path / "gone.jsonl", "No such file")):
        done = show(path)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_single_files_and_a_held_out_task(run, tmp_path):
    """A file alone is enough, twice is once, and the greedy answer to a held-out task is no draft."""
    file = run / "iter1/rewarded.jsonl"
    assert show(file, file, run).stdout.startswith("fish  4 of 7 right, 3 rows")
    exam = tmp_path / "eval.jsonl"
    write(exam, [{**candidate("15 / 6", 0, -0.2, 0), "iteration": t, "program": program(f"15 / {6 + t}")} for t in (0, 10, 2)])
    text = show(exam, "--id", "fish").stdout
    assert re.findall(r"iteration \d+|  test 0: wrong", text) == [
        part for t in (0, 2, 10) for part in (f"iteration {t}", "  test 0: wrong")]
    assert "pool" not in text and "rows" not in text
