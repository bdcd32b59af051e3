"""Stage 5 of 5, train: fine-tune the base model on the training rows, with 4-bit QLoRA.

    L = L1 + L2 = - sum over rows, sum over completion tokens i of  log p(a_i | prompt, a_<i)

(here as the mean over the tokens of an optimiser step). Plain supervised fine-tuning over U1,
x -> a+, and U2, (x, a-) -> a+: no RL, no reward model, and DPO with --pairs alone. Every iteration
starts again from the base model, and the new adapter is p_{t+1}. Gradients reach only the low-rank
matrices A and B of each linear layer, W x + (alpha / rank) B A x (LoRA, arXiv 2106.09685), while W
stays frozen in 4 bits (QLoRA, arXiv 2305.14314).

Reads   prompt completion [kind id] of each row; prompt chosen rejected of each pair.
Writes  a folder with a PEFT adapter.

    python train.py --in sft.jsonl --out adapter/

Where this differs from the article: low-rank matrices instead of all weights, a higher learning
rate and fewer rows a step with them, gradients clipped to length 1, and --min-steps.

What is done to waste no work, none of which changes the loss (tests/test_train.py compares it with
the plain one):
  1. Rows with the same prompt run it once: [prompt][completion 1][completion 2] ..., where a
     completion sees the prompt and itself only, and its positions go on from the prompt's.
  2. Such sequences are packed into bins of equal width under a block mask, so that almost nothing
     is padding.
  3. The vocabulary head runs on completion tokens only, a slice at a time.
"""
from __future__ import annotations

import math
import os
import time
from functools import partial

import nanoenvisions.threads  # noqa: F401  before torch: how its threads wait
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import envs
from nanoenvisions import adapters, flags, ranks
from nanoenvisions.families import (mention_untrained_experts, own_attention, self_check,
                                    vocabulary_logits)
from nanoenvisions.flags import Parser, metrics_file
from nanoenvisions.folders import HUB_NAME, check_folders
from nanoenvisions.memory import checkpoints, is_out_of_memory, make_optimizer
from nanoenvisions.model import (collate, hidden_states, load_model, pack_tightly,
                                 packed_logits, predicted, widest)
from nanoenvisions.preference import dpo_loss, unlikelihood_loss
from nanoenvisions.records import waiting
from nanoenvisions.rows import count_rows, encode, encode_pairs, make_steps, split_wide

HEAD_SLICE = 1024    # completion tokens whose logits exist at once: some 12 bytes each
LONGEST_GRADIENT = 1.0  # longer ones are shortened to it, so that one odd row does no harm


# ----------------------------------------------------------------------------------- The loss --

def loss_sum(model, batch: dict) -> torch.Tensor:
    """- sum over the completion tokens of log p(a_i | prompt, a_<i), in nats; a scalar."""
    return -token_logprobs(model, batch).sum()


def token_logprobs(model, batch: dict) -> torch.Tensor:
    """log p(a_i | prompt, a_<i) of all completion tokens in a batch, in nats; [N].

    batch   what collate makes of some bins: tokens [bins, W], their positions and mask, and where
            each completion and its prompt lie in them
    states  [N, hidden], one for each of the N completion tokens: of the token before it
    logits  [up to HEAD_SLICE, vocabulary], again for the tokens that these states predict
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before, target = predicted(batch["spans"])
    states = hidden_states(base, batch).flatten(0, 1)[before]  # [bins, W, hidden] -> [N, hidden]
    target = batch["tokens"].flatten()[target]                 # [N]

    def of_slice(states, target):
        logits = vocabulary_logits(base, states).float()
        return -F.cross_entropy(logits, target, reduction="none")  # log softmax(logits)[a_i]

    if len(target) <= HEAD_SLICE:
        return of_slice(states, target)
    # Logits of 1,024 tokens and 150,000 words are 2 GB: they are made again in the backward pass.
    slices = zip(states.split(HEAD_SLICE), target.split(HEAD_SLICE))
    return torch.cat([checkpoint(of_slice, *one, use_reentrant=False) for one in slices])


# ----------------------------------------------------------------------------------- Training --

def check_model(model, tokenizer):
    """Choose the attention, and fail unless our logits are those of a plain forward pass."""
    # torch's fused attention is slow on a CPU; on CUDA it is the fast one
    on_cpu = model.device.type == "cpu"
    attention = "prefix_attention" if on_cpu else own_attention(model)
    model.set_attn_implementation(attention)
    self_check(model, tokenizer, packed_logits)
    model.set_attn_implementation(attention)  # the check has used the model's own


def add_lora(model, args):
    """Wrap the frozen model with new low-rank matrices, or with those of --adapter.

    A is random and B is 0, so training begins at the base model; --seed makes A repeatable.
    """
    from peft import LoraConfig, get_peft_model
    if args.adapter:  # the ablation that trains on
        model = adapters.load_to_train(model, args.adapter)
    else:
        config = LoraConfig(r=args.rank, lora_alpha=args.alpha or 2 * args.rank, lora_dropout=0.0,
                            target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    mention_untrained_experts(model)
    if args.checkpointing == "yes" or (args.checkpointing == "auto"
                                       and checkpoints(model, max(args.micro_tokens, args.width))):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def learning_rate_at(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to 0, as a factor.

    10 steps, warm-up 0.2: 0.5, 1, 1, 0.875 ... 0.125
    """
    rising = max(1, math.ceil(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def completion_tokens(step) -> int:
    return sum(len(ids) for sequence in step for ids in sequence["branches"])


def train(model, steps, args, rate=None, loss_of=loss_sum, size_of=completion_tokens):
    """Run all steps: (mean loss of each step in nats per completion token, tokens run).

    rate      the highest learning rate; None: --learning-rate
    size_of   what the loss of a step is the mean over
    """
    rate = rate or args.learning_rate
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Compute in bfloat16, but update float32 masters: small updates would round to nothing.
    masters = [p.detach().float() for p in parameters]
    optimizer = make_optimizer(masters, model, args.optimizer)
    model.train()
    losses, tokens = [], 0
    bar = envs.progress(None, "train", total=len(steps))
    for number, step in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_at(number, len(steps), args.warmup)
        count = size_of(step)
        bins = pack_tightly(step, args.width, args.micro_tokens, ranks.COUNT)
        per_micro = max(1, args.micro_tokens // widest(bins))
        bins = bins[ranks.RANK::ranks.COUNT]  # of several processes: this one's share
        total, run = torch.zeros(2, device=model.device)  # loss; tokens
        for start in range(0, len(bins), per_micro):  # gradients add up over micro-batches
            batch = collate(bins[start:start + per_micro], model.device)
            loss = loss_of(model, batch)
            (loss / count).backward()
            total += loss.detach()
            run += batch["tokens"].numel()
        for master, parameter in zip(masters, parameters):
            if parameter.grad is not None or ranks.COUNT > 1:  # None: these rows do not use it
                grad, parameter.grad = parameter.grad, None
                master.grad = torch.zeros_like(master) if grad is None else grad.float()
        ranks.add_up([total, run, *(master.grad for master in masters if master.grad is not None)])
        losses.append(float(total) / count)
        tokens += int(run)
        if not math.isfinite(losses[-1]):
            envs.fail(f"the loss is {losses[-1]} at step {number + 1} (lower --learning-rate)")
        torch.nn.utils.clip_grad_norm_(masters, LONGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for master, parameter in zip(masters, parameters):
                parameter.copy_(master)
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        bar.update()
    bar.close()
    return losses, tokens


def train_on_pairs(model, steps, args):
    """After the rows, pairs (nanoenvisions/preference.py): the mean over pairs of the DPO loss

        - log sigma(beta [(log pi(a+|x) - log pi0(a+|x)) - (log pi(a-|x) - log pi0(a-|x))])

    or, over tokens, unlikelihood: - sum_i log p(a+_i|x) - sum_i log(1 - p(a-_i|x)).
    """
    rate = args.pair_learning_rate or args.learning_rate / 10
    if args.pair_loss == "unlikelihood":
        return train(model, steps, args, rate, partial(unlikelihood_loss, token_logprobs))
    return train(model, steps, args, rate, partial(dpo_loss, token_logprobs, beta=args.beta),
                 size_of=lambda step: count_rows(step) // 2)


# --------------------------------------------------------------------------------------- Main --

def parse_args(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--in", dest="inputs", nargs="+", required=True, help="training rows, of select.py")
    add("--out", required=True, help="folder to write the adapter to; an older one is replaced")
    add("--model", help="hub name or folder; nothing means the embedded SmolLM2-135M")
    add("--pairs", help="then, pairs to prefer or avoid; of select.py, prompt chosen rejected")
    add("--pair-loss", choices=("dpo", "unlikelihood"), default="dpo", help="what pairs are for")
    add("--beta", type=float, default=0.1, help="of DPO: the larger, the closer to the base model")
    add("--pair-learning-rate", type=float, help="default: a tenth of --learning-rate")
    add("--adapter", help="train on from this one instead of from the base model")
    add("--bits", type=int, default=4, choices=(4, 16, 32), help="4: NF4; 16: bf16; 32: fp32")
    add("--rank", type=int, default=16, help="rank of the low-rank matrices; 8 to 64")
    add("--alpha", type=int, help="their scale is alpha / rank; default 2 x rank")
    add("--learning-rate", type=float, default=1e-3,
        help="5e-4 to 2e-3 for 135M, 1e-4 to 2e-4 for 7B")
    add("--warmup", type=float, default=0.05, help="share of the steps in which the rate rises")
    add("--epochs", type=int, default=2, help="passes over the rows; 1 to 4")
    add("--min-steps", type=int, default=0, help="more passes over few rows, up to so many steps")
    add("--steps", type=int, default=0, help="exactly so many, instead of --epochs and --min-steps")
    add("--batch-size", type=int, default=8, help="completions per optimiser step")
    add("--max-length", type=int, default=1024, help="longest prompt + completion, in tokens")
    add("--width", type=int, default=160, help="fewest tokens of a bin that rows are packed into")
    add("--micro-tokens", type=int, default=2048, help="per forward pass; fewer save memory")
    add("--checkpointing", choices=("auto", "yes", "no"), default="auto",
        help="recompute activations in the backward pass to save memory; auto: if a GPU is short")
    add("--optimizer", choices=("auto", "adamw", "adamw8bit"), default="auto",
        help="adamw8bit saves memory and is slower; auto: adamw, unless memory is short")
    add("--iteration", type=int, default=0, help="t, recorded in the metrics")
    add("--seed", type=int, default=0, help="same seed, same adapter")
    add("--limit", type=int, help="read only the first so many rows of a file")
    add("--metrics", type=metrics_file, help="file to add this stage's counts to")
    args = parser.parse_args(argv)
    flags.check(args, rank=1, alpha=1, epochs=1, min_steps=0, steps=0, batch_size=1, max_length=2,
                width=1, micro_tokens=1, iteration=0, seed=0, limit=1)
    if not 0 < args.learning_rate < math.inf:  # also when it is nan
        envs.fail(f"--learning-rate is {args.learning_rate}, it must be above 0 and finite")
    if not 0 <= args.warmup <= 1:
        envs.fail(f"--warmup is {args.warmup}, it must be from 0 to 1")
    if args.pairs and args.steps == 1:
        envs.fail("--steps is 1, with --pairs it must be at least 2: half of them are theirs")
    if args.beta <= 0 or args.pair_learning_rate is not None and args.pair_learning_rate <= 0:
        envs.fail("--beta and --pair-learning-rate must be above 0")
    if args.steps:  # no pass need be whole: another method's many rows get no more steps than few
        args.epochs, args.min_steps = 0, args.steps
    return args


def main(argv=None):
    args, started = parse_args(argv), time.time()
    rows = [row for path in args.inputs for row in envs.read_jsonl(
        path, require=("prompt", "completion"), limit=args.limit,
        check=lambda row: next((f'"{field}" is empty (select.py writes it)' for field in (
            "prompt", "completion") if not row[field].strip()), None))]
    if args.adapter and not os.path.exists(os.path.join(args.adapter, "adapter_config.json")):
        envs.fail(f"{args.adapter}: no adapter there (leave --adapter away for the base model)")
    pairs = envs.read_jsonl(args.pairs, ("prompt", "chosen", "rejected"), args.limit,
                            allow_empty=True) if args.pairs else []
    envs.protect_inputs([args.metrics], [*args.inputs, args.pairs])
    if ranks.RANK == 0:  # of several processes, one writes
        adapters.claim(args.out, inputs=[*args.inputs, args.pairs, args.adapter, args.model],
                       metrics=args.metrics)
    check_folders(args.model, args.adapter)
    with waiting("loading the model"):
        model, tokenizer = load_model(args.model, bits=args.bits, merge=False)
    sequences = split_wide(encode(rows, tokenizer, args.max_length),
                           args.batch_size, args.max_length)
    if not sequences:
        envs.fail(f"{args.inputs[0]}: every prompt has {args.max_length} tokens or more "
                  "(raise --max-length)")
    pairs = encode_pairs(pairs, tokenizer, args.max_length)
    half = args.steps // 2 if pairs else 0
    batches = partial(make_steps, batch_size=args.batch_size, epochs=args.epochs, seed=args.seed)
    steps = batches(sequences, min_steps=args.min_steps - half)
    pair_steps = batches(pairs, min_steps=half) if pairs else []
    try:
        check_model(model, tokenizer)
        torch.manual_seed(args.seed)
        model = add_lora(model, args)
        if ranks.RANK == 0:
            adapters.reserve(model, args.out)
        losses, tokens = train(model, steps, args)
        if pairs:
            pair_losses, more = train_on_pairs(model, pair_steps, args)
            tokens += more
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        envs.fail(f"out of memory (lower --micro-tokens, now {args.micro_tokens}, then "
                  f"--max-length, now {args.max_length}; --checkpointing yes, --bits 4 and "
                  "--optimizer adamw8bit save memory, too)")
    if ranks.RANK:
        return
    seconds = time.time() - started
    adapters.save(model, args.model or HUB_NAME, args.out)
    tail = losses[-max(1, len(losses) // 10):]
    counts = {"stage": "train", "iteration": args.iteration, "seconds": round(seconds, 1),
              "rows": len(rows), "steps": len(steps), "tokens": tokens,
              "tokens_per_second": round(tokens / seconds), "loss_first": round(losses[0], 4),
              "loss": round(sum(tail) / len(tail), 4)}
    if pairs:
        counts |= {"pairs": len(pairs), "steps": len(steps) + len(pair_steps),
                   "pair_loss_first": round(pair_losses[0], 4),
                   "pair_loss": round(pair_losses[-1], 4)}
    if torch.cuda.is_available():
        counts["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    envs.add_metrics(args.metrics, counts)  # first: a stage whose output stands is not run again
    adapters.put_in_place(args.out)
    envs.say(f"train: {len(rows):,} rows, {len(steps)} steps, loss {losses[0]:.3f} -> "
             f"{counts['loss']:.3f} nats per token, {seconds:.0f} s",
             f"{tokens:,} tokens ({tokens / seconds:,.0f}/s)", out=args.out)


if __name__ == "__main__":
    main()
