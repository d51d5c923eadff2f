//! Where a ranking ends: the smallest set of best tokens whose weight reaches a target, ties by lower index.
//!
//! `top_k` counts tokens and `top_p` adds probabilities; both are one question, asked with integer weights, so that the
//! answer is exact and no order of additions can change it. No full sort: up to 512 values are sorted, more are
//! narrowed down by radix, three digits at most, each over the members of one bin only.
//! A weighted quickselect was the other road: its pivots make ten times the branches on flat distributions.

/// Up to this many values a sort is faster than clearing and walking the bins.
const SORT_LIMIT: usize = 512;

/// Shift and width of the digits of a 32-bit key, most significant first.
const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];

const BINS: usize = 1 << 11;

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
    #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
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
    places: Vec<Place>,
    bins: Vec<u64>,
    members: Vec<u32>,
}

impl PrefixEnd {
    /// The place of the last value of the smallest prefix of the order whose weights sum to at least `target`, or
    /// `None` if all together do not. At least one value belongs to it. `weight(index)` is that of `values[index]`.
    #[inline(always)]
    pub(super) fn find(
        &mut self,
        values: &[f32],
        weight: impl Fn(usize) -> u64,
        target: u64,
    ) -> Option<Place> {
        let mut before = 0;
        if values.len() > SORT_LIMIT {
            self.bins.resize(BINS, 0);
            before = self.narrow_all(values, &weight, target)?;
            for digit in 1..DIGITS.len() {
                if self.members.len() <= SORT_LIMIT {
                    break;
                }
                before = self.narrow_members(values, &weight, target, before, digit)?;
            }
            if self.members.len() > SORT_LIMIT {
                // Every digit is the same: one value, its indices ascending.
                return self.members.iter().find_map(|&index| {
                    before += weight(index as usize);
                    (before >= target).then(|| Place::new(values[index as usize], index))
                });
            }
        } else {
            self.members.clear();
            self.members.extend(0..index_of(values.len()));
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

    /// First digit: the members of the bin in which `target` is reached; returns the weight before that bin.
    #[inline(always)]
    fn narrow_all(
        &mut self,
        values: &[f32],
        weight: &impl Fn(usize) -> u64,
        target: u64,
    ) -> Option<u64> {
        let (shift, _) = DIGITS[0];
        self.bins.fill(0);
        let bins: &mut [u64; BINS] = self.bins.as_mut_slice().try_into().ok()?;
        for (index, &value) in values.iter().enumerate() {
            bins[(descending(value) >> shift) as usize % BINS] += weight(index);
        }
        let (bin, before) = crossing(bins, 0, target)?;
        self.members.clear();
        for (index, &value) in values.iter().enumerate() {
            if descending(value) >> shift == bin {
                self.members.push(index_of(index));
            }
        }
        Some(before)
    }

    /// A further digit: keeps the members of the bin in which `target` is reached.
    #[inline(always)]
    fn narrow_members(
        &mut self,
        values: &[f32],
        weight: &impl Fn(usize) -> u64,
        target: u64,
        before: u64,
        digit: usize,
    ) -> Option<u64> {
        let (shift, width) = DIGITS[digit];
        let digit_of =
            |index: u32| descending(values[index as usize]) >> shift & ((1 << width) - 1);
        self.bins.fill(0);
        for &index in &self.members {
            self.bins[digit_of(index) as usize] += weight(index as usize);
        }
        let (bin, before) = crossing(&self.bins, before, target)?;
        self.members.retain(|&index| digit_of(index) == bin);
        Some(before)
    }
}

/// The bin in which the running weight reaches `target`, and the weight before it.
#[inline(always)]
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
        places.sort_unstable();
        let mut sum = 0;
        places.into_iter().find(|place| {
            sum += weights[place.index() as usize];
            sum >= target
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Values of few distinct mantissas (many ties), of one exponent (one first bin), or anything.
        #[test]
        fn radix_and_sort_find_the_same_place(
            seeds in prop::collection::vec(any::<u32>(), 1..3000),
            shape in 0..4,
            share in 0.0..1.01f64,
        ) {
            let values: Vec<f32> = seeds.iter().map(|&seed| match shape {
                0 => (seed % 7) as f32 - 3.0,
                1 => 1.0 + (seed >> 9) as f32 / (1 << 24) as f32,
                2 => 2.5,
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
            prop_assert_eq!(search.find(&values, |_| 1, count), by_sorting(&values, &ones, count));
        }
    }
}
