"""No stage overwrites what it reads, what another output holds, or what somebody else has put there.

What train.py replaces is in test_train_script.py, what the sandbox sweeps in test_sandbox_load.py.
"""
import os

import pytest
from conftest import load_stage
from test_records import GOOD, refusal, written

import explore
import refine
import reward
import train
from nanoenvisions.records import protect_inputs, read_jsonl


@pytest.mark.parametrize("name", ["same", "link", "hard", "./same", "new/../same"])
def test_an_input_is_never_an_output_whatever_its_name(tmp_path, name):
    same = written(tmp_path / "same", GOOD)
    (tmp_path / "new").mkdir()
    (tmp_path / "link").symlink_to(same)
    os.link(same, tmp_path / "hard")
    said = refusal(protect_inputs, [None, f"{tmp_path}/{name}"], [None, tmp_path / "other", same])
    assert "would be overwritten" in said and name in said


def test_a_half_written_output_is_no_input_and_a_models_folder_no_place_for_outputs(tmp_path):
    half = written(tmp_path / "out.part", GOOD)
    assert "would be overwritten" in refusal(protect_inputs, [tmp_path / "out"], [half])
    weights = written(tmp_path / "weights", GOOD)
    assert "would be overwritten" in refusal(protect_inputs, [weights], [tmp_path])
    protect_inputs([tmp_path / "new"], [tmp_path])  # a new file beside them does no harm


@pytest.mark.parametrize("name", ["out", "new/../out", "link"])
def test_two_outputs_are_two_files(tmp_path, name):
    (tmp_path / "new").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for there in (False, True):
        said = refusal(protect_inputs, [tmp_path / "out", None, f"{tmp_path}/{name}"], [])
        assert "two outputs" in said
        written(tmp_path / "out", GOOD)
    protect_inputs([os.devnull, os.devnull], [])


def test_what_is_no_input_may_be_written(tmp_path):
    protect_inputs([tmp_path / "new", os.devnull], [written(tmp_path / "in", GOOD), os.devnull])


# Half of a pair of UTF-16, as models do write them: no UTF-8 file may hold one.
LONE = "\ud83d"


def test_lone_surrogates_pass_through_all_five_stages(tmp_path, tiny_model):
    """What a line holds comes out as it went in: id, question, program, other people's fields."""
    def run(stage, *flags, out):
        stage.main([*map(str, flags), "--out", str(tmp_path / out)])
        return read_jsonl(tmp_path / out) if out != "adapter" else None
    task = {"id": f"t{LONE}", "env": "math", "question": f"How many {LONE}?", "answer": 5,
            "note": LONE}
    model = ("--model", tiny_model, "--bits", "32")
    tasks = written(tmp_path / "tasks", task)
    explored = run(explore, "--in", tasks, "--num-samples", 3, *model, out="explored")
    assert all(task.items() <= record.items() for record in explored)
    program = f"def solution():\n    return 5  # {LONE}"  # as a larger model may write it
    written(tmp_path / "explored", *({**record, "program": program} for record in explored))
    refined = run(refine, "--in", tmp_path / "explored", *model, out="refined")
    assert {record["reference"] for record in refined} == {program}
    rewarded = run(reward, "--in", tmp_path / "explored", tmp_path / "refined", out="rewarded")
    assert [record["program"] for record in rewarded[:3]] == 3 * [program]
    assert all(record["reward"] == 1 and record["note"] == LONE for record in rewarded[:3])
    rows = run(load_stage("select"), "--in", tmp_path / "rewarded", "--pool-out", tmp_path / "pool",
               out="sft")
    assert {row["id"] for row in rows} == {task["id"]} and LONE in rows[0]["prompt"]
    assert any(record["program"] == program for record in read_jsonl(tmp_path / "pool"))
    run(train, "--in", tmp_path / "sft", *model, "--epochs", 1, out="adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
