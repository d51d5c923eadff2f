//! Where a ranking ends: the smallest set of best tokens whose weight reaches a target, ties by lower index.
//!
//! `top_k` counts tokens and `top_p` adds probabilities; both are one question, asked with integer weights, so that the
//! answer is exact and no order of additions can change it. No full sort: up to 512 values are sorted. More are first
//! spread over 2048 bins of equal width, of which only the one where the target is reached is looked into; what is
//! crowded even there goes by the digits of its key. Flat rows of 262,144 tokens so take a few linear passes.

use super::tiles::{LANES, Row, larger, padded, tree_max};

/// Up to this many values a sort is faster than clearing and walking the bins.
const SORT_LIMIT: usize = 512;

/// One unit of probability mass: weights become integers, so that their sums are exact. A row of 2^23 tokens, all as
/// good as the best, still fits in 64 bits; what is cut off a weight is below 2^-40 of the best token's.
#[expect(clippy::cast_precision_loss, reason = "a power of two")]
pub(super) const MASS_UNIT: f32 = (1u64 << 40) as f32;

/// The mass of a weight.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a weight is between 0 and 1"
)]
pub(super) fn mass(weight: f32) -> u64 {
    (weight * MASS_UNIT) as i64 as u64
}

/// Bins of one narrowing.
const BINS: usize = 1 << 11;

/// Shift and width of the digits of a 32-bit key, most significant first.
const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];

/// A place in the order "larger value first, then lower index": smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    /// Of `value` at `index`. Zeros of both signs are equal.
    #[inline(always)]
    pub(super) fn new(value: f32, index: u32) -> Self {
        Self(u64::from(descending(value)) << 32 | u64::from(index))
    }

    /// The index.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) fn index(self) -> u32 {
        self.0 as u32
    }

    /// The value (a zero is positive).
    #[inline(always)]
    pub(super) fn value(self) -> f32 {
        let ascending = !((self.0 >> 32) as u32);
        f32::from_bits(if ascending >> 31 == 1 {
            ascending & !(1 << 31)
        } else {
            !ascending
        })
    }
}

/// Larger values have smaller keys; `value` is not NaN.
#[inline(always)]
fn descending(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits(); // -0.0 becomes 0.0
    if bits >> 31 == 1 {
        bits
    } else {
        !(bits | 1 << 31)
    }
}

/// Scratch of the search.
#[derive(Debug, Default)]
pub(super) struct PrefixEnd {
    /// `BINS`, and one more for `-inf`.
    bins: Vec<u64>,
    members: Vec<u32>,
    places: Vec<Place>,
}

impl PrefixEnd {
    /// The place of the `count`-th best value; `None` if there are fewer above `-inf`.
    pub(super) fn of_count(&mut self, values: &[f32], count: usize) -> Option<Place> {
        self.find(values, |_| 1, count as u64)
    }

    /// The place where the running mass of the best values reaches `target` (see `mass`); `None` if it never does.
    pub(super) fn of_mass(
        &mut self,
        values: &[f32],
        weights: &[f32],
        target: u64,
    ) -> Option<Place> {
        self.find(values, |index| mass(weights[index]), target)
    }

    /// The place of the last value of the smallest prefix of the order whose weights sum to at least `target`, one
    /// value or more; `None` if all together do not. `weight(index)` is that of `values[index]`; `-inf` has no place.
    fn find(
        &mut self,
        values: &[f32],
        weight: impl Fn(usize) -> u64,
        target: u64,
    ) -> Option<Place> {
        let mut before = 0;
        self.members.clear();
        if values.len() <= SORT_LIMIT {
            self.members.extend(
                (0..)
                    .zip(values)
                    .filter(|(_, value)| **value > f32::NEG_INFINITY)
                    .map(|(index, _)| index),
            );
        } else {
            let spread = Spread::over(values);
            if spread.is_single {
                return first_reaching(0..index_of(values.len()), values, weight, 0, target);
            }
            before = self.narrow_all(values, spread, &weight, target)?;
            for (shift, width) in DIGITS {
                if self.members.len() > SORT_LIMIT {
                    before = self.narrow_members(values, shift, width, &weight, before, target)?;
                }
            }
            if self.members.len() > SORT_LIMIT {
                // Every digit is the same: one value, its indices ascending.
                return first_reaching(
                    self.members.iter().copied(),
                    values,
                    weight,
                    before,
                    target,
                );
            }
        }
        self.places.clear();
        self.places.extend(
            self.members
                .iter()
                .map(|&index| Place::new(values[index as usize], index)),
        );
        self.places.sort_unstable();
        self.places.iter().copied().find(|place| {
            before += weight(place.index() as usize);
            before >= target
        })
    }

    /// Make the values of the bin in which `target` is reached the members; returns the weight before that bin.
    fn narrow_all(
        &mut self,
        values: &[f32],
        spread: Spread,
        weight: &impl Fn(usize) -> u64,
        target: u64,
    ) -> Option<u64> {
        self.bins.clear();
        self.bins.resize(BINS + 1, 0);
        let (rows, rest) = values.as_chunks::<LANES>();
        for (row, values) in rows.iter().enumerate() {
            for (lane, bin) in spread.bins(values).into_iter().enumerate() {
                self.bins[bin as usize] += weight(row * LANES + lane);
            }
        }
        let rest_start = rows.len() * LANES;
        for (index, &value) in rest.iter().enumerate() {
            self.bins[spread.bin(value) as usize] += weight(rest_start + index);
        }
        let (crossed, before) = crossing(&self.bins[..BINS], 0, target)?;
        for (row, values) in rows.iter().enumerate() {
            let bins = spread.bins(values);
            let mut hit = 0;
            for bin in bins {
                hit |= u32::from(bin == crossed);
            }
            if hit != 0 {
                let indices = (index_of(row * LANES)..).zip(bins);
                self.members.extend(
                    indices
                        .filter(|(_, bin)| *bin == crossed)
                        .map(|(index, _)| index),
                );
            }
        }
        let indices = (index_of(rest_start)..).zip(rest);
        self.members.extend(
            indices
                .filter(|(_, value)| spread.bin(**value) == crossed)
                .map(|(index, _)| index),
        );
        Some(before)
    }

    /// Keep the members whose digit is that in which `target` is reached; returns the weight before it.
    fn narrow_members(
        &mut self,
        values: &[f32],
        shift: u32,
        width: u32,
        weight: &impl Fn(usize) -> u64,
        before: u64,
        target: u64,
    ) -> Option<u64> {
        let digit = |index: u32| descending(values[index as usize]) >> shift & ((1 << width) - 1);
        self.bins.fill(0);
        for &index in &self.members {
            self.bins[digit(index) as usize] += weight(index as usize);
        }
        let (crossed, before) = crossing(&self.bins[..BINS], before, target)?;
        self.members.retain(|&index| digit(index) == crossed);
        Some(before)
    }
}

/// Bins of equal width over the finite values, the largest in bin 0; `-inf` in bin `BINS`. Halves, so that no
/// difference overflows.
#[derive(Clone, Copy)]
struct Spread {
    half_high: f32,
    scale: f32,
    /// All finite values are equal, or there is none: a walk finds the end sooner than the bins would.
    is_single: bool,
}

impl Spread {
    #[expect(clippy::cast_precision_loss, reason = "a power of two less one")]
    fn over(values: &[f32]) -> Self {
        let (mut highs, mut lows) = ([f32::NEG_INFINITY; LANES], [f32::INFINITY; LANES]);
        let (rows, rest) = values.as_chunks::<LANES>();
        for row in rows.iter().chain([&padded(rest)]) {
            for lane in 0..LANES {
                highs[lane] = larger(row[lane], highs[lane]);
                let finite = if row[lane] > f32::NEG_INFINITY {
                    row[lane]
                } else {
                    f32::INFINITY
                };
                lows[lane] = if finite < lows[lane] {
                    finite
                } else {
                    lows[lane]
                };
            }
        }
        let high = tree_max(highs);
        let low = lows
            .into_iter()
            .fold(f32::INFINITY, |a, b| if b < a { b } else { a });
        let half_range = high * 0.5 - low * 0.5;
        Self {
            half_high: high * 0.5,
            scale: ((BINS - 1) as f32 / half_range).min(f32::MAX),
            is_single: high <= low,
        }
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and BINS, and rounding down is meant"
    )]
    fn bin(self, value: f32) -> u32 {
        let position = (self.half_high - value * 0.5) * self.scale;
        let bounded = if position < BINS as f32 {
            position
        } else {
            BINS as f32
        };
        bounded as u32
    }

    #[inline(always)]
    fn bins(self, row: &Row) -> [u32; LANES] {
        let mut bins = [0; LANES];
        for lane in 0..LANES {
            bins[lane] = self.bin(row[lane]);
        }
        bins
    }
}

/// The first of `indices` of a value above `-inf` at which the running weight reaches `target`.
fn first_reaching(
    mut indices: impl Iterator<Item = u32>,
    values: &[f32],
    weight: impl Fn(usize) -> u64,
    mut before: u64,
    target: u64,
) -> Option<Place> {
    indices.find_map(|index| {
        let value = values[index as usize];
        before += if value > f32::NEG_INFINITY {
            weight(index as usize)
        } else {
            return None;
        };
        (before >= target).then(|| Place::new(value, index))
    })
}

/// The bin in which the running weight reaches `target`, and the weight before it.
fn crossing(bins: &[u64], mut before: u64, target: u64) -> Option<(u32, u64)> {
    for (bin, &weight) in bins.iter().enumerate() {
        if weight > 0 && before + weight >= target {
            return Some((index_of(bin), before));
        }
        before += weight;
    }
    None
}

#[expect(clippy::cast_possible_truncation, reason = "token ids are i32")]
fn index_of(index: usize) -> u32 {
    index as u32
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test values are small"
)]
mod tests {
    use proptest::prelude::*;

    use super::{Place, PrefixEnd};

    #[test]
    fn places_order_by_descending_value_then_by_index() {
        let ascending = [
            f32::NEG_INFINITY,
            f32::MIN,
            -2.0,
            -1.0,
            -f32::MIN_POSITIVE,
            0.0,
            f32::from_bits(1),
            0.5,
            3.0,
            f32::MAX,
        ];
        for (i, &low) in ascending.iter().enumerate() {
            assert_eq!(Place::new(low, 9).value().to_bits(), low.to_bits());
            assert_eq!(Place::new(low, 9).index(), 9);
            assert!(Place::new(low, 9) < Place::new(low, 10));
            for &high in &ascending[i + 1..] {
                assert!(
                    Place::new(high, 10) < Place::new(low, 9),
                    "{high} before {low}"
                );
            }
        }
        assert_eq!(Place::new(-0.0, 4), Place::new(0.0, 4));
    }

    fn by_sorting(values: &[f32], weights: &[u64], target: u64) -> Option<Place> {
        let mut places: Vec<Place> = (0..values.len())
            .map(|i| Place::new(values[i], i as u32))
            .collect();
        places.retain(|place| place.value() > f32::NEG_INFINITY);
        places.sort_unstable();
        let mut sum = 0;
        places.into_iter().find(|place| {
            sum += weights[place.index() as usize];
            sum >= target
        })
    }

    /// Their halves are equal, they are not.
    #[test]
    fn neighbouring_subnormals_are_told_apart() {
        let values: Vec<f32> = (0..2000).map(|i| f32::from_bits(i % 2)).collect();
        let end = PrefixEnd::default().of_count(&values, 700);
        assert_eq!(end, Some(Place::new(f32::from_bits(1), 1399)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Values of few distinct mantissas (many ties), of one exponent (one first bin), or anything.
        #[test]
        fn radix_and_sort_find_the_same_place(
            seeds in prop::collection::vec(any::<u32>(), 1..3000),
            shape in 0..6,
            share in 0.0..1.01f64,
        ) {
            let values: Vec<f32> = seeds.iter().map(|&seed| match shape {
                0 => (seed % 7) as f32 - 3.0,
                1 => 1.0 + (seed >> 9) as f32 / (1 << 24) as f32,
                2 => 2.5,
                3 => f32::from_bits(seed % 4000),
                4 => if seed % 100 == 0 { -1e38 } else { (seed >> 8) as f32 * 1e-9 },
                _ => Some(f32::from_bits(seed)).filter(|x| !x.is_nan()).unwrap_or(f32::NEG_INFINITY),
            }).collect();
            let weights: Vec<u64> = seeds.iter().map(|seed| u64::from(seed.rotate_left(13) % 1000)).collect();
            let total: u64 = weights.iter().sum();
            let mut search = PrefixEnd::default();
            for target in [1, (total as f64 * share) as u64, total, total + 1] {
                prop_assert_eq!(search.find(&values, |i| weights[i], target), by_sorting(&values, &weights, target));
            }
            let ones = vec![1; values.len()];
            let count = 1 + (share * (values.len() - 1) as f64) as u64;
            prop_assert_eq!(search.of_count(&values, count as usize), by_sorting(&values, &ones, count));
        }
    }
}
