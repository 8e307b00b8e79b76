//! What a person sees of a conversation: thoughts apart from answers, templates, prompts from files and pipes.
//!
//! Models with a script say the same every time; see `support/script.rs`.

#[path = "support/command.rs"]
mod command;
#[path = "support/script.rs"]
mod script;

use command::{fed, moewe, stderr, stdout};
use moewe_engine::dialogue::{Dialogue, Offer, Piece, StopScanner, Tool};
use moewe_engine::generate::{Answer, Ending, Guide, Guided};
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Options};
use moewe_engine::tokenizer::{ChatTemplate, Special};
use script::{HARMONY, Script};
use serde_json::{Value, json};
use std::process::Output;
use std::sync::Arc;
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
    let stop = ["--stop", "llo", "--json"];
    for said in [
        good(&folder, &[&["run", "-p", "Hi", "--temp", "0"], &stop[..]].concat(), ""),
        good(&folder, &[&greedy[..], &stop].concat(), "Hi\n"),
    ] {
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["text"], &said["ending"]), (&json!("He"), &json!("stop string")));
    }
    let cut = say(&folder, &["run", "-p", "Hi", "--temp", "0", "-n", "5", "-q"], "");
    assert!(stderr(&cut).contains("all of it was thought"), "{}", stderr(&cut));
}

/// A stop string ends an answer like any other ending, after the text before it; what was held back comes at the end.
#[test]
fn an_answer_ends_where_its_reader_says() {
    let folder = place(Script::saying_ok(CHATML));
    let engine = Engine::open(folder.path().join("m.gguf"), Options::default()).unwrap();
    let prompt = engine.tokenizer().unwrap().encode("?", Special::Plain).unwrap();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    for (stop, limit, shown, rest, ending) in [
        ("ko", 9, &["o", "", ""][..], "", Ending::StopString),
        ("kok", 9, &["o", "", "", ""], "", Ending::StopString),
        ("kok", 3, &["o", "", ""], "ko", Ending::Limit),
        ("", 2, &["o", "k"], "", Ending::Limit),
    ] {
        let mut sampler = Sampler::new(sampling.clone(), engine.config().vocab_size).unwrap();
        let mut session = engine.session().unwrap();
        let reader = Dialogue::plain().reader("", StopScanner::new([stop.to_owned()]), None);
        let mut answer = Answer::start(&mut session, &mut sampler, &prompt, Some(limit), reader).unwrap();
        let text = |pieces: Vec<Piece>| -> String { pieces.iter().map(Piece::text).collect() };
        let mut found = vec![];
        while let Some(pieces) = answer.next_pieces().unwrap() {
            found.push(text(pieces));
        }
        assert_eq!((found.join("|"), text(answer.flush())), (shown.join("|"), rest.to_owned()), "{stop}");
        assert_eq!((answer.ending(), answer.tokens().len()), (Some(ending), shown.len()), "{stop}");
        assert_eq!(answer.figures().generated, shown.len());
        let reader = answer.into_guided().reader;
        let met = (ending == Ending::StopString).then_some(stop);
        assert_eq!((reader.stop(), reader.answer()), (met, &*(shown.concat() + rest)), "{stop}");
    }
}

/// Calls that have to be are made, and those that the model makes are valid, whatever it would rather say.
#[test]
fn grammars_rule_calls() {
    const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\
        {% for c in m.tool_calls or [] %}<call>{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}</call>{% endfor %}\
        {{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let script = Script {
        template: TEMPLATE,
        control: &["<|im_start|>", "<|im_end|>"],
        words: &["Hm. ", "<call>", "{\"name\": \"f\", \"arg", "uments\": {\"a\": ", "\"yes\"}}", "</call>"],
        follows: &[
            ("?", "Hm. "),
            ("Hm. ", "<call>"),
            ("<call>", "{\"name\": \"f\", \"arg"),
            ("{\"name\": \"f\", \"arg", "uments\": {\"a\": "),
            ("uments\": {\"a\": ", "\"yes\"}}"),
            ("\"yes\"}}", "</call>"),
        ],
        is_broken: false,
    };
    let folder = place(script);
    let engine = Engine::open(folder.path().join("m.gguf"), Options::default()).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let template = ChatTemplate::from_metadata(engine.metadata(), tokenizer).unwrap().unwrap();
    let dialogue = Dialogue::of(&template);
    assert_eq!(dialogue.calls(), Some("object"));
    let parameters = json!({ "type": "object", "properties": { "a": { "type": "boolean" } }, "required": ["a"], "additionalProperties": false });
    let offer = Arc::new(Offer { tools: vec![Tool { name: "f".into(), parameters }], several: true });
    let prompt = tokenizer.encode("?", Special::Plain).unwrap();
    let said = |constraint: Option<Constraint>| {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, engine.config().vocab_size).unwrap();
        let mut session = engine.session().unwrap();
        let reader = dialogue.reader("", StopScanner::default(), Some(offer.clone()));
        let guided = Guided { reader, guide: constraint.map(Guide::new) };
        let mut answer = Answer::start(&mut session, &mut sampler, &prompt, Some(99), guided).unwrap();
        let mut pieces = vec![];
        while let Some(more) = answer.next_pieces().unwrap() {
            pieces.extend(more);
        }
        pieces.extend(answer.flush());
        assert_eq!(answer.ending(), Some(Ending::EndOfText));
        let of = |wanted: fn(&Piece) -> bool| -> String {
            pieces.iter().filter(|piece| wanted(piece)).map(Piece::text).collect()
        };
        let arguments = of(|piece| matches!(piece, Piece::Arguments(_)));
        (
            of(|piece| matches!(piece, Piece::Answer(_))),
            of(|piece| matches!(piece, Piece::Call(_))),
            arguments,
        )
    };
    let said = |grammar: Option<String>, begins: Begins| {
        let vocabulary = engine.vocabulary().unwrap();
        let matcher = grammar.map(|text| vocabulary.compile(&Grammar::Lark(text)).unwrap());
        let (words, name, arguments) = said(matcher.map(|matcher| Constraint { matcher, begins }));
        (words.trim().to_owned(), name, arguments)
    };
    let expected = |words: &str, arguments: &str| (words.to_owned(), "f".to_owned(), arguments.to_owned());
    assert_eq!(said(None, Begins::AtOnce), expected("Hm.", "{\"a\": \"yes\"}"));
    let one = dialogue.grammar_of_a_call(&offer, tokenizer);
    assert_eq!(said(one, Begins::WithEachCall), expected("Hm.", "{\"a\": false}"));
    let forced = dialogue.grammar_of_calls(&Offer { several: false, ..(*offer).clone() }, tokenizer);
    assert_eq!(said(forced, Begins::AfterThought), expected("", "{\"a\": false}"));
}

/// Where the context runs full in the midst of an answer, what follows is read as the same answer.
#[test]
fn a_stop_string_reaches_across_the_parts_of_an_answer() {
    let folder = place(Script::saying_ok(CHATML));
    let stop = "ok".repeat(25);
    let chat = ["chat", "--json", "-q", "--temp", "0", "-n", "60", "--context", "80", "--stop", &stop];
    let output = say(&folder, &chat, "Hi\nHo\n");
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", stderr(&output));
    for line in lines {
        assert_eq!((&line["ending"], &line["tokens"]), (&json!("stop string"), &json!(50)), "{line}");
        assert_eq!(line["text"], "");
    }
    assert!(stderr(&output).contains("the oldest turn left"), "{}", stderr(&output));
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

/// With a prompt given, stdin adds to it where it is a file or a pipe; a silent pipe is waited for, but not without a word.
#[cfg(unix)]
#[test]
fn a_prompt_waits_for_nobody_without_a_word() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let folder = place(Script::saying_ok(CHATML));
    let prompt = |text: &str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n\n");
    let arguments = ["run", "m.gguf", "--show-prompt", "-q", "And?"];
    let run = || {
        let mut command = moewe(folder.path());
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    std::fs::write(folder.path().join("p.txt"), "Hello\n").unwrap();
    for (file, text) in [("p.txt", "Hello\n\nAnd?"), ("/dev/null", "And?")] {
        let output = run().stdin(std::fs::File::open(folder.path().join(file)).unwrap()).output().unwrap();
        assert_eq!((stdout(&output), stderr(&output)), (prompt(text), String::new()), "{file}");
    }
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$@\" <&-", "sh"]).arg(run().get_program()).args(arguments);
    let output = closed.current_dir(folder.path()).output().unwrap();
    assert_eq!((stdout(&output), stderr(&output)), (prompt("And?"), String::new()));
    for (written, text) in [("", "And?"), ("Hello", "Hello\n\nAnd?")] {
        let mut child = run().stdin(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "waiting for standard input (Ctrl-D or < /dev/null to go on without)\n");
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(written.as_bytes()).unwrap();
        drop(pipe);
        let output = child.wait_with_output().unwrap();
        assert_eq!(stdout(&output), prompt(text));
        assert_eq!(said.lines().count(), 0, "it is said once");
    }
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

#[test]
fn the_model_in_the_program_answers_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let mut command = moewe(folder.path());
        let output = fed(
            command.args(["chat", "--json", "-n", "60", "--seed", "1"]).args(arguments),
            "Wo ist der König?\nWarst du dabei?\n",
        );
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let (answers, notes) = said(&[]);
    assert_eq!(answers.lines().count(), 2);
    for answer in answers.lines() {
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer["ending"], "end of text", "{answer}");
        assert!(
            answer["text"].as_str().is_some_and(|text| !text.is_empty() && !text.contains("GAST")),
            "{answer}"
        );
    }
    assert!(!notes.contains("continues your text"), "{notes}");
    let (_, notes) = said(&["--base"]);
    assert!(notes.contains("continues your text"), "{notes}");
    let refused = moewe(folder.path()).args(["chat", "model.gguf", "--base"]).output().unwrap();
    assert!(!refused.status.success());
}
