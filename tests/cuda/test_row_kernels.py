"""Kernels that work on one row at a time: embedding, norms, activations, sums, copies."""

from __future__ import annotations

import numpy as np
import pytest
from tests import reference
from tests.cuda.launching import DTYPES, KINDS, Out, assert_close, numbers, run
from tests.cuda_emulator.numbers import to_bits, to_values

i32, f32 = np.int32, np.float32

OF_DECODERS = sorted(reference.ACTIVATIONS.keys() - {"tanh"})
"""`tanh` is that of encoders' poolers, which no device runs."""


@pytest.fixture
def generator():
    return np.random.default_rng(7)


@pytest.mark.parametrize("pair", ["f32_f32", "f32_bf16", "f32_f16", "bf16_bf16", "f16_f16"])
@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (7, 516), (3, 1028)])
def test_embedding(generator, pair, tokens, width):
    kind, table_kind = pair.split("_")
    table = numbers(generator, (11, width), table_kind)
    ids = generator.integers(0, 11, tokens).astype(i32)
    (out,) = run(
        f"embedding_{pair}",
        (tokens,),
        128,
        [Out((tokens, width), DTYPES[kind]), table, ids, i32(width), f32(1.5)],
    )
    assert_close(out, to_values(table)[ids] * 1.5, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_gather_rows_moves_bits(generator, kind):
    x = numbers(generator, (9, 36), kind)
    indices = np.array([8, 0, 3, 3], i32)
    (out,) = run(
        f"gather_rows_{kind}", (4,), 128, [Out((4, 36), DTYPES[kind]), x, indices, i32(36)]
    )
    assert (out == x[indices]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [4, 1020, 1028])
def test_add_in_place(generator, kind, n):
    a, b = numbers(generator, (n,), kind), numbers(generator, (n,), kind)
    (out,) = run(f"add_{kind}", (-(-n // 1024),), 256, [Out((n,), DTYPES[kind]), a, b, i32(n)])
    assert_close(out, to_values(a) + to_values(b), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "groups", "width"), [(1, 1, 4), (3, 1, 516), (2, 5, 64), (2, 3, 20)]
)
def test_rms_norm(generator, kind, rows, groups, width):
    stride, start = groups * width + 12, 8
    x = numbers(generator, (rows, stride), kind)
    weight = generator.standard_normal(width).astype(f32)
    arguments = [weight, i32(width), i32(stride), i32(groups * width), f32(1e-5)]
    part = np.ascontiguousarray(x)[:, start : start + groups * width]
    flat = x.reshape(-1)[start:]
    (out,) = run(
        f"rms_norm_{kind}",
        (rows, groups),
        128,
        [Out((rows, groups * width), DTYPES[kind]), flat, *arguments],
    )
    expected = reference.rms_norm(to_values(part), weight.astype(np.float64), 1e-5)
    assert_close(out, expected, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "width"), [(1, 4), (5, 516), (2, 1028)])
def test_rms_norm_add_stores_the_sum_and_is_the_two_ops(generator, kind, rows, width):
    hidden, branch = (numbers(generator, (rows, width), kind) for _ in range(2))
    weight = generator.standard_normal(width).astype(f32)
    dtype = DTYPES[kind]
    out, total = run(
        f"rms_norm_add_{kind}",
        (rows,),
        128,
        [Out((rows, width), dtype), Out(before=hidden), branch, weight, i32(width), f32(1e-6)],
    )
    n = rows * width
    (separate,) = run(
        f"add_{kind}", (-(-n // 1024),), 256, [Out((rows, width), dtype), hidden, branch, i32(n)]
    )
    (normed,) = run(
        f"rms_norm_{kind}",
        (rows, 1),
        128,
        [
            Out((rows, width), dtype),
            separate,
            weight,
            i32(width),
            i32(width),
            i32(width),
            f32(1e-6),
        ],
    )
    assert total.tobytes() == separate.tobytes()
    assert out.tobytes() == normed.tobytes()
    assert_close(total, to_values(hidden) + to_values(branch), kind)


def layer_norm(kind, x, weight, bias):
    rows, width = x.shape
    (out,) = run(
        f"layer_norm_{kind}",
        (rows,),
        128,
        [Out((rows, width), DTYPES[kind]), x, weight, bias, i32(width), f32(1e-5)],
    )
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "width", "has_bias"), [(1, 4, True), (3, 516, True), (2, 1028, False), (5, 20, False)]
)
def test_layer_norm(generator, kind, rows, width, has_bias):
    # Far from zero: the squares must be those of deviations, not of the values.
    x = to_bits(generator.standard_normal((rows, width)) + 20, kind)
    weight = generator.standard_normal(width).astype(f32)
    bias = generator.standard_normal(width).astype(f32) if has_bias else None
    expected = reference.layer_norm(to_values(x), weight.astype(np.float64), bias, 1e-5)
    # The mean is known to 24 bits, and 20 times as large as a deviation.
    factor = 5 if kind == "f32" else 1
    assert_close(layer_norm(kind, x, weight, bias), expected, kind, factor=factor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "width"), [(1, 4), (5, 516), (2, 1028)])
def test_layer_norm_add_stores_the_sum_and_is_the_two_ops(generator, kind, rows, width):
    hidden, branch = (numbers(generator, (rows, width), kind) for _ in range(2))
    weight, bias = (generator.standard_normal(width).astype(f32) for _ in range(2))
    dtype, n = DTYPES[kind], rows * width
    out, total = run(
        f"layer_norm_add_{kind}",
        (rows,),
        128,
        [
            *(Out((rows, width), dtype), Out(before=hidden), branch, weight, bias),
            *(i32(width), f32(1e-5)),
        ],
    )
    (separate,) = run(
        f"add_{kind}", (-(-n // 1024),), 256, [Out((rows, width), dtype), hidden, branch, i32(n)]
    )
    assert total.tobytes() == separate.tobytes()
    assert out.tobytes() == layer_norm(kind, separate, weight, bias).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [4, 1020, 1028])
def test_scale_in_place(generator, kind, n):
    x = numbers(generator, (n,), kind)
    (out,) = run(f"scale_{kind}", (-(-n // 1024),), 256, [Out(before=x), i32(n), f32(0.3)])
    assert_close(out, to_values(x) * np.float64(f32(0.3)), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", OF_DECODERS)
@pytest.mark.parametrize("n", [4, 1028])
def test_activation_in_place(generator, kind, activation, n):
    x = to_bits(3 * generator.standard_normal(n), kind)
    kernel = f"activation_{activation}_{kind}"
    (out,) = run(kernel, (-(-n // 1024),), 256, [Out((n,), DTYPES[kind]), x, i32(n)])
    assert_close(out, reference.ACTIVATIONS[activation](to_values(x)), kind)


@pytest.mark.parametrize("activation", [*OF_DECODERS, "clamped_swiglu"])
def test_what_is_no_number_stays_none(activation):
    x = np.full((1, 8), np.nan, f32)
    x[0, 4:] = 1
    (gated,) = run(f"act_and_mul_{activation}_f32", (1, 1), 128, [Out((1, 4)), x, i32(4)])
    assert np.isnan(gated).all()
    if activation in reference.ACTIVATIONS:
        (out,) = run(f"activation_{activation}_f32", (1,), 256, [Out((4,)), x[0, :4], i32(4)])
        assert np.isnan(out).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [*OF_DECODERS, "clamped_swiglu"])
@pytest.mark.parametrize(("rows", "width"), [(1, 4), (3, 516)])
def test_act_and_mul(generator, kind, activation, rows, width):
    # Beyond 7 it is clamped by one of them.
    x = to_bits(4 * generator.standard_normal((rows, 2 * width)), kind)
    (out,) = run(
        f"act_and_mul_{activation}_{kind}",
        (-(-width // 512), rows),
        128,
        [Out((rows, width), DTYPES[kind]), x, i32(width)],
    )
    gate, up = np.split(to_values(x), 2, axis=1)
    assert_close(out, reference.act_and_mul(gate, up, activation), kind)


def test_softcap(generator):
    x = (40 * generator.standard_normal(300)).astype(f32)
    (out,) = run("softcap_f32", (2,), 256, [Out(before=x), i32(300), f32(30)])
    assert_close(out, reference.cap(x.astype(np.float64), 30), "f32")


@pytest.mark.parametrize("vocab_size", [1, 31, 1023, 5000])
def test_argmax_takes_the_lowest_of_equals_and_reports_what_is_no_number(generator, vocab_size):
    logits = generator.integers(-50, 50, (6, vocab_size)).astype(f32)
    logits[1] = -np.inf
    logits[2, -1] = np.nan
    logits[3, vocab_size // 2] = np.inf
    logits[4, :-1] = -np.inf
    ids, failed = run(
        "argmax_f32", (6,), 1024, [Out((6,), i32), Out((6,), i32), logits, i32(vocab_size)]
    )
    assert failed.tolist() == [0, 1, 1, 1, 0, 0]
    sound = failed == 0
    assert (ids[sound] == logits[sound].argmax(axis=1)).all()


def test_copy_blocks():
    k = np.arange(5 * 40, dtype=np.uint32).reshape(5, 40)
    v = np.arange(5 * 24, dtype=np.uint32).reshape(5, 24)
    pairs = np.array([0, 4, 3, 1], i32)
    new_k, new_v = run(
        "copy_blocks_u32", (2,), 256, [Out(before=k), Out(before=v), pairs, i32(40), i32(24)]
    )
    order = [0, 3, 2, 3, 0]
    assert (new_k == k[order]).all()
    assert (new_v == v[order]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "num_pairs", "has_norm"),
    [(4, 2, 16, 8, False), (3, 1, 64, 32, True), (5, 5, 20, 6, True), (2, 1, 256, 0, False)],
)
def test_rope_store_kv(generator, kind, num_heads, num_kv_heads, head_dim, num_pairs, has_norm):
    tokens, num_blocks = 3, 4
    stride = (num_heads + 2 * num_kv_heads) * head_dim
    qkv = numbers(generator, (tokens, stride), kind)
    cache = (num_blocks, num_kv_heads, 16, head_dim)
    positions, slots = np.array([0, 17, 901], i32), np.array([5, 63, 16], i32)
    inv_freq = (10_000.0 ** -(np.arange(num_pairs) / max(num_pairs, 1))).astype(f32)
    norms = [generator.standard_normal(head_dim).astype(f32) if has_norm else None for _ in "qk"]
    before = to_bits(np.full(cache, 9.0), kind)
    sizes = [i32(size) for size in (stride, num_heads, num_kv_heads, head_dim, num_pairs)]
    out, k_cache, v_cache = run(
        f"rope_store_kv_{kind}",
        (-(-(num_heads + 2 * num_kv_heads) // 4), tokens),
        128,
        [
            *(Out(before=qkv), Out(before=before), Out(before=before)),
            *(positions, slots, inv_freq, *norms, *sizes, f32(1.25), f32(1e-6)),
        ],
    )
    heads = to_values(qkv).reshape(tokens, -1, head_dim)
    q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    parts = []
    for part, norm in zip((q, k), norms, strict=True):
        if norm is not None:
            flat = reference.rms_norm(part.reshape(tokens, -1), norm.astype(np.float64), 1e-6)
            part = flat.reshape(part.shape)
        if num_pairs:
            part = reference.rope(part, positions, inv_freq.astype(np.float64), 1.25)
        parts.append(part)
    expected = np.concatenate([*parts, v], axis=1).reshape(tokens, stride)
    # The angle of position 901 is known to 24 bits; a norm rounds once more.
    assert_close(out, expected, kind, factor=20 if kind == "f32" else 1.5)
    found = to_values(out).reshape(tokens, -1, head_dim)
    for cache_after, first in ((k_cache, num_heads), (v_cache, num_heads + num_kv_heads)):
        values = to_values(cache_after)
        for token, slot in enumerate(slots):
            stored = values[slot // 16, :, slot % 16]
            assert (stored == found[token, first : first + num_kv_heads]).all()
            values[slot // 16, :, slot % 16] = 9.0
        assert (values == 9.0).all()
