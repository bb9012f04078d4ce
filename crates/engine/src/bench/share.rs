//! What sharing a transformer among ranks brings, beside one rank in the same run.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use storyloom_models::forward::cpu_target;
use storyloom_models::wan::{ForwardInputs, WanTransformer};
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::Result;
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::shard::Shard;
use storyloom_parallel::Group;
use storyloom_parallel::topology::Degrees;
use storyloom_story::Seed;
use tch::Tensor;

use crate::bench::{BenchSettings, Timing};

/// Figures of `bench share`.
#[derive(Debug, Clone, Serialize)]
pub struct ShareFigures {
    /// What was asked for; `threads` are those of each rank.
    pub settings: BenchSettings,
    /// Ranks that share each layer.
    pub tensor: usize,
    /// Ranks that share the tokens.
    pub sequence: usize,
    /// Bytes of the checkpoint.
    pub checkpoint_bytes: usize,
    /// Bytes of it that this rank read.
    pub bytes_read: usize,
    /// One forward by the first rank alone, the others waiting.
    pub alone: Timing,
    /// One forward by all ranks, in turns with the former.
    pub shared: Timing,
    /// Median alone over median shared.
    pub speedup: f64,
    /// Largest difference of the results, relative to the largest value.
    pub relative_error: f64,
}

/// Times forwards of the transformer in `folder` alone and shared; all ranks of `group` call it,
/// and the figures are those of rank 0.
///
/// # Errors
/// The model cannot be divided so, or a rank is missing.
pub fn share(
    folder: &Path,
    settings: &BenchSettings,
    group: &Group,
    degrees: Degrees,
) -> Result<ShareFigures> {
    const TEXT_ROWS: i64 = 512;
    settings.prepare();
    let target = cpu_target(&settings.dtype)?;
    let (shard, _) = Shard::join(group, degrees)?;
    let part = WanTransformer::open_shard(folder, target, &shard)?;
    let whole = WanTransformer::open(folder, target)?;
    let config = whole.config();
    let [frames, height, width] = config.latent(settings.clip);
    let noise = |shape: &[i64]| gaussian(Seed(0), Stream::Shot, shape);
    let hidden_states = noise(&[1, config.in_channels, frames, height, width])?;
    let text = noise(&[1, TEXT_ROWS, config.text_dim])?;
    let timestep = Tensor::f_from_slice(&[500_i64])?;
    let inputs = ForwardInputs {
        hidden_states: &hidden_states,
        timestep: &timestep,
        temporal_positions: None,
        appended: None,
    };
    let alone_context = whole.prepare_context(&text, None)?;
    let shared_context = part.prepare_context(&text, None)?;
    let (mut alone, mut shared) = (Vec::new(), Vec::new());
    let mut relative_error: f64 = 0.0;
    for round in 0..=settings.repeats.max(1) {
        group.barrier()?;
        let mut expected = None;
        if group.rank() == 0 {
            let begun = Instant::now();
            expected = Some(whole.forward(&inputs, &alone_context)?);
            if round > 0 {
                alone.push(begun.elapsed().as_secs_f64());
            }
        }
        // Waits as long as it takes, without spinning.
        hold(group)?;
        let begun = Instant::now();
        let found = part.forward(&inputs, &shared_context)?;
        if round > 0 {
            shared.push(begun.elapsed().as_secs_f64());
        }
        if let Some(expected) = expected {
            let difference = found.f_sub(&expected)?.f_abs()?.f_max()?;
            let error =
                difference.f_double_value(&[])? / expected.f_abs()?.f_max()?.f_double_value(&[])?;
            relative_error = relative_error.max(error);
        }
    }
    let shared = Timing::of(shared);
    let alone = if alone.is_empty() {
        shared.clone()
    } else {
        Timing::of(alone)
    };
    Ok(ShareFigures {
        settings: settings.clone(),
        tensor: degrees.tensor,
        sequence: degrees.sequence,
        checkpoint_bytes: Checkpoint::open(folder)?.bytes(),
        bytes_read: part.bytes_read(),
        speedup: alone.median_seconds / shared.median_seconds,
        alone,
        shared,
        relative_error,
    })
}

/// Lets the other ranks sleep until rank 0 is here.
fn hold(group: &Group) -> Result<()> {
    if group.rank() > 0 {
        group.receive(0, None)?;
        return Ok(());
    }
    for rank in 1..group.size() {
        group.send(rank, &[])?;
    }
    Ok(())
}
