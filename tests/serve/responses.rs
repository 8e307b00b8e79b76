//! `/v1/responses` over plain HTTP: events put together are the whole, and what cannot be kept is refused.

use crate::serving::Serving;
use serde_json::{Value, json};

fn ask(input: Value, fields: Value) -> Value {
    let mut request = json!({ "input": input, "max_output_tokens": 12, "temperature": 0 });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

#[test]
fn events_put_together_are_the_whole() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    for input in ["Wer fliegt?", "Über Größe, Maß und 🦆🌊 "] {
        let reply = serving.post("/v1/responses", &ask(json!(input), json!({ "instructions": "Kurz." })));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let whole = reply.json();
        assert_eq!(
            (&whole["object"], &whole["status"], &whole["store"]),
            (&json!("response"), &json!("incomplete"), &json!(false))
        );
        assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
        let item = &whole["output"][0];
        assert_eq!((&item["type"], &item["content"][0]["type"]), (&json!("message"), &json!("output_text")));
        let usage = &whole["usage"];
        assert_eq!(usage["output_tokens"], 12);
        let counted = serving
            .post("/v1/responses/input_tokens", &ask(json!(input), json!({ "instructions": "Kurz." })));
        assert_eq!(
            counted.json(),
            json!({ "object": "response.input_tokens", "input_tokens": usage["input_tokens"] })
        );
        let streamed = ask(json!(input), json!({ "instructions": "Kurz.", "stream": true }));
        let events = serving.post("/v1/responses", &streamed).named_events();
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .filter(|kind| *kind != "response.output_text.delta")
            .collect();
        assert_eq!(
            kinds,
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.incomplete",
            ]
        );
        let text: String = events
            .iter()
            .filter(|event| event["type"] == "response.output_text.delta")
            .map(|event| event["delta"].as_str().unwrap())
            .collect();
        assert_eq!(json!(text), item["content"][0]["text"]);
        let mut last = events.last().unwrap()["response"].clone();
        assert_eq!(last["output"][0]["id"], events[2]["item"]["id"]);
        // But for what no two answers have in common.
        for key in ["id", "created_at", "usage"] {
            last[key] = whole[key].clone();
        }
        last["output"][0]["id"] = item["id"].clone();
        assert_eq!(last, whole);
    }
}

/// llama-server's path and its fields: how far the prompt has been read, and what each delta took.
#[test]
fn progress_and_timings_are_told_where_they_are_asked_for() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml", "--batch", "32"]);
    let fields = json!({ "stream": true, "return_progress": true, "timings_per_token": true });
    let input = json!("Die Möwe fliegt über das Meer. ".repeat(20));
    let events = serving.post("/responses", &ask(input.clone(), fields)).named_events();
    let progress: Vec<&Value> = events.iter().filter_map(|event| event.get("prompt_progress")).collect();
    assert!(progress.len() > 3, "{progress:?}");
    assert_eq!(progress[0]["processed"], progress[0]["cache"]);
    let last = progress.last().unwrap();
    assert_eq!(last["processed"], last["total"]);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        assert!(event.get("prompt_progress").is_none() || event["type"] == "response.in_progress");
        let is_told =
            matches!(event["type"].as_str(), Some("response.output_text.delta" | "response.incomplete"));
        assert_eq!(event["timings"]["predicted_n"].is_u64(), is_told, "{event}");
    }
    assert_eq!(events.last().unwrap()["timings"]["predicted_n"], 12);
    let plain = serving.post("/responses", &ask(input, json!({ "stream": true }))).named_events();
    let extra = |event: &Value| event.get("timings").is_some() || event.get("prompt_progress").is_some();
    assert!(!plain.iter().any(extra));
}

#[test]
fn items_are_the_conversation() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    let count = |input: Value| {
        let reply = serving.post("/v1/responses/input_tokens", &ask(input, json!({})));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["input_tokens"].as_u64().unwrap()
    };
    let of_chat = |messages: Value| {
        let request = json!({ "messages": messages });
        serving.post("/v1/chat/completions/input_tokens", &request).json()["input_tokens"].as_u64().unwrap()
    };
    assert_eq!(count(json!("Wer?")), of_chat(json!([{ "role": "user", "content": "Wer?" }])));
    let items = json!([
        { "role": "developer", "content": "Kurz." },
        { "role": "user", "content": [{ "type": "input_text", "text": "Wer?" }] },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Die Möwe." }] },
        { "role": "user", "content": "Wohin?" },
    ]);
    let messages = json!([
        { "role": "system", "content": "Kurz." }, { "role": "user", "content": "Wer?" },
        { "role": "assistant", "content": "Die Möwe." }, { "role": "user", "content": "Wohin?" },
    ]);
    assert_eq!(count(items), of_chat(messages));
}

#[test]
fn what_is_wrong_or_missing_is_named() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    for (fields, param) in [
        (json!({ "input": null }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": [{ "role": "bird", "content": "" }] }), "input[0].role"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }),
            "input[0].content[0]",
        ),
        (json!({ "input": [{ "type": "function_call", "name": "a" }] }), "input[0].call_id"),
        (
            json!({ "input": [{ "type": "function_call", "call_id": "a", "name": "a", "arguments": "{" }] }),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "background": true }), "background"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": 3 }), "tool_choice"),
        (json!({ "max_output_tokens": -1 }), "max_output_tokens"),
        (json!({ "top_p": 2 }), "top_p"),
    ] {
        let reply = serving.post("/v1/responses", &ask(json!("U"), fields.clone()));
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{fields}: {}",
            reply.text()
        );
    }
    for neutral in [
        json!({ "store": true, "previous_response_id": null, "background": false, "truncation": "disabled" }),
        json!({ "text": { "format": { "type": "text" } }, "reasoning": { "effort": null }, "include": [] }),
    ] {
        let reply = serving.post("/v1/responses", &ask(json!("U"), neutral.clone()));
        assert_eq!(reply.status, 200, "{neutral}: {}", reply.text());
        assert_eq!(reply.json()["store"], false);
    }
}
