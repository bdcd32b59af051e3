"""refine.py: every candidate is rewritten once, from its own question and draft."""
import json

import pytest
import torch

import envs
import explore
import refine
from nanoenvisions import model

DRAFTS = [f"def solution():\n    return {n}" for n in (3, 4, 5, 3)]
CANDIDATES = [{"id": task, "env": "math", "question": question, "answer": 3, "iteration": 1,
               "candidate": k, "source": "explore", "program": draft, "logprob": -1.0, "tokens": 9}
              for task, question in (("t0", "How many?"), ("t1", "A had some nuts. How many?"))
              for k, draft in enumerate(DRAFTS)]


@pytest.fixture
def run(tmp_path, tiny_model):
    """run(candidates, flags ...) -> rewrites, in the order of (id, iteration, candidate)"""
    def run(candidates, *flags):
        (tmp_path / "in").write_text("".join(map(envs.dump, candidates)))
        (tmp_path / "out").unlink(missing_ok=True)
        refine.main(["--in", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--model", tiny_model,
                     "--max-new-tokens", "40", "--bits", "32", *map(str, flags)])
        records = [json.loads(line) for line in open(tmp_path / "out")]
        return sorted(records, key=lambda r: (r["id"], r["iteration"], r["candidate"]))
    return run


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return model.load_model(tiny_model, bits=32)


def wanted(tiny, candidates, few_shot=False, seed=0, temperature=0.7):
    """The rewrites by the plain sampler, from prompts that are put together here."""
    texts = []
    for record in candidates:
        prompt = envs.refine_prompt(record, record["program"], few_shot)
        assert prompt.count(record["question"]) and prompt.count(record["program"])
        key = ("refine", record["id"], record["iteration"], record["candidate"], 0)
        (_, text, logprob, tokens), = explore.generate_plain(
            *tiny, [(prompt, [key])], seed, 40, temperature, 0.95)
        texts.append((envs.parse_program(text), pytest.approx(logprob, abs=1e-4), tokens))
    return texts


def drawn(records):
    return [(record["program"], record["logprob"], record["tokens"]) for record in records]


@pytest.mark.parametrize("flags, options", [
    ((), {}), (("--few-shot",), {"few_shot": True}), (("--seed", 3), {"seed": 3}),
    (("--temperature", 2), {"temperature": 2.0})])
def test_each_rewrite_is_drawn_from_its_question_and_its_draft(run, tiny, flags, options):
    assert drawn(run(CANDIDATES, *flags)) == wanted(tiny, CANDIDATES, **options)


def test_question_draft_and_examples_matter(run, tiny):
    """Or the test above shows little: greedy, every other prompt gives other log-probabilities."""
    seen = []
    for candidates, flags in ((CANDIDATES, ()), (CANDIDATES, ("--few-shot",))):
        seen += [record["logprob"] for record in run(candidates, "--temperature", 0, *flags)]
    # t0, t1 x drafts 3, 4, 5 (the fourth is the first) x few-shot or not
    assert len(set(seen)) == 12 and seen[0] == seen[3]


def test_the_record_keeps_its_draft(run):
    for record, rewrite in zip(CANDIDATES, run(CANDIDATES)):
        assert rewrite["reference"] == record["program"] and rewrite["source"] == "refine"
        for field in ("id", "env", "question", "answer", "iteration", "candidate"):
            assert rewrite[field] == record[field]


def test_equal_drafts_have_their_own_random_numbers(run):
    """Candidates 0 and 3 are the same draft: one prompt, but two rewrites."""
    many = [CANDIDATES[0] | {"candidate": k} for k in range(8)]
    rewrites = run(many, "--temperature", 1.5)
    assert len({record["program"] for record in rewrites}) > 2
    other = run([record | {"iteration": 2} for record in many], "--temperature", 1.5)
    assert [r["program"] for r in rewrites] != [r["program"] for r in other]


def test_candidates_of_several_iterations_are_refined_and_doubles_refused(run):
    both = [record | {"iteration": t} for t in (0, 1) for record in CANDIDATES]
    assert len(run(both)) == 16
    with pytest.raises(SystemExit, match=':9: id "t0", iteration 1, candidate 0 is there twice'):
        run(CANDIDATES + CANDIDATES[:1])


def test_rescore_measures_the_rewrite_given_the_question_alone(run, tiny):
    """r̃ = mean log p(ã | x), whatever the draft was: comparable with r."""
    language_model, tokenizer = tiny
    plain, rescored = run(CANDIDATES), run(CANDIDATES, "--rescore")
    assert [r["program"] for r in plain] == [r["program"] for r in rescored]
    language_model.set_attn_implementation("sdpa")
    for record in rescored:
        x = tokenizer(f"Question: {record['question']}\n```python\n").input_ids
        a = tokenizer(record["program"] + "\n```").input_ids
        with torch.inference_mode():
            logits = language_model(torch.tensor([x + a])).logits[0, len(x) - 1:-1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(a)[:, None])
        assert record["logprob"] == pytest.approx(logprobs.mean().item(), abs=1e-4)
        assert record["tokens"] == len(a)
    assert [r["logprob"] for r in plain] != [r["logprob"] for r in rescored]


def test_explore_rescores_what_had_examples(tmp_path, tiny_model):
    """r = log p(a | x) with the examples gone; without the flag it is that after them."""
    (tmp_path / "in").write_text("".join(envs.dump(record) for record in CANDIDATES[::4]))
    rs = {}
    for flags in ((), ("--rescore",)):
        out = tmp_path / f"out{len(flags)}"
        explore.main(["--in", f"{tmp_path}/in", "--out", str(out), "--model", tiny_model, "--bits",
                      "32", "--few-shot", "--num-samples", "3", *flags])
        rs[flags] = envs.read_jsonl(out)
    plain, rescored = rs.values()
    assert [r["program"] for r in plain] == [r["program"] for r in rescored]
    assert all(abs(a["logprob"] - b["logprob"]) > 1e-3 for a, b in zip(plain, rescored))


def test_limit_and_surrogates(run):
    strange = [CANDIDATES[0] | {"program": "return '\ud800'"}, *CANDIDATES[1:]]
    records = run(strange, "--limit", 2, "--rescore")
    assert len(records) == 2 and records[0]["reference"] == "return '\ud800'"


@pytest.mark.parametrize("field", ["program", "candidate", "iteration", "question"])
def test_a_candidate_without_a_field_is_named(run, field):
    lame = {key: value for key, value in CANDIDATES[1].items() if key != field}
    with pytest.raises(SystemExit, match=f':2: no "{field}"') as error:
        run([CANDIDATES[0], lame])
    assert len(str(error.value).splitlines()) == 1


def test_killed_between_batches_it_continues(run, tmp_path, tiny_model):
    """A .part file of one batch, as a kill leaves it, becomes the same whole file."""
    run(CANDIDATES, "--batch-size", 3, "--metrics", tmp_path / "m")
    whole = (tmp_path / "out").read_text()
    real, calls = envs.Output.write, []

    def stop(out, *records):
        calls.append(records)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(out, *records)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(envs.Output, "write", stop)
        run(CANDIDATES, "--batch-size", 3, "--metrics", tmp_path / "m")
    assert not (tmp_path / "out").exists() and len(calls[0]) == 3
    run(CANDIDATES, "--batch-size", 3, "--metrics", tmp_path / "m")
    assert (tmp_path / "out").read_text() == whole
    row, = map(json.loads, open(tmp_path / "m"))
    assert row["stage"] == "refine" and row["programs"] == 8 and row["iteration"] == 1
