//! Times and their summary, as flat JSON.

use std::fmt::Write;
use std::time::Instant;

/// Durations of equal pieces of work, in nanoseconds.
#[derive(Default)]
pub(crate) struct Times(Vec<u64>);

impl Times {
    /// Time `work` as one piece.
    pub(crate) fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0.push(start.elapsed().as_nanos() as u64);
        result
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Two pieces are one: those at equal places together.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a + b).collect())
    }

    /// The value that this share of the pieces does not exceed; 0 without pieces.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or(0)
    }

    pub(crate) fn median(&self) -> u64 {
        self.quantile(0.5)
    }
}

/// Time that this process, which has one thread, was running for: others on the machine do not count. `None` where the
/// system does not tell.
pub(crate) fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

/// One line of output.
pub(crate) struct Line(String);

impl Line {
    pub(crate) fn of(kind: &str) -> Self {
        Self(format!("{{\"kind\": \"{kind}\""))
    }

    pub(crate) fn number(mut self, name: &str, value: f64) -> Self {
        write!(self.0, ", \"{name}\": {value}").expect("writing to a string cannot fail");
        self
    }

    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        write!(self.0, ", \"{name}\": \"{value}\"").expect("writing to a string cannot fail");
        self
    }

    /// Best, median, 99th percentile and maximum of pieces of `count` things each, in ns per thing.
    pub(crate) fn times(self, name: &str, times: &Times, count: usize) -> Self {
        let per_thing = |ns: u64| ns as f64 / count as f64;
        self.number(&format!("{name}_ns"), per_thing(times.median()))
            .number(&format!("{name}_ns_best"), per_thing(times.quantile(0.0)))
            .number(&format!("{name}_ns_p99"), per_thing(times.quantile(0.99)))
            .number(&format!("{name}_ns_max"), per_thing(times.quantile(1.0)))
    }

    pub(crate) fn print(self) {
        println!("{}}}", self.0);
    }
}
