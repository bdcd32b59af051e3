"""Attention over keys and values that rows share, and the cache that holds them.

transformers knows it as "prefix_attention"; sampler.py fills the cache, train.py has none.
May import records only.
"""
from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F

from nanoenvisions.records import fail

# The cache that a forward pass attends to. Not an argument of the model, since the layers of some
# families (StableLM) drop arguments that they do not know.
ATTENDED: list = [None]


@contextlib.contextmanager
def attending(cache):
    """Within, attention layers also see what the rows share."""
    ATTENDED[0] = cache
    try:
        yield
    finally:
        ATTENDED[0] = None


def prefix_attention(module, query, key, value, attention_mask, scaling, softcap=None, **kwargs):
    """softmax([q Kp^T, q Kx^T, q K^T] + mask) [Vp; Vx; V]

    A row sees the prefix of all prompts (p), the rest of its own prompt (x), and its own keys.
    query [B, heads, q, d]; key and value [B, kv_heads, n, d];
    mask [B or 1, 1, q, all keys, or all but those of the prefix] (0 or -inf)
    """
    if kwargs.get("s_aux") is not None:
        fail("this model's attention has sinks, which is not known here (use another model)")
    cache = ATTENDED[0]
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    rows = heads // kv_heads * length  # heads that share a key-value head: rows of one product
    if cache and query.device.type == "cpu":  # see cache_dtype; training has none, and long rows
        key, value = key.float(), value.float()
    grouped = (query * scaling).to(key.dtype).reshape(batch, kv_heads, rows, width)
    shared = cache.shared(module.layer_idx, batch) if cache else []
    scores = [grouped_matmul(grouped, keys.transpose(2, 3), *where) for keys, _, *where in shared]
    scores.append(torch.matmul(grouped, key.transpose(2, 3)))
    sizes = [part.shape[-1] for part in scores]
    scores = torch.cat(scores, dim=-1) if shared else scores[0]
    scores = scores.view(batch, heads, length, -1).float()
    if softcap:  # Gemma-2
        scores = softcap * torch.tanh(scores / softcap)
    # what the mask leaves out is seen
    scores = scores + F.pad(attention_mask, (sum(sizes) - attention_mask.shape[-1], 0))
    weights = scores.softmax(dim=-1).to(value.dtype).view(batch, kv_heads, rows, -1)
    *shared_weights, weights = weights.split(sizes, dim=-1)
    out = torch.matmul(weights, value)
    for part, (_, values, *where) in zip(shared_weights, shared):
        out = out + grouped_matmul(part, values, *where)
    return out.view(batch, heads, length, -1).transpose(1, 2).to(query.dtype), None


def grouped_matmul(rows, matrices, place, largest: int):
    """Each row times the matrix of its group: a matrix is read once for all rows of its group, so
    K samples of a prompt cost the memory traffic of one.

    rows [B, kv_heads, q, a], matrices [groups, kv_heads, a, b] -> [B, kv_heads, q, b]
    Row i is the (place[i] % largest)-th of group place[i] // largest. place None: the rows come
    group by group, `largest` in each. A place behind the last is nobody's: what it gets is noise.
    """
    groups, kv_heads, a, b = matrices.shape
    batch, _, q, _ = rows.shape
    if place is not None:  # empty places stay 0; behind the last is one for rows of nobody
        rows = rows.new_zeros(groups * largest + 1, kv_heads, q, a).index_copy_(0, place, rows)[:-1]
    together = rows.view(groups, largest, kv_heads, q, a).transpose(1, 2)
    together = together.reshape(groups, kv_heads, largest * q, a)
    out = torch.matmul(together, matrices).view(groups, kv_heads, largest, q, b).transpose(1, 2)
    out = out.reshape(groups * largest, kv_heads, q, b)
    return out if place is None else out[place.clamp(max=groups * largest - 1)]


def cache_shape(config) -> tuple[int, int, int]:
    """(layers, key-value heads, numbers in a key): all that a token's keys or values are."""
    config = config.get_text_config()
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, kv_heads, head_dim


def cache_dtype(model):
    """Of keys and values. On a CPU float32 products of this size are some 20 times faster."""
    return torch.float32 if model.device.type == "cpu" else model.dtype


def room(like, layers: int, count: int, length: int):
    """Space for keys or values [layers, count, kv_heads, length, head_dim], heads as in `like`."""
    return like.new_zeros(layers, count, like.shape[1], length, like.shape[3])


class Cache:
    """Keys and values, in three parts that a row attends to one after the other:

    prefix   tokens that all prompts begin with; per layer [1, kv_heads, P, head_dim]
    prompts  the rest of each prompt but its last token
    rows     what a row adds: that last token, and all it generates

    prompts and rows are pairs, keys and values, each one tensor for all layers, so that a row moves
    in one copy: [layers, places or slots, kv_heads, tokens, head_dim].

    transformers hands it to each attention layer, which calls `update` and then our attention,
    which asks for what is `shared`.
    """

    def __init__(self, model, places: int, longest_prompt: int, slots: int, max_new_tokens: int):
        self.dtype, self.layers = cache_dtype(model), cache_shape(model.config)[0]
        self.prompt_room, self.row_room = (places, longest_prompt), (slots, max_new_tokens)
        self.prefix, self.prompts, self.rows = [], [], []  # filled when the first keys come
        self.fresh = None  # while prompts are run: their keys and values, layer by layer
        # while rows are decoded, what is in use: the rows, tokens of each, tokens of the longest
        self.index, self.filled, self.longest = None, None, 0
        # prompts, rows of the one with most, tokens of the longest; see grouped_matmul
        self.shape, self.place = (0, 0, 0), None

    def store(self, first: int, index, layers):
        """Keep the keys and values of new prompts: per layer [bins, kv_heads, W, head_dim].

        index [prompts, longest]: where the tokens of each are among the bins * W; `first`: the
        place of the first of these prompts
        """
        here, longest = slice(first, first + len(index)), index.shape[1]
        if not self.prompts:
            self.prompts = [room(new, self.layers, *self.prompt_room) for new in layers[0]]
        for layer, pair in enumerate(layers):
            for part, new in zip(self.prompts, pair):
                flat = new.transpose(1, 2).flatten(0, 1)  # [bins * W, kv_heads, head_dim]
                part[layer, here, :, :longest] = flat[index].transpose(1, 2)

    @staticmethod
    def move(store, source: int, target: int, length: int):
        for part in store:
            part[:, target, :, :length] = part[:, source, :, :length]

    # ---- called by transformers ----

    def get_seq_length(self, layer_idx=0):
        return 0  # positions and masks are passed explicitly

    def update(self, keys, values, layer, *args, **kwargs):
        """Takes new keys and values [B, kv_heads, q, head_dim]; returns the rows' own."""
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        if self.fresh is not None:  # the caller copies them where they belong
            self.fresh.append((keys, values))
            return keys, values
        if not self.rows:
            self.rows = [room(new, self.layers, *self.row_room) for new in (keys, values)]
        own_keys, own_values = (part[layer] for part in self.rows)
        own_keys[self.index, :, self.filled] = keys[:, :, 0]
        own_values[self.index, :, self.filled] = values[:, :, 0]
        count = len(self.index)
        return own_keys[:count, :, :self.longest], own_values[:count, :, :self.longest]

    # ---- called by prefix_attention ----

    def shared(self, layer: int, batch: int) -> list[tuple]:
        """What rows see before their own: [(keys, values, place, largest)], see grouped_matmul."""
        parts = []
        if self.prefix:
            parts.append((*self.prefix[layer], None, batch))  # one group of all rows
        groups, largest, longest = self.shape
        if self.fresh is None and longest:
            keys, values = (part[layer, :groups, :, :longest] for part in self.prompts)
            parts.append((keys, values, self.place, largest))
        return parts
