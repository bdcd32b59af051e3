"""select.py: what becomes of a draft and of its rewrite where one of the two is no lesson."""
from test_select import record, run


def solution(value, reward, source="explore", **more):
    return record(f"def solution():\n    return {value}", reward, -0.1, source, **more)


def test_a_wrong_rewrite_of_a_right_draft_is_no_mistake_though_the_draft_is_no_lesson(tmp_path):
    """b = 1, b~ = 0: the draft is the superior of the two; that it states its answer does not change that."""
    now = [solution("2", 1), solution("15 + 6", 0, "refine", reference="x"), solution("1 + 1", 1, candidate=1)]
    _, pool, _, row = run(tmp_path, now, stated=False)
    assert [one["program"].split("return ")[1] for one in pool] == ["1 + 1"] and row["stated"] == 1
    _, pool, _, _ = run(tmp_path, now)
    assert len(pool) == 2  # --stated: the draft itself, and never what was made wrong of it
    now[1] = solution("3 - 1", 1, "refine", reference="x")  # made right by computing: a lesson
    _, pool, _, row = run(tmp_path, now, stated=False)
    assert {one["program"].split("return ")[1] for one in pool} == {"1 + 1", "3 - 1"} and row["stated"] == 1
    now = [solution("15 - 6", 0), solution("2", 1, "refine", reference="x"), solution("1 + 1", 1, candidate=1)]
    _, pool, _, row = run(tmp_path, now, stated=False)  # the rewrite states it: the wrong draft stays a mistake
    assert {one["program"].split("return ")[1] for one in pool} == {"1 + 1", "15 - 6"} and row["stated"] == 1


def test_a_record_of_a_third_kind_is_refused(tmp_path):
    """A draft of "teacher" would take the place of the one that was explored."""
    done, *_ = run(tmp_path, [solution("1 + 1", 1), solution("3 - 1", 1, "teacher")])
    assert done.returncode == 1 and '"source" is \'teacher\' (it must be explore or refine)' in done.stderr


def test_a_pool_without_questions_is_refused(tmp_path):
    before = [{name: value for name, value in solution("1 + 1", 1).items() if name != "question"}]
    done, *_ = run(tmp_path, [solution("3 - 1", 1)], pool=before)
    assert done.returncode == 1 and 'no "question"' in done.stderr and "Traceback" not in done.stderr
