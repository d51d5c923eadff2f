//! A regular expression, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(REGEX);
