//! The kernels: one module of steps, and one for each format. A module is compiled by the driver when a model first needs
//! it, and kept by the driver from one start to the next.

use super::device::{Device, Function, Module};
use crate::error::{Error, Result};
use crate::quant::{FORMATS, Format, shape_of};
use std::collections::HashMap;
use std::io::Read;

/// PTX as `build.rs` has packed it.
type Packed = &'static [u8];

macro_rules! packed {
    ($($name:expr),*) => { include_bytes!(concat!(env!("OUT_DIR"), "/", $($name,)* ".ptx.z")) };
}

/// The kernels that know no format.
const STEPS: Packed = packed!("steps");
const ATTENTION: Packed = packed!("attention");
const RECURRENCE: Packed = packed!("recurrence");
const SLOTS: Packed = packed!("slots");

macro_rules! products {
    ($($name:literal),*) => {
        /// By the names of formats: their products, and those joined with other steps.
        const PRODUCTS: &[(&str, [Packed; 2])] =
            &[$(($name, [packed!("products_", $name), packed!("decode_", $name)])),*];
    };
}
products!(
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
    "MXFP4"
);

macro_rules! prompts {
    ($($name:literal),*) => {
        /// Products of many rows, of formats of codes.
        const PROMPTS: &[(&str, Packed)] = &[$(($name, packed!("prompts_", $name))),*];
    };
}
prompts!(
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"
);

/// Names of the kernels of [`STEPS`], [`ATTENTION`], [`RECURRENCE`] and [`SLOTS`].
const OF_STEPS: &[&str] = &[
    "norm_rows",
    "norm_span",
    "copy_span",
    "multiply_span",
    "rope",
    "add",
    "scale",
    "cap",
    "clear",
    "select_rows",
    "activate",
    "activate_slots",
    "weigh_by_sigmoid",
    "add_low_rank",
    "add_low_rank_slots",
    "quantize",
    "route",
    "route_capacity",
    "combine",
    "strand_tops",
    "best",
];
const OF_ATTENTION: &[&str] = &["store", "heads", "attention"];
const OF_RECURRENCE: &[&str] = &["convolve", "scan"];
const OF_SLOTS: &[&str] = &["count_slots", "sort_slots"];

/// What knows no format: modules with the names of their kernels.
const WITHOUT_FORMAT: [(Packed, &[&str]); 4] =
    [(STEPS, OF_STEPS), (ATTENTION, OF_ATTENTION), (RECURRENCE, OF_RECURRENCE), (SLOTS, OF_SLOTS)];

/// The kernels of one format.
pub(super) struct Products {
    /// Rows of an embedding.
    pub(super) embed: Function,
    /// A matrix.
    pub(super) products: Function,
    /// The matrices of chosen experts.
    pub(super) experts: Function,
    /// Matrices side by side, whose inputs every block makes itself; the same for all that follow.
    pub(super) row_products: Function,
    /// A matrix for each piece.
    pub(super) head_products: Function,
    /// Gate, up and activation.
    pub(super) gate_up: Function,
    /// Down, with the sum of the chosen experts.
    pub(super) down: Function,
    /// A router with the choice, of formats of floats.
    pub(super) norm_route: Option<Function>,
    /// Many rows in tiles, of formats of codes.
    pub(super) prompts: Option<Function>,
    _modules: Vec<Module>,
}

/// Kernels that are ready.
pub(super) struct Modules {
    steps: HashMap<&'static str, Function>,
    products: Vec<Option<Products>>, // one per entry of `FORMATS`
    _modules: Vec<Module>,
}

impl Modules {
    /// The steps, and what `formats` need.
    ///
    /// # Errors
    /// When the driver refuses, or a format has no kernels.
    pub(super) fn load(device: &Device, formats: impl Iterator<Item = &'static Format>) -> Result<Self> {
        let (mut modules, mut steps) = (vec![], HashMap::new());
        for (packed, names) in WITHOUT_FORMAT {
            let module = device.module(&unpacked(packed)?)?;
            for name in names {
                steps.insert(*name, module.function(name)?);
            }
            modules.push(module);
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

    /// Whether a format has products of many rows in tiles.
    pub(super) fn have_tiles(&self) -> bool {
        self.products.iter().flatten().any(|products| products.prompts.is_some())
    }

    /// The kernels of a format that was asked for.
    pub(super) fn products(&self, format: &Format) -> &Products {
        self.products[place_of(format)].as_ref().expect("the formats of a model are loaded with it")
    }
}

/// The text of packed PTX.
fn unpacked(packed: Packed) -> Result<String> {
    let mut ptx = String::new();
    let read = flate2::read::ZlibDecoder::new(packed).read_to_string(&mut ptx);
    read.map_err(|error| Error::request(format!("the program is damaged: its kernels for cards: {error}")))?;
    Ok(ptx)
}

fn place_of(format: &Format) -> usize {
    FORMATS.iter().position(|known| known == format).expect("formats come from the table")
}

impl Products {
    fn load(device: &Device, format: &Format) -> Result<Self> {
        let ptx = PRODUCTS.iter().find(|(name, _)| *name == format.name).ok_or_else(|| {
            Error::unsupported(format!("{format} has no kernels for cards"), "compute with --device cpu")
        })?;
        let [products, decode] = ptx.1.map(|packed| device.module(&unpacked(packed)?));
        let (products, decode) = (products?, decode?);
        let of = |module: &Module, name: &str| module.function(&format!("{name}_{}", format.name));
        let norm_route = shape_of(format).is_none().then(|| of(&decode, "norm_route")).transpose()?;
        let many = PROMPTS.iter().find(|(name, _)| *name == format.name);
        let many = many.map(|(_, packed)| device.module(&unpacked(packed)?)).transpose()?;
        let prompts = many.as_ref().map(|module| of(module, "prompt_products")).transpose()?;
        Ok(Self {
            embed: of(&products, "embed")?,
            products: of(&products, "products")?,
            experts: of(&products, "expert_products")?,
            row_products: of(&decode, "row_products")?,
            head_products: of(&decode, "head_products")?,
            gate_up: of(&decode, "gate_up")?,
            down: of(&decode, "down")?,
            norm_route,
            prompts,
            _modules: [products, decode].into_iter().chain(many).collect(),
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
            let of_products: &[_] = &["embed", "products", "expert_products"];
            let of_decode: &[_] = &["row_products", "head_products", "gate_up", "down"];
            let of_floats: &[_] = if shape_of(format).is_none() { &["norm_route"] } else { &[] };
            for (ptx, names) in [(ptx[0], of_products), (ptx[1], of_decode), (ptx[1], of_floats)] {
                let ptx = unpacked(ptx).unwrap();
                for kernel in names {
                    let entry = format!(".entry {kernel}_{}(", format.name);
                    assert!(ptx.contains(&entry), "{kernel} {format}");
                }
            }
        }
        for format in FORMATS {
            let many = PROMPTS.iter().find(|(name, _)| *name == format.name);
            assert_eq!(many.is_some(), shape_of(format).is_some(), "{format}");
            let entry = format!(".entry prompt_products_{}(", format.name);
            assert!(many.is_none_or(|(_, ptx)| unpacked(ptx).unwrap().contains(&entry)), "{format}");
        }
        let without = WITHOUT_FORMAT.iter().map(|(ptx, _)| *ptx);
        let all = PRODUCTS.iter().flat_map(|(_, ptx)| *ptx).chain(without);
        let all = all.chain(PROMPTS.iter().map(|(_, ptx)| *ptx));
        for ptx in all {
            let ptx = unpacked(ptx).unwrap();
            assert!(ptx.starts_with("// moewe kernels") && ptx.contains("\n.version 7.8\n"));
            assert!(ptx.contains(".target sm_80"));
        }
        for (ptx, names) in WITHOUT_FORMAT {
            let ptx = unpacked(ptx).unwrap();
            assert!(names.iter().all(|name| ptx.contains(&format!(".entry {name}("))));
        }
    }
}
