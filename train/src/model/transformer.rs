//! A model with its parameters, and the way of a batch through it and back.

use super::config::{Balance, Config, Position};
use super::layer::{LayerContext, Saved};
use super::parameters::{Role, Spec, specs};
use super::router::{ExpertLoad, Spread};
use crate::ops::{CrossEntropy, Dropout, Gradient, IGNORED, Norm, NormGradients, Rotation, wide};
use crate::random::Random;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// A parameter with its values.
pub struct Parameter {
    /// What it is.
    pub spec: Spec,
    /// Its values in the precision of the optimizer.
    pub master: Tensor,
    /// The same in the precision of the computation; shares the memory of `master` where that is the same.
    pub compute: Tensor,
    /// Its gradient, summed over the micro-batches of a step.
    pub gradient: Gradient,
}

/// A model that can be trained.
pub struct Model {
    /// Its shape and rules.
    pub config: Config,
    /// Its parameters in the order in which a token meets them.
    pub parameters: Vec<Parameter>,
    index: HashMap<(Role, usize), usize>,
    rotation: Option<Rotation>,
    dtype: DType, // of the computation
}

/// Token ids `(rows, context)`; each row is its own text and its own labels.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// `(rows, context)`.
    pub tokens: &'a [u32],
    /// How many texts.
    pub rows: usize,
}

/// Makes the means over all ranks of the numbers it is given.
pub type Average<'a> = dyn Fn(&mut [f64]) -> Result<()> + Sync + 'a;

/// How a batch goes through the model.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Factor of the batch's loss in the gradients: 1 / (micro-batches of a step * ranks).
    pub scale: f64,
    /// Where noise and dropout take their random numbers from; none while evaluating.
    pub seed: Option<u64>,
    /// Layers per segment whose activations are computed again in the backward; 0 keeps all of them.
    pub segment: usize,
    /// Makes means over all ranks.
    pub average: Option<&'a Average<'a>>,
}

/// The losses of a batch.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// What is trained: cross-entropy and the router's losses with their factors.
    pub loss: f64,
    /// Mean over the predicted tokens, in nats.
    pub cross_entropy: f64,
    /// Summed over layers, or of all layers together, without its factor.
    pub load_balance: f64,
    /// Summed over layers, without its factor.
    pub router_z: f64,
    /// Predicted tokens.
    pub targets: usize,
    /// Of each layer with experts.
    pub experts: Vec<ExpertLoad>,
}

impl Losses {
    /// Adds `share` of the losses of another batch, and its counts.
    pub fn add(&mut self, other: &Self, share: f64) {
        self.loss += share * other.loss;
        self.cross_entropy += share * other.cross_entropy;
        self.load_balance += share * other.load_balance;
        self.router_z += share * other.router_z;
        self.targets += other.targets;
        if self.experts.is_empty() {
            self.experts = other.experts.iter().map(ExpertLoad::zero).collect();
        }
        self.experts.iter_mut().zip(&other.experts).for_each(|(sum, load)| sum.add(load, share));
    }
}

impl Pass<'_> {
    /// A forward alone: no randomness.
    pub fn evaluation() -> Self {
        Self { scale: 1.0, seed: None, segment: 0, average: None }
    }

    pub(super) fn average(&self) -> &Average<'_> {
        self.average.unwrap_or(&|_| Ok(()))
    }
}

impl Model {
    /// A new model. `dtype` is that of the computation: F32, BF16, or F64 for checking gradients.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn new(config: Config, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let rule = config.initialisation;
        let mut index = 0;
        Self::with_values(config, dtype, device, |spec| {
            index += 1;
            Ok(spec.initial(rule, seed, index))
        })
    }

    /// A model whose values `values` gives, one parameter after the other.
    ///
    /// # Errors
    /// What `values` says, or the device has no memory left.
    pub fn with_values(
        config: Config,
        dtype: DType,
        device: &Device,
        mut values: impl FnMut(&Spec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mut parameters = vec![];
        for spec in specs(&config) {
            let values = Tensor::from_vec(values(&spec)?, spec.shape.clone(), &Device::Cpu)?;
            let master = values.to_dtype(wide)?.to_device(device)?;
            let gradient = Gradient::zeros(master.shape(), wide, device)?;
            let compute = master.to_dtype(dtype)?;
            parameters.push(Parameter { spec, master, compute, gradient });
        }
        let keyed = parameters.iter().enumerate().map(|(i, p)| ((p.spec.role, p.spec.layer), i)).collect();
        let rotation = match config.position {
            Position::Rotary { style, theta } => {
                let shape = (config.context_length, config.head_length);
                Some(Rotation::new(style, theta, shape, wide, device)?)
            }
            Position::Learned => None,
        };
        Ok(Self { config, parameters, index: keyed, rotation, dtype })
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        self.parameters[0].master.device()
    }

    /// All its numbers.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.spec.count()).sum()
    }

    pub(super) fn find(&self, role: Role, layer: usize) -> Option<&Parameter> {
        self.index.get(&(role, layer)).map(|&i| &self.parameters[i])
    }

    pub(super) fn get(&self, role: Role, layer: usize) -> &Parameter {
        self.find(role, layer)
            .unwrap_or_else(|| panic!("{role:?} of layer {layer} is a parameter of this model"))
    }

    pub(super) fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Brings the computation's copies up to date after the masters have changed.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn refresh(&mut self) -> Result<()> {
        for parameter in &mut self.parameters {
            parameter.compute = parameter.master.to_dtype(self.dtype)?;
        }
        Ok(())
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// The device refuses.
    pub fn clear_gradients(&self) -> Result<()> {
        self.parameters.iter().try_for_each(|parameter| parameter.gradient.clear())
    }

    fn check(&self, batch: Batch) -> Result<usize> {
        let length = batch.tokens.len() / batch.rows.max(1);
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
        let (targets, count) = self.targets(batch);
        let head = CrossEntropy { weight: &self.head().compute, targets: &targets };
        let total = head.forward(&self.output_norm().forward(&x)?.to_dtype(self.dtype)?)?;
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
        let x = self.output_norm().forward(&x)?.to_dtype(self.dtype)?;
        wide(&x.matmul(&self.head().compute.t()?)?)
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
        let (targets, count) = self.targets(batch);
        let head = self.head();
        let loss = CrossEntropy { weight: &head.compute, targets: &targets };
        let normed = self.output_norm().forward(&x)?.to_dtype(self.dtype)?;
        let scale = pass.scale / count.max(1) as f64;
        let (total, dx) = loss.forward_backward(&normed, scale, &head.gradient)?;
        self.finish(&mut losses, total, count);
        let gradients = self.norm_gradients((Role::OutputNorm, Role::OutputNormBias), 0);
        let mut dx = self.output_norm().backward(&x, &wide(&dx)?, None, gradients)?;
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
        layers: std::ops::Range<usize>,
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

    fn context<'a>(&'a self, batch: Batch, pass: &'a Pass, layer: usize) -> Result<LayerContext<'a>> {
        let length = batch.tokens.len() / batch.rows;
        Ok(LayerContext { model: self, pass, layer, batch: batch.rows, length, spread: None })
    }

    fn embed(&self, batch: Batch, pass: &Pass) -> Result<Tensor> {
        let device = self.device();
        let table = &self.get(Role::TokenEmbedding, 0).master;
        let mut x = table.index_select(&Tensor::new(batch.tokens, device)?, 0)?;
        if let Some(positions) = self.find(Role::PositionEmbedding, 0) {
            x = (x + positions.master.index_select(&Tensor::new(positions_of(batch), device)?, 0)?)?;
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
            Some(positions) => positions.gradient.add_rows(&positions_of(batch), &dx),
            None => Ok(()),
        }
    }

    fn head(&self) -> &Parameter {
        self.find(Role::Output, 0).unwrap_or_else(|| self.get(Role::TokenEmbedding, 0))
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

    /// The token after each one, none after the last of a row; and how many there are.
    fn targets(&self, batch: Batch) -> (Vec<u32>, usize) {
        let length = batch.tokens.len() / batch.rows;
        let row = |row: &[u32]| row[1..].iter().copied().chain([IGNORED]).collect::<Vec<_>>();
        (batch.tokens.chunks_exact(length).flat_map(row).collect(), batch.rows * (length - 1))
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

fn positions_of(batch: Batch) -> Vec<u32> {
    let length = (batch.tokens.len() / batch.rows) as u32;
    (0..batch.tokens.len() as u32).map(|i| i % length).collect()
}
