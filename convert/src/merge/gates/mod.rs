//! Routers without training: each row from what its expert is for, as mergekit makes them or from where a router really
//! looks. All of it is computed from the base.

mod least_squares;
mod loads;
mod material;
mod walk;

pub use loads::{Load, Loads};

use super::member::Member;
use super::mixture::{GateMode, Mixture};
use least_squares::Fit;
use loads::Count;
use material::{Material, Passage, Purpose};
use moewe_engine::sampler::Random;
use moewe_engine::{Error, Result};
use walk::{Seen, embedded, walk};

/// Below it a direction has no length to divide by.
const TINY: f64 = 1e-8;

/// What a person wants of gates beyond the mixture's own keys.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Tokens of each expert's texts.
    pub tokens: usize,
    /// What fitted gates are multiplied with, in the place of what held-out text says.
    pub scale: Option<f64>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { tokens: 2048, scale: None }
    }
}

/// The routers of all layers.
pub(super) struct Gates {
    pub(super) layers: Vec<Gate>,
    /// Where they look; none without prompts and texts.
    pub(super) loads: Option<Loads>,
}

/// The router of a layer.
#[derive(Clone)]
pub(super) struct Gate {
    /// `(experts, width)`
    pub(super) routed: Vec<f32>,
    /// `(width)`, of the shared expert; empty without
    pub(super) shared: Vec<f32>,
}

impl Gate {
    fn new(rows: &[Vec<f32>], experts: usize) -> Self {
        Self { routed: rows[..experts].concat(), shared: rows[experts..].concat() }
    }

    /// What it says of an input, before the softmax.
    fn scores(&self, input: &[f32]) -> Vec<f64> {
        self.routed.chunks_exact(input.len()).map(|row| dot(row, input)).collect()
    }

    fn cosine(&self, a: usize, b: usize, width: usize) -> f64 {
        let [a, b] = [a, b].map(|row| &self.routed[row * width..][..width]);
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
    }
}

/// No gates yet: what a dry run writes.
pub(super) fn none(mixture: &Mixture, base: &Member) -> Result<Gates> {
    let (layers, width) = (base.length("block_count")?, base.length("embedding_length")? as usize);
    let rows = vec![vec![0.0; width]; mixture.experts.len() + mixture.shared.len()];
    let gate = Gate::new(&rows, mixture.experts.len());
    Ok(Gates { layers: vec![gate; layers as usize], loads: None })
}

/// Makes the gates of all layers and looks where they send what they were made for.
///
/// # Errors
/// Prompts without tokens, texts that are too short, a base that cannot be computed; `heard` says no.
pub(super) fn compute(
    mixture: &Mixture,
    base: &Member,
    wishes: &Wishes,
    heard: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Gates> {
    let material = Material::of(mixture, base, wishes)?;
    let maker =
        Maker { mixture, material: &material, wishes, width: base.length("embedding_length")? as usize };
    let layers = base.length("block_count")? as usize;
    let fixed = maker.fixed(base, layers)?;
    if material.passages.is_empty() {
        return Ok(Gates { layers: fixed.unwrap_or_default(), loads: None });
    }
    let experts = mixture.experts.len();
    let checked = material.checked(experts);
    let mut count = Count::new(experts, mixture.experts_per_token, &checked);
    let mut gates = Vec::with_capacity(layers);
    walk(base, &material.sequences(), &mut |seen: &Seen| {
        let gate = match &fixed {
            Some(gates) => gates[seen.layer].clone(),
            None => maker.gate(seen)?,
        };
        count.add(&gate, &checked, seen.router);
        gates.push(gate);
        if heard(seen.layer + 1, seen.layers) { Ok(()) } else { Err(Error::Stopped) }
    })?;
    Ok(Gates { layers: gates, loads: Some(count.finish()) })
}

/// Makes gates in one of the modes.
struct Maker<'a> {
    mixture: &'a Mixture,
    material: &'a Material,
    wishes: &'a Wishes,
    width: usize,
}

impl Maker<'_> {
    fn owners(&self) -> usize {
        self.mixture.experts.len() + self.mixture.shared.len()
    }

    /// Gates that need no layer to be computed; none where they do.
    fn fixed(&self, base: &Member, layers: usize) -> Result<Option<Vec<Gate>>> {
        let experts = self.mixture.experts.len();
        let mut random = Random::new(self.mixture.seed);
        let bound = 1.0 / (self.width as f64).sqrt();
        let mut drawn = |draw: &dyn Fn(&mut Random) -> f64| {
            let mut row = || (0..self.width).map(|_| draw(&mut random) as f32).collect();
            let rows: Vec<Vec<f32>> = (0..self.owners()).map(|_| row()).collect();
            Gate::new(&rows, experts)
        };
        Ok(match self.mixture.gate_mode {
            GateMode::Random => Some((0..layers).map(|_| drawn(&Random::normal)).collect()),
            GateMode::UniformRandom => {
                let uniform = |random: &mut Random| (2.0 * random.unit() - 1.0) * bound;
                Some((0..layers).map(|_| drawn(&uniform)).collect())
            }
            GateMode::CheapEmbed => Some(vec![self.cheap(base)?; layers]),
            _ => None,
        })
    }

    /// From the embeddings of the prompts' tokens, the same in every layer.
    fn cheap(&self, base: &Member) -> Result<Gate> {
        let sum = |owner: usize, purpose: Purpose| -> Result<Option<Vec<f64>>> {
            let own: Vec<Vec<u32>> =
                self.material.of_owner(owner, purpose).map(|passage| passage.tokens.clone()).collect();
            if own.is_empty() {
                return Ok(None);
            }
            let rows = embedded(base, &own)?;
            let mut sum = vec![0.0; self.width];
            rows.chunks_exact(self.width).for_each(|row| add(&mut sum, row));
            Ok(Some(unit(sum, 0.0)))
        };
        let row = |owner: usize| {
            let positive = sum(owner, Purpose::Positive)?.unwrap_or_else(|| vec![0.0; self.width]);
            let Some(negative) = sum(owner, Purpose::Negative)? else { return Ok(floats(&positive)) };
            Ok(floats(&unit(less(positive, &negative), 0.0)))
        };
        let rows = (0..self.owners()).map(row).collect::<Result<Vec<_>>>()?;
        Ok(Gate::new(&rows, self.mixture.experts.len()))
    }

    /// From what a layer sees.
    fn gate(&self, seen: &Seen) -> Result<Gate> {
        let experts = self.mixture.experts.len();
        if self.mixture.gate_mode == GateMode::Text {
            let fit = Fit { passages: &self.material.passages, experts, width: self.width };
            let routed = fit.gates(seen.router, self.wishes.scale)?;
            // A shared expert has no texts: the same weight for all tokens, one half.
            let shared = vec![0.0; self.width * self.mixture.shared.len()];
            return Ok(Gate { routed, shared });
        }
        let direction = |owner: usize| {
            let positive = self.mean(owner, Purpose::Positive, seen);
            let negative = self.mean(owner, Purpose::Negative, seen);
            let direction = positive.unwrap_or_else(|| vec![0.0; self.width]);
            let direction =
                negative.map_or_else(|| direction.clone(), |negative| less(direction.clone(), &negative));
            floats(&unit(direction, TINY))
        };
        let rows: Vec<Vec<f32>> = (0..self.owners()).map(direction).collect();
        Ok(Gate::new(&rows, experts))
    }

    /// The mean over an expert's prompts of what stands for one in this mode; in mode `router` over all their tokens.
    fn mean(&self, owner: usize, purpose: Purpose, seen: &Seen) -> Option<Vec<f64>> {
        let passages: Vec<&Passage> = self.material.of_owner(owner, purpose).collect();
        let (rows, is_router) = match self.mixture.gate_mode {
            GateMode::Router => (seen.router, true),
            _ => (seen.entering, false),
        };
        let row = |i: usize| &rows[i * self.width..][..self.width];
        let mut sum = vec![0.0; self.width];
        let mut count = 0.0;
        for passage in &passages {
            let own = match self.mixture.gate_mode {
                GateMode::Router => passage.content(),
                GateMode::HiddenAvg => passage.rows.clone(),
                _ => passage.rows.end - 1..passage.rows.end,
            };
            let weight = if is_router { 1.0 } else { 1.0 / own.len() as f64 };
            count += if is_router { own.len() as f64 } else { 1.0 };
            own.for_each(|i| sum.iter_mut().zip(row(i)).for_each(|(sum, &x)| *sum += weight * f64::from(x)));
        }
        (!passages.is_empty()).then(|| sum.into_iter().map(|value| value / count).collect())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn add(sum: &mut [f64], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
}

fn less(a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Of length 1, unless it is shorter than `least`.
fn unit(mut direction: Vec<f64>, least: f64) -> Vec<f64> {
    let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt().max(least).max(f64::MIN_POSITIVE);
    direction.iter_mut().for_each(|x| *x /= length);
    direction
}

fn floats(row: &[f64]) -> Vec<f32> {
    row.iter().map(|&x| x as f32).collect()
}
