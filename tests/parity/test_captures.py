"""What ``forward`` hands out against the oracle, for tiny checkpoints of families."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tests.checkpoints import TINY, canonical_weights
from tests.real_models import real_model
from tests.reference import ReferenceExecutor, attention

from inferlib import Model, ModelError, RequestError
from inferlib.capture_points import capture_points
from inferlib.loading import load

DECODERS = [
    *("llama", "gpt2", "gpt-neox", "gemma2", "gemma3", "olmo2", "granite", "qwen3"),
    *("starcoder2", "gpt-oss", "deepseek-v3"),
]
ENCODERS = ["bert-embedding", "xlm-roberta-embedding"]
TOLERANCE = 1e-4
"""Of the largest number of a row's point: float32 against float64."""


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_every_point_and_all_logits_equal_the_oracles(family):
    loaded = load(TINY / family)
    oracle = ReferenceExecutor(loaded.program, canonical_weights(loaded))
    ids = np.load(TINY / family / "reference.npz")["input_ids"][0].tolist()
    points = capture_points(loaded.spec, loaded.program)
    sources = sorted({point.source for point in points.values()})
    step = oracle.run({0: ids}, all_logits=True, capture=sources)
    logits = loaded.spec.lm_head
    with Model.from_pretrained(TINY / family, device="cpu", precision="exact") as model:
        assert model.capture_points == tuple(points)
        found = model.forward(ids, capture="*", logits=logits)
    for name, point in points.items():
        expected = point.of(step.captures[point.source])
        error = np.abs(found[name] - expected).max()
        assert error <= TOLERANCE * np.abs(expected).max(), name
    if logits:
        assert np.abs(found.logits - step.logits).max() <= TOLERANCE * np.abs(step.logits).max()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "llama-tied-mha"])
def test_attention_can_be_built_again_of_queries_keys_and_values(family):
    spec = load(TINY / family).spec.layers[1].attention
    q_and_k = "blocks.1.attn.hook_q", "blocks.1.attn.hook_k"
    if spec.rope is not None:
        q_and_k = "blocks.1.attn.hook_rot_q", "blocks.1.attn.hook_rot_k"
    ids = np.load(TINY / family / "reference.npz")["input_ids"][0].tolist()
    with Model.from_pretrained(TINY / family, device="cpu", precision="exact") as model:
        found = model.forward(ids, capture="blocks.1.attn.*")
    q, k, v = (
        found[name].reshape(len(ids), -1, spec.head_dim)
        for name in (*q_and_k, "blocks.1.attn.hook_v")
    )
    assert (q.shape[1], k.shape[1], v.shape[1]) == (spec.num_heads, *[spec.num_kv_heads] * 2)
    z = attention(*(x.astype(np.float64) for x in (q, k, v)), np.arange(len(ids)), scale=spec.scale)
    assert np.allclose(z.reshape(len(ids), -1), found["blocks.1.attn.hook_z"], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_last_norm_is_its_weight_times_the_normalised_stream(family):
    with Model.from_pretrained(TINY / family, device="cpu", precision="exact") as model:
        found = model.forward(list(range(5, 25)), capture="ln_final*")
        normed = found["ln_final.hook_normalized"] * model.weight("norm.weight")
        if "norm.bias" in model.weight_shapes:
            normed += model.weight("norm.bias")
    assert np.allclose(normed, found["ln_final"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt-neox", "deepseek-v3"])
def test_names_follow_the_family(family):
    loaded = load(TINY / family)
    names = capture_points(loaded.spec, loaded.program)
    assert ("hook_pos_embed" in names) == (family == "gpt2")
    assert ("blocks.0.attn.hook_q" in names) == (family == "gpt2")
    assert ("blocks.0.hook_resid_mid" in names) == (family != "gpt-neox")
    assert ("blocks.0.attn.hook_v" in names) == (family != "deepseek-v3")
    assert "blocks.0.attn.hook_z" in names


def test_logits_of_a_head_that_is_screened_are_whole():
    """Greedy rows of such a head compute few of its logits; those that are handed out all."""
    with Model.from_pretrained(real_model("smollm2"), device="cpu") as model:
        several = model.forward("The capital of France is", logits=True).logits
        last = model.forward("The capital of France is", positions=-1, logits=True).logits
        assert np.isfinite(several).all()
        assert np.array_equal(last, several[-1:])
        assert model.tokenizer.decode([int(last[0].argmax())]) == " Paris"


def test_an_encoder_has_no_logits_and_is_read_whole():
    with Model.from_pretrained(TINY / "bert-embedding", device="cpu") as model:
        with pytest.raises(RequestError) as caught:
            model.forward([5, 6, 7], logits=True)
        assert caught.value.field == "logits"
        assert model.forward([5, 6, 7], capture="ln_final")["ln_final"].shape[0] == 3


@pytest.mark.parametrize("family", ["llama", "llama-tied-mha", "gemma2", "gpt2", "gpt-oss"])
def test_weights_are_the_checkpoints_as_they_are_used(family):
    expected = canonical_weights(load(TINY / family))
    with Model.from_pretrained(TINY / family, device="cpu") as model:
        names = set(model.weight_shapes)
        assert names == {*expected, "lm_head.weight"}
        for name, values in expected.items():
            found = model.weight(name)
            assert found.dtype == np.float32
            assert np.array_equal(found, values), name
        if "lm_head.weight" not in expected:
            assert np.array_equal(model.weight("lm_head.weight"), expected["embed_tokens.weight"])


def test_weights_of_files_that_changed_are_refused(tmp_path):
    shutil.copytree(TINY / "llama", tmp_path / "model")
    with Model.from_pretrained(tmp_path / "model", device="cpu") as model:
        values = model.weight("norm.weight")
        values[:] = 0  # the caller's own
        assert model.weight("norm.weight").any()
        file = next((tmp_path / "model").glob("*.safetensors"))
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(ModelError):
            model.weight("norm.weight")
        file.write_bytes(content)
        with pytest.raises(ModelError, match="changed"):
            model.weight("norm.weight")
