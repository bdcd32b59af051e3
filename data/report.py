"""After the last stage: the tables that run.sh ends with, pictures, and a page that shows the run.

Reads   metrics.jsonl: one object per stage and iteration; for a page also iterN/rewarded.jsonl and
        the settings of the run. Several runs are compared: those that differ in the seed alone are
        one line with a band, and what else differs is the line's name.
Writes  an SVG or PNG picture of the main curve, or an HTML page, by the ending of --out.

    python data/report.py --in runs/math --out runs/math/curve.svg runs/math/report.html
    python data/report.py --in runs/a runs/b --out report.html --pictures slides

The page is one file that opens from anywhere, without network. --pictures writes each of its
figures as a PNG for slides. Every accuracy comes with its 95 % interval: see data/tables.py.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the repository

import envs
from data import tables
from data.runs import grouped, read_runs, seed_of
from data.samples import read_samples
from nanoenvisions.flags import Parser


def make_figures(groups, title=None, names=None) -> list[tuple]:
    """[(name, question, how to read it, figure)] of those that the runs have values for."""
    import matplotlib
    from data import figures
    made = []
    with matplotlib.rc_context(figures.STYLE):
        for name, question, text, draw in figures.FIGURES:
            if names is None or name in names:
                figure = draw(groups, title) if title and name == "accuracy" else draw(groups)
                made += [(name, question, text, figure)] * (figure is not None)
    return made


def write_page(path, runs, groups, made, title):
    from data import page
    several = len(runs) > 1
    about = "; ".join(f"{label}: seed {', '.join(map(seed_of, some))}"
                      for label, some in groups.items())
    bands = ("Lines are medians over seeds, bands their range, bars means over seeds." if several
             else "The band of the first figure is the 95 % interval of all held-out questions.")
    lines = ([tables.comparison(runs)] if several else
             [tables.score_table(runs[0]["iterations"]), tables.work_table(runs[0]["iterations"])])
    notes = [*([tables.comparison_notes(runs).replace("\n", " ")] if several else ()), bands,
             *(f"left out: {why}" for run in runs for why in run["samples"]["missing"])]
    examples = []
    for label, some in groups.items():  # of the first run of a group that has any
        run = next((run for run in some if run["samples"]["examples"]), None)
        if run:
            examples.append((f"{label}: what became of programs in iteration "
                             f"{run['samples']['iteration']}",
                             run["samples"]["examples"][-2 if len(groups) > 1 else 0:]))
    envs.write_whole(path, page.page(title, about, lines, [part[1:] for part in made], examples,
                                     notes))


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--in", dest="inputs", required=True, nargs="+", metavar="RUN",
                        help="folder of a run, or its metrics.jsonl; several are compared; a "
                             "folder of runs (SEEDS=, METHODS=) stands for all of them")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="to write: .svg or .png, the main curve; .html, the page; "
                             "nothing: the tables alone")
    parser.add_argument("--pictures", metavar="FOLDER",
                        help="write each figure of the page into it, as a PNG for slides")
    parser.add_argument("--title", default="What the model has taught itself",
                        help="of the picture and the page")
    args = parser.parse_args(argv)
    for out in args.out:
        if Path(out).suffix.lower() not in (".svg", ".png", ".html"):
            parser.error(f"--out {out}: it must end in .svg, .png or .html")
    return args


def main(argv=None):
    args = parse_args(argv)
    runs = read_runs(args.inputs)
    groups = grouped(runs)
    if len(runs) == 1:
        print(tables.aligned(tables.score_table(runs[0]["iterations"])))
        print()
        print(tables.aligned(tables.work_table(runs[0]["iterations"])))
    else:
        print(tables.aligned(tables.comparison(runs)))
        print(tables.comparison_notes(runs))
    whole = args.pictures or any(Path(out).suffix.lower() == ".html" for out in args.out)
    for run in runs if whole else ():
        run["samples"] = read_samples(run)
    made = make_figures(groups, names=None if whole else ["accuracy"]) if whole else []
    if args.out or args.pictures:
        from data.figures import save_whole  # matplotlib: only where a picture is made
    for out in args.out:
        if Path(out).suffix.lower() == ".html":
            write_page(out, runs, groups, made, args.title)
        else:
            save_whole(make_figures(groups, args.title, ["accuracy"])[0][-1], out)
        print(f"report: -> {out}")
    if args.pictures:
        try:
            Path(args.pictures).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            envs.fail(f"{args.pictures}: {error.strerror} (choose another folder for --pictures)")
        for name, _, _, figure in made:
            save_whole(figure, Path(args.pictures) / f"{name}.png", 400)
        print(f"report: -> {len(made)} pictures in {args.pictures}")


if __name__ == "__main__":
    main()
