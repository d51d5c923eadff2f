//! What the stages of a `tokenizer.json` may make of a text: looked at before one of them is made.
//!
//! Stages follow each other, and each may lengthen what it is given: forty short lines that write two letters for one
//! ask for more memory than there is, and a pattern that repeats repetitions for as much before any text is seen. The
//! `tokenizers` crate makes whatever a file says. The bounds here are far beyond what published tokenizers do.

use serde::Deserialize;
use serde_json::Value;

use crate::error::TextError;

/// How many times as long a text may become in all replacements of one stage, one behind the other.
const MAX_GROWTH: usize = 64;
/// Bytes that may be put before each piece of a text.
const MAX_PREPENDED: usize = 256;
/// Bytes that a compiled normalization may write for one character; the longest of Unicode's has 33.
const MAX_MAPPED: usize = 256;
/// Patterns of a file, bytes of all of them, and the product of one's counted repetitions.
const MAX_PATTERNS: usize = 32;
const MAX_PATTERN_BYTES: usize = 8192;
const MAX_REPETITIONS: usize = 1000;
/// Pieces of a template, and ids that stand for one special token.
const MAX_PIECES: usize = 64;
/// How many times a template may repeat a text, over all templates.
const MAX_REPEATS: usize = 16;
/// Bytes that a model may add to each of its pieces.
const MAX_AFFIX: usize = 64;
/// Characters of a word that `WordPiece` cuts; its time is their number cubed.
const MAX_WORD_CHARACTERS: u64 = 256;

/// The parts of the file that are looked at; the vocabulary is skipped.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
}

/// Refuse a file whose stages could ask for too much memory or time.
pub(crate) fn check(json: &[u8]) -> Result<(), TextError> {
    let file: File =
        serde_json::from_slice(json).map_err(|error| TextError::InvalidTokenizerJson {
            problem: error.to_string(),
        })?;
    let mut patterns = Patterns::default();
    for (field, stage) in [
        ("tokenizer.json: normalizer", &file.normalizer),
        ("tokenizer.json: pre_tokenizer", &file.pre_tokenizer),
        ("tokenizer.json: post_processor", &file.post_processor),
        ("tokenizer.json: decoder", &file.decoder),
    ] {
        check_stage(field, stage, &mut patterns)?;
    }
    file.model.map_or(Ok(()), |model| check_model(&model))
}

fn refused(
    field: &'static str,
    found: impl Into<String>,
    supported: impl Into<String>,
) -> TextError {
    TextError::UnsupportedTokenizer {
        field,
        found: found.into(),
        supported: supported.into(),
    }
}

/// What is known of the patterns so far.
#[derive(Default)]
struct Patterns {
    count: usize,
    bytes: usize,
}

impl Patterns {
    fn add(&mut self, pattern: &str) -> Result<(), TextError> {
        let field = "tokenizer.json: pattern.Regex";
        self.count += 1;
        self.bytes += pattern.len();
        if self.count > MAX_PATTERNS || self.bytes > MAX_PATTERN_BYTES {
            let found = format!("{} of them with {} bytes", self.count, self.bytes);
            let supported = format!("{MAX_PATTERNS} patterns with {MAX_PATTERN_BYTES} bytes");
            return Err(refused(field, found, supported));
        }
        if refers_back(pattern) {
            return Err(refused(field, pattern, "patterns without back-references"));
        }
        if repetitions(pattern) > MAX_REPETITIONS {
            let supported = format!("patterns that repeat a part {MAX_REPETITIONS} times at most");
            return Err(refused(field, pattern, supported));
        }
        Ok(())
    }
}

/// All objects of one stage, however they are nested. What they are is known by their fields: `type` may be missing.
fn check_stage(
    field: &'static str,
    stage: &Value,
    patterns: &mut Patterns,
) -> Result<(), TextError> {
    let (mut growth, mut repeats, mut prepended) = (1_usize, 1_usize, 0_usize);
    let mut open = vec![stage];
    while let Some(value) = open.pop() {
        let Value::Object(fields) = value else {
            open.extend(value.as_array().into_iter().flatten());
            continue;
        };
        open.extend(fields.values());
        if let Some(Value::String(pattern)) = fields.get("Regex") {
            patterns.add(pattern)?;
        }
        if let (Some(pattern), Some(Value::String(content))) =
            (fields.get("pattern"), fields.get("content"))
        {
            growth = growth.saturating_mul(growth_of(pattern, content));
        }
        if let Some(Value::String(text)) = fields.get("prepend") {
            prepended = prepended.saturating_add(text.len());
        }
        if let Some(Value::String(table)) = fields.get("precompiled_charsmap") {
            let longest = longest_mapped(table);
            if longest > MAX_MAPPED {
                let found = format!("a precompiled_charsmap that writes {longest} bytes");
                let supported = format!("at most {MAX_MAPPED} bytes for a character");
                return Err(refused(field, found, supported));
            }
        }
        let single = template(field, fields.get("single"))?;
        let pair = template(field, fields.get("pair"))?;
        repeats = repeats.saturating_mul(single.max(pair).max(1));
        if let Some(Value::Array(ids)) = fields.get("ids")
            && ids.len() > MAX_PIECES
        {
            let found = format!("a special token of {} ids", ids.len());
            return Err(refused(field, found, format!("at most {MAX_PIECES}")));
        }
    }
    if growth > MAX_GROWTH || prepended > MAX_PREPENDED {
        let found = format!(
            "replacements that make a text {growth} times as long, and add {prepended} bytes"
        );
        let supported = format!("at most {MAX_GROWTH} times, and {MAX_PREPENDED} bytes");
        return Err(refused(field, found, supported));
    }
    if repeats > MAX_REPEATS {
        let found = format!("templates that repeat a text {repeats} times");
        return Err(refused(
            field,
            found,
            format!("at most {MAX_REPEATS} times"),
        ));
    }
    Ok(())
}

/// How many times as long a text may become, at most, if `content` replaces all that `pattern` finds.
fn growth_of(pattern: &Value, content: &str) -> usize {
    let found = match &pattern["String"] {
        Value::String(text) => text.len(),
        _ => 0, // a pattern may find nothing, between any two characters
    };
    if found == 0 {
        1 + content.len()
    } else {
        content.len().div_ceil(found).max(1)
    }
}

/// How many times a template has a text in it.
fn template(field: &'static str, pieces: Option<&Value>) -> Result<usize, TextError> {
    let Some(Value::Array(pieces)) = pieces else {
        return Ok(1);
    };
    if pieces.len() > MAX_PIECES {
        let found = format!("a template of {} pieces", pieces.len());
        return Err(refused(field, found, format!("at most {MAX_PIECES}")));
    }
    let of = |id: &str| {
        let is_it = |piece: &&Value| piece["Sequence"]["id"] == id;
        pieces.iter().filter(is_it).count()
    };
    Ok(of("A").max(of("B")))
}

fn check_model(model: &Model) -> Result<(), TextError> {
    for (field, affix) in [
        (
            "tokenizer.json: model.continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        (
            "tokenizer.json: model.end_of_word_suffix",
            &model.end_of_word_suffix,
        ),
    ] {
        if let Some(affix) = affix.as_ref().filter(|affix| affix.len() > MAX_AFFIX) {
            let found = format!("a string of {} bytes", affix.len());
            return Err(refused(field, found, format!("at most {MAX_AFFIX}")));
        }
    }
    match model.max_input_chars_per_word {
        Some(most) if most > MAX_WORD_CHARACTERS => Err(refused(
            "tokenizer.json: model.max_input_chars_per_word",
            most.to_string(),
            format!("at most {MAX_WORD_CHARACTERS}"),
        )),
        _ => Ok(()),
    }
}

/// A pattern that refers to its own groups can take exponential time, and no published tokenizer has one.
fn refers_back(pattern: &str) -> bool {
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character == '\\'
            && characters
                .next()
                .is_some_and(|next| matches!(next, '1'..='9' | 'k' | 'g'))
        {
            return true;
        }
    }
    pattern.contains("(?P=")
}

/// The product of a pattern's counted repetitions, `{3}` and `{2,5}`: what a part of it is written out at most.
fn repetitions(pattern: &str) -> usize {
    let counted = pattern.split('{').skip(1);
    let counts = counted.filter_map(|behind| {
        let (inside, _) = behind.split_once('}')?;
        let largest = inside.rsplit(',').find(|count| !count.trim().is_empty())?;
        let is_count = largest.trim().bytes().all(|byte| byte.is_ascii_digit());
        is_count.then(|| largest.trim().parse::<usize>().unwrap_or(usize::MAX))
    });
    counts.fold(1, |product, count| product.saturating_mul(count.max(1)))
}

/// The most bytes that a compiled normalization writes for one character: its base64 holds the length of a trie, the
/// trie, and strings that end with zero. 0 for what the crate will refuse.
fn longest_mapped(table: &str) -> usize {
    let bytes = from_base64(table);
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return 0;
    };
    let strings = rest.get(u32::from_le_bytes(*length) as usize..);
    let strings = strings.unwrap_or_default().split(|&byte| byte == 0);
    strings.map(<[u8]>::len).max().unwrap_or(0)
}

/// The bytes up to the first character that is none of base64.
fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut num_bits) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        num_bits += 6;
        if num_bits >= 8 {
            num_bits -= 8;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the low eight bits are meant"
            )]
            bytes.push((bits >> num_bits) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A file of published shape: the vocabulary left out.
    fn file(field: &str, stage: &Value) -> Vec<u8> {
        let mut file = json!({"normalizer": null, "model": {"type": "BPE", "vocab": {"a": 0}}});
        file[field] = stage.clone();
        file.to_string().into_bytes()
    }

    fn is_refused(field: &str, stage: &Value) -> bool {
        matches!(
            check(&file(field, stage)),
            Err(TextError::UnsupportedTokenizer { .. })
        )
    }

    fn replace(from: &Value, to: &str) -> Value {
        json!({"type": "Replace", "pattern": from, "content": to})
    }

    #[test]
    fn replacements_behind_each_other_multiply() {
        let double = replace(&json!({"String": "a"}), "aa");
        let times =
            |count: usize| json!({"type": "Sequence", "normalizers": vec![double.clone(); count]});
        assert!(!is_refused("normalizer", &times(6)));
        assert!(is_refused("normalizer", &times(7)));
        assert!(is_refused("decoder", &times(60)));
        // What shrinks does not make room for what grows: it may find nothing.
        let shrink = replace(&json!({"String": "aaaa"}), "b");
        let both = json!([times(6), shrink, double]);
        assert!(is_refused("normalizer", &both));
        // A pattern finds what is empty, and so does the empty string.
        let long = "x".repeat(MAX_GROWTH - 1);
        for from in [json!({"Regex": "a*"}), json!({"String": ""})] {
            assert!(!is_refused("normalizer", &replace(&from, &long)));
            assert!(is_refused(
                "normalizer",
                &replace(&from, &(long.clone() + "x"))
            ));
        }
        // Stages that published files have.
        let spaces = replace(&json!({"String": " "}), "▁");
        let runs = replace(&json!({"Regex": " {2,}"}), "▁");
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        assert!(!is_refused("normalizer", &json!([prepend, spaces, runs])));
    }

    #[test]
    fn what_is_put_before_each_piece_adds_up() {
        let prepend = |bytes: usize| json!({"prepend": "x".repeat(bytes)}); // without its type
        let half = MAX_PREPENDED / 2;
        assert!(!is_refused(
            "normalizer",
            &json!([prepend(half), prepend(half)])
        ));
        assert!(is_refused(
            "normalizer",
            &json!([prepend(half), prepend(half + 1)])
        ));
    }

    #[test]
    fn patterns_are_few_short_and_repeat_little() {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}});
        let many = |count: usize| Value::Array(vec![split("a"); count]);
        assert!(!is_refused("pre_tokenizer", &many(MAX_PATTERNS)));
        assert!(is_refused("pre_tokenizer", &many(MAX_PATTERNS + 1)));
        let long = "a".repeat(MAX_PATTERN_BYTES);
        assert!(!is_refused("pre_tokenizer", &split(&long)));
        assert!(is_refused(
            "pre_tokenizer",
            &json!([split(&long), split("a")])
        ));
        for (pattern, product) in [
            (r"\p{N}{1,3}|\p{L}{2,}", 6),
            (r"((a{10}){ 10 }){10,}", 1000),
            (r"(a{1,11}){0,0}(b{,100})", 1100),
            (r"a{99999999999999999999999}", usize::MAX),
            (r"\x{41}{3}{", 123),
            ("", 1),
        ] {
            assert_eq!(repetitions(pattern), product, "{pattern}");
            let is_too_much = product > MAX_REPETITIONS;
            assert_eq!(is_refused("normalizer", &split(pattern)), is_too_much);
        }
        for pattern in [r"(a)\1", r"\k<n>", r"(?P=n)", r"\\\1"] {
            assert!(is_refused("pre_tokenizer", &split(pattern)), "{pattern}");
        }
        assert!(!is_refused("pre_tokenizer", &split(r"\\1|\d")));
    }

    #[test]
    fn templates_have_few_pieces_and_repeat_a_text_little() {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = json!({"SpecialToken": {"id": "s", "type_id": 0}});
        let single = |pieces: Vec<Value>| json!({"single": pieces, "pair": []});
        assert!(!is_refused(
            "post_processor",
            &single(vec![text.clone(); MAX_REPEATS])
        ));
        assert!(is_refused(
            "post_processor",
            &single(vec![text.clone(); MAX_REPEATS + 1])
        ));
        assert!(!is_refused(
            "post_processor",
            &single(vec![special.clone(); MAX_PIECES])
        ));
        assert!(is_refused(
            "post_processor",
            &single(vec![special; MAX_PIECES + 1])
        ));
        let two = single(vec![text.clone(), text]);
        assert!(!is_refused("post_processor", &json!(vec![two.clone(); 4])));
        assert!(is_refused("post_processor", &json!(vec![two; 5])));
        let ids = |count: usize| json!({"special_tokens": {"s": {"ids": vec![1; count]}}});
        assert!(!is_refused("post_processor", &ids(MAX_PIECES)));
        assert!(is_refused("post_processor", &ids(MAX_PIECES + 1)));
    }

    #[test]
    fn models_add_little_and_cut_words_of_a_bearable_length() {
        for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
            assert!(!is_refused("model", &json!({field: "x".repeat(MAX_AFFIX)})));
            assert!(is_refused(
                "model",
                &json!({field: "x".repeat(MAX_AFFIX + 1)})
            ));
        }
        let most = |count: u64| json!({"max_input_chars_per_word": count});
        assert!(!is_refused("model", &most(MAX_WORD_CHARACTERS)));
        assert!(is_refused("model", &most(MAX_WORD_CHARACTERS + 1)));
    }

    #[test]
    fn compiled_normalizations_write_little() {
        // Base64 of: the length of the trie (4), the trie, "ab", 0, "abc", 0.
        let table = "BAAAAAEAAABhYgBhYmMA";
        assert_eq!(longest_mapped(table), 3);
        assert_eq!(longest_mapped("BAAA"), 0);
        assert_eq!(longest_mapped("////////"), 0);
        let long = format!("AAAAAA{}", "YWFh".repeat(MAX_MAPPED)); // no trie, then letters
        assert!(is_refused(
            "normalizer",
            &json!({"precompiled_charsmap": long})
        ));
        assert!(!is_refused(
            "normalizer",
            &json!({"precompiled_charsmap": table})
        ));
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        assert!(matches!(
            check(b"{"),
            Err(TextError::InvalidTokenizerJson { .. })
        ));
        check(b"{}").unwrap();
        // The crate would take the last of two; what is looked at must be what is used.
        let twice = br#"{"normalizer": null, "normalizer": {"prepend": ""}}"#;
        assert!(check(twice).is_err());
    }
}
