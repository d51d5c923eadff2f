//! `_core.Program`: a recorded forward pass, to look at and to run.

use std::sync::Arc;

use inferlib_program::program::{Op, Program};
use pyo3::prelude::*;

use crate::program_ops::op_dict;
use crate::typed::{Arguments, Mapping, Sizes};

/// Layers that share one block table per sequence.
#[pyclass(frozen, module = "inferlib._core", name = "KvGroup", get_all, eq)]
#[derive(PartialEq)]
pub(crate) struct PyKvGroup {
    /// Layers whose K and V live in each of the group's blocks.
    num_layers: usize,
    /// KV heads per layer.
    num_kv_heads: usize,
    /// Elements of a K head.
    k_head_dim: usize,
    /// Elements of a V head.
    v_head_dim: usize,
    /// Tokens that a query may see, itself included; None means all.
    window: Option<usize>,
    /// Whether a query sees what comes behind it, too.
    bidirectional: bool,
}

#[pymethods]
impl PyKvGroup {
    fn __repr__(&self) -> String {
        format!(
            "KvGroup(num_layers={}, num_kv_heads={}, k_head_dim={}, v_head_dim={}, window={}, bidirectional={})",
            self.num_layers,
            self.num_kv_heads,
            self.k_head_dim,
            self.v_head_dim,
            self.window
                .map_or("None".to_owned(), |window| window.to_string()),
            if self.bidirectional { "True" } else { "False" }
        )
    }
}

/// A recorded forward pass: ops over named buffers, weights by canonical name, KV groups.
#[pyclass(frozen, module = "inferlib._core", name = "Program")]
pub(crate) struct PyProgram {
    program: Arc<Program>,
}

impl PyProgram {
    pub(crate) fn new(program: Program) -> Self {
        Self {
            program: Arc::new(program),
        }
    }

    /// For the executors' bindings.
    pub(crate) fn inner(&self) -> &Arc<Program> {
        &self.program
    }
}

#[pymethods]
impl PyProgram {
    /// The ops in order, as (kind, arguments). Buffers and weights appear by name; built anew on each access.
    #[getter]
    fn ops<'py>(&self, py: Python<'py>) -> PyResult<Vec<(&'static str, Arguments<'py>)>> {
        let ops = self.program.ops.iter();
        ops.map(|op| Ok((op.kind(), Arguments(op_dict(py, &self.program, op)?))))
            .collect()
    }

    /// Buffer name → (what its rows count, elements per row).
    #[getter]
    fn buffers(&self) -> Mapping<&str, (&'static str, usize)> {
        let buffers = self.program.buffers.iter();
        Mapping(
            buffers
                .map(|buffer| (buffer.name.as_str(), (buffer.rows.name(), buffer.width)))
                .collect(),
        )
    }

    /// Canonical weight name → shape.
    #[getter]
    fn weights(&self) -> Mapping<&str, Sizes> {
        let weights = self.program.weights.iter();
        Mapping(
            weights
                .map(|weight| (weight.name.as_str(), Sizes(weight.shape.clone())))
                .collect(),
        )
    }

    /// A sequence has one block table in each.
    #[getter]
    fn kv_groups(&self) -> Vec<PyKvGroup> {
        let groups = self.program.kv_groups.iter();
        groups
            .map(|group| PyKvGroup {
                num_layers: group.num_layers,
                num_kv_heads: group.num_kv_heads,
                k_head_dim: group.k_head_dim,
                v_head_dim: group.v_head_dim,
                window: group.window,
                bidirectional: group.bidirectional,
            })
            .collect()
    }

    /// Names of the capture points, in the order of the forward pass.
    #[getter]
    fn captures(&self) -> Vec<&str> {
        let ops = self.program.ops.iter();
        ops.filter_map(|op| match op {
            Op::Capture { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
    }

    /// Whether there are logits.
    #[getter]
    fn has_lm_head(&self) -> bool {
        self.program.has_lm_head()
    }

    /// Whether tokens see those behind them, so that every sequence has to be one step.
    #[getter]
    fn is_bidirectional(&self) -> bool {
        self.program.is_bidirectional()
    }

    /// Token ids are below this: the width of the logits, where there are any.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.program.vocab_size
    }

    /// The program as text, one line per op.
    fn describe(&self) -> String {
        self.program.to_string()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Program: {} ops, {} buffers, {} weights, {} KV groups>",
            self.program.ops.len(),
            self.program.buffers.len(),
            self.program.weights.len(),
            self.program.kv_groups.len()
        )
    }
}
