"""What the tests share: a model so small that it is made on the spot, and ways to load and start the stages."""
import fcntl
import functools
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PHRASES = ["def solution():\n", "    return ", "    x = ", "Refined:\n", "Question: ", "```python\n"]  # one token each
TEMPLATES = {  # the tiny model writes `return <digit>`, so answers of one digit are within its reach
    "about": "for tests", "lists": {"name": ["Ann", "Bob", "Cid", "Dot", "Eve", "Fay"]},
    "templates": [
        {"id": "gets", "steps": 1, "texts": ["{name} has {a} nuts and gets {b}. How many nuts has {name}?"],
         "numbers": {"a": [1, 8], "b": [1, 8]}, "where": "a + b < 10", "answer": "a + b"},
        {"id": "loses", "steps": 1, "held_out": True, "texts": ["{name} had {a} nuts and lost {b}. How many are left?"],
         "numbers": {"a": [4, 12], "b": [1, 8]}, "where": "a > b and a - b < 10", "answer": "a - b"}]}


def load_stage(name):
    """A stage as a module under another name: `import select` would be the standard library's."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_stage(name, *flags, **options):
    """`python name.py flags`, from the repository root. Where torch is needed, in a Python that has it already."""
    python = start_warm_python() if name in ("explore", "refine", "train", "data/report") else sys.executable
    return subprocess.run([python, f"{name}.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True,
                          timeout=300, **options)


# ---- several workers: pytest -n 2 --dist loadfile --no-loadscope-reorder --------------------------

LONGEST_FIRST = [f"test_{name}.py" for name in (  # whole files are dealt out in this order, then the others
    "methods", "other_methods", "web", "run", "fourth_environment", "tidy", "presets", "sampler", "train",
    "train_script", "explore", "sandbox", "model", "families")]
ALONE = ["test_sandbox_load.py"]     # last, and while nothing else runs: they wait for seconds, not for work


def shared_folder(tmp_path_factory) -> Path:
    """One for all workers of this run of pytest."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.name
        return name in ALONE, LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)
    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test of ALONE waits for those of other workers to end, and they for it."""
    with open(shared_folder(item.config._tmp_path_factory) / "alone.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.path.name in ALONE else fcntl.LOCK_SH)
        return (yield)


def in_time(work, seconds):
    """What work() gives; fails if each of three tries takes so many seconds of processor time or more.

    A neighbour on the same core makes a try slower, never faster, so one quick try is enough.
    """
    for _ in range(3):
        started = time.process_time()
        result = work()
        if time.process_time() - started < seconds:
            return result
    raise AssertionError(f"{seconds} s of processor time or more, three times")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a 2-layer Llama with a byte-level tokenizer, taught for some seconds to write `return <digit>`."""
    shared = shared_folder(tmp_path_factory)
    with open(shared / "tiny.lock", "w") as lock:  # the first worker makes it for all
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "tiny").exists():
            make_tiny_model(shared / "half")
            os.rename(shared / "half", shared / "tiny")
    return str(shared / "tiny")


def make_tiny_model(folder):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, vocabulary = [("`", "`"), ("``", "`")], {"<end>": 0}
    for token in [*letters, "``", "```"]:
        vocabulary[token] = len(vocabulary)
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    tokenizer.add_tokens(PHRASES)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=0, pad_token_id=0, bos_token_id=None))
    rng, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=4e-3)

    def example():
        digit = rng.randint(1, 9)
        short, long = f"    return {digit}", f"    x = {digit}\n    return x"
        draft = f"def solution():\n    return {rng.randint(1, 9)}\n```\nRefined:\n```python\n" if rng.random() < 0.3 else ""
        return (f"Question: {rng.choice('ABCD')} {'had some nuts. ' * rng.randint(0, 2)}How many?\n```python\n{draft}",
                f"def solution():\n{rng.choice([short, long])}\n```")
    for _ in range(300):
        ids, labels = [], []
        for _ in range(rng.choice([1, 1, 2, 6])):  # several after one another, as in a few-shot prompt
            question, answer = (tokenizer(text).input_ids for text in example())
            gap = tokenizer("\n\n").input_ids
            ids += question + answer + gap
            labels += [-100] * len(question) + answer + [-100] * len(gap)
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


KEPT = []


@functools.cache
def start_warm_python() -> str:
    """An executable like sys.executable in which torch is imported already: see tests/warm.py."""
    folder = tempfile.mkdtemp(prefix="warm-")
    server = subprocess.Popen([sys.executable, str(ROOT / "tests" / "warm.py"), folder],
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout.readline() == "ready\n"
    KEPT.append(server)  # it ends when we do, however that comes: its stdin is closed then
    return os.path.join(folder, "python")


@pytest.fixture(scope="session")
def warm_python():
    return start_warm_python()
