//! XXH64: a fast 64-bit hash against accidents, not against attackers. Some 12 GB/s on one core.
//!
//! Source: the specification of xxHash, `doc/xxhash_spec.md`, section "XXH64 algorithm".
const PRIME_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME_5: u64 = 0x27d4_eb2f_1656_67c5;

/// The hash of `data`.
#[must_use]
pub fn xxh64(data: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = data.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(PRIME_5)
    } else {
        let mut lanes = [
            seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
            seed.wrapping_add(PRIME_2),
            seed,
            seed.wrapping_sub(PRIME_1),
        ];
        for stripe in stripes {
            let (words, _) = stripe.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.into_iter().fold(sum, |hash, lane| {
            (hash ^ round(0, lane))
                .wrapping_mul(PRIME_1)
                .wrapping_add(PRIME_4)
        })
    };
    hash = hash.wrapping_add(data.len() as u64);
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash = (hash ^ round(0, u64::from_le_bytes(*word)))
            .rotate_left(27)
            .wrapping_mul(PRIME_1)
            .wrapping_add(PRIME_4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        let half = u64::from(u32::from_le_bytes(*half));
        hash = (hash ^ half.wrapping_mul(PRIME_1))
            .rotate_left(23)
            .wrapping_mul(PRIME_2)
            .wrapping_add(PRIME_3);
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte).wrapping_mul(PRIME_5))
            .rotate_left(11)
            .wrapping_mul(PRIME_1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 32)
}

/// The hash of a list of hashes: how the hash of something long is made of those of its pieces, on any thread.
#[must_use]
pub fn xxh64_of_hashes(hashes: &[u64], seed: u64) -> u64 {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    xxh64(&bytes, seed)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME_2))
        .rotate_left(31)
        .wrapping_mul(PRIME_1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The buffer and the values of xxHash's own `cli/xsum_sanity_check.c`.
    fn sanity_buffer(len: usize) -> Vec<u8> {
        let mut generator = 2_654_435_761_u64;
        (0..len)
            .map(|_| {
                let byte = generator.to_le_bytes()[7];
                generator = generator.wrapping_mul(11_400_714_785_074_694_797);
                byte
            })
            .collect()
    }

    #[test]
    fn it_gives_the_values_of_the_reference_implementation() {
        const SEED: u64 = 0x9e37_79b1;
        for (len, seed, expected) in [
            (0, 0, 0xef46_db37_51d8_e999),
            (0, SEED, 0xac75_fda2_929b_17ef),
            (1, 0, 0xe934_a84a_db05_2768),
            (1, SEED, 0x5014_6076_43a9_b4c3),
            (4, 0, 0x9136_a0dc_a574_57ee),
            (14, 0, 0x8282_dcc4_994e_35c8),
            (14, SEED, 0xc3bd_6bf6_3deb_6df0),
            (222, 0, 0xb641_ae8c_b691_c174),
            (222, SEED, 0x20cb_8ab7_ae10_c14a),
        ] {
            assert_eq!(
                xxh64(&sanity_buffer(len), seed),
                expected,
                "{len} bytes, seed {seed:x}"
            );
        }
        assert_eq!(xxh64(b"abc", 0), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn every_bit_of_every_position_matters() {
        for len in [1, 7, 8, 31, 32, 33, 63, 64, 65, 100] {
            let mut data = sanity_buffer(len);
            let hash = xxh64(&data, 0);
            for bit in 0..8 * len {
                data[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(xxh64(&data, 0), hash, "{len} bytes, bit {bit}");
                data[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
