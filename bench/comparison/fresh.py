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
        ``one_bytes``: one process alone; ``all_bytes``: the sum over ``processes`` of them.

    Raises:
        EngineError: A process failed.
    """
    sums = []
    with ExitStack() as stack:
        running: list[EngineProcess] = []
        for index in range(processes):
            log = logs / f"shared-{index}.log"
            process = stack.enter_context(EngineProcess(engine, threads=threads, log=log))
            process.ask("prefill", prompt=WORKING_PROMPT)
            running.append(process)
            if index in (0, processes - 1):
                sums.append(sum(resident_bytes(each.process_id, weights) for each in running))
    return {"processes": processes, "one_bytes": sums[0], "all_bytes": sums[-1]}


def resident_bytes(process_id: int, weights: Sequence[Path]) -> int:
    """Proportional size of a process's anonymous memory and of its mappings of ``weights``."""
    smaps = Path(f"/proc/{process_id}/smaps").read_text(encoding="utf8", errors="replace")
    return counted_bytes(smaps, [path.resolve() for path in weights])  # as the kernel writes them


def counted_bytes(smaps: str, weights: Sequence[Path]) -> int:
    """The sum over the mappings that ``smaps`` lists."""
    total = 0
    is_counted = False
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0] and not words[0].endswith(":"):  # 7f00-7f10 r--p 00000000 08:01 42 /path
            path = words[5] if len(words) > 5 else ""
            is_file = path.startswith("/")
            is_counted = not is_file or any(Path(path).is_relative_to(own) for own in weights)
        elif words[0] == "Pss:" and is_counted:
            total += int(words[1]) * 1024
    return total
