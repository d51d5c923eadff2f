//! Sizes, stored values and copies of every type.

use half::{bf16, f16};
use inferlib_program::BLOCK_SIZE;
use inferlib_program::program::KvGroup;

use super::{GroupCache, KvDtype};
use crate::kernels::Kernels;
use crate::tier::Tier;

fn group(k_head_dim: usize, v_head_dim: usize) -> KvGroup {
    KvGroup {
        num_layers: 3,
        num_kv_heads: 2,
        k_head_dim,
        v_head_dim,
        window: None,
        bidirectional: false,
    }
}

/// K and V of head 1 and a slot in layer 2, as stored, widened by hand.
fn read(cache: &GroupCache, dtype: KvDtype, slot: usize) -> (Vec<f32>, Vec<f32>) {
    let layer = cache.layer(2);
    let (block, token) = (slot / BLOCK_SIZE, slot % BLOCK_SIZE);
    let (k, v, scales) = (layer.k(block, 1), layer.v(block, 1), layer.scales(block, 1));
    let element = |p: *mut u8, i: usize| -> f32 {
        // SAFETY: element `i` lies within the block.
        unsafe {
            match dtype {
                KvDtype::F16 => f16::from_bits(p.cast::<u16>().add(i).read_unaligned()).to_f32(),
                KvDtype::Bf16 => bf16::from_bits(p.cast::<u16>().add(i).read_unaligned()).to_f32(),
                KvDtype::Int8 => f32::from(p.cast::<i8>().add(i).read()),
                KvDtype::F32 => p.cast::<f32>().add(i).read_unaligned(),
            }
        }
    };
    let scale = |at: usize| match dtype {
        // SAFETY: one of the block's 32 scales.
        KvDtype::Int8 => bf16::from_bits(unsafe { scales.add(at).read_unaligned() }).to_f32(),
        _ => 1.0,
    };
    let pairs = if dtype == KvDtype::Bf16 { 2 } else { 1 };
    let k = (0..layer.k_head_dim)
        .map(|d| {
            let at = (d / pairs * BLOCK_SIZE + token) * pairs + d % pairs;
            element(k, at) * scale(token)
        })
        .collect();
    let v = (0..layer.v_stride)
        .map(|d| {
            let at = (token / pairs * layer.v_stride + d) * pairs + token % pairs;
            element(v, at) * scale(BLOCK_SIZE + token)
        })
        .collect();
    (k, v)
}

/// How far a stored value may be from `x` in a row whose largest magnitude is `largest`.
fn bound(dtype: KvDtype, x: f32, largest: f32) -> f32 {
    match dtype {
        KvDtype::F16 => x.abs() / 2048.0 + 1e-7,
        KvDtype::Bf16 => x.abs() / 256.0,
        KvDtype::Int8 => largest / 127.0 * 0.505,
        KvDtype::F32 => 0.0,
    }
}

#[test]
fn what_is_stored_is_near_what_was_given_in_every_tier() {
    for tier in Tier::available() {
        for dtype in KvDtype::ALL {
            for (k_dim, v_dim) in [(64, 64), (33, 17), (16, 80), (1, 1)] {
                let cache = GroupCache::new(&group(k_dim, v_dim), 4, dtype).expect("memory");
                let store = Kernels::of(tier).of_cache(tier, dtype).store;
                for slot in [0, 1, 17, 30, 31, 63] {
                    let row = |n: usize, salt: usize| -> Vec<f32> {
                        (0..n)
                            .map(|i| {
                                let x = u16::try_from((i * 37 + slot * 11 + salt) % 101);
                                (f32::from(x.expect("below 101")) - 50.0) / 17.0
                            })
                            .collect()
                    };
                    let (k, v) = (row(2 * k_dim, 0), row(2 * v_dim, 5));
                    // SAFETY: the slot is in the cache; rows hold two heads.
                    unsafe { store(&cache.layer(2), slot, k.as_ptr(), v.as_ptr()) };
                    let stored = read(&cache, dtype, slot);
                    for (given, stored) in [(&k[k_dim..], stored.0), (&v[v_dim..], stored.1)] {
                        let largest = given.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
                        for (i, &y) in stored.iter().enumerate() {
                            let x = given.get(i).copied().unwrap_or(0.0);
                            assert!(
                                (x - y).abs() <= bound(dtype, x, largest),
                                "{tier:?} {dtype:?} {k_dim} {v_dim} slot {slot}: {x} became {y}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_are_kept_or_told() {
    for tier in Tier::available() {
        for dtype in KvDtype::ALL {
            let cache = GroupCache::new(&group(20, 20), 1, dtype).expect("memory");
            let store = Kernels::of(tier).of_cache(tier, dtype).store;
            let stored = |x: f32| {
                let mut row = [0.5; 40];
                row[23] = x;
                // SAFETY: slot 5 is in the cache; rows hold two heads.
                unsafe { store(&cache.layer(2), 5, row.as_ptr(), row.as_ptr()) };
                let (k, v) = read(&cache, dtype, 5);
                assert_eq!(k[3].to_bits(), v[3].to_bits());
                k[3]
            };
            assert!(stored(f32::NAN).is_nan(), "{dtype:?}");
            assert!(stored(1e5) >= 65504.0, "{dtype:?}");
            assert!(stored(-1e5) <= -65504.0, "{dtype:?}");
            let mut nothing = [0.0_f32; 40];
            nothing[39] = 1e-33;
            // SAFETY: as above.
            unsafe { store(&cache.layer(2), 5, nothing.as_ptr(), nothing.as_ptr()) };
            let (k, v) = read(&cache, dtype, 5);
            assert!(k.iter().chain(&v).all(|x| x.abs() <= 1.01e-33), "{dtype:?}");
        }
    }
}

#[test]
fn a_copied_block_is_the_same_in_every_layer_and_leaves_others_alone() {
    for dtype in KvDtype::ALL {
        let mut cache = GroupCache::new(&group(24, 40), 3, dtype).expect("memory");
        let bytes = GroupCache::bytes_per_block(&cache.group, dtype);
        assert_eq!(cache.reserved_bytes(), 3 * bytes);
        cache.fill(0);
        let block = |i: usize| {
            // SAFETY: blocks lie one after the other from layer 0's head 0 on.
            unsafe { std::slice::from_raw_parts_mut(cache.layer(0).k(i, 0), bytes) }
        };
        for (i, byte) in block(0).iter_mut().enumerate() {
            *byte = u8::try_from(i % 251).expect("below 251");
        }
        cache.copy_block(0, 2);
        assert!(block(2) == block(0));
        assert!(block(1).iter().all(|&byte| byte == 0));
        assert_eq!(
            cache.layer(2).k(2, 1).addr() - cache.layer(0).k(2, 0).addr() + { bytes / 6 },
            bytes
        );
    }
}

#[test]
fn bytes_per_block_are_the_types_own() {
    let group = KvGroup {
        num_layers: 30,
        num_kv_heads: 3,
        k_head_dim: 64,
        v_head_dim: 64,
        window: None,
        bidirectional: false,
    };
    let bytes = |dtype| GroupCache::bytes_per_block(&group, dtype) / BLOCK_SIZE;
    assert_eq!(bytes(KvDtype::F32), 30 * 3 * 128 * 4);
    assert_eq!(bytes(KvDtype::F16), 30 * 3 * 128 * 2);
    assert_eq!(bytes(KvDtype::Bf16), bytes(KvDtype::F16));
    assert_eq!(bytes(KvDtype::Int8), 30 * 3 * (128 + 4));
}

#[test]
fn exported_rows_are_what_was_stored_and_come_back_in_other_blocks() {
    for dtype in KvDtype::ALL {
        for (k_dim, v_dim) in [(64, 64), (33, 17)] {
            let group = group(k_dim, v_dim);
            let mut cache = GroupCache::new(&group, 6, dtype).expect("memory");
            let tier = Tier::available()[0];
            let store = Kernels::of(tier).of_cache(tier, dtype).store;
            let blocks = [4, 1, 3];
            let num_tokens = 37;
            for position in 0..num_tokens {
                let slot =
                    blocks[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
                let row = |n: usize| -> Vec<f32> {
                    let value = |i: usize| u16::try_from((i * 31 + position * 7) % 97);
                    (0..n)
                        .map(|i| f32::from(value(i).expect("below 97")) - 40.0)
                        .collect()
                };
                let (k, v) = (row(2 * k_dim), row(2 * v_dim));
                for layer in 0..group.num_layers {
                    // SAFETY: a slot of the cache, rows of all heads, this machine's tier.
                    unsafe { store(&cache.layer(layer), slot, k.as_ptr(), v.as_ptr()) };
                }
            }
            let rows = cache.export(&blocks, num_tokens);
            cache.import(&[0, 2, 5], num_tokens, &rows);
            assert_eq!(cache.export(&[0, 2, 5], num_tokens), rows);
            for position in 0..num_tokens {
                let slot = |blocks: [u32; 3]| {
                    blocks[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE
                };
                let (old, new) = (slot(blocks), slot([0, 2, 5]));
                assert_eq!(read(&cache, dtype, old), read(&cache, dtype, new));
            }
            if dtype == KvDtype::F32 {
                let (k, _) = read(&cache, dtype, 4 * BLOCK_SIZE + 3); // layer 2, head 1, position 3
                let start = ((2 * num_tokens + 3) * 2 + 1) * k_dim * 4;
                let exported = rows.k[start..start + k_dim * 4].chunks_exact(4);
                let exported: Vec<f32> = exported
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
                    .collect();
                assert_eq!(exported, k);
            }
        }
    }
}
