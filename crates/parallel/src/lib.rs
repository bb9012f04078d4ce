//! Worlds of ranks.
//!
//! A *world* is a number of processes that were started together, by `mpirun`, `srun` or
//! `storyloom launch`. Each finds its *rank* ([`discovery`]) and a seat in a [`topology`]: some
//! ranks make a *replica*, which holds the networks once and makes stories. Ranks talk in a
//! [`Group`], whose collectives work on plain buffers over one of three back ends: threads of one
//! process, sockets between processes, or MPI. [`nccl`] is the same for memory on GPUs.
//!
//! Nothing waits for ever. What is late is an error that names the ranks that are missing, a rank
//! that gives no sign of life is given up, and the world ends in a way that lets the run go on later.

mod attend;
mod backend;
pub mod bench;
mod call;
pub mod discovery;
mod element;
mod error;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
pub mod ignored;
pub mod launcher;
mod mailbox;
pub mod meeting;
mod messages;
#[cfg(feature = "mpi")]
mod mpi_backend;
pub mod nccl;
mod proof;
mod pulse;
mod reception;
mod rendezvous;
mod seal;
mod sockets;
pub mod threads;
pub mod topology;
mod wire;
mod world;

pub use backend::Pending;
pub use element::{Dtype, Element, Reduction};
pub use error::{CommError, LayoutError};
pub use group::{CollectiveStats, Group, collective_stats};
pub use seal::Encryption;
pub use world::{World, WorldOptions};
