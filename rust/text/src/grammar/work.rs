//! What compiling a description, and a step of a text, may take.

use llguidance::api::ParserLimits;
use llguidance::earley::ParserStats;

use super::GrammarSource;

/// What the lexer may spend on the first way to an end, about 50 ms: two hundred fields of an object take a thousand.
const LEXER_FUEL: u64 = 5_000_000;
/// The same of the parser.
const PARSER_FUEL: u64 = 20_000_000;
/// What the parser may spend on each later one, about 50 ms.
const LATER_PARSER_FUEL: u64 = 5_000_000;

/// What each token that must follow costs, of the parser's: as much as so many items.
const CERTAIN_ITEMS: u64 = 16;

/// Work and memory of one grammar. Lexer states take up to 2 kB each, so that 25,000 of them are 50 MB.
///
/// The items of a row are what may be going on at one place of the text. Of a schema they are four for each field that
/// an object may have. Of a rule of Lark that may be read in more than one way they grow with the text, and the work of
/// a step with their cube: 2,000 would be half a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) items_per_row: usize,
    items_per_step: usize,
    /// An item costs twice as much when there are so many in its row.
    many_items: usize,
}

impl Bounds {
    pub(super) fn of(source: &GrammarSource) -> Self {
        if matches!(source, GrammarSource::Lark(_)) {
            Self {
                items_per_row: 512,
                items_per_step: 50_000,
                many_items: 1,
            }
        } else {
            Self {
                items_per_row: 5_000,
                items_per_step: 100_000,
                many_items: 64,
            }
        }
    }

    pub(super) fn limits(self) -> ParserLimits {
        ParserLimits {
            max_items_in_row: self.items_per_row,
            initial_lexer_fuel: 1_000_000,
            step_lexer_fuel: 200_000,
            step_max_items: self.items_per_step,
            max_lexer_states: 25_000,
            max_grammar_size: 500_000,
            precompute_large_lexemes: true,
            verbose_errors: false,
        }
    }

    /// For the first way to an end.
    pub(super) fn first_fuel(self) -> Fuel {
        Fuel {
            lexer: LEXER_FUEL,
            parser: PARSER_FUEL,
            many_items: self.many_items,
        }
    }

    /// For a later one. The lexer's work is not counted: it depends on what drafts have made of the automata, where the
    /// parser begins each mask with its rows alone.
    pub(super) fn later_fuel(self) -> Fuel {
        Fuel {
            lexer: u64::MAX,
            parser: LATER_PARSER_FUEL,
            many_items: self.many_items,
        }
    }
}

/// Items of a row on the average of a step.
pub(super) fn items_per_row(stats: &ParserStats) -> usize {
    stats.all_items / stats.rows.max(1)
}

/// What a search may spend.
pub(super) struct Fuel {
    lexer: u64,
    parser: u64,
    many_items: usize,
}

impl Fuel {
    /// Pay for tokens that must follow; false where there is too little.
    pub(super) fn spend_certain(&mut self, num_tokens: usize) -> bool {
        let items = CERTAIN_ITEMS.saturating_mul(num_tokens as u64);
        let left = self.parser.checked_sub(items);
        self.parser = left.unwrap_or(0);
        left.is_some()
    }

    /// Pay for a step; false where there is too little.
    pub(super) fn spend(&mut self, stats: &ParserStats) -> bool {
        let factor = 1 + items_per_row(stats) / self.many_items;
        let items = stats.all_items.saturating_mul(factor) as u64;
        match (
            self.lexer.checked_sub(stats.lexer_cost),
            self.parser.checked_sub(items),
        ) {
            (Some(lexer), Some(parser)) => {
                (self.lexer, self.parser) = (lexer, parser);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_cost_the_more_the_more_there_are_in_a_row() {
        let step = |rows, all_items, lexer_cost| ParserStats {
            rows,
            all_items,
            lexer_cost,
            ..ParserStats::default()
        };
        let lark = Bounds::of(&GrammarSource::Lark(String::new()));
        let schema = Bounds::of(&GrammarSource::JsonSchema(String::new()));
        let steps = |bounds: Bounds, stats: ParserStats| {
            let mut fuel = bounds.first_fuel();
            (0..10_000).take_while(|_| fuel.spend(&stats)).count()
        };
        assert_eq!(steps(schema, step(4, 4 * 63, 0)), 10_000);
        assert_eq!(steps(schema, step(4, 4 * 2_000, 0)), 78); // 32 times as much each
        assert_eq!(steps(lark, step(4, 4 * 2, 0)), 10_000);
        assert_eq!(steps(lark, step(4, 4 * 500, 0)), 19);
        assert_eq!(steps(lark, step(4, 8, 1_000_000)), 5);
        assert_eq!(steps(lark, step(0, 0, 0)), 10_000);
        let mut certain = schema.later_fuel();
        let many = std::iter::repeat_n(1_000, 10_000);
        assert_eq!(
            many.take_while(|&count| certain.spend_certain(count))
                .count(),
            312
        );
        let mut later = lark.later_fuel();
        assert!((0..100).all(|_| later.spend(&step(1, 1, 1 << 40))));
        assert!(!later.spend(&step(4, 100_000, 0)));
    }
}
