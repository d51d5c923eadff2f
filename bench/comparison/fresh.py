"""What a fresh process costs: time to the first token, peak memory, and memory that is shared."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .engines import ROOT, EngineError, EngineProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engines import Engine

KV_TOKENS = 2048
LOAD_SECONDS = 300
WORKING_PROMPT = list(range(1000, 1064))
"""What each of several processes has done when their memory is looked at."""


def start(engine: Engine, *, threads: int, fill: int | None = None) -> dict[str, float]:
    """Load in a process of its own, make one token, fill the KV cache.

    Returns:
        ``seconds`` to the first token, ``load_peak_bytes``, and with ``fill``
        ``filled_peak_bytes``.

    Raises:
        EngineError: The process failed.
    """
    further = () if fill is None else ("--fill", str(fill))
    try:
        result = subprocess.run(
            engine.command("fresh", threads, *further),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=LOAD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(str(error)) from error
    if result.returncode:
        lines = [line for line in result.stderr.split("\n") if line.strip()] or ["no message"]
        raise EngineError(lines[-1].strip()[:200])
    return json.loads(result.stdout.splitlines()[-1])


def shared(
    engine: Engine, weights: Sequence[Path], *, processes: int, threads: int, logs: Path
) -> dict[str, float]:
    """Several processes on one model, each having worked: physical memory of all together.

    A page that n processes map counts 1/n in each (PSS), so the sum over all is physical memory.
    Counted are anonymous memory and mappings of ``weights`` (files, or folders of files): not the
    libraries, which all processes share anyway.

    Returns:
        ``one_anonymous_bytes`` and ``one_mapped_bytes`` of one process alone;
        ``all_anonymous_bytes`` and ``all_mapped_bytes``: the sums over ``processes`` of them.

    Raises:
        EngineError: A process failed.
    """
    found: dict[str, float] = {"processes": processes}
    # Who packs the weights for the others uses memory for it, and is not one that is counted.
    EngineProcess(engine, threads=threads, log=logs / "shared-first.log").close()
    with ExitStack() as stack:
        running: list[EngineProcess] = []
        for index in range(processes):
            log = logs / f"shared-{index}.log"
            process = stack.enter_context(EngineProcess(engine, threads=threads, log=log))
            process.ask("prefill", prompt=WORKING_PROMPT)
            running.append(process)
            for name, is_due in (("one", index == 0), ("all", index == processes - 1)):
                if is_due:
                    parts = [resident_bytes(each.process_id, weights) for each in running]
                    anonymous, mapped = (sum(column) for column in zip(*parts, strict=True))
                    found[f"{name}_anonymous_bytes"] = anonymous
                    found[f"{name}_mapped_bytes"] = mapped
    return found


def resident_bytes(process_id: int, weights: Sequence[Path]) -> tuple[int, int]:
    """Proportional sizes of a process's anonymous memory and of its mappings of ``weights``."""
    smaps = Path(f"/proc/{process_id}/smaps").read_text(encoding="utf8", errors="replace")
    return counted_bytes(smaps, [path.resolve() for path in weights])  # as the kernel writes them


def counted_bytes(smaps: str, weights: Sequence[Path]) -> tuple[int, int]:
    """Sums over the mappings that ``smaps`` lists: anonymous ones, and those of ``weights``."""
    anonymous = mapped = 0
    path = ""
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0] and not words[0].endswith(":"):  # 7f00-7f10 r--p 00000000 08:01 42 /path
            path = words[5] if len(words) > 5 else ""
        elif words[0] == "Pss:":
            size = int(words[1]) * 1024
            if not path.startswith("/"):
                anonymous += size
            elif any(Path(path).is_relative_to(own) for own in weights):
                mapped += size
    return anonymous, mapped
