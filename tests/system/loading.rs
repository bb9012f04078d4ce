//! The first moments of a run: it is seen and heeds signals while it reads and loads.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use crate::harness::{Signal, Workshop, send, storyloom, wait_until};

/// Where whoever reads waits for ever, once for each who writes.
fn pipe(shop: &Workshop, name: &str) -> String {
    let path = shop.path(name);
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path.display().to_string()
}

/// The other end of a pipe that `child` reads; it waits for what is never written.
fn hold(child: &mut Child, pipe: &str) -> File {
    let open = || {
        let mut options = File::options();
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        options.write(true).custom_flags(flags).open(pipe)
    };
    // Nobody can open it for writing before somebody reads it.
    let mut held = None;
    let slot = std::cell::RefCell::new(&mut held);
    wait_until(child, || match open() {
        Ok(file) => {
            **slot.borrow_mut() = Some(file);
            true
        }
        Err(_) => false,
    });
    held.unwrap()
}

fn ends_when_asked(mut child: Child) {
    send(Signal::TERM, child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

#[test]
fn a_signal_ends_a_run_that_reads_its_input() {
    let shop = Workshop::new();
    let manifest = pipe(&shop, "m.jsonl");
    let mut child = shop
        .run(&manifest, &[])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let held = hold(&mut child, &manifest);
    ends_when_asked(child);
    drop(held);
    assert!(!shop.is_begun());
}

#[test]
fn a_run_that_loads_is_seen_and_ends_when_asked() {
    let shop = Workshop::new();
    let key = pipe(&shop, "key");
    let line = serde_json::json!({"id": "ad", "title": "A red kettle", "shots": 1});
    let manifest = shop.write("m.jsonl", line.to_string());
    let sets = [
        "planner.backend=served",
        "planner.endpoint=http://127.0.0.1:9/v1",
        "planner.model=none",
        &format!("planner.key_file={key}"),
    ];
    let mut child = shop
        .run(&manifest, &sets)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let held = hold(&mut child, &key);
    let seen = storyloom(["status"]).arg(shop.out()).output().unwrap();
    assert!(seen.status.success());
    let text = String::from_utf8(seen.stdout).unwrap();
    assert!(text.contains(": loads"), "{text}");
    ends_when_asked(child);
    drop(held);
    let runs = fs::read_dir(shop.out().join("stories"));
    assert!(runs.is_err(), "nothing was begun");
}
