//! What the scheduler costs, driven through its public interface with a pretended executor: JSON lines.
//!
//! `cargo run --release -p inferlib-core --example scheduler -- KIND [--name value …]`
//!
//! | kind | measures | options |
//! |---|---|---|
//! | `steps` | `schedule` and `update` while all decode | `--running --context --steps --warm-up --policy --rows plain\|penalties\|logprobs\|speculation` |
//! | `blocks` | taking, sharing and freeing blocks | `--pool --blocks --repeats` |
//! | `prefix` | hashing, verified lookup, publishing | `--pool --blocks --fills --lookups --order runs\|scattered` |
//! | `admission` | `submit` and the first step of a long prompt | `--tokens --repeats` |
//! | `fork` | `fork_sequence` of a held sequence | `--tokens --repeats` |
//! | `cancel` | `cancel` of a running request | `--tokens --repeats` |
//! | `fairness` | steps that a tenant waits while another floods | `--policy --flood --steps --warm-up --blocks` |
//! | `memory` | bytes per block | `--pool` |
//! | `replay` | a trace, all requests queued at once; its rows on stdin | `--blocks --max-num-seqs --max-num-batched-tokens --repeats` |
//!
//! All work is the same from run to run, so that two runs under callgrind which differ in one of `--steps`,
//! `--repeats`, `--fills` and `--lookups` differ in the instructions of that many of them.

#![expect(
    clippy::print_stdout,
    reason = "a measurement: JSON lines are its output"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts, token ids and nanoseconds are small"
)]

mod admissions;
mod blocks;
mod driving;
mod fairness;
mod memory;
mod options;
mod replay;
mod report;
mod steps;

use std::error::Error;

use options::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let mut options = Options::read(arguments)?;
    let measure = match kind.as_str() {
        "steps" => steps::measure,
        "blocks" => blocks::measure_pool,
        "prefix" => blocks::measure_prefixes,
        "admission" => admissions::measure_admission,
        "fork" => admissions::measure_fork,
        "cancel" => admissions::measure_cancel,
        "fairness" => fairness::measure,
        "memory" => memory::measure,
        "replay" => replay::measure,
        other => return Err(format!("there is no kind {other:?} of measurement").into()),
    };
    measure(&mut options)?;
    options.finish()
}
