//! Small vocabularies made in code, in the forms that files give them. Each test file uses some of these.
#![cfg_attr(
    test,
    allow(
        dead_code,
        clippy::unwrap_used,
        reason = "shared by test files that use different parts"
    )
)]

use inferlib_text::{EncodeOptions, GgufVocabulary};

/// Text as text: nothing added, nothing special.
pub(crate) const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

/// Control tokens in the text are control tokens.
pub(crate) const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};

/// The types of GGUF.
pub(crate) mod kind {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// GPT-2's character for a byte.
pub(crate) fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !prints(other)).count();
    char::from_u32(0x100 + u32::try_from(before).unwrap()).unwrap()
}

/// A byte-level vocabulary: 256 bytes, the results of `merges`, and `<|im_end|>`-like tokens.
pub(crate) struct ByteLevel {
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) merges: Vec<String>,
}

impl ByteLevel {
    /// Merge pairs of earlier tokens, by index; pairs whose result exists already are left out.
    pub(crate) fn new(pairs: &[(usize, usize)], literals: &[(&str, i32)]) -> Self {
        let mut tokens: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
        let mut merges = Vec::new();
        for &(left, right) in pairs {
            let (left, right) = (&tokens[left % tokens.len()], &tokens[right % tokens.len()]);
            let both = format!("{left}{right}");
            if !tokens.contains(&both) {
                merges.push(format!("{left} {right}"));
                tokens.push(both);
            }
        }
        let mut types = vec![kind::NORMAL; tokens.len()];
        for &(literal, kind) in literals {
            tokens.push(literal.to_owned());
            types.push(kind);
        }
        Self {
            tokens,
            types,
            merges,
        }
    }

    pub(crate) fn with<R>(&self, pre: &str, body: impl FnOnce(GgufVocabulary<'_>) -> R) -> R {
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        let merges: Vec<&str> = self.merges.iter().map(String::as_str).collect();
        body(GgufVocabulary {
            model: "gpt2",
            pre: Some(pre),
            tokens: &tokens,
            token_types: Some(&self.types),
            merges: Some(&merges),
            ..GgufVocabulary::default()
        })
    }

    /// The same as a `tokenizer.json`, with GPT-2's pre-tokenizer.
    pub(crate) fn to_json(&self) -> String {
        let is_piece = |&(_, &kind): &(usize, &i32)| kind == kind::NORMAL;
        let vocab: serde_json::Map<String, serde_json::Value> = self
            .types
            .iter()
            .enumerate()
            .filter(is_piece)
            .map(|(id, _)| (self.tokens[id].clone(), id.into()))
            .collect();
        let added = self
            .types
            .iter()
            .enumerate()
            .filter(|entry| !is_piece(entry));
        let added: Vec<_> = added
            .map(|(id, &kind)| {
                serde_json::json!({
                    "id": id, "content": self.tokens[id], "special": kind == kind::CONTROL,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
            .collect();
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": self.merges,
            },
        })
        .to_string()
    }
}

/// A `SentencePiece` vocabulary: `<unk> <s> </s>`, 256 byte tokens, then pieces with scores.
pub(crate) struct SentencePiece {
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) scores: Vec<f32>,
}

impl SentencePiece {
    pub(crate) fn new(pieces: &[(&str, f32)]) -> Self {
        let mut vocabulary = Self {
            tokens: Vec::new(),
            types: Vec::new(),
            scores: Vec::new(),
        };
        vocabulary.push("<unk>", kind::UNKNOWN, 0.0);
        vocabulary.push("<s>", kind::CONTROL, 0.0);
        vocabulary.push("</s>", kind::CONTROL, 0.0);
        for byte in 0..=255 {
            vocabulary.push(&format!("<0x{byte:02X}>"), kind::BYTE, 0.0);
        }
        for &(piece, score) in pieces {
            if !vocabulary.tokens.iter().any(|token| token == piece) {
                vocabulary.push(piece, kind::NORMAL, score);
            }
        }
        vocabulary
    }

    pub(crate) fn push(&mut self, token: &str, kind: i32, score: f32) {
        self.tokens.push(token.to_owned());
        self.types.push(kind);
        self.scores.push(score);
    }

    pub(crate) fn with<R>(
        &self,
        add_space_prefix: bool,
        body: impl FnOnce(GgufVocabulary<'_>) -> R,
    ) -> R {
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        body(GgufVocabulary {
            model: "llama",
            tokens: &tokens,
            token_types: Some(&self.types),
            scores: Some(&self.scores),
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            unknown_token_id: Some(0),
            add_space_prefix: Some(add_space_prefix),
            ..GgufVocabulary::default()
        })
    }
}
