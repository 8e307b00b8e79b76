//! Models with one wrong number or list each: sound containers whose contents would divide by zero, index out of
//! range or allocate without bound. Where a CVE or a llama.cpp issue taught the case, it has its name.

use super::samples::Plan;
use moewe_engine::gguf::{Metadata, Strings, Value};

/// Name, what is changed, what the error must say.
type Case = (&'static str, fn(&mut Metadata, &mut Vec<Plan>), &'static str);

pub(crate) const CASES: &[Case] = &[
    ("the architecture is a number", |m, _| m.set("general.architecture", 5u32), "`general.architecture`"),
    ("an unknown architecture", |m, _| m.set("general.architecture", "mixtral9"), "`mixtral9` is not known"),
    ("no architecture", |m, _| drop(m.remove("general.architecture")), "`general.architecture`"),
    (
        "CVE-2025-0317 no heads",
        |m, _| m.set("llama.attention.head_count", 0u32),
        "`llama.attention.head_count`",
    ),
    ("heads that do not divide", |m, _| m.set("llama.attention.head_count", 6u32), "a divisor of 32"),
    ("CVE-2025-0315 2^32 heads", |m, _| m.set("llama.attention.head_count", u32::MAX), "at most 16384"),
    ("no key heads", |m, _| m.set("llama.attention.head_count_kv", 0u32), "a divisor of 4"),
    ("key heads that do not divide", |m, _| m.set("llama.attention.head_count_kv", 3u32), "a divisor of 4"),
    ("negative heads", |m, _| m.set("llama.attention.head_count", -4i32), "an unsigned integer, found -4"),
    ("no layers", |m, _| m.set("llama.block_count", 0u32), "`llama.block_count`"),
    ("a layer too few", |m, _| m.set("llama.block_count", 1u32), "tensor `blk.1."),
    ("layers that predict tokens alone", |m, _| m.set("llama.nextn_predict_layers", 2u32), "less than 2"),
    (
        "a layer that should predict tokens and does not",
        |m, _| m.set("llama.nextn_predict_layers", 1u32),
        "expected layer 1 to predict further tokens",
    ),
    (
        "heads for three of two layers",
        |m, _| m.set("llama.attention.head_count_kv", vec![2u32; 3]),
        "a value for each of 2 layers",
    ),
    ("2^64 layers", |m, _| m.set("llama.block_count", u64::MAX), "at most 4096"),
    ("a layer too many", |m, _| m.set("llama.block_count", 3u32), "`blk.2."),
    ("a width of 2^63", |m, _| m.set("llama.embedding_length", 1u64 << 63), "at most 1048576"),
    ("another width", |m, _| m.set("llama.embedding_length", 64u32), "tensor `token_embd.weight`"),
    ("no context", |m, _| m.set("llama.context_length", 0u32), "`llama.context_length`"),
    ("a context of 2^64", |m, _| m.set("llama.context_length", u64::MAX), "`llama.context_length`"),
    ("more experts used than there are", |m, _| m.set("llama.expert_used_count", 5u32), "at most 4"),
    ("no expert used", |m, _| m.set("llama.expert_used_count", 0u32), "`llama.expert_used_count`"),
    ("2^31 experts", |m, _| m.set("llama.expert_count", 1u32 << 31), "at most 65536"),
    ("more experts than weights", |m, _| m.set("llama.expert_count", 8u32), "tensor `blk.0.ffn"),
    (
        "experts in keys alone",
        |_, t| t.retain(|(name, ..)| !name.contains("ffn_gate_inp")),
        "`llama.expert_count`",
    ),
    ("an unknown gating", |m, _| m.set("llama.expert_gating_func", 9u32), "`llama.expert_gating_func`"),
    (
        "another number of tokens than rows",
        |m, _| {
            m.remove("tokenizer.ggml.tokens");
            m.set("tokenizer.ggml.model", "none");
            m.set("llama.vocab_size", 13u32);
        },
        "`llama.vocab_size`: expected 12",
    ),
    (
        "an end beyond the rows, without tokens",
        |m, _| {
            m.set("tokenizer.ggml.model", "none");
            m.set("tokenizer.ggml.eot_token_id", 12u32);
        },
        "`tokenizer.ggml.eot_token_id`: expected a token below 12",
    ),
    ("clamped heads", |m, _| m.set("llama.attention.clamp_kqv", 8f32), "key `llama.attention.clamp_kqv`"),
    ("no mask", |m, _| m.set("llama.attention.causal", false), "key `llama.attention.causal`"),
    ("positions shrunk", |m, _| m.set("llama.rope.scale_linear", -4f32), "`llama.rope.scale_linear`"),
    (
        "an unknown scaling of positions",
        |m, _| m.set("llama.rope.scaling.type", "longrope"),
        "`llama.rope.scaling.type`",
    ),
    (
        "an epsilon that is no number",
        |m, _| m.set("llama.attention.layer_norm_rms_epsilon", f32::NAN),
        "a finite number",
    ),
    (
        "a rotation wider than a head",
        |m, _| m.set("llama.rope.dimension_count", 1u32 << 20),
        "rope.dimension_count`",
    ),
    ("a rotation of half a pair", |m, _| m.set("llama.rope.dimension_count", 7u32), "rope.dimension_count`"),
    ("a tensor of another shape", |_, t| t[1].2 = vec![64], "tensor `output_norm.weight`"),
    ("a matrix that is flat", |_, t| t[0].2 = vec![32 * 12], "tensor `token_embd.weight`"),
    ("a tensor that is missing", |_, t| drop(t.remove(1)), "`output_norm.weight`"),
    ("a tensor nobody expects", |_, t| t[1].0 = "output_norm.weird".into(), "output_norm.wei"),
    (
        "#26690 tokens that are numbers",
        |m, _| m.set("tokenizer.ggml.tokens", vec![1u32; 12]),
        "an array of strings",
    ),
    (
        "#26690 scores that are strings",
        |m, _| m.set("tokenizer.ggml.scores", Strings::new([""; 12])),
        "an array of floats",
    ),
    ("too few types", |m, _| m.set("tokenizer.ggml.token_type", vec![1i32; 3]), "tokenizer.ggml.token_type"),
    (
        "a type that is none",
        |m, _| m.set("tokenizer.ggml.token_type", vec![99i32; 12]),
        "tokenizer.ggml.token_type",
    ),
    (
        "CVE-2025-49847 an id beyond the tokens",
        |m, _| m.set("tokenizer.ggml.bos_token_id", 12u32),
        "bos_token_id",
    ),
    ("CVE-2025-52566 a negative id", |m, _| m.set("tokenizer.ggml.eos_token_id", -7i32), "eos_token_id"),
    (
        "more tokens than rows",
        |m, _| m.set("tokenizer.ggml.tokens", Strings::new((0..13).map(|i| i.to_string()))),
        "tokenizer.ggml.",
    ),
    ("#25969 the byte -1", |m, _| change_token(m, "<0x-1>"), "a byte token written <0x00> to <0xFF>"),
    ("a byte of three digits", |m, _| change_token(m, "<0x041>"), "a byte token written <0x00> to <0xFF>"),
    ("an unknown tokenizer", |m, _| m.set("tokenizer.ggml.model", "t5x"), "t5x"),
    (
        "a merge of one (BPE)",
        |m, _| m.set("tokenizer.ggml.merges", Strings::new(["ab"])),
        "tokenizer.ggml.merges",
    ),
    (
        "a merge of tokens that are none (BPE)",
        |m, _| m.set("tokenizer.ggml.merges", Strings::new(["x y"])),
        "tokenizer.ggml.merges",
    ),
    ("unknown splitting rules (BPE)", |m, _| m.set("tokenizer.ggml.pre", "nonsense"), "nonsense"),
];

/// Another text for the last byte token.
fn change_token(metadata: &mut Metadata, text: &str) {
    let mut tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(array)) => {
            array.as_strings().into_iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    tokens[10] = text.to_owned();
    metadata.set("tokenizer.ggml.tokens", tokens);
}
