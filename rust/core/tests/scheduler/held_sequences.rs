//! Sequences that outlive their requests: what they share, what they cost, and who may change them when.

use std::time::Instant;

use inferlib_core::{
    Continuation, FinishReason, NewRequest, Scheduler, SchedulerConfig, SequenceError, SequenceId,
    SubmitError, WaitReason,
};
use inferlib_program::{BLOCK_SIZE, RequestId};

use crate::pretended_executor::{
    FakeExecutor, config, drain, group, oracle, params, prompt, request, step,
};

struct Engine {
    scheduler: Scheduler,
    executor: FakeExecutor,
}

impl Engine {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            executor: FakeExecutor::new(&config.groups),
            scheduler: Scheduler::new(config).unwrap(),
        }
    }

    fn submit(&mut self, new: NewRequest) -> Result<RequestId, SubmitError> {
        let id = self.scheduler.submit(new, 0.0);
        self.scheduler.check_integrity().unwrap();
        id
    }

    /// A request on a sequence, run to its end; its output's tokens.
    fn run(&mut self, id: SequenceId, more: &[i32], max_tokens: u32, keep: bool) -> Vec<i32> {
        let new = on(&self.scheduler, id, more, max_tokens, keep);
        let request = self.submit(new).unwrap();
        drain(&mut self.scheduler, &mut self.executor);
        let output = self.scheduler.take(request).unwrap();
        output.sequences[0].token_ids.clone()
    }

    fn prefill(&mut self, tokens: &[i32]) -> SequenceId {
        let id = self.scheduler.open_sequence(None);
        self.run(id, tokens, 0, true);
        assert_eq!(self.scheduler.sequence(id).unwrap().tokens(), tokens);
        id
    }

    fn num_scheduled(&self) -> u64 {
        self.scheduler.stats().num_scheduled_tokens
    }
}

/// A request that goes on from a sequence with `more` tokens.
fn on(
    scheduler: &Scheduler,
    id: SequenceId,
    more: &[i32],
    max_tokens: u32,
    keep: bool,
) -> NewRequest {
    let tokens = scheduler.sequence(id).unwrap().tokens();
    let mut params = params(max_tokens);
    if max_tokens == 0 {
        params.prompt_logprobs = Some(0);
        params.prompt_logprobs_start = u32::MAX;
    }
    NewRequest {
        continues: Some(Continuation { sequence: id, keep }),
        ..request([tokens, more].concat(), params)
    }
}

/// What a fresh request without any cache gives.
fn alone(tokens: &[i32], max_tokens: u32) -> Vec<i32> {
    let new = request(tokens.to_vec(), params(max_tokens));
    oracle(&new, &config())[0].token_ids.clone()
}

fn uncached() -> SchedulerConfig {
    SchedulerConfig {
        enable_prefix_caching: false,
        ..config()
    }
}

#[test]
fn a_sequence_goes_on_where_it_stopped_and_computes_nothing_twice() {
    let mut engine = Engine::new(uncached());
    let text = prompt(1, 37);
    let id = engine.prefill(&text);
    assert_eq!(engine.num_scheduled(), 37);
    let said = engine.run(id, &[], 9, true);
    assert_eq!(said, alone(&text, 9));
    // The last token of the prompt gives the first draw; eight further rows.
    assert_eq!(engine.num_scheduled(), 37 + 9);
    let whole = [text.as_slice(), &said].concat();
    let held = engine.scheduler.sequence(id).unwrap();
    assert_eq!(
        (held.tokens(), held.num_computed_tokens()),
        (whole.as_slice(), 45)
    );
    assert_eq!(
        engine.run(id, &[3, 4], 5, false),
        alone(&[&whole[..], &[3, 4]].concat(), 5)
    );
    assert_eq!(engine.scheduler.sequence(id).unwrap().tokens(), whole);
}

#[test]
fn of_what_is_held_and_what_is_cached_the_longer_is_taken() {
    let mut engine = Engine::new(config());
    let scheduled = |engine: &mut Engine, id, more: &[i32]| {
        let before = engine.num_scheduled();
        engine.run(id, more, 1, false);
        engine.num_scheduled() - before
    };
    let text = prompt(1, 80);
    // Shorter than a block, so that nothing of it is cached.
    let short = engine.prefill(&text[..10]);
    assert_eq!(scheduled(&mut engine, short, &[5]), 1);
    let other = prompt(2, 80);
    let id = engine.prefill(&other[..20]);
    let request = request(other.clone(), params(1));
    engine.submit(request).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    // Five blocks are cached, one and a part of another held.
    assert_eq!(
        scheduled(&mut engine, id, &[&other[20..], &[5]].concat()),
        1
    );
}

#[test]
fn what_is_shared_needs_no_room() {
    // Four blocks are held; going on takes two more, and nobody loses anything for them.
    let mut engine = Engine::new(SchedulerConfig {
        groups: vec![group(6)],
        ..uncached()
    });
    let text = prompt(1, 4 * BLOCK_SIZE);
    let id = engine.prefill(&text);
    let before = engine.num_scheduled();
    let more = prompt(2, BLOCK_SIZE + 1);
    assert_eq!(
        engine.run(id, &more, 1, false),
        alone(&[text, more.clone()].concat(), 1)
    );
    assert_eq!(engine.num_scheduled() - before, more.len() as u64);
    assert_eq!(engine.scheduler.stats().num_evictions, 0);
}

#[test]
fn a_sibling_waits_while_it_would_take_the_block_that_others_need_next() {
    for (num_blocks, expected) in [(4, 1), (5, 2)] {
        let mut engine = Engine::new(SchedulerConfig {
            groups: vec![group(num_blocks)],
            ..uncached()
        });
        // Three blocks, of which siblings share two.
        let two = NewRequest {
            n: 2,
            ..request(prompt(1, 40), params(6))
        };
        engine.submit(two).unwrap();
        for _ in 0..3 {
            step(&mut engine.scheduler, &mut engine.executor, 0.0);
        }
        let stats = engine.scheduler.stats();
        assert_eq!(stats.num_running_seqs, expected, "{num_blocks} blocks");
        drain(&mut engine.scheduler, &mut engine.executor);
        assert_eq!(engine.scheduler.stats().num_preemptions, 0);
    }
}

#[test]
fn forks_share_all_blocks_and_only_a_partial_one_is_copied_once_somebody_writes() {
    let mut engine = Engine::new(uncached());
    let text = prompt(1, 40);
    let id = engine.prefill(&text);
    let used = |engine: &Engine| engine.scheduler.stats().groups[0].num_used;
    assert_eq!((used(&engine), engine.executor.num_copies), (3, 0));
    let forks: Vec<_> = (0..10)
        .map(|_| engine.scheduler.fork_sequence(id).unwrap())
        .collect();
    engine.scheduler.check_integrity().unwrap();
    assert_eq!((used(&engine), engine.executor.num_copies), (3, 0));
    for (fork, token) in forks.iter().zip(0..) {
        let expected = alone(&[&text[..], &[token]].concat(), 6);
        assert_eq!(engine.run(*fork, &[token], 6, true), expected);
    }
    // Two shared blocks, the origin's partial one, and one of each fork: 40 + 1 + 6 tokens are three blocks.
    assert_eq!((used(&engine), engine.executor.num_copies), (3 + 10, 10));
    for fork in forks {
        assert!(engine.scheduler.close_sequence(fork));
    }
    assert_eq!(engine.run(id, &[], 6, false), alone(&text, 6));
    assert_eq!(used(&engine), 3);
}

#[test]
fn a_rewound_sequence_gives_what_a_fresh_one_gives() {
    for caching in [false, true] {
        let mut engine = Engine::new(SchedulerConfig {
            enable_prefix_caching: caching,
            ..config()
        });
        let text = prompt(2, 50);
        let id = engine.prefill(&text);
        for kept in [49, 33, 32, 17, 16, 1] {
            let length = engine.scheduler.sequence(id).unwrap().tokens().len();
            engine.scheduler.rewind_sequence(id, length - kept).unwrap();
            engine.scheduler.check_integrity().unwrap();
            let other = prompt(3, 20);
            let expected = alone(&[&text[..kept], &other].concat(), 4);
            assert_eq!(engine.run(id, &other, 4, true), expected, "{kept}");
        }
        let length = engine.scheduler.sequence(id).unwrap().tokens().len();
        engine.scheduler.rewind_sequence(id, length).unwrap();
        engine.run(id, &text, 0, true);
        assert_eq!(engine.run(id, &[], 4, false), alone(&text, 4));
        let wanted = engine.scheduler.rewind_sequence(id, 51);
        let num_tokens = 50;
        assert_eq!(
            wanted,
            Err(SequenceError::TooShort {
                num_tokens,
                wanted: 51
            })
        );
    }
}

#[test]
fn a_request_that_is_cancelled_leaves_the_sequence_as_it_was() {
    let mut engine = Engine::new(uncached());
    let text = prompt(1, 20);
    let id = engine.prefill(&text);
    let new = on(&engine.scheduler, id, &[1, 2], 30, true);
    let request = engine.submit(new).unwrap();
    for _ in 0..5 {
        step(&mut engine.scheduler, &mut engine.executor, 0.0);
    }
    assert!(engine.scheduler.cancel(request, 0.0));
    engine.scheduler.check_integrity().unwrap();
    let held = engine.scheduler.sequence(id).unwrap();
    assert_eq!(
        (held.tokens(), held.num_computed_tokens()),
        (text.as_slice(), 20)
    );
    assert!(!held.is_busy());
    assert_eq!(engine.run(id, &[], 5, true), alone(&text, 5));
}

#[test]
fn what_comes_behind_a_stop_string_is_not_the_sequences() {
    let mut engine = Engine::new(uncached());
    let text = prompt(1, 20);
    let id = engine.prefill(&text);
    let new = on(&engine.scheduler, id, &[], 4, true);
    let request = engine.submit(new).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    // It ended with its fourth token, but its text ends with the second.
    engine
        .scheduler
        .finish(request, 0, FinishReason::Stop, Some(2), 0.0);
    engine.scheduler.check_integrity().unwrap();
    let expected = [&text[..], &alone(&text, 4)[..2]].concat();
    assert_eq!(engine.scheduler.sequence(id).unwrap().tokens(), expected);
    assert_eq!(engine.run(id, &[], 3, true), alone(&expected, 3));
}

#[test]
fn one_request_at_a_time_changes_a_sequence() {
    let mut engine = Engine::new(config());
    let id = engine.prefill(&prompt(1, 20));
    let writer = on(&engine.scheduler, id, &[], 4, true);
    engine.submit(writer.clone()).unwrap();
    let busy = Err(SubmitError::Sequence(SequenceError::Busy));
    assert_eq!(engine.submit(writer.clone()), busy);
    assert_eq!(
        engine.scheduler.rewind_sequence(id, 1),
        Err(SequenceError::Busy)
    );
    let reader = on(&engine.scheduler, id, &[5], 4, false);
    engine.submit(reader).unwrap();
    engine.scheduler.fork_sequence(id).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    // Its tokens are others by now.
    let changed = Err(SubmitError::Sequence(SequenceError::Changed));
    assert_eq!(engine.submit(writer.clone()), changed);
    let several = NewRequest {
        n: 2,
        ..on(&engine.scheduler, id, &[], 4, true)
    };
    let refused = SequenceError::SeveralSequences { n: 2 };
    assert_eq!(engine.submit(several), Err(SubmitError::Sequence(refused)));
    engine.scheduler.close_sequence(id);
    let closed = Err(SubmitError::Sequence(SequenceError::Closed));
    assert_eq!(engine.submit(writer), closed);
    assert_eq!(
        engine.scheduler.fork_sequence(id),
        Err(SequenceError::Closed)
    );
}

#[test]
fn a_request_that_waits_while_its_sequence_changes_uses_only_what_is_still_its_own() {
    let mut engine = Engine::new(SchedulerConfig {
        max_num_seqs: 1,
        ..uncached()
    });
    let text = prompt(1, 50);
    let id = engine.prefill(&text);
    let reader = NewRequest {
        priority: 1,
        ..on(&engine.scheduler, id, &[1, 2], 5, false)
    };
    let reader = engine.submit(reader).unwrap();
    engine.scheduler.rewind_sequence(id, 20).unwrap();
    let writer = on(&engine.scheduler, id, &prompt(9, 30), 2, true);
    engine.submit(writer).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    let output = engine.scheduler.take(reader).unwrap();
    let expected = alone(&[&text[..], &[1, 2]].concat(), 5);
    assert_eq!(output.sequences[0].token_ids, expected);
    assert_eq!(output.num_cached_tokens, 30);
}

#[test]
fn a_sequence_may_be_closed_while_its_request_runs() {
    let mut engine = Engine::new(uncached());
    let text = prompt(1, 20);
    let id = engine.prefill(&text);
    let new = on(&engine.scheduler, id, &[], 4, true);
    let request = engine.submit(new).unwrap();
    step(&mut engine.scheduler, &mut engine.executor, 0.0);
    assert!(engine.scheduler.close_sequence(id));
    drain(&mut engine.scheduler, &mut engine.executor);
    let output = engine.scheduler.take(request).unwrap();
    assert_eq!(output.sequences[0].token_ids, alone(&text, 4));
    assert_eq!(engine.scheduler.stats().groups[0].num_used, 0);
}

#[test]
fn whoever_runs_takes_the_blocks_of_the_sequence_that_was_not_used_for_longest() {
    for keep in [false, true] {
        takes_the_blocks_of_what_was_not_used_for_longest(keep);
    }
}

/// `keep`: the sequence that was used last goes on by what was generated.
fn takes_the_blocks_of_what_was_not_used_for_longest(keep: bool) {
    let mut engine = Engine::new(SchedulerConfig {
        groups: vec![group(8)],
        ..uncached()
    });
    let mut texts: Vec<_> = (0..3).map(|seed| prompt(seed, 32)).collect();
    let ids: Vec<_> = texts.iter().map(|text| engine.prefill(text)).collect();
    let generated = engine.run(ids[0], &[], 2, keep);
    assert_eq!(generated, alone(&texts[0], 2));
    if keep {
        texts[0].extend(generated);
    }
    // 6 or 7 blocks are held; this request takes 5, so two sequences go, and not the first.
    let long = request(prompt(9, 70), params(4));
    let expected = alone(&long.prompt, 4);
    let request = engine.submit(long).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    assert_eq!(
        engine.scheduler.take(request).unwrap().sequences[0].token_ids,
        expected
    );
    let computed = ids.iter().map(|&id| {
        let held = engine.scheduler.sequence(id).unwrap();
        held.num_computed_tokens()
    });
    assert_eq!(computed.collect::<Vec<_>>(), [32 + usize::from(keep), 0, 0]);
    assert_eq!(engine.scheduler.stats().num_evictions, 2);
    for (id, text) in ids.iter().zip(&texts) {
        assert_eq!(
            engine.run(*id, &[7], 3, true),
            alone(&[&text[..], &[7]].concat(), 3)
        );
    }
}

#[test]
fn a_sequence_that_fills_the_cache_alone_can_still_be_used() {
    let config = SchedulerConfig {
        groups: vec![group(4)],
        ..uncached()
    };
    let mut engine = Engine::new(config);
    let text = prompt(1, 60);
    let id = engine.prefill(&text);
    let fork = engine.scheduler.fork_sequence(id).unwrap();
    assert_eq!(engine.run(id, &[], 4, true), alone(&text, 4));
    assert_eq!(engine.run(fork, &[], 4, true), alone(&text, 4));
    assert_eq!(engine.run(id, &[], 1, true).len(), 1);
}

#[test]
fn restored_blocks_and_what_follows_them_are_never_published() {
    let mut engine = Engine::new(config());
    let text = prompt(4, 50);
    let id = engine.scheduler.open_sequence(None);
    assert_eq!(
        engine.scheduler.restore_sequence(id, text.clone(), 50),
        Ok(true)
    );
    let held = engine.scheduler.sequence(id).unwrap();
    engine
        .executor
        .write(&text, |group| held.table(group).to_vec());
    let fork = engine.scheduler.fork_sequence(id).unwrap();
    assert_eq!(engine.run(id, &[], 20, true), alone(&text, 20));
    let several = NewRequest {
        n: 3,
        ..on(&engine.scheduler, fork, &[], 20, false)
    };
    engine.submit(several).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    assert_eq!(engine.num_scheduled(), 20 + 3 * 20);
    assert_eq!(engine.scheduler.stats().groups[0].num_cached, 0);
    let other = engine.submit(request(text.clone(), params(3))).unwrap();
    drain(&mut engine.scheduler, &mut engine.executor);
    let output = engine.scheduler.take(other).unwrap();
    assert_eq!(output.num_cached_tokens, 0);
    assert_eq!(output.sequences[0].token_ids, alone(&text, 3));
}

#[test]
fn without_room_a_restored_sequence_is_computed_when_it_is_used() {
    let mut engine = Engine::new(SchedulerConfig {
        groups: vec![group(4)],
        ..uncached()
    });
    let text = prompt(4, 50);
    let running = request(prompt(5, 30), params(20));
    engine.submit(running).unwrap();
    step(&mut engine.scheduler, &mut engine.executor, 0.0);
    let id = engine.scheduler.open_sequence(None);
    assert_eq!(
        engine.scheduler.restore_sequence(id, text.clone(), 50),
        Ok(false)
    );
    engine.scheduler.check_integrity().unwrap();
    assert_eq!(engine.run(id, &[], 5, true), alone(&text, 5));
}

#[test]
fn a_sequence_does_not_go_on_with_an_adapter() {
    let mut engine = Engine::new(uncached());
    let id = engine.prefill(&prompt(1, 20));
    let adapted = NewRequest {
        adapter: 1,
        ..on(&engine.scheduler, id, &[7], 2, true)
    };
    assert_eq!(engine.submit(adapted), Err(SubmitError::AdaptedSequence));
    engine.run(id, &[7], 2, true); // and it is not held for the one refused
}

#[test]
fn sequences_of_unequal_salts_share_nothing() {
    let mut engine = Engine::new(config());
    let text = prompt(4, 40);
    let first = engine.scheduler.open_sequence(Some("a".to_owned()));
    engine.run(first, &text, 0, true);
    let before = engine.num_scheduled();
    let second = engine.scheduler.open_sequence(Some("b".to_owned()));
    engine.run(second, &text, 0, true);
    assert_eq!(engine.num_scheduled() - before, 40);
    let third = engine.scheduler.open_sequence(Some("a".to_owned()));
    engine.run(third, &text, 0, true);
    assert_eq!(engine.num_scheduled() - before, 40 + 8);
}

#[test]
fn why_a_request_waits_is_told() {
    let mut engine = Engine::new(SchedulerConfig {
        groups: vec![group(4)],
        ..uncached()
    });
    let first = engine.submit(request(prompt(1, 40), params(9))).unwrap();
    let second = engine.submit(request(prompt(2, 40), params(1))).unwrap();
    let third = engine.submit(request(prompt(3, 10), params(1))).unwrap();
    assert_eq!(engine.scheduler.why_waiting(first).unwrap().reason, None);
    step(&mut engine.scheduler, &mut engine.executor, 0.0);
    assert_eq!(engine.scheduler.why_waiting(first), None);
    let waiting = engine.scheduler.why_waiting(second).unwrap();
    assert_eq!(waiting.reason, Some(WaitReason::Blocks));
    assert_eq!((waiting.num_needed_blocks, waiting.num_free_blocks), (3, 1));
    assert_eq!((waiting.num_ahead, waiting.is_preempted), (0, false));
    assert_eq!(engine.scheduler.why_waiting(third).unwrap().num_ahead, 1);
    drain(&mut engine.scheduler, &mut engine.executor);
    let run = engine.scheduler.take(second).unwrap().run;
    assert_eq!(run.waited_for, [9, 0, 0, 0, 0]);
    assert_eq!(
        (run.num_steps, run.num_prefill_steps, run.num_prefill_tokens),
        (1, 1, 40)
    );
    assert_eq!(engine.scheduler.why_waiting(first), None);
}

#[test]
#[ignore = "a measurement: run it in release with --nocapture"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn how_long_a_fork_takes() {
    const COUNT: u32 = 10_000;
    let mut engine = Engine::new(SchedulerConfig {
        groups: vec![group(200)],
        max_model_len: 4096,
        max_num_batched_tokens: 2048,
        ..config()
    });
    let id = engine.prefill(&prompt(1, 2000));
    assert_eq!(
        engine.scheduler.sequence(id).unwrap().table(0).len(),
        2000 / BLOCK_SIZE
    );
    let start = Instant::now();
    for _ in 0..COUNT {
        engine.scheduler.fork_sequence(id).unwrap();
    }
    let each = start.elapsed() / COUNT;
    println!("a fork of 2,000 tokens takes {each:?}");
}

#[test]
fn a_fork_is_its_tenants_as_what_it_was_forked_from() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    let id = scheduler.open_sequence(Some("tenant".into()));
    let fork = scheduler.fork_sequence(id).unwrap();
    assert_eq!(scheduler.sequence(fork).unwrap().salt(), Some("tenant"));
}
