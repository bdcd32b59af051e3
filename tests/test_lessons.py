"""select.py: right programs that are no lesson, as they state their answer."""
import zlib

import pytest
from test_drafts import solution
from test_select import many, record, run

from envs import ENVS
from nanoenvisions.tidy import computes

STATED, COMPUTED = ("def solution():\n    " + line for line in ("return 42", "return 1 + 1"))


def test_a_right_program_that_states_its_number_teaches_nothing(tmp_path):
    """`return 2` has read the answer or is lucky, `return 1 + 1` computes it; wrong ones are mistakes as ever."""
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


@pytest.mark.parametrize("text, does", [
    (STATED, False), ("answer = -42", False), ("print(42)", False), ("x = 42\nanswer = x", False), (COMPUTED, True),
    ("answer = int(42)", False), ("answer = round(float('42'))", False), ("answer = int(6 * 7)", True),
    (STATED + "\nprint(solution())", False), (STATED + "\nif __name__ == '__main__':\n    print(solution())", False),
    ("answer = sum([1, 2])", True), ("answer = [1, 2][0]", True), ("answer = 2 > 1", True), ("not ( python", True),
    ("answer = 0\nfor i in (1, 2): answer += i", True), ("answer = 0\nanswer -= 6", True),
    ("def solution():\n    total = 15\n    total -= 6\n    return total", True)])
def test_a_stated_number_is_not_computed(text, does):
    assert computes(text) is ENVS["math"].teaches({"program": text}) is does


@pytest.mark.parametrize("junk", [
    "def main():\n    print('{}'.format(solution() * 1))\nmain()", "class A:\n    x = 1 + 1\nA()",
    "print('{}'.format(solution()))",
    "x = solution() * 2\ny = eval('x')", "def f(x):\n    return x + 1\nprint(f(solution()), [f][0])"])
def test_what_is_computed_beside_does_not_count(junk):
    assert not computes(f"{STATED}\n{junk}") and computes(f"{COMPUTED}\n{junk}")
    assert not computes(f"def solution() -> list[int]:\n    x = 42\n    return x\n\n{junk}")


@pytest.mark.parametrize("text, does", [
    ("x = 6 * 7\ndef solution():\n    return x", True), ("x = 42\ndef solution():\n    return x", False),
    ("def f():\n    return 6 * 7\ndef solution():\n    return f()", True),
    ("def f():\n    return 42\ndef solution():\n    return f()", False),
    ("def f():\n    x = y\n    return x\ny = 6\ny *= 7\ndef solution():\n    return f()", True),
    ("x = []\nx.append(6 * 7)\ndef solution():\n    return x", True),
    ("x = {}\nx['a'] = 6 * 7\ndef solution():\n    return x", True),
    ("def f():\n    global x\n    x = 6 * 7\nf()\ndef solution():\n    return x", True),
    ("x = 6 * 7\ndef solution():\n    global x\n    x = x\n    return x", True),
    ("x = 6 * 7\ndef solution():\n    x = 42\n    return x", False),
    # solution() does not give it
    ("def solution():\n    return None\nprint(6 * 7)", True), ("def solution():\n    x = 1\nanswer = 6 * 7", True),
    ("def solution(a):\n    return a\nprint(solution(6 * 7))", True),
    ("def solution(*, a):\n    return a\nprint(solution(a=6 * 7))", True),
    ("def solution(a=42):\n    return a\nprint(solution(6 * 7))", False),
    ("solution = lambda: x\nx = 6 * 7", True), ("def solution():\n    return 42\nsolution = 6 * 7", True)])
def test_what_the_answer_is_made_of_counts(text, does):
    assert computes(text) is does


def test_either_mistakes_or_what_to_keep(tmp_path):
    """By a hash of its id; a task without mistakes has nothing but what to keep."""
    tasks = [{**one, "id": name} for name in "abcdefgh" for one in many(2, 2)]
    tasks += [{**one, "id": "solved at once"} for one in many(1, 0)]
    _, _, rows, _ = run(tmp_path, tasks, "--reuse", "--n2", 1, "--n3", 1, "--either")
    refine = {row["id"]: "n0 = 1" in row["prompt"] for row in rows if row["kind"] == "refine"}
    assert sum(row["kind"] == "refine" for row in rows) == len(refine) == 9  # one a task
    assert refine == {name: zlib.crc32(name.encode()) % 2 == 1 for name in "abcdefgh"} | {"solved at once": False}
    assert {*refine.values()} == {True, False}
