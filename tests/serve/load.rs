//! A server under load: memory stays within what was given, and whoever goes away, whenever it does, leaves nothing.

use crate::serving::{Reply, Serving};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::io::Read;
use std::thread;
use std::time::Duration;

fn request(prompt: usize, tokens: usize, fields: Value) -> Value {
    let ids: Vec<usize> = (0..prompt).map(|at| 300 + at * 37 % 7000).collect();
    let mut request = json!({ "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": true });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

#[test]
fn memory_stays_within_what_was_given() {
    let most = 120u64 << 20;
    let serving = Serving::start(&["--memory", "120M", "--parallel", "8", "--batch", "128"]);
    let answers: Vec<u16> = thread::scope(|scope| {
        let ask = |number: usize| {
            let request = request(300 + 20 * number, 40, json!({ "n": 2, "logprobs": 5 }));
            serving.post("/v1/completions", &request).status
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, [200; 8]);
    let resident = serving.metric("moewe_resident_bytes") as u64;
    assert!(resident <= most + most / 20, "{} MiB", resident >> 20);
    assert!(serving.metric("moewe_experts_read_total") > 0.0);
}

/// Reads so many bytes of an answer, then goes.
fn leave(serving: &Serving, request: &Value, bytes: usize, pause: u64) {
    let mut stream = serving.send("POST", "/v1/completions", &[], &request.to_string());
    thread::sleep(Duration::from_millis(pause));
    let mut read = vec![0; bytes];
    let _ = stream.read_exact(&mut read);
}

#[test]
fn whoever_goes_leaves_nothing() {
    let serving = Serving::start(&["--parallel", "3", "--queue", "61", "--exact"]);
    let question = request(40, 12, json!({ "cache_prompt": false }));
    let first = serving.post("/v1/completions", &question).json()["choices"].clone();
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let clients = prop::collection::vec((1usize..400, any::<bool>(), 0usize..600, 0u64..60), 1..8);
    runner
        .run(&clients, |clients| {
            thread::scope(|scope| {
                for (prompt, streams, bytes, pause) in clients {
                    let request = request(prompt, 60, json!({ "stream": streams }));
                    let serving = &serving;
                    scope.spawn(move || leave(serving, &request, if streams { bytes } else { 0 }, pause));
                }
            });
            Ok(())
        })
        .unwrap();
    serving.until("moewe_requests_processing", |count| count == 0.0);
    serving.until("moewe_requests_deferred", |count| count == 0.0);
    assert!(serving.metric("moewe_open_connections") <= 2.0);
    assert_eq!(serving.post("/v1/completions", &question).json()["choices"], first);
    // All places are free: as many as ever may ask at once.
    let many = request(8, 1, json!({ "n": 3, "prompt": vec![[300, 301]; 21] }));
    let reply = Reply::read(serving.send("POST", "/v1/completions", &[], &many.to_string()));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let serving = Serving::start(&["--parallel", "2"]);
    let endless = request(4, 400, json!({ "stream": true, "logprobs": 20 }));
    let _silent = serving.send("POST", "/v1/completions", &[], &endless.to_string());
    serving.until("moewe_requests_processing", |count| count == 1.0);
    let reply = serving.post("/v1/completions", &request(5, 30, json!({})));
    assert_eq!(reply.json()["usage"]["completion_tokens"], 30);
}
