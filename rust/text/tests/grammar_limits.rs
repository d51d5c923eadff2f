//! Texts end validly before their tokens run out, whatever is drawn; certain tokens are told beforehand.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod grammar_cases;
mod vocabularies;

use grammar_cases::{VOCAB_SIZE, bits, end, grammars, rows, satisfies, schema, schemas, tokenizer};
use inferlib_text::{
    EncodeOptions, Grammar, GrammarSource, GrammarStates, MaskedRow, SequenceLimit,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEY: u64 = 3;

fn compile(source: &GrammarSource) -> Grammar {
    grammars(&tokenizer()).compile(source).unwrap()
}

fn limit(max_tokens: usize) -> SequenceLimit {
    SequenceLimit {
        max_tokens,
        closes: true,
        forces: true,
    }
}

/// What a run came to.
#[derive(Debug, PartialEq)]
struct Run {
    tokens: Vec<i32>,
    num_steps: usize,
    num_refused: usize,
    is_complete: bool,
}

/// As an engine runs a sequence: rows for certain tokens, masks, draws, refusals, and what was drawn. `choose` picks one
/// of the allowed tokens for a place. `close_at` tokens on, the text is closed on request.
fn run(
    grammar: &Grammar,
    limit: SequenceLimit,
    close_at: Option<usize>,
    mut choose: impl FnMut(usize, &[u32]) -> u32,
) -> Run {
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    states.insert(KEY, grammar, limit).unwrap();
    let mut run = Run {
        tokens: Vec::new(),
        num_steps: 0,
        num_refused: 0,
        is_complete: false,
    };
    let end = end(&tokenizer()).cast_signed();
    while run.tokens.len() < limit.max_tokens && !run.is_complete {
        if close_at.is_some_and(|at| run.tokens.len() >= at) && states.close(KEY) == Some(0) {
            run.is_complete = true;
            break;
        }
        let done = run.tokens.len();
        let mut drafts = states.forced(KEY);
        drafts.truncate(limit.max_tokens - done - 1);
        let rows = rows(KEY, done, drafts.len());
        let draft = |row: usize| drafts.get(row).copied();
        let masks = states.masks(&rows, draft);
        let drawn: Vec<i32> = masks
            .iter()
            .zip(done..)
            .map(|(mask, place)| {
                let Some(mask) = mask else {
                    return -1; // nobody looks at it
                };
                choose(place, &bits(mask)).cast_signed()
            })
            .collect();
        let refused = if states.is_guarded() {
            states.refused(&rows, draft, |row| Some(drawn[row]))
        } else {
            Vec::new()
        };
        run.num_steps += 1;
        run.num_refused += refused.len();
        assert!(run.num_steps < 20 * limit.max_tokens, "no progress");
        for (row, &token) in drawn.iter().enumerate() {
            if refused.contains(&row) {
                break;
            }
            run.tokens.push(token);
            let complete = states.append(&[KEY], &[token]);
            assert!(states.failure(KEY).is_none(), "{:?}", states.failure(KEY));
            run.is_complete = !complete.is_empty() || token == end;
            if run.is_complete || draft(row) != Some(token) {
                break;
            }
        }
    }
    run
}

fn text(run: &Run) -> String {
    let ids: Vec<u32> = run.tokens.iter().map(|id| id.cast_unsigned()).collect();
    let end = end(&tokenizer());
    let ids = ids.strip_suffix(&[end]).unwrap_or(&ids);
    tokenizer().decode(ids, false).unwrap()
}

/// The longest allowed token is not what ends a text; the last one by id seldom is.
fn last(_place: usize, ids: &[u32]) -> u32 {
    *ids.last().unwrap()
}

#[test]
fn a_string_grows_to_the_limit_and_is_closed_there() {
    let grammar = compile(&schema(&json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "me": {"type": "array", "items": {"type": "integer"}}},
        "required": ["name", "me"],
        "additionalProperties": false
    })));
    let shortest = grammar.shortest().unwrap().len();
    assert!(grammar.least_tokens() <= shortest);
    for max_tokens in shortest..shortest + 90 {
        // Letters for ever, as long as they are allowed.
        let letters = |_: usize, ids: &[u32]| {
            let letter = ids.iter().find(|&&id| id == u32::from(b'q'));
            *letter.unwrap_or(&ids[0])
        };
        let run = run(&grammar, limit(max_tokens), None, letters);
        let value: Value = serde_json::from_str(&text(&run)).unwrap();
        assert_eq!(run.tokens.len(), max_tokens, "{value}");
        let name = value["name"].as_str().unwrap();
        assert_eq!(name.len(), max_tokens - shortest, "{value}");
    }
}

#[test]
fn a_draw_that_opens_more_than_can_be_closed_is_refused() {
    let long = "a".repeat(150);
    let grammar = compile(&schema(&json!({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"enum": [long]}, "minItems": 1},
        ]
    })));
    let bracket = |place: usize, ids: &[u32]| {
        let wanted = if place == 0 { b'[' } else { b'b' };
        let found = ids.iter().find(|&&id| id == u32::from(wanted));
        *found.unwrap_or_else(|| ids.last().unwrap())
    };
    let roomy = run(&grammar, limit(400), None, bracket);
    assert!(text(&roomy).starts_with('['));
    let tight = run(&grammar, limit(60), None, bracket);
    assert_eq!(tight.num_refused, 1);
    let value: Value = serde_json::from_str(&text(&tight)).unwrap();
    assert!(value.is_string(), "{value}");
    assert_eq!(tight.tokens.len(), 60);
}

#[test]
fn nothing_is_drafted_behind_what_opens_more_than_can_be_closed() {
    let grammar = compile(&schema(&json!({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"enum": ["a".repeat(150)]}, "minItems": 1},
        ]
    })));
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    states.insert(KEY, &grammar, limit(60)).unwrap();
    let rows = [0, 1].map(|num_output_tokens| MaskedRow {
        key: KEY,
        num_output_tokens,
    });
    let bracket = u32::from(b'[');
    let draft = |row: usize| (row == 0).then_some(bracket.cast_signed());
    let masks = states.masks(&rows, |_| None);
    assert!(bits(masks[0].as_ref().unwrap()).contains(&bracket));
    let masks = states.masks(&rows, draft);
    // It may be drawn, and is refused then, as if nobody had drafted it.
    assert!(bits(masks[0].as_ref().unwrap()).contains(&bracket));
    assert!(masks[1].is_none(), "nothing is drawn behind it");
    let drawn = |row: usize| (row == 0).then_some(bracket.cast_signed());
    assert_eq!(states.refused(&rows, draft, drawn), [0]);
    let masks = states.masks(&rows, draft);
    assert!(!bits(masks[0].as_ref().unwrap()).contains(&bracket));
    // A row that drew nothing is not refused.
    assert!(states.is_guarded());
    assert!(states.refused(&rows, draft, |_| None).is_empty());
    assert!(!states.is_guarded());
}

#[test]
fn nesting_without_end_is_closed_in_time() {
    let grammar = compile(&schema(&json!({
        "$ref": "#/$defs/list",
        "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}
    })));
    let open = |_: usize, ids: &[u32]| {
        let found = ids.iter().find(|&&id| id == u32::from(b'['));
        *found.unwrap_or(&ids[0])
    };
    for max_tokens in [2, 3, 10, 99, 240] {
        let run = run(&grammar, limit(max_tokens), None, open);
        let text = text(&run);
        // The reader of the test itself nests 128 times at most.
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
        assert!(run.tokens.len() + 1 >= max_tokens, "{text}");
    }
}

#[test]
fn expressions_and_grammars_end_at_their_limit_too() {
    for (source, check) in [
        (
            GrammarSource::Regex("[a-z]+;[0-9]+\\.".into()),
            "^[a-z]+;[0-9]+\\.$",
        ),
        (
            GrammarSource::Lark(
                "start: item (\",\" item)*\nitem: /[a-z]{2,4}/ \"=\" /[0-9]/".into(),
            ),
            "^[a-z]{2,4}=[0-9](,[a-z]{2,4}=[0-9])*$",
        ),
    ] {
        let grammar = compile(&source);
        let check = regex_automata::meta::Regex::new(check).unwrap();
        for max_tokens in 4..40 {
            let run = run(&grammar, limit(max_tokens), None, last);
            assert!(check.is_match(&text(&run)), "{} {max_tokens}", text(&run));
        }
    }
}

#[test]
fn what_cannot_fit_is_known_or_ends_where_its_tokens_do() {
    let grammar = compile(&GrammarSource::Regex("abcdefgh[0-9]".into()));
    assert_eq!(
        (grammar.least_tokens(), grammar.shortest().unwrap().len()),
        (9, 9)
    );
    let run = run(&grammar, limit(5), None, last);
    assert_eq!(text(&run), "abcde");
    assert!(!run.is_complete);
}

#[test]
fn a_way_to_the_end_that_takes_too_much_to_find_is_none() {
    let hard = compile(&GrammarSource::Regex(".*.*{999}=".into()));
    assert_eq!(hard.shortest(), None);
    let run = run(&hard, limit(5), None, |_, ids| ids[0]);
    assert_eq!((run.tokens.len(), run.is_complete), (5, false));
    // What is long, but leads somewhere, is found.
    let names: Vec<String> = (0..40).map(|number| format!("p{number}")).collect();
    let field = json!({"type": "string", "pattern": "^[a-z]{3,9}[0-9]+$"});
    let fields: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), field.clone()))
        .collect();
    let long = compile(&schema(&json!({
        "type": "object", "properties": fields, "required": names, "additionalProperties": false
    })));
    assert!(long.shortest().is_some());
}

#[test]
fn a_text_is_closed_on_request_in_one_step() {
    let grammar = compile(&schema(&json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "me": {"type": "boolean"}},
        "required": ["name", "me"],
        "additionalProperties": false
    })));
    for at in 0..40 {
        let run = run(&grammar, limit(1000), Some(at), last);
        let value: Value = serde_json::from_str(&text(&run)).unwrap();
        assert!(value["me"].is_boolean() && run.is_complete);
        assert!(run.tokens.len() <= at + 40);
    }
}

#[test]
fn a_limit_that_does_not_close_and_certain_tokens_that_are_not_told_change_nothing_else() {
    let grammar = compile(&GrammarSource::Regex("abcdefgh[0-9]{9}".into()));
    let plain = SequenceLimit {
        max_tokens: 12,
        closes: false,
        forces: false,
    };
    let alone = run(&grammar, plain, None, last);
    let told = run(
        &grammar,
        SequenceLimit {
            forces: true,
            ..plain
        },
        None,
        last,
    );
    assert_eq!((alone.num_steps, told.num_steps), (12, 4));
    assert_eq!(alone.tokens, told.tokens);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_text_is_valid_within_its_limit_and_the_same_with_certain_tokens_told(
        schema in schemas(),
        more in 0..120usize,
        picks in proptest::collection::vec(any::<u32>(), 160),
    ) {
        let grammar = compile(&GrammarSource::JsonSchema(schema.to_string()));
        let shortest = grammar.shortest().unwrap();
        prop_assert!(grammar.least_tokens() <= shortest.len());
        let told = limit(shortest.len().max(1) + more);
        let choose = |place: usize, ids: &[u32]| ids[picks[place % picks.len()] as usize % ids.len()];
        let run_told = run(&grammar, told, None, choose);
        let value: Value = serde_json::from_str(&text(&run_told)).unwrap();
        prop_assert!(satisfies(&schema, &value), "{} {}", schema, value);
        prop_assert!(run_told.tokens.len() <= told.max_tokens);
        let alone = run(&grammar, SequenceLimit { forces: false, ..told }, None, choose);
        prop_assert_eq!(&alone.tokens, &run_told.tokens);
        prop_assert!(alone.num_steps >= run_told.num_steps);
    }
}

#[test]
fn what_may_be_read_in_too_many_ways_ends_before_a_step_takes_long() {
    let mut words = vec![0; tokenizer().vocab_size().div_ceil(32)];
    let letter = tokenizer().encode("b", EncodeOptions::default()).unwrap()[0];
    for (text, most) in [
        ("start: a \"x\"\na: a a | /[a-z]/\n", 300),
        ("start: a \"x\"\na: a a a | a a | /[a-z]/ | /[a-y]/\n", 300),
        ("start: a+ \"x\"\na: /[a-z]/ |<[*]>start?\n", 300),
        // One way only, but what comes last has to be closed by all that came before.
        ("start: s \"x\"\ns: \"b\" s | \"b\"\n", 600),
    ] {
        let grammar = compile(&GrammarSource::Lark(text.into()));
        let mut state = grammar.start();
        let (mut tokens, mut error) = (0, None);
        while error.is_none() && tokens < most {
            error = state
                .mask(&mut words)
                .and_then(|()| state.append(letter))
                .err();
            tokens += 1;
        }
        let error = error.unwrap().to_string();
        assert!(tokens > 90 && error.contains("items"), "{tokens}: {error}");
    }
    // What is written the other way round goes on for ever.
    let mut state = compile(&GrammarSource::Lark(
        "start: s \"x\"\ns: s \"b\" | \"b\"\n".into(),
    ))
    .start();
    for _ in 0..2_000 {
        state.append(letter).unwrap();
    }
}

#[test]
fn an_object_may_have_a_thousand_fields_and_one_with_more_is_refused_at_once() {
    let object = |fields: usize| {
        let fields = (0..fields).map(|number| (format!("p{number}"), json!({"type": "integer"})));
        let fields: serde_json::Map<String, Value> = fields.collect();
        schema(&json!({"type": "object", "properties": fields, "additionalProperties": false}))
    };
    let grammar = compile(&object(1_000));
    assert!(grammar.shortest().is_some_and(|tokens| tokens.len() <= 2)); // {}
    let mut state = grammar.start();
    for token in tokenizer()
        .encode("{\"p7\":1,\"p300\":2}", EncodeOptions::default())
        .unwrap()
    {
        state.append(token).unwrap();
    }
    assert!(state.is_complete());
    let error = grammars(&tokenizer()).compile(&object(2_000)).unwrap_err();
    assert!(
        error.to_string().starts_with(
            "schema cannot be used: too much may follow its beginning, such as an object's optional fields"
        ),
        "{error}"
    );
}
