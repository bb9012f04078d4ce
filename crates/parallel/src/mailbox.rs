//! Messages that arrived and were not asked for yet.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::call::Call;

/// A call and its payload.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) call: Call,
    pub(crate) payload: Vec<u8>,
}

/// Sender and channel of a message.
type Slot = (usize, u64);

#[derive(Debug, Default)]
struct Content {
    queues: HashMap<Slot, VecDeque<Message>>,
    gone: BTreeMap<usize, Parting>,
}

/// The messages of one rank.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

/// Why nothing more comes from a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parting {
    /// It has ended.
    Ended,
    /// It gave no sign of life for so long.
    Silent(Duration),
    /// It says what no rank says.
    Broken(String),
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Not in time.
    Late,
    /// Nothing more comes.
    Gone(Parting),
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // Nobody panics while holding it.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, from: usize, channel: u64, message: Message) {
        let mut content = self.lock();
        content
            .queues
            .entry((from, channel))
            .or_default()
            .push_back(message);
        drop(content);
        self.changed.notify_all();
    }

    /// Nothing more will come from a rank. The first reason counts.
    pub(crate) fn close(&self, from: usize, why: Parting) {
        self.lock().gone.entry(from).or_insert(why);
        self.changed.notify_all();
    }

    /// Why nothing more will come from a rank; `None` as long as it lives.
    pub(crate) fn parting(&self, from: usize) -> Option<Parting> {
        self.lock().gone.get(&from).cloned()
    }

    /// Takes the next message; what came before its sender ended is still delivered.
    pub(crate) fn take(
        &self,
        from: usize,
        channel: u64,
        deadline: Option<Instant>,
    ) -> Result<Message, Missing> {
        let mut content = self.lock();
        loop {
            if let Some(queue) = content.queues.get_mut(&(from, channel))
                && let Some(message) = queue.pop_front()
            {
                if queue.is_empty() {
                    content.queues.remove(&(from, channel));
                }
                return Ok(message);
            }
            if let Some(why) = content.gone.get(&from) {
                return Err(Missing::Gone(why.clone()));
            }
            let now = Instant::now();
            content = match deadline {
                None => self
                    .changed
                    .wait(content)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if deadline <= now => return Err(Missing::Late),
                Some(deadline) => {
                    let waited = self.changed.wait_timeout(content, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Whether a message of this sender waits.
    pub(crate) fn has(&self, from: usize, channel: u64) -> bool {
        self.lock().queues.contains_key(&(from, channel))
    }
}
