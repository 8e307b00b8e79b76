//! The optimizer's state and its step.

use crate::Result;
use crate::model::{Model, Parameter};
use crate::ops::{Loops, hold, is_host, modify, vectorized};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Numbers of one parallel task.
const TASK: usize = 1 << 14;

/// What does not change during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Share of a weight taken away per step, times the learning rate; norms and biases do not decay.
    pub weight_decay: f64,
    /// The global norm of the gradients is cut to this; 0 does not cut.
    pub clip: f64,
}

/// Two moments per parameter that is trained.
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64, // done
    moments: Vec<Moments>,
}

struct Moments {
    first: Tensor,
    second: Tensor,
}

/// The factors of one step.
struct Factors {
    decay: f32, // of the weight
    clip: f32,  // of the gradient
    beta1: f32,
    beta2: f32,
    rate: f32,       // learning rate / correction of the first moment
    correction: f32, // 1 / root of the correction of the second
    epsilon: f32,
}

impl AdamW {
    /// Moments at zero.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn new(settings: AdamWSettings, model: &Model) -> Result<Self> {
        let zeros = |parameter: &Parameter| -> Result<Moments> {
            Ok(Moments { first: parameter.master.zeros_like()?, second: parameter.master.zeros_like()? })
        };
        Ok(Self { settings, steps: 0, moments: model.trained().map(zeros).collect::<Result<_>>()? })
    }

    /// Steps that were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Both moments of each parameter that is trained.
    pub fn moments(&self) -> impl Iterator<Item = (&Tensor, &Tensor)> {
        self.moments.iter().map(|moments| (&moments.first, &moments.second))
    }

    /// Goes on after `steps` steps with these moments, one pair per parameter.
    pub fn restore(&mut self, steps: u64, moments: Vec<(Tensor, Tensor)>) {
        assert_eq!(moments.len(), self.moments.len(), "one pair per parameter");
        self.steps = steps;
        self.moments = moments.into_iter().map(|(first, second)| Moments { first, second }).collect();
    }

    /// Changes every parameter that is trained by its gradient, and returns the global norm of the gradients before clipping.
    /// Nothing is changed where that norm is not finite.
    ///
    /// # Errors
    /// The device refuses.
    pub fn step(&mut self, model: &mut Model, learning_rate: f64) -> Result<f64> {
        let norm = gradient_norm(model)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let factors = |decays: bool| self.factors(learning_rate, norm, decays);
        let (decaying, other) = (factors(true), factors(false));
        for (parameter, moments) in model.trained_mut().zip(&mut self.moments) {
            let role = parameter.spec.role;
            let factors = if role.is_norm() || role.is_bias() { &other } else { &decaying };
            update(parameter, moments, factors)?;
        }
        model.refresh()?;
        Ok(norm)
    }

    fn factors(&self, learning_rate: f64, norm: f64, decays: bool) -> Factors {
        let settings = &self.settings;
        let steps = self.steps as i32;
        let clip = if settings.clip > 0.0 { (settings.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let decay = if decays { settings.weight_decay } else { 0.0 };
        Factors {
            decay: (1.0 - learning_rate * decay) as f32,
            clip: clip as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            rate: (learning_rate / (1.0 - settings.beta1.powi(steps))) as f32,
            correction: (1.0 / (1.0 - settings.beta2.powi(steps)).sqrt()) as f32,
            epsilon: settings.epsilon as f32,
        }
    }
}

/// The root of the sum of the squares of all gradients, in f64.
///
/// # Errors
/// The device refuses.
fn gradient_norm(model: &Model) -> Result<f64> {
    let mut total = 0.0;
    for gradient in model.trained().filter_map(|parameter| parameter.gradient.total()) {
        total += squares(&gradient)?;
    }
    Ok(total.sqrt())
}

fn squares(tensor: &Tensor) -> Result<f64> {
    if !is_host(tensor) || tensor.dtype() != DType::F32 {
        return Ok(tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?);
    }
    let held = hold::<f32>(tensor)?;
    let values: &[f32] = &held;
    let part = |part: &[f32]| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    Ok(values.par_chunks(TASK).map(part).collect::<Vec<f64>>().into_iter().sum())
}

fn update(parameter: &mut Parameter, moments: &mut Moments, factors: &Factors) -> Result<()> {
    let Some(gradient) = parameter.gradient.total() else { return Ok(()) };
    if !is_host(&gradient) || gradient.dtype() != DType::F32 {
        return update_plain(parameter, moments, &gradient, factors);
    }
    let gradient = hold::<f32>(&gradient)?;
    let gradient: &[f32] = &gradient;
    let mut failed = Ok(());
    modify::<f32>(&moments.first, |first| {
        failed = modify::<f32>(&moments.second, |second| {
            failed = modify::<f32>(&parameter.master, |weights| {
                let moments = first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK));
                let numbers = weights.par_chunks_mut(TASK).zip(gradient.par_chunks(TASK));
                moments.zip(numbers).for_each(|((first, second), (weights, gradient))| {
                    vectorized(Update { factors, weights, gradient, first, second });
                });
            });
        });
    })?;
    failed
}

/// The step of some numbers.
struct Update<'a> {
    factors: &'a Factors,
    weights: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Loops for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let factors = self.factors;
        let moments = self.first.iter_mut().zip(self.second);
        for ((weight, &gradient), (first, second)) in self.weights.iter_mut().zip(self.gradient).zip(moments)
        {
            let gradient = gradient * factors.clip;
            *first = factors.beta1 * *first + (1.0 - factors.beta1) * gradient;
            *second = factors.beta2 * *second + (1.0 - factors.beta2) * gradient * gradient;
            let root = second.sqrt() * factors.correction + factors.epsilon;
            *weight = *weight * factors.decay - factors.rate * *first / root;
        }
    }
}

fn update_plain(
    parameter: &mut Parameter,
    moments: &mut Moments,
    gradient: &Tensor,
    factors: &Factors,
) -> Result<()> {
    let f = |x: f32| f64::from(x);
    let gradient = (gradient * f(factors.clip))?;
    moments.first = ((&moments.first * f(factors.beta1))? + (&gradient * f(1.0 - factors.beta1))?)?;
    moments.second = ((&moments.second * f(factors.beta2))? + (gradient.sqr()? * f(1.0 - factors.beta2))?)?;
    let root = ((moments.second.sqrt()? * f(factors.correction))? + f(factors.epsilon))?;
    let change = ((&moments.first * f(factors.rate))? / root)?;
    parameter.master = ((&parameter.master * f(factors.decay))? - change)?;
    Ok(())
}
