//! Some of many FFNs: the router chooses, the store brings what is missing, a shared FFN is computed meanwhile.

mod router;
mod stacks;

pub use router::Router;
pub(in crate::model) use stacks::bind_stacks;

use super::super::backend::{Backend, ExpertStep};
use super::super::bind::LayerBinder;
use super::super::config::limit;
use super::super::kinds::{Half, Kind, Pass};
use super::super::observe::Observe;
use super::super::step::Span;
use super::super::weights::{Layer, Linear, Matrix, Sublayer};
use super::super::{Architecture, Keys};
use super::Ffn;
use super::dense::{self, Dense};
use crate::error::{Error, Result};
use crate::ops::Activation;
use router::Ways;

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
    /// What the routed experts read and where their sum goes.
    pub inner: Inner,
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

/// What the routed experts read and where their sum goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// The half's input; to what the shared FFN yields.
    Same,
    /// The residual stream, through norms of their own for the router and for them; the sum and what the FFN beside them
    /// yields are normed before they meet (Gemma 4).
    Normed,
    /// The half's input in a space of this width, and back (Nemotron 3 Super).
    Latent(usize),
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
    /// What an expert reads and yields.
    fn width(&self, layer: &LayerBinder<'_>) -> usize {
        if let Inner::Latent(width) = self.inner { width } else { layer.width() }
    }

    pub(in crate::model) fn read(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Self> {
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
            inner: match keys.number("moe_latent_size", limit::WIDTH)? {
                None | Some(0) => Inner::Same,
                Some(width) => Inner::Latent(width),
            },
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
    router: Router,
    ways: Ways,
    shared: Option<(Dense, Option<Linear>)>, // the always active FFN, and the row of its sigmoid gate
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    logits: B::Buffer,         // (rows, expert_count)
    input: B::Buffer,          // of the experts, where it is not the half's (rows, width)
    sum: B::Buffer,            // theirs, where it does not go to the half's output at once (rows, width)
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
            // Gemma 4 has names of its own for experts' norms and none for the FFN beside them.
            let suffix = if shape.inner == Inner::Normed { "" } else { "_shexp" };
            let ffn = Dense::bind_as(suffix, &inner, layer)?;
            Ok::<_, Error>((ffn, layer.optional_linear("ffn_gate_inp_shexp", 1, layer.width())?))
        };
        Ok(Self {
            router: Router::bind(shape, layer)?,
            ways: Ways::bind(shape, layer)?,
            shared: shape.shared.map(shared).transpose()?,
            shape: shape.clone(),
        })
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        let buffer = || backend.buffer(0);
        Scratch {
            logits: buffer(),
            input: buffer(),
            sum: buffer(),
            shared: Dense::scratch(backend),
            hidden: Hidden { gate: buffer(), up: buffer(), out: buffer() },
            routing: backend.routing(),
            ahead: backend.routing(),
        }
    }

    fn scratch_columns(&self) -> usize {
        let Shape { expert_count, expert_used_count, length, .. } = self.shape;
        let shared = self.shared.as_ref().map_or(0, |(ffn, _)| ffn.scratch_columns());
        let (inner, width) = match self.shape.inner {
            Inner::Same => (0, self.router.linear.matrix.cols),
            Inner::Normed => (2 * self.router.linear.matrix.cols, self.router.linear.matrix.cols),
            Inner::Latent(width) => (width + self.router.linear.matrix.cols.max(width), width),
        };
        expert_count + shared + inner + expert_used_count * (2 * length + width)
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let mut matrices = vec![&self.router.linear.matrix];
        matrices.extend(self.shared.iter().flat_map(|(ffn, _)| ffn.matrices()));
        if let Ways::Latent { down, up } = &self.ways {
            matrices.extend([&down.matrix, &up.matrix]);
        }
        matrices
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { logits, input, sum, shared, hidden, routing, ahead } = scratch;
        self.router.logits(pass, half, input, logits);
        pass.backend.route(&self.shape, &self.router, pass.drop_tokens, logits, routing);
        if O::ACTIVE {
            pass.observe.routed(half.layer, &pass.backend.host_routing(routing));
        }
        let store = pass.experts;
        let turn = pass.backend.ask(store, half.layer, routing)?;
        look_ahead(pass, half, logits, ahead);
        self.shared(pass, half, shared)?;
        let is_same = self.lead_in(pass, half, input, sum);
        let (normed, added) =
            if is_same { (&mut *half.normed, &mut *half.added) } else { (input, &mut *sum) };
        let (layer, experts) = (half.layer, &self.shape);
        let step = ExpertStep { store, layer, experts, routing, ahead, normed, hidden, added };
        pass.backend.collect(turn, step, pass.observe)?;
        self.lead_out(pass, half, sum);
        Ok(())
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

    /// The routed experts' input, and room for their sum; `true` where both are the half's own.
    fn lead_in<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        input: &mut B::Buffer,
        sum: &mut B::Buffer,
    ) -> bool {
        match &self.ways {
            Ways::Same => return true,
            Ways::Normed { input: norm, .. } => {
                pass.backend.norm(norm, half.x, input);
                pass.resize(sum, norm.weight.len());
            }
            Ways::Latent { down, .. } => {
                pass.resize(input, down.matrix.rows);
                pass.linear(down, half.normed, input, 0);
                pass.resize(sum, down.matrix.rows);
            }
        }
        pass.backend.clear(sum, pass.rows.len());
        false
    }

    /// Adds the routed experts' sum to the half's output.
    fn lead_out<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        sum: &mut B::Buffer,
    ) {
        match &self.ways {
            Ways::Same => return,
            Ways::Normed { sum: norm, .. } => pass.backend.norm(norm, sum, half.normed),
            Ways::Latent { up, .. } => {
                pass.linear(up, sum, half.normed, 0);
            }
        }
        pass.backend.add(half.added, half.normed, 1.0);
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
        if let Ways::Normed { shared: norm, .. } = &self.ways {
            pass.backend.norm_span(norm, half.added, Span::one(0, norm.weight.len()));
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
    let Some(Layer { ffn: Some(Sublayer { norm, kind: Ffn::Experts(next), .. }), .. }) = half.next else {
        return;
    };
    if pass.experts.look_ahead(half.layer + 1, pass.rows.len()) > 0 {
        pass.backend.norm(next.router.norm.as_ref().unwrap_or(norm), half.x, half.added);
        pass.resize(logits, next.shape.expert_count);
        pass.backend.linear(&next.router.linear, half.added, logits, 0);
        pass.backend.route(&next.shape, &next.router, false, logits, ahead);
    }
}
