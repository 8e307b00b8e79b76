//! A tiny MoE model made on the fly, so that the command can be tested without a download.
//!
//! Two layers, four experts, a vocabulary of all bytes and three control tokens. The head's bias makes it babble in
//! lower-case letters; how likely it ends its answers is the caller's choice. What it says means nothing.

use moewe_engine::gguf::{Array, Metadata, Strings, Value, Writer};
use moewe_engine::quant::Format;
use moewe_engine::tokenizer::bytes::CHARACTERS;
use std::path::Path;

const WIDTH: u64 = 32;
const HIDDEN: u64 = 64;
const EXPERTS: u64 = 4;
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const VOCABULARY: u64 = 256 + CONTROL.len() as u64;
const LAST: u64 = VOCABULARY - 1; // <|im_end|>

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                        message['content'] + '<|im_end|>\n' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// What the tiny model is like.
#[derive(Clone, Copy)]
pub(crate) struct Tiny {
    /// Whether it has a chat template.
    pub(crate) chats: bool,
    /// Whether it has a tokenizer.
    pub(crate) reads: bool,
    /// Whether its answers end by themselves.
    pub(crate) ends: bool,
    /// Positions it was made for.
    pub(crate) context_length: u32,
}

impl Default for Tiny {
    fn default() -> Self {
        Self { chats: true, reads: true, ends: false, context_length: 512 }
    }
}

impl Tiny {
    /// Writes the model.
    pub(crate) fn write(self, path: &Path) {
        let f32 = Format::by_name("F32").unwrap();
        let tensors = tensors();
        let directory = tensors.iter().map(|(name, shape)| (name.clone(), f32, shape.clone())).collect();
        let mut writer = Writer::new(self.metadata(), directory).unwrap().create(path).unwrap();
        let mut random = 1u32;
        for (name, shape) in &tensors {
            let count: u64 = shape.iter().product();
            let values: Vec<f32> = match name.as_str() {
                "output.bias" => (0..VOCABULARY).map(|token| self.bias(token)).collect(),
                name if name.contains("norm") => vec![1.0; count as usize],
                _ => (0..count).map(|_| uniform(&mut random) * 0.3).collect(),
            };
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write_tensor(&bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    fn bias(self, token: u64) -> f32 {
        match token {
            LAST if self.ends => 40.0,
            _ if (97..=122).contains(&token) || token == 32 => 10.0,
            _ => -10.0,
        }
    }

    fn metadata(self) -> Metadata {
        let mut metadata = Metadata::new();
        let numbers = [
            ("block_count", 2),
            ("context_length", self.context_length),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", HIDDEN as u32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("expert_count", EXPERTS as u32),
            ("expert_used_count", 2),
        ];
        metadata.set("general.architecture", "llama");
        metadata.set("general.name", "Tiny");
        numbers.iter().for_each(|&(key, value)| metadata.set(format!("llama.{key}"), value));
        metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        metadata.set("tokenizer.ggml.model", if self.reads { "gpt2" } else { "none" });
        if self.reads {
            set_tokenizer(&mut metadata);
        }
        if self.chats {
            metadata.set("tokenizer.chat_template", TEMPLATE);
        }
        metadata
    }
}

fn set_tokenizer(metadata: &mut Metadata) {
    let bytes = CHARACTERS.iter().map(char::to_string);
    let tokens: Vec<String> = bytes.chain(CONTROL.iter().map(|&text| text.to_owned())).collect();
    let types: Vec<i32> = (0..VOCABULARY).map(|token| if token < 256 { 1 } else { 3 }).collect();
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::Strings(Strings::new(&tokens))));
    metadata.set("tokenizer.ggml.token_type", types);
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::Strings(Strings::new([""; 0]))));
    metadata.set("tokenizer.ggml.eos_token_id", LAST as u32);
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
}

fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut all = vec![
        ("token_embd.weight".to_owned(), vec![WIDTH, VOCABULARY]),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
        ("output.weight".to_owned(), vec![WIDTH, VOCABULARY]),
        ("output.bias".to_owned(), vec![VOCABULARY]),
    ];
    for layer in 0..2 {
        let tensors: [(&str, &[u64]); 10] = [
            ("attn_norm", &[WIDTH]),
            ("attn_q", &[WIDTH, WIDTH]),
            ("attn_k", &[WIDTH, WIDTH / 2]),
            ("attn_v", &[WIDTH, WIDTH / 2]),
            ("attn_output", &[WIDTH, WIDTH]),
            ("ffn_norm", &[WIDTH]),
            ("ffn_gate_inp", &[WIDTH, EXPERTS]),
            ("ffn_gate_exps", &[WIDTH, HIDDEN, EXPERTS]),
            ("ffn_up_exps", &[WIDTH, HIDDEN, EXPERTS]),
            ("ffn_down_exps", &[HIDDEN, WIDTH, EXPERTS]),
        ];
        all.extend(tensors.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape.to_vec())));
    }
    all
}

/// Between -1 and 1, by a multiplicative generator (Lehmer's, modulus 2^31 - 1).
fn uniform(state: &mut u32) -> f32 {
    *state = (u64::from(*state) * 48_271 % 0x7fff_ffff) as u32;
    *state as f32 / 0x3fff_ffff as f32 - 1.0
}
