//! What a parse may take.

use std::time::{Duration, Instant};

use crate::memory::peak_of;
use crate::targets::Target;

/// Longest parse.
pub const LIMIT: Duration = Duration::from_secs(1);

impl Target {
    /// Parse, and count the memory.
    ///
    /// # Panics
    ///
    /// That is a finding: a panic of the parser, an accepted input that is not sound, or too much memory.
    pub fn check(&self, data: &[u8]) {
        let _accepted = self.accepts(data);
    }

    /// The same; whether the input was accepted.
    ///
    /// # Panics
    ///
    /// As [`Self::check`].
    #[must_use]
    pub fn accepts(&self, data: &[u8]) -> bool {
        let (peak, accepted) = peak_of(|| (self.parse)(data));
        let most = 2 * data.len() + self.extra_bytes;
        assert!(
            peak <= most,
            "{}: {peak} bytes for an input of {}; at most {most}",
            self.name,
            data.len()
        );
        accepted
    }

    /// The same in at most [`LIMIT`]; where it takes longer it is done again, and processor time counts.
    ///
    /// # Panics
    ///
    /// As [`Self::check`], and if it takes longer.
    pub fn check_in_time(&self, data: &[u8]) {
        let start = Instant::now();
        self.check(data);
        if start.elapsed() <= LIMIT {
            return;
        }
        let (start, before) = (Instant::now(), processor_time());
        self.check(data);
        let taken = match (before, processor_time()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => start.elapsed(),
        };
        assert!(taken <= LIMIT, "{}: {taken:?}", self.name);
    }
}

/// What all threads of this process have used, as Linux tells it in ticks of 10 ms.
fn processor_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}
