//! Which format each tensor gets. The one question that quantization is about stands in this room alone: one format for
//! all (`uniform`), the named mixes of llama.cpp (`mixes`), or the best that a budget of bits allows (`budget`).

mod budget;
mod keep;
mod mixes;
mod question;
mod role;
mod uniform;

pub use budget::limit_of;
pub(crate) use budget::noise;
pub use mixes::{MIXES, Mix};
pub use question::{Choice, Facts, Measure, Question};
pub(crate) use question::{by_name, is_quantizable};
pub use role::{Role, role_of};

use moewe_engine::gguf::TensorName;
use moewe_engine::quant::{FORMATS, Format, INDICES};
use moewe_engine::{Error, Result};
use question::{nearest, plain};
use regex::Regex;
use std::collections::HashSet;

/// How formats are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Recipe {
    /// One format.
    Uniform(&'static Format),
    /// A named mix of llama.cpp.
    Mix(&'static Mix),
    /// At most so many bits per weight, all tensors together.
    Bits(f64),
    /// Blocks or floats, as the source has them.
    Keep,
}

/// Tensors that are to have a certain format, by a pattern in their names.
#[derive(Clone, Debug)]
pub struct Override {
    /// What a name must contain.
    pub pattern: Regex,
    /// What such a tensor is written in.
    pub format: &'static Format,
}

impl Override {
    /// Whether it gives this tensor its format. No block format is for norms and the like: other programs refuse such
    /// files, and a pattern such as `attn` means the matrices.
    fn is_for(&self, question: Question) -> bool {
        let suits = self.format.block_len == 1 || is_quantizable(question);
        suits && self.pattern.is_match(question.name)
    }
}

impl Recipe {
    /// A recipe by what a person calls it: a mix of llama.cpp or a format.
    ///
    /// # Errors
    /// There is neither, or only readers of it.
    pub fn by_name(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case("keep") {
            return Ok(Self::Keep);
        }
        if let Some(mix) = MIXES.iter().find(|mix| mix.is_called(name)) {
            return Ok(Self::Mix(mix));
        }
        match Format::by_name(name) {
            Some(format) if format.quantize.is_some() => Ok(Self::Uniform(format)),
            Some(format) => Err(not_written(format)),
            None => {
                let mixes: Vec<&str> = MIXES.iter().map(|mix| mix.name).collect();
                let message = format!(
                    "no format is called {name}; there are keep, {}, {}",
                    mixes.join(", "),
                    written()
                );
                Err(Error::request(message))
            }
        }
    }

    /// A format for every tensor. `measure` is only called where formats have to be weighed.
    ///
    /// # Errors
    /// A format that can be read but not written.
    pub fn choose(
        &self,
        questions: &[Question],
        facts: &Facts,
        overrides: &[Override],
        measure: &Measure,
    ) -> Result<Vec<Choice>> {
        let fixed: Vec<Option<Choice>> = questions
            .iter()
            .map(|q| indices(*q).or_else(|| overridden(*q, overrides)).or_else(|| self.at_least(*q)))
            .collect();
        let mut choices = match self {
            Self::Uniform(format) => {
                questions.iter().map(|question| uniform::choose(*question, format)).collect()
            }
            Self::Mix(mix) => mix.choose(questions, facts),
            Self::Bits(bits) => budget::choose(questions, *bits, &fixed, measure),
            Self::Keep => keep::choose(questions, &fixed)?,
        };
        for (choice, fixed) in choices.iter_mut().zip(fixed) {
            *choice = fixed.unwrap_or(*choice);
        }
        for (question, choice) in questions.iter().zip(&choices) {
            if choice.format.quantize.is_none() && question.stored != Some(choice.format) {
                return Err(not_written(choice.format));
            }
        }
        Ok(choices)
    }

    /// Eight bits for matrices that are small and decide what a state or a compressed position takes in, or which positions
    /// are looked at, where it would be fewer.
    fn at_least(&self, question: Question) -> Option<Choice> {
        const DELICATE: [&str; 6] = [
            "ssm_alpha.weight",
            "ssm_beta.weight",
            "ssm_ba.weight",
            "_compressor_gate.weight",
            "_compressor_kv.weight",
            "indexer.proj.weight",
        ];
        let eight = by_name("Q8_0");
        let is_coarse = match self {
            Self::Uniform(format) => format.bits_per_weight() < eight.bits_per_weight(),
            Self::Mix(mix) => by_name(mix.base).bits_per_weight() < eight.bits_per_weight(),
            Self::Bits(_) => true,
            Self::Keep => false,
        };
        let is_delicate = DELICATE.iter().any(|end| question.name.ends_with(end)) && is_quantizable(question);
        let choice = (is_coarse && is_delicate).then(|| nearest(question, eight))?;
        // Mixes and budgets choose tensor by tensor anyway; one format for all is a wish.
        let why = matches!(self, Self::Uniform(_)).then_some("it is small and decides what is remembered");
        Some(Choice { because: choice.because.or(why), ..choice })
    }

    /// `general.file_type`: llama.cpp's number (enum llama_ftype) of the mix, or of the commonest format.
    pub(crate) fn file_type(&self, choices: &[(u64, &Format)]) -> Option<u32> {
        match self {
            Self::Mix(mix) => Some(mix.file_type),
            Self::Uniform(format) => file_type(format),
            Self::Bits(_) | Self::Keep => {
                let weights = |format: &Format| -> u64 {
                    choices.iter().filter(|(_, other)| *other == format).map(|(weights, _)| weights).sum()
                };
                choices
                    .iter()
                    .map(|(_, format)| *format)
                    .max_by_key(|format| weights(format))
                    .and_then(file_type)
            }
        }
    }
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Uniform(format) => f.write_str(format.name),
            Self::Mix(mix) => f.write_str(mix.name),
            Self::Bits(bits) => write!(f, "{bits} bits"),
            Self::Keep => f.write_str("keep"),
        }
    }
}

/// Tables of whole numbers stay what they are.
fn indices(question: Question) -> Option<Choice> {
    question.stored.filter(|stored| **stored == INDICES).map(plain)
}

fn overridden(question: Question, overrides: &[Override]) -> Option<Choice> {
    let found = overrides.iter().find(|over| over.is_for(question))?;
    let floats = found.format.block_len == 1;
    Some(if floats { plain(found.format) } else { nearest(question, found.format) })
}

/// Every pattern has to give some tensor its format; one that does not is a typing error.
///
/// # Errors
/// Names the first such pattern.
pub(crate) fn check_patterns(questions: &[Question], overrides: &[Override]) -> Result<()> {
    let first = |question: &Question| overrides.iter().position(|over| over.is_for(*question));
    let used: HashSet<usize> = questions.iter().filter_map(first).collect();
    let Some(idle) = (0..overrides.len()).find(|i| !used.contains(i)) else { return Ok(()) };
    let over = &overrides[idle];
    let why = match () {
        () if questions.iter().any(|question| over.is_for(*question)) => {
            "patterns before it give all of its tensors another format; put it first".to_owned()
        }
        () if questions.iter().any(|question| over.pattern.is_match(question.name)) => {
            "it fits norms, biases or routers only, which are not quantized".to_owned()
        }
        () => {
            let example = questions
                .iter()
                .find(|question| is_quantizable(**question) && TensorName::of(question.name).layer.is_some());
            let example = example.map_or("token_embd.weight", |question| question.name);
            format!(
                "no tensor has such a name; names are like {example}, and `moewe inspect` or --dry-run lists them"
            )
        }
    };
    Err(Error::request(format!("--tensor {}: {why}", over.pattern)))
}

fn not_written(format: &Format) -> Error {
    let what = format!("{format} can be read but not written");
    Error::unsupported(what, format!("formats to write are {}", written()))
}

fn written() -> String {
    let names = FORMATS.iter().filter(|format| format.quantize.is_some()).map(|format| format.name);
    names.collect::<Vec<_>>().join(", ")
}

fn file_type(format: &Format) -> Option<u32> {
    match format.name {
        "F32" => Some(0),
        "F16" => Some(1),
        "BF16" => Some(32),
        name => MIXES.iter().find(|mix| mix.base == name).map(|mix| mix.file_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one format for all, the mixes and a budget make of a tensor; a bit more is a quarter of the error.
    fn formats(name: &str, shape: &[u64]) -> Vec<&'static str> {
        let question = Question {
            name,
            shape,
            stored: None,
            kept: None,
            is_original: false,
            is_head: false,
            matters: None,
        };
        let names = ["F16", "Q8_0", "Q4_0", "Q4_K_M", "IQ2_XXS", "Q8_0"];
        let recipes = names.iter().enumerate().map(|(i, name)| match i {
            0..3 => Recipe::Uniform(by_name(name)),
            _ => Recipe::by_name(name).unwrap(),
        });
        let facts = Facts { block_count: 4, expert_count: 8, group: 2, has_importance: true };
        let choose = |recipe: Recipe| {
            let error = |_, format: &'static Format| 0.25f64.powf(format.bits_per_weight());
            recipe.choose(&[question], &facts, &[], &error).unwrap()[0].format.name
        };
        recipes.chain([Recipe::Bits(2.9)]).map(choose).collect()
    }

    #[test]
    fn what_states_live_by_keeps_its_bits() {
        // Neither short convolutions nor vectors, lying or standing, are quantized, whatever is asked for.
        for (name, shape) in [
            ("blk.0.ssm_a", &[8u64, 1][..]),
            ("blk.0.ssm_a", &[8]),
            ("blk.0.ssm_d", &[8, 1]),
            ("blk.0.ssm_dt.bias", &[8]),
            ("blk.0.ssm_conv1d.weight", &[256, 32]),
            ("blk.0.ssm_conv1d.bias", &[256]),
            ("blk.0.shortconv.conv.weight", &[256, 32]),
            ("blk.0.ssm_norm.weight", &[2, 256]),
            ("blk.0.ffn_gate_inp.weight", &[8, 256]),
            ("blk.0.ffn_gate_inp.scale", &[256]),
            ("blk.0.ffn_gate_inp_shexp.weight", &[1, 256]),
            ("blk.0.ffn_down_exps.scale", &[8]),
            ("blk.0.layer_output_scale.weight", &[1]),
            ("token_embd_norm.weight", &[256]),
            ("rope_freqs.weight", &[16]),
        ] {
            assert_eq!(formats(name, shape), ["F32"; 7], "{name} {shape:?}");
        }
        // Small matrices that decide about states have eight bits at least.
        for name in ["blk.0.ssm_alpha.weight", "blk.0.ssm_beta.weight", "blk.0.ssm_ba.weight"] {
            let found = formats(name, &[32, 256]);
            assert_eq!(found, ["F16", "Q8_0", "Q8_0", "Q8_0", "Q8_0", "Q8_0", "Q8_0"], "{name}");
            assert_eq!(formats(name, &[32, 48])[2..4], ["F16", "F16"], "{name}");
        }
        // The large ones are quantized as those of attention.
        for name in ["ssm_in", "ssm_out", "attn_gate", "shortconv.in_proj", "shortconv.out_proj"] {
            let found = formats(&format!("blk.0.{name}.weight"), &[256, 256]);
            assert_eq!(found[..6], ["F16", "Q8_0", "Q4_0", "Q4_K", "IQ2_XXS", "Q8_0"], "{name}");
            assert!(by_name(found[6]).bits_per_weight() < 3.0, "{name} {}", found[6]);
        }
    }
}
