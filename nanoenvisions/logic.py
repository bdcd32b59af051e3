r"""Logic: theories in English; the model restates them line by line, and clingo answers questions.

A program has a line for each fact, rule and question. Two grammars are read, also mixed; ::: or #
begins a comment:

    what the examples show                       Logic-LM (arXiv 2305.12295)
    Bob is not cold                              Cold(Bob, False)  !Cold(Bob)  Not(Cold(Bob))
    bear likes tiger                             Likes(bear, tiger, True)      Likes(bear, tiger)
    if something is cold then it is smart        Cold($x, True) >>> Smart($x, True)
    Bob is smart?                                Smart(Bob, True)              under Query:

The left one keeps the words of the English in their order, which a small model copies best; lines
may be numbered. Names are taken as they are written: Bears and bear are two things; only a, an and
the are dropped. A fact with a variable holds for all that the program names (not with guards).

May import environment, theories and records.
"""
from __future__ import annotations

import collections
import hashlib
import itertools
import random
import re

from nanoenvisions.environment import REQUIRED, Environment, parse_program
from nanoenvisions.records import fail
from nanoenvisions.theories import (LEVELS, examples_of, is_size, logic_task, numbered, people_of,
                                    words_for)

LONGEST_LINE = 500        # characters: a sentence; the patterns below take the square of it
LONGEST_PROGRAM = 10_000
MAX_GROUND = 100_000      # instances of one rule: constants ^ variables; more is an error, no wait


# -------------------------------------------------------------------------------- The grammar --

def read_literal(text: str, subject: str | None = None) -> tuple:
    """An atom or its negation, from a text without runs of blanks.

    "Bob is not cold" -> (False, "cold", "Bob"), "Likes($x, tiger)" -> (True, "Likes", "$x",
    "tiger"). What has no subject takes the one given: "likes tiger", "Bob" -> (True, "likes",
    "Bob", "tiger").
    """
    positive, rest = True, text.strip()
    while negated := re.fullmatch(r"(?:[!~¬]|not\b) ?(.+)|\((.+)\)", rest, re.IGNORECASE):
        positive ^= negated[1] is not None  # else only brackets
        rest = (negated[1] or negated[2]).strip()
    if call := re.fullmatch(r"([\w'-]+) ?\(([^()]*)\)", rest):
        parts = [call[1], *(part.strip() for part in call[2].split(","))]
        if parts[-1].lower() in ("true", "false"):
            positive ^= parts.pop().lower() == "false"
    else:
        words = [word for word in rest.split() if word.lower() not in ("a", "an", "the")]
        if subject and (len(words) < 3 or words[0] in ("is", "does")):
            words = [subject, *(["is"] if len(words) == 1 else []), *words]
        if words[1:3] == ["does", "not"] and len(words) == 5:
            positive, words = not positive, [words[0], words[3] + "s", words[4]]
        elif words[1:3] == ["is", "not"]:
            positive, words = not positive, [words[0], "is", *words[3:]]
        order = (2, 0) if words[1:2] == ["is"] else (1, 0, 2)  # predicate first
        parts = [words[place] for place in order] if len(words) == 3 else []
    if (len(parts) not in (2, 3) or is_variable(parts[0])
            or not all(re.fullmatch(r"\$\w+|\w[\w' -]*", part) for part in parts)):
        raise ValueError(f"{text.strip()[:80]!r} is not like 'Bob is cold' or 'Bob likes tiger' "
                         "nor like Cold(Bob, True)")
    return (positive, *parts)


def is_variable(name: str) -> bool:
    return name.startswith("$") or name in ("X", "Y", "Z")


def read_literals(text: str) -> list[tuple]:
    """The literals of a fact, or of one side of a rule: "X is red and kind" -> two about X."""
    literals = []
    for part in re.split(r"&&?|∧|\band\b", text) if text else []:
        literals.append(read_literal(part, literals[-1][2] if literals else None))
    return literals


def read_program(program: str) -> tuple[list, list]:
    r"""The statements, each (body, heads) and a fact one without a body, and the questions.

    "Bob is cold\nBob is red?" -> [([], [(True, "cold", "Bob")])], [(True, "red", "Bob")]
    """
    if len(program) > LONGEST_PROGRAM:
        raise ValueError(f"longer than {LONGEST_PROGRAM:,} characters")
    statements, questions, section = [], [], "facts"
    for number, line in enumerate(program.splitlines(), 1):
        text = " ".join(re.split(r":::|#", line)[0].split())
        if len(text) > LONGEST_LINE:
            raise ValueError(f"line {number}: longer than {LONGEST_LINE} characters")
        text = re.sub(r"^\d+[.)] ?", "", text)
        header = re.fullmatch(r"(predicate|fact|rule|quer|question)[a-z]* ?: ?(.*)", text,
                              re.IGNORECASE)
        if header:
            section, text = header[1].lower(), header[2]
        asks = section.startswith("que") or text[:1] == "?" or text[-1:] == "?"
        text = text.strip("?. ")
        if not text or section == "predicate":
            continue
        rule = (re.fullmatch(r"if (.+?),? then (.+)", text, re.IGNORECASE)
                or re.fullmatch(r"(.+?) ?(?:>>>|=>|->|→) ?(.+)", text))
        sides = [re.sub(r"(?i)\b(something|it)\b", "X", side) for side in rule.groups()] \
            if rule else ["", text]
        try:
            body, heads = map(read_literals, sides)
            if asks and (body or len(heads) > 1):
                raise ValueError("a question must be one statement, not a rule or several")
            if asks and any(map(is_variable, heads[0][2:])):
                raise ValueError("a question must name things; it has no variables")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        questions.extend(heads) if asks else statements.append((body, heads))
    if not questions:
        raise ValueError("no question (a program ends in lines such as 'Bob is cold?')")
    return statements, questions


# --------------------------------------------------------------------------------- The solver --

def consequences(statements: list, questions: list, semantics: str) -> set:
    """All that follows from the statements, by clingo: the set of (positive, predicate, *names).

    p and not-p are two atoms, t("p", ...) and f("p", ...), so a contradiction stays where it is
    (with clingo's own classical negation one contradiction leaves no model at all). Names travel
    as quoted strings.
    """
    import clingo
    literals = [*questions, *(literal for body, heads in statements for literal in body + heads)]
    names = sorted({name for literal in literals for name in literal[2:] if not is_variable(name)})

    def term(name):  # "$x" -> Vx, "Bob" -> "Bob" with its quotes
        return "V" + name.strip("$ ") if is_variable(name) else f'"{name}"'

    def atom(literal, naf=False):
        sign = "not t" if naf and not literal[0] else "t" if literal[0] else "f"
        return f'{sign}({", ".join([term(literal[1]), *map(term, literal[2:])])})'

    source = [f"c({term(name)})." for name in names]
    for body, heads in statements:
        variables = sorted({term(name) for literal in body + heads for name in literal[2:]
                            if is_variable(name)})
        if len(names) ** len(variables) > MAX_GROUND:
            raise ValueError(f"a rule with {len(variables)} variables over {len(names)} names is "
                             "too large to ground")
        # c(V) lets V range over all names, even where only the head or a negated condition of the
        # closed world holds it
        conditions = [atom(literal, naf=semantics == "cwa") for literal in body]
        conditions += [f"c({name})" for name in variables]
        source += [atom(head) + (" :- " + ", ".join(conditions) if conditions else "") + "."
                   for head in heads]
    control = clingo.Control(["--warn=none", "--models=2"])
    control.add("base", [], "\n".join(source))
    control.ground([("base", [])])
    with control.solve(yield_=True) as handle:
        models = [model.symbols(atoms=True) for model in handle]
    if len(models) != 1:  # only with negation as failure: a thing depends on its own negation
        raise ValueError(f"the rules have {'no' if not models else 'more than one'} model")
    return {(symbol.name == "t", *(argument.string for argument in symbol.arguments))
            for symbol in models[0] if symbol.name != "c"}


def answer_questions(statements: list, questions: list, semantics: str) -> list[str]:
    """owa: what neither follows nor is refuted is Unknown; cwa, pronto: it is False. Contradictions
    are errors."""
    known, answers = consequences(statements, questions, semantics), []
    for literal in questions:
        opposite = (not literal[0], *literal[1:])
        if literal in known and opposite in known:
            raise ValueError(f"contradiction: {literal[1:]} is both true and false")
        holds = literal in known if literal[0] or semantics != "cwa" else opposite not in known
        refuted = opposite in known or semantics != "owa"
        answers.append("True" if holds else "False" if refuted else "Unknown")
    return answers


def solve(program: str, semantics: str) -> list[str]:
    r"""solve("Bob is cold\nBob is cold?", "owa") -> ["True"]"""
    return answer_questions(*read_program(program), semantics)


# --------------------------------------------------------------------------------- The guards --
# Wrong programs can give right answers, and a model finds every way: other names for all things, an
# easier question, conditions left out or moved to the conclusion. So with guards each sentence has
# its line, of the same form, with the same words, in the order of the English, each in one spelling
# (to the solver Cold and cold are two). What follows is left to the solver. The English is that of
# theories.py: a later word with "the" or a capital is an object, so like(X, cat) is not cat(X).

RULE_WORDS = set("all each every everything if something things whatever".split())
FILLERS = RULE_WORDS | set("a an and are does is it know that the then we".split())


def words_of(text: str) -> tuple:
    """What a program must repeat.

    "1. Whatever is not cold likes the cat." -> ("not", "cold", "like", "the cat")
    """
    text = re.sub(r"(?i)^(\d+\. )?(we know that )?(the )?", "", text)
    text = re.sub(r"(\w)s? (?:the (?=\w)|(?=[A-Z]))", r"\1 the_", text)  # verb and object
    words = re.findall(r"\w+", text.lower())
    return tuple(word.replace("the_", "the ") for word in words if word not in FILLERS)


def plain(literal: tuple) -> tuple:
    """Names in small letters, a verb without s: (True, "Likes", "Bob", "cat") -> like bob cat"""
    predicate, *things = map(str.lower, literal[1:])
    return (predicate.removesuffix("s") if len(things) > 1 else predicate, *things)


def words_said(literals) -> tuple:
    """The words of literals, in the order of English; a variable has none.

    (False, "cold", "Bob") -> bob not cold; (True, "likes", "$x", "tiger") -> like, the tiger
    """
    said = []
    for literal in literals:
        predicate, subject, *things = plain(literal)
        said += [*([] if is_variable(literal[2]) else [subject]), *([] if literal[0] else ["not"]),
                 predicate, *(f"the {thing}" for thing in things)]
    return tuple(said)


def guard(statements: list, questions: list, english: str):
    """Refuse what does not say what the English says, whatever it answers."""
    spelling, lines = {}, english.split("\n")
    for literal in [*questions, *(one for body, heads in statements for one in body + heads)]:
        for word, name in zip(plain(literal), literal[1:]):
            if spelling.setdefault(word, name) != name and not is_variable(name):
                raise ValueError(f"guard: {spelling[word]!r} and {name!r} are two names")
    if [words_said([one]) for one in questions] != [words_of(line) for line in lines
                                                    if line.endswith("?")]:
        raise ValueError("guard: the questions are not those of the task, word for word")
    told = collections.Counter((bool(RULE_WORDS & set(re.findall(r"\w+", line.lower()))),
                                words_of(line)) for line in lines if not line.endswith("?"))
    for body, heads in statements:
        if fault := bad_form(body, heads):
            raise ValueError(f"guard: {fault}")
        # Conditions may stand in any order; bad_form sees to it that they are few.
        said = [(bool(body), words_said([*order, *heads]))
                for order in itertools.permutations(body)]
        match = next((one for one in said if told[one] > 0), None)
        if match is None:
            raise ValueError(f"guard: no (other) sentence says {' '.join(said[0][1])[:80]!r}")
        told[match] -= 1
    if missing := +told:
        raise ValueError(f"guard: nothing for the sentence {' '.join(next(iter(missing))[1])!r}")


def bad_form(body: list, heads: list) -> str | None:
    """Why a statement has not the form of a fact about a thing, or of a rule about everything."""
    literals = [*body, *heads]
    if len(heads) != 1 or len(literals) > 5:
        return "a statement has one conclusion and at most four conditions"
    subjects = {literal[2] for literal in literals}
    variables = {name for literal in literals for name in literal[2:] if is_variable(name)}
    if not body and variables:
        return "a fact names what it is about"
    if body and (len(subjects) != 1 or variables != subjects):
        return "a rule is about one thing, something, in all its conditions and its conclusion"
    return None


# ----------------------------------------------------------------------------- The environment --

class Logic(Environment):
    """Theories in English; a solution states their facts, rules and questions for clingo."""

    fence = "logic"
    instruction = "Write each fact, rule and question as one line of a logic program."
    job_fields = {"semantics": "owa", "guards": False, "question": REQUIRED}

    # ---- stage ----

    def add_arguments(self, parser):
        add = parser.add_argument
        add("--semantics", choices=["owa", "cwa", "pronto"], default="owa",
            help="owa: what does not follow is Unknown, as in ProofWriter; cwa: False, and `not` "
                 "means `cannot be shown`, as in RuleTaker; pronto: False, as in ProntoQA "
                 "(default: owa)")
        add("--levels", metavar="LOW-HIGH", help="sizes in equal shares, from 1 (one fact) to "
            f"{max(LEVELS)} (default: 2-4 to train, 3-4 to test)")
        add("--facts", type=int, help="number of facts, 1 to 8 (default: the level's)")
        add("--rules", type=int, help="number of rules, 0 to 8 (default: the level's)")
        add("--depth", type=int, help="rules in the longest proof, 0 to 5 (default: the level's)")
        add("--questions-per-task", type=int, metavar="N",
            help="questions about one context, all to be right (default: the level's, 1 to 4)")
        add("--names", help="people to tell of, separated by commas (default: 12 built-in ones)")
        add("--guards", action="store_true",
            help="also refuse programs that do not say what the sentences say, line by line, "
                 "whatever they answer: hardly any wrong program is rewarded then")

    def make(self, args) -> list[dict]:
        """args.num theories; the hash of a theory's sentences decides which split owns it."""
        args.levels = args.levels or {"train": "2-4", "test": "3-4"}[args.split]
        low, _, high = args.levels.partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high) <= max(LEVELS)):
            fail(f"--levels {args.levels}: not a range of levels from 1 to {max(LEVELS)} "
                 "(write 1-4, or 3)")
        given = args.facts, args.rules, args.depth, args.questions_per_task
        words = words_for(examples=False)
        words["people"] = people_of(args.names) if args.names else words["people"]
        levels, tasks, used = range(int(low), int(high) + 1), [], set()
        for number in range(args.num):
            level = levels[number % len(levels)]
            turn = number // len(levels) % len(LEVELS[level])
            facts, rules, depth, count = size = [
                usual if own is None else own for own, usual in zip(given, LEVELS[level][turn])]
            if not is_size(size) or len(words["people"]) < 3:
                fail(f"no theory of {facts} facts, {rules} rules, depth {depth}, {count} questions "
                     "(1-8 facts and questions, 0-8 rules, depth to 5 and to the rules, 3 --names)")
            rng = random.Random(f"logic {args.seed} {args.split} {number}")
            draws = (logic_task(rng, size, args.semantics, words, solve) for _ in range(5_000))
            made = next((draw for draw in draws if draw and draw["question"] not in used
                         and split_of(draw["context"]) == args.split), None)
            if made is None:
                fail(f"no further theory of {facts} facts, {rules} rules, depth {depth}, {count} "
                     f"questions after {number} tasks (ask for fewer, or a larger size)")
            used.add(made["question"])
            own = f"{facts} facts, {rules} rules, depth {depth}"
            group = own if any(part is not None for part in given[:3]) else f"level {level}"
            tasks.append({"id": f"logic/{args.semantics}/{args.split}/s{args.seed}/{number:04d}",
                          "env": "logic", "question": made["question"], "answer": made["answer"],
                          "level": level, "size": size, "semantics": args.semantics,
                          "group": group, "guards": args.guards})
        return tasks

    def examples(self, task) -> list[dict]:
        """Five theories of the task's size, made as the tasks are, in words that no task uses."""
        size = tuple(task.get("size", LEVELS[4][1]))
        return examples_of(size, task.get("semantics", "owa"), solve)

    def asked(self, text) -> dict:
        """Sentences, as the tasks number them, the questions last."""
        text = re.sub(r"(^|\s)\d+\.\s+", r"\1", text)
        lines = [line.strip() for line in re.split(r"(?<=[.?!])\s+|\n", text) if line.strip()]
        lines.sort(key=lambda line: line.endswith("?"))
        if not lines or not lines[-1].endswith("?"):
            fail("--ask: no question in it (end a sentence with a question mark: Bob is red?)")
        return {"question": numbered(lines)}

    def complaint(self, task: dict) -> str | None:
        semantics = task.get("semantics", "owa")
        known = ["True", "False", "Unknown"][:3 if semantics == "owa" else 2]
        if semantics not in ("owa", "cwa", "pronto"):
            return f'"semantics" is {semantics!r:.60} (it must be owa, cwa or pronto)'
        if not {*str(task["answer"]).split(", ")} <= {*known}:
            return f'"answer" is {task["answer"]!r:.60} ({semantics} knows {", ".join(known)})'
        if not is_size(task.get("size", LEVELS[4][1])):
            return f'"size" is {task["size"]!r:.60} (it must be [facts, rules, depth, questions])'
        return super().complaint(task)

    def tidy(self, record: dict) -> str:
        """Without a line that has been said before, to the letter, if it says nothing new."""
        once = "\n".join(dict.fromkeys(parse_program(record["program"]).split("\n")))
        whole = parse_program(record["program"])
        return once if meaning(once) == meaning(whole) else whole

    def canonical(self, record: dict) -> str:
        """The parsed program, in whatever grammar: statements sorted, then the questions."""
        return meaning(parse_program(record["program"]))

    # ---- child ----

    def modules(self, program: str) -> tuple:
        return ("clingo",)

    def run(self, program: str, job: dict) -> str:
        statements, questions = read_program(program)
        if job.get("guards"):
            guard(statements, questions, job["question"])
        return ", ".join(answer_questions(statements, questions, job.get("semantics", "owa")))


def split_of(context: list[str]) -> str:
    """The split that owns these sentences, in whatever order."""
    digest = hashlib.sha256(" ".join(sorted(context)).encode()).digest()
    return ("train", "test")[digest[0] % 2]


def meaning(program: str) -> str:
    """What a program says, in one form; one that cannot be read says its words."""
    try:
        statements, questions = read_program(program)
    except ValueError:
        return " ".join(program.split())
    return "\n".join([*sorted({in_one_form(*one) for one in statements}), *map(repr, questions)])


def in_one_form(body: list, heads: list) -> str:
    """A statement, whatever its variables are called and in whatever order conditions stand."""
    names = {}

    def renamed(literal, called=names.setdefault):
        return *literal[:2], *(called(name.strip("$ "), f"${len(names)}") if is_variable(name)
                               else name for name in literal[2:])
    body = sorted(body, key=lambda literal: renamed(literal, lambda *_: "$"))
    return repr((sorted(map(renamed, body)), list(map(renamed, heads))))
