//! Every seed and every input that was once a finding: no panic, bounded memory, all of it given back. Time is
//! libFuzzer's to watch.
//!
//! A test binary of its own, and one test in it: all threads of a process share the count of memory.
#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use inferlib_fuzz::memory::allocated;
use inferlib_fuzz::{Random, TARGETS, samples, scratch_folder};

const MUTATIONS: u64 = 60;
/// How often each seed is parsed to see whether anything stays behind, and what may: tables that grow once.
const REPETITIONS: usize = 50;
const MAX_LEFT_BYTES: usize = 2048;

#[test]
fn seeds_are_accepted_or_refused() {
    report_panics();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut folders = BTreeSet::new();
    for target in TARGETS {
        folders.insert(target.name.to_owned());
        target.check(b"");
        let mut files: Vec<_> = fs::read_dir(root.join(target.name))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        let mut num_accepted = 0;
        for path in &files {
            let data = fs::read(path).unwrap();
            assert!(data.len() < 4096, "{}", path.display());
            let accepted = target.accepts(&data);
            num_accepted += usize::from(accepted);
            if samples::seeds()
                .iter()
                .any(|seed| seed.0 == target.name && path.ends_with(seed.1))
            {
                assert!(accepted, "{}", path.display());
            }
            for seed in 0..MUTATIONS {
                target.check(&(target.mutate)(&data, &mut Random::new(seed)));
            }
        }
        assert!(num_accepted > 0, "no seed of {} is accepted", target.name);
        for path in &files {
            let data = fs::read(path).unwrap();
            target.check(&data);
            std::panic::set_hook(Box::new(|_| {})); // what is reported is kept until the test ends
            let before = allocated();
            for _ in 0..REPETITIONS {
                target.check(&data);
            }
            let left = allocated().saturating_sub(before);
            report_panics();
            assert!(
                left <= MAX_LEFT_BYTES,
                "{} leaves {left} bytes behind",
                path.display()
            );
        }
    }
    fs::remove_dir_all(scratch_folder()).unwrap();
    let found: BTreeSet<_> = fs::read_dir(root)
        .unwrap()
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, folders);
}

/// Without backtraces of panics that are caught: they would take more memory than any parser.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
