//! The pool of text streams.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod vocabularies;

use std::sync::Arc;

use inferlib_text::{StopHit, StopStrings, StreamOptions, TextError, TextStreams, Tokenizer};
use proptest::prelude::*;
use vocabularies::{ByteLevel, PLAIN, kind};

fn tokenizer() -> Arc<Tokenizer> {
    let pairs = [(b'a', b'b'), (b'\n', b'\n'), (0xC3, 0xA9)]
        .map(|(left, right)| (left.into(), right.into()));
    let vocabulary = ByteLevel::new(&pairs, &[("<|im_end|>", kind::CONTROL)]);
    Arc::new(
        vocabulary
            .with("gpt-2", |gguf| Tokenizer::from_gguf(&gguf))
            .unwrap(),
    )
}

fn options(stops: &[&str]) -> StreamOptions {
    StreamOptions {
        skip_special: true,
        stops: Arc::new(StopStrings::new(stops).unwrap()),
        ..StreamOptions::default()
    }
}

#[test]
fn streams_are_advanced_together_and_stop_alone() {
    let tokenizer = tokenizer();
    let mut streams = TextStreams::new(Arc::clone(&tokenizer));
    streams.insert(7, options(&["b!", "\n\n"])).unwrap();
    streams.insert(8, options(&[])).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let (ab, bang, x) = (id("ab"), id("!"), id("x"));
    let advance = streams.advance(&[7, 8], &[ab, ab]).unwrap();
    assert!(advance.stops.is_empty() && advance.failures.is_empty());
    assert_eq!(streams.take_text(7).unwrap(), "a"); // "b" may become "b!"
    assert_eq!(streams.take_text(8).unwrap(), "ab");
    let advance = streams.advance(&[8, 7, 7], &[bang, bang, x]).unwrap();
    assert_eq!(
        advance.stops,
        [StopHit {
            key: 7,
            position: 1,
            stop_index: 0
        }]
    );
    streams.finish(7).unwrap();
    assert_eq!(streams.take_text(7).unwrap(), "");
    assert_eq!(streams.take_text(8).unwrap(), "!");
    assert!(streams.remove(7) && !streams.remove(7));
    assert_eq!(streams.len(), 1);
}

#[test]
fn the_end_releases_what_was_held_back() {
    let tokenizer = tokenizer();
    let mut streams = TextStreams::new(Arc::clone(&tokenizer));
    streams.insert(1, options(&["b\u{fffd}", "bc"])).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    streams.advance(&[1, 1], &[id("ab"), id("Ã")]).unwrap();
    assert_eq!(streams.take_text(1).unwrap(), "a");
    streams.finish(1).unwrap();
    assert_eq!(streams.take_text(1).unwrap(), ""); // the unfinished character completed the first stop string
    streams.insert(2, options(&["bc"])).unwrap();
    streams.advance(&[2, 2], &[id("ab"), id("Ã")]).unwrap();
    streams.finish(2).unwrap();
    assert_eq!(streams.take_text(2).unwrap(), "ab\u{fffd}");
}

#[test]
fn stops_wait_for_the_least_number_of_tokens() {
    let tokenizer = tokenizer();
    let mut streams = TextStreams::new(Arc::clone(&tokenizer));
    streams
        .insert(
            1,
            StreamOptions {
                min_tokens: 2,
                include_stop: true,
                ..options(&["a"])
            },
        )
        .unwrap();
    let a = tokenizer.token_to_id("a").unwrap();
    let advance = streams.advance(&[1, 1, 1], &[a, a, a]).unwrap();
    assert_eq!(
        advance.stops,
        [StopHit {
            key: 1,
            position: 2,
            stop_index: 0
        }]
    );
    assert_eq!(streams.take_text(1).unwrap(), "aaa");
}

#[test]
fn one_bad_token_or_key_is_that_streams_failure() {
    let tokenizer = tokenizer();
    let mut streams = TextStreams::new(Arc::clone(&tokenizer));
    streams.insert(1, options(&[])).unwrap();
    assert_eq!(
        streams.insert(1, options(&[])),
        Err(TextError::DuplicateStream { key: 1 })
    );
    let a = tokenizer.token_to_id("a").unwrap();
    let advance = streams
        .advance(&[1, 1, 2, 1, 1], &[a, 99_999, a, a, 99_999])
        .unwrap();
    let failed: Vec<_> = advance
        .failures
        .iter()
        .map(|failure| (failure.key, failure.position))
        .collect();
    assert_eq!(failed, [(1, 1), (2, 2)]);
    assert_eq!(streams.take_text(1).unwrap(), "a");
    assert_eq!(
        streams.take_text(2),
        Err(TextError::UnknownStream { key: 2 })
    );
    assert!(matches!(
        streams.advance(&[1], &[]),
        Err(TextError::LengthMismatch {
            keys: 1,
            token_ids: 0
        })
    ));
}

proptest! {
    #[test]
    fn the_taken_pieces_are_the_decoded_text_up_to_the_stop(
        text in "[ab\\né🙂]{0,30}",
        stops in proptest::collection::vec("[ab\\né]{1,3}", 0..3),
        take_every in 1..5usize,
    ) {
        let tokenizer = tokenizer();
        let mut streams = TextStreams::new(Arc::clone(&tokenizer));
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        streams.insert(1, options(&stops)).unwrap();
        let mut taken = String::new();
        for (step, id) in tokenizer.encode(&text, PLAIN).unwrap().into_iter().enumerate() {
            streams.advance(&[1], &[id]).unwrap();
            if step % take_every == 0 {
                taken.push_str(&streams.take_text(1).unwrap());
            }
        }
        streams.finish(1).unwrap();
        taken.push_str(&streams.take_text(1).unwrap());
        let first = |end: &usize| stops.iter().filter(|stop| text.as_bytes()[..*end].ends_with(stop.as_bytes())).map(|stop| stop.len()).max();
        let end = (0..=text.len()).find_map(|end| first(&end).map(|length| end - length)).unwrap_or(text.len());
        prop_assert_eq!(taken, &text[..end]);
    }
}

#[test]
fn a_stream_that_continues_a_text_keeps_the_space_of_its_first_token() {
    let vocabulary = vocabularies::SentencePiece::new(&[("▁", -1.0), ("hi", -2.0), ("▁hi", -3.0)]);
    let tokenizer = vocabulary
        .with(true, |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    let hi = tokenizer.token_to_id("▁hi").unwrap();
    let mut streams = TextStreams::new(Arc::new(tokenizer));
    assert!(streams.is_empty());
    streams.insert(1, options(&[])).unwrap();
    let continued = StreamOptions {
        continues: true,
        ..options(&[])
    };
    streams.insert(2, continued).unwrap();
    assert!(!streams.is_empty());
    streams.advance(&[1, 2, 2], &[hi, hi, hi]).unwrap();
    assert_eq!(streams.take_text(1).unwrap(), "hi");
    assert_eq!(streams.take_text(2).unwrap(), " hi hi");
}
