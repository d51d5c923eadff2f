//! The plan of an executor's program, and the room that its steps need.

use std::mem;
use std::sync::Mutex;

use inferlib_program::program::WeightId;

use super::{CpuExecutor, Weight};
use crate::activations::{Activations, Need};
use crate::error::CpuError;
use crate::experts::{MoeWeights, Room};
use crate::head_linear::HeadMatrices;
use crate::matrix::Matrix;
use crate::plan::{self, Step};
use crate::workspace::{Workspace, Workspaces};

impl CpuExecutor {
    /// Every weight is there: build the plan and the workspaces.
    ///
    /// # Errors
    /// Missing weights, or no memory.
    pub fn seal(&mut self) -> Result<(), CpuError> {
        let missing: Vec<&str> = self
            .program
            .weights
            .iter()
            .zip(&self.weights)
            .filter(|(_, loaded)| loaded.is_none())
            .map(|(declared, _)| declared.name.as_str())
            .take(10)
            .collect();
        if !missing.is_empty() {
            return Err(CpuError::MissingWeights {
                names: missing.join(", "),
            });
        }
        self.plan(!self.adapters.is_empty())
    }

    /// Plan the steps and the room they need. After an error all is as it was.
    pub(super) fn plan(&mut self, adapts: bool) -> Result<(), CpuError> {
        let steps = plan::build(
            &self.program,
            adapts,
            |weight| self.need(weight),
            |weight| self.matrix(weight).is_some_and(Matrix::halves_alike),
        );
        let former = mem::replace(&mut self.steps, steps);
        match self.room_of_steps() {
            Ok(workspaces) => {
                self.workspaces = Some(workspaces);
                self.adapts = adapts;
                Ok(())
            }
            Err(error) => {
                self.steps = former;
                Err(error)
            }
        }
    }

    /// What the steps work in, and what they read of several matrices at once.
    fn room_of_steps(&mut self) -> Result<Workspaces, CpuError> {
        let mut need = Need::default();
        let mut width = 0;
        for weight in &self.weights {
            if let Some(Weight::Matrix(matrix)) = weight {
                need = need.union(matrix.need(self.precision));
                width = width.max(matrix.in_features);
            }
        }
        self.moes = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Moe(moe) => Some(MoeWeights::new(self, moe)),
                _ => None,
            })
            .collect();
        self.head_linears = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::HeadLinear(step) => Some(HeadMatrices::new(self, step)),
                _ => None,
            })
            .collect();
        let grouped = self
            .moes
            .iter()
            .map(|moe| Room::of(moe, self.max_tokens).padded_rows);
        let by_head = self
            .head_linears
            .iter()
            .map(|heads| heads.rows_of_width(self.max_tokens, width));
        let largest = grouped.chain(by_head).max();
        let rows = largest.unwrap_or(0).max(self.max_tokens);
        let workspace = |workers: usize| {
            let activations = Activations::new(rows, width, need);
            Workspace::new(self, activations, workers)
        };
        // A sequence of a bidirectional model is in one step: nothing of it is in others' caches.
        let apart = self.threads() > 1 && self.program.is_bidirectional();
        let own = (0..if apart { self.threads() } else { 0 }).map(|_| workspace(1).map(Mutex::new));
        Ok(Workspaces {
            shared: workspace(self.threads())?,
            own: own.collect::<Result<_, _>>()?,
        })
    }

    /// Query heads of the attention ops over a KV group.
    pub(crate) fn num_heads(&self, group: usize) -> usize {
        self.steps
            .iter()
            .filter_map(|step| match step {
                Step::Attention { kv, num_heads, .. } if kv.group == group => Some(*num_heads),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    fn need(&self, weight: WeightId) -> Need {
        self.matrix(weight)
            .map_or_else(Need::default, |matrix| matrix.need(self.precision))
    }
}
