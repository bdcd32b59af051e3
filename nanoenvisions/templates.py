"""Word problems from templates: questions with numbers, names, and a formula for the answer.

data/math_templates.json explains the form of a template. May import records only.
"""
from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

from nanoenvisions.records import fail

STEPS_MIX = (1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 3, 1, 1, 2, 1, 2)  # 70 % one step, 5 % three


def make_word_problems(args) -> list[dict]:
    """args.num word problems, the same for the same seed and split; a larger num only adds to them.

    A test has three kinds of them, its groups: known (new numbers in templates that are trained),
    unseen (templates that are not, whose formulas are), new formula (formulas that are not).
    """
    path, file = args.templates, read_templates(args.templates)
    tasks, used, template, counts = [], set(), {}, {"known": 0, "unseen": 0, "new formula": 0}
    try:
        kinds = [one.get("held_out", False) for one in file["templates"]]
        unseen = args.unseen if True in kinds else 0  # a file of one's own may lack a group
        new_formula = args.new_formula if "formula" in kinds else 0
        for number in range(args.num):
            group = group_of(number, unseen, new_formula) if args.split == "test" else "known"
            index = counts[group]  # how many tasks of the group came before
            counts[group] += 1
            template = next_template(file["templates"], group, index, f"{args.seed} {args.split}")
            rng = random.Random(f"{args.seed} {args.split} {number}")
            draws = (fill_template(template, file["lists"], rng) for _ in range(10_000))
            question, answer, _ = next(draw for draw in draws if draw and draw[0] not in used
                                       and split_of(template, draw[2]) == args.split)
            used.add(question)
            tasks.append({"id": f"math/{args.split}/s{args.seed}/{number:04d}-{template['id']}",
                          "env": "math", "question": question, "answer": answer, "group": group,
                          "level": template["steps"], "template": template["id"]})
    except StopIteration:
        fail(f'{path}: template "{template["id"]}" has no further question after {len(tasks)} '
             f'tasks (widen its "numbers", ease its "where", or ask for fewer tasks)')
    except (LookupError, AttributeError, SyntaxError, NameError, TypeError, ValueError,
            ArithmeticError) as error:
        fail(f'{path}: template "{template.get("id", "?")}": {error!r} '
             "(compare it with the form explained on top)")
    return tasks


def read_templates(path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{path}: {error.strerror} (give --templates a file like data/math_templates.json)")
    except (ValueError, RecursionError) as error:
        fail(f"{path}: not JSON: {error} (look there for a missing or extra comma or quote)")


def group_of(number: int, unseen: float, new_formula: float) -> str:
    """Spread the groups evenly. Shares 0.5, 0.2: known, unseen, known, unseen, new formula, ..."""
    before = int(number * new_formula)
    if int((number + 1) * new_formula) > before:
        return "new formula"
    number -= before
    return "unseen" if int((number + 1) * unseen) > int(number * unseen) else "known"


def next_template(templates: list, group: str, index: int, name: str) -> dict:
    """The template of a group's index-th task: each once, in a new order, before any comes again.

    Of the known and unseen ones, easy and hard are mixed as in STEPS_MIX.
    """
    held_out = {"known": False, "unseen": True, "new formula": "formula"}[group]
    every = [one for one in templates if one.get("held_out", False) == held_out]
    if not every:
        raise LookupError(f'no template of the group "{group}"')
    steps, fitting = group, every
    if group != "new formula":
        steps = STEPS_MIX[index % len(STEPS_MIX)]
        fitting = [one for one in every if one["steps"] == steps] or every
        turns, place = divmod(index, len(STEPS_MIX))
        index = turns * STEPS_MIX.count(steps) + STEPS_MIX[:place].count(steps)
    turn, place = divmod(index, len(fitting))
    return random.Random(f"{name} {steps} {turn}").sample(fitting, len(fitting))[place]


def evaluate(expression: str, numbers: dict):
    """evaluate("(a + b) / c", {"a": 4, "b": 8, "c": 3}) -> 4.0"""
    # A template file may come from anywhere: only one-letter names and arithmetic reach eval.
    if not re.fullmatch(r"(\b[a-z]\b|and|or|(?<=\d)\.(?=\d)|[\d\s+\-*/%()<>=!])*", expression):
        raise SyntaxError(f"{expression!r} is more than + - * / % and comparisons of a, b, c ...")
    return eval(expression, {"__builtins__": {}}, numbers)


def whole(number):
    """An int where there is no fraction: whole(34.0) -> 34, whole(2.5) -> 2.5"""
    return int(number) if number == int(number) else round(number, 10)


def fill_template(template: dict, lists: dict, rng: random.Random):
    """A question of a template: (question, answer, numbers); None if the numbers do not fit.

    {"texts": ["{girl} has {a} pens and buys {b}. How many?"],
     "numbers": {"a": [2, 9], "b": [2, 9]}, "answer": "a + b"}
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
    """The split that owns these numbers of a template, whatever the order, wording and seed."""
    digest = hashlib.sha256(f"{template['id']} {sorted(numbers.values())}".encode()).digest()
    return ("train", "test")[digest[0] % 2]
