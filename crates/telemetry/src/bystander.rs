//! Threads that only look on: those that serve figures and gather them. What becomes of them must
//! not change what becomes of the run.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time before the work of a thread that failed is begun again.
const PAUSE: Duration = Duration::from_secs(1);

thread_local! {
    static LOOKS_ON: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread only looks on. A panic on such a thread is no reason to end anything.
pub fn looks_on() -> bool {
    LOOKS_ON.get()
}

/// Starts a thread that only looks on. It ends when `work` returns; where `work` panics that is
/// noted in the log, and `work` is begun again a second later.
///
/// # Errors
/// No thread can be had.
pub(crate) fn spawn(
    name: &'static str,
    mut work: impl FnMut() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let look_on = move || {
        LOOKS_ON.set(true);
        let mut failures = 0;
        while catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
            failures += 1;
            match failures {
                1 => tracing::warn!("the thread {name} failed and begins again; the run goes on"),
                _ => tracing::debug!(failures, "the thread {name} failed again"),
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(look_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn work_that_fails_is_begun_again() {
        let (send, told) = channel();
        let mut calls = 0;
        let work = move || {
            calls += 1;
            send.send((calls, looks_on())).unwrap();
            assert!(calls > 1, "the first time it fails");
        };
        let thread = spawn("looks-on", work).unwrap();
        thread.join().unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [(1, true), (2, true)]);
        assert!(!looks_on(), "who starts one is none");
    }
}
