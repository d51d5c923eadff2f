"""A language model in this process: the class that callers use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from .call_options import CallOptions, ChatCallOptions, LoadOptions, split_options
from .chat import encode_conversation, is_one_conversation
from .config import EngineConfig, KvCacheSize, format_bytes
from .errors import RequestError
from .in_thread import in_thread
from .progress import progress_of
from .prompts import encode_prompt, is_one_prompt
from .results import completion_of
from .stream import AsyncStream, Handle, Stream
from .validation import check_keywords

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Never, Self

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Tokenizer
    from .assembly import ModelParts
    from .chat import Message
    from .completion import Completion
    from .config import DeviceChoice, Driver, KvCacheDtype, Precision, Speculation
    from .engine import Engine
    from .prompts import EncodedPrompt
    from .request import Request
    from .sampling_params import SamplingParams
    from .stats import ModelStats

    TokenText = Callable[[int], str | None]
    Prompt = str | list[int] | NDArray[np.integer[Any]]
    Prompts = list[str] | list[list[int]] | list[NDArray[np.integer[Any]]]
    MixedPrompts = list[str | list[int]]

PROGRESS_SECONDS = 0.1
LONG_TEXT_CHARACTERS = 100_000
"""Longer prompts are encoded in a thread by the asynchronous calls."""


class Model:
    """A language model, loaded by ``Model.from_pretrained``.

    All calls may be made from any thread and any event loop at the same time; requests that
    overlap run as one batch. Each call has an asynchronous twin. Options of ``SamplingParams`` are
    accepted as keywords, over those of ``params``.

        >>> with Model.from_pretrained("smollm2") as model:  # doctest: +SKIP
        ...     print(model.chat([{"role": "user", "content": "Hi!"}], temperature=0).text)
    """

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._token_texts: dict[int, str] = {}

    # Loading

    @classmethod
    def from_pretrained(  # noqa: PLR0913  # each is independent of the others
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: DeviceChoice = "auto",
        precision: Precision = "fast",
        kv_cache_dtype: KvCacheDtype = "auto",
        kv_cache: str | KvCacheSize = "auto",
        max_model_len: int | None = None,
        threads: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 512,
        enable_prefix_caching: bool = True,
        packed_cache: str | os.PathLike[str] | None = None,
        speculation: Speculation = "auto",
        chat_template: str | None = None,
        mmap: bool = True,
        driver: Driver = "caller",
        **unknown: Never,
    ) -> Self:
        """Load a model.

        Args:
            name_or_path: A directory in Hugging Face's layout, a ``.gguf`` file, or the alias of
                an installed model package (``"smollm2"``).
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; see ``EngineConfig``.
            precision: ``"fast"``, ``"balanced"`` or ``"exact"``; see ``EngineConfig``.
            kv_cache_dtype: What keys and values are stored as: ``"f16"``, ``"bf16"``, ``"int8"``,
                ``"f32"`` or ``"auto"``; see ``EngineConfig``.
            kv_cache: Memory for keys and values: ``"2GiB"``, ``"64k tokens"`` or ``"auto"``.
            max_model_len: Longest sequence in tokens; ``None`` is what the model was made for.
            threads: CPU threads; ``None`` is one per usable core.
            max_num_seqs: Sequences in one step at most.
            max_num_batched_tokens: Tokens in one step at most.
            enable_prefix_caching: Reuse the KV blocks of equal prompt beginnings.
            packed_cache: A folder, made if it is missing. The weights are packed into a file there
                once; later loads map it, without packing, and all processes that do share its
                memory. Files of models that changed or are no longer used stay until you delete
                them, which is safe at any time.
            speculation: ``"auto"``: where text repeats itself, several tokens are drafted and then
                verified in one pass. ``"off"``: never. A ``PromptLookup`` says how. The results are
                the same bit for bit.
            chat_template: Replaces the checkpoint's.
            mmap: Map the files while loading; ``False`` reads them, which needs more memory for a
                while and cannot be hurt by a file that changes.
            driver: ``"caller"``: whoever waits runs the steps, and nothing runs when nobody waits.
                ``"thread"``: a thread runs them while there is work; for servers.
            **unknown: Refused.

        Raises:
            ModelNotFoundError: There is no such file, directory or alias.
            ModelFormatError: A file is damaged or not what it claims to be.
            UnsupportedModelError: The architecture or a tensor type is not supported.
            OutOfMemoryError: The weights or the KV cache do not fit.
            RequestError: An argument is invalid; ``field`` names it.
        """
        from .assembly import assemble_from_files  # half of the time of `import inferlib`

        check_keywords(unknown, LoadOptions.__annotations__)
        config = EngineConfig(
            device=device,
            precision=precision,
            kv_cache_dtype=kv_cache_dtype,
            kv_cache=KvCacheSize.parse(kv_cache),
            max_model_len=max_model_len,
            threads=threads,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            packed_cache=packed_cache,  # type: ignore[arg-type]  # made a path there
            speculation=speculation,
            mmap=mmap,
            driver=driver,
        )
        return cls(assemble_from_files(name_or_path, config, chat_template=chat_template))

    @classmethod
    async def afrom_pretrained(
        cls, name_or_path: str | os.PathLike[str], **options: Unpack[LoadOptions]
    ) -> Self:
        """``from_pretrained`` in a thread of its own."""
        return await in_thread(partial(cls.from_pretrained, name_or_path, **options))

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[object, ...]]:
        """Pickle by path: the copy is loaded anew, in another process too."""
        parts = self._parts
        source = parts.checkpoint.source
        if source is None:
            raise TypeError("a model that was not loaded from a file cannot be pickled")
        return _load_again, (type(self), source, parts.config, parts.given_chat_template)

    # Generating

    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: MixedPrompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Prompts | MixedPrompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """Continue one prompt, or many as one batch.

        Args:
            prompt: Text or a list of token ids; or a list of these, also mixed.
            params: Options; ``None`` is the checkpoint's defaults.
            progress: Show a progress bar. ``None``: for a long list in a terminal or notebook.
            **options: As in ``SamplingParams``; also ``cache_salt``, ``priority`` and
                ``speculation="off"``.

        Returns:
            One ``Completion`` for one prompt, a list for a list (empty for an empty one).

        Raises:
            RequestError: A prompt or an option is invalid; ``field`` names it.
            PromptTooLongError: A prompt does not fit the context or the KV cache.
            InferlibError: A step failed, or the model was closed.
        """
        one, requests = self._requests(prompt, params, options)
        completions = self._run(requests, progress=progress)
        return completions[0] if one else completions

    @overload
    async def agenerate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompt: MixedPrompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    async def agenerate(
        self,
        prompt: Prompt | Prompts | MixedPrompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """``generate`` without blocking the event loop; cancelling the task cancels it."""
        prepare = partial(self._requests, prompt, params, options)
        one, requests = await in_thread(prepare) if _is_long(prompt) else prepare()
        completions = await self._arun(requests)
        return completions[0] if one else completions

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream:
        """Continue one prompt; iterate over the result for its deltas as they come.

        Raises:
            RequestError: The prompt or an option is invalid, at once.
        """
        return Stream(*self._pending(self._one(self._requests(prompt, params, options))))

    def astream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncStream:
        """``stream`` for ``async for``; not itself awaited.

        Raises:
            RequestError: The prompt or an option is invalid, at once.
        """
        return AsyncStream(*self._pending(self._one(self._requests(prompt, params, options))))

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Handle:
        """Queue one prompt and return at once; the handle has ``result()`` and can be awaited.

        Raises:
            RequestError: The prompt or an option is invalid.
        """
        return Handle(*self._pending(self._one(self._requests(prompt, params, options))))

    # Chatting

    @overload
    def chat(
        self,
        messages: list[Message] | list[dict[str, str]] | list[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: list[list[Message]] | list[list[dict[str, str]]] | list[list[dict[str, Any]]],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> list[Completion]: ...
    def chat(
        self,
        messages: Sequence[Any],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion | list[Completion]:
        """Answer a conversation, or many as one batch, through the model's chat template.

        Args:
            messages: ``[{"role": "user", "content": "…"}]``, or a list of such lists.
            params: Options; ``None`` is the checkpoint's defaults.
            progress: As for ``generate``.
            **options: As for ``generate``; also ``tools`` (handed to the template),
                ``chat_template_kwargs`` (further names that the template reads) and
                ``continue_final_message`` (the answer goes on with the assistant's last message).

        Raises:
            RequestError: A message or an option is invalid; ``field`` names it.
            TemplateError: There is no chat template, or it refuses the messages.
            InferlibError: A step failed, or the model was closed.
        """
        one, requests = self._chat_requests(messages, params, options)
        completions = self._run(requests, progress=progress)
        return completions[0] if one else completions

    @overload
    async def achat(
        self,
        messages: list[Message] | list[dict[str, str]] | list[dict[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        messages: list[list[Message]] | list[list[dict[str, str]]] | list[list[dict[str, Any]]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> list[Completion]: ...
    async def achat(
        self,
        messages: Sequence[Any],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion | list[Completion]:
        """``chat`` without blocking the event loop; cancelling the task cancels it."""
        prepare = partial(self._chat_requests, messages, params, options)
        one, requests = await in_thread(prepare)
        completions = await self._arun(requests)
        return completions[0] if one else completions

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Stream:
        """Answer one conversation; iterate over the result for its deltas as they come.

        Raises:
            RequestError: A message or an option is invalid, at once.
            TemplateError: There is no chat template, or it refuses the messages.
        """
        return Stream(*self._pending(self._one(self._chat_requests(messages, params, options))))

    def astream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> AsyncStream:
        """``stream_chat`` for ``async for``; not itself awaited.

        Raises:
            RequestError: A message or an option is invalid, at once.
            TemplateError: There is no chat template, or it refuses the messages.
        """
        return AsyncStream(
            *self._pending(self._one(self._chat_requests(messages, params, options)))
        )

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
        return self._engine.stats()

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

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        encoded = [encode_prompt(each, self.tokenizer) for each in prompts]
        return one, self._build(encoded, sampling, call)

    def _chat_requests(
        self, messages: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[bool, list[Request]]:
        """Whether ``messages`` is one conversation; and a request per conversation."""
        self._engine.check_usable()
        sampling, call, chat = split_options(params, options, ChatCallOptions.__annotations__)
        one = is_one_conversation(messages)
        conversations = cast("Sequence[Any]", [messages] if one else messages)
        encoded = [
            encode_conversation(each, self._parts.checkpoint.chat_template, self.tokenizer, **chat)
            for each in conversations
        ]
        return one, self._build(encoded, sampling, call)

    def _build(
        self, prompts: Sequence[EncodedPrompt], params: SamplingParams, call: Mapping[str, Any]
    ) -> list[Request]:
        return [self._parts.builder.build(prompt, params, **call) for prompt in prompts]

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

    def _one(self, one_and_requests: tuple[bool, list[Request]]) -> Request:
        one, requests = one_and_requests
        if not one:
            raise RequestError(
                "this call takes one prompt or conversation, not a list",
                field="prompt",
                hint="call it once per prompt: requests that overlap run as one batch",
            )
        return requests[0]

    def _pending(self, request: Request) -> tuple[Engine, Request, TokenText, Model]:
        """What a stream or handle is made from."""
        return self._engine, request, self._token_text, self

    def _token_text(self, token_id: int) -> str | None:
        """Text of one token by itself, for ``Logprob.decoded_token``."""
        if self.tokenizer is None:
            return None
        text = self._token_texts.get(token_id)
        if text is None:
            text = self.tokenizer.decode([token_id], skip_special=False)
            self._token_texts[token_id] = text
        return text


def _load_again(
    cls: type[Model],
    source: str,
    config: EngineConfig,
    chat_template: str | None,
) -> Model:
    from .assembly import assemble_from_files

    return cls(assemble_from_files(source, config, chat_template=chat_template))


def _is_long(prompt: object) -> bool:
    """Whether encoding takes so long that it would hold up an event loop."""
    if isinstance(prompt, str):
        return len(prompt) > LONG_TEXT_CHARACTERS
    if not isinstance(prompt, list | tuple):
        return False
    return sum(len(each) for each in prompt if isinstance(each, str)) > LONG_TEXT_CHARACTERS
