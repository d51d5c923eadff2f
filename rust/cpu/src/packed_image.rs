//! The packed matrices of a model as one run of bytes: where each lies is known before anything is packed, any range of
//! it can be made from the checkpoint by itself, and a hash says what it is made of.

use std::ops::Range;

use inferlib_program::program::Program;
use inferlib_weights::{Dtype, Tensor, xxh64};

use crate::error::CpuError;
use crate::matrix::{Matrix, Segment};
use crate::pack;
use crate::packing::Packing;
use crate::screen;
use crate::simd::LANES;

/// Where parts begin: a cache line.
const ALIGNMENT: usize = 64;

/// One part of a weight: a tensor's rows, stacked below those of the part before.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The checkpoint's tensor.
    pub tensor: Tensor<'a>,
    /// Row `i` of the part is row `row_order[i]` of the tensor; `None` keeps the file's order.
    pub row_order: Option<&'a [i32]>,
}

/// A matrix of the program and its parts, stacked by rows.
#[derive(Clone, Debug)]
pub struct MatrixSource<'a> {
    /// Canonical name.
    pub name: &'a str,
    /// Tensors of the checkpoint.
    pub parts: Vec<Part<'a>>,
    /// Whether products with parts in `Q8_0` whose rows have one scale each take one scale per row of activations, too: most
    /// of the speed of many rows, for less exact results ([`Packing::Q8Rows`]).
    pub row_scales: bool,
}

/// One part of one matrix: consecutive panels of the image.
#[derive(Debug)]
struct Piece<'a> {
    name: &'a str,
    /// Index of the matrix in the program.
    weight: usize,
    tensor: Tensor<'a>,
    row_order: Option<&'a [i32]>,
    /// Rows of the part before its first: those of other experts.
    rows_before: usize,
    packing: Packing,
    /// Whether it is the second plane of the piece before it.
    is_second: bool,
    width: usize,
    rows: usize,
    first_row: usize,
    panel_bytes: usize,
    /// In the image.
    offset: usize,
}

/// Where every matrix of a model lies in its image.
#[derive(Debug)]
pub(crate) struct PackedImage<'a> {
    pieces: Vec<Piece<'a>>,
    bytes: usize,
}

impl<'a> PackedImage<'a> {
    /// Place the matrices one after another.
    ///
    /// # Errors
    /// A name or shape is not the program's, or a row order names a row that is not there.
    pub(crate) fn plan(program: &Program, matrices: &[MatrixSource<'a>]) -> Result<Self, CpuError> {
        let mut pieces = Vec::new();
        let mut bytes = 0_usize;
        for matrix in matrices {
            let weight = declared(program, matrix)?;
            // Every expert begins a panel, so that it is a matrix of its own.
            let expert_rows = match program.weights[weight].shape[..] {
                [_, rows, _] => Some(rows),
                _ => None,
            };
            let mut first_row = 0;
            for part in &matrix.parts {
                check_row_order(matrix.name, part)?;
            }
            let in_planes = screen::pays(program, weight, matrix);
            let by_rows = matrix.row_scales && matrix.parts.iter().all(has_row_scales);
            for (part, rows_before, rows) in pieces_of(&matrix.parts, expert_rows) {
                let (_, width) = size(part);
                let packing = if in_planes {
                    Packing::Q8Planes
                } else if by_rows {
                    Packing::Q8Rows
                } else {
                    Packing::of(part.tensor.dtype)
                };
                let planes = [packing.panel_bytes(width), packing.second_bytes(width)];
                for (is_second, panel_bytes) in [false, true].into_iter().zip(planes) {
                    if is_second && panel_bytes == 0 {
                        continue;
                    }
                    let piece = Piece {
                        name: matrix.name,
                        weight,
                        tensor: part.tensor,
                        row_order: part.row_order,
                        rows_before,
                        packing,
                        is_second,
                        width,
                        rows,
                        first_row,
                        panel_bytes,
                        offset: bytes.next_multiple_of(ALIGNMENT),
                    };
                    bytes = piece.range().end;
                    pieces.push(piece);
                }
                first_row += rows;
            }
        }
        Ok(Self { pieces, bytes })
    }

    /// Bytes of the whole image.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Write the image's bytes from `start` on into `out`, which is zeroed.
    ///
    /// # Errors
    /// A tensor's type has no float values.
    pub(crate) fn fill(&self, start: usize, out: &mut [u8]) -> Result<(), CpuError> {
        let wanted = start..start + out.len();
        for piece in self.overlapping(&wanted) {
            for panel in piece.panels_in(&wanted) {
                let range = piece.panel_range(panel);
                if range.start >= wanted.start && range.end <= wanted.end {
                    piece.pack(panel, &mut out[range.start - start..range.end - start])?;
                } else {
                    // Cut by the end of what is wanted: made whole elsewhere.
                    let mut whole = vec![0; piece.panel_bytes];
                    piece.pack(panel, &mut whole)?;
                    let (from, to) = (range.start.max(start), range.end.min(wanted.end));
                    out[from - start..to - start]
                        .copy_from_slice(&whole[from - range.start..to - range.start]);
                }
            }
        }
        Ok(())
    }

    /// Tensors, and the bytes of each, that [`Self::fill`] reads for a range of the image. Where rows are moved, the bytes
    /// between the first and the last of them.
    pub(crate) fn sources(&self, wanted: &Range<usize>) -> Vec<(&'a str, Range<usize>)> {
        let source = |piece: &Piece<'a>| {
            let panels = piece.panels_in(wanted);
            let rows = panels.start * LANES..(panels.end * LANES).min(piece.rows);
            let rows = piece.rows_before + rows.start..piece.rows_before + rows.end;
            let rows = match piece.row_order {
                None => rows,
                Some(order) => {
                    let used = order[rows].iter().map(|row| row.unsigned_abs() as usize);
                    let last = used.clone().max().map_or(0, |last| last + 1);
                    used.min().unwrap_or(0)..last
                }
            };
            let row_bytes = piece.row_bytes();
            let bytes = rows.start * row_bytes..rows.end * row_bytes;
            (piece.tensor.name, bytes)
        };
        self.overlapping(wanted).map(source).collect()
    }

    /// Says what the image is made of, but for the content of the checkpoint's files: matrices, tensors, types, rows and
    /// the layouts that this build packs them in. Images of equal recipes and files are equal.
    pub(crate) fn recipe(&self) -> u64 {
        let mut text: Vec<u8> = Vec::new();
        let number = |text: &mut Vec<u8>, n: usize| text.extend((n as u64).to_le_bytes());
        for piece in &self.pieces {
            for name in [piece.name, piece.tensor.name, piece.tensor.dtype.name()] {
                number(&mut text, name.len());
                text.extend(name.as_bytes());
            }
            let shape = [
                piece.rows,
                piece.width,
                piece.offset,
                piece.panel_bytes,
                piece.rows_before,
            ];
            for n in shape {
                number(&mut text, n);
            }
            number(&mut text, usize::from(piece.is_second));
            number(&mut text, usize::from(piece.row_order.is_some()));
            let order = piece.row_order.unwrap_or_default();
            let end = (piece.rows_before + piece.rows).min(order.len());
            for row in &order[piece.rows_before.min(end)..end] {
                text.extend(row.to_le_bytes());
            }
        }
        let mut layouts: Vec<(Dtype, Packing)> = self
            .pieces
            .iter()
            .map(|p| (p.tensor.dtype, p.packing))
            .collect();
        layouts.sort_by_key(|&(dtype, packing)| (dtype.name(), packing as usize));
        layouts.dedup();
        for (dtype, packing) in layouts {
            text.extend(layout_sample(dtype, packing));
        }
        xxh64(&text, 0)
    }

    /// The matrices, by index in the program, over an image that lies at `base`.
    pub(crate) fn place(&self, base: *mut u8) -> Vec<(usize, Matrix)> {
        let mut placed: Vec<(usize, Matrix)> = Vec::new();
        for piece in &self.pieces {
            if placed
                .last()
                .is_none_or(|&(weight, _)| weight != piece.weight)
            {
                let matrix = Matrix {
                    in_features: piece.width,
                    ..Matrix::default()
                };
                placed.push((piece.weight, matrix));
            }
            let Some((_, matrix)) = placed.last_mut() else {
                continue;
            };
            let data = base.wrapping_add(piece.offset);
            if piece.is_second {
                if let Some(segment) = matrix.segments.last_mut() {
                    (segment.second, segment.second_bytes) = (data, piece.panel_bytes);
                }
            } else {
                matrix.out_features += piece.rows;
                matrix.segments.push(Segment {
                    dtype: piece.tensor.dtype,
                    packing: piece.packing,
                    first_row: piece.first_row,
                    rows: piece.rows,
                    data,
                    panel_bytes: piece.panel_bytes,
                    second: std::ptr::null_mut(),
                    second_bytes: 0,
                });
            }
        }
        placed
    }

    fn overlapping(&self, wanted: &Range<usize>) -> impl Iterator<Item = &Piece<'a>> {
        let first = self
            .pieces
            .partition_point(|piece| piece.range().end <= wanted.start);
        let end = wanted.end;
        self.pieces[first..]
            .iter()
            .take_while(move |piece| piece.offset < end)
    }
}

impl Piece<'_> {
    fn num_panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn row_bytes(&self) -> usize {
        let dtype = self.tensor.dtype;
        self.width / dtype.block_size() * dtype.block_bytes()
    }

    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.num_panels() * self.panel_bytes
    }

    fn panel_range(&self, panel: usize) -> Range<usize> {
        let start = self.offset + panel * self.panel_bytes;
        start..start + self.panel_bytes
    }

    /// The panels that overlap a range of the image.
    fn panels_in(&self, wanted: &Range<usize>) -> Range<usize> {
        let bytes = self.panel_bytes.max(1);
        let first = wanted.start.saturating_sub(self.offset) / bytes;
        let end = wanted.end.saturating_sub(self.offset).div_ceil(bytes);
        first..end.min(self.num_panels())
    }

    /// Fill one panel, which is zeroed.
    fn pack(&self, panel: usize, to: &mut [u8]) -> Result<(), CpuError> {
        let row_bytes = self.row_bytes();
        let mut floats = Vec::new();
        for lane in 0..LANES.min(self.rows - panel * LANES) {
            let row = self.rows_before + panel * LANES + lane;
            let source = match self.row_order {
                None => row,
                Some(order) => order[row].unsigned_abs() as usize, // checked by `plan`
            };
            let bytes = &self.tensor.bytes[source * row_bytes..][..row_bytes];
            if self.is_second {
                pack::pack_second(self.packing, Some(bytes), lane, to);
            } else if self.packing.is_fallback() {
                floats.resize(self.width, 0.0);
                inferlib_weights::dequantize(self.tensor.dtype, bytes, &mut floats).map_err(
                    |_| CpuError::WeightType {
                        name: self.name.to_owned(),
                        dtype: self.tensor.dtype.name().to_owned(),
                    },
                )?;
                pack::pack_values(self.packing, &floats, lane, to);
            } else {
                pack::pack_row(self.packing, bytes, lane, to);
            }
        }
        if self.is_second {
            for lane in (self.rows - panel * LANES).min(LANES)..LANES {
                pack::pack_second(self.packing, None, lane, to);
            }
        }
        Ok(())
    }
}

/// Rows that a part gives, and columns; zeros unless the tensor has two dimensions, or three: experts, one below the other.
fn size(part: &Part<'_>) -> (usize, usize) {
    let rows = |rows| part.row_order.map_or(rows, <[i32]>::len);
    match *part.tensor.shape {
        [count, columns] => (rows(count), columns),
        [experts, count, columns] => (rows(experts.saturating_mul(count)), columns),
        _ => (0, 0),
    }
}

/// Each part whole, or cut into experts of so many rows: the part, its rows before the piece, and those of the piece.
fn pieces_of<'p, 'a>(
    parts: &'p [Part<'a>],
    expert_rows: Option<usize>,
) -> impl Iterator<Item = (&'p Part<'a>, usize, usize)> {
    parts.iter().flat_map(move |part| {
        let (rows, _) = size(part);
        let step = expert_rows.unwrap_or(rows).max(1);
        (0..rows)
            .step_by(step)
            .map(move |first| (part, first, step.min(rows - first)))
    })
}

/// Most columns of [`Packing::Q8Rows`]: the sum of products of 8-bit numbers fits an integer.
const MAX_SUMMED_COLUMNS: usize = 1 << 16;

/// Whether the part is `Q8_0`, and all blocks of a row have the same scale.
fn has_row_scales(part: &Part<'_>) -> bool {
    const SCALE: usize = 2;
    let (_, width) = size(part);
    let (columns, block) = (Dtype::Q8_0.block_size(), Dtype::Q8_0.block_bytes());
    if part.tensor.dtype != Dtype::Q8_0 || !(columns..=MAX_SUMMED_COLUMNS).contains(&width) {
        return false;
    }
    let mut rows = part.tensor.bytes.chunks_exact(width / columns * block);
    rows.all(|row| {
        let mut blocks = row.chunks_exact(block);
        blocks.all(|block| block[..SCALE] == row[..SCALE])
    })
}

/// The matrix's index in the program, if its parts have the declared shape.
fn declared(program: &Program, matrix: &MatrixSource<'_>) -> Result<usize, CpuError> {
    let name = matrix.name;
    let index = program
        .weights
        .iter()
        .position(|weight| weight.name == name)
        .ok_or_else(|| CpuError::UnknownWeight {
            name: name.to_owned(),
        })?;
    let expected = match program.weights[index].shape[..] {
        [experts, rows, columns] => &vec![experts.saturating_mul(rows), columns],
        _ => &program.weights[index].shape,
    };
    let mut found = vec![0, expected.get(1).copied().unwrap_or(0)];
    for part in &matrix.parts {
        let (rows, columns) = size(part);
        found[0] += rows;
        if columns != found[1] {
            found[1] = columns;
            break;
        }
    }
    if found == *expected {
        Ok(index)
    } else {
        Err(CpuError::WeightShape {
            name: name.to_owned(),
            expected: expected.clone(),
            found,
        })
    }
}

fn check_row_order(name: &str, part: &Part<'_>) -> Result<(), CpuError> {
    let (rows, _) = size(&Part {
        row_order: None,
        ..*part
    });
    let wrong = part
        .row_order
        .unwrap_or_default()
        .iter()
        .find(|&&row| usize::try_from(row).map_or(true, |row| row >= rows));
    match wrong {
        None => Ok(()),
        Some(row) => Err(CpuError::Batch {
            field: "row_order",
            why: format!("row {row} of {name} is not one of {rows}"),
        }),
    }
}

/// How this build packs a type: a panel of arbitrary bytes. It changes whenever the layout does, so that nobody has to
/// remember to count a version up.
fn layout_sample(dtype: Dtype, packing: Packing) -> Vec<u8> {
    let width = 512;
    let row_bytes = width / dtype.block_size() * dtype.block_bytes();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut panel = vec![0; packing.panel_bytes(width)];
    let mut second = vec![0; packing.second_bytes(width)];
    for lane in 0..LANES {
        let mut row = vec![0; row_bytes];
        for byte in &mut row {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = random.to_le_bytes()[3];
        }
        if packing.is_fallback() {
            let mut floats = vec![0.0; width];
            if inferlib_weights::dequantize(dtype, &row, &mut floats).is_ok() {
                pack::pack_values(packing, &floats, lane, &mut panel);
            }
        } else {
            pack::pack_row(packing, &row, lane, &mut panel);
            pack::pack_second(packing, Some(&row), lane, &mut second);
        }
    }
    panel.extend(second);
    panel
}
