"""select.py: right programs that are no lesson."""
from test_select import record, run


def test_a_right_program_that_states_its_number_teaches_nothing(tmp_path):
    """`return 2` has read the answer or is lucky, `return 1 + 1` computes it; wrong ones are mistakes as ever."""
    def solution(value, reward, source="explore", **more):
        return record(f"def solution():\n    return {value}", reward, -0.1, source, **more)
    now = [solution("2", 1), solution("1 + 1", 1, "refine", reference="x"), solution("3", 0, candidate=1),
           solution("2 * 1", 1, candidate=2), solution("2", 1, task="b")]
    done, pool, rows, row = run(tmp_path, now, stated=False)
    assert "1 of 2 tasks solved now (1 new, 3 stated answers left out)" in done.stdout
    assert [one["program"].split("return ")[1] for one in pool] == ["3", "1 + 1"]
    assert [one["completion"].split("return ")[1] for one in rows] == ["1 + 1\n```"]
    assert (row["stated"], row["solved_now"], row["solved_pool"], row["solved_by_refinement"]) == (3, 1, 1, 1)
    _, pool, rows, row = run(tmp_path, now)
    assert row["stated"] == 0 and row["solved_pool"] == 2 and len(pool) == 3
    done, _, rows, _ = run(tmp_path, now[-1:], stated=False)
    assert done.returncode == 1 and "no task is solved yet, 1 stated answers left out, so" in done.stderr
    # other languages know no such thing: what their programs say is the work
    _, _, rows, row = run(tmp_path, [record("1. The cat is red.\n2. The cat is red?", 1, -0.1, env="logic")],
                          stated=False)
    assert row["stated"] == 0 and len(rows) == 1
