"""What the engine needs of somebody who drafts tokens; see ``draft_model.DraftModel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ._core import Scheduler
    from .request import Request


class Drafting(Protocol):
    """Drafts tokens for the scheduler."""

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
