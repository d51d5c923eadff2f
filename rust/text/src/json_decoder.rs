//! The `decoder` of a `tokenizer.json`, turned into the output bytes of each token.
//!
//! Decoding token by token can be exact only if a token's bytes do not depend on its neighbours. That holds for every
//! decoder here but for a space at the beginning of the text; the others (`BPEDecoder`, `CTC`, patterns) are refused.

use serde_json::Value;

use crate::byte_level;
use crate::error::TextError;
use crate::gguf::parse_byte;
use crate::token_table::LeadingSpace;

/// How tokens become bytes.
#[derive(Debug)]
pub(crate) struct TokenSpelling {
    steps: Vec<Step>,
    pub(crate) leading_space: LeadingSpace,
}

#[derive(Debug)]
enum Step {
    /// Characters of GPT-2's alphabet are bytes.
    ByteLevel,
    /// One string becomes another.
    Replace { from: String, to: String },
    /// `<0x41>` is a byte.
    ByteFallback,
    /// Cut one character, up to this many times, from both ends of each token.
    Strip {
        content: char,
        start: usize,
        end: usize,
    },
    /// Put a space before each token.
    Space,
    /// Continuations begin with a prefix, other tokens get a space; punctuation pulls up to the word before.
    WordPiece { prefix: String, cleanup: bool },
}

/// What `WordPiece` with `cleanup` replaces in each token.
const CLEANUP: &[(&str, &str)] = &[
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

impl TokenSpelling {
    pub(crate) fn of<T: serde::Serialize>(decoder: Option<&T>) -> Result<Self, TextError> {
        let mut spelling = Self {
            steps: Vec::new(),
            leading_space: LeadingSpace::Keep,
        };
        let Some(decoder) = decoder else {
            spelling.steps.push(Step::Space);
            spelling.leading_space = LeadingSpace::DropOne;
            return Ok(spelling);
        };
        let decoder = serde_json::to_value(decoder).unwrap_or_default();
        let mut is_fused = false;
        for step in flatten(&decoder) {
            spelling.add(step, &mut is_fused)?;
        }
        Ok(spelling)
    }

    fn add(&mut self, step: &Value, is_fused: &mut bool) -> Result<(), TextError> {
        let string = |name: &str| step[name].as_str();
        let number = |name: &str| {
            step[name]
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
        };
        let unsupported = || {
            TextError::UnsupportedTokenizer {
            field: "tokenizer.json: decoder",
            found: step.to_string(),
            supported: "ByteLevel, Metaspace, WordPiece, and Sequence of Replace, ByteFallback, Strip and Fuse".to_owned(),
        }
        };
        match string("type") {
            Some("ByteLevel") if !*is_fused => self.steps.push(Step::ByteLevel),
            Some("ByteFallback") if !*is_fused => self.steps.push(Step::ByteFallback),
            Some("Fuse") => *is_fused = true,
            Some("Replace") if !*is_fused => {
                let from = step["pattern"]["String"]
                    .as_str()
                    .ok_or_else(unsupported)?
                    .to_owned();
                let to = string("content").ok_or_else(unsupported)?.to_owned();
                self.steps.push(Step::Replace { from, to });
            }
            Some("Strip") => {
                let mut characters = string("content").unwrap_or_default().chars();
                let (Some(content), None, Some(start), Some(end)) = (
                    characters.next(),
                    characters.next(),
                    number("start"),
                    number("stop"),
                ) else {
                    return Err(unsupported());
                };
                match (*is_fused, content, start, end) {
                    (false, ..) => self.steps.push(Step::Strip {
                        content,
                        start,
                        end,
                    }),
                    (true, _, 0, 0) => {}
                    (true, ' ', 1, 0) => self.leading_space = LeadingSpace::DropOne,
                    _ => return Err(unsupported()),
                }
            }
            Some("Metaspace") if !*is_fused => {
                let from = string("replacement").ok_or_else(unsupported)?.to_owned();
                self.steps.push(Step::Replace {
                    from,
                    to: " ".to_owned(),
                });
                if string("prepend_scheme") != Some("never") {
                    self.leading_space = LeadingSpace::DropFromFirstToken;
                }
            }
            Some("WordPiece") if !*is_fused => {
                let prefix = string("prefix").ok_or_else(unsupported)?.to_owned();
                let cleanup = step["cleanup"].as_bool().unwrap_or(false);
                self.steps.push(Step::WordPiece { prefix, cleanup });
                self.leading_space = LeadingSpace::DropOne;
            }
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    /// Append the bytes of a token of the model; says whether it is a byte token.
    pub(crate) fn write(&self, token: &str, out: &mut Vec<u8>) -> bool {
        let mut token = token.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    if byte_level::push_bytes(&token, out) {
                        return false;
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = parse_byte(&token) {
                        out.push(byte);
                        return true;
                    }
                }
                Step::Replace { from, to } => token = token.replace(from, to),
                Step::Strip {
                    content,
                    start,
                    end,
                } => token = strip(&token, *content, *start, *end).to_owned(),
                Step::Space => token.insert(0, ' '),
                Step::WordPiece { prefix, cleanup } => {
                    token = token
                        .strip_prefix(prefix)
                        .map_or_else(|| format!(" {token}"), ToOwned::to_owned);
                    for (from, to) in CLEANUP.iter().filter(|_| *cleanup) {
                        token = token.replace(from, to);
                    }
                }
            }
        }
        out.extend_from_slice(token.as_bytes());
        false
    }

    /// Append the bytes of an added token: its text, which the byte-level alphabet does not concern.
    pub(crate) fn write_added(&self, token: &str, out: &mut Vec<u8>) {
        if self
            .steps
            .iter()
            .any(|step| matches!(step, Step::ByteLevel))
        {
            out.extend_from_slice(token.as_bytes());
        } else {
            self.write(token, out);
        }
    }
}

/// The steps of nested sequences, in order.
fn flatten(decoder: &Value) -> Vec<&Value> {
    let mut steps = Vec::new();
    let mut open = vec![decoder];
    while let Some(step) = open.pop() {
        match step["decoders"].as_array() {
            Some(decoders) if step["type"] == "Sequence" => open.extend(decoders.iter().rev()),
            _ => steps.push(step),
        }
    }
    steps
}

fn strip(token: &str, content: char, start: usize, end: usize) -> &str {
    let mut token = token;
    for _ in 0..start {
        let Some(rest) = token.strip_prefix(content) else {
            break;
        };
        token = rest;
    }
    for _ in 0..end {
        let Some(rest) = token.strip_suffix(content) else {
            break;
        };
        token = rest;
    }
    token
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(decoder: &Value, token: &str) -> String {
        let mut out = Vec::new();
        TokenSpelling::of(Some(decoder))
            .unwrap()
            .write(token, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_strip_cuts_up_to_so_many_characters_from_each_token() {
        let strip = |start: u32, stop: u32| json!({"type": "Strip", "content": "_", "start": start, "stop": stop});
        assert_eq!(written(&strip(0, 0), "__a__"), "__a__");
        assert_eq!(written(&strip(1, 0), "__a__"), "_a__");
        assert_eq!(written(&strip(0, 3), "__a__"), "__a");
        assert_eq!(written(&strip(9, 9), "__a__"), "a");
        assert_eq!(written(&strip(9, 9), "b_a"), "b_a");
        assert_eq!(written(&strip(9, 9), "____"), "");
    }

    #[test]
    fn steps_follow_one_another_in_nested_sequences() {
        let sequence = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": "_"},
            {"type": "Sequence", "decoders": [
                {"type": "Strip", "content": "_", "start": 1, "stop": 0},
                {"type": "Replace", "pattern": {"String": "_"}, "content": "+"},
            ]},
        ]});
        assert_eq!(written(&sequence, "▁▁a▁"), "+a+");
    }

    #[test]
    fn an_added_token_of_a_byte_level_vocabulary_is_its_own_text() {
        let spelling = TokenSpelling::of(Some(&json!({"type": "ByteLevel"}))).unwrap();
        let (mut token, mut added) = (Vec::new(), Vec::new());
        assert!(!spelling.write("Ġé", &mut token));
        spelling.write_added("Ġé", &mut added);
        assert_eq!((token, added), (b" \xE9".to_vec(), "Ġé".into()));
    }

    #[test]
    fn steps_that_cannot_be_taken_token_by_token_are_refused_as_they_stand_in_the_file() {
        let fused = |step: Value| json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, step]});
        let strip = |content: &str, start: u32, stop: u32| json!({"type": "Strip", "content": content, "start": start, "stop": stop});
        for (decoder, found) in [
            (
                json!({"type": "BPEDecoder", "suffix": "</w>"}),
                "BPEDecoder",
            ),
            (
                json!({"type": "Strip", "content": "ab", "start": 1, "stop": 0}),
                "\"ab\"",
            ),
            (
                json!({"type": "Strip", "content": "", "start": 1, "stop": 0}),
                "Strip",
            ),
            (
                json!({"type": "Strip", "content": "a", "start": -1, "stop": 0}),
                "-1",
            ),
            (
                json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
                "a+",
            ),
            (
                json!({"type": "Replace", "pattern": {"String": "a"}}),
                "Replace",
            ),
            (json!({"type": "Metaspace"}), "Metaspace"),
            (json!({"type": "WordPiece"}), "WordPiece"),
            (fused(json!({"type": "ByteLevel"})), "ByteLevel"),
            (fused(json!({"type": "ByteFallback"})), "ByteFallback"),
            (fused(strip(" ", 2, 0)), "\"start\":2"),
            (fused(strip("x", 1, 0)), "\"x\""),
        ] {
            match TokenSpelling::of(Some(&decoder)) {
                Err(TextError::UnsupportedTokenizer {
                    field, found: step, ..
                }) => {
                    assert_eq!(field, "tokenizer.json: decoder");
                    assert!(step.contains(found), "{found}: {step}");
                }
                other => panic!("{decoder}: {other:?}"),
            }
        }
        assert!(TokenSpelling::of(Some(&fused(strip("x", 0, 0)))).is_ok());
    }
}
