//! The way of one rank to the place where its world meets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::CommError;
use crate::frame::{self, Greeting, LONGEST_GREETING, LONGEST_LIST, Message, Refusal, VERSION};
use crate::meeting::{Holder, Meeting};
use crate::proof::{Claim, Conversation, nonce};
use crate::rendezvous::{LONG, as_seen_from};
use crate::seal::{Encryption, Handshake, Seal};

/// Time for a connection to come about, and for an answer to a greeting.
const ANSWER: Duration = Duration::from_secs(3);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// What the rendezvous may take longer than it was asked to.
const GRACE: Duration = Duration::from_secs(15);
/// A launcher listens before it starts the first rank: where nobody listened for so long, it is gone.
const LAUNCHER_IS_GONE: Duration = Duration::from_secs(2);

/// Listens where the ranks meet, as the first of them.
///
/// # Errors
/// No port can be had: for good, or while others hold them, which is transient.
pub(crate) fn hold(
    meeting: &Meeting,
    collective_timeout: Duration,
) -> Result<TcpListener, CommError> {
    let deadline = Instant::now() + collective_timeout;
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
    collective_timeout: Duration,
) -> Result<Vec<SocketAddr>, CommError> {
    let begun = Instant::now();
    let deadline = begun + collective_timeout;
    let mut last = Attempt::default();
    let mut heard = begun;
    let mut is_told = false;
    let who = match meeting.holder {
        Holder::RankZero => "rank 0",
        Holder::Launcher => "its launcher",
    };
    while Instant::now() < deadline {
        for &port in &meeting.ports {
            for address in last.addresses(meeting, port) {
                if let Some((stream, conversation)) = last.greet(address, meeting, me)? {
                    return wait_for_all(&stream, &conversation, meeting, me, collective_timeout);
                }
            }
        }
        if !last.is_refused {
            heard = Instant::now();
        }
        if meeting.holder == Holder::Launcher && heard.elapsed() > LAUNCHER_IS_GONE {
            return Err(launcher_is_gone(me.rank));
        }
        if !is_told && begun.elapsed() > LONG {
            is_told = true;
            let (rank, place) = (me.rank, meeting.place());
            tracing::warn!("rank {rank} waits for {who} at {place}: {}", last.reason);
        }
        std::thread::sleep(PAUSE);
    }
    Err(CommError::Absent(format!(
        "rank {} of {} waited {} s for {who} at {}: {}; see what it says, then start the run again",
        me.rank,
        me.size,
        collective_timeout.as_secs(),
        meeting.place(),
        last.reason
    )))
}

/// A rank of a launcher that has ended before its ranks have met.
pub(crate) fn launcher_is_gone(rank: usize) -> CommError {
    CommError::Absent(format!(
        "rank {rank}: its launcher has ended; start the run again"
    ))
}

/// What was found at the place last.
struct Attempt {
    reason: String,
    /// Whether nobody listens there.
    is_refused: bool,
}

impl Default for Attempt {
    fn default() -> Self {
        let reason = "nobody answers".to_owned();
        Self {
            reason,
            is_refused: false,
        }
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
        meeting: &Meeting,
        me: &Greeting,
    ) -> Result<Option<(TcpStream, Conversation)>, CommError> {
        let stream = match call(address, ANSWER) {
            Ok(stream) => stream,
            Err(error) => {
                self.is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
                self.reason = format!("{address}: {error}");
                return Ok(None);
            }
        };
        self.is_refused = false;
        match introduce(&stream, &meeting.world, me, Instant::now() + ANSWER) {
            Ok(Introduced::Welcome(conversation, _)) => return Ok(Some((stream, conversation))),
            Ok(Introduced::Refused(Refusal::OtherWorld)) => {
                self.reason = format!("{address}: another world of ranks meets there");
            }
            Ok(Introduced::Refused(refusal)) => return Err(refused(address, me, &refusal)),
            // A rank that has just ended, or a program that is none of ours.
            Err(error) => self.reason = format!("{address}: no rendezvous answers there: {error}"),
        }
        Ok(None)
    }
}

/// What comes of a greeting.
pub(crate) enum Introduced {
    /// The rank belongs there, and so does the rank that it called; with the keys of the connection, where it
    /// is encrypted.
    Welcome(Conversation, Option<Seal>),
    /// It does not.
    Refused(Refusal),
}

/// Greets who was called, proves to know the secret `world` and has it proven. The answer to the
/// proof may take until `deadline`.
pub(crate) fn introduce(
    stream: &TcpStream,
    world: &str,
    me: &Greeting,
    deadline: Instant,
) -> io::Result<Introduced> {
    let me = Greeting {
        nonce: nonce()?,
        ..me.clone()
    };
    stream.set_write_timeout(Some(ANSWER))?;
    // What is said in two parts is not held back.
    stream.set_nodelay(true)?;
    frame::write(stream, &Message::Greeting(me.clone()))?;
    let answer = frame::read(stream, LONGEST_GREETING, Instant::now() + ANSWER)?;
    let conversation = match answer {
        Message::Challenge(nonce) => Conversation::new(world, &me, nonce)?,
        Message::Refused(refusal) => return Ok(Introduced::Refused(refusal)),
        _ => return Err(io::Error::other("it does not answer the greeting")),
    };
    let proof = conversation.prove(Claim::IsRank);
    frame::write(stream, &Message::Proof(proof))?;
    let handshake = match me.encryption {
        Encryption::None => None,
        Encryption::Noise => {
            let (handshake, first) = Handshake::begin(&conversation)?;
            frame::write(stream, &Message::Handshake(first))?;
            Some(handshake)
        }
    };
    match frame::read(stream, LONGEST_GREETING, deadline)? {
        Message::Welcome(proof) if conversation.is_proof(Claim::IsOfTheWorld, &proof) => {}
        Message::Refused(refusal) => return Ok(Introduced::Refused(refusal)),
        _ => {
            return Err(io::Error::other(
                "it does not know the secret of this world",
            ));
        }
    }
    let Some(handshake) = handshake else {
        return Ok(Introduced::Welcome(conversation, None));
    };
    match frame::read(stream, LONGEST_GREETING, deadline)? {
        Message::Handshake(answer) => {
            let seal = handshake.end(&answer)?;
            Ok(Introduced::Welcome(conversation, Some(seal)))
        }
        _ => Err(io::Error::other("it does not encrypt")),
    }
}

/// Connects to somebody else.
pub(crate) fn call(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, within)?;
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
        Refusal::OtherEncryption(theirs) => format!(
            "the ranks do not agree on encryption, which is {:?} there and {:?} here: give all ranks \
             the same topology.encryption",
            theirs.name(),
            me.encryption.name()
        ),
    };
    CommError::Setup(format!(
        "the rendezvous at {address} sends rank {rank} away: {why}"
    ))
}

/// Waits for the list of all ranks.
fn wait_for_all(
    stream: &TcpStream,
    conversation: &Conversation,
    meeting: &Meeting,
    me: &Greeting,
    collective_timeout: Duration,
) -> Result<Vec<SocketAddr>, CommError> {
    let place = meeting.place();
    let ended = |error: io::Error| {
        let rank = me.rank;
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => format!(
                "rank {rank} waited {} s at {place}, and not all ranks came; start the run again",
                collective_timeout.as_secs()
            ),
            _ => format!(
                "the rendezvous at {place} ended before all ranks were there; start the run again"
            ),
        };
        CommError::Absent(reason)
    };
    let there = stream.peer_addr().map_err(ended)?.ip();
    let deadline = Instant::now() + collective_timeout + GRACE;
    let is_genuine =
        |list: &str, proof: &str| conversation.is_proof(Claim::Said(list.as_bytes()), proof);
    match frame::read(stream, LONGEST_LIST, deadline).map_err(ended)? {
        Message::Addresses { list, proof } if is_genuine(&list, &proof) => {
            let list: Vec<SocketAddr> =
                serde_json::from_str(&list).map_err(|error| ended(error.into()))?;
            match list.len() == me.size {
                true => Ok(as_seen_from(list, there)),
                false => Err(ended(io::ErrorKind::InvalidData.into())),
            }
        }
        Message::Missing { ranks, seconds } => {
            Err(CommError::missing(&ranks, me.size, seconds, &place))
        }
        _ => Err(ended(io::ErrorKind::InvalidData.into())),
    }
}
