//! Mixtures against mergekit's of the same models, and what mergekit does not check or make.
//!
//! The references come from mergekit and transformers, those of `routers/` from numpy (`tests/golden/merge/README.md`).

use crate::merging::{difference, f32_options, golden, logits, of_file, parsed, relative, tensors};
use moewe_convert::merge::{Asked, Merged, Mixture, Wishes, merge};
use moewe_convert::{Options, Pad, Recipe, convert};
use moewe_engine::gguf::{Gguf, Metadata};
use moewe_engine::quant::Format;
use ring::digest::{SHA256, digest};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Of gates, in float32.
const GATES: f32 = 1e-5;
/// Of logits, relative to the largest.
const LOGITS: f32 = 2e-5;

fn mixture(folder: &str, file: &str) -> Mixture {
    let folder = golden().join(folder);
    parsed(&std::fs::read_to_string(folder.join(file)).unwrap(), &folder).unwrap()
}

fn merged(mixture: &Mixture, out: &Path) -> Merged {
    merge(mixture, out, &Asked::default(), &f32_options(), &()).unwrap()
}

/// The cases that mergekit made, and the rows of their gates that compare: of experts whose prompts are read alike.
const CASES: [(&str, &[usize]); 10] = [
    ("mixtral-hidden", &[0, 1, 2, 3]),
    ("mixtral-hidden-avg", &[3]),
    ("mixtral-cheap-embed", &[0, 1, 2, 3]),
    ("mixtral-random", &[]),
    ("mixtral-uniform", &[]),
    ("mixtral-empty", &[0, 1, 2, 3]),
    ("mixtral-tied", &[0, 1, 2]),
    ("qwen-shared-llama", &[0, 1, 2, 3]),
    ("qwen2-shared", &[0, 2]),
    ("qwen3", &[0, 1]),
];

#[test]
fn folders_have_mergekits_tensors() {
    for (case, _) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let asked = mixture(case, "merge.yaml");
        merged(&asked, &out);
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let ours = SafeTensors::deserialize(&bytes).unwrap();
        let hashes: Value =
            serde_json::from_slice(&std::fs::read(golden().join(case).join("hashes.json")).unwrap()).unwrap();
        for (name, about) in hashes.as_object().unwrap() {
            let bytes = bytes_of(&ours, name, asked.experts.len());
            let hash =
                digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(about["sha256"], hash, "{case} {name}");
        }
        // Nothing else but routers, in the type that was asked for.
        let others = ours.names().into_iter().filter(|name| !hashes.as_object().unwrap().contains_key(*name));
        for name in others {
            let is_expert = name.contains(".w1.") || name.contains(".w2.") || name.contains(".w3.");
            let is_expert = is_expert || name.contains(".experts.");
            assert!(is_expert || name.ends_with("gate.weight"), "{case} {name}");
        }
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            let base = std::fs::read(asked.base[0].0.path.join(file)).unwrap();
            assert_eq!(std::fs::read(out.join(file)).unwrap(), base, "{case} {file}");
        }
        same_config(case, &out);
    }
}

/// mergekit's fused experts from ours, which stand one by one.
fn bytes_of(ours: &SafeTensors, name: &str, experts: usize) -> Vec<u8> {
    if let Ok(view) = ours.tensor(name) {
        return view.data().to_vec();
    }
    let (front, part) = name.split_once("mlp.experts.").unwrap();
    let expert = |e: usize, [mixtral, usual]: [&str; 2]| {
        let names = [
            format!("{front}block_sparse_moe.experts.{e}.{mixtral}.weight"),
            format!("{front}mlp.experts.{e}.{usual}.weight"),
        ];
        let found = names.iter().find_map(|name| ours.tensor(name).ok());
        found.unwrap_or_else(|| panic!("none of {names:?}")).data().to_vec()
    };
    let matrices: &[[&str; 2]] = match part {
        "gate_up_proj" => &[["w1", "gate_proj"], ["w3", "up_proj"]],
        _ => &[["w2", "down_proj"]],
    };
    (0..experts).flat_map(|e| matrices.iter().flat_map(move |names| expert(e, *names))).collect()
}

/// Keys that decide what is computed, as mergekit writes them.
fn same_config(case: &str, out: &Path) {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let (ours, theirs) = (read(out.join("config.json")), read(golden().join(case).join("config.json")));
    for key in [
        "architectures",
        "model_type",
        "num_experts_per_tok",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "vocab_size",
        "tie_word_embeddings",
        "dtype",
    ] {
        assert_eq!(ours[key], theirs[key], "{case} {key}");
    }
    let count = |config: &Value| config.get("num_experts").or(config.get("num_local_experts")).cloned();
    assert_eq!(count(&ours), count(&theirs), "{case}");
    for key in
        ["moe_intermediate_size", "shared_expert_intermediate_size", "norm_topk_prob", "decoder_sparse_step"]
    {
        if ours["model_type"] == "qwen2_moe" {
            assert_eq!(ours[key], theirs[key], "{case} {key}");
        }
    }
}

#[test]
fn gates_and_logits_are_mergekits() {
    for (case, rows) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.gguf");
        let asked = mixture(case, "merge.yaml");
        merged(&asked, &out);
        let expected = tensors(&golden().join(case).join("expected.safetensors"));
        let mut gguf = Gguf::open(&out).unwrap();
        let mut compared = 0;
        for (name, (shape, values)) in &expected {
            let Some((kind, name)) = name.split_once('.').filter(|(kind, _)| *kind != "tokens") else {
                continue;
            };
            let layer = name.split('.').nth(2).unwrap();
            let is_shared = name.contains("shared_expert_gate");
            let own = if is_shared { "ffn_gate_inp_shexp" } else { "ffn_gate_inp" };
            let own = format!("blk.{layer}.{own}.weight");
            let ours = of_file(&gguf, &own);
            let width = shape[1];
            // In BF16 mergekit's own sums are rounded, too.
            let tolerance = if kind == "f32" || case == "mixtral-cheap-embed" { GATES } else { 8e-3 };
            let all = [0];
            for &row in if is_shared { &all[..] } else { rows } {
                let range = row * width..(row + 1) * width;
                let found = difference(&ours[range.clone()], &values[range]);
                assert!(found <= tolerance, "{case} {kind} {name} {row}: {found:e}");
                compared += 1;
            }
            if kind == "merged" {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                gguf = gguf.with_tensor(&own, Format::by_name("F32").unwrap(), bytes).unwrap();
            }
        }
        assert!(rows.is_empty() || compared >= rows.len() * 2, "{case} {compared}");
        // With mergekit's gates, since a choice between two that are nearly equal is not ours to make.
        let tokens: Vec<u32> = expected["tokens"].1.iter().map(|&token| token as u32).collect();
        let found = logits(gguf, &tokens);
        let found = relative(&found, &expected["logits"].1);
        assert!(found <= LOGITS, "{case}: {found:e}");
    }
}

#[test]
fn random_gates_have_their_distribution_and_their_seed() {
    let folder = tempfile::tempdir().unwrap();
    let gates = |case: &str, seed: u64, name: &str| -> Vec<f32> {
        let asked = Mixture { seed, ..mixture(case, "merge.yaml") };
        let out = folder.path().join(name);
        merged(&asked, &out);
        let gguf = Gguf::open(&out).unwrap();
        (0..3).flat_map(|layer| of_file(&gguf, &format!("blk.{layer}.ffn_gate_inp.weight"))).collect()
    };
    let normal = gates("mixtral-random", 0, "a.gguf");
    let mean = normal.iter().sum::<f32>() / normal.len() as f32;
    let deviation = (normal.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / normal.len() as f32).sqrt();
    assert!(mean.abs() < 0.12 && (deviation - 1.0).abs() < 0.1, "{mean} {deviation}");
    let uniform = gates("mixtral-uniform", 0, "b.gguf");
    let most = uniform.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(most <= 0.125 && most > 0.12, "{most}");
    assert_eq!(normal, gates("mixtral-random", 0, "c.gguf"));
    assert_ne!(normal, gates("mixtral-random", 1, "d.gguf"));
}

#[test]
fn gates_of_router_inputs_and_texts_are_numpys() {
    let folder = tempfile::tempdir().unwrap();
    let expected = tensors(&golden().join("routers/expected.safetensors"));
    let asked = |scale| Asked { gates: Wishes { tokens: 1 << 20, scale }, ..Asked::default() };
    for (file, scale) in [("average", None), ("router", None), ("text", Some(1.0))] {
        let out = folder.path().join(format!("{file}.gguf"));
        let mixture = mixture("routers", &format!("{file}.yaml"));
        let merged = merge(&mixture, &out, &asked(scale), &f32_options(), &()).unwrap();
        let gguf = Gguf::open(&out).unwrap();
        for layer in 0..3 {
            let found = of_file(&gguf, &format!("blk.{layer}.ffn_gate_inp.weight"));
            let found = difference(&found, &expected[&format!("{file}.{layer}")].1);
            assert!(found <= GATES, "{file} {layer}: {found:e}");
        }
        let loads = merged.loads.unwrap();
        assert_eq!(loads.layers.len(), 3);
        if file == "text" {
            let wanted = &expected["loads"].1;
            assert!((loads.own_first - f64::from(wanted[0])).abs() < 1e-3, "{loads:?}");
            assert!((loads.own_chosen - f64::from(wanted[1])).abs() < 1e-3, "{loads:?}");
            for (load, first) in loads.experts.iter().zip(&expected["first"].1) {
                assert!((load.first - f64::from(*first)).abs() < 1e-3, "{loads:?}");
            }
        }
    }
    // The factor that held-out text wants, found another way.
    let out = folder.path().join("sharp.gguf");
    merge(&mixture("routers", "text.yaml"), &out, &asked(None), &f32_options(), &()).unwrap();
    let [plain, sharp] =
        ["text.gguf", "sharp.gguf"].map(|name| Gguf::open(folder.path().join(name)).unwrap());
    for (layer, wanted) in expected["scales"].1.iter().enumerate() {
        let name = format!("blk.{layer}.ffn_gate_inp.weight");
        let scale = of_file(&sharp, &name)[0] / of_file(&plain, &name)[0];
        assert!((scale / wanted - 1.0).abs() < 2e-3, "{layer}: {scale} {wanted}");
    }
}

fn entries(metadata: &Metadata) -> BTreeMap<String, String> {
    let own = ["general.name", "general.base_model", "moewe.merge"];
    let entries = metadata.iter().filter(|(key, _)| !own.iter().any(|front| key.starts_with(front)));
    let words =
        |value: &moewe_engine::gguf::Value| match value.as_array().and_then(|array| array.as_strings()) {
            // Strings of a file know where they stand in it.
            Some(words) => words.collect::<Vec<_>>().join(" "),
            None => format!("{value:?}"),
        };
    entries.map(|(key, value)| (key.to_owned(), words(value))).collect()
}

fn same_file(a: &Path, b: &Path, what: &str) {
    let (a, b) = (Gguf::open(a).unwrap(), Gguf::open(b).unwrap());
    let names =
        |gguf: &Gguf| -> Vec<String> { gguf.tensors().iter().map(|tensor| tensor.name.clone()).collect() };
    assert_eq!(names(&a), names(&b), "{what}");
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!((x.format, &x.shape), (y.format, &y.shape), "{what} {}", x.name);
        assert!(*a.bytes(x) == *b.bytes(y), "{what} {}", x.name);
    }
    assert_eq!(entries(a.metadata()), entries(b.metadata()), "{what}");
}

#[test]
fn one_go_equals_a_folder_that_is_converted() {
    for case in ["mixtral-cheap-embed", "mixtral-tied", "qwen-shared-llama", "qwen2-shared", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        // In float32, so that gates are the same in both.
        let f32 = Format::by_name("F32");
        let asked = Mixture { dtype: f32, ..mixture(case, "merge.yaml") };
        let options = Options { pad: Pad::Never, ..Options::with(Recipe::Bits(5.5)) };
        let [direct, between, after] =
            ["direct.gguf", "between", "after.gguf"].map(|name| folder.path().join(name));
        merge(&asked, &direct, &Asked::default(), &options, &()).unwrap();
        merge(&asked, &between, &Asked::default(), &options, &()).unwrap();
        convert(&between, &after, &options, &()).unwrap();
        same_file(&direct, &after, case);
    }
}

#[test]
fn both_layouts_of_mixtrals_names_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let [theirs, ours] = ["theirs.gguf", "ours.gguf"].map(|name| folder.path().join(name));
    convert(&golden().join("mixtral-hidden/out"), &theirs, &f32_options(), &()).unwrap();
    merged(&mixture("mixtral-hidden", "merge.yaml"), &ours);
    let (theirs, ours) = (Gguf::open(&theirs).unwrap(), Gguf::open(&ours).unwrap());
    assert_eq!(theirs.tensors().len(), ours.tensors().len());
    for tensor in theirs.tensors().iter().filter(|tensor| !tensor.name.contains("ffn_gate_inp")) {
        let other = ours.tensor(&tensor.name).unwrap();
        assert!(*theirs.bytes(tensor) == *ours.bytes(other), "{}", tensor.name);
    }
}

/// The models of a mixture as GGUF files in a format, and the mixture of these.
fn of_files(asked: &Mixture, folder: &TempDir, format: &str) -> Mixture {
    let mut asked = asked.clone();
    let options = Options { pad: Pad::Never, ..Options::with(Recipe::by_name(format).unwrap()) };
    let place = |path: &mut PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let out = folder.path().join(format!("{name}-{format}.gguf"));
        if !out.exists() {
            convert(path, &out, &options, &()).unwrap();
        }
        *path = out;
    };
    place(&mut asked.base[0].0.path);
    asked.experts.iter_mut().chain(&mut asked.shared).for_each(|expert| place(&mut expert.source.path));
    asked
}

#[test]
fn files_as_sources_give_what_checkpoints_give() {
    for case in ["mixtral-hidden", "mixtral-tied", "qwen-shared-llama", "qwen2-shared", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        let asked = mixture(case, "merge.yaml");
        let files = of_files(&asked, &folder, "BF16");
        let [a, b] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
        merged(&asked, &a);
        merged(&files, &b);
        // residual_scale rounds to the source's floats, which norms and biases of the file no longer are: they are not scaled.
        same_file(&a, &b, case);
    }
}

#[test]
fn blocks_of_sources_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let asked = mixture("mixtral-hidden", "merge.yaml");
    let files = of_files(&asked, &folder, "Q8_0");
    let out = folder.path().join("kept.gguf");
    let options = Options { pad: Pad::Never, ..Options::with(Recipe::Keep) };
    let done = merge(&files, &out, &Asked::default(), &options, &()).unwrap();
    assert!(done.report.requantized.is_empty(), "{:?}", done.report.requantized);
    let kept = Gguf::open(&out).unwrap();
    let sources: Vec<Gguf> =
        files.experts.iter().map(|expert| Gguf::open(&expert.source.path).unwrap()).collect();
    for layer in 0..3 {
        for part in ["gate", "up", "down"] {
            let stack = kept.tensor(&format!("blk.{layer}.ffn_{part}_exps.weight")).unwrap();
            assert_eq!(stack.format.name, "Q8_0");
            let own = |gguf: &Gguf| {
                gguf.bytes(gguf.tensor(&format!("blk.{layer}.ffn_{part}.weight")).unwrap()).to_vec()
            };
            assert!(
                kept.bytes(stack)[..] == sources.iter().flat_map(own).collect::<Vec<u8>>(),
                "{layer} {part}"
            );
        }
    }
    // Mixed formats have no stack of blocks, and a checkpoint has no blocks to keep but its floats.
    let mut mixed = files.clone();
    mixed.experts[1].source.path = asked.experts[1].source.path.clone();
    let error = merge(&mixed, &folder.path().join("x.gguf"), &Asked::default(), &options, &()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("ffn_gate_exps") && error.contains("--bits"), "{error}");
    let floats = folder.path().join("floats.gguf");
    merge(&asked, &floats, &Asked::default(), &options, &()).unwrap();
    assert_eq!(Gguf::open(&floats).unwrap().tensor("blk.0.ffn_up_exps.weight").unwrap().format.name, "BF16");
}

#[test]
fn experts_that_are_the_base_compute_what_it_does() {
    // One source for all computes what it computes alone, whatever the router says.
    let folder = tempfile::tempdir().unwrap();
    let mut asked = mixture("mixtral-hidden", "merge.yaml");
    asked.experts.truncate(3);
    let base = asked.base[0].0.clone();
    asked.experts.iter_mut().for_each(|expert| expert.source = base.clone());
    let refused =
        merge(&asked, &folder.path().join("x.gguf"), &Asked::default(), &f32_options(), &()).unwrap_err();
    assert!(refused.to_string().contains("--upcycle"), "{refused}");
    let out = folder.path().join("same.gguf");
    let upcycle = Asked { upcycle: true, ..Asked::default() };
    let done = merge(&asked, &out, &upcycle, &f32_options(), &()).unwrap();
    let alone = folder.path().join("alone.gguf");
    convert(&base.path, &alone, &f32_options(), &()).unwrap();
    let tokens: Vec<u32> = (5..60).collect();
    let [mixture, dense] = [&out, &alone].map(|path| logits(Gguf::open(path).unwrap(), &tokens));
    assert!(relative(&mixture, &dense) < 1e-5);
    // Its streams are the base's, so what the check saw is what the mixture does with the same tokens.
    assert!(done.loads.unwrap().tokens > 0);
}
