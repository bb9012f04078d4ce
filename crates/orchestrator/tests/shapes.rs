//! Every method in the shape that it has: a clip in one pass, a clip of what a network chose of its memory, a
//! picture, and a keyframe with the clip that begins with it. The same is asked of all of them.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use storyloom_memory::pictures::encode_png;
use storyloom_memory::storage::{Fault, FaultyDisk};
use storyloom_memory::{Disk, ShotRecord, Storage};
use storyloom_orchestrator::memory_view::story_memory;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::repair::{Repair, repair};
use storyloom_orchestrator::report::write_report;
use storyloom_orchestrator::run::{Engines, run, run_on};
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::status;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{
    CheckpointSettings, RunConfig, RunFolder, RunOutcome, StopAt, StopFlag, Videos,
};
use storyloom_story::{Line, Manifest, Media, Method, RgbImage, ShotId, StoryId};
use storyloom_telemetry::{Event, Reporter, ShotEvent, Silent};

/// A run of two stories of three shots; the first has a reference image.
struct Made {
    root: tempfile::TempDir,
    config: RunConfig,
    manifest: Manifest,
}

impl Made {
    /// Nothing is made yet.
    fn of(method: Method) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos: Videos::Placeholders,
            ..PipelineSettings::instant(root.path(), 6, 3)
        };
        let (mut config, mut manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        let hero = RgbImage::new(64, 48, vec![90; 64 * 48 * 3]).unwrap();
        fs::write(root.path().join("hero.png"), encode_png(&hero).unwrap()).unwrap();
        config.input_folder = root.path().to_owned().into();
        config.method = method;
        config.interleave = 2;
        config.checkpoint = CheckpointSettings::Every(1);
        manifest.stories[0].reference_images = vec!["hero.png".to_owned()];
        Self {
            root,
            config,
            manifest,
        }
    }

    fn start(&self, reporter: &dyn Reporter, stop: &StopFlag) -> RunOutcome {
        let engine = SimulatedEngine::default();
        run(&self.config, &self.manifest, &engine, reporter, stop).unwrap()
    }

    fn make(&self) -> RunOutcome {
        self.start(&Silent, &StopFlag::default())
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, Arc::new(Disk))
    }

    fn verdict(&self) -> Verdict {
        verify(&self.folder(), Depth::Frames).unwrap()
    }

    fn story(&self, number: usize) -> PathBuf {
        self.folder().story(&self.manifest.stories[number].id)
    }

    fn record(&self, story: usize, shot: &str) -> ShotRecord {
        let path = self.story(story).join(format!("commits/{shot}.json"));
        ShotRecord::open(&path, &fs::read(&path).unwrap()).unwrap()
    }
}

/// The digest of a run that nobody disturbs.
fn calm(method: Method) -> String {
    let made = Made::of(method);
    assert_eq!(made.make().done, 2);
    let verdict = made.verdict();
    assert!(verdict.ok, "{method}: {:?}", verdict.problems);
    assert_eq!(verdict.shots_proven, 6);
    verdict.content_digest.unwrap()
}

#[test]
fn each_shape_is_made_proven_and_shown() {
    let mut digests = Vec::new();
    for method in Method::KNOWN {
        let made = Made::of(method);
        let outcome = made.make();
        let states = made
            .manifest
            .stories
            .iter()
            .map(|story| made.folder().story_file(&story.id).unwrap().state);
        assert_eq!(
            outcome.done,
            2,
            "{method}: {:?}",
            states.collect::<Vec<_>>()
        );
        let verdict = made.verdict();
        assert!(verdict.ok, "{method}: {:?}", verdict.problems);
        digests.push(verdict.content_digest.unwrap());
        let found = status(&made.folder()).unwrap();
        assert_eq!((found.stories.done, found.shots.done), (2, 6), "{method}");
        let profile = method.profile();
        for shot in ["01_01", "01_02", "01_03"] {
            let record = made.record(0, shot);
            assert_eq!(record.format(), profile.record_format, "{method}");
            let file = profile.media.file_name(record.request().shot);
            assert_eq!(record.file().file, file, "{method}");
            assert!(made.story(0).join(file).is_file(), "{method}");
        }
        let film = made.story(0).join("story.mp4");
        assert_eq!(film.is_file(), profile.media == Media::Clip, "{method}");
        write_report(&made.folder()).unwrap();
        let id = &made.manifest.stories[0].id;
        let page = made.config.out.join(format!("report/stories/{id}.html"));
        let page = fs::read_to_string(page).unwrap();
        let shows_picture = page.contains("01_03.png");
        assert_eq!(shows_picture, profile.media == Media::Picture, "{method}");
        let has_film = page.contains("<dt>Film</dt>");
        assert_eq!(has_film, profile.media == Media::Clip, "{method}");
    }
    digests.dedup();
    assert_eq!(
        digests.len(),
        Method::KNOWN.len(),
        "methods make different things"
    );
}

#[test]
fn each_shape_remembers_what_its_method_keeps() {
    let third = ShotId { scene: 1, shot: 3 };
    let seen = |method| {
        let made = Made::of(method);
        made.make();
        let id = &made.manifest.stories[0].id;
        let memory = story_memory(&made.folder(), id, Some(third)).unwrap();
        (memory.shots[0].saw.clone(), made.record(0, "01_03"))
    };
    let reference = "keyframes/00_00_keyframe0.png";
    let (storymem, _) = seen(Method::StoryMem);
    assert_eq!(storymem[0], reference);
    // Narrative Weaver and MovieDreamer see one item of each shot, with its picture.
    let (weaver, record) = seen(Method::NarrativeWeaver);
    assert_eq!(weaver, [reference, "01_01.png", "01_02.png"]);
    assert_eq!(record.frame_count(), 1);
    let pictures = [
        reference,
        "keyframes/01_01_keyframe0.png",
        "keyframes/01_02_keyframe0.png",
    ];
    let (movie, record) = seen(Method::MovieDreamer);
    assert_eq!(movie, pictures);
    let passes = record.passes();
    let names: Vec<&str> = passes.iter().map(|pass| pass.pass.as_str()).collect();
    assert_eq!(names, ["keyframe", "clip"]);
    assert_eq!(passes[0].frame_count, 1);
    let arrays: Vec<String> = record.kept()[0].arrays.keys().cloned().collect();
    assert_eq!(arrays, ["tokens"]);
    // OneStory keeps latents without a picture, and sees what its network chose, in their order.
    let (one, record) = seen(Method::OneStory);
    assert!(record.kept()[0].picture.is_none());
    let offered = [reference, "01_01#0", "01_02#0"];
    let mut rest = offered.iter();
    assert!(
        one.iter().all(|name| rest.any(|known| known == name)),
        "{one:?}"
    );
}

/// Of five items the network sees three.
#[test]
fn what_a_network_did_not_choose_is_not_seen() {
    let mut made = Made::of(Method::OneStory);
    let script = &mut made.manifest.stories[0].script.scenes[0];
    let more = script.shots.clone();
    script.shots.extend(more);
    made.make();
    let verdict = made.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let record = made.record(0, "01_06");
    assert_eq!(record.seen().len(), 3, "of six");
    // Another choice is no proof of what was seen, but one that nobody kept is no choice.
    let ShotRecord::V2(mut other) = record else {
        panic!("OneStory writes format 2");
    };
    other.seen[0].blake3 = other.seen[0].blake3.chars().rev().collect();
    let path = made.story(0).join("commits/01_06.json");
    let bytes = ShotRecord::V2(other.clone()).seal().unwrap();
    fs::write(&path, bytes).unwrap();
    assert!(told(&made.verdict(), "the memory it claims"));
    other = match made_again(&made, &path) {
        ShotRecord::V2(record) => record,
        ShotRecord::V1(_) => panic!("OneStory writes format 2"),
    };
    other.method = storyloom_memory::ledger::record::v2::MethodRecord::OneStory { offered: 9 };
    fs::write(&path, ShotRecord::V2(other).seal().unwrap()).unwrap();
    assert!(told(&made.verdict(), "what it says of onestory"));
}

fn told(verdict: &Verdict, words: &str) -> bool {
    let mut problems = verdict.problems.iter();
    problems.any(|problem| problem.message.contains(words))
}

/// The record of a shot whose own one is thrown away.
fn made_again(made: &Made, path: &Path) -> ShotRecord {
    fs::remove_file(path).unwrap();
    made.make();
    ShotRecord::open(path, &fs::read(path).unwrap()).unwrap()
}

/// Asks to stop at the `left`-th saved step.
struct StopAfter<'a> {
    left: AtomicUsize,
    stop: &'a StopFlag,
}

impl Reporter for StopAfter<'_> {
    fn report(&self, event: &Event) {
        if let Event::Shot {
            event: ShotEvent::StepFinished { .. },
            ..
        } = event
            && self.left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.stop.set(StopAt::Step);
        }
    }
}

#[test]
fn each_shape_goes_on_from_any_step() {
    for method in Method::KNOWN {
        let wanted = calm(method);
        let made = Made::of(method);
        let mut starts = 0;
        // Five steps at a time, and a few of them are of a second pass.
        loop {
            let stop = StopFlag::default();
            let reporter = StopAfter {
                left: AtomicUsize::new(5),
                stop: &stop,
            };
            starts += 1;
            if !made.start(&reporter, &stop).stopped {
                break;
            }
            assert!(starts < 60, "{method} gets nowhere");
        }
        assert!(starts > 3, "{method} was stopped {starts} times");
        let verdict = made.verdict();
        assert!(verdict.ok, "{method}: {:?}", verdict.problems);
        assert_eq!(verdict.content_digest, Some(wanted), "{method}");
    }
}

/// Every call that changes the file system is refused once, or is the last before the machine goes off; the
/// next start ends with the same content.
#[test]
fn each_shape_survives_every_failing_call() {
    /// In milliseconds. Signs of life are calls, too: there should be none.
    const DAY: u64 = 24 * 3600 * 1000;
    for method in Method::KNOWN {
        let mut calm = Made::of(method);
        calm.manifest.stories.truncate(1);
        calm.manifest.stories[0].script.scenes[0].shots.truncate(2);
        calm.config.interleave = 1;
        calm.config.checkpoint = CheckpointSettings::Every(2);
        let lines: Vec<Line> = calm
            .manifest
            .stories
            .iter()
            .cloned()
            .map(Line::Story)
            .collect();
        let make = |storage: Arc<dyn Storage>, out: &Path, lease_timeout: u64| {
            let mut config = calm.config.clone();
            config.out = out.to_owned();
            config.lease_timeout = Duration::from_millis(lease_timeout);
            let engines = Engines {
                engine: &SimulatedEngine::default(),
                planner: None,
            };
            let stop = StopFlag::default();
            run_on(storage, &config, &lines, &engines, &Silent, &stop)
        };
        let counting = Arc::new(FaultyDisk::after(u64::MAX, Fault::Die));
        make(counting.clone(), &calm.config.out, DAY).unwrap();
        let verdict = calm.verdict();
        assert!(verdict.ok, "{method}: {:?}", verdict.problems);
        let calls = counting.calls();
        assert!(calls >= 100, "{method}: only {calls} points");
        let faults = [Fault::Die, Fault::Refuse(std::io::ErrorKind::Interrupted)];
        // Every eleventh, and each method begins with another one.
        let first = method as u64;
        for at in (first..calls).step_by(11) {
            let fault = faults[(at / 11) as usize % 2];
            let out = tempfile::tempdir().unwrap();
            let begun = make(Arc::new(FaultyDisk::after(at, fault)), out.path(), DAY);
            drop(begun);
            // The first program's process is this one, so that it seems to be alive.
            let outcome = make(Arc::new(Disk), out.path(), 40);
            let outcome =
                outcome.unwrap_or_else(|error| panic!("{method} {fault:?} {at}: {error}"));
            assert_eq!(outcome.done, 1, "{method} {fault:?} {at}");
            let folder = RunFolder::new(out.path(), Arc::new(Disk));
            let found = verify(&folder, Depth::Content).unwrap();
            assert!(found.ok, "{method} {fault:?} {at}: {:?}", found.problems);
            assert_eq!(
                found.content_digest, verdict.content_digest,
                "{method} {at}"
            );
        }
    }
}

/// Every file that a story of a method has, but for what names the others.
fn files_of(made: &Made) -> Vec<PathBuf> {
    let record = made.record(0, "01_02");
    let pictures = record.pictures().into_iter();
    let pictures = pictures.map(|picture| made.story(0).join(&picture.file));
    let blobs = made.config.out.join("blobs");
    let named = record.named();
    let blobs = named.blobs.iter().map(|blob| {
        let name = &blob.blake3;
        blobs.join(&name[..2]).join(format!("{name}.safetensors"))
    });
    pictures.chain(blobs).collect()
}

#[test]
fn whatever_a_shape_has_made_is_missed_and_made_again() {
    for method in Method::KNOWN {
        let made = Made::of(method);
        made.make();
        let wanted = made.verdict().content_digest.unwrap();
        let files = files_of(&made);
        assert!(files.len() >= 3, "{method}: {files:?}");
        for file in files {
            let name = file.strip_prefix(made.root.path()).unwrap().display();
            let before = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            assert!(!made.verdict().ok, "{method}: nobody missed {name}");
            let how = Repair {
                stories: &[],
                anew: false,
                lease_timeout: Duration::from_secs(60),
            };
            repair(&made.folder(), &how).unwrap();
            made.make();
            let verdict = made.verdict();
            assert!(
                verdict.ok,
                "{method} without {name}: {:?}",
                verdict.problems
            );
            assert_eq!(verdict.content_digest.as_ref(), Some(&wanted), "{method}");
            assert_eq!(fs::read(&file).unwrap(), before, "{method}: {name}");
        }
    }
}

#[test]
fn a_picture_that_shows_something_else_is_told() {
    let made = Made::of(Method::NarrativeWeaver);
    made.make();
    let path = made.story(0).join("01_02.png");
    let other = made.story(0).join("01_03.png");
    fs::copy(other, path).unwrap();
    assert!(!made.verdict().ok);
}

/// One run, each story by its own method: each has records of one format, and all are proven.
#[test]
fn methods_can_be_mixed_by_story() {
    let mut made = Made::of(Method::StoryMem);
    let template = made.manifest.stories[1].clone();
    for method in [
        Method::OneStory,
        Method::NarrativeWeaver,
        Method::MovieDreamer,
    ] {
        let mut story = template.clone();
        story.id = StoryId::new(method.name()).unwrap();
        story.method = Some(method);
        made.manifest.stories.push(story);
    }
    assert_eq!(made.make().done, 5);
    let verdict = made.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!(verdict.shots_proven, 15);
    let found = status(&made.folder()).unwrap();
    let names: Vec<&str> = found.methods.keys().copied().collect();
    assert_eq!(
        names,
        ["moviedreamer", "narrative-weaver", "onestory", "storymem"]
    );
    let run = made.folder().run_file().unwrap();
    let noted: Vec<Method> = run.methods.keys().copied().collect();
    assert_eq!(
        noted,
        [
            Method::OneStory,
            Method::NarrativeWeaver,
            Method::MovieDreamer
        ]
    );
    // The same again, and a run in which a method remembers otherwise.
    assert_eq!(made.make().finished_before, 5);
    let formats = |story: usize| made.record(story, "01_03").format();
    assert_eq!([0, 2, 3, 4].map(formats), [1, 2, 2, 2]);
}

/// A later start may bring stories of a method that the run had not.
#[test]
fn a_method_can_come_later() {
    let mut made = Made::of(Method::StoryMem);
    made.make();
    assert!(made.folder().run_file().unwrap().methods.is_empty());
    let mut story = made.manifest.stories[1].clone();
    story.id = StoryId::new("later").unwrap();
    story.method = Some(Method::OneStory);
    made.manifest.stories.push(story);
    assert_eq!(made.make().done, 3);
    let verdict = made.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let run = made.folder().run_file().unwrap();
    assert_eq!(run.methods.len(), 1);
    // And a start without it takes nothing away.
    made.manifest.stories.pop();
    made.make();
    assert!(made.verdict().ok);
}

/// A start that has forgotten the run's method does not go on with another one, whatever is lost.
#[test]
fn records_say_the_method_where_run_json_is_lost() {
    for (method, forgotten) in [
        (Method::OneStory, Method::StoryMem),
        (Method::StoryMem, Method::NarrativeWeaver),
    ] {
        let mut made = Made::of(method);
        made.make();
        let wanted = made.verdict().content_digest;
        fs::remove_file(made.config.out.join("run.json")).unwrap();
        fs::remove_file(made.config.out.join("lists/run.json")).unwrap();
        made.config.method = forgotten;
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        let refused = run(&made.config, &made.manifest, &engine, &Silent, &stop);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("another method"), "{refused}");
        made.config.method = method;
        assert_eq!(made.make().done, 2);
        assert_eq!(made.verdict().content_digest, wanted);
    }
}

#[test]
fn a_lost_story_json_does_not_change_the_method() {
    let mut made = Made::of(Method::StoryMem);
    made.manifest.stories[0].method = Some(Method::NarrativeWeaver);
    made.make();
    let wanted = made.verdict().content_digest;
    fs::remove_file(made.story(0).join("story.json")).unwrap();
    made.manifest.stories[0].method = Some(Method::MovieDreamer);
    assert_eq!(made.make().set_aside, 1);
    assert!(!made.story(0).join("story.json").exists());
    made.manifest.stories[0].method = Some(Method::NarrativeWeaver);
    assert_eq!(made.make().done, 2);
    assert_eq!(made.verdict().content_digest, wanted);
}

/// Nobody knows the run's method without its file: the records say that their shots are pictures.
#[test]
fn repair_joins_no_film_of_pictures() {
    let made = Made::of(Method::NarrativeWeaver);
    made.make();
    let wanted = made.verdict().content_digest;
    let noted = made.folder();
    let file = noted.story_file(&made.manifest.stories[0].id).unwrap();
    fs::remove_file(made.config.out.join("run.json")).unwrap();
    fs::remove_file(made.config.out.join("lists/run.json")).unwrap();
    let how = Repair {
        stories: &[],
        anew: false,
        lease_timeout: Duration::from_secs(60),
    };
    repair(&made.folder(), &how).unwrap();
    assert!(!made.story(0).join("story.mp4").exists());
    assert_eq!(made.make().done, 2);
    assert_eq!(made.verdict().content_digest, wanted);
    // A film that is noted all the same is told, and the next start notes it no more.
    let mut false_film = file;
    false_film.video = Some(made.record(0, "01_01").file().clone());
    noted.write_story(&false_film).unwrap();
    assert!(told(&made.verdict(), "its method makes no film"));
    made.make();
    let verdict = made.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
}

/// Reference images of another method are looked at again, as damaged ones are.
#[test]
fn references_of_another_method_are_told_and_made_again() {
    for (own, other) in [
        (Method::StoryMem, Method::OneStory),
        (Method::OneStory, Method::StoryMem),
        (Method::MovieDreamer, Method::OneStory),
    ] {
        let (made, theirs) = (Made::of(own), Made::of(other));
        made.make();
        theirs.make();
        let wanted = made.verdict().content_digest;
        let references = "commits/references.json";
        let path = made.story(0).join(references);
        let before = fs::read(&path).unwrap();
        fs::copy(theirs.story(0).join(references), &path).unwrap();
        assert!(told(&made.verdict(), "references.json: it "), "{own}");
        made.make();
        let verdict = made.verdict();
        assert!(verdict.ok, "{own}: {:?}", verdict.problems);
        assert_eq!(verdict.content_digest, wanted, "{own}");
        assert_eq!(fs::read(&path).unwrap(), before, "{own}");
    }
}
