//! Whether the other ranks of a world still live: each tells every other so once a second, whatever it
//! is at. A machine without power and a cable that was cut say nothing when they go, and neither does a
//! process that stands still.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::mailbox::{Mailbox, Parting};
use crate::sockets::Connection;

/// Time between two signs of life.
const PULSE: Duration = Duration::from_secs(1);
/// A rank is given up so much later than a collective that waits for it: that one says more.
const MARGIN: Duration = Duration::from_secs(3);
/// How long a rank may be silent once this one was asked to stop.
const HURRIED: Duration = Duration::from_secs(5);

/// Whether this process was asked to stop.
type Ask = Box<dyn Fn() -> bool + Send + Sync>;
static HURRY: OnceLock<Ask> = OnceLock::new();

/// From now on, ranks that are silent are given up soon while `ask` says so. The first call counts.
pub(crate) fn hurry_while(ask: impl Fn() -> bool + Send + Sync + 'static) {
    let _ = HURRY.set(Box::new(ask));
}

fn is_hurried() -> bool {
    HURRY.get().is_some_and(|ask| ask())
}

/// How long a rank may be silent.
fn longest(collective_timeout: Duration, is_hurried: bool) -> Duration {
    match is_hurried {
        true => HURRIED.min(collective_timeout + MARGIN),
        false => collective_timeout + MARGIN,
    }
}

/// What is known of one other rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Silence {
    /// Parts of messages that had come from it at the last look.
    heard: u64,
    /// Looks since something came. Time in which this process itself stood still does not count: after
    /// Ctrl-Z, all ranks have been silent.
    looks: u32,
}

impl Silence {
    fn look(&mut self, heard: u64) {
        let looks = match heard == self.heard {
            true => self.looks + 1,
            false => 0,
        };
        *self = Self { heard, looks };
    }

    fn lasts(&self) -> Duration {
        PULSE * self.looks
    }
}

/// Tells the others that this rank lives, and gives up those of whom nothing is heard, until the other
/// end of `over` is dropped.
pub(crate) fn keep_watch(
    peers: &[Option<Arc<Connection>>],
    mailbox: &Mailbox,
    collective_timeout: Duration,
    over: &Receiver<()>,
) {
    let mut silences = vec![Silence::default(); peers.len()];
    while over.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
        let longest = longest(collective_timeout, is_hurried());
        for (rank, (peer, silence)) in peers.iter().zip(&mut silences).enumerate() {
            let Some(peer) = peer else { continue };
            peer.send_pulse();
            silence.look(peer.heard());
            if silence.lasts() > longest {
                mailbox.close(rank, Parting::Silent(silence.lasts()));
                // Anyone who writes to it or reads from it gets an error.
                peer.hang_up();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let mut silence = Silence::default();
        for (heard, wanted) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)] {
            silence.look(heard);
            assert_eq!(silence.lasts(), PULSE * wanted);
        }
    }

    #[test]
    fn who_was_asked_to_stop_waits_for_the_dead_no_more() {
        let collective_timeout = Duration::from_secs(300);
        assert!(longest(collective_timeout, false) > collective_timeout);
        assert_eq!(longest(collective_timeout, true), HURRIED);
        assert!(longest(Duration::from_secs(1), true) <= longest(Duration::from_secs(1), false));
    }
}
