//! A short way to the end of a text: tokens behind which it may end validly, from where it is.
//!
//! Needed when the tokens that a sequence may still have run out. Whatever the grammar is, it is asked one mask after
//! another: first along one way, which takes at each place what most likely ends something (closing quotes and brackets,
//! the smallest values, punctuation); if that leads nowhere, a best-first search that leaves this way as little as
//! possible. Both are bounded by a number of masks and by the parser's work in them, so that the answer does not depend on
//! how fast the machine is. What is found need not be the shortest; what comes to no end when it is compiled has no way at
//! all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use llguidance::Matcher;

use super::state::{Ending, GrammarState};
use super::work::Fuel;
use crate::tokenizer::Tokenizer;

/// Tokens of the way that is tried first.
const MAX_STRAIGHT: usize = 1024;
/// Masks of the search behind it.
const MAX_NODES: usize = 384;
/// Tokens that a place of the search is left by.
const MAX_BRANCHES: usize = 12;
/// What a choice that is not the first one costs, in tokens.
const DETOUR: usize = 8;
/// Of no more tokens than these each one is looked at.
const FEW: usize = 24;

/// The tokens of a vocabulary that end things, in the order in which they are tried.
#[derive(Debug, Default)]
pub(super) struct Enders {
    /// A quote, and brackets behind it: they end a string, and what it is in.
    quotes: Vec<u32>,
    /// Closing brackets, and quotes and brackets behind them; longest first.
    brackets: Vec<u32>,
    /// The smallest values, and what stands between two.
    rest: Vec<Vec<u32>>,
    /// `x` and `}`: where both may come, it is in a string.
    content: Option<(u32, u32)>,
}

impl Enders {
    /// Those that `tokenizer` has.
    pub(super) fn new(tokenizer: &Tokenizer, vocab_size: u32) -> Self {
        let mut this = Self::default();
        let mut by_byte = vec![None; 256];
        let mut by_text = std::collections::HashMap::new();
        for id in 0..vocab_size {
            let Some(bytes) = tokenizer.token_bytes(id) else {
                continue;
            };
            if let &[byte] = bytes {
                by_byte[usize::from(byte)].get_or_insert(id);
            }
            if (1..=5).contains(&bytes.len()) {
                by_text.entry(bytes).or_insert(id);
            }
            let is_end = |bytes: &[u8]| bytes.iter().all(|byte| b"]}".contains(byte));
            match bytes {
                [b'"', rest @ ..] if is_end(rest) => this.quotes.push(id),
                [b']' | b'}', rest @ ..] if is_end(rest) => this.brackets.push(id),
                _ => {}
            }
        }
        let longest_first = |&id: &u32| {
            let length = tokenizer.token_bytes(id).map_or(0, <[u8]>::len);
            (Reverse(length), id)
        };
        this.quotes.sort_by_key(longest_first);
        this.brackets.sort_by_key(longest_first);
        let byte = |byte: u8| by_byte[usize::from(byte)];
        let one = |id: Option<u32>| id.into_iter().collect::<Vec<u32>>();
        for text in ["0", "1", "null", "true", "false", "[]", "{}", "\"\""] {
            this.rest.push(one(by_text.get(text.as_bytes()).copied()));
        }
        // Of letters one stands for all, unless it is not allowed.
        let class = |range: std::ops::RangeInclusive<u8>| range.filter_map(byte).collect();
        this.rest.push(class(b'2'..=b'9'));
        for each in b".,;:-_/@#+*=()<>!?&%$'|~^` ".iter().copied() {
            this.rest.push(one(byte(each)));
        }
        this.rest.push(class(b'a'..=b'z'));
        this.rest.push(class(b'A'..=b'Z'));
        for each in [b'"', b'[', b'{', b'\\', b'\n', b'\t'] {
            this.rest.push(one(byte(each)));
        }
        this.rest.push(class(0x80..=0xff));
        this.content = byte(b'x').zip(byte(b'}'));
        this
    }

    /// Those of them that `mask` allows, in order, at most `most`.
    fn allowed(&self, mask: &[u32], most: usize) -> Vec<u32> {
        let is_set = |&id: &u32| is_set(mask, id);
        let in_string = self
            .content
            .is_some_and(|(letter, bracket)| is_set(&letter) && is_set(&bracket));
        let (first, second) = if in_string {
            (&self.quotes, [].as_slice())
        } else {
            (&self.brackets, self.quotes.as_slice())
        };
        let mut found: Vec<u32> = Vec::new();
        // Within an ending the longest one is enough: a shorter one is its beginning.
        found.extend(first.iter().copied().find(is_set));
        found.extend(second.iter().copied().find(is_set));
        let rest = self.rest.iter();
        for id in rest.filter_map(|class| class.iter().copied().find(is_set)) {
            if found.len() >= most {
                break;
            }
            if !found.contains(&id) {
                found.push(id);
            }
        }
        let count: u32 = mask.iter().map(|word| word.count_ones()).sum();
        if count as usize <= FEW || found.is_empty() {
            let mut others: Vec<u32> = set_bits(mask)
                .take(FEW)
                .filter(|id| !found.contains(id))
                .collect();
            others.truncate(most.max(found.len()) - found.len());
            found.extend(others);
        }
        found
    }
}

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWay {
    /// None was found where it was looked for.
    NotFound,
    /// Looking for it takes too much work.
    TooMuchWork,
}

/// Tokens that end the text validly, at most `most`.
///
/// The state is left as it is. End-of-sequence tokens are no part of the answer: it leads to where the text may end.
pub(super) fn closing(state: &GrammarState, most: usize) -> Result<Vec<u32>, NoWay> {
    closing_within(state, most, state.fuel())
}

/// The same, with so much work.
pub(super) fn closing_within(
    state: &GrammarState,
    most: usize,
    fuel: Fuel,
) -> Result<Vec<u32>, NoWay> {
    let mut walk = Walk::new(state, fuel);
    let way = walk.straight(most).or_else(|| {
        walk.matcher = state.fork().into_matcher();
        walk.search(most)
    });
    way.ok_or(if walk.is_spent {
        NoWay::TooMuchWork
    } else {
        NoWay::NotFound
    })
}

/// What cannot go on behind its first token has to be refused at once.
///
/// # Errors
///
/// The limit that the parser reached.
pub(super) fn check_first_step(state: &GrammarState) -> Result<(), String> {
    let ways = Walk::new(state, state.fuel()).next().ways();
    ways.iter().try_for_each(|tokens| {
        let consumed = state.fork().into_matcher().consume_tokens(tokens);
        consumed.map_err(|error| error.to_string())
    })
}

/// What may follow: the end, certain tokens, or a choice.
enum Next {
    End,
    Certain(Vec<u32>),
    Choice(Vec<u32>),
    Nothing,
}

impl Next {
    /// Each way on.
    fn ways(self) -> Vec<Vec<u32>> {
        match self {
            Self::End | Self::Nothing => Vec::new(),
            Self::Certain(tokens) => vec![tokens],
            Self::Choice(tokens) => tokens.into_iter().map(|id| vec![id]).collect(),
        }
    }
}

struct Node {
    parent: usize,
    tokens: Vec<u32>,
    length: usize,
}

/// A way through a grammar, from one of its states on.
struct Walk<'a> {
    /// A fork: it shares the automata with the sequence's own state, but an error here is none there.
    matcher: Matcher,
    ending: &'a Ending,
    fuel: Fuel,
    /// There was too little of it.
    is_spent: bool,
}

impl<'a> Walk<'a> {
    fn new(state: &'a GrammarState, fuel: Fuel) -> Self {
        Self {
            matcher: state.fork().into_matcher(),
            ending: state.ending(),
            fuel,
            is_spent: false,
        }
    }

    fn next(&mut self) -> Next {
        let matcher = &mut self.matcher;
        if matcher.is_error() {
            return Next::Nothing;
        }
        if matcher.is_stopped() || matcher.is_accepting().unwrap_or(false) {
            return Next::End;
        }
        let certain = matcher.compute_ff_tokens();
        if !certain.is_empty() {
            self.is_spent |= !self.fuel.spend_certain(certain.len());
            return if self.is_spent {
                Next::Nothing
            } else {
                Next::Certain(certain)
            };
        }
        let Ok(mask) = matcher.compute_mask() else {
            return Next::Nothing;
        };
        let stats = matcher.last_step_stats();
        self.is_spent |= !stats.is_ok_and(|stats| self.fuel.spend(stats));
        if self.is_spent {
            return Next::Nothing;
        }
        let mut mask = mask.as_slice().to_vec();
        for &id in &self.ending.eos_token_ids {
            if let Some(word) = mask.get_mut(id as usize / 32) {
                *word &= !(1 << (id % 32));
            }
        }
        let choice = self.ending.enders.allowed(&mask, MAX_BRANCHES);
        if choice.is_empty() {
            Next::Nothing
        } else {
            Next::Choice(choice)
        }
    }

    /// The first choice everywhere, but for what was taken just before: a number or a word does not go on for ever.
    fn straight(&mut self, most: usize) -> Option<Vec<u32>> {
        let enders = &self.ending.enders;
        let most = most.min(MAX_STRAIGHT);
        let mut tokens: Vec<u32> = Vec::new();
        let ends = |id: &u32| enders.brackets.contains(id) || enders.quotes.contains(id);
        loop {
            let taken = match self.next() {
                Next::End => return Some(tokens),
                Next::Certain(certain) => certain,
                Next::Choice(choice) => {
                    let recent = &tokens[tokens.len().saturating_sub(MAX_BRANCHES - 1)..];
                    let fresh = |id: &&u32| ends(id) || !recent.contains(id);
                    vec![*choice.iter().find(fresh).or(choice.first())?]
                }
                Next::Nothing => return None,
            };
            tokens.extend(&taken);
            if tokens.len() > most {
                return None;
            }
            self.matcher.consume_tokens(&taken).ok()?;
        }
    }

    /// Best first: as few tokens as possible, each detour as much as [`DETOUR`] of them.
    fn search(&mut self, most: usize) -> Option<Vec<u32>> {
        let mut nodes = vec![Node {
            parent: 0,
            tokens: Vec::new(),
            length: 0,
        }];
        let mut open = BinaryHeap::from([Reverse((0, 0))]);
        let mut path: Vec<u32> = Vec::new();
        let mut num_masks = 0;
        while let Some(Reverse((cost, index))) = open.pop() {
            num_masks += 1;
            if num_masks > MAX_NODES {
                return None;
            }
            let wanted = path_to(&nodes, index);
            let shared = path.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
            self.matcher.rollback(path.len() - shared).ok()?;
            self.matcher.consume_tokens(&wanted[shared..]).ok()?;
            path = wanted;
            let ways = match self.next() {
                Next::End => return Some(path),
                Next::Nothing => return None,
                next => next.ways(),
            };
            for (rank, tokens) in ways.into_iter().enumerate() {
                let length = path.len() + tokens.len();
                if length <= most {
                    let detour = if rank == 0 { 0 } else { DETOUR + rank };
                    open.push(Reverse((cost + tokens.len() + detour, nodes.len())));
                    nodes.push(Node {
                        parent: index,
                        tokens,
                        length,
                    });
                }
            }
        }
        None
    }
}

fn path_to(nodes: &[Node], mut index: usize) -> Vec<u32> {
    let mut path = vec![0; nodes[index].length];
    let mut end = path.len();
    while end > 0 {
        let tokens = &nodes[index].tokens;
        path[end - tokens.len()..end].copy_from_slice(tokens);
        end -= tokens.len();
        index = nodes[index].parent;
    }
    path
}

fn is_set(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32)
        .is_some_and(|word| word >> (id % 32) & 1 == 1)
}

#[expect(clippy::cast_possible_truncation, reason = "ids are 32 bits")]
fn set_bits(mask: &[u32]) -> impl Iterator<Item = u32> {
    mask.iter().enumerate().flat_map(|(index, &word)| {
        (0..32).filter_map(move |bit| (word >> bit & 1 == 1).then_some(index as u32 * 32 + bit))
    })
}
