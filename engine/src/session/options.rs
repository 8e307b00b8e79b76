//! How a model is loaded: threads, memory, context, and what is computed differently on a person's wish.

use super::{Measuring, MemoryLimit};
use crate::error::{Error, Result};
use crate::model::{Adapter, Missing};
use crate::os::cores;
use crate::quant::Format;
use crate::simd::Isa;
use std::str::FromStr;

/// What the German MoE GPT's expert capacity does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapacityMode {
    /// Every token reaches its experts; the cache is used.
    #[default]
    Dropless,
    /// As the original: the whole sequence is one batch, recomputed for every token, and experts drop tokens.
    Reference,
}

/// What a model is computed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first card, where there is one that can be used, else the CPU; says why in one line.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// A card, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:1`.
    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => number.map(Self::Cuda).ok_or_else(|| {
                Error::request(format!("no device is called {text:?}; there are auto, cpu, cuda and cuda:N"))
            }),
        }
    }
}

/// How to load a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads of the forward; `None` for one per core this process may use, of fast and slow ones the fast.
    pub threads: Option<usize>,
    /// Instruction set; `None` for the fastest of the machine.
    pub isa: Option<Isa>,
    /// What to compute on.
    pub device: DeviceChoice,
    /// Most memory of a card to take; `None` for most of what is free.
    pub vram: Option<MemoryLimit>,
    /// Who computes experts that are not on a card; the results are the same.
    pub missing: Missing,
    /// Compute with the slow twin instead.
    pub plain: bool,
    /// Most rows per step.
    pub batch: usize,
    /// Whether all rows of a step may want logits: memory is kept for as many.
    pub all_logits: bool,
    /// Most positions of a session; `None` for the model's, lowered to what memory leaves.
    pub context: Option<usize>,
    /// Sequences that share the cache, for which memory is kept as far as there is any; `None` where they come and go
    /// without being counted.
    pub sequences: Option<usize>,
    /// Most memory to take; `None` for most of what is free.
    pub memory: Option<MemoryLimit>,
    /// Format of the cache: F16, Q8_0 or F32.
    pub cache: &'static Format,
    /// Token dropping.
    pub capacity: CapacityMode,
    /// Experts per token; `None` for the model's own number. Others change the output.
    pub experts_used: Option<usize>,
    /// Experts below this share of their token's weight are left out; more than 0 changes the output.
    pub expert_threshold: f32,
    /// Added to the model's matrices.
    pub adapters: Vec<Adapter>,
    /// Experts per token to read before their layer's turn, on a guess, where they do not all fit.
    pub look_ahead: usize,
    /// Nothing but where a benchmark runs.
    pub measuring: Measuring,
}

impl Options {
    /// Threads and instruction set, as wished or as the machine has them.
    pub fn hardware(&self) -> (usize, Isa) {
        (self.threads.unwrap_or_else(cores::fast).clamp(1, 512), self.isa.unwrap_or_else(Isa::detect))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: None,
            isa: None,
            device: DeviceChoice::Cpu,
            vram: None,
            missing: Missing::default(),
            plain: false,
            batch: 512,
            all_logits: false,
            context: None,
            sequences: None,
            memory: None,
            cache: cache_format("f16").expect("f16 is in the table"),
            capacity: CapacityMode::Dropless,
            experts_used: None,
            expert_threshold: 0.0,
            adapters: vec![],
            look_ahead: 0,
            measuring: Measuring::default(),
        }
    }
}

/// A cache format by name.
///
/// # Errors
/// When it is not one of f16, q8_0 and f32.
pub fn cache_format(name: &str) -> Result<&'static Format> {
    let known = ["f16", "q8_0", "f32"].iter().any(|known| known.eq_ignore_ascii_case(name));
    let format = Format::by_name(name).filter(|_| known);
    format.ok_or_else(|| {
        Error::request(format!("no cache format is named {name}; there are f16, q8_0 and f32"))
    })
}
