//! The way of a batch through a model and back.

use super::batch::{Batch, Losses, Pass};
use super::config::Balance;
use super::layer::{LayerContext, Saved};
use super::roles::Role;
use super::router::{ExpertLoad, Spread};
use super::weights::Model;
use crate::ops::{CrossEntropy, Dispatch, Dropout, IGNORED, Linear, Norm, NormGradients, wide};
use crate::random::Random;
use crate::{Error, Result};
use candle_core::Tensor;
use std::ops::Range;

impl Model {
    fn check(&self, batch: Batch) -> Result<usize> {
        let length = batch.length();
        if length == 0 || length > self.config.context_length {
            let context = self.config.context_length;
            return Err(Error::request(format!("{length} tokens a row do not fit the context of {context}")));
        }
        let vocabulary = self.config.vocabulary;
        match batch.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(token) => {
                Err(Error::request(format!("token {token} lies beyond the vocabulary of {vocabulary}")))
            }
            None => Ok(length),
        }
    }

    /// Losses of `batch` without gradients.
    ///
    /// # Errors
    /// A token beyond the vocabulary, rows beyond the context, or a device that fails.
    pub fn evaluate(&self, batch: Batch, pass: &Pass) -> Result<Losses> {
        let (x, mut losses, _) = self.hidden(batch, pass, |_, _| {})?;
        let (targets, count) = batch.targets();
        let normed = self.output_norm().forward(&x)?.to_dtype(self.dtype())?;
        let (head, learned) = (self.head(pass.adapter_seed)?, Predicted::of(batch, targets));
        let total =
            CrossEntropy { head: &head, targets: &learned.targets }.forward(&learned.gather(&normed)?)?;
        self.finish(&mut losses, total, count);
        Ok(losses)
    }

    /// Logits `(rows, vocabulary)` after the last token of each row.
    ///
    /// # Errors
    /// As for [`Model::evaluate`].
    pub fn logits(&self, batch: Batch) -> Result<Tensor> {
        let length = self.check(batch)?;
        let (x, ..) = self.hidden(batch, &Pass::evaluation(), |_, _| {})?;
        let last: Vec<u32> = (0..batch.rows).map(|row| (row * length + length - 1) as u32).collect();
        let x = x.index_select(&Tensor::new(last, x.device())?, 0)?;
        let x = self.output_norm().forward(&x)?.to_dtype(self.dtype())?;
        wide(&self.head(None)?.forward(&x)?)
    }

    /// Losses of `batch`; `pass.scale` times the gradient of the loss is added to every parameter's.
    ///
    /// # Errors
    /// As for [`Model::evaluate`].
    pub fn forward_backward(&self, batch: Batch, pass: &Pass) -> Result<Losses> {
        let segment = pass.segment.max(1);
        let (mut kept, mut boundaries) = (vec![], vec![]);
        let (x, mut losses, spread) = self.hidden(batch, pass, |layer, (x, saved)| {
            if layer % segment == 0 {
                boundaries.push(x.clone());
            }
            kept.extend((pass.segment == 0).then_some(saved));
        })?;
        let (targets, count) = batch.targets();
        let normed = self.output_norm().forward(&x)?.to_dtype(self.dtype())?;
        let scale = pass.token_scale.unwrap_or(pass.scale / count.max(1) as f64);
        let (head, learned) = (self.head(pass.adapter_seed)?, Predicted::of(batch, targets));
        let loss = CrossEntropy { head: &head, targets: &learned.targets };
        let (total, dx) = loss.forward_backward(&learned.gather(&normed)?, scale)?;
        self.finish(&mut losses, total, count);
        let gradients = self.norm_gradients((Role::OutputNorm, Role::OutputNormBias), 0);
        let mut dx = self.output_norm().backward(&x, &learned.spread(&dx)?, None, gradients)?;
        drop(x);
        for layer in (0..self.config.block_count).rev() {
            if pass.segment > 0 && kept.is_empty() {
                let x = boundaries.pop().unwrap_or_else(|| unreachable!("one per segment"));
                kept =
                    self.recompute(batch, pass, x, layer + 1 - segment_length(layer, segment)..layer + 1)?;
            }
            let saved = kept.pop().unwrap_or_else(|| unreachable!("one per layer"));
            let spread = spread.as_ref();
            dx = LayerContext { spread, ..self.context(batch, pass, layer)? }.backward(saved, dx)?;
        }
        self.embedding_backward(batch, pass, &dx)?;
        Ok(losses)
    }

    fn recompute(
        &self,
        batch: Batch,
        pass: &Pass,
        mut x: Tensor,
        layers: Range<usize>,
    ) -> Result<Vec<Saved>> {
        let mut kept = vec![];
        for layer in layers {
            let (next, saved) = self.context(batch, pass, layer)?.forward(x)?;
            x = next;
            kept.push(saved);
        }
        Ok(kept)
    }

    /// The residual stream after the last layer, and what the load balance counts together; `keep` is given each layer with its input and what it saved.
    fn hidden(
        &self,
        batch: Batch,
        pass: &Pass,
        mut keep: impl FnMut(usize, (&Tensor, Saved)),
    ) -> Result<(Tensor, Losses, Option<Spread>)> {
        self.check(batch)?;
        let mut x = self.embed(batch, pass)?;
        let (mut losses, mut spreads) = (Losses::default(), vec![]);
        for layer in 0..self.config.block_count {
            let (next, saved) = self.context(batch, pass, layer)?.forward(x.clone())?;
            if let Some(routing) = saved.routing() {
                losses.load_balance += routing.spread.loss();
                spreads.push(routing.spread.clone());
                losses.router_z += routing.router_z;
                losses.experts.push(ExpertLoad { layer, ..routing.load.clone() });
            }
            keep(layer, (&x, saved));
            x = next;
        }
        let together = match self.config.experts.balance {
            Balance::PerLayer => None,
            Balance::AllLayers => Some(Spread::together(&spreads, pass.average())?),
        };
        if let Some(together) = &together {
            losses.load_balance = together.loss();
        }
        Ok((x, losses, together))
    }

    fn context<'a>(&'a self, batch: Batch<'a>, pass: &'a Pass, layer: usize) -> Result<LayerContext<'a>> {
        Ok(LayerContext { model: self, pass, layer, batch, length: batch.length(), spread: None })
    }

    fn embed(&self, batch: Batch, pass: &Pass) -> Result<Tensor> {
        let device = self.device();
        let table = &self.get(Role::TokenEmbedding, 0).master;
        let mut x = wide(&table.index_select(&Tensor::new(batch.tokens, device)?, 0)?)?;
        if let Some(positions) = self.find(Role::PositionEmbedding, 0) {
            x = (x + positions.master.index_select(&Tensor::new(batch.positions(), device)?, 0)?)?;
        }
        self.embedding_dropout(pass).map_or(Ok(x.clone()), |dropout| dropout.apply(&x))
    }

    fn embedding_dropout(&self, pass: &Pass) -> Option<Dropout> {
        let rate = self.config.dropout;
        let seed = pass.seed.filter(|_| rate > 0.0)?;
        Some(Dropout { rate, seed: Random::at(seed, &[u64::MAX]).bits() })
    }

    fn embedding_backward(&self, batch: Batch, pass: &Pass, dx: &Tensor) -> Result<()> {
        let dx = self.embedding_dropout(pass).map_or(Ok(dx.clone()), |dropout| dropout.apply(dx))?;
        self.get(Role::TokenEmbedding, 0).gradient.add_rows(batch.tokens, &dx)?;
        match self.find(Role::PositionEmbedding, 0) {
            Some(positions) => positions.gradient.add_rows(&batch.positions(), &dx),
            None => Ok(()),
        }
    }

    fn head(&self, seed: Option<u64>) -> Result<Linear<'_>> {
        let role = self.find(Role::Output, 0).map_or(Role::TokenEmbedding, |head| head.spec.role);
        self.linear((role, None), 0, seed)
    }

    fn output_norm(&self) -> Norm<'_> {
        self.norm((Role::OutputNorm, Role::OutputNormBias), 0)
    }

    pub(super) fn norm(&self, (weight, bias): (Role, Role), layer: usize) -> Norm<'_> {
        let bias = self.find(bias, layer).map(|parameter| &parameter.master);
        let weight = &self.get(weight, layer).master;
        Norm { kind: self.config.norm, epsilon: self.config.norm_epsilon, weight, bias }
    }

    pub(super) fn norm_gradients(&self, (weight, bias): (Role, Role), layer: usize) -> NormGradients<'_> {
        let bias = self.find(bias, layer).map(|parameter| &parameter.gradient);
        NormGradients { weight: &self.get(weight, layer).gradient, bias }
    }

    fn finish(&self, losses: &mut Losses, total: f64, count: usize) {
        let experts = &self.config.experts;
        losses.targets = count;
        losses.cross_entropy = total / count.max(1) as f64;
        losses.loss = losses.cross_entropy
            + experts.load_balance * losses.load_balance
            + experts.router_z * losses.router_z;
    }
}

/// Layers of the segment that ends with `layer`.
fn segment_length(layer: usize, segment: usize) -> usize {
    layer % segment + 1
}

/// The rows of a batch that something is predicted from. Where texts are packed, logits of the others are not computed.
struct Predicted {
    rows: Option<Dispatch>,
    targets: Vec<u32>,
}

impl Predicted {
    fn of(batch: Batch, targets: Vec<u32>) -> Self {
        if batch.packing.is_none() {
            return Self { rows: None, targets };
        }
        let rows: Vec<u32> = (0..targets.len() as u32).filter(|&n| targets[n as usize] != IGNORED).collect();
        let kept = rows.iter().map(|&n| targets[n as usize]).collect();
        Self { rows: Some(Dispatch::new(rows, targets.len())), targets: kept }
    }

    fn gather(&self, x: &Tensor) -> Result<Tensor> {
        self.rows.as_ref().map_or(Ok(x.clone()), |rows| rows.gather(x))
    }

    /// The gradient of [`Predicted::gather`], in the precision of sums.
    fn spread(&self, dx: &Tensor) -> Result<Tensor> {
        self.rows.as_ref().map_or_else(|| wide(dx), |rows| rows.combine(dx))
    }
}
