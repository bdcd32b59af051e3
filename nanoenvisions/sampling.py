"""From records to a file of programs: what explore.py and refine.py share around the sampler.

A stage gives the prompt and the record of each sample; here they become batches, and their programs
lines of a file that a killed run continues. May import environment, families, flags, folders,
model, ranks, records and sampler.
"""
from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import time

import numpy as np
import torch

from nanoenvisions import ranks
from nanoenvisions.environment import parse_program
from nanoenvisions.families import self_check
from nanoenvisions.flags import count, heat, metrics_file, positive_share, whole
from nanoenvisions.folders import check_folders
from nanoenvisions.model import load_model
from nanoenvisions.records import (Output, add_metrics, fail, fingerprint, progress, protect_inputs,
                                   read_jsonl, say, waiting)
from nanoenvisions.sampler import generate_all, sampled_logits


def add_arguments(parser):
    """Flags that explore.py and refine.py share."""
    add = parser.add_argument
    add("--out", required=True, help="file to write, one candidate program per line")
    add("--model", default=None, help="hub name or folder; nothing means the embedded SmolLM2-135M")
    add("--adapter", default=None, help="folder that train.py wrote; nothing means the base model")
    add("--bits", type=int, default=4, choices=(4, 16, 32), help="4: NF4, 16: bfloat16, 32: float")
    add("--temperature", type=heat, default=0.7, help="0.6-0.8 for small models, to 1 for large")
    add("--top-p", type=positive_share, default=0.95,
        help="keep the most likely tokens that hold this mass")
    add("--max-new-tokens", type=count, default=96, help="longer programs are cut off")
    add("--rescore", action="store_true",
        help="logprob given the question alone, without examples or draft (a forward pass more)")
    add("--few-shot", action="store_true", help="put examples before the question (iteration 0)")
    on_gpu = torch.cuda.is_available()
    add("--batch-size", type=count, default=4096 if on_gpu else 512,
        help="rows written together: what a kill can lose (default here: %(default)s)")
    add("--slots", type=count, default=1024 if on_gpu else 256,
        help="rows decoded at once, fewer when memory is short (default here: %(default)s)")
    add("--seed", type=whole, default=0, help="same seed, same programs")
    add("--limit", type=count, default=None, help="read only the first so many records")
    add("--metrics", type=metrics_file, help="file to add this stage's counts to")


def read_items(args, stage: str, require, complaint) -> list[dict]:
    """All records of all inputs, args.limit in all. They name rows, so none may be there twice.

    complaint(record) says what else is wrong with one, or None.
    """
    items, seen = [], set()

    def check(item):
        key = row_key(stage, args, item, 0)
        if key in seen:
            _, task, iteration, candidate, _ = key
            what = f", iteration {iteration}, candidate {candidate}" if stage == "refine" else ""
            return f'id "{task}"{what} is there twice (records are joined by it: make it unique)'
        seen.add(key)
        return complaint(item)
    protect_inputs([args.out, args.metrics], [*args.inputs, args.model, args.adapter])
    check_folders(args.model, args.adapter)
    for path in args.inputs:
        room = None if args.limit is None else args.limit - len(items)
        items += read_jsonl(path, require, room, allow_empty=room == 0, check=check)
    return items


def checked_model(name, adapter, bits: int):
    """(model, tokenizer), whose logits are those of a plain forward pass."""
    with waiting("loading the model"):
        model, tokenizer = load_model(name, adapter, bits)
    self_check(model, tokenizer, sampled_logits)
    return model, tokenizer


def sample_to_file(args, stage: str, items, num_samples: int, make_prompt, make_record,
                   plain=None, amend=None, load=checked_model):
    """Sample for every item and write the records batch by batch, so that a killed run continues.

    make_prompt(item, k), make_record(item, k)  of the k-th sample of an item
    plain                                       a sampler to use instead of the fast one
    amend(model, tokenizer, records)            to change a batch before it is written
    load(name, adapter, bits)                   gives the model

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
    settings |= {"stage": stage, "inputs": fingerprint(*args.inputs),
                 "adapter": adapter_fingerprint(args.adapter)}
    model = functools.cache(lambda: load(args.model, args.adapter, args.bits))

    def make(start):
        """The records of a batch of items."""
        samples = list(itertools.product(order[start:start + per_batch], range(num_samples)))
        requests = collections.defaultdict(list)  # equal prompts are run once
        for i, k in samples:
            requests[prompts[i][k]].append(row_key(stage, args, items[i], k))
        programs = sample(args, *model(), requests, bar.update, plain)
        lines = []
        for i, k in samples:
            text, logprob, count = programs[row_key(stage, args, items[i], k)]
            lines.append(make_record(items[i], k) | {
                "program": parse_program(text), "logprob": round(logprob, 6), "tokens": count})
        if amend:
            amend(*model(), lines)
        return lines

    output = Output(args.out, settings, unit=per_batch * num_samples)
    with output if ranks.RANK == 0 else contextlib.nullcontext():  # rank 0 writes, see ranks.py
        records = list(output.done)
        begun = ranks.told(len(records))
        bar = progress(None, stage, total=len(items) * num_samples)
        bar.update(begun)
        starts = range(begun // num_samples, len(items), per_batch)
        for lines in ranks.shared(args.out, settings, starts, make):
            output.write(*lines)
            records += lines
        bar.close()
        if ranks.RANK == 0:
            report(args, stage, records, time.time() - started)


def sample(args, model, tokenizer, requests: dict, tick, plain=None) -> dict:
    """{key: (text, logprob, tokens)} for requests {prompt: keys}."""
    how = dict(seed=args.seed, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
               top_p=args.top_p)
    if plain:
        return {key: result for key, *result in plain(model, tokenizer, requests.items(), **how)}
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
        fail(f"{adapter}: no adapter there (train.py writes it; leave --adapter away for the "
             "base model)")
    return fingerprint(weights)


def report(args, stage, records, seconds: float):
    tokens = sum(record["tokens"] for record in records)
    counts = {"stage": stage, "iteration": records[0]["iteration"], "seconds": round(seconds, 1),
              "tasks": len({record["id"] for record in records}), "programs": len(records),
              "tokens": tokens, "tokens_per_second": round(tokens / seconds),
              "logprob": round(np.mean([record["logprob"] for record in records]), 4)}
    add_metrics(args.metrics, counts)
    say(f"{stage}: {counts['tasks']:,} tasks, {len(records):,} programs, {seconds:.0f} s",
        f"{tokens:,} tokens ({tokens / seconds:,.0f}/s)",
        f"mean log-probability {counts['logprob']:.2f}", out=args.out)
