"""KV cache sizes as people write them, and what "auto" comes to."""

from __future__ import annotations

import pytest

from inferlib.config import EngineConfig, KvCacheSize, PromptLookup, format_bytes
from inferlib.errors import OutOfMemoryError, RequestError

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2GiB", 2 * GIB),
        ("2 gib", 2 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("500 MB", 500 * 10**6),
        ("500MiB", 500 * 2**20),
        ("1_000B", 1000),
        ("1,000 kB", 10**6),
        ("1TiB", 2**40),
    ],
)
def test_bytes(text, num_bytes):
    assert KvCacheSize.parse(text) == KvCacheSize(num_bytes=num_bytes)


@pytest.mark.parametrize(
    ("text", "num_tokens"),
    [("64k tokens", 65_536), ("8192 tokens", 8192), ("8,192 Tokens", 8192), ("1M tokens", 2**20)],
)
def test_tokens(text, num_tokens):
    assert KvCacheSize.parse(text) == KvCacheSize(num_tokens=num_tokens)


@pytest.mark.parametrize(
    "text",
    [
        4096,
        4096.0,
        None,
        True,
        "",
        "2",
        "2G",
        "GiB",
        "-2GiB",
        "0GiB",
        "0 tokens",
        "50%",
        "much",
        "1e9B",
        "2 GiB!",
        "64k",
    ],
)
def test_everything_else_is_refused_with_what_to_write(text):
    with pytest.raises(RequestError) as raised:
        KvCacheSize.parse(text)
    assert raised.value.field == "kv_cache"
    assert '"64k tokens"' in raised.value.hint


def test_a_given_size_becomes_blocks():
    size = {"block_bytes": 1000, "max_model_len": 2048, "free_bytes": GIB}
    assert KvCacheSize(num_tokens=33).num_blocks(**size) == 3
    assert KvCacheSize(num_bytes=2999).num_blocks(**size) == 2
    with pytest.raises(RequestError, match="not one block"):
        KvCacheSize(num_bytes=999).num_blocks(**size)


def test_more_than_is_free_is_refused_with_both_numbers():
    with pytest.raises(OutOfMemoryError) as raised:
        KvCacheSize(num_tokens=1600).num_blocks(
            block_bytes=1000, max_model_len=2048, free_bytes=50_000
        )
    assert (raised.value.required, raised.value.available) == (100_000, 50_000)


@pytest.mark.parametrize(
    ("max_model_len", "free_bytes", "blocks"),
    [
        (2048, GIB, 16 * 2048 // 16),  # 16 sequences
        (32_768, GIB, 16 * 4096 // 16),  # of at most 4,096 tokens
        (131_072, GIB, 131_072 // 16),  # but at least one of full length
        (2048, 1_000_000, 500),  # at most half of what is free
        (2048, 0, 1),
    ],
)
def test_auto_is_a_cap(max_model_len, free_bytes, blocks):
    size = KvCacheSize.parse("auto")
    assert (
        size.num_blocks(block_bytes=1000, max_model_len=max_model_len, free_bytes=free_bytes)
        == blocks
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "gpu0"),
        ("precision", "low"),
        ("precision", None),
        ("kv_cache_dtype", "f8"),
        ("kv_cache_dtype", None),
        ("driver", "process"),
        ("max_model_len", 0),
        ("max_model_len", 1.5),
        ("max_model_len", "8k"),
        ("threads", -1),
        ("threads", True),
        ("max_num_seqs", None),
        ("max_num_batched_tokens", 2**40),
        ("enable_prefix_caching", 1),
        ("speculation", "ngram"),
        ("speculation", None),
        ("speculation", 5),
        ("kv_cache", 3),
    ],
)
def test_invalid_settings_name_their_field(field, value):
    with pytest.raises(RequestError) as raised:
        EngineConfig(**{field: value})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("num_speculative_tokens", {"num_speculative_tokens": 0}),
        ("prompt_lookup_max", {"prompt_lookup_max": 9}),
        ("prompt_lookup_min", {"prompt_lookup_min": 0}),
        ("prompt_lookup_min", {"prompt_lookup_min": 3, "prompt_lookup_max": 2}),
        ("rows_per_pass", {"rows_per_pass": 0}),
        ("rows_per_pass", {"rows_per_pass": "6"}),
    ],
)
def test_invalid_lookups_name_their_field(field, options):
    with pytest.raises(RequestError) as raised:
        PromptLookup(**options)
    assert raised.value.field == field


WORDS = ("auto", "prompt_lookup", "draft_model", "off")


def test_speculation_is_a_word_or_says_how():
    lookup = PromptLookup(num_speculative_tokens=3)
    assert EngineConfig().prompt_lookup == PromptLookup()
    assert EngineConfig(speculation="off").prompt_lookup is None
    assert EngineConfig(speculation="prompt_lookup").prompt_lookup == PromptLookup()
    assert EngineConfig(speculation="draft_model").prompt_lookup is None
    asks = {word: EngineConfig(speculation=word).asks_draft_model for word in WORDS}
    assert asks == {"auto": True, "prompt_lookup": False, "draft_model": True, "off": False}
    assert EngineConfig(speculation=lookup).asks_draft_model
    assert EngineConfig(speculation=lookup).prompt_lookup is lookup


def test_settings_are_frozen_and_text_is_parsed():
    config = EngineConfig(kv_cache="1MiB", threads=2)
    assert config.kv_cache == KvCacheSize(num_bytes=2**20)
    with pytest.raises(AttributeError):
        config.threads = 3


def test_sizes_are_written_as_people_read_them():
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 * 2**20, 5 * GIB, 2**42)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "4.0 TiB",
    ]
