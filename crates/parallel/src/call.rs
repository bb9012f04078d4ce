//! What a rank calls, so that ranks can tell when they disagree.

use std::fmt;

use crate::element::{Dtype, Reduction};

/// A collective or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    AllReduce = 0,
    AllGather = 1,
    ReduceScatter = 2,
    AllToAll = 3,
    Broadcast = 4,
    Barrier = 5,
    Message = 6,
    Exchange = 7,
    SetUp = 8,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::AllReduce, "all-reduce"),
    (Kind::AllGather, "all-gather"),
    (Kind::ReduceScatter, "reduce-scatter"),
    (Kind::AllToAll, "all-to-all"),
    (Kind::Broadcast, "broadcast"),
    (Kind::Barrier, "barrier"),
    (Kind::Message, "message"),
    (Kind::Exchange, "exchange"),
    (Kind::SetUp, "set-up"),
];
const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::Bf16, Dtype::I64, Dtype::Bytes];
const REDUCTIONS: [Reduction; 3] = [Reduction::Sum, Reduction::Max, Reduction::Min];

/// A call with all that must be the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) dtype: Dtype,
    pub(crate) reduction: Reduction,
    /// Elements of the caller's buffer.
    pub(crate) count: u64,
    /// How many calls the group has seen.
    pub(crate) sequence: u64,
}

/// Bytes of a call on the wire.
pub(crate) const CALL_BYTES: usize = 24;

impl Call {
    pub(crate) fn new(kind: Kind, dtype: Dtype, count: usize) -> Self {
        Self {
            kind,
            dtype,
            reduction: Reduction::Sum,
            count: count as u64,
            sequence: 0,
        }
    }

    pub(crate) fn reducing(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// Bytes of the caller's buffer; `None` for more than can be counted. No message of the call is
    /// longer.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.dtype.size() as u64)
    }

    pub(crate) fn to_bytes(self) -> [u8; CALL_BYTES] {
        let mut bytes = [0; CALL_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.dtype as u8;
        bytes[2] = self.reduction as u8;
        bytes[8..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// `None` for bytes that are no call.
    pub(crate) fn from_bytes(bytes: &[u8; CALL_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some(Self {
            kind: KINDS.get(usize::from(bytes[0]))?.0,
            dtype: *DTYPES.get(usize::from(bytes[1]))?,
            reduction: *REDUCTIONS.get(usize::from(bytes[2]))?,
            count: number(8),
            sequence: number(16),
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = KINDS[self.kind as usize].1;
        match self.kind {
            Kind::Barrier | Kind::SetUp => write!(f, "{name} (call {})", self.sequence),
            _ => write!(
                f,
                "{name} of {} {} (call {})",
                self.count,
                self.dtype.name(),
                self.sequence
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_survive_the_wire() {
        for (place, (kind, _)) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            for dtype in DTYPES {
                for reduction in REDUCTIONS {
                    let call = Call {
                        sequence: 9,
                        ..Call::new(kind, dtype, 1 << 40).reducing(reduction)
                    };
                    assert_eq!(Call::from_bytes(&call.to_bytes()), Some(call));
                }
            }
        }
        assert_eq!(Call::from_bytes(&[0xff; CALL_BYTES]), None);
    }
}
