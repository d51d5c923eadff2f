//! JSON: nodes of the tree are exchanged, repeated, nested, taken out.

use serde_json::{Map, Value};

use super::{EXTREMES, few, text};
use crate::Random;

/// Of any file: what a reader may not expect.
#[rustfmt::skip]
const ODD: &[&str] = &[
    "null", "true", "false", "[]", "{}", "\"\"", "0", "-1", "1.5", "1e308", "\"\\u0000\"", "\"漢\\u0301\"", "[[]]", "{\"\":0}",
    "\"../x\"", "\"/x\"", "18446744073709551615", "-9223372036854775808",
];

/// Of `model.safetensors.index.json`.
#[rustfmt::skip]
pub const INDEX_WORDS: &[&str] = &[
    "{\"weight_map\":{}}", "\"weight_map\"", "\"metadata\"", "\"total_size\"", "\"a.safetensors\"", "\"w\"", "\"half\"",
    "\"..\"", "\"a/../a.safetensors\"", "\"C:a\"",
];

/// Of `tokenizer.json`.
#[rustfmt::skip]
pub const TOKENIZER_WORDS: &[&str] = &[
    "\"BPE\"", "\"WordPiece\"", "\"WordLevel\"", "\"Unigram\"", "\"ByteLevel\"", "\"Metaspace\"", "\"Sequence\"", "\"Split\"",
    "\"Whitespace\"", "\"BertPreTokenizer\"", "\"BertNormalizer\"", "\"BertProcessing\"", "\"TemplateProcessing\"",
    "\"RobertaProcessing\"", "\"Digits\"", "\"Punctuation\"", "\"Prepend\"", "\"Replace\"", "\"NFC\"", "\"NFKD\"", "\"Lowercase\"",
    "\"Strip\"", "\"StripAccents\"", "\"Precompiled\"", "\"ByteFallback\"", "\"Fuse\"", "\"CTC\"", "\"Nmt\"",
    "{\"type\":\"NFC\"}", "{\"type\":\"Prepend\",\"prepend\":\"▁\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(a*)*b\"},\"content\":\"\"}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?!a)\\\\s+|(a|a)*$\"},\"behavior\":\"Isolated\",\"invert\":false}",
    "{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"MergedWithNext\",\"invert\":true}",
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}",
    "{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"always\",\"split\":true}",
    "{\"type\":\"Sequence\",\"pretokenizers\":[]}", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}]}",
    "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}", "{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0.0],[\"a\",-1.0]]}",
    "{\"type\":\"WordPiece\",\"unk_token\":\"a\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{\"a\":0}}",
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{}}",
    "\"byte_fallback\"", "\"unk_token\"", "\"fuse_unk\"", "\"dropout\"", "\"continuing_subword_prefix\"", "\"end_of_word_suffix\"",
    "\"ignore_merges\"", "\"max_input_chars_per_word\"", "\"merges\"", "\"vocab\"", "\"added_tokens\"", "\"normalizer\"",
    "\"pre_tokenizer\"", "\"post_processor\"", "\"decoder\"", "\"model\"", "\"truncation\"", "\"padding\"", "\"a b\"", "\"##a\"",
    "\"<0x41>\"", "\"<0x-1>\"", "\"Ġa\"", "[\"a\",\"b\"]", "[\"a\",\"\"]",
];

/// Of `tokenizer_config.json`.
#[rustfmt::skip]
pub const CONFIG_WORDS: &[&str] = &[
    "\"bos_token\"", "\"eos_token\"", "\"unk_token\"", "\"pad_token\"", "\"chat_template\"", "\"content\"", "\"<s>\"", "\"ab\"",
    "{\"content\":\"<s>\"}", "[{\"name\":\"default\",\"template\":\"x\"}]", "\"name\"", "\"template\"", "\"add_bos_token\"",
    "\"added_tokens_decoder\"",
];

/// Of JSON schemas.
#[rustfmt::skip]
pub const SCHEMA_WORDS: &[&str] = &[
    "{\"type\":\"string\"}", "{\"type\":\"object\",\"additionalProperties\":false}", "{\"$ref\":\"#\"}", "{\"$ref\":\"#/$defs/a\"}",
    "{\"$ref\":\"http://x/y\"}", "{\"enum\":[1,\"a\",null]}", "{\"const\":{\"a\":[]}}", "{\"not\":{}}",
    "{\"type\":\"integer\",\"minimum\":-5,\"maximum\":1000000000000}", "{\"type\":\"number\",\"multipleOf\":0.01}",
    "{\"type\":\"string\",\"pattern\":\"^(a|b)*c{1,100}$\"}", "{\"type\":\"string\",\"minLength\":3,\"maxLength\":100000}",
    "{\"type\":\"string\",\"format\":\"date-time\"}", "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":2,\"maxItems\":1000}",
    "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"boolean\"}]}", "{\"allOf\":[{\"type\":\"integer\"},{\"minimum\":3}]}",
    "{\"oneOf\":[{\"type\":\"null\"},{\"type\":\"string\"}]}", "\"type\"", "\"properties\"", "\"required\"", "\"items\"",
    "\"prefixItems\"", "\"additionalProperties\"", "\"patternProperties\"", "\"minProperties\"", "\"maxProperties\"", "\"$defs\"",
    "\"definitions\"", "\"$ref\"", "\"anyOf\"", "\"oneOf\"", "\"allOf\"", "\"not\"", "\"if\"", "\"then\"", "\"enum\"", "\"const\"",
    "\"pattern\"", "\"format\"", "\"minLength\"", "\"maxLength\"", "\"minItems\"", "\"maxItems\"", "\"uniqueItems\"",
    "\"contains\"", "\"minimum\"", "\"maximum\"", "\"exclusiveMinimum\"", "\"exclusiveMaximum\"", "\"multipleOf\"",
    "\"propertyNames\"", "\"dependentRequired\"", "\"x-guidance\"", "\"$id\"", "\"$anchor\"", "\"$schema\"", "\"object\"",
    "\"array\"", "\"string\"", "\"integer\"", "\"number\"", "\"boolean\"", "\"date\"", "\"uuid\"", "\"email\"", "\"ipv6\"", "\"uri\"",
    "\"hostname\"", "[\"string\",\"null\"]", "[\"a\",\"a\"]",
];

/// `model.safetensors.index.json`.
#[must_use]
pub fn shard_index(data: &[u8], random: &mut Random) -> Vec<u8> {
    tree(data, random, INDEX_WORDS)
}

/// `tokenizer.json`.
#[must_use]
pub fn tokenizer(data: &[u8], random: &mut Random) -> Vec<u8> {
    tree(data, random, TOKENIZER_WORDS)
}

/// `tokenizer_config.json`.
#[must_use]
pub fn tokenizer_config(data: &[u8], random: &mut Random) -> Vec<u8> {
    tree(data, random, CONFIG_WORDS)
}

/// A JSON schema.
#[must_use]
pub fn schema(data: &[u8], random: &mut Random) -> Vec<u8> {
    tree(data, random, SCHEMA_WORDS)
}

pub(super) fn tree(data: &[u8], random: &mut Random, words: &[&str]) -> Vec<u8> {
    let Ok(mut root) = serde_json::from_slice::<Value>(data) else {
        return text::splice(data, random, words);
    };
    for _ in 0..few(random) {
        edit(&mut root, random, words);
    }
    root.to_string().into_bytes()
}

fn edit(root: &mut Value, random: &mut Random, words: &[&str]) {
    let size = count(root);
    let graft = node(root, random.below(size)).clone();
    let word = if random.one_in(3) {
        random.pick(ODD)
    } else {
        random.pick(words)
    };
    let word: Value = serde_json::from_str(word).unwrap_or(Value::Null);
    let target = node(root, random.below(size));
    match random.below(6) {
        0 => *target = word,
        1 => *target = graft,
        2 => *target = nested(target.take(), random),
        3 => take_out(target, random),
        4 => insert(target, word, graft, random),
        _ => *target = near(target, random),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The node of that number, from the root, which is 0, down.
fn node(value: &mut Value, mut number: usize) -> &mut Value {
    if number == 0 {
        return value;
    }
    number -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => unreachable!("numbers are counted in the same way"),
    };
    for child in children {
        let size = count(child);
        if number < size {
            return node(child, number);
        }
        number -= size;
    }
    unreachable!("numbers are counted in the same way")
}

fn nested(mut value: Value, random: &mut Random) -> Value {
    let most = if random.one_in(4) { 120 } else { 4 };
    let depth = 1 + random.below(most);
    let key = (*random.pick(&["items", "properties", "anyOf", "a", "model"])).to_owned();
    for _ in 0..depth {
        value = if random.one_in(2) {
            Value::Array(vec![value])
        } else {
            Value::Object(Map::from_iter([(key.clone(), value)]))
        };
    }
    value
}

fn take_out(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(items) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        Value::Object(members) if !members.is_empty() => {
            let at = random.below(members.len());
            let key = members.keys().nth(at).cloned().unwrap_or_default();
            members.shift_remove(&key);
        }
        other => *other = Value::Null,
    }
}

fn insert(target: &mut Value, word: Value, graft: Value, random: &mut Random) {
    match target {
        Value::Array(items) => items.insert(random.below(items.len() + 1), graft),
        Value::Object(members) => {
            let key = match word {
                Value::String(key) => key,
                other => other.to_string(),
            };
            members.insert(key, graft);
        }
        other => *other = word,
    }
}

/// The same kind of value, a little different.
fn near(value: &Value, random: &mut Random) -> Value {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or_default();
            match random.below(4) {
                0 => number.wrapping_add(1).into(),
                1 => number.wrapping_sub(1).into(),
                2 => (*random.pick(&EXTREMES)).into(),
                _ => (-f64::from(u32::try_from(random.below(1 << 20)).unwrap_or(0)) / 64.0).into(),
            }
        }
        Value::String(text) => match random.below(4) {
            0 => text.repeat(1 + random.below(40)).into(),
            1 => text.chars().skip(1).collect::<String>().into(),
            2 => format!(
                "{text}{}",
                random.pick(&["a", " ", "▁", "漢", "\0", "\u{301}", "##"])
            )
            .into(),
            _ => text.to_uppercase().into(),
        },
        Value::Bool(value) => Value::Bool(!value),
        Value::Array(items) => items.iter().rev().cloned().collect(),
        Value::Object(members) => Value::Object(
            members
                .iter()
                .rev()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        ),
        Value::Null => Value::Bool(true),
    }
}
