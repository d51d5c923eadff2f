//! What the KV cache does by itself; beside a naive twin: `tests/scheduler/kv_cache_model.rs`.

use super::*;

/// Of groups of four blocks each.
fn cache(groups: usize, hash: Option<PrefixHash>) -> KvCache {
    let group = GroupConfig {
        num_blocks: 4,
        window: None,
    };
    KvCache::new(&vec![group; groups], hash)
}

#[test]
fn without_prefix_caching_nothing_is_published() {
    let mut kv = cache(1, None);
    kv.open(0, None, 32);
    assert!(kv.grow(0, 32));
    let tokens = TokenView {
        prompt: &[1; 32],
        output: &[],
    };
    assert!(!kv.has_to_publish(0, 32));
    kv.publish(0, tokens, 32);
    let stats: Vec<_> = kv.stats().collect();
    assert_eq!((stats[0].num_used, stats[0].num_cached), (2, 0));
}

#[test]
fn every_table_of_an_opened_sequence_has_room_for_all_of_it() {
    for groups in [1, 2] {
        let mut kv = cache(groups, None);
        for slot in [2, 0] {
            kv.open(slot, None, 3 * BLOCK_SIZE + 1);
            let tables = &kv.tables[slot * groups..][..groups];
            assert!(tables.iter().all(|table| table.capacity() >= 4), "{slot}");
            let others = kv.tables.iter().filter(|table| table.capacity() > 0);
            assert_eq!(others.count(), if slot == 2 { groups } else { 2 * groups });
        }
    }
}

#[test]
fn a_sequence_that_has_room_enough_keeps_what_it_has() {
    let mut kv = cache(1, None);
    kv.open(0, None, 3 * BLOCK_SIZE);
    assert!(kv.grow(0, 3 * BLOCK_SIZE));
    for num_tokens in [0, 1, BLOCK_SIZE, 2 * BLOCK_SIZE + 1, 3 * BLOCK_SIZE] {
        assert!(kv.grow(0, num_tokens));
        assert_eq!(kv.table(0, 0).len(), 3, "{num_tokens}");
    }
    assert!(!kv.grow(0, 5 * BLOCK_SIZE));
    assert_eq!(kv.table(0, 0).len(), 3);
}

#[test]
fn there_is_something_to_publish_where_a_block_became_full() {
    let mut kv = cache(1, Some(PrefixHash::default()));
    kv.open(0, None, 2 * BLOCK_SIZE);
    assert!(kv.grow(0, 2 * BLOCK_SIZE));
    let tokens = TokenView {
        prompt: &[1; 2 * BLOCK_SIZE],
        output: &[],
    };
    for num_blocks in 0..2 {
        for num_computed in 1..BLOCK_SIZE {
            assert!(!kv.has_to_publish(0, num_blocks * BLOCK_SIZE + num_computed));
        }
        let num_computed = (num_blocks + 1) * BLOCK_SIZE;
        assert!(kv.has_to_publish(0, num_computed));
        kv.publish(0, tokens, num_computed);
        assert!(!kv.has_to_publish(0, num_computed));
    }
}

#[test]
fn salts_without_a_cached_block_are_forgotten_however_many_there_are() {
    let mut kv = cache(1, Some(PrefixHash::default()));
    let tokens = TokenView {
        prompt: &[1; BLOCK_SIZE],
        output: &[],
    };
    for salt in ["a", "b", "c", "d"] {
        kv.open(0, Some(salt), BLOCK_SIZE);
        assert!(kv.grow(0, BLOCK_SIZE));
        kv.publish(0, tokens, BLOCK_SIZE);
        kv.close(0);
    }
    for i in 0..100 {
        kv.open(
            0,
            Some(&format!("nothing is computed under {i}")),
            BLOCK_SIZE,
        );
        kv.close(0);
        assert!(kv.roots.len() <= 5, "{}", kv.roots.len());
    }
    kv.open(0, Some("a"), BLOCK_SIZE);
    assert_eq!(kv.match_prefix(0, tokens, 1).num_blocks, 1);
}

#[test]
fn a_key_that_is_a_hash_is_its_own_and_bytes_are_mixed() {
    let hash = |write: fn(&mut LowBits)| {
        let mut hasher = LowBits::default();
        write(&mut hasher);
        hasher.finish()
    };
    assert_eq!(hash(|hasher| hasher.write_u128(7 << 64 | 5)), 5);
    assert_eq!(hash(|hasher| hasher.write(&[1, 2])), 0x0102);
}

#[test]
fn what_is_held_ends_before_a_partial_block_whose_copy_may_not_be_done() {
    let length = BLOCK_SIZE + 4;
    for is_done in [false, true] {
        let mut kv = cache(2, None);
        kv.open(0, None, length);
        assert!(kv.grow(0, length));
        let (origin, held) = kv.hold(0, length);
        assert_eq!(held, length);
        kv.open(1, None, length);
        kv.adopt(1, &origin, length);
        assert!(kv.grow(1, length));
        assert!(kv.has_pending_copies(1));
        if is_done {
            kv.copies_done(1);
        }
        let (copy, held) = kv.hold(1, length);
        let expected = if is_done {
            (length, 2)
        } else {
            (BLOCK_SIZE, 1)
        };
        assert_eq!((held, copy.num_blocks()), expected);
        // Nobody waits for the copy any more, and all blocks come back.
        assert!(!kv.has_pending_copies(1));
        kv.drop_held(copy);
        kv.drop_held(origin);
        assert!(kv.stats().all(|group| group.num_used == 0));
    }
}
