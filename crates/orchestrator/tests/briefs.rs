//! Runs on briefs: what is planned, by whom, how far ahead, and what is left of it after errors.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storyloom_memory::storage::{Fault, FaultyDisk};
use storyloom_memory::{Disk, Storage};
use storyloom_orchestrator::cost::PlanCost;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::planning::ranks::{plan_briefs, reopen};
use storyloom_orchestrator::planning::{is_planned, read_plan};
use storyloom_orchestrator::repair::{CameTo, Repair, repair};
use storyloom_orchestrator::run::run_on;
use storyloom_orchestrator::seal::seal;
use storyloom_orchestrator::set_aside::marks;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::{Plans, status};
use storyloom_orchestrator::testing::planner::SimulatedPlanner;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{
    Engines, PlannerDescription, RunConfig, RunError, RunFolder, RunOutcome, StopAt, StopFlag,
    StoryPlanner, StoryState, quarantine,
};
use storyloom_story::{
    Brief, ErrorClass, Line, Outlook, PlanError, PlanRequest, Scene, Seed, Settle, ShotScript,
    StoryId, StoryScript,
};
use storyloom_telemetry::shift::{Journal, Shift, ShiftEnd, ShiftStart, read_shifts};
use storyloom_telemetry::{AttemptEnd, Reporter, Silent};

/// Small runs without videos, two stories side by side.
fn config(out: &Path) -> RunConfig {
    let settings = PipelineSettings::instant(out, 1, 1);
    plain_run(out, 2, &settings).unwrap().0
}

fn id(name: &str) -> StoryId {
    StoryId::new(name).unwrap()
}

fn brief(name: &str, shots: u32) -> Line {
    Line::Brief(Brief {
        title: Some(format!("The {name}")),
        shots,
        ..Brief::new(id(name))
    })
}

/// A story that has its script.
fn scripted(name: &str) -> Line {
    let shot = ShotScript {
        prompt: "A kettle on a stove.".to_owned(),
        first_frame_prompt: None,
        cut: true,
    };
    let script = StoryScript {
        name: None,
        overview: None,
        scenes: vec![Scene {
            number: 1,
            shots: vec![shot],
        }],
    };
    let Line::Brief(brief) = brief(name, 1) else {
        panic!("it is no brief")
    };
    Line::Story(brief.story(script))
}

fn three() -> Vec<Line> {
    vec![brief("kettle", 2), brief("lamp", 3), brief("watch", 1)]
}

fn folder(out: &Path) -> RunFolder {
    RunFolder::new(out, Arc::new(Disk))
}

fn checked(out: &Path) -> Verdict {
    verify(&folder(out), Depth::Frames).unwrap()
}

fn make(
    config: &RunConfig,
    lines: &[Line],
    planner: Option<&dyn StoryPlanner>,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    let engine = SimulatedEngine::default();
    let engines = Engines {
        engine: &engine,
        planner,
    };
    run_on(Arc::new(Disk), config, lines, &engines, reporter, stop)
}

/// As [`make`], one story at a time, with shots that take a second.
fn make_slowly(
    config: &RunConfig,
    lines: &[Line],
    planner: Option<&dyn StoryPlanner>,
) -> Result<RunOutcome, RunError> {
    let engine = SimulatedEngine {
        steps: 4,
        step_time: Duration::from_millis(250),
        ..SimulatedEngine::default()
    };
    let engines = Engines {
        engine: &engine,
        planner,
    };
    let config = RunConfig {
        interleave: 1,
        ..config.clone()
    };
    let stop = StopFlag::default();
    run_on(Arc::new(Disk), &config, lines, &engines, &Silent, &stop)
}

fn make_with(
    out: &Path,
    lines: &[Line],
    planner: &dyn StoryPlanner,
) -> Result<RunOutcome, RunError> {
    let stop = StopFlag::default();
    make(&config(out), lines, Some(planner), &Silent, &stop)
}

fn plan_only(
    storage: Arc<dyn Storage>,
    out: &Path,
    lines: &[Line],
    planner: &dyn StoryPlanner,
) -> Result<RunOutcome, RunError> {
    let (mut config, stop) = (config(out), StopFlag::default());
    // One that died in this process is believed to live.
    config.lease_timeout = Duration::from_millis(40);
    plan_briefs(storage, &config, lines, planner, &Silent, &stop)
}

/// Notes what it is asked, and answers what a test wants.
struct Meddling {
    inner: SimulatedPlanner,
    asked: Mutex<Vec<(StoryId, u32, Seed)>>,
    answer: Box<Answer>,
}

/// `None` leaves it to the simulated planner.
type Answer = dyn Fn(&PlanRequest) -> Option<PlanError> + Send + Sync;

impl Meddling {
    fn new(answer: impl Fn(&PlanRequest) -> Option<PlanError> + Send + Sync + 'static) -> Self {
        Self {
            inner: SimulatedPlanner {
                batch: 2,
                ..SimulatedPlanner::default()
            },
            asked: Mutex::default(),
            answer: Box::new(answer),
        }
    }

    fn willing() -> Self {
        Self::new(|_| None)
    }

    fn asked(&self) -> Vec<(StoryId, u32, Seed)> {
        self.asked.lock().unwrap().clone()
    }
}

impl StoryPlanner for Meddling {
    fn describe(&self) -> PlannerDescription {
        self.inner.describe()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn plan(&self, requests: &[PlanRequest], settle: &Settle) {
        assert!(requests.len() <= self.capacity());
        let mut asked = self.asked.lock().unwrap();
        asked.extend(
            requests
                .iter()
                .map(|request| (request.brief.id.clone(), request.attempt, request.seed)),
        );
        drop(asked);
        self.inner.plan(requests, &|place, planned| {
            settle(
                place,
                match (self.answer)(&requests[place]) {
                    Some(error) => Err(error),
                    None => planned,
                },
            );
        });
    }
}

fn error(class: ErrorClass, message: &str) -> Option<PlanError> {
    Some(PlanError {
        raw: "Once upon".to_owned(),
        ..PlanError::new(class, message)
    })
}

/// The digest over all frames of three stories whose scripts are written by hand from their plans.
#[test]
fn a_planned_story_is_the_story_of_its_script() {
    let out = tempfile::tempdir().unwrap();
    let planner = Meddling::willing();
    let outcome = make_with(out.path(), &three(), &planner).unwrap();
    assert_eq!((outcome.stories, outcome.done), (3, 3));
    let found = checked(out.path());
    assert!(found.ok, "{:?}", found.problems);
    assert_eq!(found.shots, 6);
    let look = status(&folder(out.path())).unwrap();
    assert_eq!(look.plans, Some(Plans { total: 3, done: 3 }));
    assert_eq!(planner.asked().len(), 3, "each is planned once");

    let by_hand = tempfile::tempdir().unwrap();
    let lines: Vec<Line> = three()
        .iter()
        .map(|line| {
            let plan = read_plan(&folder(out.path()), line.id()).unwrap().unwrap();
            assert_eq!(plan.seed, Seed::derive_plan(0, line.id(), 0));
            let Line::Brief(brief) = line else {
                panic!("it is no brief")
            };
            Line::Story(brief.story(plan.script))
        })
        .collect();
    let stop = StopFlag::default();
    make(&config(by_hand.path()), &lines, None, &Silent, &stop).unwrap();
    let same = checked(by_hand.path());
    assert_eq!(found.content_digest, same.content_digest);
    assert_eq!(status(&folder(by_hand.path())).unwrap().plans, None);
}

/// Every call of a planner rank that changes the disk fails once, also halfway; nothing that was
/// planned is planned again, and the end is always the same.
#[test]
fn a_planner_that_dies_anywhere_plans_only_what_is_missing() {
    let calm = tempfile::tempdir().unwrap();
    let counting = Arc::new(FaultyDisk::after(u64::MAX, Fault::Die));
    plan_only(
        counting.clone(),
        calm.path(),
        &three(),
        &Meddling::willing(),
    )
    .unwrap();
    let plans = |out: &Path| {
        let plan = |line: &Line| read_plan(&folder(out), line.id()).unwrap();
        three().iter().map(plan).collect::<Vec<_>>()
    };
    let digests = |out: &Path| -> Vec<_> {
        let plans = plans(out).into_iter().flatten();
        plans.map(|plan| (plan.script, plan.seed)).collect()
    };
    let faults = [
        Fault::Die,
        Fault::Refuse(std::io::ErrorKind::PermissionDenied),
    ];
    assert!(counting.calls() > 15, "{} calls", counting.calls());
    for at in 0..counting.calls() {
        let out = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::after(at, faults[at as usize % 2]));
        let _ = plan_only(disk, out.path(), &three(), &Meddling::willing());
        let there: BTreeSet<StoryId> = three()
            .iter()
            .map(|line| line.id().clone())
            .filter(|id| is_planned(&folder(out.path()), id))
            .collect();
        let second = Meddling::willing();
        plan_only(Arc::new(Disk), out.path(), &three(), &second).unwrap();
        let asked: BTreeSet<StoryId> = second.asked().into_iter().map(|(id, ..)| id).collect();
        assert!(asked.is_disjoint(&there), "planned again after call {at}");
        assert_eq!(asked.len() + there.len(), 3);
        assert_eq!(digests(out.path()), digests(calm.path()));
    }
}

#[test]
fn each_attempt_has_a_seed_of_its_own_and_the_last_one_decides() {
    let out = tempfile::tempdir().unwrap();
    let planner = Meddling::new(|request| match request.brief.id.as_str() {
        "lamp" => error(ErrorClass::Shot, "no lamp can be planned"),
        "watch" if request.attempt < 2 => error(ErrorClass::Shot, "not yet"),
        _ => None,
    });
    let outcome = make_with(out.path(), &three(), &planner).unwrap();
    assert_eq!((outcome.done, outcome.quarantined), (2, 1));
    let asked = planner.asked();
    for (story, last) in [("lamp", 2), ("watch", 2), ("kettle", 0)] {
        let of: Vec<_> = asked
            .iter()
            .filter(|(of, ..)| of.as_str() == story)
            .collect();
        let attempts: Vec<u32> = of.iter().map(|(_, attempt, _)| *attempt).collect();
        assert_eq!(attempts, (0..=last).collect::<Vec<_>>(), "{story}");
        for (_, attempt, seed) in of {
            assert_eq!(*seed, Seed::derive_plan(0, &id(story), *attempt));
        }
    }
    let plan = read_plan(&folder(out.path()), &id("watch"))
        .unwrap()
        .unwrap();
    assert_eq!(plan.attempt, 2);

    let aside = quarantine::list(&folder(out.path())).unwrap();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].reason.contains("no lamp can be planned"));
    let line = out.path().join("quarantine/lamp/manifest.jsonl");
    let line: Brief = serde_json::from_str(&std::fs::read_to_string(line).unwrap()).unwrap();
    assert_eq!(line.title.as_deref(), Some("The lamp"));
    let text = out.path().join("quarantine/lamp/text.txt");
    assert_eq!(std::fs::read_to_string(text).unwrap(), "Once upon");
    assert!(!checked(out.path()).ok);

    // Left alone until it is let back.
    let again = Meddling::willing();
    assert_eq!(
        make_with(out.path(), &three(), &again).unwrap().quarantined,
        1
    );
    assert!(again.asked().is_empty());
    assert_eq!(
        quarantine::release(&folder(out.path()), &[]).unwrap(),
        [id("lamp")]
    );
    assert_eq!(make_with(out.path(), &three(), &again).unwrap().done, 3);
    assert_eq!(again.asked().len(), 1);
    assert!(checked(out.path()).ok);
}

#[test]
fn a_transient_error_does_not_change_the_seed() {
    let out = tempfile::tempdir().unwrap();
    let times = Mutex::new(0);
    let planner = Meddling::new(move |request| {
        let mut times = times.lock().unwrap();
        *times += u32::from(request.brief.id.as_str() == "lamp");
        match request.brief.id.as_str() {
            "lamp" if *times == 1 => error(ErrorClass::Transient, "the line is busy"),
            _ => None,
        }
    });
    assert_eq!(make_with(out.path(), &three(), &planner).unwrap().done, 3);
    let lamps = planner.asked();
    let lamps: Vec<_> = lamps
        .iter()
        .filter(|(of, ..)| of.as_str() == "lamp")
        .collect();
    assert_eq!(lamps.len(), 2);
    assert_eq!(lamps[0], lamps[1]);
}

#[test]
fn a_planner_that_is_away_ends_the_run() {
    let out = tempfile::tempdir().unwrap();
    let planner = Meddling::new(|_| error(ErrorClass::ServiceAway, "nobody answers"));
    let ended = make_with(out.path(), &three(), &planner).unwrap_err();
    assert_eq!(ended.class(), ErrorClass::ServiceAway);
    let message = ended.to_string();
    for word in [
        "nobody answers",
        "3 briefs are not planned: lamp, kettle, watch;",
        "same command",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(
        make_with(out.path(), &three(), &Meddling::willing())
            .unwrap()
            .done,
        3
    );
}

/// A few stories that take a second each, one at a time, and a planner that is away for some tries:
/// as long as stories are made, it is asked again.
#[test]
fn a_planner_that_comes_back_is_used() {
    let out = tempfile::tempdir().unwrap();
    let tries = Mutex::new(0);
    let planner = Meddling::new(move |_| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        // The first batch has two.
        (*tries <= 2).then(|| error(ErrorClass::ServiceAway, "nobody answers").unwrap())
    });
    let told = (0..3).map(|number| scripted(&format!("told-{number}")));
    let lines = [three(), told.collect()].concat();
    let outcome = make_slowly(&config(out.path()), &lines, Some(&planner)).unwrap();
    assert_eq!((outcome.stories, outcome.done), (6, 6));
    assert_eq!(planner.asked().len(), 2 + 3);
    let plans: Vec<u32> = planner.asked().iter().map(|asked| asked.1).collect();
    assert_eq!(plans, [0; 5], "that is no attempt of a brief");
    assert!(checked(out.path()).ok);
}

/// With one that stays away all that has a script is made, also what was planned before.
#[test]
fn what_is_planned_is_made_while_the_planner_is_away() {
    let out = tempfile::tempdir().unwrap();
    let lines = [three(), vec![scripted("told")]].concat();
    plan_only(
        Arc::new(Disk),
        out.path(),
        &lines[..1],
        &Meddling::willing(),
    )
    .unwrap();
    let away = Meddling::new(|_| error(ErrorClass::ServiceAway, "nobody answers"));
    let ended = make_slowly(&config(out.path()), &lines, Some(&away)).unwrap_err();
    assert_eq!(ended.class(), ErrorClass::ServiceAway);
    assert!(
        ended
            .to_string()
            .contains("2 briefs are not planned: lamp, watch;"),
        "{ended}"
    );
    for (line, done) in lines.iter().zip([true, false, false, true]) {
        let state = folder(out.path()).story_file(line.id()).unwrap().state;
        let wanted = if done {
            StoryState::Done
        } else {
            StoryState::Pending
        };
        assert_eq!(state, wanted, "{}", line.id());
    }
    // Nobody asks it where nothing is left to plan.
    let never = Meddling::new(|_| error(ErrorClass::ServiceAway, "nobody answers"));
    let planned = [lines[0].clone(), lines[3].clone()];
    assert_eq!(make_with(out.path(), &planned, &never).unwrap().done, 2);
    assert!(never.asked().is_empty());
}

/// As in a world with ranks that plan: those who make stories make all that there is, and end when
/// the planner was asked once more.
#[test]
fn others_that_cannot_plan_say_so() {
    let out = tempfile::tempdir().unwrap();
    let lines = [three(), vec![scripted("told")]].concat();
    let away = Meddling::new(|_| error(ErrorClass::ServiceAway, "nobody answers"));
    let (settings, stop) = (config(out.path()), StopFlag::default());
    let folder = folder(out.path());
    reopen(&folder, &lines).unwrap();
    std::thread::scope(|scope| {
        let plans = scope.spawn(|| {
            let disk = Arc::new(Disk);
            plan_briefs(disk, &settings, &lines, &away, &Silent, &stop).unwrap()
        });
        let ended = make(&settings, &lines, None, &Silent, &StopFlag::default()).unwrap_err();
        assert_eq!(ended.class(), ErrorClass::ServiceAway);
        assert!(
            ended.to_string().contains("3 briefs are not planned: lamp"),
            "{ended}"
        );
        let told = folder.story_file(lines[3].id()).unwrap();
        assert_eq!(told.state, StoryState::Done);
        // The world ends.
        stop.set(StopAt::Step);
        assert!(plans.join().unwrap().stopped);
    });
    assert!(!out.path().join("planner-away.json").exists());
    let outcome = make_with(out.path(), &lines, &Meddling::willing()).unwrap();
    assert_eq!(outcome.done, 4);
}

/// Each plan is written when it is there, not with the last of its batch.
#[test]
fn a_plan_is_written_before_the_next_of_its_batch_is_there() {
    let out = tempfile::tempdir().unwrap();
    let (root, seen) = (out.path().to_owned(), Arc::new(Mutex::new(Vec::new())));
    let notes = seen.clone();
    let planner = Meddling::new(move |_| {
        let folder = folder(&root);
        let there = three();
        let there = there.iter().filter(|line| is_planned(&folder, line.id()));
        notes.lock().unwrap().push(there.count());
        None
    });
    plan_only(Arc::new(Disk), out.path(), &three(), &planner).unwrap();
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2], "two at once, then one");
    // One that fails keeps none of the others.
    let other = tempfile::tempdir().unwrap();
    let picky = Meddling::new(|request| match request.brief.id.as_str() {
        "lamp" => error(ErrorClass::ServiceAway, "nobody answers"),
        _ => None,
    });
    make_with(other.path(), &three(), &picky).unwrap_err();
    for (line, there) in three().iter().zip([true, false, true]) {
        let plan = |out: &Path| read_plan(&folder(out), line.id()).unwrap();
        let script = plan(other.path()).map(|plan| plan.script);
        let wanted = plan(out.path()).filter(|_| there).map(|plan| plan.script);
        assert_eq!(script, wanted, "{}", line.id());
    }
}

/// What has its script is made before the run ends with the planner's error; nobody is set aside.
#[test]
fn stories_with_scripts_are_made_although_the_planner_is_wrong() {
    let out = tempfile::tempdir().unwrap();
    let lines = [three(), vec![scripted("told")]].concat();
    let planner = Meddling::new(|_| error(ErrorClass::Run, "no such model"));
    let ended = make_with(out.path(), &lines, &planner).unwrap_err();
    assert_eq!(ended.class(), ErrorClass::Run);
    assert_eq!(planner.asked().len(), 2, "one batch");
    for line in &lines {
        let state = folder(out.path()).story_file(line.id()).unwrap().state;
        match line {
            Line::Story(_) => assert_eq!(state, StoryState::Done),
            Line::Brief(_) => assert_eq!(state, StoryState::Pending),
        }
    }
    let outcome = make_with(out.path(), &lines, &Meddling::willing()).unwrap();
    assert_eq!((outcome.stories, outcome.quarantined), (4, 0));
}

/// A brief that no seed helps is tried once.
#[test]
fn what_is_hopeless_is_not_tried_again() {
    let out = tempfile::tempdir().unwrap();
    let planner = Meddling::new(|request| {
        let hopeless = PlanError {
            outlook: Outlook::Hopeless,
            ..PlanError::of_brief("the rules write English")
        };
        (request.brief.id.as_str() == "lamp").then_some(hopeless)
    });
    let outcome = make_with(out.path(), &three(), &planner).unwrap();
    assert_eq!((outcome.done, outcome.quarantined), (2, 1));
    assert_eq!(planner.asked().len(), 3);
}

/// Planned stories that nobody has begun are never more than the look-ahead, however fast the
/// planner is.
#[test]
fn planning_is_ahead_but_not_far() {
    let out = tempfile::tempdir().unwrap();
    let lines: Vec<Line> = (0..24).map(|n| brief(&format!("ad-{n}"), 2)).collect();
    let (root, names): (_, Vec<StoryId>) = (
        out.path().to_owned(),
        lines.iter().map(|line| line.id().clone()).collect(),
    );
    let most = Arc::new(Mutex::new(0));
    let seen = most.clone();
    let planner = Meddling::new(move |_| {
        let folder = folder(&root);
        let waits = |id: &&StoryId| {
            is_planned(&folder, id) && folder.story_file(id).unwrap().state == StoryState::Pending
        };
        let mut most = seen.lock().unwrap();
        *most = names.iter().filter(waits).count().max(*most);
        None
    });
    let mut config = config(out.path());
    config.planning.ahead = 3;
    let stop = StopFlag::default();
    let outcome = make(&config, &lines, Some(&planner), &Silent, &stop).unwrap();
    assert_eq!(outcome.done, 24);
    // Two that were taken may not have said so yet.
    let most = *most.lock().unwrap();
    assert!((1..=3 + 2).contains(&most), "{most} planned stories waited");
}

/// A planner rank beside programs that make stories and do not plan, as in a world with
/// `topology.planners`.
#[test]
fn others_may_plan() {
    let out = tempfile::tempdir().unwrap();
    let lines: Vec<Line> = (0..8).map(|n| brief(&format!("ad-{n}"), 2)).collect();
    let planner = Meddling::new(|request| match request.brief.id.as_str() {
        "ad-5" => error(ErrorClass::Shot, "never"),
        _ => None,
    });
    let mut settings = config(out.path());
    settings.planning.ahead = 1;
    settings.replicas = 2;
    let settings = &settings;
    std::thread::scope(|scope| {
        let plans = scope.spawn(|| {
            let (disk, stop) = (Arc::new(Disk), StopFlag::default());
            plan_briefs(disk, settings, &lines, &planner, &Silent, &stop).unwrap()
        });
        let replicas: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| make(settings, &lines, None, &Silent, &StopFlag::default())))
            .collect();
        for replica in replicas {
            let outcome = replica.join().unwrap().unwrap();
            assert_eq!((outcome.done, outcome.quarantined), (7, 1));
        }
        assert_eq!(plans.join().unwrap().quarantined, 1);
    });
    let attempts = planner.asked().len();
    assert_eq!(
        attempts,
        7 + 3,
        "each is planned once, one is tried three times"
    );
    quarantine::release(&folder(out.path()), &[]).unwrap();
    make_with(out.path(), &lines, &Meddling::willing()).unwrap();
    assert!(checked(out.path()).ok);
}

/// What planner ranks gave up for now is tried again by the next start, and known to those who
/// only wait.
#[test]
fn what_was_given_up_for_now_is_opened_again() {
    let out = tempfile::tempdir().unwrap();
    plan_only(
        Arc::new(Disk),
        out.path(),
        &three()[..1],
        &Meddling::willing(),
    )
    .unwrap();
    let folder = folder(out.path());
    let lines = three();
    let run = config(out.path());
    let mut file = folder.admit(&run, &lines).unwrap().remove(1).into_file();
    assert_eq!(file.id, id("lamp"));
    file.state = StoryState::Failed {
        shot: None,
        reason: "the line was busy".to_owned(),
    };
    folder.write_story(&file).unwrap();
    let mut seen = Vec::new();
    let outcome = make(&run, &lines[1..2], None, &Silent, &StopFlag::default()).unwrap();
    assert_eq!(outcome.failed, 1, "who only waits gives it up as well");
    reopen(&folder, &lines).unwrap();
    for line in &lines[..2] {
        seen.push(folder.story_file(line.id()).unwrap().state);
    }
    assert_eq!(seen, vec![StoryState::Pending; 2]);
    assert_eq!(
        make_with(out.path(), &lines, &Meddling::willing())
            .unwrap()
            .done,
        3
    );
}

#[test]
fn a_run_that_is_asked_to_stop_while_it_plans_ends_soon() {
    let out = tempfile::tempdir().unwrap();
    let stop = StopFlag::default();
    let planner = SimulatedPlanner {
        cost: PlanCost {
            seconds: 3600.0,
            per_shot: 0.0,
        },
        batch: 1,
        stop: stop.clone(),
    };
    let settings = config(out.path());
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| make(&settings, &three(), Some(&planner), &Silent, &stop));
        std::thread::sleep(Duration::from_millis(100));
        stop.set(StopAt::Shot);
        run.join().unwrap().unwrap()
    });
    assert!(outcome.stopped);
    assert_eq!(
        make_with(out.path(), &three(), &Meddling::willing())
            .unwrap()
            .done,
        3
    );
}

#[test]
fn verify_finds_plans_that_are_not_what_they_claim() {
    let out = tempfile::tempdir().unwrap();
    make_with(out.path(), &three(), &Meddling::willing()).unwrap();
    let said = || -> Vec<String> {
        let problems = checked(out.path()).problems.into_iter();
        problems.map(|problem| problem.message).collect()
    };
    assert!(said().is_empty());
    let edit = |file: &str, from: &str, to: &str, expected: &str| {
        let path = out.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = text.replacen(from, to, 1);
        assert_ne!(text, edited, "{from}");
        let mut edited: serde_json::Value = serde_json::from_str(&edited).unwrap();
        if file.ends_with("story.json") {
            seal(edited.as_object_mut().unwrap());
        }
        std::fs::write(&path, edited.to_string()).unwrap();
        let found = said();
        std::fs::write(&path, text).unwrap();
        assert!(
            found.iter().any(|problem| problem.contains(expected)),
            "{file}: {found:?}"
        );
    };
    let plan = "stories/lamp/plan.json";
    edit(plan, "Shot 2", "Shot 7", "changed after it was written");
    let story = "stories/lamp/story.json";
    edit(
        story,
        "Shot 2",
        "Shot 7",
        "its script is not that of its plan",
    );
    edit(
        story,
        "\"title\": \"The",
        "\"title\": \"A",
        "planned from another brief",
    );
    edit(
        story,
        "\"seed\": null",
        "\"seed\": 5",
        "the seed of its plan",
    );
    edit("planner.json", "simulated", "rules", "by another planner");
    let path = out.path().join(plan);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(said().contains(&"its brief was not planned".to_owned()));
    // A sound plan of another planner in its place: the shots know which they followed.
    let other = tempfile::tempdir().unwrap();
    plan_only(Arc::new(Disk), other.path(), &three(), &Meddling::willing()).unwrap();
    std::fs::copy(other.path().join(plan), &path).unwrap();
    assert!(said().contains(&"it does not follow the story's plan".to_owned()));
    std::fs::write(&path, bytes).unwrap();
    assert!(said().is_empty());
}

#[test]
fn another_brief_is_set_aside_and_the_others_go_on() {
    let out = tempfile::tempdir().unwrap();
    make_with(out.path(), &three(), &Meddling::willing()).unwrap();
    let mut lines = three();
    lines[0] = brief("kettle", 5);
    let before = checked(out.path());
    let outcome = make_with(out.path(), &lines, &Meddling::willing()).unwrap();
    assert_eq!((outcome.done, outcome.set_aside), (2, 1));
    assert_eq!(checked(out.path()), before, "what was made stays as it was");
    let marked = marks(&folder(out.path())).unwrap();
    let reason = &marked[&id("kettle")];
    assert!(reason.starts_with("its brief has changed"), "{reason}");
    // Who it is for is no other brief.
    let Line::Brief(kettle) = brief("kettle", 2) else {
        panic!("it is no brief")
    };
    lines[0] = Line::Brief(Brief {
        tenant: Some("t".to_owned()),
        priority: 4,
        ..kettle
    });
    assert_eq!(
        make_with(out.path(), &lines, &Meddling::willing())
            .unwrap()
            .done,
        3
    );
    assert!(marks(&folder(out.path())).unwrap().is_empty());
}

/// The journal of a planner rank: what it planned is useful time, what it waited is idle.
#[test]
fn time_of_planning_is_accounted_for() {
    let out = tempfile::tempdir().unwrap();
    let start = ShiftStart {
        ranks: 1,
        plans_only: true,
        ..ShiftStart::default()
    };
    let now = storyloom_orchestrator::status::now();
    let journal = Journal::begin(out.path(), "p", start, now, Duration::from_millis(50));
    let planner = SimulatedPlanner {
        cost: PlanCost {
            seconds: 0.1,
            per_shot: 0.0,
        },
        ..SimulatedPlanner::default()
    };
    let (disk, stop) = (Arc::new(Disk), StopFlag::default());
    plan_briefs(
        disk,
        &config(out.path()),
        &three(),
        &planner,
        &journal,
        &stop,
    )
    .unwrap();
    journal.end(ShiftEnd::Done);
    let shifts = read_shifts(out.path()).unwrap();
    let [Shift { plans, .. }] = &shifts[..] else {
        panic!("{shifts:?}")
    };
    assert_eq!(plans.len(), 3);
    assert!(
        plans
            .iter()
            .all(|plan| plan.end == Some(AttemptEnd::Committed))
    );
    use storyloom_telemetry::shift::{Extent, accounting};
    let total = accounting(&shifts, now + 1e6, Extent::Everything).total();
    assert!(total.useful >= 0.3 && total.wasted == 0.0, "{total:?}");
    assert!((journal.settled().useful - total.useful).abs() < 0.2);
}

type Damage = fn(&Path);

fn damages() -> [(&'static str, Damage); 6] {
    use std::fs::{create_dir, read, remove_file, write};
    [
        ("gone", |path| remove_file(path).unwrap()),
        ("empty", |path| write(path, b"").unwrap()),
        ("cut", |path| {
            let bytes = read(path).unwrap();
            write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a flipped bit", |path| {
            let mut bytes = read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            write(path, bytes).unwrap();
        }),
        ("a folder", |path| {
            remove_file(path).unwrap();
            create_dir(path).unwrap();
        }),
        ("a link to itself", |path| {
            remove_file(path).unwrap();
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
    ]
}

/// Has planned nothing here.
struct Stranger;

impl StoryPlanner for Stranger {
    fn describe(&self) -> PlannerDescription {
        PlannerDescription {
            backend: "another".to_owned(),
            recipe: serde_json::json!({}),
        }
    }

    fn plan(&self, _requests: &[PlanRequest], _settle: &Settle) {}
}

/// Nothing was made of it: the same seed makes the same plan.
#[test]
fn a_damaged_plan_is_made_again_before_the_first_shot() {
    let calm = tempfile::tempdir().unwrap();
    make_with(calm.path(), &three(), &Meddling::willing()).unwrap();
    let wanted = checked(calm.path());
    for (what, damage) in damages() {
        let out = tempfile::tempdir().unwrap();
        plan_only(Arc::new(Disk), out.path(), &three(), &Meddling::willing()).unwrap();
        let plan = out.path().join("stories/lamp/plan.json");
        damage(&plan);
        let planner = Meddling::willing();
        let outcome = make_with(out.path(), &three(), &planner).unwrap();
        assert_eq!(outcome.done, 3, "{what}");
        assert_eq!(
            planner.asked(),
            [(id("lamp"), 0, Seed::derive_plan(0, &id("lamp"), 0))]
        );
        let verdict = checked(out.path());
        assert_eq!(verdict, wanted, "{what}");
        let aside = plan.with_file_name("plan.json.damaged-1");
        assert_eq!(aside.symlink_metadata().is_ok(), what != "gone", "{what}");
    }
}

/// The shots name the plan that is lost; its script is known.
#[test]
fn the_plan_of_a_story_that_was_begun_comes_back_with_its_script() {
    for (what, damage) in damages() {
        let out = tempfile::tempdir().unwrap();
        make_with(out.path(), &three(), &Meddling::willing()).unwrap();
        let wanted = checked(out.path());
        let before = read_plan(&folder(out.path()), &id("lamp"))
            .unwrap()
            .unwrap();
        let story = out.path().join("stories/lamp");
        damage(&story.join("plan.json"));
        // Its last shot is missing as well, so that somebody goes on with it.
        std::fs::remove_file(story.join("commits/01_03.json")).unwrap();
        assert!(!checked(out.path()).ok);
        make_with(out.path(), &three(), &Meddling::willing()).unwrap();
        assert_eq!(checked(out.path()), wanted, "{what}");
        let after = read_plan(&folder(out.path()), &id("lamp"))
            .unwrap()
            .unwrap();
        assert_eq!(
            (after.script, after.restored),
            (before.script, Some(before.digest))
        );
        assert!(after.notes[0].contains("was lost"));
    }
}

#[test]
fn who_plans_a_run_is_found_in_its_plans() {
    for (what, damage) in damages() {
        let out = tempfile::tempdir().unwrap();
        plan_only(Arc::new(Disk), out.path(), &three(), &Meddling::willing()).unwrap();
        let path = out.path().join("planner.json");
        let before = std::fs::read(&path).unwrap();
        damage(&path);
        if what != "gone" {
            let refused = make_with(out.path(), &three(), &Stranger).unwrap_err();
            assert!(
                refused.to_string().contains("use that planner again"),
                "{refused}"
            );
        }
        assert_eq!(
            make_with(out.path(), &three(), &Meddling::willing())
                .unwrap()
                .done,
            3
        );
        assert_eq!(std::fs::read(&path).unwrap(), before, "{what}");
        assert!(checked(out.path()).ok);
    }
}

/// Nothing is left of the plan but what the shots were made from.
#[test]
fn a_plan_that_is_lost_with_its_story_is_the_same_again() {
    for (what, damage) in damages() {
        let out = tempfile::tempdir().unwrap();
        make_with(out.path(), &three(), &Meddling::willing()).unwrap();
        let wanted = checked(out.path());
        let before = read_plan(&folder(out.path()), &id("lamp"))
            .unwrap()
            .unwrap();
        let story = out.path().join("stories/lamp");
        std::fs::remove_file(story.join("story.json")).unwrap();
        damage(&story.join("plan.json"));
        let outcome = make_with(out.path(), &three(), &Meddling::willing()).unwrap();
        assert_eq!(outcome.done, 3, "{what}");
        assert_eq!(checked(out.path()), wanted, "{what}");
        let after = read_plan(&folder(out.path()), &id("lamp"))
            .unwrap()
            .unwrap();
        assert_eq!(after.restored, Some(before.digest), "{what}");
    }
}

/// A word of a planned script that no shot was made from: the plan still says it.
#[test]
fn a_script_that_is_not_its_plans_is_read_from_the_plan_again() {
    let out = tempfile::tempdir().unwrap();
    make_with(out.path(), &three(), &Meddling::willing()).unwrap();
    let wanted = checked(out.path());
    let path = out.path().join("stories/lamp/story.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["script"]["story_overview"] = "Another overview.".into();
    seal(file.as_object_mut().unwrap());
    std::fs::write(&path, file.to_string()).unwrap();
    assert!(!checked(out.path()).ok);
    let how = Repair {
        stories: &[],
        anew: false,
        lease_timeout: Duration::from_secs(1),
    };
    let found = repair(&folder(out.path()), &how).unwrap();
    assert!(found.came_to(CameTo::ToMake), "{found:?}");
    assert_eq!(
        make_with(out.path(), &three(), &Meddling::willing())
            .unwrap()
            .done,
        3
    );
    assert_eq!(checked(out.path()), wanted);
}
