//! Which instruction set the kernels of one executor use: detected when it is built, or forced.

use crate::error::CpuError;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx;

/// Instruction sets with kernels, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// AVX-512 F, BW, VL, DQ, VNNI; products of many rows by AMX INT8.
    Amx,
    /// AVX-512 F, BW, VL, DQ, VNNI.
    Avx512Vnni,
    /// AVX-512 F, BW, VL, DQ.
    Avx512,
    /// AVX2, FMA, F16C, AVX-VNNI.
    AvxVnni,
    /// AVX2, FMA, F16C.
    Avx2,
    /// `AArch64` with `sdot`.
    Neon,
    /// Plain Rust; the oracle of the others.
    Scalar,
}

impl Tier {
    /// All tiers, best first.
    pub const ALL: [Self; 7] = [
        Self::Amx,
        Self::Avx512Vnni,
        Self::Avx512,
        Self::AvxVnni,
        Self::Avx2,
        Self::Neon,
        Self::Scalar,
    ];

    /// The name by which it is forced and reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512 => "avx512",
            Self::AvxVnni => "avxvnni",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        }
    }

    /// Whether this machine can run it, and the system lets this process: asking for [`Self::Amx`] asks Linux for its
    /// registers, which is kept until the process ends and costs nothing until they are used.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match self {
                Self::Amx => Self::Avx512Vnni.is_available() && amx::is_available(),
                Self::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
                Self::Avx512 => avx512,
                Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
                Self::Avx2 => avx2,
                Self::Neon => false,
                Self::Scalar => true,
            }
        }
        #[cfg(target_arch = "aarch64")]
        match self {
            Self::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            Self::Scalar => true,
            _ => false,
        }
    }

    /// Whether this machine multiplies pairs of bfloat16 in one instruction of the tier's registers.
    #[must_use]
    pub(crate) fn has_dot_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Vnni => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// The tiers that this machine runs, best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|tier| tier.is_available())
            .collect()
    }

    /// The best tier, or the one named.
    ///
    /// # Errors
    /// An unknown name, or a tier that this machine cannot run: never a silent fallback.
    pub fn choose(name: Option<&str>) -> Result<Self, CpuError> {
        let names = || {
            Self::available()
                .iter()
                .map(|tier| tier.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let Some(name) = name else {
            return Ok(Self::available().first().copied().unwrap_or(Self::Scalar));
        };
        let tier = Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| CpuError::UnknownTier {
                tier: name.to_owned(),
                available: names(),
            })?;
        if tier.is_available() {
            Ok(tier)
        } else {
            Err(CpuError::UnavailableTier {
                tier: name.to_owned(),
                available: names(),
            })
        }
    }
}
