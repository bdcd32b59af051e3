"""explore.py --ask: one question, the program that the model writes, and what running it gives.

    python explore.py --ask "Mia has 4 pens and buys 3 more. How many has she?" --run runs/math
    python explore.py --ask "..." --run runs/math --num-samples 16     # and a vote

Text for logic: sentences, the questions last. For web: the name of a page, and a seed if wanted.
May import environment, flags, folders, records and sampling.
"""
from __future__ import annotations

import time
import warnings

from nanoenvisions import sampling
from nanoenvisions.environment import REQUIRED
from nanoenvisions.flags import Parser, count, heat, positive_share, whole
from nanoenvisions.folders import check_folders, read_run
from nanoenvisions.records import fail


def parse_args(argv, environments):
    parser = Parser(__doc__.partition("May import")[0], prog="explore.py --ask")
    add = parser.add_argument
    add("--ask", required=True, metavar="TEXT", help="the question")
    add("--run", metavar="FOLDER", help="OUT of run.sh: its environment, model and last adapter")
    add("--env", choices=environments, help="what kind of question (default: the run's, or math)")
    add("--model", help="hub name or folder; nothing means the run's, or the embedded SmolLM2-135M")
    add("--adapter", help="folder that train.py wrote; nothing means the run's last, or none")
    add("--bits", type=int, choices=(4, 16, 32), help="4: NF4, 16: bfloat16, 32: float")
    add("--num-samples", type=count, default=1, metavar="K",
        help="programs; 1: the likeliest tokens, more: sampled, and their values are counted")
    add("--temperature", type=heat, default=0.7, help="of more than one (default: %(default)s)")
    add("--top-p", type=positive_share, default=0.95, help="of more than one")
    add("--max-new-tokens", type=count, help="longer programs are cut off")
    add("--timeout", type=float, default=2.0, help="seconds for a program")
    add("--seed", type=whole, default=0, help="same seed, same programs")
    args = parser.parse_args(argv)
    if not 0 < args.timeout <= 3600:
        parser.error(f"--timeout is {args.timeout}, it must be more than 0 and at most 3600")
    known = read_run(args.run) if args.run else {}
    args.env = args.env or known.get("ENV") or "math"
    args.model = args.model or known.get("MODEL") or None
    args.adapter = args.adapter or known.get("adapter")
    args.bits = args.bits or int(known.get("BITS") or 4)
    args.max_new_tokens = args.max_new_tokens or int(known.get("MAX_NEW_TOKENS") or 96)
    args.slots = 256
    if args.num_samples == 1:
        args.temperature = 0.0
    return args


def count_votes(env, task: dict, programs: list[dict]) -> list[list[dict]]:
    """Programs that ran, those of one value together: the most first, then the likeliest.

    What one value is, the environment says: to math 7 and 7.0 are.
    """
    camps = []
    for one in programs:
        if one["status"] != "ok":
            continue
        for camp in camps:
            value = camp[0]["value"]
            if one["value"] == value or env.compare(
                    {**task, "answer": value}, one["value"])[0] == "correct":
                camp.append(one)
                break
        else:
            camps.append([one])
    return sorted(camps, key=lambda camp: (-len(camp), -max(one["logprob"] for one in camp)))


def answers(args, envs, task: dict) -> list[dict]:
    """program, logprob, status and value of args.num_samples programs."""
    model, tokenizer = sampling.checked_model(args.model, args.adapter, args.bits)
    # without an adapter the model has not learned the format: it needs examples
    prompt = envs.solve_prompt(task, few_shot=not args.adapter)
    keys = [("ask", args.ask, k) for k in range(args.num_samples)]
    sampled = sampling.sample(args, model, tokenizer, {prompt: keys}, lambda: None)
    programs = [{"program": envs.parse_program(sampled[key][0]), "logprob": sampled[key][1]}
                for key in keys]
    fields = {field: task.get(field, default)
              for field, default in envs.ENVS[args.env].job_fields.items()}
    jobs = ({"env": args.env, "program": one["program"], **fields} for one in programs)
    for one, (status, value) in zip(programs, envs.run_programs(jobs, timeout=args.timeout,
                                                                workers=None, seed=args.seed)):
        one |= {"status": status, "value": value}
    return programs


def said(env, task: dict, one: dict) -> str:
    """What running a program gave, in words; where the environment knows, whether it is right."""
    if one["status"] != "ok":
        return f"{one['status'].replace('_', ' ')}: {one['value']}"
    if "answer" in task:
        outcome, value = env.compare(task, one["value"])
        return f"gives {one['value']}\n{outcome}: {value}"
    return f"gives {one['value']}"


def main(argv, envs):
    args, started = parse_args(argv, envs.ENVS), time.time()
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries
    check_folders(args.model, args.adapter)
    if not args.ask.strip():
        fail("--ask: no question (write it between quotes)")
    if args.env not in envs.ENVS:
        fail(f"{args.run}: ENV={args.env} is none of {', '.join(envs.ENVS)} (enter it in envs.py)")
    env = envs.ENVS[args.env]
    task = {"id": "ask", "env": args.env, **env.asked(args.ask)}
    for field, default in env.job_fields.items():
        if default is REQUIRED and field not in task:
            fail(f'--ask: a task of {args.env} has a field "{field}" (write the method `asked` of '
                 "its class, which makes one of a text)")
    programs = answers(args, envs, task)
    camps = count_votes(env, {**task, "answer": None}, programs) if "answer" not in task else []
    best = camps[0][0] if camps else next(
        (one for one in programs if one["status"] == "ok"), programs[0])
    if "answer" in task:  # a page says itself what was right
        best = next((one for one in programs if one["status"] == "ok"
                     and env.compare(task, one["value"])[0] == "correct"), best)
        print(f"{task['question']}\n")
    print(f"{best['program']}\n\n{said(env, task, best)}")
    if args.num_samples > 1 and camps:
        votes = ", ".join(f"{camp[0]['value']} by {len(camp)}" for camp in camps[:5])
        failed = sum(one["status"] != "ok" for one in programs)
        print(f"vote of {len(programs)} programs: {votes}"
              + (f"; {failed} gave nothing" if failed else ""))
    env.close()
    print(f"({time.time() - started:.0f} s)")
