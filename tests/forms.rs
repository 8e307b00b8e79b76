//! Answers in a form from the command: `run` and `chat` with `--json-schema` and `--grammar`. What a grammar may say is the
//! engine's to test.

#[path = "support/command.rs"]
mod command;

use command::{fed, moewe, stderr, stdout};
use serde_json::{Value, json};
use std::path::Path;

/// What the model in the program says to a question, which has to end by itself.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let output =
        moewe(folder).args(["run", "-p", "Wie ist das Wetter?", "-q"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output).trim_end_matches('\n').to_owned()
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "wind": { "enum": ["still", "frisch", "steif"] },
            "grad": { "type": "integer", "minimum": -20, "maximum": 40 },
            "regen": { "type": "boolean" },
        },
        "required": ["wind", "grad", "regen"],
        "additionalProperties": false,
    })
}

/// Whether a text is valid by the schema.
fn assert_valid(text: &str) {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(answer.as_object().unwrap().len(), 3, "{text}");
    assert!(["still", "frisch", "steif"].contains(&answer["wind"].as_str().unwrap()), "{text}");
    assert!((-20..=40).contains(&answer["grad"].as_i64().unwrap()), "{text}");
    assert!(answer["regen"].is_boolean(), "{text}");
}

#[test]
fn answers_are_valid_by_a_schema() {
    let folder = tempfile::tempdir().unwrap();
    let inline = schema().to_string();
    std::fs::write(folder.path().join("s.json"), &inline).unwrap();
    for given in [&inline, "s.json"] {
        for temperature in ["0", "1.5"] {
            let rest = ["--temp", temperature, "--seed", "1"];
            assert_valid(&said(folder.path(), &[&["--json-schema", given][..], &rest].concat()));
        }
    }
    let told = said(folder.path(), &["--json-schema", "s.json", "--json", "--seed", "2"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["ending"], "end of text");
    assert_valid(told["text"].as_str().unwrap());
    // What is cut is no valid answer, and does not say that it is one.
    let cut = said(folder.path(), &["--json-schema", "s.json", "--json", "-n", "3"]);
    let cut: Value = serde_json::from_str(&cut).unwrap();
    assert_eq!((&cut["ending"], &cut["tokens"]), (&json!("limit"), &json!(3)));
}

#[test]
fn answers_follow_a_grammar() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.gbnf", "root ::= word (\", \" word){2}\nword ::= \"Möwe\" | \"Meer\""),
        ("a.lark", "start: WORD \", \" WORD \", \" WORD\nWORD: \"Möwe\" | \"Meer\"\n"),
        ("mixed", "%llguidance {}\nstart: WORD \", \" WORD \", \" WORD\nWORD: \"Möwe\" | \"Meer\"\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
        let answer = said(folder.path(), &["--grammar", name, "--temp", "1", "--seed", "3"]);
        let words: Vec<&str> = answer.split(", ").collect();
        assert!(
            words.len() == 3 && words.iter().all(|word| ["Möwe", "Meer"].contains(word)),
            "{name}: {answer}"
        );
    }
    // Also behind a text that is continued.
    let raw = said(folder.path(), &["--raw", "--grammar", "a.gbnf", "--temp", "0"]);
    assert!(raw.starts_with("Möwe") || raw.starts_with("Meer"), "{raw}");
}

#[test]
fn every_answer_of_a_chat_has_the_form() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = moewe(folder.path());
    chat.args(["chat", "-q", "--json", "--json-schema", &schema().to_string()]);
    let output = fed(&mut chat, "Wie ist das Wetter?\nUnd morgen?\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{}", stdout(&output));
    answers.iter().for_each(|answer| assert_valid(answer["text"].as_str().unwrap()));
}

#[test]
fn what_is_no_form_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("rule.gbnf", "root ::= fly"),
        ("torn.gbnf", "root ::= (\"a\""),
        ("torn.lark", "start: ("),
        ("torn.json", "{\"type\":"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for (flags, status, parts) in [
        (&["--grammar", "rule.gbnf"][..], 1, &["--grammar", "no rule `fly`"][..]),
        (&["--grammar", "torn.gbnf"], 1, &["--grammar"]),
        (&["--grammar", "torn.lark"], 1, &["--grammar"]),
        (&["--grammar", "absent.gbnf"], 1, &["absent.gbnf: cannot read"]),
        (&["--json-schema", "absent.json"], 1, &["absent.json: cannot read"]),
        (&["--json-schema", "torn.json"], 1, &["--json-schema is no JSON"]),
        (&["--json-schema", "{\"type\": \"bird\"}"], 1, &["--json-schema", "bird"]),
        (&["--json-schema", "{\"uniqueItems\": true}"], 1, &["--json-schema", "uniqueItems"]),
        (&["--json-schema", "{}", "--grammar", "rule.gbnf"], 2, &["cannot be used with"]),
        (&["--grammar"], 2, &["--grammar <FILE>"]),
    ] {
        for command in ["run", "chat"] {
            let mut moewe = moewe(folder.path());
            moewe.arg(command).args(flags).args(if command == "run" { &["-p", "x"][..] } else { &[] });
            let output = fed(&mut moewe, "x\n");
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(status), "{command} {flags:?}: {message}");
            assert!(output.stdout.is_empty(), "{command} {flags:?}: {}", stdout(&output));
            for part in parts {
                assert!(message.contains(part), "{command} {flags:?}: {message}");
            }
        }
    }
}
