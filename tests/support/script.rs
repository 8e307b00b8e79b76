//! A model that says what a script tells it: every token has one successor. Dense, one layer that adds nothing.

use moewe_engine::gguf::{Array, Metadata, Strings, Value, Writer};
use moewe_engine::quant::Format;
use moewe_engine::tokenizer::bytes::CHARACTERS;
use std::path::Path;

const WIDTH: usize = 272;
const HIDDEN: u64 = 32;

/// What the model knows besides all bytes, and what it says after what.
#[derive(Clone, Copy)]
pub(crate) struct Script<'s> {
    pub(crate) template: &'s str,
    /// Control tokens; the last ends an answer.
    pub(crate) control: &'s [&'s str],
    /// Tokens of whole words.
    pub(crate) words: &'s [&'s str],
    /// Pairs of tokens; what has no successor ends the answer.
    pub(crate) follows: &'s [(&'s str, &'s str)],
    /// Whether all it computes is NaN.
    pub(crate) is_broken: bool,
}

/// gpt-oss' way: a thought, then the answer. A second id stands for each second mark, so that each has one successor.
pub(crate) const HARMONY: Script = Script {
    template: "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>\
               {% endfor %}<|start|>assistant",
    control: &[
        "<|start|>",
        "<|end|>",
        "<|channel|>",
        "<|message|>",
        "<|call|>",
        "<|channel2|>",
        "<|message2|>",
        "<|return|>",
    ],
    words: &["analysis", "A greeting.", "assistant", "final", "Hello!"],
    follows: &[
        ("t", "<|channel|>"),
        ("<|channel|>", "analysis"),
        ("analysis", "<|message|>"),
        ("<|message|>", "A greeting."),
        ("A greeting.", "<|end|>"),
        ("<|end|>", "<|start|>"),
        ("<|start|>", "assistant"),
        ("assistant", "<|channel2|>"),
        ("<|channel2|>", "final"),
        ("final", "<|message2|>"),
        ("<|message2|>", "Hello!"),
    ],
    is_broken: false,
};

impl Script<'_> {
    /// A model that says "ok" over and over to what `template` makes of a conversation.
    pub(crate) fn saying_ok(template: &str) -> Script<'_> {
        let control = &["<|im_start|>", "<|im_end|>"];
        let follows = &[("\n", "o"), ("o", "k"), ("k", "o"), ("<|im_end|>", "o"), ("?", "o")];
        Script { template, control, words: &[], follows, is_broken: false }
    }

    /// Writes the model.
    pub(crate) fn write(self, path: &Path) {
        let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
        let spelled = |text: &str| text.bytes().map(|byte| CHARACTERS[usize::from(byte)]).collect::<String>();
        let mut tokens = bytes.clone();
        tokens.extend(self.control.iter().map(|&text| text.to_owned()));
        tokens.extend(self.words.iter().map(|text| spelled(text)));
        let id = |text: &str| {
            let is_control = self.control.contains(&text);
            let text = if is_control { text.to_owned() } else { spelled(text) };
            tokens.iter().position(|token| *token == text).unwrap()
        };
        let end = 255 + self.control.len();
        let mut head = vec![0f32; tokens.len() * WIDTH];
        let mut successors = vec![end; tokens.len()];
        self.follows.iter().for_each(|(token, next)| successors[id(token)] = id(next));
        successors.iter().enumerate().for_each(|(token, next)| head[next * WIDTH + token] = 5.0);
        let mut embedding = vec![0f32; tokens.len() * WIDTH];
        (0..tokens.len()).for_each(|token| embedding[token * WIDTH + token] = 1.0);
        let values = |name: &str, count: usize| match name {
            "token_embd" => embedding.clone(),
            "output" => head.clone(),
            "output_norm" if self.is_broken => vec![f32::NAN; count],
            name if name.contains("norm") => vec![1.0; count],
            _ => vec![0.0; count],
        };
        let f32 = Format::by_name("F32").unwrap();
        let tensors = tensors(tokens.len() as u64);
        let directory =
            tensors.iter().map(|(name, shape)| (format!("{name}.weight"), f32, shape.clone())).collect();
        let mut writer = Writer::new(self.metadata(&tokens, end), directory).unwrap().create(path).unwrap();
        for (name, shape) in &tensors {
            let values = values(name, shape.iter().product::<u64>() as usize);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write_tensor(&bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    fn metadata(self, tokens: &[String], end: usize) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        metadata.set("general.name", "Script");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 4096),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", HIDDEN as u32),
            ("attention.head_count", 8),
            ("attention.head_count_kv", 8),
        ] {
            metadata.set(format!("llama.{key}"), value);
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        let is_control = |id: usize| (256..=end).contains(&id);
        let types: Vec<i32> = (0..tokens.len()).map(|id| if is_control(id) { 3 } else { 1 }).collect();
        metadata.set("tokenizer.ggml.model", "gpt2");
        metadata.set("tokenizer.ggml.pre", "gpt-2");
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::Strings(Strings::new(tokens))));
        metadata.set("tokenizer.ggml.token_type", types);
        metadata.set("tokenizer.ggml.merges", Value::Array(Array::Strings(Strings::new([""; 0]))));
        metadata.set("tokenizer.ggml.eos_token_id", end as u32);
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        metadata.set("tokenizer.chat_template", self.template);
        metadata
    }
}

fn tensors(vocabulary: u64) -> Vec<(String, Vec<u64>)> {
    let width = WIDTH as u64;
    let square: &[u64] = &[width, width];
    let all: [(&str, &[u64]); 12] = [
        ("token_embd", &[width, vocabulary]),
        ("output_norm", &[width]),
        ("output", &[width, vocabulary]),
        ("blk.0.attn_norm", &[width]),
        ("blk.0.attn_q", square),
        ("blk.0.attn_k", square),
        ("blk.0.attn_v", square),
        ("blk.0.attn_output", square),
        ("blk.0.ffn_norm", &[width]),
        ("blk.0.ffn_gate", &[width, HIDDEN]),
        ("blk.0.ffn_up", &[width, HIDDEN]),
        ("blk.0.ffn_down", &[HIDDEN, width]),
    ];
    all.map(|(name, shape)| (name.to_owned(), shape.to_vec())).to_vec()
}
