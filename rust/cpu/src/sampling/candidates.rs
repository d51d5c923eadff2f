//! The tokens that may still be drawn, in ascending order of their ids.

use super::cut::{MASS_UNIT, Place, PrefixEnd, mass};
use super::mass::Softmax;
use super::scan::Scan;
use super::tiles::{LANES, TILE, any_at_least};

/// Ids and logits of some tokens, ids ascending.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    ids: Vec<u32>,
    logits: Vec<f32>,
    weights: Vec<f32>,
    places: Vec<Place>,
}

impl Candidates {
    /// Room for `vocab_size` tokens: address space, touched only as far as it is used.
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        Self {
            ids: Vec::with_capacity(vocab_size),
            logits: Vec::with_capacity(vocab_size),
            weights: Vec::new(),
            places: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Their logits, ids ascending.
    pub(super) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The token id of candidate `index`.
    pub(super) fn id(&self, index: usize) -> usize {
        self.ids[index] as usize
    }

    /// Take all tokens whose logit is at least `floor`; `scan` is that of `logits`.
    #[inline(always)]
    pub(super) fn collect(&mut self, logits: &[f32], scan: &Scan, floor: f32) {
        self.ids.clear();
        self.logits.clear();
        let (mut ids, mut values) = ([0; TILE], [0.0; TILE]);
        for (start, tile) in scan.tiles_at_least(logits, floor) {
            let mut found = 0;
            let (rows, rest) = tile.as_chunks::<LANES>();
            let mut id = id_of(start);
            for row in rows {
                if any_at_least(row, floor) {
                    for (lane, &value) in (0..).zip(row) {
                        // `found` never reaches TILE here; the remainder tells the compiler.
                        ids[found % TILE] = id + lane;
                        values[found % TILE] = value;
                        found += usize::from(value >= floor);
                    }
                }
                id += id_of(LANES);
            }
            for (lane, &value) in (0..).zip(rest) {
                ids[found % TILE] = id + lane;
                values[found % TILE] = value;
                found += usize::from(value >= floor);
            }
            self.ids.extend_from_slice(&ids[..found]);
            self.logits.extend_from_slice(&values[..found]);
        }
    }

    /// Take the `count` best tokens and a few others; `scan` is that of `logits`.
    #[inline(always)]
    pub(super) fn collect_best(
        &mut self,
        logits: &[f32],
        count: usize,
        scan: &mut Scan,
        prefix_end: &mut PrefixEnd,
    ) {
        let floor = if count == 0 {
            f32::INFINITY
        } else {
            scan.floor_of_best(logits, count, prefix_end)
        };
        self.collect(logits, scan, floor);
    }

    /// Keep the `count` best.
    pub(super) fn keep_best(&mut self, count: usize, prefix_end: &mut PrefixEnd) {
        if count == 0 {
            self.ids.clear();
            self.logits.clear();
        } else if self.len() > count
            && let Some(end) = prefix_end.of_count(&self.logits, count)
        {
            self.retain(end);
        }
    }

    /// Keep the fewest best whose mass reaches `share` of `total`, or of their own if that is `None`; all of them, and
    /// `false`, if together they do not reach it.
    ///
    /// `share` is known to 24 bits, so reaching it but for that error is reaching it: of ten equal tokens 0.6 keeps
    /// six, although the nearest float32 lies above 0.6.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "masses are below 2^63 and not negative; 53 bits of a sum are enough for a share of 24"
    )]
    pub(super) fn keep_mass(
        &mut self,
        share: f32,
        total: Option<f64>,
        softmax: &Softmax,
        prefix_end: &mut PrefixEnd,
    ) -> bool {
        softmax.weights_into(&self.logits, &mut self.weights);
        let total = match total {
            Some(total) => total * f64::from(MASS_UNIT),
            None => self.weights.iter().map(|&weight| mass(weight)).sum::<u64>() as f64,
        };
        let known_share = f64::from(share) * (1.0 - f64::from(f32::EPSILON) / 2.0);
        let target = (known_share * total).ceil() as u64;
        match prefix_end.of_mass(&self.logits, &self.weights, target) {
            Some(end) => {
                self.retain(end);
                true
            }
            None => false,
        }
    }

    /// Keep those whose logit is at least `floor`.
    pub(super) fn keep_at_least(&mut self, floor: f32) {
        self.retain(Place::new(floor, u32::MAX));
    }

    /// The `count` best as `(id, logit)`, best first.
    pub(super) fn best(
        &mut self,
        count: usize,
        prefix_end: &mut PrefixEnd,
    ) -> impl Iterator<Item = (u32, f32)> {
        self.keep_best(count, prefix_end);
        self.places.clear();
        self.places.extend(
            self.logits
                .iter()
                .zip(&self.ids)
                .map(|(&logit, &id)| Place::new(logit, id)),
        );
        self.places.sort_unstable();
        self.places
            .iter()
            .map(|place| (place.index(), place.value()))
    }

    /// Keep the candidates that are marked.
    pub(super) fn keep_marked(&mut self, marks: &[bool]) {
        let mut marked = marks.iter();
        self.ids.retain(|_| marked.next().copied().unwrap_or(false));
        let mut marked = marks.iter();
        self.logits
            .retain(|_| marked.next().copied().unwrap_or(false));
    }

    /// Keep the candidates up to the place `end`, whose index counts candidates.
    fn retain(&mut self, end: Place) {
        let mut kept = 0;
        for index in 0..self.ids.len() {
            let (id, logit) = (self.ids[index], self.logits[index]);
            self.ids[kept] = id;
            self.logits[kept] = logit;
            kept += usize::from(Place::new(logit, id_of(index)) <= end);
        }
        self.ids.truncate(kept);
        self.logits.truncate(kept);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "token ids are i32")]
fn id_of(index: usize) -> u32 {
    index as u32
}
