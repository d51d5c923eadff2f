//! Loading through every way there is gives the same bytes; whatever changes in checkpoint or recipe gives others.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use inferlib_program::program::{Program, WeightDecl};
use inferlib_weights::{Dtype, OpenOptions, Weights};

use crate::error::CpuError;
use crate::loader::{LoadedWeights, WeightLoader, WeightsOrigin};
use crate::packed_image::Part;
use crate::packed_image::{MatrixSource, PackedImage};
use crate::random_weights::{Random, tensor_bytes};
use crate::test_folder::TestFolder;

/// A checkpoint of matrices `a` (`Q4_0` and `Q8_0` parts, rows of the second moved), `b` (BF16) and `c` (I16: a fallback).
const TENSORS: [(&str, Dtype, [usize; 2]); 4] = [
    ("a.0", Dtype::Q4_0, [40, 64]),
    ("a.1", Dtype::Q8_0, [33, 64]),
    ("b", Dtype::BF16, [1000, 1536]),
    ("c", Dtype::I16, [17, 96]),
];

/// A minimal GGUF file: no metadata, tensors in their order.
fn write_gguf(path: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let data = TENSORS.map(|(_, dtype, [rows, columns])| {
        let mut bytes = tensor_bytes(dtype, rows * columns, &mut random);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    });
    let mut head: Vec<u8> = Vec::new();
    head.extend(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((TENSORS.len() as u64).to_le_bytes());
    head.extend(0_u64.to_le_bytes());
    let mut offset = 0_u64;
    for ((name, dtype, [rows, columns]), bytes) in TENSORS.iter().zip(&data) {
        head.extend((name.len() as u64).to_le_bytes());
        head.extend(name.as_bytes());
        head.extend(2_u32.to_le_bytes());
        head.extend((*columns as u64).to_le_bytes());
        head.extend((*rows as u64).to_le_bytes());
        let number: u32 = match dtype {
            Dtype::Q4_0 => 2,
            Dtype::Q8_0 => 8,
            Dtype::BF16 => 30,
            Dtype::I16 => 25,
            _ => unreachable!("not among the tensors"),
        };
        head.extend(number.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += bytes.len() as u64;
    }
    head.resize(head.len().next_multiple_of(32), 0);
    let mut file = File::create(path).expect("a temporary folder");
    file.write_all(&head).expect("there is room");
    for bytes in data {
        file.write_all(&bytes).expect("there is room");
    }
}

fn program() -> Program {
    let weight = |name: &str, shape: [usize; 2]| WeightDecl {
        name: name.to_owned(),
        shape: shape.to_vec(),
    };
    Program {
        weights: vec![
            weight("a", [73, 64]),
            weight("b", [1000, 1536]),
            weight("c", [17, 96]),
        ],
        vocab_size: 1,
        ..Program::default()
    }
}

struct Fixture {
    folder: TestFolder,
    checkpoint: Weights,
    order: Vec<i32>,
}

impl Fixture {
    fn new() -> Self {
        let folder = TestFolder::new();
        write_gguf(&folder.path().join("model.gguf"), 1);
        Self::open(folder, true)
    }

    fn open(folder: TestFolder, mmap: bool) -> Self {
        let path = folder.path().join("model.gguf");
        let checkpoint = Weights::open(&path, OpenOptions { mmap }).expect("a whole file");
        Self {
            folder,
            checkpoint,
            order: (0..33).rev().collect(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn matrices(&self) -> Vec<MatrixSource<'_>> {
        let part = |name: &str, row_order| Part {
            tensor: self.checkpoint.tensor(name).expect("in the file"),
            row_order,
        };
        vec![
            MatrixSource {
                name: "a",
                parts: vec![part("a.0", None), part("a.1", Some(&self.order[..]))],
                row_scales: false,
            },
            MatrixSource {
                name: "b",
                parts: vec![part("b", None)],
                row_scales: false,
            },
            MatrixSource {
                name: "c",
                parts: vec![part("c", None)],
                row_scales: false,
            },
        ]
    }

    fn load(&self, threads: usize, cache: Option<&Path>) -> Result<LoadedWeights, CpuError> {
        let matrices = self.matrices();
        let mut loader =
            WeightLoader::new(&program(), &self.checkpoint, &matrices, threads, cache)?;
        loop {
            if let Some(loaded) = loader.advance()? {
                return Ok(loaded);
            }
        }
    }
}

fn bytes(loaded: &LoadedWeights) -> Vec<u8> {
    let memory = &loaded.memory;
    // SAFETY: the whole mapping.
    unsafe { std::slice::from_raw_parts(memory.as_ptr(), memory.len()) }.to_vec()
}

#[test]
fn memory_file_threads_and_second_load_give_the_same_bytes() {
    let fixture = Fixture::new();
    let cache = fixture.cache();
    let packed = fixture.load(1, None).expect("loads");
    assert_eq!(packed.origin, WeightsOrigin::Packed);
    assert_eq!(
        bytes(&packed),
        bytes(&fixture.load(3, None).expect("loads"))
    );
    let written = fixture.load(2, Some(&cache)).expect("loads");
    assert_eq!(written.origin, WeightsOrigin::Written);
    let opened = fixture.load(2, Some(&cache)).expect("loads");
    assert_eq!(opened.origin, WeightsOrigin::Opened);
    assert_eq!(bytes(&written), bytes(&packed));
    assert_eq!(bytes(&opened), bytes(&packed));
    let read = Fixture::open(fixture.folder, false);
    assert_eq!(bytes(&read.load(2, None).expect("loads")), bytes(&packed));
    let opened = read.load(2, Some(&cache)).expect("loads");
    assert_eq!(opened.origin, WeightsOrigin::Opened);
}

/// Another process's view: every matrix row through the placed segments is the checkpoint's.
#[test]
fn placed_matrices_hold_the_checkpoints_rows() {
    let fixture = Fixture::new();
    let loaded = fixture.load(2, Some(&fixture.cache())).expect("loads");
    let check = |matrix: usize, row: usize, name: &str, source: usize| {
        let (index, matrix) = &loaded.matrices[matrix];
        assert_eq!(program().weights[*index].shape[1], matrix.in_features);
        let tensor = fixture.checkpoint.tensor(name).expect("in the file");
        let values = tensor.to_f32().expect("a float type");
        let width = matrix.in_features;
        let mut out = vec![0.0; width];
        matrix.row(row, &mut out);
        assert_eq!(out, values[source * width..][..width], "{name} {source}");
    };
    for row in 0..40 {
        check(0, row, "a.0", row);
    }
    for row in 0..33 {
        check(0, 40 + row, "a.1", 32 - row);
    }
    for row in [0, 15, 16, 500, 999] {
        check(1, row, "b", row);
    }
    for row in 0..17 {
        check(2, row, "c", row);
    }
}

#[test]
fn any_range_of_the_image_can_be_made_by_itself() {
    let fixture = Fixture::new();
    let image = PackedImage::plan(&program(), &fixture.matrices()).expect("fits");
    let mut whole = vec![0; image.bytes()];
    image.fill(0, &mut whole).expect("packs");
    let mut random = Random::new(5);
    for _ in 0..60 {
        let start = usize::try_from(random.next()).expect("64 bits") % image.bytes();
        let length = usize::try_from(random.next()).expect("64 bits") % 30_000;
        let end = (start + length).min(image.bytes());
        let mut part = vec![0; end - start];
        image.fill(start, &mut part).expect("packs");
        assert!(part == whole[start..end], "{start}..{end}");
    }
}

#[test]
fn a_range_names_the_bytes_that_it_is_made_of() {
    let fixture = Fixture::new();
    let image = PackedImage::plan(&program(), &fixture.matrices()).expect("fits");
    let all = image.sources(&(0..image.bytes()));
    let lengths: Vec<_> = TENSORS
        .iter()
        .map(|(name, ..)| {
            let bytes = fixture.checkpoint.tensor(name).expect("in the file").bytes;
            (*name, 0..bytes.len())
        })
        .collect();
    assert_eq!(all, lengths);
    assert_eq!(image.sources(&(0..1)), [("a.0", 0..16 * 36)]);
    // The first panel of the moved rows is the tensor's end.
    let first = (3 * 16 * 36_usize).next_multiple_of(64);
    let moved = image.sources(&(first..first + 1));
    assert_eq!(moved, [("a.1", 17 * 68..33 * 68)]);
}

#[test]
fn a_checkpoint_of_other_content_gets_a_file_of_its_own() {
    let fixture = Fixture::new();
    let cache = fixture.cache();
    let before = bytes(&fixture.load(2, Some(&cache)).expect("loads"));
    let path = fixture.folder.path().join("model.gguf");
    // In place, of the same size, with the old modification time.
    let modified = fs::metadata(&path)
        .and_then(|m| m.modified())
        .expect("unix");
    write_gguf(&path, 2);
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(modified))
        .expect("ours");
    let changed = Fixture::open(fixture.folder, true);
    let loaded = changed.load(2, Some(&cache)).expect("loads");
    assert_eq!(loaded.origin, WeightsOrigin::Written);
    assert_ne!(bytes(&loaded), before);
    assert_eq!(
        bytes(&loaded),
        bytes(&changed.load(1, None).expect("loads"))
    );
    // And the first one is still served to those who have its content.
    write_gguf(&path, 1);
    let again = Fixture::open(changed.folder, true);
    let loaded = again.load(2, Some(&cache)).expect("loads");
    assert_eq!(loaded.origin, WeightsOrigin::Opened);
    assert_eq!(bytes(&loaded), before);
}

#[test]
fn the_recipe_knows_names_rows_and_shapes() {
    let fixture = Fixture::new();
    let recipe = |matrices: &[MatrixSource<'_>]| {
        PackedImage::plan(&program(), matrices).map(|image| image.recipe())
    };
    let matrices = fixture.matrices();
    let ours = recipe(&matrices).expect("fits");
    assert_eq!(recipe(&fixture.matrices()), Ok(ours));
    let mut moved = fixture.matrices();
    moved.swap(1, 2);
    assert_ne!(recipe(&moved), Ok(ours));
    let mut order = fixture.order.clone();
    order.swap(3, 4);
    let mut moved = fixture.matrices();
    moved[0].parts[1].row_order = Some(&order);
    assert_ne!(recipe(&moved), Ok(ours));
    let mut moved = fixture.matrices();
    moved[0].parts[1].row_order = None;
    assert_ne!(recipe(&moved), Ok(ours));
}

#[test]
fn rows_and_shapes_that_do_not_fit_are_refused() {
    let fixture = Fixture::new();
    let plan = |matrices: &[MatrixSource<'_>]| PackedImage::plan(&program(), matrices).err();
    let mut order = fixture.order.clone();
    for wrong in [-1, 33, i32::MAX, i32::MIN] {
        order[7] = wrong;
        let mut matrices = fixture.matrices();
        matrices[0].parts[1].row_order = Some(&order);
        let error = plan(&matrices);
        assert!(matches!(error, Some(CpuError::Batch { .. })), "{error:?}");
    }
    let mut matrices = fixture.matrices();
    matrices[0].parts.pop();
    let error = plan(&matrices);
    assert!(
        matches!(error, Some(CpuError::WeightShape { .. })),
        "{error:?}"
    );
    matrices[0].name = "z";
    let error = plan(&matrices);
    assert!(
        matches!(error, Some(CpuError::UnknownWeight { .. })),
        "{error:?}"
    );
}

#[test]
fn a_load_that_is_given_up_leaves_nothing() {
    let fixture = Fixture::new();
    let cache = fixture.cache();
    let matrices = fixture.matrices();
    let mut loader = WeightLoader::new(&program(), &fixture.checkpoint, &matrices, 2, Some(&cache))
        .expect("fits");
    // Hash, then take the writer's place.
    for _ in 0..2 {
        assert!(loader.advance().expect("goes on").is_none());
    }
    let entries = || fs::read_dir(&cache).expect("made").count();
    assert_eq!(entries(), 1);
    drop(loader);
    assert_eq!(entries(), 0);
}

#[test]
fn a_checkpoint_that_is_written_to_meanwhile_is_not_kept() {
    let fixture = Fixture::new();
    let cache = fixture.cache();
    let matrices = fixture.matrices();
    let mut loader = WeightLoader::new(&program(), &fixture.checkpoint, &matrices, 2, Some(&cache))
        .expect("fits");
    assert!(loader.advance().expect("hashes").is_none());
    let path = fixture.folder.path().join("model.gguf");
    let file = File::options().write(true).open(&path).expect("ours");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("ours");
    let error = loop {
        match loader.advance() {
            Ok(None) => {}
            Ok(Some(kept)) => panic!("kept: {kept:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CpuError::SourceChanged { .. }), "{error:?}");
    drop(loader);
    assert_eq!(fs::read_dir(&cache).expect("made").count(), 0);
}

#[test]
fn threads_that_load_at_once_share_one_file() {
    let fixture = Fixture::new();
    let cache = fixture.cache();
    let want = bytes(&fixture.load(1, None).expect("loads"));
    let origins: Vec<WeightsOrigin> = std::thread::scope(|scope| {
        let load = || {
            let loaded = fixture.load(2, Some(&cache)).expect("loads");
            assert!(bytes(&loaded) == want);
            loaded.origin
        };
        let handles: Vec<_> = (0..6).map(|_| scope.spawn(load)).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, _>| handle.join().expect("loads");
        handles.into_iter().map(join).collect()
    });
    let writers = |origin: &&WeightsOrigin| **origin == WeightsOrigin::Written;
    assert_eq!(origins.iter().filter(writers).count(), 1, "{origins:?}");
    let names: Vec<_> = fs::read_dir(&cache).expect("made").collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_of_the_cache() {
    let fixture = Fixture::new();
    let file = fixture.folder.path().join("model.gguf");
    for folder in [file.clone(), file.join("below")] {
        let error = fixture
            .load(1, Some(&folder))
            .expect_err("a file is in the way");
        assert!(matches!(error, CpuError::PackedCache { .. }), "{error:?}");
    }
}
