"""The calls that score given text instead of generating: ``loglikelihood``, ``choose``, twins.

A context that several continuations share is computed once and held while they are scored; all
continuations then run as one batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, overload

from .atomic import move
from .errors import RequestError
from .model_core import ModelCore
from .prompts import EncodedPrompt, encode_prompt, encode_text, is_one_prompt
from .sampling_params import SamplingParams
from .sequence import COMPUTE_ONLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._core import Tokenizer
    from .completion import Completion
    from .prompts import MixedPrompts, Prompt, Prompts
    from .request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLikelihood:
    """How likely a model finds a continuation of a context.

    Attributes:
        total: Natural logarithm of the continuation's probability: the sum of ``tokens``.
        is_greedy: Whether greedy decoding would give exactly this continuation.
        tokens: Log-probability of each of its tokens.
        token_ids: Its tokens.
    """

    total: float
    is_greedy: bool
    tokens: list[float]
    token_ids: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a model divides its probability between given options.

    Attributes:
        index: Of the most likely option; the first of equals.
        probabilities: In the order of the options, summing to 1: how likely each is if it has to be
            one of them.
        logprobs: In the order of the options: how likely each is among all texts.
    """

    index: int
    probabilities: list[float]
    logprobs: list[LogLikelihood]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {
            "index": self.index,
            "probabilities": self.probabilities,
            "logprobs": [each.to_dict() for each in self.logprobs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Tokens of a context and of one continuation, neither empty."""

    context: list[int]
    continuation: list[int]


class Scoring(ModelCore):
    """Scores continuations."""

    @overload
    def loglikelihood(
        self, contexts: Prompt, continuations: Prompt, *, tenant: str | None = None
    ) -> LogLikelihood: ...
    @overload
    def loglikelihood(
        self,
        contexts: Prompt,
        continuations: Prompts | MixedPrompts,
        *,
        tenant: str | None = None,
    ) -> list[LogLikelihood]: ...
    @overload
    def loglikelihood(
        self,
        contexts: Prompts | MixedPrompts,
        continuations: Prompts | MixedPrompts,
        *,
        tenant: str | None = None,
    ) -> list[LogLikelihood]: ...
    def loglikelihood(
        self,
        contexts: Prompt | Prompts | MixedPrompts,
        continuations: Prompt | Prompts | MixedPrompts,
        *,
        tenant: str | None = None,
    ) -> LogLikelihood | list[LogLikelihood]:
        """Say how likely the model finds continuations.

        Text is encoded together with its context and then parted, so that tokens are those of the
        joined text; token ids are joined as they are. An empty context is the beginning of a text.

        Args:
            contexts: One context, or one per continuation.
            continuations: One continuation, or many. Many of one context, or of equal ones, have
                it computed once.
            tenant: As for ``generate``.

        Returns:
            One ``LogLikelihood`` for one continuation, a list for a list.

        Raises:
            RequestError: An argument is no prompt, a continuation is empty, or there are not as
                many contexts as continuations.
            PromptTooLongError: A context and its continuation do not fit.
            InferlibError: A step failed, or the model was closed.
        """
        one, pairs = self._pairs(contexts, continuations)
        results = self._score(pairs, tenant)
        return results[0] if one else results

    async def aloglikelihood(
        self,
        contexts: Prompt | Prompts | MixedPrompts,
        continuations: Prompt | Prompts | MixedPrompts,
        *,
        tenant: str | None = None,
    ) -> LogLikelihood | list[LogLikelihood]:
        """``loglikelihood`` without blocking the event loop."""
        one, pairs = self._pairs(contexts, continuations)
        results = await self._ascore(pairs, tenant)
        return results[0] if one else results

    def choose(
        self, prompt: Prompt, options: Prompts | MixedPrompts, *, tenant: str | None = None
    ) -> Choice:
        """Say which of some continuations the model finds most likely; nothing is generated.

        Longer options are less likely by their length alone; to leave it out, divide
        ``logprobs[i].total`` by the number of tokens.

        Args:
            prompt: What they continue.
            options: At least one, as for ``loglikelihood``.
            tenant: As for ``generate``.

        Returns:
            A ``Choice``: which one, and how likely each of them is.

        Raises:
            RequestError: An argument is no prompt, or an option is empty.
            PromptTooLongError: The prompt and an option do not fit.
            InferlibError: A step failed, or the model was closed.
        """
        return _choice(self._score(self._options(prompt, options), tenant))

    async def achoose(
        self, prompt: Prompt, options: Prompts | MixedPrompts, *, tenant: str | None = None
    ) -> Choice:
        """``choose`` without blocking the event loop."""
        return _choice(await self._ascore(self._options(prompt, options), tenant))

    # From arguments to pairs of token ids

    def _options(self, prompt: object, options: object) -> list[_Pair]:
        if not is_one_prompt(prompt):
            raise RequestError("this call takes one prompt, not a list", field="prompt")
        if not isinstance(options, list | tuple) or not options or is_one_prompt(options):
            raise RequestError(
                "options must be a list of texts or of lists of token ids, not empty",
                field="options",
            )
        return self._pairs(prompt, options)[1]

    def _pairs(self, contexts: object, continuations: object) -> tuple[bool, list[_Pair]]:
        """Whether one continuation was given; and every continuation with its context."""
        self._engine.check_usable()
        one = is_one_prompt(continuations)
        wanted = [continuations] if one else list(cast("Sequence[object]", continuations))
        if is_one_prompt(contexts):
            return one, [self._pair(contexts, each) for each in wanted]
        given = list(cast("Sequence[object]", contexts))
        if one or len(given) != len(wanted):
            raise RequestError(
                f"{len(given)} contexts do not belong to {len(wanted)} continuations",
                field="contexts",
                hint="give one context, or one per continuation",
            )
        return one, [self._pair(*pair) for pair in zip(given, wanted, strict=True)]

    def _pair(self, context: object, continuation: object) -> _Pair:
        tokenizer = self.tokenizer
        empty = RequestError("a continuation is empty", field="continuations")
        if isinstance(continuation, str) and not continuation:
            raise empty
        if isinstance(context, str) and isinstance(continuation, str) and tokenizer is not None:
            before = self._encoded_text(context, tokenizer)
            whole = self._encoded_text(context + continuation, tokenizer)
            # A token may lie across the border; then it counts as the continuation's.
            count = min(len(before), len(whole) - 1)
            before, after = whole[:count], whole[count:]
        else:
            before = self._context(context)
            try:
                after = encode_prompt(
                    continuation,
                    tokenizer,
                    add_special_tokens=False,
                    max_model_len=self.max_model_len,
                ).token_ids
            except RequestError as error:
                error.field = "continuations"
                raise
        return _Pair(context=before or [self._beginning()], continuation=after)

    def _context(self, context: object) -> list[int]:
        if isinstance(context, str) and self.tokenizer is not None:
            return self._encoded_text(context, self.tokenizer)
        try:
            return self._encoded(context).token_ids
        except RequestError as error:
            error.field = "contexts"
            raise

    def _encoded_text(self, text: str, tokenizer: Tokenizer) -> list[int]:
        return encode_text(
            text, tokenizer, add_special_tokens=True, max_model_len=self.max_model_len
        )

    def _beginning(self) -> int:
        """The token that stands for an empty context, as in EleutherAI's harness."""
        bos = None if self.tokenizer is None else self.tokenizer.bos_id
        if bos is not None:
            return bos
        ends = self._parts.builder.eos_token_ids
        if not ends:
            raise RequestError(
                "an empty context needs a model with a beginning- or end-of-sequence token",
                field="contexts",
            )
        return ends[0]

    # From pairs to results

    def _score(self, pairs: list[_Pair], tenant: str | None) -> list[LogLikelihood]:
        held: list[int] = []
        try:
            shared, prefills = self._prefills(pairs, held, tenant)
            self._run(prefills, progress=False)
            completions = self._run(self._scorings(pairs, shared, tenant), progress=None)
        finally:
            self._let_go(held)
        return [_likelihood(*each) for each in zip(pairs, completions, strict=True)]

    async def _ascore(self, pairs: list[_Pair], tenant: str | None) -> list[LogLikelihood]:
        held: list[int] = []
        try:
            shared, prefills = self._prefills(pairs, held, tenant)
            await self._arun(prefills)
            completions = await self._arun(self._scorings(pairs, shared, tenant))
        finally:
            self._let_go(held)
        return [_likelihood(*each) for each in zip(pairs, completions, strict=True)]

    def _prefills(
        self, pairs: list[_Pair], held: list[int], tenant: str | None
    ) -> tuple[dict[tuple[int, ...], int], list[Request]]:
        """Held sequences by the contexts that occur twice, and the requests that fill them."""
        counts = Counter(tuple(pair.context) for pair in pairs)
        shared: dict[tuple[int, ...], int] = {}
        requests = []
        for context in (context for context, count in counts.items() if count > 1):
            move(held, self._engine.sequences.open, None)
            shared[context] = held[-1]
            prompt = EncodedPrompt(text=None, token_ids=list(context))
            builder = self._parts.builder
            requests.append(
                builder.build(prompt, COMPUTE_ONLY, tenant=tenant, sequence=held[-1], keep=True)
            )
        return shared, requests

    def _scorings(
        self, pairs: list[_Pair], shared: dict[tuple[int, ...], int], tenant: str | None
    ) -> list[Request]:
        return [
            self._parts.builder.build(
                EncodedPrompt(text=None, token_ids=[*pair.context, *pair.continuation]),
                SamplingParams(
                    max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=len(pair.context)
                ),
                tenant=tenant,
                sequence=shared.get(tuple(pair.context)),
            )
            for pair in pairs
        ]

    def _let_go(self, held: list[int]) -> None:
        for sequence in held:
            self._engine.close_sequence(sequence)


def _likelihood(pair: _Pair, completion: Completion) -> LogLikelihood:
    scored = (completion.prompt_logprobs or [])[len(pair.context) :]
    entries = [
        (entry or {})[token_id] for entry, token_id in zip(scored, pair.continuation, strict=True)
    ]
    tokens = [entry.logprob for entry in entries]
    return LogLikelihood(
        total=math.fsum(tokens),
        is_greedy=all(entry.rank == 1 for entry in entries),
        tokens=tokens,
        token_ids=pair.continuation,
    )


def _choice(logprobs: list[LogLikelihood]) -> Choice:
    totals = [each.total for each in logprobs]
    best = max(totals)
    weights = [math.exp(total - best) for total in totals]
    total = math.fsum(weights)
    return Choice(
        index=totals.index(best),
        probabilities=[weight / total for weight in weights],
        logprobs=logprobs,
    )
