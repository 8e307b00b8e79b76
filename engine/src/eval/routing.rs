//! Records which experts a text's tokens choose.

use super::Reader;
use crate::error::{Error, Result};
use crate::experts::{Trace, TracedLayer};
use crate::model::{Observe, Routing};
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
    let mut recorder = Recorder { trace: Trace { layers, tokens: vec![] }, start: 0 };
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
    start: usize, // the batch's first token
}

impl Observe for Recorder {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        let Some(place) = self.trace.layers.iter().position(|traced| traced.layer == layer) else { return };
        if place == 0 {
            // The first of these layers begins a batch.
            self.start = self.trace.tokens.len();
            let none = vec![vec![]; self.trace.layers.len()];
            self.trace.tokens.resize(self.start + routing.rows(), none);
        }
        for (row, token) in self.trace.tokens[self.start..].iter_mut().enumerate() {
            let choices = routing.choices(row).iter().enumerate();
            let kept = choices.filter(|(i, _)| !routing.is_dropped(row, *i));
            token[place] = kept.map(|(_, choice)| choice.index).collect();
        }
    }
}
