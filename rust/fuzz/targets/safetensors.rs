//! A safetensors file, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(SAFETENSORS);
