"""The fast sampler: many programs at once, each as if it were sampled alone.

explore.py has the same thing in 20 plain lines (`--plain`). What is done here to be faster, without
changing a program:

  1. What all prompts begin with (instruction, few-shot examples) is run once, and its keys and
     values are stored once and read once a step for all rows.
  2. So are those of a prompt for its K samples; and prompts are run without the vocabulary head.
  3. A row that is finished leaves at once, and the next one takes its slot (continuous batching).
  4. On a GPU the step is recorded once and replayed (graphs.py): launching it piece by piece would
     take longer than running it.
  5. Each row draws from its own random stream, seeded by its name: whatever else is in the batch,
     it gets the same program, so a killed run continues with the same samples.

May import attention, environment, families, graphs, memory, model and records.
"""
from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from nanoenvisions.attention import Cache, attending, cache_dtype
from nanoenvisions.environment import STOP
from nanoenvisions.families import layer_masks
from nanoenvisions.graphs import Replay, rounded_up, shapes_are_fixed
from nanoenvisions.memory import SPARE_PROMPTS, fitting_slots, is_out_of_memory, sampling_room
from nanoenvisions.model import collate, hidden_states, pack, size, token_ids
from nanoenvisions.records import fail

NUCLEUS_PEEKS = (64, 2048)  # likeliest tokens to look at first: the nucleus is seldom larger
CACHED_ROWS = 16    # rows of logits that a CPU's cache holds; more would wait for the memory
PREFILL_WIDTH = 256  # prompt tokens of a bin, at least; a longer prompt has a bin of its own
PREFILL_BINS = 16   # bins in one forward pass


# -------------------------------------------------------------------------------- One token --

def pick_tokens(logits, uniform, temperature: float, top_p: float):
    """One token per row, by inverse transform sampling from the nucleus, and its log-probability.

    logits [rows, vocabulary], uniform [rows] in [0, 1) -> tokens [rows], logprobs [rows] (nats, of
    the model itself: temperature 1, no nucleus). The nucleus is the smallest set of most likely
    tokens that holds top_p of the mass at `temperature`.
    Example: p = (0.5, 0.3, 0.2), top_p = 0.7 keeps the first two; uniform 0.7 lies at 0.56 of their
    0.8: the second.
    """
    if logits.device.type == "cpu" and len(logits) > CACHED_ROWS:
        parts = zip(logits.split(CACHED_ROWS), uniform.split(CACHED_ROWS))
        parts = [pick_tokens(*part, temperature, top_p) for part in parts]
        return tuple(map(torch.cat, zip(*parts)))
    logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
    if temperature == 0:
        best, tokens = logprobs.max(dim=-1)
        return tokens, best
    # `todo`: rows whose token is still to be found; `left`: their log-probabilities, tempered
    left = logprobs if temperature == 1 else (logprobs / temperature).log_softmax(dim=-1)
    todo = torch.arange(len(logits), device=logits.device)
    tokens = torch.empty_like(todo)
    for peek in (*NUCLEUS_PEEKS, logits.shape[1]):  # flat rows need more, rarely all there are
        peek = min(peek, logits.shape[1])
        best, order = left.topk(peek, dim=-1)  # highest first
        mass = best.exp().cumsum(dim=-1)
        covered = (mass[:, -1] >= top_p) | (peek == logits.shape[1])
        last = (mass < top_p).sum(dim=-1, keepdim=True).clamp(max=peek - 1)  # of the nucleus
        drawn = uniform[todo, None] * mass.gather(1, last)
        index = torch.minimum((mass <= drawn).sum(dim=-1, keepdim=True), last)
        tokens[todo[covered]] = order.gather(1, index).squeeze(1)[covered]
        todo, left = todo[~covered], left[~covered]
        if not len(todo):
            break
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def random_stream(seed: int, key: tuple, count: int) -> np.ndarray:
    """`count` uniform numbers that depend on nothing but the seed and the row's name."""
    name = zlib.crc32(repr(key).encode())  # ("explore", "task-7", 2, 0, 4) -> a whole number
    return np.random.default_rng([seed, name]).random(count, dtype=np.float32)


class Ending:
    """Says whether a row is finished: by an end token, by the closing fence, or by its length."""

    def __init__(self, model, tokenizer, max_new_tokens: int, stop: str = STOP):
        ends = model.generation_config.eos_token_id
        self.end_tokens = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
        self.may_stop = tokens_with(tokenizer, stop[-1])  # no other can complete the fence
        self.tokenizer, self.max_new_tokens, self.stop = tokenizer, max_new_tokens, stop

    def text(self, before: int, ids: list[int]) -> str | None:
        """The program of a finished row, or None. `before`: the token that its ids follow."""
        if ids[-1] in self.end_tokens:
            return self.decode(before, ids[:-1])
        if ids[-1] in self.may_stop:
            program, fence, _ = self.decode(before, ids).partition(self.stop)
            if fence:
                return program
        return self.decode(before, ids) if len(ids) == self.max_new_tokens else None

    def decode(self, before, ids) -> str:
        # Decoded alone, the first token would lose its space with SentencePiece.
        return self.tokenizer.decode([before, *ids])[len(self.tokenizer.decode([before])):]


@functools.lru_cache(maxsize=4)
def tokens_with(tokenizer, character: str) -> set[int]:
    """Ids of the tokens whose text contains a character."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return {token for token, text in enumerate(texts) if character in text}


# ------------------------------------------------------------------------------------- Batch --

@dataclasses.dataclass
class Prompt:
    """A prompt that rows are decoded from. Its keys and values are in cache.prompts."""
    place: int   # where
    length: int  # how many: the tokens behind the prefix, but for the last one
    last: int    # which the first step of each row runs


@dataclasses.dataclass
class Row:
    """A program in the making. Its keys and values are in cache.rows, at its index in the batch."""
    key: tuple
    prompt: Prompt
    uniform: np.ndarray  # its random numbers, one a token
    ids: list[int] = dataclasses.field(default_factory=list)
    logprob: float = 0.0  # sum over ids


class Batch:
    """Rows that are decoded together: admit() lets new ones in, step() adds a token to each, and
    drop() takes one out. Rows and prompts in use come first in their stores, without a gap."""

    def __init__(self, model, requests, slots: int, seed: int, max_new_tokens: int):
        """requests: [(token ids of a prompt, keys of its rows)]"""
        self.model, self.seed, self.max_new_tokens = model, seed, max_new_tokens
        self.rows, self.prompts = [], []
        rows = sum(len(keys) for _, keys in requests)
        self.slots = min(slots, rows)
        self.places = min(len(requests), self.slots,
                          math.ceil(SPARE_PROMPTS * self.slots * len(requests) / rows))
        prompts = [ids for ids, _ in requests]
        self.skip = common_prefix(prompts) if len(prompts) > 1 else 0  # tokens of the prefix
        longest = max(map(len, prompts))
        self.longest = longest + max_new_tokens  # positions there can be
        self.samples = min(self.slots, max(len(keys) for _, keys in requests))  # of a prompt
        # in this order, prompts that begin alike come together: see share_roots
        self.waiting = collections.deque(sorted(
            ((ids[self.skip:], keys) for ids, keys in requests), key=lambda request: request[0]))

        model.set_attn_implementation("prefix_attention")
        self.cache = Cache(model, self.places, longest - self.skip - 1, self.slots, max_new_tokens)
        self.replay, self.fixed = Replay(model.device), shapes_are_fixed(model.device)
        if self.skip:
            prefix = [[{"root": prompts[0][:self.skip], "branches": []}]]
            self.cache.prefix = self.prefill(collate(prefix, model.device))

    def prefill(self, batch: dict) -> list[tuple]:
        """Run prompts behind the prefix: keys and values, [bins, kv_heads, W, head_dim] a layer."""
        self.cache.fresh = []
        hidden_states(self.model, batch, self.cache)
        fresh, self.cache.fresh = self.cache.fresh, None
        return fresh

    def admit(self):
        """Fill free slots with the next prompts' rows, those of a prompt together."""
        taken, room = [], self.slots - len(self.rows)
        while self.waiting and len(self.prompts) + len(taken) < self.places:
            ids, keys = self.waiting[0]
            if len(keys) > room and (self.rows or taken):
                break
            self.waiting.popleft()
            taken.append((ids, keys[:room]))
            if len(keys) > room:  # more samples than slots
                self.waiting.appendleft((ids, keys[room:]))
            room -= len(taken[-1][1])
        groups = share_roots([ids for ids, _ in taken])
        bins = pack(groups, max(PREFILL_WIDTH, *map(size, groups))) if groups else []
        for start in range(0, len(bins), PREFILL_BINS):
            part = bins[start:start + PREFILL_BINS]
            self.enter(part, [taken[i] for one in part for group in one for i in group["order"]])

    def enter(self, bins, requests):
        """Run the prompts in `bins`, what they share once, and start the rows of each."""
        batch, index = collate(bins, self.model.device, self.skip), []
        first = len(self.prompts)
        for (root, root_end, branch, branch_end), (ids, keys) in zip(batch["spans"], requests):
            prompt = Prompt(len(self.prompts), len(ids) - 1, ids[-1])
            self.prompts.append(prompt)
            self.rows += [Row(key, prompt, random_stream(self.seed, key, self.max_new_tokens))
                          for key in keys]
            index.append([*range(root, root_end), *range(branch, branch_end)])  # its tokens
        if longest := max(map(len, index)):  # else prompts of one token: the first step runs it
            index = torch.tensor([one + [0] * (longest - len(one)) for one in index])
            self.cache.store(first, index.to(self.model.device), self.prefill(batch))

    def logits(self):
        """Run the newest token of every row: [rows, vocabulary]."""
        inputs, shape = self.inputs()
        with attending(self.cache):
            return self.replay(self.forward, inputs, shape)[:len(self.rows)]

    def inputs(self):
        """What `forward` needs: numbers [4, rows], and all that it may size tensors by."""
        rows, members, among = self.rows, [0] * len(self.prompts), []
        for row in rows:  # `members`: rows of each prompt; `among`: which of them a row is
            among.append(members[row.prompt.place])
            members[row.prompt.place] += 1
        shape = (len(rows), max(len(row.ids) for row in rows) + 1, len(self.prompts), max(members),
                 max(prompt.length for prompt in self.prompts))
        if self.fixed:  # a little more work in a few shapes: see graphs.py
            shape = (rounded_up(shape[0], self.slots), rounded_up(shape[1], self.max_new_tokens),
                     rounded_up(shape[2], self.places), self.samples, self.cache.prompt_room[1])
        numbers = [(row.ids[-1] if row.ids else row.prompt.last, len(row.ids), row.prompt.length,
                    row.prompt.place * shape[3] + k) for row, k in zip(rows, among)]
        nobody = (0, 0, 0, shape[2] * shape[3])  # a place behind all others
        numbers += [nobody] * (shape[0] - len(rows))
        return torch.tensor(numbers).to(self.model.device).T, shape

    def forward(self, inputs, shape):
        """Logits [rows, vocabulary] after one token of each row.

        inputs [4, rows]: the token, the row's tokens before it, those of its prompt, and its place
        shape  rows, tokens of the longest; prompts, rows of the one with most, tokens of longest
        """
        (newest, filled, lengths, place), device = inputs, inputs.device
        cache, (count, longest, *cache.shape) = self.cache, shape
        cache.index, cache.filled = torch.arange(count, device=device), filled
        cache.longest, cache.place = longest, place

        # a row sees its whole prompt, and its own tokens up to the newest; the stores are longer
        in_prompt = torch.arange(cache.shape[2], device=device)
        in_row = torch.arange(longest, device=device)
        unused = torch.cat([in_prompt >= lengths[:, None], in_row > filled[:, None]], dim=1)
        mask = torch.zeros(unused.shape, device=device).masked_fill_(unused, -torch.inf)
        begin = (self.skip + lengths)[:, None]  # position of a row's first own token
        at = torch.arange(self.skip + cache.shape[2], device=device).expand(count, -1)
        positions = begin + filled[:, None]
        masks = layer_masks(self.model.config, mask[:, None, None], positions,
                            torch.cat([at, begin + in_row], dim=1), self.longest)
        return self.model(input_ids=newest[:, None], attention_mask=masks, position_ids=positions,
                          past_key_values=cache, use_cache=True).logits[:, -1]

    def step(self, temperature: float, top_p: float):
        """One more token for every row."""
        uniform = torch.tensor([row.uniform[len(row.ids)] for row in self.rows],
                               device=self.model.device)
        picked = pick_tokens(self.logits(), uniform, temperature, top_p)
        for row, token, logprob in zip(self.rows, *(part.tolist() for part in picked)):
            row.ids.append(token)
            row.logprob += logprob

    def drop(self, index: int):
        """Free a slot: the last row moves into it. So with its prompt, if this was its last row."""
        prompt, last = self.rows[index].prompt, self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last
            self.cache.move(self.cache.rows, len(self.rows), index, len(last.ids))
        if not any(row.prompt is prompt for row in self.rows):
            moved = self.prompts.pop()
            if moved is not prompt:
                self.cache.move(self.cache.prompts, moved.place, prompt.place, moved.length)
                moved.place = prompt.place
                self.prompts[moved.place] = moved


def common_prefix(sequences) -> int:
    """Number of leading tokens that all sequences share, but at least one token is left to each.

    >>> common_prefix([[5, 6, 7], [5, 6, 8, 9]])
    2
    """
    first, last = min(sequences), max(sequences)
    most = min(map(len, sequences)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def share_roots(prompts: list[list[int]]) -> list[dict]:
    """Group prompts that begin alike, as a question with several drafts: sequences for collate.

    [{"root": ids, "branches": [ids, ...], "order": [index of each prompt]}]; a branch ends before
    its prompt's last token. Example: [1, 2, 3, 4, 9] and [1, 2, 3, 5, 6, 9] have the root [1, 2, 3]
    and the branches [4] and [5, 6].
    """
    groups = []
    for index in sorted(range(len(prompts)), key=lambda i: prompts[i]):  # neighbours share the most
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


# ---------------------------------------------------------------------------------- Sampling --

@torch.inference_mode()
def generate(model, tokenizer, requests, slots: int, seed: int = 0, max_new_tokens: int = 128,
             temperature: float = 0.7, top_p: float = 0.95):
    """Yield (key, text, logprob, tokens) for every key of every request, as rows finish.

    requests  [(token ids of a prompt, keys)]: one row per key, which seeds its random stream
    slots     rows that are decoded at once
    text      what was generated, without the closing fence; logprob: mean over its `tokens` tokens,
              those of the fence included
    """
    # 1. What all prompts begin with is run once; there is room for `slots` rows.
    batch = Batch(model, requests, slots, seed, max_new_tokens)
    ending = Ending(model, tokenizer, max_new_tokens)
    while batch.rows or batch.waiting:
        # 2. New rows take the free slots. A few at a time would make small, slow prefills, so
        #    they wait until a quarter is free.
        if not batch.rows or batch.slots - len(batch.rows) >= max(1, batch.slots // 4):
            batch.admit()
        # 3. Every row gets one more token.
        batch.step(temperature, top_p)
        # 4. Finished rows leave; from the end, so that `drop` moves only rows that were seen.
        for index in reversed(range(len(batch.rows))):
            row = batch.rows[index]
            text = ending.text(row.prompt.last, row.ids)
            if text is not None:
                yield row.key, text, row.logprob / len(row.ids), len(row.ids)
                batch.drop(index)


def generate_all(model, tokenizer, requests, slots: int, tick=lambda: None, max_new_tokens=128,
                 **options) -> dict:
    """{key: (text, logprob, tokens)} for all requests [(prompt, keys)], at most `slots` at once.

    How many really run together depends on the requests and on all the memory there is, never on
    what is free now: rounding depends on it, and a continued run must repeat it. If memory does run
    out, the slots are halved, and finished rows are kept.
    """
    ids = token_ids(tokenizer, [prompt for prompt, _ in requests])
    requests = [(one, keys) for one, (_, keys) in zip(ids, requests)]
    longest, most = max(map(len, ids)), getattr(model.config.get_text_config(),
                                                "max_position_embeddings", None)
    if most and longest + max_new_tokens > most:
        fail(f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than this model "
             f"can read, {most} (lower --max-new-tokens, or use shorter questions)")
    skip = common_prefix(ids) if len(ids) > 1 else 0
    rows = sum(len(keys) for _, keys in requests)
    slots = fitting_slots(model.config, cache_dtype(model), sampling_room(model), prefix=skip,
                          prompt=longest - skip, samples=rows / len(requests),
                          max_new_tokens=max_new_tokens, most=min(slots, rows))
    done = {}
    while left := [(one, rest) for one, keys in requests
                   if (rest := [key for key in keys if key not in done])]:
        try:
            for key, *result in generate(model, tokenizer, left, slots,
                                         max_new_tokens=max_new_tokens, **options):
                done[key] = result
                tick()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if slots == 1:
                fail("out of memory with one row at a time (use shorter prompts, a smaller model, "
                     "or --bits 4)")
            slots //= 2
        else:
            break
        # outside `except`, which would keep the tensors alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"{Path(sys.argv[0]).stem}: out of memory, going on with {slots} rows at once",
              file=sys.stderr)
    return done


@torch.inference_mode()
def sampled_logits(model, prompts):
    """For families.self_check: two steps of a batch with every part of the cache in use."""
    requests = [(ids, [number]) for number, ids in enumerate(prompts)]
    batch = Batch(model, requests, slots=len(prompts), seed=0, max_new_tokens=2)
    batch.admit()
    steps = []
    for _ in range(2):
        steps.append(batch.logits())
        for row in batch.rows:
            row.ids.append(prompts[row.key][0])
    return [(prompts[row.key] + row.ids[:1], torch.stack([logits[index] for logits in steps]))
            for index, row in enumerate(batch.rows)]
