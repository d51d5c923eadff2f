"""Everything about one model: start the engines, run the rounds, ask for quality, start anew."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import models, texts

from . import catalogue, fresh, quality
from .engines import EngineError, EngineProcess
from .rounds import Rounds
from .statistics import figure
from .workloads import WORKLOADS, repetition

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .engines import Engine
    from .known_quality import Known
    from .rounds import Report, Samples

SEED = 2024
LEAST_FRESH = 5
"""So often a fresh process is started, however few rounds there are; but once for one round."""
SLOW_START_SECONDS = 20.0
"""An engine that takes longer to start is started once."""
SHARING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is asked for.

    Attributes:
        peers: Environment of the other engines.
        vllm: Environment of vLLM, if it is wanted.
        work: Folder for converted files and logs.
        threads: Of every engine.
        rounds: How often everything is measured.
        positions: Of text, for quality.
        engines: Keys of other engines begin with one of these; empty: all.
        report: Told what is going on.
    """

    peers: Path
    vllm: Path | None
    work: Path
    threads: int
    rounds: int
    positions: int
    engines: tuple[str, ...]
    report: Report


def measure_model(
    model: str, path: Path, settings: Settings, known: Known | None = None
) -> dict[str, Any]:
    """All figures of one model, as they are stored; its quality from ``known`` if that is given."""
    settings.work.mkdir(parents=True, exist_ok=True)
    listed = catalogue.of_model(
        model,
        path,
        peers=settings.peers,
        vllm=settings.vllm,
        work=settings.work,
        threads=settings.threads,
    )
    if settings.engines:
        listed.engines = [
            engine
            for engine in listed.engines
            if engine.role != "peer" or engine.key.startswith(settings.engines)
        ]
    with ExitStack() as stack:
        processes = _start(listed, settings, stack)
        samples = _rounds(model, processes, settings)
        versions = {process.engine.key: process.version for process in processes}
        if known is None:
            qualities, quality_reasons, error = _quality(model, path, processes, settings)
        else:
            qualities, quality_reasons, error = known.quality(model, path.name, versions)
    engines = [engine for engine in listed.engines if engine.key in versions]
    starts = _fresh(engines, settings)
    shared, shared_reasons = _shared(path, engines, settings)
    return {
        "file": path.name,
        "format": catalogue.FORMATS[model],
        "layer_multiply_adds": models.layer_multiply_adds(path),
        "reference_error": error,
        "engines": {
            engine.key: _stored(engine, samples)
            | {"version": versions[engine.key]}
            | ({"quality": qualities[engine.key]} if engine.key in qualities else {})
            | ({"fresh": starts[engine.key]} if engine.key in starts else {})
            for engine in engines
        },
        "missing": listed.missing,
        "missing_roles": listed.missing_roles,
        "quality_reasons": quality_reasons,
        "foreign_share": figure(samples.foreign_share),
        "int8_peak_gop_s": figure(samples.int8_peak),
        "shared_memory": shared,
        "shared_memory_reasons": shared_reasons,
    }


def _start(listed: Catalogue, settings: Settings, stack: ExitStack) -> list[EngineProcess]:
    """Load every engine; those that fail are noted with their reason."""
    processes = []
    for engine in listed.engines:
        log = settings.work / f"{engine.key.replace(' ', '-')}.log"
        try:
            process = EngineProcess(engine, threads=settings.threads, log=log)
        except EngineError as error:
            listed.missing[engine.key] = str(error)
            listed.missing_roles.setdefault(engine.role, str(error))
            settings.report(f"{engine.key} is missing: {error}")
            continue
        processes.append(stack.enter_context(process))
        settings.report(f"{engine.key}: version {process.version}")
    return processes


def _rounds(model: str, processes: list[EngineProcess], settings: Settings) -> Samples:
    """Speed."""
    rounds = Rounds(processes, threads=settings.threads, seed=SEED, report=settings.report)
    workloads = list(WORKLOADS[model])
    ours = next((p for p in processes if p.engine.role == "ours"), None)
    if model == "smollm2" and ours is not None:
        workloads += [
            repetition(name, ours.ask("encode", text=text))
            for name, text in texts.repetitive().items()
        ]
    rounds.warm_up(workloads)
    rounds.run(workloads, settings.rounds)
    return rounds.samples


def _quality(
    model: str, path: Path, processes: list[EngineProcess], settings: Settings
) -> tuple[dict[str, dict[str, object]], dict[str, str], float]:
    """Divergence of every engine, why there is none, and how good the reference is."""
    scored = [process for process in processes if process.engine.role != "drafting"]
    log = settings.work / "exact.log"
    with (
        tempfile.TemporaryDirectory() as folder,
        EngineProcess(catalogue.exact(path), threads=settings.threads, log=log) as exact,
    ):
        error = quality.reference_error(exact, model, Path(folder))
        settings.report(f"float32 against transformers: {error:.1e} at most")
        windows = texts.windows(
            lambda text: exact.ask("encode", text=text), exact.ask("beginning"), settings.positions
        )
        found, reasons = quality.measure(
            exact, scored, windows, folder=Path(folder), report=settings.report
        )
    return found, reasons, error


def _fresh(engines: list[Engine], settings: Settings) -> dict[str, dict[str, object]]:
    """Time to the first token and peak memory, the engines in turn."""
    samples: dict[str, list[dict[str, float]]] = {}
    times = max(settings.rounds, LEAST_FRESH) if settings.rounds > 1 else 1
    for index in range(times):
        for engine in engines:
            known = samples.get(engine.key, [])
            if engine.role == "drafting" or (known and known[0]["seconds"] > SLOW_START_SECONDS):
                continue
            try:
                start = fresh.start(engine, threads=settings.threads, fill=fresh.KV_TOKENS)
            except EngineError as error:
                settings.report(f"{engine.key}: {error}")
                continue
            samples.setdefault(engine.key, []).append(start)
            report = f"start {index + 1}  {engine.key:<24} {start['seconds']:6.3f} s"
            settings.report(f"{report}  {start['filled_peak_bytes'] / 1e6:6.0f} MB")
    return {
        key: {name: figure([each[name] for each in found], best=min) for name in found[0]}
        for key, found in samples.items()
    }


def _shared(
    path: Path, engines: list[Engine], settings: Settings
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Memory of four processes: ours without and with a packed cache, and llama.cpp."""
    ours = next((engine for engine in engines if engine.role == "ours"), None)
    if ours is None:
        return {}, {}
    cache = settings.work / "packed"
    candidates: list[tuple[str, Engine, list[Path]]] = [(ours.key, ours, [])]
    reasons = {}
    if catalogue.has_option("packed_cache"):
        sharing = catalogue.packed_cache(path, ours.file_format, cache)
        candidates.append(("packed_cache", sharing, [cache]))
    else:
        reasons["packed_cache"] = "this inferlib has no packed_cache"
    candidates += [(engine.key, engine, [engine.model]) for engine in engines if engine.reads_gguf]
    found: dict[str, dict[str, float]] = {}
    for name, engine, weights in candidates:
        try:
            found[name] = fresh.shared(
                engine, weights, processes=SHARING, threads=settings.threads, logs=settings.work
            )
        except EngineError as error:
            reasons[name] = str(error)
            continue
        weight_bytes = models.decode_bytes(engine.model)
        one = found[name]["one_anonymous_bytes"] + found[name]["one_mapped_bytes"]
        if one < weight_bytes:
            reasons[name] = "its weights were not found among its memory mappings"
            del found[name]
            continue
        found[name]["weight_bytes"] = weight_bytes
        total = found[name]["all_anonymous_bytes"] + found[name]["all_mapped_bytes"]
        settings.report(f"{SHARING} processes of {name}: {total / 1e6:.0f} MB")
    shutil.rmtree(cache, ignore_errors=True)
    return found, reasons


def _stored(engine: Engine, samples: Samples) -> dict[str, Any]:
    """One engine's figures."""
    cells = samples.tokens_per_second.get(engine.key, {})
    stored: dict[str, Any] = {
        "name": engine.name,
        "format": engine.file_format,
        "role": engine.role,
        "tokens_per_second": {
            name: cell for name, values in cells.items() if (cell := figure(values)) is not None
        },
        "reasons": samples.reasons.get(engine.key, {}),
        "busy_share": round(samples.busy_share.get(engine.key, 0.0), 4),
    }
    bandwidth = figure(samples.read_bandwidth.get(engine.key, []))
    if bandwidth is not None:
        stored["read_bandwidth_gb_s"] = bandwidth
    if engine.role != "peer" or engine.reads_gguf:
        stored["decode_bytes"] = models.decode_bytes(engine.model)
    return stored
