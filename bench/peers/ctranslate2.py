"""CTranslate2: cannot read GGUF, so its model is made from the same file's dequantized weights.

``--options '{"folder": …}'`` is where the converted model lies; it is made if it is not there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.divergence import TopLogprobs

if TYPE_CHECKING:
    from .protocol import Prompt

COMPUTE_TYPE = "int8"
FIRST_PROMPT = [6403, 2406, 260, 655]
"""For ``first_token``: CTranslate2 has no tokenizer."""


class Engine:
    """One converted model in a ``Generator``."""

    def __init__(self, model: str, *, threads: int, folder: str) -> None:
        import ctranslate2

        self._lib = ctranslate2
        self.version = ctranslate2.__version__
        if not (Path(folder) / "model.bin").exists():
            from .ctranslate2_model import convert

            convert(model, folder)
        self._tokens = json.loads((Path(folder) / "vocabulary.json").read_text(encoding="utf8"))
        self._generator = ctranslate2.Generator(
            folder, device="cpu", intra_threads=threads, inter_threads=1, compute_type=COMPUTE_TYPE
        )

    def first_token(self, text: str) -> None:
        """One token after a short prompt."""
        del text
        self._generate([FIRST_PROMPT], 1)

    def prefill(self, prompt: Prompt) -> float:
        """A call for one new token."""
        start = time.perf_counter()
        self._generate([prompt], 1)
        return time.perf_counter() - start

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """Time stamps of the generator's steps; its callback is called per sequence and step."""
        moments: dict[int, float] = {}

        def step(result: Any) -> bool:
            moments[result.step] = time.perf_counter()  # of the step's last sequence
            return False

        self._generate(prompts, num_tokens + 1, callback=step)
        return (moments[max(moments)] - moments[min(moments)]) / (len(moments) - 1)

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """One call for all prompts."""
        start = time.perf_counter()
        self._generate(prompts, num_tokens)
        return time.perf_counter() - start

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """Logits of every position."""
        ids = self._lib.StorageView.from_array(np.array([token_ids], np.int32))
        lengths = self._lib.StorageView.from_array(np.array([len(token_ids)], np.int32))
        logits = np.array(self._generator.forward_batch(ids, lengths))[0]
        return TopLogprobs.from_logits(logits[:-1].astype(np.float32), top)

    def _generate(self, prompts: list[Prompt], num_tokens: int, **options: Any) -> None:
        results = self._generator.generate_batch(
            [[self._tokens[token] for token in prompt] for prompt in prompts],
            max_length=num_tokens,
            min_length=num_tokens,
            include_prompt_in_result=False,
            sampling_topk=1,
            end_token="<|endoftext|>",
            **options,
        )
        counts = {len(result.sequences_ids[0]) for result in results}
        if counts != {num_tokens}:
            raise RuntimeError(f"asked for {num_tokens} tokens, got {sorted(counts)}")
