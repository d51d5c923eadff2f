"""How the tokens of a request are chosen: one frozen object, validated once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypedDict, cast

from .errors import RequestError
from .output_schema import OutputSchema
from .sampling_checks import LogprobsMode, checked
from .validation import check_keywords

DEFAULT_MAX_TOKENS = 256


class SamplingOptions(TypedDict, total=False):
    """``SamplingParams`` as keywords of a call."""

    max_tokens: int | Literal["auto"] | None
    min_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    top_n_sigma: float
    typical_p: float | None
    xtc_probability: float
    xtc_threshold: float
    mirostat: Literal[0, 2]
    mirostat_tau: float
    mirostat_eta: float
    no_repeat_ngram_size: int | None
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Iterable[str]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float | None
    seed: int | None
    n: int
    stop: str | Iterable[str]
    include_stop_str_in_output: bool
    stop_token_ids: Iterable[int]
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    prompt_logprobs_start: int
    logprobs_mode: LogprobsMode
    abstain_below: float | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float] | None
    allowed_token_ids: Iterable[int] | None
    bad_words: Iterable[str | Iterable[int]] | None
    schema: Any
    regex: str | None
    choices: Iterable[str] | None
    grammar: str | None
    skip_special_tokens: bool
    spaces_between_special_tokens: bool
    detokenize: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Options of one request.

    Where a neutral value is named below, ``None`` means: what the checkpoint's
    ``generation_config.json`` says, or the neutral value if it says nothing. The values that were
    used are on ``Completion.params``. They act in this order, which is fixed:

    ``logits_processors`` (an argument of the calls) → ``logit_bias``, ``allowed_token_ids``,
    ``bad_words``, ``no_repeat_ngram_size`` (and stop tokens while fewer than ``min_tokens`` were
    generated), structure → penalties → ``dry_*`` → ``temperature`` → ``top_k`` → ``top_p`` →
    ``min_p`` → ``top_n_sigma`` → ``typical_p`` → ``xtc_*`` → ``mirostat`` → draw. Probabilities are
    always those among what is left.

    Without a ``generation_config.json``, and without options, a request draws from the model's own
    distribution (temperature 1, nothing cut off) up to 256 tokens.

    Attributes:
        max_tokens: Most tokens to generate; ``finish_reason`` is then ``"length"``. ``"auto"`` is
            256, or what the context still holds if that is less; ``None`` is to the end of the
            context. A number that can never fit is refused; 0 is allowed with ``prompt_logprobs``.
            The lengths in ``generation_config.json`` are not read: how much to generate is the
            caller's business.
        min_tokens: Stop tokens cannot be drawn until this many tokens were generated, and stop
            strings are not looked at.
        temperature: Divides the logits. 0 is greedy: the largest logit after bias, masks and
            penalties, the lowest id on a tie. Neutral: 1.
        top_k: Keep the ``k`` most likely tokens. Ties at the k-th keep the lower ids. Neutral: 0,
            which keeps all (Fan et al. 2018).
        top_p: Keep the smallest set of most likely tokens whose probability reaches this, after
            ``temperature`` and ``top_k``. Neutral: 1 (Holtzman et al. 2020).
        min_p: Keep tokens with at least this share of the most likely one's probability.
            Neutral: 0 (Nguyen et al. 2024).
        top_n_sigma: Keep tokens whose logit is at least ``max - top_n_sigma * sigma``, sigma being
            the standard deviation of the logits; 0 keeps all (Tang et al. 2024).
        typical_p: Keep the smallest set of probability ``typical_p`` of those tokens whose surprise
            ``-log p`` is nearest to the entropy ``-sum(p log p)``. Neutral: 1 (Meister et al.
            2022).
        xtc_probability: How often, at random, the top choices are excluded: of the tokens of at
            least ``xtc_threshold`` only the least likely stays. 0 is never (p-e-w 2024,
            text-generation-webui #6335).
        xtc_threshold: Probability from which on a token is a top choice.
        mirostat: 2 holds the surprise of what is drawn at ``mirostat_tau`` bits: tokens of
            ``-log2 p > mu`` are cut off (never all), and after each draw
            ``mu -= mirostat_eta * (-log2 p - mirostat_tau)``; a request begins with
            ``mu = 2 * mirostat_tau``. 0 is off. No tokens are drafted meanwhile (Basu et al. 2021).
        mirostat_tau: The wanted surprise, in bits.
        mirostat_eta: How fast ``mu`` follows.
        no_repeat_ngram_size: No run of so many tokens occurs twice in prompt and output. Neutral:
            0, any run may (Paulus et al. 2017).
        dry_multiplier: A token that would continue a repetition loses
            ``dry_multiplier * dry_base ** (length - dry_allowed_length)`` of its logit, ``length``
            being how many last tokens stand in front of an earlier occurrence of it, too; 0 is off
            (p-e-w 2024, text-generation-webui #5677).
        dry_base: Factor by which the loss grows per token of the repetition.
        dry_allowed_length: Shorter repetitions cost nothing.
        dry_penalty_last_n: Only so many last tokens are looked at; ``None``: all of prompt and
            output.
        dry_sequence_breakers: Texts that no repetition extends across: the last token of each,
            written behind a letter.
        presence_penalty: Subtracted once from the logit of every token already generated.
        frequency_penalty: Subtracted per occurrence among the tokens already generated. The logit
            loses ``presence_penalty * (count > 0) + frequency_penalty * count`` (OpenAI).
        repetition_penalty: Divides positive and multiplies negative logits of every token in prompt
            or output. Neutral: 1 (Keskar et al. 2019).
        seed: 0 to 2**64 - 1. ``None`` draws one, reported in ``Completion.params``. The tokens
            depend on (seed, sequence, position) and on nothing else in the process.
        n: Sequences per prompt; sequence ``i`` is the same however many are asked for.
        stop: Strings that end the output, which is cut in front of them. They may straddle tokens.
        include_stop_str_in_output: Keep the stop string in the text.
        stop_token_ids: Tokens that end the output, besides the model's own end-of-sequence tokens.
        ignore_eos: Go on after an end-of-sequence token.
        logprobs: Report the log-probability of each output token, and of so many of the most likely
            ones at its place; 0 reports its own alone. ``None``: none.
        prompt_logprobs: The same for the tokens of the prompt.
        prompt_logprobs_start: First prompt position that is scored; the prefix cache may serve what
            lies before it.
        logprobs_mode: ``"raw"``: of the model's own distribution. ``"processed"``: after bias,
            masks, penalties, temperature and cut-offs.
        abstain_below: A sequence ends, with ``finish_reason="abstain"``, as soon as its confidence
            (``CompletionOutput.confidence``, by ``logprobs_mode``) is below this: above 0, at most
            1. It is looked at behind each token from the eighth on (not before ``min_tokens``), and
            behind the last token, however few there are, where the sequence ends by itself or at
            ``max_tokens``. That token is the last of the result, whatever was drafted behind it. A
            structure is not closed then. ``None``: it goes on however unsure the model is.
        logit_bias: Added to the logits, by token id or by text: then for the token that is this
            text, and the one that is it after a space; a text for which there is neither is
            refused. Several biases of one token are added up.
        allowed_token_ids: If given, only these tokens can be drawn.
        bad_words: Strings (or lists of token ids) that cannot be generated: the last token of such
            a run cannot be drawn after the others.
        schema: A JSON schema that the text must satisfy: a dict, JSON, a pydantic model, or another
            type (a dataclass, a typed dictionary, ``list[…]``, ``Literal``, an enumeration, …).
            JSON is written without whitespace. ``Completion.parsed`` is what the text holds, as an
            instance of the type if one was given. Keywords that cannot be enforced are refused by
            name.
        regex: A regular expression (Rust's ``regex`` syntax, no look-around) that the whole text
            must match.
        choices: Texts of which the output is one.
        grammar: A grammar in Lark's syntax, beginning at ``start``. One of ``schema``, ``regex``,
            ``choices`` and ``grammar`` can be given. Where nothing may follow, the output ends;
            before ``max_tokens`` or a deadline cut it off it is closed, so that it is whole all the
            same (not together with ``allowed_token_ids`` or ``bad_words``). A ``max_tokens`` that
            no text can have is refused.
        skip_special_tokens: Leave special tokens out of the text.
        spaces_between_special_tokens: Without effect, as in Hugging Face's fast tokenizers: special
            tokens that stay in the text are written as they are.
        detokenize: ``False`` gives token ids and an empty text, and allows no ``stop``.
    """

    max_tokens: int | Literal["auto"] | None = "auto"
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_n_sigma: float = 0.0
    typical_p: float | None = None
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: Literal[0, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    no_repeat_ngram_size: int | None = None
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: Iterable[str] = ("\n", ":", '"', "*")
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    n: int = 1
    stop: str | Iterable[str] = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: Iterable[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_start: int = 0
    logprobs_mode: LogprobsMode = "raw"
    abstain_below: float | None = None
    logit_bias: Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float] | None = (
        field(default=None, hash=False)
    )
    allowed_token_ids: Iterable[int] | None = None
    bad_words: Iterable[str | Iterable[int]] | None = None
    schema: Any = None
    regex: str | None = None
    choices: Iterable[str] | None = None
    grammar: str | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True

    def __post_init__(self) -> None:
        """Check and normalise every value.

        Raises:
            RequestError: A value is of the wrong kind or out of range; ``field`` names it.
        """
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as it was normalised."""
        return self.stop  # type: ignore[return-value]  # since `__post_init__`

    @property
    def output_schema(self) -> OutputSchema | None:
        """``schema`` as it was normalised."""
        return cast("OutputSchema | None", self.schema)

    def __reduce__(self) -> tuple[partial[SamplingParams], tuple[()]]:
        """Pickle by keyword: a mapping proxy cannot be pickled."""
        return partial(type(self), **self.to_dict()), ()

    @classmethod
    def from_options(
        cls, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> SamplingParams:
        """Return ``params`` with some options replaced.

        Raises:
            RequestError: An option does not exist (the nearest one is named) or is invalid.
        """
        if params is not None and not isinstance(params, cls):
            raise RequestError(
                f"params must be SamplingParams, not {type(params).__name__}",
                field="params",
                hint="options can also be given directly as keywords",
            )
        check_keywords(options, {entry.name for entry in fields(cls)})
        if not options:
            return params or cls()
        return cls(**options) if params is None else replace(params, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-like values."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}

    def resolve(
        self, generation_config: Mapping[str, Any], *, seed: int | None = None
    ) -> SamplingParams:
        """Replace every ``None`` that stands for the model's default.

        Args:
            generation_config: The checkpoint's ``generation_config.json``; may be empty. An
                explicit ``"do_sample": false`` there means greedy.
            seed: Used if none was given; ``None`` draws one from the system.

        Raises:
            RequestError: The checkpoint's value is out of range.
        """
        greedy = generation_config.get("do_sample") is False
        values: dict[str, Any] = {}
        for name, neutral in _NEUTRAL.items():
            if getattr(self, name) is None:
                stored = generation_config.get(name)
                values[name] = neutral if stored is None else stored
        if greedy and self.temperature is None:
            values["temperature"] = 0.0
        if self.seed is None:
            values["seed"] = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        return replace(self, **values) if values else self


_NEUTRAL = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
}


def _plain(value: object) -> object:
    if isinstance(value, OutputSchema):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value
