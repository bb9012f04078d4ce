//! A world of threads in one process.

use std::sync::Arc;
use std::time::Duration;

use crate::group::Group;
use crate::mailbox::{Mailbox, Message, Parting};
use crate::messages::{MessageGroup, Transport};

/// The ends of a world of `size` ranks, one for each thread.
///
/// A call waits for `collective_timeout` before it gives up.
pub fn world(size: usize, collective_timeout: Duration) -> Vec<Group> {
    let mailboxes: Arc<[Mailbox]> = (0..size).map(|_| Mailbox::default()).collect();
    let end = |rank| {
        let transport = Arc::new(Threads {
            rank,
            mailboxes: Arc::clone(&mailboxes),
        });
        let group = MessageGroup::world(transport, rank, size, collective_timeout);
        Group::new(Box::new(group), "world")
    };
    (0..size).map(end).collect()
}

#[derive(Debug)]
struct Threads {
    rank: usize,
    mailboxes: Arc<[Mailbox]>,
}

impl Transport for Threads {
    fn post(&self, to: usize, channel: u64, message: Message) -> std::io::Result<()> {
        self.mailboxes[to].put(self.rank, channel, message);
        Ok(())
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailboxes[self.rank]
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.close(self.rank, Parting::Ended);
        }
    }
}
