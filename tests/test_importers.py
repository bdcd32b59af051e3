"""Importers and collect.py on rows as people write them: signs, odd numbers, faulty rows, files with equal ids."""
import hashlib
import json
import re
import sys

import pytest
from conftest import ROOT

from nanoenvisions import collect, importers

sys.path.insert(0, str(ROOT))
import envs  # noqa: E402
from data.runs import scores  # noqa: E402


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def taken(tmp_path, *words):
    """The rows that `envs.py import` writes."""
    envs.main(["import", *map(str, words), "--out", str(tmp_path / "out.jsonl")])
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------- Wording --

def wording(question):
    return collect.wording({"question": question})


@pytest.mark.parametrize("one, other", [
    ("What is 12 + 4?", "What is 12 - 4?"), ("Solve x < 5", "Solve x > 5"), ("What is -5 + 3?", "What is 5 + 3?"),
    ("2.5 times 4", "2/5 times 4"), ("2.5 times 4", "2, 5 times 4"), ("What is .5 + 1?", "What is 5 + 1?"),
    ("2 * (3 + 4)", "2 * 3 + 4"), ("Add -5 to ten", "Add 5 to ten"),
    ("3 × 4", "3 ÷ 4"), ("x ≤ 3", "x ≥ 3"), ("2^3", "23"),
    ("1,000", "1000")])  # as before: "the pair 1,200" is not 1200
def test_signs_make_another_question(one, other):
    assert wording(one) != wording(other)


@pytest.mark.parametrize("one, other", [
    ("What is 12+4", "what is  12 + 4 ?"), ("What is \u22125?", "What is - 5"), ("3\u20137 pens", "3 - 7 pens"),
    ("A 20-page book!", "a 20 - page book"), ("Bo's pens: 2.5, \"new\".", "Bo s pens 2.5 new"),
    ("Bo has $3; 5% more", "Bo has 3 5 more"), ("Nuts -- how many?", "Nuts. How many?")])
def test_layout_and_punctuation_do_not(one, other):
    assert wording(one) == wording(other)


@pytest.mark.parametrize("question", [
    "Bo has $3.  How many?", "A 20-page book, 1,000 times?", "He ran 2.5km and .5x; 3/4 of\nit's (5) -7.",
    "½ of İ: 1.2.3"])
def test_the_draw_of_what_is_held_out_goes_by_words_alone(question):
    """Its hash has the words only, as in runs that were made before signs counted."""
    words = " ".join(re.findall(r"\w+", question.lower()))
    digest = hashlib.sha256(f"3 {words}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / 2 ** 48
    assert [collect.is_held_out({"question": question}, share + add, 3) for add in (-1e-9, 1e-9)] == [False, True]


@pytest.mark.parametrize("one, other", [
    ("1,050 ml cost $4.80.", "1050 ml cost $4.8"), ("$600.00 for 3", "$ 600 for \uff13"), ("Jose\u0301 has 5", "Jos\u00e9 has 5."),
    ("65,899,000 ants", "65899000 ants"), ("a so\u00adfa at 2.50", "a sofa at 2.5")])
def test_what_a_test_asks_is_not_trained_on_however_it_is_spelled(tmp_path, one, other):
    assert wording(one) != wording(other)
    sources = [[(str(write(tmp_path / f"{name}.jsonl", [{"question": text, "answer": 1}])), None)]
               for name, text in (("train", one), ("test", other), ("both", f"{one} {other}"))]
    for given, held, left in ((sources[0], sources[1], 0), (sources[2], sources[1], 1)):
        train, test, remarks = collect.collect(given, held, envs.FORMATS, "math", envs.unknown_env, envs.unfit, 0, 0)
        assert len(train) == left and len(test) == 1
        assert remarks == ["1 left out that stand in the test, too"] * (1 - left)


def test_numbers_that_differ_are_different_in_the_test_too():
    for one, other in (("1,05 ml", "105 ml"), ("2.05", "2.5"), ("2.50", "250"), ("10.0", "1"), ("100", "1"), ("1,0000", "10000")):
        loose = [collect.loose_wording({"question": text}) for text in (one, other)]
        assert loose[0] != loose[1], loose


def test_one_spelling_held_out_is_none_to_train_on(tmp_path):
    """HOLD_OUT draws by the words; wherever the cut is, no question stands on both sides."""
    rows = [{"question": f"Bo has {n}{zeros} pens", "answer": 1} for n in range(1, 40) for zeros in ("", ".00")]
    source = str(write(tmp_path / "own.jsonl", rows))
    train, test, remarks = collect.collect([(source, None)], [], envs.FORMATS, "math", envs.unknown_env, envs.unfit, 0.5, 0)
    asked = [set(map(collect.loose_wording, tasks)) for tasks in (train, test)]
    assert train and test and not asked[0] & asked[1]
    assert remarks == [f"{len(rows) - len(train) - len(test)} left out that stand in the test, too"]


def test_files_of_one_name_are_two_groups(tmp_path):
    tests = []
    for place, name in (("a", "test"), ("b", "test"), ("b", "other")):
        (tmp_path / place).mkdir(exist_ok=True)
        tests.append((str(write(tmp_path / place / f"{name}.jsonl", [{"question": f"{place} {name}", "answer": 1}])), None))
    _, test, _ = collect.collect([], tests, envs.FORMATS, "math", envs.unknown_env, envs.unfit, 0, 0)
    assert [task["group"] for task in test] == ["a/test", "b/test", "other"]


def test_a_group_named_test_is_not_all_of_them():
    row = {"accuracy": 0.09, "num": 100, "by_group": {"held out": {"accuracy": 0, "num": 90},
                                                      "test": {"accuracy": 0.9, "num": 10}}}
    assert scores({0: {"eval": row}}) == {"test": [(0.09, 100)], "held out": [(0, 90)], "group test": [(0.9, 10)]}


def test_why_a_task_cannot_be_rewarded_is_said(tmp_path):
    rows = [{"id": name, "env": "math", "question": name, "answer": 1, **more}
            for name, more in (("a", {}), ("b", {"style": ["x"]}), ("c", {"style": 5}))]
    source = str(write(tmp_path / "tasks.jsonl", rows))
    train, _, remarks = collect.collect([(source, None)], [], envs.FORMATS, "math", envs.unknown_env, envs.unfit, 0, 0)
    assert len(train) == 1 and len(remarks) == 1
    assert remarks[0].startswith(f"2 left out that cannot be rewarded (the first: {source}: b: \"style\" is ['x']")


def test_no_row_is_lost_for_its_sign(tmp_path):
    rows = [{"question": f"What is 12 {sign} 4?", "answer": answer} for sign, answer in zip("+-*/", (16, 8, 48, 3))]
    source = str(write(tmp_path / "own.jsonl", rows))
    train, _, remarks = collect.collect(
        [(source, None)], [], envs.FORMATS, "math", envs.unknown_env, unfit=lambda task: None, hold_out=0, seed=0)
    assert [task["answer"] for task in train] == [16, 8, 48, 3] and not remarks


# ---------------------------------------------------------------------------------------- Numbers --

@pytest.mark.parametrize("text, number", [
    (r"{2}\frac{1}{2}", None), (r"2{\frac{1}{2}}", None), (r"2{{\frac12}}", None), (r"\frac12{3}", None),
    (r"{\frac12}", 0.5), (r"-{\frac{1}{2}}", -0.5), (r"\frac12\text{ cm}^2", 0.5), ("1{,}234", 1234), ("1.5/2", 0.75),
    ("\u22125", -5), ("\\frac{\u22123}{4}", -0.75), ("1.2.3", None), (".5.5", None), ("9" * 400, None),
    (f"{'9' * 400}/{'9' * 400}", None), ("5.", 5), ("1,234.50", 1234.5)])
def test_mixed_fractions_minus_signs_and_what_is_no_number(text, number):
    assert importers.plain_number(text) == number


@pytest.mark.parametrize("text, number", [
    (r"0.\overline{3}", None), (r"4\text{ hours }30\text{ minutes}", None), ("11:15", None), ("1{:}2", None),
    ("3:2", None), ("2516_8", None), ("x = 5", None), (r"7\frac{1}{2}\%", 7.5), (r"4\pi\text{ cm}^2", 12.5663706144),
    (r"\left(\frac{1}{2}\right)", 0.5), (r"2\sqrt{3}", 3.4641016151), (r"3\cdot 4", 12)])
def test_of_latex_all_is_read_or_nothing(text, number):
    pytest.importorskip("math_verify", reason="pip install math-verify")
    assert importers.latex_number(text) == (number if number is None else pytest.approx(number, rel=1e-9))


def test_the_faulty_file_of_a_folder_is_named(tmp_path):
    for number, text in enumerate(('{"problem": "p", "solution": "\\\\boxed{1}"}', '{"problem": "p"}', '{"problem"')):
        (tmp_path / f"{number}.json").write_text(text)
        if number:
            with pytest.raises(SystemExit, match=f"{tmp_path}/{number}.json: "):
                taken(tmp_path, tmp_path, "--format", "math")
    (tmp_path / "2.json").write_text("5")
    with pytest.raises(SystemExit, match=f"{tmp_path}/2.json is 5, not an object"):
        taken(tmp_path, tmp_path, "--format", "math")


def test_rows_without_a_number_are_left_out_and_counted(tmp_path, capsys):
    answers = ["1.2.3", ".5.5", "9" * 400, "\u22125", 7]
    tasks = taken(tmp_path, write(tmp_path / "own.jsonl", [{"question": f"{a}?", "answer": a} for a in answers]))
    assert [task["answer"] for task in tasks] == [-5, 7]
    assert "3 of 5 rows left out" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ Faulty rows --

LOGIC = {"id": "a", "context": "Bob is red.", "question": "Bob is red?", "answer": "A",
         "options": ["A) True", "B) False"]}
PRONTO = {"question": "Max is a cat.", "query": "True or false: Max is shy.", "answer": "False"}
PROOF = {"id": "a", "theory": "Bob is red.", "questions": {"Q1": {"question": "Bob is red.", "answer": True}}}
RULES = {"context": "Bob is red.", "questions": [{"text": "Bob is red.", "label": True}]}


@pytest.mark.parametrize("form, good, rows, words", [
    ("mawps", None, [{"Question": "number0 ?", "Numbers": "inf", "Answer": 1}], ["entry 1", '"Numbers"']),
    ("gsm8k", None, [{"question": "q", "answer": "#### 1.2.3"}], ["entry 1", "1.2.3"]),
    ("own", None, [{"question": "q", "answer": 1}, 5], ["entry 2 is 5"]),
    ("prontoqa", PRONTO, [], ["no tasks"]), ("prontoqa", PRONTO, [1], ["entry 1 is 1"]),
    ("prontoqa", PRONTO, [{"example1": {}}], ["entry 1", "test_example"]),
    ("prontoqa", PRONTO, [{"example1": {"test_example": PRONTO}, "example2": 5}], ["entry 2", "test_example", "5"]),
    ("prontoqa", PRONTO, [{"example1": {"test_example": {**PRONTO, "query": 5}}}], ["entry 1", '"query" is 5']),
    ("logiclm", LOGIC, [LOGIC, {**LOGIC, "question": None}], ["entry 2", '"question" is None']),
    ("logiclm", LOGIC, [{**LOGIC, "context": 3}], ["entry 1", '"context" is 3']),
    ("logiclm", LOGIC, [{**LOGIC, "options": 3}], ["entry 1", '"options" is 3']),
    ("logiclm", LOGIC, [{**LOGIC, "options": ["A)True"]}], ["entry 1", '"answer" is \'A\'']),
    ("logiclm", LOGIC, [{**LOGIC, "answer": ["A"]}], ["entry 1", '"answer"']),
    ("logiclm-programs", None, [LOGIC], ["entry 1", "raw_logic_programs"]),
    ("logiclm-programs", None, [{**LOGIC, "raw_logic_programs": "abc"}], ["entry 1", "programs\" is 'abc'"]),
    ("proofwriter", PROOF, [{**PROOF, "questions": {"Q1": {"question": 5}}}], ["entry 1", '"question" is 5']),
    ("proofwriter", PROOF, [{**PROOF, "questions": {"Q1": 5}}], ["entry 1", "question", "5"]),
    ("proofwriter", PROOF, [{**PROOF, "questions": None}], ["entry 1", '"questions" is None']),
    ("ruletaker", RULES, [{**RULES, "questions": [5]}], ["entry 1", "text", "5"])])
def test_a_faulty_row_is_one_clear_line(tmp_path, form, good, rows, words):
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stop:
        taken(tmp_path, source, "--format", form)
    line = str(stop.value)
    assert str(source) in line and "\n" not in line and "(" in line and all(word in line for word in words), line
    if good:  # it is the fault that is refused
        assert len(taken(tmp_path, write(tmp_path / "good.jsonl", [good]), "--format", form)) == 1


def test_a_faulty_row_among_good_ones_is_found_without_a_format(tmp_path):
    (tmp_path / "rows.json").write_text('[{"question": "q", "answer": 1}, 5]')
    for flags in ([], ["--env", "logic"]):
        with pytest.raises(SystemExit, match="entry 2 is 5"):
            taken(tmp_path, tmp_path / "rows.json", *flags)


# ------------------------------------------------------------------------------ Semantics and ids --

@pytest.mark.parametrize("path, row, semantics", [
    ("pronto/proof.jsonl", PROOF, "cwa"), ("pronto/proof.jsonl", {**PROOF, "id": "AttNeg-OWA-1"}, "owa"),
    ("sets/ProntoQA_dev.jsonl", LOGIC, "pronto"), ("sets/pronto.jsonl", {**LOGIC, "id": "X-OWA-1"}, "owa"),
    ("sets/pronto.jsonl", {**LOGIC, "options": ["A) Unknown", "B) False"]}, "owa"), ("sets/rows.jsonl", LOGIC, "cwa")])
def test_the_file_s_name_and_not_its_folder_tells_prontoqa(tmp_path, path, row, semantics):
    form = "proofwriter" if "theory" in row else "logiclm"
    task, = importers.FORMATS[form](write(tmp_path / path, [row]))
    assert task["semantics"] == semantics


def test_ids_of_several_files_are_unique_without_a_test_too(tmp_path):
    row = {"id": "one", "env": "math", "question": "q", "answer": 1}
    rows = [row, {**row, "id": "one#2"}]  # as an earlier import has written them
    a, b = write(tmp_path / "d1/t.jsonl", rows), write(tmp_path / "d2/t.jsonl", [*rows, row])
    tasks = taken(tmp_path, f"{a},{b}")
    assert len({task["id"] for task in tasks}) == 5 and [task["id"] for task in tasks[:3]] == ["one", "one#2", "one#3"]


def test_candidates_of_a_task_keep_its_id_in_common(tmp_path):
    programs = [write(tmp_path / folder / "p.jsonl", [{**LOGIC, "raw_logic_programs": written}])
                for folder, written in (("d1", ["x"]), ("d2", ["y", "z"]))]
    one, y, z = taken(tmp_path, f"{programs[0]}:logiclm-programs,{programs[1]}", "--format", "logiclm-programs")
    assert one["id"] != y["id"] == z["id"] and [y["candidate"], z["candidate"]] == [0, 1]
