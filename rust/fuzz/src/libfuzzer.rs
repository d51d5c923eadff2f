//! The entry points of libFuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

use crate::{Random, Target};

/// Define what libFuzzer calls, for a target of [`crate::targets`].
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::libfuzzer::begin(&$crate::targets::$target),
            |data: &[u8]| $crate::libfuzzer::run(&$crate::targets::$target, data)
        );
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::libfuzzer::mutate(&$crate::targets::$target, data, size, max_size, seed)
        });
    };
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Panics that a parser catches itself are none: only those that come out end the process.
pub fn begin(target: &Target) {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = panic.to_string();
        }
    }));
    target.check(b""); // what is made once is made now
}

/// Check one input.
#[expect(clippy::print_stderr, reason = "this is where findings are reported")]
pub fn run(target: &Target, data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.check_in_time(data))) {
        if let Ok(last) = LAST_PANIC.lock() {
            eprintln!("{last}");
        }
        resume_unwind(panic);
    }
}

/// Half of the mutations are libFuzzer's own, the others those of the target.
pub fn mutate(target: &Target, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random::new(u64::from(seed));
    if random.one_in(2) {
        let mutated = (target.mutate)(&data[..size], &mut random);
        if !mutated.is_empty() && mutated.len() <= max_size {
            data[..mutated.len()].copy_from_slice(&mutated);
            return mutated.len();
        }
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
}
