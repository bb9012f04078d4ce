//! Stories of OneStory: what each shot saw follows from the scores that it stored, and these from its history.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use storyloom_memory::arrays::{LATENTS, encode_array};
use storyloom_memory::ledger::record::v2::CommitRecord;
use storyloom_memory::pictures::encode_png;
use storyloom_memory::policy::onestory::SELECT;
use storyloom_memory::{BlobRef, BlobStore, Disk, OneStoryPolicy, ShotRecord};
use storyloom_orchestrator::cost::{
    CostTable, Observed, ReplicaShape, Sampling, Samplings, measure,
};
use storyloom_orchestrator::memory_view::story_memory;
use storyloom_orchestrator::output::{ClipForm, VideoFiles};
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::quarantine::release;
use storyloom_orchestrator::repair::{Repair, repair};
use storyloom_orchestrator::report::write_report;
use storyloom_orchestrator::rescore::{Rescored, rescore};
use storyloom_orchestrator::run::run;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{
    Encoded, EngineDescription, EngineError, Kept, Pass, RunConfig, RunFolder, RunOutcome, Scores,
    ShotEngine, StepObserver, StopFlag, StoryState, Videos,
};
use storyloom_story::onestory::{Budget, Selector, scores_table};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, LoopState, Manifest, Method, Opening, PassName, RgbImage,
    ShotInputs, ShotNotes, Stage, StoryNotes,
};
use storyloom_telemetry::Silent;

/// A story of five shots that begins with a reference image.
struct Told {
    _root: tempfile::TempDir,
    config: RunConfig,
    manifest: Manifest,
}

impl Told {
    /// Nothing is made yet.
    fn of(policy: OneStoryPolicy) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos: Videos::Placeholders,
            ..PipelineSettings::instant(root.path(), 5, 5)
        };
        let (mut config, mut manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        let hero = RgbImage::new(64, 48, vec![90; 64 * 48 * 3]).unwrap();
        fs::write(root.path().join("hero.png"), encode_png(&hero).unwrap()).unwrap();
        config.input_folder = root.path().to_owned().into();
        config.method = Method::OneStory;
        config.onestory = policy;
        manifest.stories[0].reference_images = vec!["hero.png".to_owned()];
        Self {
            _root: root,
            config,
            manifest,
        }
    }

    fn made() -> Self {
        let told = Self::of(OneStoryPolicy::default());
        assert_eq!(told.start(&told.engine()).done, 1);
        told
    }

    fn engine(&self) -> SimulatedEngine {
        SimulatedEngine {
            onestory: self.config.onestory,
            ..SimulatedEngine::default()
        }
    }

    fn start(&self, engine: &dyn ShotEngine) -> RunOutcome {
        run(
            &self.config,
            &self.manifest,
            engine,
            &Silent,
            &StopFlag::default(),
        )
        .unwrap()
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, Arc::new(Disk))
    }

    fn verdict(&self) -> Verdict {
        verify(&self.folder(), Depth::Content).unwrap()
    }

    fn record_path(&self, shot: &str) -> PathBuf {
        let story = self.folder().story(&self.manifest.stories[0].id);
        story.join(format!("commits/{shot}.json"))
    }

    fn record(&self, shot: &str) -> CommitRecord {
        let path = self.record_path(shot);
        match ShotRecord::open(&path, &fs::read(&path).unwrap()).unwrap() {
            ShotRecord::V2(record) => record,
            ShotRecord::V1(_) => panic!("OneStory writes format 2"),
        }
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::new(self.folder().blobs(), Arc::new(Disk))
    }

    /// The file of the latents that later shots see of this one.
    fn latents(&self, shot: &str) -> PathBuf {
        let blob = self.record(shot).kept[0].arrays[LATENTS].clone();
        self.blobs().path(&blob).unwrap()
    }

    /// Writes another record of the last shot, which nothing follows.
    fn forge(&self, change: impl FnOnce(&mut CommitRecord)) -> Vec<String> {
        self.forge_shot("01_05", change)
    }

    /// What is said of a shot while its record is another one.
    fn forge_shot(&self, name: &str, change: impl FnOnce(&mut CommitRecord)) -> Vec<String> {
        let before = fs::read(self.record_path(name)).unwrap();
        let mut record = self.record(name);
        change(&mut record);
        let bytes = ShotRecord::V2(record).seal().unwrap();
        fs::write(self.record_path(name), bytes).unwrap();
        let problems = self.verdict().problems;
        fs::write(self.record_path(name), before).unwrap();
        let of_shot = problems.into_iter().filter(|problem| {
            problem.story.is_some() && problem.shot.is_some_and(|shot| shot.to_string() == name)
        });
        of_shot.map(|problem| problem.message).collect()
    }
}

fn says(problems: &[String], words: &str) -> bool {
    problems.iter().any(|problem| problem.contains(words))
}

#[test]
fn what_a_shot_saw_follows_from_the_scores_that_it_stored() {
    let told = Told::made();
    let verdict = told.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let record = told.record("01_05");
    let [select] = record.earlier.as_slice() else {
        panic!("one pass before the shot");
    };
    assert_eq!((&select.pass, select.frame_count), (&SELECT, 1));
    // Four shots of three latent frames; the reference image is no history.
    let scores = told.blobs().array(&select.latents).unwrap();
    assert_eq!(scores.shape(), [12]);
    assert!(!record.seen.is_empty() && record.seen.iter().all(|seen| seen.file.contains('#')));
    let first = told.record("01_01");
    let nothing = told.blobs().array(&first.earlier[0].latents).unwrap();
    assert_eq!((nothing, first.seen.len()), (scores_table(Vec::new()), 0));

    // A run with the settings of earlier builds notes what they noted.
    let run: Value =
        serde_json::from_slice(&fs::read(told.config.out.join("run.json")).unwrap()).unwrap();
    let noted = json!({"method": "onestory", "at_most": 8});
    assert_eq!(run["methods"]["onestory"]["memory"], noted);

    assert!(told.forge(|_| {}).is_empty());
    let other_choice = told.forge(|record| {
        record.seen.pop();
    });
    let words = format!(
        "by the scores of its pass select it had to see {}",
        record.seen[0].file
    );
    assert!(says(&other_choice, &words), "{other_choice:?}");
    assert!(
        says(&other_choice, "and its record says"),
        "{other_choice:?}"
    );

    let put = |scores: Vec<f32>| {
        let table = encode_array(&scores_table(scores)).unwrap();
        told.blobs().put(&table).unwrap()
    };
    // The highest scores on the shot that was not seen before, or on another one.
    let seen = record.seen.last().unwrap().file.clone();
    let other = usize::from(seen.starts_with("01_01"));
    let mut scores = vec![0.0; 12];
    scores[other * 3..][..3].fill(1.0);
    let other_scores = put(scores);
    let problems = told.forge(|record| record.earlier[0].latents = other_scores);
    let words = format!("it had to see 01_0{}#0, and its record says", other + 1);
    assert!(says(&problems, &words), "{problems:?}");
    let few = put(vec![0.5; 9]);
    let problems = told.forge(|record| record.earlier[0].latents = few);
    assert!(
        says(&problems, "12 latent frames, and there are 9 scores"),
        "{problems:?}"
    );
    let gone = BlobRef::of(b"nowhere");
    let problems = told.forge(|record| record.earlier[0].latents = gone);
    assert!(says(&problems, "latents: cannot read"), "{problems:?}");
}

/// Later shots count on the number of latent frames that is kept of a shot.
#[test]
fn another_number_of_latent_frames_in_memory_is_told() {
    let told = Told::made();
    let shape = told
        .blobs()
        .array(&told.record("01_05").kept[0].arrays[LATENTS])
        .unwrap();
    let [channels, _, rows, columns] = shape.shape() else {
        panic!("{:?}", shape.shape());
    };
    let other = vec![*channels, 2, *rows, *columns];
    let other = HostTensor::new(other.clone(), vec![0.5; other.iter().product()]).unwrap();
    let blob = told.blobs().put(&encode_array(&other).unwrap()).unwrap();
    let problems = told.forge(|record| {
        record.kept[0].arrays.insert(LATENTS.to_owned(), blob);
    });
    assert!(says(&problems, "it has 3 latent frames"), "{problems:?}");
    let problems = told.forge(|record| {
        let latents = record.kept[0].arrays.remove(LATENTS).unwrap();
        record.kept[0].arrays.insert("tokens".to_owned(), latents);
    });
    assert!(says(&problems, "no latents are kept of it"), "{problems:?}");
}

/// A story whose first shot is a ready-made video.
fn ready_made() -> Told {
    let mut told = Told::of(OneStoryPolicy::default());
    let video = told.config.video;
    let frame = |shade: u32| {
        let bytes = vec![shade as u8 * 20; (video.width * video.height * 3) as usize];
        RgbImage::new(video.width, video.height, bytes).unwrap()
    };
    let clip = Clip::new((0..video.frames).map(frame).collect()).unwrap();
    let form = ClipForm {
        size: video.resolution(),
        fps: video.fps,
    };
    let folder = told.config.input_folder.path().to_owned();
    let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
    let written = files.write_clip(&folder, &clip, form, |_| folder.join("one.mp4"));
    written.unwrap();
    let story = &mut told.manifest.stories[0];
    story.reference_images.clear();
    story.first_shot = Some("one.mp4".to_owned());
    told
}

/// The proof holds the first shot against what the story began with.
#[test]
fn another_first_shot_than_the_ready_made_one_is_told() {
    let told = ready_made();
    assert_eq!(told.start(&told.engine()).done, 1);
    let verdict = told.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let other = told.record("01_02").made.latents.clone();
    let problems = told.forge_shot("01_01", |record| record.made.latents = other);
    let wanted = "it is not the ready-made first shot of its story";
    assert!(says(&problems, wanted), "{problems:?}");
    let problems = told.forge_shot("01_01", |record| record.seen.clear());
    assert!(says(&problems, "references#0"), "{problems:?}");
    // Scores of the history are the same again, of which the first shot is a part and its video is not.
    let engine = told.engine();
    let found = rescore(&told.folder(), &|inputs| scores_of(&engine, inputs)).unwrap();
    assert_eq!((found.shots_proven, found.problems.len()), (5, 0));
    // A story that says otherwise how it begins is another one.
    let mut plain = told.manifest.clone();
    plain.stories[0].first_shot = None;
    let outcome = run(
        &told.config,
        &plain,
        &told.engine(),
        &Silent,
        &StopFlag::default(),
    );
    assert_eq!(outcome.unwrap().set_aside, 1);
}

/// Nothing is sampled of a ready-made shot: the time that it took says nothing of others.
#[test]
fn a_ready_made_first_shot_is_not_measured_as_sampled() {
    let told = ready_made();
    assert_eq!(told.start(&told.engine()).done, 1);
    let mut previous = None;
    for shot in 1..=5 {
        let name = format!("01_0{shot}");
        let mut record = told.record(&name);
        let seconds = if shot == 1 { 0.0 } else { 4.0 };
        record.seconds.insert(Stage::Denoise, seconds);
        record.previous = previous;
        let mut record = ShotRecord::V2(record);
        fs::write(told.record_path(&name), record.seal().unwrap()).unwrap();
        previous = Some(told.record(&name).digest);
    }
    let loops = Sampling {
        steps: 8,
        forwards: 1.0,
    };
    let observed = Observed {
        samplings: Samplings::alike(loops),
        shape: ReplicaShape::ONE,
        grid: told.config.grid,
    };
    let table = measure(&told.folder(), &observed, CostTable::default()).unwrap();
    let work = |opening, seen| {
        let video = (told.config.video, told.config.grid);
        let work = observed
            .samplings
            .work(Method::OneStory, opening, video, seen);
        table.shot(&work, &ReplicaShape::ONE).denoise
    };
    let sampled = work(Opening::Memory, 1.0);
    assert!((sampled - 4.0).abs() < 1e-6, "{sampled}");
}

/// Likeness to the shots of a character is asked for by the selector that compares pictures, and by no other: records of
/// others are what they were.
#[test]
fn a_request_names_the_shots_of_its_characters_where_the_selector_asks_for_them() {
    let told = |selector| {
        let mut told = Told::of(OneStoryPolicy::new(Budget::default(), selector));
        let with = |characters: &[&str]| ShotNotes {
            characters: characters.iter().map(|&name| name.to_owned()).collect(),
            environment: None,
        };
        let shots = [&["fox"][..], &["owl"], &["fox", "owl"], &[], &["owl"]];
        told.manifest.stories[0].notes = Some(StoryNotes {
            shots: shots.map(with).to_vec(),
            ..StoryNotes::default()
        });
        assert_eq!(told.start(&told.engine()).done, 1);
        assert!(told.verdict().ok, "{:?}", told.verdict().problems);
        told
    };
    let names = ["01_01", "01_02", "01_03", "01_04", "01_05"];
    let learned = told(Selector::Learned);
    for name in names {
        assert!(learned.record(name).request.related.is_empty(), "{name}");
        let text = fs::read_to_string(learned.record_path(name)).unwrap();
        assert!(!text.contains("related"), "{text}");
    }
    let oracle = told(Selector::Clip);
    let related = names.map(|name| oracle.record(name).request.related);
    assert_eq!(related, [vec![], vec![], vec![0, 1], vec![], vec![1, 2]]);
    for other in [vec![], vec![0, 1, 2]] {
        let problems = oracle.forge(|record| record.request.related = other);
        assert!(
            says(&problems, "other shots of its characters"),
            "{problems:?}"
        );
    }
}

/// The drawing of what shots saw does not call the history of latents keyframes, nor a video a picture.
#[test]
fn a_report_calls_what_is_kept_by_its_name() {
    let told = ready_made();
    assert_eq!(told.start(&told.engine()).done, 1);
    write_report(&told.folder()).unwrap();
    let id = &told.manifest.stories[0].id;
    let page = told.config.out.join(format!("report/stories/{id}.html"));
    let page = fs::read_to_string(&page).unwrap();
    assert!(
        page.contains("ready-made first shot, seen by 1 shot<"),
        "{page}"
    );
    assert!(
        !page.contains("keyframe") && !page.contains("reference image"),
        "{page}"
    );
}

/// Simulated runs of earlier builds had one pass. A network has scores, or its choice has no proof.
#[test]
fn only_a_pretended_network_may_have_no_scores() {
    let told = Told::made();
    let no_scores = |record: &mut CommitRecord| record.earlier.clear();
    assert!(told.forge(no_scores).is_empty());
    let path = told.config.out.join("run.json");
    let mut run: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    run["methods"]["onestory"]["engine"]["engine"] = "torch".into();
    storyloom_orchestrator::seal::seal(run.as_object_mut().unwrap());
    fs::write(&path, run.to_string()).unwrap();
    let problems = told.forge(no_scores);
    assert!(says(&problems, "it has no pass select"), "{problems:?}");
    assert!(told.forge(|_| {}).is_empty());
}

/// What follows from the history alone is derived without a network.
#[test]
fn scores_of_the_newest_frames_are_derived_again() {
    let budget = Budget {
        units: 2,
        counts: None,
    };
    let told = Told::of(OneStoryPolicy::new(budget, Selector::Recent));
    assert_eq!(told.start(&told.engine()).done, 1);
    let verdict = told.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let seen = told.record("01_05").seen;
    assert_eq!(seen.last().unwrap().file, "01_04#0");
    let mut scores = storyloom_story::onestory::recent_scores(12);
    scores[11] += 0.5;
    let table = encode_array(&scores_table(scores)).unwrap();
    let table = told.blobs().put(&table).unwrap();
    let problems = told.forge(|record| record.earlier[0].latents = table);
    assert!(says(&problems, "its selector gives it 1"), "{problems:?}");
    // A program with another budget does not go on with the run.
    let mut config = told.config.clone();
    config.onestory = OneStoryPolicy::default();
    let error = run(
        &config,
        &told.manifest,
        &told.engine(),
        &Silent,
        &StopFlag::default(),
    );
    let said = error.unwrap_err().to_string();
    assert!(said.contains("what onestory remembers"), "{said}");
}

/// The scores of a shot, as the networks of an engine give them.
fn scores_of(engine: &SimulatedEngine, inputs: &ShotInputs) -> Result<Vec<f32>, EngineError> {
    let pass = Pass {
        name: &SELECT,
        before: &[],
    };
    let encoded = engine.encode(inputs, pass)?;
    let scores = engine.denoise(inputs, &encoded, None, &mut NoSteps)?;
    Ok(scores.into_data())
}

struct NoSteps;

impl StepObserver for NoSteps {
    fn step_finished(
        &mut self,
        _: usize,
        _: usize,
        _: &storyloom_orchestrator::engine::SaveLoop,
    ) -> bool {
        true
    }
}

#[test]
fn scores_are_compared_with_those_of_networks_that_are_loaded_again() {
    let told = Told::made();
    let engine = told.engine();
    let again = |change: &dyn Fn(&ShotInputs, &mut [f32])| -> Rescored {
        let scorer = |inputs: &ShotInputs| {
            let mut scores = scores_of(&engine, inputs)?;
            change(inputs, &mut scores);
            Ok(scores)
        };
        rescore(&told.folder(), &scorer).unwrap()
    };
    let same = again(&|_, _| {});
    assert_eq!((same.shots_proven, same.largest_difference), (5, 0.0));
    assert!(same.problems.is_empty(), "{:?}", same.problems);
    let rounded = again(&|_, scores| scores[0] += 5e-6);
    assert!(rounded.problems.is_empty() && rounded.largest_difference > 4e-6);
    let other = again(&|inputs, scores| {
        if inputs.request.shot.shot == 3 {
            scores[2] += 1e-3;
        }
    });
    let [problem] = other.problems.as_slice() else {
        panic!("{:?}", other.problems);
    };
    assert_eq!(problem.story.as_ref(), Some(&told.manifest.stories[0].id));
    assert_eq!(problem.shot.unwrap().to_string(), "01_03");
    assert!(
        problem.message.contains("for frame 2 of the history"),
        "{}",
        problem.message
    );
    assert_eq!(other.shots_proven, 4);

    // What cannot be read is told, and so is that nothing after it is proven.
    fs::write(told.latents("01_03"), b"altered").unwrap();
    let rest = again(&|_, _| {});
    assert_eq!((rest.shots_proven, rest.problems.len()), (3, 1));
    assert!(rest.problems[0].message.contains("its content has changed"));
    // An error that is not one shot's ends it.
    let away = |_: &ShotInputs| Err(failed("no device"));
    assert!(rescore(&told.folder(), &away).is_err());
}

fn failed(message: &str) -> EngineError {
    EngineError {
        stage: Stage::Encode,
        class: ErrorClass::Run,
        message: message.to_owned(),
    }
}

/// Reads all of its history, as a network does, and harms it once between its proof and the reading.
struct Reader<'a> {
    engine: SimulatedEngine,
    harm: &'a (dyn Fn() + Sync),
    is_harmed: AtomicBool,
}

impl ShotEngine for Reader<'_> {
    fn describe(&self, method: Method) -> Option<EngineDescription> {
        self.engine.describe(method)
    }

    fn passes(&self, inputs: &ShotInputs) -> Vec<PassName> {
        self.engine.passes(inputs)
    }

    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError> {
        if inputs.request.shot.shot == 4 && !self.is_harmed.swap(true, Ordering::SeqCst) {
            (self.harm)();
        }
        for stored in inputs.memory.iter().flat_map(|item| item.arrays.values()) {
            stored.read()?;
        }
        self.engine.encode(inputs, pass)
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        self.engine.denoise(inputs, encoded, resume, observer)
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        self.engine.decode(inputs, pass, latents)
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        self.engine.score(pictures)
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError> {
        self.engine.remember(kept)
    }
}

/// History that is altered while a shot is being made stops its story with the name of the file, and nothing is
/// lost: `repair` and the next start make it whole.
#[test]
fn altered_history_stops_the_story_and_is_mended() {
    let wanted = Told::made().verdict().content_digest;
    let harms: [fn(&Told); 2] = [
        |told| fs::write(told.latents("01_02"), b"altered").unwrap(),
        |told| fs::remove_file(told.latents("01_02")).unwrap(),
    ];
    for harm in harms {
        let told = Told::of(OneStoryPolicy::default());
        let engine = Reader {
            engine: told.engine(),
            harm: &|| harm(&told),
            is_harmed: AtomicBool::new(false),
        };
        let outcome = told.start(&engine);
        assert_eq!(outcome.done, 0);
        let file = told
            .folder()
            .story_file(&told.manifest.stories[0].id)
            .unwrap();
        let (StoryState::Failed { reason, shot } | StoryState::Quarantined { reason, shot }) =
            file.state
        else {
            panic!("{:?}", file.state);
        };
        assert_eq!(shot.unwrap().to_string(), "01_04");
        let path = told.latents("01_02");
        assert!(reason.contains(path.to_str().unwrap()), "{reason}");
        let problems = told.verdict().problems;
        let mut of_shot = problems.iter().filter(|problem| problem.shot.is_some());
        assert!(
            of_shot.any(|problem| problem.message.contains("01_02#0")),
            "{problems:?}"
        );

        let how = Repair {
            stories: &[],
            anew: false,
            lease_timeout: std::time::Duration::from_secs(1),
        };
        repair(&told.folder(), &how).unwrap();
        release(&told.folder(), &[told.manifest.stories[0].id.clone()]).unwrap();
        assert_eq!(told.start(&told.engine()).done, 1);
        let verdict = told.verdict();
        assert!(verdict.ok, "{:?}", verdict.problems);
        assert_eq!(verdict.content_digest, wanted);
    }
}

/// The view of the memory and the report say which latent frames a shot saw, and how finely.
#[test]
fn what_a_shot_chose_is_listed_and_drawn() {
    let told = Told::made();
    let id = &told.manifest.stories[0].id;
    let memory = story_memory(&told.folder(), id, None).unwrap();
    let choices: Vec<_> = memory
        .shots
        .iter()
        .map(|shot| shot.chosen.as_ref().unwrap())
        .collect();
    let earlier = choices.iter().map(|choice| choice.history.len());
    assert_eq!(earlier.collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    // Latent frames of six by eight: a budget of one holds three frames of four tokens.
    let frames = choices.iter().map(|choice| choice.frames.len());
    assert_eq!(frames.collect::<Vec<_>>(), [0, 3, 3, 3, 3]);
    for shot in &memory.shots {
        let frames = &shot.chosen.as_ref().unwrap().frames;
        let mut files: Vec<String> = frames
            .iter()
            .map(|seen| format!("{}#0", seen.shot))
            .collect();
        files.dedup();
        assert_eq!(files, shot.saw);
    }
    let last = memory.shots[4].shot;
    let one = story_memory(&told.folder(), id, Some(last)).unwrap();
    assert_eq!(one.shots, memory.shots[4..]);
    let json = serde_json::to_value(&one.shots[0].chosen).unwrap();
    assert_eq!(json["history"][3], json!({"shot": "01_04", "frames": 3}));
    let first = &choices[4].frames[0];
    let wanted = json!({
        "shot": first.shot.to_string(), "frame": first.frame, "score": first.score, "kernel": "p4"
    });
    assert_eq!(json["frames"][0], wanted);

    write_report(&told.folder()).unwrap();
    let page = told.config.out.join(format!("report/stories/{id}.html"));
    let page = fs::read_to_string(&page).unwrap();
    let marks = |page: &str| page.matches("<rect class=\"p4\"").count();
    assert_eq!(marks(&page), 12);
    let named = choices[1..].iter().flat_map(|choice| &choice.frames);
    for seen in named {
        assert!(page.contains(&format!("<title>{seen}</title>")), "{seen}");
    }
    assert_eq!(
        page.matches("<rect class=\"frames\"").count(),
        1 + 2 + 3 + 4
    );

    // Where nobody can say what a shot chose, the rest is shown.
    let scores = told.record("01_05").earlier[0].latents.clone();
    told.blobs().remove(&scores).unwrap();
    let memory = story_memory(&told.folder(), id, Some(last)).unwrap();
    assert_eq!((memory.shots.len(), &memory.shots[0].chosen), (1, &None));
}
