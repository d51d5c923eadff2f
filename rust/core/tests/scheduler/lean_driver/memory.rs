//! K and V as one number per token.

use inferlib_core::GroupConfig;
use inferlib_program::{BLOCK_SIZE, Batch, LogitsRow, RowStatus, StepOutput};

use super::VOCAB_SIZE;

pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0x632b_e59b_d9b4_e019);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

/// The hash of a text: that of what precedes `tokens`, which stand at `position ..`, and of them.
pub fn chain(before: u64, tokens: &[i32], position: usize) -> u64 {
    let tokens = tokens.iter().zip(position..);
    tokens.fold(before, |state, (&token, position)| {
        mix(mix(state, token as u64), position as u64)
    })
}

/// The token at `position`, behind a text of hash `state`. It repeats itself often, so that drafts are accepted.
pub fn draw(state: u64, seed: u64, sequence_index: u32, position: usize) -> i32 {
    let random = mix(
        state,
        mix(mix(seed, u64::from(sequence_index)), position as u64),
    );
    if seed.is_multiple_of(2) && !random.is_multiple_of(8) {
        return (6 + position % 7) as i32;
    }
    (random / 8 % VOCAB_SIZE) as i32
}

pub struct Memory {
    /// `[group][block * BLOCK_SIZE + offset]`: the hash of the text up to the token whose K and V lie there.
    groups: Vec<Vec<u64>>,
    states: Vec<u64>,
}

fn slot(table: &[impl Copy + TryInto<usize, Error: std::fmt::Debug>], position: usize) -> usize {
    let block: usize = table[position / BLOCK_SIZE].try_into().unwrap();
    block * BLOCK_SIZE + position % BLOCK_SIZE
}

impl Memory {
    pub fn new(groups: &[GroupConfig]) -> Self {
        let slots = |group: &GroupConfig| vec![0; group.num_blocks as usize * BLOCK_SIZE];
        Self {
            groups: groups.iter().map(slots).collect(),
            states: Vec::new(),
        }
    }

    /// Write every row's K and V, and draw a token for every row of logits.
    pub fn run(&mut self, batch: &Batch, output: &mut StepOutput) {
        for (memory, arrays) in self.groups.iter_mut().zip(&batch.groups) {
            for pair in arrays.block_copies.chunks_exact(2) {
                let (source, target) = (pair[0] as usize, pair[1] as usize);
                let start = source * BLOCK_SIZE;
                memory.copy_within(start..start + BLOCK_SIZE, target * BLOCK_SIZE);
            }
        }
        for (group, (memory, arrays)) in self.groups.iter_mut().zip(&batch.groups).enumerate() {
            self.states.resize(batch.num_tokens(), 0);
            for sequence in 0..batch.num_seqs() {
                let rows = batch.query_start_loc[sequence] as usize
                    ..batch.query_start_loc[sequence + 1] as usize;
                let table = &arrays.block_tables[arrays.block_table_start_loc[sequence] as usize
                    ..arrays.block_table_start_loc[sequence + 1] as usize];
                for row in rows {
                    let position = batch.positions[row] as usize;
                    let before = match position {
                        0 => 0,
                        _ => memory[slot(table, position - 1)],
                    };
                    let state = chain(before, &[batch.token_ids[row]], position);
                    let place = arrays.slot_mapping[row] as usize;
                    assert_eq!(place, slot(table, position));
                    memory[place] = state;
                    if group > 0 {
                        assert_eq!(self.states[row], state, "the groups differ");
                    }
                    self.states[row] = state;
                }
            }
        }
        output.token_ids.clear();
        for (&row, sampled) in batch.logits_indices.iter().zip(&batch.sampled) {
            let (state, position) = (self.states[row as usize], sampled.position as usize);
            output.token_ids.push(match sampled.kind {
                LogitsRow::Score { target } => target,
                LogitsRow::Sample => draw(state, sampled.seed, sampled.sequence_index, position),
            });
        }
        let count = output.token_ids.len();
        output.status.clear();
        output.status.resize(count, RowStatus::Ok);
        output.logprobs.clear();
        output.logprobs.resize(count, None);
    }

    /// K and V of `tokens` come from a file.
    pub fn write<'a>(&mut self, tokens: &[i32], table: impl Fn(usize) -> &'a [u32]) {
        for (group, memory) in self.groups.iter_mut().enumerate() {
            let mut state = 0;
            for (position, token) in tokens.iter().enumerate() {
                state = chain(state, &[*token], position);
                memory[slot(table(group), position)] = state;
            }
        }
    }

    /// `table` leads to K and V of `tokens`.
    pub fn check<'a>(&self, tokens: &[i32], table: impl Fn(usize) -> &'a [u32]) {
        for (group, memory) in self.groups.iter().enumerate() {
            let mut state = 0;
            for (position, token) in tokens.iter().enumerate() {
                state = chain(state, &[*token], position);
                assert_eq!(memory[slot(table(group), position)], state);
            }
        }
    }
}
