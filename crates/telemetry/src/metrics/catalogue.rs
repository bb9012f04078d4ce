//! Every metric of storyloom: the one place that names them.
//!
//! The exporter registers what stands here, `docs/metrics.md` is made from it, and rules and
//! dashboards may use nothing else. Two kinds of scope must not be confused in a query, and the
//! names keep them apart:
//!
//! - `storyloom_run_…` is about the **whole run**, read from its folder. Every leader says the same,
//!   so take `max by (run)`, never a sum.
//! - All others are about **one replica** since its leader started. Add them up over replicas. Only
//!   leaders serve metrics, so ranks that share a layer multiply no count.
//!
//! Which process a series comes from is told by the labels of its target, `instance`, `run` (name of
//! the run folder) and `node` (the leader's machine), which `DIR/metrics/targets.json` gives to
//! Prometheus. They are therefore not among the labels here.

use storyloom_story::Stage;

use super::labels::{
    AttemptEnd, Bound, CheckpointAction, Device, DiskRole, ENGINE, HOST, Label, LabelValue,
    LossCause, METHOD, Preemption, RANK, REPLICA, State, UUID, Use, VERSION, XID,
};

/// Upper bounds of the buckets of all histograms, in seconds: 1 s to 2 h.
pub const BUCKETS_S: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0,
];

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: Unit,
    /// What it is about.
    pub scope: Scope,
    /// When it is there.
    pub presence: Presence,
    /// What it is divided by.
    pub labels: &'static [Label],
    /// One sentence for the reader of a scrape.
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// What the numbers of a metric count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Seconds.
    Seconds,
    /// Seconds since 1970.
    Timestamp,
    /// Bytes.
    Bytes,
    /// Joules.
    Joules,
    /// Degrees Celsius.
    Celsius,
    /// Nothing: always 1, the labels are what it says.
    Info,
}

impl Unit {
    /// How the name of a metric ends, before `_total`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Seconds => "_seconds",
            Self::Timestamp => "_timestamp_seconds",
            Self::Bytes => "_bytes",
            Self::Joules => "_joules",
            Self::Celsius => "_celsius",
            Self::Info => "_info",
        }
    }
}

/// What a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole run, all programs that ever worked on it; every leader says the same.
    Run,
    /// One replica since its leader started.
    Replica,
}

/// When a metric is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Always,
    /// Once there is something to compute it from.
    Known,
    /// With the option `run.deadline`.
    Deadline,
    /// On GPUs with NVML.
    Nvml,
}

impl Metric {
    const fn new(
        scope: Scope,
        kind: Kind,
        unit: Unit,
        name: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit,
            scope,
            presence: Presence::Always,
            labels: &[],
            help,
        }
    }

    /// Divided by these labels.
    const fn by(mut self, labels: &'static [Label]) -> Self {
        self.labels = labels;
        self
    }

    /// Only there in this case.
    const fn when(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }

    /// The names of its labels, in the order in which values are given.
    pub fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// The names of its series in a scrape: a histogram has three.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Gauge => vec![self.name.to_owned()],
            Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
                .map(|end| format!("{}{end}", self.name))
                .to_vec(),
        }
    }
}

/// Defines the metrics and the list of all, in the order of the document.
macro_rules! metrics {
    ($( $id:ident: $scope:ident $kind:ident $(($buckets:expr))? $unit:ident $name:literal, $help:literal
        $(, by [$($label:expr),+])? $(, when $presence:ident)?; )+) => {
        $(
            #[doc = $help]
            pub static $id: Metric =
                Metric::new(Scope::$scope, Kind::$kind $(($buckets))?, Unit::$unit, $name, $help)
                    $(.by(&[$($label),+]))? $(.when(Presence::$presence))?;
        )+

        /// All metrics.
        pub static ALL: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    // The whole run, from its folder.
    RUN_STORIES: Run Gauge Count "storyloom_run_stories",
        "Stories of the run by state.", by [State::LABEL];
    RUN_SHOTS: Run Gauge Count "storyloom_run_shots",
        "Shots of the run by state.", by [State::LABEL];
    RUN_METHOD_STORIES: Run Gauge Count "storyloom_run_method_stories",
        "Stories of the run by method and state.", by [METHOD, State::LABEL];
    RUN_SET_ASIDE: Run Gauge Count "storyloom_run_stories_set_aside",
        "Of the failed stories of the run, those that are set aside: their input has changed or cannot be read.";
    RUN_ETA: Run Gauge Seconds "storyloom_run_eta_seconds",
        "Time until the run is done, as a range.", by [Bound::LABEL], when Known;
    RUN_DEADLINE: Run Gauge Timestamp "storyloom_run_deadline_timestamp_seconds",
        "Deadline of the run.", when Deadline;
    RUN_LAST_PROGRESS: Run Gauge Timestamp "storyloom_run_last_progress_timestamp_seconds",
        "When a shot of the run was last committed, or else when the run began.";
    RUN_DEVICE_TIME: Run Counter Seconds "storyloom_run_device_seconds_total",
        "Time of all ranks of all programs that worked on the run, by use. The last attempts of programs that still run are not in it.",
        by [Device::LABEL, Use::LABEL];
    RUN_LOST_TIME: Run Counter Seconds "storyloom_run_lost_seconds_total",
        "The wasted time of all ranks by the reason for which the work was lost.", by [LossCause::LABEL];
    RUN_PREEMPTIONS: Run Counter Count "storyloom_run_preemptions_total",
        "Programs that lost their machine before the run was done.", by [Preemption::LABEL];

    // What a replica is.
    BUILD_INFO: Replica Gauge Info "storyloom_build_info",
        "Version of the program.", by [VERSION];
    REPLICA_INFO: Replica Gauge Info "storyloom_replica_info",
        "Method, engine and device of the replica.", by [REPLICA, METHOD, ENGINE, Device::LABEL];
    RANKS: Replica Gauge Count "storyloom_ranks",
        "Ranks of the replica, its leader among them.";
    LOADED: Replica Gauge Count "storyloom_loaded",
        "1 when the models are loaded, 0 before.";
    DRAINING: Replica Gauge Count "storyloom_draining",
        "1 when the replica takes no new shots because somebody asked for that.";
    LAST_PROGRESS: Replica Gauge Timestamp "storyloom_last_progress_timestamp_seconds",
        "When the replica last ended a step, a stage or loading.";

    // What it makes.
    STAGE_TIME: Replica Histogram(BUCKETS_S) Seconds "storyloom_stage_duration_seconds",
        "Duration of stages of shots.", by [Stage::LABEL];
    STAGE_WAIT: Replica Histogram(BUCKETS_S) Seconds "storyloom_stage_wait_seconds",
        "Queueing time of shots before a stage.", by [Stage::LABEL];
    SHOTS_IN_STAGE: Replica Gauge Count "storyloom_shots_in_stage",
        "Shots that are in a stage now.", by [Stage::LABEL];
    STEP_TIME: Replica Histogram(BUCKETS_S) Seconds "storyloom_denoise_step_seconds",
        "Duration of denoising steps.";
    SHOT_TIME: Replica Histogram(BUCKETS_S) Seconds "storyloom_shot_duration_seconds",
        "Duration of committed shots from plan to commit, in their last attempt.";
    ATTEMPTS: Replica Counter Count "storyloom_attempts_total",
        "Attempts at shots by how they ended.", by [AttemptEnd::LABEL];
    PLANS: Replica Counter Count "storyloom_plans_total",
        "Attempts at plans of stories by how they ended.", by [AttemptEnd::LABEL];
    PLAN_TIME: Replica Histogram(BUCKETS_S) Seconds "storyloom_plan_duration_seconds",
        "Duration of plans of stories, with the others of their batch beside them.";
    PLAN_TOKENS: Replica Counter Count "storyloom_plan_tokens_total",
        "Tokens that the planner generated.";
    PLANS_AHEAD: Replica Gauge Count "storyloom_plans_ahead",
        "Planned stories in the queue, as far as the replica knows.";
    PLAN_WAIT: Replica Counter Seconds "storyloom_plan_wait_seconds_total",
        "Time in which a slot for a story was idle because no story was planned yet, added up over slots.";
    STORIES_DONE: Replica Counter Count "storyloom_stories_done_total",
        "Stories finished.";
    STORIES_FAILED: Replica Counter Count "storyloom_stories_failed_total",
        "Stories given up for now.";
    STORIES_QUARANTINED: Replica Counter Count "storyloom_stories_quarantined_total",
        "Stories put into quarantine.";

    // Where its time goes.
    DEVICE_TIME: Replica Counter Seconds "storyloom_device_seconds_total",
        "Time of the replica's ranks by use. The time of an attempt is added when the attempt ends.",
        by [Device::LABEL, Use::LABEL];
    COLLECTIVES: Replica Counter Count "storyloom_collectives_total",
        "Collective operations of a rank.", by [RANK];
    COLLECTIVE_WAIT: Replica Counter Seconds "storyloom_collective_wait_seconds_total",
        "Time that a rank spent in collective operations, waiting for the others and moving bytes. A rank that waits less than its peers is the slow one.",
        by [RANK];

    // Preemption and safety.
    CHECKPOINTS: Replica Counter Count "storyloom_checkpoints_total",
        "Sampling loops saved, resumed and ignored.", by [CheckpointAction::LABEL];
    UNSAVED_TIME: Replica Gauge Seconds "storyloom_unsaved_seconds",
        "Time since denoising began or was last saved, the longest of the shots that are being denoised; 0 if there is none.";
    LEASES: Replica Gauge Count "storyloom_leases",
        "Stories on which the replica holds a lease.";
    LEASE_TAKEOVERS: Replica Counter Count "storyloom_lease_takeovers_total",
        "Stories whose lease had expired and that were taken over.";

    // Storage.
    BANK_KEYFRAMES: Replica Gauge Count "storyloom_bank_keyframes",
        "Keyframes that the replica put into its memory bank since it started.";
    BANK_BYTES: Replica Gauge Bytes "storyloom_bank_bytes",
        "Size on disk of the replica's index of the memory bank.";
    BANK_REBUILDS: Replica Counter Count "storyloom_bank_rebuilds_total",
        "Times the index of the memory bank did not open and was made anew from the records.";
    DISK_FREE: Replica Gauge Bytes "storyloom_disk_free_bytes",
        "Free space on a disk, for this program.", by [DiskRole::LABEL];
    DISK_SIZE: Replica Gauge Bytes "storyloom_disk_size_bytes",
        "Size of a disk.", by [DiskRole::LABEL];

    // GPUs of all ranks of the replica.
    GPU_INFO: Replica Gauge Info "storyloom_gpu_info",
        "The GPU of a rank, for joins with what DCGM says of it.", by [RANK, HOST, UUID], when Nvml;
    GPU_ENERGY: Replica Counter Joules "storyloom_gpu_energy_joules_total",
        "Energy that the GPU of a rank took since the replica started. Divided by the shots of the same time it is the energy per shot.",
        by [RANK], when Nvml;
    GPU_MEMORY_USED: Replica Gauge Bytes "storyloom_gpu_memory_used_bytes",
        "Memory in use on the GPU of a rank, by all programs.", by [RANK], when Nvml;
    GPU_MEMORY: Replica Gauge Bytes "storyloom_gpu_memory_bytes",
        "Memory of the GPU of a rank.", by [RANK], when Nvml;
    GPU_TEMPERATURE: Replica Gauge Celsius "storyloom_gpu_temperature_celsius",
        "Temperature of the GPU of a rank.", by [RANK], when Nvml;
    GPU_XID: Replica Counter Count "storyloom_gpu_xid_errors_total",
        "XID errors of the GPU of a rank since the replica started.", by [RANK, XID], when Nvml;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::labels::Values;
    use super::*;

    #[test]
    fn names_follow_the_practice_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("storyloom_"), "{name}");
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(plain), "{name}");
            let stem = name.strip_suffix("_total");
            let counter = metric.kind == Kind::Counter;
            assert_eq!(stem.is_some(), counter, "{name}: _total is for counters");
            let stem = stem.unwrap_or(name);
            assert!(
                stem.ends_with(metric.unit.suffix()),
                "{name} lacks its unit"
            );
            let run = name.starts_with("storyloom_run_");
            assert_eq!(run, metric.scope == Scope::Run, "{name}: storyloom_run_");
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
        }
    }

    #[test]
    fn each_metric_has_a_name_of_its_own() {
        let series: Vec<_> = ALL.iter().flat_map(|metric| metric.series()).collect();
        let different: BTreeSet<_> = series.iter().collect();
        assert_eq!(different.len(), series.len());
    }

    #[test]
    fn no_label_names_a_story_or_shadows_a_target_label() {
        for label in ALL.iter().flat_map(|metric| metric.labels) {
            let taken = [
                "story", "shot", "tenant", "run", "node", "instance", "job", "le",
            ];
            assert!(!taken.contains(&label.name), "{}", label.name);
            if let Values::Closed(values) = label.values {
                assert!(values.len() <= 6, "{} has many values", label.name);
            }
        }
    }

    #[test]
    fn buckets_go_from_a_second_to_two_hours() {
        assert_eq!(BUCKETS_S.first(), Some(&1.0));
        assert_eq!(BUCKETS_S.last(), Some(&7200.0));
        assert!(BUCKETS_S.is_sorted());
    }
}
