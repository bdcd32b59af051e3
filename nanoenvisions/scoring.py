"""What a model says of programs that are there already: their r given the question, its verdict.

May import families, model and records.
"""
from __future__ import annotations

import torch

from nanoenvisions.families import self_check, vocabulary_logits
from nanoenvisions.model import (collate, completion_ids, hidden_states, load_model, packed_logits,
                                 size, token_ids)
from nanoenvisions.records import fail, progress

BIN = 2048  # tokens that are judged at once, the examples included


def rescore(make_prompt, make_completion):
    """For sample_to_file: r = mean of log p_t(a_i | x, a_<i), whatever the prompt of a was.

    make_prompt(record), make_completion(program): x and a as explore.py asks and trains without
    examples
    """
    @torch.inference_mode()
    def amend(model, tokenizer, records):
        model.set_attn_implementation("prefix_attention")
        for record in records:
            prompt = make_prompt(record)
            x = token_ids(tokenizer, [prompt])[0]
            a = completion_ids(tokenizer, prompt, make_completion(record["program"]))
            batch = collate([[{"root": x + a, "branches": []}]], model.device)
            before = hidden_states(model, batch)[0, len(x) - 1:-1]  # each predicts the next token
            logprobs = vocabulary_logits(model, before).float().log_softmax(-1)
            logprobs = logprobs.gather(1, torch.tensor(a, device=model.device)[:, None])
            record.update(logprob=round(logprobs.mean().item(), 6), tokens=len(a))
    return amend


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
