"""explore.py and refine.py: sampling, log-probabilities, resuming, bad input."""
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

QUESTIONS = ["How many are left?", "Ann has 3 nuts and gets 4. How many nuts has Ann now, if she loses none?", "How many?",
             "Bob had 9 nuts. How many are left when he gives 2 to Cid and 1 to Dot and then finds another one?"]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return explore.load_model(tiny_model, bits=32)


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(envs.dump({"id": f"t{i}", "env": "math", "question": question, "answer": 3})
                            for i, question in enumerate(QUESTIONS)))
    return path


def plain_logprob(model, tokenizer, prompt, ids):
    """Mean log p(token | before) of `ids` after `prompt`, by one ordinary forward pass."""
    model.set_attn_implementation("sdpa")
    before = tokenizer(prompt).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return sum(logits[len(before) + i - 1, token].item() for i, token in enumerate(ids)) / len(ids)


# ---- step 7: r = 1/|a| sum log p(a_i | x, a_<i) ---------------------------------------------------------------------

@pytest.mark.parametrize("slots", [3, 20])  # 3: rows leave and enter; 20: all at once
@pytest.mark.parametrize("prompts", ["few-shot", "zero-shot", "drafts"])  # drafts: the question is run once for several
def test_logprob_equals_a_plain_forward_pass(tiny, monkeypatch, slots, prompts):
    """Warm sampling, so that rows are long and short; the ids come from the last call that turned them into text."""
    model, tokenizer = tiny
    tasks = [{"env": "math", "question": question} for question in QUESTIONS]
    if prompts == "drafts":
        texts = [envs.refine_prompt(task, f"return {draft}") for task in tasks[:2] for draft in (1, 22)]
    else:
        texts = [envs.solve_prompt(task, few_shot=prompts == "few-shot") for task in tasks]
    requests = [(text, [(i, k) for k in range(4)]) for i, text in enumerate(texts)]
    decoded, decode = [], tokenizer.decode
    explore.tokens_with(tokenizer, "`")  # cached before `decode` is watched
    monkeypatch.setattr(tokenizer, "decode", lambda ids: decoded.append(list(ids)) or decode(ids))
    lengths = set()
    results = explore.generate(model, tokenizer, requests, slots=slots, max_new_tokens=40, temperature=1.5, top_p=1.0)
    rows = [(key, logprob, count, decoded[-1]) for key, _, logprob, count in results]
    assert sorted(key for key, *_ in rows) == [(i, k) for i in range(4) for k in range(4)]
    for (i, _), logprob, count, ids in rows:
        if len(ids) < count:
            ids = ids + [tokenizer.eos_token_id]  # the end token is counted, but no text
        assert len(ids) == count
        assert plain_logprob(model, tokenizer, requests[i][0], ids) == pytest.approx(logprob, abs=1e-3)
        lengths.add(count)
    assert len(lengths) > 1  # rows of different lengths, or the test shows little


def test_samples_do_not_depend_on_the_batch(tiny):
    """A row draws from its own stream: alone, with others, or in other slots, it gives the same program."""
    model, tokenizer = tiny
    prompts = [envs.solve_prompt({"env": "math", "question": question}) for question in QUESTIONS]

    def sample(requests, slots):
        return {key: text for key, text, *_ in explore.generate(model, tokenizer, requests, seed=1, slots=slots,
                                                                max_new_tokens=40)}
    together = sample([(prompt, [(i, k) for k in range(3)]) for i, prompt in enumerate(prompts)], 12)
    assert sample([(prompts[1], [(1, 2)])], 5) == {(1, 2): together[1, 2]}
    for slots in (2, 4):  # a prompt's three samples do not fit at once; they fit, but not beside another's
        assert sample([(prompt, [(i, k) for k in range(3)]) for i, prompt in enumerate(prompts)], slots) == together


def test_rows_meet_the_matrix_of_their_group():
    """Three rows in two groups of at most two: row 0 is the first of group 1, rows 1 and 2 are both of group 0."""
    rows, matrices = torch.randn(3, 1, 2, 4), torch.randn(2, 1, 4, 5)
    out = explore.grouped_matmul(rows, matrices, torch.tensor([2, 0, 1]), 2)
    for row, group in enumerate((1, 0, 0)):
        assert torch.allclose(out[row], rows[row] @ matrices[group], atol=1e-5)
    assert torch.allclose(explore.grouped_matmul(rows, matrices[:1], None, 3), rows @ matrices[0], atol=1e-5)


def test_the_nucleus_by_hand():
    """p = (0.5, 0.3, 0.2), top_p = 0.7: the third token is cut; u = 0.6 is 0.48 of the kept 0.8, still the first."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(4, 1)
    tokens, logprobs = explore.pick_tokens(logits, torch.tensor([0.0, 0.6, 0.63, 0.999]), 1.0, 0.7)
    assert tokens.tolist() == [0, 0, 1, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3])  # of the model, not of the nucleus


def test_temperature_sharpens_but_logprob_stays_the_models():
    """p = (0.8, 0.2) at temperature 0.5 is (0.64, 0.04) / 0.68 = (0.94, 0.06): u = 0.93 draws the first, 0.95 not."""
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(2, 1)
    tokens, logprobs = explore.pick_tokens(logits, torch.tensor([0.93, 0.95]), 0.5, 1.0)
    assert tokens.tolist() == [0, 1] and logprobs.exp().tolist() == pytest.approx([0.8, 0.2])


def test_flat_rows_see_the_whole_vocabulary():
    """1,000 equally likely tokens: the first 64 hold 6.4 % of the mass, so the nucleus is found further down."""
    count = 2000
    tokens, _ = explore.pick_tokens(torch.zeros(count, 1000), torch.arange(count) / count, 1.0, 0.9505)
    assert len(set(tokens.tolist())) == 951  # 950 hold 0.95, too little


def test_sampled_frequencies_follow_the_nucleus():
    torch.manual_seed(0)
    logits = torch.randn(1, 200) * 2
    wanted = logits.softmax(-1)[0]
    order = wanted.argsort(descending=True)
    kept = order[:int((wanted[order].cumsum(0) < 0.9).sum()) + 1]
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    tokens, _ = explore.pick_tokens(logits.expand(20_000, -1), uniform, 1.0, 0.9)
    shares = torch.bincount(tokens, minlength=200) / 20_000
    assert set(tokens.tolist()) == set(kept.tolist())
    assert torch.allclose(shares[kept], wanted[kept] / wanted[kept].sum(), atol=1e-4)


@pytest.mark.parametrize("sequences, length", [([[5, 6, 7], [5, 6, 8, 9]], 2), ([[1, 2], [1, 2]], 1), ([[1], [2]], 0)])
def test_common_prefix_leaves_a_token_to_each(sequences, length):
    assert explore.common_prefix(sequences) == length


def test_out_of_memory_halves_the_slots_and_keeps_finished_rows(tiny, monkeypatch, capsys):
    model, tokenizer = tiny
    requests = [(envs.solve_prompt({"env": "math", "question": q}), [(i, k) for k in range(4)])
                for i, q in enumerate(QUESTIONS)]
    real, seen, started = explore.generate, [], []

    def scarce(model, tokenizer, left, slots, **options):  # memory for 4 rows; noticed after 3 rows have finished
        started.append((slots, sum(len(keys) for _, keys in left)))
        for result in real(model, tokenizer, left, slots=slots, **options):
            if slots > 4 and len(seen) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            seen.append(result[0])
            yield result
    monkeypatch.setattr(explore, "generate", scarce)
    results = explore.generate_all(model, tokenizer, requests, slots=16, max_new_tokens=40)
    assert len(results) == 16 and started[0] == (16, 16) and started[-1] == (4, 13)
    assert len(seen) == len(set(seen)) == 16
    assert "going on with 4 rows" in capsys.readouterr().err


# ---- the scripts ------------------------------------------------------------------------------------------------------

def test_explore_then_refine(tmp_path, task_file, tiny_model):
    out, refined = tmp_path / "explored.jsonl", tmp_path / "refined.jsonl"
    done = run_stage("explore", "--in", task_file, "--out", out, "--model", tiny_model, "--num-samples", 3,
                     "--max-new-tokens", 40, "--iteration", 2, "--metrics", tmp_path / "m.jsonl")
    assert done.returncode == 0, done.stderr
    records = envs.read_jsonl(out)
    assert sorted((r["id"], r["candidate"]) for r in records) == [(f"t{i}", k) for i in range(4) for k in range(3)]
    for record in records:
        assert record["source"] == "explore" and record["iteration"] == 2 and record["answer"] == 3
        assert "```" not in record["program"] and record["logprob"] <= 0 and record["tokens"] >= 1
    assert not list(tmp_path.glob("*.part*")) and "-> " in done.stdout

    done = run_stage("refine", "--in", out, "--out", refined, "--model", tiny_model, "--max-new-tokens", 40)
    assert done.returncode == 0, done.stderr
    rewrites = {(r["id"], r["candidate"]): r for r in envs.read_jsonl(refined)}
    for record in records:  # every candidate is rewritten once, whatever its reward
        rewrite = rewrites[record["id"], record["candidate"]]
        assert rewrite["reference"] == record["program"] and rewrite["source"] == "refine"
    assert len(rewrites) == len(records)

    # --rescore: r̃ becomes log p(ã | x), whatever the draft was, so it can be compared with r
    done = run_stage("refine", "--in", out, "--out", tmp_path / "rescored", "--model", tiny_model, "--max-new-tokens", 40,
                     "--rescore", "--bits", 32)
    assert done.returncode == 0, done.stderr
    model, tokenizer = explore.load_model(tiny_model, bits=32)
    for record in envs.read_jsonl(tmp_path / "rescored"):
        ids = tokenizer(envs.completion(record["program"])).input_ids
        assert record["logprob"] == pytest.approx(plain_logprob(model, tokenizer, envs.solve_prompt(record), ids), abs=1e-3)


def test_greedy_is_one_program_per_task_and_repeatable(tmp_path, task_file, tiny_model):
    for name in ("a", "b"):
        done = run_stage("explore", "--in", task_file, "--out", tmp_path / name, "--model", tiny_model, "--greedy",
                         "--max-new-tokens", 40)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(envs.read_jsonl(tmp_path / "a")) == 4


def test_a_share_of_the_samples_keeps_its_examples(tmp_path, tiny_model):
    """few_shot 0.5 of K = 4: samples 0 and 1 are those of --few-shot, 2 and 3 those without examples."""
    task = {"id": "a", "env": "math", "question": "How many are 2 and 3?", "answer": 5}
    programs = {}
    for name, share, flags in (("half", 0.5, ()), ("all", 0, ("--few-shot",)), ("none", 0, ())):
        (tmp_path / name).write_text(envs.dump(task | {"few_shot": share}))
        done = run_stage("explore", "--in", tmp_path / name, "--out", tmp_path / "out", "--model", tiny_model, "--bits", 32,
                         "--num-samples", 4, "--max-new-tokens", 20, *flags)
        assert done.returncode == 0, done.stderr
        programs[name] = [record["program"] for record in envs.read_jsonl(tmp_path / "out", require=("program",))]
    assert programs["half"] == programs["all"][:2] + programs["none"][2:]
    assert programs["all"] != programs["none"]


@pytest.mark.parametrize("stage", ["explore", "refine"])
def test_killed_and_continued_gives_the_same_file(tmp_path, task_file, tiny_model, stage):
    """SIGKILL after the first batch; the second start goes on behind it and ends with the undisturbed file."""
    source = task_file
    if stage == "refine":
        source = tmp_path / "explored.jsonl"
        run_stage("explore", "--in", task_file, "--out", source, "--model", tiny_model, "--max-new-tokens", 30)
    flags = ["--in", str(source), "--model", tiny_model, "--max-new-tokens", "30", "--batch-size", "5"]
    done = run_stage(stage, *flags, "--out", tmp_path / "whole.jsonl")
    assert done.returncode == 0, done.stderr
    out, part = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.part"
    process = subprocess.Popen([sys.executable, f"{stage}.py", *flags, "--out", str(out)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (part.exists() and part.stat().st_size) and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), "too fast to be killed: make the test's work longer"
    kept = part.read_text()
    with open(part, "a") as file:
        file.write('{"id": "t0", "torn')  # a line torn by the kill
    changed = run_stage(stage, *flags, "--out", out, "--seed", 1)
    assert changed.returncode == 1 and "seed: 0 -> 1" in changed.stderr and "Traceback" not in changed.stderr
    done = run_stage(stage, *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text() and out.read_text().startswith(kept)


@pytest.mark.parametrize("number, line, message", [
    (17, "{broken", ":17: not JSON"),
    (3, '{"id": "x", "env": "math"}', ':3: no "question" (envs.py'),
    (2, '{"id": "x", "env": "chess", "question": "?"}', ":2: \"env\" is 'chess' (use one of: math"),
    (2, '{"id": "x", "env": "math", "question": 5}', ':2: "question" is 5 (it must be a string)'),
    (9, '{"id": "t0", "env": "math", "question": "?"}', 'id "t0" is there twice'),
    (4, "[1, 2]", ":4: not a JSON object"),
])
def test_a_bad_line_is_named(tmp_path, number, line, message):
    lines = [envs.dump({"id": f"t{i}", "env": "math", "question": "?", "answer": 3}) for i in range(20)]
    lines[number - 1] = line + "\n"
    (tmp_path / "tasks.jsonl").write_text("".join(lines))
    done = run_stage("explore", "--in", tmp_path / "tasks.jsonl", "--out", tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content, message", [(None, "No such file"), ("", "no records"), ("\n\n", "no records")])
def test_a_missing_or_empty_file_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tasks.jsonl").write_text(content)
    done = run_stage("explore", "--in", tmp_path / "tasks.jsonl", "--out", tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("flags, message", [
    (["--model", "/nowhere/model"], "cannot load /nowhere/model"),
    (["--adapter", "/nowhere/adapter"], "no adapter there"),
])
def test_unknown_model_or_adapter_is_one_line(tmp_path, task_file, flags, message):
    done = run_stage("explore", "--in", task_file, "--out", tmp_path / "out", *flags)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_unknown_flags_and_values_are_errors(tmp_path, task_file):
    for flags in (["--temprature", 1], ["--top-p", 0], ["--num-samples", 0]):
        assert run_stage("explore", "--in", task_file, "--out", tmp_path / "out", *flags).returncode == 2


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, task_file, tiny_model):
    """`ulimit -f 2` lets no file grow beyond 2 KiB: as if the disk were full."""
    command = (f"trap '' XFSZ; ulimit -f 2; exec {sys.executable} explore.py --in {task_file} --out {tmp_path}/out "
               f"--model {tiny_model} --max-new-tokens 30 --batch-size 4 --num-samples 4")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "free some space" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = run_stage("explore", "--in", task_file, "--out", f"{tmp_path}/out", "--model", tiny_model,
                     "--max-new-tokens", 30, "--batch-size", 4, "--num-samples", 4)
    assert done.returncode == 0 and len(envs.read_jsonl(tmp_path / "out")) == 16
