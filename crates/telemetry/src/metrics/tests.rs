//! What is counted, and how it is given away.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storyloom_story::{ShotId, StoryId};

use super::labels::State;
use super::*;
use crate::metrics::catalogue::ALL;
use crate::process::Process;
use crate::shift::{Journal, ShiftEnd, ShiftStart, Split};
use crate::{AttemptEnd, Event, Reporter, ShotEvent, event_pins};

const SHOT: ShotId = ShotId { scene: 1, shot: 1 };
const HOUR: Duration = Duration::from_secs(3600);

fn journal(run: &Path, id: &str) -> Arc<Journal> {
    let start = ShiftStart {
        ranks: 2,
        device: "cpu".to_owned(),
        ..ShiftStart::default()
    };
    Arc::new(Journal::begin(run, id, start, crate::shift::now(), HOUR))
}

fn metrics(run: &Path) -> Arc<Metrics> {
    let facts = ReplicaFacts {
        version: "1.2.3".to_owned(),
        device: "cpu".to_owned(),
        ranks: 2,
        ..ReplicaFacts::default()
    };
    Arc::new(Metrics::new(&facts, journal(run, "w1"), Some(2e9)).unwrap())
}

/// Reports one event of each kind, and an attempt that came to something.
fn make_shot(metrics: &Metrics, story: &str) {
    let story = &StoryId::new(story).unwrap();
    let (shot, attempt) = (SHOT, 2);
    let mut events = event_pins::all(story);
    events.extend(
        [
            ShotEvent::AttemptBegun { attempt },
            ShotEvent::AttemptEnded {
                attempt,
                end: AttemptEnd::Committed,
                reason: None,
            },
        ]
        .map(|event| Event::Shot { story, shot, event }),
    );
    for event in &events {
        metrics.journal().report(event);
        metrics.report(event);
    }
}

#[track_caller]
fn says(text: &str, line: &str) {
    assert!(
        text.lines().any(|found| found == line),
        "no {line} in\n{text}"
    );
}

#[test]
fn the_registry_has_what_the_catalogue_names() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics(folder.path());
    let wanted: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(metrics.names(), &wanted);
}

#[test]
fn events_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics(folder.path());
    make_shot(&metrics, "neo");
    let text = metrics.text(true).unwrap();
    for line in [
        "storyloom_build_info{version=\"1.2.3\"} 1",
        "storyloom_ranks 2",
        "storyloom_loaded 1",
        "storyloom_draining 1",
        "storyloom_attempts_total{end=\"committed\"} 1",
        "storyloom_attempts_total{end=\"failed\"} 1",
        "storyloom_stage_duration_seconds_bucket{stage=\"denoise\",le=\"2\"} 0",
        "storyloom_stage_duration_seconds_bucket{stage=\"denoise\",le=\"5\"} 1",
        "storyloom_stage_wait_seconds_sum{stage=\"denoise\"} 0.5",
        "storyloom_denoise_step_seconds_count 1",
        "storyloom_shot_duration_seconds_sum 4.25",
        "storyloom_checkpoints_total{action=\"saved\"} 1",
        "storyloom_checkpoints_total{action=\"resumed\"} 1",
        "storyloom_plans_total{end=\"committed\"} 1",
        "storyloom_plans_total{end=\"failed\"} 1",
        "storyloom_plan_duration_seconds_sum 7.25",
        "storyloom_plan_tokens_total 600",
        "storyloom_plans_ahead 3",
        "storyloom_plan_wait_seconds_total 1.5",
        "storyloom_bank_keyframes 3",
        "storyloom_leases 0",
        "storyloom_lease_takeovers_total 1",
        "storyloom_stories_done_total 1",
        "storyloom_run_deadline_timestamp_seconds 2000000000",
    ] {
        says(&text, line);
    }
    // Without GPUs there is nothing to say of them.
    assert!(!text.contains("storyloom_gpu_"));
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn the_number_of_series_does_not_grow_with_stories() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics(folder.path());
    make_shot(&metrics, "story-0");
    metrics.see_run(&view(1)).unwrap();
    let before = series(&metrics.text(false).unwrap());
    for number in 1..100 {
        make_shot(&metrics, &format!("story-{number}"));
    }
    metrics.see_run(&view(100)).unwrap();
    assert_eq!(series(&metrics.text(false).unwrap()), before);
}

#[test]
fn totals_of_the_run_never_fall() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics(folder.path());
    for useful in [5.0, 3.0] {
        let mut view = view(1);
        let split = Split {
            useful,
            ..Split::default()
        };
        view.work.by_device.insert("cuda".to_owned(), split);
        metrics.see_run(&view).unwrap();
    }
    let line = "storyloom_run_device_seconds_total{device=\"cuda\",use=\"useful\"} 5";
    says(&metrics.text(false).unwrap(), line);
}

fn view(done: usize) -> RunView {
    RunView {
        stories: vec![(State::Done, done), (State::Pending, 7)],
        shots: vec![(State::Done, done)],
        methods: vec![("storymem", vec![(State::Done, done), (State::Pending, 7)])],
        set_aside: 0,
        eta_seconds: Some([1.0, 2.0, 3.0]),
        work: RunWork::default(),
    }
}

/// A run that says what it is told to.
#[derive(Default)]
struct Told {
    drained: AtomicBool,
}

impl RunWatch for Told {
    fn look(&self) -> Result<(RunView, String), String> {
        Ok((view(4), "{\"stories\":4}".to_owned()))
    }

    fn ranks(&self) -> Vec<RankReport> {
        let rank = |rank| RankReport {
            rank,
            collectives: 8,
            collective_wait_seconds: 0.25,
            gpu: Some(GpuReport {
                uuid: format!("GPU-{rank}"),
                host: "node7".to_owned(),
                energy_joules: Some(90.0),
                xid_errors: vec![(79, 1)],
                ..GpuReport::default()
            }),
        };
        vec![rank(0), rank(1)]
    }

    fn is_draining(&self) -> bool {
        self.drained.load(Ordering::SeqCst)
    }

    fn drain(&self) -> Result<(), String> {
        self.drained.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn settings(run: &Path, id: &str) -> ExporterSettings {
    ExporterSettings {
        run: run.to_owned(),
        name: "shoes".to_owned(),
        id: id.to_owned(),
        node: "node7".to_owned(),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        host: "node7".to_owned(),
        token: Token::new("s3cret"),
        push: None,
        stall: HOUR,
    }
}

/// Status and body of an answer.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{request}Host: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    (code, body)
}

fn get(address: SocketAddr, page: &str) -> (u16, String) {
    ask(address, &format!("GET {page} HTTP/1.1\r\n"))
}

/// Waits for what another thread does.
#[track_caller]
fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_pages_say_how_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics(folder.path());
    let told = Arc::new(Told::default());
    let exporter = Exporter::start(settings(folder.path(), "w1"), metrics.clone(), told.clone());
    let address = exporter.address().unwrap();
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/readyz"), (503, "loading\n".to_owned()));
    make_shot(&metrics, "neo");
    assert_eq!(get(address, "/readyz").0, 200);
    until(|| get(address, "/status") == (200, "{\"stories\":4}".to_owned()));
    // The last of a look.
    let last = "storyloom_disk_free_bytes{place=\"run\"}";
    until(|| get(address, "/metrics").1.contains(last));
    let (code, text) = get(address, "/metrics");
    assert_eq!(code, 200);
    for line in [
        "storyloom_run_stories{state=\"done\"} 4",
        "storyloom_run_method_stories{method=\"storymem\",state=\"done\"} 4",
        "storyloom_run_eta_seconds{bound=\"high\"} 3",
        "storyloom_collective_wait_seconds_total{rank=\"1\"} 0.25",
        "storyloom_gpu_info{host=\"node7\",rank=\"1\",uuid=\"GPU-1\"} 1",
        "storyloom_gpu_xid_errors_total{rank=\"0\",xid=\"79\"} 1",
    ] {
        says(&text, line);
    }

    for (authorization, code) in [
        ("", 401),
        ("Authorization: Bearer wrong\r\n", 401),
        ("Authorization: Bearer s3cret\r\n", 202),
    ] {
        assert!(!told.is_draining());
        let request = format!("POST /drain HTTP/1.1\r\n{authorization}");
        assert_eq!(ask(address, &request).0, code);
    }
    assert!(told.is_draining());
    assert_eq!(get(address, "/drain").0, 405);
    drop(exporter);
    assert!(TcpStream::connect(address).is_err());
    let left = fs::read_to_string(folder.path().join("metrics/w1.prom")).unwrap();
    says(&left, "storyloom_stories_done_total 1");
}

#[test]
fn nobody_orders_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let told = Arc::new(Told::default());
    let settings = ExporterSettings {
        token: None,
        ..settings(folder.path(), "w1")
    };
    let exporter = Exporter::start(settings, metrics(folder.path()), told.clone());
    let request = "POST /drain HTTP/1.1\r\nAuthorization: Bearer \r\n";
    assert_eq!(ask(exporter.address().unwrap(), request).0, 403);
    assert!(!told.is_draining());
}

#[test]
fn a_program_that_stands_still_is_ill() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ExporterSettings {
        stall: Duration::ZERO,
        ..settings(folder.path(), "w1")
    };
    let metrics = metrics(folder.path());
    let exporter = Exporter::start(settings, metrics.clone(), Arc::new(Told::default()));
    // It loads and loads.
    let (code, why) = get(exporter.address().unwrap(), "/healthz");
    assert!(code == 503 && why.starts_with("no progress for"), "{why}");
    // With nothing to do it may stand still.
    make_shot(&metrics, "neo");
    assert_eq!(get(exporter.address().unwrap(), "/healthz").0, 200);
}

fn targets(run: &Path) -> Option<Vec<(String, String)>> {
    let text = fs::read(run.join("metrics/targets.json")).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let entry = |entry: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        assert_eq!(entry["labels"]["run"], "shoes");
        (text(&entry["targets"][0]), text(&entry["labels"]["node"]))
    };
    Some(json.as_array().unwrap().iter().map(entry).collect())
}

#[test]
fn leaders_share_the_file_of_targets() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let add = |id: &str, port: u16| {
        let address = format!("node7:{port}");
        targets::Target::add(run, id, &address, "shoes", "node7").unwrap()
    };
    assert_eq!(targets(run), None);
    let all: Vec<_> = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..8_u16)
            .map(|n| scope.spawn(move || add(&format!("w{n}"), 9000 + n)))
            .collect();
        adding.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(targets(run).unwrap().len(), 8);
    std::thread::scope(|scope| {
        for target in &all[1..] {
            scope.spawn(|| target.remove());
        }
    });
    let left = vec![("node7:9000".to_owned(), "node7".to_owned())];
    assert_eq!(targets(run), Some(left));
    all[0].remove();
    assert_eq!(targets(run), None);
}

#[test]
fn the_dead_are_removed_and_the_living_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let dead = journal(run, "dead");
    dead.end(ShiftEnd::Failed);
    let _living = journal(run, "living");
    let add = |id| targets::Target::add(run, id, &format!("{id}:1"), "shoes", "n").unwrap();
    let (_dead, living) = (add("dead"), add("living"));
    let target = add("third");
    let names = || -> Vec<String> {
        let targets = targets(run).unwrap().into_iter();
        targets.map(|(address, _)| address).collect()
    };
    assert_eq!(names(), ["living:1", "third:1"]);
    fs::remove_dir_all(run.join("metrics")).unwrap();
    target.tend().unwrap();
    living.tend().unwrap();
    assert_eq!(names(), ["living:1", "third:1"]);
}

/// A process that was killed stands on no list when the next program comes, nor when the last goes.
#[test]
fn the_killed_of_this_machine_are_removed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = Process {
        pid: child.id(),
        started: 1,
        ..Process::own().clone()
    };
    child.wait().unwrap();
    let kill = |id: &str| {
        let start = ShiftStart {
            process: Some(process.clone()),
            ..ShiftStart::default()
        };
        let journal = Journal::begin(run, id, start, crate::shift::now(), HOUR);
        let target = targets::Target::add(run, id, "n:1", "shoes", "n").unwrap();
        // Neither of them can say that it ends.
        std::mem::forget((journal, target));
    };
    let _living = journal(run, "living");
    kill("first");
    let add = || targets::Target::add(run, "living", "n:2", "shoes", "n").unwrap();
    let target = add();
    let found = || targets(run).map_or(0, |targets| targets.len());
    assert_eq!(found(), 1, "who comes tidies");
    kill("second");
    target.tend().unwrap();
    assert_eq!(found(), 2, "a program that watches the list learns of it");
    target.remove();
    assert_eq!(found(), 0, "who leaves last tidies");
}

/// Another run, or another leader, that serves where this one did is not taken for it.
#[test]
fn nobody_answers_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ExporterSettings {
        name: "shoes é 1/2".to_owned(),
        ..settings(folder.path(), "w1")
    };
    let told = Arc::new(Told::default());
    let exporter = Exporter::start(settings, metrics(folder.path()), told.clone());
    let address = exporter.address().unwrap();
    let name = "shoes+%C3%A9+1%2F2";
    for (query, code) in [
        (String::new(), 200),
        ("?worker=w1".to_owned(), 200),
        (format!("?run={name}"), 200),
        (format!("?run={name}&worker=w1&more=1"), 200),
        ("?worker=w2".to_owned(), 404),
        ("?run=shoes".to_owned(), 404),
        (format!("?run={name}&worker="), 404),
    ] {
        for page in ["/metrics", "/healthz"] {
            assert_eq!(get(address, &format!("{page}{query}")).0, code, "{query}");
        }
    }
    let drain = "POST /drain?run=day HTTP/1.1\r\nAuthorization: Bearer s3cret\r\n";
    assert_eq!(ask(address, drain).0, 404);
    assert!(!told.is_draining());
    // What the list says leads here.
    let list = fs::read(folder.path().join("metrics/targets.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list[0]["labels"]["__param_worker"], "w1");
}

/// A gateway that takes one push.
#[test]
fn the_last_figures_are_pushed() {
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gateway.local_addr().unwrap();
    let got = Arc::new(Mutex::new(String::new()));
    let heard = got.clone();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = gateway.accept().unwrap();
        let mut buffer = [0; 65536];
        // The end of the last family of the catalogue that is always there.
        while !heard
            .lock()
            .unwrap()
            .contains("storyloom_unsaved_seconds 0")
        {
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "it left");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            heard.lock().unwrap().push_str(&text);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let settings = ExporterSettings {
        listen: None,
        push: Some(format!("http://{address}")),
        ..settings(folder.path(), "w1")
    };
    let metrics = metrics(folder.path());
    let exporter = Exporter::start(settings, metrics, Arc::new(Told::default()));
    assert!(exporter.address().is_none());
    drop(exporter);
    answering.join().unwrap();
    let got = got.lock().unwrap();
    assert!(
        got.starts_with("PUT /metrics/job/storyloom/run/shoes/instance/w1 HTTP/1.1"),
        "{got}"
    );
}
