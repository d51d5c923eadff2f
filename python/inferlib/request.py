"""One prompt on its way through the engine: what Python knows of it between submit and result.

One object per request, touched at submit, when its text first shows, when it ends and by its
readers; no step walks over these objects.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Grammar, RequestOutput, Scheduler
    from ._core import SamplingParams as SchedulerParams
    from .config import SpeculationSwitch
    from .errors import InferlibError
    from .logits_processing import LogitsProcessor
    from .origin import Origin
    from .output_syntax.parser import OutputReading
    from .sampling_params import SamplingParams
    from .thinking import ThinkingBudget

SEQUENCES_PER_REQUEST = 1024
"""A sequence's key in the text streams is ``request_id * SEQUENCES_PER_REQUEST + index``."""


@dataclass(slots=True, eq=False)
class Request:
    """State of a request; all but the first group is written by the engine only.

    Attributes:
        prompt: Its text, if text was given.
        prompt_token_ids: Not empty.
        params: Resolved.
        scheduler_params: The same for the scheduler.
        cache_salt: Prompts share cached blocks only under the same salt.
        priority: Smaller runs first.
        background: Whether all others come first.
        tenant: For whom it is.
        deadline: Seconds after its submission when it ends with what there is.
        speculation: Who may draft tokens.
        sequence: The held sequence that it goes on from.
        keep: Whether its tokens are the sequence's once it ended.
        captures: Numbers of the capture points whose rows it is given, each with what its rows
            count (``"tokens"`` or ``"sequences"``).
        capture_start: The first token whose rows it is given.
        second_segment: Where the second of two texts begins.
        adapter: Number of the adapter that it is computed with; 0 is the model alone.
        grammar: What its texts must be; ``None`` if they are free.
        max_structured_tokens: With a grammar, most tokens that it can come to.
        closes: Whether its structure is closed before its tokens or its time run out.
        processors: Change its logits.
        thinking: What its sequences may spend on reasoning; ``None``: as much as they like.
        output: How its text is taken apart; ``None``: it is all content.
        origin: The model's, for the receipt.
        silent_token_ids: Tokens that, as a sequence's last, are not text (stop tokens).
        ids: The scheduler's id, once submitted. A list, so that it can be filled by a call that no
            interrupt can separate from its result.
        pieces: Text by sequence, in the pieces in which it became certain. The pieces may be
            joined at any time; the text only grows.
        stop_strings: Which stop string ended a sequence, by its index.
        failures: Why a sequence's structure could not be continued, by its index.
        first_visible: When text first showed.
        results: The finished request, once it ended.
        error: Why there is no result.
        opened: Indices of sequences that have a text stream.
        ended: Those of them whose text is final.
        is_cancelled: Whether somebody asked for its end.
        is_done: Whether ``results`` and ``pieces`` are complete, or ``error`` is set.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    scheduler_params: SchedulerParams
    cache_salt: str | None = None
    priority: int = 0
    background: bool = False
    tenant: str | None = None
    deadline: float | None = None
    speculation: SpeculationSwitch = "auto"
    sequence: int | None = None
    keep: bool = False
    captures: tuple[tuple[int, str], ...] = ()
    capture_start: int = 0
    second_segment: int | None = None
    adapter: int = 0
    grammar: Grammar | None = None
    max_structured_tokens: int = 0
    closes: bool = False
    processors: tuple[LogitsProcessor, ...] = ()
    thinking: ThinkingBudget | None = None
    output: OutputReading | None = None
    origin: Origin | None = None
    silent_token_ids: frozenset[int] = frozenset()

    ids: list[int] = field(default_factory=list)
    pieces: list[list[str]] = field(init=False)
    stop_strings: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    first_visible: float | None = None
    results: list[RequestOutput] = field(default_factory=list)
    error: InferlibError | None = None
    opened: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    is_cancelled: bool = False
    is_done: bool = False

    def __post_init__(self) -> None:
        self.pieces = [[] for _ in range(self.params.n)]

    @property
    def id(self) -> int:
        """The scheduler's id."""
        return self.ids[0]

    @property
    def skips_special_tokens(self) -> bool:
        """Whether its text is without special tokens; some of them may mark its parts."""
        marked = self.output is not None and self.output.with_special_tokens
        return self.params.skip_special_tokens and not marked

    @property
    def text_keys(self) -> range:
        """Keys of its sequences in the text streams."""
        first = self.id * SEQUENCES_PER_REQUEST
        return range(first, first + self.params.n)

    def submission(self, scheduler: Scheduler, now: float) -> Callable[[NDArray[np.int32]], int]:
        """Return what takes its prompt and gives its id, in one C call; see ``atomic.move``."""
        return partial(
            scheduler.submit,
            params=self.scheduler_params,
            n=self.params.n,
            seed=cast("int", self.params.seed),
            cache_salt=self.cache_salt,
            priority=self.priority,
            background=self.background,
            tenant=self.tenant,
            deadline=None if self.deadline is None else now + self.deadline,
            closes=self.closes,
            speculation=self.speculation in ("auto", "prompt_lookup"),
            draft_model=self.speculation in ("auto", "draft_model"),
            sequence=self.sequence,
            keep=self.keep,
            captures=list(self.captures),
            capture_start=self.capture_start,
            second_segment=self.second_segment,
            adapter=self.adapter,
            now=now,
        )

    def raise_error(self) -> None:
        """Raise its error, if it has one, as an exception of its own for each caller."""
        if self.error is not None:
            raise copy.copy(self.error) from self.error

    def text(self, index: int) -> str:
        """Text of one sequence so far."""
        pieces = self.pieces[index]
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""


def all_done(requests: Sequence[Request]) -> Callable[[], bool]:
    """Whether all requests are done, in constant time per call on average."""
    pending = list(requests)

    def are_done() -> bool:
        while pending and pending[-1].is_done:
            pending.pop()
        return not pending

    return are_done
