//! What this machine can do at most, now.

use std::fmt;

use super::{float_peak, int8_peak, read_bandwidth};
use crate::error::CpuError;
use crate::tier::Tier;

/// Limits of some threads of one tier; displayed as a JSON line.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    tier: Tier,
    threads: usize,
    int8: Option<f64>,
    float: Option<f64>,
    read: f64,
}

impl Limits {
    /// Measure; reads go over `bytes`.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn measure(tier: Tier, threads: usize, bytes: usize) -> Result<Self, CpuError> {
        Ok(Self {
            tier,
            threads,
            int8: int8_peak(tier, threads),
            float: float_peak(tier, threads),
            read: read_bandwidth(bytes, threads)?,
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gops = |peak: Option<f64>| peak.unwrap_or(0.0) / 1e9;
        write!(
            f,
            "{{\"tier\": \"{}\", \"threads\": {}, \"int8_peak_gops\": {:.1}, \"float_peak_gops\": {:.1}, \"read_gb_s\": {:.2}}}",
            self.tier.name(),
            self.threads,
            gops(self.int8),
            gops(self.float),
            self.read / 1e9
        )
    }
}
