//! Low-rank adapters of the transformer, in the forms in which they are published.
//!
//! The names of their tensors are told in `names`, the scale is found out in `scale`
//! (specification `storymem`, section 4.7, for the files of StoryMem), and the files in `place`.

mod file;
mod names;
mod place;
mod scale;

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use self::file::{Adapter, Update};
use self::names::Piece;
pub use self::place::{AdaptedExpert, adapter_file};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::{read_tensors, write_tensors};
    use crate::testing::{golden, golden_tensors, relative_error};
    use crate::wan::{ForwardInputs, WanTransformer};

    const SETTINGS: LoraSettings = LoraSettings {
        alpha: None,
        scaling: LoraScaling::Files,
        merge: false,
    };

    fn model() -> WanTransformer {
        WanTransformer::open(&golden("lora/transformer"), Target::CPU_F32).unwrap()
    }

    fn forward(model: &WanTransformer) -> Tensor {
        let io = golden_tensors("lora", "io.safetensors");
        let context = model
            .prepare_context(&io["encoder_hidden_states"], None)
            .unwrap();
        let inputs = ForwardInputs {
            hidden_states: &io["hidden_states"],
            timestep: &io["timestep"],
            temporal_positions: None,
        };
        model.forward(&inputs, &context).unwrap()
    }

    #[test]
    fn equals_peft_merged_and_beside() {
        let io = golden_tensors("lora", "io.safetensors");
        assert!(relative_error(&forward(&model()), &io["output_without_lora"]) < 2e-5);
        assert!(relative_error(&io["output"], &io["output_without_lora"]) > 1e-2);
        for merge in [true, false] {
            let mut model = model();
            let settings = LoraSettings { merge, ..SETTINGS };
            let file = golden("lora/lora.safetensors");
            let count = apply_lora(&mut model, &file, Target::CPU_F32, settings).unwrap();
            assert_eq!(count, 20);
            let error = relative_error(&forward(&model), &io["output"]);
            assert!(error < 2e-5, "merge {merge}: {error}");
        }
    }

    /// Specification, section 4.7: rank 128, alpha 128.
    #[test]
    fn the_scale_is_rank_stabilised() {
        let rank = 128.0_f64;
        assert!((rank / rank.sqrt() - 11.313_708_5).abs() < 1e-6);
    }

    /// The adapter of the golden case under the names of another form, its values kept.
    fn write_as(path: &Path, prefix: &str, words: [&str; 2], separator: &str, alpha: Option<f32>) {
        let good = read_tensors(&golden("lora/lora.safetensors")).unwrap();
        let mut renamed = Vec::new();
        for (name, tensor) in good {
            let stem = name.strip_prefix("base_model.model.").unwrap();
            let (layer, half) = match stem.strip_suffix(".lora_A.weight") {
                Some(layer) => (layer, words[0]),
                None => (stem.strip_suffix(".lora_B.weight").unwrap(), words[1]),
            };
            let layer = layer.replace('.', separator);
            if let Some(alpha) = alpha.filter(|_| half == words[0]) {
                let alpha = Tensor::from(alpha).to_kind(tch::Kind::Float);
                renamed.push((format!("{prefix}{layer}.alpha"), alpha));
            }
            renamed.push((format!("{prefix}{layer}.{half}.weight"), tensor));
        }
        let views: Vec<_> = renamed
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        write_tensors(path, &views).unwrap();
    }

    /// The golden adapter has rank 4 and scale 2: alpha 8 in plain forms.
    #[test]
    fn every_form_gives_the_same_film() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        let io = golden_tensors("lora", "io.safetensors");
        let letters = ["lora_A", "lora_B"];
        let named = ["lora_A.default", "lora_B.default"];
        let words = ["lora_down", "lora_up"];
        for (prefix, halves, separator) in [
            ("lora_unet_", words, "_"),
            ("diffusion_model.", words, "."),
            ("diffusion_model.", letters, "."),
            ("transformer.", letters, "."),
            ("base_model.model.", letters, "."),
            ("pipe.dit.", named, "."),
            ("", letters, "."),
        ] {
            write_as(&path, prefix, halves, separator, Some(8.0));
            let mut model = model();
            assert_eq!(
                apply_lora(&mut model, &path, Target::CPU_F32, SETTINGS).unwrap(),
                20
            );
            let error = relative_error(&forward(&model), &io["output"]);
            assert!(error < 2e-5, "{prefix}: {error}");
            // The same alpha by the setting, where the file does not say it.
            write_as(&path, prefix, halves, separator, None);
            let settings = LoraSettings {
                alpha: Some(8.0),
                scaling: LoraScaling::Plain,
                ..SETTINGS
            };
            let mut model = self::tests::model();
            apply_lora(&mut model, &path, Target::CPU_F32, settings).unwrap();
            let error = relative_error(&forward(&model), &io["output"]);
            assert!(error < 2e-5, "{prefix} by the setting: {error}");
        }
    }

    /// Only scales that are not StoryMem's are told apart from what the tensors say already.
    #[test]
    fn identities_are_those_of_earlier_builds_for_the_files_of_storymem() {
        let file = golden("lora/lora.safetensors");
        let identity = adapter_identity(&file, SETTINGS).unwrap();
        assert_eq!(identity.file, file);
        assert_eq!(identity.scales, None);
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("lora.safetensors");
        std::fs::copy(&file, &copy).unwrap();
        let config = folder.path().join("adapter_config.json");
        std::fs::write(&config, r#"{"r": 4, "lora_alpha": 4, "use_rslora": true}"#).unwrap();
        assert_eq!(adapter_identity(&copy, SETTINGS).unwrap().scales, None);
        std::fs::write(&config, r#"{"r": 4, "lora_alpha": 4}"#).unwrap();
        assert!(adapter_identity(&copy, SETTINGS).unwrap().scales.is_some());
    }

    /// Differences are added as they are: to weights, biases, norms and the modulation.
    #[test]
    fn differences_are_added_to_what_they_name() {
        let plain = forward(&model());
        for (tensor, difference) in [
            ("blocks.0.attn1.to_q.weight", "blocks.0.self_attn.q.diff"),
            ("blocks.0.attn1.to_v.bias", "blocks.0.self_attn.v.diff_b"),
            (
                "blocks.0.attn1.norm_k.weight",
                "blocks.0.self_attn.norm_k.diff",
            ),
            ("blocks.0.norm2.weight", "blocks.0.norm3.diff"),
            ("blocks.0.norm2.bias", "blocks.0.norm3.diff_b"),
            ("blocks.1.scale_shift_table", "blocks.1.diff_m"),
            ("scale_shift_table", "head.diff_m"),
            ("patch_embedding.weight", "patch_embedding.diff"),
            ("proj_out.bias", "head.head.diff_b"),
            (
                "condition_embedder.time_proj.weight",
                "time_projection.1.diff",
            ),
        ] {
            let (found, wanted) = with_difference(tensor, difference);
            let error = relative_error(&found, &wanted);
            assert!(error < 1e-6, "{tensor}: {error}");
            assert!(relative_error(&found, &plain) > 1e-5, "{tensor}");
        }
    }

    /// Outputs of a model that an adapter of one difference was applied to, and of one whose file
    /// has the sum.
    fn with_difference(tensor: &str, difference: &str) -> (Tensor, Tensor) {
        let folder = tempfile::tempdir().unwrap();
        let changed = folder.path().join("transformer");
        std::fs::create_dir(&changed).unwrap();
        let source = golden("lora/transformer");
        std::fs::copy(source.join("config.json"), changed.join("config.json")).unwrap();
        let name = "diffusion_pytorch_model.safetensors";
        let mut tensors = read_tensors(&source.join(name)).unwrap();
        let whole = tensors[tensor].to_kind(tch::Kind::Float);
        let change = whole.randn_like() * 0.1;
        let sum = whole + &change;
        tensors.insert(tensor.to_owned(), sum);
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        write_tensors(&changed.join(name), &views).unwrap();
        let file = folder.path().join("lora.safetensors");
        let spelled = format!("diffusion_model.{difference}");
        write_tensors(&file, &[(spelled.as_str(), &change)]).unwrap();
        let mut model = model();
        assert_eq!(
            apply_lora(&mut model, &file, Target::CPU_F32, SETTINGS).unwrap(),
            1
        );
        let wanted = WanTransformer::open(&changed, Target::CPU_F32).unwrap();
        (forward(&model), forward(&wanted))
    }

    /// Specification, section 10 item 23: a wrong name must fail.
    #[test]
    fn wrong_names_are_errors_that_list_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        let good = read_tensors(&golden("lora/lora.safetensors")).unwrap();
        let attempt = |rename: &dyn Fn(&str) -> Option<String>| {
            let renamed: Vec<(String, &Tensor)> = good
                .iter()
                .filter_map(|(name, tensor)| Some((rename(name)?, tensor)))
                .collect();
            let views: Vec<(&str, &Tensor)> = renamed
                .iter()
                .map(|(name, tensor)| (name.as_str(), *tensor))
                .collect();
            write_tensors(&path, &views).unwrap();
            apply_lora(&mut model(), &path, Target::CPU_F32, SETTINGS).map_err(|e| e.to_string())
        };
        assert_eq!(attempt(&|name| Some(name.to_owned())), Ok(20));
        let error = attempt(&|name| Some(name.replace("base_model.", "base."))).unwrap_err();
        assert!(error.contains("not known: base.model.blocks.0."), "{error}");
        assert!(error.contains("read in the forms of peft"), "{error}");
        let error = attempt(&|name| Some(name.replace("blocks.1.", "blocks.7."))).unwrap_err();
        assert!(error.contains("blocks.7.attn1.to_q"), "{error}");
        let half = |name: &str| (!name.contains("1.ffn.2.lora_B")).then(|| name.to_owned());
        let error = attempt(&half).unwrap_err();
        assert!(
            error.contains("blocks.1.ffn.net.2.lora_B.weight"),
            "{error}"
        );
        let error = attempt(&|_| None).unwrap_err();
        assert!(error.contains("no adapter"), "{error}");
    }
}
