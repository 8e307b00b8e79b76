//! Texts that the model writes while it is trained. Every token computes the whole context again: samples are short,
//! and this stays the very model that is trained.

use super::text::Text;
use crate::Result;
use crate::model::{Batch, Model};
use crate::random::Random;
use crate::settings::Run;
use moewe_engine::sampler::{Sampler, Sampling};

/// Each prompt with what the model writes after it; `step` chooses the random numbers.
///
/// # Errors
/// The device fails, or the settings of sampling are out of range.
pub(super) fn texts(model: &Model, text: &Text, run: &Run, step: u64) -> Result<Vec<(String, String)>> {
    if text.path().is_none() {
        return Ok(vec![]);
    }
    let write = |(i, prompt): (usize, &String)| {
        let seed = Random::at(run.settings.seed, &[step, i as u64, u64::MAX]).bits();
        Ok((prompt.clone(), written(model, text, run, (prompt, seed))?))
    };
    run.prompts.iter().enumerate().map(write).collect()
}

fn written(model: &Model, text: &Text, run: &Run, (prompt, seed): (&str, u64)) -> Result<String> {
    let mut tokens = text.encode(prompt)?;
    if tokens.is_empty() {
        return Ok(String::new());
    }
    let sampling = Sampling {
        temperature: run.settings.sample_temperature,
        top_k: 50,
        top_p: 0.95,
        seed: Some(seed),
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling, model.config.vocabulary)?;
    let start = tokens.len();
    for _ in 0..run.settings.sample_tokens {
        let seen = &tokens[tokens.len().saturating_sub(model.config.context_length)..];
        let logits =
            model.logits(Batch { tokens: seen, rows: 1, packing: None })?.flatten_all()?.to_vec1::<f32>()?;
        tokens.push(sampler.sample(&logits, &tokens)?);
    }
    Ok(text.decode(&tokens[start..]))
}
