"""What only a GPU can show, in one run of some minutes: that the CUDA paths are right, how fast they
are, and what memory they take. No weights are needed: models of real shapes are drawn at random.

    python tests/gpu_check.py --out gpu.json          # 135M and 7B
    python tests/gpu_check.py --dry                   # tiny shapes, on a CPU too: is this script right?
    python tests/gpu_check.py --only right speed      # parts of it

right   log-probabilities of the sampler against a plain forward pass: 32, 16 and 4 bits, packed and
        unpacked, with and without an adapter; recorded steps against steps that are not, and against
        the plain sampler, token by token; the training loss against the plain one, with and without
        checkpoints
speed   tokens per second of sampling, with and without recorded steps, beside model.generate; rows
        that fit, on this card and on emulated ones of 8 and 24 GB
train   tokens per second and peak memory of training at 1,024 tokens; the estimate of what
        activations take, beside what they took

A smaller card is emulated by an allocator that refuses more. Every figure is written at once, so a
run that is stopped keeps what it has. The last line says what failed, and so does the exit status.
"""
import argparse
import contextlib
import functools
import io
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import nanoenvisions.threads  # noqa: F401  before torch
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

import envs
import explore
import train
from nanoenvisions import graphs, memory, sampler
from nanoenvisions.attention import prefix_attention
from nanoenvisions.model import collate, hush, load_model
from random_models import DEVICE, add_random_adapter, packed_model, tokenizer_of_bytes, unpacked, with_big_head

CUDA = torch.cuda.is_available()
VOCABULARY = 49_152
PROMPT_WORDS = 40
figures, failed = {}, []


def say(name, value, good=True):
    """A figure; `good`: whether it is what it must be."""
    figures[name] = value
    if not good:
        failed.append(name)
    print("ok  " if good else "FAIL", name, value, flush=True)
    Path(args.out).write_text(json.dumps({"device": device_name(), "failed": failed, "figures": figures}, indent=1))


def device_name() -> str:
    return torch.cuda.get_device_name() if CUDA else "CPU"


def part(name):
    """Decorator: a part that breaks is a failure with its error, and the next one runs."""
    def wrap(function):
        @functools.wraps(function)
        def run(*arguments):
            if args.only and name not in args.only:
                return
            started = time.perf_counter()
            try:
                function(*arguments)
            except Exception as error:  # whatever a GPU can say
                import traceback
                traceback.print_exc()
                say(f"{function.__name__} {arguments[:1] if arguments else ''}", repr(error)[:200], False)
            print(f"     {function.__name__}: {time.perf_counter() - started:.0f} s", flush=True)
        return run
    return wrap


# ---- measuring ------------------------------------------------------------------------------

@contextlib.contextmanager
def card(gigabytes):
    """Be a smaller card: the allocator refuses more, and the product believes in its size."""
    real = memory.total_memory
    if gigabytes and CUDA:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((gigabytes * 1e9 - memory.CUDA_CONTEXT) / total)
    if gigabytes:
        memory.total_memory = lambda device: int(gigabytes * 1e9)
    try:
        yield
    finally:
        memory.total_memory = real
        if CUDA:
            torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def steps(recorded: bool):
    """Recorded or not: what Replay does with a device."""
    class Plain(graphs.Replay):
        def __init__(self, device):
            super().__init__(device)
            self.records &= recorded
    sampler.Replay, real = Plain, sampler.Replay
    yield
    sampler.Replay = real


def timed(work):
    """(result, seconds, peak GB, messages about memory)"""
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    noise, started = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stderr(noise):
        result = work()
    if CUDA:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 1e9 if CUDA else 0
    return result, time.perf_counter() - started, round(peak, 2), noise.getvalue()


def requests(prompts: int, samples: int):
    return [(f"Question: {'Ann has nuts. ' * (PROMPT_WORDS // 4)}{index} and {7 * index}?\n```python\n",
             [(index, k) for k in range(samples)]) for index in range(prompts)]


# ---- right ----------------------------------------------------------------------------------

@torch.no_grad()
def gaps(model, reference, tokenizer, asked):
    """Largest and mean difference of the sampler's mean log-probabilities to a plain forward pass's, in nats."""
    kept, seen = sampler.Ending.text, []

    def text(self, before, ids):
        done = kept(self, before, ids)
        if done is not None:
            seen.append(list(ids))
        return done
    sampler.Ending.text = text
    try:
        rows = list(sampler.generate(model, tokenizer, [(tokenizer(prompt).input_ids, keys) for prompt, keys in asked],
                                     slots=7, max_new_tokens=24, temperature=1.0))
    finally:
        sampler.Ending.text = kept
    prompts = {key: tokenizer(prompt).input_ids for prompt, keys in asked for key in keys}
    finished = {key: logprob for key, _, logprob, _ in rows}
    reference.set_attn_implementation("sdpa")
    found = []
    for (key, *_), ids in zip(rows, seen):  # both in the order of finishing
        whole = torch.tensor([prompts[key] + ids], device=DEVICE)
        logits = reference(whole).logits[0, len(prompts[key]) - 1:-1].float()
        plain = logits.log_softmax(-1).gather(1, torch.tensor(ids, device=DEVICE)[:, None]).mean().item()
        found.append(abs(plain - finished[key]))
    return round(max(found), 4), round(sum(found) / len(found), 4)


@part("right")
def right_logprobs(folder):
    cases = [(32, False, True), (16, False, True), (4, False, True), (4, False, False), (4, True, True),
             (4, True, False)]
    real = memory.unpacked_fits
    for bits, lora, fits in cases:
        memory.unpacked_fits = lambda parameters, total, share: fits
        adapter = f"{folder}/adapter" if lora else None
        reference, tokenizer = load_model(folder, adapter, bits, merge=False)
        model, _ = load_model(folder, adapter, bits)
        largest, mean = gaps(model, reference, tokenizer, requests(4, 3))
        memory.unpacked_fits = real
        say(f"log-probability: {bits} bits, adapter {lora}, unpacked {fits}", [largest, mean],
            largest < (0.002 if bits == 32 else 0.08))


@part("right")
def right_programs(folder):
    """In float32, so that rounding decides nothing: the same tokens, recorded, launched and plain."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model, tokenizer = load_model(folder, bits=32)
    asked = requests(3 if args.dry else 9, 4) + [("Q", [("Q", k) for k in range(3)])]
    tokens = [(tokenizer(prompt).input_ids, keys) for prompt, keys in asked]
    how = dict(seed=1, max_new_tokens=40, temperature=0.7, top_p=0.95)
    results = {}
    for recorded in (True, False):
        with steps(recorded):
            results[recorded] = {key: tuple(rest) for key, *rest
                                 in sampler.generate(model, tokenizer, tokens, slots=16, **how)}
    results["plain"] = {key: tuple(rest) for key, *rest in explore.generate_plain(model, tokenizer, asked, **how)}
    for other in (False, "plain"):
        same = sum(results[True][key][0] == results[other][key][0] for key in results[True])
        say(f"programs, recorded against {other or 'launched'}", f"{same} of {len(results[True])} equal",
            same >= 0.95 * len(results[True]))


@part("right")
def right_loss(folder):
    """4 bits, packed: the loss of packed, branched rows and its gradient, against row by row."""
    arguments = ["--in", "-", "--out", "-", "--rank", "8", "--checkpointing"]
    rng = torch.Generator().manual_seed(0)
    draw = lambda count: torch.randint(1, 250, (count,), generator=rng).tolist()
    sequences = [{"root": draw(30), "branches": [draw(9), draw(14)]}, {"root": draw(12), "branches": [draw(21)]}]
    found = {}
    for checkpointing in ("no", "yes"):
        model, tokenizer = load_model(folder, bits=4, merge=False)
        train.check_model(model, tokenizer)
        torch.manual_seed(0)
        model = train.add_lora(model, train.parse_args([*arguments, checkpointing]))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        model.train()
        loss = train.loss_sum(model, collate([sequences], model.device))
        loss.backward()
        found[checkpointing] = loss.item(), torch.cat([weight.grad.float().flatten() for weight in model.parameters()
                                                       if weight.requires_grad])
    plain = 0.0
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for root, branch in [(one["root"], ids) for one in sequences for ids in one["branches"]]:
            logits = model(torch.tensor([root + branch], device=DEVICE)).logits[0, len(root) - 1:-1].float()
            plain += F.cross_entropy(logits, torch.tensor(branch, device=DEVICE), reduction="sum").item()
    (loss, grad), (again, regrad) = found["no"], found["yes"]
    say("training loss: ours, with checkpoints, plain", [round(value, 3) for value in (loss, again, plain)],
        abs(loss - plain) < 0.01 * plain and abs(again - loss) < 0.005 * plain)
    say("cosine of both gradients", round(F.cosine_similarity(grad, regrad, 0).item(), 4),
        F.cosine_similarity(grad, regrad, 0) > 0.98)


# ---- speed ----------------------------------------------------------------------------------

def rate(rows, new, seconds, peak, count=None):
    count = count or rows * new
    return {"tokens_s": round(count / seconds), "ms_step": round(1e3 * seconds / new, 1), "peak_gb": peak}


@part("speed")
def speed(name, model, tokenizer, gigabytes, new, compare):
    model.set_attn_implementation("prefix_attention")
    with card(gigabytes):
        for rows, recorded in itertools.product(args.rows, (True, False) if compare else (True,)):
            with steps(recorded):
                out, seconds, peak, noise = timed(lambda: sampler.generate_all(
                    model, tokenizer, requests(rows // 4, 4), slots=rows, max_new_tokens=new))
            say(f"{name}: {rows} rows{'' if recorded else ', launched one by one'}",
                rate(rows, new, seconds, peak, sum(count for *_, count in out.values()))
                | {"halved": noise.count("out of memory")}, "out of memory" not in noise and "recorded" not in noise)


@part("speed")
def plain_speed(name, model, tokenizer, rows, new):
    """model.generate with the same prompts, sampling and rows; all run to the end."""
    model.set_attn_implementation("sdpa")
    texts = [prompt for prompt, keys in requests(rows // 4, 4) for _ in keys]
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(DEVICE)
    with torch.inference_mode():
        _, seconds, peak, _ = timed(lambda: model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, do_sample=True, temperature=0.7, top_p=0.95,
            top_k=0, pad_token_id=0, min_new_tokens=new, max_new_tokens=new))
    say(f"{name}: model.generate, {rows} rows", rate(rows, new, seconds, peak))


# ---- training -------------------------------------------------------------------------------

@part("train")
def training(name, model, length, micro, gigabytes, checkpointing="auto"):
    given = train.parse_args(["--in", "-", "--out", "-", "--micro-tokens", str(micro), "--width", str(length),
                              "--checkpointing", checkpointing])
    half = torch.randint(1, 250, (length // 2,)).tolist()
    batches = [[{"root": half, "branches": [half]} for _ in range(4)] for _ in range(3)]
    with card(gigabytes):
        model.set_attn_implementation("sdpa" if CUDA else "prefix_attention")
        wrapped = train.add_lora(model, given)
        base = torch.cuda.memory_allocated() / 1e9 if CUDA else 0
        chosen, value, good = bool(wrapped.is_gradient_checkpointing), "out of memory", False
        try:
            (_, tokens), seconds, peak, _ = timed(lambda: train.train(wrapped, batches, given))
            estimate = memory.activation_bytes(model.config, max(micro, length)) / 1e9
            value = {"tokens_s": round(tokens / seconds), "peak_gb": peak, "checkpoints": chosen,
                     "activations_gb": [round(peak - base, 2), f"estimated {estimate:.2f} without checkpoints"]}
            good = True
        except torch.OutOfMemoryError:
            pass
        finally:
            wrapped.gradient_checkpointing_disable()
            wrapped.unload()
            for weight in model.parameters():
                weight.grad = None
    say(f"train {name}: {length} tokens, {micro} at once, {gigabytes or 'all'} GB, checkpoints {checkpointing}",
        value, good)


def main():
    hush()
    AttentionInterface.register("prefix_attention", prefix_attention)
    if args.dry:  # shapes as on a GPU
        sampler.shapes_are_fixed, graphs.FEWEST = lambda device: True, 4
    tokenizer, small, large = tokenizer_of_bytes(args.vocabulary), *(("tiny", "tiny") if args.dry else ("135M", "7B"))
    new, short = (8, 64) if args.dry else (64, 1024)
    with tempfile.TemporaryDirectory() as folder:
        if not args.only or "right" in args.only:
            with_big_head(folder, small, args.vocabulary)
            add_random_adapter(folder)
            right_logprobs(folder)
            right_programs(folder)
            right_loss(folder)
    model = packed_model(small, args.vocabulary)
    training(small, model, 160, 2048, None)
    training(small, model, 160, 2048, None, "yes")
    model = unpacked(model)
    speed(small, model, tokenizer, None, new, True)
    for rows in args.rows[:2]:
        plain_speed(small, model, tokenizer, rows, new)
    started = time.perf_counter()
    del model
    model = packed_model(large, args.vocabulary)
    print(f"     {large} drawn in {time.perf_counter() - started:.0f} s", flush=True)
    training(large, model, short, short, 8)
    training(large, model, short, 2 * short, 24)
    training(large, model, short, 2 * short, None, "no")
    speed(f"{large}, packed, 24 GB", model, tokenizer, 24, new, False)
    for rows in args.rows[:2]:
        plain_speed(f"{large}, packed", model, tokenizer, rows, new)
    model = unpacked(model)
    speed(f"{large}, unpacked", model, tokenizer, None, new, True)
    print(f"failed: {failed}" if failed else "all is right", flush=True)
    return bool(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--only", nargs="+", choices=("right", "speed", "train"))
    parser.add_argument("--dry", action="store_true", help="tiny shapes: a test of this script")
    args = parser.parse_args()
    args.vocabulary, args.rows = (400, (8, 16)) if args.dry else (VOCABULARY, (64, 256, 1024))
    sys.exit(main())
