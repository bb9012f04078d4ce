//! Where networks run, and how the ranks of a replica share what they do.

use std::sync::Arc;
use std::time::Duration;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::shard::Peers;

use crate::replica::Replica;
use crate::replica::help::Leaders;
use crate::replica::pool::FollowerPool;
use crate::replica::team::Team;

/// Where networks run, and how the ranks of a replica share what they do.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Kind and device of the transformers and the text encoder.
    pub target: Target,
    /// Threads of libtorch; `None` leaves that to it.
    pub threads: Option<i32>,
    /// Whether the ranks of a denoiser also share the rows of pictures that are decoded.
    pub share_decode: bool,
    /// Whether replicas without a story help others.
    pub widen: bool,
    /// How long ranks wait for each other in collectives and offers.
    pub collective_timeout: Duration,
}

impl Compute {
    /// libtorch keeps the number of threads per thread.
    pub(crate) fn set_threads(&self) {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
    }

    /// The ranks that decode together: those of the denoiser, if they shall.
    pub(crate) fn rows(&self, replica: &Replica) -> Peers {
        let is_shared = self.share_decode && replica.layout.plan.decoders == 0;
        Peers::new(is_shared.then(|| replica.denoiser.clone()).flatten())
    }

    /// Whom the leader of `pool` shares predictions with.
    pub(crate) fn team(&self, pool: &Arc<FollowerPool>) -> Team {
        let replica = &pool.replica;
        let degrees = replica.degrees();
        // A replica that has two halves already needs no help.
        let may_help = self.widen && degrees.cfg == 1;
        let leaders = Leaders::new(
            replica.leaders.clone().filter(|_| may_help),
            self.target.device,
            self.collective_timeout,
        );
        Team {
            pool: (degrees.ranks() > 1).then(|| Arc::clone(pool)),
            leaders: Some(Arc::new(leaders)),
        }
    }
}
