"""Sequences: tokens and their keys and values, kept between calls; forked, rewound and extended.

Each call is a request to the scheduler like any other, so it runs in one batch with whatever else
runs. Between calls a sequence costs memory only, which it gives up when others need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from .atomic import move
from .call_options import CallOptions, split_options
from .errors import ClosedError, RequestError
from .in_thread import in_thread
from .prompts import EncodedPrompt, encode_prompt
from .results import completion_of
from .sampling_params import SamplingParams
from .sequence_file import StoredSequence, write_sequence
from .stream import AsyncStream, Stream
from .validation import integer
from .validation import path as check_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from typing import Self

    from ._core import Tokenizer
    from .completion import Completion, TokenLogprobs
    from .engine import Engine
    from .prompts import Prompt
    from .request import Request
    from .request_builder import RequestBuilder
    from .sequence_file import SequenceLayout

MAX_LOGPROBS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOwner:
    """What sequences need of their model.

    Attributes:
        model: Lives as long as they do.
        engine: Runs their requests.
        builder: Makes them.
        token_text: A token's own text.
        layout: What files of sequences look like; hashes the weights the first time.
        tenant: For whom their calls are.
    """

    model: object
    engine: Engine
    builder: RequestBuilder
    token_text: Callable[[int], str | None]
    layout: Callable[[], SequenceLayout]
    tenant: str | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """``None`` if the checkpoint has none."""
        return self.builder.tokenizer


class Sequence:
    """Tokens whose keys and values are kept, made by ``Model.prefill``.

    A fork shares them with its origin; only a last, partial block of 16 tokens is copied, when
    somebody goes on from it. What a forked, rewound or extended sequence gives is, bit for bit,
    what a new one with the same tokens gives. If memory runs out for requests that run, the
    sequence that was not used for longest loses its keys and values; its next call computes them
    again and gives the same.

    A call that fails or is cancelled leaves the sequence as it was. Calls that change it
    (``extend``, ``generate``, ``stream``, ``force``, ``rewind``) may come from any thread, one at a
    time: others raise ``SequenceBusyError``. ``fork`` and ``next_token_logprobs`` may come at any
    time and see the sequence as it was before a change that is under way.

        >>> with model.prefill("Once upon a time") as story:  # doctest: +SKIP
        ...     happy, sad = story.fork(2)
        ...     happy.extend(", in a happy land,")
        ...     print(happy.generate(max_tokens=20).text)
    """

    def __init__(self, owner: SequenceOwner, make: Callable[[Any], int], argument: object) -> None:
        self._ids: list[int] = []
        self._owner = owner
        self._is_closed = False
        move(self._ids, make, argument)

    # What it holds

    @property
    def token_ids(self) -> list[int]:
        """All its tokens: the prompt's, and what was added since."""
        return self._owner.engine.sequences.token_ids(self.held_id).tolist()  # type: ignore[no-any-return]

    @property
    def text(self) -> str | None:
        """Its tokens as text, without special tokens; ``None`` without a tokenizer."""
        tokenizer = self._owner.tokenizer
        return None if tokenizer is None else tokenizer.decode(self.token_ids)

    @property
    def num_computed_tokens(self) -> int:
        """Tokens whose keys and values are in memory now; the next call computes the others."""
        return self._owner.engine.sequences.lengths(self.held_id)[1]

    def __len__(self) -> int:
        """Count its tokens."""
        return self._owner.engine.sequences.lengths(self.held_id)[0]

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    # Branching

    def fork(self, n: int = 1) -> list[Sequence]:
        """Make ``n`` sequences with the same tokens, keys and values; none of them is copied.

        Args:
            n: How many; the sequence itself is not among them.

        Raises:
            RequestError: ``n`` is not a whole number from 1 on.
            ClosedError: The sequence or the model is closed.
        """
        integer("n", n, 1, 2**20)
        held = self._owner.engine.sequences
        return [Sequence(self._owner, held.fork, self.held_id) for _ in range(n)]

    def rewind(self, n: int) -> None:
        """Take the last ``n`` tokens off.

        Args:
            n: From 0 to ``len(sequence)``.

        Raises:
            RequestError: The sequence has fewer.
            SequenceBusyError: Another call is changing the sequence.
            ClosedError: The sequence or the model is closed.
        """
        integer("n", n, 0, 2**31 - 1)
        try:
            self._owner.engine.sequences.rewind(self.held_id, n)
        except RequestError as error:
            error.field = "n"
            raise

    # Adding tokens

    def extend(self, prompt: Prompt) -> None:
        """Add text or token ids, and compute their keys and values.

        Args:
            prompt: Token ids; or text, encoded by itself, without a beginning-of-sequence token.

        Raises:
            RequestError: ``prompt`` is empty or no prompt.
            PromptTooLongError: The context or the KV cache would not hold the sequence.
            SequenceBusyError: Another call is changing the sequence.
            ClosedError: The sequence or the model is closed.
        """
        self._run(self._extension(prompt))

    async def aextend(self, prompt: Prompt) -> None:
        """``extend`` without blocking the event loop."""
        await self._arun(self._extension(prompt))

    def generate(
        self, params: SamplingParams | None = None, **options: Unpack[CallOptions]
    ) -> Completion:
        """Continue the sequence, which then ends with the generated tokens.

        A stop token is one of them (``rewind(1)`` takes it off); of a stop string's tokens, all
        that were generated stay.

        Args:
            params: Options; ``None`` is the checkpoint's defaults. ``n`` must be 1: fork instead.
            **options: As for ``Model.generate``, but for ``cache_salt``, which is the sequence's,
                and ``adapter``: sequences go on with the model alone.

        Returns:
            As ``Model.generate`` gives for the sequence's tokens as a prompt.

        Raises:
            RequestError: An option is invalid; ``field`` names it.
            PromptTooLongError: The context or the KV cache holds no further token.
            SequenceBusyError: Another call is changing the sequence.
            InferlibError: A step failed, or the sequence or the model was closed.
        """
        return self._run(self._generation(params, options))

    async def agenerate(
        self, params: SamplingParams | None = None, **options: Unpack[CallOptions]
    ) -> Completion:
        """``generate`` without blocking the event loop; cancelling the task cancels it."""
        return await self._arun(self._generation(params, options))

    def stream(
        self, params: SamplingParams | None = None, **options: Unpack[CallOptions]
    ) -> Stream:
        """``generate`` as a stream of deltas. Closed before its end, it changes nothing.

        Raises:
            RequestError: An option is invalid, at once.
            SequenceBusyError: Another call is changing the sequence.
            ClosedError: The sequence or the model is closed.
        """
        owner = self._owner
        request = self._generation(params, options)
        return Stream(owner.engine, request, owner.token_text, self)

    def astream(
        self, params: SamplingParams | None = None, **options: Unpack[CallOptions]
    ) -> AsyncStream:
        """``stream`` for ``async for``; not itself awaited.

        Raises:
            RequestError: An option is invalid, at once.
            SequenceBusyError: Another call is changing the sequence.
            ClosedError: The sequence or the model is closed.
        """
        owner = self._owner
        request = self._generation(params, options)
        return AsyncStream(owner.engine, request, owner.token_text, self)

    def force(self, tokens: Prompt, *, top: int = 0) -> list[TokenLogprobs]:
        """Add tokens as if the model had generated them, and say how likely it found each.

        Args:
            tokens: Token ids; or text, encoded by itself.
            top: Also report so many of the most likely tokens at each place, at most 1024.

        Returns:
            A mapping per added token: of the token itself, and of the ``top`` best ones.
            Log-probabilities are of the model's own distribution (temperature 1, no penalties).

        Raises:
            RequestError: An argument is invalid, or the sequence has no token to start from.
            PromptTooLongError: The context or the KV cache would not hold the sequence.
            SequenceBusyError: Another call is changing the sequence.
            InferlibError: A step failed, or the sequence or the model was closed.
        """
        request = self._forcing(tokens, top)
        return _forced(request, self._run(request))

    async def aforce(self, tokens: Prompt, *, top: int = 0) -> list[TokenLogprobs]:
        """``force`` without blocking the event loop."""
        request = self._forcing(tokens, top)
        return _forced(request, await self._arun(request))

    # Looking ahead

    def next_token_logprobs(self, *, top: int = 20) -> TokenLogprobs:
        """Return the ``top`` most likely next tokens, best first; the sequence stays as it is.

        Args:
            top: From 1 to 1024.

        Returns:
            By token id; log-probabilities are of the model's own distribution (temperature 1).

        Raises:
            RequestError: ``top`` is out of range, or the sequence is empty.
            InferlibError: A step failed, or the sequence or the model was closed.
        """
        return _first_logprobs(self._run(self._look(top)))

    async def anext_token_logprobs(self, *, top: int = 20) -> TokenLogprobs:
        """``next_token_logprobs`` without blocking the event loop."""
        return _first_logprobs(await self._arun(self._look(top)))

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokens, keys and values to a file, for ``Model.load_sequence``.

        It is safetensors, about as large as the keys and values in memory, and appears under its
        name once it is complete. What others have evicted is computed first. The first time, the
        model's weights are hashed, which takes a second per gigabyte.

        Args:
            path: The file; one that is there is replaced.

        Raises:
            OSError: The file cannot be written.
            RequestError: The sequence is empty.
            ModelError: The model's files were changed or removed since it was loaded.
            ExecutorError: The model does not run on the CPU.
            SequenceBusyError: Another call is changing the sequence.
            InferlibError: A step failed, or the sequence or the model was closed.
        """
        check_path("path", path)
        layout = self._owner.layout()
        if self.num_computed_tokens < len(self):
            self._run(self._request([], COMPUTE_ONLY, keep=True))
        (snapshot,) = self.fork()
        with snapshot:
            engine = self._owner.engine
            token_ids = engine.sequences.token_ids(snapshot.held_id)
            groups = engine.sequence_bytes.export(snapshot.held_id)
        if not token_ids.size:
            raise RequestError("an empty sequence cannot be saved", field="sequence")
        num_computed = layout.num_computed(groups[0][0].size)
        stored = StoredSequence(token_ids=token_ids, num_computed=num_computed, groups=groups)
        write_sequence(path, layout, stored)

    async def asave(self, path: str | os.PathLike[str]) -> None:
        """``save`` in a thread of its own."""
        await in_thread(partial(self.save, path))

    def restore(self, stored: StoredSequence) -> None:
        """Take over what a file holds; ``Model.load_sequence`` is for callers."""
        self._owner.engine.sequence_bytes.restore(
            self.held_id, stored.token_ids, stored.num_computed, stored.groups
        )

    # The end

    def close(self) -> None:
        """Give the sequence's memory back; may be called again. ``with`` and ``del`` do the same.

        A call that runs in another thread goes on to its end.
        """
        self._is_closed = True
        for sequence in self._ids:
            self._owner.engine.close_sequence(sequence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_is_closed") and not self._is_closed:
            self.close()

    def __repr__(self) -> str:
        if self._is_closed:
            return "<Sequence, closed>"
        num_tokens, num_computed = self._owner.engine.sequences.lengths(self.held_id)
        return f"<Sequence of {num_tokens:,} tokens, {num_computed:,} of them computed>"

    # From arguments to requests

    @property
    def held_id(self) -> int:
        """Its id in the scheduler.

        Raises:
            ClosedError: The sequence is closed.
        """
        if self._is_closed:
            raise ClosedError("the sequence is closed", hint="prefill the prompt again")
        return self._ids[0]

    def _request(
        self,
        added: list[int],
        params: SamplingParams,
        *,
        keep: bool,
        call: Mapping[str, Any] | None = None,
    ) -> Request:
        prompt = EncodedPrompt(text=None, token_ids=[*self.token_ids, *added])
        options = {"tenant": self._owner.tenant, **(call or {})}
        return self._owner.builder.build(
            prompt, params, sequence=self.held_id, keep=keep, **options
        )

    def _added(self, prompt: object, field: str) -> list[int]:
        try:
            encoded = encode_prompt(
                prompt,
                self._owner.tokenizer,
                max_model_len=self._owner.builder.max_model_len,
                add_special_tokens=False,
            )
        except RequestError as error:
            error.field = field
            raise
        return encoded.token_ids

    def _extension(self, prompt: object) -> Request:
        return self._request(self._added(prompt, "prompt"), COMPUTE_ONLY, keep=True)

    def _generation(self, params: SamplingParams | None, options: CallOptions) -> Request:
        if options.get("cache_salt") is not None:
            raise RequestError(
                "a sequence has the cache_salt that it was prefilled with", field="cache_salt"
            )
        if options.get("adapter") is not None:
            raise RequestError(
                "a sequence goes on with the model alone; generate() takes adapters",
                field="adapter",
            )
        sampling, call, _ = split_options(params, options, CallOptions.__annotations__)
        call.pop("cache_salt", None)
        return self._request([], sampling, keep=True, call=call)

    def _forcing(self, tokens: object, top: int) -> Request:
        integer("top", top, 0, MAX_LOGPROBS)
        added = self._added(tokens, "tokens")
        start = len(self)
        if start == 0:
            raise RequestError(
                "an empty sequence says nothing about its first token",
                field="tokens",
                hint="extend it first",
            )
        params = SamplingParams(max_tokens=0, prompt_logprobs=top, prompt_logprobs_start=start)
        return self._request(added, params, keep=True)

    def _look(self, top: int) -> Request:
        integer("top", top, 1, MAX_LOGPROBS)
        params = SamplingParams(
            max_tokens=1, temperature=0, logprobs=top, detokenize=False, logit_bias=None
        )
        return self._request([], params, keep=False)

    # From requests to results

    def _run(self, request: Request) -> Completion:
        engine = self._owner.engine
        try:
            engine.submit([request])
            engine.wait([request])
            return completion_of(request, self._owner.token_text)
        except BaseException:
            engine.cancel([request])
            raise

    async def _arun(self, request: Request) -> Completion:
        engine = self._owner.engine
        try:
            engine.submit([request])
            await engine.wait_async([request])
            return completion_of(request, self._owner.token_text)
        except BaseException:
            engine.cancel([request])
            raise


COMPUTE_ONLY = SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=2**31 - 1)
"""Of a request that computes keys and values and nothing else."""


def _forced(request: Request, completion: Completion) -> list[TokenLogprobs]:
    scored = completion.prompt_logprobs or []
    return [entry for entry in scored[request.params.prompt_logprobs_start :] if entry is not None]


def _first_logprobs(completion: Completion) -> TokenLogprobs:
    return (completion.logprobs or [{}])[0]
