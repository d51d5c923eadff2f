"""Frequencies of rotary embeddings, from the keys of transformers 4 and 5 and of GGUF."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError, UnsupportedModelError
from ..model_spec import RopeSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .fields import Fields

MOST_HEAD_ELEMENTS = 4096
"""Published models have up to 576."""
_LARGEST_SCALE = 1e6
_KNOWN = '"default", "linear", "dynamic", "llama3", "yarn" and "longrope"'


def frequencies(theta: float, rotary_dim: int) -> NDArray[np.float64]:
    """Unscaled frequencies ``[rotary_dim / 2]``: ``theta ** (-2 i / rotary_dim)``."""
    return theta ** -(np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)


def rope_spec(inv_freq: NDArray[np.float64], *, scale: float = 1.0) -> RopeSpec:
    """The frequencies as part of a spec.

    Raises:
        ModelFormatError: One of them, or the scale, is not finite.
    """
    if not np.isfinite(inv_freq).all() or not math.isfinite(scale):
        raise ModelFormatError(
            "the frequencies of the rotary embedding are not finite; look at the model's scaling "
            "of them (rope_scaling, rope_parameters or rope.scaling)"
        )
    return RopeSpec(inv_freq=tuple(inv_freq.tolist()), scale=scale)


@np.errstate(all="ignore")  # what is not finite is refused by name
def rope_from_config(
    config: Fields, *, head_dim: int, default_theta: float = 10_000.0, layer_type: str | None = None
) -> RopeSpec:
    """Rotary embedding of a ``config.json``.

    Args:
        config: transformers 5 writes ``rope_parameters`` (one object, or one per layer type);
            transformers 4 writes ``rope_theta`` and ``rope_scaling``.
        head_dim: Elements of a head; ``partial_rotary_factor`` of them are rotated.
        default_theta: Where the file has none.
        layer_type: Which of several ``rope_parameters`` to read.
    """
    parameters = config.section("rope_parameters")
    if parameters is not None and layer_type is not None:
        parameters = parameters.section(layer_type) or parameters
    scaling = parameters if parameters is not None else config.section("rope_scaling")

    default_theta = config.positive("rope_theta", default=default_theta)
    theta = default_theta
    rotary = config.positive("partial_rotary_factor", default=1.0)
    if scaling is not None:
        theta = scaling.positive("rope_theta", default=default_theta)
        rotary = scaling.positive("partial_rotary_factor", default=rotary)
    if theta <= 1:
        raise (config if scaling is None else scaling).invalid("rope_theta", "above 1", theta)
    inv_freq = frequencies(theta, _rotary_dim(config, head_dim, rotary))
    if scaling is None:
        return rope_spec(inv_freq)

    kind = scaling.text("rope_type", "type", default="default")
    # "dynamic" changes the frequencies beyond max_position_embeddings, where no sequence gets.
    if kind in ("default", "dynamic"):
        return rope_spec(inv_freq)
    if kind in ("longrope", "su"):
        return _longrope_from_config(inv_freq, scaling, config)
    if kind == "linear":
        return rope_spec(inv_freq / scaling.positive("factor"))
    if kind == "llama3":
        return rope_spec(_llama3(inv_freq, scaling))
    if kind == "yarn":
        return _yarn_from_config(inv_freq, theta, scaling, config)
    raise UnsupportedModelError(
        f"{scaling.source} asks for the RoPE scaling {kind!r}; supported are {_KNOWN}"
    )


@np.errstate(all="ignore")  # what is not finite is refused by name
def rope_from_gguf(
    metadata: Fields,
    architecture: str,
    *,
    head_dim: int,
    factors: Sequence[float] | None = None,
    truncate: bool = True,
) -> RopeSpec:
    """Rotary embedding of a GGUF file.

    Args:
        metadata: Keys ``<architecture>.rope.*``.
        architecture: ``general.architecture``.
        head_dim: Elements of a head; ``rope.dimension_count`` of them are rotated.
        factors: The tensor that divides the frequencies (``rope_freqs.weight`` of Llama 3, one of
            ``rope_factors_long.weight`` and ``rope_factors_short.weight`` of Phi 3), if there is
            one.
        truncate: Whether YaRN's range of pairs is rounded to whole ones.
    """
    prefix = f"{architecture}.rope"
    theta = metadata.positive(f"{prefix}.freq_base", default=10_000.0)
    if theta <= 1:
        raise metadata.invalid(f"{prefix}.freq_base", "above 1", theta)
    rotary_dim = metadata.size(f"{prefix}.dimension_count", default=head_dim)
    if rotary_dim > min(head_dim, MOST_HEAD_ELEMENTS) or rotary_dim % 2:
        expected = f"an even number up to the head's {head_dim}, and to {MOST_HEAD_ELEMENTS}"
        raise metadata.invalid(f"{prefix}.dimension_count", expected, rotary_dim)
    inv_freq = frequencies(theta, rotary_dim)
    if factors is not None:
        if len(factors) != inv_freq.size:
            expected = f"{inv_freq.size} factors"
            raise metadata.invalid("rope factors", expected, f"{len(factors)} factors")
        inv_freq = inv_freq / np.asarray(factors, np.float64)

    kind = metadata.text(f"{prefix}.scaling.type", default="none")
    if kind in ("none", "longrope"):
        scale = metadata.positive(f"{prefix}.scaling.attn_factor", default=1.0)
        return rope_spec(inv_freq, scale=scale)
    if kind == "linear":
        return rope_spec(inv_freq / metadata.positive(f"{prefix}.scaling.factor", default=1.0))
    if kind == "yarn":
        factor = metadata.positive(f"{prefix}.scaling.factor")
        context = metadata.positive(f"{prefix}.scaling.original_context_length")
        inv_freq = _yarn(
            inv_freq, theta, factor=factor, original_context=context, truncate=truncate
        )
        attention = metadata.number(f"{prefix}.scaling.attn_factor", default=1.0)
        return rope_spec(inv_freq, scale=attention * _yarn_scale(factor))
    raise UnsupportedModelError(
        f"{metadata.source} asks for the RoPE scaling {kind!r}; "
        'supported are "none", "linear", "longrope" and "yarn"'
    )


def _rotary_dim(config: Fields, head_dim: int, factor: float) -> int:
    rotary_dim = int(head_dim * factor)
    if rotary_dim > MOST_HEAD_ELEMENTS:
        raise config.invalid("head_dim", f"at most {MOST_HEAD_ELEMENTS}", rotary_dim)
    if 0 < rotary_dim <= head_dim and rotary_dim % 2 == 0:
        return rotary_dim
    expected = f"a fraction that gives an even number of a head's {head_dim} elements"
    raise config.invalid("partial_rotary_factor", expected, factor)


def _llama3(inv_freq: NDArray[np.float64], scaling: Fields) -> NDArray[np.float64]:
    """Divide low frequencies by the factor, keep high ones, blend between.

    Source: Llama 3.1's reference code.
    """
    factor = scaling.positive("factor")
    low, high = scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
    if high <= low:
        raise scaling.invalid("high_freq_factor", f"above the low_freq_factor {low}", high)
    context = scaling.positive("original_max_position_embeddings")
    turns = context * inv_freq / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * inv_freq + (1 - kept) * inv_freq / factor


def _longrope_from_config(
    inv_freq: NDArray[np.float64], scaling: Fields, config: Fields
) -> RopeSpec:
    """Divide every frequency by a factor of its own.

    There is one set of factors for the original context and one for longer ones. The model's
    context decides, not a sequence's length: the keys of a sequence that grows stay right.

    Source: Ding et al. 2024.
    """
    longest = config.positive("max_position_embeddings")
    within = scaling if scaling.has("original_max_position_embeddings") else config
    original = within.positive("original_max_position_embeddings", default=longest)
    if original <= 1:
        raise within.invalid("original_max_position_embeddings", "above 1", original)
    key = "long_factor" if longest > original else "short_factor"
    factors = np.asarray(scaling.numbers(key), np.float64)
    if factors.shape != inv_freq.shape or (factors <= 0).any():
        raise scaling.invalid(key, f"{inv_freq.size} positive numbers", factors.tolist())
    scale = scaling.optional_number("attention_factor")
    if scale is None:
        factor = scaling.positive("factor", default=longest / original)
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return rope_spec(inv_freq / factors, scale=scale)


def _yarn_from_config(
    inv_freq: NDArray[np.float64], theta: float, scaling: Fields, config: Fields
) -> RopeSpec:
    factor = scaling.positive("factor")
    if scaling.has("original_max_position_embeddings"):
        context = scaling.positive("original_max_position_embeddings")
    else:
        context = config.positive("max_position_embeddings")
    inv_freq = _yarn(
        inv_freq,
        theta,
        factor=factor,
        original_context=context,
        beta_fast=scaling.positive("beta_fast", default=32.0),
        beta_slow=scaling.positive("beta_slow", default=1.0),
        truncate=scaling.flag("truncate", default=True),
    )
    scale = scaling.optional_number("attention_factor")
    if scale is None:
        mscale = scaling.optional_number("mscale")
        mscale_all_dim = scaling.optional_number("mscale_all_dim")
        if mscale and mscale_all_dim:
            divisor = _yarn_scale(factor, mscale_all_dim)
            if divisor <= 0:
                raise scaling.invalid("mscale_all_dim", "a positive number", mscale_all_dim)
            scale = _yarn_scale(factor, mscale) / divisor
        else:
            scale = _yarn_scale(factor)
    return rope_spec(inv_freq, scale=scale)


def _yarn(
    inv_freq: NDArray[np.float64],
    theta: float,
    *,
    factor: float,
    original_context: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> NDArray[np.float64]:
    """Interpolate pairs that turn rarely within the original context, keep the others.

    Source: Peng et al. 2023.
    """
    rotary_dim = 2 * inv_freq.size

    def pair_that_turns(times: float) -> float:
        turns = min(max(original_context / (times * 2 * math.pi), 1e-300), 1e300)
        return rotary_dim * math.log(turns) / (2 * math.log(theta))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    pairs = np.arange(inv_freq.size, dtype=np.float64)
    ramp: NDArray[np.float64] = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
    return ramp * inv_freq / factor + (1 - ramp) * inv_freq


def yarn_attention_scale(config: Fields) -> float:
    """What DeepSeek multiplies the scores with beside YaRN: the square of a factor of its own."""
    scaling = config.section("rope_parameters") or config.section("rope_scaling")
    if scaling is None or scaling.text("rope_type", "type", default="default") == "default":
        return 1.0
    mscale_all_dim = scaling.optional_number("mscale_all_dim")
    if not mscale_all_dim:
        return 1.0
    scale = _yarn_scale(scaling.positive("factor"), mscale_all_dim)
    if not 0 < scale < _LARGEST_SCALE:
        raise scaling.invalid("mscale_all_dim", "of a usual size", mscale_all_dim)
    return scale**2


def yarn_attention_scale_from_gguf(metadata: Fields, architecture: str) -> float:
    """The same in GGUF, whose multiplier has the 0.1 of ``_yarn_scale`` in it."""
    prefix = f"{architecture}.rope.scaling"
    if metadata.text(f"{prefix}.type", default="none") != "yarn":
        return 1.0
    multiplier = metadata.number(f"{prefix}.yarn_log_multiplier", default=0.0)
    scale = _yarn_scale(metadata.positive(f"{prefix}.factor"), 10 * multiplier)
    if not 0 < scale < _LARGEST_SCALE:
        raise metadata.invalid(f"{prefix}.yarn_log_multiplier", "of a usual size", multiplier)
    return scale**2


def _yarn_scale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1
