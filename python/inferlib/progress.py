"""The progress bar of a call with many prompts: tqdm's if installed, else a line on stderr.

Only in a terminal or notebook, unless the caller asks for it; a library does not write otherwise.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from .errors import RequestError
from .validation import shown

if TYPE_CHECKING:
    from typing import Self

LEAST_PROMPTS = 8
"""Shorter lists get a bar on request only."""
DELAY_SECONDS = 1.0
"""Calls that end sooner show nothing."""


class Progress(Protocol):
    """Shows how many of some requests are done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, num_done: int) -> None:
        """Bring the display up to date."""


def progress_of(
    num_prompts: int, *, progress: bool | None, what: str = "generate"
) -> Progress | None:
    """Return a progress bar, or ``None`` if there is to be none.

    Args:
        num_prompts: How many are done in the end.
        progress: ``True`` and ``False`` decide; ``None``: for at least ``LEAST_PROMPTS`` in a
            terminal or notebook.
        what: Name of the call, shown in front.

    Raises:
        RequestError: ``progress`` is something else.
    """
    if progress is not None and not isinstance(progress, bool):
        raise RequestError(
            f"progress must be True, False or None, not {shown(progress)}", field="progress"
        )
    if progress is None:
        progress = num_prompts >= LEAST_PROMPTS and _somebody_watches()
    if not progress or num_prompts == 0:
        return None
    if importlib.util.find_spec("tqdm") is not None:
        return _TqdmBar(num_prompts, what)
    return _LineBar(num_prompts, sys.stderr, what=what)


def _somebody_watches() -> bool:
    return _is_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _is_notebook() -> bool:
    """Whether this process is a notebook's kernel, rather than one that merely talks to kernels."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class _TqdmBar:
    def __init__(self, total: int, what: str = "generate") -> None:
        from tqdm.auto import tqdm  # optional, and slow to import

        class Bar(tqdm):  # type: ignore[misc]  # without types
            monitor_interval = 0  # no thread of tqdm's stays behind in the host

        self._bar = Bar(total=total, desc=what, unit=" prompts", delay=DELAY_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def show(self, num_done: int) -> None:
        self._bar.update(num_done - self._bar.n)


class _LineBar:
    """One line that is written over: ``generate  12/64  3.1 prompts/s``."""

    def __init__(
        self,
        total: int,
        file: TextIO,
        delay_seconds: float = DELAY_SECONDS,
        what: str = "generate",
    ) -> None:
        self._total = total
        self._what = what
        self._file = file
        self._begin = time.monotonic()
        self._delay_seconds = delay_seconds
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._shown:
            self._file.write("\n")
            self._file.flush()

    def show(self, num_done: int) -> None:
        elapsed = time.monotonic() - self._begin
        if elapsed < self._delay_seconds:
            return
        line = f"{self._what}  {num_done}/{self._total}  {num_done / elapsed:.1f} prompts/s"
        self._file.write("\r" + line.ljust(len(self._shown)))
        self._file.flush()
        self._shown = line
