"""inferlib, through its public API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.divergence import TopLogprobs

if TYPE_CHECKING:
    from .protocol import Prompt

GREEDY = {"temperature": 0, "ignore_eos": True}
LEAD = 64
"""So many tokens longer than the last sequence may the others run, which began before it."""


class Engine:
    """One model, with ``from_pretrained``'s options.

    Drafting is off unless ``options`` say otherwise: random prompts make small models repeat
    themselves, which drafts would turn into a better figure than ordinary text gives.
    """

    def __init__(self, model: str, *, threads: int, **options: Any) -> None:
        import inferlib

        self.version = inferlib.__version__
        self._model = inferlib.Model.from_pretrained(model, threads=threads, **options)

    def first_token(self, text: str) -> None:
        """Tokenize, prefill, choose."""
        self._model.generate(text, max_tokens=1, **GREEDY)

    def prefill(self, prompt: Prompt) -> float:
        """A call for one new token."""
        start = time.perf_counter()
        self._model.generate(prompt, max_tokens=1, **GREEDY)
        return time.perf_counter() - start

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """The last sequence's time per token: it begins when all others are decoding already.

        The others may run longer than it does, and are cancelled when it ends.
        """
        *others, last = prompts
        handles = [
            self._model.submit(prompt, max_tokens=num_tokens + LEAD, **GREEDY) for prompt in others
        ]
        completion = self._model.submit(last, max_tokens=num_tokens + 1, **GREEDY).result()
        ended = [handle for handle in handles if not handle.cancel()]
        if ended:
            raise RuntimeError("a sequence ended before the last one did")
        latency = completion.timings.inter_token_latency
        if latency is None:
            raise RuntimeError("no token was decoded")
        return latency

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """One call for all prompts."""
        start = time.perf_counter()
        self._model.generate(prompts, max_tokens=num_tokens, progress=False, **GREEDY)
        return time.perf_counter() - start

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """Log-probabilities of the prompt's positions; at most 1,000 of each."""
        completion = self._model.generate(
            token_ids, max_tokens=0, prompt_logprobs=top, temperature=0
        )
        rows = [row for row in completion.prompt_logprobs or () if row is not None]
        ids = np.empty((len(rows), top), np.int32)
        logprobs = np.empty((len(rows), top), np.float32)
        for position, row in enumerate(rows):
            best = sorted(row.items(), key=lambda item: -item[1].logprob)[:top]
            ids[position] = [token for token, _ in best]
            logprobs[position] = [entry.logprob for _, entry in best]
        return TopLogprobs(ids, logprobs)

    # What only inferlib is asked

    def encode(self, text: str) -> Prompt:
        """Token ids of a text, without special tokens."""
        assert self._model.tokenizer is not None
        return self._model.tokenizer.encode(text, add_special=False).tolist()

    def beginning(self) -> Prompt:
        """Token ids that every sequence begins with: BOS, if the vocabulary wants it."""
        assert self._model.tokenizer is not None
        return self._model.tokenizer.encode("").tolist()

    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads."""
        return self._model.stats()["details"]["weight_bytes"]
