//! safetensors: our reader against the `safetensors` crate, and each rule that a bad file breaks.

use inferlib_weights::{Dtype, Format, MetadataValue, Weights, WeightsError};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as OracleDtype, TensorView, serialize};

use crate::samples::{check_integrity, ramp, read, safetensors, safetensors_parts};

const NAME: &str = "m.safetensors";

/// The reference implementation must accept what we accept, and see the same.
pub(crate) fn agrees_with_the_oracle(weights: &Weights, bytes: &[u8]) {
    let oracle = SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(weights.len(), oracle.len());
    for tensor in weights.tensors() {
        let expected = oracle.tensor(tensor.name).unwrap();
        assert_eq!(tensor.shape, expected.shape());
        assert_eq!(tensor.bytes, expected.data());
        assert_eq!(tensor.dtype.name(), expected.dtype().to_string());
    }
}

fn error(header: &str, data: &[u8]) -> WeightsError {
    read(NAME, &safetensors(header, data)).unwrap_err()
}

fn header_of(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn tensors_have_their_type_shape_and_bytes() {
    let (header, data) = safetensors_parts();
    let bytes = safetensors(&header, &data);
    let weights = read(NAME, &bytes).unwrap();
    check_integrity(&weights);
    agrees_with_the_oracle(&weights, &bytes);
    assert_eq!(weights.format(), Format::Safetensors);
    assert!(weights.names().eq(["w", "half", "none", "eight", "aids"]));
    let ids = weights.tensor("aids").unwrap();
    assert_eq!(
        (ids.dtype, ids.shape, ids.bytes),
        (Dtype::I64, &[2][..], &data[35..])
    );
    assert_eq!(
        weights
            .metadata()
            .get("format")
            .and_then(MetadataValue::as_str),
        Some("pt")
    );
}

fn any_dtype() -> impl Strategy<Value = (OracleDtype, usize)> {
    prop::sample::select(vec![
        (OracleDtype::F32, 4),
        (OracleDtype::F16, 2),
        (OracleDtype::BF16, 2),
        (OracleDtype::F8_E4M3, 1),
        (OracleDtype::F8_E5M2, 1),
        (OracleDtype::I8, 1),
        (OracleDtype::I16, 2),
        (OracleDtype::I32, 4),
        (OracleDtype::I64, 8),
        (OracleDtype::U8, 1),
        (OracleDtype::BOOL, 1),
        (OracleDtype::F64, 8),
    ])
}

proptest! {
    #[test]
    fn files_of_the_reference_implementation_are_read(
        specs in prop::collection::btree_map(".{0,12}", (any_dtype(), prop::collection::vec(0_usize..5, 0..5)), 0..12)
    ) {
        prop_assume!(!specs.contains_key("__metadata__"));
        let data = ramp(8 * 5_usize.pow(4));
        let views = specs.iter().map(|(name, ((dtype, size), shape))| {
            let bytes = shape.iter().product::<usize>() * size;
            (name.clone(), TensorView::new(*dtype, shape.clone(), &data[..bytes]).unwrap())
        });
        let file = serialize(views, None).unwrap();
        let weights = read(NAME, &file).unwrap();
        check_integrity(&weights);
        agrees_with_the_oracle(&weights, &file);
    }
}

#[test]
fn a_file_without_tensors_is_read() {
    for header in [
        "{}",
        "{}   ",
        r#"{"__metadata__":null}"#,
        r#"{"__metadata__":{}}"#,
    ] {
        assert!(read(NAME, &safetensors(header, &[])).unwrap().is_empty());
    }
}

#[test]
fn tensors_that_overlap_or_leave_a_gap_are_refused() {
    let two = |second: &str| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{second}}}}}"#
        )
    };
    assert!(read(NAME, &safetensors(&two("[4,8]"), &ramp(8))).is_ok());
    for second in [
        "[0,4]",
        "[3,7]",
        "[5,9]",
        "[18446744073709551611,18446744073709551615]",
    ] {
        let error = error(&two(second), &ramp(9));
        assert!(
            matches!(error, WeightsError::TensorOffset { .. }),
            "{second}: {error}"
        );
    }
}

#[test]
fn a_range_that_does_not_fit_the_shape_is_refused() {
    for offsets in ["[0,11]", "[0,13]", "[12,0]", "[0,0]"] {
        let error = error(&header_of("a", "F32", "[3]", offsets), &ramp(13));
        assert!(
            matches!(error, WeightsError::TensorSize { expected: 12, .. }),
            "{offsets}: {error}"
        );
    }
}

#[test]
fn a_file_that_is_too_short_or_too_long_is_refused() {
    let header = header_of("a", "F32", "[3]", "[0,12]");
    assert!(matches!(
        error(&header, &ramp(11)),
        WeightsError::Truncated {
            expected: 12,
            found: 11,
            ..
        }
    ));
    assert!(matches!(
        error(&header, &ramp(13)),
        WeightsError::TrailingBytes { .. }
    ));
}

#[test]
fn names_that_appear_twice_are_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    assert!(
        matches!(error(header, &[]), WeightsError::DuplicateTensor { tensor, .. } if tensor == "a")
    );
    let header = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(matches!(error(header, &[]), WeightsError::DuplicateKey { key, .. } if key == "k"));
    let header = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(error(header, &[]), WeightsError::Malformed { .. }));
}

#[test]
fn types_that_are_not_supported_are_named_with_their_tensor() {
    for dtype in ["U16", "C64", "F4", "Q4_0", "f32", "", "F8_E8M0"] {
        let error = error(&header_of("w", dtype, "[0]", "[0,0]"), &[]);
        assert!(matches!(
            error,
            WeightsError::UnsupportedDtype { tensor, dtype: found, .. } if tensor == "w" && found == dtype
        ));
    }
}

#[test]
fn a_header_that_is_no_json_of_tensors_is_refused_with_the_place() {
    for (header, place) in [
        ("", 0),
        ("[]", 0),
        ("{} x", 3),
        (r#"{"a":1}"#, 5),
        (
            r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,NaN]}}"#,
            48,
        ),
        ("{\n\n  \"a\":\n 7}", 11),
    ] {
        let error = error(header, &[]);
        assert!(
            matches!(error, WeightsError::Malformed { offset, .. } if offset == 8 + place),
            "{header}: {error:?}"
        );
    }
    for header in [
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"__metadata__":{"k":1}}"#,
        r#"{"__metadata__":[]}"#,
        r#"{"\ud800":{}}"#,
    ] {
        assert!(
            matches!(error(header, &[0]), WeightsError::Malformed { .. }),
            "{header}"
        );
    }
}

#[test]
fn a_header_that_is_not_utf8_is_refused() {
    let mut file = 2_u64.to_le_bytes().to_vec();
    file.extend(b"{\xff");
    assert!(matches!(
        read(NAME, &file).unwrap_err(),
        WeightsError::Malformed { .. }
    ));
}

#[test]
fn a_header_nested_a_hundred_thousand_deep_is_refused_without_recursion() {
    let header = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    assert!(matches!(
        error(&header, &[]),
        WeightsError::Malformed { .. }
    ));
    let header = format!(r#"{{"a":{{"x":{}"#, r#"{"x":"#.repeat(100_000));
    assert!(matches!(
        error(&header, &[]),
        WeightsError::Malformed { .. }
    ));
}

#[test]
fn a_header_longer_than_the_file_or_the_limit_is_refused() {
    let mut file = 100_u64.to_le_bytes().to_vec();
    file.extend(b"{}");
    assert!(matches!(
        read(NAME, &file).unwrap_err(),
        WeightsError::Truncated {
            offset: 8,
            expected: 100,
            found: 2,
            ..
        }
    ));
    for len in [100_000_001, 1 << 31, 1 << 63, u64::MAX] {
        file[..8].copy_from_slice(&len.to_le_bytes());
        assert!(
            matches!(read(NAME, &file).unwrap_err(), WeightsError::HeaderTooLarge { found, .. } if found == len)
        );
    }
}

#[test]
fn the_message_about_a_header_is_cut_where_the_file_goes_on_and_on() {
    let header = format!(r#"{{"a":"{}"}}"#, "é".repeat(1000));
    match error(&header, &[]) {
        WeightsError::Malformed { found, .. } => {
            assert_eq!(found.chars().count(), 201);
            assert!(found.contains("éé") && found.ends_with('…'), "{found}");
        }
        other => panic!("{other:?}"),
    }
}
