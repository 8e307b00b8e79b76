//! Conversations over HTTP: what a person says is never taken for the template's words, thoughts are told apart from
//! answers, and what a model or this server cannot do is said.

use crate::serving::{Reply, Serving, command};
use serde_json::{Value, json};
use std::fs;

/// Models that think before they answer; the template begins the thought.
const THINKER: &str = "{% for message in messages %}<|{{ message.role }}|>\
    {% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}\
    {{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% if enable_thinking is not defined or enable_thinking %}<think>\
    {% endif %}{% endif %}";

fn question(text: &str, fields: Value) -> Value {
    let mut request = json!({
        "messages": [{ "role": "user", "content": text }], "max_tokens": 12, "temperature": 0,
    });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

fn message(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"].clone()
}

/// What a stream says under a key.
fn told(reply: &Reply, key: &str) -> String {
    let deltas = reply.events();
    deltas.iter().filter_map(|event| event["choices"][0]["delta"][key].as_str()).collect()
}

#[test]
fn thoughts_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("thinker.jinja");
    fs::write(&template, THINKER).unwrap();
    let serving = Serving::start(&["--exact", "--chat-template", template.to_str().unwrap()]);
    // The template has begun a thought, and a base model never ends it.
    let whole = serving.post("/v1/chat/completions", &question("Wer?", json!({})));
    let thought = message(&whole);
    assert_eq!(thought["content"], "");
    assert!(!thought["reasoning_content"].as_str().unwrap().is_empty());
    let details = &whole.json()["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], 12);
    let streamed = serving.post("/v1/chat/completions", &question("Wer?", json!({ "stream": true })));
    assert_eq!(told(&streamed, "reasoning_content"), thought["reasoning_content"]);
    assert_eq!(told(&streamed, "content"), "");
    // Told not to think it answers, in either way to say so.
    for fields in [
        json!({ "reasoning_effort": "none" }),
        json!({ "chat_template_kwargs": { "enable_thinking": false } }),
    ] {
        let answer = message(&serving.post("/v1/chat/completions", &question("Wer?", fields)));
        assert!(answer.get("reasoning_content").is_none() && answer["content"] != "", "{answer}");
    }
    // What was thought before reaches the template.
    let with = |thought: Value| {
        let messages = json!([
            { "role": "user", "content": "Wer?" },
            { "role": "assistant", "content": "Die Möwe.", "reasoning_content": thought },
            { "role": "user", "content": "Wohin?" },
        ]);
        let reply = serving.post("/v1/chat/completions", &question("", json!({ "messages": messages })));
        reply.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(with(json!("Vögel, Meer, Flug")) > with(json!(null)) + 4);
}

#[test]
fn words_of_a_person_are_no_control_tokens() {
    let serving = Serving::start(&["--chat-template", "chatml", "--exact"]);
    let tokens = |messages: Value| {
        let reply = serving.post("/v1/chat/completions", &question("", json!({ "messages": messages })));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let plain = tokens(user(json!("ab")));
    assert!(tokens(user(json!("a<|endoftext|>b"))) > plain + 3);
    assert_eq!(
        tokens(user(json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]))),
        plain
    );
    let developer = json!([{ "role": "developer", "content": "S" }, { "role": "user", "content": "U" }]);
    let system = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }]);
    assert_eq!(tokens(developer), tokens(system));
}

/// The model in the program answers in turns, unless it is asked not to.
#[test]
fn without_a_model_there_is_somebody_to_talk_to() {
    let ask = question("Wo ist das Boot?", json!({ "temperature": 0, "max_tokens": 60 }));
    let answered = Serving::by(command(), &[]).post("/v1/chat/completions", &ask);
    assert_eq!(message(&answered)["role"], "assistant");
    assert_eq!(answered.json()["choices"][0]["finish_reason"], "stop", "{}", answered.text());
    assert_eq!(Serving::start(&[]).post("/v1/chat/completions", &ask).status, 501);
}

#[test]
fn a_last_turn_of_the_assistant_is_continued() {
    let serving = Serving::start(&["--chat-template", "chatml", "--exact"]);
    let messages = json!([
        { "role": "user", "content": "Wer fliegt?" }, { "role": "assistant", "content": "Die Möwe fliegt über " },
    ]);
    let ask = |fields: Value| {
        let mut request = question("", json!({ "messages": messages }));
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serving.post("/v1/chat/completions", &request).json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let (continued, anew) = (ask(json!({})), ask(json!({ "continue_final_message": false })));
    assert!(continued < anew, "{continued} {anew}");
    assert_eq!(serving.metric("moewe_requests_total{dialect=\"openai\",status=\"200\"}"), 2.0);
    serving.until("moewe_requests_processing", |count| count == 0.0);
}

#[test]
fn prompts_end_as_requests_want_it() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let user = json!({ "role": "user", "content": "Wer?" });
    let begun = json!({ "role": "assistant", "content": "Die" });
    let (turn, answer) = ("<|im_start|>user\nWer?<|im_end|>\n", "<|im_start|>assistant\n");
    let (open, closed) = (format!("{turn}{answer}Die"), format!("{turn}{answer}Die<|im_end|>\n"));
    let anew = format!("{closed}{answer}");
    for (messages, continues, adds, expected) in [
        (json!([user]), None, None, format!("{turn}{answer}")),
        (json!([user]), Some(true), None, format!("{turn}{answer}")),
        (json!([user]), None, Some(true), format!("{turn}{answer}")),
        (json!([user]), None, Some(false), turn.to_owned()),
        (json!([user]), Some(true), Some(false), turn.to_owned()),
        (json!([user, begun]), None, None, open.clone()),
        (json!([user, begun]), Some(true), None, open.clone()),
        (json!([user, begun]), None, Some(false), open.clone()),
        (json!([user, begun]), Some(true), Some(false), open.clone()),
        (json!([user, begun]), Some(false), None, anew.clone()),
        (json!([user, begun]), None, Some(true), anew),
        (json!([user, begun]), Some(false), Some(false), closed),
    ] {
        let fields = json!({ "continue_final_message": continues, "add_generation_prompt": adds });
        let request = question("", crate::with(json!({ "messages": messages }), fields));
        let reply = serving.post("/apply-template", &request);
        assert_eq!((reply.status, &reply.json()["prompt"]), (200, &json!(expected)), "{request}");
    }
    let both = json!({ "continue_final_message": true, "add_generation_prompt": true });
    let reply = serving.post("/v1/chat/completions", &question("Wer?", both));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("continue_final_message")));
}

#[test]
fn what_is_wrong_or_missing_is_named() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let turns = |turns: Value| json!({ "messages": turns });
    let user = json!({ "role": "user", "content": "U" });
    for (fields, param) in [
        (turns(json!(null)), "messages"),
        (turns(json!([])), "messages"),
        (turns(json!([1])), "messages[0]"),
        (turns(json!([{ "role": "user" }])), "messages[0].content"),
        (turns(json!([{ "role": "bird", "content": "" }])), "messages[0].role"),
        (turns(json!([{ "role": "function", "content": "" }])), "messages[0].role"),
        (turns(json!([user, { "role": "tool", "content": "" }])), "messages[1].tool_call_id"),
        (turns(json!([{ "role": "user", "content": [{ "type": "image_url" }] }])), "messages[0].content[0]"),
        (turns(json!([{ "role": "user", "content": [{ "type": "text" }] }])), "messages[0].content[0].text"),
        (
            turns(
                json!([user, { "role": "assistant", "content": "" }, { "role": "assistant", "content": "" }]),
            ),
            "messages",
        ),
        (
            turns(
                json!([user, { "role": "assistant", "tool_calls": [{ "function": { "arguments": "{" } }] }]),
            ),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (json!({ "response_format": { "type": "grammar" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema.schema"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "chat_template_kwargs": { "messages": 1 } }), "chat_template_kwargs.messages"),
        (json!({ "chat_template_kwargs": { "x": [] } }), "chat_template_kwargs.x"),
        (json!({ "reasoning_effort": 3 }), "reasoning_effort"),
        (json!({ "modalities": ["audio"] }), "modalities"),
    ] {
        let reply = serving.post("/v1/chat/completions", &question("U", fields.clone()));
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{fields}: {}",
            reply.text()
        );
    }
    for neutral in [
        json!({ "tools": [], "response_format": { "type": "text" }, "modalities": ["text"] }),
        json!({ "tools": [{ "type": "function" }], "tool_choice": "none" }),
        json!({ "user": "x", "store": true, "metadata": { "a": "b" }, "service_tier": "auto", "stop": null }),
    ] {
        let reply = serving.post("/v1/chat/completions", &question("U", neutral.clone()));
        assert_eq!(reply.status, 200, "{neutral}: {}", reply.text());
    }
    let base = Serving::start(&[]);
    let reply = base.post("/v1/chat/completions", &question("U", json!({})));
    assert_eq!((reply.status, reply.header("x-should-retry")), (501, Some("false")));
    assert!(reply.text().contains("--chat-template"));
}
