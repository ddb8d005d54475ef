//! What a server counts, for Prometheus.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use lathe_engine::Load;

/// Counters and histograms of one server.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: IntCounterVec,
    pub(crate) prompt_tokens: IntCounter,
    pub(crate) generated_tokens: IntCounter,
    pub(crate) first_token: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) request: Histogram,
    gauges: Vec<(IntGauge, fn(&Load) -> u64)>,
}

/// What is read off the engine when somebody asks.
const GAUGES: &[(&str, &str, fn(&Load) -> u64)] = &[
    ("lathe_sequences_running", "Sequences that hold pages of the cache", |l| l.running as u64),
    ("lathe_sequences_waiting", "Sequences that wait for pages", |l| l.waiting as u64),
    ("lathe_kv_pages", "Pages of the cache", |l| l.pages.total as u64),
    ("lathe_kv_pages_held", "Pages that sequences hold", |l| l.pages.held as u64),
    ("lathe_kv_pages_shared", "Pages that several sequences hold", |l| l.pages.shared as u64),
    ("lathe_kv_pages_kept", "Free pages kept for equal prefixes", |l| l.pages.kept as u64),
    ("lathe_steps_total", "Steps computed", |l| l.steps),
    ("lathe_computed_tokens_total", "Tokens computed", |l| l.computed_tokens),
    ("lathe_prefix_tokens_total", "Tokens of prompts looked up in the prefix cache", |l| l.prefix_tokens),
    ("lathe_prefix_hit_tokens_total", "Tokens of prompts found in the prefix cache", |l| l.prefix_hits),
    ("lathe_drafted_tokens_total", "Tokens that were guessed and computed", |l| l.drafted_tokens),
    ("lathe_accepted_tokens_total", "Tokens that were guessed right", |l| l.accepted_tokens),
    ("lathe_preemptions_total", "Sequences that lost their pages", |l| l.preemptions),
    ("lathe_swap_pages", "Pages of the tier below the cache", |l| l.swap.total as u64),
    ("lathe_swap_pages_held", "Pages there that sequences hold", |l| l.swap.held as u64),
    ("lathe_swapped_out_pages_total", "Pages copied to the tier below", |l| l.swapped_out),
    ("lathe_swapped_in_pages_total", "Pages copied back from there", |l| l.swapped_in),
    ("lathe_swapped_out_bytes_total", "Bytes copied to the tier below", |l| {
        l.swapped_out * l.swap_page_bytes
    }),
    ("lathe_swapped_in_bytes_total", "Bytes copied back from there", |l| l.swapped_in * l.swap_page_bytes),
];

const FAST: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.5, 1.0];
const SLOW: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Metrics {
        let registry = Registry::new();
        let named = "the metric's name is valid and comes once";
        let counter = |name, help| {
            let counter = IntCounter::new(name, help).expect(named);
            registry.register(Box::new(counter.clone())).expect(named);
            counter
        };
        let histogram = |name, help, buckets: &[f64]| {
            let histogram =
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())).expect(named);
            registry.register(Box::new(histogram.clone())).expect(named);
            histogram
        };
        let requests = Opts::new("lathe_requests_total", "Requests by path and status");
        let requests = IntCounterVec::new(requests, &["path", "status"]).expect(named);
        registry.register(Box::new(requests.clone())).expect(named);
        let gauge = |&(name, help, read): &(&str, &str, fn(&Load) -> u64)| {
            let gauge = IntGauge::new(name, help).expect(named);
            registry.register(Box::new(gauge.clone())).expect(named);
            (gauge, read)
        };
        Metrics {
            requests,
            prompt_tokens: counter("lathe_prompt_tokens_total", "Tokens of prompts"),
            generated_tokens: counter("lathe_generated_tokens_total", "Tokens of answers that ended"),
            first_token: histogram("lathe_time_to_first_token_seconds", "From request to first token", SLOW),
            per_token: histogram(
                "lathe_time_per_output_token_seconds",
                "Between tokens after the first",
                FAST,
            ),
            request: histogram("lathe_request_seconds", "From request to the end of its answers", SLOW),
            gauges: GAUGES.iter().map(gauge).collect(),
            registry,
        }
    }

    /// All as Prometheus reads it.
    pub(crate) fn text(&self, load: &Load) -> String {
        for (gauge, read) in &self.gauges {
            gauge.set(i64::try_from(read(load)).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        // Text into memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}
