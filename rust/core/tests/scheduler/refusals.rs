//! What the scheduler refuses at once, and what it caps: typed errors, and nothing stays behind.

use std::sync::Arc;

use inferlib_core::{
    ConfigError, FinishReason, NewRequest, PromptLimit, Scheduler, SchedulerConfig, SubmitError,
    UpdateError,
};
use inferlib_program::{SamplingParams, StepOutput};

use crate::pretended_executor::{
    VOCAB_SIZE, build, config, drain, group, params, prompt, request, step,
};

#[test]
fn a_request_that_can_never_run_is_refused_and_leaves_nothing() {
    let limits = SchedulerConfig {
        groups: vec![group(64), group(4)],
        max_model_len: 60,
        ..config()
    };
    let (mut scheduler, _) = build(limits);
    let mut refused = |new: NewRequest| scheduler.submit(new, 0.0).unwrap_err();
    let fits = || request(prompt(1, 20), params(1));
    assert_eq!(
        refused(request(vec![], params(1))),
        SubmitError::EmptyPrompt
    );
    let error = refused(request(prompt(1, 60), params(1)));
    let expected = SubmitError::PromptTooLong {
        prompt_tokens: 60,
        limit: 59,
        because: PromptLimit::Context,
    };
    assert_eq!(error, expected);
    assert!(
        error
            .to_string()
            .contains("60 tokens but the context holds 59")
    );
    let token = i32::try_from(VOCAB_SIZE).unwrap();
    assert!(matches!(
        refused(request(vec![1, token], params(1))),
        SubmitError::TokenOutOfRange {
            index: 1,
            token: 24,
            vocab_size: 24
        }
    ));
    assert!(matches!(
        refused(request(vec![-1], params(1))),
        SubmitError::TokenOutOfRange { index: 0, .. }
    ));
    assert!(matches!(
        refused(NewRequest { n: 0, ..fits() }),
        SubmitError::InvalidN { n: 0, .. }
    ));
    let wrong = SamplingParams {
        top_p: 0.0,
        ..params(1)
    };
    let SubmitError::InvalidParams(error) = refused(NewRequest {
        params: Arc::new(wrong),
        ..fits()
    }) else {
        panic!("another error")
    };
    assert_eq!(error.field, "top_p");
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.stats().num_requests, 0);
    scheduler.check_integrity().unwrap();
}

#[test]
fn a_prompt_larger_than_the_smallest_kv_group_is_refused() {
    let limits = SchedulerConfig {
        groups: vec![group(64), group(2)],
        max_model_len: 200,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let error = scheduler
        .submit(request(prompt(1, 33), params(1)), 0.0)
        .unwrap_err();
    let because = PromptLimit::KvCache;
    assert_eq!(
        error,
        SubmitError::PromptTooLong {
            prompt_tokens: 33,
            limit: 32,
            because
        }
    );
    // One of exactly that size runs, and gives the one token whose K and V are never needed.
    let id = scheduler
        .submit(request(prompt(1, 32), params(50)), 0.0)
        .unwrap();
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[0].token_ids.len(), 1);
    assert_eq!(
        output.sequences[0].finish_reason,
        Some(FinishReason::Length)
    );
}

#[test]
fn max_tokens_ends_with_the_context() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_model_len: 50,
        ..config()
    });
    let id = scheduler
        .submit(request(prompt(1, 30), params(1000)), 0.0)
        .unwrap();
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[0].token_ids.len(), 20);
    assert_eq!(
        output.sequences[0].finish_reason,
        Some(FinishReason::Length)
    );
}

#[test]
fn a_full_queue_refuses_until_requests_start() {
    let limits = SchedulerConfig {
        max_waiting: Some(3),
        max_waiting_tokens: Some(50),
        max_num_seqs: 1,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let submit = |scheduler: &mut Scheduler, length| {
        scheduler.submit(request(prompt(1, length), params(2)), 0.0)
    };
    submit(&mut scheduler, 60).unwrap(); // alone, a long one is let in
    let error = submit(&mut scheduler, 1).unwrap_err();
    assert_eq!(
        error,
        SubmitError::Overloaded {
            waiting: 1,
            waiting_tokens: 60
        }
    );
    step(&mut scheduler, &mut executor, 0.0);
    for _ in 0..3 {
        submit(&mut scheduler, 2).unwrap();
    }
    let error = submit(&mut scheduler, 2).unwrap_err();
    assert_eq!(
        error,
        SubmitError::Overloaded {
            waiting: 3,
            waiting_tokens: 6
        }
    );
    let background = NewRequest {
        background: true,
        ..request(prompt(1, 2), params(2))
    };
    for _ in 0..3 {
        scheduler.submit(background.clone(), 0.0).unwrap(); // a queue of their own
    }
    scheduler.submit(background, 0.0).unwrap_err();
    drain(&mut scheduler, &mut executor);
    submit(&mut scheduler, 2).unwrap();
}

#[test]
fn a_result_that_is_not_the_steps_is_refused_and_the_step_stays() {
    let (mut scheduler, mut executor) = build(config());
    let error = scheduler.update(&StepOutput::default(), 0.0).unwrap_err();
    assert_eq!(error, UpdateError::NoStep);
    let params = SamplingParams {
        logprobs: Some(0),
        ..params(2)
    };
    scheduler
        .submit(request(prompt(1, 4), params), 0.0)
        .unwrap();
    let output = executor.run(scheduler.schedule(0.0).unwrap());
    let error = scheduler.update(&StepOutput::default(), 0.0).unwrap_err();
    assert_eq!(
        error,
        UpdateError::Length {
            array: "token_ids",
            expected: 1,
            found: 0
        }
    );
    let without = StepOutput {
        mirostat_mu: Vec::new(),
        logprobs: vec![None],
        ..output.clone()
    };
    let error = scheduler.update(&without, 0.0).unwrap_err();
    assert_eq!(error, UpdateError::MissingLogprobs { row: 0 });
    assert_eq!(scheduler.update(&output, 0.0).unwrap().token_ids.len(), 1);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let error = |config: SchedulerConfig| Scheduler::new(config).unwrap_err();
    assert_eq!(
        error(SchedulerConfig {
            groups: vec![],
            ..config()
        }),
        ConfigError::NoGroups
    );
    assert_eq!(
        error(SchedulerConfig {
            groups: vec![group(1), group(0)],
            ..config()
        }),
        ConfigError::NumBlocks {
            group: 1,
            num_blocks: 0
        }
    );
    for (field, config) in [
        (
            "max_num_seqs",
            SchedulerConfig {
                max_num_seqs: 0,
                ..config()
            },
        ),
        (
            "max_num_batched_tokens",
            SchedulerConfig {
                max_num_batched_tokens: 0,
                ..config()
            },
        ),
        (
            "max_model_len",
            SchedulerConfig {
                max_model_len: 0,
                ..config()
            },
        ),
        (
            "max_chunk",
            SchedulerConfig {
                max_chunk: Some(0),
                ..config()
            },
        ),
    ] {
        assert_eq!(error(config), ConfigError::Limit { field, value: 0 });
    }
}

#[test]
fn capping_a_request_leaves_parameters_alone_that_others_share() {
    let limits = SchedulerConfig {
        max_model_len: 30,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let shared = Arc::new(params(25));
    let lengths = [20, 5].map(|length| {
        let new = NewRequest::new(prompt(1, length), Arc::clone(&shared));
        let id = scheduler.submit(new, 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        scheduler.take(id).unwrap().sequences[0].token_ids.len()
    });
    assert_eq!(lengths, [10, 25]);
    assert_eq!(shared.max_tokens, 25);
}
