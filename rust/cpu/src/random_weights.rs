//! Random tensors of every type, for tests and measurements: no file is needed to run a kernel at any shape.

use inferlib_weights::Dtype;

/// A small generator: results must not depend on a crate's stream.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// In `-1 .. 1`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "test data"
    )]
    pub(crate) fn float(&mut self) -> f32 {
        ((self.next() >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0) as f32
    }
}

/// Random bytes of a type, with scales that are finite and of ordinary size.
pub(crate) fn tensor_bytes(dtype: Dtype, elements: usize, random: &mut Random) -> Vec<u8> {
    let block = dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..elements / dtype.block_size() * block)
        .map(|_| random.byte())
        .collect();
    let half = |random: &mut Random| {
        (0x2c00_u16 | (u16::from_le_bytes([random.byte(), random.byte()]) & 0x83ff)).to_le_bytes()
    };
    for chunk in bytes.chunks_exact_mut(block) {
        let halves: &[usize] = match dtype {
            Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 | Dtype::Iq4Nl | Dtype::Iq4Xs | Dtype::F16 => {
                &[0]
            }
            Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[0, 2],
            Dtype::Q6K => &[208],
            Dtype::Q2K => &[80, 82],
            Dtype::Q3K => &[108],
            _ => &[],
        };
        for &at in halves {
            chunk[at..at + 2].copy_from_slice(&half(random));
        }
        match dtype {
            Dtype::F32 => chunk.copy_from_slice(&random.float().to_le_bytes()),
            Dtype::BF16 => {
                chunk.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes());
            }
            Dtype::Mxfp4 => chunk[0] = 120 + random.byte() % 8,
            // No infinity, no NaN.
            Dtype::F8E4M3 | Dtype::F8E5M2 => chunk[0] &= 0xbb,
            _ => {}
        }
    }
    bytes
}

/// Random `Q8_0` whose rows of `width` columns have one scale each.
pub(crate) fn bytes_of_row_scales(rows: usize, width: usize, random: &mut Random) -> Vec<u8> {
    const SCALE: usize = 2;
    let dtype = Dtype::Q8_0;
    let mut bytes = tensor_bytes(dtype, rows * width, random);
    for row in bytes.chunks_exact_mut(width / dtype.block_size() * dtype.block_bytes()) {
        let (first, others) = row.split_at_mut(dtype.block_bytes());
        for block in others.chunks_exact_mut(dtype.block_bytes()) {
            block[..SCALE].copy_from_slice(&first[..SCALE]);
        }
    }
    bytes
}
