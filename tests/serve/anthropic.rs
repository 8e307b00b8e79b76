//! Anthropic's messages over plain HTTP: streams say what whole answers say, and whatever goes wrong is told in its words.

use crate::serving::{Reply, Serving};
use serde_json::{Value, json};

fn ask(content: Value, fields: Value) -> Value {
    let mut request = json!({
        "model": "any", "max_tokens": 12, "temperature": 0, "messages": [{ "role": "user", "content": content }],
    });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// What the deltas of a stream say.
fn told(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect()
}

#[test]
fn a_stream_says_what_a_message_says() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    for content in ["Wer fliegt?", "Über Größe, Maß und 🦆🌊 "] {
        let whole = serving.post("/v1/messages", &ask(json!(content), json!({})));
        let message = whole.json();
        assert_eq!(
            (&message["type"], &message["role"], &message["model"]),
            (&json!("message"), &json!("assistant"), &json!("moewe-mini"))
        );
        assert!(message["id"].as_str().unwrap().starts_with("msg_") && message.get("timings").is_none());
        assert_eq!(
            (&message["stop_reason"], &message["stop_sequence"]),
            (&json!("max_tokens"), &Value::Null)
        );
        assert_eq!(message["usage"]["output_tokens"], 12);
        let streamed = serving.post("/v1/messages", &ask(json!(content), json!({ "stream": true })));
        let events = streamed.named_events();
        let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
        assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
        assert!(kinds[2..kinds.len() - 3].iter().all(|kind| *kind == "content_block_delta"));
        assert_eq!(told(&events), text(&whole));
        let start = &events[0]["message"];
        assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &Value::Null));
        assert!(start["usage"]["input_tokens"].as_u64().unwrap() > 0);
        let delta = &events[events.len() - 2];
        assert_eq!(
            (&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]),
            (&json!("max_tokens"), &json!(12))
        );
        // What was known and what was not are the prompt's tokens.
        let counted = serving.post("/v1/messages/count_tokens", &ask(json!(content), json!({}))).json();
        for usage in [&message["usage"], &delta["usage"]] {
            let sum =
                usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
            assert_eq!(counted, json!({ "input_tokens": sum }));
        }
    }
    assert!(serving.metric("moewe_requests_total{dialect=\"anthropic\",status=\"200\"}") >= 6.0);
}

#[test]
fn stop_sequences_are_told_and_never_shown() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    let whole = text(&serving.post("/v1/messages", &ask(json!("Wer fliegt?"), json!({}))));
    let stop: String = whole.chars().skip(5).take(3).collect();
    let fields = json!({ "stop_sequences": [stop, "never"] });
    let stopped = serving.post("/v1/messages", &ask(json!("Wer fliegt?"), fields.clone()));
    assert_eq!(text(&stopped), whole[..whole.find(&stop).unwrap()]);
    let message = stopped.json();
    assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    let mut fields = fields;
    fields["stream"] = true.into();
    let events = serving.post("/v1/messages", &ask(json!("Wer fliegt?"), fields)).named_events();
    assert_eq!(told(&events), text(&stopped));
    assert_eq!(
        events[events.len() - 2]["delta"],
        json!({ "stop_reason": "stop_sequence", "stop_sequence": stop })
    );
}

#[test]
fn the_conversation_is_that_of_other_interfaces() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    let count = |request: &Value| {
        let reply = serving.post("/v1/messages/count_tokens", request);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["input_tokens"].as_u64().unwrap()
    };
    let of_openai = |messages: Value| {
        let request = json!({ "messages": messages });
        serving.post("/v1/chat/completions/input_tokens", &request).json()["input_tokens"].as_u64().unwrap()
    };
    let blocks = json!([{ "type": "text", "text": "Wer " }, { "type": "text", "text": "fliegt?" }]);
    let system = json!([{ "type": "text", "text": "Kurz.", "cache_control": { "type": "ephemeral" } }]);
    assert_eq!(
        count(&ask(blocks, json!({ "system": system }))),
        of_openai(
            json!([{ "role": "system", "content": "Kurz." }, { "role": "user", "content": "Wer fliegt?" }])
        )
    );
    // A last turn of the assistant is continued.
    let turns = json!({ "messages": [
        { "role": "user", "content": "Wer?" }, { "role": "assistant", "content": "Die Möwe" },
    ] });
    let begun =
        json!([{ "role": "user", "content": "Wer?" }, { "role": "assistant", "content": "Die Möwe" }]);
    assert_eq!(count(&ask(json!(""), turns)), of_openai(begun));
    // Results of tools come as turns of their own, which this template writes as any other.
    let turns = json!({ "messages": [
        { "role": "user", "content": "Wer?" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "toolu_1", "name": "ask", "input": {} }] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "toolu_1", "content": "die Möwe" }, { "type": "text", "text": "Und?" },
        ] },
    ] });
    assert!(count(&ask(json!(""), turns)) > 10);
}

/// What an error says, which has to be told in Anthropic's words.
fn check(reply: &Reply, status: u16, kind: &str) -> String {
    let error = reply.json();
    assert_eq!((reply.status, &error["type"]), (status, &json!("error")), "{error}");
    assert_eq!(error["error"]["type"], kind, "{error}");
    assert_eq!(error["request_id"].as_str(), reply.header("x-request-id"));
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    error["error"]["message"].as_str().unwrap().to_owned()
}

fn keyed() -> Serving {
    Serving::start(&["--chat-template", "chatml", "--api-key", "sixteen-bytes-or-more", "--max-body", "16K"])
}

#[test]
fn whatever_goes_wrong_is_told_in_its_words() {
    let serving = keyed();
    let key = ("x-api-key", "sixteen-bytes-or-more");
    let post = |body: &Value| serving.ask("POST", "/v1/messages", &[key], &body.to_string());
    for (fields, part) in [
        (json!({ "messages": null }), "messages: expected a list"),
        (json!({ "messages": [] }), "messages: expected at least one"),
        (json!({ "messages": [{ "role": "bird", "content": "" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": 3 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] }),
            "messages[0].content[0]: this model reads text, not image",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "tool_result", "content": "x" }] }] }),
            "messages[0].content[0].tool_use_id",
        ),
        (
            json!({ "messages": [{ "role": "assistant", "content": [{ "type": "tool_use", "id": "a", "name": "b" }] }] }),
            "messages[0].content[0].input",
        ),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": "x" }), "max_tokens"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "stop_sequences": [""] }), "stop_sequences"),
        (json!({ "thinking": { "type": "perhaps" } }), "thinking.type"),
        (json!({ "tools": [{ "input_schema": {} }] }), "tools[0].name"),
        (json!({ "tools": [{ "name": "a" }] }), "tools[0].input_schema"),
        (json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": { "type": "some" } }), "tool_choice.type"),
        (json!({ "system": [{ "type": "image" }] }), "system[0]"),
    ] {
        let message = check(&post(&ask(json!("U"), fields.clone())), 400, "invalid_request_error");
        assert!(message.contains(part), "{fields}: {message}");
    }
}

#[test]
fn whoever_is_refused_is_told_in_its_words() {
    let serving = keyed();
    let key = ("x-api-key", "sixteen-bytes-or-more");
    let post = |body: &Value| serving.ask("POST", "/v1/messages", &[key], &body.to_string());
    let long = check(&post(&ask(json!("Möwe ".repeat(2000)), json!({}))), 400, "invalid_request_error");
    assert!(long.contains("positions"), "{long}");
    check(&post(&ask(json!("x".repeat(20_000)), json!({}))), 413, "request_too_large");
    check(&serving.ask("POST", "/v1/messages", &[key], "{"), 400, "invalid_request_error");
    check(
        &serving.ask("POST", "/v1/messages", &[key, ("content-type", "text/plain")], "{}"),
        415,
        "invalid_request_error",
    );
    check(&serving.ask("POST", "/v1/messages", &[], "{}"), 401, "authentication_error");
    check(
        &serving.ask("POST", "/v1/messages", &[key, ("origin", "https://evil.example")], "{}"),
        403,
        "permission_error",
    );
    check(&serving.ask("POST", "/v1/messages/nowhere", &[key], "{}"), 404, "not_found_error");
    let method = serving.ask("GET", "/v1/messages", &[key], "");
    check(&method, 405, "invalid_request_error");
    assert!(method.header("allow").is_some());
    let bearer = ("authorization", "Bearer sixteen-bytes-or-more");
    let asked = ask(json!("U"), json!({})).to_string();
    assert_eq!(serving.ask("POST", "/v1/messages", &[bearer], &asked).status, 200);
    let base = Serving::start(&[]);
    check(&base.post("/v1/messages", &ask(json!("U"), json!({}))), 501, "invalid_request_error");
    // Nothing of another interface has changed.
    assert_eq!(serving.ask("POST", "/v1/completions", &[key], "{").json()["error"]["code"], Value::Null);
}

#[test]
fn a_full_queue_and_the_end_are_told_in_its_words() {
    let mut serving =
        Serving::start(&["--chat-template", "chatml", "--parallel", "1", "--queue", "0", "--grace", "1s"]);
    let endless =
        ask(json!("U"), json!({ "stream": true, "max_tokens": 400, "ignore_eos": true })).to_string();
    let open = serving.send("POST", "/v1/messages", &[], &endless);
    serving.until("moewe_requests_processing", |count| count == 1.0);
    let busy = serving.post("/v1/messages", &ask(json!("U"), json!({})));
    assert_eq!((busy.status, &busy.json()["error"]["type"]), (529, &json!("overloaded_error")));
    assert!(busy.header("retry-after").is_some());
    let ollama = serving.post("/api/generate", &json!({ "prompt": "A" }));
    assert_eq!(ollama.status, 503);
    assert!(ollama.json()["error"].as_str().unwrap().contains("maximum pending requests exceeded"));
    let lines = {
        let endless = json!({ "prompt": "A", "options": { "num_predict": 400, "ignore_eos": true } });
        drop(open);
        serving.until("moewe_requests_processing", |count| count == 0.0);
        serving.send("POST", "/api/generate", &[], &endless.to_string())
    };
    serving.until("moewe_requests_processing", |count| count == 1.0);
    // Two signals end it at once: what streams ends with an error in its own words.
    let id = serving.child.id().to_string();
    for _ in 0..2 {
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        std::thread::sleep(std::time::Duration::from_millis(1200));
    }
    let reply = Reply::read(lines);
    let last = reply.lines().pop().unwrap();
    assert!(
        last["done"] == true || last["error"].as_str().is_some_and(|error| error.contains("shutting down")),
        "{last}"
    );
    serving.child.wait().unwrap();
}
