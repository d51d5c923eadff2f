//! What the policies promise, over random sequences of events: nobody waits for ever, two tenants with something waiting
//! get about the same, and no step leaves its budget idle while somebody could be let in. Each bound is computed by the
//! test from what it submitted, not read from the scheduler.

use std::collections::BTreeMap;

use inferlib_core::{NewRequest, Policy, Scheduler, SchedulerConfig, WaitReason};
use inferlib_program::{BLOCK_SIZE, RequestId, RowStatus, StepOutput};
use proptest::prelude::*;

use crate::pretended_executor::{config, group, params, prompt, request};

/// Prompt and output of a request, and whom it is for.
#[derive(Clone, Copy, Debug)]
struct Shape {
    num_prompt: usize,
    max_tokens: u32,
    priority: i32,
    /// A prefix that others share, too.
    shares: bool,
}

impl Shape {
    /// Steps that it takes at most when it advances in each.
    fn steps(self) -> u64 {
        self.num_prompt as u64 + u64::from(self.max_tokens)
    }

    fn request(self, seed: u64, tenant: Option<usize>) -> NewRequest {
        let tokens = if self.shares {
            prompt(7, self.num_prompt)
        } else {
            prompt(1000 + seed, self.num_prompt)
        };
        NewRequest {
            priority: self.priority,
            tenant: tenant.map(|tenant| tenant.to_string()),
            ..request(tokens, params(self.max_tokens))
        }
    }
}

fn arbitrary_shape(longest: usize) -> impl Strategy<Value = Shape> {
    let priority = prop_oneof![3 => Just(0), 1 => -2..3_i32];
    // Long answers to short questions, and the reverse, meet each other.
    let lengths = prop_oneof![
        (1..longest, 1..40_u32),
        (1..4_usize, 60..90_u32),
        (longest - 15..longest, 1..4_u32),
    ];
    (lengths, priority, any::<bool>()).prop_map(|((num_prompt, max_tokens), priority, shares)| {
        Shape {
            num_prompt,
            max_tokens,
            priority,
            shares,
        }
    })
}

fn arbitrary_limits() -> impl Strategy<Value = SchedulerConfig> {
    (
        6..24_u32,
        1..8_usize,
        1..48_usize,
        prop::option::of(1..20_usize),
        any::<bool>(),
    )
        .prop_map(
            |(num_blocks, max_num_seqs, max_num_batched_tokens, max_chunk, caching)| {
                SchedulerConfig {
                    groups: vec![group(num_blocks)],
                    max_num_seqs,
                    max_num_batched_tokens,
                    max_chunk,
                    max_model_len: 90,
                    enable_prefix_caching: caching,
                    ..config()
                }
            },
        )
}

/// A scheduler and an executor that draws the same token for ever.
struct Bench {
    scheduler: Scheduler,
    now: f64,
    seed: u64,
    /// Ended in the latest step.
    ended: Vec<RequestId>,
    /// Tokens drawn in the latest step, by request.
    drawn: Vec<RequestId>,
}

impl Bench {
    fn new(limits: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(limits).unwrap(),
            now: 0.0,
            seed: 0,
            ended: Vec::new(),
            drawn: Vec::new(),
        }
    }

    fn submit(&mut self, shape: Shape, tenant: Option<usize>) -> RequestId {
        self.seed += 1;
        let new = shape.request(self.seed, tenant);
        self.scheduler.submit(new, self.now).unwrap()
    }

    fn step(&mut self) {
        self.now += 1.0;
        let free_before = self.scheduler.stats();
        let batch = self.scheduler.schedule(self.now).expect("never stuck");
        // Every step advances somebody.
        assert!(batch.num_tokens() > 0);
        let (tokens, rows) = (batch.num_tokens(), batch.num_sampled());
        let limits = self.scheduler.config().clone();
        let planned = self.scheduler.stats();
        assert!(tokens <= limits.max_num_batched_tokens);
        assert!(planned.num_running_seqs <= limits.max_num_seqs);
        let preempted = planned.num_preemptions > free_before.num_preemptions;
        if !preempted {
            self.check_work_conservation(tokens);
        }
        let output = StepOutput {
            mirostat_mu: Vec::new(),
            token_ids: vec![1; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
            captures: Vec::new(),
            logits: Vec::new(),
        };
        let events = self.scheduler.update(&output, self.now).unwrap();
        self.ended.clone_from(&events.finished_requests);
        self.drawn.clone_from(&events.request_ids);
        self.scheduler.check_integrity().unwrap();
    }

    /// A step that has budget and seats left, and took from nobody, leaves whoever is first in line outside only if it
    /// does not fit beside a spare block for each who runs, or is about to share what is being computed.
    fn check_work_conservation(&self, tokens: usize) {
        let (scheduler, limits) = (&self.scheduler, self.scheduler.config());
        let stats = scheduler.stats();
        let most = limits.max_num_seqs.min(limits.max_num_batched_tokens);
        let has_budget = tokens < limits.max_num_batched_tokens;
        if !has_budget || stats.num_running_seqs == most || stats.num_waiting_seqs == 0 {
            return;
        }
        if limits.enable_prefix_caching {
            return; // whether something was to be shared cannot be told from outside; see the twin
        }
        let first = self.first_in_line();
        let waiting = scheduler.why_waiting(first).unwrap();
        assert_eq!(waiting.num_ahead, 0);
        assert_eq!(waiting.reason, Some(WaitReason::Blocks));
        let spare = stats.num_running_seqs;
        assert!(
            waiting.num_needed_blocks + spare > stats.groups[0].num_free,
            "{waiting:?} could run"
        );
    }

    fn first_in_line(&self) -> RequestId {
        let ids = (0..self.seed).map(RequestId); // indices of requests that were never taken
        let mut waiting = ids.filter(|&id| {
            let why = self.scheduler.why_waiting(id);
            why.is_some_and(|why| why.num_ahead == 0)
        });
        waiting.next().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Others come for ever, one or more with each step. Whoever came before, or outranks it on arrival, needs so many
    /// steps at most, since somebody who is not behind it advances in every step. Who waits for a prefix that somebody
    /// computes is overtaken meanwhile, and may then have to wait for those who run.
    #[test]
    fn nobody_waits_for_ever(
        limits in arbitrary_limits(),
        which in 0..3_usize,
        number in 1..12_u32,
        before in prop::collection::vec(arbitrary_shape(80), 0..8),
        own in arbitrary_shape(80),
        others in prop::collection::vec(arbitrary_shape(80), 1..8),
        per_step in 1..3_usize,
    ) {
        let policy = [
            Policy::Fcfs,
            Policy::Priority { steps_per_class: number },
            Policy::Deadline { patience_seconds: f64::from(number) },
        ][which];
        let longest = others.iter().map(|shape| shape.steps()).max().unwrap_or(0);
        let overtaken = longest * limits.max_num_seqs as u64;
        let mut bench = Bench::new(SchedulerConfig { policy, ..limits });
        // Where nothing ages, classes are strict: only equals are promised anything.
        let flat = |shape: Shape| Shape {
            priority: if which == 1 { shape.priority } else { 0 },
            ..shape
        };
        let mut bound = 0;
        for shape in &before {
            bench.submit(flat(*shape), None);
            bound += shape.steps();
        }
        let own = flat(own);
        let id = bench.submit(own, None);
        let mut steps = 0;
        let mut next = others.iter().cycle();
        while bench.scheduler.output(id).unwrap().timestamps.first_scheduled.is_none() {
            bench.step();
            steps += 1;
            let deferred = bench.scheduler.output(id).unwrap().run.num_deferrals > 0;
            let bound_now = bound + if deferred { overtaken } else { 0 };
            prop_assert!(steps <= bound_now + 1, "{} steps, at most {} were promised", steps, bound_now);
            for _ in 0..per_step {
                let shape = flat(*next.next().unwrap());
                bench.submit(shape, None);
                // Better than ours is now, by what that has waited?
                let classes = i64::from(own.priority) - i64::from(shape.priority);
                if which == 1 && classes * i64::from(number) > steps.cast_signed() {
                    bound += shape.steps();
                }
            }
        }
    }

    /// Of two tenants that always have something waiting, neither gets more than twice `max(input_weight * longest input,
    /// output_weight * tokens in the cache)` more than the other, over any stretch of time; whatever third ones do.
    #[test]
    fn two_backlogged_tenants_get_about_the_same(
        limits in arbitrary_limits(),
        weights in (1..4_u32, 2..4_u32),
        shapes in prop::collection::vec(prop::collection::vec(arbitrary_shape(80), 1..4), 2..4),
        visitors in prop::collection::vec(prop::option::weighted(0.2, arbitrary_shape(80)), 60),
    ) {
        let (input_weight, output_weight) = (weights.0, weights.0 * weights.1);
        let limits = SchedulerConfig {
            policy: Policy::FairShare { input_weight, output_weight },
            ..limits
        };
        let capacity = limits.groups[0].num_blocks as usize * BLOCK_SIZE;
        let longest = limits.max_model_len.min(capacity);
        let bound = (u64::from(input_weight) * longest as u64)
            .max(u64::from(output_weight) * capacity as u64)
            .cast_signed();
        let max_num_seqs = limits.max_num_seqs;
        let mut bench = Bench::new(limits);
        let mut owners: BTreeMap<RequestId, usize> = BTreeMap::new();
        let mut served = vec![0_u64; shapes.len() + 1];
        let mut gaps: BTreeMap<(usize, usize), (i64, i64)> = BTreeMap::new();
        for step in 0..400 {
            // More wait of each tenant than a step can let in: nobody's queue is ever empty.
            for (tenant, shapes) in shapes.iter().enumerate() {
                let is_waiting = |(id, owner): (&RequestId, &usize)| {
                    *owner == tenant && bench.scheduler.why_waiting(*id).is_some()
                };
                let waiting = owners.iter().filter(|&entry| is_waiting(entry)).count();
                for more in waiting..=max_num_seqs {
                    let shape = shapes[(step + more) % shapes.len()];
                    owners.insert(bench.submit(shape, Some(tenant)), tenant);
                }
            }
            if let Some(shape) = visitors[step % visitors.len()] {
                owners.insert(bench.submit(shape, Some(shapes.len())), shapes.len());
            }
            let started: Vec<_> = owners
                .keys()
                .filter(|&&id| bench.scheduler.output(id).unwrap().timestamps.first_scheduled.is_none())
                .copied()
                .collect();
            bench.step();
            for id in started {
                let output = bench.scheduler.output(id).unwrap();
                if output.timestamps.first_scheduled.is_some() {
                    let computed = output.prompt_token_ids.len() - output.num_cached_tokens;
                    served[owners[&id]] += u64::from(input_weight) * computed as u64;
                }
            }
            for id in &bench.drawn {
                served[owners[id]] += u64::from(output_weight);
            }
            for id in &bench.ended {
                owners.remove(id);
            }
            for first in 0..shapes.len() {
                for second in 0..first {
                    let gap = served[first].cast_signed() - served[second].cast_signed();
                    let (low, high) = gaps.entry((first, second)).or_default();
                    (*low, *high) = (gap.min(*low), gap.max(*high));
                    prop_assert!(
                        *high - *low <= 2 * bound,
                        "step {step}: tenants {first} and {second}: {low} to {high}, bound {bound}"
                    );
                }
            }
        }
    }

    /// Under fair share a tenant's request starts after a bounded time, however many others keep coming: the others get
    /// at most twice the bound each before it is its turn, and what runs then needs so long at most.
    #[test]
    fn no_tenant_waits_for_ever(
        limits in arbitrary_limits(),
        own in arbitrary_shape(80),
        others in prop::collection::vec(arbitrary_shape(80), 1..8),
        num_others in 1..4_usize,
    ) {
        let policy = Policy::FairShare { input_weight: 1, output_weight: 2 };
        let limits = SchedulerConfig { policy, ..limits };
        let capacity = limits.groups[0].num_blocks as usize * BLOCK_SIZE;
        let mut bench = Bench::new(limits);
        let mut next = others.iter().cycle();
        for tenant in 0..20 {
            bench.submit(*next.next().unwrap(), Some(tenant % num_others));
        }
        for _ in 0..50 {
            bench.step();
            bench.submit(*next.next().unwrap(), Some(0));
        }
        let id = bench.submit(own, Some(99));
        let bound = 2 * 2 * capacity * (num_others + 1) + 20 * 200;
        let mut steps = 0;
        while bench.scheduler.output(id).unwrap().timestamps.first_scheduled.is_none() {
            for tenant in 0..num_others {
                bench.submit(*next.next().unwrap(), Some(tenant));
            }
            bench.step();
            steps += 1;
            prop_assert!(steps <= bound);
        }
    }
}
