//! After warm-up a step allocates nothing: buffers live as long as the scheduler.
#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use inferlib_core::scheduler::BACKGROUND_TOKENS;
use inferlib_core::{
    GroupConfig, NewRequest, Policy, PrefixHash, PromptLookup, Scheduler, SchedulerConfig,
};
use inferlib_program::{RowStatus, SamplingParams, StepOutput};

thread_local! {
    static NUM_ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.set(NUM_ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NUM_SEQS: usize = 32;

fn submit(scheduler: &mut Scheduler) {
    for seed in 0..NUM_SEQS {
        let prompt = vec![i32::try_from(seed).unwrap(); 20];
        let params = SamplingParams {
            max_tokens: 100,
            ..SamplingParams::default()
        };
        let new = NewRequest {
            tenant: Some(["a", "b", "c"][seed % 3].to_owned()),
            priority: i32::try_from(seed % 5).unwrap(),
            deadline: Some(1e3),
            ..NewRequest::new(prompt, Arc::new(params))
        };
        scheduler.submit(new, 0.0).unwrap();
    }
}

/// One step with the token 7 for each row; how often it allocated.
fn step(scheduler: &mut Scheduler, output: &mut StepOutput) -> usize {
    let before = NUM_ALLOCATIONS.get();
    let num_rows = scheduler.schedule(0.0).unwrap().num_sampled();
    output.token_ids.resize(num_rows, 7);
    output.status.resize(num_rows, RowStatus::Ok);
    output.logprobs.resize(num_rows, None);
    scheduler.update(output, 0.0).unwrap();
    NUM_ALLOCATIONS.get() - before
}

/// Steps until nothing is left; how many, and how often they allocated.
fn drain(scheduler: &mut Scheduler, output: &mut StepOutput) -> (usize, usize) {
    let (mut num_steps, mut num_allocations) = (0, 0);
    while scheduler.has_work() {
        num_steps += 1;
        num_allocations += step(scheduler, output);
    }
    (num_steps, num_allocations)
}

fn check(
    policy: Policy,
    speculation: Option<PromptLookup>,
    expected_steps: std::ops::RangeInclusive<usize>,
) {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: 1000,
            window: None,
        }],
        max_num_seqs: NUM_SEQS,
        max_num_batched_tokens: 20 * NUM_SEQS,
        max_model_len: 200,
        vocab_size: 100,
        speculation,
        draft_model: None,
        rows_per_pass: 4 * NUM_SEQS,
        policy,
        enable_prefix_caching: true,
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    })
    .unwrap();
    let mut output = StepOutput {
        mirostat_mu: Vec::new(),
        token_ids: Vec::with_capacity(4 * NUM_SEQS),
        status: Vec::with_capacity(4 * NUM_SEQS),
        logprobs: Vec::with_capacity(4 * NUM_SEQS),
        captures: Vec::new(),
        logits: Vec::new(),
    };
    let mut warm_up = 0;
    for _ in 0..2 {
        submit(&mut scheduler); // the second time with cached prefixes
        warm_up += drain(&mut scheduler, &mut output).1;
    }
    assert!(warm_up > 0, "the counter counts");

    submit(&mut scheduler);
    let admission = step(&mut scheduler, &mut output);
    let (num_steps, decode) = drain(&mut scheduler, &mut output);
    assert_eq!((admission, decode), (0, 0));
    assert!(expected_steps.contains(&num_steps), "{num_steps} steps");
}

#[test]
fn steps_after_warm_up_allocate_nothing_under_any_policy() {
    for name in Policy::NAMES {
        check(Policy::from_name(name).unwrap(), None, 99..=99);
    }
}

#[test]
fn steps_with_drafts_allocate_nothing_after_warm_up_either() {
    check(Policy::Fcfs, Some(PromptLookup::default()), 20..=40);
}
