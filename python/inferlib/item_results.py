"""Many requests from an iterable: pulled as they are needed, results kept in a file.

At most ``max_pending`` items are known at a time: pulled, running, or done and not given out yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import CLASSES, CheckpointError, InferlibError, RequestError
from .results import completion_of
from .stored_completion import restore, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from .checkpoint_log import CheckpointLog
    from .completion import Completion
    from .engine import Engine
    from .origin import Origin
    from .request import Request

OnError = Literal["return", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """What became of one item: a completion or an error.

    Attributes:
        index: The item's place in the iterable, from 0.
        completion: ``None`` if it failed.
        error: Why; ``None`` if it did not.
        is_restored: Whether it was read from the checkpoint instead of computed.
    """

    index: int
    completion: Completion | None
    error: InferlibError | None
    is_restored: bool = False

    def unwrap(self) -> Completion:
        """Return the completion.

        Raises:
            InferlibError: The item failed.
        """
        if self.completion is None:
            raise self.error or InferlibError("this item has no completion")
        return self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where items come from and what becomes of them.

    Attributes:
        items: Asked for the next item only when there is room for it.
        key: A hash of an item, for the checkpoint.
        request: Makes its request.
        checkpoint: Where results are kept; ``None`` if nowhere.
        ordered: Whether results come in the items' order, or as they are ready.
        on_error: Whether an item's error is its result, or ends everything.
        max_pending: How many items may be known at a time.
        origin: The model's, for results that are restored.
    """

    items: Iterator[Any]
    key: Callable[[Any], str]
    request: Callable[[Any], Request]
    checkpoint: CheckpointLog | None
    ordered: bool
    on_error: OnError
    max_pending: int
    origin: Origin | None


@dataclass(slots=True, eq=False)
class _Item:
    """One item that is known."""

    index: int
    key: str
    request: Request | None = None
    result: ItemResult | None = None
    is_kept: bool = field(default=False)


class _ItemResults:
    """What both kinds of iterators have in common."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        token_text: Callable[[int], str | None],
        owner: object,
    ) -> None:
        self._engine = engine
        self._source = source
        self._token_text = token_text
        self._owner = owner  # a model that is dropped closes its engine
        self._known: deque[_Item] = deque()
        self._next_index = 0
        self._is_exhausted = False
        self._is_closed = False

    def _fill(self) -> None:
        """Pull items while there is room."""
        while not self._is_exhausted and len(self._known) < self._source.max_pending:
            try:
                value = next(self._source.items)
            except StopIteration:
                self._is_exhausted = True
                return
            item = _Item(self._next_index, self._source.key(value))
            self._next_index += 1
            self._known.append(item)
            self._begin(item, value)

    def _begin(self, item: _Item, value: object) -> None:
        log = self._source.checkpoint
        stored = None if log is None else log.get(item.index, item.key)
        if stored is not None:
            item.result, item.is_kept = self._restored(item.index, stored), True
            return
        try:
            item.request = self._source.request(value)
            self._engine.submit([item.request])
        except RequestError as error:
            item.request = None
            item.result = ItemResult(index=item.index, completion=None, error=error)

    def _restored(self, index: int, stored: dict[str, Any]) -> ItemResult:
        log = self._source.checkpoint
        try:
            error, completion = None, None
            if "error" in stored:
                error = _restored_error(**stored["error"])
            else:
                completion = restore(stored["completion"], self._source.origin)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise CheckpointError(
                f"the result of item {index} is damaged: {problem!r}",
                path=None if log is None else log.path,
            ) from problem
        return ItemResult(index=index, completion=completion, error=error, is_restored=True)

    def _settle(self) -> None:
        """Turn requests that are done into results, and keep these."""
        for item in self._known:
            if item.request is not None and item.result is None and item.request.is_done:
                item.result = self._result_of(item, item.request)
            self._keep(item)

    def _result_of(self, item: _Item, request: Request) -> ItemResult:
        try:
            completion = completion_of(request, self._token_text)
        except InferlibError as error:
            return ItemResult(index=item.index, completion=None, error=error)
        return ItemResult(index=item.index, completion=completion, error=None)

    def _keep(self, item: _Item) -> None:
        """Write a result down; errors that another run may not meet are not kept."""
        log, result = self._source.checkpoint, item.result
        if log is None or result is None or item.is_kept:
            return
        item.is_kept = True
        if result.completion is not None:
            if all(output.finish_reason != "abort" for output in result.completion.outputs):
                log.put(item.index, item.key, {"completion": store(result.completion)})
        elif isinstance(result.error, RequestError):
            error = result.error
            words = {"message": error.args[0], "field": error.field, "hint": error.hint}
            log.put(item.index, item.key, {"error": {"code": error.code, **words}})

    def _ready(self) -> _Item | None:
        """The item that is to be given out now."""
        if self._source.ordered:
            first = self._known[0] if self._known else None
            return None if first is None or first.result is None else first
        return next((item for item in self._known if item.result is not None), None)

    def _take(self) -> ItemResult | None:
        """Return the next result; ``None``: somebody must run steps first."""
        if self._is_closed:
            return None
        self._fill()
        self._settle()
        item = self._ready()
        if item is None or item.result is None:
            return None
        self._known.remove(item)
        if item.result.error is not None and self._source.on_error == "raise":
            raise item.result.error
        return item.result

    def _is_over(self) -> bool:
        return self._is_closed or (self._is_exhausted and not self._known)

    def _running(self) -> list[Request]:
        return [item.request for item in self._known if item.request and item.result is None]

    def _has_news(self) -> bool:
        return any(request.is_done for request in self._running())

    def _end(self) -> None:
        """Keep what is done, cancel the rest."""
        if self._is_closed:
            return
        self._is_closed = True
        running = self._running()
        try:
            self._settle()
        finally:
            self._engine.cancel([request for request in running if not request.is_done])
            if self._source.checkpoint is not None:
                self._source.checkpoint.close()

    def __del__(self) -> None:
        """Cancel what nobody can read any more."""
        if not getattr(self, "_is_closed", True):
            self._is_closed = True
            running = self._running()
            with contextlib.suppress(InferlibError):  # nobody could be told
                self._settle()
            self._engine.abandon(running)
            if self._source.checkpoint is not None:
                self._source.checkpoint.close()


def _restored_error(*, code: str, message: str, field: str, hint: str) -> RequestError:
    kinds = (each for each in CLASSES.values() if issubclass(each, RequestError))
    kind = next((each for each in kinds if each.code == code), RequestError)
    return kind(message, field=field, hint=hint)


class ItemResults(_ItemResults):
    """Results of ``generate_many`` or ``chat_many``; closing or dropping it cancels what runs.

    Threads may share one: each result goes to one of them.
    """

    def __init__(
        self,
        engine: Engine,
        source: Source,
        token_text: Callable[[int], str | None],
        owner: object,
    ) -> None:
        self._turn = threading.RLock()
        super().__init__(engine, source, token_text, owner)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemResult:
        """Return the next result, running steps if need be.

        Raises:
            StopIteration: There are no more items, or it was closed.
            InferlibError: With ``on_error="raise"``, the item failed; or no step can be run.
            CheckpointError: The file cannot be written.
        """
        with self._turn:
            try:
                while (result := self._take()) is None and not self._is_over():
                    self._engine.wait(self._running(), ready=self._has_news)
            except BaseException:
                self._end()
                raise
            if result is None:
                self._end()
                raise StopIteration
            return result

    def close(self) -> None:
        """Keep what is done, cancel the rest; further iteration gives nothing."""
        with self._turn:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncItemResults(_ItemResults):
    """``ItemResults`` for ``async for``."""

    _is_reading = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemResult:
        """Return the next result.

        Raises:
            StopAsyncIteration: There are no more items, or it was closed.
            RuntimeError: Another task is waiting for the next result.
            InferlibError: As for ``ItemResults``.
        """
        if self._is_reading:
            raise RuntimeError("another task is already reading these results")
        self._is_reading = True
        try:
            while (result := self._take()) is None and not self._is_over():
                await self._engine.wait_async(self._running(), ready=self._has_news)
        except BaseException:
            self._end()
            raise
        finally:
            self._is_reading = False
        if result is None:
            self._end()
            raise StopAsyncIteration
        return result

    async def aclose(self) -> None:
        """Keep what is done, cancel the rest; further iteration gives nothing."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
