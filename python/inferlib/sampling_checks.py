"""The rules of ``SamplingParams``: what each option may be, alone and beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from .errors import RequestError
from .output_schema import OutputSchema
from .validation import (
    INT32_MAX,
    boolean,
    choice,
    integer,
    items,
    number,
    shown,
    text,
    token_ids,
)

LogprobsMode = Literal["raw", "processed"]

MAX_N = 1024
MAX_STOPS = 64
MAX_STOP_BYTES = 1024
MAX_BAD_WORDS = 1024
MAX_LOGPROBS = 1024
MAX_CHOICES = 10_000

STRUCTURES = ("schema", "regex", "choices", "grammar")
"""Options of which a request may have one."""

_INTEGERS = (
    ("min_tokens", 0, INT32_MAX),
    ("top_k", 0, INT32_MAX),
    ("no_repeat_ngram_size", 0, INT32_MAX),
    ("dry_allowed_length", 0, INT32_MAX),
    ("dry_penalty_last_n", 1, INT32_MAX),
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
    ("top_n_sigma", 0.0, 1e4),
    ("typical_p", 0.0, 1.0),
    ("xtc_probability", 0.0, 1.0),
    ("xtc_threshold", 0.0, 1.0),
    ("mirostat_tau", 0.0, 1e3),
    ("mirostat_eta", 0.0, 10.0),
    ("dry_multiplier", 0.0, 1e4),
    ("dry_base", 1.0, 1e4),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("repetition_penalty", 0.0, 100.0),
    ("abstain_below", 0.0, 1.0),
)
_NOT_NONE = (
    "min_tokens",
    "n",
    "prompt_logprobs_start",
    "presence_penalty",
    "frequency_penalty",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_sequence_breakers",
)
_BOOLEANS = (
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "detokenize",
)


def checked(params: Any) -> dict[str, Any]:  # noqa: ANN401  # `SamplingParams` stand above
    """Return every field of ``SamplingParams`` that has a rule, normalised.

    Raises:
        RequestError: A value is of the wrong kind or out of range; ``field`` names it.
    """
    for name in _NOT_NONE:
        if getattr(params, name) is None:
            raise RequestError(f"{name} cannot be None", field=name)
    for name in _BOOLEANS:
        boolean(name, getattr(params, name))
    choice("logprobs_mode", params.logprobs_mode, get_args(LogprobsMode))
    mirostat = integer("mirostat", params.mirostat, 0, 2)
    if mirostat == 1:
        raise RequestError("mirostat is 1; only version 2 is there", field="mirostat", hint="2")
    values: dict[str, Any] = {
        "mirostat": mirostat,
        "dry_sequence_breakers": _breakers(params.dry_sequence_breakers),
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
            values[name] = integer(name, value, lowest, highest)
    for name, low, high in _NUMBERS:
        if (value := getattr(params, name)) is not None:
            values[name] = number(name, value, low, high)
    _check_together(values, detokenize=params.detokenize)
    _check_structure(values, ignore_eos=params.ignore_eos)
    return values


def _check_together(values: dict[str, Any], *, detokenize: bool) -> None:
    """Rules about an open end of a range, or about two fields."""
    if values.get("top_p") == 0:
        raise RequestError(
            "top_p must be above 0", field="top_p", hint="temperature=0 is greedy decoding"
        )
    for name in ("repetition_penalty", "typical_p"):
        if values.get(name) == 0:
            raise RequestError(f"{name} must be above 0", field=name, hint="1 is neutral")
    if values.get("abstain_below") == 0:
        raise RequestError(
            "abstain_below must be above 0", field="abstain_below", hint="None never abstains"
        )
    if values["mirostat"] and values["mirostat_tau"] == 0:
        raise RequestError("mirostat_tau must be above 0", field="mirostat_tau")
    if values["stop"] and not detokenize:
        raise RequestError(
            "stop needs text", field="stop", hint="use stop_token_ids, or drop detokenize=False"
        )
    if values["max_tokens"] == 0 and values.get("prompt_logprobs") is None:
        raise RequestError(
            "max_tokens=0 generates nothing",
            field="max_tokens",
            hint="ask for at least 1, or for prompt_logprobs",
        )
    limit, least = values["max_tokens"], values["min_tokens"]
    if isinstance(limit, int) and least > limit:
        raise RequestError(
            f"min_tokens={least} is more than max_tokens={limit}", field="min_tokens"
        )


def _check_structure(values: dict[str, Any], *, ignore_eos: bool) -> None:
    given = [name for name in STRUCTURES if values[name] is not None]
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
    return None if value is None else text(name, value)


def _choices(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise RequestError("choices must be a list of strings, not a string", field="choices")
    choices = items("choices", value, MAX_CHOICES)
    for entry in choices:
        if not isinstance(entry, str):
            raise RequestError(f"choices must hold strings, not {shown(entry)}", field="choices")
        text("choices", entry)
    return choices


def _breakers(value: object) -> tuple[str, ...]:
    name = "dry_sequence_breakers"
    breakers = items(name, [value] if isinstance(value, str) else value, MAX_STOPS)
    for entry in breakers:
        if not isinstance(entry, str) or not entry:
            raise RequestError(f"{name} must hold texts, not {shown(entry)}", field=name)
        text(name, entry, limit=MAX_STOP_BYTES)
    return breakers


def _max_tokens(value: object) -> object:
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    if isinstance(value, str):
        raise RequestError(
            f'max_tokens must be a whole number, "auto" or None, not {shown(value)}',
            field="max_tokens",
        )
    return integer("max_tokens", value, 0, INT32_MAX)


def _stop_strings(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = items("stop", [value] if isinstance(value, str) else value, MAX_STOPS)
    for string in strings:
        if not isinstance(string, str):
            raise RequestError(
                f"stop must hold strings, not {shown(string)}",
                field="stop",
                hint="token ids go into stop_token_ids",
            )
        if not string:
            raise RequestError("a stop string is empty: it would stop at once", field="stop")
        if (
            len(string) > MAX_STOP_BYTES  # before it is encoded
            or len(string.encode("utf-8", "surrogatepass")) > MAX_STOP_BYTES
        ):
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
        if isinstance(key, str) and not key:
            raise RequestError("a text of logit_bias is empty", field="logit_bias")
        name = (
            text("logit_bias", key, limit=MAX_STOP_BYTES)
            if isinstance(key, str)
            else integer("logit_bias", key, 0, INT32_MAX)
        )
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
            words.append(text("bad_words", word, limit=MAX_STOP_BYTES))
        else:
            ids = items("bad_words", word, MAX_STOP_BYTES)
            words.append(tuple(integer("bad_words", entry, 0, INT32_MAX) for entry in ids))
        if not words[-1]:
            raise RequestError("a bad word is empty", field="bad_words")
    return tuple(words)
