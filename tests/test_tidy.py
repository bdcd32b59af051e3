"""tidy.py: what goes, what stays, what is one solution, and that hostile text is read in time."""
import pytest
from conftest import in_time

from nanoenvisions.tidy import canonical, computes, tidy


def function(*lines, head=""):
    """The lines as the body of solution(), behind what stands in `head`."""
    return head + "def solution():\n" + "\n".join("    " + line for line in lines)


RETURN = function("return 1 + 1")

GOES = {  # name: (before, after)
    # unreachable
    "behind return": (function("return 1 + 1", "return 7"), RETURN),
    "much behind return": (function("return 1 + 1", "x = 3", "print(x)", "for i in x:", "    return"), RETURN),
    "behind raise": (function("if 2 < 1:", "    raise ValueError('x')", "    print(3)", "return 1"),
                     function("if 2 < 1:", "    raise ValueError('x')", "return 1")),
    "behind break": (function("for i in range(3):", "    break", "    x = 1", "return i"),
                     function("for i in range(3):", "    break", "return i")),
    "behind continue": (function("for i in range(3):", "    continue", "    i = 7", "return i"),
                        function("for i in range(3):", "    continue", "return i")),
    "both branches return": (
        function("if 2 > 1:", "    return 3", "    x = 1", "else:", "    return 4", "return 5"),
        function("if 2 > 1:", "    return 3", "else:", "    return 4")),
    "all of elif return": (
        function("a = 2", "if a > 3:", "    return 3", "elif a > 1:", "    return 2", "else:", "    return 4", "return 5"),
        function("a = 2", "if a > 3:", "    return 3", "elif a > 1:", "    return 2", "else:", "    return 4")),
    "behind while True": (function("while True:", "    return 3", "x = 1"),
                          function("while True:", "    return 3")),
    "behind try": (function("try:", "    return 1", "except ValueError:", "    return 2", "return 3"),
                   function("try:", "    return 1", "except ValueError:", "    return 2")),
    "in an except": (function("try:", "    x = 1", "except ValueError:", "    return 2", "    x = 3", "return x"),
                     function("try:", "    x = 1", "except ValueError:", "    return 2", "return x")),
    "in a method": ("class A:\n    def f(self):\n        return 1\n        return 2\nanswer = A().f()",
                    "class A:\n    def f(self):\n        return 1\nanswer = A().f()"),
    "behind exit": ("print(5)\nraise SystemExit\n" + RETURN, "print(5)\nraise SystemExit"),
    "a function behind return": (function("return 1 + 1", "def f():", "    return 3"), RETURN),
    # numbers times 1
    "times one": (function("return 75 + 12 * 1"), function("return 75 + 12")),
    "one times": (function("return 1 * (3 + 4) / 1"), function("return (3 + 4) / 1")),
    "one times one": (function("return -(1 * 1) * 6 * 1"), function("return -1 * 6")),
    # unused
    "unused": (function("x = 5", "return 1 + 1"), RETURN),
    "unused chain": (function("x = 5", "y = x + 1", "return 1 + 1"), RETURN),
    "annotated": (function("x: int = 5", "return 1 + 1"), RETURN),
    "two names": (function("x = y = 5", "return 1 + 1"), RETURN),
    "tuple": (function("x, (y, z) = 5, (6, 7)", "return 1 + 1"), RETURN),
    "augmented": (function("x = 5", "x += 2", "return 1 + 1"), RETURN),
    "counts for nothing": (function("x = 5", "x = x + 2", "return 1 + 1"), RETURN),
    "unused in a loop": (function("t = 0", "for i in range(3):", "    t += i", "return 1 + 1"), RETURN),
    "unused in while": (function("t = 0", "s = 4", "while t < 3:", "    t += 1", "    s = t", "return t"),
                        function("t = 0", "while t < 3:", "    t += 1", "return t")),
    "unused in if": (function("if 2 > 1:", "    x = 3", "return 1 + 1"), RETURN),
    "unused in else": (function("a = 1", "if a:", "    return 1", "else:", "    x = 3", "return a"),
                       function("a = 1", "if a:", "    return 1", "return a")),
    "comprehension": (function("x = [y * 2 for y in range(3)]", "return 1 + 1"), RETURN),
    "pure calls": (function("x = max(abs(-3), len('ab'), sum([1, 2]))", "return 1 + 1"), RETURN),
    "module": (RETURN + "\nx = 3", RETURN),
    "f-string": (function("a = 1", "x = f'{a} eggs'", "return a + 1"), function("a = 1", "return a + 1")),
    "import": ("import math\n\n" + RETURN, RETURN), "from": ("from math import sqrt, pi\n" + RETURN, RETURN),
    "import inside": (function("import numpy as np", "return 1 + 1"), RETURN),
    "use of math": (function("import math", "x = math.sqrt(2)", "return 1 + 1"), RETURN),
    "helper": ("def helper():\n    return 3\n\n" + RETURN, RETURN),
    "two helpers": ("def f():\n    return 3\n\ndef g():\n    return f()\n\n" + RETURN, RETURN),
    "recursive helper": ("def f(n):\n    return n * f(n - 1)\n\n" + RETURN, RETURN),
    "nested helper": (function("def f(n=3):", "    return n", "return 1 + 1"), RETURN),
    # written over
    "overwritten": (function("x = 1", "x = 2", "return x"), function("x = 2", "return x")),
    "overwritten later": (function("x = 1", "y = 3", "x = 2", "return x + y"),
                          function("y = 3", "x = 2", "return x + y")),
    "written after use": (function("x = 1", "y = x", "x = 2", "return y"), function("x = 1", "y = x", "return y")),
    "overwritten in a loop": (function("t = 0", "for i in range(3):", "    a = 1", "    a = i", "    t += a", "return t"),
                              function("t = 0", "for i in range(3):", "    a = i", "    t += a", "return t")),
    "defined twice": ("def solution():\n    return 3 * 3\n\n" + RETURN, RETURN),
    "global overwritten": ("x = 1\nx = 2\nprint(x)", "x = 2\nprint(x)"),
    # without effect
    "expression": (function("3 + 4", "return 1 + 1"), RETURN), "pass": (function("pass", "return 1 + 1"), RETURN),
    "docstring": (function('"""How many?"""', "return 1 + 1"), RETURN),
    "assert": (function("assert 2 > 1", "return 1 + 1"), RETURN),
    "print beside": (function("print(12)", "return 1 + 1"), RETURN),
    "print of it": (RETURN + "\n\nprint(solution())", RETURN), "call of it": (RETURN + "\n\nx = solution()", RETURN),
    "answer of it": (RETURN + "\nanswer = solution()\nprint(f'{answer} eggs')", RETURN),
    "main": (RETURN + "\nif __name__ == '__main__':\n    print(solution())", RETURN),
    "main()": (RETURN + "\n\ndef main():\n    print(solution())\n\nmain()", RETURN),
    "main() that returns": (RETURN + "\ndef main():\n    if solution() > 3:\n        return\n    print(3)\n"
                            "if True:\n    main()", RETURN),
    "main() first": ("def main():\n    x = solution()\n    print(x)\n\n" + RETURN + "\n\nmain()", RETURN),
    "print of format": (RETURN + "\n\nprint('{} eggs'.format(solution()), format(solution(), '.2f'))", RETURN),
    "annotations": ("def solution() -> int:\n    x: float = 3\n    print(x)\n    return 1 + 1",
                    "def solution() -> int:\n    return 1 + 1"),
    "future": ("from __future__ import annotations\n" + RETURN, RETURN),
    # never taken
    "if False": (function("if False:", "    x = 7", "elif 0:", "    return 3", "return 1 + 1"), RETURN),
    "if True": (function("if True:", "    return 1 + 1", "else:", "    return 7", "return 3"), RETURN),
    "nested ifs": (function("if 1:", "    if 0:", "        return 3", "    else:", "        return 1 + 1",
                            "return 4"), RETURN),
    "elif True": (function("a = 2", "if a > 3:", "    return a", "elif True:", "    return 2", "else:",
                           "    return 4", "return 5"),
                  function("a = 2", "if a > 3:", "    return a", "else:", "    return 2")),
    "while False": (function("while False:", "    return 3", "else:", "    while 0:", "        x = 2",
                             "    return 1 + 1"), RETURN),
    "no docstring": (function("if 0:", "    pass", "'7'", "return int(solution.__doc__ or 3)"),
                     function("return int(solution.__doc__ or 3)")),
    "an odd program": (function("if False:", "    x = 3", "return eval('1')"), function("return eval('1')")),
    "behind finally": (function("try:", "    return 1", "finally:", "    print(2)", "x = 9"),
                       function("try:", "    return 1", "finally:", "    print(2)")),
    "before match": (function("if 0:", "    return 1", "match 3:", "    case x:", "        return x"),
                     function("match 3:", "    case x:", "        return x")),
    # read no more
    "+=": (function("x = 3", "y = x", "x += 1", "return y"), function("x = 3", "y = x", "return y")),
    "+= in an if": (function("x = 3", "y = x", "if y > 2:", "    x -= y", "return y"),
                    function("x = 3", "y = x", "return y")),
    "+= beside a list": (function("x = [3]", "y = x[0]", "z = y", "y += 1", "return z"),
                         function("x = [3]", "y = x[0]", "z = y", "return z")),
    "+= at the end": ("x = 3\n" + function("return y") + "\ny = x * 2\nx += 1",
                      "x = 3\n" + function("return y") + "\ny = x * 2"),
    # unused, odd as it is
    "None": (function("x = None", "return 1 + 1") + "\nx: int = None", RETURN),
    "lambda": (function("f = lambda x: g(x)", "return 1 + 1"), RETURN),
    "class": ("class A:\n    'Eggs.'\n    x: int = 3\n    def f(self):\n        return A.x\n\n" + RETURN +
              "\n\nclass B: pass", RETURN),
    "odd function": ("def f(path='eggs') -> int:\n    with open(path) as file:\n        return file\n\n" + RETURN,
                     RETURN),
    "async function": (RETURN + "\n\nasync def f():\n    await g()", RETURN),
    # without solution(): all that is printed may be the answer, and the variables
    "beside print": ("x = 3\nimport math\nprint(6 * 7)", "print(6 * 7)"),
    "beside answer": ("x = 3\nanswer = 6 * 7", "answer = 6 * 7"),
    # text
    "tabs": ("def solution():\n\tx = 1\n\treturn 1 + 1", "def solution():\n\treturn 1 + 1"),
    "CRLF": ("def solution():\r\n    x = 1\r\n    return 1 + 1\r\n", "def solution():\r\n    return 1 + 1"),
    "unicode": (function("größe = 'ß'", "ñ = 2", "return ñ * 3"), function("ñ = 2", "return ñ * 3")),
    "one line": ("def solution(): x = 1; return 1 + 1", RETURN),
    "comments": ("def solution():\n    # eggs\n    eggs = (16 -\n            3)  # left\n    x = 1\n    return eggs",
                 "def solution():\n    # eggs\n    eggs = (16 -\n            3)  # left\n    return eggs"),
    "outer lines": ("\n\n" + RETURN + "\n\n", RETURN),
    "trailing comment": (RETURN + "\n    # done", RETURN + "\n    # done"),
}

STAYS = {
    "a list times 1 is another": function("x = [2]", "y = x * 1", "y.append(3)", "return sum(x)"),
    "a float": function("return 6 * 1.0"), "true": function("return 6 * True"), "two": function("return 6 * 2"),
    "over 1": function("return 6 / 1"), "a list": function("return [6] * 1"),
    "a truth": function("return (not 3) * 1"),
    "plain": RETURN, "used": function("x = 5", "return x"), "self": function("x = 1", "x = x + 1", "return x"),
    "augmented": function("x = 1", "x += 1", "return x"),
    "import": "import math\n\n" + function("return math.sqrt(4)"),
    "import in scope": "import math\n\n" + function("def f(a):", "    return math.sqrt(a)", "return f(4)"),
    "star import": "from math import *\n\n" + function("return sqrt(4)"),
    "helper": "def helper():\n    return 3\n\n" + function("return helper()"),
    "recursion": "def f(n):\n    return 1 if n < 2 else n * f(n - 1)\n\n" + function("return f(4)"),
    "default": "n = 3\ndef f(a=n):\n    return a\nn = 4\n" + function("return f()"),
    "decorator": "def twice(f):\n    return lambda: 2 * f()\n\n@twice\n" + RETURN,
    "branch": function("x = 1", "if x > 1:", "    x = 2", "return x"),
    "append": function("x = [1]", "x.append(2)", "return sum(x)"),
    "item": function("x = [1]", "x[0] = 2", "return x[0]"), "del": function("x = 2", "y = x", "del x", "return y"),
    "alias": function("a = [1]", "b = a", "b += [2]", "return len(a)"),
    "alias of two": function("a = b = [1]", "b += [2]", "return len(a)"),
    "early return": function("if 2 > 1:", "    return 3", "return 4"),
    "break": function("for i in range(3):", "    if i == 1:", "        break", "return i"),
    "break from True": function("while True:", "    x = 1", "    break", "return x"),
    "loop": function("x = 1", "for i in range(3):", "    x = x * 2", "return x"),
    "loop variable": function("for i in range(3):", "    i", "return i").replace("    i\n", "    pass\n"),
    "break keeps": function("x = 1", "for i in range(3):", "    x = i", "    if i == 1:", "        break", "    x = 9", "return x"),
    "closure": function("x = 1", "def inner():", "    return x", "x = 2", "return inner()"),
    "closure between": function("x = 1", "def inner():", "    return x", "y = inner()", "x = 2", "return y + inner()"),
    "global": "n = 1\ndef f():\n    global n\n    n = 5\n    return 0\n" + function("f()", "return n"),
    "nonlocal": function("n = 1", "def f():", "    nonlocal n", "    n += 1", "    return n", "f()", "return n"),
    "generator": function("return 1", "yield 2"), "generator 2": function("if 2 > 1:", "    return 1", "    yield", "return 2"),
    "global behind return": "x = 1\n" + function("if 2 > 1:", "    return 5", "    global x", "x = 2"),
    "local behind return": "x = 1\n" + function("def f():", "    return x", "    x = 2", "try:", "    return f()", "except NameError:", "    return 7"),
    "walrus": function("if (x := 3) > 1:", "    return x", "return 0"), "walrus alone": function("(x := 3)", "return x"),
    "comprehension scope": function("x = 3", "y = [x for x in range(2)]", "return x + len(y)"),
    "class": "class A:\n    x = 1\n    y = 2\n" + function("return A.x"),
    "enum": "import enum\nclass A(enum.Enum):\n    x = 1\n    y = 2\n" + function("return len(A)"),
    "try": function("try:", "    x = 1 / 0", "except ZeroDivisionError:", "    return 5", "return 6"),
    "try around": "def f():\n    x = 1 / 0\n    return 3\n" + function("try:", "    return f()", "except ZeroDivisionError:", "    return 5"),
    "finally": function("try:", "    return 1", "finally:", "    print(2)"),
    "with": "import contextlib\n" + function("with contextlib.suppress(ZeroDivisionError):", "    x = 1 / 0", "    return 3", "return 4"),
    "match": function("match 3:", "    case x:", "        return x"),
    "star target": function("a, *b = [1, 2, 3]", "return sum(b)"),
    "tuple target": function("a, b = 1, 2", "a, b = b, a", "return a"),
    "two names": function("a = b = 1", "return a"), "fstring": function("a = 1", "return f'{a}'"),
    "iterator": "numbers = iter([1, 2])\n\n" + function("next(numbers)", "return next(numbers)"),
    "read once": function("z = zip([1, 2], [3, 4])", "x = list(z)", "return len(list(z))"),
    "read once by in": function("z = map(abs, [1, 2])", "1 in z", "return len(list(z))"),
    "generator once": function("z = (i for i in range(3))", "x = sum(z)", "return sum(z)"),
    "locals": function("x = 1", "return locals()['x']"), "eval": function("x = 1", "return eval('x')"),
    "exec": function("x = 1", "exec('print(x)')", "return 1"), "format": "x = 5\ndef f():\n    return 1\n" + function(
        "return '{0.__globals__[x]}'.format(f)"),
    "own print": function("print = len", "return print('ab')"), "own sum": function("sum = 3", "return sum"),
    "shadowed": "def len(x):\n    print(x)\n    return 3\n" + function("x = len('a')"),
    "exit": "print(5)\nexit()\n" + RETURN, "exit 2": "import sys\nprint(5)\nsys.exit()\n" + RETURN,
    "arguments": "def solution(a, b):\n    return a + b\nprint(solution(3, 4))",
    "maybe None": "def solution():\n    print(12)\n    return print(13)", "None": function("print(12)", "return None"),
    "bare return": function("print(12)", "if 2 > 1:", "    return", "return 3"), "no return": function("print(12)"),
    "a function": "def f():\n    return 3\n" + function("print(5)", "return f"),
    "a method": "import math\n" + function("print(5)", "return math.sqrt"),
    "None of helper": "def f():\n    x = []\n    x.append(1)\n" + function("print(12)", "return f()"),
    "called early": "k = 1\n" + function("return k") + "\nx = solution()\nk = 2",
    "called for effect": "n = []\n" + function("n.append(1)", "return len(n)") + "\nprint(solution())\nprint(solution())",
    "conditional solution": "if 2 > 1:\n    def solution():\n        return 1\nprint(3)",
    "lambda": "solution = lambda: 3\nprint(4)", "class solution": "class solution:\n    pass\nprint(4)",
    "async": "async def solution():\n    return 1\nprint(4)", "replaced": RETURN + "\nprint(3)\nsolution = None",
    "printed": "x = 6\nresult = x * 7\nprint(result)\nprint('no')", "answers": "ans = 1\nanswer = 2\nresult = 3\nanswer = 4",
    "fragment": "x = 1", "fragment 2": "x = 1\nx = 2\nimport math", "empty": "", "this": "import this\n" + RETURN,
    "dead yield": function("if False:", "    yield 1", "return 2"),
    "dead walrus": function("while 0:", "    (x := 3)", "return 2"),
    "dead global": "x = 1\n" + function("if 0:", "    global x", "x = 2", "return x") + "\nprint(solution(), x)",
    "dead local": "x = 1\n" + function("def f():", "    if False:", "        x = 2", "    return x", "try:",
                                       "    return f()", "except NameError:", "    return 7"),
    "dead match": "x = 1\n" + function("def f():", "    if 0:", "        match 3:", "            case {**x}:",
                                       "                pass", "    return x", "try:", "    return f()",
                                       "except NameError:", "    return 7"),
    "while 1": function("x = 0", "while 1:", "    x += 1", "    if x > 3:", "        return x"),
    "+= read": function("x = 1", "y = 2", "x += y", "return x"),
    "+= in a loop": function("x = 1", "for i in range(2):", "    y = x", "    x += 1", "return y"),
    "alias *= 2": function("a = [1]", "b = a", "b *= 2", "return len(a)"),
    "alias + [2]": function("a = [1]", "b = a", "b += (2,)", "return len(a)"),
    "None read": function("x = None", "print(3)", "return x"),
    "an answer None": "print(7)\nclass answer:\n    pass\nresult = None",
    "decorated": "def d(f):\n    print(7)\n\n@d\ndef f():\n    pass\nprint(3)",
    "default that prints": "def f(a=print(7)):\n    pass\nprint(3)",
    "type that prints": "def f() -> print(7):\n    pass\nprint(3)",
    "class that prints": "class A:\n    print(7)\nprint(3)",
    "base class": "class B:\n    def __init_subclass__(cls):\n        print(7)\n\nclass A(B):\n    pass\nprint(3)",
    "None of main": "def main():\n    print(12)\n" + function("x = main()", "return x"),
    "main changes": "n = []\ndef main():\n    n.append(1)\n" + function("return len(n)") + "\nmain()",
    "future": "from __future__ import annotations\ndef solution() -> Number:\n    return 1 + 1",
    "strange call": function("return 'a'[0]()"),
    "alias of split": function("a = '1 2'.split()", "b = a", "b += (3,)", "return len(a)"),
    "long finally": function("try:", "    return 1", "finally:", "    print(" + "1 + " * 250 + "1)", "x = 9"),
    "agent": "def agent(page):\n    page.click('a')\n    page.click('b')", "unpack": function("x = [1]", "x, = x", "return x"),
}


@pytest.mark.parametrize("before, after", GOES.values(), ids=GOES)
def test_what_does_nothing_goes(before, after):
    assert tidy(before) == after
    assert canonical(before) == canonical(after)
    assert tidy(after) == after


@pytest.mark.parametrize("kept", STAYS.values(), ids=STAYS)
def test_what_does_something_stays_to_the_letter(kept):
    assert tidy(kept) == kept


@pytest.mark.parametrize("kept", [
    function("x = 1 / 0", "return 2"), function("x = [][1]", "return 2"), function("x = 3", "pass", "return 2"),
    function('"""How many?"""', "return 2"), "import math\nx = 1\nx = 2\n" + RETURN])
def test_a_program_that_failed_keeps_all_that_can_be_reached(kept):
    assert tidy(kept, ran=False) == kept
    assert tidy(kept) != kept
    assert tidy(kept + "\n    return 7", ran=False) == kept  # but not what was never reached


@pytest.mark.parametrize("kept", [
    function("return 1", "break"), "x = 1\n" + function("return x", "x = 2"),
    function("return f()", "def f():", "    return 2"), function("return 1", "from math import *")])
def test_an_error_is_not_cut_away(kept):
    """Behind their `return` they are no programs, or make a name local before it is set."""
    assert tidy(kept, ran=False) == kept and canonical(kept, ran=False) != canonical(RETURN)
    assert tidy(kept) == kept


@pytest.mark.parametrize("one, other, equal", [
    ("answer = 1+1", "answer = (1 + 1)  # two", True), ("answer = 1 + 1", "answer = 2", False),
    ("a = 1\nanswer = a", "b = 1\nanswer = b", False),  # names count
    (RETURN, function('"""Adds."""', "return 1+1"), True), ("not ( python", " not ( python\n", True),
    ("def solution() -> int:\n    return 1 + 1", RETURN, True),
    ("from typing import List\ndef solution(a: List[int] = 3) -> int:\n    x: int = a\n    return x",
     "def solution(a=3):\n    x = a\n    return x", True),
    ("class A:\n    x: int = 1\nanswer = A.x", "class A:\n    x = 1\nanswer = A.x", False),  # types may make fields
    ("def solution(a: print(1) = 2):\n    return a", "def solution(a=2):\n    return a", False),
    ("answer = 'a'", "answer = 'b'", False), (RETURN, function("x = 1", "return 1 + 1", "x = 2"), True)])
def test_one_solution_or_two(one, other, equal):
    assert (canonical(one) == canonical(other)) == equal


# ---- hostile text ------------------------------------------------------------------------------

def filled(text, length=20_000):
    return text * (length // len(text))


def steps(depth, line):
    """Lines that each are one deeper: steps(3, "if a:") is 3 nested ifs."""
    return "".join(" " * level + line + "\n" for level in range(depth))


HOSTILE = {
    "long": "x = 1\n" * 5_000, "no program": "return ) 2", "cut off": "def solution(:", "null": "\0", "surrogate": "x = '\ud800'",
    "indented": "  x = 1", "same names": filled("x=1\n"), "names": "".join(f"a{i}={i}\n" for i in range(2_000)),
    "chain": "a0=1\n" + "".join(f"a{i}=a{i - 1}\n" for i in range(1, 1_400)) + "answer=2",
    "chain of functions": "".join(f"def f{i}(): return f{i - 1}()\n" for i in range(1, 600)) + RETURN,
    "overwriting": "def solution():\n" + " y=x;x=y\n" * 1_700 + " return 2", "returns": "def solution():\n" + " return 1\n" * 1_800,
    "elif": "def solution():\n if a: return 1\n" + " elif a: return 1\n" * 1_000,
    "deep functions": steps(19, "def f():") + " " * 19 + "a=1;" * 4_000, "deep ifs": steps(19, "if a:") + " " * 19 + "a=1;" * 4_000,
    "deep loops": steps(18, "while 1:") + " " * 18 + "a=1;" * 4_000, "deeper loops": steps(90, "while 1:") + " " * 90 + "a=1",
    "finally": "".join(" " * i + "try:\n" + " " * (i + 1) + "x\n" + " " * i + "finally:\n" for i in range(19)) + " " * 19 + "a=1;" * 4_000,
    "lambdas": "x=" + "lambda:" * 150 + "0\n" + "a=1;" * 4_500, "brackets": "[" * 9_000, "parentheses": "(" * 199 + ")" * 199,
    "minus": filled("-") [:-1] + "1", "not": filled("not ", 19_990) + "1", "attributes": "a" + ".a" * 9_000, "calls": "f" + "()" * 9_000,
    "sums": "1" + "+1" * 9_000, "ands": "a" + " and a" * 3_000, "ifs": filled("a if a else ", 19_990) + "a", "tuple": "a," * 9_000 + "=b",
    "targets": "a=" * 9_000 + "1", "f-string": 'f"' + "{a}" * 6_000 + '"', "f-strings": "f'{" * 6_000, "braces": "{a:" * 190, "keywords": "f(a=" * 190,
    "with": "with (" * 190, "match": "match x:\n" + " case 1: pass\n" * 1_200, "loops": "[a for a in b" + " for a in b" * 1_500 + "]",
    "digits": "1" * 19_999, "hex": "answer=1;x=0x" + "f" * 19_000, "comprehensions": filled("x=[a for a in b]\n"), "tabs": "\t" * 19_999,
    "prints": RETURN + "\n" + "print(1)\n" * 2_000, "expressions": filled("1;"), "backslashes": "\\\n" * 9_000, "form feed": "\fx=1\n" * 3_000,
    "branches": "def solution():\n" + "".join(f" if a{i}: b{i}=1\n" for i in range(1_000)) + " return 1", "imports": filled("import math\n"),
}
AS_THEY_CAME = ("long", "no program", "cut off", "null", "surrogate", "indented", "brackets", "minus", "sums", "deeper loops", "finally")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("ran", [True, False])
def test_hostile_text_is_read_in_time(text, ran):
    after = in_time(lambda: tidy(text, ran), 3)  # a second on a slow core; unbounded: minutes
    assert tidy(after, ran) == after and canonical(text, ran) and computes(text) in (True, False)


@pytest.mark.parametrize("text", [HOSTILE[name] for name in AS_THEY_CAME], ids=AS_THEY_CAME)
def test_what_cannot_be_read_stays(text):
    assert tidy("\n" + text + " \n") == tidy(text) == text.strip("\n").rstrip()
