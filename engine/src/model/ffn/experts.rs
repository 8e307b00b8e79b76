//! Some of many FFNs: the router chooses, the store brings what is missing, a shared FFN is computed meanwhile.

mod recorded;
mod router;
mod stacks;

pub use super::super::moe::{Capacity, ChosenBy, Gating, Groups, Inner, Router, Shape, Shared, Table};
pub(in crate::model) use stacks::bind_stacks;

use super::super::backend::{Backend, ExpertStep, Hidden};
use super::super::binder::LayerBinder;
use super::super::kinds::{Half, Kind, Pass};
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::moe::Choosing;
use super::super::observe::Observe;
use super::super::step::Span;
use super::dense::{self, Dense};
use crate::error::{Error, Result};
use crate::experts::Trace;
use recorded::Recorded;
use router::Ways;

/// An expert layer with what of it is always needed; the experts' matrices are in the store.
pub struct Experts {
    shape: Shape,
    router: Router,
    ways: Ways,
    recorded: Option<Recorded>,              // in the place of the router's scores
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

impl Kind for Experts {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let shared = |shared: Shared| {
            let inner = dense::Shape { length: shared.length, activation: shared.activation };
            // Gemma 4 has names of its own for experts' norms and none for the FFN beside them.
            let suffix = if shape.inner == Inner::Normed { "" } else { "_shexp" };
            let ffn = Dense::bind_as(suffix, &inner, layer)?;
            Ok::<_, Error>((ffn, layer.optional_linear("ffn_gate_inp_shexp", 1, layer.width())?))
        };
        Ok(Self {
            router: Router::bind(shape, layer)?,
            ways: Ways::bind(shape, layer)?,
            recorded: None,
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
        self.recorded.iter().for_each(|recorded| recorded.overwrite(pass, logits));
        if O::ACTIVE {
            let scores = pass.backend.host(logits);
            pass.observe.scored(half.layer, &scores, self.shape.expert_count);
        }
        pass.backend.route((&self.shape, &self.router), pass.drop_tokens, (pass.rows, logits), routing);
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

    /// Takes choices from the layer of a recording at `place` instead of from the router.
    ///
    /// # Errors
    /// As [`Model::follow`](super::super::Model::follow).
    pub(in crate::model) fn follow(&mut self, trace: &Trace, place: usize) -> Result<()> {
        self.recorded = Some(Recorded::new(&self.shape, &self.router, trace, place)?);
        Ok(())
    }

    /// What chooses among them, which stands behind `norm` where it has none of its own.
    pub(in crate::model) fn choosing<'a>(&'a self, norm: &'a NormWeights) -> Choosing<'a> {
        let Self { shape, router, .. } = self;
        Choosing { shape, router, norm: router.norm.as_ref().unwrap_or(norm) }
    }

    /// The most experts that a token can use.
    pub(in crate::model) fn most_used(&self) -> usize {
        self.router.table.as_ref().map_or(self.shape.expert_count, |table| table.width)
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
    let Some(Choosing { shape, router, norm }) = half.next else { return };
    if pass.experts.look_ahead(half.layer + 1, pass.rows.len()) > 0 {
        pass.backend.norm(norm, half.x, half.added);
        pass.resize(logits, shape.expert_count);
        pass.backend.linear(&router.linear, half.added, logits, 0);
        pass.backend.route((shape, router), false, (pass.rows, logits), ahead);
    }
}
