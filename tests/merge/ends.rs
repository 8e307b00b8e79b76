//! What a merge refuses, with what it says, and what it takes with a note: keys and values of the YAML, prompts that
//! make no router, sources that do not fit together. Nothing is left behind by any of it.

use crate::merging::{Dense, golden, merged_as, parsed, with_key};
use moewe_convert::merge::Asked;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What has nothing wrong with it.
const GOOD: &str = "\
base_model: llama-base
gate_mode: random
experts:
- source_model: llama-a
  positive_prompts: [sums]
- source_model: llama-b
  positive_prompts: [songs]
";

/// Something of [`GOOD`], what stands in its place, and parts of what is said to that.
type Row = (&'static str, &'static str, &'static [&'static str]);

#[track_caller]
fn has_all(message: &str, parts: &[&str], what: &str) {
    for part in parts {
        assert!(message.contains(part), "{what}: no {part:?} in {message:?}");
    }
    assert!(!message.contains('\n'), "{what}: {message}");
}

const KEYS: &[Row] = &[
    ("gate_mode:", "gate_mod:", &["`gate_mod`", "`gate_mode`", "`experts_per_token`", "`seed`"]),
    ("positive_prompts: [sums]", "negative_promts: [sums]", &["`negative_promts`", "`negative_prompts`"]),
    ("positive_prompts: [sums]", "prompts: [sums]", &["experts[0]", "`prompts`", "`positive_prompts`"]),
    ("gate_mode: random", "gate_mode: random\nmerge_method: ties", &["`merge_method`"]),
    ("gate_mode: random", "gate_mode: random\ngate_mode: random", &["duplicate", "gate_mode"]),
    ("base_model: llama-base\n", "", &["base_model"]),
    ("- source_model: llama-a\n  ", "- ", &["experts[0]", "source_model"]),
    (GOOD, "", &["base_model"]),
    (GOOD, "experts", &["expected"]),
    (GOOD, "base_model: [", &["line 2", "flow node"]),
    (GOOD, "base_model: *b", &["unknown anchor"]),
];

const VALUES: &[Row] = &[
    ("llama-base", "", &["base_model", "the name of a model, or a list of {source: NAME, weight: NUMBER}"]),
    ("llama-base", "[{source: llama-base}]", &["a list of {source: NAME, weight: NUMBER}"]),
    ("llama-base", "[]", &["base_model: name a model"]),
    (
        "llama-base",
        "[{source: llama-base, weight: 1}, {source: llama-a, weight: -1}]",
        &["base_model: the weights add up to nothing"],
    ),
    ("llama-base", "[{source: llama-base, weight: .nan}]", &["base_model: the weights add up to nothing"]),
    ("gate_mode:", "experts_per_token: 0\ngate_mode:", &["experts_per_token: 0 of 2 experts; say 1 to 2"]),
    ("gate_mode:", "experts_per_token: 3\ngate_mode:", &["experts_per_token: 3 of 2 experts; say 1 to 2"]),
    ("gate_mode:", "experts_per_token: -1\ngate_mode:", &["experts_per_token: -1"]),
    ("gate_mode:", "experts_per_token: two\ngate_mode:", &["experts_per_token", "\"two\""]),
    ("gate_mode:", "experts_per_token: 1.5\ngate_mode:", &["experts_per_token", "1.5"]),
    (
        "random",
        "hiden",
        &["`hiden`", "`hidden`", "`hidden_avg`", "`cheap_embed`", "`uniform_random`", "`router`", "`text`"],
    ),
    ("gate_mode:", "dtype: int8\ngate_mode:", &["dtype: \"int8\"; there are float32, float16 and bfloat16"]),
    ("gate_mode:", "seed: -1\ngate_mode:", &["seed", "-1"]),
    (
        "gate_mode:",
        "architecture: llama\ngate_mode:",
        &["architecture: \"llama\"; there are mixtral, qwen, qwen3, deepseek"],
    ),
    ("gate_mode:", "architecture: ''\ngate_mode:", &["architecture: \"\"; there are mixtral"]),
    ("[sums]", "sums", &["experts[0].positive_prompts", "\"sums\"", "a sequence"]),
    ("[sums]", "[&a {k: v}]", &["experts[0].positive_prompts[0]", "a string"]),
    ("[sums]", "[sums]\n  noise_scale: .nan", &["expert 0 (llama-a): noise_scale is no finite number"]),
    (
        "[songs]",
        "[songs]\n  residual_scale: .inf",
        &["expert 1 (llama-b): residual_scale is no finite number"],
    ),
    ("[sums]", "[sums]\n  noise_scale: much", &["experts[0].noise_scale", "\"much\""]),
    (
        "- source_model: llama-a\n  positive_prompts: [sums]\n- source_model: llama-b\n  positive_prompts: [songs]",
        "  []",
        &["experts: name one or more models"],
    ),
    (
        "gate_mode:",
        "shared_experts: [{source_model: llama-a}, {source_model: llama-b}]\ngate_mode:",
        &["shared_experts: 2 models; there is one shared expert or none"],
    ),
];

/// What makes no router.
const PROMPTS: &[Row] = &[
    (
        "gate_mode: random",
        "gate_mode: hidden\n#",
        &["all experts", "the same prompts", "say for each what it is for"],
    ),
    (
        "positive_prompts: [songs]",
        "negative_prompts: [sums]",
        &[
            "expert 1 (llama-b) has no positive_prompts",
            "gate_mode hidden",
            "write what it is for",
            "uniform_random",
        ],
    ),
    ("positive_prompts: [songs]", "positive_prompts: []", &["expert 1 (llama-b) has no positive_prompts"]),
    ("gate_mode: random", "gate_mode: text", &["expert 0 (llama-a) has no texts", "texts: [FILE]"]),
];

#[test]
fn keys_and_values_are_refused_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    for (old, new, parts) in KEYS.iter().chain(VALUES) {
        assert!(GOOD.contains(old), "{old}");
        let words = GOOD.replacen(old, new, 1);
        let error = parsed(&words, folder.path()).map(drop).expect_err(new).to_string();
        has_all(&error, parts, new);
    }
    parsed(GOOD, folder.path()).unwrap();
}

#[test]
fn prompts_that_make_no_router_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (old, new, parts) in PROMPTS {
        let mode = if old.contains("gate_mode") { "gate_mode: random" } else { "gate_mode: hidden" };
        let words = GOOD.replace("gate_mode: random", mode).replacen(old, new, 1);
        let words = if new.contains('#') { words.replace("songs", "sums") } else { words };
        let error = parsed(&words, folder.path()).map(drop).expect_err(new).to_string();
        has_all(&error, parts, new);
    }
    let texts = GOOD.replace("random", "text").replace("positive_prompts: [sums]", "texts: [a.txt]");
    let texts = texts.replace("positive_prompts: [songs]", "texts: [a.txt]");
    let error = parsed(&texts, folder.path()).unwrap_err().to_string();
    has_all(&error, &["all experts have the same texts", "name texts of each one's own"], "texts");
    // What a mode does not read it does not ask for.
    for mode in ["random", "uniform_random"] {
        let words =
            GOOD.replace("  positive_prompts: [sums]\n", "").replace("  positive_prompts: [songs]\n", "");
        parsed(&words.replace("random", mode), folder.path()).unwrap();
    }
}

#[test]
fn yaml_of_all_kinds_is_read_and_a_bomb_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in
        ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        let many = vec![format!("*{before}"); 9].join(", ");
        bomb.push_str(&format!("{name}: &{name} [{many}]\n"));
    }
    for merges in ["", "k: {<<: *a}\n"] {
        let words = format!("{bomb}{merges}{GOOD}");
        has_all(&parsed(&words, folder.path()).unwrap_err().to_string(), &[], "bomb");
    }
    // Aliases where they count: each level nine times the one before, as prompts.
    let words = format!(
        "base_model: llama-base\nexperts:\n- source_model: llama-a\n  positive_prompts: {}",
        "[".repeat(5000)
    );
    has_all(&parsed(&words, folder.path()).unwrap_err().to_string(), &[], "depth");
    let anchored = "\
base_model: &base llama-base
experts:
- source_model: *base
  positive_prompts: &prompts ['42', \"two\\nlines\", yes]
- &second
  source_model: llama-a
  positive_prompts: [other]
  noise_scale: 0.5
- <<: *second
  positive_prompts: *prompts
";
    for words in [anchored.to_owned(), anchored.replace('\n', "\r\n")] {
        let mixture = parsed(&words, folder.path()).unwrap();
        let prompts: Vec<_> = mixture.experts.iter().map(|expert| expert.positive.clone()).collect();
        assert_eq!(prompts[0], ["42", "two\nlines", "yes"]);
        assert_eq!(prompts[2], prompts[0]);
        assert_eq!(
            (mixture.experts[2].source.name.as_str(), mixture.experts[2].noise_scale),
            ("llama-a", Some(0.5))
        );
    }
}

#[test]
fn prompts_are_the_text_that_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let words = GOOD.replace("[sums]", "[42, 1e3, true, 007, ~]");
    let mixture = parsed(&words, folder.path()).unwrap();
    assert_eq!(mixture.experts[0].positive, ["42", "1e3", "true", "007", "~"]);
    // Where keys are merged they have been read as numbers before anyone asks for text.
    let words = words.replace("  positive_prompts: [42", "  <<: {noise_scale: 1}\n  positive_prompts: [42");
    let error = parsed(&words, folder.path()).unwrap_err().to_string();
    has_all(&error, &["42", "expected a string", "stands in quotes"], "merged");
}

/// Merges into a file and into a folder; both say the same, and leave nothing.
#[track_caller]
fn refused(words: &str, folder: &Path, outs: &[&str], parts: &[&str]) {
    let before = std::fs::read_dir(folder).unwrap().count();
    for out in outs {
        let error = merged_as(words, folder, out, &Asked::default()).expect_err(parts[0]).to_string();
        has_all(&error, parts, out);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), before, "{parts:?} {out}");
    }
}

const BOTH: [&str; 2] = ["out.gguf", "out"];

/// A model in another width.
fn narrow() -> Dense {
    let mut dense = Dense::of("llama-a").key("hidden_size", 32);
    for (name, (shape, values)) in &mut dense.tensors {
        let rows = name.contains("o_proj") || name.contains("down_proj") || shape.len() == 1;
        let axis = if rows { 0 } else { 1 };
        shape[axis] = 32;
        *values = Dense::numbers(shape.iter().product(), name.len());
    }
    dense
}

/// A model of two or four layers.
fn layers(count: usize) -> Dense {
    let mut dense = Dense::of("llama-a").key("num_hidden_layers", count);
    let own: Vec<_> = dense.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    for (name, tensor) in own.into_iter().filter(|(name, _)| name.contains("layers.2.")) {
        match count {
            2 => drop(dense.tensors.remove(&name)),
            _ => drop(dense.tensors.insert(name.replace("layers.2.", "layers.3."), tensor)),
        }
    }
    dense
}

fn with_mlp_bias() -> Dense {
    let dense = Dense::of("llama-a").key("mlp_bias", true);
    let dense = dense.in_layers("mlp.gate_proj.bias", &[128]).in_layers("mlp.up_proj.bias", &[128]);
    dense.in_layers("mlp.down_proj.bias", &[64])
}

#[test]
fn experts_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let odd = |dense: Dense, name: &str| dense.write(folder.path(), name);
    odd(narrow(), "narrow");
    odd(layers(2), "short");
    odd(layers(4), "tall");
    odd(Dense::of("llama-a").key("hidden_act", "gelu"), "gelu");
    odd(with_mlp_bias(), "biased");
    let phi = Dense::of("llama-a").key("architectures", json!(["PhiForCausalLM"])).key("model_type", "phi");
    odd(phi, "phi");
    let known = "llama, mistral, qwen2 and qwen3 models can be merged";
    let rows: [(&str, &[&str]); 9] = [
        (
            "narrow",
            &[
                "expert 1 (narrow) has another width than the base llama-base: 32, not 64",
                "of the base's size",
            ],
        ),
        ("short", &["expert 1 (short) has another number of layers than the base llama-base: 2, not 3"]),
        ("tall", &["expert 1 (tall) has another number of layers than the base llama-base: 4, not 3"]),
        ("gelu", &["gelu", "only silu is known"]),
        (
            "biased",
            &["expert 1 (biased) has biases in its feed-forward networks (ffn_gate.bias)", "another expert"],
        ),
        ("phi", &["phi is a PhiForCausalLM, of which no experts are made", known]),
        (
            "qwen2-a",
            &["expert 1 (qwen2-a) is of the architecture qwen2, the base llama-base of llama", "family"],
        ),
        ("../../mixtral", &["../../mixtral is a mixture of 4 experts already", "dense models"]),
        (
            "../../gemma3-linear",
            &["../../gemma3-linear is of the architecture gemma3, of which no experts are made", known],
        ),
    ];
    for (name, parts) in rows {
        refused(&GOOD.replace("llama-b\n", &format!("{name}\n")), folder.path(), &BOTH, parts);
    }
    // The same as bases, where they are no dense models that anything is made of.
    for (name, parts) in &rows[5..6] {
        refused(&GOOD.replace("llama-base", name), folder.path(), &BOTH, parts);
    }
    refused(&GOOD.replace("llama-base", "../../gemma3-linear"), folder.path(), &BOTH, &["gemma3", known]);
    refused(&GOOD.replace("llama-b\n", "absent\n"), folder.path(), &BOTH, &["absent"]);
}

#[test]
fn families_that_there_are_not_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shared = "shared_experts:\n- source_model: llama-a\n";
    let deepseek = ["DeepSeek", "take architecture: qwen and give the shared expert positive_prompts"];
    refused(&format!("architecture: deepseek\n{GOOD}"), folder.path(), &BOTH, &deepseek);
    refused(&format!("architecture: Deep\n{GOOD}"), folder.path(), &BOTH, &deepseek);
    refused(&format!("{GOOD}{shared}").replace("random", "hidden"), folder.path(), &BOTH, &deepseek);
    let none = ["a llama base with a shared expert makes no mixture that is known here as mixtral"];
    refused(&format!("architecture: mixtral\n{GOOD}{shared}"), folder.path(), &BOTH, &none);
    let none =
        ["a llama base with no shared expert makes no mixture that is known here as qwen3", "become mixtral"];
    refused(&format!("architecture: qwen3\n{GOOD}"), folder.path(), &BOTH, &none);
    let qwen3 = GOOD
        .replace("llama-base", "qwen3-base")
        .replace("llama", "qwen3")
        .replace("qwen3-b\n", "qwen3-base\n");
    let none =
        ["a qwen3 base with a shared expert makes no mixture", "qwen3 becomes qwen3 without a shared expert"];
    refused(&format!("{qwen3}{shared}").replace("llama-a", "qwen3-a"), folder.path(), &BOTH, &none);
    // Qwen 2 without a shared expert: GGUF's llama has the biases, no class of transformers does.
    let qwen2 = GOOD.replace("llama", "qwen2");
    refused(&qwen2, folder.path(), &["out"], &["qwen2-base", "biases in attention", "-o NAME.gguf"]);
    merged_as(&qwen2, folder.path(), "out.gguf", &Asked::default()).unwrap();
    // A window that a mixture with a shared expert has not.
    let mistral = Dense::of("llama-base").key("architectures", json!(["MistralForCausalLM"]));
    mistral.key("model_type", "mistral").key("sliding_window", 8).write(folder.path(), "window");
    let words = format!("{GOOD}{shared}").replace("llama-base", "window");
    refused(
        &words,
        folder.path(),
        &["new.gguf", "out"],
        &["window looks back through a window", "leave the shared expert out"],
    );
}

#[test]
fn one_source_for_all_is_refused_unless_it_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let words = GOOD.replace("llama-b\n", "llama-a\n");
    refused(&words, folder.path(), &BOTH, &["all experts are llama-a", "--upcycle"]);
    // Noise makes them different, and one expert alone is what was asked for.
    let noise = words.replace("[sums]", "[sums]\n  noise_scale: 0.1");
    merged_as(&noise, folder.path(), "noise.gguf", &Asked::default()).unwrap();
    let one = "base_model: llama-base\ngate_mode: random\nexperts:\n- source_model: llama-a\n";
    merged_as(one, folder.path(), "one.gguf", &Asked::default()).unwrap();
    let upcycle = Asked { upcycle: true, ..Asked::default() };
    merged_as(&words, folder.path(), "same.gguf", &upcycle).unwrap();
}

/// What is taken, with what is said of it.
#[test]
fn differences_that_the_mixture_forgets_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let rope = |value: serde_json::Value| Dense::of("llama-b").key("rope_parameters", value);
    let theta = json!({ "rope_type": "default", "rope_theta": 50_000.0 });
    let linear = json!({ "rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0 });
    let llama3 = json!({
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    });
    let mistral = Dense::of("llama-b").key("architectures", json!(["MistralForCausalLM"]));
    let rows = [
        (
            rope(theta),
            "was trained with another rope.freq_base: attention is the base's, so the base's counts",
        ),
        (rope(linear), "was trained with another rope.scaling.type, rope.scaling.factor: attention"),
        (rope(llama3), "was trained with another rope scaling: attention"),
        (Dense::of("llama-b").key("rms_norm_eps", 1e-3), "another attention.layer_norm_rms_epsilon"),
        (Dense::of("llama-b").key("max_position_embeddings", 128), "another context_length"),
        (mistral.key("model_type", "mistral").key("sliding_window", 8), "another attention.sliding_window"),
        (
            Dense::of("llama-b").shorter(96),
            "has 96 units in its feed-forward networks, the longest expert 128: zeros",
        ),
    ];
    for (i, (dense, part)) in rows.into_iter().enumerate() {
        let name = format!("odd{i}");
        dense.write(folder.path(), &name);
        let words = GOOD.replace("llama-b\n", &format!("{name}\n"));
        let done = merged_as(&words, folder.path(), &format!("{name}.gguf"), &Asked::default()).unwrap();
        let own: Vec<&String> = done.report.remarks.iter().filter(|line| line.contains(&name)).collect();
        assert!(own.iter().any(|line| line.contains(part)), "{part}: {:?}", done.report.remarks);
    }
    // A token that only the expert has.
    let path = Dense::of("llama-b").write(folder.path(), "tokens");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let words = std::fs::read_to_string(path.join(file)).unwrap();
        std::fs::write(path.join(file), words.replace("<|im_end|>", "<|fin|>")).unwrap();
    }
    let words = GOOD.replace("llama-b\n", "tokens\n");
    let done = merged_as(&words, folder.path(), "tokens.gguf", &Asked::default()).unwrap();
    let part = "tokens has 1 token that the base lacks (\"<|fin|>\")";
    assert!(done.report.remarks.iter().any(|line| line.contains(part)), "{:?}", done.report.remarks);
    // Prompts that nothing is made of.
    let part = "gate_mode random makes nothing of the prompts";
    assert!(done.report.remarks.iter().any(|line| line.contains(part)), "{:?}", done.report.remarks);
}

#[test]
fn equal_prompts_of_some_experts_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut words = GOOD.replace("random", "hidden");
    words.push_str("- source_model: llama-c\n  positive_prompts: [songs]\n");
    let done = merged_as(&words, folder.path(), "out.gguf", &Asked::default()).unwrap();
    let warnings = done.loads.unwrap().warnings;
    let part = "experts 1 and 2 have the same gates in 3 of 3 layers: their order decides between them";
    assert!(warnings.iter().any(|line| line == part), "{warnings:?}");
}

#[test]
fn targets_that_exist_stay() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("old.gguf"), "old").unwrap();
    std::fs::write(at("file"), "old").unwrap();
    std::fs::create_dir_all(at("full/inner")).unwrap();
    let rows: [(&str, &[&str]); 4] = [
        ("old.gguf", &["old.gguf exists; --force replaces it"]),
        ("file", &["file exists; name another folder"]),
        ("full", &["full exists; name another folder"]),
        ("nowhere/out", &["nowhere: cannot make a folder in"]),
    ];
    for (out, parts) in rows {
        refused(GOOD, folder.path(), &[out], parts);
    }
    assert_eq!(std::fs::read(at("old.gguf")).unwrap(), b"old");
    // An empty folder is a place.
    std::fs::create_dir(at("empty")).unwrap();
    merged_as(GOOD, folder.path(), "empty", &Asked::default()).unwrap();
    assert!(at("empty/model.safetensors").is_file());
    // A source is no target, whatever is forced.
    let source = convert("llama-b", &at("source.gguf"));
    let before = std::fs::read(&source).unwrap();
    let words = GOOD.replace("llama-b\n", "source.gguf\n");
    let options = moewe_convert::Options { force: true, ..crate::merging::f32_options() };
    let mixture = parsed(&words, folder.path()).unwrap();
    let error = moewe_convert::merge::merge(&mixture, &source, &Asked::default(), &options, &()).unwrap_err();
    has_all(&error.to_string(), &["source.gguf is part of the source; name another file"], "source");
    assert_eq!(std::fs::read(&source).unwrap(), before);
}

fn convert(dense: &str, out: &Path) -> PathBuf {
    moewe_convert::convert(&golden().join("dense").join(dense), out, &crate::merging::f32_options(), &())
        .unwrap();
    out.to_owned()
}

#[test]
fn a_base_without_a_tokenizer_makes_gates_of_no_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = Dense::of("llama-base").write(folder.path(), "mute");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::remove_file(path.join(file)).unwrap();
    }
    let words = GOOD.replace("llama-base", "mute");
    for mode in ["hidden", "hidden_avg", "cheap_embed", "router"] {
        let parts = ["mute has no tokenizer", "tokenizer.json", "random or uniform_random"];
        refused(&words.replace("random", mode), folder.path(), &BOTH, &parts);
    }
    for mode in ["random", "uniform_random"] {
        let words = words.replace("random", mode);
        let done = merged_as(&words, folder.path(), &format!("{mode}.gguf"), &Asked::default()).unwrap();
        assert!(done.loads.is_none());
        merged_as(&words, folder.path(), mode, &Asked::default()).unwrap();
    }
}

/// A file may say of itself what its tensors are not: that is an error, and nothing is taken on its word.
#[test]
fn files_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = convert("llama-base", &folder.path().join("source.gguf"));
    let rows: [(&str, u32, &[&str]); 6] = [
        ("llama.block_count", u32::MAX, &["bad.gguf", "blk.3.ffn_gate.weight"]),
        ("llama.embedding_length", 32, &["blk.0.ffn_gate.weight of bad.gguf", "[128, 32]", "[128, 64]"]),
        ("llama.feed_forward_length", 127, &["blk.0.ffn_gate.weight of bad.gguf", "[127, 64]", "[128, 64]"]),
        ("llama.attention.head_count", 0, &["blk.0.attn_q.weight of bad.gguf", "rows for 0 heads"]),
        ("llama.attention.head_count_kv", 7, &["blk.0.attn_k.weight of bad.gguf", "rows for 7 heads"]),
        ("tokenizer.ggml.bos_token_id", 5000, &["bos_token_id", "5000"]),
    ];
    for (key, value, parts) in rows {
        let bad = folder.path().join("bad.gguf");
        with_key(&source, &bad, key, value);
        let words = GOOD.replace("llama-base", "bad.gguf").replace("random", "hidden");
        refused(&words, folder.path(), &["out.gguf"], parts);
        std::fs::remove_file(&bad).unwrap();
    }
}
