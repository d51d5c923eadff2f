//! Where the tile kernel takes a pair of panels from: packed bytes as they lie in memory, or codes and scales unpacked
//! once for many rows. Both give the same values, so the kernel's results are the same bits.

use crate::formats::Format;
use crate::linear::{CHUNK_BLOCKS, PanelScratch};
use crate::simd::{Codes, Isa, LANES};

/// Panels that a tile works on at once: every activation that is broadcast serves both.
pub(crate) const PANELS: usize = 2;

/// How far ahead of the block in use packed bytes are asked for. Without it the loads of the next blocks wait behind the
/// arithmetic of this one as soon as there are a few rows: 8 rows ran at 9 GB/s instead of 28 on one Zen 5 core, and
/// even a single row at 32 instead of 47.
pub(crate) const AHEAD: usize = 8192;

/// A pair of panels as blocks of 16 rows by 32 columns.
///
/// # Safety
/// Methods need the features of `I` and blocks within the source.
pub(crate) trait Source: Codes {
    /// Whether blocks have minima.
    const HAS_MIN: bool;
    /// Whether scales cover 16 columns.
    const HALVES: bool;

    /// Asks for memory that will be needed soon, on the way through block `b`.
    unsafe fn prefetch<I: Isa>(&self, b: usize);
    /// Codes of columns `8g .. 8g + 4` and `8g + 4 .. 8g + 8`.
    unsafe fn codes<I: Isa>(&self, panel: usize, b: usize, g: usize) -> (I::B, I::B);
    /// Scales of the 16 rows.
    unsafe fn scale<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F;
    /// Minima of the 16 rows.
    unsafe fn min<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F;
}

/// Packed bytes of two panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(crate) data: [*const u8; PANELS],
    /// Of layouts with a second plane.
    pub(crate) second: [*const u8; PANELS],
    pub(crate) ahead: Ahead,
}

impl Packed {
    /// The panels `bytes` further.
    #[inline(always)]
    pub(crate) fn skip(self, bytes: usize) -> Self {
        let data = self.data.map(|panel| panel.wrapping_add(bytes));
        Self { data, ..self }
    }

    /// The panels `bytes` further in the second plane.
    #[inline(always)]
    pub(crate) fn skip_second(self, bytes: usize) -> Self {
        let second = self.second.map(|panel| panel.wrapping_add(bytes));
        Self { second, ..self }
    }

    /// Block `b` of layout `W`: its super-block and its place in it.
    #[inline(always)]
    fn at<W: Format>(&self, panel: usize, b: usize) -> (*const u8, usize) {
        let sup = self.data[panel].wrapping_add(b / W::BLOCKS * W::BYTES);
        (sup, b % W::BLOCKS)
    }
}

/// [`Packed`] in layout `W`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedIn<W> {
    packed: Packed,
    layout: std::marker::PhantomData<W>,
}

impl<W: Format> PackedIn<W> {
    pub(crate) fn new(packed: Packed) -> Self {
        Self {
            packed,
            layout: std::marker::PhantomData,
        }
    }
}

impl<W: Format> Codes for PackedIn<W> {
    const MAX_CODE: u8 = W::MAX_CODE;
}

impl<W: Format> Source for PackedIn<W> {
    const HAS_MIN: bool = W::HAS_MIN;
    const HALVES: bool = W::HALVES;

    #[inline(always)]
    unsafe fn prefetch<I: Isa>(&self, b: usize) {
        // SAFETY: a prefetch may name any address.
        unsafe {
            self.packed
                .ahead
                .ask::<I>(self.packed.data, b, W::BYTES / W::BLOCKS);
        }
    }
    #[inline(always)]
    unsafe fn codes<I: Isa>(&self, panel: usize, b: usize, g: usize) -> (I::B, I::B) {
        let (sup, blk) = self.packed.at::<W>(panel, b);
        // SAFETY: the caller's block.
        unsafe {
            let second = self.packed.second[panel].wrapping_add(b * W::SECOND_BYTES);
            W::codes::<I>(sup, second, blk, g)
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F {
        let (sup, blk) = self.packed.at::<W>(panel, b);
        // SAFETY: the caller's block.
        unsafe { W::scale::<I>(sup, blk, half) }
    }
    #[inline(always)]
    unsafe fn min<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F {
        let (sup, blk) = self.packed.at::<W>(panel, b);
        // SAFETY: the caller's block.
        unsafe { W::min::<I>(sup, blk, half) }
    }
}

/// Where the bytes lie that come some time after a block: later in its panel, or in the panel after it in its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Bytes of a panel.
    panel: usize,
    /// How far ahead within the panel, and beyond its end.
    near: usize,
    far: usize,
}

impl Ahead {
    /// Panels of `panel` bytes whose successors in the same stream begin `stride` bytes after them.
    pub(crate) fn new(panel: usize, stride: usize) -> Self {
        let (near, far) = if panel > AHEAD {
            (AHEAD, AHEAD + stride - panel)
        } else {
            let whole = (AHEAD / panel.max(1)).max(1) * stride; // whole panels: every line is asked for once
            (whole, whole)
        };
        Self { panel, near, far }
    }

    /// Ask for what block `b` (of `bytes` bytes) is ahead of, in both streams.
    #[inline(always)]
    pub(crate) unsafe fn ask<I: Isa>(&self, data: [*const u8; PANELS], b: usize, bytes: usize) {
        let at = b * bytes;
        let at = at
            + if at + self.near < self.panel {
                self.near
            } else {
                self.far
            };
        for panel in data {
            for line in 0..bytes.div_ceil(64) {
                // SAFETY: a prefetch may name any address.
                unsafe { I::prefetch(panel.wrapping_add(at + 64 * line)) };
            }
        }
    }
}

/// What distinguishes the arithmetic of unpacked layouts.
pub(crate) trait Class: Codes {
    const HAS_MIN: bool;
    const HALVES: bool;
}

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident: min $min:literal, halves $halves:literal, codes up to $max:literal;)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $class;

            impl Codes for $class {
                const MAX_CODE: u8 = $max;
            }

            impl Class for $class {
                const HAS_MIN: bool = $min;
                const HALVES: bool = $halves;
            }
        )*
    };
}

classes! {
    /// A scale per 32 columns.
    Scaled: min false, halves false, codes up to 31;
    /// A scale per 32 columns, codes of 8 bits.
    ScaledBytes: min false, halves false, codes up to 255;
    /// A scale and a minimum per 32 columns.
    ScaledMin: min true, halves false, codes up to 31;
    /// A scale per 16 columns.
    ScaledHalves: min false, halves true, codes up to 63;
    /// A scale and a minimum per 16 columns.
    ScaledHalvesMin: min true, halves true, codes up to 63;
}

/// A chunk of two panels in [`PanelScratch`], and the memory to ask for while it is in use.
pub(crate) struct Unpacked<C> {
    codes: *const u8,
    scales: *const f32,
    mins: *const f32,
    /// The chunk after this one in both streams, and its bytes per block.
    next: [*const u8; PANELS],
    bytes: usize,
    class: std::marker::PhantomData<C>,
}

impl<C: Class> Unpacked<C> {
    pub(crate) fn new(scratch: &PanelScratch, next: [*const u8; PANELS], bytes: usize) -> Self {
        Self {
            codes: scratch.codes.as_ptr(),
            scales: scratch.scales.as_ptr(),
            mins: scratch.mins.as_ptr(),
            next,
            bytes,
            class: std::marker::PhantomData,
        }
    }
}

impl<C> Unpacked<C> {
    /// Codes of block `b`: `[8][16][4]`.
    #[inline(always)]
    pub(crate) fn block(&self, panel: usize, b: usize) -> *const u8 {
        self.codes.wrapping_add(panel * PANEL_CODES + b * 512)
    }
}

/// Elements of one panel in the scratch.
pub(crate) const PANEL_CODES: usize = CHUNK_BLOCKS * 8 * 64;
pub(crate) const PANEL_SCALES: usize = CHUNK_BLOCKS * 2 * LANES;
pub(crate) const PANEL_MINS: usize = PANEL_SCALES;

impl<C: Class> Codes for Unpacked<C> {
    const MAX_CODE: u8 = C::MAX_CODE;
}

impl<C: Class> Source for Unpacked<C> {
    const HAS_MIN: bool = C::HAS_MIN;
    const HALVES: bool = C::HALVES;

    #[inline(always)]
    unsafe fn prefetch<I: Isa>(&self, b: usize) {
        for panel in self.next {
            for line in 0..self.bytes.div_ceil(64) {
                // SAFETY: a prefetch may name any address.
                unsafe { I::prefetch(panel.wrapping_add(b * self.bytes + 64 * line)) };
            }
        }
    }
    #[inline(always)]
    unsafe fn codes<I: Isa>(&self, panel: usize, b: usize, g: usize) -> (I::B, I::B) {
        // SAFETY: `unpack` wrote this block.
        unsafe {
            let at = self.block(panel, b).add(2 * g * 64);
            (I::b_load(at), I::b_load(at.add(64)))
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F {
        let parts = if C::HALVES { 2 } else { 1 };
        // SAFETY: `unpack` wrote this block.
        unsafe {
            I::load(
                self.scales
                    .add(panel * PANEL_SCALES + (b * parts + half) * LANES),
            )
        }
    }
    #[inline(always)]
    unsafe fn min<I: Isa>(&self, panel: usize, b: usize, half: usize) -> I::F {
        let parts = if C::HALVES { 2 } else { 1 };
        let at = panel * PANEL_MINS + (b * parts + half) * LANES;
        // SAFETY: `unpack` wrote this block, and its minima where the class has them.
        unsafe { I::load(self.mins.add(at)) }
    }
}

/// Codes less `zero` to bytes, scales and minima to floats: `count` blocks from `from` on, both panels.
///
/// # Safety
/// `count <= CHUNK_BLOCKS` blocks exist from `from` on; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unpack<I: Isa, W: Format>(
    packed: Packed,
    (from, count): (usize, usize),
    zero: u8,
    scratch: &mut PanelScratch,
) {
    let source = PackedIn::<W>::new(packed);
    // SAFETY: the chunk fits the scratch.
    unsafe {
        let zero = I::b_set(zero);
        for panel in 0..PANELS {
            let codes = scratch.codes.as_mut_ptr().add(panel * PANEL_CODES);
            let scales = scratch.scales.as_mut_ptr().add(panel * PANEL_SCALES);
            let mins = scratch.mins.as_mut_ptr().add(panel * PANEL_MINS);
            for i in 0..count {
                let b = from + i;
                for g in 0..4 {
                    let (even, odd) = source.codes::<I>(panel, b, g);
                    I::b_store(codes.add((i * 8 + 2 * g) * 64), I::b_sub(even, zero));
                    I::b_store(codes.add((i * 8 + 2 * g + 1) * 64), I::b_sub(odd, zero));
                }
                let parts = if W::HALVES { 2 } else { 1 };
                for part in 0..parts {
                    let at = (i * parts + part) * LANES;
                    I::store(scales.add(at), source.scale::<I>(panel, b, part));
                    if W::HAS_MIN {
                        I::store(mins.add(at), source.min::<I>(panel, b, part));
                    }
                }
            }
        }
    }
}
