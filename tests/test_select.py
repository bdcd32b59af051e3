"""select.py: each formula of the article against an example worked by hand, the shadowing of `select`, bad input."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT, load_stage, run_stage

select = load_stage("select")


def record(program, reward, r, source="explore", candidate=0, iteration=0, task="t1"):
    return {"id": task, "env": "math", "question": "What is 1 + 1?", "answer": 2, "program": program, "source": source,
            "iteration": iteration, "candidate": candidate, "reward": reward, "self_reward": r}


@pytest.mark.parametrize("b, b_refined, r, r_refined, keeps_refined", [
    (0, 1, -0.1, -0.9, True),    # wrong became right, however unlikely
    (1, 1, -0.5, -0.2, True),    # both right, the rewrite is likelier
    (1, 1, -0.2, -0.5, False),   # both right, the first is likelier
    (1, 1, -0.2, -0.2, False),   # equal: r̃ > r is strict
    (1, 0, -0.9, -0.1, False),   # right became wrong
    (0, 0, -0.9, -0.1, False),   # both wrong: a_k stays
])
def test_superior_trajectory(b, b_refined, r, r_refined, keeps_refined):
    first, second = record("a", b, r), record("b", b_refined, r_refined, "refine")
    assert select.superior(first, second) is (second if keeps_refined else first)


def test_pairs_are_joined_by_id_and_candidate_not_by_position():
    """The rewrite of candidate 1 stands first in the file; it must not be taken for that of candidate 0."""
    records = [record("fixed", 1, -0.3, "refine", candidate=1), record("a", 0, -0.2, candidate=0),
               record("b", 0, -0.4, candidate=1)]
    assert [one["program"] for one in select.superior_trajectories(records)] == ["a", "fixed"]


def test_pool_keeps_one_of_equal_programs_the_likelier():
    """Comments and layout do not make a program different, names do (METHOD: distinct programs, not spellings)."""
    pool = select.distinct([record("def solution():\n    return 1 + 1", 1, -0.5),
                            record("def solution():\n    # add\n    return 1+1", 1, -0.3),
                            record("def solution():\n    x = 2\n    return x", 1, -0.4),
                            record("", 0, -0.1)])
    assert [one["self_reward"] for one in pool] == [-0.3, -0.4]


@pytest.mark.parametrize("positives, negatives, n1, n2", [
    (0, 5, 0, 0),    # nothing right, nothing to learn
    (1, 5, 1, 0),    # n1 = max(1, 0) = 1; none left for n2
    (4, 3, 3, 1),    # n1 = 3, n2 = min(2, 4 - 3, 3) = 1
    (4, 0, 3, 0),    # no mistake to learn from
    (14, 9, 10, 2),  # n1 = min(10, 13), n2 = min(2, 4, 9)
])
def test_numbers_of_rows(positives, negatives, n1, n2):
    right = [record(f"x = {i}", 1, -i / 10) for i in range(positives)]
    wrong = [record(f"y = {i}", 0, -i / 10) for i in range(negatives)]
    kinds = [row["kind"] for row in select.training_rows(right, wrong, 10, 2)]
    assert kinds == ["solve"] * n1 + ["refine"] * n2


def test_u2_pairs_the_lowest_positives_with_the_highest_negatives():
    """P+ = (p0, p1, p2, p3), N1 = 2: U1 = p0, p1; U2 = (n0 -> p2), (n1 -> p3)."""
    pool = [record(f"p{i} = 1", 1, -i) for i in (2, 0, 3, 1)] + [record(f"n{i} = 1", 0, -i) for i in (1, 0, 2)]
    rows = select.training_rows(*select.split_pool(pool)["t1"], 2, 2)
    assert [row["completion"] for row in rows] == ["p0 = 1\n```", "p1 = 1\n```", "p2 = 1\n```", "p3 = 1\n```"]
    assert "n0 = 1" in rows[2]["prompt"] and "n1 = 1" in rows[3]["prompt"]
    assert rows[0]["prompt"] == "Question: What is 1 + 1?\n```python\n"


def test_the_pool_grows_over_iterations(tmp_path):
    """A task solved in iteration 0 and lost in iteration 1 is still learned from."""
    first, second = tmp_path / "r0.jsonl", tmp_path / "r1.jsonl"
    first.write_text(json.dumps(record("x = 2", 1, -0.3)) + "\n")
    second.write_text(json.dumps(record("x = 3", 0, -0.2, iteration=1)) + "\n")
    for source, pool, out in ((first, [], "0"), (second, ["--pool", tmp_path / "p0"], "1")):
        done = run_stage("select", "--in", source, *pool, "--pool-out", tmp_path / f"p{out}",
                         "--out", tmp_path / f"s{out}", "--metrics", tmp_path / "m")
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p1").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "s1").read_text())["completion"] == "x = 2\n```"
    metrics = [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()]
    assert [row["lost"] for row in metrics] == [0, 1] and metrics[1]["solved_pool"] == 1


def test_random_ranking_is_seeded():
    pool = [record(f"p{i} = 1", 1, -i) for i in range(8)]
    orders = [[one["self_reward"] for one in select.split_pool(pool, "random", seed)["t1"][0]] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_nothing_solved_is_said_and_not_an_empty_success(tmp_path):
    source = tmp_path / "r.jsonl"
    source.write_text(json.dumps(record("x = 3", 0, -0.2)) + "\n")
    done = run_stage("select", "--in", source, "--pool-out", tmp_path / "p", "--out", tmp_path / "s")
    assert done.returncode == 1 and "no task is solved" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("code", [
    "import select; assert hasattr(select, 'select'), select",
    "import subprocess; subprocess.run(['true'], check=True)",
    "import asyncio; asyncio.run(asyncio.sleep(0))",
    "import multiprocessing.pool",
    "import selectors, socket; selectors.DefaultSelector().close()",
])
def test_the_standard_library_still_finds_its_select(code):
    """Started from this folder, `import select` finds our file first (on pythons where select is a shared object)."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_our_select_can_stand_in_for_the_standard_one():
    """Also where the standard module is built in, and would never look here: load our file under its name."""
    code = ("import sys, importlib.util as u; sys.path.insert(0, ''); s = u.spec_from_file_location('select', 'select.py')\n"
            "m = u.module_from_spec(s); s.loader.exec_module(m); assert m.select and sys.modules['select'].select")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
