//! `_core.ProgramRecorder` records a forward pass, call by call.

mod handles;
mod names;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use inferlib_program::program::{BufferId, ExpertGroups, Op, Routing, WeightId};
use inferlib_program::{ProgramRecorder, RecordError};
use pyo3::prelude::*;

use crate::errors::{Error, to_py_err};
use crate::program::PyProgram;
pub(crate) use handles::{PyBuffer, PyKvLayer, PyRope, PyWeight};

/// Numbers the recorders, so that a handle of one is refused by another.
static NEXT_RECORDER: AtomicU64 = AtomicU64::new(0);

/// Records one forward pass: declare buffers and weights, call the ops in order, then `finish()`.
///
/// Declaring the same thing twice gives the same one. Every call raises `ModelError` if ids, widths or shapes do not fit.
#[pyclass(frozen, module = "inferlib._core", name = "ProgramRecorder")]
pub(crate) struct PyProgramRecorder {
    number: u64,
    /// `None` after `finish`.
    recorder: Mutex<Option<ProgramRecorder>>,
}

#[pymethods]
impl PyProgramRecorder {
    #[new]
    fn new() -> Self {
        Self {
            number: NEXT_RECORDER.fetch_add(1, Ordering::Relaxed),
            recorder: Mutex::new(Some(ProgramRecorder::new())),
        }
    }

    /// A buffer of `width` floats per row; `rows` is `"tokens"`, `"sampled"` or `"sequences"`.
    fn buffer(&self, py: Python<'_>, name: &str, rows: &str, width: usize) -> PyResult<PyBuffer> {
        let rows = names::rows(py, rows)?;
        let id = self.record(py, |recorder| recorder.buffer(name, rows, width))?;
        Ok(PyBuffer {
            recorder: self.number,
            id,
            name: name.to_owned(),
            width,
        })
    }

    /// A weight by canonical name: one size for a vector, `(out_features, in_features)` for a matrix, and
    /// `(experts, out_features, in_features)` for the stacked matrices of experts.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 converts into owned values"
    )]
    fn weight(&self, py: Python<'_>, name: &str, shape: Vec<usize>) -> PyResult<PyWeight> {
        let id = self.record(py, |recorder| recorder.weight(name, &shape))?;
        Ok(PyWeight {
            recorder: self.number,
            id,
            name: name.to_owned(),
        })
    }

    /// A rotary table: pair `i` turns by `position * inv_freq[i]`; cosine and sine are multiplied by `scale`.
    #[pyo3(signature = (inv_freq, *, scale = 1.0))]
    fn rotary_table(&self, py: Python<'_>, inv_freq: Vec<f32>, scale: f32) -> PyResult<PyRope> {
        let id = self.record(py, |recorder| recorder.rope(inv_freq, scale))?;
        Ok(PyRope {
            recorder: self.number,
            id,
        })
    }

    /// Room for one more layer's K and V, in the KV group of all layers with the same dimensions, window and direction.
    #[pyo3(signature = (*, num_kv_heads, k_head_dim, v_head_dim, window, bidirectional = false))]
    fn kv_layer(
        &self,
        py: Python<'_>,
        num_kv_heads: usize,
        k_head_dim: usize,
        v_head_dim: usize,
        window: Option<usize>,
        bidirectional: bool,
    ) -> PyResult<PyKvLayer> {
        let kv = self.record(py, |recorder| {
            recorder.kv_layer(num_kv_heads, k_head_dim, v_head_dim, window, bidirectional)
        })?;
        Ok(PyKvLayer {
            recorder: self.number,
            kv,
        })
    }

    /// `out[t] = weight[token_ids[t]] * scale`.
    #[pyo3(signature = (weight, *, out, scale = 1.0))]
    fn embedding(
        &self,
        py: Python<'_>,
        weight: &PyWeight,
        out: &PyBuffer,
        scale: f32,
    ) -> PyResult<()> {
        let (weight, out) = (self.weight_id(py, weight)?, self.buffer_id(py, out)?);
        self.push(py, Op::Embedding { weight, scale, out })
    }

    /// `out[t] = weight[positions[t]]`: learned positions.
    #[pyo3(signature = (weight, *, out))]
    fn position_embedding(
        &self,
        py: Python<'_>,
        weight: &PyWeight,
        out: &PyBuffer,
    ) -> PyResult<()> {
        let (weight, out) = (self.weight_id(py, weight)?, self.buffer_id(py, out)?);
        self.push(py, Op::PositionEmbedding { weight, out })
    }

    /// `out[t] = weight[segment_ids[t]]`: which of two texts a token belongs to.
    #[pyo3(signature = (weight, *, out))]
    fn segment_embedding(&self, py: Python<'_>, weight: &PyWeight, out: &PyBuffer) -> PyResult<()> {
        let (weight, out) = (self.weight_id(py, weight)?, self.buffer_id(py, out)?);
        self.push(py, Op::SegmentEmbedding { weight, out })
    }

    /// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, over whole rows; `out` may be `x`.
    #[pyo3(signature = (x, weight, bias = None, *, eps, out))]
    fn layer_norm(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        weight: &PyWeight,
        bias: Option<&PyWeight>,
        eps: f32,
        out: &PyBuffer,
    ) -> PyResult<()> {
        let op = Op::LayerNorm {
            x: self.buffer_id(py, x)?,
            weight: self.weight_id(py, weight)?,
            bias: bias.map(|bias| self.weight_id(py, bias)).transpose()?,
            eps,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// `out = x / sqrt(mean(x²) + eps) * weight`, over each run of the weight's width.
    ///
    /// With `start` and `length`, only that slice of each row, in place (heads of a fused qkv row).
    #[pyo3(signature = (x, weight, *, eps, out, start = 0, length = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn rms_norm(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        weight: &PyWeight,
        eps: f32,
        out: &PyBuffer,
        start: usize,
        length: Option<usize>,
    ) -> PyResult<()> {
        let op = Op::RmsNorm {
            x: self.buffer_id(py, x)?,
            start,
            len: length.unwrap_or(x.width.saturating_sub(start)),
            weight: self.weight_id(py, weight)?,
            eps,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// `out = x @ weight.T + bias`.
    #[pyo3(signature = (x, weight, bias = None, *, out))]
    fn linear(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        weight: &PyWeight,
        bias: Option<&PyWeight>,
        out: &PyBuffer,
    ) -> PyResult<()> {
        let op = Op::Linear {
            x: self.buffer_id(py, x)?,
            weight: self.weight_id(py, weight)?,
            bias: bias.map(|bias| self.weight_id(py, bias)).transpose()?,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// Each head's own matrix: `out[head] = weight[head] @ x[head]`, behind the first `pass_through` elements of each head,
    /// which are copied. `weight` is `(heads, out_features, in_features)`.
    #[pyo3(signature = (x, weight, *, out, pass_through = 0))]
    fn head_linear(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        weight: &PyWeight,
        out: &PyBuffer,
        pass_through: usize,
    ) -> PyResult<()> {
        let op = Op::HeadLinear {
            x: self.buffer_id(py, x)?,
            pass: pass_through,
            weight: self.weight_id(py, weight)?,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// Rotate `num_heads` heads from element `start` on, in place, by each token's position.
    #[pyo3(signature = (x, table, *, start, num_heads, head_dim))]
    fn rope(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        table: &PyRope,
        start: usize,
        num_heads: usize,
        head_dim: usize,
    ) -> PyResult<()> {
        let op = Op::Rope {
            x: self.buffer_id(py, x)?,
            start,
            num_heads,
            head_dim,
            rope: self.own(py, table.recorder, table.id)?,
        };
        self.push(py, op)
    }

    /// Write this step's K and V, at `k_start` and `v_start` of each row, into the sequences' blocks.
    #[pyo3(signature = (x, kv, *, k_start, v_start))]
    fn store_kv(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        kv: &PyKvLayer,
        k_start: usize,
        v_start: usize,
    ) -> PyResult<()> {
        let op = Op::StoreKv {
            x: self.buffer_id(py, x)?,
            k_start,
            v_start,
            kv: self.own(py, kv.recorder, kv.kv)?,
        };
        self.push(py, op)
    }

    /// Attend from the queries at `q_start` of each row to their sequences' blocks, causally unless `kv` is bidirectional.
    ///
    /// `sinks` is a score per head that takes part in the softmax and adds nothing.
    #[pyo3(signature = (q, kv, *, num_heads, scale, out, q_start = 0, softcap = None, sinks = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn attention(
        &self,
        py: Python<'_>,
        q: &PyBuffer,
        kv: &PyKvLayer,
        num_heads: usize,
        scale: f32,
        out: &PyBuffer,
        q_start: usize,
        softcap: Option<f32>,
        sinks: Option<&PyWeight>,
    ) -> PyResult<()> {
        let op = Op::Attention {
            q: self.buffer_id(py, q)?,
            q_start,
            num_heads,
            kv: self.own(py, kv.recorder, kv.kv)?,
            scale,
            softcap,
            sinks: sinks.map(|sinks| self.weight_id(py, sinks)).transpose()?,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// `out = act(x[:, :half]) * x[:, half:]`; `activation` is `"silu"`, `"gelu_tanh"`, `"gelu"`, `"relu"`,
    /// `"tanh"` or `"clamped_swiglu"`.
    #[pyo3(signature = (x, activation, *, out))]
    fn act_and_mul(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        activation: &str,
        out: &PyBuffer,
    ) -> PyResult<()> {
        let activation = names::activation(py, activation)?;
        let (x, out) = (self.buffer_id(py, x)?, self.buffer_id(py, out)?);
        self.push(py, Op::ActAndMul { x, activation, out })
    }

    /// `out = act(x)`; `activation` is `"silu"`, `"gelu_tanh"`, `"gelu"`, `"relu"` or `"tanh"`, `out` may be `x`.
    #[pyo3(signature = (x, activation, *, out))]
    fn activation(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        activation: &str,
        out: &PyBuffer,
    ) -> PyResult<()> {
        let activation = names::activation(py, activation)?;
        let (x, out) = (self.buffer_id(py, x)?, self.buffer_id(py, out)?);
        self.push(py, Op::Activation { x, activation, out })
    }

    /// `x *= scale`, in place.
    fn scale(&self, py: Python<'_>, x: &PyBuffer, scale: f32) -> PyResult<()> {
        let x = self.buffer_id(py, x)?;
        self.push(py, Op::Scale { x, scale })
    }

    /// Each row through the `top_k` experts of its largest scores, each a gated MLP, and their weighted sum.
    ///
    /// `gate` and `up` are `(experts, intermediate_size, hidden_size)`, `down` is `(experts, hidden_size,
    /// intermediate_size)`, `biases` are those of the three, flat. `scoring` makes scores of the logits: `"softmax"` or
    /// `"sigmoid"`. With `normalise` the weights of the chosen experts sum to 1, else they are their scores; both times
    /// `weight_scale`. `score_bias` is added to the scores for the choice alone. `groups` is (count, kept, scored): only
    /// experts of the `kept` runs with the largest sums of `scored` scores may be chosen.
    #[pyo3(signature = (x, router_logits, *, gate, up, down, top_k, normalise, activation, out, biases = None,
        scoring = "softmax", score_bias = None, groups = None, weight_scale = 1.0))]
    #[expect(
        clippy::too_many_arguments,
        clippy::needless_pass_by_value,
        reason = "keyword-only in Python, and owned references"
    )]
    fn moe(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        router_logits: &PyBuffer,
        gate: &PyWeight,
        up: &PyWeight,
        down: &PyWeight,
        top_k: usize,
        normalise: bool,
        activation: &str,
        out: &PyBuffer,
        biases: Option<(
            PyRef<'_, PyWeight>,
            PyRef<'_, PyWeight>,
            PyRef<'_, PyWeight>,
        )>,
        scoring: &str,
        score_bias: Option<&PyWeight>,
        groups: Option<(usize, usize, usize)>,
        weight_scale: f32,
    ) -> PyResult<()> {
        let routing = Routing {
            scoring: names::scoring(py, scoring)?,
            bias: score_bias
                .map(|bias| self.weight_id(py, bias))
                .transpose()?,
            groups: groups.map(|(count, kept, scored)| ExpertGroups {
                count,
                kept,
                scored,
            }),
            scale: weight_scale,
        };
        let biases = match &biases {
            None => None,
            Some((gate, up, down)) => Some([
                self.weight_id(py, gate)?,
                self.weight_id(py, up)?,
                self.weight_id(py, down)?,
            ]),
        };
        let op = Op::Moe {
            x: self.buffer_id(py, x)?,
            router_logits: self.buffer_id(py, router_logits)?,
            gate: self.weight_id(py, gate)?,
            up: self.weight_id(py, up)?,
            down: self.weight_id(py, down)?,
            biases,
            top_k,
            normalise,
            routing,
            activation: names::activation(py, activation)?,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// `out = a + b`; `out` may be either of them.
    #[pyo3(signature = (a, b, *, out))]
    fn add(&self, py: Python<'_>, a: &PyBuffer, b: &PyBuffer, out: &PyBuffer) -> PyResult<()> {
        let op = Op::Add {
            a: self.buffer_id(py, a)?,
            b: self.buffer_id(py, b)?,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// `out[i] = x[logits_indices[i]]`: keep the rows whose logits are wanted.
    #[pyo3(signature = (x, *, out))]
    fn gather_rows(&self, py: Python<'_>, x: &PyBuffer, out: &PyBuffer) -> PyResult<()> {
        let (x, out) = (self.buffer_id(py, x)?, self.buffer_id(py, out)?);
        self.push(py, Op::GatherRows { x, out })
    }

    /// `out[s] = x[row of sequence s]`: its `"first"` row in the step, or its `"last"`.
    #[pyo3(signature = (x, row, *, out))]
    fn pool(&self, py: Python<'_>, x: &PyBuffer, row: &str, out: &PyBuffer) -> PyResult<()> {
        let row = names::pooled_row(py, row)?;
        let (x, out) = (self.buffer_id(py, x)?, self.buffer_id(py, out)?);
        self.push(py, Op::Pool { x, row, out })
    }

    /// `out = x @ weight.T`, then `softcap * tanh(out / softcap)` if given: the logits.
    #[pyo3(signature = (x, weight, *, out, softcap = None))]
    fn lm_head(
        &self,
        py: Python<'_>,
        x: &PyBuffer,
        weight: &PyWeight,
        out: &PyBuffer,
        softcap: Option<f32>,
    ) -> PyResult<()> {
        let op = Op::LmHead {
            x: self.buffer_id(py, x)?,
            weight: self.weight_id(py, weight)?,
            softcap,
            out: self.buffer_id(py, out)?,
        };
        self.push(py, op)
    }

    /// Hand out the rows of `x` here when a request asks for `name`; off by default.
    fn capture(&self, py: Python<'_>, name: String, x: &PyBuffer) -> PyResult<()> {
        let x = self.buffer_id(py, x)?;
        self.push(py, Op::Capture { name, x })
    }

    /// The finished program; the recorder cannot be used any more.
    fn finish(&self, py: Python<'_>) -> PyResult<PyProgram> {
        let recorder = self.lock().take().ok_or_else(|| finished(py))?;
        let program = recorder
            .finish()
            .map_err(|error| to_py_err(py, error.into()))?;
        Ok(PyProgram::new(program))
    }
}

impl PyProgramRecorder {
    fn lock(&self) -> MutexGuard<'_, Option<ProgramRecorder>> {
        // Nothing inside can panic half-way: a poisoned recorder is still whole.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record<T>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut ProgramRecorder) -> Result<T, RecordError>,
    ) -> PyResult<T> {
        let mut recorder = self.lock();
        let recorder = recorder.as_mut().ok_or_else(|| finished(py))?;
        f(recorder).map_err(|error| to_py_err(py, error.into()))
    }

    fn push(&self, py: Python<'_>, op: Op) -> PyResult<()> {
        self.record(py, |recorder| recorder.push(op))
    }

    fn buffer_id(&self, py: Python<'_>, buffer: &PyBuffer) -> PyResult<BufferId> {
        self.own(py, buffer.recorder, buffer.id)
    }

    fn weight_id(&self, py: Python<'_>, weight: &PyWeight) -> PyResult<WeightId> {
        self.own(py, weight.recorder, weight.id)
    }

    /// `id` if this recorder gave it out.
    fn own<T>(&self, py: Python<'_>, recorder: u64, id: T) -> PyResult<T> {
        if recorder == self.number {
            return Ok(id);
        }
        Err(to_py_err(py, Error::ForeignHandle))
    }
}

fn finished(py: Python<'_>) -> PyErr {
    to_py_err(py, Error::RecorderFinished)
}
