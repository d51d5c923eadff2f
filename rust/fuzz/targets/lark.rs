//! A grammar of Lark, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(LARK);
