//! A JSON schema, for libFuzzer.
#![no_main]

inferlib_fuzz::fuzz!(JSON_SCHEMA);
