"""envs.py schedule: which tasks an iteration explores, and which of them with examples."""
import json

import pytest
from conftest import run_stage

import envs


def schedule(folder, tasks, solved, *flags, iteration=1):
    """The tasks that are chosen for an iteration; solved: letters, the ids with a right program."""
    files = {name: folder / f"{name}.jsonl" for name in ("tasks", "pool", "out")}
    pool = [{"id": task["id"], "reward": int(task["id"] in solved)} for task in tasks]
    files["tasks"].write_text("".join(map(envs.dump, tasks)))
    files["pool"].write_text("".join(map(envs.dump, pool)))
    done = run_stage("envs", "schedule", "--in", files["tasks"], "--out", files["out"],
                     "--iteration", iteration, "--pool", files["pool"], *flags)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in files["out"].read_text().splitlines()]


def letters(chosen) -> str:
    return "".join(task["id"] for task in chosen)


def named(names):
    return [{"id": name} for name in names]


@pytest.mark.parametrize("solved, enough, chosen", [
    ("", 0.5, "ab"), ("a", 0.5, "abc"), ("ac", 0.5, "abcd"), ("c", 0.5, "ab"), ("a", 0.51, "ab"),
    ("", 0, "abcd"), ("ab", 1, "abc"), ("ab", 0.5, "abc")])
def test_the_next_level_waits_until_enough_of_this_one_is_solved(tmp_path, solved, enough, chosen):
    tasks = [{"id": name, "level": level} for name, level in zip("abcd", (1, 1, 2, 3))]
    assert letters(schedule(tmp_path, tasks, solved, "--enough", enough)) == chosen


def test_all_levels_are_let_in_at_once_unless_a_share_is_asked_for(tmp_path):
    tasks = [{"id": "a", "level": 1}, {"id": "b", "level": 2}]
    assert letters(schedule(tmp_path, tasks, "")) == "ab"


def test_unsolved_tasks_keep_their_examples_if_asked(tmp_path):
    """`few_shot` is the share of the samples; solved tasks have none, and nobody has by default."""
    a, b = schedule(tmp_path, named("ab"), "a", "--few-shot-unsolved", 0.5)
    assert "few_shot" not in a and b["few_shot"] == 0.5
    assert all("few_shot" not in task for task in schedule(tmp_path, named("ab"), "a"))


def test_without_a_pool_nothing_is_marked(tmp_path):
    """Iteration 0: all tasks have examples anyhow, by explore.py --few-shot."""
    (tmp_path / "tasks.jsonl").write_text("".join(map(envs.dump, named("ab"))))
    done = run_stage("envs", "schedule", "--in", tmp_path / "tasks.jsonl", "--iteration", 0,
                     "--out", tmp_path / "out.jsonl", "--few-shot-unsolved", 0.5, "--again", 0)
    assert done.returncode == 0, done.stderr
    assert envs.read_jsonl(tmp_path / "out.jsonl") == named("ab")


def test_solved_tasks_need_not_be_explored_again(tmp_path):
    assert letters(schedule(tmp_path, named("abcdefgh"), "abc")) == "abcdefgh"
    assert letters(schedule(tmp_path, named("abcdefgh"), "abc", "--again", 0)) == "defgh"
    many = [f"{number}" for number in range(200)]
    some = {task["id"] for task in schedule(tmp_path, named(many), many[:150], "--again", 0.3)}
    assert set(many[150:]) < some  # all unsolved ones, and three in ten of the others
    assert 30 <= len(some & set(many[:150])) <= 60
    (tmp_path / "later").mkdir()
    later = schedule(tmp_path / "later", named(many), many[:150], "--again", 0.3, iteration=2)
    assert {task["id"] for task in later} != some  # others in every iteration
    everything = schedule(tmp_path, named("abc"), "abc", "--again", 0)
    assert letters(everything) == "abc"  # there is nothing else to do


def test_the_most_needy_tasks_are_explored_first(tmp_path):
    """a and b were explored in iteration 0, c and d in 1: d never solved then; e and f never."""
    shares = {"a": (0, [1, 1]), "b": (0, [0, 1]), "c": (1, [0, 1, 1]), "d": (1, [0, 0])}
    files = []
    for t in (0, 1):
        files.append(tmp_path / f"rewarded{t}.jsonl")
        files[-1].write_text("".join(envs.dump({"id": name, "iteration": when, "reward": reward})
                                     for name, (when, rewards) in shares.items() if when == t
                                     for reward in rewards))
    files[1].write_text(files[1].read_text() + "".join(
        envs.dump({"id": "g", "iteration": 1, "reward": 1}) for _ in range(2)))
    files[0].write_text(files[0].read_text() + envs.dump({"id": "g", "iteration": 0, "reward": 0}))

    def most(number):
        return letters(schedule(tmp_path, named("abcdefg"), "", "--history", *files,
                                "--most", number))
    assert [most(n) for n in (2, 3, 4, 5, 6, 7)] == ["ef", "bef", "abef", "abdef", "abcdef",
                                                     "abcdefg"]
    assert most(1) in "ef" and most(100) == "abcdefg"
    some = {letters(schedule(tmp_path, named("abcdefgh"[:n]), "", "--most", 2)) for n in range(3, 9)}
    assert len(some) > 1 and some != {"ab"}  # by chance, not those that come first in the file


def test_tasks_of_a_round_belong_to_its_iteration(tmp_path):
    tasks = [{"id": "a", "round": 0}, {"id": "b", "round": 1}, {"id": "c"}]
    assert letters(schedule(tmp_path, tasks, "")) == "bc"


def test_what_cannot_be_scheduled_is_one_line(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(envs.dump({"id": "a", "round": 0}))
    flags = ("schedule", "--in", path, "--iteration", 1, "--out")
    done = run_stage("envs", *flags, tmp_path / "out")
    assert done.returncode == 1 and "no task for iteration 1 (make tasks" in done.stderr
    done = run_stage("envs", *flags, path)
    assert done.returncode == 1 and "would be overwritten" in done.stderr
    for share in ("2", "-0.1", "nan", "many"):
        done = run_stage("envs", *flags, tmp_path / "out", "--again", share)
        assert done.returncode == 2 and "--again" in done.stderr
    for most in ("0", "-1", "x"):
        done = run_stage("envs", *flags, tmp_path / "out", "--most", most)
        assert done.returncode == 2 and "--most" in done.stderr
    assert not (tmp_path / "out").exists()
