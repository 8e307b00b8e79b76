//! Adapters as peft made them: merged, written as GGUF, and added at run time, against peft's own numbers
//! (`tests/golden/lora/README.md`).

use crate::peft::*;
use moewe_convert::convert;
use moewe_convert::convert_adapter;
use moewe_engine::gguf::{Existing, Gguf};
use moewe_engine::model::Adapter;
use moewe_engine::session::{MemoryLimit, Options as EngineOptions};
use serde_json::Value;
use std::path::Path;

#[test]
fn merged_weights_and_logits_are_pefts() {
    for adapter in ADAPTERS {
        let folder = tempfile::tempdir().unwrap();
        let expected = arrays(&golden(adapter).join("expected.safetensors"));
        let base = converted(&base_of(adapter), folder.path(), "base.gguf", &options("F32", vec![]));
        let lora = vec![named(golden(adapter), 1.0)];
        let merged = converted(&base_of(adapter), folder.path(), "merged.gguf", &options("F32", lora));
        let tokens = tokens_of(&expected);
        let found = difference(&logits(&merged, &tokens, exact()), &expected["logits"].1);
        assert!(found <= LOGITS, "{adapter}: {found:e}");
        let [base, merged] = [&base, &merged].map(|path| Gguf::open(path).unwrap());
        let mut compared = 0;
        for (name, (shape, delta)) in &expected {
            let Some(name) = name.strip_prefix("delta.") else { continue };
            let found: Vec<f32> = of_hugging_face(&merged, name, shape)
                .iter()
                .zip(of_hugging_face(&base, name, shape))
                .map(|(merged, base)| merged - base)
                .collect();
            let most = found.iter().zip(delta).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most <= WEIGHTS, "{adapter} {name}: {most:e}");
            compared += 1;
        }
        assert!(compared > 0 || adapter == "mixtral-old-names", "{adapter}");
    }
}

/// A tensor of layer 0, or of none, as Hugging Face has it.
fn of_hugging_face(gguf: &Gguf, name: &str, shape: &[usize]) -> Vec<f32> {
    let name = name.trim_start_matches("model.layers.0.").trim_end_matches(".weight");
    let blk = |part: &str| of_file(gguf, &format!("blk.0.{part}.weight"));
    let is_llama = gguf.metadata().str("general.architecture").unwrap() == Some("llama");
    let halves = |values: Vec<f32>, heads: usize| {
        let (rows, columns) = (shape[0], shape[1]);
        let head = rows / heads;
        let place = |i: usize| i / head * head + i % head % (head / 2) * 2 + i % head / (head / 2);
        match is_llama {
            true => (0..rows).flat_map(|i| values[place(i) * columns..][..columns].to_vec()).collect(),
            false => values,
        }
    };
    match name {
        "self_attn.q_proj" => halves(blk("attn_q"), 4),
        "self_attn.k_proj" => halves(blk("attn_k"), 2),
        "self_attn.v_proj" => blk("attn_v"),
        "self_attn.o_proj" => blk("attn_output"),
        "mlp.gate" => blk("ffn_gate_inp"),
        "mlp.experts.down_proj" => blk("ffn_down_exps"),
        "mlp.experts.gate_up_proj" => {
            let (gate, up) = (blk("ffn_gate_exps"), blk("ffn_up_exps"));
            let one = gate.len() / shape[0];
            (0..shape[0]).flat_map(|e| [&gate[e * one..][..one], &up[e * one..][..one]].concat()).collect()
        }
        "lm_head" => of_file(gguf, "output.weight"),
        other => panic!("{other}"),
    }
}

#[test]
fn at_run_time_logits_are_pefts() {
    for adapter in ADAPTERS.into_iter().filter(|name| *name != "mixtral-dora") {
        let folder = tempfile::tempdir().unwrap();
        let expected = arrays(&golden(adapter).join("expected.safetensors"));
        let base = converted(&base_of(adapter), folder.path(), "base.gguf", &options("F32", vec![]));
        let lora = written(&golden(adapter), &base_of(adapter), folder.path(), "lora.gguf");
        let tokens = tokens_of(&expected);
        for plain in [false, true] {
            let options = with(&lora, 1.0, EngineOptions { plain, ..exact() });
            let found = difference(&logits(&base, &tokens, options), &expected["logits"].1);
            assert!(found <= LOGITS, "{adapter} {plain}: {found:e}");
        }
        // Token by token, and with nothing: not a bit changes.
        let found = logits(&base, &tokens, with(&lora, 1.0, EngineOptions { batch: 1, ..exact() }));
        assert!(difference(&found, &expected["logits"].1) <= LOGITS, "{adapter}");
        let nothing = logits(&base, &tokens, with(&lora, 0.0, exact()));
        assert!(nothing == logits(&base, &tokens, exact()), "{adapter}");
    }
}

#[test]
fn llama_cpps_file_and_ours_are_alike() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = golden("mixtral-old-names");
    let theirs = Gguf::open(adapter.join("adapter.gguf")).unwrap();
    let ours = written(&adapter, &golden("mixtral"), folder.path(), "ours.gguf");
    let gguf = Gguf::open(&ours).unwrap();
    assert_eq!(gguf.tensors().len(), theirs.tensors().len());
    for tensor in theirs.tensors() {
        let own = gguf.tensor(&tensor.name).unwrap_or_else(|| panic!("no {}", tensor.name));
        assert_eq!(own.shape, tensor.shape, "{}", tensor.name);
        let pairs = of_file(&gguf, &tensor.name).into_iter().zip(of_file(&theirs, &tensor.name));
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) <= WEIGHTS, "{}", tensor.name);
    }
    for key in ["general.type", "general.architecture", "adapter.type"] {
        assert_eq!(gguf.metadata().str(key).unwrap(), theirs.metadata().str(key).unwrap(), "{key}");
    }
    let alpha = |gguf: &Gguf| gguf.metadata().f32("adapter.lora.alpha").unwrap();
    assert_eq!(alpha(&gguf), alpha(&theirs));
    // Theirs merges as well.
    let [a, b] = [adapter.join("adapter.gguf"), ours].map(|path| {
        let name = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned() + ".gguf";
        converted(&golden("mixtral"), folder.path(), &name, &options("F32", vec![named(path, 1.0)]))
    });
    let [a, b] = [a, b].map(|path| of_file(&Gguf::open(path).unwrap(), "blk.1.ffn_down_exps.weight"));
    assert!(difference(&a, &b) < 1e-6);
}

/// Fused experts as peft 0.18 to 0.19.0 wrote them: inputs and outputs exchanged.
fn exchanged(arrays: &Arrays, experts: usize) -> Arrays {
    let mut old = arrays.clone();
    let fronts = arrays.keys().filter_map(|name| name.strip_suffix(".lora_A.weight"));
    for front in fronts.filter(|front| front.contains(".mlp.experts")) {
        let [a, b] = ["A", "B"].map(|half| format!("{front}.lora_{half}.weight"));
        let ((a_shape, a_values), (b_shape, b_values)) = (&arrays[&a], &arrays[&b]);
        let (rows, inputs, outputs) = (a_shape[0], a_shape[1], b_shape[0]);
        let rank = rows / experts;
        // (E * r, out) and (in, r * E), columns by expert first in steps of E.
        let mut new_a = vec![0.0; rows * outputs];
        let mut new_b = vec![0.0; inputs * rows];
        for e in 0..experts {
            for k in 0..rank {
                for o in 0..outputs {
                    new_a[(e * rank + k) * outputs + o] = b_values[o * rows + k * experts + e];
                }
                for i in 0..inputs {
                    new_b[i * rows + k * experts + e] = a_values[(e * rank + k) * inputs + i];
                }
            }
        }
        old.insert(a, (vec![rows, outputs], new_a));
        old.insert(b, (vec![inputs, rows], new_b));
    }
    old
}

#[test]
fn other_orientations_and_names_mean_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (adapter, experts) in [("mixtral-experts", 4), ("qwen3moe-all", 6)] {
        let own = arrays(&golden(adapter).join("adapter_model.safetensors"));
        let mut config = config_of(adapter);
        config["peft_version"] = "0.19.0".into();
        let old =
            folder_of(&folder.path().join(format!("{adapter}-old")), &config, &exchanged(&own, experts));
        let [a, b] = [golden(adapter), old].map(|path| {
            let name = format!("{}.gguf", path.file_name().unwrap().to_str().unwrap());
            Gguf::open(written(&path, &base_of(adapter), folder.path(), &name)).unwrap()
        });
        assert_eq!(a.tensors().len(), b.tensors().len());
        for tensor in a.tensors() {
            assert!(of_file(&a, &tensor.name) == of_file(&b, &tensor.name), "{adapter} {}", tensor.name);
        }
    }
    // qwen3moe's gate and up are as long as its width: without a version nobody knows which way round they are.
    let own = arrays(&golden("qwen3moe-all").join("adapter_model.safetensors"));
    let mut config = config_of("qwen3moe-all");
    config["peft_version"] = Value::Null;
    let unknown = folder_of(&folder.path().join("unknown"), &config, &own);
    let error =
        convert_adapter(&unknown, &golden("qwen3moe"), &folder.path().join("x"), f32s(), Existing::Keep);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("peft_version"), "{error}");
}

#[test]
fn several_adapters_add_up_and_have_factors() {
    let folder = tempfile::tempdir().unwrap();
    let base = converted(&golden("mixtral"), folder.path(), "base.gguf", &options("F32", vec![]));
    let [attention, experts] = ["mixtral-attention", "mixtral-experts"].map(golden);
    let lora = |path: &Path, name: &str| written(path, &golden("mixtral"), folder.path(), name);
    let (one, other) = (lora(&attention, "one.gguf"), lora(&experts, "other.gguf"));
    let both = vec![named(attention.clone(), 0.5), named(experts.clone(), -1.5)];
    let merged = converted(&golden("mixtral"), folder.path(), "both.gguf", &options("F32", both));
    let adapters = vec![Adapter::open(&one, 0.5).unwrap(), Adapter::open(&other, -1.5).unwrap()];
    let tokens: Vec<u32> = (5..45).collect();
    let found = logits(&base, &tokens, EngineOptions { adapters, ..exact() });
    let found = difference(&found, &logits(&merged, &tokens, exact()));
    assert!(found <= LOGITS, "{found:e}");
}

#[test]
fn on_quantized_files_only_what_is_touched_changes() {
    let folder = tempfile::tempdir().unwrap();
    let base = converted(&golden("mixtral"), folder.path(), "q4.gguf", &options("Q4_0", vec![]));
    let lora = written(&golden("mixtral-experts"), &golden("mixtral"), folder.path(), "lora.gguf");
    // Merged without another rounding, the plain backend computes the same from both.
    let floats = options("F32", vec![named(lora.clone(), 1.0)]);
    let merged = converted(&base, folder.path(), "floats.gguf", &floats);
    let tokens: Vec<u32> = (5..45).collect();
    let plain = || EngineOptions { plain: true, ..exact() };
    let beside = logits(&base, &tokens, with(&lora, 1.0, plain()));
    let found = difference(&beside, &logits(&merged, &tokens, plain()));
    assert!(found <= LOGITS, "{found:e}");
    // The fast backend is as far from it as without an adapter: what it rounds is the base's inputs.
    let mean = |a: &[f32], b: &[f32]| {
        let apart: f32 = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
        apart / b.iter().map(|b| b.abs()).sum::<f32>()
    };
    let without = mean(&logits(&base, &tokens, exact()), &logits(&base, &tokens, plain()));
    let beside = mean(&logits(&base, &tokens, with(&lora, 1.0, exact())), &beside);
    assert!(beside <= 1.5 * without, "{beside:e} {without:e}");
    // Tensors that no adapter touches keep their blocks, and the report names what was rounded once more.
    let keep = options("keep", vec![named(lora, 1.0)]);
    let out = folder.path().join("kept.gguf");
    let report = convert(&base, &out, &keep, &()).unwrap();
    assert_eq!(report.requantized, ["Q4_0"]);
    let [kept, base] = [&out, &base].map(|path| Gguf::open(path).unwrap());
    let same =
        |name: &str| *kept.bytes(kept.tensor(name).unwrap()) == *base.bytes(base.tensor(name).unwrap());
    assert!(same("token_embd.weight") && same("blk.0.ffn_gate_inp.weight"));
    assert!(!same("blk.0.ffn_up_exps.weight") && !same("blk.0.attn_q.weight"));
    assert_eq!(kept.tensor("blk.0.ffn_up_exps.weight").unwrap().format.name, "Q4_0");
}

#[test]
fn bits_depend_on_neither_threads_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let base = converted(&golden("mixtral"), folder.path(), "q4.gguf", &options("Q4_0", vec![]));
    let lora = written(&golden("mixtral-experts"), &golden("mixtral"), folder.path(), "lora.gguf");
    let tokens: Vec<u32> = (5..35).collect();
    let of = |threads: usize, memory: Option<MemoryLimit>| {
        let options = EngineOptions { threads: Some(threads), memory, ..exact() };
        logits(&base, &tokens, with(&lora, 1.0, options))
    };
    let first = of(1, None);
    for (threads, memory) in
        [(2, None), (3, None), (2, Some(MemoryLimit::Experts(0))), (1, Some(MemoryLimit::Experts(40_000)))]
    {
        assert!(of(threads, memory) == first, "{threads} {memory:?}");
    }
}
