"""Checkpoints whose matrices change their types while they are loaded.

``unpacking.py``: folders that GPTQ, AWQ or compressed-tensors have quantized, or of 8-bit floats
with scales, as types that hold exactly the published numbers. ``quantizing.py``: float matrices as
smaller types, with the error that this makes.
"""

from __future__ import annotations

from .checkpoint_plan import CheckpointPlan
from .quantizing import (
    QuantizationDetails,
    QuantizationQuality,
    quality_text,
    quantize_matrices,
)
from .unpacking import unpack_checkpoint

__all__ = [
    "CheckpointPlan",
    "QuantizationDetails",
    "QuantizationQuality",
    "quality_text",
    "quantize_matrices",
    "unpack_checkpoint",
]
