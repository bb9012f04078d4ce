//! The ranks of a replica: one leads, the others do what it asks.
//!
//! Only the leader knows of stories and holds the state of a sampling loop. The others hold slices
//! of its networks, or the networks of one stage, and answer commands in the order in which they come.
//! A shot can therefore go on with other ranks, or more or fewer of them, from what its leader saved.

pub(crate) mod assist;
pub mod conditions;
pub(crate) mod follower;
pub(crate) mod forwards;
pub(crate) mod help;
pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod station;
pub mod team;
pub(crate) mod wire;

use std::time::Duration;

use storyloom_nn::error::Result;
use storyloom_nn::shard::Shard;
use storyloom_parallel::topology::{Degrees, GridCell, Layout, Plan, Role, Seat};
use storyloom_parallel::{Group, World};
use tch::Device;

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
    pub(crate) fn on_device(mut self, device: Device, timeout: Duration) -> Self {
        self.shard = self.shard.on_device(device, timeout);
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

    /// Cell of this rank in the denoiser.
    pub(crate) fn cell(&self) -> GridCell {
        match self.seat.role {
            Role::Denoise(cell) => cell,
            _ => self.degrees().cell(0),
        }
    }

    /// The other ranks of the denoiser, of the halves of guidance that are wanted.
    pub(crate) fn followers(&self, guided: bool) -> Vec<usize> {
        let degrees = self.degrees();
        (1..degrees.ranks())
            .filter(|&index| guided || degrees.cell(index).cfg == 0)
            .collect()
    }

    /// The first rank of the half that has the negative conditions, if that is another one.
    pub(crate) fn negative_leader(&self) -> Option<usize> {
        let degrees = self.degrees();
        (degrees.cfg == 2).then_some(degrees.tensor * degrees.sequence)
    }
}
