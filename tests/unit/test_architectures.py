"""Configurations of both transformers generations and of GGUF, as specs; and what is refused."""

import json

import numpy as np
import pytest
from tests.checkpoints import TINY

from inferlib.architectures import (
    Fields,
    GgufHeader,
    UnpermuteQk,
    architecture_of_config,
    architecture_of_gguf,
)
from inferlib.errors import ModelFormatError, UnsupportedModelError


def config_of(case, **changes):
    config = json.loads((TINY / case / "config.json").read_text())
    config.update(changes)
    return {key: value for key, value in config.items() if value is not ...}


def spec_of(config):
    fields = Fields(config, source="config.json")
    return architecture_of_config(fields).spec_from_config(fields)


def gguf_spec(architecture, values=(), shapes=(), factors=None):
    prefix = f"{architecture}."
    sizes = {
        "block_count": 2,
        "context_length": 256,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    metadata = {"general.architecture": architecture}
    metadata |= {prefix + key: value for key, value in (sizes | dict(values)).items()}
    fields = Fields(metadata, source="model.gguf")
    shapes = {"token_embd.weight": (160, 64)} | dict(shapes)
    header = GgufHeader(metadata=fields, shapes=shapes, rope_factors=factors)
    return architecture_of_gguf(fields).spec_from_gguf(header)


@pytest.mark.parametrize("case", ["llama3-rope", "gemma3"])
def test_both_generations_of_keys_give_one_spec(case):
    assert spec_of(config_of(case)) == spec_of(config_of(f"{case}-config4"))


def test_a_missing_head_dim_is_a_share_of_the_hidden_size():
    assert spec_of(config_of("llama", head_dim=...)) == spec_of(config_of("llama"))


def test_missing_kv_heads_mean_one_per_query_head():
    spec = spec_of(config_of("llama", num_key_value_heads=...))
    assert spec.layers[0].attention.num_kv_heads == 4


def test_llama_biases_are_read():
    spec = spec_of(config_of("llama", attention_bias=True, mlp_bias=True))
    attention = spec.layers[0].attention
    assert (attention.qkv_bias, attention.o_bias, spec.layers[0].mlp.bias) == (True, True, True)


def test_mistral_has_a_window_unless_it_says_none():
    def window(config):
        return {layer.attention.window for layer in spec_of(config).layers}

    assert window(config_of("mistral-window")) == {8}
    assert window(config_of("mistral-window", sliding_window=None)) == {None}
    assert window(config_of("mistral-window", sliding_window=...)) == {4096}


def test_qwen_windows_follow_layer_types_or_the_first_windowed_layer():
    def windows(**changes):
        return [layer.attention.window for layer in spec_of(config_of("qwen2", **changes)).layers]

    sliding = {"use_sliding_window": True, "sliding_window": 16}
    assert windows(**sliding) == [None] * 3
    assert windows(**sliding, layer_types=..., max_window_layers=1) == [None, 16, 16]
    assert windows(sliding_window=16, layer_types=..., max_window_layers=1) == [None] * 3
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(**sliding, layer_types=mixed) == [16, None, 16]


def test_gemma_has_two_rotary_tables_and_windows_on_most_layers():
    spec = spec_of(config_of("gemma3"))
    assert [layer.attention.window for layer in spec.layers] == [8, 8, 8, 8, 8, None, 8]
    local, full = spec.layers[0].attention.rope, spec.layers[5].attention.rope
    assert local.inv_freq[1] == pytest.approx(10_000 ** (-2 / 16))
    assert full.inv_freq[1] == pytest.approx(1_000_000 ** (-2 / 16))
    assert (spec.embedding_scale, spec.tied_embeddings) == (8.0, True)
    assert all(layer.post_norm and layer.attention.qk_norm == "head" for layer in spec.layers)


def test_gemma_scales_by_query_pre_attn_scalar():
    spec = spec_of(config_of("gemma3", query_pre_attn_scalar=64))
    assert spec.layers[0].attention.scale == 0.125


def test_the_text_part_of_a_multimodal_gemma_has_its_defaults():
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    spec = spec_of(config | {"text_config": text, "vision_config": {"hidden_size": 1152}})
    full, local = spec.layers[5].attention, spec.layers[0].attention
    assert (spec.vocab_size, spec.num_layers, spec.tied_embeddings) == (262_208, 34, True)
    assert (full.num_heads, full.num_kv_heads, full.head_dim) == (8, 4, 256)
    assert (full.window, local.window) == (None, 1024)
    assert full.rope.inv_freq[0] == 1 / 8
    assert local.rope.inv_freq[0] == 1


def test_a_model_type_stands_in_for_missing_architectures():
    assert spec_of(config_of("qwen3", architectures=...)) == spec_of(config_of("qwen3"))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LlamaForCasualLM", "LlamaForCausalLM"),
        ("Qwen3MoeForCausalLM", "Qwen3ForCausalLM"),
        ("GPT2LMHeadModel", None),
    ],
)
def test_an_unsupported_architecture_is_named_with_the_nearest_one(name, nearest):
    with pytest.raises(UnsupportedModelError, match=f"architecture '{name}'") as caught:
        spec_of(config_of("llama", architectures=[name]))
    assert "supported are" in caught.value.hint
    if nearest:
        assert f"the nearest supported one is '{nearest}'" in caught.value.hint


def test_an_unsupported_gguf_architecture_is_named():
    with pytest.raises(UnsupportedModelError, match="architecture 'mamba'"):
        gguf_spec("mamba")


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "rms_norm_eps",
        "max_position_embeddings",
    ],
)
def test_a_missing_key_is_named(key):
    with pytest.raises(ModelFormatError, match=f"config.json has no '{key}'"):
        spec_of(config_of("llama", **{key: ...}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -64),
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", True),
        ("hidden_size", 2**40),
        ("num_hidden_layers", 10**6),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("rms_norm_eps", -1e-6),
        ("rms_norm_eps", float("nan")),
        ("tie_word_embeddings", "yes"),
        ("rope_parameters", [1]),
        ("architectures", "LlamaForCausalLM"),
    ],
)
def test_an_invalid_value_is_named_with_its_key(key, value):
    with pytest.raises(ModelFormatError, match=f"'{key}' of config.json must be"):
        spec_of(config_of("llama", **{key: value}))


def test_layer_types_have_to_match_the_layers():
    with pytest.raises(ModelFormatError, match=r"'layer_types' of config\.json must be as many"):
        spec_of(config_of("qwen3", layer_types=["full_attention"]))
    with pytest.raises(UnsupportedModelError, match="linear_attention"):
        spec_of(config_of("qwen3", layer_types=["linear_attention"] * 3))


def test_an_unknown_activation_is_refused():
    with pytest.raises(UnsupportedModelError, match="activation 'relu2'"):
        spec_of(config_of("llama", hidden_act="relu2"))


def test_gguf_tells_ties_and_biases_by_its_tensors():
    tied = gguf_spec("qwen2")
    untied = gguf_spec("qwen2", shapes={"output.weight": (160, 64), "blk.0.attn_q.bias": (64,)})
    assert (tied.tied_embeddings, tied.layers[0].attention.qkv_bias) == (True, False)
    assert (untied.tied_embeddings, untied.layers[0].attention.qkv_bias) == (False, True)


def test_gguf_gemma_fills_in_what_the_format_leaves_out():
    gemma = {"attention.sliding_window": 512, "attention.key_length": 256, "block_count": 12}
    spec = gguf_spec("gemma3", gemma | {"rope.freq_base": 1e6})
    windows = [layer.attention.window for layer in spec.layers]
    assert windows == [*[512] * 5, None] * 2
    assert spec.layers[0].attention.rope.inv_freq[1] == pytest.approx(10_000 ** (-2 / 256))
    assert spec.layers[5].attention.scale == 1 / 16
    largest = gguf_spec("gemma3", gemma | {"block_count": 62})
    assert largest.layers[5].attention.scale == 1 / 4


def test_gguf_needs_an_embedding():
    with pytest.raises(ModelFormatError, match=r"token_embd\.weight"):
        gguf_spec("llama", shapes={"token_embd.weight": (160,)})


def test_gguf_rope_factors_divide_the_frequencies():
    factors = tuple(float(i + 1) for i in range(8))
    plain = gguf_spec("llama").layers[0].attention.rope
    scaled = gguf_spec("llama", factors=factors).layers[0].attention.rope
    assert np.allclose(np.divide(plain.inv_freq, scaled.inv_freq), factors)
    with pytest.raises(ModelFormatError, match=r"rope_freqs\.weight"):
        gguf_spec("llama", factors=factors[:3])


def test_unpermuting_undoes_what_the_gguf_converter_does():
    rows = np.arange(48).reshape(2, 2, 12)  # heads, halves, pairs
    stored = rows.swapaxes(1, 2).reshape(-1)
    order = UnpermuteQk(num_heads=2, head_dim=24).row_order()
    assert stored[order].tolist() == list(range(48))
    assert order.dtype == np.int32
