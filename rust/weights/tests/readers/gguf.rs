//! GGUF: what a good file gives, and each rule that a bad one breaks.

use inferlib_weights::{
    Dtype, Format, MetadataArray, MetadataValue, WeightsError, dequantize_to_vec,
};

use crate::samples::{self, check_integrity, ramp, read};
use crate::writer::{Gguf, Value};

fn error(file: &Gguf) -> WeightsError {
    read("m.gguf", &file.bytes()).unwrap_err()
}

#[test]
fn tensors_have_their_type_shape_and_bytes() {
    let weights = read("m.gguf", &samples::gguf().bytes()).unwrap();
    check_integrity(&weights);
    assert_eq!(weights.format(), Format::Gguf { version: 3 });
    assert!(
        weights
            .names()
            .eq(["norm", "w", "scalar", "empty", "experts"])
    );
    let w = weights.tensor("w").unwrap();
    assert_eq!(
        (w.dtype, w.shape, w.bytes),
        (Dtype::Q4_0, &[3, 64][..], &ramp(108)[..])
    );
    let scalar = weights.tensor("scalar").unwrap();
    assert_eq!((scalar.shape, scalar.bytes), (&[][..], &[0, 60][..]));
    assert_eq!(weights.tensor("experts").unwrap().shape, [1, 2, 1, 256]);
    assert_eq!(weights.total_bytes(), 20 + 108 + 2 + 288);
    assert!(weights.tensor("W").is_none());
}

#[test]
fn metadata_keep_the_types_of_the_file() {
    let weights = read("m.gguf", &samples::gguf().bytes()).unwrap();
    let metadata = weights.metadata();
    for (key, value) in [
        ("a.u8", MetadataValue::U8(200)),
        ("a.i8", MetadataValue::I8(-56)),
        ("a.u16", MetadataValue::U16(0x0201)),
        ("a.i16", MetadataValue::I16(-1)),
        ("general.alignment", MetadataValue::U32(32)),
        ("a.i32", MetadataValue::I32(-5)),
        ("a.f32", MetadataValue::F32(1.5)),
        ("a.bool", MetadataValue::Bool(true)),
        ("a.u64", MetadataValue::U64(u64::MAX)),
        ("a.i64", MetadataValue::I64(i64::MIN)),
        ("a.f64", MetadataValue::F64(0.1)),
        (
            "general.architecture",
            MetadataValue::String("llama".into()),
        ),
        (
            "flags",
            MetadataValue::Array(MetadataArray::Bool([true, false, true].into())),
        ),
        (
            "scores",
            MetadataValue::Array(MetadataArray::F32([1.0, -2.0].into())),
        ),
        ("none", MetadataValue::Array(MetadataArray::I32([].into()))),
    ] {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
    let tokens = metadata
        .get("tokens")
        .and_then(MetadataValue::as_strings)
        .unwrap();
    assert!(tokens.iter().eq(["<s>", "", "é漢", "▁a"]));
    assert_eq!(metadata.get("missing"), None);
}

#[test]
fn every_numeric_array_is_read() {
    let bytes = ramp(16);
    for (type_number, size) in [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 4),
        (5, 4),
        (6, 4),
        (10, 8),
        (11, 8),
        (12, 8),
    ] {
        let file = Gguf::new().pair("a", Value::array(type_number, 16 / size, &bytes));
        let weights = read("m.gguf", &file.bytes()).unwrap();
        let array = weights
            .metadata()
            .get("a")
            .and_then(MetadataValue::as_array)
            .unwrap();
        assert_eq!(array.len(), 16 / size, "{array:?}");
    }
}

#[test]
fn version_2_and_other_alignments_are_read() {
    let mut file = samples::gguf();
    file.version = 2;
    assert_eq!(
        read("m.gguf", &file.bytes()).unwrap().format(),
        Format::Gguf { version: 2 }
    );
    for alignment in [1, 8, 4096] {
        let mut file = Gguf::new().pair("general.alignment", Value::u32(alignment));
        file.alignment = alignment as usize;
        let file = file
            .tensor("a", &[3], 0, &ramp(12))
            .tensor("b", &[3], 0, &ramp(12));
        check_integrity(&read("m.gguf", &file.bytes()).unwrap());
    }
}

#[test]
fn a_vocabulary_without_tensors_is_read() {
    let file = Gguf::new().pair("tokens", Value::strings(&["a", "b"]));
    for bytes in [file.bytes(), file.header().bytes] {
        assert!(read("vocab.gguf", &bytes).unwrap().is_empty());
    }
}

#[test]
fn the_padding_after_the_last_tensor_may_be_missing() {
    let file = Gguf::new().tensor("a", &[3], 0, &ramp(12));
    let bytes = file.bytes();
    let end = bytes.len() - 20;
    for len in end..=bytes.len() {
        check_integrity(&read("m.gguf", &bytes[..len]).unwrap());
    }
    assert!(matches!(
        read("m.gguf", &bytes[..end - 1]).unwrap_err(),
        WeightsError::Truncated {
            expected: 12,
            found: 11,
            ..
        }
    ));
}

#[test]
fn other_versions_and_byte_orders_are_refused_by_name() {
    for version in [0, 1, 4, 99] {
        let file = Gguf {
            version,
            ..samples::gguf()
        };
        assert!(
            matches!(error(&file), WeightsError::UnsupportedVersion { version: found, .. } if found == version)
        );
    }
    let file = Gguf {
        version: 3_u32.swap_bytes(),
        ..samples::gguf()
    };
    assert!(matches!(error(&file), WeightsError::BigEndian { .. }));
}

#[test]
fn a_type_that_is_not_supported_is_named_with_its_tensor() {
    for (type_number, name) in [
        (16, "IQ2_XXS"),
        (34, "TQ1_0"),
        (4, "number 4"),
        (u32::MAX, "number 4294967295"),
    ] {
        let file = Gguf::new().tensor("blk.0.w", &[256], type_number, &ramp(999));
        assert!(matches!(
            error(&file),
            WeightsError::UnsupportedDtype { tensor, dtype, .. } if tensor == "blk.0.w" && dtype == name
        ));
    }
}

#[test]
fn names_and_keys_that_appear_twice_are_refused() {
    let file = Gguf::new()
        .tensor("a", &[1], 0, &ramp(4))
        .tensor("a", &[1], 0, &ramp(4));
    assert!(matches!(error(&file), WeightsError::DuplicateTensor { tensor, .. } if tensor == "a"));
    let file = Gguf::new()
        .pair("k", Value::u32(1))
        .pair("k", Value::u32(1));
    assert!(matches!(error(&file), WeightsError::DuplicateKey { key, .. } if key == "k"));
}

#[test]
fn tensors_that_overlap_or_leave_a_gap_are_refused() {
    for offset in [0, 4, 31, 33, 64, u64::MAX - 3] {
        let mut file = Gguf::new()
            .tensor("a", &[3], 0, &ramp(12))
            .tensor("b", &[3], 0, &ramp(12));
        file.tensors[1].offset = Some(offset);
        let error = error(&file);
        assert!(
            matches!(
                error,
                WeightsError::TensorOffset { .. } | WeightsError::Malformed { .. }
            ),
            "{offset}: {error}"
        );
    }
}

#[test]
fn tensors_may_be_described_in_another_order_than_they_lie() {
    let mut file = Gguf::new()
        .tensor("b", &[3], 0, &ramp(12))
        .tensor("a", &[8], 0, &ramp(32));
    file.tensors[0].offset = Some(32);
    file.tensors[1].offset = Some(0);
    check_integrity(&read("m.gguf", &file.bytes()).unwrap());
}

#[test]
fn a_tensor_larger_than_the_file_is_refused() {
    let file = Gguf::new().tensor("a", &[1 << 20, 1 << 20], 0, &ramp(12));
    assert!(
        matches!(error(&file), WeightsError::Truncated { expected, .. } if expected == 1 << 42)
    );
    let file = Gguf::new().tensor("a", &[1 << 32, 1 << 32], 0, &ramp(12));
    assert!(matches!(error(&file), WeightsError::ShapeTooLarge { .. }));
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    let file = Gguf::new().tensor("a", &[33, 32], 2, &ramp(999));
    assert!(matches!(
        error(&file),
        WeightsError::PartialBlock {
            row: 33,
            dtype: Dtype::Q4_0,
            ..
        }
    ));
}

#[test]
fn what_follows_the_last_tensor_is_refused() {
    let mut bytes = samples::gguf().bytes();
    bytes.push(0);
    assert!(matches!(
        read("m.gguf", &bytes).unwrap_err(),
        WeightsError::TrailingBytes { .. }
    ));
}

#[test]
fn alignment_must_be_a_power_of_two() {
    for value in [
        Value::u32(0),
        Value::u32(24),
        Value::string("32"),
        Value {
            type_number: 5,
            bytes: vec![32, 0, 0, 0],
        },
    ] {
        let file = Gguf::new().pair("general.alignment", value);
        assert!(matches!(error(&file), WeightsError::Malformed { .. }));
    }
}

#[test]
fn values_that_break_the_format_are_refused() {
    for value in [
        Value {
            type_number: 13,
            bytes: vec![0; 8],
        },
        Value {
            type_number: 7,
            bytes: vec![2],
        },
        Value::array(7, 2, &[1, 7]),
        Value::array(9, 1, &Value::array(4, 1, &[0; 4]).bytes),
        Value::array(77, 1, &[0; 4]),
        Value {
            type_number: 8,
            bytes: vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff],
        },
        // Two halves of a character.
        Value::array(
            8,
            2,
            &[1, 0, 0, 0, 0, 0, 0, 0, 0xc3, 1, 0, 0, 0, 0, 0, 0, 0, 0xa9],
        ),
    ] {
        let error = error(&Gguf::new().pair("the key", value));
        assert!(matches!(error, WeightsError::Malformed { .. }), "{error}");
    }
}

#[test]
fn more_than_four_dimensions_are_refused() {
    let file = Gguf::new().tensor("a", &[1, 1, 1, 1, 1], 0, &ramp(4));
    assert!(matches!(error(&file), WeightsError::Malformed { .. }));
}

#[test]
fn every_type_of_ggml_has_its_number() {
    for (type_number, dtype) in [
        (0, Dtype::F32),
        (1, Dtype::F16),
        (2, Dtype::Q4_0),
        (3, Dtype::Q4_1),
        (6, Dtype::Q5_0),
        (7, Dtype::Q5_1),
        (8, Dtype::Q8_0),
        (10, Dtype::Q2K),
        (11, Dtype::Q3K),
        (12, Dtype::Q4K),
        (13, Dtype::Q5K),
        (14, Dtype::Q6K),
        (20, Dtype::Iq4Nl),
        (23, Dtype::Iq4Xs),
        (24, Dtype::I8),
        (25, Dtype::I16),
        (26, Dtype::I32),
        (27, Dtype::I64),
        (28, Dtype::F64),
        (30, Dtype::BF16),
        (39, Dtype::Mxfp4),
    ] {
        let row = u64::try_from(2 * dtype.block_size()).unwrap();
        let data = ramp(2 * dtype.block_bytes());
        let file = Gguf::new().tensor("w", &[row], type_number, &data);
        let weights = read("m.gguf", &file.bytes()).unwrap();
        check_integrity(&weights);
        let tensor = weights.tensor("w").unwrap();
        assert_eq!((tensor.dtype, tensor.bytes), (dtype, &data[..]));
    }
}

#[test]
fn every_type_that_is_not_supported_has_the_name_that_ggml_gives_it() {
    for (type_number, name) in [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (29, "IQ1_M"),
        (35, "TQ2_0"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ] {
        let file = Gguf::new().tensor("w", &[256], type_number, &ramp(999));
        let error = error(&file).to_string();
        assert!(error.contains(name) && error.contains("\"w\""), "{error}");
    }
}

#[test]
fn an_alignment_of_another_type_is_refused_by_the_name_of_that_type() {
    let scalars = [
        (0, "U8", 1),
        (1, "I8", 1),
        (2, "U16", 2),
        (3, "I16", 2),
        (5, "I32", 4),
        (6, "F32", 4),
        (7, "BOOL", 1),
        (10, "U64", 8),
        (11, "I64", 8),
        (12, "F64", 8),
    ]
    .map(|(type_number, name, size)| {
        let mut bytes = vec![0; size];
        bytes[0] = 1;
        (Value { type_number, bytes }, name)
    });
    let others = [
        (Value::string("32"), "STRING"),
        (Value::strings(&["32"]), "ARRAY"),
        (Value::u32(24), "24"),
    ];
    for (value, name) in scalars.into_iter().chain(others) {
        let file = Gguf::new().pair("general.alignment", value);
        match error(&file) {
            WeightsError::Malformed {
                expected, found, ..
            } => {
                assert_eq!(found, name);
                assert!(expected.contains("general.alignment"), "{expected}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_tensor_is_given_in_float32() {
    // Blocks of Q8_0: a half (0.5), then 32 signed bytes.
    let mut block = vec![0x00, 0x38];
    block.extend([2, 0xFE].repeat(16));
    let file = Gguf::new()
        .tensor("plain", &[2], 0, &[0, 0, 128, 63, 0, 0, 0, 192])
        .tensor("blocks", &[32], 8, &block);
    let weights = read("m.gguf", &file.bytes()).unwrap();
    let values = |name| weights.tensor(name).unwrap().to_f32().unwrap();
    assert_eq!(values("plain"), [1.0, -2.0]);
    assert_eq!(values("blocks"), [1.0, -1.0].repeat(16));
    let error = dequantize_to_vec(Dtype::Q8_0, &block[..33]).unwrap_err();
    assert!(matches!(
        error,
        WeightsError::BlockLength {
            dtype: Dtype::Q8_0,
            bytes: 33,
            elements: 0
        }
    ));
}
