//! The configuration of a scheduler as the first frame of its log.

use super::codec::{Damage, Decoder, Encode};
use crate::drafting::{DraftModel, PromptLookup};
use crate::kv_cache::{GroupConfig, PrefixHash};
use crate::scheduler::{Policy, SchedulerConfig};

pub(super) fn write_config(config: &SchedulerConfig, out: &mut Vec<u8>) {
    out.count(config.groups.len());
    for group in &config.groups {
        out.number(u64::from(group.num_blocks));
        out.optional(group.window.map(|window| window as u64));
    }
    for count in [
        config.max_num_seqs,
        config.max_num_batched_tokens,
        config.max_model_len,
        config.vocab_size,
        config.rows_per_pass,
        config.background_tokens,
    ] {
        out.count(count);
    }
    for limit in [
        config.max_chunk,
        config.max_waiting,
        config.max_waiting_tokens,
    ] {
        out.optional(limit.map(|limit| limit as u64));
    }
    out.flag(config.whole_prompts);
    out.flag(config.enable_prefix_caching);
    out.fixed(config.prefix_hash.key[0]);
    out.fixed(config.prefix_hash.key[1]);
    out.number(u64::from(config.prefix_hash.bits));
    out.flag(config.speculation.is_some());
    if let Some(lookup) = &config.speculation {
        out.count(lookup.num_speculative_tokens);
        out.count(lookup.prompt_lookup_max);
        out.count(lookup.prompt_lookup_min);
    }
    out.optional(
        config
            .draft_model
            .map(|model| model.num_speculative_tokens as u64),
    );
    match config.policy {
        Policy::Fcfs => out.byte(0),
        Policy::Priority { steps_per_class } => {
            out.byte(1);
            out.number(u64::from(steps_per_class));
        }
        Policy::FairShare {
            input_weight,
            output_weight,
        } => {
            out.byte(2);
            out.number(u64::from(input_weight));
            out.number(u64::from(output_weight));
        }
        Policy::Deadline { patience_seconds } => {
            out.byte(3);
            out.float(patience_seconds);
        }
    }
}

pub(super) fn read_config(payload: &[u8]) -> Result<SchedulerConfig, Damage> {
    let mut input = Decoder::new(payload);
    let mut groups = Vec::new();
    for _ in 0..input.length("groups")? {
        groups.push(GroupConfig {
            num_blocks: input.whole("num_blocks")?,
            window: input.optional("window")?,
        });
    }
    let config = SchedulerConfig {
        groups,
        max_num_seqs: input.whole("max_num_seqs")?,
        max_num_batched_tokens: input.whole("max_num_batched_tokens")?,
        max_model_len: input.whole("max_model_len")?,
        vocab_size: input.whole("vocab_size")?,
        rows_per_pass: input.whole("rows_per_pass")?,
        background_tokens: input.whole("background_tokens")?,
        max_chunk: input.optional("max_chunk")?,
        max_waiting: input.optional("max_waiting")?,
        max_waiting_tokens: input.optional("max_waiting_tokens")?,
        whole_prompts: input.flag("whole_prompts")?,
        enable_prefix_caching: input.flag("enable_prefix_caching")?,
        prefix_hash: PrefixHash {
            key: [input.fixed("prefix_hash")?, input.fixed("prefix_hash")?],
            bits: input.whole("prefix_hash")?,
        },
        speculation: read_speculation(&mut input)?,
        draft_model: input
            .optional("draft_model")?
            .map(|num_speculative_tokens| DraftModel {
                num_speculative_tokens,
            }),
        policy: read_policy(&mut input)?,
    };
    input.end()?;
    Ok(config)
}

fn read_speculation(input: &mut Decoder<'_>) -> Result<Option<PromptLookup>, Damage> {
    if !input.flag("speculation")? {
        return Ok(None);
    }
    Ok(Some(PromptLookup {
        num_speculative_tokens: input.whole("num_speculative_tokens")?,
        prompt_lookup_max: input.whole("prompt_lookup_max")?,
        prompt_lookup_min: input.whole("prompt_lookup_min")?,
    }))
}

fn read_policy(input: &mut Decoder<'_>) -> Result<Policy, Damage> {
    Ok(match input.byte("policy")? {
        0 => Policy::Fcfs,
        1 => Policy::Priority {
            steps_per_class: input.whole("steps_per_class")?,
        },
        2 => Policy::FairShare {
            input_weight: input.whole("input_weight")?,
            output_weight: input.whole("output_weight")?,
        },
        3 => Policy::Deadline {
            patience_seconds: input.float("patience_seconds")?,
        },
        _ => return Err(Damage::Field { field: "policy" }),
    })
}
