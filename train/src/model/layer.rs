//! One layer, forward and backward: attention and a feed-forward network, each behind a norm and added to the residual
//! stream, which stays in the precision of sums.

use super::batch::{Batch, Pass};
use super::roles::Role;
use super::router::{Routing, Spread};
use super::weights::{Model, Parameter};
use crate::Result;
use crate::ops::{Attended, Attention, Dropout, HeadNorm, Heads, Linear, wide};
use crate::random::Random;
use candle_core::{DType, Tensor};

const ATTENTION_NORM: (Role, Role) = (Role::AttentionNorm, Role::AttentionNormBias);
const FFN_NORM: (Role, Role) = (Role::FfnNorm, Role::FfnNormBias);

/// Where a layer takes random numbers: one place each.
#[derive(Clone, Copy)]
enum Site {
    Probabilities,
    AttentionOutput,
    FfnOutput,
    Noise,
}

/// A layer and what goes through it.
pub(super) struct LayerContext<'a> {
    pub(super) model: &'a Model,
    pub(super) pass: &'a Pass<'a>,
    pub(super) layer: usize,
    pub(super) batch: Batch<'a>,
    pub(super) length: usize, // T
    /// What the load balance counts together, known after all layers; without, each layer by itself.
    pub(super) spread: Option<&'a Spread>,
}

/// What the backward of a layer needs.
pub(super) struct Saved {
    x: Tensor,          // (N, d), the input
    normed: Tensor,     // (N, d)
    qkv: Tensor,        // (N, (H + 2K) * D)
    heads: [Tensor; 3], // (B, H or K, T, D)
    attended: Attended, // (B, H, T, D)
    merged: Tensor,     // (N, H * D)
    middle: Tensor,     // (N, d), after attention
    ffn_normed: Tensor, // (N, d), in the precision of sums
    ffn: SavedFfn,
}

enum SavedFfn {
    Dense { up: Tensor }, // (N, b * F)
    Experts(Box<SavedExperts>),
}

struct SavedExperts {
    routing: Routing,
    noise: Option<Noise>,
    up: Tensor,             // (slots, b * F)
    shared: Option<Tensor>, // (N, b * F)
}

/// What training adds to the router's scores: `softplus(raw) * normal`.
struct Noise {
    raw: Vec<f64>,    // (N, E)
    normal: Vec<f64>, // (N, E)
}

impl Saved {
    pub(super) fn routing(&self) -> Option<&Routing> {
        match &self.ffn {
            SavedFfn::Experts(experts) => Some(&experts.routing),
            SavedFfn::Dense { .. } => None,
        }
    }
}

/// The matrices of a feed-forward network without experts.
struct Dense<'a> {
    up: Linear<'a>,
    down: Linear<'a>,
}

impl<'a> LayerContext<'a> {
    fn get(&self, role: Role) -> &'a Parameter {
        self.model.get(role, self.layer)
    }

    fn find(&self, role: Role) -> Option<&'a Parameter> {
        self.model.find(role, self.layer)
    }

    fn seed(&self, site: Site) -> Option<u64> {
        self.pass.seed.map(|seed| Random::at(seed, &[self.layer as u64, site as u64]).bits())
    }

    fn dropout(&self, site: Site) -> Option<Dropout> {
        let rate = self.model.config.dropout;
        self.seed(site).filter(|_| rate > 0.0).map(|seed| Dropout { rate, seed })
    }

    fn drop(&self, site: Site, x: Tensor) -> Result<Tensor> {
        self.dropout(site).map_or(Ok(x.clone()), |dropout| dropout.apply(&x))
    }

    fn narrow(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(self.model.dtype())?)
    }

    fn heads(&self) -> Heads<'a> {
        let config = &self.model.config;
        let norm = config.head_norm.map(|_| HeadNorm {
            epsilon: config.norm_epsilon,
            query: &self.get(Role::QueryNorm).master,
            key: &self.get(Role::KeyNorm).master,
        });
        Heads {
            batch: self.batch.rows,
            length: self.length,
            count: config.head_count,
            count_kv: config.head_count_kv,
            size: config.head_length,
            norm,
            rotation: self.model.rotation(),
            positions: self.batch.packing.map(|packing| &packing.positions[..]),
        }
    }

    /// A matrix of this layer with its bias and its adapters.
    fn linear(&self, role: Role, bias: Option<Role>) -> Result<Linear<'a>> {
        self.model.linear((role, bias), self.layer, self.pass.adapter_seed)
    }

    fn qkv(&self) -> Result<Linear<'a>> {
        self.linear(Role::Qkv, Some(Role::QkvBias))
    }

    fn attention_output(&self) -> Result<Linear<'a>> {
        self.linear(Role::AttentionOutput, Some(Role::AttentionOutputBias))
    }

    fn attention(&self) -> Attention<'a> {
        let scale = 1.0 / (self.model.config.head_length as f64).sqrt();
        let starts = self.batch.packing.map(|packing| &packing.starts[..]);
        Attention { scale, dropout: self.dropout(Site::Probabilities), starts }
    }

    /// The residual stream `x (N, d)` after this layer.
    pub(super) fn forward(&self, x: Tensor) -> Result<(Tensor, Saved)> {
        let normed = self.narrow(&self.model.norm(ATTENTION_NORM, self.layer).forward(&x)?)?;
        let qkv = self.qkv()?.forward(&normed)?;
        let heads = self.heads().split(&qkv)?;
        let attended = self.attention().forward(&heads[0], &heads[1], &heads[2])?;
        let merged = self.heads().merge(&attended.output)?;
        let y = self.attention_output()?.forward(&merged)?;
        let middle = (&x + self.drop(Site::AttentionOutput, wide(&y)?)?)?;
        let ffn_normed = self.model.norm(FFN_NORM, self.layer).forward(&middle)?;
        let (y, ffn) = self.ffn(&ffn_normed)?;
        let out = (&middle + self.drop(Site::FfnOutput, y)?)?;
        Ok((out, Saved { x, normed, qkv, heads, attended, merged, middle, ffn_normed, ffn }))
    }

    /// The gradient of the layer's input, given that of its output.
    pub(super) fn backward(&self, saved: Saved, dx: Tensor) -> Result<Tensor> {
        let dy = self.drop(Site::FfnOutput, dx.clone())?;
        let d_normed = self.ffn_backward(&saved, &dy)?;
        let gradients = self.model.norm_gradients(FFN_NORM, self.layer);
        let norm = self.model.norm(FFN_NORM, self.layer);
        let dx = norm.backward(&saved.middle, &d_normed, Some(&dx), gradients)?;
        let dy = self.narrow(&self.drop(Site::AttentionOutput, dx.clone())?)?;
        let d_merged = self.attention_output()?.backward(&dy, &saved.merged)?;
        let d_output = self.heads().unmerge(&d_merged)?;
        let [query, key, value] = &saved.heads;
        let [dq, dk, dv] = self.attention().backward([query, key, value], &saved.attended, &d_output)?;
        let norms = self.find(Role::QueryNorm).zip(self.find(Role::KeyNorm));
        let norms = norms.map(|(query, key)| (&query.gradient, &key.gradient));
        let d_qkv = self.heads().join(&saved.qkv, [&dq, &dk, &dv], norms)?;
        let d_normed = self.qkv()?.backward(&d_qkv, &saved.normed)?;
        let gradients = self.model.norm_gradients(ATTENTION_NORM, self.layer);
        self.model.norm(ATTENTION_NORM, self.layer).backward(
            &saved.x,
            &wide(&d_normed)?,
            Some(&dx),
            gradients,
        )
    }

    fn dense(&self) -> Result<Dense<'a>> {
        Ok(Dense {
            up: self.linear(Role::Up, Some(Role::UpBias))?,
            down: self.linear(Role::Down, Some(Role::DownBias))?,
        })
    }

    fn shared(&self) -> Result<Option<Dense<'a>>> {
        if self.find(Role::SharedUp).is_none() {
            return Ok(None);
        }
        Ok(Some(Dense { up: self.linear(Role::SharedUp, None)?, down: self.linear(Role::SharedDown, None)? }))
    }

    /// The output in the precision of sums.
    fn dense_forward(&self, dense: &Dense, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let up = dense.up.forward(x)?;
        let activated = self.model.config.activation.forward(&up, None)?;
        Ok((wide(&dense.down.forward(&activated)?)?, up))
    }

    fn dense_backward(&self, dense: &Dense, x: &Tensor, up: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let activation = self.model.config.activation;
        let activated = activation.forward(up, None)?;
        let d_activated = dense.down.backward(dy, &activated)?;
        let (d_up, _) = activation.backward(up, &d_activated, None)?;
        wide(&dense.up.backward(&d_up, x)?)
    }

    fn ffn(&self, normed: &Tensor) -> Result<(Tensor, SavedFfn)> {
        let x = self.narrow(normed)?;
        if !self.model.config.has_experts(self.layer) {
            let (y, up) = self.dense_forward(&self.dense()?, &x)?;
            return Ok((y, SavedFfn::Dense { up }));
        }
        let (routing, noise) = self.route(normed)?;
        let weights = Some(&routing.weights[..]);
        let rows = routing.dispatch.gather(&x)?;
        let mut up = self.model.grouped(Role::ExpertsUp, self.layer)?.forward(&routing.groups, &rows)?;
        if let Some(bias) = self.find(Role::ExpertsUpBias) {
            up = routing.groups.add_bias(&up, &bias.compute, None)?;
        }
        let activated = self.model.config.activation.forward(&up, weights)?;
        let down = self.model.grouped(Role::ExpertsDown, self.layer)?;
        let mut out = down.forward(&routing.groups, &activated)?;
        if let Some(bias) = self.find(Role::ExpertsDownBias) {
            out = routing.groups.add_bias(&out, &bias.compute, weights)?;
        }
        let mut y = routing.dispatch.combine(&out)?;
        let mut shared_up = None;
        if let Some(shared) = self.shared()? {
            let (own, up) = self.dense_forward(&shared, &x)?;
            y = (y + own)?;
            shared_up = Some(up);
        }
        Ok((y, SavedFfn::Experts(Box::new(SavedExperts { routing, noise, up, shared: shared_up }))))
    }

    /// The gradient of the network's input, in the precision of sums.
    fn ffn_backward(&self, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        let (x, dy) = (self.narrow(&saved.ffn_normed)?, self.narrow(dy)?);
        match &saved.ffn {
            SavedFfn::Dense { up } => self.dense_backward(&self.dense()?, &x, up, &dy),
            SavedFfn::Experts(experts) => {
                let SavedExperts { routing, noise, up, shared } = &**experts;
                let (mut dx, slopes) = self.experts_backward(routing, up, &x, &dy)?;
                if let Some((dense, up)) = self.shared()?.zip(shared.as_ref()) {
                    dx = (dx + self.dense_backward(&dense, &x, up, &dy)?)?;
                }
                Ok((dx + self.route_backward(routing, noise.as_ref(), &slopes, &saved.ffn_normed)?)?)
            }
        }
    }

    /// Gradients of the experts' input and of the weights of their slots.
    fn experts_backward(
        &self,
        routing: &Routing,
        up: &Tensor,
        x: &Tensor,
        dy: &Tensor,
    ) -> Result<(Tensor, Vec<f64>)> {
        let (groups, activation) = (&routing.groups, self.model.config.activation);
        let (weights, rows) = (Some(&routing.weights[..]), routing.dispatch.gather(x)?);
        let d_out = routing.dispatch.gather(dy)?;
        let activated = activation.forward(up, weights)?;
        let d_activated =
            self.model.grouped(Role::ExpertsDown, self.layer)?.backward(groups, &d_out, &activated)?;
        let (d_up, mut slopes) = activation.backward(up, &d_activated, weights)?;
        if let Some(bias) = self.find(Role::ExpertsDownBias) {
            groups.bias_backward(&d_out, weights, &bias.gradient)?;
            let own = groups.bias_weights_backward(&d_out, &bias.compute)?;
            slopes.iter_mut().zip(own).for_each(|(slope, own)| *slope += own);
        }
        if let Some(bias) = self.find(Role::ExpertsUpBias) {
            groups.bias_backward(&d_up, None, &bias.gradient)?;
        }
        let d_rows = self.model.grouped(Role::ExpertsUp, self.layer)?.backward(groups, &d_up, &rows)?;
        Ok((routing.dispatch.combine(&d_rows)?, slopes))
    }

    /// The router reads and computes in the precision of sums.
    fn route(&self, normed: &Tensor) -> Result<(Routing, Option<Noise>)> {
        let mut scores = numbers(&self.linear(Role::Router, None)?.forward(normed)?)?;
        let noise = match (self.find(Role::RouterNoise), self.seed(Site::Noise)) {
            (Some(_), Some(seed)) => {
                let raw = numbers(&self.linear(Role::RouterNoise, None)?.forward(normed)?)?;
                let mut random = Random::at(seed, &[]);
                let normal: Vec<f64> = raw.iter().map(|_| random.normal()).collect();
                Some(Noise { raw, normal })
            }
            _ => None,
        };
        if let Some(Noise { raw, normal }) = &noise {
            let both = raw.iter().zip(normal);
            scores.iter_mut().zip(both).for_each(|(score, (&raw, normal))| *score += softplus(raw) * normal);
        }
        let real = self.batch.packing.map(|packing| &packing.real[..]);
        Ok((Routing::new(&self.model.config.experts, &scores, real, self.pass.average())?, noise))
    }

    /// The gradient of the router's input.
    fn route_backward(
        &self,
        routing: &Routing,
        noise: Option<&Noise>,
        slopes: &[f64],
        normed: &Tensor,
    ) -> Result<Tensor> {
        let experts = &self.model.config.experts;
        let scale = self.pass.scale;
        let factors = (scale * experts.load_balance, scale * experts.router_z);
        let d_scores = routing.backward(slopes, factors, self.spread);
        let mut dx = self.scores_backward(&d_scores, Role::Router, normed)?;
        if let Some(noise) = noise {
            let both = noise.raw.iter().zip(&noise.normal);
            let d_raw =
                d_scores.iter().zip(both).map(|(d, (&raw, normal))| d * normal / (1.0 + (-raw).exp()));
            dx = (dx + self.scores_backward(&d_raw.collect::<Vec<_>>(), Role::RouterNoise, normed)?)?;
        }
        Ok(dx)
    }

    fn scores_backward(&self, d_scores: &[f64], role: Role, normed: &Tensor) -> Result<Tensor> {
        let shape = (normed.dim(0)?, d_scores.len() / normed.dim(0)?);
        let d_scores = Tensor::from_slice(d_scores, shape, &candle_core::Device::Cpu)?;
        let d_scores = d_scores.to_dtype(normed.dtype())?.to_device(normed.device())?;
        self.linear(role, None)?.backward(&d_scores, normed)
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
