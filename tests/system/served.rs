//! `storyloom plan` with a model that a real server serves, and with the same one in this program,
//! also in a run.
//!
//! The server is `transformers serve`, installed by `scripts/setup.sh --served`; that is more than
//! 3 GB to download, so `scripts/test.sh` does not ask for it and the test is skipped without it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use storyloom_planner::stub_models;

use crate::harness::{Finished, Ranks, Workshop, call, finish};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const BRIEFS: &str = concat!(
    "{\"id\": \"a\", \"title\": \"Ember kettle\", \"shots\": 2}\n",
    "{\"id\": \"b\", \"title\": \"Ember kettle\", \"shots\": 2, \"seed\": 9}\n",
);

const SCRIPT: &str = concat!(
    "{\"title\":\"First light\",\"overview\":\"A kettle wakes a cold kitchen.\",\"product\":\"Ember kettle\",\"shots\":[",
    "{\"scene\":1,\"cut\":true,\"prompt\":\"Wide shot: a cold kitchen in blue light, frost on the glass.\",\"keyframe\":\"A cold kitchen, wide.\"},",
    "{\"scene\":2,\"cut\":true,\"prompt\":\"Close-up: the Ember kettle steams in warm light.\",\"keyframe\":\"A kettle on a stove, close.\"}]}",
);

/// `transformers`, where `STORYLOOM_TRANSFORMERS` or the set-up has put it.
fn program() -> Option<PathBuf> {
    let given = std::env::var_os("STORYLOOM_TRANSFORMERS").map(PathBuf::from);
    let set_up = Path::new(ROOT).join(".served/bin/transformers");
    given.or(Some(set_up)).filter(|path| path.exists())
}

/// Ends the server with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(program: &Path, model: &Path, log: &Path) -> (Server, String) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let child = Command::new(program)
        .arg("serve")
        .arg(model)
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--device",
            "cpu",
        ])
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(fs::File::create(log).unwrap())
        .stderr(fs::File::create(log.with_extension("err")).unwrap())
        .spawn()
        .unwrap();
    let mut server = Server(child);
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || fs::read_to_string(log.with_extension("err")).unwrap();
        assert!(
            server.0.try_wait().unwrap().is_none(),
            "it ended:\n{}",
            said()
        );
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "it does not start:\n{}",
            said()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    (server, format!("http://127.0.0.1:{port}/v1"))
}

fn plan(shop: &Workshop, out: &str, sets: &[String]) -> Finished {
    let (briefs, out) = (
        shop.write("b.jsonl", BRIEFS),
        shop.path(out).display().to_string(),
    );
    let mut arguments = vec!["plan", "--briefs", &briefs, "--out", &out];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    call(&arguments)
}

fn native(model: &Path) -> [String; 3] {
    [
        "planner.backend=native".to_owned(),
        format!("planner.model={}", model.display()),
        "device=cpu".to_owned(),
    ]
}

/// The scripts of the manifest `name`, and the record of story `a`.
fn planned(shop: &Workshop, name: &str) -> (Vec<Value>, Value) {
    let text = fs::read_to_string(shop.path(name)).unwrap();
    let script = |line: &str| serde_json::from_str::<Value>(line).unwrap()["script"].clone();
    let record = fs::read(shop.path(&format!("{name}.plans/a.json"))).unwrap();
    (
        text.lines().map(script).collect(),
        serde_json::from_slice(&record).unwrap(),
    )
}

#[test]
fn a_native_model_plans_and_its_recipe_is_kept() {
    let shop = Workshop::new();
    let model = shop.path("model");
    stub_models::write(&model, SCRIPT).unwrap();
    plan(&shop, "n.jsonl", &native(&model)).ended_with(0);
    let (scripts, record) = planned(&shop, "n.jsonl");
    assert_eq!(scripts.len(), 2);
    assert_eq!(scripts[0]["story_name"], "First light");
    let planner = &record["recipe"]["planner"];
    assert_eq!(planner["backend"], "native");
    assert_eq!(planner["model"]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(planner["templates"]["version"], 1);
    assert_eq!(record["outcome"]["planned"]["raw"], SCRIPT);
}

/// The commands of docs/language-models.md, in the folder of the briefs that are shipped.
#[test]
fn a_tiny_language_model_plans_the_shipped_briefs() {
    let shop = Workshop::new();
    let (model, out) = (shop.path("words"), shop.path("o.jsonl"));
    let [folder, out] = [&model, &out].map(|path| path.display().to_string());
    call(&["model", "init-tiny", &folder, "--language-model"]).ended_with(0);
    call(&["model", "init-tiny", &folder, "--language-model"])
        .ended_with(78)
        .saying("already");
    let briefs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/briefs.jsonl");
    let sets = native(&model);
    let mut arguments = vec!["plan", "--briefs", briefs, "--out", &out];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
    call(&arguments).ended_with(0);
    let wanted = fs::read_to_string(briefs).unwrap();
    let planned = fs::read_to_string(&out).unwrap();
    assert_eq!(planned.lines().count(), wanted.lines().count());
    for (script, brief) in planned.lines().zip(wanted.lines()) {
        let [script, brief]: [Value; 2] =
            [script, brief].map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(script["id"], brief["id"]);
        let scenes = script["script"]["scenes"].as_array().unwrap();
        let shots: usize = scenes
            .iter()
            .map(|scene| scene["cut"].as_array().unwrap().len())
            .sum();
        assert_eq!(Some(shots as u64), brief["shots"].as_u64(), "{script}");
    }
}

/// The plan of a run says which picture was looked at; the model may be moved between two starts.
#[test]
fn a_run_plans_with_a_native_model() {
    let shop = Workshop::new();
    let (model, moved) = (shop.path("model"), shop.path("elsewhere/model"));
    stub_models::write(&model, SCRIPT).unwrap();
    let picture = image::RgbImage::from_pixel(32, 32, image::Rgb([9, 9, 200]));
    picture.save(shop.path("kettle.png")).unwrap();
    let brief = BRIEFS.lines().next().unwrap();
    let brief = brief.replacen('{', "{\"product_image\": \"kettle.png\", ", 1);
    let briefs = shop.write("b.jsonl", brief);
    let run = |model: &Path| {
        let sets = native(model);
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        finish(&mut shop.run(&briefs, &sets)).ended_with(0);
        shop.digest()
    };
    let digest = run(&model);
    let plan = fs::read(shop.out().join("stories/a/plan.json")).unwrap();
    let plan: Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!(plan["text"], SCRIPT);
    assert_eq!(plan["picture"].as_str().map(str::len), Some(64));
    fs::create_dir(shop.path("elsewhere")).unwrap();
    fs::rename(&model, &moved).unwrap();
    assert_eq!(run(&moved), digest);
}

/// Two ranks share the model, and the plan is the same as that of one.
#[test]
fn ranks_that_plan_share_a_native_model() {
    let digest = |ranks: Ranks, sharing: &[&str]| {
        let shop = Workshop::new();
        let model = shop.path("model");
        stub_models::write(&model, SCRIPT).unwrap();
        let briefs = shop.write("b.jsonl", BRIEFS);
        let native = native(&model);
        let mut sets: Vec<&str> = native.iter().map(String::as_str).collect();
        sets.extend(sharing);
        finish(&mut shop.run_on(ranks, "simulated", &briefs, &sets)).ended_with(0);
        // Started again there is nothing to do, for those who share either.
        finish(&mut shop.run_on(ranks, "simulated", &briefs, &sets)).ended_with(0);
        shop.digest()
    };
    let alone = digest(Ranks::Alone, &[]);
    let sharing = ["topology.planners=2", "topology.planner_tensor=2"];
    assert_eq!(digest(Ranks::Launch(3), &sharing), alone);
    if cfg!(feature = "mpi") {
        assert_eq!(digest(Ranks::Mpi(3), &sharing), alone);
    }
}

/// What a model writes that knows nothing can be read but not used: it is set aside.
#[test]
fn a_babbling_model_is_quarantined_with_what_it_said() {
    let shop = Workshop::new();
    let model = shop.path("model");
    stub_models::write_babble(&model, 3).unwrap();
    let few = [
        "planner.attempts=1",
        "planner.repairs=0",
        "planner.prompt_chars=200",
    ];
    let sets = native(&model).into_iter().chain(few.map(str::to_owned));
    let sets: Vec<_> = sets.collect();
    plan(&shop, "n.jsonl", &sets)
        .ended_with(65)
        .saying("quarantined: a:");
    let record = fs::read(shop.path("n.jsonl.plans/a.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let raw = record["outcome"]["quarantined"]["raw"].as_str().unwrap();
    let script: Value = serde_json::from_str(raw).unwrap();
    assert_eq!(script["shots"].as_array().unwrap().len(), 2);
}

#[test]
fn a_real_server_plans_as_the_same_model_in_this_program() {
    let Some(program) = program() else {
        println!("skipped: no transformers serve; scripts/setup.sh --served installs it (3 GB)");
        return;
    };
    let shop = Workshop::new();
    let model = shop.path("model");
    stub_models::write(&model, SCRIPT).unwrap();
    let (_server, endpoint) = start(&program, &model, &shop.path("server.log"));
    let served = [
        "planner.backend=served".to_owned(),
        format!("planner.endpoint={endpoint}"),
        format!("planner.model={}", model.display()),
        "planner.concurrency=2".to_owned(),
    ];
    plan(&shop, "s.jsonl", &served).ended_with(0);
    let (scripts, record) = planned(&shop, "s.jsonl");
    assert_eq!(record["recipe"]["planner"]["model"]["endpoint"], endpoint);
    assert_eq!(record["outcome"]["planned"]["raw"], SCRIPT);
    plan(&shop, "n.jsonl", &native(&model)).ended_with(0);
    assert_eq!(planned(&shop, "n.jsonl").0, scripts);
}
