"""Runs the CUDA kernels on the host: needs g++ and NumPy. See ``emulator.h`` for how."""

from .buffers import GuardedBuffers
from .build import compile_kernels
from .emulator import Emulator, KernelError

__all__ = ["Emulator", "GuardedBuffers", "KernelError", "compile_kernels"]
