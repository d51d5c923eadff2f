"""Write a GGUF file in another of llama.cpp's types: its fastest one is not everybody's file.

python -m bench.peers.requantize SOURCE TARGET MOSTLY_Q4_0 --threads 2
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path


def main() -> None:
    """Requantize into a temporary file, then give it its name."""
    import llama_cpp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("file_type")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{arguments.file_type}")
    params.allow_requantize = True
    params.nthread = arguments.threads
    temporary = arguments.target.with_suffix(".part")
    status = llama_cpp.llama_model_quantize(
        str(arguments.source).encode(), str(temporary).encode(), ctypes.byref(params)
    )
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    temporary.rename(arguments.target)


if __name__ == "__main__":
    main()
