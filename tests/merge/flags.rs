//! `moewe merge` from outside: the YAML or flags, what a plan says and writes, JSON, models by their names, gates from
//! another file, and what `moewe experts` then finds.

use crate::command::{moewe, names, stderr, stdout};
use crate::merging::{Dense, difference, golden, of_file};
use moewe_engine::gguf::Gguf;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A folder in which the command runs.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        moewe(self.0.path()).arg("merge").args(arguments).output().unwrap()
    }

    /// What it says on stdout and stderr when all is well.
    fn good(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        (stdout(&output), stderr(&output))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.good(&[arguments, &["--json"]].concat()).0;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
    }

    fn refused(&self, arguments: &[&str], status: i32, parts: &[&str]) {
        let before = names(self.0.path());
        let output = self.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: no {part:?} in {said}");
        }
        let is_line = said.starts_with("error: ") && said.lines().count() == 1;
        assert!(status != 1 || is_line || said.contains("Three ways to get one"), "{said}");
        assert_eq!(names(self.0.path()), before, "{arguments:?}");
    }

    fn gates(&self, name: &str) -> Vec<f32> {
        let gguf = Gguf::open(self.path(name)).unwrap();
        (0..3).flat_map(|layer| of_file(&gguf, &format!("blk.{layer}.ffn_gate_inp.weight"))).collect()
    }
}

fn case(path: &str) -> String {
    golden().join(path).to_str().unwrap().to_owned()
}

fn dense(name: &str) -> String {
    case(&format!("dense/{name}"))
}

#[test]
fn a_merge_says_what_it_made_and_where_its_routers_look() {
    let place = Place::new();
    let yaml = case("mixtral-hidden/merge.yaml");
    let (said, notes) = place.good(&[&yaml, "-o", "out.gguf", "--bits", "5"]);
    for part in [
        "out.gguf: llama, 33 tensors, 374.0 k parameters",
        "mixtral (llama models with no shared expert): 4 experts, 2 per token, 226.5 k of 374.0 k parameters active",
        "EXPERT  SOURCE",
        "../dense/llama-c",
        " find their own expert first, ",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(notes.is_empty() || notes.lines().all(|line| line.contains(": ")), "{notes}");
    let quiet = place.good(&[&yaml, "-o", "quiet", "-q"]);
    assert!(quiet.1.is_empty() && quiet.0.contains("quiet: mixtral, 60 tensors"), "{quiet:?}");
    let told = place.json(&[&yaml, "-o", "json.gguf", "--bits", "16"]);
    assert_eq!(told["path"], "json.gguf");
    let merge = &told["merge"];
    assert_eq!((&merge["family"], &merge["gates"]["mode"]), (&"mixtral".into(), &"hidden".into()));
    assert_eq!(merge["sources"][0]["parts"], serde_json::json!(["base", "expert 0"]));
    assert_eq!(merge["active"], 226_496);
    assert_eq!(merge["report"]["weights"], 373_952);
    assert_eq!(merge["loads"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(merge["loads"]["experts"].as_array().unwrap().len(), 4);
    for key in ["because", "memory", "gates"] {
        assert!(!merge[key].is_null(), "{key}");
    }
    assert_eq!(names(place.0.path()), ["json.gguf", "out.gguf", "quiet"]);
}

#[test]
fn a_plan_says_all_and_writes_nothing() {
    let place = Place::new();
    let yaml = case("mixtral-hidden/merge.yaml");
    for (out, first, rest) in [
        ("out.gguf", "blk.2.ffn_down_exps.weight  IQ4_NL", "out.gguf: llama, 33 tensors"),
        ("out", "model.layers.2.block_sparse_moe.experts.3.w2.weight  BF16", "out: mixtral, 60 tensors"),
    ] {
        let level = if out == "out" { &[][..] } else { &["--bits", "4"] };
        let (said, _) = place.good(&[&[yaml.as_str(), "-o", out, "--dry-run"], level].concat());
        for part in [
            "SOURCE               FOR             ARCHITECTURE  LAYERS  WIDTH  HIDDEN  TOKENS  FORMATS  PARAMETERS",
            "../dense/llama-base  base, expert 0  llama              3     64     128     320  BF16        152.0 k",
            "../dense/llama-c     expert 3        llama",
            first,
            rest,
            "mixtral (llama models with no shared expert): 4 experts, 2 per token, 226.5 k of 374.0 k parameters active",
            "memory: ",
            " beyond the files of the sources",
            "gates: mode hidden, from 171 tokens in 11 prompts and pieces of text; a dry run does not compute them",
        ] {
            assert!(said.contains(part), "{out}: no {part:?} in {said}");
        }
    }
    // Notes are part of it, and so is what a merge would be refused for.
    std::fs::write(
        place.path("notes.yaml"),
        format!(
            "base_model: {}\ngate_mode: random\narchitecture: Qwen\nexperts:\n- source_model: {}\n  positive_prompts: [x]\n- source_model: {}\nshared_experts:\n- source_model: {}\n",
            dense("llama-base"),
            dense("llama-a"),
            dense("llama-b"),
            dense("llama-c"),
        ),
    )
    .unwrap();
    let (said, notes) = place.good(&["notes.yaml", "-o", "out.gguf", "--dry-run"]);
    assert!(said.contains("qwen (llama models with a shared expert, as architecture: Qwen asks)"), "{said}");
    assert!(said.contains("shared expert  llama"), "{said}");
    for part in ["gate_mode random makes nothing of the prompts", "expert_weights_norm"] {
        assert!(notes.contains(part), "{notes}");
    }
    assert_eq!(names(place.0.path()), ["notes.yaml"]);
    std::fs::write(place.path("texts.yaml"), text_yaml("absent.txt")).unwrap();
    place.refused(&["texts.yaml", "-o", "out", "--dry-run"], 1, &["absent.txt: cannot read"]);
}

fn text_yaml(first: &str) -> String {
    let expert = |name: &str, text: &str| format!("- source_model: {}\n  texts: [{text}]\n", dense(name));
    let german = case("routers/german.txt");
    let experts = expert("llama-a", first) + &expert("llama-b", &german);
    format!("base_model: {}\ngate_mode: text\nexperts:\n{experts}", dense("llama-base"))
}

#[test]
fn flags_do_what_a_file_does() {
    let place = Place::new();
    let [base, a, b] = ["llama-base", "llama-a", "llama-b"].map(dense);
    let (code, german) = (case("routers/code.txt"), case("routers/german.txt"));
    let (code_of, german_of) = (format!("{a}={code}"), format!("{b}={german}"));
    place.good(&[
        "--base",
        &base,
        "--expert",
        &code_of,
        "--expert",
        &german_of,
        "-o",
        "flags.gguf",
        "--gate-tokens",
        "256",
    ]);
    std::fs::write(place.path("m.yaml"), text_yaml(&code)).unwrap();
    place.good(&["m.yaml", "-o", "file.gguf", "--gate-tokens", "256"]);
    assert_eq!(place.gates("flags.gguf"), place.gates("file.gguf"));
    let told = place.json(&[
        "--base",
        &base,
        "--expert",
        &a,
        "--expert",
        &b,
        "--experts-per-token",
        "1",
        "-o",
        "u.gguf",
    ]);
    assert_eq!(told["merge"]["gates"]["mode"], "uniform_random");
    assert!(told["merge"]["loads"].is_null());
    let most = place.gates("u.gguf").iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(most <= 0.125 && most > 0.1, "{most}");
    let uses = Gguf::open(place.path("u.gguf")).unwrap().metadata().u64("llama.expert_used_count").unwrap();
    assert_eq!(uses, Some(1));
    // The scale is a factor of the rows.
    place.good(&["m.yaml", "-o", "one.gguf", "--gate-tokens", "256", "--gate-scale", "1"]);
    place.good(&["m.yaml", "-o", "four.gguf", "--gate-tokens", "256", "--gate-scale", "4"]);
    let [one, four] = ["one.gguf", "four.gguf"].map(|name| place.gates(name));
    assert!(one.iter().zip(&four).all(|(one, four)| (4.0 * one - four).abs() < 1e-5));
    place.refused(
        &["--base", &base, "--expert", &code_of, "--expert", &b, "-o", "x.gguf"],
        1,
        &["some experts have texts and others none"],
    );
    place.refused(
        &["--base", &base, "--expert", &a, "--expert", &b, "--experts-per-token", "3", "-o", "x.gguf"],
        1,
        &["experts_per_token: 3 of 2 experts; say 1 to 2"],
    );
}

#[test]
fn gates_come_from_another_file_of_the_base() {
    let place = Place::new();
    let yaml = case("mixtral-hidden/merge.yaml");
    let options = moewe_convert::Options::with(moewe_convert::Recipe::by_name("Q8_0").unwrap());
    for name in ["llama-base", "qwen2-base", "tied-base"] {
        moewe_convert::convert(Path::new(&dense(name)), &place.path(&format!("{name}.gguf")), &options, &())
            .unwrap();
    }
    place.good(&[&yaml, "-o", "whole.gguf"]);
    place.good(&[&yaml, "-o", "eight.gguf", "--gates-from", "llama-base.gguf"]);
    let [whole, eight] = ["whole.gguf", "eight.gguf"].map(|name| place.gates(name));
    let found = difference(&whole, &eight);
    // Rows of length 1 have entries of an eighth.
    assert!(found > 0.0 && found < 0.01, "{found:e}");
    let refused = |name: &str, part: &str| {
        place.refused(&[&yaml, "-o", "x.gguf", "--gates-from", name], 1, &[part]);
    };
    refused(
        "qwen2-base.gguf",
        "it is of the architecture qwen2, not llama; name a file of the base with --gates-from",
    );
    refused("absent.gguf", "absent.gguf");
}

#[test]
fn models_have_names_and_paths_beside_the_file() {
    let place = Place::new();
    let folder = place.path("models");
    std::fs::create_dir(&folder).unwrap();
    let options = moewe_convert::Options::with(moewe_convert::Recipe::by_name("BF16").unwrap());
    for name in ["llama-base", "llama-a"] {
        moewe_convert::convert(Path::new(&dense(name)), &folder.join(format!("{name}.gguf")), &options, &())
            .unwrap();
    }
    std::fs::create_dir(place.path("deep")).unwrap();
    std::fs::rename(folder.join("llama-a.gguf"), place.path("deep/beside.gguf")).unwrap();
    let words = "base_model: llama-base\ngate_mode: random\nexperts:\n- source_model: llama-base\n- source_model: beside.gguf\n";
    std::fs::write(place.path("deep/m.yaml"), words).unwrap();
    let run = |arguments: &[&str]| {
        moewe(place.0.path()).env("MOEWE_MODELS", &folder).arg("merge").args(arguments).output().unwrap()
    };
    let output = run(&["deep/m.yaml", "-o", "out.gguf"]);
    assert!(output.status.success(), "{}", stderr(&output));
    // What the file says of itself has names and no paths.
    let gguf = Gguf::open(place.path("out.gguf")).unwrap();
    let told = gguf.metadata().str("moewe.merge").unwrap().unwrap();
    assert!(told.contains("source_model: beside.gguf") && !told.contains('/'), "{told}");
    let base = gguf.metadata().str("general.base_model.0.name").unwrap();
    assert_eq!(base, Some("llama-base"));
    assert_eq!(gguf.metadata().str("general.name").unwrap(), Some("out"));
    std::fs::write(place.path("deep/m.yaml"), words.replace("beside.gguf", "nothing")).unwrap();
    let output = run(&["deep/m.yaml", "-o", "x.gguf"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("nothing"), "{}", stderr(&output));
    std::fs::write(place.path("deep/m.yaml"), words.replace("beside.gguf", "moewe-mini")).unwrap();
    let output = run(&["deep/m.yaml", "-o", "x.gguf"]);
    assert!(stderr(&output).contains("a mixture already"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_told_from_what_fails() {
    let place = Place::new();
    let yaml = case("mixtral-random/merge.yaml");
    place.refused(&[], 2, &["--output", "<FILE>"]);
    place.refused(&[&yaml], 2, &["--output"]);
    place.refused(&[&yaml, "-o", "x", "--base", "a", "--expert", "b"], 2, &["cannot be used with"]);
    place.refused(&["--base", "a", "-o", "x"], 2, &["--expert"]);
    place.refused(&[&yaml, "-o", "x", "--gate-mode", "hidden"], 2, &["--gate-mode"]);
    place.refused(&[&yaml, "-o", "x", "--experts-per-token", "2"], 2, &["cannot be used with"]);
    place.refused(&["absent.yaml", "-o", "x"], 1, &["absent.yaml: cannot read"]);
    place.refused(&[&yaml, "-o", "x", "--gate-scale", "nan"], 1, &["--gate-scale NaN: say a number"]);
    // What is about the formats of a file is not ignored for a folder.
    for flags in [
        &["--bits", "4"][..],
        &["--format", "BF16"],
        &["--tensor", "ffn=Q8_0"],
        &["--force"],
        &["--pad", "always"],
    ] {
        let parts = [flags[0], "is about GGUF files", "dtype"];
        place.refused(&[&[yaml.as_str(), "-o", "x"], flags].concat(), 1, &parts);
    }
    std::fs::write(place.path("bad.yaml"), "base_model: a\ngate_mod: b\n").unwrap();
    place.refused(&["bad.yaml", "-o", "x"], 1, &["bad.yaml", "gate_mod", "gate_mode", "line 2"]);
    place.refused(&["--preset", "mixtral-4x7b"], 2, &["--dry-run"]);
    place.refused(&["--preset", "mixtral-4x7b", "--dry-run", "-o", "x"], 2, &["cannot be used with"]);
    place.refused(
        &["--preset", "mixtral", "--dry-run"],
        1,
        &["no preset is called \"mixtral\"; there are mixtral-mini, mixtral-4x7b, mixtral-8x7b"],
    );
}

#[test]
fn a_mixture_of_four_large_models_is_planned_without_any() {
    let place = Place::new();
    let told = place.json(&["--preset", "mixtral-4x7b", "--dry-run", "--format", "Q4_K_M"]);
    let merge = &told["merge"];
    assert_eq!(told["preset"], "mixtral-4x7b");
    assert_eq!(merge["report"]["weights"], 24_153_690_112u64);
    assert_eq!(merge["active"], 12_879_400_960u64);
    let bytes = merge["report"]["bytes"].as_u64().unwrap();
    assert!((14_500_000_000..14_700_000_000).contains(&bytes), "{bytes}");
    let (said, _) = place.good(&["--preset", "mixtral-4x7b", "--dry-run", "--format", "Q4_K_M"]);
    assert!(said.contains("blk.31.ffn_up_exps.weight    Q4_K"), "{said}");
    assert!(said.contains("mixtral: 24153690112 parameters, 12.9 B of them active"), "{said}");
    // All levels of a small one: each within its budget, each larger than the one before.
    let told = place.json(&["--preset", "mixtral-mini", "--dry-run"]);
    let levels = told["levels"].as_array().unwrap();
    let bits: Vec<f64> = levels.iter().map(|level| level["bits_per_weight"].as_f64().unwrap()).collect();
    assert_eq!(levels.len(), 8);
    assert!(bits.windows(2).all(|pair| pair[0] < pair[1]) && bits[2] <= 4.8 && bits[2] > 4.0, "{bits:?}");
    assert!(names(place.0.path()).is_empty());
}

/// An upcycled mixture has the streams of its base, on which the loads were checked; so `moewe experts` has to count the
/// same choices on the same prompts. Without a start token, which `moewe experts` puts before no text.
#[test]
fn experts_finds_the_loads_that_the_check_found() {
    let place = Place::new();
    let prompts = [
        &["def add(a, b): return a + b", "x = 3"][..],
        &["Wie geht es dir?", "Das ist ein Satz auf Deutsch."],
        &["It was a dark and stormy night;"],
    ];
    let mut base = Dense::of("llama-base");
    base.config.remove("bos_token_id");
    let base = base.write(place.0.path(), "base");
    std::fs::write(base.join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#).unwrap();
    let path = base.join("tokenizer.json");
    let mut words: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    words["post_processor"] = Value::Null;
    std::fs::write(path, words.to_string()).unwrap();
    let mut words = "base_model: base\ngate_mode: router\nexperts:\n".to_owned();
    for own in prompts {
        let own = serde_json::to_string(own).unwrap();
        words.push_str(&format!("- source_model: base\n  positive_prompts: {own}\n"));
    }
    std::fs::write(place.path("m.yaml"), words).unwrap();
    let told = place.json(&["m.yaml", "-o", "out.gguf", "--upcycle", "--format", "F32"]);
    let loads = &told["merge"]["loads"];
    let tokens = loads["tokens"].as_u64().unwrap();
    let mut counts = vec![vec![0u64; 3]; 3];
    let (mut chosen, mut rows) = (vec![0u64; 3], 0);
    for prompt in prompts.concat() {
        std::fs::write(place.path("prompt.txt"), prompt).unwrap();
        let arguments = ["experts", "out.gguf", "--text", "prompt.txt", "--trace", "trace", "--force"];
        let output = moewe(place.0.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let trace = std::fs::read_to_string(place.path("trace")).unwrap();
        // The first line says which layers there are.
        for line in trace.lines().skip(1) {
            let token: Value = serde_json::from_str(line).unwrap();
            let layers: Vec<Vec<usize>> = serde_json::from_value(token["chosen"].clone()).unwrap();
            rows += 1;
            for (layer, choices) in layers.iter().enumerate() {
                counts[layer][choices[0]] += 1;
                choices.iter().for_each(|&expert| chosen[expert] += 1);
            }
        }
    }
    assert_eq!(rows, tokens);
    for (layer, counts) in counts.iter().enumerate() {
        for (expert, &count) in counts.iter().enumerate() {
            let share = loads["layers"][layer][expert].as_f64().unwrap();
            assert!((share - count as f64 / tokens as f64).abs() < 1e-9, "{layer} {expert}: {share} {count}");
        }
    }
    for (expert, count) in chosen.into_iter().enumerate() {
        let share = loads["experts"][expert]["chosen"].as_f64().unwrap();
        assert!((share - count as f64 / (tokens * 3 * 2) as f64).abs() < 1e-9, "{expert}: {share} {count}");
    }
}
