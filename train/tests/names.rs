//! What we export has the names, the shapes and the config keys of the originals, and their checkpoints compute here
//! what they compute there.

#![allow(clippy::print_stdout, reason = "the errors are for `--nocapture`")]

mod support;

use moewe_convert::checkpoint::Checkpoint;
use moewe_train::model::{Batch, Config, Model, PRESETS, Pass};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::process::trainer;
use support::{cases, config, cross_entropy, difference, golden, model, numbers, tensors, write_rows};

const FIXTURES: [&str; 9] = [
    "german-moe-gelu",
    "german-moe-swiglu",
    "german-moe-bias",
    "tachyon-shared1",
    "moe-124m-top2",
    "mixtral",
    "llama-dense",
    "qwen3moe",
    "olmoe",
];
/// Largest difference from the reference, relative to its largest logit.
const TOLERANCE: f32 = 2e-5;
const LENGTHS: [usize; 9] = [1, 2, 3, 5, 8, 13, 21, 34, 48]; // of prefixes whose next token is predicted

/// Names with shapes, as the trainer writes them.
fn own_shapes(model: &Model) -> BTreeMap<String, Vec<usize>> {
    let pieces = model.parameters.iter().flat_map(|parameter| &parameter.spec.pieces);
    pieces.map(|piece| (piece.name.clone(), piece.shape.clone())).collect()
}

fn shapes(file: &Path) -> BTreeMap<String, Vec<usize>> {
    tensors(file).into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
}

#[test]
fn fixtures_compute_their_reference_logits() {
    for name in FIXTURES {
        let folder = golden(name);
        let weights = tensors(&folder.join("model.safetensors"));
        for case in cases(&folder) {
            let mut config = config(&folder);
            config.experts.capacity = config.experts.capacity.filter(|_| case.has_capacity());
            let model = model(config, &weights);
            let (length, width) = (case.tokens.len(), model.config.vocabulary);
            // With capacity a token depends on those after it, so that only the last one of all has this context.
            let lengths = LENGTHS.into_iter().filter(|&n| n < length && !case.has_capacity()).chain([length]);
            let mut worst = 0f32;
            for n in lengths {
                let found = numbers(
                    &model.logits(Batch { tokens: &case.tokens[..n], rows: 1, packing: None }).unwrap(),
                );
                worst = worst.max(difference(&found, &case.logits[(n - 1) * width..n * width]));
            }
            assert!(worst <= TOLERANCE, "{name} {}: {worst:.1e}", case.name);
            println!("{name:18} {:13} {worst:.1e}", case.name);
            if length > 1 {
                let batch = Batch { tokens: &case.tokens, rows: 1, packing: None };
                let found = model.evaluate(batch, &Pass::evaluation()).unwrap().cross_entropy;
                let expected = cross_entropy(&case.logits, &case.tokens);
                assert!(
                    (found - expected).abs() < 1e-5 * expected,
                    "{name} {}: {found} {expected}",
                    case.name
                );
            }
        }
    }
}

/// Keys of training alone, and the one that transformers 4 has where the fixture's version 5 has `rope_parameters`.
const OUR_KEYS: [&str; 4] = ["balance_loss_coef", "z_loss_coef", "router_z_loss_coef", "rope_theta"];

#[test]
fn presets_have_the_keys_of_their_originals() {
    let keys = |config: &Value| -> BTreeSet<String> { config.as_object().unwrap().keys().cloned().collect() };
    for preset in PRESETS {
        let own = preset.config().unwrap();
        let is_alike =
            |name: &&&str| config(&golden(name)).architecture.model_type == own.architecture.model_type;
        let originals: BTreeSet<String> =
            FIXTURES.iter().filter(is_alike).flat_map(|name| keys(&config(&golden(name)).source)).collect();
        let more: Vec<String> = keys(&own.source).difference(&originals).cloned().collect();
        assert!(more.iter().all(|key| OUR_KEYS.contains(&&**key)), "{}: {more:?}", preset.name);
    }
}

/// The pickle of the original trainer has its config inside, as an object without a name.
#[test]
fn the_pickle_of_tachyon_has_our_names() {
    let checkpoint = Checkpoint::open(&golden("tachyon-checkpoint/checkpoint_2000.pt")).unwrap();
    let mut source = checkpoint.config.clone();
    source["model_type"] = "tachyon".into();
    let config = Config::from_json(source).unwrap();
    let own = own_shapes(&Model::new(config, 1, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap());
    let shape = |shape: &[u64]| shape.iter().map(|&n| n as usize).collect::<Vec<_>>();
    let mut theirs: BTreeMap<_, _> =
        checkpoint.tensors().iter().map(|tensor| (tensor.name.clone(), shape(&tensor.shape))).collect();
    theirs.remove("lm_head.weight"); // shares its storage with the embedding
    assert_eq!(own, theirs);
}

/// A step that changes nothing, through the real thing: what goes in comes out, tensor for tensor and key for key.
#[test]
fn exports_are_what_the_originals_would_write() {
    for name in FIXTURES {
        let (folder, work) = (golden(name), tempfile::tempdir().unwrap());
        let source = config(&folder).source;
        let context = config(&folder).context_length;
        write_rows(&work.path().join("data"), &vec![(0..context as u32).map(|i| i % 256).collect(); 2]);
        let [data, out, export] = ["data", "out", "export"].map(|name| work.path().join(name));
        let folder_name = folder.to_str().unwrap();
        let settings =
            "--max-steps 1 --batch 1 --learning-rate 1e-30 --warmup-steps 0 --eval-every 0 --sample-every 0";
        let call =
            trainer(settings.split_whitespace()).args(["--preset", folder_name, "--init-from", folder_name]);
        let paths = [("--data", &data), ("--out", &out), ("--export", &export)];
        let call = call.args(paths.iter().flat_map(|(flag, path)| [flag.as_ref(), path.as_os_str()]));
        call.args(["--context", &context.to_string()]).succeed();
        assert_eq!(
            shapes(&export.join("model.safetensors")),
            shapes(&folder.join("model.safetensors")),
            "{name}"
        );
        let expected = tensors(&folder.join("model.safetensors"));
        for (tensor, found) in tensors(&export.join("model.safetensors")) {
            assert_eq!(found.dtype(), expected[&tensor].dtype(), "{name} {tensor}");
            let pairs = numbers(&found).into_iter().zip(numbers(&expected[&tensor]));
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-20), "{name} {tensor}");
        }
        same_keys(name, &source, &export);
        same_keys(name, &source, &out.join("checkpoint-1"));
    }
}

/// The original's keys with its values; the element type under whichever key the original has for it.
fn same_keys(name: &str, original: &Value, folder: &Path) {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut written: Value = serde_json::from_str(&text).unwrap();
    let mut original = original.clone();
    let raw: Value =
        serde_json::from_str(&std::fs::read_to_string(golden(name).join("config.json")).unwrap()).unwrap();
    for (key, value) in raw.as_object().unwrap().iter().filter(|(key, _)| !key.ends_with("dtype")) {
        assert_eq!(written[key], *value, "{name}: {key}");
    }
    let mut kinds = vec![];
    for config in [&mut written, &mut original] {
        let object = config.as_object_mut().unwrap();
        kinds.push(["dtype", "torch_dtype"].map(|key| object.remove(key)));
    }
    assert_eq!(written, original, "{name}");
    let expected = if folder.ends_with("export") { "bfloat16" } else { "float32" };
    let found: Vec<_> = kinds[0].iter().flatten().collect();
    assert_eq!(found, [expected], "{name}: one key says the element type");
    let same_key = kinds[1].iter().all(Option::is_none) || kinds[0][0].is_some() == kinds[1][0].is_some();
    assert!(same_key, "{name}: under the original's key");
}
