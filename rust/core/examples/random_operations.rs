//! Carry out random operations on the scheduler, seed after seed, checking everything after each: for hours if need be.
//!
//! `random_operations [--operations N] [--first-seed N] [--json FILE]`: progress goes to stderr, with the seed to go on
//! from; a failure names the seed, which alone shows it again (`--first-seed SEED --operations 1`).
#![expect(clippy::print_stderr, reason = "a program for a terminal")]
#![allow(
    clippy::allow_attributes,
    reason = "shared with the tests, each of which uses another part"
)]

#[path = "../tests/scheduler/lean_driver/mod.rs"]
mod lean_driver;

use std::error::Error;
use std::fmt::Write as _;
use std::time::Instant;

use lean_driver::{Counts, Driver};

const OPERATIONS_PER_SEED: usize = 2000;
const DEFAULT_OPERATIONS: u64 = 100_000_000;
/// Operations between two lines of progress.
const PROGRESS: u64 = 1_000_000;

struct Options {
    operations: u64,
    first_seed: u64,
    json: Option<String>,
}

fn read_options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        operations: DEFAULT_OPERATIONS,
        first_seed: 0,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--operations" => options.operations = value.replace('_', "").parse()?,
            "--first-seed" => options.first_seed = value.parse()?,
            "--json" => options.json = Some(value),
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = read_options()?;
    let start = Instant::now();
    let mut totals = Counts::default();
    let mut seed = options.first_seed;
    let mut next_line = PROGRESS;
    while totals.operations() < options.operations {
        let result = std::panic::catch_unwind(|| {
            let mut driver = Driver::new(seed);
            driver.run(OPERATIONS_PER_SEED);
            driver.counts
        });
        let Ok(counts) = result else {
            return Err(format!("seed {seed} failed; see above").into());
        };
        totals.add(&counts);
        seed += 1;
        if totals.operations() >= next_line {
            next_line += PROGRESS;
            eprintln!("{}", line(&totals, seed, start));
            // Whoever ends this early has what was done so far.
            write_json(&options, &totals, seed, start)?;
        }
    }
    eprintln!("{}", line(&totals, seed, start));
    write_json(&options, &totals, seed, start)
}

fn line(totals: &Counts, next_seed: u64, start: Instant) -> String {
    let (operations, seconds) = (totals.operations(), start.elapsed().as_secs_f64());
    format!(
        "{operations} operations in {seconds:.0} s, {:.0} per second; go on with --first-seed {next_seed}",
        per_second(operations, seconds)
    )
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(operations: u64, seconds: f64) -> f64 {
    operations as f64 / seconds.max(1e-9)
}

fn write_json(
    options: &Options,
    totals: &Counts,
    next_seed: u64,
    start: Instant,
) -> Result<(), Box<dyn Error>> {
    let Some(path) = &options.json else {
        return Ok(());
    };
    let seconds = start.elapsed().as_secs_f64();
    let mut json = String::from("{\n");
    writeln!(json, "  \"operations\": {},", totals.operations())?;
    writeln!(json, "  \"failures\": 0,")?;
    writeln!(json, "  \"seconds\": {seconds:.1},")?;
    let rate = per_second(totals.operations(), seconds);
    writeln!(json, "  \"operations_per_second\": {rate:.0},")?;
    writeln!(json, "  \"operations_per_seed\": {OPERATIONS_PER_SEED},")?;
    writeln!(json, "  \"first_seed\": {},", options.first_seed)?;
    writeln!(json, "  \"next_seed\": {next_seed},")?;
    let fields = totals.fields();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, count)| format!("    \"{name}\": {count}"))
        .collect();
    writeln!(json, "  \"counts\": {{\n{}\n  }}", fields.join(",\n"))?;
    json.push_str("}\n");
    std::fs::write(path, json)?;
    Ok(())
}
