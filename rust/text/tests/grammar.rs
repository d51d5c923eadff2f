//! Grammars on a small byte-level vocabulary: whatever is drawn from the masks is what was described.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod grammar_cases;
mod vocabularies;

use std::sync::Arc;

use grammar_cases::{VOCAB_SIZE, end, grammars, satisfies, schema, schemas, tokenizer};
use inferlib_text::{GrammarError, GrammarSource, GrammarState, Grammars, MAX_CHOICES};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use serde_json::{Value, json};

fn allowed(state: &mut GrammarState) -> Vec<u32> {
    let mut words = vec![u32::MAX; VOCAB_SIZE.div_ceil(32) + 1];
    state.mask(&mut words).unwrap();
    (0..32 * u32::try_from(words.len()).unwrap())
        .filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1)
        .collect()
}

/// Draw until the text ends; `choose` picks one of the allowed tokens. Ends early where it may after `limit` tokens.
fn draw(source: &GrammarSource, limit: usize, mut choose: impl FnMut(&[u32]) -> usize) -> String {
    let tokenizer = tokenizer();
    let mut state = grammars(&tokenizer).compile(source).unwrap().start();
    let mut drawn = Vec::new();
    while !state.is_complete() {
        let ids = allowed(&mut state);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        assert_eq!(state.may_end().unwrap(), ids.contains(&end(&tokenizer)));
        if drawn.len() >= limit && state.may_end().unwrap() {
            break;
        }
        let id = ids[choose(&ids) % ids.len()];
        let forced = state.forced();
        assert_eq!(state.num_allowed(&forced).unwrap(), forced.len());
        if id == end(&tokenizer) {
            break;
        }
        state.append(id).unwrap();
        drawn.push(id);
        assert!(
            drawn.len() < 2000,
            "endless: {:?}",
            tokenizer.decode(&drawn, false)
        );
    }
    assert!(state.may_end().unwrap());
    tokenizer.decode(&drawn, false).unwrap()
}

#[test]
fn choices_are_drawn_whole() {
    let choices = ["yes", "yesterday", "no \"quoted\"", "né\n"].map(String::from);
    for seed in 0..20 {
        let text = draw(&GrammarSource::Choices(choices.to_vec()), 0, |ids| {
            seed % ids.len()
        });
        assert!(choices.contains(&text), "{text:?}");
    }
}

#[test]
fn as_many_choices_as_are_allowed_are_compiled() {
    let choices: Vec<String> = (0..MAX_CHOICES).map(|i| format!("number {i}!")).collect();
    let text = draw(&GrammarSource::Choices(choices.clone()), 0, |ids| {
        ids.len() / 2
    });
    assert!(choices.contains(&text), "{text}");
}

#[test]
fn what_leaves_no_choice_is_forced_as_the_tokenizer_writes_it() {
    let tokenizer = tokenizer();
    let source = schema(&json!({
        "type": "object",
        "properties": { "name": { "type": "boolean" } },
        "required": ["name"],
        "additionalProperties": false
    }));
    let mut state = grammars(&tokenizer).compile(&source).unwrap().start();
    let forced = state.forced();
    assert_eq!(tokenizer.decode(&forced, false).unwrap(), "{\"name\":");
    for &id in &forced {
        state.append(id).unwrap();
    }
    assert!(state.forced().is_empty());
    state.rewind(forced.len()).unwrap();
    assert_eq!(state.forced(), forced);
    let mut other = state.fork();
    other.append(forced[0]).unwrap();
    assert_eq!(state.forced(), forced); // a fork goes its own way
    assert_eq!(other.num_allowed(&forced[1..]).unwrap(), forced.len() - 1);
    assert_eq!(other.num_allowed(&forced).unwrap(), 0);
}

#[test]
fn a_complete_text_only_ends() {
    let tokenizer = tokenizer();
    let source = GrammarSource::Regex("[0-9]{2}".into());
    let mut state = grammars(&tokenizer).compile(&source).unwrap().start();
    assert!(!state.may_end().unwrap());
    state.append(u32::from(b'4')).unwrap();
    state.append(u32::from(b'2')).unwrap();
    assert!(state.is_complete());
    assert_eq!(allowed(&mut state), [end(&tokenizer)]);
    assert!(state.forced().is_empty());
}

#[test]
fn a_token_that_does_not_fit_is_refused() {
    let tokenizer = tokenizer();
    let source = GrammarSource::Regex("[0-9]{2}".into());
    let mut state = grammars(&tokenizer).compile(&source).unwrap().start();
    let error = state.append(u32::from(b'x')).unwrap_err();
    assert!(matches!(error, GrammarError::Stuck { .. }), "{error}");
    assert!(state.mask(&mut [0; 10]).is_err());
}

#[test]
fn control_tokens_are_never_text() {
    let tokenizer = tokenizer();
    let source = GrammarSource::Regex("(?s:.*)".into());
    let mut state = grammars(&tokenizer).compile(&source).unwrap().start();
    let ids = allowed(&mut state);
    assert!(ids.contains(&end(&tokenizer)));
    assert!(!ids.contains(&tokenizer.token_to_id("<|tool|>").unwrap()));
}

#[test]
fn bad_descriptions_are_refused_by_name() {
    let grammars = grammars(&tokenizer());
    let nested = "[".repeat(100_000);
    let many = vec![String::from("a"); 10_001];
    let alternatives: Vec<String> = (0..70_000).map(|i| format!("\"{i:x}\"")).collect();
    let alternatives = format!("start: {}", alternatives.join("|"));
    for (source, message) in [
        (
            GrammarSource::JsonSchema("{".into()),
            "schema cannot be used: EOF",
        ),
        (
            GrammarSource::JsonSchema("3".into()),
            "an object or a boolean",
        ),
        (
            GrammarSource::JsonSchema("false".into()),
            "no text satisfies it",
        ),
        (GrammarSource::JsonSchema(nested), "recursion limit"),
        (schema(&json!({"x-guidance": {}})), "/x-guidance"),
        (schema(&json!({"not": {"type": "string"}})), "not"),
        (schema(&json!({"type": "text"})), "text"),
        (
            schema(&json!({"$ref": "https://example.com/a.json"})),
            "example.com",
        ),
        (
            schema(&json!({"type": "integer", "minimum": 3, "maximum": 2})),
            "schema",
        ),
        (
            schema(&json!({"type": "string", "format": "colour"})),
            "colour",
        ),
        (GrammarSource::Regex("(".into()), "regex cannot be used"),
        (
            schema(&json!({"anyOf": [{"type": "string", "pattern": "^a{999}{999}$"}]})),
            "schema cannot be used: written out",
        ),
        (
            schema(&json!({"type": "object", "patternProperties": {"^a{999}{999}$": {}}})),
            "more than 32000 letters",
        ),
        (
            GrammarSource::Regex("(x|(?:ab?c{999}){999})?".into()),
            "more than 32000 letters",
        ),
        (
            GrammarSource::Regex("a(?=b)".into()),
            "regex cannot be used",
        ),
        (
            GrammarSource::Lark("start: nowhere".into()),
            "grammar cannot be used",
        ),
        (GrammarSource::Lark(String::new()), "grammar cannot be used"),
        (GrammarSource::Choices(vec![]), "choices is empty"),
        (
            GrammarSource::Choices(vec!["a".into(), String::new()]),
            "choices [1] is empty",
        ),
        (
            GrammarSource::Choices(vec!["a".into(), "b".repeat(32_001)]),
            "choices [1] has 32001 bytes; at most 32000",
        ),
        (GrammarSource::Choices(many), "choices has 10001 entries"),
        (
            GrammarSource::Lark(alternatives),
            "its parser gave up, as it does where there is too much of it",
        ),
        (
            GrammarSource::Regex("a".repeat(1_000_001)),
            "regex has 1000001 bytes",
        ),
    ] {
        let Err(error) = grammars.compile(&source) else {
            panic!("{source:?} was compiled");
        };
        let error = error.to_string();
        assert!(error.contains(message), "{message}: {error}");
        assert!(
            !error.contains("<state>") && !error.contains("backtrace"),
            "{error}"
        );
    }
}

#[test]
fn an_expression_that_takes_too_much_work_ends_in_an_error() {
    let tokenizer = tokenizer();
    let source = GrammarSource::Lark("start: /(?:(?:a{0,1000}){0,1000}){0,1000}/".into());
    let mut state = grammars(&tokenizer).compile(&source).unwrap().start();
    let mut words = vec![0; VOCAB_SIZE.div_ceil(32)];
    let error = (0..1000)
        .find_map(|_| {
            let masked = state.mask(&mut words).err();
            masked.or_else(|| state.append(u32::from(b'a')).err())
        })
        .unwrap();
    assert!(
        error
            .to_string()
            .ends_with("too many expressions constructed"),
        "{error}"
    );
}

#[test]
fn a_model_without_an_end_has_no_grammar() {
    let tokenizer = tokenizer();
    for eos in [&[][..], &[300]] {
        let error = Grammars::new(Arc::clone(&tokenizer), eos, VOCAB_SIZE).unwrap_err();
        assert!(error.to_string().contains("eos_token_ids"), "{error}");
    }
}

/// An expression or a list is the same texts as a rule of Lark with one terminal.
#[test]
fn an_expression_allows_what_a_rule_of_it_does() {
    let tokenizer = tokenizer();
    let grammars = grammars(&tokenizer);
    let many: Vec<String> = (0..300).map(|i| format!("choice {i}")).collect();
    let listed: Vec<String> = many.iter().map(|each| format!("{each:?}")).collect();
    let cases = [
        (
            GrammarSource::Regex("[a-z]+".into()),
            "start: /[a-z]+/".to_owned(),
        ),
        (
            GrammarSource::Regex("(a|b)*".into()),
            "start: /(a|b)*/".into(),
        ),
        (
            GrammarSource::Regex("x/y\\d{2,3}".into()),
            "start: /x\\/y\\d{2,3}/".into(),
        ),
        (
            GrammarSource::Regex("(?i)ja|nein".into()),
            "start: /ja|nein/i".into(),
        ),
        (
            GrammarSource::Regex("[^ä]\\w.".into()),
            "start: /[^ä]\\w./".into(),
        ),
        (
            GrammarSource::Choices(many),
            format!("start: CHOICE\nCHOICE: {}", listed.join(" | ")),
        ),
        (
            GrammarSource::Choices(vec!["a\"\\\n".into(), "漢".into()]),
            "start: \"a\\\"\\\\\\n\" | \"漢\"".into(),
        ),
    ];
    for (source, lark) in cases {
        let (a, b) = (
            grammars.compile(&source).unwrap(),
            grammars.compile(&GrammarSource::Lark(lark)).unwrap(),
        );
        assert_eq!(a.least_tokens(), b.least_tokens(), "{source:?}");
        for choice in 0..7 {
            let (mut a, mut b) = (a.start(), b.start());
            for step in 0..12 {
                assert_eq!(a.is_complete(), b.is_complete(), "{source:?}");
                assert_eq!(a.may_end(), b.may_end(), "{source:?}");
                if a.is_complete() {
                    break;
                }
                let ids = allowed(&mut a);
                assert_eq!(ids, allowed(&mut b), "{source:?} at {step}");
                let token = ids[(choice * 31 + step) % ids.len()];
                assert_eq!(a.append(token).is_ok(), b.append(token).is_ok());
            }
        }
    }
}

#[test]
fn what_is_compiled_is_shown_without_its_automata() {
    let tokenizer = tokenizer();
    let grammars = grammars(&tokenizer);
    let grammar = grammars
        .compile(&GrammarSource::Choices(vec!["ab".into(), "ac".into()]))
        .unwrap();
    assert_eq!(grammar.least_tokens(), 2);
    assert_eq!(grammar.shortest().map(<[u32]>::len), Some(2));
    let mut state = grammar.start();
    assert_eq!(state.eos_token_ids(), [end(&tokenizer)]);
    assert_eq!(format!("{grammars:?}"), "Grammars { .. }");
    assert_eq!(format!("{grammar:?}"), "Grammar { .. }");
    assert_eq!(
        format!("{state:?}"),
        "GrammarState { is_complete: false, .. }"
    );
    for token in [b'a', b'b'] {
        state.append(token.into()).unwrap();
    }
    assert_eq!(
        format!("{state:?}"),
        "GrammarState { is_complete: true, .. }"
    );
}

#[test]
fn no_more_tokens_are_taken_back_than_there_are() {
    let source = GrammarSource::Regex("[a-c]{5}".into());
    let mut state = grammars(&tokenizer()).compile(&source).unwrap().start();
    state.append(b'a'.into()).unwrap();
    state.append(b'b'.into()).unwrap();
    state.rewind(0).unwrap();
    state.rewind(1).unwrap();
    assert_eq!(
        state
            .num_allowed(&[b'c', b'c', b'c', b'c', b'c'].map(u32::from))
            .unwrap(),
        4
    );
    let error = state.rewind(2).unwrap_err();
    assert!(matches!(error, GrammarError::Stuck { .. }), "{error}");
}

#[test]
fn text_that_must_follow_without_an_end_is_not_written_at_once() {
    let forced = |text: &str| {
        let grammars = grammars(&tokenizer());
        let grammar = grammars.compile(&GrammarSource::Lark(text.into())).unwrap();
        let mut state = grammar.start();
        state.append(b'x'.into()).unwrap();
        (state.forced(), allowed(&mut state))
    };
    // The first part takes what the second one begins with.
    let zero = u32::from(b'0');
    assert_eq!(forced("start: /.0*/ /0/"), (vec![], vec![zero]));
    let abc = *b"abc";
    for (rest, is_forced) in [
        ("/[a-z]+/", true),
        ("/0*1/ (\"d\" \"e\")*", true),
        ("/[01]+/ \"2\"~3", true),
        ("A\nA: \"d\" B+\nB: \"e\" | \"f\"+ \"g\"", true),
        ("n\nn: %json {\"type\": \"object\"}", true),
        ("A \"d\"\nA: (\"de\")+", false),
        ("/d{2500}/", false), // too many states to look at
    ] {
        let (seen, _) = forced(&format!("start: \"x\" \"abc\" {rest}"));
        let seen: Vec<u8> = seen.into_iter().map(|id| id.try_into().unwrap()).collect();
        assert_eq!(seen.starts_with(&abc), is_forced, "{rest}: {seen:?}");
        assert!(is_forced || seen.is_empty(), "{rest}: {seen:?}");
    }
}

#[test]
fn descriptions_that_go_deep_need_no_stack_of_their_callers() {
    let links = (0..3_900).map(|i| format!("a{i}: a{}\n", i + 1));
    let chain = links.collect::<Vec<_>>().concat();
    let chain = format!("start: a0\n{chain}a3900: \"x\"\n");
    let terminals = chain.replace('a', "A").replace("stArt", "start");
    let names: Vec<String> = (0..4_000).map(|i| format!("{i:x}")).collect();
    let fields: serde_json::Map<String, Value> = (names.iter())
        .map(|name| (name.clone(), json!(true)))
        .collect();
    let object = json!({"type": "object", "properties": fields, "required": names});
    let grammars = grammars(&tokenizer());
    let compile = || {
        for source in [
            GrammarSource::Lark(chain),
            GrammarSource::Lark(terminals),
            schema(&object),
        ] {
            let grammar = grammars.compile(&source).unwrap();
            assert!(!allowed(&mut grammar.start()).is_empty());
        }
    };
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let done = small.spawn_scoped(scope, compile).unwrap().join();
        done.unwrap();
    });
}

#[test]
fn every_value_satisfies_the_schema_that_is_true() {
    let source = GrammarSource::JsonSchema("true".into());
    let mut state = grammars(&tokenizer()).compile(&source).unwrap().start();
    let seen = allowed(&mut state);
    for first in *b"{[\"-1tfn" {
        assert!(seen.contains(&first.into()), "{}", char::from(first));
    }
    assert!(!seen.contains(&b'a'.into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_drawn_satisfies_the_schema(
        schema in schemas(),
        picks in proptest::collection::vec(any::<u16>(), 64),
    ) {
        let mut picks = picks.into_iter().cycle();
        let text = draw(&GrammarSource::JsonSchema(schema.to_string()), 200, |_| {
            picks.next().unwrap().into()
        });
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert!(satisfies(&schema, &value), "{schema} {text}");
        prop_assert_eq!(&text, &value.to_string(), "compact");
    }

    #[test]
    fn whatever_is_drawn_matches_the_expression(
        pattern in prop_oneof![
            Just("[a-c]{2,5}x?"), Just("(yes|no|maybe)( really)*!"), Just("é+[0-9]*"), Just("\\d{1,3}(\\.\\d{1,3}){3}"),
        ],
        picks in proptest::collection::vec(any::<u16>(), 64),
    ) {
        let mut picks = picks.into_iter().cycle();
        let text = draw(&GrammarSource::Regex(pattern.into()), 30, |_| picks.next().unwrap().into());
        prop_assert!(Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(&text), "{pattern} {text:?}");
    }
}
