//! All networks of the method StoryMem, loaded once and kept.

pub(crate) mod adapters;
pub(crate) mod decode;
pub mod encode;
mod message;
pub mod parts;
#[cfg(test)]
mod replicas_test;
mod select;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storyloom_models::autoencoder::{AutoencoderKlWan, VaeConfig};
use storyloom_models::sampler::{Reference, SamplerKind};
use storyloom_models::scorer::{self, AestheticHead};
use storyloom_models::vision::clip::SelectionResize;
use storyloom_nn::checkpoint::{Checkpoint, Target, component_folder};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::loaded::{LoadedFiles, Source};
use storyloom_nn::lora::{AdapterIdentity, LoraSettings, adapter_identity};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::shard::{Peers, Shard};
use storyloom_nn::tensor_file::to_host;
use storyloom_parallel::CommError;
use storyloom_parallel::topology::Role;
use storyloom_story::{Clip, HostTensor, LoopState, Resolution, RgbImage, Seed, ShotInputs};
use tch::{Device, Kind, Tensor};

use self::adapters::{AdaptedExpert, adapter_file};
use crate::method::storymem::decode::{Decoder, decode_rows};
use crate::method::storymem::encode::{Conditions, Encoder};
use crate::replica::help::{Help, Leaders};
use crate::replica::{Command, Crew, Pipeline, Replica};
use crate::sampling::{
    DenoiseInputs, DenoiseSettings, Denoiser, Experts, Follower, Guest, Standing,
};

/// Where the checkpoints lie.
#[derive(Debug, Clone)]
pub struct StoryMemPaths {
    /// A `WanPipeline` folder, for first shots.
    pub text_to_video: PathBuf,
    /// A `WanImageToVideoPipeline` folder, for all other shots; `None` makes every shot from text
    /// alone.
    pub image_to_video: Option<PathBuf>,
    /// Folder with `backbone_high_noise.safetensors` and `backbone_low_noise.safetensors`.
    pub lora: Option<PathBuf>,
    /// A CLIP vision tower with projection; `None` tells no keyframes apart.
    pub clip: Option<PathBuf>,
    /// The [predictor](AestheticHead) that says how good a frame is; `None` asks the
    /// [rule](storyloom_models::scorer::SharpnessExposure) without a network.
    pub aesthetic: Option<PathBuf>,
}

impl StoryMemPaths {
    /// The pipeline whose VAE, text encoder and tokenizer serve both.
    pub fn shared(&self) -> &Path {
        self.image_to_video
            .as_deref()
            .unwrap_or(&self.text_to_video)
    }
}

/// How shots are sampled.
#[derive(Debug, Clone)]
pub struct StoryMemSettings {
    /// Kind and device of the transformers and the text encoder.
    pub target: Target,
    /// Sampling of first shots.
    pub text_to_video: DenoiseSettings,
    /// Sampling of all other shots.
    pub image_to_video: DenoiseSettings,
    /// How the adapters are applied.
    pub lora: LoraSettings,
    /// Distance of memory pictures on the temporal axis.
    pub memory_stride: i64,
    /// Whose resize comes before the vision tower that tells keyframes apart.
    pub selection_resize: SelectionResize,
    /// The negative prompt; `None` takes that of the original Wan code.
    pub negative_prompt: Option<String>,
    /// Threads of libtorch; `None` leaves that to it.
    pub threads: Option<i32>,
    /// Whether the ranks of a denoiser also share the rows of pictures that are decoded.
    pub share_decode: bool,
    /// Whether replicas without a story help others.
    pub widen: bool,
    /// How long leaders wait for each other.
    pub patience: Duration,
}

/// Makes shots by the method StoryMem, on one rank or as the leader of a replica.
///
/// Every stage has its own networks and can be used by one thread at a time, so that threads with
/// different shots work side by side.
#[derive(Debug)]
pub struct StoryMemEngine {
    threads: Option<i32>,
    device: Device,
    encoder: Station<Encoder>,
    sampling: Mutex<Sampling>,
    decoder: Station<Decoder>,
    /// Whether the ranks of the denoiser also share the rows of pictures.
    shares_rows: bool,
    leaders: Arc<Leaders>,
    crew: Arc<Crew>,
    identity: Identity,
    loaded: LoadedFiles,
}

/// What an engine is, for recipes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name and digest of each component.
    pub digests: Vec<(String, String)>,
    /// The name of the quality score.
    pub quality_score: &'static str,
    /// Digest of everything that decides the numbers: weights, sampling, precision.
    pub fingerprint: String,
    /// What moves their last bits: device, threads, ranks that share sums.
    pub arithmetic: String,
}

/// The networks of a stage: here, or on ranks of their own.
#[derive(Debug)]
enum Station<T> {
    Here(Mutex<T>),
    Ranks(Vec<Mutex<usize>>),
}

impl<T> Station<T> {
    /// On `ranks`, or as `open` makes it if there are none.
    fn new(ranks: Vec<usize>, open: impl FnOnce() -> Result<T>) -> Result<Self> {
        if ranks.is_empty() {
            return Ok(Self::Here(Mutex::new(open()?)));
        }
        Ok(Self::Ranks(ranks.into_iter().map(Mutex::new).collect()))
    }
}

/// Both pipelines and what their latents look like.
#[derive(Debug)]
struct Sampling {
    text_to_video: Denoiser,
    image_to_video: Option<Denoiser>,
    vae: VaeConfig,
    device: Device,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A stage that panicked has left its networks as they were: forwards do not change them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of several equal ranks, a free one if there is one.
fn free(ranks: &[Mutex<usize>]) -> MutexGuard<'_, usize> {
    let free = ranks.iter().find_map(|rank| rank.try_lock().ok());
    free.unwrap_or_else(|| lock(&ranks[0]))
}

impl StoryMemEngine {
    /// Loads what this rank needs to lead `replica`; the other ranks of it call [`serve`].
    pub fn open(
        paths: &StoryMemPaths,
        settings: &StoryMemSettings,
        replica: Replica,
    ) -> Result<Self> {
        settings.set_threads();
        let replica = replica.on_device(settings.target.device, settings.patience);
        let crew = Arc::new(Crew::new(replica));
        let replica = &crew.replica;
        let layout = replica.layout;
        let quality_score = scorer::name(paths.aesthetic.as_deref());
        let adapters = adapters(paths, settings)?;
        let loaded = loaded(paths, &adapters)?;
        let digests = loaded.digests();
        let identity = Identity {
            fingerprint: fingerprint(settings, &digests, &adapters, quality_score),
            arithmetic: arithmetic(settings, replica),
            digests,
            quality_score,
        };
        let rows = settings.rows(replica);
        let shares_rows = rows.part().of > 1;
        let (text_to_video, image_to_video) = open_experts(paths, settings, &replica.shard)?;
        let team = (layout.plan.degrees.ranks() > 1).then_some(&crew);
        // Whoever has two halves already needs no help.
        let may_help = settings.widen && layout.plan.degrees.cfg == 1;
        let leaders = Arc::new(Leaders::new(
            replica.leaders.clone().filter(|_| may_help),
            settings.target.device,
            settings.patience,
        ));
        let sampling = Sampling {
            text_to_video: Denoiser::new(
                &paths.text_to_video,
                text_to_video,
                settings.text_to_video,
                Pipeline::TextToVideo,
            )?
            .with_ranks(team, Some(&leaders)),
            image_to_video: paths
                .image_to_video
                .as_deref()
                .zip(image_to_video)
                .map(|(folder, experts)| {
                    let pipeline = Pipeline::ImageToVideo;
                    Denoiser::new(folder, experts, settings.image_to_video, pipeline)
                })
                .transpose()?
                .map(|denoiser| denoiser.with_ranks(team, Some(&leaders))),
            vae: VaeConfig::of(&Checkpoint::open(&paths.shared().join("vae"))?)?,
            device: settings.target.device,
        };
        sampling.check()?;
        Ok(Self {
            threads: settings.threads,
            device: settings.target.device,
            encoder: Station::new(layout.encoders(), || Encoder::open(paths, settings))?,
            decoder: Station::new(layout.decoders(), || Decoder::open(paths, settings, rows))?,
            sampling: Mutex::new(sampling),
            shares_rows,
            leaders,
            crew,
            identity,
            loaded,
        })
    }

    /// What this engine is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Fails if files of weights are not any more what they were when they were loaded.
    ///
    /// # Errors
    /// As [`LoadedFiles::check`].
    pub fn check_weights(&self) -> Result<()> {
        self.loaded.check()
    }

    /// Shots that each of the stages encode, denoise and decode can work on at once.
    pub fn capacities(&self) -> [usize; 3] {
        fn capacity<T>(station: &Station<T>) -> usize {
            match station {
                Station::Here(_) => 1,
                Station::Ranks(ranks) => ranks.len(),
            }
        }
        [capacity(&self.encoder), 1, capacity(&self.decoder)]
    }

    /// libtorch keeps the number of threads per thread.
    fn enter(&self) {
        set_threads(self.threads);
    }

    /// Stage `encode`: prompt, memory window and the frames that the shot continues.
    pub fn encode(&self, inputs: &ShotInputs) -> Result<Conditions> {
        self.enter();
        match &self.encoder {
            Station::Here(encoder) => lock(encoder).encode(inputs),
            Station::Ranks(ranks) => {
                let rank = free(ranks);
                let (command, tensors) = message::encode_command(inputs)?;
                let answer = self.crew.ask(*rank, &command, &tensors, self.device)?;
                message::conditions(answer)
            }
        }
    }

    /// Stage `denoise`: noise to normalised latents `[C, T, h, w]`, memory slots dropped.
    pub fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&Standing) -> bool,
    ) -> Result<HostTensor> {
        self.enter();
        lock(&self.sampling).denoise(inputs, conditions, resume, observer)
    }

    /// Lets this replica, which has no story, compute for another one, until that has finished its
    /// shot. `false` if nobody needs it.
    pub fn assist(&self) -> Result<bool> {
        self.enter();
        // Another thread may be at it, or at a shot.
        let Ok(sampling) = self.sampling.try_lock() else {
            return Ok(false);
        };
        let _guard = tch::no_grad_guard();
        let leaders = &self.leaders;
        let Some(mut asked) = leaders.after(None) else {
            return Ok(false);
        };
        leaders.say(asked, &Help::Offer)?;
        let mut guest: Option<Guest> = None;
        while let Some((from, help, mut tensors)) = leaders.next()? {
            match help {
                // Idle as well, or late with its offer.
                Help::Offer => leaders.say(from, &Help::Decline)?,
                Help::Prepare { pipeline, expert } => {
                    let denoiser = sampling.of(pipeline)?;
                    guest = Some(Guest::prepare(denoiser, expert, &mut tensors)?);
                }
                Help::Forward {
                    timestep,
                    positions,
                } => {
                    if let Some(guest) = &guest {
                        let velocity = guest.forward(timestep, positions, &mut tensors)?;
                        leaders.send(from, &Help::Velocity, &velocity)?;
                    }
                }
                Help::Release => return Ok(true),
                Help::Decline | Help::Bye if from == asked && guest.is_none() => {
                    let Some(next) = leaders.after(Some(asked)) else {
                        return Ok(false);
                    };
                    asked = next;
                    leaders.say(asked, &Help::Offer)?;
                }
                Help::Decline | Help::Bye | Help::Velocity => {}
            }
        }
        Err(ModelError::World(CommError::Late {
            group: "leaders".to_owned(),
            operation: "an offer to help".to_owned(),
            ranks: vec![asked],
            seconds: leaders.patience().as_secs(),
        }))
    }

    /// Stage `decode`: latents `[C, T, h, w]` of a shot, the frames it was given dropped.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        self.enter();
        match &self.decoder {
            Station::Here(decoder) => {
                let decoder = lock(decoder);
                if self.shares_rows {
                    let tensors = message::latents(latents)?;
                    let followers = self.crew.replica.followers(true);
                    self.crew.tell(&followers, &Command::DecodeRows, &tensors)?;
                }
                decoder.decode(&inputs.request, latents)
            }
            Station::Ranks(ranks) => {
                let rank = free(ranks);
                let request = inputs.request.clone();
                let command = Command::Decode { request };
                let tensors = message::latents(latents)?;
                message::clip(self.crew.ask(*rank, &command, &tensors, Device::Cpu)?)
            }
        }
    }

    /// First half of `select`: a unit-length embedding and a quality score for each picture.
    pub fn score(&self, pictures: &[&RgbImage]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        self.enter();
        match &self.decoder {
            Station::Here(decoder) => lock(decoder).score(pictures),
            Station::Ranks(ranks) => {
                let rank = free(ranks);
                let (command, tensors) = message::score_command(pictures)?;
                message::scores(self.crew.ask(*rank, &command, &tensors, Device::Cpu)?)
            }
        }
    }

    /// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
    pub fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        self.enter();
        match &self.decoder {
            Station::Here(decoder) => lock(decoder).remember(picture, size),
            Station::Ranks(ranks) => {
                let rank = free(ranks);
                let tensors = message::pictures(&[picture])?;
                let command = Command::Remember { size };
                message::array(self.crew.ask(*rank, &command, &tensors, Device::Cpu)?)
            }
        }
    }
}

/// Does what the leader of `replica` asks until it is done, on a rank that is not the leader.
///
/// # Errors
/// A network cannot be loaded, or the world fell apart.
pub fn serve(paths: &StoryMemPaths, settings: &StoryMemSettings, replica: Replica) -> Result<()> {
    settings.set_threads();
    let device = settings.target.device;
    let replica = &replica.on_device(device, settings.patience);
    match replica.seat().role {
        Role::Denoise(_) => {
            let (text_to_video, image_to_video) = open_experts(paths, settings, &replica.shard)?;
            let rows = settings.rows(replica);
            let vae = (rows.part().of > 1)
                .then(|| AutoencoderKlWan::open(&paths.shared().join("vae"), device));
            let vae = vae.transpose()?;
            let follower = Follower {
                replica,
                target: settings.target,
                text_to_video,
                image_to_video,
                decode_rows: Box::new(move |latents| match &vae {
                    Some(vae) => decode_rows(vae, &latents, &rows, &mut |_| Ok(())),
                    None => Err(ModelError::input("decode", "no decoder was loaded")),
                }),
            };
            follower.serve()
        }
        // It belongs to no replica.
        Role::Plan => Ok(()),
        Role::Encode => {
            let mut encoder = Encoder::open(paths, settings)?;
            crate::replica::serve(replica, device, |command, tensors| {
                message::encode(&mut encoder, command, tensors).map(Some)
            })
        }
        Role::Decode => {
            let decoder = Decoder::open(paths, settings, Peers::default())?;
            crate::replica::serve(replica, Device::Cpu, |command, tensors| {
                message::decode(&decoder, command, tensors).map(Some)
            })
        }
    }
}

fn open_experts(
    paths: &StoryMemPaths,
    settings: &StoryMemSettings,
    shard: &Shard,
) -> Result<(Experts, Option<Experts>)> {
    let lora = paths.lora.as_deref().map(|folder| (folder, settings.lora));
    let first = Experts::open(&paths.text_to_video, settings.target, None, shard)?;
    let others = paths.image_to_video.as_deref();
    let others = others.map(|folder| Experts::open(folder, settings.target, lora, shard));
    Ok((first, others.transpose()?))
}

impl StoryMemSettings {
    fn set_threads(&self) {
        set_threads(self.threads);
    }

    /// The ranks that decode together: those of the denoiser, if they shall.
    fn rows(&self, replica: &Replica) -> Peers {
        let is_shared = self.share_decode && replica.layout.plan.decoders == 0;
        Peers::new(is_shared.then(|| replica.denoiser.clone()).flatten())
    }
}

fn set_threads(threads: Option<i32>) {
    if let Some(threads) = threads {
        tch::set_num_threads(threads);
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let z_dim = self.vae.z_dim;
        let wanted = 4 + z_dim;
        let others = self.image_to_video.iter();
        let others = others.map(|denoiser| ("image-to-video", denoiser, wanted));
        for (name, denoiser, condition) in
            std::iter::once(("text-to-video", &self.text_to_video, 0)).chain(others)
        {
            let found = (denoiser.latent_channels(), denoiser.condition_channels());
            if found != (z_dim, condition) {
                let reason = format!(
                    "its transformers take {} latent and {} condition channels, {z_dim} and \
                     {condition} are needed",
                    found.0, found.1
                );
                return Err(ModelError::input(format!("the {name} pipeline"), reason));
            }
        }
        Ok(())
    }

    fn of(&self, pipeline: Pipeline) -> Result<&Denoiser> {
        match pipeline {
            Pipeline::TextToVideo => Ok(&self.text_to_video),
            Pipeline::ImageToVideo => self.image_to_video.as_ref().ok_or_else(no_image_to_video),
        }
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&Standing) -> bool,
    ) -> Result<HostTensor> {
        let denoiser = self.of(match conditions.pictures {
            Some(_) => Pipeline::ImageToVideo,
            None => Pipeline::TextToVideo,
        })?;
        let noise = self.noise(inputs, conditions)?;
        let start = DenoiseInputs {
            noise: &noise,
            text: &conditions.text,
            condition: conditions.pictures.as_ref(),
            temporal_positions: &conditions.positions,
        };
        let latents = denoiser.sample(&start, resume, observer)?;
        let memory = conditions.memory as i64;
        let frames = latents.size()[2] - memory;
        to_host(&latents.f_narrow(2, memory, frames)?.f_squeeze_dim(0)?)
    }

    /// Memory slots and the shot draw from streams of their own, so that the shot's noise does
    /// not depend on how much it remembers.
    fn noise(&self, inputs: &ShotInputs, conditions: &Conditions) -> Result<Tensor> {
        let factor = self.vae.spatial_factor();
        let video = inputs.request.video;
        let [height, width] = [video.height, video.width].map(|side| i64::from(side) / factor);
        let frames = (conditions.positions.len() - conditions.memory) as i64;
        let channels = self.vae.z_dim;
        let seed: Seed = inputs.request.seed;
        let draw = |stream, frames| gaussian(seed, stream, &[1, channels, frames, height, width]);
        let shot = draw(Stream::Shot, frames)?;
        let noise = match conditions.memory as i64 {
            0 => shot,
            memory => Tensor::f_cat(&[draw(Stream::Memory, memory)?, shot], 2)?,
        };
        Ok(noise.f_to_device(self.device)?)
    }
}

/// What to say where the pipeline for pictures is needed after all.
pub(crate) fn no_image_to_video() -> ModelError {
    let reason = "no i2v checkpoint is loaded, so that no shot can continue the one before; set \
                  memory.continuation = \"none\", or put i2v into models.dir";
    ModelError::bad_file("i2v", reason)
}

/// Digest of everything that decides the numbers.
fn fingerprint(
    settings: &StoryMemSettings,
    digests: &[(String, String)],
    adapters: &[(&str, AdapterIdentity)],
    quality_score: &str,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, digest) in digests {
        hasher.update(format!("{name}={digest}\n").as_bytes());
    }
    hasher.update(settings_text(settings, quality_score).as_bytes());
    for (name, adapter) in adapters {
        if let Some(scales) = &adapter.scales {
            hasher.update(format!("\nscales of {name}={scales}").as_bytes());
        }
    }
    // The first builds had no other, and their runs go on.
    if settings.selection_resize == SelectionResize::Torch {
        hasher.update(b"\nselection resize=torch");
    }
    hasher.finalize().to_hex().to_string()
}

/// The decisive settings as the first builds wrote them. Runs carry the digest of this text, so it is
/// a format of its own: the names in it are not those of today's types, and it never changes. A setting
/// that came later is a line of its own behind it, and only where it is not what the first builds did.
fn settings_text(settings: &StoryMemSettings, quality_score: &str) -> String {
    let phase = |settings: &DenoiseSettings| {
        let sampler = &settings.sampler;
        let solver = match sampler.kind {
            SamplerKind::UniPc => "UniPc",
            SamplerKind::DpmPlusPlus => "DpmPlusPlus",
            SamplerKind::Euler => "Euler",
        };
        let reference = match sampler.reference {
            Reference::Wan => "Wan",
            Reference::Diffusers => "Diffusers",
        };
        format!(
            "DenoiseSettings {{ sampler: SamplerSettings {{ kind: {solver}, reference: {reference}, \
             steps: {}, shift: {:?}, boundary: {} }}, guidance_high: {:?}, guidance_low: {:?} }}",
            sampler.steps,
            sampler.shift,
            optional(sampler.boundary),
            settings.guidance_high,
            settings.guidance_low,
        )
    };
    format!(
        "({}, {}, {}, LoraSettings {{ alpha: {}, merge: {} }}, {}, {}, {quality_score:?})",
        kind_name(settings.target.kind),
        phase(&settings.text_to_video),
        phase(&settings.image_to_video),
        optional(settings.lora.alpha),
        settings.lora.merge,
        settings.memory_stride,
        optional(settings.negative_prompt.as_ref()),
    )
}

/// `None` or `Some(value)`; numbers have a point, texts are quoted.
fn optional(value: Option<impl std::fmt::Debug>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| format!("Some({value:?})"))
}

/// The name of a kind of numbers in fingerprints.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "Float",
        Kind::BFloat16 => "BFloat16",
        Kind::Half => "Half",
        _ => "other",
    }
}

/// How sums are divided. The number of replicas, who encodes or decodes and who has which half of
/// guidance change nothing.
fn arithmetic(settings: &StoryMemSettings, replica: &Replica) -> String {
    let mut parts = vec![match settings.target.device {
        Device::Cpu => format!("cpu, {} threads", tch::get_num_threads()),
        device => format!("{device:?}").to_lowercase(),
    }];
    let degrees = replica.degrees();
    for (name, ranks) in [("tensor", degrees.tensor), ("sequence", degrees.sequence)] {
        if ranks > 1 {
            parts.push(format!("{name} {ranks}"));
        }
    }
    let rows = settings.rows(replica).part().of;
    if rows > 1 {
        parts.push(format!("rows {rows}"));
    }
    parts.join(", ")
}

/// The adapters of the image-to-video experts, by the names that they have in records.
fn adapters(
    paths: &StoryMemPaths,
    settings: &StoryMemSettings,
) -> Result<Vec<(&'static str, AdapterIdentity)>> {
    let (Some(lora), Some(pipeline)) = (&paths.lora, &paths.image_to_video) else {
        return Ok(Vec::new());
    };
    let is_there = |expert: AdaptedExpert| component_folder(pipeline, expert.component()).is_dir();
    let is_only = !is_there(AdaptedExpert::Low);
    let identity = |expert: AdaptedExpert| {
        let file = adapter_file(lora, expert, is_only)?;
        Ok((expert.name(), adapter_identity(&file, settings.lora)?))
    };
    AdaptedExpert::ALL
        .into_iter()
        .filter(|expert| is_there(*expert))
        .map(identity)
        .collect()
}

/// Every component and the adapters, as they are now.
fn loaded(paths: &StoryMemPaths, adapters: &[(&str, AdapterIdentity)]) -> Result<LoadedFiles> {
    let mut parts = Vec::new();
    for (pipeline, folder) in [
        ("t2v", Some(&paths.text_to_video)),
        ("i2v", paths.image_to_video.as_ref()),
    ] {
        let Some(folder) = folder else { continue };
        for part in ["transformer", "transformer_2", "vae", "text_encoder"] {
            let component = component_folder(folder, part);
            if component.is_dir() {
                parts.push((format!("{pipeline}/{part}"), Source::Folder(component)));
            }
        }
    }
    if let Some(clip) = &paths.clip {
        parts.push(("clip".to_owned(), Source::Folder(clip.clone())));
    }
    if let Some(folder) = &paths.aesthetic {
        parts.extend(AestheticHead::parts(folder));
    }
    for (name, adapter) in adapters {
        parts.push((format!("lora/{name}"), Source::File(adapter.file.clone())));
    }
    LoadedFiles::read(parts)
}

/// The folders below `models.dir`: `t2v`, `i2v`, `clip`, and `lora` or where the user has it. Quality is
/// that of the rule.
pub fn storymem_paths(dir: &Path, lora: Option<PathBuf>) -> StoryMemPaths {
    use storyloom_models::tiny::folders;
    StoryMemPaths {
        text_to_video: dir.join(folders::TEXT_TO_VIDEO),
        image_to_video: Some(dir.join(folders::IMAGE_TO_VIDEO)),
        lora,
        clip: Some(dir.join(folders::CLIP)),
        aesthetic: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings};
    use storyloom_models::scorer::SharpnessExposure;
    use storyloom_nn::lora::LoraScaling;

    fn settings(selection_resize: SelectionResize) -> StoryMemSettings {
        let phase = |shift, boundary| DenoiseSettings {
            sampler: SamplerSettings {
                kind: SamplerKind::UniPc,
                reference: Reference::Wan,
                steps: 40,
                shift,
                boundary: Some(boundary),
            },
            guidance_high: 3.5,
            guidance_low: 3.5,
        };
        StoryMemSettings {
            target: Target::CPU_F32,
            text_to_video: phase(12.0, 0.875),
            image_to_video: phase(4.0, 0.9),
            lora: LoraSettings {
                alpha: None,
                scaling: LoraScaling::Files,
                merge: true,
            },
            memory_stride: 5,
            selection_resize,
            negative_prompt: None,
            threads: None,
            share_decode: false,
            widen: true,
            patience: Duration::from_secs(300),
        }
    }

    fn digest(settings: &StoryMemSettings, quality_score: &str) -> String {
        let digests = [("clip".to_owned(), "0123".to_owned())];
        fingerprint(settings, &digests, &[], quality_score)
    }

    fn of(selection_resize: SelectionResize, quality_score: &str) -> String {
        digest(&settings(selection_resize), quality_score)
    }

    /// Every setting in another form than above: the text and the digest that the builds had which
    /// wrote it from their types.
    #[test]
    fn the_text_behind_a_fingerprint_is_a_format() {
        let mut others = settings(SelectionResize::Torch);
        others.target.kind = Kind::BFloat16;
        others.text_to_video.sampler.kind = SamplerKind::DpmPlusPlus;
        others.text_to_video.sampler.boundary = None;
        others.text_to_video.guidance_high = 4.0;
        others.image_to_video.sampler.kind = SamplerKind::Euler;
        others.image_to_video.sampler.reference = Reference::Diffusers;
        others.image_to_video.sampler.steps = 8;
        others.image_to_video.sampler.shift = 1e-7;
        others.lora.alpha = Some(64.0);
        others.lora.merge = false;
        others.memory_stride = 1;
        others.negative_prompt =
            Some("a \"blurry\"\npicture, mauvaise qualit\u{e9} \u{4f4e}".to_owned());
        let text = settings_text(&others, "a score");
        assert_eq!(text, OTHERS);
        let digest = digest(&others, "a score");
        assert_eq!(
            digest,
            "9019e318392d59c811c555f6b8b7a283f08f961f772e8cdcd39aae3c08a24cea"
        );
    }

    const OTHERS: &str = "(BFloat16, DenoiseSettings { sampler: SamplerSettings { \
        kind: DpmPlusPlus, reference: Wan, steps: 40, shift: 12.0, boundary: None }, \
        guidance_high: 4.0, guidance_low: 3.5 }, DenoiseSettings { sampler: SamplerSettings { \
        kind: Euler, reference: Diffusers, steps: 8, shift: 1e-7, boundary: Some(0.9) }, \
        guidance_high: 3.5, guidance_low: 3.5 }, LoraSettings { alpha: Some(64.0), merge: false }, \
        1, Some(\"a \\\"blurry\\\"\\npicture, mauvaise qualit\u{e9} \u{4f4e}\"), \"a score\")";

    /// Runs of earlier builds, which knew Pillow's resize and the rule only, go on: the literal is
    /// theirs. Every other choice is another run.
    #[test]
    fn fingerprints_of_the_first_builds_stay() {
        let first = of(SelectionResize::Pillow, SharpnessExposure::NAME);
        assert_eq!(first, FIRST);
        let others = [
            of(SelectionResize::Torch, SharpnessExposure::NAME),
            of(SelectionResize::Pillow, AestheticHead::NAME),
            of(SelectionResize::Torch, AestheticHead::NAME),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != first && !others[..at].contains(other), "{at}");
        }
    }

    const FIRST: &str = "29e2a98d1266c4867b931d73a4e4d8493e112ccc11ce807acb4b6711dbfe5566";
}
