//! StoryMem: keyframes of earlier shots injected into the latents of Wan2.2 (arXiv 2512.19539).
//!
//! Each stage has a file. All networks are loaded once and kept.

mod adapters;
mod decode;
mod denoise;
pub mod encode;
mod fingerprint;
mod grid;
mod message;
pub mod parts;
mod paths;
#[cfg(test)]
mod replicas_test;
mod select;
mod settings;

use std::sync::{Arc, Mutex};

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::scorer;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_nn::shard::Peers;
use storyloom_parallel::topology::Role;
use storyloom_story::{
    Capacities, Clip, HostTensor, LatentGrid, LoopState, Resolution, RgbImage, ShotInputs, Stage,
};
use tch::Device;

use self::decode::{Decoder, DecoderParts, decode_rows};
use self::denoise::{Denoiser, open_networks};
use self::encode::{Conditions, Encoder, EncoderParts};
use self::message::{DecodeRequest, EncodeRequest, RememberRequest, ScoreRequest};
use self::settings::set_threads;
use crate::replica::Replica;
use crate::replica::assist::assist;
use crate::replica::follower::Follower;
use crate::replica::help::Leaders;
use crate::replica::pool::{FollowerPool, not_for_this_rank, serve_stages};
use crate::replica::station::{Station, lock};
use crate::replica::team::Team;
use crate::sampling::LoopProgress;

pub use self::grid::latent_grid;
pub use self::paths::{StoryMemPaths, storymem_paths};
pub use self::settings::{DenoiseSettings, StoryMemSettings};

/// Makes shots by the method StoryMem, on one rank or as the leader of a replica.
///
/// Every stage has its own networks and can be used by one thread at a time, so that threads with
/// different shots work side by side.
#[derive(Debug)]
pub struct StoryMemEngine {
    threads: Option<i32>,
    device: Device,
    encoder: Station<Encoder>,
    denoiser: Mutex<Denoiser>,
    decoder: Station<Decoder>,
    /// Whether the ranks of the denoiser also share the rows of pictures.
    shares_rows: bool,
    pool: Arc<FollowerPool>,
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

impl StoryMemEngine {
    /// Loads what this rank needs to lead `replica`; the other ranks of it call [`serve`].
    ///
    /// # Errors
    /// A network cannot be loaded, or it does not fit the others.
    pub fn open(
        paths: &StoryMemPaths,
        settings: &StoryMemSettings,
        replica: Replica,
    ) -> Result<Self> {
        settings.set_threads();
        let device = settings.target.device;
        let replica = replica.on_device(device, settings.collective_timeout);
        // Its end lets the other ranks go, also where something below fails.
        let pool = Arc::new(FollowerPool::new(replica));
        let replica = &pool.replica;
        let quality_score = scorer::name(paths.aesthetic.as_deref());
        let adapters = paths::adapters(paths, settings)?;
        let loaded = paths::loaded(paths, &adapters)?;
        let digests = loaded.digests();
        let identity = Identity {
            fingerprint: fingerprint::fingerprint(settings, &digests, &adapters, quality_score),
            arithmetic: fingerprint::arithmetic(settings, replica),
            digests,
            quality_score,
        };
        let layout = replica.layout;
        let rows = settings.rows(replica);
        let shares_rows = rows.part().of > 1;
        let team = team(settings, &pool);
        let grid = latent_grid(paths)?;
        let denoiser = Denoiser::open(paths, settings, grid, &replica.shard, team)?;
        Ok(Self {
            threads: settings.threads,
            device,
            encoder: Station::new(layout.encoders(), || {
                Encoder::open(&encoder_parts(paths, settings, grid))
            })?,
            decoder: Station::new(layout.decoders(), || {
                Decoder::open(&decoder_parts(paths, settings), rows)
            })?,
            denoiser: Mutex::new(denoiser),
            shares_rows,
            pool,
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

    /// Shots that each stage can work on at once.
    pub fn capacities(&self) -> Capacities {
        Capacities {
            encode: self.encoder.capacity(),
            denoise: 1,
            decode: self.decoder.capacity(),
        }
    }

    /// libtorch keeps the number of threads per thread.
    fn enter(&self) {
        set_threads(self.threads);
    }

    /// Stage `encode`: prompt, memory window and the frames that the shot continues.
    ///
    /// # Errors
    /// A picture does not fit, or libtorch or a rank fails; so it is for all stages.
    pub fn encode(&self, inputs: &ShotInputs) -> Result<Conditions> {
        self.enter();
        let request = EncodeRequest(inputs);
        self.encoder.ask(&self.pool, self.device, &request)
    }

    /// Stage `denoise`: noise to normalised latents `[C, T, h, w]`, memory slots dropped.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`](storyloom_nn::ModelError::Interrupted) where `observer` returns `false`, and as for all stages.
    pub fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<HostTensor> {
        self.enter();
        lock(&self.denoiser).denoise(inputs, conditions, resume, observer)
    }

    /// Lets this replica, which has no story, compute for another one, until that has finished its
    /// shot. `false` if nobody needs it.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub fn assist(&self) -> Result<bool> {
        self.enter();
        // Another thread may be helping, or at a shot.
        let Ok(denoiser) = self.denoiser.try_lock() else {
            return Ok(false);
        };
        assist(&denoiser.networks, &denoiser.team)
    }

    /// Stage `decode`: latents `[C, T, h, w]` of a shot, the frames it was given dropped.
    ///
    /// # Errors
    /// As for all stages.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        self.enter();
        let request = DecodeRequest {
            request: &inputs.request,
            latents,
            rows: self.shares_rows.then_some(&*self.pool),
        };
        self.decoder.ask(&self.pool, Device::Cpu, &request)
    }

    /// First half of `select`: a unit-length embedding and a quality score for each picture.
    ///
    /// # Errors
    /// As for all stages.
    pub fn score(&self, pictures: &[&RgbImage]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        self.enter();
        let request = ScoreRequest(pictures);
        self.decoder.ask(&self.pool, Device::Cpu, &request)
    }

    /// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        self.enter();
        let request = RememberRequest { picture, size };
        self.decoder.ask(&self.pool, Device::Cpu, &request)
    }
}

fn encoder_parts<'a>(
    paths: &'a StoryMemPaths,
    settings: &'a StoryMemSettings,
    grid: LatentGrid,
) -> EncoderParts<'a> {
    EncoderParts {
        pipeline: paths.shared(),
        takes_pictures: paths.image_to_video.is_some(),
        negative_prompt: settings.negative_prompt.as_deref(),
        memory_stride: settings.memory_stride,
        grid,
        target: settings.target,
    }
}

fn decoder_parts<'a>(paths: &'a StoryMemPaths, settings: &StoryMemSettings) -> DecoderParts<'a> {
    DecoderParts {
        pipeline: paths.shared(),
        clip: paths.clip.as_deref(),
        aesthetic: paths.aesthetic.as_deref(),
        resize: settings.selection_resize,
        device: settings.target.device,
    }
}

/// Whom the leader of `pool` shares predictions with.
fn team(settings: &StoryMemSettings, pool: &Arc<FollowerPool>) -> Team {
    let replica = &pool.replica;
    let degrees = replica.degrees();
    // A replica that has two halves already needs no help.
    let may_help = settings.widen && degrees.cfg == 1;
    let leaders = Leaders::new(
        replica.leaders.clone().filter(|_| may_help),
        settings.target.device,
        settings.collective_timeout,
    );
    Team {
        pool: (degrees.ranks() > 1).then(|| Arc::clone(pool)),
        leaders: Some(Arc::new(leaders)),
    }
}

/// Does what the leader of `replica` asks until it is done, on a rank that is not the leader.
///
/// # Errors
/// A network cannot be loaded, or the world fell apart.
pub fn serve(paths: &StoryMemPaths, settings: &StoryMemSettings, replica: Replica) -> Result<()> {
    settings.set_threads();
    let device = settings.target.device;
    let replica = &replica.on_device(device, settings.collective_timeout);
    match replica.seat().role {
        Role::Denoise(_) => follow(paths, settings, replica),
        // It belongs to no replica.
        Role::Plan => Ok(()),
        Role::Encode => {
            let parts = encoder_parts(paths, settings, latent_grid(paths)?);
            let mut encoder = Encoder::open(&parts)?;
            serve_stages(replica, device, |_, message, tensors| {
                message::encode(&mut encoder, message, tensors)
            })
        }
        Role::Decode => {
            let decoder = Decoder::open(&decoder_parts(paths, settings), Peers::default())?;
            serve_stages(replica, Device::Cpu, |_, message, tensors| {
                message::decode(&decoder, message, tensors)
            })
        }
    }
}

/// Shares the transformers of a leader, and the rows of its pictures where they are shared.
fn follow(paths: &StoryMemPaths, settings: &StoryMemSettings, replica: &Replica) -> Result<()> {
    let (networks, ..) = open_networks(paths, settings, &replica.shard)?;
    let (rows, device) = (settings.rows(replica), settings.target.device);
    let vae = (rows.part().of > 1)
        .then(|| AutoencoderKlWan::open(&paths.shared().join("vae"), device))
        .transpose()?;
    let follower = Follower {
        replica,
        device,
        networks,
        stage: Box::new(move |stage, message, tensors| match (stage, &vae) {
            (Stage::Decode, Some(vae)) => {
                let latents = message::rows_to_decode(message, tensors)?;
                decode_rows(vae, &latents, &rows, &mut |_| Ok(()))
            }
            _ => Err(not_for_this_rank(&stage)),
        }),
    };
    follower.serve()
}
