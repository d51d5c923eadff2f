//! Attention over blocks as a share of the machine's limits: one line per shape, rows and context.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example attention -- [--threads N] [--tier T]
//! [--dtype f16|bf16|int8|f32] [--only decode|prefill|batch] [--model NAME] [--repeats 9]`

#![expect(
    clippy::print_stdout,
    reason = "a measurement: JSON lines are its output"
)]

mod options;

use std::error::Error;

use inferlib_cpu::KvDtype;
use inferlib_cpu::measure::{Attention, Shape};
use options::Options;

const MODELS: [(&str, Shape); 4] = [
    ("smollm2", shape(9, 3, 64, 30, None)),
    ("gemma-local", shape(4, 1, 256, 15, Some(512))),
    ("gemma-full", shape(4, 1, 256, 3, None)),
    ("llama-8b", shape(32, 8, 128, 4, None)),
];

/// Workload, sequences, rows of each, context.
const WORKLOADS: [(&str, usize, usize, usize); 9] = [
    ("decode", 1, 1, 16),
    ("decode", 1, 1, 200),
    ("decode", 1, 1, 1024),
    ("decode", 1, 1, 8192),
    ("draft", 1, 6, 1024),
    ("batch", 32, 1, 96),
    ("prefill", 1, 128, 128),
    ("prefill", 1, 512, 512),
    ("prefill", 1, 512, 1024),
];

const fn shape(
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    num_layers: usize,
    window: Option<usize>,
) -> Shape {
    Shape {
        num_heads,
        num_kv_heads,
        head_dim,
        num_layers,
        window,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let tier = options.tier()?.name();
    let threads = options.threads()?;
    let repeats: usize = options.number("--repeats", "9")?;
    let dtype = options.text("--dtype", "f16");
    let dtype = KvDtype::ALL
        .into_iter()
        .find(|known| known.name() == dtype)
        .ok_or_else(|| format!("--dtype {dtype} is unknown"))?;
    let (only, model) = (options.text("--only", ""), options.text("--model", ""));
    for (name, shape) in MODELS {
        for (workload, num_seqs, rows, context) in WORKLOADS {
            if !workload.starts_with(&only) || !name.starts_with(&model) {
                continue;
            }
            let mut attention =
                Attention::new(shape, [num_seqs, rows, context], tier, threads, dtype)?;
            attention.seconds(3)?;
            let mut seconds = attention.seconds(repeats)?;
            seconds.sort_by(f64::total_cmp);
            let (best, median) = (seconds[0], seconds[repeats / 2]);
            println!(
                "{{\"model\": \"{name}\", \"work\": \"{workload} {num_seqs}x{rows}@{context}\", \"threads\": {threads}, \"best_us_layer\": {:.2}, \"median_us_layer\": {:.2}, \"gb_s\": {:.1}, \"gflops\": {:.0}}}",
                best * 1e6 / f64::from(u32::try_from(shape.num_layers)?),
                median * 1e6 / f64::from(u32::try_from(shape.num_layers)?),
                attention.bytes() / best / 1e9,
                attention.operations() / best / 1e9,
            );
        }
    }
    Ok(())
}
