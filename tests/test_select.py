"""select.py: each formula of the article against an example worked by hand; bad input."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT, load_stage, run_stage

import envs

select = load_stage("select")


def record(program, reward, r, source="explore", candidate=0, iteration=0, task="t1", **fields):
    return {"id": task, "env": "math", "question": "What is 1 + 1?", "answer": 2,
            "program": program, "source": source, "iteration": iteration, "candidate": candidate,
            "reward": reward, "self_reward": r, **fields}


def write(path, records):
    path.write_text("".join(map(envs.dump, records)))
    return path


def run(folder, records, *flags, pool=None, stated=True):
    """Run the stage as people do: (finished process, pool, rows, metrics row).

    Most programs here are as short as can be, and compute nothing: stated=False heeds that.
    """
    flags = [*flags, *["--stated"] * stated]
    source = write(folder / "rewarded.jsonl", records)
    before = ["--pool", write(folder / "before.jsonl", pool)] if pool is not None else []
    (folder / "m.jsonl").unlink(missing_ok=True)
    done = run_stage("select", "--in", source, *before, "--pool-out", folder / "pool.jsonl",
                     "--out", folder / "sft.jsonl", "--metrics", folder / "m.jsonl", *flags)
    files = [folder / name for name in ("pool.jsonl", "sft.jsonl", "m.jsonl")]
    pool, rows, metrics = ([json.loads(line) for line in path.read_text().splitlines()]
                           if path.exists() else [] for path in files)
    return done, pool, rows, (metrics or [None])[0]


# ---- the superior trajectory ----------------------------------------------------------------

@pytest.mark.parametrize("b, b_refined, r, r_refined, keeps_refined", [
    (0, 1, -0.1, -0.9, True),    # wrong became right, however unlikely
    (1, 1, -0.5, -0.2, True),    # both right, the rewrite is likelier
    (1, 1, -0.2, -0.5, False),   # both right, the first is likelier
    (1, 1, -0.2, -0.2, False),   # equal: r̃ > r is strict
    (1, 0, -0.9, -0.1, False),   # right became wrong
    (0, 0, -0.9, -0.1, False),   # both wrong: a_k stays
    (1, 1, None, -0.5, True),    # nobody measured r: any measured one is above it
    (1, 1, None, None, False),
])
def test_superior_trajectory(b, b_refined, r, r_refined, keeps_refined):
    first, second = record("a", b, r), record("b", b_refined, r_refined, "refine")
    assert select.superior(first, second) is (second if keeps_refined else first)


def test_pairs_are_joined_by_id_iteration_and_candidate():
    """Four rewrites, in an order of their own; each must meet the draft of its name only.

    Joined by position, or without one of the three fields, another program would come out.
    """
    names = [("t1", 0, 0), ("t1", 0, 1), ("t1", 1, 0), ("t2", 0, 0)]
    drafts = [record(f"draft {i}", 0, -0.1, task=task, iteration=t, candidate=k)
              for i, (task, t, k) in enumerate(names)]
    rewrites = [record(f"rewrite {i}", int(i != 2), -0.3, "refine", task=task, iteration=t,
                       candidate=k) for i, (task, t, k) in enumerate(names)]
    kept = select.superior_trajectories([*rewrites[::-1], *drafts])
    assert [one["program"] for one in kept] == ["rewrite 0", "rewrite 1", "draft 2", "rewrite 3"]


def test_a_rewrite_without_its_draft_stands_for_itself(tmp_path):
    _, pool, rows, _ = run(tmp_path, [record("x = 2", 1, -0.1, "refine")])
    assert [one["program"] for one in pool] == ["x = 2"] and len(rows) == 1


# ---- the pool -------------------------------------------------------------------------------

def test_pool_keeps_one_of_equal_programs_the_likelier():
    """Comments and layout do not make a program different, other names do."""
    pool = select.distinct([record("def solution():\n    return 1 + 1", 1, -0.5),
                            record("def solution():\n    # add\n    return 1+1", 1, -0.3),
                            record("def solution():\n    x = 2\n    return x", 1, -0.4),
                            record("", 0, -0.1)])
    assert [one["self_reward"] for one in pool] == [-0.3, -0.4]


def test_dead_code_makes_no_second_solution_and_is_not_taught(tmp_path):
    """Three programs that compute 1 + 1 are one lesson, in the words that compute it.

    r stays that of the program as sampled, which the pool keeps as `sampled`.
    """
    junk = "def solution():\n    return 1 + 1\n    return 7\n    total = 3"
    unused = "def solution():\n    x = 5\n    return 1 + 1"
    _, pool, rows, metrics = run(tmp_path, [
        record("def solution():\n    return 1 + 1", 1, -0.5, candidate=0),
        record(junk, 1, -0.2, candidate=1), record(unused, 1, -0.4, candidate=2)])
    clean = "def solution():\n    return 1 + 1"
    assert [(one["program"], one["sampled"], one["self_reward"]) for one in pool] == [(clean, junk, -0.2)]
    assert [row["completion"] for row in rows] == [clean + "\n```"]
    assert metrics["positives"] == 1 and metrics["tidied"] == 1
    # a wrong program is tidied, too, but the count is of what is right
    wrong = record("def solution():\n    return 7\n    return 8", 0, -0.1, candidate=3)
    _, pool, _, metrics = run(tmp_path, [record(junk, 1, -0.2), wrong])
    assert "sampled" in pool[1] and metrics["tidied"] == 1


def test_the_pools_doubles_stay_one_over_iterations(tmp_path):
    """The likelier of the two stands, whichever came first; the place in the file stays."""
    before = [record("x = 2", 1, -0.5), record("y = 2", 1, -0.9, candidate=1)]
    now = [record("x = 2", 1, -0.7, iteration=1), record("y = 2", 1, -0.1, iteration=1, candidate=1)]
    _, pool, _, _ = run(tmp_path, now, pool=before)
    assert [(one["program"], one["self_reward"]) for one in pool] == [("x = 2", -0.5), ("y = 2", -0.1)]


@pytest.mark.parametrize("outcome", ["error", "timeout"])
def test_an_error_is_not_mended_by_tidying(outcome):
    """`1 / 0` is an unused value; without it the wrong program would be a right one."""
    broken = "def solution():\n    x = 1 / 0\n    return 2"
    pool = select.distinct([record(broken, 0, -0.1, outcome=outcome),
                            record("def solution():\n    return 2", 1, -0.5, outcome="correct")])
    assert [one["program"] for one in pool] == [broken, "def solution():\n    return 2"]


def test_equal_programs_of_two_tasks_are_two():
    pool = select.distinct([record("return 1", 1, -0.5, task="a"), record("return 1", 1, -0.5, task="b")])
    assert [one["id"] for one in pool] == ["a", "b"]


def test_a_right_program_beats_its_likelier_wrong_double():
    """With random in it a program may be right once and wrong once: it is right, whatever r says."""
    for order in (1, -1):
        both = [record("x = 2", 1, -0.9), record("x = 2", 0, -0.1)][::order]
        assert [one["reward"] for one in select.distinct(both)] == [1]


def test_the_pool_grows_over_iterations(tmp_path):
    """A task solved in iteration 0 and lost in iteration 1 is still learned from."""
    before = [record("x = 2", 1, -0.3)]
    now = [record("x = 3", 0, -0.2, iteration=1)]
    _, pool, rows, metrics = run(tmp_path, now, pool=before)
    assert [one["program"] for one in pool] == ["x = 2", "x = 3"]
    assert [row["completion"] for row in rows] == ["x = 2\n```"]
    assert metrics["lost"] == 1 and metrics["solved_pool"] == 1


def test_rows_from_now_leave_the_pool_as_it_is(tmp_path):
    """Without the candidate pool (the ablation) only the rows differ; what is known stays known."""
    before = [record("x = 2", 1, -0.3, task="old")]
    now = [record("y = 2", 1, -r, iteration=1, task="new", candidate=r) for r in (1, 2)]
    _, with_pool, rows, _ = run(tmp_path, now, pool=before)
    assert {row["id"] for row in rows} == {"old", "new"}
    _, without, rows, _ = run(tmp_path, now, "--rows-from", "now", pool=before)
    assert without == with_pool and [row["id"] for row in rows] == ["new"]  # a double is one


# ---- training rows --------------------------------------------------------------------------

@pytest.mark.parametrize("positives, negatives, n1, n2", [
    (0, 5, 0, 0),    # nothing right, nothing to learn
    (1, 5, 1, 0),    # n1 = max(1, 0) = 1; none left for n2
    (2, 5, 1, 1),    # n1 = max(1, 1) = 1, n2 = min(2, 1, 5)
    (4, 3, 3, 1),    # n1 = 3, n2 = min(2, 4 - 3, 3) = 1
    (4, 0, 3, 0),    # no mistake to learn from
    (14, 1, 10, 1),  # only one mistake
    (14, 9, 10, 2),  # n1 = min(10, 13), n2 = min(2, 4, 9)
])
def test_numbers_of_rows(positives, negatives, n1, n2):
    right = [record(f"x = {i}", 1, -i / 10) for i in range(positives)]
    wrong = [record(f"y = {i}", 0, -i / 10) for i in range(negatives)]
    kinds = [row["kind"] for row in select.training_rows(right, wrong, 10, 2)]
    assert kinds == ["solve"] * n1 + ["refine"] * n2


def many(positives=14, negatives=5, task="t1"):
    """p0, p1 ... right and n0, n1 ... wrong, the likelier the smaller the number; shuffled."""
    right = [record(f"p{i} = 1", 1, -i / 10, candidate=i, task=task) for i in range(positives)]
    wrong = [record(f"n{i} = 1", 0, -i / 10, candidate=50 + i, task=task) for i in range(negatives)]
    return [*wrong[::-1], *right[1::2], *right[::2]]


def test_u2_pairs_the_lowest_positives_with_the_highest_negatives(tmp_path):
    """|P+| = 6, N1 = 2: U1 = p0, p1; U2 = (n0 -> p4), (n1 -> p5), not p2 and p3."""
    _, _, rows, _ = run(tmp_path, many(6, 3), "--n1", 2)
    assert [row["completion"] for row in rows] == [f"p{i} = 1\n```" for i in (0, 1, 4, 5)]
    assert "n0 = 1" in rows[2]["prompt"] and "n1 = 1" in rows[3]["prompt"]
    assert rows[0]["prompt"] == "Question: What is 1 + 1?\n```python\n"
    assert rows[2]["prompt"] == envs.refine_prompt(record("", 0, 0), "n0 = 1")
    assert {row["id"] for row in rows} == {"t1"}


@pytest.mark.parametrize("negatives, n2, pairs", [
    (1, 2, [("p5", "n0")]),  # one mistake: the very lowest positive learns from it
    (3, 1, [("p5", "n0")]), (3, 3, [("p3", "n0"), ("p4", "n1"), ("p5", "n2")]), (3, 0, [])])
def test_u2_starts_from_the_lowest_positive(tmp_path, negatives, n2, pairs):
    _, _, rows, _ = run(tmp_path, many(6, negatives), "--n1", 2, "--n2", n2)
    refine = [row for row in rows if row["kind"] == "refine"]
    assert [row["completion"][:2] for row in refine] == [good for good, _ in pairs]
    assert all(f"{bad} = 1" in row["prompt"] for row, (_, bad) in zip(refine, pairs))


def test_reuse_pairs_mistakes_with_positives_of_u1_again(tmp_path):
    """|P+| = 1: the article has no mistake row. With --reuse n0 and n1 both meet the only positive.

    |P+| = 2, N1 = 10: n2 = 1 by the article, n0 -> p1; the second mistake, n1, meets p0.
    """
    for positives, partners in ((1, ("p0", "p0")), (2, ("p1", "p0")), (3, ("p2", "p1"))):
        _, _, rows, _ = run(tmp_path, many(positives, 3))
        assert sum(row["kind"] == "refine" for row in rows) == min(1, positives - 1)
        _, _, rows, _ = run(tmp_path, many(positives, 3), "--reuse")
        refine = [row for row in rows if row["kind"] == "refine"]
        assert [row["completion"][:2] for row in refine] == list(partners)
        assert ["n0 = 1" in refine[0]["prompt"], "n1 = 1" in refine[1]["prompt"]] == [True, True]


def test_n3_keeps_what_is_right(tmp_path):
    """The best positive as its own draft: return it as it is."""
    _, _, rows, _ = run(tmp_path, many(3, 0), "--n3", 1)
    keep = [row for row in rows if row["kind"] == "refine"]
    assert [row["completion"] for row in keep] == ["p0 = 1\n```"]
    assert keep[0]["prompt"] == envs.refine_prompt(record("", 0, 0), "p0 = 1")


def test_the_articles_numbers_are_the_defaults(tmp_path):
    """N1 = 10, N2 = 2."""
    _, _, rows, metrics = run(tmp_path, many())
    assert [row["kind"] for row in rows] == ["solve"] * 10 + ["refine"] * 2
    assert (metrics["rows"], metrics["solve"], metrics["refine"]) == (12, 10, 2)


def test_all_positives_keeps_every_right_program(tmp_path):
    _, _, rows, _ = run(tmp_path, many(), "--all-positives", "--n1", 1)
    assert sorted(row["completion"] for row in rows) == sorted(f"p{i} = 1\n```" for i in range(14))


def test_refined_drop_leaves_the_rewrites_out(tmp_path):
    records = [record("x = 1", 0, -0.1), record("x = 2", 1, -0.1, "refine"),
               record("y = 2", 1, -0.5, candidate=1)]
    assert [one["program"] for one in run(tmp_path, records)[1]] == ["x = 2", "y = 2"]
    _, pool, rows, _ = run(tmp_path, records, "--refined", "drop")
    assert [one["program"] for one in pool] == ["x = 1", "y = 2"]
    assert [row["completion"] for row in rows] == ["y = 2\n```"]


# ---- random ranking, the ablation ------------------------------------------------------------

def test_random_ranking_is_seeded_and_another_for_each_task(tmp_path):
    pool = [one for task in "ab" for one in many(8, 0, task)]

    def orders(seed, rank="random"):
        return [[one["program"] for one in positives]
                for positives, _ in select.split_pool(pool, rank, seed).values()]
    assert orders(0) == orders(0) != orders(1)
    first, second = orders(0)
    assert first != second and sorted(first) == sorted(second)
    assert orders(0, "self-reward")[0] == [f"p{i} = 1" for i in range(8)]
    # P+ and P- are shuffled apart from each other, else p and n of one rank would meet again
    (right, wrong), = select.split_pool(many(8, 8), "random").values()
    assert [one["program"][1:] for one in right] != [one["program"][1:] for one in wrong]


def test_the_flag_rank_reaches_the_rows_and_seed_the_order(tmp_path):
    records = many(8, 0)
    rows = [[row["completion"] for row in run(tmp_path, records, *flags)[2]]
            for flags in ((), ("--rank", "random"), ("--rank", "random", "--seed", 1))]
    assert rows[0] == [f"p{i} = 1\n```" for i in range(7)]
    assert rows[0] != rows[1] != rows[2] != rows[0]


def test_without_r_chance_decides_between_two_right_programs(tmp_path):
    """The rewrites are all likelier: with r they are kept, all 40; without it, about half.

    Which half says the seed.
    """
    records = [record(f"{name} = {k}", 1, r, source, candidate=k)
               for k in range(40) for name, r, source in (("a", -0.9, "explore"), ("b", -0.1, "refine"))]
    for flags, least, most in (((), 40, 40), (("--rank", "random"), 8, 32)):
        _, pool, _, _ = run(tmp_path, records, *flags)
        assert least <= sum(one["program"].startswith("b") for one in pool) <= most
    pools = [run(tmp_path, records, "--rank", "random", "--seed", seed)[1] for seed in (0, 0, 1)]
    assert pools[0] == pools[1] != pools[2]


# ---- the numbers ------------------------------------------------------------------------------

def test_metrics_by_hand(tmp_path):
    """Tasks a (solved before and now), b (new, by a rewrite), c (lost), d (never), e (not explored)."""
    before = [record("a = 1", 1, -0.4, task="a"), record("c = 1", 1, -0.2, task="c"),
              record("e = 1", 1, -0.6, task="e")]
    now = [record("a = 2", 1, -0.2, task="a", iteration=1), record("b = 1", 0, -1.0, task="b", iteration=1),
           record("a = 2", 1, -0.3, "refine", task="a", iteration=1, reference="a = 2"),
           record("b = 2", 1, -0.1, "refine", task="b", iteration=1, reference="b = 1"),
           record("c = 2", 0, -2.0, task="c", iteration=1), record("d = 1", 0, -3.0, task="d", iteration=1),
           record("d = 1", 0, -0.1, "refine", task="d", iteration=1, reference="d = 1")]
    _, _, _, row = run(tmp_path, now, pool=before)
    assert row["stage"] == "select" and row["iteration"] == 1 and row["seconds"] >= 0
    assert (row["tasks"], row["solved_now"], row["solved_new"], row["lost"]) == (5, 2, 1, 1)
    assert (row["solved_by_refinement"], row["solved_pool"]) == (1, 4)
    # P+ = a1 a2 b2 c1 e1, P- = c2 d1 (b1 gave way to its rewrite)
    assert (row["pool"], row["positives"], row["negatives"]) == (7, 5, 2)
    assert row["margin"] == round((-0.4 - 0.2 - 0.1 - 0.2 - 0.6) / 5 + (2.0 + 3.0) / 2, 4)
    # copies: a and d of the three rewrites
    assert row["solutions_per_solved_task"] == 1.25 and row["copies"] == 0.6667


# ---- input ------------------------------------------------------------------------------------

def test_a_teachers_programs_need_no_log_probability(tmp_path):
    """They rank behind the model's own, and are learned from."""
    teacher = record("t = 2", 1, None, candidate=7)
    del teacher["self_reward"]
    done, pool, rows, row = run(tmp_path, [teacher, record("x = 2", 1, -3.0), record("y = 1", 0, -1.0, candidate=1)])
    assert done.returncode == 0, done.stderr
    assert [line["completion"] for line in rows] == ["x = 2\n```", "t = 2\n```"]
    assert row["margin"] == -2.0  # of those that have r


def test_two_candidates_of_one_name_are_refused(tmp_path):
    done, *_ = run(tmp_path, [record("x = 2", 1, -0.3), record("x = 3", 0, -0.2)])
    assert done.returncode == 1 and "rewarded.jsonl:2: a second" in done.stderr
    assert not (tmp_path / "sft.jsonl").exists()


@pytest.mark.parametrize("field, value, message", [
    ("reward", 2, '"reward" is 2 (it must be 0 or 1)'), ("reward", True, '"reward" is True'),
    ("self_reward", float("nan"), '"self_reward" is nan'), ("env", "chess", '"env" is \'chess\''),
    ("candidate", "0", '"candidate" is \'0\''), ("program", ..., 'no "program" (explore.py writes it)'),
])
def test_bad_values_are_named(tmp_path, field, value, message):
    bad = record("x = 2", 1, -0.3, candidate=1)
    bad[field] = value
    if value is ...:
        del bad[field]
    done, *_ = run(tmp_path, [record("x = 2", 1, -0.3), bad])
    assert done.returncode == 1 and "rewarded.jsonl:2: " in done.stderr and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_files_are_one_and_limit_counts_over_all(tmp_path):
    files = [write(tmp_path / task, many(2, 0, task)) for task in "abc"]
    for flags, tasks in (((), "aabbcc"), (("--limit", 3), "aab"), (("--limit", 2), "aa")):
        done = run_stage("select", "--in", *files, "--pool-out", tmp_path / "pool", "--out",
                         tmp_path / "sft", "--stated", *flags)
        assert done.returncode == 0, done.stderr
        assert "".join(one["id"] for one in envs.read_jsonl(tmp_path / "pool")) == tasks


@pytest.mark.parametrize("flags", [("--n1", 0), ("--n1", -1), ("--n2", -1), ("--limit", 0), ("--n4", 1)])
def test_bad_flags(tmp_path, flags):
    done, *_ = run(tmp_path, [record("x = 2", 1, -0.3)], *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_an_input_is_never_overwritten(tmp_path):
    source = write(tmp_path / "r.jsonl", [record("x = 2", 1, -0.3)])
    before = source.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(source)
    new, pool = tmp_path / "s", tmp_path / "p"
    for flags in ((source, pool), (new, source), (tmp_path / "link.jsonl", pool), (new, new),
                  (new, pool, "--metrics", source), (new, pool, "--metrics", pool),
                  (new, pool, "--pool", source, "--metrics", tmp_path / "link.jsonl")):
        done = run_stage("select", "--in", source, "--out", flags[0], "--pool-out", *flags[1:])
        assert done.returncode == 1 and "would be overwritten" in done.stderr, flags
        assert source.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_nothing_solved_is_said_and_not_an_empty_success(tmp_path):
    done, *_ = run(tmp_path, [record("x = 3", 0, -0.2)])
    assert done.returncode == 1 and "no task is solved" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "sft.jsonl").exists()


# ---- the name of this stage -------------------------------------------------------------------

@pytest.mark.parametrize("code", [
    "import select; assert hasattr(select, 'select'), select",
    "import subprocess; subprocess.run(['true'], check=True)",
    "import asyncio; asyncio.run(asyncio.sleep(0))",
    "import multiprocessing.pool",
    "import selectors, socket; selectors.DefaultSelector().close()",
])
def test_the_standard_library_still_finds_its_select(code):
    """From this folder `import select` finds our file first, where select is a shared object."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_our_select_can_stand_in_for_the_standard_one():
    """Also where the standard module is built in: load our file under its name."""
    code = ("import sys, importlib.util as u; sys.path.insert(0, ''); "
            "s = u.spec_from_file_location('select', 'select.py')\n"
            "m = u.module_from_spec(s); s.loader.exec_module(m); "
            "assert m.select and sys.modules['select'].select")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
