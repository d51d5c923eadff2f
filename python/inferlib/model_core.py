"""What all calls of a model stand on: its parts, and requests run to their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .call_options import CallOptions, split_options
from .config import format_bytes
from .errors import ModelError, RequestError
from .in_thread import in_thread
from .output_reading import OutputReader
from .progress import progress_of
from .prompts import encode_prompt, is_one_prompt
from .results import completion_of
from .thinking import ThinkingBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self

    from ._core import Tokenizer
    from .assembly import ModelParts
    from .completion import Completion
    from .engine import Engine
    from .output_syntax.parser import OutputReading
    from .prompts import EncodedPrompt
    from .request import Request
    from .sampling_params import SamplingParams
    from .stats import ModelStats

    TokenText = Callable[[int], str | None]

PROGRESS_SECONDS = 0.1


class ModelCore:
    """A model without its calls."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._token_texts: dict[int, str] = {}
        self._output_reader = OutputReader(parts.checkpoint.chat_template_text, self.tokenizer)

    # About the model

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Text to token ids and back; ``None`` if the checkpoint has none."""
        return self._parts.checkpoint.tokenizer

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens, prompt and output."""
        return self._parts.builder.max_model_len

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._engine.is_closed

    def stats(self) -> ModelStats:
        """Count requests, tokens and KV blocks, now and since loading.

        Raises:
            ClosedError: The model is closed.
        """
        stats = self._engine.stats()
        quantization = self._parts.checkpoint.quantization
        if quantization is not None:
            stats["details"]["quantization"] = dict(quantization)
        return stats

    def __repr__(self) -> str:
        parts = self._parts
        state = ", closed" if self.is_closed else ""
        return (
            f"<Model {parts.checkpoint.name}: {parts.checkpoint.spec.architecture}, "
            f"context {self.max_model_len:,}, "
            f"KV cache {parts.builder.kv_cache_tokens:,} tokens "
            f"({format_bytes(parts.kv_cache_bytes)}), "
            f"precision {parts.config.precision}{state}>"
        )

    # The end

    def close(self) -> None:
        """Give memory and threads back; requests that still run fail with ``ClosedError``.

        May be called again. ``with`` and ``del`` do the same.
        """
        self._engine.close()

    async def aclose(self) -> None:
        """``close`` without blocking the event loop."""
        await in_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        """Close a model that nobody can use any more: streams and handles keep it alive."""
        engine = getattr(self, "_engine", None)  # absent if loading failed
        if engine is not None:
            engine.close_finally()

    # From arguments to requests

    def _requests(
        self, prompt: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[bool, list[Request]]:
        """Whether ``prompt`` is one prompt, not a list; and a request per prompt."""
        self._engine.check_usable()
        sampling, call, _ = split_options(params, options, CallOptions.__annotations__)
        one = is_one_prompt(prompt)
        prompts = [prompt] if one else cast("Sequence[object]", prompt)
        encoded = [self._encoded(each) for each in prompts]
        return one, self._build(encoded, sampling, call)

    def _encoded(self, prompt: object) -> EncodedPrompt:
        if isinstance(prompt, str):
            self._parts.builder.limits.check_prompt(prompt)
        return encode_prompt(prompt, self.tokenizer, max_model_len=self.max_model_len)

    def _build(
        self, prompts: Sequence[EncodedPrompt], params: SamplingParams, call: Mapping[str, Any]
    ) -> list[Request]:
        return [self._parts.builder.build(prompt, params, **call) for prompt in prompts]

    def _thinking_budget(
        self, limit: object, reading: OutputReading | None, unfinished: str | None
    ) -> ThinkingBudget | None:
        """What a conversation's answer may spend on reasoning; ``None``: as much as it likes.

        Raises:
            RequestError: The number is none, or nothing marks the reasoning.
        """
        if limit is None or self.tokenizer is None:
            return None
        return ThinkingBudget(
            limit,
            reading,
            unfinished=unfinished,
            tokenizer=self.tokenizer,
            token_text=self._token_text,
        )

    # From requests to results

    def _run(self, requests: list[Request], *, progress: bool | None) -> list[Completion]:
        """Run requests to their ends; if that fails or is interrupted, cancel them all."""
        bar = progress_of(len(requests), progress=progress)
        try:
            self._engine.submit(requests)
            if bar is None:
                self._engine.wait(requests)
            else:
                with bar:
                    while not self._engine.wait(requests, timeout_seconds=PROGRESS_SECONDS):
                        bar.show(sum(request.is_done for request in requests))
                    bar.show(len(requests))
            return [completion_of(request, self._token_text) for request in requests]
        except BaseException:
            self._engine.cancel(requests)
            raise

    async def _arun(self, requests: list[Request]) -> list[Completion]:
        try:
            self._engine.submit(requests)
            await self._engine.wait_async(requests)
            return [completion_of(request, self._token_text) for request in requests]
        except BaseException:
            self._engine.cancel(requests)
            raise

    def _one_request(
        self, prompt: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> Request:
        self._engine.check_usable()
        if not is_one_prompt(prompt):
            raise not_one("prompt")
        return self._requests(prompt, params, options)[1][0]

    def _pending(self, request: Request) -> tuple[Engine, Request, TokenText, ModelCore]:
        """What a stream or handle is made from."""
        return self._engine, request, self._token_text, self

    def _fingerprint(self) -> dict[str, str]:
        """What results depend on; hashes the weights the first time.

        Raises:
            ModelError: The files were changed or removed since the model was loaded.
        """
        origin = self._parts.builder.origin
        if origin is None:
            raise ModelError("a pretended model has no weights to identify it by")
        return origin.fingerprint()

    def _token_text(self, token_id: int) -> str | None:
        """Text of one token by itself, for ``Logprob.decoded_token``."""
        if self.tokenizer is None:
            return None
        text = self._token_texts.get(token_id)
        if text is None:
            text = self.tokenizer.decode([token_id], skip_special=False)
            self._token_texts[token_id] = text
        return text


def not_one(field: str) -> RequestError:
    """Return the error about several prompts or conversations where one is wanted."""
    return RequestError(
        "this call takes one prompt or conversation, not a list",
        field=field,
        hint="call it once per prompt: requests that overlap run as one batch",
    )
