//! Text that must follow and comes to no end.
//!
//! What a grammar leaves no choice about is written at once, byte after byte, until there is a choice. The lexer takes as
//! much as it can for a terminal, so that of `start: /x0*/ "0"` the second part never begins: zeros must follow for ever,
//! and the parser would write them until the memory is full. It needs a terminal whose automaton comes back to where it
//! was by bytes that are the only ones there; whatever else a grammar repeats has a row for each turn, and these are
//! bounded.

use std::collections::{HashMap, HashSet};

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::derivre::StateID;
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::earley::regexvec::RegexVec;

/// States of all terminals that are looked at, and their work, about 10 ms. What has more counts as endless.
const MAX_STATES: usize = 2_000;
const FUEL: u64 = 100_000;

/// Whether a terminal may go round by bytes without a choice.
pub(super) fn may_be_endless(spec: &LexerSpec, limits: &ParserLimits) -> bool {
    let Ok(mut automata) = spec.to_regex_vec(&mut limits.clone()) else {
        return true;
    };
    automata.set_max_states(MAX_STATES);
    automata.set_fuel(FUEL);
    let starts: Vec<StateID> = (spec.all_lexemes().iter())
        .map(|lexeme| {
            let mut alone = spec.alloc_lexeme_set();
            alone.add(lexeme);
            automata.initial_state(&alone)
        })
        .collect();
    only_ways(&mut automata, &starts).is_none_or(|ways| goes_round(&ways))
}

/// A grammar of Lark whose texts are drawn token after token, what must follow, too.
pub(super) fn without(text: &str) -> GrammarInit {
    let text = format!("{text}\n%llguidance {{\"no_forcing\": true}}\n");
    GrammarInit::Serialized(TopLevelGrammar::from_lark(text))
}

/// The states that are left by one byte only, and where it leads; `None` where there are too many to look at.
fn only_ways(automata: &mut RegexVec, starts: &[StateID]) -> Option<HashMap<StateID, StateID>> {
    let kinds = kinds_of_bytes(automata)?;
    let mut known: HashSet<StateID> = starts.iter().copied().collect();
    let mut open: Vec<StateID> = known.iter().copied().collect();
    let mut ways = HashMap::new();
    while let Some(state) = open.pop() {
        let mut num_bytes = 0;
        for &(byte, count) in &kinds {
            let next = automata.transition(state, byte);
            if automata.has_error() {
                return None;
            }
            if next.is_dead() {
                continue;
            }
            num_bytes += count;
            ways.insert(state, next);
            if known.insert(next) {
                open.push(next);
            }
        }
        if num_bytes != 1 {
            ways.remove(&state);
        }
    }
    Some(ways)
}

/// A byte of each kind that the automata tell apart, and how many there are of its kind.
fn kinds_of_bytes(automata: &RegexVec) -> Option<Vec<(u8, usize)>> {
    let alphabet = automata.alpha();
    if alphabet.has_error() {
        return None;
    }
    let mut kinds: Vec<(u8, usize)> = vec![(0, 0); alphabet.len()];
    for byte in 0..=u8::MAX {
        let (example, count) = kinds.get_mut(alphabet.map(byte))?;
        (*example, *count) = (byte, *count + 1);
    }
    kinds.retain(|(_, count)| *count > 0);
    Some(kinds)
}

fn goes_round(ways: &HashMap<StateID, StateID>) -> bool {
    let mut seen = HashSet::new();
    ways.keys().any(|&start| {
        let mut walked = HashSet::new();
        let mut at = start;
        while seen.insert(at) {
            walked.insert(at);
            match ways.get(&at) {
                Some(&next) => at = next,
                None => return false,
            }
        }
        walked.contains(&at)
    })
}
