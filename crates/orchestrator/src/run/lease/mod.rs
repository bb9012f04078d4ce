//! Who works on which story, when several programs serve one run folder.
//!
//! ```text
//! DIR/leases/workers/WORKER.json       one per program, with a beat that it keeps raising
//! DIR/leases/stories/ID/00000007.json  the seventh lease of a story, and who holds it
//! ```
//!
//! A lease is taken by creating the file of the next number, which only one program can do, on any
//! file system, without locks. The number is the fence: a holder that was believed dead finds a
//! higher one before it commits. Nobody's clock is compared with another's: a program is dead when
//! the system it shares with us says so, or when we have watched its beat stand still for long
//! enough.

mod files;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use storyloom_memory::Storage;
use storyloom_story::StoryId;
use storyloom_telemetry::liveness::{Life, Liveness};
use storyloom_telemetry::process::{Process, host_name};

use crate::error::RunError;

pub use files::LeaseFiles;
use files::Seen;

/// A program that works on the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Different for every start of a program.
    pub id: String,
    /// Name of its machine.
    pub host: String,
    /// Its process.
    #[serde(flatten)]
    pub process: Process,
    /// Rises while the program lives.
    beat: u64,
}

/// A name for a program among the workers of a run that no other has.
pub fn new_worker_id() -> String {
    let (pid, now) = (std::process::id(), SystemTime::now());
    let name = format!("{} {pid} {now:?}", host_name());
    blake3::hash(name.as_bytes()).to_hex()[..16].to_owned()
}

impl Worker {
    fn new(id: String) -> Self {
        Self {
            id,
            host: host_name(),
            process: Process::own().clone(),
            beat: 0,
        }
    }

    /// Whether it is known that its process has ended.
    fn is_gone(&self) -> bool {
        self.process.is_gone()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseFile {
    story: StoryId,
    worker: String,
    released: bool,
}

/// This program among the workers of a run.
#[derive(Debug)]
pub struct Leases {
    files: LeaseFiles,
    me: Worker,
    liveness: Liveness,
    watched: Mutex<BTreeMap<String, (u64, Instant)>>,
    heart: Option<(Arc<Bell>, JoinHandle<()>)>,
}

/// Wakes the heart to stop it.
#[derive(Debug, Default)]
struct Bell {
    stop: Mutex<bool>,
    rung: Condvar,
}

/// The right to commit to a story.
#[derive(Debug)]
pub struct Lease<'a> {
    leases: &'a Leases,
    story: StoryId,
    number: u64,
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim<'a> {
    /// The story is ours.
    Held {
        /// The lease.
        lease: Lease<'a>,
        /// The dead worker it was taken from.
        taken_from: Option<String>,
    },
    /// Another program works on it.
    Busy,
}

impl Leases {
    /// Joins the workers of the run whose leases lie in `root`.
    ///
    /// `lease_timeout` is how long a beat may stand still before its worker counts as dead; all
    /// programs of a run use the same.
    pub fn join(
        root: impl Into<PathBuf>,
        storage: Arc<dyn Storage>,
        lease_timeout: Duration,
    ) -> Result<Self, RunError> {
        Self::join_as(new_worker_id(), root, storage, lease_timeout)
    }

    /// As [`Leases::join`], under a name that no other program has ([`new_worker_id`]).
    pub fn join_as(
        id: String,
        root: impl Into<PathBuf>,
        storage: Arc<dyn Storage>,
        lease_timeout: Duration,
    ) -> Result<Self, RunError> {
        let mut leases = Self {
            files: LeaseFiles::new(root, storage),
            me: Worker::new(id),
            liveness: Liveness::new(lease_timeout),
            watched: Mutex::default(),
            heart: None,
        };
        leases.write_worker(&leases.me)?;
        leases.forget_dead()?;
        leases.heart = Some(leases.start_heart());
        Ok(leases)
    }

    /// Claims a story that nobody alive holds.
    ///
    /// A lease that cannot be read may be held: it counts as that of a worker whose beat stands still.
    pub fn claim(&self, story: &StoryId) -> Result<Claim<'_>, RunError> {
        let numbers = self.files.numbers(story)?;
        let mut taken_from = None;
        if let Some(&last) = numbers.last() {
            match self.files.lease(story, last) {
                Seen::There(file) if file.released => {}
                Seen::There(file) if file.worker != self.me.id && self.is_alive(&file.worker) => {
                    return Ok(Claim::Busy);
                }
                Seen::There(file) => taken_from = Some(file.worker),
                // Somebody is tidying up behind a newer lease.
                Seen::Gone => return Ok(Claim::Busy),
                Seen::Unreadable(reason) => {
                    if self.life(&format!("{story}/{last}"), 0, None).goes_on() {
                        return Ok(Claim::Busy);
                    }
                    tracing::warn!(%story, reason, "a lease that cannot be read is passed over");
                }
            }
        }
        self.take(story, numbers, taken_from)
    }

    /// Takes the next number after `numbers`, which were there when we looked.
    fn take(
        &self,
        story: &StoryId,
        numbers: Vec<u64>,
        taken_from: Option<String>,
    ) -> Result<Claim<'_>, RunError> {
        let number = numbers.last().copied().unwrap_or(0) + 1;
        let file = self.lease_file(story, false);
        let path = self.files.path(story, number);
        if !self.files.storage.create(&path, &file)? {
            return Ok(Claim::Busy);
        }
        // Others may have had this number, and given it back, since we looked: then there is a
        // higher one, as each removes what was before it only after it has its own.
        if self.files.numbers(story)?.last() != Some(&number) {
            self.files.storage.remove(&path)?;
            return Ok(Claim::Busy);
        }
        // Oldest first, so that a holder that was believed dead always finds its own file gone or
        // the next one there.
        for old in numbers {
            self.files.clear(&self.files.path(story, old))?;
        }
        let lease = Lease {
            leases: self,
            story: story.clone(),
            number,
        };
        Ok(Claim::Held { lease, taken_from })
    }

    /// Workers whose files are there, dead or alive.
    pub fn workers(&self) -> Result<Vec<Worker>, RunError> {
        self.files.workers()
    }

    fn is_alive(&self, id: &str) -> bool {
        match self.files.worker(id) {
            Seen::Gone => false,
            // Also for a process that we can see: it may be stopped or hang.
            Seen::There(worker) => {
                let process = Some(&worker.process);
                self.life(id, worker.beat, process).goes_on()
            }
            // A program that lives writes its file again.
            Seen::Unreadable(_) => self.life(id, 0, None).goes_on(),
        }
    }

    /// What is known of a program whose beat is `beat` now: it was heard of when we saw that change, or
    /// looked for the first time.
    fn life(&self, whose: &str, beat: u64, process: Option<&Process>) -> Life {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let seen = watched.entry(whose.to_owned()).or_insert((beat, now));
        if seen.0 != beat {
            *seen = (beat, now);
        }
        let silence = now.duration_since(seen.1);
        self.liveness.life(process, silence.as_secs_f64())
    }

    /// Removes the files of processes that we know to have ended.
    fn forget_dead(&self) -> Result<(), RunError> {
        for worker in self.workers()? {
            if worker.is_gone() {
                self.files
                    .storage
                    .remove(&self.files.worker_path(&worker.id))?;
            }
        }
        Ok(())
    }

    fn start_heart(&self) -> (Arc<Bell>, JoinHandle<()>) {
        let bell = Arc::new(Bell::default());
        let (storage, mut me) = (self.files.storage.clone(), self.me.clone());
        let (path, rest) = (self.files.worker_path(&me.id), self.liveness.pause());
        let heard = bell.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let stop = heard.stop.lock().unwrap_or_else(PoisonError::into_inner);
                // It may have been told to stop before it got here: then nobody rings again.
                let waited = heard.rung.wait_timeout_while(stop, rest, |stop| !*stop);
                let stop = waited.unwrap_or_else(PoisonError::into_inner).0;
                if *stop {
                    return;
                }
                // A thread that wants to stop it does not wait for the disk to do so.
                drop(stop);
                me.beat += 1;
                let bytes = serde_json::to_vec(&me).unwrap_or_default();
                if let Err(error) = storage.write(&path, &bytes) {
                    tracing::warn!(%error, "no sign of life could be written; others may take over");
                }
            }
        });
        (bell, thread)
    }

    fn write_worker(&self, worker: &Worker) -> Result<(), RunError> {
        let bytes = serde_json::to_vec(worker).unwrap_or_default();
        Ok(self
            .files
            .storage
            .write(&self.files.worker_path(&worker.id), &bytes)?)
    }

    fn lease_file(&self, story: &StoryId, released: bool) -> Vec<u8> {
        let file = LeaseFile {
            story: story.clone(),
            worker: self.me.id.clone(),
            released,
        };
        // Plain data into memory: this does not fail.
        serde_json::to_vec(&file).unwrap_or_default()
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some((bell, thread)) = self.heart.take() {
            *bell.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
            bell.rung.notify_all();
            // A heart that panicked has said so already.
            let _ = thread.join();
        }
        // Best effort: without its file a worker counts as dead, with it too after a while.
        let _ = self
            .files
            .storage
            .remove(&self.files.worker_path(&self.me.id));
    }
}

impl Lease<'_> {
    /// Fails if another program has taken the story over.
    pub fn check(&self) -> Result<(), RunError> {
        let storage = &self.leases.files.storage;
        let mine = self.leases.files.path(&self.story, self.number);
        let next = self.leases.files.path(&self.story, self.number + 1);
        if storage.exists(&mine) && !storage.exists(&next) {
            return Ok(());
        }
        Err(RunError::LeaseLost {
            story: self.story.clone(),
        })
    }

    /// Lets others have the story at once.
    pub fn release(&self) -> Result<(), RunError> {
        if self.check().is_ok() {
            let file = self.leases.lease_file(&self.story, true);
            let path = self.leases.files.path(&self.story, self.number);
            self.leases.files.storage.write(&path, &file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_memory::Disk;

    const LONG: Duration = Duration::from_secs(3600);

    fn join(root: &std::path::Path, lease_timeout: Duration) -> Leases {
        Leases::join(root, Arc::new(Disk), lease_timeout).unwrap()
    }

    fn held<'a>(leases: &'a Leases, story: &StoryId) -> Option<(Lease<'a>, Option<String>)> {
        match leases.claim(story).unwrap() {
            Claim::Held { lease, taken_from } => Some((lease, taken_from)),
            Claim::Busy => None,
        }
    }

    /// Damages of a file that is there.
    fn damages() -> [fn(&std::path::Path); 4] {
        [
            |path| std::fs::write(path, b"{\"story").unwrap(),
            |path| std::fs::write(path, b"").unwrap(),
            |path| std::fs::create_dir(path).unwrap(),
            |path| std::os::unix::fs::symlink(path, path).unwrap(),
        ]
    }

    #[test]
    fn whatever_cannot_be_read_is_passed_over_after_a_while() {
        let story = StoryId::new("a").unwrap();
        for damage in damages() {
            let folder = tempfile::tempdir().unwrap();
            let dead = join(folder.path(), LONG);
            let (lease, _) = held(&dead, &story).unwrap();
            let path = dead.files.path(&story, lease.number);
            std::fs::remove_file(&path).unwrap();
            damage(&path);
            let patient = join(folder.path(), LONG);
            assert!(held(&patient, &story).is_none());
            assert!(held(&patient, &story).is_none(), "its holder may be alive");
            let next = join(folder.path(), Duration::ZERO);
            let (mine, _) = held(&next, &story).unwrap();
            mine.check().unwrap();
            assert!(lease.check().is_err(), "it was taken");
            assert!(path.symlink_metadata().is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_worker_whose_file_cannot_be_read_is_dead_after_a_while() {
        let story = StoryId::new("a").unwrap();
        for damage in damages() {
            let folder = tempfile::tempdir().unwrap();
            let dead = join(folder.path(), LONG);
            let (lease, _) = held(&dead, &story).unwrap();
            let path = dead.files.worker_path(&dead.me.id);
            std::fs::remove_file(&path).unwrap();
            damage(&path);
            let patient = join(folder.path(), LONG);
            assert!(held(&patient, &story).is_none());
            assert!(
                patient
                    .workers()
                    .unwrap()
                    .iter()
                    .all(|worker| worker.id != dead.me.id)
            );
            let next = join(folder.path(), Duration::ZERO);
            let (_, taken_from) = held(&next, &story).unwrap();
            assert_eq!(taken_from.as_ref(), Some(&dead.me.id));
            assert!(lease.check().is_err());
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_story_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let story = StoryId::new("a").unwrap();
        let [one, two] = [(), ()].map(|()| join(folder.path(), LONG));
        let (lease, taken) = held(&one, &story).unwrap();
        assert!(taken.is_none() && held(&two, &story).is_none());
        lease.release().unwrap();
        assert_eq!(one.files.holder(&story).unwrap(), None);
        let (lease, taken) = held(&two, &story).unwrap();
        assert!(taken.is_none() && held(&one, &story).is_none());
        let holder = one.files.holder(&story).unwrap().unwrap();
        assert_eq!(holder.id, two.me.id);
        lease.check().unwrap();
        // A program that ends without releasing leaves nothing that holds others up.
        drop(two);
        assert_eq!(one.files.holder(&story).unwrap(), None);
        assert!(held(&one, &story).is_some());
    }

    /// A program that leaves at once waits for no beat, which would be a quarter of an hour here.
    #[test]
    fn a_worker_may_leave_before_its_heart_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..200 {
            drop(join(folder.path(), LONG));
        }
    }

    #[test]
    fn many_claims_at_once_have_one_winner() {
        let folder = tempfile::tempdir().unwrap();
        let story = StoryId::new("a").unwrap();
        let workers: Vec<Leases> = (0..6).map(|_| join(folder.path(), LONG)).collect();
        let wins = std::thread::scope(|scope| {
            let claims: Vec<_> = workers
                .iter()
                .map(|worker| scope.spawn(|| held(worker, &story).map(|(lease, _)| lease.number)))
                .collect();
            let wins = claims.into_iter().filter_map(|claim| claim.join().unwrap());
            wins.collect::<Vec<_>>()
        });
        assert_eq!(wins, [1]);
    }

    /// A holder whose beat stands still is taken over, and finds out before it commits.
    #[test]
    fn a_stalled_holder_is_fenced() {
        let folder = tempfile::tempdir().unwrap();
        let story = StoryId::new("a").unwrap();
        // The heart of `slow` beats once an hour, while `quick` waits for 50 ms.
        let slow = join(folder.path(), 4 * LONG);
        let (lease, _) = held(&slow, &story).unwrap();
        let quick = join(folder.path(), Duration::from_millis(50));
        assert!(held(&quick, &story).is_none());
        std::thread::sleep(Duration::from_millis(80));
        let (new, taken) = held(&quick, &story).unwrap();
        assert_eq!(taken.as_deref(), Some(slow.me.id.as_str()));
        assert!(matches!(lease.check(), Err(RunError::LeaseLost { .. })));
        lease.release().unwrap();
        new.check().unwrap();
        // Also after further take-overs, when the files in between are gone.
        new.release().unwrap();
        let third = join(folder.path(), LONG);
        assert!(held(&third, &story).is_some());
    }

    /// Between looking and taking, others may have had the number and given it back.
    #[test]
    fn a_number_is_never_had_twice() {
        let folder = tempfile::tempdir().unwrap();
        let story = StoryId::new("a").unwrap();
        let [slow, one, two] = [(), (), ()].map(|()| join(folder.path(), LONG));
        held(&one, &story).unwrap().0.release().unwrap();
        let seen = slow.files.numbers(&story).unwrap();
        held(&one, &story).unwrap().0.release().unwrap();
        let (lease, _) = held(&two, &story).unwrap();
        let late = slow.take(&story, seen, None).unwrap();
        assert!(matches!(late, Claim::Busy));
        lease.check().unwrap();
        assert_eq!(one.files.numbers(&story).unwrap(), [lease.number]);
    }

    /// A process that has ended is known to be dead at once, if it ran on this system.
    #[test]
    fn the_dead_of_this_system_need_no_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let story = StoryId::new("a").unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut ghost = Worker {
            id: "ghost".to_owned(),
            process: Process {
                pid: child.id(),
                started: 1,
                ..Process::own().clone()
            },
            ..Worker::new(String::new())
        };
        child.wait().unwrap();
        let leases = join(folder.path(), LONG);
        leases.write_worker(&ghost).unwrap();
        assert!(!leases.is_alive("ghost"));
        ghost.process.boot = "elsewhere".to_owned();
        leases.write_worker(&ghost).unwrap();
        assert!(leases.is_alive("ghost"));
        assert!(held(&leases, &story).is_some());
    }
}
