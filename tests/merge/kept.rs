//! What a mixture keeps of its base and its experts: scaled rotations, windows, biases, attention mixed of several
//! bases, short experts, sources in other formats, any number of experts.
//!
//! The models that are merged with themselves are references of their own, with transformers' logits beside them.

use crate::merging::{Dense, difference, golden, logits_of, merged_as, of_file, parsed, relative, tensors};
use moewe_convert::merge::{Asked, Merged, merge};
use moewe_convert::{Options, Pad, Recipe, convert};
use moewe_engine::gguf::Gguf;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Of logits, relative to the largest.
const LOGITS: f32 = 2e-5;

fn upcycle() -> Asked {
    Asked { upcycle: true, ..Asked::default() }
}

/// A mixture of so many experts, all of them the base.
fn of_one(base: &str, experts: usize, used: usize) -> String {
    let mut words = format!("base_model: {base}\ngate_mode: random\nexperts_per_token: {used}\nexperts:\n");
    (0..experts).for_each(|_| writeln!(words, "- source_model: {base}").unwrap());
    words
}

/// A mixture of these experts.
fn of_several(base: &str, experts: &[&str]) -> String {
    let mut words = format!("base_model: {base}\ngate_mode: random\nexperts:\n");
    experts.iter().for_each(|expert| writeln!(words, "- source_model: {expert}").unwrap());
    words
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn is_said(done: &Merged, part: &str) -> bool {
    done.report.remarks.iter().any(|line| line.contains(part))
}

#[test]
fn references_merged_with_themselves_compute_their_logits() {
    for (name, has_folder) in [
        ("llama-dense", true),
        ("llama-yarn-whole", true),
        ("mistral-window", true),
        ("qwen2-tied", false),
        ("qwen3-yarn", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = golden().parent().unwrap().join(name);
        let words = of_one(source.to_str().unwrap(), 3, 2);
        let done = merged_as(&words, folder.path(), "out.gguf", &upcycle()).unwrap();
        let mut outs = vec!["out.gguf"];
        let found = merged_as(&words, folder.path(), "out", &upcycle());
        match has_folder {
            true => drop((found.unwrap(), outs.push("out"))),
            false => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains("biases in attention; write a GGUF file (-o NAME.gguf)"), "{error}");
            }
        }
        let expected = tensors(&source.join("expected.safetensors"));
        let mut compared = 0;
        for (case, (_, tokens)) in expected.iter().filter(|(case, _)| case.ends_with(".tokens")) {
            let tokens: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
            let wanted = &expected[&case.replace(".tokens", ".logits")].1;
            for out in &outs {
                let found = relative(&logits_of(&folder.path().join(out), &tokens), wanted);
                assert!(found <= LOGITS, "{name} {out} {case}: {found:e}");
                compared += 1;
            }
        }
        assert!(compared >= outs.len(), "{name}");
        let window = "looks back through a window of 16 tokens, and so does the mixture";
        assert_eq!(is_said(&done, window), name == "mistral-window", "{name}: {:?}", done.report.remarks);
        if name == "mistral-window" {
            assert_eq!(config(&folder.path().join("out"))["sliding_window"], 16);
        }
    }
}

#[test]
fn scaled_rotations_stay() {
    let folder = tempfile::tempdir().unwrap();
    let linear = json!({ "rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0 });
    Dense::of("llama-base").key("rope_parameters", linear).write(folder.path(), "linear");
    // Older files say it under another name, with the frequency beside.
    let mut older = Dense::of("llama-base").key("rope_theta", 10_000.0);
    older.config.remove("rope_parameters");
    older.key("rope_scaling", json!({ "type": "linear", "factor": 4.0 })).write(folder.path(), "older");
    let llama3 = json!({
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    });
    Dense::of("llama-base").key("rope_parameters", llama3).write(folder.path(), "llama3");
    let tokens: Vec<u32> = (5..60).collect();
    let plain = logits_of(&golden().join("dense/llama-base"), &tokens);
    let linear = logits_of(&folder.path().join("linear"), &tokens);
    for name in ["linear", "older", "llama3"] {
        let expected = logits_of(&folder.path().join(name), &tokens);
        assert!(relative(&plain, &expected) > 1e-3, "{name}");
        assert_eq!(linear == expected, name != "llama3");
        for out in [format!("{name}.gguf"), format!("{name}-out")] {
            merged_as(&of_one(name, 2, 1), folder.path(), &out, &upcycle()).unwrap();
            let found = relative(&logits_of(&folder.path().join(&out), &tokens), &expected);
            assert!(found <= LOGITS, "{out}: {found:e}");
        }
    }
}

#[test]
fn biases_of_attention_stay_where_there_is_a_place_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut base = Dense::of("llama-base").key("attention_bias", true);
    for (part, length) in [("q", 64), ("k", 32), ("v", 32), ("o", 64)] {
        base = base.in_layers(&format!("self_attn.{part}_proj.bias"), &[length]);
    }
    let path = base.write(folder.path(), "biased");
    let tokens: Vec<u32> = (5..60).collect();
    let expected = logits_of(&path, &tokens);
    assert!(relative(&logits_of(&golden().join("dense/llama-base"), &tokens), &expected) > 0.01);
    let words = of_one("biased", 3, 2);
    merged_as(&words, folder.path(), "out.gguf", &upcycle()).unwrap();
    let found = relative(&logits_of(&folder.path().join("out.gguf"), &tokens), &expected);
    assert!(found <= LOGITS, "{found:e}");
    let error = merged_as(&words, folder.path(), "out", &upcycle()).unwrap_err().to_string();
    assert!(error.contains("biased with biases in attention; write a GGUF file (-o NAME.gguf)"), "{error}");
    // Those of an expert are left behind with its attention, and so is what a base has in its own networks.
    let mlp = Dense::of("llama-base").key("mlp_bias", true).in_layers("mlp.gate_proj.bias", &[128]);
    let mlp = mlp.in_layers("mlp.up_proj.bias", &[128]).in_layers("mlp.down_proj.bias", &[64]);
    mlp.write(folder.path(), "mlp");
    for out in ["mixed.gguf", "mixed"] {
        merged_as(&of_several("mlp", &["biased", "llama-a"]), folder.path(), out, &Asked::default()).unwrap();
    }
    merged_as(
        &of_several("llama-base", &["llama-base", "llama-a"]),
        folder.path(),
        "plain.gguf",
        &Asked::default(),
    )
    .unwrap();
    let expected = logits_of(&folder.path().join("plain.gguf"), &tokens);
    for out in ["mixed.gguf", "mixed"] {
        let found = relative(&logits_of(&folder.path().join(out), &tokens), &expected);
        assert!(found <= LOGITS, "{out}: {found:e}");
    }
}

#[test]
fn what_a_class_takes_for_granted_stands_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    // Mistral's class has a window of 4096 where nothing is said, Mixtral's has none; Llama's reads none.
    let long = |dense: Dense| dense.key("max_position_embeddings", 8192);
    let mistral = long(Dense::of("llama-base")).key("architectures", json!(["MistralForCausalLM"]));
    mistral.key("model_type", "mistral").write(folder.path(), "mistral");
    long(Dense::of("llama-base")).key("sliding_window", 8).write(folder.path(), "llama");
    // A head of its own beside a configuration that says it is the embedding: transformers keeps both.
    Dense::of("llama-base").key("tie_word_embeddings", true).write(folder.path(), "tied");
    for (name, window) in [("mistral", json!(4096)), ("llama", Value::Null), ("tied", Value::Null)] {
        merged_as(&of_one(name, 2, 2), folder.path(), &format!("{name}-out"), &upcycle()).unwrap();
        let config = config(&folder.path().join(format!("{name}-out")));
        assert_eq!(config["sliding_window"], window, "{name}");
        assert_eq!(config["tie_word_embeddings"], false, "{name}");
    }
    // Both are Llama's tensors, so they may be mixed.
    let words = of_several("mistral", &["llama", "llama-a"]);
    let done = merged_as(&words, folder.path(), "mixed", &Asked::default()).unwrap();
    assert_eq!(
        (done.family.as_str(), config(&folder.path().join("mixed"))["sliding_window"].as_u64()),
        ("mixtral", Some(4096))
    );
    assert_eq!(done.because, "llama models with no shared expert");
}

#[test]
fn short_experts_compute_what_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let [long, short, shortest] = [("llama-a", 128), ("llama-b", 96), ("llama-c", 32)];
    let write = |(name, hidden): (&str, usize)| {
        let dense = Dense::of(name).shorter(hidden);
        dense.write(folder.path(), &format!("{name}-{hidden}"));
        // The same with zeros in the place of what it lacks, by hand.
        let mut whole = dense.key("intermediate_size", 128);
        for (name, (shape, values)) in &mut whole.tensors {
            if name.contains("gate_proj") || name.contains("up_proj") {
                values.resize(128 * shape[1], 0.0);
                shape[0] = 128;
            } else if name.contains("down_proj") {
                let zeros = vec![0.0; 128 - shape[1]];
                *values = values.chunks(shape[1]).flat_map(|row| [row, &zeros].concat()).collect();
                shape[1] = 128;
            }
        }
        whole.write(folder.path(), &format!("{name}-whole"));
    };
    [long, short, shortest].into_iter().for_each(write);
    let tokens: Vec<u32> = (5..60).collect();
    let own = of_several("llama-base", &["llama-b-96", "llama-a-128", "llama-c-32"]);
    let whole = of_several("llama-base", &["llama-b-whole", "llama-a-whole", "llama-c-whole"]);
    for (case, ending) in [("file", ".gguf"), ("folder", "")] {
        let outs = ["own", "whole"].map(|name| format!("{name}-{case}{ending}"));
        let done = merged_as(&own, folder.path(), &outs[0], &Asked::default()).unwrap();
        assert!(is_said(&done, "expert 0 (llama-b-96) has 96 units"), "{:?}", done.report.remarks);
        assert!(is_said(&done, "expert 2 (llama-c-32) has 32 units"), "{:?}", done.report.remarks);
        merged_as(&whole, folder.path(), &outs[1], &Asked::default()).unwrap();
        let [own, whole] = outs.map(|out| logits_of(&folder.path().join(out), &tokens));
        assert_eq!(own, whole, "{case}");
    }
    // One that is short alone, beside a long one that no token gets: what the dense model computes.
    let words = "base_model: llama-b-96\ngate_mode: cheap_embed\nexperts_per_token: 1\nexperts:\n- source_model: llama-b-96\n  positive_prompts: [a]\n- source_model: llama-b-whole\n  positive_prompts: [b]\n";
    merged_as(words, folder.path(), "alone.gguf", &Asked::default()).unwrap();
    let alone = logits_of(&folder.path().join("alone.gguf"), &tokens);
    let found = relative(&alone, &logits_of(&folder.path().join("llama-b-96"), &tokens));
    assert!(found <= LOGITS, "{found:e}");
}

#[test]
fn any_number_of_experts_is_taken_and_any_number_of_them_used() {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<u32> = (5..60).collect();
    let expected = logits_of(&golden().join("dense/llama-base"), &tokens);
    for (experts, used) in [(1, 1), (3, 1), (3, 2), (3, 3), (7, 1), (7, 2), (7, 5), (7, 7)] {
        let words = of_one("llama-base", experts, used);
        for out in [format!("{experts}-{used}.gguf"), format!("{experts}-{used}")] {
            merged_as(&words, folder.path(), &out, &upcycle()).unwrap();
            let found = relative(&logits_of(&folder.path().join(&out), &tokens), &expected);
            assert!(found <= LOGITS, "{out}: {found:e}");
        }
    }
    // One expert needs no router, and of one a token uses one.
    let one = "base_model: llama-base\ngate_mode: hidden\nexperts:\n- source_model: llama-base\n  positive_prompts: [x]\n";
    assert_eq!(parsed(one, folder.path()).unwrap().experts_per_token, 1);
    assert_eq!(
        parsed(&of_several("llama-base", &["llama-a"; 3]), folder.path()).unwrap().experts_per_token,
        2
    );
    merged_as(one, folder.path(), "one.gguf", &Asked::default()).unwrap();
}

#[test]
fn attention_of_several_bases_is_their_weighted_mean() {
    let folder = tempfile::tempdir().unwrap();
    let words = "base_model:\n- {source: llama-base, weight: 2}\n- {source: llama-a, weight: 6}\ngate_mode: random\ndtype: float32\nexperts:\n- source_model: llama-b\n- source_model: llama-c\n";
    merged_as(words, folder.path(), "out", &Asked::default()).unwrap();
    let done = merged_as(words, folder.path(), "out.gguf", &Asked::default()).unwrap();
    let parts: Vec<_> =
        done.sources.iter().map(|source| (source.name.as_str(), source.parts.join(" "))).collect();
    assert_eq!(parts[1], ("llama-a", "base (one of 2)".to_owned()));
    let found = tensors(&folder.path().join("out/model.safetensors"));
    let [first, second, expert] = ["llama-base", "llama-a", "llama-b"].map(|name| Dense::of(name).tensors);
    let mut means = 0;
    for (name, (shape, values)) in &first {
        if name.contains(".mlp.") {
            continue;
        }
        let expected: Vec<f32> = match name.contains("_proj") {
            true => {
                let pairs = values.iter().zip(&second[name].1);
                means += 1;
                pairs.map(|(a, b)| (0.25 * f64::from(*a) + 0.75 * f64::from(*b)) as f32).collect()
            }
            false => values.clone(),
        };
        assert_eq!(&found[name].0, shape, "{name}");
        assert!(difference(&found[name].1, &expected) <= 1e-8, "{name}");
        assert!(!name.contains("_proj") || difference(&found[name].1, values) > 1e-3, "{name}");
    }
    assert_eq!(means, 12);
    let w1 = "model.layers.1.block_sparse_moe.experts.0.w1.weight";
    assert_eq!(found[w1].1, expert["model.layers.1.mlp.gate_proj.weight"].1);
    // A file has the same, queries and keys in its order.
    let tokens: Vec<u32> = (5..60).collect();
    let [file, folder_] = ["out.gguf", "out"].map(|out| logits_of(&folder.path().join(out), &tokens));
    assert!(relative(&file, &folder_) <= LOGITS);
    // Equal bases have themselves as their mean; others have none.
    let same = words.replace("llama-a, weight: 6", "llama-base, weight: 0.5");
    merged_as(&same, folder.path(), "same.gguf", &Asked::default()).unwrap();
    merged_as(
        &of_several("llama-base", &["llama-b", "llama-c"]),
        folder.path(),
        "plain.gguf",
        &Asked::default(),
    )
    .unwrap();
    let [same, plain] = ["same.gguf", "plain.gguf"].map(|out| Gguf::open(folder.path().join(out)).unwrap());
    let name = "blk.1.attn_q.weight";
    assert_eq!(of_file(&same, name), of_file(&plain, name));
    let error = |other: &str| {
        let words = words.replace("llama-a", other);
        merged_as(&words, folder.path(), "x.gguf", &Asked::default()).unwrap_err().to_string()
    };
    let said = error("qwen2-a");
    assert!(said.contains("base_model: qwen2-a is of the architecture qwen2, llama-base of llama"), "{said}");
    let biased = Dense::of("llama-a").key("attention_bias", true).in_layers("self_attn.q_proj.bias", &[64]);
    let biased = biased.in_layers("self_attn.k_proj.bias", &[32]).in_layers("self_attn.v_proj.bias", &[32]);
    biased.in_layers("self_attn.o_proj.bias", &[64]).write(folder.path(), "biased");
    let said = error("biased");
    assert!(said.contains("base_model: biased has blk.0.attn_q.bias, llama-base has not"), "{said}");
}

#[test]
fn files_in_other_formats_are_read_as_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let write = |(name, format): (&str, &str)| {
        let out = folder.path().join(format!("{name}.gguf"));
        let options = Options { pad: Pad::Never, ..Options::with(Recipe::by_name(format).unwrap()) };
        convert(&golden().join("dense").join(name), &out, &options, &()).unwrap();
        Gguf::open(&out).unwrap()
    };
    let [base, first, second] = [("llama-base", "Q8_0"), ("llama-a", "Q4_0"), ("llama-b", "F16")].map(write);
    let words = of_several("llama-base.gguf", &["llama-a.gguf", "llama-b.gguf"]).replace("random", "hidden");
    let words = words.replace("llama-a.gguf\n", "llama-a.gguf\n  positive_prompts: [sums]\n");
    let words = words.replace("llama-b.gguf\n", "llama-b.gguf\n  positive_prompts: [songs]\n");
    let done = merged_as(&words, folder.path(), "out.gguf", &Asked::default()).unwrap();
    assert_eq!(done.report.requantized, ["Q4_0", "Q8_0"]);
    let out = Gguf::open(folder.path().join("out.gguf")).unwrap();
    for layer in 0..3 {
        for part in ["gate", "up", "down"] {
            let stack = of_file(&out, &format!("blk.{layer}.ffn_{part}_exps.weight"));
            let own = |gguf: &Gguf| of_file(gguf, &format!("blk.{layer}.ffn_{part}.weight"));
            assert_eq!(stack, [own(&first), own(&second)].concat(), "{layer} {part}");
        }
        let name = format!("blk.{layer}.attn_v.weight");
        assert_eq!(of_file(&out, &name), of_file(&base, &name));
    }
    let formats: Vec<_> = done.sources.iter().map(|source| source.formats[0].as_str()).collect();
    assert_eq!(formats, ["Q8_0", "Q4_0", "F16"]);
    // A folder has the base's tokenizer and configuration, which a file has not.
    let error = merged_as(&words, folder.path(), "out", &Asked::default()).unwrap_err().to_string();
    assert!(error.contains("llama-base.gguf is a GGUF file") && error.contains("-o NAME.gguf"), "{error}");
    // In one go to a format, and nothing is kept of files that differ.
    let options = Options { pad: Pad::Never, ..Options::with(Recipe::Keep) };
    let mixture = parsed(&words, folder.path()).unwrap();
    let error = merge(&mixture, &folder.path().join("x.gguf"), &Asked::default(), &options, &()).unwrap_err();
    assert!(error.to_string().contains("--bits"), "{error}");
}
