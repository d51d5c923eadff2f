"""``SamplingParams`` as the scheduler has them: numbers and token ids, no text."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ._core import SamplingParams as SchedulerParams
from .errors import RequestError
from .prompts import encode_text
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._core import Tokenizer
    from .sampling_params import SamplingParams


def scheduler_params(
    params: SamplingParams, tokenizer: Tokenizer | None, eos_token_ids: Sequence[int]
) -> SchedulerParams:
    """Return the same for the scheduler; resolved, so none of the casts hides a ``None``.

    Args:
        params: With every default filled in, and biases by token id.
        tokenizer: The model's.
        eos_token_ids: Tokens that end its sequences.

    Raises:
        RequestError: An option names text, and there is no tokenizer.
    """
    bias = cast("Mapping[int, float]", params.logit_bias or {})
    return SchedulerParams(
        temperature=cast("float", params.temperature),
        top_k=params.top_k or None,
        top_p=cast("float", params.top_p),
        min_p=cast("float", params.min_p),
        top_n_sigma=params.top_n_sigma or None,
        typical_p=cast("float", params.typical_p),
        xtc_probability=params.xtc_probability,
        xtc_threshold=params.xtc_threshold,
        mirostat=(params.mirostat_tau, params.mirostat_eta) if params.mirostat else None,
        no_repeat_ngram_size=cast("int", params.no_repeat_ngram_size),
        dry=_dry(params, tokenizer),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=cast("float", params.repetition_penalty),
        min_tokens=params.min_tokens,
        max_tokens=cast("int", params.max_tokens),
        eos_token_ids=[] if params.ignore_eos else list(eos_token_ids),
        stop_token_ids=list(params.stop_token_ids),
        logit_bias=list(bias.items()),
        allowed_token_ids=(
            None if params.allowed_token_ids is None else list(params.allowed_token_ids)
        ),
        bad_words=bad_word_ids(params, tokenizer),
        logprobs=num_logprobs(params),
        prompt_logprobs=params.prompt_logprobs,
        prompt_logprobs_start=params.prompt_logprobs_start,
        logprobs_mode=params.logprobs_mode,
    )


def logit_bias(params: SamplingParams, tokenizer: Tokenizer | None) -> dict[int, float] | None:
    """Return biases by token id: a text is one token at the beginning, after a space, or both.

    Raises:
        RequestError: A text is no single token, or there is no tokenizer.
    """
    if params.logit_bias is None:
        return None
    biases: dict[int, float] = {}
    for key, bias in params.logit_bias.items():
        for token_id in [key] if isinstance(key, int) else _tokens_of(key, tokenizer):
            biases[token_id] = biases.get(token_id, 0.0) + bias
    return biases


def bad_word_ids(params: SamplingParams, tokenizer: Tokenizer | None) -> list[list[int]]:
    """Return bad words as token runs: a string at the beginning of a text and after a space.

    Raises:
        RequestError: A word is text, and there is no tokenizer.
    """
    runs: list[list[int]] = []
    for word in params.bad_words or ():
        if not isinstance(word, str):
            runs.append(list(word))
            continue
        if tokenizer is None:
            raise RequestError(
                "this model has no tokenizer, so bad_words must be token ids",
                field="bad_words",
            )
        for written in (word, f" {word.lstrip()}"):
            run = encode_text(written, tokenizer, add_special_tokens=False)
            if run and run not in runs:
                runs.append(run)
    return runs


def num_logprobs(params: SamplingParams) -> int | None:
    """Return how many of the most likely tokens are reported beside each one's own.

    ``None``: not even a token's own log-probability is.
    """
    if params.logprobs is None and params.abstain_below is not None:
        return 0
    return params.logprobs


def _dry(
    params: SamplingParams, tokenizer: Tokenizer | None
) -> tuple[float, float, int, int | None, list[int]] | None:
    if not params.dry_multiplier:
        return None
    breakers: list[int] = []
    if tokenizer is not None:
        runs = (f"a{breaker}" for breaker in params.dry_sequence_breakers)
        breakers = [encode_text(run, tokenizer, add_special_tokens=False)[-1] for run in runs]
    return (
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        params.dry_penalty_last_n,
        breakers,
    )


def _tokens_of(text: str, tokenizer: Tokenizer | None) -> list[int]:
    if tokenizer is None:
        raise RequestError(
            "this model has no tokenizer, so logit_bias must be by token id",
            field="logit_bias",
        )
    texts = dict.fromkeys((text, f" {text.lstrip()}"))
    runs = [encode_text(each, tokenizer, add_special_tokens=False) for each in texts]
    found = list(dict.fromkeys(run[0] for run in runs if len(run) == 1))
    if not found:
        raise RequestError(
            f"no token is {shown(text)}, which is {len(runs[0])} tokens: {runs[0][:8]}",
            field="logit_bias",
            hint="give biases by token id",
        )
    return found
