"""run.sh with DPO, unlikelihood, the model as its own judge, and a teacher: see test_methods.py."""
import json
import os
import subprocess

import pytest
from conftest import ROOT
from runs import (TEMPLATES, K, check_stages, learned, most, read, right, run, samples, solved, start,  # noqa: F401
                  teacher_file)

import envs


@pytest.mark.parametrize("method", ["sft-dpo", "self-rewarding", "distill"])
def test_every_method_counts_each_stage_once_and_in_order(run, method):
    check_stages(run(method), refines=False)


def pairs_of(out, t) -> list:
    """(task, chosen, rejected); each from one task and one prompt, that of its question alone."""
    questions = {task["id"]: envs.solve_prompt(task) for task in read(out, "tasks")}
    pairs = read(out, f"iter{t}/pairs")
    assert all(pair["prompt"] == questions[pair["id"]] for pair in pairs)
    trained, = [row for row in read(out, "metrics") if (row["stage"], row["iteration"]) == ("train", t)]
    assert trained["pairs"] == len(pairs) > 0  # and all were trained on
    return [(pair["id"], pair["chosen"], pair["rejected"]) for pair in pairs]


def pool_side(out, t, reward) -> set:
    return {(record["id"], envs.completion(record["program"])) for record in read(out, f"iter{t}/pool")
            if record["reward"] == reward}


def test_sft_dpo_prefers_right_programs_of_the_pool_to_wrong_ones(run):
    out = run("sft-dpo")
    assert samples(out, 1) == {(K, 0)}
    for t in (0, 1):
        assert {(name, chosen) for name, chosen, _ in pairs_of(out, t)} <= pool_side(out, t, 1)
        assert {(name, rejected) for name, _, rejected in pairs_of(out, t)} <= pool_side(out, t, 0)
        assert most(name for name, _, _ in pairs_of(out, t)) == 2  # PAIRS
        assert learned(out, t) and not learned(out, t, "refine")


def test_no_answer_reaches_self_rewarding(run, tmp_path):
    """With answers that nothing can give: the same verdicts, pairs, rows and adapters, to the byte."""
    (tmp_path / "t.json").write_text(json.dumps(TEMPLATES).replace('"a + b"', '"a + b + 700"'))
    out, other = run("self-rewarding"), run("self-rewarding", MAKE_FLAGS=f"--templates {tmp_path}/t.json")
    assert [task["answer"] + 700 for task in read(out, "tasks")] == [
        task["answer"] for task in read(other, "tasks")]
    names = [f"iter{t}/{name}.jsonl" for t in (0, 1) for name in ("pairs", "sft")]
    for name in [*names, "iter0/adapter/adapter_model.safetensors", "iter1/adapter/adapter_model.safetensors"]:
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    evaluations = [[row["correct"] for row in read(one, "metrics") if row["stage"] == "eval"] for one in (out, other)]
    assert evaluations[0] != evaluations[1] == [0, 0, 0]  # which the environment judges, as ever
    for t in (0, 1):
        rewarded = read(out, f"iter{t}/rewarded")
        assert all(record["judged"] for record in rewarded) and pairs_of(out, t)
        first = {name: pair for name, *pair in reversed(pairs_of(out, t))}
        for name, pair in first.items():  # the best with the worst
            rank = {envs.completion(one["program"]): (one["reward"], one["self_reward"])
                    for one in read(out, f"iter{t}/pool") if one["id"] == name}
            assert list(map(rank.get, pair)) == [max(rank.values()), min(rank.values())]


def test_distill_learns_from_the_teacher(run, teacher_file):
    """Its programs instead of one's own; the right ones of them are learned, and mistakes too."""
    out = run("distill")
    explored = read(out, "iter0/explored")
    assert len(explored) == 12 and {record["teacher"] for record in explored} == {teacher_file.name}
    assert "logprob" not in explored[0] and len(solved(out, "iter0/pool")) == 6
    assert set(learned(out, 0)) == right(out, 0) and len(learned(out, 0)) == 6
    assert all("teacher" in record for record in read(out, "iter1/explored"))


def test_any_method_may_begin_with_a_teacher(run, teacher_file):
    """Iteration 0 has the teacher's programs, iteration 1 one's own; DPO and unlikelihood go with it."""
    for settings in ({"LOSS": "dpo"}, {"NEGATIVES": "unlikelihood", "ITERS": "1"}):
        out = run("envisions", TEACHER_FILE=str(teacher_file), **settings)
        assert all("teacher" in record for record in read(out, "iter0/explored")) and pairs_of(out, 0)
    out = run("envisions", TEACHER_FILE=str(teacher_file), LOSS="dpo")
    own = read(out, "iter1/explored") + read(out, "iter1/refined")
    assert own and not any("teacher" in record for record in own)
    assert learned(out, 0, "refine") and pairs_of(out, 1)


@pytest.mark.parametrize("settings, said", [
    ({"METHOD": "distill"}, "METHOD=distill needs TEACHER_FILE, or TEACHER_URL"),
    ({"LOSS": "dpo", "NEGATIVES": "unlikelihood"}, "choose one of them"),
    ({"TEACHER_FILE": "/nowhere"}, "there is no such file"),
    ({"TEACHER_URL": "http://localhost:1"}, "needs TEACHER_MODEL"),
    ({"METHOD": "dpo"}, "is unknown (envisions, star,"), ({"LOSS": "ppo"}, "LOSS=ppo is not one of sft, dpo")])
def test_settings_that_make_no_sense(tmp_path, warm_python, settings, said):
    done = subprocess.run(["bash", "run.sh"], cwd=ROOT, text=True, capture_output=True, timeout=120, env={
        **os.environ, "SETUP": "0", "PYTHON": warm_python, "MODEL": str(tmp_path), "OUT": str(tmp_path / "run"),
        **settings})
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
