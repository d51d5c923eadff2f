//! Each linear kernel as a share of the machine's limits: one JSON line per layout, shape and row count.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example kernels -- [--threads N] [--tier T] [--types a,b]
//! [--rows 1,2,8] [--shape OUTxIN] [--megabytes 64] [--repeats 9]`

#![expect(
    clippy::print_stdout,
    reason = "a measurement: JSON lines are its output"
)]

use std::collections::HashMap;
use std::error::Error;

use inferlib_cpu::measure::{Linear, int8_peak, read_bandwidth};
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
    let precision = match get("--precision", "fast").as_str() {
        "fast" => Precision::Fast,
        "balanced" => Precision::Balanced,
        "exact" => Precision::Exact,
        other => return Err(format!("--precision is fast or exact, not {other}").into()),
    };
    let shape = get("--shape", "1536x576");
    let (outputs, inputs) = shape.split_once('x').ok_or("--shape is OUTxIN")?;
    let shape: [usize; 2] = [outputs.parse()?, inputs.parse()?];
    let peak = int8_peak(tier, threads);
    let bandwidth = read_bandwidth(megabytes << 20, threads)?;
    println!(
        "{{\"tier\": \"{}\", \"threads\": {threads}, \"int8_peak_gops\": {:.0}, \"read_gb_s\": {:.1}}}",
        tier.name(),
        peak.unwrap_or(0.0) / 1e9,
        bandwidth / 1e9
    );
    for name in get("--types", "Q4_0,Q4_1,Q5_0,Q8_0,Q4_K,Q6_K").split(',') {
        let dtype = Dtype::ALL
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown type {name}"))?;
        for rows in get("--rows", "1,2,3,4,6,8,12,16,32,64,512").split(',') {
            let rows: usize = rows.parse()?;
            let mut linear = Linear::new(
                dtype,
                shape,
                rows,
                megabytes << 20,
                tier,
                threads,
                precision,
            )?;
            let mut seconds = linear.seconds(repeats)?;
            seconds.sort_by(f64::total_cmp);
            let (best, median) = (seconds[0], seconds[repeats / 2]);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let bytes = linear.weight_bytes() as f64;
            println!(
                "{{\"type\": \"{name}\", \"shape\": {shape:?}, \"rows\": {rows}, \"best_ms\": {:.3}, \"median_ms\": {:.3}, \"gb_s\": {:.1}, \"gops\": {:.0}, \"of_bandwidth\": {:.2}, \"of_peak\": {:.2}}}",
                best * 1e3,
                median * 1e3,
                bytes / best / 1e9,
                linear.operations() / best / 1e9,
                bytes / best / bandwidth,
                peak.map_or(0.0, |peak| linear.operations() / best / peak),
            );
        }
    }
    Ok(())
}
