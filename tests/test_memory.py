"""The arithmetic behind README's memory table, against models of those shapes and a worked example."""
import memory


def test_parameters_are_those_of_the_models():
    for name, billions in (("Qwen2.5-1.5B", 1.54), ("Llama-2-7B", 6.74)):
        hidden, layers, heads, kv_heads, wide, vocabulary, tied = memory.SHAPES[name]
        counted = memory.parameters_of(memory.SHAPES[name])
        linear = layers * sum(a * b for a, b in memory.linear_shapes(hidden, heads, kv_heads, wide))
        norms = hidden * (2 * layers + 1)
        assert counted == linear + vocabulary * hidden * (1 if tied else 2) + norms
        assert round(counted / 1e9, 2) == billions


def test_a_worked_example():
    """7B: 6.48e9 linear weights at 4.127 bits and 0.26e9 others at 16: 3.34 + 0.52 = 3.87 GB."""
    need = memory.memory(memory.SHAPES["Llama-2-7B"])
    assert round(need["weights"] / 1e9, 2) == 3.87
    # a row of 512 tokens: keys and values, 32 layers, 4,096 wide, 2 bytes = 268 MB, and 0.5 MB of logits
    assert round(need["row"] / 1e6) == 269
    # 24 GB: unpacked (13.5 GB) they would not leave half; 0.8 * (24 - 0.5 - 3.87) / 0.269 = 58 rows
    assert memory.rows_that_fit(memory.SHAPES["Llama-2-7B"], 24) == (58, False)
