//! `moewe serve` on a card: many conversations at once, in streams or whole, some of which go away; answers are those of
//! each alone to the bit, and their odds those of the processor.

use crate::bytes::speaking;
use crate::serving::{Reply, Serving, command};
use crate::with_driver;
use moewe_convert::Options;
use moewe_engine::quant::Format;
use serde_json::{Value, json};
use std::io::Read;
use std::thread;
use std::time::Duration;

/// A prompt of so many tokens, which all golden models have.
fn request(length: usize, tokens: usize) -> Value {
    let ids: Vec<usize> = (0..length).map(|at| 5 + at * 37 % 200).collect();
    json!({
        "prompt": ids, "max_tokens": tokens, "temperature": 1, "seed": 5, "logprobs": 3, "ignore_eos": true,
    })
}

fn choices(serving: &Serving, request: &Value) -> Value {
    let reply = serving.post("/v1/completions", request);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"].clone()
}

/// The logarithms of a choice's tokens.
fn odds(choices: &Value) -> Vec<f64> {
    let odds = choices[0]["logprobs"]["token_logprobs"].as_array().unwrap();
    odds.iter().filter_map(Value::as_f64).collect()
}

#[test]
fn conversations_are_served_as_on_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("mixtral", "Q8_0"), ("gpt-oss", "F32"), ("deepseek2", "F32")] {
        let (source, file) = (folder.path().join(name), folder.path().join(format!("{name}.gguf")));
        speaking(name, &source);
        let options = Options::new(Format::by_name(format).unwrap());
        moewe_convert::convert(&source, &file, &options, &()).unwrap();
        let file = file.to_str().unwrap();
        let flags = [file, "--exact", "--parallel", "4", "--context", "96", "--cache-type", "f32"];
        let mut on_card = command();
        if with_driver(&mut on_card).is_none() {
            return;
        }
        let card = Serving::by(on_card, &[&flags[..], &["--device", "cuda"]].concat());
        let processor = Serving::start(&flags);
        let requests = [1, 5, 23, 24, 40, 2].map(|length| request(length, 6));
        let fresh = |request: &Value| {
            let mut request = request.clone();
            request["cache_prompt"] = false.into();
            choices(&card, &request)
        };
        let alone: Vec<Value> = requests.iter().map(fresh).collect();
        let together: Vec<Value> = thread::scope(|scope| {
            // Some go away in between.
            let gone = request(30, 40);
            let mut leaving = card.send("POST", "/v1/completions", &[], &gone.to_string());
            let threads: Vec<_> =
                requests.iter().map(|request| scope.spawn(|| choices(&card, request))).collect();
            leaving.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = leaving.read(&mut [0; 1]);
            drop(leaving);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(together, alone, "{name}");
        let echoed = |serving: &Serving| {
            let mut request = request(40, 0);
            (request["echo"], request["temperature"]) = (true.into(), 0.into());
            odds(&choices(serving, &request))
        };
        let (found, expected) = (echoed(&card), echoed(&processor));
        assert_eq!((found.len(), expected.len()), (39, 39));
        let largest = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs());
        let largest = largest.fold(0.0, f64::max);
        // The processor rounds what it multiplies with quantized weights.
        assert!(largest < 1e-3 || format != "F32", "{name}: {largest:e}");
        let mut streamed = requests[4].clone();
        streamed["stream"] = true.into();
        let events = Reply::read(card.send("POST", "/v1/completions", &[], &streamed.to_string())).events();
        let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(text, alone[4][0]["text"].as_str().unwrap(), "{name}");
        card.until("moewe_requests_processing", |count| count == 0.0);
    }
}
