"""What fits into memory, by hand, and README's memory table (tests/memory.py)."""
import memory as table
import pytest
import torch

from nanoenvisions import memory

SEVEN = table.SHAPES["Llama-2-7B"]


def test_parameters_are_those_of_the_models():
    for name, billions in (("Qwen2.5-1.5B", 1.54), ("Llama-2-7B", 6.74)):
        hidden, layers, heads, kv_heads, wide, vocabulary, tied = table.SHAPES[name]
        counted = table.parameters_of(table.SHAPES[name])
        linear = sum(a * b for a, b in table.linear_shapes(hidden, heads, kv_heads, wide))
        norms = hidden * (2 * layers + 1)
        assert counted == layers * linear + vocabulary * hidden * (1 if tied else 2) + norms
        assert round(counted / 1e9, 2) == billions


def test_a_worked_example():
    """7B: 6.48e9 linear weights at 4.127 bits and 0.26e9 others at 16: 3.34 + 0.52 = 3.87 GB."""
    assert round(table.memory(SEVEN)["weights"] / 1e9, 2) == 3.87
    # keys and values of a token: 2 x 32 layers x 4,096 numbers x 2 bytes; logits: 32,000 x 4 x 4
    assert memory.sampling_bytes(table.config_of(SEVEN), torch.bfloat16) == (524_288, 512_000)
    # 24 GB: unpacked (13.5 GB) they would not leave half. 0.8 x (24 - 0.5 - 3.87) = 15.7 GB; a row
    # has 96 tokens of its own and a share of 2/5 of 416: 262.4 x 0.524 + 0.5 = 138 MB: 113 rows
    assert table.rows_that_fit(SEVEN, 24) == (113, False)
    assert table.rows_that_fit(SEVEN, 80, most=256) == (256, True)
    assert table.rows_that_fit(SEVEN, 4) == (0, False)


def test_a_prompt_is_charged_once_and_not_to_each_of_its_rows():
    def rows(**changed):
        how = dict(prefix=0, prompt=400, samples=1, max_new_tokens=100, most=10_000) | changed
        return memory.fitting_slots(table.config_of(SEVEN), torch.bfloat16, 15e9, **how)
    assert rows() == 15e9 // (500 * 524_288 + 512_000)
    assert rows(samples=2) == rows()  # places for twice as many prompts as full slots need
    assert rows(samples=8) == 15e9 // (200 * 524_288 + 512_000)
    assert rows(prefix=1000) == (15e9 - 1000 * 524_288) // (500 * 524_288 + 512_000)
    assert rows(most=7) == 7 and rows(prompt=10 ** 9) == 1


def test_weights_are_unpacked_where_they_leave_half_of_all_memory(monkeypatch):
    assert memory.unpacked_fits(5_000_000_000, 20.5e9)
    assert not memory.unpacked_fits(5_000_000_000, 20.4e9)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(memory, "total_memory", lambda device: 20.5e9)
    assert memory.unpacks(gpu, True, 5 * 10 ** 9) and not memory.unpacks(gpu, True, 6 * 10 ** 9)
    # training keeps them packed, unless they are a sixteenth of it unpacked
    assert memory.unpacks(gpu, False, 6 * 10 ** 8) and not memory.unpacks(gpu, False, 7 * 10 ** 8)
    assert memory.unpacks(cpu, True, 10 ** 12) and memory.unpacks(cpu, False, 10 ** 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_what_is_free_does_not_matter(tiny_model):
    """On a GPU: neither the allocator's own cache nor other tensors change the number of rows."""
    from nanoenvisions.model import load_model
    model, _ = load_model(tiny_model)
    before = memory.sampling_room(model)
    kept = torch.zeros(10 ** 9, device="cuda")
    assert memory.sampling_room(model) == before
    del kept
    assert memory.sampling_room(model) == before
