"""``CupyDevice`` on a stand-in for CuPy: calls, arguments, order, manners."""

from __future__ import annotations

import logging
import sys
import threading
import types

import numpy as np
import pytest
from tests.cuda.cupy_stand_in import Driver, stand_in
from tests.cuda.launching import Out, launch_on
from tests.cuda.test_reduced_precision import (
    make_model,
    prompts,
    spec_without_kernels,
    wide_spec,
)
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import ExecutorError, OutOfMemoryError, RequestError
from inferlib.executors import kernels
from inferlib.executors.cuda_choices import KernelChoices
from inferlib.executors.cupy_device import CupyDevice, open_gpu
from inferlib.executors.kernels import CubinCache, KernelSources, source_folder
from inferlib.executors.tensor_maps import TensorMap
from inferlib.testing import tiny_model
from inferlib.transformer import record

OPTIONS = {"precision": "exact", "kv_cache": "256 tokens"}
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """No compiler; the names of the files that it was given."""
    files = []

    def compile_file(name, *_):
        files.append(name)
        return b"cubin", ()

    compiler = types.SimpleNamespace(version="0.0", compile=compile_file)
    monkeypatch.setattr(kernels, "Nvrtc", lambda: compiler)
    return files


def test_a_model_runs_and_the_hosts_state_stays(tmp_path):
    """On a stream that does everything as late as it may: nothing is read or reused too early."""
    cupy, entered = stand_in()
    with tiny_model(device=CupyDevice(cupy, cache=tmp_path), **OPTIONS) as model:
        found = model.generate(["hello", "you"], max_tokens=8, **GREEDY)
        drawn = model.generate("hello", max_tokens=6, seed=3, ignore_eos=True)
        stats = model.stats()
        assert stats["device"] == "cuda (stand-in 0)"
        assert stats["details"]["graphs"] > 0
        assert stats["details"]["steps_foreseen"] > 0
        assert entered == []
    with tiny_model(**OPTIONS) as model:
        expected = model.generate(["hello", "you"], max_tokens=8, **GREEDY)
        assert [each.token_ids for each in found] == [each.token_ids for each in expected]
        assert drawn.token_ids == model.generate("hello", params=drawn.params).token_ids
    assert list(tmp_path.rglob("attention_f32.sm_90.cubin"))


def test_a_capture_that_cuda_refuses_is_said_and_costs_only_time(tmp_path, caplog):
    cupy, entered = stand_in(refuses_graphs=True)
    with (
        caplog.at_level(logging.WARNING, "inferlib.cuda"),
        tiny_model(device=CupyDevice(cupy, cache=tmp_path), **OPTIONS) as model,
    ):
        found = model.generate("hello", max_tokens=8, **GREEDY)
        assert model.stats()["details"]["graphs"] == 0
    assert "CaptureInvalidated" in caplog.text
    assert entered == []
    with tiny_model(**OPTIONS) as model:
        assert found.token_ids == model.generate("hello", max_tokens=8, **GREEDY).token_ids


def test_an_error_while_recording_leaves_the_capture(tmp_path):
    cupy, entered = stand_in()
    device = CupyDevice(cupy, cache=tmp_path)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.graph(interrupted)
    array = device.alloc((4,), np.int32, "x")
    device.upload(array, np.arange(4, dtype=np.int32))
    assert device.download(array).tolist() == [0, 1, 2, 3]
    assert entered == []


def test_a_host_array_may_change_as_soon_as_it_is_uploaded(tmp_path):
    cupy, _ = stand_in()
    device = CupyDevice(cupy, cache=tmp_path)
    arrays = [device.alloc((100,), np.int32, "x") for _ in range(9)]
    values = np.empty(100, np.int32)
    for number, array in enumerate(arrays):
        values[:] = number
        device.upload(array, values)
    downloads = [device.start_download(array) for array in arrays]
    device.upload(arrays[0], np.full(100, 99, np.int32))  # behind the download
    for number, download in enumerate(downloads):
        assert set(download.wait().tolist()) == {number}


def test_a_download_that_nobody_waits_for_keeps_its_memory(tmp_path):
    """Else an upload behind it would be filled by it."""
    cupy, _ = stand_in()
    device = CupyDevice(cupy, cache=tmp_path)
    first, second = (device.alloc((100,), np.int32, "x") for _ in range(2))
    device.upload(first, np.zeros(100, np.int32))
    device.synchronize()
    device.start_download(first)
    device.upload(second, np.full(100, 7, np.int32))
    assert set(device.download(second).tolist()) == {7}


def test_out_of_memory_says_how_much_and_what_to_do(tmp_path):
    cupy, entered = stand_in(num_bytes=700_000)
    with pytest.raises(OutOfMemoryError) as failure:
        tiny_model(device=CupyDevice(cupy, cache=tmp_path), **OPTIONS)
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


class TestTensorMaps:
    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch):
        """It has a folder for what is measured, but emulated times mean nothing."""
        monkeypatch.setattr(KernelChoices, "_seconds", lambda *_: 0.0)

    def make(self, tmp_path, program, driver, **options):
        cupy, entered = stand_in(**options)
        driver.entered = entered
        device = CupyDevice(cupy, cache=tmp_path, driver=lambda: driver)
        return make_model(program, device=device, kv_cache="256 tokens")

    def test_a_model_on_hopper_gives_what_it_gives_elsewhere(self, tmp_path):
        program, driver = record(wide_spec()), Driver([])
        with make_model(program, device=EmulatedDevice()) as model:
            expected = model.generate(prompts()[:2], max_tokens=5, **GREEDY)
        with self.make(tmp_path, program, driver) as model:
            found = model.generate(prompts()[:2], max_tokens=5, **GREEDY)
            made = driver.num_maps
            assert model.stats()["details"]["graphs"] > 0
            again = model.generate(prompts()[:2], max_tokens=5, **GREEDY)
            assert driver.num_maps == made > 0  # each map is made once
        for each, other, one_more in zip(found, expected, again, strict=True):
            assert each.token_ids == other.token_ids == one_more.token_ids
        assert list(tmp_path.rglob("linear_sm90.sm_90.cubin"))

    def test_a_driver_that_refuses_is_said_and_other_kernels_are_used(self, tmp_path, caplog):
        program, driver = record(wide_spec()), Driver([], status=1)
        with (
            caplog.at_level(logging.WARNING, "inferlib.cuda"),
            self.make(tmp_path, program, driver) as model,
        ):
            assert len(model.generate(prompts()[1], max_tokens=2, **GREEDY).token_ids) == 2
        assert "linear_sm90 is not used on cuda (stand-in 0)" in caplog.text
        assert "attention_prefill_sm90_bf16_64 is not used" in caplog.text
        assert "error 1" in caplog.text

    def test_a_driver_that_is_missing_is_a_typed_error(self, tmp_path):
        def missing():
            raise OSError("libcuda.so.1: cannot open shared object file")

        device = CupyDevice(stand_in()[0], cache=tmp_path, driver=missing)
        array = device.alloc((8, 64), np.uint16, "x")
        described = TensorMap(array=array, shape=(8, 64), box=(8, 64))
        with pytest.raises(ExecutorError, match=r"linear_sm90_bf16_bf16_8 .*libcuda"):
            device.launch("linear_sm90_bf16_bf16_8", (1, 1), 160, (array, described, described))

    def test_no_driver_is_opened_where_nobody_needs_it(self, tmp_path):
        program, opened = record(wide_spec()), []
        device = CupyDevice(
            stand_in(capability="80")[0], cache=tmp_path, driver=lambda: opened.append(1)
        )
        with make_model(program, device=device, kv_cache="256 tokens") as model:
            model.generate(prompts()[1], max_tokens=2, **GREEDY)
        assert not opened


def test_what_cuda_refuses_to_launch_is_a_typed_error(tmp_path):
    device = CupyDevice(stand_in()[0], cache=tmp_path)
    with pytest.raises(ExecutorError, match=r"add_f32 .*INVALID_VALUE"):
        device.launch("add_f32", (0,), 256, (None, None, None, np.int32(0)))


class TestCubins:
    def test_files_are_compiled_in_the_background_once_with_one_line(
        self, tmp_path, compiled, caplog
    ):
        with caplog.at_level(logging.INFO, "inferlib.cuda"):
            device = CupyDevice(stand_in()[0], cache=tmp_path)
            assert not caplog.records  # opening a device compiles nothing
            device.prepare(["add", "argmax"])
            device.prepare(["argmax", "linear_sm90"])
            for file in ("add", "argmax", "linear_sm90"):
                assert device._cubins.path(file).exists()
        assert len(caplog.records) == 1
        assert "sm_90" in caplog.text
        assert sorted(compiled) == ["add.cu", "argmax.cu", "linear_sm90.cu"]
        with caplog.at_level(logging.INFO, "inferlib.cuda"):
            device = CupyDevice(stand_in()[0], cache=tmp_path)
            device.prepare(["add", "argmax", "linear_sm90"])
            device.close()
        assert len(caplog.records) == 1  # nothing to say the second time
        assert len(compiled) == 3

    def test_only_what_a_model_can_launch_is_compiled(self, tmp_path, compiled):
        with tiny_model(device=CupyDevice(stand_in()[0], cache=tmp_path), **OPTIONS) as model:
            model.generate("a", max_tokens=2, **GREEDY)
        files = {name.removesuffix(".cu") for name in compiled}
        assert {"attention_f32", "linear_f32"} <= files
        assert not {"linear_many", "attention_decode", "moe_gated", "linear_sm90"} & files

    def test_two_users_of_a_cache_never_see_half_a_file(self, tmp_path, monkeypatch):
        content = b"0123456789abcdef" * 40_000
        compiler = types.SimpleNamespace(version="0.0", compile=lambda *_: (content, ()))
        monkeypatch.setattr(kernels, "Nvrtc", lambda: compiler)
        sources = KernelSources(source_folder())
        caches = [CubinCache(sources, "sm_90", tmp_path) for _ in range(2)]
        target = caches[0].folder / "add.sm_90.cubin"
        is_over, seen = threading.Event(), set()

        def watch():
            while not is_over.is_set():
                if target.exists():
                    seen.add(len(target.read_bytes()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        writers = [
            threading.Thread(target=lambda c=cache: [c._compile("add") for _ in range(25)])
            for cache in caches
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        is_over.set()
        watcher.join()
        assert seen == {len(content)}
        assert [each.name for each in caches[0].folder.iterdir()] == [target.name]

    def test_a_cache_that_cannot_be_written_is_a_typed_error(self, tmp_path):
        (tmp_path / "file").write_text("not a folder")
        cache = CubinCache(KernelSources(source_folder()), "sm_90", tmp_path / "file")
        with pytest.raises(ExecutorError, match="cache"):
            cache.path("add")


class TestChoice:
    def test_the_number_of_the_gpu(self, tmp_path, monkeypatch):
        cupy, _ = stand_in(count=2)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr("inferlib.executors.cupy_device.CACHE", tmp_path)
        with tiny_model(device="cuda:1", **OPTIONS) as model:
            assert model.stats()["device"] == "cuda:1 (stand-in 1)"
        with pytest.raises(RequestError, match="0 to 1") as failure:
            tiny_model(device="cuda:2", **OPTIONS)
        assert failure.value.field == "device"

    @pytest.mark.parametrize(("count", "expected"), [(1, "cuda (stand-in 0)"), (0, "cpu")])
    def test_auto_is_the_gpu_if_there_is_one(self, count, expected, tmp_path, monkeypatch):
        cupy, _ = stand_in(count=count)
        cupy.__spec__ = object()
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr("inferlib.executors.cupy_device.CACHE", tmp_path)
        with tiny_model(device="auto", **OPTIONS) as model:
            assert model.stats()["device"].startswith(expected)

    def test_auto_is_the_cpu_for_a_model_without_kernels(self, tmp_path, monkeypatch, caplog):
        cupy, _ = stand_in()
        cupy.__spec__ = object()
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr("inferlib.executors.cupy_device.CACHE", tmp_path)
        spec = spec_without_kernels()
        with (
            caplog.at_level(logging.WARNING),
            make_model(record(spec), spec=spec, device="auto") as model,
        ):
            assert model.stats()["device"].startswith("cpu")
            assert model.generate([5], max_tokens=2, temperature=0).token_ids
        assert "heads of 48" in caplog.text

    @pytest.mark.parametrize(("capability", "expected"), [("75", False), ("80", True)])
    def test_gpus_before_sm_80_compute_in_f16(self, capability, expected, tmp_path):
        cupy, _ = stand_in(capability=capability)
        assert CupyDevice(cupy, cache=tmp_path).has_bfloat16 is expected


class TestMissingPieces:
    def test_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
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
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        with pytest.raises(RequestError, match="GPU") as failure:
            open_gpu()
        assert failure.value.field == "device"
