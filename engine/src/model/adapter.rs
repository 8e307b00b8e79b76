//! LoRA adapters in GGUF, as llama.cpp has them: pairs of matrices beside a base's, by the base's names.
//!
//! `lora_a` is `[inputs, rank]` and `lora_b` `[rank, outputs]` (row length first), experts in a third axis; the sum that
//! they stand for is scaled by `alpha / rank`. What a file says of matrices that a model lacks is an error: an adapter
//! that works in part is another one.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::LowRank;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Most experts, rank and numbers in a row that a file may claim, beyond what its bytes allow anyway.
const MOST_RANK: usize = 1 << 16;

/// An adapter, read whole.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it is called in messages.
    pub name: String,
    /// `general.architecture` of its base.
    pub architecture: String,
    /// Factor of all of it.
    pub scale: f32,
    /// The words around the turns of conversations that it was trained on.
    pub chat_template: Option<String>,
    /// Names of tensors that nothing is made of.
    pub skipped: Vec<String>,
    /// By the base's tensor names.
    pub pairs: BTreeMap<String, Pair>,
}

/// What is added to a matrix, or to that of each expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Matrices.
    pub experts: usize,
    /// Columns of each.
    pub inputs: usize,
    /// Rows of each.
    pub outputs: usize,
    /// `(experts, rank, inputs)`.
    pub a: Vec<f32>,
    /// `(experts, outputs, rank)`.
    pub b: Vec<f32>,
    /// Factor of the product.
    pub scale: f32,
}

impl Pair {
    /// Rows of `A`.
    pub fn rank(&self) -> usize {
        self.a.len() / (self.experts * self.inputs).max(1)
    }

    /// The matrices of an expert, `(rank, inputs)` and `(outputs, rank)`.
    pub fn of(&self, expert: usize) -> (&[f32], &[f32]) {
        let (a, b) = (self.rank() * self.inputs, self.rank() * self.outputs);
        (&self.a[expert * a..(expert + 1) * a], &self.b[expert * b..(expert + 1) * b])
    }

    /// The part of its outputs that `rows` are, of each expert.
    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let rank = self.rank();
        let b = (0..self.experts).flat_map(|e| self.of(e).1[rows.start * rank..rows.end * rank].to_vec());
        Self { outputs: rows.len(), b: b.collect(), a: self.a.clone(), ..*self }
    }
}

impl Adapter {
    /// Reads an adapter's file, to be added `scale` times.
    ///
    /// # Errors
    /// A file that is no LoRA adapter, a matrix without its other half, shapes that do not go together.
    pub fn open(path: impl AsRef<Path>, scale: f32) -> Result<Self> {
        let path = path.as_ref();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::read(&Gguf::open(path)?, name, scale).map_err(|error| error.in_file(path))
    }

    /// The same of an opened file.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn read(gguf: &Gguf, name: String, scale: f32) -> Result<Self> {
        let metadata = gguf.metadata();
        let kind = metadata.str("general.type")?.unwrap_or("model");
        if kind != "adapter" {
            let hint = "give it as the model, or name an adapter (a GGUF file whose general.type is adapter)";
            return Err(Error::unsupported(format!("a {kind}, not an adapter"), hint));
        }
        let kind = metadata.str("adapter.type")?.unwrap_or("");
        if kind != "lora" {
            let what = format!("an adapter of the type {kind:?}");
            return Err(Error::unsupported(what, "only LoRA is computed here"));
        }
        if metadata.get("adapter.alora.invocation_tokens").is_some() {
            let what = "an adapter that begins where certain tokens stand (adapter.alora.invocation_tokens)";
            return Err(Error::unsupported(what, "only such as always count are computed here"));
        }
        let alpha = metadata.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        let mut adapter = Self {
            name,
            architecture: metadata.require_str("general.architecture")?.to_owned(),
            scale,
            chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
            skipped: vec![],
            pairs: BTreeMap::new(),
        };
        for tensor in gguf.tensors() {
            adapter.add(gguf, tensor, alpha)?;
        }
        adapter.split_joined();
        Ok(adapter)
    }

    fn add(&mut self, gguf: &Gguf, tensor: &TensorInfo, alpha: f32) -> Result<()> {
        let name = tensor.name.as_str();
        if let Some(base) = name.strip_suffix(".lora_a") {
            let other = format!("{base}.lora_b");
            let b = gguf.tensor(&other).ok_or_else(|| missing(name, &other))?;
            let pair =
                if base == "token_embd.weight" { table(gguf, tensor, b) } else { pair(gguf, tensor, b) };
            let mut pair = pair?;
            if alpha != 0.0 {
                pair.scale = alpha / pair.rank() as f32;
            }
            if !pair.scale.is_finite() {
                return Err(Error::malformed("key `adapter.lora.alpha`", "a finite number", alpha));
            }
            self.pairs.insert(base.to_owned(), pair);
        } else if let Some(base) = name.strip_suffix(".lora_b") {
            let other = format!("{base}.lora_a");
            gguf.tensor(&other).ok_or_else(|| missing(name, &other))?;
        } else if name.ends_with("_norm.weight") {
            self.skipped.push(name.to_owned());
        } else {
            let what = format!("tensor `{name}` of an adapter ends neither in .lora_a nor in .lora_b");
            return Err(Error::unsupported(what, "merge it into its base with the program that made it"));
        }
        Ok(())
    }

    /// Gate and up in one matrix are two here.
    fn split_joined(&mut self) {
        const JOINED: &str = "ffn_gate_up_exps.weight";
        let joined: Vec<String> = self.pairs.keys().filter(|name| name.ends_with(JOINED)).cloned().collect();
        for name in joined {
            let Some(pair) = self.pairs.remove(&name) else { continue };
            let half = pair.outputs / 2;
            for (part, rows) in [("ffn_gate_exps.weight", 0..half), ("ffn_up_exps.weight", half..2 * half)] {
                self.pairs.insert(name.replace(JOINED, part), pair.part(rows));
            }
        }
    }
}

fn missing(name: &str, other: &str) -> Error {
    Error::malformed(format!("tensor `{name}`"), format!("`{other}` beside it"), "none")
}

/// A pair as its tensors are.
fn pair(gguf: &Gguf, a: &TensorInfo, b: &TensorInfo) -> Result<Pair> {
    let lengths = |tensor: &TensorInfo| -> [usize; 3] {
        std::array::from_fn(|axis| tensor.shape.get(axis).map_or(1, |&length| length as usize))
    };
    let ([inputs, rank, experts], [b_rank, outputs, b_experts]) = (lengths(a), lengths(b));
    let is_flat = a.shape.len() <= 3 && b.shape.len() <= 3;
    if !is_flat || (rank, experts) != (b_rank, b_experts) || !(1..=MOST_RANK).contains(&rank) {
        let expected = format!("[{rank}, outputs, {experts}] as `{}` has it", a.name);
        return Err(Error::malformed(format!("tensor `{}`", b.name), expected, format!("{:?}", b.shape)));
    }
    Ok(Pair { experts, inputs, outputs, a: numbers(gguf, a)?, b: numbers(gguf, b)?, scale: 1.0 })
}

/// The embedding's pair stands the other way round: `lora_a` has a row per token.
fn table(gguf: &Gguf, a: &TensorInfo, b: &TensorInfo) -> Result<Pair> {
    let [rows, width] = [a, b].map(|tensor| tensor.shape.get(1).map_or(1, |&length| length as usize));
    let rank = a.row_len() as usize;
    if a.row_len() != b.row_len()
        || a.shape.len() > 2
        || b.shape.len() > 2
        || !(1..=MOST_RANK).contains(&rank)
    {
        let expected = format!("[{rank}, width]");
        return Err(Error::malformed(format!("tensor `{}`", b.name), expected, format!("{:?}", b.shape)));
    }
    let (per_token, wide) = (numbers(gguf, a)?, numbers(gguf, b)?);
    let mut a = vec![0.0; wide.len()];
    for (i, row) in wide.chunks_exact(rank).enumerate() {
        row.iter().enumerate().for_each(|(k, &value)| a[k * width + i] = value);
    }
    Ok(Pair { experts: 1, inputs: width, outputs: rows, a, b: per_token, scale: 1.0 })
}

fn numbers(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>> {
    // So many the file has bytes for: its tensors were checked against its length.
    let mut values = vec![0f32; tensor.elements() as usize];
    (tensor.format.dequantize)(&gguf.bytes(tensor), &mut values);
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(Error::malformed(format!("tensor `{}`", tensor.name), "finite numbers", "others")),
    }
}

/// Adapters while their places in a model are looked for.
pub(super) struct Adapters<'a> {
    all: &'a [Adapter],
    used: RefCell<HashSet<String>>,
}

impl<'a> Adapters<'a> {
    /// Those that are added at all.
    ///
    /// # Errors
    /// One is for another architecture.
    pub(super) fn new(all: &'a [Adapter], architecture: &str) -> Result<Self> {
        for adapter in all {
            if adapter.architecture != architecture {
                return Err(Error::unsupported(
                    format!(
                        "the adapter {} is for the architecture {}, the model of {architecture}",
                        adapter.name, adapter.architecture
                    ),
                    "give the model that it was trained on",
                ));
            }
        }
        Ok(Self { all, used: Default::default() })
    }

    /// What is added to the matrices of a tensor, one per expert.
    ///
    /// # Errors
    /// A pair of other lengths.
    pub(super) fn of(
        &self,
        tensor: &str,
        (rows, cols, experts): (usize, usize, usize),
    ) -> Result<Vec<LowRank>> {
        let mut sums: Vec<LowRank> = Vec::new();
        for adapter in self.all {
            let Some(pair) = adapter.pairs.get(tensor) else { continue };
            self.used.borrow_mut().insert(tensor.to_owned());
            if (pair.outputs, pair.inputs, pair.experts) != (rows, cols, experts) {
                let shape = |outputs, inputs, experts| match experts {
                    1 => format!("{inputs} to {outputs}"),
                    count => format!("{count} times {inputs} to {outputs}"),
                };
                return Err(Error::malformed(
                    format!("adapter {}, `{tensor}`", adapter.name),
                    format!("the model's {}", shape(rows, cols, experts)),
                    shape(pair.outputs, pair.inputs, pair.experts),
                ));
            }
            let scale = adapter.scale * pair.scale;
            if scale == 0.0 {
                continue; // not a bit changes
            }
            let own = (0..experts).map(|e| {
                let (a, b) = pair.of(e);
                LowRank::new((cols, rows), a, b, scale)
            });
            sums = match sums.is_empty() {
                true => own.collect(),
                false => sums.into_iter().zip(own).map(|(sum, own)| sum.and(&own)).collect(),
            };
        }
        Ok(sums)
    }

    /// Whether any changes a bit.
    pub(super) fn is_any(&self) -> bool {
        self.all.iter().any(|adapter| adapter.scale != 0.0 && !adapter.pairs.is_empty())
    }

    /// Refuses pairs that found no place.
    pub(super) fn refuse_surplus(&self) -> Result<()> {
        let used = self.used.borrow();
        for adapter in self.all {
            if let Some(name) = adapter.pairs.keys().find(|name| !used.contains(*name)) {
                return Err(Error::unsupported(
                    format!(
                        "the adapter {} changes `{name}`, which this model lacks or takes no adapter on",
                        adapter.name
                    ),
                    "give the model that it was trained on, or merge it: moewe convert MODEL --lora ADAPTER",
                ));
            }
        }
        Ok(())
    }
}
