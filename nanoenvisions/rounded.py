"""The weights of a 4-bit model as they are once unpacked, kept in models/ for the next stage.

On a CPU a 4-bit model runs with its rounded weights in bfloat16 or float32. Rounding and unpacking
take seconds, and a run starts some 25 stages, so the result is kept: the very same numbers. Never
in the model's own folder, which is the user's. What is broken is made anew, and what cannot be
written is not kept. May import records only.
"""
from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from nanoenvisions.records import HERE

KEPT = HERE / "models"
FEWEST, MOST = 50e6, 1e9  # parameters: fewer are rounded at once, more would fill the disk
LIBRARIES = "bitsandbytes", "transformers", "torch"  # another version may round otherwise


def digest(*paths) -> str:
    """A hash of files' contents; a third of a second for the embedded model."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(f"{Path(path).name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
                         .encode())
    return whole.hexdigest()


def place(name: str, dtype) -> Path | None:
    """Folder for the rounded weights of a model; None if its own are not on this disk."""
    from huggingface_hub import try_to_load_from_cache
    folder = Path(name)
    if not folder.is_dir():
        config = try_to_load_from_cache(name, "config.json")
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    weights = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    if not weights or sum(path.stat().st_size for path in weights) > 4 * MOST:
        return None
    files = digest(*sorted(weights), folder / "config.json")
    versions = [importlib.metadata.version(library) for library in LIBRARIES]
    key = hashlib.sha256(repr((files, versions, str(dtype))).encode()).hexdigest()
    return KEPT / f"rounded-{key[:16]}"


def is_whole(folder: Path) -> bool:
    """Whether the weights in a folder are those that `keep` has put there."""
    try:
        return (folder / "sha256").read_text() == digest(folder / "model.safetensors")
    except (OSError, UnicodeDecodeError):
        return False


def forget_quantiser(model):
    """Of an unpacked model: save_pretrained refuses one that remembers its quantiser."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def keep(model, folder: Path):
    """Put an unpacked model's weights into a folder, which appears whole or not at all."""
    if is_whole(folder) or not FEWEST <= model.num_parameters() <= MOST:
        return  # whole: another process was first
    forget_quantiser(model)
    with contextlib.suppress(OSError):  # no room, or not ours to write
        shutil.rmtree(folder, ignore_errors=True)  # a broken one
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".round-") as scratch:
            whole = Path(scratch) / "whole"
            model.save_pretrained(whole, max_shard_size="100GB")
            (whole / "sha256").write_text(digest(whole / "model.safetensors"))
            os.rename(whole, folder)  # refused if another process was first
