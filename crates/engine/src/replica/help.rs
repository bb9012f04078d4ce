//! The end of a run: replicas without a story of their own take over the negative conditions of those
//! that still have one.
//!
//! An idle leader offers itself to one other leader at a time. A leader that samples looks for
//! offers between two steps, and from then on lets the other compute half of the guidance until
//! its shot is done. Both compute what one rank would, so no bit of the result changes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storyloom_nn::error::{ModelError, Result};
use storyloom_parallel::{CommError, Group};
use tch::Device;

use super::conditions::LoopConditions;
use super::message::{HelpMessage, SAMPLE};
use super::wire::{Tensors, pack, unpack};
use crate::backbone::{NetworkId, StepInput};

/// The leaders of a world, seen from one of them.
#[derive(Debug)]
pub(crate) struct Leaders {
    group: Option<Group>,
    device: Device,
    gone: Mutex<BTreeSet<usize>>,
    /// How long a leader that was asked may take to answer.
    pub(super) timeout: Duration,
}

/// A message and who sent it.
pub(crate) type Received = (usize, HelpMessage, Tensors);

impl Leaders {
    pub(crate) fn new(group: Option<Group>, device: Device, timeout: Duration) -> Self {
        Self {
            group: group.filter(|group| group.size() > 1),
            device,
            gone: Mutex::default(),
            timeout,
        }
    }

    fn gone(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(crate) fn send_with(&self, to: usize, help: &HelpMessage, tensors: &Tensors) -> Result<()> {
        if let Some(group) = &self.group {
            group.send(to, &pack(help, tensors)?)?;
        }
        Ok(())
    }

    pub(crate) fn send(&self, to: usize, help: &HelpMessage) -> Result<()> {
        self.send_with(to, help, &Tensors::new())
    }

    /// The next message of a leader, if there is one within `timeout`.
    fn look(&self, from: usize, timeout: Duration) -> Result<Option<(HelpMessage, Tensors)>> {
        let Some(group) = &self.group else {
            return Ok(None);
        };
        let (help, tensors) = match group.receive(from, Some(timeout)) {
            Ok(message) => unpack(&message, self.device)?,
            Err(CommError::Late { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if help == HelpMessage::Bye {
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
            if help == HelpMessage::Offer {
                if wanted && accepted.is_none() {
                    accepted = Some(other);
                } else {
                    self.send(other, &HelpMessage::Decline)?;
                }
            }
        }
        Ok(accepted)
    }

    /// What the helper `from` computed. Offers of others are declined at the next step.
    pub(crate) fn prediction(&self, from: usize) -> Result<Tensors> {
        let late = || {
            ModelError::World(CommError::Late {
                group: "leaders".to_owned(),
                operation: "half of a guided step".to_owned(),
                ranks: vec![from],
                seconds: self.timeout.as_secs(),
            })
        };
        let (_, tensors) = self.look(from, self.timeout)?.ok_or_else(late)?;
        Ok(tensors)
    }

    /// Waits for a message from anybody; `None` after the timeout.
    pub(crate) fn next(&self) -> Result<Option<Received>> {
        let began = std::time::Instant::now();
        while began.elapsed() < self.timeout {
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
            // A leader that is gone need not be told.
            let _ = self.send(other, &HelpMessage::Bye);
        }
    }
}

/// The leader of another replica who computes with the negative conditions, while it has nothing else
/// to do. It is released when the loop ends, however that is.
pub(crate) struct Helper<'a> {
    leaders: Option<&'a Leaders>,
    rank: Option<usize>,
}

impl<'a> Helper<'a> {
    /// Nobody so far.
    pub(crate) fn new(leaders: Option<&'a Leaders>) -> Self {
        Self {
            leaders,
            rank: None,
        }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.rank.is_some()
    }

    /// Looks for offers; whether one was accepted just now.
    pub(crate) fn look(&mut self, wanted: bool) -> Result<bool> {
        let Some(leaders) = self.leaders else {
            return Ok(false);
        };
        let offered = leaders.offers(wanted && self.rank.is_none())?;
        if let Some(rank) = offered {
            tracing::info!("the leader of replica {rank} helps with the negative prompt");
            self.rank = offered;
        }
        Ok(offered.is_some())
    }

    /// Lets the helper prepare conditions.
    pub(crate) fn prepare(&self, network: NetworkId, conditions: &LoopConditions) -> Result<()> {
        let tensors = conditions.tensors(false);
        self.send(&HelpMessage::Prepare { network }, &tensors)
    }

    /// Lets the helper predict. The sample, f32 in the shape of the network's latents, is sent to it whole;
    /// it answers with a prediction of this shape. One message, no collective.
    pub(crate) fn forward(&self, input: &StepInput) -> Result<()> {
        let sample = Tensors::from([(SAMPLE.to_owned(), input.sample.shallow_clone())]);
        self.send(&HelpMessage::Forward { step: input.step }, &sample)
    }

    /// What the helper predicted.
    pub(crate) fn prediction(&self) -> Result<Tensors> {
        match (self.leaders, self.rank) {
            (Some(leaders), Some(rank)) => leaders.prediction(rank),
            _ => Ok(Tensors::new()),
        }
    }

    fn send(&self, help: &HelpMessage, tensors: &Tensors) -> Result<()> {
        match (self.leaders, self.rank) {
            (Some(leaders), Some(rank)) => leaders.send_with(rank, help, tensors),
            _ => Ok(()),
        }
    }
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        // A helper that is gone need not be released.
        let _ = self.send(&HelpMessage::Release, &Tensors::new());
    }
}

#[cfg(test)]
mod tests {
    use storyloom_parallel::threads;

    use super::*;

    /// The last leader waits for the answer of the first while the one between them ends.
    #[test]
    fn nobody_who_has_left_is_asked() {
        let collective_timeout = Duration::from_secs(20);
        let mut leaders: Vec<Leaders> = threads::world(3, collective_timeout)
            .into_iter()
            .map(|group| Leaders::new(Some(group), Device::Cpu, collective_timeout))
            .collect();
        let last = leaders.remove(2);
        assert_eq!(last.after(None), Some(0));
        assert_eq!(last.after(Some(0)), Some(1));
        assert_eq!(last.after(Some(1)), None);
        drop(leaders.remove(1));
        let (from, help, _) = last.next().unwrap().unwrap();
        assert_eq!((from, help), (1, HelpMessage::Bye));
        leaders[0].send(2, &HelpMessage::Decline).unwrap();
        let (from, help, _) = last.next().unwrap().unwrap();
        assert_eq!((from, help), (0, HelpMessage::Decline));
        assert_eq!(last.after(Some(0)), None);
    }
}
