#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_telemetry::AttemptEnd;
use storyloom_telemetry::shift::{Journal, ShiftEnd, ShiftStart};
use storyloom_telemetry::{Event, Reporter, ShotEvent};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A run of two stories with two shots each, of which nothing exists.
fn begin(root: &Path) -> Watcher {
    let stories = ["ad", "tale"];
    let write = |path: &str, value: serde_json::Value| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    };
    let engine = serde_json::json!({
        "engine": "none", "fingerprint": "", "arithmetic": "", "models": [], "quality_score": ""
    });
    // As earlier builds wrote it, without a digest.
    let identity = serde_json::json!({
        "run.seed": 0, "video": {"width": 16, "height": 16, "frames": 5, "fps": 8},
        "memory.window": {"max_images": 1, "sink": 0}, "memory.continuation": "none",
        "memory.selection": {
            "rule": "semantic", "max_keyframes": 1, "similarity_start": 0.5, "quality_threshold": 1
        }
    });
    write(
        "run.json",
        serde_json::json!({
            "format": 1, "run_id": "r", "version": "0.1.0", "engine": engine, "identity": identity,
            "config": {}, "manifest_digest": "", "stories": stories
        }),
    );
    for story in stories {
        let scene = serde_json::json!({
            "scene_num": 1, "video_prompts": ["one", "two"], "cut": [true, true]
        });
        write(
            &format!("stories/{story}/story.json"),
            serde_json::json!({
                "format": 1, "id": story, "script": {"story_name": story, "scenes": [scene]},
                "seed": null, "tenant": null, "reference_images": [], "size": null,
                "state": {"state": "running"}, "video": null
            }),
        );
    }
    Watcher::new(RunFolder::new(root, Arc::new(Disk)))
}

fn id(story: &str) -> StoryId {
    StoryId::new(story).unwrap()
}

fn shot(shot: u32) -> ShotId {
    ShotId { scene: 1, shot }
}

/// A program that works on the first shot of `story`.
fn worker(root: &Path, name: &str, story: &str) -> Journal {
    let start = ShiftStart {
        host: "node7".to_owned(),
        ranks: 2,
        lease_timeout_s: Some(300),
        ..ShiftStart::default()
    };
    let journal = Journal::begin(root, name, start, now() - 100.0, HOUR);
    journal.report(&Event::RunStarted {
        stories: 2,
        shots: 4,
        shots_done: 0,
    });
    let (story, shot) = (&id(story), shot(1));
    for event in [
        Event::Shot {
            story,
            shot,
            event: ShotEvent::AttemptBegun { attempt: 1 },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::StageBegun {
                stage: Stage::Denoise,
                waited: 0.0,
            },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::StepFinished { done: 7, total: 40 },
        },
    ] {
        journal.report(&event);
    }
    note(root, name, &journal);
    journal
}

/// The live file as it is now; it is not rewritten by itself in these tests.
fn note(root: &Path, name: &str, journal: &Journal) {
    let path = root.join("logs/shifts").join(format!("{name}.live.json"));
    fs::write(path, serde_json::to_vec(&journal.live()).unwrap()).unwrap();
}

#[test]
fn a_run_nobody_works_on() {
    let folder = tempfile::tempdir().unwrap();
    let view = begin(folder.path()).look().unwrap();
    assert_eq!((view.status.stories.total, view.status.shots.total), (2, 4));
    assert_eq!((view.workers.len(), view.eta_range_seconds), (0, None));
}

#[test]
fn every_worker_is_shown_with_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = begin(folder.path());
    let _one = worker(folder.path(), "w1", "ad");
    let two = worker(folder.path(), "w2", "tale");
    let view = watcher.look().unwrap();
    assert_eq!(view.workers.len(), 2);
    for worker in &view.workers {
        assert_eq!(worker.state, WorkerState::Working);
        let [at] = &worker.now[..] else {
            panic!("{worker:?}");
        };
        assert_eq!(
            (at.shot, at.attempt, at.stage),
            (shot(1), 1, Some(Stage::Denoise))
        );
        assert_eq!((at.step, at.steps), (7, 40));
    }
    // A worker that ends is gone, and its JSON with it.
    two.end(ShiftEnd::Done);
    let view = watcher.look().unwrap();
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["workers"].as_array().unwrap().len(), 1);
    assert_eq!(json["workers"][0]["now"][0]["story"], "ad");
    assert_eq!(json["stories"]["total"], 2);
}

/// A worker that is silent is stale, until it is heard of again or somebody takes over.
#[test]
fn silent_workers_are_marked_until_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = begin(folder.path());
    let lost = worker(folder.path(), "w1", "ad");
    let later = now() + 60.0;
    let view = watcher.look_at(later).unwrap();
    let [stale] = &view.workers[..] else {
        panic!("{view:?}");
    };
    assert_eq!(stale.state, WorkerState::Stale);
    assert!((59.0..70.0).contains(&stale.silent_seconds), "{stale:?}");
    assert_eq!(view.eta_range_seconds, None);
    // Its clock may be a minute behind ours: what counts is that it changes.
    note(folder.path(), "w1", &lost);
    let view = watcher.look_at(later).unwrap();
    assert_eq!(view.workers[0].state, WorkerState::Working);
    // Silent again, and another program has the shot now.
    let _heir = worker(folder.path(), "w2", "ad");
    watcher.look_at(later + 100.0).unwrap();
    note(folder.path(), "w2", &_heir);
    let view = watcher.look_at(later + 100.0).unwrap();
    let names: Vec<_> = view
        .workers
        .iter()
        .map(|worker| worker.id.as_str())
        .collect();
    assert_eq!(names, ["w2"]);
}

/// What journals tell counts at once, before the folder is read again.
#[test]
fn made_shots_tell_the_pace() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = begin(folder.path());
    let journal = worker(folder.path(), "w1", "ad");
    let view = watcher.look().unwrap();
    assert_eq!(view.eta_range_seconds, None);
    let story = &id("ad");
    journal.report(&Event::Shot {
        story,
        shot: shot(1),
        event: ShotEvent::StageFinished {
            stage: Stage::Denoise,
            seconds: 3.0,
            waited: 0.0,
        },
    });
    journal.report(&Event::Shot {
        story,
        shot: shot(1),
        event: ShotEvent::AttemptEnded {
            attempt: 1,
            end: AttemptEnd::Committed,
            reason: None,
        },
    });
    note(folder.path(), "w1", &journal);
    let view = watcher.look_at(now() + 5.0).unwrap();
    let [low, high] = view.eta_range_seconds.unwrap();
    assert!(0.0 < low && low < high, "{low} {high}");
    assert_eq!(view.status.eta_seconds, Some(f64::midpoint(low, high)));
    assert!(view.status.shots_per_hour.unwrap() > 0.0);
}
