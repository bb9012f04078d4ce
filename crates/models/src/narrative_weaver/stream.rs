//! What a picture sees, in the image stream of FLUX.

use storyloom_nn::error::Result;
use tch::Device;

use super::{Context, TypeEmbeddings};
use crate::flux::{FluxCondition, FluxPositions};

/// The condition image and the earlier pictures of `context` as tokens behind those of the picture that is made, with
/// the rows of their kinds, on `device`; `None` if there is nothing to see. Without `types` nothing is added.
///
/// # Errors
/// A picture is older than the model knows, or libtorch refuses.
pub fn flux_condition(
    context: &Context,
    types: Option<&TypeEmbeddings>,
    device: Device,
) -> Result<Option<FluxCondition>> {
    let Some(tokens) = &context.tokens else {
        return Ok(None);
    };
    let added = types.map(|types| types.rows(&context.kinds)).transpose()?;
    Ok(Some(FluxCondition {
        tokens: tokens.f_unsqueeze(0)?.f_to_device(device)?,
        positions: FluxPositions::new(context.ids.clone()),
        added: added.map(|rows| rows.f_to_device(device)).transpose()?,
    }))
}

#[cfg(test)]
mod tests {
    use storyloom_nn::checkpoint::Target;
    use storyloom_nn::testing::vectors::{assert_vector, flux_vector, wave};
    use storyloom_story::narrative_weaver::{BankSettings, Level};
    use tch::{Kind, Tensor};

    use super::super::{ContextConfig, ContextKind};
    use super::*;
    use crate::flux::vectors_test::{dev_config, model};
    use crate::flux::{FluxGuidance, FluxPicture, FluxSampler};
    use crate::sampler::FlowConfig;
    use crate::text::FluxText;

    /// A condition image and three pictures of 4 x 4, 2 x 2 and one token.
    fn context() -> Context {
        let memory = BankSettings {
            lambda: 4.0,
            frames: 3,
        };
        let levels = memory.levels([4, 4]).unwrap();
        let of_level = |level: &Level| {
            let kind = ContextKind::Memory { age: level.age };
            (kind, level.pooling.tokens() as usize)
        };
        let memory = levels.all().iter().map(of_level);
        let all = wave(0.3, 1.0, &[53, 16]);
        Context {
            tokens: Some(all.narrow(0, 16, 37)),
            ids: levels.stream_ids(4, true)[16..].to_vec(),
            kinds: [(ContextKind::Condition, 16)]
                .into_iter()
                .chain(memory)
                .collect(),
        }
    }

    /// The velocity of the sixteen tokens of a picture that sees `context`.
    fn velocity(context: Option<&Context>, types: Option<&TypeEmbeddings>) -> Tensor {
        let model = model(&dev_config());
        let seen = context.map(|context| flux_condition(context, types, Device::Cpu).unwrap());
        let conditions: Vec<FluxCondition> = seen.flatten().into_iter().collect();
        let picture = FluxPicture {
            grid: [4, 4],
            text: &FluxText {
                rows: wave(0.2, 0.5, &[1, 4, 24]),
                pooled: wave(0.4, 0.2, &[1, 12]),
            },
            negative: None,
            conditions: &conditions,
            guidance: FluxGuidance::embedded(Some(3.5)),
        };
        let schedule = FlowConfig::default().schedule_of(&[0.9387], None).unwrap();
        let sampler = FluxSampler::new(&model, schedule, &picture).unwrap();
        let noise = wave(0.3, 1.0, &[1, 53, 16]).narrow(1, 0, 16);
        sampler.velocity(0, &noise).unwrap()
    }

    fn types(rows: &Tensor) -> TypeEmbeddings {
        let config = ContextConfig {
            width: 64,
            ..ContextConfig::default()
        };
        let tensors = [("type_embed.weight", rows)];
        storyloom_nn::testing::weights_of(&tensors, |weights| {
            TypeEmbeddings::load(weights, &config)
        })
    }

    /// Specification `flux`, tests 1 and 17.
    #[test]
    fn a_picture_sees_its_condition_and_its_memory() {
        let expected = flux_vector("modules/cases/flux_nw_like");
        let seen = velocity(Some(&context()), None);
        let vector = &expected["output_of_noisy_tokens"];
        assert_vector("with memory", &seen, vector, 1e-5);
        let nothing = Context {
            tokens: None,
            ids: Vec::new(),
            kinds: Vec::new(),
        };
        let alone = velocity(Some(&nothing), None);
        assert_vector("alone", &alone, &expected["noisy_alone"], 1e-5);
        assert_eq!(alone, velocity(None, None));
    }

    /// Zero rows change no bit, and others change the picture.
    #[test]
    fn rows_of_kinds_begin_as_nothing() {
        let config = ContextConfig {
            width: 64,
            ..ContextConfig::default()
        };
        let zeros = TypeEmbeddings::zeros(&config, Target::CPU_F32).unwrap();
        let plain = velocity(Some(&context()), None);
        assert_eq!(velocity(Some(&context()), Some(&zeros)), plain);
        let rows = wave(0.9, 0.1, &[1 + i64::from(config.memory.frames), 64]);
        let learned = velocity(Some(&context()), Some(&types(&rows)));
        assert!((learned - plain).abs().max().double_value(&[]) > 1e-3);
        let one = types(&rows).rows(&context().kinds).unwrap();
        assert_eq!(one.size(), [37, 64]);
        assert_eq!(one.get(36), rows.get(3));
        let old = [(ContextKind::Memory { age: 99 }, 1)];
        assert!(types(&rows).rows(&old).is_err());
        assert_eq!(one.kind(), Kind::Float);
    }
}
