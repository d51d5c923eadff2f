//! Loading the matrices of a checkpoint, in steps between which the caller may look for Ctrl-C: packed into memory of
//! the process, or into a file of the packed cache that is mapped, by this process and by later ones.
//!
//! With a cache: find the content hash of the files (a record of an earlier start, or hash them), then the file of that
//! hash and of this build's recipe; if it is not there or damaged, take its writer's place or wait for whoever has it,
//! and write it. Files are only ever added or replaced under their own key: what is old is for the user to delete.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use inferlib_program::program::Program;
use inferlib_weights::{ContentDigest, Weights};

use crate::arena::{HUGE, Mapping};
use crate::error::CpuError;
use crate::matrix::Matrix;
use crate::packed_file::{self, Expected, PackedWriter, Place, Unusable, WINDOW, window_hash};
use crate::packed_image::{MatrixSource, PackedImage};
use crate::source_record::SourceRecord;

/// Windows of the image that one step packs: some 30 ms of work for two cores.
const WINDOWS_PER_STEP: usize = 32;
/// Bytes of files that one step hashes.
const DIGEST_BYTES_PER_STEP: usize = 256 << 20;
/// How long a step waits for another process that writes the same file.
const WAIT: Duration = Duration::from_millis(20);

/// Where packed weights came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsOrigin {
    /// Packed into memory of this process alone.
    Packed,
    /// Packed into a file of the cache, now mapped.
    Written,
    /// A file of the cache that was there.
    Opened,
}

/// What loading came to.
#[derive(Debug)]
pub struct LoadedWeights {
    pub(crate) memory: Arc<Mapping>,
    pub(crate) matrices: Vec<(usize, Matrix)>,
    /// Where the matrices came from.
    pub origin: WeightsOrigin,
    /// The cache's file.
    pub cache_file: Option<PathBuf>,
    /// What was wrong with a file of the cache that had to be replaced.
    pub replaced: Option<String>,
}

/// A load in progress: [`Self::advance`] until it gives the weights.
#[derive(Debug)]
pub struct WeightLoader<'a> {
    image: PackedImage<'a>,
    checkpoint: &'a Weights,
    threads: usize,
    stage: Stage<'a>,
    /// The cache's folder.
    folder: Option<&'a Path>,
    replaced: Option<String>,
}

#[derive(Debug)]
enum Stage<'a> {
    /// Packing into memory; windows done.
    Memory { memory: Mapping, done: usize },
    /// Hashing the checkpoint's files.
    Digest(ContentDigest<'a>),
    /// Looking for the file, or for the right to write it.
    Find(Expected),
    /// Writing it; hashes of the windows done.
    Write {
        writer: PackedWriter,
        expected: Expected,
        hashes: Vec<u64>,
    },
}

impl<'a> WeightLoader<'a> {
    /// Plan the load; nothing of the tensors is read yet, but the scales of those that may have one per row.
    ///
    /// # Errors
    /// A name or shape is not the program's, or memory is refused.
    pub fn new(
        program: &Program,
        checkpoint: &'a Weights,
        matrices: &[MatrixSource<'a>],
        threads: usize,
        cache: Option<&'a Path>,
    ) -> Result<Self, CpuError> {
        let image = PackedImage::plan(program, matrices)?;
        let stage = match cache {
            None => Stage::Memory {
                memory: Mapping::new(image.bytes(), "the packed weights")?,
                done: 0,
            },
            Some(folder) => {
                let record = SourceRecord::of(folder, checkpoint);
                match record.and_then(|record| record.read()) {
                    Some(content) => Stage::Find(Expected {
                        content,
                        recipe: image.recipe(),
                        bytes: image.bytes(),
                    }),
                    None => Stage::Digest(ContentDigest::new(checkpoint)),
                }
            }
        };
        Ok(Self {
            image,
            checkpoint,
            threads,
            stage,
            folder: cache,
            replaced: None,
        })
    }

    /// Do some milliseconds of the work. Gives the weights at the end.
    ///
    /// # Errors
    /// A tensor's type has no float values, the checkpoint changed meanwhile, or the cache cannot be read or written.
    pub fn advance(&mut self) -> Result<Option<LoadedWeights>, CpuError> {
        match &mut self.stage {
            Stage::Memory { .. } => self.pack_into_memory(),
            Stage::Digest(digest) => {
                if let Some(content) = digest.advance(self.threads, DIGEST_BYTES_PER_STEP) {
                    self.stage = Stage::Find(Expected {
                        content,
                        recipe: self.image.recipe(),
                        bytes: self.image.bytes(),
                    });
                }
                Ok(None)
            }
            Stage::Find(expected) => {
                let expected = *expected;
                self.find(expected)
            }
            Stage::Write { .. } => self.write(),
        }
    }

    fn pack_into_memory(&mut self) -> Result<Option<LoadedWeights>, CpuError> {
        let Stage::Memory { memory, done } = &mut self.stage else {
            return Ok(None);
        };
        let bytes = self.image.bytes();
        let end = bytes.min((*done + WINDOWS_PER_STEP) * HUGE);
        let first = *done;
        let base = SharedPointer(memory.as_ptr());
        pack_windows(
            &self.image,
            self.checkpoint,
            self.threads,
            first..end.div_ceil(HUGE),
            |window, pack| {
                let from = window * HUGE;
                let bytes = HUGE.min(bytes - from);
                // SAFETY: windows are disjoint parts of the mapping, zeroed, each claimed once; nobody reads yet.
                pack(unsafe { std::slice::from_raw_parts_mut(base.get().add(from), bytes) })
            },
        )?;
        *done = end.div_ceil(HUGE);
        if end < bytes {
            return Ok(None);
        }
        let empty = Mapping::new(0, "nothing")?;
        let memory = std::mem::replace(memory, empty);
        Ok(Some(self.loaded(memory, WeightsOrigin::Packed, None)))
    }

    /// Open the file, or become its writer, or wait a little.
    fn find(&mut self, expected: Expected) -> Result<Option<LoadedWeights>, CpuError> {
        let Some(folder) = self.folder else {
            return Ok(None);
        };
        if let Some(loaded) = self.open(folder, expected)? {
            return Ok(Some(loaded));
        }
        let refused = |error| cannot_write(folder, &error);
        std::fs::create_dir_all(folder).map_err(refused)?;
        let Place::Ours(writer) = PackedWriter::begin(folder, expected).map_err(refused)? else {
            std::thread::sleep(WAIT);
            return Ok(None);
        };
        // The one before us may have finished between our look and our lock.
        if let Some(loaded) = self.open(folder, expected)? {
            return Ok(Some(loaded));
        }
        writer.allocate().map_err(refused)?;
        self.stage = Stage::Write {
            writer,
            expected,
            hashes: Vec::new(),
        };
        Ok(None)
    }

    fn open(
        &mut self,
        folder: &Path,
        expected: Expected,
    ) -> Result<Option<LoadedWeights>, CpuError> {
        let path = folder.join(expected.name());
        match packed_file::open(&path, expected, self.threads) {
            Ok(memory) => {
                if let Some(record) = SourceRecord::of(folder, self.checkpoint)
                    && record.read().is_none()
                {
                    record.write(expected.content);
                }
                Ok(Some(self.loaded(memory, WeightsOrigin::Opened, Some(path))))
            }
            Err(Unusable::Missing) => Ok(None),
            Err(Unusable::Damaged(what)) => {
                self.replaced = Some(format!("{}: {what}", path.display()));
                Ok(None)
            }
            Err(Unusable::Unreadable(error)) => Err(CpuError::PackedCache {
                folder: folder.display().to_string(),
                why: format!("{} cannot be read: {error}", expected.name()),
            }),
        }
    }

    fn write(&mut self) -> Result<Option<LoadedWeights>, CpuError> {
        let (
            Some(folder),
            Stage::Write {
                writer,
                expected,
                hashes,
            },
        ) = (self.folder, &mut self.stage)
        else {
            return Ok(None);
        };
        let expected = *expected;
        let bytes = expected.bytes;
        let first = hashes.len();
        let end = bytes.div_ceil(WINDOW).min(first + WINDOWS_PER_STEP);
        hashes.resize(end, 0);
        let places: Vec<AtomicHash> = (first..end).map(|_| AtomicHash::new(0)).collect();
        pack_windows(
            &self.image,
            self.checkpoint,
            self.threads,
            first..end,
            |window, pack| {
                let from = window * WINDOW;
                let mut buffer = vec![0; WINDOW];
                pack(&mut buffer[..WINDOW.min(bytes - from)])?;
                places[window - first].store(window_hash(&buffer), Ordering::Relaxed);
                writer
                    .write(window, &buffer)
                    .map_err(|error| cannot_write(folder, &error))
            },
        )?;
        for (hash, place) in hashes[first..].iter_mut().zip(&places) {
            *hash = place.load(Ordering::Relaxed);
        }
        if end < bytes.div_ceil(WINDOW) {
            return Ok(None);
        }
        self.check_source()?;
        let Stage::Write { writer, hashes, .. } =
            std::mem::replace(&mut self.stage, Stage::Find(expected))
        else {
            return Ok(None);
        };
        writer
            .publish(&hashes)
            .map_err(|error| cannot_write(folder, &error))?;
        if let Some(record) = SourceRecord::of(folder, self.checkpoint) {
            record.write(expected.content);
        }
        // If it is gone again, or not what was written, begin anew.
        let loaded = self.open(folder, expected)?;
        Ok(loaded.map(|loaded| {
            loaded.memory.collapse();
            LoadedWeights {
                origin: WeightsOrigin::Written,
                ..loaded
            }
        }))
    }

    /// Refuse to keep what was packed of files that were written to since they were opened.
    fn check_source(&self) -> Result<(), CpuError> {
        let Some(stamps) = self.checkpoint.stamps() else {
            return Ok(());
        };
        for (path, before) in self.checkpoint.files().zip(stamps) {
            // A file that was replaced or removed lives on for those who mapped it.
            let Some(now) = std::fs::metadata(path)
                .ok()
                .and_then(|metadata| inferlib_weights::FileStamp::of(&metadata))
                .filter(|now| now.inode == before.inode)
            else {
                continue;
            };
            if now.was_written_since(&before) {
                return Err(CpuError::SourceChanged {
                    path: path.display().to_string(),
                });
            }
        }
        Ok(())
    }

    fn loaded(
        &mut self,
        memory: Mapping,
        origin: WeightsOrigin,
        cache_file: Option<PathBuf>,
    ) -> LoadedWeights {
        LoadedWeights {
            matrices: self.image.place(memory.as_ptr()),
            memory: Arc::new(memory),
            origin,
            cache_file,
            replaced: self.replaced.take(),
        }
    }
}

fn cannot_write(folder: &Path, error: &std::io::Error) -> CpuError {
    CpuError::PackedCache {
        folder: folder.display().to_string(),
        why: format!("it cannot be written: {error}"),
    }
}

type AtomicHash = std::sync::atomic::AtomicU64;

/// An address that several threads write through, each elsewhere.
#[derive(Clone, Copy)]
struct SharedPointer(*mut u8);

// SAFETY: whoever uses it says why its writes are disjoint.
unsafe impl Send for SharedPointer {}
// SAFETY: as above.
unsafe impl Sync for SharedPointer {}

impl SharedPointer {
    fn get(self) -> *mut u8 {
        self.0
    }
}

/// Pack windows on several threads; each is claimed by one, handed to `place` with what packs it into zeroed bytes, and
/// the checkpoint's pages behind it are given back.
fn pack_windows(
    image: &PackedImage<'_>,
    checkpoint: &Weights,
    threads: usize,
    windows: std::ops::Range<usize>,
    place: impl Fn(usize, &dyn Fn(&mut [u8]) -> Result<(), CpuError>) -> Result<(), CpuError> + Sync,
) -> Result<(), CpuError> {
    let next = AtomicUsize::new(windows.start);
    let work = || -> Result<(), CpuError> {
        loop {
            let window = next.fetch_add(1, Ordering::Relaxed);
            if window >= windows.end {
                return Ok(());
            }
            let from = window * WINDOW;
            place(window, &|out| image.fill(from, out))?;
            for (tensor, bytes) in image.sources(&(from..from + WINDOW)) {
                checkpoint.release_bytes(tensor, bytes);
            }
        }
    };
    let failed = |_| {
        Err(CpuError::Panic {
            message: "packing".to_owned(),
        })
    };
    std::thread::scope(|scope| {
        let others = threads.min(windows.len()).saturating_sub(1);
        let handles: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for handle in handles {
            result = result.and(handle.join().unwrap_or_else(failed));
        }
        result
    })
}
