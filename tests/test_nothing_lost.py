"""No stage overwrites what it reads, what another output holds, or what somebody else has put there.

What train.py replaces is in test_train_script.py, what the sandbox sweeps in test_sandbox_load.py.
"""
import os

import pytest
from test_records import GOOD, refusal, written

from nanoenvisions.records import protect_inputs


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
