//! What an executor is given before it runs, and while it does: weights and adapters.

use super::{CpuExecutor, Weight};
use crate::adapters::{Adapter, AdapterPart};
use crate::error::CpuError;
use crate::loader::LoadedWeights;
use crate::packed_image::{MatrixSource, PackedImage, Part};

impl CpuExecutor {
    fn declared(&self, name: &str) -> Result<usize, CpuError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| CpuError::UnknownWeight {
                name: name.to_owned(),
            })
    }

    /// Give a vector weight.
    ///
    /// # Errors
    /// The name or the length is not the program's.
    pub fn load_vector(&mut self, name: &str, values: Vec<f32>) -> Result<(), CpuError> {
        let index = self.declared(name)?;
        let expected = &self.program.weights[index].shape;
        if expected[..] != [values.len()] {
            return Err(CpuError::WeightShape {
                name: name.to_owned(),
                expected: expected.clone(),
                found: vec![values.len()],
            });
        }
        self.weights[index] = Some(Weight::Vector(values));
        Ok(())
    }

    /// Give a matrix weight: its parts, stacked by rows, each packed in its own tensor type's layout. For matrices that
    /// are made in code; a checkpoint's are loaded by a [`crate::WeightLoader`].
    ///
    /// # Errors
    /// The name or the shape is not the program's, a type has no float values, or memory is refused.
    pub fn load_matrix(&mut self, name: &str, parts: &[Part<'_>]) -> Result<(), CpuError> {
        self.load_source(MatrixSource {
            name,
            parts: parts.to_vec(),
            row_scales: false,
        })
    }

    /// [`Self::load_matrix`], with all that may be said of it.
    pub(crate) fn load_source(&mut self, matrix: MatrixSource<'_>) -> Result<(), CpuError> {
        let image = PackedImage::plan(&self.program, &[matrix])?;
        let data = self.arena.take(image.bytes(), "a packed weight")?;
        // SAFETY: the arena handed out exactly these bytes, zeroed, to this matrix alone.
        image.fill(0, unsafe {
            std::slice::from_raw_parts_mut(data, image.bytes())
        })?;
        for (index, matrix) in image.place(data) {
            self.weights[index] = Some(Weight::Matrix(matrix));
        }
        Ok(())
    }

    /// Take the matrices that a [`crate::WeightLoader`] of this executor's program packed or found.
    pub fn adopt(&mut self, loaded: LoadedWeights) {
        for (index, matrix) in loaded.matrices {
            self.weights[index] = Some(Weight::Matrix(matrix));
        }
        self.images.push(loaded.memory);
    }

    /// Load an adapter under a number, which batches name it by. The first one makes the plan anew: what products read is
    /// kept from then on. After an error all is as it was.
    ///
    /// # Errors
    /// 0, a number in use, a part that fits no matrix of the program, or no memory.
    pub fn load_adapter(&mut self, id: u32, parts: Vec<AdapterPart>) -> Result<(), CpuError> {
        if id == 0 || self.adapters.contains_key(&id) {
            return Err(CpuError::Option {
                field: "adapter",
                value: id.to_string(),
                expected: "a number above 0 that is not in use",
            });
        }
        let adapter = Adapter::new(&self.program, parts)?;
        if !self.adapts && self.workspaces.is_some() {
            self.plan(true)?;
        }
        self.adapters.insert(id, adapter);
        Ok(())
    }

    /// Forget an adapter; whether there was one.
    pub fn unload_adapter(&mut self, id: u32) -> bool {
        self.adapters.remove(&id).is_some()
    }
}
