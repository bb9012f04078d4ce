//! Worlds of several ranks: the same results as one rank, and a good end when ranks are lost.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Ranks, Signal, Workshop, finish, send, signal_when, wait_until};
use crate::torch::models;

const STORIES: [(&str, &[bool]); 3] = [
    ("ad", &[true, false]),
    ("tale", &[true, true]),
    ("note", &[true]),
];

/// Stories for runs that are interrupted at the first shot: there are seconds of work left then, so
/// that none is over before somebody looks, on a busy machine either.
const MORE: [(&str, &[bool]); 3] = [
    ("ad", &[true, false, true, true, false]),
    ("tale", &[true; 5]),
    ("note", &[true; 5]),
];

/// What one rank makes of the stories.
fn alone(stories: &[(&str, &[bool])]) -> String {
    let shop = Workshop::new();
    let manifest = shop.manifest(stories);
    finish(&mut shop.run_with("torch", &manifest, &[&models()])).ended_with(0);
    shop.digest()
}

/// The same of [`MORE`], made once.
fn calm() -> &'static str {
    static CALM: OnceLock<String> = OnceLock::new();
    CALM.get_or_init(|| alone(&MORE))
}

/// Replicas, roles and halves of guidance change no bit; slices of layers and rows change the last.
#[test]
fn every_topology_makes_the_stories() {
    let alone = alone(&STORIES);
    let same = [
        (Ranks::Launch(2), &[][..]),
        (Ranks::Launch(2), &["topology.cfg=2"]),
        (
            Ranks::Launch(3),
            &["topology.encoders=1", "topology.decoders=1"],
        ),
    ];
    let close = [
        (Ranks::Launch(2), &["topology.tensor=2"][..]),
        (
            Ranks::Launch(4),
            &[
                "topology.sequence=2",
                "topology.cfg=2",
                "topology.share_decode=true",
            ],
        ),
    ];
    for (ranks, sets) in same.into_iter().chain(close) {
        let shop = Workshop::new();
        let manifest = shop.manifest(&STORIES);
        let models = models();
        let sets: Vec<&str> = sets.iter().copied().chain([models.as_str()]).collect();
        finish(&mut shop.run_on(ranks, "torch", &manifest, &sets)).ended_with(0);
        let is_same = same
            .iter()
            .any(|(_, those)| those.len() + 1 == sets.len() && sets.starts_with(those));
        assert_eq!(shop.digest() == alone, is_same, "{ranks:?} {sets:?}");
    }
}

/// The recipe of a shot says how its sums were divided.
#[test]
fn recipes_tell_the_arithmetic() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true])]);
    let sets = [&models(), "topology.tensor=2"];
    finish(&mut shop.run_on(Ranks::Launch(2), "torch", &manifest, &sets)).ended_with(0);
    let record = fs::read(shop.out().join("stories/ad/commits/01_01.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["arithmetic"], "cpu, 1 threads, tensor 2");
}

/// Begun on four ranks, stopped, gone on with three, stopped, finished with one: with equal
/// arithmetic no bit differs.
#[test]
fn a_run_goes_on_with_other_ranks() {
    let models = models();
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    for (ranks, set) in [
        (Ranks::Launch(4), "topology.cfg=2"),
        (Ranks::Launch(3), "topology.encoders=2"),
    ] {
        let before = shop.commits();
        let mut command = shop.run_on(ranks, "torch", &manifest, &[&models, set]);
        signal_when(&mut command, Signal::TERM, || shop.commits() > before).ended_with(75);
    }
    assert!(shop.commits() < 15, "nothing was left to go on with");
    finish(&mut shop.run_with("torch", &manifest, &[&models])).ended_with(0);
    assert_eq!(shop.digest(), calm());
}

/// Inside a shot, to another number of tensor ranks: the run takes the saved steps over.
#[test]
fn saved_steps_fit_another_plan() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true])]);
    let sets = [&models(), "storymem.steps=300", "checkpoint.every_steps=1"];
    let start = |ranks, more: &str| {
        let sets: Vec<&str> = sets.iter().copied().chain([more]).collect();
        shop.run_on(ranks, "torch", &manifest, &sets)
    };
    let saved = || {
        let folder = fs::read_dir(shop.out().join("stories/ad/checkpoints"));
        folder.into_iter().flatten().count() > 0
    };
    let tensor = "topology.tensor=2";
    signal_when(&mut start(Ranks::Launch(2), tensor), Signal::TERM, saved).ended_with(75);
    finish(&mut start(Ranks::Launch(4), "topology.tensor=4"))
        .ended_with(0)
        .saying("goes on after step");
    shop.digest();
}

#[test]
fn topologies_that_do_not_fit_say_what_would() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let attempt = |ranks, set: &str| {
        let sets = [&models(), set];
        finish(&mut shop.run_on(ranks, "torch", &manifest, &sets)).ended_with(78)
    };
    attempt(Ranks::Launch(3), "topology.tensor=2").saying("start 2 or 4 ranks");
    attempt(Ranks::Launch(3), "topology.tensor=3").saying("use one of 1, 2, 4");
    attempt(Ranks::Launch(2), "topology.replicas=3").saying("need 3 ranks, but 2");
    attempt(Ranks::Alone, "topology.cfg=3").saying("must be 1 or 2");
    assert!(!shop.out().exists(), "nothing was begun");
}

/// The processes that `parent` started, in that order.
pub fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Starts a world that writes what it says to the file `log`.
fn logged(shop: &Workshop, command: &mut Command) -> Child {
    let log = fs::File::create(shop.path("log")).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Starts a world, waits until it has committed a shot, does something to one of its ranks, and
/// returns the program and when that was.
#[track_caller]
fn disturb(
    shop: &Workshop,
    command: &mut Command,
    signal: Signal,
    rank: usize,
) -> (Child, Instant) {
    let mut program = logged(shop, command);
    wait_until(&mut program, || shop.commits() > 0);
    send(signal, children(program.id())[rank]);
    (program, Instant::now())
}

/// A rank that is killed ends its world, nothing is lost, and the next start
/// finishes with the same bytes.
#[test]
fn a_killed_rank_ends_its_world_alone() {
    let calm = calm();
    for (ranks, set, victim) in [
        (Ranks::Launch(2), "topology.cfg=2", 1),
        (Ranks::Launch(2), "topology.replicas=2", 0),
        (Ranks::Mpi(2), "topology.cfg=2", 1),
    ] {
        if matches!(ranks, Ranks::Mpi(_)) && cfg!(not(feature = "mpi")) {
            eprintln!("skipped: MPI is not built in (--features mpi)");
            continue;
        }
        let shop = Workshop::new();
        let manifest = shop.manifest(&MORE);
        let sets = [&models(), set];
        let mut command = shop.run_on(ranks, "torch", &manifest, &sets);
        let (mut program, killed) = disturb(&shop, &mut command, Signal::KILL, victim);
        let status = program.wait().unwrap();
        // Not only after the timeout of collectives, which is minutes.
        assert!(
            killed.elapsed() < Duration::from_secs(60),
            "{:?}",
            killed.elapsed()
        );
        assert!(!status.success(), "{ranks:?}");
        if matches!(ranks, Ranks::Launch(_)) {
            assert_eq!(status.code(), Some(75));
        }
        finish(&mut shop.run_with("torch", &manifest, &[&models()])).ended_with(0);
        assert_eq!(shop.digest(), calm);
    }
}

/// Another world on the same folder goes on and takes the stories of the dead one over.
#[test]
fn other_worlds_take_over() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let sets = [&models(), "topology.cfg=2"];
    let mut doomed = shop.run_on(Ranks::Launch(2), "torch", &manifest, &sets);
    let (mut doomed, _) = disturb(&shop, &mut doomed, Signal::KILL, 1);
    let mut other = shop.run_with("torch", &manifest, &[&models()]);
    let other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    assert_eq!(doomed.wait().unwrap().code(), Some(75));
    assert!(other.unwrap().wait().unwrap().success());
    assert_eq!(shop.digest(), calm());
}

/// With one story for two replicas, the second computes half of its guidance; no bit differs.
#[test]
fn idle_replicas_help_at_the_tail() {
    // Enough shots that none of the ranks comes too late, whatever it waits for.
    const ONE: [(&str, &[bool]); 1] = [("ad", &[true; 60])];
    let models = models();
    let sets = [models.as_str(), "storymem.steps=12"];
    for ranks in [2, 3] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&ONE);
        let mut command = shop.run_on(Ranks::Launch(ranks), "torch", &manifest, &sets);
        let mut program = logged(&shop, &mut command);
        let said = || fs::read_to_string(shop.path("log")).unwrap();
        wait_until(&mut program, || {
            said().contains("helps with the negative prompt")
        });
        // The shot that the line is about is the next one at the latest.
        let made = shop.commits() + 1;
        wait_until(&mut program, || shop.commits() >= made);
        send(Signal::TERM, program.id());
        assert_eq!(program.wait().unwrap().code(), Some(75));

        let alone = Workshop::new();
        let manifest = alone.manifest(&[("ad", &vec![true; made])]);
        finish(&mut alone.run_with("torch", &manifest, &sets)).ended_with(0);
        assert_eq!(latents(&shop, made), latents(&alone, made));
    }
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true, true, false])]);
    let sets = [models.as_str(), "topology.widen=false"];
    let quiet = finish(&mut shop.run_on(Ranks::Launch(2), "torch", &manifest, &sets)).ended_with(0);
    assert!(!quiet.stderr.contains("helps with"));
}

/// Digests of the latents of the first shots of the story `ad`.
fn latents(shop: &Workshop, shots: usize) -> Vec<Value> {
    let folder = shop.out().join("stories/ad/commits");
    let record = |shot: usize| fs::read(folder.join(format!("01_{shot:02}.json"))).unwrap();
    let record = |shot| serde_json::from_slice::<Value>(&record(shot)).unwrap();
    (1..=shots)
        .map(|shot| record(shot)["latents"]["blake3"].clone())
        .collect()
}

/// A rank that hangs is named, and the world ends to be started again.
#[test]
fn a_rank_that_hangs_is_named() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let sets = [
        &models(),
        "topology.tensor=2",
        "topology.collective_timeout=8",
    ];
    let mut command = shop.run_on(Ranks::Launch(2), "torch", &manifest, &sets);
    let (mut program, _) = disturb(&shop, &mut command, Signal::STOP, 1);
    assert_eq!(program.wait().unwrap().code(), Some(75));
    let log = fs::read_to_string(shop.path("log")).unwrap();
    // However many stories are under way, it is waited for once.
    let named = log
        .lines()
        .filter_map(|line| line.split_once("the world of ranks: "));
    let calls: BTreeSet<&str> = named.map(|(_, call)| call).collect();
    assert_eq!(calls.len(), 1, "{log}");
    assert!(log.contains("no sign of rank 1 for 8 s"), "{log}");
    finish(&mut shop.run_with("torch", &manifest, &[&models()])).ended_with(0);
    shop.digest();
}

/// The same command under `mpirun`, with replicas, halves of guidance and slices of layers.
#[test]
fn worlds_of_mpi() {
    if cfg!(not(feature = "mpi")) {
        eprintln!("skipped: MPI is not built in (--features mpi)");
        return;
    }
    let alone = alone(&STORIES);
    for (ranks, set, same) in [
        (2, "topology.replicas=2", true),
        (2, "topology.cfg=2", true),
        (4, "topology.tensor=2", false),
    ] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&STORIES);
        let sets = [&models(), set];
        let mut command = shop.run_on(Ranks::Mpi(ranks), "torch", &manifest, &sets);
        finish(&mut command).ended_with(0).saying("by MPI");
        assert_eq!(shop.digest() == alone, same, "{set}");
    }
    // A drain reaches every rank, and the code comes back.
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let mut command = shop.run_on(Ranks::Mpi(2), "torch", &manifest, &[&models()]);
    signal_when(&mut command, Signal::USR1, || shop.commits() > 0).ended_with(75);
    finish(&mut shop.run_with("torch", &manifest, &[&models()])).ended_with(0);
    assert_eq!(shop.digest(), calm());
}
