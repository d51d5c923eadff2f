//! Byte-level BPE: words of bytes, merged by a ranked list of pairs.

use hashbrown::HashMap;

use crate::byte_level;
use crate::error::TextError;
use crate::merge::{MergeRule, Merger, Part};
use crate::piece_index::PieceIndex;
use crate::pre_tokenizer::PreTokenizer;
use crate::token_table::TokenTable;

const MERGES: &str = "tokenizer.ggml.merges";

/// Ranks and results of merging pairs of tokens, the tokens of single bytes, and how text is cut into words.
#[derive(Debug)]
pub(crate) struct BytePairModel {
    pre_tokenizer: PreTokenizer,
    merges: Merges,
    byte_ids: [Option<u32>; 256],
}

/// (left id, right id) → (rank, id of the result).
#[derive(Debug)]
struct Merges(HashMap<(u32, u32), (u32, u32)>);

impl MergeRule for Merges {
    type Tag = u32;

    fn merge(&self, left: &Part<u32>, right: &Part<u32>) -> Option<(u32, u32)> {
        self.0.get(&(left.tag, right.tag)).copied()
    }
}

impl BytePairModel {
    /// `merges` are pairs in GPT-2's alphabet, separated by a space, best first.
    pub(crate) fn new(
        tokens: &TokenTable,
        pieces: &PieceIndex,
        merges: &[&str],
        pre_tokenizer: PreTokenizer,
    ) -> Result<Self, TextError> {
        let mut byte_ids = [None; 256];
        for byte in 0..=255 {
            byte_ids[usize::from(byte)] = pieces.find(tokens, &[byte]);
        }
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut bytes = Vec::new();
        for (rank, &pair) in (0..).zip(merges) {
            let merge = Self::parse_merge(tokens, pieces, pair, &mut bytes).map_err(|problem| {
                TextError::vocabulary(MERGES, format!("entry {rank}, {pair:?}, {problem}"))
            })?;
            ranks.entry((merge.0, merge.1)).or_insert((rank, merge.2));
        }
        Ok(Self {
            pre_tokenizer,
            merges: Merges(ranks),
            byte_ids,
        })
    }

    /// Ids of the left token, the right one and both together.
    fn parse_merge(
        tokens: &TokenTable,
        pieces: &PieceIndex,
        pair: &str,
        bytes: &mut Vec<u8>,
    ) -> Result<(u32, u32, u32), &'static str> {
        let (left, right) = pair
            .split_once(' ')
            .ok_or("is not two tokens with a space between them")?;
        bytes.clear();
        let is_text = byte_level::push_bytes(left, bytes);
        let middle = bytes.len();
        if !is_text || !byte_level::push_bytes(right, bytes) {
            return Err("has characters outside the byte-level alphabet");
        }
        let find = |bytes| {
            pieces
                .find(tokens, bytes)
                .ok_or("names or makes a token that is not in the vocabulary")
        };
        Ok((
            find(&bytes[..middle])?,
            find(&bytes[middle..])?,
            find(bytes)?,
        ))
    }

    /// Append the ids of `text`. A byte without a token of its own is left out, as in every implementation of this
    /// kind of vocabulary; such bytes do not occur in UTF-8 unless the vocabulary was cut.
    pub(crate) fn encode(
        &self,
        tokens: &TokenTable,
        pieces: &PieceIndex,
        text: &str,
        ids: &mut Vec<u32>,
    ) {
        let mut merger = Merger::new();
        self.pre_tokenizer.split(text, &mut |word| {
            if self.pre_tokenizer.ignore_merges
                && let Some(id) = pieces.find(tokens, word.as_bytes())
            {
                return ids.push(id);
            }
            let mut flush = |merger: &mut Merger<u32>| {
                merger.run(&self.merges);
                ids.extend(merger.parts.drain(..).map(|part| part.tag));
            };
            for (start, &byte) in (0..).zip(word.as_bytes()) {
                match self.byte_ids[usize::from(byte)] {
                    Some(tag) => merger.parts.push(Part {
                        start,
                        end: start + 1,
                        tag,
                    }),
                    None => flush(&mut merger),
                }
            }
            flush(&mut merger);
        });
    }
}
