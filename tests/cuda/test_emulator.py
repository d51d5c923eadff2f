"""The emulator itself: right answers for right kernels, and every planted mistake found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cuda_emulator import Emulator, KernelError
from tests.cuda_emulator.numbers import to_bits, to_values

PROBES = Path(__file__).parent.parent / "cuda_emulator" / "kernels"
SEEDS = range(6)


def probes(seed=0, defines=()):
    return Emulator(seed=seed, folder=PROBES, defines=defines)


def run_sum(emulator):
    x = np.arange(1000, dtype=np.float32)
    sums = emulator.buffers.empty((3,), np.float32)
    emulator.launch("probe_sum", (3,), 128, [sums, x, np.int32(1000)])
    return sums


@pytest.mark.parametrize("seed", SEEDS)
class TestEverySchedule:
    def test_shuffles_and_barriers_add_up(self, seed):
        assert run_sum(probes(seed)).sum() == 999 * 500

    def test_an_asynchronous_copy_arrives(self, seed):
        x, y = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
        x = probes().buffers.copy_of(x)
        probes(seed).launch("probe_copy", (1,), 64, [y, x])
        assert (y == x).all()

    @pytest.mark.parametrize("kind", ["bf16", "f16"])
    def test_matrix_instructions_multiply(self, seed, kind):
        generator = np.random.default_rng(seed)
        a, b = (to_bits(generator.standard_normal(shape), kind) for shape in ((16, 16), (8, 16)))
        d = np.zeros((16, 8), np.float32)
        probes(seed).launch(f"probe_multiply_{kind}", (1,), 32, [d, a, b])
        assert np.abs(d - to_values(a) @ to_values(b).T).max() < 1e-5

    def test_matrices_are_transposed(self, seed):
        x = np.arange(256, dtype=np.float16).reshape(4, 8, 8)
        y = np.zeros_like(x)
        probes(seed).launch("probe_transpose", (1,), 32, [y, x])
        assert (y == x.swapaxes(1, 2)).all()

    def test_shared_memory_is_poisoned_for_each_thread_block(self, seed):
        y = np.zeros(3, np.float32)
        probes(seed).launch("probe_uninitialised", (3,), 1, [y])
        assert np.isnan(y).all()


def test_rounding_to_16_bits_is_that_of_numpy():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 20_000, np.uint32)
    edges = np.array(
        [0, 2**-24, 2**-25, 3 * 2**-26, 65504, 65519.9, 65520, np.inf, 2**-14], np.float32
    )
    normal = generator.standard_normal(5000).astype(np.float32)
    x = np.concatenate([bits.view(np.float32), edges, -edges, normal])
    b, h, back = (
        np.zeros(len(x), np.uint16),
        np.zeros(len(x), np.float16),
        np.zeros(len(x), np.float32),
    )
    probes().launch("probe_round", (-(-len(x) // 256),), 256, [b, h, back, x, np.int32(len(x))])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    finite = ~np.isnan(x)
    assert (h[finite].view(np.uint16) == expected[finite].view(np.uint16)).all()
    assert np.isnan(h[~finite]).all()
    assert (back[finite] == expected[finite].astype(np.float32)).all()
    assert (b == to_bits(x, "bf16")).all()


def test_the_portable_switch_of_fibers_does_the_same():
    assert run_sum(probes(3, ("CUDA_EMULATOR_UCONTEXT",))).sum() == 999 * 500


def test_schedules_repeat():
    assert (run_sum(probes(5)) == run_sum(probes(5))).all()


class TestPlantedBugs:
    def test_a_removed_barrier_shows_in_shuffled_schedules(self):
        results = [run_sum(probes(seed, ("WITHOUT_BARRIER",))) for seed in SEEDS]
        wrong = [not np.array_equal(result, run_sum(probes())) for result in results]
        assert all(wrong[1:])

    def test_a_missing_wait_reads_poison(self):
        for seed in SEEDS:
            emulator = probes(seed, ("WITHOUT_WAIT",))
            x, y = emulator.buffers.copy_of(np.ones(256, np.float32)), np.zeros(256, np.float32)
            emulator.launch("probe_copy", (1,), 64, [y, x])
            assert np.isnan(y).any()

    def test_a_copy_that_nobody_waited_for_is_reported(self):
        emulator = probes()
        x = emulator.buffers.copy_of(np.ones(4, np.float32))
        with pytest.raises(KernelError, match="never waited for"):
            emulator.launch("probe_forgotten_copy", (1,), 32, [x])

    @pytest.mark.parametrize(
        ("offset", "message"),
        [
            (1, r"thread \(63, 0, 0\): access 0 bytes past the end of `x`"),
            (2000, r"thread \(0, 0, 0\): access 7744 bytes past the end of `x`"),
            (-1025, r"thread \(0, 0, 0\): access \d+ bytes before the start of `x`"),
        ],
    )
    def test_accesses_past_a_buffer_name_it_and_the_thread(self, offset, message):
        emulator = probes()
        x = emulator.buffers.empty((64,), np.float32, "`x`")
        with pytest.raises(KernelError, match=message):
            emulator.launch("probe_out_of_bounds", (1,), 64, [x, np.int32(offset)])

    def test_a_write_into_the_last_bytes_before_the_guard_page_is_noticed(self):
        emulator = probes()
        x = emulator.buffers.empty((62,), np.float32, "`x`")
        with pytest.raises(KernelError, match="wrote past the end of `x`"):
            emulator.launch("probe_out_of_bounds", (1,), 64, [x, np.int32(0)])

    @pytest.mark.parametrize(
        ("index", "message"),
        [(6, "wrote past the ends of shared array small"), (8, "8 bytes past the end of small")],
    )
    def test_overruns_of_shared_arrays(self, index, message):
        with pytest.raises(KernelError, match=message):
            probes().launch("probe_shared_out_of_bounds", (1,), 1, [np.int32(index)])

    def test_overruns_of_dynamic_shared_memory(self):
        def run(index):
            probes().launch(
                "probe_dynamic_out_of_bounds", (1,), 1, [np.int32(index)], shared_bytes=200
            )

        run(199)
        with pytest.raises(KernelError, match="200 bytes of dynamic shared memory"):
            run(200)
        with pytest.raises(KernelError, match="56 bytes past the end of dynamic shared memory"):
            run(256)

    def test_barriers_in_two_places_are_not_one_barrier(self):
        with pytest.raises(KernelError, match=r"two places, probe.cu:\d+ and probe.cu:\d+"):
            probes().launch("probe_divergent_barrier", (1,), 64, [])

    def test_a_deadlock_names_who_waits_where(self):
        with pytest.raises(KernelError) as failure:
            probes().launch("probe_deadlock", (1,), 64, [np.zeros(1, np.int32)])
        text = str(failure.value)
        assert "63 threads wait in __syncthreads at probe.cu" in text
        assert "1 threads wait in __shfl_sync at probe.cu" in text
        assert "(the first is thread (5, 0, 0))" in text

    @pytest.mark.parametrize(
        ("kernel", "message"),
        [
            ("probe_wrong_mask", "lane 0 is not in the mask 00000002"),
            ("probe_read_from_ended_lane", "reads from lane 20, which is not in mask"),
            ("probe_misaligned", "cp.async of 16 bytes is not aligned"),
        ],
    )
    def test_misuse_of_instructions(self, kernel, message):
        emulator = probes()
        x = emulator.buffers.empty((16,), np.float32)
        arguments = [] if kernel == "probe_wrong_mask" else [x]
        with pytest.raises(KernelError, match=message):
            emulator.launch(kernel, (1,), 32, arguments)

    def test_the_emulator_goes_on_after_a_failure(self):
        with pytest.raises(KernelError):
            probes().launch("probe_wrong_mask", (1,), 32, [])
        assert run_sum(probes()).sum() == 999 * 500


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([np.zeros(3, np.float32)], "takes 3 arguments, not 1"),
            (
                [np.zeros(3, np.float64), np.zeros(3, np.float32), np.int32(1)],
                r"argument 0 is f64\*",
            ),
            ([np.zeros(3, np.float32), np.zeros(3, np.float32), 1], "argument 2 is int"),
            ([np.zeros(3, np.float32), np.float32(0), np.int32(1)], r"argument 1 is f32, .* f32\*"),
        ],
    )
    def test_what_does_not_fit_the_signature_is_refused(self, arguments, message):
        with pytest.raises(TypeError, match=message):
            probes().launch("probe_sum", (1,), 128, arguments)

    def test_unknown_kernels(self):
        with pytest.raises(KeyError, match="no file for kernel"):
            probes().launch("nothing_f32", (1,), 32, [])
        with pytest.raises(KeyError, match="probe_nothing"):
            probes().launch("probe_nothing", (1,), 32, [])
