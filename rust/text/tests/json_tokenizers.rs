//! Tokenizers from `tokenizer.json`: pipelines of real models in small, and files that are damaged.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod vocabularies;

use std::sync::Arc;

use inferlib_text::{
    DecodeStream, EncodeOptions, MAX_TEXT_BYTES, TextError, TokenKind, Tokenizer, TokenizerConfig,
};
use serde_json::{Value, json};
use vocabularies::{ByteLevel, PARSED, PLAIN, kind};

fn config(json: &Value) -> TokenizerConfig {
    TokenizerConfig::from_json(json.to_string().as_bytes()).unwrap()
}

fn load(json: &Value) -> Result<Tokenizer, TextError> {
    let config = config(&json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}));
    Tokenizer::from_json(json.to_string().as_bytes(), &config)
}

/// Llama 2's pipeline: prepend `▁`, replace spaces, BPE with byte fallback, BOS by template.
fn llama(decoder: &Value) -> Value {
    let mut vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2});
    for byte in 0..=255 {
        vocab[format!("<0x{byte:02X}>")] = (3 + byte).into();
    }
    for (token, id) in ["▁", "h", "i", "hi", "▁hi", "é"].iter().zip(259..) {
        vocab[token] = id.into();
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["h i", "▁ hi"],
        },
    })
}

fn llama_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]})
}

#[test]
fn a_llama_pipeline_encodes_and_decodes() {
    let tokenizer = Arc::new(load(&llama(&llama_decoder())).unwrap());
    let special = tokenizer.special_tokens();
    assert_eq!(
        (special.bos_id, special.eos_id, special.unknown_id),
        (Some(1), Some(2), Some(0))
    );
    assert!(special.add_bos && !special.add_eos);
    assert_eq!(special.end_ids, [2]);
    let ids = tokenizer
        .encode("hi hi é🙂", EncodeOptions::default())
        .unwrap();
    assert_eq!(
        ids,
        [
            1,
            263,
            263,
            259,
            264,
            3 + 0xF0,
            3 + 0x9F,
            3 + 0x99,
            3 + 0x82
        ]
    );
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hi hi é🙂");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s> hi hi é🙂");
    assert_eq!(tokenizer.token_kind(3 + 0xF0), Some(TokenKind::Byte));
    let mut stream = DecodeStream::new(Arc::clone(&tokenizer), true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "hi", " hi", " ", "é", "", "", "", "🙂"]);
}

#[test]
fn decoders_agree_with_the_crate() {
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let gemma = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]});
    let word_piece = json!({"type": "WordPiece", "prefix": "h", "cleanup": true});
    let decoders = [
        llama_decoder(),
        metaspace("always"),
        metaspace("never"),
        gemma,
        word_piece,
        Value::Null,
    ];
    let texts = ["hi hi", " hi", "   hi", "h</s> é", "é", ""];
    for decoder in decoders {
        let file = llama(&decoder);
        let ours = load(&file).unwrap();
        let theirs: tokenizers::Tokenizer = file.to_string().parse().unwrap();
        for text in texts {
            let ids = ours.encode(text, PARSED).unwrap();
            for skip_special in [false, true] {
                let expected = theirs.decode(&ids, skip_special).unwrap();
                assert_eq!(
                    ours.decode(&ids, skip_special).unwrap(),
                    expected,
                    "{decoder} {text:?} {ids:?}"
                );
            }
        }
    }
}

#[test]
fn special_tokens_are_text_unless_asked() {
    let tokenizer = load(&llama(&llama_decoder())).unwrap();
    assert!(tokenizer.encode("</s>", PARSED).unwrap().contains(&2));
    assert!(!tokenizer.encode("</s>", PLAIN).unwrap().contains(&2));
    let vocabulary = ByteLevel::new(
        &[],
        &[
            ("<|im_end|>", kind::CONTROL),
            ("<user>", kind::USER_DEFINED),
        ],
    );
    let tokenizer =
        Tokenizer::from_json(vocabulary.to_json().as_bytes(), &TokenizerConfig::default()).unwrap();
    assert_eq!(
        tokenizer.encode("<|im_end|><user>", PARSED).unwrap(),
        [256, 257]
    );
    assert_eq!(
        tokenizer.encode("<|im_end|><user>", PLAIN).unwrap().len(),
        "<|im_end|>".len() + 1
    );
    assert_eq!(tokenizer.special_tokens().end_ids, [256]);
}

#[test]
fn truncation_and_padding_of_the_file_do_not_apply() {
    let mut file = llama(&llama_decoder());
    file["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<unk>"});
    let tokenizer = load(&file).unwrap();
    assert_eq!(
        tokenizer
            .encode("hi hi hi", EncodeOptions::default())
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn damaged_files_are_refused_with_the_field() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut file = llama(&llama_decoder());
        change(&mut file);
        load(&file).unwrap_err().to_string()
    };
    assert!(
        refused(&|file| file["model"]["type"] = "Nonesuch".into())
            .contains("tokenizer.json cannot be read")
    );
    assert!(refused(&|file| file["model"]["merges"] = json!(["h z"])).contains('z'));
    assert!(
        refused(&|file| file["model"]["vocab"]["x"] = 4_000_000_000_u32.into())
            .contains("model.vocab")
    );
    assert!(refused(&|file| file["model"]["vocab"]["x"] = 5.into()).contains("model.vocab: id 5"));
    assert!(refused(&|file| file["model"]["vocab"]["x"] = (-1).into()).contains("cannot be read"));
    assert!(refused(&|file| file["decoder"] = json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "|", "cleanup": true})).contains("decoder"));
    let split = json!({"type": "Split", "pattern": {"Regex": r"(a+)\1+b"}, "behavior": "Isolated", "invert": false});
    assert!(refused(&|file| file["pre_tokenizer"] = split.clone()).contains("back-reference"));
    let bos = config(&json!({"bos_token": "<nonesuch>"}));
    let file = llama(&llama_decoder()).to_string();
    let error = Tokenizer::from_json(file.as_bytes(), &bos).unwrap_err();
    assert!(matches!(
        error,
        TextError::InvalidVocabulary {
            field: "tokenizer_config.json: bos_token",
            ..
        }
    ));
}

#[test]
fn a_template_that_names_a_token_it_does_not_have_is_refused() {
    for kind in ["single", "pair"] {
        let mut json = llama(&llama_decoder());
        // Under an unknown type the crate reads it all the same, and checks nothing.
        json["post_processor"]["type"] = "TemplateProcessiNg".into();
        assert!(load(&json).is_ok());
        let parts = json["post_processor"][kind].as_array_mut().unwrap();
        parts.push(json!({"SpecialToken": {"id": "<none>", "type_id": 0}}));
        match load(&json) {
            Err(TextError::InvalidTokenizerJson { problem }) => {
                assert!(problem.contains("post_processor"), "{problem}");
            }
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn every_cut_and_many_changes_of_a_file_end_in_an_error_or_a_tokenizer() {
    let file = llama(&llama_decoder()).to_string().into_bytes();
    let try_file = |bytes: &[u8]| {
        if let Ok(tokenizer) = Tokenizer::from_json(bytes, &TokenizerConfig::default())
            && let Ok(ids) = tokenizer.encode("hi é🙂 </s>", EncodeOptions::default())
        {
            tokenizer.decode(&ids, false).unwrap();
        }
    };
    for length in (0..file.len()).step_by(7) {
        try_file(&file[..length]);
    }
    for place in (0..file.len()).step_by(11) {
        let mut changed = file.clone();
        changed[place] ^= 1 << (place % 8);
        try_file(&changed);
    }
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "\"x\"",
        &"[".repeat(100_000),
        "<!doctype html>",
    ] {
        assert!(matches!(
            Tokenizer::from_json(text.as_bytes(), &TokenizerConfig::default()),
            Err(TextError::InvalidTokenizerJson { .. })
        ));
    }
}

/// BERT's pipeline: words in lower case, cut into pieces, between `[CLS]` and `[SEP]`.
fn bert() -> Tokenizer {
    let tokens = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "##s", "sat", ".",
    ];
    let vocab: serde_json::Map<_, _> = (0..)
        .zip(tokens)
        .map(|(id, token): (u32, &str)| (token.to_owned(), id.into()))
        .collect();
    let special = |token: &str, type_id| json!({"SpecialToken": {"id": token, "type_id": type_id}});
    let text = |name: &str, type_id| json!({"Sequence": {"id": name, "type_id": type_id}});
    let added: Vec<Value> = (0..4)
        .map(|id| {
            json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let json = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    Tokenizer::from_json(json.to_string().as_bytes(), &TokenizerConfig::default()).unwrap()
}

#[test]
fn words_are_cut_into_pieces_and_neither_padded_nor_truncated() {
    let bert = bert();
    let ids = bert.encode("Cats sat. Dög bird", EncodeOptions::default());
    assert_eq!(ids.unwrap(), [2, 4, 6, 7, 8, 5, 1, 3]);
    assert_eq!(bert.decode(&[2, 4, 6, 7, 8, 3], true).unwrap(), "cats sat.");
}

#[test]
fn two_texts_are_told_apart_and_the_last_one_is_cut() {
    let bert = bert();
    let encode = |second, max_tokens| {
        let found = bert.encode_segments("cats", second, max_tokens).unwrap();
        (found.ids, found.second_segment, found.num_dropped)
    };
    assert_eq!(encode(None, None), (vec![2, 4, 6, 3], None, 0));
    assert_eq!(encode(None, Some(3)), (vec![2, 4, 3], None, 1));
    assert_eq!(encode(None, Some(0)), (vec![2, 3], None, 2));
    let both = vec![2, 4, 6, 3, 5, 6, 7, 3];
    assert_eq!(encode(Some("dogs sat"), None), (both.clone(), Some(4), 0));
    assert_eq!(encode(Some("dogs sat"), Some(8)), (both, Some(4), 0));
    let cut = vec![2, 4, 6, 3, 5, 3];
    assert_eq!(encode(Some("dogs sat"), Some(6)), (cut, Some(4), 2));
    // The first text is never cut: then they are too many all the same.
    assert_eq!(
        encode(Some("dogs sat"), Some(2)),
        (vec![2, 4, 6, 3, 3], Some(4), 3)
    );
}

#[test]
fn a_text_that_is_too_long_is_refused_before_it_is_looked_at() {
    let tokenizer = bert();
    let long = " ".repeat(MAX_TEXT_BYTES + 1);
    let too_long = TextError::TextTooLong {
        bytes: MAX_TEXT_BYTES + 1,
        limit: MAX_TEXT_BYTES,
    };
    assert_eq!(
        tokenizer.encode(&long, EncodeOptions::default()),
        Err(too_long.clone())
    );
    for (first, second) in [(&*long, None), ("cat", Some(&*long))] {
        assert_eq!(
            tokenizer.encode_segments(first, second, Some(4)),
            Err(too_long.clone())
        );
    }
}

#[test]
fn tokens_of_a_file_have_names_and_ids() {
    let tokenizer = load(&llama(&llama_decoder())).unwrap();
    for (id, token) in [
        (0, "<unk>"),
        (2, "</s>"),
        (3 + 0x41, "<0x41>"),
        (263, "▁hi"),
    ] {
        assert_eq!(tokenizer.id_to_token(id).as_deref(), Some(token));
        assert_eq!(tokenizer.token_to_id(token), Some(id));
    }
    assert_eq!(tokenizer.id_to_token(9999), None);
    assert_eq!(tokenizer.token_to_id("nonesuch"), None);
    let shown = format!("{tokenizer:?}");
    assert!(
        shown.contains("vocab_size: 265") && shown.contains("bos_id: Some(1)"),
        "{shown}"
    );
}

#[test]
fn a_vocabulary_without_tokens_is_refused() {
    let mut file = llama(&llama_decoder());
    file["model"]["vocab"] = json!({});
    file["model"]["merges"] = json!([]);
    file["added_tokens"] = json!([]);
    file["post_processor"] = Value::Null;
    let error = load(&file).unwrap_err().to_string();
    assert!(error.contains("model.vocab: missing or empty"), "{error}");
}

#[test]
fn a_word_that_the_model_cannot_write_is_the_texts_error() {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "[UNK]"},
    });
    let tokenizer =
        Tokenizer::from_json(file.to_string().as_bytes(), &TokenizerConfig::default()).unwrap();
    let ids = tokenizer.encode("a b a", EncodeOptions::default()).unwrap();
    assert_eq!(ids, [0, 1, 0]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a b a");
    match tokenizer.encode("a c", EncodeOptions::default()) {
        Err(TextError::Unencodable { problem }) => assert!(problem.contains("UNK"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vocabulary_that_ends_each_text_says_so() {
    let mut file = llama(&llama_decoder());
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    file["post_processor"]["single"]
        .as_array_mut()
        .unwrap()
        .push(end);
    file["post_processor"]["special_tokens"]["</s>"] =
        json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
    let tokenizer = load(&file).unwrap();
    let special = tokenizer.special_tokens();
    assert!(special.add_bos && special.add_eos);
    assert_eq!(
        tokenizer.encode("hi", EncodeOptions::default()).unwrap(),
        [1, 263, 2]
    );
}

#[test]
fn what_was_cut_before_is_cut_in_the_same_way() {
    let mut file = llama(&llama_decoder());
    for ignore_merges in [false, true] {
        file["model"]["ignore_merges"] = ignore_merges.into();
        let tokenizer = load(&file).unwrap();
        for text in ["hi", "hi hi", "é hi!", "", "hi"] {
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, PARSED).unwrap();
            let first = ids(&tokenizer);
            assert_eq!(first, ids(&tokenizer), "{text:?}");
            assert_eq!(first, ids(&load(&file).unwrap()), "{text:?}");
        }
    }
}

#[test]
fn tokens_that_no_merge_leads_to_are_found_where_merges_are_ignored() {
    let mut file = llama(&llama_decoder());
    file["model"]["vocab"]["▁hey"] = 265.into();
    let ids = |file: &Value| load(file).unwrap().encode("hey", PLAIN).unwrap();
    assert!(ids(&file).len() > 1);
    file["model"]["ignore_merges"] = true.into();
    assert_eq!(ids(&file), [265]);
}

#[test]
fn no_merge_is_left_out_at_random() {
    let mut file = llama(&llama_decoder());
    let ids = |file: &Value| load(file).unwrap().encode("hi", PLAIN).unwrap();
    let exact = ids(&file);
    file["model"]["dropout"] = 0.9.into();
    for _ in 0..20 {
        assert_eq!(ids(&file), exact);
    }
}

#[test]
fn stages_that_ask_for_more_memory_than_there_is_are_refused() {
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let mut file = llama(&llama_decoder());
    file["normalizer"] = json!({"type": "Sequence", "normalizers": vec![double; 64]});
    let error = load(&file).unwrap_err().to_string();
    assert!(
        error.contains("normalizer") && error.contains("64 times"),
        "{error}"
    );
    let mut file = llama(&llama_decoder());
    let pattern = r"(?:(?:(?:\p{L}{99}){99}){99}){99}";
    file["pre_tokenizer"] = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false
    });
    let error = load(&file).unwrap_err().to_string();
    assert!(error.contains("pattern.Regex"), "{error}");
}

#[test]
fn characters_are_cut_from_tokens_as_often_as_they_are_there() {
    let strip = json!({"type": "Strip", "content": "h", "start": u64::MAX, "stop": u64::MAX});
    let tokenizer = load(&llama(&json!({"type": "Sequence", "decoders": [strip]}))).unwrap();
    assert_eq!(tokenizer.token_bytes(260), Some(b"".as_slice()));
    assert_eq!(tokenizer.token_bytes(262), Some(b"i".as_slice()));
}
