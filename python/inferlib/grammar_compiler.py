"""Structured output, compiled for one model: the same description once for many requests."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING

from . import _core
from .errors import GrammarError, RequestError
from .sampling_checks import STRUCTURES

if TYPE_CHECKING:
    from .sampling_params import SamplingParams

MAX_MESSAGE = 400
MAX_KEPT = 64
"""Compiled descriptions that are kept for further requests; the least recently used one goes."""
MAX_KEPT_BYTES = 256 << 20
"""What they take together; the latest one is kept whatever it takes."""


class GrammarCompiler:
    """Compiles what requests ask of their texts. Any thread may use it.

    Args:
        tokenizer: ``None`` if the checkpoint has none: then nothing can be asked.
        eos_token_ids: Tokens that end a sequence.
        vocab_size: Number of logits.
    """

    def __init__(
        self, tokenizer: _core.Tokenizer | None, eos_token_ids: tuple[int, ...], vocab_size: int
    ) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._vocab_size = vocab_size
        self._grammars: _core.Grammars | None = None
        self._kept: collections.OrderedDict[object, _core.Grammar] = collections.OrderedDict()
        self._lock = threading.Lock()

    def compile(self, params: SamplingParams) -> _core.Grammar | None:
        """Return the grammar of a request; ``None`` if its text is free.

        Raises:
            GrammarError: The description is malformed, not supported or satisfied by no text.
            RequestError: This model has no tokenizer.
        """
        field = next((name for name in STRUCTURES if getattr(params, name) is not None), None)
        if field is None:
            return None
        if self._tokenizer is None:
            raise RequestError(
                "this model has no tokenizer, so its text cannot be structured", field=field
            )
        key = (field, getattr(params, field))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._grammars is None:
                self._grammars = _core.Grammars(
                    self._tokenizer, list(self._eos_token_ids), self._vocab_size
                )
        try:
            grammar = _compile(self._grammars, params)  # may take long: nobody else waits for it
        except GrammarError as error:  # it may hold the whole description
            error.args = tuple(_shortened(str(arg)) for arg in error.args)
            raise
        with self._lock:
            self._kept[key] = grammar
            self._bound_kept()
        return grammar

    def _bound_kept(self) -> None:
        num_bytes = sum(grammar.num_bytes for grammar in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > MAX_KEPT or num_bytes > MAX_KEPT_BYTES):
            _, oldest = self._kept.popitem(last=False)
            num_bytes -= oldest.num_bytes


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"


def _compile(grammars: _core.Grammars, params: SamplingParams) -> _core.Grammar:
    if params.output_schema is not None:
        return grammars.json_schema(params.output_schema.json)
    if params.choices is not None:
        return grammars.choices(list(params.choices))
    if params.regex is not None:
        return grammars.regex(params.regex)
    return grammars.lark(str(params.grammar))
