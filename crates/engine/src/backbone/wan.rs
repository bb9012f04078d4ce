//! The transformers of Wan as backbones.

use storyloom_models::wan::{AppendedTokens, ForwardInputs, TextContext, WanTransformer};
use storyloom_nn::error::Result;
use tch::{Device, Tensor};

use super::{Backbone, Conditioning, Prepared, StepInput};

/// Rows of text, `[1, rows, text_dim]` in f32, zero after the prompt's end.
pub const TEXT: &str = "text";
/// Condition channels `[1, more, frames, height, width]` in f32, put behind those of the sample.
pub const CHANNELS: &str = "channels";
/// Temporal positions of the latent frames, `[frames]` in i64; 0, 1, 2, … without.
pub const POSITIONS: &str = "positions";

/// Tokens of an image, `[1, tokens, image_dim]` in f32, for transformers with an image branch (Wan 2.1).
pub const IMAGE: &str = "image";
/// Context tokens behind those of the sample, `[1, tokens, model]` in f32.
pub const CONTEXT: &str = "context";
/// Their positions in time, rows and columns, `[tokens, 3]` in f64.
pub const CONTEXT_POSITIONS: &str = "context_positions";
/// There, with any value, where context tokens are at timestep 0.
pub const CONTEXT_IS_CLEAN: &str = "context_is_clean";

/// What stays the same in all steps.
struct WanConditions {
    text: TextContext,
    context: Option<Context>,
    channels: Option<Tensor>,
    positions: Option<Vec<i64>>,
}

/// Context tokens and where they stand.
struct Context {
    tokens: Tensor,
    positions: Tensor,
    is_clean: bool,
}

impl Context {
    fn of(conditioning: &Conditioning) -> Result<Option<Self>> {
        let Some(tokens) = conditioning.get(CONTEXT) else {
            return Ok(None);
        };
        let positions = conditioning.require(CONTEXT_POSITIONS)?;
        Ok(Some(Self {
            tokens: tokens.shallow_clone(),
            positions: positions.f_to_device(Device::Cpu)?.f_unsqueeze(0)?,
            is_clean: conditioning.get(CONTEXT_IS_CLEAN).is_some(),
        }))
    }

    fn appended(&self) -> AppendedTokens<'_> {
        AppendedTokens {
            tokens: &self.tokens,
            positions: &self.positions,
            is_clean: self.is_clean,
        }
    }
}

impl Backbone for WanTransformer {
    fn prepare(&self, conditioning: &Conditioning) -> Result<Prepared> {
        let positions = conditioning.get(POSITIONS);
        let positions = positions.map(|tensor| -> Result<Vec<i64>> {
            Ok(Vec::try_from(&tensor.f_to_device(Device::Cpu)?)?)
        });
        Ok(Prepared::new(WanConditions {
            text: self.prepare_context(conditioning.require(TEXT)?, conditioning.get(IMAGE))?,
            context: Context::of(conditioning)?,
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
            appended: conditions.context.as_ref().map(Context::appended),
        };
        self.forward(&inputs, &conditions.text)
    }
}
