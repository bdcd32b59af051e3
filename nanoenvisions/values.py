"""Values: what a Python program states, as one line of text, and what number a text states.

The first half runs in the child, beside a program that may have changed anything it can reach; the
second half in the caller, which must not trust the first. May import the standard library only.
"""
from __future__ import annotations

import ast
import contextlib
import inspect
import io
import itertools
import math
import re
import sys
import types
from decimal import Decimal
from fractions import Fraction

FRACTION = [vars(Fraction)[slot].__get__ for slot in ("_numerator", "_denominator")]
KEPT = 4_000  # bytes of what a program prints
DEEPEST = 3   # [[[42]]] states a number, deeper lists do not
# Compiled before the server forks: in a child it would take a tenth of a program's time.
CALLS_SOLUTION = re.compile(r"(?<!def )\bsolution\s*\(\s*\)")


# ---------------------------------------------------------------------------------- In the child --

class Tail(io.RawIOBase):
    """A stdout that keeps the end only: who prints for ever runs out of time, not us of memory."""

    kept = b""

    def writable(self):
        return True

    def write(self, data):
        self.kept = (self.kept + bytes(data))[-KEPT:]
        return len(data)


def execute(program: str) -> tuple:
    """(what solution() returned or None, the last line printed, the program's names).

    solution() is called after the program; not if the program itself has called it, as in
    `print(solution())`: what it used up may be gone, and its time is not to be paid twice. Then the
    value is what it returned last. A class, or one that wants arguments, only the program can call.
    """
    tail, calls, value = Tail(), [], None
    stdout = sys.stdout = io.TextIOWrapper(io.BufferedWriter(tail), encoding="utf-8",
                                           errors="replace")
    module = sys.modules["__main__"] = types.ModuleType("__main__")  # as `python program.py` does
    names = vars(module)
    with contextlib.suppress(SystemExit):  # sys.exit() after the answer is known does no harm
        exec(compile(watched(program, calls, names), "<program>", "exec", dont_inherit=True), names)
    solution = names.get("solution")
    if not callable(solution):
        value = solution
    elif isinstance(solution, type):
        pass
    elif calls and calls[-1][0] is solution:
        value = calls[-1][1]
    elif not wants_arguments(solution):
        with contextlib.suppress(SystemExit):
            value = solution()
    for stream in (sys.stdout, stdout):  # it may have wrapped ours in its own, or closed it
        with contextlib.suppress(Exception):
            stream.flush()
    lines = tail.kept.decode("utf-8", "replace").strip().splitlines()
    while lines[1:] and lines[-1].strip() in ("", "None"):  # print(solution()), which printed 42
        del lines[-1]
    return None if callable(value) else value, lines[-1].strip() if lines else "", names


def watched(program: str, calls: list, names: dict):
    """The program with each of its calls `solution()` written as one that notes what it returns.

    Calls inside of solution itself stay as they are: a recursion has only one result.
    """
    if not CALLS_SOLUTION.search(program):
        return program

    def call(function):
        returned = function()
        calls.append((function, returned))
        return returned

    class Watch(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return node if node.name == "solution" else self.generic_visit(node)

        def visit_Call(self, node):
            self.generic_visit(node)
            if isinstance(node.func, ast.Name) and node.func.id == "solution" \
                    and not node.args and not node.keywords:
                node.args, node.func = [node.func], ast.Name("<call>", ast.Load())
            return node

    try:
        tree = Watch().visit(ast.parse(program))
    except RecursionError:
        return program
    names["<call>"] = call  # no name that a program can write
    return ast.fix_missing_locations(tree)


def wants_arguments(function) -> bool:
    """Also of what a decorator has wrapped, if it says so: lru_cache, functools.wraps."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # of a built-in function: nobody knows
        pass
    return False


def plain(value, kinds=None, depth=0) -> str:
    """A value as text. Decided by its type, not by what the program's own class says about itself.

    1234.5 -> "1234.5"   Fraction(2, 6) -> "1/3"   [42] -> "42"   True -> "True"
    [1, 2] -> "[1, 2]"   numpy.int64(42) -> "42", if `kinds` is what library_kinds() has found
    """
    kind = type(value)
    if value is None or kind is bool:
        return str(value)
    if issubclass(kind, int):
        value = int.__add__(value, 0)  # the number itself, if it is a subclass
        return str(value) if value.bit_length() < 4_000 else f"<int of {value.bit_length()} bits>"
    if issubclass(kind, float):
        return repr(float.__add__(value, 0.0))
    if issubclass(kind, complex):
        value = complex.__add__(value, 0)
        real = abs(value.imag) <= 1e-9 * max(1, abs(value.real))  # but for rounding
        return repr(value.real) if real else f"<{value}>"
    if issubclass(kind, str):
        return " ".join(str.split(value))[:300]
    if kind is Decimal:
        return str(value)
    if kind is Fraction:
        return "/".join(plain(get(value)) for get in FRACTION)
    if depth < DEEPEST and kind in (kinds or ()):
        with contextlib.suppress(Exception):  # an array of two, a symbol without a value
            return plain(kinds[kind](value), kinds, depth + 1)
    if depth < DEEPEST and kind in (list, tuple, set, frozenset):
        shown = [plain(item, kinds, depth + 1) for item in itertools.islice(value, 10)]
        return shown[0] if len(value) == 1 else f"[{', '.join(shown)}{', ...' * (len(value) > 10)}]"
    return f"<{kind.__name__}>"


def library_kinds() -> dict:
    """{class of numpy, sympy or mpmath: function that turns its values into Python's own}.

    Looked up before any program runs, so that a program's class is not in it, whatever its name.
    """
    kinds = {}
    if numpy := sys.modules.get("numpy"):
        kinds |= dict.fromkeys(numpy.sctypeDict.values(), numpy.generic.item)
        kinds |= dict.fromkeys([numpy.ndarray, numpy.matrix], numpy.ndarray.item)
        kinds |= {numpy.longdouble: float, numpy.clongdouble: complex}
    if mpmath := sys.modules.get("mpmath"):
        kinds |= {mpmath.mpf: mpmath.mpf.__float__, mpmath.mpc: mpmath.mpc.__complex__}
    if sympy := sys.modules.get("sympy"):
        parts, evaluate = sympy.Basic.args.fget, sympy.Expr.__complex__
        Rational, Integer = sympy.Rational, sympy.Integer
        numerator, denominator = Rational.p.__get__, Rational.q.__get__
        own = subclasses(sympy.Basic)

        def nodes(value):
            return [value, *itertools.chain.from_iterable(map(nodes, parts(value)))]

        def number(value):
            if issubclass(type(value), Integer):
                return numerator(value)
            if issubclass(type(value), Rational):
                return Fraction(numerator(value), denominator(value))
            if not own.issuperset(map(type, nodes(value))):
                raise TypeError("a part of it is the program's own")
            return evaluate(value)
        kinds |= dict.fromkeys(own & subclasses(sympy.Expr), number)
        kinds[sympy.FiniteSet] = lambda value: list(parts(value))
    return kinds


def subclasses(kind) -> set:
    below = type.__subclasses__(kind)
    return {kind, *below}.union(*map(subclasses, below))


# --------------------------------------------------------------------------------- In the caller --

def number(text: str) -> float | None:
    """The number that a text states, or None; by a strict grammar, as it may come from an enemy.

    "$1,234.50" -> 1234.5   "36%" -> 36.0   "1/3" -> 0.333   "1e999", "nan", "42 apples" -> None
    """
    text = text.strip().replace("\u2212", "-")  # the minus sign of typesetting
    ratio = re.fullmatch(r"([-+]?\d{1,1300})/(\d{1,1300})", text, re.ASCII)
    digits = r"(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][-+]?\d{1,3})?"
    money = "[$€£]"
    simple = re.fullmatch(rf"([-+]?)(?:{money} ?)?([-+]?)({digits})(?: ?(?:%|{money}))?", text,
                          re.ASCII)
    try:
        if ratio:
            return int(ratio[1]) / int(ratio[2])
        value = float("".join(simple.groups()).replace(",", "")) if simple else math.nan
    except (ValueError, ZeroDivisionError, OverflowError):  # "" or "+-1", "1/0", beyond all floats
        return None
    return value if math.isfinite(value) else None


def equal(stated: str, answer: str) -> bool:
    """|stated - y| <= max(t, 1e-9 |y|), where t = 5e-3 if y is rounded to two decimals, else 1e-3,
    and of an answer below 0.1, but for 0 itself, no more than a hundredth.

    A whole number is never off by one, as long as floats can tell it from its neighbours.

    equal("42.0004", "42") and equal("3.333", "3.33"), not equal("48325", "48320"), nor
    equal("0", "0.0008")
    """
    value, gold = number(stated), number(answer)
    if value is None or gold is None:
        return False
    if value.is_integer() and gold.is_integer() and abs(gold) < 2 ** 53:
        return value == gold
    tolerance = 5e-3 if re.search(r"\.\d\d\D*$", answer) else 1e-3
    if tolerance < 5e-3 and gold:
        tolerance = min(tolerance, abs(gold) / 100)
    most = max(tolerance, 1e-9 * abs(gold))
    return abs(value - gold) <= most * (1 + 1e-6)  # rounding: 0.13 - 0.125 is a bit above 0.005
