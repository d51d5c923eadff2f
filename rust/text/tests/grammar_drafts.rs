//! Drafts, right or wrong, change nothing of a text with a grammar, nor where and how it is closed.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

mod grammar_cases;
mod vocabularies;

use std::collections::BTreeSet;

use grammar_cases::{VOCAB_SIZE, bits, grammars, rows, schema, schemas, tokenizer};
use inferlib_text::{Grammar, GrammarSource, GrammarStates, SequenceLimit};
use proptest::prelude::*;
use serde_json::json;

/// What draws tokens, drafts them, and forces them: all of it known from the seed.
#[derive(Clone, Copy)]
struct Draws {
    seed: u64,
}

impl Draws {
    fn number(self, place: usize, salt: u64, below: usize) -> usize {
        let mut mixed = self.seed ^ (place as u64) << 32 ^ salt;
        for _ in 0..3 {
            mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        usize::try_from((mixed >> 33) % below as u64).unwrap()
    }

    /// The token at `place`, of those that a mask allows: as noise on logits does, the same one whatever else is allowed.
    fn token(self, place: usize, allowed: &[u32]) -> i32 {
        // Ends are unlikely, so that texts grow to their limit.
        let rank = |&id: &u32| {
            let is_end = id == u32::from(b'"') || id == u32::from(b']') || id == u32::from(b'}');
            self.number(place, 100 + u64::from(id), 1 << 20) << (3 * usize::from(is_end))
        };
        allowed
            .iter()
            .copied()
            .min_by_key(rank)
            .unwrap()
            .cast_signed()
    }
}

const KEY: u64 = 5;

/// Generate a whole text, and what was refused on the way.
///
/// `drafts` of a place: what is thought to follow there; `None` if nothing is drafted at all, neither what is certain.
/// `is_interrupted` in front of a place: what is known of the text is lost, and made again from its tokens.
fn generate(
    grammar: &Grammar,
    max_tokens: usize,
    random: Draws,
    drafts: Option<&dyn Fn(usize) -> Vec<i32>>,
    is_interrupted: impl Fn(usize) -> bool,
) -> (Vec<i32>, BTreeSet<(usize, i32)>) {
    let limit = SequenceLimit {
        max_tokens,
        closes: true,
        forces: true,
    };
    let mut states = GrammarStates::new(VOCAB_SIZE, usize::MAX);
    states.insert(KEY, grammar, limit).unwrap();
    let mut output: Vec<i32> = Vec::new();
    let mut refusals = BTreeSet::new();
    while output.len() < max_tokens && !states.is_complete(KEY) {
        if is_interrupted(output.len()) {
            states.rebuild(KEY, &output);
        }
        let mut drafted = drafts.map_or_else(Vec::new, |drafts| {
            let certain = states.forced(KEY);
            if certain.is_empty() {
                drafts(output.len())
            } else {
                certain
            }
        });
        drafted.truncate(max_tokens - output.len() - 1);
        let rows = rows(KEY, output.len(), drafted.len());
        let draft = |row: usize| drafted.get(row).copied();
        let masks = states.masks(&rows, draft);
        assert!(states.failure(KEY).is_none());
        let drawn: Vec<Option<i32>> = masks
            .iter()
            .zip(&rows)
            .map(|(mask, row)| {
                let allowed = bits(mask.as_ref()?);
                Some(random.token(row.num_output_tokens, &allowed))
            })
            .collect();
        let refused = states.refused(&rows, draft, |row| drawn[row]);
        for (row, token) in drawn.into_iter().enumerate() {
            let token = token.expect("what is behind a token that is allowed has a mask");
            if refused.contains(&row) {
                refusals.insert((output.len(), token));
                break;
            }
            output.push(token);
            states.append(&[KEY], &[token]);
            if states.is_complete(KEY) || draft(row) != Some(token) {
                break;
            }
        }
    }
    (output, refusals)
}

fn sources() -> impl Strategy<Value = GrammarSource> {
    let open = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "me": {"type": "array", "items": {"type": "string"}},
        "an": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}
    }, "required": ["an"]});
    let of_schemas = prop_oneof![
        schemas().prop_map(|value| schema(&value)),
        schemas()
            .prop_map(|value| schema(&json!({"type": "array", "items": value, "minItems": 1}))),
        Just(schema(&open)),
    ];
    let nested = "start: \"{\" part (\",\" part)* \"}\"\npart: WORD | \"[\" part* \"]\" | start\nWORD: /[a-f]{1,9}/";
    let uneven = "start: \"z\" | (\"a\" | \"b\" | \"c\")+ \"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq\" | \"[\" start \"]\" \"(\" start \")\"";
    // The row of `e` grows with the text, and so does what looking for an end takes, which is far away.
    let ambiguous = format!(
        "start: \"0\" | e \"{}\"\ne: e e | \"1\" | \"2\" | \"a\" | \"b\"",
        "q".repeat(40)
    );
    prop_oneof![
        6 => of_schemas,
        2 => Just(GrammarSource::Regex("(a[a-z]{0,9}b|c[0-9]+(de){4})+f".into())),
        2 => Just(GrammarSource::Lark(nested.into())),
        2 => Just(GrammarSource::Lark(uneven.into())),
        1 => Just(GrammarSource::Lark(ambiguous)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_text_depends_neither_on_drafts_nor_on_interrupts(
        source in sources(), max_tokens in 4..100_usize, seed: u64, how_right in 0..9_usize,
    ) {
        let tokenizer = tokenizer();
        let grammar = grammars(&tokenizer).compile(&source).unwrap();
        let draws = Draws { seed };
        let plain = generate(&grammar, max_tokens, draws, None, |_| false);
        let drafts = |place: usize| {
            let count = draws.number(place, 2, 6);
            let ahead = plain.0.get(place..).unwrap_or_default().iter().take(count);
            let is_right = |at: usize| draws.number(place + at, 3, 8) < how_right;
            let drafted = ahead.enumerate();
            drafted.map(|(at, &token)| if is_right(at) { token } else { 97 }).collect()
        };
        let drafted = generate(&grammar, max_tokens, draws, Some(&drafts), |_| false);
        prop_assert_eq!(&plain, &drafted);
        let is_interrupted = |place: usize| draws.number(place, 4, 8) == 0;
        let interrupted = generate(&grammar, max_tokens, draws, Some(&drafts), is_interrupted);
        prop_assert_eq!(&plain, &interrupted);
    }
}
