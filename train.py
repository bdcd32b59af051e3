"""Stage 5 of 5, train: fine-tune the base model on the training rows, with 4-bit QLoRA.

    L = L1 + L2 = - sum over rows, sum over completion tokens i of  log p(a_i | prompt, a_<i)   (mean over the tokens)

Plain supervised fine-tuning over U1 (x -> a+) and U2 ((x, a-) -> a+): no RL, no reward model, no DPO. Every iteration
starts again from the base model; the new adapter is p_{t+1}. Gradients reach only the low-rank matrices A and B of each
linear layer, W x + (alpha / rank) B A x (LoRA, arXiv 2106.09685), while W stays frozen in 4 bits (QLoRA, 2305.14314).

Reads   prompt completion [kind id] of each row.   Writes  a folder with a PEFT adapter.

    python train.py --in sft.jsonl --out adapter/

What is done to waste no work, all without changing the loss (tests/test_train.py compares it with the plain one):
  1. Rows with the same prompt run it once: [prompt][completion 1][completion 2] ..., where a completion sees the prompt
     and itself only, and its positions go on from the prompt's.
  2. Such sequences are packed into bins of equal width under a block mask, so almost nothing is padding.
  3. The vocabulary head runs on completion tokens only, a slice at a time.
"""
from __future__ import annotations

import argparse
import math
import random
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import envs
from nanoenvisions import adapters
from nanoenvisions.model import collate, load_model, pack, size

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the hub name of the embedded model
HEAD_SLICE = 1024  # completion tokens whose logits [tokens, vocabulary] exist at once


# ---------------------------------------------------------------------------------------- Data --

def encode(rows, tokenizer, max_length: int) -> list[dict]:
    """One sequence per prompt: {"root": prompt ids, "branches": [completion ids, ...]}.

    Completions end with the end token. They are cut at max_length tokens (prompt included); rows whose prompt alone is
    longer are left out.
    """
    sequences = {}
    for row in rows:
        sequences.setdefault(row["prompt"], []).append(row["completion"])
    encoded, left_out = [], 0
    for prompt, completions in sequences.items():
        prompt_ids = tokenizer(prompt).input_ids
        if len(prompt_ids) >= max_length:
            left_out += len(completions)
            continue
        endings = tokenizer(completions, add_special_tokens=False).input_ids
        endings = [(ids + [tokenizer.eos_token_id])[:max_length - len(prompt_ids)] for ids in endings]
        encoded.append({"root": prompt_ids, "branches": endings})
    if left_out:
        print(f"train: {left_out} rows left out, their prompts have {max_length} tokens or more (--max-length)")
    return encoded


def split_wide(sequences, most_completions: int, widest: int) -> list[dict]:
    """Cut sequences with many completions into several, so that no step is dominated by one task."""
    parts = []
    for sequence in sequences:
        part = {"root": sequence["root"], "branches": []}
        for completion in sequence["branches"]:
            full = len(part["branches"]) == most_completions or size(part) + len(completion) > widest
            if part["branches"] and full:
                parts.append(part)
                part = {"root": sequence["root"], "branches": []}
            part["branches"].append(completion)
        parts.append(part)
    return parts


def make_steps(sequences, batch_size: int, epochs: int, seed: int) -> list[list[dict]]:
    """Shuffle each epoch and cut it into optimiser steps of about batch_size completions."""
    rng, steps = random.Random(seed), []
    for _ in range(epochs):
        rng.shuffle(sequences)
        steps.append([])
        for sequence in list(sequences):
            if sum(len(s["branches"]) for s in steps[-1]) >= batch_size:
                steps.append([])
            steps[-1].append(sequence)
    return steps


# ------------------------------------------------------------------------------------ Training --

def loss_sum(model, batch: dict) -> torch.Tensor:
    """Sum over the completion tokens of -log p(token | what it may see), in nats."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.get_decoder()(input_ids=batch["tokens"], position_ids=batch["positions"],
                                attention_mask=batch["mask"].to(base.dtype), use_cache=False).last_hidden_state
    # A completion's first token is predicted where its prompt ends, every other one at the token before it.
    source, target = [], []
    for _, prompt_end, begin, end in batch["spans"]:
        source += [prompt_end - 1, *range(begin, end - 1)]
        target += range(begin, end)
    hidden, target = hidden.flatten(0, 1)[source], batch["tokens"].flatten()[target]
    head = base.get_output_embeddings()

    def slice_loss(states, target):
        return F.cross_entropy(head(states).float(), target, reduction="sum")

    slices = zip(hidden.split(HEAD_SLICE), target.split(HEAD_SLICE))
    if len(hidden) <= HEAD_SLICE:
        return slice_loss(hidden, target)
    return sum(checkpoint(slice_loss, states, target, use_reentrant=False) for states, target in slices)


def add_lora(model, args):
    """Wrap the frozen model with new low-rank matrices, or with those of --adapter (the ablation that trains on)."""
    from peft import LoraConfig, PeftModel, get_peft_model
    if args.adapter:
        model = PeftModel.from_pretrained(model, args.adapter, is_trainable=True, autocast_adapter_dtype=False)
    else:
        model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=args.alpha or 2 * args.rank, lora_dropout=0.0,
                                                 target_modules="all-linear", task_type="CAUSAL_LM"),
                               autocast_adapter_dtype=False)
    if model.device.type == "cpu":  # torch's fused attention is slow there; on CUDA it is the fast one
        model.get_base_model().set_attn_implementation("prefix_attention")
    if args.checkpointing == "yes" or args.checkpointing == "auto" and model.device.type == "cuda":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def make_optimizer(parameters, learning_rate: float, device):
    """AdamW, with 8-bit moments on CUDA (bitsandbytes)."""
    if device.type == "cuda":
        import bitsandbytes
        return bitsandbytes.optim.AdamW8bit(parameters, lr=learning_rate, weight_decay=0.0)
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def learning_rate_at(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to 0, as a factor. 10 steps, warm-up 0.2: 0.5, 1, 1, 0.875 ... 0.125"""
    rising = max(1, math.ceil(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def train(model, steps, args):
    """Run all optimiser steps; returns (mean loss of each step in nats per token, tokens run, peak memory in GB)."""
    device = model.device
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Compute in bfloat16, but keep float32 masters for the optimiser: small updates would round to nothing.
    masters = [p.detach().float() for p in parameters]
    optimizer = make_optimizer(masters, args.learning_rate, device)
    model.train()
    losses, tokens = [], 0
    bar = envs.progress(None, "train", total=len(steps))
    for number, step in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_at(number, len(steps), args.warmup)
        count = sum(len(ids) for sequence in step for ids in sequence["branches"])
        bins = pack(step, max(args.width, max(map(size, step))))
        per_micro = max(1, args.micro_tokens // max(args.width, max(map(size, step))))
        total = 0.0
        for start in range(0, len(bins), per_micro):
            batch = collate(bins[start:start + per_micro], device)
            loss = loss_sum(model, batch)
            (loss / count).backward()
            total += loss.item()
            tokens += batch["tokens"].numel()
        for master, parameter in zip(masters, parameters):
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, parameters):
                parameter.copy_(master)
        losses.append(total / count)
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        bar.update()
    bar.close()
    return losses, tokens


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, help="training rows (select.py writes them)")
    parser.add_argument("--out", required=True, help="folder to write the adapter to")
    parser.add_argument("--model", default=None, help="hub name or folder; nothing means the embedded SmolLM2-135M")
    parser.add_argument("--adapter", default=None, help="train on from this adapter instead of from the base model")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 16, 32), help="4: NF4 (QLoRA); 16: bf16; 32: fp32")
    parser.add_argument("--rank", type=int, default=16, help="rank of the low-rank matrices; 8 to 64")
    parser.add_argument("--alpha", type=int, default=None, help="their scale is alpha / rank; default 2 x rank")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="5e-4 to 2e-3 for 135M, 1e-4 to 2e-4 for 7B")
    parser.add_argument("--warmup", type=float, default=0.05, help="share of the steps in which the rate rises")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the rows; 1 to 4")
    parser.add_argument("--min-steps", type=int, default=0, help="more passes over few rows, up to so many steps")
    parser.add_argument("--batch-size", type=int, default=8, help="completions per optimiser step")
    parser.add_argument("--max-length", type=int, default=1024, help="longest prompt + completion, in tokens")
    parser.add_argument("--width", type=int, default=160, help="tokens of a bin that sequences are packed into")
    parser.add_argument("--micro-tokens", type=int, default=2048, help="tokens per forward pass; fewer save memory")
    parser.add_argument("--checkpointing", choices=("auto", "yes", "no"), default="auto",
                        help="recompute activations in the backward pass to save memory; auto: on CUDA")
    parser.add_argument("--iteration", type=int, default=0, help="t, recorded in the metrics")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same adapter")
    parser.add_argument("--limit", type=int, default=None, help="read only the first so many rows")
    parser.add_argument("--metrics", default=None, help="file to add this stage's counts to")
    return parser.parse_args(argv)


def main(argv=None):
    args, started = parse_args(argv), time.time()
    rows = [row for path in args.inputs
            for row in envs.read_jsonl(path, require=("prompt", "completion"), limit=args.limit)]
    envs.protect_inputs([args.metrics], args.inputs)
    adapters.claim(args.out, inputs=[*args.inputs, args.adapter, args.model], metrics=args.metrics)
    torch.manual_seed(args.seed)
    model, tokenizer = load_model(args.model, bits=args.bits, merge=False)
    model = add_lora(model, args)
    sequences = split_wide(encode(rows, tokenizer, args.max_length), args.batch_size, args.max_length)
    completions = sum(len(sequence["branches"]) for sequence in sequences)
    if not completions:
        envs.fail(f"{args.inputs[0]}: every prompt has {args.max_length} tokens or more (raise --max-length)")
    epochs = max(args.epochs, math.ceil(args.min_steps * args.batch_size / completions))
    steps = make_steps(sequences, args.batch_size, epochs, args.seed)
    losses, tokens = train(model, steps, args)
    seconds = time.time() - started
    adapters.save(model, args.model or EMBEDDED, args.out)
    tail = losses[-max(1, len(losses) // 10):]
    counts = {"stage": "train", "iteration": args.iteration, "seconds": round(seconds, 1), "rows": len(rows),
              "steps": len(steps), "tokens": tokens, "tokens_per_second": round(tokens / seconds),
              "loss_first": round(losses[0], 4), "loss": round(sum(tail) / len(tail), 4)}
    if torch.cuda.is_available():
        counts["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    envs.add_metrics(args.metrics, counts)  # first: a stage whose output stands is never run again
    adapters.put_in_place(args.out)
    print(f"train: {len(rows):,} rows, {len(steps)} steps, loss {losses[0]:.3f} -> {counts['loss']:.3f} nats per "
          f"token, {tokens:,} tokens ({tokens / seconds:,.0f}/s), {seconds:.0f} s -> {args.out}")


if __name__ == "__main__":
    main()
