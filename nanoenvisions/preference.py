"""Losses of pairs (a+, a-) of the same prompt x: prefer a+ (DPO), or avoid a- (unlikelihood).

train.py hands both of them its token_logprobs(model, batch) -> log p of all completion tokens, [N];
a batch holds the branches a+, a-, a+, a-, ... in `spans` (.., begin, end), of which each pair has
two. May import nothing of the package.
"""
from __future__ import annotations

import os

import torch
import torch.nn.functional as F


def dpo_loss(token_logprobs, model, batch: dict, beta: float) -> torch.Tensor:
    """DPO (arXiv 2305.18290): the sum over pairs of

        - log sigma(beta [(log pi(a+|x) - log pi0(a+|x)) - (log pi(a-|x) - log pi0(a-|x))])

    pi0 is this model with its adapter off: the base model, without a second copy of it.
    """
    lengths = [end - begin for *_, begin, end in batch["spans"]]

    def logprobs():  # log pi(a | x), the sum over the tokens of a: [pairs, 2]
        programs = token_logprobs(model, batch).split(lengths)
        return torch.stack([program.sum() for program in programs]).view(-1, 2)
    with torch.no_grad(), model.disable_adapter():
        reference = logprobs()
    better, worse = (logprobs() - reference).unbind(1)
    return -F.logsigmoid(beta * (better - worse)).sum()


def unlikelihood_loss(token_logprobs, model, batch: dict) -> torch.Tensor:
    """Unlikelihood (arXiv 1908.04319): - sum_i log p(a+_i) - sum_i log(1 - p(a-_i)), of the tokens
    of a- from the first on that is not that of a+; what both begin with is not wrong.
    """
    spans, total = batch["spans"], 0.0
    programs = token_logprobs(model, batch).split([end - begin for *_, begin, end in spans])
    tokens = [batch["tokens"].flatten()[begin:end].tolist() for *_, begin, end in spans]
    for pair in range(0, len(spans), 2):
        same = len(os.path.commonprefix(tokens[pair:pair + 2]))
        p_wrong = programs[pair + 1][same:].exp().clamp(max=1 - 1e-6)  # log 0 is no loss
        total = total - programs[pair].sum() - torch.log1p(-p_wrong).sum()
    return total
