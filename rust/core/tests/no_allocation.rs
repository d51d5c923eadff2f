//! After warm-up a step allocates nothing: buffers live as long as the scheduler.
#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use inferlib_core::{
    GroupConfig, NewRequest, PrefixHash, RowStatus, SamplingParams, Scheduler, SchedulerConfig,
    StepOutput,
};

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
        scheduler
            .submit(NewRequest::new(prompt, Arc::new(params)), 0.0)
            .unwrap();
    }
}

/// One step with a token for each sequence; how often it allocated.
fn step(scheduler: &mut Scheduler, output: &StepOutput) -> usize {
    let before = NUM_ALLOCATIONS.get();
    assert_eq!(scheduler.schedule(0.0).unwrap().num_sampled(), NUM_SEQS);
    scheduler.update(output, 0.0).unwrap();
    NUM_ALLOCATIONS.get() - before
}

#[test]
fn steps_after_warm_up_allocate_nothing() {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: 1000,
            window: None,
        }],
        max_num_seqs: NUM_SEQS,
        max_num_batched_tokens: 20 * NUM_SEQS,
        max_model_len: 200,
        vocab_size: 100,
        enable_prefix_caching: true,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    })
    .unwrap();
    let output = StepOutput {
        token_ids: vec![7; NUM_SEQS],
        status: vec![RowStatus::Ok; NUM_SEQS],
        logprobs: vec![None; NUM_SEQS],
    };
    let mut warm_up = 0;
    for _ in 0..2 {
        submit(&mut scheduler); // the second time with cached prefixes
        warm_up += (0..100)
            .map(|_| step(&mut scheduler, &output))
            .sum::<usize>();
    }
    assert!(warm_up > 0, "the counter counts");
    assert!(!scheduler.has_work());

    submit(&mut scheduler);
    let admission = step(&mut scheduler, &output);
    let decode: usize = (0..99).map(|_| step(&mut scheduler, &output)).sum();
    assert!(!scheduler.has_work());
    assert_eq!((admission, decode), (0, 0));
}
