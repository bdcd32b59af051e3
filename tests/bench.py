"""How fast is each stage, beside what a user would take instead? Ratios, as a table and as JSON.

    python tests/bench.py --out bench.json      # embedded model; CPU, or CUDA when there is one
    python -m pip install -r tests/bench-requirements.txt   # TRL, to compare training with

explore   our sampler against model.generate and model.generate_batch (paged continuous batching)
          of transformers, in 4-bit with the same prompts, sampling and number of rows: useful
          tokens (to the closing fence or end token) per second, zero-shot and few-shot
refine    the same for rewrites, whose prompts share the question
train     completion tokens per second of train.py against TRL's SFTTrainer: same rows, rank,
          batch, 4 bits, one epoch; on a GPU also the peak memory of each (without TRL: ours alone)
reward    programs per second: tests/bench_reward.py
all       seconds of each stage of an iteration of 32 tasks x 4, by these rates: explore zero-shot,
          refine, reward, one epoch of training

Machines are noisy: every pair is measured in turn --repeats times and the medians are compared.
"""
from __future__ import annotations

import argparse
import collections
import functools
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nanoenvisions.threads  # noqa: F401  before torch, and for both sides
import torch

import envs
import train
from nanoenvisions.model import default_model, load_model
from nanoenvisions.rows import encode, make_steps, split_wide
from nanoenvisions.sampler import generate_all

NUM_TASKS, NUM_SAMPLES, MAX_NEW_TOKENS = 32, 4, 72
SAMPLING = dict(do_sample=True, temperature=0.7, top_p=0.95, top_k=0,
                max_new_tokens=MAX_NEW_TOKENS)  # of transformers; ours has the same defaults


def math_tasks(count: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        envs.main(["make", "--env", "math", "--num", str(count), "--seed", "100",
                   "--out", str(path)])
        return envs.read_jsonl(path)


def useful_tokens(tokenizer, ids, end_tokens) -> int:
    """Tokens up to the closing fence or the end token: what explore.py would have kept."""
    for count in range(1, len(ids) + 1):
        if ids[count - 1] in end_tokens or "\n```" in tokenizer.decode(ids[:count]):
            return count
    return len(ids)


def plain_model(model_name):
    """The model in 4 bits, as people load it."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    return AutoModelForCausalLM.from_pretrained(
        model_name or default_model(), dtype=torch.bfloat16,
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16))


# ----------------------------------------------------------------------------------- Sampling --

def plain_generate(model, tokenizer, prompts, num_samples=NUM_SAMPLES) -> tuple[int, float]:
    """transformers as people use it: K copies of each prompt, padded left, stop at the fence;
    (useful tokens, seconds)."""
    tokenizer.padding_side = "left"
    copies = [prompt for prompt in prompts for _ in range(num_samples)]
    batch = tokenizer(copies, padding=True, return_tensors="pt").to(model.device)
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(**batch, **SAMPLING, pad_token_id=tokenizer.pad_token_id,
                             stop_strings=["\n```"], tokenizer=tokenizer)
    seconds = time.perf_counter() - started
    new = out[:, batch.input_ids.shape[1]:].tolist()
    return sum(useful_tokens(tokenizer, row, {tokenizer.eos_token_id}) for row in new), seconds


def batch_generate(model, tokenizer, prompts, num_samples=NUM_SAMPLES) -> tuple[int, float] | None:
    """transformers' continuous batching, with log-probabilities as ours; (useful tokens, seconds),
    None where it cannot run.

    It knows no stop strings, so the tokens that end in a fence are end tokens to it.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig
    fences = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).endswith("```")]
    config = GenerationConfig(**SAMPLING, num_return_sequences=num_samples,
                              pad_token_id=tokenizer.pad_token_id,
                              eos_token_id=[tokenizer.eos_token_id, *fences])
    # Its cache is sized by the GPU's memory; on a CPU it would take all there is.
    on_gpu = model.device.type == "cuda"
    room = {} if on_gpu else {"num_blocks": 512, "max_batch_tokens": 2048}
    started = time.perf_counter()
    out = model.generate_batch(
        tokenizer(prompts).input_ids, generation_config=config, warmup=False,
        continuous_batching_config=ContinuousBatchingConfig(return_logprobs=True, **room))
    seconds = time.perf_counter() - started
    done = [one.generated_tokens for one in out.values() if one.error is None]
    if len(done) < len(prompts) * num_samples:
        return None
    return sum(useful_tokens(tokenizer, ids, {tokenizer.eos_token_id}) for ids in done), seconds


def our_generate(model, tokenizer, prompts, num_samples=NUM_SAMPLES) -> tuple[int, float]:
    requests = [(prompt, [(number, k) for k in range(num_samples)])
                for number, prompt in enumerate(prompts)]
    started = time.perf_counter()
    results = generate_all(model, tokenizer, requests, slots=256, max_new_tokens=MAX_NEW_TOKENS)
    return sum(count for *_, count in results.values()), time.perf_counter() - started


def bench_explore(model_name, repeats: int) -> list[dict]:
    ours, tokenizer = load_model(model_name)
    plain = plain_model(model_name)
    tasks = math_tasks(NUM_TASKS)
    drafts = [f"def solution():\n    a = {k}\n    b = 7\n    return a + b"
              for k in range(NUM_SAMPLES)]
    cases = {"explore": ([envs.solve_prompt(task) for task in tasks], NUM_SAMPLES),
             "explore, few-shot": ([envs.solve_prompt(task, True) for task in tasks], NUM_SAMPLES),
             "refine": ([envs.refine_prompt(task, draft) for task in tasks for draft in drafts], 1)}
    rows = []
    for name, (prompts, num_samples) in cases.items():
        ways = {"ours": functools.partial(our_generate, ours),
                "model.generate, 4-bit": functools.partial(plain_generate, plain)}
        if name != "refine":
            ways["model.generate_batch, 4-bit"] = functools.partial(batch_generate, plain)
        runs = collections.defaultdict(list)
        for _ in range(repeats):
            for way, run in ways.items():
                if done := run(tokenizer, prompts, num_samples):
                    runs[way].append(done)
        rates = {way: statistics.median(count / seconds for count, seconds in done)
                 for way, done in runs.items()}
        for against in list(rates)[1:]:
            rows.append({"stage": f"{name}, {NUM_TASKS} x {NUM_SAMPLES}", "unit": "useful tokens/s",
                         "ours": rates["ours"], "plain": rates[against], "against": against})
        if name != "explore, few-shot":  # part of an iteration after the first
            work = statistics.median(count for count, _ in runs["ours"])
            rows[1 - len(rates)]["work"] = work
    return rows


# ----------------------------------------------------------------------------------- Training --

def training_rows() -> list[dict]:
    """Rows as select.py makes them: 1 to 4 solutions a task, and a repaired mistake for every other
    task."""
    rows = []
    for number, task in enumerate(math_tasks(48)):
        program = (f"def solution():\n    first = {number}\n    second = 7\n"
                   "    return first + second")
        for k in range(1 + number % 4):
            other = program.replace("first", f"x{k}")
            rows.append({"prompt": envs.solve_prompt(task), "completion": envs.completion(other)})
        if number % 2:
            rows.append({"prompt": envs.refine_prompt(task, program),
                         "completion": envs.completion(program)})
    return rows


def forget_peak():
    """What a side that is measured next finds: no weights of the other one, and no peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def our_training(model_name, rows) -> tuple[int, float]:
    """(completion tokens of an epoch, seconds)"""
    args = train.parse_args(["--in", "-", "--out", "-", "--epochs", "1"])
    model, tokenizer = load_model(model_name, merge=False)
    train.check_model(model, tokenizer)
    model = train.add_lora(model, args)
    sequences = split_wide(encode(rows, tokenizer, args.max_length),
                           args.batch_size, args.max_length)
    steps = make_steps(sequences, args.batch_size, 1, 0, seed=0)
    started = time.perf_counter()
    train.train(model, steps, args)
    seconds = time.perf_counter() - started
    return train.completion_tokens(sequences), seconds


def trl_seconds(model_name, rows) -> float | None:
    """Seconds of SFTTrainer for one epoch with the same adapter, batch and rate; None without
    TRL."""
    try:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        return None
    from peft import LoraConfig
    from transformers import AutoTokenizer
    args, on_gpu = train.parse_args(["--in", "-", "--out", "-"]), torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=plain_model(model_name), train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_name or default_model()),
            peft_config=LoraConfig(r=args.rank, lora_alpha=2 * args.rank,
                                   target_modules="all-linear", task_type="CAUSAL_LM"),
            args=SFTConfig(output_dir=folder, per_device_train_batch_size=args.batch_size,
                           num_train_epochs=1, bf16=True, learning_rate=args.learning_rate,
                           max_length=args.max_length, report_to=[], save_strategy="no",
                           logging_strategy="no", disable_tqdm=True, use_cpu=not on_gpu,
                           gradient_checkpointing=on_gpu))
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def bench_train(model_name, repeats: int) -> list[dict]:
    rows, rates, peaks = training_rows(), collections.defaultdict(list), {}
    for _ in range(repeats):
        for side in ("ours", "plain"):
            forget_peak()
            if side == "ours":
                completion_tokens, seconds = our_training(model_name, rows)
            else:
                seconds = trl_seconds(model_name, rows)
            if seconds:
                rates[side].append(completion_tokens / seconds)
                if torch.cuda.is_available():
                    peaks[f"{side}_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    row = {"stage": f"train, {len(rows)} rows", "unit": "completion tokens/s",
           "work": completion_tokens, "ours": statistics.median(rates["ours"]), **peaks}
    if rates["plain"]:
        row |= {"plain": statistics.median(rates["plain"]), "against": "TRL SFTTrainer, QLoRA"}
    return [row]


# ------------------------------------------------------------------------------ All of a stage --

def bench_rewards() -> list[dict]:
    import bench_reward
    figures = bench_reward.bench_reward()
    return [{"stage": "reward, 2,000 programs", "unit": "programs/s",
             "work": 2 * NUM_TASKS * NUM_SAMPLES, "ours": figures["sandbox: programs/s"],
             "plain": figures["subprocess with limits: programs/s"],
             "against": "one subprocess per program"},
            {"stage": "reward, all figures", "unit": "see the JSON", "ours": 0, "figures": figures}]


def iteration(rows) -> list[dict]:
    """Seconds of each stage of an iteration, then of all of them; none if a side is missing."""
    parts = [row for row in rows if "work" in row]
    if not all(row.get("plain") for row in parts):
        return []
    result = []
    for row in parts + [None]:
        chosen = [row] if row else parts
        name = row["stage"].split(",")[0] if row else f"all, {NUM_TASKS} x {NUM_SAMPLES}"
        result.append({"stage": f"an iteration: {name}", "unit": "seconds",
                       "ours": sum(one["work"] / one["ours"] for one in chosen),
                       "plain": sum(one["work"] / one["plain"] for one in chosen),
                       "against": row["against"] if row else "all of these"})
    return result


def print_table(rows, machine: str):
    print(f"\n{'':32} {'ours':>9} {'plain':>9} {'ratio':>6}   ({machine})")
    for row in rows:
        if "figures" in row:
            continue
        side = f"{'-':>9} {'-':>6}   {row['unit']}"
        if row.get("plain"):
            ratio = row["ours"] / row["plain"]
            ratio = 1 / ratio if row["unit"] == "seconds" else ratio  # above 1: ours is faster
            side = f"{row['plain']:9,.1f} {ratio:6.1f}   {row['unit']}, against {row['against']}"
        print(f"{row['stage']:32} {row['ours']:9,.1f} {side}")
        for key in ("ours_peak_gb", "plain_peak_gb"):
            if key in row:
                print(f"  peak memory, {key.split('_')[0]}: {row[key]:.2f} GB")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub name or folder; nothing means the embedded model")
    parser.add_argument("--only", choices=("explore", "train", "reward"), help="one part alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="file to write the figures to, as JSON")
    args = parser.parse_args(argv)
    rows = []
    if args.only in (None, "explore"):
        rows += bench_explore(args.model, args.repeats)
    if args.only in (None, "train"):
        rows += bench_train(args.model, args.repeats)
    if args.only in (None, "reward"):
        rows += bench_rewards()
    if args.only is None:
        rows += iteration(rows)
    on_cpu = f"{platform.machine()}, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else on_cpu
    print_table(rows, machine)
    if args.out:
        envs.write_whole(args.out, json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
