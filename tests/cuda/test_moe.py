"""Mixture of experts: routing, sorting by expert, grouped products and their sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.cuda.launching import DTYPES, Out, assert_close, numbers, run
from tests.cuda.test_gated import gated, matrix_of
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator.numbers import to_bits, to_values
from tests.reference import ACTIVATIONS

i32, f32 = np.int32, np.float32


def route(logits, top_k, *, correction=None, sigmoid=False, normalised=True, scale=1.0):
    tokens, experts = logits.shape
    return run(
        "moe_route_f32",
        (-(-tokens // 4),),
        128,
        [
            *(Out((tokens, top_k), i32), Out((tokens, top_k)), logits, correction),
            *(i32(tokens), i32(experts), i32(top_k), i32(sigmoid), i32(normalised), f32(scale)),
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
    return ids.size // 64 + experts


TOP_K, EXPERTS, WIDTH, K = 2, 35, 40, 96


def case(kind, layout, tokens):
    generator = np.random.default_rng(tokens)
    x = numbers(generator, (tokens, K), kind)
    # One expert has more choices than a tile, most have few or none.
    ids = np.where(
        generator.random((tokens, TOP_K)) < 0.6, [3, 34], generator.integers(0, 30, (tokens, TOP_K))
    )
    ids = ids.astype(i32)
    gates, ups, downs = ([], [], [])
    for expert in range(EXPERTS):
        for parts, n, k in ((gates, WIDTH, K), (ups, WIDTH, K), (downs, K, WIDTH + 24)):
            matrix, values = matrix_of(layout, kind, n, k)
            # Experts differ: rows in another order.
            turned = np.roll(matrix.codes, expert, axis=0) if expert % 2 else matrix.codes
            parts.append((replace(matrix, codes=turned), values))
    return x, ids, gates, ups, downs


@pytest.mark.parametrize(
    ("kind", "layout"), [("bf16", "float"), ("bf16", "int4"), ("f16", "int8-32"), ("bf16", "e4m3")]
)
def test_grouped_products_have_the_bits_of_single_ones(kind, layout):
    tokens = 120
    x, ids, gates, ups, downs = case(kind, layout, tokens)
    start_loc, order = sort(ids.reshape(-1), EXPERTS)
    grid_tiles = tiles_of(ids, EXPERTS)
    weight = kind if layout == "float" else gates[0][0].layout
    gate, up, down = ([matrix for matrix, _ in parts] for parts in (gates, ups, downs))
    gate_codes, gate_scales, codes_step, scales_step = stacked(gate)
    up_codes, up_scales, *_ = stacked(up)
    seeds = range(6) if layout == "float" else (0, 1, 2, 3, 5)
    (middle,) = run(
        f"moe_gated_{kind}_{weight}_silu",
        (1, grid_tiles),
        128,
        [
            *(Out((tokens * TOP_K, WIDTH), DTYPES[kind]), x, start_loc, order),
            *(gate_codes, gate_scales, up_codes, up_scales),
            *(
                i32(EXPERTS),
                i32(TOP_K),
                i32(WIDTH),
                i32(K),
                i32(gate[0].group),
                codes_step,
                scales_step,
            ),
        ],
        seeds=seeds,
    )
    wide = np.concatenate([middle, middle[:, :24]], axis=1)  # 64 columns
    codes, scales, codes_step, scales_step = stacked(down)
    (out,) = run(
        f"moe_linear_{kind}_{weight}",
        (1, grid_tiles),
        128,
        [
            *(Out((tokens * TOP_K, K), DTYPES[kind]), wide, start_loc, order, codes, scales),
            *(
                i32(EXPERTS),
                i32(1),
                i32(K),
                i32(WIDTH + 24),
                i32(down[0].group),
                codes_step,
                scales_step,
            ),
        ],
        seeds=seeds,
    )
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
                "few", wide[choice : choice + 1].copy(), down[expert], None, kind, kind, seeds=(0,)
            )
            assert row[0].tobytes() == out[choice].tobytes()
    even = [choice for choice in range(0, tokens * TOP_K, 5) if ids.reshape(-1)[choice] % 2 == 0]
    gate_out, up_out = (
        np.stack([to_values(x[c // TOP_K]) @ parts[ids.reshape(-1)[c]][1].T for c in even])
        for parts in (gates, ups)
    )
    rounded = [to_values(to_bits(each, kind)) for each in (gate_out, up_out)]
    assert_close(middle[even], ACTIVATIONS["silu"](rounded[0]) * rounded[1], kind, factor=2)


@pytest.mark.parametrize("kind", ["bf16", "f16"])
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
