"""GPU memory of training and sampling, computed from a model's shape; nothing is measured here.

    python tests/memory.py   # a Markdown table: what training needs, how many rows sample at once

What is counted, in bytes:
  weights      linear layers 4.127 bits a weight (NF4, a double-quantised scale for 64), the rest 16
  LoRA         20 a parameter: value and gradient in 16 bits; master, gradient and AdamW's two
               moments in 32
  activations  one checkpoint a layer and token, one layer's own activations (recomputed), one slice
               of logits
  unpacked     the largest linear layer in bfloat16, which bitsandbytes unpacks to multiply with
  cache        what explore.py would choose: the functions of nanoenvisions/memory.py
Fragmentation comes on top.
"""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from nanoenvisions.memory import CUDA_CONTEXT, fitting_slots, gpu_room, unpacked_fits  # noqa: E402
from train import HEAD_SLICE  # noqa: E402

# of the models' public configurations: hidden, layers, heads, key-value heads, feed-forward,
# vocabulary, tied
SHAPES = {
    "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151_936, True),
    "Qwen2.5-3B": (2048, 36, 16, 2, 11_008, 151_936, True),
    "Llama-2-7B": (4096, 32, 32, 32, 11_008, 32_000, False),
    "Llama-2-13B": (5120, 40, 40, 40, 13_824, 32_000, False),
}
RANK = 16
NF4 = 4.127 / 8
PROMPT, SAMPLES, MAX_NEW_TOKENS = 416, 5, 96  # of a task, beside what all prompts begin with


def linear_shapes(hidden, heads, kv_heads, wide):
    narrow = hidden // heads * kv_heads
    return [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden),
            (hidden, wide), (hidden, wide), (wide, hidden)]


def config_of(shape):
    from transformers import LlamaConfig
    hidden, layers, heads, kv_heads, wide, vocabulary, tied = shape
    return LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, intermediate_size=wide, vocab_size=vocabulary,
                       tie_word_embeddings=tied)


def parameters_of(shape) -> int:
    """Counted on an empty transformers model of that shape."""
    from transformers import LlamaForCausalLM
    with torch.device("meta"):
        return LlamaForCausalLM(config_of(shape)).num_parameters()


def memory(shape, micro_tokens=2048) -> dict:
    """Bytes: {"weights", "train", "unpacked"}"""
    hidden, layers, heads, kv_heads, wide, vocabulary, _ = shape
    linears = linear_shapes(hidden, heads, kv_heads, wide)
    packed = layers * sum(a * b for a, b in linears)
    parameters = parameters_of(shape)
    weights = NF4 * packed + 2 * (parameters - packed)
    lora = 20 * RANK * layers * sum(a + b for a, b in linears)
    checkpoints = 2 * micro_tokens * hidden * layers
    # norms, q, k, v, attention, two residuals; gate, up, product, silu
    layer = 2 * micro_tokens * (8 * hidden + 4 * wide)
    logits = HEAD_SLICE * vocabulary * (2 + 4 + 4)  # bfloat16, float32, gradient
    largest = 2 * max(a * b for a, b in linears)
    return {"weights": weights, "unpacked": 2 * parameters,
            "train": weights + lora + checkpoints + layer + logits + largest}


def rows_that_fit(shape, card: float, most: int = 1024) -> tuple[int, bool]:
    """(rows, whether the weights are unpacked) that explore.py chooses on a card of so many GB."""
    need, total = memory(shape), card * 1e9
    unpacked = unpacked_fits(parameters_of(shape), total)
    room = gpu_room(total, need["unpacked" if unpacked else "weights"])
    if room <= 0:
        return 0, unpacked
    return fitting_slots(config_of(shape), torch.bfloat16, room, prefix=0, prompt=PROMPT,
                         samples=SAMPLES, max_new_tokens=MAX_NEW_TOKENS, most=most), unpacked


if __name__ == "__main__":
    print("| model | weights, 4 bits | training, 2,048 tokens at once | 512 tokens at once "
          "| rows at once on 8 GB | 12 | 16 | 24 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        cells = [f"{memory(shape)['weights'] / 1e9:.1f} GB"]
        cells += [f"{(memory(shape, tokens)['train'] + CUDA_CONTEXT) / 1e9:.1f} GB"
                  for tokens in (2048, 512)]
        for card in (8, 12, 16, 24):
            rows, unpacked = rows_that_fit(shape, card)
            cells.append(f"{rows or 'no'}{' (unpacked)' * unpacked}")
        print("|", name, "|", " | ".join(cells), "|")
