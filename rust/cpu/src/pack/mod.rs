//! From a file's rows to panels. Codes and scales are moved, never changed: the packed values are the file's.

mod k_quants;
mod planes;
mod q8_planes;
mod round_quants;

use half::f16;

use crate::packing::{Element, Packing};
use crate::simd::LANES;

/// Write row `lane` of a panel (zeroed memory of `packing.panel_bytes(width)`) from the file's bytes.
///
/// The dequantized packings take values instead: [`pack_values`].
pub(crate) fn pack_row(packing: Packing, row: &[u8], lane: usize, panel: &mut [u8]) {
    match packing {
        Packing::Q4_0 => round_quants::q4_0(row, lane, panel),
        Packing::Q4_1 => round_quants::q4_1(row, lane, panel),
        Packing::Q5_0 => round_quants::q5_0(row, lane, panel),
        Packing::Q5_1 => round_quants::q5_1(row, lane, panel),
        Packing::Q8_0 | Packing::Q8Rows => round_quants::q8_0(row, lane, panel),
        Packing::Q8Planes => q8_planes::upper(row, lane, panel),
        Packing::Iq4Nl => round_quants::iq4_nl(row, lane, panel),
        Packing::Mxfp4 => round_quants::mxfp4(row, lane, panel),
        Packing::Q2K => k_quants::q2_k(row, lane, panel),
        Packing::Q3K => k_quants::q3_k(row, lane, panel),
        Packing::Q4K => k_quants::q4_k(row, lane, panel),
        Packing::Q5K => k_quants::q5_k(row, lane, panel),
        Packing::Q6K => k_quants::q6_k(row, lane, panel),
        Packing::Iq4Xs => k_quants::iq4_xs(row, lane, panel),
        Packing::F32 | Packing::DequantizedF32 => elements::<4>(row, lane, panel),
        Packing::F16 | Packing::Bf16 | Packing::DequantizedF16 => elements::<2>(row, lane, panel),
    }
}

/// Write row `lane` of a panel's second plane; `None` for a lane that is no row.
pub(crate) fn pack_second(packing: Packing, row: Option<&[u8]>, lane: usize, panel: &mut [u8]) {
    if packing == Packing::Q8Planes {
        q8_planes::lower(row, lane, panel);
    }
}

/// Write row `lane` of a panel of dequantized values.
pub(crate) fn pack_values(packing: Packing, row: &[f32], lane: usize, panel: &mut [u8]) {
    if packing.element() == Some(Element::F16) {
        for (k, &x) in row.iter().enumerate() {
            let bytes = f16::from_f32(x).to_le_bytes();
            panel[(k * LANES + lane) * 2..][..2].copy_from_slice(&bytes);
        }
    } else {
        for (k, x) in row.iter().enumerate() {
            panel[(k * LANES + lane) * 4..][..4].copy_from_slice(&x.to_le_bytes());
        }
    }
}

fn elements<const BYTES: usize>(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (k, element) in row.as_chunks::<BYTES>().0.iter().enumerate() {
        panel[(k * LANES + lane) * BYTES..][..BYTES].copy_from_slice(element);
    }
}
