//! How ranks without MPI find each other: each tells one place where it listens, and is told where
//! all others do. This is the side of who holds the place; [`crate::attend`] is that of a rank.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::error::CommError;
use crate::frame::{self, Greeting, LONGEST_GREETING, Message, Refusal, VERSION};

/// Time that somebody has to introduce himself.
const GREETING: Duration = Duration::from_secs(5);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Who is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// Number of ranks.
    pub(crate) size: usize,
    /// What tells their world from others.
    pub(crate) world: &'a str,
}

/// A rank that has come.
struct Guest {
    stream: TcpStream,
    address: SocketAddr,
}

/// Somebody who has introduced himself.
type Caller = (TcpStream, SocketAddr, Greeting);

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
    listener.set_nonblocking(true).map_err(failed)?;
    let (heard, callers) = channel();
    let mut gathering = Gathering::new(expected);
    while !gathering.is_complete() {
        if stop() || gathering.is_over() {
            return Err(gathering.give_up());
        }
        let news = take_calls(listener, &heard).map_err(failed)?;
        gathering.admit_all(&callers);
        gathering.let_go();
        if !news {
            std::thread::sleep(PAUSE);
        }
    }
    gathering.tell_addresses();
    Ok(())
}

/// Listens to who calls, on a thread for each: one who says nothing must not keep the others
/// waiting. Returns whether anybody called.
fn take_calls(listener: &TcpListener, heard: &Sender<Caller>) -> io::Result<bool> {
    let (stream, peer) = match listener.accept() {
        Ok(call) => call,
        Err(error) if is_passing(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let heard = heard.clone();
    // Where no thread can be had, the caller is sent away and comes again.
    let _ = std::thread::Builder::new()
        .name("rendezvous".to_owned())
        .spawn(move || match listen_to(&stream) {
            // Nobody hears it when the gathering is over.
            Ok(greeting) => drop(heard.send((stream, peer, greeting))),
            Err(error) => {
                tracing::warn!(%peer, "a stranger at the rendezvous was sent away: {error}")
            }
        });
    Ok(true)
}

/// Nobody is there, or somebody was and has gone again.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    let kind = error.kind();
    matches!(
        kind,
        WouldBlock | Interrupted | ConnectionAborted | ConnectionReset
    )
}

fn listen_to(stream: &TcpStream) -> io::Result<Greeting> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(GREETING))?;
    match frame::read(stream, LONGEST_GREETING, Instant::now() + GREETING)? {
        Message::Greeting(greeting) => Ok(greeting),
        other => Err(io::Error::other(format!("no greeting but {other:?}"))),
    }
}

/// The ranks that have come so far.
struct Gathering<'a> {
    expected: Expected<'a>,
    guests: BTreeMap<usize, Guest>,
    began: Instant,
    /// When the first that came would no longer wait.
    deadline: Option<Instant>,
}

impl<'a> Gathering<'a> {
    fn new(expected: Expected<'a>) -> Self {
        Self {
            expected,
            guests: BTreeMap::new(),
            began: Instant::now(),
            deadline: None,
        }
    }

    fn is_complete(&self) -> bool {
        self.guests.len() == self.expected.size
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    fn admit_all(&mut self, callers: &Receiver<Caller>) {
        for (stream, peer, greeting) in callers.try_iter() {
            self.admit(stream, peer, &greeting);
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, greeting: &Greeting) {
        let rank = greeting.rank;
        let answer = match self.refusal(greeting) {
            Some(refusal) => {
                tracing::warn!(%peer, rank, "who calls itself a rank was sent away: {refusal:?}");
                Message::Refused(refusal)
            }
            None => Message::Welcome,
        };
        // Who does not hear the answer has gone again.
        if frame::write(&stream, &answer).is_ok() && answer == Message::Welcome {
            let patience = Duration::from_secs(greeting.patience.min(1 << 20));
            self.deadline.get_or_insert(Instant::now() + patience);
            let address = SocketAddr::new(peer.ip().to_canonical(), greeting.port);
            self.guests.insert(rank, Guest { stream, address });
        }
    }

    fn refusal(&self, greeting: &Greeting) -> Option<Refusal> {
        let Expected { size, world } = self.expected;
        if greeting.version != VERSION {
            return Some(Refusal::OtherVersion(VERSION.to_owned()));
        }
        if greeting.world != world {
            return Some(Refusal::OtherWorld);
        }
        if greeting.size != size || greeting.rank >= size {
            return Some(Refusal::OtherSize(size));
        }
        let before = self.guests.get(&greeting.rank);
        // One that was started again takes its own place.
        let is_taken = before.is_some_and(|guest| !has_left(&guest.stream));
        is_taken.then_some(Refusal::Taken)
    }

    /// Forgets those who have left again: they are waited for like those who never came.
    fn let_go(&mut self) {
        self.guests.retain(|rank, guest| {
            let left = has_left(&guest.stream);
            if left {
                tracing::warn!("rank {rank} has left the rendezvous again");
            }
            !left
        });
    }

    /// Tells those who came who did not.
    fn give_up(&self) -> CommError {
        let missing = (0..self.expected.size).filter(|rank| !self.guests.contains_key(rank));
        let ranks: Vec<usize> = missing.collect();
        let seconds = self.began.elapsed().as_secs();
        let news = Message::Missing {
            ranks: ranks.clone(),
            seconds,
        };
        for guest in self.guests.values() {
            // Who has gone meanwhile need not know.
            let _ = frame::write(&guest.stream, &news);
        }
        CommError::missing(&ranks, self.expected.size, seconds, "the rendezvous")
    }

    fn tell_addresses(&self) {
        let addresses = self.guests.values().map(|guest| guest.address).collect();
        let list = Message::Addresses(addresses);
        for guest in self.guests.values() {
            // Who has gone meanwhile is missed by the others soon enough.
            let _ = frame::write(&guest.stream, &list);
        }
    }
}

/// Whether the other end of a connection is closed. Ranks say nothing while they wait.
fn has_left(stream: &TcpStream) -> bool {
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
