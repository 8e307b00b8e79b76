//! Grammars that force calls of tools: whatever they admit is read as calls, whose arguments the crate `jsonschema` finds
//! valid.

use super::schemas::text;
use super::*;
use crate::dialogue::{Dialogue, Offer, Piece, StopScanner, TEMPLATES, Tool};
use crate::tokenizer::{ChatTemplate, Special};

fn offer(several: bool) -> Arc<Offer> {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": { "type": "string", "enum": ["Kiel", "Bad Ems", "<b> \"ü\""] },
            "days": { "type": "integer", "minimum": 0, "maximum": 12 },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 2 },
        },
        "required": ["city", "days"],
        "additionalProperties": false,
        "$defs": { "tag": { "type": "string", "maxLength": 3 } },
    });
    let nothing = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let tool = |name: &str, parameters: Value| Tool { name: name.to_owned(), parameters };
    Arc::new(Offer { tools: vec![tool("get_weather", weather), tool("now", nothing)], several })
}

/// The calls in a text, and its words.
fn read(dialogue: &Dialogue, offer: &Arc<Offer>, text: &[u8]) -> (Vec<(String, Value)>, String) {
    let tokenizer = &VOCABULARY.0;
    let mut reader = dialogue.reader("", StopScanner::default(), Some(offer.clone()));
    let tokens = tokenizer.encode(str::from_utf8(text).unwrap(), Special::Plain).unwrap();
    let mut pieces: Vec<Piece> = tokens.iter().flat_map(|&token| reader.push(tokenizer, token)).collect();
    pieces.extend(reader.finish());
    let (mut calls, mut words) = (vec![], String::new());
    for piece in pieces {
        match piece {
            Piece::Call(name) => calls.push((name, String::new())),
            Piece::Arguments(more) => calls.last_mut().unwrap().1 += &more,
            Piece::Answer(text) | Piece::Reasoning(text) => words += &text,
        }
    }
    let value = |(name, text): (String, String)| (name, serde_json::from_str(&text).unwrap());
    (calls.into_iter().map(value).collect(), words)
}

#[test]
fn whatever_is_forced_is_a_call() {
    let mut random = Random(9);
    let of = |source: &str| Dialogue::of(&ChatTemplate::new(source, "<s>", "</s>").unwrap());
    let own = TEMPLATES.iter().filter(|(_, kind, _)| *kind != "harmony");
    let all = own.map(|(name, _, source)| (*name, of(source)));
    for (name, dialogue) in all.chain([("none", Dialogue::plain().with_forced_calls())]) {
        for several in [false, true] {
            let offer = offer(several);
            let lark = dialogue.grammar_of_calls(&offer, &VOCABULARY.0).unwrap();
            let matcher =
                compile(&Grammar::Lark(lark.clone())).unwrap_or_else(|e| panic!("{name}: {e}\n{lark}"));
            let mut ended = 0;
            for _ in 0..8 {
                let Some(text) = text(&matcher, &mut random, 600) else { continue };
                let shown = String::from_utf8_lossy(&text);
                let (calls, words) = read(&dialogue, &offer, &text);
                assert!(!calls.is_empty() && words.trim().is_empty(), "{name}: {shown} {words:?}");
                assert!(several || calls.len() == 1, "{name}: {shown}");
                for (called, arguments) in calls {
                    let tool = offer.tools.iter().find(|tool| tool.name == called).unwrap();
                    let valid = jsonschema::validator_for(&tool.parameters).unwrap();
                    assert!(valid.is_valid(&arguments), "{name}: {shown}: {arguments}");
                }
                ended += 1;
            }
            assert!(ended > 0, "{name}");
        }
    }
}

/// A dialogue of a template, and a tool with one text.
fn with_text(name: &str) -> (Dialogue, Arc<Offer>) {
    let (_, _, source) = TEMPLATES.iter().find(|(known, ..)| *known == name).unwrap();
    let dialogue = Dialogue::of(&ChatTemplate::new(source, "<s>", "</s>").unwrap());
    let parameters = json!({
        "type": "object", "properties": { "text": { "type": "string" } }, "required": ["text"],
        "additionalProperties": false,
    });
    (dialogue, Arc::new(Offer { tools: vec![Tool { name: "f".into(), parameters }], several: false }))
}

/// A text among parameters may hold anything but the tag that ends it.
#[test]
fn free_texts_end_at_their_tag() {
    let value = "a </b>\n\nü { \"";
    for (name, before, behind) in [
        (
            "qwen3-coder",
            "<tool_call>\n<function=f>\n<parameter=text>\n",
            "\n</parameter>\n</function>\n</tool_call>",
        ),
        ("gemma4", "<|tool_call>call:f{text:<|\"|>", "<|\"|>}<tool_call|>"),
    ] {
        let (dialogue, offer) = with_text(name);
        let lark = dialogue.grammar_of_calls(&offer, &VOCABULARY.0).unwrap();
        let mut matcher = compile(&Grammar::Lark(lark)).unwrap();
        let text = format!("{before}{value}{behind}");
        for (at, byte) in text.bytes().enumerate() {
            assert!(!matcher.must_end(), "{at}");
            matcher.advance_bytes(&[byte]).unwrap_or_else(|error| panic!("{name}: {at}: {error}"));
        }
        assert!(matcher.may_end().unwrap());
        let (calls, _) = read(&dialogue, &offer, text.as_bytes());
        assert_eq!(calls, [("f".to_owned(), json!({ "text": value }))]);
    }
}

/// Control tokens are tokens in a grammar, not the texts that they are called by.
#[test]
fn control_tokens_stand_around_calls() {
    let marks = [
        "<|tool_call>",
        "<tool_call|>",
        "<|\"|>",
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|constrain|>",
        "<|end|>",
    ];
    let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    let tokens = bytes.iter().map(String::as_str).chain(marks).collect();
    let types = [vec![1; 256], vec![3; marks.len()]].concat();
    let spec = VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocabulary_size()).unwrap();
    let call = "commentary to=functions.f <|constrain|>json<|message|>{\"text\": \"a\"}";
    let thought = "analysis<|message|>Hm {\n<|end|><|start|>assistant<|channel|>";
    for (name, text, is_whole) in [
        ("gemma4", "<|tool_call>call:f{text:<|\"|>ü \"}\n<|\"|>}<tool_call|>", true),
        ("gemma4", "<|tool_call>call:f{text:\"", false),
        ("gemma4", "<|tool_call>call:g", false),
        ("gpt-oss", &format!("<|channel|>{call}"), true),
        ("gpt-oss", &format!("<|channel|>{thought}{call}"), true),
        ("gpt-oss", &format!("<|channel|>{thought}{thought}"), false),
        ("gpt-oss", "<|channel|>final", false),
        ("gpt-oss", "Hm", false),
    ] {
        let (dialogue, offer) = with_text(name);
        assert_eq!(dialogue.rules_thoughts(), name == "gpt-oss");
        let lark = dialogue.grammar_of_calls(&offer, &tokenizer).unwrap();
        let mut matcher = vocabulary.compile(&Grammar::Lark(lark)).unwrap();
        let tokens = tokenizer.encode(text, Special::Parse).unwrap();
        let is_followed = tokens.iter().all(|&token| {
            let is_allowed = matches!(matcher.allowed().unwrap(), Next::Tokens(mask) if mask.allows(token));
            is_allowed && matcher.advance(token).is_ok()
        });
        assert_eq!(is_followed && matcher.may_end().unwrap(), is_whole, "{name}: {text}");
    }
}
