"""After the last stage: the tables that run.sh ends with, and the evolution curve as a picture.

Reads   metrics.jsonl: one object per stage and iteration.
Writes  an SVG or PNG picture, by the ending of --out.

    python data/report.py --in runs/math/metrics.jsonl --out runs/math/curve.svg

Every accuracy comes with its 95 % interval (Wilson's): what the same model would score on other
questions of the same kind. `programs` are all that were sampled in an iteration, rewrites included:
methods are compared fairly where these are equal (BUDGET of run.sh).
"""
from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the repository, for envs

import envs
from nanoenvisions.records import is_number

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
    for field in ("programs", "solved_now", "solved_pool", "tasks", "rows"):
        if not is_number(row.get(field, 0)):
            return f'"{field}" is {row[field]!r:.60} (it must be a number)'
    return None


def by_iteration(rows) -> dict[int, dict]:
    """{iteration: {stage: row}}, in order."""
    table = {}
    for row in rows:
        table.setdefault(row["iteration"], {})[row["stage"]] = row
    return dict(sorted(table.items()))


def scores(iterations) -> dict[str, list]:
    """{name: [(accuracy, num) or None for each iteration]}: of all held-out tasks, and by group."""
    evals = [stages.get("eval", {}) for stages in iterations.values()]
    groups = list(dict.fromkeys(name for row in evals for name in row.get("by_group", {})))
    found = {"test": evals}
    if 1 < len(groups) <= MOST_GROUPS:
        found |= {name: [row.get("by_group", {}).get(name, {}) for row in evals]
                  for name in groups}
    return {name: [(row["accuracy"], row["num"]) if row else None for row in rows]
            for name, rows in found.items()}


# -------------------------------------------------------------------------------------- Tables --

def percent(value) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def with_interval(score) -> str:
    """(0.5, 48) -> "50.0 (36-64)" """
    if score is None:
        return "-"
    low, high = wilson(*score)
    return f"{percent(score[0])} ({100 * low:.0f}-{100 * high:.0f})"


def score_table(iterations) -> list[list]:
    columns = scores(iterations)
    return [["iter", *(f"{name} % (95 %)" for name in columns)],
            *([number, *map(with_interval, line)]
              for number, line in zip(iterations, zip(*columns.values())))]


def work_table(iterations) -> list[list]:
    """What was sampled, solved and learned in each iteration, and the seconds it took."""
    timed = ("explore", "refine", "reward", "train")
    lines = [["iter", "programs", "right %", "refined %", "solved", "in pool", "rows",
              *(f"{name} s" for name in timed)]]
    for number, stages in iterations.items():
        reward, select = stages.get("reward", {}), stages.get("select", {})
        sampled = [stages[name].get("programs", 0) for name in ("explore", "refine")
                   if name in stages]
        right = [percent(reward.get("by_source", {}).get(source, {}).get("share"))
                 for source in ("explore", "refine")]
        lines.append([number, f"{sum(sampled):,}" if sampled else "-", *right,
                      *(select.get(field, "-") for field in ("solved_now", "solved_pool", "rows")),
                      *(f"{stages[name]['seconds']:.0f}" if name in stages else "-"
                        for name in timed)])
    return lines


def aligned(lines) -> str:
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(str(cell).rjust(width) for cell, width in zip(line, widths))
                     for line in lines)


# ------------------------------------------------------------------------------------- Picture --

def picture(iterations, title: str):
    """A matplotlib figure: percent over iterations; a band shows the interval of the accuracy."""
    from matplotlib.figure import Figure  # not pyplot: needs no display
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="iteration", ylabel="%", ylim=(0, 100))

    def curve(name, shares, **style):
        """Draw shares, None where there is none; returns the line, or None."""
        known = {x: 100 * y for x, y in zip(iterations, shares) if y is not None}
        if known:
            label = f"{name}: {list(known.values())[-1]:.0f} %"
            return axes.plot(known.keys(), known.values(), label=label, gid=name, **style)[0]

    for name, points in scores(iterations).items():
        line = curve("held out" if name == "test" else f"held out, {name}",
                     [None if point is None else point[0] for point in points],
                     marker="o", linewidth=2.5 if name == "test" else 1.5)
        if line and name == "test":  # the groups' intervals are in the table
            bands = [[100 * end for end in wilson(*point)] for point in points if point is not None]
            axes.fill_between(line.get_xdata(), *zip(*bands), alpha=0.1, linewidth=0,
                              color=line.get_color(), label="its 95 % interval")
    rewards = [stages.get("reward", {}).get("by_source", {}) for stages in iterations.values()]
    selects = [stages.get("select", {}) for stages in iterations.values()]
    for name, source in (("samples right", "explore"), ("rewrites right", "refine")):
        curve(name, [row.get(source, {}).get("share") for row in rewards],
              marker=".", linewidth=1, linestyle="--")
    curve("tasks solved, in the pool", [row["solved_pool"] / row["tasks"] if row.get("tasks")
                                        and "solved_pool" in row else None for row in selects],
          marker=".", linewidth=1, linestyle=":")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


def save(figure, path):
    """As SVG or PNG, whole or not at all; the same metrics give the same file."""
    import matplotlib
    path = Path(path)
    part = path.with_name(f"{path.name}.tmp{os.getpid()}")
    with matplotlib.rc_context({"svg.hashsalt": "nanoENVISIONS", "svg.fonttype": "none"}):
        try:
            figure.savefig(part, format=path.suffix[1:].lower(), dpi=150,
                           metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            envs.fail(f"{path}: {error.strerror} (choose an --out that can be written)")


# ---------------------------------------------------------------------------------------- Main --

def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", required=True, help="metrics.jsonl of a run")
    parser.add_argument("--out", help="picture to write, .svg or .png; nothing: the tables alone")
    parser.add_argument("--title", default="What the model has taught itself",
                        help="of the picture")
    args = parser.parse_args(argv)
    if args.out and Path(args.out).suffix.lower() not in (".svg", ".png"):
        parser.error(f"--out {args.out}: it must end in .svg or .png")
    return args


def main(argv=None):
    args = parse_args(argv)
    rows = envs.read_jsonl(args.inputs, ("stage", "iteration", "seconds"), check=fault)
    iterations = by_iteration(rows)
    print(aligned(score_table(iterations)))
    print()
    print(aligned(work_table(iterations)))
    if args.out:
        save(picture(iterations, args.title), args.out)
        print(f"report: -> {args.out}")


if __name__ == "__main__":
    main()
