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
    "def helper(a=1):|B| return V|N = helper()", "def helper(b=N):|B| return V", "N += D", "N -= D",
    "if False:|B", "if 1:|B|else:|B", "if 0:|B|elif V > V:|B|else:|B", "if V > V:|B|elif True:|B|else:|B",
    "while 0:|B|else:|B", "x = None", "class A:| n = 1| def f(self):|  print(n)", "f = lambda: N", "'eggs'",
    "print('{} eggs'.format(V))"]
ODD_STATEMENTS = [
    "try:|B|except Exception:|B", "try:| N = V|finally:| O = V", "GLOBAL N|N = V", "del N",
    "N, *rest = 5, 6, 7", "shared.append(N)", "x = y = shared|y += [N]", "x = max([1], [2])|y = x|"
    "y += [N]|N = len(x)", "class Box:| a = V| b = 3| def get(self):|  return V", "YIELD N",
    "once = zip([1, 2], [3, 4])|N = list(once)", "with contextlib.suppress(Exception):|B",
    "x = None|N = x or V", "class A:| n = 1| def f(self):|  return A.n|N = A().f()", "f = lambda: N|N = f()",
    "if False:| GLOBAL N| N = V", "if True:| RETURN V| YIELD N", "if 0:| N = V|del N",
    "while True:|B| break", "def empty():| print(V)|print(empty())", "x = [N]|x *= 2|N = len(x)",
    "try:| RETURN V|except Exception:| RETURN V|finally:| N = V|B", "match N:| case O:|  N = V",
    "N = int(f.__doc__ or V)",
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
        lines = ["from __future__ import annotations"] * (chance() < 0.1) + HEAD + ODD_HEAD * self.odd
        lines += self.block("", False) * (chance() < 0.3)
        solved = chance() < 0.8
        if solved:
            lines += [f"def solution(){choice(['', ' -> int'])}:"]
            lines += ["    a, b, c, d = 1, 2, 3, 4"] * (chance() < 0.9)
            lines += self.block("    ", True) + [f"    return {self.value()}"] * (chance() < 0.9)
            lines += ["def main():", *self.block("    ", True), "    print(solution())"]
        lines += self.block("", False) * (chance() < 0.4)
        return "\n".join(lines + choice([
            [], ["main()"], ["print(solution())"], ["x = solution()"], ["answer = solution()", "print(answer)"],
            ["if __name__ == '__main__':", "    print(solution(), a)"],
            ["if True:", "    main()"]] if solved else [
                ["print(a)"], ["answer = b"], ["result = c + d"], ["ans = a"]]))


def other_program(seed) -> str:
    """Assignments, branches, loops, functions over a few names; much is idle, some of it odd."""
    rng = random.Random(seed)
    odd = rng.random() < 0.5  # with what tidy must not touch, or must know to have no effect

    def value(depth=0):
        number, name, other = str(rng.randint(0, 9)), rng.choice("abcd"), rng.choice("abcd")
        plain = [number, number, name, name, f"{name} + {other}", f"{name} * {number}", f"{name} - {other}",
                 f"max({name}, {other})", f"sum([{name}, {number}])", f"({name} if {other} > 2 else {number})",
                 f"sum(i for i in range({number}))", f"[i + {name} for i in range(3)][{rng.randint(0, 2)}]",
                 f"int(f'{{{number}}}')", "math.floor(2.5)"]
        strange = ["next(stream)", f"({name} := {number})", f"(lambda: {name})()", "len(shared)", "helper()",
                   f"helper({name})", "count()", "len(list(once))", "(shared.append(1) or 3)",
                   f"eval('{name}')", f"locals().get('{name}', 1)", "sum(a for a in range(3))",
                   f"1 // {name}", "Box.a", "Box().get()", "solution()", "shared[0]"]
        return rng.choice(plain + strange * (rng.random() < 0.4) if odd else plain)

    def block(depth, pad, inside=True, loop=False):
        lines = []
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(["set", "set", "set", "add", "pair", "twice", "typed", "value", "print", "import", "if",
                               "for", "while", "return", "jump", "def"] + ["odd"] * 3 * odd)
            name, other = rng.choice("abcd"), rng.choice("abcd")
            deeper = (depth + 1, pad + "    ", inside)
            if kind in ("if", "for", "while", "def", "odd") and depth > 1:
                kind = "set"
            if kind == "if":
                lines += [f"{pad}if {value()} > {value()}:", *block(*deeper, loop)]
                lines += [f"{pad}else:", *block(*deeper, loop)] * (rng.random() < 0.5)
            elif kind == "for":
                lines += [f"{pad}for {rng.choice('abi')} in range({rng.randint(0, 3)}):", *block(*deeper, True)]
            elif kind == "while":
                lines += [f"{pad}w{depth} = 0", f"{pad}while w{depth} < 2:", f"{pad}    w{depth} += 1",
                          *block(*deeper, True)]
            elif kind == "def":
                call = rng.choice(["inner()", "helper()", "3"])
                lines += [f"{pad}def {rng.choice(['inner', 'helper'])}({rng.choice(['', 'a=1', f'b={name}'])}):",
                          *block(depth + 1, pad + "    ", True), f"{pad}    return {value()}", f"{pad}{name} = {call}"]
            elif kind == "odd":
                lines += rng.choice([
                    [f"{pad}try:", *block(*deeper, loop), f"{pad}except Exception:", *block(*deeper, loop)],
                    [f"{pad}try:", f"{pad}    {name} = {value()}", f"{pad}finally:", f"{pad}    {other} = {value()}"],
                    [f"{pad}global {name}", f"{pad}{name} = {value()}"] if inside else [],
                    [f"{pad}del {name}"], [f"{pad}{name}, *rest = 5, 6, 7"], [f"{pad}shared.append({name})"],
                    [f"{pad}class Box:", f"{pad}    a = {value()}", f"{pad}    b = 3", f"{pad}    def get(self):",
                     f"{pad}        return {value()}"],
                    [f"{pad}x = y = shared", f"{pad}y += [{name}]"], [f"{pad}{name} = yield_ if False else {value()}"],
                    [f"{pad}yield {name}"] if inside and rng.random() < 0.3 else [f"{pad}once = zip([1, 2], [3, 4])",
                        f"{pad}{name} = list(once)"],
                    [f"{pad}assert {value()} >= 0"], [f"{pad}from math import *"] if not inside else [],
                    [f"{pad}with contextlib.suppress(Exception):", *block(*deeper, loop)]])
            else:
                lines += {"set": [f"{pad}{name} = {value()}"], "add": [f"{pad}{name} {rng.choice('+-*')}= {value()}"],
                          "pair": [f"{pad}{name}, {other} = {value()}, {value()}"],
                          "twice": [f"{pad}{name} = {other} = {value()}"],
                          "typed": [f"{pad}{name}: int = {value()}"], "value": [pad + value()],
                          "print": [f"{pad}print({value()})"],
                          "import": [f"{pad}import {rng.choice(['math', 'random', 'os'])}"],
                          "return": [f"{pad}return {value()}" if inside else f"{pad}answer = {value()}"],
                          "jump": [pad + rng.choice(["break", "continue"]) if loop else f"{pad}pass"]}[kind]
        return lines or [f"{pad}pass"]

    head = ["import math", "a, b, c, d = 1, 2, 3, 4"]
    if odd:
        head += ["import contextlib", "stream = iter(range(10, 99))", "shared = [1]", "def count():",
                 "    shared.append(1)", "    return len(shared)",
                 "def helper(a=2):", "    return a + 1"]
    body = ["    a, b, c, d = 1, 2, 3, 4"] * (rng.random() < 0.9) + block(0, "    ")
    body += [f"    return {value()}"] * (rng.random() < 0.9)
    solution = ["def solution():", *body] if rng.random() < 0.8 else []
    tail = block(0, "", False) if rng.random() < 0.5 else []
    tail += rng.choice([
        [], [], ["print(solution())"], ["x = solution()"],
        ["if __name__ == '__main__':", "    print(solution(), a)"]] if solution else [
            ["print(a)"], ["answer = b"], ["result = c + d"], ["ans = a"]])
    return "\n".join(head + (block(0, "", False) if rng.random() < 0.3 else []) + solution + tail)


WRITERS = {"lines": lambda seed: Writer(seed).program(), "kinds": other_program}


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


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("part", range(6))
def test_the_answer_stays_the_same(write, part):
    ran = shorter = 0
    for seed in range(part, 900, 6):
        text = write(seed)
        wanted, after = answer(text), tidy(text)
        if wanted is not None:
            assert answer(after) == wanted, f"{text}\n----\n{after}"
            assert tidy(after) == after, f"{text}\n----\n{after}"
            ran, shorter = ran + 1, shorter + (after != text)
    assert ran > 40 and shorter > 20


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_equal_trees_are_equal_solutions(write):
    parsed = 0
    for seed in range(120):
        text = write(seed)
        if parse(text):  # else it is no program, and any two texts are two
            assert canonical(tidy(text)) == canonical(text) == canonical(text + "  # eggs")
            parsed += 1
    assert parsed > 60


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_failed_goes_on_failing(write):
    failed = 0
    for seed in range(300):
        text = write(seed)
        if answer(text) is None:
            assert answer(tidy(text, ran=False)) is None, text
            failed += 1
    assert failed > 20
