"""docs/COURSE.md: its labs work, its solutions are right, and the cheap commands of all pages run."""
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from test_docs import PAGES, commands

import lab_select

COURSE = (ROOT / "docs/COURSE.md").read_text()
PROGRAM = "def solution():\n    return "


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with what the pages' commands name: a small run as runs/lab, its files under other names, too."""
    room = tmp_path_factory.mktemp("room")
    rows = [{"id": f"t{task}", "env": "math", "question": f"{task} and 2?", "answer": task + 2, "iteration": 0, "candidate": k,
             "source": "explore", "program": f"{PROGRAM}{task} + {k}", "logprob": -1 - k / 9, "tokens": 9}
            for task in range(3) for k in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("runs/lab/iter0/explored", "explored", "iter0/explored", "runs/lab-hot"):
        (room / name).parent.mkdir(parents=True, exist_ok=True)
        (room / f"{name}.jsonl").write_text(text)
    for name in ("runs/lab/iter0", ".", "iter0"):
        call("reward.py", "--in", room / name / "explored.jsonl", "--out", room / name / "rewarded.jsonl",
             "--metrics", room / "runs/lab/metrics.jsonl")
    (room / "runs/lab/iter1").mkdir()
    rewrites = [{**json.loads(line), "iteration": 1} for line in (room / "rewarded.jsonl").read_text().splitlines()]
    rewrites += [{**row, "source": "refine", "reference": row["program"]} for row in rewrites]
    (room / "runs/lab/iter1/rewarded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rewrites))
    told = [{**row, "iteration": 1} for row in rows]
    for name, some in (("lab/iter1/explored", told), ("lab-told-refined", [row for row in rewrites if "reference" in row])):
        (room / f"runs/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    shutil.copy(room / "runs/lab/iter1/rewarded.jsonl", room / "runs/lab-told-rewarded.jsonl")  # until its command has run
    metrics = room / "runs/lab/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"stage": "eval", "iteration": 0, "accuracy": 0.5, "num": 4, "seconds": 1}\n')
    return room


def call(script, *flags, cwd=None):
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], cwd=cwd, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, (script, *flags, done.stderr[-500:])
    return done.stdout


def cheap(command) -> bool:
    """No model, no browser, no file of somebody else's: what it needs is in `room`."""
    words = shlex.split(command)
    return (words[0] == "python" and words[1] in ("envs.py", "reward.py", "select.py", "data/report.py", "tests/lab.py")
            and len(words) > 2 and not re.search(r"--(help|judge|format)|ID|FILE|STAGE|--env web|gsm8k|runs/(a|math|class)\b",
                                                 command))


CHEAP = sorted({command for page in PAGES for command in commands(page) if cheap(command)})


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_command_of_the_pages_runs(room, command):
    _, script, *flags = shlex.split(command)
    call(script, *flags, cwd=room)


def test_the_labs_commands_are_among_them():
    for script in ("select.py", "reward.py", "data/report.py", "tests/lab.py"):
        assert any(script in command for command in CHEAP), script


def test_lab_py_by_hand(room):
    """Three tasks, three programs each, one right; the likeliest is + 0, so never right. Rewrites are copies."""
    first, second = (call("tests/lab.py", room / f"runs/lab/iter{t}/rewarded.jsonl") for t in (0, 1))
    assert "3 tasks, pass@1 33%, pass@3 100%, 1.00 distinct" in first and "no rewrites" in first
    assert "of 3 mixed tasks first is right by r 0, shortest 0, random 1.0" in first
    assert "3 of 3 right drafts stay right, 0 of 6 wrong ones are mended, 9 of 9 are copies" in second


def test_lab_f_knows_right_from_wrong():
    """The product and the folded solution pass; the stubs, and one slip after another, do not."""
    assert "all 13 examples" in call("tests/lab_select.py", "select.py", cwd=ROOT)
    with pytest.raises(NotImplementedError):
        list(lab_select.check(lab_select.superior, lab_select.training_rows))
    solution = re.search(r"^```\n(def superior.*?)^```", COURSE, re.MULTILINE | re.DOTALL)[1]
    for right, wrong, blamed in (
            ("", "", None), ("better or both and", "better or", "superior"), ("== 1\n", "\n", "superior"),
            ('"] > explored["self', '"] >= explored["self', "superior"), ("max(1, len(positives) - 1)", "len(positives)", "rows"),
            ("len(positives) - n1, ", "", "rows"), ("negatives[:n2]", "negatives[-n2:]", "rows"),
            ("positives[len(positives) - n2:]", "positives[:n2]", "rows")):
        assert right in solution
        names = {}
        exec(solution.replace(right, wrong), names)
        faults = list(lab_select.check(names["superior"], names["training_rows"]))
        assert bool(faults) == (blamed is not None) and all(blamed in fault for fault in faults), (wrong, faults)


def test_quick_is_a_run_of_its_own():
    """QUICK=1 fills in data/quick.sh, a setting from outside wins, and a whole run's folder stays free."""
    head = (ROOT / "run.sh").read_text().partition("[[ -z \"$METHODS$SEEDS\"")[0].replace('"$(dirname "${BASH_SOURCE[0]}")"', ".")
    for settings, wanted in (("QUICK=1", "2 48 32 runs/quick-math"), ("QUICK=1 ITERS=1 OUT=x ENV=logic", "1 48 32 "),
                             ("QUICK=1 ENV=logic", "2 48 32 runs/quick-logic"), ("QUICK=0", "5 160 120 runs/math")):
        done = subprocess.run(["env", *settings.split(), "bash", "-c", head + 'echo "$ITERS $NUM_TRAIN $NUM_TEST $OUT"'],
                              cwd=ROOT, text=True, capture_output=True)
        assert done.stdout.startswith(wanted), (settings, done.stdout, done.stderr)
