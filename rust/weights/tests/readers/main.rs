//! The readers from outside: whole files in memory, on disk and in folders; good ones, damaged ones, hostile ones.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod damage;
mod folders;
mod gguf;
mod imposters;
mod mapping;
mod safetensors;
mod samples;
mod scratch;
mod writer;
