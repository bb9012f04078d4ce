//! Journals of programs with their live file, and the accounting of their time. The part before a
//! line `=====` is the journal, the rest the live file.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use storyloom_telemetry::shift::{Extent, Follower, accounting, read_shifts, shifts_folder};

const BETWEEN: &[u8] = b"\n=====\n";

/// A run folder in memory.
fn run() -> &'static PathBuf {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = PathBuf::from(format!("/dev/shm/storyloom-fuzz-{}", std::process::id()));
        fs::create_dir_all(shifts_folder(&run)).expect("there is memory");
        run
    })
}

fuzz_target!(|bytes: &[u8]| {
    let run = run();
    let folder = shifts_folder(run);
    let between = bytes
        .windows(BETWEEN.len())
        .position(|here| here == BETWEEN);
    let (journal, live) = match between {
        Some(at) => (&bytes[..at], &bytes[at + BETWEEN.len()..]),
        None => (bytes, &b""[..]),
    };
    fs::write(folder.join("w.jsonl"), journal).expect("there is memory");
    fs::write(folder.join("w.live.json"), live).expect("there is memory");
    let shifts = read_shifts(run).expect("journals can be read");
    assert!(shifts.len() <= 1);
    for extent in [Extent::Everything, Extent::Settled] {
        let accounted = accounting(&shifts, 1.8e9, extent);
        assert_eq!(accounted.shifts.len(), shifts.len());
        let total = accounted.total();
        assert!(total.goodput().is_none_or(|goodput| !(goodput < 0.0)));
    }
    let mut follower = Follower::new(run);
    follower.look().expect("journals can be read");
    let is_whole = journal.ends_with(b"\n");
    // Who follows waits for the end of the last line.
    assert!(!is_whole || follower.shifts().eq(&shifts));
});
