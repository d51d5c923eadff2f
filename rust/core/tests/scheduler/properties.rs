//! Random operations on a scheduler with a tiny cache, under every policy: whatever is shared, chunked, preempted,
//! interrupted, cancelled, late or hit, every request gets what it would get alone, and the invariants hold after every
//! step.

use proptest::prelude::*;

use crate::random_runs::operations::{arbitrary_config, arbitrary_operation, arbitrary_request};
use crate::random_runs::{Run, run_all};

/// Cases of the long run, which nobody waits for.
const LONG: u32 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_gets_what_it_gets_alone(
        config in arbitrary_config(),
        operations in prop::collection::vec(arbitrary_operation(), 1..80),
    ) {
        run_all(&config, &operations);
    }

    #[test]
    fn the_same_inputs_give_the_same_batches(
        config in arbitrary_config(),
        requests in prop::collection::vec(arbitrary_request(), 1..8),
    ) {
        let batches = || {
            let mut run = Run::new(&config);
            for request in &requests {
                run.submit(request.clone());
            }
            let mut batches = Vec::new();
            while let Some(batch) = run.scheduler.schedule(0.0) {
                batches.push(format!("{batch:?}"));
                let output = run.executor.run(batch);
                run.scheduler.update(&output, 0.0).unwrap();
            }
            batches
        };
        prop_assert_eq!(batches(), batches());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: LONG, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "minutes; `make test-random-runs`"]
    fn whatever_happens_for_long_every_request_gets_what_it_gets_alone(
        config in arbitrary_config(),
        operations in prop::collection::vec(arbitrary_operation(), 1..200),
    ) {
        run_all(&config, &operations);
    }
}
