//! Hostile headers and the memory they can make a reader ask for, counted by the allocator itself.
//!
//! A test binary of its own, and one test in it: all threads of a process share the count.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use inferlib_weights::{Weights, WeightsError};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Read, and return the most memory that was in use beyond the file itself.
fn peak(name: &str, bytes: Vec<u8>) -> (usize, Result<Weights, WeightsError>) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = Weights::from_bytes(Path::new(name), bytes);
    (PEAK.load(Relaxed) - before, result)
}

fn gguf_start(tensors: u64, pairs: u64) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(pairs.to_le_bytes());
    file
}

fn gguf_string(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

/// A GGUF file of empty tensors.
fn many_gguf_tensors(count: u64, same_name: bool) -> Vec<u8> {
    let mut file = gguf_start(count, 0);
    for index in 0..count {
        gguf_string(
            &mut file,
            &if same_name {
                String::new()
            } else {
                format!("{index:x}")
            },
        );
        file.extend(1_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

/// One metadata array of `count` elements, of which `present` bytes are there.
fn gguf_array(type_number: u32, count: u64, present: usize) -> Vec<u8> {
    let mut file = gguf_start(0, 1);
    gguf_string(&mut file, "k");
    file.extend(9_u32.to_le_bytes());
    file.extend(type_number.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.resize(file.len() + present, 0);
    file
}

fn safetensors(header: &str) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file
}

fn many_safetensors_tensors(count: usize) -> Vec<u8> {
    let mut header = String::from("{");
    for index in 0..count {
        let comma = if index == 0 { "" } else { "," };
        write!(
            header,
            r#"{comma}"{index:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#
        )
        .unwrap();
    }
    header.push('}');
    safetensors(&header)
}

#[test]
fn a_reader_never_asks_for_more_than_twice_the_file() {
    let million = 1_000_000;
    let zeros = "0,".repeat(million);
    let cases = [
        (
            "a million tensors.gguf",
            many_gguf_tensors(million as u64, false),
            true,
        ),
        (
            "one name a million times.gguf",
            many_gguf_tensors(million as u64, true),
            false,
        ),
        (
            "2^60 tensors.gguf",
            [gguf_start(1 << 60, 0), vec![0; 1 << 20]].concat(),
            false,
        ),
        (
            "2^60 pairs.gguf",
            [gguf_start(0, 1 << 60), vec![0; 1 << 20]].concat(),
            false,
        ),
        (
            "65,536 empty pairs.gguf",
            [gguf_start(0, 65_536), vec![0; 65_536 * 13]].concat(),
            false,
        ),
        ("2^61 numbers.gguf", gguf_array(12, 1 << 61, 1 << 20), false),
        ("2^61 strings.gguf", gguf_array(8, 1 << 61, 1 << 20), false),
        (
            "a million strings.gguf",
            gguf_array(8, million as u64, 8 * million),
            true,
        ),
        (
            "a million numbers.gguf",
            gguf_array(6, million as u64, 4 * million),
            true,
        ),
        (
            "a string of 2^63.gguf",
            {
                let mut file = gguf_start(1, 0);
                file.extend((1_u64 << 63).to_le_bytes());
                file.resize(1 << 20, 0);
                file
            },
            false,
        ),
        (
            "a million tensors.safetensors",
            many_safetensors_tensors(million),
            true,
        ),
        (
            "a million dimensions.safetensors",
            safetensors(&format!(r#"{{"a":{{"dtype":"U8","shape":[{zeros}0]}}}}"#)),
            false,
        ),
        (
            "deep.safetensors",
            safetensors(&format!(r#"{{"a":{}"#, "[".repeat(million))),
            false,
        ),
        (
            "a header of 2^40.safetensors",
            [(1_u64 << 40).to_le_bytes().to_vec(), b"{}".to_vec()].concat(),
            false,
        ),
        (
            "a million metadata.safetensors",
            {
                let pairs: Vec<String> = (0..million).map(|i| format!(r#""{i:x}":"""#)).collect();
                safetensors(&format!(r#"{{"__metadata__":{{{}}}}}"#, pairs.join(",")))
            },
            false,
        ),
    ];
    for (name, bytes, accepted) in cases {
        let len = bytes.len();
        let (peak, result) = peak(name, bytes);
        assert_eq!(result.is_ok(), accepted, "{name}: {:?}", result.err());
        // The constant is for 65,536 metadata pairs, which may be shorter than what holds them.
        let allowed = 2 * len + (8 << 20);
        assert!(
            peak <= allowed,
            "{name}: {len} bytes made the reader ask for {peak}"
        );
    }
}
