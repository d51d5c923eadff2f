//! A GGUF file, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(GGUF);
