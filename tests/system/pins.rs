//! Run folders that an earlier build made, in `tests/fixtures`: they verify, go on where they stopped, and
//! end with the same content. The literals are what that build said.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Workshop, call, finish, storyloom};

/// Content of the finished run, and of every run that was begun with the same inputs.
const CONTENT: &str = "bbb52f076d24d05d3c58fb8ea276142aeef1d1a2149231a788279eee47ad0373";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/run-v1")
        .join(name)
}

/// The run `name` of the fixture with its inputs, in a folder where it may be changed.
fn unpacked(name: &str) -> Workshop {
    let shop = Workshop::new();
    for input in ["manifest.jsonl", "config.toml", "mug.png"] {
        fs::copy(fixture(input), shop.path(input)).unwrap();
    }
    copy(&fixture(name), &shop.out());
    shop
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The command that began the runs of the fixture, given again.
fn start(shop: &Workshop) -> crate::harness::Finished {
    let paths = ["config.toml", "manifest.jsonl"].map(|name| shop.path(name));
    let mut command = storyloom(["run"]);
    command.arg("--config").arg(&paths[0]);
    command.arg("--manifest").arg(&paths[1]);
    finish(command.arg("--out").arg(shop.out()))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_finished_run_of_an_earlier_build_is_proven_and_left_alone() {
    let shop = unpacked("finished");
    assert_eq!(shop.digest(), CONTENT);
    let before = shop.products();
    start(&shop).ended_with(0);
    assert_eq!(shop.products(), before, "something was made again");
    assert_eq!(shop.digest(), CONTENT);
    call(&["report", &shop.out().display().to_string()]).ended_with(0);
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["shots"]["done"], 5);
}

/// One shot has a saved step, one story a plan and no shot.
#[test]
fn an_interrupted_run_of_an_earlier_build_goes_on_at_its_saved_step() {
    let shop = unpacked("interrupted");
    let step = read(&shop.out().join("stories/tale/checkpoints/01_02.json"));
    let plan = read(&shop.out().join("stories/ad/plan.json"));
    let records = shop.commits();
    let said = start(&shop).ended_with(0);
    let goes_on = format!("goes on after step {}", step["done"]);
    assert!(
        said.stderr.contains(&goes_on),
        "no {goes_on:?} in {}",
        said.stderr
    );
    assert_eq!(shop.digest(), CONTENT);
    assert_eq!(records, 2, "references and one shot");
    assert_eq!(read(&shop.out().join("stories/ad/plan.json")), plan);
}

/// Its `run.json` is what its copy is: without a seal, and refused to other settings.
#[test]
fn a_lost_run_file_of_an_earlier_build_is_what_its_copy_says() {
    for heals in ["repair", "run"] {
        let shop = unpacked("finished");
        let [path, copy] = ["run.json", "lists/run.json"].map(|name| shop.out().join(name));
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        match heals {
            "repair" => drop(shop.ask(&["repair"]).ended_with(0)),
            _ => drop(start(&shop).ended_with(0)),
        }
        assert_eq!(fs::read(&path).unwrap(), before, "{heals}");
        assert_eq!(fs::read(&copy).unwrap(), before, "{heals}");
        assert_eq!(shop.digest(), CONTENT, "{heals}");
        let config = fs::read_to_string(shop.path("config.toml")).unwrap();
        let other = config.replace("max_keyframes = 1", "max_keyframes = 2");
        fs::write(shop.path("config.toml"), other).unwrap();
        start(&shop).ended_with(78).saying("max_keyframes");
    }
}

/// Nothing tells which of the two was changed: neither becomes the truth.
#[test]
fn a_changed_run_file_of_an_earlier_build_does_not_replace_its_copy() {
    let shop = unpacked("finished");
    let [path, copy] = ["run.json", "lists/run.json"].map(|name| shop.out().join(name));
    let sound = fs::read_to_string(&path).unwrap();
    let changed = sound.replace("\"run.seed\": 7", "\"run.seed\": 8");
    assert_ne!(changed, sound);
    fs::write(&path, &changed).unwrap();
    shop.ask(&["verify"]).ended_with(1);
    shop.ask(&["repair"]).ended_with(1);
    assert_eq!(fs::read_to_string(&copy).unwrap(), sound);
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    shop.ask(&["verify"]).ended_with(1);
    fs::remove_file(&path).unwrap();
    start(&shop).ended_with(0);
    assert_eq!(shop.digest(), CONTENT);
}

/// What a run of today writes is what that build wrote: seeds, recipes, names of blobs and the identity.
#[test]
fn a_run_made_anew_has_the_records_of_an_earlier_build() {
    let shop = unpacked("finished");
    fs::remove_dir_all(shop.out()).unwrap();
    start(&shop).ended_with(0);
    assert_eq!(shop.digest(), CONTENT);
    let names = [
        "tale/commits/01_01",
        "tale/commits/01_02",
        "tale/commits/02_01",
        "ad/commits/01_01",
    ];
    for name in names {
        let name = format!("stories/{name}.json");
        let [then, now] =
            [fixture("finished"), shop.out()].map(|run| recipe(read(&run.join(&name))));
        assert_eq!(then, now, "{name}");
    }
    for name in [
        "stories/tale/commits/references.json",
        "stories/ad/plan.json",
    ] {
        let [then, now] =
            [fixture("finished"), shop.out()].map(|run| recipe(read(&run.join(name))));
        assert_eq!(then, now, "{name}");
    }
    let [then, now] = [fixture("finished"), shop.out()].map(|run| read(&run.join("run.json")));
    assert_eq!(now["format"], then["format"]);
    assert_eq!(now["engine"], then["engine"]);
    assert_eq!(now["manifest_digest"], then["manifest_digest"]);
    for (key, value) in then["identity"].as_object().unwrap() {
        assert_eq!(&now["identity"][key], value, "{key}");
    }
}

/// A record without what differs from run to run: times, and the digests over them.
fn recipe(mut record: Value) -> Value {
    for key in ["seconds", "digest", "previous", "plan"] {
        record.as_object_mut().unwrap().remove(key);
    }
    record
}
