//! A small byte-level vocabulary, schemas, and what satisfies them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test binary uses another part"
)]

use std::sync::Arc;

use inferlib_text::{GrammarSource, Grammars, MaskedRow, Tokenizer};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use serde_json::{Value, json};

use crate::vocabularies::{ByteLevel, kind};

pub const VOCAB_SIZE: usize = 300;

pub fn tokenizer() -> Arc<Tokenizer> {
    let pairs = ["\":", "true", "na", "am", "me", "10", ", ", "\",\""]
        .iter()
        .flat_map(|text| text.as_bytes().windows(2))
        .map(|pair| (usize::from(pair[0]), usize::from(pair[1])))
        .collect::<Vec<_>>();
    let literals = [("<|im_end|>", kind::CONTROL), ("<|tool|>", kind::CONTROL)];
    let tokenizer = ByteLevel::new(&pairs, &literals)
        .with("gpt-2", |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    assert!(tokenizer.vocab_size() < VOCAB_SIZE - 2); // some logits have no token
    Arc::new(tokenizer)
}

pub fn end(tokenizer: &Tokenizer) -> u32 {
    tokenizer.token_to_id("<|im_end|>").unwrap()
}

pub fn grammars(tokenizer: &Arc<Tokenizer>) -> Grammars {
    Grammars::new(Arc::clone(tokenizer), &[end(tokenizer)], VOCAB_SIZE).unwrap()
}

pub fn schema(value: &Value) -> GrammarSource {
    GrammarSource::JsonSchema(value.to_string())
}

/// A sequence's rows of a step behind so many tokens: one, and one for each draft.
pub fn rows(key: u64, num_tokens: usize, num_drafts: usize) -> Vec<MaskedRow> {
    (num_tokens..=num_tokens + num_drafts)
        .map(|num_output_tokens| MaskedRow {
            key,
            num_output_tokens,
        })
        .collect()
}

/// Bits of a row of masks.
pub fn bits(words: &[u32]) -> Vec<u32> {
    (0..)
        .zip(words)
        .flat_map(|(at, word)| {
            (0..32)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| 32 * at + bit)
        })
        .collect()
}

pub fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        (0..50i32, 0..50i32).prop_map(
            |(low, more)| json!({"type": "integer", "minimum": low, "maximum": low + more})
        ),
        (0..3u32, 0..4u32).prop_map(
            |(low, more)| json!({"type": "string", "minLength": low, "maxLength": low + more})
        ),
        Just(json!({"enum": ["red", "green", 3, null]})),
        Just(json!({"type": "string", "pattern": "^[a-c]{1,3}$"})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0..3u32).prop_map(
                |(items, most)| json!({"type": "array", "items": items, "maxItems": most})
            ),
            (inner.clone(), inner, any::<bool>()).prop_map(|(name, me, both)| json!({
                "type": "object",
                "properties": {"name": name, "me": me},
                "required": if both { vec!["name", "me"] } else { vec!["me"] },
                "additionalProperties": false
            })),
        ]
    })
}

/// Whether `value` is what the schemas above describe.
pub fn satisfies(schema: &Value, value: &Value) -> bool {
    let number = |name: &str| schema.get(name).and_then(Value::as_u64);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.contains(value);
    }
    match schema["type"].as_str().unwrap() {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.as_i64().is_some_and(|each| {
            schema["minimum"].as_i64() <= Some(each) && Some(each) <= schema["maximum"].as_i64()
        }),
        "string" => value.as_str().is_some_and(|text| {
            let length = text.chars().count() as u64;
            number("minLength").is_none_or(|least| length >= least)
                && number("maxLength").is_none_or(|most| length <= most)
                && schema
                    .get("pattern")
                    .and_then(Value::as_str)
                    .is_none_or(|pattern| Regex::new(pattern).unwrap().is_match(text))
        }),
        "array" => value.as_array().is_some_and(|items| {
            items.len() as u64 <= number("maxItems").unwrap()
                && items.iter().all(|each| satisfies(&schema["items"], each))
        }),
        _ => value.as_object().is_some_and(|members| {
            let known = &schema["properties"];
            let required = schema["required"].as_array().unwrap();
            required
                .iter()
                .all(|name| members.contains_key(name.as_str().unwrap()))
                && members
                    .iter()
                    .all(|(name, each)| known.get(name).is_some_and(|part| satisfies(part, each)))
        }),
    }
}
