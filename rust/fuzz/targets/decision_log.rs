//! A log of decisions, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(DECISION_LOG);
