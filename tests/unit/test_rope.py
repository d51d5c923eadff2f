"""Rotary frequencies against their definitions."""

import math

import numpy as np
import pytest

from inferlib.architectures import Fields
from inferlib.architectures.rope import (
    rope_from_config,
    rope_from_gguf,
    yarn_attention_scale,
    yarn_attention_scale_from_gguf,
)
from inferlib.errors import ModelFormatError, UnsupportedModelError

HEAD_DIM = 64


def from_config(config):
    return rope_from_config(Fields(config, source="config.json"), head_dim=HEAD_DIM)


def from_gguf(**values):
    metadata = {f"llama.rope.{key}": value for key, value in values.items()}
    return rope_from_gguf(Fields(metadata, source="model.gguf"), "llama", head_dim=HEAD_DIM)


PLAIN = [10_000 ** (-i / HEAD_DIM) for i in range(0, HEAD_DIM, 2)]


def test_frequencies_fall_by_powers_of_theta():
    assert from_config({}).inv_freq == pytest.approx(PLAIN)
    assert from_gguf().inv_freq == pytest.approx(PLAIN)


def test_theta_is_read_wherever_a_version_puts_it():
    expected = from_gguf(freq_base=5e5)
    for config in (
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
    ):
        assert from_config(config) == expected, config


def test_part_of_a_head_may_be_rotated():
    for config in (
        {"partial_rotary_factor": 0.25},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
    ):
        rope = from_config(config)
        assert rope.inv_freq == pytest.approx([10_000 ** (-i / 16) for i in range(0, 16, 2)])
    assert from_gguf(dimension_count=16) == rope


def test_heads_beyond_all_measure_are_refused():
    huge = {"head_dim": 2**30}
    with pytest.raises(ModelFormatError, match=r"'head_dim'.*at most"):
        rope_from_config(Fields({}, source="config.json"), **huge)
    with pytest.raises(ModelFormatError, match=r"'llama\.rope\.dimension_count'"):
        rope_from_gguf(Fields({}, source="model.gguf"), "llama", **huge)


def test_linear_scaling_divides_by_the_factor():
    expected = np.divide(PLAIN, 4)
    for scaling in ({"rope_type": "linear", "factor": 4}, {"type": "linear", "factor": 4.0}):
        assert from_config({"rope_scaling": scaling}).inv_freq == pytest.approx(expected)
    gguf = from_gguf(**{"scaling.type": "linear", "scaling.factor": 4.0})
    assert gguf.inv_freq == pytest.approx(expected)


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    rope = from_config({"rope_scaling": scaling})
    ratio = np.divide(PLAIN, rope.inv_freq)
    turns = 2048 * np.asarray(PLAIN) / (2 * math.pi)
    assert ratio[turns > 40] == pytest.approx(1)
    assert ratio[turns < 0.7] == pytest.approx(4)
    assert (np.diff(ratio) > -1e-9).all()
    assert rope.scale == pytest.approx(0.1 * math.log(4) + 1)
    gguf = {"type": "yarn", "factor": 4.0, "original_context_length": 2048}
    assert from_gguf(**{f"scaling.{key}": value for key, value in gguf.items()}) == rope


def test_yarn_takes_its_scale_from_the_file():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    assert from_config({"rope_scaling": scaling | {"attention_factor": 1.5}}).scale == 1.5
    both = {"mscale": 1.0, "mscale_all_dim": 1.0}
    assert from_config({"rope_scaling": scaling | both}).scale == 1.0


def test_dynamic_scaling_begins_where_no_sequence_gets():
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    assert from_config({"rope_scaling": scaling}) == from_config({})


def test_longrope_divides_every_frequency_by_its_own_factor():
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0 + i / 100 for i in range(32)],
        "long_factor": [2.0 + i for i in range(32)],
    }
    sizes = {"original_max_position_embeddings": 4096}
    long = from_config({"rope_scaling": scaling, "max_position_embeddings": 131_072} | sizes)
    assert np.divide(PLAIN, long.inv_freq) == pytest.approx(scaling["long_factor"])
    assert long.scale == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    short = from_config({"rope_scaling": scaling, "max_position_embeddings": 4096} | sizes)
    assert np.divide(PLAIN, short.inv_freq) == pytest.approx(scaling["short_factor"])
    assert short.scale == 1.0
    given = scaling | {"attention_factor": 1.25, "original_max_position_embeddings": 4096}
    both = {"rope_parameters": given, "max_position_embeddings": 8192}
    assert from_config(both).scale == 1.25


@pytest.mark.parametrize("factors", [[1.0] * 31, [0.0] * 32, ["x"] * 32, None])
def test_longrope_factors_are_checked(factors):
    scaling = {"rope_type": "longrope", "long_factor": factors, "short_factor": [1.0] * 32}
    config = {"rope_scaling": scaling, "max_position_embeddings": 8192}
    with pytest.raises(ModelFormatError, match="'long_factor'"):
        from_config(config | {"original_max_position_embeddings": 4096})


@pytest.mark.parametrize("kind", ["ntk", "mrope"])
def test_an_unknown_scaling_is_named(kind):
    with pytest.raises(UnsupportedModelError, match=f"RoPE scaling '{kind}'"):
        from_config({"rope_scaling": {"rope_type": kind, "factor": 2.0}})


def yarn(**keys):
    scaling = {"rope_type": "yarn", "factor": 4.0, **keys}
    return {"max_position_embeddings": 64, "rope_scaling": scaling}


def longrope(**keys):
    factors = {"long_factor": [1.0] * 32, "short_factor": [1.0] * 32}
    scaling = {"rope_type": "longrope", **factors, **keys}
    return {"max_position_embeddings": 64, "rope_scaling": scaling}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": "many"}, "rope_theta"),
        ({"partial_rotary_factor": 0.01}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_type"),
        ({"rope_theta": 1}, "rope_theta"),
        (yarn(original_max_position_embeddings=0), "original_max_position_embeddings"),
        (yarn(mscale=1.0, mscale_all_dim=-1e9), "mscale_all_dim"),
        (longrope(original_max_position_embeddings=1), "original_max_position_embeddings"),
    ],
)
def test_an_invalid_rope_key_is_named(config, key):
    with pytest.raises(ModelFormatError, match=f"'{key}'"):
        from_config(config)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 5e-324}},
        yarn(original_max_position_embeddings=1e308, beta_slow=5e-324, attention_factor=1e308)
        | {"rope_theta": 1 + 1e-15},
        yarn(original_max_position_embeddings=5e-324, beta_fast=1e308),
    ],
)
def test_numbers_beyond_all_measure_give_finite_frequencies_or_an_error(config):
    try:
        rope = from_config(config)
    except ModelFormatError as error:
        assert "not finite" in str(error)  # noqa: PT017  # either is fine
    else:
        assert np.isfinite(rope.inv_freq).all()


def test_a_scale_of_scores_beyond_all_measure_is_refused():
    config = yarn(mscale_all_dim=1e200)
    with pytest.raises(ModelFormatError, match="'mscale_all_dim'"):
        yarn_attention_scale(Fields(config, source="config.json"))
    metadata = {"type": "yarn", "factor": 4.0, "yarn_log_multiplier": 1e200}
    metadata = {f"llama.rope.scaling.{key}": value for key, value in metadata.items()}
    with pytest.raises(ModelFormatError, match="yarn_log_multiplier"):
        yarn_attention_scale_from_gguf(Fields(metadata, source="model.gguf"), "llama")
