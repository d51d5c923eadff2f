//! Softmax weights of a row, their sum, and the draw by inversion of their running sum.
//!
//! A weight is `exp((x - max) / temperature)`: 1 for the best token, never more, zero below about e^-87.

use super::exp_ln::{exp2_nonpositive, ln};
use super::tiles::{LANES, Row, TILE, padded, tree_sum};

/// Turns logits into weights and log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Softmax {
    max: f32,
    temperature: f64,
    /// `log2(e) / temperature`; finite, so that a difference of zero stays zero.
    scale: f32,
}

impl Softmax {
    /// Of logits whose largest is `max`; `temperature` is positive.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is too large becomes the largest number"
    )]
    pub(super) fn new(max: f32, temperature: f32) -> Self {
        let temperature = f64::from(temperature);
        let scale = ((std::f64::consts::LOG2_E / temperature) as f32).min(f32::MAX);
        Self {
            max,
            temperature,
            scale,
        }
    }

    #[inline(always)]
    fn row(&self, row: &Row) -> Row {
        let mut weights = [0.0; LANES];
        for lane in 0..LANES {
            weights[lane] = exp2_nonpositive((row[lane] - self.max) * self.scale);
        }
        weights
    }

    /// The weights of `values`, into `weights`.
    #[inline(always)]
    pub(super) fn weights_into(&self, values: &[f32], weights: &mut Vec<f32>) {
        weights.clear();
        let (rows, rest) = values.as_chunks::<LANES>();
        for row in rows {
            weights.extend_from_slice(&self.row(row));
        }
        weights.extend_from_slice(&self.row(&padded(rest))[..rest.len()]);
    }

    /// The smallest logit whose weight, without rounding, is at least `weight`; not above the largest logit.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded up where it was rounded down"
    )]
    pub(super) fn floor_of_weight(&self, weight: f64) -> f32 {
        if weight < f64::MIN_POSITIVE {
            return f32::MIN;
        }
        let bound = f64::from(self.max) + self.temperature * ln(weight).min(0.0);
        let rounded = bound as f32;
        let floor = if f64::from(rounded) < bound {
            rounded.next_up()
        } else {
            rounded
        };
        floor.max(f32::MIN)
    }

    /// Natural logarithm of a logit's weight.
    pub(super) fn log_weight(&self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.max)) / self.temperature
    }

    /// Log-probability of a logit where the weights sum to `total`.
    #[expect(clippy::cast_possible_truncation, reason = "one rounding, at the end")]
    pub(super) fn logprob(&self, logit: f32, total: f64) -> f32 {
        ((f64::from(logit) - f64::from(self.max)) / self.temperature - ln(total)) as f32
    }
}

/// The weights of a run of values, summed per tile: enough to draw from them with one further tile of exponentials.
#[derive(Debug, Default)]
pub(super) struct TileSums {
    sums: Vec<f32>,
    total: f64,
}

impl TileSums {
    /// Room for `vocab_size` tokens.
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        Self {
            sums: Vec::with_capacity(vocab_size.div_ceil(TILE)),
            total: 0.0,
        }
    }

    /// Sum the weights of `values`; the total, at least 1 if the largest value is among them.
    #[inline(always)]
    pub(super) fn fill(&mut self, values: &[f32], softmax: &Softmax) -> f64 {
        self.sums.clear();
        self.total = 0.0;
        for tile in values.chunks(TILE) {
            let mut lanes = [0.0; LANES];
            let (rows, rest) = tile.as_chunks::<LANES>();
            for row in rows {
                let weights = softmax.row(row);
                for lane in 0..LANES {
                    lanes[lane] += weights[lane];
                }
            }
            if !rest.is_empty() {
                let weights = softmax.row(&padded(rest));
                for lane in 0..LANES {
                    lanes[lane] += weights[lane];
                }
            }
            let sum = tree_sum(lanes);
            self.sums.push(sum);
            self.total += f64::from(sum);
        }
        self.total
    }

    /// The first index at which the running sum of the weights exceeds `uniform` times the total; `values` and
    /// `softmax` as in `fill`.
    ///
    /// Inside a tile the weights are added one by one in float64, which can end a rounding error below the tile's sum;
    /// the last index of positive weight takes what is missing.
    #[inline(always)]
    pub(super) fn draw(&self, values: &[f32], softmax: &Softmax, uniform: f64) -> usize {
        let target = uniform * self.total;
        let mut before = 0.0;
        let mut chosen = (0, 0.0);
        for (tile, &sum) in self.sums.iter().enumerate() {
            if sum > 0.0 {
                chosen = (tile, before);
                before += f64::from(sum);
                if before > target {
                    break;
                }
            }
        }
        let (tile, mut running) = chosen;
        let start = tile * TILE;
        let end = values.len().min(start + TILE);
        let mut last = start;
        for (index, row) in values[start..end].chunks(LANES).enumerate() {
            for (lane, weight) in softmax.row(&padded(row)).into_iter().enumerate() {
                running += f64::from(weight);
                if weight > 0.0 {
                    last = start + index * LANES + lane;
                    if running > target {
                        return last;
                    }
                }
            }
        }
        last
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test values are small, and equal means equal"
)]
mod tests {
    use super::{Softmax, TileSums};

    fn values(len: usize) -> Vec<f32> {
        (0..len as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / -4096.0)
            .collect()
    }

    fn weights(values: &[f32], softmax: &Softmax) -> Vec<f32> {
        let mut weights = Vec::new();
        softmax.weights_into(values, &mut weights);
        weights
    }

    #[test]
    fn the_total_is_the_float64_sum_of_the_weights_at_every_length() {
        let mut sums = TileSums::default();
        for len in [1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 4099] {
            let values = values(len);
            let softmax = Softmax::new(0.0, 0.7);
            let total = sums.fill(&values, &softmax);
            let exact: f64 = values
                .iter()
                .map(|&x| (f64::from(x) / f64::from(0.7f32)).exp())
                .sum();
            assert!(
                (total / exact - 1.0).abs() < 1e-6,
                "{total} for {exact}, {len} values"
            );
        }
    }

    #[test]
    fn masked_tokens_at_the_end_change_no_bit() {
        let mut sums = TileSums::default();
        let softmax = Softmax::new(0.0, 1.0);
        let mut values = values(300);
        let total = sums.fill(&values, &softmax);
        for _ in 0..600 {
            values.push(f32::NEG_INFINITY);
            assert_eq!(sums.fill(&values, &softmax).to_bits(), total.to_bits());
        }
    }

    #[test]
    fn a_draw_finds_the_index_where_the_running_sum_passes_the_uniform() {
        let mut sums = TileSums::default();
        for len in [1, 2, 15, 16, 17, 33, 256, 257, 1000] {
            let values = values(len);
            let softmax = Softmax::new(0.0, 2.0);
            let total = sums.fill(&values, &softmax);
            let weights = weights(&values, &softmax);
            let mut before = 0.0;
            for (index, &weight) in weights.iter().enumerate() {
                let middle = (before + f64::from(weight) / 2.0) / total;
                assert_eq!(sums.draw(&values, &softmax, middle), index);
                before += f64::from(weight);
            }
        }
    }

    #[test]
    fn a_uniform_on_the_border_of_two_tokens_draws_the_second() {
        let mut sums = TileSums::default();
        let softmax = Softmax::new(0.0, 1.0);
        let equal = [0.0; 512];
        sums.fill(&equal, &softmax);
        for index in [0, 1, 2, 100, 255, 256, 257, 511] {
            assert_eq!(sums.draw(&equal, &softmax, index as f64 / 512.0), index);
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_token() {
        let mut sums = TileSums::default();
        let mut values = vec![f32::NEG_INFINITY; 2000];
        for index in [513, 700, 1400] {
            values[index] = 0.0;
        }
        let softmax = Softmax::new(0.0, 1.0);
        sums.fill(&values, &softmax);
        assert_eq!(sums.draw(&values, &softmax, 0.0), 513);
        assert_eq!(sums.draw(&values, &softmax, 1.0f64.next_down()), 1400);
        assert_eq!(sums.draw(&values, &softmax, 1.0), 1400);
    }

    #[test]
    fn the_floor_of_a_weight_is_the_smallest_logit_that_has_it() {
        for (max, temperature) in [(0.0, 1.0), (17.25, 0.3), (-3.0, 5.0), (1e6, 1.0)] {
            let softmax = Softmax::new(max, temperature);
            for weight in [1.0, 0.5, 0.05, 1e-6] {
                let exact =
                    |logit: f32| (f64::from(logit) - f64::from(max)) / f64::from(temperature);
                let floor = softmax.floor_of_weight(weight);
                assert!(exact(floor) >= weight.ln() - 1e-12 && floor <= max);
                assert!(exact(floor.next_down()) < weight.ln() + 1e-12);
            }
            assert_eq!(softmax.floor_of_weight(3.0), max);
            assert_eq!(softmax.floor_of_weight(0.0), f32::MIN);
        }
    }

    #[test]
    fn the_best_token_weighs_one_at_any_temperature() {
        for temperature in [
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            1e-6,
            1.0,
            1e30,
            f32::MAX,
        ] {
            let softmax = Softmax::new(12.5, temperature);
            assert_eq!(weights(&[12.5, -4.0], &softmax)[0], 1.0);
            assert!(weights(&[12.5, f32::NEG_INFINITY], &softmax)[1] == 0.0);
        }
    }
}
