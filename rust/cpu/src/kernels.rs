//! One table of function pointers per executor: every kernel compiled once per tier, inside that tier's features.

use inferlib_core::SampledRow;
use inferlib_core::program::Activation;

use crate::activations::{self, ActivationsView, Need};
use crate::attention::{self, AttentionScratch, AttentionTask, Merge, Unit};
use crate::formats::Format;
use crate::kv_cache::{self, Half, LayerCache, Single};
use crate::linear::{
    self, Gemv, LayoutKernels, PanelScratch, Scaled, ScaledHalves, ScaledMin, Tiles,
};
use crate::matrix::Packing;
use crate::rows;
use crate::sampling::{RowResult, Sampler};
use crate::tier::Tier;

/// The sampler, compiled inside each tier's features: it is plain Rust that vectorises.
mod draw {
    use super::{RowResult, SampledRow, Sampler};
    use crate::simd::Isa;

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

macro_rules! kernels {
    (
        layouts { $($layout:ident)* }
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $module:ident::$function:ident $(, $element:ident)?;)*
    ) => {
        /// The kernels of one tier.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Kernels {
            $($(#[$doc])* pub(crate) $name: unsafe fn($($type),*),)*
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
                            unsafe fn gemv(task: &Gemv<'_>) {
                                // SAFETY: as above.
                                unsafe { linear::gemv::<$isa, Layout>(task) }
                            }
                            #[target_feature(enable = $features)]
                            unsafe fn unpack(data: *const u8, from: usize, count: usize, scratch: &mut PanelScratch) {
                                // SAFETY: as above.
                                unsafe { linear::unpack::<$isa, Layout>(data, from, count, scratch) }
                            }
                            #[target_feature(enable = $features)]
                            unsafe fn unpack_exact(data: *const u8, from: usize, count: usize, scratch: &mut PanelScratch) {
                                // SAFETY: as above.
                                unsafe { linear::unpack_exact::<$isa, Layout>(data, from, count, scratch) }
                            }

                            pub(super) const KERNELS: LayoutKernels = LayoutKernels {
                                gemv,
                                unpack,
                                unpack_exact,
                                zero: <Layout as Format>::ZERO,
                                has_min: <Layout as Format>::HAS_MIN,
                                halves: <Layout as Format>::HALVES,
                            };
                        }
                    )*

                    pub(super) const TABLE: Kernels =
                        Kernels { $($name,)* layouts: Layouts { $($layout: $layout::KERNELS),* } };
                }
            };
        }

        #[cfg(target_arch = "x86_64")]
        tier!(avx512vnni, Avx512Vnni, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");
        #[cfg(target_arch = "x86_64")]
        tier!(avx2, Portable, "avx2,fma,f16c");
        // Baseline features: every machine of the architecture has them.
        #[cfg(target_arch = "x86_64")]
        tier!(scalar, Portable, "sse2");
        #[cfg(target_arch = "aarch64")]
        tier!(scalar, Portable, "neon");
    };
}

kernels! {
    layouts {
        Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K
    }
    /// See [`linear::int_tiles`].
    fn int_tiles_scaled(tiles: &Tiles<'_>, panel: &PanelScratch) = linear::int_tiles, Scaled;
    /// See [`linear::int_tiles`].
    fn int_tiles_min(tiles: &Tiles<'_>, panel: &PanelScratch) = linear::int_tiles, ScaledMin;
    /// See [`linear::int_tiles`].
    fn int_tiles_halves(tiles: &Tiles<'_>, panel: &PanelScratch) = linear::int_tiles, ScaledHalves;
    /// See [`linear::float_tiles`].
    fn float_tiles(tiles: &Tiles<'_>, panel: &PanelScratch) = linear::float_tiles;
    /// See [`linear::unpack_float`].
    fn unpack_float(packing: Packing, data: *const u8, from: usize, count: usize, scratch: &mut PanelScratch) = linear::unpack_float;
    /// See [`activations::pack_row`].
    fn pack_row(x: *const f32, width: usize, row: usize, rows: usize, need: Need, to: ActivationsView) = activations::pack_row;
    /// See [`attention::unit`], f16 cache.
    fn attention_half(task: &AttentionTask<'_>, unit: Unit, scratch: &mut AttentionScratch) = attention::unit, Half;
    /// See [`attention::unit`], f32 cache.
    fn attention_single(task: &AttentionTask<'_>, unit: Unit, scratch: &mut AttentionScratch) = attention::unit, Single;
    /// See [`attention::merge`].
    fn attention_merge(task: &AttentionTask<'_>, merge: Merge, scratch: &mut AttentionScratch) = attention::merge;
    /// See [`kv_cache::store_kv`], f16 cache.
    fn store_kv_half(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Half;
    /// See [`kv_cache::store_kv`], f32 cache.
    fn store_kv_single(cache: &LayerCache, slot: usize, k: *const f32, v: *const f32) = kv_cache::store_kv, Single;
    /// See [`rows::rms_norm`].
    fn rms_norm(x: *const f32, len: usize, weight: &[f32], eps: f32, out: *mut f32) = rows::rms_norm;
    /// See [`rows::rope`].
    fn rope(x: *mut f32, num_heads: usize, head_dim: usize, half: usize, cos: *const f32, sin: *const f32) = rows::rope;
    /// See [`rows::act_and_mul`].
    fn act_and_mul(x: *const f32, width: usize, activation: Activation, out: *mut f32) = rows::act_and_mul;
    /// See [`rows::add`].
    fn add(a: *const f32, b: *const f32, width: usize, out: *mut f32) = rows::add;
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
            Tier::Avx512Vnni => avx512vnni::TABLE,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => avx2::TABLE,
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx512Vnni | Tier::Avx2 => scalar::TABLE,
            Tier::Scalar => scalar::TABLE,
        }
    }

    /// The kernels of a packed layout; `None` for float panels.
    pub(crate) fn layout(&self, packing: Packing) -> Option<&LayoutKernels> {
        match packing {
            Packing::Q4_0 => Some(&self.layouts.Q4_0),
            Packing::Q4_1 => Some(&self.layouts.Q4_1),
            Packing::Q5_0 => Some(&self.layouts.Q5_0),
            Packing::Q5_1 => Some(&self.layouts.Q5_1),
            Packing::Q8_0 => Some(&self.layouts.Q8_0),
            Packing::Q4K => Some(&self.layouts.Q4K),
            Packing::Q5K => Some(&self.layouts.Q5K),
            Packing::Q6K => Some(&self.layouts.Q6K),
            Packing::F32 | Packing::F16 | Packing::Bf16 => None,
        }
    }
}
