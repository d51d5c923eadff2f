//! Which tokens begin and end a text or a turn.

/// The tokens with a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos_id: Option<u32>,
    /// Ends a text.
    pub eos_id: Option<u32>,
    /// Ends a turn of a chat.
    pub eot_id: Option<u32>,
    /// Stands for what the vocabulary cannot express.
    pub unknown_id: Option<u32>,
    /// Fills batches.
    pub pad_id: Option<u32>,
    /// All tokens after which a model has nothing more to say, ascending: EOS, end of turn, end of message, and control
    /// tokens that mean the same by name.
    pub end_ids: Vec<u32>,
    /// Whether `add_special` puts BOS first.
    pub add_bos: bool,
    /// Whether `add_special` puts EOS last.
    pub add_eos: bool,
}

/// Names that mean the end of a turn in every model that has them.
const ENDS_A_TURN_EVERYWHERE: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// Names that mean it where they are control tokens.
const ENDS_A_TURN: &[&str] = &[
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Whether a token of this name ends a turn, whatever type a file gives it.
pub(crate) fn ends_a_turn_everywhere(token: &str) -> bool {
    token.len() < 20 && ENDS_A_TURN_EVERYWHERE.contains(&token)
}

/// The declared ids, and those of control tokens (id, name) that end a turn by name.
pub(crate) fn end_ids<'a>(
    declared: impl Iterator<Item = u32>,
    control: impl Iterator<Item = (u32, &'a str)>,
) -> Vec<u32> {
    let mut ids: Vec<u32> = declared.collect();
    let mut end = None;
    let mut has_return = false;
    for (id, name) in control {
        if ends_a_turn_everywhere(name) || ENDS_A_TURN.contains(&name) {
            ids.push(id);
        }
        has_return |= name == "<|return|>";
        if name == "<|end|>" {
            end = Some(id);
        }
    }
    // Phi-3 ends a turn with <|end|>; where there is <|return|> too (harmony), <|end|> only ends a message.
    ids.extend(end.filter(|_| !has_return));
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_declared_or_known_by_name() {
        let control = [(3, "<|im_end|>"), (5, "<s>"), (9, "<|end|>"), (4, "[EOS]")];
        assert_eq!(
            end_ids([3, 2].into_iter(), control.into_iter()),
            [2, 3, 4, 9]
        );
        let harmony = [(9, "<|end|>"), (8, "<|return|>"), (7, "<|call|>")];
        assert_eq!(end_ids(std::iter::empty(), harmony.into_iter()), [7, 8]);
    }
}
