//! What the loaded matrices take, and which of them have no packed layout: so that a user can see it.

use inferlib_weights::Dtype;

use crate::executor::{CpuExecutor, Weight};
use crate::packing::Packing;

/// One tensor's share of a loaded matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldWeight {
    /// The matrix's canonical name.
    pub name: String,
    /// The checkpoint's tensor type.
    pub dtype: Dtype,
    /// How it is held; [`Packing::is_fallback`] tells whether that costs more than the file.
    pub packing: Packing,
    /// Bytes in memory, the padding of the last panel included.
    pub bytes: usize,
    /// Bytes in the file.
    pub file_bytes: usize,
}

impl CpuExecutor {
    /// Every part of every loaded matrix, in the program's order.
    #[must_use]
    pub fn held_weights(&self) -> Vec<HeldWeight> {
        let mut held = Vec::new();
        for (declared, weight) in self.program.weights.iter().zip(&self.weights) {
            let Some(Weight::Matrix(matrix)) = weight else {
                continue;
            };
            held.extend(matrix.segments.iter().map(|segment| {
                let dtype = segment.dtype;
                let blocks = segment.rows * (matrix.in_features / dtype.block_size());
                HeldWeight {
                    name: declared.name.clone(),
                    dtype,
                    packing: segment.packing,
                    bytes: segment.num_panels() * (segment.panel_bytes + segment.second_bytes),
                    file_bytes: blocks * dtype.block_bytes(),
                }
            }));
        }
        held
    }

    /// Bytes of the matrices of each tensor type, in [`Dtype::ALL`]'s order.
    #[must_use]
    pub fn weight_bytes_by_type(&self) -> Vec<(Dtype, usize)> {
        let held = self.held_weights();
        let bytes = |dtype| {
            let of_type = held.iter().filter(|weight| weight.dtype == dtype);
            of_type.map(|weight| weight.bytes).sum()
        };
        let all = Dtype::ALL.into_iter().map(|dtype| (dtype, bytes(dtype)));
        all.filter(|&(_, bytes)| bytes > 0).collect()
    }
}
