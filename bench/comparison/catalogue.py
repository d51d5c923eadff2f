"""Which engines run which model, with what options, and the files that they need made first."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import inferlib

from .engines import ROOT, Engine

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS = {"smollm2": "Q4_1", "gemma": "Q4_K_M"}
OURS = "inferlib"
DRAFTING_OPTION = "speculation"
DRAFTING: Mapping[str, object] = {DRAFTING_OPTION: "auto"}
NO_DRAFTING: Mapping[str, object] = {DRAFTING_OPTION: "off"}
MEASURED: Mapping[str, object] = {"enable_prefix_caching": False}
"""Prompts are random, so there is nothing to find; no other engine is given the chance either."""


@dataclass(slots=True, kw_only=True)
class Catalogue:
    """Engines of one model.

    Attributes:
        engines: To start.
        missing: By key, engines that cannot be started, and why.
        missing_roles: By role, why inferlib has no such variant.
    """

    engines: list[Engine] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    missing_roles: dict[str, str] = field(default_factory=dict)


def has_option(name: str) -> bool:
    """Whether ``Model.from_pretrained`` has an option."""
    return name in inspect.signature(inferlib.Model.from_pretrained).parameters


def exact(path: Path) -> Engine:
    """The reference of quality: inferlib in float32."""
    return _ours(path, "float32", {"precision": "exact"})


def packed_cache(path: Path, file_format: str, folder: Path) -> Engine:
    """inferlib with weights that processes share."""
    return _ours(path, f"{file_format} packed_cache", {"packed_cache": str(folder)})


def _ours(
    path: Path, file_format: str, options: Mapping[str, object], role: str = "ours"
) -> Engine:
    off = NO_DRAFTING if has_option(DRAFTING_OPTION) else {}
    return Engine(
        name=OURS,
        file_format=file_format,
        adapter="bench.peers.ours",
        python=Path(sys.executable),
        model=path,
        options={**MEASURED, **off, **options},
        role=role,  # type: ignore[arg-type]
    )


def of_model(  # each is independent of the others
    model: str, path: Path, *, peers: Path, vllm: Path | None, work: Path, threads: int
) -> Catalogue:
    """All engines of one model.

    Args:
        model: ``smollm2`` or ``gemma``.
        path: Its GGUF file.
        peers: Environment of the other engines, see ``bench/peers/install.py``.
        vllm: Environment of vLLM; ``None``: it was not asked for.
        work: For converted files; kept between runs.
        threads: For conversions.
    """
    file_format = FORMATS[model]
    catalogue = Catalogue(engines=[_ours(path, file_format, {})])
    balanced = _ours(path, f"{file_format} balanced", {"precision": "balanced"}, "balanced")
    catalogue.engines.append(balanced)
    if has_option(DRAFTING_OPTION):
        drafting = _ours(path, f"{file_format} drafting", DRAFTING, "drafting")
        catalogue.engines.append(drafting)
    else:
        reason = f"this inferlib does not draft: from_pretrained has no {DRAFTING_OPTION!r}"
        catalogue.missing_roles["drafting"] = reason
    python = peers / "bin" / "python"
    converted = work / f"{model}-{_digest(path)}"

    def peer(name: str, form: str, adapter: str, file: Path, **options: object) -> Engine:
        return Engine(
            name=name,
            file_format=form,
            adapter=f"bench.peers.{adapter}",
            python=python,
            model=file,
            options=options,
            reads_gguf=adapter == "llama_cpp",
        )

    found = [peer("llama.cpp", file_format, "llama_cpp", path)]
    if model == "smollm2":
        requantized = converted / "q4_0.gguf"
        reason = _requantize(python, path, requantized, threads)
        if reason:
            catalogue.missing["llama.cpp Q4_0"] = reason
        else:
            found.append(peer("llama.cpp", "Q4_0", "llama_cpp", requantized))
    found.append(
        peer(
            "OpenVINO GenAI",
            file_format,
            "openvino",
            path,
            save_dir=str(converted / "openvino"),
        )
    )
    found.append(
        peer("CTranslate2", "int8", "ctranslate2", path, folder=str(converted / "ctranslate2"))
    )
    refused = _refused(peers)
    if vllm is None:
        catalogue.missing["vLLM bfloat16"] = "not asked for (several gigabytes): VLLM=environment"
    else:
        refused |= _refused(vllm)
        engine = peer("vLLM", "bfloat16", "vllm", path, folder=str(converted / "hf"))
        found.append(replace(engine, python=vllm / "bin" / "python"))
    for engine in found:
        package = engine.adapter.rpartition(".")[2]
        if package in refused:
            catalogue.missing[engine.key] = refused[package]
        else:
            catalogue.engines.append(engine)
    return catalogue


def _digest(path: Path) -> str:
    """Converted files belong to one content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _refused(peers: Path) -> dict[str, str]:
    """By adapter, why its package could not be installed."""
    record = peers / "refused.json"
    return json.loads(record.read_text(encoding="utf8")) if record.exists() else {}


def _requantize(python: Path, source: Path, target: Path, threads: int) -> str | None:
    """Make llama.cpp's fastest format once; the reason if that fails."""
    if target.exists():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", "bench.peers.requantize", source, target, "MOSTLY_Q4_0"]
    try:
        result = subprocess.run(
            [*command, "--threads", str(threads)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
    except OSError as error:
        return f"its environment is missing: {error}"
    if result.returncode:
        return result.stderr.strip().splitlines()[-1][:200]
    return None
