//! An adapter file, opened: the update of every layer, by names, shapes and small numbers only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::LoraSettings;
use super::names::{self, Form, Piece};
use super::scale::{Declaration, Layer, Scale};
use crate::checkpoint::{Checkpoint, Target};
use crate::error::{ModelError, Result};

/// An adapter file.
#[derive(Debug)]
pub(super) struct Adapter {
    path: PathBuf,
    checkpoint: Checkpoint,
    declaration: Declaration,
    form: Form,
    updates: BTreeMap<String, Update>,
}

/// The tensors of one layer's update.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// The layer as the file calls it.
    written: String,
    /// Names in the file, by what they are.
    tensors: BTreeMap<Piece, String>,
}

impl Update {
    /// Whether it has a product of two factors.
    pub(super) fn is_low_rank(&self) -> bool {
        self.tensors.contains_key(&Piece::Down)
    }
}

impl Adapter {
    /// Opens an adapter and understands all of its names.
    ///
    /// # Errors
    /// A name is in no form that is known, a half of an update is missing, or what is said about
    /// the adapter cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::from_files(path, Value::Null, &[path.to_owned()])?;
        let mut updates: BTreeMap<String, Update> = BTreeMap::new();
        let mut unknown = Vec::new();
        let (mut form, mut halves) = (None, None);
        for name in checkpoint.entries().keys() {
            let Some(read) = names::read(name) else {
                unknown.push(name.as_str());
                continue;
            };
            form = form.or(Some(read.form));
            halves = halves.or(read.halves);
            let update = updates.entry(read.layer.clone()).or_default();
            update.written = read.written;
            if let Some(other) = update.tensors.insert(read.piece, name.clone()) {
                let reason = format!("{other} and {name} are both of the layer {}", read.layer);
                return Err(ModelError::bad_file(path, reason));
            }
        }
        if !unknown.is_empty() {
            return Err(ModelError::bad_file(path, unknown_names(&unknown, form)));
        }
        let Some(form) = form else {
            return Err(ModelError::bad_file(
                path,
                "there is no adapter in this file",
            ));
        };
        check_halves(path, &updates)?;
        let declaration = Declaration::read(path, &checkpoint.metadata()?, halves, form)?;
        Ok(Self {
            path: path.to_owned(),
            checkpoint,
            declaration,
            form,
            updates,
        })
    }

    /// Who writes such files.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The updates by the diffusers name of their layer.
    pub(super) fn updates(&self) -> &BTreeMap<String, Update> {
        &self.updates
    }

    /// One tensor of an update, in f32.
    pub(super) fn tensor(
        &self,
        update: &Update,
        piece: Piece,
        device: Device,
    ) -> Result<Option<Tensor>> {
        let Some(name) = update.tensors.get(&piece) else {
            return Ok(None);
        };
        let weights = self.checkpoint.weights(Target {
            kind: Kind::Float,
            device,
        });
        let shape = &self.checkpoint.entries()[name].shape;
        weights.take(name, shape).map(Some)
    }

    /// The scale of a layer's product of factors.
    pub(super) fn scale(&self, update: &Update, settings: LoraSettings) -> Result<Scale> {
        let layer = Layer {
            file: &self.path,
            written: &update.written,
            rank: self.rank(update)?,
            alpha: self.alpha(update)?,
            form: self.form,
        };
        self.declaration
            .scale(layer, settings.alpha, settings.scaling)
    }

    /// The scale that the rule of StoryMem gives, whatever the file says.
    pub(super) fn storymem_scale(&self, update: &Update, settings: LoraSettings) -> Result<f64> {
        let rank = self.rank(update)? as f64;
        Ok(settings.alpha.unwrap_or(rank) / rank.sqrt())
    }

    fn rank(&self, update: &Update) -> Result<i64> {
        let down = update.tensors.get(&Piece::Down);
        let shape = down.map(|name| self.checkpoint.entries()[name].shape.as_slice());
        let rank = shape.and_then(|shape| shape.first()).copied();
        rank.filter(|&rank| rank > 0).ok_or_else(|| {
            let reason = format!("the adapter of {} has no rank", update.written);
            ModelError::bad_file(&self.path, reason)
        })
    }

    fn alpha(&self, update: &Update) -> Result<Option<f64>> {
        let Some(tensor) = self.tensor(update, Piece::Alpha, Device::Cpu)? else {
            return Ok(None);
        };
        if tensor.numel() != 1 {
            let reason = format!("the alpha of {} is not one number", update.written);
            return Err(ModelError::bad_file(&self.path, reason));
        }
        Ok(Some(tensor.f_reshape([1])?.f_double_value(&[0])?))
    }
}

/// Both halves, or a difference, must be there for every layer.
fn check_halves(path: &Path, updates: &BTreeMap<String, Update>) -> Result<()> {
    let mut missing = Vec::new();
    for (layer, update) in updates {
        let has = |piece| update.tensors.contains_key(&piece);
        let (down, up) = (has(Piece::Down), has(Piece::Up));
        let is_product = down || up || has(Piece::Alpha);
        for (half, is_there) in [("lora_A", down), ("lora_B", up)] {
            if is_product && !is_there {
                missing.push(format!("{layer}.{half}.weight"));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(ModelError::Keys {
        path: path.to_owned(),
        missing,
        unexpected: Vec::new(),
    })
}

/// What to tell of names that are in no known form.
fn unknown_names(unknown: &[&str], form: Option<Form>) -> String {
    const SHOWN: usize = 20;
    let mut text = format!("{} tensors are not known: ", unknown.len());
    text.push_str(&unknown[..unknown.len().min(SHOWN)].join(", "));
    if unknown.len() > SHOWN {
        text.push_str(&format!(", and {} more", unknown.len() - SHOWN));
    }
    let kinds: BTreeSet<_> = unknown
        .iter()
        .filter_map(|name| names::other_kind(name))
        .collect();
    if !kinds.is_empty() {
        let kinds: Vec<_> = kinds.into_iter().collect();
        text.push_str(&format!(
            "; by their names they are {}, which is not applied here",
            kinds.join(" and ")
        ));
    }
    match form {
        Some(form) => text.push_str(&format!(
            "; the other tensors are in the form of {}",
            form.describe()
        )),
        None => {
            let forms = Form::ALL.map(Form::describe);
            text.push_str(&format!(
                "; adapters are read in the forms of {}",
                forms.join(", ")
            ));
        }
    }
    text
}
