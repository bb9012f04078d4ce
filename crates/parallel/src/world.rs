//! The world of this process, from its start to its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::discovery::{self, Found, Source};
use crate::error::CommError;
use crate::group::Group;
use crate::meeting::{Holder, Meeting};
use crate::rendezvous::{self, Expected};
use crate::seal::Encryption;
use crate::{attend, pulse, sockets, threads};

/// How ranks deal with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldOptions {
    /// How long a rank waits for the others in a collective.
    pub collective_timeout: Duration,
    /// Whether ranks without MPI encrypt what they send each other.
    pub encryption: Encryption,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            collective_timeout: Duration::from_secs(300),
            encryption: Encryption::None,
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
        let found = discovery::discover(&variable)?;
        #[cfg(feature = "mpi")]
        if discovery::is_of_mpi(&found, &variable) {
            if options.encryption != Encryption::None {
                return Err(not_by_mpi(found.rank));
            }
            let (library, group, found) = crate::mpi_backend::start(options.collective_timeout)?;
            return Ok(Self {
                found,
                group,
                _library: Some(library),
            });
        }
        if options.encryption != Encryption::None && found.size > 1 {
            check_secret(&found, &variable)?;
        }
        if discovery::is_only_of_pmix(&found, &variable) {
            return Err(only_pmix(&variable));
        }
        if found.source == Source::Launch {
            follow_parent(&found, &variable)?;
        }
        let group = match &found.rendezvous {
            _ if found.size == 1 => alone(options.collective_timeout),
            Some(meeting) => meet(&found, meeting, options)?,
            None => return Err(no_meeting(&found, Build::OF_THIS)),
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
            found: Found::alone(),
            group: alone(WorldOptions::default().collective_timeout),
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

    /// The code that another rank of a world without MPI ended with, if it left before the end and
    /// could say so. MPI ends such a world itself.
    pub fn told(&self) -> Option<i32> {
        sockets::told()
    }

    /// From now on, ranks of whom nothing is heard are given up within seconds while `ask` says that
    /// this process was asked to stop, and not only after the collective_timeout of all. Only the first call
    /// counts. Worlds of MPI are ended by their launcher.
    pub fn hurry_while(ask: impl Fn() -> bool + Send + Sync + 'static) {
        pulse::hurry_while(ask);
    }

    /// Ends this process and with it the world, whatever the others are at. They are told the code.
    pub fn abort(code: i32) -> ! {
        sockets::say_farewell(code);
        #[cfg(feature = "mpi")]
        crate::mpi_backend::abort(code);
        std::process::exit(code)
    }
}

fn alone(collective_timeout: Duration) -> Group {
    // `world(1)` has one end.
    threads::world(1, collective_timeout).remove(0)
}

/// What this program was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    /// An MPI library.
    WithMpi,
    /// None.
    WithoutMpi,
}

impl Build {
    const OF_THIS: Self = match cfg!(feature = "mpi") {
        true => Self::WithMpi,
        false => Self::WithoutMpi,
    };
}

/// What to do where only an MPI library could find the ranks.
const BUILD_IT: &str = "this program was built without MPI: build it with `--features mpi` \
                        (scripts/setup.sh --mpi), start it with `storyloom launch`, or set \
                        MASTER_ADDR and MASTER_PORT";

fn no_meeting(found: &Found, build: Build) -> CommError {
    let how = match (found.source, build) {
        (Source::OpenMpi | Source::Pmi | Source::Slurm, Build::WithoutMpi) => BUILD_IT,
        (Source::Slurm, Build::WithMpi) => {
            "start it with `srun --mpi=pmix` (with pmi2 for MPICH), or set MASTER_ADDR and \
             MASTER_PORT"
        }
        _ => "set MASTER_ADDR and MASTER_PORT, or start the ranks with `storyloom launch`",
    };
    let (rank, size, source) = (found.rank, found.size, found.source.name());
    let reason =
        format!("rank {rank} of {size} (from {source}) does not know where the others are: {how}");
    CommError::Apart { rank, reason }
}

/// Encryption is worth nothing with a secret that can be guessed.
fn check_secret(found: &Found, variable: discovery::Variables) -> Result<(), CommError> {
    let token = variable(discovery::TOKEN).unwrap_or_default();
    if !token.trim().is_empty() {
        return Ok(());
    }
    Err(CommError::Apart {
        rank: found.rank,
        reason: format!(
            "topology.encryption needs a secret that only the ranks know: give all of them the same \
             {} (openssl rand -hex 32), or start them with `storyloom launch`",
            discovery::TOKEN
        ),
    })
}

#[cfg(feature = "mpi")]
fn not_by_mpi(rank: usize) -> CommError {
    let reason = "topology.encryption is for ranks without MPI, and MPI connects these: set it to \
                  \"none\", or start them with MASTER_ADDR and MASTER_PORT by a build without MPI";
    CommError::Apart {
        rank,
        reason: reason.to_owned(),
    }
}

fn only_pmix(variable: discovery::Variables) -> CommError {
    let rank = variable("PMIX_RANK").and_then(|rank| rank.parse().ok());
    CommError::Apart {
        rank: rank.unwrap_or_default(),
        reason: format!(
            "a launcher of MPI started this program as one of several (PMIX_RANK); {BUILD_IT}"
        ),
    }
}

/// Asks to be told when the launcher dies, so that no rank is left behind.
///
/// # Errors
/// It is dead already.
fn follow_parent(found: &Found, variable: discovery::Variables) -> Result<(), CommError> {
    // Without it a rank ends at the next message that does not come.
    let signal = Some(rustix::process::Signal::TERM);
    if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
        tracing::debug!("ranks will not notice the death of their launcher: {error}");
    }
    // It may have died before: then this process has another parent by now, and no signal comes.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    match variable(discovery::LAUNCHER).and_then(|pid| pid.trim().parse().ok()) {
        Some(launcher) if parent != Some(launcher) => Err(attend::launcher_is_gone(found.rank)),
        _ => Ok(()),
    }
}

fn meet(found: &Found, meeting: &Meeting, options: WorldOptions) -> Result<Group, CommError> {
    let (rank, size) = (found.rank, found.size);
    let WorldOptions {
        collective_timeout,
        encryption,
    } = options;
    let join = |at: &Meeting| {
        let address = sockets::Address {
            meeting,
            at,
            rank,
            size,
            encryption,
        };
        sockets::join(address, collective_timeout)
    };
    if rank > 0 || meeting.holder == Holder::Launcher {
        return join(meeting);
    }
    let listener = attend::hold(meeting, sockets::gathering(collective_timeout))?;
    let own = own_meeting(meeting, &listener)?;
    let over = AtomicBool::new(false);
    let stop = || over.load(Ordering::Relaxed);
    let expected = Expected {
        size,
        world: meeting.world.as_str(),
        encryption: Some(encryption),
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| rendezvous::serve(&listener, expected, &stop));
        let group = join(&own);
        over.store(true, Ordering::Relaxed);
        match server.join() {
            // What became of the gathering the ranks were told, this one too.
            Ok(_) => group,
            Err(_) => Err(CommError::Setup("the rendezvous failed".to_owned())),
        }
    })
}

/// The meeting as its holder reaches it: at the port that it got, on its own machine.
fn own_meeting(meeting: &Meeting, listener: &TcpListener) -> Result<Meeting, CommError> {
    let failed = |error: std::io::Error| CommError::Setup(format!("the rendezvous: {error}"));
    let address = listener.local_addr().map_err(failed)?;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    Ok(Meeting {
        host: host.to_string(),
        ports: vec![address.port()],
        ..meeting.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_built_without_mpi_says_so_under_every_launcher_of_it() {
        for source in [Source::Slurm, Source::OpenMpi, Source::Pmi] {
            let found = Found {
                source,
                size: 2,
                ..Found::alone()
            };
            let without = no_meeting(&found, Build::WithoutMpi).to_string();
            assert!(without.contains("--features mpi"), "{without}");
            assert!(without.contains("scripts/setup.sh --mpi"), "{without}");
            let with = no_meeting(&found, Build::WithMpi).to_string();
            assert!(!with.contains("--features"), "{with}");
        }
        let pmix = only_pmix(&|_| Some("3".to_owned()));
        assert!(matches!(&pmix, CommError::Apart { rank: 3, .. }), "{pmix}");
        assert!(pmix.to_string().contains("--features mpi"));
    }

    #[test]
    fn encryption_needs_a_secret() {
        let check = |token: &'static str| {
            let variable = move |name: &str| (name == discovery::TOKEN).then(|| token.to_owned());
            check_secret(&Found::alone(), &variable)
        };
        check("long and random").unwrap();
        for guessed in ["", " "] {
            let error = check(guessed).unwrap_err();
            assert!(!error.is_resumable());
            assert!(error.to_string().contains("STORYLOOM_TOKEN"), "{error}");
        }
    }

    #[test]
    fn a_rank_notices_that_its_launcher_was_gone_before() {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
        let follow = |launcher: Option<String>| {
            let of_test =
                move |name: &str| launcher.clone().filter(|_| name == discovery::LAUNCHER);
            follow_parent(&Found::alone(), &of_test)
        };
        follow(Some(parent.to_string())).unwrap();
        // A launcher of an earlier version says nothing.
        follow(None).unwrap();
        let error = follow(Some(i32::MAX.to_string())).unwrap_err();
        assert!(error.is_resumable(), "{error}");
        // The tests outlive the program that started them.
        rustix::process::set_parent_process_death_signal(None).unwrap();
    }
}
