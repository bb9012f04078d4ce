//! Stage `vae`: the causal video autoencoder.

use std::path::Path;

use storyloom_models::autoencoder::{AutoencoderKlWan, VaeConfig};
use storyloom_nn::checkpoint::{Checkpoint, Weights};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Reduction, Tensor};
use storyloom_story::Seed;
use storyloom_tinyworld::draws::Draws;

use super::{Opened, StageName};
use crate::clips::{ClipSource, Window};
use crate::error::Result;
use crate::params::{Params, Start, Tensors, checkpoint_of, plain_on};
use crate::run::Run;
use crate::sheet;
use crate::stage::{Job, Stage, StageFiles};

/// What the autoencoder is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VaeSettings {
    /// Parts of a step that are done side by side.
    pub parts: usize,
    /// Steps of pictures alone, before clips come in.
    pub still: u64,
    /// After these, every n-th step is of pictures.
    pub still_every: u64,
    /// Pictures per part.
    pub pictures: usize,
    /// Crops of clips per part.
    pub crops: usize,
    /// Height and width of a crop of a clip.
    pub crop: [i64; 2],
    /// Frames of a crop, `4n + 1`.
    pub frames: i64,
    /// Weight of the divergence from a normal distribution.
    pub divergence: f64,
    /// Weight of the differences between neighbouring pixels.
    pub edges: f64,
}

/// The stage.
pub struct VaeStage {
    config: VaeConfig,
    settings: VaeSettings,
    params: Params,
    source: ClipSource,
    seed: u64,
    device: Device,
}

impl VaeStage {
    /// A stage with `params`, or with new ones.
    pub fn new(
        config: VaeConfig,
        settings: VaeSettings,
        source: ClipSource,
        seed: u64,
        device: Device,
        params: Option<Tensors>,
    ) -> Result<Self> {
        let params = match params {
            Some(tensors) => Params::of(tensors, device)?,
            None => {
                let load =
                    |weights: &Weights| AutoencoderKlWan::load(weights, config.clone()).map(drop);
                let params = Params::start(Seed(seed), "vae", device, load, start)?;
                quieten(&params, config.z_dim)?;
                params
            }
        };
        Ok(Self {
            config,
            settings,
            params,
            source,
            seed,
            device,
        })
    }
}

/// Lets the posterior begin narrow: with as much noise as signal nothing is learned at first.
fn quieten(params: &Params, z_dim: i64) -> Result<()> {
    if let Some(bias) = params.tensors().get("quant_conv.bias") {
        let _ = bias.f_detach()?.f_narrow(0, z_dim, z_dim)?.f_fill_(-5.0)?;
    }
    Ok(())
}

/// Sizes that keep activations where they are; residual branches start small.
fn start(name: &str, shape: &[i64]) -> Start {
    if name.ends_with("gamma") {
        return Start::Constant(1.0);
    }
    if name.ends_with("bias") {
        return Start::Constant(0.0);
    }
    let gain = match name {
        _ if name.contains("conv2") || name.contains("proj") => 0.2,
        _ if name.contains("quant") || name.contains("shortcut") => 1.0,
        _ if name.contains("conv_out") => 0.7,
        _ => 1.2,
    };
    match shape {
        // The decoder doubles frames, the encoder halves them.
        [outputs, inputs, 3, 1, 1] if outputs > inputs => Start::Double,
        [_, _, 3, 1, 1] => Start::Halve,
        [_, _, 3, _, _] => Start::Present(gain),
        _ => Start::fan_in(shape, gain),
    }
}

impl Stage for VaeStage {
    fn name(&self) -> &'static str {
        "vae"
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        let settings = &self.settings;
        let is_still = step < settings.still || step.is_multiple_of(settings.still_every);
        let (count, window) = if is_still {
            let [width, height] = self.source.size.map(i64::from);
            (
                settings.pictures,
                Window {
                    frames: 1,
                    height,
                    width,
                },
            )
        } else {
            let [height, width] = settings.crop;
            let frames = settings.frames;
            (
                settings.crops,
                Window {
                    frames,
                    height,
                    width,
                },
            )
        };
        let job = |part: usize| -> Job {
            let draws = Draws::new(self.seed, "vae", step * MOST_PARTS + part as u64);
            let part = StepPart {
                config: self.config.clone(),
                settings: self.settings,
                source: self.source,
                device: self.device,
                draws,
                count,
                window,
            };
            Box::new(move |checkpoint| part.loss(checkpoint))
        };
        Ok((0..self.settings.parts).map(job).collect())
    }

    fn preview(&mut self, average: &Tensors, folder: &Path, step: u64) -> Result<()> {
        let checkpoint = checkpoint_of(average);
        let vae = AutoencoderKlWan::load(
            &checkpoint.weights(plain_on(self.device)),
            self.config.clone(),
        )?;
        let mut rows = Vec::new();
        let mut error = 0.0;
        for story in 0..4 {
            let clip = self.source.held_out(story, 0)?.f_unsqueeze(0)?;
            let clip = clip.f_to_device(self.device)?;
            let found = vae.decode(&vae.encode(&clip)?)?;
            error += found
                .f_sub(&clip)?
                .f_abs()?
                .f_mean(Kind::Float)?
                .double_value(&[]);
            let last = clip.size()[2] - 1;
            for video in [clip, found] {
                let frames = [0, last / 2, last].map(|frame| video.select(2, frame).squeeze_dim(0));
                rows.push(frames.into());
            }
        }
        tracing::info!(
            stage = "vae",
            step,
            error = format!("{:.4}", error / 4.0),
            "held out"
        );
        sheet::write(&folder.join(format!("preview-{step:06}.png")), &rows)
    }
}

/// Parts of a step have seeds of their own, as long as there are fewer than this.
const MOST_PARTS: u64 = 64;

/// A part of a step.
struct StepPart {
    config: VaeConfig,
    settings: VaeSettings,
    source: ClipSource,
    device: Device,
    draws: Draws,
    count: usize,
    window: Window,
}

impl StepPart {
    fn loss(mut self, checkpoint: &Checkpoint) -> Result<Tensor> {
        let vae = AutoencoderKlWan::load(
            &checkpoint.weights(plain_on(self.device)),
            self.config.clone(),
        )?;
        let mut losses = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let clip = self.source.crop(&mut self.draws, self.window)?;
            let clip = clip.f_to_device(self.device)?;
            losses.push(self.one_loss(&vae, &clip)?);
        }
        Ok(Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?)
    }

    fn one_loss(&mut self, vae: &AutoencoderKlWan, clip: &Tensor) -> Result<Tensor> {
        let moments = vae.moments(clip)?;
        let z = self.config.z_dim;
        let mean = moments.f_narrow(1, 0, z)?;
        let spread = moments.f_narrow(1, z, z)?.f_clamp(-20.0, 10.0)?;
        let noise = gaussian(Seed(self.draws.number()), Stream::Shot, &mean.size())?;
        let noise = noise.f_to_device(self.device)?;
        let latents = mean.f_add(&spread.f_mul_scalar(0.5)?.f_exp()?.f_mul(&noise)?)?;
        let found = vae.reconstruct(&latents)?;
        let pixels = found.f_l1_loss(clip, Reduction::Mean)?;
        let edges = [3, 4].map(|axis| -> Result<Tensor> {
            let [a, b] = [differences(&found, axis)?, differences(clip, axis)?];
            Ok(a.f_l1_loss(&b, Reduction::Mean)?)
        });
        let [rows, columns] = edges;
        let edges = rows?.f_add(&columns?)?;
        let divergence = mean
            .f_square()?
            .f_add(&spread.f_exp()?)?
            .f_sub(&spread)?
            .f_sub_scalar(1.0)?
            .f_mean(Kind::Float)?;
        Ok(pixels
            .f_add(&edges.f_mul_scalar(self.settings.edges)?)?
            .f_add(&divergence.f_mul_scalar(0.5 * self.settings.divergence)?)?)
    }
}

fn differences(video: &Tensor, axis: i64) -> Result<Tensor> {
    let length = video.size()[axis as usize] - 1;
    let next = video.f_narrow(axis, 1, length)?;
    Ok(next.f_sub(&video.f_narrow(axis, 0, length)?)?)
}

pub(super) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let (settings, adam) = run.preset.vae;
    let config = run.preset.shape.vae()?;
    let (source, saved) = (run.preset.source, files.params()?);
    let stage = VaeStage::new(config, settings, source, run.seed, run.device, saved)?;
    Ok((Box::new(stage), adam))
}

/// The autoencoder that `run` has trained; stage `pictures` is the first that wants it.
pub(crate) fn finished(run: &Run) -> Result<Tensors> {
    run.average(StageName::Vae, StageName::Pictures.name())
}
