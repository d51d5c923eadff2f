"""A draft model beside a model: what a smaller one would say next, for the larger one to verify.

The scheduler asks before a step which sequences want how many tokens of it. For each of them the
draft model's own engine holds a sequence: what it knows of the tokens so far, and its guesses
behind them. What of the guesses was drawn stays, the rest is rewound, what is new is added, and a
greedy request continues it; the requests of one step run as one batch, with whatever else runs on
that engine. Its guesses are told to the scheduler, and what is drawn at their rows decides.

Nothing here can change a result, so nothing here fails a request: sequences for which there is no
memory, and models that are closed or fail, give no drafts.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .config import BLOCK_SIZE
from .errors import (
    InferlibError,
    OverloadedError,
    PromptTooLongError,
    ReentrantCallError,
    RequestError,
    SequenceBusyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ._core import Scheduler, Tokenizer
    from .config import LoadedModel
    from .engine import Engine
    from .request import Request
    from .request_builder import RequestBuilder

_logger = logging.getLogger(__package__)

_PASSING = (OverloadedError, PromptTooLongError, ReentrantCallError, SequenceBusyError)
"""Errors that say nothing about the next step."""


@dataclass(slots=True)
class _Known:
    """What the draft model has of a sequence.

    Attributes:
        held: The sequence that its engine holds.
        num_tokens: Tokens that it has in common with the model's.
        drafted: Its guesses behind them.
        num_seen: Tokens of the model's sequence that it was told; none is ever taken back while
            somebody drafts for it.
    """

    held: int
    num_tokens: int = 0
    drafted: list[int] = field(default_factory=list)
    num_seen: int = 0
    _tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def follow(self, new: NDArray[np.int32]) -> NDArray[np.int32]:
        """Note what the model's sequence has behind ``num_seen``; all of its tokens, as a view."""
        end = self.num_seen + len(new)
        if end > len(self._tokens):
            grown = np.empty(end + end // 2, np.int32)
            grown[: self.num_seen] = self._tokens[: self.num_seen]
            self._tokens = grown
        self._tokens[self.num_seen : end] = new
        self.num_seen = end
        return self._tokens[:end]


@dataclass(slots=True, frozen=True)
class _Turn:
    """What one sequence asks of the draft model before a step."""

    key: tuple[int, int]
    known: _Known
    request: Request


class DraftModel:
    """Drafts for the scheduler of another model.

    ``draft`` is called by the thread that runs that model's steps, between two of them, without its
    lock; ``forget`` when nobody is in ``draft``.

    Args:
        name: For people.
        source: What it can be loaded from again; ``None``: nothing.
        engine: Runs it.
        builder: Makes its requests.
        num_tokens_per_turn: Most tokens of a sequence that it catches up with before one step.
        owner: The caller's own model, which lives as long as this; ``None``: ``close`` closes the
            engine.
    """

    def __init__(
        self,
        *,
        name: str,
        source: str | None,
        engine: Engine,
        builder: RequestBuilder,
        num_tokens_per_turn: int,
        owner: LoadedModel | None,
    ) -> None:
        self.name = name
        self.problem: str | None = None
        self._source = source
        self._engine = engine
        self._builder = builder
        self._num_tokens_per_turn = num_tokens_per_turn
        self._owner = owner
        self._known: dict[tuple[int, int], _Known] = {}
        self._is_stopped = False

    @property
    def argument(self) -> str | LoadedModel | None:
        """What ``Model.from_pretrained`` takes as ``draft_model`` to get the same again."""
        return self._source if self._owner is None else self._owner

    def check(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        """Refuse to draft for a model of another vocabulary.

        Token ids that only one of the two knows are never drafted, or never drawn: vocabularies of
        one family are padded to different lengths.

        Args:
            tokenizer: The model's.
            vocab_size: Its number of logits.

        Raises:
            RequestError: The draft model is closed or generates nothing, or a token id does not
                stand for the same bytes in both; the first such one is named.
        """
        if self._engine.is_closed:
            raise _refusal("is closed", hint="load it again")
        if not self._builder.generates:
            raise _refusal("generates nothing: it gives vectors or scores")
        own = self._builder.tokenizer
        if tokenizer is None or own is None:
            if tokenizer is not own:
                raise _refusal("has no tokenizer" if own is None else "has a tokenizer")
            if vocab_size != self._builder.vocab_size:
                raise _refusal(f"has {self._builder.vocab_size:,} tokens, the model {vocab_size:,}")
            return
        token_id = _first_difference(own, tokenizer)
        if token_id is not None:
            raise _refusal(
                f"has another vocabulary: token {token_id} is {own.token_bytes(token_id)!r} there "
                f"and {tokenizer.token_bytes(token_id)!r} in the model",
                hint="take a smaller model of the same family",
            )

    def draft(self, scheduler: Scheduler) -> None:
        """Suggest tokens to the scheduler of the other model for the step that comes."""
        if self._is_stopped or self.problem is not None:
            return
        wanted = scheduler.wanted_drafts()
        if not wanted:
            return
        try:
            self._run(scheduler, self._turns(scheduler, wanted))
        except _PASSING as error:
            _logger.debug("no drafts for this step: %s", error)
        except InferlibError as error:
            self.problem = f"{type(error).__name__}: {error}"
            _logger.warning("%s drafts no more: %s", self.name, self.problem)

    def _turns(self, scheduler: Scheduler, wanted: list[tuple[int, int, int, int]]) -> list[_Turn]:
        """Bring what the draft model knows up to date, as far as its KV cache holds."""
        self._engine.check_usable()
        free = self._builder.kv_cache_tokens // BLOCK_SIZE
        turns = []
        for request_id, index, num_tokens, num_drafts in wanted:
            longest = num_tokens + num_drafts
            blocks = -(-longest // BLOCK_SIZE)
            if longest > self._builder.max_model_len or blocks > free:
                continue
            free -= blocks
            key = (request_id, index)
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = _Known(self._engine.sequences.open())
            tokens = known.follow(scheduler.tokens_since(request_id, index, known.num_seen))
            turns.append(_Turn(key, known, self._request(known, tokens, num_drafts)))
        return turns

    def _request(self, known: _Known, tokens: NDArray[np.int32], num_drafts: int) -> Request:
        """The request that continues a sequence; it drafts nothing if much is still missing."""
        held = self._engine.sequences
        length, num_computed = held.lengths(known.held)
        drawn = tokens[known.num_tokens :].tolist()
        agreed = 0
        while agreed < min(len(drawn) - 1, len(known.drafted)):
            if drawn[agreed] != known.drafted[agreed]:
                break
            agreed += 1
        kept = min(known.num_tokens + agreed, num_computed, len(tokens) - 1)
        # In this order: an interrupt in between leaves a sequence that has more than is known.
        known.drafted = []
        known.num_tokens = kept
        held.rewind(known.held, length - kept)
        end = kept + self._num_tokens_per_turn
        if end < len(tokens):
            tokens, num_drafts = tokens[:end], 0
        return self._builder.build_draft(tokens, max_tokens=num_drafts, sequence=known.held)

    def _run(self, scheduler: Scheduler, turns: list[_Turn]) -> None:
        requests = [turn.request for turn in turns]
        try:
            self._engine.submit(requests)
            self._engine.wait(requests, ready=_all_done_or(requests, lambda: self._is_stopped))
        except BaseException:
            self._engine.cancel(requests)
            raise
        if self._is_stopped:
            self._engine.cancel(requests)
            return
        for turn in turns:
            turn.request.raise_error()
            sequence = turn.request.results[0].sequences[0]
            if sequence.finish_reason not in ("stop", "length"):
                continue  # it left its sequence as it was
            turn.known.num_tokens = len(turn.request.prompt_token_ids)
            turn.known.drafted = sequence.token_ids.tolist()
            if len(sequence.token_ids):
                scheduler.suggest(*turn.key, sequence.token_ids)

    def forget(self, request: Request) -> None:
        """Drop what is known of a request of the other model that is over."""
        if not self._known or not request.ids:
            return
        for index in range(request.params.n):
            self._drop((request.id, index))

    def stop(self) -> None:
        """Let ``draft`` return soon, from another thread; there are no drafts any more."""
        self._is_stopped = True

    def close(self) -> None:
        """Give everything back, the model too unless it is the caller's. Nobody is in ``draft``."""
        self._is_stopped = True
        for key in list(self._known):
            self._drop(key)
        if self._owner is None:
            self._engine.close()

    def _drop(self, key: tuple[int, int]) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            with contextlib.suppress(InferlibError):  # of a scheduler that panicked
                self._engine.close_sequence(known.held)


def _refusal(problem: str, *, hint: str = "") -> RequestError:
    return RequestError(f"the draft model {problem}", field="draft_model", hint=hint)


def _first_difference(a: Tokenizer, b: Tokenizer) -> int | None:
    """The first token id that does not stand for the same bytes in both; ``None``: there is none.

    Ids that only one of them has do not count.
    """
    common = range(min(a.vocab_size, b.vocab_size))
    pairs = zip(map(a.token_bytes, common), map(b.token_bytes, common), strict=True)
    return next((token_id for token_id, (x, y) in enumerate(pairs) if x != y), None)


def _all_done_or(requests: list[Request], is_stopped: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: is_stopped() or all(request.is_done for request in requests)
