//! Tokenizers from GGUF metadata against the definition and against the `tokenizers` crate, on vocabularies made in code.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod vocabularies;

use std::sync::Arc;

use inferlib_text::{
    DecodeStream, EncodeOptions, GgufVocabulary, TextError, TokenKind, Tokenizer, TokenizerConfig,
};
use proptest::prelude::*;
use vocabularies::{ByteLevel, PARSED, PLAIN, SentencePiece, kind};

/// Pairs that make words of `a`, `b`, space and the bytes of `é` likely.
fn pairs() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let byte = prop_oneof![
        Just(usize::from(b'a')),
        Just(usize::from(b'b')),
        Just(usize::from(b' ')),
        Just(0xC3),
        Just(0xA9)
    ];
    let token = prop_oneof![2 => byte, 3 => 256..300usize];
    proptest::collection::vec((token.clone(), token), 0..40)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab é]{0,40}", "[ab é\\n1🙂<|im_end>]{0,60}", "\\PC{0,20}"]
}

/// All ids of `text`, by the rule: of all adjacent pairs merge the one with the best score, leftmost on a tie.
fn sentence_piece_by_definition(vocabulary: &SentencePiece, text: &str) -> Vec<u32> {
    let find = |piece: &str| {
        let found = vocabulary.tokens.iter().position(|token| token == piece);
        found.filter(|&id| vocabulary.types[id] == kind::NORMAL)
    };
    let mut pieces: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for index in 1..pieces.len() {
            if let Some(id) = find(&format!("{}{}", pieces[index - 1], pieces[index])) {
                let score = vocabulary.scores[id];
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, index));
                }
            }
        }
        let Some((_, index)) = best else { break };
        let right = pieces.remove(index);
        pieces[index - 1].push_str(&right);
    }
    let id = |id: usize| u32::try_from(id).unwrap();
    pieces
        .iter()
        .flat_map(|piece| match find(piece) {
            Some(found) => vec![id(found)],
            None => piece
                .bytes()
                .map(|byte| id(3 + usize::from(byte)))
                .collect(),
        })
        .collect()
}

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = DecodeStream::new(Arc::clone(tokenizer), skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish());
    text
}

proptest! {
    #[test]
    fn byte_level_ids_are_those_of_the_tokenizers_crate(pairs in pairs(), text in text()) {
        let vocabulary = ByteLevel::new(&pairs, &[("<|im_end|>", kind::CONTROL), ("b<", kind::USER_DEFINED)]);
        let ours = vocabulary.with("gpt-2", |gguf| Tokenizer::from_gguf(&gguf)).unwrap();
        let json = vocabulary.to_json();
        let from_json = Tokenizer::from_json(json.as_bytes(), &TokenizerConfig::default()).unwrap();
        let theirs: tokenizers::Tokenizer = json.parse().unwrap();
        let ids = ours.encode(&text, PARSED).unwrap();
        let expected = theirs.encode_fast(text.as_str(), false).unwrap();
        prop_assert_eq!(expected.get_ids(), &ids);
        prop_assert_eq!(from_json.encode(&text, PARSED).unwrap(), ids.clone());
        for skip_special in [false, true] {
            let expected = theirs.decode(&ids, skip_special).unwrap();
            prop_assert_eq!(ours.decode(&ids, skip_special).unwrap(), expected.clone());
            prop_assert_eq!(from_json.decode(&ids, skip_special).unwrap(), expected);
        }
        prop_assert_eq!(ours.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn sentence_piece_ids_follow_the_definition(
        pieces in proptest::collection::vec(("[▁abé]{1,4}", 0..6u8), 0..40),
        text in "[ab é▁c🙂]{0,30}",
    ) {
        let scored = pieces.iter().map(|(piece, score)| (piece.as_str(), -f32::from(*score)));
        let pieces: Vec<(&str, f32)> = [("▁", -9.0)].into_iter().chain(scored).collect();
        let vocabulary = SentencePiece::new(&pieces);
        let tokenizer = Arc::new(vocabulary.with(false, |gguf| Tokenizer::from_gguf(&gguf)).unwrap());
        let ids = tokenizer.encode(&text, PLAIN).unwrap();
        prop_assert_eq!(&ids, &sentence_piece_by_definition(&vocabulary, &text));
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.replace('▁', " "));
        prop_assert_eq!(streamed(&tokenizer, &ids, true), text.replace('▁', " "));
    }

    #[test]
    fn streaming_equals_decoding_for_any_ids(
        ids in proptest::collection::vec(0..280u32, 0..30),
        skip_special in any::<bool>(),
        add_space_prefix in any::<bool>(),
    ) {
        let pieces = [("▁", -1.0), ("▁a", -2.0), ("▁▁", -3.0), ("é", -4.0), ("b", -5.0), ("\u{301}", -6.0)];
        let vocabulary = SentencePiece::new(&pieces);
        let tokenizer = Arc::new(vocabulary.with(add_space_prefix, |gguf| Tokenizer::from_gguf(&gguf)).unwrap());
        let num_tokens = u32::try_from(tokenizer.vocab_size()).unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id % num_tokens).collect();
        let whole = tokenizer.decode(&ids, skip_special).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &ids, skip_special), whole);
    }
}

fn llama() -> Tokenizer {
    let mut vocabulary = SentencePiece::new(&[
        ("▁", -1.0),
        ("h", -2.0),
        ("i", -3.0),
        ("hi", -4.0),
        ("▁hi", -5.0),
    ]);
    vocabulary.push("<tool>", kind::USER_DEFINED, 0.0);
    vocabulary
        .with(true, |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap()
}

#[test]
fn a_space_is_put_before_text_that_begins_or_follows_a_control_token() {
    let tokenizer = llama();
    let tokens = |text, options| -> Vec<String> {
        let ids = tokenizer.encode(text, options).unwrap();
        ids.into_iter()
            .map(|id| tokenizer.id_to_token(id).unwrap())
            .collect()
    };
    assert_eq!(tokens("hi", EncodeOptions::default()), ["<s>", "▁hi"]);
    assert_eq!(
        tokens("hi</s>hi<tool>hi", PARSED),
        ["▁hi", "</s>", "▁hi", "<tool>", "hi"]
    );
    assert_eq!(tokens("", PARSED), [""; 0]);
}

#[test]
fn text_never_becomes_a_control_token_unless_asked() {
    let tokenizer = llama();
    let ids = tokenizer.encode("</s><tool>", PLAIN).unwrap();
    let kinds: Vec<TokenKind> = ids
        .iter()
        .map(|&id| tokenizer.token_kind(id).unwrap())
        .collect();
    assert!(!kinds.contains(&TokenKind::Control) && kinds.ends_with(&[TokenKind::UserDefined]));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "</s><tool>");
}

#[test]
fn the_space_in_front_is_dropped_again_once() {
    let tokenizer = Arc::new(llama());
    let ids = tokenizer.encode("  hi", EncodeOptions::default()).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "  hi");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>   hi");
    let mut stream = DecodeStream::continuing(Arc::clone(&tokenizer), true);
    let hi = tokenizer.token_to_id("▁hi").unwrap();
    assert_eq!(
        stream.push(hi).unwrap() + &stream.push(hi).unwrap(),
        " hi hi"
    );
}

#[test]
fn tokens_have_names_bytes_and_kinds() {
    let tokenizer = llama();
    assert_eq!(tokenizer.token_to_id("<0x41>"), Some(3 + 0x41));
    assert_eq!(tokenizer.id_to_token(3 + 0xFF).as_deref(), Some("<0xFF>"));
    assert_eq!(tokenizer.token_bytes(3 + 0xFF), Some(&[0xFF][..]));
    assert_eq!(
        tokenizer.token_bytes(tokenizer.token_to_id("▁hi").unwrap()),
        Some(&b" hi"[..])
    );
    assert_eq!(tokenizer.token_to_id("nonesuch"), None);
    assert_eq!(tokenizer.special_ids(), [0, 1, 2]);
    assert_eq!(tokenizer.special_tokens().end_ids, [2]);
    let unknown = TextError::UnknownTokenId {
        id: 9999,
        vocab_size: tokenizer.vocab_size(),
    };
    assert_eq!(tokenizer.decode(&[9999], true), Err(unknown));
}

#[test]
fn damaged_vocabularies_are_refused_with_the_field() {
    let refused = |change: &dyn Fn(&mut GgufVocabulary<'_>)| {
        ByteLevel::new(&[(97, 98)], &[("<x>", kind::CONTROL)]).with("gpt-2", |mut gguf| {
            change(&mut gguf);
            match Tokenizer::from_gguf(&gguf) {
                Err(
                    TextError::InvalidVocabulary { field, .. }
                    | TextError::UnsupportedTokenizer { field, .. },
                ) => field,
                other => panic!("{other:?}"),
            }
        })
    };
    assert_eq!(refused(&|gguf| gguf.model = "t5"), "tokenizer.ggml.model");
    assert_eq!(
        refused(&|gguf| gguf.pre = Some("nonesuch")),
        "tokenizer.ggml.pre"
    );
    assert_eq!(refused(&|gguf| gguf.tokens = &[]), "tokenizer.ggml.tokens");
    assert_eq!(
        refused(&|gguf| gguf.tokens = &["a", "b", "a"]),
        "tokenizer.ggml.token_type"
    );
    assert_eq!(
        refused(&|gguf| gguf.token_types = Some(&[])),
        "tokenizer.ggml.token_type"
    );
    let tokens = |tokens: &'static [&'static str], types: Option<&'static [i32]>| {
        refused(&move |gguf: &mut GgufVocabulary<'_>| {
            gguf.tokens = tokens;
            gguf.token_types = types;
        })
    };
    assert_eq!(tokens(&["a", "b", "a"], None), "tokenizer.ggml.tokens");
    assert_eq!(tokens(&["a"], Some(&[9])), "tokenizer.ggml.token_type");
    assert_eq!(tokens(&["<0x-1>"], Some(&[6])), "tokenizer.ggml.tokens");
    assert_eq!(refused(&|gguf| gguf.merges = None), "tokenizer.ggml.merges");
    let merges: [&'static [&'static str]; 7] = [
        &["ab"],
        &["a"],
        &["a  b"],
        &["a z1"],
        &["x y"],
        &["a ▁"],
        &[""],
    ];
    for merges in merges {
        assert_eq!(
            refused(&|gguf| gguf.merges = Some(merges)),
            "tokenizer.ggml.merges"
        );
    }
    assert_eq!(
        refused(&|gguf| gguf.bos_token_id = Some(u32::MAX)),
        "tokenizer.ggml.bos_token_id"
    );
    assert_eq!(
        refused(&|gguf| gguf.eot_token_id = Some(258)),
        "tokenizer.ggml.eot_token_id"
    );
    assert_eq!(
        refused(&|gguf| gguf.add_bos_token = Some(true)),
        "tokenizer.ggml.add_bos_token"
    );
    let scores = |scores: Option<&'static [f32]>| {
        refused(&move |gguf: &mut GgufVocabulary<'_>| {
            gguf.model = "llama";
            gguf.scores = scores;
        })
    };
    assert_eq!(scores(None), "tokenizer.ggml.scores");
    assert_eq!(scores(Some(&[0.0])), "tokenizer.ggml.scores");
    assert_eq!(scores(Some(&[f32::NAN; 258])), "tokenizer.ggml.scores");
    assert_eq!(scores(Some(&[0.0; 258])), "tokenizer.ggml.tokens"); // no byte tokens and no unknown token
}

#[test]
fn a_long_run_takes_time_in_proportion() {
    // Merging pair by pair without a heap would take minutes here.
    let vocabulary = ByteLevel::new(&[(97, 97), (256, 256), (257, 257)], &[]);
    let tokenizer = vocabulary
        .with("gpt-2", |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    let ids = tokenizer.encode(&"a".repeat(200_001), PLAIN).unwrap();
    assert_eq!(ids.len(), 25_001);
    let pieces = [("a", -1.0), ("aa", -2.0), ("aaaa", -3.0)];
    let tokenizer = SentencePiece::new(&pieces)
        .with(false, |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    assert_eq!(
        tokenizer.encode(&"a".repeat(200_001), PLAIN).unwrap().len(),
        50_001
    );
}

#[test]
fn one_text_is_cut_before_the_token_that_ends_it_and_two_are_not_joined() {
    let vocabulary = SentencePiece::new(&[("▁", -1.0), ("hi", -2.0), ("▁hi", -3.0)]);
    let tokenizer = vocabulary
        .with(true, |gguf| {
            Tokenizer::from_gguf(&GgufVocabulary {
                add_eos_token: Some(true),
                ..gguf
            })
        })
        .unwrap();
    let hi = tokenizer.token_to_id("▁hi").unwrap();
    let encode = |max_tokens| {
        let found = tokenizer
            .encode_segments("hi hi hi", None, max_tokens)
            .unwrap();
        assert_eq!(found.second_segment, None);
        (found.ids, found.num_dropped)
    };
    assert_eq!(encode(None), (vec![1, hi, hi, hi, 2], 0));
    assert_eq!(encode(Some(5)), (vec![1, hi, hi, hi, 2], 0));
    assert_eq!(encode(Some(3)), (vec![1, hi, 2], 2));
    assert_eq!(encode(Some(1)), (vec![2], 4));
    assert_eq!(encode(Some(0)), (vec![], 5));
    match tokenizer.encode_segments("hi", Some("hi"), None) {
        Err(TextError::Unencodable { problem }) => {
            assert!(problem.contains("how two texts are joined"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn byte_level_tokens_are_named_in_gpt2s_alphabet_unless_they_are_none_of_it() {
    let mut vocabulary = ByteLevel::new(&[(b' '.into(), b'a'.into())], &[]);
    for (token, kind) in [
        ("日本", kind::NORMAL),
        ("▁x", kind::UNUSED),
        ("<end>", kind::NORMAL),
    ] {
        vocabulary.tokens.push(token.to_owned());
        vocabulary.types.push(kind);
    }
    let end = u32::try_from(vocabulary.tokens.len() - 1).unwrap();
    let tokenizer = vocabulary
        .with("gpt-2", |gguf| {
            Tokenizer::from_gguf(&GgufVocabulary {
                eot_token_id: Some(end),
                ..gguf
            })
        })
        .unwrap();
    assert_eq!(tokenizer.id_to_token(256).as_deref(), Some("Ġa"));
    assert_eq!(tokenizer.token_bytes(256), Some(&b" a"[..]));
    // No piece is made of these, but they can be drawn.
    for (id, token, kind) in [
        (257, "日本", TokenKind::Normal),
        (258, "▁x", TokenKind::Unused),
    ] {
        assert_eq!(tokenizer.id_to_token(id).as_deref(), Some(token));
        assert_eq!(tokenizer.token_bytes(id), Some(token.as_bytes()));
        assert_eq!(tokenizer.token_kind(id), Some(kind));
        assert!(!tokenizer.encode(token, PLAIN).unwrap().contains(&id));
    }
    // What the file says ends a turn is no text.
    assert_eq!(tokenizer.token_kind(end), Some(TokenKind::Control));
    assert_eq!(tokenizer.special_tokens().eot_id, Some(end));
    assert_eq!(tokenizer.special_tokens().end_ids, [end]);
    assert_eq!(tokenizer.id_to_token(9999), None);
}

#[test]
fn a_word_that_is_a_token_is_not_merged_where_the_family_says_so() {
    let mut vocabulary = ByteLevel::new(&[(b'a'.into(), b'b'.into())], &[]);
    // No merges lead to it.
    vocabulary.tokens.push("abc".to_owned());
    vocabulary.types.push(kind::NORMAL);
    for (pre, ids) in [
        ("llama-bpe", vec![257]),
        ("gpt-2", vec![256, u32::from(b'c')]),
    ] {
        let tokenizer = vocabulary
            .with(pre, |gguf| Tokenizer::from_gguf(&gguf))
            .unwrap();
        assert_eq!(tokenizer.encode("abc", PLAIN).unwrap(), ids, "{pre}");
    }
}

#[test]
fn bytes_without_a_token_are_left_out_and_characters_become_the_unknown_token() {
    let mut vocabulary = ByteLevel::new(&[(b'a'.into(), b'b'.into())], &[]);
    vocabulary.tokens[usize::from(b'x')] = "xyz".to_owned();
    let tokenizer = vocabulary
        .with("gpt-2", |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    let ids = tokenizer.encode("abxab", PLAIN).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "abab");

    let mut vocabulary = SentencePiece::new(&[("a", -1.0)]);
    // One byte of "é" has no token any more.
    let lost = 3 + 0xA9;
    vocabulary.tokens[lost] = "lost".to_owned();
    vocabulary.types[lost] = kind::NORMAL;
    let tokenizer = vocabulary
        .with(false, |gguf| Tokenizer::from_gguf(&gguf))
        .unwrap();
    let a = tokenizer.token_to_id("a").unwrap();
    assert_eq!(tokenizer.encode("aéa", PLAIN).unwrap(), [a, 0, a]);
    assert_eq!(
        tokenizer.encode("è", PLAIN).unwrap(),
        [3 + 0xC3, 3 + 0xA8],
        "all of its bytes have tokens"
    );
}
