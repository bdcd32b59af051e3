"""nanoenvisions/sampler.py: the fast sampler gives what the plain one of explore.py gives."""
import copy
import itertools

import pytest
import torch

import envs
import explore
from nanoenvisions import attention, graphs, memory, model, sampler

QUESTIONS = ["How many are left?", "How many?",
             "Ann has 3 nuts and gets 4. How many nuts has Ann now, if she loses none?",
             "Bob had 9 nuts. How many are left when he gives 2 to Cid and then finds another one?"]
TASKS = [{"env": "math", "question": question} for question in QUESTIONS]
PROMPTS = {  # what they share: the examples, nothing but "Question: ", a question for two drafts
    "few-shot": [envs.solve_prompt(task, few_shot=True) for task in TASKS],
    "zero-shot": [envs.solve_prompt(task) for task in TASKS],
    "drafts": [envs.refine_prompt(task, f"return {n}") for task in TASKS[:2] for n in (1, 22)]}
WARM = dict(seed=3, max_new_tokens=40, temperature=1.5, top_p=0.95)  # short rows and long ones


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return model.load_model(tiny_model, bits=32)


def fast(tiny, requests, slots=20, **options):
    """{key: (text, logprob, tokens)} for requests [(prompt, keys)]"""
    requests = [(tiny[1](prompt).input_ids, keys) for prompt, keys in requests]
    return {key: tuple(result) for key, *result
            in sampler.generate(*tiny, requests, slots, **WARM | options)}


def plain(tiny, requests, **options):
    return {key: tuple(result) for key, *result
            in explore.generate_plain(*tiny, requests, **WARM | options)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, (text, logprob, tokens) in one.items():
        assert other[key] == (text, pytest.approx(logprob, abs=1e-4), tokens), key


# ---- formulas 1 and 7 -----------------------------------------------------------------------

@pytest.mark.parametrize("slots", [1, 3, 20])  # 3: rows leave and enter; 20: all at once
@pytest.mark.parametrize("kind", PROMPTS)
def test_it_gives_the_programs_and_logprobs_of_the_plain_sampler(tiny, kind, slots):
    requests = [(prompt, [(i, k) for k in range(4)]) for i, prompt in enumerate(PROMPTS[kind])]
    wanted = plain(tiny, requests)
    assert len({tokens for *_, tokens in wanted.values()}) > 3  # or the test shows little
    assert_same(fast(tiny, requests, slots), wanted)


def test_equal_prompts_and_prompts_of_one_token(tiny):
    for prompts in (["Q", "Q"], ["Q"], ["Q", "A"], ["Question: ", "Question: x"]):
        requests = [(prompt, [(i, k) for k in range(3)]) for i, prompt in enumerate(prompts)]
        assert_same(fast(tiny, requests, slots=4), plain(tiny, requests))


@pytest.mark.parametrize("kind", PROMPTS)
def test_shapes_as_a_gpu_has_them_change_nothing(tiny, monkeypatch, kind):
    """There they are rounded up, so that few steps are recorded: rows and places of nobody are added."""
    shapes, replay = [], graphs.Replay.__call__
    monkeypatch.setattr(sampler, "shapes_are_fixed", lambda device: True)
    monkeypatch.setattr(graphs, "FEWEST", 4)
    monkeypatch.setattr(graphs.Replay, "__call__", lambda self, function, inputs, shape: (
        shapes.append(shape), replay(self, function, inputs, shape))[1])
    requests = [(prompt, [(i, k) for k in range(5)]) for i, prompt in enumerate(PROMPTS[kind])]
    wanted = plain(tiny, requests)
    for slots in (3, 7, 20):
        shapes.clear()
        assert_same(fast(tiny, requests, slots), wanted)
        assert {rows for rows, *_ in shapes} <= {4, 8, 16, slots}
        assert {tokens for _, tokens, *_ in shapes} <= {4, 8, 16, 32, WARM["max_new_tokens"]}
        assert len({shape[2:] for shape in shapes}) <= 2  # of prompts


def test_what_is_recorded_is_replayed_with_new_numbers():
    """On a CPU the function itself runs each time; the result is the same."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    replay, called = graphs.Replay(device), []

    def function(inputs, shape):
        called.append(shape)
        return inputs.sum(0)[:shape] * 2
    for number in range(5):
        for shape in (1, 2):
            out = replay(function, torch.full((3, 2), number, device=device), shape)
            assert out.tolist() == [6 * number] * shape
    assert len(called) == (4 if device.type == "cuda" else 10)  # the first time, and to record


def test_the_plain_logprob_is_the_mean_of_one_forward_pass(tiny, monkeypatch):
    """r = 1/|a| sum log p(a_i | x, a_<i), of the model: not at 1.5, not of the nucleus."""
    language_model, tokenizer = tiny
    drawn, draw = [], explore.draw
    monkeypatch.setattr(explore, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    (_, logprob, tokens), = plain(tiny, [(PROMPTS["zero-shot"][2], ["key"])]).values()
    x = tokenizer(PROMPTS["zero-shot"][2]).input_ids
    assert tokens == len(drawn) > 4
    logits = language_model(torch.tensor([x + drawn])).logits[0, len(x) - 1:-1].log_softmax(-1)
    mean = logits.gather(1, torch.tensor(drawn)[:, None]).mean().item()
    assert logprob == pytest.approx(mean, abs=1e-4)


def test_the_plain_draw_by_hand():
    """p = (0.3, 0.5, 0.2), top_p = 0.7 keeps two: 0.6 lies at 0.48 of their 0.8, 0.7 at 0.56."""
    logprobs = torch.tensor([0.3, 0.5, 0.2]).log()
    assert [explore.draw(logprobs, u, 1.0, 0.7) for u in (0, 0.6, 0.7, 0.999)] == [1, 1, 0, 0]
    assert [explore.draw(logprobs, u, 0, 0.7) for u in (0, 0.999)] == [1, 1]
    # at temperature 0.5: (0.09, 0.25, 0.04) / 0.38 = (0.24, 0.66, 0.11)
    assert [explore.draw(logprobs, u, 0.5, 1.0) for u in (0.6, 0.7, 0.85, 0.95)] == [1, 0, 0, 2]


def test_a_row_is_the_same_whatever_else_is_in_the_batch(tiny):
    requests = [(prompt, [(i, k) for k in range(3)])
                for i, prompt in enumerate(PROMPTS["zero-shot"])]
    together = fast(tiny, requests, 12)
    assert_same(fast(tiny, [(PROMPTS["zero-shot"][1], [(1, 2)])]), {(1, 2): together[1, 2]})
    for slots in (2, 4):  # a prompt's rows do not fit at once; they do, but not beside another's
        assert_same(fast(tiny, requests, slots), together)


def test_seed_and_every_part_of_a_key_make_another_stream():
    key = ("explore", "task", 1, 0, 2)
    others = [("refine", "task", 1, 0, 2), ("explore", "tusk", 1, 0, 2),
              ("explore", "task", 2, 0, 2), ("explore", "task", 1, 3, 2),
              ("explore", "task", 1, 0, 4)]
    streams = [sampler.random_stream(0, key, 4), sampler.random_stream(1, key, 4),
               *(sampler.random_stream(0, other, 4) for other in others)]
    for one, two in itertools.combinations(streams, 2):
        assert not (one == two).any()
    assert (sampler.random_stream(0, key, 4) == streams[0]).all()
    assert (sampler.random_stream(0, key, 9)[:4] == streams[0]).all()  # --max-new-tokens only cuts
    assert all(((0 <= stream) & (stream < 1)).all() for stream in streams)


@pytest.mark.parametrize("options", [{"seed": 4}, {"temperature": 0.3}, {"top_p": 0.3}])
def test_seed_temperature_and_top_p_matter(tiny, options):
    requests = [(prompt, [(i, k) for k in range(4)])
                for i, prompt in enumerate(PROMPTS["zero-shot"])]
    normal, changed = fast(tiny, requests), fast(tiny, requests, **options)
    assert sum(normal[key][0] != changed[key][0] for key in normal) >= 4
    assert_same(changed, plain(tiny, requests, **options))


def test_temperature_0_and_a_nucleus_of_one_take_the_likeliest_token(tiny):
    language_model, tokenizer = tiny
    prompt = PROMPTS["zero-shot"][0]
    x = tokenizer(prompt, return_tensors="pt").input_ids
    language_model.set_attn_implementation("sdpa")
    ids = language_model.generate(x, do_sample=False, max_new_tokens=40)[0, x.shape[1]:]
    wanted = tokenizer.decode(ids).partition("\n```")[0]
    for options in ({"temperature": 0}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        texts = {text for text, *_ in fast(tiny, [(prompt, range(5))], **options).values()}
        assert texts == {wanted}, options


# ---- when a row ends ------------------------------------------------------------------------

def test_a_row_ends_with_any_end_token_of_model_or_tokenizer(tiny, monkeypatch):
    """The token is counted, as a decision of the model, but is no text; so with the fence."""
    language_model, tokenizer = tiny
    prompt = PROMPTS["zero-shot"][0]
    before = fast(tiny, [(prompt, ["key"])], temperature=0)["key"]
    assert before[0].startswith("def solution():\n    return ") and before[2] == 5
    digit = tokenizer(before[0][-1]).input_ids[0]
    for ends, end in ((digit, "<end>"), ([0, digit], "<end>"), (0, before[0][-1])):
        monkeypatch.setattr(language_model.generation_config, "eos_token_id", ends)
        other = copy.deepcopy(tokenizer)
        other.eos_token = end
        for sample in (fast, plain):
            text, _, tokens = sample((language_model, other), [(prompt, ["key"])],
                                     temperature=0)["key"]
            assert (text, tokens) == ("def solution():\n    return ", 3)


def test_a_row_ends_with_the_fence_or_its_length(tiny):
    requests = [(prompt, [(i, k) for k in range(8)])
                for i, prompt in enumerate(PROMPTS["zero-shot"])]
    for text, _, tokens in fast(tiny, requests, max_new_tokens=6).values():
        assert "\n```" not in text and tokens <= 6
    lengths = [tokens for *_, tokens in fast(tiny, requests, max_new_tokens=6).values()]
    assert max(lengths) == 6 > min(lengths)


def test_a_fence_within_a_line_is_program(tiny):
    ending = sampler.Ending(*tiny, max_new_tokens=99)
    tokenizer = tiny[1]
    for text, program in (("x = '`'", None), ("x = '```", None), ("x\n``", None), ("\n```", ""),
                          ("x = '```'\n```", "x = '```'")):
        assert ending.text(tokenizer("\n").input_ids[-1], tokenizer(text).input_ids) == program


# ---- one token ------------------------------------------------------------------------------

def test_more_than_a_model_can_read_is_refused(tiny, monkeypatch):
    """Learned positions end in an IndexError, rotary ones in noise."""
    requests = [(PROMPTS["zero-shot"][0], [0]), (PROMPTS["zero-shot"][1], [1])]
    longest = max(len(tiny[1](prompt).input_ids) for prompt, _ in requests)
    monkeypatch.setattr(tiny[0].config, "max_position_embeddings", longest + 10)
    assert len(sampler.generate_all(*tiny, requests, 4, **WARM | {"max_new_tokens": 10})) == 2
    with pytest.raises(SystemExit, match=f"a prompt of {longest} tokens and 11 new ones are more than"):
        sampler.generate_all(*tiny, requests, 4, **WARM | {"max_new_tokens": 11})


def test_the_nucleus_by_hand():
    """p = (0.5, 0.3, 0.2), top_p = 0.7: the third is cut; u = 0.6 is 0.48 of 0.8: the first."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(4, 1)
    tokens, logprobs = sampler.pick_tokens(logits, torch.tensor([0.0, 0.6, 0.63, 0.999]), 1.0, 0.7)
    assert tokens.tolist() == [0, 0, 1, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3])  # not of the nucleus


def test_temperature_sharpens_but_logprob_stays_the_models():
    """p = (0.8, 0.2) at temperature 0.5: (0.64, 0.04) / 0.68 = (0.94, 0.06); 0.93, 0.95 differ."""
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(2, 1)
    tokens, logprobs = sampler.pick_tokens(logits, torch.tensor([0.93, 0.95]), 0.5, 1.0)
    assert tokens.tolist() == [0, 1] and logprobs.exp().tolist() == pytest.approx([0.8, 0.2])


def test_flat_rows_see_the_whole_vocabulary():
    """1,000 equally likely tokens: the first 64 hold 6.4 %, so the nucleus ends further down."""
    count = 2000
    uniform = torch.arange(count) / count
    tokens, _ = sampler.pick_tokens(torch.zeros(count, 1000), uniform, 1, 0.9505)
    assert len(set(tokens.tolist())) == 951  # 950 hold 0.95, too little


def test_sampled_frequencies_follow_the_nucleus():
    torch.manual_seed(0)
    logits = torch.randn(1, 200) * 2
    wanted = logits.softmax(-1)[0]
    order = wanted.argsort(descending=True)
    kept = order[:int((wanted[order].cumsum(0) < 0.9).sum()) + 1]
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    tokens, _ = sampler.pick_tokens(logits.expand(20_000, -1), uniform, 1.0, 0.9)
    shares = torch.bincount(tokens, minlength=200) / 20_000
    assert set(tokens.tolist()) == set(kept.tolist())
    assert torch.allclose(shares[kept], wanted[kept] / wanted[kept].sum(), atol=1e-4)


# ---- what rows share ------------------------------------------------------------------------

@pytest.mark.parametrize("sequences, length", [
    ([[5, 6, 7], [5, 6, 8, 9]], 2), ([[1, 2], [1, 2]], 1), ([[1], [2]], 0)])
def test_common_prefix_leaves_a_token_to_each(sequences, length):
    assert sampler.common_prefix(sequences) == length


def test_drafts_of_a_question_share_it():
    group, = sampler.share_roots([[1, 2, 3, 4, 9], [1, 2, 3, 5, 6, 9]])
    assert group == {"root": [1, 2, 3], "branches": [[4], [5, 6]], "order": [0, 1]}
    assert len(sampler.share_roots([[1, 2, 3, 4, 9], [8, 2, 3, 5, 6, 9]])) == 2


def test_rows_meet_the_matrix_of_their_group():
    """Three rows, two groups of at most two: row 0 is the first of group 1, the others of 0."""
    rows, matrices = torch.randn(3, 1, 2, 4), torch.randn(2, 1, 4, 5)
    out = attention.grouped_matmul(rows, matrices, torch.tensor([2, 0, 1]), 2)
    for row, group in enumerate((1, 0, 0)):
        assert torch.allclose(out[row], rows[row] @ matrices[group], atol=1e-5)
    out = attention.grouped_matmul(rows, matrices[:1], None, 3)
    assert torch.allclose(out, rows @ matrices[0], atol=1e-5)


# ---- memory ---------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_out_of_memory_halves_the_slots_and_keeps_finished_rows(tiny, monkeypatch, capsys, error):
    requests = [(prompt, [(i, k) for k in range(4)])
                for i, prompt in enumerate(PROMPTS["zero-shot"])]
    real, seen, started = sampler.generate, [], []

    def scarce(model, tokenizer, left, slots, **options):  # memory for 4 rows; noticed after 3
        started.append((slots, sum(len(keys) for _, keys in left)))
        for result in real(model, tokenizer, left, slots, **options):
            if slots > 4 and len(seen) == 3:
                raise error
            seen.append(result[0])
            yield result
    monkeypatch.setattr(sampler, "generate", scarce)
    results = sampler.generate_all(*tiny, requests, slots=256, **WARM)
    assert started == [(16, 16), (8, 13), (4, 13)]
    assert len(seen) == len(set(seen)) == 16
    assert "going on with 4 rows" in capsys.readouterr().err
    assert_same({key: tuple(result) for key, result in results.items()}, plain(tiny, requests))


@pytest.mark.parametrize("error, kind, message", [
    (RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError, "illegal"),
    (torch.OutOfMemoryError("CUDA out of memory"), SystemExit, "out of memory with one row"),
])
def test_other_faults_are_not_taken_for_it_and_it_ends(tiny, monkeypatch, error, kind, message):
    def broken(*args, **options):
        raise error
        yield
    monkeypatch.setattr(sampler, "generate", broken)
    with pytest.raises(kind, match=message):
        sampler.generate_all(*tiny, [("Q", range(3))], slots=4)


def test_how_many_rows_run_depends_on_the_input_and_all_memory(tiny, monkeypatch):
    """What a killed run allocated is free or not when it goes on: the rows must be the same."""
    started = []
    real = sampler.generate
    monkeypatch.setattr(sampler, "generate", lambda model, tokenizer, left, slots, **options: (
        started.append(slots), real(model, tokenizer, left, slots, **options))[1])
    total = 250_000  # 0.4 of it is for sampling
    monkeypatch.setattr(memory, "total_memory", lambda device: total)
    requests = [(PROMPTS["zero-shot"][0], range(40))]
    kept = [torch.zeros(1_000_000)]  # something else that takes memory
    sampler.generate_all(*tiny, requests, slots=30, max_new_tokens=8)
    kept.clear()
    sampler.generate_all(*tiny, requests, slots=30, max_new_tokens=8)
    assert started[0] == started[1] and 1 < started[0] < 30


def test_few_places_for_prompts_are_used_again(tiny):
    """16 rows of 8 prompts in 2 slots: there are 2 places for prompts, each used several times."""
    prompts = PROMPTS["zero-shot"] + PROMPTS["drafts"]
    requests = [(prompt, [(i, k) for k in range(2)]) for i, prompt in enumerate(prompts)]
    assert_same(fast(tiny, requests, slots=2), plain(tiny, requests))
    assert_same(fast(tiny, requests, slots=5), plain(tiny, requests))
