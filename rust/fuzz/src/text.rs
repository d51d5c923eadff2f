//! Vocabularies and templates: what they accept is used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use inferlib_text::{
    ChatTemplate, Clock, EncodeOptions, TemplateInput, TextError, Tokenizer, TokenizerConfig,
};
use inferlib_weights::Weights;
use serde_json::{Value, json};

use crate::gguf_vocabulary;
use crate::samples::TOKENIZER;

const TEXTS: [&str; 3] = [
    "",
    "Hello, wörld! a ab abc <s>[CLS] 123\n\n \t漢字🙂e\u{301}",
    "<|im_end|></s><0x41>▁a aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const NOW: Clock = Clock {
    unix_seconds: 1_800_000_000,
    utc_offset_seconds: 3600,
};

pub(crate) fn gguf_vocabulary(data: &[u8]) -> bool {
    let Ok(weights) = Weights::from_bytes(Path::new("fuzzed.gguf"), data.to_vec()) else {
        return false;
    };
    check(gguf_vocabulary::tokenizer(weights.metadata()))
}

pub(crate) fn tokenizer_json(data: &[u8]) -> bool {
    check(Tokenizer::from_json(data, &TokenizerConfig::default()))
}

pub(crate) fn tokenizer_config(data: &[u8]) -> bool {
    let Ok(config) = TokenizerConfig::from_json(data) else {
        return false;
    };
    for name in ["default", "tool_use"] {
        let _either = config.chat_template(name);
    }
    check(Tokenizer::from_json(TOKENIZER.as_bytes(), &config))
}

fn check(result: Result<Tokenizer, TextError>) -> bool {
    match result {
        Ok(tokenizer) => {
            exercise(&tokenizer);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Ids are within the vocabulary, and all of it decodes.
fn exercise(tokenizer: &Tokenizer) {
    let size = tokenizer.vocab_size();
    for text in TEXTS {
        for add_special in [false, true] {
            let options = EncodeOptions {
                add_special,
                parse_special: add_special,
            };
            let Ok(ids) = tokenizer.encode(text, options) else {
                continue;
            };
            for &id in &ids {
                assert!((id as usize) < size, "{id} of {size}");
            }
            for skip_special in [false, true] {
                let _either = tokenizer.decode(&ids, skip_special);
            }
        }
    }
    for max_tokens in [None, Some(0), Some(3)] {
        let _either = tokenizer.encode_segments(TEXTS[1], None, max_tokens);
        let _either = tokenizer.encode_segments("a b", Some(TEXTS[2]), max_tokens);
    }
    for id in (0..u32::try_from(size.min(64)).unwrap_or(0)).chain([u32::MAX]) {
        let _either = tokenizer.decode(&[id], false);
        let _either = tokenizer.token_bytes(id);
    }
}

pub(crate) fn chat_template(data: &[u8]) -> bool {
    static INPUT: OnceLock<TemplateInput> = OnceLock::new();
    let input = INPUT.get_or_init(|| TemplateInput {
        messages: json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": " héllo 漢\n"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, "x"]}}}
            ]},
            {"role": "tool", "content": "{\"b\": true}"},
        ]),
        tools: Some(json!([{"type": "function", "function": {"name": "f", "parameters": {}}}])),
        add_generation_prompt: true,
        extra: [("enable_thinking".to_owned(), Value::Bool(false))]
            .into_iter()
            .collect(),
        now: Some(NOW),
    });
    let source = String::from_utf8_lossy(data);
    let special = BTreeMap::from([
        ("bos_token".to_owned(), "<s>".to_owned()),
        ("eos_token".to_owned(), "</s>".to_owned()),
    ]);
    let result = ChatTemplate::new(&source, special).and_then(|template| template.render(input));
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    result.is_ok()
}
