//! What a token costs to draw: one JSON line per way of drawing.
//!
//! `cargo run --release -p inferlib-cpu --features measure --example sampling -- [VOCAB_SIZE] [TIER] [REPEATS]`

#![expect(
    clippy::print_stdout,
    reason = "a measurement: JSON lines are its output"
)]

use std::error::Error;

use inferlib_cpu::Tier;
use inferlib_cpu::measure::Sampling;
use inferlib_program::SamplingParams;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let get = |i: usize| arguments.get(i).map(String::as_str);
    let vocab_size: usize = get(0).unwrap_or("262144").parse()?;
    let tier = Tier::choose(get(1))?;
    let repeats: usize = get(2).unwrap_or("400").parse()?;
    let of = |temperature, top_k, top_p, min_p| SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        ..SamplingParams::default()
    };
    let (usual, flat) = (1.5, 0.5);
    for (name, exponent, params) in [
        ("greedy", usual, of(0.0, None, 1.0, 0.0)),
        ("temperature", usual, of(1.0, None, 1.0, 0.0)),
        ("top_k", usual, of(1.0, Some(50), 1.0, 0.0)),
        ("top_p", usual, of(1.0, None, 0.9, 0.0)),
        ("min_p", usual, of(1.0, None, 1.0, 0.05)),
        ("top_k, top_p, min_p", usual, of(1.0, Some(50), 0.9, 0.05)),
        ("top_k of a flat row", flat, of(1.0, Some(50), 1.0, 0.0)),
        ("top_p of a flat row", flat, of(1.0, None, 0.9, 0.0)),
        ("min_p of a flat row", flat, of(1.0, None, 1.0, 0.05)),
    ] {
        let mut sampling = Sampling::new(vocab_size, tier, exponent);
        let seconds = sampling.seconds(&params, repeats.max(1));
        println!(
            "{{\"sampling\": \"{name}\", \"tier\": \"{}\", \"vocab_size\": {vocab_size}, \"best_us\": {:.2}, \"median_us\": {:.2}}}",
            tier.name(),
            seconds[0] * 1e6,
            seconds[seconds.len() / 2] * 1e6
        );
    }
    Ok(())
}
