//! The transformers of Wan as backbones.

use storyloom_models::wan::{ForwardInputs, TextContext, WanTransformer};
use storyloom_nn::error::Result;
use tch::{Device, Tensor};

use super::{Backbone, Conditioning, Prepared, StepInput};

/// Rows of text, `[1, rows, text_dim]` in f32, zero after the prompt's end.
pub const TEXT: &str = "text";
/// Condition channels `[1, more, frames, height, width]` in f32, put behind those of the sample.
pub const CHANNELS: &str = "channels";
/// Temporal positions of the latent frames, `[frames]` in i64; 0, 1, 2, … without.
pub const POSITIONS: &str = "positions";

/// What stays the same in all steps.
struct WanConditions {
    text: TextContext,
    channels: Option<Tensor>,
    positions: Option<Vec<i64>>,
}

impl Backbone for WanTransformer {
    fn prepare(&self, conditioning: &Conditioning) -> Result<Prepared> {
        let positions = conditioning.get(POSITIONS);
        let positions = positions.map(|tensor| -> Result<Vec<i64>> {
            Ok(Vec::try_from(&tensor.f_to_device(Device::Cpu)?)?)
        });
        Ok(Prepared::new(WanConditions {
            text: self.prepare_context(conditioning.require(TEXT)?, None)?,
            channels: conditioning.get(CHANNELS).map(Tensor::shallow_clone),
            positions: positions.transpose()?,
        }))
    }

    fn predict(&self, input: &StepInput, prepared: &Prepared) -> Result<Tensor> {
        let conditions: &WanConditions = prepared.get()?;
        let hidden_states = match &conditions.channels {
            Some(channels) => Tensor::f_cat(&[input.sample, channels], 1)?,
            None => input.sample.shallow_clone(),
        };
        let inputs = ForwardInputs {
            hidden_states: &hidden_states,
            timestep: &Tensor::f_from_slice(&[input.step.timestep])?,
            temporal_positions: conditions.positions.as_deref(),
        };
        self.forward(&inputs, &conditions.text)
    }
}
