"""The emulator's barriers in shared memory, tensor loads and warpgroup products, and mistakes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.cuda_emulator import Emulator, KernelError
from tests.cuda_emulator.numbers import to_bits, to_values

from inferlib.executors.tensor_maps import TensorMap

PROBES = Path(__file__).parent.parent / "cuda_emulator" / "kernels"
SEEDS = range(6)


MISTAKES = (
    *("none", "no initial fence", "no initial barrier", "no empty wait", "no full wait"),
    *("wrong parity", "no fence", "no product wait", "arrival before wait", "wrong stride"),
    "wrong bytes",
)


def multiply(seed=0, mistake="none", *, columns=64, k=328):
    """Run the ring of two stages; what it gives, and what is right."""
    emulator = Emulator(seed=seed, folder=PROBES)
    generator = np.random.default_rng(seed)
    a, b = (
        emulator.buffers.copy_of(to_bits(generator.standard_normal((rows, k)), "bf16"))
        for rows in (64, columns)
    )
    d = emulator.buffers.empty((64, columns), np.float32)
    maps = [TensorMap(array=each, shape=each.shape, box=(len(each), 64)) for each in (a, b)]
    emulator.launch(
        f"hopper_multiply_{columns}",
        (1,),
        160,
        [d, *maps, np.int32(k), np.int32(MISTAKES.index(mistake))],
        shared_bytes=2 * (64 + columns) * 128,
    )
    return d, to_values(a) @ to_values(b).T


@pytest.mark.parametrize("seed", SEEDS)
class TestEverySchedule:
    @pytest.mark.parametrize("columns", [8, 64, 128])
    def test_loads_barriers_and_products_multiply(self, seed, columns):
        found, expected = multiply(seed, columns=columns, k=328 if columns < 128 else 64)
        assert np.abs(found - expected).max() < 1e-4

    def test_operands_from_registers_and_across_rows(self, seed):
        emulator = Emulator(seed=seed, folder=PROBES)
        generator = np.random.default_rng(seed)
        a = emulator.buffers.copy_of(generator.standard_normal((64, 32)).astype(np.float16))
        v = emulator.buffers.copy_of(generator.standard_normal((2, 16, 64)).astype(np.float16))
        d = emulator.buffers.empty((64, 64), np.float32)
        arguments = [d, a, TensorMap(array=v, shape=v.shape, box=(1, 16, 64))]
        emulator.launch("hopper_multiply_registers", (1,), 128, arguments, shared_bytes=4096)
        expected = a.astype(np.float64) @ v.reshape(32, 64).astype(np.float64)
        assert np.abs(d - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("column", "row", "plane"), [(0, 0, 0), (64, 3, 1), (-8, -2, 2), (80, 9, 0)]
)
def test_a_box_is_swizzled_and_filled_with_zeros_outside_of_the_tensor(column, row, plane):
    x = np.arange(1, 3 * 10 * 96 + 1, dtype=np.uint16).reshape(3, 10, 96)
    emulator = Emulator(seed=1, folder=PROBES)
    x = emulator.buffers.copy_of(x)
    y = emulator.buffers.empty((8, 8, 8), np.uint16)
    tensor = TensorMap(array=x, shape=x.shape, box=(1, 8, 64))
    place = (np.int32(column), np.int32(row), np.int32(plane), np.int32(64))
    raw = y.view(np.uint8).reshape(-1)
    emulator.launch("hopper_box", (1,), 32, [y, tensor, *place], shared_bytes=1024)
    assert len(raw) == 1024
    padded = np.pad(x, ((0, 1), (16, 16), (128, 128)))
    box = padded[plane, row + 16 : row + 24, column + 128 : column + 192].reshape(8, 8, 8)
    for r in range(8):
        for piece in range(8):
            assert (y[r, piece ^ r] == box[r, piece]).all()


class TestPlantedBugs:
    @pytest.mark.parametrize(
        ("mistake", "message"),
        [
            ("no initial fence", r"counts on full\[0\], which no fence has made visible"),
            ("no fence", r"wgmma at hopper.cu:\d+ without a fence"),
            ("wrong bytes", r"128 threads wait in a wait .*parity 0 of full\[0\]"),
            ("no product wait", "never waited for"),
        ],
    )
    def test_what_every_schedule_reports(self, mistake, message):
        for seed in SEEDS:
            with pytest.raises(KernelError, match=message):
                multiply(seed, mistake, k=64)

    @pytest.mark.parametrize(
        "mistake",
        [
            *("no initial barrier", "no full wait", "no empty wait", "wrong parity"),
            *("arrival before wait", "wrong stride"),
        ],
    )
    def test_what_some_schedule_finds(self, mistake):
        for seed in SEEDS:
            try:
                found, expected = multiply(seed, mistake)
            except KernelError:
                return
            if not np.abs(found - expected).max() < 1e-4:
                return
        pytest.fail("no schedule found it")

    def test_a_deadlock_names_the_barrier_and_what_it_lacks(self):
        with pytest.raises(KernelError) as failure:
            multiply(0, "wrong bytes")
        assert "128 threads wait in a wait at hopper.cu" in str(failure.value)
        assert (
            "(for parity 0 of full[0]: 0 phases are complete, 0 arrivals and 16 bytes are missing)"
            in str(failure.value)
        )

    @pytest.mark.parametrize(
        ("kernel", "threads", "message"),
        [
            ("hopper_forgotten_load", 1, "ended before 1 of its tensor loads landed"),
            ("hopper_too_many_arrivals", 32, r"full\[0\] has more arrivals than the 2 of a phase"),
            ("hopper_disagreeing_warps", 128, "warps of a warpgroup give different operands"),
        ],
    )
    def test_misuse(self, kernel, threads, message):
        emulator = Emulator(folder=PROBES)
        x = emulator.buffers.copy_of(np.zeros((8, 64), np.uint16))
        arguments = [TensorMap(array=x, shape=x.shape, box=(8, 64))] if "load" in kernel else []
        with pytest.raises(KernelError, match=message):
            emulator.launch(kernel, (1,), threads, arguments, shared_bytes=16384)

    def test_swizzled_tiles_want_whole_atoms(self):
        emulator = Emulator(folder=PROBES)
        with pytest.raises(KernelError, match="multiple of 1024 bytes"):
            emulator.launch("hopper_disagreeing_warps", (1,), 128, [], shared_bytes=16400)


class TestTensorMap:
    @pytest.mark.parametrize(
        ("shape", "box", "message"),
        [
            ((8, 64), (8,), "2 or 3 dimensions"),
            ((8, 60), (8, 64), "16 bytes"),
            ((8, 64), (8, 32), "64 columns"),
            ((8, 64), (300, 64), "more than 256"),
            ((9, 64), (8, 64), "not that of"),
        ],
    )
    def test_what_the_driver_would_refuse(self, shape, box, message):
        size = 8 * 60 if shape[1] == 60 else 8 * 64
        with pytest.raises(ValueError, match=message):
            TensorMap(array=np.zeros(size, np.uint16), shape=shape, box=box)

    def test_the_driver_gets_sizes_and_strides_innermost_first(self):
        calls = []

        def encode(target, kind, rank, base, sizes, strides, box, steps, *modes):
            calls.append([list(each) for each in (sizes, strides, box, steps)])
            assert (kind.value, rank.value, [mode.value for mode in modes]) == (1, 3, [0, 3, 3, 0])
            assert target.value % 64 == 0
            assert base.value == x.ctypes.data
            ctypes.memset(target, 7, 128)
            return 0

        x = Emulator().buffers.copy_of(np.zeros((5, 16, 128), np.uint16))
        tensor = TensorMap(array=x, shape=(5, 16, 128), box=(1, 16, 64))
        encoded = tensor.encode(SimpleNamespace(cuTensorMapEncodeTiled=encode))
        assert calls == [[[128, 16, 5], [256, 4096], [64, 16, 1], [1, 1, 1]]]
        assert encoded.shape == (1,)
        assert encoded.tobytes() == b"\7" * 128

    def test_a_refusal_is_an_error(self):
        tensor = TensorMap(array=np.zeros((8, 64), np.uint16), shape=(8, 64), box=(8, 64))
        with pytest.raises(ValueError, match="error 1"):
            tensor.encode(SimpleNamespace(cuTensorMapEncodeTiled=lambda *_: 1))
