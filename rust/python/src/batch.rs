//! `_core.Batch`: what a step needs.
//!
//! A `Batch` is a handle on buffers that the scheduler refills: making one copies nothing. An executor in Rust locks
//! it for the step (`PyBatch::share`), one in Python reads the arrays, each of which is a copy that it may keep.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlib_program::{Batch, GroupBatch, LogitsRow, SampledRow};
use pyo3::prelude::*;

use crate::arrays::{Array, Numeric};
use crate::errors::{Error, to_py_err};
use crate::sampling_params::PySamplingParams;

/// A batch that the scheduler and an executor share.
pub(crate) type SharedBatch = Arc<Mutex<Batch>>;

/// Lock a batch. It holds plain arrays that are refilled as a whole: a panic elsewhere cannot leave it unusable.
pub(crate) fn lock(batch: &SharedBatch) -> MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The input of one step as int32 arrays. The scheduler refills its buffers only when no handle is left.
#[pyclass(frozen, module = "inferlib._core", name = "Batch")]
pub(crate) struct PyBatch {
    batch: SharedBatch,
}

impl PyBatch {
    pub(crate) fn new(batch: SharedBatch) -> Self {
        Self { batch }
    }

    /// For an executor in Rust: lock the result while the step runs (`batch::lock`), without the GIL.
    pub(crate) fn share(&self) -> SharedBatch {
        Arc::clone(&self.batch)
    }

    fn array<'py, T: Numeric + Copy>(
        &self,
        py: Python<'py>,
        select: impl FnOnce(&Batch) -> &[T],
    ) -> PyResult<Array<'py, T>> {
        Array::read_only(py, select(&lock(&self.batch)))
    }
}

#[pymethods]
impl PyBatch {
    /// Increases by one per scheduled step.
    #[getter]
    fn step(&self) -> u64 {
        lock(&self.batch).step
    }

    /// Scheduled tokens.
    #[getter]
    fn num_tokens(&self) -> usize {
        lock(&self.batch).num_tokens()
    }

    /// Sequences in this step.
    #[getter]
    fn num_seqs(&self) -> usize {
        lock(&self.batch).num_seqs()
    }

    /// Rows of logits in this step.
    #[getter]
    fn num_sampled(&self) -> usize {
        lock(&self.batch).num_sampled()
    }

    /// `[num_tokens]`.
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.token_ids)
    }

    /// `[num_tokens]`: absolute positions.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.positions)
    }

    /// `[num_tokens]`: 1 for tokens of a sequence's second text, else 0; empty if all are 0.
    #[getter]
    fn segment_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.segment_ids)
    }

    /// Rows that are to be handed out: (capture point, first row, one past the last).
    #[getter]
    fn captures(&self) -> Vec<(u32, u32, u32)> {
        let batch = lock(&self.batch);
        let captures = batch.captures.iter();
        captures
            .map(|rows| (rows.point, rows.start, rows.end))
            .collect()
    }

    /// `[num_seqs + 1]`: first token row of each sequence.
    #[getter]
    fn query_start_loc<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.query_start_loc)
    }

    /// `[num_seqs]`: tokens in the cache after this step.
    #[getter]
    fn seq_lens<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.seq_lens)
    }

    /// `[num_sampled]`: ascending token rows whose logits are wanted.
    #[getter]
    fn logits_indices<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.logits_indices)
    }

    /// Token histories that sampling needs, flattened; see `SampledRows`.
    #[getter]
    fn history<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |batch| &batch.history)
    }

    /// Block tables and slots, one per KV group.
    #[getter]
    fn groups(&self) -> Vec<PyGroupBatch> {
        let count = lock(&self.batch).groups.len();
        let group = |index| PyGroupBatch {
            batch: Arc::clone(&self.batch),
            index,
        };
        (0..count).map(group).collect()
    }

    /// Let the executor hand out the logits of these requests' rows that draw tokens, and draw nothing from them. Returns
    /// these rows, each with its request and sequence.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned list"
    )]
    fn want_logits(&self, request_ids: Vec<u64>) -> Vec<(usize, u64, u32)> {
        let mut batch = lock(&self.batch);
        let rows = batch.sampled.iter_mut().enumerate();
        rows.filter(|(_, row)| row.kind == LogitsRow::Sample)
            .filter(|(_, row)| request_ids.contains(&row.request.0))
            .map(|(index, row)| {
                row.wants_logits = true;
                (index, row.request.0, row.sequence_index)
            })
            .collect()
    }

    /// The rows that draw tokens of these requests: row, request, sequence, and the drafted token behind the row, if there
    /// is one.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned list"
    )]
    fn drawn_rows(&self, request_ids: Vec<u64>) -> Vec<(usize, u64, u32, Option<i32>)> {
        let batch = lock(&self.batch);
        let rows = batch.sampled.iter().enumerate();
        rows.filter(|(_, row)| row.kind == LogitsRow::Sample)
            .filter(|(_, row)| request_ids.contains(&row.request.0))
            .map(|(index, row)| {
                let draft = draft_behind(&batch, index);
                (index, row.request.0, row.sequence_index, draft)
            })
            .collect()
    }

    /// Let a row draw this token and no other, of a vocabulary of `vocab_size`.
    fn restrict(
        &self,
        py: Python<'_>,
        row: usize,
        token_id: usize,
        vocab_size: usize,
    ) -> PyResult<()> {
        let mut mask = vec![0; vocab_size.div_ceil(32)];
        let mut batch = lock(&self.batch);
        let restricted = batch.sampled.get_mut(row);
        let (Some(word), Some(restricted)) = (mask.get_mut(token_id / 32), restricted) else {
            let message = format!("there is no row {row} or no token {token_id}");
            let field = "row";
            return Err(to_py_err(py, Error::Request { field, message }));
        };
        *word = 1 << (token_id % 32);
        restricted.mask = Some(mask.into());
        Ok(())
    }

    /// What the rows of logits are for.
    #[getter]
    fn sampled(&self) -> PySampledRows {
        PySampledRows {
            batch: Arc::clone(&self.batch),
        }
    }
}

/// Block tables and slots of one KV group.
#[pyclass(frozen, module = "inferlib._core", name = "GroupBatch")]
pub(crate) struct PyGroupBatch {
    batch: SharedBatch,
    index: usize,
}

impl PyGroupBatch {
    fn array<'py>(
        &self,
        py: Python<'py>,
        select: impl FnOnce(&GroupBatch) -> &[i32],
    ) -> PyResult<Array<'py, i32>> {
        let batch = lock(&self.batch);
        Array::read_only(py, batch.groups.get(self.index).map_or(&[][..], select))
    }
}

#[pymethods]
impl PyGroupBatch {
    /// `[num_tokens]`: `block_id * block_size + offset` where each token's K and V go.
    #[getter]
    fn slot_mapping<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |group| &group.slot_mapping)
    }

    /// `[num_seqs + 1]`: where each sequence's blocks begin in `block_tables`.
    #[getter]
    fn block_table_start_loc<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |group| &group.block_table_start_loc)
    }

    /// Block ids in order of position.
    #[getter]
    fn block_tables<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |group| &group.block_tables)
    }

    /// Blocks to copy before the step: source, target, source, target …
    #[getter]
    fn block_copies<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |group| &group.block_copies)
    }
}

/// What each row of logits is for, as parallel arrays.
#[pyclass(frozen, module = "inferlib._core", name = "SampledRows")]
pub(crate) struct PySampledRows {
    batch: SharedBatch,
}

impl PySampledRows {
    fn array<'py, T: Numeric + Copy>(
        &self,
        py: Python<'py>,
        select: impl Fn(&SampledRow) -> T,
    ) -> PyResult<Array<'py, T>> {
        let values: Vec<T> = lock(&self.batch).sampled.iter().map(select).collect();
        Array::read_only(py, &values)
    }
}

#[pymethods]
impl PySampledRows {
    /// `[num_sampled]`: whether the row scores a prompt token; the others draw the next token.
    #[getter]
    fn is_scored<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, bool>> {
        self.array(py, |row| row.kind != LogitsRow::Sample)
    }

    /// `[num_sampled]`: whether the row's token is that of the largest logit, and nothing else is asked of it.
    #[getter]
    fn is_argmax<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, bool>> {
        self.array(py, |row| is_plain(row) && row.params.temperature <= 0.0)
    }

    /// `[num_sampled]`: whether the row is drawn by temperature, `top_k`, `top_p` and `min_p` alone, and nothing else is
    /// asked of it.
    #[getter]
    fn is_plain<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, bool>> {
        self.array(py, is_plain)
    }

    /// `[num_sampled]`: how many tokens the request's `max_tokens` allows behind this one.
    #[getter]
    fn num_tokens_left<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| {
            let left = row
                .params
                .max_tokens
                .saturating_sub(row.num_output_tokens + 1);
            i32::try_from(left).unwrap_or(i32::MAX)
        })
    }

    /// `[num_sampled]`: as in the request, and so the next three.
    #[getter]
    fn temperature<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        self.array(py, |row| row.params.temperature)
    }

    /// `[num_sampled]`: 0 keeps all.
    #[getter]
    fn top_k<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| {
            let kept = row.params.top_k.unwrap_or(0);
            i32::try_from(kept).unwrap_or(i32::MAX)
        })
    }

    /// `[num_sampled]`.
    #[getter]
    fn top_p<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        self.array(py, |row| row.params.top_p)
    }

    /// `[num_sampled]`.
    #[getter]
    fn min_p<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        self.array(py, |row| row.params.min_p)
    }

    /// `[is_scored.sum()]`: the tokens that are scored, in the order of their rows.
    #[getter]
    fn targets<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        let batch = lock(&self.batch);
        let target = |row: &SampledRow| match row.kind {
            LogitsRow::Score { target } => Some(target),
            LogitsRow::Sample => None,
        };
        Array::read_only(
            py,
            &batch.sampled.iter().filter_map(target).collect::<Vec<_>>(),
        )
    }

    /// `[num_sampled]`: index of the sequence in the batch.
    #[getter]
    fn sequences<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.sequence))
    }

    /// `[num_sampled]`: with the next two, the key of the random numbers.
    #[getter]
    fn seeds<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, u64>> {
        self.array(py, |row| row.seed)
    }

    /// `[num_sampled]`: which of the request's `n` sequences.
    #[getter]
    fn sequence_indices<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.sequence_index))
    }

    /// `[num_sampled]`: position of the token that is drawn or scored.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.position))
    }

    /// `[num_sampled]`: output tokens so far.
    #[getter]
    fn num_output_tokens<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.num_output_tokens))
    }

    /// `[num_sampled]`: where the row's tokens begin in `Batch.history`, prompt first.
    #[getter]
    fn history_start<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.history_start))
    }

    /// `[num_sampled]`: prompt tokens there; 0 where sampling needs no history.
    #[getter]
    fn history_prompt_len<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.history_prompt_len))
    }

    /// `[num_sampled]`: output tokens there.
    #[getter]
    fn history_output_len<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        self.array(py, |row| int32(row.history_output_len))
    }

    /// Parameters of each row, as objects: not for the hot path.
    #[getter]
    fn params(&self) -> Vec<PySamplingParams> {
        let batch = lock(&self.batch);
        let params = batch.sampled.iter().map(|row| Arc::clone(&row.params));
        params.map(PySamplingParams::from_shared).collect()
    }
}

/// The drafted token behind a row of logits; `None` behind a sequence's last one.
pub(crate) fn draft_behind(batch: &Batch, row: usize) -> Option<i32> {
    let token_row = usize::try_from(*batch.logits_indices.get(row)?).ok()? + 1;
    let sequence = batch.sampled[row].sequence as usize;
    let end = usize::try_from(*batch.query_start_loc.get(sequence + 1)?).ok()?;
    (token_row < end).then(|| batch.token_ids[token_row])
}

/// Whether a row needs nothing but its logits, the numbers of its request and its place.
fn is_plain(row: &SampledRow) -> bool {
    let params = &*row.params;
    row.kind == LogitsRow::Sample
        && params.logprobs.is_none()
        && params.logit_bias.is_empty()
        && params.allowed_token_ids.is_none()
        && row.mask.is_none()
        && !row.wants_logits
        && !params.needs_history()
        && !params.cuts_further()
        && row.num_output_tokens >= params.min_tokens
}

/// The scheduler's limits keep every count below 2^31.
#[expect(clippy::cast_possible_wrap, reason = "see above")]
fn int32(value: u32) -> i32 {
    value as i32
}
