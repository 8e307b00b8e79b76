//! Scripted answers as each interface tells them, in pieces and as a whole: thoughts, a text, two calls, and a text after
//! them, as a model that is tested here would never say them.

use super::answer::Answer;
use super::tell::Tell;
use super::{anthropic, ollama, openai};
use crate::embedded;
use crate::server::metrics::Metrics;
use crate::server::model::{Dialect, Model};
use crate::server::scheduler::{Event, Limits, Scheduler, Usage};
use moewe_engine::dialogue::{Dialogue, Piece};
use moewe_engine::generate::Ending;
use moewe_engine::sampler::Sampling;
use moewe_engine::session::{Engine, Options};
use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        let options =
            Options { threads: Some(1), context: Some(256), sequences: Some(1), ..Options::default() };
        let engine = Arc::new(Engine::from_static(embedded::model(), options).unwrap());
        let limits = Limits { parallel: 1, ..Limits::default() };
        let (scheduler, _) = Scheduler::start(engine.clone(), limits, Arc::new(Metrics::new())).unwrap();
        let (variables, stops) = (Map::new(), vec![]);
        let dialect = Dialect { template: None, dialogue: Dialogue::plain(), variables, stops };
        Arc::new(Model::new(engine, scheduler, vec![], Sampling::default(), dialect).unwrap())
    };
    MODEL.get_or_init(load).clone()
}

fn usage(told: usize) -> Usage {
    Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: told, ..Usage::default() }
}

/// The tokens of an answer, and its end.
fn script(pieces: &[Piece], ending: Ending) -> Vec<Event> {
    let token = |(told, piece): (usize, &Piece)| Event::Token {
        token: 300 + told as u32,
        pieces: vec![piece.clone()],
        odds: None,
        usage: usage(told + 1),
    };
    let mut events: Vec<Event> = pieces.iter().enumerate().map(token).collect();
    events.push(Event::Ended { ending, stop: None, pieces: vec![], usage: usage(pieces.len()) });
    events
}

/// Thoughts, a text, and two calls, the second of which has no arguments.
fn pieces() -> Vec<Piece> {
    let [call, more] = [|name: &str| Piece::Call(name.into()), |json: &str| Piece::Arguments(json.into())];
    vec![
        Piece::Reasoning("Wo".into()),
        Piece::Reasoning("hin?".into()),
        Piece::Answer("Ich fl".into()),
        Piece::Answer("iege.".into()),
        call("fly"),
        more("{\"to\": "),
        more("\"Kiel\"}"),
        call("rest"),
        more("{}"),
    ]
}

/// What a stream says, and the whole.
fn told<T: Tell>(new: impl Fn() -> T, pieces: &[Piece], ending: Ending) -> (Vec<Value>, Value) {
    let (mut stream, mut whole) = (new(), new());
    let mut events = stream.begin(&usage(0));
    for event in script(pieces, ending) {
        events.extend(stream.say(0, event));
    }
    events.extend(stream.end());
    script(pieces, ending).into_iter().for_each(|event| whole.keep(0, event));
    (events, whole.whole().unwrap())
}

#[test]
fn calls_of_openai() {
    let (events, whole) = told(|| openai::chat::teller(&model()), &pieces(), Ending::EndOfText);
    let message = &whole["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("Ich fliege."), &json!("Wohin?"))
    );
    let calls = message["tool_calls"].as_array().unwrap();
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(
        functions,
        [
            &json!({ "name": "fly", "arguments": "{\"to\": \"Kiel\"}" }),
            &json!({ "name": "rest", "arguments": "{}" })
        ]
    );
    assert!(calls.iter().all(|call| call["id"].as_str().unwrap().len() == 29 && call["type"] == "function"));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(whole["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
    // The first delta of a call names it, the others bring nothing but arguments.
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({ "role": "assistant", "content": null }));
    let called: Vec<&Value> = deltas.iter().filter_map(|delta| delta["tool_calls"].get(0)).collect();
    for (at, index, name, arguments) in [
        (0, 0, "fly", ""),
        (1, 0, "", "{\"to\": "),
        (2, 0, "", "\"Kiel\"}"),
        (3, 1, "rest", ""),
        (4, 1, "", "{}"),
    ] {
        let mut expected = json!({ "index": index, "function": { "arguments": arguments } });
        if !name.is_empty() {
            expected["id"] = called[at]["id"].clone();
            expected["type"] = "function".into();
            expected["function"] = json!({ "name": name, "arguments": "" });
        }
        assert_eq!(called[at], &expected);
    }
    assert_eq!(called.len(), 5);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    assert!(deltas.iter().all(|delta| delta["content"] != ""), "no delta is empty");
}

#[test]
fn a_cut_call_is_no_reason_to_call() {
    let cut = &pieces()[..6];
    let (events, whole) = told(|| openai::chat::teller(&model()), cut, Ending::Limit);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"to\": ");
    let (_, whole) = told(|| anthropic::teller(vec![]), cut, Ending::Limit);
    assert_eq!(
        (&whole["stop_reason"], whole["content"].as_array().unwrap().len()),
        (&json!("max_tokens"), 2)
    );
    let (lines, whole) = told(|| ollama::teller(model()), cut, Ending::Limit);
    assert!(whole["message"].get("tool_calls").is_none() && whole["done_reason"] == "length");
    assert!(lines.iter().all(|line| line["message"].get("tool_calls").is_none()));
}

#[test]
fn blocks_of_anthropic() {
    let (events, whole) = told(|| anthropic::teller(vec![]), &pieces(), Ending::EndOfText);
    let content = whole["content"].as_array().unwrap();
    let kinds: Vec<&Value> = content.iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!((&content[2]["input"], &content[3]["input"]), (&json!({ "to": "Kiel" }), &json!({})));
    assert_eq!((&whole["stop_reason"], &whole["usage"]["input_tokens"]), (&json!("tool_use"), &json!(5)));
    assert_eq!(whole["usage"]["cache_read_input_tokens"], 4);
    // Put together as the protocol says, the events are the whole.
    let mut blocks: Vec<Value> = vec![];
    let (mut json, mut latest) = (String::new(), Value::Null);
    for event in &events {
        if event["type"] == "content_block_delta" {
            latest = event["delta"]["type"].clone();
        }
        match event["type"].as_str().unwrap() {
            "message_start" => assert_eq!(event["message"]["content"], json!([])),
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], blocks.last_mut().unwrap());
                let (key, more) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", &delta["text"]),
                    "thinking_delta" => ("thinking", &delta["thinking"]),
                    "signature_delta" => ("signature", &delta["signature"]),
                    "input_json_delta" => ("", &delta["partial_json"]),
                    other => panic!("{other}"),
                };
                if key.is_empty() {
                    json += more.as_str().unwrap();
                } else {
                    block[key] = format!("{}{}", block[key].as_str().unwrap(), more.as_str().unwrap()).into();
                }
            }
            "content_block_stop" => {
                let block = blocks.last_mut().unwrap();
                assert_eq!(block["type"] == "thinking", latest == "signature_delta");
                assert_eq!(event["index"], blocks_index(&events, event));
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).unwrap();
                }
            }
            "message_delta" => assert_eq!(event["delta"]["stop_reason"], "tool_use"),
            "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    // Each has identifiers of its own for calls.
    for (block, told) in blocks.iter_mut().zip(content) {
        if block.get("id").is_some() {
            assert!(block["id"].as_str().unwrap().starts_with("toolu_"));
            block["id"] = told["id"].clone();
        }
    }
    assert_eq!(&blocks, content);
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

/// How many blocks had stopped before this event.
fn blocks_index(events: &[Value], event: &Value) -> usize {
    let before = events.iter().take_while(|other| !std::ptr::eq(*other, event));
    before.filter(|other| other["type"] == "content_block_stop").count()
}

#[test]
fn lines_of_ollama() {
    let (lines, whole) = told(|| ollama::teller(model()), &pieces(), Ending::EndOfText);
    let said =
        |key: &str| -> String { lines.iter().filter_map(|line| line["message"][key].as_str()).collect() };
    assert_eq!((said("thinking"), said("content")), ("Wohin?".into(), "Ich fliege.".into()));
    let calls: Vec<&Value> = lines.iter().filter_map(|line| line["message"]["tool_calls"].get(0)).collect();
    let expected = [("fly", json!({ "to": "Kiel" })), ("rest", json!({}))]
        .map(|(name, arguments)| json!({ "function": { "name": name, "arguments": arguments } }));
    assert_eq!(calls, expected.iter().collect::<Vec<_>>());
    assert_eq!(whole["message"]["tool_calls"], json!(expected));
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line["done"] == false));
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("stop"), &json!(9))
    );
}

#[test]
fn items_of_a_response() {
    let (events, whole) = told(openai::responses::teller, &pieces(), Ending::EndOfText);
    let output = whole["output"].as_array().unwrap();
    let kinds: Vec<&Value> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(output[2]["arguments"], "{\"to\": \"Kiel\"}");
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let of = |kind: &str| -> Vec<&Value> { events.iter().filter(|event| event["type"] == kind).collect() };
    assert_eq!((of("response.output_item.added").len(), of("response.output_item.done").len()), (4, 4));
    let deltas: String =
        of("response.output_text.delta").iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(of("response.output_text.done")[0]["text"], deltas);
    assert_eq!(of("response.function_call_arguments.done")[0]["arguments"], output[2]["arguments"]);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.completed"), &json!("completed"))
    );
    let (events, whole) = told(openai::responses::teller, &pieces()[..4], Ending::Limit);
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(
        (&whole["output"][0]["status"], &whole["output"][1]["status"]),
        (&json!("completed"), &json!("incomplete"))
    );
}

#[test]
fn which_stop_sequence_it_was() {
    let stopped = |own: &[&str]| {
        let mut teller = anthropic::teller(own.iter().map(|&stop| stop.to_owned()).collect());
        let (ending, stop) = (Ending::StopString, Some("END".to_owned()));
        teller.keep(0, Event::Ended { ending, stop, pieces: vec![], usage: usage(1) });
        let whole = teller.whole().unwrap();
        (whole["stop_reason"].clone(), whole["stop_sequence"].clone())
    };
    assert_eq!(stopped(&["X", "END"]), (json!("stop_sequence"), json!("END")));
    // One of the server's own is none of the client's.
    assert_eq!(stopped(&["X"]), (json!("end_turn"), Value::Null));
    assert!(Answer::default().ending.is_none());
}
