"""The engine: one step is schedule, run, update; everything else is about who may interrupt it.

Interrupts. Python may raise ``KeyboardInterrupt`` between any two bytecodes of the main thread, so
also in the middle of a step's bookkeeping, which concerns the requests of other callers, too. Two
means: what exists once only is moved into its container by one C call (``atomic.move``), which no
interrupt can split; and ``_step_is_open`` stays set until a step is accounted for: whoever runs the
next step finds it set and rebuilds from the scheduler's records what may have been missed
(``_recover``). Nothing is lost and nothing happens twice.

A step may bring several tokens of a sequence (drafts), and a stop string may end it with one of the
first. So the lock is held from the moment when the scheduler has a step's tokens until the texts
have been looked at: nobody reads a token that is taken back.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from ._core import CpuExecutor
from .atomic import move
from .driving import StepDriver
from .errors import (
    ClosedError,
    ExecutorError,
    ForkedProcessError,
    InferlibError,
    InternalError,
    RequestError,
)
from .request import SEQUENCES_PER_REQUEST, Request
from .request_confidence import RequestConfidence
from .request_grammars import RequestGrammars
from .request_processors import RequestProcessors
from .request_texts import RequestTexts, TextEnd
from .request_thinking import RequestThinking
from .stats import ModelStats, model_stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from ._core import (
        Events,
        HeldSequences,
        RowLogprobs,
        Scheduler,
        SequenceOutput,
        TextStreams,
    )
    from .executors.base import Executor
    from .lora_files import AdapterMatrices

    SequenceView: TypeAlias = "SequenceOutput | SequenceTail"
    ByteArrays = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

_logger = logging.getLogger(__package__)

CLOSE_TIMEOUT_SECONDS = 60.0
LOOK_AHEAD_TOKENS = 16
"""So many tokens more than were read does a thread generate for the stream of an event loop."""


class Drafting(Protocol):
    """Drafts tokens for the scheduler; see ``draft_model.DraftModel``."""

    name: str
    problem: str | None

    def draft(self, scheduler: Scheduler) -> None:
        """Suggest tokens for the step that comes; the lock is not held."""

    def forget(self, request: Request) -> None:
        """Drop what belongs to a request that is over."""

    def stop(self) -> None:
        """Let ``draft`` return soon, from another thread."""

    def close(self) -> None:
        """Give everything back; nobody is in ``draft``."""


class Engine:
    """Runs the requests of one model.

    Args:
        scheduler: Decides what runs.
        executor: Runs it.
        text: Turns tokens into text; ``None`` if there is no tokenizer.
        vocab_size: Number of logits.
        dedicated: Whether a thread drives while there is work, not the callers.
        clock: Seconds, for deadlines and timings; tests have one of their own.
        draft_model: Suggests tokens before each step; ``None``: nobody does.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        text: TextStreams | None,
        *,
        vocab_size: int,
        dedicated: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draft_model: Drafting | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._draft_model = draft_model
        self._clock = clock
        self._executor = executor
        self._adapters: dict[int, int] = {}
        self._details = executor.info()
        self._texts = RequestTexts(text, clock)
        # What is written in Rust takes no stand-in (`inferlib.testing`), but what that wraps.
        self._grammars = RequestGrammars(vocab_size, getattr(scheduler, "wrapped", scheduler))
        self._confidence = RequestConfidence(scheduler)
        self._thinking = RequestThinking(vocab_size, scheduler)
        self._processors = RequestProcessors(vocab_size, scheduler, self._give_up)
        self._driver = StepDriver(self, dedicated=dedicated)
        self._requests: dict[int, Request] = {}
        self._cancelled: collections.deque[Request] = collections.deque()
        self._step_is_open = False
        self._is_accounting = False
        self._is_closed = False
        self._is_released = False
        self._process_id = os.getpid()

    # One step

    def step(self) -> bool:
        """Advance every scheduled sequence; ``False`` if there is nothing to do, or if aborted."""
        if self._grammars.has_deadlines:
            with self._driver.lock:
                self._is_accounting = True
                self._close_overdue(self._clock())
                self._is_accounting = False
        if self._draft_model is not None:
            self._draft_model.draft(self._scheduler)
        batch = self._scheduler.schedule(self._clock())
        if batch is None:
            return self._end_overdue()
        with self._driver.lock:  # who submitted any of these requests has opened it by now
            self._thinking.mask(batch)
            processed = self._processors.ask(batch)
        has_guarded_rows = self._grammars.mask(batch)
        output = self._executor.run(batch)
        if output is None:
            return False
        if processed:
            output = self._processors.draw(batch, output, processed)
        if has_guarded_rows:
            output = self._grammars.refuse(batch, output)
        with self._driver.lock:
            self._is_accounting = True
            self._account(self._scheduler.update(output, self._clock()))
            self._is_accounting = False
        return True

    def _end_overdue(self) -> bool:
        """End requests whose deadline left nothing to do; ``False`` if there are none."""
        with self._driver.lock:
            self._is_accounting = True
            events = self._scheduler.overdue()
            self._account(events)
            self._is_accounting = False
        return len(events.finished_requests) > 0

    def _close_overdue(self, now: float) -> None:
        """Let structures whose time is up end by a short way; end those that cannot."""
        for request in self._grammars.overdue(now):
            for index in self._grammars.close_texts(request):
                self._scheduler.finish(request.id, index, "deadline", now)
                self._texts.end(request, index)
            if self._scheduler.is_finished(request.id):
                self._retire(request)

    def run_step(self) -> bool:
        """Run one step and account for it; see ``driving.Work``."""
        try:
            with self._driver.lock:
                self.settle()
                if self._is_closed:
                    self.fail(_closed_while_running())
                    return True
            self._step_is_open = True
            advanced = self.step()
            self._step_is_open = False
        except Exception as error:
            with self._driver.lock:
                self.fail(_closed_while_running() if self._is_closed else error)
            return True
        return advanced or self._is_closed

    def _account(self, events: Events) -> None:
        """Bring the texts up to date, end what ended; the lock is held."""
        unsure, tokens = self._confidence.advance(events)
        ends = self._texts.advance(tokens, self._requests)
        stopped_keys = {end.key for end in ends}
        ends += [end for end in self._grammars.advance(tokens) if end.key not in stopped_keys]
        ends = self._confidence.judge(ends, unsure)
        now = self._clock()
        stopped = [self._end(end, now) for end in ends]
        self._texts.show(now)
        for row in np.flatnonzero(tokens.finished).tolist():
            request = self._requests.get(int(tokens.request_ids[row]))
            if request is not None:
                self._texts.end(request, int(tokens.sequence_indices[row]))
        for request_id in events.finished_requests.tolist():
            self._retire(self._requests.get(request_id))
        for request in stopped:
            if request is None or request.is_done:
                continue
            if self._scheduler.is_finished(request.id):
                self._retire(request)
        self._thinking.advance(tokens)

    def _end(self, end: TextEnd, now: float) -> Request | None:
        """End a sequence because of its text, and return its request."""
        request_id, index = divmod(end.key, SEQUENCES_PER_REQUEST)
        request = self._requests.get(request_id)
        if request is None or (request.params.detokenize and index not in request.opened):
            return None  # its submission was interrupted
        self._finish(request, index, end, now)
        self._texts.end(request, index)
        return request

    def _finish(self, request: Request, index: int, end: TextEnd, now: float) -> None:
        """Take back what the scheduler has of a sequence behind the end of its text."""
        reason = "deadline" if end.is_overdue else "stop" if end.is_whole else "error"
        if end.is_unsure:
            reason = "abstain"
        elif end.stop_index is not None:
            reason = "stop"
            request.stop_strings[index] = request.params.stop_strings[end.stop_index]
        self._scheduler.finish(request.id, index, reason, now, num_output_tokens=end.num_tokens)

    def _retire(self, request: Request | None) -> None:
        """Take over the results of a request that ended; the lock is held."""
        if request is None or request.is_done:
            return
        if not request.results:
            move(request.results, self._scheduler.take, request.id)
        self._texts.close(request)
        self._grammars.note_failures(request)
        self._grammars.close(request)
        if self._draft_model is not None:
            self._draft_model.forget(request)
        self._confidence.close(request)
        self._thinking.close(request)
        self._processors.close(request)
        self._driver.forget(request)
        request.is_done = True
        self._requests.pop(request.id, None)

    # Interrupts and failures

    def _recover(self) -> None:
        """Make good a step whose bookkeeping was interrupted; the lock is held.

        Costs a decode of all running requests, after an interrupt only.
        """
        now = self._clock()
        self._scheduler.discard_step()
        for request in list(self._requests.values()):
            for index in range(request.params.n):
                sequence = cast("SequenceOutput", self._sequence(request, index, 0))
                unsure = self._confidence.rebuild(request, index, sequence)
                if unsure is not None:
                    sequence = cast("SequenceOutput", _first_tokens(sequence, unsure.num_tokens))
                whole = self._grammars.rebuild(request, index, sequence)
                end = self._texts.rebuild(request, index, sequence) or whole
                ends = [] if end is None else [end]
                for end in self._confidence.judge(ends, [] if unsure is None else [unsure]):
                    if not request.results:
                        self._finish(request, index, end, now)
                    self._texts.end(request, index)
            if request.results or self._scheduler.is_finished(request.id):
                self._retire(request)
        self._step_is_open = self._is_accounting = False

    def settle(self) -> None:
        """Make good an interrupted step, apply cancellations; see ``driving.Work``."""
        if self._step_is_open:
            self._recover()
        while self._cancelled:
            request = self._cancelled[0]
            if request.ids and not request.is_done:
                if not request.results:
                    self._scheduler.cancel(request.id, self._clock())
                self._retire(request)
            self._cancelled.popleft()

    def has_work(self) -> bool:
        """Whether a request is unfinished; see ``driving.Work``."""
        return bool(self._requests)

    def fail(self, error: BaseException) -> None:
        """End all requests with an error; see ``driving.Work``."""
        if not isinstance(error, InferlibError):
            cause, error = (
                error,
                InternalError(
                    f"a step failed: {type(error).__name__}: {error}",
                    hint="this is a bug; please report it with the traceback",
                ),
            )
            error.__cause__ = cause
        with contextlib.suppress(InternalError):  # a scheduler that panicked refuses every call
            self._scheduler.discard_step()
        self._step_is_open = self._is_accounting = False
        for request in list(self._requests.values()):
            if not request.results:
                with contextlib.suppress(InternalError):
                    self._scheduler.cancel(request.id, self._clock())
                    move(request.results, self._scheduler.take, request.id)
            self._texts.drop(request)
            self._grammars.close(request)
            if self._draft_model is not None:
                self._draft_model.forget(request)
            self._confidence.close(request)
            self._thinking.close(request)
            self._processors.close(request)
            request.error = error
            request.is_done = True
            self._driver.forget(request)
        self._requests.clear()

    # What callers do

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests: all, or none of them.

        Raises:
            RequestError: One can never run.
            OverloadedError: The queue is full.
            ClosedError: The model is closed.
            ForkedProcessError: This process was forked after the model was loaded.
        """
        self.check_usable()
        submitted: list[Request] = []
        try:
            for request in requests:
                submitted.append(request)
                self._submit(request)
        except BaseException:
            self.cancel(submitted)
            raise
        self._driver.changed()

    def _submit(self, request: Request) -> None:
        params = request.params
        now = self._clock()
        submit = partial(
            self._scheduler.submit,
            params=request.scheduler_params,
            n=params.n,
            seed=cast("int", params.seed),
            cache_salt=request.cache_salt,
            priority=request.priority,
            background=request.background,
            tenant=request.tenant,
            deadline=None if request.deadline is None else now + request.deadline,
            closes=request.closes,
            speculation=request.speculation in ("auto", "prompt_lookup"),
            draft_model=request.speculation in ("auto", "draft_model"),
            sequence=request.sequence,
            keep=request.keep,
            captures=list(request.captures),
            capture_start=request.capture_start,
            second_segment=request.second_segment,
            adapter=request.adapter,
            now=now,
        )
        with self._driver.lock:
            if self._is_closed:
                raise ClosedError("the model is closed")
            if request.adapter and request.adapter not in self._adapters:
                raise RequestError("the adapter was unloaded", field="adapter")
            move(request.ids, submit, np.asarray(request.prompt_token_ids, np.int32))
            self._requests[request.id] = request
            self._texts.open(request)
            self._grammars.open(request, now)
            self._confidence.open(request)
            self._thinking.open(request)
            self._processors.open(request)

    def cancel(self, requests: Iterable[Request]) -> None:
        """End requests with ``finish_reason="abort"``, at the end of the current step at latest."""
        self._mark_cancelled(requests)
        self._driver.changed()

    def abandon(self, requests: Iterable[Request]) -> None:
        """``cancel`` for finalizers: takes no lock that this thread may hold."""
        if os.getpid() != self._process_id:
            return
        self._mark_cancelled(requests)
        self._driver.try_changed()

    def _give_up(self, request: Request) -> None:
        """End a request that has its error, before the next step."""
        self._cancelled.append(request)

    def _mark_cancelled(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if not request.is_done:
                request.is_cancelled = True
                self._cancelled.append(request)

    def wait(
        self,
        requests: Sequence[Request],
        *,
        timeout_seconds: float | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> bool:
        """Block until all are done (or ``ready()``), running steps if need be.

        ``False`` on a timeout. On an interrupt the requests go on; the caller cancels them.
        """
        self.check_not_forked()
        ready = ready or _all_done(requests)
        return self._driver.wait_until(ready, timeout_seconds=timeout_seconds)

    async def wait_async(
        self, requests: Sequence[Request], *, ready: Callable[[], bool] | None = None
    ) -> None:
        """Wait for the same without blocking the event loop; a thread runs the steps.

        If the loop is closed meanwhile, the requests are cancelled.
        """
        self.check_not_forked()
        ready = ready or _all_done(requests)
        await self._driver.wait_until_async(ready, abandon=partial(self._mark_cancelled, requests))

    def look_ahead(self, request: Request, num_read_tokens: Callable[[], int]) -> None:
        """Let a thread generate ``LOOK_AHEAD_TOKENS`` more than were read, for ``async for``."""

        def wants_step() -> bool:
            ahead = self.num_output_tokens(request) - num_read_tokens()
            return not request.is_done and ahead < LOOK_AHEAD_TOKENS * request.params.n

        self._driver.look_ahead(request, wants_step)
        if request.is_done:  # meanwhile, so nobody else would forget it
            with self._driver.lock:
                self._driver.forget(request)

    def num_output_tokens(self, request: Request) -> int:
        """Count the generated tokens of all sequences of a request."""
        if not request.results:
            try:
                return self._scheduler.num_output_tokens(request.id)
            except KeyError:
                pass  # it ended meanwhile
        return sum(
            len(sequence.token_ids) for result in request.results for sequence in result.sequences
        )

    def read(self, request: Request, index: int, start: int) -> tuple[SequenceView, str]:
        """Return one sequence from token ``start`` on, and all of its text so far.

        Raises:
            InferlibError: The request failed.
        """
        may_recover = not self._driver.is_reentrant()  # or it comes in the middle of accounting
        with self._driver.lock:
            if self._is_accounting and may_recover:
                self._recover()
            raise_error_of(request)
            self._texts.take(request, index)
            return self._sequence(request, index, start), request.text(index)

    def _sequence(self, request: Request, index: int, start: int) -> SequenceView:
        if request.results:
            sequence = request.results[0].sequences[index]
            return SequenceTail(
                sequence.token_ids[start:],
                sequence.logprobs[start:],
                sequence.finish_reason,
                sequence.stop_token_id,
            )
        return self._scheduler.sequence_since(request.id, index, start)

    @property
    def sequences(self) -> HeldSequences:
        """The sequences that are held between requests.

        Raises:
            ClosedError: The model is closed.
            ForkedProcessError: This process was forked after the model was loaded.
        """
        self.check_usable()
        return self._scheduler.sequences

    def export_sequence(self, sequence: int) -> list[ByteArrays]:
        """Read a held sequence's keys and values; see ``HeldSequences.export``.

        Raises:
            ExecutorError: Not on this device.
        """
        return self.sequences.export(sequence, self._cpu())

    def restore_sequence(
        self,
        sequence: int,
        token_ids: NDArray[np.int32],
        num_computed: int,
        groups: list[ByteArrays],
    ) -> None:
        """Give a held sequence tokens, keys and values; without room for these, tokens only.

        Raises:
            ExecutorError: Not on this device.
        """
        self.sequences.restore(sequence, token_ids, num_computed, self._cpu(), groups)

    def load_adapter(self, number: int, parts: Iterable[AdapterMatrices]) -> None:
        """Give the executor an adapter, between steps.

        Raises:
            ExecutorError: Not on this device.
        """
        if not isinstance(self._executor, CpuExecutor):
            raise ExecutorError("adapters run on the CPU only", hint='load it with device="cpu"')
        given = [(p.weight, p.first_row, p.a, p.b, p.scale) for p in parts]
        self._executor.load_adapter(number, given)
        with self._driver.lock:
            self._adapters[number] = sum(a.nbytes + b.nbytes for _, _, a, b, _ in given)

    def unload_adapter(self, number: int) -> None:
        """Take an adapter away.

        Raises:
            RequestError: Requests that use it have not ended.
        """
        with self._driver.lock:
            users = sum(request.adapter == number for request in self._requests.values())
            if users:
                raise RequestError(
                    f"{users} requests that use the adapter have not ended",
                    field="name",
                    hint="wait for them, or cancel them",
                )
            self._adapters.pop(number, None)
        if isinstance(self._executor, CpuExecutor):
            self._executor.unload_adapter(number)

    def _cpu(self) -> CpuExecutor:
        if not isinstance(self._executor, CpuExecutor):
            raise ExecutorError(
                "keys and values can be saved and loaded on the CPU only",
                hint="prefill the tokens again",
            )
        return self._executor

    def why_waiting(self, request: Request) -> dict[str, object] | None:
        """Why a request does not run; ``None`` if it runs or has ended."""
        if not request.ids or request.is_done:
            return None
        return self._scheduler.why_waiting(request.id)

    def close_sequence(self, sequence: int) -> None:
        """Let a held sequence go; for finalizers, too."""
        if os.getpid() == self._process_id:
            self._scheduler.sequences.close(sequence)

    def stats(self) -> ModelStats:
        """Count requests, tokens and blocks.

        Raises:
            ClosedError: The model is closed.
            ForkedProcessError: This process was forked after the model was loaded.
        """
        self.check_usable()
        self._driver.changed()
        details = {**self._details, **self._executor.residency()}
        with self._driver.lock:
            if self._adapters:
                details["adapter_bytes"] = sum(self._adapters.values())
            if self._draft_model is not None:
                details["draft_model"] = self._draft_model.name
                details["draft_model_problem"] = self._draft_model.problem
            return model_stats(self._scheduler.stats(), details)

    # The end

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    def check_usable(self) -> None:
        """Refuse to work after ``close`` or ``fork``.

        Raises:
            ClosedError: The model is closed.
            ForkedProcessError: This process was forked after the model was loaded.
            ReentrantCallError: A signal handler interrupted a call of the same thread.
        """
        self.check_not_forked()
        self._driver.check_not_reentrant()
        if self._is_closed:
            raise ClosedError("the model is closed", hint="load it again")

    def check_not_forked(self) -> None:
        """Refuse to work in a child of the process that loaded the model.

        Its threads do not exist there and its locks may be held for ever.

        Raises:
            ForkedProcessError: This process was forked after the model was loaded.
        """
        if os.getpid() != self._process_id:
            raise ForkedProcessError(
                "this process was forked after the model was loaded",
                hint="load the model in the child, or use the start method 'spawn'",
            )

    def close(self) -> None:
        """End all requests with ``ClosedError`` and give everything back; may be called again.

        In a forked child it does nothing.

        Raises:
            ReentrantCallError: A signal handler interrupted a call of the same thread.
        """
        if os.getpid() != self._process_id:
            return
        self._driver.check_not_reentrant()
        with self._driver.lock:
            if not self._is_closed:
                self._is_closed = True
                if self._draft_model is not None:
                    self._draft_model.stop()
                if self._driver.has_leader():
                    self._executor.abort()
        while not self._release():
            self._driver.wait_idle(CLOSE_TIMEOUT_SECONDS)
        if self._draft_model is not None:
            self._draft_model.close()

    def close_finally(self) -> None:
        """``close`` for finalizers, which may run in the middle of a step of this very thread.

        Then that step is the last one; the memory goes with the last reference to it.
        """
        if self._driver.is_reentrant():
            self._is_closed = True
        else:
            self.close()

    def _release(self) -> bool:
        """Free memory and threads unless somebody is still in a step."""
        with self._driver.lock:
            if self._is_released:
                return True
            if self._driver.has_leader():
                return False
            self.fail(_closed_while_running())
            self._driver.wake()
            self._executor.close()
            problem = self._scheduler.end_decision_log()
            if problem is not None:
                _logger.warning("the decision log ends early: %s", problem)
            self._is_released = True
            return True


@dataclass(frozen=True, slots=True)
class SequenceTail:
    """A finished sequence from one of its tokens on."""

    token_ids: NDArray[np.int32]
    logprobs: list[RowLogprobs]
    finish_reason: str | None
    stop_token_id: int | None


def _first_tokens(sequence: SequenceOutput, count: int) -> SequenceTail:
    """A sequence as it is if it ends with so many tokens; the last of its own may be its end."""
    is_whole = count == len(sequence.token_ids)
    return SequenceTail(
        sequence.token_ids[:count],
        sequence.logprobs[:count],
        sequence.finish_reason if is_whole else None,
        sequence.stop_token_id if is_whole else None,
    )


def raise_error_of(request: Request) -> None:
    """Raise a request's error, if it has one, as an exception of its own for each caller."""
    if request.error is not None:
        raise copy.copy(request.error) from request.error


def _closed_while_running() -> ClosedError:
    return ClosedError("the model was closed while this request ran")


def _all_done(requests: Sequence[Request]) -> Callable[[], bool]:
    """Whether all requests are done, in constant time per call on average."""
    pending = list(requests)

    def all_done() -> bool:
        while pending and pending[-1].is_done:
            pending.pop()
        return not pending

    return all_done
