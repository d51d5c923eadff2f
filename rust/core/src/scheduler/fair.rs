//! Fair share: how much each tenant was served, and whose turn it is.
//!
//! The virtual token counter of Sheng et al. 2024: a tenant's counter grows by what its tokens cost, and the waiting
//! tenant with the smallest counter is next. A tenant that had nothing waiting begins at the counter of those who have,
//! so that idleness earns nothing. Beyond the paper, which lets admitted requests run to their end: a waiting tenant
//! that is too far behind takes the blocks of the most served one (`lead`), since admission here does not reserve what a
//! request may generate, and the bound on the difference would not hold otherwise.
//!
//! Charging a token is an addition. Whose turn it is costs O(log tenants), amortised: counters only grow, so an entry of
//! the heap that is too small is found when it comes to the top.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Idle tenants whose lead over the others is remembered. Beyond, those with the smallest lead are forgotten, and begin
/// again like a new one.
const MAX_IDLE: usize = 1024;

/// A tenant of [`Tenants`]. Reused once the tenant is forgotten.
pub(super) type TenantIndex = u32;

/// A tenant in the queue: the smallest is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    counter: u64,
    joined: u64,
    tenant: TenantIndex,
}

/// One tenant, as far as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantStats {
    /// As in its requests; `None` for those that named none.
    pub tenant: Option<String>,
    /// Weighted tokens. Only differences mean something, and only between tenants with something waiting.
    pub service: u64,
    /// Sequences that are not finished.
    pub num_seqs: usize,
    /// Of these, in the queue.
    pub num_waiting_seqs: usize,
}

/// Counters of all tenants, as parallel arrays.
#[derive(Debug)]
pub(super) struct Tenants {
    input_weight: u64,
    output_weight: u64,
    /// Most that a tenant may be ahead of a waiting one before it has to make room.
    lead: u64,
    /// Most that admitting somebody may put its tenant ahead of one that was passed over.
    bound: u64,
    indices: HashMap<Option<String>, TenantIndex>,
    names: Vec<Option<String>>,
    counters: Vec<u64>,
    num_seqs: Vec<u32>,
    num_queued: Vec<u32>,
    /// When it last joined the queue, by number: of two with equal counters who joined first is next.
    joined: Vec<u64>,
    num_joined: u64,
    in_turns: Vec<bool>,
    free: Vec<TenantIndex>,
    /// Tenants with something queued and their counters, which may have grown since.
    turns: BinaryHeap<Reverse<Turn>>,
    /// Taken out of `turns` for the rest of a step.
    aside: Vec<TenantIndex>,
    /// Idle ones with their lead, and some that are idle no more.
    idle: BinaryHeap<Reverse<(u64, TenantIndex)>>,
    num_in_queue: usize,
    /// No waiting tenant is below, now or later.
    floor: u64,
    /// The tenant that left the queue last.
    last: Option<TenantIndex>,
    /// No running tenant is above.
    highest: u64,
}

impl Tenants {
    /// Nobody yet. `longest_input` and `capacity` are in tokens; a step draws at most `max_draws`.
    pub(super) fn new(
        (input_weight, output_weight): (u32, u32),
        longest_input: usize,
        capacity: usize,
        max_draws: usize,
    ) -> Self {
        let (input_weight, output_weight) = (u64::from(input_weight), u64::from(output_weight));
        let admission = input_weight * longest_input as u64;
        let bound = admission.max(output_weight * capacity as u64);
        Self {
            input_weight,
            output_weight,
            // What one step adds fits between the lead and the bound; and who was just admitted is not taken out again.
            lead: bound
                .saturating_sub(output_weight * max_draws as u64)
                .max(admission),
            bound,
            indices: HashMap::new(),
            names: Vec::new(),
            counters: Vec::new(),
            num_seqs: Vec::new(),
            num_queued: Vec::new(),
            joined: Vec::new(),
            num_joined: 0,
            in_turns: Vec::new(),
            free: Vec::new(),
            turns: BinaryHeap::new(),
            aside: Vec::new(),
            idle: BinaryHeap::new(),
            num_in_queue: 0,
            floor: 0,
            last: None,
            highest: 0,
        }
    }

    /// The tenant of a new request.
    pub(super) fn find_or_add(&mut self, name: Option<&String>) -> TenantIndex {
        let name = name.cloned();
        if let Some(&tenant) = self.indices.get(&name) {
            return tenant;
        }
        let tenant = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            self.counters.push(0);
            self.num_seqs.push(0);
            self.num_queued.push(0);
            self.joined.push(0);
            self.in_turns.push(false);
            u32::try_from(self.names.len() - 1).expect("requests are counted in 32 bits")
        });
        self.indices.insert(name.clone(), tenant);
        self.names[tenant as usize] = name;
        self.counters[tenant as usize] = self.floor();
        tenant
    }

    pub(super) fn counter(&self, tenant: TenantIndex) -> u64 {
        self.counters[tenant as usize]
    }

    /// A sequence of the tenant begins.
    pub(super) fn open(&mut self, tenant: TenantIndex) {
        self.num_seqs[tenant as usize] += 1;
    }

    /// A sequence of the tenant ended, and left the queue before.
    pub(super) fn close(&mut self, tenant: TenantIndex) {
        let index = tenant as usize;
        self.num_seqs[index] -= 1;
        if self.num_seqs[index] == 0 {
            self.idle.push(Reverse((self.counters[index], tenant)));
            self.forget();
        }
    }

    /// A sequence of the tenant is in the queue.
    pub(super) fn enqueue(&mut self, tenant: TenantIndex) {
        let index = tenant as usize;
        if self.num_queued[index] == 0 {
            self.counters[index] = self.counters[index].max(self.floor());
            self.num_in_queue += 1;
            self.num_joined += 1;
            self.joined[index] = self.num_joined;
        }
        self.num_queued[index] += 1;
        if !self.in_turns[index] {
            self.in_turns[index] = true;
            self.turns.push(Reverse(self.turn(tenant)));
        }
    }

    /// Where a waiting tenant stands among the others.
    pub(super) fn turn(&self, tenant: TenantIndex) -> Turn {
        let index = tenant as usize;
        Turn {
            counter: self.counters[index],
            joined: self.joined[index],
            tenant,
        }
    }

    /// A sequence of the tenant is in the queue no more.
    pub(super) fn dequeue(&mut self, tenant: TenantIndex) {
        let index = tenant as usize;
        if self.num_queued[index] == 1 {
            // The others of the queue have more, or the tenant's own counter counts from now on.
            self.floor = self.floor();
            self.num_in_queue -= 1;
            self.last = Some(tenant);
        }
        self.num_queued[index] -= 1;
    }

    /// Prompt tokens are going to be computed.
    pub(super) fn charge_input(&mut self, tenant: TenantIndex, num_tokens: usize) {
        self.charge(tenant, self.input_weight * num_tokens as u64);
    }

    /// A token was drawn.
    pub(super) fn charge_output(&mut self, tenant: TenantIndex) {
        self.charge(tenant, self.output_weight);
    }

    fn charge(&mut self, tenant: TenantIndex, cost: u64) {
        let counter = &mut self.counters[tenant as usize];
        *counter += cost;
        self.highest = self.highest.max(*counter);
    }

    /// Whose turn it is: the tenant with the smallest counter that has something queued, unless it was set aside.
    pub(super) fn next(&mut self) -> Option<TenantIndex> {
        while let Some(&Reverse(turn)) = self.turns.peek() {
            let current = self.turn(turn.tenant);
            if self.num_queued[turn.tenant as usize] == 0 {
                self.turns.pop();
                self.in_turns[turn.tenant as usize] = false;
            } else if turn < current {
                self.turns.pop();
                self.turns.push(Reverse(current));
            } else {
                return Some(turn.tenant);
            }
        }
        None
    }

    /// Nothing more of the tenant whose turn it is can be admitted in this step.
    pub(super) fn set_aside(&mut self) {
        if let Some(Reverse(turn)) = self.turns.pop() {
            self.aside.push(turn.tenant);
        }
    }

    /// The step is planned.
    pub(super) fn restore(&mut self) {
        while let Some(tenant) = self.aside.pop() {
            self.turns.push(Reverse(self.turn(tenant)));
        }
    }

    /// The waiting tenant that was served least, those set aside included.
    pub(super) fn least(&mut self) -> Option<u64> {
        let next = self.next().map(|tenant| self.counter(tenant));
        let aside = self.aside.iter().map(|&tenant| self.counter(tenant)).min();
        next.into_iter().chain(aside).min()
    }

    /// Whether admitting a prompt of `num_tokens` new tokens keeps the bound towards everybody who waits.
    pub(super) fn may_pass(&mut self, tenant: TenantIndex, num_tokens: usize) -> bool {
        let after = self.counter(tenant) + self.input_weight * num_tokens as u64;
        self.least().is_none_or(|least| after <= least + self.bound)
    }

    /// What a tenant may have at most so that it need not make room for one that waits and has `counter`.
    pub(super) fn limit(&self, counter: u64) -> u64 {
        counter + self.lead
    }

    /// Whether some running tenant may be above `limit`. Cheap, and never wrong when it says no.
    pub(super) fn may_exceed(&self, limit: u64) -> bool {
        self.highest > limit
    }

    /// The most served running tenant was found to have `counter`.
    pub(super) fn note_highest(&mut self, counter: u64) {
        self.highest = counter;
    }

    /// All who are remembered.
    pub(super) fn stats(&self) -> impl Iterator<Item = TenantStats> {
        self.indices
            .iter()
            .map(|(name, &tenant)| (name, tenant as usize))
            .map(|(name, index)| TenantStats {
                tenant: name.clone(),
                service: self.counters[index],
                num_seqs: self.num_seqs[index] as usize,
                num_waiting_seqs: self.num_queued[index] as usize,
            })
    }

    /// Where a tenant begins that had nothing queued: at the smallest counter in the queue; if it is empty, at that of
    /// the tenant that left it last.
    fn floor(&mut self) -> u64 {
        let current = if self.num_in_queue > 0 {
            self.least()
        } else {
            self.last.map(|tenant| self.counter(tenant))
        };
        self.floor = self.floor.max(current.unwrap_or(0));
        self.floor
    }

    /// Forget idle tenants that have no lead, since they would begin at the floor anyway, and those with the smallest
    /// lead where too many are idle.
    fn forget(&mut self) {
        let floor = self.floor();
        while let Some(&Reverse((counter, tenant))) = self.idle.peek() {
            let index = tenant as usize;
            let is_stale = self.num_seqs[index] > 0 || self.counters[index] != counter;
            if !is_stale && counter > floor && self.idle.len() <= MAX_IDLE {
                return;
            }
            self.idle.pop();
            if !is_stale && self.indices.get(&self.names[index]) == Some(&tenant) {
                self.indices.remove(&self.names[index]);
                if std::mem::take(&mut self.in_turns[index]) {
                    self.turns.retain(|&Reverse(turn)| turn.tenant != tenant);
                }
                self.names[index] = None;
                self.free.push(tenant);
                if self.last == Some(tenant) {
                    self.last = None;
                }
            }
        }
    }

    /// The first contradiction in words.
    pub(super) fn check_integrity(
        &self,
        seqs: impl Iterator<Item = (TenantIndex, bool)>,
    ) -> Result<(), String> {
        let mut counts = vec![(0, 0); self.names.len()];
        for (tenant, is_queued) in seqs {
            counts[tenant as usize].0 += 1;
            counts[tenant as usize].1 += u32::from(is_queued);
        }
        for (index, &(num_seqs, num_queued)) in counts.iter().enumerate() {
            if (num_seqs, num_queued) != (self.num_seqs[index], self.num_queued[index]) {
                return Err(format!("tenant {index}: its sequences are miscounted"));
            }
            if num_queued > 0 && !self.in_turns[index] {
                return Err(format!("tenant {index} waits and has no turn"));
            }
            if num_queued > 0 && self.counters[index] < self.floor {
                return Err(format!("tenant {index} waits below the floor"));
            }
        }
        let queued = counts.iter().filter(|&&(_, queued)| queued > 0).count();
        if queued != self.num_in_queue || !self.aside.is_empty() {
            return Err("the tenants in the queue are miscounted".to_owned());
        }
        let turns = self.in_turns.iter().filter(|&&is_in| is_in).count();
        if turns != self.turns.len() {
            return Err("a tenant has two turns, or none".to_owned());
        }
        if self.indices.len() + self.free.len() != self.names.len() {
            return Err("a tenant is lost".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_to_the_counters_of_tenants_is_found() {
        let found = |damage: fn(&mut Tenants)| {
            let mut tenants = Tenants::new((1, 2), 10, 100, 4);
            let waiting = tenants.find_or_add(Some(&"a".to_owned()));
            let running = tenants.find_or_add(None);
            tenants.open(waiting);
            tenants.enqueue(waiting);
            tenants.open(running);
            let seqs = [(waiting, true), (running, false)];
            tenants.check_integrity(seqs.into_iter()).unwrap();
            damage(&mut tenants);
            tenants.check_integrity(seqs.into_iter()).unwrap_err()
        };
        let of_one: [(fn(&mut Tenants), _); 4] = [
            (
                |all| all.num_seqs[1] = 2,
                "tenant 1: its sequences are miscounted",
            ),
            (
                |all| all.num_queued[0] = 0,
                "tenant 0: its sequences are miscounted",
            ),
            (
                |all| all.in_turns[0] = false,
                "tenant 0 waits and has no turn",
            ),
            (|all| all.floor = 1, "tenant 0 waits below the floor"),
        ];
        for (damage, expected) in of_one {
            assert_eq!(found(damage), expected);
        }
        let miscounted = "the tenants in the queue are miscounted";
        assert_eq!(found(|all| all.num_in_queue = 2), miscounted);
        assert_eq!(found(Tenants::set_aside), miscounted);
        let turns = "a tenant has two turns, or none";
        assert_eq!(found(|all| all.turns.clear()), turns);
        assert_eq!(found(|all| all.turns.push(Reverse(all.turn(0)))), turns);
        assert_eq!(found(|all| all.free.push(0)), "a tenant is lost");
        assert_eq!(found(|all| all.indices.clear()), "a tenant is lost");
    }
}
