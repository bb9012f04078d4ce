//! Collectives made of messages, for threads and sockets.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::{Backend, PendingExchange, Result, Roster};
use crate::call::{Call, Kind};
use crate::element::{Dtype, Reduction, reduce_bytes};
use crate::error::CommError;
use crate::mailbox::{Mailbox, Message, Missing, Parting};

/// Brings messages to other ranks of the world.
pub(crate) trait Transport: Debug + Send + Sync {
    fn post(&self, to: usize, channel: u64, message: Message) -> std::io::Result<()>;
    fn mailbox(&self) -> &Mailbox;
}

/// A group over a transport.
#[derive(Debug, Clone)]
pub(crate) struct MessageGroup {
    transport: Arc<dyn Transport>,
    rank: usize,
    roster: Roster,
    channel: u64,
    collective_timeout: Duration,
    calls: Arc<AtomicU64>,
}

/// Elements below which everybody sends everything: one way instead of two.
const SMALL: usize = 1 << 14;

/// Tells messages from one rank to another from collectives of the same group.
const POST: u64 = 1 << 63;

impl MessageGroup {
    /// The group of the whole world.
    pub(crate) fn world(
        transport: Arc<dyn Transport>,
        rank: usize,
        size: usize,
        collective_timeout: Duration,
    ) -> Self {
        Self {
            transport,
            rank,
            roster: Roster {
                group: "world".to_owned(),
                members: (0..size).collect(),
            },
            channel: 0,
            collective_timeout,
            calls: Arc::default(),
        }
    }

    fn call(&self, kind: Kind, dtype: Dtype, bytes: usize) -> Call {
        Call {
            sequence: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            ..Call::new(kind, dtype, bytes / dtype.size())
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.rank;
        (0..self.roster.members.len()).filter(move |&member| member != rank)
    }

    fn post(&self, call: Call, to: usize, channel: u64, payload: Vec<u8>) -> Result<()> {
        let message = Message { call, payload };
        let world = self.roster.members[to];
        self.transport.post(world, channel, message).map_err(|_| {
            match self.transport.mailbox().parting(world) {
                Some(why) => self.gone(&call, to, why),
                None => self.roster.lost(&call, &[to]),
            }
        })
    }

    /// The payload of each other rank's message to the same call, `length(rank)` bytes from each.
    fn collect(
        &self,
        call: &Call,
        length: impl Fn(usize) -> usize,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let deadline = Instant::now() + self.collective_timeout;
        let mut collected = Vec::with_capacity(self.size());
        for member in self.others() {
            let payload = self.take(call, member, length(member), deadline);
            collected.push((
                member,
                payload.map_err(|error| self.with_all(error, call, member))?,
            ));
        }
        Ok(collected)
    }

    /// The payload of `member`'s message to a call, `length` bytes.
    fn take(
        &self,
        call: &Call,
        member: usize,
        length: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>> {
        let from = self.roster.members[member];
        let mailbox = self.transport.mailbox();
        match mailbox.take(from, self.channel, Some(deadline)) {
            Ok(Message { call: theirs, .. }) if theirs != *call => {
                Err(self.roster.disagree(call, member, Some(theirs)))
            }
            Ok(message) if message.payload.len() != length => {
                Err(self.roster.disagree(call, member, None))
            }
            Ok(message) => Ok(message.payload),
            Err(Missing::Gone(why)) => Err(self.gone(call, member, why)),
            Err(Missing::Late) => Err(self.roster.late(call, &[member], self.collective_timeout)),
        }
    }

    /// The error of a call to which nothing more comes from `member`.
    fn gone(&self, call: &Call, member: usize, why: Parting) -> CommError {
        match why {
            Parting::Ended => self.roster.lost(call, &[member]),
            Parting::Silent(silence) => {
                self.roster
                    .late(call, &[member], silence.min(self.collective_timeout))
            }
            Parting::Broken(reason) => CommError::Backend {
                operation: call.to_string(),
                reason: format!("rank {}: {reason}", self.roster.members[member]),
            },
        }
    }

    /// Names also the others from which nothing has come.
    fn with_all(&self, error: CommError, call: &Call, first: usize) -> CommError {
        if !matches!(error, CommError::Late { .. }) {
            return error;
        }
        let mailbox = self.transport.mailbox();
        let missing: Vec<usize> = self
            .others()
            .filter(|&member| {
                member == first
                    || member > first && !mailbox.has(self.roster.members[member], self.channel)
            })
            .collect();
        self.roster.late(call, &missing, self.collective_timeout)
    }

    /// Sends `chunk(n)` to each other rank `n` and receives theirs, `length(n)` bytes.
    fn trade(
        &self,
        call: Call,
        chunk: impl Fn(usize) -> Vec<u8>,
        length: impl Fn(usize) -> usize,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        for member in self.others() {
            self.post(call, member, self.channel, chunk(member))?;
        }
        self.collect(&call, length)
    }

    /// Reduces one's own `mine` with what came from the others, in the order of the ranks.
    fn reduce(&self, mine: &[u8], theirs: &[(usize, Vec<u8>)], call: Call, output: &mut [u8]) {
        let mut parts: Vec<&[u8]> = vec![mine; self.size()];
        for (member, part) in theirs {
            parts[*member] = part;
        }
        reduce_bytes(call.dtype, &parts, call.reduction, output);
    }
}

/// Bytes of part `part` of `parts` of a buffer, whole elements, lengths as equal as can be.
fn share(bytes: usize, dtype: Dtype, part: usize, parts: usize) -> std::ops::Range<usize> {
    let count = bytes / dtype.size();
    let at = |part: usize| part * count / parts * dtype.size();
    at(part)..at(part + 1)
}

impl Backend for MessageGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.roster.members.len()
    }

    fn members(&self) -> &[usize] {
        &self.roster.members
    }

    fn all_reduce(&self, data: &mut [u8], dtype: Dtype, reduction: Reduction) -> Result<()> {
        let size = self.size();
        if size == 1 {
            return Ok(());
        }
        let call = self
            .call(Kind::AllReduce, dtype, data.len())
            .reducing(reduction);
        if data.len() <= SMALL {
            let mine = data.to_vec();
            let theirs = self.trade(call, |_| mine.clone(), |_| mine.len())?;
            self.reduce(&mine, &theirs, call, data);
            return Ok(());
        }
        let length = data.len();
        let part = |member| share(length, dtype, member, size);
        let own = part(self.rank);
        let theirs = self.trade(call, |member| data[part(member)].to_vec(), |_| own.len())?;
        let mut reduced = vec![0; own.len()];
        self.reduce(&data[own.clone()], &theirs, call, &mut reduced);
        data[own].copy_from_slice(&reduced);
        let theirs = self.trade(call, |_| reduced.clone(), |member| part(member).len())?;
        for (member, theirs) in theirs {
            data[share(length, dtype, member, size)].copy_from_slice(&theirs);
        }
        Ok(())
    }

    fn all_gather(&self, mine: &[u8], all: &mut [u8]) -> Result<()> {
        let call = self.call(Kind::AllGather, Dtype::Bytes, mine.len());
        let length = mine.len();
        all[self.rank * length..][..length].copy_from_slice(mine);
        for (member, theirs) in self.trade(call, |_| mine.to_vec(), |_| length)? {
            all[member * length..][..length].copy_from_slice(&theirs);
        }
        Ok(())
    }

    fn reduce_scatter(
        &self,
        all: &[u8],
        mine: &mut [u8],
        dtype: Dtype,
        reduction: Reduction,
    ) -> Result<()> {
        let call = self
            .call(Kind::ReduceScatter, dtype, mine.len())
            .reducing(reduction);
        let length = mine.len();
        let chunk = |member: usize| &all[member * length..][..length];
        let theirs = self.trade(call, |member| chunk(member).to_vec(), |_| length)?;
        self.reduce(chunk(self.rank), &theirs, call, mine);
        Ok(())
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let length = send.len() / self.size();
        let call = self.call(Kind::AllToAll, Dtype::Bytes, send.len());
        let chunk = |member: usize| &send[member * length..][..length];
        receive[self.rank * length..][..length].copy_from_slice(chunk(self.rank));
        for (member, theirs) in self.trade(call, |member| chunk(member).to_vec(), |_| length)? {
            receive[member * length..][..length].copy_from_slice(&theirs);
        }
        Ok(())
    }

    fn broadcast(&self, data: &mut [u8], root: usize) -> Result<()> {
        let call = self.call(Kind::Broadcast, Dtype::Bytes, data.len());
        if self.rank == root {
            for member in self.others() {
                self.post(call, member, self.channel, data.to_vec())?;
            }
            return Ok(());
        }
        let payload = self.take(
            &call,
            root,
            data.len(),
            Instant::now() + self.collective_timeout,
        )?;
        data.copy_from_slice(&payload);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        let call = self.call(Kind::Barrier, Dtype::Bytes, 0);
        self.trade(call, |_| Vec::new(), |_| 0).map(drop)
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        let call = Call::new(Kind::Message, Dtype::Bytes, message.len());
        self.post(call, to, self.channel ^ POST, message.to_vec())
    }

    fn receive(&self, from: usize, collective_timeout: Option<Duration>) -> Result<Vec<u8>> {
        let call = Call::new(Kind::Message, Dtype::Bytes, 0);
        let deadline =
            collective_timeout.map(|collective_timeout| Instant::now() + collective_timeout);
        let channel = self.channel ^ POST;
        let taken = self
            .transport
            .mailbox()
            .take(self.roster.members[from], channel, deadline);
        match taken {
            Ok(message) => Ok(message.payload),
            Err(Missing::Gone(why)) => Err(self.gone(&call, from, why)),
            Err(Missing::Late) => {
                Err(self
                    .roster
                    .late(&call, &[from], collective_timeout.unwrap_or_default()))
            }
        }
    }

    fn lives(&self, member: usize) -> bool {
        let mailbox = self.transport.mailbox();
        mailbox.parting(self.roster.members[member]).is_none()
    }

    fn exchange(&self, mine: &[u8]) -> Result<Box<dyn PendingExchange>> {
        let call = self.call(Kind::Exchange, Dtype::Bytes, mine.len());
        for member in self.others() {
            self.post(call, member, self.channel, mine.to_vec())?;
        }
        Ok(Box::new(MessageExchange {
            group: self.clone(),
            call,
            mine: mine.to_vec(),
        }))
    }

    fn subgroup(&self, members: &[usize], label: u64) -> Result<Box<dyn Backend>> {
        let world: Vec<usize> = members
            .iter()
            .map(|&member| self.roster.members[member])
            .collect();
        let rank = members.iter().position(|&member| member == self.rank);
        // The order in which groups are made is the same everywhere, so that this is one channel
        // per group; a group of a group gets digits of its own.
        let channel = self.channel.wrapping_mul(4096).wrapping_add(label) & !POST;
        Ok(Box::new(Self {
            transport: Arc::clone(&self.transport),
            rank: rank.unwrap_or_default(),
            roster: Roster {
                group: format!("{world:?}"),
                members: world,
            },
            channel,
            collective_timeout: self.collective_timeout,
            calls: Arc::default(),
        }))
    }
}

struct MessageExchange {
    group: MessageGroup,
    call: Call,
    mine: Vec<u8>,
}

impl PendingExchange for MessageExchange {
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![Vec::new(); self.group.size()];
        for (member, theirs) in self.group.collect(&self.call, |_| self.mine.len())? {
            all[member] = theirs;
        }
        all[self.group.rank] = self.mine;
        Ok(all)
    }
}
