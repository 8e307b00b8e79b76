//! Sound files to start from: as small as their kind allows, so that most bytes mean something.

use super::random::Random;
use moewe_engine::gguf::{Metadata, Strings, Value, Writer};
use moewe_engine::quant::Format;

const WIDTH: u64 = 32;
const VOCABULARY: [&str; 12] =
    ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "▁a", "ab", "<0x0A>", "<0x41>", "▁ab"];

/// A tensor to write: name, format, shape.
pub(crate) type Plan = (String, &'static Format, Vec<u64>);

fn format(name: &str) -> &'static Format {
    Format::by_name(name).unwrap()
}

/// A Mixtral of two layers with a vocabulary of twelve: either experts in one tensor and a SentencePiece vocabulary,
/// or experts one by one, as files before 2024 had them, and a BPE vocabulary.
pub(crate) fn mixtral(experts: &str, merged: bool) -> Vec<u8> {
    mixtral_but(experts, merged, |_, _| ())
}

/// The same with something changed before it is written.
pub(crate) fn mixtral_but(
    experts: &str,
    merged: bool,
    change: impl FnOnce(&mut Metadata, &mut Vec<Plan>),
) -> Vec<u8> {
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), format("F16"), vec![WIDTH, VOCABULARY.len() as u64]),
        ("output_norm.weight".to_owned(), format("F32"), vec![WIDTH]),
        ("output.weight".to_owned(), format("Q8_0"), vec![WIDTH, VOCABULARY.len() as u64]),
    ];
    for layer in 0..2 {
        tensors.extend(mixtral_layer(layer, format(experts), merged));
    }
    let mut metadata = mixtral_metadata();
    if merged {
        add_spm(&mut metadata)
    } else {
        add_bpe(&mut metadata)
    }
    change(&mut metadata, &mut tensors);
    write(metadata, tensors)
}

fn mixtral_layer(layer: usize, experts: &'static Format, merged: bool) -> Vec<Plan> {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    let mut plans = vec![
        (name("attn_norm"), format("F32"), vec![WIDTH]),
        (name("attn_q"), format("F32"), vec![WIDTH, WIDTH]),
        (name("attn_k"), format("BF16"), vec![WIDTH, WIDTH / 2]),
        (name("attn_v"), format("Q8_0"), vec![WIDTH, WIDTH / 2]),
        (name("attn_output"), format("Q4_0"), vec![WIDTH, WIDTH]),
        (name("ffn_norm"), format("F32"), vec![WIDTH]),
        (name("ffn_gate_inp"), format("F32"), vec![WIDTH, 4]),
    ];
    for part in ["ffn_gate", "ffn_up", "ffn_down"] {
        if merged {
            plans.push((name(&format!("{part}_exps")), experts, vec![WIDTH, WIDTH, 4]));
        } else {
            plans.extend(
                (0..4).map(|expert| (name(&format!("{part}.{expert}")), experts, vec![WIDTH, WIDTH])),
            );
        }
    }
    plans
}

fn mixtral_metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    for (key, number) in [
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("block_count", 2),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 8),
        ("vocab_size", VOCABULARY.len() as u32),
        ("expert_count", 4),
        ("expert_used_count", 2),
    ] {
        metadata.set(format!("llama.{key}"), number);
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.set("llama.rope.freq_base", 10_000f32);
    metadata.set("tokenizer.ggml.bos_token_id", 1u32);
    metadata.set("tokenizer.ggml.eos_token_id", 2u32);
    metadata.set("tokenizer.ggml.add_bos_token", true);
    metadata.set("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    metadata
}

fn add_spm(metadata: &mut Metadata) {
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", Strings::new(VOCABULARY));
    metadata.set("tokenizer.ggml.scores", (0..VOCABULARY.len()).map(|i| -(i as f32)).collect::<Vec<_>>());
    metadata.set("tokenizer.ggml.token_type", vec![2i32, 3, 3, 1, 1, 1, 1, 1, 1, 6, 6, 1]);
}

fn add_bpe(metadata: &mut Metadata) {
    let tokens = ["<unk>", "<s>", "</s>", "Ġ", "a", "b", "c", "Ġa", "ab", "Ċ", "A", "Ġab"];
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "llama-bpe");
    metadata.set("tokenizer.ggml.tokens", Strings::new(tokens));
    metadata.set("tokenizer.ggml.token_type", vec![3i32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    metadata.set("tokenizer.ggml.merges", Strings::new(["Ġ a", "a b", "Ġa b"]));
}

/// Values of every type, which no model has: for the container alone.
pub(crate) fn every_type() -> Vec<u8> {
    let metadata: Metadata = [
        ("u8", Value::U8(1)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(2)),
        ("i16", Value::I16(-2)),
        ("u64", Value::U64(3)),
        ("i64", Value::I64(-3)),
        ("f64", Value::F64(0.5)),
        ("general.alignment", Value::U32(64)),
        ("split.count", Value::U16(1)),
        ("bools", Value::from(vec![true, false])),
        ("u16s", Value::from(vec![1u16, 2, 3])),
        ("f64s", Value::from(vec![0.5f64])),
        ("text", Value::from("a text")),
        ("texts", Value::from(vec!["one".to_owned(), "zwölf".into()])),
    ]
    .into_iter()
    .collect();
    let tensors = moewe_engine::quant::FORMATS
        .iter()
        .map(|format| (format.name.to_owned(), format, vec![format.block_len as u64, 2]));
    write(metadata, tensors.collect())
}

/// Writes small random weights.
fn write(metadata: Metadata, tensors: Vec<Plan>) -> Vec<u8> {
    let mut random = Random::new(1);
    let mut writer = Writer::new(metadata, tensors).unwrap().over(Vec::new()).unwrap();
    while let Some(tensor) = writer.next_tensor() {
        let weights: Vec<f32> = (0..tensor.elements()).map(|_| random.weight()).collect();
        let mut bytes = vec![0; tensor.byte_len() as usize];
        if let Some(quantize) = tensor.format.quantize {
            quantize(&weights, None, &mut bytes);
        }
        writer.write_tensor(&bytes).unwrap();
    }
    writer.into_inner().unwrap()
}

/// The golden models as GGUF files: one of each architecture that has a folder of safetensors.
pub(crate) fn golden_models() -> Vec<Vec<u8>> {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("model.gguf");
    let mut options = moewe_convert::Options::new(format("Q8_0"));
    options.force = true;
    let names = [
        "deepseek2",
        "deepseek3",
        "deepseek4",
        "gemma4",
        "german-moe-gelu",
        "glm-dsa",
        "glm4moe",
        "gpt-oss",
        "granitehybrid",
        "granitemoe",
        "lfm2moe",
        "minimax-m2",
        "moe-124m-top2",
        "nemotron-h-moe",
        "olmoe",
        "qwen2moe",
        "qwen35moe",
        "qwen3next",
        "tachyon-shared1",
    ];
    let convert = |name| {
        moewe_convert::convert(&golden.join(name), &out, &options, &Silent).unwrap();
        std::fs::read(&out).unwrap()
    };
    names.into_iter().map(convert).collect()
}

/// Says nothing.
pub(crate) struct Silent;
impl moewe_convert::Progress for Silent {}

/// A safetensors file with the element types that checkpoints have.
pub(crate) fn safetensors() -> Vec<u8> {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"#,
        r#""model.embed_tokens.weight":{"dtype":"F32","shape":[4,8],"data_offsets":[0,128]},"#,
        r#""model.layers.0.mlp.gate.weight":{"dtype":"BF16","shape":[4,8],"data_offsets":[128,192]},"#,
        r#""model.layers.0.mlp.experts.0.down_proj.weight":{"dtype":"F16","shape":[2,2,8],"data_offsets":[192,256]},"#,
        r#""model.norm.weight":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[256,264]}}"#,
    );
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 264]].concat()
}
