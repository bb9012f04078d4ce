//! Starting the binary and looking at what it did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use storyloom_memory::ledger::record::v1::CommitRecord;
use storyloom_memory::{BlobRef, DigestedRecord};
use tempfile::TempDir;

/// Writes a file of a run folder that was changed on purpose: its seal is that of the change.
pub fn write_sealed(path: &Path, mut file: serde_json::Value) {
    storyloom_orchestrator::seal::seal(file.as_object_mut().unwrap());
    fs::write(path, file.to_string()).unwrap();
}

/// A program that should have finished long ago has hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What a finished program left behind.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Stops the test unless the program ended with `code`. No end may be a panic.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert!(!stderr.contains("panicked"), "it panicked:\n{stderr}");
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{stdout}\nstderr:\n{stderr}"
        );
        self
    }

    /// Stops the test unless stderr says `text`.
    #[track_caller]
    pub fn saying(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "no {text:?} in:\n{}",
            self.stderr
        );
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// What ignores signals passes that on to what it starts, as shells do with programs in the
/// background. A signal that is handled here is heard by every program that the tests start.
fn let_signals_be_heard() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            // The tests themselves end by it as ever.
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).unwrap();
        }
    });
}

/// The binary with these arguments, away from the settings of the person who runs the tests.
pub fn storyloom<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let_signals_be_heard();
    let mut command = Command::new(env!("CARGO_BIN_EXE_storyloom"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STORYLOOM_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("OMP_NUM_THREADS", "1");
    command
}

/// How many ranks, and who starts them.
#[derive(Debug, Clone, Copy)]
pub enum Ranks {
    /// One, without a launcher.
    Alone,
    /// `storyloom launch`.
    Launch(usize),
    /// `mpirun`.
    Mpi(usize),
}

impl Ranks {
    /// The binary with these arguments on every rank.
    fn start(self, arguments: &[&str]) -> Command {
        match self {
            Self::Alone => storyloom(arguments),
            Self::Launch(ranks) => {
                storyloom(["launch", "-n", &ranks.to_string()].iter().chain(arguments))
            }
            Self::Mpi(ranks) => {
                let_signals_be_heard();
                let mut command = Command::new("mpirun");
                command
                    .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_storyloom")])
                    .args(arguments)
                    .stdin(Stdio::null())
                    .env("OMP_NUM_THREADS", "1")
                    // For Open MPI as root on few cores; others do not look at them.
                    .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
                    .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
                    .env("OMPI_MCA_rmaps_base_oversubscribe", "1");
                command
            }
        }
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs the binary to its end.
pub fn call(arguments: &[&str]) -> Finished {
    finish(&mut storyloom(arguments))
}

/// A folder for one test, with a manifest and a run in it.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path as text.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A manifest of stories, each given as id and cuts (one per shot, in one scene).
    pub fn manifest(&self, stories: &[(&str, &[bool])]) -> String {
        let lines: Vec<_> = stories.iter().map(|(id, cuts)| line(id, cuts)).collect();
        self.write("manifest.jsonl", lines.join("\n"))
    }

    /// The folder of the run.
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// `run` with the simulated engine, small videos and these settings.
    pub fn run(&self, manifest: &str, sets: &[&str]) -> Command {
        self.run_with("simulated", manifest, sets)
    }

    /// `run` with the engine `engine`.
    pub fn run_with(&self, engine: &str, manifest: &str, sets: &[&str]) -> Command {
        self.run_on(Ranks::Alone, engine, manifest, sets)
    }

    /// `run` on these ranks.
    pub fn run_on(&self, ranks: Ranks, engine: &str, manifest: &str, sets: &[&str]) -> Command {
        let mut command = ranks.start(&["run", "--manifest", manifest, "--out"]);
        command
            .arg(self.out())
            .arg("--set")
            .arg(format!("engine={engine}"));
        let small = [
            "device=cpu",
            "video.width=64",
            "video.height=48",
            "video.frames=9",
            "video.fps=8",
            "storymem.steps=2",
            "storymem.quality_threshold=0",
        ];
        for set in small.iter().chain(sets) {
            command.args(["--set", set]);
        }
        command
    }

    /// A command on the folder of the run: `status`, `verify`, …
    pub fn ask(&self, arguments: &[&str]) -> Finished {
        let (name, rest) = arguments.split_first().unwrap();
        finish(storyloom([name]).arg(self.out()).args(rest))
    }

    /// The digest over all decoded frames.
    #[track_caller]
    pub fn digest(&self) -> String {
        let verified = self.ask(&["verify", "--json"]).ended_with(0).json();
        verified["content_digest"].as_str().unwrap().to_owned()
    }

    /// Whether there is anything of a run but what tells why there is none.
    pub fn is_begun(&self) -> bool {
        let tells = ["logs", "metrics"];
        let entries = fs::read_dir(self.out()).into_iter().flatten();
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            !tells.iter().any(|known| name == *known)
        })
    }

    /// Makes it impossible to make a story whole that was made: the record of its first shot says that it
    /// shows other frames than it does, and its video is gone. The answer is the record.
    pub fn poison(&self, story: &str) -> PathBuf {
        let folder = self.out().join("stories").join(story);
        let path = folder.join("commits/01_01.json");
        let mut record = CommitRecord::open(&path, &fs::read(&path).unwrap()).unwrap();
        record.frames_blake3 = BlobRef::of(b"other frames").blake3;
        fs::write(&path, record.seal().unwrap()).unwrap();
        fs::remove_file(folder.join("01_01.mp4")).unwrap();
        path
    }

    /// How many shots are committed.
    pub fn commits(&self) -> usize {
        let names = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        names(self.out().join("stories"))
            .flat_map(|story| names(story.path().join("commits")))
            // The names of unfinished files begin with a dot.
            .filter(|record| !record.file_name().as_encoded_bytes().starts_with(b"."))
            .count()
    }

    /// Every video, picture, blob and commit record with its time of change.
    pub fn products(&self) -> BTreeMap<PathBuf, SystemTime> {
        let mut found = BTreeMap::new();
        for part in ["stories", "blobs"] {
            walk(&self.out().join(part), &mut found);
        }
        found.retain(|path, _| !path.ends_with("story.json"));
        found
    }
}

fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, SystemTime>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            walk(&path, found);
        } else {
            found.insert(path, metadata.modified().unwrap());
        }
    }
}

/// A line of a manifest with a method of its own.
pub fn of_method(line: &str, method: &str) -> String {
    line.replacen('{', &format!("{{\"method\": \"{method}\", "), 1)
}

/// One line of a manifest.
pub fn line(id: &str, cuts: &[bool]) -> String {
    let prompts: Vec<_> = (1..=cuts.len())
        .map(|n| format!("Shot {n} of {id}."))
        .collect();
    let scene = serde_json::json!({"scene_num": 1, "video_prompts": prompts, "cut": cuts});
    serde_json::json!({"id": id, "script": {"scenes": [scene]}}).to_string()
}

/// Frames of a video, counted by decoding it.
#[track_caller]
pub fn frames(video: &Path) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(video)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let count = text.trim().trim_end_matches(',').parse();
    count.unwrap_or_else(|_| panic!("{} does not decode: {text}", video.display()))
}

/// Sends a signal, at once: no other program must start for it.
#[track_caller]
pub fn send(signal: Signal, pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Waits until `ready`, then sends `signal` to the program and returns how it ended.
#[track_caller]
pub fn signal_when(command: &mut Command, signal: Signal, ready: impl Fn() -> bool) -> Finished {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(&mut child, ready);
    send(signal, child.id());
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for what a program that runs does.
#[track_caller]
pub fn wait_until(child: &mut Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before the moment came"
        );
        assert!(start.elapsed() < TIMEOUT, "the moment never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}
