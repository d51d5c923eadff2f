"""Mixture of experts: routing, sorting by expert, grouped products and their sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.cuda.launching import DTYPES, KINDS, Out, assert_close, numbers, run
from tests.cuda.test_exact_kernels import linear as exact_linear
from tests.cuda.test_gated import gated, matrix_of
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator.numbers import to_bits, to_values
from tests.reference import ACTIVATIONS, act_and_mul

from inferlib.executors.cuda_weights import (
    QuantizedMatrix,
    pack_float,
    pack_quantized,
    pack_stacked,
)

i32, f32 = np.int32, np.float32


def route(
    logits, top_k, *, correction=None, sigmoid=False, normalised=True, scale=1.0, groups=(0, 0, 0)
):
    tokens, experts = logits.shape
    return run(
        "moe_route_f32",
        (-(-tokens // 4),),
        128,
        [
            *(Out((tokens, top_k), i32), Out((tokens, top_k)), logits, correction),
            *(i32(tokens), i32(experts), i32(top_k), i32(sigmoid), i32(normalised), f32(scale)),
            *(i32(each) for each in groups),
        ],
    )


def sort(ids, experts):
    return run(
        "moe_sort_i32",
        (experts,),
        256,
        [Out((experts + 1,), i32), Out((ids.size,), i32), ids, i32(ids.size)],
    )


@pytest.mark.parametrize(
    ("experts", "top_k", "options"),
    [
        (8, 2, {}),
        (60, 4, {"normalised": False}),
        (257, 8, {"sigmoid": True, "correction": True, "scale": 2.5}),
        (5, 5, {"scale": 0.5}),
        (1, 1, {}),
        (256, 8, {"sigmoid": True, "correction": True, "scale": 2.5, "groups": (8, 4, 2)}),
        (160, 6, {"normalised": False, "scale": 16.0, "groups": (8, 3, 1)}),
        (42, 3, {"correction": True, "groups": (42, 5, 1)}),
        (6, 2, {"groups": (3, 1, 2)}),
        (6, 2, {"groups": (1, 1, 2)}),
        (512, 32, {"sigmoid": True, "groups": (64, 9, 2)}),
    ],
)
def test_routing(experts, top_k, options):
    generator = np.random.default_rng(experts)
    logits = generator.standard_normal((7, experts)).astype(f32)
    correction = None
    if options.get("correction"):
        correction = (generator.standard_normal(experts) * 0.2).astype(f32)
    ids, weights = route(logits, top_k, **{**options, "correction": correction})
    wide = logits.astype(np.float64)
    if options.get("sigmoid"):
        scores = 1 / (1 + np.exp(-wide))
    else:
        scores = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    choice = scores + (0 if correction is None else correction)
    if "groups" in options:
        count, kept, scored = options["groups"]
        of_groups = choice.reshape(len(choice), count, -1)
        values = np.sort(of_groups)[..., -scored:].sum(axis=-1)
        for row, order in zip(of_groups, np.argsort(-values, axis=1, kind="stable"), strict=True):
            row[order[kept:]] = -np.inf
    expected = np.argsort(-choice, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(ids, expected)
    chosen = np.take_along_axis(scores, expected, axis=1)
    if options.get("normalised", True):
        chosen /= chosen.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, chosen * options.get("scale", 1), rtol=2e-6)


def test_equal_scores_go_to_the_lowest_expert_and_nan_comes_last():
    logits = np.zeros((3, 40), f32)
    logits[1, [33, 7]] = 1
    logits[2, :38] = np.nan
    ids, weights = route(logits, 3)
    assert ids.tolist() == [[0, 1, 2], [7, 33, 0], [38, 39, 0]]
    np.testing.assert_allclose(weights[0], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(weights[2], [0.5, 0.5, 0], rtol=1e-6)


def test_equal_groups_go_to_the_lowest():
    logits = np.zeros((3, 8), f32)
    logits[1, [2, 7]] = 1
    logits[2, [4, 5, 7]] = [1, 1, 1.5]
    ids, _ = route(logits, 4, groups=(4, 2, 2))
    assert ids.tolist() == [[0, 1, 2, 3], [2, 7, 3, 6], [7, 4, 5, 6]]
    # Two experts speak for a group: the last one has the best, but not the best two.
    logits[2, 7] = 1.1
    ids, _ = route(logits, 2, groups=(4, 1, 2))
    assert ids.tolist() == [[0, 1], [2, 3], [4, 5]]
    ids, _ = route(logits, 2, groups=(4, 1, 1))
    assert ids.tolist() == [[0, 1], [2, 3], [7, 6]]


@pytest.mark.parametrize(("count", "experts"), [(1, 1), (257, 3), (700, 64)])
def test_choices_are_sorted_by_expert(count, experts):
    ids = np.random.default_rng(count).integers(0, experts, count).astype(i32)
    start_loc, order = sort(ids, experts)
    np.testing.assert_array_equal(order, np.argsort(ids, kind="stable"))
    np.testing.assert_array_equal(start_loc, np.searchsorted(np.sort(ids), np.arange(experts + 1)))


def stacked(matrices):
    """Packed matrices of all experts, and the steps between them."""
    codes = np.stack([each.codes for each in matrices])
    scales = None
    if matrices[0].scales is not None:
        scales = np.stack([each.scales for each in matrices])
    return codes, scales, i32(codes[0].size), i32(0 if scales is None else scales[0].size)


def tiles_of(ids, experts):
    return min(ids.size, ids.size // 64 + experts)


TOP_K, EXPERTS, WIDTH, K = 2, 35, 40, 96


def choices(generator, tokens):
    """Experts of each token: two have more choices than a tile, most have few or none."""
    ids = np.where(
        generator.random((tokens, TOP_K)) < 0.6, [3, 34], generator.integers(0, 30, (tokens, TOP_K))
    )
    return ids.astype(i32)


def case(kind, layout, tokens):
    """Input, choices, and of gate, up and down: packed matrices and their values."""
    generator = np.random.default_rng(tokens)
    x, ids = numbers(generator, (tokens, K), kind), choices(generator, tokens)
    gates, ups, downs = ([], [], [])
    # Integers come in groups of 32 columns; floats are filled up.
    inner = WIDTH if layout == "float" else WIDTH + 24
    for expert in range(EXPERTS):
        for parts, n, k in ((gates, WIDTH, K), (ups, WIDTH, K), (downs, K, inner)):
            if layout == "float":
                values = numbers(generator, (n, k), kind)
                parts.append((pack_stacked(values, 1), to_values(values)))
                continue
            matrix, values = matrix_of(layout, kind, n, k)
            # Experts differ: rows in another order.
            turned = np.roll(matrix.codes, expert, axis=0) if expert % 2 else matrix.codes
            parts.append((replace(matrix, codes=turned), values))
    return x, ids, gates, ups, downs


def biases(seed, n):
    return np.random.default_rng(seed).standard_normal(EXPERTS * n).astype(f32)


def moe_gated(x, ids, gate, up, both_biases, kind, activation, seeds):
    start_loc, order = sort(ids.reshape(-1), EXPERTS)
    weight = kind if gate[0].layout == "float" else gate[0].layout
    gate_codes, gate_scales, codes_step, scales_step = stacked(gate)
    up_codes, up_scales, *_ = stacked(up)
    (out,) = run(
        f"moe_gated_{kind}_{weight}_{activation}",
        (1, tiles_of(ids, EXPERTS)),
        128,
        [
            *(Out((ids.size, WIDTH), DTYPES[kind]), x, start_loc, order),
            *(gate_codes, gate_scales, both_biases[0], up_codes, up_scales, both_biases[1]),
            *(i32(EXPERTS), i32(TOP_K), i32(WIDTH), i32(K), i32(gate[0].group)),
            *(codes_step, scales_step),
        ],
        seeds=seeds,
    )
    return out


def moe_linear(x, divisor, ids, matrices, bias, kind, seeds, n=K):
    start_loc, order = sort(ids.reshape(-1), EXPERTS)
    weight = kind if matrices[0].layout == "float" else matrices[0].layout
    codes, scales, codes_step, scales_step = stacked(matrices)
    (out,) = run(
        f"moe_linear_{kind}_{weight}",
        (1, tiles_of(ids, EXPERTS)),
        128,
        [
            *(Out((ids.size, n + 4), DTYPES[kind]), x, start_loc, order, codes, scales, bias),
            *(i32(EXPERTS), i32(divisor), i32(n), i32(x.shape[1]), i32(matrices[0].group)),
            *(codes_step, scales_step, i32(n + 4)),
        ],
        seeds=seeds,
    )
    return np.ascontiguousarray(out[:, :n])


@pytest.mark.parametrize(
    ("kind", "layout"), [("bf16", "float"), ("bf16", "int4"), ("f16", "int8-32"), ("bf16", "e4m3")]
)
def test_grouped_products_have_the_bits_of_single_ones(kind, layout):
    tokens = 120
    x, ids, gates, ups, downs = case(kind, layout, tokens)
    gate, up, down = ([matrix for matrix, _ in parts] for parts in (gates, ups, downs))
    seeds = range(6) if layout == "float" else (0, 1, 2, 3, 5)
    middle = moe_gated(x, ids, gate, up, (None, None), kind, "silu", seeds)
    columns = down[0].codes.shape[1] * 32  # what is packed
    filled = np.concatenate([middle, np.zeros_like(middle[:, : columns - WIDTH])], axis=1)
    out = moe_linear(middle if layout == "float" else filled, 1, ids, down, None, kind, seeds)
    assert np.isfinite(to_values(middle)).all()  # every choice belongs to some tile
    assert np.isfinite(to_values(out)).all()
    for token in range(0, tokens, 17):
        for slot in range(TOP_K):
            expert, choice = int(ids[token, slot]), token * TOP_K + slot
            alone = gated(
                "few",
                x[token : token + 1].copy(),
                (gate[expert], up[expert]),
                (None, None),
                kind,
                "silu",
                seeds=(0,),
            )
            assert alone[0].tobytes() == middle[choice].tobytes()
            row = linear(
                *("few", filled[choice : choice + 1].copy(), down[expert], None, kind, kind),
                seeds=(0,),
            )
            assert row[0].tobytes() == out[choice].tobytes()
    even = [choice for choice in range(0, tokens * TOP_K, 5) if ids.reshape(-1)[choice] % 2 == 0]
    chosen = ids.reshape(-1)
    gate_out, up_out = (
        np.stack([to_values(x[c // TOP_K]) @ parts[chosen[c]][1].T for c in even])
        for parts in (gates, ups)
    )
    rounded = [to_values(to_bits(each, kind)) for each in (gate_out, up_out)]
    assert_close(middle[even], ACTIVATIONS["silu"](rounded[0]) * rounded[1], kind, factor=2)


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_grouped_products_with_biases_and_the_activation_of_gpt_oss(kind):
    tokens = 70
    x, ids, gates, ups, downs = case(kind, "float", tokens)
    gate, up, down = ([matrix for matrix, _ in parts] for parts in (gates, ups, downs))
    gate_bias, up_bias = 4 * biases(0, WIDTH), biases(1, WIDTH)
    both = (gate_bias, up_bias)
    middle = moe_gated(x, ids, gate, up, both, kind, "clamped_swiglu", range(6))
    products = [
        moe_linear(x, TOP_K, ids, matrices, bias, kind, (0, 4), n=WIDTH)
        for matrices, bias in ((gate, gate_bias), (up, up_bias))
    ]
    (separate,) = run(
        f"act_and_mul_clamped_swiglu_{kind}",
        (1, ids.size),
        128,
        [Out(middle.shape, DTYPES[kind]), np.concatenate(products, axis=1), i32(WIDTH)],
        seeds=(0,),
    )
    assert separate.tobytes() == middle.tobytes()
    down_bias = biases(2, K)
    out = moe_linear(middle, 1, ids, down, down_bias, kind, (0, 3))
    expected, inner = [], []
    for choice, expert in enumerate(ids.reshape(-1)):
        row = to_values(x[choice // TOP_K])
        halves = [
            to_values(to_bits(row @ parts[expert][1].T + bias.reshape(EXPERTS, -1)[expert], kind))
            for parts, bias in ((gates, gate_bias), (ups, up_bias))
        ]
        inner.append(act_and_mul(*halves, "clamped_swiglu"))
        row = to_values(middle[choice]) @ downs[expert][1].T
        expected.append(row + down_bias.reshape(EXPERTS, -1)[expert])
    assert_close(middle, np.stack(inner), kind, factor=2)
    assert_close(out, np.stack(expected), kind)


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    ("tokens", "n", "k", "divisor"), [(1, 5, 4, 2), (70, 7, 132, 2), (9, 9, 516, 1)]
)
def test_grouped_products_in_float32(kind, tokens, n, k, divisor):
    generator = np.random.default_rng(tokens)
    ids = choices(generator, tokens)
    x = numbers(generator, (ids.size // divisor, k), "f32")
    weight, bias = numbers(generator, (EXPERTS, n, k), kind), biases(3, n)
    start_loc, order = sort(ids.reshape(-1), EXPERTS)
    (out,) = run(
        f"moe_linear_f32_{kind}",
        (-(-n // 4), min(ids.size, ids.size // 8 + EXPERTS)),
        128,
        [
            *(Out((ids.size, n + 4)), x, start_loc, order, weight, bias),
            *(i32(EXPERTS), i32(divisor), i32(n), i32(k), i32(n + 4)),
        ],
    )
    values = to_values(weight)
    rows = [
        x[c // divisor].astype(np.float64) @ values[e].T + bias.reshape(EXPERTS, n)[e]
        for c, e in enumerate(ids.reshape(-1))
    ]
    assert_close(out[:, :n], np.stack(rows), "f32")
    for choice in range(0, ids.size, 13):
        expert = ids.reshape(-1)[choice]
        row = x[choice // divisor :][:1].copy()
        alone = exact_linear(row, weight[expert], bias.reshape(EXPERTS, n)[expert].copy(), kind)
        assert alone[0].tobytes() == out[choice, :n].tobytes()


def test_experts_of_any_size_are_packed_from_a_panel_on():
    generator = np.random.default_rng(4)
    values = numbers(generator, (3 * 20, 40), "bf16")
    packed = pack_stacked(values, 3)
    filled = np.pad(values.reshape(3, 20, 40), ((0, 0), (0, 0), (0, 24)))
    for expert, codes in enumerate(np.split(packed.codes, 3)):
        assert codes.tobytes() == pack_float(filled[expert].copy()).codes.tobytes()
    codes = generator.integers(0, 16, (3 * 20, 64)).astype(np.int8)
    scales = generator.standard_normal((2, 3 * 20, 2)).astype(f32)
    matrix = QuantizedMatrix(codes=codes, scales=scales[0], minimums=scales[1])
    packed = pack_stacked(matrix, 3)
    for expert in range(3):
        alone = pack_quantized(matrix.rows(np.arange(20 * expert, 20 * expert + 20)))
        assert np.split(packed.codes, 3)[expert].tobytes() == alone.codes.tobytes()
        assert np.split(packed.scales, 3)[expert].tobytes() == alone.scales.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_added_in_the_order_of_the_tokens_choices(kind):
    generator = np.random.default_rng(1)
    y, weights = numbers(generator, (15, 516), kind), generator.random((5, 3)).astype(f32)
    (out,) = run(
        f"moe_combine_{kind}",
        (2, 5),
        128,
        [Out((5, 516), DTYPES[kind]), y, weights, i32(3), i32(516)],
    )
    expected = (to_values(y).reshape(5, 3, 516) * weights[:, :, None]).sum(axis=1)
    assert_close(out, expected, kind)
