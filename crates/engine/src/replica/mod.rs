//! The ranks of a replica: one leads, the others do what it asks.
//!
//! Only the leader knows of stories and holds the state of a sampling loop. The others hold slices
//! of the transformers, or the networks of one stage, and answer [`Command`]s in the order in which
//! they come. A shot can therefore go on with other ranks, or more or fewer of them, from what its
//! leader saved.

pub(crate) mod help;
pub(crate) mod wire;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_models::sampler::Expert;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::shard::Shard;
use storyloom_parallel::topology::{Degrees, DenoisePlace, Layout, Plan, Role, Seat};
use storyloom_parallel::{Group, World};
use storyloom_story::{ErrorClass, Resolution, ShotRequest};
use tch::Device;

use crate::replica::wire::{Tensors, pack, unpack};

/// One rank's place in its replica.
#[derive(Debug)]
pub struct Replica {
    /// All ranks of the replica; 0 leads.
    pub(crate) group: Group,
    pub(crate) layout: Layout,
    pub(crate) seat: Seat,
    /// The ranks of the denoiser, for those in it.
    pub(crate) denoiser: Option<Group>,
    /// This rank's slice of it.
    pub(crate) shard: Shard,
    /// The leaders of all replicas, for those.
    pub(crate) leaders: Option<Group>,
}

impl Replica {
    /// A replica of one rank.
    pub fn alone() -> Self {
        let plan = Plan {
            replicas: Some(1),
            degrees: Degrees::ONE,
            encoders: 0,
            decoders: 0,
            planners: 0,
            planner_tensor: 1,
        };
        let layout = Layout { replicas: 1, plan };
        Self {
            group: World::alone().group().clone(),
            layout,
            seat: layout.seat(0),
            denoiser: None,
            shard: Shard::default(),
            leaders: None,
        }
    }

    /// This rank's replica in a world that is divided by `layout`. All ranks call it.
    ///
    /// # Errors
    /// A rank is missing.
    pub fn join(world: &Group, layout: Layout) -> Result<Self> {
        let seat = layout.seat(world.rank());
        let leaders = world.subgroup(&layout.leaders(), "leaders")?;
        let mut own = None;
        for replica in 0..layout.replicas {
            let name = format!("replica {replica}");
            if let Some(group) = world.subgroup(&layout.members(replica), &name)? {
                own = Some(group);
            }
        }
        let group = own.unwrap_or_else(|| world.clone());
        let degrees = layout.plan.degrees;
        let denoisers: Vec<usize> = (0..degrees.ranks()).collect();
        let denoiser = group.subgroup(&denoisers, "denoiser")?;
        let shard = match &denoiser {
            Some(denoiser) => Shard::join(denoiser, degrees)?.0,
            None => Shard::default(),
        };
        Ok(Self {
            group,
            layout,
            seat,
            denoiser,
            shard,
            leaders,
        })
    }

    /// The same with collectives on the ranks' GPUs, if tensors are there.
    pub(crate) fn on_device(mut self, device: Device, patience: Duration) -> Self {
        self.shard = self.shard.on_device(device, patience);
        self
    }

    /// Whether this rank leads.
    pub fn is_leader(&self) -> bool {
        self.seat.index == 0
    }

    /// Where this rank sits in the world.
    pub fn seat(&self) -> Seat {
        self.seat
    }

    pub(crate) fn degrees(&self) -> Degrees {
        self.layout.plan.degrees
    }

    /// Place of this rank in the denoiser.
    pub(crate) fn place(&self) -> DenoisePlace {
        match self.seat.role {
            Role::Denoise(place) => place,
            _ => self.degrees().place(0),
        }
    }

    /// The other ranks of the denoiser, of the halves of guidance that are wanted.
    pub(crate) fn followers(&self, guided: bool) -> Vec<usize> {
        let degrees = self.degrees();
        (1..degrees.ranks())
            .filter(|&index| guided || degrees.place(index).cfg == 0)
            .collect()
    }

    /// The first rank of the half that has the negative prompt, if that is another one.
    pub(crate) fn negative_leader(&self) -> Option<usize> {
        let degrees = self.degrees();
        (degrees.cfg == 2).then_some(degrees.tensor * degrees.sequence)
    }
}

/// Which of the two pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pipeline {
    TextToVideo,
    ImageToVideo,
}

/// What a leader asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Project the prompts for the expert that samples next; the negative one only if it guides.
    Prepare {
        pipeline: Pipeline,
        expert: Expert,
        guided: bool,
    },
    /// One forward with each prompt that was prepared.
    Forward { timestep: f64, positions: Vec<i64> },
    /// Decode one's rows of these latents.
    DecodeRows,
    /// Stage `encode`.
    Encode {
        request: ShotRequest,
        /// Hash of each memory picture.
        memory: Vec<String>,
        /// Frames of the shot before.
        tail: usize,
    },
    /// Stage `decode`.
    Decode { request: ShotRequest },
    /// Embeddings and quality of so many pictures.
    Score { pictures: usize },
    /// One picture as a latent frame.
    Remember { size: Resolution },
    /// There is nothing more to do.
    End,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Tensors.
    Done,
    /// Conditions of a shot, with their tensors.
    Conditions { memory: usize, positions: Vec<i64> },
    /// It did not work; the rank goes on.
    Failed { class: ErrorClass, message: String },
}

/// The leader's end.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) replica: Replica,
    /// Commands to several ranks reach all of them in the same order.
    order: Mutex<()>,
}

impl Crew {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            order: Mutex::new(()),
        }
    }

    /// Sends a command to ranks of the replica.
    pub(crate) fn tell(&self, ranks: &[usize], command: &Command, tensors: &Tensors) -> Result<()> {
        if ranks.is_empty() {
            return Ok(());
        }
        let message = pack(command, tensors)?;
        let _guard = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for &rank in ranks {
            self.replica.group.send(rank, &message)?;
        }
        Ok(())
    }

    /// Waits for what a rank answers, as long as it lives.
    pub(crate) fn answer(&self, rank: usize, device: Device) -> Result<(Answer, Tensors)> {
        let message = self.replica.group.receive(rank, None)?;
        match unpack(&message, device)? {
            (Answer::Failed { class, message }, _) => Err(ModelError::Rank { class, message }),
            answer => Ok(answer),
        }
    }

    /// Asks one rank and waits.
    pub(crate) fn ask(
        &self,
        rank: usize,
        command: &Command,
        tensors: &Tensors,
        device: Device,
    ) -> Result<(Answer, Tensors)> {
        self.tell(&[rank], command, tensors)?;
        self.answer(rank, device)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let others: Vec<usize> = (1..self.replica.group.size()).collect();
        // Ranks that are gone need not be told.
        let _ = self.tell(&others, &Command::End, &Tensors::new());
    }
}

/// Waits for commands and answers them until the end.
///
/// What `obey` returns as `None` has no answer. A command that fails is answered as such and ends
/// nothing; only a world that fell apart does.
pub(crate) fn serve(
    replica: &Replica,
    device: Device,
    mut obey: impl FnMut(Command, Tensors) -> Result<Option<(Answer, Tensors)>>,
) -> Result<()> {
    loop {
        let message = replica.group.receive(0, None)?;
        let (command, tensors) = unpack(&message, device)?;
        if matches!(command, Command::End) {
            return Ok(());
        }
        let answered = match obey(command, tensors) {
            Ok(None) => continue,
            Ok(Some((answer, tensors))) => pack(&answer, &tensors)?,
            Err(error @ ModelError::World(_)) => return Err(error),
            Err(error) if matches!(replica.seat.role, Role::Denoise(_)) => return Err(error),
            Err(error) => pack(
                &Answer::Failed {
                    class: error.class(),
                    message: error.to_string(),
                },
                &Tensors::new(),
            )?,
        };
        replica.group.send(0, &answered)?;
    }
}
