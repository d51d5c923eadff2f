"""vLLM's CPU build: cannot read GGUF on a CPU, so it runs the dequantized weights in bfloat16."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.divergence import TopLogprobs

if TYPE_CHECKING:
    from .protocol import Prompt

FIRST_PROMPT = [6403, 2406, 260, 655]
"""For ``first_token``: the folder has no tokenizer."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class Engine:
    """One folder in an ``LLM``, in this process.

    Args:
        model: GGUF file.
        threads: OpenMP threads, bound to the first cores.
        folder: Where the Hugging Face folder lies; it is made if it is not there.
    """

    def __init__(self, model: str, *, threads: int, folder: str) -> None:
        if not (Path(folder) / "config.json").exists():
            from .hf_folder import write

            write(model, folder)
        bound = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0"}
        os.environ.update(ENVIRONMENT | bound)
        import vllm

        self.version = vllm.__version__
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(
            folder,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=2304,
            max_num_seqs=64,
            max_logprobs=1000,
            enable_prefix_caching=False,
        )
        self._ids = itertools.count()

    def first_token(self, text: str) -> None:
        """One token after a short prompt."""
        del text
        self._generate([FIRST_PROMPT], 1)

    def prefill(self, prompt: Prompt) -> float:
        """A call for one new token."""
        return self.serve([prompt], 1)

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """Steps of the engine, once every sequence has its first token."""
        engine = self._llm.llm_engine
        names = [str(next(self._ids)) for _ in prompts]
        params = self._sampling(num_tokens + 64)
        for name, prompt in zip(names, prompts, strict=True):
            engine.add_request(name, {"prompt_token_ids": prompt}, params)
        waiting = len(prompts)
        begun: set[str] = set()
        while len(begun) < waiting:
            begun |= {output.request_id for output in engine.step() if output.outputs}
        start = time.perf_counter()
        for _ in range(num_tokens):
            engine.step()
        seconds = time.perf_counter() - start
        engine.abort_request(names)
        while engine.has_unfinished_requests():
            engine.step()
        return seconds / num_tokens

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """One call for all prompts."""
        start = time.perf_counter()
        self._generate(prompts, num_tokens)
        return time.perf_counter() - start

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """Log-probabilities of the prompt's positions."""
        params = self._sampling(1, prompt_logprobs=top)
        (output,) = self._llm.generate([{"prompt_token_ids": token_ids}], params, use_tqdm=False)
        rows = [row for row in output.prompt_logprobs if row]
        best = [sorted(row.items(), key=lambda item: -item[1].logprob)[:top] for row in rows]
        return TopLogprobs(
            np.array([[token for token, _ in row] for row in best], np.int32),
            np.array([[entry.logprob for _, entry in row] for row in best], np.float32),
        )

    def _sampling(self, num_tokens: int, **options: Any) -> Any:
        return self._params(
            temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False, **options
        )

    def _generate(self, prompts: list[Prompt], num_tokens: int) -> None:
        self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            self._sampling(num_tokens),
            use_tqdm=False,
        )
