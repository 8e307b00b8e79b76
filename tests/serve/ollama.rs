//! Ollama's interface over plain HTTP: lines put together are the whole, options are heeded, and nothing is written that
//! nobody allowed.

#[path = "../support/hub.rs"]
mod hub;

use crate::serving::{Reply, Serving, command};
use serde_json::{Value, json};
use std::fs;

fn with(mut request: Value, fields: &Value) -> Value {
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

fn prompt(text: &str, fields: Value) -> Value {
    let options = json!({ "num_predict": 12, "temperature": 0 });
    with(json!({ "model": "any", "prompt": text, "options": options }), &fields)
}

fn question(text: &str, fields: Value) -> Value {
    let options = json!({ "num_predict": 12, "temperature": 0 });
    let messages = json!([{ "role": "user", "content": text }]);
    with(json!({ "model": "any", "messages": messages, "options": options }), &fields)
}

fn whole(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn lines_put_together_are_the_whole() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    for text in ["Wer fliegt?", "Über Größe, Maß und 🦆🌊 "] {
        let chat = whole(&serving.post("/api/chat", &question(text, json!({ "stream": false }))));
        let lines = serving.post("/api/chat", &question(text, json!({}))).lines();
        let said: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
        assert_eq!(chat["message"], json!({ "role": "assistant", "content": said }));
        assert!(!said.is_empty());
        let (last, others) = lines.split_last().unwrap();
        assert!(others.iter().all(|line| line["done"] == false && line.get("done_reason").is_none()));
        for end in [&chat, last] {
            assert_eq!(
                (&end["done"], &end["done_reason"], &end["eval_count"]),
                (&json!(true), &json!("length"), &json!(12))
            );
            let numbers = ["total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_duration"]
                .map(|key| end[key].as_u64().unwrap());
            assert!(numbers[0] >= numbers[2] + numbers[3] && numbers[1] > 0 && end["load_duration"] == 0);
        }
        // As OpenAI's interface says it.
        let request =
            json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 12, "temperature": 0 });
        let other = serving.post("/v1/chat/completions", &request).json();
        assert_eq!(other["choices"][0]["message"]["content"], said);
        assert_eq!(other["usage"]["prompt_tokens"], chat["prompt_eval_count"]);
    }
    let text = "Die Möwe fliegt";
    let continued =
        whole(&serving.post("/api/generate", &prompt(text, json!({ "stream": false, "raw": true }))));
    let lines = serving.post("/api/generate", &prompt(text, json!({ "raw": true }))).lines();
    let said: String = lines.iter().map(|line| line["response"].as_str().unwrap()).collect();
    let plain = json!({ "prompt": text, "max_tokens": 12, "temperature": 0 });
    let plain = serving.post("/v1/completions", &plain).json()["choices"][0]["text"].clone();
    assert_eq!((&continued["response"], &json!(said)), (&plain, &plain));
    assert_eq!(continued["created_at"].as_str().unwrap().len(), "2026-01-01T00:00:00.000000000Z".len());
    assert_eq!(serving.metric("moewe_requests_total{dialect=\"ollama\",status=\"200\"}"), 6.0);
}

#[test]
fn a_context_goes_on_where_it_ended() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    let first = whole(&serving.post("/api/generate", &prompt("Wer fliegt?", json!({ "stream": false }))));
    let context = first["context"].as_array().unwrap();
    assert_eq!(
        context.len() as u64,
        first["prompt_eval_count"].as_u64().unwrap() + first["eval_count"].as_u64().unwrap()
    );
    let second = whole(
        &serving.post("/api/generate", &prompt("Wohin?", json!({ "stream": false, "context": context }))),
    );
    assert!(second["prompt_eval_count"].as_u64().unwrap() > context.len() as u64);
    assert_eq!(second["context"].as_array().unwrap()[..context.len()], context[..]);
    // A turn is what a chat would make of it, the system's words before it.
    let system = prompt("Wer fliegt?", json!({ "stream": false, "system": "Kurz." }));
    let turns =
        json!([{ "role": "system", "content": "Kurz." }, { "role": "user", "content": "Wer fliegt?" }]);
    let chat = question("", json!({ "stream": false, "messages": turns }));
    assert_eq!(
        whole(&serving.post("/api/generate", &system))["response"],
        whole(&serving.post("/api/chat", &chat))["message"]["content"]
    );
}

#[test]
fn options_are_heeded() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml"]);
    let ask = |options: Value| {
        let fields = json!({ "stream": false, "raw": true, "options": options });
        whole(&serving.post("/api/generate", &prompt("Die Möwe fliegt", fields)))
    };
    let greedy = ask(json!({ "num_predict": 12, "temperature": 0 }));
    let text = greedy["response"].as_str().unwrap();
    let stop: String = text.chars().skip(6).take(3).collect();
    let stopped = ask(json!({ "num_predict": 12, "temperature": 0, "stop": [stop] }));
    assert_eq!(
        (&stopped["response"], &stopped["done_reason"]),
        (&json!(text[..text.find(&stop).unwrap()]), &json!("stop"))
    );
    // Hardware and the size of the cache are the server's own matter.
    let own = json!({
        "num_predict": 12, "temperature": 0, "num_thread": 3, "num_gpu": 9, "num_ctx": 256, "num_keep": 4, "mirostat": 0,
    });
    assert_eq!(ask(own)["response"], text);
    let seeded =
        |seed: u64| ask(json!({ "num_predict": 12, "temperature": 1.5, "seed": seed }))["response"].clone();
    assert!(seeded(7) == seeded(7) && seeded(7) != seeded(8));
    assert_eq!(ask(json!({ "num_predict": -1, "stop": [" "] }))["done_reason"], "stop");
    let odds = prompt("A", json!({ "stream": false, "raw": true, "logprobs": true, "top_logprobs": 2 }));
    let odds = whole(&serving.post("/api/generate", &odds))["logprobs"].clone();
    assert_eq!((odds.as_array().unwrap().len(), odds[0]["top_logprobs"].as_array().unwrap().len()), (12, 2));
}

#[test]
fn the_model_is_described() {
    let serving = Serving::start(&["--alias", "gull", "--strict-model"]);
    let version = whole(&serving.get("/api/version"))["version"].as_str().unwrap().to_owned();
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
    assert!(numbers >= vec![0, 14, 0]);
    let tags = whole(&serving.get("/api/tags"));
    let model = &tags["models"][0];
    assert_eq!((&model["name"], model["digest"].as_str().unwrap().len()), (&json!("gull:latest"), 64));
    assert_eq!(model["details"]["format"], "gguf");
    assert!(
        model["size"].as_u64().unwrap() > 1_000_000 && model["modified_at"].as_str().unwrap().ends_with('Z')
    );
    let loaded = whole(&serving.get("/api/ps"));
    assert_eq!(
        (&loaded["models"][0]["name"], &loaded["models"][0]["size_vram"]),
        (&model["name"], &json!(0))
    );
    for path in ["/", "/api/version", "/api/tags"] {
        let head = serving.ask("HEAD", path, &[], "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    for (name, status) in [("gull", 200), ("gull:latest", 200), ("moewe-mini", 200), ("llama3", 404)] {
        let shown = serving.post("/api/show", &json!({ "model": name }));
        let asked = serving.post("/api/generate", &prompt("A", json!({ "model": name })));
        assert_eq!((shown.status, asked.status), (status, status), "{name}");
        if status == 404 {
            assert!(shown.json()["error"].as_str().unwrap().contains(name));
        }
    }
    let shown = whole(&serving.post("/api/show", &json!({ "model": "gull" })));
    assert_eq!(shown["capabilities"], json!(["completion"]));
    assert!(shown["model_info"]["general.architecture"].is_string());
    assert_eq!(shown["model_info"]["tokenizer.ggml.tokens"], Value::Null);
    let verbose = whole(&serving.post("/api/show", &json!({ "name": "gull", "verbose": true })));
    assert!(verbose["model_info"]["tokenizer.ggml.tokens"].as_array().unwrap().len() > 1000);
    // Where nothing is asked the model says that it is there.
    for (path, fields, reason) in [
        ("/api/generate", json!({ "model": "gull" }), "load"),
        ("/api/chat", json!({ "model": "gull", "messages": [] }), "load"),
        ("/api/chat", json!({ "model": "gull", "keep_alive": 0 }), "unload"),
        ("/api/generate", json!({ "model": "gull", "keep_alive": "0s" }), "unload"),
    ] {
        let said = whole(&serving.post(path, &fields));
        assert_eq!((&said["done"], &said["done_reason"]), (&json!(true), &json!(reason)), "{path} {fields}");
    }
}

#[test]
fn what_is_wrong_or_missing_is_said() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    for (path, fields, part) in [
        (
            "/api/chat",
            question("U", json!({ "messages": [{ "role": "bird", "content": "" }] })),
            "messages[0].role",
        ),
        (
            "/api/chat",
            question("U", json!({ "messages": [{ "role": "user", "content": "", "images": ["x"] }] })),
            "images",
        ),
        ("/api/chat", question("U", json!({ "think": true })), "think"),
        ("/api/chat", question("U", json!({ "think": 3 })), "think"),
        ("/api/generate", prompt("U", json!({ "images": ["x"] })), "images"),
        ("/api/generate", prompt("U", json!({ "template": "x" })), "template"),
        ("/api/generate", prompt("U", json!({ "suffix": "x" })), "suffix"),
        ("/api/generate", prompt("U", json!({ "raw": true, "system": "x" })), "system"),
        ("/api/generate", prompt("U", json!({ "context": [99999999] })), "context"),
        ("/api/generate", prompt("U", json!({ "options": { "temperature": -1 } })), "options.temperature"),
        ("/api/generate", prompt("U", json!({ "options": { "temperature": "x" } })), "options.temperature"),
        ("/api/generate", prompt("U", json!({ "options": { "num_ctx": 1_000_000 } })), "options.num_ctx"),
        ("/api/generate", prompt("U", json!({ "options": { "num_predict": -3 } })), "options.num_predict"),
        ("/api/generate", prompt("U", json!({ "options": { "mirostat": 2 } })), "options.mirostat"),
        ("/api/generate", prompt("U", json!({ "options": { "stop": [""] } })), "options.stop"),
        ("/api/generate", prompt(&"Möwe ".repeat(2000), json!({})), "positions"),
    ] {
        let reply = serving.post(path, &fields);
        let error = reply.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(reply.status == 400 && error.contains(part), "{part}: {} {}", reply.status, reply.text());
    }
    for path in ["create", "copy", "push", "blobs/sha256:00", "embed", "embeddings"] {
        let reply = serving.post(&format!("/api/{path}"), &json!({}));
        assert_eq!((reply.status, reply.header("x-should-retry")), (501, Some("false")), "{path}");
        assert!(reply.json()["error"].is_string());
    }
    assert_eq!(serving.ask("DELETE", "/api/delete", &[], "{}").status, 501);
    assert_eq!(serving.post("/api/pull", &json!({ "model": "x" })).status, 403);
    assert_eq!(serving.get("/api/nowhere").json(), json!({ "error": "there is no /api/nowhere" }));
    assert_eq!(serving.get("/api/chat").status, 405);
    // A model without a template continues texts, and says that it cannot chat.
    let base = Serving::start(&[]);
    assert_eq!(base.post("/api/generate", &prompt("Die Möwe", json!({ "stream": false }))).status, 200);
    assert_eq!(base.post("/api/chat", &question("U", json!({}))).status, 400);
}

#[test]
fn a_shell_needs_no_headers_and_a_page_does() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let body = question("U", json!({ "stream": false })).to_string();
    let form = "application/x-www-form-urlencoded";
    let own = format!("http://{}", serving.address);
    for (kind, origin, status) in [
        (form, None, 200),
        ("", None, 200),
        ("text/plain", None, 415),
        (form, Some(own.as_str()), 415),
        ("application/json", Some(own.as_str()), 200),
        ("application/json", Some("https://evil.example"), 403),
    ] {
        let mut headers = vec![("content-type", kind)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        assert_eq!(serving.ask("POST", "/api/chat", &headers, &body).status, status, "{kind} {origin:?}");
    }
    let cross = [("content-type", form), ("sec-fetch-site", "same-origin")];
    assert_eq!(serving.ask("POST", "/api/chat", &cross, &body).status, 415);
    // Other interfaces take no forms.
    assert_eq!(serving.ask("POST", "/v1/completions", &[("content-type", form)], "{}").status, 415);
}

#[test]
fn pulls_that_are_allowed() {
    let bytes = fs::read("models/moewe-mini/moewe-mini.gguf").unwrap();
    let (folder, hub) = (tempfile::tempdir().unwrap(), hub::Hub::start(&[("tiny", &bytes)]));
    let digest = hub::sha256(&bytes);
    let mut command = command();
    command.env("MOEWE_MODELS", folder.path()).env("HOME", folder.path());
    let serving = Serving::by(command, &["--base", "--allow-pull"]);
    let name = format!("127.0.0.1:{}/library/tiny", hub.port());
    let lines = serving.post("/api/pull", &json!({ "model": name })).lines();
    let statuses: Vec<&str> = lines.iter().map(|line| line["status"].as_str().unwrap_or_default()).collect();
    assert_eq!((statuses[0], statuses[statuses.len() - 1]), ("pulling manifest", "success"), "{lines:?}");
    let progress: Vec<&Value> = lines.iter().filter(|line| line.get("completed").is_some()).collect();
    assert!(progress.iter().all(|line| line["status"] == format!("pulling {}", &digest[..12])));
    let last = progress.last().unwrap();
    assert_eq!((&last["completed"], &last["total"]), (&json!(bytes.len()), &json!(bytes.len())));
    let path = folder.path().join("ollama-library/tiny/tiny-latest.gguf");
    assert_eq!(fs::read(path).unwrap(), bytes);
    let again = serving.post("/api/pull", &json!({ "name": name, "stream": false }));
    assert_eq!(whole(&again), json!({ "status": "success" }));
    for (wrong, status) in [("", 400), ("http://127.0.0.1:1/x.gguf", 400), ("hf:x", 400)] {
        let reply = serving.post("/api/pull", &json!({ "model": wrong, "stream": false }));
        assert_eq!(reply.status, status, "{wrong}: {}", reply.text());
    }
    let missing = format!("127.0.0.1:{}/library/nothing", hub.port());
    let failed = serving.post("/api/pull", &json!({ "model": missing })).lines();
    assert!(failed.last().unwrap()["error"].is_string(), "{failed:?}");
}
