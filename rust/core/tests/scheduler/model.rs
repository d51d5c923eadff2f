//! Every policy against a naive twin: plain lists, sorted and recomputed from scratch in every step, no cache, one
//! sequence per request, no tenant ever forgotten. Both must choose the same sequences, the same numbers of tokens, the
//! same victims, step by step.

use inferlib_core::{FinishReason, NewRequest, Policy, Scheduler, SchedulerConfig};
use inferlib_program::{BLOCK_SIZE, RequestId, RowStatus, StepOutput};
use proptest::prelude::*;

use crate::naive_scheduler::{Naive, NaiveRequest};
use crate::pretended_executor::{config, group, params, prompt, request};

#[derive(Clone, Debug)]
enum Operation {
    Submit {
        length: usize,
        max_tokens: u32,
        priority: i32,
        tenant: usize,
        /// Steps from now.
        deadline: Option<u32>,
    },
    Step,
    Discard,
    Cancel {
        which: usize,
        in_flight: bool,
    },
}

fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    let submit = (
        prop_oneof![
            (1..70_usize, 1..40_u32),
            (1..4_usize, 60..95_u32),
            (55..75_usize, 1..4_u32)
        ],
        prop_oneof![3 => Just(0), 1 => -1..3_i32],
        prop_oneof![0..2_usize, 0..5_usize],
        prop::option::weighted(0.3, 0..60_u32),
    );
    prop_oneof![
        3 => submit.prop_map(|((length, max_tokens), priority, tenant, deadline)| Operation::Submit {
            length, max_tokens, priority, tenant, deadline
        }),
        20 => Just(Operation::Step),
        1 => Just(Operation::Discard),
        1 => (0..6_usize, any::<bool>())
            .prop_map(|(which, in_flight)| Operation::Cancel { which, in_flight }),
    ]
}

fn arbitrary_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Fcfs),
        (1..20_u32).prop_map(|steps_per_class| Policy::Priority { steps_per_class }),
        (1..3_u32, 1..5_u32).prop_map(|(input_weight, output_weight)| Policy::FairShare {
            input_weight,
            output_weight
        }),
        (0..40_u32).prop_map(|seconds| Policy::Deadline {
            patience_seconds: f64::from(seconds)
        }),
    ]
}

const TENANTS: [Option<&str>; 5] = [Some("a"), Some("b"), None, Some("c"), Some("")];

struct Pair {
    real: Scheduler,
    naive: Naive,
    arrivals: usize,
    now: u32,
}

impl Pair {
    fn new(limits: SchedulerConfig) -> Self {
        Self {
            real: Scheduler::new(limits.clone()).unwrap(),
            naive: Naive::new(limits),
            arrivals: 0,
            now: 0,
        }
    }

    fn submit(
        &mut self,
        (length, max_tokens): (usize, u32),
        priority: i32,
        tenant: usize,
        deadline: Option<u32>,
    ) {
        let seed = self.arrivals as u64;
        let deadline = deadline.map(|steps| self.now + steps);
        let new = NewRequest {
            priority,
            tenant: TENANTS[tenant].map(str::to_owned),
            deadline: deadline.map(f64::from),
            ..request(prompt(seed, length), params(max_tokens))
        };
        let Ok(id) = self.real.submit(new, f64::from(self.now)) else {
            return;
        };
        let limits = &self.naive.limits;
        let capacity = limits.groups[0].num_blocks as usize * BLOCK_SIZE;
        let room = (limits.max_model_len - length).min(capacity + 1 - length);
        self.naive.submit(NaiveRequest {
            id,
            priority,
            tenant,
            deadline,
            arrived: self.now,
            arrival: self.arrivals,
            arrival_step: self.naive.num_steps,
            num_prompt: length,
            max_tokens: (max_tokens as usize).min(room),
            num_tokens: length,
            computed: 0,
            blocks: 0,
            is_running: false,
            was_started: false,
            num_preemptions: 0,
        });
        self.arrivals += 1;
    }

    /// Whether there was something to do.
    fn step(&mut self, operation: &Operation) -> bool {
        self.now += 1;
        let now = f64::from(self.now);
        let mut late = self.naive.expire(self.now);
        let expected = self.naive.schedule();
        let Some(batch) = self.real.schedule(now) else {
            assert!(expected.is_empty() && self.naive.requests.is_empty());
            late.splice(0..0, std::mem::take(&mut self.naive.told)); // of a step that was discarded
            assert_eq!(self.real.overdue().finished_requests, late);
            self.take_late(&late);
            return !late.is_empty();
        };
        let found: Vec<_> = batch
            .query_start_loc
            .windows(2)
            .map(|rows| {
                let first = usize::try_from(rows[0]).unwrap();
                let start = usize::try_from(batch.positions[first]).unwrap();
                (start, usize::try_from(rows[1] - rows[0]).unwrap())
            })
            .collect();
        assert_eq!(found, expected);
        let rows = batch.num_sampled();
        self.check();
        match operation {
            Operation::Discard => {
                self.real.discard_step();
                self.naive.told.extend(late);
                return true;
            }
            Operation::Cancel { which, .. } => self.cancel(*which),
            _ => {}
        }
        let output = StepOutput {
            mirostat_mu: Vec::new(),
            token_ids: vec![1; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
            captures: Vec::new(),
            logits: Vec::new(),
        };
        let mut expected = self.naive.update();
        late.splice(0..0, std::mem::take(&mut self.naive.told));
        late.extend(self.naive.expire(self.now));
        expected.extend(&late);
        let finished = &self.real.update(&output, now).unwrap().finished_requests;
        assert_eq!(finished, &expected);
        for id in expected.into_iter().filter(|id| !late.contains(id)) {
            self.real.take(id).unwrap();
        }
        self.take_late(&late);
        self.check();
        true
    }

    fn take_late(&mut self, late: &[RequestId]) {
        for &id in late {
            let output = self.real.take(id).unwrap();
            let reason = output.sequences[0].finish_reason;
            assert_eq!(reason, Some(FinishReason::Deadline));
        }
    }

    fn cancel(&mut self, which: usize) {
        if which < self.naive.requests.len() {
            let gone = self.naive.remove(which);
            assert!(self.real.cancel(gone.id, 0.0));
            let output = self.real.take(gone.id).unwrap();
            assert_eq!(output.num_preemptions, gone.num_preemptions);
        }
    }

    fn check(&self) {
        self.real.check_integrity().unwrap();
        let stats = self.real.stats();
        assert_eq!(stats.groups[0].num_free, self.naive.free());
        assert_eq!(stats.num_running_seqs, self.naive.num_running());
        assert_eq!(stats.num_preemptions, self.naive.num_preemptions);
        assert_eq!(
            stats.num_waiting_seqs,
            self.naive.requests.len() - self.naive.num_running()
        );
        for tenant in self.real.tenants().filter(|tenant| tenant.num_seqs > 0) {
            let index = TENANTS
                .iter()
                .position(|name| *name == tenant.tenant.as_deref());
            assert_eq!(tenant.service, self.naive.counters[index.unwrap()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_agrees_with_its_naive_twin(
        num_blocks in 5..24_u32,
        max_num_seqs in 1..8_usize,
        max_num_batched_tokens in 1..48_usize,
        max_chunk in prop::option::of(1..20_usize),
        policy in arbitrary_policy(),
        operations in prop::collection::vec(arbitrary_operation(), 1..300),
    ) {
        let mut pair = Pair::new(SchedulerConfig {
            groups: vec![group(num_blocks)],
            max_num_seqs,
            max_num_batched_tokens,
            max_chunk,
            max_model_len: 100,
            enable_prefix_caching: false,
            policy,
            ..config()
        });
        for operation in operations {
            match operation {
                Operation::Submit { length, max_tokens, priority, tenant, deadline } => {
                    pair.submit((length, max_tokens), priority, tenant, deadline);
                }
                Operation::Cancel { which, in_flight: false } => {
                    pair.cancel(which);
                    pair.check();
                }
                _ => {
                    pair.step(&operation);
                }
            }
        }
        let mut steps = 0;
        while pair.step(&Operation::Step) {
            steps += 1;
            prop_assert!(steps < 20_000, "no end in sight");
        }
        prop_assert_eq!(pair.real.stats().num_finished, pair.arrivals as u64);
    }
}
