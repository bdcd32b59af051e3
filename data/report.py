"""After the last stage: the table that run.sh ends with, and the evolution curve as a picture.

Reads   metrics.jsonl: one object per stage and iteration.   Writes  an SVG picture that any browser shows.

    python data/report.py --in runs/math/metrics.jsonl --out runs/math/curve.svg
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the repository, for envs

import envs

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 40, 170, 50  # of the picture, in pixels
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#6b6b6b")


def by_iteration(rows) -> list[dict]:
    """[{stage: row}] for iterations 0, 1, 2, ..."""
    table = {}
    for row in rows:
        table.setdefault(row["iteration"], {})[row["stage"]] = row
    return [table[iteration] for iteration in sorted(table)]


def percent(value) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table_lines(iterations) -> list[str]:
    """The table of a run, one line per iteration."""
    groups = list(iterations[0].get("eval", {}).get("by_group", {})) if iterations else []
    groups = groups if 1 < len(groups) <= 4 else []
    head = ["iter", "test %", *(f"{group} %" for group in groups), "right %", "refined %", "solved", "in pool", "rows",
            "explore s", "refine s", "reward s", "train s"]
    lines = [head]
    for number, stages in enumerate(iterations):
        evaluated, reward, select = (stages.get(name, {}) for name in ("eval", "reward", "select"))
        sources = reward.get("by_source", {})
        seconds = [f"{stages[name]['seconds']:.0f}" if name in stages else "-"
                   for name in ("explore", "refine", "reward", "train")]
        lines.append([number, percent(evaluated.get("accuracy")),
                      *(percent(evaluated.get("by_group", {}).get(group, {}).get("accuracy")) for group in groups),
                      percent(sources.get("explore", {}).get("share")), percent(sources.get("refine", {}).get("share")),
                      select.get("solved_now", "-"), select.get("solved_pool", "-"), select.get("rows", "-"),
                      *seconds])
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(head))]
    return ["  ".join(str(cell).rjust(width) for cell, width in zip(line, widths)) for line in lines]


def series(iterations) -> dict[str, list]:
    """{name: value in percent per iteration, None where it was not measured}, for the picture."""
    def get(stage, *path):
        values = []
        for stages in iterations:
            value = stages.get(stage, {})
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            values.append(None if value is None else 100 * value)
        return values

    groups = list(iterations[0].get("eval", {}).get("by_group", {}))
    curves = {"held-out": get("eval", "accuracy")}
    if 1 < len(groups) <= 3:
        curves = {f"held-out, {group}": get("eval", "by_group", group, "accuracy") for group in groups}
    curves["samples right"] = get("reward", "by_source", "explore", "share")
    curves["after refinement"] = get("reward", "by_source", "refine", "share")
    curves["tasks solved (pool)"] = [100 * s["select"]["solved_pool"] / s["select"]["tasks"] if "select" in s else None
                                     for s in iterations]
    return {name: values for name, values in curves.items() if any(value is not None for value in values)}


def picture(curves: dict[str, list], title: str) -> str:
    """An SVG line chart: percent over iterations."""
    last = max(1, max(map(len, curves.values())) - 1)

    def x(iteration):
        return LEFT + (WIDTH - LEFT - RIGHT) * iteration / last

    def y(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / 100)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="13"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
             f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{title}</text>']
    for value in range(0, 101, 20):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{value} %</text>')
    for iteration in range(last + 1):
        parts.append(f'<text x="{x(iteration)}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{iteration}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">iteration</text>')
    label_y = -1000.0
    ends = sorted(((next(v for v in reversed(values) if v is not None), name) for name, values in curves.items()),
                  reverse=True)
    for end, name in ends:  # from the highest, so that labels can make room downwards
        colour = COLOURS[list(curves).index(name) % len(COLOURS)]
        points = [(x(i), y(value)) for i, value in enumerate(curves[name]) if value is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        label_y = max(y(end) + 4, label_y + 16)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in points]
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{label_y:.1f}" fill="{colour}">{name} {end:.0f} %</text>')
    return "\n".join(parts) + "\n</svg>\n"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", required=True, help="metrics.jsonl of a run")
    parser.add_argument("--out", default=None, help="picture to write (SVG); nothing: print the table alone")
    parser.add_argument("--title", default="What the model has taught itself", help="of the picture")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    iterations = by_iteration(envs.read_jsonl(args.inputs, require=("stage", "iteration", "seconds")))
    print("\n".join(table_lines(iterations)))
    if args.out:
        envs.write_whole(args.out, picture(series(iterations), args.title))
        print(f"report: -> {args.out}")


if __name__ == "__main__":
    main()
