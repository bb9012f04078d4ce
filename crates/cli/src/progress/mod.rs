//! What the first rank of a run shows while it goes on: bars on a terminal, a line now and then
//! elsewhere. Both come from the run folder, so they show all worlds that work on it.

mod bars;
pub mod stories;
pub mod text;

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use storyloom_memory::Disk;
use storyloom_orchestrator::RunFolder;
use storyloom_orchestrator::watch::{View, Watcher};

use crate::logging::{PROGRESS, Screen};
use bars::Bars;

/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(500);

/// Shows a run until it is dropped.
#[derive(Debug)]
pub struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows the run in `out`, which need not be there yet; `pause` lies between two lines.
    pub fn show(screen: &Screen, out: &Path, pause: Duration) -> Self {
        let (end, ended) = channel();
        let watcher = Watcher::new(RunFolder::new(out, Arc::new(Disk)));
        let screen = screen.clone();
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || show(&screen, watcher, pause, &ended));
        if let Err(error) = &thread {
            tracing::warn!(%error, "progress is not shown");
        }
        Self {
            end: Some(end),
            thread: thread.ok(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

fn show(screen: &Screen, mut watcher: Watcher, pause: Duration, ended: &Receiver<()>) {
    let mut bars = stderr().is_terminal().then(|| Bars::new(screen));
    let frame = match bars {
        Some(_) => FRAME.min(pause),
        None => pause,
    };
    let mut told = Instant::now();
    while ended.recv_timeout(frame) == Err(RecvTimeoutError::Timeout) {
        // Before it begins there is no run in the folder.
        let view = watcher.look().ok().filter(View::is_begun);
        if let (Some(bars), Some(view)) = (&mut bars, &view) {
            bars.draw(view);
        }
        if told.elapsed() >= pause {
            told = Instant::now();
            log_line(view.as_ref());
        }
    }
}

/// A line for the log. On a terminal the bars say the same.
fn log_line(view: Option<&View>) {
    let line = view.map_or_else(|| "loading".to_owned(), text::line);
    tracing::info!(target: PROGRESS, "{line}");
}
