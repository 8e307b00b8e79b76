//! The socket and its connections: bounded in number, in what they send before a body, and in how long they may be silent.

use super::gate::Gate;
use super::metrics::Metrics;
use super::model::{Dialect, Model};
use super::routes::router;
use super::scheduler::Scheduler;
use super::socket::{Address, Socket, Stream};
use super::{Settings, Shared};
use anyhow::{Result, bail};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use moewe_engine::sampler::Sampling;
use moewe_engine::session::Engine;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

const MOST_CONNECTIONS: usize = 1024;
const MOST_HEADERS: usize = 100;
/// Of the request line and the headers.
const HEAD_BYTES: usize = 16 << 10;
/// A connection without a whole head for so long is closed, idle ones too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that takes nothing of its answer for so long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const PATIENCE: Patience = Patience {
    look: Duration::from_secs(1),
    stuck: Duration::from_secs(60),
    last_step: Duration::from_secs(10),
};
/// Threads that make tokens of long texts.
const TOKENIZERS: usize = 2;

/// How long the thread that computes is waited for.
#[derive(Clone, Copy)]
struct Patience {
    /// How soon the flag to end is seen: an idle server does next to nothing.
    look: Duration,
    /// A step that takes longer is told of: a disk or a card may hang.
    stuck: Duration,
    /// How long the latest step may take when the server ends.
    last_step: Duration,
}

impl Patience {
    /// Waits until it is over, and tells of each step that takes too long, once.
    fn watch(self, metrics: &Metrics, is_over: impl Fn() -> bool, mut tell: impl FnMut(Duration)) {
        let mut is_stuck = false;
        while !is_over() {
            thread::park_timeout(self.look);
            let was_stuck = std::mem::replace(&mut is_stuck, metrics.turn_takes() > self.stuck);
            if is_stuck && !was_stuck {
                tell(self.stuck);
            }
        }
    }

    /// Whether a thread that was told to end does so in time, and before the flag goes up.
    fn sees_the_end(self, thread: &JoinHandle<()>, stop: &AtomicBool) -> bool {
        let until = Instant::now() + self.last_step;
        while !thread.is_finished() {
            if Instant::now() > until || stop.load(Ordering::Relaxed) {
                return false;
            }
            thread::sleep(self.look.min(Duration::from_millis(20)));
        }
        true
    }
}

/// A server that listens. It answers that it is loading, until it gets its model.
pub(crate) struct Server {
    shared: Arc<Shared>,
    name: String, // of the address
    http: JoinHandle<Result<()>>,
    end: watch::Sender<bool>,
}

impl Server {
    /// Takes the address and begins to answer.
    ///
    /// # Errors
    /// An address that is taken, or open to the net without a key.
    pub(crate) fn start(address: &Address, settings: Settings) -> Result<Self> {
        let socket = Socket::open(address, !settings.keys.is_empty())?;
        let name = socket.name();
        let gate = Gate::new(
            socket.address()?,
            settings.hosts.clone(),
            settings.origins.clone(),
            &settings.keys,
            settings.metrics_are_open,
        );
        let shared = Arc::new(Shared {
            gate,
            metrics: Arc::new(Metrics::new()),
            places: Arc::new(Semaphore::new(settings.places())),
            model: OnceLock::new(),
            is_closing: AtomicBool::new(false),
            settings,
        });
        let (end, ended) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(TOKENIZERS)
            .build()?;
        let of_thread = shared.clone();
        let run = move || runtime.block_on(listen(socket, of_thread, ended));
        let http = thread::Builder::new().name("moewe-http".into()).spawn(run)?;
        Ok(Self { shared, name, http, end })
    }

    /// Where it listens, for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Serves a model until the flag goes up, and longer for those that are being answered, unless it
    /// goes up again.
    ///
    /// # Errors
    /// When the model cannot be computed, or the system has no thread.
    pub(crate) fn serve(
        self,
        engine: Engine,
        sampling: Sampling,
        dialect: Dialect,
        stop: &AtomicBool,
    ) -> Result<()> {
        let Self { shared, http, end, .. } = self;
        let engine = Arc::new(engine);
        let limits = shared.settings.limits;
        let (scheduler, thread) = Scheduler::start(engine.clone(), limits, shared.metrics.clone())?;
        let model =
            Model::new(engine, scheduler.clone(), shared.settings.aliases.clone(), sampling, dialect)?;
        // Only this sets it.
        let _ = shared.model.set(Arc::new(model));
        let is_over = || stop.load(Ordering::Relaxed) || http.is_finished() || thread.is_finished();
        PATIENCE.watch(&shared.metrics, is_over, |limit| {
            tracing::warn!("a step takes longer than {} s; requests are still heard", limit.as_secs());
        });
        shared.is_closing.store(true, Ordering::Relaxed);
        stop.store(false, Ordering::Relaxed);
        let until = Instant::now() + shared.settings.grace;
        let all = shared.settings.places();
        let is_busy = || shared.places.available_permits() < all && !thread.is_finished();
        while is_busy() && Instant::now() < until && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        scheduler.end();
        stop.store(false, Ordering::Relaxed);
        if !PATIENCE.sees_the_end(&thread, stop) {
            tracing::warn!("the latest step does not end, and is left");
            return Ok(());
        }
        let computed = thread.join();
        let _ = end.send(true);
        let served = http.join();
        if computed.is_err() || served.is_err() {
            bail!("the server has failed; see above");
        }
        served.unwrap_or(Ok(()))
    }
}

/// Takes connections until the end, and lets those that are open finish their answers.
async fn listen(socket: Socket, shared: Arc<Shared>, mut ended: watch::Receiver<bool>) -> Result<()> {
    let socket = socket.listen()?;
    let router = router(shared.clone());
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = ended.changed() => break,
        };
        let Ok(stream) = accepted else {
            // Too many files are open: some will close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = connections.clone().try_acquire_owned() else { continue };
        let (router, shared, ended) = (router.clone(), shared.clone(), ended.clone());
        tokio::spawn(async move {
            shared.metrics.connections.inc();
            attend(stream, router, ended).await;
            shared.metrics.connections.dec();
            drop(place);
        });
    }
    let last = connections.acquire_many(MOST_CONNECTIONS as u32);
    let _ = tokio::time::timeout(Duration::from_secs(2), last).await;
    Ok(())
}

/// One connection, request after request.
async fn attend(stream: Box<dyn Stream>, router: axum::Router, mut ended: watch::Receiver<bool>) {
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MOST_HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // What goes wrong with a connection is its client's to know.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    const IMPATIENCE: Patience =
        Patience { look: Duration::from_micros(10), stuck: Duration::ZERO, last_step: Duration::ZERO };

    #[test]
    fn a_step_that_hangs_is_told_of_once() {
        let metrics = Metrics::new();
        let (looks, told) = (Cell::new(0), Cell::new(0));
        // One turn that never ends, then none, then another one.
        let is_over = || {
            match looks.get() {
                0 | 20 => metrics.begin_turn(),
                10 => metrics.end_turn(),
                _ => {}
            }
            looks.replace(looks.get() + 1) == 30
        };
        IMPATIENCE.watch(&metrics, is_over, |limit| {
            assert_eq!(limit, IMPATIENCE.stuck);
            told.set(told.get() + 1);
        });
        assert_eq!(told.get(), 2);
        // Whoever has time is told of nothing.
        let patient = Patience { stuck: PATIENCE.stuck, ..IMPATIENCE };
        looks.set(11);
        patient.watch(&metrics, is_over, |_| panic!("a turn took a minute"));
    }

    #[test]
    fn a_step_that_hangs_holds_up_no_end() {
        let (release, hangs) = channel::<()>();
        let stuck = thread::spawn(move || hangs.recv().unwrap_or_default());
        let (quiet, hurried) = (AtomicBool::new(false), AtomicBool::new(true));
        assert!(!IMPATIENCE.sees_the_end(&stuck, &quiet), "its time was over");
        assert!(!PATIENCE.sees_the_end(&stuck, &hurried), "somebody did not want to wait");
        drop(release);
        assert!(Patience { last_step: Duration::from_secs(60), ..IMPATIENCE }.sees_the_end(&stuck, &quiet));
        stuck.join().unwrap();
    }
}
