//! Low-rank adapters: what a row's own adapter adds to the products of matrices, `scale * B (A x)`.
//!
//! In float32, one row after the other, so that a row's results depend on nobody else.
//!
//! Source: Hu et al. 2021, `LoRA` (arXiv 2106.09685).

use inferlib_program::program::{Op, Program, WeightId};

use crate::error::CpuError;

/// An adapter's matrices for some rows of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterPart {
    /// Canonical name of the weight.
    pub weight: String,
    /// First of its rows (output features).
    pub first_row: usize,
    /// `[rank, in_features]`.
    pub a: Vec<f32>,
    /// `[rank, rows]`: transposed.
    pub b: Vec<f32>,
    /// Rows of `a` and of `b`.
    pub rank: usize,
    /// Multiplies what is added.
    pub scale: f32,
}

impl AdapterPart {
    pub(crate) fn in_features(&self) -> usize {
        self.a.len() / self.rank.max(1)
    }

    pub(crate) fn rows(&self) -> usize {
        self.b.len() / self.rank.max(1)
    }
}

/// The parts of one adapter by weight.
#[derive(Debug)]
pub(crate) struct Adapter {
    parts: Vec<Vec<AdapterPart>>,
}

impl Adapter {
    /// Sort the parts, each of which must fit a matrix that rows of tokens are multiplied with.
    pub(crate) fn new(program: &Program, parts: Vec<AdapterPart>) -> Result<Self, CpuError> {
        let mut sorted = vec![Vec::new(); program.weights.len()];
        for part in parts {
            let index = program
                .weights
                .iter()
                .position(|weight| weight.name == part.weight)
                .ok_or_else(|| CpuError::UnknownWeight {
                    name: part.weight.clone(),
                })?;
            let linear =
                |op: &Op| matches!(op, Op::Linear { weight, .. } if weight.0 as usize == index);
            if !program.ops.iter().any(linear) {
                return Err(CpuError::NotAdaptable { name: part.weight });
            }
            let shape = &program.weights[index].shape;
            let fits = part.rank > 0
                && part.a.len() == part.rank * part.in_features()
                && part.b.len() == part.rank * part.rows()
                && shape.get(1) == Some(&part.in_features())
                && part.rows() > 0
                && part.first_row + part.rows() <= shape[0];
            if !fits {
                return Err(CpuError::WeightShape {
                    name: part.weight.clone(),
                    expected: shape.clone(),
                    found: vec![part.first_row + part.rows(), part.in_features()],
                });
            }
            sorted[index].push(part);
        }
        Ok(Self { parts: sorted })
    }

    /// What it has for a weight.
    pub(crate) fn parts(&self, weight: WeightId) -> &[AdapterPart] {
        self.parts.get(weight.0 as usize).map_or(&[], Vec::as_slice)
    }
}
