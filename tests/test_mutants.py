"""The table of mutants.py is up to date: each fault can still be put in. That each is noticed is
what `python tests/mutants.py` shows, in some minutes."""
import ast
import functools
import re

import mutants
import pytest
from conftest import ROOT


@pytest.mark.parametrize("mutant", mutants.every_mutant(), ids=lambda one: f"{one[0]}: {one[2]}")
def test_a_fault_can_be_put_in(mutant):
    """Its text is found once, and its tests are there under a name that -k would find."""
    assert mutants.faulty(ROOT, mutant) != (ROOT / mutant[0]).read_text()
    for word in re.split(" or | and ", mutant[5]):
        assert any(word in name for name in names_of_tests(mutant[1])), word


@functools.cache
def names_of_tests(file):
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_there_are_enough_and_none_twice():
    every = mutants.every_mutant()
    assert len({mutant[::2] for mutant in every}) == len(every) >= 60
