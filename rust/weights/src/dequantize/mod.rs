//! Any tensor type as float32: the scalar reference, bit for bit what the `gguf` and `ml_dtypes` Python packages give.
//!
//! One function per block format over arrays of fixed size, so that nothing is indexed and the compiler vectorises.
//! Multiplications and additions are rounded one by one, in the reference's order: never fused.

mod codebook;
mod finite;
mod floats;
mod k_quants;
mod round_quants;

use crate::cursor::as_u64;
use crate::dtype::Dtype;
use crate::error::WeightsError;

pub use finite::first_non_finite;

/// Turn whole blocks of `dtype` into float32.
///
/// `out` takes exactly the elements of `bytes`, in order. Integers and truth values become the nearest float32.
pub fn dequantize(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<(), WeightsError> {
    let fits = match dtype {
        Dtype::F32 => map(bytes, out, f32::from_le_bytes),
        Dtype::F64 => map(bytes, out, floats::f64_to_f32),
        Dtype::F16 => map(bytes, out, floats::f16_to_f32),
        Dtype::BF16 => map(bytes, out, floats::bf16_to_f32),
        Dtype::F8E4M3 => map(bytes, out, floats::f8_e4m3_to_f32),
        Dtype::F8E5M2 => map(bytes, out, floats::f8_e5m2_to_f32),
        Dtype::I8 => map(bytes, out, |bytes| f32::from(i8::from_le_bytes(bytes))),
        Dtype::I16 => map(bytes, out, |bytes| f32::from(i16::from_le_bytes(bytes))),
        Dtype::I32 => map(bytes, out, floats::i32_to_f32),
        Dtype::I64 => map(bytes, out, floats::i64_to_f32),
        Dtype::U8 => map(bytes, out, |[byte]| f32::from(byte)),
        Dtype::Bool => map(bytes, out, |[byte]| f32::from(u8::from(byte != 0))),
        Dtype::Q4_0 => blocks(bytes, out, round_quants::q4_0),
        Dtype::Q4_1 => blocks(bytes, out, round_quants::q4_1),
        Dtype::Q5_0 => blocks(bytes, out, round_quants::q5_0),
        Dtype::Q5_1 => blocks(bytes, out, round_quants::q5_1),
        Dtype::Q8_0 => blocks(bytes, out, round_quants::q8_0),
        Dtype::Q2K => blocks(bytes, out, k_quants::q2_k),
        Dtype::Q3K => blocks(bytes, out, k_quants::q3_k),
        Dtype::Q4K => blocks(bytes, out, k_quants::q4_k),
        Dtype::Q5K => blocks(bytes, out, k_quants::q5_k),
        Dtype::Q6K => blocks(bytes, out, k_quants::q6_k),
        Dtype::Iq4Nl => blocks(bytes, out, codebook::iq4_nl),
        Dtype::Iq4Xs => blocks(bytes, out, codebook::iq4_xs),
        Dtype::Mxfp4 => blocks(bytes, out, codebook::mxfp4),
    };
    fits.ok_or(WeightsError::BlockLength {
        dtype,
        bytes: bytes.len(),
        elements: out.len(),
    })
}

/// Turn whole blocks of `dtype` into float32, in memory of their own.
pub fn dequantize_to_vec(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, WeightsError> {
    let blocks = bytes.len().checked_div(dtype.block_bytes()).unwrap_or(0);
    let elements = blocks.saturating_mul(dtype.block_size());
    let mut values = Vec::new();
    values
        .try_reserve_exact(elements)
        .map_err(|_| WeightsError::ArrayOutOfMemory {
            required: as_u64(elements.saturating_mul(size_of::<f32>())),
        })?;
    values.resize(elements, 0.0);
    dequantize(dtype, bytes, &mut values)?;
    Ok(values)
}

/// One element after the other; `None` if the lengths differ.
fn map<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: impl Fn([u8; BYTES]) -> f32,
) -> Option<()> {
    let (elements, []) = bytes.as_chunks::<BYTES>() else {
        return None;
    };
    if elements.len() != out.len() {
        return None;
    }
    for (value, &element) in out.iter_mut().zip(elements) {
        *value = convert(element);
    }
    Some(())
}

/// One block after the other; `None` if the lengths differ or a block is cut off.
fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) -> Option<()> {
    let (blocks, []) = bytes.as_chunks::<BYTES>() else {
        return None;
    };
    let (values, []) = out.as_chunks_mut::<ELEMENTS>() else {
        return None;
    };
    if blocks.len() != values.len() {
        return None;
    }
    for (block, values) in blocks.iter().zip(values) {
        convert(block, values);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for dtype in Dtype::ALL {
            let (bytes, size) = (dtype.block_bytes(), dtype.block_size());
            for (given, elements) in [
                (bytes, 2 * size),
                (2 * bytes, size),
                (bytes + 1, size),
                (bytes, size + 1),
                (0, size),
                (bytes, 0),
                (bytes - 1, size),
            ] {
                let result = dequantize(dtype, &vec![0; given], &mut vec![0.0; elements]);
                assert!(
                    matches!(result, Err(WeightsError::BlockLength { .. })),
                    "{dtype}: {given} bytes, {elements} elements"
                );
            }
            dequantize(dtype, &vec![0; 3 * bytes], &mut vec![0.0; 3 * size]).unwrap();
            dequantize(dtype, &[], &mut []).unwrap();
        }
    }

    #[test]
    fn blocks_do_not_depend_on_their_neighbours() {
        for dtype in Dtype::ALL {
            let (bytes, size) = (dtype.block_bytes(), dtype.block_size());
            let data: Vec<u8> = (0..5 * bytes)
                .map(|i| u8::try_from(i * 37 % 101).unwrap())
                .collect();
            let mut together = vec![f32::NAN; 5 * size];
            dequantize(dtype, &data, &mut together).unwrap();
            for (block, expected) in data.chunks(bytes).zip(together.chunks(size)) {
                let mut alone = vec![f32::NAN; size];
                dequantize(dtype, block, &mut alone).unwrap();
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&alone), bits(expected), "{dtype}");
            }
        }
    }
}
