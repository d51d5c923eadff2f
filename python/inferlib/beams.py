"""Beam search over forked sequences: all beams of a step run as one batch, one row each.

Every beam is a held sequence. A step continues each by one greedy token and reads the best
candidates beside it; what survives is forked from its parent, without moving keys or values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from .atomic import move
from .errors import RequestError
from .model_core import ModelCore
from .prompts import EncodedPrompt, is_one_prompt
from .request_builder import check_tenant
from .sampling_params import SamplingParams
from .validation import boolean, integer, number

if TYPE_CHECKING:
    from collections.abc import Generator

    from .completion import Completion
    from .prompts import Prompt
    from .request import Request

MAX_BEAMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamOutput:
    """One result of a beam search.

    Attributes:
        text: What was generated, without the end token; empty without a tokenizer.
        token_ids: Its tokens; an end token is the last of them.
        cumulative_logprob: Their log-probability.
        score: ``cumulative_logprob / len(token_ids) ** length_penalty``: what the search maximises.
        finish_reason: ``"stop"`` at an end token, ``"length"`` at ``max_tokens``.
    """

    text: str
    token_ids: list[int]
    cumulative_logprob: float
    score: float
    finish_reason: Literal["stop", "length"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beam:
    """A hypothesis: what it generated, and the held sequence whose K and V it goes on from."""

    held: int
    token_ids: list[int]
    logprob: float


class BeamSearching(ModelCore):
    """Searches for the most likely continuations."""

    def beam_search(
        self,
        prompt: Prompt,
        *,
        num_beams: int = 4,
        max_tokens: int | None = None,
        length_penalty: float = 1.0,
        ignore_eos: bool = False,
        tenant: str | None = None,
    ) -> list[BeamOutput]:
        """Return the ``num_beams`` best continuations that a beam search finds, best first.

        Log-probabilities are the model's own (temperature 1). In each step the
        ``2 * num_beams`` best continuations of all beams are looked at in order: one that ends is
        a result if it is among the first ``num_beams``, the others are the next beams. The search
        ends when no beam can become better than the results there are, or at ``max_tokens``.

        Args:
            prompt: Text or token ids.
            num_beams: From 1 (greedy) to 64.
            max_tokens: Most tokens to generate; ``None`` is 256, or what the context still holds.
            length_penalty: 0 compares log-probabilities, 1 their mean per token; more prefers
                longer results.
            ignore_eos: Go on behind end-of-sequence tokens.
            tenant: As for ``generate``.

        Raises:
            RequestError: An argument is invalid; ``field`` names it.
            PromptTooLongError: The prompt and one token do not fit.
            InferlibError: A step failed, or the model was closed.

        Source: as ``early_stopping=False`` in transformers; the bound at the end is that of the
        best beam at its present length.
        """
        search, most = self._search(prompt, num_beams, max_tokens, length_penalty, ignore_eos)
        check_tenant(tenant)
        steps = self._steps(search, most, tenant)
        requests = next(steps)
        while True:
            try:
                requests = steps.send(self._run(requests, progress=False))
            except StopIteration as end:
                return cast("list[BeamOutput]", end.value)
            except BaseException:
                steps.close()
                raise

    async def abeam_search(
        self,
        prompt: Prompt,
        *,
        num_beams: int = 4,
        max_tokens: int | None = None,
        length_penalty: float = 1.0,
        ignore_eos: bool = False,
        tenant: str | None = None,
    ) -> list[BeamOutput]:
        """``beam_search`` without blocking the event loop; cancelling the task cancels it."""
        search, most = self._search(prompt, num_beams, max_tokens, length_penalty, ignore_eos)
        check_tenant(tenant)
        steps = self._steps(search, most, tenant)
        requests = next(steps)
        while True:
            try:
                requests = steps.send(await self._arun(requests))
            except StopIteration as end:
                return cast("list[BeamOutput]", end.value)
            except BaseException:
                steps.close()
                raise

    def _search(
        self,
        prompt: object,
        num_beams: int,
        max_tokens: int | None,
        length_penalty: float,
        ignore_eos: bool,  # noqa: FBT001  # only from the two above
    ) -> tuple[_Search, int]:
        """Check the arguments; a search and its most steps."""
        self._engine.check_usable()
        if not is_one_prompt(prompt):
            raise RequestError("this call takes one prompt, not a list", field="prompt")
        integer("num_beams", num_beams, 1, MAX_BEAMS)
        if max_tokens is not None:
            integer("max_tokens", max_tokens, 1, 2**31 - 1)
        boolean("ignore_eos", ignore_eos)
        penalty = number("length_penalty", length_penalty, -10.0, 10.0)
        encoded = self._encoded(prompt)
        whole = SamplingParams(max_tokens="auto" if max_tokens is None else max_tokens)
        most = cast("int", self._parts.builder.build(encoded, whole).params.max_tokens)
        ends = frozenset() if ignore_eos else frozenset(self._parts.builder.eos_token_ids)
        return _Search(encoded.token_ids, num_beams, penalty, ends), most

    def _steps(
        self, search: _Search, most: int, tenant: str | None
    ) -> Generator[list[Request], list[Completion], list[BeamOutput]]:
        """Yield the requests of each step, take their completions, return the results."""
        held: list[int] = []
        try:
            move(held, self._engine.sequences.open, None)
            search.beams = [_Beam(held=held[0], token_ids=[], logprob=0.0)]
            for length in range(1, most + 1):
                completions = yield self._expansions(search, tenant)
                candidates = search.candidates(completions)
                parents = search.advance(candidates, last=length == most)
                self._branch(search, parents, held)
                if search.is_over():
                    break
        finally:
            for sequence in held:
                self._engine.close_sequence(sequence)
        return [self._beam_output(*result) for result in search.ranking()]

    def _expansions(self, search: _Search, tenant: str | None) -> list[Request]:
        """A request per beam: its next token, and the best candidates beside it."""
        params = SamplingParams(
            max_tokens=1,
            temperature=0,
            ignore_eos=True,
            detokenize=False,
            logprobs=min(2 * search.num_beams, self._parts.builder.vocab_size),
        )
        prompts = [[*search.prompt, *beam.token_ids] for beam in search.beams]
        return [
            self._parts.builder.build(
                EncodedPrompt(text=None, token_ids=prompt),
                params,
                tenant=tenant,
                sequence=beam.held,
                keep=True,
            )
            for prompt, beam in zip(prompts, search.beams, strict=True)
        ]

    def _branch(self, search: _Search, parents: list[_Beam], held: list[int]) -> None:
        """Give every new beam a sequence of its own, with its parent's keys and values."""
        sequences = self._engine.sequences
        for continued in {parent.held for parent in parents}:
            sequences.rewind(continued, 1)  # the greedy token, which is one candidate of many
        beams = []
        for beam, parent in zip(search.beams, parents, strict=True):
            move(held, sequences.fork, parent.held)
            beams.append(_Beam(held=held[-1], token_ids=beam.token_ids, logprob=beam.logprob))
        search.beams = beams
        living = {beam.held for beam in beams}
        for sequence in [each for each in held if each not in living]:
            self._engine.close_sequence(sequence)
        held[:] = [each for each in held if each in living]

    def _beam_output(self, score: float, token_ids: list[int], logprob: float) -> BeamOutput:
        ends = self._parts.builder.eos_token_ids
        ended = token_ids[-1] in ends
        shown = token_ids[:-1] if ended else token_ids
        tokenizer = self.tokenizer
        return BeamOutput(
            text="" if tokenizer is None else tokenizer.decode(shown),
            token_ids=token_ids,
            cumulative_logprob=logprob,
            score=score,
            finish_reason="stop" if ended else "length",
        )


class _Search:
    """The bookkeeping of one search; it knows nothing of models."""

    def __init__(
        self, prompt: list[int], num_beams: int, length_penalty: float, ends: frozenset[int]
    ) -> None:
        self.prompt = prompt
        self.num_beams = num_beams
        self.beams: list[_Beam] = []
        self._penalty = length_penalty
        self._ends = ends
        self._results: list[tuple[float, list[int], float]] = []

    def candidates(self, completions: list[Completion]) -> list[tuple[float, int, _Beam]]:
        """Return the best continuations of all beams, best first: logprob, token, parent."""
        found = [
            (beam.logprob + entry.logprob, token, place, beam)
            for place, (beam, completion) in enumerate(zip(self.beams, completions, strict=True))
            for token, entry in cast("Any", completion.logprobs)[0].items()
        ]
        found.sort(key=lambda each: (-each[0], each[2], each[1]))
        return [(logprob, token, beam) for logprob, token, _, beam in found[: 2 * self.num_beams]]

    def advance(self, candidates: list[tuple[float, int, _Beam]], *, last: bool) -> list[_Beam]:
        """Take the next beams and the results; return the beams' parents."""
        beams: list[_Beam] = []
        parents: list[_Beam] = []
        for place, (logprob, token, parent) in enumerate(candidates):
            token_ids = [*parent.token_ids, token]
            if token in self._ends:
                if place < self.num_beams:
                    self._add(token_ids, logprob)
            elif len(beams) < self.num_beams:
                beams.append(_Beam(held=parent.held, token_ids=token_ids, logprob=logprob))
                parents.append(parent)
        if last:
            for beam in beams:
                self._add(beam.token_ids, beam.logprob)
        self.beams = beams
        return parents

    def is_over(self) -> bool:
        """Whether no beam can be among the best any more."""
        if len(self._results) < self.num_beams or not self.beams:
            return not self.beams
        best = max(self._score(beam.token_ids, beam.logprob) for beam in self.beams)
        return best <= min(score for score, _, _ in self.ranking())

    def ranking(self) -> list[tuple[float, list[int], float]]:
        """Return the best results, best first: score, tokens, logprob."""
        return sorted(self._results, key=lambda each: -each[0])[: self.num_beams]

    def _add(self, token_ids: list[int], logprob: float) -> None:
        self._results.append((self._score(token_ids, logprob), token_ids, logprob))

    def _score(self, token_ids: list[int], logprob: float) -> float:
        return logprob / float(len(token_ids) ** self._penalty)
