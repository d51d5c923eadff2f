"""Reasoning between tags, in front of the answer."""

from __future__ import annotations

from .syntax import OutputSyntax, Region


def _tags(name: str, opening: str, closing: str) -> OutputSyntax:
    # A template may write the opening tag itself; white space behind it does not matter.
    region = Region(part="reasoning", opens=(opening,), closes=(closing,), starts_after=(opening,))
    return OutputSyntax(name=name, regions=(region,))


# DeepSeek-R1, Qwen3, GLM-4.5, SmolLM3, Granite 3.3, Kimi-K2-Thinking, …
THINK = _tags("think", "<think>", "</think>")
# Magistral
MISTRAL_THINK = _tags("mistral_think", "[THINK]", "[/THINK]")
# Command A Reasoning, Command R7B
COMMAND_THINK = _tags("command_think", "<|START_THINKING|>", "<|END_THINKING|>")
# Seed-OSS
SEED_THINK = _tags("seed_think", "<seed:think>", "</seed:think>")
