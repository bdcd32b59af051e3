"""What the logic environment rewards, and how fast. Not a test: python tests/bench_logic.py [--public FOLDER]

    reward noise   correct programs are damaged in nine ways; the share that is still rewarded, by the number of
                   questions about one context, and with guards
    speed          programs per second in this process (reward.py adds the cost of the sandbox)
    public files   with --public: programs built from the English of ProofWriter items, and the programs that GPT-3.5
                   wrote for Logic-LM, against the gold answers
"""
import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from test_logic import Logic, clauses, make, sentence, unnumbered


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
        return Logic.check(task, Logic.run(program, task))[0] == "correct"
    except ValueError:
        return False


def without(items, index):
    return items[:index] + items[index + 1:]


def damages(rng, statements, questions, other):
    """Nine wrong programs: {name: program}; a damage that this theory has no place for is left out."""
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
    if long:
        place = rng.choice(long)
        body, head = statements[place]
        body = without(body, rng.randrange(len(body)))
        found["one condition dropped"] = text([*statements[:place], (body, head), *statements[place + 1:]], questions)
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
    tasks = Logic.formats["envisions-logic"](folder / "envisions_proofwriter.json")
    right = sum(rewarded(text(*parsed(task, 1)), task) for task in tasks)
    print(f"ProofWriter, programs built from the English: {right} of {len(tasks)} gold answers")
    for name in ("ProofWriter", "ProntoQA"):
        file = folder / f"logiclm_{name}_dev_gpt-3.5-turbo.json"
        candidates = Logic.formats["logiclm-programs"](file)
        right = sum(rewarded(candidate["program"], candidate) for candidate in candidates)
        share = right / len(candidates)
        print(f"{name}, GPT-3.5's published programs: {right} of {len(candidates)} rewarded ({share:.0%})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, help="folder with envisions_proofwriter.json and logiclm_*.json")
    args = parser.parse_args()
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
