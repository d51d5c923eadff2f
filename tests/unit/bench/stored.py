"""Results as a run stores them, with round numbers."""

from __future__ import annotations

from bench.comparison.results import Results
from bench.comparison.statistics import figure


def engine(key, role, speeds, *, kld=None, fresh=None, **further):
    name, _, file_format = key.rpartition(" ")
    stored = {
        "name": name,
        "format": file_format,
        "role": role,
        "version": "1.0",
        "tokens_per_second": {workload: figure(rounds) for workload, rounds in speeds.items()},
        "reasons": {},
        "busy_share": 0.0,
        **further,
    }
    if kld is not None:
        stored["quality"] = {
            "positions": 20_400,
            "kld_mean": kld,
            "kld_99.9": 20 * kld,
            "kld_max": 1.0,
            "same_top1": 0.95,
            "tail_mass": 0.02,
        }
    if fresh is not None:
        seconds, at_load, filled = fresh
        stored["fresh"] = {
            "seconds": figure([seconds], best=min),
            "load_peak_bytes": figure([at_load * 1e6], best=min),
            "filled_peak_bytes": figure([filled * 1e6], best=min),
        }
    return stored


def model(engines, **further):
    return {
        "file": "model.gguf",
        "format": "Q4_1",
        "layer_multiply_adds": 100_000_000,
        "reference_error": 1e-4,
        "engines": engines,
        "missing": {},
        "missing_roles": {},
        "quality_reasons": {},
        "foreign_share": None,
        "int8_peak_gop_s": None,
        "shared_memory": {},
        "shared_memory_reasons": {},
        **further,
    }


def results(**models):
    on = {
        "date": "2024-02-29",
        "cpu": "Model T",
        "cores": 2,
        "commit": "abc1234",
        "threads": 2,
        "rounds": 3,
    }
    return Results({"measured_on": on, "models": models, "targets": []})


def smollm2():
    """Ours, llama.cpp in two formats, and an engine that is fast because it rounds."""
    return model(
        {
            "inferlib Q4_1": engine(
                "inferlib Q4_1",
                "ours",
                {"decode_16": [400.0, 200.0, 400.0], "prefill_512": [4000.0, 3000.0, 4000.0]},
                kld=0.004,
                fresh=(0.1, 150, 190),
                decode_bytes=100_000_000,
                read_bandwidth_gb_s=figure([50.0, 25.0, 40.0]),
            ),
            "llama.cpp Q4_1": engine(
                "llama.cpp Q4_1",
                "peer",
                {"decode_16": [100.0, 50.0, 200.0], "prefill_512": [500.0, None, 500.0]},
                kld=0.005,
                fresh=(0.3, 180, 210),
            ),
            "llama.cpp Q4_0": engine(
                "llama.cpp Q4_0", "peer", {"decode_16": [200.0, 100.0, 200.0]}, kld=0.4
            ),
            "Rounder Q4_1": engine(
                "Rounder Q4_1", "peer", {"prefill_512": [5000.0, 3000.0, 5000.0]}, kld=0.5
            ),
        }
    )
