//! Ranks that compute together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Pending, Result};
use crate::element::{Element, Reduction, reduce_bytes};
use crate::error::CommError;

/// What this process did in collective operations since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CollectiveStats {
    /// Operations.
    pub count: u64,
    /// Seconds in them: waiting for the other ranks, and moving bytes.
    pub seconds: f64,
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Figures of all groups of this process together.
pub fn collective_stats() -> CollectiveStats {
    CollectiveStats {
        count: COUNT.load(Ordering::Relaxed),
        seconds: NANOSECONDS.load(Ordering::Relaxed) as f64 / 1e9,
    }
}

/// The first error of a group's collectives. Its ranks are at different calls then, so that every
/// later one fails with it at once: one rank that hangs costs a world the collective_timeout once, however many
/// stories are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure(Arc<OnceLock<CommError>>);

impl Failure {
    fn unless_failed<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(error) = self.0.get() {
            return Err(error.clone());
        }
        operation().inspect_err(|error| {
            let _ = self.0.set(error.clone());
        })
    }

    /// Does a collective operation and notes it.
    fn noted<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let result = self.unless_failed(operation);
        let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        COUNT.fetch_add(1, Ordering::Relaxed);
        NANOSECONDS.fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }
}

/// One rank's end of a group of ranks.
///
/// Collectives are called by all ranks of a group in the same order; a rank that calls something
/// else, or buffers of other lengths, is named in the error of the others. After such an error all
/// later collectives fail with it; messages still come. Clones are the same end: one thread at a time
/// calls collectives on it.
#[derive(Debug, Clone)]
pub struct Group {
    backend: Arc<dyn Backend>,
    name: Arc<str>,
    subgroups: Arc<AtomicU64>,
    failure: Failure,
}

impl Group {
    pub(crate) fn new(backend: Box<dyn Backend>, name: &str) -> Self {
        Self {
            backend: Arc::from(backend),
            name: Arc::from(name),
            subgroups: Arc::default(),
            failure: Failure::default(),
        }
    }

    /// Rank of this process in the group.
    pub fn rank(&self) -> usize {
        self.backend.rank()
    }

    /// Number of ranks in the group.
    pub fn size(&self) -> usize {
        self.backend.size()
    }

    /// Rank of the world of each member.
    pub(crate) fn members(&self) -> &[usize] {
        self.backend.members()
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reduces `data` over all ranks, in place. Every rank gets the same bits.
    pub fn all_reduce<T: Element>(&self, data: &mut [T], reduction: Reduction) -> Result<()> {
        let data = bytemuck::cast_slice_mut(data);
        self.failure
            .noted(|| self.backend.all_reduce(data, T::DTYPE, reduction))
    }

    /// Starts to sum small buffers and returns at once, so that the caller can compute meanwhile.
    /// Every rank sends its whole buffer to every other: the shortest way, and the most bytes.
    pub fn start_all_reduce<T: Element>(
        &self,
        data: &[T],
        reduction: Reduction,
    ) -> Result<Pending> {
        let data = bytemuck::cast_slice(data);
        Ok(Pending {
            exchange: self.failure.unless_failed(|| self.backend.exchange(data))?,
            dtype: T::DTYPE,
            reduction,
            failure: self.failure.clone(),
        })
    }

    /// Puts the buffers of all ranks one after the other; `all` is `size` times as long as `mine`.
    pub fn all_gather<T: Element>(&self, mine: &[T], all: &mut [T]) -> Result<()> {
        self.check("all-gather", all.len(), mine.len() * self.size())?;
        let (mine, all) = (bytemuck::cast_slice(mine), bytemuck::cast_slice_mut(all));
        self.failure.noted(|| self.backend.all_gather(mine, all))
    }

    /// Reduces `all` over the ranks and gives each its part; `all` is `size` times as long.
    pub fn reduce_scatter<T: Element>(
        &self,
        all: &[T],
        mine: &mut [T],
        reduction: Reduction,
    ) -> Result<()> {
        self.check("reduce-scatter", all.len(), mine.len() * self.size())?;
        let (all, mine) = (bytemuck::cast_slice(all), bytemuck::cast_slice_mut(mine));
        self.failure
            .noted(|| self.backend.reduce_scatter(all, mine, T::DTYPE, reduction))
    }

    /// Sends the `n`-th of `size` equal chunks to rank `n`; chunk `n` of `receive` comes from it.
    pub fn all_to_all<T: Element>(&self, send: &[T], receive: &mut [T]) -> Result<()> {
        self.check("all-to-all", receive.len(), send.len())?;
        self.check("all-to-all", send.len() % self.size(), 0)?;
        let (send, receive) = (
            bytemuck::cast_slice(send),
            bytemuck::cast_slice_mut(receive),
        );
        self.failure
            .noted(|| self.backend.all_to_all(send, receive))
    }

    /// Gives all ranks the buffer of rank `root`.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: usize) -> Result<()> {
        self.check_rank("broadcast", root)?;
        let data = bytemuck::cast_slice_mut(data);
        self.failure.noted(|| self.backend.broadcast(data, root))
    }

    /// Returns when all ranks have called it.
    pub fn barrier(&self) -> Result<()> {
        self.failure.noted(|| self.backend.barrier())
    }

    /// Sends a message of any length. Messages from one rank to another keep their order.
    pub fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        self.check_rank("send", to)?;
        self.backend.send(to, message)
    }

    /// The next message from rank `from`. `collective_timeout` of `None` waits as long as that rank lives.
    pub fn receive(&self, from: usize, collective_timeout: Option<Duration>) -> Result<Vec<u8>> {
        self.check_rank("receive", from)?;
        self.backend.receive(from, collective_timeout)
    }

    /// The next message from rank `from`, as long as that rank lives and `give_up` says no: it is asked
    /// a few times a second, and `None` is returned when it says yes.
    pub fn receive_unless(
        &self,
        from: usize,
        give_up: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<u8>>> {
        /// Time between two questions.
        const LOOK: Duration = Duration::from_millis(200);
        loop {
            match self.receive(from, Some(LOOK)) {
                // Nothing has come yet.
                Err(CommError::Late { .. }) if self.backend.lives(from) => {}
                message => return message.map(Some),
            }
            if give_up() {
                return Ok(None);
            }
        }
    }

    /// The group of some ranks of this one, sorted. All ranks of this group call it with the same
    /// lists in the same order; `None` for those that are not in it.
    pub fn subgroup(&self, members: &[usize], name: &str) -> Result<Option<Self>> {
        let label = self.subgroups.fetch_add(1, Ordering::Relaxed) + 1;
        if !members.contains(&self.rank()) {
            return Ok(None);
        }
        Ok(Some(Self::new(
            self.backend.subgroup(members, label)?,
            name,
        )))
    }

    fn check(&self, operation: &str, found: usize, wanted: usize) -> Result<()> {
        if found == wanted {
            return Ok(());
        }
        Err(self.wrong(
            operation,
            format!("a buffer of {found} elements, not {wanted}"),
        ))
    }

    fn check_rank(&self, operation: &str, rank: usize) -> Result<()> {
        if rank < self.size() {
            return Ok(());
        }
        let size = self.size();
        Err(self.wrong(operation, format!("rank {rank} of a group of {size}")))
    }

    fn wrong(&self, operation: &str, reason: String) -> CommError {
        CommError::Buffer {
            group: self.name.to_string(),
            operation: operation.to_owned(),
            reason,
        }
    }
}

impl Pending {
    /// The reduced buffer; `output` is as long as the one that was given.
    pub fn wait<T: Element>(self, output: &mut [T]) -> Result<()> {
        let parts = self.failure.noted(|| self.exchange.wait())?;
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let output: &mut [u8] = bytemuck::cast_slice_mut(output);
        if T::DTYPE != self.dtype || parts.iter().any(|part| part.len() != output.len()) {
            return Err(CommError::Backend {
                operation: "all-reduce".to_owned(),
                reason: "the output is not as the buffer it was started with".to_owned(),
            });
        }
        reduce_bytes(self.dtype, &parts, self.reduction, output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;
    use proptest::prelude::*;

    /// What each rank of a world of threads makes of its data.
    fn on_ranks<T: Send>(size: usize, role: impl Fn(Group) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = threads::world(size, Duration::from_secs(20))
                .into_iter()
                .map(|group| scope.spawn(|| role(group)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn who_gives_up_waits_no_more() {
        let asked = on_ranks(2, |group| {
            if group.rank() == 0 {
                let asked = std::cell::Cell::new(0);
                let give_up = || asked.replace(asked.get() + 1) == 2;
                let never = group.receive_unless(1, &give_up).unwrap();
                group.send(1, b"go on").unwrap();
                let late = group.receive_unless(1, &|| false).unwrap();
                // The other end is gone now.
                group.receive_unless(1, &|| false).unwrap_err();
                assert_eq!((never, late.as_deref()), (None, Some(&b"here"[..])));
                return asked.get();
            }
            group.receive(0, None).unwrap();
            group.send(0, b"here").unwrap();
            0
        });
        assert_eq!(asked, [3, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Against plain loops, for any number of ranks and any length.
        #[test]
        fn collectives_are_what_they_should_be(
            size in 1_usize..6,
            length in prop_oneof![0_usize..40, 4_000_usize..9_000],
            seed in any::<u64>(),
        ) {
            let value = |rank: usize, place: usize| {
                let mixed = seed.wrapping_add((rank * 7_919 + place) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed >> 40) as i64 - (1 << 23)
            };
            let whole = length * size;
            let data = |rank: usize| (0..whole).map(|place| value(rank, place)).collect::<Vec<i64>>();
            let found = on_ranks(size, |group| {
                let rank = group.rank();
                let mut sum = data(rank);
                group.all_reduce(&mut sum, Reduction::Sum).unwrap();
                let (mut all, mut part) = (vec![0; whole], vec![0; length]);
                group.all_gather(&data(rank)[..length], &mut all).unwrap();
                group.reduce_scatter(&data(rank), &mut part, Reduction::Max).unwrap();
                let mut traded = vec![0; whole];
                group.all_to_all(&data(rank), &mut traded).unwrap();
                let pending = group.start_all_reduce(&data(rank), Reduction::Min).unwrap();
                let mut least = vec![0; whole];
                pending.wait(&mut least).unwrap();
                (sum, all, part, traded, least)
            });
            let over = |place: usize| (0..size).map(move |rank| value(rank, place));
            for (rank, (sum, all, part, traded, least)) in found.into_iter().enumerate() {
                prop_assert!((0..whole).all(|place| sum[place] == over(place).sum::<i64>()));
                prop_assert!((0..whole).all(|place| Some(least[place]) == over(place).min()));
                for from in 0..size {
                    for place in 0..length {
                        prop_assert_eq!(all[from * length + place], value(from, place));
                        let mine = rank * length + place;
                        prop_assert_eq!(traded[from * length + place], value(from, mine));
                        prop_assert_eq!(Some(part[place]), over(mine).max());
                    }
                }
            }
        }
    }
}
