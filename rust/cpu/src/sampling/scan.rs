//! The first pass over a row of logits: its largest value, whether it is sound, and the maxima that let later passes
//! skip almost everything. Also the two passes that need no scratch: argmax and rank.

use super::cut::PrefixEnd;
use super::tiles::{LANES, Row, TILE, any_at_least, larger, tree_max};

/// The `n`-th best is looked up among at least this many times `n` group maxima: then about `1.4 n` tokens reach it.
const GROUPS_PER_RANK: usize = 2;

/// What the last scan saw.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// `[tiles]`: the largest of each lane's 16 tokens.
    lane_maxima: Vec<Row>,
    /// Scratch of `floor_of_best`.
    group_maxima: Vec<f32>,
}

impl Scan {
    /// Room for `vocab_size` tokens.
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        let tiles = vocab_size.div_ceil(TILE);
        Self {
            lane_maxima: Vec::with_capacity(tiles),
            group_maxima: Vec::with_capacity(tiles * LANES),
        }
    }

    /// The largest logit, or `None` if one is NaN or `+inf`, or if none is above `-inf`.
    #[inline(always)]
    pub(super) fn run(&mut self, logits: &[f32]) -> Option<f32> {
        self.lane_maxima.clear();
        let mut overall = [f32::NEG_INFINITY; LANES];
        let mut unsound = [0u32; LANES];
        for tile in logits.chunks(TILE) {
            let mut maxima = [f32::NEG_INFINITY; LANES];
            let (rows, rest) = tile.as_chunks::<LANES>();
            for row in rows {
                for lane in 0..LANES {
                    maxima[lane] = larger(row[lane], maxima[lane]);
                    unsound[lane] |= is_unsound(row[lane]);
                }
            }
            for (lane, &value) in rest.iter().enumerate() {
                maxima[lane] = larger(value, maxima[lane]);
                unsound[lane] |= is_unsound(value);
            }
            for lane in 0..LANES {
                overall[lane] = larger(maxima[lane], overall[lane]);
            }
            self.lane_maxima.push(maxima);
        }
        let max = tree_max(overall);
        (unsound == [0; LANES] && max > f32::NEG_INFINITY).then_some(max)
    }

    /// The lowest id whose logit is `max`, the result of `run`.
    #[inline(always)]
    pub(super) fn argmax(&self, logits: &[f32], max: f32) -> usize {
        let tile = self
            .lane_maxima
            .iter()
            .position(|maxima| any_at_least(maxima, max))
            .unwrap_or(0);
        let start = tile * TILE;
        start
            + logits[start..]
                .iter()
                .position(|&value| value >= max)
                .unwrap_or(0)
    }

    /// Tiles that hold a token of at least `floor`: where each begins, and its tokens.
    #[inline(always)]
    pub(super) fn tiles_at_least<'a>(
        &'a self,
        logits: &'a [f32],
        floor: f32,
    ) -> impl Iterator<Item = (usize, &'a [f32])> {
        logits
            .chunks(TILE)
            .zip(&self.lane_maxima)
            .enumerate()
            .filter(move |(_, (_, maxima))| any_at_least(maxima, floor))
            .map(|(index, (tile, _))| (index * TILE, tile))
    }

    /// A value that at least `count` tokens reach and few others, or that exactly the best `count` and their ties
    /// reach. Finite.
    ///
    /// The `count`-th largest of the maxima of disjoint groups is such a bound, and groups are few: 256 tokens per
    /// group for a small `count`, 16 for a larger one. A count beyond both is selected exactly.
    pub(super) fn floor_of_best(
        &mut self,
        logits: &[f32],
        count: usize,
        prefix_end: &mut PrefixEnd,
    ) -> f32 {
        let tiles = self.lane_maxima.len();
        self.group_maxima.clear();
        if count.saturating_mul(GROUPS_PER_RANK) <= tiles {
            self.group_maxima
                .extend(self.lane_maxima.iter().map(|maxima| tree_max(*maxima)));
        } else if count.saturating_mul(GROUPS_PER_RANK) <= tiles * LANES {
            self.group_maxima.extend(self.lane_maxima.iter().flatten());
        } else {
            let end = prefix_end.of_count(logits, count);
            return end.map_or(f32::MIN, |end| end.value().max(f32::MIN));
        }
        let (_, floor, _) = self
            .group_maxima
            .select_nth_unstable_by(count.max(1) - 1, |a, b| b.total_cmp(a));
        floor.max(f32::MIN)
    }
}

/// 1 for NaN and `+inf`.
#[inline(always)]
fn is_unsound(value: f32) -> u32 {
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must be caught")]
    u32::from(!(value <= f32::MAX))
}

/// 1 + the tokens that are better than `token`: larger, or equal with a lower id.
#[inline(always)]
pub(super) fn rank(logits: &[f32], token: usize) -> u32 {
    let value = logits[token];
    let (before, after) = logits.split_at(token);
    let before: u32 = before.iter().map(|&other| u32::from(other >= value)).sum();
    let after: u32 = after.iter().map(|&other| u32::from(other > value)).sum();
    1 + before + after
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test values are small, and equal means equal"
)]
mod tests {
    use super::{Scan, rank};
    use crate::sampling::cut::PrefixEnd;

    const LENGTHS: [usize; 12] = [1, 2, 7, 15, 16, 17, 31, 33, 255, 256, 257, 5000];

    fn values(len: usize) -> Vec<f32> {
        (0..len as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 * 0.125 - 200.0)
            .collect()
    }

    #[test]
    fn max_and_argmax_match_a_plain_loop_at_every_length() {
        let mut scan = Scan::default();
        for len in LENGTHS {
            let logits = values(len);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(scan.run(&logits), Some(max));
            assert_eq!(
                scan.argmax(&logits, max),
                logits.iter().position(|&x| x == max).expect("there")
            );
        }
    }

    #[test]
    fn a_bad_value_anywhere_is_seen() {
        let mut scan = Scan::default();
        for len in LENGTHS {
            for at in [0, len / 2, len - 1] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut logits = values(len);
                    logits[at] = bad;
                    assert_eq!(scan.run(&logits), None, "{bad} at {at} of {len}");
                }
                let mut logits = values(len);
                logits[at] = f32::NEG_INFINITY;
                assert_eq!(scan.run(&logits).is_some(), len > 1);
            }
        }
        assert_eq!(scan.run(&[]), None);
        assert_eq!(scan.run(&[f32::NEG_INFINITY; 40]), None);
    }

    #[test]
    fn zeros_of_both_signs_are_equal_and_the_lower_id_wins() {
        let mut scan = Scan::default();
        for logits in [[-1.0, -0.0, 0.0], [-1.0, 0.0, -0.0]] {
            let max = scan.run(&logits).expect("sound");
            assert_eq!(scan.argmax(&logits, max), 1);
            assert_eq!(rank(&logits, 2), 2);
        }
    }

    #[test]
    fn the_floor_of_the_best_is_reached_by_them_and_by_few_others() {
        let (mut scan, mut prefix_end) = (Scan::default(), PrefixEnd::default());
        for len in [1, 16, 33, 300, 5000, 40_000] {
            let logits = values(len);
            scan.run(&logits).expect("sound");
            let mut sorted = logits.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            for count in [1, 2, 10, 39, 40, 156, 157, 625, 2500, 4999]
                .into_iter()
                .filter(|&count| count <= len)
            {
                let floor = scan.floor_of_best(&logits, count, &mut prefix_end);
                assert!(floor <= sorted[count - 1], "{count} of {len}");
                let reaching = sorted.iter().filter(|&&x| x >= floor).count();
                assert!(
                    reaching <= 4 * count + 64,
                    "{reaching} for {count} of {len}"
                );
            }
        }
    }

    #[test]
    fn the_rank_counts_better_tokens_and_equal_ones_of_lower_id() {
        for len in LENGTHS {
            let logits = values(len);
            for token in [0, len / 3, len - 1] {
                let better = (0..len).filter(|&other| {
                    logits[other] > logits[token] || logits[other] == logits[token] && other < token
                });
                assert_eq!(rank(&logits, token), 1 + better.count() as u32);
            }
        }
        assert_eq!(rank(&[f32::NEG_INFINITY; 33], 32), 33);
    }
}
