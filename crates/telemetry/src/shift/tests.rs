//! What is written is what is read, also of a program that was killed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use storyloom_story::{ShotId, Stage, StoryId};

use super::*;
use crate::liveness::Liveness;
use crate::{AttemptEnd, Event, Reporter, ShotEvent};

const HOUR: Duration = Duration::from_secs(3600);
const SHOT: ShotId = ShotId { scene: 1, shot: 2 };

fn story() -> StoryId {
    StoryId::new("neo").unwrap()
}

fn start() -> ShiftStart {
    ShiftStart {
        run: "shoes".to_owned(),
        host: "node7".to_owned(),
        ranks: 4,
        device: "cuda".to_owned(),
        ..ShiftStart::default()
    }
}

fn begin(run: &Path) -> Journal {
    let begun = process_start();
    let journal = Journal::begin(run, "w1", start(), begun, HOUR);
    journal.report(&Event::RunStarted {
        stories: 1,
        shots: 2,
        shots_done: 0,
    });
    journal
}

fn stage(journal: &Journal, stage: Stage, seconds: f64) {
    let (story, shot) = (&story(), SHOT);
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::StageBegun { stage, waited: 0.5 },
    });
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::StageFinished {
            stage,
            seconds,
            waited: 0.5,
        },
    });
}

/// Up to the middle of the sampling loop.
fn half_a_shot(journal: &Journal) {
    let (story, shot) = (&story(), SHOT);
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::AttemptBegun { attempt: 1 },
    });
    stage(journal, Stage::Plan, 0.0);
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::StageBegun {
            stage: Stage::Denoise,
            waited: 0.25,
        },
    });
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::Resumed { done: 3, total: 8 },
    });
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::CheckpointSaved {
            done: 4,
            seconds: 0.1,
        },
    });
    journal.report(&Event::Shot {
        story,
        shot,
        event: ShotEvent::StepFinished { done: 5, total: 8 },
    });
}

fn only(run: &Path) -> Shift {
    let mut shifts = read_shifts(run).unwrap();
    assert_eq!(shifts.len(), 1);
    shifts.remove(0)
}

fn end_plan(journal: &Journal, end: AttemptEnd) {
    journal.report(&Event::PlanEnded {
        story: &story(),
        attempt: 0,
        end,
        seconds: 1.0,
        repairs: 2,
        tokens: 30,
        reason: (end == AttemptEnd::Failed).then_some("no script"),
    });
}

#[test]
fn plans_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(folder.path());
    let begin_plan = || {
        journal.report(&Event::PlanBegun {
            story: &story(),
            attempt: 0,
        });
    };
    begin_plan();
    end_plan(&journal, AttemptEnd::Failed);
    begin_plan();
    end_plan(&journal, AttemptEnd::Committed);
    begin_plan();
    // As a program leaves it that is killed now.
    let live = serde_json::to_vec(&journal.live()).unwrap();
    let lines = shifts_folder(folder.path()).join("w1.jsonl");
    let before = fs::read(&lines).unwrap();
    drop(journal);
    fs::write(&lines, before).unwrap();
    fs::write(lines.with_file_name("w1.live.json"), live).unwrap();
    let shift = only(folder.path());
    let ends: Vec<_> = shift.all_plans().iter().map(|plan| plan.end).collect();
    assert_eq!(
        ends,
        [Some(AttemptEnd::Failed), Some(AttemptEnd::Committed), None]
    );
    let [failed, made] = &shift.plans[..] else {
        panic!("{:?}", shift.plans);
    };
    assert_eq!(failed.reason.as_deref(), Some("no script"));
    assert_eq!((made.repairs, made.tokens), (2, 30));
    assert!(made.ended >= made.begun);
    assert!(shift.attempts.is_empty());
}

#[test]
fn a_shift_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_shifts(folder.path()).unwrap(), []);
    let journal = begin(folder.path());
    half_a_shot(&journal);
    journal.report(&Event::Shot {
        story: &story(),
        shot: SHOT,
        event: ShotEvent::AttemptEnded {
            attempt: 1,
            end: AttemptEnd::Failed,
            reason: Some("not finite"),
        },
    });
    journal.report(&Event::LeaseTaken {
        story: &story(),
        from: "w0",
    });
    journal.end(ShiftEnd::Done);
    journal.report(&Event::StoryFinished { story: &story() });
    drop(journal);

    let shift = only(folder.path());
    assert_eq!((shift.id.as_str(), &shift.start), ("w1", &start()));
    assert!(shift.loaded.unwrap() >= shift.begun);
    assert_eq!(shift.end.map(|(_, how)| how), Some(ShiftEnd::Done));
    let [attempt] = shift.all_attempts().try_into().unwrap();
    assert_eq!(attempt.end, Some(AttemptEnd::Failed));
    assert_eq!(attempt.reason.as_deref(), Some("not finite"));
    assert_eq!((attempt.resumed_step, attempt.saved[0].step), (Some(3), 4));
    let [plan, denoise] = attempt.stages.try_into().unwrap();
    // The second did not end by itself.
    assert_eq!((plan.stage, denoise.stage), (Stage::Plan, Stage::Denoise));
    assert_eq!((plan.waited, denoise.waited), (0.5, 0.25));
    assert!((denoise.end() - attempt.ended).abs() < 1e-6);
    let story = story();
    let from = "w0".to_owned();
    // Nothing is written after the end.
    let incidents = shift.incidents.into_iter().map(|(_, what)| what);
    assert_eq!(
        incidents.collect::<Vec<_>>(),
        [Incident::LeaseTaken { story, from }]
    );
}

/// The files of a killed program are what they were a moment before.
#[test]
fn a_killed_shift_ends_where_it_was_heard_of_last() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(folder.path());
    half_a_shot(&journal);
    let lines = shifts_folder(folder.path()).join("w1.jsonl");
    let mut before = fs::read(&lines).unwrap();
    let live = serde_json::to_vec(&journal.live()).unwrap();
    drop(journal);
    before.extend_from_slice(br#"{"at":9e9,"kind":"sho"#);
    fs::write(&lines, before).unwrap();
    fs::write(lines.with_file_name("w1.live.json"), live).unwrap();

    let shift = only(folder.path());
    assert_eq!(shift.end, None);
    let live = shift.live.clone().unwrap();
    assert_eq!(shift.until(), live.at);
    let timeout = f64::from(Liveness::LEASE_TIMEOUT_S);
    assert!(shift.goes_on(live.at + 1.0) && !shift.goes_on(live.at + timeout + 1.0));
    assert_eq!((live.now[0].step, live.now[0].saved_step), (5, Some(4)));
    let [attempt] = shift.all_attempts().try_into().unwrap();
    assert_eq!((attempt.end, attempt.ended), (None, live.at));
    assert_eq!(attempt.stages[1].end(), live.at);
}

/// Others may go on from what was saved, so a kill at that very moment must not hide it.
#[test]
fn what_was_saved_is_noted_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(folder.path());
    half_a_shot(&journal);
    let live = only(folder.path()).live.unwrap();
    assert_eq!(live.now[0].saved_step, Some(4));
    // The next pulse is an hour away.
    assert_eq!((live.now[0].step, journal.live().now[0].step), (3, 5));
}

/// An error on the way out is an end too.
#[test]
fn a_dropped_journal_says_so() {
    let folder = tempfile::tempdir().unwrap();
    drop(begin(folder.path()));
    let (_, how) = only(folder.path()).end.unwrap();
    assert_eq!(how, ShiftEnd::Failed);
}

/// A run never fails by its journal.
#[test]
fn a_journal_that_cannot_be_written_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("logs"),
        "a file where a folder should be",
    )
    .unwrap();
    let journal = begin(folder.path());
    half_a_shot(&journal);
    journal.end(ShiftEnd::Done);
    assert_eq!(journal.live().now.len(), 1);
    assert!(read_shifts(folder.path()).is_err());
}

/// Anyone who follows a journal knows at each moment what one knows who reads it from the start.
/// Of a journal whose beginning was damaged, or went to another place.
#[test]
fn a_journal_begins_with_its_first_beginning() {
    let folder = tempfile::tempdir().unwrap();
    drop(begin(folder.path()));
    let path = shifts_folder(folder.path()).join("w1.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let loaded = whole.lines().nth(1).unwrap();
    fs::write(&path, format!("{loaded}\n{whole}")).unwrap();
    let read = only(folder.path());
    assert_eq!(read.start, start());
    let mut follower = Follower::new(folder.path());
    follower.look().unwrap();
    assert!(follower.shifts().eq([&read]));
}

#[test]
fn following_is_reading_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(folder.path());
    follower.look().unwrap();
    assert_eq!(follower.shifts().count(), 0);
    let journal = begin(folder.path());
    half_a_shot(&journal);
    journal.end(ShiftEnd::Done);
    drop(journal);
    let lines = shifts_folder(folder.path()).join("w1.jsonl");
    let whole = fs::read(&lines).unwrap();
    for length in 0..=whole.len() {
        fs::write(&lines, &whole[..length]).unwrap();
        follower.look().unwrap();
        let read = read_shifts(folder.path()).unwrap();
        // A last line without its end may be read early; it is followed when it is whole.
        if length == 0 || whole[length - 1] == b'\n' {
            assert_eq!(follower.shifts().cloned().collect::<Vec<_>>(), read);
        }
    }
}
