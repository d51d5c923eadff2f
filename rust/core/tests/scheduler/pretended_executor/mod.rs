//! A pretended executor whose "model" is a pure hash of the token history, read and written through the block tables
//! like K and V, and an oracle that computes the same without any scheduler.
#![expect(unreachable_pub, reason = "a part of the tests")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "small numbers and hashes"
)]

use std::sync::Arc;

use inferlib_core::{
    FinishReason, GroupConfig, NewRequest, Policy, PrefixHash, Scheduler, SchedulerConfig,
    SequenceOutput,
    scheduler::{BACKGROUND_TOKENS, ROWS_PER_PASS},
};
use inferlib_program::{
    BLOCK_SIZE, Batch, LogitsRow, RowLogprobs, RowStatus, SampledRow, SamplingParams, StepOutput,
};

pub const VOCAB_SIZE: usize = 24;

/// splitmix64 of the two, mixed.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0x632b_e59b_d9b4_e019);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The state behind a token: what its K, V and logits are made of.
fn state(before: u64, token: i32, position: usize) -> u64 {
    mix(mix(before, token as u64), position as u64)
}

/// Seeds with this bit make a text that mostly repeats itself, so that drafts are accepted; others make noise.
pub const REPETITIVE: u64 = 1 << 63;

fn draw(state: u64, seed: u64, sequence_index: u32, position: usize) -> i32 {
    let key = mix(mix(seed, u64::from(sequence_index)), position as u64);
    let random = mix(state, key);
    if seed & REPETITIVE != 0 && !random.is_multiple_of(8) {
        return (6 + position % 7) as i32;
    }
    (random / 8 % VOCAB_SIZE as u64) as i32
}

fn logprobs(state: u64, token: i32) -> RowLogprobs {
    let value = mix(state, token as u64) % 1000;
    RowLogprobs {
        logprob: -(value as f32) / 100.0,
        rank: value as u32,
        ..RowLogprobs::default()
    }
}

/// The capture points of the pretended model: a row per token, a row per sequence, and a row per row of logits.
pub const TOKEN_POINT: u32 = 2;
pub const SEQUENCE_POINT: u32 = 5;
pub const LOGITS_POINT: u32 = 7;

/// What a capture point gives of a state, `[1]`.
fn handed_out(state: u64) -> f32 {
    (state % (1 << 24)) as f32
}

/// K and V of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    token: i32,
    position: usize,
    state: u64,
    /// Step and sequence of the batch that wrote it.
    writer: (u64, usize),
}

/// Runs batches and refuses whatever a real executor would silently get wrong.
pub struct FakeExecutor {
    /// `[group][block * BLOCK_SIZE + offset]`.
    slots: Vec<Vec<Option<Entry>>>,
    /// Logits of states for which this holds are not numbers.
    pub poison: fn(u64) -> bool,
    pub num_copies: usize,
}

impl FakeExecutor {
    pub fn new(groups: &[GroupConfig]) -> Self {
        let slots = |group: &GroupConfig| vec![None; group.num_blocks as usize * BLOCK_SIZE];
        Self {
            slots: groups.iter().map(slots).collect(),
            poison: |_| false,
            num_copies: 0,
        }
    }

    pub fn run(&mut self, batch: &Batch) -> StepOutput {
        check_shapes(batch);
        self.copy_blocks(batch);
        let mut states = vec![0; batch.num_tokens()];
        // The order of sequences must not matter: last first.
        for sequence in (0..batch.num_seqs()).rev() {
            self.run_sequence(batch, sequence, &mut states);
        }
        let mut output = StepOutput::default();
        for (row, sampled) in batch.logits_indices.iter().zip(&batch.sampled) {
            self.sample(
                batch,
                states[*row as usize],
                *row as usize,
                sampled,
                &mut output,
            );
        }
        for captured in &batch.captures {
            let rows = captured.start as usize..captured.end as usize;
            let token = |row: usize| match captured.point {
                SEQUENCE_POINT => batch.query_start_loc[row + 1] as usize - 1,
                LOGITS_POINT => batch.logits_indices[row] as usize,
                _ => row,
            };
            output
                .captures
                .push(rows.map(|row| handed_out(states[token(row)])).collect());
        }
        output
    }

    /// A step that broke off: its copies were made, its slots hold nonsense.
    pub fn interrupt(&mut self, batch: &Batch) {
        self.copy_blocks(batch);
        for (group, arrays) in batch.groups.iter().enumerate() {
            for &slot in &arrays.slot_mapping {
                self.slots[group][slot as usize] = Some(Entry {
                    token: -7,
                    position: usize::MAX,
                    state: 0xdead,
                    writer: (batch.step, usize::MAX),
                });
            }
        }
    }

    /// K and V of `tokens` from outside, into the blocks of `table(group)`.
    pub fn write(&mut self, tokens: &[i32], table: impl Fn(usize) -> Vec<u32>) {
        for (group, slots) in self.slots.iter_mut().enumerate() {
            let (table, mut before) = (table(group), 0);
            for (position, &token) in tokens.iter().enumerate() {
                before = state(before, token, position);
                let slot = table[position / BLOCK_SIZE] as usize * BLOCK_SIZE;
                slots[slot + position % BLOCK_SIZE] = Some(Entry {
                    token,
                    position,
                    state: before,
                    writer: (u64::MAX, 0),
                });
            }
        }
    }

    fn copy_blocks(&mut self, batch: &Batch) {
        for (slots, arrays) in self.slots.iter_mut().zip(&batch.groups) {
            let before = slots.clone();
            let pairs: Vec<_> = arrays.block_copies.chunks_exact(2).collect();
            for (index, pair) in pairs.iter().enumerate() {
                let (source, target) = (pair[0] as usize, pair[1] as usize);
                assert!(
                    pairs.iter().enumerate().all(|(other, pair)| {
                        (other == index || pair[1] as usize != target) && pair[0] as usize != target
                    }),
                    "copies depend on their order"
                );
                let range = |block| block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
                slots[range(target)].copy_from_slice(&before[range(source)]);
                self.num_copies += 1;
            }
        }
    }

    fn run_sequence(&mut self, batch: &Batch, sequence: usize, states: &mut [u64]) {
        let rows =
            batch.query_start_loc[sequence] as usize..batch.query_start_loc[sequence + 1] as usize;
        let writer = (batch.step, sequence);
        for (group, arrays) in batch.groups.iter().enumerate() {
            let slots = &mut self.slots[group];
            let table = &arrays.block_tables[arrays.block_table_start_loc[sequence] as usize
                ..arrays.block_table_start_loc[sequence + 1] as usize];
            assert_eq!(
                table.len(),
                (batch.seq_lens[sequence] as usize).div_ceil(BLOCK_SIZE)
            );
            let place = |position: usize| {
                table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE
            };
            for row in rows.clone() {
                let (token, position) = (batch.token_ids[row], batch.positions[row] as usize);
                let slot = arrays.slot_mapping[row] as usize;
                assert_eq!(
                    slot,
                    place(position),
                    "slot mapping and block table disagree"
                );
                if let Some(old) = slots[slot] {
                    assert!(
                        old.writer.0 != batch.step || old.position == usize::MAX,
                        "two rows of a step write one slot"
                    );
                }
                let before = position.checked_sub(1).map_or(0, |previous| {
                    slots[place(previous)]
                        .expect("K and V of the prefix are missing")
                        .state
                });
                let state = state(before, token, position);
                slots[slot] = Some(Entry {
                    token,
                    position,
                    state,
                    writer,
                });
                assert!(group == 0 || states[row] == state, "groups disagree");
                states[row] = state;
            }
            self.verify_history(group, batch, sequence, place);
        }
    }

    /// Every position up to the current one holds K and V of one and the same history.
    fn verify_history(
        &self,
        group: usize,
        batch: &Batch,
        sequence: usize,
        place: impl Fn(usize) -> usize,
    ) {
        let mut before = 0;
        for position in 0..batch.seq_lens[sequence] as usize {
            let entry = self.slots[group][place(position)].expect("a slot was never written");
            assert_eq!(entry.position, position, "a slot holds another position");
            assert_eq!(
                entry.state,
                state(before, entry.token, position),
                "a slot is stale"
            );
            assert!(
                entry.writer.0 != batch.step || entry.writer.1 == sequence,
                "K and V of another sequence are read in the step that writes them"
            );
            before = entry.state;
        }
    }

    fn sample(
        &self,
        batch: &Batch,
        state: u64,
        row: usize,
        sampled: &SampledRow,
        output: &mut StepOutput,
    ) {
        let (params, position) = (&sampled.params, sampled.position as usize);
        assert_eq!(batch.positions[row] as usize + 1, position);
        let history = &batch.history[sampled.history_start as usize..]
            [..(sampled.history_prompt_len + sampled.history_output_len) as usize];
        let sequence = sampled.sequence as usize;
        assert!(
            (batch.query_start_loc[sequence]..batch.query_start_loc[sequence + 1])
                .contains(&(row as i32))
        );
        let (token, wanted) = match sampled.kind {
            LogitsRow::Score { target } => (target, true),
            LogitsRow::Sample => {
                if params.needs_history() {
                    assert_eq!(history.len(), position);
                    assert_eq!(sampled.history_output_len, sampled.num_output_tokens);
                    let again = history.iter().enumerate();
                    assert_eq!(again.fold(0, |s, (p, &t)| self::state(s, t, p)), state);
                } else {
                    assert!(history.is_empty());
                }
                let token = draw(state, sampled.seed, sampled.sequence_index, position);
                (token, params.logprobs.is_some())
            }
        };
        let failed = (self.poison)(state);
        output.token_ids.push(token);
        output.status.push(if failed {
            RowStatus::Failed
        } else {
            RowStatus::Ok
        });
        output.logprobs.push(wanted.then(|| logprobs(state, token)));
    }
}

fn check_shapes(batch: &Batch) {
    let (tokens, seqs) = (batch.num_tokens(), batch.num_seqs());
    assert!(tokens > 0 && seqs > 0);
    assert_eq!(batch.positions.len(), tokens);
    assert_eq!(batch.query_start_loc.len(), seqs + 1);
    assert_eq!(
        (
            batch.query_start_loc[0],
            batch.query_start_loc[seqs] as usize
        ),
        (0, tokens)
    );
    assert!(batch.query_start_loc.is_sorted_by(|a, b| a < b));
    assert_eq!(batch.sampled.len(), batch.num_sampled());
    assert!(batch.logits_indices.is_sorted_by(|a, b| a < b));
    for sequence in 0..seqs {
        let last = batch.query_start_loc[sequence + 1] as usize - 1;
        assert_eq!(batch.positions[last] + 1, batch.seq_lens[sequence]);
    }
    for group in &batch.groups {
        assert_eq!(group.slot_mapping.len(), tokens);
        assert_eq!(group.block_table_start_loc.len(), seqs + 1);
        assert_eq!(
            group.block_table_start_loc[seqs] as usize,
            group.block_tables.len()
        );
    }
}

/// What a request must give, computed alone and without a cache.
pub fn oracle(request: &NewRequest, config: &SchedulerConfig) -> Vec<SequenceOutput> {
    let params = &request.params;
    let blocks = config
        .groups
        .iter()
        .map(|group| group.num_blocks)
        .min()
        .unwrap();
    let room = (config.max_model_len - request.prompt.len())
        .min(blocks as usize * BLOCK_SIZE + 1 - request.prompt.len());
    let max_tokens = (params.max_tokens as usize).min(room);
    let prompt = request.prompt.iter().enumerate();
    let prompt_state = prompt.fold(0, |before, (p, &token)| state(before, token, p));
    let sequence = |index| {
        let mut output = SequenceOutput::default();
        let mut last = prompt_state;
        while output.finish_reason.is_none() {
            if output.token_ids.len() == max_tokens {
                output.finish_reason = Some(FinishReason::Length);
                break;
            }
            let position = request.prompt.len() + output.token_ids.len();
            let token = draw(last, request.seed, index, position);
            if output.token_ids.len() >= params.min_tokens as usize {
                if params.eos_token_ids.contains(&token) {
                    output.finish_reason = Some(FinishReason::Stop);
                } else if params.stop_token_ids.contains(&token) {
                    output.finish_reason = Some(FinishReason::Stop);
                    output.stop_token_id = Some(token);
                }
            }
            output.token_ids.push(token);
            if params.logprobs.is_some() {
                output.logprobs.push(logprobs(last, token));
            }
            last = state(last, token, position);
        }
        output
    };
    (0..request.n).map(sequence).collect()
}

/// The prompt's log-probabilities that a request must give.
pub fn oracle_prompt_logprobs(request: &NewRequest) -> Option<Vec<RowLogprobs>> {
    request.params.prompt_logprobs?;
    let start = (request.params.prompt_logprobs_start as usize).max(1);
    let mut before = 0;
    let mut all = Vec::new();
    for (position, &token) in request.prompt.iter().enumerate() {
        if position >= start {
            all.push(logprobs(before, token));
        }
        before = state(before, token, position);
    }
    Some(all)
}

/// The rows that a request must be given, by point.
pub fn oracle_captures(request: &NewRequest) -> Vec<Vec<f32>> {
    let states = request
        .prompt
        .iter()
        .enumerate()
        .scan(0, |before, (p, &token)| {
            *before = state(*before, token, p);
            Some(handed_out(*before))
        });
    let states: Vec<f32> = states.collect();
    let (params, last) = (&request.params, states.len() - 1);
    let scored = match params.prompt_logprobs {
        Some(_) => last.min(params.prompt_logprobs_start.max(1) as usize - 1),
        None => last,
    };
    let wanted = |point: u32| match point {
        SEQUENCE_POINT => last..last + 1,
        LOGITS_POINT => scored..last + usize::from(params.max_tokens > 0),
        _ => request.captures.start..last + 1,
    };
    let points = request.captures.points.iter();
    points
        .map(|point| states[wanted(point.point)].to_vec())
        .collect()
}

/// No step computes the later part of a prompt, so that each is whole: that it ends in its step is an invariant of
/// `check_integrity`.
pub fn check_whole(batch: &Batch) {
    for rows in batch.query_start_loc.windows(2) {
        assert_eq!(
            batch.positions[rows[0] as usize], 0,
            "a part was computed before"
        );
    }
}

pub fn group(num_blocks: u32) -> GroupConfig {
    GroupConfig {
        num_blocks,
        window: None,
    }
}

/// Room for everything, caching on.
pub fn config() -> SchedulerConfig {
    SchedulerConfig {
        groups: vec![group(64)],
        max_num_seqs: 16,
        max_num_batched_tokens: 64,
        max_model_len: 200,
        vocab_size: VOCAB_SIZE,
        speculation: None,
        draft_model: None,
        rows_per_pass: ROWS_PER_PASS,
        policy: Policy::Fcfs,
        enable_prefix_caching: true,
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    }
}

pub fn params(max_tokens: u32) -> SamplingParams {
    SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    }
}

pub fn request(prompt: Vec<i32>, params: SamplingParams) -> NewRequest {
    NewRequest::new(prompt, Arc::new(params))
}

/// `count` tokens that depend on `seed`.
pub fn prompt(seed: u64, count: usize) -> Vec<i32> {
    (0..count as u64)
        .map(|p| (mix(seed, p) % VOCAB_SIZE as u64) as i32)
        .collect()
}

/// One step; whether there was one.
pub fn step(scheduler: &mut Scheduler, executor: &mut FakeExecutor, now: f64) -> bool {
    let Some(batch) = scheduler.schedule(now) else {
        return false;
    };
    let output = executor.run(batch);
    scheduler.check_integrity().unwrap();
    scheduler.update(&output, now).unwrap();
    scheduler.check_integrity().unwrap();
    true
}

/// Steps until nothing is left; how many.
pub fn drain(scheduler: &mut Scheduler, executor: &mut FakeExecutor) -> usize {
    let mut steps = 0;
    while step(scheduler, executor, steps as f64) {
        steps += 1;
        assert!(steps < 20_000, "no end in sight");
    }
    assert!(!scheduler.has_work());
    steps
}

pub fn build(config: SchedulerConfig) -> (Scheduler, FakeExecutor) {
    let executor = FakeExecutor::new(&config.groups);
    (Scheduler::new(config).unwrap(), executor)
}

/// Chunk lengths of the next batch, which is run.
pub fn chunks(scheduler: &mut Scheduler, executor: &mut FakeExecutor) -> Vec<i32> {
    let batch = scheduler.schedule(0.0).unwrap();
    let lengths = batch
        .query_start_loc
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    let output = executor.run(batch);
    scheduler.update(&output, 0.0).unwrap();
    scheduler.check_integrity().unwrap();
    lengths
}

/// Blocks of the first group that somebody has.
pub fn used(scheduler: &Scheduler) -> usize {
    scheduler.stats().groups[0].num_used
}
