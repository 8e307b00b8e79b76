//! The command from outside: arguments, exit statuses, what goes to stdout and what to stderr, and JSON's keys.
//!
//! All tests run offline on a tiny model of their own. A person at a terminal is in `chat_terminal.rs`.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{moewe, stderr, stdout};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::Tiny;

/// A folder with a model, and commands that see no other models.
struct Place {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new(tiny: Tiny) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        tiny.write(&model);
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        moewe(self.folder.path())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command on the model that must succeed.
    fn good(&self, arguments: &[&str]) -> String {
        let (name, rest) = arguments.split_first().unwrap();
        let output = self.command().arg(name).arg(&self.model).args(rest).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.good(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text}"))
    }

    fn fed(&self, arguments: &[&str], input: &str) -> Output {
        command::fed(self.command().arg(arguments[0]).arg(&self.model).args(&arguments[1..]), input)
    }
}

fn assert_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some_and(|value| !value.is_null()), "no {key} in {value}");
    }
}

#[test]
fn help_and_wrong_usage() {
    let place = Place::new(Tiny::default());
    let help = place.run(&["--help"]);
    assert!(help.status.success());
    let commands = ["run", "chat", "list", "convert", "inspect", "tokenize", "logits", "perplexity", "bench"];
    for command in commands {
        assert!(stdout(&help).contains(&format!("\n  {command} ")), "{command} is not in the help");
        assert!(place.run(&[command, "--help"]).status.success(), "{command}");
    }
    assert!(!stdout(&help).contains("completions"), "hidden commands show");
    for wrong in [&[][..], &["fly"], &["run", "--warmth", "3"], &["bench", "-r", "0"]] {
        let output = place.run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn an_unknown_model_names_three_ways_to_get_one() {
    let place = Place::new(Tiny::default());
    for arguments in [&["run", "absent", "--prompt", "x"][..], &["chat", "absent"], &["inspect", "absent"]] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = stderr(&output);
        for part in ["1. ", "2. ", "3. ", "moewe convert", "MOEWE_MODELS"] {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }
}

#[test]
fn models_have_names() {
    let place = Place::new(Tiny::default());
    let folders = std::env::join_paths([place.path("absent"), place.folder.path().to_owned()]).unwrap();
    let run = |arguments: &[&str]| {
        let output = place.command().env("MOEWE_MODELS", &folders).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let listed: Value = serde_json::from_str(&run(&["list", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "moewe-mini");
    assert_eq!(listed[1]["name"], "tiny");
    assert_keys(&listed[1], &["architecture", "format", "parameters", "bytes", "path"]);
    let is_listed = |line: &str| line.split_whitespace().take(2).eq(["tiny", "llama"]);
    assert!(run(&["list"]).lines().any(is_listed));
    assert!(run(&["inspect", "tiny"]).contains("llama with"));
    // Without a name it is the model in the program.
    assert!(run(&["inspect"]).contains("bailingmoe2 with"));
    let answer = run(&["run", "--raw", "--prompt", "Es war einmal", "-n", "8", "--temp", "0", "-q"]);
    assert!(!answer.trim().is_empty());
    std::fs::create_dir_all(place.path(".local/share/moewe/models")).unwrap();
    std::fs::copy(&place.model, place.path(".local/share/moewe/models/other.gguf")).unwrap();
    assert_eq!(place.run(&["inspect", "other"]).status.code(), Some(0));
}

/// One line that names the file, and status 1.
fn assert_refused(place: &Place, arguments: &[&str], file: &Path) {
    let output = place.run(arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    assert!(message.contains(&*file.to_string_lossy()), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn garbage_gets_one_clear_line() {
    let place = Place::new(Tiny::default());
    let model = std::fs::read(&place.model).unwrap();
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases: [(&str, &[u8]); 4] =
        [("noise.gguf", &garbage), ("empty.gguf", &[]), ("cut.gguf", &model[..3000]), ("head.gguf", b"GGUF")];
    for (name, bytes) in cases {
        let path = place.path(name);
        std::fs::write(&path, bytes).unwrap();
        let file = path.to_str().unwrap();
        for arguments in [
            &["inspect", file][..],
            &["run", file, "--prompt", "x"],
            &["chat", file],
            &["tokenize", file, "x"],
            &["bench", file],
            &["logits", file, "--tokens", "1", "-o", "logits"],
        ] {
            assert_refused(&place, arguments, &path);
        }
    }
    assert_refused(&place, &["inspect", place.folder.path().to_str().unwrap()], place.folder.path());
    assert!(!place.path("logits").exists());
}

#[test]
fn inspect_tells_what_a_file_says() {
    let place = Place::new(Tiny::default());
    let report = place.json(&["inspect", "--json"]);
    assert_keys(
        &report,
        &["metadata", "tensors", "formats", "bits_per_weight", "parameters", "architecture"],
    );
    assert_eq!(report["bits_per_weight"], 32.0);
    assert_eq!(report["metadata"]["llama.expert_count"], 4);
    assert_eq!(report["metadata"]["llama.attention.layer_norm_rms_epsilon"], 1e-5);
    assert_eq!(place.good(&["inspect", "--key", "general.name"]), "Tiny\n");
    let text = place.good(&["inspect"]);
    for part in ["259 strings", "blk.1.ffn_up_exps.weight", "32 x 64 x 4", "32.000"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn tokens_there_and_back() {
    let place = Place::new(Tiny::default());
    assert_eq!(place.good(&["tokenize", "ab<|im_end|>", "--special", "--ids"]), "97,98,258\n");
    assert_eq!(place.good(&["tokenize", "--decode", "104,195,164"]), "hä\n");
    let plain = place.json(&["tokenize", "<|im_end|>", "--json"]);
    assert_eq!(plain["tokens"].as_array().unwrap().len(), 10);
    assert_eq!(stdout(&place.fed(&["tokenize", "--ids", "-"], "é")), "195,169\n");
    let outside = place.run(&["tokenize", "tiny.gguf", "--decode", "999"]);
    assert!(stderr(&outside).contains("outside the vocabulary of 259"));
}

#[test]
fn run_gives_the_continuation_and_nothing_else() {
    let place = Place::new(Tiny::default());
    let raw = ["run", "--raw", "--prompt", "once", "-n", "20", "--seed", "7"];
    let output = place.command().arg(raw[0]).arg(&place.model).args(&raw[1..]).output().unwrap();
    assert_eq!(output.stdout.len(), 20, "{}", stdout(&output));
    assert!(stderr(&output).contains("20 generated"), "{}", stderr(&output));
    let again = place.good(&["run", "--raw", "--prompt", "once", "-n", "20", "--seed", "7", "-t", "1"]);
    assert_eq!(again, stdout(&output), "the same seed gives the same text");
    let other = place.good(&["run", "--raw", "--prompt", "once", "-n", "20", "--seed", "8"]);
    assert_ne!(other, again, "another seed gives another text");
    let fed = place.fed(&["run", "--raw", "-", "-n", "20", "--seed", "7"], "once\n");
    assert_eq!(stdout(&fed), again, "stdin is the same prompt");
    let quiet = place.fed(&["run", "-q", "--raw", "-p", "once", "-n", "3"], "");
    assert!(quiet.stderr.is_empty(), "{}", stderr(&quiet));
    let empty = place.run(&["run", "tiny.gguf"]);
    assert!(
        empty.status.code() == Some(1) && stderr(&empty).contains("the prompt is empty"),
        "{}",
        stderr(&empty)
    );
    // Without --raw the chat template stands around the prompt.
    let chatted = place.json(&["run", "once", "-n", "2", "--json"]);
    assert_eq!(chatted["prompt_tokens"], 1 + 5 + 4 + 1 + 1 + 1 + 10);
}

#[test]
fn greedy_text_is_the_same_on_every_way_of_computing_it() {
    let place = Place::new(Tiny::default());
    let greedy = |more: &[&str]| {
        let arguments = ["run", "--raw", "--prompt", "the", "-n", "24", "--temp", "0", "--cache-type", "f32"];
        place.good(&[&arguments[..], more].concat())
    };
    let expected = greedy(&["-t", "2"]);
    for more in [&["-t", "1"][..], &["--isa", "portable"], &["--plain"], &["--batch", "1"], &["--top-k", "3"]]
    {
        assert_eq!(greedy(more), expected, "{more:?}");
    }
    assert!(stderr(&place.run(&["run", "tiny.gguf", "-p", "x", "--isa", "abacus"])).contains("abacus"));
    assert!(stderr(&place.run(&["run", "tiny.gguf", "-p", "x", "--cache-type", "q4_0"])).contains("q8_0"));
    assert!(stderr(&place.run(&["run", "tiny.gguf", "-p", "x", "--top-p", "0"])).contains("top-p"));
}

#[test]
fn endings_of_an_answer() {
    let place = Place::new(Tiny { ends: true, ..Tiny::default() });
    let ended = place.json(&["run", "hello", "--json", "--temp", "0"]);
    assert_eq!((&ended["ending"], &ended["tokens"]), (&"end of text".into(), &0.into()));
    let place = Place::new(Tiny::default());
    let limited = place.json(&["run", "hello", "--json", "-n", "0"]);
    assert_eq!((&limited["ending"], &limited["tokens"]), (&"limit".into(), &0.into()));
    let full = place.json(&["run", "--raw", "hello", "--json", "--context", "16"]);
    assert_eq!((&full["ending"], &full["tokens"]), (&"context full".into(), &12.into()));
    assert_eq!(full["text"].as_str().unwrap().len(), 12);
    let long = place.run(&["run", "tiny.gguf", "--raw", "-p", "hello", "--context", "3"]);
    assert_eq!(long.status.code(), Some(1));
    assert!(stderr(&long).contains("5 tokens do not fit"), "{}", stderr(&long));
}

#[test]
fn figures_have_their_keys() {
    let place = Place::new(Tiny::default());
    let speeds = ["prefill_tokens_per_second", "decode_tokens_per_second", "load_ms", "peak_memory_bytes"];
    let run = place.json(&["run", "once", "-n", "4", "--json", "--seed", "3"]);
    assert_keys(&run, &[&speeds[..], &["text", "tokens", "seed", "ending"]].concat());
    assert_eq!((&run["seed"], &run["tokens"]), (&3.into(), &4.into()));
    let bench = place.json(&["bench", "-p", "40", "-n", "8", "-r", "2", "-t", "1", "--json"]);
    assert_keys(&bench, &[&speeds[..], &["bytes_per_token", "threads", "isa"]].concat());
    assert_eq!(bench["threads"], 1);
    assert!(place.good(&["bench", "-p", "8", "-n", "2", "-r", "1"]).contains("decode tokens per second"));
    let load = place.json(&["bench", "--load", "--json"]);
    assert_keys(&load, &["open_ms", "tokenizer_ms", "bind_ms", "load_ms", "peak_memory_bytes"]);
    std::fs::write(place.path("text"), "the quick brown fox ".repeat(20)).unwrap();
    let measured = place.json(&["perplexity", "--text", "text", "--context", "64", "--json"]);
    let keys = ["perplexity", "bits_per_byte", "tokens", "load_ms", "peak_memory_bytes"];
    assert_keys(&measured, &keys);
    // Every token is a byte here: six chunks, of each the second half but for the last token.
    assert_eq!(measured["tokens"], 6 * 31);
    let (perplexity, bits) =
        (measured["perplexity"].as_f64().unwrap(), measured["bits_per_byte"].as_f64().unwrap());
    assert!((perplexity.log2() - bits).abs() < 1e-9, "{perplexity} {bits}");
    let short = place.run(&["perplexity", "tiny.gguf", "--text", "text"]);
    assert!(stderr(&short).contains("400 tokens"), "{}", stderr(&short));
}

#[test]
fn logits_are_a_safetensors_file() {
    let place = Place::new(Tiny::default());
    place.good(&["logits", "--tokens", "5,9,11", "-o", "logits.safetensors"]);
    let bytes = std::fs::read(place.path("logits.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[3, 259][..]));
    assert!(logits.data().iter().any(|&byte| byte != 0));
    place.good(&["logits", "--text", "\u{5}\t\u{b}", "-o", "again.safetensors", "--plain"]);
    let again = std::fs::read(place.path("again.safetensors")).unwrap();
    assert_eq!(bytes.len(), again.len());
    let outside = place.run(&["logits", "tiny.gguf", "--tokens", "5,259", "-o", "absent"]);
    assert_eq!(outside.status.code(), Some(1));
    assert!(stderr(&outside).contains("token 259 is outside the vocabulary of 259"));
    assert!(!place.path("absent").exists());
}

#[test]
fn a_model_without_a_tokenizer_takes_and_gives_ids() {
    let place = Place::new(Tiny { reads: false, chats: false, ..Tiny::default() });
    let ids = place.good(&["run", "--tokens", "5,9,11", "-n", "4", "--temp", "0"]);
    assert_eq!(ids.trim().split(',').filter(|id| id.parse::<u32>().is_ok()).count(), 4, "{ids}");
    let text = place.run(&["run", "tiny.gguf", "--prompt", "x"]);
    assert!(stderr(&text).contains("no tokenizer"), "{}", stderr(&text));
    place.good(&["bench", "-p", "8", "-n", "2", "-r", "1", "--json"]);
}

/// The numbers before and after "tokens:" of all `/stats` in what a chat said.
fn stats(text: &str) -> Vec<[usize; 3]> {
    let lines = text.lines().filter(|line| line.starts_with("prompt "));
    let numbers = |line: &str| {
        let words = line.split_whitespace().filter_map(|word| word.parse().ok());
        words.collect::<Vec<usize>>()[..3].try_into().unwrap()
    };
    lines.map(numbers).collect()
}

#[test]
fn a_piped_chat_computes_only_what_is_new() {
    let place = Place::new(Tiny::default());
    let chat =
        place.fed(&["chat", "-n", "10", "--seed", "1"], "hello\n/stats\nworld\n/stats\n/undo\n/stats\n");
    assert!(chat.status.success(), "{}", stderr(&chat));
    assert_eq!(stdout(&chat).lines().count(), 2, "two answers: {}", stdout(&chat));
    let [first, second, _] = stats(&stderr(&chat))[..] else { panic!("{}", stderr(&chat)) };
    // <|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n
    let turn = 1 + 5 + 5 + 2 + 1 + 10;
    assert_eq!(first, [turn, 0, turn]);
    // Of the first answer all but the last token was computed while it was generated.
    assert_eq!(second, [2 * turn + 10 + 2, turn + 9, turn + 3]);
}

#[test]
fn a_long_chat_forgets_its_oldest_turns() {
    let place = Place::new(Tiny::default());
    let input = "one\ntwo\nthree\nfour\n/stats\n/save all.json\n";
    let chat = place.fed(&["chat", "-n", "20", "--context", "128", "--system", "Be kind."], input);
    let said = stderr(&chat);
    assert!(chat.status.success(), "{said}");
    assert!(said.contains("the oldest turn left the model's view"), "{said}");
    assert!(said.contains("no longer in the model's view"), "{said}");
    let saved: Value = serde_json::from_slice(&std::fs::read(place.path("all.json")).unwrap()).unwrap();
    assert_eq!(saved["messages"].as_array().unwrap().len(), 1 + 4 * 2, "a saved chat is whole");
    assert_eq!(saved["messages"][0]["content"], "Be kind.");
    // An answer longer than the context goes on where turns can leave, and ends where none can.
    let endless = place.fed(&["chat", "--context", "128"], "one\ntwo\n");
    assert!(stderr(&endless).contains("the context is full; --context"), "{}", stderr(&endless));
    // An answer that meets the end of the context sends the first turn away and goes on.
    let long = place.fed(&["chat", "--context", "128", "-n", "10"], "one\n/set n 100\ntwo\n");
    assert!(stderr(&long).contains("the oldest turn left"), "{}", stderr(&long));
    assert!(stderr(&long).contains("100 tokens"), "{}", stderr(&long));
    assert_eq!(stdout(&long).lines().last().unwrap().len(), 100);
    let message = "x".repeat(200);
    let too_long = place.fed(&["chat", "--context", "128", "-n", "5"], &format!("{message}\nhi\n"));
    assert!(stderr(&too_long).contains("do not fit the context of 128"), "{}", stderr(&too_long));
    assert_eq!(stdout(&too_long).lines().count(), 1, "the chat goes on after a message too long");
}

#[test]
fn chats_can_be_saved_changed_and_loaded() {
    let place = Place::new(Tiny::default());
    let input = "/set temp 0 n 6\nhello\n/retry\n/save a.json\n/reset\n/load a.json\n/stats\n\"\"\"two\nlines\"\"\"\n/save b.json\n";
    let chat = place.fed(&["chat"], input);
    assert!(chat.status.success(), "{}", stderr(&chat));
    let answers: Vec<_> = stdout(&chat).lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0], answers[1], "temperature 0 has one answer");
    let saved: Value = serde_json::from_slice(&std::fs::read(place.path("b.json")).unwrap()).unwrap();
    assert_eq!(saved["messages"][2]["content"], "two\nlines");
    let wrong = place.fed(&["chat"], "/fly\n/set temp hot\n/load absent.json\n/undo\n");
    assert_eq!((wrong.status.code(), stdout(&wrong).as_str()), (Some(1), ""));
    for part in ["no command is called /fly", "hot", "absent.json: cannot read", "nothing to take back"] {
        assert!(stderr(&wrong).contains(part), "{part}: {}", stderr(&wrong));
    }
}

#[test]
fn a_base_model_continues() {
    let place = Place::new(Tiny { chats: false, ..Tiny::default() });
    let chat = place.fed(&["chat", "-n", "5"], "once\n\n/stats\n/system x\n");
    let said = stderr(&chat);
    assert!(said.contains("continues your text"), "{said}");
    assert!(said.contains("no system prompt"), "{said}");
    assert_eq!(stats(&said), [[9, 8, 1]], "an empty message goes on with the text");
}

#[test]
fn a_closed_pipe_is_quiet() {
    let place = Place::new(Tiny::default());
    for arguments in [&["inspect", "--json"][..], &["run", "hello", "-n", "200", "-q", "--seed", "1"]] {
        let mut command = place.command();
        command.arg(arguments[0]).arg(&place.model).args(&arguments[1..]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
        assert!(!output.status.success());
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_run_cleanly() {
    use std::io::Read;
    let place = Place::new(Tiny { context_length: 1 << 20, ..Tiny::default() });
    let mut command = place.command();
    command.arg("run").arg(&place.model).args(["hello", "--context", "1000000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stdout.ends_with(b"\n") && stderr(&output).contains("stopped"), "{}", stderr(&output));
}

#[test]
fn converting_a_checkpoint() {
    let place = Place::new(Tiny::default());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mixtral");
    let source = golden.to_str().unwrap();
    let convert = |more: &[&str]| place.run(&[&["convert", source, "-o", "m.gguf"], more].concat());
    let report = convert(&["--bits", "32", "--json"]);
    assert!(report.status.success(), "{}", stderr(&report));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let bits = report["report"]["bits_per_weight"].as_f64().unwrap();
    assert!((32.0..32.1).contains(&bits), "{bits}");
    let again = convert(&["--bits", "32"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("m.gguf exists; --force"), "{}", stderr(&again));
    assert!(convert(&["--format", "f16", "--force"]).status.success());
    assert!(stderr(&convert(&["--format", "q9"])).contains("no format is called q9"));
    assert!(place.run(&["logits", "m.gguf", "--tokens", "1,2", "-o", "l"]).status.success());
    let checkpoint = place.run(&["run", source, "--prompt", "x"]);
    assert!(stderr(&checkpoint).contains("convert it first"), "{}", stderr(&checkpoint));
    let absent = place.run(&["convert", "absent"]);
    assert!(absent.status.code() == Some(1) && stderr(&absent).contains("absent"), "{}", stderr(&absent));
}

#[test]
fn levels_are_planned_written_and_compared() {
    let place = Place::new(Tiny::default());
    std::fs::write(place.path("text"), "once upon a time ".repeat(60)).unwrap();
    let plan = place.good(&["convert", "--bits", "4.5", "--tensor", "attn_v=Q8_0", "--dry-run", "-o", "no"]);
    assert!(
        plan.lines().any(|line| line.starts_with("blk.0.attn_v.weight") && line.contains("Q8_0")),
        "{plan}"
    );
    assert!(!place.path("no").exists());
    place.good(&["convert", "--format", "Q4_0", "-o", "four.gguf"]);
    let arguments = ["compare", "tiny.gguf", "four.gguf", "--text", "text", "-c", "64", "--json"];
    let compared = place.json(&[&arguments[..], &["--svg", "plot.svg"]].concat());
    let kl = |i: usize| compared[i]["figures"]["kl_mean"].as_f64().unwrap();
    assert!(kl(0) == 0.0 && kl(1) == 0.0 && kl(2) > 0.0, "{compared}");
    assert!(std::fs::read_to_string(place.path("plot.svg")).unwrap().contains("four.gguf"));
    let squeezed = place.run(&["convert", "tiny.gguf", "-o", "two.gguf", "--bits", "2"]);
    assert!(squeezed.status.success() && stderr(&squeezed).contains("out of reach"), "rows of 64");
    for (wrong, part) in
        [("--bits=9", "levels are 2 to 8"), ("--tensor=attn_v", "a pattern, ="), ("--tensor=a=Q9", "Q9")]
    {
        let refused = place.run(&["convert", "tiny.gguf", "-o", "x.gguf", wrong]);
        assert!(stderr(&refused).contains(part), "{wrong}: {}", stderr(&refused));
    }
}

#[test]
fn zeros_of_padding_are_weights_nowhere() {
    let place = Place::new(Tiny::default());
    std::fs::write(place.path("text"), "once upon a time ".repeat(10)).unwrap();
    let parse = |output: Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let arguments = ["convert", "--format", "Q8_0", "--pad", "always", "-o", "wide.gguf", "--json"];
    let converted = &place.json(&arguments)["report"];
    let compared = &place.json(&["compare", "wide.gguf", "--text", "text", "-c", "64", "--json"])[1];
    let inspected = parse(place.run(&["inspect", "wide.gguf", "--json"]));
    assert!(inspected["padding"].as_u64().unwrap() > 0, "{inspected}");
    for found in [compared, &inspected] {
        assert_eq!(found["bits_per_weight"], converted["bits_per_weight"]);
    }
    let listed = parse(place.command().env("MOEWE_MODELS", ".").args(["list", "--json"]).output().unwrap());
    let listed = listed.as_array().unwrap().iter().find(|model| model["name"] == "wide").unwrap();
    assert_eq!(listed["parameters"], inspected["parameters"]);
}

#[test]
fn packagers_get_completions_and_a_manual() {
    let place = Place::new(Tiny::default());
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = stdout(&place.run(&["completions", shell]));
        assert!(script.contains("perplexity") && script.contains("top-k"), "{shell}");
    }
    assert!(place.run(&["man", "manual"]).status.success());
    for page in ["moewe.1", "moewe-run.1", "moewe-chat.1"] {
        assert!(place.path("manual").join(page).exists(), "{page}");
    }
}
