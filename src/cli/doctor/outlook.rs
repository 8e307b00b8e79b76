//! What a machine makes of a model: whether it fits, and how many tokens a second to expect, computed from bytes.
//!
//! A token reads all dense weights and its own experts, and reading them is what decoding takes time for. So with `W` bytes
//! of weights per token, `E` of them experts, `C` bytes of a cache of 4096 positions, `R` bytes per second at which the
//! kernels pass weights, `D` at which the disk gives experts and `m` the share of a token's experts that are not in
//! memory, a token takes
//!
//! - at best `max(W / R / 0.95, m E / D)`: reading from the disk hides behind computing, and `m` is as small as Möwe's
//!   way of keeping experts makes it for a text (ARCHITECTURE.md has the table);
//! - at worst `(W + C) / R / 0.60 + m E / D`: nothing hides, the context is full, and every expert is as likely as any
//!   other, so that `m` is the share that does not fit.
//!
//! 0.95 and 0.60 are the part of the time that passes weights; attention, norms, routing and waiting take the rest.

use super::super::catalogue::{self, POSITIONS, PROGRAM, Shape};
use super::super::{converted, folders, models};
use crate::facts;
use moewe_engine::gguf::Gguf;
use moewe_engine::model::{KvCache, Model, PAGE, SNAPSHOTS, ffn};
use moewe_engine::session::Options;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Shares of a token's time that pass weights, at worst and at best.
const LEAST_SHARE: f64 = 0.60;
const MOST_SHARE: f64 = 0.95;

/// Experts that have to fit beside everything else, at the least: the store reads so many at a time.
const LEAST_EXPERTS: u64 = 4;

/// For shares of the experts that fit: which part of those that texts want is in memory. Fading LFU per layer, as measured
/// with Möwe-mini (ARCHITECTURE.md).
const HITS: [(f64, f64); 10] = [
    (0.0, 0.0),
    (0.06, 0.044),
    (0.12, 0.142),
    (0.25, 0.334),
    (0.37, 0.451),
    (0.5, 0.599),
    (0.62, 0.695),
    (0.75, 0.819),
    (0.87, 0.900),
    (1.0, 1.0),
];

/// Time for opening a person's models.
const OPENING: Duration = Duration::from_millis(800);

/// What a machine gives: bytes of memory for a model, bytes per second of weights past the kernels and of experts from the
/// disk, bytes of room on the disk.
pub(super) struct Machine {
    pub(super) memory: Option<u64>,
    pub(super) weights: Option<f64>,
    pub(super) disk: Option<f64>,
    pub(super) room: Option<u64>,
}

/// What a model takes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    /// What is in memory in any case: dense weights with the embedding table.
    dense: u64,
    /// Of these what a token reads.
    dense_per_token: u64,
    /// All experts, and those of a token.
    experts: u64,
    experts_per_token: u64,
    /// The largest expert.
    expert: u64,
    /// A cache of [`POSITIONS`], states included.
    cache: u64,
}

/// Where a model's experts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fit {
    /// All of it in memory.
    Memory,
    /// Experts are read when they are needed.
    ExpertsFromDisk,
    /// Not even what every token needs fits.
    TooLarge,
    /// How much memory there is is not known.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Speed {
    pub(super) least: f64,
    pub(super) most: f64,
}

/// A model on this machine.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outlook {
    pub(super) name: String,
    /// Where the numbers are from: a configuration's address, or the file.
    pub(super) source: String,
    pub(super) architecture: Option<String>,
    pub(super) parameters: Option<u64>,
    /// Those that a token passes.
    pub(super) active_parameters: Option<u64>,
    pub(super) bits_per_weight: Option<f64>,
    /// Of its file.
    pub(super) bytes: Option<u64>,
    /// With a cache of 4096 positions and the program.
    pub(super) memory_bytes: Option<u64>,
    pub(super) bytes_per_token: Option<u64>,
    pub(super) fit: Option<Fit>,
    pub(super) share_of_experts_in_memory: Option<f64>,
    pub(super) tokens_per_second: Option<Speed>,
    /// Whether the disk has room for the file; of files that are there, null.
    pub(super) fits_on_disk: Option<bool>,
    /// Why the model does not run.
    pub(super) why_not: Option<String>,
}

impl Demand {
    fn of_shape(shape: &Shape) -> Self {
        let (all, used) = shape.expert_counts();
        let (dense, experts) = (shape.dense_bytes(), shape.bytes_of_experts());
        let expert = experts / all.max(1);
        Self {
            dense,
            dense_per_token: dense - shape.table_bytes(),
            experts,
            experts_per_token: expert * used,
            expert,
            cache: shape.cache(),
        }
    }

    fn of_model(model: &Model) -> moewe_engine::Result<Self> {
        let (mut experts, mut experts_per_token, mut expert) = (0, 0, 0);
        for (i, layer) in model.config.layers.iter().enumerate() {
            let Some(ffn::Shape::Experts(shape)) = &layer.ffn else { continue };
            let bytes = model.weights.experts.layer_bytes(i);
            let one = bytes / shape.expert_count.max(1) as u64;
            experts += bytes;
            experts_per_token += one * shape.expert_used_count as u64;
            expert = expert.max(one);
        }
        let (cache, memories) = (Options::default().cache, model.config.memories());
        let page = KvCache::page_bytes(&memories, cache)? as u64;
        let state = KvCache::state_size(&memories, cache)?.1 as u64;
        Ok(Self {
            dense: model.dense_bytes(),
            dense_per_token: model.bytes_per_token() - experts_per_token,
            experts,
            experts_per_token,
            expert,
            cache: page * POSITIONS / PAGE as u64 + state * (1 + SNAPSHOTS as u64),
        })
    }

    /// What is taken whatever happens to the experts.
    fn fixed(&self) -> u64 {
        self.dense + self.cache + PROGRAM
    }

    fn total(&self) -> u64 {
        self.fixed() + self.experts
    }

    fn per_token(&self) -> u64 {
        self.dense_per_token + self.experts_per_token
    }

    /// Where the experts are, and which share of them is in memory.
    fn fit(&self, memory: Option<u64>) -> (Fit, f64) {
        let Some(memory) = memory else { return (Fit::Unknown, 1.0) };
        if self.total() <= memory {
            return (Fit::Memory, 1.0);
        }
        let left = memory.checked_sub(self.fixed() + LEAST_EXPERTS * self.expert);
        match left {
            Some(left) if self.experts > 0 => {
                (Fit::ExpertsFromDisk, (left as f64 / self.experts as f64).min(1.0))
            }
            _ => (Fit::TooLarge, 0.0),
        }
    }

    /// Tokens per second with this share of the experts in memory; `None` where something is not known that counts.
    fn speed(&self, machine: &Machine, share: f64) -> Option<Speed> {
        let weights = machine.weights?;
        let missing = (1.0 - share) * self.experts_per_token as f64;
        let disk = match machine.disk {
            Some(rate) => 1.0 / rate,
            None if missing == 0.0 => 0.0,
            None => return None,
        };
        let missing_at_best = (1.0 - hits(share)) * self.experts_per_token as f64;
        let best = (self.per_token() as f64 / weights / MOST_SHARE).max(missing_at_best * disk);
        let worst = (self.per_token() + self.cache) as f64 / weights / LEAST_SHARE + missing * disk;
        Some(Speed { least: 1.0 / worst, most: 1.0 / best })
    }
}

/// The part of the wanted experts that is in memory where a share of all fits: [`HITS`], but no less than the share.
fn hits(share: f64) -> f64 {
    let between = HITS.windows(2).find(|pair| share <= pair[1].0);
    let hits = between.map_or(1.0, |pair| {
        let ((left, low), (right, high)) = (pair[0], pair[1]);
        low + (high - low) * (share - left) / (right - left)
    });
    hits.max(share)
}

impl Outlook {
    fn called(name: String, source: String) -> Self {
        Self { name, source, ..Self::default() }
    }

    fn weigh(self, demand: &Demand, machine: &Machine) -> Self {
        let (fit, share) = demand.fit(machine.memory);
        let runs = fit != Fit::TooLarge;
        Self {
            memory_bytes: Some(demand.total()),
            bytes_per_token: Some(demand.per_token()),
            fit: Some(fit),
            share_of_experts_in_memory: Some(share).filter(|_| demand.experts > 0),
            tokens_per_second: if runs { demand.speed(machine, share) } else { None },
            ..self
        }
    }

    fn of_shape(shape: &Shape, machine: &Machine) -> Self {
        let demand = Demand::of_shape(shape);
        let bytes = demand.dense + demand.experts;
        let source = format!("https://huggingface.co/{}/blob/main/config.json", shape.source);
        let known = Self {
            architecture: Some(shape.architecture.to_owned()),
            parameters: Some(shape.parameters()),
            active_parameters: Some(shape.active()),
            bits_per_weight: Some(shape.bits),
            bytes: Some(bytes),
            fits_on_disk: machine.room.map(|room| bytes <= room),
            ..Self::called(shape.short_name(), source)
        };
        known.weigh(&demand, machine)
    }

    fn of_file(name: String, path: &Path, machine: &Machine) -> Self {
        let nothing = Self::called(name, path.display().to_string());
        let weighed = || {
            let gguf = Gguf::open(path)?;
            let (model, weights) = (Model::bind(&gguf)?, facts::model(&gguf));
            let demand = Demand::of_model(&model)?;
            let (all, per_token) = (demand.dense + demand.experts, demand.per_token());
            let active = weights.weights as f64 * per_token as f64 / all.max(1) as f64;
            let known = Self {
                architecture: Some(facts::architecture(&gguf)),
                parameters: Some(weights.weights),
                active_parameters: Some(active as u64),
                bits_per_weight: Some(weights.bits_per_weight()),
                bytes: Some(gguf.file_len()),
                ..Self::called(nothing.name.clone(), nothing.source.clone())
            };
            Ok::<_, moewe_engine::Error>(known.weigh(&demand, machine))
        };
        weighed().unwrap_or_else(|error| Self { why_not: Some(error.to_string()), ..nothing })
    }
}

/// Well-known models at 4 bits, the smallest first.
pub(super) fn known(machine: &Machine) -> Vec<Outlook> {
    catalogue::MODELS.iter().map(|shape| Outlook::of_shape(shape, machine)).collect()
}

/// A person's own models, as their files are, and how many there was no time for.
pub(super) fn own(machine: &Machine) -> (Vec<Outlook>, usize) {
    let found = models::find(&folders::models()).into_iter().map(|found| (found.name, found.path));
    let converted = converted::all().into_iter().map(|model| (model.name, model.path));
    let all: Vec<(String, PathBuf)> = found.chain(converted).collect();
    let (count, start) = (all.len(), Instant::now());
    let in_time = all.into_iter().take_while(|_| start.elapsed() < OPENING);
    let own: Vec<Outlook> = in_time.map(|(name, path)| Outlook::of_file(name, &path, machine)).collect();
    let left_out = count - own.len();
    (own, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    const GB: u64 = 1_000_000_000;

    fn machine(memory: u64, weights: f64, disk: f64) -> Machine {
        Machine { memory: Some(memory), weights: Some(weights), disk: Some(disk), room: None }
    }

    fn demand() -> Demand {
        Demand {
            dense: 2 * GB,
            dense_per_token: GB,
            experts: 8 * GB,
            experts_per_token: GB,
            expert: GB / 16,
            cache: GB - PROGRAM,
        }
    }

    #[test]
    fn an_example_by_hand() {
        // 2 GB a token at 20 GB/s are 0.1 s: at best 0.1 / 0.95, at worst the cache comes on top.
        let (fit, share) = demand().fit(Some(11 * GB));
        assert_eq!((fit, share), (Fit::Memory, 1.0));
        let speed = demand().speed(&machine(11 * GB, 20e9, 1e9), share).unwrap();
        let cache = (GB - PROGRAM) as f64 / 20e9;
        assert!(
            (speed.most - 9.5).abs() < 1e-9 && (speed.least - 0.6 / (0.1 + cache)).abs() < 1e-9,
            "{speed:?}"
        );
        // 3 GB fixed and a quarter for four experts leave 4 of 7.25 GB: half of them. At best 0.401 GB a token come
        // from the disk in 0.401 s, at worst half a GB in half a second on top of the rest.
        let (fit, share) = demand().fit(Some(7 * GB + GB / 4));
        assert_eq!((fit, share), (Fit::ExpertsFromDisk, 0.5));
        let speed = demand().speed(&machine(7 * GB, 20e9, 1e9), share).unwrap();
        assert!((1.0 / speed.most - 0.401).abs() < 1e-9, "{speed:?}");
        assert!((1.0 / speed.least - (0.1 + cache) / 0.6 - 0.5).abs() < 1e-9, "{speed:?}");
        assert_eq!(demand().fit(Some(3 * GB)).0, Fit::TooLarge);
        assert_eq!(demand().fit(None).0, Fit::Unknown);
        let dense = Demand { experts: 0, experts_per_token: 0, expert: 0, ..demand() };
        assert_eq!(dense.fit(Some(3 * GB)).0, Fit::Memory);
        assert_eq!(dense.fit(Some(3 * GB - 1)).0, Fit::TooLarge);
    }

    #[test]
    fn more_of_anything_is_never_slower() {
        let memories = (32..120).map(|tenth| tenth * GB / 10);
        let rates = [1e9, 5e9, 2e10, 1e11];
        let speed = |memory, weights, disk| {
            let (fit, share) = demand().fit(Some(memory));
            let speed = demand().speed(&machine(memory, weights, disk), share).unwrap();
            assert!(speed.least <= speed.most && speed.least > 0.0, "{speed:?}");
            if fit == Fit::TooLarge { Speed { least: 0.0, most: 0.0 } } else { speed }
        };
        let is_at_least = |a: Speed, b: Speed| a.least >= b.least && a.most >= b.most;
        for memory in memories {
            for (i, &weights) in rates.iter().enumerate() {
                for (j, &disk) in rates.iter().enumerate() {
                    let here = speed(memory, weights, disk);
                    assert!(is_at_least(speed(memory + GB / 10, weights, disk), here));
                    assert!(is_at_least(speed(memory, *rates.get(i + 1).unwrap_or(&weights), disk), here));
                    assert!(is_at_least(speed(memory, weights, *rates.get(j + 1).unwrap_or(&disk)), here));
                }
            }
        }
    }

    #[test]
    fn hits_rise_with_what_fits() {
        assert_eq!((hits(0.0), hits(0.5), hits(1.0)), (0.0, 0.599, 1.0));
        assert!((hits(0.435) - 0.525).abs() < 1e-9);
        let all: Vec<f64> = (0..=100).map(|percent| hits(f64::from(percent) / 100.0)).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let unknown = Machine { memory: None, weights: None, disk: None, room: None };
        assert_eq!(demand().speed(&unknown, 1.0), None);
        let no_disk = Machine { weights: Some(1e10), ..unknown };
        assert!(demand().speed(&no_disk, 1.0).is_some());
        assert_eq!(demand().speed(&no_disk, 0.5), None);
    }

    #[test]
    fn a_file_takes_what_its_tensors_take() {
        let gguf = Gguf::from_static(embedded::model()).unwrap();
        let model = Model::bind(&gguf).unwrap();
        let demand = Demand::of_model(&model).unwrap();
        assert_eq!(demand.per_token(), model.bytes_per_token());
        assert!(demand.dense + demand.experts <= gguf.file_len());
        assert!(demand.dense + demand.experts > gguf.file_len() * 9 / 10);
        assert!(demand.dense_per_token <= demand.dense && demand.cache > 0);
        assert!(demand.experts_per_token < demand.experts && demand.expert > 0);
    }

    #[test]
    fn shapes_read_less_than_they_have() {
        for shape in catalogue::MODELS {
            let demand = Demand::of_shape(shape);
            let bits = demand.per_token() as f64 * 8.0 / shape.active() as f64;
            assert!((3.5..8.6).contains(&bits), "{}: {bits}", shape.source);
            assert!(demand.experts_per_token * 2 < demand.experts && demand.dense_per_token <= demand.dense);
            assert!(
                shape.short_name().len() <= 30 && shape.source.split('/').count() == 2,
                "{}",
                shape.source
            );
        }
    }
}
