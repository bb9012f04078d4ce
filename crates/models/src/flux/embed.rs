//! What conditions a forward: time, guidance and pooled text (specification `flux`, 1.3).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{LayerMut, Linear, timestep_sinusoid_f32};
use tch::{Device, Kind, Tensor};

use super::FluxConfig;

/// Two layers with SiLU between them.
#[derive(Debug)]
struct TwoLayers {
    first: Linear,
    second: Linear,
}

impl TwoLayers {
    fn load(weights: &Weights, inputs: i64, width: i64) -> Result<Self> {
        Ok(Self {
            first: Linear::load(&weights.sub("linear_1"), inputs, width)?,
            second: Linear::load(&weights.sub("linear_2"), width, width)?,
        })
    }

    /// `[rows, inputs]` to `[rows, width]`, f32.
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward(input)?.f_silu()?)
    }

    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(LayerMut::Linear(match name {
            "linear_1" => &mut self.first,
            "linear_2" => &mut self.second,
            _ => return None,
        }))
    }
}

/// The vector that every modulation is made of (diffusers `CombinedTimestepGuidanceTextProjEmbeddings`), all in
/// f32.
#[derive(Debug)]
pub(super) struct ConditionEmbed {
    time: TwoLayers,
    guidance: Option<TwoLayers>,
    pooled: TwoLayers,
    /// Whether values are rounded as a bf16 run of the reference rounds them.
    pub(super) rounds: bool,
}

impl ConditionEmbed {
    pub(super) fn load(weights: &Weights, config: &FluxConfig) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        let layers =
            |name: &str, inputs| TwoLayers::load(&weights.sub(name), inputs, config.width());
        let guidance = config
            .guidance_embeds
            .then(|| layers("guidance_embedder", FluxConfig::SINUSOID));
        Ok(Self {
            time: layers("timestep_embedder", FluxConfig::SINUSOID)?,
            guidance: guidance.transpose()?,
            pooled: layers("text_embedder", config.pooled_projection_dim)?,
            rounds: false,
        })
    }

    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        let (part, inside) = name.split_once('.')?;
        match part {
            "timestep_embedder" => self.time.layer_mut(inside),
            "guidance_embedder" => self.guidance.as_mut()?.layer_mut(inside),
            "text_embedder" => self.pooled.layer_mut(inside),
            _ => None,
        }
    }

    /// What `sigmas`, noise levels in [0, 1], add: `[sigmas, width]` f32. Whole on every rank; no collective.
    pub(super) fn of_time(&self, sigmas: &[f32], device: Device) -> Result<Tensor> {
        self.time.forward(&self.sinusoid(sigmas, device)?)
    }

    /// What guidance scales and pooled text `[batch, pooled]` add: `[batch, width]` f32. Scales that the model does
    /// not know are left aside. Whole on every rank; no collective.
    pub(super) fn of_prompt(&self, guidance: Option<&[f32]>, pooled: &Tensor) -> Result<Tensor> {
        let of_text = self.pooled.forward(&pooled.f_to_kind(Kind::Float)?)?;
        match (&self.guidance, guidance) {
            (Some(layers), Some(scales)) => {
                let of_guidance = layers.forward(&self.sinusoid(scales, pooled.device())?)?;
                Ok(of_guidance.f_add(&of_text)?)
            }
            _ => Ok(of_text),
        }
    }

    /// The sinusoid of a thousand times each value: of guidance scales too.
    fn sinusoid(&self, values: &[f32], device: Device) -> Result<Tensor> {
        let thousandfold = thousandfold(values, self.rounds)?;
        timestep_sinusoid_f32(&thousandfold, FluxConfig::SINUSOID, device)
    }
}

/// A thousand times each value; with `rounds`, value and product rounded to bf16.
fn thousandfold(values: &[f32], rounds: bool) -> Result<Vec<f32>> {
    if !rounds {
        return Ok(values.iter().map(|value| value * 1000.0).collect());
    }
    let rounded = Tensor::f_from_slice(values)?.f_to_kind(Kind::BFloat16)?;
    let product = rounded.f_mul_scalar(1000.0)?.f_to_kind(Kind::Float)?;
    Ok(Vec::try_from(&product)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::vectors::flux_vector;

    /// Specification `flux`, 1.3: what a bf16 run of the reference makes of guidance and time.
    #[test]
    fn values_are_rounded_only_to_compare() {
        let vector = flux_vector("guidance_rounding");
        for (name, unit) in [("guidance", 1.0), ("timestep", 1000.0)] {
            for (value, expected) in vector[name].as_object().unwrap() {
                let value = (value.parse::<f64>().unwrap() / unit) as f32;
                let found = thousandfold(&[value], true).unwrap();
                assert_eq!(f64::from(found[0]), expected.as_f64().unwrap(), "{value}");
                assert_eq!(thousandfold(&[value], false).unwrap(), [value * 1000.0]);
            }
        }
        assert_eq!(thousandfold(&[3.5], false).unwrap(), [3500.0]);
    }
}
