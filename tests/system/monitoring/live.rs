//! A real Prometheus on a real run of two ranks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use storyloom_telemetry::metrics::catalogue::{self, Metric, Presence};
use storyloom_telemetry::metrics::labels::Values;

use super::root;
use super::server::{Prometheus, Sample};
use crate::harness::{Ranks, Signal, Workshop, finish, send};
use crate::torch::models;
use crate::world::children;

/// What takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(120);
const STATES: [&str; 5] = ["done", "running", "pending", "failed", "quarantined"];

/// A run on two ranks, and the Prometheus that watches it. Its shots take so long that much can be
/// asked between two of them.
struct Watched {
    shop: Workshop,
    run: Child,
    prometheus: Prometheus,
}

impl Watched {
    /// `None` without Prometheus.
    fn start() -> Option<Self> {
        let shop = Workshop::new();
        let targets = shop.out().join("metrics/targets.json");
        let rules = root().join("monitoring/prometheus").canonicalize().unwrap();
        let prometheus = Prometheus::start(&shop, &rules, &targets)?;
        let manifest = shop.manifest(&[("a", &[true, false]), ("b", &[true, true])]);
        let sets = [
            "metrics.listen=127.0.0.1:0",
            "simulated.step_ms=6000",
            "storymem.steps=3",
        ];
        let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &sets);
        let run = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            shop,
            run,
            prometheus,
        })
    }

    /// What `status` says; nothing before the run has begun.
    fn status(&self) -> Option<Value> {
        let told = self.shop.ask(&["status", "--json"]);
        (told.code == Some(0)).then(|| told.json())
    }

    /// Asks again and again until there is an answer. The run must not end before.
    #[track_caller]
    fn wait<T>(&mut self, what: &str, ask: impl Fn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = ask(self) {
                return found;
            }
            assert!(begun.elapsed() < TIMEOUT, "{what}: it never came");
            assert!(
                self.run.try_wait().unwrap().is_none(),
                "{what}: the run ended before"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until Prometheus reaches both leaders, and returns its samples of that. On a busy machine
    /// it misses one now and then.
    fn wait_for_both(&mut self) -> Vec<Sample> {
        self.wait("both serve", |watched| {
            let up = watched.prometheus.query("up{job=\"storyloom\"} == 1");
            (up.len() == 2).then_some(up)
        })
    }

    /// Waits for a moment at which Prometheus says of stories and shots what `status` and `verify` do,
    /// with two shots done at least. A change between two of them makes them differ.
    fn wait_for_agreement(&mut self) {
        self.wait("Prometheus, status and verify agree", |watched| {
            let status = watched.status()?;
            let done = status["shots"]["done"]
                .as_f64()
                .filter(|&done| done >= 2.0)?;
            let seen = |of: &str, state: &str| {
                let name = format!("max(storyloom_run_{of}{{state=\"{state}\"}})");
                watched.prometheus.value(&name) == status[of][state].as_f64()
            };
            let states = ["stories", "shots"]
                .iter()
                .all(|of| STATES.iter().all(|s| seen(of, s)));
            let committed = "sum(storyloom_attempts_total{end=\"committed\"})";
            if !states || watched.prometheus.value(committed) != Some(done) {
                return None;
            }
            let proven = watched.shop.ask(&["verify", "--quick", "--json"]).json();
            (proven["shots_proven"].as_f64() == Some(done)).then_some(())
        });
    }

    /// Lets the run end, and looks at what is left.
    fn end(self) {
        let Self {
            shop,
            run,
            prometheus,
        } = self;
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let verified = shop.ask(&["verify", "--json"]).ended_with(0).json();
        assert_eq!(verified["shots_proven"], 4);

        // In good order, the leaders took themselves off the list.
        let begun = Instant::now();
        while !prometheus.get("targets?state=active")["activeTargets"]
            .as_array()
            .unwrap()
            .is_empty()
        {
            assert!(begun.elapsed() < TIMEOUT, "there are targets left");
            std::thread::sleep(Duration::from_millis(50));
        }
        let most = prometheus.value("max(max_over_time(storyloom_run_shots{state=\"done\"}[1h]))");
        assert!(
            most.is_some_and(|most| (2.0..=4.0).contains(&most)),
            "{most:?}"
        );
    }
}

/// Every series is one of the catalogue with its labels, and every metric that is always there is.
#[track_caller]
fn only_and_all_of_the_catalogue(prometheus: &Prometheus) {
    let mut known: BTreeMap<String, &Metric> = BTreeMap::new();
    for metric in catalogue::ALL {
        known.extend(metric.series().into_iter().map(|name| (name, *metric)));
    }
    let mut seen = BTreeSet::new();
    for sample in prometheus.query("{__name__=~\"storyloom_.+\"}") {
        let name = sample.labels["__name__"].as_str().unwrap();
        let metric = known
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        seen.insert(metric.name);
        let labels = sample
            .labels
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str);
        let of_target = ["__name__", "job", "instance", "run", "node"];
        let mut labels: BTreeSet<_> = labels.filter(|label| !of_target.contains(label)).collect();
        if name.ends_with("_bucket") {
            assert!(labels.remove("le"), "{name}");
        }
        assert_eq!(labels, metric.label_names().into_iter().collect(), "{name}");
        for label in metric.labels {
            let value = sample.labels[label.name].as_str().unwrap();
            if let Values::Closed(values) = label.values {
                assert!(values.contains(&value), "{name}: {} is {value}", label.name);
            }
        }
    }
    for metric in catalogue::ALL {
        let always = metric.presence == Presence::Always;
        assert!(
            !always || seen.contains(metric.name),
            "{} is not there",
            metric.name
        );
    }
}

/// No rule failed, and no alert fires.
#[track_caller]
fn rules_are_well(prometheus: &Prometheus) {
    let groups = prometheus.get("rules");
    let mut count = 0;
    for group in groups["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let error = rule["lastError"].as_str().unwrap_or_default();
            assert_eq!(error, "", "{}", rule["name"]);
            count += 1;
        }
    }
    assert!(count > 30, "only {count} rules");
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    assert!(firing.is_empty(), "{firing:?}");
}

#[test]
fn prometheus_sees_what_status_and_verify_say() {
    let Some(mut watched) = Watched::start() else {
        return;
    };
    watched.wait_for_agreement();
    // Two replicas serve, and say whose run it is.
    let up = watched.wait_for_both();
    watched.wait("both tell their ranks", |watched| {
        let ranks = watched.prometheus.value("sum(storyloom_ranks)")?;
        (ranks == 2.0).then_some(())
    });
    let prometheus = &watched.prometheus;
    assert!(
        up.iter().all(|sample| sample.labels["run"] == "out"),
        "{up:?}"
    );
    assert!(
        up.iter().all(|sample| sample.labels["node"].is_string()),
        "{up:?}"
    );
    only_and_all_of_the_catalogue(prometheus);
    rules_are_well(prometheus);
    watched.end();
}

/// Two ranks share one replica: when it ends it leaves the figures of one leader, and they are those
/// of the run.
#[test]
fn ranks_that_share_a_replica_multiply_nothing() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true, false]), ("b", &[true])]);
    let sets = [&models(), "topology.cfg=2"];
    finish(&mut shop.run_on(Ranks::Launch(2), "torch", &manifest, &sets)).ended_with(0);
    let files = fs::read_dir(shop.out().join("metrics")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let left: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == "prom"))
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let text = fs::read_to_string(&left[0]).unwrap();
    let value = |series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
        line.trim().parse::<f64>().unwrap()
    };
    let verified = shop.ask(&["verify", "--json"]).ended_with(0).json();
    let proven = verified["shots_proven"].as_f64().unwrap();
    assert_eq!(value("storyloom_ranks "), 2.0);
    assert_eq!(
        value("storyloom_attempts_total{end=\"committed\"} "),
        proven
    );
    assert_eq!(value("storyloom_stories_done_total "), 2.0);
    assert_eq!(value("storyloom_shot_duration_seconds_count "), proven);
    assert!(value("storyloom_collectives_total{rank=\"0\"} ") > 0.0);
}

#[test]
fn a_killed_leader_stays_on_the_list_and_is_missed() {
    let Some(mut watched) = Watched::start() else {
        return;
    };
    watched.wait_for_both();
    let leader = children(watched.run.id())[1];
    send(Signal::KILL, leader);
    // Its peer ends too, in good order; the one that was killed could not.
    watched.run.wait().unwrap();
    let prometheus = &watched.prometheus;
    let is_missed = || {
        let alerts = prometheus.query("ALERTS{alertname=\"StoryloomReplicaLost\"}");
        prometheus.value("sum(up{job=\"storyloom\"})") == Some(0.0) && !alerts.is_empty()
    };
    let begun = Instant::now();
    while !is_missed() {
        assert!(begun.elapsed() < TIMEOUT, "no alert is on its way");
        std::thread::sleep(Duration::from_millis(50));
    }
}
