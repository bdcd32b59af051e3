"""What fits into memory: unpacked weights, rows that are decoded together.

Everything is counted from all the memory there is, not from what is free now: rounding depends on
what runs together, and a run that was killed must continue with the same rows. May import
attention.
"""
from __future__ import annotations

import math
import os

import torch

from nanoenvisions.attention import cache_shape

CUDA_CONTEXT = 0.5e9  # bytes that CUDA takes for itself
SPARE_PROMPTS = 2  # places for prompts: so many times what full slots need at least, since some
#                    rows outlast the other samples of their prompt


def total_memory(device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def unpacks(device, merge: bool, parameters: int) -> bool:
    """Whether 4-bit weights are unpacked once. Packed ones are unpacked at every step, layer by
    layer, to save memory on a GPU: by sampling (`merge`) if it must, by training unless the model
    is so small that it hardly matters."""
    if device.type == "cpu":
        return True
    return unpacked_fits(parameters, total_memory(device), share=1 / 2 if merge else 1 / 16)


def unpacked_fits(parameters: int, total: float, share: float = 1 / 2) -> bool:
    """Whether bfloat16 weights (2 bytes each) take at most this share of a GPU."""
    return 2 * parameters <= (total - CUDA_CONTEXT) * share


def sampling_room(model) -> float:
    """Bytes that keys, values and logits may take."""
    if model.device.type == "cuda":
        return gpu_room(total_memory(model.device), model.get_memory_footprint())
    return 0.4 * total_memory(model.device)  # a CPU's memory serves others, too


def gpu_room(total: float, weights: float) -> float:
    """The same, for a GPU with so many bytes; a fifth is left to what comes and goes."""
    return 0.8 * (total - CUDA_CONTEXT - weights)


def sampling_bytes(config, dtype) -> tuple[int, int]:
    """(keys and values of a token, logits of a row)"""
    logits = 4 * 4 * config.get_text_config().vocab_size  # float32; pick_tokens makes copies
    return 2 * math.prod(cache_shape(config)) * dtype.itemsize, logits


def fitting_slots(config, dtype, room: float, prefix: int, prompt: int, samples: float,
                  max_new_tokens: int, most: int) -> int:
    """How many rows fit into `room` bytes: at least 1, at most `most`.

    The `prefix` tokens that all prompts begin with are stored once, the other `prompt` tokens of a
    prompt once for its `samples` rows, and the generated ones for each row.
    """
    token_bytes, row_bytes = sampling_bytes(config, dtype)
    tokens = min(1, SPARE_PROMPTS / samples) * prompt + max_new_tokens  # of a row
    rows = (room - prefix * token_bytes) // (tokens * token_bytes + row_bytes)
    return int(max(1, min(most, rows)))


def activation_bytes(config, tokens: int) -> float:
    """What the backward pass of a training step finds kept of so many tokens, in bfloat16: of each
    layer some 16 vectors of the model's width, and 4 of the width within its MLP."""
    config = config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return tokens * config.num_hidden_layers * 2 * (16 * config.hidden_size + 4 * inner)


def checkpoints(model, tokens: int) -> bool:
    """Whether training computes activations again in the backward pass, a quarter slower, because
    those of `tokens` tokens would take more than half of what the weights leave of a GPU."""
    if model.device.type != "cuda":
        return False
    room = total_memory(model.device) - CUDA_CONTEXT - model.get_memory_footprint()
    return activation_bytes(model.config, tokens) > room / 2


def is_out_of_memory(error) -> bool:
    """An illegal memory access is none: fewer rows would not help."""
    marks = ("out of memory", "not enough memory", "can't allocate memory",
             "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError))
            or isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks))


def make_optimizer(masters, model, kind: str):
    """AdamW without weight decay; its moments in 8 bits where memory is short. train.py sets rates.

    Moments are 8 bytes a parameter in float32 and 2 in 8 bits, but the step in 8 bits waits for the
    GPU once a matrix. (For 7B, rank 16: 0.32 and 0.08 GB.)
    """
    if kind == "auto":
        moments = 8 * sum(master.numel() for master in masters)
        # of all memory, not of what is free now: started again, it must decide the same
        room = total_memory(model.device) - model.get_memory_footprint()
        short = model.device.type == "cuda" and moments > room / 20
        kind = "adamw8bit" if short else "adamw"
    if kind == "adamw8bit":
        import bitsandbytes
        return bitsandbytes.optim.AdamW8bit(masters, weight_decay=0.0)
    return torch.optim.AdamW(masters, weight_decay=0.0, fused=True)
