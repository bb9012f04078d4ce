//! Metrics of the catalogue in a registry.

use std::collections::BTreeSet;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder};

use super::catalogue::{BUCKETS_S, Kind, Metric};
use super::labels::{Label, Values};

/// A registry that takes metrics of the catalogue only.
#[derive(Debug, Default)]
pub(super) struct Families {
    registry: Registry,
    names: BTreeSet<&'static str>,
}

pub(super) type Result<T> = prometheus::Result<T>;

impl Families {
    /// A counter; the series of closed labels begin at 0.
    pub(super) fn counter(&mut self, metric: &'static Metric) -> Result<CounterVec> {
        let family = CounterVec::new(options(metric), &metric.label_names())?;
        for values in combinations(metric.labels) {
            family.get_metric_with_label_values(&values)?;
        }
        self.register(metric, family)
    }

    /// A gauge without series yet.
    pub(super) fn gauge(&mut self, metric: &'static Metric) -> Result<GaugeVec> {
        self.register(
            metric,
            GaugeVec::new(options(metric), &metric.label_names())?,
        )
    }

    /// A histogram; the series of closed labels begin at 0.
    pub(super) fn histogram(&mut self, metric: &'static Metric) -> Result<HistogramVec> {
        let buckets = match metric.kind {
            Kind::Histogram(buckets) => buckets,
            Kind::Counter | Kind::Gauge => BUCKETS_S,
        };
        let options = HistogramOpts {
            common_opts: options(metric),
            buckets: buckets.to_vec(),
        };
        let family = HistogramVec::new(options, &metric.label_names())?;
        for values in combinations(metric.labels) {
            family.get_metric_with_label_values(&values)?;
        }
        self.register(metric, family)
    }

    fn register<C: Collector + Clone + 'static>(
        &mut self,
        metric: &'static Metric,
        family: C,
    ) -> Result<C> {
        self.registry.register(Box::new(family.clone()))?;
        self.names.insert(metric.name);
        Ok(family)
    }

    /// Names of all metrics, with series or without.
    #[cfg(test)]
    pub(super) fn names(&self) -> &BTreeSet<&'static str> {
        &self.names
    }

    /// Everything in the text format of Prometheus.
    pub(super) fn text(&self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn options(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

/// All values that closed labels can have together; none if a label is not closed.
fn combinations(labels: &[Label]) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for label in labels {
        let Values::Closed(values) = label.values else {
            return Vec::new();
        };
        let longer = |start: Vec<&'static str>| {
            let values = values.iter();
            values.map(move |value| [start.as_slice(), &[*value]].concat())
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}
