"""Several processes for one stage, as torchrun starts them: one for each GPU, or for some cores.

    torchrun --standalone --nproc-per-node 2 explore.py --in tasks.jsonl --out explored.jsonl

Each process is a rank: it has the whole model and does its share of the work. explore.py and
refine.py share batches out, train.py the rows of each step. How many there are changes nothing but
the time, and rounding in training. A stage that is started plainly is rank 0 of 1, and nothing here
does anything. May import records.
"""
from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from pathlib import Path

import torch
import torch.distributed as dist

from nanoenvisions.records import dump, fail, read_jsonl, write_whole

RANK, COUNT = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
PATIENCE = datetime.timedelta(days=1)  # a rank may have more to do than others


def device():
    """Of this rank; the first call joins the ranks."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if COUNT > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def told(value):
    """What rank 0 gives, in all ranks."""
    if COUNT == 1:
        return value
    values, here = [value], device()
    dist.broadcast_object_list(values, src=0, device=here)
    return values[0]


def add_up(tensors):
    """Sum each float32 tensor over all ranks, in place; all in one message."""
    if COUNT == 1:
        return
    flat = torch.cat([one.flatten() for one in tensors])
    dist.all_reduce(flat)
    for one, total in zip(tensors, flat.split([one.numel() for one in tensors])):
        one.copy_(total.view_as(one))


def shared(out, settings: dict, starts, make):
    """Yield make(start), a list of records, for all starts in order; in rank 0 alone.

    With several ranks each makes every COUNT-th, as a file in a folder beside `out`. A file that is
    there is not made again, whichever rank made it, so a killed stage goes on with other numbers of
    ranks, too. The folder is named after the settings, and goes when all is read.
    """
    if COUNT == 1:
        yield from map(make, starts)
        return
    name = hashlib.sha256(dump(settings).encode()).hexdigest()[:12]
    pieces = {start: Path(f"{out}.ranks-{name}") / f"{start}.jsonl" for start in starts}
    for start in list(pieces)[RANK::COUNT]:
        if not pieces[start].exists():
            write_whole(pieces[start], "".join(map(dump, make(start))))
    dist.barrier()
    if RANK == 0:
        for piece in pieces.values():
            if not piece.exists():
                fail(f"{piece} is missing: another rank has not made it (run this again)")
            yield read_jsonl(piece)
        for piece in pieces.values():
            piece.unlink()
        with contextlib.suppress(OSError):
            Path(f"{out}.ranks-{name}").rmdir()
