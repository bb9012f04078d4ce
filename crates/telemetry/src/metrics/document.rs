//! The catalogue as a document.

use std::fmt::Write as _;

use super::catalogue::{ALL, BUCKETS_S, Kind, Metric, Presence, Scope};
use super::labels::{Label, Values};

const INTRODUCTION: &str = "\
# Metrics

Made from `crates/telemetry/src/metrics/catalogue.rs`; a test compares the two.

The leader of each replica serves these at `/metrics` (option `metrics.listen`); ranks that share a
replica multiply no count. The labels `instance`, `run` (name of the run folder) and `node` (the
leader's machine) belong to the target: `DIR/metrics/targets.json` gives them to Prometheus, with the
leader's name among the workers as a parameter of the request, which no other leader answers. No label
names a story or a shot, so the number of series does not grow with the number of stories.
";

const RUN: &str = "\
## The whole run

Read from the run folder, with all programs that ever worked on it. Every leader says the same: take
`max by (run)`, never a sum.

";

const REPLICA: &str = "\
## One replica

Since its leader started. Add them up over replicas.

";

/// The document of all metrics, in Markdown.
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (scope, introduction) in [(Scope::Run, RUN), (Scope::Replica, REPLICA)] {
        text.push('\n');
        text.push_str(introduction);
        text.push_str("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        for metric in ALL.iter().filter(|metric| metric.scope == scope) {
            text.push_str(&row(metric));
        }
    }
    text.push_str(&labels());
    text
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let labels: Vec<_> = metric
        .labels
        .iter()
        .map(|label| format!("`{}`", label.name))
        .collect();
    let presence = match metric.presence {
        Presence::Always => "",
        Presence::Known => " Absent as long as there is nothing to compute it from.",
        Presence::Deadline => " Only with the option `run.deadline`.",
        Presence::Nvml => " Only on GPUs with NVML.",
    };
    let Metric { name, help, .. } = metric;
    format!(
        "| `{name}` | {kind} | {} | {help}{presence} |\n",
        labels.join(", ")
    )
}

/// The labels in the order in which they first appear, and the buckets.
fn labels() -> String {
    let mut text = "\n## Labels\n\n| label | values |\n|---|---|\n".to_owned();
    let mut seen: Vec<&Label> = Vec::new();
    for label in ALL.iter().flat_map(|metric| metric.labels) {
        if !seen.contains(&label) {
            seen.push(label);
        }
    }
    for label in seen {
        let values = match label.values {
            Values::Closed(values) => {
                let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                values.join(", ")
            }
            Values::Fact(what) => what.to_owned(),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(text, "| `{}` | {values} |", label.name);
    }
    let buckets: Vec<_> = BUCKETS_S.iter().map(f64::to_string).collect();
    let _ = writeln!(
        text,
        "\nBuckets of the histograms, in seconds: {}.",
        buckets.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_in_docs_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, markdown()).unwrap();
        } else {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            assert_eq!(text, markdown(), "run this test with UPDATE_EXPECT=1");
        }
    }
}
