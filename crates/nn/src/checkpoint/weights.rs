//! Handing tensors to layers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::entry::TensorEntry;
use super::files::Checkpoint;
use super::float8;
use crate::error::{ModelError, Result};
use crate::shard::Part;

/// Where weights go and in which precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Element type of most weights; layers may ask for another.
    pub kind: Kind,
    /// The device.
    pub device: Device,
}

impl Target {
    /// f32 on the CPU.
    pub const CPU_F32: Self = Self {
        kind: Kind::Float,
        device: Device::Cpu,
    };
}

/// A place inside a checkpoint from which layers take their tensors, by dotted path.
///
/// Every tensor taken is ticked off; [`Weights::finish`] then reports what is missing or was never
/// asked for, all at once.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    target: Target,
    prefix: String,
    stand_ins: StandIns,
    ledger: Rc<RefCell<Ledger>>,
}

/// What a tensor that is missing is replaced with.
#[derive(Debug, Clone, Copy)]
enum StandIns {
    /// Whatever is in memory.
    Empty,
    /// Random numbers of a size that networks work with.
    Random,
}

#[derive(Debug, Default)]
struct Ledger {
    taken: BTreeSet<String>,
    missing: Vec<(String, Vec<i64>)>,
    /// Float8 tensors that have no factor beside them.
    unscaled: usize,
    /// Bytes of the files that were read or mapped.
    bytes: usize,
}

impl<'a> Weights<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, target: Target) -> Self {
        Self {
            checkpoint,
            target,
            prefix: String::new(),
            stand_ins: StandIns::Empty,
            ledger: Rc::default(),
        }
    }

    /// The same place, where missing tensors are random numbers that are drawn on the device: a
    /// network of any size without a file.
    pub fn with_random(&self) -> Self {
        Self {
            stand_ins: StandIns::Random,
            ..self.clone()
        }
    }

    /// The place `name` below this one: `weights.sub("blocks").sub(3)`.
    pub fn sub(&self, name: impl Display) -> Self {
        Self {
            prefix: self.path(name),
            ..self.clone()
        }
    }

    /// Kind and device of the tensors handed out.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The same place, handing tensors out in `kind`.
    pub fn with_kind(&self, kind: Kind) -> Self {
        Self {
            target: Target {
                kind,
                ..self.target
            },
            ..self.clone()
        }
    }

    /// Whether the checkpoint has a tensor of this name here.
    pub fn has(&self, name: impl Display) -> bool {
        self.checkpoint.entries().contains_key(&self.path(name))
    }

    /// The shape of the tensor `name` here; `None` if there is none.
    pub fn shape_of(&self, name: impl Display) -> Option<&'a [i64]> {
        let entry = self.checkpoint.entries().get(&self.path(name));
        entry.map(|entry| entry.shape.as_slice())
    }

    /// Takes the tensor `name`, which must have exactly `shape`.
    ///
    /// A missing tensor is noted for [`Weights::finish`] and an empty stand-in of the right shape
    /// is returned, so that one load reports every missing name.
    pub fn take(&self, name: impl Display, shape: &[i64]) -> Result<Tensor> {
        self.take_part(name, shape, 0, Part::WHOLE)
    }

    /// As [`take`](Self::take), of a tensor of which only one part along `axis` is kept; nothing
    /// else of it is read.
    pub fn take_part(
        &self,
        name: impl Display,
        shape: &[i64],
        axis: usize,
        part: Part,
    ) -> Result<Tensor> {
        /// Names that are listed at most: a config that asks for millions of layers would fill the memory
        /// with stand-ins.
        const MOST_MISSING: usize = 1000;
        let path = self.path(name);
        let Some(entry) = self.checkpoint.entries().get(&path) else {
            // One without any tensor is asked what a layout has.
            let is_file = !self.checkpoint.entries().is_empty();
            if is_file && self.ledger.borrow().missing.len() >= MOST_MISSING {
                return Err(self.unfit(Vec::new()));
            }
            let mut part_shape = shape.to_vec();
            part_shape[axis] = part.range(shape[axis]).1;
            let stand_in = Tensor::f_empty(part_shape, (self.target.kind, self.target.device))?;
            let stand_in = match self.stand_ins {
                StandIns::Empty => stand_in,
                StandIns::Random => fill_randomly(stand_in, &path, shape)?,
            };
            let mut ledger = self.ledger.borrow_mut();
            ledger.missing.push((path, shape.to_vec()));
            return Ok(stand_in);
        };
        if entry.shape != shape {
            return Err(ModelError::WeightShape {
                path: self.checkpoint.folder().to_owned(),
                name: path,
                found: entry.shape.clone(),
                wanted: shape.to_vec(),
            });
        }
        let tensor = if let Some(tensor) = self.checkpoint.tensor(&path) {
            let (first, share) = part.range(shape[axis]);
            tensor
                .f_to_device(self.target.device)?
                .f_to_kind(self.target.kind)?
                .f_narrow(axis as i64, first, share)?
        } else {
            self.read_scaled(&path, entry, axis, part)?
        };
        let mut ledger = self.ledger.borrow_mut();
        let is_unscaled = float8::is_float8(entry.kind) && self.checkpoint.scale(&path).is_none();
        ledger.unscaled += usize::from(is_unscaled);
        ledger.taken.insert(path);
        ledger.bytes += tensor.numel() * entry.kind.elt_size_in_bytes();
        Ok(tensor)
    }

    /// As [`take`](Self::take) of a tensor `[rows, columns]` of which some runs of columns are kept, first and
    /// length of each, laid together; nothing else of it is read.
    pub fn take_columns(
        &self,
        name: &str,
        shape: &[i64; 2],
        runs: &[(i64, i64)],
    ) -> Result<Tensor> {
        // Pieces of one width that all runs are made of.
        let bounds = runs.iter().flat_map(|&(first, count)| [first, count]);
        let width = bounds.fold(shape[1], greatest_divisor).max(1);
        let of = shape[1] / width;
        let pieces = runs.iter().flat_map(|&(first, count)| {
            let first = first / width;
            first..first + count / width
        });
        let pieces = pieces.map(|index| self.take_part(name, shape, 1, Part { index, of }));
        let pieces = pieces.collect::<Result<Vec<_>>>()?;
        self.ledger.borrow_mut().missing.dedup();
        Ok(Tensor::f_cat(&pieces, 1)?)
    }

    /// Bytes of the files that went into the tensors taken so far.
    pub fn bytes_read(&self) -> usize {
        self.ledger.borrow().bytes
    }

    /// Ticks off a tensor that this model has no use for (an old export, a tied copy).
    pub fn ignore(&self, name: impl Display) {
        self.ledger.borrow_mut().taken.insert(self.path(name));
    }

    /// Fails if tensors were missing or if tensors below this place were never taken.
    pub fn finish(&self) -> Result<()> {
        let ledger = self.ledger.borrow();
        let below = |name: &&String| self.prefix.is_empty() || name.starts_with(&self.prefix);
        let unexpected: Vec<String> = self
            .checkpoint
            .entries()
            .keys()
            .filter(below)
            .filter(|name| !ledger.taken.contains(*name))
            .cloned()
            .collect();
        if ledger.missing.is_empty() && unexpected.is_empty() {
            if ledger.unscaled > 0 {
                tracing::warn!(
                    folder = %self.checkpoint.folder().display(),
                    "{} float8 tensors have no scale_weight beside them and are taken as plain \
                     numbers",
                    ledger.unscaled
                );
            }
            return Ok(());
        }
        drop(ledger);
        Err(self.unfit(unexpected))
    }

    /// The error of tensors that are missing or were never taken.
    fn unfit(&self, unexpected: Vec<String>) -> ModelError {
        let ledger = self.ledger.borrow();
        ModelError::Keys {
            path: self.checkpoint.folder().to_owned(),
            missing: ledger
                .missing
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            unexpected,
        }
    }

    /// Names and shapes that were asked for and are not in the checkpoint.
    ///
    /// Loading a model from an empty checkpoint lists every tensor of its layout this way.
    pub fn asked_for(&self) -> Vec<(String, Vec<i64>)> {
        self.ledger.borrow().missing.clone()
    }

    fn path(&self, name: impl Display) -> String {
        if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// A part of a tensor, times its factors if it has any.
    fn read_scaled(
        &self,
        path: &str,
        entry: &TensorEntry,
        axis: usize,
        part: Part,
    ) -> Result<Tensor> {
        let Some(scale) = self.checkpoint.scale(path) else {
            return match part.of {
                1 => self.read(entry),
                _ => self.read_part(entry, axis, part),
            };
        };
        let scale = self.read_elements(scale, 0, &scale.shape)?;
        let scale = scale.f_to_kind(Kind::Float)?;
        match (part.of, axis) {
            (1, _) => self.read_rows(entry, &scale, 0),
            (_, 0) => {
                let first = part.range(entry.shape[0]).0;
                self.read_rows(&entry.rows(part), &scale, first)
            }
            _ => {
                let stored = self.read_columns(entry, part)?;
                let plain = float8::scaled(&stored, &scale, 0)?;
                Ok(plain
                    .f_to_device(self.target.device)?
                    .f_to_kind(self.target.kind)?)
            }
        }
    }

    /// All rows of an entry times their factors, the first of which is that of row `first`.
    fn read_rows(&self, entry: &TensorEntry, scale: &Tensor, first: i64) -> Result<Tensor> {
        let tensor = Tensor::f_empty(&entry.shape, (self.target.kind, self.target.device))?;
        let rows = entry.shape.first().copied().unwrap_or(1);
        let row: i64 = entry.shape.iter().skip(1).product();
        let step = (STAGE_ELEMENTS / row.max(1)).max(1);
        for start in (0..rows).step_by(step as usize) {
            let count = step.min(rows - start);
            let mut shape = entry.shape.clone();
            shape[0] = count;
            let stored = self.read_elements(entry, start * row, &shape)?;
            let plain = float8::scaled(&stored, scale, first + start)?;
            tensor.f_narrow(0, start, count)?.f_copy_(&plain)?;
        }
        Ok(tensor)
    }

    /// A view of the file, or a tensor filled in pieces, so that the weights are in memory once.
    fn read(&self, entry: &TensorEntry) -> Result<Tensor> {
        let place = (self.target.kind, self.target.device);
        if place == (entry.kind, Device::Cpu) {
            return match self.checkpoint.file(entry).view(entry) {
                Some(view) => Ok(view),
                None => self.read_elements(entry, 0, &entry.shape),
            };
        }
        let elements: i64 = entry.shape.iter().product();
        let tensor = Tensor::f_empty(&entry.shape, place)?;
        let flat = tensor.f_view([elements])?;
        for start in (0..elements).step_by(STAGE_ELEMENTS as usize) {
            let count = STAGE_ELEMENTS.min(elements - start);
            let piece = self.read_elements(entry, start, &[count])?;
            flat.f_narrow(0, start, count)?.f_copy_(&piece)?;
        }
        Ok(tensor)
    }

    /// A part of a tensor: whole rows are one range of the file, columns one range per row.
    fn read_part(&self, entry: &TensorEntry, axis: usize, part: Part) -> Result<Tensor> {
        if axis == 0 {
            return self.read(&entry.rows(part));
        }
        let stored = self.read_columns(entry, part)?;
        Ok(stored
            .f_to_device(self.target.device)?
            .f_to_kind(self.target.kind)?)
    }

    /// One part of the columns, as stored.
    fn read_columns(&self, entry: &TensorEntry, part: Part) -> Result<Tensor> {
        let size = entry.kind.elt_size_in_bytes();
        let (columns, rows) = (entry.shape[1], entry.shape[0] as usize);
        let (first, share) = part.range(columns);
        let row_bytes = columns as usize * size;
        let mut bytes = vec![0; rows * share as usize * size];
        for (row, piece) in bytes.chunks_exact_mut(share as usize * size).enumerate() {
            let offset = row * row_bytes + first as usize * size;
            self.checkpoint
                .file(entry)
                .read_entry(piece, entry, offset)?;
        }
        Ok(Tensor::f_from_data_size(
            &bytes,
            &[rows as i64, share],
            entry.kind,
        )?)
    }

    /// The elements from `start` on as a tensor of `shape` as stored.
    fn read_elements(&self, entry: &TensorEntry, start: i64, shape: &[i64]) -> Result<Tensor> {
        let stored = Tensor::f_empty(shape, (entry.kind, Device::Cpu))?;
        let size = entry.kind.elt_size_in_bytes();
        let length = stored.numel() * size;
        if length > 0 {
            // SAFETY: the tensor was just made, dense and on the CPU, and nobody else has it; its
            // storage holds `length` bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(stored.data_ptr().cast::<u8>(), length) };
            let offset = start as usize * size;
            self.checkpoint
                .file(entry)
                .read_entry(bytes, entry, offset)?;
        }
        Ok(stored)
    }
}

/// The greatest number that divides both; not negative.
fn greatest_divisor(a: i64, b: i64) -> i64 {
    match b {
        0 => a.abs(),
        _ => greatest_divisor(b, a % b),
    }
}

/// Fills a part of the tensor `name` of `shape` such that a network of such tensors keeps the size
/// of its activations: rows of unit length for products, ones for norms, small biases.
fn fill_randomly(mut tensor: Tensor, name: &str, shape: &[i64]) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let inputs: i64 = shape[1..].iter().product();
    Ok(match shape.len() {
        1 if name.ends_with("weight") => tensor.f_fill_(1.0)?,
        1 => tensor.f_normal_(0.0, 0.02)?,
        _ => tensor.f_normal_(0.0, 1.0 / (inputs.max(1) as f64).sqrt())?,
    })
}

/// Elements converted or sent to a device at once.
const STAGE_ELEMENTS: i64 = 1 << 22;
