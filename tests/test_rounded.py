"""nanoenvisions/rounded.py: rounded weights are kept, the very same, and never trusted when broken."""
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nanoenvisions import model, rounded


@pytest.fixture
def load(tmp_path, tiny_model, monkeypatch):
    """load() -> weights of a small model of our own; what is kept lies in tmp_path/kept."""
    monkeypatch.setattr(rounded, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(rounded, "FEWEST", 0)
    (tmp_path / "kept").mkdir()
    shutil.copytree(tiny_model, tmp_path / "mine")

    def load(**options):
        return model.load_model(str(tmp_path / "mine"), **options)[0].state_dict()
    return load


def folders(tmp_path) -> list[str]:
    return sorted(os.listdir(tmp_path / "kept"))


def same(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def quantisations(monkeypatch) -> list:
    """Grows by one with every model that is rounded from now on."""
    from transformers import PreTrainedModel
    calls, dequantize = [], PreTrainedModel.dequantize
    monkeypatch.setattr(PreTrainedModel, "dequantize",
                        lambda self, *args: calls.append(1) or dequantize(self, *args))
    return calls


def test_the_kept_weights_are_the_very_same(tmp_path, load, monkeypatch):
    own = sorted(os.listdir(tmp_path / "mine"))
    calls = quantisations(monkeypatch)
    first, again, trained = load(), load(), load(merge=False)
    assert len(calls) == 1 and len(folders(tmp_path)) == 1
    assert same(first, again) and same(first, trained)
    assert {weight.dtype for weight in again.values()} == {weight.dtype for weight in first.values()}
    assert sorted(os.listdir(tmp_path / "mine")) == own  # nothing in the model's own folder
    assert not same(first, load(bits=16))  # these are not rounded


def test_what_is_broken_is_made_anew(tmp_path, load):
    first = load()
    file = tmp_path / "kept" / folders(tmp_path)[0] / "model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-9] + b"x" + whole[-8:], whole[:1000], b""):
        file.write_bytes(broken)
        assert same(first, load()) and file.read_bytes() == whole
    (file.parent / "sha256").unlink()
    file.write_bytes(whole[:-1])
    assert same(first, load()) and file.read_bytes() == whole
    assert len(folders(tmp_path)) == 1  # and no scratch folder is left


def test_another_model_or_version_has_another_folder(tmp_path, load, monkeypatch):
    load()
    weights = tmp_path / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100:] = bytes(100)
    weights.write_bytes(data)
    load()
    assert len(folders(tmp_path)) == 2
    monkeypatch.setattr(rounded.importlib.metadata, "version", lambda name: "99")
    assert rounded.place(str(tmp_path / "mine"), torch.bfloat16).name not in folders(tmp_path)


def test_another_number_format_has_another_folder(tmp_path, load):
    load()
    kept, other = (rounded.place(str(tmp_path / "mine"), dtype) for dtype in (torch.bfloat16, torch.float32))
    assert kept != other and {kept.name, other.name} & set(folders(tmp_path))


def test_without_room_to_write_it_works_as_ever(tmp_path, load):
    first = load()
    shutil.rmtree(tmp_path / "kept")
    (tmp_path / "kept").write_text("a file, so that no folder can be made in it")
    assert same(first, load())


def test_small_and_large_models_are_not_kept(tmp_path, load, monkeypatch):
    for name, value in (("FEWEST", 1e9), ("MOST", 1)):
        monkeypatch.setattr(rounded, name, value)
        load()
        assert folders(tmp_path) == []
        monkeypatch.setattr(rounded, name, {"FEWEST": 0, "MOST": 1e9}[name])


def test_two_that_keep_at_once_leave_one_whole_folder(tmp_path, load):
    first = load()
    name, = folders(tmp_path)
    made = model.load_model(str(tmp_path / "mine"))[0]
    place = tmp_path / "kept" / "rounded-other"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: rounded.keep(made, place), range(2)))
    assert rounded.is_whole(place) and folders(tmp_path) == [name, "rounded-other"]
    assert same(first, load())
