//! One table of function pointers per executor: every kernel compiled once per tier, inside that tier's features.

use std::ops::Range;

use inferlib_core::program::Activation;

use crate::activations::{self, ActivationsView, Need};
use crate::attention::{self, AttentionScratch, AttentionTask, Merge, Unit};
use crate::kv_cache::{self, Half, LayerCache, Single};
use crate::linear::{self, LinearTask, PanelScratch};
use crate::rows;
use crate::tier::Tier;

macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $module:ident::$function:ident $(, $element:ident)?;)*) => {
        /// The kernels of one tier.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Kernels {
            $($(#[$doc])* pub(crate) $name: unsafe fn($($type),*),)*
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

                    pub(super) const TABLE: Kernels = Kernels { $($name),* };
                }
            };
        }

        #[cfg(target_arch = "x86_64")]
        tier!(avx512vnni, Avx512Vnni, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");
        #[cfg(target_arch = "x86_64")]
        tier!(avx2, Portable, "avx2,fma,f16c");

        mod scalar {
            use super::*;
            use crate::simd::Portable;

            $(
                unsafe fn $name($($arg: $type),*) {
                    // SAFETY: the table's contract is the kernel's; no features are needed.
                    unsafe { $module::$function::<Portable $(, $element)?>($($arg),*) }
                }
            )*

            pub(super) const TABLE: Kernels = Kernels { $($name),* };
        }
    };
}

kernels! {
    /// See [`linear::linear`].
    fn linear(task: &LinearTask<'_>, panels: Range<usize>, scratch: &mut PanelScratch) = linear::linear;
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
}
