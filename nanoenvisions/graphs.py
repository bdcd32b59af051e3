"""CUDA graphs: a decoding step that is launched at once.

A step of 30 layers is some 2,000 small operations. Launched one by one from Python they take a GPU
15 to 25 ms, most of which it waits; recorded once and replayed, as long as the work itself takes.
A recorded step works on the same places in memory with the same shapes, so shapes are rounded up to
a few (`rounded_up`), and what changes from step to step comes in as one tensor of numbers.

On a CPU nothing is recorded and shapes stay as they are, but the code path is the same one, and
tests run it with rounded shapes there. May import memory.
"""
from __future__ import annotations

import sys
from pathlib import Path

import torch

from nanoenvisions.memory import is_out_of_memory

FEWEST = 32  # rows and tokens are rounded up to this at least


def shapes_are_fixed(device) -> bool:
    """Whether a step's shapes are rounded up, so that few different ones exist."""
    return device.type == "cuda"


def rounded_up(count: int, most: int) -> int:
    """The next of a few sizes: 32, 64, 128, ..., doubling, but `most` at most.

    >>> [rounded_up(count, 100) for count in (1, 32, 33, 65, 100)]
    [32, 32, 64, 100, 100]
    """
    size = FEWEST
    while size < count:
        size *= 2
    return min(size, most)


class Replay:
    """Runs function(inputs, shape), where all that decides on shapes is in `shape`: on CUDA the
    second call with a shape records it, and all further ones replay what was recorded.

    Its result is overwritten by the next call with the same shape.
    """

    def __init__(self, device):
        self.records = device.type == "cuda"
        self.seen, self.recorded, self.pool = set(), {}, None

    def __call__(self, function, inputs, shape):
        if self.records and shape in self.seen and shape not in self.recorded:
            self.record(function, inputs, shape)
        self.seen.add(shape)  # the first time, libraries may still allocate what they need
        if shape not in self.recorded:
            return function(inputs, shape)
        graph, place, out = self.recorded[shape]
        place.copy_(inputs)
        graph.replay()
        return out

    def record(self, function, inputs, shape):
        graph, place = torch.cuda.CUDAGraph(), inputs.clone()
        try:
            with torch.cuda.graph(graph, pool=self.pool):  # one pool: graphs never run side by side
                out = function(place, shape)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.records = False
            print(f"{Path(sys.argv[0]).stem}: this model's steps cannot be recorded "
                  f"({str(error).splitlines()[0][:80]}): going on without, slower", file=sys.stderr)
            return
        self.pool = self.pool or graph.pool()
        self.recorded[shape] = graph, place, out
