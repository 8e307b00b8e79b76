//! Tools over HTTP: what is no tool is refused by its path, templates get turns with calls as they want them, and what a
//! model writes to call one is no part of what it says. A model with a script does the calling.

use crate::script::{HARMONY, Script};
use crate::serving::Serving;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Writes calls as Qwen's does, and says what it was given where the last message wants to know.
const TEMPLATE: &str = "{% if messages[-1].content == 'show' %}{{ raise_exception([messages, tools] | tojson) }}{% endif %}\
    {% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}\
    {% for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}{{ m.content }}\
    {% for c in m.tool_calls or [] %}{{ '\n' }}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}\
    <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const CALLER: Script = Script {
    template: TEMPLATE,
    control: &["<|im_start|>", "<|im_end|>"],
    words: &[
        "I look.",
        "\n<tool_ca",
        "ll>\n{\"na",
        "me\": \"weather\", \"arg",
        "uments\": {\"city\": \"K\u{f6}",
        "ln\"}}",
        "\n</tool_call>\n<tool_call>",
        "{\"name\": \"now\", \"arguments\": {}}",
        "</tool_call>",
    ],
    follows: &[
        ("\n", "I look."),
        ("I look.", "\n<tool_ca"),
        ("\n<tool_ca", "ll>\n{\"na"),
        ("ll>\n{\"na", "me\": \"weather\", \"arg"),
        ("me\": \"weather\", \"arg", "uments\": {\"city\": \"K\u{f6}"),
        ("uments\": {\"city\": \"K\u{f6}", "ln\"}}"),
        ("ln\"}}", "\n</tool_call>\n<tool_call>"),
        ("\n</tool_call>\n<tool_call>", "{\"name\": \"now\", \"arguments\": {}}"),
        ("{\"name\": \"now\", \"arguments\": {}}", "</tool_call>"),
    ],
    is_broken: false,
};

fn caller() -> (TempDir, Serving) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    CALLER.write(&path);
    let serving = Serving::start(&[path.to_str().unwrap()]);
    (folder, serving)
}

fn asked(text: &str, fields: Value) -> Value {
    let tools = ["weather", "now"].map(|name| json!({ "type": "function", "function": { "name": name } }));
    let mut request =
        json!({ "messages": [{ "role": "user", "content": text }], "tools": tools, "temperature": 0 });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

#[test]
fn calls_are_no_words() {
    let (_folder, serving) = caller();
    let said = |fields: Value| {
        let reply = serving.post("/v1/chat/completions", &asked("?", fields));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
        (answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), tokens)
    };
    assert_eq!(said(json!({})), ("I look.".to_owned(), 9));
    // The first call ends the answer where there may be no second.
    assert_eq!(said(json!({ "parallel_tool_calls": false })), ("I look.".to_owned(), 6));
    // Without tools all of it is said.
    let (all, tokens) = said(json!({ "tool_choice": "none" }));
    assert!(all.starts_with("I look.\n<tool_call>\n{\"name\"") && all.ends_with("</tool_call>"), "{all}");
    assert_eq!(tokens, 9);
    // Cut before it is a call it is said as it stands.
    assert_eq!(said(json!({ "max_tokens": 3 })).0, "I look.\n<tool_call>\n{\"na");
}

/// Two calls, whole and in pieces.
#[test]
fn calls_are_told_as_openai_does() {
    let (_folder, serving) = caller();
    let reply = serving.post("/v1/chat/completions", &asked("?", json!({}))).json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let function = |number: usize| {
        let call = &calls[number];
        assert!(call["id"].as_str().unwrap().starts_with("call_") && call["type"] == "function", "{call}");
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        (call["function"]["name"].clone(), arguments)
    };
    let expected = [(json!("weather"), json!({ "city": "K\u{f6}ln" })), (json!("now"), json!({}))];
    assert_eq!([function(0), function(1)], expected);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    let streamed = serving.post("/v1/chat/completions", &asked("?", json!({ "stream": true })));
    let (mut names, mut arguments, mut last) = (vec![], vec![String::new(); 2], Value::Null);
    for event in streamed.events().iter().filter(|event| !event.is_null()) {
        let choice = &event["choices"][0];
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            match &call["function"]["name"] {
                Value::Null => assert!(call.get("id").is_none() && index + 1 == names.len(), "{call}"),
                name => {
                    assert_eq!((index, &call["function"]["arguments"]), (names.len(), &json!("")));
                    assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                    names.push(name.clone());
                }
            }
            arguments[index] += call["function"]["arguments"].as_str().unwrap();
        }
        last = choice["finish_reason"].clone();
    }
    let arguments = arguments.iter().map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(names.into_iter().zip(arguments).collect::<Vec<_>>(), expected);
    assert_eq!(last, "tool_calls");
}

#[test]
fn calls_are_told_by_other_interfaces() {
    let (_folder, serving) = caller();
    let expected = [(json!("weather"), json!({ "city": "K\u{f6}ln" })), (json!("now"), json!({}))];
    let tool = |name: &str| json!({ "name": name, "input_schema": { "type": "object" } });
    let asked = json!({ "messages": [{ "role": "user", "content": "?" }], "max_tokens": 64, "temperature": 0,
        "tools": [tool("weather"), tool("now")] });
    let reply = serving.post("/v1/messages", &asked).json();
    let blocks = reply["content"].as_array().unwrap();
    assert_eq!((&reply["stop_reason"], &blocks[0]["text"]), (&json!("tool_use"), &json!("I look.")));
    for (block, (name, input)) in blocks[1..].iter().zip(&expected) {
        assert_eq!((&block["type"], &block["name"], &block["input"]), (&json!("tool_use"), name, input));
    }
    let tools =
        ["weather", "now"].map(|name| json!({ "type": "function", "function": { "name": name } })).to_vec();
    let asked = json!({ "messages": [{ "role": "user", "content": "?" }], "stream": false,
        "options": { "temperature": 0 }, "tools": tools });
    let message = serving.post("/api/chat", &asked).json()["message"].clone();
    for (call, (name, input)) in message["tool_calls"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!((&call["function"]["name"], &call["function"]["arguments"]), (name, input));
    }
    assert_eq!(
        (message["tool_calls"].as_array().unwrap().len(), &message["content"]),
        (2, &json!("I look."))
    );
}

/// Blocks that stream are numbered one after the other, and each ends before the next begins.
#[test]
fn blocks_of_anthropic_stream_one_after_the_other() {
    let (_folder, serving) = caller();
    let tool = |name: &str| json!({ "name": name, "input_schema": { "type": "object" } });
    let ask = |fields: Value| {
        let mut request = json!({
            "messages": [{ "role": "user", "content": "?" }], "max_tokens": 64, "temperature": 0, "stream": true,
            "tools": [tool("weather"), tool("now")],
        });
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serving.post("/v1/messages", &request).named_events()
    };
    for (choice, kinds) in [
        (json!(null), &["text", "tool_use", "tool_use"][..]),
        (json!({ "type": "auto" }), &["text", "tool_use", "tool_use"]),
        (json!({ "type": "auto", "disable_parallel_tool_use": true }), &["text", "tool_use"]),
        (json!({ "type": "none" }), &["text"]),
    ] {
        let events = ask(json!({ "tool_choice": choice }));
        let (mut begun, mut open) = (vec![], None);
        for event in &events {
            let index = event["index"].as_u64();
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert_eq!((open, index), (None, Some(begun.len() as u64)), "{event}");
                    begun.push(event["content_block"]["type"].as_str().unwrap());
                    open = index;
                }
                "content_block_delta" => assert_eq!(index, open, "{event}"),
                "content_block_stop" => assert!(index == open && open.take().is_some(), "{event}"),
                _ => assert_eq!((open, index), (None, None), "{event}"),
            }
        }
        assert_eq!(begun, kinds, "{choice}");
        let reason = if kinds.len() > 1 { "tool_use" } else { "end_turn" };
        assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], reason);
    }
}

/// A call that has to come is all of the answer, whatever the template speaks of.
#[test]
fn anthropics_clients_force_calls() {
    let schema = json!({
        "type": "object", "properties": { "city": { "enum": ["Kiel", "K\u{f6}ln"] } }, "required": ["city"],
        "additionalProperties": false,
    });
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let tool = |name: &str| json!({ "name": name, "input_schema": schema });
    for (choice, names) in [
        (json!({ "type": "any" }), &["one", "two"][..]),
        (json!({ "type": "tool", "name": "two" }), &["two"]),
    ] {
        let request = json!({
            "messages": [{ "role": "user", "content": "Wie ist das Wetter?" }], "max_tokens": 200,
            "tools": [tool("one"), tool("two")], "tool_choice": choice, "seed": 1,
        });
        let reply = serving.post("/v1/messages", &request);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let message = reply.json();
        assert_eq!(message["stop_reason"], "tool_use", "{message}");
        for block in message["content"].as_array().unwrap() {
            assert_eq!(block["type"], "tool_use", "{message}");
            assert!(names.contains(&block["name"].as_str().unwrap()), "{message}");
            assert!(["Kiel", "K\u{f6}ln"].contains(&block["input"]["city"].as_str().unwrap()), "{message}");
        }
    }
    let free =
        json!({ "messages": [{ "role": "user", "content": "?" }], "max_tokens": 9, "tools": [tool("one")] });
    let reply = serving.post("/v1/messages", &free);
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(reply.text().contains("does not speak of tools"), "{}", reply.text());
}

#[test]
fn templates_get_turns_as_they_want_them() {
    let (_folder, serving) = caller();
    let shown = |messages: Value| -> Value {
        let reply = serving.post("/v1/chat/completions", &asked("", json!({ "messages": messages })));
        assert_eq!(reply.status, 400);
        let said = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        serde_json::from_str(&said[said.find("[[").unwrap()..]).unwrap()
    };
    let seen = shown(json!([
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Kiel\"}" } },
            { "id": "call_2", "type": "function", "function": { "name": "now", "arguments": "" } },
        ] },
        { "role": "tool", "tool_call_id": "call_1", "content": "rain" },
        { "role": "tool", "tool_call_id": "call_2", "content": [{ "type": "text", "text": "noon" }], "name": "clock" },
        { "role": "user", "content": "show" },
    ]));
    let call = |number: usize| &seen[0][1]["tool_calls"][number]["function"]["arguments"];
    assert_eq!((call(0), call(1)), (&json!({ "city": "Kiel" }), &json!({})));
    assert_eq!(
        seen[0][2],
        json!({ "role": "tool", "tool_call_id": "call_1", "content": "rain", "name": "weather" })
    );
    assert_eq!((&seen[0][3]["content"], &seen[0][3]["name"]), (&json!("noon"), &json!("clock")));
    assert_eq!(seen[1][0]["function"]["parameters"], json!({ "type": "object", "properties": {} }));
}

/// Gemma 4's template looks for the results of tools in the turn that called them.
#[test]
fn results_stand_where_a_template_looks_for_them() {
    let template = TEMPLATE.replace("<|im_end|>\n{% endfor %}{% if add", "{% for r in m.tool_responses or [] %}<result>{{ r.name }}={{ r.response | tojson }}</result>{% endfor %}<|im_end|>\n{% endfor %}{% if add");
    assert!(template.contains("tool_responses"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jinja");
    std::fs::write(&path, template).unwrap();
    let serving = Serving::start(&["--chat-template", path.to_str().unwrap()]);
    let call = |id: &str, name: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": "{}" } });
    let messages = json!([
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": "", "tool_calls": [call("call_1", "weather"), call("call_2", "now")] },
        { "role": "tool", "tool_call_id": "call_1", "content": "rain" },
        { "role": "tool", "tool_call_id": "call_2", "content": "{\"hour\": 12}" },
        { "role": "assistant", "content": "Rain at noon." },
    ]);
    let reply = serving.post("/apply-template", &asked("", json!({ "messages": messages })));
    let prompt = reply.json()["prompt"].as_str().unwrap().to_owned();
    let results =
        "</tool_call><result>weather=\"rain\"</result><result>now={\"hour\": 12}</result><|im_end|>\n";
    assert!(prompt.contains(results) && !prompt.contains("<|im_start|>tool"), "{prompt}");
    assert!(prompt.ends_with("<|im_start|>assistant\nRain at noon."), "{prompt}");
}

#[test]
fn what_is_wrong_with_tools_is_named() {
    let (_folder, serving) = caller();
    let with = |call: Value| json!({ "messages": [{ "role": "user", "content": "?" }, { "role": "assistant", "tool_calls": [call] }] });
    for (fields, param) in [
        (json!({ "tools": {} }), "tools"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] }),
            "tools[0].function.name",
        ),
        (json!({ "tool_choice": "perhaps" }), "tool_choice"),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "other" } } }), "tool_choice"),
        (json!({ "tools": [], "tool_choice": "required" }), "tool_choice"),
        (
            with(json!({ "id": "a", "function": { "name": "now", "arguments": "{\"a\": " } })),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            with(json!({ "id": "a", "function": { "name": "now", "arguments": "[]" } })),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            with(json!({ "id": "a", "function": { "arguments": "{}" } })),
            "messages[1].tool_calls[0].function.name",
        ),
        (
            with(json!({ "id": 1, "function": { "name": "now", "arguments": "{}" } })),
            "messages[1].tool_calls[0].id",
        ),
    ] {
        let reply = serving.post("/v1/chat/completions", &asked("?", fields.clone()));
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{fields}: {}",
            reply.text()
        );
    }
    // A template that never speaks of tools.
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let reply = serving.post("/v1/chat/completions", &asked("?", json!({})));
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("this model's template does not speak of tools"), "{}", reply.text());
}

/// Templates in whose words a model that knows nothing of tools has to call one, and one that does not speak of tools.
const OTHERS: [&str; 3] = [
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}\
     {% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}\
     {% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% for k, v in c.function.arguments | items %}<key>{{ k }}</key><value>{{ v if v is string else v | tojson }}</value>{% endfor %}</call>{% endfor %}{% endfor %}",
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
];

/// gpt-oss' way: calls are messages to a tool, behind the thoughts.
const CHANNELS: Script = Script {
    template: "{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}\
        {% if m.tool_calls %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>\
        {% else %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}<|start|>assistant",
    ..HARMONY
};

#[test]
fn calls_are_forced_in_channels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    CHANNELS.write(&path);
    let serving = Serving::start(&[path.to_str().unwrap()]);
    let parameters = json!({
        "type": "object", "properties": { "warm": { "type": "boolean" } }, "required": ["warm"],
        "additionalProperties": false,
    });
    let tool =
        |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    let ask = |choice: Value| {
        let fields = json!({ "tools": [tool("one"), tool("two")], "tool_choice": choice, "max_tokens": 300 });
        let reply = serving.post("/v1/chat/completions", &asked("Wie ist das Wetter?", fields));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["choices"][0].clone()
    };
    // Of itself it would only greet.
    let free = ask(json!("auto"));
    assert_eq!((&free["message"]["content"], &free["finish_reason"]), (&json!("Hello!"), &json!("stop")));
    let two = json!({ "type": "function", "function": { "name": "two" } });
    for (choice, names) in [(json!("required"), &["one", "two"][..]), (two, &["two"])] {
        let forced = ask(choice);
        assert_eq!(forced["finish_reason"], "tool_calls", "{forced}");
        let message = &forced["message"];
        assert_eq!(
            (&message["content"], &message["reasoning_content"]),
            (&Value::Null, &json!("A greeting."))
        );
        let calls = message["tool_calls"].as_array().unwrap();
        let function = &calls[0]["function"];
        assert!(calls.len() == 1 && names.contains(&function["name"].as_str().unwrap()), "{forced}");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["warm"].is_boolean(), "{forced}");
    }
}

#[test]
fn calls_are_forced() {
    let schema = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Kiel", "K\u{f6}ln"] }, "warm": { "type": "boolean" } },
        "required": ["city", "warm"],
        "additionalProperties": false,
    });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": schema } });
    for template in OTHERS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, template).unwrap();
        let serving = Serving::start(&["--chat-template", path.to_str().unwrap()]);
        for choice in [json!("required"), json!({ "type": "function", "function": { "name": "two" } })] {
            let fields = json!({
                "tools": [tool("one"), tool("two")], "tool_choice": choice, "max_tokens": 200, "parallel_tool_calls": false,
            });
            let reply = serving.post("/v1/chat/completions", &asked("Wie ist das Wetter?", fields));
            assert_eq!(reply.status, 200, "{}", reply.text());
            let answer = reply.json();
            // All of it is a call, which ends the answer.
            assert_ne!(answer["choices"][0]["finish_reason"], "length", "{answer}");
            assert!(
                answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().is_empty(),
                "{answer}"
            );
            assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 5, "{answer}");
        }
        let bad = json!({ "type": "array", "items": { "type": "string", "pattern": "(?<n>a)\\k<n>" } });
        let bad = json!({ "type": "object", "properties": { "a": bad } });
        let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": bad } }]);
        let reply = serving
            .post("/v1/chat/completions", &asked("?", json!({ "tools": tools, "tool_choice": "required" })));
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!("tools")),
            "{}",
            reply.text()
        );
    }
}
