"""tidy.py: random programs, of which much does nothing, answer the same before and after."""
import random
import re

import pytest

from nanoenvisions.tidy import canonical, parse, tidy

# N, O: names; D: digit; V: value; B: block; | starts a line, a space indents it.
VALUES = ["D", "D", "(D + D) * 1", "1 * D - N", "N", "N", "N + O", "N * D", "N - O", "max(N, O)", "sum([N, D])", "math.floor(N)",
          "(N if O > 2 else D)", "sum(i for i in range(D))", "[i + N for i in range(3)][1]",
          "int(f'{D}')", "first()"]
ODD_VALUES = [
    "next(stream)", "(N := D)", "(lambda: N)()", "len(shared)", "helper()", "helper(N)", "count()",
    "len(list(once))", "(shared.append(1) or 3)", "eval('N')", "locals().get('N', 1)", "1 // N",
    "sum(a for a in range(3))", "Box.a", "Box().get()", "solution()", "shared[0]", "pow(N, 2)"]
STATEMENTS = [
    "N = V", "N = V", "N = V", "N += V", "N -= V", "N *= V", "N, O = V, V", "N = O = V", "N: int = V",
    "V", "print(V)", "import math", "import os", "import random", "pass", "RETURN V", "JUMP",
    "if V > V:|B", "if V > V:|B|else:|B", "for i in range(D):|B", "for N in range(D):|B",
    "w = 0|while w < 2:| w += 1|B", "def inner():|B| return V|N = inner()", "assert D >= 0",
    "def helper(a=1):|B| return V|N = helper()", "def helper(b=N):|B| return V"]
ODD_STATEMENTS = [
    "try:|B|except Exception:|B", "try:| N = V|finally:| O = V", "GLOBAL N|N = V", "del N",
    "N, *rest = 5, 6, 7", "shared.append(N)", "x = y = shared|y += [N]", "x = max([1], [2])|y = x|"
    "y += [N]|N = len(x)", "class Box:| a = V| b = 3| def get(self):|  return V", "YIELD N",
    "once = zip([1, 2], [3, 4])|N = list(once)", "with contextlib.suppress(Exception):|B",
    "from math import *", "x = [N, 5]|x[0] = V|N = x[0]", "def inner():| GLOBAL N| N = V|inner()"]
HEAD = ["import math", "a, b, c, d = 1, 2, 3, 4", "def first():", "    return 1"]
ODD_HEAD = ["import contextlib", "stream = iter(range(10, 99))", "shared = [1]", "def count():",
            "    shared.append(1)", "    return len(shared)", "def helper(a=2):", "    return a + 1"]


class Writer:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.odd = self.rng.random() < 0.5  # with what tidy must not touch, or know to do nothing

    def value(self):
        strange = self.odd and self.rng.random() < 0.3
        text = self.rng.choice(ODD_VALUES if strange else VALUES)
        return self.filled(text)

    def filled(self, text):
        choose = {"N": "abcd", "O": "abcd", "D": "0123456789"}
        return re.sub(r"\b[NOD]\b", lambda found: self.rng.choice(choose[found[0]]), text)

    def block(self, pad, inside, loop=False):
        """Lines with this indentation, inside of a function or not, of a loop or not."""
        lines = []
        for _ in range(self.rng.randint(1, 4)):
            odd = self.odd and self.rng.random() < 0.3
            text = self.rng.choice(ODD_STATEMENTS if odd else STATEMENTS)
            if len(pad) > 4 and re.search(r"\bB\b", text):
                text = "N = V"
            text = text.replace("RETURN V", "return V" if inside else "answer = V")
            text = text.replace("JUMP", self.rng.choice(["break", "continue"]) if loop else "pass")
            text = text.replace("YIELD", "yield" if inside and self.rng.random() < 0.2 else "")
            text = text.replace("GLOBAL N|", "global N|" if inside else "")
            text = text.replace("GLOBAL", "global").replace("from math", "from math"[:9 * (not inside)])
            loops = loop or text.startswith(("for", "w = "))
            for line in self.filled(text).split("|"):
                line = re.sub("^ +", lambda spaces: 4 * spaces[0], line)
                if line == "B":
                    within = inside or text.startswith("def")
                    lines += self.block(pad + "    ", within, loops and not text.startswith("def"))
                else:
                    lines.append(pad + re.sub(r"\bV\b", lambda _: self.value(), line).lstrip("\0"))
        return lines

    def program(self):
        choice, chance = self.rng.choice, self.rng.random
        lines = HEAD + ODD_HEAD * self.odd + self.block("", False) * (chance() < 0.3)
        solved = chance() < 0.8
        if solved:
            lines += ["def solution():"] + ["    a, b, c, d = 1, 2, 3, 4"] * (chance() < 0.9)
            lines += self.block("    ", True) + [f"    return {self.value()}"] * (chance() < 0.9)
        lines += self.block("", False) * (chance() < 0.4)
        return "\n".join(lines + choice([
            [], [], ["print(solution())"], ["x = solution()"], ["answer = solution()", "print(answer)"],
            ["if __name__ == '__main__':", "    print(solution(), a)"]] if solved else [
                ["print(a)"], ["answer = b"], ["result = c + d"], ["ans = a"]]))


def answer(text):
    """What solution() gives (or gave last, if the program calls it), else all that is printed and
    the variables that an environment reads; None if the program fails."""
    printed, calls = [], []

    def noted(function):
        calls.append(function())
        return calls[-1]

    names = {"print": lambda *values: printed.append(shown(values)), "noted": noted,
             "__name__": "__main__"}
    try:
        exec(re.sub(r"(?<!def )solution\(\)", "noted(solution)", text), names)
        value = names.get("solution")
        if callable(value):
            value = calls[-1] if calls else value()
    except (Exception, SystemExit):
        return None
    if value is not None and not callable(value):
        return shown(value)
    return printed, [shown(names.get(name)) for name in ("answer", "ans", "result")]


def shown(value):
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("part", range(4))
def test_the_answer_stays_the_same(part):
    ran = shorter = 0
    for seed in range(part, 400, 4):
        text = Writer(seed).program()
        wanted, after = answer(text), tidy(text)
        if wanted is not None:
            assert answer(after) == wanted, f"{text}\n----\n{after}"
            assert tidy(after) == after, f"{text}\n----\n{after}"
            ran, shorter = ran + 1, shorter + (after != text)
    assert ran > 30 and shorter > 15


def test_equal_trees_are_equal_solutions():
    parsed = 0
    for seed in range(60):
        text = Writer(seed).program()
        if parse(text):  # else it is no program, and any two texts are two
            assert canonical(tidy(text)) == canonical(text) == canonical(text + "  # eggs")
            parsed += 1
    assert parsed > 30


def test_what_failed_goes_on_failing():
    failed = 0
    for seed in range(160):
        text = Writer(seed).program()
        if answer(text) is None:
            assert answer(tidy(text, ran=False)) is None, text
            failed += 1
    assert failed > 20
