//! The way of one rank to the place where its world meets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::CommError;
use crate::frame::{self, Greeting, LONGEST_GREETING, LONGEST_LIST, Message, Refusal, VERSION};
use crate::meeting::{Holder, Meeting};
use crate::rendezvous::as_seen_from;

/// Time for a connection to come about, and for an answer to a greeting.
const ANSWER: Duration = Duration::from_secs(3);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// What the rendezvous may take longer than it was asked to.
const GRACE: Duration = Duration::from_secs(15);

/// Listens where the ranks meet, as the first of them.
///
/// # Errors
/// No port can be had: for good, or while others hold them, which may pass.
pub(crate) fn hold(meeting: &Meeting, patience: Duration) -> Result<TcpListener, CommError> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match first_port(meeting) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let place = meeting.place();
        if error.kind() == io::ErrorKind::PermissionDenied {
            let reason = format!("rank 0 may not listen at {place}: {error}");
            return Err(CommError::Setup(reason));
        }
        if Instant::now() > deadline {
            let reason = format!(
                "rank 0 cannot listen at {place}: {error}; end what holds the port or set \
                 MASTER_PORT to another, and start the run again"
            );
            return Err(CommError::Absent(reason));
        }
        std::thread::sleep(PAUSE);
    }
}

/// The first of the ports that nobody has.
fn first_port(meeting: &Meeting) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for &port in &meeting.ports {
        for address in meeting.listening(port) {
            match TcpListener::bind(address) {
                Ok(listener) => return Ok(listener),
                // Somebody has this port: another address of it would be half of a place.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    last = error;
                    break;
                }
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Introduces a rank where its world meets, and returns where all ranks listen.
///
/// # Errors
/// Not all came in time, or this rank does not belong to those who meet there.
pub(crate) fn attend(
    meeting: &Meeting,
    me: &Greeting,
    patience: Duration,
) -> Result<Vec<SocketAddr>, CommError> {
    let deadline = Instant::now() + patience;
    let mut last = Attempt::default();
    while Instant::now() < deadline {
        for &port in &meeting.ports {
            for address in last.addresses(meeting, port) {
                if let Some(stream) = last.greet(address, me)? {
                    return wait_for_all(&stream, meeting, me, patience);
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    let who = match meeting.holder {
        Holder::RankZero => "rank 0",
        Holder::Launcher => "its launcher",
    };
    Err(CommError::Absent(format!(
        "rank {} of {} waited {} s for {who} at {}: {}; see what it says, then start the run again",
        me.rank,
        me.size,
        patience.as_secs(),
        meeting.place(),
        last.reason
    )))
}

/// What was found at the place last.
struct Attempt {
    reason: String,
}

impl Default for Attempt {
    fn default() -> Self {
        let reason = "nobody answers".to_owned();
        Self { reason }
    }
}

impl Attempt {
    fn addresses(&mut self, meeting: &Meeting, port: u16) -> Vec<SocketAddr> {
        meeting.addresses(port).unwrap_or_else(|error| {
            self.reason = format!("the name {} has no address: {error}", meeting.host);
            Vec::new()
        })
    }

    /// The connection to a rendezvous that has taken the greeting.
    fn greet(
        &mut self,
        address: SocketAddr,
        me: &Greeting,
    ) -> Result<Option<TcpStream>, CommError> {
        let stream = match call(address) {
            Ok(stream) => stream,
            Err(error) => {
                self.reason = format!("{address}: {error}");
                return Ok(None);
            }
        };
        let greeting = Message::Greeting(me.clone());
        let answer = frame::write(&stream, &greeting)
            .and_then(|()| frame::read(&stream, LONGEST_GREETING, Instant::now() + ANSWER));
        match answer {
            Ok(Message::Welcome) => return Ok(Some(stream)),
            Ok(Message::Refused(Refusal::OtherWorld)) => {
                self.reason = format!("{address}: another world of ranks meets there");
            }
            Ok(Message::Refused(refusal)) => return Err(refused(address, me, &refusal)),
            // A rank that has just ended, or a program that is none of ours.
            Ok(_) => self.reason = format!("{address}: no rendezvous answers there"),
            Err(error) => self.reason = format!("{address}: no rendezvous answers there: {error}"),
        }
        Ok(None)
    }
}

/// Connects to somebody else.
fn call(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER)?;
    // Where nobody listens, a caller whose own port happens to be that one reaches himself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

fn refused(address: SocketAddr, me: &Greeting, refusal: &Refusal) -> CommError {
    let Greeting { rank, size, .. } = me;
    let why = match refusal {
        Refusal::OtherVersion(theirs) => {
            format!("it runs storyloom {theirs}, this rank {VERSION}: use one version")
        }
        Refusal::OtherSize(theirs) => format!(
            "it waits for {theirs} ranks, and this is rank {rank} of {size}: give all ranks the \
             same WORLD_SIZE and each its own RANK below it"
        ),
        Refusal::Taken => "another process is this rank already: give each its own RANK".to_owned(),
        Refusal::OtherWorld => "another world of ranks meets there".to_owned(),
    };
    CommError::Setup(format!(
        "the rendezvous at {address} sends rank {rank} away: {why}"
    ))
}

/// Waits for the list of all ranks.
fn wait_for_all(
    stream: &TcpStream,
    meeting: &Meeting,
    me: &Greeting,
    patience: Duration,
) -> Result<Vec<SocketAddr>, CommError> {
    let place = meeting.place();
    let ended = |error: io::Error| {
        let rank = me.rank;
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => format!(
                "rank {rank} waited {} s at {place}, and not all ranks came; start the run again",
                patience.as_secs()
            ),
            _ => format!(
                "the rendezvous at {place} ended before all ranks were there; start the run again"
            ),
        };
        CommError::Absent(reason)
    };
    let there = stream.peer_addr().map_err(ended)?.ip();
    let deadline = Instant::now() + patience + GRACE;
    match frame::read(stream, LONGEST_LIST, deadline).map_err(ended)? {
        Message::Addresses(list) if list.len() == me.size => Ok(as_seen_from(list, there)),
        Message::Missing { ranks, seconds } => {
            Err(CommError::missing(&ranks, me.size, seconds, &place))
        }
        _ => Err(ended(io::ErrorKind::InvalidData.into())),
    }
}
