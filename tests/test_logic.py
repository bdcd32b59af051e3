"""Logic: grammar, semantics, generator and importers. The generator's answers are compared with a plain fixpoint that
reads the English sentences itself: no line of it is shared with the product."""
import argparse
import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import envs
from nanoenvisions import logic, theories
from nanoenvisions.importers import FORMATS
from nanoenvisions.theories import LEVELS, LOGIC_WORDS

Logic = envs.ENVS["logic"]


# ------------------------------------------------- an independent reader of English, and a fixpoint --

def verb_phrase(text, subject):
    """"does not need the bald eagle", "cow" -> (False, "need", "cow", "bald eagle"); None if it is no verb phrase."""
    if found := re.fullmatch(r"(?:is |are )?(not )?(?:an? )?(\w+)", text):
        return (not found[1], found[2], subject)
    if found := re.fullmatch(r"(does not |do not )?(\w+) the ([\w ]+)", text):
        return (not found[1], found[2].rstrip("s"), subject, found[3])


def clauses(text, subject=None):
    """Clauses by "and": "Bob is big and likes the cat" -> [(True, "big", "Bob"), (True, "like", "Bob", "cat")]"""
    found = []
    for part in text.strip().rstrip(".?").split(" and "):
        literal = verb_phrase(part, subject) if subject else None
        if literal is None:
            own, rest = re.fullmatch(r"((?:[Tt]he )(?:bald eagle|\w+)|\w+) (.+)", part).groups()
            subject = "?" if own.lower() in ("something", "someone", "it", "they") else re.sub("^[Tt]he ", "", own)
            literal = verb_phrase(rest, subject)
        found.append(literal)
    return found


def sentence(text):
    """(body, head) of a sentence; "?" stands for whatever the rule speaks of."""
    text = re.sub(r"^We know that ", "", text.strip().rstrip("."))
    if found := re.fullmatch(r"If (.+?),? then (.+)", text):
        return clauses(found[1]), clauses(found[2])[0]
    if found := re.fullmatch(r"(?:All )?([\w, ]+) (?:things|people) are (.+)", text):
        return [(True, word.lower(), "?") for word in found[1].split(", ")], verb_phrase(found[2], "?")
    if found := re.fullmatch(r"(?:Every|Each) (\w+) (.+)", text):
        return [(True, found[1], "?")], verb_phrase(found[2], "?")
    if found := re.fullmatch(r"(?:Everything that|Whatever) (.+)", text):  # the verb phrase after no "and" is the head
        starts = [match.start() for match in re.finditer(r"(?<!and) (?=is |does not |\w+s the )", found[1])]
        return clauses(found[1][:starts[-1]], "?"), verb_phrase(found[1][starts[-1] + 1:], "?")
    return [], clauses(text)[0]


def bind(literal, name):
    return tuple(name if part == "?" else part for part in literal)


def fixpoint(rules, closed=False):
    """{what follows: after how many rounds}, by applying every rule to every name until nothing is new."""
    names = {name for body, head in rules for literal in [*body, head] for name in literal[2:]} - {"?"}
    known, turn, new = {}, 0, {head: 0 for body, head in rules if not body}
    while new.keys() - known.keys():
        known, turn, new = {**new, **known}, turn + 1, {}
        for body, head in rules:
            for name in names if body else ():
                if all((True, *part[1:]) not in known if closed and not part[0] else part in known
                       for part in (bind(literal, name) for literal in body)):
                    new[bind(head, name)] = turn
    return known


def unnumbered(question):
    return [re.sub(r"^\d+\. ", "", line) for line in question.split("\n")]


def answers_of(question, semantics, number):
    """The answers to the last `number` lines of a question, from its English alone."""
    lines = unnumbered(question)
    known, answers = fixpoint([sentence(line) for line in lines[:-number]], semantics == "cwa"), []
    for line in lines[-number:]:
        literal = clauses(line)[0]
        yes, no = literal in known, (not literal[0], *literal[1:]) in known
        if semantics == "cwa" and not literal[0]:
            yes = not no
        answers.append("True" if yes else "False" if no or semantics != "owa" else "Unknown")
    return answers


def make(*flags, num=60, split="train", seed=0):
    parser = argparse.ArgumentParser()
    for name, kind in (("num", int), ("split", str), ("seed", int)):
        parser.add_argument("--" + name, type=kind)
    Logic.add_arguments(parser)
    return Logic.make(parser.parse_args(["--num", str(num), "--split", split, "--seed", str(seed), *flags]))


def run(program, semantics="owa", **job):
    return Logic.run(program, {"semantics": semantics, "guards": False, **job})


# ---------------------------------------------------------------------------------------- grammar --

COMPACT = """
Bob is cold
the bear likes the tiger
if X is cold and not rough then X is smart
Bob is smart?
bear does not like tiger?
"""
LOGIC_LM = """
Predicates:
Cold($x, bool) ::: Is x cold?
Facts:
cold(Bob, True) ::: Bob is cold.
likes(bear, tiger)
Rules:
cold($x, True) && rough($x, False) >>> smart($x, True)
Query:
smart(Bob, True)
likes(bear, tiger, False)
"""


def test_both_grammars_say_the_same():
    first, second = logic.read_program(COMPACT), logic.read_program(LOGIC_LM)
    assert first[1] == second[1] == [(True, "smart", "Bob"), (False, "likes", "bear", "tiger")]
    assert first[0][:2] == second[0][:2] == [([], [(True, "cold", "Bob")]), ([], [(True, "likes", "bear", "tiger")])]
    assert run(COMPACT) == run(LOGIC_LM) == "Unknown, False"


@pytest.mark.parametrize("text", [
    "Not(Cold(Bob, True))", "!Cold(Bob, True)", "~Cold(Bob)", "¬Cold(Bob)", "not Cold(Bob)",
    "Cold(Bob, False)", "Bob is not Cold", "Not(Cold(Bob))", "Not(Not(Cold(Bob, false)))"])
def test_lenient_negation(text):
    assert logic.read_literal(text) == (False, "Cold", "Bob")


def test_rules_may_stand_among_the_facts_but_names_are_not_mended():
    program = "Facts:\nCold(Bob)\nCold($x) >>> Red($x)\nRules:\nQuery:\n"
    assert run(program + "Red(Bob, True)") == "True"
    assert run(program + "Red(bob, True)") == "Unknown"


def test_a_second_condition_may_lean_on_the_first():
    assert Logic.canonical({"program": "if X is big and likes cat then X is red\nBob is red?"}) == \
           Logic.canonical({"program": "if X is big and X likes cat then X is red\nBob is red?"})


def test_lines_may_be_numbered_and_rules_may_speak_of_something():
    assert theories.numbered(["Bob is cold", "Bob is red?"]) == "1. Bob is cold\n2. Bob is red?"
    assert logic.read_program("1. Bob is cold\n2. if something is cold then it is red\n3. Bob is red?") == \
           logic.read_program("Bob is cold\nif X is cold then X is red\nBob is red?")


def test_canonical_sorts_statements_and_keeps_the_order_of_questions():
    program = "Bob is cold\nMia is red\nBob is red?\nMia is cold?"
    assert Logic.canonical({"program": program}) == Logic.canonical({"program": "Mia is red # first\n\nBob  is cold.\nBob is red?\nMia is cold?"})
    assert Logic.canonical({"program": program}) != Logic.canonical({"program": "Bob is cold\nMia is red\nMia is cold?\nBob is red?"})
    assert Logic.canonical({"program": "no  program\nhere at all, no"}) == "no program here at all, no"


def test_what_is_said_twice_is_learned_once():
    program = "Bob is cold\nBob is red\nBob is cold\nBob is red?\n"
    assert Logic.tidy({"program": program}) == "Bob is cold\nBob is red\nBob is red?"
    for kept in ("Query:\nRed(Bob)\nRed(Bob)", "Facts:\nRed(Bob)\nQuery:\nRed(Bob)\nFacts:\nBig(Bob)"):
        assert Logic.tidy({"program": kept}) == kept  # here it would say something else


@pytest.mark.parametrize("program, reason", [
    ("Bob is cold\nBob cold\nBob is red?", "line 2: 'Bob cold'"),
    ("Bob is cold", "no question"),
    ("", "no question"),
    ("Bob is cold\nX is cold?", "line 2: a question must name things"),
    ("Bob is cold\nif X is red then X is big?", "line 2: a question must be one statement"),
    ("Cold(Bob, Ann, Mia, 3)\nBob is cold?", "line 1"),
    ("if then X is red\nBob is red?", "line 1"),
    ("->\nBob is red?", "line 1"),
    ("Bob is cold\nif something is Y then it is red\nBob is red?", "line 2"),  # no name of a quality: it would be any
    ("$p(Bob)\nBob is red?", "line 1"),
    ('Cold(B"ob).\nBob is red?', "line 1"),
    ("Bob is cold\nBob is " + "a " * 300 + "cold\nBob is red?", "line 2: longer than 500"),
    ("Bob is cold\n" * 900 + "Bob is red?", "longer than 10,000"),
    ("\n".join(f"thing{n} is cold" for n in range(60)) + "\nif X likes Y and Y likes Z then X likes Z\nBob is big?",
     "too large"),
])
def test_errors_say_line_and_reason(program, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        run(program)


# -------------------------------------------------------------------------------------- semantics --

def test_open_world():
    # "Bob is not red" says nothing of cold: rules run forwards only, no contraposition
    assert run("if X is cold then X is red\nBob is not red\nBob is cold?") == "Unknown"
    assert run("if X is not red then X is big\nBob is not red\nBob is big?\nMia is big?") == "True, Unknown"


def test_closed_world_is_negation_as_failure():
    program = "Bob is cold\nif X is cold and not red then X is big\nBob is big?\nBob is red?\nBob is not red?"
    assert run(program, "cwa") == "True, False, True"
    assert run(program, "owa") == "Unknown, Unknown, Unknown"


def test_prontoqa_has_no_unknown():
    assert run("Max is a wumpus\nif X is a wumpus then X is not shy\nMax is shy?\nMax is not shy?\nMax is not red?",
               "pronto") == "False, True, False"


def test_contradiction_earns_nothing_and_stays_where_it_is():
    program = "Bob is cold\nBob is not cold\nMia is red\n"
    with pytest.raises(ValueError, match="contradiction"):
        run(program + "Bob is cold?")
    assert run(program + "Mia is red?") == "True"
    with pytest.raises(ValueError, match="no model"):
        run("Bob is cold\nif X is not red then X is red\nBob is red?", "cwa")


def test_variables_only_in_the_head_range_over_all_names():
    assert run("Bob is cold\nif Bob is cold then X likes Y\nMia likes Bob?") == "True"


def test_reward_only_if_all_answers_are_right():
    task = {"answer": "True, Unknown"}
    assert Logic.compare(task, "True, Unknown") == ("correct", "True, Unknown")
    assert [Logic.compare(task, value)[0] for value in ("True, False", "True", "True, Unknown, True")] == ["wrong"] * 3


def test_guards():
    job = {"guards": True, "question": "1. Bob is cold.\n2. Whatever is cold and not red likes the cat.\n3. Bob is cold?\n"
                                       "4. The cat does not like Bob?"}
    right = ["Bob is cold", "if something is cold and not red then it likes the cat", "Bob is cold?", "cat does not like Bob?"]
    assert run("\n".join(right), **job) == "True, Unknown"
    assert run("Cold($x, True) && Red($x, False) >>> Likes($x, cat)\nCold(Bob)\nQuery:\nCold(Bob)\nLikes(cat, Bob, False)",
               **job) == "True, Unknown"  # another grammar, another order
    renamed = [line.replace("Bob", "Ann") for line in right]
    for wrong in (renamed, right[1:], [right[0], *right], [*right[:3]], [*right[:2], right[3], right[2]],
                  [right[0], "if something is cold then it likes the cat", *right[2:]],          # a condition dropped
                  [right[0], right[1].replace("not ", ""), *right[2:]],                          # a negation dropped
                  [right[0], right[0], *right[2:]],                                              # a fact for the rule
                  [*right[:3], "cat likes Bob?"], [*right[:2], "cat is cold?", right[3]]):       # other questions
        with pytest.raises(ValueError, match="guard"):
            run("\n".join(wrong), **job)


@pytest.mark.parametrize("semantics", ["owa", "cwa", "pronto"])
def test_guards_refuse_no_right_program(semantics):
    for size in sum(LEVELS.values(), []):
        draws = (theories.logic_task(random.Random(number), size, semantics, LOGIC_WORDS, logic.solve) for number in range(1_000))
        for made in itertools.islice(filter(None, draws), 10):
            assert run(made["program"], semantics, guards=True, question=made["question"]) == made["answer"]


# -------------------------------------------------------------------------------------- generator --

@pytest.mark.parametrize("semantics", ["owa", "cwa", "pronto"])
def test_answers_equal_an_independent_fixpoint(semantics):
    for task in make("--semantics", semantics, "--levels", "1-7", num=140):
        answers = task["answer"].split(", ")
        assert answers_of(task["question"], semantics, len(answers)) == answers, task["question"]


@pytest.mark.parametrize("semantics, values", [("owa", 3), ("cwa", 2), ("pronto", 2)])
def test_answers_are_balanced(semantics, values):
    counts = Counter(value for task in make("--semantics", semantics, num=120) for value in task["answer"].split(", "))
    assert len(counts) == values
    assert all(abs(count / sum(counts.values()) - 1 / values) < 0.06 for count in counts.values()), counts


@pytest.mark.parametrize("depth", range(6))
def test_depth_is_the_number_of_rules_in_the_longest_proof(depth):
    for task in make("--depth", str(depth), "--rules", str(depth + 1), "--facts", "3", "--levels", "4", num=20):
        lines, number = unnumbered(task["question"]), len(task["answer"].split(", "))
        rounds = fixpoint([sentence(line) for line in lines[:-number]])
        asked = [(sign, *clauses(line)[0][1:]) for line in lines[-number:] for sign in (True, False)]
        assert max(rounds.get(literal, 0) for literal in asked) == depth, task["question"]


def test_splits_share_no_question_and_seeds_repeat():
    questions = {split: {task["question"] for seed in (0, 1)
                         for task in make("--levels", "1-2", split=split, seed=seed)} for split in ("train", "test")}
    assert not questions["train"] & questions["test"]
    assert make() == make()
    same = [one["question"] == other["question"] for one, other in zip(make(), make(seed=1))]
    assert sum(same) < len(same) / 4
    assert make(num=8) == make(num=60)[:8]


def test_sizes_names_levels_and_guards_are_arguments():
    task = make("--facts", "2", "--rules", "3", "--depth", "1", "--questions-per-task", "1", "--guards", num=1)[0]
    assert task["size"] == [2, 3, 1, 1] and len(unnumbered(task["question"])) == 6
    assert task["guards"] and not make(num=1)[0]["guards"]
    assert [task["level"] for task in make("--levels", "2-3", num=3)] == [2, 3, 2]
    assert make("--levels", "3", num=1)[0]["group"] == "level 3"
    named = " ".join(task["question"] for task in make("--names", "Zoe,Yan,Xena", num=20))
    assert "Zoe" in named and "Bob" not in named
    for flags in (["--levels", "0-3"], ["--depth", "3", "--rules", "2"], ["--names", "Zoe,Yan"]):
        with pytest.raises(SystemExit, match="level|theory"):
            make(*flags)
    for names, wrong in (("O'Neil,Bo,Al", "O'Neil"), ("Mary Ann,Bo,Al", "Mary Ann"), ("X,Y,Z", "X"), ("Bo,Al,,Jo", ""),
                         ("The,Bo,Al", "The"), ("Bo,Al,Bo", "Bo"), ("Tiger,Bo,Al", "Tiger"), ("It,Bo,Al", "It")):
        with pytest.raises(SystemExit, match=f"--names: '{wrong}' is no name here|--names: \"{wrong}\" is"):
            make("--names", names)
    assert make("--names", "Zoë,Ōno,Li", "--guards", num=4)


@pytest.mark.parametrize("semantics", ["owa", "cwa", "pronto"])
def test_examples_are_right_and_name_nothing_that_tasks_name(semantics):
    words = {word for group in LOGIC_WORDS.values() for word in group[len(group) // 3:]}
    for task in make("--semantics", semantics, "--levels", "1-4", num=4):
        for example in Logic.examples(task):
            lines, number = unnumbered(example["question"]), example["program"].count("?")
            assert run(example["program"], semantics).split(", ") == answers_of(example["question"], semantics, number)
            assert len(example["program"].split("\n")) == len(lines) == len(example["draft"].split("\n")) + 1
            assert not words & set(re.findall(r"\w+", example["question"]))
    kept = {word for group in LOGIC_WORDS.values() for word in group[:len(group) // 3]}
    told = " ".join(task["question"] for task in make("--semantics", semantics, num=30))
    assert not kept & set(re.findall(r"\w+", told))


# -------------------------------------------------------------------------------------- importers --

CONTEXT = "Bob is cold. The bald eagle likes Bob. Cold things are red."
ROWS = {
    "proofwriter": ({"id": "AttNeg-OWA-D3-1", "theory": CONTEXT, "questions": {
        "Q1": {"question": "Bob is not red.", "answer": False},
        "Q2": {"question": "Bob is big.", "answer": "Unknown"}}},
        "owa", ["False", "Unknown"], "Bob is not red?"),
    "ruletaker": ({"id": "NegNatLang-1", "context": CONTEXT,
                   "questions": [{"id": "1", "text": "Bob is big.", "label": False}]},
                  "cwa", ["False"], "Bob is big?"),
    "prontoqa": ({"question": "Every wumpus is shy. Max is a wumpus.", "query": "True or false: Max is shy.",
                  "answer": "True"}, "pronto", ["True"], "Max is shy?"),
    "envisions-logic": ({"id": "ProofWriter_X-OWA-1", "context": CONTEXT, "answer": "A",
                         "options": ["A) True", "B) False", "C) Unknown"],
                         "question": "Based on the above information, is the following statement true, false, or "
                                     "unknown? Bob is red."}, "owa", ["True"], "Bob is red?"),
}


@pytest.mark.parametrize("format", ROWS)
def test_importers(format, tmp_path):
    row, semantics, answers, statement = ROWS[format]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    tasks = FORMATS[format](file)
    assert [task["answer"] for task in tasks] == answers
    assert tasks[0]["semantics"] == semantics and unnumbered(tasks[0]["question"])[-1] == statement
    assert len({task["id"] for task in tasks}) == len(tasks) and len(Logic.examples(tasks[0])) == 5
    file.write_text(json.dumps({"id": "x", "text": "no such row"}) + "\n")
    with pytest.raises(SystemExit, match="entry 1"):
        FORMATS[format](file)


def test_prontoqa_as_it_is_published(tmp_path):
    file = tmp_path / "1hop.json"
    file.write_text(json.dumps({"example1": {"test_example": ROWS["prontoqa"][0]}}, indent=2))
    assert [task["answer"] for task in FORMATS["prontoqa"](file)] == ["True"]


def test_published_programs_become_candidates(tmp_path):
    row = {**ROWS["envisions-logic"][0], "raw_logic_programs": [
        "Facts:\nCold(Bob, True)\nRules:\nCold($x, True) >>> Red($x, True)\nQuery:\nRed(Bob, True) ::: Bob is red.", "Red(Bob, True)?"]}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    candidate, other = FORMATS["logiclm-programs"](tmp_path / "rows.json")
    assert other == {**candidate, "candidate": 1, "program": "Red(Bob, True)?"}
    assert Logic.compare(candidate, Logic.run(candidate["program"], candidate))[0] == "correct"
    assert (candidate["candidate"], candidate["iteration"], candidate["source"]) == (0, 0, "explore")
    (task,) = FORMATS["logiclm"](tmp_path / "rows.json")
    assert "program" not in task


def test_command_line(tmp_path):
    command = [sys.executable, str(ROOT / "envs.py"), "make", "--env", "logic", "--num", "5",
               "--out", tmp_path / "tasks.jsonl"]
    done = subprocess.run([*command, "--semantics", "cwa", "--levels", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(envs.read_jsonl(tmp_path / "tasks.jsonl", require=("id", "env", "question", "answer", "level"))) == 5
    done = subprocess.run([*command, "--levels", "9"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--levels 9" in done.stderr
