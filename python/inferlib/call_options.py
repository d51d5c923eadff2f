"""Keywords of the calls of ``Model``, for type checkers and for the check of unknown ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from .errors import RequestError
from .output_schema import OutputSchema
from .sampling_params import SamplingOptions, SamplingParams
from .validation import check_keywords

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from .capture_points import Positions
    from .config import (
        DeviceChoice,
        DraftModelChoice,
        Driver,
        KvCacheDtype,
        KvCacheSize,
        Precision,
        Quantization,
        Speculation,
        SpeculationSwitch,
    )
    from .limits import Limits
    from .logits_processing import LogitsProcessor
    from .output_reading import ReasoningSyntax, ToolSyntax
    from .scheduling import PolicyChoice, Priority
    from .tools import Tool


class LoadOptions(TypedDict, total=False):
    """Keywords of ``Model.from_pretrained``."""

    revision: str | None
    device: DeviceChoice
    precision: Precision
    kv_cache_dtype: KvCacheDtype
    kv_cache: str | KvCacheSize
    max_model_len: int | None
    threads: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_prefix_caching: bool
    packed_cache: str | os.PathLike[str] | None
    speculation: Speculation
    draft_model: DraftModelChoice | None
    scheduling_policy: PolicyChoice
    decision_log: str | os.PathLike[str] | None
    limits: Limits
    chat_template: str | None
    quantize: Quantization | None
    mmap: bool
    driver: Driver


class ChatOptions(TypedDict, total=False):
    """Keywords of ``Model.chat``: how messages become a prompt, and how its answer is read.

    Attributes:
        tools: That the model may call: OpenAI's JSON, or functions with type hints.
        chat_template_kwargs: Further names that the template reads.
        continue_final_message: The answer goes on with the assistant's last message.
        response_format: OpenAI's ``{"type": "json_object"}`` or ``{"type": "json_schema",
            "json_schema": {"schema": …}}``, in the place of ``schema``; ``{"type": "text"}`` is any
            text.
        tool_syntax: How the model writes calls; ``"auto"``: as the template does, if there are
            tools; ``"off"``: calls stay in the text.
        reasoning_syntax: How it marks its reasoning; ``"off"``: that stays in the text.
        thinking_budget: Most tokens of reasoning in a sequence, its blocks together and without
            their markers; then the marker that ends the reasoning is all that can be drawn. 0: none
            at all. Not together with a structure, which begins with the first token, nor for a
            model whose reasoning nothing marks. ``None``: no limit.
    """

    tools: Sequence[Tool] | None
    chat_template_kwargs: Mapping[str, Any] | None
    continue_final_message: bool
    response_format: Mapping[str, Any] | None
    tool_syntax: ToolSyntax
    reasoning_syntax: ReasoningSyntax
    thinking_budget: int | None


class RequestOptions(TypedDict, total=False):
    """Keywords of calls of any kind: where their requests run, and with which adapter.

    Attributes:
        cache_salt: Cached prefixes are shared only with requests of the same salt.
        priority: Smaller runs first; equal ones in the order in which they came. With
            ``scheduling_policy="fair"`` among the tenant's own requests, with ``"deadline"`` not at
            all. ``"background"``: it runs where all others leave room, under every policy, and
            gives its place up to any of them (``SchedulingPolicy.background_tokens``).
        tenant: For whom it is, so that ``scheduling_policy="fair"`` gives each the same; those that
            name none are one tenant. Other policies do not look at it.
        adapter: Name of a LoRA adapter that ``load_adapter`` loaded; ``None`` is the model alone.
    """

    cache_salt: str | None
    priority: Priority
    tenant: str | None
    adapter: str | None


class CallOptions(SamplingOptions, RequestOptions, total=False):
    """Keywords of every call that generates: ``SamplingParams``, and how the request runs.

    Attributes:
        deadline: Seconds from now after which it ends with what there is, and
            ``finish_reason="deadline"``, under every policy; looked at between steps. With
            ``scheduling_policy="deadline"`` the earliest runs first.
        speculation: Who drafts tokens for this request: ``"auto"`` (whoever the model has),
            ``"prompt_lookup"``, ``"draft_model"`` or ``"off"``. No result depends on it.
        logits_processors: Callables ``(token_ids, logits) -> logits or None``, one after another,
            for each token of this request: ``token_ids`` ``[num_tokens]`` (int32, read-only) are
            prompt and output so far, ``logits`` ``[vocab_size]`` (float32) the model's own, which
            may be changed in place (then return ``None``). They act before all other options, so
            that masks and structure hold whatever they return; raw log-probabilities are of the
            model's own logits all the same. The slow path: each token goes through Python, nothing
            is drafted, and such a request has no receipt and goes into no checkpoint. They run on
            the thread that runs the step, must not call the model (``ReentrantCallError``, as for a
            signal handler), and may be asked for the same token twice. One that raises, or returns
            something else than finite logits and ``-inf``, ends its request with
            ``LogitsProcessorError``, and no other.
    """

    deadline: float | None
    speculation: SpeculationSwitch
    logits_processors: Sequence[LogitsProcessor] | None


class ForwardOptions(RequestOptions, total=False):
    """Keywords of ``Model.forward``, which says what they are."""

    capture: str | Sequence[str]
    positions: Positions | None
    logits: bool


class ChatCallOptions(CallOptions, ChatOptions, total=False):
    """Keywords of every call that chats."""


def split_options(
    params: SamplingParams | None, options: Mapping[str, Any], known: Collection[str]
) -> tuple[SamplingParams, dict[str, Any], dict[str, Any]]:
    """Part a call's keywords: for sampling, for the request, for the chat template."""
    check_keywords(options, known)
    own = {*_REQUEST_KEYWORDS, *ChatOptions.__annotations__}
    sampling = {name: value for name, value in options.items() if name not in own}
    response_format = options.get("response_format")
    if response_format is not None:
        if sampling.get("schema") is not None:
            raise RequestError(
                "schema and response_format cannot be given together", field="response_format"
            )
        sampling["schema"] = OutputSchema.of_response_format(response_format)
    return (
        SamplingParams.from_options(params, sampling),
        {name: options[name] for name in _REQUEST_KEYWORDS if name in options},
        {
            name: options[name]
            for name in ChatOptions.__annotations__
            if name in options and name != "response_format"
        },
    )


_REQUEST_KEYWORDS = (
    *RequestOptions.__annotations__,
    "deadline",
    "speculation",
    "logits_processors",
)
