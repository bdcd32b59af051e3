"""How fast are web episodes, and do published programs still work? Not a test: run it by hand on an idle machine.

    python tests/bench_web.py                               # our way and the article's authors' way, in one run
    python tests/bench_web.py --references programs.jsonl   # replay the authors' programs, success per task

An episode is: load the page, begin the seed, do the actions of a program that succeeds, read the reward. The authors'
way starts a browser for every episode and waits a second after every action.
The references are JSON Lines with `env_name`, `id` (the seed) and `label` (the program, fenced).
"""
import argparse
import collections
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import envs  # noqa: E402
from nanoenvisions.browser import Browser  # noqa: E402

Web = envs.ENVS["web"]

EDITED = {"simple-algebra", "social-media-all", "text-transform", "choose-list"}  # pages that the authors changed


class SlowBrowser(Browser):
    """The authors' way."""

    def act(self, verb, text):
        fault = super().act(verb, text)
        time.sleep(1)
        return fault


def slow_episode(task, seed, actions):
    browser = SlowBrowser()
    try:
        return browser.replay(task, seed, actions)
    finally:
        browser.close()


def measure(label, episode, examples):
    start, correct = time.perf_counter(), 0
    for example in examples:
        actions = json.loads(Web.run(example["program"], {}))
        correct += episode(example["task"], example["seed"], actions)[0] == "correct"
    seconds = time.perf_counter() - start
    print(f"{label:55s} {len(examples) / seconds:6.2f} episodes/s  "
          f"({correct} of {len(examples)} correct, {seconds:.1f} s)")


def compare(num_slow):
    """Our way on all few-shot examples and on short tasks; the authors' way on a few of the same short tasks."""
    examples = json.loads((ROOT / "data" / "web_examples.json").read_text(encoding="utf-8"))
    short = [one for one in examples if one["task"] in Web.DEFAULT_TASKS]

    def fast_episode(task, seed, actions):
        return Web.compare({"task": task, "seed": seed}, json.dumps(actions))

    fast_episode("click-test", 0, [])  # the start of the browser is not counted
    measure("ours, the default tasks", fast_episode, short * 3)
    measure("ours, all 44 tasks", fast_episode, examples)
    Web.close()
    measure("new browser per episode, 1 s after each action", slow_episode, short[:num_slow])


def replay(path):
    """Success per task of published programs, on the seeds that they were written for."""
    tried, correct = collections.Counter(), collections.Counter()
    for row in map(json.loads, Path(path).read_text(encoding="utf-8").splitlines()):
        value = Web.run(row["label"].strip("`\n"), {})
        outcome, result = Web.compare({"task": row["env_name"], "seed": int(row["id"])}, value)
        tried[row["env_name"]] += 1
        correct[row["env_name"]] += outcome == "correct"
        if outcome != "correct":
            print(f"  {row['env_name']} seed {row['id']}: {result}")
    for task in tried:
        print(f"{task:28s}{correct[task]:4d} of {tried[task]:3d}{'  (page edited)' if task in EDITED else ''}")
    kept = [task for task in tried if task not in EDITED]
    print(f"outside the edited pages: {sum(map(correct.get, kept))} of {sum(map(tried.get, kept))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", help="replay the programs in this file instead")
    parser.add_argument("--num-slow", type=int, default=5, help="episodes the authors' way, about 5 s each")
    args = parser.parse_args()
    if args.references:
        replay(args.references)
    else:
        compare(args.num_slow)


if __name__ == "__main__":
    main()
