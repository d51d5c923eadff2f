"""``CupyDevice`` on a stand-in for CuPy whose kernels are emulated: calls, arguments, manners.

It shows what is asked of CuPy, not that CuPy does it: that takes a GPU.
"""

from __future__ import annotations

import types

import numpy as np
import pytest
from tests.cuda.launching import Out, launch_on
from tests.cuda_emulator import Emulator

from inferlib import OutOfMemoryError, RequestError
from inferlib.executors import kernels
from inferlib.executors.kernels import CupyDevice
from inferlib.testing import tiny_model


class Array(np.ndarray):
    """Enough of ``cupy.ndarray``."""

    def set(self, values, stream):
        assert stream is not None
        assert (self.shape, self.dtype) == (values.shape, values.dtype)
        self[...] = values

    def get(self, stream):
        assert stream is not None
        return np.array(self)


class Current:
    """Something that is current inside of a ``with``, and must not be made so in any other way."""

    entered: list[object]

    def __enter__(self):
        self.entered.append(self)
        return self

    def __exit__(self, *_):
        assert self.entered.pop() is self

    def use(self):
        raise AssertionError("the host's current device or stream was changed")


def stand_in(num_bytes=1 << 30):  # noqa: C901  # one class for each of CuPy's
    """A module ``cupy``; ``entered`` holds the devices and streams that are current."""
    entered, emulator = [], Emulator(seed=1)

    class NoMemoryError(Exception):
        pass

    class Device(Current):
        compute_capability = "90"

        def __init__(self, number):
            assert number == 0
            self.entered = entered

    class Stream(Current):
        def __init__(self, *, non_blocking):
            assert non_blocking
            self.entered = entered

        def synchronize(self):
            pass

    class Pool:
        used = 0

        def malloc(self, size):
            assert [type(each) for each in entered] == [Device, Stream]
            if self.used + size > num_bytes:
                raise NoMemoryError
            self.used += size
            return size

        def free_bytes(self):
            return 0

        def free_all_blocks(self):
            self.used = 0

    class Function:
        max_dynamic_shared_size_bytes = 0

        def __init__(self, name):
            self.name = name

        def __call__(self, grid, block, arguments, *, shared_mem):
            assert [type(each) for each in entered] == [Device, Stream]
            assert shared_mem <= max(48 << 10, self.max_dynamic_shared_size_bytes)
            assert not any(isinstance(each, int | float) for each in arguments)
            values = [
                None if isinstance(each, np.uint64) and not each else each for each in arguments
            ]
            emulator.launch(self.name, grid, block[0], values, shared_bytes=shared_mem)

    def make_array(shape, dtype, *, memptr):
        array = emulator.buffers.empty(shape, dtype).view(Array)
        assert array.nbytes == memptr
        return array

    def open_module(*, path):
        assert path.endswith(".cubin")
        return types.SimpleNamespace(get_function=Function)

    def forbidden(*_):
        raise AssertionError("CuPy's global state was changed")

    module = types.SimpleNamespace(
        ndarray=make_array,
        RawModule=open_module,
        cuda=types.SimpleNamespace(
            Device=Device,
            Stream=Stream,
            MemoryPool=Pool,
            set_allocator=forbidden,
            set_pinned_memory_allocator=forbidden,
            memory=types.SimpleNamespace(OutOfMemoryError=NoMemoryError),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=RuntimeError,
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda _: {"name": b"stand-in"},
                memGetInfo=lambda: (num_bytes, num_bytes),
            ),
        ),
    )
    return module, entered


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    compiler = types.SimpleNamespace(version="0.0", compile=lambda *_: (b"cubin", ()))
    monkeypatch.setattr(kernels, "Nvrtc", lambda: compiler)


def test_a_model_runs_and_the_hosts_state_stays(tmp_path):
    cupy, entered = stand_in()
    options = {"precision": "exact", "kv_cache": "256 tokens"}
    with tiny_model(device=CupyDevice(cupy, cache=tmp_path), **options) as model:
        found = model.generate("hello", max_tokens=6, temperature=0, ignore_eos=True)
        drawn = model.generate("hello", max_tokens=6, seed=3, ignore_eos=True)
        assert model.stats()["device"] == "cuda (stand-in)"
        assert entered == []
    with tiny_model(**options) as model:
        expected = model.generate("hello", max_tokens=6, temperature=0, ignore_eos=True)
        assert found.token_ids == expected.token_ids
        assert drawn.token_ids == model.generate("hello", params=drawn.params).token_ids
    assert list(tmp_path.rglob("attention_f32.sm_90.cubin"))


def test_out_of_memory_says_how_much_and_what_to_do(tmp_path):
    cupy, entered = stand_in(num_bytes=300_000)
    with pytest.raises(OutOfMemoryError) as failure:
        tiny_model(device=CupyDevice(cupy, cache=tmp_path), precision="exact", kv_cache="16 tokens")
    assert failure.value.required > 0
    assert failure.value.hint
    assert entered == []


def test_the_kernels_own_tests_run_on_it(tmp_path):
    """What ``make test-cuda`` does, as far as that goes without a GPU."""
    cupy, _ = stand_in()
    logits = np.array([[1, 3, 2, 3], [0, 0, np.nan, 0]], np.float32)
    ids, failed = launch_on(
        CupyDevice(cupy, cache=tmp_path),
        "argmax_f32",
        (2,),
        1024,
        [Out((2,), np.int32), Out((2,), np.int32), logits, np.int32(4)],
        0,
    )
    assert (ids.tolist(), failed.tolist()) == ([1, 0], [0, 1])


class TestMissingPieces:
    def test_cupy(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "cupy", None)
        with pytest.raises(RequestError, match="CuPy") as failure:
            tiny_model(device="cuda")
        assert failure.value.field == "device"
        assert "pip install inferlib[cuda13]" in failure.value.hint

    @pytest.mark.parametrize("count", [0, None], ids=["no GPU", "no driver"])
    def test_a_gpu(self, monkeypatch, count):
        cupy, _ = stand_in()

        def device_count():
            if count is None:
                raise RuntimeError("cudaErrorInsufficientDriver")
            return count

        cupy.cuda.runtime.getDeviceCount = device_count
        monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
        with pytest.raises(RequestError, match="GPU") as failure:
            tiny_model(device="cuda")
        assert failure.value.field == "device"
