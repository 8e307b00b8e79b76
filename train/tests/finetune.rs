//! `moewe train finetune` as a person calls it: what is shown, what is counted, and what is refused.

mod support;

use moewe_convert::adapter::Named;
use moewe_convert::{Options as ConvertOptions, convert};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use support::golden;
use support::process::{column, trainer};

/// A model's folder without weights, and data in it.
struct Model(tempfile::TempDir);

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(reference.join(name), folder.path().join(name)).unwrap();
        }
        let model = Self(folder);
        let config = serde_json::json!({"model_type": "mixtral", "vocab_size": 320, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 48});
        model.write("config.json", &config.to_string());
        model
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn chats(&self, pairs: &[(&str, &str)]) -> String {
        let line = |(question, answer): &(&str, &str)| {
            let turns = serde_json::json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
            serde_json::json!({ "messages": turns, "id": 1 }).to_string() + "\n"
        };
        self.write("chats.jsonl", &pairs.iter().map(line).collect::<String>())
    }

    fn name(&self) -> String {
        self.0.path().display().to_string()
    }
}

#[test]
fn masks_are_shown() {
    let model = Model::new();
    let data = model.chats(&[("12 + 30", "42"), ("Möwe?", "🐦"), ("?", "!")]);
    let show = || trainer(["finetune", &model.name(), "--data", &data, "--show-mask", "2"]);
    let expected = format!(
        "{data}, line 1, chat: 25 tokens, 3 of them trained\n<s><|im_start|>user\n12 + 30<|im_end|>\n<|im_start|>assistant\n\
         ⟦42<|im_end|>⟧\n\n\n{data}, line 2, chat: 28 tokens, 5 of them trained\n<s><|im_start|>user\nMöwe?<|im_end|>\n\
         <|im_start|>assistant\n⟦🐦<|im_end|>⟧\n\n\n⟦trained⟧, only read: 2 examples; 53 tokens, 8 of them trained\n"
    );
    assert_eq!(show().said(), expected);
    let alpaca = show().args(["--chat-template", "alpaca", "--context", "256"]).said();
    assert!(alpaca.contains("### Response:\n⟦42</s>⟧\n"), "{alpaca}");
}

#[test]
fn a_dry_run_counts() {
    let model = Model::new();
    let pairs: Vec<(String, String)> = (0..60).map(|at| ("und ".repeat(at % 12), format!("{at}"))).collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let data = model.chats(&pairs);
    let texts = model.write("texts.jsonl", "{\"text\": \"die Möwen schrien\"}\n{\"text\": \"\"}\n");
    let said = |more: &[&str]| {
        let call = trainer(["finetune", &model.name(), "--data", &data, &texts, "--dry-run", "-q"]);
        call.args(more).said()
    };
    let packed = said(&["--holdout", "0"]);
    let lines: Vec<&str> = packed.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "examples    60 of kind chat",
            "            2 of kind text",
            "            keys that are not read: id",
            "            1 left out: nothing in it is to be trained",
        ]
    );
    let template = model.path("chat_template.jinja");
    assert_eq!(lines[4], format!("template    {}, which marks what is trained", template.display()));
    assert!(
        lines[5].starts_with("train       61 examples, ") && lines[5].contains(" rows of up to 48, "),
        "{packed}"
    );
    assert_eq!(lines[6], "validation  none");
    assert!(lines[7].starts_with("memory      0.0 MB"), "{packed}");
    // Rank 16 beside q and o (32 by 32), k and v (16 by 32), in two layers.
    let trained = 2 * 16 * (2 * (32 + 32) + 2 * (16 + 32));
    assert!(lines[8].starts_with(&format!("trained     {trained} of ")), "{packed}");
    assert!(lines[9].starts_with(&format!("            attention: {trained}, ")), "{packed}");
    assert_eq!(lines[10], "steps       4 of up to 16 rows", "50 rows");
    let rows = |said: &str| {
        let line = said.lines().find(|line| line.starts_with("train ")).unwrap();
        let (before, _) = line.split_once(" rows of up to").unwrap();
        before.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(rows(&said(&["--holdout", "0", "--no-packing"])), 61);
    // A few lines of Python with transformers' lengths and best fit decreasing come to the same.
    assert!(packed.contains(" 1918 tokens, ") && rows(&packed) == 50, "{packed}");
    assert_eq!(rows(&said(&["--holdout", "0", "--context", "96"])), 22);
    let held_out = said(&["--holdout", "0.2", "--chat-template", "chatml", "--context", "40"]);
    assert!(
        held_out.contains("template    chatml; trained are answers with the end token after each\n"),
        "{held_out}"
    );
    assert!(!held_out.contains("validation  none") && held_out.contains(" rows of up to 40, "), "{held_out}");
    let own = said(&["--validation", &texts]);
    assert!(own.contains("validation  1 examples, "), "{own}");
}

#[test]
fn wrong_requests_are_refused() {
    let model = Model::new();
    let data = model.chats(&[("12 + 30", "42")]);
    let call = |more: &[&str]| trainer(["finetune", &model.name(), "--data", &data]).args(more).refused();
    assert_eq!(call(&[]), "error: -o FOLDER says where the result goes");
    let error = call(&["--lora-targets", "dense", "--dry-run"]);
    assert!(error.contains("mixtral has no matrices that are dense"), "{error}");
    let error = call(&["--chat-template", "llama3", "--dry-run"]);
    assert!(error.contains("<|eot_id|>") && error.contains("--train all"), "{error}");
    assert!(call(&["--holdout", "2", "--dry-run"]).contains("--holdout 2"));
    assert!(call(&["--context", "1", "--dry-run"]).contains("context must be at least 2"));
    let error = trainer(["finetune", "/nowhere", "--data", &data, "--dry-run"]).refused();
    assert!(error.starts_with("error: /nowhere/config.json: cannot read: "), "{error}");
    std::fs::remove_file(model.path("chat_template.jinja")).unwrap();
    let error = call(&["--show-mask", "1"]);
    assert!(
        error.contains("has no chat template; name one with --chat-template: chatml, llama3, "),
        "{error}"
    );
}

/// A folder with conversations of which an answer follows from its question, beside a model that has learned nothing.
fn lessons() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let line = |number: usize| {
        let (question, answer) = [("rot", "Rose"), ("blau", "Meer"), ("gelb", "Sonne")][number % 3];
        let turns = serde_json::json!([{"role": "user", "content": format!("{question} {}", number / 3)},
            {"role": "assistant", "content": answer}]);
        serde_json::json!({ "messages": turns }).to_string() + "\n"
    };
    let data = folder.path().join("chats.jsonl");
    std::fs::write(&data, (0..60).map(line).collect::<String>()).unwrap();
    let data = data.display().to_string();
    (folder, data)
}

fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn each_way_of_training_lowers_the_loss_and_writes_its_result() {
    let base = golden("lora/mixtral");
    let base = base.to_str().unwrap();
    let (work, data) = lessons();
    for (kind, more, result) in [
        ("lora", "--lora-targets all,router --lora-rank 8 --learning-rate 0.01", "adapter_model.safetensors"),
        ("router", "--learning-rate 0.02", "model.safetensors"),
        ("all", "--learning-rate 0.003", "model.safetensors"),
    ] {
        let out = work.path().join(kind);
        let call = |more: &str| {
            let common =
                "--context 64 --batch 4 --epochs 2 --holdout 0.2 --eval-every 2 -q --monitor jsonl --train";
            let call = trainer(["finetune", base, "--data", &data, "-o", out.to_str().unwrap()]);
            call.args(common.split_whitespace()).args([kind]).args(more.split_whitespace())
        };
        let said = call(more).said();
        assert_eq!(said.trim_end(), out.to_str().unwrap());
        let losses = column(&out, "cross_entropy");
        let half = losses.len() / 2;
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[half..]) < mean(&losses[..half]) - 0.02, "{kind}: {losses:?}");
        let all = names(&out);
        for name in [result, "tokenizer.json", "chat_template.jinja", "metrics.jsonl"] {
            assert!(all.contains(name), "{kind}: {name} of {all:?}");
        }
        // Done is done, and another result is not replaced unasked.
        assert_eq!(column(&out, "cross_entropy"), {
            call(more).succeed();
            column(&out, "cross_entropy")
        });
        if kind == "lora" {
            let file = work.path().join("lora.gguf");
            let mut options = ConvertOptions::new(moewe_engine::quant::Format::by_name("F32").unwrap());
            options.adapters = vec![Named { path: out.clone(), scale: 1.0 }];
            convert(Path::new(base), &file, &options, &()).unwrap();
        }
    }
    let taken = work.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("adapter_model.safetensors"), "x").unwrap();
    let error = trainer(["finetune", base, "--data", &data, "-o", taken.to_str().unwrap()]).refused();
    assert!(error.contains("exists already"), "{error}");
}
