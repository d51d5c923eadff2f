//! The states of running sequences, step by step: masks of drafts, failures, ends.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod grammar_cases;
mod vocabularies;

use std::sync::Arc;

use grammar_cases::{VOCAB_SIZE, bits, end, grammars, tokenizer};
use inferlib_text::{Complete, GrammarSource, GrammarStates, MaskedRow, SequenceLimit};

const LIMIT: SequenceLimit = SequenceLimit {
    max_tokens: 100,
    closes: true,
    forces: true,
};

/// The bits of the one mask there is.
fn only(masks: &[Option<Arc<[u32]>>]) -> Vec<u32> {
    bits(masks[0].as_ref().unwrap())
}

#[test]
fn each_row_of_a_draft_has_the_mask_behind_the_tokens_before_it() {
    let tokenizer = tokenizer();
    let grammars = grammars(&tokenizer);
    let digits = grammars
        .compile(&GrammarSource::Regex("[0-9]{3}x".into()))
        .unwrap();
    let letters = grammars
        .compile(&GrammarSource::Regex("[a-c]+".into()))
        .unwrap();
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    states.insert(7, &digits, LIMIT).unwrap();
    states.insert(9, &letters, LIMIT).unwrap();
    assert!(states.insert(9, &letters, LIMIT).is_err());
    let id = |text: &str| i32::from(text.as_bytes()[0]);
    let row = |key, num_output_tokens| MaskedRow {
        key,
        num_output_tokens,
    };
    // Sequence 7 drafts "12y", of which the last cannot be; 8 has no grammar.
    let drafted = [id("1"), id("2"), id("y")];
    let rows = [
        row(7, 0),
        row(7, 1),
        row(7, 2),
        row(7, 3),
        row(8, 0),
        row(9, 0),
    ];
    let drafts = |at: usize| if at < 3 { Some(drafted[at]) } else { None };
    let masks = states.masks(&rows, drafts);
    let is_masked: Vec<bool> = masks.iter().map(Option::is_some).collect();
    assert_eq!(is_masked, [true, true, true, false, false, true]);
    let digit: Vec<u32> = (b'0'..=b'9').map(u32::from).collect();
    for mask in &masks[..3] {
        let mut seen = bits(mask.as_ref().unwrap());
        seen.retain(|id| *id < 256);
        assert_eq!(seen, digit);
    }
    // Two of the draft and one more were drawn; then the sequence is taken back to two, as a rewind does.
    let drawn = [id("1"), id("2"), id("3"), id("z"), id("a")];
    assert!(states.append(&[7, 7, 7, 8, 9], &drawn).is_empty());
    let complete = Complete {
        key: 7,
        num_output_tokens: 4,
        was_closed: false,
    };
    assert_eq!(states.append(&[7, 9], &[id("x"), id("b")]), [complete]);
    assert!(states.is_complete(7) && !states.is_complete(9) && !states.is_complete(8));
    assert!(states.append(&[9], &[id("x")]).is_empty());
    assert!(states.failure(9).is_some() && states.failure(7).is_none());
    // What failed masks everything, so that its row cannot be drawn.
    assert!(only(&states.masks(&[row(9, 3)], |_| None)).is_empty());
    states.rebuild(7, &[id("4"), id("5")]);
    assert!(!states.is_complete(7));
    assert!(only(&states.masks(&[row(7, 2)], |_| None)).contains(&u32::from(b'6')));
    // Who counts otherwise than the caller allows nothing.
    assert!(only(&states.masks(&[row(7, 1)], |_| None)).is_empty());
    assert!(
        states
            .failure(7)
            .unwrap()
            .to_string()
            .contains("2 tokens are known")
    );
    assert!(states.remove(7) && !states.remove(7));
    assert_eq!(states.len(), 1);
}

#[test]
fn sequences_without_a_grammar_or_with_a_failure_have_nothing_to_tell() {
    let tokenizer = tokenizer();
    let grammar = grammars(&tokenizer)
        .compile(&GrammarSource::Regex("abc[0-9]".into()))
        .unwrap();
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    assert!(states.is_empty());
    states.insert(1, &grammar, LIMIT).unwrap();
    assert!(!states.is_empty());
    assert_eq!(states.forced(1), [b'a', b'b', b'c'].map(i32::from));
    let row = |key, num_output_tokens| MaskedRow {
        key,
        num_output_tokens,
    };
    // Key 2 has no grammar.
    assert_eq!(states.forced(2), [0; 0]);
    assert_eq!(states.close(2), None);
    assert!(!states.is_closing(2) && !states.is_closing(1));
    states.rebuild(2, &[1]);
    assert!(states.failure(2).is_none());
    assert!(
        states
            .refused(&[row(2, 0), row(1, 0)], |_| None, |_| Some(1))
            .is_empty()
    );
    // Key 1 fails: it says so until it is built again.
    assert!(states.append(&[1], &[i32::from(b'z')]).is_empty());
    assert!(states.failure(1).is_some());
    assert_eq!(states.forced(1), [0; 0]);
    assert_eq!(states.close(1), None);
    assert!(states.append(&[1], &[i32::from(b'a')]).is_empty());
    states.rebuild(1, &[i32::from(b'a')]);
    assert!(states.failure(1).is_none());
    assert_eq!(states.forced(1), [b'b', b'c'].map(i32::from));
    assert_eq!(states.close(1), Some(3));
    assert!(states.is_closing(1));
    states.rebuild(1, &[i32::from(b'a')]);
    assert!(states.is_closing(1), "a text goes on being closed");
}

#[test]
fn nothing_is_drafted_behind_a_complete_text() {
    let tokenizer = tokenizer();
    let grammar = grammars(&tokenizer)
        .compile(&GrammarSource::Regex("[ab]c".into()))
        .unwrap();
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    states.insert(1, &grammar, LIMIT).unwrap();
    let rows: Vec<MaskedRow> = (0..4)
        .map(|num_output_tokens| MaskedRow {
            key: 1,
            num_output_tokens,
        })
        .collect();
    let end = end(&tokenizer);
    let drafts = [i32::from(b'a'), i32::from(b'c'), end.cast_signed()];
    let masks = states.masks(&rows, |row| drafts.get(row).copied());
    let allowed: Vec<Option<Vec<u32>>> = masks
        .iter()
        .map(|mask| mask.as_ref().map(|words| bits(words)))
        .collect();
    assert_eq!(
        allowed,
        [
            Some(vec![b'a'.into(), b'b'.into()]),
            Some(vec![b'c'.into()]),
            Some(vec![end]),
            None
        ]
    );
    // Ids that are none are set in no mask.
    let masks = states.masks(&rows, |_| Some(-1));
    assert_eq!(
        masks.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, false, false]
    );
}

#[test]
fn automata_take_so_much_and_the_largest_ones_end_first() {
    let tokenizer = tokenizer();
    let grammars = grammars(&tokenizer);
    let compile = |source| grammars.compile(&source).unwrap();
    let small = compile(GrammarSource::Regex("a|b{40}".into()));
    let large = compile(GrammarSource::Choices(vec!["abc".repeat(3000)]));
    assert!(large.num_bytes() > 20 * small.num_bytes());
    let max_bytes = 2 * large.num_bytes() + large.num_bytes() / 2;
    let mut states = GrammarStates::new(VOCAB_SIZE, max_bytes);
    let row = |key, num_output_tokens| MaskedRow {
        key,
        num_output_tokens,
    };
    for key in 0..50 {
        let grammar = if key < 5 { &large } else { &small };
        states.insert(key, grammar, LIMIT).unwrap();
        assert_eq!(
            states.forced(key).is_empty(),
            key >= 5,
            "what is certain is known before"
        );
    }
    assert_eq!(states.num_bytes(), 0, "nobody runs yet");
    let rows = [0, 1, 5].map(|key| row(key, 0));
    let masks = states.masks(&rows, |_| None);
    assert!(masks.iter().flatten().all(|mask| !bits(mask).is_empty()));
    let two = states.num_bytes();
    assert!((2 * large.num_bytes()..=max_bytes).contains(&two), "{two}");
    // The third one is too much. Of equal ones the latest goes, and small ones never.
    let rows = [2, 0, 6].map(|key| row(key, 0));
    let masks = states.masks(&rows, |_| None);
    let is_stuck: Vec<bool> = masks
        .iter()
        .flatten()
        .map(|mask| bits(mask).is_empty())
        .collect();
    assert_eq!(is_stuck, [true, false, false]);
    let problem = states.failure(2).unwrap().to_string();
    assert!(
        problem.contains("the largest of those that take more than"),
        "{problem}"
    );
    assert!(states.num_bytes() <= max_bytes);
    // Who ends leaves room.
    states.remove(0);
    assert!(!only(&states.masks(&[row(3, 0)], |_| None)).is_empty());
    assert!(states.failure(1).is_none() && states.failure(3).is_none());
    // What tokens add counts.
    let before = states.num_bytes();
    for num_output_tokens in 0..20 {
        states.masks(&[row(6, num_output_tokens)], |_| None);
        states.append(&[6], &[i32::from(b'b')]);
    }
    assert!(states.num_bytes() > before);
    states.rebuild(4, &[i32::from(b'a')]);
    states.rebuild(7, &[]);
    states.masks(&[row(6, 20)], |_| None);
    assert!(states.failure(4).is_some() && states.failure(7).is_none());
}
