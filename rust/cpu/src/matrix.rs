//! A packed weight matrix: segments of panels, each in the layout of its own tensor type.

use half::{bf16, f16};
use inferlib_weights::Dtype;

use crate::activations::Need;
use crate::formats::{BLOCK_COLS, Format, with_layout};
use crate::packing::{Element, Packing};
use crate::precision::Precision;
use crate::simd::LANES;

/// Consecutive output rows that share a layout.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The checkpoint's tensor type.
    pub(crate) dtype: Dtype,
    pub(crate) packing: Packing,
    /// First output row.
    pub(crate) first_row: usize,
    /// Output rows; the last panel is padded with zeros.
    pub(crate) rows: usize,
    /// Its panels. Read-only: they may lie in a mapped file.
    pub(crate) data: *mut u8,
    /// Bytes per panel.
    pub(crate) panel_bytes: usize,
    /// The second plane of its panels, of layouts that have one.
    pub(crate) second: *mut u8,
    /// Bytes per panel of the second plane.
    pub(crate) second_bytes: usize,
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

    /// The bytes of one panel in the second plane.
    pub(crate) fn second_panel(&self, panel: usize) -> *mut u8 {
        self.second.wrapping_add(panel * self.second_bytes)
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
    /// Whether it is two segments of equal size and layout.
    pub(crate) fn halves_alike(&self) -> bool {
        matches!(&self.segments[..], [a, b] if a.rows == b.rows && a.packing == b.packing)
    }

    /// The segments of several matrices of equal width, one below the other.
    pub(crate) fn stacked<'a>(
        segments: impl IntoIterator<Item = &'a Segment>,
        width: usize,
    ) -> Self {
        let mut stacked = Self {
            in_features: width,
            ..Self::default()
        };
        for segment in segments {
            stacked.segments.push(Segment {
                first_row: stacked.out_features,
                ..segment.clone()
            });
            stacked.out_features += segment.rows;
        }
        stacked
    }

    /// Bytes of its panels.
    pub(crate) fn bytes(&self) -> usize {
        let panel = |segment: &Segment| segment.panel_bytes + segment.second_bytes;
        let bytes = |segment: &Segment| segment.num_panels() * panel(segment);
        self.segments.iter().map(bytes).sum()
    }

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
        let second = segment.second_panel(row / LANES);
        // SAFETY: the panel holds `in_features` columns in this layout, and `lane < 16`.
        unsafe {
            with_layout!(segment.packing, W => quantized_row::<W>(panel, second, lane, out), float => {
                match segment.packing.element() {
                    Some(Element::F16) => {
                        for (k, x) in out.iter_mut().enumerate() {
                            let bits = panel.cast::<u16>().add(k * LANES + lane).read_unaligned();
                            *x = f16::from_bits(bits).to_f32();
                        }
                    }
                    Some(Element::Bf16) => {
                        for (k, x) in out.iter_mut().enumerate() {
                            let bits = panel.cast::<u16>().add(k * LANES + lane).read_unaligned();
                            *x = bf16::from_bits(bits).to_f32();
                        }
                    }
                    Some(Element::F32) | None => {
                        for (k, x) in out.iter_mut().enumerate() {
                            *x = panel.cast::<f32>().add(k * LANES + lane).read_unaligned();
                        }
                    }
                }
            });
        }
    }
}

/// `d * (q - z)` or `d * (q - z) + m`, rounded as the file format's reference does.
unsafe fn quantized_row<W: Format>(
    panel: *const u8,
    second: *const u8,
    lane: usize,
    out: &mut [f32],
) {
    for (b, values) in out.chunks_exact_mut(BLOCK_COLS).enumerate() {
        // SAFETY: the caller's panel holds this block.
        unsafe {
            let (p, blk) = (panel.add(b / W::BLOCKS * W::BYTES), b % W::BLOCKS);
            let second = second.wrapping_add(b * W::SECOND_BYTES);
            // No layout has scales or minima of fewer columns than half a block.
            for (half, values) in values.chunks_exact_mut(BLOCK_COLS / 2).enumerate() {
                let first = half * (BLOCK_COLS / 2);
                let scale = W::scale_at(p, blk, lane, first);
                let min = if W::HAS_MIN {
                    W::min_at(p, blk, lane, first)
                } else {
                    0.0
                };
                for (i, x) in values.iter_mut().enumerate() {
                    let q = i32::from(W::code_at(p, second, blk, lane, first + i));
                    #[expect(clippy::cast_precision_loss, reason = "at most 255: exact")]
                    let scaled = scale * (q - W::ZERO) as f32;
                    *x = if W::HAS_MIN { scaled + min } else { scaled };
                }
            }
        }
    }
}
