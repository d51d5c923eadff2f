//! What this machine can do at most, now: one JSON line.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example limits -- [--threads N] [--tier T]
//! [--megabytes 256]`

#![expect(
    clippy::print_stdout,
    reason = "a measurement: a JSON line is its output"
)]

use std::collections::HashMap;
use std::error::Error;

use inferlib_cpu::measure::{float_peak, int8_peak, read_bandwidth};
use inferlib_cpu::{Tier, available_cores};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        options.insert(name, value);
    }
    let get = |name: &str, default: &str| options.get(name).cloned().unwrap_or(default.to_owned());
    let tier = Tier::choose(options.get("--tier").map(String::as_str))?;
    let threads: usize = get("--threads", &available_cores().to_string()).parse()?;
    let megabytes: usize = get("--megabytes", "256").parse()?;
    let gops = |peak: Option<f64>| peak.unwrap_or(0.0) / 1e9;
    println!(
        "{{\"tier\": \"{}\", \"threads\": {threads}, \"int8_peak_gops\": {:.1}, \"float_peak_gops\": {:.1}, \"read_gb_s\": {:.2}}}",
        tier.name(),
        gops(int8_peak(tier, threads)),
        gops(float_peak(tier, threads)),
        read_bandwidth(megabytes << 20, threads)? / 1e9
    );
    Ok(())
}
