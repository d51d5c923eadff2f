"""Which instructions a kernel must have become, and which not: ``nvdisasm``, without a driver."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ENTRY = re.compile(r"\.text\.(\w+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")

# Kernels (whole name) → opcodes that each must have; on architectures from sm_80 on.
REQUIRED = {
    r"(linear_few|gated_few|lm_head_argmax)_b?f16_\w+": (
        r"HMMA\.16816\.F32",
        r"LDG\S*\.(128|64)\.CONSTANT",
    ),
    r"(linear_many|gated_many|moe_gated|(moe|head)_linear)_b?f16_\w+": (
        r"HMMA\.16816\.F32",
        r"LDSM\S*\.4",
        r"LDGSTS\S*\.128",
    ),
    r"(linear|attention_prefill)_sm90_\w+": ("HGMMA", "UTMALDG", r"SYNCS\.\S*TRYWAIT"),
    r"attention_(decode|prefill)_b?f16_\d+": (
        *(r"HMMA\.16816\.F32", r"LDSM\S*\.M88\.4", r"LDSM\S*\.MT88\.4", r"LDGSTS\S*\.128"),
    ),
    r"((moe_|head_)?linear|(rms|layer)_norm(_add)?|add|scale|gather_rows)_f32\w*": (
        r"(LDG|LD)\S*\.128",
    ),
    r"((rms|layer)_norm(_add)?|add|scale|gather_rows)_b?f16": (r"(LDG|LD)\S*\.64",),
    r"attention_latent_f32": (r"(LDG|LD)\S*\.128",),
    r"attention_latent_b?f16": (r"(LDG|LD)\S*\.64",),
}
# Local memory means spilled registers or an array that was not unrolled.
FORBIDDEN = {
    r"((head_)?linear|gated|moe|lm_head|attention|rms_norm|layer_norm|sample)_\w+": (
        *(r"STL\b.*", r"LDL\b.*"),
    )
}


def disassembler() -> Path:
    """The tool of NVIDIA's wheel.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = importlib.util.find_spec("nvidia")
    for root in (found and found.submodule_search_locations) or ():
        for tool in Path(root).glob("*/bin/nvdisasm"):
            return tool
    raise FileNotFoundError("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")


def opcodes(cubin: bytes) -> dict[str, Counter[str]]:
    """Kernel → how often each instruction occurs in it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(disassembler()), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    kernel = ""
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            kernel = entry[1]
        elif instruction := _INSTRUCTION.match(line):
            counts[kernel][instruction[1]] += 1
    return counts


def problems(architecture: str, counts: Mapping[str, Counter[str]]) -> Iterator[str]:
    """What is missing or should not be there."""
    for kernel, found in counts.items():
        for names, patterns in REQUIRED.items():
            for pattern in patterns if re.fullmatch(names, kernel) else ():
                if not any(re.fullmatch(rf"{pattern}.*", opcode) for opcode in found):
                    yield f"{kernel} on {architecture} has no {pattern}"
        for names, patterns in FORBIDDEN.items():
            for pattern in patterns if re.fullmatch(names, kernel) else ():
                for opcode in found:
                    if re.fullmatch(pattern, opcode):
                        yield f"{kernel} on {architecture} has {found[opcode]} {opcode}"
