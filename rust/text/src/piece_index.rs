//! From the bytes of a token to its id.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::token_table::TokenTable;

/// A hash table over some tokens of a [`TokenTable`], which keeps the bytes.
#[derive(Debug)]
pub(crate) struct PieceIndex {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl PieceIndex {
    pub(crate) fn with_capacity(num_tokens: usize) -> Self {
        Self {
            table: HashTable::with_capacity(num_tokens),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
        }
    }

    /// Add a token of `tokens`; if one with the same bytes is there already, return that one's id instead.
    pub(crate) fn insert(&mut self, tokens: &TokenTable, id: u32) -> Result<(), u32> {
        let bytes = bytes_of(tokens, id);
        let hash = self.hasher.hash_one(bytes);
        if let Some(&twin) = self
            .table
            .find(hash, |&other| bytes_of(tokens, other) == bytes)
        {
            return Err(twin);
        }
        let hasher = &self.hasher;
        self.table
            .insert_unique(hash, id, |&other| hasher.hash_one(bytes_of(tokens, other)));
        self.longest = self.longest.max(bytes.len());
        Ok(())
    }

    /// The token with exactly these bytes.
    pub(crate) fn find(&self, tokens: &TokenTable, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(bytes);
        self.table
            .find(hash, |&id| bytes_of(tokens, id) == bytes)
            .copied()
    }
}

fn bytes_of(tokens: &TokenTable, id: u32) -> &[u8] {
    tokens.bytes(id).unwrap_or_default()
}
