"""Faults in the life of the process: signals, forks, threads, the end of models."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time

import pytest
from tests.faults.catalogue import GREEDY, Stage, fault

import inferlib
from inferlib.testing import tiny_model


@fault("process", "Ctrl-C in the middle of a step", "`KeyboardInterrupt`; that call alone ends")
def an_interrupt(stage: Stage) -> None:
    stage.faults.fail_step(KeyboardInterrupt(), after=1)
    with pytest.raises(KeyboardInterrupt):
        stage.model.generate(["x", "y"], max_tokens=50, **GREEDY)


@fault("process", "SIGINT while a call waits", "`KeyboardInterrupt`; that call alone ends")
def a_signal(stage: Stage) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stage.faults.slow_steps(0.01, steps=50)
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            stage.model.generate("x", max_tokens=400, **GREEDY)
    finally:
        signal.signal(signal.SIGINT, previous)
        stage.faults.clear()


@fault(
    "process",
    "a signal handler that calls the model whose step it interrupts",
    "`ReentrantCallError`",
)
def a_handler_that_waits(stage: Stage) -> None:
    outcomes: list[type] = []

    def handler(*_: object) -> None:
        for call in (lambda: stage.model.generate("x", max_tokens=1), stage.model.close):
            try:
                call()
            except inferlib.InferlibError as error:
                outcomes.append(type(error))

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        stage.faults.call_in_step(lambda: signal.raise_signal(signal.SIGUSR1))
        assert len(stage.model.generate("x", max_tokens=4, **GREEDY).token_ids) == 4
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert outcomes == [inferlib.ReentrantCallError] * 2


@fault("process", "a fork in which the child uses the model", "`ForkedProcessError` in the child")
def a_fork(stage: Stage) -> None:
    child = os.fork()
    if child == 0:
        try:
            stage.model.generate("x")
        except inferlib.ForkedProcessError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@fault(
    "process", "a thread that is interrupted while it runs the steps of others", "its own exception"
)
def a_leader_that_goes(stage: Stage) -> None:
    outcome: list[BaseException] = []

    def lead() -> None:
        try:
            stage.model.generate("x", max_tokens=100, **GREEDY)
        except BaseException as error:
            outcome.append(error)

    stage.faults.fail_step(SystemExit(), after=3)
    thread = threading.Thread(target=lead)
    thread.start()
    thread.join()
    assert [type(error) for error in outcome] == [SystemExit]


@fault("process", "16 threads at once", "16 answers")
def many_threads(stage: Stage) -> None:
    wanted = stage.model.generate("x", max_tokens=6, **GREEDY).token_ids
    given: list[list[int]] = []

    def ask() -> None:
        given.append(stage.model.generate("x", max_tokens=6, **GREEDY).token_ids)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == [wanted] * 16


@fault("process", "a second model that is closed while it generates", "`ClosedError` of that one")
def another_is_closed(stage: Stage) -> None:
    with tiny_model() as other:
        handle = other.submit("x", max_tokens=900, **GREEDY)
        stage.model.generate("x", max_tokens=2)
        other.close()
        stage.refused(inferlib.ClosedError, handle.result)


@fault("process", "streams, handles and models in reference cycles", "nothing; they are collected")
def cycles(stage: Stage) -> None:
    for _ in range(3):
        stream = stage.model.stream("x", max_tokens=50, **GREEDY)
        next(stream)
        other = tiny_model()
        cycle: list[object] = [stream, stage.model.submit("y", max_tokens=50), other]
        cycle.append(cycle)
        del stream, other, cycle
    gc.collect()


@fault("process", "a model made in code that is pickled", "`TypeError`")
def pickled(stage: Stage) -> None:
    stage.refused(TypeError, lambda: pickle.dumps(stage.model))


@fault("process", "a wait that is given up", "`TimeoutError`; the request goes on")
def a_timeout(stage: Stage) -> None:
    stage.faults.slow_steps(0.005, steps=3)
    handle = stage.model.submit("x", max_tokens=20, **GREEDY)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.001)
    assert len(handle.result().token_ids) == 20


@fault("process", "a step that hangs until the model is closed", "`ClosedError`")
def a_hanging_step(stage: Stage) -> None:
    from inferlib.testing import Faults

    faults = Faults()
    other = tiny_model(faults=faults)
    faults.slow_steps(1e6)
    outcome: list[type] = []

    def ask() -> None:
        try:
            other.generate("x", max_tokens=4)
        except inferlib.InferlibError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while not faults.num_steps:
        time.sleep(0.001)
    other.close()
    thread.join()
    assert outcome == [inferlib.ClosedError]
    del stage
