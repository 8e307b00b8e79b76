//! The matrices of a model as they are applied: in the precision of the computation, with what is learned beside them.

use super::adapter::{self, Adapter, Lora};
use super::roles::Role;
use super::weights::{Model, Parameter};
use crate::ops::{Dropout, Gradient, GroupedLinear, GroupedLowRank, Learned, Linear, LowRank, wide};
use crate::random::Random;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

impl Model {
    /// Adds adapters that change nothing yet: A is 0, too, until [`Model::begin_adapters`].
    pub(super) fn add_adapters(&mut self, lora: &Lora, wide: DType) -> Result<()> {
        lora.check(&self.config)?;
        let (adapters, specs) = adapter::adapters(&self.config, lora, self.parameters.len());
        let device = self.device().clone();
        for spec in specs {
            let master = Tensor::zeros(spec.shape.clone(), wide, &device)?;
            let gradient = Gradient::zeros(master.shape(), wide, &device)?;
            let compute = master.to_dtype(self.dtype())?;
            self.parameters.push(Parameter { spec, master, compute, gradient });
        }
        adapters.into_iter().for_each(|adapter| {
            self.adapters.entry((adapter.role, adapter.layer)).or_default().push(adapter)
        });
        self.lora = Some(lora.clone());
        Ok(())
    }

    /// Lets adapters begin: A is drawn, B is 0, magnitudes are the lengths of the matrices' rows.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn begin_adapters(&mut self, seed: u64) -> Result<()> {
        for index in 0..self.parameters.len() {
            let Parameter { spec, master, .. } = &self.parameters[index];
            if spec.role.is_adapter() {
                let values =
                    Tensor::from_vec(adapter::initial(spec, seed, index), spec.shape.clone(), &Device::Cpu)?;
                self.parameters[index].master =
                    values.to_dtype(master.dtype())?.to_device(master.device())?;
            }
        }
        for adapter in self.adapters.values().flatten() {
            let Some(magnitude) = adapter.magnitude else { continue };
            let (weight, rows) =
                (self.get(adapter.role, adapter.layer), self.parameters[magnitude].spec.shape[0]);
            let lengths = wide(&weight.master.narrow(0, adapter.first, rows)?)?.sqr()?.sum(1)?.sqrt()?;
            self.parameters[magnitude].master =
                lengths.to_dtype(self.parameters[magnitude].master.dtype())?;
        }
        self.refresh()
    }

    /// The settings of its adapters, where it has some.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Applies to the matrices of a layer what is learned beside them; `seed` is that of the adapters' dropout.
    pub(super) fn linear(
        &self,
        (role, bias): (Role, Option<Role>),
        layer: usize,
        seed: Option<u64>,
    ) -> Result<Linear<'_>> {
        let weight = self.get(role, layer);
        // Routers compute in the precision of sums.
        let is_wide = role.is_router();
        let values = |parameter: &Parameter| -> Result<Tensor> {
            Ok(if is_wide { parameter.master.clone() } else { parameter.compute.to_dtype(self.dtype())? })
        };
        let bias = bias.and_then(|bias| self.find(bias, layer));
        let adapter = |(i, adapter): (usize, &Adapter)| -> Result<LowRank<'_>> {
            let lora = self.lora.as_ref().unwrap_or_else(|| unreachable!("adapters have settings"));
            let own = |index: usize| -> Result<Learned<'_>> {
                let parameter = &self.parameters[index];
                Ok(parameter.learned(values(parameter)?))
            };
            let dropout = seed.filter(|_| lora.dropout > 0.0).map(|seed| {
                let place = [role as u64, layer as u64, i as u64];
                Dropout { rate: lora.dropout, seed: Random::at(seed, &place).bits() }
            });
            let magnitude = adapter.magnitude.map(|index| &self.parameters[index]);
            Ok(LowRank {
                a: own(adapter.a)?,
                b: own(adapter.b)?,
                scale: lora.scale(),
                first: adapter.first,
                dropout,
                magnitude: magnitude.map(|parameter| parameter.learned(parameter.master.clone())),
            })
        };
        Ok(Linear {
            weight: weight.learned(values(weight)?),
            bias: bias.map(|bias| Ok::<_, Error>(bias.learned(values(bias)?))).transpose()?,
            adapters: self.adapters_of(role, layer).iter().enumerate().map(adapter).collect::<Result<_>>()?,
        })
    }

    /// The same for the matrices of experts.
    pub(super) fn grouped(&self, role: Role, layer: usize) -> Result<GroupedLinear<'_>> {
        let learned = |parameter| -> Result<Learned<'_>> {
            let parameter: &Parameter = parameter;
            Ok(parameter.learned(parameter.compute.to_dtype(self.dtype())?))
        };
        let adapter = |adapter: &Adapter| {
            let (a, b) = (&self.parameters[adapter.a], &self.parameters[adapter.b]);
            let scale = self.lora.as_ref().map_or(1.0, Lora::scale);
            Ok::<_, Error>(GroupedLowRank { a: learned(a)?, b: learned(b)?, scale })
        };
        let adapter = self.adapters_of(role, layer).first().map(adapter).transpose()?;
        Ok(GroupedLinear { weights: learned(self.get(role, layer))?, adapter })
    }

    fn adapters_of(&self, role: Role, layer: usize) -> &[Adapter] {
        self.adapters.get(&(role, layer)).map_or(&[], Vec::as_slice)
    }
}
