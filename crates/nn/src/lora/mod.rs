//! Low-rank adapters of the transformer, in the forms in which they are published.
//!
//! The names of their tensors are told in `names`, the scale is found out in `scale`
//! (specification `storymem`, section 4.7, for the files of StoryMem; `flux`, section 6.2, for those of
//! FLUX). An update of a layer that the original code has joined of several is cut: all of them share the
//! first factor, and each has its rows of the second one.

mod file;
mod names;
mod scale;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use self::file::{Adapter, Update};
use self::names::{Layers, Piece};
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
    /// Which layers are changed.
    pub compat: LoraCompat,
    /// Leave tensors of text encoders aside. They are refused otherwise, unless they are zero.
    pub ignore_text: bool,
}

impl LoraSettings {
    /// What the files say, beside the weights.
    pub const AS_FILES_SAY: Self = Self {
        alpha: None,
        scaling: LoraScaling::Files,
        merge: false,
        compat: LoraCompat::Whole,
        ignore_text: false,
    };
}

/// Which layers an adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraCompat {
    /// All that it names.
    #[default]
    Whole,
    /// Those that diffusers changes: of FLUX files in the names of the original code it leaves aside what is
    /// outside of the blocks. For comparisons.
    Diffusers,
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
    let adapter = Adapter::open(file, settings)?;
    let mut hasher = blake3::Hasher::new();
    let mut is_other = adapter.leaves_aside(settings);
    let products = adapter.applied(settings);
    for (layer, update) in products.filter(|(_, update)| update.is_low_rank()) {
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
    let adapter = Adapter::open(file, settings)?;
    let updates = adapter.applied(settings).map(|(_, update)| update);
    let mut products = updates.filter(|update| update.is_low_rank());
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
    let adapter = Adapter::open(file, settings)?;
    let (mut unknown, mut changed, mut left_aside) = (Vec::new(), 0, 0);
    let mut scales = Scales::default();
    for (_, update) in adapter.applied(settings) {
        let is_absent = |layer: &&str| model.layer_mut(layer).is_none();
        let absent: Vec<&str> = update.layers.names().filter(is_absent).collect();
        let count = update.layers.names().count();
        if absent.is_empty() {
            let given = Given {
                adapter: &adapter,
                file,
                update,
            };
            given.add_to(model, target.device, settings, &mut scales)?;
            changed += count;
        } else if absent.len() == count && absent.iter().all(|layer| model.leaves_aside(layer)) {
            left_aside += count;
        } else {
            unknown.extend(absent.into_iter().map(|layer| (layer, update.a_name())));
        }
    }
    if !unknown.is_empty() {
        return Err(ModelError::bad_file(file, unknown_layers(model, &unknown)));
    }
    if left_aside > 0 {
        tracing::warn!(
            file = %file.display(),
            "{left_aside} layers of the adapter change a branch that this model does not have; they \
             are left aside"
        );
    }
    adapter.tell_what_diffusers_leaves(settings);
    tracing::info!(
        file = %file.display(),
        "adapter applied to {changed} layers, in the form of {}; {scales}",
        adapter.form().describe()
    );
    Ok(changed)
}

/// What to tell of layers, each with a tensor of the file, that the model does not have.
fn unknown_layers(model: &mut dyn Adaptable, unknown: &[(&str, &str)]) -> String {
    const SHOWN: usize = 20;
    let shown = &unknown[..unknown.len().min(SHOWN)];
    let list: Vec<String> = shown
        .iter()
        .map(|(layer, tensor)| {
            let near = names::nearest_layer(layer, |layer| model.layer_mut(layer).is_some());
            let near = near.map_or(String::new(), |near| format!(", the nearest is {near}"));
            format!("{layer} ({tensor}{near})")
        })
        .collect();
    let more = match unknown.len() - shown.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!(
        "{} layers are not in this model: {}{more}",
        unknown.len(),
        list.join(", ")
    )
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

/// An update in its file.
struct Given<'a> {
    adapter: &'a Adapter,
    file: &'a Path,
    update: &'a Update,
}

impl Given<'_> {
    /// Adds the update to the layers of `model`, which has them.
    fn add_to(
        &self,
        model: &mut dyn Adaptable,
        device: Device,
        settings: LoraSettings,
        scales: &mut Scales,
    ) -> Result<()> {
        if self.update.is_low_rank() {
            let scale = self.adapter.scale(self.update, settings)?;
            self.add_product(model, device, scale.value, settings.merge)?;
            scales.add(scale);
        }
        let (Layers::One(layer), false) = (&self.update.layers, self.is_product_only()) else {
            return Ok(());
        };
        let Some(mut place) = model.layer_mut(layer) else {
            return Ok(());
        };
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

    fn is_product_only(&self) -> bool {
        let has = |piece| self.update.has(piece);
        !has(Piece::WeightDifference) && !has(Piece::BiasDifference)
    }

    /// Adds `scale * up down`. Several layers share `down` and have one run of the rows of `up` each.
    fn add_product(
        &self,
        model: &mut dyn Adaptable,
        device: Device,
        scale: f64,
        merge: bool,
    ) -> Result<()> {
        let (Some(down), Some(up)) = (
            self.tensor(Piece::Down, device)?,
            self.tensor(Piece::Up, device)?,
        ) else {
            return Ok(());
        };
        let sizes = self.sizes(model)?;
        let (rank, inputs) = self.check_sizes(&sizes, &down, &up)?;
        let down = down.f_view([rank, inputs])?;
        let mut up = up.f_view([-1, rank])?;
        if let Layers::Swapped(_) = self.update.layers {
            let [upper, lower] = halves(&up)?;
            up = Tensor::f_cat(&[lower, upper], 0)?;
        }
        let mut first = 0;
        for (layer, (outputs, _)) in self.update.layers.names().zip(sizes) {
            let Some(LayerMut::Linear(linear)) = model.layer_mut(layer) else {
                continue;
            };
            let update = LowRank {
                down: down.shallow_clone(),
                up: up.f_narrow(0, first, outputs)?,
                scale,
            };
            first += outputs;
            match merge {
                true => linear.merge_low_rank(update)?,
                false => linear.add_low_rank(update)?,
            }
        }
        Ok(())
    }

    /// Outputs and inputs of the layers.
    fn sizes(&self, model: &mut dyn Adaptable) -> Result<Vec<(i64, i64)>> {
        let layers = self.update.layers.names();
        let sizes = layers.map(|layer| match model.layer_mut(layer) {
            Some(LayerMut::Linear(linear)) => Ok(linear.size()),
            _ => {
                let reason = format!("{layer} is no product, but its adapter is of two factors");
                Err(ModelError::bad_file(self.file, reason))
            }
        });
        sizes.collect()
    }

    /// Rank and inputs of two factors that fit the layers.
    fn check_sizes(&self, sizes: &[(i64, i64)], down: &Tensor, up: &Tensor) -> Result<(i64, i64)> {
        let outputs: i64 = sizes.iter().map(|(outputs, _)| outputs).sum();
        let inputs = sizes.first().map_or(0, |(_, inputs)| *inputs);
        let rank = down.size().first().copied().unwrap_or(0);
        // Layers that are convolutions elsewhere have their kernel in the shape.
        let is_of = |tensor: &Tensor, rows: i64, columns: i64| {
            let size = tensor.size();
            let rest: i64 = size.iter().skip(1).product();
            size.len() >= 2 && size[0] == rows && rest == columns
        };
        let is_same = sizes.iter().all(|(_, other)| *other == inputs);
        let is_halved = !matches!(self.update.layers, Layers::Swapped(_)) || outputs % 2 == 0;
        let fits = rank > 0 && is_of(down, rank, inputs) && is_of(up, outputs, rank);
        if fits && is_same && is_halved {
            return Ok((rank, inputs));
        }
        let reason = format!(
            "{} is {outputs}x{inputs}, but its adapter is {:?} and {:?}",
            self.update.title(),
            down.size(),
            up.size()
        );
        Err(ModelError::bad_file(self.file, reason))
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
                self.update.title()
            );
            return Err(ModelError::bad_file(self.file, reason));
        }
        Ok(tensor.f_reshape(&wanted)?)
    }
}

/// The upper and the lower half of the rows.
fn halves(tensor: &Tensor) -> Result<[Tensor; 2]> {
    let half = tensor.size()[0] / 2;
    Ok([
        tensor.f_narrow(0, 0, half)?,
        tensor.f_narrow(0, half, half)?,
    ])
}
