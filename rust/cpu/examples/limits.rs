//! What this machine can do at most, now: one JSON line.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example limits -- [--threads N] [--tier T]
//! [--megabytes 256]`

#![expect(
    clippy::print_stdout,
    reason = "a measurement: a JSON line is its output"
)]

mod options;

use std::error::Error;

use inferlib_cpu::measure::Limits;
use options::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let tier = options.tier()?;
    let threads = options.threads()?;
    let megabytes: usize = options.number("--megabytes", "256")?;
    println!("{}", Limits::measure(tier, threads, megabytes << 20)?);
    Ok(())
}
