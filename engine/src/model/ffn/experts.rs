//! Some of many FFNs: the router chooses, the store brings what is missing, a shared FFN is computed meanwhile.

use super::super::backend::{Backend, ExpertStep};
use super::super::bind::LayerBinder;
use super::super::config::limit;
use super::super::kinds::{Half, Kind, Pass};
use super::super::observe::Observe;
use super::super::weights::{Layer, Linear, Matrix};
use super::super::{Architecture, Keys};
use super::Ffn;
use super::dense::{self, Dense};
use crate::cuda::Vector;
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, Stack};
use crate::ops::Activation;

/// Sizes of a Mixture-of-Experts layer.
#[derive(Clone, Debug)]
pub struct Shape {
    /// All of them.
    pub expert_count: usize,
    /// Active per token.
    pub expert_used_count: usize,
    /// Hidden width of each.
    pub length: usize,
    /// Between up and down.
    pub activation: Activation,
    /// Router logits to weights.
    pub gating: Gating,
    /// The groups among which experts are chosen first.
    pub groups: Option<Groups>,
    /// Whether the chosen weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// An FFN that every token passes besides.
    pub shared: Option<Shared>,
    /// The original's token dropping, where the model was made with it.
    pub capacity: Option<Capacity>,
    /// Chosen experts with a smaller share of their row's weight are left out; 0 in every model, a person's wish.
    pub threshold: f32,
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then choose.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// Choose, then softmax over the chosen.
    SoftmaxChosen,
}

/// Experts in groups of neighbours: the best groups of a row are chosen, then experts in these.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// All of them, a divisor of the experts.
    pub count: usize,
    /// Chosen per token.
    pub used: usize,
    /// What a group counts for: the sum of so many of its largest scores. One where experts are weighed by softmax
    /// (DeepSeek V2), else two (DeepSeek V3).
    pub counted: usize,
}

/// The always active experts, as one FFN.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Hidden width of all together.
    pub length: usize,
    /// Whether a sigmoid gate weighs its output.
    pub gated: bool,
}

/// Token dropping of a batch (German MoE GPT v8): see `moe.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// `floor(used * factor * tokens / experts)`, made even, at least 2.
    pub factor: f32,
}

impl Shape {
    pub(super) fn read(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Self> {
        let expert_count = keys.require("expert_count", limit::EXPERTS)?;
        let expert_used_count = keys.require("expert_used_count", limit::EXPERTS_USED)?;
        if expert_used_count > expert_count {
            let expected = format!("at most {expert_count}");
            return Err(keys.wrong("expert_used_count", expected, expert_used_count));
        }
        let dense_length = keys.per_layer("feed_forward_length", layer, limit::WIDTH)?;
        let length = keys.per_layer("expert_feed_forward_length", layer, limit::WIDTH)?.or(dense_length);
        let length = length.filter(|length| *length > 0);
        let length =
            length.ok_or_else(|| keys.wrong("expert_feed_forward_length", "at least 1", "nothing"))?;
        let gating = read_gating(keys, architecture, layer)?;
        Ok(Self {
            expert_count,
            expert_used_count,
            length,
            activation: architecture.activation,
            gating,
            groups: read_groups(keys, gating, (expert_count, expert_used_count))?,
            normalise: keys.flag("expert_weights_norm")?.unwrap_or(architecture.normalise),
            scale: keys.float("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
            shared: read_shared(keys, layer, length)?,
            capacity: None,
            threshold: 0.0,
        })
    }
}

/// A choice bias comes with sigmoid scores; some converters leave the key out then (llama.cpp's for GLM-4.7-Flash).
fn read_gating(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Gating> {
    let has_bias = || keys.gguf.tensor(&format!("blk.{layer}.exp_probs_b.bias")).is_some();
    match keys.number("expert_gating_func", 255)? {
        None | Some(0) if architecture.gating == Gating::Softmax && has_bias() => Ok(Gating::Sigmoid),
        None | Some(0) => Ok(architecture.gating),
        Some(1) => Ok(Gating::Softmax),
        Some(2) => Ok(Gating::Sigmoid),
        Some(3) => Ok(Gating::SoftmaxChosen),
        Some(other) => Err(keys.wrong(
            "expert_gating_func",
            "1 (softmax), 2 (sigmoid) or 3 (softmax of the chosen)",
            other,
        )),
    }
}

/// One group is none.
fn read_groups(
    keys: &Keys<'_>,
    gating: Gating,
    (experts, used_experts): (usize, usize),
) -> Result<Option<Groups>> {
    let count = keys.number("expert_group_count", limit::EXPERTS)?.unwrap_or(0).max(1);
    let used = keys.number("expert_group_used_count", limit::EXPERTS)?.unwrap_or(0);
    let used = if used == 0 { count } else { used };
    if experts % count != 0 {
        return Err(keys.wrong("expert_group_count", format!("a divisor of {experts}"), count));
    }
    if used > count || used * (experts / count) < used_experts {
        let expected = format!("groups with at least {used_experts} experts, at most {count}");
        return Err(keys.wrong("expert_group_used_count", expected, used));
    }
    let counted = if gating == Gating::Softmax { 1 } else { 2 };
    Ok((used < count).then_some(Groups { count, used, counted }))
}

/// The shared expert's width comes from its key, or from how many experts' widths it is.
fn read_shared(keys: &Keys<'_>, layer: usize, expert_length: usize) -> Result<Option<Shared>> {
    let tensor = |name: &str| keys.gguf.tensor(&format!("blk.{layer}.{name}.weight"));
    if tensor("ffn_up_shexp").is_none() {
        return Ok(None);
    }
    let count = keys.number("expert_shared_count", limit::EXPERTS)?.unwrap_or(1).max(1);
    let length = match keys.number("expert_shared_feed_forward_length", limit::WIDTH)? {
        Some(length) if length > 0 => length,
        _ => expert_length.saturating_mul(count).min(limit::WIDTH),
    };
    Ok(Some(Shared { length, gated: tensor("ffn_gate_inp_shexp").is_some() }))
}

/// An expert layer with what of it is always needed; the experts' matrices are in the store.
pub struct Experts {
    shape: Shape,
    router: Linear,                          // (expert_count, embedding_length)
    choice_bias: Option<Vector>,             // added to scores for the choice only
    shared: Option<(Dense, Option<Linear>)>, // the always active FFN, and the row of its sigmoid gate
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    logits: B::Buffer,         // (rows, expert_count)
    shared: dense::Scratch<B>, // of the always active FFN
    hidden: Hidden<B::Buffer>,
    routing: B::Routing,
    ahead: B::Routing, // a guess of the next layer's routing; no rows where none is wanted
}

/// What the chosen experts compute, a row for each choice of each row.
pub struct Hidden<T> {
    /// `(rows * expert_used_count, length)`.
    pub gate: T,
    /// `(rows * expert_used_count, length)`.
    pub up: T,
    /// `(rows * expert_used_count, embedding_length)`.
    pub out: T,
}

impl Kind for Experts {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let shared = |shared: Shared| {
            let inner = dense::Shape { length: shared.length, activation: shape.activation };
            let ffn = Dense::bind_as("_shexp", &inner, layer)?;
            Ok::<_, Error>((ffn, layer.optional_linear("ffn_gate_inp_shexp", 1, layer.width())?))
        };
        Ok(Self {
            router: layer.linear("ffn_gate_inp", shape.expert_count, layer.width())?,
            choice_bias: layer.optional_vector("exp_probs_b.bias", shape.expert_count)?,
            shared: shape.shared.map(shared).transpose()?,
            shape: shape.clone(),
        })
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        let buffer = || backend.buffer(0);
        Scratch {
            logits: buffer(),
            shared: Dense::scratch(backend),
            hidden: Hidden { gate: buffer(), up: buffer(), out: buffer() },
            routing: backend.routing(),
            ahead: backend.routing(),
        }
    }

    fn scratch_columns(&self) -> usize {
        let Shape { expert_count, expert_used_count, length, .. } = self.shape;
        let shared = self.shared.as_ref().map_or(0, |(ffn, _)| ffn.scratch_columns());
        expert_count + shared + expert_used_count * (2 * length + self.router.matrix.cols)
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let shared = self.shared.iter().flat_map(|(ffn, _)| ffn.matrices());
        std::iter::once(&self.router.matrix).chain(shared).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { logits, shared, hidden, routing, ahead } = scratch;
        pass.resize(logits, self.shape.expert_count);
        pass.linear(&self.router, half.normed, logits, 0);
        let bias = self.choice_bias.as_ref();
        pass.backend.route(&self.shape, bias, pass.drop_tokens, logits, routing);
        if O::ACTIVE {
            pass.observe.routed(half.layer, &pass.backend.host_routing(routing));
        }
        let store = pass.experts;
        let turn = pass.backend.ask(store, half.layer, routing)?;
        look_ahead(pass, half, logits, ahead);
        self.shared(pass, half, shared)?;
        let step = ExpertStep {
            store,
            layer: half.layer,
            experts: &self.shape,
            routing,
            ahead,
            normed: half.normed,
            hidden,
            added: half.added,
        };
        pass.backend.collect(turn, step, pass.observe)
    }
}

impl Experts {
    /// The sizes in use.
    pub(in crate::model) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The sizes, to be changed as a person wishes.
    pub(in crate::model) fn shape_mut(&mut self) -> &mut Shape {
        &mut self.shape
    }

    /// What every token gets besides its experts; zeros without a shared FFN.
    fn shared<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut dense::Scratch<B>,
    ) -> Result<()> {
        let Some((ffn, gate)) = &self.shared else {
            pass.backend.clear(half.added, pass.rows.len());
            return Ok(());
        };
        ffn.step(pass, half, scratch)?;
        if let Some(gate) = gate {
            pass.backend.weigh_by_sigmoid(gate, half.normed, half.added);
        }
        Ok(())
    }
}

/// Guesses what the next layer will choose from the rows as they are before this half: each adds little to them.
fn look_ahead<B: Backend, O: Observe>(
    pass: &mut Pass<'_, B, O>,
    half: &mut Half<'_, B::Buffer>,
    logits: &mut B::Buffer,
    ahead: &mut B::Routing,
) {
    pass.backend.forget(ahead);
    let Some(Layer { ffn: Ffn::Experts(next), ffn_norm, .. }) = half.next else { return };
    if pass.experts.look_ahead(half.layer + 1, pass.rows.len()) > 0 {
        pass.backend.norm(ffn_norm, half.x, half.added);
        pass.resize(logits, next.shape.expert_count);
        pass.backend.linear(&next.router, half.added, logits, 0);
        pass.backend.route(&next.shape, next.choice_bias.as_ref(), false, logits, ahead);
    }
}

/// The experts' matrices, for the store.
pub(in crate::model) fn bind_stacks(shape: &Shape, layer: &LayerBinder<'_>) -> Result<ExpertLayer> {
    let (length, width) = (shape.length, layer.width());
    let (gate, up) = match joined_gate_up(shape, layer)? {
        Some((gate, up)) => (Some(gate), up),
        None => (optional_stack("gate", shape, length, layer)?, stack("up", shape, (length, width), layer)?),
    };
    Ok(ExpertLayer { gate, up, down: stack("down", shape, (width, length), layer)? })
}

/// `ffn_gate_up_exps` holds each expert's gate rows, then its up rows.
fn joined_gate_up(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Option<(Stack, Stack)>> {
    const NAME: &str = "ffn_gate_up_exps.weight";
    if !layer.has(NAME) {
        return Ok(None);
    }
    let (rows, cols) = (shape.length, layer.width());
    let joined = layer.slices(NAME, shape.expert_count, 2 * rows, cols)?;
    let half = |second: usize| {
        let part = |matrix: &Matrix| {
            let len = matrix.bytes.len() / 2;
            matrix.bytes.slice(second * len..(second + 1) * len)
        };
        let experts = joined.iter().map(part).collect();
        Stack { format: joined[0].format, rows, cols, experts, bias: None }
    };
    Ok(Some((half(0), half(1))))
}

fn optional_stack(part: &str, shape: &Shape, rows: usize, layer: &LayerBinder<'_>) -> Result<Option<Stack>> {
    let present = layer.has(&format!("ffn_{part}_exps.weight")) || layer.has(&format!("ffn_{part}.0.weight"));
    present.then(|| stack(part, shape, (rows, layer.width()), layer)).transpose()
}

/// One stack from a 3-D tensor, or from one tensor per expert as files before April 2024 have them.
fn stack(part: &str, shape: &Shape, (rows, cols): (usize, usize), layer: &LayerBinder<'_>) -> Result<Stack> {
    let (joined, count) = (format!("ffn_{part}_exps"), shape.expert_count);
    let slices = if layer.has(&format!("ffn_{part}.0.weight")) {
        let single = |e: usize| layer.matrix(&format!("ffn_{part}.{e}.weight"), rows, cols);
        (0..count).map(single).collect::<Result<Vec<_>>>()?
    } else {
        layer.slices(&format!("{joined}.weight"), count, rows, cols)?
    };
    let format = slices[0].format;
    if let Some(other) = slices.iter().find(|slice| slice.format != format) {
        let place = format!("experts of `{}`", layer.name(&joined));
        return Err(Error::malformed(place, format!("one format, {format}"), other.format));
    }
    let bias = layer.optional_table(&format!("{joined}.bias"), count, rows)?;
    Ok(Stack { format, rows, cols, experts: slices.into_iter().map(|slice| slice.bytes).collect(), bias })
}
