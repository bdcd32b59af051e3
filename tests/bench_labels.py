"""What human labels give: the same model trained on people's equations for the same problems.

The ceiling beside a run on MAWPS and ASDiv-A (docs/RESULTS.md): their CSV has an equation for every
problem, which self-training never sees. Here each becomes the program that states it, and the model
is trained on these as on programs of its own: same prompts, same stage, as many optimiser steps.

    DATA=mawps-asdiv-a_train.csv TEST=SVAMP.json OUT=runs/svamp bash run.sh
    python tests/bench_labels.py --data mawps-asdiv-a_train.csv --run runs/svamp --steps 250 \
                                 --out runs/labels

`--steps`: those of the run's last training (its line in metrics.jsonl, or the run's log);
`--train-flags`: the run's TRAIN_FLAGS, `--explore-flags` its EXPLORE_FLAGS.
"""
from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
from nanoenvisions.importers import filled  # noqa: E402


def infix(prefix: str, numbers: list[str]) -> str:
    """The expression that a prefix equation states.

    >>> infix("- + number0 number1 number2", ["9", "27", "20"])
    '9 + 27 - 20'
    >>> infix("* number0 + number1 4", ["3", "5"])
    '3 * (5 + 4)'
    """
    words = iter(prefix.split())
    strength = {"+": 1, "-": 1, "*": 2, "/": 2}

    def read():
        """(text, how strongly its last operator binds)"""
        word = next(words)
        if word not in strength:
            text = numbers[int(word.removeprefix("number"))] if word.startswith("number") else word
            return str(envs.importers.whole(float(text))), 3
        (left, bound), (right, right_bound) = read(), read()
        left = f"({left})" if bound < strength[word] else left
        right = f"({right})" if right_bound <= strength[word] else right
        return f"{left} {word} {right}", strength[word]
    return read()[0]


def label_rows(data, tasks) -> list[dict]:
    """A training row, x -> the human program, for each task that came from the CSV `data`."""
    with open(data, encoding="utf-8-sig", newline="") as file:
        labels = {number: row for number, row in enumerate(csv.DictReader(file), 1)}
    rows = []
    for task in tasks:
        row = labels[int(task["id"].split("#")[0].rpartition("/")[2])]
        if filled(row)["Question"].strip() != task["question"]:
            envs.fail(f"{data}: its rows are not those that {task['id']} was made of")
        expression = infix(row["Equation"], [f"{round(float(one), 4)}" for one in row["Numbers"].split()])
        rows.append({"prompt": envs.solve_prompt(task), "kind": "solve", "id": task["id"],
                     "completion": envs.completion(f"def solution():\n    return {expression}")})
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the CSV that the run had as DATA")
    parser.add_argument("--run", required=True, help="folder of the run: its tasks and its test")
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps")
    parser.add_argument("--train-flags", default="", help='more flags of train.py: "--batch-size 32"')
    parser.add_argument("--explore-flags", default="", help='more flags of explore.py: "--slots 64"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder to write to")
    args = parser.parse_args(argv)
    out, run = Path(args.out), Path(args.run)
    out.mkdir(parents=True, exist_ok=True)
    rows = label_rows(args.data, envs.read_jsonl(run / "tasks.jsonl"))
    envs.write_whole(out / "sft.jsonl", "".join(map(envs.dump, rows)))
    common = ["--seed", args.seed, "--metrics", out / "metrics.jsonl"]
    for words in (
            ["train.py", "--in", out / "sft.jsonl", "--out", out / "adapter", "--steps", args.steps,
             *args.train_flags.split(), *common],
            ["explore.py", "--in", run / "test.jsonl", "--out", out / "explored.jsonl", "--eval",
             "--adapter", out / "adapter", "--max-new-tokens", 72,
             *args.explore_flags.split(), *common],
            ["reward.py", "--in", out / "explored.jsonl", "--out", out / "eval.jsonl", "--eval", *common]):
        subprocess.run([sys.executable, "-W", "ignore", *map(str, words)], cwd=ROOT, check=True)
    last = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][-1]
    print(f"labels: {len(rows):,} problems, held out {last['accuracy']:.1%}, {last['by_group']}")


if __name__ == "__main__":
    main()
