//! The networks of a stage: on the leader, or on ranks of their own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use storyloom_nn::error::Result;
use storyloom_story::Stage;
use tch::Device;

use super::message::Command;
use super::pool::FollowerPool;
use super::wire::Tensors;

/// The networks of a stage: here, or on ranks of their own. One thread at a time uses each.
#[derive(Debug)]
pub(crate) enum Station<T> {
    Here(Mutex<T>),
    Ranks(Vec<Mutex<usize>>),
}

/// Something that networks `N` of a stage are asked for, here or elsewhere with the same result.
pub(crate) trait StageRequest<N> {
    /// What they make of it.
    type Output;
    /// Whose request it is.
    const STAGE: Stage;

    /// Answers it here.
    fn run(&self, networks: &mut N) -> Result<Self::Output>;

    /// What another rank is told.
    fn pack(&self) -> Result<(Value, Tensors)>;

    /// What that rank answered.
    fn unpack(message: Value, tensors: Tensors) -> Result<Self::Output>;
}

impl<N> Station<N> {
    /// On `ranks`, or as `open` makes it if there are none.
    pub(crate) fn new(ranks: Vec<usize>, open: impl FnOnce() -> Result<N>) -> Result<Self> {
        if ranks.is_empty() {
            return Ok(Self::Here(Mutex::new(open()?)));
        }
        Ok(Self::Ranks(ranks.into_iter().map(Mutex::new).collect()))
    }

    /// Requests that can be answered at once.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Self::Here(_) => 1,
            Self::Ranks(ranks) => ranks.len(),
        }
    }

    /// Answers a request here, or asks a rank that is free; tensors come to `device`.
    pub(crate) fn ask<R: StageRequest<N>>(
        &self,
        pool: &FollowerPool,
        device: Device,
        request: &R,
    ) -> Result<R::Output> {
        match self {
            Self::Here(networks) => request.run(&mut lock(networks)),
            Self::Ranks(ranks) => {
                let rank = free(ranks);
                let (message, tensors) = request.pack()?;
                let stage = R::STAGE;
                let command = Command::Stage { stage, message };
                let (message, tensors) = pool.ask(*rank, &command, &tensors, device)?;
                R::unpack(message, tensors)
            }
        }
    }
}

/// Forwards do not change networks, so that they are whole after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of several equal ranks, a free one if there is one.
fn free(ranks: &[Mutex<usize>]) -> MutexGuard<'_, usize> {
    let free = ranks.iter().find_map(|rank| rank.try_lock().ok());
    free.unwrap_or_else(|| lock(&ranks[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_rank_is_asked() {
        let station: Station<()> = Station::new(vec![3, 5], || unreachable!()).unwrap();
        assert_eq!(station.capacity(), 2);
        let Station::Ranks(ranks) = &station else {
            panic!("{station:?}");
        };
        let first = free(ranks);
        assert_eq!((*first, *free(ranks)), (3, 5));
        drop(first);
        assert_eq!(*free(ranks), 3);
        assert_eq!(Station::new(Vec::new(), || Ok(())).unwrap().capacity(), 1);
    }
}
