"""Whether the folders of a model and an adapter are whole and fit: in milliseconds, without torch.

Only headers are read, so every stage looks before it loads anything. Of a hub name that is not on
this disk it is asked whether the hub is there. May import records only.
"""
from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

from nanoenvisions.records import HERE, fail

EMBEDDED = HERE / "models" / "SmolLM2-135M-Instruct"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of the embedded model
SHARDS = "model.safetensors.index.json"
MAKE_AGAIN = "a copy was cut off, or a disk was full: copy or make it again"


def check_folders(model, adapter=None, flag="--model "):
    """Fail in one line if a model, or its adapter, cannot be loaded. flag: what was typed."""
    if model and not Path(model).is_dir() and looks_like_a_path(model):
        fail(f"{flag}{model}: there is no such folder (give a hub name, a folder, or nothing for "
             "the embedded model)")
    folder, weights = Path(model) if model else EMBEDDED, {}
    if model and not folder.is_dir():
        folder = on_this_disk(model, flag)
    if folder and folder.is_dir():
        read_config(folder, "config.json", flag, "save_pretrained writes it")
        weights = model_shapes(folder, flag)
    if adapter:
        check_adapter(Path(adapter), weights)


def on_this_disk(name: str, flag: str) -> Path | None:
    """Where the hub's cache has a model; None if it is to be fetched. Fails if that cannot be.

    Else the hub's client would try for half a minute, and say so in twenty lines.
    """
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:
        return None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        fail(f"{flag}{name}: no name on the hub, and no folder (such as Qwen/Qwen2.5-0.5B)")
    config = try_to_load_from_cache(name, "config.json")
    if isinstance(config, str):
        return Path(config).parent
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        import urllib.error
        import urllib.request
        try:
            urllib.request.urlopen(f"{constants.ENDPOINT}/{name}/resolve/main/config.json",
                                   timeout=10).close()
            return None
        except urllib.error.HTTPError:  # somebody is there: the hub's client knows about log-ins
            return None
        except (OSError, ValueError) as error:
            reason = f"{constants.ENDPOINT} cannot be reached, {getattr(error, 'reason', error)}"
    fail(f"{flag}{name}: not on this disk, and {reason} (connect, or give a folder, or nothing for "
         "the embedded model)")


def looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_adapter(folder: Path, weights: dict):
    """weights: {name: shape} of the model; {}: not known."""
    if not (folder / "adapter_config.json").exists():
        fail(f"--adapter {folder}: no adapter there (train.py writes it; leave --adapter away for "
             "the base model)")
    config = read_config(folder, "adapter_config.json", "--adapter ", "train.py writes it")
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        if not (folder / "adapter_model.bin").exists():
            fail(f"--adapter {folder}: adapter_model.safetensors is missing ({MAKE_AGAIN})")
        return
    shapes = read_shapes(file)
    for name, shape in shapes.items():
        layer, _, side = name.removeprefix("base_model.model.").partition(".lora_")
        if side[:1] not in ("A", "B") or len(shape) != 2 or ".experts" in layer:
            continue  # all experts of a layer are one matrix, of rank r x experts
        rank, wide = shape if side[0] == "A" else shape[::-1]
        known = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
        if rank not in known:
            fail(f"--adapter {folder}: its weights have rank {rank}, its adapter_config.json says "
                 f"{config.get('r')} (they are of two adapters: take both files of one)")
        first, base = re.sub(r"\.\d+\.", ".0.", layer), weights.get(f"{layer}.weight")
        deeper = base is None and f"{first}.weight" in weights
        if deeper or base and len(base) == 2 and wide not in base:  # GPT-2's are [in, out]
            fail(f"--adapter {folder}: it is of another model, {layer} does not fit (give --model "
                 f"{config.get('base_model_name_or_path') or 'that it was trained on'})")


def model_shapes(folder: Path, flag: str) -> dict:
    """{name: shape} of a model's weights; {} if they are in another format."""
    single, index = folder / "model.safetensors", folder / SHARDS
    if single.exists():
        return read_shapes(single)
    if not index.exists():
        if not any(path.suffix in (".bin", ".safetensors", ".gguf") for path in folder.iterdir()):
            fail(f"{flag}{folder}: no weights in it (model.safetensors; {MAKE_AGAIN})")
        return {}
    shapes = {}
    table = read_config(folder, SHARDS, flag, MAKE_AGAIN).get("weight_map", {})
    for name in sorted(set(table.values())):
        if not (folder / name).exists():
            fail(f"{flag}{folder}: {name} is missing ({MAKE_AGAIN})")
        shapes |= read_shapes(folder / name)
    return shapes


def read_config(folder: Path, name: str, flag: str, remedy: str) -> dict:
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        fail(f"{flag}{folder}: no {name} in it ({remedy})")
    except (OSError, ValueError, RecursionError) as error:
        fail(f"{flag}{folder}: {name} cannot be read: {error} ({MAKE_AGAIN})")
    if not isinstance(config, dict):
        fail(f"{flag}{folder}: {name} holds no JSON object ({MAKE_AGAIN})")
    return config


def read_shapes(file: Path) -> dict:
    """{name: shape} of a safetensors file: 8 bytes n, n bytes of JSON, then the numbers.

    Fails if the file is shorter or longer than its own table says.
    """
    try:
        size = os.path.getsize(file)
        with open(file, "rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            if length > size:
                raise ValueError("it ends within its table")
            table = json.loads(opened.read(length))
        table.pop("__metadata__", None)
        ends = max((one["data_offsets"][1] for one in table.values()), default=0)
        if 8 + length + ends != size:
            raise ValueError(f"{size:,} bytes, not {8 + length + ends:,}")
        return {name: one["shape"] for name, one in table.items()
                if one["dtype"][0] in "BF"}  # packed numbers (U8) have another shape
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except (AttributeError, KeyError, TypeError, ValueError, struct.error) as error:
        fail(f"{file} is not whole: {error or 'it is empty'} ({MAKE_AGAIN})")


def read_run(folder) -> dict:
    """Settings of a run of run.sh, and "adapter": the last one that it has trained, or None."""
    settings = Path(folder) / "settings"
    try:
        lines = settings.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        fail(f"{settings}: {error.strerror} (give OUT of run.sh, such as runs/math)")
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    numbers = [int(path.parent.name[4:]) for path in Path(folder).glob("iter*/adapter")
               if path.parent.name[4:].isdigit()]
    return known | {"adapter": f"{folder}/iter{max(numbers)}/adapter" if numbers else None}
