//! What each rank of a replica says of itself, for the metrics of its leader.

use std::path::Path;
use std::time::Duration;

use storyloom_nn::{cuda, tch};
use storyloom_parallel::collective_stats;
use storyloom_telemetry::metrics::{Gpu, RankPulse, RankReport};
use storyloom_telemetry::process::host_name;

use crate::config::options::EngineKind;
use crate::config::resolved::EngineConfig;
use crate::engine;
use crate::exit::Failure;
use crate::world::RankSlot;

/// Time between two reports of a rank to its leader.
const PAUSE: Duration = Duration::from_secs(5);

/// This rank, as far as it knows itself.
#[derive(Debug)]
pub struct OwnRank {
    rank: usize,
    gpu: Option<Gpu>,
}

impl OwnRank {
    /// Looks for the GPU that this rank computes on.
    ///
    /// # Errors
    /// The config asks for a GPU and there is none.
    pub fn new(config: &EngineConfig, slot: &RankSlot) -> Result<Self, Failure> {
        let device = match config.kind {
            EngineKind::Torch => engine::target(config.compute, slot)?.device,
            EngineKind::Simulated => tch::Device::Cpu,
        };
        let gpu = match device {
            tch::Device::Cuda(ordinal) => {
                cuda::gpu_uuid(ordinal).and_then(|uuid| Gpu::open(&uuid, &host_name()))
            }
            _ => None,
        };
        let rank = slot.world.found().rank;
        Ok(Self { rank, gpu })
    }

    /// How it is now.
    pub fn report(&mut self) -> RankReport {
        let collectives = collective_stats();
        RankReport {
            rank: self.rank,
            collectives: collectives.count,
            collective_wait_seconds: collectives.seconds,
            gpu: self.gpu.as_mut().map(Gpu::report),
        }
    }
}

/// Reports on this rank to the leader of its replica, in the run folder `run`, as long as the
/// answer lives.
///
/// # Errors
/// As [`OwnRank::new`].
pub fn report_to(
    leader: &str,
    config: &EngineConfig,
    run: &Path,
    slot: &RankSlot,
) -> Result<RankPulse, Failure> {
    let mut own = OwnRank::new(config, slot)?;
    let report = move || own.report();
    Ok(RankPulse::start(run, leader, PAUSE, report))
}
