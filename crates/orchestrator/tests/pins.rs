//! What earlier builds wrote is still proven: `tests/fixtures/run-v1`. The whole of it, with resuming, is in
//! `tests/system/pins.rs`.

use std::path::Path;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::verify::{Depth, verify};
use storyloom_orchestrator::{RunFolder, ShotEngine};
use storyloom_story::Method;

fn fixture(name: &str) -> RunFolder {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/run-v1");
    RunFolder::new(runs.join(name), Arc::new(Disk))
}

#[test]
fn the_finished_run_of_an_earlier_build_is_proven() {
    let verdict = verify(&fixture("finished"), Depth::Frames).unwrap();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let content = "bbb52f076d24d05d3c58fb8ea276142aeef1d1a2149231a788279eee47ad0373";
    assert_eq!(verdict.content_digest.as_deref(), Some(content));
}

/// A change of what is drawn has to change the name of it, and then these runs do not go on.
#[test]
fn the_fingerprint_of_the_simulated_engine_stays() {
    let fingerprint = fixture("interrupted")
        .run_file()
        .unwrap()
        .engine
        .fingerprint;
    assert_eq!(fingerprint, "simulated 2, 4 steps");
    assert_eq!(
        SimulatedEngine::default()
            .describe(Method::StoryMem)
            .unwrap()
            .fingerprint,
        fingerprint
    );
}
