"""Expressions of quantization configurations: what they match, and which are refused."""

from __future__ import annotations

import re

import pytest

from inferlib.errors import ModelFormatError, UnsupportedModelError
from inferlib.quantized.patterns import name_matcher

NAMES = [
    "lm_head",
    "model.embed_tokens",
    "model.layers.0.mlp.gate",
    "model.layers.0.mlp.gate_proj",
    "model.layers.10.self_attn.q_proj",
    "model.layers.3.mlp.experts.17.down_proj",
    "vision_tower.blocks.1.fc",
]


@pytest.mark.parametrize(
    "pattern",
    [
        ".*lm_head",
        r".*mlp\.gate$",
        r"model\.layers\.\d+\.self_attn\.[qkvo]_proj",
        r"(?!vision).*\.(gate|up|down)_proj$",
        r"(.*lm_head|.*embed.*|.*fc|.*norm.*|.*router|.*shared.*)",
        r"model\.layers\.(0|1|2|3)\.(self_attn|mlp)\..*",
        r".*layers\.1?\d\..*_proj.*",
        r"[^\].]+\.embed[[\]_a-z]*",
        r"model\.layers\.\d{2}\.",
        ".+?proj",
        "",
    ],
)
def test_they_match_as_pythons_do(pattern):
    matches = name_matcher(pattern, "here")
    assert [matches(name) for name in NAMES] == [bool(re.match(pattern, name)) for name in NAMES]


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|a)*b",
        "(.*){9}b",
        ".*" * 5 + "b",
        "a?" * 60 + "a" * 60,
        "(a|a)" * 60 + "b",
        "((a|a)(a|a)(a|a)|b)" * 12,
        r"(.*)\1\1b",
        "(?P<x>.*)(?P=x)",
        "(?i)lm_head",
        "(?x) (a # )+ \n+)+ b",
        "a" * 20_000,
    ],
)
def test_what_could_take_long_is_refused(pattern):
    with pytest.raises(UnsupportedModelError, match=r"^here: the expression .* too long to match"):
        name_matcher(pattern, "here")


@pytest.mark.parametrize("pattern", ["[", "(", "*", r"\g", "a{9999999999999}"])
def test_what_is_no_expression_is_refused(pattern):
    with pytest.raises(ModelFormatError, match=r"^here: .* is no regular expression"):
        name_matcher(pattern, "here")


def test_names_that_are_too_long_match_nothing():
    assert not name_matcher(".*", "here")("a" * 201)
    assert name_matcher(".*", "here")("a" * 200)
