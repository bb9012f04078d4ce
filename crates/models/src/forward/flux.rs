//! Running a transformer of FLUX on given tensors.

use std::path::Path;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};

use super::{Inputs, Results};
use crate::flux::{FluxInputs, FluxPositions, FluxTransformer};

/// Inputs of the reference class for parts that are not supported, and what these are.
const OTHER_INPUTS: [(&str, &str); 6] = [
    ("controlnet_block_samples", "ControlNets"),
    ("controlnet_single_block_samples", "ControlNets"),
    ("controlnet_blocks_repeat", "ControlNets"),
    ("ip_adapter_image_embeds", "IP-adapters"),
    ("image_embeds", "FLUX.1 Redux"),
    ("joint_attention_kwargs", "switches of single attentions"),
];

/// `output` is the velocity of all tokens; inputs have the names of the reference class. Without `txt_ids` all rows
/// of text stand at the origin, as in the pipelines.
pub(super) fn transformer(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    for (name, what) in OTHER_INPUTS {
        if inputs.get(name)?.is_some() {
            let reason = format!("{name} is for {what}, which are not supported");
            return Err(ModelError::bad_file(inputs.path, reason));
        }
    }
    inputs.expect(&[
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "guidance",
        "img_ids",
        "txt_ids",
    ])?;
    let hidden_states = inputs.require("hidden_states")?;
    let text = inputs.require("encoder_hidden_states")?;
    let pooled = inputs.require("pooled_projections")?;
    let timestep = inputs.require("timestep")?;
    let guidance = inputs.get("guidance")?;
    let image = FluxPositions::of_tensor("img_ids", &inputs.require("img_ids")?)?;
    let rows = match inputs.get("txt_ids")? {
        Some(ids) => FluxPositions::of_tensor("txt_ids", &ids)?,
        None => FluxPositions::text(text.size().get(1).copied().unwrap_or(0)),
    };
    let model = FluxTransformer::open(folder, target)?;
    let output = model.forward(&FluxInputs {
        hidden_states: &hidden_states,
        encoder_hidden_states: &text,
        pooled_projections: &pooled,
        timestep: &timestep,
        guidance: guidance.as_ref(),
        image_positions: &image,
        text_positions: &rows,
    })?;
    Ok(vec![("output", output)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storyloom_nn::tensor_file::{read_tensors, write_tensors};
    use storyloom_nn::testing::vectors::{
        assert_vector, flux_vector, wave, write_vector_checkpoint,
    };
    use tch::Tensor;

    use super::super::forward_file;
    use super::*;
    use crate::flux::FluxConfig;

    const CPU: Target = Target::CPU_F32;

    /// The class in `config.json` says which transformer of a pipeline is run.
    #[test]
    fn a_transformer_of_flux_is_run_by_its_class() {
        let case = flux_vector("modules/cases/flux_dev_like");
        let mut config = case["config"].clone();
        config["_class_name"] = json!(FluxConfig::CLASS);
        let parsed: FluxConfig = serde_json::from_value(config.clone()).unwrap();
        let pipeline = tempfile::tempdir().unwrap();
        write_vector_checkpoint(&pipeline.path().join("transformer"), &config, |weights| {
            FluxTransformer::load(weights, parsed.clone()).map(drop)
        });
        let ids = FluxPositions::grid(0.0, [3, 4]);
        let tensors = [
            ("hidden_states", wave(0.3, 1.0, &[2, 12, 16])),
            ("encoder_hidden_states", wave(0.2, 0.5, &[2, 5, 24])),
            ("pooled_projections", wave(0.4, 0.2, &[2, 12])),
            ("timestep", Tensor::from_slice(&[0.9387_f32, 0.25])),
            ("guidance", Tensor::from_slice(&[3.5_f32, 1.0])),
            (
                "img_ids",
                Tensor::from_slice(ids.places().as_flattened()).view([12, 3]),
            ),
        ];
        let views: Vec<(&str, &Tensor)> = tensors
            .iter()
            .map(|(name, tensor)| (*name, tensor))
            .collect();
        let [input, output] = ["input", "output"].map(|name| pipeline.path().join(name));
        write_tensors(&input, &views).unwrap();
        forward_file(pipeline.path(), "transformer", CPU, &input, &output).unwrap();
        let found = &read_tensors(&output).unwrap()["output"];
        assert_vector("output", found, &case["output"], 1e-5);

        let embeds = wave(0.1, 0.0, &[1, 4]);
        let more = [views.as_slice(), &[("ip_adapter_image_embeds", &embeds)]].concat();
        write_tensors(&input, &more).unwrap();
        let error = forward_file(pipeline.path(), "transformer", CPU, &input, &output);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("IP-adapters"), "{error}");
    }
}
