//! `storyloom plan`: briefs in, a manifest out, whatever happens on the way.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Finished, Ranks, Signal, Workshop, call, finish, send, storyloom};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A folder with briefs and where their manifest goes.
struct Office {
    shop: Workshop,
    briefs: String,
}

impl Office {
    fn new(briefs: &str) -> Self {
        let shop = Workshop::new();
        let briefs = shop.write("b.jsonl", briefs);
        Self { shop, briefs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shop.path(name)
    }

    fn manifest(&self) -> String {
        self.path("m.jsonl").display().to_string()
    }

    fn arguments<'a>(&'a self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["plan", "--briefs", &self.briefs, "--out", out], more].concat()
    }

    fn plan(&self, more: &[&str]) -> Finished {
        call(&self.arguments(&self.manifest(), more))
    }

    /// The lines of the manifest.
    fn stories(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.manifest()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn ids(&self) -> Vec<String> {
        let stories = self.stories();
        stories
            .iter()
            .map(|story| story["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn record(&self, id: &str) -> Value {
        let path = self.path("m.jsonl.plans").join(format!("{id}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

fn briefs(ids: impl IntoIterator<Item = &'static str>) -> String {
    let line = |id| format!("{{\"id\": \"{id}\", \"title\": \"Ember kettle\", \"shots\": 2}}\n");
    ids.into_iter().map(line).collect()
}

const SCRIPT: &str =
    r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A dog runs."], "cut": [true]}]}"#;

#[test]
fn shipped_briefs_become_a_manifest_that_runs() {
    let shop = Workshop::new();
    let manifest = shop.path("m.jsonl").display().to_string();
    let briefs = format!("{ROOT}/manifests/briefs.jsonl");
    call(&["plan", "--briefs", &briefs, "--out", &manifest]).ended_with(0);
    call(&["validate", &manifest]).ended_with(0);
    let text = fs::read_to_string(&manifest).unwrap();
    call(&["plan", "--briefs", &briefs, "--out", &manifest]).ended_with(0);
    assert_eq!(fs::read_to_string(&manifest).unwrap(), text);
    finish(&mut shop.run(&manifest, &["simulated.videos=false"])).ended_with(0);
    shop.ask(&["verify"]).ended_with(0);
    // A run on the briefs themselves makes the same pictures.
    let direct = Workshop::new();
    finish(&mut direct.run(&briefs, &["simulated.videos=false"])).ended_with(0);
    assert_eq!(direct.digest(), shop.digest());
}

#[test]
fn scripts_pass_through_and_the_order_is_kept() {
    let office = Office::new(&format!(
        "{}{{\"id\": \"own\", \"script\": {SCRIPT}, \"seed\": 3}}\n{}",
        briefs(["b"]),
        briefs(["a"]),
    ));
    office.plan(&[]).ended_with(0);
    assert_eq!(office.ids(), ["b", "own", "a"]);
    let stories = office.stories();
    assert_eq!(stories[1]["seed"], 3);
    assert_eq!(
        stories[1]["script"],
        serde_json::from_str::<Value>(SCRIPT).unwrap()
    );
    let record = office.record("b");
    assert_eq!(record["recipe"]["planner"]["backend"], "rules");
    assert_eq!(record["outcome"]["planned"]["script"], stories[0]["script"]);
}

#[test]
fn seeds_make_plans_and_the_same_seed_the_same() {
    let office = Office::new(&briefs(["a"]));
    office.plan(&[]).ended_with(0);
    let first = office.stories();
    office.plan(&["--set", "run.seed=1"]).ended_with(0);
    assert_ne!(office.stories(), first);
    fs::remove_dir_all(office.path("m.jsonl.plans")).unwrap();
    office.plan(&[]).ended_with(0);
    assert_eq!(office.stories(), first);
}

#[test]
fn a_dry_run_checks_and_writes_nothing() {
    let office = Office::new(&briefs(["a", "b"]));
    let told = office.plan(&["--dry-run"]).ended_with(0);
    assert!(
        told.stdout.contains("2 briefs for 4 shots"),
        "{}",
        told.stdout
    );
    assert!(!office.path("m.jsonl").exists() && !office.path("m.jsonl.plans").exists());
}

/// What no seed helps is told before anything is asked, and tried once.
#[test]
fn what_the_planner_cannot_write_is_told_before() {
    let mixed = "{\"id\": \"lampe\", \"title\": \"Lampe\", \"language\": \"de\"}\n\
                 {\"id\": \"kettle\", \"title\": \"Ember kettle\", \"shots\": 2}\n\
                 {\"id\": \"fox\", \"idea\": \"a fox crosses a river\"}\n";
    let office = Office::new(mixed);
    let wanted = ":1:1: the brief lampe cannot be planned: the rules write English and not \"de\"";
    let told = office.plan(&["--dry-run"]).ended_with(65).saying(wanted);
    told.saying("planner.backend = \"served\"")
        .saying("2 problems");
    call(&["validate", &office.briefs])
        .ended_with(65)
        .saying(wanted);
    call(&[
        "validate",
        &office.briefs,
        "--set",
        "planner.backend=simulated",
    ])
    .ended_with(0);
    office.plan(&[]).ended_with(1).saying("quarantined: fox:");
    assert_eq!(office.ids(), ["kettle"]);
    assert_eq!(office.record("lampe")["attempt"], 0);
}

/// Cells have lines and quotes of their own.
#[test]
fn a_brief_in_a_table_is_named_with_its_line() {
    let shop = Workshop::new();
    let table = "id,title,promo,language\nkettle,Ember kettle,\"soon\nlampe,\"\"lampe\"\"\",en\n\
                 lampe,Lampe,,de\n";
    let briefs = shop.write("b.csv", table);
    call(&["validate", &briefs])
        .ended_with(65)
        .saying("b.csv:4:1: the brief lampe cannot be planned")
        .saying("1 problem");
}

/// By the person who hands scripts on to a text encoder.
#[test]
fn prompts_that_no_encoder_reads_to_their_end_are_told() {
    let long = "A dog runs over a wide meadow. ".repeat(200);
    let scene = json!({"scene_num": 1, "video_prompts": [long], "cut": [true]});
    let office = Office::new(&json!({"id": "own", "script": {"scenes": [scene]}}).to_string());
    for more in [&["--dry-run"][..], &[]] {
        office
            .plan(more)
            .ended_with(0)
            .saying("story own, scene 1, shot 1: the prompt has about");
    }
    // Nothing is to read them.
    let told = office.plan(&["--set", "engine=simulated"]).ended_with(0);
    assert!(!told.stderr.contains("the prompt has"), "{}", told.stderr);
}

/// The product is there from the first shot on, and what is not drawn is noted.
#[test]
fn rules_show_the_product_first_and_note_what_they_leave_out() {
    let brief = json!({
        "id": "a", "title": "Kitchen scissors", "shots": 3, "promo": "two for one until Sunday",
        "selling_points": ["vegan", "hot", "lasts 12 hours"],
    });
    let office = Office::new(&brief.to_string());
    office.plan(&[]).ended_with(0);
    let script = office.stories()[0]["script"].to_string();
    let first = &office.stories()[0]["script"]["scenes"][0]["video_prompts"][0];
    assert!(
        first.as_str().unwrap().contains("the Kitchen scissors"),
        "{first}"
    );
    for point in ["vegan", "hot", "lasts 12 hours", "scissors stand alone"] {
        assert!(script.contains(point), "{point}: {script}");
    }
    let record = office.record("a");
    assert_eq!(record["recipe"]["planner"]["rules"], 2);
    let notes = record["outcome"]["planned"]["notes"].to_string();
    assert!(notes.contains("two for one until Sunday"), "{notes}");
}

#[test]
fn every_bad_field_is_told_with_its_line() {
    let lines = [
        ("\"title\": 3", "\"title\" must be a text"),
        (
            "\"title\": \"tin\", \"shots\": 0",
            "\"shots\" must be a whole number from 1 to 64",
        ),
        (
            "\"title\": \"tin\", \"language\": \"english\"",
            "is no language tag",
        ),
        (
            "\"title\": \"tin\", \"size\": [101, 64]",
            "must be an even number",
        ),
        (
            "\"title\": \"tin\", \"style\": 1",
            "\"style\" must be a text",
        ),
        (
            "\"title\": \"tin\", \"selling_points\": {}",
            "must be a list",
        ),
        (
            "\"title\": \"tin\", \"instruction\": \"\"",
            "\"instruction\" is empty",
        ),
        (
            "\"title\": \"tin\", \"tenant\": []",
            "\"tenant\" must be a text",
        ),
        (
            "\"title\": \"tin\", \"priority\": \"x\"",
            "\"priority\" must be a whole number",
        ),
        (
            "\"title\": \"tin\", \"titel\": 1",
            "the unknown key \"titel\"",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"no.png\"",
            "No such file",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"../x.png\"",
            "leaves the folder",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"/etc/passwd\"",
            "leaves the folder",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"http://10.0.0.1/x.png\"",
            "it is a URL",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"bomb.png\"",
            "60000x60000",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"huge.png\"",
            "bytes, at most",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"link.png\"",
            "a link in its path",
        ),
        (
            "\"title\": \"tin\", \"product_image\": \"text.png\"",
            "it is no picture that can be read",
        ),
    ];
    let text: String = (0..)
        .zip(&lines)
        .map(|(number, (fields, _))| format!("{{\"id\": \"s{number}\", {fields}}}\n"))
        .collect();
    let office = Office::new(&text);
    write_bad_pictures(&office);
    let told = office.plan(&[]).ended_with(65);
    for (number, (_, wanted)) in (1..).zip(&lines) {
        let place = format!("b.jsonl:{number}:");
        let told = told
            .stderr
            .lines()
            .any(|line| line.contains(&place) && line.contains(wanted));
        assert!(told, "no {place} … {wanted}");
    }
    assert!(
        told.stderr.contains(&format!("{} problems", lines.len())),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr.contains("did you mean \"title\"?"),
        "{}",
        told.stderr
    );
    assert!(!office.path("m.jsonl.plans").exists(), "planning was begun");
}

/// A header that promises 60000 x 60000 pixels, a file of a terabyte, a link that leads outside,
/// and a text.
fn write_bad_pictures(office: &Office) {
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bomb.extend(60_000_u32.to_be_bytes());
    bomb.extend(60_000_u32.to_be_bytes());
    bomb.extend(
        b"\x08\x02\0\0\0\x0b\x55\xa4\x10\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82",
    );
    let checksum = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    fs::write(office.path("bomb.png"), bomb).unwrap();
    fs::File::create(office.path("huge.png"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", office.path("link.png")).unwrap();
    fs::write(office.path("text.png"), "no picture").unwrap();
}

#[test]
fn what_cannot_be_planned_is_quarantined_and_the_rest_goes_on() {
    let office = Office::new(&format!(
        "{}{{\"id\": \"fox\", \"idea\": \"a fox finds a lamp\"}}\n{}",
        briefs(["a"]),
        briefs(["b"])
    ));
    let told = office.plan(&[]).ended_with(1);
    assert!(
        told.stderr
            .contains("quarantined: fox: the rules plan advertisements"),
        "{}",
        told.stderr
    );
    assert_eq!(office.ids(), ["a", "b"]);
    assert!(office.record("fox")["outcome"]["quarantined"]["reason"].is_string());
    let none = Office::new("{\"id\": \"fox\", \"idea\": \"a fox\"}\n");
    none.plan(&[]).ended_with(65).saying("no manifest");
    assert!(!none.path("m.jsonl").exists());
}

#[test]
fn wrong_settings_are_told_before_anything_is_planned() {
    let office = Office::new(&briefs(["a"]));
    for (set, wanted) in [
        ("planner.backend=served", "planner.endpoint is not set"),
        ("planner.backend=native", "planner.model is not set"),
        ("planner.backend=rule", "did you mean \"rules\"?"),
        ("planner.temperature=9", "must be 0 to 2"),
        (
            "planner.endpoint=http://me:pw@host/v1",
            "without a name or password",
        ),
        ("planner.bakend=rules", "did you mean \"planner.backend\"?"),
    ] {
        office.plan(&["--set", set]).ended_with(78).saying(wanted);
    }
    let own = office.briefs.clone();
    call(&office.arguments(&own, &[]))
        .ended_with(2)
        .saying("--out is the file of the briefs");
}

/// Serves chat completions: a good script for every question, after a pause.
struct Server {
    endpoint: String,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(pause: Duration, status: u16) -> Self {
        Self::start_at("127.0.0.1:0", pause, status)
    }

    fn start_at(address: &str, pause: Duration, status: u16) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let endpoint = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&count);
                std::thread::spawn(move || serve(stream, pause, status, &count));
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn settings(&self) -> Vec<String> {
        [
            "planner.backend=served".to_owned(),
            "planner.model=m".to_owned(),
            format!("planner.endpoint={}", self.endpoint),
            "planner.concurrency=2".to_owned(),
            "planner.retries=1".to_owned(),
        ]
        .into_iter()
        .flat_map(|set| ["--set".to_owned(), set])
        .collect()
    }
}

fn serve(mut stream: TcpStream, pause: Duration, status: u16, count: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    count.fetch_add(1, Ordering::SeqCst);
    std::thread::sleep(pause);
    let script = json!({
        "title": "T", "overview": "O", "product": "kettle", "shots": [
            {"scene": 1, "cut": true, "prompt": "Wide shot: a cold kitchen in blue light.", "keyframe": "A cold kitchen, wide."},
            {"scene": 2, "cut": true, "prompt": "Close-up: the kettle steams in warm light.", "keyframe": "A kettle on a stove, close."}]});
    let reply = json!({
        "choices": [{"message": {"role": "assistant", "content": script.to_string()}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6},
    })
    .to_string();
    // The client that asked may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reply}",
        reply.len()
    );
}

/// Killed and started again, only what is missing is planned.
#[test]
fn a_killed_plan_goes_on_where_it_was() {
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let office = Office::new(&briefs(ids));
    let slow = Server::start(Duration::from_millis(900), 200);
    let settings = slow.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let manifest = office.manifest();
    let mut child = storyloom(office.arguments(&manifest, &settings))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let plans = office.path("m.jsonl.plans");
    let recorded = || {
        ids.iter()
            .filter(|id| plans.join(format!("{id}.json")).exists())
            .count()
    };
    let start = Instant::now();
    while recorded() < 3 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "nothing is planned"
        );
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = recorded();
    assert!((3..8).contains(&done), "{done} of 8 were recorded");
    assert!(!office.path("m.jsonl").exists());
    let before = slow.asked();
    call(&office.arguments(&manifest, &settings)).ended_with(0);
    assert_eq!(
        slow.asked() - before,
        8 - done,
        "what was recorded is not asked for again"
    );
    assert_eq!(office.ids(), ids);
    let record = office.record("a");
    assert_eq!(record["recipe"]["planner"]["model"]["name"], "m");
    assert_eq!(record["outcome"]["planned"]["tokens"]["completion"], 6);
    call(&["validate", &manifest]).ended_with(0);
}

#[test]
fn a_stop_saves_everything_and_says_so() {
    let office = Office::new(&briefs(["a", "b", "c", "d", "e", "f"]));
    let slow = Server::start(Duration::from_millis(1200), 200);
    let settings = slow.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let manifest = office.manifest();
    let child = storyloom(office.arguments(&manifest, &settings))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let plans = office.path("m.jsonl.plans");
    let start = Instant::now();
    while !plans.join("a.json").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "nothing is planned"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    send(Signal::TERM, child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("run the same command again"), "{said}");
    call(&office.arguments(&manifest, &settings)).ended_with(0);
    assert_eq!(office.ids().len(), 6);
}

#[test]
fn a_server_that_is_away_is_told_as_such() {
    let office = Office::new(&briefs(["a", "b"]));
    let broken = Server::start(Duration::ZERO, 500);
    let settings = broken.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    office.plan(&settings).ended_with(69).saying("said 500");
    assert!(broken.asked() >= 2, "it was not asked again");
    let forbidden = Server::start(Duration::ZERO, 403);
    let settings = forbidden.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    office.plan(&settings).ended_with(78).saying("said 403");
    assert!(!office.path("m.jsonl").exists());
}

/// A run whose server is away makes all that has a script, and then says what has none; when the server
/// is there, at this address or another, the run goes on.
#[test]
fn a_run_whose_server_is_away_makes_what_it_can() {
    let shop = Workshop::new();
    let told = crate::harness::line("told", &[true, false]);
    let lines = shop.write("b.jsonl", format!("{told}\n{}", briefs(["a", "b"])));
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let sets = |endpoint: &str| -> Vec<String> {
        vec![
            "planner.backend=served".to_owned(),
            "planner.model=m".to_owned(),
            format!("planner.endpoint={endpoint}"),
            "planner.concurrency=2".to_owned(),
            "planner.retries=0".to_owned(),
        ]
    };
    let run = |lines: &str, endpoint: &str| {
        let sets = sets(endpoint);
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        finish(&mut shop.run(lines, &sets))
    };
    let here = format!("http://{address}/v1");
    // With a rank that only plans it is the same.
    let apart = Workshop::new();
    let planners = [sets(&here), vec!["topology.planners=1".to_owned()]].concat();
    let planners: Vec<&str> = planners.iter().map(String::as_str).collect();
    let mut world = apart.run_on(Ranks::Launch(2), "simulated", &lines, &planners);
    finish(&mut world)
        .ended_with(69)
        .saying("2 briefs are not planned: a, b;");
    assert!(apart.out().join("stories/told/story.mp4").exists());

    let first = run(&lines, &here).ended_with(69);
    let first = first
        .saying("cannot be reached")
        .saying("2 briefs are not planned: a, b;");
    first.saying("the same command again");
    assert!(shop.out().join("stories/told/story.mp4").exists());
    assert!(!shop.out().join("stories/a/plan.json").exists());

    let server = Server::start_at(&address, Duration::ZERO, 200);
    run(&lines, &here).ended_with(0);
    assert_eq!(server.asked(), 2);
    let planner = fs::read(shop.out().join("planner.json")).unwrap();
    // Nothing is asked where nothing is left to plan.
    let nowhere = "http://127.0.0.1:9/v1";
    run(&lines, nowhere).ended_with(0);

    let moved = Server::start(Duration::ZERO, 200);
    let more = shop.write("c.jsonl", format!("{told}\n{}", briefs(["a", "b", "c"])));
    run(&more, &moved.endpoint).ended_with(0);
    assert_eq!((server.asked(), moved.asked()), (2, 1));
    assert_eq!(fs::read(shop.out().join("planner.json")).unwrap(), planner);
    let plan = fs::read_to_string(shop.out().join("stories/c/plan.json")).unwrap();
    assert!(
        plan.contains(&moved.endpoint),
        "the recipe says where it was asked"
    );
    shop.ask(&["verify"]).ended_with(0);
}
