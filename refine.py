"""Stage 2 of 5, refine: let the model rewrite each of its own programs, right or wrong.

Step 4 of the article, self-refinement:

    ã_k ~ p_t(. | x, a_k):   repair it, refine it, or return it as it is

It needs no reward, so it runs before reward.py, which then executes both (steps 5 and 6). As in
explore.py, the mean log-probability of the new program comes with it, in nats per token. Note that
it is a probability given x *and* a_k, so a copy of a_k is likely; `--rescore` measures
log p_t(ã | x) instead, as explore.py --rescore does where examples stood before x. That makes r̃
and r comparable, and costs a forward pass more; the article's rule is the default.

Reads   id env question iteration candidate program (explored.jsonl).
Writes  the same + source reference, with program, logprob and tokens of the rewrite.

    python refine.py --in explored.jsonl --out refined.jsonl --adapter iter0/adapter

Equal programs of a task have the same prompt, which is run once for all of them.
"""
from __future__ import annotations

import nanoenvisions.threads  # noqa: F401  before torch: how its threads wait

import envs
from nanoenvisions import sampling, scoring
from nanoenvisions.flags import Parser


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True,
                        help="candidates (explore.py writes them)")
    sampling.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    fields = ("id", "env", "question", "iteration", "candidate", "program")
    candidates = sampling.read_items(args, "refine", fields, envs.unfit)

    def make_prompt(record, k):
        return envs.refine_prompt(record, record["program"], args.few_shot)

    def make_record(record, k):
        return record | {"source": "refine", "reference": record["program"]}

    amend = scoring.rescore(envs.solve_prompt, envs.completion) if args.rescore else None
    sampling.sample_to_file(args, "refine", candidates, 1, make_prompt, make_record, amend=amend)


if __name__ == "__main__":
    main()
