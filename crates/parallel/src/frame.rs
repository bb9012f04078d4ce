//! What ranks say to each other before they are a world: messages of known length that begin with
//! a mark, so that nobody takes the words of a stranger for those of a rank.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::seal::Encryption;

/// The first bytes of every message; the last one changes with the form of what follows.
const MARK: [u8; 8] = *b"slranks\x02";

/// The version of this program and of what its ranks say to each other: those of different ones are
/// no world. Every version since the first hears this much of a greeting, and says so.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (protocol 5)");

/// Longest message that is read of one who may be a stranger.
pub(crate) const LONGEST_GREETING: usize = 4 << 10;
/// Longest message that is read of the rendezvous: the addresses of all ranks.
pub(crate) const LONGEST_LIST: usize = 4 << 20;

/// How a rank introduces itself. What it knows of its world it proves afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The version of its program.
    pub(crate) version: String,
    /// Empty. Protocol 2 told its secret here, and understands no greeting without it.
    pub(crate) world: String,
    /// How many ranks it believes there are.
    pub(crate) size: usize,
    /// Which of them it is.
    pub(crate) rank: usize,
    /// The port at which it listens.
    pub(crate) port: u16,
    /// Seconds that it gives the others to come. The name on the wire is that of protocol 2.
    #[serde(rename = "patience")]
    pub(crate) collective_timeout: u64,
    /// A number that no other greeting has. Protocol 2 had none.
    #[serde(default)]
    pub(crate) nonce: String,
    /// Whether it encrypts what it says after the greeting. Protocol 3 did not.
    #[serde(default)]
    pub(crate) encryption: Encryption,
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
    /// The ranks do not agree whether they encrypt what they say.
    OtherEncryption(Encryption),
}

/// Everything that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// A rank introduces itself, to the rendezvous or to another rank.
    Greeting(Greeting),
    /// A number that no other answer has: prove that you know the secret of this world.
    Challenge(String),
    /// The proof.
    Proof(String),
    /// A part of the handshake of encryption: with the proof, and with the welcome.
    Handshake(Vec<u8>),
    /// The rank belongs here, and this is the proof that it has come to its own world; what follows,
    /// follows when all are there.
    Welcome(String),
    /// Where all ranks listen.
    Addresses {
        /// In the order of the ranks, as JSON.
        list: String,
        /// That it is from who said welcome.
        proof: String,
    },
    /// These ranks did not come within this number of seconds.
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
        (".{0,40}", numbers).prop_map(|(nonce, (size, rank, port, collective_timeout))| {
            Message::Greeting(Greeting {
                version: VERSION.to_owned(),
                world: String::new(),
                nonce,
                size: size as usize,
                rank: rank as usize,
                port,
                collective_timeout: collective_timeout.into(),
                encryption: Encryption::Noise,
            })
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            greeting(),
            ".{0,70}".prop_map(Message::Challenge),
            ".{0,70}".prop_map(Message::Proof),
            any::<Vec<u8>>().prop_map(Message::Handshake),
            ".{0,70}".prop_map(Message::Welcome),
            (".{0,90}", ".{0,70}").prop_map(|(list, proof)| Message::Addresses { list, proof }),
            (any::<Vec<usize>>(), any::<u64>())
                .prop_map(|(ranks, seconds)| Message::Missing { ranks, seconds }),
            any::<usize>().prop_map(|size| Message::Refused(Refusal::OtherSize(size))),
            ".{0,9}".prop_map(|version| Message::Refused(Refusal::OtherVersion(version))),
            Just(Message::Refused(Refusal::Taken)),
            Just(Message::Refused(Refusal::OtherEncryption(Encryption::None))),
        ]
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

    /// Ranks of both protocols understand each other as far as to say that they do not.
    #[test]
    fn greetings_of_protocol_2_are_heard() {
        let old = r#"{"greeting":{"version":"0.1.0","world":"s","size":2,"rank":1,"port":4,"patience":60}}"#;
        let length = u32::try_from(old.len()).unwrap().to_le_bytes();
        let heard = heard(
            &[b"slranks\x02", &length[..], old.as_bytes()].concat(),
            4096,
        )
        .unwrap();
        let Message::Greeting(greeting) = heard else {
            panic!("{heard:?}")
        };
        assert_eq!((greeting.version.as_str(), greeting.rank), ("0.1.0", 1));
        assert_ne!(greeting.version, VERSION);
        let refused = Message::Refused(Refusal::OtherVersion("v".to_owned()));
        let said = encode(&refused).unwrap();
        assert_eq!(said[12..], *br#"{"refused":{"other_version":"v"}}"#);
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
