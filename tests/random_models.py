"""Language models of real shapes with random weights, for tests/gpu_check.py."""
import bitsandbytes as bnb
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = {  # hidden, layers, heads, key-value heads, feed-forward
    "135M": (576, 30, 9, 3, 1536), "7B": (4096, 32, 32, 32, 11008), "tiny": (128, 3, 4, 2, 256)}


def tokenizer_of_bytes(vocabulary):
    """One token per byte, and as many unused ones as fill a real vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {"<end>": 0} | {letter: index + 1 for index, letter in enumerate(letters)}
    ids |= {f"<{index}>": index for index in range(len(ids), vocabulary)}
    raw = Tokenizer(models.BPE(ids, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")


def config_of(size, vocabulary):
    hidden, layers, heads, kv_heads, wide = SHAPES[size]
    return LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers,
                       num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=wide,
                       max_position_embeddings=4096, bos_token_id=None, eos_token_id=0, pad_token_id=0)


def packed_model(size, vocabulary):
    """A random model with its linear layers in 4 bits, made layer by layer: it is never there in 16."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(size, vocabulary)).to(torch.bfloat16)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                packed = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, quant_type="nf4",
                                           compute_dtype=torch.bfloat16, device="meta")
                packed.weight = bnb.nn.Params4bit(
                    torch.randn(child.weight.shape, device=DEVICE, dtype=torch.bfloat16) * 0.02,
                    requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed).to(DEVICE)
                setattr(parent, name, packed)
    for name, old in list(model.named_parameters()):
        if old.is_meta:
            owner, _, leaf = name.rpartition(".")
            std = 0.5 if "head" in name else 0.02
            new = torch.ones(old.shape) if old.dim() == 1 else torch.randn(old.shape) * std
            setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(new.to(DEVICE, torch.bfloat16), False))
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(DEVICE)
    model.is_loaded_in_4bit, model.config.dtype = True, torch.bfloat16
    return model.eval()


def unpacked(model):
    """The same, with the rounded weights in bfloat16."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                plain = torch.nn.Linear(child.in_features, child.out_features, bias=False, device="meta")
                weight = bnb.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                plain.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
                setattr(parent, name, plain)
    model.is_loaded_in_4bit = False
    return model


def with_big_head(folder, size, vocabulary):
    """A model in a folder whose distributions are peaked, so that a wrong key shows in nats."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config_of(size, vocabulary))
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer_of_bytes(vocabulary).save_pretrained(folder)


def add_random_adapter(folder):
    from peft import LoraConfig, get_peft_model
    model = LlamaForCausalLM.from_pretrained(folder)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(f"{folder}/adapter")
