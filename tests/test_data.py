"""Real data: public sets and your own files as training and held-out tasks (DATA, TEST of run.sh)."""
import csv
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_stage

from nanoenvisions import collect, importers

sys.path.insert(0, str(ROOT))
import envs  # noqa: E402

MAWPS = [  # Question, Numbers, Equation, Answer: as the set's CSV has them
    ("Bo has number0 pens . Al gives him number1 more , does n't he ?", "2.0 3.5", "+ number0 number1", "5.5"),
    ("Ann 's box holds number0 nuts . How many are in number1 boxes ?", "4.0 0.3333333333", "* number0 number1", "1.3333"),
    ("Bo has number0 pens . Al gives him number1 more , does n't he ?", "2 3.50", "+ number0 number1", "5.5")]


def command(*words, **options):
    return subprocess.run([sys.executable, "envs.py", "import", *map(str, words)], cwd=ROOT, capture_output=True,
                          text=True, timeout=100, **options)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def mawps(tmp_path):
    with open(tmp_path / "mawps.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Question", "Numbers", "Equation", "Answer"), *MAWPS])
    return tmp_path / "mawps.csv"


# --------------------------------------------------------------------------------------- Formats --

ROWS = {  # what the first row of each form looks like
    "gsm8k": {"question": "q", "answer": "1 + 1\n#### 2"}, "gsm-hard": {"input": "q", "code": "", "target": 2.0},
    "pal": {"input": "q", "target": 2.0}, "envisions": {"source": "GSM", "input": "q", "label": 2},
    "svamp": {"ID": "1", "Body": "b", "Question": "q", "Equation": "( 1 + 1 )", "Answer": 2.0, "Type": "Addition"},
    "asdiv": {"Body": "b", "Question": "q", "Solution-Type": "Sum", "Answer": "2 (cm)", "Formula": "1+1=2"},
    "mawps": {"Question": "number0 ?", "Numbers": "2.0", "Equation": "number0", "Answer": "2.0"},
    "multiarith": {"iIndex": 1, "sQuestion": "q", "lEquations": ["X=2"], "lSolutions": [2.0]},
    "math": {"problem": "p", "level": "Level 1", "solution": r"\boxed{2}"},
    "own": {"question": "q", "answer": "2"}, "tasks": {"id": "a", "env": "math", "question": "q", "answer": 2},
    "proofwriter": {"id": "RelNeg-OWA-D5-1", "theory": "Bob is big.", "questions": {}},
    "ruletaker": {"context": "Bob is big.", "questions": []}, "prontoqa": {"example1": {}},
    "logiclm": {"context": "c", "question": "q", "options": ["A) True"], "answer": "A"}}


@pytest.mark.parametrize("form", ROWS)
def test_a_form_is_recognised_by_its_fields(form):
    assert collect.recognise("some.json", [ROWS[form]], envs.FORMATS) == form


@pytest.mark.parametrize("form", [form for form in ROWS if form not in ("proofwriter", "ruletaker", "prontoqa", "logiclm")])
def test_a_recognised_form_gives_the_answer(tmp_path, form):
    (tmp_path / "rows.json").write_text(json.dumps([ROWS[form]]))
    task, = collect.read_source(str(tmp_path / "rows.json"), None, envs.FORMATS, "math", envs.unknown_env)
    assert task["answer"] == 2 and task["env"] == "math" and task["question"] and task["id"]


def test_numbers_of_mawps_stand_in_their_places(mawps):
    first, second, _ = importers.import_math(str(mawps), "mawps")
    assert first["question"] == "Bo has 2 pens. Al gives him 3.5 more, doesn't he?" and first["answer"] == 5.5
    assert second["question"] == "Ann's box holds 4 nuts. How many are in 0.3333 boxes?"


def test_commas_and_formats_of_sources(tmp_path):
    for name in ("a.json", "b,c.json"):
        (tmp_path / name).write_text("[]")
    a, b = tmp_path / "a.json", tmp_path / "b,c.json"
    assert collect.split_sources(str(b), envs.FORMATS) == [(str(b), None)]
    assert collect.split_sources(f"{a}:svamp, {a},hub:some/set:main@test", envs.FORMATS) == [
        (str(a), "svamp"), (str(a), None), ("hub:some/set:main@test", None)]


# ------------------------------------------------------------------------------ Training and test --

OWN = [{"question": f"What is {n} and {n}?", "answer": 2 * n} for n in range(40)]


def both(tmp_path, *flags):
    done = command(*flags, "--test-out", tmp_path / "test.jsonl", "--out", tmp_path / "tasks.jsonl")
    assert done.returncode == 0, done.stderr
    return read(tmp_path / "tasks.jsonl"), read(tmp_path / "test.jsonl"), done.stdout


def test_rows_of_the_test_and_doubles_are_left_out_and_counted(tmp_path):
    """40 questions, 3 asked twice, one unusable; the test asks 5 of them, one in other letters."""
    train = write(tmp_path / "train.jsonl", OWN + OWN[:3] + [{"question": "What?", "answer": "nobody knows"}])
    test = write(tmp_path / "exam.jsonl", [{**OWN[10], "question": "what is 10  and 10"}, *OWN[11:15]])
    tasks, exam, said = both(tmp_path, train, "--test", test)
    assert {task["question"] for task in tasks} == {row["question"] for row in OWN[:10] + OWN[15:]}
    assert len(tasks) == 35 and len({task["id"] for task in tasks}) == 35
    assert {task["group"] for task in exam} == {"exam"} and len(exam) == 5
    assert "5 left out that stand in the test" in said and "3 left out asked before" in said


def test_several_test_files_are_groups_of_their_own(tmp_path):
    train = write(tmp_path / "train.jsonl", OWN[:20])
    easy, hard = write(tmp_path / "easy.jsonl", OWN[20:24]), write(tmp_path / "hard.jsonl", OWN[24:30])
    _, exam, _ = both(tmp_path, train, "--test", f"{easy},{hard}")
    assert sorted(task["group"] for task in exam) == ["easy"] * 4 + ["hard"] * 6


def test_a_share_is_held_out_by_the_question_alone(tmp_path):
    train = write(tmp_path / "train.jsonl", OWN)
    tasks, held, _ = both(tmp_path, train, "--hold-out", 0.3)
    assert len(tasks) + len(held) == 40 and 4 <= len(held) <= 20 and {task["group"] for task in held} == {"held out"}
    asked = {task["question"] for task in held}
    write(train, OWN[20:] + OWN[:7])  # other rows beside them, another order: each keeps its side
    tasks, again, _ = both(tmp_path, train, "--hold-out", 0.3)
    assert {task["question"] for task in again} == asked & {row["question"] for row in OWN[20:] + OWN[:7]}
    _, other, _ = both(tmp_path, train, "--hold-out", 0.3, "--seed", 1)
    assert {task["question"] for task in other} != {task["question"] for task in again}


def test_a_smaller_number_is_the_beginning_of_a_larger_one(tmp_path):
    train, exam = write(tmp_path / "train.jsonl", OWN[:30]), write(tmp_path / "exam.jsonl", OWN[30:])
    few = both(tmp_path, train, "--test", exam, "--limit", 5, "--num-test", 3)
    many = both(tmp_path, train, "--test", exam, "--limit", "all", "--num-test", 8)
    assert (len(few[0]), len(few[1]), len(many[0]), len(many[1])) == (5, 3, 30, 8)
    assert many[0][:5] == few[0] and many[1][:3] == few[1]
    other = both(tmp_path, train, "--test", exam, "--limit", 5, "--seed", 3)
    assert other[0] != few[0]
    assert [task["question"] for task in many[0]] != [row["question"] for row in OWN[:30]]  # drawn, not the first


def test_equal_ids_of_two_files_are_told_apart(tmp_path):
    rows = [{"id": "one", "env": "math", "question": f"{n}?", "answer": n} for n in range(2)]
    a, b = write(tmp_path / "a.jsonl", rows[:1]), write(tmp_path / "b.jsonl", rows[1:])
    exam = write(tmp_path / "exam.jsonl", OWN[:1])
    tasks, _, _ = both(tmp_path, f"{a},{b}", "--test", exam)
    assert len({task["id"] for task in tasks}) == 2


@pytest.mark.parametrize("rows, flags, words", [
    ([{"a": 1, "b": 2}], [], ["cannot tell its format", "a, b", "FORMAT"]),
    ([{"question": "q", "answer": "none"}], [], ["no tasks in it"]),
    ([{"question": "q"}], [], ["cannot tell its format"]),
    ([{"id": 3, "env": "math", "question": "q", "answer": 1}], [], [':1: "id" is 3']),
    ([{"id": "a", "env": "logic", "question": "q", "answer": "True"}], ["--env", "math"], ["'logic', not 'math'"]),
    ([{"id": "a", "env": "chess", "question": "q", "answer": "True"}], [], ["'chess'"]),
    ([{"raw_logic_programs": []}], [], ["programs, not tasks"]),
    ([{"Question": "number1 ?", "Numbers": "3", "Answer": 1}], [], ["entry 1", "Numbers"])])
def test_a_wrong_file_is_refused_in_one_line(tmp_path, rows, flags, words):
    file = write(tmp_path / "rows.jsonl", rows)
    done = command(file, *flags, "--out", tmp_path / "out.jsonl")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(file) in line
    assert all(word in line for word in words), line
    assert not (tmp_path / "out.jsonl").exists()


def test_names_that_lead_nowhere_are_refused(tmp_path):
    file = write(tmp_path / "rows.jsonl", OWN[:2])
    for source, words in ((tmp_path / "none.jsonl", "no such file"), (f"{file}:gsm9k", "gsm9k is no format")):
        done = command(source, "--out", tmp_path / "out.jsonl")
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_a_run_never_overwrites_its_data(tmp_path):
    file = write(tmp_path / "rows.jsonl", OWN)
    for flags in (["--test-out", file, "--out", tmp_path / "o"], ["--test-out", tmp_path / "o", "--out", file]):
        done = command(file, "--hold-out", 0.2, *flags)
        assert done.returncode == 1 and "overwritten" in done.stderr and read(file) == OWN


# ----------------------------------------------------------------------------------------- The hub --

def test_the_hub_s_way_reads_folders_of_parquet_and_json(tmp_path):
    pytest.importorskip("datasets", reason="pip install -r tests/requirements.txt")
    import pyarrow
    import pyarrow.parquet
    rows = [{"question": f"{n}?", "answer": f"so\n#### {n}"} for n in range(5)]
    (tmp_path / "parquet").mkdir()
    (tmp_path / "json").mkdir()
    for split, some in (("train", rows), ("test", rows[3:])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), tmp_path / "parquet" / f"{split}-0.parquet")
        write(tmp_path / "json" / f"{split}.jsonl", some)
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    for kind in ("parquet", "json"):
        source = f"hub:{tmp_path / kind}"
        done = command(source, "--test", f"{source}@test", "--test-out", tmp_path / "test.jsonl",
                       "--out", tmp_path / "tasks.jsonl", env=settings)
        assert done.returncode == 0, done.stderr
        assert sorted(task["answer"] for task in read(tmp_path / "tasks.jsonl")) == [0, 1, 2]
        assert sorted(task["answer"] for task in read(tmp_path / "test.jsonl")) == [3, 4]
    for source, words in ((f"hub:{tmp_path}/json@exam", "exam"), ("hub:nobody/nothing", "nobody/nothing")):
        done = command(source, "--out", tmp_path / "out", env=settings)
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1


def test_the_message_names_the_package_that_reads_the_hub(tmp_path):
    (tmp_path / "datasets.py").write_text("raise ImportError('not installed')")
    done = command("hub:openai/gsm8k", "--out", tmp_path / "out", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "pip install" in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------ run.sh --

def start(python, model, out, **settings):
    return subprocess.run(["bash", "run.sh"], cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=300,
                          stderr=subprocess.STDOUT, env={
        **os.environ, "SETUP": "0", "PYTHON": python, "MODEL": model, "OUT": str(out), "OMP_NUM_THREADS": "1",
        "NUM_SAMPLES": "6", "MAX_NEW_TOKENS": "24", "BITS": "32", "MIN_STEPS": "1", "EPOCHS": "1", "ITERS": "2",
        "SELECT_FLAGS": "--stated", **settings})


@pytest.fixture
def digits(tmp_path):
    """Questions whose answer is a digit, all alike: the tiny model guesses right now and then."""
    names = [f"{one}{two}" for one in "ABCD" for two in "EFGHIJ"]
    rows = [{"question": f"{name} had some nuts. How many?", "answer": 3 + place % 4} for place, name in enumerate(names)]
    return write(tmp_path / "train.jsonl", rows[:14]), write(tmp_path / "exam.jsonl", rows[14:])


def test_a_run_on_data_of_ones_own(tmp_path, tiny_model, warm_python, digits):
    train, exam = digits
    settings = dict(DATA=str(train), TEST=str(exam), HOLD_OUT="0.2", NUM_TRAIN="all", NUM_TEST="4", NUM_TEST_ENDS="all")
    done = start(warm_python, tiny_model, tmp_path / "run", **settings)
    assert done.returncode == 0, done.stdout
    tasks, test = read(tmp_path / "run/tasks.jsonl"), read(tmp_path / "run/test.jsonl")
    assert len(tasks) + len(test) == 24 and {task["group"] for task in test} == {"exam", "held out"}
    sizes = [len(read(tmp_path / f"run/iter{t}/eval.jsonl")) for t in range(3)]
    assert sizes == [len(test), 4, len(test)]  # the first and the last evaluation ask all
    again = start(warm_python, tiny_model, tmp_path / "run", **settings, SEED="1")
    assert again.returncode == 1 and "SEED" in again.stdout


@pytest.mark.parametrize("settings, words", [
    ({"DATA": "none.jsonl"}, "none.jsonl"), ({"TEST": "x"}, "DATA"), ({"NUM_TRAIN": "all"}, "DATA"),
    ({"NUM_TEST": "9", "NUM_TEST_ENDS": "8"}, "NUM_TEST_ENDS=8"), ({"PRESET": "gsm9k"}, "gsm8k-0.5b"),
    ({"HOLD_OUT": "2"}, "HOLD_OUT")])
def test_wrong_settings_leave_nothing_behind(tmp_path, tiny_model, warm_python, settings, words):
    done = start(warm_python, tiny_model, tmp_path / "run", **settings)
    assert done.returncode == 1 and words in done.stdout and "Traceback" not in done.stdout
    assert not list(tmp_path.glob("run/*.jsonl"))


# ------------------------------------------------------------------------------------ The ceiling --

def test_human_equations_become_programs_with_the_answer(mawps):
    """tests/bench_labels.py: prefix to infix, brackets where they are needed, rows as select.py makes them."""
    import bench_labels
    assert bench_labels.infix("- number0 - number1 number2", ["9", "5", "2"]) == "9 - (5 - 2)"
    assert bench_labels.infix("/ + number0 number1 2.0", ["9", "5"]) == "(9 + 5) / 2"
    tasks = importers.import_math(str(mawps), "mawps")
    rows = bench_labels.label_rows(mawps, tasks)
    assert [row["completion"].split("return ")[1] for row in rows] == ["2 + 3.5\n```", "4 * 0.3333\n```", "2 + 3.5\n```"]
    assert rows[0]["prompt"] == envs.solve_prompt(tasks[0])
    with pytest.raises(SystemExit, match="not those"):
        bench_labels.label_rows(mawps, [{**tasks[0], "question": "Another?"}])


def test_the_perfect_teacher_writes_the_formula_of_each_problem(tmp_path):
    """tests/perfect_teacher.py: its programs are the templates' formulas, and all of them earn the reward."""
    import perfect_teacher
    tasks, programs = tmp_path / "tasks.jsonl", tmp_path / "teacher.jsonl"
    envs.main(["make", "--env", "math", "--num", "40", "--seed", "7", "--out", str(tasks)])
    perfect_teacher.main(["--in", str(tasks), "--out", str(programs)])
    right = {task["id"]: task for task in envs.read_jsonl(tasks)}
    rows = envs.read_jsonl(programs)
    assert [row["id"] for row in rows] == list(right)
    candidates = tmp_path / "explored.jsonl"
    candidates.write_text("".join(envs.dump({
        **right[row["id"]], **row, "candidate": 0, "source": "explore", "iteration": 0, "logprob": -1.0}) for row in rows))
    assert run_stage("reward", "--in", candidates, "--out", tmp_path / "rewarded.jsonl").returncode == 0
    assert {row["outcome"] for row in envs.read_jsonl(tmp_path / "rewarded.jsonl")} == {"correct"}
    with pytest.raises(SystemExit, match="not of the template"):
        perfect_teacher.formula({"id": "x", "question": "Another?", "answer": 1}, {"texts": ["No {a}."], "answer": "a"})
