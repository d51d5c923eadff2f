//! Tokens that are matched literally in the text before it is split and merged: user-defined ones always, control
//! tokens where the caller says that the text may contain them.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::TextError;

/// A piece of text between or on added tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    /// Text to encode.
    Text(&'t str),
    /// An added token.
    Token(u32),
}

/// Finds added tokens; leftmost first, and of those that begin at one place the longest.
///
/// A token whose bytes are a part of a character is never found: text has whole ones, and so have the pieces of it.
#[derive(Debug)]
pub(crate) struct AddedTokens {
    matcher: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl AddedTokens {
    pub(crate) fn new<'a>(
        tokens: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Result<Self, TextError> {
        let (ids, patterns): (Vec<u32>, Vec<&str>) = tokens
            .filter_map(|(id, bytes)| Some((id, std::str::from_utf8(bytes).ok()?)))
            .filter(|(_, text)| !text.is_empty())
            .unzip();
        let build = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
        };
        let matcher = (!patterns.is_empty()).then(build).transpose();
        Ok(Self {
            matcher: matcher
                .map_err(|error| TextError::vocabulary("added tokens", error.to_string()))?,
            ids,
        })
    }

    /// Call `segment` with each piece of `text`, in order.
    pub(crate) fn split<'t>(&self, text: &'t str, mut segment: impl FnMut(Segment<'t>)) {
        let mut end = 0;
        if let Some(matcher) = &self.matcher {
            for found in matcher.find_iter(text) {
                if found.start() > end {
                    segment(Segment::Text(&text[end..found.start()]));
                }
                segment(Segment::Token(self.ids[found.pattern().as_usize()]));
                end = found.end();
            }
        }
        if end < text.len() {
            segment(Segment::Text(&text[end..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_leftmost_wins() {
        let tokens = [(7, "<a"), (8, "<ab>"), (9, "b>c"), (10, "")];
        let added =
            AddedTokens::new(tokens.iter().map(|&(id, text)| (id, text.as_bytes()))).unwrap();
        let mut segments = Vec::new();
        added.split("x<ab>c<a<", |segment| segments.push(segment));
        assert_eq!(
            segments,
            [
                Segment::Text("x"),
                Segment::Token(8),
                Segment::Text("c"),
                Segment::Token(7),
                Segment::Text("<")
            ]
        );
    }

    #[test]
    fn a_part_of_a_character_is_not_found() {
        let tokens: [(u32, &[u8]); 3] = [(1, &"字".as_bytes()[..1]), (2, b"\xad"), (3, b"a")];
        let added = AddedTokens::new(tokens.into_iter()).unwrap();
        let mut segments = Vec::new();
        added.split("字a字", |segment| segments.push(segment));
        assert_eq!(
            segments,
            [Segment::Text("字"), Segment::Token(3), Segment::Text("字")]
        );
    }

    #[test]
    fn without_tokens_the_text_is_one_piece() {
        let added = AddedTokens::new(std::iter::empty()).unwrap();
        let mut segments = Vec::new();
        added.split("x", |segment| segments.push(segment));
        added.split("", |segment| segments.push(segment));
        assert_eq!(segments, [Segment::Text("x")]);
    }
}
