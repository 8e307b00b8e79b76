//! From peft's modules to GGUF's tensors of a base: rows in the order in which the file has them, experts one by one.

use super::peft::{Array, Module, Weights};
use super::settings::Settings;
use super::{Change, Changes, Low, other_lengths, subject_of, turned};
use crate::hf::places::{Place, in_pairs, places};
use crate::source::Source;
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use std::collections::BTreeMap;

/// The pair of a module, in the usual order.
struct Pair {
    rank: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<f32>, // (rank, inputs)
    b: Vec<f32>, // (outputs, rank)
}

/// An adapter on its way into a base.
pub(super) struct Placed<'p> {
    settings: &'p Settings,
    base: &'p dyn Source,
    architecture: &'p str,
    changes: BTreeMap<String, Change>,
}

impl<'p> Placed<'p> {
    pub(super) fn new(settings: &'p Settings, base: &'p dyn Source) -> Result<Self> {
        let architecture = base.metadata().require_str("general.architecture")?;
        Ok(Self { settings, base, architecture, changes: BTreeMap::new() })
    }

    /// All changes that the weights stand for.
    pub(super) fn changes(mut self, weights: &Weights, name: String) -> Result<Changes> {
        for (module, weights) in weights {
            self.add(module, weights).map_err(|error| error.in_file(module))?;
        }
        Ok(Changes {
            name,
            tensors: self.changes,
            alpha: self.settings.alpha(),
            templates: Metadata::new(),
            notes: vec![],
        })
    }

    fn add(&mut self, module: &str, weights: &Module) -> Result<()> {
        if let Some(whole) = &weights.whole {
            return self.whole(module, whole);
        }
        let (Some(a), Some(b)) = (&weights.a, &weights.b) else {
            let (there, lacking) = if weights.a.is_some() { ("A", "B") } else { ("B", "A") };
            return Err(Error::malformed(
                format!("lora_{there}"),
                format!("lora_{lacking} beside it"),
                "none",
            ));
        };
        if let Some(experts) = fused(module) {
            return self.fused(experts, a, b);
        }
        let pair = if weights.is_embedding { embedding(a, b)? } else { plain(a, b)? };
        let scale = self.settings.scale(module, pair.rank);
        for place in self.places(&format!("{module}.weight"))? {
            self.put(&place, &pair, scale, weights.magnitude.as_ref())?;
        }
        Ok(())
    }

    /// Where a parameter stands. The head and the embedding are one where the base has one for both.
    fn places(&self, parameter: &str) -> Result<Vec<Place>> {
        let end = |name: &str| {
            vec![Place { tensor: name.to_owned(), expert: None, paired: None, part: None, joined: None }]
        };
        let is_tied = !self.base.tensors().iter().any(|tensor| tensor.subject.name == "output.weight");
        let is_end = matches!(parameter, "lm_head.weight" | "model.embed_tokens.weight");
        if is_end && is_tied {
            let what =
                format!("the adapter changes {parameter}, which is embedding and head of this base at once");
            return Err(Error::unsupported(what, "merge it with peft (merge_and_unload), which parts them"));
        }
        match parameter {
            "lm_head.weight" => return Ok(end("output.weight")),
            "model.embed_tokens.weight" => return Ok(end("token_embd.weight")),
            _ => {}
        }
        let found = places(self.architecture, parameter)?;
        let there =
            |place: &Place| self.base.tensors().iter().any(|tensor| tensor.subject.name == place.tensor);
        let found: Vec<Place> = found.into_iter().filter(there).collect();
        if found.is_empty() {
            let what = format!("a base of the architecture {} has no {parameter}", self.architecture);
            return Err(Error::unsupported(what, "name the base that the adapter was trained on"));
        }
        Ok(found)
    }

    fn whole(&mut self, module: &str, whole: &Array) -> Result<()> {
        for place in self.places(&format!("{module}.weight"))? {
            if place.paired.is_some() || place.part.is_some() || place.expert.is_some() {
                let what = format!("the adapter brings a whole {module}");
                return Err(Error::unsupported(what, "merge it with peft (merge_and_unload)"));
            }
            let subject = subject_of(self.base, &place.tensor)?;
            let expected = (1, subject.rows() as usize, subject.columns() as usize);
            let shape = if let [rows, columns] = whole.shape[..] {
                (1, rows, columns)
            } else {
                (1, 1, whole.values.len())
            };
            if shape != expected {
                return Err(other_lengths(&place.tensor, expected, shape));
            }
            self.changes.entry(place.tensor).or_default().whole = Some(whole.values.clone());
        }
        Ok(())
    }

    /// Adds a pair at a place, its rows in the file's order.
    fn put(&mut self, place: &Place, pair: &Pair, scale: f64, magnitude: Option<&Array>) -> Result<()> {
        let subject = subject_of(self.base, &place.tensor)?;
        let (experts, rows) = (subject.experts(), subject.rows_per_expert() as usize);
        let rows = if subject.shape.len() < 2 { 1 } else { rows };
        let rows_of = |pair: &Pair| {
            place.part.map_or(0..pair.outputs, |(part, of)| {
                let length = pair.outputs / of;
                part * length..(part + 1) * length
            })
        };
        let kept = rows_of(pair);
        let within = match place.joined {
            Some(which) => self.joined(which, rows)?,
            None => 0..rows,
        };
        let expected = (1, within.len(), subject.columns() as usize);
        if (1, kept.len(), pair.inputs) != expected {
            return Err(other_lengths(&place.tensor, expected, (1, kept.len(), pair.inputs)));
        }
        let order = self.order(place, within.len())?;
        let row = |i: usize| &pair.b[(kept.start + order[i]) * pair.rank..][..pair.rank];
        let mut b = vec![0.0; within.start * pair.rank];
        b.extend((0..within.len()).flat_map(row));
        b.resize(rows * pair.rank, 0.0);
        let low = Low { rank: pair.rank, a: pair.a.clone(), b, scale };
        let expert = place.expert.unwrap_or(0);
        let has_all = place.expert.is_none() && experts > 1;
        if has_all || expert >= experts.max(1) || (magnitude.is_some() && experts > 1) {
            let what = format!("{} has {experts} experts, of which this is none", place.tensor);
            return Err(Error::unsupported(what, "name the base that the adapter was trained on"));
        }
        let change = self.changes.entry(place.tensor.clone()).or_default();
        change.lows.resize(experts.max(1), None);
        change.lows[expert] = Some(match change.lows[expert].take() {
            Some(other) => other.and(&low, rows),
            None => low,
        });
        if let Some(magnitude) = magnitude {
            if magnitude.values.len() != rows {
                let found = magnitude.values.len();
                return Err(Error::malformed("lora_magnitude_vector", format!("{rows} numbers"), found));
            }
            change.magnitude = Some(order.iter().map(|&i| magnitude.values[i]).collect());
        }
        Ok(())
    }

    /// The rows of queries, keys or values among those of all three.
    fn joined(&self, which: usize, rows: usize) -> Result<std::ops::Range<usize>> {
        let number = |key: &str| {
            let key = format!("{}.{key}", self.architecture);
            self.base.metadata().require_u64(&key).map(|number| number as usize)
        };
        let (heads, shared) = (number("attention.head_count")?, number("attention.head_count_kv")?);
        let (key, value) = (number("attention.key_length")?, number("attention.value_length")?);
        let lengths = [heads * key, shared * key, shared * value];
        let start = lengths[..which].iter().sum::<usize>();
        match lengths.iter().sum::<usize>() == rows {
            true => Ok(start..start + lengths[which]),
            false => Err(Error::malformed("attn_qkv", format!("{lengths:?} rows"), rows)),
        }
    }

    /// Which row of the checkpoint's stands in which of the file.
    fn order(&self, place: &Place, rows: usize) -> Result<Vec<usize>> {
        let Some(key) = place.paired else { return Ok((0..rows).collect()) };
        let heads = self.base.metadata().require_u64(&format!("{}.{key}", self.architecture))? as usize;
        let head = rows / heads.max(1);
        if head * heads != rows || !head.is_multiple_of(2) {
            return Err(Error::malformed(place.tensor.clone(), format!("rows of {heads} heads"), rows));
        }
        Ok((0..rows as u64).map(|row| in_pairs(row, head as u64) as usize).collect())
    }

    /// One pair for all experts' matrices of a kind; which kind, and which way round, their lengths tell.
    fn fused(&mut self, experts: &str, a: &Array, b: &Array) -> Result<()> {
        let ([a_rows, a_columns], [b_rows, b_columns]) = (square(a)?, square(b)?);
        let mut fits = Vec::new();
        for kind in ["gate_up_proj", "down_proj"] {
            let parameter = format!("{experts}.{kind}");
            let places = self.places(&parameter)?;
            let subject = subject_of(self.base, &places[0].tensor)?;
            let parts = places[0].part.map_or(1, |(_, of)| of);
            let (outputs, inputs) = (subject.rows_per_expert() as usize * parts, subject.columns() as usize);
            let count = subject.experts();
            for (is_new, lengths) in [(true, (inputs, outputs)), (false, (outputs, inputs))] {
                if (a_columns, b_rows) == lengths {
                    fits.push((parameter.clone(), places.clone(), is_new, count));
                }
            }
        }
        if fits.len() > 1 {
            let version = self.settings.is_new.ok_or_else(|| {
                let what = format!("the matrices of {experts} may be read in two ways");
                Error::unsupported(
                    what,
                    "set peft_version in adapter_config.json to that which wrote the adapter",
                )
            })?;
            fits.retain(|(_, _, is_new, _)| *is_new == version);
        }
        let [(parameter, places, is_new, count)] = &fits[..] else {
            let found = format!("lora_A of {a_columns} columns, lora_B of {b_rows} rows");
            return Err(Error::malformed(
                format!("the adapter's {experts}"),
                "the lengths of the base's experts",
                found,
            ));
        };
        let rank = a_rows / (*count).max(1);
        if rank == 0 || (rank * count, rank * count) != (a_rows, b_columns) {
            let found = format!("{a_rows} rows of lora_A, {b_columns} columns of lora_B");
            return Err(Error::malformed(
                format!("the adapter's {experts}"),
                format!("a multiple of {count} experts"),
                found,
            ));
        }
        let scale = self.settings.scale(parameter, rank);
        for e in 0..*count {
            let own_a = a.values[e * rank * a_columns..(e + 1) * rank * a_columns].to_vec();
            // Expert e has columns e, e + experts, e + 2 * experts, ….
            let b_at = |row: usize, k: usize| b.values[row * b_columns + k * count + e];
            let own_b: Vec<f32> = (0..b_rows)
                .flat_map(|row| (0..rank).map(move |k| (row, k)))
                .map(|(row, k)| b_at(row, k))
                .collect();
            let pair = match is_new {
                true => Pair { rank, inputs: a_columns, outputs: b_rows, a: own_a, b: own_b },
                false => Pair {
                    rank,
                    inputs: b_rows,
                    outputs: a_columns,
                    a: turned(&own_b, b_rows, rank),
                    b: turned(&own_a, rank, a_columns),
                },
            };
            for place in places {
                self.put(&Place { expert: Some(e), ..place.clone() }, &pair, scale, None)?;
            }
        }
        Ok(())
    }
}

/// The experts' module where a name is that of one of the wrappers around it.
fn fused(module: &str) -> Option<&str> {
    let inner = module.trim_end_matches(".base_layer");
    inner.ends_with(".experts").then_some(inner)
}

fn square(array: &Array) -> Result<[usize; 2]> {
    match array.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        _ => Err(Error::malformed("a matrix of the adapter", "two axes", format!("{:?}", array.shape))),
    }
}

fn plain(a: &Array, b: &Array) -> Result<Pair> {
    let ([rank, inputs], [outputs, b_rank]) = (square(a)?, square(b)?);
    if rank != b_rank {
        return Err(Error::malformed("lora_B", format!("{rank} columns, as lora_A has rows"), b_rank));
    }
    Ok(Pair { rank, inputs, outputs, a: a.values.clone(), b: b.values.clone() })
}

/// An embedding's A is `(rank, vocabulary)` and its B `(width, rank)`: a row of the table is a column of A times B.
fn embedding(a: &Array, b: &Array) -> Result<Pair> {
    let ([rank, outputs], [inputs, b_rank]) = (square(a)?, square(b)?);
    if rank != b_rank {
        return Err(Error::malformed("lora_embedding_B", format!("{rank} columns"), b_rank));
    }
    Ok(Pair {
        rank,
        inputs,
        outputs,
        a: turned(&b.values, inputs, rank),
        b: turned(&a.values, rank, outputs),
    })
}
