//! The kernels: one module of steps, and one for each format. A module is compiled by the driver when a model first needs
//! it, and kept by the driver from one start to the next.

use super::device::{Device, Function, Module};
use crate::error::{Error, Result};
use crate::quant::{FORMATS, Format};
use std::collections::HashMap;

/// The kernels that know no format.
const STEPS: &str = include_str!("ptx/steps.ptx");
const ATTENTION: &str = include_str!("ptx/attention.ptx");

macro_rules! products {
    ($($name:literal),*) => {
        /// By the names of formats.
        const PRODUCTS: &[(&str, &str)] = &[$(($name, include_str!(concat!("ptx/products_", $name, ".ptx")))),*];
    };
}
products!(
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
    "MXFP4"
);

/// Names of the kernels of [`STEPS`] and [`ATTENTION`].
const OF_STEPS: &[&str] = &[
    "norm_rows",
    "norm_span",
    "copy_span",
    "rope",
    "add",
    "scale",
    "clear",
    "select_rows",
    "activate",
    "activate_slots",
    "weigh_by_sigmoid",
    "quantize",
    "route",
    "route_capacity",
    "combine",
    "strand_tops",
    "best",
];
const OF_ATTENTION: &[&str] = &["store", "attention"];

/// The kernels of one format.
pub(super) struct Products {
    /// Rows of an embedding.
    pub(super) embed: Function,
    /// A matrix.
    pub(super) products: Function,
    /// The matrices of chosen experts.
    pub(super) experts: Function,
    _module: Module,
}

/// Kernels that are ready.
pub(super) struct Modules {
    steps: HashMap<&'static str, Function>,
    products: Vec<Option<Products>>, // one per entry of `FORMATS`
    _modules: [Module; 2],
}

impl Modules {
    /// The steps, and what `formats` need.
    ///
    /// # Errors
    /// When the driver refuses, or a format has no kernels.
    pub(super) fn load(device: &Device, formats: impl Iterator<Item = &'static Format>) -> Result<Self> {
        let modules = [device.module(STEPS)?, device.module(ATTENTION)?];
        let mut steps = HashMap::new();
        for (module, names) in modules.iter().zip([OF_STEPS, OF_ATTENTION]) {
            for name in names {
                steps.insert(*name, module.function(name)?);
            }
        }
        let mut products: Vec<Option<Products>> = FORMATS.iter().map(|_| None).collect();
        for format in formats {
            let place = place_of(format);
            if products[place].is_none() {
                products[place] = Some(Products::load(device, format)?);
            }
        }
        Ok(Self { steps, products, _modules: modules })
    }

    /// A step's kernel.
    pub(super) fn step(&self, name: &str) -> &Function {
        &self.steps[name]
    }

    /// The kernels of a format that was asked for.
    pub(super) fn products(&self, format: &Format) -> &Products {
        self.products[place_of(format)].as_ref().expect("the formats of a model are loaded with it")
    }
}

fn place_of(format: &Format) -> usize {
    FORMATS.iter().position(|known| known == format).expect("formats come from the table")
}

impl Products {
    fn load(device: &Device, format: &Format) -> Result<Self> {
        let ptx = PRODUCTS.iter().find(|(name, _)| *name == format.name).ok_or_else(|| {
            Error::unsupported(format!("{format} has no kernels for cards"), "compute with --device cpu")
        })?;
        let module = device.module(ptx.1)?;
        let function = |name: &str| module.function(&format!("{name}_{}", format.name));
        Ok(Self {
            embed: function("embed")?,
            products: function("products")?,
            experts: function("expert_products")?,
            _module: module,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_kernels_that_a_driver_of_2022_takes() {
        for format in FORMATS {
            let (_, ptx) = PRODUCTS.iter().find(|(name, _)| *name == format.name).expect(format.name);
            for kernel in ["embed", "products", "expert_products"] {
                assert!(ptx.contains(&format!(".entry {kernel}_{}(", format.name)), "{kernel} {format}");
            }
        }
        let all = PRODUCTS.iter().map(|(_, ptx)| *ptx).chain([STEPS, ATTENTION]);
        for ptx in all {
            assert!(ptx.starts_with("// moewe kernels") && ptx.contains("\n.version 7.8\n"));
            assert!(ptx.contains(".target sm_80"));
        }
        for (ptx, names) in [(STEPS, OF_STEPS), (ATTENTION, OF_ATTENTION)] {
            assert!(names.iter().all(|name| ptx.contains(&format!(".entry {name}("))));
        }
    }
}
