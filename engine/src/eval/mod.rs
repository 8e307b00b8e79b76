//! Measuring a model on text: perplexity as llama.cpp cuts and counts it, so that numbers compare; differences between
//! files of a model; which experts a text uses; and what quantization should know of the inputs of matrices.

mod compare;
pub mod disk;
pub mod importance;
pub mod machine;
pub mod moments;
mod product;
mod routing;
#[cfg(test)]
mod tests_counts;

pub use compare::{Comparison, RouterAgreement, compare, compare_chunks};
pub use importance::Importance;
pub use moments::Moments;
pub use product::Weights;
pub use routing::trace_routing;

use crate::error::{Error, Result};
use crate::model::{Observe, Row, Wants};
use crate::session::{Batch, Engine};
use crate::tokenizer::Special;

/// Perplexity of a text.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Negative log2-likelihood of the scored tokens per byte of their text.
    pub bits_per_byte: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Chunks computed.
    pub chunks: usize,
}

/// Computes perplexity over chunks of `context` tokens. Each chunk starts afresh (with the beginning-of-text token
/// in its first place where the model wants one) and only the second half of its tokens is scored.
///
/// `progress` hears (chunks done, chunks in all, perplexity so far); its `false` stops the run.
///
/// # Errors
/// When the text is shorter than two chunks, or the model cannot compute it.
pub fn perplexity(
    engine: &Engine,
    text: &str,
    context: usize,
    mut progress: impl FnMut(usize, usize, f64) -> bool,
) -> Result<Perplexity> {
    let tokenizer = engine.tokenizer()?;
    let chunks = chunks_of(engine, text, context)?;
    let mut session = engine.session()?;
    let (mut sum, mut scored, mut bytes) = (0f64, 0usize, 0usize);
    for (done, chunk) in chunks.iter().enumerate() {
        session.rewind(0);
        let first = chunk.len() / 2;
        session.extend_with_logits(chunk, |i, logits| {
            if i >= first && i + 1 < chunk.len() {
                sum += negative_log_likelihood(logits, chunk[i + 1]);
                scored += 1;
                bytes += tokenizer.piece_bytes(chunk[i + 1]).len();
            }
            Ok(())
        })?;
        if !progress(done + 1, chunks.len(), (sum / scored as f64).exp()) {
            return Err(Error::Stopped);
        }
    }
    Ok(Perplexity {
        perplexity: (sum / scored as f64).exp(),
        bits_per_byte: sum / std::f64::consts::LN_2 / bytes.max(1) as f64,
        tokens: scored,
        chunks: chunks.len(),
    })
}

/// A model that reads one piece of text after the other, each from an empty cache.
struct Reader<'a> {
    engine: &'a Engine,
    batch: Batch<'a>,
}

impl<'a> Reader<'a> {
    fn new(engine: &'a Engine) -> Result<Self> {
        Ok(Self { engine, batch: engine.batch(1)? })
    }

    /// Reads `tokens` under observation. After each batch `each` gets its rows, and the logits of those whose position
    /// wanted them.
    fn read(
        &mut self,
        tokens: &[u32],
        wants_logits: impl Fn(usize) -> bool,
        observe: &mut impl Observe,
        mut each: impl FnMut(&[Row], &Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        self.batch.rewind(0, 0);
        let row = |(position, &token): (usize, &u32)| Row {
            sequence: 0,
            position,
            token,
            wants: Wants::logits_if(wants_logits(position)),
        };
        let rows: Vec<Row> = tokens.iter().enumerate().map(row).collect();
        for rows in rows.chunks(self.engine.options().batch) {
            self.batch.observed_step(rows, observe)?;
            each(rows, &self.batch)?;
        }
        Ok(())
    }
}

/// One of so many tokens is shown to the head: its inputs are alike, and logits of all would cost most of the time.
const HEAD_STRIDE: usize = 4;

/// Runs chunks under observation, each afresh. `progress` hears (chunks done, chunks in all); its `false` stops.
fn watch(
    engine: &Engine,
    chunks: &[Vec<u32>],
    observe: &mut impl Observe,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<()> {
    let mut reader = Reader::new(engine)?;
    let wants_logits = |position: usize| position % HEAD_STRIDE == HEAD_STRIDE - 1;
    for (done, chunk) in chunks.iter().enumerate() {
        reader.read(chunk, wants_logits, observe, |_, _| Ok(()))?;
        if !progress(done + 1, chunks.len()) {
            return Err(Error::Stopped);
        }
    }
    Ok(())
}

/// The text in whole chunks of at most `context` tokens, each beginning as the model wants a text to begin.
///
/// # Errors
/// When there are fewer than two, or no tokenizer.
pub fn chunks_of(engine: &Engine, text: &str, context: usize) -> Result<Vec<Vec<u32>>> {
    let tokenizer = engine.tokenizer()?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(text, Special::Plain)?);
    let context = context.min(engine.context_length());
    if context < 4 || tokens.len() < 2 * context {
        let found = tokens.len();
        return Err(Error::request(format!(
            "the text has {found} tokens; a context of {context} needs at least {}",
            2 * context.max(4)
        )));
    }
    let begin = |chunk: &[u32]| {
        let mut chunk = chunk.to_vec();
        chunk[0] = bos.unwrap_or(chunk[0]);
        chunk
    };
    Ok(tokens.chunks_exact(context).map(begin).collect())
}

/// `-ln softmax(logits)[token]` in f64.
pub fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = logits.iter().map(|&logit| (logit as f64 - largest).exp()).sum();
    largest + sum.ln() - logits[token as usize] as f64
}
