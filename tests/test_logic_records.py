"""Logic: which tasks can be answered at all, and which programs are one solution."""
import pytest

from nanoenvisions.logic import Logic as Environment

Logic = Environment()


@pytest.mark.parametrize("task, words", [
    ({"semantics": "OWA"}, "it must be owa, cwa or pronto"), ({"semantics": None}, "owa, cwa or pronto"),
    ({"semantics": ["owa"]}, "owa, cwa or pronto"), ({"answer": "true"}, "owa knows True, False, Unknown"),
    ({"answer": "Unknown", "semantics": "cwa"}, "cwa knows True, False"), ({"answer": True}, "a number or a string"),
    *(({"size": size}, "it must be [facts, rules, depth, questions]")
      for size in ([1, 2], None, "abcd", 3, [1, 0, 0, 9], [1, 0, 1, 1], [1.0, 0, 0, 1], [True, 0, 0, 1])),
    ({"size": [3, 1, 1, 2]}, None), ({"size": (1, 0, 0, 1)}, None),
    ({"answer": "True, Unknown"}, None), ({"answer": "False, True", "semantics": "pronto"}, None)])
def test_a_task_that_nothing_can_answer_is_refused(task, words):
    fault = Logic.complaint({"question": "Bob is red?", "answer": "True", **task})
    assert (fault is None) if words is None else words in fault


def test_a_rule_is_one_whatever_its_variables_are_called_and_in_whatever_order_its_conditions_stand():
    facts, question = "Bob is cold\nBob is red\n", "\nBob is kind?"
    rules = ["if something is cold and red then it is kind", "if something is red and cold then it is kind",
             "if Y is cold and red then Y is kind", "red($x) && cold($x) >>> kind($x)"]
    assert len({Logic.canonical({"program": facts + rule + question}) for rule in rules}) == 1
    others = ["if something is kind and red then it is cold", "if something is cold and not red then it is kind",
              "likes($x, $y) && red($x) >>> kind($x)", "likes($x, $x) && red($x) >>> kind($x)",
              "likes($x, $y) && red($y) >>> kind($x)"]
    assert len({Logic.canonical({"program": facts + rule + question}) for rule in [rules[0], *others]}) == 6
    assert Logic.canonical({"program": facts + "likes($b, $a) && red($a) >>> kind($b)" + question}) \
        == Logic.canonical({"program": facts + "red($y) && likes($x, $y) >>> kind($x)" + question})
