use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::Value;
use tracing::field;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

fn settings(folder: &Path) -> LogSettings {
    LogSettings {
        folder: Some(folder.join("logs")),
        max_bytes: 1 << 20,
        max_total_bytes: 1 << 20,
        otlp: None,
    }
}

fn origin() -> Origin {
    Origin {
        world: "w".to_owned(),
        rank: 3,
    }
}

/// Does `work` with `log` listening from `level` on.
fn hearing(log: &RunLog, level: LevelFilter, work: impl FnOnce()) {
    let layer = log.layer().with_filter(filter(level));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
}

/// A shot as the orchestrator makes it: two stages, the second of which fails.
fn a_shot() {
    let shot = tracing::info_span!("shot", story = "ad", shot = "01_02", attempt = 1_u32);
    shot.in_scope(|| {
        tracing::info!("before");
        for stage in ["encode", "denoise"] {
            let span = tracing::info_span!("stage", stage, waited = 0.5, error = field::Empty);
            span.in_scope(|| tracing::warn!(layer = 7, "in {stage}"));
            if stage == "denoise" {
                span.record("error", "not finite");
            }
        }
    });
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("logs/w.rank-3.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.map(Result::unwrap).collect()
}

#[test]
fn lines_know_what_they_belong_to() {
    let folder = tempfile::tempdir().unwrap();
    let log = RunLog::new(settings(folder.path()), || Some("shoes".to_owned()));
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, || {
        tracing::info!("outside");
        a_shot();
        tracing::error!(story = %"ad", shot = %"01_02", "outside, but of a shot");
    });
    log.finish();
    let lines = lines(folder.path());
    let messages: Vec<_> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        messages,
        [
            "outside",
            "before",
            "in encode",
            "encode ended",
            "in denoise",
            "denoise ended",
            "shot ended",
            "outside, but of a shot"
        ]
    );
    for line in &lines {
        assert_eq!(
            (&line["run"], &line["world"]),
            (&"shoes".into(), &"w".into())
        );
        assert_eq!(line["rank"], 3);
        assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert!(lines[0].get("trace_id").is_none());
    let trace = &lines[1]["trace_id"];
    assert_eq!(trace.as_str().unwrap().len(), 32);
    for line in &lines[1..7] {
        assert_eq!(
            (&line["story"], &line["shot"]),
            (&"ad".into(), &"01_02".into())
        );
        assert_eq!((&line["attempt"], &line["trace_id"]), (&1.into(), trace));
    }
    let (inside, ended, shot) = (&lines[4], &lines[5], &lines[6]);
    assert_eq!(
        (&inside["stage"], &inside["level"]),
        (&"denoise".into(), &"WARN".into())
    );
    assert_eq!(inside["fields"]["layer"], 7);
    assert_eq!(
        (&ended["span"], &shot["span"]),
        (&"denoise".into(), &"shot".into())
    );
    assert_eq!(ended["fields"]["error"], "not finite");
    assert!(ended["seconds"].is_f64() && shot["seconds"].is_f64());
    assert_eq!(
        (&inside["span_id"], &ended["parent_id"]),
        (&ended["span_id"], &shot["span_id"])
    );
    assert_eq!(
        (&lines[7]["trace_id"], &lines[7]["rank"]),
        (trace, &3.into())
    );
}

#[test]
fn lines_wait_for_the_run_and_a_run_that_never_is_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("name");
    let path = name.clone();
    let log = RunLog::new(settings(folder.path()), move || {
        fs::read_to_string(&path).ok()
    });
    hearing(&log, LevelFilter::INFO, || {
        tracing::info!("before the world")
    });
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, || tracing::info!("before the run"));
    log.finish();
    assert!(!folder.path().join("logs").exists());
    fs::write(&name, "shoes").unwrap();
    log.finish();
    let lines = lines(folder.path());
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .all(|line| line["run"] == "shoes" && line["world"] == "w")
    );
}

#[test]
fn only_what_is_asked_for_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let log = RunLog::new(settings(folder.path()), || Some("shoes".to_owned()));
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, || {
        tracing::debug!("a detail");
        tracing::info!(target: "hyper", "of somebody else");
        tracing::warn!(target: "hyper", "a warning of somebody else");
    });
    hearing(&log, LevelFilter::DEBUG, || tracing::debug!("asked for"));
    hearing(&log, LevelFilter::ERROR, || tracing::warn!("less severe"));
    let lines = lines(folder.path());
    let messages: Vec<_> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages, ["a warning of somebody else", "asked for"]);
}

/// A run never fails by its log.
#[test]
fn a_folder_that_cannot_be_written_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("logs"),
        "a file where a folder should be",
    )
    .unwrap();
    let log = RunLog::new(settings(folder.path()), || Some("shoes".to_owned()));
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, a_shot);
    log.finish();
}

/// How long a collector waits for a packet.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A collector that takes one packet and says what was in it.
fn collector() -> (String, JoinHandle<(String, ExportTraceServiceRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let packet = std::thread::spawn(move || {
        let begun = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return receive(stream);
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                    assert!(begun.elapsed() < TIMEOUT, "no packet came");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    });
    (url, packet)
}

fn receive(mut stream: TcpStream) -> (String, ExportTraceServiceRequest) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&lower);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    (
        head,
        ExportTraceServiceRequest::decode(body.as_slice()).unwrap(),
    )
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key);
    format!("{:?}", found.unwrap().value.as_ref().unwrap().value)
}

#[test]
fn spans_go_to_a_collector() {
    let folder = tempfile::tempdir().unwrap();
    let (url, packet) = collector();
    let settings = LogSettings {
        otlp: Some(url),
        ..settings(folder.path())
    };
    let log = RunLog::new(settings, || Some("shoes".to_owned()));
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, a_shot);
    log.finish();

    let (head, packet) = packet.join().unwrap();
    assert!(head.starts_with("post /v1/traces "), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf"),
        "{head}"
    );
    let [resource] = &packet.resource_spans[..] else {
        panic!("{packet:?}");
    };
    let who = format!("{:?}", resource.resource);
    assert!(
        who.contains("storyloom") && who.contains("w.rank-3"),
        "{who}"
    );
    let spans = &resource.scope_spans[0].spans;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["encode", "denoise", "shot"]);
    let lines = lines(folder.path());
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    for (span, line) in spans.iter().zip([&lines[2], &lines[4], &lines[5]]) {
        assert_eq!(hex(&span.trace_id), line["trace_id"]);
        assert_eq!(hex(&span.span_id), line["span_id"]);
        assert_eq!(
            hex(&span.parent_span_id),
            line["parent_id"].as_str().unwrap_or_default()
        );
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        assert!(attribute(span, "storyloom.story").contains("ad"));
        assert!(attribute(span, "storyloom.run").contains("shoes"));
    }
    assert!(attribute(&spans[1], "storyloom.stage").contains("denoise"));
    assert_eq!(spans[1].status.as_ref().unwrap().message, "not finite");
}

/// Shots may end before anybody has looked what the run is called.
#[test]
fn spans_wait_for_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (url, packet) = collector();
    let name = folder.path().join("name");
    let path = name.clone();
    let settings = LogSettings {
        otlp: Some(url),
        ..settings(folder.path())
    };
    let log = RunLog::new(settings, move || fs::read_to_string(&path).ok());
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, a_shot);
    fs::write(&name, "shoes").unwrap();
    hearing(&log, LevelFilter::INFO, a_shot);
    log.finish();

    let (_, packet) = packet.join().unwrap();
    let spans = &packet.resource_spans[0].scope_spans[0].spans;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["encode", "denoise", "shot"].repeat(2));
    assert!(
        spans
            .iter()
            .all(|span| attribute(span, "storyloom.run").contains("shoes"))
    );
}

/// Where nobody listens, that is said once and the run goes on.
#[test]
fn a_collector_that_is_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there, and nobody is given that port.
    let settings = LogSettings {
        otlp: Some("http://127.0.0.1:1".to_owned()),
        ..settings(folder.path())
    };
    let log = RunLog::new(settings, || Some("shoes".to_owned()));
    log.placed(origin());
    hearing(&log, LevelFilter::INFO, a_shot);
    log.finish();
    assert_eq!(lines(folder.path()).len(), 6);
}
