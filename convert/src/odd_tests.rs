//! Checkpoints as people have them: keys left out, heads lost or doubled, names with prefixes, files of an earlier save,
//! pointers in the place of weights. Each is computed as its class does, or refused with the reason.

use super::layout_tests::{Tensors, assert_same, convert_as, golden, load, take, weights};
use super::*;
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

fn copy(tensors: &Tensors, name: &str) -> Vec<u8> {
    tensors.iter().find(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("no {name}")).3.clone()
}

fn refusal(config: &Value, tensors: &Tensors) -> String {
    convert_as(config, tensors, "F32").expect_err("a refusal").to_string()
}

/// Keys of the architecture, name by name.
fn keys(gguf: &Gguf) -> Vec<(String, String)> {
    let ours = gguf.metadata().iter().filter(|(key, _)| !key.starts_with("general."));
    ours.map(|(key, value)| (key.to_owned(), format!("{value:?}"))).collect()
}

/// Fixtures whose numbers are those of their classes convert alike without these keys.
#[test]
fn keys_that_are_left_out_are_the_classs() {
    let cases: &[(&str, &[&str])] = &[
        (
            "mixtral",
            &["rope_parameters", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "num_experts_per_tok"],
        ),
        (
            "gpt-oss",
            &["rope_parameters", "rms_norm_eps", "head_dim", "layer_types", "swiglu_limit", "attention_bias"],
        ),
        ("olmoe", &["rope_parameters", "rms_norm_eps", "norm_topk_prob", "num_key_value_heads"]),
        (
            "qwen2-tied",
            &["rope_parameters", "rms_norm_eps", "layer_types", "sliding_window", "use_sliding_window"],
        ),
        ("gemma3-linear", &["layer_types", "tie_word_embeddings", "hidden_activation"]),
        (
            "german-moe-gelu",
            &["rope_theta", "capacity_factor", "layer_norm_epsilon", "n_experts_active", "bias"],
        ),
        ("moe-124m-top2", &["top_k"]),
        ("tachyon-shared1", &["rope_theta", "n_shared_experts", "top_k_experts"]),
    ];
    for (name, left_out) in cases {
        let (config, tensors) = load(name);
        let (whole, _) = convert_as(&config, &tensors, "F32").unwrap();
        let mut sparse = config.clone();
        for key in *left_out {
            assert!(sparse.as_object_mut().unwrap().remove(*key).is_some(), "{name} has no {key}");
        }
        let (found, _) =
            convert_as(&sparse, &tensors, "F32").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(keys(&found), keys(&whole), "{name}");
        assert_same(&whole, &found);
    }
}

#[test]
fn an_untied_head_that_is_missing_is_an_error() {
    for name in ["mixtral", "llama-dense", "qwen2moe", "olmoe", "gpt-oss", "deepseek2", "granitemoe"] {
        let (mut config, mut tensors) = load(name);
        take(&mut tensors, "lm_head.weight");
        let message = refusal(&config, &tensors);
        assert!(message.contains("missing lm_head.weight"), "{name}: {message}");
        config.as_object_mut().unwrap().remove("tie_word_embeddings");
        let message = refusal(&config, &tensors);
        assert!(message.contains("missing lm_head.weight"), "{name}, by its class: {message}");
    }
}

/// transformers: two matrices that differ are not tied, whatever the configuration says, and one is enough.
#[test]
fn a_tied_head_that_differs_is_kept() {
    for name in ["llama-dense", "olmoe"] {
        let (mut config, mut tensors) = load(name);
        let (untied, _) = convert_as(&config, &tensors, "F32").unwrap();
        config["tie_word_embeddings"] = true.into();
        let (kept, report) = convert_as(&config, &tensors, "F32").unwrap();
        assert_same(&untied, &kept);
        assert!(report.remarks.iter().any(|said| said.contains("both are kept")), "{:?}", report.remarks);
        // The only matrix may go by the head's name.
        let head = copy(&tensors, "lm_head.weight");
        take(&mut tensors, "model.embed_tokens.weight");
        let (single, _) = convert_as(&config, &tensors, "F32").unwrap();
        assert_eq!(weights(&single, "token_embd.weight"), weights(&untied, "output.weight"), "{name}");
        assert!(!head.is_empty() && single.tensor("output.weight").is_some() == (name == "olmoe"));
    }
    // The same numbers in another type are the same.
    let (mut config, mut tensors) = load("llama-dense");
    config["tie_word_embeddings"] = true.into();
    let table = copy(&tensors, "model.embed_tokens.weight");
    let wide: Vec<u8> = table
        .as_chunks()
        .0
        .iter()
        .flat_map(|two| half::bf16::from_le_bytes(*two).to_f32().to_le_bytes())
        .collect();
    take(&mut tensors, "lm_head.weight");
    tensors.push(("lm_head.weight".into(), Dtype::F32, vec![320, 256], wide));
    let (gguf, report) = convert_as(&config, &tensors, "F32").unwrap();
    assert!(gguf.tensor("output.weight").is_none());
    assert_eq!(report.dropped, ["lm_head.weight"]);
    // The founding systems have one matrix in all cases.
    let (config, mut tensors) = load("tachyon-shared1");
    let other = vec![0; copy(&tensors, "embed.weight").len()];
    tensors.push(("lm_head.weight".into(), Dtype::BF16, vec![512, 256], other));
    assert!(refusal(&config, &tensors).contains("which is the head"));
}

/// Prefixes that are in the place of `model.`, with what stands before the head.
#[test]
fn names_may_have_other_prefixes() {
    let (config, tensors) = load("mixtral");
    let (expected, report) = convert_as(&config, &tensors, "F32").unwrap();
    assert!(report.remarks.is_empty(), "{:?}", report.remarks);
    let cases = [
        ("", "", true),
        ("model.model.", "model.", true),
        ("base_model.model.model.", "base_model.model.", true),
        ("module.model.", "module.", false),
        ("_orig_mod.model.", "_orig_mod.", false),
        ("language_model.model.", "language_model.", false),
        ("model.language_model.", "", false),
        ("student.model.", "student.", true),
    ];
    for (decoder, head, is_said) in cases {
        let renamed = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let name = match name.strip_prefix("model.") {
                Some(rest) => format!("{decoder}{rest}"),
                None => format!("{head}{name}"),
            };
            (name, *dtype, shape.clone(), bytes.clone())
        });
        let (found, report) = convert_as(&config, &renamed.collect(), "F32").unwrap();
        assert_same(&expected, &found);
        assert_eq!(report.remarks.iter().any(|said| said.contains("usual")), is_said, "{decoder}");
    }
    // An adapter beside its base is no model.
    let mut with_adapter = tensors;
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    with_adapter.push((name.into(), Dtype::BF16, vec![4, 4], vec![0; 32]));
    assert!(refusal(&config, &with_adapter).contains("merge it into its base"));
}

/// `model.safetensors` of the last save beside the index and the shards of an earlier one.
#[test]
fn a_whole_file_goes_before_a_stale_index() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("mixtral").join(file), folder.path().join(file)).unwrap();
    }
    let index = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join("consolidated.00.pth"), "anything").unwrap();
    let (config, tensors) = load("mixtral");
    let (expected, _) = convert_as(&config, &tensors, "F32").unwrap();
    for with_shards in [false, true] {
        if with_shards {
            std::fs::write(folder.path().join("model-00001-of-00002.safetensors"), "of an earlier save")
                .unwrap();
        }
        let out = folder.path().join(format!("{with_shards}.gguf"));
        let report =
            convert(folder.path(), &out, &Options::new(Format::by_name("F32").unwrap()), &()).unwrap();
        assert_same(&expected, &Gguf::open(&out).unwrap());
        let said = report.remarks.join("; ");
        assert!(said.contains("consolidated.00.pth") && said.contains("index.json"), "{said}");
        assert_eq!(said.contains("model-00001-of-00002.safetensors"), with_shards, "{said}");
    }
}

#[test]
fn eight_bit_floats_with_every_kind_of_factor() {
    let name = "model.layers.0.mlp.down_proj.weight"; // [256, 512]
    let ones = |dtype| if dtype == Dtype::F8_E5M2 { 0x3c } else { 0x38 };
    let f32s = |count: usize| (1..=count).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
    let bf16s = |count: usize| {
        (1..=count).flat_map(|i| half::bf16::from_f32(i as f32).to_le_bytes()).collect::<Vec<u8>>()
    };
    type Case = (Dtype, &'static str, Dtype, Vec<usize>, Vec<u8>, [f32; 2]);
    let cases: Vec<Case> = vec![
        (Dtype::F8_E4M3, "_scale", Dtype::F32, vec![], f32s(1), [1.0, 1.0]),
        (
            Dtype::F8_E4M3,
            "_scale",
            Dtype::BF16,
            vec![1],
            3f32.to_bits().to_be_bytes()[..2].iter().rev().copied().collect(),
            [3.0, 3.0],
        ),
        (Dtype::F8_E4M3, "_scale_inv", Dtype::F32, vec![1], 5f32.to_le_bytes().to_vec(), [5.0, 5.0]),
        (Dtype::F8_E5M2, "_scale", Dtype::F32, vec![1, 1], 0.5f32.to_le_bytes().to_vec(), [0.5, 0.5]),
        (Dtype::F8_E5M2, "_scale_inv", Dtype::F32, vec![2, 4], f32s(8), [1.0, 8.0]),
        (Dtype::F8_E4M3, "_scale", Dtype::F32, vec![256, 1], f32s(256), [1.0, 256.0]),
        (Dtype::F8_E4M3, "_scale", Dtype::BF16, vec![256], bf16s(256), [1.0, 256.0]),
    ];
    for (dtype, end, factor_dtype, shape, factors, [first, last]) in cases {
        let (mut config, mut tensors) = load("llama-dense");
        config["quantization_config"] = json!({ "quant_method": "fp8" });
        take(&mut tensors, name);
        tensors.push((name.into(), dtype, vec![256, 512], vec![ones(dtype); 256 * 512]));
        let message = refusal(&config, &tensors);
        assert!(message.contains("factors") && message.contains(name), "{message}");
        tensors.push((format!("{name}{end}"), factor_dtype, shape.clone(), factors));
        let of_inputs = name.replace("weight", "input_scale");
        tensors.push((of_inputs.clone(), Dtype::F32, vec![], 1f32.to_le_bytes().to_vec()));
        let (gguf, report) = convert_as(&config, &tensors, "F32").unwrap();
        let down = weights(&gguf, "blk.0.ffn_down.weight");
        assert_eq!([down[0], down[256 * 512 - 1]], [first, last], "{dtype:?} {end} {shape:?}");
        assert_eq!(report.dropped, [of_inputs]);
    }
}

/// How weights are packed, but for what is said otherwise.
fn packed(otherwise: Value) -> Value {
    let mut weights = json!({ "num_bits": 4, "type": "int", "symmetric": true, "strategy": "group" });
    weights.as_object_mut().unwrap().extend(otherwise.as_object().unwrap().clone());
    json!({ "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": { "group_0": { "weights": weights } } })
}

#[test]
fn packed_weights_are_read_or_refused_by_name() {
    let cases = [
        (json!({ "quant_method": "fp8" }), None),
        (json!({ "quant_method": "compressed-tensors", "format": "float-quantized" }), None),
        (json!({ "quant_method": "modelopt", "quant_algo": "FP8" }), None),
        (json!({ "quant_method": "compressed-tensors", "format": "pack-quantized" }), Some("pack-quantized")),
        (packed(json!({})), None),
        (packed(json!({ "strategy": "channel" })), None),
        (packed(json!({ "num_bits": 8 })), Some("\"num_bits\":8")),
        (packed(json!({ "symmetric": false })), Some("\"symmetric\":false")),
        (packed(json!({ "type": "float" })), Some("\"type\":\"float\"")),
        (json!({ "quant_method": "modelopt", "quant_algo": "NVFP4" }), Some("NVFP4")),
        (json!({ "quant_method": "awq" }), Some("awq")),
        (json!({ "quant_method": "bitsandbytes", "load_in_4bit": true }), Some("bitsandbytes")),
        (json!({ "bits": 4 }), Some("nothing")),
    ];
    for (quantization, refused) in cases {
        for config in [
            json!({ "quantization_config": quantization }),
            json!({ "text_config": { "quantization_config": quantization } }),
        ] {
            let message = hf::refuse_packed(&config).err().map(|error| error.to_string());
            assert_eq!(message.is_some(), refused.is_some(), "{config}: {message:?}");
            assert!(refused.is_none_or(|name| message.unwrap().contains(name)), "{config}");
        }
    }
}

/// What lies in the place of a file, and what is said about it.
#[test]
fn pointers_pages_and_halves_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4271240\n";
    let page = "<!DOCTYPE html><html><body>Sign in</body></html>";
    let weights = std::fs::read(golden("mixtral/model.safetensors")).unwrap();
    let pickle = std::fs::read(golden("moe-124m-checkpoint/state_dict.pt")).unwrap();
    let cases: &[(&str, &[u8], &str)] = &[
        ("model.safetensors", pointer.as_bytes(), "git lfs pull"),
        ("model.safetensors", page.as_bytes(), "a web page"),
        ("model.safetensors", b"", "an empty file"),
        ("model.safetensors", b"Entry not found", "not found"),
        ("model.safetensors", &weights[..weights.len() - 9], "incomplete"),
        ("model.safetensors", &weights[..100], "incomplete"),
        ("model.safetensors", &pickle[..pickle.len() - 100], "incomplete"),
        ("config.json", pointer.as_bytes(), "git lfs pull"),
        ("config.json", page.as_bytes(), "a web page"),
        ("generation_config.json", pointer.as_bytes(), "git lfs pull"),
        ("generation_config.json", b"{", "JSON"),
        ("model.safetensors.index.json", pointer.as_bytes(), ""),
        ("tokenizer.json", pointer.as_bytes(), "git lfs pull"),
        ("tokenizer_config.json", page.as_bytes(), "a web page"),
        ("tokenizer_config.json", br#"{"chat_template": "{% if %}"}"#, "Jinja"),
        ("chat_template.jinja", b"{{ messages", "Jinja"),
    ];
    for &(name, contents, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("mixtral").join(file), folder.path().join(file)).unwrap();
        }
        std::fs::write(folder.path().join(name), contents).unwrap();
        let out = folder.path().join("m.gguf");
        let result = convert(folder.path(), &out, &Options::new(Format::by_name("F32").unwrap()), &());
        if expected.is_empty() {
            assert!(result.is_ok(), "{name} is not read: {result:?}");
            continue;
        }
        let message = result.expect_err(name).to_string();
        assert!(message.contains(expected) && message.contains(name), "{message}");
        assert!(!out.exists());
    }
}

/// A byte order mark, and numbers that are none where nothing reads them.
#[test]
fn configurations_are_read_as_python_writes_them() {
    let (config, tensors) = load("mixtral");
    let (expected, _) = convert_as(&config, &tensors, "F32").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("mixtral/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let out = folder.path().join("m.gguf");
    let write = |text: String| {
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        convert(
            folder.path(),
            &out,
            &Options { force: true, ..Options::new(Format::by_name("F32").unwrap()) },
            &(),
        )
    };
    write(format!(
        "\u{feff}{}",
        config.to_string().replacen('{', r#"{"router_aux_loss": NaN, "limit": -Infinity,"#, 1)
    ))
    .unwrap();
    assert_same(&expected, &Gguf::open(&out).unwrap());
    let mut endless = config;
    endless["rms_norm_eps"] = "X".into();
    let message = write(endless.to_string().replace("\"X\"", "Infinity")).unwrap_err();
    assert!(
        message.to_string().contains("rms_norm_eps") && message.to_string().contains("Infinity"),
        "{message}"
    );
}

/// A fine-tune's tokens beyond the embedding: an error that names the way round, and rows that no text has trained.
#[test]
fn tokens_beyond_the_embedding_get_rows_on_request() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("mixtral").join(file), folder.path().join(file)).unwrap();
    }
    let tokenizer = golden("tokenizer/byte_level.tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    let (out, plain) = (folder.path().join("m.gguf"), Options::new(Format::by_name("F32").unwrap()));
    let message = convert(folder.path(), &out, &plain, &()).unwrap_err().to_string();
    assert!(message.contains("--add-vocabulary-rows"), "{message}");
    let options = Options { add_vocabulary_rows: true, ..plain };
    let report = convert(folder.path(), &out, &options, &()).unwrap();
    assert!(report.remarks.iter().any(|remark| remark.contains("the mean of all others")), "{report:?}");
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(gguf.metadata().u64("llama.vocab_size").unwrap(), Some(512));
    let (config, tensors) = load("mixtral");
    let (before, _) = convert_as(&config, &tensors, "F32").unwrap();
    for name in ["token_embd.weight", "output.weight"] {
        let (old, new) = (weights(&before, name), weights(&gguf, name));
        let width = gguf.tensor(name).unwrap().shape[0] as usize;
        assert_eq!((new.len(), &new[..old.len()]), (512 * width, &old[..]), "{name}");
        let mean = |column: usize| {
            let column = old.iter().skip(column).step_by(width).map(|&weight| f64::from(weight));
            (column.sum::<f64>() / (old.len() / width) as f64) as f32
        };
        for row in [old.len() / width, 511] {
            let expected: Vec<f32> = (0..width).map(mean).collect();
            assert_eq!(new[row * width..][..width], expected, "row {row} of {name}");
        }
    }
}

/// Numbers that no check here minds, but the runtime does: no file appears.
#[test]
fn what_cannot_run_is_not_written() {
    for (key, value) in [("rms_norm_eps", json!(1.0)), ("max_position_embeddings", json!(1u64 << 29))] {
        let (mut config, tensors) = load("mixtral");
        config[key] = value;
        let message = refusal(&config, &tensors);
        assert!(message.contains("cannot run"), "{key}: {message}");
    }
}

/// A class that wraps or changes one that is known goes by its model type: it may compute anything.
#[test]
fn classes_that_are_not_known_are_refused() {
    let (mut config, tensors) = load("mixtral");
    config["architectures"] = json!(["MixtralEncoderModel"]);
    let message = refusal(&config, &tensors);
    assert!(message.contains("MixtralEncoderModel") && message.contains("mixtral"), "{message}");
    config.as_object_mut().unwrap().remove("architectures");
    convert_as(&config, &tensors, "F32").unwrap();
    config["is_causal"] = false.into();
    assert!(refusal(&config, &tensors).contains("is_causal"));
}
