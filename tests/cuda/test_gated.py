"""gated_few and gated_many: the bits of two products and an activation, in one kernel."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.launching import DTYPES, Out, assert_close, numbers, run
from tests.cuda.test_packed_weights import linear, weights
from tests.cuda.test_weight_formats import fp8_case
from tests.cuda_emulator.numbers import to_bits, to_values
from tests.reference import ACTIVATIONS

from inferlib.executors.fp8_weights import pack_fp8

i32, f32 = np.int32, np.float32


def matrix_of(layout, kind, n, k):
    if layout != "e4m3":
        return weights(layout, kind, n, k)
    codes, scales, values = fp8_case("e4m3", n, k, None)
    return pack_fp8("e4m3", codes, scales / 64), to_values(to_bits(values / 64, kind))


def gated(kernel, x, matrices, biases, kind, activation, seeds=None):
    (rows, k), width = x.shape, matrices[0].shape[0]
    weight = kind if matrices[0].layout == "float" else matrices[0].layout
    few = kernel == "few"
    arguments = [Out((rows, width), DTYPES[kind]), x]
    for matrix, bias in zip(matrices, biases, strict=True):
        arguments += [matrix.codes, matrix.scales, bias]
    arguments += [i32(rows), i32(width), i32(k), i32(matrices[0].group)]
    (out,) = run(
        f"gated_{kernel}_{kind}_{weight}_{activation}",
        (-(-width // 16),) if few else (-(-width // 64), -(-rows // 64)),
        128,
        arguments,
        shared_bytes=2 * -(-k // 512) * 512 if few else 0,
        **({} if seeds is None else {"seeds": seeds}),
    )
    return out


@pytest.mark.parametrize("kernel", ["few", "many"])
@pytest.mark.parametrize(
    ("kind", "layout", "activation"),
    [
        ("bf16", "float", "silu"),
        ("bf16", "int8-16", "gelu_tanh"),
        ("f16", "int4", "silu"),
        ("f16", "float", "gelu_tanh"),
        ("bf16", "e4m3", "silu"),
    ],
)
def test_gated_products(kernel, kind, layout, activation):
    rows, width, k = 7, 37, 1056
    generator = np.random.default_rng(2)
    x = numbers(generator, (rows, k), kind)
    (gate, gate_values), (up, up_values) = (
        matrix_of(layout, kind, width + extra, k) for extra in (0, 64)
    )
    up_values = up_values[:width]
    up = type(up)(
        layout=up.layout,
        shape=(width, k),
        codes=up.codes[:3],
        scales=None if up.scales is None else up.scales[:3],
        group=up.group,
    )
    biases = (np.linspace(-1, 1, width).astype(f32), None) if kind == "f16" else (None, None)
    out = gated(kernel, x, (gate, up), biases, kind, activation)

    products = [
        linear(kernel, x, matrix, bias, kind, kind, seeds=(0,))
        for matrix, bias in zip((gate, up), biases, strict=True)
    ]
    both = np.concatenate([np.pad(each, ((0, 0), (0, 3))) for each in products], axis=1)
    (separate,) = run(
        f"act_and_mul_{activation}_{kind}",
        (1, rows),
        128,
        [Out((rows, width + 3), DTYPES[kind]), both, i32(width + 3)],
        seeds=(0,),
    )
    assert out.tobytes() == np.ascontiguousarray(separate[:, :width]).tobytes()
    # And not only equal: near the right answer, with the roundings of the separate ops.
    gates, ups = (
        to_values(to_bits(to_values(x) @ values.T + (0 if bias is None else bias), kind))
        for values, bias in zip((gate_values, up_values), biases, strict=True)
    )
    assert_close(out, ACTIVATIONS[activation](gates) * ups, kind, factor=2)


def test_a_row_has_the_same_bits_from_both_kernels():
    k = 1120
    x = numbers(np.random.default_rng(0), (66, k), "bf16")
    (gate, _), (up, _) = (weights("float", "bf16", n, k) for n in (70, 72))
    up = type(up)(layout="float", shape=gate.shape, codes=up.codes, scales=None, group=0)
    together = gated("many", x, (gate, up), (None, None), "bf16", "silu", seeds=(0,))
    for first, rows in ((0, 1), (58, 8), (65, 1)):
        part = x[first : first + rows].copy()
        for kernel in ("few", "many"):
            alone = gated(kernel, part, (gate, up), (None, None), "bf16", "silu", seeds=(0, 1))
            assert alone.tobytes() == together[first : first + rows].tobytes()
