"""What lies in the folder of a run, read for data/report.py: metrics, settings, groups of runs.

A run is {"name": its folder, "settings": {"METHOD": "rft", ...}, "iterations": {0: {"eval": row}},
"folder": Path}. Runs whose settings differ in the seed alone are one group: what is said of a group
is a median and a range over its seeds.
"""
from __future__ import annotations

import math
import sys
from pathlib import Path

import envs
from nanoenvisions.records import is_number

ALWAYS = ("ENV", "MODEL", "NUM_TRAIN", "NUM_TEST", "DATA", "TEST")  # settings that make other runs
MOST_GROUPS = 6  # of held-out tasks: more would not fit on a line, and are left to metrics.jsonl


def wilson(share: float, num: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share: where it lies, given how few questions were asked.

    Unlike share +- 2 standard errors it is right near 0 and 1, too.

    >>> [round(x, 3) for x in wilson(0.5, 48)]
    [0.364, 0.636]
    >>> [round(x, 3) for x in wilson(0.0, 48)]
    [0.0, 0.074]
    """
    centre = share + z * z / (2 * num)
    spread = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    low, high = ((centre + side) / (1 + z * z / num) for side in (-spread, spread))
    return max(0, low), min(1, high)


# ------------------------------------------------------------------------------------- Reading --

def fault(row: dict) -> str | None:
    """For read_jsonl: what is wrong with a row of metrics.jsonl, or None."""
    if not isinstance(row["stage"], str):
        return f'"stage" is {row["stage"]!r:.60} (it must be a string)'
    if not is_number(row["seconds"]):
        return f'"seconds" is {row["seconds"]!r:.60} (it must be a number)'
    for field in ("by_group", "by_source"):
        if not isinstance(row.get(field, {}), dict):
            return f'"{field}" is {row[field]!r:.60} (it must be an object)'
    scores = [row, *row.get("by_group", {}).values()] if row["stage"] == "eval" else []
    for score in scores:
        given = isinstance(score, dict) and is_number(score.get("accuracy"))
        if not given or not 0 <= score["accuracy"] <= 1 or not is_number(score.get("num")) \
                or score["num"] < 1:
            return 'an "eval" row needs "accuracy", 0 to 1, and "num", also in each of "by_group"'
    for source in row.get("by_source", {}).values():
        if not isinstance(source, dict) or not is_number(source.get("share")):
            return 'no "share" in "by_source" (reward.py writes it)'
    for field in ("programs", "solved_now", "solved_pool", "tasks", "rows", "steps"):
        if not is_number(row.get(field, 0)):
            return f'"{field}" is {row[field]!r:.60} (it must be a number)'
    return None


def by_iteration(rows) -> dict[int, dict]:
    """{iteration: {stage: row}}, in order."""
    table = {}
    for row in rows:
        table.setdefault(row["iteration"], {})[row["stage"]] = row
    return dict(sorted(table.items()))


def read_settings(folder: Path) -> dict | None:
    """{"METHOD": "rft", ...} as run.sh wrote it; None where there is no such file."""
    try:
        text = (folder / "settings").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def read_run(path: Path) -> dict:
    """The run whose metrics.jsonl this is."""
    rows = envs.read_jsonl(path, ("stage", "iteration", "seconds"), check=fault)
    return {"name": str(path.parent), "folder": path.parent, "settings": read_settings(path.parent),
            "iterations": by_iteration(rows)}


def find(inputs) -> list[Path]:
    """Each metrics.jsonl: a file is one, a folder holds one, or its folders do (after SEEDS=)."""
    paths = []
    for path in map(Path, inputs):
        if path.is_dir() and not (path / "metrics.jsonl").exists():
            below = sorted(path.glob("**/metrics.jsonl"))
            paths += below or [path / "metrics.jsonl"]
        else:
            paths.append(path / "metrics.jsonl" if path.is_dir() else path)
    return list({path.resolve(): path for path in paths}.values())  # none twice


def read_runs(inputs) -> list[dict]:
    """All runs that can be read. One that cannot is named and left out; it fails if none can."""
    runs, paths = [], find(inputs)
    for path in paths:
        try:
            runs.append(read_run(path))
        except SystemExit as broken:
            if len(paths) == 1:
                raise
            print(f"{broken} - this run is left out", file=sys.stderr)
    return runs or envs.fail("none of these runs can be read")


# -------------------------------------------------------------------------------------- Groups --

def alike(run) -> tuple:
    """Equal for runs that differ in the seed alone; a run without settings is like no other."""
    if run["settings"] is None:
        return ("folder", run["name"]),
    return tuple(sorted((name, value) for name, value in run["settings"].items()
                        if name != "SEED"))


def grouped(runs) -> dict[str, list]:
    """{label: runs that differ in the seed alone}; the label says in what the groups differ.

    Groups of METHOD=rft and METHOD=star are "rft" and "star"; with N1=4 and N1=10 they are
    "rft, N1=4", "rft, N1=10" ...
    """
    groups = {}
    for run in runs:
        groups.setdefault(alike(run), []).append(run)
    # What a METHOD itself sets is no other difference between two of them, what the task is always.
    values = {}
    for key in groups:
        method = dict(key).get("METHOD")
        for name, value in key:
            values.setdefault((name, None if name in ALWAYS else method), set()).add(value)
    differing = {name for (name, _), seen in values.items() if len(seen) > 1}
    labels = {}
    for key, some in groups.items():
        settings = dict(key)
        parts = [settings[name] for name in ("folder", "METHOD") if name in settings]
        parts += [f"{name}={settings[name]}" for name in sorted(differing - {"folder", "METHOD"})
                  if name in settings]
        label = ", ".join(parts) or "run"
        labels[label if label not in labels else f"{label} ({len(labels) + 1})"] = some
    return labels


def seed_of(run) -> str:
    return (run["settings"] or {}).get("SEED", "-")


def scores(iterations) -> dict[str, list]:
    """{name: [(accuracy, num) or None for each iteration]}: of all held-out tasks, and by group.

    "test" are all of them; a group of that name, of a file test.jsonl, is "group test".
    """
    evals = [stages.get("eval", {}) for stages in iterations.values()]
    groups = list(dict.fromkeys(name for row in evals for name in row.get("by_group", {})))
    found = {"test": evals}
    if 1 < len(groups) <= MOST_GROUPS:
        found |= {"group " * (name in found) + name:
                  [row.get("by_group", {}).get(name, {}) for row in evals] for name in groups}
    return {name: [(row["accuracy"], row["num"]) if row else None for row in rows]
            for name, rows in found.items()}


def last_evaluation(run) -> int:
    """The iteration of a run's last evaluation; -1 without one."""
    return max((number for number, stages in run["iterations"].items() if "eval" in stages),
               default=-1)


def unfinished(runs) -> list[dict]:
    """Those that ended early: with a stage after the last evaluation, or earlier than other seeds.

    A finished run ends with an evaluation and nothing else in its iteration.
    """
    last = {}
    for run in runs:
        last[alike(run)] = max(last.get(alike(run), 0), last_evaluation(run))
    return [run for run in runs if last_evaluation(run) < last[alike(run)]
            or set(run["iterations"][max(run["iterations"])]) - {"eval", "eval-explore"}]


def distinct_questions(runs) -> int | None:
    """How many different held-out questions the runs ask; None where a test.jsonl is not there."""
    found = set()
    for run in runs:
        try:
            tasks = envs.read_jsonl(run["folder"] / "test.jsonl", ("question",))
        except SystemExit:
            return None
        found |= {task["question"] for task in tasks}
    return len(found)
