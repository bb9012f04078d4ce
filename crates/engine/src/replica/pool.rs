//! The leader's end of a replica, and the loop of the ranks at the other end.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use storyloom_nn::error::{ModelError, Result};
use storyloom_parallel::topology::Role;
use storyloom_story::Stage;
use tch::Device;

use super::Replica;
use super::message::{Answer, Command};
use super::wire::{Tensors, pack, unpack};

/// The other ranks of a replica, seen from its leader.
#[derive(Debug)]
pub(crate) struct FollowerPool {
    pub(crate) replica: Replica,
    /// Commands to several ranks reach all of them in the same order.
    order: Mutex<()>,
}

impl FollowerPool {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            order: Mutex::new(()),
        }
    }

    /// Sends a command to ranks of the replica.
    pub(crate) fn send(&self, ranks: &[usize], command: &Command, tensors: &Tensors) -> Result<()> {
        if ranks.is_empty() {
            return Ok(());
        }
        let message = pack(command, tensors)?;
        let _guard = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for &rank in ranks {
            self.replica.group.send(rank, &message)?;
        }
        Ok(())
    }

    /// Waits for what a rank answers, as long as it lives.
    pub(crate) fn answer(&self, rank: usize, device: Device) -> Result<(Value, Tensors)> {
        let message = self.replica.group.receive(rank, None)?;
        match unpack(&message, device)? {
            (Answer::Failed { class, message }, _) => Err(ModelError::Rank { class, message }),
            (Answer::Done { message }, tensors) => Ok((message, tensors)),
        }
    }

    /// Asks one rank and waits.
    pub(crate) fn ask(
        &self,
        rank: usize,
        command: &Command,
        tensors: &Tensors,
        device: Device,
    ) -> Result<(Value, Tensors)> {
        self.send(&[rank], command, tensors)?;
        self.answer(rank, device)
    }
}

impl Drop for FollowerPool {
    fn drop(&mut self) {
        let others: Vec<usize> = (1..self.replica.group.size()).collect();
        // Ranks that are gone need not be told.
        let _ = self.send(&others, &Command::End, &Tensors::new());
    }
}

/// Waits for commands and answers them until the end.
///
/// What `handle` returns as `None` has no answer. A command that fails is answered as such and ends
/// nothing; only a world that fell apart does, and on ranks of a denoiser any failure, which would
/// leave the others waiting.
pub(crate) fn serve(
    replica: &Replica,
    device: Device,
    mut handle: impl FnMut(Command, Tensors) -> Result<Option<(Value, Tensors)>>,
) -> Result<()> {
    loop {
        let message = replica.group.receive(0, None)?;
        let (command, tensors) = unpack(&message, device)?;
        if matches!(command, Command::End) {
            return Ok(());
        }
        let answered = match handle(command, tensors) {
            Ok(None) => continue,
            Ok(Some((message, tensors))) => pack(&Answer::Done { message }, &tensors)?,
            Err(error @ ModelError::World(_)) => return Err(error),
            Err(error) if matches!(replica.seat.role, Role::Denoise(_)) => return Err(error),
            Err(error) => pack(
                &Answer::Failed {
                    class: error.class(),
                    message: error.to_string(),
                },
                &Tensors::new(),
            )?,
        };
        replica.group.send(0, &answered)?;
    }
}

/// As [`serve`], on a rank that has the networks of stages and takes part in no prediction.
pub(crate) fn serve_stages(
    replica: &Replica,
    device: Device,
    mut handle: impl FnMut(Stage, Value, Tensors) -> Result<(Value, Tensors)>,
) -> Result<()> {
    serve(replica, device, |command, tensors| match command {
        Command::Stage { stage, message } => handle(stage, message, tensors).map(Some),
        other => Err(not_for_this_rank(&other)),
    })
}

/// What a rank says to a command that it has no networks for.
pub(crate) fn not_for_this_rank(command: &dyn std::fmt::Debug) -> ModelError {
    ModelError::input("command", format!("{command:?} is not for this rank"))
}
