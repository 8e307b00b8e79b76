//! How much other files of a model differ from a base: Kullback-Leibler divergence of their next-token distributions,
//! agreement of the best token and of the routers, beside the perplexity of each.
//!
//! Text is cut as for [`super::perplexity`], so the figures stand beside each other. All files see the same tokens.

use super::{Reader, chunks_of, negative_log_likelihood};
use crate::error::{Error, Result};
use crate::model::{Observe, Routing};
use crate::session::Engine;
use crate::tokenizer::{TokenType, Tokenizer};
use serde::Serialize;

/// What was measured of one file against the base.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Of the file itself.
    pub perplexity: f64,
    /// Negative log2-likelihood of the scored tokens per byte of their text.
    pub bits_per_byte: f64,
    /// Mean divergence from the base, in nats.
    pub kl_mean: f64,
    /// 99 of 100 tokens diverge less.
    pub kl_99: f64,
    /// The largest divergence.
    pub kl_max: f64,
    /// Share of tokens whose best next token is the base's.
    pub top1: f64,
    /// For each layer with experts, the share of tokens that go to the same experts.
    pub routers: Vec<RouterAgreement>,
    /// Tokens scored.
    pub tokens: usize,
}

/// Agreement of one layer's router.
#[derive(Clone, Debug, Serialize)]
pub struct RouterAgreement {
    /// The layer.
    pub layer: usize,
    /// Share of tokens with the same set of experts.
    pub same: f64,
}

/// Compares each of `others` with `base` over chunks of `context` tokens. The first result is the base against itself.
///
/// `progress` hears (chunks done, chunks in all); its `false` stops the run.
///
/// # Errors
/// A text that is too short, models of different vocabularies, or what a model runs into.
pub fn compare(
    base: &Engine,
    others: &[&Engine],
    text: &str,
    context: usize,
    progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Comparison>> {
    let context = others.iter().map(|other| other.context_length()).fold(context, usize::min);
    compare_chunks(base, others, &chunks_of(base, text, context)?, progress)
}

/// [`compare`] over chunks of tokens.
///
/// # Errors
/// As [`compare`].
pub fn compare_chunks(
    base: &Engine,
    others: &[&Engine],
    chunks: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Comparison>> {
    others.iter().try_for_each(|other| check_vocabularies(base, other))?;
    let vocabulary = base.config().vocab_size;
    let mut sides = vec![Side::new(base)?];
    for other in others {
        sides.push(Side::new(other)?);
    }
    let tokenizer = base.tokenizer()?;
    let bytes: usize = chunks
        .iter()
        .flat_map(|chunk| &chunk[chunk.len() / 2 + 1..])
        .map(|&token| tokenizer.piece_bytes(token).len())
        .sum();
    let mut expected = Expected { logits: vec![], vocabulary };
    for (done, chunk) in chunks.iter().enumerate() {
        let routes = sides[0].score_base(chunk, &mut expected)?;
        for side in &mut sides[1..] {
            side.score(chunk, &expected, &routes)?;
        }
        if !progress(done + 1, chunks.len()) {
            return Err(Error::Stopped);
        }
    }
    Ok(sides.into_iter().map(|side| side.figures(bytes)).collect())
}

/// Refuses models whose logits are of different tokens. A file without a tokenizer can only be counted.
fn check_vocabularies(base: &Engine, other: &Engine) -> Result<()> {
    let (size, found) = (base.config().vocab_size, other.config().vocab_size);
    if size != found {
        return Err(Error::request(format!("vocabularies of {size} and {found} tokens cannot be compared")));
    }
    let (Ok(own), Ok(others)) = (base.tokenizer(), other.tokenizer()) else { return Ok(()) };
    let is_unused = |tokenizer: &Tokenizer, id| tokenizer.token_type(id) == Some(TokenType::Unused);
    // What fills the table up has no meaning; converters call it differently.
    let differs = |id: &u32| {
        own.token_text(*id) != others.token_text(*id) && !(is_unused(own, *id) && is_unused(others, *id))
    };
    let common = own.vocabulary_size().min(others.vocabulary_size()) as u32;
    match (0..common).find(differs) {
        None => Ok(()),
        Some(id) => Err(Error::request(format!(
            "{} has another vocabulary than {}: token {id} is {:?}, not {:?}; only files of one vocabulary can be compared",
            name_of(other),
            name_of(base),
            excerpt(others.token_text(id)),
            excerpt(own.token_text(id)),
        ))),
    }
}

fn name_of(engine: &Engine) -> String {
    engine.gguf().path().map_or("the model in the program".into(), |path| path.display().to_string())
}

fn excerpt(token: &str) -> String {
    token.chars().take(40).collect()
}

/// The base's logits of the scored half of a chunk.
struct Expected {
    logits: Vec<f32>, // (scored, vocabulary)
    vocabulary: usize,
}

/// The experts of every token, as sets, for each layer that has some.
#[derive(Default, PartialEq)]
struct Routes(Vec<(usize, Vec<Vec<u32>>)>);

impl Observe for Routes {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        let sets = (0..routing.rows()).map(|row| {
            let mut experts: Vec<u32> = routing.choices(row).iter().map(|choice| choice.index).collect();
            experts.sort_unstable();
            experts
        });
        match self.0.iter_mut().find(|(known, _)| *known == layer) {
            Some((_, all)) => all.extend(sets),
            None => self.0.push((layer, sets.collect())),
        }
    }
}

/// One model with what has been summed up about it.
struct Side<'a> {
    reader: Reader<'a>,
    likelihood: f64, // negative, nats
    divergences: Vec<f64>,
    same_best: usize,
    routers: Vec<(usize, usize, usize)>, // layer, tokens with the same experts, tokens
}

impl<'a> Side<'a> {
    fn new(engine: &'a Engine) -> Result<Self> {
        let reader = Reader::new(engine)?;
        Ok(Self { reader, likelihood: 0.0, divergences: vec![], same_best: 0, routers: vec![] })
    }

    /// Runs a chunk and hands the logits of each scored token to `each`, with the token that follows.
    fn run(&mut self, chunk: &[u32], mut each: impl FnMut(usize, &[f32], u32)) -> Result<Routes> {
        let (first, mut routes) = (chunk.len() / 2, Routes::default());
        let is_scored = |position: usize| position >= first && position + 1 < chunk.len();
        self.reader.read(chunk, is_scored, &mut routes, |rows, batch| {
            for (i, row) in rows.iter().filter(|row| row.wants.logits()).enumerate() {
                each(row.position - first, batch.logits(i), chunk[row.position + 1]);
            }
            Ok(())
        })?;
        Ok(routes)
    }

    fn score_base(&mut self, chunk: &[u32], expected: &mut Expected) -> Result<Routes> {
        expected.logits.clear();
        let mut likelihood = 0.0;
        let routes = self.run(chunk, |_, logits, next| {
            expected.logits.extend_from_slice(logits);
            likelihood += negative_log_likelihood(logits, next);
        })?;
        let scored = expected.logits.len() / expected.vocabulary;
        self.likelihood += likelihood;
        self.divergences.resize(self.divergences.len() + scored, 0.0);
        self.same_best += scored;
        self.agree(&routes, &routes);
        Ok(routes)
    }

    fn score(&mut self, chunk: &[u32], expected: &Expected, base: &Routes) -> Result<()> {
        let (mut likelihood, mut divergences, mut same) = (0.0, vec![], 0);
        let routes = self.run(chunk, |i, logits, next| {
            let wanted = &expected.logits[i * expected.vocabulary..][..expected.vocabulary];
            likelihood += negative_log_likelihood(logits, next);
            divergences.push(divergence(wanted, logits));
            same += usize::from(best(wanted) == best(logits));
        })?;
        self.likelihood += likelihood;
        self.divergences.extend(divergences);
        self.same_best += same;
        self.agree(base, &routes);
        Ok(())
    }

    fn agree(&mut self, base: &Routes, own: &Routes) {
        for ((layer, base), (_, own)) in base.0.iter().zip(&own.0) {
            let same = base.iter().zip(own).filter(|(base, own)| base == own).count();
            match self.routers.iter_mut().find(|(known, ..)| known == layer) {
                Some((_, sum, tokens)) => (*sum, *tokens) = (*sum + same, *tokens + own.len()),
                None => self.routers.push((*layer, same, own.len())),
            }
        }
    }

    fn figures(mut self, bytes: usize) -> Comparison {
        let tokens = self.divergences.len();
        self.divergences.sort_by(f64::total_cmp);
        let at = |share: f64| self.divergences.get((tokens as f64 * share) as usize).copied();
        let max = self.divergences.last().copied().unwrap_or(0.0);
        let agreement = |&(layer, same, tokens): &(usize, usize, usize)| RouterAgreement {
            layer,
            same: same as f64 / tokens.max(1) as f64,
        };
        Comparison {
            perplexity: (self.likelihood / tokens.max(1) as f64).exp(),
            bits_per_byte: self.likelihood / std::f64::consts::LN_2 / bytes.max(1) as f64,
            kl_mean: self.divergences.iter().sum::<f64>() / tokens.max(1) as f64,
            kl_99: at(0.99).unwrap_or(max),
            kl_max: max,
            top1: self.same_best as f64 / tokens.max(1) as f64,
            routers: self.routers.iter().map(agreement).collect(),
            tokens,
        }
    }
}

/// Sum of `p * (ln p - ln q)` over the vocabulary, p of the base's logits; never below 0.
fn divergence(base: &[f32], other: &[f32]) -> f64 {
    let (base_sum, other_sum) = (log_sum(base), log_sum(other));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - base_sum, f64::from(q) - other_sum);
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    base.iter().zip(other).map(term).sum::<f64>().max(0.0)
}

fn log_sum(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

fn best(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold(0, |best, (i, &logit)| if logit > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_by_hand() {
        let even = [0f32, 0.0];
        let uneven = [3f32.ln(), 0.0];
        // 1/2 ln((1/2) / (3/4)) + 1/2 ln((1/2) / (1/4))
        let expected = 0.5 * (2.0f64 / 3.0).ln() + 0.5 * 2f64.ln();
        assert!((divergence(&even, &uneven) - expected).abs() < 1e-7);
        assert_eq!(divergence(&uneven, &uneven), 0.0);
        assert_eq!(divergence(&[0.0, f32::NEG_INFINITY], &[0.0, f32::NEG_INFINITY]), 0.0);
        assert_eq!((best(&[1.0, 2.0, 2.0]), best(&[f32::NEG_INFINITY])), (1, 0));
    }
}
