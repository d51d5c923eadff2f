//! Which layout a tensor type is held in, what it costs, and what its kernels read.

use inferlib_weights::Dtype;

use crate::activations::{Need, zero_slot};
use crate::formats::{BLOCK_COLS, Format, with_layout};
use crate::precision::Precision;
use crate::simd::LANES;

/// How a segment's panels are laid out: `formats/` for the quantized ones, `[K][16]` elements for floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the tensor types' names")]
pub enum Packing {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    /// `Q8_0` of a large `lm_head`, the upper six bits of the codes apart from the lower two.
    Q8Planes,
    /// `Q8_0` whose rows have one scale each, lying as that does. In fast precision they are multiplied with activations of
    /// one scale per row, so that a product is one sum of integers.
    Q8Rows,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
    F32,
    F16,
    Bf16,
    /// The fallback of types without a layout: dequantized to float32, exactly. Costs 4 bytes per weight.
    DequantizedF32,
    /// The fallback where float16 holds every value of the type: dequantized to it, exactly. Costs 2 bytes per weight.
    DequantizedF16,
}

/// What a float panel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Packing {
    /// The layout that `dtype` is held in. Every type has one; see [`Self::is_fallback`].
    #[must_use]
    pub const fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Q4_0 => Self::Q4_0,
            Dtype::Q4_1 => Self::Q4_1,
            Dtype::Q5_0 => Self::Q5_0,
            Dtype::Q5_1 => Self::Q5_1,
            Dtype::Q8_0 => Self::Q8_0,
            Dtype::Q2K => Self::Q2K,
            Dtype::Q3K => Self::Q3K,
            Dtype::Q4K => Self::Q4K,
            Dtype::Q5K => Self::Q5K,
            Dtype::Q6K => Self::Q6K,
            Dtype::Iq4Nl => Self::Iq4Nl,
            Dtype::Iq4Xs => Self::Iq4Xs,
            Dtype::Mxfp4 => Self::Mxfp4,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            // At most 11 significant bits and within float16's exponents.
            Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::I8 | Dtype::U8 | Dtype::Bool => {
                Self::DequantizedF16
            }
            Dtype::I16 | Dtype::I32 | Dtype::I64 | Dtype::F64 => Self::DequantizedF32,
        }
    }

    /// Whether the tensor type has no layout of its own and is held as dequantized floats: the values are the type's,
    /// but they take more memory than the file's, and more time to read.
    #[must_use]
    pub const fn is_fallback(self) -> bool {
        matches!(self, Self::DequantizedF32 | Self::DequantizedF16)
    }

    /// The name of the layout: its tensor type's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => Dtype::Q4_0.name(),
            Self::Q4_1 => Dtype::Q4_1.name(),
            Self::Q5_0 => Dtype::Q5_0.name(),
            Self::Q5_1 => Dtype::Q5_1.name(),
            Self::Q8_0 | Self::Q8Planes | Self::Q8Rows => Dtype::Q8_0.name(),
            Self::Q2K => Dtype::Q2K.name(),
            Self::Q3K => Dtype::Q3K.name(),
            Self::Q4K => Dtype::Q4K.name(),
            Self::Q5K => Dtype::Q5K.name(),
            Self::Q6K => Dtype::Q6K.name(),
            Self::Iq4Nl => Dtype::Iq4Nl.name(),
            Self::Iq4Xs => Dtype::Iq4Xs.name(),
            Self::Mxfp4 => Dtype::Mxfp4.name(),
            Self::F32 | Self::DequantizedF32 => Dtype::F32.name(),
            Self::F16 | Self::DequantizedF16 => Dtype::F16.name(),
            Self::Bf16 => Dtype::BF16.name(),
        }
    }

    /// Bytes of a panel with `width` columns.
    pub(crate) fn panel_bytes(self, width: usize) -> usize {
        with_layout!(self, W => width / BLOCK_COLS / W::BLOCKS * W::BYTES, float => {
            let element = if self.element() == Some(Element::F32) { 4 } else { 2 };
            width * LANES * element
        })
    }

    /// Bytes of a panel with `width` columns in the second plane, 0 for layouts without: its part of the blocks, and 16
    /// f32 bounds (see `crate::screen`).
    pub(crate) fn second_bytes(self, width: usize) -> usize {
        with_layout!(self, W => match W::SECOND_BYTES {
            0 => 0,
            bytes => width / BLOCK_COLS * bytes + 4 * LANES,
        }, float => 0)
    }

    /// The element of a float panel; `None` for packed layouts.
    pub(crate) const fn element(self) -> Option<Element> {
        match self {
            Self::F32 | Self::DequantizedF32 => Some(Element::F32),
            Self::F16 | Self::DequantizedF16 => Some(Element::F16),
            Self::Bf16 => Some(Element::Bf16),
            _ => None,
        }
    }

    /// Whether products are one integer sum per output.
    pub(crate) fn sums_whole_rows(self, precision: Precision) -> bool {
        self == Self::Q8Rows && precision == Precision::Fast
    }

    /// What it needs of its input.
    pub(crate) fn need(self, precision: Precision) -> Need {
        let float = Need {
            float: true,
            ..Need::default()
        };
        if precision == Precision::Exact {
            return float;
        }
        if self.sums_whole_rows(precision) {
            return Need {
                whole_rows: true,
                ..Need::default()
            };
        }
        with_layout!(self, W => Need {
            float: false,
            int8: true,
            two_planes: precision == Precision::Balanced,
            zeros: zero_slot(W::ZERO).map_or(0, |slot| 1 << slot),
            // With two minima per block the sums come from the start values.
            scaled_sum: W::HAS_MIN && !W::HALVES,
            whole_rows: false,
        }, float => float)
    }
}
