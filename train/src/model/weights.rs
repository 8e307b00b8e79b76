//! A model with the values of its parameters: made, found by role and layer, and brought up to date. How a batch goes
//! through it is not known here (`transformer.rs`).

use super::adapter::{Adapter, Lora, Trained};
use super::config::{Config, Position};
use super::parameters::{Spec, specs};
use super::roles::Role;
use crate::Result;
use crate::ops::{Gradient, Learned, Rotation};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// A parameter with its values.
pub struct Parameter {
    /// What it is.
    pub spec: Spec,
    /// Its values in the precision of the optimizer; of a large matrix that is not trained, as they are stored.
    pub master: Tensor,
    /// The same in the precision of the computation, but for those matrices, which are widened where they are used;
    /// shares the memory of `master` where that is the same.
    pub compute: Tensor,
    /// Its gradient, summed over the micro-batches of a step, where it is trained.
    pub gradient: Gradient,
}

impl Parameter {
    /// Whether it is trained.
    pub fn is_trained(&self) -> bool {
        !self.gradient.is_frozen()
    }

    pub(super) fn learned(&self, values: Tensor) -> Learned<'_> {
        Learned { values, gradient: &self.gradient }
    }
}

/// Values of a parameter, and the precision that they were stored in.
pub struct Values {
    /// All of them.
    pub numbers: Vec<f32>,
    /// BF16 where all of them fit it, or F32.
    pub stored: DType,
}

/// A model that can be trained.
pub struct Model {
    /// Its shape and rules.
    pub config: Config,
    /// Its parameters in the order in which a token meets them, and after them those of adapters.
    pub parameters: Vec<Parameter>,
    index: HashMap<(Role, usize), usize>,
    pub(super) adapters: HashMap<(Role, usize), Vec<Adapter>>,
    pub(super) lora: Option<Lora>,
    rotation: Option<Rotation>,
    dtype: DType, // of the computation
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
        let stored = |spec: &Spec| Ok(Values { numbers: values(spec)?, stored: DType::F32 });
        Self::of(config, &Trained::All, (dtype, device), stored)
    }

    /// A model of which only a part is trained, whose values `values` gives. What is not trained has neither gradients
    /// nor values in F32 besides those that it computes with.
    ///
    /// # Errors
    /// Adapters that this model cannot have, what `values` says, or the device has no memory left.
    pub fn of(
        config: Config,
        trained: &Trained,
        (dtype, device): (DType, &Device),
        mut values: impl FnMut(&Spec) -> Result<Values>,
    ) -> Result<Self> {
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mut parameters = vec![];
        for spec in specs(&config) {
            let is_trained = match trained {
                Trained::All => true,
                Trained::Router => spec.role == Role::Router, // no noise is added, so none is learned
                Trained::Lora(_) => false,
            };
            let Values { numbers, stored } = values(&spec)?;
            let values = Tensor::from_vec(numbers, spec.shape.clone(), &Device::Cpu)?;
            let own = match is_trained || !spec.role.is_matrix() || wide == DType::F64 {
                true => wide,
                false if device.is_cpu() => stored,
                false => dtype,
            };
            let master = values.to_dtype(own)?.to_device(device)?;
            let gradient = match is_trained {
                true => Gradient::zeros(master.shape(), wide, device)?,
                false => Gradient::frozen(),
            };
            let compute = if is_trained || own == wide { master.to_dtype(dtype)? } else { master.clone() };
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
        let adapters = HashMap::new();
        let mut model = Self { config, parameters, index: keyed, adapters, lora: None, rotation, dtype };
        if let Trained::Lora(lora) = trained {
            model.add_adapters(lora, wide)?;
        }
        Ok(model)
    }

    /// What is trained.
    pub fn trained(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.is_trained())
    }

    /// What is trained, to be changed.
    pub fn trained_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.parameters.iter_mut().filter(|parameter| parameter.is_trained())
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        self.parameters[0].master.device()
    }

    /// All its numbers, those of adapters included.
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
        let dtype = self.dtype;
        for parameter in self.trained_mut() {
            parameter.compute = parameter.master.to_dtype(dtype)?;
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
}
