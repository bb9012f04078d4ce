//! Finished spans to a collector, as OpenTelemetry has it: protocol buffers over HTTP.
//!
//! The identifiers are those of the log lines, so that one leads to the other. That is why spans
//! are handed over whole when they end, instead of by a bridge that invents identifiers of its own
//! (docs/decisions/0009-logs.md).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor,
};
use serde_json::Value;

use super::Origin;
use super::context::Told;
use crate::proxy::Route;

/// Where collectors take spans, under their address.
const PATH: &str = "/v1/traces";
/// Time between two packets.
const DELAY: Duration = Duration::from_secs(5);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer of a collector that is read, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;
/// Spans that wait at most; what comes when the queue is full is dropped.
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
        let endpoint = endpoint(url);
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client::of(&Route::to(&endpoint)))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
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

/// Sends the spans, by the way that everybody here takes to a server. It is called on a thread that has
/// nothing else to do.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
}

impl Client {
    fn of(route: &Route) -> Self {
        let proxy = route.proxy().unwrap_or_else(|reason| {
            tracing::warn!("{reason}; spans are sent without a proxy");
            None
        });
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(proxy)
            .build();
        Self {
            agent: agent.into(),
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.agent.run(request.map(|body| body.to_vec()))?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
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
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// The address of a server, and the first line of what it is asked.
    fn server() -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            lines.read_line(&mut line).unwrap();
            let mut rest = String::new();
            while lines.read_line(&mut rest).unwrap() > 2 {
                rest.clear();
            }
            let answer = "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).unwrap();
            line.trim_end().to_owned()
        });
        (address, heard)
    }

    /// Posts nothing to `url`, in an environment with this proxy.
    fn post(url: &str, proxy: &str) -> Result<Response<Bytes>, HttpError> {
        let variable = |name: &str| (name == "http_proxy").then(|| format!("http://{proxy}"));
        let client = Client::of(&Route::by(url, variable));
        let request = Request::post(url).body(Bytes::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(client.send_bytes(request))
    }

    #[test]
    fn a_collector_on_this_machine_is_asked_without_the_proxy() {
        let (collector, asked) = server();
        let url = endpoint(&format!("http://{collector}"));
        let answer = post(&url, "127.0.0.1:1").unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (202, &b"ok"[..])
        );
        assert_eq!(asked.join().unwrap(), "POST /v1/traces HTTP/1.1");
    }

    #[test]
    fn a_collector_elsewhere_is_asked_through_the_proxy() {
        let (proxy, asked) = server();
        let url = endpoint("http://collector.invalid:4318");
        // The name leads nowhere, and what is no proxy gives no answer that fits.
        let _ = post(&url, &proxy);
        let asked = asked.join().unwrap();
        assert!(asked.contains("collector.invalid:4318"), "{asked}");
    }

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
