//! A chat template, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(CHAT_TEMPLATE);
