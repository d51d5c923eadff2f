//! A GGUF file's vocabulary, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(GGUF_VOCABULARY);
