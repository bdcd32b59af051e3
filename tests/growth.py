"""How cost grows: processor seconds, memory and tokens of each stage, at 1, 2 and 4 times as many tasks.

    python tests/growth.py --tasks 40 --out growth.json --picture growth.svg

Each stage runs as people start it, on the embedded model, one thread: explore (K = 5), refine, reward, select and train
(one epoch) on TASKS, 2 TASKS and 4 TASKS. Processor time, so a busy machine hardly matters; the smallest run shows what a
start costs. Then the pool: select.py on one to eight iterations' candidates, all distinct.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import envs  # noqa: E402

SCALES, ITERATIONS = (1, 2, 4), (1, 2, 4, 8)


def run(*words) -> dict:
    """A command's processor seconds, and its peak memory in GB (its children's counted one by one)."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_gb": round(usage.ru_maxrss / 1e6, 2)}


def stages(folder: Path, count: int) -> dict:
    """{stage: what it took} for so many tasks."""
    file = {name: folder / f"{name}.jsonl" for name in ("tasks", "explored", "refined", "rewarded", "pool", "sft")}
    run("envs.py", "make", "--env", "math", "--num", count, "--out", file["tasks"])
    took = {"explore": run("explore.py", "--in", file["tasks"], "--out", file["explored"], "--few-shot",
                           "--max-new-tokens", 72, "--temperature", 0.8),
            "refine": run("refine.py", "--in", file["explored"], "--out", file["refined"], "--max-new-tokens", 72),
            "reward": run("reward.py", "--in", file["explored"], file["refined"], "--out", file["rewarded"]),
            "select": run("select.py", "--in", file["rewarded"], "--pool-out", file["pool"], "--out", file["sft"]),
            "train": run("train.py", "--in", file["sft"], "--out", folder / "adapter", "--epochs", 1)}
    for stage, name in (("explore", "explored"), ("refine", "refined")):
        took[stage]["tokens"] = sum(record["tokens"] for record in envs.read_jsonl(file[name]))
    took["select"]["rows"] = took["train"]["rows"] = len(envs.read_jsonl(file["sft"]))
    took["reward"]["programs"] = len(envs.read_jsonl(file["rewarded"]))
    return took


def pools(folder: Path, count: int) -> list[dict]:
    """select.py on the candidates of several iterations: of each task ten distinct programs an iteration, half right."""
    task = {"env": "math", "answer": 1, "source": "explore", "logprob": -0.1, "self_reward": -0.1, "tokens": 9}
    grown = []
    for iterations in ITERATIONS:
        rewarded = folder / f"rewarded-{iterations}.jsonl"
        with open(rewarded, "w") as out:
            for t in range(iterations):
                for number in range(count):
                    for k in range(10):
                        out.write(envs.dump(task | {
                            "id": f"t{number}", "question": f"How many are {number}?", "iteration": t, "candidate": k,
                            "reward": k % 2, "outcome": "correct" if k % 2 else "wrong", "prediction": "1",
                            "program": f"def solution():\n    a = {number + 10 * t}\n    return a + {k}"}))
        pool = folder / f"pool-{iterations}.jsonl"
        took = run("select.py", "--in", rewarded, "--pool-out", pool, "--out", folder / "sft.jsonl")
        grown.append(took | {"iterations": iterations, "programs": len(envs.read_jsonl(pool)),
                             "pool_mb": round(pool.stat().st_size / 1e6, 1),
                             "rows": len(envs.read_jsonl(folder / "sft.jsonl"))})
    return grown


def draw(figures: dict, picture):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    left, right = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")[1]
    counts = [one["tasks"] for one in figures["tasks"]]
    for stage in ("explore", "refine", "train", "reward", "select"):
        left.plot(counts, [one["stages"][stage]["cpu_s"] for one in figures["tasks"]], marker="o", label=stage)
    left.set(xlabel="tasks (K = 5)", ylabel="processor seconds", xticks=counts, ylim=(0, None))
    left.legend(frameon=False)
    right.plot([one["iterations"] for one in figures["pool"]], [one["cpu_s"] for one in figures["pool"]], marker="o")
    right.set(xlabel=f"iterations in the pool, {figures['pool_tasks']} tasks x 10", ylabel="select.py, processor seconds",
              xticks=ITERATIONS, ylim=(0, None))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(picture)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="of the smallest run")
    parser.add_argument("--out", required=True)
    parser.add_argument("--picture", required=True)
    args = parser.parse_args(argv)
    figures = {"tasks": [], "pool_tasks": 4 * args.tasks}
    with tempfile.TemporaryDirectory() as folder:
        for scale in SCALES:
            place = Path(folder) / str(scale)
            place.mkdir()
            figures["tasks"].append({"tasks": scale * args.tasks, "stages": stages(place, scale * args.tasks)})
            print(json.dumps(figures["tasks"][-1]), flush=True)
        figures["pool"] = pools(Path(folder), figures["pool_tasks"])
        print(json.dumps(figures["pool"]), flush=True)
    Path(args.out).write_text(json.dumps(figures, indent=1))
    draw(figures, args.picture)


if __name__ == "__main__":
    main()
