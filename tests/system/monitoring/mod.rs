//! What watches a run (`monitoring/`): its rules and dashboards name metrics that exist, the tools of
//! Prometheus and the types of Grafana accept them, alerts lead to the runbook, and a real Prometheus
//! sees of a real run what the program says of it.

mod live;
mod promql;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use storyloom_telemetry::metrics::catalogue;

use crate::harness::{Workshop, finish};

const DASHBOARDS: [&str; 2] = ["farm", "run"];

/// Metrics of Prometheus itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// Metrics of DCGM's exporter that dashboards join.
const OF_DCGM: [&str; 5] = [
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_XID_ERRORS",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rules of a file of rules.
fn rules(name: &str) -> Vec<Value> {
    let groups = yaml(&format!("monitoring/prometheus/{name}"));
    let groups = groups["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a text"))
}

/// Every text under the key `key`, however deep.
fn texts_of<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if let (true, Some(text)) = (name == key, field.as_str()) {
                    found.push(text);
                }
                texts_of(field, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, key, found)),
        _ => {}
    }
}

fn dashboard(name: &str) -> Value {
    let file = format!("monitoring/grafana/dashboards/{name}.json");
    serde_json::from_str(&read(&file)).unwrap()
}

/// All expressions of a dashboard, those of its variables as well.
fn expressions(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    texts_of(dashboard, "expr", &mut found);
    let mut all: Vec<_> = found.into_iter().map(str::to_owned).collect();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = text(&variable["query"]["query"]);
            let inside = query.strip_prefix("label_values(").unwrap();
            all.push(inside.split_once(',').unwrap().0.to_owned());
        }
    }
    all
}

/// Names that an expression may use: series of the catalogue, and what rules record.
fn known() -> BTreeSet<String> {
    let catalogue = catalogue::ALL.iter().flat_map(|metric| metric.series());
    let recorded = rules("recording.yml");
    let recorded = recorded.iter().map(|rule| text(&rule["record"]).to_owned());
    let others = OF_PROMETHEUS
        .iter()
        .chain(&OF_DCGM)
        .map(|&name| name.to_owned());
    catalogue.chain(recorded).chain(others).collect()
}

#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let known = known();
    let mut used = BTreeSet::new();
    let mut check = |place: &str, expression: &str| {
        for name in promql::metrics(expression) {
            assert!(
                known.contains(&name),
                "{place}: there is no metric {name}: {expression}"
            );
            used.insert(name);
        }
    };
    for file in ["recording.yml", "alerts.yml"] {
        for rule in rules(file) {
            check(file, text(&rule["expr"]));
        }
    }
    for name in DASHBOARDS {
        for expression in expressions(&dashboard(name)) {
            check(name, &expression);
        }
    }
    for metric in catalogue::ALL {
        let seen = metric.series().iter().any(|name| used.contains(name));
        assert!(seen, "nobody looks at {}", metric.name);
    }
    for name in OF_DCGM {
        assert!(used.contains(name), "nobody looks at {name}");
    }
}

#[test]
fn labels_in_expressions_have_values_that_exist() {
    use storyloom_telemetry::metrics::labels::Values;
    let mut closed: BTreeMap<&str, &[&str]> = BTreeMap::new();
    for label in catalogue::ALL.iter().flat_map(|metric| metric.labels) {
        if let Values::Closed(values) = label.values {
            closed.insert(label.name, values);
        }
    }
    let mut all: Vec<_> = ["recording.yml", "alerts.yml"]
        .iter()
        .flat_map(|file| rules(file))
        .map(|rule| text(&rule["expr"]).to_owned())
        .collect();
    all.extend(
        DASHBOARDS
            .iter()
            .flat_map(|name| expressions(&dashboard(name))),
    );
    let mut checked = 0;
    for expression in &all {
        for part in expression.split(['{', ',']) {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            let Some(values) = closed.get(name.trim()) else {
                continue;
            };
            let value = value.trim_start_matches('~').trim_start_matches('"');
            let value = value.split('"').next().unwrap();
            for value in value.split('|') {
                assert!(
                    values.contains(&value),
                    "{name} is never {value:?}: {expression}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 15, "only {checked} values were found");
}

/// The anchor that a heading gets on the pages of a document.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn every_alert_leads_to_its_section_of_the_runbook() {
    let runbook = read("docs/operations.md");
    let headings: BTreeSet<_> = runbook
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let alerts = rules("alerts.yml");
    for alert in &alerts {
        let name = text(&alert["alert"]);
        let (file, section) = text(&alert["annotations"]["runbook_url"])
            .split_once('#')
            .unwrap();
        assert_eq!(file, "docs/operations.md", "{name}");
        assert_eq!(section, name.to_lowercase(), "{name}");
        assert!(
            headings.contains(section),
            "the runbook has no section {name}"
        );
        let severity = text(&alert["labels"]["severity"]);
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
        assert!(!text(&alert["annotations"]["summary"]).is_empty(), "{name}");
    }
    let sections = headings
        .iter()
        .filter(|heading| heading.starts_with("storyloom"));
    assert_eq!(
        sections.count(),
        alerts.len(),
        "a section is about no alert"
    );
}

#[test]
fn every_alert_fires_in_a_test() {
    let tests = yaml("monitoring/prometheus/alerts_test.yml");
    let cases = tests["tests"].as_array().unwrap().iter();
    let cases = cases.flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten());
    let (mut fire, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in cases {
        let fires = case["exp_alerts"]
            .as_array()
            .is_some_and(|alerts| !alerts.is_empty());
        let list = if fires { &mut fire } else { &mut silent };
        list.insert(text(&case["alertname"]).to_owned());
    }
    for alert in rules("alerts.yml") {
        let name = text(&alert["alert"]);
        assert!(fire.contains(name), "{name} fires in no test");
        assert!(silent.contains(name), "{name} is silent in no test");
    }
}

/// Runs promtool in the folder of the rules; `None` where there is none.
fn promtool(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(root().join("monitoring/prometheus"));
    if command.output().is_err() {
        eprintln!("skipped: rules need promtool (Debian: prometheus)");
        return None;
    }
    let finished = finish(&mut command);
    let said = finished.stdout + &finished.stderr;
    assert_eq!(finished.code, Some(0), "promtool {arguments:?}:\n{said}");
    Some(said)
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    if promtool(&["check", "rules", "recording.yml", "alerts.yml"]).is_some() {
        promtool(&["check", "config", "--lint-fatal", "prometheus.yml"]);
        promtool(&["test", "rules", "alerts_test.yml"]);
    }
}

#[test]
fn promtool_accepts_the_expressions_of_dashboards() {
    let mut list = Vec::new();
    for name in DASHBOARDS {
        for expression in expressions(&dashboard(name)) {
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$run", ".*");
            assert!(
                !expression.contains('$'),
                "{name}: an unknown variable in {expression}"
            );
            list.push(serde_json::json!({"record": format!("panel:number{}", list.len()), "expr": expression}));
        }
    }
    assert!(
        list.len() > 60,
        "only {} expressions were found",
        list.len()
    );
    let shop = Workshop::new();
    let file = serde_json::json!({"groups": [{"name": "panels", "rules": list}]});
    let file = shop.write("panels.yml", file.to_string());
    if let Some(said) = promtool(&["check", "rules", &file]) {
        assert!(
            said.contains(&format!("{} rules found", list.len())),
            "{said}"
        );
    }
}

#[test]
fn dashboards_are_what_grafana_reads() {
    let mut command = Command::new("python3");
    command.arg(root().join("scripts/check_dashboards.py"));
    let types = root().join(".grafana-types");
    if !types.is_dir() {
        eprintln!("skipped: dashboards need Grafana's types (scripts/setup.sh --monitoring)");
        return;
    }
    command
        .env("PYTHONPATH", types)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let files = DASHBOARDS.map(|name| format!("monitoring/grafana/dashboards/{name}.json"));
    let good = finish(command.current_dir(root()).args(&files)).ended_with(0);
    assert_eq!(good.stdout, "2 dashboards, 0 problems\n");

    let shop = Workshop::new();
    let mut broken = dashboard("run");
    broken["panels"][1]["titel"] = "".into();
    broken["panels"][1]["options"]["colorMode"] = "many".into();
    let bad = finish(command.arg(shop.write("bad.json", broken.to_string())));
    assert_eq!(bad.code, Some(1), "{}", bad.stdout);
    for expected in [
        "panels[1].titel: there is no such field",
        "'many' is not",
        "2 problems",
    ] {
        assert!(bad.stdout.contains(expected), "{expected}: {}", bad.stdout);
    }
}

#[test]
fn panels_lie_beside_each_other_and_say_what_they_show() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = text(&panel["title"]);
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title} has no id of its own"
            );
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {title} is too wide");
            for cell in (at("x")..at("x") + at("w"))
                .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
            {
                assert!(taken.insert(cell), "{name}: {title} lies on another panel");
            }
            if panel["type"] != "row" {
                assert!(
                    text(&panel["description"]).ends_with('.'),
                    "{name}: {title} lacks its description"
                );
                assert_eq!(
                    panel["datasource"]["uid"], "${datasource}",
                    "{name}: {title}"
                );
            }
        }
    }
}

#[test]
fn the_compose_file_mounts_files_that_exist() {
    let compose = yaml("monitoring/compose.yml");
    let mut mounts = 0;
    for service in compose["services"].as_object().unwrap().values() {
        for volume in service["volumes"].as_array().unwrap() {
            if let Some(volume) = text(volume).strip_prefix("./") {
                let source = volume.split(':').next().unwrap();
                assert!(root().join("monitoring").join(source).exists(), "{source}");
                mounts += 1;
            }
        }
    }
    assert_eq!(mounts, 3);
    let config = yaml("monitoring/prometheus/prometheus.yml");
    for file in config["rule_files"].as_array().unwrap() {
        assert!(
            root()
                .join("monitoring/prometheus")
                .join(text(file))
                .exists()
        );
    }
    let job = &config["scrape_configs"][0];
    assert_eq!(job["job_name"], "storyloom", "alerts are about this job");
    let targets = text(&job["file_sd_configs"][0]["files"][0]);
    let mounted = text(&compose["services"]["prometheus"]["volumes"][1]);
    assert!(mounted.ends_with(":/run-folder:ro"), "{mounted}");
    assert_eq!(targets, "/run-folder/metrics/targets.json");
}
