//! A program as text that reads like code, one line per op.

use std::fmt;

use crate::program::{BufferId, KvLayer, Op, Program, WeightId};

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.kv_groups.iter().enumerate() {
            write!(
                f,
                "# KV group {index}: {} layers, {} heads of {}",
                group.num_layers, group.num_kv_heads, group.k_head_dim
            )?;
            if group.v_head_dim != group.k_head_dim {
                write!(f, " (V {})", group.v_head_dim)?;
            }
            if let Some(window) = group.window {
                write!(f, ", window {window}")?;
            }
            if group.bidirectional {
                write!(f, ", bidirectional")?;
            }
            writeln!(f)?;
        }
        for (index, rope) in self.ropes.iter().enumerate() {
            let pairs = rope.inv_freq.len();
            writeln!(f, "# rope {index}: {pairs} pairs, scale {}", rope.scale)?;
        }
        for buffer in &self.buffers {
            writeln!(
                f,
                "# {}: [{}, {}]",
                buffer.name,
                buffer.rows.name(),
                buffer.width
            )?;
        }
        for op in &self.ops {
            self.write_op(f, op)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Program {
    #[expect(clippy::too_many_lines, reason = "one arm per op")]
    fn write_op(&self, f: &mut fmt::Formatter<'_>, op: &Op) -> fmt::Result {
        let kind = op.kind();
        match op {
            Op::Embedding { weight, scale, out } => {
                let (out, weight) = (self.buffer_name(*out), self.weight_name(*weight));
                write!(f, "{out} = {kind}({weight}, scale={scale})")
            }
            Op::PositionEmbedding { weight, out } | Op::SegmentEmbedding { weight, out } => {
                let (out, weight) = (self.buffer_name(*out), self.weight_name(*weight));
                write!(f, "{out} = {kind}({weight})")
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x}, {}", self.weight_name(*weight))?;
                if let Some(bias) = bias {
                    write!(f, ", {}", self.weight_name(*bias))?;
                }
                write!(f, ", eps={eps:e})")
            }
            Op::RmsNorm {
                x,
                start,
                len,
                weight,
                eps,
                out,
            } => {
                let x = self.slice(*x, *start, *len);
                let out = self.slice(*out, *start, *len);
                let weight = self.weight_name(*weight);
                write!(f, "{out} = {kind}({x}, {weight}, eps={eps:e})")
            }
            Op::Linear {
                x,
                weight,
                bias,
                out,
            } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x}, {}", self.weight_name(*weight))?;
                if let Some(bias) = bias {
                    write!(f, ", {}", self.weight_name(*bias))?;
                }
                write!(f, ")")
            }
            Op::HeadLinear {
                x,
                pass,
                weight,
                out,
            } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                let weight = self.weight_name(*weight);
                write!(f, "{out} = {kind}({x}, {weight}, pass={pass})")
            }
            Op::Rope {
                x,
                start,
                num_heads,
                head_dim,
                rope,
            } => {
                let x = self.slice(*x, *start, num_heads * head_dim);
                write!(f, "{x} = {kind}({x}, heads={num_heads}, rope={})", rope.0)
            }
            Op::StoreKv {
                x,
                k_start,
                v_start,
                kv,
            } => {
                let group = &self.kv_groups[kv.group];
                let k = self.slice(*x, *k_start, group.num_kv_heads * group.k_head_dim);
                let v = self.slice(*x, *v_start, group.num_kv_heads * group.v_head_dim);
                write!(f, "{kind}({k}, {v}, {})", kv_text(*kv))
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
                let group = &self.kv_groups[kv.group];
                let q = self.slice(*q, *q_start, num_heads * group.k_head_dim);
                let (out, kv) = (self.buffer_name(*out), kv_text(*kv));
                write!(
                    f,
                    "{out} = {kind}({q}, heads={num_heads}, {kv}, scale={scale}"
                )?;
                if let Some(cap) = softcap {
                    write!(f, ", softcap={cap}")?;
                }
                if let Some(sinks) = sinks {
                    write!(f, ", sinks={}", self.weight_name(*sinks))?;
                }
                write!(f, ")")
            }
            Op::ActAndMul { x, activation, out } | Op::Activation { x, activation, out } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x}, {})", activation.name())
            }
            Op::Scale { x, scale } => {
                let x = self.buffer_name(*x);
                write!(f, "{x} = {kind}({x}, {scale})")
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
                let [out, x, logits] = [out, x, router_logits].map(|id| self.buffer_name(*id));
                let biases = biases.iter().flatten();
                let weights = [gate, up, down].into_iter().chain(biases);
                write!(f, "{out} = {kind}({x}, {logits}")?;
                for weight in weights {
                    write!(f, ", {}", self.weight_name(*weight))?;
                }
                let (over, scoring) = (
                    if *normalise { "chosen" } else { "all" },
                    routing.scoring.name(),
                );
                write!(f, ", top_k={top_k}, {scoring} over {over}")?;
                if let Some(bias) = routing.bias {
                    write!(f, ", bias={}", self.weight_name(bias))?;
                }
                if let Some(groups) = routing.groups {
                    write!(f, ", {} of {} groups", groups.kept, groups.count)?;
                }
                #[expect(clippy::float_cmp, reason = "1 means: no scale")]
                if routing.scale != 1.0 {
                    write!(f, ", scale={}", routing.scale)?;
                }
                write!(f, ", {})", activation.name())
            }
            Op::Add { a, b, out } => {
                let (a, b) = (self.buffer_name(*a), self.buffer_name(*b));
                write!(f, "{} = {kind}({a}, {b})", self.buffer_name(*out))
            }
            Op::GatherRows { x, out } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x})")
            }
            Op::Pool { x, row, out } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x}, {})", row.name())
            }
            Op::LmHead {
                x,
                weight,
                softcap,
                out,
            } => {
                let (out, x) = (self.buffer_name(*out), self.buffer_name(*x));
                write!(f, "{out} = {kind}({x}, {}", self.weight_name(*weight))?;
                if let Some(cap) = softcap {
                    write!(f, ", softcap={cap}")?;
                }
                write!(f, ")")
            }
            Op::Capture { name, x } => write!(f, "{kind}({}, {name:?})", self.buffer_name(*x)),
        }
    }

    fn buffer_name(&self, buffer: BufferId) -> &str {
        &self.buffers[buffer.0 as usize].name
    }

    fn weight_name(&self, weight: WeightId) -> &str {
        &self.weights[weight.0 as usize].name
    }

    /// The buffer's name, with the range where it is not the whole row.
    fn slice(&self, buffer: BufferId, start: usize, len: usize) -> String {
        let buffer = &self.buffers[buffer.0 as usize];
        if (start, len) == (0, buffer.width) {
            return buffer.name.clone();
        }
        format!("{}[{start}:{}]", buffer.name, start + len)
    }
}

fn kv_text(kv: KvLayer) -> String {
    format!("kv={}.{}", kv.group, kv.layer)
}
