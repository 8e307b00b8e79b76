//! Files and flags as people have them: config.json files in other systems' spelling, rows longer than the model,
//! corpora with bad lines in folders of folders, runs that go on with other settings.

mod support;

use moewe_engine::session::CapacityMode;
use serde_json::{Value, json};
use std::path::Path;
use support::process::{Call, column, events_of, trainer};
use support::{CONTEXT, Dataset, engine, tachyon, write_rows};

/// [`tachyon`] as a mixture of the founding systems' names.
fn in_other_words() -> Value {
    json!({"model_type": "tachyon", "vocab_size": 512, "max_seq_len": 64, "dim": 64, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": 2, "n_experts": 4, "n_experts_active": 2, "n_shared_experts": 1, "ff_dim": 64})
}

/// A call with what every training of this file has.
fn train(dataset: &Dataset, preset: &str, out: &str) -> Call {
    let (data, tokenizer, out) = (dataset.text("shards"), dataset.text("tokenizer.json"), dataset.text(out));
    let common = ["--tokenizer", &tokenizer, "--out", &out, "--preset", preset, "--data", &data];
    let settings = "--batch 2 --warmup-steps 0 --eval-every 0 --sample-every 0 --log-every 1 --save-every 1";
    trainer(common).args(settings.split_whitespace())
}

fn exported(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_config_in_other_words_is_the_model_that_was_meant() {
    let dataset = Dataset::new();
    let mut config = in_other_words();
    let preset = dataset.preset("words", &config);
    let error = train(&dataset, &preset, "out").args(["--dry-run"]).refused();
    assert!(error.contains("words.json: d_shared_ff: ") && error.contains("no default"), "{error}");
    config["d_shared_ff"] = 64.into();
    let preset = dataset.preset("words", &config);
    let plan = train(&dataset, &preset, "out").args(["--dry-run"]).said();
    // Embedding, then norms, attention, router, experts and the shared one of each layer, then the last norm.
    let layer = 2 * 64 + 2 * 16 + 64 * 64 * 2 + 2 * 64 * 32 + 4 * 64 + 5 * 3 * 64 * 64;
    let parameters = 320 * 64 + 2 * layer + 64;
    assert!(plan.contains(&format!("parameters   {parameters}, ")), "{parameters}: {plan}");
    let export = dataset.path("export");
    train(&dataset, &preset, "out").args(["--max-steps", "1", "--export", &dataset.text("export")]).succeed();
    let written = exported(&export);
    for (key, value) in
        [("d_model", 64), ("n_routed_experts", 4), ("top_k_experts", 2), ("d_ff", 64), ("vocab_size", 320)]
    {
        assert_eq!(written[key], value, "{key} in {written}");
    }
    assert_eq!((written.get("dim"), &written["max_seq_len"]), (None, &json!(CONTEXT)));
    assert_eq!(engine(&export, CapacityMode::Dropless).config().embedding_length, 64);
    config["n_layrs"] = config["n_layers"].take();
    let preset = dataset.preset("typo", &config);
    let error = train(&dataset, &preset, "typo").args(["--dry-run"]).refused();
    assert!(error.contains("typo.json: n_layers: "), "{error}");
    config["n_layers"] = 2.into();
    let preset = dataset.preset("typo", &config);
    let error = train(&dataset, &preset, "typo").args(["--dry-run"]).refused();
    assert!(error.contains("n_layrs") && error.contains("the nearest is n_layers"), "{error}");
}

#[test]
fn long_rows_are_trained_on_whole_and_said() {
    let dataset = Dataset::new();
    let rows: Vec<Vec<u32>> = (0..50).map(|row| (0..2048).map(|i| (i * 7 + row) % 300).collect()).collect();
    write_rows(&dataset.path("long"), &rows);
    let preset = dataset.preset("tachyon", &tachyon());
    let call = || {
        let (data, tokenizer, out) =
            (dataset.text("long"), dataset.text("tokenizer.json"), dataset.text("out"));
        trainer(["--preset", &preset, "--data", &data, "--tokenizer", &tokenizer, "--out", &out])
    };
    let plan = call().args(["--dry-run"]).said();
    assert!(plan.contains("rows of 2048 tokens are cut into pieces of 64"), "{plan}");
    assert!(plan.contains(&format!("the corpus of {}", 49 * 2048)), "{plan}");
    call().args(["--max-steps", "2", "--batch", "2", "--eval-every", "0"]).succeed();
    let start = events_of(&dataset.path("out"), "start").remove(0);
    let text = start["description"].as_str().unwrap();
    let expected = format!("{} tokens in {} rows (rows of 2048 tokens are cut", 49 * 2048, 49 * 32);
    assert!(text.contains(&expected), "{text}");
    assert_eq!(events_of(&dataset.path("out"), "step").last().unwrap()["tokens_seen"], 2 * 2 * 64);
}

#[test]
fn going_on_with_other_settings_is_told_or_refused() {
    let dataset = Dataset::new();
    let preset = dataset.preset("tachyon", &tachyon());
    let steps = |steps: &str| train(&dataset, &preset, "out").args(["--max-steps", steps]);
    steps("1").succeed();
    let same = steps("1").args(["--strict"]).succeed();
    assert!(!same.contains("now it is"), "{same}");
    let others = ["--learning-rate", "0.5", "--precision", "bf16"];
    let error = steps("2").args(others).args(["--strict"]).refused();
    let changes = [
        "--learning-rate was 0.0006, now it is 0.5",
        "--max-steps was 1, now it is 2",
        "--precision was auto, now it is bf16",
    ];
    assert!(error.contains("step 1") && changes.iter().all(|line| error.contains(line)), "{error}");
    assert_eq!(column(&dataset.path("out"), "loss").len(), 1, "nothing was trained");
    let said = steps("2").args(others).succeed();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("now it is")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(changes.iter().zip(lines).all(|(change, line)| line.ends_with(change)), "{said}");
    assert_eq!(column(&dataset.path("out"), "loss").len(), 2);
}

#[test]
fn a_dense_start_needs_a_preset() {
    let dataset = Dataset::new();
    let dense = support::golden("qwen2-tied");
    let dense = dense.to_str().unwrap();
    let (data, out) = (dataset.text("shards"), dataset.text("out"));
    let error = trainer(["--init-from", dense, "--data", &data, "--out", &out]).refused();
    assert!(error.contains("add --preset") && error.contains("mixtral for a llama"), "{error}");
}

#[test]
fn corpora_with_faults_are_refused_or_counted() {
    let dataset = Dataset::new();
    let [corpus, tokenizer, out] = ["corpus", "tokenizer.json", "out"].map(|name| dataset.text(name));
    std::fs::create_dir_all(dataset.path("corpus/deep")).unwrap();
    let good = |i: usize| format!("{{\"text\": \"die Möwe {i} ruft über das graue Meer\"}}\n");
    let lines: String = (0..60).map(good).chain(["no json\n".into(), "{\"text\": [1]}\n".into()]).collect();
    std::fs::write(dataset.path("corpus/deep/a.jsonl"), lines).unwrap();
    (1..6).for_each(|i| std::fs::write(dataset.path(&format!("corpus/{i}.md")), "# no").unwrap());
    let call =
        || trainer(["shards", "--data", &corpus, "--tokenizer", &tokenizer, "--context", "16", "-o", &out]);
    let error = call().refused();
    assert!(error.contains("a.jsonl: line 61: ") && !Path::new(&out).exists(), "{error}");
    let said = call().args(["--skip-bad-lines"]).succeed();
    assert!(said.contains("2 bad lines are left out; the first: ") && said.contains("line 61"), "{said}");
    assert!(said.contains("1.md, 2.md, 3.md and 2 more left out"), "{said}");
    let made = |name: &str, more: &[&str]| {
        let place = dataset.text(name);
        trainer(["tokenizer", "--data", &dataset.text("corpus.txt"), "-o", &place]).args(more).succeed()
    };
    assert!(!made("one/reached.json", &["--vocabulary", "300"]).contains("vocabulary"));
    let said = made("two/large.json", &["--vocabulary", "99999"]);
    assert!(said.contains("not 99999") && said.contains("say --vocabulary "), "{said}");
    std::fs::write(dataset.path("void.txt"), "\n").unwrap();
    let error =
        trainer(["tokenizer", "--data", &dataset.text("void.txt"), "-o", &dataset.text("three/void.json")])
            .refused();
    assert!(
        error.contains("no text to make a tokenizer of") && !dataset.path("three/void.json").exists(),
        "{error}"
    );
}

#[test]
fn more_threads_than_the_machine_has_are_not_started() {
    let dataset = Dataset::new();
    let preset = dataset.preset("tachyon", &tachyon());
    let said = train(&dataset, &preset, "out").args(["--max-steps", "1", "--threads", "1000000"]).succeed();
    assert!(said.contains("--threads 1000000: this machine runs "), "{said}");
    let said = train(&dataset, &preset, "one").args(["--max-steps", "1", "--threads", "1"]).succeed();
    assert!(!said.contains("--threads"), "{said}");
}

#[test]
fn an_export_over_another_model_is_refused_before_the_training() {
    let dataset = Dataset::new();
    let preset = dataset.preset("tachyon", &tachyon());
    std::fs::create_dir(dataset.path("export")).unwrap();
    std::fs::write(dataset.path("export/config.json"), "{}").unwrap();
    let call =
        || train(&dataset, &preset, "out").args(["--max-steps", "1", "--export", &dataset.text("export")]);
    let error = call().refused();
    assert!(error.contains("config.json exists") && error.contains("--force"), "{error}");
    assert!(!dataset.path("out").exists(), "nothing was trained");
    call().args(["--force"]).succeed();
    assert_eq!(exported(&dataset.path("export"))["d_model"], 32);
}
