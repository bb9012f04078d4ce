//! The tail of a night: replicas without a story of their own take over the negative prompt of
//! those that still have one.
//!
//! An idle leader offers itself to one other leader at a time. A leader that samples looks for
//! offers between two steps, and from then on lets the other compute half of the guidance until
//! its shot is done. Both compute what one rank would, so no bit of the result changes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_models::sampler::Expert;
use storyloom_nn::error::Result;
use storyloom_parallel::{CommError, Group};
use tch::Device;

use crate::replica::Pipeline;
use crate::replica::wire::{Tensors, pack, unpack};

/// What leaders tell each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Help {
    /// Nothing to do here: may I help?
    Offer,
    /// No, thank you.
    Decline,
    /// Yes: project this prompt.
    Prepare { pipeline: Pipeline, expert: Expert },
    /// One forward with it.
    Forward { timestep: f64, positions: Vec<i64> },
    /// The result.
    Velocity,
    /// That was all.
    Release,
    /// This leader has left.
    Bye,
}

/// The leaders of a world, seen from one of them.
#[derive(Debug)]
pub(crate) struct Leaders {
    group: Option<Group>,
    device: Device,
    gone: Mutex<BTreeSet<usize>>,
    /// How long a leader that was asked may take to answer.
    patience: Duration,
}

/// A message and who sent it.
pub(crate) type Letter = (usize, Help, Tensors);

impl Leaders {
    pub(crate) fn new(group: Option<Group>, device: Device, patience: Duration) -> Self {
        Self {
            group: group.filter(|group| group.size() > 1),
            device,
            gone: Mutex::default(),
            patience,
        }
    }

    fn gone(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The leaders that have not left.
    pub(crate) fn others(&self) -> Vec<usize> {
        let Some(group) = &self.group else {
            return Vec::new();
        };
        let gone = self.gone();
        (0..group.size())
            .filter(|rank| *rank != group.rank() && !gone.contains(rank))
            .collect()
    }

    /// The leader to ask after `asked` had no need of help, or to begin with. Never one that has left
    /// in the meantime: it would not answer.
    pub(crate) fn after(&self, asked: Option<usize>) -> Option<usize> {
        let mut others = self.others().into_iter();
        others.find(|other| Some(*other) > asked)
    }

    pub(crate) fn send(&self, to: usize, help: &Help, tensors: &Tensors) -> Result<()> {
        if let Some(group) = &self.group {
            group.send(to, &pack(help, tensors)?)?;
        }
        Ok(())
    }

    pub(crate) fn say(&self, to: usize, help: &Help) -> Result<()> {
        self.send(to, help, &Tensors::new())
    }

    /// The next message of a leader, if there is one within `patience`.
    fn look(&self, from: usize, patience: Duration) -> Result<Option<(Help, Tensors)>> {
        let Some(group) = &self.group else {
            return Ok(None);
        };
        let (help, tensors) = match group.receive(from, Some(patience)) {
            Ok(message) => unpack(&message, self.device)?,
            Err(CommError::Late { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if help == Help::Bye {
            self.gone().insert(from);
        }
        Ok(Some((help, tensors)))
    }

    /// Accepts one offer if `wanted`, and declines all others.
    pub(crate) fn offers(&self, wanted: bool) -> Result<Option<usize>> {
        let mut accepted = None;
        for other in self.others() {
            let Some((help, _)) = self.look(other, Duration::ZERO)? else {
                continue;
            };
            if help == Help::Offer {
                if wanted && accepted.is_none() {
                    accepted = Some(other);
                } else {
                    self.say(other, &Help::Decline)?;
                }
            }
        }
        Ok(accepted)
    }

    /// What the helper `from` computed. Offers of others are declined at the next step.
    pub(crate) fn velocity(&self, from: usize) -> Result<Tensors> {
        let late = || {
            storyloom_nn::error::ModelError::World(CommError::Late {
                group: "leaders".to_owned(),
                operation: "half of a guided step".to_owned(),
                ranks: vec![from],
                seconds: self.patience.as_secs(),
            })
        };
        let (_, tensors) = self.look(from, self.patience)?.ok_or_else(late)?;
        Ok(tensors)
    }

    /// Waits for a message from anybody; `None` after the patience of all.
    pub(crate) fn next(&self) -> Result<Option<Letter>> {
        let began = std::time::Instant::now();
        while began.elapsed() < self.patience {
            for other in self.others() {
                if let Some((help, tensors)) = self.look(other, Duration::ZERO)? {
                    return Ok(Some((other, help, tensors)));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }
}

impl Drop for Leaders {
    fn drop(&mut self) {
        for other in self.others() {
            // Whoever is gone need not be told.
            let _ = self.say(other, &Help::Bye);
        }
    }
}

#[cfg(test)]
mod tests {
    use storyloom_parallel::threads;

    use super::*;

    /// The last leader waits for the answer of the first while the one between them ends.
    #[test]
    fn nobody_who_has_left_is_asked() {
        let patience = Duration::from_secs(20);
        let mut leaders: Vec<Leaders> = threads::world(3, patience)
            .into_iter()
            .map(|group| Leaders::new(Some(group), Device::Cpu, patience))
            .collect();
        let last = leaders.remove(2);
        assert_eq!(last.after(None), Some(0));
        assert_eq!(last.after(Some(0)), Some(1));
        assert_eq!(last.after(Some(1)), None);
        drop(leaders.remove(1));
        let (from, help, _) = last.next().unwrap().unwrap();
        assert_eq!((from, help), (1, Help::Bye));
        leaders[0].say(2, &Help::Decline).unwrap();
        let (from, help, _) = last.next().unwrap().unwrap();
        assert_eq!((from, help), (0, Help::Decline));
        assert_eq!(last.after(Some(0)), None);
    }
}
