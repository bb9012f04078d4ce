//! Turns what `tracing` hears into lines and spans.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as Around;
use tracing_subscriber::registry::LookupSpan;

use super::context::{Context, Told};
use super::line::Line;
use super::otlp::Ended;
use super::{Inner, rfc3339};

/// A `tracing` layer that writes to a [`RunLog`](super::RunLog).
#[derive(Debug)]
pub struct RunLayer {
    log: Arc<Inner>,
    names: SpanNames,
}

/// What is kept of a span while it goes on.
struct Span {
    id: u64,
    parent: Option<u64>,
    told: Told,
    begun: SystemTime,
    clock: Instant,
}

/// Numbers for spans that nobody else has.
#[derive(Debug, Default)]
struct SpanNames {
    keys: RandomState,
    count: AtomicU64,
}

impl SpanNames {
    fn next(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // 0 would mean that there is none.
        self.keys.hash_one(count).max(1)
    }
}

impl RunLayer {
    pub(super) fn new(log: Arc<Inner>) -> Self {
        Self {
            log,
            names: SpanNames::default(),
        }
    }

    /// A line without what only a span has.
    fn line(&self, metadata: &'static Metadata<'static>, told: Told, context: Context) -> Line {
        let Told {
            message, fields, ..
        } = told;
        Line {
            at: rfc3339(),
            level: metadata.level().as_str(),
            message,
            run: String::new(),
            world: String::new(),
            rank: 0,
            context,
            trace_id: None,
            span: None,
            seconds: None,
            span_id: None,
            parent_id: None,
            target: metadata.target(),
            fields,
        }
    }
}

/// The name of a span; a span of a stage has the name of the stage.
fn name_of<'a>(metadata: &'static Metadata<'static>, told: &'a Told) -> &'a str {
    match (metadata.name(), &told.context.stage) {
        ("stage", Some(stage)) => stage,
        (name, _) => name,
    }
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

impl<S> Layer<S> for RunLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, around: Around<'_, S>) {
        let Some(span) = around.span(id) else { return };
        let mut told = Told::default();
        attributes.record(&mut told);
        let mut parent = None;
        if let Some(outer) = span.parent()
            && let Some(outer) = outer.extensions().get::<Span>()
        {
            told.context = told.context.within(&outer.told.context);
            parent = Some(outer.id);
        }
        span.extensions_mut().insert(Span {
            id: self.names.next(),
            parent,
            told,
            begun: SystemTime::now(),
            clock: Instant::now(),
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, around: Around<'_, S>) {
        if let Some(span) = around.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<Span>()
        {
            values.record(&mut kept.told);
        }
    }

    fn on_event(&self, event: &Event<'_>, around: Around<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let mut context = std::mem::take(&mut told.context);
        let mut ids = (None, None);
        if let Some(span) = around.event_span(event)
            && let Some(kept) = span.extensions().get::<Span>()
        {
            context = context.within(&kept.told.context);
            ids = (Some(hex(kept.id)), kept.parent.map(hex));
        }
        let mut line = self.line(event.metadata(), told, context);
        (line.span_id, line.parent_id) = ids;
        self.log.write(line);
    }

    fn on_close(&self, id: Id, around: Around<'_, S>) {
        let Some(span) = around.span(&id) else { return };
        let metadata = span.metadata();
        let Some(kept) = span.extensions_mut().remove::<Span>() else {
            return;
        };
        let duration = kept.clock.elapsed();
        let name = name_of(metadata, &kept.told).to_owned();
        let told = Told {
            message: format!("{name} ended"),
            ..kept.told.clone()
        };
        let mut line = self.line(metadata, told, kept.told.context.clone());
        line.span = Some(name.clone());
        line.seconds = Some(duration.as_secs_f64());
        (line.span_id, line.parent_id) = (Some(hex(kept.id)), kept.parent.map(hex));
        self.log.write(line);
        self.log.send(Ended {
            name,
            span_id: kept.id,
            parent_id: kept.parent,
            begun: kept.begun,
            duration,
            told: kept.told,
        });
    }
}
