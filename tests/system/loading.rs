//! The first moments of a run: it is seen and heeds signals while it reads and loads.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use crate::harness::{Signal, Workshop, send, storyloom, wait_until};

/// Where a reader waits for ever, once for each writer.
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

/// Handlers are there before the constructors of the libraries run, which takes longest.
#[test]
fn a_signal_in_the_first_moments_is_a_request_to_stop() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true; 20])]);
    for (signal, number) in [
        (Signal::TERM, 15),
        (Signal::INT, 2),
        (Signal::USR1, 10),
        (Signal::USR2, 12),
    ] {
        let mut child = shop
            .run(&manifest, &["simulated.step_ms=500"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", child.id());
        wait_until(&mut child, || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
        });
        send(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(75), "{signal:?}");
    }
    assert!(!shop.out().join("run.json").exists());
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
