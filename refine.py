"""Stage 2 of 5, refine: let the model rewrite each of its own programs, right or wrong.

Step 4 of the article, self-refinement:

    ã_k ~ p_t(. | x, a_k):   repair it, refine it, or return it as it is

It needs no reward, so it runs before reward.py, which then executes both (steps 5 and 6). As in explore.py, the mean
log-probability of the new program comes with it, in nats per token. Note that it is a probability given x *and* a_k,
so a copy of a_k is likely; `--rescore` measures log p_t(ã | x) instead, as explore.py would, which makes r̃ and r
comparable (one forward pass more; the article's rule is the default).

Reads  id env question iteration candidate program (explored.jsonl).   Writes  the same + source reference, with
program, logprob and tokens of the rewrite.

    python refine.py --in explored.jsonl --out refined.jsonl --adapter iter0/adapter

Equal programs of a task have the same prompt, which is run once for all of them.
"""
from __future__ import annotations

import argparse

import torch

import envs
import explore


@torch.inference_mode()
def rescore(model, tokenizer, records):
    """Set `logprob` to the mean log p_t(token of ã | x, before), as if explore.py had sampled ã; and `tokens`."""
    model.set_attn_implementation("prefix_attention")
    for record in records:
        prompt = tokenizer(envs.solve_prompt(record)).input_ids
        program = tokenizer(envs.completion(record["program"]), add_special_tokens=False).input_ids
        batch = explore.collate([[{"root": prompt + program, "branches": []}]], model.device)
        logits = model(input_ids=batch["tokens"], attention_mask=batch["mask"], position_ids=batch["positions"],
                       use_cache=False).logits[0, len(prompt) - 1:-1].float()
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(program, device=model.device)[:, None])
        record.update(logprob=round(logprobs.mean().item(), 6), tokens=len(program))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, help="candidates (explore.py writes them)")
    explore.add_sampling_arguments(parser)
    parser.add_argument("--rescore", action="store_true", help="logprob of the rewrite given the question alone")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    fields = ("id", "env", "question", "iteration", "candidate", "program")
    candidates = [record for path in args.inputs for record in envs.read_jsonl(path, require=fields, limit=args.limit)]
    explore.sample_to_file(
        args, "refine", candidates, num_samples=1,
        make_prompt=lambda record, k: envs.refine_prompt(record, record["program"], args.few_shot),
        make_record=lambda record, k: record | {"source": "refine", "reference": record["program"]},
        amend=rescore if args.rescore else None)


if __name__ == "__main__":
    main()
