"""The table of faults, and the stage on which each is played: alone and among healthy requests."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from inferlib.testing import Faults, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import inferlib

Others = Literal["go on", "end with the same error"]

NAN_TOKEN = 255
GREEDY = {"temperature": 0, "ignore_eos": True}
OPTIONS = {
    "max_position_embeddings": 512,
    "kv_cache": "4k tokens",
    "max_num_batched_tokens": 128,
    "threads": 2,
}
WITNESS = {"prompt": list(range(60, 90)), "max_tokens": 8, **GREEDY}


@dataclass(frozen=True, slots=True)
class Fault:
    """One row.

    Attributes:
        kind: What it is a fault of: ``"request"``, ``"resource"``, ``"file"``, ``"process"``.
        name: What goes wrong.
        wanted: What the caller sees.
        others: What becomes of requests that run at the time.
        play: Makes it happen and checks ``wanted``.
    """

    kind: str
    name: str
    wanted: str
    others: Others
    play: Callable[[Stage], None]


@dataclass(slots=True)
class Stage:
    """Where a fault is played: a model that works, its faults to order, an empty folder."""

    model: inferlib.Model
    faults: Faults
    folder: Path

    def refused(
        self, error: type[BaseException], call: Callable[[], object], field: str | None = None
    ) -> BaseException:
        """``call`` raises exactly this, and names the field."""
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error, type(raised.value)
        if field is not None:
            assert raised.value.field == field, raised.value
        return raised.value


FAULTS: list[Fault] = []


def fault(
    kind: str, name: str, wanted: str, *, others: Others = "go on"
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Put what is decorated into the table."""

    def add(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        assert all(each.name != name for each in FAULTS), name
        FAULTS.append(Fault(kind, name, wanted, others, play))
        return play

    return add


def healthy_requests() -> list[dict[str, Any]]:
    """32 requests of many kinds, with shared beginnings."""
    kinds: list[dict[str, Any]] = [
        GREEDY,
        {"seed": 5, "temperature": 0.8, "top_p": 0.9},
        {"seed": 6, "n": 2, "top_k": 40, "ignore_eos": True},
        {**GREEDY, "logprobs": 3, "prompt_logprobs": 1},
        {**GREEDY, "stop": ["\x10", "zz"], "repetition_penalty": 1.2},
        {"seed": 7, "choices": ["yes", "no", "perhaps"]},
        {**GREEDY, "logit_bias": {65: 3.0}, "min_tokens": 3, "cache_salt": "tenant"},
        {"seed": 8, "min_p": 0.05, "presence_penalty": 1.0, "bad_words": ["a"]},
    ]
    return [
        {
            "prompt": [index % 3] * (5 + 7 * (index % 6)) + [100 + index],
            "max_tokens": 6 + index % 7,
            **kinds[index % len(kinds)],
        }
        for index in range(32)
    ]


def answer(completion: inferlib.Completion) -> object:
    """All of a completion that must not change."""
    return [
        (each.token_ids, each.text, each.finish_reason, repr(each.logprobs))
        for each in completion.outputs
    ] + [repr(completion.prompt_logprobs)]


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A stage on which nothing was played."""
    faults = Faults()
    with tiny_model(faults=faults, nan_token_id=NAN_TOKEN, **OPTIONS) as model:
        yield Stage(model, faults, folder)


def baseline() -> list[object]:
    """What the healthy requests give on a model that knows no fault, and the witness."""
    with tiny_model(nan_token_id=NAN_TOKEN, **OPTIONS) as model:
        handles = [model.submit(**request) for request in healthy_requests()]
        answers = [answer(handle.result()) for handle in handles]
        return [*answers, answer(model.generate(**WITNESS))]


def play_alone(fault: Fault, folder: Path, expected: list[object]) -> None:
    """The fault; then the model answers as ever, and nothing is lost."""
    with stage(folder) as on:
        assert answer(on.model.generate(**WITNESS)) == expected[-1]
        before = resources(on.model)
        fault.play(on)
        assert answer(on.model.generate(**WITNESS)) == expected[-1]
        assert resources(on.model) == before


def play_among_others(fault: Fault, folder: Path, expected: list[object]) -> None:
    """The fault in the middle of 32 requests; none of their answers changes."""
    with stage(folder) as on:
        assert answer(on.model.generate(**WITNESS)) == expected[-1]
        before = resources(on.model)
        handles = [on.model.submit(**request) for request in healthy_requests()]
        with on.model.stream([1, 2, 3], max_tokens=3, **GREEDY) as stream:
            next(stream)  # so that some run and some wait
        fault.play(on)
        for handle, wanted in zip(handles, expected, strict=False):
            if fault.others == "go on":
                assert answer(handle.result()) == wanted
            elif not handle.done() or handle_failed(handle):
                assert handle_failed(handle)
        again = [on.model.submit(**request) for request in healthy_requests()]
        assert [answer(handle.result()) for handle in again] == expected[:-1]
        assert answer(on.model.generate(**WITNESS)) == expected[-1]
        del handles, again, handle, stream
        assert resources(on.model) == before


def handle_failed(handle: inferlib.Handle) -> bool:
    """Whether a request ended with an error of ours, which is not an internal detail."""
    import inferlib

    try:
        handle.result()
    except inferlib.InferlibError as error:
        return str(error) != ""
    return False


def resources(model: inferlib.Model) -> dict[str, int]:
    """Of the model and the process, when nothing runs: what must come back."""
    gc.collect()
    engine = model._engine
    assert engine._driver.wait_idle(30)
    stats = model.stats()
    engine._scheduler.check_integrity()
    assert not engine._requests
    assert not engine._driver._waiters
    assert not engine._driver._lookaheads
    return {
        "free blocks": stats["free_blocks"] - stats["total_blocks"],
        "requests": stats["running_sequences"] + stats["waiting_sequences"],
        "held sequences": stats["held_sequences"],
        **engine._companions.num_known(),
        "Python's threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0,  # noqa: PTH208
    }


def table() -> str:
    """The catalogue as a page."""
    kinds = {"request": "Requests", "resource": "Resources", "file": "Files", "process": "Process"}
    lines = [
        "# Faults, and what becomes of them",
        "",
        "Written by `make faults-table` from `tests/faults`, where each row is a test, played",
        "alone and among 32 requests of many kinds. Whatever happens: the model answers",
        "afterwards as it did before, bit for bit, and KV blocks, threads and file descriptors",
        "are what they were. *Others* are the requests that run at the time: where they go on,",
        "their tokens, texts and log-probabilities are those of a run without the fault. Where",
        "a whole step is lost they end with the same error, and asked again they give the same",
        "answers.",
        "",
        f"{len(FAULTS)} faults.",
    ]
    for kind, title in kinds.items():
        lines += ["", f"## {title}", "", "| fault | the caller sees | others |", "|---|---|---|"]
        lines += [
            f"| {each.name} | {each.wanted} | {each.others} |"
            for each in FAULTS
            if each.kind == kind
        ]
    return "\n".join(lines) + "\n"
