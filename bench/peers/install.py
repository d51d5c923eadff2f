"""Make the environment of the other engines: one package after another, each may fail.

    python -m bench.peers.install FOLDER

What is installed already, in the right version, is left alone. What cannot be installed is written
to ``FOLDER/refused.json`` with pip's reason; the comparison reports it as missing and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
ADAPTERS = {
    "llama-cpp-python": "llama_cpp",
    "openvino-genai": "openvino",
    "ctranslate2": "ctranslate2",
    "gguf": "ctranslate2",
}
"""By package: the adapter that cannot work without it."""
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
"""llama.cpp is built for this processor, as its users are told to do."""


def requirements(text: str) -> dict[str, str]:
    """Package → version."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return dict(line.split("==") for line in lines if line)


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


def install(python: Path, package: str, version: str) -> str | None:
    """Install one package; the reason if it cannot be."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    result = subprocess.run(
        [*command, f"{package}=={version}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **BUILD},
    )
    if not result.returncode:
        return None
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
    return f"{package}=={version} cannot be installed: {errors[-1][:160]}"


def main() -> None:
    """Install all, record what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    refused: dict[str, str] = {}
    for package, version in requirements(REQUIREMENTS.read_text(encoding="utf8")).items():
        if installed(python, package) == version:
            continue
        print(f"installing {package}=={version}", flush=True)
        reason = install(python, package, version)
        if reason is not None:
            print(reason, flush=True)
            refused.setdefault(ADAPTERS.get(package, package), reason)
    (folder / "refused.json").write_text(json.dumps(refused, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
