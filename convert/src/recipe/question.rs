//! What the recipes ask about a tensor and a model, what they answer, and what all of them keep to.

use super::role::{Role, role_of};
use moewe_engine::gguf::Metadata;
use moewe_engine::quant::Format;

/// What is known of a tensor when its format is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// GGUF's name.
    pub name: &'a str,
    /// Lengths of the axes, slowest first.
    pub shape: &'a [u64],
    /// The block format that the source has it in, where its bytes could be kept.
    pub stored: Option<&'static Format>,
    /// That, or the floats in which the source has it: the format that says just as much.
    pub kept: Option<&'static Format>,
    /// Whether [`Self::stored`] is how the model was trained or published.
    pub is_original: bool,
    /// Whether this matrix makes the logits: `output.weight`, or the embedding where there is none.
    pub is_head: bool,
    /// What an error in it costs, where that was measured.
    pub matters: Option<f64>,
}

impl Question<'_> {
    /// How many weights it has.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The format that says all that is known of it, so that more bits would say no more.
    pub(super) fn original(&self) -> Option<&'static Format> {
        self.stored.filter(|_| self.is_original)
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        role_of(self.name, self.is_head)
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What the tensor is written in.
    pub format: &'static Format,
    /// Why it is not what was asked for, where a person may wonder.
    pub because: Option<&'static str>,
}

/// What the rules of mixes ask about a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Layers.
    pub block_count: usize,
    /// Experts of a layer, 0 without.
    pub expert_count: u64,
    /// Query heads per key head.
    pub group: u64,
    /// Whether errors are weighed by the importance of inputs.
    pub has_importance: bool,
}

impl Facts {
    /// Reads them from a model's metadata; what is not there counts as 0.
    pub fn of(metadata: &Metadata, has_importance: bool) -> Self {
        let architecture = metadata.str("general.architecture").ok().flatten().unwrap_or_default();
        let number = |key: &str| metadata.u64(&format!("{architecture}.{key}")).ok().flatten().unwrap_or(0);
        let (heads, heads_kv) = (number("attention.head_count"), number("attention.head_count_kv"));
        Self {
            block_count: number("block_count") as usize,
            expert_count: number("expert_count"),
            group: heads.checked_div(heads_kv).unwrap_or(1),
            has_importance,
        }
    }
}

/// Measures the error that a format makes on a tensor: the mean square of the difference over that of the weights.
pub type Measure<'a> = dyn Fn(usize, &'static Format) -> f64 + Sync + 'a;

pub(super) fn plain(format: &'static Format) -> Choice {
    Choice { format, because: None }
}

/// `aim`, or where its blocks do not divide the rows, what llama.cpp takes instead (tensor_type_fallback), for the
/// sake of equal sizes: the smallest format of at least its precision whose blocks do.
pub(super) fn nearest(question: Question, aim: &'static Format) -> Choice {
    if fits(question, aim) {
        return plain(aim);
    }
    let small = match aim.name {
        "Q2_K" | "Q3_K" | "TQ1_0" | "TQ2_0" => "Q4_0",
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        name if name.starts_with("IQ") => "IQ4_NL",
        _ => "Q8_0",
    };
    let format = [by_name(small), by_name("Q8_0")].into_iter().find(|format| fits(question, format));
    let because = Some("the rows are no multiple of its blocks");
    Choice { format: format.unwrap_or(by_name("F16")), because }
}

/// Matrices are; what is small, added or decisive is not: norms, biases, routers, positions, sinks, what states decay by,
/// the short convolutions before them, what mixes residual streams, and tables.
pub(crate) fn is_quantizable(question: Question) -> bool {
    let Question { name, shape, .. } = question;
    let small = [
        "_norm.weight",
        ".bias",
        "ffn_gate_inp.weight",
        "ffn_gate_inp_shexp.weight",
        "attn_sinks.weight",
        "ssm_a",
        "ssm_d",
        "ssm_conv1d.weight",
        "shortconv.conv.weight",
        "_compressor_ape.weight",
        "hc_attn_fn.weight",
        "hc_ffn_fn.weight",
        "hc_fn.weight",
        "tid2eid.weight",
    ];
    let is_matrix = shape.len() >= 2 && shape.iter().rev().skip(1).any(|&len| len > 1);
    is_matrix && name != "position_embd.weight" && !small.iter().any(|ending| name.ends_with(ending))
}

pub(super) fn fits(question: Question, format: &Format) -> bool {
    question.shape.last().is_some_and(|columns| columns % format.block_len as u64 == 0)
}

/// A format of the table; a name that is not in it is a mistake of this program.
pub(crate) fn by_name(name: &str) -> &'static Format {
    Format::by_name(name).unwrap_or_else(|| panic!("{name} is a format of the table"))
}
