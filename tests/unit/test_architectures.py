"""Configurations of both transformers generations and of GGUF, as specs; and what is refused."""

import json

import numpy as np
import pytest
from tests.checkpoints import TINY

from inferlib.architectures import (
    Fields,
    GgufHeader,
    HeadRows,
    RopeFirst,
    Transposed,
    TransposedHeads,
    UnpermuteQk,
    architecture_of_config,
    architecture_of_gguf,
)
from inferlib.errors import ModelFormatError, UnsupportedModelError
from inferlib.model_spec import MlpSpec, MoeSpec


def config_of(case, **changes):
    config = json.loads((TINY / case / "config.json").read_text())
    config.update(changes)
    return {key: value for key, value in config.items() if value is not ...}


def spec_of(config):
    fields = Fields(config, source="config.json")
    return architecture_of_config(fields).spec_from_config(fields)


def gguf_spec(architecture, values=(), shapes=(), factors=()):
    prefix = f"{architecture}."
    sizes = {
        "block_count": 2,
        "context_length": 256,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-6,
    }
    metadata = {"general.architecture": architecture}
    metadata |= {prefix + key: value for key, value in (sizes | dict(values)).items()}
    fields = Fields(metadata, source="model.gguf")
    shapes = {"token_embd.weight": (160, 64)} | dict(shapes)
    header = GgufHeader(metadata=fields, shapes=shapes, rope_factors=dict(factors))
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
        ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
        ("GPTNeoForCausalLM", "GPTNeoXForCausalLM"),
        ("RwkvModel", None),
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
        ("head_dim", 2**30),
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
    named = {"rope_freqs.weight": factors}
    scaled = gguf_spec("llama", factors=named).layers[0].attention.rope
    assert np.allclose(np.divide(plain.inv_freq, scaled.inv_freq), factors)
    with pytest.raises(ModelFormatError, match="rope factors"):
        gguf_spec("llama", factors={"rope_freqs.weight": factors[:3]})


def test_unpermuting_undoes_what_the_gguf_converter_does():
    rows = np.arange(48).reshape(2, 2, 12)  # heads, halves, pairs
    stored = rows.swapaxes(1, 2).reshape(-1)
    order = UnpermuteQk(num_heads=2, head_dim=24).row_order()
    assert stored[order].tolist() == list(range(48))
    assert order.dtype == np.int32


def test_gemma_1_and_2_have_the_activation_that_they_were_trained_with():
    for case, changes in (
        ("gemma", {"hidden_act": "gelu"}),
        ("gemma", {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
        ("gemma2", {}),
    ):
        spec = spec_of(config_of(case, **changes))
        assert {layer.mlp.activation for layer in spec.layers} == {"gelu_tanh"}
    with pytest.raises(UnsupportedModelError, match="'silu'"):
        spec_of(config_of("gemma", hidden_act="silu"))


def test_gemma_2_caps_that_are_null_are_none_and_that_are_absent_the_published_ones():
    def caps(**changes):
        spec = spec_of(config_of("gemma2", **changes))
        return spec.layers[0].attention.softcap, spec.final_softcap

    keys = ("attn_logit_softcapping", "final_logit_softcapping")
    assert caps() == (5.0, 3.0)
    assert caps(**dict.fromkeys(keys, None)) == (None, None)
    assert caps(**dict.fromkeys(keys, ...)) == (50.0, 30.0)
    assert [layer.attention.window for layer in spec_of(config_of("gemma2")).layers] == [8, None, 8]


def test_gguf_gemma_2_of_27b_scales_by_another_number():
    sizes = {"block_count": 46, "attention.key_length": 128}
    assert gguf_spec("gemma2", sizes).layers[0].attention.scale == 1 / 4
    assert gguf_spec("gemma2").layers[0].attention.scale == 1 / 4


def test_smollm_3_leaves_positions_out_of_every_fourth_layer_or_of_those_listed():
    def has_rope(**changes):
        spec = spec_of(config_of("smollm3", **changes))
        return [layer.attention.rope is not None for layer in spec.layers]

    assert has_rope(no_rope_layers=...) == [True, True, True, False]
    assert has_rope(no_rope_layers=[0, 1, 0, 1]) == [False, True, False, True]
    with pytest.raises(ModelFormatError, match="'no_rope_layers'"):
        has_rope(no_rope_layers=[1])


def test_gpt_neox_reads_the_keys_of_transformers_4():
    old = {"rotary_pct": 0.5, "rotary_emb_base": 20_000, "rope_parameters": ...}
    attention = spec_of(config_of("gpt-neox", **old)).layers[0].attention
    assert attention.rope.inv_freq == pytest.approx([20_000 ** (-i / 4) for i in range(4)])
    assert (attention.num_kv_heads, attention.qkv_bias) == (4, True)
    assert not spec_of(config_of("gpt-neox", use_parallel_residual=False)).layers[0].parallel


def test_gpt_2_has_words_of_its_own_and_an_error_names_them():
    spec = spec_of(config_of("gpt2"))
    assert (spec.learned_positions, spec.max_position_embeddings) == (256, 256)
    assert spec.layers[0].mlp.intermediate_size == 4 * 64
    assert spec_of(config_of("gpt2", n_inner=100)).layers[0].mlp.intermediate_size == 100
    with pytest.raises(ModelFormatError, match="has no 'n_embd'"):
        spec_of(config_of("gpt2", n_embd=...))
    with pytest.raises(UnsupportedModelError, match="layer's number"):
        spec_of(config_of("gpt2", scale_attn_by_inverse_layer_idx=True))


def test_qwen_experts_may_leave_layers_dense():
    def sparse(**changes):
        spec = spec_of(config_of("qwen3-moe", **changes))
        return [isinstance(layer.mlp, MoeSpec) for layer in spec.layers]

    assert sparse() == [True] * 3
    assert sparse(mlp_only_layers=[1]) == [True, False, True]
    assert sparse(decoder_sparse_step=2) == [False, True, False]
    mlp = spec_of(config_of("qwen3-moe", norm_topk_prob=False)).layers[0].mlp
    assert (mlp.num_experts, mlp.top_k, mlp.normalise) == (8, 2, False)


def test_more_experts_per_token_than_there_are_is_refused():
    with pytest.raises(ModelFormatError, match="'num_experts_per_tok'"):
        spec_of(config_of("mixtral", num_experts_per_tok=5))
    with pytest.raises(ModelFormatError, match=r"'llama\.expert_used_count'"):
        gguf_spec("llama", {"expert_count": 2, "expert_used_count": 3})


def test_more_experts_than_a_checkpoint_could_name_are_refused():
    with pytest.raises(ModelFormatError, match=r"'num_local_experts'.*at most"):
        spec_of(config_of("mixtral", num_local_experts=2**30, num_experts_per_tok=2))


def test_a_llama_file_without_experts_may_say_so():
    spec = gguf_spec("llama", {"expert_count": 0})
    assert (spec.architecture, type(spec.layers[0].mlp)) == ("llama", MlpSpec)


def test_gpt_oss_with_other_constants_is_refused():
    with pytest.raises(UnsupportedModelError, match="'swiglu_limit'"):
        spec_of(config_of("gpt-oss", swiglu_limit=5.0))


def test_gguf_granite_without_multipliers_has_none():
    spec = gguf_spec("granite")
    assert (spec.embedding_scale, spec.residual_scale, spec.logits_scale) == (1, 1, 1)
    scaled = gguf_spec("granite", {"logit_scale": 4.0, "attention.scale": 0.5})
    assert (scaled.logits_scale, scaled.layers[0].attention.scale) == (0.25, 0.5)


def test_gguf_phi_takes_the_long_factors_where_its_context_is_longer_than_the_original():
    factors = {
        "rope_factors_short.weight": (1.0,) * 8,
        "rope_factors_long.weight": (4.0,) * 8,
    }

    def first_frequency(original):
        keys = {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": 1.5}
        return gguf_spec("phi3", keys, factors=factors).layers[0].attention.rope

    assert first_frequency(256).inv_freq[0] == 1
    assert first_frequency(64).inv_freq[0] == 1 / 4
    assert first_frequency(64).scale == 1.5


def test_a_window_of_0_is_none():
    assert gguf_spec("phi3", {"attention.sliding_window": 0}).layers[0].attention.window is None
    assert gguf_spec("phi3", {"attention.sliding_window": 9}).layers[0].attention.window == 9


def test_heads_that_are_stored_side_by_side_are_taken_apart():
    stored = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # heads; q, k, v; elements
    for first in range(3):
        order = HeadRows(num_heads=2, stored=12, first=4 * first, count=4).row_order()
        assert stored.reshape(-1)[order].tolist() == stored[:, first].reshape(-1).tolist()


def test_rows_with_positions_come_first_and_pairs_come_apart():
    order = RopeFirst(num_heads=2, nope_dim=3, rope_dim=4, interleaved=True).row_order()
    assert order.tolist() == [3, 5, 4, 6, 0, 1, 2, 10, 12, 11, 13, 7, 8, 9]
    order = RopeFirst(num_heads=1, nope_dim=2, rope_dim=2, interleaved=False).row_order()
    assert order.tolist() == [2, 3, 0, 1]


def test_the_first_rows_of_every_head_transposed():
    array = np.arange(2 * 5 * 3, dtype=np.float32).reshape(10, 3)
    found = TransposedHeads(num_heads=2, count=2).matrix(array)
    assert found.tolist() == array.reshape(2, 5, 3)[:, :2].transpose(0, 2, 1).tolist()


def test_transposed_matrices_give_every_second_column_where_two_are_interleaved():
    array = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    up = Transposed(first=1, step=2)
    assert up.matrix(array).tolist() == array[:, :, 1::2].transpose(0, 2, 1).tolist()
    assert up.vector(array[:, 0]).tolist() == array[:, 0, 1::2].reshape(-1).tolist()
    assert Transposed().matrix(array[0]).tolist() == array[0].T.tolist()
