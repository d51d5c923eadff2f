"""Faults of resources: memory, devices, disks, threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from tests.faults.catalogue import GREEDY, OPTIONS, Stage, fault, healthy_requests

import inferlib
from inferlib.testing import Faults, tiny_model

LOST = "end with the same error"


def failed(stage: Stage, error: type[inferlib.InferlibError]) -> inferlib.InferlibError:
    with pytest.raises(error) as raised:
        stage.model.generate("x", max_tokens=4, **GREEDY)
    return raised.value


@fault("resource", "a step that fails on the device", "`ExecutorError`", others=LOST)
def a_failed_step(stage: Stage) -> None:
    stage.faults.fail_step()
    failed(stage, inferlib.ExecutorError)


@fault("resource", "a step whose memory is refused", "`OutOfMemoryError`", others=LOST)
def no_memory(stage: Stage) -> None:
    for after in range(3):
        stage.faults.fail_allocation(after=after)
        error = failed(stage, inferlib.OutOfMemoryError)
        assert error.required > error.available


@fault("resource", "a device that dies and comes back", "`ExecutorError` meanwhile", others=LOST)
def a_dead_device(stage: Stage) -> None:
    stage.faults.kill_device()
    for _ in range(3):
        failed(stage, inferlib.ExecutorError)
    stage.faults.revive_device()


@fault(
    "resource", "an exception in the executor that nobody foresaw", "`InternalError`", others=LOST
)
def an_unforeseen_exception(stage: Stage) -> None:
    stage.faults.fail_step(KeyError("slot"))
    assert "KeyError" in str(failed(stage, inferlib.InternalError))


@fault("resource", "a panic in a worker thread", "`InternalError`", others=LOST)
def a_panic_in_a_worker(stage: Stage) -> None:
    stage.faults.panic()
    assert "planted in a worker" in str(failed(stage, inferlib.InternalError))


@fault("resource", "a panic in the thread that runs the step", "`InternalError`", others=LOST)
def a_panic_in_the_caller(stage: Stage) -> None:
    stage.faults.panic(in_caller=True)
    assert "planted in the caller" in str(failed(stage, inferlib.InternalError))


@fault("resource", "a failed step under a coroutine", "`ExecutorError`", others=LOST)
def a_failed_step_of_a_coroutine(stage: Stage) -> None:
    stage.faults.fail_step()
    with pytest.raises(inferlib.ExecutorError):
        asyncio.run(stage.model.agenerate("x", max_tokens=4))


@fault("resource", "slow steps", "the answer, later")
def slow_steps(stage: Stage) -> None:
    stage.faults.slow_steps(0.005, steps=5)
    assert len(stage.model.generate("x", max_tokens=4, **GREEDY).token_ids) == 4


@fault("resource", "a KV cache of a tenth of what all need", "the same answers, after preemptions")
def a_small_cache(stage: Stage) -> None:
    del stage
    requests = [request | {"max_tokens": 30} for request in healthy_requests()]
    small = OPTIONS | {"kv_cache": "192 tokens", "max_position_embeddings": 128}
    with tiny_model(**OPTIONS) as large, tiny_model(**small) as model:
        wanted = [large.submit(**request).result() for request in requests]
        handles = [model.submit(**request) for request in requests]
        given = [handle.result() for handle in handles]
        assert model.stats()["preemptions"] > 0
        model._engine._scheduler.check_integrity()
    for one, other in zip(given, wanted, strict=True):
        assert [each.token_ids for each in one.outputs] == [
            each.token_ids for each in other.outputs
        ]


@fault("resource", "a prompt larger than the whole KV cache", "`PromptTooLongError`")
def larger_than_the_cache(stage: Stage) -> None:
    with tiny_model(**OPTIONS | {"kv_cache": "64 tokens", "max_model_len": 512}) as model:
        stage.refused(inferlib.PromptTooLongError, lambda: model.generate("x" * 200))
        stage.refused(
            inferlib.RequestError, lambda: model.generate("x", max_tokens=200), "max_tokens"
        )


@fault("resource", "a second model whose weights find no memory", "`OutOfMemoryError`")
def no_memory_for_weights(stage: Stage) -> None:
    for after in range(6):
        faults = Faults()
        faults.fail_loading(after=after)
        stage.refused(inferlib.OutOfMemoryError, lambda faults=faults: tiny_model(faults=faults))


@fault("resource", "a KV cache larger than the machine", "`OutOfMemoryError`, both sizes")
def a_cache_larger_than_the_machine(stage: Stage) -> None:
    error = stage.refused(inferlib.OutOfMemoryError, lambda: tiny_model(kv_cache="500 TiB"))
    assert error.required > error.available > 0


@fault("resource", "a thread that cannot be started", "`RuntimeError`; synchronous calls work")
def no_thread(stage: Stage) -> None:
    def start(self: threading.Thread) -> None:
        if self.name == "inferlib-driver":
            raise RuntimeError("can't start new thread")
        real(self)

    real = threading.Thread.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            asyncio.run(stage.model.agenerate("x", max_tokens=4))
        assert len(stage.model.generate("x", max_tokens=4, **GREEDY).token_ids) == 4


@fault("resource", "a full disk under a decision log", "the log ends, with a warning")
def a_full_disk_under_a_log(stage: Stage) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    path = stage.folder / "log"
    path.symlink_to("/dev/full")
    with pytest.raises(inferlib.RequestError):  # it is no new file
        tiny_model(decision_log=path)


@fault("resource", "a full disk under a saved sequence", "`OSError`; no file is left")
def a_full_disk_under_a_sequence(stage: Stage) -> None:
    with tiny_model(**OPTIONS) as model, model.prefill("Once") as sequence:
        for path in (stage.folder / "missing" / "file", stage.folder):
            with pytest.raises((OSError, inferlib.InferlibError)):
                sequence.save(path)
    assert not list(stage.folder.iterdir())


@fault("resource", "a checkpoint that cannot be written", "`CheckpointError`")
def an_unwritable_checkpoint(stage: Stage) -> None:
    for path in (stage.folder, stage.folder / "missing" / "run.jsonl", Path("/dev/full")):
        with pytest.raises(inferlib.CheckpointError):
            list(stage.model.generate_many(["a", "b"], checkpoint=path, max_tokens=2))
