"""data/report.py: tables and picture of a run, of an unfinished one, and of a broken file."""
import json
import xml.dom.minidom

import pytest
from conftest import load_stage, run_stage

import envs
from data.runs import by_iteration, grouped, read_runs
from data.tables import comparison, comparison_notes

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
    """report(path, flags) -> what is printed"""
    def report(path, *flags):
        REPORT.main(["--in", str(path), *map(str, flags)])
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
    wilson = REPORT.wilson
    assert wilson(0.5, 48) == pytest.approx((0.3637, 0.6363), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson(1, 10) == pytest.approx((0.7225, 1), abs=1e-3)


def test_the_picture_shows_each_curve_and_the_interval(metrics):
    figure = REPORT.picture(by_iteration(envs.read_jsonl(metrics)), "Title")
    axes = figure.axes[0]
    curves = {line.get_gid(): [list(line.get_xdata()), list(line.get_ydata())]
              for line in axes.lines}
    assert curves["held out"] == [[0, 1, 2], [25, 50, 75]]
    assert {"held out, known", "held out, unseen", "held out, new formula"} < set(curves)
    assert curves["samples right"] == [[0, 1], pytest.approx([10, 30])]
    assert curves["rewrites right"] == [[1], [40]]  # none in iteration 0
    assert curves["tasks solved, in the pool"] == [[0, 1], [50, 50]]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(18.1, abs=0.1)
    assert band[:, 1].max() == pytest.approx(81.9, abs=0.1)
    assert axes.get_ylim() == (0, 100)


@pytest.mark.parametrize("name, begins", [("curve.svg", b"<?xml"), ("curve.PNG", b"\x89PNG")])
def test_the_ending_decides_the_format(report, metrics, tmp_path, name, begins):
    """And the same metrics give the same file."""
    assert f"report: -> {tmp_path / name}" in report(metrics, "--out", tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(begins)
    report(metrics, "--out", tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    if name.endswith("svg"):
        assert "held out: 75 %" in xml.dom.minidom.parseString(first).toxml()
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
                         (("--out", tmp_path / "curve.txt"), "must end in .svg or .png")):
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
    write(folder / "test.jsonl", [{"id": name, "question": name} for name in test])
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
    assert [line.rpartition("/")[2] for line in comparison_notes(runs).splitlines() if "unfinished" in line] \
        == ["seed1", "seed2"]


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
