//! A Prometheus on loopback that watches one run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::Workshop;

/// Prometheus with the rules of the project; it ends with the test.
pub struct Prometheus {
    child: Child,
    address: String,
}

/// A series of an answer: its value when it was asked for.
#[derive(Debug)]
pub struct Sample {
    pub labels: Value,
    pub value: f64,
}

impl Prometheus {
    /// Starts one that takes its targets from `targets` and its rules from the folder `rules`; `None`
    /// where there is none.
    pub fn start(shop: &Workshop, rules: &Path, targets: &Path) -> Option<Self> {
        let config = serde_json::json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "200ms"},
            "rule_files": [rules.join("recording.yml"), rules.join("alerts.yml")],
            "scrape_configs": [{
                "job_name": "storyloom",
                "file_sd_configs": [{"files": [targets], "refresh_interval": "1s"}],
            }],
        });
        // JSON is YAML.
        let config = shop.write("prometheus.yml", config.to_string());
        let started = Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                shop.path("tsdb").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("skipped: to watch a run needs Prometheus (Debian: prometheus)");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said: Vec<String> = Vec::new();
        // Different parts of it say where it listens and that it is ready.
        let words = ["ready to receive web requests", "msg=\"Listening on\""];
        let is_said = |word: &str, said: &[String]| said.iter().any(|line| line.contains(word));
        while !words.iter().all(|word| is_said(word, &said)) {
            match lines.next() {
                Some(Ok(line)) => said.push(line),
                _ => panic!("Prometheus does not start:\n{}", said.join("\n")),
            }
        }
        let address = said
            .iter()
            .find(|line| line.contains("msg=\"Listening on\""));
        let address = address.and_then(|line| line.split("address=").nth(1));
        let address = address.expect("where it listens").trim().to_owned();
        // It stops when nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, address })
    }

    /// An answer of the interface for programs.
    pub fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        // With 1.0 the answer comes in one piece and ends with the connection.
        write!(
            stream,
            "GET /api/v1/{path} HTTP/1.0\r\nHost: {host}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        assert_eq!(body["status"], "success", "{path}: {body}");
        body["data"].clone()
    }

    /// What an expression is now.
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        let data = self.get(&format!("query?query={}", escaped(expression)));
        let list = data["result"].as_array().unwrap().iter();
        list.map(|series| Sample {
            labels: series["metric"].clone(),
            value: series["value"][1].as_str().unwrap().parse().unwrap(),
        })
        .collect()
    }

    /// What an expression with at most one series is now.
    pub fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() < 2, "{expression}: {found:?}");
        found.first().map(|sample| sample.value)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b':' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
