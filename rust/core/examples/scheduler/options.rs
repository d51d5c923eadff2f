//! The command line: `--name value` pairs, each known.

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

/// What was given and not asked for yet.
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    pub(crate) fn read(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut options = BTreeMap::new();
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            options.insert(name, value);
        }
        Ok(Self(options))
    }

    pub(crate) fn text(&mut self, name: &str, default: &str) -> String {
        self.0.remove(name).unwrap_or_else(|| default.to_owned())
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        match self.0.remove(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error| format!("{name} is {text:?}: {error}")),
        }
    }

    /// Whatever is left is misspelt.
    pub(crate) fn finish(self) -> Result<(), Box<dyn Error>> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("there is no option {name}").into()),
            None => Ok(()),
        }
    }
}
