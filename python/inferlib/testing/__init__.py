"""Test kit for those who build on inferlib: small models, scripted answers, faults to order.

``tiny_model()`` is a whole ``Model`` (tokenizer, scheduler, kernels, streams) whose weights are
random numbers made in code. What it says is nonsense, but the same nonsense for the same seed.
``ScriptedModel([...])`` says what a test wants it to say, through the same scheduler, at the time
of a clock that stands still. ``Faults`` lets either fail: a step, an allocation, a device, a panic.
"""

from __future__ import annotations

from .faults import Faults
from .scripted import Clock, ScriptedModel
from .tiny import (
    BOS_ID,
    BOS_TOKEN,
    CHAT_TEMPLATE,
    EOS_ID,
    EOS_TOKEN,
    VOCAB_SIZE,
    byte_tokenizer,
    byte_tokenizer_files,
    load_random_weights,
    tiny_model,
    tiny_spec,
)

__all__ = [
    "BOS_ID",
    "BOS_TOKEN",
    "CHAT_TEMPLATE",
    "EOS_ID",
    "EOS_TOKEN",
    "VOCAB_SIZE",
    "Clock",
    "Faults",
    "ScriptedModel",
    "byte_tokenizer",
    "byte_tokenizer_files",
    "load_random_weights",
    "tiny_model",
    "tiny_spec",
]
