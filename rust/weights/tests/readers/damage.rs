//! Damaged files, exhaustively and at random: accepted and sound, or a typed error; never a panic.

use proptest::prelude::*;

use inferlib_weights::{Weights, WeightsError};

use crate::safetensors::agrees_with_the_oracle;
use crate::samples::{self, check_integrity, read};

const EXTREMES: [u64; 9] = [
    0,
    1,
    u64::MAX,
    u64::MAX - 1,
    1 << 31,
    (1 << 31) - 1,
    1 << 32,
    1 << 63,
    (1 << 63) - 1,
];

fn sample_gguf() -> Vec<u8> {
    samples::gguf().bytes()
}

fn sample_safetensors() -> Vec<u8> {
    let (header, data) = samples::safetensors_parts();
    samples::safetensors(&header, &data)
}

/// Read; what is accepted must be sound, and an error must say which file it is about.
fn read_damaged(name: &str, bytes: &[u8]) -> Result<Weights, WeightsError> {
    let result = read(name, bytes);
    match &result {
        Ok(weights) => check_integrity(weights),
        Err(error) => assert!(error.to_string().contains(name), "{error}"),
    }
    result
}

#[test]
fn every_truncation_of_a_gguf_file_is_an_error() {
    let file = sample_gguf();
    for len in 0..file.len() {
        let error = read_damaged("m.gguf", &file[..len]).unwrap_err();
        assert!(
            matches!(
                error,
                WeightsError::Truncated { .. }
                    | WeightsError::Malformed { .. }
                    | WeightsError::Empty { .. }
            ),
            "cut to {len}: {error}"
        );
    }
}

#[test]
fn every_truncation_of_a_safetensors_file_is_an_error() {
    let file = sample_safetensors();
    for len in 0..file.len() {
        let error = read_damaged("m.safetensors", &file[..len]).unwrap_err();
        assert!(
            matches!(
                error,
                WeightsError::Truncated { .. } | WeightsError::Empty { .. }
            ),
            "cut to {len}: {error}"
        );
    }
}

#[test]
fn every_flipped_bit_of_a_gguf_file_gives_a_sound_file_or_an_error() {
    let mut file = sample_gguf();
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        let _either = read_damaged("m.gguf", &file);
        file[bit / 8] ^= 1 << (bit % 8);
    }
    read_damaged("m.gguf", &file).unwrap();
}

#[test]
fn every_flipped_bit_of_a_safetensors_file_gives_what_the_oracle_says_or_an_error() {
    let mut file = sample_safetensors();
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(weights) = read_damaged("m.safetensors", &file) {
            agrees_with_the_oracle(&weights, &file);
        }
        file[bit / 8] ^= 1 << (bit % 8);
    }
    read_damaged("m.safetensors", &file).unwrap();
}

#[test]
fn every_integer_of_a_gguf_header_may_be_extreme() {
    let file = sample_gguf();
    let integers = samples::gguf().header().integers;
    assert!(integers.len() > 60);
    for (position, width) in integers {
        let mut changed = file.clone();
        for value in EXTREMES {
            changed[position..position + width].copy_from_slice(&value.to_le_bytes()[..width]);
            let _either = read_damaged("m.gguf", &changed);
        }
    }
}

#[test]
fn every_integer_of_a_safetensors_header_may_be_extreme() {
    let (header, data) = samples::safetensors_parts();
    let digits = |letter: char| letter.is_ascii_digit();
    let mut numbers = 0;
    for (start, _) in header.match_indices(digits) {
        if header[..start].ends_with(digits) {
            continue;
        }
        let len = header[start..].find(|letter| !digits(letter)).unwrap();
        numbers += 1;
        for value in EXTREMES {
            let changed = format!("{}{value}{}", &header[..start], &header[start + len..]);
            let _either = read_damaged("m.safetensors", &samples::safetensors(&changed, &data));
        }
    }
    assert!(numbers > 20);
}

#[test]
fn a_file_that_goes_on_is_an_error() {
    for (name, file) in [
        ("m.gguf", sample_gguf()),
        ("m.safetensors", sample_safetensors()),
    ] {
        for more in [1, 2, 31, 32, 33, 5000] {
            let longer = [file.clone(), vec![0; more]].concat();
            let error = read_damaged(name, &longer).unwrap_err();
            assert!(
                matches!(error, WeightsError::TrailingBytes { .. }),
                "{name} + {more}: {error}"
            );
        }
    }
}

/// Up to four pieces of the file are overwritten, cut out, repeated or replaced by extremes.
fn mutate(mut file: Vec<u8>, steps: &[(usize, usize, u8, u64)]) -> Vec<u8> {
    for &(at, len, kind, value) in steps {
        let start = at % file.len().max(1);
        let end = (start + len % 24).min(file.len());
        let piece = file[start..end].to_vec();
        let replacement = match kind % 5 {
            0 => Vec::new(),
            1 => [piece.clone(), piece].concat(),
            2 => value.to_le_bytes()[..piece.len().min(8)].to_vec(),
            3 => vec![value.to_le_bytes()[0]; piece.len()],
            _ => EXTREMES[usize::from(value.to_le_bytes()[0]) % EXTREMES.len()]
                .to_le_bytes()
                .to_vec(),
        };
        file.splice(start..end, replacement);
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_gguf_file_with_pieces_changed_gives_a_sound_file_or_an_error(
        steps in prop::collection::vec(any::<(usize, usize, u8, u64)>(), 1..4)
    ) {
        let _either = read_damaged("m.gguf", &mutate(sample_gguf(), &steps));
    }

    #[test]
    fn a_safetensors_file_with_pieces_changed_gives_what_the_oracle_says_or_an_error(
        steps in prop::collection::vec(any::<(usize, usize, u8, u64)>(), 1..4)
    ) {
        let file = mutate(sample_safetensors(), &steps);
        if let Ok(weights) = read_damaged("m.safetensors", &file)
            && weights.format() == inferlib_weights::Format::Safetensors
        {
            agrees_with_the_oracle(&weights, &file);
        }
    }

    #[test]
    fn any_bytes_give_a_sound_file_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![&b""[..], b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"]),
        name in prop::sample::select(vec!["m.gguf", "m.safetensors", "m"]),
    ) {
        let _either = read_damaged(name, &[start, &bytes].concat());
    }
}
