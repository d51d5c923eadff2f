"""lm_head_argmax: the ids of argmax over the logits that never leave the chip."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.launching import Out, numbers, run
from tests.cuda.test_gated import matrix_of
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator.numbers import to_bits

from inferlib.executors.cuda_weights import pack_float

i32, f32 = np.int32, np.float32


def argmax(x, matrix, kind, softcap=0.0):
    rows, (n, k) = len(x), matrix.shape
    weight = kind if matrix.layout == "float" else matrix.layout
    panels = -(-n // 16)
    values, indices = run(
        f"lm_head_argmax_{kind}_{weight}",
        (panels,),
        128,
        [
            *(Out(before=np.zeros((panels, 8), f32)), Out(before=np.zeros((panels, 8), i32))),
            *(x, matrix.codes, matrix.scales, i32(rows), i32(n), i32(k), i32(matrix.group)),
            f32(softcap),
        ],
        shared_bytes=-(-k // 512) * 512,
    )
    arguments = [Out((rows,), i32), Out((rows,), i32), values, indices, i32(panels)]
    return run("lm_head_argmax_combine", (rows,), 1024, arguments)


@pytest.mark.parametrize(
    ("kind", "layout"), [("bf16", "float"), ("bf16", "int8-32"), ("f16", "int4"), ("bf16", "e4m3")]
)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 32), (8, 333, 544)])
def test_ids_are_those_of_the_logits(kind, layout, rows, n, k):
    x = numbers(np.random.default_rng(rows), (rows, k), kind)
    matrix, _ = matrix_of(layout, kind, n, k)
    ids, failed = argmax(x, matrix, kind)
    logits = linear("few", x, matrix, None, kind, "f32", seeds=(0,))
    assert (ids == logits.argmax(axis=1)).all()
    assert not failed.any()


def test_the_lowest_of_equals_and_what_is_no_number():
    weight = np.zeros((300, 32), f32)
    weight[[290, 77, 150], 0] = 1  # equal logits in three panels
    weight[3, 1] = np.nan
    x = np.zeros((4, 32), f32)
    x[0, 0] = x[1, 0] = 1
    x[1, 1] = 1
    x[2, 0] = -1
    matrix = pack_float(to_bits(weight, "bf16"))
    clean = pack_float(to_bits(np.nan_to_num(weight), "bf16"))
    ids, failed = argmax(to_bits(x, "bf16"), clean, "bf16")
    assert ids.tolist() == [77, 77, 0, 0]
    assert not failed.any()
    ids, failed = argmax(to_bits(x, "bf16"), matrix, "bf16")
    assert failed.all()


def test_a_cap_that_makes_logits_equal_leaves_the_lowest():
    weight = np.zeros((40, 32), f32)
    weight[[20, 30], 0] = [300, 301]  # both come to the cap
    x = np.zeros((1, 32), f32)
    x[0, 0] = 1
    matrix = pack_float(to_bits(weight, "f16"))
    assert argmax(to_bits(x, "f16"), matrix, "f16")[0].tolist() == [30]
    assert argmax(to_bits(x, "f16"), matrix, "f16", softcap=5.0)[0].tolist() == [20]
