//! Figures of the whole run, from its folder.

use std::collections::BTreeMap;

use prometheus::{CounterVec, GaugeVec};

use super::catalogue as c;
use super::families::{Families, Result};
use super::labels::{Bound, Device, LabelValue, LossCause, Preemption, State, Use};
use crate::liveness::Life;
use crate::shift::{Extent, Shift, ShiftEnd, Split, accounting};

/// How many stories or shots are in a state.
pub type ByState = Vec<(State, usize)>;

/// What is known of a run at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunView {
    /// Stories.
    pub stories: ByState,
    /// Shots.
    pub shots: ByState,
    /// Stories of each method.
    pub methods: Vec<(&'static str, ByState)>,
    /// Of the failed stories, those that are set aside.
    pub set_aside: usize,
    /// Seconds until it is done: low, likely and high.
    pub eta_seconds: Option<[f64; 3]>,
    /// What is known from the journals.
    pub work: RunWork,
}

/// What the journals of a run say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunWork {
    /// Settled time of all ranks, by device.
    pub by_device: BTreeMap<String, Split>,
    /// Programs that were asked to stop.
    pub stopped: usize,
    /// Programs that were gone without a word.
    pub killed: usize,
    /// When the last shot was committed, or else when the first program began; seconds since 1970.
    pub last_progress: Option<f64>,
}

impl RunWork {
    /// From all journals, at the moment `now` (seconds since 1970).
    pub fn of(shifts: &[&Shift], now: f64) -> Self {
        let commits = shifts.iter().flat_map(|shift| shift.committed());
        let commits = commits.map(|attempt| attempt.ended);
        let stopped = |shift: &&&Shift| matches!(shift.end, Some((_, ShiftEnd::Stopped)));
        let killed = |shift: &&&Shift| shift.life(now - shift.last_seen) == Life::Dead;
        Self {
            by_device: accounting(shifts, now, Extent::Settled).by_device,
            stopped: shifts.iter().filter(stopped).count(),
            killed: shifts.iter().filter(killed).count(),
            last_progress: commits
                .reduce(f64::max)
                .or(shifts.iter().map(|shift| shift.begun).reduce(f64::min)),
        }
    }
}

/// The metrics of the whole run.
#[derive(Debug)]
pub(super) struct RunFigures {
    stories: GaugeVec,
    shots: GaugeVec,
    method_stories: GaugeVec,
    set_aside: GaugeVec,
    eta: GaugeVec,
    deadline: GaugeVec,
    last_progress: GaugeVec,
    time: CounterVec,
    lost: CounterVec,
    preemptions: CounterVec,
}

impl RunFigures {
    pub(super) fn new(families: &mut Families) -> Result<Self> {
        Ok(Self {
            stories: families.gauge(&c::RUN_STORIES)?,
            shots: families.gauge(&c::RUN_SHOTS)?,
            method_stories: families.gauge(&c::RUN_METHOD_STORIES)?,
            set_aside: families.gauge(&c::RUN_SET_ASIDE)?,
            eta: families.gauge(&c::RUN_ETA)?,
            deadline: families.gauge(&c::RUN_DEADLINE)?,
            last_progress: families.gauge(&c::RUN_LAST_PROGRESS)?,
            time: families.counter(&c::RUN_DEVICE_TIME)?,
            lost: families.counter(&c::RUN_LOST_TIME)?,
            preemptions: families.counter(&c::RUN_PREEMPTIONS)?,
        })
    }

    pub(super) fn set_deadline(&self, at: f64) -> Result<()> {
        set(&self.deadline, &[], at)
    }

    pub(super) fn set(&self, view: &RunView) -> Result<()> {
        for (family, counts) in [(&self.stories, &view.stories), (&self.shots, &view.shots)] {
            for (state, count) in counts {
                set(family, &[state.text()], *count as f64)?;
            }
        }
        for (method, counts) in &view.methods {
            for (state, count) in counts {
                set(&self.method_stories, &[method, state.text()], *count as f64)?;
            }
        }
        set(&self.set_aside, &[], view.set_aside as f64)?;
        match view.eta_seconds {
            Some(range) => {
                for (bound, seconds) in Bound::ALL.iter().zip(range) {
                    set(&self.eta, &[bound.text()], seconds)?;
                }
            }
            None => self.eta.reset(),
        }
        let RunWork {
            by_device,
            stopped,
            killed,
            last_progress,
        } = &view.work;
        if let Some(at) = last_progress {
            set(&self.last_progress, &[], *at)?;
        }
        let mut all = Split::default();
        for (device, split) in by_device {
            raise_split(&self.time, device, split)?;
            all += *split;
        }
        for (cause, seconds) in [
            (LossCause::Preempted, all.lost_to_preemption),
            (LossCause::Failed, all.lost_to_failure),
        ] {
            raise(&self.lost, &[cause.text()], seconds)?;
        }
        for (how, count) in [(Preemption::Stopped, stopped), (Preemption::Killed, killed)] {
            raise(&self.preemptions, &[how.text()], *count as f64)?;
        }
        Ok(())
    }
}

pub(super) fn set(family: &GaugeVec, labels: &[&str], value: f64) -> Result<()> {
    family.get_metric_with_label_values(labels)?.set(value);
    Ok(())
}

/// Brings a counter up to `total`. It never falls, also where a total was corrected.
pub(super) fn raise(family: &CounterVec, labels: &[&str], total: f64) -> Result<()> {
    let counter = family.get_metric_with_label_values(labels)?;
    counter.inc_by((total - counter.get()).max(0.0));
    Ok(())
}

/// Brings the counters of a device up to the parts of `split`.
pub(super) fn raise_split(family: &CounterVec, device: &str, split: &Split) -> Result<()> {
    // Journals of later versions may know others.
    let known = Device::ALL.iter().find(|known| known.text() == device);
    let Some(device) = known else { return Ok(()) };
    for (kind, seconds) in [
        (Use::Useful, split.useful),
        (Use::Wasted, split.wasted),
        (Use::Load, split.load),
        (Use::Idle, split.idle),
    ] {
        raise(family, &[device.text(), kind.text()], seconds)?;
    }
    Ok(())
}
