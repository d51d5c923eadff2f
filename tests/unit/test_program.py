"""The recorder's Python face: what it refuses, and what a finished program shows."""

from dataclasses import replace

import numpy as np
import pytest

from inferlib._core import ProgramRecorder
from inferlib.errors import ModelError, RequestError
from inferlib.model_spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, RopeSpec
from inferlib.transformer import record


def tiny_spec(**changes):
    rope = RopeSpec(inv_freq=(1.0, 0.5), scale=1.0)
    attention = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=4, scale=0.5, rope=rope)
    mlp = MlpSpec(intermediate_size=6, activation="silu")
    sizes = {
        "architecture": "test",
        "vocab_size": 11,
        "hidden_size": 8,
        "layers": (LayerSpec(attention=attention, mlp=mlp),) * 2,
        "norm_eps": 1e-6,
        "max_position_embeddings": 64,
    }
    return ModelSpec(**(sizes | changes))


@pytest.fixture
def recorder():
    return ProgramRecorder()


@pytest.fixture
def hidden(recorder):
    hidden = recorder.buffer("hidden", "tokens", 8)
    recorder.embedding(recorder.weight("embed_tokens.weight", (11, 8)), out=hidden)
    return hidden


def test_a_program_shows_its_ops_buffers_and_weights():
    program = record(tiny_spec())
    kinds = [kind for kind, _ in program.ops if kind != "capture"]
    layer = ["rms_norm", "linear", "rope", "store_kv", "attention", "linear", "add"]
    layer += ["rms_norm", "linear", "act_and_mul", "linear", "add"]
    assert kinds == ["embedding", *layer, *layer, "rms_norm", "gather_rows", "lm_head"]
    assert program.buffers["hidden"] == ("tokens", 8)
    assert program.buffers["logits"] == ("sampled", 11)
    assert program.weights["layers.1.self_attn.qkv_proj.weight"] == (16, 8)
    assert program.weights["layers.0.attn_norm.weight"] == (8,)
    assert program.vocab_size == 11
    rope = dict(program.ops)["rope"]
    assert rope["inv_freq"].dtype == np.float32
    assert rope["inv_freq"].tolist() == [1.0, 0.5]


def test_capture_points_have_the_names_of_transformer_lens():
    assert record(tiny_spec()).captures[:9] == [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_qkv",
        "blocks.0.attn.hook_z",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_mid",
        "blocks.0.mlp.hook_post",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
    ]
    assert record(tiny_spec()).captures[-2:] == ["ln_final", "unembed"]


def test_layers_share_buffers():
    assert record(tiny_spec()).buffers == record(tiny_spec(layers=tiny_spec().layers * 5)).buffers


def test_layers_with_one_window_form_one_kv_group():
    full, _ = tiny_spec().layers
    windowed = LayerSpec(
        attention=AttentionSpec(
            num_heads=2, num_kv_heads=1, head_dim=4, scale=0.5, rope=None, window=16
        ),
        mlp=full.mlp,
    )
    groups = record(tiny_spec(layers=(windowed, windowed, full, windowed))).kv_groups
    assert [(group.num_layers, group.window) for group in groups] == [(3, 16), (1, None)]


def test_tied_embeddings_are_one_weight():
    untied, tied = record(tiny_spec()), record(tiny_spec(tied_embeddings=True))
    assert untied.weights.keys() - tied.weights.keys() == {"lm_head.weight"}


def test_the_description_reads_like_code():
    text = record(tiny_spec()).describe()
    assert "qkv = linear(normed, layers.0.self_attn.qkv_proj.weight)" in text
    assert "qkv[0:12] = rope(qkv[0:12], heads=3, rope=0)" in text
    assert "store_kv(qkv[8:12], qkv[12:16], kv=0.0)" in text


def test_a_width_that_does_not_fit_is_refused_when_it_is_recorded(recorder, hidden):
    narrow = recorder.buffer("narrow", "tokens", 7)
    weight = recorder.weight("w.weight", (7, 9))
    with pytest.raises(ModelError, match='linear: buffer "hidden" is 8 wide, not 9'):
        recorder.linear(hidden, weight, out=narrow)
    with pytest.raises(ModelError, match='add: buffer "narrow" is 7 wide, not 8'):
        recorder.add(hidden, hidden, out=narrow)


def test_a_slice_beyond_its_row_is_refused(recorder, hidden):
    table = recorder.rotary_table([1.0, 0.1])
    with pytest.raises(ModelError, match=r"elements 4\.\.12 reach beyond the 8"):
        recorder.rope(hidden, table, start=4, num_heads=2, head_dim=4)


def test_a_buffer_of_another_recorder_is_refused(hidden):
    other = ProgramRecorder()
    with pytest.raises(ModelError, match="another recorder"):
        other.capture("x", hidden)


def test_a_buffer_is_not_read_before_it_is_written(recorder):
    with pytest.raises(ModelError, match="read before it is written"):
        recorder.capture("x", recorder.buffer("hidden", "tokens", 8))


def test_attention_needs_stored_keys(recorder, hidden):
    kv = recorder.kv_layer(num_kv_heads=1, k_head_dim=4, v_head_dim=4, window=None)
    heads = recorder.buffer("heads", "tokens", 8)
    with pytest.raises(ModelError, match="layer 0 of KV group 0 is read before it is stored"):
        recorder.attention(hidden, kv, num_heads=2, scale=1.0, out=heads)


def test_one_name_is_one_declaration(recorder, hidden):
    assert recorder.buffer("hidden", "tokens", 8).width == hidden.width
    with pytest.raises(ModelError, match=r"declared twice, as \[tokens, 8\] and as \[tokens, 9\]"):
        recorder.buffer("hidden", "tokens", 9)
    with pytest.raises(ModelError, match="declared twice"):
        recorder.weight("embed_tokens.weight", (11, 9))


def test_what_is_declared_has_to_be_used(recorder, hidden):
    recorder.weight("spare.weight", (3,))
    sampled = recorder.buffer("sampled", "sampled", 8)
    logits = recorder.buffer("logits", "sampled", 11)
    recorder.gather_rows(hidden, out=sampled)
    recorder.lm_head(sampled, recorder.weight("embed_tokens.weight", (11, 8)), out=logits)
    with pytest.raises(ModelError, match=r'weight "spare\.weight" is declared but never used'):
        recorder.finish()


@pytest.mark.usefixtures("hidden")
def test_a_program_without_logits_is_refused(recorder):
    with pytest.raises(
        ModelError, match="one lm_head, or none and a capture point; this one has 0"
    ):
        recorder.finish()


def test_a_recorder_finishes_once(recorder, hidden):
    with pytest.raises(ModelError):
        recorder.finish()
    with pytest.raises(ModelError, match="has finished"):
        recorder.capture("x", hidden)


def test_words_are_checked(recorder, hidden):
    with pytest.raises(RequestError, match='rows must be "tokens", "sampled" or "sequences"'):
        recorder.buffer("x", "columns", 1)
    with pytest.raises(RequestError, match='activation must be one of "silu"'):
        recorder.act_and_mul(hidden, "relu2", out=recorder.buffer("half", "tokens", 4))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e39])
def test_scales_are_finite(recorder, scale):
    with pytest.raises(ModelError, match="finite"):
        recorder.rotary_table([1.0], scale=scale)


def test_heads_that_do_not_divide_are_refused():
    attention = AttentionSpec(num_heads=3, num_kv_heads=2, head_dim=4, scale=0.5, rope=None)
    layer = LayerSpec(attention=attention, mlp=tiny_spec().layers[0].mlp)
    with pytest.raises(ModelError, match="num_heads 3 is not a multiple of 2"):
        record(tiny_spec(layers=(layer,)))


def spec_with(**changes):
    (layer, _) = tiny_spec().layers
    return tiny_spec(layers=(replace(layer, **changes),))


def kinds(spec):
    return [kind for kind, _ in record(spec).ops if kind != "capture"]


def test_a_plain_mlp_has_no_gate():
    program = record(spec_with(mlp=MlpSpec(intermediate_size=6, activation="gelu", gated=False)))
    assert program.weights["layers.0.mlp.up_proj.weight"] == (6, 8)
    assert ("activation", {"x": "inner", "activation": "gelu", "out": "inner"}) in program.ops


def test_layer_norms_have_biases_and_learned_positions_are_added():
    program = record(tiny_spec(norm="layer", learned_positions=32))
    assert program.weights["norm.bias"] == (8,)
    assert program.weights["position_embedding.weight"] == (32, 8)
    assert kinds(tiny_spec(learned_positions=32))[:3] == ["embedding", "position_embedding", "add"]


def test_parallel_branches_read_the_stream_before_either_is_added():
    assert kinds(spec_with(parallel=True))[-5:-2] == ["add", "add", "rms_norm"]
    assert "hook_resid_mid" not in str(record(spec_with(parallel=True)).captures)


def test_multipliers_that_are_one_cost_nothing():
    assert "scale" not in kinds(tiny_spec())
    scaled = kinds(tiny_spec(residual_scale=0.5, logits_scale=0.25))
    assert scaled.count("scale") == 2 * 2 + 1
    assert scaled[-3:] == ["gather_rows", "scale", "lm_head"]


def test_experts_are_stacked_and_follow_their_router():
    moe = MoeSpec(num_experts=4, top_k=2, intermediate_size=6, activation="silu", bias=True)
    program = record(spec_with(mlp=moe))
    assert program.weights["layers.0.mlp.router.bias"] == (4,)
    assert program.weights["layers.0.mlp.experts.gate_proj.weight"] == (4, 6, 8)
    assert program.weights["layers.0.mlp.experts.down_proj.weight"] == (4, 8, 6)
    assert program.weights["layers.0.mlp.experts.down_proj.bias"] == (32,)
    op = dict(program.ops)["moe"]
    assert (op["top_k"], op["normalise"], op["router_logits"]) == (2, True, "router_logits")
    assert "top_k=2, softmax over chosen, silu" in program.describe()


def test_more_experts_than_there_are_is_refused():
    moe = MoeSpec(num_experts=2, top_k=3, intermediate_size=6, activation="silu")
    with pytest.raises(ModelError, match="top_k of moe must be between 1 and the number of"):
        record(spec_with(mlp=moe))


def test_sinks_are_one_score_per_head():
    layer = tiny_spec().layers[0]
    program = record(spec_with(attention=replace(layer.attention, sinks=True)))
    assert program.weights["layers.0.self_attn.sinks"] == (2,)
    assert dict(program.ops)["attention"]["sinks"] == "layers.0.self_attn.sinks"


def test_a_weight_of_the_wrong_shape_is_refused_by_the_op(recorder, hidden):
    other = recorder.weight("other.weight", (7,))
    with pytest.raises(ModelError, match=r"layer_norm: weight \"other.weight\" has shape \[7\]"):
        recorder.layer_norm(hidden, other, eps=1e-5, out=hidden)
    stack = recorder.weight("stack.weight", (2, 8, 8))
    with pytest.raises(ModelError, match=r"linear: weight \"stack.weight\" has shape"):
        recorder.linear(hidden, stack, out=recorder.buffer("out", "tokens", 8))
    with pytest.raises(ModelError, match="activation must be one of a single value"):
        recorder.activation(hidden, "clamped_swiglu", out=hidden)
