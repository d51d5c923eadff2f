//! The tensor types that a checkpoint may hold: their names in the files, and how many bytes a block takes.

use std::fmt;

/// The type of a tensor's elements, or of its blocks where it is quantized.
///
/// [`name`](Self::name) is what GGUF and safetensors call it (`"Q4_K"`, `"F8_E4M3"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the formats' own names")]
pub enum Dtype {
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I8,
    I16,
    I32,
    I64,
    U8,
    Bool,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl Dtype {
    /// Every type, floating-point and integer ones first.
    pub const ALL: [Self; 25] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::Bool,
        Self::F64,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// The name that the file formats use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::F64 => "F64",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// The type of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Elements in one block; 1 for types that are not quantized.
    #[must_use]
    pub const fn block_size(self) -> usize {
        match self {
            Self::F32
            | Self::F16
            | Self::BF16
            | Self::F8E4M3
            | Self::F8E5M2
            | Self::I8
            | Self::I16
            | Self::I32
            | Self::I64
            | Self::U8
            | Self::Bool
            | Self::F64 => 1,
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::Iq4Nl
            | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// Bytes of one block; of one element for types that are not quantized.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 | Self::F64 => 8,
            Self::Mxfp4 => 17,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Iq4Xs => 136,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether elements share a scale in blocks.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.block_size() > 1
    }

    /// Bytes of a tensor of this shape (outermost dimension first), or why there is no such tensor.
    ///
    /// Rows (the last dimension) hold whole blocks. A scalar (no dimensions) has one element.
    pub(crate) fn tensor_bytes(self, shape: &[usize]) -> Result<u64, ShapeFault> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_size()) {
            return Err(ShapeFault::PartialBlock { row });
        }
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, &dim| product.checked_mul(dim))
            .ok_or(ShapeFault::TooLarge)?;
        elements
            .checked_div(self.block_size())
            .and_then(|blocks| blocks.checked_mul(self.block_bytes()))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .ok_or(ShapeFault::TooLarge)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a shape and a type make no tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShapeFault {
    /// The number of bytes does not fit the machine's word.
    TooLarge,
    /// A row of so many elements is not whole blocks.
    PartialBlock { row: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_name("Q9_X"), None);
    }

    #[test]
    fn a_tensor_takes_the_bytes_of_its_blocks() {
        assert_eq!(Dtype::Q4K.tensor_bytes(&[3, 512]), Ok(3 * 2 * 144));
        assert_eq!(Dtype::F32.tensor_bytes(&[]), Ok(4));
        assert_eq!(Dtype::BF16.tensor_bytes(&[7, 0, 3]), Ok(0));
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_is_refused() {
        assert_eq!(
            Dtype::Q4_0.tensor_bytes(&[32, 33]),
            Err(ShapeFault::PartialBlock { row: 33 })
        );
        assert_eq!(
            Dtype::Q4_0.tensor_bytes(&[]),
            Err(ShapeFault::PartialBlock { row: 1 })
        );
    }

    #[test]
    fn a_product_of_dimensions_that_overflows_is_refused() {
        for shape in [
            [usize::MAX, 2],
            [1 << 32, 1 << 32],
            [usize::MAX, usize::MAX],
            [1, usize::MAX],
        ] {
            assert_eq!(Dtype::F32.tensor_bytes(&shape), Err(ShapeFault::TooLarge));
        }
    }
}
