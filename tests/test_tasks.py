"""Tasks: word problems from templates, importers of public data sets, the commands make and import."""
import ast
import collections
import importlib.util
import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import envs  # noqa: E402
from nanoenvisions import importers, templates  # noqa: E402

TEMPLATES = json.loads((ROOT / "data" / "math_templates.json").read_text())


def command(*words):
    """Run envs.py as a user does."""
    return subprocess.run([sys.executable, str(ROOT / "envs.py"), *map(str, words)], capture_output=True, text=True)


def make(out, *words):
    done = command("make", "--env", "math", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def refuse(*words) -> str:
    """A command that must fail with one line and no traceback; gives that line."""
    done = command(*words)
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


# ------------------------------------------------------------------------------------ templates --

def test_a_template_worked_by_hand():
    template = {"id": "t", "steps": 1, "texts": ["{girl} has {a} {fruit}, not {fruit2}. She eats {b}."],
                "numbers": {"a": [7, 7], "b": [4, 4]}, "answer": "a - b"}
    lists = {"girl": ["Mia", "Mia"], "fruit": ["figs", "figs"]}
    assert templates.fill_template(template, lists, random.Random(0)) == (
        "Mia has 7 figs, not figs. She eats 4.", 3, {"a": 7, "b": 4})


def test_numbers_that_would_be_right_by_chance_are_not_drawn():
    template = {"id": "t", "steps": 1, "texts": ["{a} {b}"], "answer": "a - b"}
    for a, b in [(4, 2), (3, 3)]:  # 4 - 2 is one of the numbers; 3 and 3 cannot be told apart
        assert templates.fill_template({**template, "numbers": {"a": [a, a], "b": [b, b]}}, {}, random.Random(0)) is None


def test_expressions_are_arithmetic_only():
    assert templates.evaluate("(a + b) / c", {"a": 4, "b": 8, "c": 3}) == 4
    assert templates.evaluate("a > b and (a - b) % c == 0", {"a": 9, "b": 3, "c": 2})
    for attack in ["__import__('os')", "a.real", "[a]", "exit()", "lambda: a", "ab"]:
        with pytest.raises((SyntaxError, NameError)):
            templates.evaluate(attack, {"a": 1})


def kind(held_out):
    """Templates of one kind: False known, True unseen, "formula" a new formula."""
    return [one for one in TEMPLATES["templates"] if one.get("held_out", False) == held_out]


def same_formula(one, other):
    """Whether two templates ask for the same calculation, whatever their letters and its order."""
    names, others = sorted(one["numbers"]), sorted(other["numbers"])
    rng = random.Random(0)
    draws = [[rng.randint(2, 999) for _ in names] for _ in range(5)]
    return len(names) == len(others) and any(
        all(templates.evaluate(one["answer"], dict(zip(names, draw))) == pytest.approx(
            templates.evaluate(other["answer"], dict(zip(order, draw)))) for draw in draws)
        for order in itertools.permutations(others))


def test_enough_templates_of_each_kind():
    every = TEMPLATES["templates"]
    assert len(kind(False)) >= 36 and len(kind(True)) >= 12 and len(kind("formula")) >= 6
    assert len({template["id"] for template in every}) == len(every)
    for group in (kind(False), kind(True)):
        steps = [template["steps"] for template in group]
        assert steps.count(1) >= len(steps) / 2 and steps.count(2) >= len(steps) / 4 and 3 in steps


def test_unseen_templates_have_trained_formulas_and_the_third_group_has_none():
    """In the group "unseen" the story alone is new, in "new formula" the calculation is, too."""
    for template in kind(True):
        assert any(same_formula(template, known) for known in kind(False)), template["id"]
    for template in kind("formula"):
        assert not any(same_formula(template, known) for known in kind(False)), template["id"]


@pytest.mark.parametrize("template", TEMPLATES["templates"], ids=lambda template: template["id"])
def test_each_template_is_sound(template):
    operations = sum(isinstance(node, ast.BinOp) for node in ast.walk(ast.parse(template["answer"])))
    assert operations == template["steps"]
    filled = 0
    for text in template["texts"]:
        for seed in range(300):
            one = templates.fill_template({**template, "texts": [text]}, TEMPLATES["lists"], random.Random(seed))
            if one is None:
                continue
            filled += 1
            question, answer, numbers = one
            assert 0 < answer < 1300 and "{" not in question and 8 <= len(question.split()) <= 32
            # every number that the answer needs stands in the question, as the reader sees it
            stated = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", question)]
            assert all(numbers[name] in stated for name in re.findall(r"[a-z]", template["answer"]))
            # the gold program, run as Python, gives the answer
            names = "".join(f"    {name} = {value}\n" for name, value in numbers.items())
            scope = {}
            exec(f"def solution():\n{names}    return {template['answer']}", scope)
            assert scope["solution"]() == pytest.approx(answer)
            assert answer == int(answer) or template["id"] in ("pens-price", "coffee-change")
    assert filled >= 20 * len(template["texts"])


# ------------------------------------------------------------------------------------------ make --

def test_make_is_deterministic_and_only_adds_when_asked_for_more(tmp_path):
    few, again = make(tmp_path / "a", "--num", 50), make(tmp_path / "b", "--num", 50)
    more, other = make(tmp_path / "c", "--num", 120), make(tmp_path / "d", "--num", 50, "--seed", 1)
    assert few == again and more[:50] == few
    assert not {task["id"] for task in few} & {task["id"] for task in other}
    # another seed: other templates in turn, and other numbers in the same template
    assert sum(one["template"] == two["template"] for one, two in zip(few, other)) < 15
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps({**TEMPLATES, "templates": TEMPLATES["templates"][:1]}))
    first, second = (make(tmp_path / "out", "--num", 9, "--templates", alone, "--seed", seed)
                     for seed in (0, 1))
    assert not {task["question"] for task in first} & {task["question"] for task in second}
    assert len({task["id"] for task in more}) == len({task["question"] for task in more}) == 120
    assert re.fullmatch(r"math/train/s0/0007-[a-z-]+", few[7]["id"])
    assert set(few[0]) >= {"id", "env", "question", "answer", "group", "level", "template"}


def test_train_and_test_share_no_question_and_no_held_out_template(tmp_path):
    train = [task for seed in range(3) for task in make(tmp_path / "train", "--num", 900, "--seed", seed)]
    test = make(tmp_path / "test", "--num", 900, "--split", "test")
    assert not {task["question"] for task in train} & {task["question"] for task in test}
    # not even the same numbers under other names or in other words
    digits = [{(task["template"], *sorted(re.findall(r"[\d.]*\d", task["question"]))) for task in tasks}
              for tasks in (train, test)]
    assert not digits[0] & digits[1]
    groups = {"known": kind(False), "unseen": kind(True), "new formula": kind("formula")}
    names = {group: {one["id"] for one in some} for group, some in groups.items()}
    assert {task["template"] for task in train} <= names["known"]
    assert all(task["template"] in names[task["group"]] for task in test)
    assert {task["group"] for task in test} == set(groups)


def test_templates_take_turns(tmp_path):
    """70 % of the tasks take one step, 25 % two, 5 % three; among those of a size, each template has its turn."""
    known = [template for template in TEMPLATES["templates"] if not template.get("held_out")]
    one_step = [template["id"] for template in known if template["steps"] == 1]
    train = make(tmp_path / "train", "--num", 200)
    assert collections.Counter(task["level"] for task in train) == {1: 140, 2: 50, 3: 10}
    first = [task["template"] for task in train if task["level"] == 1][:2 * len(one_step)]
    assert sorted(first) == sorted(one_step + one_step)


def test_the_groups_of_a_test_take_turns(tmp_path):
    """A fifth has new formulas; of the rest half is known, half unseen; the shares can be changed."""
    def groups(*flags):
        tasks = make(tmp_path / "test", "--num", 30, "--split", "test", *flags)
        return collections.Counter(task["group"] for task in tasks), tasks
    counted, tasks = groups()
    assert counted == {"known": 12, "unseen": 12, "new formula": 6}
    assert {task["group"] for task in tasks[:5]} == set(counted)  # spread evenly, not in blocks
    assert groups("--unseen", 0, "--new-formula", 0)[0] == {"known": 30}
    assert groups("--unseen", 1, "--new-formula", 0.5)[0] == {"unseen": 15, "new formula": 15}


@pytest.mark.parametrize("unseen, new_formula, counts", [
    (0.5, 0.2, (40, 40, 20)), (0.5, 0.5, (25, 25, 50)), (0.25, 0.2, (60, 20, 20)), (0, 0, (100, 0, 0)),
    (1, 0.5, (0, 50, 50)), (0.5, 1, (0, 0, 100))])
def test_the_groups_have_their_shares(unseen, new_formula, counts):
    groups = [templates.group_of(number, unseen, new_formula) for number in range(100)]
    assert tuple(map(groups.count, ("known", "unseen", "new formula"))) == counts


def test_each_turn_has_an_order_of_its_own():
    every = [{"id": name, "held_out": "formula"} for name in "abcdef"]
    names = [templates.next_template(every, "new formula", index, "0 test")["id"] for index in range(30)]
    turns = ["".join(names[start:start + 6]) for start in range(0, 30, 6)]
    assert all(sorted(turn) == list("abcdef") for turn in turns) and len(set(turns)) > 1


def test_two_people_have_two_names():
    template = {"texts": ["{girl} gives {girl2} {a}."], "numbers": {"a": [1, 9]}, "answer": "a + 20"}
    for seed in range(30):
        question, *_ = templates.fill_template(template, {"girl": ["Ann", "Bea", "Cid"]}, random.Random(seed))
        giver, _, taker, _ = question.split()
        assert giver != taker


def test_examples_run_and_their_drafts_are_faulty():
    examples = envs.ENVS["math"].examples({})
    for example, answer in zip(examples, (9, 65, 9, 35, 40), strict=True):
        scope = {}
        exec(example["program"], scope)
        assert scope["solution"]() == answer
        exec(example["draft"], scope)
        assert scope["solution"]() != answer


@pytest.mark.parametrize("change, complaint", [
    ({"answer": "a - z"}, "z"), ({"answer": "a -"}, "mine"), ({"texts": ["{animal} {a}"]}, "animal"),
    ({"numbers": {"a": [3, 3]}}, "no further question"), ({"steps": None, "answer": "open('x')"}, "open"),
])
def test_a_faulty_template_is_named(tmp_path, change, complaint):
    mine = {"id": "mine", "steps": 1, "texts": ["{a}?"], "numbers": {"a": [3, 9]}, "answer": "2 * a", **change}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"lists": {}, "templates": [mine]}))
    line = refuse("make", "--num", 9, "--templates", path, "--out", tmp_path / "out")
    assert str(path) in line and '"mine"' in line and complaint in line
    assert not (tmp_path / "out").exists()


def test_make_refuses_bad_input(tmp_path):
    (tmp_path / "broken.json").write_text('{"templates": [\n}')
    assert "line 2" in refuse("make", "--templates", tmp_path / "broken.json", "--out", tmp_path / "out")
    assert "No such file" in refuse("make", "--templates", tmp_path / "none.json", "--out", tmp_path / "out")
    for words in (["--nmu", "3"], ["--num", "0"], ["--env", "chess"], ["--unsee", "1"], ["--unseen", "2"]):
        done = command("make", *words, "--out", tmp_path / "out")
        assert done.returncode == 2 and "Traceback" not in done.stderr, words
    assert not (tmp_path / "out").exists()
    mine = tmp_path / "mine.json"
    mine.write_bytes((ROOT / "data/math_templates.json").read_bytes())
    assert "would be overwritten" in refuse("make", "--templates", mine, "--out", mine)
    assert mine.read_bytes() == (ROOT / "data/math_templates.json").read_bytes()


# ---------------------------------------------------------------------------------------- import --

ASDIV = """<?xml version="1.0" encoding="UTF-8"?><Machine-Reading-Corpus-File><ProblemSet>
<Problem ID="1"><Body>I see 7 owls &amp; 2 bats.</Body><Question>How many animals?</Question>
<Answer>9 (animals)</Answer></Problem>
<Problem ID="2"><Body>2 cats, 3 dogs.</Body><Question>The ratio?</Question><Answer>2:3</Answer></Problem>
</ProblemSet></Machine-Reading-Corpus-File>"""
MATH = [{"problem": "p", "solution": solution} for solution in (
    r"First $\boxed{1}$, so $\boxed{\frac{3}{4}}$.", r"$\boxed{12\text{ cm}}$", r"$\boxed{1,\!000}$ or $\boxed 5$",
    r"$\boxed{\frac{\sqrt{3}}{2}}$", r"$\boxed{(1,2)}$", "no box", r"$\boxed{1\frac12}$")]
HAS_MATH_VERIFY = importlib.util.find_spec("math_verify") is not None  # tests/requirements.txt has it
FILES = {  # format: (file name, its text, the answers)
    "gsm8k": ("g.jsonl", '{"question": "q", "answer": "2 * 600 = 1200\\n#### 1,200"}\n\n'
                         '{"question": "q", "answer": "#### -3"}\n'
                         '{"question": "q", "answer": "#### 7\\nno: 2 + 6\\n#### 8"}\n', [1200, -3, 8]),
    "gsm-hard": ("h.jsonl", '{"input": "q", "code": "def ...", "target": -7184.5}\n', [-7184.5]),
    "svamp": ("s.json", '[{"Body": "I had 5 figs.", "Question": "How many?", "Answer": 5.0}]', [5]),
    "asdiv": ("a.xml", ASDIV, [9]),
    "math": ("m.json", json.dumps(MATH), [0.75, 12, 5, 0.8660254038, 1.5] if HAS_MATH_VERIFY else [0.75, 12, 5]),
    "pal": ("p.jsonl", '{"input": "q", "target": 0}', [0]),
    "envisions": ("e.json", '[{"source": "GSM", "input": "q", "label": 0.5}]', [0.5]),
}


@pytest.mark.parametrize("form", FILES)
def test_import_reads_the_official_form(tmp_path, form):
    name, text, answers = FILES[form]
    (tmp_path / name).write_text(text)
    out = tmp_path / "tasks.jsonl"
    done = command("import", tmp_path / name, "--format", form, "--out", out)
    assert done.returncode == 0, done.stderr
    tasks = [json.loads(line) for line in out.read_text().splitlines()]
    assert [task["answer"] for task in tasks] == answers
    assert len({task["id"] for task in tasks}) == len(answers)
    assert not any("#" in task["id"] for task in tasks)  # which stands behind ids that others have
    assert all(task["env"] == "math" and task["question"] for task in tasks)
    if form == "math":
        assert f"{7 - len(answers)} of 7 rows left out" in done.stderr
    if form == "svamp":
        assert tasks[0]["question"] == "I had 5 figs. How many?"
    if form == "asdiv":
        assert tasks[0]["question"] == "I see 7 owls & 2 bats. How many animals?" and "1 of 2" in done.stderr


def test_the_last_box_is_the_answer_also_where_it_states_no_number(tmp_path):
    solutions = [r"First \boxed{3}, so \boxed{4}.", r"First \boxed{3}, so \boxed{\sqrt{\frac{{1}}{2}}}."]
    (tmp_path / "rows.jsonl").write_text("".join(
        envs.dump({"problem": f"{solution}?", "solution": solution}) for solution in solutions))
    tasks = importers.import_math(tmp_path / "rows.jsonl", "math")
    assert [task["answer"] for task in tasks] == [4]


def test_import_reads_the_folder_of_math_and_heeds_limit(tmp_path):
    for place, row in enumerate(MATH):
        (tmp_path / "algebra").mkdir(exist_ok=True)
        (tmp_path / "algebra" / f"{place}.json").write_text(json.dumps(row, indent=1))
    done = command("import", tmp_path, "--format", "math", "--limit", 2, "--out", tmp_path / "out.jsonl")
    assert done.returncode == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("text, number", [
    ("$1,234.50", 1234.5), (r"\frac{3}{4}", 0.75), (r"-\dfrac34", -0.75), ("36\\%", 36), (r"30^\circ", 30), (".5", 0.5),
    (r"\frac{12}5", 2.4), ("3:2", None), ("1,2", None), (r"1\frac{1}{2}", None), (r"\frac134", None), ("nan", None),
    ("True", None), ("", None), ("2^{10}", None), (r"1\text{ and }2", None), ("1/0", None)])
def test_numbers_as_answers_state_them(text, number):
    assert importers.plain_number(text) == number


@pytest.mark.parametrize("form, text, words", [
    ("gsm8k", '{"question": "q", "answer": "#### 1"}\n{"question": "q"}', ["entry 2", '"answer"']),
    ("gsm8k", '{"question": "q", "answer": "about 7"}', ["entry 1", "about 7"]),
    ("gsm8k", '{"question": "q", "answer": "#### 1"}\n{"question"', [":2:", "not JSON"]),
    ("svamp", '[{"input": "q", "target": 1}]', ["entry 1", '"Body"']),
    ("svamp", '[{"Body": "q"', ["delimiter"]), ("svamp", "[3]", ["entry 1"]), ("svamp", "", ["no records"]),
    ("pal", '{"input": "q", "target": NaN}', ["entry 1", "nan"]), ("asdiv", "<a><b></a>", ["mismatched tag"]),
    ("math", '[{"problem": "p", "solution": "none"}]', ["no tasks"]),
])
def test_import_refuses_bad_input(tmp_path, form, text, words):
    (tmp_path / "bad").write_text(text)
    done = command("import", tmp_path / "bad", "--format", form, "--out", tmp_path / "out")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert str(tmp_path / "bad") in line and "(" in line and all(word in line for word in words), line


def test_devices_are_written_to_and_never_replaced():
    before = Path("/dev/null").stat()
    assert command("make", "--num", 2, "--out", "/dev/null").returncode == 0
    assert Path("/dev/null").stat().st_mode == before.st_mode
