//! Messages between ranks on a connection: a head of known length, and as many bytes as it announces.
//!
//! What a head announces is believed only as far as the call in it goes, and memory is taken for what
//! has come, not for what was announced.

use std::io::{self, Read};

use crate::call::{CALL_BYTES, Call};
use crate::mailbox::Message;

/// Channel, call and length of the payload.
pub(crate) const HEADER: usize = 8 + CALL_BYTES + 8;

/// Most bytes of one message: more than any rank has memory for beside its networks.
const LONGEST: u64 = 1 << 36;
/// Bytes for which memory is taken before they have come.
const CHUNK: usize = 16 << 20;

/// The head of a message with a payload of `length` bytes.
pub(crate) fn header(channel: u64, call: &Call, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&channel.to_le_bytes());
    header[8..8 + CALL_BYTES].copy_from_slice(&call.to_bytes());
    header[8 + CALL_BYTES..].copy_from_slice(&(length as u64).to_le_bytes());
    header
}

fn wrong(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Reads the next message and its channel.
///
/// # Errors
/// The connection is at its end, or, as `InvalidData` or `OutOfMemory` with what to tell, the other end
/// says what no rank says.
pub(crate) fn read(stream: &mut impl Read) -> io::Result<(u64, Message)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let (channel, call, announced) =
        parse(&header).ok_or_else(|| wrong("what came is not a message".to_owned()))?;
    let longest = call.bytes().filter(|&bytes| bytes <= LONGEST);
    let length = longest
        .filter(|&longest| announced <= longest)
        .and_then(|_| usize::try_from(announced).ok())
        .ok_or_else(|| wrong(format!("{announced} bytes were announced for a {call}")))?;
    let payload = payload(stream, length)?;
    Ok((channel, Message { call, payload }))
}

fn parse(header: &[u8; HEADER]) -> Option<(u64, Call, u64)> {
    let (channel, rest) = header.split_first_chunk::<8>()?;
    let (call, length) = rest.split_first_chunk::<CALL_BYTES>()?;
    let length = length.first_chunk::<8>()?;
    let call = Call::from_bytes(call)?;
    Some((
        u64::from_le_bytes(*channel),
        call,
        u64::from_le_bytes(*length),
    ))
}

fn payload(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    while payload.len() < length {
        let begun = payload.len();
        let next = (length - begun).min(CHUNK);
        payload.try_reserve(next).map_err(|_| {
            let reason = format!("there is no memory for a message of {length} bytes");
            io::Error::new(io::ErrorKind::OutOfMemory, reason)
        })?;
        payload.resize(begun + next, 0);
        stream.read_exact(&mut payload[begun..])?;
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Kind;
    use crate::element::Dtype;
    use proptest::prelude::*;

    fn message(call: Call, length: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(7, &call, 0).to_vec();
        bytes[HEADER - 8..].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sent_is_read(payload: Vec<u8>, cut in 0.0..1.0) {
            let call = Call::new(Kind::Message, Dtype::Bytes, payload.len());
            let bytes = message(call, payload.len() as u64, &payload);
            let (channel, read_back) = read(&mut &bytes[..]).unwrap();
            prop_assert_eq!((channel, read_back.call, &read_back.payload), (7, call, &payload));
            let cut = (bytes.len() as f64 * cut) as usize;
            prop_assert!(read(&mut &bytes[..cut]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            // Only what is there can come out of it.
            if let Ok((_, message)) = read(&mut &bytes[..]) {
                prop_assert!(message.payload.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn large_messages_come_in_parts() {
        let payload: Vec<u8> = (0..2 * CHUNK + 5).map(|place| place as u8).collect();
        let call = Call::new(Kind::AllGather, Dtype::Bytes, payload.len());
        let bytes = message(call, payload.len() as u64, &payload);
        assert_eq!(read(&mut &bytes[..]).unwrap().1.payload, payload);
    }

    /// Nothing is allocated for what is announced and never comes.
    #[test]
    fn announced_lengths_are_not_believed() {
        for exponent in [36, 40, 62, 63] {
            for length in [1_u64 << exponent, u64::MAX] {
                for count in [1, 1 << 20, 1 << 36, 1 << 40, 1 << 62, u64::MAX] {
                    for dtype in [Dtype::Bytes, Dtype::I64] {
                        let mut call = Call::new(Kind::AllReduce, dtype, 0);
                        call.count = count;
                        let error = read(&mut &message(call, length, b"few")[..]).unwrap_err();
                        let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        if length > LONGEST {
                            assert!(error.to_string().contains("announced"), "{error}");
                        }
                    }
                }
            }
        }
        // More than the call has.
        let call = Call::new(Kind::Message, Dtype::Bytes, 4);
        let error = read(&mut &message(call, 5, b"12345")[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
