//! The stages of a method on Wan: on one rank, or on the leader of a replica and the ranks that it asks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_nn::shard::{Peers, Shard};
use storyloom_parallel::topology::Role;
use storyloom_story::{
    Capacities, Clip, HostTensor, Resolution, RgbImage, ShotRequest, Stage as StageName,
};
use tch::Device;

use super::message::{DecodeRequest, RememberRequest, rows_to_decode};
use super::{Compute, FrameDecoder, HasFrames, Identity};
use crate::backbone::Networks;
use crate::replica::Replica;
use crate::replica::assist::assist;
use crate::replica::follower::Follower;
use crate::replica::pool::{FollowerPool, not_for_this_rank, serve_stages};
use crate::replica::station::{StageRequest, Station, lock};
use crate::replica::team::Team;
use crate::replica::wire::Tensors;

/// What the stages of a method on Wan are made of.
pub(in crate::method) trait WanMethod {
    /// The networks of stage `encode`.
    type Encoder;
    /// The networks of the stages `decode` and `select`.
    type Decoder: HasFrames;
    /// How its loops walk.
    type Plans;

    /// Where they run.
    fn compute(&self) -> &Compute;

    /// The pipeline whose autoencoder makes frames of latents.
    fn pipeline(&self) -> &Path;

    /// What it is on the ranks of `replica`, and the files that it is loaded from.
    fn identity(&self, replica: &Replica) -> Result<(Identity, LoadedFiles)>;

    /// Loads the networks of stage `encode`.
    fn encoder(&self) -> Result<Self::Encoder>;

    /// Loads the networks of the stages `decode` and `select`. `rows` are the ranks that decode together with
    /// this one.
    fn decoder(&self, rows: Peers) -> Result<Self::Decoder>;

    /// Loads the networks of the loops, whole or this rank's slices.
    fn networks(&self, shard: &Shard) -> Result<(Networks, Self::Plans)>;

    /// Answers a request of stage `encode` on a rank that has nothing else.
    fn answer_encode(
        encoder: &mut Self::Encoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)>;

    /// The same of the stages `decode` and `select`.
    fn answer_decode(
        decoder: &Self::Decoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)>;
}

/// The stages of a method whose networks of `encode` are `E` and of `decode` are `D`, and whose loops walk as
/// `P` says.
///
/// Every stage has its own networks and can be used by one thread at a time, so that threads with
/// different shots work side by side.
#[derive(Debug)]
pub(in crate::method) struct Stages<E, D, P> {
    compute: Compute,
    encoder: Station<E>,
    networks: Mutex<Networks>,
    team: Team,
    decoder: Station<D>,
    /// How the loops walk.
    pub(in crate::method) plans: P,
    /// Whether the ranks of the denoiser also share the rows of pictures.
    shares_rows: bool,
    pool: Arc<FollowerPool>,
    identity: Identity,
    loaded: LoadedFiles,
}

impl<E, D: HasFrames, P> Stages<E, D, P> {
    /// Loads what this rank needs to lead `replica`; the other ranks of it call [`serve`].
    pub(in crate::method) fn open<M>(method: &M, replica: Replica) -> Result<Self>
    where
        M: WanMethod<Encoder = E, Decoder = D, Plans = P>,
    {
        let compute = method.compute();
        compute.set_threads();
        let replica = replica.on_device(compute.target.device, compute.collective_timeout);
        // Its end lets the other ranks go, also where something below fails.
        let pool = Arc::new(FollowerPool::new(replica));
        let replica = &pool.replica;
        let (identity, loaded) = method.identity(replica)?;
        let rows = compute.rows(replica);
        let shares_rows = rows.part().of > 1;
        let (networks, plans) = method.networks(&replica.shard)?;
        let layout = replica.layout;
        Ok(Self {
            compute: compute.clone(),
            encoder: Station::new(layout.encoders(), || method.encoder())?,
            decoder: Station::new(layout.decoders(), || method.decoder(rows))?,
            networks: Mutex::new(networks),
            team: compute.team(&pool),
            plans,
            shares_rows,
            pool,
            identity,
            loaded,
        })
    }

    /// What this engine is.
    pub(in crate::method) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where its networks run.
    pub(in crate::method) fn device(&self) -> Device {
        self.compute.target.device
    }

    /// Fails if files of weights are not any more what they were when they were loaded.
    pub(in crate::method) fn check_weights(&self) -> Result<()> {
        self.loaded.check()
    }

    /// Shots that each stage can work on at once.
    pub(in crate::method) fn capacities(&self) -> Capacities {
        Capacities {
            encode: self.encoder.capacity(),
            denoise: 1,
            decode: self.decoder.capacity(),
        }
    }

    /// Before a stage is used on this thread.
    pub(in crate::method) fn enter(&self) {
        self.compute.set_threads();
    }

    /// Something of stage `encode`; tensors come to the device.
    pub(in crate::method) fn encode<R: StageRequest<E>>(&self, request: &R) -> Result<R::Output> {
        self.enter();
        self.encoder.ask(&self.pool, self.device(), request)
    }

    /// The networks of the loops, for as long as one loop walks, and whom they are shared with.
    pub(in crate::method) fn denoise<T>(&self, walk: impl FnOnce(&Networks, &Team) -> T) -> T {
        self.enter();
        walk(&lock(&self.networks), &self.team)
    }

    /// Lets this replica, which has no story, compute for another one, until that has finished its
    /// shot. `false` if nobody needs it.
    pub(in crate::method) fn assist(&self) -> Result<bool> {
        self.enter();
        // Another thread may be helping, or at a shot.
        let Ok(networks) = self.networks.try_lock() else {
            return Ok(false);
        };
        assist(&networks, &self.team)
    }

    /// Latents `[C, T, h, w]` of a shot to its frames.
    pub(in crate::method) fn decode(
        &self,
        request: &ShotRequest,
        latents: &HostTensor,
    ) -> Result<Clip> {
        self.ask_decoder(&DecodeRequest {
            request,
            latents,
            rows: self.shares_rows.then_some(&*self.pool),
        })
    }

    /// Pictures of one clip as normalised latents `[C, T, h, w]`.
    pub(in crate::method) fn remember(
        &self,
        pictures: &[&RgbImage],
        size: Resolution,
    ) -> Result<HostTensor> {
        self.ask_decoder(&RememberRequest { pictures, size })
    }

    /// Something of the stages `decode` and `select`.
    pub(in crate::method) fn ask_decoder<R: StageRequest<D>>(
        &self,
        request: &R,
    ) -> Result<R::Output> {
        self.enter();
        self.decoder.ask(&self.pool, Device::Cpu, request)
    }
}

/// Does what the leader of `replica` asks until it is done, on a rank that is not the leader.
pub(in crate::method) fn serve<M: WanMethod>(method: &M, replica: Replica) -> Result<()> {
    let compute = method.compute();
    compute.set_threads();
    let device = compute.target.device;
    let replica = &replica.on_device(device, compute.collective_timeout);
    match replica.seat().role {
        Role::Denoise(_) => follow(method, replica),
        // It belongs to no replica.
        Role::Plan => Ok(()),
        Role::Encode => {
            let mut encoder = method.encoder()?;
            serve_stages(replica, device, |_, message, tensors| {
                M::answer_encode(&mut encoder, message, tensors)
            })
        }
        Role::Decode => {
            let decoder = method.decoder(Peers::default())?;
            serve_stages(replica, Device::Cpu, |_, message, tensors| {
                M::answer_decode(&decoder, message, tensors)
            })
        }
    }
}

/// Shares the transformers of a leader, and the rows of its pictures where they are shared.
fn follow<M: WanMethod>(method: &M, replica: &Replica) -> Result<()> {
    let (networks, _) = method.networks(&replica.shard)?;
    let compute = method.compute();
    let (rows, device) = (compute.rows(replica), compute.target.device);
    let frames = (rows.part().of > 1)
        .then(|| FrameDecoder::open(method.pipeline(), device, rows))
        .transpose()?;
    let follower = Follower {
        replica,
        device,
        networks,
        stage: Box::new(move |stage, message, tensors| match (stage, &frames) {
            (StageName::Decode, Some(frames)) => {
                let latents = rows_to_decode(message, tensors)?;
                frames.decode_rows(&latents, &mut |_| Ok(()))
            }
            _ => Err(not_for_this_rank(&stage)),
        }),
    };
    follower.serve()
}
