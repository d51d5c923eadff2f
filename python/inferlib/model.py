"""A language model in this process: the class that callers use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from .adapting import Adapting
from .beams import BeamSearching
from .call_options import LoadOptions
from .capturing import Capturing
from .classifying import Classifying
from .config import EngineConfig, KvCacheSize
from .draft_loading import opened_draft_model
from .embedding import Embedding
from .generating import Generating
from .generating_many import GeneratingMany
from .in_thread import in_thread
from .limits import AS_FAR_AS_ANY, Limits
from .prefilling import Prefilling
from .replaying import Replaying
from .scheduling import read_policy
from .scoring import Scoring
from .validation import check_keywords

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Never, Self

    from ._core import Tokenizer
    from .config import (
        DeviceChoice,
        DraftModelChoice,
        Driver,
        KvCacheDtype,
        Precision,
        Quantization,
        Speculation,
    )
    from .scheduling import PolicyChoice


class Model(
    Generating,
    GeneratingMany,
    Prefilling,
    Scoring,
    Adapting,
    BeamSearching,
    Embedding,
    Classifying,
    Capturing,
    Replaying,
):
    """A language model, loaded by ``Model.from_pretrained``.

    All calls may be made from any thread and any event loop at the same time; requests that
    overlap run as one batch. Each call that computes has an asynchronous twin, named with an ``a``
    in front. Calls that generate take the options of ``SamplingParams`` as keywords, too; these
    replace what ``params`` says.

        >>> with Model.from_pretrained("smollm2") as model:  # doctest: +SKIP
        ...     print(model.chat([{"role": "user", "content": "Hi!"}], temperature=0).text)
    """

    @classmethod
    def from_pretrained(  # noqa: PLR0913  # each is independent of the others
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
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
        draft_model: DraftModelChoice | None = None,
        scheduling_policy: PolicyChoice = "fcfs",
        decision_log: str | os.PathLike[str] | None = None,
        limits: Limits = AS_FAR_AS_ANY,
        chat_template: str | None = None,
        quantize: Quantization | None = None,
        mmap: bool = True,
        driver: Driver = "caller",
        **unknown: Never,
    ) -> Self:
        """Load a model.

        Args:
            name_or_path: A directory in Hugging Face's layout, a ``.gguf`` file, the alias of an
                installed model package (``"smollm2"``), or a model of Hugging Face's hub, if
                ``huggingface_hub`` is installed: ``"org/name"``, ``"org/name/file.gguf"``. What
                exists on disk comes first.
            revision: Branch, tag or commit of a model of the hub.
            device: ``"cpu"``, ``"cuda"`` (the first GPU), ``"cuda:1"``, or ``"auto"``: the first
                GPU if CuPy and one are there and the model fits and has kernels, else the CPU. CUDA
                has run on an emulator only.
            precision: ``"fast"`` (8-bit activations for quantized weights), ``"balanced"`` (15-bit
                activations: decode as fast, prefill slower) or ``"exact"`` (float32 activations).
            kv_cache_dtype: What keys and values are stored as: ``"f16"``, ``"bf16"``, ``"int8"``
                (half the memory of 16 bits) or ``"f32"``. ``"auto"``: ``"f32"`` in exact precision,
                else ``"f16"``, with CUDA kernels ``"bf16"``.
            kv_cache: Memory for keys and values: ``"2GiB"``, ``"64k tokens"``, or ``"auto"``: for
                16 sequences of up to 4,096 tokens, or one of full length if that is more, but at
                most half of what is free.
            max_model_len: Longest sequence in tokens; ``None`` is what the model was made for.
            threads: CPU threads; ``None`` is one per usable core.
            max_num_seqs: Sequences in one step at most.
            max_num_batched_tokens: Tokens in one step at most.
            enable_prefix_caching: Reuse the keys and values of equal prompt beginnings.
            packed_cache: A folder, made if it is missing. The weights are packed into a file there
                once; later loads map it, without packing, and all processes that do share its
                memory. Files of models that changed or are no longer used stay until you delete
                them, which is safe at any time.
            speculation: ``"auto"``: where text repeats itself, several tokens are drafted and then
                verified in one pass; elsewhere by the draft model, if there is one.
                ``"prompt_lookup"`` or ``"draft_model"``: by this alone. ``"off"``: never. A
                ``PromptLookup`` says how much. The results are the same bit for bit.
            draft_model: A smaller model of the same vocabulary, which drafts tokens: as
                ``name_or_path``, then it is loaded with the same device, threads and numerics and
                closed with this model; or a ``Model``, which stays the caller's.
            scheduling_policy: Who comes first when not everybody can run: ``"fcfs"`` (in order of
                arrival), ``"priority"`` (by ``priority``, aged), ``"fair"`` (equal shares per
                ``tenant``), ``"deadline"`` (earliest ``deadline``); or a ``SchedulingPolicy``.
            decision_log: A new file for everything that the scheduler is told and decides, prompts
                and answers included; ``python -m inferlib replay-log`` verifies it.
            limits: How much one request may ask for, and how many may wait.
            chat_template: Text of a Jinja template that replaces the checkpoint's.
            quantize: Quantize the float matrices of a folder while it is loaded: ``"q8_0"``,
                ``"q5_1"``, ``"q5_0"``, ``"q4_1"`` or ``"q4_0"``, or ``"int8"``: one scale per row
                of weights and, in ``"fast"``, of activations, the fastest for many or long texts.
                How much it changes the weights is in the log ``inferlib`` and in
                ``stats()["details"]["quantization"]``.
            mmap: Map the files while loading; ``False`` reads them, which needs more memory for a
                while and cannot be hurt by a file that changes.
            driver: ``"caller"``: whoever waits runs the steps, and nothing runs when nobody waits.
                ``"thread"``: a thread runs them while there is work; for servers.
            **unknown: Refused.

        Raises:
            ModelNotFoundError: There is no such file, directory or alias, or the hub does not have
                it.
            ModelReadError: The system does not let a file be read.
            ModelFormatError: A file is damaged or not what it claims to be.
            UnsupportedModelError: The architecture or a tensor type is not supported.
            OutOfMemoryError: The weights or the KV cache do not fit.
            TemplateError: ``chat_template`` is malformed.
            RequestError: An argument is invalid, or the device is not there; ``field`` names it.
        """
        from .assembly import assemble_from_files  # half of the time of `import inferlib`
        from .hub import with_revision

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
            scheduling_policy=read_policy(scheduling_policy),
            decision_log=decision_log,  # type: ignore[arg-type]  # made a path there
            limits=limits,
            quantize=quantize,
            mmap=mmap,
            driver=driver,
        )
        if revision is not None:
            name_or_path = with_revision(name_or_path, revision)
        with opened_draft_model(draft_model, config) as drafts:
            parts = assemble_from_files(
                name_or_path, config, chat_template=chat_template, draft_model=drafts
            )
        return cls(parts)

    @classmethod
    async def afrom_pretrained(
        cls, name_or_path: str | os.PathLike[str], **options: Unpack[LoadOptions]
    ) -> Self:
        """``from_pretrained`` in a thread of its own."""
        return await in_thread(partial(cls.from_pretrained, name_or_path, **options))

    @classmethod
    def from_weights(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, Any] | Iterable[tuple[str, Any]],
        *,
        tokenizer: Tokenizer | None = None,
        generation_config: Mapping[str, Any] | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Make a model of weights that the host has in memory, without any file.

        Such a model has no files: it cannot be pickled.

        Args:
            config: What ``config.json`` of a Hugging Face checkpoint holds.
            weights: Arrays by the names that they have there, of any float type that NumPy can turn
                into float32; an iterator is read to its end first. They are copied.
            tokenizer: ``Tokenizer.from_json(...)``; ``None``: for token ids only.
            generation_config: What ``generation_config.json`` holds.
            **options: As for ``from_pretrained``, but for ``revision``, ``packed_cache`` and
                ``quantize``, which are for files.

        Raises:
            ModelFormatError: Configuration and weights do not fit: all mismatches in one message.
            UnsupportedModelError: The architecture is not supported.
            OutOfMemoryError: The weights or the KV cache do not fit.
            TemplateError: ``chat_template`` is malformed.
            RequestError: An argument is invalid; ``field`` names it.
        """
        from .assembly import assemble
        from .given_weights import checkpoint_of_weights  # not for those who load files

        check_keywords(options, LoadOptions.__annotations__)
        settings: dict[str, Any] = dict(options)
        chat_template = settings.pop("chat_template", None)
        draft_model = settings.pop("draft_model", None)
        engine_config = EngineConfig.in_memory(settings)
        checkpoint = checkpoint_of_weights(
            config,
            weights,
            tokenizer=tokenizer,
            chat_template=chat_template,
            generation_config=generation_config,
        )
        with opened_draft_model(draft_model, engine_config) as drafts:
            parts = assemble(
                checkpoint, engine_config, chat_template=chat_template, draft_model=drafts
            )
        return cls(parts)

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[object, ...]]:
        """Pickle by path: the copy is loaded anew, in another process too."""
        parts = self._parts
        source = parts.checkpoint.source
        if source is None:
            raise TypeError("a model that was not loaded from a file cannot be pickled")
        config = replace(parts.config, decision_log=None)  # the file is this model's
        drafts = parts.draft_model
        draft_model = None if drafts is None else drafts.argument
        return _load_again, (type(self), source, config, parts.given_chat_template, draft_model)


def _load_again(
    cls: type[Model],
    source: str,
    config: EngineConfig,
    chat_template: str | None,
    draft_model: DraftModelChoice | None,
) -> Model:
    from .assembly import assemble_from_files

    with opened_draft_model(draft_model, config) as drafts:
        parts = assemble_from_files(source, config, chat_template=chat_template, draft_model=drafts)
    return cls(parts)
