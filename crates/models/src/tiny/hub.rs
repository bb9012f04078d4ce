//! Files of a set of checkpoints in the layout of the hub.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use storyloom_nn::error::{ModelError, Result};

/// The version of diffusers whose layout is written.
pub const DIFFUSERS: &str = "0.42.1";

/// Weight file of a diffusers component.
pub const DIFFUSION: &str = "diffusion_pytorch_model.safetensors";
/// Weight file of a transformers component.
pub const TRANSFORMERS: &str = "model.safetensors";

/// What distinguishes pipelines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PipelineFiles {
    /// Whether it takes pictures besides text.
    pub takes_pictures: bool,
    /// Noise level from which the first of two experts works; `None`: there is one.
    pub boundary: Option<f64>,
    /// Flow shift of the sampler.
    pub flow_shift: f64,
}

impl PipelineFiles {
    /// Writes `model_index.json` and the sampler's config into the folder `root`.
    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join("model_index.json"), &self.model_index())?;
        let scheduler = root.join("scheduler/scheduler_config.json");
        write_json(&scheduler, &self.scheduler())
    }

    fn model_index(&self) -> Value {
        let transformer = json!(["diffusers", "WanTransformer3DModel"]);
        let second = match self.boundary {
            Some(_) => transformer.clone(),
            None => json!([null, null]),
        };
        let class = match self.takes_pictures {
            true => "WanImageToVideoPipeline",
            false => "WanPipeline",
        };
        let mut index = json!({
            "_class_name": class,
            "_diffusers_version": DIFFUSERS,
            "boundary_ratio": self.boundary,
            "expand_timesteps": false,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "transformer": transformer,
            "transformer_2": second,
            "vae": ["diffusers", "AutoencoderKLWan"],
        });
        if self.takes_pictures {
            index["image_encoder"] = json!([null, null]);
            index["image_processor"] = json!([null, null]);
        }
        index
    }

    fn scheduler(&self) -> Value {
        json!({
            "_class_name": "UniPCMultistepScheduler",
            "_diffusers_version": DIFFUSERS,
            "final_sigmas_type": "zero",
            "flow_shift": self.flow_shift,
            "lower_order_final": true,
            "num_train_timesteps": 1000,
            "predict_x0": true,
            "prediction_type": "flow_prediction",
            "solver_order": 2,
            "solver_type": "bh2",
            "use_flow_sigmas": true,
        })
    }
}
/// Writes a JSON file, and the folder it is in.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    create_dir(&parent(path))?;
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|error| ModelError::io(path, error))
}

/// Gives `to` the files of `from`: links where possible, else copies.
pub fn link_files(from: &Path, to: &Path) -> Result<()> {
    create_dir(to)?;
    let entries = std::fs::read_dir(from).map_err(|error| ModelError::io(from, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| ModelError::io(from, error))?;
        let target = to.join(entry.file_name());
        if std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), &target).map_err(|error| ModelError::io(&target, error))?;
        }
    }
    Ok(())
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).to_owned()
}

pub(super) fn create_dir(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))
}
