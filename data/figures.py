"""The figures of data/report.py: one message each, readable in print and on a phone.

Lines are medians over seeds; a band is their range, or of a single run the 95 % interval. Bars are
means over seeds. The colours are Okabe and Ito's, which colour-blind people can tell apart, and
each line has a marker and a label of its own besides.
"""
from __future__ import annotations

import os
import statistics
import warnings
from pathlib import Path

import envs
from data.runs import scores, wilson
from data.samples import mixture, passed, smallest
from nanoenvisions.records import is_number

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vP*"
SIZE = 4.8, 3.0     # inches; 4.8 are 346 points, about the width of a phone
MOST_PANELS = 6     # small multiples in one figure
STYLE = {"font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "legend.frameon": False,
         "axes.spines.right": False, "svg.hashsalt": "nanoENVISIONS", "svg.fonttype": "path"}
OUTCOMES = {"correct": "#0072B2", "wrong": "#E69F00", "error": "#D55E00", "timeout": "#CC79A7",
            "no_program": "#000000"}
STAGES = {"explore": "#0072B2", "refine": "#56B4E9", "reward": "#E69F00", "select": "#000000",
          "train": "#009E73", "evaluation": "#CC79A7"}


def plain(text, width=26) -> str:
    """A label as it is: no $formula$ for matplotlib, not too long."""
    text = str(text)
    return (text if len(text) <= width else text[:width - 1] + "…").replace("$", r"\$")


def new_figure(ylabel, height=SIZE[1], xlabel="iteration"):
    from matplotlib.figure import Figure  # not pyplot: needs no display
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.25)
    return figure, axes


# --------------------------------------------------------------------------------------- Lines --

def values(run, stage, field, factor=1) -> dict[int, float]:
    """{iteration: what metrics.jsonl says}; what is no number is left out."""
    return {number: factor * stages[stage][field] for number, stages in run["iterations"].items()
            if stage in stages and is_number(stages[stage].get(field))}


def accuracy(run, name="test") -> dict[int, float]:
    points = scores(run["iterations"]).get(name, [])
    return {number: 100 * point[0] for number, point in zip(run["iterations"], points) if point}


def draw(axes, label, some, index=0, **style):
    """One line: the median over `some` runs' {iteration: value}, and a band from least to most."""
    at = {x: [one[x] for one in some if x in one] for x in sorted(set().union(*some))}
    if not at:
        return
    colour = COLOURS[index % len(COLOURS)]
    style = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4, "linewidth": 2} | style
    middle = [statistics.median(every) for every in at.values()]
    line, = axes.plot(list(at), middle, color=colour, gid=label, **style)
    if any(len(every) > 1 for every in at.values()):
        axes.fill_between(list(at), [min(every) for every in at.values()],
                          [max(every) for every in at.values()], alpha=0.15, linewidth=0,
                          color=colour)
    return line


def label_ends(axes, unit=""):
    """Each line's name and last value at its right end, pushed apart where they would overlap."""
    figure, (bottom, top) = axes.figure, axes.get_ylim()
    figure.set_figheight(max(SIZE[1], 0.9 + 0.19 * len(axes.lines)))  # room for every label
    gap = 0.18 / (figure.get_figheight() - 0.75) * (top - bottom)
    ends = sorted((line.get_ydata()[-1], number) for number, line in enumerate(axes.lines))
    places, last = [], -float("inf")
    for y, number in ends:  # from below: each at least a line above the one before
        last = max(y, last + gap)
        places.append([last, y, number])
    limit = top
    for place in reversed(places):  # and from above: none over the top
        place[0] = min(place[0], limit)
        limit = place[0] - gap
    right = axes.get_xlim()[1]
    for place, y, number in places:
        line = axes.lines[number]
        shown = f"{y:.0f}" if unit == " %" else f"{y:.2f}"
        axes.annotate(f"{plain(line.get_gid())} {shown}{unit}",
                      (right, place), xytext=(4, 0), textcoords="offset points",
                      va="center", color=line.get_color(), annotation_clip=False, fontsize=9)


def lines(groups, ylabel, of, unit="", **limits):
    """A figure with a line for each group; of(run) -> {iteration: value}. None without values."""
    figure, axes = new_figure(ylabel)
    for index, (label, runs) in enumerate(groups.items()):
        draw(axes, label, [of(run) for run in runs], index)
    if not axes.lines:
        return None
    axes.set(**limits)
    label_ends(axes, unit)
    return figure


def evolution(groups, title=None):
    """The main curve: held-out accuracy. Of one run its groups of questions and the interval."""
    runs = [run for some in groups.values() for run in some]
    figure, axes = new_figure("held-out accuracy, %")
    axes.set(ylim=(0, 100), title=title)
    if len(groups) > 1:
        for index, (label, some) in enumerate(groups.items()):
            draw(axes, label, list(map(accuracy, some)), index)
    else:
        names = dict.fromkeys(name for run in runs for name in scores(run["iterations"]))
        for index, name in enumerate(names):
            thin = {} if name == "test" else {"linewidth": 1.2, "linestyle": "--"}
            draw(axes, "all" if name == "test" else name,
                 [accuracy(run, name) for run in runs], index, **thin)
    if len(runs) == 1:
        points = [(number, point) for number, point
                  in zip(runs[0]["iterations"], scores(runs[0]["iterations"])["test"]) if point]
        bands = [[100 * end for end in wilson(*point)] for _, point in points]
        if points:
            axes.fill_between([number for number, _ in points], *zip(*bands), alpha=0.15,
                              linewidth=0, color=COLOURS[0])
    label_ends(axes, " %")
    return figure


def training(groups):
    """Right samples, right rewrites, tasks solved so far; of several groups the tasks alone."""
    def pool(run):
        return {number: 100 * row["solved_pool"] / row["tasks"]
                for number, stages in run["iterations"].items()
                if (row := stages.get("select", {})).get("tasks") and "solved_pool" in row}

    def share(source):
        return lambda run: {number: 100 * stages["reward"]["by_source"][source]["share"]
                            for number, stages in run["iterations"].items()
                            if source in stages.get("reward", {}).get("by_source", {})}
    if len(groups) > 1:
        return lines(groups, "tasks solved so far, %", pool, " %", ylim=(0, 100))
    runs = next(iter(groups.values()))
    figure, axes = new_figure("%")
    for index, (name, of) in enumerate((("tasks solved so far", pool), ("samples right",
                                        share("explore")), ("rewrites right", share("refine")))):
        draw(axes, name, list(map(of, runs)), index)
    axes.set(ylim=(0, 100))
    label_ends(axes, " %")
    return figure if axes.lines else None


def pass_at_k(groups):
    figure, axes = new_figure("training tasks solved, %")
    for index, (label, runs) in enumerate(groups.items()):
        k = min(map(smallest, (run["samples"] for run in runs)))
        for number in sorted({1, k} - {0}):
            name = f"{label + ' ' if len(groups) > 1 else ''}pass@{number}"
            draw(axes, name, [{x: 100 * y for x, y in passed(run["samples"], number).items()}
                              for run in runs], index, linestyle="-" if number == 1 else "--")
    axes.set(ylim=(0, 100))
    label_ends(axes, " %")
    return figure if axes.lines else None


# ---------------------------------------------------------------------------------------- Bars --

def average(rows) -> dict:
    """[{"a": 1}, {"a": 3, "b": 2}] -> {"a": 2, "b": 1}: means over the seeds."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0) for row in rows) / len(rows) for name in names}


def bars(groups, ylabel, of, colours, share=False):
    """Stacked bars per iteration, a panel for each group; of(run) -> {iteration: {part: value}}.

    Negative values hang below the axis. None without values.
    """
    from matplotlib.figure import Figure
    tables = {}
    for label, runs in list(groups.items())[:MOST_PANELS]:
        found = [of(run) for run in runs]
        tables[label] = {x: average([one[x] for one in found if x in one])
                         for x in sorted(set().union(*found))}
    tables = {label: table for label, table in tables.items() if table}
    if not tables:
        return None
    columns = {1: 1, 2: 2, 4: 2}.get(len(tables), 3)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(SIZE[0], SIZE[1] if rows == 1 else 0.7 + 1.8 * rows),
                    layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (label, table) in zip(panels.flat, tables.items()):
        up, down = dict.fromkeys(table, 0.0), dict.fromkeys(table, 0.0)
        for part, colour in colours.items():
            heights = [table[x].get(part, 0) for x in table]
            if any(heights):
                axes.bar(list(table), heights, 0.7, color=colour, label=part, edgecolor="white",
                         bottom=[(up if y >= 0 else down)[x] for x, y in zip(table, heights)])
            for x, y in zip(table, heights):
                (up if y >= 0 else down)[x] += y
        axes.set(title=plain(label) if len(tables) > 1 else "")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.axhline(0, color="black", linewidth=0.8)
        if share:
            axes.set_ylim(0, 100)
    for axes in panels.flat[len(tables):]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    for axes in panels.flat[max(0, len(tables) - columns):len(tables)]:
        axes.set_xlabel("iteration")
        axes.tick_params(labelbottom=True)
    handles = {name: handle for axes in panels.flat
               for handle, name in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside upper center", fontsize=9,
                  ncols=min(4, max(1, len(handles))), handlelength=1, columnspacing=1)
    return figure


def tasks_solved(run) -> dict:
    """{iteration: {"kept": .., "new": .., "lost": below zero}}"""
    table = {}
    for number, stages in run["iterations"].items():
        row = stages.get("select", {})
        if all(is_number(row.get(field)) for field in ("solved_now", "solved_new", "lost")):
            table[number] = {"solved again": row["solved_now"] - row["solved_new"],
                             "solved for the first time": row["solved_new"], "lost": -row["lost"]}
    return table


def outcomes(run) -> dict:
    table = {}
    for number, stages in run["iterations"].items():
        found = stages.get("reward", {}).get("outcomes")
        found = {name: count for name, count in found.items() if is_number(count)} \
            if isinstance(found, dict) else {}
        if total := sum(found.values()):
            table[number] = {name: 100 * count / total for name, count in found.items()}
    return table


def minutes(run) -> dict:
    """{iteration: {stage: minutes}}; an evaluation is its sampling and its rewards."""
    table = {}
    for number, stages in run["iterations"].items():
        spent = table.setdefault(number, {})
        for stage, row in stages.items():
            name = "evaluation" if stage.startswith("eval") else stage
            spent[name] = spent.get(name, 0) + row["seconds"] / 60
    return table


def shares(run) -> dict:
    return {number: {name: 100 * share for name, share in row.items()}
            for number, row in mixture(run["samples"]).items()}


# name of the picture, what it answers, how to read it, groups -> figure or None
FIGURES = [
    ("accuracy", "Does it get better on questions that it has not seen?",
     "Share of the held-out questions that one greedy program answers. Iteration t is the model "
     "that explores in iteration t; 0 is the base model with examples in its prompt.", evolution),
    ("training", "What does it find in training?",
     "Tasks with at least one right program so far; for a single method also the share of all "
     "samples and of all rewrites that are right.", training),
    ("solved", "Ability and stability: which tasks are solved, kept, lost?",
     "Training tasks. Ability is the first time, stability is again; lost ones were solved before, "
     "were explored now, and were not solved now.",
     lambda groups: bars(groups, "tasks", tasks_solved, {
         "solved again": "#0072B2", "solved for the first time": "#009E73", "lost": "#D55E00"})),
    ("mixed", "Where is there something to learn?",
     "Training tasks by their samples, without rewrites. Those with some right and some wrong "
     "samples teach most.", lambda groups: bars(groups, "tasks, %", shares, {
         "all right": "#0072B2", "some right": "#E69F00", "none right": "#000000"}, True)),
    ("pass", "Would more samples help?",
     "pass@k: the chance that at least one of k samples is right (unbiased estimate, rewrites left "
     "out). A wide gap between pass@1 and pass@K is what training can close.", pass_at_k),
    ("margin", "Does it believe more in right programs than in wrong ones?",
     "Mean self-reward r of the right programs in the pool minus that of the wrong ones; above 0 "
     "the model ranks right ones higher.", lambda groups: lines(
         groups, "margin of r, nats per token", lambda run: values(run, "select", "margin"))),
    ("solutions", "How many ways does it know?",
     "Distinct right programs in the pool per solved task.", lambda groups: lines(
         groups, "programs per solved task",
         lambda run: values(run, "select", "solutions_per_solved_task"))),
    ("logprob", "How sure is it of what it samples?",
     "Mean log-probability of a sampled token, without temperature: near 0 it nearly always writes "
     "the same, and finds nothing new.", lambda groups: lines(
         groups, "nats per token", lambda run: values(run, "explore", "logprob"))),
    ("outcomes", "What becomes of the programs?",
     "Samples and rewrites, by what running them gave.",
     lambda groups: bars(groups, "programs, %", outcomes, OUTCOMES, True)),
    ("time", "Where does the time go?", "By the clock. Loading the model counts to the "
     "first stage that needs it, in an iteration the evaluation.",
     lambda groups: bars(groups, "minutes", minutes, STAGES)),
]


# --------------------------------------------------------------------------------------- Files --

def save(figure, file, kind, dpi=150):
    """Into a path or an open file; the same metrics give the same bytes."""
    import matplotlib
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font does not have becomes a box
        figure.savefig(file, format=kind, dpi=dpi,
                       metadata={"Date": None} if kind == "svg" else None)


def save_whole(figure, path, dpi=150):
    """As SVG or PNG by its ending, whole or not at all."""
    path = Path(path)
    part = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        save(figure, part, path.suffix[1:].lower(), dpi)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        envs.fail(f"{path}: {error.strerror} (choose an --out that can be written)")
