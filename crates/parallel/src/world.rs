//! The world of this process, from its start to its end.

use std::net::TcpListener;
use std::time::Duration;

use crate::discovery::{self, Found, Meeting, Source};
use crate::error::CommError;
use crate::group::Group;
use crate::{rendezvous, sockets, threads};

/// How ranks deal with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldOptions {
    /// How long a rank waits for the others in a collective.
    pub patience: Duration,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(300),
        }
    }
}

/// All ranks that were started together, seen from one of them.
#[derive(Debug)]
pub struct World {
    found: Found,
    group: Group,
    /// Finalised with the world.
    #[cfg(feature = "mpi")]
    _library: Option<crate::mpi_backend::Library>,
}

impl World {
    /// Joins the world that this process was started in; alone it is a world of one.
    ///
    /// Call it once, before anything else that may start threads: MPI wants the main thread.
    ///
    /// # Errors
    /// Not all ranks came, or there is no way to find them.
    pub fn join(options: WorldOptions) -> Result<Self, CommError> {
        let variable = |name: &str| std::env::var(name).ok();
        #[cfg(feature = "mpi")]
        if discovery::under_mpi_launcher(&variable) {
            let (library, group, found) = crate::mpi_backend::start(options.patience)?;
            return Ok(Self {
                found,
                group,
                _library: Some(library),
            });
        }
        let found = discovery::discover(&variable)?;
        let group = if found.size == 1 {
            alone(options.patience)
        } else {
            follow_parent();
            let Some(meeting) = &found.rendezvous else {
                return Err(no_meeting(&found));
            };
            meet(&found, meeting, options.patience)?
        };
        Ok(Self {
            found,
            group,
            #[cfg(feature = "mpi")]
            _library: None,
        })
    }

    /// A world of one, whatever the environment says.
    pub fn alone() -> Self {
        Self {
            found: Found {
                source: Source::Alone,
                rank: 0,
                size: 1,
                local_rank: 0,
                local_size: 1,
                rendezvous: None,
            },
            group: alone(WorldOptions::default().patience),
            #[cfg(feature = "mpi")]
            _library: None,
        }
    }

    /// Rank, size and who told.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// All ranks.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Ends this process and with it the world, whatever the others are at.
    pub fn abort(code: i32) -> ! {
        #[cfg(feature = "mpi")]
        crate::mpi_backend::abort(code);
        std::process::exit(code)
    }
}

fn alone(patience: Duration) -> Group {
    // `world(1)` has one end.
    threads::world(1, patience).remove(0)
}

fn no_meeting(found: &Found) -> CommError {
    let how = match found.source {
        Source::OpenMpi | Source::Pmi | Source::Slurm if cfg!(not(feature = "mpi")) => {
            "this program was built without MPI: build it with `--features mpi` \
             (scripts/setup.sh --mpi), start it with `storyloom launch`, or set MASTER_ADDR and \
             MASTER_PORT"
        }
        _ => "set MASTER_ADDR and MASTER_PORT, or start the ranks with `storyloom launch`",
    };
    let (rank, size, source) = (found.rank, found.size, found.source.name());
    CommError::Setup(format!(
        "rank {rank} of {size} (from {source}) does not know where the others are: {how}"
    ))
}

/// Asks to be told when the launcher dies, so that no rank is left behind.
fn follow_parent() {
    // Without it a rank ends at the next message that does not come.
    let signal = Some(rustix::process::Signal::TERM);
    if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
        tracing::debug!("ranks will not notice the death of their launcher: {error}");
    }
}

fn meet(found: &Found, meeting: &Meeting, patience: Duration) -> Result<Group, CommError> {
    let address = sockets::Address {
        rendezvous: &meeting.address,
        token: &meeting.token,
        rank: found.rank,
        size: found.size,
    };
    if !(meeting.by_rank_zero && found.rank == 0) {
        return sockets::join(&address, patience);
    }
    let listener = TcpListener::bind(&meeting.address).map_err(|error| {
        CommError::Setup(format!(
            "rank 0 cannot listen at {}: {error}",
            meeting.address
        ))
    })?;
    let (size, token) = (found.size, meeting.token.clone());
    let server = std::thread::spawn(move || rendezvous::serve(&listener, size, &token, &|| false));
    let group = sockets::join(&address, patience)?;
    match server.join() {
        Ok(served) => served.map(|()| group),
        Err(_) => Err(CommError::Setup("the rendezvous failed".to_owned())),
    }
}
