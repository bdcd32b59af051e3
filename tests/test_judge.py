"""reward.py --judge: the model's own verdict, which no answer can reach; beside plain forward passes."""
import json

import pytest
import torch
from conftest import load_stage

import envs
from nanoenvisions import scoring
from nanoenvisions.model import load_model

reward = load_stage("reward")
RECORDS = [{"id": task, "env": "math", "question": question, "answer": answer, "iteration": 0, "candidate": k,
            "source": "explore", "program": program, "logprob": -0.5}
           for task, question, answer in (("t0", "A had some nuts. How many?", 714257), ("t1", "How many?", 3))
           for k, program in enumerate(("def solution():\n    return 3", "def solution():\n    return 4",
                                        "def solution():\n    x = 9\n    return x", ""))]


@pytest.fixture
def run(tmp_path, tiny_model):
    """run(records, flags ...): (judged records, the row of metrics)"""
    def run(records, *flags):
        (tmp_path / "in.jsonl").write_text("".join(map(envs.dump, records)))
        reward.main(["--in", f"{tmp_path}/in.jsonl", "--out", f"{tmp_path}/out.jsonl", "--metrics",
                     f"{tmp_path}/m.jsonl", "--judge", "--model", tiny_model, "--bits", "32", *map(str, flags)])
        return envs.read_jsonl(tmp_path / "out.jsonl"), json.loads((tmp_path / "m.jsonl").read_text())
    return run


def test_scores_are_those_of_plain_forward_passes(run, tiny_model):
    """log p(Yes) of Yes or No, after examples, question and program; right: above the task's mean."""
    judged, row = run(RECORDS)
    model, tokenizer = load_model(tiny_model, bits=32)
    model.set_attn_implementation("sdpa")
    yes, no = (tokenizer(word).input_ids[0] for word in ("Yes", "No"))
    for record, one in zip(RECORDS, judged):
        examples, question = envs.judge_prompt(record)
        assert question.count(record["question"]) == 1 and record["program"] in question
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer(examples + question).input_ids])).logits[0, -1]
        wanted = logits[[yes, no]].log_softmax(-1)[0].item()
        assert one["self_reward"] == pytest.approx(wanted, abs=1e-3)
        assert {key: one[key] for key in record} == record  # the same lines in the same order
    for task in ("t0", "t1"):
        mine = [one for one in judged if one["id"] == task]
        mean = sum(one["self_reward"] for one in mine[:3]) / 3
        assert [one["reward"] for one in mine[:3]] == [int(one["self_reward"] > mean) for one in mine[:3]]
        assert mine[3]["reward"] == 0  # an empty program is never right
        assert 0 < sum(one["reward"] for one in mine) < 3
        assert all(one["outcome"] == ("correct" if one["reward"] else "wrong") and one["judged"] for one in mine)
    assert row["stage"] == "reward" and row["num"] == len(RECORDS)
    assert row["correct"] == sum(one["reward"] for one in judged)


def test_the_answer_cannot_reach_the_judge(run, tmp_path):
    """Other answers, rewards, results: the same prompts and, but for the fields copied, the same bytes."""
    for record in RECORDS:
        assert "714257" not in "".join(envs.judge_prompt(record))
        told = {**record, "answer": "ANSWER", "reward": "ANSWER", "outcome": "ANSWER", "result": "ANSWER"}
        assert envs.judge_prompt(told) == envs.judge_prompt(record)

    def scores(records):
        return [json.dumps({key: one[key] for key in one if key != "answer"}) for one in run(records)[0]]
    plain = scores(RECORDS)
    assert scores([record | {"answer": -1 - k} for k, record in enumerate(RECORDS)]) == plain
    right = [record | {"program": record["program"].replace("3", "5")} for record in RECORDS]
    assert scores(right) != plain  # what it does read


@pytest.mark.parametrize("env", ["math", "logic", "web"])
def test_every_environment_has_examples_without_its_answer(env, tmp_path):
    """Each worked example twice, right and wrong, in turns; no environment looks at the answer for them."""
    if env == "web":
        task = {"id": "w", "env": "web", "task": "click-test", "seed": 7, "question": "Click the button."}
    else:
        envs.main(["make", "--env", env, "--num", "3", "--out", str(tmp_path / "tasks")])
        task = envs.read_jsonl(tmp_path / "tasks")[-1]
        del task["answer"]
    record = task | {"program": "THE PROGRAM"}
    examples, question = envs.judge_prompt(record)
    count = len(envs.ENVS[env].examples(task))
    assert examples.count(envs.JUDGE) == 2 * count and question.count(envs.JUDGE) == 1
    verdicts = [part.rpartition("\n")[2] for part in examples.strip().split("\n\n")
                if part.rpartition("\n")[2] in (envs.YES, envs.NO)]
    assert verdicts == ([envs.NO, envs.YES, envs.YES, envs.NO] * count)[:2 * count]
    assert question.endswith(f"THE PROGRAM\n```\n{envs.JUDGE}\n") and task["question"] in question


def test_programs_that_are_all_alike_teach_nothing(run):
    """No comparison, no verdict: and a task with one program has none."""
    judged, _ = run([RECORDS[0] | {"candidate": k} for k in range(3)] + RECORDS[4:5])
    assert [one["reward"] for one in judged] == [0] * 4


def test_bins_do_not_matter(run, monkeypatch):
    """One question a bin or all; other examples, those of another environment, have a bin of their own."""
    widths = []
    collate = scoring.collate
    monkeypatch.setattr(scoring, "collate", lambda bins, device: widths.append(len(bins[0][0]["branches"]))
                        or collate(bins, device))
    logic = {"id": "l", "env": "logic", "question": "The cat is red. Is the cat red?", "answer": "True",
             "program": 'fact("cat", "red")'}
    records = [*RECORDS, logic, logic | {"program": 'query("cat", "red")'}]
    monkeypatch.setattr(scoring, "BIN", 10_000)
    plain = [one["self_reward"] for one in run(records)[0]]
    assert sorted(widths) == [2, 8]
    monkeypatch.setattr(scoring, "BIN", 1)
    assert [one["self_reward"] for one in run(records)[0]] == pytest.approx(plain, abs=1e-4)
    assert widths[-10:] == [1] * 10


def test_what_was_judged_has_not_run(run):
    """So nothing is known of errors, and tidying is as careful as with a program that failed."""
    record = RECORDS[0] | {"program": "def solution():\n    x = 1 / 0\n    return 3"}
    judged = run([record, *RECORDS[1:3]])[0][0]
    failed = record | {"outcome": "error"}
    math = envs.ENVS["math"]
    assert math.tidy(judged) == math.tidy(failed) != math.tidy(record | {"outcome": "wrong"})


def test_refusals(run):
    with pytest.raises(SystemExit, match="--judge is True, it must be left away with --eval"):
        run(RECORDS, "--eval")
    with pytest.raises(SystemExit, match="there is no such folder"):
        run(RECORDS, "--model", "nowhere/at/all")
