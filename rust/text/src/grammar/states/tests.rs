//! What only shows from within: automata that a panic left behind.

use serde_json::json;

use super::*;
use crate::grammar::{GrammarSource, Grammars};
use crate::tokenizer::Tokenizer;
use crate::tokenizer_config::TokenizerConfig;

#[test]
fn a_panic_of_the_parser_is_the_failure_of_those_that_share_its_automata() {
    let json = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 2, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        }],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    });
    let json = json.to_string();
    let tokenizer = Tokenizer::from_json(json.as_bytes(), &TokenizerConfig::default());
    let grammars = Grammars::new(Arc::new(tokenizer.unwrap()), &[2], 3).unwrap();
    let compile = |pattern: &str| grammars.compile(&GrammarSource::Regex(pattern.into()));
    let (broken, sound) = (compile("[ab]{9}").unwrap(), compile("a[ab]b").unwrap());
    let limit = SequenceLimit {
        max_tokens: 20,
        closes: true,
        forces: true,
    };
    let mut states = GrammarStates::new(3, usize::MAX);
    let rows = [1, 2, 3].map(|key| MaskedRow {
        key,
        num_output_tokens: 0,
    });
    let panic_in = |automata: &Automata| {
        let mut matcher = automata.matcher();
        matcher.test_trigger_lexer_error().unwrap_err();
    };
    states.insert(1, &sound, limit).unwrap();
    states.insert(2, &broken, limit).unwrap();
    states.masks(&rows[..2], |_| None);
    // In a sequence's own, then in those that sequences begin with.
    panic_in(states.sequences[&2].automata.as_ref().unwrap());
    panic_in(broken.automata());
    states.insert(3, &broken, limit).unwrap();
    assert!(states.forced(3).is_empty());
    assert!(states.append(&[1, 2], &[0, 0]).is_empty());
    let rows = [1, 2, 3].map(|key| MaskedRow {
        key,
        num_output_tokens: usize::from(key != 3),
    });
    let masks = states.masks(&rows, |_| None);
    let is_empty = |mask: &Option<Arc<[u32]>>| mask.as_ref().unwrap().iter().all(|&word| word == 0);
    assert_eq!(
        masks.iter().map(is_empty).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert!(states.failure(1).is_none());
    assert!(states.failure(2).is_some() && states.failure(3).is_some());
    assert_eq!(states.close(1), Some(2));
}
