//! Low-rank adapters of the transformer, in the forms in which they are published.
//!
//! The names of their tensors are told in `names`, the scale is found out in `scale`
//! (specification `storymem`, section 4.7, for the files of StoryMem).

mod file;
mod names;
mod scale;

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use self::file::{Adapter, Update};
use self::names::Piece;
pub use self::scale::LoraScaling;
use crate::checkpoint::Target;
use crate::error::{ModelError, Result};
use crate::layers::{Adaptable, LayerMut, LowRank};

/// How an adapter is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSettings {
    /// The numerator of the scale where the files do not say it; `None` takes the rank.
    pub alpha: Option<f64>,
    /// Which scale is wanted.
    pub scaling: LoraScaling,
    /// Add the update into the weights, or apply it beside them at every step.
    pub merge: bool,
}

/// What an adapter file is, for recipes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterIdentity {
    /// The file, whose digest tells the tensors.
    pub file: PathBuf,
    /// The scales, where they are other than StoryMem's rule makes them: what decides them is not
    /// all in the tensors.
    pub scales: Option<String>,
}

/// File and scales of the adapter in `file`.
///
/// # Errors
/// The file is no adapter that can be applied.
pub fn adapter_identity(file: &Path, settings: LoraSettings) -> Result<AdapterIdentity> {
    let adapter = Adapter::open(file)?;
    let mut hasher = blake3::Hasher::new();
    let mut is_other = false;
    let products = adapter
        .updates()
        .iter()
        .filter(|(_, update)| update.is_low_rank());
    for (layer, update) in products {
        let scale = adapter.scale(update, settings)?.value;
        is_other |= scale != adapter.storymem_scale(update, settings)?;
        hasher.update(format!("{layer}={scale:?}\n").as_bytes());
    }
    Ok(AdapterIdentity {
        file: file.to_owned(),
        scales: is_other.then(|| hasher.finalize().to_hex().to_string()),
    })
}

/// Fails if the adapter in `file` cannot be read or if nobody knows how strong it is to be.
///
/// # Errors
/// What [`apply_lora`] would say of the file alone.
pub fn check_adapter(file: &Path, settings: LoraSettings) -> Result<()> {
    let adapter = Adapter::open(file)?;
    let mut products = adapter
        .updates()
        .values()
        .filter(|update| update.is_low_rank());
    products.try_for_each(|update| adapter.scale(update, settings).map(drop))
}

/// Applies the adapter in `file` to `model` and returns the number of layers it changed.
///
/// Every tensor of the file must be used and every layer it names must have both halves; anything
/// else is an error that lists the names. StoryMem's adapters count as 400 layers on the real
/// model. The log says what the scale is and who said so.
///
/// # Errors
/// The file is no adapter of this model.
pub fn apply_lora(
    model: &mut dyn Adaptable,
    file: &Path,
    target: Target,
    settings: LoraSettings,
) -> Result<usize> {
    let adapter = Adapter::open(file)?;
    let mut unknown = Vec::new();
    let mut left_aside = 0;
    let mut scales = Scales::default();
    for (layer, update) in adapter.updates() {
        let Some(place) = model.layer_mut(layer) else {
            match model.leaves_aside(layer) {
                true => left_aside += 1,
                false => unknown.push(layer.clone()),
            }
            continue;
        };
        let update = Given {
            adapter: &adapter,
            file,
            layer,
            update,
        };
        update.add_to(place, target.device, settings, &mut scales)?;
    }
    if !unknown.is_empty() {
        return Err(ModelError::Keys {
            path: file.to_owned(),
            missing: Vec::new(),
            unexpected: unknown,
        });
    }
    if left_aside > 0 {
        tracing::warn!(
            file = %file.display(),
            "{left_aside} layers of the adapter change a branch that this model does not have; they \
             are left aside"
        );
    }
    let count = adapter.updates().len() - left_aside;
    tracing::info!(
        file = %file.display(),
        "adapter applied to {count} layers, in the form of {}; {scales}",
        adapter.form().describe()
    );
    Ok(count)
}

/// The scales of the layers so far, for the log.
#[derive(Debug, Default)]
struct Scales {
    least: Option<scale::Scale>,
    most: Option<scale::Scale>,
}

impl Scales {
    fn add(&mut self, scale: scale::Scale) {
        if self
            .least
            .as_ref()
            .is_none_or(|least| scale.value < least.value)
        {
            self.least = Some(scale.clone());
        }
        if self
            .most
            .as_ref()
            .is_none_or(|most| scale.value > most.value)
        {
            self.most = Some(scale);
        }
    }
}

impl std::fmt::Display for Scales {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match (&self.least, &self.most) {
            (Some(least), Some(most)) if least.value == most.value => {
                write!(f, "scale {} = {}", least.value, least.reason)
            }
            (Some(least), Some(most)) => write!(
                f,
                "scales from {} = {} to {} = {}",
                least.value, least.reason, most.value, most.reason
            ),
            _ => write!(f, "differences only, without a scale"),
        }
    }
}

/// The update of one layer in its file.
struct Given<'a> {
    adapter: &'a Adapter,
    file: &'a Path,
    layer: &'a str,
    update: &'a Update,
}

impl Given<'_> {
    fn add_to(
        &self,
        mut place: LayerMut,
        device: Device,
        settings: LoraSettings,
        scales: &mut Scales,
    ) -> Result<()> {
        if self.update.is_low_rank() {
            let scale = self.adapter.scale(self.update, settings)?;
            self.add_product(&mut place, device, scale.value, settings.merge)?;
            scales.add(scale);
        }
        if let Some(difference) = self.tensor(Piece::WeightDifference, device)? {
            let wanted = place.weight_size();
            place.add_to_weight(&self.shaped(difference, "difference", wanted)?)?;
        }
        if let Some(difference) = self.tensor(Piece::BiasDifference, device)? {
            let wanted = place.bias_size().unwrap_or_default();
            place.add_to_bias(&self.shaped(difference, "difference of the bias", wanted)?)?;
        }
        Ok(())
    }

    fn add_product(
        &self,
        place: &mut LayerMut,
        device: Device,
        scale: f64,
        merge: bool,
    ) -> Result<()> {
        let LayerMut::Linear(linear) = place else {
            let reason = format!(
                "{} is no product, but its adapter is of two factors",
                self.layer
            );
            return Err(ModelError::bad_file(self.file, reason));
        };
        let (Some(down), Some(up)) = (
            self.tensor(Piece::Down, device)?,
            self.tensor(Piece::Up, device)?,
        ) else {
            return Ok(());
        };
        let (outputs, inputs) = linear.size();
        let rank = down.size().first().copied().unwrap_or(0);
        // Layers that are convolutions elsewhere have their kernel in the shape.
        let is_of = |tensor: &Tensor, rows: i64, columns: i64| {
            let size = tensor.size();
            let rest: i64 = size.iter().skip(1).product();
            size.len() >= 2 && size[0] == rows && rest == columns
        };
        if rank == 0 || !is_of(&down, rank, inputs) || !is_of(&up, outputs, rank) {
            let reason = format!(
                "{} is {outputs}x{inputs}, but its adapter is {:?} and {:?}",
                self.layer,
                down.size(),
                up.size()
            );
            return Err(ModelError::bad_file(self.file, reason));
        }
        let update = LowRank {
            down: down.f_view([rank, inputs])?,
            up: up.f_view([outputs, rank])?,
            scale,
        };
        match merge {
            true => linear.merge_low_rank(update),
            false => linear.add_low_rank(update),
        }
    }

    fn tensor(&self, piece: Piece, device: Device) -> Result<Option<Tensor>> {
        self.adapter.tensor(self.update, piece, device)
    }

    /// The tensor in the shape of what it is added to.
    fn shaped(&self, tensor: Tensor, what: &str, wanted: Vec<i64>) -> Result<Tensor> {
        let elements: i64 = wanted.iter().product();
        if wanted.is_empty() || tensor.numel() as i64 != elements {
            let found = tensor.size();
            let reason = format!(
                "the {what} of {} is {found:?}, {wanted:?} is needed",
                self.layer
            );
            return Err(ModelError::bad_file(self.file, reason));
        }
        Ok(tensor.f_reshape(&wanted)?)
    }
}
