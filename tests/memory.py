"""GPU memory of training and sampling, computed from a model's shape; nothing is measured here.

    python tests/memory.py            # a Markdown table: what training needs, how many rows can be sampled at once

What is counted, in bytes:
  weights      linear layers 4.127 bits a weight (NF4, a double-quantised scale for 64), embeddings and head 16 bits
  LoRA         14 a parameter: bfloat16 value and gradient, float32 master and gradient, two 8-bit moments
  activations  one checkpoint a layer and token, one layer's own activations (recomputed), one slice of logits
  unpacked     the largest linear layer in bfloat16, which bitsandbytes unpacks to multiply with
  cache        keys and values of every row, and its logits, as explore.fitting_slots counts them
A CUDA context counts 0.5 GB; fragmentation comes on top.
"""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from train import HEAD_SLICE  # noqa: E402

# of the models' public configurations: hidden, layers, heads, key-value heads, feed-forward, vocabulary, tied
SHAPES = {
    "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151_936, True),
    "Qwen2.5-3B": (2048, 36, 16, 2, 11_008, 151_936, True),
    "Llama-2-7B": (4096, 32, 32, 32, 11_008, 32_000, False),
    "Llama-2-13B": (5120, 40, 40, 40, 13_824, 32_000, False),
}
RANK = 16
NF4 = 4.127 / 8
CONTEXT = 0.5e9  # bytes that CUDA itself takes


def linear_shapes(hidden, heads, kv_heads, wide):
    narrow = hidden // heads * kv_heads
    return [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden),
            (hidden, wide), (hidden, wide), (wide, hidden)]


def memory(shape, micro_tokens=2048, length=512) -> dict:
    """Bytes: {"weights", "train", "row", "unpacked"}; a row: one program of `length` tokens, prompt included."""
    hidden, layers, heads, kv_heads, wide, vocabulary, tied = shape
    linears = linear_shapes(hidden, heads, kv_heads, wide)
    packed = layers * sum(a * b for a, b in linears)
    rest = vocabulary * hidden * (1 if tied else 2)
    weights = NF4 * packed + 2 * rest
    lora = 14 * RANK * layers * sum(a + b for a, b in linears)
    checkpoints = 2 * micro_tokens * hidden * layers
    # norms, q, k, v, attention, two residuals; gate, up, product, silu
    layer = 2 * micro_tokens * (8 * hidden + 4 * wide)
    logits = HEAD_SLICE * vocabulary * (2 + 4 + 4)  # bfloat16, float32, gradient
    largest = 2 * max(a * b for a, b in linears)
    return {"weights": weights, "train": weights + lora + checkpoints + layer + logits + largest,
            "row": 2 * 2 * layers * kv_heads * (hidden // heads) * length + 16 * vocabulary,
            "unpacked": 2 * (packed + rest)}


def rows_that_fit(shape, card: float) -> tuple[int, bool]:
    """(rows of 512 tokens, whether the weights are unpacked) that explore.py would choose on a card of so many GB."""
    need, free = memory(shape), card * 1e9 - CONTEXT
    if need["unpacked"] < (free - need["weights"]) / 2:  # as explore.unpacked_fits
        return int(0.8 * (free - need["unpacked"]) / need["row"]), True
    return max(0, int(0.8 * (free - need["weights"]) / need["row"])), False


def parameters_of(shape) -> int:
    """Counted on an empty transformers model of that shape: checks the arithmetic above."""
    from transformers import LlamaConfig, LlamaForCausalLM
    hidden, layers, heads, kv_heads, wide, vocabulary, tied = shape
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
            intermediate_size=wide, vocab_size=vocabulary, tie_word_embeddings=tied))
    return model.num_parameters()


if __name__ == "__main__":
    print("| model | weights, 4 bits | training, 2,048 tokens at once | 512 tokens at once "
          "| rows at once on 8 GB | 12 | 16 | 24 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        cells = [f"{memory(shape)['weights'] / 1e9:.1f} GB"]
        cells += [f"{(memory(shape, micro_tokens=tokens)['train'] + CONTEXT) / 1e9:.1f} GB" for tokens in (2048, 512)]
        for card in (8, 12, 16, 24):
            rows, unpacked = rows_that_fit(shape, card)
            cells.append(f"{min(rows, 256) or 'no'}{' (unpacked)' * unpacked}")
        print("|", name, "|", " | ".join(cells), "|")
