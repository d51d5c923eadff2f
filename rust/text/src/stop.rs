//! Stop strings: text is held back while it could still become one, and ends where one is complete.
//!
//! What ends the text is the stop string whose last byte comes first; of several that end there, the longest. So the result
//! does not depend on how the text was cut into pieces. Cost: one step of Knuth-Morris-Pratt per byte and stop string.

use std::sync::Arc;

use crate::error::TextError;

/// The most stop strings of one request.
pub const MAX_STOPS: usize = 64;
/// The longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 1024;

/// The stop strings of a request, ready to be matched.
#[derive(Debug, Default)]
pub struct StopStrings {
    stops: Vec<Stop>,
}

#[derive(Debug)]
struct Stop {
    bytes: Box<[u8]>,
    /// For each length matched, the longest shorter one that is matched as well.
    shorter: Box<[u16]>,
}

impl StopStrings {
    /// Check and prepare: at most [`MAX_STOPS`], none empty, none longer than [`MAX_STOP_BYTES`].
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, TextError> {
        if stops.len() > MAX_STOPS {
            return Err(TextError::TooManyStops {
                count: stops.len(),
                limit: MAX_STOPS,
            });
        }
        let check = |(index, stop): (usize, &S)| match stop.as_ref().len() {
            0 => Err(TextError::InvalidStop {
                index,
                problem: "is empty; leave it out to stop nowhere",
            }),
            1..=MAX_STOP_BYTES => Ok(Stop::new(stop.as_ref().as_bytes())),
            _ => Err(TextError::InvalidStop {
                index,
                problem: "is longer than 1,024 bytes",
            }),
        };
        Ok(Self {
            stops: stops
                .iter()
                .enumerate()
                .map(check)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }
}

impl Stop {
    fn new(bytes: &[u8]) -> Self {
        let mut stop = Self {
            bytes: bytes.into(),
            shorter: vec![0; bytes.len() + 1].into(),
        };
        let mut matched = 0;
        for (index, &byte) in bytes.iter().enumerate().skip(1) {
            matched = stop.step(matched, byte);
            stop.shorter[index + 1] = matched;
        }
        stop
    }

    /// How much of the stop string the text ends with after one more byte.
    fn step(&self, matched: u16, byte: u8) -> u16 {
        let mut matched = matched;
        loop {
            if self.bytes.get(usize::from(matched)) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = self.shorter[usize::from(matched)];
        }
    }
}

/// Finds the stop strings of one request in its text, as the text arrives.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Arc<StopStrings>,
    include_stop: bool,
    /// By stop string, how much of it the text ends with.
    matched: Vec<u16>,
    /// The end of the text that may be the beginning of a stop string.
    held: String,
    stopped_by: Option<usize>,
}

impl StopMatcher {
    /// `include_stop` leaves the stop string in the text.
    #[must_use]
    pub fn new(stops: Arc<StopStrings>, include_stop: bool) -> Self {
        Self {
            matched: vec![0; stops.stops.len()],
            stops,
            include_stop,
            held: String::new(),
            stopped_by: None,
        }
    }

    /// Take more text, append what is certain to `out`; the index of the stop string that just ended the text, if one
    /// did. After that, further text is ignored.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.stopped_by.is_some() {
            return None;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return None;
        }
        for (place, &byte) in text.as_bytes().iter().enumerate() {
            if let Some((index, length)) = self.step(byte) {
                self.held.push_str(&text[..=place]);
                if !self.include_stop {
                    self.held.truncate(self.held.len() - length);
                }
                out.push_str(&self.held);
                self.held.clear();
                self.stopped_by = Some(index);
                return Some(index);
            }
        }
        self.held.push_str(text);
        let keep = self.matched.iter().copied().max().map_or(0, usize::from);
        out.extend(self.held.drain(..self.held.len() - keep));
        None
    }

    /// End the text: what was held back is text after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// The stop string that ended the text.
    #[must_use]
    pub fn stopped_by(&self) -> Option<usize> {
        self.stopped_by
    }

    /// Index and length of the longest stop string that is complete with this byte.
    fn step(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut longest: Option<(usize, usize)> = None;
        for (index, (stop, matched)) in self.stops.stops.iter().zip(&mut self.matched).enumerate() {
            *matched = stop.step(*matched, byte);
            let length = stop.bytes.len();
            if usize::from(*matched) == length && longest.is_none_or(|(_, other)| length > other) {
                longest = Some((index, length));
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[&str], include_stop: bool) -> (Vec<String>, Option<usize>) {
        let mut matcher =
            StopMatcher::new(Arc::new(StopStrings::new(stops).unwrap()), include_stop);
        let mut texts = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            matcher.push(piece, &mut out);
            texts.push(out);
        }
        let mut out = String::new();
        matcher.finish(&mut out);
        texts.push(out);
        (texts, matcher.stopped_by())
    }

    /// The definition: the stop string that ends first, of those the longest, of those the first in the list.
    fn naive(stops: &[String], text: &str, include_stop: bool) -> (String, Option<usize>) {
        for end in 0..=text.len() {
            let ends_here =
                |&index: &usize| text.as_bytes()[..end].ends_with(stops[index].as_bytes());
            let longest = (0..stops.len())
                .filter(ends_here)
                .max_by_key(|&index| (stops[index].len(), std::cmp::Reverse(index)));
            if let Some(index) = longest {
                let end = if include_stop {
                    end
                } else {
                    end - stops[index].len()
                };
                return (text[..end].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_gives_the_same(
            stops in proptest::collection::vec("[abé🙂]{1,5}", 0..5),
            pieces in proptest::collection::vec("[abcé🙂]{0,4}", 0..10),
            include_stop in any::<bool>(),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (texts, stopped_by) = run(&stops, &pieces, include_stop);
            prop_assert_eq!((texts.concat(), stopped_by), naive(&stops, &pieces.concat(), include_stop));
        }

        #[test]
        fn no_more_is_held_back_than_could_become_a_stop(
            stops in proptest::collection::vec("[ab]{1,5}", 1..4),
            text in "[abc]{0,12}",
        ) {
            let (texts, stopped_by) = run(&stops, &[&text], false);
            if stopped_by.is_none() {
                let could = |length: &usize| stops.iter().any(|stop| stop.starts_with(&text[text.len() - length..]));
                let longest = (1..=text.len()).filter(could).max().unwrap_or(0);
                prop_assert_eq!(texts[0].len(), text.len() - longest);
            }
        }
    }

    #[test]
    fn a_stop_may_straddle_pieces() {
        let stops = ["</fin>".to_owned(), "\n\n".to_owned()];
        let (texts, stopped_by) = run(&stops, &["a<", "/", "f", "in", "> b"], false);
        assert_eq!(
            (texts.join("|"), stopped_by),
            ("a|||||".to_owned(), Some(0))
        );
        let (texts, stopped_by) = run(&stops, &["a<", "/x\n", "y"], false);
        assert_eq!(
            (texts.join("|"), stopped_by),
            ("a|</x|\ny|".to_owned(), None)
        );
        let (texts, _) = run(&stops, &["a\n", "\nb"], true);
        assert_eq!(texts.concat(), "a\n\n");
    }

    #[test]
    fn unusable_stops_are_refused_with_their_place() {
        let refused = |stops: &[&str]| StopStrings::new(stops).unwrap_err();
        assert!(matches!(
            refused(&["a", ""]),
            TextError::InvalidStop { index: 1, .. }
        ));
        assert!(matches!(
            refused(&[&"a".repeat(1025)]),
            TextError::InvalidStop { index: 0, .. }
        ));
        assert!(matches!(
            refused(&["a"; 65]),
            TextError::TooManyStops {
                count: 65,
                limit: 64
            }
        ));
        assert!(StopStrings::new(&[&"a".repeat(1024)]).is_ok());
    }
}
