"""Theories: random facts, rules and questions in English, for the logic environment.

May import records. Who asks for a theory gives the solver, `solve`, along: what
the answers are is not this file's business.
"""
from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable

from nanoenvisions.records import fail

# Words of the generated tasks. The first third of each list is for the few-shot examples alone:
# what an example names is then never what the task names, so nothing copied is right by luck.
LOGIC_WORDS = {key: words.split() for key, words in {
    "people": "Anne Carl Emma Frank Gina Hugo "
              "Bob Charlie Dave Erin Fiona Gary Harry Ivy Jack Kate Leo Mia",
    "animals": "goat duck frog hen "
               "bear cat cow dog lion mouse rabbit squirrel tiger",
    "adjectives": "old calm loud soft tiny warm fast neat dry fair wise poor slim "
                  "brave big blue cold furry green happy kind nice quiet red rough round sad "
                  "smart strong tall white young thin rich shy lazy polite proud",
    "verbs": "finds helps meets "
             "chases eats likes needs sees visits",
    "kinds": "rompus sterpus lempus grimpus shumpus "
             "brimpus dumpus gorpus impus jompus numpus tumpus vumpus wumpus yumpus zumpus",
}.items()}

# Level: its sizes (facts, rules, depth (rules in the longest proof), questions at most), which take
# turns. Each level adds one thing to the one before. Training starts at level 2: a base model
# writes 9 % of it right, with rules in all wordings, and one that was first trained on level 1,
# where there are no rules, copies their English word by word and never finds their form.
LEVELS = {1: [(1, 0, 0, 2)],
          2: [(1, 1, 1, 2)],
          3: [(2, 1, 1, 2), (2, 1, 1, 3)],
          4: [(3, 1, 1, 3), (3, 2, 2, 4)],
          5: [(4, 3, 3, 4)],
          6: [(5, 4, 4, 4)],
          7: [(6, 6, 5, 4)]}
LARGEST_EXAMPLE = LEVELS[4][1]  # larger ones would only make long prompts


def words_for(examples: bool) -> dict:
    """The words of the few-shot examples, or those of the tasks."""
    return {key: words[:len(words) // 3] if examples else words[len(words) // 3:]
            for key, words in LOGIC_WORDS.items()}


def people_of(names: str) -> list[str]:
    """--names: each a word of its own, which programs and guards can tell from all others."""
    people = [name.strip() for name in names.split(",")]
    known = {*"a an the it all each every everything something we x y z".split(),
             *(word.lower() for words in LOGIC_WORDS.values() for word in map(str, words))}
    for name in people:
        if not re.fullmatch(r"[^\W\d_]+", name) or name.lower() in known or people.count(name) > 1:
            fail(f"--names: {name!r} is no name here (single words of letters, each once, and none "
                 "that theories use)")
    return people


# ------------------------------------------------------------------------------------ English --
# A property is (verb, word, positive): ("is", "cold", True), ("likes", "tiger", False).

def phrase(verb: str, word: str, positive: bool) -> str:
    """"likes", "tiger", False -> does not like the tiger; "is a", "impus", True -> is an impus"""
    if not verb.startswith("is"):
        return f"{verb} the {word}" if positive else f"does not {verb[:-1]} the {word}"
    article = "" if verb == "is" else "an " if word[0] in "aeiou" else "a "
    return f"is {'' if positive else 'not '}{article}{word}"


def conditions(body: list) -> str:
    """[("is", "cold", True), ("is", "red", False)] -> "is cold and not red" """
    text = " and ".join(phrase(*part) for part in body)
    return text.replace(" and is ", " and ") if body[0][0] == "is" else text


def rule_in_english(rng, body: list, head: tuple) -> str:
    """One wording of several: "If something is cold then it is red.", "Cold things are red." ..."""
    if body[0][0] == "is a":
        return f"{rng.choice(['Every', 'Each'])} {body[0][1]} {phrase(*head)}."
    plain = {verb for verb, _, _ in [*body, head]} == {"is"} and all(part[2] for part in body)
    if plain and rng.random() < 0.5:
        things = ", ".join(word for _, word, _ in body) + f" things are {phrase(*head)[3:]}."
        return rng.choice([things.capitalize(), "All " + things])
    start, middle = rng.choice([("If something", " then it"), ("Everything that", ""),
                                ("Whatever", "")])
    return f"{start} {conditions(body)}{middle} {phrase(*head)}."


def numbered(lines) -> str:
    """["Bob is cold.", "Bob is red?"] -> "1. Bob is cold.\\n2. Bob is red?" """
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


# ----------------------------------------------------------------------------------- Theories --

def draw_theory(rng, size: tuple, semantics: str, words: dict) -> tuple:
    """(known, links, spare): facts [(subject, property)], rules [([property], property)], and the
    properties that can be asked about.

    The theory is built around one chain: a fact about the first subject, and rules from each
    property to the next. All other rules conclude properties that no other statement has: they
    shorten no proof and contradict nothing.
    """
    (facts, rules, depth, _), pronto = size, semantics == "pronto"
    things, closed = rng.sample(words["animals"], len(words["animals"])), semantics == "cwa"
    relations = facts > 1 and rng.random() < 0.3
    subjects = rng.sample(words["people"], 1 + min(facts, 5) // 2)
    if relations and not pronto:
        subjects = ["the " + things.pop() for _ in subjects]
    # properties, all different: the chain's, one for each fact and each rule, two spare ones
    adjectives = rng.sample(words["adjectives"], depth + facts + rules + 3)
    parts = [("is", word) for word in adjectives]
    if pronto:  # kinds lead to kinds, and aside to adjectives
        parts[:depth + 1] = [("is a", kind) for kind in rng.sample(words["kinds"], depth + 1)]
    elif relations:
        pairs = [(verb, thing) for verb in words["verbs"] for thing in things]
        rng.shuffle(pairs)
        parts = [pairs.pop() if pairs and rng.random() < 0.5 else part for part in parts]
    parts = [(*part, closed or part[0] == "is a" or rng.random() < 0.7) for part in parts]
    chain, rest = parts[:depth + 1], parts[depth + 1:]
    sides, fresh = rest[:facts], rest[facts:]

    known = [(subjects[0], chain[0])]
    for place in range(1, facts):
        # another subject often goes through the chain, too
        shared = place < len(subjects) and rng.random() < 0.8
        known.append((subjects[place % len(subjects)], chain[0] if shared else sides[place]))
    extra = [part for subject, part in known[1:] if subject == subjects[0]]
    links = []
    for place in range(rules):
        # a rule beside the chain starts where it makes no proof longer than depth
        aside = chain[:depth] + ([] if pronto else sides) if depth else fresh[-2:-1]
        body = [chain[place] if place < depth else rng.choice(aside)]
        if closed and rng.random() < 0.4:
            body.append((*fresh[-1][:2], False))  # negation as failure, of what nothing concludes
        elif extra and not pronto and rng.random() < 0.5:
            body += [part for part in [rng.choice(extra)] if part not in body]
        links.append((body, chain[place + 1] if place < depth else fresh[place - depth]))
    rng.shuffle(known), rng.shuffle(links)
    spare = [*chain[::-1], *(part for _, part in known), *fresh]  # the deepest ones first
    return subjects, known, links, spare


def choose_questions(rng, answers: list, values: list, count: int) -> list | None:
    """Places of `count` questions whose answers are as different as can be; None if there are none.

    answers   of all questions, in pairs of opposites, those about the end of the chain first
    """
    chosen = []
    for value in [value for _ in range(count) for value in rng.sample(values, len(values))][:count]:
        fitting = [place for place, answer in enumerate(answers) if answer == value
                   and place not in chosen and place ^ 1 not in chosen]  # place ^ 1: the opposite
        if not fitting:
            return None
        # one question is about the end of the chain
        deep = not any(answers[place] != "Unknown" for place in chosen)
        chosen.append(fitting[0] if deep else rng.choice(fitting[:3]))
    rng.shuffle(chosen)
    return chosen


def logic_task(rng, size: tuple, semantics: str, words: dict, solve: Callable) -> dict | None:
    """A random theory of size (facts, rules, depth, questions) with its questions and answers, and
    a program that is right; None if these draws do not fit.

    solve(program, semantics) -> [answer to each question]
    """
    subjects, known, links, spare = draw_theory(rng, size, semantics, words)
    told = [f"{subject} {phrase(*part)}" for subject, part in known]
    sentences = [("We know that " if rng.random() < 0.2 else "") + text + "." for text in told]
    sentences += [rule_in_english(rng, *link) for link in links]
    program = told + [f"if something {conditions(body)} then it {phrase(*head)}"
                      for body, head in links]
    # every question that could be asked, with its answer by the solver
    asked = [f"{subject} {phrase(*part, positive)}?" for part in dict.fromkeys(
        part[:2] for part in spare) for subject in subjects for positive in (True, False)]
    answers = solve("\n".join(program + asked), semantics)
    values = ["True", "False", "Unknown"] if semantics == "owa" else ["True", "False"]
    chosen = choose_questions(rng, answers, values, size[3])
    if chosen is None:
        return None
    asked, answers = [asked[place] for place in chosen], [answers[place] for place in chosen]
    question = numbered(text[0].upper() + text[1:] for text in sentences + asked)
    return {"context": sentences, "program": numbered(program + asked), "question": question,
            "answer": ", ".join(answers)}


def is_size(size) -> bool:
    """Whether it is (facts, rules, depth of proofs, questions), as many as theories are made of."""
    if not isinstance(size, (list, tuple)) or [*map(type, size)] != 4 * [int]:
        return False
    facts, rules, depth, questions = size
    return 1 <= facts <= 8 and 0 <= depth <= min(rules, 5) and rules <= 8 and 1 <= questions <= 8


@functools.cache  # every prompt of a size asks for the same ones, and making them takes the solver
def examples_of(size: tuple, semantics: str, solve: Callable) -> list[dict]:
    """Five theories of a size, made as the tasks are, in words that no task uses.

    They all have the task's own size: where examples differ in size, a base model loses its way.
    """
    size = tuple(map(min, size, LARGEST_EXAMPLE))
    rng, examples = random.Random(f"examples {size}"), []
    while len(examples) < 5:
        if made := logic_task(rng, size, semantics, words_for(examples=True), solve):
            lines = made["program"].split("\n")
            del lines[len(examples) % len(lines)]  # a draft has lost a line
            examples.append({"question": made["question"], "program": made["program"],
                             "draft": "\n".join(lines)})
    return examples
