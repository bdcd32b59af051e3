"""The tables that run.sh ends with: one run by iteration, or several runs side by side.

Every accuracy comes with its 95 % interval (Wilson's): what the same model would score on other
questions of the same kind. `programs` are all that were sampled in an iteration, rewrites included:
methods are compared fairly where these are equal (BUDGET of run.sh).
"""
from __future__ import annotations

import statistics

from data.runs import distinct_questions, grouped, last_evaluation, scores, unfinished, wilson

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



# ---------------------------------------------------------------------------------- Comparison --

def final_scores(run) -> dict:
    """{"test": (accuracy, num), "known": ...} of a run's last evaluation."""
    at = list(run["iterations"]).index(last_evaluation(run))
    return {name: points[at] for name, points in scores(run["iterations"]).items() if points[at]}


def total(run, stages, field) -> float:
    """The sum of a field over all iterations: total(run, ("train",), "steps") -> 400"""
    return sum(row.get(field, 0) for by_stage in run["iterations"].values()
               for stage, row in by_stage.items() if not stages or stage in stages)


def pooled(runs) -> str:
    """Accuracy over all questions of all runs. A question that several ask counts once in n."""
    asked = [final_scores(run)["test"] for run in runs]
    num = sum(one[1] for one in asked)
    right = sum(share * one for share, one in asked) / num
    return with_interval((right, distinct_questions(runs) or num))


def spread(values, show=percent) -> str:
    """[0.5, 0.75, 0.6] -> "60.0 (50.0-75.0)": median and range; a single value alone"""
    values = list(values)
    if not values:
        return "-"
    middle, low, high = (show(one) for one in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def comparison(runs) -> list[list]:
    """A line for each method: its finished runs, their last held-out accuracy, what they cost."""
    early = unfinished(runs)
    groups = grouped(runs)
    finals = {label: [final_scores(run) for run in some if run not in early]
              for label, some in groups.items()}
    names = list(dict.fromkeys(name for every in finals.values() for one in every for name in one))
    lines = [["method", "seeds", *(f"{name} %" for name in names), "pooled % (95 %)", "programs",
              "steps", "min"]]
    for label, some in groups.items():
        done = [run for run in some if run not in early]
        if not done:
            lines.append([label, 0, *"-" * (len(lines[0]) - 2)])
            continue
        costs = [(("explore", "refine"), "programs"), (("train",), "steps")]
        lines.append([
            label, len(done),
            *(spread(one[name][0] for one in finals[label] if name in one) for name in names),
            pooled(done),
            *(f"{statistics.median(total(run, *cost) for run in done):,.0f}" for cost in costs),
            f"{statistics.median(total(run, (), 'seconds') for run in done) / 60:.1f}"])
    return lines


def comparison_notes(runs) -> str:
    """What must be known to read the comparison: what is counted, and which runs are not."""
    early = unfinished(runs)
    notes = ["%: held out after the last training, median (range) over seeds. programs sampled for "
             "training, optimiser", "steps and minutes by the clock: of a run, the median. pooled: "
             "all questions of all seeds, with Wilson's interval;"]
    repeated = 0
    for some in grouped(run for run in runs if run not in early).values():
        asked = sum(final_scores(run)["test"][1] for run in some)
        repeated += asked - (distinct_questions(some) or asked)
    notes.append("questions of different seeds are different draws." if not repeated else
                 "a question that is asked several times counts once in it.")
    return "\n".join(notes + [f"not counted, ended before the others: {run['name']}"
                              for run in early])
