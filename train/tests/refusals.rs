//! What a person gets wrong, said by the binary in one line that tells what to do.

mod support;

use std::path::Path;
use support::process::{column, events_of, names, trainer};
use support::{CONTEXT, Dataset, moe_gpt, numbers, tachyon, tensors, write_rows};

/// What is typed, and what the answer must hold.
struct Refusal<'a> {
    typed: &'a [&'a str],
    holds: &'a [&'a str],
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let dataset = Dataset::new();
    let preset = dataset.preset("tachyon", &tachyon());
    let [shards, tokenizer, out, empty, typo, void, broken] =
        ["shards", "tokenizer.json", "out", "empty", "typo.toml", "void.toml", "broken.json"]
            .map(|n| dataset.text(n));
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(&typo, "batch = 2\nbacth = 3\n").unwrap();
    std::fs::write(&void, "batch = \n").unwrap();
    let mut too_many = tachyon();
    too_many["top_k_experts"] = 9.into();
    std::fs::write(&broken, too_many.to_string()).unwrap();
    let unknown = format!("nebula={shards}:0");
    let cases = [
        Refusal { typed: &[], holds: &["no data", "--data", "moewe train shards"] },
        Refusal { typed: &["--data", "/nowhere"], holds: &["--data /nowhere", "no folder"] },
        Refusal { typed: &["--data", &empty], holds: &[&empty, "shard_*.npy", "moewe train shards"] },
        Refusal { typed: &["--data", &unknown], holds: &["weight of 0"] },
        Refusal {
            typed: &["--data", &shards, "--preset", "huge"],
            holds: &["huge", "presets: moewe-mini, "],
        },
        Refusal { typed: &["--data", &shards, "--preset", &broken], holds: &["broken.json", "experts"] },
        Refusal { typed: &["--data", &shards, "--config", &typo], holds: &[&typo, "bacth"] },
        Refusal { typed: &["--data", &shards, "--config", &void], holds: &[&void, "TOML"] },
        Refusal { typed: &["--data", &shards, "--config", "/no.toml"], holds: &["/no.toml", "read"] },
        Refusal { typed: &["--data", &shards, "--batch", "0"], holds: &["batch must be at least 1"] },
        Refusal {
            typed: &["--data", &shards, "--save-every", "0"],
            holds: &["save-every must be at least 1"],
        },
        Refusal { typed: &["--data", &shards, "--device", "tpu"], holds: &["\"tpu\"", "auto, cpu, cuda"] },
        Refusal { typed: &["--data", &shards, "--context", "4096"], holds: &["shard_", "4096", "found 32"] },
        Refusal { typed: &["--data", &shards, "--context", "1"], holds: &["context must be at least 2"] },
        Refusal { typed: &["--data", &shards, "--monitor", "wandb"], holds: &["wandb", "jsonl"] },
        Refusal { typed: &["--data", &shards, "--init-from", &empty], holds: &["empty", ".safetensors"] },
    ];
    for Refusal { typed, holds } in cases {
        let preset = if typed.contains(&"--preset") { vec![] } else { vec!["--preset", &*preset] };
        let common = ["--tokenizer", &*tokenizer, "--out", &*out, "--max-steps", "1"];
        let error = trainer(typed).args(preset).args(common).refused();
        let misses = holds.iter().find(|text| !error.contains(**text));
        assert_eq!(misses, None, "{typed:?}: {error}");
    }
}

#[test]
fn what_is_no_checkpoint_is_not_exported() {
    let dataset = Dataset::new();
    let [empty, out] = ["empty", "out"].map(|name| dataset.text(name));
    std::fs::create_dir(&empty).unwrap();
    for (typed, holds) in
        [(vec![&*empty], "no checkpoint"), (vec!["/nowhere"], "/nowhere"), (vec![&*empty, "--best"], "best")]
    {
        let error = trainer(["export"]).args(typed).args(["-o", &out]).refused();
        assert!(error.contains(holds), "{error}");
        assert!(!Path::new(&out).exists());
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_build_without_cuda_says_how_to_get_it() {
    let error = trainer(["--data", ".", "--device", "cuda"]).refused();
    assert!(error.contains("--features cuda") && error.contains("--device cpu"), "{error}");
}

#[test]
fn ids_beyond_the_vocabulary_name_their_shard() {
    let dataset = Dataset::new();
    // Far from the first rows of the stream: without the pass before the run this training would end well.
    let mut rows = vec![vec![5; CONTEXT]; 400];
    rows[399][7] = 5000;
    write_rows(&dataset.path("foreign"), &rows);
    let preset = dataset.preset("tachyon", &tachyon());
    let data = ["--data", &dataset.text("foreign"), "--tokenizer", &dataset.text("tokenizer.json")];
    let call =
        trainer(["--preset", &preset, "--out", &dataset.text("out"), "--eval-every", "0", "--context", "32"]);
    let error = call.args(data).args(["--max-steps", "2", "--batch", "1"]).refused();
    let holds = ["shard_00000.npy", "row 399, column 7", "5000", "another tokenizer"];
    assert!(holds.iter().all(|text| error.contains(text)), "{error}");
    assert!(column(&dataset.path("out"), "loss").is_empty(), "found before the first step");
}

/// Decay by the factor -89 a step is more than F32 can hold after twenty.
#[test]
fn a_loss_that_is_no_number_ends_the_training() {
    let dataset = Dataset::new();
    let preset = dataset.preset("moe_gpt", &moe_gpt());
    let (shards, tokenizer, out) =
        (dataset.text("shards"), dataset.text("tokenizer.json"), dataset.text("out"));
    let call = trainer(["--preset", &preset, "--data", &shards, "--tokenizer", &tokenizer, "--out", &out]);
    let settings =
        "--learning-rate 900 --clip 0 --warmup-steps 0 --batch 2 --max-steps 60 --save-every 1 --log-every 1";
    let error = call.args(settings.split_whitespace()).refused();
    let out = Path::new(&out);
    let done = column(out, "loss").len();
    assert!((2..40).contains(&done), "{done} steps");
    let newest = out.join(format!("checkpoint-{done}"));
    let holds = [
        &format!("step {done}"),
        "transformer.",
        "is not finite",
        newest.to_str().unwrap(),
        "--learning-rate",
    ];
    assert!(holds.iter().all(|text| error.contains(text)), "{error}\n{:?}", names(out));
    for (name, tensor) in tensors(&newest.join("model.safetensors")) {
        assert!(numbers(&tensor).iter().all(|x| x.is_finite()), "{name} in the last good checkpoint");
    }
    assert_eq!(events_of(out, "checkpoint").len(), done);
}
