//! Each linear kernel beside the machine's limits: JSON lines, one for the limits before each matrix, one per row count.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example kernels -- [--threads N] [--tier T] [--types a,b]
//! [--rows 1,2,8] [--shapes OUTxIN,OUTxIN] [--megabytes 96] [--repeats 9] [--milliseconds 100] [--precision fast]`
//!
//! A type whose blocks do not divide a shape's columns is passed over.

#![expect(
    clippy::print_stdout,
    reason = "a measurement: JSON lines are its output"
)]

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use inferlib_cpu::measure::{Linear, float_peak, int8_peak, read_bandwidth};
use inferlib_cpu::{Precision, Tier, available_cores};
use inferlib_weights::Dtype;

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
    let megabytes: usize = get("--megabytes", "96").parse()?;
    let repeats: usize = get("--repeats", "9").parse()?;
    let time = Duration::from_millis(get("--milliseconds", "100").parse()?);
    let precision = match get("--precision", "fast").as_str() {
        "fast" => Precision::Fast,
        "balanced" => Precision::Balanced,
        "exact" => Precision::Exact,
        other => {
            return Err(format!("--precision is fast, balanced or exact, not {other}").into());
        }
    };
    let rows: Vec<usize> = get("--rows", "1,2,4,6,8,16,64,512")
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    for shape in get("--shapes", "1536x576").split(',') {
        let (outputs, inputs) = shape.split_once('x').ok_or("--shapes are OUTxIN")?;
        let shape: [usize; 2] = [outputs.parse()?, inputs.parse()?];
        for name in get("--types", "Q4_0,Q4_1,Q5_0,Q8_0,Q4_K,Q6_K").split(',') {
            let dtype = Dtype::ALL
                .into_iter()
                .find(|dtype| dtype.name().eq_ignore_ascii_case(name))
                .ok_or_else(|| format!("unknown type {name}"))?;
            if !shape[1].is_multiple_of(dtype.block_size()) {
                continue;
            }
            let gops = |peak: Option<f64>| peak.unwrap_or(0.0) / 1e9;
            println!(
                "{{\"tier\": \"{}\", \"threads\": {threads}, \"int8_peak_gops\": {:.1}, \"float_peak_gops\": {:.1}, \"read_gb_s\": {:.2}}}",
                tier.name(),
                gops(int8_peak(tier, threads)),
                gops(float_peak(tier, threads)),
                read_bandwidth(megabytes << 20, threads)? / 1e9
            );
            let linear = Linear::new(dtype, shape, megabytes << 20, tier, threads, precision)?;
            for &rows in &rows {
                let pass = linear.passes(rows, repeats, time)?;
                let (best, median) = (pass.seconds[0], pass.seconds[pass.seconds.len() / 2]);
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let (bytes, operations) = (pass.bytes as f64, pass.operations as f64);
                println!(
                    "{{\"type\": \"{}\", \"shape\": {shape:?}, \"rows\": {rows}, \"best_ms\": {:.4}, \"median_ms\": {:.4}, \"gb_s\": {:.2}, \"gops\": {:.1}}}",
                    dtype.name(),
                    best * 1e3,
                    median * 1e3,
                    bytes / best / 1e9,
                    operations / best / 1e9,
                );
            }
        }
    }
    Ok(())
}
