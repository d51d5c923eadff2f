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

    /// The same in at most [`LIMIT`], or one of three times: the first time somebody else may have had the processor.
    ///
    /// # Panics
    ///
    /// As [`Self::check`], and if it takes longer.
    pub fn check_in_time(&self, data: &[u8]) {
        let mut least = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            self.check(data);
            least = least.min(start.elapsed());
            if least <= LIMIT {
                return;
            }
        }
        panic!("{}: {least:?} at least", self.name);
    }
}
