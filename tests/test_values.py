"""Values: what a program states as text, what number a text states, and when two are equal."""
import contextlib
import random
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import in_time

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
from nanoenvisions import values  # noqa: E402


@pytest.mark.parametrize("text, number", [
    ("42", 42), (" 42 ", 42), ("-4.50", -4.5), ("+1e3", 1000), (".5", 0.5), ("5.", 5), ("007", 7),
    ("$1,234.50", 1234.5), ("-$5", -5), ("$-5", -5), ("$ 5", 5), ("5$", 5), ("5 €", 5), ("£5", 5),
    ("-5 $", -5), ("\u22125", -5), ("\u2212$5", -5), ("$\u22125", -5), ("1e\u22123", 0.001),
    ("36 %", 36), ("1/3", 1 / 3), ("-6/3", -2), ("1" * 1000 + "/" + "1" * 999, 10),
    ("", None), (".", None), ("e5", None), ("$", None), ("%", None), ("1,23", None), ("1 2", None),
    ("0x10", None), ("1_000", None), ("nan", None), ("inf", None), ("1e999", None), ("1/0", None),
    ("1e999999999", None), ("--1", None), ("-$-1", None), ("True", None), ("None", None),
    ("[42]", None), ("42 apples", None), ("42  $", None), ("\u0664", None), ("9" * 100_000, None),
    ("9" * 1300 + "/1", None), ("1\n2", None),
])
def test_number(text, number):
    found = values.number(text)
    assert found is None if number is None else found == pytest.approx(number, rel=1e-9)


@pytest.mark.parametrize("stated, answer, right", [
    # |stated - y| <= max(t, 1e-9 |y|): t = 1e-3,
    ("42", "42", True), ("42.001", "42", True), ("41.999", "42", True), ("42.00101", "42", False),
    ("0.0005", "0", True), ("0.002", "0", False), ("3.304", "3.3", False), ("3.301", "3.3", True),
    ("1.0000", "0.9991", True), ("3.3344", "3.3333", False),
    # and of small answers a hundredth: 0 is not 1 / 1296
    ("0", "0.0008", False), ("0.00077", "0.0007716", True), ("0.0014", "0.0005", False), ("0.0495", "0.05005", False),
    ("0", "0.001", False), ("-0.0125", "-0.01251", True), ("0.0123", "0.01251", False), ("1e-5", "0", True),
    # or 5e-3 where y has exactly two decimals
    ("3.3333333", "3.33", True), ("3.335", "3.33", True), ("3.3351", "3.33", False),
    ("0.125", "0.13", True), ("12345.125", "12345.13", True), ("1.0049", "1.00", True),
    ("-3.3333", "-3.33", True), ("1234.504", "$1,234.50", True), ("3.3344", "3.333", False),
    # of large ones nine digits
    ("1234567890.9", "1234567890.123", True), ("1234567892", "1234567890.123", False),
    # a whole number is never off by one, nor by more
    ("43", "42", False), ("48325", "48320", False), ("10000000001", "10000000000", False),
    ("-43", "-42", False), ("-10000000001", "-10000000000", False), ("-42.0005", "-42", True),
    ("5000000001", "5e9", False), (str(2 ** 53 - 2), str(2 ** 53 - 1), False),
    ("1e300", str(10 ** 300 + 1), True), ("7000000000.0000001", "7000000000", True),
    # what is no number is never right
    ("", "0", False), ("nan", "1", False), ("True", "1", False), ("36", "36%", True),
])
def test_equal(stated, answer, right):
    assert values.equal(stated, answer) is right
    outcome, _ = envs.ENVS["math"].compare({"answer": answer}, stated)
    assert outcome == ("correct" if right else "wrong")


@pytest.mark.parametrize("answer, stated, right", [
    (3.33, "3.3349", True), (3.3, "3.304", False), (3.30, "3.304", False), ("3.30", "3.304", True),
    (42, "42.004", False), (42.0, "42.004", False), ("42.00", "42.004", True), (7, "8", False),
])
def test_the_answer_may_be_a_number_or_a_string(answer, stated, right):
    """What counts is how it is written: of a float 3.30 nobody knows that it had two decimals."""
    outcome, _ = envs.ENVS["math"].compare({"answer": answer}, stated)
    assert outcome == ("correct" if right else "wrong")


class Liar:
    __repr__ = __str__ = __format__ = lambda *_: "42"


@pytest.mark.parametrize("value, text", [
    (42, "42"), (42.5, "42.5"), (True, "True"), (None, "None"), (" a\nb ", "a b"),
    (Fraction(2, 6), "1/3"), (Decimal("4.2E+1"), "42"), (complex(42, 1e-16), "42.0"),
    (complex(1e12, 1), "1000000000000.0"), (complex(1, 1e-3), "<(1+0.001j)>"), ([42], "42"),
    ({42}, "42"), ([(42,)], "42"), ([1, 2], "[1, 2]"),
    ([1] * 12, "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ...]"),
    (10 ** 1300, "<int of 4319 bits>"), ([[[[42]]]], "<list>"), ({"x": 42}, "<dict>"),
    (Liar(), "<Liar>"), (type("A", (Liar, int), {})(7), "7"),
    (type("A", (Liar, str), {})("7"), "7"),
    (type("A", (Liar, float), {})(7), "7.0"), (type("A", (Liar, complex), {"real": 42})(7), "7.0"),
    (type("A", (Liar, Decimal), {})(7), "<A>"), (type("A", (Liar, Fraction), {})(7), "<A>"),
])
def test_plain(value, text):
    found = values.plain(value)
    assert float(found) == 42 if isinstance(value, Decimal) and text == "42" else found == text


def test_library_values():
    """numpy's and sympy's numbers are told by their own classes."""
    import mpmath
    import numpy
    import sympy
    kinds = values.library_kinds()
    for value in (numpy.int8(42), numpy.float32(42), numpy.longdouble(42), numpy.clongdouble(42),
                  numpy.array(42), numpy.array([[42]], dtype=object), sympy.Integer(42),
                  sympy.Float(42), sympy.sqrt(1764), sympy.FiniteSet(42), [sympy.Rational(84, 2)],
                  mpmath.mpf(42), mpmath.mpc(42), {numpy.int64(42)}):
        assert values.number(values.plain(value, kinds)) == 42, repr(value)
    assert values.plain(sympy.Rational(1, 3), kinds) == "1/3"
    for value in (numpy.ma.masked, numpy.array([42, 42]), sympy.Symbol("x"), sympy.oo, sympy.true,
                  numpy.bool_(True), sympy.FiniteSet(41, 42), numpy.array([]), sympy.nan):
        assert values.number(values.plain(value, kinds)) is None, repr(value)
    assert values.plain(numpy.int64(42)) == "<int64>"  # unknown where numpy was not loaded before


def hostile_texts(length=20_000):
    """Long texts of a few signs: what makes a careless regular expression take cubic time."""
    units = [" ", "\t", "\n", "\r", "`", "```", "\n```", " ```\n", "```python\n", "1", "1,", "1,1",
             "1,111", "1.", "e1", "1e", "-", "+-", "$", "$ ", "%", "/", "1/", "\u2212", "\ufeff",
             "solution", "solution (", "solution ( ", "def solution()", "import numpy ", "'", "#"]
    rng = random.Random(0)
    for unit in units:
        for end in ("", "x", "1", "```", "\n", " x"):
            yield (unit * length)[:length] + end
            yield "1" + (unit * length)[:length] + end
    for _ in range(30):
        yield "".join(rng.choices(units, k=length))[:length]


@pytest.mark.parametrize("function", [
    values.number, lambda text: values.equal("1.5", text), lambda text: values.equal(text, "1.5"),
    envs.parse_program, lambda text: envs.ENVS["math"].modules(text),
    lambda text: values.watched(text, [], {}),
], ids=["number", "equal to", "equal", "parse_program", "modules", "watched"])
def test_no_text_takes_long(function):
    """20,000 signs of whatever a model may write: each text in well under a second."""
    for text in hostile_texts():
        def read():
            with contextlib.suppress(SyntaxError, MemoryError):  # it is no program
                function(text)
        in_time(read, 0.5)
