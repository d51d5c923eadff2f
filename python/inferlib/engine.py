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
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .atomic import move
from .driving import StepDriver
from .errors import ClosedError, ForkedProcessError, InferlibError, InternalError
from .loaded_adapters import LoadedAdapters
from .request import all_done
from .request_companions import RequestCompanions
from .request_sequences import num_output_tokens
from .sequence_bytes import SequenceBytes
from .stats import ModelStats, model_stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._core import Events, GrammarStates, HeldSequences, Scheduler, TextStreams
    from .drafting import Drafting
    from .executors.base import Executor
    from .request import Request
    from .request_sequences import SequenceView

_logger = logging.getLogger(__package__)

CLOSE_TIMEOUT_SECONDS = 60.0
LOOK_AHEAD_TOKENS = 16
"""So many tokens more than were read does a thread generate for the stream of an event loop."""


class Engine:
    """Runs the requests of one model.

    Args:
        scheduler: Decides what runs.
        executor: Runs it.
        text: Turns tokens into text; ``None`` if there is no tokenizer.
        grammars: Where sequences are in their structures, of none yet.
        dedicated: Whether a thread drives while there is work, not the callers.
        clock: Seconds, for deadlines and timings; tests have one of their own.
        draft_model: Suggests tokens before each step; ``None``: nobody does.

    Attributes:
        adapters: Those that the executor was given.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        text: TextStreams | None,
        *,
        grammars: GrammarStates,
        dedicated: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draft_model: Drafting | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._draft_model = draft_model
        self._clock = clock
        self._executor = executor
        self._details = executor.info()
        self._driver = StepDriver(self, dedicated=dedicated)
        self._requests: dict[int, Request] = {}
        self._cancelled: collections.deque[Request] = collections.deque()
        self._companions = RequestCompanions(
            scheduler,
            text,
            self._requests,
            grammars=grammars,
            clock=clock,
            lock=self._driver.lock,
            give_up=self._cancelled.append,
            draft_model=draft_model,
        )
        self.adapters = LoadedAdapters(executor, self._requests, self._driver.lock)
        self._step_is_open = False
        self._is_accounting = False
        self._is_closed = False
        self._is_released = False
        self._process_id = os.getpid()

    # One step

    def step(self) -> bool:
        """Advance every scheduled sequence; ``False`` if there is nothing to do, or if aborted."""
        if self._companions.has_deadlines:
            self._close_overdue()
        if self._draft_model is not None:
            self._draft_model.draft(self._scheduler)
        batch = self._scheduler.schedule(self._clock())
        if batch is None:
            return self._end_overdue()
        marked = self._companions.mark(batch)
        output = self._executor.run(batch)
        if output is None:
            return False
        output = self._companions.draw(batch, output, marked)
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

    def _close_overdue(self) -> None:
        """Let structures whose time is up end by a short way."""
        with self._driver.lock:
            self._is_accounting = True
            for request in self._companions.close_overdue(self._clock()):
                if self._scheduler.is_finished(request.id):
                    self._retire(request)
            self._is_accounting = False

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
        """End what ended with a step's tokens; the lock is held."""
        tokens, stopped = self._companions.advance(events)
        for request_id in events.finished_requests.tolist():
            self._retire(self._requests.get(request_id))
        for request in stopped:
            if not request.is_done and self._scheduler.is_finished(request.id):
                self._retire(request)
        self._companions.force(tokens)

    def _retire(self, request: Request | None) -> None:
        """Take over the results of a request that ended; the lock is held."""
        if request is None or request.is_done:
            return
        if not request.results:
            move(request.results, self._scheduler.take, request.id)
        self._companions.close(request)
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
            self._companions.rebuild(request, now)
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
            self._companions.drop(request)
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
        now = self._clock()
        submit = request.submission(self._scheduler, now)
        with self._driver.lock:
            if self._is_closed:
                raise ClosedError("the model is closed")
            self.adapters.check(request)
            move(request.ids, submit, np.asarray(request.prompt_token_ids, np.int32))
            self._requests[request.id] = request
            self._companions.open(request, now)

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
        ready = ready or all_done(requests)
        return self._driver.wait_until(ready, timeout_seconds=timeout_seconds)

    async def wait_async(
        self, requests: Sequence[Request], *, ready: Callable[[], bool] | None = None
    ) -> None:
        """Wait for the same without blocking the event loop; a thread runs the steps.

        If the loop is closed meanwhile, the requests are cancelled.
        """
        self.check_not_forked()
        ready = ready or all_done(requests)
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
        return num_output_tokens(self._scheduler, request)

    def read(self, request: Request, index: int, start: int) -> tuple[SequenceView, str]:
        """Return one sequence from token ``start`` on, and all of its text so far.

        Raises:
            InferlibError: The request failed.
        """
        may_recover = not self._driver.is_reentrant()  # or it comes in the middle of accounting
        with self._driver.lock:
            if self._is_accounting and may_recover:
                self._recover()
            request.raise_error()
            result = self._companions.read(request, index, start)
        return result  # not above: an interrupt behind that call would leave the lock held

    @property
    def sequences(self) -> HeldSequences:
        """The sequences that are held between requests.

        Raises:
            ClosedError: The model is closed.
            ForkedProcessError: This process was forked after the model was loaded.
        """
        self.check_usable()
        return self._scheduler.sequences

    @property
    def sequence_bytes(self) -> SequenceBytes:
        """Their keys and values; raises what ``sequences`` raises."""
        return SequenceBytes(self.sequences, self._executor)

    def close_sequence(self, sequence: int) -> None:
        """Let a held sequence go; for finalizers, too."""
        if os.getpid() == self._process_id:
            self._scheduler.sequences.close(sequence)

    def why_waiting(self, request: Request) -> dict[str, object] | None:
        """Why a request does not run; ``None`` if it runs or has ended."""
        if not request.ids or request.is_done:
            return None
        return self._scheduler.why_waiting(request.id)

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
            details |= self.adapters.details()
            if self._draft_model is not None:
                details["draft_model"] = self._draft_model.name
                details["draft_model_problem"] = self._draft_model.problem
            counted = self._scheduler.stats()
        return model_stats(counted, details)  # not above: as in `read`

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


def _closed_while_running() -> ClosedError:
    return ClosedError("the model was closed while this request ran")
