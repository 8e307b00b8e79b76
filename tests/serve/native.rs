//! llama-server's own interface over plain HTTP: its completions, tokens, places and properties.

use crate::serving::{Reply, Serving};
use moewe_engine::gguf::{Gguf, TensorInfo, Writer};
use serde_json::{Value, json};

fn ask(prompt: Value, fields: Value) -> Value {
    let mut request = json!({ "prompt": prompt, "n_predict": 12, "temperature": 0 });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

fn whole(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The events of a stream, which no `[DONE]` ends.
fn pieces(reply: &Reply) -> Vec<Value> {
    let events = reply.events();
    assert!(events.iter().all(Value::is_object));
    events
}

#[test]
fn a_stream_says_what_a_completion_says() {
    let serving = Serving::start(&["--exact"]);
    for prompt in ["Die Möwe fliegt", "Über Größe, Maß und 🦆🌊 "] {
        let fields = json!({ "n_probs": 3, "return_tokens": true });
        let told = whole(&serving.post("/completion", &ask(json!(prompt), fields.clone())));
        let plain = json!({ "prompt": prompt, "max_tokens": 12, "temperature": 0 });
        let plain = serving.post("/v1/completions", &plain).json();
        assert_eq!(told["content"], plain["choices"][0]["text"]);
        assert_eq!(
            (&told["stop"], &told["stop_type"], &told["truncated"]),
            (&json!(true), &json!("limit"), &json!(false))
        );
        assert_eq!((&told["prompt"], &told["model"]), (&json!(prompt), &json!("moewe-mini")));
        assert_eq!(told["has_new_line"], told["content"].as_str().unwrap().contains('\n'));
        assert_eq!(told["tokens_predicted"], told["timings"]["predicted_n"]);
        let sum =
            |names: [&str; 2]| names.map(|name| told["timings"][name].as_u64().unwrap()).iter().sum::<u64>();
        assert_eq!(told["tokens_evaluated"], sum(["prompt_n", "cache_n"]));
        assert_eq!(
            (told["tokens"].as_array().unwrap().len(), &told["generation_settings"]["n_predict"]),
            (12, &json!(12))
        );
        let odds = told["completion_probabilities"].as_array().unwrap();
        assert_eq!(odds.len(), 12);
        for (token, id) in odds.iter().zip(told["tokens"].as_array().unwrap()) {
            assert_eq!((&token["id"], &token["top_logprobs"][0]["id"]), (id, id), "the likeliest is taken");
            assert!(
                token["logprob"].as_f64().unwrap() <= 0.0
                    && token["top_logprobs"].as_array().unwrap().len() == 3
            );
        }
        let mut fields = fields;
        fields["stream"] = true.into();
        let events = pieces(&serving.post("/completion", &ask(json!(prompt), fields)));
        let (last, others) = events.split_last().unwrap();
        let text: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
        assert_eq!(
            (json!(text), &last["stop"], &last["content"]),
            (told["content"].clone(), &json!(true), &json!(""))
        );
        let tokens: Vec<&Value> =
            others.iter().flat_map(|event| event["tokens"].as_array().unwrap()).collect();
        assert!(others.iter().all(|event| event["stop"] == false));
        let ids = told["tokens"].as_array().unwrap();
        assert_eq!(tokens, ids.iter().take(tokens.len()).collect::<Vec<_>>());
    }
    let same = serving.post("/completions", &ask(json!("Die Möwe fliegt"), json!({})));
    assert_eq!(whole(&same)["stop_type"], "limit");
    assert!(serving.metric("moewe_requests_total{dialect=\"native\",status=\"200\"}") >= 5.0);
}

#[test]
fn prompts_of_all_kinds() {
    let serving = Serving::start(&["--exact"]);
    let content =
        |prompt: Value| whole(&serving.post("/completion", &ask(prompt, json!({}))))["content"].clone();
    let tokens = |text: &str, adds: bool| {
        let request = json!({ "content": text, "add_special": adds });
        whole(&serving.post("/tokenize", &request))["tokens"].as_array().unwrap().clone()
    };
    let plain = content(json!("Die Möwe fliegt"));
    let ids = tokens("Die Möwe fliegt", true);
    assert_eq!(content(json!(ids)), plain);
    // Ids and texts side by side are one prompt.
    let mut mixed = tokens("Die Möwe", true);
    let rest = tokens(" fliegt", false);
    let both = [mixed.clone(), rest].concat();
    mixed.push(json!(" fliegt"));
    assert_eq!(content(json!(mixed)), content(json!(both)));
    // llama-server's object around a text, alone and in a list.
    let object = json!({ "prompt_string": "Die Möwe fliegt" });
    assert_eq!(content(object.clone()), plain);
    let list = whole(&serving.post("/completion", &ask(json!([object, ids]), json!({}))));
    assert_eq!([&list[0]["content"], &list[1]["content"]], [&plain, &plain]);
    // Several are a list, in their order.
    let list =
        whole(&serving.post("/completion", &ask(json!(["Am Morgen", "Die Möwe fliegt", ids]), json!({}))));
    let contents: Vec<&Value> = list.as_array().unwrap().iter().map(|told| &told["content"]).collect();
    assert_eq!(contents, [&content(json!("Am Morgen")), &plain, &plain]);
    let streamed = ask(json!(["Am Morgen", "Die Möwe fliegt"]), json!({ "stream": true }));
    let events = pieces(&serving.post("/completion", &streamed));
    let text: String = events
        .iter()
        .filter(|event| event["index"] == 1)
        .map(|event| event["content"].as_str().unwrap())
        .collect();
    assert_eq!(json!(text), plain);
}

#[test]
fn stops_fields_and_progress() {
    let serving = Serving::start(&["--exact", "--batch", "32"]);
    let told = whole(&serving.post("/completion", &ask(json!("Die Möwe fliegt"), json!({}))));
    let text = told["content"].as_str().unwrap();
    let stop: String = text.chars().skip(6).take(3).collect();
    let stopped =
        whole(&serving.post("/completion", &ask(json!("Die Möwe fliegt"), json!({ "stop": [stop] }))));
    assert_eq!((&stopped["stop_type"], &stopped["stopping_word"]), (&json!("word"), &json!(stop)));
    assert_eq!(stopped["content"], text[..text.find(&stop).unwrap()]);
    let fields = json!({ "response_fields": ["content", "generation_settings/n_predict", "timings/predicted_n", "nothing/such"] });
    let few = whole(&serving.post("/completion", &ask(json!("Die Möwe fliegt"), fields)));
    assert_eq!(
        few,
        json!({ "content": text, "generation_settings/n_predict": 12, "timings/predicted_n": 12 })
    );
    let all = whole(&serving.post("/completion", &ask(json!("Die"), json!({ "response_fields": [] }))));
    assert!(all.get("generation_settings").is_some());
    // How far a prompt has been read, from what was known to all of it, before the first token.
    let long = "Die Möwe fliegt über das Meer. ".repeat(20);
    let fields = json!({ "stream": true, "return_progress": true, "timings_per_token": true });
    for (path, key) in [("/completion", "content"), ("/v1/completions", "choices")] {
        let mut request = ask(json!(long), fields.clone());
        request["max_tokens"] = 3.into();
        request["cache_prompt"] = false.into();
        let events = serving.post(path, &request).events();
        let at: Vec<usize> =
            (0..events.len()).filter(|&at| events[at].get("prompt_progress").is_some()).collect();
        assert!(at.len() > 3 && at == (0..at.len()).collect::<Vec<_>>(), "{path}: {at:?}");
        let progress: Vec<&Value> = at.iter().map(|&at| &events[at]["prompt_progress"]).collect();
        assert_eq!(progress[0]["processed"], progress[0]["cache"]);
        let last = progress.last().unwrap();
        assert_eq!(last["processed"], last["total"]);
        let read: Vec<u64> =
            progress.iter().map(|progress| progress["processed"].as_u64().unwrap()).collect();
        assert!(read.is_sorted());
        assert!(events[at.len()].get(key).is_some());
    }
    let events = pieces(&serving.post("/completion", &ask(json!("Die Möwe"), fields)));
    let counts: Vec<u64> =
        events.iter().filter_map(|event| event["timings"]["predicted_n"].as_u64()).collect();
    assert!(counts.is_sorted() && *counts.last().unwrap() == 12, "{counts:?}");
}

#[test]
fn chats_tell_progress_timings_and_tokens() {
    let serving = Serving::start(&["--exact", "--chat-template", "chatml", "--batch", "32"]);
    let request = json!({
        "messages": [{ "role": "user", "content": "Die Möwe fliegt über das Meer. ".repeat(20) }], "max_tokens": 4,
        "temperature": 0, "stream": true, "return_progress": true, "timings_per_token": true, "return_tokens": true,
    });
    let events = serving.post("/v1/chat/completions", &request).events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": null }));
    let progress: Vec<&Value> = events.iter().filter_map(|event| event.get("prompt_progress")).collect();
    assert!(progress.len() > 3);
    assert_eq!(progress[0]["processed"], progress[0]["cache"]);
    let last = progress.last().unwrap();
    assert_eq!(last["processed"], last["total"]);
    let told: usize =
        events.iter().filter_map(|event| event["choices"][0]["tokens"].as_array()).map(Vec::len).sum();
    assert_eq!(told, 4);
    let last = &events[events.len() - 2];
    assert_eq!(last["timings"]["predicted_n"], 4);
}

#[test]
fn tokens_and_texts() {
    let serving = Serving::start(&["--chat-template", "chatml"]);
    let post = |path: &str, body: Value| whole(&serving.post(path, &body));
    let text = "Über Größe, Maß und 🦆🌊";
    let tokens = post("/tokenize", json!({ "content": text }))["tokens"].clone();
    let back = post("/detokenize", json!({ "tokens": tokens }));
    assert_eq!(back, json!({ "content": text, "prompt": text }));
    // Where a token is no text its bytes stand for it.
    let pieces = post("/tokenize", json!({ "content": text, "with_pieces": true }))["tokens"].clone();
    let mut bytes = vec![];
    for (piece, id) in pieces.as_array().unwrap().iter().zip(tokens.as_array().unwrap()) {
        assert_eq!(&piece["id"], id);
        match &piece["piece"] {
            Value::String(text) => bytes.extend_from_slice(text.as_bytes()),
            list => bytes.extend(list.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8)),
        }
    }
    assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text);
    assert!(pieces.as_array().unwrap().iter().any(|piece| piece["piece"].is_array()));
    // Control tokens are tokens unless they are said to be text.
    let control = "a<|endoftext|>b";
    let count = |body: Value| post("/tokenize", body)["count"].as_u64().unwrap();
    assert!(
        count(json!({ "content": control })) + 3
            < count(json!({ "content": control, "parse_special": false }))
    );
    let parsed = post("/tokenize", json!({ "content": control }))["tokens"].clone();
    assert_eq!(post("/detokenize", json!({ "tokens": parsed }))["content"], control);
    // In vLLM's words a text begins and ends as the file says.
    let info = whole(&serving.get("/tokenizer_info"));
    let plain = count(json!({ "prompt": "ab", "add_special_tokens": false }));
    let added = count(json!({ "prompt": "ab" }));
    let adds = ["add_bos_token", "add_eos_token"].map(|key| u64::from(info[key] == true));
    assert_eq!(added, plain + adds[0] + adds[1]);
    assert!(info["eos_token"].is_string() && info["chat_template"].as_str().unwrap().contains("im_start"));
    let messages = json!([{ "role": "user", "content": "Wer?" }]);
    let prompt = post("/apply-template", json!({ "messages": messages }))["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains("Wer?"));
    let counted = post("/v1/chat/completions/input_tokens", json!({ "messages": messages }));
    assert_eq!(counted["input_tokens"], count(json!({ "content": prompt })));
}

/// Odds before anything was done to them, and those by which the tokens were drawn.
#[test]
fn odds_are_the_models_or_the_draws() {
    let serving = Serving::start(&["--exact"]);
    let odds = |fields: Value| {
        let request = ask(json!("Die Möwe fliegt"), json!({ "n_probs": 5, "n_predict": 6, "seed": 3 }));
        let mut request = request;
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let told = whole(&serving.post("/completion", &request));
        let odds = told["completion_probabilities"].as_array().unwrap().clone();
        request["stream"] = true.into();
        let events = pieces(&serving.post("/completion", &request));
        let text: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
        assert_eq!(told["content"], text, "a seed gives the same text in pieces");
        let streamed = events.iter().filter_map(|event| event["completion_probabilities"].as_array());
        assert_eq!(streamed.flatten().cloned().collect::<Vec<_>>(), odds);
        assert_eq!(odds.len(), 6);
        odds
    };
    let number = |value: &Value| value.as_f64().unwrap();
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    let hot = json!({ "temperature": 1.5, "top_k": 3, "top_p": 1, "min_p": 0 });
    let [own, drawn] = [false, true].map(|is_drawn| {
        let mut fields = hot.clone();
        fields["post_sampling_probs"] = is_drawn.into();
        odds(fields)
    });
    for (own, drawn) in own.iter().zip(&drawn) {
        assert_eq!(own["id"], drawn["id"], "what is told changes no token");
        let (of_model, of_draw) = (&own["top_logprobs"], &drawn["top_probs"]);
        assert_eq!((ids(of_model)[..3].to_vec(), 5), (ids(of_draw)[..3].to_vec(), ids(of_draw).len()));
        // A softmax over three, whose distances the temperature made smaller.
        let weights: Vec<f64> = (0..3).map(|at| (number(&of_model[at]["logprob"]) / 1.5).exp()).collect();
        for at in 0..5 {
            let expected = weights.get(at).map_or(0.0, |weight| weight / weights.iter().sum::<f64>());
            let found = number(&of_draw[at]["prob"]);
            assert!((found - expected).abs() < 1e-4, "{at}: {found} instead of {expected}");
        }
        assert!(number(&drawn["prob"]) > 0.0 && drawn.get("logprob").is_none());
    }
    // What is taken without a draw is certain.
    for odds in odds(json!({ "post_sampling_probs": true })) {
        assert_eq!((&odds["prob"], &odds["top_probs"][0]["prob"]), (&json!(1.0), &json!(1.0)));
        assert_eq!((&odds["top_probs"][0]["id"], &odds["top_probs"][4]["prob"]), (&odds["id"], &json!(0.0)));
    }
}

/// All ways to say that some tokens are not wanted.
#[test]
fn biases_of_ids_and_texts() {
    let serving = Serving::start(&["--exact"]);
    let told = |fields: Value| {
        let mut fields = fields;
        fields["return_tokens"] = true.into();
        whole(&serving.post("/completion", &ask(json!("Die Möwe fliegt"), fields)))["tokens"].clone()
    };
    let free = told(json!({}));
    let token = free[0].as_u64().unwrap();
    let request = json!({ "tokens": [token] });
    let text = whole(&serving.post("/detokenize", &request))["content"].as_str().unwrap().to_owned();
    let without = told(json!({ "logit_bias": [[token, false]] }));
    assert!(!without.as_array().unwrap().contains(&json!(token)) && without != free);
    for bias in [
        json!([[token, -100]]),
        json!([[text, false]]),
        json!({ token.to_string(): -100 }),
        json!({ text.clone(): -100 }),
        json!({ text.clone(): false }),
    ] {
        assert_eq!(told(json!({ "logit_bias": bias })), without, "{bias}");
    }
    assert_eq!(told(json!({ "logit_bias": { text: 0.0 } })), free);
}

#[test]
fn places_and_properties() {
    let serving = Serving::start(&["--parallel", "2", "--alias", "gull"]);
    let props = whole(&serving.get("/props"));
    assert_eq!((&props["total_slots"], &props["model_alias"]), (&json!(2), &json!("gull")));
    assert_eq!(props["modalities"], json!({ "vision": false, "audio": false }));
    assert_eq!(serving.post("/props", &json!({})).status, 501);
    let slots = || whole(&serving.get("/slots")).as_array().unwrap().clone();
    let idle = slots();
    assert!(
        idle.len() == 2 && idle.iter().all(|slot| slot["is_processing"] == false && slot["id_task"] == -1)
    );
    let endless = ask(
        json!("Ein Geheimnis"),
        json!({ "n_predict": 400, "ignore_eos": true, "stream": true, "temperature": 0.5 }),
    );
    let open = [(); 2].map(|()| serving.send("POST", "/completion", &[], &endless.to_string()));
    serving.until("moewe_requests_processing", |count| count == 2.0);
    let busy = serving.get("/slots");
    assert!(!busy.text().contains("Geheimnis"), "a place tells no prompt");
    let busy = busy.json();
    for slot in busy.as_array().unwrap() {
        assert_eq!((&slot["is_processing"], &slot["params"]["temperature"]), (&json!(true), &json!(0.5)));
        assert!(slot["next_token"][0]["n_remain"].as_u64().unwrap() <= 400);
        assert_eq!(slot["next_token"][0]["has_next_token"], true);
    }
    let none = serving.get("/slots?fail_on_no_slot=1");
    assert_eq!((none.status, &none.json()["error"]["code"]), (503, &json!(503)));
    assert_eq!(serving.get("/slots?fail_on_no_slot=0").status, 200);
    drop(open);
    serving.until("moewe_requests_processing", |count| count == 0.0);
    assert_eq!(serving.get("/slots?fail_on_no_slot=1").status, 200);
}

#[test]
fn what_is_wrong_or_missing_is_named() {
    let serving = Serving::start(&[]);
    for (fields, param) in [
        (json!({ "prompt": null }), "prompt"),
        (json!({ "prompt": {} }), "prompt"),
        (json!({ "prompt": { "prompt_string": 3 } }), "prompt"),
        (json!({ "prompt": { "prompt_string": "a", "multimodal_data": ["x"] } }), "prompt.multimodal_data"),
        (json!({ "logit_bias": { "": -1 } }), "logit_bias"),
        (json!({ "logit_bias": { "-1": -1 } }), "logit_bias"),
        (json!({ "logit_bias": [["a"]] }), "logit_bias"),
        (json!({ "prompt": [99999999, "a"] }), "prompt"),
        (json!({ "n_predict": -3 }), "n_predict"),
        (json!({ "n_probs": 21 }), "n_probs"),
        (json!({ "n": 2 }), "n"),
        (json!({ "samplers": ["top_k"] }), "samplers"),
        (json!({ "t_max_predict_ms": 5 }), "t_max_predict_ms"),
        (json!({ "post_sampling_probs": 1 }), "post_sampling_probs"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "xtc_probability": 0.5 }), "xtc_probability"),
    ] {
        let reply = serving.post("/completion", &ask(json!("A"), fields.clone()));
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, &error["param"], &error["code"]),
            (400, &json!(param), &json!(400)),
            "{fields}: {error}"
        );
    }
    let neutral = json!({
        "samplers": [], "top_n_sigma": -1, "min_keep": 0, "n_indent": 0, "t_max_predict_ms": 0, "id_slot": 3, "n_keep": 5,
        "mirostat": 0, "dynatemp_exponent": 1, "xtc_threshold": 0.1, "cache_prompt": true,
    });
    assert_eq!(serving.post("/completion", &ask(json!("A"), neutral)).status, 200);
    for path in
        ["/lora-adapters", "/embedding", "/embeddings", "/rerank", "/reranking", "/slots/0?action=erase"]
    {
        let reply = serving.post(path, &json!({}));
        assert_eq!(
            (reply.status, &reply.json()["error"]["type"]),
            (501, &json!("not_supported_error")),
            "{path}"
        );
    }
    let embeddings = serving.post("/v1/embeddings", &json!({ "input": "a" }));
    assert_eq!((embeddings.status, embeddings.header("x-should-retry")), (501, Some("false")));
    assert_eq!(serving.post("/infill", &json!({ "input_prefix": "a", "input_suffix": "b" })).status, 501);
    let suffix = json!({ "prompt": "a", "suffix": "b" });
    assert_eq!(serving.post("/v1/completions", &suffix).json()["error"]["param"], "suffix");
    assert_eq!(serving.post("/v1/rerank", &json!({})).status, 404);
    for (path, body) in [
        ("/tokenize", json!({})),
        ("/detokenize", json!({ "tokens": "x" })),
        ("/detokenize", json!({ "tokens": [99999999] })),
    ] {
        assert_eq!(serving.post(path, &body).status, 400, "{path} {body}");
    }
}

#[test]
fn gaps_are_filled_by_models_that_were_trained_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("filler.gguf");
    let gguf = Gguf::open("models/moewe-mini/moewe-mini.gguf").unwrap();
    let mut metadata = gguf.metadata().clone();
    for (name, token) in [("fim_pre", 400u32), ("fim_suf", 401), ("fim_mid", 402)] {
        metadata.set(format!("tokenizer.ggml.{name}_token_id"), token);
    }
    let entry = |tensor: &TensorInfo| (tensor.name.clone(), tensor.format, tensor.shape.clone());
    let directory = gguf.tensors().iter().map(entry).collect();
    let mut writer = Writer::new(metadata, directory).unwrap().create(&path).unwrap();
    gguf.tensors().iter().for_each(|tensor| writer.write_tensor(&gguf.bytes(tensor)).unwrap());
    writer.finish().unwrap();
    let serving = Serving::start(&[path.to_str().unwrap(), "--exact"]);
    let tokens = |text: &str| {
        let request = json!({ "content": text, "parse_special": false });
        whole(&serving.post("/tokenize", &request))["tokens"].as_array().unwrap().clone()
    };
    let begin = whole(&serving.post("/tokenize", &json!({ "content": "", "add_special": true })));
    let mut ids = begin["tokens"].as_array().unwrap().clone();
    for (mark, text) in [(400, "Die Möwe "), (401, " das Meer."), (402, "fl")] {
        ids.push(json!(mark));
        ids.extend(tokens(text));
    }
    let expected = whole(&serving.post("/completion", &ask(json!(ids), json!({}))))["content"].clone();
    let gap = json!({ "input_prefix": "Die Möwe ", "input_suffix": " das Meer." });
    assert_eq!(whole(&serving.post("/infill", &ask(json!("fl"), gap)))["content"], expected);
    // Without a beginning both interfaces say the same, as Ollama's does.
    let gap = json!({ "input_prefix": "Die Möwe ", "input_suffix": " das Meer." });
    let filled = whole(&serving.post("/infill", &ask(Value::Null, gap)))["content"].clone();
    let request =
        json!({ "prompt": "Die Möwe ", "suffix": " das Meer.", "max_tokens": 12, "temperature": 0 });
    assert_eq!(whole(&serving.post("/v1/completions", &request))["choices"][0]["text"], filled);
    let options = json!({ "num_predict": 12, "temperature": 0 });
    let request =
        json!({ "prompt": "Die Möwe ", "suffix": " das Meer.", "options": options, "stream": false });
    assert_eq!(whole(&serving.post("/api/generate", &request))["response"], filled);
    assert!(whole(&serving.post("/api/show", &json!({})))["capabilities"].to_string().contains("insert"));
}
