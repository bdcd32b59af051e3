"""What run.sh says at the end of an iteration, and LOG=: the same numbers for TensorBoard or wandb.

    python -m nanoenvisions.watch --run runs/math --iteration 2 --of 5 --log tensorboard

"iteration 2 of 5: 53 % held out (+7), 114 of 160 tasks solved, 3 min 10 s, about 9 min left"
May import flags, folders and records.
"""
from __future__ import annotations

import hashlib
import importlib.util
import sys
import time
from pathlib import Path

from nanoenvisions.flags import Parser, whole
from nanoenvisions.folders import read_run
from nanoenvisions.records import fail, is_number, read_jsonl

FEW, MANY = 0.02, 0.95  # shares of right programs that say something about the tasks


def duration(seconds: float) -> str:
    """
    >>> duration(190), duration(59.6), duration(7260)
    ('3 min 10 s', '1 min', '2 h 1 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return " ".join([f"{minutes} min"] * (minutes > 0) + [f"{seconds} s"] * (seconds > 0)) or "0 s"


def summary(rows: list[dict], iteration: int, of: int, seconds: float) -> list[str]:
    """Lines about an iteration, from metrics: the one above, and what ought to be changed if that
    is plain to see. of: how many there are; seconds: that it took, as far as run.sh knows.
    """
    now = {row["stage"]: row for row in rows if row.get("iteration") == iteration}
    before = [row["accuracy"] for row in rows
              if row["stage"] == "eval" and row["iteration"] == iteration - 1]
    parts, hints = [], []
    if "eval" in now:
        accuracy = now["eval"]["accuracy"]
        change = f" ({round(100 * accuracy) - round(100 * before[0]):+})" if before else ""
        parts.append(f"{accuracy:.0%} held out{change}".replace("%", " %"))
    if "select" in now:
        parts.append(f"{now['select']['solved_pool']} of {now['select']['tasks']} tasks solved")
    # stages that an earlier start has finished took their time, too
    took = max(seconds, sum(row["seconds"] for row in now.values() if is_number(row["seconds"])))
    parts.append(duration(took))
    if 0 < of - iteration - 1:
        left = max(1, round((of - iteration - 1) * took / 60))  # minutes
        parts.append(f"about {duration(60 * left)} left")
    share = now.get("reward", {}).get("share")
    if is_number(share) and share < FEW:
        hints.append(f"only {share:.1%} of the programs are right: there is little to learn from "
                     "(easier tasks, more NUM_SAMPLES_0, or a larger MODEL, with another OUT)")
    if is_number(share) and share > MANY:
        hints.append(f"{share:.0%} of the programs are right: these tasks teach nothing more "
                     "(harder or more tasks, with another OUT)")
    name = f"iteration {iteration} of {of}" if iteration < of else "after the last iteration"
    return [f"run.sh: {name}: {', '.join(parts)}", *(f"run.sh: {hint}" for hint in hints)]


def scalars(row: dict, before: str = "") -> dict:
    """The numbers of a row of metrics.jsonl, those inside others by their path.

    >>> scalars({"stage": "eval", "iteration": 2, "accuracy": 0.5, "by_group": {"new": {"num": 8}}})
    {'eval/accuracy': 0.5, 'eval/by_group/new/num': 8}
    """
    numbers, before = {}, before or row["stage"]
    for name, value in row.items():
        if isinstance(value, dict):
            numbers |= scalars(value, f"{before}/{name}")
        elif is_number(value) and name != "iteration":
            numbers[f"{before}/{name}"] = value
    return numbers


def to_tensorboard(folder: Path, numbers: dict, iteration: int):
    """An event file in OUT/log: tensorboard --logdir runs"""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    writer = EventFileWriter(str(folder / "log"))
    writer.add_event(Event(wall_time=time.time(), step=iteration, summary=Summary(value=[
        Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()])))
    writer.close()


def to_wandb(folder: Path, numbers: dict, iteration: int):
    """One wandb run per OUT, continued in every iteration; its own variables (WANDB_MODE) count."""
    import wandb
    (folder / "log").mkdir(exist_ok=True)
    settings = {name: value for name, value in read_run(folder).items() if name != "adapter"}
    same = hashlib.sha256(f"{folder.resolve()} {settings}".encode()).hexdigest()[:16]
    run = wandb.init(project="nanoenvisions", name=str(folder), dir=str(folder / "log"), id=same,
                     resume="allow", config=settings, settings=wandb.Settings(silent=True))
    run.log(numbers, step=iteration)
    run.finish()


LOGS = {"none": None, "tensorboard": to_tensorboard, "wandb": to_wandb}


def require(log: str):
    """Fail where LOG= names a package that is not there."""
    if LOGS[log] and not importlib.util.find_spec(log):
        fail(f"LOG={log} needs a package that is not here ({sys.executable} -m pip install {log})")


def main(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, help="OUT of run.sh")
    add("--iteration", type=whole, required=True, help="t, the one that has ended")
    add("--of", type=whole, required=True, help="ITERS")
    add("--seconds", type=whole, default=0, help="that it took")
    add("--log", choices=LOGS, default="none", help="where numbers go, too (default: nowhere)")
    args = parser.parse_args(argv)
    rows = read_jsonl(Path(args.run) / "metrics.jsonl", ("stage", "seconds"))
    print("\n".join(summary(rows, args.iteration, args.of, args.seconds)))
    if LOGS[args.log]:
        numbers = {}
        for row in rows:
            if row.get("iteration") == args.iteration:
                numbers |= scalars(row)
        LOGS[args.log](Path(args.run), numbers, args.iteration)


if __name__ == "__main__":
    main()
