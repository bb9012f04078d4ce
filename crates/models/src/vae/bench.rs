//! How fast clips are decoded, for `storyloom bench decode`.

use std::time::Instant;

use serde::Serialize;
use storyloom_story::Seed;
use tch::Tensor;

use super::AutoencoderKlWan;
use crate::error::{ModelError, Result};
use crate::noise::{Stream, gaussian};

/// One measured decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeReport {
    /// Wall-clock time of each repetition, in seconds.
    pub seconds: Vec<f64>,
    /// The shortest of them.
    pub best_seconds: f64,
    /// Frames in the clip.
    pub frames: i64,
    /// Pixel rows and columns of a frame.
    pub size: [i64; 2],
    /// Latent frames decoded together.
    pub chunk: i64,
    /// Threads libtorch used inside an operation.
    pub threads: i32,
    /// blake3 of the decoded f32 values in clip order.
    pub output_digest: String,
    /// Most memory this process has held so far, in bytes; absent where the system does not say.
    pub peak_rss: Option<u64>,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeBench {
    /// Frames, rows and columns of the latents.
    pub latents: [i64; 3],
    /// Latent frames decoded together.
    pub chunk: i64,
    /// Measured repetitions, after one that is not measured.
    pub repeats: usize,
}

impl DecodeBench {
    /// Decodes noise as often as asked, streaming; the clip is never held as a whole.
    pub fn run(&self, vae: &AutoencoderKlWan) -> Result<DecodeReport> {
        if self.repeats == 0 {
            return Err(ModelError::input("repeats", "at least one is needed"));
        }
        let [frames, rows, columns] = self.latents;
        let shape = [1, vae.config().z_dim, frames, rows, columns];
        let latents = vae.denormalize(&gaussian(Seed(0), Stream::Shot, &shape)?)?;
        let output_digest = self.digest(vae, &latents)?;
        let mut seconds = Vec::with_capacity(self.repeats);
        for _ in 0..self.repeats {
            let start = Instant::now();
            vae.decode_stream(&latents, self.chunk, &mut |_| Ok(()))?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let factor = vae.config().spatial_factor();
        Ok(DecodeReport {
            best_seconds: seconds.iter().copied().fold(f64::INFINITY, f64::min),
            seconds,
            frames: 1 + (frames - 1) * vae.config().temporal_factor(),
            size: [rows * factor, columns * factor],
            chunk: self.chunk,
            threads: tch::get_num_threads(),
            output_digest,
            peak_rss: peak_rss(),
        })
    }

    fn digest(&self, vae: &AutoencoderKlWan, latents: &Tensor) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        vae.decode_stream(latents, self.chunk, &mut |pixels| {
            // Frame by frame, so that the digest does not show how the clip was cut.
            for frame in 0..pixels.size()[2] {
                let values = pixels.f_select(2, frame)?.f_flatten(0, -1)?;
                let values: Vec<f32> = Vec::try_from(&values.f_to_device(tch::Device::Cpu)?)?;
                for value in values {
                    hasher.update(&value.to_le_bytes());
                }
            }
            Ok(())
        })?;
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// The high-water mark of this process's memory, in bytes.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
