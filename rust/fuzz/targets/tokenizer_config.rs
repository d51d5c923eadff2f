//! `tokenizer_config.json`, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(TOKENIZER_CONFIG);
