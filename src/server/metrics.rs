//! What the server counts, in the text format that Prometheus reads; llama-server's names stand beside our own.

use super::usage::Usage;
use moewe_engine::os::memory;
use moewe_engine::session::Engine;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Seconds = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    dialect: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// All of them.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    cancelled: Family<Phase, Counter>,
    rejected: Counter,
    pub(super) preemptions: Counter,
    prompt_tokens: Counter,
    prompt_seconds: Seconds,
    predicted_tokens: Counter,
    predicted_seconds: Seconds,
    cached_tokens: Counter,
    finished: Counter,
    finished_seconds: Seconds,
    decodes: Counter,
    decoded_rows: Counter,
    pub(super) processing: Gauge,
    pub(super) deferred: Gauge,
    busy: Gauge<f64, AtomicU64>,
    prompt_rate: Gauge<f64, AtomicU64>,
    predicted_rate: Gauge<f64, AtomicU64>,
    pages: Family<State, Gauge>,
    first_token: Histogram,
    between_tokens: Histogram,
    masks: Histogram,
    queued: Histogram,
    steps: Family<Kind, Histogram>,
    rows: Family<Kind, Counter>,
    pub(super) connections: Gauge,
    experts_read: Counter,
    experts_read_bytes: Counter,
    experts_hits: Counter,
    experts_wasted_bytes: Counter,
    experts_stalled: Seconds,
    experts_disk_busy: Seconds,
    experts_disk_hidden: Seconds,
    resident: Gauge,
    turn_since: Mutex<Option<Instant>>, // while one is computed
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18)) // to 131 s
}

/// Registers what llama-server counts as well, under both names.
struct Both<'r>(&'r mut Registry);

impl Both<'_> {
    fn add(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        for prefix in ["moewe_", "llamacpp:"] {
            self.0.register(format!("{prefix}{name}"), help, metric.clone());
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            cancelled: Family::default(),
            rejected: Counter::default(),
            preemptions: Counter::default(),
            prompt_tokens: Counter::default(),
            prompt_seconds: Seconds::default(),
            predicted_tokens: Counter::default(),
            predicted_seconds: Seconds::default(),
            cached_tokens: Counter::default(),
            finished: Counter::default(),
            finished_seconds: Seconds::default(),
            decodes: Counter::default(),
            decoded_rows: Counter::default(),
            processing: Gauge::default(),
            deferred: Gauge::default(),
            busy: Gauge::default(),
            prompt_rate: Gauge::default(),
            predicted_rate: Gauge::default(),
            pages: Family::default(),
            first_token: durations(),
            between_tokens: durations(),
            masks: Histogram::new(exponential_buckets(0.000_01, 2.0, 16)), // to 0.33 s
            queued: durations(),
            steps: Family::new_with_constructor(durations),
            rows: Family::default(),
            connections: Gauge::default(),
            experts_read: Counter::default(),
            experts_read_bytes: Counter::default(),
            experts_hits: Counter::default(),
            experts_wasted_bytes: Counter::default(),
            experts_stalled: Seconds::default(),
            experts_disk_busy: Seconds::default(),
            experts_disk_hidden: Seconds::default(),
            resident: Gauge::default(),
            turn_since: Mutex::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let mut registry = Registry::default();
        let mut both = Both(&mut registry);
        both.add("prompt_tokens", "Tokens of prompts that were computed", &self.prompt_tokens);
        both.add("prompt_seconds", "Time that prompts took", &self.prompt_seconds);
        both.add("tokens_predicted", "Tokens of answers", &self.predicted_tokens);
        both.add("tokens_predicted_seconds", "Time that answers took", &self.predicted_seconds);
        both.add("n_decode", "Steps of answers", &self.decodes);
        both.add("requests_processing", "Conversations that are computed", &self.processing);
        both.add("requests_deferred", "Requests that wait", &self.deferred);
        both.add("n_busy_slots_per_decode", "Answers per step on average", &self.busy);
        both.add("prompt_tokens_seconds", "Tokens of prompts per second of these", &self.prompt_rate);
        both.add("predicted_tokens_seconds", "Tokens of answers per second of these", &self.predicted_rate);
        let own = registry.sub_registry_with_prefix("moewe");
        own.register("requests", "Answers by dialect and status", self.requests.clone());
        own.register("requests_cancelled", "Requests whose client went away", self.cancelled.clone());
        own.register("queue_rejected", "Requests that found the queue full", self.rejected.clone());
        own.register(
            "preemptions",
            "Conversations that lost their place for a while",
            self.preemptions.clone(),
        );
        own.register("cached_tokens", "Tokens of prompts that were known", self.cached_tokens.clone());
        own.register("pages", "Pages of the cache", self.pages.clone());
        own.register("time_to_first_token_seconds", "From arrival", self.first_token.clone());
        own.register("inter_token_seconds", "Between tokens of an answer", self.between_tokens.clone());
        own.register("grammar_mask_seconds", "Finding which tokens may come next", self.masks.clone());
        own.register("queue_seconds", "From arrival to a place", self.queued.clone());
        own.register("step_seconds", "Steps of answers and of prompts", self.steps.clone());
        own.register("step_rows", "Rows of these steps", self.rows.clone());
        own.register("open_connections", "Connections", self.connections.clone());
        self.register_reads(own);
        own.register("resident_bytes", "Memory of the process", self.resident.clone());
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        own.register("build_info", "The program", build);
        self.registry = registry;
        self
    }

    fn register_reads(&self, own: &mut Registry) {
        own.register("experts_read", "Experts that were read from the file", self.experts_read.clone());
        own.register("experts_read_bytes", "Bytes of these", self.experts_read_bytes.clone());
        own.register("experts_hits", "Experts that were in memory when wanted", self.experts_hits.clone());
        own.register("experts_wasted_bytes", "Bytes read for nothing", self.experts_wasted_bytes.clone());
        for (name, help, counter) in [
            ("experts_stalled_seconds", "Nothing could be computed without a read", &self.experts_stalled),
            ("experts_disk_busy_seconds", "A read was under way", &self.experts_disk_busy),
            (
                "experts_disk_hidden_seconds",
                "A read was under way and something computed",
                &self.experts_disk_hidden,
            ),
        ] {
            own.register(name, help, counter.clone());
        }
    }

    /// An answer that ended, or was given up.
    pub(super) fn finished(&self, usage: &Usage) {
        self.prompt_tokens.inc_by((usage.prompt_tokens - usage.cached_tokens) as u64);
        self.cached_tokens.inc_by(usage.cached_tokens as u64);
        self.predicted_tokens.inc_by(usage.completion_tokens as u64);
        if usage.completion_tokens > 0 {
            self.first_token.observe((usage.waited + usage.prompt).as_secs_f64());
        }
        self.finished.inc();
        self.finished_seconds.inc_by((usage.prompt + usage.answer).as_secs_f64());
        let rate = |tokens: &Counter, seconds: &Seconds| tokens.get() as f64 / seconds.get().max(1e-9);
        self.prompt_rate.set(rate(&self.prompt_tokens, &self.prompt_seconds));
        self.predicted_rate.set(rate(&self.predicted_tokens, &self.predicted_seconds));
    }

    /// In how many seconds a full queue may have room again.
    pub(super) fn retry_after(&self, parallel: usize) -> u64 {
        let each = self.finished_seconds.get() / self.finished.get().max(1) as f64;
        // Of those that are computed one ends about so soon.
        ((each / parallel as f64).ceil() as u64).clamp(1, 120)
    }

    /// Time between two tokens of an answer.
    pub(super) fn token(&self, gap: Duration) {
        self.between_tokens.observe(gap.as_secs_f64());
    }

    /// Steps of answers so far.
    pub(super) fn steps(&self) -> u64 {
        self.decodes.get()
    }

    /// Which tokens may come next, found for an answer with a grammar.
    pub(super) fn masked(&self, took: Option<Duration>) {
        took.iter().for_each(|took| self.masks.observe(took.as_secs_f64()));
    }

    /// A step with rows of answers.
    pub(super) fn answered(&self, rows: usize, took: Duration) {
        self.decodes.inc();
        self.decoded_rows.inc_by(rows as u64);
        self.predicted_seconds.inc_by(took.as_secs_f64());
        self.busy.set(self.decoded_rows.get() as f64 / self.decodes.get() as f64);
        self.step("answers", rows, took);
    }

    /// A piece of a prompt.
    pub(super) fn read(&self, rows: usize, took: Duration) {
        self.prompt_seconds.inc_by(took.as_secs_f64());
        self.step("prompt", rows, took);
    }

    /// A turn of the scheduler begins.
    pub(super) fn begin_turn(&self) {
        *self.since() = Some(Instant::now());
    }

    /// It has ended, one way or another.
    pub(super) fn end_turn(&self) {
        *self.since() = None;
    }

    /// How long the present turn has taken.
    pub(super) fn turn_takes(&self) -> Duration {
        self.since().map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.turn_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, kind: &'static str, rows: usize, took: Duration) {
        self.steps.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
        self.rows.get_or_create(&Kind { kind }).inc_by(rows as u64);
    }

    pub(super) fn waited(&self, time: Duration) {
        self.queued.observe(time.as_secs_f64());
    }

    pub(super) fn cancelled(&self, phase: &'static str) {
        self.cancelled.get_or_create(&Phase { phase }).inc();
    }

    pub(super) fn pages(&self, used: usize, free: usize) {
        self.pages.get_or_create(&State { state: "used" }).set(used as i64);
        self.pages.get_or_create(&State { state: "free" }).set(free as i64);
    }

    pub(super) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(super) fn request(&self, dialect: &'static str, status: u16) {
        self.requests.get_or_create(&Answered { dialect, status }).inc();
    }

    /// What the expert store has counted, and the process's memory.
    pub(super) fn look_at(&self, engine: &Engine) {
        if let Some(experts) = engine.expert_statistics() {
            for (counter, now) in [
                (&self.experts_read, experts.misses()),
                (&self.experts_read_bytes, experts.bytes_read),
                (&self.experts_hits, experts.hits()),
                (&self.experts_wasted_bytes, experts.wasted_bytes),
            ] {
                counter.inc_by(now.saturating_sub(counter.get()));
            }
            for (counter, now) in [
                (&self.experts_stalled, experts.stall),
                (&self.experts_disk_busy, experts.disk_busy),
                (&self.experts_disk_hidden, experts.hidden),
            ] {
                counter.inc_by((now.as_secs_f64() - counter.get()).max(0.0));
            }
        }
        self.resident.set(memory::resident() as i64);
    }

    /// As text in version 0.0.4, in which a counter's family has the name of its sample.
    pub(super) fn text(&self) -> String {
        let mut open = String::new();
        // Only a writer can fail, and a string does not.
        let _ = encode(&mut open, &self.registry);
        let counters: Vec<&str> =
            open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut text = String::with_capacity(open.len());
        for line in open.lines().filter(|line| *line != "# EOF") {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                    text.push_str(&format!("# {kind} {name}_total {rest}\n"));
                }
                _ => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }
}
