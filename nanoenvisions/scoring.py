"""What a model says of programs that are there already: their r given the question, its verdict.

May import families, model and records.
"""
from __future__ import annotations

import collections

import torch

from nanoenvisions.families import self_check, vocabulary_logits
from nanoenvisions.model import (collate, completion_ids, hidden_states, load_model, pack,
                                 packed_logits, predicted, size, token_ids, widest)
from nanoenvisions.records import fail, progress

BIN = 2048   # tokens that are judged at once, the examples included
WIDTH = 256  # fewest tokens of a bin of questions and programs


def rescore(make_prompt, make_completion):
    """For sample_to_file: r = mean of log p_t(a_i | x, a_<i), whatever the prompt of a was.

    make_prompt(record), make_completion(program): x and a as explore.py asks and trains without
    examples
    """
    def amend(model, tokenizer, records):
        asked = collections.defaultdict(dict)  # equal questions, and equal programs of one, once
        for record in records:
            prompt, program = make_prompt(record), record["program"]
            asked[prompt][program] = completion_ids(tokenizer, prompt, make_completion(program))
        sequences = [{"root": x, "branches": list(of.values()), "names": [(prompt, a) for a in of]}
                     for x, (prompt, of) in zip(token_ids(tokenizer, list(asked)), asked.items())]
        measured = mean_logprobs(model, sequences)
        for record in records:
            logprob, tokens = measured[make_prompt(record), record["program"]]
            record.update(logprob=round(logprob, 6), tokens=tokens)
    return amend


@torch.inference_mode()
def mean_logprobs(model, sequences) -> dict:
    """{name: (mean log-probability of a branch behind its root, its tokens)}."""
    model.set_attn_implementation("prefix_attention")
    bins, measured = pack(sequences, max(WIDTH, *map(size, sequences))), {}
    at_once = max(1, BIN // widest(bins))
    for start in range(0, len(bins), at_once):
        some = bins[start:start + at_once]
        batch = collate(some, model.device)
        before, target = predicted(batch["spans"])
        states = hidden_states(model, batch).flatten(0, 1)[before]
        tokens = batch["tokens"].flatten()[target]
        logprobs = torch.cat([
            vocabulary_logits(model, part).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
            for part, ids in zip(states.split(WIDTH), tokens.split(WIDTH))])
        names = (name for bin in some for sequence in bin for name in sequence["names"])
        for name, part in zip(names, logprobs.split([end - begin for *_, begin, end in
                                                     batch["spans"]])):
            measured[name] = part.mean().item(), len(part)
    return measured


@torch.inference_mode()
def verdicts(prompts, yes: str, no: str, model=None, adapter=None, bits=4) -> list[float]:
    """log p(yes | prompt, yes or no) of each prompt, in nats: the model's own judgement.

    prompts   [(examples, question)]; equal examples are run once for all questions that fit a bin
    yes, no   two words that begin with different tokens; only these first tokens are compared
    """
    model, tokenizer = load_model(model, adapter, bits)
    model.set_attn_implementation("prefix_attention")
    self_check(model, tokenizer, packed_logits)
    words = [completion_ids(tokenizer, prompts[0][1], word)[0] for word in (yes, no)]
    if words[0] == words[1]:
        fail(f'"{yes}" and "{no}" begin with the same token of this model: it cannot judge')
    scores, bin, waiting = {}, {}, []

    def judge():  # a bin: [|branches|, 2]
        batch = collate([[bin]], model.device)
        last = [end - 1 for *_, end in batch["spans"]]
        logits = vocabulary_logits(model, hidden_states(model, batch)[0, last]).float()[:, words]
        for prompt, score in zip(waiting, logits.log_softmax(-1)[:, 0].tolist()):
            scores[prompt] = round(score, 6)
    # equal programs are judged once, and so alike; prompts with the same examples come together
    for prompt in progress(sorted(set(prompts)), "judge"):
        ids = completion_ids(tokenizer, *prompt)
        if waiting and (waiting[0][0] != prompt[0] or size(bin) + len(ids) > BIN):
            judge()
            waiting = []
        if not waiting:
            bin = {"root": token_ids(tokenizer, [prompt[0]])[0], "branches": []}
        bin["branches"].append(ids)
        waiting.append(prompt)
    judge()
    return [scores[prompt] for prompt in prompts]
