//! Many random operations, each checked at once; `make test-long` carries out 10^8 of them.

use crate::lean_driver::Driver;

#[test]
fn whatever_is_done_every_token_is_that_of_its_sequence_alone() {
    let mut operations = 0;
    for seed in 0..40 {
        let mut driver = Driver::new(seed);
        driver.run(1000);
        operations += driver.counts.operations();
    }
    assert!(operations >= 40 * 1000, "{operations}");
}
