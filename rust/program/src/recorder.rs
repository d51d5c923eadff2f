//! Builds a [`Program`]: one call per op, every id and width checked when the op is recorded.
//!
//! Runs once per model at load; an executor may then replay the program without checking it again.

use crate::op_shapes::{finite, positive};
use crate::program::{
    Buffer, BufferId, KvGroup, KvLayer, Op, Program, RopeDecl, RopeId, Rows, WeightDecl, WeightId,
};
use crate::record_error::RecordError;

type Result<T> = std::result::Result<T, RecordError>;

/// Records one forward pass.
///
/// Declaring the same thing twice gives the same id, so that layers share buffers, rotary tables and tied weights.
#[derive(Clone, Debug, Default)]
pub struct ProgramRecorder {
    program: Program,
    written: Vec<bool>,
    /// Per KV group and layer.
    stored: Vec<Vec<bool>>,
}

impl ProgramRecorder {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `width` floats per row.
    pub fn buffer(&mut self, name: &str, rows: Rows, width: usize) -> Result<BufferId> {
        positive(|| format!("width of buffer {name:?}"), width)?;
        let buffers = &mut self.program.buffers;
        if let Some(index) = buffers.iter().position(|buffer| buffer.name == name) {
            let known = &buffers[index];
            if (known.rows, known.width) == (rows, width) {
                return Ok(BufferId(id(index)));
            }
            let text = |rows: Rows, width: usize| format!("[{}, {width}]", rows.name());
            return Err(RecordError::Redeclared {
                what: "buffer",
                name: name.to_owned(),
                first: text(known.rows, known.width),
                second: text(rows, width),
            });
        }
        buffers.push(Buffer {
            name: name.to_owned(),
            rows,
            width,
        });
        self.written.push(false);
        Ok(BufferId(id(self.written.len() - 1)))
    }

    /// A weight by canonical name: one dimension for a vector, `[out_features, in_features]` for a matrix,
    /// `[experts, out_features, in_features]` for stacked ones.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Result<WeightId> {
        if !matches!(shape.len(), 1..=3) || shape.contains(&0) {
            return Err(RecordError::InvalidValue {
                what: format!("the shape of weight {name:?}"),
                expected: "one to three positive sizes",
                found: format!("{shape:?}"),
            });
        }
        let weights = &mut self.program.weights;
        if let Some(index) = weights.iter().position(|weight| weight.name == name) {
            if weights[index].shape == shape {
                return Ok(WeightId(id(index)));
            }
            return Err(RecordError::Redeclared {
                what: "weight",
                name: name.to_owned(),
                first: format!("{:?}", weights[index].shape),
                second: format!("{shape:?}"),
            });
        }
        weights.push(WeightDecl {
            name: name.to_owned(),
            shape: shape.to_owned(),
        });
        Ok(WeightId(id(weights.len() - 1)))
    }

    /// A rotary table.
    pub fn rope(&mut self, inv_freq: Vec<f32>, scale: f32) -> Result<RopeId> {
        finite(|| "the scale of a rotary table".to_owned(), scale)?;
        if inv_freq.is_empty() || !inv_freq.iter().all(|frequency| frequency.is_finite()) {
            return Err(RecordError::InvalidValue {
                what: "the frequencies of a rotary table".to_owned(),
                expected: "one or more finite numbers",
                found: format!("{inv_freq:?}"),
            });
        }
        let rope = RopeDecl { inv_freq, scale };
        let ropes = &mut self.program.ropes;
        let index = ropes.iter().position(|known| *known == rope);
        Ok(RopeId(id(index.unwrap_or_else(|| {
            ropes.push(rope);
            ropes.len() - 1
        }))))
    }

    /// Room for one more layer's K and V, in the group of all layers with the same dimensions, window and direction.
    pub fn kv_layer(
        &mut self,
        num_kv_heads: usize,
        k_head_dim: usize,
        v_head_dim: usize,
        window: Option<usize>,
        bidirectional: bool,
    ) -> Result<KvLayer> {
        let sizes = [
            ("num_kv_heads", num_kv_heads),
            ("k_head_dim", k_head_dim),
            ("v_head_dim", v_head_dim),
            ("window", window.unwrap_or(1)),
        ];
        for (name, size) in sizes {
            positive(|| format!("{name} of a KV layer"), size)?;
        }
        let groups = &mut self.program.kv_groups;
        let same = |group: &KvGroup| {
            (
                group.num_kv_heads,
                group.k_head_dim,
                group.v_head_dim,
                group.window,
                group.bidirectional,
            ) == (num_kv_heads, k_head_dim, v_head_dim, window, bidirectional)
        };
        let group = groups.iter().position(same).unwrap_or_else(|| {
            groups.push(KvGroup {
                num_layers: 0,
                num_kv_heads,
                k_head_dim,
                v_head_dim,
                window,
                bidirectional,
            });
            self.stored.push(Vec::new());
            groups.len() - 1
        });
        let layer = groups[group].num_layers;
        groups[group].num_layers += 1;
        self.stored[group].push(false);
        Ok(KvLayer { group, layer })
    }

    /// Append an op, after checking it against the declarations and the ops before it.
    pub fn push(&mut self, op: Op) -> Result<()> {
        self.check_ids(&op)?;
        self.check_order(&op)?;
        self.program.check_shapes(&op)?;
        if let Some(out) = op.writes() {
            self.written[out.0 as usize] = true;
        }
        match op {
            Op::StoreKv { kv, .. } => self.stored[kv.group][kv.layer] = true,
            Op::LmHead { out, .. } => self.program.vocab_size = self.program.width_of(out),
            Op::Embedding { weight, .. } if !self.program.has_lm_head() => {
                self.program.vocab_size = self.program.weights[weight.0 as usize].shape[0];
            }
            _ => {}
        }
        self.program.ops.push(op);
        Ok(())
    }

    /// The finished program. Everything declared has to be in use.
    pub fn finish(self) -> Result<Program> {
        let Self {
            program,
            written,
            stored,
        } = self;
        let found = program
            .ops
            .iter()
            .filter(|op| matches!(op, Op::LmHead { .. }))
            .count();
        // Without logits something else has to be handed out.
        if found > 1 || found == 0 && program.captures().next().is_none() {
            return Err(RecordError::LmHeads { found });
        }
        let directions = program.kv_groups.iter().map(|group| group.bidirectional);
        let mixed = directions.clone().any(|both| both) && !directions.clone().all(|both| both);
        if program.is_bidirectional() && (found > 0 || mixed) {
            return Err(RecordError::InvalidValue {
                what: "the attention of a program".to_owned(),
                expected: "causal in all layers, or bidirectional in all layers and without lm_head",
                found: format!(
                    "{found} lm_head, bidirectional: {:?}",
                    directions.collect::<Vec<_>>()
                ),
            });
        }
        if let Some((buffer, _)) = program.buffers.iter().zip(written).find(|(_, used)| !used) {
            return Err(RecordError::Unused {
                what: "buffer",
                name: buffer.name.clone(),
            });
        }
        let mut used = vec![false; program.weights.len()];
        for weight in program.ops.iter().flat_map(Op::weights) {
            used[weight.0 as usize] = true;
        }
        if let Some((weight, _)) = program.weights.iter().zip(used).find(|(_, used)| !used) {
            return Err(RecordError::Unused {
                what: "weight",
                name: weight.name.clone(),
            });
        }
        for (group, layers) in stored.iter().enumerate() {
            if let Some(layer) = layers.iter().position(|stored| !stored) {
                return Err(RecordError::Unused {
                    what: "KV layer",
                    name: format!("{layer} of group {group}"),
                });
            }
        }
        Ok(program)
    }

    fn check_ids(&self, op: &Op) -> Result<()> {
        let kind = op.kind();
        let known = |what, id: usize, len: usize| {
            if id < len {
                Ok(())
            } else {
                Err(RecordError::UnknownId { op: kind, what, id })
            }
        };
        for buffer in op.reads().into_iter().chain([op.writes()]).flatten() {
            known("buffer", buffer.0 as usize, self.program.buffers.len())?;
        }
        for weight in op.weights() {
            known("weight", weight.0 as usize, self.program.weights.len())?;
        }
        match *op {
            Op::Rope { rope, .. } => known("rope", rope.0 as usize, self.program.ropes.len()),
            Op::StoreKv { kv, .. } | Op::Attention { kv, .. } => {
                known("KV group", kv.group, self.stored.len())?;
                known("KV layer", kv.layer, self.stored[kv.group].len())
            }
            _ => Ok(()),
        }
    }

    fn check_order(&self, op: &Op) -> Result<()> {
        for buffer in op.reads().into_iter().flatten() {
            if !self.written[buffer.0 as usize] {
                return Err(RecordError::ReadBeforeWrite {
                    op: op.kind(),
                    buffer: self.program.name_of(buffer),
                });
            }
        }
        let kv_order = |kv: KvLayer, problem| RecordError::KvOrder {
            op: op.kind(),
            group: kv.group,
            layer: kv.layer,
            problem,
        };
        match op {
            Op::StoreKv { kv, .. } if self.stored[kv.group][kv.layer] => {
                Err(kv_order(*kv, "is stored twice"))
            }
            Op::Attention { kv, .. } if !self.stored[kv.group][kv.layer] => {
                Err(kv_order(*kv, "is read before it is stored"))
            }
            Op::Capture { name, .. } => {
                let same = |op: &Op| matches!(op, Op::Capture { name: known, .. } if known == name);
                match self.program.ops.iter().find(|op| same(op)) {
                    Some(Op::Capture { x: first, .. }) => Err(RecordError::Redeclared {
                        what: "capture point",
                        name: name.clone(),
                        first: self.program.name_of(*first),
                        second: op
                            .reads()
                            .into_iter()
                            .flatten()
                            .map(|x| self.program.name_of(x))
                            .collect(),
                    }),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("a program has fewer than 2^32 parts")
}
