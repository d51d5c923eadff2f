//! Bytes per block, as the allocator sees them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use inferlib_core::PrefixHash;
use inferlib_core::kv_cache::{GroupConfig, KvCache, TokenView};
use inferlib_program::BLOCK_SIZE;

use crate::driving::tokens;
use crate::options::Options;
use crate::report::Line;

static NUM_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NUM_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        NUM_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        NUM_BYTES.fetch_add(new_size, Ordering::Relaxed);
        NUM_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A cache whose blocks are all published and free, then one whose blocks are all in block tables, too.
pub(crate) fn measure(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let pool: usize = options.number("--pool", 100_000)?;
    let sequences = 100;
    let count = pool / sequences * BLOCK_SIZE;
    let prompts: Vec<_> = (0..sequences).map(|seed| tokens(seed, count)).collect();
    let before = NUM_BYTES.load(Ordering::Relaxed);
    let bytes = || (NUM_BYTES.load(Ordering::Relaxed) - before) as f64 / pool as f64;
    let group = GroupConfig {
        num_blocks: pool as u32,
        window: None,
    };
    let mut cache = KvCache::new(&[group], Some(PrefixHash::default()));
    let empty = bytes();
    for (slot, prompt) in prompts.iter().enumerate() {
        let tokens = TokenView {
            prompt,
            output: &[],
        };
        cache.open(slot, None, count);
        if !cache.grow(slot, count) {
            return Err("there are fewer blocks than asked for".into());
        }
        cache.publish(slot, tokens, count);
    }
    let in_use = bytes();
    let published: usize = cache.stats().map(|group| group.num_cached).sum();
    if published != count / BLOCK_SIZE * sequences {
        return Err("not every block was published".into());
    }
    Line::of("memory")
        .number("pool", pool as f64)
        .number("bytes_per_block", empty)
        .number("bytes_per_block_in_use", in_use)
        .print();
    Ok(())
}
