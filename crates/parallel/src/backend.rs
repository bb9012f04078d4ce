//! What a back end does. Lengths are checked before it is called.

use std::fmt::Debug;
use std::time::Duration;

use crate::call::Call;
use crate::element::{Dtype, Reduction};
use crate::error::CommError;
use crate::group::Failure;

pub(crate) type Result<T, E = CommError> = std::result::Result<T, E>;

/// One rank's end of a group.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Rank in the group.
    fn rank(&self) -> usize;
    /// Ranks in the group.
    fn size(&self) -> usize;
    /// Rank of the world of each member.
    fn members(&self) -> &[usize];
    fn all_reduce(&self, data: &mut [u8], dtype: Dtype, reduction: Reduction) -> Result<()>;
    /// `all` is `size` times as long as `mine`.
    fn all_gather(&self, mine: &[u8], all: &mut [u8]) -> Result<()>;
    /// `all` is `size` times as long as `mine`.
    fn reduce_scatter(
        &self,
        all: &[u8],
        mine: &mut [u8],
        dtype: Dtype,
        reduction: Reduction,
    ) -> Result<()>;
    /// Both are `size` equal chunks.
    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<()>;
    fn broadcast(&self, data: &mut [u8], root: usize) -> Result<()>;
    fn barrier(&self) -> Result<()>;
    /// A message of any length. `Ok` when the buffer may be used again, which may be before the
    /// other end asks for it.
    fn send(&self, to: usize, message: &[u8]) -> Result<()>;
    /// `collective_timeout` of `None` waits as long as the other end lives.
    fn receive(&self, from: usize, collective_timeout: Option<Duration>) -> Result<Vec<u8>>;
    /// Whether a rank may still say something; always true where that is not known.
    fn lives(&self, _member: usize) -> bool {
        true
    }
    /// Starts to send `mine` to all others and to receive theirs.
    fn exchange(&self, mine: &[u8]) -> Result<Box<dyn PendingExchange>>;
    /// The group of `members` (ranks of this group, sorted), of which this rank is one. `label` is
    /// the same on all of them and different for every group that is made.
    fn subgroup(&self, members: &[usize], label: u64) -> Result<Box<dyn Backend>>;
}

/// An exchange under way.
pub(crate) trait PendingExchange {
    /// The buffers of all ranks, one's own included.
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>>;
}

/// An all-reduce under way. Dropping it without [`wait`](Self::wait) leaves the group unusable.
#[must_use = "the sum is not there before `wait`"]
pub struct Pending {
    pub(crate) exchange: Box<dyn PendingExchange>,
    pub(crate) dtype: Dtype,
    pub(crate) reduction: Reduction,
    pub(crate) failure: Failure,
}

/// The name of a group and its members, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    pub(crate) group: String,
    /// Rank of the world of each member.
    pub(crate) members: Vec<usize>,
}

impl Roster {
    pub(crate) fn late(&self, call: &Call, missing: &[usize], waited: Duration) -> CommError {
        CommError::Late {
            group: self.group.clone(),
            operation: call.to_string(),
            ranks: self.ranks(missing),
            seconds: waited.as_secs(),
        }
    }

    pub(crate) fn lost(&self, call: &Call, gone: &[usize]) -> CommError {
        CommError::Lost {
            group: self.group.clone(),
            operation: call.to_string(),
            ranks: self.ranks(gone),
        }
    }

    pub(crate) fn disagree(&self, call: &Call, member: usize, theirs: Option<Call>) -> CommError {
        CommError::Disagree {
            group: self.group.clone(),
            operation: call.to_string(),
            rank: self.members[member],
            theirs: theirs.map_or("something unknown".to_owned(), |call| call.to_string()),
        }
    }

    fn ranks(&self, members: &[usize]) -> Vec<usize> {
        members.iter().map(|&member| self.members[member]).collect()
    }
}
