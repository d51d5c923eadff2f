"""What a model is loaded with: frozen, validated once, every default resolved in one place."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from .devices import Device, gpu_index, registered_device
from .errors import OutOfMemoryError, RequestError
from .limits import AS_FAR_AS_ANY, Limits
from .scheduling import FCFS, SchedulingPolicy, read_policy
from .validation import INT32_MAX, boolean, choice, integer, path, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

DeviceChoice: TypeAlias = str | Device
Precision = Literal["fast", "balanced", "exact"]
KvCacheDtype = Literal["auto", "f16", "bf16", "int8", "f32"]
Driver = Literal["caller", "thread"]
Quantization = Literal["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "int8"]
SpeculationSwitch = Literal["auto", "prompt_lookup", "draft_model", "off"]

MAX_LOOKUP = 8
"""Longest run of tokens that ``PromptLookup`` looks up; the same number in ``rust/core``."""

BLOCK_SIZE = 16
"""Token slots per KV block; the same number in ``rust/core``."""

_AUTO_SEQUENCES = 16
_AUTO_TOKENS_PER_SEQUENCE = 4096

_BYTE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_TOKEN_FACTORS = {"": 1, "K": 2**10, "M": 2**20}
_AMOUNT = r"(?P<amount>\d[\d_,]*(?:\.\d+)?)"
_BYTES_PATTERN = re.compile(rf"{_AMOUNT}\s*(?P<unit>[KMGT]?i?B)", re.IGNORECASE)
_TOKENS_PATTERN = re.compile(rf"{_AMOUNT}\s*(?P<factor>[KM]?)\s*tokens?", re.IGNORECASE)
_LONGEST_SIZE = 100
_KV_CACHE_HINT = 'write kv_cache="2GiB", "64k tokens" or "auto"'


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCacheSize:
    """How much KV cache was asked for: bytes, tokens, or neither (automatic)."""

    num_bytes: int | None = None
    num_tokens: int | None = None

    @classmethod
    def parse(cls, text: object) -> KvCacheSize:
        """Read ``"2GiB"``, ``"500 MB"``, ``"64k tokens"`` (k is 1,024) or ``"auto"``.

        Raises:
            RequestError: Anything else; a bare number is refused because it names no unit.
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise RequestError(
                f"kv_cache={shown(text)} does not say bytes or tokens",
                field="kv_cache",
                hint=_KV_CACHE_HINT,
            )
        stripped = text.strip() if len(text) <= _LONGEST_SIZE else ""
        if stripped.lower() == "auto":
            return cls()
        if match := _TOKENS_PATTERN.fullmatch(stripped):
            factor = _TOKEN_FACTORS[match["factor"].upper()]
            return cls(num_tokens=_positive_amount(match["amount"], factor, text))
        if match := _BYTES_PATTERN.fullmatch(stripped):
            factor = _BYTE_UNITS[match["unit"].upper()]
            return cls(num_bytes=_positive_amount(match["amount"], factor, text))
        raise RequestError(
            f"kv_cache={shown(text)} is not a size", field="kv_cache", hint=_KV_CACHE_HINT
        )

    def num_blocks(self, *, block_bytes: int, max_model_len: int, free_bytes: int) -> int:
        """Return how many blocks of ``BLOCK_SIZE`` tokens to reserve.

        ``"auto"`` is a cap: 16 sequences of ``min(max_model_len, 4096)`` tokens, at least one of
        ``max_model_len``, at most half of what is free.

        Args:
            block_bytes: Bytes of one block over all layers.
            max_model_len: Longest sequence in tokens.
            free_bytes: Memory that is free now.

        Raises:
            OutOfMemoryError: What was asked for is more than what is free.
            RequestError: What was asked for holds not even one block.
        """
        if self.num_tokens is not None:
            blocks = math.ceil(self.num_tokens / BLOCK_SIZE)
        elif self.num_bytes is not None:
            blocks = self.num_bytes // block_bytes
            if blocks == 0:
                raise RequestError(
                    f"kv_cache of {self.num_bytes:,} bytes holds not one block of {block_bytes:,}",
                    field="kv_cache",
                    hint=f'ask for at least "{block_bytes}B"',
                )
        else:
            return self._automatic_blocks(block_bytes, max_model_len, free_bytes)
        if blocks * block_bytes > free_bytes:
            raise OutOfMemoryError(
                f"kv_cache needs {format_bytes(blocks * block_bytes)} "
                f"but {format_bytes(free_bytes)} are free",
                required=blocks * block_bytes,
                available=free_bytes,
                hint="ask for a smaller kv_cache",
            )
        return blocks

    @staticmethod
    def _automatic_blocks(block_bytes: int, max_model_len: int, free_bytes: int) -> int:
        per_sequence = math.ceil(min(max_model_len, _AUTO_TOKENS_PER_SEQUENCE) / BLOCK_SIZE)
        one_of_full_length = math.ceil(max_model_len / BLOCK_SIZE)
        wanted = max(_AUTO_SEQUENCES * per_sequence, one_of_full_length)
        return max(1, min(wanted, free_bytes // 2 // block_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookup:
    """How tokens are drafted that the model then verifies, several in one pass.

    A sequence's last tokens are looked up among its earlier ones, and what followed there is
    drafted: quick where text repeats itself (edited code, extraction, lists), out of the way where
    it does not, since the length of drafts follows what was accepted. Tokens and log-probabilities
    are those of generating without, bit for bit.

    Attributes:
        num_speculative_tokens: Most drafted tokens of a sequence in one step, a draft model's too.
        prompt_lookup_max: Longest run of last tokens that is looked up, tried first.
        prompt_lookup_min: Shortest one, tried last.
        rows_per_pass: Most tokens of a step with drafts, all sequences together; ``None``: as many
            as the device computes at about the cost of one. So drafts are for few sequences.
    """

    num_speculative_tokens: int = 8
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 1
    rows_per_pass: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            RequestError: A value is of the wrong kind or out of range; ``field`` names it.
        """
        limits = {
            "num_speculative_tokens": INT32_MAX,
            "prompt_lookup_max": MAX_LOOKUP,
            "prompt_lookup_min": MAX_LOOKUP,
            "rows_per_pass": INT32_MAX,
        }
        for field, limit in limits.items():
            value = getattr(self, field)
            if field != "rows_per_pass" or value is not None:
                object.__setattr__(self, field, integer(field, value, 1, limit))
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise RequestError(
                f"prompt_lookup_min={self.prompt_lookup_min} is above "
                f"prompt_lookup_max={self.prompt_lookup_max}",
                field="prompt_lookup_min",
            )


Speculation: TypeAlias = SpeculationSwitch | PromptLookup


class LoadedModel(Protocol):
    """A ``Model``, which stands above this file."""

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens."""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""


DraftModelChoice: TypeAlias = "str | os.PathLike[str] | LoadedModel"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model runs.

    Attributes:
        device: ``"cpu"``, ``"cuda"`` (the first GPU, through CuPy: not yet run on one, only
            emulated), ``"cuda:1"``, or ``"auto"``: the first GPU where CuPy and one are there, the
            model fits and has kernels, else the CPU. Or a ``devices.Device`` of your own, or a name
            given to ``devices.register_device``. The CUDA kernels compute ``"exact"`` in float32,
            else with bf16 activations and KV cache (f16 on GPUs without bf16).
        precision: ``"fast"`` (8-bit activations for quantized weights), ``"balanced"`` (15-bit
            activations: decode as fast, prefill slower) or ``"exact"`` (float32 activations).
        kv_cache_dtype: What keys and values are stored as: ``"f16"``, ``"bf16"``, ``"int8"`` (a
            scale per token and head; half the memory of 16 bits) or ``"f32"``. ``"auto"`` is
            ``"f32"`` in exact precision, else ``"f16"``, with CUDA kernels ``"bf16"``; they know
            no others (``"f16"`` on GPUs without bf16).
        kv_cache: Memory for the KV cache; text is parsed.
        max_model_len: Longest sequence in tokens; ``None`` is what the model was made for.
        threads: CPU threads; ``None`` is one per usable core.
        max_num_seqs: Sequences in one step at most.
        max_num_batched_tokens: Tokens in one step at most, prefill chunks and decode rows together.
        enable_prefix_caching: Reuse the KV blocks of equal prompt beginnings.
        packed_cache: Folder for packed weights, made if it is missing; text is a path. A model is
            packed into a file there once; later loads map it, and processes share its memory.
            ``None`` packs into memory of this process at each load.
        speculation: ``"auto"``: draft by ``PromptLookup()``, and by the draft model if there is
            one. ``"prompt_lookup"`` or ``"draft_model"``: by this alone. ``"off"``: never. No
            result depends on it.
        scheduling_policy: Who comes first; a name becomes a ``SchedulingPolicy``.
        decision_log: A new file for everything that the scheduler is told and decides, for
            ``python -m inferlib replay-log`` and bug reports; text is a path. It holds the prompts
            and answers as token ids.
        limits: How much one request may ask for, and how many may wait.
        quantize: What the float matrices of a folder become while it is loaded: ``"q8_0"`` (8 bits,
            a scale per 32), ``"q4_0"``, ``"q5_0"`` (4 and 5 bits), ``"q4_1"``, ``"q5_1"`` (a
            minimum besides); ``"int8"`` (8 bits, a scale per row, and in ``"fast"`` one per row of
            activations, too: most texts per second, less exact); ``None`` leaves them. With it
            ``"fast"`` multiplies in integers.
        mmap: Map the files while the weights are prepared; ``False`` reads them, which needs more
            memory for a while and cannot be hurt by a file that changes.
        driver: ``"caller"``: whoever waits runs the steps. ``"thread"``: a thread does while there
            is work, so that submitted requests advance when nobody waits.
    """

    device: DeviceChoice = "auto"
    precision: Precision = "fast"
    kv_cache_dtype: KvCacheDtype = "auto"
    kv_cache: KvCacheSize = KvCacheSize()
    max_model_len: int | None = None
    threads: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 512
    enable_prefix_caching: bool = True
    packed_cache: Path | None = None
    speculation: Speculation = "auto"
    scheduling_policy: SchedulingPolicy = FCFS
    decision_log: Path | None = None
    limits: Limits = AS_FAR_AS_ANY
    quantize: Quantization | None = None
    mmap: bool = True
    driver: Driver = "caller"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            RequestError: A value is of the wrong kind or out of range; ``field`` names it.
        """
        object.__setattr__(self, "kv_cache", KvCacheSize.parse(self.kv_cache))
        _check_device(self.device)
        choice("precision", self.precision, get_args(Precision))
        choice("kv_cache_dtype", self.kv_cache_dtype, get_args(KvCacheDtype))
        choice("driver", self.driver, get_args(Driver))
        object.__setattr__(self, "packed_cache", _path("packed_cache", self.packed_cache))
        object.__setattr__(self, "decision_log", _path("decision_log", self.decision_log))
        if not isinstance(self.speculation, PromptLookup):
            choice("speculation", self.speculation, get_args(SpeculationSwitch))
        object.__setattr__(self, "scheduling_policy", read_policy(self.scheduling_policy))
        if not isinstance(self.limits, Limits):
            raise RequestError(
                f"limits must be Limits, not {type(self.limits).__name__}", field="limits"
            )
        boolean("enable_prefix_caching", self.enable_prefix_caching)
        if self.quantize is not None:
            choice("quantize", self.quantize, get_args(Quantization))
        boolean("mmap", self.mmap)
        for field in ("max_model_len", "threads", "max_num_seqs", "max_num_batched_tokens"):
            value = getattr(self, field)
            if value is not None or field.startswith("max_num"):
                object.__setattr__(self, field, integer(field, value, 1, INT32_MAX))

    @classmethod
    def in_memory(cls, options: Mapping[str, Any]) -> EngineConfig:
        """Check the options of a model whose weights no files have.

        Args:
            options: Of ``Model.from_pretrained``; ``revision`` may be among them.

        Raises:
            RequestError: A value is invalid, or of an option for files; ``field`` names it.
        """
        settings = dict(options)
        revision = settings.pop("revision", None)
        config = cls(**settings)
        for_files = {
            "revision": revision,
            "packed_cache": config.packed_cache,
            "quantize": config.quantize,
        }
        for name, value in for_files.items():
            if value is not None:
                raise RequestError(f"{name} is for models that are loaded from files", field=name)
        return config

    @property
    def prompt_lookup(self) -> PromptLookup | None:
        """How tokens are drafted; ``None`` if none are."""
        if isinstance(self.speculation, PromptLookup):
            return self.speculation
        return PromptLookup() if self.speculation in ("auto", "prompt_lookup") else None

    @property
    def asks_draft_model(self) -> bool:
        """Whether a draft model is asked, if there is one."""
        return self.speculation not in ("off", "prompt_lookup")


def _check_device(device: object) -> None:
    if isinstance(device, Device):
        return
    if isinstance(device, str) and (
        device in ("auto", "cpu")
        or gpu_index(device) is not None
        or registered_device(device) is not None
    ):
        return
    raise RequestError(
        f"device={shown(device)} is no device",
        field="device",
        hint='give "auto", "cpu", "cuda", "cuda:1", or a Device',
    )


def _path(field: str, value: object) -> Path | None:
    if value is None:
        return None
    written = path(field, value)
    from pathlib import Path  # a tenth of the time of `import inferlib`

    return Path(written).absolute()  # of now, wherever the process goes


def format_bytes(num_bytes: int) -> str:
    """Write a size as people read it: ``1.5 GiB``."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _positive_amount(amount: str, factor: int, text: str) -> int:
    value = int(float(amount.replace(",", "").replace("_", "")) * factor)
    if value <= 0:
        raise RequestError(
            f"kv_cache={shown(text)} is nothing", field="kv_cache", hint=_KV_CACHE_HINT
        )
    return value
