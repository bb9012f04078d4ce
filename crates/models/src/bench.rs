//! Figures of single components: the denoiser, the decoder, and loading.
//!
//! Weights come from a checkpoint folder, so that the reference packages can be timed on the same
//! ones. Every time is a median over repeats after one warm-up.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use storyloom_story::Seed;
use tch::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::forward::cpu_target;
use crate::noise::{Stream, gaussian};
use crate::vae::AutoencoderKlWan;
use crate::wan::{ForwardInputs, WanTransformer};

/// What every bench is told.
#[derive(Debug, Clone, Serialize)]
pub struct BenchSettings {
    /// `f32` or `bf16`.
    pub dtype: String,
    /// Threads of libtorch.
    pub threads: u32,
    /// Timed repeats.
    pub repeats: u32,
    /// Size of the clip: frames, height and width in pixels.
    pub clip: [i64; 3],
}

/// How long something took.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    /// Middle of all repeats, in seconds.
    pub median_seconds: f64,
    /// Fastest repeat, in seconds.
    pub best_seconds: f64,
    /// All repeats, in seconds.
    pub seconds: Vec<f64>,
}

/// Figures of `bench denoise`.
#[derive(Debug, Clone, Serialize)]
pub struct DenoiseFigures {
    /// What was asked for.
    pub settings: BenchSettings,
    /// Parameters of the transformer.
    pub parameters: usize,
    /// Tokens of the clip.
    pub tokens: i64,
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
}

/// Figures of `bench decode`.
#[derive(Debug, Clone, Serialize)]
pub struct DecodeFigures {
    /// What was asked for.
    pub settings: BenchSettings,
    /// One clip.
    pub decode: Timing,
    /// Decoded frames per second.
    pub frames_per_second: f64,
}

/// Figures of `bench load`.
#[derive(Debug, Clone, Serialize)]
pub struct LoadFigures {
    /// What was asked for.
    pub settings: BenchSettings,
    /// Bytes of the files.
    pub bytes: usize,
    /// From the folder to a model that is ready.
    pub load: Timing,
    /// 10^9 bytes of the files per second.
    pub gigabytes_per_second: f64,
    /// Largest resident memory of the process, in bytes, from `/proc/self/status`.
    pub peak_resident_bytes: Option<u64>,
}

impl BenchSettings {
    pub(crate) fn prepare(&self) {
        if let Ok(threads) = i32::try_from(self.threads)
            && threads > 0
        {
            tch::set_num_threads(threads);
        }
    }

    /// Latent frames, height and width of the clip for the Wan 2.1 VAE.
    pub(crate) fn latent(&self) -> [i64; 3] {
        let [frames, height, width] = self.clip;
        [1 + (frames - 1) / 4, height / 8, width / 8]
    }

    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
        work()?;
        let mut seconds = Vec::new();
        for _ in 0..self.repeats.max(1) {
            let start = Instant::now();
            work()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(Timing::of(seconds))
    }
}

impl Timing {
    /// Of at least one repeat.
    pub(crate) fn of(seconds: Vec<f64>) -> Self {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median_seconds: sorted[sorted.len() / 2],
            best_seconds: sorted[0],
            seconds,
        }
    }
}

/// Times forwards of the transformer in `folder` with 512 rows of text.
///
/// # Errors
/// The checkpoint is not that of a Wan transformer, or libtorch refuses.
pub fn denoise(folder: &Path, settings: &BenchSettings) -> Result<DenoiseFigures> {
    const TEXT_ROWS: i64 = 512;
    settings.prepare();
    let model = WanTransformer::open(folder, cpu_target(&settings.dtype)?)?;
    let config = model.config();
    let [frames, height, width] = settings.latent();
    let noise = |shape: &[i64]| gaussian(Seed(0), Stream::Shot, shape);
    let hidden_states = noise(&[1, config.in_channels, frames, height, width])?;
    let text = noise(&[1, TEXT_ROWS, config.text_dim])?;
    let timestep = Tensor::f_from_slice(&[500_i64])?;
    let context = settings.time(|| model.prepare_context(&text, None).map(drop))?;
    let prepared = model.prepare_context(&text, None)?;
    let inputs = ForwardInputs {
        hidden_states: &hidden_states,
        timestep: &timestep,
        temporal_positions: None,
    };
    let forward = settings.time(|| model.forward(&inputs, &prepared).map(drop))?;
    let gflop = config.forward_flops(settings.latent(), TEXT_ROWS) / 1e9;
    let matmul = matmul_gflop_per_second(settings)?;
    let rate = gflop / forward.median_seconds;
    Ok(DenoiseFigures {
        settings: settings.clone(),
        parameters: parameters(&Checkpoint::open(folder)?),
        tokens: config.tokens(settings.latent()),
        context,
        forward,
        gflop,
        gflop_per_second: rate,
        matmul_gflop_per_second: matmul,
        share_of_matmul: rate / matmul,
    })
}

/// Times decodes of one clip by the VAE in `folder`; always in f32.
///
/// # Errors
/// The checkpoint is not that of a Wan VAE, or libtorch refuses.
pub fn decode(folder: &Path, settings: &BenchSettings) -> Result<DecodeFigures> {
    settings.prepare();
    let model = AutoencoderKlWan::open(folder, Device::Cpu)?;
    let config = model.config();
    let [frames, height, width] = settings.clip;
    let space = config.spatial_factor();
    let shape = [
        1,
        config.z_dim,
        1 + (frames - 1) / config.temporal_factor(),
        height / space,
        width / space,
    ];
    let latents = gaussian(Seed(0), Stream::Shot, &shape)?;
    let decode = settings.time(|| model.decode(&latents).map(drop))?;
    Ok(DecodeFigures {
        settings: settings.clone(),
        frames_per_second: frames as f64 / decode.median_seconds,
        decode,
    })
}

/// Times loading the transformer in `folder`.
///
/// # Errors
/// The checkpoint is not that of a Wan transformer.
pub fn load(folder: &Path, settings: &BenchSettings) -> Result<LoadFigures> {
    settings.prepare();
    let target = cpu_target(&settings.dtype)?;
    let load = settings.time(|| WanTransformer::open(folder, target).map(drop))?;
    let bytes = Checkpoint::open(folder)?.bytes();
    Ok(LoadFigures {
        settings: settings.clone(),
        bytes,
        gigabytes_per_second: bytes as f64 / load.median_seconds / 1e9,
        load,
        peak_resident_bytes: peak_resident_bytes(),
    })
}

/// A square product in f32, the kind of all products on the CPU, large enough to be bound by
/// arithmetic.
fn matmul_gflop_per_second(settings: &BenchSettings) -> Result<f64> {
    const SIDE: i64 = 1536;
    let square = gaussian(Seed(1), Stream::Shot, &[SIDE, SIDE])?;
    let timing = settings.time(|| {
        drop(square.f_matmul(&square)?);
        Ok(())
    })?;
    Ok(2.0 * (SIDE as f64).powi(3) / timing.best_seconds / 1e9)
}

fn parameters(checkpoint: &Checkpoint) -> usize {
    let entries = checkpoint.entries().values();
    entries
        .map(|entry| entry.shape.iter().product::<i64>() as usize)
        .sum()
}

fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
