//! Tokens that the caller tells of sequences, to follow what they have now. Almost always nothing is told of anybody, and
//! then asking, and forgetting after each token, costs a comparison.

/// Most tokens of a sequence that the caller tells for one step.
pub(super) const MAX_TOLD: usize = 64;

/// Of one kind: certain ones, or guesses.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By slot; empty where nothing is known.
    by_slot: Vec<Vec<i32>>,
    /// Of how many slots something is known.
    num_slots: usize,
}

impl Told {
    /// Whether nothing is known of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.num_slots == 0
    }

    /// What is known of a sequence.
    pub(super) fn of(&self, slot: usize) -> &[i32] {
        self.by_slot.get(slot).map_or(&[], Vec::as_slice)
    }

    /// Instead of what was told of it before.
    pub(super) fn tell(&mut self, slot: usize, token_ids: &[i32]) {
        self.forget(slot);
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, Vec::new);
        }
        let told = &mut self.by_slot[slot];
        told.extend(token_ids.iter().take(MAX_TOLD));
        self.num_slots += usize::from(!told.is_empty());
    }

    /// The sequence went on, lost its blocks or ended.
    #[inline]
    pub(super) fn forget(&mut self, slot: usize) {
        if !self.is_empty() && !self.of(slot).is_empty() {
            self.by_slot[slot].clear();
            self.num_slots -= 1;
        }
    }

    /// Damage for [`Self::check_integrity`] to find.
    #[cfg(test)]
    pub(super) fn miscount(&mut self) {
        self.num_slots += 1;
    }

    /// Verify that the count is that of the lists.
    pub(super) fn check_integrity(&self) -> Result<(), String> {
        let known = self.by_slot.iter().filter(|told| !told.is_empty());
        if known.count() == self.num_slots {
            return Ok(());
        }
        Err("the count of sequences of which tokens are told is wrong".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_count_of_sequences_is_found() {
        let mut told = Told::default();
        told.tell(2, &[5, 6]);
        told.tell(0, &[]);
        told.check_integrity().unwrap();
        assert_eq!((told.of(2), told.of(0)), ([5, 6].as_slice(), [].as_slice()));
        told.num_slots = 2;
        assert_eq!(
            told.check_integrity().unwrap_err(),
            "the count of sequences of which tokens are told is wrong"
        );
        told.num_slots = 1;
        told.forget(2);
        assert!(told.is_empty());
        told.check_integrity().unwrap();
    }
}
