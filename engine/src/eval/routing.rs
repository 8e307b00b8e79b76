//! Records which experts a text's tokens choose.

use super::Reader;
use crate::error::{Error, Result};
use crate::experts::{Trace, TracedLayer};
use crate::model::{Observe, Routing};
use crate::ops::{Choice, top_k};
use crate::session::Engine;
use crate::tokenizer::Special;

/// Computes a text in pieces of at most `context` tokens, each from an empty cache, and records the routing.
///
/// `progress` hears (tokens done, tokens in all); its `false` stops the run.
///
/// # Errors
/// When the model has no experts or no tokenizer, the text is empty, or what the model runs into.
pub fn trace_routing(
    engine: &Engine,
    text: &str,
    context: usize,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Trace> {
    let counted = engine.expert_statistics().unwrap_or_default();
    let layers = counted.layers.iter().enumerate().filter(|(_, layer)| !layer.uses.is_empty());
    let layers: Vec<_> = layers
        .map(|(i, layer)| TracedLayer {
            layer: i,
            expert_count: layer.uses.len(),
            expert_bytes: layer.expert_bytes,
        })
        .collect();
    if layers.is_empty() {
        return Err(Error::request("this model has no experts"));
    }
    let tokens = engine.tokenizer()?.encode_with_bos(text, Special::Plain)?;
    let mut recorder = Recorder { trace: Trace { layers, ..Trace::default() }, start: 0, scores: vec![] };
    let (mut reader, mut done) = (Reader::new(engine)?, 0);
    let no_logits = |_: usize| false;
    for piece in tokens.chunks(context.min(engine.context_length()).max(1)) {
        reader.read(piece, no_logits, &mut recorder, |rows, _| {
            done += rows.len();
            if progress(done, tokens.len()) { Ok(()) } else { Err(Error::Stopped) }
        })?;
    }
    Ok(recorder.trace)
}

struct Recorder {
    trace: Trace,
    start: usize,     // the batch's first token
    scores: Vec<f32>, // of the layer that is about to choose
}

impl Observe for Recorder {
    fn scored(&mut self, _: usize, scores: &[f32], _: usize) {
        self.scores.clear();
        self.scores.extend_from_slice(scores);
    }

    fn routed(&mut self, layer: usize, routing: &Routing) {
        let Some(place) = self.trace.layers.iter().position(|traced| traced.layer == layer) else { return };
        if place == 0 {
            // The first of these layers begins a batch.
            self.start = self.trace.tokens.len();
            let none = vec![vec![]; self.trace.layers.len()];
            self.trace.tokens.resize(self.start + routing.rows(), none);
            let none = vec![vec![]; self.trace.layers.len()];
            self.trace.best.resize(self.start + routing.rows(), none);
        }
        let expert_count = self.trace.layers[place].expert_count;
        let rows = self.trace.best[self.start..].iter_mut().zip(self.scores.chunks_exact(expert_count));
        for (token, scores) in rows {
            let mut best = vec![Choice::default(); expert_count.min(2 * routing.used())];
            top_k(scores, &mut best);
            token[place] = best.iter().map(|choice| (choice.index, choice.score)).collect();
        }
        for (row, token) in self.trace.tokens[self.start..].iter_mut().enumerate() {
            let choices = routing.choices(row).iter().enumerate();
            let kept = choices.filter(|(i, _)| !routing.is_dropped(row, *i));
            token[place] = kept.map(|(_, choice)| choice.index).collect();
        }
    }
}
