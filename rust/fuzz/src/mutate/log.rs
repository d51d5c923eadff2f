//! Decision logs: records are changed and get a checksum that is right, or nothing behind it would ever be read.

use super::{EXTREMES, few};
use crate::Random;

/// Magic number and version.
const HEAD: usize = 9;

/// Change records.
#[must_use]
pub fn mutate(data: &[u8], random: &mut Random) -> Vec<u8> {
    let head = &data[..data.len().min(HEAD)];
    let mut records = records(&data[head.len()..]);
    for _ in 0..few(random) {
        change(&mut records, random);
    }
    let mut log = head.to_vec();
    for record in records {
        write_number(record.len() as u64, &mut log);
        log.extend(&record);
        log.extend(checksum(&record).to_le_bytes());
    }
    log
}

fn change(records: &mut Vec<Vec<u8>>, random: &mut Random) {
    if records.is_empty() {
        records.push(Vec::new());
    }
    let at = random.below(records.len());
    let other = random.below(records.len());
    match random.below(8) {
        0 => drop(records.remove(at)),
        1 => records.insert(at, records[other].clone()),
        2 => records.swap(at, other),
        3 => {
            let mut number = Vec::new();
            write_number(*random.pick(&EXTREMES), &mut number);
            let record = &mut records[at];
            let place = random.part(record.len());
            record.splice(place, number);
        }
        4 => {
            let place = random.part(records[at].len());
            records[at].drain(place);
        }
        5 => {
            let piece = records[other][random.part(records[other].len())].to_vec();
            let place = random.part(records[at].len());
            records[at].splice(place, piece);
        }
        _ => {
            let record = &mut records[at];
            if !record.is_empty() {
                let place = random.below(record.len());
                record[place] = random.number().to_le_bytes()[0] & *random.pick(&[0xff, 0x7f, 3]);
            }
        }
    }
}

/// What frames hold, right or wrong, as far as there are any.
fn records(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((record, behind)) = frame(rest) {
        found.push(record.to_vec());
        rest = behind;
    }
    found
}

fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    let mut rest = bytes;
    for shift in [0, 7, 14] {
        let (&byte, behind) = rest.split_first()?;
        rest = behind;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let (record, behind) = rest.split_at_checked(length)?;
            return Some((record, behind.get(4..)?));
        }
    }
    None
}

fn write_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// As `rust/core/src/decision_log/codec.rs` has it: a part of the format, and so written down twice.
fn checksum(record: &[u8]) -> u32 {
    let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
    let mut add = |value: u64| {
        let wide = u128::from(sum ^ value) * 0xa076_1d64_78bd_642f;
        let (low, high) = (wide & u128::from(u64::MAX), wide >> 64);
        sum = u64::try_from(low ^ high).unwrap_or_default();
        sum = sum.wrapping_add(value.rotate_left(29));
    };
    add(record.len() as u64);
    for piece in record.chunks(8) {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        add(u64::from_le_bytes(word));
    }
    let folded = (sum ^ sum >> 32) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or_default()
}
