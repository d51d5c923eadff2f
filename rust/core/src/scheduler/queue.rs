//! Who waits, in order of rank; under fair share in order of rank within each tenant.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::fair::TenantIndex;
use super::sequences::{Place, Rank};

/// Sequences without blocks that may be admitted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    places: BTreeSet<Place>,
    /// Passed over in the step being planned, in the order in which that happened.
    deferred: Vec<Place>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn insert(&mut self, place: Place) {
        self.places.insert(place);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.places.remove(&place);
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        self.places.contains(&place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// The first of a tenant that was not passed over in this step.
    pub(super) fn first(&self, tenant: TenantIndex) -> Option<Place> {
        let passed = self.deferred.iter().rfind(|place| place.tenant == tenant);
        let start = match passed {
            Some(&place) => Excluded(place),
            None => Included(first_place(tenant)),
        };
        let first = self.places.range((start, Unbounded)).next();
        first.filter(|place| place.tenant == tenant).copied()
    }

    /// Pass over `place` for the rest of this step.
    pub(super) fn defer(&mut self, place: Place) {
        self.deferred.push(place);
    }

    /// How many were passed over in this step.
    pub(super) fn num_deferred(&self) -> usize {
        self.deferred.len()
    }

    /// The step is planned.
    pub(super) fn clear_deferred(&mut self) {
        self.deferred.clear();
    }
}

fn first_place(tenant: TenantIndex) -> Place {
    Place {
        tenant,
        class: i64::MIN,
        rank: Rank {
            is_background: false,
            key: i64::MIN,
            arrival: 0,
            sequence_index: 0,
        },
        slot: 0,
    }
}
