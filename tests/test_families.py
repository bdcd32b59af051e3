"""nanoenvisions/families.py: each family gives its own logits, or is refused in one line.

The models are made on the spot: two layers with random weights, large ones, so that a key that is
seen wrongly shows in nats.
"""
import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM

import explore
import train
from nanoenvisions import adapters, families, folders, model, sampler, sampling
from nanoenvisions.attention import prefix_attention

COMMON = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
              num_attention_heads=4, max_position_embeddings=512, eos_token_id=0, pad_token_id=0,
              bos_token_id=None, initializer_range=0.3)
GROUPED = dict(num_key_value_heads=2)
BOTH = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
MIXTURE = dict(num_experts_per_tok=2, moe_intermediate_size=32, num_experts=4)
RIGHT = {  # the prompts below are longer than the windows
    "Llama": GROUPED, "Qwen2": GROUPED, "Qwen3": GROUPED | dict(head_dim=16), "Phi": GROUPED,
    "Mistral": GROUPED | dict(sliding_window=8), "Phi3": GROUPED | dict(sliding_window=8),
    "Starcoder2": GROUPED | dict(sliding_window=8), "Gemma": GROUPED | dict(head_dim=16),
    "Gemma2": BOTH | GROUPED | dict(head_dim=16, attn_logit_softcapping=5.0,
                                    final_logit_softcapping=3.0),
    "Gemma3Text": BOTH | GROUPED | dict(head_dim=16), "Olmo2": GROUPED, "Olmo3": BOTH | GROUPED,
    "Granite": GROUPED | dict(logits_scaling=8.0, attention_multiplier=0.1),
    "Cohere": GROUPED | dict(logit_scale=0.0625), "Cohere2": BOTH | GROUPED | dict(logit_scale=0.2),
    "StableLm": GROUPED, "SmolLM3": GROUPED, "Exaone4": BOTH | GROUPED, "OPT": dict(ffn_dim=96),
    "GPT2": dict(n_embd=64, n_head=4, n_layer=2), "GPTNeoX": {},
    "Mixtral": GROUPED | dict(num_local_experts=4, num_experts_per_tok=2),
    "Qwen3Moe": GROUPED | MIXTURE | dict(head_dim=16),
    "Qwen2Moe": GROUPED | MIXTURE | dict(shared_expert_intermediate_size=32)}
REFUSED = {  # before loading, by their configuration
    "Qwen3Next": (MIXTURE, "kind linear_attention"), "Mamba": ({}, "kind linear_attention"),
    "Jamba": ({}, "kind linear_attention"), "Llama4Text": ({}, "kind chunked_attention"),
    "Qwen3_5Text": ({}, "kind linear_attention"), "Gemma3": ({}, "images or sound")}
CAUGHT = {  # by the check
    "GptOss": (BOTH | GROUPED | dict(head_dim=16, num_local_experts=4), "sinks"),
    "Falcon": ({}, "cannot be replaced"), "GPTNeo": (
        dict(num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]), "replaced"),
    "Mpt": (dict(d_model=64, n_heads=4, n_layers=2), "cannot be replaced"),
    "Bloom": (dict(n_head=4, n_layer=2), "cannot be run faithfully")}
PROMPTS = ["Q: abc def ghi jkl\nA: 1", "Q: abc def ghi jkl mno\nA: 2", "Q: abc def zzz yy\nA: 3"]


class Letters:
    """A tokenizer: a token per letter."""
    eos_token_id = 0

    def __call__(self, texts):
        ids = [[ord(letter) % 128 for letter in text] for text in texts]
        return transformers.BatchEncoding({"input_ids": ids})

    def decode(self, ids):
        return "".join(map(chr, ids))

    def batch_decode(self, rows):
        return list(map(self.decode, rows))

    def __len__(self):
        return 128


def make(family, settings):
    """(configuration, model), its weights the same every time"""
    transformers.AttentionInterface.register("prefix_attention", prefix_attention)
    model.hush()
    config = getattr(transformers, f"{family}Config")(**COMMON | settings)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config).eval().float()
    for weight in made.parameters():
        if weight.dim() >= 2 and weight.std() < 0.1:
            torch.nn.init.normal_(weight, std=0.15)
    return config, made


def plain_logits(made, ids):
    made.set_attn_implementation(families.own_attention(made))
    return made(torch.tensor([ids]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", RIGHT)
def test_samples_and_loss_are_those_of_a_plain_forward_pass(family):
    config, made = make(family, RIGHT[family])
    assert families.complaint(config) is None
    tokenizer = Letters()
    families.self_check(made, tokenizer, sampler.sampled_logits)
    families.self_check(made, tokenizer, model.packed_logits)
    with torch.inference_mode():
        ids = tokenizer(PROMPTS).input_ids
        requests = [(x, [(i, k) for k in range(3)]) for i, x in enumerate(ids)]
        drawn = {}  # the ids of each row, to be looked at again
        drop = sampler.Batch.drop
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler.Batch, "drop", lambda batch, index: (
                drawn.update({batch.rows[index].key: batch.rows[index].ids}), drop(batch, index)))
            rows = list(sampler.generate(made, tokenizer, requests, slots=4, seed=1,
                                         max_new_tokens=20, temperature=1.0, top_p=0.95))
        assert len(rows) == 9
        for (i, k), _, logprob, count in rows:
            a = drawn[i, k]
            logprobs = plain_logits(made, ids[i] + a)[len(ids[i]) - 1:-1].log_softmax(-1)
            true = logprobs.gather(1, torch.tensor(a)[:, None]).mean().item()
            assert logprob == pytest.approx(true, abs=1e-4) and count == len(a)

        # training: a prompt with two completions in a bin, each against the plain loss
        sequence = {"root": ids[0], "branches": [ids[1][:9], ids[2][:12]]}
        batch = model.collate([[{"root": [5, 6], "branches": [[7]]}, sequence]], "cpu")
        for attention in ("prefix_attention", families.own_attention(made)):
            made.set_attn_implementation(attention)
            logits = families.vocabulary_logits(made, model.hidden_states(made, batch)[0])
            for completion, (*_, begin, end) in zip(sequence["branches"], batch["spans"][1:]):
                true = plain_logits(made, ids[0] + completion)[len(ids[0]):-1]
                ours, target = logits[begin:end - 1], torch.tensor(completion[1:])
                assert F.cross_entropy(ours, target).item() == pytest.approx(
                    F.cross_entropy(true, target).item(), abs=1e-4)


@pytest.mark.parametrize("family", RIGHT)
def test_what_was_learned_is_loaded(family, tmp_path):
    """train.py's adapter passes the check of folders, and taken into the weights it is what PEFT makes of it."""
    config, made = make(family, RIGHT[family])
    made.save_pretrained(tmp_path / "base")
    policy = train.add_lora(made, train.parse_args(["--in", "-", "--out", "-", "--rank", "4"]))
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapters.claim(tmp_path / "adapter")
    adapters.save(policy, str(tmp_path / "base"), tmp_path / "adapter")
    adapters.put_in_place(tmp_path / "adapter")
    folders.check_folders(str(tmp_path / "base"), str(tmp_path / "adapter"))
    ids = torch.tensor(Letters()(PROMPTS[:1]).input_ids)
    with torch.inference_mode():
        wanted = policy(ids, use_cache=False).logits
        with policy.disable_adapter():
            assert (policy(ids, use_cache=False).logits - wanted).abs().max() > 0.1
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        merged = model.add_adapter(plain, str(tmp_path / "adapter"), merged=True)
        assert torch.allclose(merged(ids, use_cache=False).logits, wanted, atol=2e-4)


@pytest.mark.parametrize("family", REFUSED)
def test_what_samples_cannot_share_is_refused_before_loading(family, tmp_path, capsys):
    settings, reason = REFUSED[family]
    own = {} if family == "Gemma3" else COMMON | settings
    getattr(transformers, f"{family}Config")(**own).save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match=reason) as error:
        model.load_model(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1 and "cannot use" in str(error.value)


@pytest.mark.parametrize("family", CAUGHT)
@pytest.mark.parametrize("way", [sampler.sampled_logits, model.packed_logits])
def test_what_runs_wrongly_is_caught_by_the_check(family, way):
    if family == "GptOss" and way is model.packed_logits:
        pytest.skip("its own attention does it")
    settings, reason = CAUGHT[family]
    with pytest.raises(SystemExit, match=reason) as error:
        families.self_check(make(family, settings)[1], Letters(), way)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("fault", [
    lambda logits: logits / 8, lambda logits: logits.flip(0), lambda logits: logits * float("nan")])
def test_the_check_notices_wrong_logits_and_leaves_the_model_as_it_was(fault):
    _, made = make("Mistral", RIGHT["Mistral"])
    made.set_attn_implementation("prefix_attention")

    def faulty(made, prompts):
        return [(ids, fault(logits)) for ids, logits in model.packed_logits(made, prompts)]
    families.self_check(made, Letters(), model.packed_logits)
    with pytest.raises(SystemExit, match="its logits come out"):
        families.self_check(made, Letters(), faulty)
    assert made.config.sliding_window == 8
    assert made.config._attn_implementation == "prefix_attention"


def test_explore_checks_its_model(tmp_path, tiny_model, monkeypatch):
    """A head that is scaled in secret: whatever an unknown family does behind our back."""
    (tmp_path / "tasks").write_text('{"id": "a", "env": "math", "question": "?", "answer": 1}\n')
    real = sampling.load_model

    def scaled(*args, **options):
        made, tokenizer = real(*args, **options)
        made.lm_head.register_forward_hook(
            lambda module, inputs, out: out if out.shape[1] > 1 else out / 8)  # one token at a time
        return made, tokenizer
    monkeypatch.setattr(sampling, "load_model", scaled)
    with pytest.raises(SystemExit, match="cannot be run faithfully"):
        explore.main(["--in", f"{tmp_path}/tasks", "--out", f"{tmp_path}/out",
                      "--model", tiny_model])


# ---- experts and tokenizers -----------------------------------------------------------------

def test_experts_that_stay_in_16_bits_are_mentioned(tmp_path, tiny_model, capsys):
    _, made = make("Qwen3Moe", RIGHT["Qwen3Moe"])
    made.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    capsys.readouterr()
    model.load_model(str(tmp_path))
    note, = capsys.readouterr().err.strip().splitlines()
    # 4 experts of 3 matrices of 64 x 32 in 2 layers are 49,152 of 91,008 weights
    assert made.num_parameters() == 91_008
    assert "experts, 54% of its weights, stay in 16 bits" in note
    model.load_model(str(tmp_path), bits=16)
    model.load_model(tiny_model)
    assert capsys.readouterr().err == ""


@pytest.fixture
def sentencepiece():
    """As Llama-2's: a space before every text, bytes for what is unknown."""
    words = ["▁def", "▁return", "▁f", "▁1", "▁x", "▁▁▁▁"]
    merges = {(word[:i], word[i]): word[:i + 1] for word in [*words, "def", "return"]
              for i in range(1, len(word))}
    merges |= {("▁", "def"): "▁def", ("▁", "return"): "▁return"}
    letters = sorted({*"".join(words), *"():q"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters,
              *merges.values()]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    raw = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


@pytest.mark.parametrize("program", ["def f():\n    return 1\n", "    return 1", "1", " 1", "\nx"])
@pytest.mark.parametrize("prompt", ["q:\n", "q ", "q", "x\n\n"])
def test_a_completion_alone_is_tokenised_as_behind_its_prompt(sentencepiece, prompt, program):
    ids = model.completion_ids(sentencepiece, prompt, program)
    before = sentencepiece(prompt).input_ids
    assert sentencepiece.decode(before + ids) == prompt + program
    together = sentencepiece(prompt + program).input_ids
    if together[:len(before)] == before:
        assert ids == together[len(before):]


def test_what_a_row_wrote_keeps_its_first_space(sentencepiece):
    class Model:
        generation_config = transformers.GenerationConfig(eos_token_id=2)
    ending = sampler.Ending(Model(), sentencepiece, max_new_tokens=99)
    x = sentencepiece("q:\n").input_ids
    for program in ("    return 1", "def f():\n    return 1"):
        a = model.completion_ids(sentencepiece, "q:\n", program)
        assert ending.text(x[-1], a + [2]) == program


def test_byte_level_completions_are_as_they_were(tiny_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    for completion in ("def solution():\n    return 7\n```", "    x", "\n\nx", "é ```", ""):
        alone = tokenizer(completion).input_ids
        assert model.completion_ids(tokenizer, "Question: ?\n```python\n", completion) == alone


def test_lone_surrogates_do_not_stop_the_tokenizer(tiny_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    assert model.token_ids(tokenizer, ["a\ud800b"]) == [tokenizer("a?b").input_ids]
    assert model.completion_ids(tokenizer, "\n", "a\ud800") == tokenizer("a?").input_ids
