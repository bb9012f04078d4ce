//! How ranks without MPI find each other: each tells one place where it listens, and is told where
//! all others do. This is the side of who holds the place; [`crate::attend`] is that of a rank.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::CommError;
use crate::frame::{self, Greeting, Message, Refusal};
use crate::proof::Claim;
use crate::reception::{Caller, Reception};
use crate::seal::Encryption;

/// A wait that somebody should hear of.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Who is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// Number of ranks.
    pub(crate) size: usize,
    /// What tells their world from others.
    pub(crate) world: &'a str,
    /// Whether they encrypt what they say; `None` leaves it to the first that comes.
    pub(crate) encryption: Option<Encryption>,
}

/// A rank that has come.
struct ArrivedRank {
    caller: Caller,
    address: SocketAddr,
}

/// Collects the addresses of all ranks and sends each the whole list.
///
/// All have the time that the first of them names. `stop` is asked from time to time; `true` gives
/// up as if the time were over. Who has come is told then which ranks have not.
///
/// # Errors
/// Not all came, or the system refuses to listen.
pub(crate) fn serve(
    listener: &TcpListener,
    expected: Expected,
    stop: &dyn Fn() -> bool,
) -> Result<(), CommError> {
    let failed = |error: io::Error| CommError::Absent(format!("rendezvous: {error}"));
    let reception = Reception::open(listener, expected.world, expected.size).map_err(failed)?;
    let mut gathering = Gathering::new(expected);
    while !gathering.is_complete() {
        if stop() || gathering.is_over() {
            return Err(gathering.give_up());
        }
        let mut wait = PAUSE;
        while let Some(caller) = reception.next(wait).map_err(failed)? {
            gathering.admit(caller);
            wait = Duration::ZERO;
        }
        gathering.let_go();
        gathering.warn_of_missing();
    }
    gathering.send_addresses();
    Ok(())
}

/// The ranks that have come so far.
struct Gathering<'a> {
    expected: Expected<'a>,
    arrived: BTreeMap<usize, ArrivedRank>,
    began: Instant,
    /// When the first that came would no longer wait.
    deadline: Option<Instant>,
    /// Whether it was said who is waited for.
    is_told: bool,
}

impl<'a> Gathering<'a> {
    fn new(expected: Expected<'a>) -> Self {
        Self {
            expected,
            arrived: BTreeMap::new(),
            began: Instant::now(),
            deadline: None,
            is_told: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.arrived.len() == self.expected.size
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    fn admit(&mut self, caller: Caller) {
        if let Some(refusal) = self.refusal(&caller.greeting) {
            return caller.refuse(refusal);
        }
        // Who does not hear it has gone again.
        if caller.welcome().is_ok() {
            let Greeting {
                rank,
                port,
                collective_timeout,
                ..
            } = caller.greeting;
            let collective_timeout = Duration::from_secs(collective_timeout.min(1 << 20));
            self.deadline
                .get_or_insert(Instant::now() + collective_timeout);
            let encryption = caller.greeting.encryption;
            self.expected.encryption.get_or_insert(encryption);
            let address = SocketAddr::new(caller.peer.ip().to_canonical(), port);
            self.arrived.insert(rank, ArrivedRank { caller, address });
        }
    }

    fn refusal(&self, greeting: &Greeting) -> Option<Refusal> {
        let size = self.expected.size;
        if greeting.size != size || greeting.rank >= size {
            return Some(Refusal::OtherSize(size));
        }
        let agreed = self.expected.encryption;
        if let Some(other) = agreed.filter(|&agreed| agreed != greeting.encryption) {
            return Some(Refusal::OtherEncryption(other));
        }
        let before = self.arrived.get(&greeting.rank);
        // One that was started again takes its own place.
        let is_taken = before.is_some_and(|arrived| !has_left(&arrived.caller.stream));
        is_taken.then_some(Refusal::Taken)
    }

    /// Forgets those who have left again: they are waited for like those who never came.
    fn let_go(&mut self) {
        self.arrived.retain(|rank, arrived| {
            let left = has_left(&arrived.caller.stream);
            if left {
                tracing::warn!("rank {rank} has left the rendezvous again");
            }
            !left
        });
    }

    fn missing(&self) -> Vec<usize> {
        let ranks = 0..self.expected.size;
        let missing = ranks.filter(|rank| !self.arrived.contains_key(rank));
        missing.collect()
    }

    /// Says once who is waited for, if that takes long.
    fn warn_of_missing(&mut self) {
        if !self.is_told && self.began.elapsed() > LONG {
            self.is_told = true;
            let (missing, size) = (self.missing(), self.expected.size);
            tracing::warn!(
                "ranks {missing:?} of {size} have not come to the rendezvous yet; they are waited for"
            );
        }
    }

    /// Tells those who came who did not.
    fn give_up(&self) -> CommError {
        let ranks = self.missing();
        let seconds = self.began.elapsed().as_secs();
        let news = Message::Missing {
            ranks: ranks.clone(),
            seconds,
        };
        for arrived in self.arrived.values() {
            // Who has gone meanwhile need not know.
            let _ = frame::write(&arrived.caller.stream, &news);
        }
        CommError::missing(&ranks, self.expected.size, seconds, "the rendezvous")
    }

    fn send_addresses(&self) {
        let addresses: Vec<SocketAddr> = self
            .arrived
            .values()
            .map(|arrived| arrived.address)
            .collect();
        // Plain data into memory does not fail.
        let list = serde_json::to_string(&addresses).unwrap_or_default();
        for ArrivedRank { caller, .. } in self.arrived.values() {
            let proof = caller.conversation.prove(Claim::Said(list.as_bytes()));
            let list = list.clone();
            // Who has gone meanwhile is missed by the others soon enough.
            let _ = frame::write(&caller.stream, &Message::Addresses { list, proof });
        }
    }
}

/// Whether the other end of a connection is closed. Ranks say nothing while they wait.
pub(crate) fn has_left(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    !matches!(look(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The list as one sees it who reached the rendezvous at `there`: ranks on the machine of the
/// rendezvous may have come to it by loopback, where nobody else finds them.
pub(crate) fn as_seen_from(list: Vec<SocketAddr>, there: IpAddr) -> Vec<SocketAddr> {
    let there = there.to_canonical();
    let seen = |mut address: SocketAddr| {
        if address.ip().is_loopback() && !there.is_loopback() {
            address.set_ip(there);
        }
        address
    };
    list.into_iter().map(seen).collect()
}

#[cfg(test)]
#[path = "rendezvous_test.rs"]
mod tests;
