//! A mixture as a folder that transformers loads: tensors in safetensors under its names, config.json, and the base's
//! tokenizer byte for byte. One matrix is in memory at a time.

use super::assembled::{PARTS, turned};
use super::family::{Family, Folder, Turn};
use super::hidden::Hidden;
use super::member::Member;
use super::mixture::Mixture;
use crate::checkpoint::Checkpoint;
use crate::options::Options;
use crate::recipe::by_name;
use crate::report::{Planned, Progress, Report};
use crate::source::Source;
use crate::tensor::Tensor;
use moewe_engine::gguf::TensorName;
use moewe_engine::quant::{Format, Kind};
use moewe_engine::{Error, Result};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, View};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fs;
use std::io;
use std::sync::Mutex;

/// Bytes of a weight file before the next begins.
const SHARD: u64 = 5_000_000_000;

/// What comes along from the base as it is.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// What is written, from what.
pub(super) struct Writing<'w> {
    pub(super) mixture: &'w Mixture,
    pub(super) family: &'static Family,
    pub(super) base: &'w Member<'w>,
    pub(super) checkpoint: &'w Checkpoint,
    pub(super) source: &'w dyn Source,
    pub(super) options: &'w Options,
    pub(super) progress: &'w dyn Progress,
    /// What went wrong while the library asked for bytes.
    pub(super) failure: Mutex<Option<Error>>,
}

/// Whether a folder can hold this mixture at all.
///
/// # Errors
/// No class of transformers computes it.
pub(super) fn check(family: &Family, base: &Member) -> Result<&'static Folder> {
    let [queries, output] =
        ["q", "output"].map(|part| base.find(&format!("blk.0.attn_{part}.bias")).is_some());
    match family.folder {
        Some(folder) if !output && (family.biases || !queries) => Ok(folder),
        _ => Err(Error::unsupported(
            format!("no class of transformers computes experts of {} with biases in attention", base.name),
            "write a GGUF file (-o NAME.gguf), which has a place for them",
        )),
    }
}

impl Writing<'_> {
    /// Writes the folder `out`, which appears from `hidden` when it is complete; a dry run has neither.
    pub(super) fn write(&self, hidden: Option<Hidden>) -> Result<Report> {
        let folder = check(self.family, self.base)?;
        let format = self.format()?;
        let pieces = self.pieces(folder, format)?;
        let report = self.report(&pieces, format)?;
        let Some(hidden) = hidden else { return Ok(report) };
        self.progress.begin(report.bytes);
        self.write_weights(&hidden, &pieces)?;
        let config = serde_json::to_string_pretty(&self.config(folder, format)?).unwrap_or_default();
        hidden.put("config.json", config.as_bytes())?;
        hidden.put("merge.yaml", self.mixture.told().as_bytes())?;
        for name in COMPANIONS {
            let from = self.checkpoint.folder.join(name);
            if from.is_file() {
                fs::copy(&from, hidden.path(name)).map_err(|e| Error::io(&from, "copy", e))?;
            }
        }
        hidden.publish()?;
        Ok(report)
    }

    fn format(&self) -> Result<&'static Format> {
        let own = self.base.tensor("token_embd.weight")?.subject.float;
        let own = own.filter(|float| float.kind == Kind::Float);
        Ok(self.mixture.dtype.or(own).unwrap_or_else(|| by_name("F32")))
    }

    /// All tensors under transformers' names.
    fn pieces(&self, folder: &'static Folder, format: &'static Format) -> Result<Vec<Piece<'_>>> {
        let is_tied = self.base.find("output.weight").is_none();
        let mut pieces = Vec::new();
        for tensor in self.source.tensors() {
            match tensor.subject.name.as_str() {
                "rope_freqs.weight" => {} // follows from config.json
                "output.weight" if is_tied => {}
                _ => self.rename(tensor, folder, format, &mut pieces)?,
            }
        }
        Ok(pieces)
    }

    fn rename<'p>(
        &'p self,
        tensor: &Tensor<'p>,
        folder: &'static Folder,
        format: &'static Format,
        pieces: &mut Vec<Piece<'p>>,
    ) -> Result<()> {
        let name = tensor.subject.name.as_str();
        let shape = tensor.subject.shape.clone();
        let mut add = |name: String, tensor: Tensor<'p>, first: u64, shape: Vec<u64>| {
            let shape = shape.into_iter().map(|length| length as usize).collect();
            pieces.push(Piece { name, tensor, first, shape, format, writing: self });
        };
        let TensorName { layer: Some(layer), part } = TensorName::of(name) else {
            let known = match name {
                "token_embd.weight" => "model.embed_tokens.weight",
                "output_norm.weight" => "model.norm.weight",
                "output.weight" => "lm_head.weight",
                _ => return Err(no_place(name)),
            };
            add(known.to_owned(), tensor.clone(), 0, shape);
            return Ok(());
        };
        let front = format!("model.layers.{layer}.");
        if let Some(i) = PARTS.iter().position(|known| part == format!("ffn_{known}_exps.weight")) {
            for e in 0..shape[0] {
                let own = folder.expert[i].replace("{e}", &e.to_string());
                add(format!("{front}{own}"), tensor.clone(), e * shape[1], shape[1..].to_vec());
            }
            return Ok(());
        }
        let (own, shape) = match part {
            "ffn_gate_inp_shexp.weight" => ("mlp.shared_expert_gate.weight".to_owned(), vec![1, shape[0]]),
            "ffn_gate_inp.weight" => (folder.router.to_owned(), shape),
            "ffn_norm.weight" => ("post_attention_layernorm.weight".to_owned(), shape),
            "attn_norm.weight" => ("input_layernorm.weight".to_owned(), shape),
            "attn_q_norm.weight" => ("self_attn.q_norm.weight".to_owned(), shape),
            "attn_k_norm.weight" => ("self_attn.k_norm.weight".to_owned(), shape),
            "attn_output.weight" => ("self_attn.o_proj.weight".to_owned(), shape),
            _ => (other(part).ok_or_else(|| no_place(name))?, shape),
        };
        add(format!("{front}{own}"), self.halves(tensor.clone(), part)?, 0, shape);
        Ok(())
    }

    /// Transformers turns half against half, GGUF's `llama` neighbouring pairs.
    fn halves<'p>(&self, tensor: Tensor<'p>, part: &str) -> Result<Tensor<'p>> {
        let heads = match part {
            "attn_q.weight" | "attn_q.bias" => "attention.head_count",
            "attn_k.weight" | "attn_k.bias" => "attention.head_count_kv",
            _ => return Ok(tensor),
        };
        let is_in_pairs = self.family.gguf == "llama";
        let turn = if is_in_pairs { Turn::ToHalves } else { Turn::Same };
        Ok(turned(tensor, self.base.length(heads)?, turn))
    }

    fn report(&self, pieces: &[Piece], format: &'static Format) -> Result<Report> {
        let planned = |piece: &Piece| Planned {
            tensor: piece.name.clone(),
            format: format.name,
            bytes: piece.bytes() as u64,
        };
        let plan: Vec<Planned> = pieces.iter().map(planned).collect();
        let bytes = plan.iter().map(|planned| planned.bytes).sum::<u64>();
        let weights = pieces.iter().map(|piece| piece.shape.iter().product::<usize>() as u64).sum::<u64>();
        let mut report = Report {
            architecture: self.family.folder.map_or("", |folder| folder.model_type).to_owned(),
            tensors: plan.len(),
            weights,
            bytes,
            bits_per_weight: 8.0 * bytes as f64 / weights.max(1) as f64,
            plan,
            ..Report::default()
        };
        self.source.tell(&mut report);
        report.requantized.clear();
        Ok(report)
    }

    /// Weight files of a few gigabytes each, with their index where there are several.
    fn write_weights(&self, hidden: &Hidden, pieces: &[Piece]) -> Result<()> {
        let mut shards: Vec<(u64, Vec<&Piece>)> = vec![(0, vec![])];
        for piece in pieces {
            let bytes = piece.bytes() as u64;
            if shards.last().is_some_and(|(size, _)| *size > 0 && size + bytes > SHARD) {
                shards.push((0, vec![]));
            }
            if let Some((size, own)) = shards.last_mut() {
                *size += bytes;
                own.push(piece);
            }
        }
        let (count, mut places) = (shards.len(), Map::new());
        for (i, (_, own)) in shards.iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            own.iter().for_each(|piece| drop(places.insert(piece.name.clone(), name.as_str().into())));
            let data = own.iter().map(|piece| (piece.name.as_str(), *piece));
            let about = Some([("format".to_owned(), "pt".to_owned())].into());
            let written = safetensors::serialize_to_file(data, about, &hidden.path(&name));
            if let Some(failure) = self.failure.lock().ok().and_then(|mut failure| failure.take()) {
                return Err(failure);
            }
            written.map_err(|error| match error {
                SafeTensorError::IoError(error) => Error::io(hidden.out.join(&name), "write", error),
                error => Error::io(hidden.out.join(&name), "write", io::Error::other(error.to_string())),
            })?;
        }
        if count > 1 {
            let total: u64 = shards.iter().map(|(size, _)| size).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
            let text = serde_json::to_string_pretty(&index).unwrap_or_default();
            hidden.put("model.safetensors.index.json", text.as_bytes())?;
        }
        Ok(())
    }
}

impl Writing<'_> {
    /// The base's configuration with the mixture's keys. What its own class takes for granted is written out: the
    /// mixture's takes other things for granted.
    fn config(&self, folder: &Folder, format: &Format) -> Result<Value> {
        let base = self.base;
        let mut config = self.checkpoint.config.as_object().cloned().unwrap_or_default();
        for stale in ["_name_or_path", "auto_map", "quantization_config", "transformers_version"] {
            config.remove(stale);
        }
        let mut granted = |key: &str, value: Value| {
            config.entry(key).or_insert(value);
        };
        granted("num_key_value_heads", base.length("attention.head_count_kv")?.into());
        granted("head_dim", base.length("attention.key_length")?.into());
        granted("max_position_embeddings", base.length("context_length")?.into());
        let architecture = base.architecture()?;
        let float = |key: &str| base.metadata().f32(&format!("{architecture}.{key}"));
        if let Some(epsilon) = float("attention.layer_norm_rms_epsilon")? {
            granted("rms_norm_eps", short_decimal(epsilon));
        }
        if let (Some(theta), false) = (float("rope.freq_base")?, config.contains_key("rope_parameters")) {
            config.entry("rope_theta").or_insert(short_decimal(theta));
        }
        // As the tensors have it: a head that differs from the embedding stays, whatever the base's file says.
        config.insert("tie_word_embeddings".into(), base.find("output.weight").is_none().into());
        if folder.model_type == "mixtral" {
            // Mistral takes a window for granted, Llama reads none.
            let window = base.number("attention.sliding_window")?.filter(|&window| window > 0);
            config.insert("sliding_window".into(), json!(window));
        }
        let source = self.source.metadata();
        let own = |key: &str| source.u64(&format!("{}.{key}", self.family.gguf));
        let hidden = own("feed_forward_length")?;
        config.insert("architectures".into(), json!([folder.class]));
        config.insert("model_type".into(), folder.model_type.into());
        config.insert(folder.count.into(), self.mixture.experts.len().into());
        config.insert("num_experts_per_tok".into(), self.mixture.experts_per_token.into());
        config.insert("intermediate_size".into(), json!(hidden));
        if folder.model_type != "mixtral" {
            config.insert("norm_topk_prob".into(), true.into());
            config.insert("decoder_sparse_step".into(), 1.into());
            config.insert("mlp_only_layers".into(), json!([]));
            config.insert("moe_intermediate_size".into(), json!(hidden));
        }
        if let Some(shared) = own("expert_shared_feed_forward_length")? {
            config.insert("shared_expert_intermediate_size".into(), shared.into());
            config.insert("qkv_bias".into(), true.into());
        }
        config.remove("attention_bias");
        config.remove("mlp_bias");
        config.remove("pretraining_tp"); // how an old Llama was split
        let dtype = match format.name {
            "BF16" => "bfloat16",
            "F16" => "float16",
            _ => "float32",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), dtype.into());
        Ok(Value::Object(config))
    }
}

/// An f32 as people write it: 1e-5 and not 9.999999747378752e-6.
fn short_decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A tensor under transformers' name, read when it is written.
struct Piece<'p> {
    name: String,
    tensor: Tensor<'p>,
    first: u64, // row of the tensor
    shape: Vec<usize>,
    format: &'static Format,
    writing: &'p Writing<'p>,
}

impl Piece<'_> {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.format.block_bytes
    }

    fn read(&self) -> Result<Vec<u8>> {
        if self.writing.options.is_stopped() {
            return Err(Error::Stopped);
        }
        self.writing.progress.tensor(&self.name);
        let columns = self.tensor.subject.columns() as usize;
        let mut bytes = vec![0u8; self.bytes()];
        let row = columns * self.format.block_bytes;
        let step = (1 << 20) / columns.max(1) + 1;
        let parts = bytes.par_chunks_mut(step * row).enumerate();
        parts.try_for_each(|(i, out)| {
            let first = self.first + (i * step) as u64;
            let rows = first..first + (out.len() / row) as u64;
            let weights = self.tensor.read(rows)?;
            if weights.iter().any(|weight| !weight.is_finite()) && !self.writing.options.allow_nan {
                let what = format!("{} has weights that are NaN or infinite", self.name);
                return Err(Error::unsupported(what, "the source is damaged; --allow-nan takes it"));
            }
            if let Some(quantize) = self.format.quantize {
                quantize(&weights, None, out);
            }
            Ok(())
        })?;
        self.writing.source.release();
        self.writing.progress.advance(bytes.len() as u64);
        Ok(bytes)
    }
}

impl View for &Piece<'_> {
    fn dtype(&self) -> Dtype {
        match self.format.name {
            "BF16" => Dtype::BF16,
            "F16" => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The library asks for bytes and hears of no error: what is written after one is thrown away.
        let failed = self.writing.failure.lock().is_ok_and(|failure| failure.is_some());
        let read = if failed { Ok(vec![]) } else { self.read() };
        Cow::Owned(read.unwrap_or_else(|error| {
            if let Ok(mut failure) = self.writing.failure.lock() {
                failure.get_or_insert(error);
            }
            vec![]
        }))
    }

    fn data_len(&self) -> usize {
        self.bytes()
    }
}

/// Names that follow from their parts: projections of attention and the shared expert.
fn other(part: &str) -> Option<String> {
    let (part, kind) = part.rsplit_once('.')?;
    if let Some(projection) = part.strip_prefix("attn_").filter(|part| matches!(*part, "q" | "k" | "v")) {
        return Some(format!("self_attn.{projection}_proj.{kind}"));
    }
    let matrix = part.strip_prefix("ffn_")?.strip_suffix("_shexp")?;
    Some(format!("mlp.shared_expert.{matrix}_proj.{kind}"))
}

fn no_place(name: &str) -> Error {
    let what = format!("{name} has no place in a folder of transformers");
    Error::unsupported(what, "write a GGUF file (-o NAME.gguf)")
}
