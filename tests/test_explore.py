"""explore.py: what each flag does, the file it writes, resuming, bad input."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, run_stage

import envs
import explore
import train
from nanoenvisions import model, sampling

QUESTIONS = ["How many are left?", "How many?",
             "Ann has 3 nuts and gets 4. How many nuts has Ann now, if she loses none?",
             "Bob had 9 nuts. How many are left when he gives 2 to Cid and then finds another one?"]
TASKS = [{"id": f"t{i}", "env": "math", "question": question, "answer": 3}
         for i, question in enumerate(QUESTIONS)]


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(map(envs.dump, TASKS)))
    return path


@pytest.fixture
def run(tmp_path, tiny_model):
    """run(tasks, flags ...) -> records, in the order of (id, candidate)"""
    def run(tasks, *flags):
        (tmp_path / "in").write_text("".join(map(envs.dump, tasks)))
        (tmp_path / "out").unlink(missing_ok=True)
        explore.main(["--in", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--model", tiny_model,
                      "--max-new-tokens", "40", *map(str, flags)])
        records = [json.loads(line) for line in open(tmp_path / "out")]
        return sorted(records, key=lambda record: (record["id"], record["candidate"]))
    return run


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, tiny_model):
    """Folder of an adapter that has learned to write `x = ...` and `return x`, always."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = [{"prompt": f"Question: {question}\n```python\n", "kind": "solve", "id": question,
             "completion": f"def solution():\n    x = {n}\n    return x\n```"}
            for n, question in enumerate(QUESTIONS, 1)]
    (folder / "sft").write_text("".join(map(envs.dump, rows)))
    train.main(["--in", f"{folder}/sft", "--out", f"{folder}/x", "--model", tiny_model,
                "--epochs", "30", "--batch-size", "2", "--learning-rate", "3e-3"])
    return str(folder / "x")


def programs(records):
    return [record["program"] for record in records]


def learned(records) -> float:
    """Share of the programs that are as the adapter was taught."""
    begin, end = "def solution():\n    x = ", "\n    return x"
    return sum(r["program"].startswith(begin) and r["program"].endswith(end)
               for r in records) / len(records)


def differ(one, other) -> int:
    """How many programs are not the same."""
    assert len(one) == len(other)
    return sum(a["program"] != b["program"] for a, b in zip(one, other))


# ---- what is sampled ------------------------------------------------------------------------

def test_the_record_grows(run):
    records = run(TASKS, "--num-samples", 3, "--iteration", 2)
    assert [(r["id"], r["candidate"]) for r in records] == [
        (f"t{i}", k) for i in range(4) for k in range(3)]
    for record in records:
        assert record["source"] == "explore" and record["iteration"] == 2
        assert record["answer"] == 3 and record["question"] == QUESTIONS[int(record["id"][1])]
        assert "```" not in record["program"]
        assert record["logprob"] <= 0 and record["tokens"] >= 1


def test_plain_gives_the_same_file(run, monkeypatch):
    """--plain: one row at a time by ordinary forward passes; float32, so nothing rounds away."""
    flags = ("--bits", 32, "--temperature", 1.3, "--num-samples", 3, "--few-shot")
    fast = run(TASKS, *flags)
    monkeypatch.setattr(sampling, "generate_all", None)  # the fast sampler is not called
    plain = run(TASKS, *flags, "--plain")
    for one, other in zip(fast, plain):
        assert one | {"logprob": 0} == other | {"logprob": 0}
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


@pytest.mark.parametrize("flag", ["--greedy", "--eval"])
def test_greedy_is_one_program_of_the_likeliest_tokens(run, tiny_model, flag):
    """Whatever --temperature, --seed and --num-samples say; as transformers' greedy search."""
    records = run(TASKS, flag, "--bits", 32, "--temperature", 2, "--seed", 5, "--num-samples", 3)
    language_model, tokenizer = model.load_model(tiny_model, bits=32)
    wanted = []
    for task in TASKS:
        x = tokenizer(envs.solve_prompt(task), return_tensors="pt").input_ids
        ids = language_model.generate(x, do_sample=False, max_new_tokens=40)[0, x.shape[1]:]
        wanted.append(tokenizer.decode(ids).partition("\n```")[0])
    assert programs(records) == wanted


@pytest.mark.parametrize("flags", [("--temperature", 1e-4), ("--top-p", 1e-6)])
def test_without_warmth_or_nucleus_sampling_is_greedy(run, flags):
    greedy = programs(run(TASKS, "--greedy"))
    warm = ("--temperature", 2, "--num-samples", 2)
    assert programs(run(TASKS, *warm, *flags)) == [one for one in greedy for _ in range(2)]
    assert programs(run(TASKS, *warm)) != [one for one in greedy for _ in range(2)]


def test_same_seed_same_programs_and_another_seed_or_iteration_others(run):
    flags = ("--temperature", 1.5, "--num-samples", 5)
    first = run(TASKS, *flags)
    assert run(TASKS, *flags) == first
    assert differ(first, run(TASKS, *flags, "--seed", 1)) > 5
    assert differ(first, run(TASKS, *flags, "--iteration", 1)) > 5


def test_samples_of_a_task_and_tasks_with_the_same_question_differ(run):
    """Equal prompts are run once, but each row has its own random numbers, alone or together."""
    flags = ("--temperature", 1.5, "--num-samples", 5)
    twins = [TASKS[1], TASKS[1] | {"id": "twin"}]
    both = run(twins, *flags)
    assert len(set(programs(both[:5]))) > 2 and differ(both[:5], both[5:]) > 2
    assert both == run(twins[:1], *flags) + run(twins[1:], *flags)


def test_bits(run, tiny_model):
    """The log-probabilities are those of the model in so many bits."""
    task = TASKS[2]
    greedy = {bits: run([task], "--greedy", "--bits", bits)[0] for bits in (4, 16, 32)}
    assert run([task], "--greedy") == [greedy[4]]  # the default
    assert len({record["logprob"] for record in greedy.values()}) == 3
    for bits, tolerance in ((4, 1e-2), (16, 1e-2), (32, 1e-4)):
        language_model, tokenizer = model.load_model(tiny_model, bits=bits)
        x = tokenizer(envs.solve_prompt(task)).input_ids
        a = tokenizer(envs.completion(greedy[bits]["program"])).input_ids
        with torch.inference_mode():
            logits = language_model(torch.tensor([x + a])).logits[0, len(x) - 1:-1]
        logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(a)[:, None])
        assert greedy[bits]["logprob"] == pytest.approx(logprobs.mean().item(), abs=tolerance)


def test_length(run):
    assert {r["tokens"] for r in run(TASKS, "--greedy", "--max-new-tokens", 3)} == {3}


@pytest.mark.parametrize("share, with_examples", [(0, 0), (0.3, 2), (0.5, 2), (0.51, 3), (1, 4)])
def test_a_share_of_the_samples_keeps_its_examples(run, share, with_examples):
    """few_shot 0.5 of K = 4: samples 0 and 1 are those of --few-shot, 2 and 3 those without."""
    task = TASKS[1]
    flags = ("--bits", 32, "--num-samples", 4)
    zero, few, some = ([record["logprob"] for record in run([one], *flags, *more)]
                       for one, more in ((task, ()), (task, ("--few-shot",)),
                                         (task | {"few_shot": share}, ())))
    assert all(one != other for one, other in zip(zero, few))  # or the test shows little
    assert some == pytest.approx(few[:with_examples] + zero[with_examples:], abs=1e-5)


def test_an_evaluation_beside_gives_the_same_two_files(run, tmp_path, tiny_model, monkeypatch):
    """One model, two files; what is finished stays, and a file begun without it is continued."""
    (tmp_path / "test").write_text("".join(map(envs.dump, TASKS[1:])))
    alone = run(TASKS, "--num-samples", 3, "--temperature", 1.3)
    whole = (tmp_path / "out").read_bytes()
    explore.main(["--in", f"{tmp_path}/test", "--out", f"{tmp_path}/wanted", "--eval",
                  "--model", tiny_model, "--max-new-tokens", "40"])
    loads, load = [], sampling.load_model
    monkeypatch.setattr(sampling, "load_model", lambda *args: loads.append(args) or load(*args))
    flags = ("--num-samples", 3, "--temperature", 1.3, "--metrics", tmp_path / "metrics",
             "--also-eval", tmp_path / "test", tmp_path / "eval")
    assert run(TASKS, *flags) == alone and len(loads) == 1
    assert (tmp_path / "eval").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert (tmp_path / "out").read_bytes() == whole
    assert [row["stage"] for row in envs.read_jsonl(tmp_path / "metrics")] == ["eval-explore", "explore"]
    (tmp_path / "eval").write_text("finished")
    assert run(TASKS, *flags) == alone and (tmp_path / "eval").read_text() == "finished"
    for eval_tasks, eval_out in (("test", "out"), ("test", "test")):
        with pytest.raises(SystemExit, match="one would be overwritten|would be overwritten"):
            run(TASKS, "--also-eval", tmp_path / eval_tasks, tmp_path / eval_out)


# ---- the adapter ----------------------------------------------------------------------------

def test_the_adapter_explores(run, adapter):
    for flags in (("--num-samples", 5), ("--greedy",), ("--num-samples", 2, "--plain")):
        assert learned(run(TASKS, *flags)) < 0.5
        assert learned(run(TASKS, *flags, "--adapter", adapter)) > 0.7  # rounding differs with the CPU


def test_beside_packed_weights_an_adapter_is_kept(run, adapter, tiny_model, monkeypatch):
    """Merged into weights that are packed again, it would be rounded away."""
    def mean_logprob(folder):
        """log p of what was taught, mean over its tokens and the tasks; are the weights packed?"""
        language_model, tokenizer = model.load_model(tiny_model, folder)
        layer = language_model.model.layers[0].mlp.up_proj
        means = []
        for n, task in enumerate(TASKS, 1):
            text = envs.completion(f"def solution():\n    x = {n}\n    return x")
            x, a = (tokenizer(one).input_ids for one in (envs.solve_prompt(task), text))
            logits = language_model(torch.tensor([x + a])).logits[0, len(x) - 1:-1]
            logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(a)[:, None])
            means.append(logprobs.mean().item())
        return sum(means) / len(means), getattr(layer, "base_layer", layer).weight.dtype
    with torch.inference_mode():
        base, (wanted, dtype) = mean_logprob(None)[0], mean_logprob(adapter)
        monkeypatch.setattr(model, "unpacks", lambda device, merge, parameters: False)
        packed, packed_dtype = mean_logprob(adapter)
    assert dtype in (torch.bfloat16, torch.float32) and packed_dtype == torch.uint8
    assert packed == pytest.approx(wanted, abs=0.01) and base < wanted - 0.04
    assert learned(run(TASKS, "--adapter", adapter, "--num-samples", 3)) > 0.7


def test_an_adapter_of_another_model_is_one_line(run, adapter, tmp_path, tiny_model):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    other = LlamaForCausalLM(LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=0))
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match="it is of another model, .* does not fit") as error:
        run(TASKS, "--model", tmp_path / "other", "--adapter", adapter)
    assert len(str(error.value).splitlines()) == 1


# ---- the file -------------------------------------------------------------------------------

def test_limit_counts_the_records_of_all_inputs(tmp_path, tiny_model):
    for name, tasks in (("a", TASKS[:3]), ("b", TASKS[3:])):
        (tmp_path / name).write_text("".join(map(envs.dump, tasks)))
    for limit, wanted in ((2, ["t0", "t1"]), (3, ["t0", "t1", "t2"]),
                          (4, ["t0", "t1", "t2", "t3"])):
        explore.main(["--in", f"{tmp_path}/a", f"{tmp_path}/b", "--out", f"{tmp_path}/out",
                      "--model", tiny_model, "--greedy", "--limit", str(limit)])
        assert sorted(json.loads(line)["id"] for line in open(tmp_path / "out")) == wanted


def test_metrics_count_what_was_done(run, tmp_path):
    for flags, stage in (((), "explore"), (("--eval",), "eval-explore")):
        records = run(TASKS, "--iteration", 3, "--metrics", tmp_path / "m", *flags)
        row, = [row for row in map(json.loads, open(tmp_path / "m")) if row["stage"] == stage]
        assert row["iteration"] == 3 and row["tasks"] == 4 and row["programs"] == len(records)
        assert row["tokens"] == sum(record["tokens"] for record in records)
        mean = sum(record["logprob"] for record in records) / len(records)
        assert row["logprob"] == pytest.approx(mean, abs=1e-3)


def test_lone_surrogates_survive(run, tmp_path, monkeypatch):
    """Half a character in a question, or in what the model wrote, is written as it is."""
    task = TASKS[0] | {"question": "How many \ud83d are left?"}
    real = sampling.generate_all
    monkeypatch.setattr(sampling, "generate_all", lambda *args, **options: {
        key: ("return '\udc00'", *rest) for key, (_, *rest) in real(*args, **options).items()})
    record, = run([task], "--greedy")
    assert record["program"] == "return '\udc00'" and record["question"] == task["question"]


def test_killed_and_continued_gives_the_same_file(tmp_path, task_file, tiny_model):
    """SIGKILL after the first batch; the second start goes on behind it and ends the same."""
    flags = ["--in", str(task_file), "--model", tiny_model, "--max-new-tokens", "30",
             "--batch-size", "5"]
    explore.main([*flags, "--out", str(tmp_path / "whole")])
    out, part = tmp_path / "killed", tmp_path / "killed.part"
    process = subprocess.Popen([sys.executable, "explore.py", *flags, "--out", str(out)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (part.exists() and part.stat().st_size) and process.poll() is None \
            and time.time() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), "too fast to be killed: make the test's work longer"
    kept = part.read_text()
    with open(part, "a") as file:
        file.write('{"id": "t0", "torn')  # a line torn by the kill
    with pytest.raises(SystemExit, match="seed: 0 -> 1"):
        explore.main([*flags, "--out", str(out), "--seed", "1"])
    done = run_stage("explore", *flags, "--out", out)
    assert done.returncode == 0 and "-> " in done.stdout, done.stderr
    assert out.read_text() == (tmp_path / "whole").read_text()
    assert out.read_text().startswith(kept) and not list(tmp_path.glob("*.part*"))


def test_another_adapter_does_not_continue_a_file(run, tmp_path, adapter):
    records = run(TASKS, "--greedy", "--adapter", adapter, "--batch-size", 2)
    settings = {"seed": 0}
    (tmp_path / "out").rename(tmp_path / "out.part")
    (tmp_path / "out.part.settings").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="adapter: None -> "):
        run(TASKS, "--greedy", "--adapter", adapter, "--batch-size", 2)
    assert len(records) == 4


# ---- what people get wrong ------------------------------------------------------------------

def one_line(message, *flags):
    with pytest.raises(SystemExit, match=message) as error:
        explore.main([*map(str, flags)])
    assert error.value.code not in (0, None) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("number, line, message", [
    (17, "{broken", ":17: not JSON"),
    (3, '{"id": "x", "env": "math"}', r':3: no "question" \(envs.py'),
    (2, '{"id": "x", "env": "chess", "question": "?"}', ":2: \"env\" is 'chess' .use one of: math"),
    (2, '{"id": "x", "env": "math", "question": 5}', r':2: "question" is 5 \(it must be a str'),
    (9, '{"id": "t0", "env": "math", "question": "?"}', ':9: id "t0" is there twice'),
    (4, "[1, 2]", ":4: not a JSON object"),
])
def test_a_bad_line_is_named(tmp_path, number, line, message):
    lines = [envs.dump(TASKS[0] | {"id": f"t{i}"}) for i in range(20)]
    lines[number - 1] = line + "\n"
    (tmp_path / "tasks.jsonl").write_text("".join(lines))
    one_line(message, "--in", tmp_path / "tasks.jsonl", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_in_two_files_is_named(tmp_path, task_file):
    (tmp_path / "more").write_text(envs.dump(TASKS[2]))
    one_line('more:1: id "t2" is there twice', "--in", task_file, tmp_path / "more", "--out", "x")


@pytest.mark.parametrize("content, message", [(None, "No such file"), ("", "no records"),
                                              ("\n\n", "no records")])
def test_a_missing_or_empty_file_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tasks").write_text(content)
    one_line(message, "--in", tmp_path / "tasks", "--out", tmp_path / "out")


def test_nothing_of_a_model_or_an_adapter_is_overwritten(tmp_path, task_file):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for flag in ("--model", "--adapter"):
        with pytest.raises(SystemExit, match="would be overwritten"):
            explore.main(["--in", str(task_file), "--out", str(folder / "config.json"), flag,
                          str(folder)])
    assert (folder / "config.json").read_text() == "{}" and os.listdir(folder) == ["config.json"]


def test_the_input_is_not_overwritten(task_file):
    before = task_file.read_text()
    for flag in ("--out", "--metrics"):
        one_line("is an input", "--in", task_file, "--out", "x", flag, task_file)
    assert task_file.read_text() == before


@pytest.mark.parametrize("flags, message", [
    (["--model", "/nowhere/model"], "--model /nowhere/model: there is no such folder"),
    (["--adapter", "/nowhere/adapter"], "no adapter there"),
])
def test_unknown_model_or_adapter_is_one_line(tmp_path, task_file, flags, message):
    one_line(message, "--in", task_file, "--out", tmp_path / "out", *flags)


def test_a_model_that_does_not_fit_is_one_line(tmp_path, task_file, tiny_model, monkeypatch):
    import transformers

    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.00 GiB")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    one_line("it does not fit into .* GB .use a smaller model", "--in", task_file, "--out",
             tmp_path / "out", "--model", tiny_model)


def test_unknown_flags_and_values_are_errors(tmp_path, task_file, capsys):
    for flags in (["--temprature", "1"], ["--top-p", "0"], ["--num-samples", "0"], ["--bits", "8"]):
        with pytest.raises(SystemExit) as error:
            explore.main(["--in", str(task_file), "--out", f"{tmp_path}/out", *flags])
        assert error.value.code == 2 and flags[0] in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, task_file, tiny_model):
    """`ulimit -f 2` lets no file grow beyond 2 KiB: as if the disk were full."""
    flags = (f"--in {task_file} --out {tmp_path}/out --model {tiny_model} --max-new-tokens 30 "
             "--batch-size 4 --num-samples 4")
    command = f"trap '' XFSZ; ulimit -f 2; exec {sys.executable} explore.py {flags}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "free some space" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    explore.main(flags.split())
    assert len(envs.read_jsonl(tmp_path / "out")) == 16
