//! `moewe serve` over plain HTTP: what it answers, whom it refuses, and what is left when clients go away.

mod anthropic;
mod chat;
mod faults;
mod format;
mod load;
mod native;
mod ollama;
mod page;
mod responses;
mod reuse;
#[path = "../support/script.rs"]
#[allow(dead_code, reason = "not all of its scripts are used here")]
mod script;
mod serving;
mod threats;
mod tools;

use serde_json::{Value, json};
use serving::{Reply, Serving, command};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const TEXTS: [&str; 4] = ["Die Möwe fliegt", "Am Morgen", "Es war einmal ein", "Im Hafen von Kiel"];

fn greedy(prompt: impl Into<Value>, tokens: usize) -> Value {
    json!({ "prompt": prompt.into(), "max_tokens": tokens, "temperature": 0 })
}

fn with(mut request: Value, fields: Value) -> Value {
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// The texts of a stream's choices.
fn told(reply: &Reply, choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    let events = reply.events();
    assert!(events.last().unwrap().is_null());
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    texts
}

#[test]
fn a_stream_says_what_a_whole_answer_says() {
    // A beginning that is known is not computed anew, which could show in the last bits.
    let serving = Serving::start(&["--exact"]);
    for prompt in ["Die Möwe fliegt", "Über Größe, Maß und 🦆🌊 ", "<"] {
        let request = greedy(prompt, 24);
        let whole = serving.post("/v1/completions", &request);
        let streamed = serving.post("/v1/completions", &with(request, json!({ "stream": true })));
        assert_eq!(told(&streamed, 1), [text(&whole)]);
        let (events, whole) = (streamed.events(), whole.json());
        assert_eq!(
            events[events.len() - 2]["choices"][0]["finish_reason"],
            whole["choices"][0]["finish_reason"]
        );
        assert!(events.iter().all(|event| event.is_null() || event["id"] == events[0]["id"]));
        assert!(events.iter().all(|event| event.get("usage").is_none()));
        let usage = &whole["usage"];
        let sum = |names: [&str; 2]| names.map(|name| usage[name].as_u64().unwrap()).iter().sum::<u64>();
        assert_eq!(usage["total_tokens"], sum(["prompt_tokens", "completion_tokens"]));
        let timings = &whole["timings"];
        let computed = timings["prompt_n"].as_u64().unwrap() + timings["cache_n"].as_u64().unwrap();
        assert_eq!(usage["prompt_tokens"], computed);
    }
}

#[test]
fn usage_comes_last_where_it_is_asked_for() {
    let serving = Serving::start(&[]);
    let options = json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2 });
    let events = serving.post("/v1/completions", &with(greedy(TEXTS[0], 4), options)).events();
    let (last, others) = events[..events.len() - 1].split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(8)));
    assert!(others.iter().all(|event| event["usage"].is_null() && event["choices"].is_array()));
}

#[test]
fn company_changes_no_answer_and_lists_longer_than_the_places_drain() {
    let serving = Serving::start(&["--parallel", "3"]);
    let alone: Vec<String> =
        TEXTS.iter().map(|prompt| text(&serving.post("/v1/completions", &greedy(*prompt, 12)))).collect();
    let together = serving.post("/v1/completions", &greedy(TEXTS.to_vec(), 12)).json();
    let texts: Vec<_> =
        together["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, alone.iter().collect::<Vec<_>>());
    let seeds = with(greedy(TEXTS[0], 12), json!({ "temperature": 1.2, "seed": 7, "n": 3 }));
    let three = serving.post("/v1/completions", &seeds).json();
    for (index, choice) in three["choices"].as_array().unwrap().iter().enumerate() {
        let one = with(greedy(TEXTS[0], 12), json!({ "temperature": 1.2, "seed": 7 + index }));
        assert_eq!(
            (&choice["index"], &choice["text"]),
            (&json!(index), &json!(text(&serving.post("/v1/completions", &one))))
        );
    }
}

#[test]
fn stop_strings_are_never_shown() {
    let serving = Serving::start(&[]);
    let whole = text(&serving.post("/v1/completions", &greedy(TEXTS[0], 24)));
    for start in whole.char_indices().map(|(at, _)| at).skip(1).step_by(5) {
        let stop: String = whole[start..].chars().take(3).collect();
        let request = with(greedy(TEXTS[0], 24), json!({ "stop": [stop, "never"] }));
        let reply = serving.post("/v1/completions", &request);
        let expected = &whole[..whole.find(&stop).unwrap()];
        assert_eq!(
            (text(&reply).as_str(), &reply.json()["choices"][0]["finish_reason"]),
            (expected, &json!("stop"))
        );
        let streamed = serving.post("/v1/completions", &with(request, json!({ "stream": true })));
        assert_eq!(told(&streamed, 1), [expected]);
    }
}

#[test]
fn odds_of_a_prompt_and_its_answer() {
    let serving = Serving::start(&[]);
    let request = with(greedy(TEXTS[0], 3), json!({ "logprobs": 2, "echo": true }));
    let choice = serving.post("/v1/completions", &request).json()["choices"][0].clone();
    let odds = &choice["logprobs"];
    let list = |name: &str| odds[name].as_array().unwrap().clone();
    let tokens: String = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(json!(tokens), choice["text"]);
    assert!(list("token_logprobs")[0].is_null() && list("top_logprobs")[0].is_null());
    for (at, top) in list("top_logprobs").iter().enumerate().skip(1) {
        let (chosen, token) = (&odds["token_logprobs"][at], odds["tokens"][at].as_str().unwrap());
        assert_eq!(&top[token], chosen, "the chosen token is among the likeliest");
        assert!(chosen.as_f64().unwrap() <= 0.0);
        let offset = odds["text_offset"][at].as_u64().unwrap() as usize;
        let from: String = tokens.chars().skip(offset).collect();
        assert!(from.starts_with(token));
    }
    // Without an answer the prompt alone is scored, and the same ids have the same odds.
    let count = list("tokens").len() - 3;
    let scored = serving.post("/v1/completions", &with(request.clone(), json!({ "max_tokens": 0 }))).json();
    let scored = &scored["choices"][0]["logprobs"]["token_logprobs"];
    assert_eq!(scored.as_array().unwrap()[..], list("token_logprobs")[..count]);
    let events = serving.post("/v1/completions", &with(request, json!({ "stream": true }))).events();
    let streamed: Vec<_> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(streamed, list("token_logprobs"));
}

#[test]
fn beginnings_are_known_and_bias_is_heeded() {
    let serving = Serving::start(&[]);
    let prompt = "Die Möwe fliegt über das Meer. ".repeat(6);
    let cached =
        |reply: &Reply| reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let first = serving.post("/v1/completions", &greedy(prompt.as_str(), 2));
    let again = serving.post("/v1/completions", &greedy(prompt.as_str(), 2));
    let length = first.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!((cached(&first), cached(&again)), (0, length - 1));
    let without = with(greedy(prompt.as_str(), 2), json!({ "cache_prompt": false }));
    assert_eq!(cached(&serving.post("/v1/completions", &without)), 0);
    let only = with(greedy("A", 3), json!({ "logit_bias": { "500": 100 } }));
    let odds = with(only, json!({ "logprobs": 0 }));
    let tokens = serving.post("/v1/completions", &odds).json()["choices"][0]["logprobs"]["tokens"].clone();
    assert!(tokens[0] == tokens[1] && tokens[1] == tokens[2], "{tokens}");
}

#[test]
fn every_route_and_field_is_documented() {
    let serving = Serving::start(&[]);
    let document = serving.get("/openapi.json").json();
    let page = include_str!("../../docs/api.md");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 27, "{}", paths.len());
    for path in paths.keys().map(|path| path.replace("{name}", "NAME")) {
        assert!(page.contains(&path), "docs/api.md lacks {path}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut fields: Vec<&String> = schemas
        .values()
        .filter_map(|schema| schema["properties"].as_object())
        .flat_map(|fields| fields.keys())
        .collect();
    let parts = schemas.values().filter_map(|schema| schema["allOf"].as_array()).flatten();
    fields.extend(parts.filter_map(|part| part["properties"].as_object()).flat_map(|fields| fields.keys()));
    assert!(fields.len() > 40, "{fields:?}");
    for field in fields {
        assert!(page.contains(field.as_str()), "docs/api.md lacks {field}");
    }
}

#[test]
fn a_full_context_ends_an_answer() {
    let serving = Serving::start(&[]);
    let endless = with(greedy(vec![500; 500], 400), json!({ "ignore_eos": true }));
    let answer = serving.post("/v1/completions", &endless).json();
    let context = &serving.get("/v1/models").json()["data"][0]["meta"]["n_ctx"];
    // The last token needs no position: nothing follows it.
    let last = answer["usage"]["total_tokens"].as_u64().unwrap() - 1;
    assert_eq!((&answer["choices"][0]["finish_reason"], &json!(last)), (&json!("length"), context));
}

#[test]
fn wrong_fields_are_named() {
    let serving = Serving::start(&[]);
    for (fields, param, part) in [
        (json!({ "prompt": null }), "prompt", "missing"),
        (json!({ "prompt": [] }), "prompt", "expected"),
        (json!({ "prompt": "" }), "prompt", "no token"),
        (json!({ "prompt": [1, 2, 99999] }), "prompt", "no token 99999"),
        (json!({ "prompt": [[1], "x", {}] }), "prompt", "expected"),
        (json!({ "temperature": -1 }), "temperature", "expected at least 0"),
        (json!({ "temperature": "hot" }), "temperature", "invalid type"),
        (json!({ "top_p": 1.5 }), "top_p", "expected"),
        (json!({ "max_tokens": -1 }), "max_tokens", "invalid value"),
        (json!({ "n": 0 }), "n", "expected 1 to 8"),
        (json!({ "n": 9 }), "n", "expected 1 to 8"),
        (json!({ "stop": vec!["a"; 17] }), "stop", "at most 16"),
        (json!({ "stop": [""] }), "stop", "1 to 512"),
        (json!({ "stop": [1] }), "stop[0]", "expected a string"),
        (json!({ "logprobs": 21 }), "logprobs", "0 to 20"),
        (json!({ "logit_bias": { "": 1 } }), "logit_bias", "at least one token"),
        (json!({ "logit_bias": { "9999999": 1 } }), "logit_bias", "ids"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias", "-100 to 100"),
        (json!({ "best_of": 3 }), "best_of", "same as n"),
        (json!({ "mirostat": 2 }), "mirostat", "not support"),
        (json!({ "grammar": "root ::= a" }), "grammar", "no rule `a`"),
        (json!({ "grammar": "root ::= \"a\"", "json_schema": {} }), "grammar", "json_schema says already"),
        (json!({ "json_schema": { "uniqueItems": true } }), "json_schema", "uniqueItems"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type", "json_schema"),
        (json!({ "stream_options": { "include_usage": 1 } }), "stream_options.include_usage", "boolean"),
    ] {
        let reply = serving.post("/v1/completions", &with(json!({ "prompt": "A" }), fields.clone()));
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{fields}: {error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{fields}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn wrong_requests_have_their_status() {
    let serving = Serving::start(&["--max-body", "4K", "--strict-model", "--alias", "gull"]);
    for (body, part) in [("", "EOF"), ("{", "EOF"), ("[1]", "expected"), ("{\"prompt\":\"a\"} x", "trailing")]
    {
        let reply = serving.ask("POST", "/v1/completions", &[], body);
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.text().contains(part), "{body}: {}", reply.text());
    }
    let long = serving.post("/v1/completions", &greedy(vec![500; 600], 1));
    let error = &long.json()["error"];
    assert_eq!((long.status, &error["code"]), (400, &json!("context_length_exceeded")));
    assert_eq!(
        (&error["type"], &error["n_prompt_tokens"]),
        (&json!("exceed_context_size_error"), &json!(600))
    );
    let large = serving.post("/v1/completions", &greedy("x".repeat(5000), 1));
    assert_eq!((large.status, &large.json()["error"]["type"]), (413, &json!("invalid_request_error")));
    // Without a length it is counted on the way.
    let chunk = format!("1000\r\n{}\r\n", "[".repeat(4096)).repeat(2) + "0\r\n\r\n";
    let chunked = serving.ask("POST", "/v1/completions", &[("transfer-encoding", "chunked")], &chunk);
    assert_eq!(chunked.status, 413, "{}", chunked.text());
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let reply = serving.ask("POST", "/v1/completions", &[("content-type", kind)], "{}");
        assert_eq!(reply.status, 415, "{kind}");
    }
    for (name, status) in [("gull", 200), ("moewe-mini", 200), ("gpt-4", 404)] {
        let reply = serving.post("/v1/completions", &with(greedy("A", 1), json!({ "model": name })));
        assert_eq!(reply.status, status, "{name}");
        assert_eq!(serving.get(&format!("/v1/models/{name}")).status, status, "{name}");
        if status == 200 {
            assert_eq!(reply.json()["model"], "gull");
        }
    }
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/health", 405),
        ("HEAD", "/health", 200),
        ("OPTIONS", "/v1/completions", 204),
        ("GET", "/", 200),
    ] {
        let reply = serving.ask(method, path, &[], "");
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.header("allow").is_some(), matches!(status, 405 | 204), "{method} {path}");
        assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 28));
    }
}

#[test]
fn strangers_and_other_sites_are_kept_out() {
    let serving =
        Serving::start(&["--api-key", "sixteen-bytes-or-more", "--allow-origin", "https://app.example"]);
    let ask = |headers: &[(&str, &str)]| serving.ask("GET", "/metrics", headers, "").status;
    let key = ("authorization", "Bearer sixteen-bytes-or-more");
    assert_eq!((ask(&[]), ask(&[key])), (401, 200));
    assert_eq!(ask(&[key, ("host", "evil.example")]), 403);
    assert_eq!(ask(&[key, ("origin", "https://evil.example")]), 403);
    assert_eq!((serving.get("/health").status, serving.get("/v1/models").status), (200, 200));
    let preflight = |origin: &str| serving.ask("OPTIONS", "/v1/completions", &[("origin", origin)], "");
    let allowed = preflight("https://app.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    let refused = preflight("https://evil.example");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
}

#[test]
fn who_goes_away_is_not_computed_for() {
    let serving = Serving::start(&["--parallel", "1", "--queue", "2"]);
    let endless = with(greedy(TEXTS[0], 400), json!({ "ignore_eos": true, "stream": true })).to_string();
    let open = || serving.send("POST", "/v1/completions", &[], &endless);
    // One is answered, two wait, and there is room for no more.
    let mut first = BufReader::new(open());
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        first.read_line(&mut line).unwrap();
    }
    let (second, third) = (open(), open());
    serving.until("moewe_requests_deferred", |waiting| waiting == 2.0);
    let busy = Reply::read(open());
    assert_eq!((busy.status, &busy.json()["error"]["type"]), (503, &json!("unavailable_error")));
    assert!(busy.header("retry-after").is_some_and(|seconds| (1..=120).contains(&seconds.parse().unwrap())));
    // A waiting one that goes harms nobody; the one that is answered ends when its client goes.
    drop(second);
    serving.until("moewe_requests_cancelled_total{phase=\"waiting\"}", |count| count == 1.0);
    drop(first);
    serving.until("moewe_requests_cancelled_total{phase=\"answering\"}", |count| count == 1.0);
    let answered = Reply::read(third);
    assert!(answered.events().last().unwrap().is_null());
    serving.until("moewe_requests_processing", |count| count == 0.0);
    // One that does not stream goes as well.
    let quiet = serving.send("POST", "/v1/completions", &[], &endless.replace("true}", "false}"));
    serving.until("moewe_requests_processing", |count| count == 1.0);
    drop(quiet);
    serving.until("moewe_requests_processing", |count| count == 0.0);
}

#[test]
fn the_sum_of_all_usage_is_what_the_metrics_say() {
    let serving = Serving::start(&[]);
    let (mut prompts, mut answers, mut cached) = (0.0, 0.0, 0.0);
    for prompt in TEXTS.iter().chain(&TEXTS) {
        let usage = serving.post("/v1/completions", &greedy(*prompt, 5)).json()["usage"].clone();
        let number = |value: &Value| value.as_f64().unwrap();
        prompts += number(&usage["prompt_tokens"]);
        answers += number(&usage["completion_tokens"]);
        cached += number(&usage["prompt_tokens_details"]["cached_tokens"]);
    }
    for prefix in ["moewe_", "llamacpp:"] {
        assert_eq!(serving.metric(&format!("{prefix}prompt_tokens_total")), prompts - cached);
        assert_eq!(serving.metric(&format!("{prefix}tokens_predicted_total")), answers);
    }
    assert_eq!(serving.metric("moewe_cached_tokens_total"), cached);
    let text = serving.get("/metrics").text();
    let mut families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "a family is declared once");
}

#[test]
fn a_signal_lets_answers_end() {
    let mut serving = Serving::start(&["--grace", "60s"]);
    let request = with(greedy(TEXTS[0], 60), json!({ "ignore_eos": true, "stream": true })).to_string();
    let open = serving.send("POST", "/v1/completions", &[], &request);
    serving.until("moewe_requests_processing", |count| count == 1.0);
    let id = serving.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let answered = Reply::read(open);
    assert!(answered.events().last().unwrap().is_null(), "it was let to its end");
    assert!(serving.child.wait().unwrap().success());
    // New requests are refused meanwhile, and a second signal ends what is left: minutes of work.
    let mut serving = Serving::start(&["--grace", "600s", "--parallel", "1", "--queue", "100"]);
    let prompts = vec![[500, 501]; 100];
    let endless =
        with(greedy(json!(prompts), 400), json!({ "ignore_eos": true, "stream": true })).to_string();
    let open = serving.send("POST", "/v1/completions", &[], &endless);
    serving.until("moewe_requests_processing", |count| count == 1.0);
    let id = serving.child.id().to_string();
    let signal = || assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    signal();
    let start = Instant::now();
    while serving.get("/health").status != 503 {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    let refused = serving.post("/v1/completions", &greedy("A", 1));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &json!("unavailable_error")));
    signal();
    let last = Reply::read(open).events().pop().unwrap();
    assert_eq!(last["error"]["type"], "unavailable_error", "{last}");
    assert!(serving.child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_served_is_said_before_anything_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // Ollama's: taken now, by this test or by somebody else.
    let _ollama = TcpListener::bind("127.0.0.1:11434");
    for (arguments, part) in [
        (&["--port", &port][..], "cannot listen on 127.0.0.1:"),
        (&["--host", "0.0.0.0", "--port", "0"], "give a key with --api-key"),
        (&["--api-key", "short", "--port", "0"], "at least 16 characters"),
        (&["no-such-model", "--port", "0"], "no model is called no-such-model"),
        (&["--api-key-file", "/no/such/file", "--port", "0"], "/no/such/file"),
        (&["--host", "no.such.host.invalid", "--port", "0"], "cannot listen on no.such.host.invalid"),
        (&["--ollama"], "cannot listen on 127.0.0.1:11434"),
    ] {
        let mut child = command().args(arguments).env("MOEWE_MODELS", "/nonexistent").spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(said.contains(part) && !said.contains("loaded in"), "{arguments:?}: {said}");
    }
}
