"""``thinking_budget``: how long a model may reason before it is made to answer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .output_syntax.reasoning_meter import ReasoningMeter
from .validation import INT32_MAX, integer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core import Tokenizer
    from .output_syntax.parser import OutputReading
    from .output_syntax.syntax import Region


class ThinkingBudget:
    """What a request's sequences may spend on reasoning.

    Attributes:
        limit: Most tokens of reasoning in a sequence, all its blocks together.
        reading: How its text is read.
        unfinished: The message that it continues.

    Args:
        limit: As given.
        reading: ``None``: nothing is marked.
        unfinished: As given.
        tokenizer: Of the model.
        token_text: Text of a token by itself.

    Raises:
        RequestError: The number is none, or nothing marks the reasoning.
    """

    def __init__(
        self,
        limit: object,
        reading: OutputReading | None,
        *,
        unfinished: str | None,
        tokenizer: Tokenizer,
        token_text: Callable[[int], str | None],
    ) -> None:
        self.limit: int = integer("thinking_budget", limit, 0, INT32_MAX)
        if reading is None or reading.reasoning_syntax == "off":
            raise RequestError(
                "this model's chat template marks no reasoning that could be counted",
                field="thinking_budget",
                hint="name its markers with reasoning_syntax, or leave thinking_budget out",
            )
        self.reading: OutputReading = reading
        self.unfinished: str | None = unfinished
        self._tokenizer = tokenizer
        self._token_text = token_text
        self._check_markers()

    def meter(self) -> ReasoningMeter:
        """Return what counts the tokens of one sequence."""
        return ReasoningMeter(self.reading, self._token_text)

    def closing(self, region: Region, held_back: str = "") -> list[int]:
        """Return the tokens that end a block and go over to the answer.

        Args:
            region: The block.
            held_back: What the text ends with, if it may be the marker's beginning: then the rest
                of the marker is returned, unless that is a token by itself.
        """
        marker = region.closes[0]
        cut = region.cut or marker
        if held_back and cut.startswith(held_back) and len(self._encode(marker)) > 1:
            cut = cut[len(held_back) :]
        return self._encode(cut)

    def closing_token_ids(self) -> set[int]:
        """Return all tokens that must be allowed."""
        return {token for region in self._regions() for token in self.closing(region)}

    def to_dict(self) -> dict[str, Any]:
        """Return what a receipt says of it."""
        return {
            "budget": self.limit,
            "reasoning_syntax": self.reading.reasoning_syntax,
            "tool_syntax": self.reading.tool_syntax,
            "unfinished": self.unfinished,
        }

    def _regions(self) -> list[Region]:
        """Those of reasoning."""
        regions = self.reading.tables.regions
        return [region for region in regions if region.part == "reasoning" or region.cut]

    def _encode(self, text: str) -> list[int]:
        token_ids: list[int] = self._tokenizer.encode(text, add_special=False).tolist()
        return token_ids

    def _check_markers(self) -> None:
        for region in self._regions():
            closing = self.closing(region)
            text = "".join(self._token_text(token) or "" for token in closing)
            if region.closes[0] not in text:
                raise RequestError(
                    f"the tokenizer cannot write {region.closes[0]!r}, which ends the reasoning",
                    field="thinking_budget",
                )


class BudgetedSequence:
    """One sequence under a budget; what must follow is a function of its tokens alone."""

    def __init__(self, budget: ThinkingBudget) -> None:
        self.num_tokens: int = 0
        self._budget = budget
        self._meter = budget.meter()
        self._pending: list[int] = []
        self._look()

    @property
    def pending(self) -> list[int]:
        """Tokens that must come next: the rest of what ends the reasoning."""
        return self._pending

    def add(self, token_id: int) -> None:
        """Take one more token."""
        self.num_tokens += 1
        self._meter.add(token_id)
        if self._pending:
            is_next = token_id == self._pending[0]
            self._pending = self._pending[1:] if is_next else []
        if not self._pending:
            self._look()

    def fork(self) -> BudgetedSequence:
        """Return a sequence that goes on from here by itself."""
        fork = copy.copy(self)
        fork._meter = self._meter.fork()  # noqa: SLF001
        return fork

    def _look(self) -> None:
        region = self._meter.region
        if region is not None and self._meter.num_tokens >= self._budget.limit:
            self._pending = self._budget.closing(region, self._meter.held_back)
