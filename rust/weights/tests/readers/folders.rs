//! Folders: which files make a checkpoint, shards with their index, parts of a split GGUF model.

use inferlib_weights::{Format, MetadataValue, OpenOptions, Weights, WeightsError};

use crate::samples::{self, check_integrity, ramp, safetensors};
use crate::scratch::Scratch;
use crate::writer::{Gguf, Value};

fn open(path: &std::path::Path) -> Result<Weights, WeightsError> {
    let mapped = Weights::open(path, OpenOptions { mmap: true });
    let read = Weights::open(path, OpenOptions { mmap: false });
    match (&mapped, &read) {
        (Ok(mapped), Ok(read)) => {
            check_integrity(mapped);
            check_integrity(read);
            assert!(mapped.names().eq(read.names()));
            for name in mapped.names() {
                assert_eq!(
                    mapped.tensor(name).unwrap().bytes,
                    read.tensor(name).unwrap().bytes
                );
            }
        }
        (Err(mapped), Err(read)) => assert_eq!(mapped.to_string(), read.to_string()),
        _ => panic!("mapping and reading differ: {mapped:?} {read:?}"),
    }
    mapped
}

fn one_tensor(name: &str) -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__":{{"of":"{name}"}},"{name}":{{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}}}"#
    );
    safetensors(&header, &ramp(12))
}

fn index(entries: &str) -> String {
    format!(r#"{{"metadata":{{"total_size":24}},"weight_map":{{{entries}}}}}"#)
}

const SHARDS: &str = r#""a":"model-1.safetensors","b":"model-2.safetensors""#;

fn sharded() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("model-1.safetensors", one_tensor("a"));
    scratch.write("model-2.safetensors", one_tensor("b"));
    scratch.write("model.safetensors.index.json", index(SHARDS));
    scratch
}

#[test]
fn one_safetensors_file_is_found_whatever_its_name() {
    for name in ["model.safetensors", "weights.safetensors"] {
        let scratch = Scratch::new();
        scratch.write(name, one_tensor("a"));
        scratch.write("config.json", "{}");
        assert_eq!(open(scratch.path()).unwrap().len(), 1);
    }
}

#[test]
fn one_gguf_file_is_found() {
    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    scratch.write("mmproj-m.gguf", samples::gguf().bytes());
    let weights = open(scratch.path()).unwrap();
    assert!(weights.files().eq([path.as_path()]));
}

#[test]
fn safetensors_are_preferred_to_gguf() {
    let scratch = Scratch::new();
    scratch.write("m.gguf", samples::gguf().bytes());
    scratch.write("model.safetensors", one_tensor("a"));
    assert_eq!(open(scratch.path()).unwrap().format(), Format::Safetensors);
}

#[test]
fn shards_are_one_checkpoint() {
    let scratch = sharded();
    for path in [
        scratch.path().to_owned(),
        scratch.path().join("model.safetensors.index.json"),
    ] {
        let weights = open(&path).unwrap();
        assert!(weights.names().eq(["a", "b"]));
        assert_eq!(weights.files().len(), 2);
        assert_eq!(
            weights.metadata().get("of").and_then(MetadataValue::as_str),
            Some("a")
        );
        assert_eq!(weights.tensor("b").unwrap().bytes, ramp(12));
        assert_eq!(weights.total_bytes(), 24);
    }
}

#[cfg(unix)]
#[test]
fn shards_may_be_links_to_elsewhere_as_in_the_cache_of_hugging_face() {
    let (blobs, snapshot) = (sharded(), Scratch::new());
    for name in [
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ] {
        std::os::unix::fs::symlink(blobs.path().join(name), snapshot.path().join(name)).unwrap();
    }
    assert_eq!(open(snapshot.path()).unwrap().len(), 2);
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    let scratch = sharded();
    let outside = Scratch::new();
    let target = outside.write("x.safetensors", one_tensor("a"));
    let relative = format!(
        "../{}/x.safetensors",
        outside.path().file_name().unwrap().to_str().unwrap()
    );
    for shard in [relative.as_str(), target.to_str().unwrap(), ".."] {
        scratch.write(
            "model.safetensors.index.json",
            index(&format!(r#""a":"{shard}""#)),
        );
        let error = open(scratch.path()).unwrap_err();
        assert!(
            matches!(error, WeightsError::ShardPath { .. }),
            "{shard}: {error}"
        );
    }
}

#[test]
fn a_missing_shard_is_named() {
    let scratch = sharded();
    std::fs::remove_file(scratch.path().join("model-2.safetensors")).unwrap();
    assert!(matches!(
        open(scratch.path()).unwrap_err(),
        WeightsError::MissingShard { shard, .. } if shard == "model-2.safetensors"
    ));
}

#[test]
fn tensors_that_are_not_where_the_index_says_are_listed() {
    let scratch = sharded();
    let wrong = r#""a":"model-2.safetensors","b":"model-2.safetensors","c":"model-1.safetensors""#;
    scratch.write("model.safetensors.index.json", index(wrong));
    assert!(matches!(
        open(scratch.path()).unwrap_err(),
        WeightsError::ShardMismatch { count: 2, tensors, .. } if tensors == ["a", "c"]
    ));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let scratch = sharded();
    scratch.write("model-2.safetensors", one_tensor("a"));
    scratch.write("model.safetensors.index.json", index(SHARDS));
    let error = open(scratch.path()).unwrap_err();
    assert!(matches!(error, WeightsError::DuplicateTensor { tensor, .. } if tensor == "a"));
}

#[test]
fn a_damaged_shard_is_named() {
    let scratch = sharded();
    scratch.write("model-2.safetensors", &one_tensor("b")[..80]);
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(
        error.contains("model-2.safetensors") && error.contains("truncated"),
        "{error}"
    );
    scratch.write("model-2.safetensors", samples::gguf().bytes());
    assert!(matches!(
        open(scratch.path()).unwrap_err(),
        WeightsError::Malformed { .. }
    ));
}

#[test]
fn a_folder_without_weights_lists_what_it_holds() {
    let scratch = Scratch::new();
    assert!(
        matches!(open(scratch.path()).unwrap_err(), WeightsError::NoWeights { found, .. } if found.is_empty())
    );
    scratch.write("config.json", "{}");
    scratch.write("pytorch_model.bin", "x");
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains("pickle files are never read"),
        "{error}"
    );
}

#[test]
fn several_checkpoints_in_a_folder_are_not_guessed_among() {
    let scratch = Scratch::new();
    for name in ["q4.gguf", "q8.gguf"] {
        scratch.write(name, samples::gguf().bytes());
    }
    assert!(matches!(
        open(scratch.path()).unwrap_err(),
        WeightsError::ManyCheckpoints { found, .. } if found == ["q4.gguf", "q8.gguf"]
    ));
}

fn part(number: u16, count: u16, tensor: &str) -> Vec<u8> {
    let u16_value = |value: u16| Value {
        type_number: 2,
        bytes: value.to_le_bytes().into(),
    };
    Gguf::new()
        .pair("split.no", u16_value(number))
        .pair("split.count", u16_value(count))
        .pair("of", Value::string(tensor))
        .tensor(tensor, &[3], 0, &ramp(12))
        .bytes()
}

#[test]
fn the_parts_of_a_split_gguf_model_are_one_checkpoint() {
    let scratch = Scratch::new();
    let first = scratch.write("m-00001-of-00002.gguf", part(0, 2, "a"));
    let second = scratch.write("m-00002-of-00002.gguf", part(1, 2, "b"));
    for path in [scratch.path(), &first, &second] {
        let weights = open(path).unwrap();
        assert!(weights.names().eq(["a", "b"]));
        assert_eq!(
            weights.metadata().get("of").and_then(MetadataValue::as_str),
            Some("a")
        );
    }
    std::fs::remove_file(&second).unwrap();
    assert!(matches!(
        open(&first).unwrap_err(),
        WeightsError::MissingShard { .. }
    ));
    scratch.write("m-00002-of-00002.gguf", part(0, 2, "b"));
    assert!(matches!(
        open(&first).unwrap_err(),
        WeightsError::Malformed { .. }
    ));
    let renamed = scratch.write("renamed.gguf", part(0, 2, "a"));
    assert!(
        open(&renamed)
            .unwrap_err()
            .to_string()
            .contains("-00001-of-00002.gguf")
    );
}

#[test]
fn a_split_count_that_is_no_number_of_files_is_refused() {
    let scratch = Scratch::new();
    for (value, found) in [
        (Value::string("two"), "String(\"two\")"),
        (Value::u32(100_000), "U32(100000)"),
    ] {
        let file = Gguf::new().pair("split.count", value);
        let path = scratch.write("m.gguf", file.bytes());
        let error = open(&path).unwrap_err();
        assert!(
            matches!(&error, WeightsError::Malformed { expected, found: seen, .. }
                if expected.contains("split.count") && seen == found),
            "{error:?}"
        );
    }
    for count in [0, 1] {
        let file = Gguf::new().pair("split.count", Value::u32(count));
        let path = scratch.write("m.gguf", file.bytes());
        assert!(open(&path).unwrap().is_empty());
    }
}

#[test]
fn a_part_of_another_format_or_none_at_all_is_refused() {
    let scratch = Scratch::new();
    let first = scratch.write("m-00001-of-00002.gguf", part(0, 2, "a"));
    let second = scratch.write("m-00002-of-00002.gguf", one_tensor("b"));
    let error = open(&first).unwrap_err();
    assert!(
        matches!(&error, WeightsError::Malformed { path, expected, found, .. }
            if *path == second && expected.contains("part 1") && found == "a safetensors file"),
        "{error:?}"
    );
    // What is wrong with a part that is there is said of that part.
    scratch.write("m-00002-of-00002.gguf", "");
    let error = open(&first).unwrap_err();
    assert!(matches!(error, WeightsError::Empty { path } if path == second));
}
