//! What is trained of a model: all of it, its routers, or low-rank matrices beside its own (Hu et al. 2021). Here stands
//! which matrices have an adapter, how the adapter's parameters are called, and how they begin.

use super::config::Config;
use super::parameters::{Spec, specs};
use super::roles::{Piece, Role};
use crate::random::Random;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trained {
    /// Every parameter.
    All,
    /// The routers alone.
    Router,
    /// Adapters, and nothing of the model itself.
    Lora(Lora),
}

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lora {
    /// Which matrices have one.
    pub targets: Vec<Target>,
    /// Rows of A.
    pub rank: usize,
    /// Factor of the product before it is divided by the rank.
    pub alpha: f64,
    /// Divides by the root of the rank instead (Kalajdzievski 2023).
    pub rslora: bool,
    /// Trains the lengths of the rows of matrices of attention, too (Liu et al. 2024).
    pub dora: bool,
    /// Share of the inputs of A that is dropped.
    pub dropout: f64,
}

/// A kind of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Queries, keys, values and the output of attention
    Attention,
    /// The matrices of all routed experts
    Experts,
    /// The matrices of shared experts
    Shared,
    /// Networks of layers without experts
    Dense,
    /// The routers
    Router,
    /// The output head
    Head,
}

impl Target {
    /// Every kind in the order of a token's way.
    pub const EVERY: [Self; 6] =
        [Self::Attention, Self::Experts, Self::Shared, Self::Dense, Self::Router, Self::Head];

    /// The kind of a parameter that adapters can be beside.
    pub fn of(role: Role) -> Option<Self> {
        Some(match role {
            Role::Qkv | Role::AttentionOutput => Self::Attention,
            Role::ExpertsUp | Role::ExpertsDown => Self::Experts,
            Role::SharedUp | Role::SharedDown => Self::Shared,
            Role::Up | Role::Down => Self::Dense,
            Role::Router => Self::Router,
            Role::Output => Self::Head,
            _ => return None,
        })
    }

    /// Whether `config` has such matrices.
    pub fn is_in(self, config: &Config) -> bool {
        specs(config).iter().any(|spec| Self::of(spec.role) == Some(self))
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Experts => "experts",
            Self::Shared => "shared",
            Self::Dense => "dense",
            Self::Router => "router",
            Self::Head => "head",
        }
    }
}

impl Trained {
    /// How many numbers of `config` are trained, kind by kind, without those that have none.
    pub fn counts(&self, config: &Config) -> Vec<(&'static str, u64)> {
        let kind = |role: Role| Target::of(role).map_or("embeddings and norms", Target::name);
        let own: Vec<(&str, u64)> = match self {
            Self::All => specs(config).iter().map(|spec| (kind(spec.role), spec.count() as u64)).collect(),
            Self::Router => {
                let routers = specs(config).into_iter().filter(|spec| spec.role == Role::Router);
                routers.map(|spec| ("router", spec.count() as u64)).collect()
            }
            Self::Lora(lora) => {
                let (adapters, own) = adapters(config, lora, 0);
                let count = |index: usize| own[index].count() as u64;
                let count = |adapter: &Adapter| {
                    count(adapter.a) + count(adapter.b) + adapter.magnitude.map_or(0, count)
                };
                adapters.iter().map(|adapter| (kind(adapter.role), count(adapter))).collect()
            }
        };
        let names = Target::EVERY.map(Target::name).into_iter().chain(["embeddings and norms"]);
        let sum =
            |name: &str| own.iter().filter(|(own, _)| *own == name).map(|(_, count)| count).sum::<u64>();
        names.map(|name| (name, sum(name))).filter(|(_, count)| *count > 0).collect()
    }
}

impl Lora {
    /// The factor of the product of both matrices.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Refuses what no adapter of `config` can be.
    ///
    /// # Errors
    /// The first of these, with what to do.
    pub fn check(&self, config: &Config) -> Result<()> {
        let has = |target| self.targets.contains(&target);
        if self.rank == 0 || self.targets.is_empty() {
            return Err(Error::request(
                "an adapter needs a rank of at least 1 and something that it is beside",
            ));
        }
        let is_possible = self.alpha.is_finite() && self.alpha > 0.0 && (0.0..1.0).contains(&self.dropout);
        if !is_possible {
            return Err(Error::request(
                "alpha must lie above 0, and the dropout of adapters from 0 to below 1",
            ));
        }
        if self.dora && self.targets != [Target::Attention] {
            return Err(Error::request(
                "DoRA is for attention alone: say --lora-targets attention, or leave it out",
            ));
        }
        if self.dora && self.dropout > 0.0 {
            return Err(Error::request("DoRA has no dropout here: leave out one of both"));
        }
        if has(Target::Experts) && self.dropout > 0.0 {
            return Err(Error::request("experts have no dropout, as in peft: leave out one of both"));
        }
        if has(Target::Head) && config.tied {
            return Err(Error::request(
                "the head of this model is its embedding, which an adapter would change, too: leave out head",
            ));
        }
        let model_type = config.architecture.model_type;
        if has(Target::Experts) && fused(config, Role::ExpertsUp, 0).is_none() && config.expert_layers() > 0 {
            return Err(Error::request(format!(
                "adapters of the experts of {model_type} have no name that other programs know: leave out experts, or \
                 say --train all"
            )));
        }
        if has(Target::Shared) && config.experts.shared_count > 1 {
            return Err(Error::request("several shared experts have no adapters yet: leave out shared"));
        }
        match self.targets.iter().find(|target| !target.is_in(config)) {
            Some(target) => {
                Err(Error::request(format!("{model_type} has no matrices that are {}", target.name())))
            }
            None => Ok(()),
        }
    }
}

/// One adapter: which rows of which parameter it is beside, and the places of its own parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adapter {
    pub(super) role: Role,
    pub(super) layer: usize,
    pub(super) first: usize, // row of the matrix; 0 for experts
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) magnitude: Option<usize>,
}

/// The adapters of `config` and their parameters, whose places are counted from `first` on.
pub(super) fn adapters(config: &Config, lora: &Lora, first: usize) -> (Vec<Adapter>, Vec<Spec>) {
    let (mut adapters, mut own) = (vec![], vec![]);
    for spec in specs(config) {
        let Some(target) = Target::of(spec.role).filter(|target| lora.targets.contains(target)) else {
            continue;
        };
        let parts =
            if target == Target::Experts { vec![grouped(config, &spec)] } else { rows(config, &spec) };
        for part in parts {
            let module = part.module;
            let mut add = |role: Role, shape: &[usize], piece: Piece| {
                own.push(Spec {
                    role,
                    layer: spec.layer,
                    shape: shape.to_vec(),
                    fan_in: part.inputs,
                    pieces: vec![piece],
                });
                first + own.len() - 1
            };
            let (r, named) = (lora.rank, |name: &str| format!("base_model.model.{module}.lora_{name}"));
            let (a, b) = match part.experts {
                None => {
                    let (a, b) = ([r, part.inputs], [part.outputs, r]);
                    let a = add(Role::AdapterA, &a, Piece::whole(named("A.weight"), &a));
                    (a, add(Role::AdapterB, &b, Piece::whole(named("B.weight"), &b)))
                }
                // peft's columns of B: the first of every expert, then the second of every expert, …
                Some(count) => {
                    let (a, b) = ([count, r, part.inputs], [count, part.outputs, r]);
                    let a_piece = Piece::whole(named("A.weight"), &a).shaped(&[count * r, part.inputs]);
                    let b_piece = Piece::whole(named("B.weight"), &b).ordered(&[1, 2, 0]);
                    let a = add(Role::AdapterA, &a, a_piece);
                    (a, add(Role::AdapterB, &b, b_piece.shaped(&[part.outputs, r * count])))
                }
            };
            let magnitude = lora.dora.then(|| {
                let shape = [part.outputs];
                add(Role::AdapterMagnitude, &shape, Piece::whole(named("magnitude_vector"), &shape))
            });
            adapters.push(Adapter { role: spec.role, layer: spec.layer, first: part.first, a, b, magnitude });
        }
    }
    (adapters, own)
}

/// What an adapter is beside.
struct Part {
    module: String,
    first: usize,
    outputs: usize,
    inputs: usize,
    experts: Option<usize>,
}

fn fused(config: &Config, role: Role, layer: usize) -> Option<Piece> {
    (config.architecture.fused)(role, layer, &[0, 0, 0])
}

/// Each piece of a matrix is a module of its own.
fn rows(config: &Config, spec: &Spec) -> Vec<Part> {
    let inputs = spec.shape[1];
    let part = |piece: &Piece| {
        let newer = fused(config, spec.role, spec.layer).map(|piece| piece.name);
        let name = newer.as_ref().unwrap_or(&piece.name);
        let module = name.strip_suffix(".weight").unwrap_or(name).to_owned();
        let (first, outputs) = piece.ranges[0];
        Part { module, first, outputs, inputs, experts: None }
    };
    spec.pieces.iter().map(part).collect()
}

/// All experts of a layer are one module. peft wraps it once for each of its two parameters, gate and up first.
fn grouped(config: &Config, spec: &Spec) -> Part {
    let name = fused(config, spec.role, spec.layer).map(|piece| piece.name).unwrap_or_default();
    let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
    let inner = if spec.role == Role::ExpertsUp { ".base_layer" } else { "" };
    Part {
        module: format!("{module}{inner}"),
        first: 0,
        outputs: spec.shape[1],
        inputs: spec.shape[2],
        experts: Some(spec.shape[0]),
    }
}

/// How the parameter `index` of adapters begins: A uniform within `1 / sqrt(in)`, B as 0, so that nothing changes yet.
pub(super) fn initial(spec: &Spec, seed: u64, index: usize) -> Vec<f32> {
    let mut values = vec![0.0; spec.count()];
    if spec.role == Role::AdapterA {
        let mut random = Random::at(seed, &[0x10A, index as u64]);
        let bound = 1.0 / (spec.fan_in as f64).sqrt();
        values.iter_mut().for_each(|value| *value = (bound * (2.0 * random.uniform() - 1.0)) as f32);
    }
    values
}
