//! Which rank of how many this process is, from what its launcher left in the environment.
//!
//! | order | source | variables |
//! |---|---|---|
//! | 1 | MPI itself | built with MPI, and any launcher's variables below but the last |
//! | 2 | Slurm | `SLURM_STEP_ID`, `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID` |
//! | 3 | Open MPI | `OMPI_COMM_WORLD_RANK`, `…_SIZE`, `…_LOCAL_RANK`, `…_LOCAL_SIZE` |
//! | 4 | PMI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` |
//! | 5 | `storyloom launch`, torchrun | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE` |
//!
//! Without MPI the ranks meet at `STORYLOOM_RENDEZVOUS` or `MASTER_ADDR:MASTER_PORT`, where rank 0
//! listens in the second case. An `sbatch` script itself has Slurm's variables for the whole job
//! and is no rank: only steps started by `srun` count.

use crate::error::CommError;

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The MPI library.
    Mpi,
    /// `srun`.
    Slurm,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// A launcher that speaks PMI: MPICH, Intel MPI.
    Pmi,
    /// `RANK` and `WORLD_SIZE`.
    Environment,
    /// Nobody: a world of one.
    Alone,
}

impl Source {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpi => "MPI",
            Self::Slurm => "Slurm",
            Self::OpenMpi => "Open MPI's variables",
            Self::Pmi => "PMI's variables",
            Self::Environment => "RANK and WORLD_SIZE",
            Self::Alone => "no launcher",
        }
    }
}

/// A rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who told.
    pub source: Source,
    /// This process.
    pub rank: usize,
    /// Processes in the world.
    pub size: usize,
    /// This process among those of its machine; decides its GPU.
    pub local_rank: usize,
    /// Processes of the world on this machine.
    pub local_size: usize,
    /// Where the ranks meet, if it is known; not needed with MPI.
    pub rendezvous: Option<Meeting>,
}

/// Where ranks without MPI meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// `host:port`.
    pub address: String,
    /// Shared secret of the world's ranks; may be empty.
    pub token: String,
    /// Whether rank 0 holds the rendezvous; otherwise the launcher does.
    pub by_rank_zero: bool,
}

/// Names of the rendezvous in the environment of ranks started by `storyloom launch`.
pub const RENDEZVOUS: &str = "STORYLOOM_RENDEZVOUS";
/// The world's shared secret.
pub const TOKEN: &str = "STORYLOOM_TOKEN";

/// Whether one of the launchers that MPI libraries understand started this process.
pub fn under_mpi_launcher(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]
        .iter()
        .any(|name| variable(name).is_some())
}

/// Finds this process's rank without MPI.
///
/// # Errors
/// Variables that contradict each other or are no numbers, with their names.
pub fn discover(variable: &dyn Fn(&str) -> Option<String>) -> Result<Found, CommError> {
    let number = |name: &str| -> Result<Option<usize>, CommError> {
        let Some(text) = variable(name) else {
            return Ok(None);
        };
        let wrong = |_| CommError::Setup(format!("{name}={text} is not a number"));
        text.trim().parse().map(Some).map_err(wrong)
    };
    let step = variable("SLURM_STEP_ID").is_some_and(|id| id.parse::<u32>().is_ok());
    let sources = [
        (
            Source::Slurm,
            [
                "SLURM_PROCID",
                "SLURM_STEP_NUM_TASKS",
                "SLURM_LOCALID",
                "SLURM_STEP_TASKS_LOCAL",
            ],
        ),
        (
            Source::OpenMpi,
            [
                "OMPI_COMM_WORLD_RANK",
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE",
            ],
        ),
        (
            Source::Pmi,
            ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
        ),
        (
            Source::Environment,
            ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
        ),
    ];
    for (source, [rank_name, size_name, local_rank, local_size]) in sources {
        if source == Source::Slurm && !step {
            continue;
        }
        let (Some(rank), Some(size)) = (number(rank_name)?, number(size_name)?) else {
            continue;
        };
        if rank >= size {
            let reason = format!("{rank_name}={rank} is not below {size_name}={size}");
            return Err(CommError::Setup(reason));
        }
        return Ok(Found {
            source,
            rank,
            size,
            local_rank: number(local_rank)?.unwrap_or(rank),
            local_size: number(local_size)?.unwrap_or(size),
            rendezvous: meeting(variable),
        });
    }
    Ok(Found {
        source: Source::Alone,
        rank: 0,
        size: 1,
        local_rank: 0,
        local_size: 1,
        rendezvous: None,
    })
}

fn meeting(variable: &dyn Fn(&str) -> Option<String>) -> Option<Meeting> {
    let token = variable(TOKEN).unwrap_or_default();
    if let Some(address) = variable(RENDEZVOUS) {
        return Some(Meeting {
            address,
            token,
            by_rank_zero: false,
        });
    }
    let (host, port) = (variable("MASTER_ADDR")?, variable("MASTER_PORT")?);
    Some(Meeting {
        address: format!("{host}:{port}"),
        token,
        by_rank_zero: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn found(pairs: &[(&str, &str)]) -> Result<Found, CommError> {
        let map: HashMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        discover(&|name| map.get(name).cloned())
    }

    #[test]
    fn launchers_in_their_order() {
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
        let pmi = [("PMI_RANK", "2"), ("PMI_SIZE", "4")];
        let open = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "5")];
        let slurm = [
            ("SLURM_PROCID", "4"),
            ("SLURM_STEP_NUM_TASKS", "6"),
            ("SLURM_LOCALID", "0"),
        ];
        let mut all = Vec::new();
        for (added, source, rank, size) in [
            (&torchrun[..], Source::Environment, 1, 8),
            (&pmi[..], Source::Pmi, 2, 4),
            (&open[..], Source::OpenMpi, 3, 5),
            // Inside the script of a job there is no step, and the job's numbers are not ours.
            (&slurm[..], Source::OpenMpi, 3, 5),
            (&[("SLURM_STEP_ID", "batch")][..], Source::OpenMpi, 3, 5),
        ] {
            all.extend_from_slice(added);
            let found = found(&all).unwrap();
            assert_eq!((found.source, found.rank, found.size), (source, rank, size));
        }
        all.retain(|(name, _)| *name != "SLURM_STEP_ID");
        all.push(("SLURM_STEP_ID", "0"));
        let found = found(&all).unwrap();
        assert_eq!(
            (found.source, found.rank, found.local_rank),
            (Source::Slurm, 4, 0)
        );
    }

    #[test]
    fn nobody_is_alone_and_contradictions_are_named() {
        let alone = found(&[("HOME", "/root")]).unwrap();
        assert_eq!(
            (alone.source, alone.rank, alone.size),
            (Source::Alone, 0, 1)
        );
        // A rank without a size says nothing.
        assert_eq!(found(&[("RANK", "3")]).unwrap().source, Source::Alone);
        let error = found(&[("RANK", "8"), ("WORLD_SIZE", "8")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("RANK=8 is not below WORLD_SIZE=8")
        );
        let error = found(&[("RANK", "one"), ("WORLD_SIZE", "8")]).unwrap_err();
        assert!(error.to_string().contains("RANK=one is not a number"));
    }

    #[test]
    fn where_the_ranks_meet() {
        let base = [("RANK", "0"), ("WORLD_SIZE", "2")];
        let with = |more: &[(&str, &str)]| {
            let pairs: Vec<_> = base.iter().chain(more).copied().collect();
            found(&pairs).unwrap().rendezvous
        };
        assert_eq!(with(&[]), None);
        let torchrun = with(&[("MASTER_ADDR", "node7"), ("MASTER_PORT", "29500")]).unwrap();
        assert_eq!(torchrun.address, "node7:29500");
        assert!(torchrun.by_rank_zero);
        let ours = with(&[
            (RENDEZVOUS, "127.0.0.1:9"),
            (TOKEN, "t"),
            ("MASTER_ADDR", "x"),
        ]);
        let ours = ours.unwrap();
        assert_eq!(
            (ours.address.as_str(), ours.token.as_str()),
            ("127.0.0.1:9", "t")
        );
        assert!(!ours.by_rank_zero);
    }
}
