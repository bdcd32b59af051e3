"""Labs (c), (d), (e) of docs/COURSE.md: what rewarded programs say. Not a test.

    python tests/lab.py runs/lab/iter0/rewarded.jsonl runs/lab/iter1/rewarded.jsonl
"""
import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import envs
from data.samples import pass_at

ORDERS = {"r": lambda one: -one["self_reward"],                # the soft self-reward, highest first
          "shortest": lambda one: len(one["program"])}         # write an order of your own here


def exploration(tasks) -> str:
    """pass@1, pass@K, and the distinct right programs of a solved task."""
    k = min(map(len, tasks))
    right = [{envs.ENVS[one["env"]].canonical(one) for one in some if one["reward"]} for some in tasks]
    solved = [some for some in right if some]
    at = [sum(pass_at(n, len(some), sum(one["reward"] for one in some)) for some in tasks) / len(tasks) for n in (1, k)]
    return (f"exploration: {len(tasks)} tasks, pass@1 {at[0]:.0%}, pass@{k} {at[1]:.0%}, "
            f"{sum(map(len, solved)) / max(1, len(solved)):.2f} distinct right programs a solved task")


def ranking(tasks) -> str:
    """Of tasks with right and wrong programs: how often the first of an order is right."""
    mixed = [some for some in tasks if 0 < sum(one["reward"] for one in some) < len(some)]
    chance = sum(sum(one["reward"] for one in some) / len(some) for some in mixed)
    found = [f"{name} {sum(min(some, key=order)['reward'] for some in mixed)}" for name, order in ORDERS.items()]
    return f"ranking: of {len(mixed)} mixed tasks first is right by {', '.join(found)}, random {chance:.1f}"


def refinement(drafts, rewrites) -> str:
    """What became of right and of wrong drafts, and what their rewrites cost and brought."""
    pairs = [(drafts[key], rewrite) for key, rewrite in rewrites.items() if key in drafts]
    of = {reward: [rewrite for draft, rewrite in pairs if draft["reward"] == reward] for reward in (1, 0)}
    if not pairs:
        return "refinement: no rewrites in this file"
    kept, mended = (sum(one["reward"] for one in of[reward]) for reward in (1, 0))
    copies = sum(one["program"] == one["reference"] for _, one in pairs)

    def name(one):
        env = envs.ENVS[one["env"]]
        return one["id"], env.canonical({**one, "program": env.tidy(one)})
    known, tokens = set(map(name, drafts.values())), {side: sum(one["tokens"] for one in of[side]) for side in of}
    new = {side: len({name(one) for one in of[side] if one["reward"]} - known) for side in of}
    return (f"refinement: {kept} of {len(of[1])} right drafts stay right, {mended} of {len(of[0])} wrong ones are "
            f"mended, {copies} of {len(pairs)} are copies\n"
            f"  rewrites of right drafts: {tokens[1] / sum(tokens.values()):.0%} of the tokens, {new[1]} right programs that "
            f"no draft is; of wrong ones: {new[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="rewarded.jsonl of an iteration")
    for file in parser.parse_args().files:
        tasks, drafts, rewrites = defaultdict(list), {}, {}
        for one in envs.read_jsonl(file, ("id", "env", "candidate", "source", "program", "reward", "self_reward")):
            side = rewrites if one["source"] == "refine" else drafts
            side[one["id"], one["candidate"]] = one
            if side is drafts:
                tasks[one["id"]].append(one)
        print(file)
        for line in (exploration(list(tasks.values())), ranking(list(tasks.values())), refinement(drafts, rewrites)):
            print(" ", line)


if __name__ == "__main__":
    main()
