//! A sequence's tokens as two slices, the prompt's and its own, without joining them.

use std::ops::Range;

use super::BlockTokens;
use inferlib_program::BLOCK_SIZE;

/// Prompt (shared by a request's sequences), then output.
#[derive(Clone, Copy, Debug)]
pub struct TokenView<'a> {
    /// Prompt tokens.
    pub prompt: &'a [i32],
    /// Generated tokens.
    pub output: &'a [i32],
}

impl TokenView<'_> {
    /// Prompt and output.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prompt.len() + self.output.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token at `position`.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<i32> {
        self.prompt
            .get(position)
            .or_else(|| self.output.get(position - self.prompt.len()))
            .copied()
    }

    /// The tokens of the block at `index` of the block table.
    ///
    /// # Panics
    /// The block is not full.
    #[must_use]
    pub fn block(&self, index: usize) -> BlockTokens {
        let start = index * BLOCK_SIZE;
        let in_prompt = self.prompt.get(start..start + BLOCK_SIZE);
        if let Some(tokens) = in_prompt.and_then(|tokens| tokens.first_chunk()) {
            return *tokens;
        }
        let mut tokens = [0; BLOCK_SIZE];
        let (prompt, output) = self.slices(start..start + BLOCK_SIZE);
        tokens[..prompt.len()].copy_from_slice(prompt);
        tokens[prompt.len()..].copy_from_slice(output);
        tokens
    }

    /// Append the tokens at `positions` to `out`.
    ///
    /// # Panics
    /// The range ends behind the last token.
    pub fn extend_into(&self, positions: Range<usize>, out: &mut Vec<i32>) {
        let (prompt, output) = self.slices(positions);
        out.extend_from_slice(prompt);
        out.extend_from_slice(output);
    }

    fn slices(&self, positions: Range<usize>) -> (&[i32], &[i32]) {
        let count = self.prompt.len();
        let prompt = &self.prompt[positions.start.min(count)..positions.end.min(count)];
        let output = &self.output
            [positions.start.saturating_sub(count)..positions.end.saturating_sub(count)];
        (prompt, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_blocks_may_straddle_prompt_and_output() {
        let prompt: Vec<i32> = (0..20).collect();
        let output: Vec<i32> = (20..40).collect();
        let view = TokenView {
            prompt: &prompt,
            output: &output,
        };
        assert_eq!(view.block(0).to_vec(), (0..16).collect::<Vec<_>>());
        assert_eq!(view.block(1).to_vec(), (16..32).collect::<Vec<_>>());
        let mut out = Vec::new();
        for range in [0..3, 18..23, 20..20, 25..40] {
            out.clear();
            view.extend_into(range.clone(), &mut out);
            let expected: Vec<i32> = (0..40).skip(range.start).take(range.len()).collect();
            assert_eq!(out, expected);
        }
        assert_eq!(
            (view.get(19), view.get(20), view.get(40)),
            (Some(19), Some(20), None)
        );
    }

    #[test]
    fn only_a_view_of_no_tokens_is_empty() {
        let of = |prompt, output| {
            let view = TokenView { prompt, output };
            (view.len(), view.is_empty())
        };
        assert_eq!(of(&[], &[]), (0, true));
        assert_eq!(of(&[1], &[]), (1, false));
        assert_eq!(of(&[], &[1, 2]), (2, false));
    }
}
