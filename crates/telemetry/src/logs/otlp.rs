//! Finished spans to a collector, as OpenTelemetry has it: protocol buffers over HTTP.
//!
//! The identifiers are those of the log lines, so that one leads to the other. That is why spans
//! are handed over whole when they end, instead of by a bridge that invents identifiers of its own
//! (docs/decisions/0009-logs.md).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor,
};
use serde_json::Value;

use super::Origin;
use super::context::Told;

/// Where collectors take spans, under their address.
const PATH: &str = "/v1/traces";
/// Time between two packets.
const DELAY: Duration = Duration::from_secs(5);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Spans that wait at most; what comes when so many wait is dropped.
const MOST_WAITING: usize = 4096;

/// A span that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it is called.
    pub name: String,
    /// Its own identifier.
    pub span_id: u64,
    /// The span around it.
    pub parent_id: Option<u64>,
    /// When it began.
    pub begun: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What it belongs to, and what was told with it.
    pub told: Told,
}

/// Sends spans from a thread of its own.
#[derive(Debug)]
pub struct SpanExport {
    processor: BatchSpanProcessor,
}

impl SpanExport {
    /// Spans go to the collector at `url`, as `http://host:port` or with a path.
    ///
    /// # Errors
    /// The address is none.
    pub fn start(url: &str, origin: &Origin) -> Result<Self, ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint(url))
            .with_timeout(TIMEOUT)
            .build()?;
        let exporter = Telling {
            exporter,
            told: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MOST_WAITING)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let instance = format!("{}.rank-{}", origin.world, origin.rank);
        let resource = Resource::builder_empty()
            .with_service_name("storyloom")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .build();
        processor.set_resource(&resource);
        Ok(Self { processor })
    }

    /// Takes a span of `run` over; it is sent a little later. A span of no shot has no trace and
    /// is not sent.
    pub fn send(&self, run: &str, span: Ended) {
        let trace_id = span.told.context.trace_id(run);
        let Some(trace_id) = trace_id.and_then(|hex| TraceId::from_hex(&hex).ok()) else {
            return;
        };
        let error = span.told.fields.get("error").and_then(Value::as_str);
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                trace_id,
                SpanId::from(span.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: span.parent_id.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            start_time: span.begun,
            end_time: span.begun + span.duration,
            attributes: attributes(run, &span.told),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: error.map_or(Status::Unset, |error| Status::error(error.to_owned())),
            name: span.name.into(),
            instrumentation_scope: InstrumentationScope::builder("storyloom").build(),
        });
    }

    /// Sends what waits; nothing is sent after it. Takes a few seconds at most.
    pub fn finish(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(TIMEOUT) {
            tracing::debug!(%error, "not all spans were sent");
        }
    }
}

fn endpoint(url: &str) -> String {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    match address.trim_end_matches('/').contains('/') {
        true => url.to_owned(),
        false => format!("{}{PATH}", url.trim_end_matches('/')),
    }
}

fn attributes(run: &str, told: &Told) -> Vec<KeyValue> {
    let context = &told.context;
    let texts = [
        ("storyloom.run", Some(run)),
        ("storyloom.story", context.story.as_deref()),
        ("storyloom.shot", context.shot.as_deref()),
        ("storyloom.stage", context.stage.as_deref()),
    ];
    let texts = texts.into_iter().filter_map(|(name, text)| {
        let text = text?.to_owned();
        Some(KeyValue::new(name, text))
    });
    let attempt = context
        .attempt
        .and_then(|attempt| i64::try_from(attempt).ok());
    let attempt = attempt.map(|attempt| KeyValue::new("storyloom.attempt", attempt));
    let fields = told.fields.iter().map(|(name, value)| {
        let name = format!("storyloom.{name}");
        match value {
            Value::String(text) => KeyValue::new(name, text.clone()),
            Value::Number(number) => KeyValue::new(name, number.as_f64().unwrap_or(f64::NAN)),
            other => KeyValue::new(name, other.to_string()),
        }
    });
    texts.chain(attempt).chain(fields).collect()
}

/// Says once that the collector does not take the spans.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    told: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "spans cannot be sent to logs.otlp; the run goes on");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed() {
        for (url, wanted) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("http://c/otlp/v1/traces", "http://c/otlp/v1/traces"),
        ] {
            assert_eq!(endpoint(url), wanted);
        }
    }
}
