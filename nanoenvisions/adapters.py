"""The folder that train.py writes: a PEFT adapter, and nothing that is not one is ever removed.

May import memory and records. (PEFT and the hub's model cards are imported where they are needed.)

    claim(out)               before the model is loaded: may this folder be written, and replaced?
    reserve(model, out)      before training: take the room on the disk that the adapter needs
    save(model, base, out)   write OUT.part
    put_in_place(out)        OUT goes aside to OUT.old, OUT.part becomes OUT, OUT.old is removed

A kill at any point leaves the old adapter or the new one whole, under OUT or OUT.old; running the
same command again ends with the same files and removes OUT.part and OUT.old.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from nanoenvisions.memory import is_out_of_memory
from nanoenvisions.records import fail

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md")
CARD_KEYS = {"base_model", "library_name", "pipeline_tag", "tags"}  # what PEFT puts on top of it


def is_blank_card(path: Path) -> bool:
    """Whether a README.md is the form that PEFT writes, with nothing filled in.

    A kill may have cut it short, so a beginning of the form is one, too.
    """
    from huggingface_hub import ModelCard, ModelCardData
    text = path.read_text(encoding="utf-8", errors="replace")
    head, body = re.match(r"(?s)(?:---\n(.*?)\n---\n)?(.*)", text).groups()
    form = [line for line in ModelCard.from_template(ModelCardData()).text.splitlines() if line]
    lines = [line for line in body.splitlines() if line.strip()
             and not re.fullmatch(r"### Framework versions|- PEFT [\w.+]+", line)]
    keys = set(re.findall(r"(?m)^(\w+):", head or ""))
    return keys <= CARD_KEYS and lines == form[:len(lines)]


def foreign(folder: Path, whole: bool) -> str | None:
    """What stands at a path and is no adapter's, in words; None: it is free or may be removed.

    whole: it must be a complete adapter or empty (OUT); else it may be half of one, because a kill
        came while it was written (OUT.part) or removed (OUT.old)
    """
    if folder.is_symlink():
        return "it is a link"
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "it is a file"
    if os.path.ismount(folder) or folder.resolve() in [Path.cwd(), *Path.cwd().parents]:
        return "it is the folder you are in, or one above it, or a disk"
    names = sorted(os.listdir(folder))
    for name in names:
        path = folder / name
        if name not in FILES or path.is_symlink() or not path.is_file():
            return f"{name} in it is not a file of an adapter"
        if name == "README.md" and not is_blank_card(path):
            return "somebody has written in its README.md"
    if whole and names:
        try:
            config = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
            if "peft_type" in config:
                return None
        except (OSError, ValueError, TypeError):
            pass
        return f"it has no {FILES[0]} as PEFT writes it"
    return None


def remove(folder: Path):
    """Remove an adapter's folder: its files by name, then the folder if it is empty by then."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def places(out) -> tuple[Path, Path, Path]:
    """OUT, OUT.part and OUT.old, in one folder."""
    out = Path(out)
    return out, out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.old")


def protect(out):
    """Fail, in one line, if a place that will be written holds anything but an adapter."""
    if Path(out).name in ("", ".."):  # ".", "/", "a/.."
        fail(f"--out {out}: not a name for a new folder (give one, such as adapter)")
    for place, whole in zip(places(out), (True, False, False)):
        try:
            fault = foreign(place, whole)
        except OSError as error:
            fault = error.strerror
        if fault:
            fail(f"{place} is in the way and will not be removed: {fault} "
                 "(move it, or choose another --out)")


def claim(out, inputs=(), metrics=None):
    """Look before the model is loaded, and try to make OUT.part: a wrong --out costs no training.

    inputs, metrics: paths that are read or written beside it, and that must not lie in it
    """
    protect(out)
    folder, part, _ = places(out)
    used = [path for path in inputs if path and os.path.exists(path)]
    for path in used + ([metrics] if metrics else []):
        if Path(path).resolve().is_relative_to(folder.resolve()):
            fail(f"{path} lies in --out {out}, which is replaced (choose another --out)")
    try:
        part.mkdir(parents=True, exist_ok=True)
        if not os.listdir(part):
            part.rmdir()  # it was only to see that it can be made
    except OSError as error:
        fail(f"{part}: {error.strerror} (choose an --out that can be written)")


def reserve(model, out):
    """Hold the room that the adapter will need, so that a full disk does not cost the training."""
    _, part, _ = places(out)
    need = 65536 + sum(one.numel() * one.element_size()
                       for one in model.parameters() if one.requires_grad)
    try:
        part.mkdir(parents=True, exist_ok=True)
        with open(part / FILES[1], "wb") as file:
            os.posix_fallocate(file.fileno(), 0, need)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove(part)
        fail(f"{part}: {error.strerror}, {need / 1e6:.1f} MB are needed (free some space, or "
             "choose an --out on another disk)")


def save(model, base: str, out):
    """Write the adapter of a PEFT model to OUT.part. base: the name of the model it belongs to."""
    from safetensors import SafetensorError
    folder, part, _ = places(out)
    protect(out)  # again: training took a while
    try:
        if part.exists():
            remove(part)
        model.peft_config["default"].base_model_name_or_path = base
        # "auto" would ask the hub for the base model's configuration
        model.save_pretrained(part, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # an empty form with this machine's paths
    except (OSError, SafetensorError) as error:
        fail(f"{part}: {getattr(error, 'strerror', None) or error} (free some space; what was in "
             f"{folder} is still there)")


def put_in_place(out):
    """OUT.part becomes OUT; an older adapter is removed once the new one stands."""
    folder, part, old = places(out)
    protect(out)
    try:
        if folder.exists():
            if old.exists():  # a run was killed while it removed it
                remove(old)
            os.replace(folder, old)
        os.replace(part, folder)
        if old.exists():
            remove(old)
    except OSError as error:
        fail(f"{folder}: {error.strerror} (the new adapter is in {part}: move it by hand)")


def load_to_train(model, path):
    """The model with this adapter on it, whose matrices go on being trained."""
    from peft import PeftModel
    try:
        return PeftModel.from_pretrained(model, path, is_trainable=True,
                                         autocast_adapter_dtype=False)
    except (OSError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        fail(f"{path}: no adapter of this model (give the --model that it was trained on)")
