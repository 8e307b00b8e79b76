//! Records which experts a text's tokens choose.

use crate::error::{Error, Result};
use crate::experts::{Trace, TracedLayer};
use crate::model::{Observe, Routing, Row};
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
    let tokens = engine.tokenizer()?.encode(text, Special::Plain)?;
    let mut recorder = Recorder { trace: Trace { layers, tokens: vec![] }, start: 0 };
    let (mut cache, mut workspace) = (engine.cache()?, engine.workspace());
    for piece in tokens.chunks(context.min(engine.context_length()).max(1)) {
        cache.truncate(0);
        for (i, batch) in piece.chunks(engine.options().batch).enumerate() {
            let first = i * engine.options().batch;
            let rows: Vec<_> = (first..)
                .zip(batch)
                .map(|(position, &token)| Row { sequence: 0, position, token, wants_logits: false })
                .collect();
            recorder.begin(rows.len());
            engine.observed_step(&mut workspace, &mut [&mut cache], &rows, &mut recorder)?;
            if !progress(recorder.trace.tokens.len(), tokens.len()) {
                return Err(Error::Stopped);
            }
        }
    }
    Ok(recorder.trace)
}

struct Recorder {
    trace: Trace,
    start: usize, // the batch's first token
}

impl Recorder {
    fn begin(&mut self, rows: usize) {
        self.start = self.trace.tokens.len();
        let none = vec![vec![]; self.trace.layers.len()];
        self.trace.tokens.resize(self.start + rows, none);
    }
}

impl Observe for Recorder {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        let Some(place) = self.trace.layers.iter().position(|traced| traced.layer == layer) else { return };
        for (row, token) in self.trace.tokens[self.start..].iter_mut().enumerate() {
            let choices = routing.choices(row).iter().enumerate();
            let kept = choices.filter(|(i, _)| !routing.is_dropped(row, *i));
            token[place] = kept.map(|(_, choice)| choice.index).collect();
        }
    }
}
