//! What ranks say to each other before they are a world: messages of known length that begin with
//! a mark, so that nobody takes the words of a stranger for those of a rank.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The first bytes of every message; the last one changes with the form of what follows.
const MARK: [u8; 8] = *b"slranks\x02";

/// The version of this program: ranks of different ones are no world.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest message that is read of one who may be a stranger.
pub(crate) const LONGEST_GREETING: usize = 4 << 10;
/// Longest message that is read of the rendezvous: the addresses of all ranks.
pub(crate) const LONGEST_LIST: usize = 4 << 20;

/// How a rank introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The version of its program.
    pub(crate) version: String,
    /// What tells its world from others.
    pub(crate) world: String,
    /// How many ranks it believes there are.
    pub(crate) size: usize,
    /// Which of them it is.
    pub(crate) rank: usize,
    /// The port at which it listens.
    pub(crate) port: u16,
    /// Seconds that it gives the others to come.
    pub(crate) patience: u64,
}

/// Why a rank is sent away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    /// Another world, or another start of the same, meets here.
    OtherWorld,
    /// The ranks run different versions of the program.
    OtherVersion(String),
    /// The ranks do not agree how many they are.
    OtherSize(usize),
    /// Somebody else is this rank.
    Taken,
}

/// Everything that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// A rank introduces itself, to the rendezvous or to another rank.
    Greeting(Greeting),
    /// The rendezvous knows the rank; what follows, follows when all are there.
    Welcome,
    /// Where all ranks listen, in their order.
    Addresses(Vec<SocketAddr>),
    /// These ranks did not come within so many seconds.
    Missing {
        /// The ranks.
        ranks: Vec<usize>,
        /// How long the others waited.
        seconds: u64,
    },
    /// The rank does not belong here.
    Refused(Refusal),
}

fn wrong(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A message as bytes: the mark, the length of the rest, and the rest as JSON.
fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| wrong("too long a message"))?;
    Ok([&MARK[..], &length.to_le_bytes(), &body].concat())
}

/// Says something.
pub(crate) fn write(mut stream: &TcpStream, message: &Message) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Hears the next message, of up to `longest` bytes, before `deadline`.
pub(crate) fn read(stream: &TcpStream, longest: usize, deadline: Instant) -> io::Result<Message> {
    let mut head = [0; MARK.len() + 4];
    fill(stream, &mut head, deadline)?;
    let length = length_of(&head).filter(|&length| length <= longest);
    let length = length.ok_or_else(|| wrong("not the words of a rank"))?;
    let mut body = vec![0; length];
    fill(stream, &mut body, deadline)?;
    Ok(serde_json::from_slice(&body)?)
}

/// The length that the head of a message names, if it is one.
fn length_of(head: &[u8; MARK.len() + 4]) -> Option<usize> {
    let length = head.strip_prefix(&MARK)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

/// Reads a whole buffer. Who sends a byte now and then does not win time by it.
fn fill(mut stream: &TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => filled += bytes,
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    /// What comes out at the other end of a connection when `bytes` go in and it is closed.
    fn heard(bytes: &[u8], longest: usize) -> io::Result<Message> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        caller.write_all(bytes).unwrap();
        drop(caller);
        read(&stream, longest, Instant::now() + Duration::from_secs(60))
    }

    fn greeting() -> impl Strategy<Value = Message> {
        let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u32>());
        (".{0,40}", numbers).prop_map(|(world, (size, rank, port, patience))| {
            Message::Greeting(Greeting {
                version: VERSION.to_owned(),
                world,
                size: size as usize,
                rank: rank as usize,
                port,
                patience: patience.into(),
            })
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let addresses = proptest::collection::vec(any::<SocketAddr>(), 0..9);
        prop_oneof![
            greeting(),
            Just(Message::Welcome),
            addresses.prop_map(|list| Message::Addresses(list.into_iter().map(plain).collect())),
            (any::<Vec<usize>>(), any::<u64>())
                .prop_map(|(ranks, seconds)| Message::Missing { ranks, seconds }),
            any::<usize>().prop_map(|size| Message::Refused(Refusal::OtherSize(size))),
            ".{0,9}".prop_map(|version| Message::Refused(Refusal::OtherVersion(version))),
            Just(Message::Refused(Refusal::Taken)),
        ]
    }

    /// Without the label of flows, which is no part of an address as text.
    fn plain(address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V6(mut v6) => {
                v6.set_flowinfo(0);
                v6.into()
            }
            v4 => v4,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_said_is_heard(message in message()) {
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(heard(&bytes, LONGEST_LIST).unwrap(), message);
        }

        #[test]
        fn what_is_cut_off_is_nothing(message in message(), part in 0.0..1.0) {
            let bytes = encode(&message).unwrap();
            let cut = (bytes.len() as f64 * part) as usize;
            prop_assert!(heard(&bytes[..cut], LONGEST_LIST).is_err());
        }

        #[test]
        fn strangers_are_not_understood(bytes: Vec<u8>) {
            prop_assert!(heard(&bytes, LONGEST_GREETING).is_err());
            let marked = [&MARK[..], &bytes].concat();
            prop_assert!(heard(&marked, LONGEST_GREETING).is_err());
        }
    }

    #[test]
    fn nobody_is_listened_to_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let error = read(&stream, 9, Instant::now() + Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // A length that nobody would read.
        let endless = [&MARK[..], &u32::MAX.to_le_bytes()].concat();
        let error = heard(&endless, LONGEST_LIST).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
