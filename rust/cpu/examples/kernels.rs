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

mod options;

use std::error::Error;
use std::time::Duration;

use inferlib_cpu::Precision;
use inferlib_cpu::measure::{Layout, Limits, Linear};
use inferlib_weights::Dtype;
use options::Options;

/// The type's name for `Q8_0` whose rows have one scale each.
const ROW_SCALES: &str = "INT8";

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let tier = options.tier()?;
    let threads = options.threads()?;
    let megabytes: usize = options.number("--megabytes", "96")?;
    let repeats: usize = options.number("--repeats", "9")?;
    let time = Duration::from_millis(options.number("--milliseconds", "100")?);
    let precision = match options.text("--precision", "fast").as_str() {
        "fast" => Precision::Fast,
        "balanced" => Precision::Balanced,
        "exact" => Precision::Exact,
        other => {
            return Err(format!("--precision is fast, balanced or exact, not {other}").into());
        }
    };
    let rows: Vec<usize> = options
        .text("--rows", "1,2,4,6,8,16,64,512")
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    for shape in options.text("--shapes", "1536x576").split(',') {
        let (outputs, inputs) = shape.split_once('x').ok_or("--shapes are OUTxIN")?;
        let shape: [usize; 2] = [outputs.parse()?, inputs.parse()?];
        for name in options
            .text("--types", "Q4_0,Q4_1,Q5_0,Q8_0,Q4_K,Q6_K")
            .split(',')
        {
            let layout = if name.eq_ignore_ascii_case(ROW_SCALES) {
                Layout::RowScales
            } else {
                let dtype = Dtype::ALL
                    .into_iter()
                    .find(|dtype| dtype.name().eq_ignore_ascii_case(name))
                    .ok_or_else(|| format!("unknown type {name}"))?;
                Layout::Of(dtype)
            };
            if !shape[1].is_multiple_of(layout.dtype().block_size()) {
                continue;
            }
            println!("{}", Limits::measure(tier, threads, megabytes << 20)?);
            let linear = Linear::new(layout, shape, megabytes << 20, tier, threads, precision)?;
            for &rows in &rows {
                let pass = linear.passes(rows, repeats, time)?;
                let (best, median) = (pass.seconds[0], pass.seconds[pass.seconds.len() / 2]);
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let (bytes, operations) = (pass.bytes as f64, pass.operations as f64);
                println!(
                    "{{\"type\": \"{}\", \"shape\": {shape:?}, \"rows\": {rows}, \"best_ms\": {:.4}, \"median_ms\": {:.4}, \"gb_s\": {:.2}, \"gops\": {:.1}}}",
                    name.to_ascii_uppercase(),
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
