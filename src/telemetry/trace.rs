//! Traces: one request followed over the nodes that it takes.
//!
//! Off unless the settings name a collector; then everything here is one branch. Else a few of the requests are followed,
//! as `telemetry.sample_ratio` has it. A [`Span`] that goes on is a few words, copied along with the request and, as a
//! [`TraceContext`], to another node. What the exporter takes is made of it when it ends, and put into a bounded queue
//! ([`super::otlp`]). The SDK's own spans would be an allocation each, and a lock to be held by every receipt.
//!
//! Names and attributes are fixed texts (`&'static str`): nothing of a call can get into a span. Neither may it in any
//! other way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
};
use prometheus::IntCounter;
use tokio::sync::mpsc;

pub use opentelemetry::trace::SpanKind as Kind;

/// A span as another node knows it: what W3C Trace Context names (<https://www.w3.org/TR/trace-context/>). There is one only of
/// what is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
}

impl TraceContext {
    /// How many bytes it takes.
    pub const BYTES: usize = 25;

    /// Trace, span, flags.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace.to_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_bytes());
        bytes[24] = TraceFlags::SAMPLED.to_u8();
        bytes
    }

    /// Reads it; none when it is of nothing, or of nothing that is sampled.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk()?;
        let (span, flags) = rest.split_first_chunk()?;
        let (trace, span) = (TraceId::from_bytes(*trace), SpanId::from_bytes(*span));
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        (is_valid && TraceFlags::new(flags[0]).is_sampled()).then_some(Self { trace, span })
    }
}

/// A span that goes on. One that is not ended never was.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    context: TraceContext,
    /// `INVALID` for none.
    parent: SpanId,
    parent_is_remote: bool,
    since: Instant,
}

impl Span {
    /// For another node.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }
}

/// Begins and ends spans, if the settings want any. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Sampled>>);

#[derive(Debug)]
struct Sampled {
    /// The share of traces that are sampled: the bits of an `f64`.
    ratio: AtomicU64,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    ended: mpsc::Sender<SpanData>,
    dropped: IntCounter,
}

impl Tracer {
    /// Samples that share of traces. Ended spans go into `ended`; those for which there is no room are counted in `dropped`.
    #[must_use]
    pub fn new(ratio: f64, ended: mpsc::Sender<SpanData>, dropped: IntCounter) -> Self {
        let scope = InstrumentationScope::builder("duet").with_version(env!("CARGO_PKG_VERSION")).build();
        let (ratio, ids) = (AtomicU64::new(ratio.to_bits()), RandomIdGenerator::default());
        Self(Some(Arc::new(Sampled { ratio, ids, scope, ended, dropped })))
    }

    /// Samples another share from here on, if there are traces at all.
    pub fn set_ratio(&self, ratio: f64) {
        if let Some(sampled) = &self.0 {
            sampled.ratio.store(ratio.to_bits(), Ordering::Relaxed);
        }
    }

    /// The first span of a trace, since then; none if this one is not sampled.
    #[must_use]
    pub fn begin(&self, since: Instant) -> Option<Span> {
        self.0.as_ref()?.begin(since)
    }

    /// A span below `parent`, since now, if that is sampled.
    #[must_use]
    pub fn begin_below(&self, parent: Option<Span>) -> Option<Span> {
        Some(self.0.as_ref()?.begin_below(parent?.context, false))
    }

    /// A span below one of another node, since now, if that is sampled. That node's share counts, not this one's.
    #[must_use]
    pub fn begin_below_remote(&self, parent: Option<TraceContext>) -> Option<Span> {
        Some(self.0.as_ref()?.begin_below(parent?, true))
    }

    /// Ends a span: what was done, to what.
    pub fn end(
        &self,
        span: Span,
        kind: Kind,
        (verb, object): (&'static str, &'static str),
        attributes: &[(&'static str, &'static str)],
    ) {
        if let Some(sampled) = &self.0 {
            sampled.end(span, kind, format!("{verb} {object}"), attributes);
        }
    }
}

impl Sampled {
    fn begin(&self, since: Instant) -> Option<Span> {
        let trace = self.ids.new_trace_id();
        // The others of its arguments make no difference to this sampler.
        let sampler = Sampler::TraceIdRatioBased(f64::from_bits(self.ratio.load(Ordering::Relaxed)));
        let sampling = sampler.should_sample(None, trace, "", &Kind::Internal, &[], &[]);
        let context = TraceContext { trace, span: self.ids.new_span_id() };
        (sampling.decision == SamplingDecision::RecordAndSample).then_some(Span {
            context,
            parent: SpanId::INVALID,
            parent_is_remote: false,
            since,
        })
    }

    fn begin_below(&self, parent: TraceContext, parent_is_remote: bool) -> Span {
        let context = TraceContext { trace: parent.trace, span: self.ids.new_span_id() };
        Span { context, parent: parent.span, parent_is_remote, since: Instant::now() }
    }

    fn end(&self, span: Span, kind: Kind, name: String, attributes: &[(&'static str, &'static str)]) {
        let TraceContext { trace, span: id } = span.context;
        let end_time = SystemTime::now();
        let ended = SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: span.parent,
            parent_span_is_remote: span.parent_is_remote,
            span_kind: kind,
            name: name.into(),
            start_time: end_time - span.since.elapsed(),
            end_time,
            attributes: attributes.iter().map(|(key, value)| KeyValue::new(*key, *value)).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        if self.ended.try_send(ended).is_err() {
            self.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(ratio: f64, room: usize) -> (Tracer, mpsc::Receiver<SpanData>, IntCounter) {
        let (ended, spans) = mpsc::channel(room);
        let dropped = IntCounter::new("dropped", "dropped").expect("a valid name");
        (Tracer::new(ratio, ended, dropped.clone()), spans, dropped)
    }

    #[test]
    fn a_tracer_that_is_off_begins_nothing() {
        let off = Tracer::default();
        assert!(off.begin(Instant::now()).is_none());
        let (on, ..) = tracer(1.0, 1);
        let span = on.begin(Instant::now()).expect("sampled");
        assert!(off.begin_below(Some(span)).is_none());
        assert!(off.begin_below_remote(Some(span.context())).is_none());
        off.end(span, Kind::Internal, ("do", "nothing"), &[]);
    }

    #[test]
    fn the_share_that_is_asked_for_is_sampled() {
        for (ratio, between) in [(0.0, 0..=0), (0.25, 2_000..=3_000), (1.0, 10_000..=10_000)] {
            let (tracer, ..) = tracer(ratio, 1);
            let sampled = (0..10_000).filter(|_| tracer.begin(Instant::now()).is_some()).count();
            assert!(between.contains(&sampled), "{ratio}: {sampled}");
        }
    }

    #[test]
    fn the_share_can_be_changed() {
        let (tracer, ..) = tracer(0.0, 1);
        assert!(tracer.begin(Instant::now()).is_none());
        tracer.set_ratio(1.0);
        assert!(tracer.begin(Instant::now()).is_some());
        Tracer::default().set_ratio(1.0);
    }

    #[test]
    fn what_another_node_sampled_is_followed_whatever_the_share_here() {
        let (there, ..) = tracer(1.0, 1);
        let parent = there.begin(Instant::now()).expect("sampled").context();
        let (here, mut spans, _) = tracer(0.0, 1);
        let child = here.begin_below_remote(Some(parent)).expect("sampled there");
        here.end(child, Kind::Consumer, ("deliver", "offer"), &[("a", "b")]);
        let span = spans.try_recv().expect("a span");
        assert_eq!((span.span_context.trace_id(), span.parent_span_id), (parent.trace, parent.span));
        assert_eq!((&*span.name, span.parent_span_is_remote, span.span_kind), ("deliver offer", true, Kind::Consumer));
        assert!(span.start_time <= span.end_time && span.attributes == [KeyValue::new("a", "b")]);
    }

    #[test]
    fn spans_for_which_there_is_no_room_are_dropped_and_counted() {
        let (tracer, mut spans, dropped) = tracer(1.0, 2);
        for _ in 0..5 {
            let span = tracer.begin(Instant::now()).expect("sampled");
            tracer.end(span, Kind::Producer, ("relay", "offer"), &[]);
        }
        assert_eq!(dropped.get(), 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }

    #[test]
    fn a_context_comes_out_as_it_went_in_and_one_of_nothing_is_none() {
        let (tracer, ..) = tracer(1.0, 1);
        let context = tracer.begin(Instant::now()).expect("sampled").context();
        let bytes = context.to_bytes();
        assert_eq!(TraceContext::from_bytes(bytes), Some(context));
        for wrong in [0..16, 16..24, 24..25] {
            let mut bytes = bytes;
            bytes[wrong].fill(0);
            assert_eq!(TraceContext::from_bytes(bytes), None);
        }
    }
}
