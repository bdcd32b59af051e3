"""Logic: theories in English; the model restates them line by line and clingo answers questions.

May import environment and records.
"""
from __future__ import annotations

import collections
import functools
import hashlib
import random
import re

from nanoenvisions.environment import REQUIRED, Environment
from nanoenvisions.records import fail

# A program has a line for each fact, rule and question. Two grammars are read, also mixed; ::: or # begins a comment:
#     what the examples show                       Logic-LM (arXiv 2305.12295), with headers Facts:, Rules:, Query:
#     Bob is not cold                              Cold(Bob, False)            !Cold(Bob)  Not(Cold(Bob))  ~Cold(Bob)
#     bear likes tiger                             Likes(bear, tiger, True)    Likes(bear, tiger)
#     if something is cold then it is smart        Cold($x, True) >>> Smart($x, True)      if X is cold then X is smart
#     Bob is smart?                                Smart(Bob, True)            under Query:
# The left one keeps the words of the English in their order, which a small model copies best, and lines may be
# numbered, as those of the generated tasks are: few-shot, the embedded model got one fact and two questions right in
# 15 of 48 samples with numbers, in 4 without (it forgot lines), and one of each in Logic-LM's or Prolog's in 1 of 16.
# Names are taken as they are written: Bears and bear are two things. Only the articles (a, an, the) are dropped.
# A fact with a variable holds for everything that the program names.

def read_literal(text: str, subject: str | None = None) -> tuple:
    """An atom or its negation: "Bob is not cold" -> (False, "cold", "Bob"), "Likes($x, tiger)" -> (True, "Likes", "$x",
    "tiger"). What has no subject takes the one given: "likes tiger", "Bob" -> (True, "likes", "Bob", "tiger").
    """
    positive, rest = True, text.strip()
    while negated := re.fullmatch(r"(?:[!~¬]|not\b)\s*(.+)|\((.+)\)", rest, re.IGNORECASE):
        positive ^= negated[1] is not None  # else only brackets
        rest = (negated[1] or negated[2]).strip()
    if call := re.fullmatch(r"([\w'-]+)\s*\(([^()]*)\)", rest):
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
        parts = [] if len(words) != 3 else [words[2], words[0]] if words[1] == "is" else [words[1], words[0], words[2]]
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"\$\w+|\w[\w' -]*", part) for part in parts):
        raise ValueError(f"{text.strip()!r} is not like 'Bob is cold' or 'Bob likes tiger' nor like Cold(Bob, True)")
    return (positive, *parts)


def is_variable(name: str) -> bool:
    return name.startswith("$") or name in ("X", "Y", "Z")


def read_program(program: str) -> tuple[list, list]:
    """The statements, each (body, heads) and a fact one without a body, and the questions of a program.

    "Bob is cold\nBob is red?" -> [([], [(True, "cold", "Bob")])], [(True, "red", "Bob")]
    """
    statements, questions, section = [], [], "facts"
    for number, line in enumerate(program.splitlines(), 1):
        text = re.sub(r"^\d+[.)]\s*", "", re.split(r":::|#", line)[0].strip())
        header = re.fullmatch(r"(predicate|fact|rule|quer|question)[a-z]*\s*:\s*(.*)", text, re.IGNORECASE)
        if header:
            section, text = header[1].lower(), header[2]
        asks = section.startswith("que") or text[:1] == "?" or text[-1:] == "?"
        text = text.strip("?. ")
        if not text or section == "predicate":
            continue
        rule = (re.fullmatch(r"if\s+(.+?),?\s+then\s+(.+)", text, re.IGNORECASE)
                or re.fullmatch(r"(.+?)\s*(?:>>>|=>|->|→)\s*(.+)", text))
        try:
            texts = [re.sub(r"(?i)\b(something|it)\b", "X", side) for side in rule.groups()] if rule else ["", text]
            sides = []
            for side in texts:
                literals = []
                for part in re.split(r"&&?|∧|\band\b", side) if side else []:
                    literals.append(read_literal(part, literals[-1][2] if literals else None))
                sides.append(literals)
            body, heads = sides
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


MAX_GROUND = 100_000  # instances of one rule: constants ^ variables; more is an error, not a wait for the timeout


def consequences(statements: list, questions: list, semantics: str) -> set:
    """All that follows from the statements, by clingo: the set of (positive, predicate, *names).

    p and not-p are two atoms, t("p", ...) and f("p", ...), so a contradiction stays where it is and nothing explodes
    (with clingo's own classical negation one contradiction leaves no model at all). Names travel as quoted strings.
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
        variables = sorted({term(name) for literal in body + heads for name in literal[2:] if is_variable(name)})
        if len(names) ** len(variables) > MAX_GROUND:
            raise ValueError(f"a rule with {len(variables)} variables over {len(names)} names is too large to ground")
        # c(V) lets V range over all names even where only the head or a negated condition (closed world) holds it
        conditions = [atom(literal, naf=semantics == "cwa") for literal in body] + [f"c({name})" for name in variables]
        source += [atom(head) + (" :- " + ", ".join(conditions) if conditions else "") + "." for head in heads]
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
    """owa: what neither follows nor is refuted is Unknown; cwa, pronto: it is False. Contradictions are errors."""
    known, answers = consequences(statements, questions, semantics), []
    for literal in questions:
        opposite = (not literal[0], *literal[1:])
        if literal in known and opposite in known:
            raise ValueError(f"contradiction: {literal[1:]} is both true and false")
        holds = literal in known if literal[0] or semantics != "cwa" else opposite not in known
        answers.append("True" if holds else "False" if opposite in known or semantics != "owa" else "Unknown")
    return answers


# Words of the generated tasks. The first third of each list is for the few-shot examples alone: what an example names
# is then never what the task names, so that nothing copied from an example is right by luck.
LOGIC_WORDS = {key: words.split() for key, words in {
    "people": "Anne Carl Emma Frank Gina Hugo Bob Charlie Dave Erin Fiona Gary Harry Ivy Jack Kate Leo Mia",
    "animals": "goat duck frog hen bear cat cow dog lion mouse rabbit squirrel tiger",
    "adjectives": "old calm loud soft tiny warm fast neat dry fair wise poor slim brave big blue cold furry "
                  "green happy kind nice quiet red rough round sad smart strong tall white young thin rich "
                  "shy lazy polite proud",
    "verbs": "finds helps meets chases eats likes needs sees visits",
    "kinds": "rompus sterpus lempus grimpus shumpus brimpus dumpus gorpus impus jompus numpus tumpus vumpus wumpus "
             "yumpus zumpus"}.items()}
# level: its sizes (facts, rules, depth (rules in the longest proof), questions at most), which take turns. Each level
# adds one thing to the one before; a base model loses its way where the examples differ in size, so the first have one.
# Training starts at level 2: a base model writes 9 % of it right, with rules in all wordings, and one that was first
# trained on level 1, where there are no rules, copies their English word by word and never finds their form.
LEVELS = {1: [(1, 0, 0, 2)], 2: [(1, 1, 1, 2)], 3: [(2, 1, 1, 2), (2, 1, 1, 3)], 4: [(3, 1, 1, 3), (3, 2, 2, 4)],
          5: [(4, 3, 3, 4)], 6: [(5, 4, 4, 4)], 7: [(6, 6, 5, 4)]}


def phrase(verb: str, word: str, positive: bool) -> str:
    """"likes", "tiger", False -> "does not like the tiger"; "is a", "impus", True -> "is an impus" """
    if not verb.startswith("is"):
        return f"{verb} the {word}" if positive else f"does not {verb[:-1]} the {word}"
    article = "" if verb == "is" else "an " if word[0] in "aeiou" else "a "
    return f"is {'' if positive else 'not '}{article}{word}"


def rule_in_english(rng, body: list, head: tuple) -> str:
    """One wording of several: "If something is cold then it is red.", "Cold things are red.", "Whatever is ..."."""
    if body[0][0] == "is a":
        return f"{rng.choice(['Every', 'Each'])} {body[0][1]} {phrase(*head)}."
    if {verb for verb, _, _ in [*body, head]} == {"is"} and all(part[2] for part in body) and rng.random() < 0.5:
        things = ", ".join(word for _, word, _ in body) + f" things are {phrase(*head)[3:]}."
        return rng.choice([things.capitalize(), "All " + things])
    start, middle = rng.choice([("If something", " then it"), ("Everything that", ""), ("Whatever", "")])
    return f"{start} {conditions(body)}{middle} {phrase(*head)}."


def conditions(body: list) -> str:
    """[("is", "cold", True), ("is", "red", False)] -> "is cold and not red" """
    text = " and ".join(phrase(*part) for part in body)
    return text.replace(" and is ", " and ") if body[0][0] == "is" else text


def numbered(lines) -> str:
    """["Bob is cold.", "Bob is red?"] -> "1. Bob is cold.\n2. Bob is red?" """
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def logic_task(rng, size: tuple, semantics: str, words: dict) -> dict | None:
    """A random theory of size (facts, rules, depth, questions) with its questions; None if these draws do not fit.

    The theory is built around one chain: a fact about the first subject, and rules from each property to the next. All
    other rules conclude properties that no other statement has: they shorten no proof and contradict nothing.
    """
    (facts, rules, depth, count), things = size, rng.sample(words["animals"], len(words["animals"]))
    pronto, closed, relations = semantics == "pronto", semantics == "cwa", facts > 1 and rng.random() < 0.3
    subjects = rng.sample(words["people"], 1 + min(facts, 5) // 2)
    if relations and not pronto:
        subjects = ["the " + things.pop() for _ in subjects]
    # properties (verb, word, positive), all different: the chain's, one for each fact and each rule, two spare ones
    pool = [("is", word) for word in rng.sample(words["adjectives"], depth + facts + rules + 3)]
    if pronto:  # kinds lead to kinds, and aside to adjectives
        pool[:depth + 1] = [("is a", kind) for kind in rng.sample(words["kinds"], depth + 1)]
    elif relations:
        pairs = [(verb, thing) for verb in words["verbs"] for thing in things]
        rng.shuffle(pairs)
        pool = [pairs.pop() if pairs and rng.random() < 0.5 else part for part in pool]
    pool = [(*part, closed or part[0] == "is a" or rng.random() < 0.7) for part in pool]
    chain, sides, fresh = pool[:depth + 1], pool[depth + 1:depth + 1 + facts], pool[depth + 1 + facts:]
    known = [(subjects[0], chain[0])]
    for place in range(1, facts):
        shared = place < len(subjects) and rng.random() < 0.8  # another subject goes through the chain, too
        known.append((subjects[place % len(subjects)], chain[0] if shared else sides[place]))
    extra = [part for subject, part in known[1:] if subject == subjects[0]]
    links = []
    for place in range(rules):
        aside = chain[:depth] + ([] if pronto else sides) if depth else fresh[-2:-1]  # in no proof longer than depth
        body = [chain[place] if place < depth else rng.choice(aside)]
        if closed and rng.random() < 0.4:
            body.append((*fresh[-1][:2], False))  # negation as failure, of what nothing concludes
        elif extra and not pronto and rng.random() < 0.5:
            body += [part for part in [rng.choice(extra)] if part not in body]
        links.append((body, chain[place + 1] if place < depth else fresh[place - depth]))
    rng.shuffle(known), rng.shuffle(links)
    told = [f"{subject} {phrase(*part)}" for subject, part in known]
    sentences = [("We know that " if rng.random() < 0.2 else "") + text + "." for text in told]
    sentences += [rule_in_english(rng, *link) for link in links]
    program = told + [f"if something {conditions(body)} then it {phrase(*head)}" for body, head in links]
    # every question that could be asked, with its answer by the solver, the deepest ones first
    parts = dict.fromkeys(part[:2] for part in [*chain[::-1], *(part for _, part in known), *fresh])
    asked = [f"{subject} {phrase(*part, positive)}?"
             for part in parts for subject in subjects for positive in (True, False)]
    answers = answer_questions(*read_program("\n".join(program + asked)), semantics)
    values = ["True", "False", "Unknown"] if semantics == "owa" else ["True", "False"]
    chosen = []
    for value in [value for _ in range(count) for value in rng.sample(values, len(values))][:count]:
        fitting = [place for place in range(len(asked)) if answers[place] == value and place not in chosen
                   and place ^ 1 not in chosen]  # place ^ 1 asks the opposite
        if not fitting:
            return None
        deep = not any(answers[place] != "Unknown" for place in chosen)  # ask once about the end of the chain
        chosen.append(fitting[0] if deep else rng.choice(fitting[:3]))
    rng.shuffle(chosen)
    asked, answers = [asked[place] for place in chosen], [answers[place] for place in chosen]
    question = numbered(text[0].upper() + text[1:] for text in sentences + asked)
    return {"context": sentences, "program": numbered(program + asked), "question": question,
            "answer": ", ".join(answers)}


# Words of the English that a program need not repeat
FILLERS = set("a all an and are does each every everything if is it know something that the then things we "
              "whatever".split())


def words_of(text: str) -> str:
    """What a program must repeat of a sentence: "1. Whatever is not cold likes the cat." -> "cat cold like not" """
    return " ".join(sorted(word.rstrip("s") for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in FILLERS))


@functools.cache  # every prompt of a size asks for the same ones, and making them takes the solver
def examples_of(size: tuple, semantics: str) -> list[dict]:
    words = {key: values[:len(values) // 3] for key, values in LOGIC_WORDS.items()}
    rng, examples = random.Random(f"examples {size}"), []
    while len(examples) < 5:
        if made := logic_task(rng, size, semantics, words):
            lines = made["program"].split("\n")
            del lines[len(examples) % len(lines)]  # the draft has lost one: the first, the second ...
            examples.append({"question": made["question"], "program": made["program"], "draft": "\n".join(lines)})
    return examples


def guard(statements: list, questions: list, english: str):
    """Refuse what cannot be right, whatever it answers: each sentence must have its line, with the same words.

    Where they stand in the line is left to the solver. Without this a model soon learns to call all things by other
    names, always the same ones, to ask an easier question, and to leave out conditions: the answers stay the same.
    """
    def repeated(literals):
        names = [name for literal in literals for name in ("" if literal[0] else "not", *literal[1:])]
        return words_of(" ".join(name for name in names if not is_variable(name)))

    lines = english.split("\n")
    if [repeated([one]) for one in questions] != [words_of(line) for line in lines if line.endswith("?")]:
        raise ValueError("guard: the questions are not those of the task, word for word")
    told = collections.Counter(words_of(line) for line in lines if not line.endswith("?"))
    stated = collections.Counter(repeated(body + heads) for body, heads in statements)
    if foreign := stated - told:
        raise ValueError(f"guard: no (other) sentence of the task says {next(iter(foreign))!r}")
    if missing := told - stated:
        raise ValueError(f"guard: nothing for the sentence that says {next(iter(missing))!r}")


class Logic(Environment):
    """Theories in English; a solution states their facts, rules and questions, and clingo answers the questions."""

    # tasks
    fence = "logic"
    instruction = "Write each fact, rule and question as one line of a logic program."
    job_fields = {"semantics": "owa", "guards": False, "question": REQUIRED}

    def add_arguments(self, parser):
        parser.add_argument("--semantics", choices=["owa", "cwa", "pronto"], default="owa",
                            help="owa: what does not follow is Unknown, as in ProofWriter; cwa: False, and `not` means "
                                 "`cannot be shown`, as in RuleTaker; pronto: False, as in ProntoQA (default: owa)")
        parser.add_argument("--levels", metavar="LOW-HIGH", help=f"sizes in equal shares, from 1 (one fact) to "
                            f"{max(LEVELS)} (default: 2-4 to train, 3-4 to test)")
        parser.add_argument("--facts", type=int, help="number of facts, 1 to 8 (default: the level's)")
        parser.add_argument("--rules", type=int, help="number of rules, 0 to 8 (default: the level's)")
        parser.add_argument("--depth", type=int, help="rules in the longest proof, 0 to 5 (default: the level's)")
        parser.add_argument("--questions-per-task", type=int, metavar="N",
                            help="questions about one context, all to be right (default: the level's, 1 to 4)")
        parser.add_argument("--names", help="people to tell of, separated by commas (default: 11 built-in ones)")
        parser.add_argument("--guards", action="store_true",
                            help="also refuse programs whose lines do not have the words of the task's sentences, one "
                                 "line for each, whatever they answer: far fewer wrong programs are rewarded")

    def make(self, args) -> list[dict]:
        """args.num theories, the same for the same seed and split. A context's hash decides which split owns it."""
        args.levels = args.levels or {"train": "2-4", "test": "3-4"}[args.split]
        low, _, high = args.levels.partition("-")
        if not (low.isdigit() and (high or low).isdigit() and 1 <= int(low) <= int(high or low) <= max(LEVELS)):
            fail(f"--levels {args.levels}: not a range of levels from 1 to {max(LEVELS)} (write 1-4, or 3)")
        given = (args.facts, args.rules, args.depth, args.questions_per_task)
        words = {key: values[len(values) // 3:] for key, values in LOGIC_WORDS.items()}
        words["people"] = args.names.split(",") if args.names else words["people"]
        levels, tasks, used = range(int(low), int(high or low) + 1), [], set()
        for number in range(args.num):
            level = levels[number % len(levels)]
            turn = number // len(levels) % len(LEVELS[level])
            size = [usual if own is None else own for own, usual in zip(given, LEVELS[level][turn])]
            facts, rules, depth, count = size
            if not (1 <= facts <= 8 and 0 <= depth <= min(rules, 5) and rules <= 8 and 1 <= count <= 8
                    and len(words["people"]) >= 3):
                fail(f"no theory of {facts} facts, {rules} rules, depth {depth}, {count} questions (1 to 8 facts and "
                     f"questions, up to 8 rules, depth up to 5 and to the rules, three --names or more)")
            rng = random.Random(f"logic {args.seed} {args.split} {number}")
            draws = (logic_task(rng, size, args.semantics, words) for _ in range(5_000))
            made = next((draw for draw in draws if draw and draw["question"] not in used and ("train", "test")[
                hashlib.sha256(" ".join(sorted(draw["context"])).encode()).digest()[0] % 2] == args.split), None)
            if made is None:
                fail(f"no further theory of {facts} facts, {rules} rules, depth {depth} with {count} questions after "
                     f"{number} tasks (ask for fewer tasks or questions, or a larger size)")
            used.add(made["question"])
            task = {"id": f"logic/{args.semantics}/{args.split}/s{args.seed}/{number:04d}", "env": "logic",
                    "question": made["question"], "answer": made["answer"], "level": level, "size": size,
                    "semantics": args.semantics, "group": f"level {level}"}
            if given[:3] != (None, None, None):
                task["group"] = f"{facts} facts, {rules} rules, depth {depth}"
            tasks.append({**task, "guards": args.guards})
        return tasks

    def examples(self, task) -> list[dict]:
        """Five theories of the task's size, made as the tasks are, in words that no task uses."""
        size = tuple(map(min, task.get("size", LEVELS[4][1]), LEVELS[4][1]))  # larger ones would only make long prompts
        return examples_of(size, task.get("semantics", "owa"))

    # environment
    def modules(self, program: str) -> tuple:
        return ("clingo",)

    def run(self, program: str, job: dict) -> str:
        statements, questions = read_program(program)
        if job["guards"]:
            guard(statements, questions, job["question"])
        return ", ".join(answer_questions(statements, questions, job["semantics"]))

    def canonical(self, record: dict) -> str:
        """The parsed program: statements sorted, questions in order, without layout, comments and grammar."""
        program = self.tidy(record)
        try:
            statements, questions = read_program(program)
        except ValueError:
            return " ".join(program.split())
        return "\n".join([*sorted(map(repr, statements)), *map(repr, questions)])
