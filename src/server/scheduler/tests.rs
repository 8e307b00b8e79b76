//! Requests against a thread that computes for all of them: texts do not depend on company, beginnings are found, nobody
//! waits for ever, nothing is left behind.

#[path = "../../../tests/support/bytes.rs"]
mod bytes;

use super::*;
use crate::embedded;
use moewe_engine::dialogue::{Piece, Reader};
use moewe_engine::generate::{Answer, Ending};
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::Options;
use moewe_engine::simd::Isa;
use moewe_engine::tokenizer::Special;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, channel};

fn engine(parallel: usize, context: usize) -> Arc<Engine> {
    let options = Options {
        threads: Some(1),
        context: Some(context),
        sequences: Some(parallel),
        batch: 128,
        ..Options::default()
    };
    Arc::new(Engine::from_static(embedded::model(), options).unwrap())
}

/// A thread that ends with the test, and leaves no page in use.
struct Running {
    engine: Arc<Engine>,
    scheduler: Scheduler,
    thread: Option<JoinHandle<()>>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
}

impl Running {
    fn new(engine: &Arc<Engine>, limits: Limits) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (scheduler, thread) = Scheduler::start(engine.clone(), limits, metrics.clone()).unwrap();
        let places = Arc::new(Semaphore::new(1000));
        Self { engine: engine.clone(), scheduler, thread: Some(thread), metrics, places }
    }

    fn parallel(engine: &Arc<Engine>, parallel: usize) -> Self {
        Self::new(engine, Limits { parallel, ..Limits::default() })
    }

    fn request(
        &self,
        seed: u64,
        prompt: &[u32],
        limit: usize,
        room: usize,
    ) -> (Request, Receiver<(usize, Event)>) {
        let (events, receiver) = channel(room);
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: Sampling { seed: Some(seed), ..Sampling::default() },
            limit: Some(limit),
            reader: Reader::plain(),
            constraint: None,
            odds: None,
            scores: false,
            reuses: true,
            progress: false,
            deadline: None,
            index: 0,
            events,
            permit: self.places.clone().try_acquire_owned().unwrap(),
        };
        (request, receiver)
    }

    fn ask(&self, seed: u64, prompt: &[u32], limit: usize) -> Receiver<(usize, Event)> {
        let (request, events) = self.request(seed, prompt, limit, 256);
        self.scheduler.submit(request);
        events
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.scheduler.end();
        self.thread.take().unwrap().join().unwrap();
        if !std::thread::panicking() {
            assert_eq!(self.engine.pool().used(), 0);
            assert_eq!(self.places.available_permits(), 1000);
        }
    }
}

fn prompt(engine: &Engine, text: &str) -> Vec<u32> {
    engine.tokenizer().unwrap().encode(text, Special::Plain).unwrap()
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

/// The text, with its ending and what it took.
fn answer(mut events: Receiver<(usize, Event)>) -> (String, Ending, Usage) {
    let mut all = String::new();
    loop {
        match events.blocking_recv().unwrap().1 {
            Event::Begun { .. } | Event::Read { .. } | Event::Scored(_) => {}
            Event::Token { pieces, .. } => all.push_str(&text(&pieces)),
            Event::Ended { ending, pieces, usage, .. } => return (all + &text(&pieces), ending, usage),
            Event::Failed(failure) => panic!("{failure:?}"),
        }
    }
}

fn alone(engine: &Engine, seed: u64, prompt: &[u32], limit: usize) -> String {
    let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, engine.config().vocab_size).unwrap();
    let mut session = engine.session().unwrap();
    let mut answer = Answer::start(&mut session, &mut sampler, prompt, Some(limit), Reader::plain()).unwrap();
    let mut all = String::new();
    while let Some(pieces) = answer.next_pieces().unwrap() {
        all.push_str(&text(&pieces));
    }
    all
}

const TEXTS: [&str; 5] =
    ["Die Möwe fliegt", "Am Morgen", "Es war einmal ein", "Im Hafen von Kiel liegt", "Der Wind"];

#[test]
fn texts_do_not_depend_on_company() {
    let engine = engine(3, 256);
    let prompts: Vec<_> = TEXTS.iter().map(|text| prompt(&engine, text)).collect();
    let limit = |seed: u64| 4 + seed as usize;
    let running = Running::parallel(&engine, 3);
    // More than there are places: they drain.
    let all: Vec<_> =
        prompts.iter().zip(1..).map(|(prompt, seed)| running.ask(seed, prompt, limit(seed))).collect();
    for ((events, prompt), seed) in all.into_iter().zip(&prompts).zip(1..) {
        let (text, _, usage) = answer(events);
        assert_eq!(text, alone(&engine, seed, prompt, limit(seed)));
        assert!(usage.completion_tokens <= limit(seed) && usage.prompt_tokens == prompt.len());
    }
}

/// One of eight has a grammar that fails; the others have the bits that they have alone.
#[test]
fn a_grammar_that_fails_is_nobody_elses_business() {
    let engine = engine(8, 256);
    let running = Running::parallel(&engine, 8);
    let schema = serde_json::json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let vocabulary = engine.vocabulary().unwrap();
    let matcher = vocabulary.compile(&Grammar::JsonSchema(schema)).unwrap();
    let mut broken = matcher.clone();
    assert!(broken.advance_bytes(b"x").is_err());
    let prompts: Vec<_> = TEXTS.iter().cycle().take(8).map(|text| prompt(&engine, text)).collect();
    let all: Vec<_> = (0..8)
        .map(|at| {
            let (mut request, events) = running.request(at as u64, &prompts[at], 24, 256);
            let matcher = [&broken, &matcher].into_iter().nth(at);
            request.constraint =
                matcher.map(|matcher| Constraint { matcher: matcher.clone(), begins: Begins::AtOnce });
            running.scheduler.submit(request);
            events
        })
        .collect();
    for (at, mut events) in all.into_iter().enumerate() {
        if at == 0 {
            let failed = std::iter::from_fn(|| events.blocking_recv()).any(|event| {
                matches!(event.1, Event::Failed(Failure::Engine(why)) if why.contains("cannot be followed"))
            });
            assert!(failed);
            continue;
        }
        let (text, ending, _) = answer(events);
        if at == 1 {
            let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert!(is_json == (ending == Ending::EndOfText) && text.starts_with('{'), "{text}");
            continue;
        }
        assert_eq!(text, alone(&engine, at as u64, &prompts[at], 24));
    }
}

#[test]
fn a_known_beginning_is_not_computed_again() {
    let engine = engine(2, 700);
    let running = Running::parallel(&engine, 2);
    let first = prompt(&engine, &"Die Möwe fliegt über das Meer. ".repeat(12));
    let ask = |seed, prompt: &[u32]| answer(running.ask(seed, prompt, 3));
    let (text, _, usage) = ask(1, &first);
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (first.len(), 0));
    // The next turn: all but the latest token of the answer is known.
    let next = [&first[..], &prompt(&engine, &text), &prompt(&engine, " Und dann")].concat();
    assert_eq!(ask(2, &next).2.cached_tokens, first.len() + usage.completion_tokens - 1);
    // The same again: the last token is computed.
    assert_eq!(ask(1, &first).2.cached_tokens, first.len() - 1);
    let (mut alone, events) = running.request(3, &first, 1, 64);
    alone.reuses = false;
    running.scheduler.submit(alone);
    assert_eq!(answer(events).2.cached_tokens, 0);
}

#[test]
fn who_come_together_share_what_the_first_reads() {
    let engine = engine(4, 700);
    let running = Running::parallel(&engine, 4);
    let common = prompt(&engine, &"Die Möwe fliegt über das Meer. ".repeat(12));
    let prompts: Vec<_> =
        TEXTS[..4].iter().map(|text| [&common[..], &prompt(&engine, text)].concat()).collect();
    let all: Vec<_> = prompts.iter().map(|prompt| running.ask(1, prompt, 3)).collect();
    let cached: Vec<_> = all.into_iter().map(|events| answer(events).2.cached_tokens).collect();
    assert_eq!(cached.iter().filter(|cached| **cached >= common.len()).count(), 3, "{cached:?}");
}

#[test]
fn under_exact_whole_pages_are_shared() {
    let engine = engine(2, 1024);
    let running = Running::new(&engine, Limits { parallel: 2, exact: true, ..Limits::default() });
    let prompt = prompt(&engine, &"Die Möwe fliegt über das Meer. ".repeat(40));
    let cold = answer(running.ask(1, &prompt, 8));
    let warm = answer(running.ask(1, &prompt, 8));
    assert_eq!(warm.0, cold.0);
    assert_eq!(warm.2.cached_tokens, (prompt.len() - 1) / 256 * 256);
    assert!(warm.2.cached_tokens > 0);
}

#[test]
fn clients_that_go_or_wait_hold_nobody_up() {
    let engine = engine(2, 256);
    let running = Running::parallel(&engine, 2);
    let prompts: Vec<_> = TEXTS.iter().map(|text| prompt(&engine, text)).collect();
    // One goes at once, one never listens, one goes while it waits, and one is answered.
    let (gone, events) = running.request(1, &prompts[0], 200, 1);
    drop(events);
    let (slow, slow_events) = running.request(2, &prompts[1], 200, 2);
    let (waiting, waiting_events) = running.request(3, &prompts[2], 200, 64);
    let (answered, events) = running.request(4, &prompts[3], 8, 64);
    for request in [gone, slow, waiting, answered] {
        running.scheduler.submit(request);
    }
    drop(waiting_events);
    assert_eq!(answer(events).0, alone(&engine, 4, &prompts[3], 8));
    // The slow one goes on once it listens, with what it would have said.
    assert_eq!(answer(slow_events).0, alone(&engine, 2, &prompts[1], 200));
    assert!(running.metrics.text().contains("moewe_requests_cancelled_total{phase=\""));
}

#[test]
fn who_waits_too_long_is_told() {
    let engine = engine(1, 256);
    let running = Running::parallel(&engine, 1);
    let prompt = prompt(&engine, TEXTS[0]);
    let first = running.ask(1, &prompt, 60);
    let (mut late, mut events) = running.request(2, &prompt, 3, 64);
    late.deadline = Some(Instant::now());
    running.scheduler.submit(late);
    assert!(matches!(events.blocking_recv(), Some((_, Event::Failed(Failure::Waited)))));
    assert_eq!(answer(first).1, Ending::Limit);
}

#[test]
fn without_room_the_youngest_waits_and_goes_on_as_if_nothing_had_been() {
    // Room for one whole context: three that want half of one each do not fit at once.
    let options = Options {
        threads: Some(1),
        context: Some(768),
        sequences: Some(1),
        batch: 128,
        ..Options::default()
    };
    let engine = Arc::new(Engine::from_static(embedded::model(), options).unwrap());
    // What lost its place is computed anew, token by token where it was an answer: to the bit as before.
    let running = Running::new(&engine, Limits { parallel: 3, exact: true, ..Limits::default() });
    let prompts: Vec<_> =
        TEXTS.iter().take(3).map(|text| prompt(&engine, &format!("{text} ").repeat(110))).collect();
    let all: Vec<_> =
        prompts.iter().zip(1..).map(|(prompt, seed)| running.ask(seed, &prompt[..200], 100)).collect();
    let other = self::engine(1, 768);
    for ((events, prompt), seed) in all.into_iter().zip(&prompts).zip(1..) {
        assert_eq!(answer(events).0, alone(&other, seed, &prompt[..200], 100), "{seed}");
    }
    let text = running.metrics.text();
    let preempted = text.lines().find_map(|line| line.strip_prefix("moewe_preemptions_total "));
    assert_ne!(preempted, Some("0"), "{text}");
}

#[test]
fn odds_of_a_prompt_are_those_of_a_session() {
    // Pieces of the same lengths for both.
    let options = Options { threads: Some(1), context: Some(512), batch: 32, ..Options::default() };
    let engine = Arc::new(Engine::from_static(embedded::model(), options).unwrap());
    let running = Running::parallel(&engine, 1);
    let prompt = prompt(&engine, &"Die Möwe fliegt über das Meer. ".repeat(8));
    let (mut request, mut events) = running.request(1, &prompt, 0, 64);
    (request.odds, request.scores) = (Some(Telling::of_model(2)), true);
    running.scheduler.submit(request);
    let mut scored = vec![];
    while let Some((_, event)) = events.blocking_recv() {
        if let Event::Scored(odds) = event {
            scored.extend(odds);
        }
    }
    assert_eq!(scored.iter().map(|odds| odds.token).collect::<Vec<_>>(), prompt[1..]);
    let mut session = engine.session().unwrap();
    session
        .extend_with_logits(&prompt, |position, logits| {
            if let Some(odds) = scored.get(position) {
                let own = TokenOdds::new(logits, prompt[position + 1], 2);
                assert_eq!(&own, odds, "{position}");
            }
            Ok(())
        })
        .unwrap();
}

/// A model with layers that carry a state, in Q8_0.
fn recurrent(parallel: usize) -> (tempfile::TempDir, Arc<Engine>) {
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (folder.path().join("source"), folder.path().join("m.gguf"));
    bytes::speaking("qwen35moe", &source);
    let format = moewe_engine::quant::Format::by_name("Q8_0").unwrap();
    moewe_convert::convert(&source, &file, &moewe_convert::Options::new(format), &()).unwrap();
    // On AMX prompts of other lengths have other bits.
    let isa = Isa::available().filter(|isa| *isa < Isa::Amx).last();
    let options = Options {
        threads: Some(1),
        context: Some(256),
        sequences: Some(parallel),
        isa,
        ..Options::default()
    };
    let engine = Arc::new(Engine::open(file, options).unwrap());
    (folder, engine)
}

/// States are kept at the ends of prompts and answers, and where conversations parted.
#[test]
fn beginnings_with_a_state_are_known_where_somebody_was() {
    let (_folder, engine) = recurrent(2);
    let (_other, other) = recurrent(1);
    let running = Running::parallel(&engine, 2);
    let ask = |seed, prompt: &[u32]| {
        let (text, _, usage) = answer(running.ask(seed, prompt, 6));
        assert_eq!(text, alone(&other, seed, prompt, 6));
        (text, usage)
    };
    let tokens = |seed: u32, count: u32| (0..count).map(|i| (i * i + seed * 7) % 200 + 3).collect::<Vec<_>>();
    let common = tokens(1, 40);
    let with = |seed| [&common[..], &tokens(seed, 20)].concat();
    let (first, second, third) = (with(5), with(6), with(7));
    assert_eq!(ask(1, &first).1.cached_tokens, 0);
    assert_eq!(ask(1, &first).1.cached_tokens, 59, "all but the prompt's last token");
    assert_eq!(ask(2, &second).1.cached_tokens, 0, "nobody had stopped there");
    assert_eq!(ask(3, &third).1.cached_tokens, 40, "where two parted");
    let all: Vec<_> = (8..12).map(|seed| running.ask(seed.into(), &with(seed), 9)).collect();
    for (events, seed) in all.into_iter().zip(8..) {
        assert_eq!(answer(events).0, alone(&other, seed.into(), &with(seed), 9), "in company");
    }
}
