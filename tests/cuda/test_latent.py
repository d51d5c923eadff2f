"""Latent attention: a matrix per head, turns of slices, keys wider than values."""

from __future__ import annotations

import numpy as np
import pytest
from tests import reference
from tests.cuda.attention_cases import attention_case
from tests.cuda.launching import DTYPES, KINDS, Out, assert_close, numbers, run
from tests.cuda.test_exact_kernels import linear as exact_linear
from tests.cuda.test_gated import matrix_of
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator.numbers import to_bits, to_values

from inferlib.executors.cuda_weights import pack_float, pack_stacked

i32, f32 = np.int32, np.float32
SIZES = [(1, 2, 5, 8, 0), (9, 3, 40, 24, 8), (70, 2, 150, 136, 16)]


def head_linear(x, weight, kind, passed):
    """By the kernel of float32; ``weight`` ``[heads, n, k]``."""
    rows, (heads, n, k) = len(x), weight.shape
    (out,) = run(
        f"head_linear_f32_{kind}",
        (-(-(passed + n) // 4), -(-rows // 8), heads),
        128,
        [
            *(Out((rows, heads * (passed + n))), x, weight),
            *(i32(rows), i32(n), i32(k), i32(passed)),
        ],
    )
    return out


def packed_head_linear(x, packed, heads, kind, layout, passed):
    """By the kernel of 16-bit activations; the shape of ``packed`` is that of each matrix."""
    rows, (n, k) = len(x), packed.shape
    scales = packed.scales
    (out,) = run(
        f"head_linear_{kind}_{kind if layout == 'float' else layout}",
        (-(-n // 128), -(-rows // 64), heads),
        128,
        [
            *(Out((rows, heads * (passed + n)), DTYPES[kind]), x, packed.codes, scales),
            *(i32(rows), i32(n), i32(k), i32(passed), i32(packed.group)),
            *(i32(packed.codes.size // heads), i32(0 if scales is None else scales.size // heads)),
        ],
    )
    return out


def expected_of(x, values, passed):
    """The op in float64; ``values`` ``[heads, n, k]``."""
    heads = to_values(x).reshape(len(x), len(values), -1)
    copied, own = np.split(heads, [passed], axis=-1)
    product = np.einsum("rhk,hnk->rhn", own, values)
    return np.concatenate([copied, product], axis=-1).reshape(len(x), -1)


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    ("rows", "heads", "n", "k", "passed"), [(1, 1, 1, 4, 0), (9, 3, 5, 20, 4), (3, 2, 9, 516, 12)]
)
def test_products_by_head_in_float32(kind, rows, heads, n, k, passed):
    generator = np.random.default_rng(rows)
    x = numbers(generator, (rows, heads * (passed + k)), "f32")
    weight = numbers(generator, (heads, n, k), kind)
    out = head_linear(x, weight, kind, passed)
    assert_close(out, expected_of(x, to_values(weight), passed), "f32")
    found, given = out.reshape(rows, heads, -1), x.reshape(rows, heads, -1)
    assert found[..., :passed].tobytes() == given[..., :passed].tobytes()
    for head in range(heads):
        own = np.ascontiguousarray(given[:, head, passed:])
        alone = exact_linear(own, weight[head], None, kind)
        assert alone.tobytes() == found[:, head, passed:].tobytes()


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize(("rows", "heads", "n", "k", "passed"), SIZES)
def test_products_by_head_of_floats(kind, rows, heads, n, k, passed):
    generator = np.random.default_rng(rows)
    x = numbers(generator, (rows, heads * (passed + k)), kind)
    weight = numbers(generator, (heads, n, k), kind)
    packed = pack_stacked(weight.reshape(-1, k), heads)
    out = packed_head_linear(x, packed, heads, kind, "float", passed)
    assert_close(out, expected_of(x, to_values(weight), passed), kind)
    found, given = out.reshape(rows, heads, -1), x.reshape(rows, heads, -1)
    assert found[..., :passed].tobytes() == given[..., :passed].tobytes()


@pytest.mark.parametrize("layout", ["int8", "int4"])
def test_products_by_head_of_integers(layout):
    rows, heads, n, k, passed = 67, 2, 40, 96, 8
    generator = np.random.default_rng(rows)
    x = numbers(generator, (rows, heads * (passed + k)), "bf16")
    # One matrix whose rows are two heads': both begin at a panel.
    packed, values = matrix_of(layout, "bf16", heads * 48, k)
    by_head = values.reshape(heads, 48, k)[:, :n]
    one = type(packed)(
        **{name: getattr(packed, name) for name in ("layout", "codes", "scales", "group")},
        shape=(n, k),
    )
    out = packed_head_linear(x, one, heads, "bf16", layout, passed)
    assert_close(out, expected_of(x, by_head, passed), "bf16")


def test_products_by_head_have_the_bits_of_single_ones_in_any_number_of_rows():
    generator = np.random.default_rng(5)
    rows, heads, n, k, passed = 70, 3, 48, 544, 8
    x = numbers(generator, (rows, heads * (passed + k)), "bf16")
    weight = numbers(generator, (heads, n, k), "bf16")
    packed = pack_stacked(weight.reshape(-1, k), heads)
    out = packed_head_linear(x, packed, heads, "bf16", "float", passed)
    for first, end in ((0, 1), (69, 70), (3, 12)):
        part = packed_head_linear(x[first:end].copy(), packed, heads, "bf16", "float", passed)
        assert part.tobytes() == out[first:end].tobytes()
    own = np.ascontiguousarray(x.reshape(rows, heads, -1)[:8, 1, passed:])
    alone = linear("few", own, pack_float(weight[1]), None, "bf16", "bf16")
    assert alone.tobytes() == out.reshape(rows, heads, -1)[:8, 1, passed:].tobytes()


SHAPES = [
    {"num_heads": 4, "num_kv_heads": 1, "head_dim": 32, "v_head_dim": 24},
    {"num_heads": 7, "num_kv_heads": 1, "head_dim": 20, "v_head_dim": 132, "softcap": 5.0},
    {"num_heads": 6, "num_kv_heads": 3, "head_dim": 36, "v_head_dim": 4, "window": 19},
    {"num_heads": 5, "num_kv_heads": 1, "head_dim": 64, "v_head_dim": 48, "has_sinks": True},
]
LARGEST = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 576, "v_head_dim": 512}


def attend(case, kind, shape, rows=slice(None)):
    q = np.ascontiguousarray(case.q[rows])
    tokens, num_heads, num_kv_heads = len(q), shape["num_heads"], shape["num_kv_heads"]
    k_dim, v_dim = shape["head_dim"], shape["v_head_dim"]
    (out,) = run(
        f"attention_latent_{kind}",
        (num_kv_heads * -(-num_heads // num_kv_heads // 4), tokens),
        128,
        [
            *(Out((tokens, num_heads * v_dim), DTYPES[kind]), q, case.k_cache, case.v_cache),
            *(case.positions[rows].copy(), case.sequences[rows].copy()),
            *(case.block_tables, case.block_table_start_loc, case.sinks, i32(q.shape[1])),
            *(i32(num_heads), i32(num_kv_heads), i32(k_dim), i32(v_dim)),
            *(i32(shape.get("window") or 0), f32(k_dim**-0.5), f32(shape.get("softcap") or 0)),
        ],
    )
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_attention(kind, shape):
    case = attention_case(kind, lengths=[(1, 1), (1, 77), (3, 33), (2, 64), (5, 5)], **shape)
    assert_close(attend(case, kind, shape), case.expected, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_the_largest_heads(kind):
    case = attention_case(kind, lengths=[(1, 35), (2, 2)], **LARGEST)
    assert_close(attend(case, kind, LARGEST), case.expected, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_has_the_same_bits_alone_and_in_a_chunk(kind):
    shape = SHAPES[0]
    case = attention_case(kind, lengths=[(40, 70)], **shape)
    together = attend(case, kind, shape)
    for row in (0, 1, 39):
        assert (attend(case, kind, shape, rows=slice(row, row + 1)) == together[row]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_heads", "head_dim", "num_pairs"), [(1, 32, 4), (5, 24, 4), (3, 64, 32)]
)
def test_rope_turns_the_first_elements_of_each_head(kind, num_heads, head_dim, num_pairs):
    generator = np.random.default_rng(head_dim)
    before, behind = 8, 4
    stride = before + num_heads * head_dim + behind
    x, positions = numbers(generator, (3, stride), kind), np.array([0, 17, 901], i32)
    inv_freq = (10_000.0 ** -(np.arange(num_pairs) / num_pairs)).astype(f32)
    turned = slice(before, before + num_heads * head_dim)
    flat = x.reshape(-1)[before:]
    (out,) = run(
        f"rope_{kind}",
        (-(-num_heads * num_pairs // 128), 3),
        128,
        [
            *(Out(before=flat), positions, inv_freq),
            *(i32(stride), i32(num_heads), i32(head_dim), i32(num_pairs), f32(1.25)),
        ],
    )
    found = np.concatenate([x.reshape(-1)[:before], out]).reshape(3, stride)
    heads = to_values(x)[:, turned].reshape(3, num_heads, head_dim)
    expected = reference.rope(heads, positions, inv_freq.astype(np.float64), 1.25)
    factor = 20 if kind == "f32" else 1  # the angle of position 901 is known to 24 bits
    assert_close(found[:, turned], expected.reshape(3, -1), kind, factor=factor)
    rest = found[:, turned].reshape(3, num_heads, head_dim)[..., 2 * num_pairs :]
    given = x[:, turned].reshape(3, num_heads, head_dim)[..., 2 * num_pairs :]
    assert rest.tobytes() == given.tobytes()
    for outside in (slice(0, before), slice(turned.stop, None)):
        assert found[:, outside].tobytes() == x[:, outside].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_kv_heads", "k_dim", "v_dim", "k_start", "v_start"),
    [(1, 32, 24, 0, 8), (3, 20, 68, 4, 70), (1, 576, 512, 0, 64)],
)
def test_keys_and_values_of_different_widths_are_stored(
    kind, num_kv_heads, k_dim, v_dim, k_start, v_start
):
    generator = np.random.default_rng(k_dim)
    stride = max(k_start + num_kv_heads * k_dim, v_start + num_kv_heads * v_dim) + 4
    x, slots = numbers(generator, (3, stride), kind), np.array([5, 63, 16], i32)
    before = [to_bits(np.full((4, num_kv_heads, 16, dim), 9.0), kind) for dim in (k_dim, v_dim)]
    found = run(
        f"store_kv_{kind}",
        (3,),
        128,
        [
            *(x, *(Out(before=each) for each in before), slots, i32(stride)),
            *(i32(each) for each in (k_start, v_start, num_kv_heads, k_dim, v_dim)),
        ],
    )
    for cache, untouched, start, dim in zip(
        found, before, (k_start, v_start), (k_dim, v_dim), strict=True
    ):
        expected = untouched.copy()
        for token, slot in enumerate(slots):
            part = x[token, start : start + num_kv_heads * dim]
            expected[slot // 16, :, slot % 16] = part.reshape(num_kv_heads, dim)
        assert cache.tobytes() == expected.tobytes()
