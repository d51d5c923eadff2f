"""How the tokens of a request are chosen: one frozen object, validated once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypedDict, cast, get_args

from .errors import RequestError
from .output_schema import OutputSchema
from .validation import (
    INT32_MAX,
    boolean,
    check_keywords,
    choice,
    integer,
    items,
    number,
    token_ids,
)

LogprobsMode = Literal["raw", "processed"]

DEFAULT_MAX_TOKENS = 256
MAX_N = 1024
MAX_STOPS = 64
MAX_STOP_BYTES = 1024
MAX_BAD_WORDS = 1024
MAX_LOGPROBS = 1024
MAX_CHOICES = 10_000


class SamplingOptions(TypedDict, total=False):
    """``SamplingParams`` as keywords of a call."""

    max_tokens: int | Literal["auto"] | None
    min_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
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

    ``None`` means: the value of the checkpoint's ``generation_config.json`` if it has one, else the
    neutral value named below. The values that were used are on ``Completion.params``. They act in
    this order, which is fixed:

    ``logit_bias``, ``allowed_token_ids``, ``bad_words`` (and stop tokens while fewer than
    ``min_tokens`` were generated), structure → penalties → ``temperature`` → ``top_k`` →
    ``top_p`` → ``min_p`` → draw.

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
        top_k: Keep the ``k`` most likely tokens; 0 keeps all. Ties at the k-th keep the lower ids
            (Fan et al. 2018).
        top_p: Keep the smallest set of most likely tokens whose probability reaches this, after
            ``temperature`` and ``top_k``. Neutral: 1 (Holtzman et al. 2020).
        min_p: Keep tokens with at least this share of the most likely one's probability.
            Neutral: 0 (Nguyen et al. 2024).
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
        logprobs: Report the log-probability of each output token and of the ``k`` most likely ones.
        prompt_logprobs: The same for the tokens of the prompt.
        prompt_logprobs_start: First prompt position that is scored; the prefix cache may serve what
            lies before it.
        logprobs_mode: ``"raw"``: of the model's own distribution. ``"processed"``: after bias,
            masks, penalties, temperature and cut-offs.
        logit_bias: Added to the logits, by token id or by text: then for the token that is this
            text, and the one that is it after a space; a text for which there is neither is
            refused. Several biases of one token are added up.
        allowed_token_ids: If given, only these can be drawn.
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
        for name, value in _checked(self).items():
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
    "repetition_penalty": 1.0,
}

STRUCTURES = ("schema", "regex", "choices", "grammar")
"""Options of which a request may have one."""

_INTEGERS = (
    ("min_tokens", 0, INT32_MAX),
    ("top_k", 0, INT32_MAX),
    ("seed", 0, 2**64 - 1),
    ("n", 1, MAX_N),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs_start", 0, INT32_MAX),
)
_NUMBERS = (
    ("temperature", 0.0, 1e4),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("repetition_penalty", 0.0, 100.0),
)
_NOT_NONE = ("min_tokens", "n", "prompt_logprobs_start", "presence_penalty", "frequency_penalty")
_BOOLEANS = (
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "detokenize",
)


def _checked(params: SamplingParams) -> dict[str, Any]:
    """Every field that has a rule, normalised."""
    for name in _NOT_NONE:
        if getattr(params, name) is None:
            raise RequestError(f"{name} cannot be None", field=name)
    for name in _BOOLEANS:
        boolean(name, getattr(params, name))
    choice("logprobs_mode", params.logprobs_mode, get_args(LogprobsMode))
    checked: dict[str, Any] = {
        "max_tokens": _max_tokens(params.max_tokens),
        "stop": _stop_strings(params.stop),
        "stop_token_ids": _stop_token_ids(params.stop_token_ids),
        "allowed_token_ids": _allowed_token_ids(params.allowed_token_ids),
        "logit_bias": _logit_bias(params.logit_bias),
        "bad_words": _bad_words(params.bad_words),
        "schema": None if params.schema is None else OutputSchema.of(params.schema),
        "regex": _optional_text("regex", params.regex),
        "choices": _choices(params.choices),
        "grammar": _optional_text("grammar", params.grammar),
    }
    for name, lowest, highest in _INTEGERS:
        if (value := getattr(params, name)) is not None:
            checked[name] = integer(name, value, lowest, highest)
    for name, low, high in _NUMBERS:
        if (value := getattr(params, name)) is not None:
            checked[name] = number(name, value, low, high)
    _check_together(checked, detokenize=params.detokenize)
    _check_structure(checked, ignore_eos=params.ignore_eos)
    return checked


def _check_together(checked: dict[str, Any], *, detokenize: bool) -> None:
    """Rules about an open end of a range, or about two fields."""
    if checked.get("top_p") == 0:
        raise RequestError(
            "top_p must be above 0", field="top_p", hint="temperature=0 is greedy decoding"
        )
    if checked.get("repetition_penalty") == 0:
        raise RequestError(
            "repetition_penalty must be above 0", field="repetition_penalty", hint="1 is neutral"
        )
    if checked["stop"] and not detokenize:
        raise RequestError(
            "stop needs text", field="stop", hint="use stop_token_ids, or drop detokenize=False"
        )
    if checked["max_tokens"] == 0 and checked.get("prompt_logprobs") is None:
        raise RequestError(
            "max_tokens=0 generates nothing",
            field="max_tokens",
            hint="ask for at least 1, or for prompt_logprobs",
        )
    limit, least = checked["max_tokens"], checked["min_tokens"]
    if isinstance(limit, int) and least > limit:
        raise RequestError(
            f"min_tokens={least} is more than max_tokens={limit}", field="min_tokens"
        )


def _check_structure(checked: dict[str, Any], *, ignore_eos: bool) -> None:
    given = [name for name in STRUCTURES if checked[name] is not None]
    if len(given) > 1:
        raise RequestError(
            f"{given[0]} and {given[1]} cannot be given together: a text has one structure",
            field=given[1],
        )
    if given and ignore_eos:
        raise RequestError(
            f"ignore_eos and {given[0]} cannot be given together: a whole text ends",
            field="ignore_eos",
        )


def _optional_text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise RequestError(f"{name} must be a string, not {type(value).__name__}", field=name)


def _choices(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise RequestError("choices must be a list of strings, not a string", field="choices")
    choices = items("choices", value, MAX_CHOICES)
    for entry in choices:
        if not isinstance(entry, str):
            raise RequestError(f"choices must hold strings, not {entry!r}", field="choices")
    return choices


def _plain(value: object) -> object:
    if isinstance(value, OutputSchema):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value


def _max_tokens(value: object) -> object:
    if value is None or value == "auto":
        return value
    if isinstance(value, str):
        raise RequestError(
            f'max_tokens must be a whole number, "auto" or None, not {value!r}', field="max_tokens"
        )
    return integer("max_tokens", value, 0, INT32_MAX)


def _stop_strings(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = items("stop", [value] if isinstance(value, str) else value, MAX_STOPS)
    for string in strings:
        if not isinstance(string, str):
            raise RequestError(
                f"stop must hold strings, not {string!r}",
                field="stop",
                hint="token ids go into stop_token_ids",
            )
        if not string:
            raise RequestError("a stop string is empty: it would stop at once", field="stop")
        if len(string.encode("utf-8", "surrogatepass")) > MAX_STOP_BYTES:
            raise RequestError(
                f"a stop string is longer than {MAX_STOP_BYTES:,} bytes", field="stop"
            )
    return strings


def _stop_token_ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    return token_ids("stop_token_ids", [value] if hasattr(value, "__index__") else value)


def _allowed_token_ids(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    allowed = token_ids("allowed_token_ids", value)
    if not allowed:
        raise RequestError("allowed_token_ids allows nothing", field="allowed_token_ids")
    return allowed


def _logit_bias(value: object) -> Mapping[int | str, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RequestError(
            f"logit_bias must map token ids or texts to numbers, not {type(value).__name__}",
            field="logit_bias",
        )
    pairs: dict[int | str, float] = {}
    for key, bias in value.items():
        if key == "":
            raise RequestError("a text of logit_bias is empty", field="logit_bias")
        name = key if isinstance(key, str) else integer("logit_bias", key, 0, INT32_MAX)
        pairs[name] = number("logit_bias", bias, -1e4, 1e4)
    ids = {key: pairs[key] for key in sorted(key for key in pairs if not isinstance(key, str))}
    texts = {key: pairs[key] for key in sorted(key for key in pairs if isinstance(key, str))}
    return MappingProxyType({**ids, **texts})


def _bad_words(value: object) -> tuple[str | tuple[int, ...], ...] | None:
    if value is None:
        return None
    words: list[str | tuple[int, ...]] = []
    for word in items("bad_words", [value] if isinstance(value, str) else value, MAX_BAD_WORDS):
        if isinstance(word, str):
            words.append(word)
        else:
            ids = items("bad_words", word, MAX_STOP_BYTES)
            words.append(tuple(integer("bad_words", entry, 0, INT32_MAX) for entry in ids))
        if not words[-1]:
            raise RequestError("a bad word is empty", field="bad_words")
    return tuple(words)
