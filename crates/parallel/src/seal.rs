//! What ranks without MPI send each other, so that nobody on the way can read or change it: the pattern
//! `NNpsk0` of Noise, with a key that only those have who know the secret of the world.
//!
//! The handshake is part of the greeting ([`crate::attend`], [`crate::reception`]). After it everything
//! is in records of known length: one for the head of a message, and for its payload the number that it
//! takes. No length is told outside of them, so that a byte changed anywhere is found as soon as its
//! record is there; so are records that come twice, are left out, or in another order.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::proof::Conversation;
use crate::wire::HEADER;

/// Whether ranks without MPI encrypt what they send each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// They do not.
    #[default]
    None,
    /// By the Noise protocol.
    Noise,
}

impl Encryption {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Noise => "noise",
        }
    }
}

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bytes of a message of the handshake: a key and a tag.
const GREETING: usize = 48;
/// Bytes by which a record is longer than what is in it.
const TAG: usize = 16;
/// Most bytes in one record: with the tag the most that Noise allows.
const RECORD: usize = u16::MAX as usize - TAG;

fn wrong(reason: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

fn failed(error: snow::Error) -> io::Error {
    wrong(format!("the handshake of encryption failed: {error}"))
}

/// The side of who called, after its first message.
pub(crate) struct Handshake(HandshakeState);

impl Handshake {
    /// Begins, and returns what to send.
    pub(crate) fn begin(conversation: &Conversation) -> io::Result<(Self, Vec<u8>)> {
        let mut state = builder(&conversation.key())
            .and_then(Builder::build_initiator)
            .map_err(failed)?;
        let message = say(&mut state)?;
        Ok((Self(state), message))
    }

    /// Ends with the answer.
    pub(crate) fn end(mut self, answer: &[u8]) -> io::Result<Seal> {
        hear(&mut self.0, answer)?;
        Seal::new(self.0)
    }
}

/// The side of who was called: from the first message, what to answer.
pub(crate) fn answer(conversation: &Conversation, first: &[u8]) -> io::Result<(Seal, Vec<u8>)> {
    let mut state = builder(&conversation.key())
        .and_then(Builder::build_responder)
        .map_err(failed)?;
    hear(&mut state, first)?;
    let message = say(&mut state)?;
    Ok((Seal::new(state)?, message))
}

fn builder(key: &[u8; 32]) -> Result<Builder<'_>, snow::Error> {
    Builder::new(PATTERN.parse()?).psk(0, key)
}

fn say(state: &mut HandshakeState) -> io::Result<Vec<u8>> {
    let mut message = vec![0; GREETING];
    let length = state.write_message(&[], &mut message).map_err(failed)?;
    message.truncate(length);
    Ok(message)
}

fn hear(state: &mut HandshakeState, message: &[u8]) -> io::Result<()> {
    let length = state.read_message(message, &mut [0; GREETING]);
    match length.map_err(failed)? {
        0 => Ok(()),
        _ => Err(wrong("the handshake of encryption says more than it may")),
    }
}

/// The keys of one connection, a key for each direction.
pub(crate) struct Seal(StatelessTransportState);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    fn new(state: HandshakeState) -> io::Result<Self> {
        state
            .into_stateless_transport_mode()
            .map(Self)
            .map_err(failed)
    }

    /// Adds the record number `number` to `sealed`. No number is used for two records.
    pub(crate) fn close(&self, number: u64, plain: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        let begun = sealed.len();
        sealed.resize(begun + plain.len() + TAG, 0);
        let written = self.0.write_message(number, plain, &mut sealed[begun..]);
        written.map(drop).map_err(wrong)
    }

    fn open(&self, number: u64, sealed: &[u8], plain: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_message(number, sealed, plain);
        read.map(drop).map_err(|_| {
            wrong("what came was changed on its way, or is not from that rank (encryption)")
        })
    }
}

/// The parts of a message that make one record each.
pub(crate) fn records<'a>(
    head: &'a [u8; HEADER],
    payload: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    std::iter::once(&head[..]).chain(payload.chunks(RECORD))
}

/// Reads what was sealed.
pub(crate) struct Opened<'a, R> {
    from: R,
    seal: &'a Seal,
    /// Records that have come.
    number: u64,
    /// Bytes of the payload of this message that are still in records to come.
    left: u64,
    /// The last record that did not fit where it was wanted, and how much of it was taken.
    plain: Vec<u8>,
    taken: usize,
    sealed: Vec<u8>,
}

impl<'a, R: Read> Opened<'a, R> {
    pub(crate) fn new(from: R, seal: &'a Seal) -> Self {
        Self {
            from,
            seal,
            number: 0,
            left: 0,
            plain: Vec::new(),
            taken: 0,
            sealed: Vec::new(),
        }
    }

    /// Reads the next record to the beginning of `buffer` where it fits, else to `plain`.
    fn record(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_head = self.left == 0;
        let length = match is_head {
            true => HEADER,
            // At most the length of a record.
            false => self.left.min(RECORD as u64) as usize,
        };
        self.sealed.resize(length + TAG, 0);
        self.from.read_exact(&mut self.sealed)?;
        let number = self.number;
        self.number += 1;
        if !is_head {
            self.left -= length as u64;
            if let Some(place) = buffer.get_mut(..length) {
                self.seal.open(number, &self.sealed, place)?;
                return Ok(length);
            }
        }
        self.plain.resize(length, 0);
        self.taken = 0;
        self.seal.open(number, &self.sealed, &mut self.plain)?;
        if is_head {
            // The last of a head is the length of what follows.
            let announced = self.plain.last_chunk().copied().unwrap_or_default();
            self.left = u64::from_le_bytes(announced);
        }
        Ok(0)
    }
}

impl<R: Read> Read for Opened<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.taken == self.plain.len() {
            let direct = self.record(buffer)?;
            if direct > 0 {
                return Ok(direct);
            }
        }
        let rest = &self.plain[self.taken..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.taken += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, Kind};
    use crate::element::Dtype;
    use crate::frame::Greeting;
    use crate::wire;

    fn conversation(world: &str) -> Conversation {
        Conversation::new(world, &Greeting::default(), "nonce".to_owned()).unwrap()
    }

    /// Both ends of a connection.
    fn ends() -> (Seal, Seal) {
        let (handshake, first) = Handshake::begin(&conversation("w")).unwrap();
        let (there, answer) = answer(&conversation("w"), &first).unwrap();
        (handshake.end(&answer).unwrap(), there)
    }

    /// The records of messages with these payloads.
    fn sealed(seal: &Seal, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for payload in payloads {
            let call = Call::new(Kind::Message, Dtype::Bytes, payload.len());
            let head = wire::header(5, &call, payload.len());
            for part in records(&head, payload) {
                let mut record = Vec::new();
                seal.close(all.len() as u64, part, &mut record).unwrap();
                all.push(record);
            }
        }
        all
    }

    fn opened(seal: &Seal, bytes: &[u8]) -> (Vec<Vec<u8>>, io::Error) {
        let mut reader = Opened::new(bytes, seal);
        let mut payloads = Vec::new();
        loop {
            match wire::read(&mut reader) {
                Ok((_, message)) => payloads.push(message.payload),
                Err(error) => return (payloads, error),
            }
        }
    }

    #[test]
    fn what_is_sealed_is_opened_at_the_other_end() {
        let (here, there) = ends();
        let long: Vec<u8> = (0..3 * RECORD + 7).map(|place| place as u8).collect();
        for payloads in [
            &[&b""[..], b"words", b""][..],
            &[&long, &long[..RECORD], &long[..RECORD + 1], &long[..1]],
        ] {
            for (from, to) in [(&here, &there), (&there, &here)] {
                let bytes = sealed(from, payloads).concat();
                let (read, end) = opened(to, &bytes);
                assert_eq!(read, payloads);
                assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
                assert!(!bytes.windows(5).any(|part| part == b"words"));
                // Nobody takes his own words for those of the other.
                assert_eq!(opened(from, &bytes).1.kind(), io::ErrorKind::InvalidData);
            }
        }
    }

    #[test]
    fn every_changed_bit_is_found() {
        let (here, there) = ends();
        let records = sealed(&here, &[b"one", b"two"]);
        let bytes = records.concat();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            let (_, error) = opened(&there, &changed);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("changed on its way"), "{error}");
        }
        let [head, one, other_head, two] = &records[..] else {
            panic!("{}", records.len())
        };
        for order in [
            [head, one, head, one],
            [other_head, two, head, one],
            [head, two, other_head, one],
        ] {
            let bytes: Vec<u8> = order.into_iter().flatten().copied().collect();
            assert_eq!(opened(&there, &bytes).1.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn only_who_knows_the_secret_can_answer() {
        let (handshake, first) = Handshake::begin(&conversation("w")).unwrap();
        assert!(answer(&conversation("x"), &first).is_err());
        let (_, other) = Handshake::begin(&conversation("x")).unwrap();
        assert!(handshake.end(&other).is_err());
        for nonsense in [&b""[..], &[0; GREETING], &[7; 4 * GREETING]] {
            assert!(answer(&conversation("w"), nonsense).is_err());
        }
    }
}
