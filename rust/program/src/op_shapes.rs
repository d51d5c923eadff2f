//! What each op asks of its buffers and weights.

use crate::program::{Activation, BufferId, Op, Program, Routing, Rows, WeightId};
use crate::record_error::RecordError;

type Result<T> = std::result::Result<T, RecordError>;

impl Program {
    /// Check rows, widths and shapes of an op whose ids are known to exist.
    #[expect(clippy::too_many_lines, reason = "one arm per op")]
    pub(crate) fn check_shapes(&self, op: &Op) -> Result<()> {
        let kind = op.kind();
        match *op {
            Op::Embedding { weight, scale, out } => {
                finite(|| "the scale of embedding".to_owned(), scale)?;
                let shape = self.matrix(kind, weight)?;
                self.needs_rows(kind, out, Rows::Tokens)?;
                self.needs_width(kind, out, shape[1])
            }
            Op::PositionEmbedding { weight, out } | Op::SegmentEmbedding { weight, out } => {
                let shape = self.matrix(kind, weight)?;
                self.needs_rows(kind, out, Rows::Tokens)?;
                self.needs_width(kind, out, shape[1])
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                finite(|| "the eps of layer_norm".to_owned(), eps)?;
                let width = self.width_of(x);
                for vector in [Some(weight), bias].into_iter().flatten() {
                    self.needs_shape(kind, vector, &[width])?;
                }
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, out, width)
            }
            Op::RmsNorm {
                x,
                start,
                len,
                weight,
                eps,
                out,
            } => {
                finite(|| "the eps of rms_norm".to_owned(), eps)?;
                let group = self.vector(kind, weight)?;
                self.needs_slice(kind, x, start, len)?;
                multiple(kind, "length", len, group)?;
                if out == x {
                    return Ok(());
                }
                // Into another buffer whole rows are normalised: nothing of `out` stays undefined.
                self.needs_width(kind, x, len)?;
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, out, len)
            }
            Op::Linear {
                x,
                weight,
                bias,
                out,
            } => {
                let shape = self.matrix(kind, weight)?;
                if let Some(bias) = bias {
                    self.needs_shape(kind, bias, &[shape[0]])?;
                }
                self.needs_another(kind, x, out)?;
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, x, shape[1])?;
                self.needs_width(kind, out, shape[0])
            }
            Op::HeadLinear {
                x,
                pass,
                weight,
                out,
            } => {
                let decl = &self.weights[weight.0 as usize];
                let [heads, rows, columns] = decl.shape[..] else {
                    return Err(RecordError::WeightShape {
                        op: kind,
                        weight: decl.name.clone(),
                        found: decl.shape.clone(),
                        expected: vec![decl.shape[0], 1, 1],
                    });
                };
                let width = |size: usize| heads.saturating_mul(size.saturating_add(pass));
                self.needs_another(kind, x, out)?;
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, x, width(columns))?;
                self.needs_width(kind, out, width(rows))
            }
            Op::Rope {
                x,
                start,
                num_heads,
                head_dim,
                rope,
            } => {
                positive(|| "num_heads of rope".to_owned(), num_heads)?;
                let rotary_dim = 2 * self.ropes[rope.0 as usize].inv_freq.len();
                if rotary_dim > head_dim {
                    return Err(RecordError::InvalidValue {
                        what: "head_dim of rope".to_owned(),
                        expected: "at least twice the number of frequencies",
                        found: format!("{head_dim} with {} frequencies", rotary_dim / 2),
                    });
                }
                self.needs_rows(kind, x, Rows::Tokens)?;
                self.needs_slice(kind, x, start, num_heads.saturating_mul(head_dim))
            }
            Op::StoreKv {
                x,
                k_start,
                v_start,
                kv,
            } => {
                let group = &self.kv_groups[kv.group];
                let heads = group.num_kv_heads;
                self.needs_rows(kind, x, Rows::Tokens)?;
                self.needs_slice(kind, x, k_start, heads.saturating_mul(group.k_head_dim))?;
                self.needs_slice(kind, x, v_start, heads.saturating_mul(group.v_head_dim))
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
                positive(|| "num_heads of attention".to_owned(), num_heads)?;
                finite(|| "the scale of attention".to_owned(), scale)?;
                cap(kind, softcap)?;
                multiple(kind, "num_heads", num_heads, group.num_kv_heads)?;
                if let Some(sinks) = sinks {
                    self.needs_shape(kind, sinks, &[num_heads])?;
                }
                self.needs_another(kind, q, out)?;
                self.needs_rows(kind, q, Rows::Tokens)?;
                self.needs_rows(kind, out, Rows::Tokens)?;
                self.needs_slice(kind, q, q_start, num_heads.saturating_mul(group.k_head_dim))?;
                self.needs_width(kind, out, num_heads.saturating_mul(group.v_head_dim))
            }
            Op::ActAndMul { x, out, .. } => {
                self.needs_another(kind, x, out)?;
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, x, self.width_of(out).saturating_mul(2))
            }
            Op::Activation { x, activation, out } => {
                if activation == Activation::ClampedSwiglu {
                    return Err(RecordError::InvalidValue {
                        what: format!("the activation of {kind}"),
                        expected: "one of a single value",
                        found: activation.name().to_owned(),
                    });
                }
                self.needs_same_rows(kind, x, out)?;
                self.needs_width(kind, out, self.width_of(x))
            }
            Op::Scale { scale, .. } => finite(|| "the scale of scale".to_owned(), scale),
            Op::Moe { .. } => self.check_moe(op),
            Op::Add { a, b, out } => {
                for other in [b, out] {
                    self.needs_same_rows(kind, a, other)?;
                    self.needs_width(kind, other, self.width_of(a))?;
                }
                Ok(())
            }
            Op::GatherRows { x, out } => {
                self.needs_rows(kind, x, Rows::Tokens)?;
                self.needs_rows(kind, out, Rows::Sampled)?;
                self.needs_width(kind, out, self.width_of(x))
            }
            Op::Pool { x, out, .. } => {
                self.needs_rows(kind, x, Rows::Tokens)?;
                self.needs_rows(kind, out, Rows::Sequences)?;
                self.needs_width(kind, out, self.width_of(x))
            }
            Op::LmHead {
                x,
                weight,
                softcap,
                out,
            } => {
                cap(kind, softcap)?;
                let shape = self.matrix(kind, weight)?;
                self.needs_another(kind, x, out)?;
                self.needs_rows(kind, x, Rows::Sampled)?;
                self.needs_rows(kind, out, Rows::Sampled)?;
                self.needs_width(kind, x, shape[1])?;
                self.needs_width(kind, out, shape[0])
            }
            Op::Capture { .. } => Ok(()),
        }
    }

    fn check_moe(&self, op: &Op) -> Result<()> {
        let kind = op.kind();
        let Op::Moe {
            x,
            router_logits,
            gate,
            up,
            down,
            biases,
            top_k,
            routing,
            out,
            ..
        } = *op
        else {
            return Ok(());
        };
        let (hidden, experts) = (self.width_of(x), self.width_of(router_logits));
        // The declared width of the first projection is taken; all others have to fit it.
        let inner = self.weights[gate.0 as usize].shape.get(1).copied();
        let inner = inner.unwrap_or(1);
        for (weight, shape) in [
            (gate, [experts, inner, hidden]),
            (up, [experts, inner, hidden]),
            (down, [experts, hidden, inner]),
        ] {
            self.needs_shape(kind, weight, &shape)?;
        }
        for (bias, width) in biases
            .into_iter()
            .flatten()
            .zip([inner, inner, hidden].map(|width| experts * width))
        {
            self.needs_shape(kind, bias, &[width])?;
        }
        if top_k == 0 || top_k > experts {
            return Err(RecordError::InvalidValue {
                what: format!("top_k of {kind}"),
                expected: "between 1 and the number of experts",
                found: format!("{top_k} of {experts}"),
            });
        }
        self.check_routing(kind, &routing, top_k, experts)?;
        for other in [router_logits, out] {
            self.needs_another(kind, x, other)?;
            self.needs_rows(kind, other, Rows::Tokens)?;
        }
        self.needs_another(kind, router_logits, out)?;
        self.needs_rows(kind, x, Rows::Tokens)?;
        self.needs_width(kind, out, hidden)
    }

    fn check_routing(
        &self,
        kind: &'static str,
        routing: &Routing,
        top_k: usize,
        experts: usize,
    ) -> Result<()> {
        finite(|| format!("the scale of {kind}"), routing.scale)?;
        if let Some(bias) = routing.bias {
            self.needs_shape(kind, bias, &[experts])?;
        }
        let Some(groups) = routing.groups else {
            return Ok(());
        };
        let size = experts.checked_div(groups.count).unwrap_or(0);
        let fits = size * groups.count == experts
            && groups.count <= 64
            && (1..=groups.count).contains(&groups.kept)
            && groups.kept * size >= top_k
            && (1..=size.min(2)).contains(&groups.scored);
        if fits {
            return Ok(());
        }
        Err(RecordError::InvalidValue {
            what: format!("the groups of {kind}"),
            expected: "at most 64 runs of equal length, enough of them for top_k experts",
            found: format!("{groups:?} of {experts} experts, top_k {top_k}"),
        })
    }

    pub(crate) fn name_of(&self, buffer: BufferId) -> String {
        self.buffers[buffer.0 as usize].name.clone()
    }

    pub(crate) fn width_of(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.0 as usize].width
    }

    fn needs_width(&self, op: &'static str, buffer: BufferId, expected: usize) -> Result<()> {
        let found = self.width_of(buffer);
        if found == expected {
            return Ok(());
        }
        Err(RecordError::Width {
            op,
            buffer: self.name_of(buffer),
            found,
            expected,
        })
    }

    fn needs_rows(&self, op: &'static str, buffer: BufferId, expected: Rows) -> Result<()> {
        let found = self.buffers[buffer.0 as usize].rows;
        if found == expected {
            return Ok(());
        }
        Err(RecordError::WrongRows {
            op,
            buffer: self.name_of(buffer),
            found,
            expected,
        })
    }

    fn needs_same_rows(&self, op: &'static str, x: BufferId, out: BufferId) -> Result<()> {
        self.needs_rows(op, out, self.buffers[x.0 as usize].rows)
    }

    fn needs_another(&self, op: &'static str, x: BufferId, out: BufferId) -> Result<()> {
        if x == out {
            let buffer = self.name_of(x);
            return Err(RecordError::InPlace { op, buffer });
        }
        Ok(())
    }

    fn needs_slice(&self, op: &'static str, x: BufferId, start: usize, len: usize) -> Result<()> {
        let (width, end) = (self.width_of(x), start.saturating_add(len));
        if len > 0 && end <= width {
            return Ok(());
        }
        Err(RecordError::BeyondRow {
            op,
            buffer: self.name_of(x),
            start,
            end,
            width,
        })
    }

    fn needs_shape(&self, op: &'static str, weight: WeightId, expected: &[usize]) -> Result<()> {
        let decl = &self.weights[weight.0 as usize];
        if decl.shape == expected {
            return Ok(());
        }
        Err(RecordError::WeightShape {
            op,
            weight: decl.name.clone(),
            found: decl.shape.clone(),
            expected: expected.to_owned(),
        })
    }

    fn vector(&self, op: &'static str, weight: WeightId) -> Result<usize> {
        let decl = &self.weights[weight.0 as usize];
        let width = decl.shape[0];
        self.needs_shape(op, weight, &[width])?;
        Ok(width)
    }

    fn matrix(&self, op: &'static str, weight: WeightId) -> Result<[usize; 2]> {
        let decl = &self.weights[weight.0 as usize];
        match decl.shape[..] {
            [rows, columns] => Ok([rows, columns]),
            _ => Err(RecordError::WeightShape {
                op,
                weight: decl.name.clone(),
                found: decl.shape.clone(),
                expected: vec![decl.shape[0], 1],
            }),
        }
    }
}

pub(crate) fn positive(what: impl FnOnce() -> String, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(RecordError::InvalidValue {
        what: what(),
        expected: "positive",
        found: value.to_string(),
    })
}

pub(crate) fn finite(what: impl FnOnce() -> String, value: f32) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(RecordError::InvalidValue {
        what: what(),
        expected: "finite",
        found: value.to_string(),
    })
}

fn cap(op: &'static str, softcap: Option<f32>) -> Result<()> {
    match softcap {
        Some(value) if !(value.is_finite() && value > 0.0) => Err(RecordError::InvalidValue {
            what: format!("the softcap of {op}"),
            expected: "finite and positive",
            found: value.to_string(),
        }),
        _ => Ok(()),
    }
}

fn multiple(op: &'static str, what: &'static str, value: usize, divisor: usize) -> Result<()> {
    if value.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(RecordError::NotAMultiple {
        op,
        what,
        value,
        divisor,
    })
}
