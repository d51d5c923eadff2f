//! A packed weight matrix: segments of panels, each in the layout of its own tensor type.

use crate::activations::{Need, zero_slot};
use crate::executor::Precision;
use crate::formats::{BLOCK_COLS, Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::simd::LANES;

/// How a segment's panels are laid out (`formats.rs`), or the element of a float panel `[K][16]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the tensor types' names")]
pub enum Packing {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    F32,
    F16,
    Bf16,
}

impl Packing {
    /// Bytes of a panel with `width` columns.
    pub(crate) fn panel_bytes(self, width: usize) -> usize {
        fn of<W: Format>(width: usize) -> usize {
            width / BLOCK_COLS / W::BLOCKS * W::BYTES
        }
        match self {
            Self::Q4_0 => of::<Q4_0>(width),
            Self::Q4_1 => of::<Q4_1>(width),
            Self::Q5_0 => of::<Q5_0>(width),
            Self::Q5_1 => of::<Q5_1>(width),
            Self::Q8_0 => of::<Q8_0>(width),
            Self::Q4K => of::<Q4K>(width),
            Self::Q5K => of::<Q5K>(width),
            Self::Q6K => of::<Q6K>(width),
            Self::F32 => width * LANES * 4,
            Self::F16 | Self::Bf16 => width * LANES * 2,
        }
    }

    /// Whether its weights are floats.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// What it needs of its input.
    pub(crate) fn need(self, precision: Precision) -> Need {
        fn of<W: Format>(two_planes: bool) -> Need {
            Need {
                float: false,
                int8: true,
                two_planes,
                zeros: zero_slot(W::ZERO).map_or(0, |slot| 1 << slot),
                scaled_sum: W::HAS_MIN,
            }
        }
        if precision == Precision::Exact || self.is_float() {
            return Need {
                float: true,
                ..Need::default()
            };
        }
        let two = precision == Precision::Balanced;
        match self {
            Self::Q4_0 => of::<Q4_0>(two),
            Self::Q4_1 => of::<Q4_1>(two),
            Self::Q5_0 => of::<Q5_0>(two),
            Self::Q5_1 => of::<Q5_1>(two),
            Self::Q8_0 => of::<Q8_0>(two),
            Self::Q4K => of::<Q4K>(two),
            Self::Q5K => of::<Q5K>(two),
            Self::Q6K | Self::F32 | Self::F16 | Self::Bf16 => of::<Q6K>(two),
        }
    }
}

/// Consecutive output rows that share a layout.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) packing: Packing,
    /// First output row.
    pub(crate) first_row: usize,
    /// Output rows; the last panel is padded with zeros.
    pub(crate) rows: usize,
    /// Its panels, in the arena.
    pub(crate) data: *mut u8,
    /// Bytes per panel.
    pub(crate) panel_bytes: usize,
}

// SAFETY: read-only after loading.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    pub(crate) fn num_panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The bytes of one panel.
    pub(crate) fn panel(&self, panel: usize) -> *mut u8 {
        self.data.wrapping_add(panel * self.panel_bytes)
    }
}

/// `[out_features, in_features]`, packed.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) segments: Vec<Segment>,
}

impl Matrix {
    /// What its formats need of the input, together.
    pub(crate) fn need(&self, precision: Precision) -> Need {
        self.segments
            .iter()
            .map(|segment| segment.packing.need(precision))
            .fold(Need::default(), Need::union)
    }

    /// Dequantize one row to `out`, exactly: the embedding's lookup, and the oracle of the kernels.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let Some(segment) = self
            .segments
            .iter()
            .find(|s| (s.first_row..s.first_row + s.rows).contains(&row))
        else {
            out.fill(f32::NAN);
            return;
        };
        let row = row - segment.first_row;
        let (panel, lane) = (segment.panel(row / LANES), row % LANES);
        // SAFETY: the panel holds `in_features` columns in this layout, and `lane < 16`.
        unsafe {
            match segment.packing {
                Packing::Q4_0 => quantized_row::<Q4_0>(panel, lane, out),
                Packing::Q4_1 => quantized_row::<Q4_1>(panel, lane, out),
                Packing::Q5_0 => quantized_row::<Q5_0>(panel, lane, out),
                Packing::Q5_1 => quantized_row::<Q5_1>(panel, lane, out),
                Packing::Q8_0 => quantized_row::<Q8_0>(panel, lane, out),
                Packing::Q4K => quantized_row::<Q4K>(panel, lane, out),
                Packing::Q5K => quantized_row::<Q5K>(panel, lane, out),
                Packing::Q6K => quantized_row::<Q6K>(panel, lane, out),
                Packing::F32 => {
                    for (k, x) in out.iter_mut().enumerate() {
                        *x = panel.cast::<f32>().add(k * LANES + lane).read_unaligned();
                    }
                }
                Packing::F16 => {
                    for (k, x) in out.iter_mut().enumerate() {
                        let bits = panel.cast::<u16>().add(k * LANES + lane).read_unaligned();
                        *x = half::f16::from_bits(bits).to_f32();
                    }
                }
                Packing::Bf16 => {
                    for (k, x) in out.iter_mut().enumerate() {
                        let bits = panel.cast::<u16>().add(k * LANES + lane).read_unaligned();
                        *x = half::bf16::from_bits(bits).to_f32();
                    }
                }
            }
        }
    }
}

/// `d * (q - z)` or `d * q + m`, rounded as the file format's reference does.
unsafe fn quantized_row<W: Format>(panel: *const u8, lane: usize, out: &mut [f32]) {
    for (b, values) in out.chunks_exact_mut(BLOCK_COLS).enumerate() {
        // SAFETY: the caller's panel holds this block.
        unsafe {
            let (p, blk) = (panel.add(b / W::BLOCKS * W::BYTES), b % W::BLOCKS);
            let min = if W::HAS_MIN {
                W::min_at(p, blk, lane)
            } else {
                0.0
            };
            for (col, x) in values.iter_mut().enumerate() {
                let q = i32::from(W::code_at(p, blk, lane, col));
                #[expect(clippy::cast_precision_loss, reason = "at most 255: exact")]
                let scaled = W::scale_at(p, blk, lane, col) * (q - W::ZERO) as f32;
                *x = if W::HAS_MIN { scaled + min } else { scaled };
            }
        }
    }
}
