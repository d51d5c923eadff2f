//! What is computed once and found again, under salts, evictions and log-probabilities of prompts.

use inferlib_core::{FinishReason, NewRequest, PrefixHash, SchedulerConfig};
use inferlib_program::{LogitsRow, SamplingParams};

use crate::pretended_executor::{
    build, chunks, config, drain, group, oracle, oracle_prompt_logprobs, params, prompt, request,
};

#[test]
fn an_equal_prefix_is_computed_once_but_the_last_token_always() {
    let (mut scheduler, mut executor) = build(config());
    for (length, cached) in [(32, 0), (32, 16), (33, 32), (50, 32), (49, 48)] {
        let id = scheduler
            .submit(request(prompt(1, length), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        assert_eq!(
            scheduler.take(id).unwrap().num_cached_tokens,
            cached,
            "{length} tokens"
        );
    }
}

#[test]
fn equal_prompts_that_arrive_together_are_computed_once_and_others_do_not_wait() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_batched_tokens: 40,
        ..config()
    });
    let shared = |tail| [prompt(1, 60), prompt(tail, 3)].concat();
    for prompt in [shared(2), shared(3), shared(4), prompt(9, 7)] {
        scheduler.submit(request(prompt, params(3)), 0.0).unwrap();
    }
    let salted = NewRequest {
        cache_salt: Some("a".to_owned()),
        ..request(shared(5), params(3))
    };
    scheduler.submit(salted, 0.0).unwrap();
    // The second and third wait for the first's blocks; the fourth and the salted one need not.
    assert_eq!(chunks(&mut scheduler, &mut executor), [40]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [23, 7, 10]);
    // Now 48 tokens are cached, and the tails are computed.
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 38]);
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.stats().num_cached_tokens, 2 * 48);
}

#[test]
fn generated_tokens_are_cached_too() {
    let (mut scheduler, mut executor) = build(config());
    let first = request(prompt(1, 10), params(30));
    let id = scheduler.submit(first.clone(), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    let mut turn = first.prompt;
    turn.extend(&scheduler.take(id).unwrap().sequences[0].token_ids);
    let id = scheduler.submit(request(turn, params(1)), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.take(id).unwrap().num_cached_tokens, 32); // 39 of 40 were computed
}

#[test]
fn salts_separate_even_where_hashes_collide() {
    for bits in [128, 1] {
        let prefix_hash = PrefixHash {
            bits,
            ..PrefixHash::default()
        };
        let (mut scheduler, mut executor) = build(SchedulerConfig {
            prefix_hash,
            ..config()
        });
        let mut cached = |salt: Option<&str>| {
            let new = NewRequest {
                cache_salt: salt.map(str::to_owned),
                ..request(prompt(1, 40), params(1))
            };
            let id = scheduler.submit(new, 0.0).unwrap();
            drain(&mut scheduler, &mut executor);
            scheduler.take(id).unwrap().num_cached_tokens
        };
        let salts = [
            None,
            Some("a"),
            Some("b"),
            Some(""),
            None,
            Some("a"),
            Some("b"),
            Some(""),
        ];
        assert_eq!(salts.map(&mut cached), [0, 0, 0, 0, 32, 32, 32, 32]);
    }
}

#[test]
fn adapters_share_no_prefixes_whatever_the_salt() {
    let (mut scheduler, mut executor) = build(config());
    let mut cached = |adapter: u32, salt: Option<&str>| {
        let new = NewRequest {
            adapter,
            cache_salt: salt.map(str::to_owned),
            ..request(prompt(1, 40), params(1))
        };
        let id = scheduler.submit(new, 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        scheduler.take(id).unwrap().num_cached_tokens
    };
    let new = [
        (0, None),
        (1, None),
        (2, None),
        (1, Some("a")),
        (2, Some("a")),
    ];
    let forged = [(0, Some("\x001")), (0, Some("\x001\0a"))];
    for (adapter, salt) in new.into_iter().chain(forged) {
        assert_eq!(cached(adapter, salt), 0, "{adapter} {salt:?}");
        assert_eq!(cached(adapter, salt), 32, "{adapter} {salt:?}");
    }
}

#[test]
fn prefix_caching_can_be_off() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        enable_prefix_caching: false,
        ..config()
    });
    for _ in 0..2 {
        let id = scheduler
            .submit(request(prompt(1, 40), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        assert_eq!(scheduler.take(id).unwrap().num_cached_tokens, 0);
    }
}

#[test]
fn many_salts_do_not_pile_up_and_those_with_cached_blocks_are_kept() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        groups: vec![group(8)],
        ..config()
    });
    for salt in 0..100 {
        let cached: Vec<usize> = (0..2)
            .map(|_| {
                let new = NewRequest {
                    cache_salt: Some(salt.to_string()),
                    ..request(prompt(1, 20), params(1))
                };
                let id = scheduler.submit(new, 0.0).unwrap();
                drain(&mut scheduler, &mut executor);
                scheduler.take(id).unwrap().num_cached_tokens
            })
            .collect();
        assert_eq!(cached, [0, 16]);
    }
}

#[test]
fn the_least_recently_used_prefix_is_evicted_tail_first() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        groups: vec![group(8)],
        max_model_len: 100,
        ..config()
    });
    let mut cached = |seed, length| {
        let id = scheduler
            .submit(request(prompt(seed, length), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        scheduler.take(id).unwrap().num_cached_tokens
    };
    assert_eq!(cached(1, 65), 0); // 4 full blocks stay, 1 is free without content
    assert_eq!(cached(2, 33), 0); // 2 more stay
    assert_eq!(cached(3, 49), 0); // needs 4: two without content, two of the oldest's tail
    assert_eq!(cached(2, 33), 32);
    assert_eq!(cached(1, 65), 32);
}

#[test]
fn prompt_logprobs_are_computed_even_where_the_prompt_is_cached() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_batched_tokens: 13,
        ..config()
    });
    for (start, cached) in [
        (0, 0),
        (0, 0),
        (40, 32),
        (33, 32),
        (32, 16),
        (59, 48),
        (70, 48),
    ] {
        let params = SamplingParams {
            prompt_logprobs: Some(2),
            prompt_logprobs_start: start,
            ..params(3)
        };
        let new = request(prompt(1, 60), params);
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.num_cached_tokens, cached, "from {start}");
        assert_eq!(output.prompt_logprobs, oracle_prompt_logprobs(&new));
        assert_eq!(output.prompt_logprobs_start, (start as usize).clamp(1, 60));
        assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    }
}

#[test]
fn scoring_a_prompt_needs_no_generated_token() {
    let (mut scheduler, mut executor) = build(config());
    for length in [1, 2, 16, 17] {
        let params = SamplingParams {
            prompt_logprobs: Some(0),
            ..params(0)
        };
        let new = NewRequest {
            n: 2,
            ..request(prompt(1, length), params)
        };
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        let batch = scheduler.schedule(0.0).unwrap();
        assert_eq!(batch.num_sampled(), length - 1);
        assert!(
            batch
                .sampled
                .iter()
                .all(|row| row.kind != LogitsRow::Sample)
        );
        let output = executor.run(batch);
        let events = scheduler.update(&output, 0.0).unwrap();
        assert_eq!(
            (events.token_ids.len(), &*events.finished_requests),
            (0, &[id][..])
        );
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.prompt_logprobs, oracle_prompt_logprobs(&new));
        for sequence in output.sequences {
            assert_eq!(sequence.finish_reason, Some(FinishReason::Length));
        }
    }
}
