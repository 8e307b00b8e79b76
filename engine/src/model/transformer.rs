//! The forward: what every model computes, step by step, over any backend.
//!
//! Prefill, decode, several conversations and the checking of drafts are all shapes of [`forward`]. It names no
//! architecture and touches no float: those are the backend's.

use super::Model;
use super::backend::Backend;
use super::config::{Attention, Ffn, Head, Layer, QkNorm};
use super::observe::{Observe, Site};
use super::weights::{
    AttentionWeights, FfnWeights, GatedWeights, GroupedWeights, LatentWeights, LayerWeights, Linear,
    NormWeights,
};
use super::workspace::Workspace;
use crate::error::Result;

/// One token of one conversation in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which of the caches.
    pub sequence: usize,
    /// Its place in the conversation.
    pub position: usize,
    /// Its id, below the vocabulary's size.
    pub token: u32,
    /// Whether logits are computed for it.
    pub wants_logits: bool,
}

/// Where queries, keys and values stand in a joined row.
pub(super) struct Columns {
    key: usize,
    value: usize,
    pub(super) end: usize,
}

pub(super) fn columns(head: &Head) -> Columns {
    let key = head.head_count * head.key_length;
    let value = key + head.head_count_kv * head.key_length;
    Columns { key, value, end: value + head.head_count_kv * head.value_length }
}

/// Computes one batch: fills the caches at the rows' positions and the logits of the rows that want them.
///
/// Rows of one sequence stand together with rising positions, each cache already long enough.
///
/// # Errors
/// When an expert cannot be read.
pub fn forward<B: Backend, O: Observe>(
    backend: &B,
    model: &Model,
    ws: &mut Workspace<B::Buffer>,
    caches: &mut [&mut B::Cache],
    rows: &[Row],
    observe: &mut O,
) -> Result<()> {
    let pass = Pass { backend, model, rows };
    pass.embed(ws);
    for (i, layer) in model.config.layers.iter().enumerate() {
        if O::ACTIVE {
            observe.hidden(i, &backend.host(&ws.x), model.config.embedding_length);
        }
        let weights = &model.weights.layers[i];
        pass.norm(&weights.attention_norm, &ws.x, &mut ws.normed);
        match (&layer.attention, &weights.attention) {
            (Attention::Grouped(head), AttentionWeights::Grouped(weights)) => {
                pass.grouped(&Half { i, layer, shape: head, weights: weights.as_ref() }, ws, caches, observe);
            }
            (shape, AttentionWeights::Latent(weights)) => {
                pass.latent(&Half { i, layer, shape, weights: weights.as_ref() }, ws, caches, observe);
            }
            _ => unreachable!("weights are bound by the config"),
        }
        pass.add(weights.attention_post_norm.as_ref(), ws);
        pass.norm(&weights.ffn_norm, &ws.x, &mut ws.normed);
        match (&layer.ffn, &weights.ffn) {
            (Ffn::Experts(_), FfnWeights::Experts(_)) => pass.experts(i, layer, weights, ws, observe)?,
            (_, FfnWeights::Dense(ffn)) => pass.dense(layer, ffn, ws, observe),
            _ => unreachable!("weights are bound by the config"),
        }
        pass.add(weights.ffn_post_norm.as_ref(), ws);
    }
    pass.head(ws, observe);
    Ok(())
}

/// The attention half of a layer.
struct Half<'a, S, W> {
    i: usize,
    layer: &'a Layer,
    shape: &'a S,
    weights: &'a W,
}

/// One batch on its way through the layers.
struct Pass<'a, B> {
    backend: &'a B,
    model: &'a Model,
    rows: &'a [Row],
}

impl<B: Backend> Pass<'_, B> {
    fn embed(&self, ws: &mut Workspace<B::Buffer>) {
        let (config, weights) = (&self.model.config, &self.model.weights);
        self.backend.embed(&weights.token_embedding, self.rows, config.embedding_scale, &mut ws.x);
        if let Some(positions) = &weights.position_embedding {
            self.backend.add_positions(positions, self.rows, &mut ws.x);
        }
        for (rope, angles) in config.ropes.iter().zip(&mut ws.angles) {
            self.backend.angles(rope, self.rows, angles);
        }
    }

    fn norm(&self, norm: &NormWeights, x: &B::Buffer, out: &mut B::Buffer) {
        self.backend.norm(norm, x, out);
    }

    /// `out[.., at..] = linear(x)`, shown to the observer.
    fn linear<O: Observe>(
        &self,
        linear: &Linear,
        x: &mut B::Buffer,
        out: &mut B::Buffer,
        at: usize,
        observe: &mut O,
    ) {
        if O::ACTIVE {
            let site = Site { tensor: &linear.name, expert: None };
            observe.matmul_input(site, &self.backend.host(x), linear.matrix.cols);
        }
        self.backend.linear(linear, x, out, at);
    }

    fn add(&self, post_norm: Option<&NormWeights>, ws: &mut Workspace<B::Buffer>) {
        if let Some(norm) = post_norm {
            self.backend.norm(norm, &ws.added, &mut ws.normed);
            std::mem::swap(&mut ws.added, &mut ws.normed);
        }
        self.backend.add(&mut ws.x, &ws.added, self.model.config.residual_scale);
    }

    fn grouped<O: Observe>(
        &self,
        half: &Half<'_, Head, GroupedWeights>,
        ws: &mut Workspace<B::Buffer>,
        caches: &mut [&mut B::Cache],
        observe: &mut O,
    ) {
        let Half { i, layer, shape: head, weights } = *half;
        let GroupedWeights { qkv, q_norm, k_norm, sinks, output } = weights;
        let columns = columns(head);
        self.backend.resize(&mut ws.qkv, self.rows.len(), columns.end);
        for (linear, at) in qkv {
            self.linear(linear, &mut ws.normed, &mut ws.qkv, *at, observe);
        }
        let (queries, keys) =
            (Span::heads(0, head.head_count, head), Span::heads(columns.key, head.head_count_kv, head));
        for (norm, span) in [(q_norm, queries), (k_norm, keys)] {
            if let Some(norm) = norm {
                let span = if head.qk_norm == Some(QkNorm::Row) { span.as_one() } else { span };
                self.backend.norm_span(norm, &mut ws.qkv, span);
            }
        }
        if let Some(rope) = layer.rope {
            for span in [queries, keys] {
                self.backend.rope(&self.model.config.ropes[rope], &ws.angles[rope], &mut ws.qkv, span);
            }
        }
        let step = AttentionStep {
            layer: i,
            rows: self.rows,
            queries,
            keys,
            values: Span {
                at: columns.value,
                count: head.head_count_kv,
                width: head.value_length,
                stride: head.value_length,
            },
            value_length: head.value_length,
            scale: head.scale,
            window: layer.window,
            sinks: sinks.as_deref(),
        };
        self.backend.store(&step, &ws.qkv, caches);
        self.backend.attention(&step, &ws.qkv, caches, &mut ws.attended);
        self.linear(output, &mut ws.attended, &mut ws.added, 0, observe);
    }

    /// Latent attention, absorbed: queries move into the latent space, so the cache holds one small row per position
    /// (DeepSeek-V2, section 2.1).
    fn latent<O: Observe>(
        &self,
        half: &Half<'_, Attention, LatentWeights>,
        ws: &mut Workspace<B::Buffer>,
        caches: &mut [&mut B::Cache],
        observe: &mut O,
    ) {
        let Half { i, layer, shape, weights } = *half;
        let &Attention::Latent { head_count, kv_lora_rank, nope_length, rope_length, scale, .. } = shape
        else {
            unreachable!("weights are bound by the config")
        };
        let (head, absorbed) = (nope_length + rope_length, kv_lora_rank + rope_length);
        let q_end = head_count * head;
        self.backend.resize(&mut ws.qkv, self.rows.len(), q_end + absorbed);
        match &weights.q_a {
            None => self.linear(&weights.q, &mut ws.normed, &mut ws.qkv, 0, observe),
            Some((down, norm)) => {
                self.backend.resize(&mut ws.latent, self.rows.len(), down.matrix.rows);
                self.linear(down, &mut ws.normed, &mut ws.latent, 0, observe);
                self.backend.norm_span(norm, &mut ws.latent, Span::one(0, down.matrix.rows));
                self.linear(&weights.q, &mut ws.latent, &mut ws.qkv, 0, observe);
            }
        }
        self.linear(&weights.kv_a, &mut ws.normed, &mut ws.qkv, q_end, observe);
        self.backend.norm_span(&weights.kv_a_norm, &mut ws.qkv, Span::one(q_end, kv_lora_rank));
        if let Some(rope) = layer.rope {
            let queries = Span { at: nope_length, count: head_count, width: rope_length, stride: head };
            for span in [queries, Span::one(q_end + kv_lora_rank, rope_length)] {
                self.backend.rope(&self.model.config.ropes[rope], &ws.angles[rope], &mut ws.qkv, span);
            }
        }
        self.backend.resize(&mut ws.latent, self.rows.len(), head_count * absorbed);
        let nope = Span { at: 0, count: head_count, width: nope_length, stride: head };
        let into = Span { at: 0, count: head_count, width: kv_lora_rank, stride: absorbed };
        self.backend.linear_heads(&weights.k_b, &ws.qkv, nope, &mut ws.latent, into);
        let turned = Span { at: nope_length, count: head_count, width: rope_length, stride: head };
        self.backend.copy_span(
            &ws.qkv,
            turned,
            &mut ws.latent,
            Span { at: kv_lora_rank, stride: absorbed, ..turned },
        );
        let step = AttentionStep {
            layer: i,
            rows: self.rows,
            queries: Span { at: 0, count: head_count, width: absorbed, stride: absorbed },
            keys: Span::one(q_end, absorbed),
            values: Span::one(q_end, 0),
            value_length: kv_lora_rank,
            scale,
            window: layer.window,
            sinks: None,
        };
        self.backend.store(&step, &ws.qkv, caches);
        self.backend.attention(&step, &ws.latent, caches, &mut ws.attended);
        let from = Span { at: 0, count: head_count, width: kv_lora_rank, stride: kv_lora_rank };
        let rows = weights.v_b[0].rows;
        self.backend.resize(&mut ws.qkv, self.rows.len(), head_count * rows);
        let to = Span { at: 0, count: head_count, width: rows, stride: rows };
        self.backend.linear_heads(&weights.v_b, &ws.attended, from, &mut ws.qkv, to);
        self.linear(&weights.output, &mut ws.qkv, &mut ws.added, 0, observe);
    }

    fn dense<O: Observe>(
        &self,
        layer: &Layer,
        ffn: &GatedWeights,
        ws: &mut Workspace<B::Buffer>,
        observe: &mut O,
    ) {
        let activation = match &layer.ffn {
            Ffn::Dense { activation, .. } => *activation,
            Ffn::Experts(experts) => experts.activation,
        };
        let length = ffn.up.matrix.rows;
        self.backend.resize(&mut ws.up, self.rows.len(), length);
        self.linear(&ffn.up, &mut ws.normed, &mut ws.up, 0, observe);
        if let Some(gate) = &ffn.gate {
            self.backend.resize(&mut ws.gate, self.rows.len(), length);
            self.linear(gate, &mut ws.normed, &mut ws.gate, 0, observe);
        }
        self.backend.activate(activation, ffn.gate.as_ref().map(|_| &ws.gate), &mut ws.up);
        self.linear(&ffn.down, &mut ws.up, &mut ws.added, 0, observe);
    }

    fn experts<O: Observe>(
        &self,
        i: usize,
        layer: &Layer,
        weights: &LayerWeights,
        ws: &mut Workspace<B::Buffer>,
        observe: &mut O,
    ) -> Result<()> {
        let (Ffn::Experts(experts), FfnWeights::Experts(router)) = (&layer.ffn, &weights.ffn) else {
            unreachable!("weights are bound by the config")
        };
        self.backend.resize(&mut ws.router_logits, self.rows.len(), experts.expert_count);
        self.linear(&router.router, &mut ws.normed, &mut ws.router_logits, 0, observe);
        let bias = router.choice_bias.as_deref();
        self.backend.route(experts, bias, ws.drop_tokens, &ws.router_logits, &mut ws.routing);
        if O::ACTIVE {
            observe.routed(i, &ws.routing);
        }
        self.look_ahead(i + 1, ws);
        match &router.shared {
            None => self.backend.clear(&mut ws.added, self.rows.len()),
            Some((ffn, gate)) => {
                self.dense(layer, ffn, ws, observe);
                if let Some(gate) = gate {
                    self.backend.weigh_by_sigmoid(gate, &mut ws.normed, &mut ws.added);
                }
            }
        }
        self.backend.experts(&self.model.weights.experts, i, experts, ws, observe)
    }

    /// Guesses what layer `i` will choose from the rows as they are before it: each layer adds little to them.
    fn look_ahead(&self, i: usize, ws: &mut Workspace<B::Buffer>) {
        ws.ahead.clear();
        let Model { config, weights, .. } = self.model;
        let store = &weights.experts;
        let (Some(layer), Some(weights)) = (config.layers.get(i), weights.layers.get(i)) else { return };
        if let (Ffn::Experts(experts), FfnWeights::Experts(router)) = (&layer.ffn, &weights.ffn)
            && store.look_ahead(i, self.rows.len()) > 0
        {
            self.norm(&weights.ffn_norm, &ws.x, &mut ws.added);
            self.backend.resize(&mut ws.router_logits, self.rows.len(), experts.expert_count);
            self.backend.linear(&router.router, &mut ws.added, &mut ws.router_logits, 0);
            let bias = router.choice_bias.as_deref();
            self.backend.route(experts, bias, false, &ws.router_logits, &mut ws.ahead);
        }
    }

    fn head<O: Observe>(&self, ws: &mut Workspace<B::Buffer>, observe: &mut O) {
        let (config, weights) = (&self.model.config, &self.model.weights);
        self.backend.select(self.rows, &ws.x, &mut ws.added);
        self.backend.norm(&weights.output_norm, &ws.added, &mut ws.normed);
        self.linear(&weights.output, &mut ws.normed, &mut ws.logits, 0, observe);
        if config.logit_scale != 1.0 {
            self.backend.scale(&mut ws.logits, config.logit_scale);
        }
    }
}

/// Columns of a row that belong together: `count` pieces of `width`, `stride` apart, the first at `at`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First column.
    pub at: usize,
    /// Pieces.
    pub count: usize,
    /// Columns of a piece.
    pub width: usize,
    /// From one piece to the next.
    pub stride: usize,
}

impl Span {
    fn heads(at: usize, count: usize, head: &Head) -> Self {
        Self { at, count, width: head.key_length, stride: head.key_length }
    }

    fn one(at: usize, width: usize) -> Self {
        Self { at, count: 1, width, stride: width }
    }

    /// All pieces as one.
    fn as_one(self) -> Self {
        Self::one(self.at, self.count * self.width)
    }
}

/// One layer's attention over a batch.
pub struct AttentionStep<'a> {
    /// Which layer of the cache.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Query heads in their buffer.
    pub queries: Span,
    /// New key heads in the joined rows.
    pub keys: Span,
    /// New value heads; width 0 where the keys' first columns are the values.
    pub values: Span,
    /// Columns of a head's result.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// How many positions back a row sees, itself included.
    pub window: Option<usize>,
    /// One logit per query head.
    pub sinks: Option<&'a [f32]>,
}
