//! The KV cache alone: blocks and prefixes, per block.

use std::error::Error;
use std::hint::black_box;

use inferlib_core::kv_cache::{BlockTokens, KvCache, TokenView};
use inferlib_core::{GroupConfig, PrefixHash};
use inferlib_program::BLOCK_SIZE;

use crate::driving::tokens;
use crate::options::Options;
use crate::report::{Line, Times};

fn cache(num_blocks: usize) -> KvCache {
    let group = GroupConfig {
        num_blocks: num_blocks as u32,
        window: None,
    };
    KvCache::new(&[group], Some(PrefixHash::default()))
}

fn view(prompt: &[i32]) -> TokenView<'_> {
    TokenView {
        prompt,
        output: &[],
    }
}

/// Take and give back all blocks in an order that jumps about, so that the list of free blocks does, too.
fn scatter(cache: &mut KvCache, num_blocks: usize) {
    let parts = 97;
    for slot in 0..parts {
        cache.open(slot, None, 0);
    }
    for turn in 0..num_blocks {
        let slot = turn * 31 % parts;
        let held = cache.table(slot, 0).len();
        cache.grow(slot, (held + 1) * BLOCK_SIZE);
    }
    for turn in 0..parts {
        cache.close(turn * 59 % parts);
    }
}

/// Blocks as sequences take, share and free them, in a pool whose free blocks lie scattered.
pub(crate) fn measure_pool(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let pool: usize = options.number("--pool", 100_000)?;
    let blocks: usize = options.number("--blocks", 1000)?;
    let repeats: usize = options.number("--repeats", 500)?;
    let mut cache = cache(pool);
    scatter(&mut cache, pool);
    let [mut alloc, mut touch, mut drop_shared, mut free] =
        std::array::from_fn(|_| Times::default());
    for _ in 0..repeats {
        cache.open(0, None, blocks * BLOCK_SIZE);
        cache.open(1, None, blocks * BLOCK_SIZE);
        alloc.of(|| cache.grow(0, blocks * BLOCK_SIZE));
        touch.of(|| cache.fork(0, 1, blocks * BLOCK_SIZE));
        drop_shared.of(|| cache.close(1));
        free.of(|| cache.close(0));
    }
    Line::of("blocks")
        .number("pool", pool as f64)
        .number("blocks", blocks as f64)
        .times("alloc", &alloc, blocks)
        .times("touch", &touch, blocks)
        .times("drop_shared", &drop_shared, blocks)
        .times("free", &free, blocks)
        .print();
    Ok(())
}

/// Prefixes of a pool that is full of published blocks: each new one evicts the oldest.
pub(crate) fn measure_prefixes(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let pool: usize = options.number("--pool", 100_000)?;
    let blocks: usize = options.number("--blocks", 3125)?;
    let fills: usize = options.number("--fills", 100)?;
    let lookups: usize = options.number("--lookups", 100)?;
    let order = options.text("--order", "runs");
    let count = blocks * BLOCK_SIZE;
    let mut cache = cache(pool);
    match order.as_str() {
        "runs" => {}
        "scattered" => scatter(&mut cache, pool),
        other => return Err(format!("--order cannot be {other:?}").into()),
    }
    // More than the pool holds: whichever comes next is not there any more.
    let prompts: Vec<_> = (0..pool / blocks + 2)
        .map(|seed| tokens(seed, count))
        .collect();
    let [mut alloc, mut publish] = std::array::from_fn(|_| Times::default());
    for turn in 0..prompts.len() + fills {
        if turn == prompts.len() {
            (alloc, publish) = (Times::default(), Times::default());
        }
        cache.open(0, None, count);
        alloc.of(|| cache.grow(0, count));
        publish.of(|| cache.publish(0, view(&prompts[turn % prompts.len()]), count));
        cache.close(0);
    }
    let prompt = &prompts[(fills + prompts.len() - 1) % prompts.len()];
    let [mut hash, mut lookup, mut admit] = std::array::from_fn(|_| Times::default());
    let key = PrefixHash::default();
    for _ in 0..lookups {
        hash.of(|| {
            let mix = |hash, block| key.mix(hash, &block_of(prompt, block));
            black_box((0..blocks).fold(0, mix))
        });
        cache.open(0, None, count);
        let found = lookup.of(|| cache.match_prefix(0, view(prompt), blocks));
        if found.num_blocks != blocks {
            return Err("the last prefix was not found".into());
        }
        admit.of(|| cache.admit(0, &found, count));
        cache.close(0);
    }
    Line::of("prefix")
        .text("order", &order)
        .number("pool", pool as f64)
        .number("blocks", blocks as f64)
        .times("hash", &hash, blocks)
        .times("lookup", &lookup, blocks)
        .times("take_hit", &admit, blocks)
        .times("alloc_evicting", &alloc, blocks)
        .times("publish_evicting", &publish, blocks)
        .print();
    Ok(())
}

fn block_of(prompt: &[i32], block: usize) -> BlockTokens {
    view(prompt).block(block)
}
