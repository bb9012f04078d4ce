//! An adapter file, opened: the update of every layer, by names, shapes and small numbers only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::names::{self, Form, Halves, Layers, Network, Piece, Spelling};
use super::scale::{Declaration, Layer, Scale};
use super::{LoraCompat, LoraSettings};
use crate::checkpoint::{Checkpoint, Target};
use crate::error::{ModelError, Result};

/// An adapter file.
#[derive(Debug)]
pub(super) struct Adapter {
    path: PathBuf,
    checkpoint: Checkpoint,
    declaration: Declaration,
    form: Form,
    network: Option<Network>,
    updates: BTreeMap<String, Update>,
}

/// The tensors of one update.
#[derive(Debug)]
pub(super) struct Update {
    /// The layers that it changes.
    pub(super) layers: Layers,
    /// The layer as the file calls it.
    written: String,
    form: Form,
    /// Whether diffusers leaves it aside.
    pub(super) is_left_by_diffusers: bool,
    /// Names in the file, by what they are.
    tensors: BTreeMap<Piece, String>,
}

impl Update {
    fn of(read: &Spelling) -> Self {
        Self {
            layers: read.layers.clone(),
            written: read.written.clone(),
            form: read.form,
            is_left_by_diffusers: read.is_left_by_diffusers(),
            tensors: BTreeMap::new(),
        }
    }

    /// Whether it has a product of two factors.
    pub(super) fn is_low_rank(&self) -> bool {
        self.tensors.contains_key(&Piece::Down)
    }

    /// The name of one of its tensors in the file.
    pub(super) fn a_name(&self) -> &str {
        self.tensors.values().next().map_or("", String::as_str)
    }

    /// Its layer, for messages: by its diffusers name, or as the file calls several that are joined.
    pub(super) fn title(&self) -> &str {
        match &self.layers {
            Layers::One(layer) | Layers::Swapped(layer) => layer,
            Layers::Stacked(_) => &self.written,
        }
    }

    /// Whether it has a tensor of this kind.
    pub(super) fn has(&self, piece: Piece) -> bool {
        self.tensors.contains_key(&piece)
    }
}

impl Adapter {
    /// Opens an adapter and understands all of its names.
    ///
    /// # Errors
    /// A name is in no form that is known, a half of an update is missing, or what is said about
    /// the adapter cannot be read.
    pub(super) fn open(path: &Path, settings: LoraSettings) -> Result<Self> {
        let checkpoint = Checkpoint::from_files(path, Value::Null, &[path.to_owned()])?;
        let names = Names::read(&checkpoint, settings)?;
        names.refuse_leftovers(path)?;
        let Some(form) = names.form else {
            return Err(ModelError::bad_file(
                path,
                "there is no adapter in this file",
            ));
        };
        check_halves(path, &names.updates)?;
        let metadata = checkpoint.metadata()?;
        let declaration = Declaration::read(path, &metadata, names.halves, form)?;
        Ok(Self {
            path: path.to_owned(),
            checkpoint,
            declaration,
            form,
            network: names.network,
            updates: names.updates,
        })
    }

    /// Who writes such files.
    pub(super) fn form(&self) -> Form {
        self.form
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

    /// The updates that are applied under these settings.
    pub(super) fn applied(&self, settings: LoraSettings) -> impl Iterator<Item = (&str, &Update)> {
        let is_applied = move |update: &Update| {
            settings.compat == LoraCompat::Whole || !update.is_left_by_diffusers
        };
        let all = self.updates.iter();
        all.filter(move |(_, update)| is_applied(update))
            .map(|(key, update)| (key.as_str(), update))
    }

    /// Whether the settings leave something of the file aside.
    pub(super) fn leaves_aside(&self, settings: LoraSettings) -> bool {
        self.applied(settings).count() < self.updates.len()
    }

    /// Says once that an adapter is applied otherwise than by diffusers, or on purpose as there.
    pub(super) fn tell_what_diffusers_leaves(&self, settings: LoraSettings) {
        let left = self
            .updates
            .values()
            .filter(|update| update.is_left_by_diffusers);
        let left: Vec<&str> = left.map(Update::title).collect();
        if left.is_empty() {
            return;
        }
        let what = match settings.compat {
            LoraCompat::Whole => {
                "are changed by the adapter as it says, alpha and all; diffusers leaves"
            }
            LoraCompat::Diffusers => "are left as they are, as diffusers leaves",
        };
        tracing::info!(
            file = %self.path.display(),
            "{} layers outside of the blocks {what} them: {}",
            left.len(),
            left.join(", ")
        );
    }

    /// The scale of a layer's product of factors.
    pub(super) fn scale(&self, update: &Update, settings: LoraSettings) -> Result<Scale> {
        let layer = Layer {
            file: &self.path,
            written: &update.written,
            rank: self.rank(update)?,
            alpha: self.alpha(update)?,
            form: self.form,
            network: self.network,
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

/// What the names of a file say.
#[derive(Default)]
struct Names {
    form: Option<Form>,
    halves: Option<Halves>,
    network: Option<Network>,
    updates: BTreeMap<String, Update>,
    /// Names that are in no form.
    unknown: Vec<String>,
    /// Names of adapters of another kind, with the kind.
    others: Vec<(String, &'static str)>,
}

impl Names {
    fn read(checkpoint: &Checkpoint, settings: LoraSettings) -> Result<Self> {
        let reads = checkpoint.entries().keys();
        let reads: Vec<_> = reads.map(|name| (name, names::read(name))).collect();
        let mut networks = reads.iter().filter_map(|(_, read)| read.as_ref()?.network);
        let mut names = Self {
            network: networks.next(),
            ..Self::default()
        };
        let mut ignored = 0;
        for (name, read) in reads {
            let kind = match &read {
                Some(read) => kind_of_difference(read, names.network),
                None => names::other_kind(name),
            };
            let is_ignored = settings.ignore_text && names::is_of_text_encoder(name);
            match (read, kind) {
                (Some(read), None) => names.add(checkpoint.folder(), name, &read)?,
                (None, None) => names.unknown.push(name.clone()),
                (_, Some(_)) if is_ignored || is_zero(checkpoint, name)? => ignored += 1,
                (_, Some(kind)) => names.others.push((name.clone(), kind)),
            }
        }
        if ignored > 0 {
            tracing::warn!(
                file = %checkpoint.folder().display(),
                "{ignored} tensors of the adapter are not applied: they are zero, or of a text encoder"
            );
        }
        Ok(names)
    }

    fn add(&mut self, path: &Path, name: &str, read: &Spelling) -> Result<()> {
        self.form = self.form.or(Some(read.form));
        self.halves = self.halves.or(read.halves);
        if let (Some(one), Some(other)) = (self.network, read.network)
            && one != other
        {
            let reason = format!("{name} is of a layer of {other:?}, others are of {one:?}");
            return Err(ModelError::bad_file(path, reason));
        }
        let twice = |other: &str| {
            let layer = read.layers.key();
            let reason = format!("{other} and {name} are both of the layer {layer}");
            ModelError::bad_file(path, reason)
        };
        let key = read.layers.key();
        if !self.updates.contains_key(&key)
            && let Some(other) = self.update_that_shares(&read.layers)
        {
            return Err(twice(other.a_name()));
        }
        let update = self.updates.entry(key);
        let update = update.or_insert_with(|| Update::of(read));
        if update.layers != read.layers {
            return Err(twice(update.a_name()));
        }
        match update.tensors.insert(read.piece, name.to_owned()) {
            None => Ok(()),
            Some(other) => Err(twice(&other)),
        }
    }

    /// An update of other layers that has one of these among them.
    fn update_that_shares(&self, layers: &Layers) -> Option<&Update> {
        // Only FLUX's layers are ever joined.
        let mut updates = self.updates.values();
        let shares = |update: &&Update| {
            let mut names = layers.names();
            names.any(|layer| update.layers.names().any(|other| other == layer))
        };
        match self.network {
            Some(Network::Flux) => updates.find(shares),
            _ => None,
        }
    }

    /// Every tensor of the file must have been understood.
    fn refuse_leftovers(&self, path: &Path) -> Result<()> {
        if self.unknown.is_empty() && self.others.is_empty() {
            return Ok(());
        }
        Err(ModelError::bad_file(path, self.describe_leftovers()))
    }

    /// What to tell of names that are in no known form.
    fn describe_leftovers(&self) -> String {
        const SHOWN: usize = 20;
        /// Names for which the one that was meant is looked for.
        const MENDED: usize = 3;
        let others = self.others.iter().map(|(name, _)| name.as_str());
        let all: Vec<&str> = self
            .unknown
            .iter()
            .map(String::as_str)
            .chain(others)
            .collect();
        let mut text = format!("{} tensors are not known: ", all.len());
        text.push_str(&all[..all.len().min(SHOWN)].join(", "));
        if all.len() > SHOWN {
            text.push_str(&format!(", and {} more", all.len() - SHOWN));
        }
        let kinds: BTreeSet<_> = self.others.iter().map(|(_, kind)| *kind).collect();
        if !kinds.is_empty() {
            let kinds: Vec<_> = kinds.into_iter().collect();
            text.push_str(&format!(
                "; by their names they are {}, which is not applied here",
                kinds.join(" and ")
            ));
        }
        for name in self.unknown.iter().take(MENDED) {
            if let Some(near) = names::nearest_name(name) {
                text.push_str(&format!("; did you mean {near} by {name}?"));
            }
        }
        match self.form {
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
}

/// Differences of FLUX are of no published adapter; nobody says what they are added to.
fn kind_of_difference(read: &Spelling, network: Option<Network>) -> Option<&'static str> {
    let is_difference = matches!(read.piece, Piece::WeightDifference | Piece::BiasDifference);
    (is_difference && network == Some(Network::Flux))
        .then_some("a full difference of a layer of FLUX")
}

/// Whether a tensor changes nothing.
fn is_zero(checkpoint: &Checkpoint, name: &str) -> Result<bool> {
    let weights = checkpoint.weights(Target::CPU_F32);
    let tensor = weights.take(name, &checkpoint.entries()[name].shape)?;
    Ok(tensor.f_count_nonzero(None)?.f_int64_value(&[])? == 0)
}

/// Both halves, or a difference, must be there for every layer; in one form also the alpha.
fn check_halves(path: &Path, updates: &BTreeMap<String, Update>) -> Result<()> {
    let mut missing = Vec::new();
    for update in updates.values() {
        let layer = update.title();
        let (down, up) = (update.has(Piece::Down), update.has(Piece::Up));
        let is_product = down || up || update.has(Piece::Alpha);
        for (half, is_there) in [("lora_A", down), ("lora_B", up)] {
            if is_product && !is_there {
                missing.push(format!("{layer}.{half}.weight"));
            }
        }
        if update.form == Form::KohyaDiffusers && is_product && !update.has(Piece::Alpha) {
            missing.push(format!("{layer}.alpha"));
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
