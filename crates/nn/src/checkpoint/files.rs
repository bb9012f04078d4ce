//! The files of a component and the tensors in them.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::counts;
use super::entry::TensorEntry;
use super::leftovers::is_leftover;
use super::original::{Layout, Misfit};
use super::places::weight_files;
use super::read::{read_json, refuse_stand_in};
use super::stamps::Stamps;
use super::{Target, Weights, float8, refused};
use crate::dtype::{kind_of, raw_bytes};
use crate::error::{ModelError, Result};

/// A component folder of a checkpoint, opened: its config and where each tensor lies.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    pub(super) config: serde_json::Value,
    files: Vec<WeightFile>,
    pub(super) entries: BTreeMap<String, TensorEntry>,
    /// The factors of float8 weights, by the names of these.
    scales: BTreeMap<String, TensorEntry>,
    /// Tensors of the files that are no weights.
    pub(super) leftovers: BTreeMap<String, TensorEntry>,
    /// Tensors that are in memory and in no file.
    tensors: BTreeMap<String, Tensor>,
}

/// A safetensors file, mapped.
///
/// Tensors that are used as they are stored are views of the map: loading them costs next to
/// nothing, and several ranks of a host share one copy. What is converted or goes to a device is
/// read in pieces, since every page of a map costs a fault.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    file: File,
    map: Mmap,
    whole: OnceCell<Option<Tensor>>,
}

impl Checkpoint {
    /// Opens a component folder, `config.json` and weights.
    ///
    /// Weights are `diffusion_pytorch_model` or `model` files, single or sharded with an
    /// `.index.json`; of a variant (`model.fp16.safetensors`) if there are no others. Every header is
    /// read and checked; tensors are not.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = read_json(&folder.join("config.json"))?;
        Self::with_config(folder, config)
    }

    /// As [`Checkpoint::open`], with a config from elsewhere.
    pub fn with_config(folder: &Path, config: serde_json::Value) -> Result<Self> {
        let paths = weight_files(folder)?;
        Self::from_files(folder, config, &paths)?.understood()
    }

    /// The tensors by their names in diffusers, and the factors of float8 weights apart.
    ///
    /// # Errors
    /// The files are of a feature that is not supported, or not whole in the layout that they are in.
    pub(super) fn understood(mut self) -> Result<Self> {
        refused::check(&self)?;
        let bad = |reason: String| ModelError::bad_file(&self.folder, reason);
        let scales = float8::take_scales(&mut self.entries).map_err(bad)?;
        let Some(layout) = Layout::of(&self.entries) else {
            self.scales = scales;
            return Ok(self);
        };
        let entries = std::mem::take(&mut self.entries);
        (self.entries, self.scales) =
            layout
                .translate(entries, scales)
                .map_err(|misfit| match misfit {
                    Misfit::Names { missing, unknown } => ModelError::Keys {
                        path: self.folder.clone(),
                        missing,
                        unexpected: unknown,
                    },
                    Misfit::Reason(reason) => ModelError::bad_file(&self.folder, reason),
                })?;
        Ok(self)
    }

    /// A `config.json` alone, without any weights.
    ///
    /// # Errors
    /// It cannot be read, or is no config.
    pub fn of_config(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::from_files(folder, read_json(path)?, &[])
    }

    /// Opens the named safetensors files as one set of tensors.
    pub fn from_files(folder: &Path, config: serde_json::Value, paths: &[PathBuf]) -> Result<Self> {
        counts::check(&config)
            .map_err(|reason| ModelError::bad_file(folder.join("config.json"), reason))?;
        let (mut entries, mut leftovers) = (BTreeMap::new(), BTreeMap::new());
        let mut files = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let file = WeightFile::open(path)?;
            for entry in file.entries(index)? {
                let name = entry.name.clone();
                let place = match is_leftover(&entry) {
                    true => &mut leftovers,
                    false => &mut entries,
                };
                if place.insert(name.clone(), entry).is_some() {
                    let reason = format!("the tensor {name} is in two files; remove one of them");
                    return Err(ModelError::bad_file(path, reason));
                }
            }
            files.push(file);
        }
        if let Some(first) = leftovers.keys().next() {
            let (count, folder) = (leftovers.len(), folder.display());
            tracing::debug!("{folder}: {count} tensors are no weights and not used ({first}, …)");
        }
        Ok(Self {
            folder: folder.to_owned(),
            config,
            files,
            entries,
            scales: BTreeMap::new(),
            leftovers,
            tensors: BTreeMap::new(),
        })
    }

    /// A checkpoint of tensors in memory: layers that ask for the kind and the device of a tensor
    /// are handed the tensor itself, so that gradients reach it.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>, config: serde_json::Value) -> Self {
        let entry = |(name, tensor): (&String, &Tensor)| {
            let (kind, bytes) = (
                tensor.kind(),
                tensor.numel() * tensor.kind().elt_size_in_bytes(),
            );
            let entry = TensorEntry::new(0, name, kind, tensor.size(), 0..bytes);
            (name.clone(), entry)
        };
        Self {
            folder: PathBuf::from("memory"),
            config,
            files: Vec::new(),
            entries: tensors.iter().map(entry).collect(),
            scales: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            tensors,
        }
    }

    /// The component folder, or the file of which it is a part.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The content of `config.json`.
    pub fn raw_config(&self) -> &serde_json::Value {
        &self.config
    }

    /// The config as the type of a model.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.config.clone()).map_err(|error| {
            ModelError::bad_file(self.folder.join("config.json"), error.to_string())
        })
    }

    /// `_class_name` (diffusers) or the first of `architectures` (transformers), if it is there.
    pub fn class_name(&self) -> Option<&str> {
        let diffusers = self.config.get("_class_name");
        diffusers
            .or_else(|| self.config.get("architectures")?.get(0))?
            .as_str()
    }

    /// Fails unless the checkpoint is of one of these classes.
    pub fn expect_class(&self, classes: &[&str]) -> Result<()> {
        match self.class_name() {
            Some(class) if classes.contains(&class) => Ok(()),
            found => Err(ModelError::bad_file(
                self.folder.join("config.json"),
                format!(
                    "this is a checkpoint of {}, but {} is needed here",
                    found.unwrap_or("an unknown class"),
                    classes.join(" or ")
                ),
            )),
        }
    }

    /// All tensors by their diffusers name.
    pub fn entries(&self) -> &BTreeMap<String, TensorEntry> {
        &self.entries
    }

    /// What the headers of the files say beside their tensors.
    pub fn metadata(&self) -> Result<HashMap<String, String>> {
        let mut all = HashMap::new();
        for file in &self.files {
            let header = SafeTensors::read_metadata(&file.map);
            let (_, header) = header.map_err(|error| file.not_whole(&error))?;
            all.extend(header.metadata().clone().unwrap_or_default());
        }
        Ok(all)
    }

    /// Names of tensors in the files that are no weights: tables and masks that others have stored
    /// beside them. No layer asks for them.
    pub fn leftovers(&self) -> impl Iterator<Item = &str> {
        self.leftovers.keys().map(String::as_str)
    }

    /// Size of all weights in the files, in bytes.
    pub fn bytes(&self) -> usize {
        self.entries.values().map(TensorEntry::bytes).sum()
    }

    /// What the file system says of the files, by which changes are seen later.
    ///
    /// # Errors
    /// A file that is open cannot be asked.
    pub fn stamps(&self) -> Result<Stamps> {
        let mut stamps = Stamps::default();
        for WeightFile { path, file, .. } in &self.files {
            let metadata = file.metadata();
            stamps.add(
                path,
                &metadata.map_err(|error| ModelError::io(path, error))?,
            );
        }
        Ok(stamps)
    }

    /// blake3 over names, kinds, shapes and bytes of all tensors, in hexadecimal; the same however
    /// they are spread over files.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        // Leftovers count: who has a digest of such a file keeps it.
        let all: BTreeMap<_, _> = self.entries.iter().chain(&self.leftovers).collect();
        for (name, entry) in all {
            hasher.update(format!("{name} {:?} {:?}\n", entry.kind, entry.shape).as_bytes());
            if let Some(tensor) = self.tensors.get(name) {
                hasher.update(&raw_bytes(tensor)?.1);
                continue;
            }
            self.files[entry.file].for_each_piece(&entry.ranges, |piece| {
                hasher.update(piece);
            })?;
        }
        for (name, scale) in &self.scales {
            hasher
                .update(format!("scale of {name} {:?} {:?}\n", scale.kind, scale.shape).as_bytes());
            self.files[scale.file].for_each_piece(&scale.ranges, |piece| {
                hasher.update(piece);
            })?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// What `load` makes of random weights that are drawn on the device, always from the same seed, and the number
    /// of parameters that it took.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn random<T>(
        target: Target,
        load: impl FnOnce(&Weights) -> Result<T>,
    ) -> Result<(T, usize)> {
        let nothing = Self::from_files(Path::new("random"), serde_json::Value::Null, &[])?;
        let weights = nothing.weights(target).with_random();
        tch::manual_seed(0);
        let model = load(&weights)?;
        let sizes = weights.asked_for().into_iter();
        let parameters = sizes.map(|(_, shape)| shape.iter().product::<i64>() as usize);
        Ok((model, parameters.sum()))
    }

    /// Hands the tensors out, converted to `target`.
    pub fn weights(&self, target: Target) -> Weights<'_> {
        Weights::new(self, target)
    }

    /// The tensor of this name, if it is in memory.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The factor of the weight of this name, if it has one.
    pub(super) fn scale(&self, name: &str) -> Option<&TensorEntry> {
        self.scales.get(name)
    }

    pub(super) fn file(&self, entry: &TensorEntry) -> &WeightFile {
        &self.files[entry.file]
    }
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| ModelError::io(path, error))?;
        // SAFETY: the map is only read, as bytes and numbers of which every value is one. A program that writes
        // to the file changes them under us: `LoadedFiles` sees that before anything is committed. A
        // file cut short ends the process with SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
        refuse_stand_in(path, &map)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            map,
            whole: OnceCell::new(),
        })
    }

    /// The tensor as a view of the file; `None` if it does not lie there as libtorch wants it.
    ///
    /// The map is private: writing to the tensor never changes the file.
    pub(super) fn view(&self, entry: &TensorEntry) -> Option<Tensor> {
        let whole = self.whole.get_or_init(|| {
            let options = (Kind::Uint8, Device::Cpu);
            Tensor::f_from_file(self.path.to_str()?, false, self.map.len() as i64, options).ok()
        });
        let range = entry.single_range()?;
        if range.is_empty() || !range.start.is_multiple_of(entry.kind.elt_size_in_bytes()) {
            return None;
        }
        let bytes = whole
            .as_ref()?
            .f_narrow(0, range.start as i64, range.len() as i64);
        bytes
            .ok()?
            .f_view_dtype(entry.kind)
            .ok()?
            .f_view(entry.shape.as_slice())
            .ok()
    }

    /// Fills `target` from the bytes that start at `offset`, with as many threads as pay off.
    fn read_into(&self, target: &mut [u8], offset: usize) -> Result<()> {
        /// Below this a second thread costs more than it saves.
        const PIECE: usize = 8 << 20;
        /// More threads than this do not read faster from the page cache.
        const THREADS: usize = 4;
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (target.len() / PIECE).clamp(1, available.min(THREADS));
        let piece = target.len().div_ceil(threads).max(1);
        let (file, path) = (&self.file, &self.path);
        let read = |part: &mut [u8], at: usize| {
            let read = file.read_exact_at(part, (offset + at) as u64);
            read.map_err(|error| ModelError::io(path, error))
        };
        if threads == 1 {
            return read(target, 0);
        }
        std::thread::scope(|scope| {
            let parts = target.chunks_mut(piece).enumerate();
            let readers: Vec<_> = parts
                .map(|(number, part)| scope.spawn(move || read(part, number * piece)))
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| match reader.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })
    }

    /// Fills `target` from the bytes of `entry` that start at its byte `offset`.
    pub(super) fn read_entry(
        &self,
        mut target: &mut [u8],
        entry: &TensorEntry,
        offset: usize,
    ) -> Result<()> {
        for place in entry.places(offset..offset + target.len()) {
            let (piece, rest) = target.split_at_mut(place.len());
            self.read_into(piece, place.start)?;
            target = rest;
        }
        Ok(())
    }

    /// Hands the bytes of `ranges` on in pieces.
    fn for_each_piece(
        &self,
        ranges: &[std::ops::Range<usize>],
        mut each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let longest = ranges.iter().map(ExactSizeIterator::len).max();
        let mut buffer = vec![0; longest.unwrap_or(0).min(4 << 20)];
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let length = buffer.len().min(range.end - at);
                self.read_into(&mut buffer[..length], at)?;
                each(&buffer[..length]);
                at += length;
            }
        }
        Ok(())
    }

    fn not_whole(&self, error: &safetensors::SafeTensorError) -> ModelError {
        let reason = format!("not a whole safetensors file ({error}); download or copy it again");
        ModelError::bad_file(&self.path, reason)
    }

    fn entries(&self, file: usize) -> Result<Vec<TensorEntry>> {
        let tensors =
            SafeTensors::deserialize(&self.map).map_err(|error| self.not_whole(&error))?;
        let base = self.map.as_ptr() as usize;
        let mut entries = Vec::with_capacity(tensors.len());
        for (name, view) in tensors.iter() {
            let kind = kind_of(view.dtype()).ok_or_else(|| {
                let reason = format!(
                    "{name} has the element type {:?}, which is not known",
                    view.dtype()
                );
                ModelError::bad_file(&self.path, reason)
            })?;
            let start = view.data().as_ptr() as usize - base;
            let shape = view.shape().iter().map(|&axis| axis as i64).collect();
            let range = start..start + view.data().len();
            entries.push(TensorEntry::new(file, name, kind, shape, range));
        }
        Ok(entries)
    }
}
