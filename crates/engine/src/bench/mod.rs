//! Figures of single components: the denoiser, the decoder, loading, and the fused kernels.
//!
//! Weights come from a checkpoint folder, so that the reference packages can be timed on the same
//! ones, or are random where their size is all that counts. Every time is a median over repeats
//! after one warm-up.

mod context;
mod denoise;
mod kernels;
mod language;
mod share;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use storyloom_story::Seed;
use tch::{Device, Tensor};

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::forward::cpu_target;
use storyloom_models::wan::WanTransformer;
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::cuda::synchronize;
use storyloom_nn::error::Result;
use storyloom_nn::noise::{Stream, gaussian};

pub use context::{ContextFigures, ContextSettings, context};
pub use denoise::{DenoiseFigures, DenoiseModel, PartFigures, denoise};
pub use kernels::{KernelCheck, KernelFigures, KernelShape, kernels};
pub use language::{LanguageBench, LanguageFigures, language};
pub use share::{ShareFigures, share};

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
    /// Where it runs.
    #[serde(serialize_with = "device_name")]
    pub device: Device,
}

/// `cpu` or `cuda:0`.
fn device_name<S: serde::Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name_of(*device))
}

fn name_of(device: Device) -> String {
    match device {
        Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
        _ => "cpu".to_owned(),
    }
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
        use_threads(self.threads);
    }

    /// Kind and device of the weights.
    fn target(&self) -> Result<Target> {
        Ok(Target {
            device: self.device,
            ..cpu_target(&self.dtype)?
        })
    }

    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
        work()?;
        let mut seconds = Vec::new();
        for _ in 0..self.repeats.max(1) {
            synchronize(self.device);
            let start = Instant::now();
            work()?;
            synchronize(self.device);
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(Timing::of(seconds))
    }
}

/// Threads of libtorch; 0 leaves them as they are.
fn use_threads(threads: u32) {
    if let Ok(threads) = i32::try_from(threads)
        && threads > 0
    {
        tch::set_num_threads(threads);
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

/// Times decodes of one clip by the VAE in `folder`; always in f32.
///
/// # Errors
/// The checkpoint is not that of a Wan VAE, or libtorch refuses.
pub fn decode(folder: &Path, settings: &BenchSettings) -> Result<DecodeFigures> {
    settings.prepare();
    let model = AutoencoderKlWan::open(folder, settings.device)?;
    let config = model.config();
    let clip = settings
        .clip
        .map(|length| u32::try_from(length).unwrap_or(u32::MAX));
    let [frames, rows, columns] = config.latent_grid(1).latent_clip(clip).map(i64::from);
    let latents = noise(settings.device, &[1, config.z_dim, frames, rows, columns])?;
    let decode = settings.time(|| model.decode(&latents).map(drop))?;
    Ok(DecodeFigures {
        settings: settings.clone(),
        frames_per_second: settings.clip[0] as f64 / decode.median_seconds,
        decode,
    })
}

/// Times loading the transformer in `folder`.
///
/// # Errors
/// The checkpoint is not that of a Wan transformer.
pub fn load(folder: &Path, settings: &BenchSettings) -> Result<LoadFigures> {
    settings.prepare();
    let target = settings.target()?;
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

/// Always the same numbers of normal size, on `device`.
fn noise(device: Device, shape: &[i64]) -> Result<Tensor> {
    Ok(gaussian(Seed(0), Stream::Shot, shape)?.f_to_device(device)?)
}

fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
