//! What a group has under way, and since when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::call::Call;

/// A collective or message that was given to the device.
#[derive(Debug)]
pub(super) struct Operation<E> {
    /// Its sequence counts collectives only: ranks send and receive different numbers of messages.
    pub(super) call: Call,
    /// The other end of a message; `None` for a collective.
    pub(super) peer: Option<usize>,
    /// When its inputs are there.
    pub(super) ready: E,
    /// When it is over; `None` as long as it is not on the stream.
    pub(super) done: Option<E>,
}

/// Operations in the order in which the device does them. `E` is an event of the device.
#[derive(Debug)]
pub(super) struct Queue<E> {
    operations: VecDeque<Operation<E>>,
    /// When the first was seen to wait for nothing but other ranks.
    since: Option<Instant>,
    entered: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            operations: VecDeque::new(),
            since: None,
            entered: 0,
        }
    }

    pub(super) fn push(&mut self, operation: Operation<E>) {
        self.operations.push_back(operation);
    }

    /// The last one that was pushed is on the stream.
    pub(super) fn launched(&mut self, done: E) {
        if let Some(last) = self.operations.back_mut() {
            last.done = Some(done);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Takes out what is over and starts the clock of what comes first.
    ///
    /// The clock does not run while the device still computes the inputs: that may take as long as
    /// it likes, and it is the other ranks that may run out of collective_timeout.
    pub(super) fn look(
        &mut self,
        now: Instant,
        mut has_happened: impl FnMut(&E) -> Result<bool, String>,
    ) -> Result<(), String> {
        while let Some(first) = self.operations.front() {
            let is_done = match &first.done {
                Some(done) => has_happened(done)?,
                None => false,
            };
            if !is_done && (self.since.is_some() || !has_happened(&first.ready)?) {
                break;
            }
            if first.peer.is_none() {
                self.entered = first.call.sequence;
            }
            if !is_done {
                self.since = Some(now);
                break;
            }
            self.operations.pop_front();
            self.since = None;
        }
        Ok(())
    }

    /// How long the first has waited for other ranks.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.since?))
    }

    /// The operation that waits for other ranks.
    pub(super) fn waiting(&self) -> Option<&Operation<E>> {
        self.since.and_then(|_| self.operations.front())
    }

    /// The last collective that this rank's device has come to.
    pub(super) fn entered(&self) -> u64 {
        self.entered
    }
}

/// How long an operation may wait for other ranks. Nobody waits long for a rank that has ended;
/// what it sent before may still arrive.
pub(super) fn limit(collective_timeout: Duration, someone_is_gone: bool) -> Duration {
    const GRACE: Duration = Duration::from_secs(2);
    if someone_is_gone {
        collective_timeout.min(GRACE)
    } else {
        collective_timeout
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::call::Kind;
    use crate::element::Dtype;

    fn operation(sequence: u64, peer: Option<usize>, event: u32) -> Operation<u32> {
        let kind = match peer {
            Some(_) => Kind::Message,
            None => Kind::AllReduce,
        };
        Operation {
            call: Call {
                sequence,
                ..Call::new(kind, Dtype::F32, 5)
            },
            peer,
            ready: event,
            done: None,
        }
    }

    struct Bench {
        queue: Queue<u32>,
        happened: HashSet<u32>,
        began: Instant,
    }

    impl Bench {
        fn look(&mut self, second: u64) -> Option<u64> {
            let now = self.began + Duration::from_secs(second);
            let happened = |event: &u32| Ok(self.happened.contains(event));
            self.queue.look(now, happened).unwrap();
            self.queue.age(now).map(|age| age.as_secs())
        }
    }

    #[test]
    fn the_clock_runs_only_for_what_waits_for_others() {
        let mut bench = Bench {
            queue: Queue::new(),
            happened: HashSet::new(),
            began: Instant::now(),
        };
        assert_eq!(bench.look(0), None);
        bench.queue.push(operation(1, None, 10));
        bench.queue.launched(11);
        bench.queue.push(operation(1, Some(2), 20));
        bench.queue.launched(21);
        bench.queue.push(operation(2, None, 30));
        // The inputs are computed for long.
        assert_eq!(bench.look(100), None);
        assert_eq!((bench.queue.entered(), bench.queue.len()), (0, 3));
        bench.happened.extend([10, 20]);
        assert_eq!(bench.look(101), Some(0));
        assert_eq!(bench.look(107), Some(6));
        assert_eq!(bench.queue.entered(), 1);
        assert_eq!(
            bench.queue.waiting().map(|first| first.call.sequence),
            Some(1)
        );
        // The next one starts at nought, though it was pushed at the same time.
        bench.happened.insert(11);
        assert_eq!(bench.look(110), Some(0));
        assert_eq!(bench.queue.waiting().unwrap().peer, Some(2));
        assert_eq!((bench.queue.entered(), bench.queue.len()), (1, 2));
        bench.happened.insert(21);
        assert_eq!(bench.look(112), None);
        assert!(bench.queue.waiting().is_none());
        // Not on the stream yet: its connections may still be made.
        bench.happened.insert(30);
        assert_eq!(bench.look(113), Some(0));
        assert_eq!(bench.look(120), Some(7));
        assert_eq!(bench.queue.entered(), 2);
        bench.queue.launched(31);
        bench.happened.insert(31);
        assert_eq!(bench.look(121), None);
        assert_eq!(bench.queue.len(), 0);
    }

    #[test]
    fn what_is_over_at_once_was_entered() {
        let mut queue = Queue::new();
        for sequence in 1..=3 {
            queue.push(operation(sequence, None, 0));
            queue.launched(0);
        }
        queue.look(Instant::now(), |_| Ok(true)).unwrap();
        assert_eq!((queue.entered(), queue.len()), (3, 0));
        queue.push(operation(4, None, 0));
        let error = queue.look(Instant::now(), |_| Err("the device is lost".to_owned()));
        assert!(error.is_err());
    }

    #[test]
    fn nobody_waits_long_for_the_dead() {
        let minutes = Duration::from_secs(300);
        assert_eq!(limit(minutes, false), minutes);
        assert_eq!(limit(minutes, true), Duration::from_secs(2));
        assert_eq!(limit(Duration::from_secs(1), true), Duration::from_secs(1));
    }
}
