"""Model families: what differs from Llama, what is refused, and a check that tells the rest.

All families run through the same attention (model.py) and the same sampler. What must be known of
one is here: windows in its masks, what follows its vocabulary head, what cannot be shared between
rows. May import attention and records.
"""
from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from nanoenvisions.attention import cache_shape
from nanoenvisions.records import fail

CHECK_TEXTS = ("1 2 3 4 5 6", "1 2 3 4 5 9 8", "1 2 7")  # begin alike, all and the first two
CHECK_WINDOW = 3  # tokens that sliding windows are narrowed to while the check runs
CHECK_ERROR = 0.25  # of logits, relative: rounding to bfloat16 makes 0.03, faults 1 and more


def complaint(config) -> str | None:
    """Why a model with this configuration is refused before it is loaded; None if it is not."""
    text = config.get_text_config()
    if text is not config:
        return "it also reads images or sound: use a model for text alone"
    layers = set(getattr(text, "layer_types", None) or ())
    if unknown := sorted(layers - {"full_attention", "sliding_attention"}):
        return f"it has layers of the kind {unknown[0]}, whose state samples cannot share"
    if not getattr(text, "num_attention_heads", None):
        return "it has no attention, and so no keys and values that samples can share"
    try:
        cache_shape(text)
    except (AttributeError, RuntimeError):
        return "its layers differ in shape"
    return None


def own_attention(model) -> str:
    """The attention that transformers itself would use; the fused one cannot do Gemma-2's."""
    return "sdpa" if model._supports_sdpa else "eager"


def layer_masks(config, mask, queries, keys, longest: int):
    """The mask as each kind of layer needs it: one with a window sees that many positions only.

    mask [B, 1, q, k] (0 or -inf); queries [B, q] and keys [B, k or more] are positions, those of
    the shared prefix first, which `mask` may leave out because nothing of it is hidden otherwise
    longest  tokens of the longest sequence: up to the window's width nothing is to be done
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if not window or longest <= window or "sliding_attention" not in kinds:
        return mask
    outside = queries[:, None, :, None] - keys[:, None, None, :] >= window
    seen = F.pad(mask, (keys.shape[-1] - mask.shape[-1], 0)).masked_fill(outside, -torch.inf)
    return seen if len(kinds) == 1 else {"full_attention": mask, "sliding_attention": seen}


def vocabulary_logits(model, hidden):
    """Logits of hidden states [..., hidden]; some families scale or squash what the head gives."""
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):        # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):     # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma-2
        logits = cap * torch.tanh(logits / cap)
    return logits


def mention_experts(model):
    """Say so where `--bits 4` leaves most of a model in 16 bits: only plain layers are packed."""
    experts = sum(weight.numel() for weight in model.parameters() if weight.dim() == 3)
    if experts:
        share = experts / model.num_parameters()
        print(f"{Path(sys.argv[0]).stem}: this model's experts, {share:.0%} of its weights, stay "
              "in 16 bits: only plain layers are packed in 4", file=sys.stderr)


def mention_untrained_experts(model):
    """PEFT knows the experts of some families (Mixtral, Qwen3-MoE), which are no linear layers."""
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if any(weight.dim() == 3 for weight in model.parameters()) and "experts" not in str(trained):
        print("train: this model's experts stay as they are: only its other layers are trained",
              file=sys.stderr)


@torch.inference_mode()
def self_check(model, tokenizer, our_logits):
    """Fail in one line unless our logits are those of the model's own, plain forward pass.

    our_logits(model, prompts) -> [(ids, logits [n, vocabulary]), ...]: after each of the last n ids

    It costs a few passes over some tokens, and catches the families that nobody has tried: layers
    that keep a state of their own, positions that are not passed on, another kind of attention.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    refusal = f"{name} is a family that cannot be run faithfully here ({{}}): use another model"
    if not model._can_set_attn_implementation():
        fail(refusal.format("its attention cannot be replaced"))
    attention, window = config._attn_implementation, getattr(config, "sliding_window", None)
    if window:
        config.sliding_window = CHECK_WINDOW
    try:
        ours = our_logits(model, tokenizer(list(CHECK_TEXTS)).input_ids)
        model.set_attn_implementation(own_attention(model))
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in ours],
                                                 batch_first=True)
        plain = model(input_ids=padded.to(model.device), use_cache=False).logits
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # unknown code can fail in many ways
        if isinstance(error, torch.OutOfMemoryError):
            raise
        fail(refusal.format(f"{type(error).__name__}: {error}".splitlines()[0][:100]))
    finally:
        model.set_attn_implementation(attention)
        if window:
            config.sliding_window = window
    errors = []
    for (ids, logits), row in zip(ours, plain):
        true = row[len(ids) - len(logits):len(ids)].float()
        spread = (true - true.mean(-1, keepdim=True)).norm(dim=-1)
        errors += ((logits.float() - true).norm(dim=-1) / spread).tolist()
    # but for one: rounding may send a token of a mixture of experts to another expert
    if not sorted(errors)[-2] < CHECK_ERROR:
        fail(refusal.format(f"its logits come out {max(errors):.0%} off"))
