//! Room for the end: a text with a limit on its tokens is closed before they run out.
//!
//! A sequence knows a way to the end of its text, see `closing`. What is left of its tokens beyond that way is its
//! *slack*. Far from the limit the way is looked for now and then only. Within [`MARGIN`] tokens and the length of the
//! shortest text it is known at every place, and a drawn token behind which no way fits is drawn again without it. Where
//! the slack is used up, only the way's own tokens are left. So a text grows to its limit and no further.
//!
//! All of it follows from the text and from what was drawn at its places, whoever drafted it.

use super::closing::{NoWay, closing};
use super::state::GrammarState;

/// Slack from which on every token is looked at, beside the length of the shortest text.
const MARGIN: usize = 64;
/// Further away, the way is looked for again when this part of the slack may be used up.
const PART: usize = 16;
/// Tokens that are refused at one place before only the way is left.
const MAX_REDRAWS: usize = 8;

/// What the limit means for the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Nothing.
    Free,
    /// What is drawn has to be looked at: [`Guard::fit`].
    Guarded,
    /// No other token.
    Only(u32),
}

/// What a drawn token leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The text can end in time behind it.
    Fits,
    /// No way that is short enough was found.
    TooLong,
    /// Finding out takes too much work.
    Unknown,
}

/// The limit of one sequence.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    max_tokens: usize,
    margin: usize,
    /// From where the sequence is; `None`: not known.
    way: Option<Vec<u32>>,
    /// The one from an earlier place: it often is one here, too.
    earlier: Vec<u32>,
    /// The way behind a token that was looked at.
    ahead: Option<(u32, Vec<u32>)>,
    /// Output tokens with which it is to be looked at again.
    next_look: usize,
    /// There is no way, or no way that fits: the text ends where its tokens do.
    is_hopeless: bool,
    /// It ends by the shortest way from now on, whatever its limit is.
    pub(super) is_closing: bool,
    /// Looking behind drawn tokens takes too much work: near the limit only the way is left.
    is_spent: bool,
    /// Output tokens, and the tokens that were refused behind them.
    refused: (usize, Vec<u32>),
}

impl Guard {
    /// For at most `max_tokens` tokens; `shortest` is a whole text. Without `closes` nothing is limited.
    pub(super) fn new(max_tokens: usize, shortest: Option<&[u32]>, closes: bool) -> Self {
        Self {
            max_tokens,
            margin: MARGIN + shortest.map_or(0, <[u32]>::len),
            way: shortest.map(<[u32]>::to_vec),
            earlier: Vec::new(),
            ahead: None,
            next_look: 0,
            is_hopeless: !closes || shortest.is_none(),
            is_closing: false,
            is_spent: false,
            refused: (0, Vec::new()),
        }
    }

    /// What followed the same text before an interrupt knew this, too.
    pub(super) fn resume(&mut self, interrupted: Self) {
        self.is_closing = interrupted.is_closing;
        self.is_spent = interrupted.is_spent;
        self.refused = interrupted.refused;
    }

    /// What is allowed in `state`, behind `num_tokens` tokens.
    pub(super) fn look(&mut self, state: &mut GrammarState, num_tokens: usize) -> Limit {
        let room = self.max_tokens.saturating_sub(num_tokens);
        let is_due = self.is_closing || num_tokens >= self.next_look;
        if self.is_hopeless || !is_due || room == 0 || state.is_complete() {
            return Limit::Free;
        }
        let Some(way) = self.way(state, room) else {
            self.is_hopeless = true;
            self.is_closing = false;
            return Limit::Free;
        };
        let (length, first) = (way.len(), way.first().copied());
        let slack = room - length;
        let beyond = slack.saturating_sub(self.margin);
        self.next_look = num_tokens + beyond.div_ceil(PART);
        if self.is_closing || slack == 0 {
            return first.map_or(Limit::Free, Limit::Only);
        }
        if beyond > 0 {
            return Limit::Free;
        }
        if self.is_spent || self.refused.0 == num_tokens && self.refused.1.len() >= MAX_REDRAWS {
            let end = state.eos_token_ids().first().copied();
            return first.or(end).map_or(Limit::Free, Limit::Only);
        }
        Limit::Guarded
    }

    /// All that is left where [`Limit::Only`] holds, and what a closing needs; `None` where nothing is known.
    pub(super) fn rest(&self) -> Option<&[u32]> {
        self.way.as_deref()
    }

    fn way(&mut self, state: &mut GrammarState, room: usize) -> Option<&[u32]> {
        if self.way.as_ref().is_none_or(|way| way.len() > room) {
            let earlier = std::mem::take(&mut self.earlier);
            self.way = if earlier.len() <= room && state.fork().ends_with(&earlier) {
                Some(earlier)
            } else {
                closing(state, room).ok()
            };
        }
        self.way.as_deref()
    }

    /// Whether the text can still end in time behind `token`.
    pub(super) fn fit(&mut self, state: &GrammarState, num_tokens: usize, token: u32) -> Fit {
        let room = self.max_tokens.saturating_sub(num_tokens + 1);
        let way = self.way.clone().unwrap_or_default();
        if way.first() == Some(&token) {
            return Fit::Fits;
        }
        let mut next = state.fork();
        if next.append(token).is_err() {
            return Fit::Fits; // the sequence says so itself
        }
        if next.is_complete() {
            return Fit::Fits;
        }
        let ahead = if way.len() <= room && next.fork().ends_with(&way) {
            Ok(way)
        } else {
            closing(&next, room)
        };
        let fit = match &ahead {
            Ok(_) => Fit::Fits,
            Err(NoWay::NotFound) => Fit::TooLong,
            Err(NoWay::TooMuchWork) => Fit::Unknown,
        };
        self.ahead = ahead.ok().map(|way| (token, way));
        fit
    }

    /// A token was drawn that does not fit.
    pub(super) fn refuse(&mut self, num_tokens: usize, token: u32, fit: Fit) {
        self.is_spent |= fit == Fit::Unknown;
        if self.refused.0 != num_tokens {
            self.refused = (num_tokens, Vec::new());
        }
        self.refused.1.push(token);
    }

    /// Tokens that were refused here.
    pub(super) fn refused(&self, num_tokens: usize) -> &[u32] {
        if self.refused.0 == num_tokens {
            &self.refused.1
        } else {
            &[]
        }
    }

    /// The sequence went on.
    pub(super) fn append(&mut self, token: u32) {
        match (self.way.take(), self.ahead.take()) {
            (Some(mut way), _) if way.first() == Some(&token) => {
                way.remove(0);
                self.way = Some(way);
            }
            (_, Some((expected, way))) if expected == token => self.way = Some(way),
            (Some(way), _) => self.earlier = way,
            (None, _) => {}
        }
    }
}
