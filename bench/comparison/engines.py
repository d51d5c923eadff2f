"""The engines that are compared, and the processes that they run in."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from bench import machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .workloads import Workload

ROOT = Path(__file__).parent.parent.parent
ANSWER_SECONDS = 900
IDLE_SLICE_SECONDS = 0.05
IDLE_WAIT_SECONDS = 2.0


Role = Literal["ours", "balanced", "drafting", "peer"]
"""inferlib without drafting; in ``precision="balanced"``; with drafting; another engine."""


class EngineError(Exception):
    """An engine did not start, or did not do what it was asked; the message is its own reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One column of the comparison.

    Attributes:
        name: ``inferlib``, ``llama.cpp`` …
        file_format: How its weights are stored: ``Q4_1``, ``int8`` …
        adapter: Module with the class ``Engine`` that drives it, see ``bench/peers/protocol.py``.
        python: Interpreter of the environment that it is installed in.
        model: File that it loads.
        options: For the adapter.
        role: What it is in the comparison, see ``Role``.
        reads_gguf: Whether another engine computes from the file's own bytes, so that what a token
            reads is known.
    """

    name: str
    file_format: str
    adapter: str
    python: Path
    model: Path
    options: Mapping[str, object] = field(default_factory=dict)
    role: Role = "peer"
    reads_gguf: bool = False

    def runs(self, workload: Workload) -> bool:
        """Whether this workload is for this engine: repetitive text compares ours with ours."""
        if workload.is_repetitive:
            return self.role in ("ours", "drafting")
        return self.role != "drafting"

    @property
    def key(self) -> str:
        """Name and format, as in results."""
        return f"{self.name} {self.file_format}"

    def command(self, module: str, threads: int, *further: str) -> list[str]:
        """The command that runs ``module`` of ``bench.peers`` for this engine."""
        return [
            str(self.python),
            "-m",
            f"bench.peers.{module}",
            self.adapter,
            str(self.model),
            "--threads",
            str(threads),
            "--options",
            json.dumps(self.options),
            *further,
        ]


class EngineProcess:
    """An engine with its model loaded, waiting for requests.

    Args:
        engine: What to run.
        threads: Threads that it may use.
        log: Where its own output goes.

    Raises:
        EngineError: It did not start.
    """

    def __init__(self, engine: Engine, *, threads: int, log: Path) -> None:
        self.engine = engine
        self._log = log
        with log.open("w") as errors:
            try:
                self._process = subprocess.Popen(
                    engine.command("protocol", threads),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=ROOT,
                )
            except OSError as error:
                raise EngineError(f"its environment is missing: {error}") from error
        try:
            self.version = str(self._answer())
        except BaseException:
            self.close()
            raise

    def ask(self, ask: str, **arguments: object) -> Any:
        """Send one request and wait for its answer.

        Raises:
            EngineError: The engine could not do it, ended, or took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ask": ask, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EngineError(self._last_words()) from error
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            raise EngineError(f"no answer in {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(self._last_words())
        message = json.loads(line)
        if "error" in message:
            raise EngineError(message["error"])
        return message["answer"]

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return f"its process ended: {last[:160]}"

    @property
    def process_id(self) -> int:
        """For ``/proc``."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time of all its threads since it began."""
        return cpu_seconds(self._process.pid)

    def settle(self) -> bool:
        """Wait until it uses no processor any more; ``False`` if it does not stop."""
        deadline = time.monotonic() + IDLE_WAIT_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(IDLE_SLICE_SECONDS)
            if self.cpu_seconds() == before:
                return True
        return False

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it may have ended
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process and all its threads; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf8")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return (int(fields[11]) + int(fields[12])) / machine.TICKS_PER_SECOND
