//! One table of function pointers per executor: every kernel compiled once per tier, inside that tier's features.

use inferlib_program::SampledRow;
use inferlib_program::program::{Activation, Scoring};

use crate::activations::{self, ActivationsView, Need};
use crate::adapters::AdapterPart;
use crate::attention::{self, AttentionScratch, AttentionTask, Merge, Unit};
use crate::formats::Format;
use crate::kv_cache::{self, Bfloat, BfloatNative, Half, Int8, KvDtype, LayerCache, Single};
use crate::linear::bounds::{self, Bounds};
use crate::linear::float::{self, Bf16, F16, F32, FloatTiles};
use crate::linear::row_tile;
use crate::linear::source::{
    self, PANELS, Packed, Scaled, ScaledBytes, ScaledHalves, ScaledHalvesMin, ScaledMin, Unpacked,
};
use crate::linear::tile::{self, Stretch, Target, Tiles};
use crate::linear::{LayoutKernels, PanelScratch};
use crate::packing::{Element, Packing};
use crate::rows;
use crate::sampling::{RowResult, Sampler};
use crate::simd::{Codes, Dot, Isa, for_each_tier};
use crate::tier::Tier;

/// The sampler, compiled inside each tier's features: it is plain Rust that vectorises.
mod draw {
    use super::{Isa, RowResult, SampledRow, Sampler};

    /// [`Sampler::run`]; `I` only says which tier this copy belongs to.
    #[inline(always)]
    pub(super) unsafe fn sample<I: Isa>(
        sampler: &mut Sampler,
        logits: &mut [f32],
        row: &SampledRow,
        history: &[i32],
        result: &mut Option<RowResult>,
    ) {
        *result = Some(sampler.run(logits, row, history));
    }
}

/// [`tile::int_tiles`] over an unpacked chunk, and where the chunk after it lies with its bytes per block.
type UnpackedTiles = unsafe fn(&Tiles, &mut PanelScratch, [*const u8; PANELS], usize);

/// What a matrix unit does for all classes: [`MatrixUnit::begin`] and [`MatrixUnit::end`] of its registers, and
/// [`row_tile::matrix_row_tiles`].
///
/// [`MatrixUnit::begin`]: crate::simd::matrix_unit::MatrixUnit::begin
/// [`MatrixUnit::end`]: crate::simd::matrix_unit::MatrixUnit::end
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitKernels {
    pub(crate) begin: unsafe fn(usize),
    pub(crate) end: unsafe fn(),
    pub(crate) row_tiles: UnpackedTiles,
}

/// Largest row count that is served from packed bytes: up to it unpacking once for all rows costs more than it saves, most
/// of all with several workers (5 to 16 % at 32 rows, two of them; `Q3_K` alone gains nothing).
const PACKED_ROWS: usize = 64;

/// The kernels of one type of KV cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvKernels {
    /// See [`attention::unit`].
    pub(crate) attention: unsafe fn(&AttentionTask<'_>, Unit, Option<Unit>, &mut AttentionScratch),
    /// See [`kv_cache::store_kv`].
    pub(crate) store: unsafe fn(&LayerCache, usize, *const f32, *const f32),
}

macro_rules! kernels {
    (
        layouts { $($layout:ident)* }
        classes { $($class:ident: $class_type:ident)* }
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $module:ident::$function:ident $(, $element:ident)?;)*
    ) => {
        /// The kernels of one tier.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Kernels {
            $($(#[$doc])* pub(crate) $name: unsafe fn($($type),*),)*
            $(
                /// See [`tile::int_tiles`], over an unpacked chunk of this class: one plane and two.
                pub(crate) $class: [UnpackedTiles; 2],
            )*
            /// Largest row count that is served from packed bytes.
            pub(crate) packed_rows: usize,
            /// What multiplies unpacked codes, if it is not the vector unit: it wants them signed.
            pub(crate) unit: Option<UnitKernels>,
            /// The linear kernels of each packed layout.
            pub(crate) layouts: Layouts,
        }

        /// One field per packed layout.
        #[derive(Clone, Copy, Debug)]
        #[expect(non_snake_case, reason = "the layouts' own names")]
        pub(crate) struct Layouts {
            $(pub(crate) $layout: LayoutKernels,)*
        }

        macro_rules! tier {
            ($tier:ident, $isa:ident, $features:literal) => {
                mod $tier {
                    use super::*;
                    use crate::simd::$isa;

                    $(
                        #[target_feature(enable = $features)]
                        unsafe fn $name($($arg: $type),*) {
                            // SAFETY: the table's contract is the kernel's; the features are enabled here.
                            unsafe { $module::$function::<$isa $(, $element)?>($($arg),*) }
                        }
                    )*

                    $(
                        #[expect(non_snake_case, reason = "the layout's own name")]
                        mod $layout {
                            use super::*;
                            use crate::formats::$layout as Layout;

                            #[target_feature(enable = $features)]
                            unsafe fn packed(task: &Tiles, packed: Packed, stretch: Stretch, gated: Option<Activation>) {
                                // SAFETY: as above.
                                unsafe { tile::packed_tiles::<$isa, Layout, 1>(task, packed, stretch, gated) }
                            }
                            #[target_feature(enable = $features)]
                            unsafe fn packed_two_planes(task: &Tiles, packed: Packed, stretch: Stretch, gated: Option<Activation>) {
                                // SAFETY: as above.
                                unsafe { tile::packed_tiles::<$isa, Layout, 2>(task, packed, stretch, gated) }
                            }
                            #[target_feature(enable = $features)]
                            unsafe fn unpack(packed: Packed, blocks: (usize, usize), zero: u8, scratch: &mut PanelScratch) {
                                // SAFETY: as above.
                                unsafe { source::unpack::<$isa, Layout>(packed, blocks, zero, scratch) }
                            }
                            #[target_feature(enable = $features)]
                            unsafe fn unpack_exact(packed: Packed, from: usize, count: usize, scratch: &mut PanelScratch) {
                                // SAFETY: as above.
                                unsafe { float::unpack_exact::<$isa, Layout>(packed, from, count, scratch) }
                            }

                            pub(super) const KERNELS: LayoutKernels = LayoutKernels {
                                packed: [packed, packed_two_planes],
                                unpack,
                                unpack_exact,
                                zero: if <$isa as Isa>::Dot::SIGNED_BYTES && Layout::MAX_CODE > 127 { 0 } else { Layout::ZERO },
                                #[expect(clippy::cast_possible_truncation, reason = "0 to 128")]
                                code_zero: Layout::ZERO as u8,
                                bytes: Layout::MAX_CODE > 127,
                                has_min: <Layout as Format>::HAS_MIN,
                                halves: <Layout as Format>::HALVES,
                                block_bytes: <Layout as Format>::BYTES / <Layout as Format>::BLOCKS,
                            };
                        }
                    )*

                    $(
                        mod $class {
                            use super::*;

                            #[target_feature(enable = $features)]
                            pub(super) unsafe fn one(task: &Tiles, scratch: &mut PanelScratch, next: [*const u8; PANELS], bytes: usize) {
                                // SAFETY: as above.
                                unsafe { tile::int_tiles::<$isa, _, 1>(task, &Unpacked::<$class_type>::new(scratch, next, bytes)) }
                            }
                            #[target_feature(enable = $features)]
                            pub(super) unsafe fn two(task: &Tiles, scratch: &mut PanelScratch, next: [*const u8; PANELS], bytes: usize) {
                                // SAFETY: as above.
                                unsafe { tile::int_tiles::<$isa, _, 2>(task, &Unpacked::<$class_type>::new(scratch, next, bytes)) }
                            }
                        }
                    )*

                    pub(super) const TABLE: Kernels = Kernels {
                        $($name,)*
                        $($class: [$class::one, $class::two],)*
                        packed_rows: PACKED_ROWS,
                        unit: None,
                        layouts: Layouts { $($layout: $layout::KERNELS),* },
                    };
                }
            };
        }

        for_each_tier!(tier);

        /// `avx512vnni` with products of many rows on the matrix unit.
        #[cfg(target_arch = "x86_64")]
        mod amx {
            use super::*;
            use crate::linear::matrix_tile::matrix_tiles;
            use crate::linear::row_tile::matrix_row_tiles;
            use crate::simd::Avx512Vnni;
            use crate::simd::amx::Amx;
            use crate::simd::matrix_unit::MatrixUnit;

            $(
                mod $class {
                    use super::*;

                    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
                    pub(super) unsafe fn one(task: &Tiles, scratch: &mut PanelScratch, next: [*const u8; PANELS], bytes: usize) {
                        let products = scratch.products();
                        let source = Unpacked::<$class_type>::new(scratch, next, bytes);
                        // SAFETY: the table's contract is the kernel's; the features are enabled here.
                        unsafe { matrix_tiles::<Avx512Vnni, Amx, _, 1>(task, &source, products) }
                    }
                    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
                    pub(super) unsafe fn two(task: &Tiles, scratch: &mut PanelScratch, next: [*const u8; PANELS], bytes: usize) {
                        let products = scratch.products();
                        let source = Unpacked::<$class_type>::new(scratch, next, bytes);
                        // SAFETY: as above.
                        unsafe { matrix_tiles::<Avx512Vnni, Amx, _, 2>(task, &source, products) }
                    }
                }
            )*

            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            unsafe fn row_tiles(task: &Tiles, scratch: &mut PanelScratch, next: [*const u8; PANELS], bytes: usize) {
                let source = Unpacked::<ScaledBytes>::new(scratch, next, bytes);
                // SAFETY: as above.
                unsafe { matrix_row_tiles::<Avx512Vnni, Amx>(task, &source) }
            }

            unsafe fn begin(words: usize) {
                // SAFETY: the unit is the table's contract.
                unsafe { Amx::begin(words) }
            }
            unsafe fn end() {
                // SAFETY: as above.
                unsafe { Amx::end() }
            }

            pub(super) const TABLE: Kernels = Kernels {
                $($class: [$class::one, $class::two],)*
                packed_rows: AMX_PACKED_ROWS,
                unit: Some(UnitKernels { begin, end, row_tiles }),
                ..avx512vnni::TABLE
            };
        }
    };
}

/// [`PACKED_ROWS`] where a matrix unit multiplies what is unpacked.
const AMX_PACKED_ROWS: usize = 24;

kernels! {
    layouts {
        Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8Planes Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4
    }
    classes {
        int_tiles_scaled: Scaled
        int_tiles_bytes: ScaledBytes
        int_tiles_min: ScaledMin
        int_tiles_halves: ScaledHalves
        int_tiles_halves_min: ScaledHalvesMin
    }
    /// See [`tile::gate_pair`].
    fn gate_pair(target: &Target, rows: usize, activation: Activation) = tile::gate_pair;
    /// See [`row_tile::row_tiles`].
    fn row_tiles(task: &Tiles, packed: Packed, stretch: Stretch, gated: Option<Activation>) = row_tile::row_tiles;
    /// See [`bounds::one_plane`].
    fn bound_one_plane(task: &Tiles, packed: Packed, stretch: Stretch, to: &Bounds) = bounds::one_plane;
    /// See [`bounds::two_planes`].
    fn bound_two_planes(task: &Tiles, packed: Packed, stretch: Stretch, to: &Bounds) = bounds::two_planes;
    /// See [`float::float_tiles`].
    fn float_tiles_f32(task: &FloatTiles) = float::float_tiles, F32;
    /// See [`float::float_tiles`].
    fn float_tiles_f16(task: &FloatTiles) = float::float_tiles, F16;
    /// See [`float::float_tiles`].
    fn float_tiles_bf16(task: &FloatTiles) = float::float_tiles, Bf16;
    /// See [`activations::pack_row`].
    fn pack_row(x: *const f32, width: usize, row: usize, rows: usize, need: Need, to: ActivationsView) = activations::pack_row;
    /// See [`attention::unit`], f16 cache.
    fn attention_f16(task: &AttentionTask<'_>, unit: Unit, next: Option<Unit>, scratch: &mut AttentionScratch) = attention::unit, Half;
    /// See [`attention::unit`], bf16 cache.
    fn attention_bf16(task: &AttentionTask<'_>, unit: Unit, next: Option<Unit>, scratch: &mut AttentionScratch) = attention::unit, Bfloat;
    /// See [`attention::unit`], bf16 cache, where [`Tier::has_dot_bf16`].
    fn attention_bf16_native(task: &AttentionTask<'_>, unit: Unit, next: Option<Unit>, scratch: &mut AttentionScratch) = attention::unit, BfloatNative;
    /// See [`attention::unit`], int8 cache.
    fn attention_int8(task: &AttentionTask<'_>, unit: Unit, next: Option<Unit>, scratch: &mut AttentionScratch) = attention::unit, Int8;
    /// See [`attention::unit`], f32 cache.
    fn attention_f32(task: &AttentionTask<'_>, unit: Unit, next: Option<Unit>, scratch: &mut AttentionScratch) = attention::unit, Single;
    /// See [`attention::merge`].
    fn attention_merge(task: &AttentionTask<'_>, merge: Merge, scratch: &mut AttentionScratch) = attention::merge;
    /// See [`kv_cache::store_kv`], f16 cache.
    fn store_kv_f16(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Half;
    /// See [`kv_cache::store_kv`], bf16 cache.
    fn store_kv_bf16(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Bfloat;
    /// See [`kv_cache::store_kv`], int8 cache.
    fn store_kv_int8(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Int8;
    /// See [`kv_cache::store_kv`], f32 cache.
    fn store_kv_f32(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Single;
    /// See [`rows::rms_norm`].
    fn rms_norm(x: *const f32, len: usize, weight: &[f32], eps: f32, out: *mut f32) = rows::rms_norm;
    /// See [`rows::layer_norm`].
    fn layer_norm(x: *const f32, weight: &[f32], bias: Option<&[f32]>, eps: f32, out: *mut f32) = rows::layer_norm;
    /// See [`rows::rope`].
    fn rope(x: *mut f32, num_heads: usize, head_dim: usize, half: usize, cos: *const f32, sin: *const f32) = rows::rope;
    /// See [`rows::act_and_mul`].
    fn act_and_mul(x: *const f32, width: usize, activation: Activation, out: *mut f32) = rows::act_and_mul;
    /// See [`rows::activation`].
    fn activation(x: *const f32, width: usize, activation: Activation, out: *mut f32) = rows::activation;
    /// See [`rows::add`].
    fn add(a: *const f32, b: *const f32, width: usize, out: *mut f32) = rows::add;
    /// See [`rows::add_scaled`].
    fn add_scaled(x: *const f32, width: usize, weight: f32, out: *mut f32) = rows::add_scaled;
    /// See [`rows::adapt`].
    fn adapt(x: *const f32, part: &AdapterPart, out: *mut f32) = rows::adapt;
    /// See [`rows::route`].
    fn route(logits: &[f32], normalise: bool, chosen: &mut [i32], weights: &mut [f32]) = rows::route;
    /// See [`rows::scores`].
    fn scores(logits: &[f32], scoring: Scoring, out: &mut [f32]) = rows::scores;
    /// See [`rows::scale`].
    fn scale(x: *mut f32, width: usize, scale: f32) = rows::scale;
    /// See [`Sampler::run`].
    fn sample(sampler: &mut Sampler, logits: &mut [f32], row: &SampledRow, history: &[i32], result: &mut Option<RowResult>) = draw::sample;
    /// See [`rows::softcap`].
    fn softcap(x: *mut f32, width: usize, cap: f32) = rows::softcap;
}

impl Kernels {
    /// The table of `tier`, which must be available on this machine.
    pub(crate) fn of(tier: Tier) -> Self {
        match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => amx::TABLE,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => avx512vnni::TABLE,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => avx512::TABLE,
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => avxvnni::TABLE,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => avx2::TABLE,
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => neon::TABLE,
            // Tiers of another architecture are never available.
            _ => scalar::TABLE,
        }
    }

    /// The kernel of float panels; packed layouts are unpacked to float32.
    pub(crate) fn float_tiles(&self, element: Option<Element>) -> unsafe fn(&FloatTiles) {
        match element {
            Some(Element::F16) => self.float_tiles_f16,
            Some(Element::Bf16) => self.float_tiles_bf16,
            Some(Element::F32) | None => self.float_tiles_f32,
        }
    }

    /// The kernels of `tier`, available on this machine, for a cache of `dtype`.
    pub(crate) fn of_cache(self, tier: Tier, dtype: KvDtype) -> KvKernels {
        let (attention, store) = match dtype {
            KvDtype::F16 => (self.attention_f16, self.store_kv_f16),
            KvDtype::Bf16 if tier.has_dot_bf16() => {
                (self.attention_bf16_native, self.store_kv_bf16)
            }
            KvDtype::Bf16 => (self.attention_bf16, self.store_kv_bf16),
            KvDtype::Int8 => (self.attention_int8, self.store_kv_int8),
            KvDtype::F32 => (self.attention_f32, self.store_kv_f32),
        };
        KvKernels { attention, store }
    }

    /// The kernels of a packed layout; `None` for float panels.
    pub(crate) fn layout(&self, packing: Packing) -> Option<&LayoutKernels> {
        match packing {
            Packing::Q4_0 => Some(&self.layouts.Q4_0),
            Packing::Q4_1 => Some(&self.layouts.Q4_1),
            Packing::Q5_0 => Some(&self.layouts.Q5_0),
            Packing::Q5_1 => Some(&self.layouts.Q5_1),
            Packing::Q8_0 | Packing::Q8Rows => Some(&self.layouts.Q8_0),
            Packing::Q8Planes => Some(&self.layouts.Q8Planes),
            Packing::Q2K => Some(&self.layouts.Q2K),
            Packing::Q3K => Some(&self.layouts.Q3K),
            Packing::Q4K => Some(&self.layouts.Q4K),
            Packing::Q5K => Some(&self.layouts.Q5K),
            Packing::Q6K => Some(&self.layouts.Q6K),
            Packing::Iq4Nl => Some(&self.layouts.Iq4Nl),
            Packing::Iq4Xs => Some(&self.layouts.Iq4Xs),
            Packing::Mxfp4 => Some(&self.layouts.Mxfp4),
            Packing::F32
            | Packing::F16
            | Packing::Bf16
            | Packing::DequantizedF32
            | Packing::DequantizedF16 => None,
        }
    }
}
