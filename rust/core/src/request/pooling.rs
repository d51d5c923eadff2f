//! One vector of the hidden states of a text's tokens.

/// Below this a vector is not divided by its length.
const SMALLEST_NORM: f64 = 1e-12;

/// What becomes of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first one.
    First,
    /// The last one.
    Last,
    /// Their mean, summed in float64, row by row, so that it depends on nothing but the rows.
    Mean,
    /// The largest of each column.
    Max,
}

impl Pooling {
    /// As callers name it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "cls" => Self::First,
            "last" => Self::Last,
            "mean" => Self::Mean,
            "max" => Self::Max,
            _ => return None,
        })
    }

    /// `[width]` of `rows`, `[n * width]`; `None` if there are no rows, or if one of their numbers is none.
    #[must_use]
    pub fn pool(self, rows: &[f32], width: usize) -> Option<Vec<f32>> {
        // 0 times what is no number is none; lanes of their own, so that they are summed side by side.
        let mut poison = [0.0_f32; 16];
        for chunk in rows.chunks(poison.len()) {
            for (sum, x) in poison.iter_mut().zip(chunk) {
                *sum += x * 0.0;
            }
        }
        if width == 0 || rows.len() < width || poison.iter().any(|sum| sum.is_nan()) {
            return None;
        }
        let mut each = rows.chunks_exact(width);
        match self {
            Self::First => each.next().map(<[f32]>::to_vec),
            Self::Last => each.next_back().map(<[f32]>::to_vec),
            Self::Mean => {
                let mut sums = vec![0.0_f64; width];
                for row in each {
                    for (sum, &x) in sums.iter_mut().zip(row) {
                        *sum += f64::from(x);
                    }
                }
                #[expect(clippy::cast_precision_loss, reason = "rows of a prompt")]
                let count = (rows.len() / width) as f64;
                Some(sums.iter().map(|sum| narrow(sum / count)).collect())
            }
            Self::Max => {
                let mut largest = each.next()?.to_vec();
                for row in each {
                    for (most, &x) in largest.iter_mut().zip(row) {
                        *most = most.max(x);
                    }
                }
                Some(largest)
            }
        }
    }
}

/// Bring the length to 1, in float64.
pub fn normalize(vector: &mut [f32]) {
    let squares = vector.iter().map(|&x| f64::from(x) * f64::from(x));
    let norm = squares.sum::<f64>().sqrt().max(SMALLEST_NORM);
    for x in vector {
        *x = narrow(f64::from(*x) / norm);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded to nearest")]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
#[expect(
    clippy::float_cmp,
    reason = "rounded to nearest: known to the last bit"
)]
mod tests {
    use super::*;

    const ROWS: [f32; 6] = [0.0, -1.0, 2.0, 9.0, -10.0, 11.0];

    #[test]
    fn each_kind_is_what_its_name_says() {
        let pool = |name| Pooling::from_name(name).and_then(|pooling| pooling.pool(&ROWS, 3));
        assert_eq!(pool("cls"), Some(vec![0.0, -1.0, 2.0]));
        assert_eq!(pool("last"), Some(vec![9.0, -10.0, 11.0]));
        assert_eq!(pool("mean"), Some(vec![4.5, -5.5, 6.5]));
        assert_eq!(pool("max"), Some(vec![9.0, -1.0, 11.0]));
        assert_eq!(pool("median"), None);
    }

    #[test]
    fn a_mean_is_summed_in_double_precision() {
        let rows = [1e8_f32, 1.0, -1e8, 3.0];
        assert_eq!(Pooling::Mean.pool(&rows, 1), Some(vec![1.0]));
    }

    #[test]
    fn numbers_that_are_none_are_seen_wherever_they_are() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..40 {
                let mut rows = [1.0_f32; 40];
                rows[place] = bad;
                for pooling in [Pooling::First, Pooling::Last, Pooling::Mean, Pooling::Max] {
                    assert_eq!(pooling.pool(&rows, 4), None, "{bad} at {place}");
                }
            }
        }
        assert_eq!(Pooling::Mean.pool(&[], 4), None);
        assert_eq!(Pooling::Mean.pool(&[1.0], 0), None);
    }

    #[test]
    fn a_vector_gets_length_one_and_zeros_stay() {
        let mut vector = [3.0, 4.0, 12.0];
        normalize(&mut vector);
        assert_eq!(vector, [3.0 / 13.0, 4.0 / 13.0, 12.0 / 13.0]);
        let mut huge = [3e38_f32, 3e38];
        normalize(&mut huge);
        assert_eq!(huge, [std::f32::consts::FRAC_1_SQRT_2; 2]);
        let mut nothing = [0.0_f32; 3];
        normalize(&mut nothing);
        assert_eq!(nothing, [0.0; 3]);
    }
}
