//! One layer, forward and backward: attention and a feed-forward network, each behind a norm and added to the residual
//! stream, which stays in the precision of sums.

use super::parameters::Role;
use super::router::{Routing, Spread};
use super::transformer::{Model, Parameter, Pass};
use crate::Result;
use crate::ops::{Attended, Attention, Dropout, HeadNorm, Heads, linear, wide};
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
    pub(super) batch: usize,  // B
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
#[derive(Clone, Copy)]
struct Dense<'a> {
    up: &'a Parameter,
    up_bias: Option<&'a Parameter>,
    down: &'a Parameter,
    down_bias: Option<&'a Parameter>,
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
            batch: self.batch,
            length: self.length,
            count: config.head_count,
            count_kv: config.head_count_kv,
            size: config.head_length,
            norm,
            rotation: self.model.rotation(),
            positions: None,
        }
    }

    fn attention(&self) -> Attention {
        let scale = 1.0 / (self.model.config.head_length as f64).sqrt();
        Attention { scale, dropout: self.dropout(Site::Probabilities) }
    }

    /// The residual stream `x (N, d)` after this layer.
    pub(super) fn forward(&self, x: Tensor) -> Result<(Tensor, Saved)> {
        let normed = self.narrow(&self.model.norm(ATTENTION_NORM, self.layer).forward(&x)?)?;
        let qkv = apply(&normed, self.get(Role::Qkv), self.find(Role::QkvBias))?;
        let heads = self.heads().split(&qkv)?;
        let attended = self.attention().forward(&heads[0], &heads[1], &heads[2])?;
        let merged = self.heads().merge(&attended.output)?;
        let y = apply(&merged, self.get(Role::AttentionOutput), self.find(Role::AttentionOutputBias))?;
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
        let (output, bias) = (self.get(Role::AttentionOutput), self.find(Role::AttentionOutputBias));
        let d_merged = apply_backward(&dy, &saved.merged, output, bias)?;
        let d_output = self.heads().unmerge(&d_merged)?;
        let [query, key, value] = &saved.heads;
        let [dq, dk, dv] = self.attention().backward([query, key, value], &saved.attended, &d_output)?;
        let norms = self.find(Role::QueryNorm).zip(self.find(Role::KeyNorm));
        let norms = norms.map(|(query, key)| (&query.gradient, &key.gradient));
        let d_qkv = self.heads().join(&saved.qkv, [&dq, &dk, &dv], norms)?;
        let d_normed = apply_backward(&d_qkv, &saved.normed, self.get(Role::Qkv), self.find(Role::QkvBias))?;
        let gradients = self.model.norm_gradients(ATTENTION_NORM, self.layer);
        self.model.norm(ATTENTION_NORM, self.layer).backward(
            &saved.x,
            &wide(&d_normed)?,
            Some(&dx),
            gradients,
        )
    }

    fn dense(&self) -> Dense<'a> {
        Dense {
            up: self.get(Role::Up),
            up_bias: self.find(Role::UpBias),
            down: self.get(Role::Down),
            down_bias: self.find(Role::DownBias),
        }
    }

    fn shared(&self) -> Option<Dense<'a>> {
        let (up, down) = self.find(Role::SharedUp).zip(self.find(Role::SharedDown))?;
        Some(Dense { up, up_bias: None, down, down_bias: None })
    }

    /// The output in the precision of sums.
    fn dense_forward(&self, dense: Dense, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let up = apply(x, dense.up, dense.up_bias)?;
        let activated = self.model.config.activation.forward(&up, None)?;
        Ok((wide(&apply(&activated, dense.down, dense.down_bias)?)?, up))
    }

    fn dense_backward(&self, dense: Dense, x: &Tensor, up: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let activation = self.model.config.activation;
        let activated = activation.forward(up, None)?;
        let d_activated = apply_backward(dy, &activated, dense.down, dense.down_bias)?;
        let (d_up, _) = activation.backward(up, &d_activated, None)?;
        wide(&apply_backward(&d_up, x, dense.up, dense.up_bias)?)
    }

    fn ffn(&self, normed: &Tensor) -> Result<(Tensor, SavedFfn)> {
        let x = self.narrow(normed)?;
        if !self.model.config.has_experts(self.layer) {
            let (y, up) = self.dense_forward(self.dense(), &x)?;
            return Ok((y, SavedFfn::Dense { up }));
        }
        let (routing, noise) = self.route(normed)?;
        let weights = Some(&routing.weights[..]);
        let rows = routing.dispatch.gather(&x)?;
        let mut up = routing.groups.linear(&rows, &self.get(Role::ExpertsUp).compute)?;
        if let Some(bias) = self.find(Role::ExpertsUpBias) {
            up = routing.groups.add_bias(&up, &bias.compute, None)?;
        }
        let activated = self.model.config.activation.forward(&up, weights)?;
        let mut out = routing.groups.linear(&activated, &self.get(Role::ExpertsDown).compute)?;
        if let Some(bias) = self.find(Role::ExpertsDownBias) {
            out = routing.groups.add_bias(&out, &bias.compute, weights)?;
        }
        let mut y = routing.dispatch.combine(&out)?;
        let mut shared_up = None;
        if let Some(shared) = self.shared() {
            let (own, up) = self.dense_forward(shared, &x)?;
            y = (y + own)?;
            shared_up = Some(up);
        }
        Ok((y, SavedFfn::Experts(Box::new(SavedExperts { routing, noise, up, shared: shared_up }))))
    }

    /// The gradient of the network's input, in the precision of sums.
    fn ffn_backward(&self, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        let (x, dy) = (self.narrow(&saved.ffn_normed)?, self.narrow(dy)?);
        match &saved.ffn {
            SavedFfn::Dense { up } => self.dense_backward(self.dense(), &x, up, &dy),
            SavedFfn::Experts(experts) => {
                let SavedExperts { routing, noise, up, shared } = &**experts;
                let (mut dx, slopes) = self.experts_backward(routing, up, &x, &dy)?;
                if let Some((dense, up)) = self.shared().zip(shared.as_ref()) {
                    dx = (dx + self.dense_backward(dense, &x, up, &dy)?)?;
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
        let (up_weight, down_weight) = (self.get(Role::ExpertsUp), self.get(Role::ExpertsDown));
        let d_out = routing.dispatch.gather(dy)?;
        let activated = activation.forward(up, weights)?;
        groups.weight_backward(&d_out, &activated, &down_weight.gradient)?;
        let d_activated = groups.linear_backward(&d_out, &down_weight.compute)?;
        let (d_up, mut slopes) = activation.backward(up, &d_activated, weights)?;
        if let Some(bias) = self.find(Role::ExpertsDownBias) {
            groups.bias_backward(&d_out, weights, &bias.gradient)?;
            let own = groups.bias_weights_backward(&d_out, &bias.compute)?;
            slopes.iter_mut().zip(own).for_each(|(slope, own)| *slope += own);
        }
        if let Some(bias) = self.find(Role::ExpertsUpBias) {
            groups.bias_backward(&d_up, None, &bias.gradient)?;
        }
        groups.weight_backward(&d_up, &rows, &up_weight.gradient)?;
        let d_rows = groups.linear_backward(&d_up, &up_weight.compute)?;
        Ok((routing.dispatch.combine(&d_rows)?, slopes))
    }

    /// The router reads and computes in the precision of sums.
    fn route(&self, normed: &Tensor) -> Result<(Routing, Option<Noise>)> {
        let mut scores = numbers(&linear(normed, &self.get(Role::Router).master, None)?)?;
        let noise = match (self.find(Role::RouterNoise), self.seed(Site::Noise)) {
            (Some(weight), Some(seed)) => {
                let raw = numbers(&linear(normed, &weight.master, None)?)?;
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
        Ok((Routing::new(&self.model.config.experts, &scores, None, self.pass.average())?, noise))
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
        let router = self.get(Role::Router);
        let mut dx = self.scores_backward(&d_scores, router, normed)?;
        if let (Some(noise), Some(weight)) = (noise, self.find(Role::RouterNoise)) {
            let both = noise.raw.iter().zip(&noise.normal);
            let d_raw =
                d_scores.iter().zip(both).map(|(d, (&raw, normal))| d * normal / (1.0 + (-raw).exp()));
            dx = (dx + self.scores_backward(&d_raw.collect::<Vec<_>>(), weight, normed)?)?;
        }
        Ok(dx)
    }

    fn scores_backward(&self, d_scores: &[f64], weight: &Parameter, normed: &Tensor) -> Result<Tensor> {
        let shape = (normed.dim(0)?, d_scores.len() / normed.dim(0)?);
        let d_scores = Tensor::from_slice(d_scores, shape, &candle_core::Device::Cpu)?;
        let d_scores = d_scores.to_dtype(normed.dtype())?.to_device(normed.device())?;
        weight.gradient.add_product(&d_scores, normed)?;
        Ok(d_scores.matmul(&weight.master)?)
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

fn apply(x: &Tensor, weight: &Parameter, bias: Option<&Parameter>) -> Result<Tensor> {
    linear(x, &weight.compute, bias.map(|bias| &bias.compute))
}

/// The gradient of `x` in [`apply`]; those of the parameters are added to theirs.
fn apply_backward(dy: &Tensor, x: &Tensor, weight: &Parameter, bias: Option<&Parameter>) -> Result<Tensor> {
    weight.gradient.add_product(dy, x)?;
    if let Some(bias) = bias {
        bias.gradient.add_row_sum(dy)?;
    }
    Ok(dy.matmul(&weight.compute)?)
}
