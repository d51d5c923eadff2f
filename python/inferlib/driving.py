"""Who runs the steps: whoever waits.

The first waiter that finds no leader becomes it and runs steps for everybody; the others follow,
asleep, and are woken when what they wait for has happened. A leader that is done (or interrupted)
hands over to a follower. Waiters of an event loop cannot lead: a thread does it for them, and ends
when none of them waits any more. With ``driver="thread"`` such a thread leads while there is work.

Invariants, all under ``lock``: at most one leader; a waiter is either registered or about to look
again; whoever stops leading appoints a successor. Every wait is sliced, so that a wake-up lost to
an exception that was raised in the middle of a hand-over (a second Ctrl-C) costs a slice, no more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Protocol

from .errors import InternalError, ReentrantCallError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable

FOLLOWER_SLICE_SECONDS = 0.05
"""A follower looks around this often: so it sees Ctrl-C where waits cannot be interrupted."""
LOOP_SLICE_SECONDS = 0.25


class Work(Protocol):
    """What is driven. All but ``run_step`` are called with the lock held."""

    def run_step(self) -> bool:
        """Run one step outside the lock; ``False`` if there was nothing to run.

        Errors of the step are given to the requests concerned; only interrupts are raised.
        """

    def settle(self) -> None:
        """Apply cancellations; nobody is in a step."""

    def has_work(self) -> bool:
        """Whether a request is unfinished."""

    def fail(self, error: BaseException) -> None:
        """End all requests: no step can be run."""


class StepDriver:
    """Runs the steps of some ``Work`` on the threads that wait for it."""

    def __init__(self, work: Work, *, dedicated: bool) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._work = work
        self._dedicated = dedicated
        self._leader: _ThreadWaiter | _DriverThread | None = None
        self._waiters: dict[_ThreadWaiter | _LoopWaiter, None] = {}
        self._lookaheads: dict[Hashable, Callable[[], bool]] = {}

    # Waiting

    def wait_until(
        self, ready: Callable[[], bool], *, timeout_seconds: float | None = None
    ) -> bool:
        """Block until ``ready()``, running steps if nobody else does; ``False`` on a timeout.

        Args:
            ready: Asked after every step, with or without the lock, which it must not take.
            timeout_seconds: A step that was begun is finished first.

        Raises:
            ReentrantCallError: The calling thread is inside of a call already.
        """
        if ready():
            return True
        self.check_not_reentrant()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        waiter = _ThreadWaiter(ready)
        try:
            while not ready():
                remaining = _remaining(deadline)
                if remaining <= 0:
                    return False
                if self._lead_or_register(waiter):
                    self._lead(ready, deadline)
                elif not ready():
                    waiter.woken.wait(min(remaining, FOLLOWER_SLICE_SECONDS))
                    waiter.woken.clear()
            return True
        finally:
            # Not in a function: an interrupt could come between the call and its first statement.
            if self._leader is waiter:
                self._leader = None
            self._leave(waiter)

    async def wait_until_async(
        self, ready: Callable[[], bool], *, abandon: Callable[[], None]
    ) -> None:
        """Wait without blocking the event loop until ``ready()``; a thread runs the steps.

        Args:
            ready: As for ``wait_until``.
            abandon: Called, with the lock held, if the loop is found closed.

        Raises:
            RuntimeError: No thread can be started.
        """
        import asyncio  # here, because `import inferlib` must not pay for it

        loop = asyncio.get_running_loop()
        while not ready():
            waiter = _LoopWaiter(ready, loop, abandon)
            try:
                with self.lock:
                    self._waiters[waiter] = None
                    self._appoint()
                if ready():
                    return
                slice_end = loop.call_later(LOOP_SLICE_SECONDS, waiter.resolve)
                try:
                    await waiter.future
                finally:
                    slice_end.cancel()
            finally:
                with self.lock:
                    self._waiters.pop(waiter, None)

    def look_ahead(self, key: Hashable, wants_step: Callable[[], bool]) -> None:
        """Let the thread go on for an event loop's stream between two of its waits.

        Without it, a thread would end and another start for each token of an ``async for``.
        """
        with self.lock:
            self._lookaheads[key] = wants_step

    def forget(self, key: Hashable) -> None:
        """Undo ``look_ahead``; the lock is held."""
        self._lookaheads.pop(key, None)

    # Changes between steps

    def changed(self) -> None:
        """React to a submitted or cancelled request, or to closing.

        In a signal handler that interrupted a holder of the lock nothing happens now; the next
        step or call settles.
        """
        if self.is_inside():
            return
        with self.lock:
            self._react()

    def try_changed(self) -> None:
        """``changed`` for finalizers: they run anywhere, and wait for nobody.

        If the lock is held, nothing happens now; the next step or call settles.
        """
        if self.is_inside():
            return
        acquired: list[bool] = []
        try:
            # One C call, so that no interrupt comes between taking the lock and knowing it.
            acquired.extend(map(self.lock.acquire, (False,)))
            if acquired[0]:
                self._react()
        finally:
            if acquired and acquired[0]:
                self.lock.release()

    def is_inside(self) -> bool:
        """Whether this thread holds the lock: a signal handler or finalizer came in between."""
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nobody is in a step; ``False`` on a timeout."""
        deadline = time.monotonic() + timeout_seconds
        while self.leading():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def leading(self) -> bool:
        """Whether somebody runs steps now."""
        with self.lock:
            return self.has_leader()

    def has_leader(self) -> bool:
        """Whether somebody runs steps now; the lock is held."""
        return self._living_leader() is not None

    def check_not_reentrant(self) -> None:
        """Refuse to wait for oneself.

        Raises:
            ReentrantCallError: The calling thread is in the middle of a step or of a change.
        """
        if self.is_reentrant():
            raise ReentrantCallError(
                "this thread is already inside a call of the same model",
                hint="a signal handler or a finalizer cannot wait for it; use another thread",
            )

    def is_reentrant(self) -> bool:
        """Whether this thread is in the middle of a step or of a change."""
        leader = self._leader
        leads = leader is not None and leader.thread_id == threading.get_ident()
        return leads or self.is_inside()

    # Leading

    def _lead_or_register(self, waiter: _ThreadWaiter) -> bool:
        with self.lock:
            leader = self._living_leader()
            if leader is None and not self._dedicated:
                self._leader = waiter
                self._waiters.pop(waiter, None)
                return True
            self._waiters[waiter] = None
            self._appoint()
            return False

    def _lead(self, ready: Callable[[], bool], deadline: float | None) -> None:
        while not ready() and _remaining(deadline) > 0:
            self._advance(ready)

    def _advance(self, ready: Callable[[], bool]) -> None:
        """Run one step, then wake those whose turn has come."""
        ran = self._work.run_step()
        with self.lock:
            if not ran and not ready():
                self._work.fail(InternalError("no request can advance"))
            self.wake()

    def _leave(self, waiter: _ThreadWaiter) -> None:
        with self.lock:
            self._waiters.pop(waiter, None)
            self._react()

    def _react(self) -> None:
        if self._living_leader() is None:
            self._work.settle()
            self.wake()
            # No thread can start: the event loops ask again at their next slice, and are told.
            with contextlib.suppress(RuntimeError):
                self._appoint()

    def wake(self) -> None:
        """Wake whoever waits for what has happened; the lock is held."""
        for waiter in list(self._waiters):
            if waiter.ready() or waiter.is_lost():
                del self._waiters[waiter]
                waiter.wake()

    def _appoint(self) -> None:
        """Give the lead to somebody if nobody has it and somebody waits."""
        if self._living_leader() is not None:
            return
        if self._thread_is_wanted():
            self._leader = _DriverThread(self._lead_for_loops)
            try:
                self._leader.start()
            except RuntimeError:
                self._leader = None
                raise
            return
        for waiter in self._waiters:
            if isinstance(waiter, _ThreadWaiter):
                waiter.wake()
                return

    def _living_leader(self) -> _ThreadWaiter | _DriverThread | None:
        """The leader, unless it is a thread that never came to life."""
        if isinstance(self._leader, _DriverThread) and not self._leader.is_alive():
            self._leader = None
        return self._leader

    # The thread

    def _lead_for_loops(self, me: _DriverThread) -> None:
        try:
            while True:
                with self.lock:
                    if self._leader is not me:
                        return  # its start was interrupted, and somebody else took the lead
                    if not self._thread_is_wanted():
                        self._leader = None
                        return
                self._advance(self._nothing_is_wanted)
        except BaseException as error:  # nobody above would see it
            with self.lock:
                self._work.fail(error)
                self.wake()
        finally:
            if self._leader is me:
                self._leader = None
            self.changed()

    def _nothing_is_wanted(self) -> bool:
        return not self._thread_is_wanted()

    def _thread_is_wanted(self) -> bool:
        """Whether a thread must lead; the lock is held."""
        if not threading.main_thread().is_alive():
            return any(waiter.outlives_main_thread() for waiter in self._waiters)
        if self._dedicated:
            return self._work.has_work()
        return any(
            isinstance(waiter, _LoopWaiter) and not waiter.ready() for waiter in self._waiters
        ) or any(wants_step() for wants_step in self._lookaheads.values())


class _ThreadWaiter:
    """A thread that waits in ``wait_until``, as follower or leader."""

    __slots__ = ("_thread", "ready", "thread_id", "woken")

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        self.woken = threading.Event()
        self.thread_id = threading.get_ident()
        self._thread = threading.current_thread()

    def wake(self) -> None:
        self.woken.set()

    def is_lost(self) -> bool:
        return False

    def outlives_main_thread(self) -> bool:
        return not self._thread.daemon and self._thread is not threading.main_thread()


class _LoopWaiter:
    """A coroutine that waits in ``wait_until_async``."""

    __slots__ = ("_abandon", "_loop", "_thread", "future", "ready")

    def __init__(
        self,
        ready: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
        abandon: Callable[[], None],
    ) -> None:
        self.ready = ready
        self.future: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._abandon = abandon
        self._thread = threading.current_thread()

    def wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.resolve)
        except RuntimeError:  # the loop is closed
            self._abandon()

    def is_lost(self) -> bool:
        return self._loop.is_closed()

    def resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def outlives_main_thread(self) -> bool:
        return not self._thread.daemon and self._thread.is_alive() and not self._loop.is_closed()


class _DriverThread(threading.Thread):
    """Leads for those who cannot.

    Not a daemon: the interpreter would freeze it in the middle of a step when it exits.
    """

    def __init__(self, lead: Callable[[_DriverThread], None]) -> None:
        super().__init__(name="inferlib-driver", daemon=False)
        self._lead = lead

    @property
    def thread_id(self) -> int | None:
        return self.ident

    def run(self) -> None:
        self._lead(self)


def _remaining(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
