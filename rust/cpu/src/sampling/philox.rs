//! The sampler's only source of randomness: Philox4x32-10, a counter-based generator. One call, no state, so that a
//! draw depends on its key and on nothing that happened before it.
//!
//! Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".

const ROUNDS: usize = 10;
/// Round multipliers of the paper.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Key increments: the golden ratio and √3 − 1, as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Encrypt `counter` under `key`.
#[must_use]
pub(super) fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [high_0, low_0] = wide_product(MULTIPLIERS[0], counter[0]);
        let [high_1, low_1] = wide_product(MULTIPLIERS[1], counter[2]);
        counter = [
            high_1 ^ counter[1] ^ key[0],
            low_1,
            high_0 ^ counter[3] ^ key[1],
            low_0,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// One uniform in `[0, 1)` with 53 random bits, keyed by `(seed, sequence_index, position)`.
///
/// The seed is the key; the counter is `[position, sequence_index, 0, 0]`, whose last two words are kept for further
/// streams.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "53 bits fit; the seed is split in halves"
)]
pub(super) fn uniform(seed: u64, sequence_index: u32, position: u32) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    let words = philox4x32_10(
        [position, sequence_index, 0, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
    bits as f64 * UNIT
}

/// Another uniform of the same key.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "53 bits fit; the seed is split in halves"
)]
pub(super) fn second_uniform(seed: u64, sequence_index: u32, position: u32) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    let words = philox4x32_10(
        [position, sequence_index, 1, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
    bits as f64 * UNIT
}

/// High and low word of the 64-bit product.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the product is split in halves"
)]
fn wide_product(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [(product >> 32) as u32, product as u32]
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test values are small"
)]
mod tests {
    use super::{philox4x32_10, uniform};

    /// The vectors that the authors' Random123 publishes for `philox4x32 10`.
    #[test]
    fn the_known_answers_of_the_reference_come_out() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_uniform_is_the_first_53_bits_of_the_block() {
        let expected = (0xe169_c58d_6627_e8d5_u64 >> 11) as f64 / 9_007_199_254_740_992.0;
        assert_eq!(uniform(0, 0, 0).to_bits(), expected.to_bits());
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = uniform(7, 3, 11);
        for other in [
            uniform(8, 3, 11),
            uniform(7 | 1 << 40, 3, 11),
            uniform(7, 4, 11),
            uniform(7, 3, 12),
            uniform(7, 11, 3),
        ] {
            assert_ne!(base.to_bits(), other.to_bits());
        }
    }

    /// 256 equal cells, 65,536 draws each along position, sequence index and seed: chi-square with 255 degrees of
    /// freedom stays below 347 (p = 0.0001).
    #[test]
    fn uniforms_fill_the_unit_interval_evenly_along_each_part_of_the_key() {
        let along: [fn(u32) -> f64; 3] = [
            |i| uniform(1, 0, i),
            |i| uniform(1, i, 0),
            |i| uniform(u64::from(i) << 16, 0, 0),
        ];
        for draw in along {
            let mut cells = [0u32; 256];
            for i in 0..65_536 {
                let value = draw(i);
                assert!((0.0..1.0).contains(&value));
                cells[(value * 256.0) as usize] += 1;
            }
            let chi_square: f64 = cells
                .iter()
                .map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0)
                .sum();
            assert!(chi_square < 347.0, "chi-square {chi_square}");
        }
    }
}
