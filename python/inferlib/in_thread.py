"""Blocking work for event loops: a thread that ends with it.

Not the loop's own pool, whose threads would stay in the host's process.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

Value = TypeVar("Value")


async def in_thread(function: Callable[[], Value]) -> Value:
    """Run ``function`` in a thread of its own and wait for its result.

    A cancelled task does not stop the function; its result is dropped.
    """
    import asyncio  # here, because `import inferlib` must not pay for it

    loop = asyncio.get_running_loop()
    future: asyncio.Future[Value] = loop.create_future()

    def report(setter: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            setter(outcome)

    def run() -> None:
        setter: Callable[[Any], None] = future.set_result
        try:
            outcome: object = function()
        except BaseException as error:  # raised again where it is awaited
            setter, outcome = future.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(report, setter, outcome)

    threading.Thread(target=run, name="inferlib-call", daemon=False).start()
    return await future
