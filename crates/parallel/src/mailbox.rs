//! Messages that arrived and were not asked for yet.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    gone: BTreeSet<usize>,
}

/// The messages of one rank.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Not in time.
    Late,
    /// The sender has ended.
    Gone,
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

    /// Nothing more will come from a rank.
    pub(crate) fn close(&self, from: usize) {
        self.lock().gone.insert(from);
        self.changed.notify_all();
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
            if content.gone.contains(&from) {
                return Err(Missing::Gone);
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
