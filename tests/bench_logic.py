"""What the logic environment rewards, and how fast. Not a test: python tests/bench_logic.py [--public FOLDER]

    reward noise   correct programs are damaged in fifteen ways; the share that is still rewarded, by the number of
                   questions about one context, and with guards
    speed          programs per second in this process (reward.py adds the cost of the sandbox)
    public files   with --public: programs built from the English of ProofWriter items, and the programs that GPT-3.5
                   wrote for Logic-LM, against the gold answers
    learned        with --learned runs/logic, alone: what the greedy programs of each iteration's evaluation got right
"""
import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from test_logic import Logic, clauses, make, sentence, unnumbered

from nanoenvisions.importers import FORMATS
from nanoenvisions.logic import is_variable, read_program
from nanoenvisions.records import read_jsonl


def atom(literal):
    positive, name, *things = literal
    things = ["$x" if thing == "?" else thing.replace(" ", "_") for thing in things]
    return f"{name}({', '.join([*things, str(positive)])})"


def rule(body, head):
    return " && ".join(map(atom, body)) + " >>> " * bool(body) + atom(head)


def parsed(task, number):
    """(statements, questions) of a task, from its English alone."""
    lines = unnumbered(task["question"])
    return [sentence(line) for line in lines[:-number]], [clauses(line)[0] for line in lines[-number:]]


def text(statements, questions):
    return "\n".join([*(rule(*one) for one in statements), "Query:", *map(atom, questions)])


def rewarded(program, task):
    try:
        return Logic.compare(task, Logic.run(program, task))[0] == "correct"
    except ValueError:
        return False


def without(items, index):
    return items[:index] + items[index + 1:]


def damages(rng, statements, questions, other):
    """Seventeen wrong programs: {name: program}; a damage that this theory has no place for is left out."""
    facts = [place for place, (body, _) in enumerate(statements) if not body]
    rules = [place for place, (body, _) in enumerate(statements) if body]
    long = [place for place in rules if len(statements[place][0]) > 1]
    found = {"one fact dropped": text(without(statements, rng.choice(facts)), questions),
             "all rules dropped": text([statements[place] for place in facts], questions),
             "questions only": text([], questions),
             "another item's statements": text(other, questions)}
    place = rng.choice(range(len(statements)))
    body, head = statements[place]
    found["one conclusion or fact negated"] = text(
        [*statements[:place], (body, (not head[0], *head[1:])), *statements[place + 1:]], questions)
    words = sorted({part[1] for _, part in statements} - {head[1]})
    if words:
        found["one word replaced by another"] = text(
            [*statements[:place], (body, (head[0], rng.choice(words), *head[2:])), *statements[place + 1:]], questions)

    def renamed(part):
        return (part[0], "other" if part[1] == head[1] else part[1], *part[2:])
    found["one word renamed throughout"] = text(
        [([*map(renamed, body)], renamed(head)) for body, head in statements], [*map(renamed, questions)])
    if rules:
        found["one rule dropped"] = text(without(statements, rng.choice(rules)), questions)
        place = rng.choice(rules)
        (first, *others), head = statements[place]
        found["one rule turned round"] = text(
            [*statements[:place], ([head, *others], first), *statements[place + 1:]], questions)
    mixed = [place for place in rules if any(part[0] != statements[place][1][0] for part in statements[place][0])]
    if mixed:
        place = rng.choice(mixed)
        body, head = statements[place]
        which = next(index for index, part in enumerate(body) if part[0] != head[0])
        moved = [*body[:which], (head[0], *body[which][1:]), *body[which + 1:]]
        found["one negation moved in its rule"] = text(
            [*statements[:place], (moved, (not head[0], *head[1:])), *statements[place + 1:]], questions)
    if long:
        place = rng.choice(long)
        body, head = statements[place]
        body = without(body, rng.randrange(len(body)))
        found["one condition dropped"] = text([*statements[:place], (body, head), *statements[place + 1:]], questions)
    if long:  # a condition in the conclusion, and the whole rule as a fact about everything
        place = rng.choice(long)
        (first, *others), head = statements[place]
        for name, line in (("one condition moved to the conclusion",
                            rule([first], head) + " && " + " && ".join(map(atom, others))),
                           ("one rule as a fact about everything",
                            " && ".join(map(atom, [first, *others, head])))):
            lines = [rule(*one) for one in statements]
            lines[place] = line
            found[name] = "\n".join([*lines, "Query:", *map(atom, questions)])
    body, head = statements[facts[0]]
    wrong = (head[0], head[1], f"{head[2]}1", *head[3:])  # Bob1 is cold
    found["one name with a digit"] = text(
        [*statements[:facts[0]], (body, wrong), *statements[facts[0] + 1:]], questions)
    for name, wrong in (("one name in capitals", (*head[:2], head[2].upper(), *head[3:])),
                        ("one fact with another word for is", (head[0], "Is", head[2], head[1]))):
        found[name] = text([*statements[:facts[0]], (body, wrong), *statements[facts[0] + 1:]], questions)
    whole, words = text(statements, questions), {part[1] for body, part in statements}
    for word in words:  # cold7 throughout
        whole = re.sub(rf"\b{word}\b", f"{word}7", whole)
    found["all words with a digit"] = whole
    return found


def noise(flags, num=300):
    """Share of damaged programs that are rewarded, by damage."""
    tasks = make(*flags, num=num)
    rng, counts, hits = random.Random(0), Counter(), Counter()
    programs = [parsed(task, len(task["answer"].split(", "))) for task in tasks]
    assert all(rewarded(text(*program), task) for program, task in zip(programs, tasks))
    for place, (task, (statements, questions)) in enumerate(zip(tasks, programs)):
        for name, program in damages(rng, statements, questions, programs[place - 1][0]).items():
            counts[name] += 1
            hits[name] += rewarded(program, task)
    return {name: hits[name] / counts[name] for name in counts}


def public(folder):
    tasks = FORMATS["envisions-logic"](folder / "envisions_proofwriter.json")
    right = sum(rewarded(text(*parsed(task, 1)), task) for task in tasks)
    print(f"ProofWriter, programs built from the English: {right} of {len(tasks)} gold answers")
    for name in ("ProofWriter", "ProntoQA"):
        file = folder / f"logiclm_{name}_dev_gpt-3.5-turbo.json"
        candidates = FORMATS["logiclm-programs"](file)
        right = sum(rewarded(candidate["program"], candidate) for candidate in candidates)
        share = right / len(candidates)
        print(f"{name}, GPT-3.5's published programs: {right} of {len(candidates)} rewarded ({share:.0%})")


def pieces(statements, questions):
    """({facts}, {rules}, [questions]) of a parsed program in one form: variables are "?", plural and verb s dropped."""
    def plain(literal):
        return (literal[0], literal[1].lower().rstrip("s"), *("?" if is_variable(name) else name for name in literal[2:]))
    both = [(frozenset(map(plain, body)), frozenset(map(plain, heads))) for body, heads in statements]
    return ({one for one in both if not one[0]}, {one for one in both if one[0]}, [*map(plain, questions)])


def learned(run):
    """What the model has learned, iteration by iteration, in % of what the tasks' English says."""
    print("iteration  parsed  facts  rules  questions  rewarded  all as in the text")
    for path in sorted(run.glob("iter*/eval.jsonl"), key=lambda path: int(path.parent.name[4:])):
        total, counts = Counter(), Counter()
        for record in read_jsonl(path):
            gold = parsed(record, len(record["answer"].split(", ")))
            gold = pieces(*read_program(text(*gold)))
            try:
                mine = pieces(*read_program(record["program"]))
            except ValueError:
                mine = set(), set(), []
            counts["parsed"] += bool(mine[2])
            for name, a, b in zip(("facts", "rules"), gold, mine):
                counts[name] += len(a & b)
                total[name] += len(a)
            counts["questions"] += sum(one == other for one, other in zip(gold[2], mine[2]))
            total["questions"] += len(gold[2])
            counts["rewarded"] += record["reward"]
            counts["right"] += gold == mine
            total.update(parsed=1, rewarded=1, right=1)
        shares = [f"{counts[name] / total[name]:.0%}" for name in ("parsed", "facts", "rules", "questions", "rewarded",
                                                                   "right")]
        print("{:>9}  {:>6}  {:>5}  {:>5}  {:>9}  {:>8}  {:>18}".format(path.parent.name[4:], *shares))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, help="folder with envisions_proofwriter.json and logiclm_*.json")
    parser.add_argument("--learned", type=Path, metavar="RUN", help="folder of a run of ENV=logic bash run.sh")
    args = parser.parse_args()
    if args.learned:
        return learned(args.learned)
    for size in (["--facts", "3", "--rules", "2", "--depth", "2"], ["--facts", "6", "--rules", "6", "--depth", "3"]):
        columns = {"1 question": ["1"], "1, guards": ["1", "--guards"],
                   "4 questions": ["4"], "4, guards": ["4", "--guards"]}
        table = {name: noise([*size, "--questions-per-task", *flags]) for name, flags in columns.items()}
        print("\nStill rewarded,", " ".join(size), "\n" + " " * 32, *(f"{name:>12}" for name in table))
        for damage in next(iter(table.values())):
            print(f"{damage:32}", *(f"{column[damage]:12.0%}" for column in table.values()))
    tasks = make("--levels", "4", num=300)
    programs = [text(*parsed(task, len(task["answer"].split(", ")))) for task in tasks]
    start = time.process_time()
    assert all(map(rewarded, programs, tasks))
    speed = len(tasks) / (time.process_time() - start)
    print(f"\n{speed:,.0f} programs per second of CPU, level 4, one core, in process")
    if args.public:
        public(args.public)


if __name__ == "__main__":
    sys.exit(main())
