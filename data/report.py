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
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the repository

import envs
from data.runs import read_runs, scores, wilson
from data.tables import aligned, comparison, comparison_notes, score_table, work_table


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
    parser.add_argument("--in", dest="inputs", required=True, nargs="+", metavar="RUN",
                        help="folder of a run, or its metrics.jsonl; several are compared")
    parser.add_argument("--out", help="picture to write, .svg or .png; nothing: the tables alone")
    parser.add_argument("--title", default="What the model has taught itself",
                        help="of the picture")
    args = parser.parse_args(argv)
    if args.out and Path(args.out).suffix.lower() not in (".svg", ".png"):
        parser.error(f"--out {args.out}: it must end in .svg or .png")
    return args


def main(argv=None):
    args = parse_args(argv)
    runs = read_runs(args.inputs)
    if len(runs) == 1:
        print(aligned(score_table(runs[0]["iterations"])))
        print()
        print(aligned(work_table(runs[0]["iterations"])))
    else:
        print(aligned(comparison(runs)))
        print(comparison_notes(runs))
    if args.out:
        save(picture(runs[0]["iterations"], args.title), args.out)
        print(f"report: -> {args.out}")


if __name__ == "__main__":
    main()
