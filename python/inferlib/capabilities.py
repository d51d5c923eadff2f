"""What this build can do on this machine."""

from __future__ import annotations

import importlib.util
import sys
from typing import TypedDict, get_args

from . import _core
from .config import KvCacheDtype, Precision
from .host_memory import free_bytes
from .origin import ARITHMETIC_VERSION
from .scheduling import PolicyName


class Capabilities(TypedDict):
    """A plain ``dict`` of strings, numbers and lists, ready for JSON.

    Attributes:
        version: Of inferlib.
        arithmetic_version: Results of equal versions are equal, bit for bit.
        python: Version of the interpreter.
        platform: As ``sys.platform``.
        cores: That this process may use.
        free_bytes: Memory that is free now.
        cpu_tiers: Kernel tiers that the processor runs, best first.
        devices: What ``device=`` takes here besides ``"auto"``; ``"cuda"`` if CuPy is installed,
            whether or not there is a GPU.
        architectures: What can be loaded, by Hugging Face's class names.
        precisions: What ``precision=`` takes.
        kv_cache_dtypes: What ``kv_cache_dtype=`` takes.
        scheduling_policies: What ``scheduling_policy=`` takes.
        fork: Whether the system has ``fork``.
    """

    version: str
    arithmetic_version: int
    python: str
    platform: str
    cores: int
    free_bytes: int
    cpu_tiers: list[str]
    devices: list[str]
    architectures: list[str]
    precisions: list[str]
    kv_cache_dtypes: list[str]
    scheduling_policies: list[str]
    fork: bool


def capabilities() -> Capabilities:
    """Say what this build can do here, without loading anything: no GPU is touched."""
    from .architectures import ARCHITECTURES  # not for `import inferlib`

    has_cupy = importlib.util.find_spec("cupy") is not None
    return Capabilities(
        version=_core.__version__,
        arithmetic_version=ARITHMETIC_VERSION,
        python=".".join(map(str, sys.version_info[:3])),
        platform=sys.platform,
        cores=_core.CpuExecutor.available_cores(),
        free_bytes=free_bytes(),
        cpu_tiers=_core.CpuExecutor.tiers(),
        devices=["cpu", "cuda"] if has_cupy else ["cpu"],
        architectures=sorted(name for family in ARCHITECTURES for name in family.classes),
        precisions=list(get_args(Precision)),
        kv_cache_dtypes=list(get_args(KvCacheDtype)),
        scheduling_policies=list(get_args(PolicyName)),
        fork=sys.platform not in ("win32", "emscripten", "wasi"),
    )
