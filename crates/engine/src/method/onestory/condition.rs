//! How relevant the frames of the history are, and the context tokens that the chosen ones become.
//!
//! The history is read shot by shot, for the scores and again for the chosen frames: at no time is more than
//! one shot of it in memory.

use std::path::Path;
use std::sync::Mutex;

use storyloom_models::onestory::{
    OneStoryConfig, OneStoryMemory, Patchifiers, Selector, context_positions,
};
use storyloom_models::wan::WanConfig;
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::to_host;
use storyloom_story::onestory::{self, Choice, ContextTime, History, Kernel};
use storyloom_story::{HostTensor, LatentGrid, ShotInputs};
use tch::{Device, Tensor};

use super::choose::{Chooser, read, refused};
use super::encode::{Beginning, check_caption};
use super::paths::OneStoryPaths;
use super::select;
use super::settings::{Backend, OneStorySettings};
use crate::replica::station::lock;

/// What the transformer sees of a shot's conditions.
#[derive(Debug)]
pub struct ShotConditions {
    pub(super) beginning: Beginning,
    /// `None` where nothing of the history is seen.
    pub(super) context: Option<Context>,
}

/// Context tokens and where they stand.
#[derive(Debug)]
pub(super) struct Context {
    /// `[1, N_c, width]` in f32.
    pub(super) tokens: Tensor,
    /// Time, row and column of each, `[N_c, 3]` in f64 on the host.
    pub(super) positions: Tensor,
}

/// One score for each latent frame of the history of a shot, `[F]` in f32; `[1]` with a 0 where there is
/// none. `text` gives the rows of the caption, where the selector is asked.
pub(super) fn scores(
    conditioner: &Mutex<Conditioner>,
    inputs: &ShotInputs,
    text: impl FnOnce() -> Result<Tensor>,
) -> Result<HostTensor> {
    check_caption(&inputs.request)?;
    lock(conditioner).check_kernels(inputs)?;
    let history = select::history(inputs)?;
    if let Some(scores) = lock(conditioner).chooser.known_scores(inputs, &history)? {
        return Ok(scores);
    }
    let text = text()?;
    lock(conditioner).learned_scores(inputs, &history, &text)
}

/// Selector and patchifiers with their settings. Whole on the leader of a replica.
#[derive(Debug)]
pub(super) struct Conditioner {
    pub(super) chooser: Chooser,
    /// `None` where nobody has trained one.
    selector: Option<Selector>,
    patchifiers: Patchifiers,
    time: ContextTime,
    device: Device,
}

impl Conditioner {
    /// Loads selector and patchifiers, which fit the transformer, or patchifiers that begin as its own patches
    /// do.
    pub(super) fn open(
        paths: &OneStoryPaths,
        settings: &OneStorySettings,
        grid: LatentGrid,
    ) -> Result<Self> {
        let device = settings.compute.target.device;
        let target = Target {
            device,
            ..Target::CPU_F32
        };
        let (selector, patchifiers) = match settings.backend {
            Backend::OneStory => {
                let memory = trained(paths, settings, target)?;
                (Some(memory.selector), memory.patchifiers)
            }
            _ => (None, untrained(paths, grid, target)?),
        };
        Ok(Self {
            chooser: Chooser {
                budget: settings.budget,
                selector: settings.selector,
                grid,
            },
            selector,
            patchifiers,
            time: settings.time,
            device,
        })
    }

    /// Fails if shots of this size see frames by a patchifier that the checkpoint lacks. The first shot of a story,
    /// which sees nothing, tells it as well.
    fn check_kernels(&self, inputs: &ShotInputs) -> Result<()> {
        let counts = self.chooser.counts(inputs)?;
        let is_there = |kernel: &Kernel| self.patchifiers.kernels().any(|found| found == *kernel);
        let Some(kernel) = counts.kernels().find(|kernel| !is_there(kernel)) else {
            return Ok(());
        };
        let there: Vec<&str> = self.patchifiers.kernels().map(Kernel::name).collect();
        let reason = format!(
            "it is to see frames by the patchifier {kernel}, and the checkpoint has {}: set \
             onestory.frames_per_kernel to frames of these",
            there.join(", ")
        );
        Err(refused(inputs, &reason))
    }

    /// The scores of a history by the selector. `text` has the rows of the caption, `[1, rows, text_dim]`.
    fn learned_scores(
        &self,
        inputs: &ShotInputs,
        history: &History,
        text: &Tensor,
    ) -> Result<HostTensor> {
        let _guard = tch::no_grad_guard();
        let selector = self.selector.as_ref().ok_or_else(no_selector)?;
        let shots = self.chooser.shots(inputs, history)?;
        let asked = selector.ask(text)?;
        let ages = (1..=shots.len()).rev();
        let glances = shots.iter().zip(ages).map(|(item, age)| {
            let latents = read(item, self.device)?.f_unsqueeze(0)?;
            selector.look(&asked, &latents, age)
        });
        let glances: Vec<_> = glances.collect::<Result<_>>()?;
        let scores = selector.scores(&asked, &glances)?;
        to_host(&scores.f_squeeze_dim(0)?)
    }

    /// The context tokens of what was chosen.
    pub(super) fn context(
        &self,
        inputs: &ShotInputs,
        history: &History,
        choice: &Choice,
    ) -> Result<Option<Context>> {
        let _guard = tch::no_grad_guard();
        if choice.frames.is_empty() {
            return Ok(None);
        }
        let frames = self.chooser.frames(inputs, history, choice, self.device)?;
        let (plane, all) = (self.chooser.plane(inputs), history.frames());
        Ok(Some(Context {
            tokens: self.patchifiers.forward(&choice.chosen, &frames)?,
            positions: context_positions(&choice.chosen, all, plane, self.time)?,
        }))
    }
}

/// The parts that OneStory adds to the pipeline.
fn trained(
    paths: &OneStoryPaths,
    settings: &OneStorySettings,
    target: Target,
) -> Result<OneStoryMemory> {
    let folder = paths.memory();
    let config = OneStoryConfig::of(&Checkpoint::open(&folder)?)?;
    check_memory(&folder, &config, &WanConfig::read(&paths.transformer())?)?;
    let mut memory = OneStoryMemory::open(&folder, target)?;
    if let Some(norm) = settings.score_norm {
        memory.selector = memory.selector.scored_by(norm);
    }
    Ok(memory)
}

/// Patchifiers for a transformer that has never seen context tokens.
fn untrained(paths: &OneStoryPaths, grid: LatentGrid, target: Target) -> Result<Patchifiers> {
    let checkpoint = Checkpoint::open(&paths.transformer())?;
    let config = WanConfig::of(&checkpoint)?;
    let weights = checkpoint.weights(target).sub("patch_embedding");
    let [frames, rows, columns] = config.patch_size;
    let size = [config.width(), config.in_channels, frames, rows, columns];
    let weight = weights.take("weight", &size)?;
    let weight = weight.f_narrow(1, 0, i64::from(grid.channels))?;
    let bias = weights.take("bias", &[config.width()])?;
    Patchifiers::spread(&weight, &bias)
}

/// Fails if the parts of OneStory in `folder` were made for another transformer.
fn check_memory(folder: &Path, memory: &OneStoryConfig, transformer: &WanConfig) -> Result<()> {
    let of_transformer = [
        ("width", memory.width, transformer.width()),
        ("text_dim", memory.text_dim, transformer.text_dim),
        (
            "latent_channels",
            memory.latent_channels,
            transformer.out_channels,
        ),
    ];
    for (name, found, wanted) in of_transformer {
        if found != wanted {
            let reason = format!("{name} = {found}, but that of the transformer is {wanted}");
            return Err(ModelError::bad_file(folder.join("config.json"), reason));
        }
    }
    Ok(())
}

/// Nobody has trained a selector for this backend.
fn no_selector() -> ModelError {
    let selectors = [onestory::Selector::Recent, onestory::Selector::Uniform];
    ModelError::input(
        "onestory.selector",
        format!("this backend has no selector that was trained; there are {selectors:?}"),
    )
}
