//! `model.safetensors.index.json`, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(SHARD_INDEX);
