//! Which rank of how many this process is, from what its launchers left in the environment.
//!
//! Launchers start each other: a shell that `srun --pty` gave starts `storyloom launch`, `mpirun`
//! starts its ranks on other nodes as steps of Slurm. The variables of all of them are there then,
//! and the nearest counts:
//!
//! | order | source | variables |
//! |---|---|---|
//! | 1 | `storyloom launch` | `STORYLOOM_RENDEZVOUS`, `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE` |
//! | 2 | torchrun | `TORCHELASTIC_RUN_ID` or `TORCHELASTIC_USE_AGENT_STORE`, and the four |
//! | 3 | Open MPI | `OMPI_COMM_WORLD_RANK`, `…_SIZE`, `…_LOCAL_RANK`, `…_LOCAL_SIZE` |
//! | 4 | PMI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` |
//! | 5 | somebody's own script | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE` |
//! | 6 | Slurm | `SLURM_STEP_ID`, `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID` |
//!
//! The first two mark the processes they start and are believed at once. Of the others the first
//! that speaks of more than one rank counts: a shell inside a step keeps the variables of that one
//! task, whatever is started there. Builds with MPI leave it to the library to find the ranks that
//! Open MPI, PMI or a step of Slurm started.
//!
//! An `sbatch` script itself has Slurm's variables for the whole job and is no rank: only steps
//! started by `srun` count. Where ranks without MPI meet is in [`crate::meeting`].

use crate::error::CommError;
use crate::meeting::{self, Meeting};

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The MPI library.
    Mpi,
    /// `storyloom launch`.
    Launch,
    /// torchrun.
    Torchrun,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// A launcher that speaks PMI: MPICH, Intel MPI.
    Pmi,
    /// `RANK` and `WORLD_SIZE`.
    Environment,
    /// `srun`.
    Slurm,
    /// Nobody: a world of one.
    Alone,
}

impl Source {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpi => "MPI",
            Self::Launch => "storyloom launch",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI's variables",
            Self::Pmi => "PMI's variables",
            Self::Environment => "RANK and WORLD_SIZE",
            Self::Slurm => "Slurm",
            Self::Alone => "no launcher",
        }
    }

    /// Whether this launcher marks what it starts, so that its variables cannot be those of an
    /// outer one.
    fn marks_its_own(self) -> bool {
        matches!(self, Self::Launch | Self::Torchrun)
    }

    /// Whether its variables are there: not only numbers, which others set as well.
    fn is_there(self, variable: Variables) -> bool {
        let is_set = |name| variable(name).is_some();
        match self {
            Self::Launch => is_set(RENDEZVOUS),
            Self::Torchrun => TORCHRUN.into_iter().any(is_set),
            Self::Slurm => {
                variable("SLURM_STEP_ID").is_some_and(|id| id.trim().parse::<u32>().is_ok())
            }
            _ => true,
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

impl Found {
    /// A process that nobody started together with others.
    pub fn alone() -> Self {
        Self {
            source: Source::Alone,
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
            rendezvous: None,
        }
    }
}

/// The environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where ranks started by `storyloom launch` meet; the variable marks them as such.
pub const RENDEZVOUS: &str = "STORYLOOM_RENDEZVOUS";
/// The process of `storyloom launch`, by which its ranks notice that it is gone.
pub const LAUNCHER: &str = "STORYLOOM_LAUNCHER";
/// The world's shared secret.
pub const TOKEN: &str = "STORYLOOM_TOKEN";
/// What torchrun's agent leaves in the environment of its workers and nobody else does.
const TORCHRUN: [&str; 2] = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"];

/// Names of the variables of one source: rank, size, and both on this machine.
type Names = [&'static str; 4];

const PLAIN: Names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];
const OPEN_MPI: Names = [
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
];
const PMI: Names = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];
const SLURM: Names = [
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_STEP_TASKS_LOCAL",
];

/// The sources, the nearest first.
const SOURCES: [(Source, Names); 6] = [
    (Source::Launch, PLAIN),
    (Source::Torchrun, PLAIN),
    (Source::OpenMpi, OPEN_MPI),
    (Source::Pmi, PMI),
    (Source::Environment, PLAIN),
    (Source::Slurm, SLURM),
];

/// Finds this process's rank without MPI.
///
/// # Errors
/// Variables that contradict each other or are no numbers, with their names.
pub fn discover(variable: Variables) -> Result<Found, CommError> {
    let mut nearest = None;
    for (source, names) in SOURCES {
        let Some(found) = claim(source, names, variable)? else {
            continue;
        };
        if found.size > 1 || source.marks_its_own() {
            return Ok(found);
        }
        nearest.get_or_insert(found);
    }
    Ok(nearest.unwrap_or_else(Found::alone))
}

/// What one source says, if it is there.
fn claim(source: Source, names: Names, variable: Variables) -> Result<Option<Found>, CommError> {
    if !source.is_there(variable) {
        return Ok(None);
    }
    let [rank_name, size_name, local_rank, local_size] = names;
    let number = |name| number(name, variable);
    let (Some(rank), Some(size)) = (number(rank_name)?, number(size_name)?) else {
        return Ok(None);
    };
    if rank >= size {
        let reason = format!("{rank_name}={rank} is not below {size_name}={size}");
        return Err(CommError::Setup(reason));
    }
    Ok(Some(Found {
        source,
        rank,
        size,
        local_rank: number(local_rank)?.unwrap_or(rank),
        local_size: number(local_size)?.unwrap_or(size),
        rendezvous: match size {
            1 => None,
            _ => meeting::of(source, variable)?,
        },
    }))
}

fn number(name: &str, variable: Variables) -> Result<Option<usize>, CommError> {
    let Some(text) = variable(name) else {
        return Ok(None);
    };
    let wrong = |_| CommError::Setup(format!("{name}={text} is not a number"));
    text.trim().parse().map(Some).map_err(wrong)
}

/// Whether the MPI library knows the world of this rank: one of the launchers that MPI libraries
/// understand started it, and none that is nearer.
pub fn is_of_mpi(found: &Found, variable: Variables) -> bool {
    let is_set = |name| variable(name).is_some();
    // PMIx tells nobody but the library how many there are.
    let by_library = is_set("PMIX_RANK") || is_set("PMI_RANK");
    match found.source {
        Source::Launch | Source::Torchrun => false,
        Source::Mpi | Source::OpenMpi => true,
        _ if is_one_task(variable) => found.source == Source::Pmi && found.size > 1,
        Source::Pmi => true,
        Source::Environment | Source::Slurm | Source::Alone => by_library,
    }
}

/// Whether this process is, or was started inside, a step of Slurm with one task. What MPI left in
/// the environment of a step then says nothing of a world.
fn is_one_task(variable: Variables) -> bool {
    matches!(claim(Source::Slurm, SLURM, variable), Ok(Some(step)) if step.size == 1)
}

/// Whether PMIx started this process and only a build with MPI could learn the number of ranks.
pub fn is_only_of_pmix(found: &Found, variable: Variables) -> bool {
    found.source == Source::Alone && variable("PMIX_RANK").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    type Pairs<'a> = [(&'a str, &'a str)];

    const PLAIN_RANK: &Pairs = &[("RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
    const PMI_RANK: &Pairs = &[("PMI_RANK", "2"), ("PMI_SIZE", "4")];
    const OPEN_RANK: &Pairs = &[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "5")];
    const STEP: &Pairs = &[
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "4"),
        ("SLURM_STEP_NUM_TASKS", "6"),
        ("SLURM_LOCALID", "0"),
    ];
    /// What a shell has that `srun --pty` gave.
    const SHELL: &Pairs = &[
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "0"),
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("SLURM_LOCALID", "0"),
    ];
    const LAUNCHED: &Pairs = &[(RENDEZVOUS, "127.0.0.1:9")];
    const TORCHRUN_MARK: &Pairs = &[("TORCHELASTIC_RUN_ID", "none")];

    fn environment(parts: &[&Pairs]) -> HashMap<String, String> {
        let pairs = parts.iter().flat_map(|part| part.iter());
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn found(parts: &[&Pairs]) -> Result<Found, CommError> {
        let map = environment(parts);
        discover(&|name| map.get(name).cloned())
    }

    /// Whether a build with MPI asks the library.
    fn of_mpi(parts: &[&Pairs]) -> bool {
        let map = environment(parts);
        let variable = |name: &str| map.get(name).cloned();
        is_of_mpi(&discover(&variable).unwrap(), &variable)
    }

    #[test]
    fn the_nearest_launcher_counts() {
        for (parts, source, rank, size) in [
            (&[STEP][..], Source::Slurm, 4, 6),
            (&[STEP, PLAIN_RANK], Source::Environment, 1, 8),
            (&[STEP, PLAIN_RANK, PMI_RANK], Source::Pmi, 2, 4),
            (
                &[STEP, PLAIN_RANK, PMI_RANK, OPEN_RANK],
                Source::OpenMpi,
                3,
                5,
            ),
            (
                &[OPEN_RANK, PLAIN_RANK, TORCHRUN_MARK],
                Source::Torchrun,
                1,
                8,
            ),
            (
                &[OPEN_RANK, PLAIN_RANK, TORCHRUN_MARK, LAUNCHED],
                Source::Launch,
                1,
                8,
            ),
            // The marks alone are no ranks.
            (&[STEP, TORCHRUN_MARK, LAUNCHED], Source::Slurm, 4, 6),
            // Inside the script of a job there is no step, and the job's numbers are not ours.
            (&[STEP, &[("SLURM_STEP_ID", "batch")]], Source::Alone, 0, 1),
        ] {
            let found = found(parts).unwrap();
            assert_eq!(
                (found.source, found.rank, found.size),
                (source, rank, size),
                "{parts:?}"
            );
        }
        assert_eq!(found(&[STEP]).unwrap().local_rank, 0);
    }

    #[test]
    fn a_shell_inside_a_step_says_little() {
        assert_eq!(found(&[SHELL]).unwrap().size, 1);
        for near in [PLAIN_RANK, PMI_RANK, OPEN_RANK] {
            let (inside, outside) = (found(&[SHELL, near]).unwrap(), found(&[near]).unwrap());
            assert_eq!(inside, outside);
        }
        // What a step of one task left for MPI is older than the step that srun started in it.
        let left: &Pairs = &[("PMI_RANK", "0"), ("PMI_SIZE", "1")];
        assert_eq!(found(&[left, STEP]).unwrap().source, Source::Slurm);
        // A launcher that marks its own is believed about a world of one as well.
        let one: &Pairs = &[("RANK", "0"), ("WORLD_SIZE", "1")];
        let launched = found(&[STEP, one, LAUNCHED]).unwrap();
        assert_eq!((launched.source, launched.size), (Source::Launch, 1));
    }

    #[test]
    fn the_library_is_asked_about_its_own_ranks() {
        let pmix: &Pairs = &[("PMIX_RANK", "0")];
        for parts in [
            &[OPEN_RANK][..],
            &[PMI_RANK],
            &[pmix],
            &[STEP, pmix],
            &[STEP, PMI_RANK],
            &[SHELL, OPEN_RANK],
            &[SHELL, PMI_RANK],
        ] {
            assert!(of_mpi(parts), "{parts:?}");
        }
        for parts in [
            &[][..],
            &[STEP],
            &[PLAIN_RANK],
            // A shell that srun gave, with what PMI or PMIx left there.
            &[SHELL, pmix],
            &[SHELL, &[("PMI_RANK", "0"), ("PMI_SIZE", "1")]],
            &[SHELL, pmix, PLAIN_RANK],
            &[PMI_RANK, PLAIN_RANK, TORCHRUN_MARK],
            &[OPEN_RANK, PLAIN_RANK, LAUNCHED],
        ] {
            assert!(!of_mpi(parts), "{parts:?}");
        }
        let only = |parts: &[&Pairs]| {
            let map = environment(parts);
            let variable = |name: &str| map.get(name).cloned();
            is_only_of_pmix(&discover(&variable).unwrap(), &variable)
        };
        assert!(only(&[pmix]) && !only(&[SHELL, pmix]) && !only(&[]));
    }

    #[test]
    fn nobody_is_alone_and_contradictions_are_named() {
        assert_eq!(found(&[&[("HOME", "/root")]]).unwrap(), Found::alone());
        // A rank without a size says nothing.
        assert_eq!(found(&[&[("RANK", "3")]]).unwrap().source, Source::Alone);
        let wrong = |pairs: &Pairs| found(&[pairs]).unwrap_err().to_string();
        let error = wrong(&[("RANK", "8"), ("WORLD_SIZE", "8")]);
        assert!(error.contains("RANK=8 is not below WORLD_SIZE=8"));
        let error = wrong(&[("RANK", "one"), ("WORLD_SIZE", "8")]);
        assert!(error.contains("RANK=one is not a number"));
        // What is wrong about an outer launcher does not matter.
        let outer: &Pairs = &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "x")];
        assert_eq!(found(&[PLAIN_RANK, outer]).unwrap().size, 8);
    }
}
