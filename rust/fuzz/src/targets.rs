//! The targets.

use crate::{Random, decision_log, grammar, mutate, text, weights};

/// One parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of its folder of seeds and its program.
    pub name: &'static str,
    /// Parse, use what was accepted, and say whether it was.
    pub(crate) parse: fn(&[u8]) -> bool,
    /// A mutation that knows what the bytes mean.
    pub mutate: fn(&[u8], &mut Random) -> Vec<u8>,
    /// What its inputs are made of: the dictionary.
    pub words: &'static [&'static str],
    /// Memory that a parse may take beyond twice its input.
    pub(crate) extra_bytes: usize,
}

const READER_BYTES: usize = 16 << 20;
/// What reliability's checklist allows a grammar: lexers are bounded by their states, not by the text.
const GRAMMAR_BYTES: usize = 64 << 20;

const NO_WORDS: &[&str] = &[];

macro_rules! targets {
    ($($(#[$doc:meta])* $name:ident: $file:literal, $parse:path, $mutate:path, $words:path, $extra:expr;)*) => {
        $($(#[$doc])* pub const $name: Target = Target {
            name: $file, parse: $parse, mutate: $mutate, words: $words, extra_bytes: $extra,
        };)*
        /// All of them.
        pub const TARGETS: &[Target] = &[$($name),*];
    };
}

targets! {
    /// A GGUF file.
    GGUF: "gguf", weights::gguf, mutate::gguf::mutate, mutate::gguf::WORDS, READER_BYTES;
    /// A safetensors file.
    SAFETENSORS: "safetensors", weights::safetensors, mutate::safetensors::mutate, mutate::safetensors::WORDS, READER_BYTES;
    /// `model.safetensors.index.json`.
    SHARD_INDEX: "shard_index", weights::shard_index, mutate::json::shard_index, mutate::json::INDEX_WORDS, READER_BYTES;
    /// The `tokenizer.ggml.*` keys of a GGUF file.
    GGUF_VOCABULARY: "gguf_vocabulary", text::gguf_vocabulary, mutate::gguf::vocabulary, mutate::gguf::WORDS, READER_BYTES;
    /// `tokenizer.json`, which `vocab.txt` becomes, too.
    TOKENIZER_JSON: "tokenizer_json", text::tokenizer_json, mutate::json::tokenizer, mutate::json::TOKENIZER_WORDS, READER_BYTES;
    /// `tokenizer_config.json`.
    TOKENIZER_CONFIG: "tokenizer_config", text::tokenizer_config, mutate::json::tokenizer_config, mutate::json::CONFIG_WORDS, READER_BYTES;
    /// A chat template, rendered with a conversation.
    CHAT_TEMPLATE: "chat_template", text::chat_template, mutate::text::template, mutate::text::TEMPLATE_WORDS, 2 * READER_BYTES;
    /// A JSON schema.
    JSON_SCHEMA: "json_schema", grammar::json_schema, mutate::json::schema, mutate::json::SCHEMA_WORDS, GRAMMAR_BYTES;
    /// A regular expression.
    REGEX: "regex", grammar::regex, mutate::text::regex, mutate::text::REGEX_WORDS, GRAMMAR_BYTES;
    /// A grammar of Lark.
    LARK: "lark", grammar::lark, mutate::text::lark, mutate::text::LARK_WORDS, GRAMMAR_BYTES;
    /// A log of decisions, replayed.
    DECISION_LOG: "decision_log", decision_log::replay, mutate::log::mutate, NO_WORDS, READER_BYTES;
}
