"""Stage 1 of 5, explore: sample K candidate programs for every task.

Step 1 of the article, self-exploration:

    a_k ~ p_t(. | x),   k = 1 ... K

and, at no extra forward pass, the quantity that step 7 (the soft self-reward) needs: the mean
log-probability of the program's tokens under the model itself, at temperature 1 and without top-p,
in nats per token:

    r = logprob(a) = 1/|a| * sum_i log p_t(a_i | x, a_<i)

Both are in `generate_plain` below, in 20 lines. What runs is nanoenvisions/sampler.py, which gives
the same programs many times faster; `--plain` runs the plain one.

Reads   id env question [few_shot ...] of each task.
Writes  the task + iteration candidate source program logprob tokens.

    python explore.py --in tasks.jsonl --out explored.jsonl --few-shot                  # t = 0
    python explore.py --in tasks.jsonl --out explored.jsonl --adapter iter0/adapter     # t = 1, ...
    python explore.py --in test.jsonl --out eval.jsonl --adapter iter0/adapter --greedy # evaluation
    python explore.py --ask "Mia has 4 pens ..." --run runs/math       # one question: see ask.py
"""
from __future__ import annotations

import argparse
import functools
import os
import sys

import nanoenvisions.threads  # noqa: F401  before torch: how its threads wait
import torch

import envs
from nanoenvisions import ask, ranks, sampling, scoring, teacher
from nanoenvisions.families import own_attention
from nanoenvisions.flags import Parser, count, whole
from nanoenvisions.model import token_ids
from nanoenvisions.sampler import Ending, random_stream


# ----------------------------------------------------------------------------- The algorithm --

@torch.inference_mode()
def generate_plain(model, tokenizer, requests, seed, max_new_tokens, temperature, top_p):
    """Yield (key, text, logprob, tokens) of one row after another, by ordinary forward passes.

    requests  [(prompt, keys)]: one program per key, which seeds its random numbers
    """
    model.set_attn_implementation(own_attention(model))
    ending = Ending(model, tokenizer, max_new_tokens)
    for prompt, keys in requests:
        x = token_ids(tokenizer, [prompt])[0]
        for key in keys:
            uniform = random_stream(seed, key, max_new_tokens)  # one number in [0, 1) per token
            a, total, text, cache = [], 0.0, None, None
            while text is None:
                new = torch.tensor([a[-1:] or x], device=model.device)  # the cache has the others
                out = model(input_ids=new, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                logprobs = out.logits[0, -1].float().log_softmax(-1)  # log p_t(. | x, a_<i)
                a.append(draw(logprobs, uniform[len(a)], temperature, top_p))
                total += logprobs[a[-1]].item()  # at temperature 1, whatever it was drawn at
                text = ending.text(x[-1], a)     # None: not finished
            yield key, text, total / len(a), len(a)


def draw(logprobs, uniform: float, temperature: float, top_p: float) -> int:
    """A token from the nucleus: the smallest set of likeliest tokens that holds top_p of the mass.

    Example: p = (0.5, 0.3, 0.2), top_p = 0.7 keeps the first two, 0.8 in all. uniform 0.6 lies at
    0.48 of these 0.8: the first token; 0.7 at 0.56: the second.
    """
    if temperature == 0:
        return int(logprobs.argmax())
    p, order = (logprobs / temperature).softmax(-1).sort(descending=True)
    mass = p.cumsum(0)
    kept = mass[:int((mass < top_p).sum()) + 1]
    index = int((kept <= uniform * kept[-1]).sum())
    return int(order[min(index, len(kept) - 1)])


# --------------------------------------------------------------------------------------- Main --

def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True,
                        help="task files (envs.py make writes them)")
    sampling.add_arguments(parser)
    teacher.add_arguments(parser)
    parser.add_argument("--num-samples", type=count, default=5, help="K, programs per task")
    parser.add_argument("--greedy", action="store_true",
                        help="one program per task, of the likeliest tokens")
    parser.add_argument("--eval", action="store_true",
                        help="evaluation: --greedy, counted as such in --metrics")
    parser.add_argument("--plain", action="store_true",
                        help="one row at a time, as in the textbook: slow")
    parser.add_argument("--iteration", type=whole, default=0, help="t, recorded with each program")
    parser.add_argument("--also-eval", nargs=2, metavar=("TASKS", "OUT"),
                        help="first do what --eval does with these tasks: the model is loaded once "
                             "for both; not if OUT is there already")
    parser.add_argument("--eval-limit", type=count, metavar="N",
                        help="only the first N tasks of an evaluation (default: --limit)")
    args = parser.parse_args(argv)
    teacher.check_arguments(args)
    args.greedy |= args.eval
    if args.eval and args.eval_limit:
        args.limit = args.eval_limit
    if args.greedy:
        args.num_samples, args.temperature = 1, 0.0
    return args


def evaluation(args):
    """The arguments of the evaluation that --also-eval asks for."""
    tasks, out = args.also_eval
    changed = dict(inputs=[tasks], out=out, also_eval=None, eval=True, greedy=True, num_samples=1,
                   temperature=0.0, rescore=False, teacher_url=None, teacher_file=None,
                   limit=args.eval_limit or args.limit)
    return argparse.Namespace(**{**vars(args), **changed})


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if any(flag.partition("=")[0] == "--ask" for flag in argv):
        return ask.main(argv, envs)
    args, jobs = parse_args(argv), []
    if args.also_eval:
        envs.protect_inputs([args.out, args.also_eval[1]], [*args.inputs, args.also_eval[0]])
        jobs = [] if os.path.exists(args.also_eval[1]) else [evaluation(args)]
        args.also_eval = None  # so that a file begun without it is continued
    fields, load = ("id", "env", "question"), functools.cache(sampling.checked_model)
    read = [sampling.read_items(job, stage(job), fields, envs.unfit) for job in (*jobs, args)]
    for job, tasks in zip((*jobs, args), read):
        explore(job, tasks, load)


def stage(args) -> str:
    return "eval-explore" if args.eval else "explore"


def explore(args, tasks, load):
    """Sample for all tasks; load(name, adapter, bits) gives the model."""
    def make_prompt(task, k):  # the first samples of a task with a `few_shot` share have examples
        examples = args.few_shot or k < task.get("few_shot", 0) * args.num_samples
        return envs.solve_prompt(task, examples)

    def make_record(task, k):
        return task | {"iteration": args.iteration, "candidate": k, "source": "explore"}

    if args.teacher_url or args.teacher_file:  # it has not learned the format: with examples
        return None if ranks.RANK else teacher.programs_to_file(
            args, tasks, lambda task, k: envs.solve_prompt(task, few_shot=True), make_record)
    amend = scoring.rescore(envs.solve_prompt, envs.completion) if args.rescore else None
    sampling.sample_to_file(args, stage(args), tasks, args.num_samples, make_prompt, make_record,
                            generate_plain if args.plain else None, amend, load)


if __name__ == "__main__":
    main()
