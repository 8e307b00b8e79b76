//! The merge as a source: all of the base but its feed-forward networks, in whose place stand a router and the stacked
//! matrices of the experts.

use super::family::{Family, Turn};
use super::gates::Gates;
use super::member::{Member, Members};
use super::mixture::{Expert, Mixture, Origin};
use super::rows::{Changed, Mean, Numbers, Ordered, OrderedVector, Stack, Widened};
use crate::from_gguf::requantized;
use crate::hf::places::in_pairs;
use crate::recipe::by_name;
use crate::report::Report;
use crate::source::{Change, Source, accept, change_all};
use crate::tensor::{Rows, Subject, Tensor};
use moewe_engine::Result;
use moewe_engine::gguf::{Metadata, TensorName};
use moewe_engine::quant::{Format, Kind};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Matrices of a feed-forward network, in the order of files.
pub(super) const PARTS: [&str; 3] = ["gate", "up", "down"];

/// A mixture that can be written.
pub(super) struct Assembled<'m> {
    metadata: Metadata,
    tensors: Vec<Tensor<'m>>,
    members: &'m Members<'m>,
    notes: Vec<String>,
    /// Block formats of sources that cannot stay: of stacks of several, of what changes on its way.
    lost: BTreeSet<&'static str>,
}

impl<'m> Assembled<'m> {
    pub(super) fn new(
        mixture: &Mixture,
        family: &'static Family,
        members: &'m Members<'m>,
        gates: &Gates,
        notes: Vec<String>,
    ) -> Result<Self> {
        let base = members.get(&mixture.base[0].0);
        let hidden = |experts: &[Expert]| {
            let lengths =
                experts.iter().map(|expert| members.get(&expert.source).length("feed_forward_length"));
            lengths.collect::<Result<Vec<u64>>>().map(|lengths| lengths.into_iter().max().unwrap_or(0))
        };
        let builder = Builder {
            mixture,
            family,
            members,
            base,
            gates,
            hidden: hidden(&mixture.experts)?,
            shared: hidden(&mixture.shared)?,
        };
        let metadata = family.metadata(mixture, base, builder.hidden, builder.shared)?;
        let tensors = builder.tensors()?;
        let lost = lost(mixture, members, &tensors);
        Ok(Self { metadata, tensors, members, notes, lost })
    }

    /// The name of what is written, which is not that of the base.
    pub(super) fn name(&mut self, out: &Path) {
        let name = if out.extension().is_some_and(|ending| ending == "gguf") {
            out.file_stem()
        } else {
            out.file_name()
        };
        if let Some(name) = name {
            self.metadata.set("general.name", name.to_string_lossy().into_owned());
        }
    }
}

impl Source for Assembled<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[Tensor<'_>] {
        &self.tensors
    }

    fn change(&mut self, change: &mut dyn Change) -> Result<()> {
        change_all(&mut self.tensors, change)
    }

    fn release(&self) {
        self.members.all().for_each(|member| member.source.release());
    }

    fn tell(&self, report: &mut Report) {
        for member in self.members.all() {
            let mut own = Report::default();
            member.source.tell(&mut own);
            report.dropped.extend(own.dropped);
            report.remarks.extend(own.remarks.into_iter().map(|line| format!("{}: {line}", member.name)));
        }
        report.dropped.sort();
        report.dropped.dedup();
        report.remarks.sort();
        report.remarks.extend(self.notes.clone());
        let mut again: BTreeSet<String> = self.lost.iter().map(|&name| name.to_owned()).collect();
        again.extend(requantized(&self.tensors, &report.plan));
        report.requantized = again.into_iter().collect();
    }

    fn accept(&self, file: &Path) -> Result<()> {
        accept(file)
    }
}

/// The block formats that sources have where the mixture has rows of its own making.
fn lost(mixture: &Mixture, members: &Members, tensors: &[Tensor]) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    for tensor in tensors.iter().filter(|tensor| tensor.subject.stored.is_none()) {
        let own = &tensor.subject.name;
        let name = own.replace("_exps.", ".").replace("_shexp.", ".");
        let experts = if own.contains("_shexp.") { &mixture.shared } else { &mixture.experts };
        let sources: Vec<&Origin> = match name == *own {
            true => mixture.base.iter().map(|(origin, _)| origin).collect(),
            false => experts.iter().map(|expert| &expert.source).collect(),
        };
        let stored = |origin: &Origin| members.get(origin).find(&name)?.subject.stored;
        let blocks = sources.into_iter().filter_map(stored).filter(|stored| stored.kind != Kind::Float);
        names.extend(blocks.map(|stored| stored.name));
    }
    names
}

struct Builder<'b, 'm> {
    mixture: &'b Mixture,
    family: &'static Family,
    members: &'m Members<'m>,
    base: &'m Member<'m>,
    gates: &'b Gates,
    hidden: u64, // units of the longest expert
    shared: u64, // units of the shared one
}

impl<'m> Builder<'_, 'm> {
    fn tensors(&self) -> Result<Vec<Tensor<'m>>> {
        let (mut tensors, mut done) = (Vec::new(), HashSet::new());
        for tensor in self.base.source.tensors() {
            let name = tensor.subject.name.as_str();
            let TensorName { layer: Some(layer), part } = TensorName::of(name) else {
                tensors.push(tensor.clone());
                continue;
            };
            match part {
                "ffn_gate.weight" | "ffn_up.weight" | "ffn_down.weight" => {
                    if done.insert(layer) {
                        tensors.extend(self.experts(layer)?);
                    }
                }
                // They belong to the networks in whose place the experts stand.
                "ffn_gate.bias" | "ffn_up.bias" | "ffn_down.bias" => {}
                _ if part.starts_with("attn_") => {
                    tensors.push(self.attention(tensor, part)?);
                    if part == "attn_output.weight" && self.family.biases {
                        tensors.extend(self.zero_biases(layer)?);
                    }
                }
                _ => tensors.push(tensor.clone()),
            }
        }
        if self.family.head && self.base.find("output.weight").is_none() {
            let mut head = self.base.tensor("token_embd.weight")?.clone();
            head.subject.name = "output.weight".to_owned();
            tensors.insert(1, head);
        }
        Ok(tensors)
    }

    /// A tensor of attention: of one base or the mean of several, with its rows in the family's order.
    fn attention(&self, tensor: &Tensor<'m>, part: &str) -> Result<Tensor<'m>> {
        let mut tensor = tensor.clone();
        if self.mixture.base.len() > 1 && !part.ends_with("norm.weight") {
            let own = |(origin, weight): &(_, f64)| {
                let part = self.members.get(origin).tensor(&tensor.subject.name)?;
                Ok((part.contents.clone(), *weight))
            };
            let parts = self.mixture.base.iter().map(own).collect::<Result<Vec<_>>>()?;
            tensor.subject.stored = None;
            tensor.contents = Arc::new(Mean { parts });
        }
        let heads = match part {
            "attn_q.weight" | "attn_q.bias" => self.base.length("attention.head_count")?,
            "attn_k.weight" | "attn_k.bias" => self.base.length("attention.head_count_kv")?,
            _ => return Ok(tensor),
        };
        Ok(turned(tensor, heads, self.family.turn))
    }

    /// Biases of queries, keys and values where the base has none.
    fn zero_biases(&self, layer: usize) -> Result<Vec<Tensor<'m>>> {
        let mut biases = Vec::new();
        for part in ["q", "k", "v"] {
            let name = format!("blk.{layer}.attn_{part}.bias");
            if self.base.find(&name).is_none() {
                let rows = self.base.tensor(&format!("blk.{layer}.attn_{part}.weight"))?.subject.rows();
                biases.push(numbers(name, vec![rows], vec![0.0; rows as usize]));
            }
        }
        Ok(biases)
    }

    /// The router and the experts of a layer.
    fn experts(&self, layer: usize) -> Result<Vec<Tensor<'m>>> {
        let (count, width) = (self.mixture.experts.len() as u64, self.base.length("embedding_length")?);
        let gate = &self.gates.layers[layer];
        let router = format!("blk.{layer}.ffn_gate_inp.weight");
        let mut tensors = vec![numbers(router, vec![count, width], gate.routed.clone())];
        for part in PARTS {
            tensors.push(self.stack(layer, part)?);
        }
        if let Some(shared) = self.mixture.shared.first() {
            let name = format!("blk.{layer}.ffn_gate_inp_shexp.weight");
            tensors.push(numbers(name, vec![width], gate.shared.clone()));
            for part in PARTS {
                let mut own = self.matrix(shared, usize::MAX, layer, part)?;
                own.subject.name = format!("blk.{layer}.ffn_{part}_shexp.weight");
                tensors.push(own);
            }
        }
        Ok(tensors)
    }

    fn stack(&self, layer: usize, part: &str) -> Result<Tensor<'m>> {
        let experts = self.mixture.experts.iter().enumerate();
        let parts =
            experts.map(|(e, expert)| self.matrix(expert, e, layer, part)).collect::<Result<Vec<_>>>()?;
        let first = &parts[0].subject;
        let (rows, columns) = (first.rows(), first.columns());
        let same = |of: fn(&Subject) -> Option<&'static Format>| {
            let own = of(first)?;
            parts.iter().all(|part| of(&part.subject) == Some(own)).then_some(own)
        };
        let subject = Subject {
            name: format!("blk.{layer}.ffn_{part}_exps.weight"),
            shape: vec![parts.len() as u64, rows, columns],
            stored: same(|subject| subject.stored),
            float: same(|subject| subject.float),
            is_original: parts.iter().all(|part| part.subject.is_original),
            padding: 0,
        };
        let parts = parts.into_iter().map(|part| part.contents).collect();
        Ok(Tensor { subject, contents: Arc::new(Stack { parts, rows }) })
    }

    /// A matrix of an expert, with its noise and factor, as long as the longest.
    fn matrix(&self, expert: &Expert, e: usize, layer: usize, part: &str) -> Result<Tensor<'m>> {
        let member = self.members.get(&expert.source);
        let mut tensor = member.tensor(&format!("blk.{layer}.ffn_{part}.weight"))?.clone();
        let noise = expert.noise_scale.filter(|&scale| scale != 0.0);
        let scale = expert.residual_scale.filter(|&scale| part == "down" && scale != 1.0);
        if noise.is_some() || scale.is_some() {
            let number = PARTS.iter().position(|known| *known == part).unwrap_or(0) as u64;
            let place = (layer as u64) << 24 | (e as u64 & 0xffff) << 4 | number;
            let seed = self.mixture.seed.wrapping_add(place.wrapping_mul(0xD134_2543_DE82_EF95));
            let float = tensor.subject.float.filter(|float| float.kind == Kind::Float);
            let float = float.unwrap_or_else(|| by_name("F32"));
            let noise = noise.map(|factor| (factor, seed));
            let inner = tensor.contents;
            tensor.contents = Arc::new(Changed { inner, float, noise, scale });
            tensor.subject.stored = None;
            tensor.subject.is_original = false;
        }
        let whole = if e == usize::MAX { self.shared } else { self.hidden };
        widen(&mut tensor, part, whole);
        Ok(tensor)
    }
}

/// Puts zeros in the place of units that an expert does not have.
fn widen(tensor: &mut Tensor<'_>, part: &str, hidden: u64) {
    let shape = [tensor.subject.rows(), tensor.subject.columns()];
    let [rows, columns] = if part == "down" { [shape[0], hidden] } else { [hidden, shape[1]] };
    if shape != [rows, columns] {
        let inner: Arc<dyn Rows + '_> = tensor.contents.clone();
        tensor.contents = Arc::new(Widened { inner, shape, columns });
        tensor.subject.shape = vec![rows, columns];
        tensor.subject.stored = None;
        tensor.subject.is_original = false;
    }
}

/// Rows of queries or keys in the order in which the family turns them.
pub(super) fn turned<'s>(mut tensor: Tensor<'s>, heads: u64, turn: Turn) -> Tensor<'s> {
    if turn == Turn::Same {
        return tensor;
    }
    let is_vector = tensor.subject.shape.len() == 1;
    let rows = if is_vector { tensor.subject.columns() } else { tensor.subject.rows() };
    let (head, half) = (rows / heads, rows / heads / 2);
    // Neighbouring pairs are (0, 1), (2, 3), …; halves are (0, half), (1, half + 1), ….
    let place = |row: u64| match turn {
        Turn::ToPairs => in_pairs(row, head),
        _ => row / head * head + row % head % half * 2 + row % head / half,
    };
    let (inner, order) = (tensor.contents, (0..rows).map(place).collect());
    tensor.contents = match is_vector {
        true => Arc::new(OrderedVector { inner, order }),
        false => Arc::new(Ordered { inner, order }),
    };
    if is_vector {
        tensor.subject.stored = None;
    }
    tensor
}

/// A tensor of numbers that are known.
fn numbers(name: String, shape: Vec<u64>, values: Vec<f32>) -> Tensor<'static> {
    let columns = *shape.last().unwrap_or(&1) as usize;
    let float = Some(by_name("F32"));
    let subject = Subject { name, shape, stored: None, float, is_original: false, padding: 0 };
    Tensor { subject, contents: Arc::new(Numbers { values, columns }) }
}
