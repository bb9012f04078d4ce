//! `bench denoise`: forwards of a transformer, from a folder or with random weights.

use std::path::Path;

use serde::Serialize;
use storyloom_models::wan::{ForwardInputs, WanConfig, WanTransformer};
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::error::Result;
use storyloom_nn::layers::{
    AttentionChoice, PartSeconds, attention_choices, kernel_state, measure_parts, without_kernels,
};
use storyloom_story::PartFlops;
use tch::{Device, Kind, Tensor};

use super::{BenchSettings, Timing, noise};

/// The transformer whose forwards are timed.
#[derive(Debug, Clone, Copy)]
pub enum DenoiseModel<'a> {
    /// That of a checkpoint folder.
    Folder(&'a Path),
    /// One of this shape with random weights, made on the device.
    Random {
        /// For the report.
        name: &'a str,
        /// The shape.
        config: &'a WanConfig,
    },
}

/// Figures of `bench denoise`.
#[derive(Debug, Clone, Serialize)]
pub struct DenoiseFigures {
    /// What was asked for.
    pub settings: BenchSettings,
    /// Folder of the transformer, or the name of its shape.
    pub model: String,
    /// Parameters of the transformer.
    pub parameters: usize,
    /// Tokens of the clip.
    pub tokens: i64,
    /// Whether fused kernels did what lies between the products.
    pub fused: bool,
    /// Why they did not.
    pub not_fused: Option<String>,
    /// Projecting the prompt for all blocks; once per prompt, not per step.
    pub context: Timing,
    /// One forward of one sample.
    pub forward: Timing,
    /// Operations of one forward, in units of 10^9.
    pub gflop: f64,
    /// Operations per second in the forward, in units of 10^9.
    pub gflop_per_second: f64,
    /// The same for a plain matrix product on this machine.
    pub matmul_gflop_per_second: f64,
    /// The former as a share of the latter.
    pub share_of_matmul: f64,
    /// Where the time of a forward goes.
    pub parts: PartFigures,
    /// Who computes the attentions, where that was measured.
    pub attention: Vec<AttentionChoice>,
}

/// One more forward that is stopped between its parts, which takes a little longer.
#[derive(Debug, Clone, Serialize)]
pub struct PartFigures {
    /// Seconds of each part, over all blocks.
    pub seconds: PartSeconds,
    /// Operations per second of each part that has any, in units of 10^9.
    pub gflop_per_second: PartRates,
}

/// Operations per second by part.
#[derive(Debug, Clone, Serialize)]
pub struct PartRates {
    input_products: f64,
    self_attention: f64,
    cross_attention: f64,
    output_products: f64,
    feed_forward_products: f64,
}

impl PartRates {
    fn new(flops: PartFlops, seconds: &PartSeconds) -> Self {
        Self {
            input_products: flops.input_products / seconds.input_products / 1e9,
            self_attention: flops.self_attention / seconds.self_attention / 1e9,
            cross_attention: flops.cross_attention / seconds.cross_attention / 1e9,
            output_products: flops.output_products / seconds.output_products / 1e9,
            feed_forward_products: flops.feed_forward_products
                / seconds.feed_forward_products
                / 1e9,
        }
    }
}

/// Times forwards with 512 rows of text; `plain`: by operations of libtorch alone.
///
/// # Errors
/// The checkpoint is not that of a Wan transformer, or libtorch refuses.
pub fn denoise(
    model: DenoiseModel,
    settings: &BenchSettings,
    plain: bool,
) -> Result<DenoiseFigures> {
    settings.prepare();
    let _guard = tch::no_grad_guard();
    let subject = Subject::open(model, settings.target()?)?;
    let not_fused = match (settings.device, plain) {
        (Device::Cpu, _) => Some("the CPU has loops of its own".to_owned()),
        (_, true) => Some("it was asked for without".to_owned()),
        (device, false) => kernel_state(device).err(),
    };
    match plain {
        true => without_kernels(|| measure(&subject, settings, not_fused)),
        false => measure(&subject, settings, not_fused),
    }
}

/// A transformer that is ready.
pub(super) struct Subject {
    pub(super) model: WanTransformer,
    pub(super) name: String,
    parameters: usize,
}

impl Subject {
    pub(super) fn open(model: DenoiseModel, target: Target) -> Result<Self> {
        match model {
            DenoiseModel::Folder(folder) => Ok(Self {
                model: WanTransformer::open(folder, target)?,
                name: folder.display().to_string(),
                parameters: parameters(&Checkpoint::open(folder)?),
            }),
            DenoiseModel::Random { name, config } => {
                let (model, parameters) = WanTransformer::random(config.clone(), target)?;
                let name = format!("random {name}");
                Ok(Self {
                    model,
                    name,
                    parameters,
                })
            }
        }
    }
}

/// Rows of text that a prompt is filled up to.
pub(super) const TEXT_ROWS: u32 = 512;

fn measure(
    subject: &Subject,
    settings: &BenchSettings,
    not_fused: Option<String>,
) -> Result<DenoiseFigures> {
    let (model, device) = (&subject.model, settings.device);
    let config = model.config();
    let latent = config.latent(settings.clip);
    let [frames, height, width] = latent;
    let hidden_states = noise(device, &[1, config.in_channels, frames, height, width])?;
    let text = noise(device, &[1, i64::from(TEXT_ROWS), config.text_dim])?;
    let timestep = Tensor::f_from_slice(&[500_i64])?;
    let context = settings.time(|| model.prepare_context(&text, None).map(drop))?;
    let prepared = model.prepare_context(&text, None)?;
    let inputs = ForwardInputs {
        hidden_states: &hidden_states,
        timestep: &timestep,
        temporal_positions: None,
        appended: None,
    };
    let forward = settings.time(|| model.forward(&inputs, &prepared).map(drop))?;
    let (_, seconds) = measure_parts(device, || model.forward(&inputs, &prepared))?;
    let gflop = config.forward_flops(latent, TEXT_ROWS) / 1e9;
    let matmul = matmul_gflop_per_second(settings)?;
    let rate = gflop / forward.median_seconds;
    Ok(DenoiseFigures {
        settings: settings.clone(),
        model: subject.name.clone(),
        parameters: subject.parameters,
        tokens: config.tokens(latent),
        fused: not_fused.is_none(),
        not_fused,
        context,
        forward,
        gflop,
        gflop_per_second: rate,
        matmul_gflop_per_second: matmul,
        share_of_matmul: rate / matmul,
        parts: PartFigures {
            gflop_per_second: PartRates::new(config.part_flops(latent, TEXT_ROWS), &seconds),
            seconds,
        },
        attention: attention_choices(),
    })
}

/// A square product in the kind that products have on the device, f32 on the CPU, large enough to
/// be bound by arithmetic.
fn matmul_gflop_per_second(settings: &BenchSettings) -> Result<f64> {
    let Target { kind, device } = settings.target()?;
    let (side, kind) = match device {
        Device::Cpu => (1536, Kind::Float),
        _ => (8192, kind),
    };
    let square = Tensor::f_randn([side, side], (Kind::Float, device))?.f_to_kind(kind)?;
    let timing = settings.time(|| {
        drop(square.f_matmul(&square)?);
        Ok(())
    })?;
    Ok(2.0 * (side as f64).powi(3) / timing.best_seconds / 1e9)
}

fn parameters(checkpoint: &Checkpoint) -> usize {
    let entries = checkpoint.entries().values();
    entries
        .map(|entry| entry.shape.iter().product::<i64>() as usize)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::stand_in::as_gpu;

    fn settings(dtype: &str) -> BenchSettings {
        BenchSettings {
            dtype: dtype.to_owned(),
            // The number of threads is one for the whole program, and other tests are running.
            threads: 0,
            repeats: 1,
            clip: [5, 32, 48],
            device: Device::Cpu,
        }
    }

    #[test]
    fn a_random_model_is_timed_as_a_whole_and_in_parts() {
        let config = WanConfig::named("tiny").unwrap();
        let random = DenoiseModel::Random {
            name: "tiny",
            config: &config,
        };
        let figures = denoise(random, &settings("f32"), false).unwrap();
        assert_eq!(
            (figures.tokens, figures.model.as_str()),
            (2 * 2 * 3, "random tiny")
        );
        assert!(!figures.fused && figures.not_fused.is_some());
        let seconds = &figures.parts.seconds;
        for part in [
            seconds.input_products,
            seconds.self_attention,
            seconds.cross_attention,
            seconds.output_products,
            seconds.feed_forward_products,
            seconds.elementwise,
            seconds.outside,
        ] {
            assert!(part > 0.0 && part < seconds.total, "{seconds:?}");
        }
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["settings"]["device"], "cpu");
        assert!(json["parts"]["gflop_per_second"]["self_attention"].as_f64() > Some(0.0));
    }

    #[test]
    fn random_weights_are_drawn_once_and_keep_activations_in_size() {
        let config = WanConfig::named("tiny").unwrap();
        let forward = || {
            let (model, parameters) =
                WanTransformer::random(config.clone(), Target::CPU_F32).unwrap();
            let hidden = noise(Device::Cpu, &[1, 16, 2, 4, 6]).unwrap();
            let text = noise(Device::Cpu, &[1, 512, 32]).unwrap();
            let context = model.prepare_context(&text, None).unwrap();
            let inputs = ForwardInputs {
                hidden_states: &hidden,
                timestep: &Tensor::from_slice(&[500_i64]),
                temporal_positions: None,
                appended: None,
            };
            (model.forward(&inputs, &context).unwrap(), parameters)
        };
        let (output, parameters) = forward();
        assert!(parameters > 100_000);
        let spread = output.std(true).double_value(&[]);
        assert!(spread > 0.1 && spread < 10.0, "{spread}");
        as_gpu(|| {
            let figures = super::super::denoise(
                DenoiseModel::Random {
                    name: "tiny",
                    config: &config,
                },
                &settings("bf16"),
                true,
            );
            assert!(figures.unwrap().forward.best_seconds > 0.0);
        });
    }
}
