//! The proof never falls silent: whatever is missing, renamed or of another type in the files that say
//! what a run is and what was made, `verify` does not call it proven.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use storyloom_memory::Disk;
use storyloom_memory::pictures::encode_png;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::repair::{CameTo, Repair, Repaired, repair};
use storyloom_orchestrator::run::{Engines, run_on};
use storyloom_orchestrator::set_aside::marks;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::status;
use storyloom_orchestrator::testing::planner::SimulatedPlanner;
use storyloom_orchestrator::verify::{Depth, Verdict, VerifyProblem, verify};
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, Videos};
use storyloom_story::{Brief, Line, Method, RgbImage, StoryId};
use storyloom_telemetry::Silent;

/// A finished run of a story with a reference image and its own seed, and of a brief.
struct Proven {
    _root: tempfile::TempDir,
    config: RunConfig,
    lines: Vec<Line>,
}

impl Proven {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos: Videos::Placeholders,
            ..PipelineSettings::instant(root.path(), 3, 3)
        };
        let (mut config, mut manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        let hero = RgbImage::new(40, 80, vec![90; 40 * 80 * 3]).unwrap();
        fs::write(root.path().join("hero.png"), encode_png(&hero).unwrap()).unwrap();
        config.input_folder = root.path().to_owned().into();
        config.resolved = json!({"run": {"seed": 0}, "pictures": {"fit": "pad"}});
        let mut story = manifest.stories.remove(0);
        story.seed = Some(5);
        story.tenant = Some("north".to_owned());
        story.reference_images = vec!["hero.png".to_owned()];
        let brief = Brief {
            title: Some("A mug".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new("mug").unwrap())
        };
        let proven = Self {
            _root: root,
            config,
            lines: vec![Line::Story(story), Line::Brief(brief)],
        };
        proven.start();
        proven
    }

    fn start(&self) {
        assert_eq!(self.make().done, 2);
    }

    fn make(&self) -> RunOutcome {
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        let engines = Engines {
            engine: &engine,
            planner: Some(&SimulatedPlanner::default()),
        };
        let disk = Arc::new(Disk);
        run_on(disk, &self.config, &self.lines, &engines, &Silent, &stop).unwrap()
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, Arc::new(Disk))
    }

    /// `None` where it says that it cannot look.
    fn verdict(&self) -> Option<Verdict> {
        verify(&self.folder(), Depth::Content).ok()
    }

    fn repaired(&self) -> Repaired {
        let how = Repair {
            stories: &[],
            anew: false,
            lease_timeout: std::time::Duration::from_secs(1),
        };
        repair(&self.folder(), &how).unwrap()
    }

    /// Takes away what version 0.1.0 did not write; the answer is `run.json`.
    fn as_of_earlier_build(&self) -> Value {
        fs::remove_file(self.path("lists/run.json")).unwrap();
        let path = self.path("run.json");
        let mut run = read(&path);
        run["version"] = json!("0.1.0");
        run.as_object_mut().unwrap().remove("digest");
        let identity = run["identity"].as_object_mut().unwrap();
        identity.retain(|key, _| !["method", "digest"].contains(&key.as_str()));
        for story in ["mug", self.lines[0].id().as_str()] {
            let path = self.path(&format!("stories/{story}/story.json"));
            let mut file = read(&path);
            file.as_object_mut().unwrap().remove("digest").unwrap();
            fs::write(path, file.to_string()).unwrap();
        }
        fs::write(&path, run.to_string()).unwrap();
        run
    }

    fn path(&self, file: &str) -> PathBuf {
        self.config.out.join(file)
    }

    fn story(&self, file: &str) -> String {
        format!("stories/{}/{file}", self.lines[0].id())
    }

    /// The files that say what the run is and what was made, relative to the folder.
    fn files(&self) -> Vec<String> {
        let story = [
            "story.json",
            "commits/references.json",
            "commits/01_01.json",
        ];
        let mut files: Vec<String> = story.map(|file| self.story(file)).into();
        files.extend(["run.json", "planner.json"].map(str::to_owned));
        let brief = ["story.json", "plan.json", "commits/01_02.json"];
        files.extend(brief.map(|file| format!("stories/mug/{file}")));
        files
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every object in `value` by the pointer to it, the outermost first.
fn objects(value: &Value, place: &str, found: &mut Vec<(String, Vec<String>)>) {
    match value {
        Value::Object(object) => {
            found.push((place.to_owned(), object.keys().cloned().collect()));
            for (key, inner) in object {
                objects(inner, &format!("{place}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                objects(item, &format!("{place}/{number}"), found);
            }
        }
        _ => {}
    }
}

type Change = fn(&mut Map<String, Value>, &str);

/// What can become of a key.
const CHANGES: [(&str, Change); 4] = [
    ("removed", |object, key| drop(object.remove(key))),
    ("renamed", |object, key| {
        let value = object.remove(key).unwrap();
        object.insert(format!("{key}_"), value);
    }),
    ("of another type", |object, key| {
        object[key] = match &object[key] {
            Value::Bool(_) => json!("text"),
            _ => json!(true),
        };
    }),
    ("null", |object, key| {
        object[key] = match &object[key] {
            Value::Null => json!(0),
            _ => Value::Null,
        };
    }),
];

/// Every way to change one key of a file, each with its name.
fn changed(file: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    objects(file, "", &mut found);
    let keys = found
        .iter()
        .flat_map(|(place, keys)| keys.iter().map(move |key| (place, key)));
    let keys = keys.flat_map(|key| CHANGES.iter().map(move |change| (key, change)));
    let changed = keys.map(|((place, key), (what, change))| {
        let mut other = file.clone();
        change(
            other.pointer_mut(place).unwrap().as_object_mut().unwrap(),
            key,
        );
        (format!("{place}/{key} {what}"), other)
    });
    changed.collect()
}

#[test]
fn no_key_can_go_or_change_without_a_word() {
    let proven = Proven::new();
    assert!(proven.verdict().unwrap().ok, "{:?}", proven.verdict());
    for file in proven.files() {
        let path = proven.path(&file);
        let before = fs::read(&path).unwrap();
        let changes = changed(&read(&path));
        assert!(changes.len() >= 12, "{file} has hardly a key");
        for (what, other) in changes {
            fs::write(&path, other.to_string()).unwrap();
            if let Some(verdict) = proven.verdict() {
                assert!(!verdict.ok, "{file}: {what}");
                assert_eq!(verdict.content_digest, None, "{file}: {what}");
                let name = file.rsplit('/').next().unwrap();
                let problems = verdict.problems.iter();
                let mut told = problems.map(|problem| &problem.message);
                assert!(
                    told.any(|message| message.contains(name)) || file == "planner.json",
                    "{file}: {what}: {:?}",
                    verdict.problems
                );
            }
        }
        fs::write(&path, before).unwrap();
        assert!(proven.verdict().unwrap().ok, "{file}");
    }
}

/// The same of a run with a story of each method: what `run.json` says of them, and records of format 2.
#[test]
fn no_key_of_any_method_can_go_or_change_without_a_word() {
    let mut proven = Proven::new();
    fs::remove_dir_all(&proven.config.out).unwrap();
    let Line::Story(template) = proven.lines.remove(0) else {
        panic!("the first line is a story");
    };
    proven.lines = Vec::new();
    for method in Method::KNOWN {
        let mut story = template.clone();
        story.id = StoryId::new(method.name()).unwrap();
        story.method = Some(method);
        proven.lines.push(Line::Story(story));
    }
    assert_eq!(proven.make().done, 4);
    assert!(proven.verdict().unwrap().ok, "{:?}", proven.verdict());
    let mut files = vec!["run.json".to_owned()];
    for method in Method::KNOWN {
        for file in [
            "story.json",
            "commits/references.json",
            "commits/01_02.json",
        ] {
            files.push(format!("stories/{method}/{file}"));
        }
    }
    for file in files {
        let path = proven.path(&file);
        let before = fs::read(&path).unwrap();
        for (what, other) in changed(&read(&path)) {
            fs::write(&path, other.to_string()).unwrap();
            let verdict = proven.verdict();
            assert!(verdict.is_none_or(|verdict| !verdict.ok), "{file}: {what}");
        }
        fs::write(&path, before).unwrap();
        assert!(proven.verdict().unwrap().ok, "{file}");
    }
}

/// A seal is no proof of what it seals: terms of a method that do not fit its records are told.
#[test]
fn the_terms_of_a_method_are_those_of_its_records() {
    let mut proven = Proven::new();
    fs::remove_dir_all(&proven.config.out).unwrap();
    set_method(&mut proven.lines[0], Some(Method::OneStory));
    proven.start();
    let path = proven.path("run.json");
    let whole = read(&path);
    type Forgery = fn(&mut Value);
    let forgeries: [(&str, Forgery); 4] = [
        ("another engine", |run| {
            run["methods"]["onestory"]["engine"]["fingerprint"] = json!("another");
        }),
        ("memory it claims", |run| {
            run["methods"]["onestory"]["memory"]["at_most"] = json!(0);
        }),
        ("have format 1", |run| {
            run["methods"]["onestory"]["record_format"] = json!(1);
        }),
        ("does not say what its method onestory is", |run| {
            run.as_object_mut().unwrap().remove("methods");
        }),
    ];
    for (words, forge) in forgeries {
        let mut other = whole.clone();
        forge(&mut other);
        storyloom_orchestrator::seal::seal(other.as_object_mut().unwrap());
        fs::write(&path, other.to_string()).unwrap();
        let problems = proven.verdict().unwrap().problems;
        let mut told = problems.iter();
        assert!(
            told.any(|problem| problem.message.contains(words)),
            "{words}: {problems:?}"
        );
    }
}

/// Its copy takes the place of a damaged `run.json` for readers; the proof says so all the same.
#[test]
fn run_json_is_told_with_and_without_its_copy() {
    let proven = Proven::new();
    let (run, copy) = (proven.path("run.json"), proven.path("lists/run.json"));
    let (before, whole) = (fs::read(&run).unwrap(), read(&run));
    for has_copy in [true, false] {
        if !has_copy {
            fs::remove_file(&copy).unwrap();
            assert!(proven.verdict().unwrap().ok, "the copy is only a copy");
        }
        for (what, other) in changed(&whole) {
            fs::write(&run, other.to_string()).unwrap();
            let verdict = proven.verdict().unwrap();
            assert!(!verdict.ok, "{what}");
            let first = &verdict.problems[0];
            assert_eq!((&first.story, first.shot), (&None, None), "{what}");
            assert!(first.message.starts_with("run.json: "), "{what}: {first:?}");
            assert_eq!(verdict.shots > 0, has_copy, "{what}");
        }
        fs::write(&run, &before).unwrap();
    }
    // Another file in the place of the copy.
    let mut other = whole;
    other["run_id"] = json!("another");
    fs::write(&copy, other.to_string()).unwrap();
    let verdict = proven.verdict().unwrap();
    assert!(!verdict.ok && verdict.problems[0].message.starts_with("lists/run.json: "));
    let how = Repair {
        stories: &[],
        anew: false,
        lease_timeout: std::time::Duration::from_secs(1),
    };
    assert!(
        repair(&proven.folder(), &how)
            .unwrap()
            .came_to(CameTo::Healed)
    );
    assert_eq!(fs::read(&copy).unwrap(), before);
    assert!(proven.verdict().unwrap().ok);
}

/// What is missing is named.
#[test]
fn what_is_missing_in_run_json_has_its_name() {
    let proven = Proven::new();
    let path = proven.path("run.json");
    let whole = read(&path);
    for (place, key) in [
        ("", "identity"),
        ("", "digest"),
        ("", "engine"),
        ("/identity", "method"),
        ("/identity", "memory.window"),
        ("/identity", "run.seed"),
        ("/identity", "digest"),
    ] {
        let mut other = whole.clone();
        let object = other.pointer_mut(place).unwrap().as_object_mut().unwrap();
        object.remove(key).unwrap();
        fs::write(&path, other.to_string()).unwrap();
        let told = &proven.verdict().unwrap().problems[0].message;
        assert!(told.contains(&format!("`{key}`")), "{told}");
    }
}

/// A file of this build without all that seals it is not one of an earlier build.
#[test]
fn nobody_passes_for_an_earlier_build() {
    let proven = Proven::new();
    fs::remove_file(proven.path("lists/run.json")).unwrap();
    let path = proven.path("run.json");
    let before = fs::read(&path).unwrap();
    let mut run = read(&path);
    run.as_object_mut().unwrap().remove("digest");
    let identity = run["identity"].as_object_mut().unwrap();
    identity.retain(|key, _| !["method", "digest"].contains(&key.as_str()));
    fs::write(&path, run.to_string()).unwrap();
    let verdict = proven.verdict().unwrap();
    assert!(
        verdict.problems[0].message.contains("`digest`"),
        "{verdict:?}"
    );
    fs::write(&path, before).unwrap();

    // Nor does a story.
    let path = proven.path(&proven.story("story.json"));
    let mut story = read(&path);
    for key in ["digest", "seed", "joined"] {
        story.as_object_mut().unwrap().remove(key).unwrap();
    }
    fs::write(&path, story.to_string()).unwrap();
    assert!(!proven.verdict().unwrap().ok);
    assert!(proven.repaired().came_to(CameTo::ToMake));
    proven.start();
    let verdict = proven.verdict().unwrap();
    assert!(verdict.ok, "{:?}", verdict.problems);
}

/// A start looks after a finished story whose file has lost its seal, as `repair` does.
#[test]
fn a_start_heals_a_finished_story_without_its_digest() {
    let proven = Proven::new();
    let path = proven.path(&proven.story("story.json"));
    let before = read(&path);
    let mut story = before.clone();
    story.as_object_mut().unwrap().remove("digest").unwrap();
    fs::write(&path, story.to_string()).unwrap();
    let verdict = proven.verdict().unwrap();
    assert!(
        verdict.problems[0].message.contains("`digest`"),
        "{verdict:?}"
    );
    proven.start();
    let healed = read(&path);
    assert_eq!(healed["script"], before["script"]);
    assert!(healed["digest"].is_string());
    let kept = path.with_file_name("story.json.damaged-1");
    assert_eq!(read(&kept), story, "what stood there is kept");
    let verdict = proven.verdict().unwrap();
    assert!(verdict.ok, "{:?}", verdict.problems);
}

/// The file of a story has no seal in runs of earlier builds; what it has lost, its records say.
#[test]
fn what_an_earlier_builds_story_lost_is_in_its_records() {
    let proven = Proven::new();
    proven.as_of_earlier_build();
    let path = proven.path("stories/mug/story.json");
    let plan = proven.path("stories/mug/plan.json");
    let (before, planned) = (read(&path), fs::read(&plan).unwrap());
    for lost in [&["size"][..], &["plan"], &["size", "plan"]] {
        for is_planned in [true, false] {
            let mut story = before.clone();
            for key in lost {
                story.as_object_mut().unwrap().remove(*key).unwrap();
            }
            fs::write(&path, story.to_string()).unwrap();
            if !is_planned {
                fs::remove_file(&plan).unwrap();
            }
            assert!(!proven.verdict().unwrap().ok, "{lost:?}");
            let repaired = proven.repaired();
            let came_to: Vec<CameTo> = repaired.deeds.iter().map(|deed| deed.came_to).collect();
            assert!(came_to.contains(&CameTo::Healed), "{lost:?}: {repaired:?}");
            assert!(!came_to.contains(&CameTo::Left), "{lost:?}: {repaired:?}");
            let healed = read(&path);
            assert_eq!(
                [&healed["size"], &healed["plan"]],
                [&before["size"], &before["plan"]]
            );
            let verdict = proven.verdict().unwrap();
            assert!(verdict.ok, "{lost:?}: {:?}", verdict.problems);
            assert_eq!(proven.repaired().deeds, []);
            fs::write(&plan, &planned).unwrap();
        }
    }
}

/// Runs of earlier builds have no method and no seals, and verify; what they do have must be there.
#[test]
fn runs_of_earlier_builds_verify_and_lack_nothing_that_decides() {
    let proven = Proven::new();
    let run = proven.as_of_earlier_build();
    let path = proven.path("run.json");
    let verdict = proven.verdict().unwrap();
    assert!(verdict.ok, "{:?}", verdict.problems);
    for (what, other) in changed(&run["identity"]) {
        // What the earliest builds did not write.
        if what.starts_with("/pictures.") && what.ends_with("removed") || what == "/videos removed"
        {
            continue;
        }
        let mut changed = run.clone();
        changed["identity"] = other;
        fs::write(&path, changed.to_string()).unwrap();
        let verdict = proven.verdict().unwrap();
        assert!(!verdict.ok, "{what}");
    }
    fs::write(&path, run.to_string()).unwrap();
    proven.start();
    assert!(proven.verdict().unwrap().ok);
}

/// A story has the method of its line, else the run's: its records say which, and a start that asks for
/// another one touches nothing.
#[test]
fn a_story_keeps_the_method_of_its_line() {
    let mut proven = Proven::new();
    // The run's own by its name is the same as no word of it, of a brief too.
    for method in [Some(Method::StoryMem), None] {
        for line in &mut proven.lines {
            set_method(line, method);
        }
        proven.start();
        // Also where only the plan remembers what was asked for.
        fs::remove_file(proven.path("stories/mug/story.json")).unwrap();
        proven.start();
        let verdict = proven.verdict().unwrap();
        assert!(verdict.ok, "{:?}", verdict.problems);
    }
    fs::remove_dir_all(&proven.config.out).unwrap();
    set_method(&mut proven.lines[0], Some(Method::OneStory));
    proven.start();
    let verdict = proven.verdict().unwrap();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let made = |file: &str| read(&proven.path(file))["request"]["method"].clone();
    assert_eq!(made(&proven.story("commits/01_01.json")), "onestory");
    assert_eq!(made("stories/mug/commits/01_01.json"), "storymem");
    assert_eq!(
        read(&proven.path(&proven.story("story.json")))["method"],
        "onestory"
    );
    assert_eq!(
        read(&proven.path("run.json"))["identity"]["method"],
        "storymem"
    );
    let seen = status(&proven.folder()).unwrap();
    let methods = seen
        .methods
        .iter()
        .map(|(method, counts)| (*method, counts.done));
    assert_eq!(
        methods.collect::<Vec<_>>(),
        [("onestory", 1), ("storymem", 1)]
    );

    set_method(&mut proven.lines[0], None);
    assert_eq!(proven.make().set_aside, 1);
    assert_eq!(marks(&proven.folder()).unwrap().len(), 1);

    // Records that do not agree with their story.
    let path = proven.path(&proven.story("story.json"));
    let mut story = read(&path);
    story.as_object_mut().unwrap().remove("method");
    storyloom_orchestrator::seal::seal(story.as_object_mut().unwrap());
    fs::write(&path, story.to_string()).unwrap();
    let problems = proven.verdict().unwrap().problems;
    let told = |problem: &VerifyProblem| problem.message.contains("by another method");
    assert!(problems.iter().any(told), "{problems:?}");
}

fn set_method(line: &mut Line, method: Option<Method>) {
    match line {
        Line::Story(entry) => entry.method = method,
        Line::Brief(brief) => brief.method = method,
    }
}
