//! How exactly products are computed.

use crate::kv_cache::KvDtype;

/// Numerics of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// One int8 plane per 32 activations for quantized weights.
    Fast,
    /// Two int8 planes (about 15 bits) per 32 activations for quantized weights.
    Balanced,
    /// f32 activations.
    Exact,
}

impl Precision {
    /// What K and V are stored as if nothing else is asked for: f32 in exact precision, else f16.
    #[must_use]
    pub fn kv_dtype(self) -> KvDtype {
        match self {
            Self::Fast | Self::Balanced => KvDtype::F16,
            Self::Exact => KvDtype::F32,
        }
    }
}
