//! Every kind of syntax in every cut: what models write is scripted, since random ones never call a tool.

mod scripts;
mod templates;

use super::{Offer, Tool};
use crate::dialogue::{Dialogue, Piece, StopScanner};
use crate::tokenizer::bytes::CHARACTERS;
use crate::tokenizer::{ChatTemplate, Message, Special, Tokenizer, VocabularySpec};
use proptest::prelude::*;
use scripts::SCRIPTS;
use serde_json::{Map, Value, json};
use std::sync::Arc;
pub(crate) use templates::TEMPLATES;

fn template(name: &str) -> ChatTemplate {
    let (_, _, source) = TEMPLATES.iter().find(|(known, ..)| *known == name).unwrap();
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

fn offer(several: bool) -> Arc<Offer> {
    let tool = |name: &str, properties: Value| Tool {
        name: name.into(),
        parameters: json!({"type": "object", "properties": properties}),
    };
    let weather =
        json!({"city": {"type": "string"}, "days": {"type": "integer"}, "options": {"type": "object"}});
    Arc::new(Offer { tools: vec![tool("get_weather", weather), tool("now", json!({}))], several })
}

/// What a text says, thoughts left out, and the calls in it, arguments as they were written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    thought: String,
    words: String,
    calls: Vec<(String, String)>,
}

impl Said {
    fn take(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            assert!(!piece.text().is_empty());
            match piece {
                Piece::Reasoning(text) => self.thought += &text,
                Piece::Answer(text) => self.words += &text,
                Piece::Call(name) => self.calls.push((name, String::new())),
                Piece::Arguments(text) => self.calls.last_mut().unwrap().1 += &text,
            }
        }
    }

    fn values(&self) -> Vec<(String, Value)> {
        let value = |(name, text): &(String, String)| (name.clone(), serde_json::from_str(text).unwrap());
        self.calls.iter().map(value).collect()
    }
}

/// What comes of a text in these parts.
fn read(dialogue: &Dialogue, prompt: &str, offer: &Arc<Offer>, parts: &[&str]) -> Said {
    let mut reader = dialogue.reader(prompt, StopScanner::default(), Some(offer.clone()));
    let mut said = Said::default();
    parts.iter().for_each(|part| said.take(reader.push_text(part)));
    said.take(reader.finish());
    said
}

/// The same, and every cut makes the same of it.
fn read_in_every_cut(name: &str, text: &str) -> Said {
    let template = template(name);
    let dialogue = Dialogue::of(&template);
    let prompt = template.render(&[Message::new("user", "U")], true).unwrap();
    let offer = offer(true);
    let said = read(&dialogue, prompt.text(), &offer, &[text]);
    let cuts: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
    let step = 1 + cuts.len() / 60;
    for (number, &one) in cuts.iter().enumerate() {
        for &two in cuts[number..].iter().step_by(step) {
            let parts = [&text[..one], &text[one..two], &text[two..]];
            assert_eq!(read(&dialogue, prompt.text(), &offer, &parts), said, "{name}: {parts:?}");
        }
    }
    said
}

#[test]
fn kinds_are_recognized_by_what_templates_write() {
    for (name, kind, source) in TEMPLATES {
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let dialogue = Dialogue::of(&template);
        assert_eq!((dialogue.calls(), dialogue.is_told_of_tools()), (Some(kind), true), "{name}");
    }
    for (name, source) in crate::tokenizer::BUILT_IN {
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        assert_eq!(Dialogue::of(&template).calls(), None, "{name}");
    }
    let manner = |name: &str| Dialogue::of(&template(name)).manner();
    assert!(manner("deepseek-v3").text_arguments && manner("deepseek-v3").null_content);
    assert!(manner("nemo").short_ids && !manner("mistral-small").short_ids);
    assert!(manner("kimi-k2").named_ids && !manner("qwen3").text_arguments);
    assert!(manner("gemma4").inner_results && !manner("qwen3").inner_results);
}

#[test]
fn what_models_say_in_every_cut() {
    for (name, text, words, calls) in SCRIPTS {
        let said = read_in_every_cut(name, text);
        let expected: Vec<(String, String)> =
            calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
        assert_eq!((&*said.words, &said.calls), (*words, &expected), "{name}: {text}");
    }
}

/// Where no tools are on offer all of it is words, as ever.
#[test]
fn without_an_offer_nothing_is_a_call() {
    for (name, text, ..) in SCRIPTS.iter().filter(|(name, ..)| !matches!(*name, "gpt-oss")) {
        let template = template(name);
        let prompt = template.render(&[Message::new("user", "U")], true).unwrap();
        let mut reader = Dialogue::of(&template).reader(prompt.text(), StopScanner::default(), None);
        let mut said = Said::default();
        said.take(reader.push_text(text));
        said.take(reader.finish());
        assert_eq!(said.calls, []);
        assert!(text.contains(&said.words) && text.ends_with(said.words.trim_start()), "{name}: {said:?}");
    }
}

#[test]
fn one_call_is_enough_where_only_one_may_come() {
    for (name, text) in [
        (
            "qwen2.5",
            "Hm <tool_call>{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>{\"name\": \"now\"}",
        ),
        ("glm-4.6", "<think></think>Hm<tool_call>now\n</tool_call><tool_call>now\n</tool_call>"),
        (
            "gpt-oss",
            "<|channel|>final<|message|>Hm<|end|><|start|>assistant to=functions.now<|channel|>x<|message|>{}<|end|>",
        ),
    ] {
        let dialogue = Dialogue::of(&template(name));
        let mut reader = dialogue.reader("<|start|>assistant", StopScanner::default(), Some(offer(false)));
        let (mut said, mut seen) = (Said::default(), 0);
        for c in text.chars() {
            said.take(reader.push_text(c.encode_utf8(&mut [0; 4])));
            seen += usize::from(!reader.is_over());
        }
        assert!(reader.is_over() && seen < text.len(), "{name}");
        said.take(reader.finish());
        assert_eq!(
            (said.words.trim(), &*said.calls),
            ("Hm", &[("now".to_owned(), "{}".to_owned())][..]),
            "{name}"
        );
    }
}

#[test]
fn a_forced_call_needs_no_syntax() {
    let dialogue = Dialogue::plain().with_forced_calls();
    let said = read(&dialogue, "", &offer(true), &["{\"name\": \"now\", ", "\"arguments\": {\"a\": 1}}"]);
    assert_eq!(said.values(), [("now".to_owned(), json!({"a": 1}))]);
}

/// Tokens of which some are control tokens, as they are in the files of these models; a stop string looks at words only.
#[test]
fn control_tokens_begin_calls() {
    let marks = [
        "[TOOL_CALLS]",
        "[ARGS]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<x>",
    ];
    let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    let tokens = bytes.iter().map(String::as_str).chain(marks).collect();
    let types = [vec![1; 256], vec![3; marks.len()]].concat();
    let spec = VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    for (name, text) in [
        // What may begin a stop string is said before the call.
        ("ministral", "Hüst[TOOL_CALLS]now[ARGS]{\"a\": \"stop ü<x>\"}"),
        (
            "deepseek-v3.1",
            "Hüst<x><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\": \"stop ü\"}",
        ),
    ] {
        let tokens = tokenizer.encode(text, Special::Parse).unwrap();
        let stops = StopScanner::new(["stop".to_owned()]);
        let mut reader = Dialogue::of(&template(name)).reader("", stops, Some(offer(true)));
        let mut said = Said::default();
        tokens.iter().for_each(|&token| said.take(reader.push(&tokenizer, token)));
        said.take(reader.finish());
        assert_eq!(said.words, "Hüst");
        assert_eq!(said.values(), [("now".to_owned(), json!({"a": "stop ü"}))]);
        assert_eq!((reader.stop(), reader.raw()), (None, text));
    }
}

/// A turn with calls as the template wants it.
fn turn(dialogue: &Dialogue, words: &str, calls: &[(&str, Map<String, Value>)]) -> Message {
    let manner = dialogue.manner();
    let calls = calls.iter().enumerate().map(|(number, (name, arguments))| {
        let id =
            if manner.named_ids { format!("functions.{name}:{number}") } else { format!("call0000{number}") };
        let arguments = Value::from(arguments.clone());
        let arguments = if manner.text_arguments { arguments.to_string().into() } else { arguments };
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    });
    let calls: Vec<Value> = calls.collect();
    let content = if manner.null_content && words.is_empty() { Value::Null } else { words.into() };
    Message::new("assistant", "").with("content", content).with("tool_calls", calls.into())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z<>/{}\\[\\]\"\\\\\n ü🦙`|=]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z ü\"<]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What a template writes of calls is read back as the same calls.
    #[test]
    fn calls_come_back(
        number in 0..TEMPLATES.len(),
        words in "[a-z<>ü]{0,6}",
        city in "[a-zA-Z<>/{}\\[\\]\"\\\\\n ü🦙`|=]{0,24}",
        days in any::<i32>(),
        options in prop::collection::btree_map("[a-z ü\"<]{1,4}", value(), 0..4),
        others in prop::collection::btree_map("[a-z_]{1,4}", value().prop_filter("no text", |value| !value.is_string()), 0..3),
        cuts: [u16; 6],
    ) {
        let (name, ..) = TEMPLATES[number];
        let template = template(name);
        let dialogue = Dialogue::of(&template);
        let question = Message::new("user", "U");
        let first: Map<String, Value> = [
            ("city".to_owned(), city.into()),
            ("days".to_owned(), days.into()),
            ("options".to_owned(), Value::Object(options.into_iter().collect())),
        ].into_iter().collect();
        let calls = [("get_weather", first), ("now", others.into_iter().collect())];
        let words = if dialogue.manner().null_content { String::new() } else { words };
        // What they write of texts with quotes cannot be told from other texts; `literal.rs` has a test of its own.
        prop_assume!(!matches!(name, "gemma4" | "lfm2.5"));
        let calls = if matches!(name, "llama3.1" | "gpt-oss") { &calls[..1] } else { &calls[..] };
        let offer = offer(true);
        let prompt = template.render(std::slice::from_ref(&question), true).unwrap();
        let whole = template.render(&[question, turn(&dialogue, &words, calls)], false).unwrap();
        let answer = whole.text().strip_prefix(prompt.text().trim_end_matches("<think>\n").trim_end_matches("</think>"));
        let answer = answer.unwrap_or_else(|| panic!("{name}: {}", whole.text()));
        // Behind the call stands what ends a turn; some of these tags are control tokens that no reader sees.
        let ends = ["<|im_end|>\n", "<|end|>\n", "</s>", "<|eot_id|>", "<|eom_id|>", "<|END_OF_TURN_TOKEN|>", "<end_of_sentence>\n",
            "<｜end▁of▁sentence｜>", "<|im_end|>", "[e~[\n", "<|call|>"];
        let answer = ends.iter().find_map(|end| answer.strip_suffix(end)).unwrap_or(answer);
        let mut places: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (answer.len() + 1)).collect();
        places.retain(|&place| answer.is_char_boundary(place));
        places.extend([0, answer.len()]);
        places.sort_unstable();
        let parts: Vec<&str> = places.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
        let said = read(&dialogue, prompt.text().trim_end_matches("<think>\n"), &offer, &parts);
        let expected: Vec<(String, Value)> =
            calls.iter().map(|(name, arguments)| ((*name).to_owned(), Value::Object(arguments.clone()))).collect();
        prop_assert_eq!(said.values(), expected, "{}: {}", name, answer);
    }
}

/// Whole templates as they come with models: which syntax they have. `MOEWE_TEMPLATES` names a folder of them.
#[test]
#[ignore = "reads the folder that MOEWE_TEMPLATES names"]
#[expect(clippy::print_stdout, reason = "what it finds is for people to read")]
fn templates_of_a_folder() {
    let Some(folder) = std::env::var_os("MOEWE_TEMPLATES") else { return };
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") else { continue };
        let dialogue = Dialogue::of(&template);
        let name = file.file_name().unwrap().display().to_string();
        println!(
            "{name:60} {:8} {:?} tools {}",
            dialogue.family(),
            dialogue.calls(),
            dialogue.is_told_of_tools()
        );
        println!("    {:?}", dialogue.calls);
        if dialogue.calls().is_some() {
            let arguments = json!({"city": "Kiel \"ü\"\n<b>", "options": {"a": [1, null]}, "days": 3});
            let calls = [("get_weather", arguments.as_object().unwrap().clone())];
            let question = Message::new("user", "Qx7Q");
            let whole = template.render(&[question, turn(&dialogue, "", &calls)], false).unwrap();
            let prompt = template.render(&[Message::new("user", "Qx7Q")], true).unwrap();
            let behind = || &whole.text()[whole.text().rfind("Qx7Q").unwrap() + 4..];
            let answer = whole.text().strip_prefix(prompt.text()).unwrap_or_else(behind);
            let said = read(&dialogue, "", &offer(true), &[answer]);
            println!("    {said:?}");
            let calls = said.values();
            assert!(calls.len() == 1 && calls[0].1["city"] == arguments["city"], "{calls:?}");
        }
    }
}
