"""Ctrl-C at every place where Python can raise it.

CPython looks for signals after calls, at the start of functions and when loops go round. A tracer
raises ``KeyboardInterrupt`` at the k-th such place inside the package, for k = 1, 2, 3, …; whatever
k is, the other requests of the model end with exactly their own text and nothing is left behind.
Finalizers are spared: Python itself swallows what is raised there.
"""

from __future__ import annotations

import dis
import gc
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from tests.unit.fakes import assert_idle, fake_model, text_of

import inferlib

PACKAGE = str(Path(inferlib.__file__).parent)
AFTER = {dis.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW") if name in dis.opmap}
AT = {dis.opmap[name] for name in ("RESUME", "JUMP_BACKWARD") if name in dis.opmap}


class InterruptAt:
    """Raises at the given place, once; counts the places it passed."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.passed = 0
        self.last_opcode: dict[object, int] = {}

    def __enter__(self):
        self.outer = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.outer)
        self.last_opcode.clear()  # its frames would keep streams alive

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            opcode = frame.f_code.co_code[frame.f_lasti]
            is_place = opcode in AT or self.last_opcode.get(frame) in AFTER
            if is_place and not in_finalizer(frame):
                self.passed += 1
                if self.passed == self.place:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            self.last_opcode[frame] = opcode
        elif event == "return":
            self.last_opcode.pop(frame, None)
        return self.trace


def in_finalizer(frame) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def generate(model):
    assert model.generate("mine", max_tokens=2, stop="zzz").text == text_of("mine", 2)


def generate_many(model):
    model.generate(["mine", "too"], max_tokens=2, n=2)


def stream(model):
    assert "".join(map(str, model.stream("mine", max_tokens=2))) == text_of("mine", 2)


def stream_and_break(model):
    with model.stream("mine", max_tokens=9) as deltas:
        next(deltas)


def submit(model):
    handle = model.submit("mine", max_tokens=2)
    handle.result()
    model.submit("mine", max_tokens=9).cancel()


def generate_to_a_stop_string(model):
    completion = model.generate("mine", max_tokens=9, stop=text_of("mine", 6)[4:])
    assert completion.text == text_of("mine", 4)
    assert len(completion.token_ids) == 6


def work_through_many(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        results = model.generate_many(["mine", "too"], max_tokens=2, checkpoint=path)
        assert next(results).completion.text == text_of("mine", 2)
        results.close()
        (result,) = model.generate_many(["mine"], max_tokens=2, checkpoint=path)
        assert result.is_restored


def check_interrupt_at(place: int, action, tokens_per_step: int) -> int:
    """Interrupt ``action`` at ``place``; the number of places it passed."""
    threads = set(threading.enumerate())
    model = fake_model(tokens_per_step=tokens_per_step)
    other = model.submit("other", max_tokens=6)
    streamed = model.stream("read", max_tokens=6, stop="zzz")
    stopped = model.stream("halt", max_tokens=20, stop=text_of("halt", 9)[6:])
    text = str(next(streamed))
    with InterruptAt(place) as interrupt:
        try:
            action(model)
        except KeyboardInterrupt:
            pass
        else:
            assert interrupt.passed < place, "the interrupt was swallowed"
    gc.collect()
    text += "".join(map(str, streamed))
    assert text == text_of("read", 6)
    deltas = list(stopped)
    assert "".join(map(str, deltas)) == text_of("halt", 6)
    assert sum(len(delta.token_ids) for delta in deltas) == len(stopped.completion.token_ids) == 9
    assert other.result().text == text_of("other", 6)
    assert model.generate("next", max_tokens=3).text == text_of("next", 3)
    model.stats()
    assert_idle(model)
    model.close()
    assert not set(threading.enumerate()) - threads
    return interrupt.passed


def interrupt_while_reading(place: int) -> int:
    """Interrupt a loop over a stream and keep the traceback, as a notebook does."""
    model = fake_model()
    kept = None
    with InterruptAt(place) as interrupt:
        try:
            for _ in model.stream("mine", max_tokens=6):
                pass
        except KeyboardInterrupt as error:
            kept = error
    assert model.generate("next", max_tokens=3).text == text_of("next", 3)
    traceback = kept and kept.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    # At its very first instruction no method can catch anything.
    code = traceback.tb_frame.f_code if traceback else None
    if code is None or code.co_name != "__next__" or code.co_code[traceback.tb_lasti] not in AT:
        assert_idle(model)
    model.close()
    return interrupt.passed


def test_an_interrupted_stream_ends_though_its_traceback_is_kept():
    for place in range(1, interrupt_while_reading(10**9), 7):
        interrupt_while_reading(place)


@pytest.fixture(autouse=True)
def _young_garbage_only():
    """The collector, called thousands of times, does not look at what other tests left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


ACTIONS = (
    generate,
    generate_many,
    generate_to_a_stop_string,
    stream,
    stream_and_break,
    submit,
    work_through_many,
)


@pytest.mark.parametrize("tokens_per_step", [1, 4])
@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupt_anywhere_harms_nobody_else(action, tokens_per_step):
    """Every 97th place; the slow test visits them all."""
    total = check_interrupt_at(10**9, action, tokens_per_step)
    assert total > 300
    for place in range(1, total, 97):
        check_interrupt_at(place, action, tokens_per_step)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tokens_per_step", [1, 4])
@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupt_at_each_single_place_harms_nobody_else(action, tokens_per_step):
    for place in range(1, check_interrupt_at(10**9, action, tokens_per_step)):
        check_interrupt_at(place, action, tokens_per_step)
