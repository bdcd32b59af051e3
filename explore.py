"""Stage 1 of 5, explore: sample K candidate programs for every task.

Step 1 of the article, self-exploration:

    a_k ~ p_t(. | x),   k = 1 ... K

and, at no extra forward pass, the quantity that step 7 (the soft self-reward) needs: the mean
log-probability of the program's tokens under the model itself, at temperature 1 and without top-p,
in nats per token:

    r = logprob(a) = 1/|a| * sum_i log p_t(a_i | x, a_<i)

Both are in `generate_plain` below, in 20 lines. What runs is nanoenvisions/sampler.py, which gives
the same programs many times faster; `--plain` runs the plain one.

Reads   id env question [few_shot ...] of each task.
Writes  the task + iteration candidate source program logprob tokens.

    python explore.py --in tasks.jsonl --out explored.jsonl --few-shot                  # t = 0
    python explore.py --in tasks.jsonl --out explored.jsonl --adapter iter0/adapter     # t = 1, ...
    python explore.py --in test.jsonl --out eval.jsonl --adapter iter0/adapter --greedy # evaluation
"""
from __future__ import annotations

import argparse
import collections
import itertools
import os
import time

import nanoenvisions.threads  # noqa: F401  before torch: how its threads wait
import numpy as np
import torch

import envs
from nanoenvisions.families import own_attention, self_check
from nanoenvisions.model import load_model, token_ids
from nanoenvisions.sampler import Ending, generate_all, random_stream, sampled_logits


# ----------------------------------------------------------------------------- The algorithm --

@torch.inference_mode()
def generate_plain(model, tokenizer, requests, seed, max_new_tokens, temperature, top_p):
    """Yield (key, text, logprob, tokens) of one row after another, by ordinary forward passes.

    requests  [(prompt, keys)]: one program per key, which seeds its random numbers
    """
    model.set_attn_implementation(own_attention(model))
    ending = Ending(model, tokenizer, max_new_tokens)
    for prompt, keys in requests:
        x = token_ids(tokenizer, [prompt])[0]
        for key in keys:
            uniform = random_stream(seed, key, max_new_tokens)  # one number in [0, 1) per token
            a, total, text, cache = [], 0.0, None, None
            while text is None:
                new = torch.tensor([a[-1:] or x], device=model.device)  # the cache has the others
                out = model(input_ids=new, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                logprobs = out.logits[0, -1].float().log_softmax(-1)  # log p_t(. | x, a_<i)
                a.append(draw(logprobs, uniform[len(a)], temperature, top_p))
                total += logprobs[a[-1]].item()  # at temperature 1, whatever it was drawn at
                text = ending.text(x[-1], a)     # None: not finished
            yield key, text, total / len(a), len(a)


def draw(logprobs, uniform: float, temperature: float, top_p: float) -> int:
    """A token from the nucleus: the smallest set of likeliest tokens that holds top_p of the mass.

    Example: p = (0.5, 0.3, 0.2), top_p = 0.7 keeps the first two, 0.8 in all. uniform 0.6 lies at
    0.48 of these 0.8: the first token; 0.7 at 0.56: the second.
    """
    if temperature == 0:
        return int(logprobs.argmax())
    p, order = (logprobs / temperature).softmax(-1).sort(descending=True)
    mass = p.cumsum(0)
    kept = mass[:int((mass < top_p).sum()) + 1]
    index = int((kept <= uniform * kept[-1]).sum())
    return int(order[min(index, len(kept) - 1)])


# ----------------------------------------------------------------------------------- The file --

def read_items(args, stage: str, require) -> list[dict]:
    """All records of all inputs, args.limit in all. They name rows, so none may be there twice."""
    items, seen = [], set()

    def check(item):
        key = row_key(stage, args, item, 0)
        if key in seen:
            _, task, iteration, candidate, _ = key
            what = f", iteration {iteration}, candidate {candidate}" if stage == "refine" else ""
            return f'id "{task}"{what} is there twice (records are joined by it: make it unique)'
        seen.add(key)
        return envs.unknown_env(item)
    envs.protect_inputs([args.out, args.metrics], [*args.inputs, args.model, args.adapter])
    for path in args.inputs:
        room = None if args.limit is None else args.limit - len(items)
        items += envs.read_jsonl(path, require, room, allow_empty=room == 0, check=check)
    return items


def sample_to_file(args, stage: str, items, num_samples: int, make_prompt, make_record,
                   amend=lambda model, tokenizer, records: None):
    """Sample for every item and write the records batch by batch, so that a killed run continues.

    make_prompt(item, k), make_record(item, k)  of the k-th sample of an item
    amend(model, tokenizer, records)            may change a batch before it is written

    A batch is what a kill can lose. Batches are fixed by the input alone, because rounding depends
    on what is computed together, and a continued run must end with the same file.
    """
    started = time.time()
    prompts = [[make_prompt(item, k) for k in range(num_samples)] for item in items]
    # similar lengths together, the longest first: if memory is short, it shows at once
    order = sorted(range(len(items)), key=lambda i: -len(prompts[i][0]))
    per_batch = max(1, args.batch_size // num_samples)  # items
    settings = {key: value for key, value in vars(args).items()
                if key not in ("out", "metrics", "inputs")}
    settings |= {"stage": stage, "inputs": envs.fingerprint(*args.inputs),
                 "adapter": adapter_fingerprint(args.adapter)}
    with envs.Output(args.out, settings, unit=per_batch * num_samples) as out:
        records = list(out.done)
        if len(records) < len(items) * num_samples:
            model, tokenizer = load_model(args.model, args.adapter, args.bits)
            self_check(model, tokenizer, sampled_logits)
        bar = envs.progress(None, stage, total=len(items) * num_samples)
        bar.update(len(records))
        for start in range(len(records) // num_samples, len(items), per_batch):
            samples = list(itertools.product(order[start:start + per_batch], range(num_samples)))
            requests = collections.defaultdict(list)  # equal prompts are run once
            for i, k in samples:
                requests[prompts[i][k]].append(row_key(stage, args, items[i], k))
            programs = sample(args, model, tokenizer, requests, bar.update)
            lines = []
            for i, k in samples:
                text, logprob, count = programs[row_key(stage, args, items[i], k)]
                lines.append(make_record(items[i], k) | {
                    "program": envs.parse_program(text), "logprob": round(logprob, 6),
                    "tokens": count})
            amend(model, tokenizer, lines)
            out.write(*lines)
            records += lines
        bar.close()
        report(args, stage, records, time.time() - started)


def sample(args, model, tokenizer, requests: dict, tick) -> dict:
    """{key: (text, logprob, tokens)} for requests {prompt: keys}."""
    how = dict(seed=args.seed, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
               top_p=args.top_p)
    if args.plain:
        return {key: result for key, *result
                in generate_plain(model, tokenizer, requests.items(), **how)}
    alike = collections.defaultdict(list)  # prompts with the same examples, or none, run together
    for prompt, keys in requests.items():
        alike[prompt.rpartition("\n\nQuestion: ")[0]].append((prompt, keys))
    results = {}
    for group in alike.values():
        results |= generate_all(model, tokenizer, group, args.slots, tick, **how)
    return results


def row_key(stage: str, args, item: dict, k: int) -> tuple:
    """Names a row and its random stream: the same in every run, another in every iteration."""
    iteration = getattr(args, "iteration", item.get("iteration"))
    return stage, item["id"], iteration, item.get("candidate", 0), k


def adapter_fingerprint(adapter):
    """Hash of its weights: an output begun with one adapter is not continued with another."""
    if not adapter:
        return None
    weights = os.path.join(adapter, "adapter_model.safetensors")
    if not os.path.exists(weights):
        envs.fail(f"{adapter}: no adapter there (train.py writes it; leave --adapter away for the "
                  "base model)")
    return envs.fingerprint(weights)


def report(args, stage, records, seconds: float):
    tokens = sum(record["tokens"] for record in records)
    counts = {"stage": stage, "iteration": records[0]["iteration"], "seconds": round(seconds, 1),
              "tasks": len({record["id"] for record in records}), "programs": len(records),
              "tokens": tokens, "tokens_per_second": round(tokens / seconds),
              "logprob": round(np.mean([record["logprob"] for record in records]), 4)}
    envs.add_metrics(args.metrics, counts)
    print(f"{stage}: {counts['tasks']:,} tasks, {len(records):,} programs, {tokens:,} tokens "
          f"({tokens / seconds:,.0f}/s), mean log-probability {counts['logprob']:.2f}, "
          f"{seconds:.0f} s -> {args.out}")


# --------------------------------------------------------------------------------------- Main --

def add_sampling_arguments(parser):
    """Flags that explore.py and refine.py share."""
    add = parser.add_argument
    add("--out", required=True, help="file to write, one candidate program per line")
    add("--model", default=None, help="hub name or folder; nothing means the embedded SmolLM2-135M")
    add("--adapter", default=None, help="folder that train.py wrote; nothing means the base model")
    add("--bits", type=int, default=4, choices=(4, 16, 32), help="4: NF4, 16: bfloat16, 32: float")
    add("--temperature", type=float, default=0.7, help="0.6-0.8 for small models, to 1 for large")
    add("--top-p", type=float, default=0.95, help="keep the most likely tokens that hold this mass")
    add("--max-new-tokens", type=int, default=96, help="longer programs are cut off")
    add("--few-shot", action="store_true", help="put examples before the question (iteration 0)")
    add("--batch-size", type=int, default=512, help="rows written together: what a kill can lose")
    add("--slots", type=int, default=256, help="rows decoded at once (fewer when memory is short)")
    add("--plain", action="store_true", help="one row at a time, as in the textbook: slow")
    add("--seed", type=int, default=0, help="same seed, same programs")
    add("--limit", type=int, default=None, help="read only the first so many records")
    add("--metrics", default=None, help="file to add this stage's counts to")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True,
                        help="task files (envs.py make writes them)")
    add_sampling_arguments(parser)
    parser.add_argument("--num-samples", type=int, default=5, help="K, programs per task")
    parser.add_argument("--greedy", action="store_true",
                        help="one program per task, of the likeliest tokens")
    parser.add_argument("--eval", action="store_true",
                        help="evaluation: --greedy, counted as such in --metrics")
    parser.add_argument("--iteration", type=int, default=0, help="t, recorded with each program")
    args = parser.parse_args(argv)
    args.greedy |= args.eval
    if args.greedy:
        args.num_samples, args.temperature = 1, 0.0
    if args.num_samples < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        parser.error("--num-samples must be at least 1, --temperature at least 0, "
                     "--top-p in (0, 1]")
    return args


def main(argv=None):
    args = parse_args(argv)
    stage = "eval-explore" if args.eval else "explore"
    tasks = read_items(args, stage, require=("id", "env", "question"))

    def make_prompt(task, k):  # the first samples of a task with a `few_shot` share have examples
        examples = args.few_shot or k < task.get("few_shot", 0) * args.num_samples
        return envs.solve_prompt(task, examples)

    def make_record(task, k):
        return task | {"iteration": args.iteration, "candidate": k, "source": "explore"}

    sample_to_file(args, stage, tasks, args.num_samples, make_prompt, make_record)


if __name__ == "__main__":
    main()
