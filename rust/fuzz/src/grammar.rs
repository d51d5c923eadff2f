//! Descriptions of output: what compiles has a mask, and goes on for some tokens.

use std::sync::{Arc, OnceLock};

use inferlib_text::{GrammarSource, Grammars, Tokenizer, TokenizerConfig};

use crate::samples::byte_tokenizer;

/// Tokens that are appended to what was compiled.
const STEPS: usize = 8;

pub(crate) fn json_schema(data: &[u8]) -> bool {
    compile(data, GrammarSource::JsonSchema)
}

pub(crate) fn regex(data: &[u8]) -> bool {
    compile(data, GrammarSource::Regex)
}

pub(crate) fn lark(data: &[u8]) -> bool {
    compile(data, GrammarSource::Lark)
}

fn compile(data: &[u8], source: fn(String) -> GrammarSource) -> bool {
    static GRAMMARS: OnceLock<(Grammars, usize)> = OnceLock::new();
    let (grammars, size) = GRAMMARS.get_or_init(|| {
        let json = byte_tokenizer();
        let tokenizer = Tokenizer::from_json(json.as_bytes(), &TokenizerConfig::default());
        let tokenizer = Arc::new(tokenizer.expect("a sample"));
        let end = tokenizer.token_to_id("</s>").expect("it is the last token");
        let size = tokenizer.vocab_size();
        let grammars = Grammars::new(tokenizer, &[end], size).expect("a sample");
        (grammars, size)
    });
    let text = String::from_utf8_lossy(data).into_owned();
    let grammar = match grammars.compile(&source(text)) {
        Ok(grammar) => grammar,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let mut state = grammar.start();
    let mut words = vec![0_u32; size.div_ceil(32)];
    for step in 0..STEPS {
        if state.is_complete() || state.mask(&mut words).is_err() {
            return true;
        }
        let allowed: Vec<u32> = (0_u32..)
            .take(*size)
            .filter(|&id| words[id as usize / 32] >> (id % 32) & 1 == 1)
            .collect();
        assert!(!allowed.is_empty(), "a mask of nothing is no mask");
        let token = allowed[(data.len() + step) % allowed.len()];
        // The parser may reach its limits; it may not refuse what its mask allows for another reason.
        if state.append(token).is_err() {
            return true;
        }
        state.forced();
    }
    true
}
