"""From what a caller asks to a ``Request``: defaults filled in, checked against this model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast, get_args

from .adapter_table import AdapterTable
from .config import SpeculationSwitch
from .errors import RequestError
from .grammar_compiler import GrammarCompiler
from .limits import AS_FAR_AS_ANY, Limits
from .logits_processing import checked_processors
from .prompts import EncodedPrompt, too_long
from .request import Request
from .sampling_checks import STRUCTURES
from .sampling_params import DEFAULT_MAX_TOKENS, SamplingParams
from .scheduler_params import bad_word_ids, logit_bias, scheduler_params
from .scheduling import Priority, read_priority
from .validation import INT32_MAX, choice, number, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Grammar, Tokenizer
    from ._core import SamplingParams as SchedulerParams
    from .adapter_table import Adapter
    from .logits_processing import LogitsProcessor
    from .origin import Origin
    from .output_syntax.parser import OutputReading
    from .thinking import ThinkingBudget

MAX_DEADLINE_SECONDS = 1e9
MAX_NAME_BYTES = 65_536
"""Of a tenant's name, or a salt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBuilder:
    """What requests of one model have in common.

    Attributes:
        tokenizer: ``None`` if the checkpoint has none.
        generation_config: The checkpoint's defaults; may be empty.
        eos_token_ids: Tokens that end a sequence, ascending.
        vocab_size: Token ids are below this.
        max_model_len: Longest sequence in tokens.
        kv_cache_tokens: Tokens that the KV cache holds.
        origin: What results depend on; ``None`` for a pretended model.
        limits: How much one request may ask for.
        generates: Whether the model has logits; an encoder has none.
        has_draft_model: Whether a draft model stands beside it.
        capture_points: By name: the point's number and what its rows count. Empty on a device that
            hands nothing out.
        grammars: Compiles structured output.
        adapters: Those that are loaded.
    """

    tokenizer: Tokenizer | None
    generation_config: Mapping[str, Any]
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    max_model_len: int
    kv_cache_tokens: int
    origin: Origin | None = None
    limits: Limits = AS_FAR_AS_ANY
    generates: bool = True
    has_draft_model: bool = False
    capture_points: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    grammars: GrammarCompiler = field(init=False, repr=False, compare=False)
    adapters: AdapterTable = field(
        init=False, repr=False, compare=False, default_factory=AdapterTable
    )
    _drafting: dict[int, tuple[SamplingParams, SchedulerParams]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _reading: dict[str, tuple[SamplingParams, SamplingParams, SchedulerParams]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        compiler = GrammarCompiler(self.tokenizer, self.eos_token_ids, self.vocab_size)
        object.__setattr__(self, "grammars", compiler)

    def build(  # noqa: PLR0913  # each is independent of the others
        self,
        prompt: EncodedPrompt,
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        priority: Priority = 0,
        tenant: str | None = None,
        deadline: float | None = None,
        speculation: SpeculationSwitch = "auto",
        adapter: str | None = None,
        logits_processors: Sequence[LogitsProcessor] | None = None,
        sequence: int | None = None,
        keep: bool = False,
        output: OutputReading | None = None,
        thinking: ThinkingBudget | None = None,
    ) -> Request:
        """Resolve the options of one request.

        ``sequence``, ``keep``, ``output`` and ``thinking`` are as in ``Request``.

        Raises:
            RequestError: The prompt or an option does not fit this model; ``field`` names it.
            GrammarError: A description of structured output cannot be used.
        """
        if not self.generates:
            raise RequestError(
                "this model generates nothing: it gives vectors or scores",
                field="model",
                hint="call embed(), or classify() and rerank() if it has a classifier",
            )
        self.limits.check(params)
        check_salt(cache_salt)
        choice("speculation", speculation, get_args(SpeculationSwitch))
        rank, background = read_priority(priority)
        if speculation == "draft_model" and not self.has_draft_model:
            raise RequestError(
                'speculation="draft_model" needs a model that was loaded with a draft_model',
                field="speculation",
            )
        check_tenant(tenant)
        if deadline is not None:
            deadline = number("deadline", deadline, 0.0, MAX_DEADLINE_SECONDS)
        processors = checked_processors(logits_processors)
        adapted = None if adapter is None else self.adapters.find(adapter)
        resolved = params.resolve(self.generation_config)
        max_tokens = self._max_tokens(len(prompt.token_ids), resolved)
        resolved = replace(
            resolved,
            max_tokens=max_tokens,
            detokenize=resolved.detokenize and self.tokenizer is not None,
            logit_bias=logit_bias(resolved, self.tokenizer),
        )
        grammar = self.grammars.compile(resolved)
        room = min(max_tokens, max(self.kv_cache_tokens + 1 - len(prompt.token_ids), 0))
        if grammar is not None:
            _check_structure_fits(grammar, room)
        if thinking is not None:
            self._check_thinking(thinking, resolved)
        silent: frozenset[int] = frozenset()
        if not resolved.include_stop_str_in_output:
            eos = () if resolved.ignore_eos else self.eos_token_ids
            silent = frozenset(eos) | frozenset(resolved.stop_token_ids)
        return Request(
            prompt=prompt.text,
            prompt_token_ids=prompt.token_ids,
            params=resolved,
            scheduler_params=self._scheduler_params(resolved),
            cache_salt=cache_salt,
            priority=rank,
            background=background,
            tenant=tenant,
            deadline=deadline,
            # A drafted token's row would be processed before anybody knows that it is drawn.
            speculation="off" if processors else speculation,
            sequence=sequence,
            keep=keep,
            adapter=0 if adapted is None else adapted.number,
            grammar=grammar,
            max_structured_tokens=room,
            # A closing token that is forbidden could not be drawn.
            closes=grammar is not None
            and resolved.allowed_token_ids is None
            and not resolved.bad_words,
            processors=processors,
            thinking=thinking,
            output=output if resolved.detokenize else None,
            origin=_origin_of(self.origin, adapted),
            silent_token_ids=silent,
        )

    def build_reading(  # noqa: PLR0913  # each is independent of the others
        self,
        token_ids: list[int],
        params: SamplingParams,
        *,
        points: Iterable[str],
        start: int,
        second_segment: int | None = None,
        priority: Priority = 0,
        tenant: str | None = None,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> Request:
        """Make the request of a text that is read, not continued.

        Args:
            token_ids: The text, with special tokens.
            params: That compute a prompt and nothing else; the same object for all that are alike.
            points: The capture points whose rows are wanted.
            start: The first token whose rows are wanted.
            second_segment: Where the second of two texts begins.
            priority: As in ``Request``.
            tenant: As in ``Request``.
            cache_salt: As in ``Request``.
            adapter: Name of an adapter.

        Raises:
            RequestError: This device does not hand out such a point, or an argument is invalid.
        """
        try:
            captures = tuple(sorted(self.capture_points[point] for point in points))
        except KeyError:
            raise RequestError(
                "hidden states and scores are not handed out on this device",
                field="device",
                hint='load the model with device="cpu"',
            ) from None
        rank, background = read_priority(priority)
        check_tenant(tenant)
        check_salt(cache_salt)
        adapted = None if adapter is None else self.adapters.find(adapter)
        resolved, scheduler_params = self._reading_params(params)
        return Request(
            prompt=None,
            prompt_token_ids=token_ids,
            params=resolved,
            scheduler_params=scheduler_params,
            priority=rank,
            background=background,
            tenant=tenant,
            cache_salt=cache_salt,
            captures=captures,
            capture_start=start,
            second_segment=second_segment,
            adapter=0 if adapted is None else adapted.number,
            origin=_origin_of(self.origin, adapted),
        )

    def build_draft(
        self, token_ids: NDArray[np.int32], *, max_tokens: int, sequence: int
    ) -> Request:
        """Make the greedy request that continues a held sequence with tokens for another model.

        Args:
            token_ids: All of the sequence's, ``[num_tokens]``.
            max_tokens: 0 computes them and nothing else.
            sequence: It has the drafted tokens, too, once the request ended.
        """
        known = self._drafting.get(max_tokens)
        if known is None:
            options: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
            if max_tokens == 0:  # as for a sequence that is extended
                options |= {"prompt_logprobs": 0, "prompt_logprobs_start": INT32_MAX}
            params = SamplingParams(**options, detokenize=False, seed=0).resolve({})
            known = self._drafting[max_tokens] = (params, self._scheduler_params(params))
        return Request(
            prompt=None,
            prompt_token_ids=cast("list[int]", token_ids),  # nobody reads its prompt
            params=known[0],
            scheduler_params=known[1],
            speculation="off",
            sequence=sequence,
            keep=True,
            origin=self.origin,
        )

    def _reading_params(self, params: SamplingParams) -> tuple[SamplingParams, SchedulerParams]:
        """Resolved once: a list of texts may have a million of them."""
        known = self._reading.get("params")
        if known is None or known[0] is not params:
            resolved = replace(params.resolve({}), detokenize=False, seed=0)
            known = (params, resolved, self._scheduler_params(resolved))
            self._reading["params"] = known
        return known[1], known[2]

    def _max_tokens(self, num_prompt_tokens: int, params: SamplingParams) -> int:
        """How many tokens may be generated; the scheduler refuses what is still too long."""
        limit = self.max_model_len
        room = limit - num_prompt_tokens
        wanted = params.max_tokens
        if isinstance(wanted, int):
            longest = num_prompt_tokens + wanted
            if wanted and longest > limit and room > 0:
                raise RequestError(
                    f"a prompt of {num_prompt_tokens:,} tokens and max_tokens={wanted:,} exceed "
                    f"the context of {limit:,}",
                    field="max_tokens",
                    hint=f"at most {room:,} fit; max_tokens=None goes to the end of the context",
                )
            if wanted and longest - 1 > self.kv_cache_tokens >= num_prompt_tokens:
                raise RequestError(
                    f"a prompt of {num_prompt_tokens:,} tokens and max_tokens={wanted:,} exceed "
                    f"the KV cache of {self.kv_cache_tokens:,}",
                    field="max_tokens",
                    hint="raise kv_cache or lower max_tokens",
                )
            return wanted
        if room < 1:
            raise too_long(num_prompt_tokens, limit)
        return min(DEFAULT_MAX_TOKENS, room) if wanted == "auto" else room

    def _scheduler_params(self, params: SamplingParams) -> SchedulerParams:
        return scheduler_params(params, self.tokenizer, self.eos_token_ids)

    def _check_thinking(self, thinking: ThinkingBudget, params: SamplingParams) -> None:
        """Refuse a budget beside options under which the reasoning could not be ended."""
        structures = [name for name in STRUCTURES if getattr(params, name) is not None]
        if structures:
            raise RequestError(
                f"thinking_budget and {structures[0]} cannot be given together: a structure begins "
                "with the first token, so there is no reasoning",
                field="thinking_budget",
            )
        needed = thinking.closing_token_ids()
        allowed = params.allowed_token_ids
        if allowed is not None and not needed <= set(allowed):
            raise RequestError(
                "allowed_token_ids does not hold the tokens that end the reasoning",
                field="thinking_budget",
                hint=f"add {sorted(needed)[:8]}",
            )
        if any(run[-1] in needed for run in bad_word_ids(params, self.tokenizer)):
            raise RequestError(
                "a bad word ends with a token that ends the reasoning", field="thinking_budget"
            )


def _check_structure_fits(grammar: Grammar, max_tokens: int) -> None:
    """Refuse what no text can satisfy in so few tokens, as far as that is known."""
    if grammar.least_tokens > max_tokens:
        raise RequestError(
            f"max_tokens={max_tokens:,} is too little for this structure: no text of it has fewer "
            f"than {grammar.least_tokens:,} tokens",
            field="max_tokens",
            hint="raise max_tokens",
        )


def check_tenant(tenant: object) -> None:
    """Refuse what is no name of a tenant.

    Raises:
        RequestError: It is neither a short string nor ``None``.
    """
    if tenant is not None:
        text("tenant", tenant, limit=MAX_NAME_BYTES)


def check_salt(cache_salt: object) -> None:
    """Refuse what is no salt of the prefix cache.

    Raises:
        RequestError: It is neither a short string nor ``None``.
    """
    if cache_salt is not None:
        text("cache_salt", cache_salt, limit=MAX_NAME_BYTES)


def _origin_of(origin: Origin | None, adapter: Adapter | None) -> Origin | None:
    """Where the results of a request come from."""
    if origin is None or adapter is None:
        return origin
    return origin.with_adapter(adapter.fingerprint)
