//! What compiling a description, and a step of a text, may take.

use llguidance::api::ParserLimits;
use llguidance::earley::ParserStats;

use super::GrammarSource;

/// What the lexer may spend on the first way to an end, about 50 ms: two hundred fields of an object take a thousand.
const LEXER_FUEL: u64 = 5_000_000;
/// The same of the parser.
const PARSER_FUEL: u64 = 20_000_000;

/// Work and memory of one grammar. Lexer states take up to 2 kB each, so that 25,000 of them are 50 MB.
///
/// The items of a row are what may be going on at one place of the text. Of a schema they are four for each field that
/// an object may have. Of a rule of Lark that may be read in more than one way they grow with the text, and the work of
/// a step with their cube: 2,000 would be half a second.
pub(super) fn limits(source: &GrammarSource) -> ParserLimits {
    let (max_items_in_row, step_max_items) = if rows_grow(source) {
        (512, 50_000)
    } else {
        (5_000, 100_000)
    };
    ParserLimits {
        max_items_in_row,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items,
        max_lexer_states: 25_000,
        max_grammar_size: 500_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

fn rows_grow(source: &GrammarSource) -> bool {
    matches!(source, GrammarSource::Lark(_))
}

/// Items of a row on the average of a step.
pub(super) fn items_per_row(stats: &ParserStats) -> usize {
    stats.all_items / stats.rows.max(1)
}

/// What a search may spend.
pub(super) struct Fuel {
    lexer: u64,
    parser: u64,
    /// An item costs twice as much when there are so many in its row.
    many_items: usize,
}

impl Fuel {
    /// As much as it takes.
    pub(super) fn endless() -> Self {
        Self {
            lexer: u64::MAX,
            parser: u64::MAX,
            many_items: 1,
        }
    }

    /// For the first way to an end.
    pub(super) fn first(source: &GrammarSource) -> Self {
        Self {
            lexer: LEXER_FUEL,
            parser: PARSER_FUEL,
            many_items: if rows_grow(source) { 1 } else { 64 },
        }
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
        let lark = GrammarSource::Lark(String::new());
        let schema = GrammarSource::JsonSchema(String::new());
        let steps = |source: &GrammarSource, stats: ParserStats| {
            let mut fuel = Fuel::first(source);
            (0..10_000).take_while(|_| fuel.spend(&stats)).count()
        };
        assert_eq!(steps(&schema, step(4, 4 * 63, 0)), 10_000);
        assert_eq!(steps(&schema, step(4, 4 * 2_000, 0)), 78); // 32 times as much each
        assert_eq!(steps(&lark, step(4, 4 * 2, 0)), 10_000);
        assert_eq!(steps(&lark, step(4, 4 * 500, 0)), 19);
        assert_eq!(steps(&lark, step(4, 8, 1_000_000)), 5);
        assert_eq!(steps(&lark, step(0, 0, 0)), 10_000);
        let mut endless = Fuel::endless();
        assert!((0..100).all(|_| endless.spend(&step(1, 1 << 20, 1 << 40))));
    }
}
