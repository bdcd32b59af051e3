"""Logic: what the guards must not let by, what train and test share, texts that take long to read."""
import json
import random
import re

import pytest
from conftest import in_time
from test_logic import Logic, make, unnumbered

import reward
from nanoenvisions import logic, theories

ENGLISH = ("1. Bob is cold.\n2. The cat likes the dog.\n"
           "3. If something is cold and not red then it is smart.\n"
           "4. Kind, tall things are brave.\n5. Bob is smart?\n6. The dog likes the cat?")
SAID = """Bob is cold
cat likes dog
if something is cold and not red then it is smart
if something is kind and tall then it is brave
Bob is smart?
dog likes cat?"""


@pytest.mark.parametrize("old, new, reason", [
    ("if something is cold and not red then it is smart",
     "if something is cold then it is not red and smart", "one conclusion"),
    ("if something is cold and not red then it is smart", "X is cold and not red and smart", "one conclusion"),
    ("if something is kind and tall then it is brave", "Kind(tall, True) >>> Brave($x, True)", "about one thing"),
    ("if something is kind and tall then it is brave", "if X is kind and Y is tall then X is brave", "about one thing"),
    ("if something is kind and tall then it is brave", "if Bob is kind and tall then Bob is brave", "about one thing"),
    ("if something is kind and tall then it is brave", "if X is kind and tall and tall then X is brave", "no (other)"),
    ("if something is kind and tall then it is brave", "if something is brave then it is kind and tall", "one conclusion"),
    ("if something is kind and tall then it is brave", "if something is kind and brave then it is tall", "no (other)"),
    ("if something is kind and tall then it is brave", "Brave(kind tall)", "no (other)"),
    ("cold and not red", "not cold and red", "no (other)"),
    ("Bob is cold", "X is cold", "names what it is about"), ("Bob is cold", "Bob1 is cold", "no (other)"),
    ("Bob is cold", "cold is Bob", "no (other)"), ("Bob is cold", "Bob is not cold", "no (other)"),
    ("Bob is cold", "Βob is cold", "no (other)"),  # a Greek letter
    # one name in two spellings is two names to the solver
    ("Bob is cold", "Bob is Cold", "two names"), ("Bob is cold", "bob is cold", "two names"),
    ("Bob is cold", "Bob is cold'", "no (other)"), ("Bob is cold", "Bob is colds", "no (other)"),
    ("Bob is cold", "cold-is(Bob)", "no (other)"), ("Bob is cold", "cold(Bob the)", "no (other)"),
    ("Bob is cold", "Is(Bob, cold)", "no (other)"), ("Bob is smart?", "Bob is smarts?", "questions"),
    ("cat likes dog", "Likes(cat, dog)", "two names"), ("cat likes dog", "likes-dog(cat)", "no (other)"),
    ("cat likes dog", "cat likes dogs", "no (other)"),
    # the right words, but the object is a property or the other way round
    ("if something is kind and tall then it is brave", "Kind($x, tall) >>> Brave($x)", "no (other)"),
    ("cat likes dog", "dog likes cat", "no (other)"), ("cat likes dog", "cat likes dog\ncat likes dog", "no (other)"),
    ("cat likes dog\n", "", "nothing for the sentence"), ("cat likes dog\n", "Bob is cold\n", "no (other)"),
    ("Bob is smart?\ndog likes cat?", "dog likes cat?\nBob is smart?", "questions"),
    ("Bob is smart?", "Bob is smart?\nBob is smart?", "questions"), ("Bob is smart?\n", "", "questions"),
    ("dog likes cat?", "cat likes dog?", "questions"), ("Bob is smart?", "Bob is not smart?", "questions"),
])
def test_the_guards_by_hand(old, new, reason):
    """Each of these says something else than the English; with the right lines there is no complaint."""
    job = {"semantics": "owa", "guards": True, "question": ENGLISH}
    assert Logic.run(SAID, job) == "Unknown, Unknown"
    assert old in SAID
    with pytest.raises(ValueError, match=f"^guard: .*{re.escape(reason)}"):
        Logic.run(SAID.replace(old, new, 1), job)


def test_a_verb_and_its_object_are_no_two_properties():
    """Words in the right order are not enough where an object could be taken for a property."""
    job = {"semantics": "owa", "guards": True,
           "question": "1. Mia is cold.\n2. If something is cold then it eats the tiger.\n3. Mia is cold?"}
    assert Logic.run("Mia is cold\nCold($x) >>> Eats($x, tiger)\nMia is cold?".lower().replace("mia", "Mia"), job)
    for wrong in ("cold($x) && eats($x) >>> tiger($x)", "cold($x, eats) >>> tiger($x)",
                  "cold($x) >>> eats-tiger($x)", "cold($x) >>> tiger($x, eats)"):
        with pytest.raises(ValueError, match="^guard: no .other."):
            Logic.run(f"Mia is cold\n{wrong}\nMia is cold?", job)


def test_conditions_may_stand_in_any_order():
    job = {"semantics": "owa", "guards": True, "question": ENGLISH}
    assert Logic.run(SAID.replace("kind and tall", "tall and kind"), job)


def test_digits_are_words():
    """Calling everything cold7 throughout answers every question right."""
    task = make("--guards", "--levels", "4", num=1)[0]
    lines = [line for line in task["question"].split("\n")]
    assert logic.words_of("1. Bob is cold7.") == ("bob", "cold7") != logic.words_of("1. Bob is cold.")
    assert lines and logic.words_of(lines[0])[0] != "1"


def test_train_and_test_share_no_theory():
    """Not even one whose sentences stand in another order, or with other questions."""
    told = {split: {frozenset(line for line in unnumbered(task["question"]) if not line.endswith("?"))
                    for task in make("--levels", "2-3", num=150, split=split, seed=seed)}
            for split, seed in (("train", 0), ("test", 1))}
    assert told["train"] and told["test"] and not told["train"] & told["test"]
    # there are so few theories of one fact that chance would not keep them apart
    small = {split: {unnumbered(task["question"])[0] for task in make("--levels", "1", num=150, split=split)}
             for split in ("train", "test")}
    assert not small["train"] & small["test"]
    for one in map(sorted, told["train"]):
        assert logic.split_of(one) == logic.split_of(one[::-1])


@pytest.mark.parametrize("text", ["if" + " " * 20_000 + "x", "if " + "x " * 10_000, "(" * 20_000, "not " * 5_000,
                                  "~" * 20_000, "a" * 20_000, "->" * 10_000, "- " * 10_000, "if a then " * 2_000,
                                  "\n" * 20_000, "1." * 10_000, "a(" * 10_000, "a and " * 3_300, "#" * 20_000,
                                  "facts:" * 3_000, "\u2192" * 20_000, "if X" + "," * 20_000 + "then"],
                         ids=lambda text: text[:8].strip() or "blank")
def test_no_text_takes_long_to_read(text):
    """select.py reads programs outside the sandbox: 20,000 hostile characters, well under a second."""
    for program in (text, text + "\nBob is cold?", "\n".join([text[:499]] * 40)):
        in_time(lambda: (Logic.canonical({"program": program}), logic.words_of(program)), 1)


def test_records_without_the_optional_fields_run(tmp_path):
    assert Logic.run("Bob is cold\nBob is red?", {"question": "?"}) == "Unknown"
    task = {"id": "t", "env": "logic", "question": "?", "answer": "Unknown",
            "program": "Bob is cold\nBob is red?"}
    (tmp_path / "in").write_text(json.dumps(task))
    reward.main(["--in", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out").read_text())["outcome"] == "correct"


def test_a_rule_has_four_conditions_at_most():
    """All their orders are compared with the English, and of nine there are 362,880."""
    words = "cold red kind tall brave big blue quiet rough".split()
    for number, refused in ((4, False), (5, True), (9, True)):
        rule = f"if something is {' and '.join(words[:number])} then it is smart"
        job = {"guards": True, "question": f"1. {rule.capitalize()}.\n2. Bob is smart?"}
        if refused:
            with pytest.raises(ValueError, match="at most four conditions"):
                Logic.run(f"{rule}\nBob is smart?", job)
        else:
            assert Logic.run(f"{rule}\nBob is smart?", job) == "Unknown"
    assert Logic.complaint({"question": "?", "answer": "True"}) is None


def test_rules_with_two_models_are_an_error_and_no_guess():
    """Each of the two holds if the other does not: whatever is answered would be chance."""
    program = ("Bob is tall\nif something is not cold then it is red\n"
               "if something is not red then it is cold\nBob is red?")
    with pytest.raises(ValueError, match="more than one model"):
        logic.solve(program, "cwa")


def test_no_question_is_the_opposite_of_another():
    for task in make("--levels", "4", "--questions-per-task", "4"):
        asked = [line.split(". ", 1)[1] for line in task["question"].split("\n") if line[-1] == "?"]
        plain = [line.replace(" is not ", " is ").replace("does not ", "") for line in asked]
        plain = [re.sub(r"(?<=\w)s(?= the )", "", line) for line in plain]  # likes, does not like
        assert len(set(plain)) == len(asked) == 4, asked


def test_the_question_about_the_longest_proof_stands_anywhere():
    places = set()
    for seed in range(40):
        chosen = theories.choose_questions(random.Random(seed), ["True", "False"] * 6,
                                           ["True", "False"], 4)
        places.add(min(range(4), key=lambda place: chosen[place]))  # 0 and 1 are about its end
    assert places == {0, 1, 2, 3}
