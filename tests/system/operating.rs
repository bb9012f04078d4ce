//! Looking after a run: where its time went, the pages of its programs, and draining it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::harness::{Ranks, Signal, Workshop, finish, signal_when};

/// Nothing here takes so long; what does has hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Waits for what another program does.
#[track_caller]
fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < TIMEOUT, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that writes what it says to a file: it lived until its last word. Leaving memory takes
/// a program with a tensor library another half second of a core, which may be many on a busy
/// machine.
struct Timed {
    child: Child,
    /// Before it was started, and after.
    begun: [SystemTime; 2],
    said: PathBuf,
}

impl Timed {
    fn start(command: &mut Command, said: PathBuf) -> Self {
        let file = fs::File::create(&said).unwrap();
        let before = SystemTime::now();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let begun = [before, SystemTime::now()];
        Self { child, begun, said }
    }

    /// Seconds until its last word, at least and at most.
    fn end(mut self) -> [f64; 2] {
        self.child.wait().unwrap();
        let last = fs::metadata(&self.said).unwrap().modified().unwrap();
        self.lived([last; 2])
    }

    /// Seconds until it was killed, at least and at most.
    fn kill(mut self) -> [f64; 2] {
        let before = SystemTime::now();
        self.child.kill().unwrap();
        let killed = [before, SystemTime::now()];
        self.child.wait().unwrap();
        self.lived(killed)
    }

    fn lived(&self, until: [SystemTime; 2]) -> [f64; 2] {
        let seconds = |from, to: SystemTime| to.duration_since(from).unwrap().as_secs_f64();
        [
            seconds(self.begun[1], until[0]),
            seconds(self.begun[0], until[1]),
        ]
    }
}

/// Kind and story of every line of all journals, with the end of attempts.
fn lines(shop: &Workshop) -> Vec<(String, Value)> {
    let folder = shop.out().join("logs/shifts");
    let Ok(names) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = names.map(|name| name.unwrap().path());
    let journals = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    let text: String = journals
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let kind = |line: Value| (line["kind"].as_str().unwrap().to_owned(), line);
    lines.map(kind).collect()
}

/// How many lines are of this kind.
fn lines_of(shop: &Workshop, wanted: &str) -> usize {
    let lines = lines(shop);
    lines.iter().filter(|(kind, _)| kind == wanted).count()
}

/// How many attempts have ended like this.
fn ends(shop: &Workshop, how: &str) -> usize {
    let is = |(kind, line): &(String, Value)| kind == "shot" && line["end"] == how;
    lines(shop).iter().filter(|line| is(line)).count()
}

/// With programs that are killed and started again, every second of every rank is accounted for.
#[test]
fn the_time_of_all_ranks_adds_up() {
    const STORIES: usize = 8;
    const SHOTS: usize = 5;
    const STEPS: usize = 4;
    const STEP: f64 = 0.3;
    let shop = Workshop::new();
    let names: Vec<String> = (0..STORIES).map(|n| format!("story-{n}")).collect();
    let stories: Vec<(&str, &[bool])> = names
        .iter()
        .map(|name| (name.as_str(), &[true; SHOTS][..]))
        .collect();
    let manifest = shop.manifest(&stories);
    let start = |name: &str| {
        let mut command = shop.run(
            &manifest,
            &[
                &format!("simulated.step_ms={}", (STEP * 1e3) as u32),
                &format!("storymem.steps={STEPS}"),
                "simulated.videos=false",
                "checkpoint.every_steps=2",
                "run.note_ms=50",
            ],
        );
        Timed::start(&mut command, shop.path(name))
    };
    // Two at a time, of which one is killed three times.
    let steady = start("steady");
    let mut lives = Vec::new();
    for kill in 1..=3 {
        let victim = start("victim");
        let is_busy = || ends(&shop, "committed") >= 7 * kill && lines_of(&shop, "loaded") > kill;
        wait_for("a shot", || is_busy().then_some(()));
        lives.push(victim.kill());
    }
    lives.push(start("last").end());
    lives.push(steady.end());
    let [least, most] = [0, 1].map(|bound| lives.iter().map(|life| life[bound]).sum::<f64>());

    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["shots"]["done"], STORIES * SHOTS);
    let part = |name: &str| status["time"][name].as_f64().unwrap();
    let sum = part("useful") + part("wasted") + part("load") + part("idle");
    assert!(
        least * 0.98 <= sum && sum <= most * 1.02,
        "{sum} s are accounted for, of {least} to {most} s"
    );
    // No sampling step of a shot that exists is missing, and what was killed was not useful.
    let denoising = (STORIES * SHOTS * STEPS) as f64 * STEP;
    assert!(part("useful") >= denoising, "{status}");
    assert!(part("wasted") > 0.0 && part("load") > 0.0, "{status}");
    let goodput = status["goodput"].as_f64().unwrap();
    assert!((goodput - part("useful") / sum).abs() < 1e-9);
    assert_eq!(lines_of(&shop, "begun") - lines_of(&shop, "ended"), 3);
}

/// One story of many shots, each of which takes a while.
fn long_run(shop: &Workshop) -> String {
    shop.manifest(&[("one", &[true; 30]), ("two", &[true; 30])])
}

const SLOW: [&str; 3] = [
    "simulated.step_ms=150",
    "storymem.steps=4",
    "simulated.videos=false",
];

#[test]
fn a_drained_run_finishes_its_shots_and_begins_no_new_ones() {
    let shop = Workshop::new();
    let manifest = long_run(&shop);
    let worlds: Vec<_> = (0..2)
        .map(|_| {
            let mut command = shop.run(&manifest, &SLOW);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    wait_for("two programs", || {
        (lines_of(&shop, "loaded") == 2 && ends(&shop, "committed") > 0).then_some(())
    });
    shop.ask(&["drain"]).ended_with(0).saying("--undo");
    shop.ask(&["drain"]).ended_with(0).saying("asked to before");
    for world in worlds {
        let ended = world.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(75), "{said}");
        assert!(said.contains("--undo"), "{said}");
    }
    // What was begun was finished.
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["shots"]["done"], ends(&shop, "committed"));
    assert!(status["shots"]["done"].as_u64().unwrap() < 60, "{status}");
    assert_eq!((ends(&shop, "stopped"), ends(&shop, "failed")), (0, 0));
    // Also for programs that come later, until it is withdrawn.
    let shifts = lines(&shop).len();
    finish(&mut shop.run(&manifest, &SLOW))
        .ended_with(75)
        .saying("--undo");
    assert_eq!(lines(&shop).len(), shifts);
    shop.ask(&["drain", "--undo"]).ended_with(0);
    finish(&mut shop.run(&manifest, &["storymem.steps=4", "simulated.videos=false"])).ended_with(0);
    shop.ask(&["verify"]).ended_with(0);
}

#[test]
fn a_signal_drains_one_program() {
    let shop = Workshop::new();
    let mut command = shop.run(&long_run(&shop), &SLOW);
    let ended = signal_when(&mut command, Signal::USR2, || ends(&shop, "committed") > 0);
    ended.ended_with(75);
    assert_eq!(ends(&shop, "stopped"), 0);
}

#[test]
fn a_folder_that_is_no_run_is_not_drained() {
    let shop = Workshop::new();
    fs::create_dir(shop.out()).unwrap();
    shop.ask(&["drain"]).ended_with(65).saying("run.json");
    assert!(!shop.out().join("drain.json").exists());
}

/// Status and body of an answer.
fn ask(address: &str, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "{request}Host: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let code = text.split(' ').nth(1)?.parse().ok()?;
    Some((code, text.split_once("\r\n\r\n")?.1.to_owned()))
}

fn get(address: &str, page: &str) -> Option<(u16, String)> {
    ask(address, &format!("GET {page} HTTP/1.1\r\n"))
}

/// Addresses in `metrics/targets.json`, with their labels.
fn targets(shop: &Workshop) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(shop.out().join("metrics/targets.json"));
    let list: Vec<Value> = serde_json::from_str(&text.unwrap_or("[]".to_owned())).unwrap();
    let entry = |entry: &Value| {
        let address = entry["targets"][0].as_str().unwrap().to_owned();
        (address, entry["labels"].clone())
    };
    list.iter().map(entry).collect()
}

#[test]
fn the_pages_of_a_run_tell_how_it_goes_and_take_orders() {
    const SECRET: &str = "open-sesame-4711";
    let shop = Workshop::new();
    let manifest = long_run(&shop);
    let mut command = shop.run(&manifest, &SLOW);
    let command = command.env("STORYLOOM_METRICS_TOKEN", SECRET);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let (address, labels) = wait_for("a target", || targets(&shop).into_iter().next());
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert_eq!(labels["run"], "out");
    wait_for("a ready program", || {
        get(&address, "/readyz").filter(|(code, _)| *code == 200)
    });
    assert_eq!(get(&address, "/healthz").unwrap().0, 200);
    let status = wait_for("a shot", || {
        let (code, text) = get(&address, "/status")?;
        let status: Value = serde_json::from_str(&text).ok().filter(|_| code == 200)?;
        (status["shots"]["done"].as_u64()? > 0).then_some(status)
    });
    let asked = shop.ask(&["status", "--json"]).ended_with(0).json();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&status), keys(&asked));
    let (code, figures) = get(&address, "/metrics").unwrap();
    assert!(
        code == 200 && figures.contains("storyloom_run_shots{state=\"done\"}"),
        "{figures}"
    );

    let order = |token: &str| {
        let authorization = format!("Authorization: Bearer {token}\r\n");
        let request = format!("POST /drain HTTP/1.1\r\nContent-Length: 0\r\n{authorization}");
        ask(&address, &request).unwrap().0
    };
    assert_eq!(order("guess"), 401);
    assert_eq!(order(SECRET), 202);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(75), "{said}");
    // The pages are gone, the last figures stay, and the token is nowhere.
    assert!(get(&address, "/healthz").is_none());
    assert!(!shop.out().join("metrics/targets.json").exists());
    let left = fs::read_dir(shop.out().join("metrics")).unwrap();
    let paths = left.map(|name| name.unwrap().path());
    let dumps: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "prom"))
        .collect();
    let dump = fs::read_to_string(&dumps[0]).unwrap();
    let done = shop.ask(&["status", "--json"]).ended_with(0).json()["shots"]["done"].clone();
    let line = format!("storyloom_run_shots{{state=\"done\"}} {done}");
    assert!(
        dump.lines().any(|found| found == line),
        "no {line} in\n{dump}"
    );
    assert!(!said.contains(SECRET));
    let grep = Command::new("grep")
        .args(["-rq", SECRET])
        .arg(shop.out())
        .status();
    assert_eq!(grep.unwrap().code(), Some(1));
}

/// A status has names of stories only where somebody wants them there.
#[test]
fn pages_name_no_stories_unless_asked_to() {
    for (names, wanted) in [("metrics.names=false", false), ("metrics.names=true", true)] {
        let shop = Workshop::new();
        let manifest = long_run(&shop);
        let mut command = shop.run(&manifest, &[&SLOW[..], &[names]].concat());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let (address, _) = wait_for("a target", || targets(&shop).into_iter().next());
        let status = wait_for("a shot", || {
            let text = get(&address, "/status")?.1;
            let status: Value = serde_json::from_str(&text).ok()?;
            let now = status["workers"][0]["now"].as_array()?.len();
            (now > 0).then_some(text)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let named = status.contains("\"one\"") || status.contains("\"two\"");
        assert_eq!(named, wanted, "{status}");
    }
}

/// With more connections open than the program may have files, it makes its stories: alone and as a
/// world, whose leaders serve a page each.
#[test]
fn connections_to_the_pages_take_nothing_from_the_run() {
    const FILES: usize = 128;
    for ranks in [Ranks::Alone, Ranks::Launch(2)] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&[("one", &[true; 8]), ("two", &[true; 8])]);
        let run = shop.run_on(ranks, "simulated", &manifest, &SLOW);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &format!("ulimit -n {FILES}; exec \"$@\""), "sh"])
            .arg(run.get_program())
            .args(run.get_args())
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = shell.spawn().unwrap();
        let leaders = match ranks {
            Ranks::Launch(leaders) => leaders,
            _ => 1,
        };
        let all = wait_for("all targets", || {
            Some(targets(&shop)).filter(|found| found.len() == leaders)
        });
        let mut idle = Vec::new();
        for address in all.keys() {
            for _ in 0..2 * FILES {
                let mut stream = TcpStream::connect(address).unwrap();
                // Some are cut off at once.
                let _ = write!(stream, "GET /metrics HTTP/1.1\r\nX: ");
                idle.push(stream);
            }
            assert_eq!(get(address, "/healthz").unwrap().0, 200);
        }
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        shop.ask(&["verify", "--quick"]).ended_with(0);
    }
}

/// Who is killed is known to be dead at once, what it was at is not called running, and nothing of it
/// is left on the list of targets when the run is done.
#[test]
fn a_killed_program_leaves_nothing_running_and_no_target() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("one", &[true; 4]), ("two", &[true; 4])]);
    let mut command = shop.run(&manifest, &SLOW);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for("a shot", || (ends(&shop, "committed") > 0).then_some(()));
    wait_for("a target", || targets(&shop).into_iter().next());
    let status = || shop.ask(&["status", "--json"]).ended_with(0).json();
    let stories = |status: &Value, state: &str| status["stories"][state].as_u64().unwrap_or(0);
    let before = status();
    assert!(stories(&before, "running") > 0, "{before}");
    assert_eq!(stories(&before, "interrupted"), 0, "{before}");

    child.kill().unwrap();
    child.wait().unwrap();
    let after = status();
    assert_eq!(after["workers"][0]["state"], "dead", "{after}");
    assert_eq!(stories(&after, "running"), 0, "{after}");
    let begun = stories(&after, "interrupted");
    assert!(begun > 0 && begun <= stories(&after, "pending"), "{after}");
    let page = shop.ask(&["status"]).ended_with(0).stdout;
    for wanted in ["DEAD", "nobody works on it", "go on\n"] {
        assert!(page.contains(wanted), "no {wanted:?} in\n{page}");
    }
    let list = shop.ask(&["status", "--state", "interrupted", "--json"]);
    let list = list.ended_with(0).json()["list"].as_array().unwrap().len();
    assert_eq!(list as u64, begun);
    let failed = shop
        .ask(&["status", "--failed", "--json"])
        .ended_with(0)
        .json();
    assert_eq!(failed["list"], serde_json::json!([]));

    finish(&mut shop.run(&manifest, &["storymem.steps=4", "simulated.videos=false"])).ended_with(0);
    assert!(targets(&shop).is_empty());
    let done = status();
    assert_eq!(
        (stories(&done, "done"), stories(&done, "interrupted")),
        (2, 0)
    );
}

#[test]
fn a_drained_run_has_nothing_running() {
    let shop = Workshop::new();
    let mut command = shop.run(&long_run(&shop), &SLOW);
    signal_when(&mut command, Signal::USR2, || ends(&shop, "committed") > 0).ended_with(75);
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["stories"]["running"], 0, "{status}");
    assert_eq!(status["stories"]["pending"], 2, "{status}");
    assert!(
        status["stories"]["interrupted"].as_u64() > Some(0),
        "{status}"
    );
}

/// Ten thousand lines help nobody: a list is there for who asks.
#[test]
fn status_sums_up_and_lists_what_is_asked_for() {
    let shop = Workshop::new();
    let story = |(place, tenant): (usize, &str)| {
        let line = crate::harness::line(&format!("story-{place}"), &[true]);
        let mut line: Value = serde_json::from_str(&line).unwrap();
        line["tenant"] = Value::from(tenant);
        line.to_string()
    };
    let tenants = ["north", "south", "north"];
    let lines: Vec<String> = tenants.into_iter().enumerate().map(story).collect();
    let manifest = shop.write("manifest.jsonl", lines.join("\n"));
    finish(&mut shop.run(&manifest, &["simulated.videos=false"])).ended_with(0);
    let said = |arguments: &[&str]| {
        let all = [&["status"], arguments].concat();
        shop.ask(&all).ended_with(0).stdout
    };
    let summary = said(&[]);
    assert!(!summary.contains("story-0"), "{summary}");
    assert!(
        summary.contains("north") && summary.contains("south"),
        "{summary}"
    );
    let count = |arguments: &[&str]| said(arguments).matches("story-").count();
    for (arguments, listed) in [
        (&["--stories"][..], 3),
        (&["--tenant", "north"], 2),
        (&["--state", "done"], 3),
        (&["--state", "pending,running"], 0),
        (&["--tenant", "south", "--state", "done"], 1),
        (&["--failed"], 0),
    ] {
        assert_eq!(count(arguments), listed, "{arguments:?}");
    }
    let json: Value = serde_json::from_str(&said(&["--tenant", "south", "--json"])).unwrap();
    assert_eq!(json["list"][0]["id"], "story-1");
    assert_eq!(json["tenants"]["north"]["done"], 2);
    shop.ask(&["status", "--state", "gone"]).ended_with(2);
}
