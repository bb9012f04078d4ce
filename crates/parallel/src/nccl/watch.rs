//! What a group's callers share with the thread that watches over it.
//!
//! The watcher looks at the library and at the age of the oldest operation, and listens to the
//! watchers of the other ranks. On a fault it does everything: it tells the others once
//! where this rank stands, aborts the communicator, which ends the kernels that wait on the device,
//! hears where the others stand, and stores the error that is to be returned from then on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::backend::{Result, Roster};
use crate::error::CommError;
use crate::group::Group;

use super::device::{Device, Event, Stream};
use super::library::{Code, Comm, Nccl, Progress};
use super::queue::{Queue, limit};
use super::verdict::{Answer, Fault, Report, Waiting, verdict};

/// Between two looks of the watcher while something is under way.
const BUSY: Duration = Duration::from_millis(20);
/// As `BUSY`, while nothing is.
const IDLE: Duration = Duration::from_millis(100);
/// How long the others have to say where they stand.
const LISTENING: Duration = Duration::from_secs(3);
/// How long the library may take to give a communicator up.
const ABORTING: Duration = Duration::from_secs(10);
/// How long the others have to end the group too.
const FAREWELL: Duration = Duration::from_secs(10);
/// Operations under way at most. A stream takes about a thousand kernels before launching one
/// blocks, which must not happen: the watcher could no longer reach the communicator.
const MOST: usize = 256;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    /// Why the group fails. The error is known a little later.
    fault: Option<Fault>,
    error: Option<CommError>,
    is_ending: bool,
}

/// A rank's end of a group.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) nccl: &'static Nccl,
    pub(super) roster: Roster,
    pub(super) rank: usize,
    collective_timeout: Duration,
    /// No call of the library blocks, so that this is never held for long.
    comm: Mutex<Option<Comm>>,
    pub(super) queue: Mutex<Queue<Arc<Event>>>,
    state: Mutex<State>,
    changed: Condvar,
    is_healthy: AtomicBool,
    pub(super) stream: Stream,
    pub(super) device: Arc<Device>,
}

impl Shared {
    pub(super) fn new(
        nccl: &'static Nccl,
        roster: Roster,
        rank: usize,
        collective_timeout: Duration,
        comm: Option<Comm>,
        stream: Stream,
        device: Arc<Device>,
    ) -> Self {
        Self {
            nccl,
            roster,
            rank,
            collective_timeout,
            comm: Mutex::new(comm),
            queue: Mutex::new(Queue::new()),
            state: Mutex::default(),
            changed: Condvar::new(),
            is_healthy: AtomicBool::new(true),
            stream,
            device,
        }
    }

    /// Whether nothing has gone wrong; waits for the error if something has.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_healthy() {
            return Ok(());
        }
        let deadline = Instant::now() + LISTENING + 2 * ABORTING;
        let mut state = lock(&self.state);
        loop {
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.backend(format!("{:?}", state.fault)));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Acquire)
    }

    /// Gives the group up. The first fault counts.
    pub(super) fn raise(&self, fault: Fault) {
        lock(&self.state).fault.get_or_insert(fault);
        self.is_healthy.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// As `raise`, and waits for what comes of it.
    pub(super) fn fail(&self, reason: String) -> CommError {
        self.raise(Fault::Said(reason.clone()));
        match self.check() {
            Err(error) => error,
            Ok(()) => self.backend(reason),
        }
    }

    fn backend(&self, reason: String) -> CommError {
        CommError::Backend {
            operation: format!("NCCL in group {}", self.roster.group),
            reason,
        }
    }

    /// Calls the library.
    pub(super) fn call(
        &self,
        name: &str,
        make: impl FnOnce(Comm) -> Code,
    ) -> std::result::Result<Progress, String> {
        match *lock(&self.comm) {
            Some(comm) => self.nccl.check(name, make(comm)),
            None => Err("the communicator has been given up".to_owned()),
        }
    }

    /// Whether the library is still at what it was asked for.
    fn progress(&self) -> std::result::Result<Progress, String> {
        let mut code: Code = 0;
        // SAFETY: the communicator is valid as long as it is in the mutex; a place for the answer.
        let asked = self.call("ncclCommGetAsyncError", |comm| unsafe {
            (self.nccl.get_async_error)(comm.0, &mut code)
        });
        asked?;
        self.nccl.check("NCCL", code)
    }

    /// Waits until the library has done what it was asked for, which can be long where connections
    /// are made. The watcher ends it when another rank does not come.
    pub(super) fn settle(&self) -> Result<()> {
        let mut rest = Duration::from_micros(20);
        loop {
            match self.progress() {
                Ok(Progress::Done) => return Ok(()),
                Ok(Progress::UnderWay) => self.check()?,
                Err(reason) => return Err(self.fail(reason)),
            }
            std::thread::sleep(rest);
            rest = (rest * 2).min(Duration::from_millis(2));
        }
    }

    /// Waits until there is room for another operation.
    pub(super) fn make_room(&self) -> Result<()> {
        while lock(&self.queue).len() >= MOST {
            self.look().map_err(|reason| self.fail(reason))?;
            self.check()?;
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    fn look(&self) -> std::result::Result<(), String> {
        lock(&self.queue).look(Instant::now(), |event| event.has_happened())
    }

    /// What is wrong, seen from here.
    fn examine(&self, someone_is_gone: bool) -> Option<Fault> {
        if let Err(reason) = self.progress() {
            return Some(Fault::Said(reason));
        }
        if let Err(reason) = self.look() {
            return Some(Fault::Said(reason));
        }
        let age = lock(&self.queue).age(Instant::now())?;
        (age > limit(self.collective_timeout, someone_is_gone)).then_some(Fault::Late {
            seconds: age.as_secs(),
        })
    }

    fn report(&self, fault: Fault) -> Report {
        let queue = lock(&self.queue);
        Report {
            fault,
            entered: queue.entered(),
            waiting: queue.waiting().map(|first| Waiting {
                call: first.call,
                peer: first.peer,
            }),
        }
    }

    /// Waits for a change; whether the group is to end, and the fault that a caller has.
    fn rest(&self, pace: Duration) -> (bool, Option<Fault>) {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, pace, |state| {
            !state.is_ending && state.fault.is_none()
        });
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (state.is_ending, state.fault.clone())
    }

    /// Lets the watcher end.
    pub(super) fn end(&self) {
        lock(&self.state).is_ending = true;
        self.changed.notify_all();
    }

    /// Ends the kernels that wait on the device.
    fn abort(self: &Arc<Self>) {
        // Out of the mutex: no call comes after this one.
        let Some(comm) = lock(&self.comm).take() else {
            return;
        };
        let shared = Arc::clone(self);
        in_time("ncclCommAbort", ABORTING, move || shared.abort_now(comm));
    }

    fn abort_now(&self, comm: Comm) {
        let _entered = self.device.enter();
        // SAFETY: the communicator was taken out of the mutex, so that this is its last call.
        let code = unsafe { (self.nccl.abort)(comm.0) };
        if let Err(reason) = self.nccl.check("ncclCommAbort", code) {
            tracing::warn!("{reason}");
        }
    }

    /// Ends a group that may be healthy: all that was asked for is finished first.
    pub(super) fn close(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        if lock(&self.comm).is_none() {
            return;
        }
        in_time("ncclCommFinalize", FAREWELL + ABORTING, move || {
            let _entered = shared.device.enter();
            // SAFETY: the communicator is valid as long as it is in the mutex.
            let finalized = shared.call("ncclCommFinalize", |comm| unsafe {
                (shared.nccl.finalize)(comm.0)
            });
            let finalized = finalized.and_then(|_| shared.wait_for_farewell());
            let Some(comm) = lock(&shared.comm).take() else {
                return;
            };
            if let Err(reason) = finalized {
                tracing::warn!("a group on NCCL did not end well: {reason}");
                return shared.abort_now(comm);
            }
            // SAFETY: as in `abort_now`.
            let code = unsafe { (shared.nccl.destroy)(comm.0) };
            if let Err(reason) = shared.nccl.check("ncclCommDestroy", code) {
                tracing::warn!("{reason}");
            }
        });
    }

    fn wait_for_farewell(&self) -> std::result::Result<(), String> {
        let deadline = Instant::now() + FAREWELL.min(self.collective_timeout);
        while self.progress()? == Progress::UnderWay {
            if Instant::now() > deadline {
                return Err("the other ranks do not end it".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Does something that may hang, on a thread that is left behind in that case.
fn in_time(name: &str, limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || {
        work();
        // Nobody listens any more if it took too long.
        let _ = sender.send(());
    });
    match thread {
        Ok(_) if receiver.recv_timeout(limit).is_ok() => {}
        Ok(_) => tracing::warn!("{name} does not return"),
        Err(error) => tracing::warn!("{name}: {error}"),
    }
}

/// Messages to and from the watchers of the other ranks: one from each, when the group fails.
#[derive(Debug)]
pub(super) struct Post {
    host: Group,
    answers: Vec<Answer>,
}

impl Post {
    pub(super) fn new(host: Group) -> Self {
        Self {
            answers: vec![Answer::Silent; host.size()],
            host,
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.host.rank();
        (0..self.host.size()).filter(move |&member| member != rank)
    }

    /// Takes what has come.
    fn listen(&mut self) {
        for member in self.others() {
            // Who is gone may have written before.
            if matches!(self.answers[member], Answer::Said(_)) {
                continue;
            }
            self.answers[member] = match self.host.receive(member, Some(Duration::ZERO)) {
                Ok(bytes) => Answer::Said(Report::from_bytes(&bytes).unwrap_or(Report {
                    fault: Fault::Told,
                    entered: 0,
                    waiting: None,
                })),
                Err(CommError::Late { .. }) => continue,
                Err(_) => Answer::Gone,
            };
        }
    }

    fn someone(&self, is: impl Fn(&Answer) -> bool) -> bool {
        self.others().any(|member| is(&self.answers[member]))
    }

    fn send(&mut self, report: Report) {
        let bytes = report.to_bytes();
        for member in self.others() {
            if self.answers[member] != Answer::Gone && self.host.send(member, &bytes).is_err() {
                tracing::debug!("rank {member} of a group on NCCL cannot be told");
            }
        }
        self.answers[self.host.rank()] = Answer::Said(report);
    }

    /// Hears the others, as long as they may take.
    fn collect(&mut self) {
        let deadline = Instant::now() + LISTENING;
        loop {
            self.listen();
            let is_open = self.someone(|answer| *answer == Answer::Silent);
            if !is_open || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The watcher's life.
pub(super) fn watch(shared: &Arc<Shared>, mut post: Post) {
    let mut pace = BUSY;
    let fault = loop {
        let (is_ending, fault) = shared.rest(pace);
        if fault.is_some() {
            break fault;
        }
        post.listen();
        if post.someone(|answer| matches!(answer, Answer::Said(_))) {
            break Some(Fault::Told);
        }
        if is_ending {
            break None;
        }
        let someone_is_gone = post.someone(|answer| *answer == Answer::Gone);
        // The driver wants a device for its events.
        let entered = shared.device.enter();
        let found = match &entered {
            Ok(_) => shared.examine(someone_is_gone),
            Err(reason) => Some(Fault::Said(reason.clone())),
        };
        if found.is_some() {
            break found;
        }
        let is_busy = lock(&shared.queue).len() > 0;
        pace = if is_busy { BUSY } else { IDLE };
    };
    let Some(fault) = fault else {
        return;
    };
    // Before the abort: what waits on the device ends with it, and looks as if it were done.
    shared.raise(fault.clone());
    if let Ok(_entered) = shared.device.enter()
        && let Err(reason) = shared.look()
    {
        tracing::debug!("{reason}");
    }
    post.send(shared.report(fault));
    shared.abort();
    post.collect();
    let listened = LISTENING.as_secs();
    let error = verdict(&shared.roster, shared.rank, &post.answers, listened);
    tracing::error!("{error}");
    lock(&shared.state).error = Some(error);
    shared.changed.notify_all();
}
