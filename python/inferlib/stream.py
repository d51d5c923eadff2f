"""Streams and handles: what a caller holds while a request runs.

A stream's tokens stay in the engine's record of the request, which ``max_tokens`` bounds; nothing
else is buffered, however slowly it is read. Without ``driver="thread"`` a stream that nobody reads
advances only while others drive.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .explanation import explain_waiting
from .results import DeltaReader, completion_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Self

    from .completion import Completion, Delta
    from .engine import Engine
    from .request import Request


class _Pending:
    """Submits a request, and holds whatever must live until it ended.

    The object exists before the request does: whenever an interrupt comes, somebody cancels it.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        token_text: Callable[[int], str | None],
        owner: object,
    ) -> None:
        self._token_text = token_text
        self._owner = owner  # a model that is dropped closes its engine
        self._engine = engine
        self._request = request
        self._prepare()
        # No subclass has an ``__init__``: there an interrupt could come behind this one, and its
        # traceback would hold the object, whose request nobody would cancel.
        try:
            engine.submit([request])
            self._submitted()
        except BaseException:
            engine.abandon([request])
            raise

    def _prepare(self) -> None:
        """Make what a subclass needs before the request runs."""

    def _submitted(self) -> None:
        """Tell whom a subclass has to tell."""

    def __del__(self) -> None:
        """Cancel what nobody can read any more."""
        request = getattr(self, "_request", None)  # absent if interrupted at once
        if request is not None:
            self._engine.abandon([request])


class Handle(_Pending):
    """A submitted request: ``result()`` or ``await`` it; dropping it cancels the request.

    Without ``driver="thread"`` it advances while somebody waits for it or for another request of
    the model.
    """

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the result.

        Args:
            timeout: Seconds; ``None`` waits as long as it takes. After a timeout the request goes
                on and ``result`` may be called again.

        Raises:
            TimeoutError: It takes longer.
            InferlibError: The request failed.
        """
        if not self._engine.wait([self._request], timeout_seconds=timeout):
            raise TimeoutError(f"the request did not end within {timeout} seconds")
        return completion_of(self._request, self._token_text)

    def cancel(self) -> bool:
        """End the request; ``False`` if it has ended already.

        Its result is then what was generated so far, with ``finish_reason="abort"``.
        """
        if self._request.is_done:
            return False
        self._engine.cancel([self._request])
        return True

    def done(self) -> bool:
        """Whether the request has ended."""
        return self._request.is_done

    def explain(self) -> str:
        """Say in words what it waits for, how far it is, or how it went.

        Raises:
            InferlibError: The request failed.
        """
        if self._request.is_done:
            return completion_of(self._request, self._token_text).explain()
        waiting = self._engine.why_waiting(self._request)
        if waiting is not None:
            return explain_waiting(waiting)
        count = self._engine.num_output_tokens(self._request)
        return f"running: {count:,} output tokens so far"

    def __await__(self) -> Generator[object, None, Completion]:
        """Wait for the result without blocking the event loop; may be awaited again.

        Raises:
            InferlibError: The request failed.
        """
        return self._wait().__await__()

    async def _wait(self) -> Completion:
        await self._engine.wait_async([self._request])
        return completion_of(self._request, self._token_text)

    def __repr__(self) -> str:
        state = "done" if self._request.is_done else "pending"
        return f"<Handle {state}, prompt of {len(self._request.prompt_token_ids)} tokens>"


class _Stream(_Pending):
    """What both kinds of streams have in common."""

    def _prepare(self) -> None:
        super()._prepare()
        self._is_closed = False
        self._reader = DeltaReader(self._engine, self._request, self._token_text)

    @property
    def completion(self) -> Completion | None:
        """The whole result once the request has ended, however far the stream was read."""
        if not self._request.is_done or self._request.error is not None:
            return None
        return completion_of(self._request, self._token_text)

    def _is_over(self) -> bool:
        return self._is_closed or self._reader.is_exhausted

    def _cancel(self) -> None:
        self._is_closed = True
        if not self._request.is_done:
            self._engine.cancel([self._request])


class Stream(_Stream):
    """Deltas of one request, as they are generated; closing or dropping it cancels the request.

    Threads may share one: each delta goes to one of them. ``completion`` is the whole result once
    the request has ended.
    """

    def _prepare(self) -> None:
        super()._prepare()
        self._turn = threading.RLock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """Return the next delta, running steps if need be.

        Raises:
            StopIteration: The request has ended, or the stream was closed.
            InferlibError: The request failed.
        """
        # Wherever an interrupt comes: its traceback holds this frame, and so the stream, as long as
        # somebody keeps it (a notebook does), and nobody would cancel the request meanwhile.
        try:
            with self._turn:
                if not self._is_over():
                    while (delta := self._reader.next_delta()) is None:
                        self._engine.wait([self._request], ready=self._reader.has_news)
                    return delta
        except BaseException:
            self._cancel()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the request; further iteration gives nothing. ``with`` and ``del`` do the same."""
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncStream(_Stream):
    """``Stream`` for ``async for``, in any event loop."""

    def _prepare(self) -> None:
        super()._prepare()
        self._is_reading = False

    def _submitted(self) -> None:
        self._engine.look_ahead(self._request, self._reader.num_seen_tokens)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """Return the next delta.

        Raises:
            StopAsyncIteration: The request has ended, or the stream was closed.
            RuntimeError: Another task is waiting for the next delta.
            InferlibError: The request failed.
        """
        if self._is_reading:
            raise RuntimeError("another task is already reading this stream")
        try:
            self._is_reading = True
            if not self._is_over():
                while (delta := self._reader.next_delta()) is None:
                    await self._engine.wait_async([self._request], ready=self._reader.has_news)
                return delta
        except BaseException:
            self._cancel()
            raise
        finally:
            self._is_reading = False
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the request; further iteration gives nothing."""
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
