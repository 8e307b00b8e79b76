//! Answers that have to be something: valid by a schema, or a text of a grammar. Who judges them is somebody else.

use super::serving::Serving;
use super::{greedy, text, told, with};
use serde_json::{Value, from_str, json};
use std::time::Instant;

/// Twenty fields of all kinds.
fn schema() -> Value {
    let kinds = [
        json!({ "type": "integer", "minimum": -9, "maximum": 99 }),
        json!({ "type": "string", "maxLength": 3 }),
        json!({ "type": "boolean" }),
        json!({ "enum": ["Möwe", "Ente 🦆", null] }),
        json!({ "type": "array", "items": { "type": "boolean" }, "maxItems": 2 }),
    ];
    let fields: serde_json::Map<String, Value> = (0..20u8)
        .map(|field| (char::from(b'a' + field).into(), kinds[usize::from(field) % 5].clone()))
        .collect();
    let names: Vec<&String> = fields.keys().collect();
    json!({ "type": "object", "required": names, "properties": fields, "additionalProperties": false })
}

#[test]
fn what_is_not_cut_is_valid() {
    let serving = Serving::start(&[]);
    let (schema, mut ended) = (schema(), 0);
    let valid = jsonschema::validator_for(&schema).unwrap();
    let named =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } });
    for (seed, format) in
        [("response_format", named), ("json_schema", schema)].into_iter().cycle().take(3).enumerate()
    {
        let asked = json!({ format.0: format.1, "temperature": 1.2, "seed": seed, "max_tokens": 500 });
        let reply = serving.post("/v1/completions", &with(json!({ "prompt": "Die Möwe" }), asked));
        let said = text(&reply);
        match reply.json()["choices"][0]["finish_reason"].as_str() {
            Some("stop") => {
                let value: Value = from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
                assert!(valid.is_valid(&value), "{said}");
                ended += 1;
            }
            reason => assert_eq!(reason, Some("length"), "{said}"),
        }
    }
    assert!(ended > 0, "none came to its end");
    assert!(serving.metric("moewe_grammar_mask_seconds_count") > 100.0);
}

#[test]
fn grammars_say_what_comes() {
    let serving = Serving::start(&["--exact"]);
    let request = |fields: Value| with(greedy("Die", 32), fields);
    let whole = request(json!({ "grammar": "root ::= \"a\"{5,5}" }));
    let reply = serving.post("/v1/completions", &whole);
    assert_eq!((&*text(&reply), &reply.json()["choices"][0]["finish_reason"]), ("aaaaa", &json!("stop")));
    let streamed = serving.post("/v1/completions", &with(whole, json!({ "stream": true })));
    assert_eq!(told(&streamed, 1), ["aaaaa"]);
    for (grammar, expected) in [("%llguidance {}\nstart: \"Möwe\"", "Möwe"), ("root ::= [ß] \"🦆\"\n", "ß🦆")]
    {
        assert_eq!(text(&serving.post("/v1/completions", &request(json!({ "grammar": grammar })))), expected);
    }
    // Several answers, each by itself; and no end token where there is none to come.
    let many =
        request(json!({ "grammar": "root ::= (\"1\" | \"2\"){3}", "n": 3, "temperature": 2.0, "seed": 1 }));
    for choice in serving.post("/v1/completions", &many).json()["choices"].as_array().unwrap() {
        let text = choice["text"].as_str().unwrap();
        assert!(text.len() == 3 && text.chars().all(|c| c == '1' || c == '2'), "{text}");
    }
    let forbidden = request(json!({ "grammar": "root ::= \"ab\"", "ignore_eos": true }));
    assert_eq!(text(&serving.post("/v1/completions", &forbidden)), "ab");
}

#[test]
fn chats_answer_in_a_format() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let messages = json!([{ "role": "user", "content": "Wie heißt du?" }]);
    let choice = json!({ "type": "json_schema", "json_schema": { "schema": { "enum": ["Möwe", "Ente"] } } });
    let request = json!({ "messages": messages, "response_format": choice, "max_tokens": 30, "seed": 1 });
    let reply = serving.post("/v1/chat/completions", &request);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = &reply.json()["choices"][0];
    assert!(["\"Möwe\"", "\"Ente\""].contains(&answer["message"]["content"].as_str().unwrap()), "{answer}");
    assert_eq!(answer["finish_reason"], "stop");
    let object =
        json!({ "messages": messages, "response_format": { "type": "json_object" }, "max_tokens": 9 });
    let content =
        serving.post("/v1/chat/completions", &object).json()["choices"][0]["message"]["content"].clone();
    assert!(content.as_str().unwrap().starts_with('{'), "{content}");
}

/// What does not compile is refused, streamed or not, in time, and never answered with free text.
#[test]
fn bad_grammars_are_refused() {
    let serving = Serving::start(&[]);
    let nested = |depth: usize| format!("root ::= {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
    for (fields, param) in [
        (json!({ "grammar": "root ::= (" }), "grammar"),
        (json!({ "grammar": nested(101) }), "grammar"),
        (json!({ "grammar": nested(60_000) }), "grammar"),
        (json!({ "grammar": "%llguidance {}\nstart: nothing" }), "grammar"),
        (json!({ "grammar": ["root"] }), "grammar"),
        (json!({ "json_schema": { "not": {} } }), "json_schema"),
        (json!({ "response_format": { "type": "json_object", "schema": 3 } }), "response_format.schema"),
    ] {
        for stream in [false, true] {
            let start = Instant::now();
            let asked = with(with(greedy("A", 4), fields.clone()), json!({ "stream": stream }));
            let reply = serving.post("/v1/completions", &asked);
            let error = &reply.json()["error"];
            let shown: String = error.to_string().chars().take(200).collect();
            assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{shown}");
            assert!(start.elapsed().as_secs() < 60);
        }
    }
    let free = serving.post("/v1/completions", &with(greedy("A", 4), json!({ "grammar": "" })));
    assert!(!text(&free).is_empty());
}
