//! Which bytes of a checkpoint make which tensors of the GGUF file. Every tensor of the checkpoint is used, knowingly
//! left out, or named in an error; every shape is checked against the configuration.

use super::architecture::Architecture;
use super::names::Names;
use super::params::Params;
use super::rules::{Change, Holds, Join, Layers, Op, Presence, Rule, Source, fits};
use super::view::{Elements, View};
use super::{params::Dim, scales, tied};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use moewe_engine::quant::{Format, INDICES};
use moewe_engine::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

/// Names shown of a long list.
const SHOWN: usize = 8;
/// What compressed-tensors adds to the names of packed weights.
const PACKED: &str = "_packed";

/// What becomes of a checkpoint.
#[derive(Debug)]
pub struct Plan<'c> {
    /// Tensors of the GGUF file, in its order.
    pub outputs: Vec<Output<'c>>,
    /// Tensors of the checkpoint that hold nothing to convert.
    pub dropped: Vec<String>,
    /// What is unusual about the checkpoint, a line each.
    pub remarks: Vec<String>,
}

/// One tensor of the GGUF file.
#[derive(Debug)]
pub struct Output<'c> {
    /// GGUF's name.
    pub name: String,
    /// Lengths of the axes, slowest first (GGUF lists them the other way round).
    pub shape: Vec<u64>,
    contents: Contents<'c>,
    change: Change,
}

#[derive(Debug)]
enum Contents<'c> {
    /// Bands below each other, each of views side by side.
    Bands(Vec<Vec<View<'c>>>),
    /// A vector.
    Numbers(Vec<f32>),
}

impl Output<'_> {
    /// Elements per row.
    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: all axes but the last.
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }

    /// Writes rows as f32; `out` holds exactly them.
    pub fn read(&self, rows: Range<u64>, out: &mut [f32]) {
        let pitch = self.columns() as usize;
        match &self.contents {
            Contents::Numbers(numbers) => out.copy_from_slice(numbers),
            Contents::Bands(bands) => self.each_band(bands, rows, |band, rows, at| {
                let (mut column, out) = (0, &mut out[at * pitch..]);
                for view in band {
                    view.read(rows.clone(), &mut out[column..], pitch);
                    column += view.columns() as usize;
                }
            }),
        }
        self.change.apply(out);
    }

    /// The block format in which the source holds it, where it can keep its bits.
    pub fn stored(&self) -> Option<&'static Format> {
        let Contents::Bands(bands) = &self.contents else { return None };
        if self.change != Change::Nothing {
            return None;
        }
        let of = |band: &Vec<View<'_>>| if let [view] = &band[..] { view.stored() } else { None };
        let name = of(bands.first()?)?;
        let format = if name == INDICES.name { Some(&INDICES) } else { Format::by_name(name) };
        format.filter(|_| bands.iter().all(|band| of(band) == Some(name)))
    }

    /// The floats that the source holds all of it in; none for blocks and for what is computed.
    pub fn float(&self) -> Option<&'static Format> {
        let Contents::Bands(bands) = &self.contents else { return None };
        let mut all = bands.iter().flatten().map(View::float);
        let first = all.next()??;
        all.all(|name| name == Some(first)).then(|| Format::by_name(first))?
    }

    /// Writes rows as blocks of the format that [`Self::stored`] yields; `out` holds exactly them.
    pub fn copy(&self, rows: Range<u64>, out: &mut [u8]) {
        let (Contents::Bands(bands), Some(format)) = (&self.contents, self.stored()) else { return };
        let row_bytes = format.row_bytes(self.columns() as usize);
        self.each_band(bands, rows, |band, rows, at| {
            let len = (rows.end - rows.start) as usize * row_bytes;
            band[0].copy(rows, &mut out[at * row_bytes..][..len]);
        });
    }

    /// Calls with each band that `rows` touch, the rows within the band, and where in `rows` they begin.
    fn each_band<'b, 'c>(
        &self,
        bands: &'b [Vec<View<'c>>],
        rows: Range<u64>,
        mut call: impl FnMut(&'b [View<'c>], Range<u64>, usize),
    ) {
        let mut start = 0;
        for band in bands {
            let end = start + band[0].rows();
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from < to {
                call(band, from - start..to - start, (from - rows.start) as usize);
            }
            start = end;
        }
    }
}

/// Matches the tensors of a checkpoint with an architecture.
///
/// # Errors
/// Tensors that are missing, unknown or of another shape; the message names them.
pub fn plan<'c>(
    architecture: &Architecture,
    params: &Params,
    checkpoint: &'c Checkpoint,
) -> Result<Plan<'c>> {
    let rules = (architecture.rules)();
    let names = Names::of(checkpoint)?;
    let embedding = rules.iter().find(|rule| rule.to == "token_embd.weight");
    let embedding = embedding.map_or("", |rule| rule.sources[0].names[0]);
    let (params, tied) = tied::settle(params, checkpoint, &names, embedding)?;
    let remarks = names.remark().into_iter().chain(tied).collect();
    let params = &params;
    let mut planner = Planner {
        params,
        checkpoint,
        names,
        used: HashSet::new(),
        missing: vec![],
        outputs: vec![],
        remarks,
    };
    let layers = params.dim(Dim::Layers)?;
    rules.iter().filter(|rule| !rule.to.contains("{i}")).try_for_each(|rule| planner.add(rule, 0))?;
    for (name, compute) in architecture.computed {
        if let Some(numbers) = compute(params)? {
            let shape = vec![numbers.len() as u64];
            planner.outputs.push(Output {
                name: name.to_string(),
                shape,
                contents: Contents::Numbers(numbers),
                change: Change::Nothing,
            });
        }
    }
    for layer in 0..layers {
        for rule in rules.iter().filter(|rule| applies(rule, architecture, params, layer)) {
            planner.add(rule, layer)?;
        }
        if planner.missing.len() > SHOWN {
            break; // a wrong configuration would list thousands
        }
    }
    planner.finish(architecture)
}

/// Whether a rule makes a tensor of this layer.
fn applies(rule: &Rule, architecture: &Architecture, params: &Params, layer: u64) -> bool {
    let experts = (architecture.expert_layer)(params, layer);
    let here = match rule.layers {
        Layers::All => true,
        Layers::Dense => !experts,
        Layers::Experts => experts,
    };
    rule.to.contains("{i}") && here && rule.kind.is_none_or(|kind| kind(params, layer))
}

/// Names and shapes of the tensors that a whole checkpoint of this configuration makes.
///
/// # Errors
/// The configuration lacks a length.
pub(crate) fn shapes(architecture: &Architecture, params: &Params) -> Result<Vec<(String, Vec<u64>)>> {
    let rules = (architecture.rules)();
    let there = |rule: &&Rule| match rule.presence {
        Presence::When(when) => when(params),
        Presence::Required => true,
    };
    let shape = |rule: &Rule, layer: u64| {
        let lengths = rule.shape.iter().map(|&dim| params.dim(dim)).collect::<Result<Vec<_>>>()?;
        Ok((expand(rule.to, layer, 0), lengths))
    };
    let outside = rules.iter().filter(|rule| !rule.to.contains("{i}")).filter(there);
    let mut all = outside.map(|rule| shape(rule, 0)).collect::<Result<Vec<_>>>()?;
    for (name, compute) in architecture.computed {
        all.extend(compute(params)?.map(|numbers| (name.to_string(), vec![numbers.len() as u64])));
    }
    for layer in 0..params.dim(Dim::Layers)? {
        let own = rules.iter().filter(|rule| applies(rule, architecture, params, layer)).filter(there);
        own.map(|rule| shape(rule, layer)).try_for_each(|found| found.map(|found| all.push(found)))?;
    }
    Ok(all)
}

struct Planner<'p, 'c> {
    params: &'p Params,
    checkpoint: &'c Checkpoint,
    names: Names<'c>,
    used: HashSet<&'c str>,
    missing: Vec<String>,
    outputs: Vec<Output<'c>>,
    remarks: Vec<String>,
}

impl<'c> Planner<'_, 'c> {
    fn add(&mut self, rule: &Rule, layer: u64) -> Result<()> {
        if let Presence::When(when) = rule.presence
            && !when(self.params)
        {
            return Ok(());
        }
        let there = |source: &&Source| {
            source.when.is_none_or(|when| when(self.params))
                && self.find(&expand(source.names[0], layer, 0)).is_some()
        };
        let Some(source) = rule.sources.iter().find(there) else {
            self.missing.push(expand(rule.sources[0].names[0], layer, 0));
            return Ok(());
        };
        let (bands, shape) = self.bands(source, layer)?;
        if self.missing.len() > SHOWN || bands.is_empty() {
            return Ok(());
        }
        let name = expand(rule.to, layer, 0);
        let expected = rule.shape.iter().map(|&dim| self.params.dim(dim)).collect::<Result<Vec<_>>>()?;
        if shape != expected {
            let (from, dims) = (expand(source.names[0], layer, 0), &rule.shape);
            let place = format!("tensor {from}, as {name}");
            return Err(Error::malformed(place, format!("{expected:?} ({dims:?})"), format!("{shape:?}")));
        }
        self.outputs.push(Output { name, shape, contents: Contents::Bands(bands), change: rule.change });
        Ok(())
    }

    /// The views of a source, and the shape of the whole.
    fn bands(&mut self, source: &Source, layer: u64) -> Result<(Vec<Vec<View<'c>>>, Vec<u64>)> {
        let (count, join) = self.repeats(source)?;
        let mut views = Vec::new();
        for pattern in &source.names {
            for e in 0..count {
                let name = expand(pattern, layer, e);
                let Some(view) = self.view(&name, source.holds)? else {
                    self.missing.push(name);
                    return Ok((vec![], vec![]));
                };
                let whole = self.changed(view, &source.ops, &name)?;
                if source.pieces.is_empty() {
                    views.push(whole);
                    continue;
                }
                for ops in &source.pieces {
                    views.push(self.changed(whole.clone(), ops, &name)?);
                }
            }
        }
        joined(views, join).ok_or_else(|| {
            Error::malformed(
                format!("tensor {}", expand(source.names[0], layer, 0)),
                "parts of one shape",
                "others",
            )
        })
    }

    /// How many tensors one pattern stands for, and how they are joined; `None` stacks.
    fn repeats(&self, source: &Source) -> Result<(u64, Option<Join>)> {
        let pattern = source.names[0];
        if pattern.contains("{e}") {
            Ok((self.params.dim(Dim::Experts)?, None))
        } else if pattern.contains("{s}") {
            Ok((self.params.dim(Dim::ExpertsShared)?, Some(source.join)))
        } else {
            Ok((1, Some(source.join)))
        }
    }

    fn changed(&self, mut view: View<'c>, ops: &[Op], name: &str) -> Result<View<'c>> {
        for &op in ops {
            let before = view.shape();
            view = view.apply(op, self.params)?.ok_or_else(|| {
                Error::malformed(
                    format!("tensor {name}"),
                    format!("a shape that {op:?} fits"),
                    format!("{before:?}"),
                )
            })?;
        }
        Ok(view)
    }

    fn find(&self, name: &str) -> Option<&'c Tensor> {
        self.names.find(name).or_else(|| self.names.find(&format!("{name}{PACKED}")))
    }

    /// A tensor that another one cannot do without.
    fn partner(&mut self, of: &str, name: &str) -> Result<&'c Tensor> {
        let partner = self.names.find(name);
        let partner = partner
            .ok_or_else(|| Error::malformed(format!("tensor {of}"), name.to_owned(), "no such tensor"))?;
        self.used.insert(&partner.name);
        Ok(partner)
    }

    /// A tensor with the scales that belong to it.
    fn view(&mut self, name: &str, holds: Holds) -> Result<Option<View<'c>>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        self.used.insert(&tensor.name);
        if holds == Holds::Indices {
            let elements = Elements::indices(tensor.dtype, self.checkpoint.elements(tensor), name)?;
            return Ok(Some(View::new(elements, &tensor.shape, &tensor.strides)));
        }
        if name.ends_with("_blocks") {
            let scales = self.partner(name, &name.replace("_blocks", "_scales"))?;
            return scales::mxfp4(self.checkpoint, name, tensor, scales).map(Some);
        }
        if tensor.name.ends_with(PACKED) {
            let scales = self.partner(&tensor.name, &format!("{name}_scale"))?;
            let shape = self.partner(&tensor.name, &format!("{name}_shape"))?;
            return scales::int4(self.checkpoint, tensor, scales, shape).map(Some);
        }
        let in_place = scales::in_place(name).and_then(|name| self.names.find(&name));
        if let (Dtype::I8, Some(scales)) = (tensor.dtype, in_place) {
            self.used.insert(&scales.name);
            return scales::mxfp4_rows(self.checkpoint, tensor, scales).map(Some);
        }
        let elements = match tensor.dtype {
            Dtype::F8E4M3 | Dtype::F8E5M2 => self.eight_bits(name, tensor)?,
            dtype => Elements::plain(dtype, self.checkpoint.elements(tensor), name)?,
        };
        Ok(Some(View::new(elements, &tensor.shape, &tensor.strides)))
    }

    /// 8-bit floats with the factors beside them, or as they stand where nothing says that there are any.
    fn eight_bits(&mut self, name: &str, tensor: &'c Tensor) -> Result<Elements<'c>> {
        let factors = scales::names_of_factors(name).find_map(|name| self.find(&name));
        if let Some(factors) = factors {
            self.used.insert(&factors.name);
            return scales::tiled(self.checkpoint, self.params, tensor, factors);
        }
        if scales::wants_factors(self.params) {
            let expected = format!("factors ({name}_scale_inv or {name}_scale), as quantization_config says");
            return Err(Error::malformed(format!("tensor {name}"), expected, "no such tensor"));
        }
        Elements::plain(tensor.dtype, self.checkpoint.elements(tensor), name)
    }

    /// The layer of a tensor, if that layer predicts further tokens from the state of the last one (multi-token
    /// prediction): only such a layer joins a token's embedding to that state.
    fn predicting_layer(&self, usual: &str) -> Option<u64> {
        let layer = usual.strip_prefix("model.layers.")?.split('.').next()?;
        self.names.find(&format!("model.layers.{layer}.eh_proj.weight"))?;
        layer.parse().ok()
    }

    fn finish(self, architecture: &Architecture) -> Result<Plan<'c>> {
        let rest = self.checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        let rest: BTreeSet<&str> = rest.filter(|name| !self.used.contains(name)).collect();
        let layers = self.params.dim(Dim::Layers)?;
        let scaled = scales::wants_factors(self.params);
        let ignored = |name: &&str| {
            // How inputs were rounded; nothing here rounds them.
            let of_inputs = scaled && (name.ends_with(".input_scale") || name.ends_with(".activation_scale"));
            let usual = self.names.usual(name);
            of_inputs
                || self.predicting_layer(&usual).is_some_and(|layer| layer >= layers)
                || architecture
                    .ignored
                    .iter()
                    .copied()
                    .flatten()
                    .any(|pattern| fits(pattern, name) || fits(pattern, &usual))
        };
        let (dropped, unknown): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(ignored);
        if self.missing.is_empty() && unknown.is_empty() {
            let predicting = dropped.iter().filter_map(|name| self.predicting_layer(&self.names.usual(name)));
            let predicting: BTreeSet<u64> = predicting.collect();
            let remark =
                |layer| format!("layer {layer} predicts further tokens from the last one's: left out");
            let mut remarks = self.remarks;
            remarks.extend(predicting.into_iter().map(remark));
            let dropped = dropped.into_iter().map(str::to_owned).collect();
            return Ok(Plan { outputs: self.outputs, dropped, remarks });
        }
        let mut found = Vec::new();
        if !self.missing.is_empty() {
            found.push(format!("missing {}", listed(&self.missing)));
        }
        if !unknown.is_empty() {
            found.push(format!("unknown {}", listed(&unknown)));
        }
        let expected = format!("those of the architecture {}", architecture.name);
        Err(Error::malformed("tensors of the checkpoint", expected, found.join("; ")))
    }
}

/// Rows of equal views below each other, views of equal height side by side, or (`None`) a new first axis.
fn joined<'c>(views: Vec<View<'c>>, join: Option<Join>) -> Option<(Vec<Vec<View<'c>>>, Vec<u64>)> {
    let mut shape = views.first()?.shape();
    let count = views.len() as u64;
    let same = |axis: usize| views.iter().all(|view| view.shape().get(axis) == shape.get(axis));
    if views.iter().any(|view| view.shape().len() != shape.len()) {
        return None;
    }
    if count == 1 && join.is_some() {
        return Some((vec![views], shape));
    }
    let last = shape.len().checked_sub(1)?;
    // The only axis of a vector is a row.
    let side_by_side = join == Some(Join::Columns) || (join == Some(Join::Rows) && last == 0);
    let grows = if side_by_side { last } else { 0 };
    if !(0..shape.len()).filter(|&axis| axis != grows || join.is_none()).all(same) {
        return None;
    }
    match join {
        None => shape.insert(0, count),
        Some(_) => shape[grows] = views.iter().map(|view| view.shape()[grows]).sum(),
    }
    let bands = if side_by_side { vec![views] } else { views.into_iter().map(|view| vec![view]).collect() };
    Some((bands, shape))
}

fn expand(pattern: &str, layer: u64, expert: u64) -> String {
    let name = pattern.replace("{i}", &layer.to_string());
    name.replace("{e}", &expert.to_string()).replace("{s}", &expert.to_string())
}

fn listed(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
