//! Looking on: log files, spans, progress on a terminal and elsewhere, `status --watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::durable::BLUE;
use crate::harness::{Finished, Ranks, Signal, Workshop, finish, send, storyloom, wait_until};
use crate::torch::models;

const STORIES: [(&str, &[bool]); 3] = [
    ("ad", &[true, false]),
    ("tale", &[true, true]),
    ("note", &[true]),
];
const STAGES: [&str; 6] = ["plan", "encode", "denoise", "decode", "select", "commit"];

/// Log files by the end of their names.
fn log_files(shop: &Workshop) -> BTreeMap<String, PathBuf> {
    let files = fs::read_dir(shop.out().join("logs")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let (_, name) = name.split_once('.').unwrap();
            (name.to_owned(), path)
        })
        .collect()
}

fn lines(shop: &Workshop) -> Vec<Value> {
    let files = log_files(shop);
    let text: String = files
        .values()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let lines = text.lines().map(serde_json::from_str::<Value>);
    lines.map(Result::unwrap).collect()
}

/// Every shot is one span with a span for every stage, on whichever rank it was made.
#[test]
fn log_files_tell_what_every_rank_did() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &[]);
    let ended = finish(&mut command).ended_with(0);
    assert!(!ended.stderr.contains("made in"), "{}", ended.stderr);
    let names: Vec<_> = log_files(&shop).into_keys().collect();
    assert_eq!(names, ["rank-0.jsonl", "rank-1.jsonl"]);

    let run: Value =
        serde_json::from_slice(&fs::read(shop.out().join("run.json")).unwrap()).unwrap();
    let lines = lines(&shop);
    let mut worlds = BTreeSet::new();
    for line in &lines {
        assert_eq!(line["run"], run["run_id"], "{line}");
        for name in ["at", "level", "message", "target"] {
            assert!(line[name].is_string(), "{name} in {line}");
        }
        assert!(line["rank"] == 0 || line["rank"] == 1);
        worlds.insert(line["world"].as_str().unwrap());
    }
    assert_eq!(worlds.len(), 1);

    let shots: Vec<_> = lines.iter().filter(|line| line["span"] == "shot").collect();
    let traces: BTreeSet<_> = shots
        .iter()
        .map(|shot| shot["trace_id"].as_str().unwrap())
        .collect();
    assert_eq!((shots.len(), traces.len()), (5, 5));
    for shot in shots {
        let stages = lines
            .iter()
            .filter(|line| line["parent_id"] == shot["span_id"] && line["span"].is_string());
        let stages: Vec<_> = stages.collect();
        let names: Vec<_> = stages
            .iter()
            .map(|stage| stage["span"].as_str().unwrap())
            .collect();
        assert_eq!(names, STAGES);
        for stage in stages {
            for name in ["story", "shot", "attempt", "trace_id", "rank"] {
                assert!(
                    !stage[name].is_null() && stage[name] == shot[name],
                    "{name} in {stage}"
                );
            }
            assert_eq!(stage["stage"], stage["span"]);
            assert!(stage["seconds"].is_f64());
        }
    }
}

#[test]
fn logs_of_a_long_run_stay_small() {
    const MOST: u64 = 16 << 10;
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let most = format!("logs.max_bytes={MOST}");
    let sets = ["logs.level=trace", "storymem.steps=50", &most];
    finish(&mut shop.run(&manifest, &sets)).ended_with(0);
    let files = log_files(&shop);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let wanted = [
        "rank-0.1.jsonl",
        "rank-0.2.jsonl",
        "rank-0.3.jsonl",
        "rank-0.jsonl",
    ];
    assert_eq!(names, wanted);
    let sizes = files.values().map(|path| fs::metadata(path).unwrap().len());
    assert!(sizes.sum::<u64>() <= MOST);
    // What happened last is there, and every line is whole.
    let last = lines(&shop)
        .into_iter()
        .filter(|line| line["message"] == "story finished");
    assert!(last.count() > 0);
    // Without files nothing is written.
    let other = Workshop::new();
    finish(&mut other.run(&manifest, &["logs.json=false"])).ended_with(0);
    assert!(log_files(&other).is_empty());
}

/// Neither what the pictures show nor what opens doors, whatever goes wrong.
#[test]
fn prompts_and_secrets_are_not_logged() {
    const PROMPT: &str = "zebra-stripes-on-the-moon";
    const SECRET: &str = "open-sesame-4711";
    let shop = Workshop::new();
    let scene = serde_json::json!({"scene_num": 1, "video_prompts": [PROMPT, PROMPT], "cut": [true, false]});
    let script = serde_json::json!({"scenes": [scene]});
    let good = serde_json::json!({"id": "ad", "script": script});
    let broken =
        serde_json::json!({"id": "tale", "script": script, "reference_images": ["hero.png"]});
    shop.write("hero.png", BLUE);
    let manifest = shop.write("manifest.jsonl", format!("{good}\n{broken}"));
    let token = shop.write("token", SECRET);
    let sets = [&models(), &format!("metrics.token_file={token}")];
    let run = || {
        let mut command = shop.run_on(
            Ranks::Launch(2),
            "torch",
            &manifest,
            &sets.map(String::as_str),
        );
        command
            .env("STORYLOOM_METRICS_TOKEN", SECRET)
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("key={SECRET}"));
        finish(&mut command)
    };
    let made = run().ended_with(0);
    shop.poison("tale");
    let ended = run().ended_with(1).saying("01_01.json");
    let mut logs = made.stderr + &ended.stderr;
    for path in log_files(&shop).values() {
        logs.push_str(&fs::read_to_string(path).unwrap());
    }
    assert!(
        logs.contains("\"shot ended\"") && logs.contains("01_01.json"),
        "{logs}"
    );
    assert!(!logs.contains(PROMPT) && !logs.contains(SECRET), "{logs}");
    // The run knew them.
    let story = fs::read_to_string(shop.out().join("stories/ad/story.json")).unwrap();
    assert!(story.contains(PROMPT));
}

/// A collector that passes on the bodies of what is posted to it.
fn collector() -> (String, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (bodies, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            receive(stream.unwrap(), &bodies);
        }
    });
    (url, received)
}

fn receive(mut stream: TcpStream, bodies: &Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut length = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length.unwrap()];
        reader.read_exact(&mut body).unwrap();
        // Before the answer: who has it may end, and all that came is looked at then.
        let _ = bodies.send(body);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
    }
}

/// With the identifiers of the log lines.
#[test]
fn a_collector_gets_the_spans() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let (url, received) = collector();
    let set = format!("logs.otlp={url}");
    finish(&mut shop.run(&manifest, &[&set])).ended_with(0);
    let bytes: Vec<u8> = received.try_iter().flatten().collect();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let ended = lines(&shop)
        .into_iter()
        .filter(|line| line["span"].is_string());
    let mut count = 0;
    for line in ended {
        for name in ["trace_id", "span_id"] {
            let hex = line[name].as_str().unwrap();
            let id: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            assert!(has(&id), "{name} of {line}");
        }
        count += 1;
    }
    assert_eq!(count, 5 * 7);
    assert!(has(b"denoise") && has(b"storyloom.story"));
}

/// A line now and then, by the first rank alone, about all of them.
#[test]
fn progress_is_a_line_now_and_then() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    // Denoising takes two seconds, so that a line at every second meets steps of every shot.
    let sets = [
        "logs.progress_s=1",
        "simulated.step_ms=200",
        "storymem.steps=10",
    ];
    let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &sets);
    let begun = Instant::now();
    let ended = finish(&mut command).ended_with(0);
    let seconds = begun.elapsed().as_secs_f64();
    let all = ended
        .stderr
        .lines()
        .filter(|line| line.contains("/5 shots"));
    let lines: Vec<_> = all.collect();
    assert!(
        lines.iter().any(|line| line.contains(" denoise ")),
        "{}",
        ended.stderr
    );
    assert!(
        lines.iter().all(|line| line.contains("rank 0")),
        "{lines:?}"
    );
    // One at each second at most: shots and steps have none of their own.
    assert!(
        lines.len() as f64 <= seconds + 1.0,
        "{seconds} s: {lines:?}"
    );
}

/// A command on a terminal of `rows` rows; returns what the terminal was sent.
fn on_terminal(command: &Command, rows: u16, columns: u16) -> (Finished, Vec<u8>) {
    let quoted: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| format!("'{}'", part.to_str().unwrap()))
        .collect();
    let line = format!("stty rows {rows} cols {columns}; exec {}", quoted.join(" "));
    let mut script = Command::new("script");
    script
        .args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &line,
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .env("STORYLOOM_LOG", "info,storyloom_telemetry=debug")
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let output = script.output().unwrap();
    let finished = Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (finished, output.stdout)
}

/// All rows that a terminal ever had, those above its top included.
fn rows_of(bytes: &[u8], rows: u16, columns: u16) -> Vec<String> {
    let size = |count| NonZero::new(count).unwrap();
    let mut terminal = vt100::Parser::new(size(rows), size(columns), 10_000);
    terminal.process(bytes);
    let mut all = Vec::new();
    let screen = terminal.screen_mut();
    screen.set_scrollback(usize::MAX);
    let mut above = screen.scrollback();
    while above > 0 {
        screen.set_scrollback(above);
        all.extend(screen.rows(0, columns).take(above.min(rows.into())));
        above = above.saturating_sub(rows.into());
    }
    screen.set_scrollback(0);
    all.extend(screen.rows(0, columns));
    all
}

/// Bars on a terminal: they show what is promised, no log line is torn, and at the end they are
/// gone.
#[test]
fn bars_and_lines_share_a_terminal() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let sets = ["simulated.step_ms=100", "storymem.steps=10"];
    let command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &sets);
    // Few rows, so that it scrolls.
    let (ended, bytes) = on_terminal(&command, 12, 200);
    let sent = ended.ended_with(0).stdout;
    for wanted in [
        "stories", "shots", "denoise ", "/10", " an hour", " left", "goodput",
    ] {
        assert!(sent.contains(wanted), "no {wanted:?} in {sent:?}");
    }
    let rows = rows_of(&bytes, 12, 200);
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.trim_end())
        .filter(|row| !row.is_empty())
        .collect();
    // Only whole lines are left: of rank 0, each with its time at its beginning, and the last word.
    let (last, lines) = rows.split_last().unwrap();
    assert_eq!(*last, "3 of 3 stories done, 0 failed, 0 in quarantine");
    for line in lines {
        assert!(
            line.starts_with("20") && line.contains("Z rank 0"),
            "{line:?} in {rows:#?}"
        );
    }
    let made = lines.iter().filter(|line| line.contains("made in")).count();
    let mine = self::lines(&shop)
        .into_iter()
        .filter(|line| line["span"] == "shot" && line["rank"] == 0);
    assert_eq!(made, mine.count(), "{rows:#?}");
}

/// `status --watch --json`, line by line.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watch {
    fn start(shop: &Workshop) -> Self {
        let mut command = storyloom(["status", "--watch", "--json"]);
        let mut child = command
            .arg(shop.out())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The first document that is `wanted`.
    #[track_caller]
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        for line in self.lines.by_ref() {
            let view: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if wanted(&view) {
                return view;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "the moment never came: {view}"
            );
        }
        panic!("it ended before the moment came");
    }
}

fn workers<'a>(view: &'a Value, state: &str) -> Vec<&'a Value> {
    let workers = view["workers"].as_array().unwrap().iter();
    workers.filter(|worker| worker["state"] == state).collect()
}

fn has_steps(worker: &Value) -> bool {
    let now = worker["now"].as_array().unwrap();
    now.iter()
        .any(|shot| shot["stage"] == "denoise" && shot["step"].as_u64() > Some(0))
}

/// Two worlds on one folder, seen by a third program: what both are at, that one of them hangs, and
/// that it is back.
#[test]
fn status_watches_all_worlds() {
    let shop = Workshop::new();
    let stories: Vec<(String, Vec<bool>)> = (0..2)
        .map(|n| (format!("story-{n}"), vec![true; 8]))
        .collect();
    let stories: Vec<(&str, &[bool])> = stories
        .iter()
        .map(|(id, cuts)| (id.as_str(), &cuts[..]))
        .collect();
    let manifest = shop.manifest(&stories);
    let sets = [
        "simulated.step_ms=150",
        "storymem.steps=20",
        "topology.interleave=1",
        "run.lease_timeout=300",
    ];
    let start = || {
        let mut command = shop.run(&manifest, &sets);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut worlds = [start(), start()];
    wait_until(&mut worlds[0], || shop.out().join("run.json").exists());
    let mut watch = Watch::start(&shop);
    let both = watch.until(|view| {
        let working = workers(view, "working");
        working.len() == 2 && working.into_iter().all(has_steps)
    });
    let pids: BTreeSet<_> = both["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(
        pids,
        worlds.iter().map(|world| u64::from(world.id())).collect()
    );
    assert_eq!(both["shots"]["total"], 16);

    send(Signal::STOP, worlds[1].id());
    let stale = watch.until(|view| !workers(view, "stale").is_empty());
    let hung = workers(&stale, "stale")[0];
    assert_eq!(hung["pid"], worlds[1].id());
    assert!(hung["silent_seconds"].as_f64() > Some(9.0), "{hung}");
    send(Signal::CONT, worlds[1].id());
    watch.until(|view| workers(view, "working").len() == 2);
    let range = watch.until(|view| view["eta_range_seconds"].is_array());
    let ends = range["eta_range_seconds"].as_array().unwrap();
    assert!(
        ends[0].as_f64() <= ends[1].as_f64() && ends[1].as_f64() > Some(0.0),
        "{range}"
    );

    // The same on a terminal, drawn in place until the end.
    let mut page = storyloom(["status", "--watch"]);
    page.arg(shop.out());
    let (ended, bytes) = on_terminal(&page, 24, 100);
    ended.ended_with(0);
    let rows = rows_of(&bytes, 24, 100);
    assert_eq!(rows.len(), 24, "it scrolled: {rows:#?}");
    assert!(rows[0].contains("total   done  running"), "{rows:#?}");
    assert!(
        rows[1].starts_with("stories       2      2        0"),
        "{rows:#?}"
    );
    assert!(watch.lines.by_ref().all(|line| line.is_ok()));
    for world in &mut worlds {
        assert!(world.wait().unwrap().success());
    }
    assert!(watch.child.wait().unwrap().success());
}
