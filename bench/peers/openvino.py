"""OpenVINO GenAI: reads the same GGUF file, runs what its defaults choose for this processor."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.divergence import TopLogprobs

if TYPE_CHECKING:
    from .protocol import Prompt


class Engine:
    """One GGUF file in an ``LLMPipeline``.

    Args:
        model: GGUF file.
        threads: Inference threads.
        save_dir: Where OpenVINO may keep the converted model. Only ``score`` needs it: the pipeline
            gives out no logits, so the saved model is run without it, with the same settings.
    """

    def __init__(self, model: str, *, threads: int, save_dir: str | None = None) -> None:
        import openvino
        import openvino_genai

        self._openvino, self._genai = openvino, openvino_genai
        self.version = openvino_genai.get_version()
        self._settings = {"INFERENCE_NUM_THREADS": threads}
        self._save_dir = None if save_dir is None else Path(save_dir)
        self._scorer: Any = None
        self._pipeline = openvino_genai.LLMPipeline(model, "CPU", **self._settings)
        self._path = model

    # What is measured

    def first_token(self, text: str) -> None:
        """Tokenize, prefill, choose."""
        config = self._config(1)
        self._pipeline.generate(text, config)

    def prefill(self, prompt: Prompt) -> float:
        """A call for one new token."""
        return self._generate([prompt], 1)[0]

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """From the pipeline's own time stamps, where all sequences were in the batch."""
        _, metrics = self._generate(prompts, num_tokens + 1)
        raw = metrics.raw_metrics
        times = [float(moment) for moment in raw.m_new_token_times]
        together = [
            moment
            for moment, size in zip(times, raw.m_batch_sizes, strict=True)
            if size == len(prompts)
        ]
        if len(together) < num_tokens // 2:
            raise RuntimeError("the sequences were not decoded together")
        return (together[-1] - together[0]) / (len(together) - 1) / 1e3

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """One call for all prompts."""
        return self._generate(prompts, num_tokens)[0]

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """Logits of every position from the converted model."""
        if self._scorer is None:
            self._scorer = self._compile_scorer()
        ids = np.array([token_ids], np.int64)
        self._scorer.reset_state()
        outputs = self._scorer.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.arange(ids.size)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return TopLogprobs.from_logits(next(iter(outputs.values()))[0, :-1], top)

    # The pipeline

    def _config(self, num_tokens: int) -> Any:
        return self._genai.GenerationConfig(
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            ignore_eos=True,
            do_sample=False,
            apply_chat_template=False,
        )

    def _generate(self, prompts: list[Prompt], num_tokens: int) -> tuple[float, Any]:
        """Seconds and OpenVINO's own measurements; all prompts have one length."""
        ids = np.array(prompts, np.int64)
        inputs = self._genai.TokenizedInputs(
            self._openvino.Tensor(ids), self._openvino.Tensor(np.ones_like(ids))
        )
        config = self._config(num_tokens)
        start = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        return time.perf_counter() - start, result.perf_metrics

    def _compile_scorer(self) -> Any:
        if self._save_dir is None:
            raise NotImplementedError("the pipeline gives out no logits")
        model = self._save_dir / "openvino_model.xml"
        if not model.exists():
            self._save_model()
        core = self._openvino.Core()
        return core.compile_model(model, "CPU", self._settings).create_infer_request()

    def _save_model(self) -> None:
        """OpenVINO writes the converted model beside the GGUF file, so give it one of its own."""
        assert self._save_dir is not None
        self._save_dir.mkdir(parents=True, exist_ok=True)
        copy = self._save_dir / "model.gguf"
        if not copy.exists():
            try:
                os.link(self._path, copy)
            except OSError:
                shutil.copyfile(self._path, copy)
        self._genai.LLMPipeline(str(copy), "CPU", enable_save_ov_model=True, **self._settings)
