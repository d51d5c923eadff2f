//! `tokenizer.json`, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(TOKENIZER_JSON);
