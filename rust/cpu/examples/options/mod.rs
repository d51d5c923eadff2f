//! Command lines of the examples: `--name value` pairs.

use std::collections::HashMap;
use std::error::Error;
use std::str::FromStr;

use inferlib_cpu::{CpuError, Tier, available_cores};

/// What was given.
pub(crate) struct Options(HashMap<String, String>);

impl Options {
    /// Of this process.
    pub(crate) fn read() -> Result<Self, Box<dyn Error>> {
        let mut options = HashMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            options.insert(name, value);
        }
        Ok(Self(options))
    }

    /// A text.
    pub(crate) fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or(default.to_owned())
    }

    /// A number.
    pub(crate) fn number<T: FromStr>(&self, name: &str, default: &str) -> Result<T, T::Err> {
        self.text(name, default).parse()
    }

    /// `--tier`, or the best.
    pub(crate) fn tier(&self) -> Result<Tier, CpuError> {
        Tier::choose(self.0.get("--tier").map(String::as_str))
    }

    /// `--threads`, or a thread per core.
    pub(crate) fn threads(&self) -> Result<usize, std::num::ParseIntError> {
        self.number("--threads", &available_cores().to_string())
    }
}
