"""data/report.py: tables and picture of a run, of an unfinished one, and of a broken file."""
import itertools
import json
import os
import xml.dom.minidom
from pathlib import Path

import pytest
from conftest import load_stage, run_stage

import envs
from data.figures import save_whole
from data.page import safe
from data.runs import grouped, read_runs, wilson
from data.samples import examples, pass_at, passed, read_samples
from data.tables import comparison, comparison_notes
from nanoenvisions.browser import GET_CHROMIUM

REPORT = load_stage("data/report")
ACCURACY = [0.25, 0.5, 0.75]


def rows(t, finished=True, groups=("known", "unseen", "new formula")):
    by_group = {name: {"accuracy": ACCURACY[t], "num": 40} for name in groups}
    yield {"stage": "eval", "iteration": t, "seconds": 1, "accuracy": ACCURACY[t], "num": 120,
           "by_group": by_group}
    if finished:
        yield {"stage": "explore", "iteration": t, "seconds": 60.4, "programs": 800}
        if t:
            yield {"stage": "refine", "iteration": t, "seconds": 70, "programs": 800}
        by_source = {"explore": {"share": 0.1 + t / 5}, **({"refine": {"share": 0.4}} if t else {})}
        yield {"stage": "reward", "iteration": t, "seconds": 2, "by_source": by_source}
        yield {"stage": "select", "iteration": t, "seconds": 1, "solved_now": 50, "tasks": 160,
               "solved_pool": 80, "rows": 90}
        yield {"stage": "train", "iteration": t, "seconds": 65}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def report(capsys):
    """report(folder, "--out", path) -> what is printed"""
    def report(*words):
        REPORT.main(["--in", *map(str, words)])
        return capsys.readouterr().out
    return report


@pytest.fixture
def metrics(tmp_path):
    records = [*rows(0), *rows(1), *rows(2, finished=False)]
    return write(tmp_path / "metrics.jsonl", records)


def cells(text) -> list[list[str]]:
    """The words of each line of the tables."""
    return [line.split() for line in text.splitlines()]


def test_the_tables_say_what_the_metrics_say(metrics):
    done = run_stage("data/report", "--in", metrics)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for name in ("test", "known", "unseen", "new formula"):
        assert f"{name} % (95 %)" in text
    lines = cells(text)
    # Wilson's interval of 30 of 120: (18.1, 33.4) percent; of 10 of 40: (14.2, 40.2)
    assert lines[1] == ["0", "25.0", "(18-33)", *["25.0", "(14-40)"] * 3]
    assert ["0", "800", "10.0", "-", "50", "80", "90", "60", "-", "2", "65"] in lines
    assert ["1", "1,600", "30.0", "40.0", "50", "80", "90", "60", "70", "2", "65"] in lines
    assert ["2", *"----------"] in lines
    assert len({len(line) for line in text.splitlines()[:4]}) == 1  # aligned


def test_intervals_are_wilsons():
    assert wilson(0.5, 48) == pytest.approx((0.3637, 0.6363), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson(1, 10) == pytest.approx((0.7225, 1), abs=1e-3)


def the_figure(name, *folders):
    """One figure of the page, by its name."""
    runs = read_runs(folders)
    for run in runs:
        run["samples"] = read_samples(run)
    (_, _, _, figure), = REPORT.make_figures(grouped(runs), names=[name])
    return figure


def curves(figure) -> dict:
    return {line.get_gid(): [list(line.get_xdata()), [round(y, 4) for y in line.get_ydata()]]
            for line in figure.axes[0].lines}


def band(axes, number=0):
    """Least and most of a band."""
    heights = axes.collections[number].get_paths()[0].vertices[:, 1]
    return heights.min(), heights.max()


def test_the_main_curve_shows_the_groups_and_the_interval(metrics):
    figure = the_figure("accuracy", metrics)
    assert curves(figure) == dict.fromkeys(["all", "known", "unseen", "new formula"], [[0, 1, 2], [25, 50, 75]])
    assert band(figure.axes[0]) == pytest.approx((18.1, 81.9), abs=0.1)
    assert figure.axes[0].get_ylim() == (0, 100)
    assert {text.get_text() for text in figure.axes[0].texts} == {
        f"{name} 75 %" for name in ("all", "known", "unseen", "new formula")}
    assert curves(the_figure("training", metrics)) == {
        "samples right": [[0, 1], [10, 30]], "rewrites right": [[1], [40]],  # none in iteration 0
        "tasks solved so far": [[0, 1], [50, 50]]}


def test_labels_do_not_overlap(tmp_path):
    """Twelve methods with the same end: their labels are at least a line of text apart, and none over the top."""
    for number in range(12):
        make_run(tmp_path / str(number), (40, 0.95), METHOD=f"method-{number}")
    axes = the_figure("accuracy", tmp_path).axes[0]
    heights = sorted(text.xy[1] for text in axes.texts)
    points = 72 * (axes.figure.get_figheight() - 0.75) / 100  # of a percent, at the least
    assert len(heights) == 12 and max(heights) <= 100
    assert min(b - a for a, b in zip(heights, heights[1:])) * points > 9


@pytest.mark.parametrize("name, begins", [("curve.svg", b"<?xml"), ("curve.PNG", b"\x89PNG")])
def test_the_ending_decides_the_format(report, metrics, tmp_path, name, begins):
    """And the same metrics give the same file."""
    assert f"report: -> {tmp_path / name}" in report(metrics, "--out", tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(begins)
    report(metrics, "--out", tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    if name.endswith("svg"):
        assert len(xml.dom.minidom.parseString(first).getElementsByTagName("path")) > 20
    assert not list(tmp_path.glob("*.tmp*"))


@pytest.mark.parametrize("records", [
    [row for row in rows(0) if row["stage"] != "eval"], [*rows(0, finished=False)],
    [{"stage": "train", "iteration": 3, "seconds": 1}],
    [*rows(0, finished=False, groups=("only",)), {**next(rows(1)), "by_group": {}}],
    [*rows(0, groups=[f"page {number}" for number in range(44)])]],
    ids=["no evaluation", "nothing but one", "later only", "groups come and go", "44 groups"])
def test_an_unfinished_or_unusual_run_has_its_tables_too(report, tmp_path, records):
    path = write(tmp_path / "metrics.jsonl", records)
    assert "test % (95 %)" in report(path, "--out", tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").exists()


@pytest.mark.parametrize("line, words", [
    ('{"stage": "eval"', "not JSON"), ("[]", "not a JSON object"), ("", "no records"),
    ('{"stage": "eval", "iteration": 0, "seconds": 1}', '"accuracy"'),
    ('{"stage": "eval", "iteration": 0, "seconds": 1, "accuracy": 50, "num": 9}', '"accuracy"'),
    ('{"stage": "eval", "iteration": 0, "seconds": 1, "accuracy": 1, "num": 9, '
     '"by_group": {"a": 1}}', '"by_group"'),
    ('{"stage": "eval", "iteration": 0, "seconds": 1, "accuracy": 1, "num": 9, "by_group": [1]}',
     '"by_group"'),
    ('{"stage": "reward", "iteration": 0, "seconds": 1, "by_source": {"explore": {}}}', '"share"'),
    ('{"stage": "select", "iteration": 0, "seconds": 1, "tasks": "many"}', '"tasks"'),
    ('{"stage": "train", "iteration": 0}', '"seconds"'),
    ('{"stage": "train", "iteration": 0, "seconds": "1"}', '"seconds"'),
    ('{"stage": [], "iteration": 0, "seconds": 1}', '"stage"'),
    ('{"stage": "train", "iteration": "0", "seconds": 1}', '"iteration"')])
def test_a_broken_file_is_one_line(tmp_path, line, words):
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(SystemExit) as end:
        REPORT.main(["--in", str(tmp_path / "metrics.jsonl"), "--out", str(tmp_path / "c.svg")])
    message = str(end.value)
    assert words in message and "\n" not in message and str(tmp_path) in message


def test_where_nothing_can_be_written_or_read_is_said(metrics, tmp_path):
    for flags, words in ((("--out", tmp_path / "no/curve.svg"), "No such file"),
                         (("--out", tmp_path / "curve.txt"), "must end in .svg, .png or .html")):
        done = run_stage("data/report", "--in", metrics, *flags)
        assert done.returncode and words in done.stderr and "Traceback" not in done.stderr
    done = run_stage("data/report", "--in", tmp_path / "none.jsonl")
    assert done.returncode == 1 and "No such file" in done.stderr


# ---------------------------------------------------------------------------------- Several runs --

def make_run(folder, last=(60, 0.5), test="abc", **settings):
    """A finished run of two iterations; last: (questions, accuracy) of its last evaluation."""
    folder.mkdir(parents=True)
    final = {**next(rows(2)), "num": last[0], "accuracy": last[1], "by_group": {
        "known": {"accuracy": last[1], "num": 1}, "new": {"accuracy": 0, "num": 1}}}
    write(folder / "metrics.jsonl", [*rows(0), *rows(1), final, {
        "stage": "train", "iteration": 0, "seconds": 60, "steps": 30}])
    settings = {"METHOD": "envisions", "SEED": "0", "NUM_TRAIN": "160", "AGAIN": "1", **settings}
    (folder / "settings").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    write(folder / "test.jsonl", [{"id": f"{settings['SEED']}/{name}", "question": name} for name in test])
    return folder


def test_methods_are_compared_over_their_seeds(tmp_path):
    """Worked by hand: median, range, Wilson's interval of all questions; programs, steps, minutes of a run."""
    for seed, right in enumerate((0.5, 0.75, 0.6)):
        make_run(tmp_path / f"a/seed{seed}", (40, right), test=[f"{seed} {number}" for number in range(40)], SEED=seed)
    make_run(tmp_path / "b/seed0", (40, 0.25), test=map(str, range(40)), METHOD="rft", AGAIN="0.5")
    runs = read_runs([tmp_path / "a", tmp_path / "b/seed0/metrics.jsonl", tmp_path / "a/seed0"])  # one of them twice
    head, first, second = comparison(runs)
    assert head == ["method", "seeds", "test %", "known %", "new %", "pooled % (95 %)", "programs", "steps", "min"]
    # 74 of 120 right: Wilson's interval (52.8, 69.9)
    assert first == ["envisions", 3, "60.0 (50.0-75.0)", "60.0 (50.0-75.0)", "0.0 (0.0-0.0)", "61.7 (53-70)",
                     "2,400", "30", "5.4"]
    assert second[:6] == ["rft", 1, "25.0", "25.0", "0.0", "25.0 (14-40)"]
    assert "different draws" in comparison_notes(runs)


def test_a_question_of_several_seeds_counts_once_in_the_interval(tmp_path):
    for seed in "012":
        make_run(tmp_path / f"seed{seed}", (40, 0.5), test=map(str, range(40)), SEED=seed)
    runs = read_runs([tmp_path])
    assert comparison(runs)[1][5] == "50.0 (35-65)"  # Wilson's of 20 of 40, not of 60 of 120
    assert "counts once" in comparison_notes(runs)


@pytest.mark.parametrize("given, labels", [
    ([{}, {"SEED": "1"}], ["envisions"]),
    ([{}, {"METHOD": "star", "AGAIN": "0.5"}], ["envisions", "star"]),  # AGAIN: star's own
    ([{}, {"AGAIN": "0.5"}], ["envisions, AGAIN=1", "envisions, AGAIN=0.5"]),
    ([{}, {"METHOD": "star", "NUM_TRAIN": "9"}], ["envisions, NUM_TRAIN=160", "star, NUM_TRAIN=9"])])
def test_a_group_is_named_by_what_is_different(tmp_path, given, labels):
    for number, settings in enumerate(given):
        make_run(tmp_path / str(number), **settings)
    assert list(grouped(read_runs([tmp_path]))) == labels


def test_an_unfinished_run_is_named_and_not_counted(tmp_path):
    for seed, records in enumerate((None, [*rows(0)], [*rows(0), *rows(1), next(rows(2)), [*rows(2)][1]])):
        folder = make_run(tmp_path / f"seed{seed}", (40, 0.5), SEED=seed)
        if records:
            write(folder / "metrics.jsonl", records)
    runs = read_runs([tmp_path])
    assert comparison(runs)[1][1:3] == [1, "50.0"]
    assert [line.rpartition("/")[2] for line in comparison_notes(runs).splitlines() if "not counted" in line] \
        == ["seed1", "seed2"]


def test_a_method_with_fewer_iterations_is_finished_too(tmp_path):
    make_run(tmp_path / "long", (40, 0.5))
    short = make_run(tmp_path / "short", METHOD="distill")  # one iteration, the other has two
    write(short / "metrics.jsonl", [*rows(0), *rows(1, finished=False)])
    runs = read_runs([tmp_path])
    assert "not counted" not in comparison_notes(runs) and [row[1] for row in comparison(runs)[1:]] == [1, 1]


def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    (make_run(tmp_path / "torn") / "metrics.jsonl").write_text('{"stage": "eval", "ite')
    done = run_stage("data/report", "--in", tmp_path / "a", tmp_path / "b", tmp_path / "torn", tmp_path / "none")
    assert done.returncode == 0 and cells(done.stdout)[1][:2] == ["envisions", "2"]
    wrong = done.stderr.splitlines()
    assert len(wrong) == 2 and "torn/metrics.jsonl:1: not JSON" in wrong[0] and "left out" in wrong[1]
    done = run_stage("data/report", "--in", tmp_path / "torn", tmp_path / "none")
    assert done.returncode == 1 and "none of these runs can be read" in done.stderr and "Traceback" not in done.stderr


# -------------------------------------------------------------------------------------- The page --

HOSTILE = "def solution():\n    '</script><script>document.title = 1</script></pre><img src=x onerror=alert(1)>&amp;'"


def candidate(task, k, right, source="explore", program=None, **fields):
    program = program or f"def solution():\n    return {right}  # {k}"
    return {"id": task, "question": f"What is <b>{task}</b>?", "answer": 1, "iteration": 1, "candidate": k,
            "source": source, "program": program, "reward": right, "outcome": "correct" if right else "wrong",
            "result": str(right), "self_reward": -0.5, **fields}


RECORDS = [candidate("one", 0, 0, program=HOSTILE), candidate("one", 1, 1), candidate("two", 0, 0),
           candidate("two", 1, 0), candidate("one", 0, 1, "refine"), candidate("one", 1, 0, "refine", HOSTILE),
           candidate("two", 0, 0, "refine"), candidate("two", 1, 0, "refine", "\ud800\x00\u202e" + "x" * 5000)]


@pytest.fixture
def one_run(tmp_path):
    """A finished run with candidates of hostile programs in iteration 1."""
    folder = make_run(tmp_path / "run", (40, 0.5))
    for t in (0, 1):
        (folder / f"iter{t}").mkdir()
        write(folder / f"iter{t}/rewarded.jsonl", RECORDS)
    return folder


@pytest.fixture(scope="module")
def browser():
    """A real Chromium. Without one the tests are skipped, with the command that gets it."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    debian = Path("/usr/lib/chromium/chromium-headless-shell")
    with api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or (debian if debian.exists() else None),
                chromium_sandbox=False, args=["--host-resolver-rules=MAP * ~NOTFOUND"])
        except api.Error as error:
            pytest.skip(f"no working Chromium: {str(error).splitlines()[0]} ({GET_CHROMIUM})")
        yield chromium
        chromium.close()


def test_pass_at_k_is_the_unbiased_estimate():
    """Against every way to draw k of the n samples."""
    for num, right, k in ((5, 2, 1), (5, 2, 3), (4, 0, 2), (3, 3, 2), (6, 1, 6)):
        drawn = list(itertools.combinations([1] * right + [0] * (num - right), k))
        assert pass_at(k, num, right) == pytest.approx(sum(map(any, drawn)) / len(drawn))


def test_samples_are_counted_without_rewrites(one_run):
    run, = read_runs([one_run])
    samples = read_samples(run)
    assert samples["counts"] == {0: [(2, 1), (2, 0)], 1: [(2, 1), (2, 0)]}
    assert passed(samples, 1) == {0: 0.25, 1: 0.25} and passed(samples, 2) == {0: 0.5, 1: 0.5}
    assert curves(the_figure("pass", one_run)) == {"pass@1": [[0, 1], [25, 25]], "pass@2": [[0, 1], [50, 50]]}


def test_examples_are_drafts_beside_their_own_rewrites():
    found = [(kind, a["candidate"], a["reward"], b["source"], b["reward"]) for kind, a, b in examples(RECORDS)]
    assert found == [("repaired", 0, 0, "refine", 1), ("spoilt", 1, 1, "refine", 0)]
    (kind, wrong, right), = examples(RECORDS[:4])
    assert kind == "sampled" and (wrong["reward"], right["reward"]) == (0, 1)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk_and_runs_nothing(one_run, tmp_path, browser, width, report):
    """Programs are strangers' text: shown to the letter, never run; nothing is fetched."""
    for seed in (1, 2):
        make_run(tmp_path / f"run{seed}", METHOD="a-method-with-a-very-long-name-" * 3, SEED=str(seed))
    path = tmp_path / "report.html"
    report(one_run, tmp_path / "run1", tmp_path / "run2", "--out", path, "--title", "<script>1</script>")
    page = browser.new_page(viewport={"width": width, "height": 844})
    seen = []
    page.on("dialog", lambda dialog: seen.append("a dialog"))
    page.on("console", lambda message: seen.append(message.text))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or seen.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert page.title() == "<script>1</script>" and not seen
    assert page.locator("script").count() == 0 and page.locator("pre img, pre b").count() == 0
    text = page.locator("pre").all_text_contents()
    assert any("</script><script>document.title = 1</script></pre><img" in one for one in text)
    assert "What is <b>one</b>?" in text
    pictures = page.locator("figure img")
    assert pictures.count() >= 5
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 300)")
    small = page.evaluate("Math.min(...[...document.images].map(image => image.getBoundingClientRect().width))")
    assert small > 340  # a figure's 346 points: its letters are as large as the text's
    page.close()


def test_the_page_of_a_broken_run_shows_what_there_is(one_run, tmp_path):
    """A torn file of candidates, none at all, and metrics that are no numbers."""
    (one_run / "iter0/rewarded.jsonl").write_text('{"id": "on')
    (one_run / "iter1/rewarded.jsonl").unlink()
    with open(one_run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": "select", "iteration": 1, "seconds": 1, "margin": "wide", "lost": None,
                               "solved_now": 1, "solved_new": 0}) + "\n")
        file.write(json.dumps({"stage": "reward", "iteration": 0, "seconds": 1, "outcomes": {"wrong": "many"}}) + "\n")
    done = run_stage("data/report", "--in", one_run, "--out", tmp_path / "report.html")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 2 and done.stderr.count("left out") == 2
    text = (tmp_path / "report.html").read_text()
    assert "iter0/rewarded.jsonl:1: not JSON" in text and "Does it get better" in text


@pytest.mark.parametrize("records", [[{"stage": "train", "iteration": 0, "seconds": 1}], [*rows(0, finished=False)],
                                     [*rows(0)]], ids=["training alone", "one evaluation", "one iteration"])
def test_the_page_of_an_unfinished_run(report, tmp_path, records):
    write(tmp_path / "metrics.jsonl", records)
    report(tmp_path, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")


def test_pictures_for_slides(report, one_run, tmp_path):
    assert "pictures in" in report(one_run, "--pictures", tmp_path / "slides")
    names = {path.stem for path in (tmp_path / "slides").iterdir()}
    assert {"accuracy", "training", "pass", "mixed", "time"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "slides").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="choose another folder"):
        report(one_run, "--pictures", tmp_path / "file")


def test_names_are_no_formulas_and_not_too_long(tmp_path):
    """$x$ would be a formula for matplotlib, and a wrong one an error."""
    for number, method in enumerate((r"$\wrong{", "m" * 90, "_hidden")):
        make_run(tmp_path / str(number), METHOD=method)
    figure = the_figure("accuracy", tmp_path)
    save_whole(figure, tmp_path / "out.png")
    assert len({text.get_text() for text in figure.axes[0].texts}) == 3


def test_text_is_safe():
    assert safe('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"
    assert safe("a\tb\nc\x00\x1b\ud800é") == "a\tb\nc\ufffd\ufffd\ufffdé"
    assert safe("x" * 20, 8).startswith("xxxxxxxx … (12 more")
