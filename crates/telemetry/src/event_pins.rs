//! What each event becomes in the log and in the journal, word for word: people search logs, and later
//! builds read journals.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use storyloom_story::{ShotId, Stage, StoryId};

use crate::shift::{Journal, ShiftEnd, ShiftStart};
use crate::{AttemptEnd, Event, EventLog, Reporter, ShotEvent};

const SHOT: ShotId = ShotId { scene: 1, shot: 2 };

/// One event of each kind, in an order that a run may have.
pub(crate) fn all(story: &StoryId) -> Vec<Event<'_>> {
    let (shot, attempt, reason) = (SHOT, 1, "no disk");
    vec![
        Event::RunStarted {
            stories: 2,
            shots: 6,
            shots_done: 1,
        },
        Event::IndexOpened {
            folder: Path::new("/index"),
        },
        Event::IndexRebuilt {
            moved_to: Path::new("/aside"),
        },
        Event::PlanBegun { story, attempt },
        Event::PlanEnded {
            story,
            attempt,
            end: AttemptEnd::Failed,
            seconds: 7.25,
            repairs: 1,
            tokens: 300,
            reason: Some(reason),
        },
        Event::PlanBegun { story, attempt },
        Event::PlanEnded {
            story,
            attempt,
            end: AttemptEnd::Committed,
            seconds: 7.25,
            repairs: 1,
            tokens: 300,
            reason: None,
        },
        Event::PlansAhead { stories: 3 },
        Event::PlanAwaited { seconds: 1.5 },
        Event::StoryTaken { story },
        Event::LeaseTaken { story, from: "w0" },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::AttemptBegun { attempt },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::StageBegun {
                stage: Stage::Denoise,
                waited: 0.5,
            },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::Resumed { done: 3, total: 9 },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::StepFinished { done: 4, total: 9 },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::CheckpointSaved {
                done: 4,
                seconds: 0.25,
            },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::CheckpointIgnored { reason },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::StageFinished {
                stage: Stage::Denoise,
                seconds: 2.5,
                waited: 0.5,
            },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::AttemptFailed { attempt, reason },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::AttemptEnded {
                attempt,
                end: AttemptEnd::Failed,
                reason: Some(reason),
            },
        },
        Event::Shot {
            story,
            shot,
            event: ShotEvent::Committed {
                seconds: 4.25,
                keyframes: 3,
            },
        },
        Event::StoryFinished { story },
        Event::StoryFailed { story, reason },
        Event::StoryQuarantined { story, reason },
        Event::StorySetAside { story, reason },
        Event::StoryLeft { story },
        Event::RunStopped { shots_done: 5 },
    ]
}

/// Text that several threads may write.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_lines_stay_as_they_are() {
    let written = Written::default();
    let lines = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || lines.clone())
        .with_max_level(tracing::Level::TRACE)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .finish();
    let story = StoryId::new("neo").unwrap();
    tracing::subscriber::with_default(subscriber, || {
        for event in all(&story) {
            EventLog.report(&event);
        }
    });
    let found = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let found: Vec<&str> = found.lines().map(str::trim_start).collect();
    assert_eq!(found, LOG.lines().collect::<Vec<_>>());
}

const LOG: &str = r#"INFO 2 stories, 6 shots, 1 already made
WARN the memory index did not open; it is rebuilt from the commit records moved_to=/aside
WARN no plan: no disk story=neo attempt=1
DEBUG planned in 7.2 s story=neo attempt=1 repairs=1
WARN taken over from a worker that is dead story=neo from="w0"
INFO goes on after step 3 of 9 story=neo shot=01_02
TRACE step 4 of 9 story=neo shot=01_02
DEBUG saved after step 4 story=neo shot=01_02 seconds=0.25
WARN what was saved of it is not used: no disk story=neo shot=01_02
WARN no disk story=neo shot=01_02 attempt=1
DEBUG made in 4.2 s story=neo shot=01_02
INFO story finished story=neo
ERROR given up: no disk story=neo
ERROR in quarantine: no disk story=neo
ERROR set aside: no disk story=neo
WARN stopped early, 5 shots are saved; run the same again"#;

/// Times are another at each run.
fn without_times(value: &mut Value) {
    const TIMES: [&str; 7] = [
        "at", "begun", "ended", "recorded", "seconds", "pid", "process",
    ];
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match TIMES.contains(&key.as_str()) {
                    true => *value = Value::Null,
                    false => without_times(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_times),
        _ => {}
    }
}

#[test]
fn journal_lines_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let start = ShiftStart {
        run: "run".to_owned(),
        ..ShiftStart::default()
    };
    let journal = Journal::begin(folder.path(), "w1", start, 0.0, Duration::from_secs(3600));
    let story = StoryId::new("neo").unwrap();
    for event in all(&story) {
        journal.report(&event);
    }
    journal.end(ShiftEnd::Stopped);
    let file = crate::shift::shifts_folder(folder.path()).join("w1.jsonl");
    let found = std::fs::read_to_string(file).unwrap();
    let lines = found.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        without_times(&mut line);
        line
    });
    let found: Vec<Value> = lines.collect();
    let expected = JOURNAL
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    assert_eq!(found, expected.collect::<Vec<Value>>());
}

const JOURNAL: &str = r#"{"at":null,"kind":"begun","run":"run","host":"","pid":null,"rank":0,"world_size":0,"replica":0,"ranks":0,"device":"","version":""}
{"at":null,"kind":"loaded","seconds":null}
{"at":null,"kind":"index_rebuilt","moved_to":"/aside"}
{"at":null,"kind":"plan","story":"neo","attempt":1,"begun":null,"end":"failed","repairs":1,"tokens":300,"reason":"no disk"}
{"at":null,"kind":"plan","story":"neo","attempt":1,"begun":null,"end":"committed","repairs":1,"tokens":300}
{"at":null,"kind":"lease_taken","story":"neo","from":"w0"}
{"at":null,"kind":"checkpoint_ignored","story":"neo","shot":"01_02","reason":"no disk"}
{"at":null,"kind":"shot","story":"neo","shot":"01_02","attempt":1,"begun":null,"end":"failed","resumed_step":3,"stages":[{"stage":"denoise","begun":null,"seconds":null,"waited":0.5}],"saved":[{"step":4,"at":null}],"reason":"no disk"}
{"at":null,"kind":"story_finished","story":"neo"}
{"at":null,"kind":"story_failed","story":"neo","reason":"no disk"}
{"at":null,"kind":"quarantined","story":"neo","reason":"no disk"}
{"at":null,"kind":"ended","how":"stopped"}"#;
