"""llama.cpp through the C API of ``llama-cpp-python``: batches are built before the clock starts.

Its favourable case: flash attention on, one context per workload made for it, sequences of equal
length advance in lockstep, and no sampler runs (the other engines choose tokens themselves).
"""

from __future__ import annotations

import ctypes
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bench.divergence import TopLogprobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .protocol import Prompt

BATCH_TOKENS = 2048
FILLER = 1000
"""Any ordinary token: what decode is fed, since speed does not depend on it."""


class Engine:
    """One GGUF file in llama.cpp."""

    def __init__(self, model: str, *, threads: int) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self.version = llama_cpp.__version__
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(
            model.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {model}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)

    # What is measured

    def first_token(self, text: str) -> None:
        """Tokenize, prefill, take the best token."""
        data = text.encode()
        buffer = (self._lib.llama_token * (len(data) + 8))()
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), buffer, len(buffer), True, True
        )
        with self._context(1, 2048) as context:
            self._run(context, self._rows([list(buffer[:count])]))
            int(self._logits(context, 1).argmax())

    def prefill(self, prompt: Prompt) -> float:
        """One call for the whole prompt, after a call for one token has warmed the context."""
        with self._context(1, len(prompt)) as context:
            self._run(context, self._rows([[FILLER]]))
            self._clear(context)
            return self._run(context, self._rows([prompt]))

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """All sequences by one token per call."""
        with self._context(len(prompts), len(prompts[0]) + num_tokens) as context:
            self._prefill_all(context, prompts)
            return self._decode_all(context, len(prompts), len(prompts[0]), num_tokens) / num_tokens

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """Prompts in calls of up to ``BATCH_TOKENS``, then all together to the end."""
        length = len(prompts[0])
        with self._context(len(prompts), length + num_tokens) as context:
            self._run(context, self._rows([[FILLER]]))
            self._clear(context)
            seconds = self._prefill_all(context, prompts)
            return seconds + self._decode_all(context, len(prompts), length, num_tokens - 1)

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """Logits of every position."""
        with self._context(1, len(token_ids)) as context:
            self._run(context, self._rows([token_ids], all_logits=True))
            logits = self._logits(context, len(token_ids))
            return TopLogprobs.from_logits(logits[:-1], top)

    # Contexts and batches

    @contextmanager
    def _context(self, num_seqs: int, length: int) -> Iterator[ctypes.c_void_p]:
        """Room for ``num_seqs`` sequences of ``length`` tokens."""
        params = self._lib.llama_context_default_params()
        params.n_ctx = num_seqs * (-(-length // 256) * 256)  # each sequence has its own part
        params.n_batch = BATCH_TOKENS
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self._threads
        params.n_seq_max = num_seqs
        params.flash_attn_type = 1
        params.kv_unified = False
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise MemoryError(f"llama.cpp cannot make a context of {params.n_ctx} tokens")
        try:
            yield context
        finally:
            self._lib.llama_free(context)

    def _clear(self, context: ctypes.c_void_p) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context), True)

    def _rows(
        self,
        prompts: list[Prompt],
        *,
        first_seq: int = 0,
        position: int = 0,
        all_logits: bool = False,
    ) -> object:
        """A batch of prompts, sequence after sequence; logits for the last token of each."""
        count = sum(map(len, prompts))
        batch = self._lib.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        row = 0
        for seq, prompt in enumerate(prompts, first_seq):
            for offset, token in enumerate(prompt):
                batch.token[row] = token
                batch.pos[row] = position + offset
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = seq
                batch.logits[row] = all_logits or offset == len(prompt) - 1
                row += 1
        return batch

    def _run(self, context: ctypes.c_void_p, batch: object) -> float:
        """Seconds of one call; the batch is freed."""
        start = time.perf_counter()
        status = self._lib.llama_decode(context, batch)
        self._lib.llama_synchronize(context)
        seconds = time.perf_counter() - start
        self._lib.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return seconds

    def _prefill_all(self, context: ctypes.c_void_p, prompts: list[Prompt]) -> float:
        per_call = max(BATCH_TOKENS // len(prompts[0]), 1)
        return sum(
            self._run(context, self._rows(prompts[first : first + per_call], first_seq=first))
            for first in range(0, len(prompts), per_call)
        )

    def _decode_all(
        self, context: ctypes.c_void_p, num_seqs: int, length: int, num_tokens: int
    ) -> float:
        return sum(
            self._run(context, self._rows([[FILLER]] * num_seqs, position=length + step))
            for step in range(num_tokens)
        )

    def _logits(self, context: ctypes.c_void_p, rows: int) -> NDArray[np.float32]:
        pointer = self._lib.llama_get_logits(context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab_size))
