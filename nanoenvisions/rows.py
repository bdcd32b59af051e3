"""From training rows to optimiser steps: tokens, rows with the same prompt together, batches.

A sequence is {"root": prompt ids, "branches": [completion ids, ...]}; model.py packs and runs it.
May import model.
"""
from __future__ import annotations

import random

from nanoenvisions.model import completion_ids, size, token_ids


def encode(rows, tokenizer, max_length: int) -> list[dict]:
    """One sequence per prompt: {"root": prompt ids, "branches": [completion ids, ...]}.

    Completions end with the end token: that is how a model learns to stop. They are cut at
    max_length tokens, prompt included; rows whose prompt alone is that long are left out.
    Rows with a field "pair" have one sequence per pair instead.
    """
    sequences, left_out = {}, 0
    for row in rows:
        prompt = row["prompt"]
        name = row.get("pair", prompt)
        if name not in sequences:
            sequences[name] = {"root": token_ids(tokenizer, [prompt])[0], "branches": []}
        room = max_length - len(sequences[name]["root"])
        if room <= 0:
            left_out += 1
            continue
        ids = completion_ids(tokenizer, prompt, row["completion"]) + [tokenizer.eos_token_id]
        sequences[name]["branches"].append(ids[:room])
    if left_out:
        print(f"train: {left_out} rows left out, their prompts have {max_length} tokens or more "
              "(--max-length)")
    return [sequence for sequence in sequences.values() if sequence["branches"]]


def encode_pairs(pairs, tokenizer, max_length: int) -> list[dict]:
    """One sequence per pair of the same prompt: {"root": x, "branches": [a+, a-]}."""
    return encode([{"prompt": pair["prompt"], "completion": pair[side], "pair": number}
                   for number, pair in enumerate(pairs) for side in ("chosen", "rejected")],
                  tokenizer, max_length)


def split_wide(sequences, most_completions: int, widest: int) -> list[dict]:
    """Cut sequences with many completions into several: no step is dominated by one task."""
    parts = []
    for sequence in sequences:
        part = {"root": sequence["root"], "branches": []}
        for ids in sequence["branches"]:
            full = len(part["branches"]) == most_completions or size(part) + len(ids) > widest
            if part["branches"] and full:
                parts.append(part)
                part = {"root": sequence["root"], "branches": []}
            part["branches"].append(ids)
        parts.append(part)
    return parts


def count_rows(sequences) -> int:
    return sum(len(sequence["branches"]) for sequence in sequences)


def make_steps(sequences, batch_size: int, epochs: int, min_steps: int, seed: int) -> list[list]:
    """Optimiser steps, each a list of sequences with at least batch_size completions together.

    As many as `epochs` passes over the rows give, at least min_steps: then more passes follow. A
    step takes rows of the next pass where one ends, so only the last step can be smaller; and no
    step is larger than a pass.
    Example: 3 rows, batch_size 8, 2 epochs, min_steps 5: five steps of all 3 rows.
    0 epochs: exactly min_steps steps, all of them full.
    """
    rng, order, steps, step = random.Random(seed), list(sequences), [], []
    batch_size = min(batch_size, count_rows(sequences))
    left = epochs * len(order)  # sequences to be seen before we may stop
    while True:
        rng.shuffle(order)
        for sequence in order:
            step.append(sequence)
            left -= 1
            full = count_rows(step) >= batch_size
            last = len(steps) + 1 >= min_steps and (left == 0 or left < 0 and full)
            if full or last:
                steps.append(step)
                step = []
            if last:
                return steps
