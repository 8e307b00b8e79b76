//! What a person sees of a conversation: thoughts apart from answers, templates, prompts from files and pipes.
//!
//! Models with a script say the same every time; see `support/script.rs`.

#[path = "support/command.rs"]
mod command;
#[path = "support/script.rs"]
mod script;

use command::{fed, moewe, stderr, stdout};
use script::{HARMONY, Script};
use serde_json::{Value, json};
use std::process::Output;
use tempfile::TempDir;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const STRICT: &str = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                      {{ raise_exception('turns have to alternate') }}{% endif %}\
                      <|im_start|>{{ m.content }}<|im_end|>{% endfor %}";

fn place(script: Script) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    script.write(&folder.path().join("m.gguf"));
    folder
}

/// Runs a command on the model with `input` on stdin.
fn say(folder: &TempDir, arguments: &[&str], input: &str) -> Output {
    let (name, rest) = arguments.split_first().unwrap();
    fed(moewe(folder.path()).arg(name).arg("m.gguf").args(rest), input)
}

/// The same, and it must succeed.
#[track_caller]
fn good(folder: &TempDir, arguments: &[&str], input: &str) -> String {
    let output = say(folder, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// One line on stderr that holds `parts`, status 1, nothing on stdout.
#[track_caller]
fn refused(folder: &TempDir, arguments: &[&str], parts: &[&str]) {
    let output = say(folder, arguments, "");
    let message = stderr(&output);
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), ""), "{arguments:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{arguments:?}: {message}");
}

#[test]
fn thoughts_are_told_from_answers() {
    let folder = place(HARMONY);
    let greedy = ["chat", "--temp", "0", "-q"];
    assert_eq!(good(&folder, &greedy, "Hi\n"), "Hello!\n");
    let shown = say(&folder, &[&greedy[..], &["--think", "show"]].concat(), "Hi\n");
    assert_eq!((&*stdout(&shown), stderr(&shown).trim()), ("Hello!\n", "A greeting."));
    let said = stderr(&say(&folder, &greedy, "/think\nHi\n/think show\nHi\n/think loud\n"));
    assert!(said.starts_with("hide\nA greeting.\n\nerror: /think takes show, hide or off"), "{said}");
    // The next prompt holds the answer alone; the file both.
    good(&folder, &greedy, "Hi\nHi\n/save c.json\n");
    let saved: Value = serde_json::from_slice(&std::fs::read(folder.path().join("c.json")).unwrap()).unwrap();
    let answer = json!({"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."});
    assert_eq!((&saved["messages"][1], &saved["messages"][3]), (&answer, &answer));
    good(&folder, &greedy, "/load c.json\n/save d.json\n");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("c.json"), read("d.json"));
    let lines = good(&folder, &[&greedy[..], &["--json"]].concat(), "Hi\nHo\n");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["text"] == "Hello!" && line["reasoning"] == "A greeting."));
    let run = good(&folder, &["run", "-p", "Hi", "--temp", "0", "--json"], "");
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!((&run["text"], &run["reasoning"]), (&json!("Hello!"), &json!("A greeting.")));
    // Stop strings look at the answer, not at the thoughts.
    let stopped =
        good(&folder, &["run", "-p", "Hi", "--temp", "0", "--stop", "greeting", "--stop", "llo"], "");
    assert_eq!(stopped, "He\n");
    let cut = say(&folder, &["run", "-p", "Hi", "--temp", "0", "-n", "5", "-q"], "");
    assert!(stderr(&cut).contains("all of it was thought"), "{}", stderr(&cut));
}

#[test]
fn a_question_without_an_answer_is_answered() {
    let folder = place(Script::saying_ok(STRICT));
    let path = folder.path().join("open.json");
    std::fs::write(&path, r#"[{"role": "user", "content": "What is a gull?"}]"#).unwrap();
    let chat = ["chat", "--load", "open.json", "-q", "-n", "2", "--temp", "0"];
    let output = say(&folder, &chat, "/retry\nhello\n/save --force a.json\n");
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), "ok\nok\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("/retry answers it"), "{}", stderr(&output));
    good(&folder, &chat, "hello\n/save --force a.json\n");
    let saved: Value = serde_json::from_slice(&std::fs::read(folder.path().join("a.json")).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "What is a gull?\n\nhello");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn files_are_named_as_the_tabulator_completes_them() {
    let folder = place(Script::saying_ok(CHATML));
    let output =
        good(&folder, &["chat", "-q"], "/save with\\ space.json\n/save ~/home.json\n/load ~/home.json\n");
    assert_eq!(output, "");
    let names = command::names(folder.path());
    assert_eq!(names, ["home.json", "m.gguf", "with space.json"]);
}

#[cfg(unix)]
#[test]
fn templates_tell_the_local_time() {
    let folder = place(Script::saying_ok("{{ raise_exception(strftime_now('%F %-d %j %I %p')) }}"));
    let date = |zone: &str| {
        let output =
            moewe(folder.path()).env("TZ", zone).args(["run", "m.gguf", "-p", "x"]).output().unwrap();
        let message = stderr(&output);
        assert!(!message.contains('%'), "{message}");
        message.split_whitespace().find(|word| word.starts_with("20")).unwrap().to_owned()
    };
    // 26 hours apart.
    assert_ne!(date("AAA-14"), date("BBB+12"));
}

#[test]
fn prompts_come_from_files_and_pipes() {
    let folder = place(Script::saying_ok(CHATML));
    let prompt =
        |more: &[&str], input: &str| good(&folder, &[&["run", "--show-prompt", "-q"], more].concat(), input);
    let expected = "<|im_start|>user\nHello\nWorld<|im_end|>\n<|im_start|>assistant\n\n";
    for text in ["Hello\nWorld", "Hello\nWorld\n", "Hello\r\nWorld\r\n", "\u{feff}Hello\nWorld\n"] {
        assert_eq!(prompt(&["-p", "-"], text), expected, "{text:?}");
        std::fs::write(folder.path().join("p.txt"), text).unwrap();
        assert_eq!(prompt(&["-f", "p.txt"], ""), expected, "{text:?}");
    }
    let joined = expected.replace("World", "World\n\nAnd?");
    assert_eq!(prompt(&["And?"], "Hello\nWorld\n"), joined);
    assert_eq!(prompt(&["-f", "p.txt", "-p", "And?"], ""), joined);
    assert_eq!(prompt(&["Hello\nWorld"], " \n"), expected);
    let shown: Value = serde_json::from_str(&prompt(&["Hello\nWorld", "--json"], "")).unwrap();
    assert_eq!(
        (&shown["prompt"], shown["tokens"].as_array().unwrap().len()),
        (&json!(expected.trim_end_matches('\n').to_owned() + "\n"), 30)
    );
    assert_eq!(prompt(&["<|im_end|>", "--raw"], ""), "<|im_end|>\n");
}

#[test]
fn templates_can_be_chosen() {
    let folder = place(Script::saying_ok("chatml"));
    let show = ["run", "--show-prompt", "-q", "-p", "Who?"];
    let chatml = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n\n";
    assert_eq!(good(&folder, &show, ""), chatml);
    let go = "{{ if .System }}<|im_start|>{{ .System }}<|im_end|>{{ end }}{{ .Prompt }}";
    Script::saying_ok(go).write(&folder.path().join("m.gguf"));
    refused(&folder, &["run", "-p", "Who?", "-q"], &["Go", "--chat-template", "--raw"]);
    assert_eq!(good(&folder, &[&show[..], &["--raw"]].concat(), ""), "Who?\n");
    assert_eq!(good(&folder, &[&show[..], &["--chat-template", "chatml"]].concat(), ""), chatml);
    std::fs::write(folder.path().join("t.jinja"), "[{{ messages[0].content }}|{{ mood }}|{{ n + 1 }}]")
        .unwrap();
    let own = ["--chat-template", "t.jinja", "--template-var", "mood=good", "--template-var", "n=1"];
    assert_eq!(good(&folder, &[&show[..], &own].concat(), ""), "[Who?|good|2]\n");
    Script::saying_ok("hello").write(&folder.path().join("m.gguf"));
    refused(&folder, &["run", "-p", "Who?", "-q"], &["leaves out what you say"]);
    refused(&folder, &["run", "-p", "Who?", "-q", "--chat-template", "absent"], &["absent", "llama3"]);
    let thinking = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";
    Script::saying_ok(thinking).write(&folder.path().join("m.gguf"));
    assert_eq!(good(&folder, &[&show[..], &["--think", "off"]].concat(), ""), "Who?<think></think>\n");
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let folder = place(Script::saying_ok(CHATML));
    let run = ["run", "-p", "x", "-q", "--temp", "0"];
    assert_eq!(
        good(&folder, &[&run[..], &["-n", "3", "--seed", "-1", "--presence-penalty", "-0.5"]].concat(), ""),
        "oko\n"
    );
    let unlimited = good(&folder, &[&run[..], &["-n", "-1", "--context", "30"]].concat(), "");
    assert!(unlimited.len() > 10, "{unlimited}");
    refused(&folder, &[&run[..], &["--experts-used", "2"]].concat(), &["no experts", "--experts-used"]);
    refused(&folder, &[&run[..], &["--logit-bias", "300=1"]].concat(), &["token 300", "258"]);
    refused(&folder, &["run", "-p", "x", "-q", "--temp", "-1"], &["temperature"]);
    let memory = say(&folder, &["run", "-p", "x", "-n", "1", "-m", "1M"], "");
    assert!(stderr(&memory).contains("too little for what every token needs"), "{}", stderr(&memory));
    assert!(stderr(&memory).contains(" 1 generated"), "{}", stderr(&memory));
    Script { is_broken: true, ..Script::saying_ok(CHATML) }.write(&folder.path().join("m.gguf"));
    std::fs::write(folder.path().join("t.txt"), "some text ".repeat(20)).unwrap();
    refused(&folder, &["perplexity", "--text", "t.txt", "--context", "32", "-q"], &["NaN"]);
}
