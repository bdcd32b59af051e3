"""Word-problem templates: questions with numbers, names and a formula for the answer.

data/math_templates.json explains the form of a template. May import the standard library only.
"""
from __future__ import annotations

import hashlib
import random
import re


def evaluate(expression: str, numbers: dict):
    """Work out an expression of a template file: evaluate("(a + b) / c", {"a": 4, "b": 8, "c": 3}) -> 4.0"""
    # a template file may come from anywhere: nothing but one-letter names, numbers and arithmetic reaches eval
    if not re.fullmatch(r"(\b[a-z]\b|and|or|(?<=\d)\.(?=\d)|[\d\s+\-*/%()<>=!])*", expression):
        raise SyntaxError(f"{expression!r} is more than + - * / % and comparisons of a, b, c ...")
    return eval(expression, {"__builtins__": {}}, numbers)


def whole(number):
    """An int where there is no fraction: whole(34.0) -> 34, whole(2.5) -> 2.5"""
    return int(number) if number == int(number) else round(number, 10)


def fill_template(template: dict, lists: dict, rng: random.Random):
    """One question of a template: (question, answer, numbers), or None if the numbers drawn do not fit.

    {"texts": ["{girl} has {a} pens and buys {b}. How many?"], "numbers": {"a": [2, 9], "b": [2, 9]}, "answer": "a + b"}
    -> ("Mia has 4 pens and buys 7. How many?", 11, {"a": 4, "b": 7})
    """
    numbers = {}
    for name, (low, high, *step) in template["numbers"].items():
        step = step[0] if step else 1
        numbers[name] = low + step * rng.randint(0, int((high - low) / step))
    if not evaluate(template.get("where", "1 > 0"), numbers):
        return None
    answer = whole(evaluate(template["answer"], numbers))
    if len({answer, *numbers.values()}) <= len(numbers):
        return None  # 4 - 2 = 4 / 2: where numbers coincide, a wrong program would earn the reward
    words = {}
    for name, options in lists.items():
        words[name], words[name + "2"] = rng.sample(options, 2)
    return rng.choice(template["texts"]).format(**words, **numbers), answer, numbers


def split_of(template: dict, numbers: dict) -> str:
    """The split that owns these numbers of this template, whatever their order, the wording, the names and the seed."""
    digest = hashlib.sha256(f"{template['id']} {sorted(numbers.values())}".encode()).digest()
    return ("train", "test")[digest[0] % 2]
