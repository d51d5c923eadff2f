//! Ops as Python dictionaries: for tests, the `NumPy` oracle and executors written in Python.

use inferlib_program::program::{BufferId, KvLayer, Op, Program, WeightId};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The arguments of one op; keys are the fields of [`Op`], buffers and weights are given by name.
#[expect(clippy::too_many_lines, reason = "one arm per op")]
pub(crate) fn op_dict<'py>(
    py: Python<'py>,
    program: &Program,
    op: &Op,
) -> PyResult<Bound<'py, PyDict>> {
    let buffer = |id: BufferId| program.buffers[id.0 as usize].name.as_str();
    let weight = |id: WeightId| program.weights[id.0 as usize].name.as_str();
    let dict = PyDict::new(py);
    match op {
        Op::Embedding {
            weight: table,
            scale,
            out,
        } => {
            dict.set_item("weight", weight(*table))?;
            dict.set_item("scale", scale)?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::PositionEmbedding { weight: table, out }
        | Op::SegmentEmbedding { weight: table, out } => {
            dict.set_item("weight", weight(*table))?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::LayerNorm {
            x,
            weight: gain,
            bias,
            eps,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("weight", weight(*gain))?;
            dict.set_item("bias", bias.map(weight))?;
            dict.set_item("eps", eps)?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::RmsNorm {
            x,
            start,
            len,
            weight: gain,
            eps,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("start", start)?;
            dict.set_item("length", len)?;
            dict.set_item("weight", weight(*gain))?;
            dict.set_item("eps", eps)?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Linear {
            x,
            weight: matrix,
            bias,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("weight", weight(*matrix))?;
            dict.set_item("bias", bias.map(weight))?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::HeadLinear {
            x,
            pass,
            weight: matrices,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("pass_through", pass)?;
            dict.set_item("weight", weight(*matrices))?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Rope {
            x,
            start,
            num_heads,
            head_dim,
            rope,
        } => {
            let table = &program.ropes[rope.0 as usize];
            dict.set_item("x", buffer(*x))?;
            dict.set_item("start", start)?;
            dict.set_item("num_heads", num_heads)?;
            dict.set_item("head_dim", head_dim)?;
            dict.set_item("rope", rope.0)?;
            dict.set_item("inv_freq", PyArray1::from_slice(py, &table.inv_freq))?;
            dict.set_item("scale", table.scale)?;
        }
        Op::StoreKv {
            x,
            k_start,
            v_start,
            kv,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("k_start", k_start)?;
            dict.set_item("v_start", v_start)?;
            set_kv(&dict, *kv)?;
        }
        Op::Attention {
            q,
            q_start,
            num_heads,
            kv,
            scale,
            softcap,
            sinks,
            out,
        } => {
            dict.set_item("q", buffer(*q))?;
            dict.set_item("q_start", q_start)?;
            dict.set_item("num_heads", num_heads)?;
            dict.set_item("scale", scale)?;
            dict.set_item("softcap", softcap)?;
            dict.set_item("sinks", sinks.map(weight))?;
            dict.set_item("out", buffer(*out))?;
            set_kv(&dict, *kv)?;
        }
        Op::ActAndMul { x, activation, out } | Op::Activation { x, activation, out } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("activation", activation.name())?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Scale { x, scale } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("scale", scale)?;
        }
        Op::Moe {
            x,
            router_logits,
            gate,
            up,
            down,
            biases,
            top_k,
            normalise,
            routing,
            activation,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("router_logits", buffer(*router_logits))?;
            for (name, id) in [("gate", gate), ("up", up), ("down", down)] {
                dict.set_item(name, weight(*id))?;
            }
            dict.set_item("biases", biases.map(|ids| ids.map(weight)))?;
            dict.set_item("top_k", top_k)?;
            dict.set_item("normalise", normalise)?;
            dict.set_item("scoring", routing.scoring.name())?;
            dict.set_item("score_bias", routing.bias.map(weight))?;
            let groups = routing.groups.map(|g| (g.count, g.kept, g.scored));
            dict.set_item("groups", groups)?;
            dict.set_item("weight_scale", routing.scale)?;
            dict.set_item("activation", activation.name())?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Add { a, b, out } => {
            dict.set_item("a", buffer(*a))?;
            dict.set_item("b", buffer(*b))?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::GatherRows { x, out } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Pool { x, row, out } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("row", row.name())?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::LmHead {
            x,
            weight: matrix,
            softcap,
            out,
        } => {
            dict.set_item("x", buffer(*x))?;
            dict.set_item("weight", weight(*matrix))?;
            dict.set_item("softcap", softcap)?;
            dict.set_item("out", buffer(*out))?;
        }
        Op::Capture { name, x } => {
            dict.set_item("name", name)?;
            dict.set_item("x", buffer(*x))?;
        }
    }
    Ok(dict)
}

fn set_kv(dict: &Bound<'_, PyDict>, kv: KvLayer) -> PyResult<()> {
    dict.set_item("kv_group", kv.group)?;
    dict.set_item("kv_layer", kv.layer)
}
