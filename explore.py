"""Stage 1 of 5, explore: sample K candidate programs for every task.

Step 1 of the article, self-exploration:

    a_k ~ p_t(. | x),   k = 1 ... K

and, at no extra forward pass, the quantity that step 7 (the soft self-reward) needs: the mean log-probability of
the program's tokens under the model itself, at temperature 1 and without top-p, in nats per token:

    logprob(a) = 1/|a| * sum_i log p_t(a_i | x, a_<i)

Reads   id env question [few_shot ...] of each task.
Writes  the task + iteration candidate source program logprob tokens.

    python explore.py --in tasks.jsonl --out explored.jsonl --few-shot                  # iteration 0: base model
    python explore.py --in tasks.jsonl --out explored.jsonl --adapter iter0/adapter     # later: zero-shot
    python explore.py --in test.jsonl  --out eval.jsonl --adapter iter0/adapter --greedy     # evaluation

How the sampler differs from `model.generate` (the loop is `generate` below):
  1. Tokens that all prompts begin with (instruction, few-shot examples) are run once, and their keys and values are
     stored once and read once a step for all rows.
  2. So are those of a prompt for its K samples; and prompts are run without the vocabulary head.
  3. A finished row leaves at once and its place is taken by the next one (continuous batching).
  4. Weights are dequantised once, with the adapter merged, when memory allows: still the rounded 4-bit policy that
     train.py trains, without dequantising every layer at every step.
  5. Each row draws from its own random stream, seeded by (seed, id, k): a run that was killed continues with the same
     samples, whatever else is in the batch.
"""
from __future__ import annotations

import argparse
import collections
import functools
import gc
import itertools
import math
import os
import sys
import time
import zlib

import numpy as np
import torch

import envs
from nanoenvisions.model import (collate, default_model, grouped_matmul, load_model, pack,  # noqa: F401
                                 prefix_attention, size)

NUCLEUS_PEEKS = (64, 2048)  # most likely tokens looked at when the nucleus is cut; all only if they do not hold top_p
CACHED_ROWS = 16  # rows of logits that a CPU's cache holds: with 256 at once every pass would wait for the memory
PREFILL_WIDTH = 256  # prompt tokens of a bin, at least; longer prompts have a bin of their own
PREFILL_BINS = 16  # bins per forward


# ----------------------------------------------------------------------------------- Attention --

class Cache:
    """Keys and values, in three parts that a row attends to one after the other:

    prefix   tokens that all prompts begin with         per layer [1, kv_heads, P, head_dim]
    prompts  the rest of each prompt but its last token           [groups, kv_heads, longest prompt, head_dim]
    rows     what a row adds to its prompt: that last token       [rows, kv_heads, max_new_tokens, head_dim]
             and the generated ones; `filled[row]` are in use
    """

    def __init__(self, dtype):
        self.dtype, self.prefix, self.prompts, self.slots, self.fresh = dtype, [], [], [], None
        self.rows, self.filled, self.longest = None, None, 0
        self.shape, self.place = (0, 0, 0), None  # groups, rows of the largest, longest prompt; see grouped_matmul

    def get_seq_length(self, layer_idx=0):
        return 0  # positions and masks are passed explicitly

    def update(self, keys, values, layer, *args, **kwargs):
        """Called by each attention layer with new keys and values [B, kv_heads, q, head_dim]; returns the rows' own."""
        if self.fresh is not None:  # prefill: collect, the caller copies them where they belong
            keys, values = keys.to(self.dtype), values.to(self.dtype)
            self.fresh.append((keys, values))
            return keys, values
        slot_keys, slot_values = self.slots[layer]
        slot_keys[self.rows, :, self.filled] = keys[:, :, 0].to(self.dtype)
        slot_values[self.rows, :, self.filled] = values[:, :, 0].to(self.dtype)
        count = len(self.rows)
        return slot_keys[:count, :, :self.longest], slot_values[:count, :, :self.longest]

    def shared(self, layer, batch) -> list[tuple]:
        """What rows see before their own keys: [(keys, values, place, rows of a group)], for grouped_matmul."""
        parts = []
        if self.prefix:
            parts.append((*self.prefix[layer], None, batch))  # one group of all rows
        if self.fresh is None and self.prompts:
            groups, largest, longest = self.shape
            keys, values = (part[:groups, :, :longest] for part in self.prompts[layer])
            parts.append((keys, values, self.place, largest))
        return parts


def cache_dtype(model):
    """Of keys and values. On a CPU small float32 products are some twenty times faster than bfloat16 ones."""
    return torch.float32 if model.device.type == "cpu" else model.dtype


def cache_shape(model) -> tuple[int, int, int]:
    """(layers, key-value heads, numbers in a key): all that a token's keys or values are."""
    config = model.config.get_text_config()
    return (config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


# ------------------------------------------------------------------------------------ Sampling --

def pick_tokens(logits, uniform, temperature: float, top_p: float):
    """One token per row, by inverse transform sampling from the nucleus, and its log-probability in the model.

    logits [rows, vocabulary], uniform [rows] in [0, 1) -> tokens [rows], logprobs [rows] (nats, temperature 1).
    The nucleus is the smallest set of most likely tokens that holds top_p of the mass at `temperature`.
    Example: p = (0.5, 0.3, 0.2), top_p = 0.7 keeps the first two; uniform 0.7 lies at 0.56 of their 0.8: the second.
    """
    if logits.device.type == "cpu" and len(logits) > CACHED_ROWS:
        parts = zip(logits.split(CACHED_ROWS), uniform.split(CACHED_ROWS))
        parts = [pick_tokens(*part, temperature, top_p) for part in parts]
        return tuple(map(torch.cat, zip(*parts)))
    logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
    if temperature == 0:
        best, tokens = logprobs.max(dim=-1)
        return tokens, best
    left = logprobs if temperature == 1 else (logprobs / temperature).log_softmax(dim=-1)  # tempered, of rows to do
    todo = torch.arange(len(logits), device=logits.device)
    tokens = torch.empty_like(todo)
    for peek in (*NUCLEUS_PEEKS, logits.shape[1]):  # flat rows need more tokens, rarely the whole vocabulary
        peek = min(peek, logits.shape[1])
        best, order = left.topk(peek, dim=-1)  # highest first
        mass = best.exp().cumsum(dim=-1)
        covered = (mass[:, -1] >= top_p) | (peek == logits.shape[1])
        size = (mass < top_p).sum(dim=-1, keepdim=True).clamp(max=peek - 1)  # index of the nucleus' last token
        drawn = uniform[todo, None] * mass.gather(1, size)
        index = torch.minimum((mass <= drawn).sum(dim=-1, keepdim=True), size)
        tokens[todo[covered]] = order.gather(1, index).squeeze(1)[covered]
        todo, left = todo[~covered], left[~covered]
        if not len(todo):
            break
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def common_prefix(sequences) -> int:
    """Number of leading tokens that all sequences share, but at least one token is left to each.

    >>> common_prefix([[5, 6, 7], [5, 6, 8, 9]])
    2
    """
    first, last = min(sequences), max(sequences)
    most = min(map(len, sequences)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def random_stream(seed: int, key: tuple, count: int) -> np.ndarray:
    """`count` uniform numbers that depend on nothing but the seed and the row's key, e.g. (id, k, "explore")."""
    return np.random.default_rng([seed, zlib.crc32(repr(key).encode())]).random(count, dtype=np.float32)


def share_roots(prompts: list[list[int]]) -> list[dict]:
    """Group prompts that begin alike (a question and several drafts): {"root": ids, "branches": [ids], "order": [i]}.

    A branch ends before its prompt's last token.
    Example: [1, 2, 3, 4, 9] and [1, 2, 3, 5, 6, 9] have the root [1, 2, 3] and the branches [4] and [5, 6].
    """
    groups = []
    for index in sorted(range(len(prompts)), key=lambda i: prompts[i]):  # neighbours in this order share the most
        prompt = prompts[index]
        if groups:
            together = [prompts[i] for i in groups[-1]["order"]] + [prompt]
            shared = common_prefix(together)
            if 2 * shared >= min(map(len, together)):
                groups[-1].update(root=prompt[:shared], order=groups[-1]["order"] + [index])
                continue
        groups.append({"root": prompt[:-1], "order": [index]})
    for group in groups:
        group["branches"] = [prompts[i][len(group["root"]):-1] for i in group["order"]]
    return groups


@torch.inference_mode()
def prefill(model, cache: Cache, batch: dict) -> list:
    """Run prompts behind the cached prefix; returns their keys and values, per layer [bins, kv_heads, W, head_dim]."""
    cache.fresh = []
    model.get_decoder()(input_ids=batch["tokens"], attention_mask=batch["mask"], position_ids=batch["positions"],
                        past_key_values=cache, use_cache=True, cache=cache)
    fresh, cache.fresh = cache.fresh, None
    return fresh


@torch.inference_mode()
def generate(model, tokenizer, requests, seed=0, max_new_tokens=128, temperature=0.7, top_p=0.95, stop="\n```",
             slots=128):
    """Yield (key, text, logprob, tokens) for every key of every request, in the order in which rows finish.

    requests  list of (prompt, keys): one sample per key; a key names a row and seeds its random stream
    slots     rows that are decoded at once
    text      what was generated, without the stop string; logprob: mean over its `tokens` tokens, stop included
    """
    device = model.device
    model.set_attn_implementation("prefix_attention")
    ids = tokenizer([prompt for prompt, _ in requests]).input_ids
    skip = common_prefix(ids) if len(ids) > 1 else 0
    cache = Cache(cache_dtype(model))
    if skip:
        batch = collate([[{"root": ids[0][:skip], "branches": []}]], device)
        cache.prefix = prefill(model, cache, batch)
    # The last prompt token is left to the first decoding step, so prefill needs no vocabulary head.
    # Sorted, so that prompts with the same beginning come together (see share_roots).
    waiting = collections.deque(sorted(((prompt[skip:], keys) for prompt, (_, keys) in zip(ids, requests)),
                                       key=lambda item: item[0]))
    slots = min(slots, sum(len(keys) for _, keys in requests))
    layers, kv_heads, head_dim = cache_shape(model)

    def room_for(count, length):
        shape = (count, kv_heads, length, head_dim)
        return [tuple(torch.zeros(shape, dtype=cache.dtype, device=device) for _ in "kv")
                for _ in range(layers)]

    cache.prompts = room_for(min(slots, len(requests)), max(len(prompt) for prompt, _ in waiting) - 1)
    cache.slots = room_for(slots, max_new_tokens)

    end_tokens = model.generation_config.eos_token_id
    end_tokens = {*(end_tokens if isinstance(end_tokens, list) else [end_tokens]), tokenizer.eos_token_id}
    may_stop = tokens_with(tokenizer, stop[-1])  # only these can complete the stop string
    rows, filled = [], np.zeros(slots, dtype=np.int64)  # rows: dicts, in the order of their slots
    last = np.zeros(slots, dtype=np.int64)  # the newest token of each row, not yet run
    group = np.zeros(slots, dtype=np.int64)  # of each row: the place of its prompt in cache.prompts
    lengths = []  # of each group: tokens of its prompt in cache.prompts

    def admit():
        """Fill free slots: run the next prompts, what they share once. A prompt's samples start together."""
        taken, room = [], slots - len(rows)
        while waiting and (len(waiting[0][1]) <= room or not rows and not taken):
            prompt, keys = waiting.popleft()
            taken.append((prompt, keys[:room]))
            if len(keys) > room:  # more samples than slots
                waiting.appendleft((prompt, keys[room:]))
            room -= len(taken[-1][1])
        if not taken:
            return
        groups = share_roots([prompt for prompt, _ in taken])
        bins = pack(groups, max(PREFILL_WIDTH, max(map(size, groups))))
        for start in range(0, len(bins), PREFILL_BINS):
            part = bins[start:start + PREFILL_BINS]
            batch = collate(part, device, skip)
            first, index = len(lengths), []
            places = [i for one in part for shared in one for i in shared["order"]]
            for (root, root_end, branch, branch_end), i in zip(batch["spans"], places):
                prompt, keys = taken[i]
                for key in keys:
                    group[len(rows)], filled[len(rows)], last[len(rows)] = len(lengths), 0, prompt[-1]
                    rows.append({"key": key, "ids": [], "logprob": 0.0,
                                 "uniform": random_stream(seed, key, max_new_tokens)})
                index.append([*range(root, root_end), *range(branch, branch_end)])
                lengths.append(len(prompt) - 1)
            longest = max(map(len, index))
            if not longest:
                continue
            index = torch.tensor([one + [0] * (longest - len(one)) for one in index], device=device)
            for layer, pair in enumerate(prefill(model, cache, batch)):
                for slot, new in zip(cache.prompts[layer], pair):  # new [bins, kv_heads, W, head_dim]
                    flat = new.transpose(1, 2).flatten(0, 1)
                    slot[first:len(lengths), :, :longest] = flat[index].transpose(1, 2)

    def move(store, source, target, length):
        for pair in store:
            for slot in pair:
                slot[target, :, :length] = slot[source, :, :length]

    def drop(row):
        """Free a slot: the last row moves into it. If it was the last of its prompt, the same with the prompts."""
        end, old = len(rows) - 1, group[row]
        if row != end:
            rows[row], filled[row], last[row], group[row] = rows[end], filled[end], last[end], group[end]
            move(cache.slots, end, row, filled[row])
        rows.pop()
        if old not in group[:end]:
            end = len(lengths) - 1
            if old != end:
                lengths[old] = lengths[end]
                move(cache.prompts, end, old, lengths[old])
                group[group == end] = old
            lengths.pop()

    while rows or waiting:
        # Admitting a few rows at a time would make small, slow prefills: wait until a quarter is free.
        if waiting and slots - len(rows) >= max(1, slots // 4) or not rows:
            admit()
        count = len(rows)
        cache.rows = torch.arange(count, device=device)
        cache.filled = torch.from_numpy(filled[:count].copy()).to(device)
        cache.longest = int(filled[:count].max()) + 1
        members, rank = [0] * len(lengths), []  # rows of each group; which of them each row is
        for number in group[:count]:
            rank.append(members[number])
            members[number] += 1
        groups = torch.from_numpy(group[:count].copy()).to(device)
        cache.shape = len(lengths), max(members), max(lengths)
        cache.place = groups * cache.shape[1] + torch.tensor(rank, device=device)
        prompt = torch.tensor(lengths, device=device)[groups]  # its length, for each row
        unused = torch.cat([torch.arange(cache.shape[2], device=device) >= prompt[:, None],
                            torch.arange(cache.longest, device=device) > cache.filled[:, None]], dim=1)
        mask = torch.zeros(unused.shape, device=device).masked_fill_(unused, -torch.inf)[:, None, None]
        logits = model(input_ids=torch.from_numpy(last[:count, None].copy()).to(device), attention_mask=mask,
                       position_ids=(skip + prompt + cache.filled)[:, None], past_key_values=cache, use_cache=True,
                       cache=cache).logits[:, -1]
        uniform = torch.tensor([row["uniform"][len(row["ids"])] for row in rows], device=device)
        tokens, logprobs = (x.tolist() for x in pick_tokens(logits, uniform, temperature, top_p))
        filled[:count] += 1
        last[:count] = tokens
        for index in range(count - 1, -1, -1):  # from the end, so that `drop` moves only rows that were seen
            row, token = rows[index], tokens[index]
            row["ids"].append(token)
            row["logprob"] += logprobs[index]
            text = None
            if token in end_tokens:
                text = tokenizer.decode(row["ids"][:-1])
            elif token in may_stop:
                text = tokenizer.decode(row["ids"])
                text = text[:text.find(stop)] if stop in text else None
            if text is None and len(row["ids"]) == max_new_tokens:
                text = tokenizer.decode(row["ids"])
            if text is not None:
                yield row["key"], text, row["logprob"] / len(row["ids"]), len(row["ids"])
                drop(index)


@functools.lru_cache(maxsize=4)
def tokens_with(tokenizer, character: str) -> set[int]:
    """Ids of the tokens whose text contains a character."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return {token for token, text in enumerate(texts) if character in text}


def fitting_slots(model, length: int, most: int) -> int:
    """How many rows of `length` tokens can be decoded at once: what 80 % of the free GPU memory, or 40 % of the main
    memory, holds; `most` at most. (Of all main memory, not of the free: the same rows must run together every time.)
    """
    cache_bytes = 2 * math.prod(cache_shape(model)) * length * cache_dtype(model).itemsize
    logits_bytes = 4 * model.config.get_text_config().vocab_size * 4  # float32, and what pick_tokens makes of them
    if model.device.type == "cuda":
        room = 0.8 * torch.cuda.mem_get_info()[0]
    else:
        room = 0.4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(max(1, min(most, room // (cache_bytes + logits_bytes))))


def generate_all(model, tokenizer, requests, slots: int, tick=lambda: None, **options) -> dict:
    """{key: (text, logprob, tokens)} for all requests; halves the slots when memory runs out, keeps what is done."""
    done = {}
    while True:
        left = [(prompt, [key for key in keys if key not in done]) for prompt, keys in requests]
        left = [(prompt, keys) for prompt, keys in left if keys]
        if not left:
            return done
        try:
            for key, *result in generate(model, tokenizer, left, slots=slots, **options):
                done[key] = result
                tick()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if slots == 1 or not ("memory" in str(error).lower() or isinstance(error, torch.OutOfMemoryError)):
                raise
            slots //= 2
        if len(done) < sum(len(keys) for _, keys in requests):  # outside `except`, which would keep the tensors alive
            gc.collect()
            torch.cuda.empty_cache() if torch.cuda.is_available() else None
            print(f"explore: out of memory, going on with {slots} rows at once", file=sys.stderr)


def sample_to_file(args, stage: str, items, num_samples: int, make_prompt, make_record, amend=None):
    """Sample for every item and write the records batch by batch, so that a killed run continues.

    amend(model, tokenizer, records) may change the records of a batch before they are written.

    A batch is what a kill can lose: its rows are written together. Batches are fixed by the input alone, because
    rounding depends on what is computed together, and a continued run must end with the same file.
    """
    started = time.time()
    keys = collections.Counter(row_key(stage, args, item, 0) for item in items)
    twice = next((key for key, count in keys.items() if count > 1), None)
    if twice:
        envs.fail(f'{args.inputs[0]}: id "{twice[1]}" is there twice (ids name tasks, make them unique)')
    prompts = [[make_prompt(item, k) for k in range(num_samples)] for item in items]
    order = sorted(range(len(items)), key=lambda i: -len(prompts[i][0]))  # similar lengths together, longest first
    per_batch = max(1, args.batch_size // num_samples)  # items
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "metrics", "inputs")}
    settings |= {"stage": stage, "inputs": envs.fingerprint(*args.inputs), "adapter": adapter_fingerprint(args.adapter)}
    with envs.Output(args.out, settings, unit=per_batch * num_samples) as out:
        records = list(out.done)
        if len(records) < len(items) * num_samples:
            model, tokenizer = load_model(args.model, args.adapter, args.bits)
            bar = envs.progress(None, stage, total=len(items) * num_samples)
            bar.update(len(records))
            for start in range(len(records) // num_samples, len(items), per_batch):
                batch = order[start:start + per_batch]
                requests = {}  # equal prompts are run once
                for i, k in itertools.product(batch, range(num_samples)):
                    requests.setdefault(prompts[i][k], []).append((i, k))
                alike = collections.defaultdict(list)  # prompts with the same examples, or with none, run together
                for prompt, keys in requests.items():
                    keys = [row_key(stage, args, items[i], k) for i, k in keys]
                    alike[prompt.rpartition("\n\nQuestion: ")[0]].append((prompt, keys))
                longest = max(len(prompts[i][0]) for i in batch) // 2 + args.max_new_tokens  # 2 characters a token
                results = {}
                for keyed in alike.values():
                    results |= generate_all(model, tokenizer, keyed, fitting_slots(model, longest, args.slots),
                                            bar.update, seed=args.seed, max_new_tokens=args.max_new_tokens,
                                            temperature=args.temperature, top_p=args.top_p)
                lines = []
                for i in batch:
                    for k in range(num_samples):
                        text, logprob, count = results[row_key(stage, args, items[i], k)]
                        lines.append(make_record(items[i], k) | {
                            "program": envs.parse_program(text), "logprob": round(logprob, 6), "tokens": count})
                if amend:
                    amend(model, tokenizer, lines)
                out.write(*lines)
                records += lines
            bar.close()
        tokens = sum(record["tokens"] for record in records)
        seconds = time.time() - started
        counts = {"stage": stage, "iteration": records[0]["iteration"], "seconds": round(seconds, 1),
                  "tasks": len({record["id"] for record in records}), "programs": len(records), "tokens": tokens,
                  "tokens_per_second": round(tokens / seconds),
                  "logprob": round(np.mean([record["logprob"] for record in records]), 4)}
        envs.add_metrics(args.metrics, counts)
    print(f"{stage}: {counts['tasks']:,} tasks, {len(records):,} programs, {tokens:,} tokens "
          f"({tokens / seconds:,.0f}/s), mean log-probability {counts['logprob']:.2f}, {seconds:.0f} s -> {args.out}")


def row_key(stage: str, args, item: dict, k: int) -> tuple:
    """Names a row and its random stream: the same in every run, different in every iteration."""
    return stage, item["id"], getattr(args, "iteration", item.get("iteration")), item.get("candidate", 0), k


def adapter_fingerprint(adapter):
    """Hash of an adapter's weights: an output begun with one adapter is not continued with another."""
    if not adapter:
        return None
    weights = os.path.join(adapter, "adapter_model.safetensors")
    if not os.path.exists(weights):
        envs.fail(f"{adapter}: no adapter there (train.py writes it; leave --adapter away for the base model)")
    return envs.fingerprint(weights)


# ---------------------------------------------------------------------------------------- Main --

def add_sampling_arguments(parser):
    """Flags that explore.py and refine.py share."""
    parser.add_argument("--out", required=True, help="file to write, one candidate program per line")
    parser.add_argument("--model", default=None, help="hub name or folder; nothing means the embedded SmolLM2-135M")
    parser.add_argument("--adapter", default=None, help="folder that train.py wrote; nothing means the base model")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 16, 32), help="4: NF4 (QLoRA); 16: bf16; 32: fp32")
    parser.add_argument("--temperature", type=float, default=0.7, help="0.6-0.8 for small models, up to 1 for large")
    parser.add_argument("--top-p", type=float, default=0.95, help="keep the most likely tokens that hold this mass")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="longer programs are cut off")
    parser.add_argument("--few-shot", action="store_true", help="put examples before the question (iteration 0)")
    parser.add_argument("--batch-size", type=int, default=512, help="rows written together: what a kill can lose")
    parser.add_argument("--slots", type=int, default=256, help="rows decoded at once (fewer when memory is short)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same programs")
    parser.add_argument("--limit", type=int, default=None, help="read only the first so many records")
    parser.add_argument("--metrics", default=None, help="file to add this stage's counts to")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, help="task files (envs.py make writes them)")
    add_sampling_arguments(parser)
    parser.add_argument("--num-samples", type=int, default=5, help="K, programs per task")
    parser.add_argument("--greedy", action="store_true", help="evaluation: one program per task, likeliest tokens")
    parser.add_argument("--iteration", type=int, default=0, help="t, recorded with each program")
    args = parser.parse_args(argv)
    if args.greedy:
        args.num_samples, args.temperature = 1, 0.0
    if args.num_samples < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        parser.error("--num-samples must be at least 1, --temperature at least 0, --top-p in (0, 1]")
    return args


def main(argv=None):
    args = parse_args(argv)
    tasks = [task for path in args.inputs
             for task in envs.read_jsonl(path, require=("id", "env", "question"), limit=args.limit)]
    stage = "eval-explore" if args.greedy else "explore"

    def make_prompt(task, k):  # the first samples of a task with a `few_shot` share have examples
        return envs.solve_prompt(task, args.few_shot or k < task.get("few_shot", 0) * args.num_samples)

    sample_to_file(
        args, stage, tasks, args.num_samples, make_prompt,
        make_record=lambda task, k: task | {"iteration": args.iteration, "candidate": k, "source": "explore"})


if __name__ == "__main__":
    main()
