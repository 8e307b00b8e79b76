//! What a conversion did: for the person at the terminal, for `--json`, and in part for the file itself.

use serde::Serialize;

/// Told about a conversion while it runs; all of it is optional.
pub trait Progress: Sync {
    /// So many bytes will be written.
    fn begin(&self, _bytes: u64) {}
    /// So many pieces of a calibration text are read, of so many.
    fn read(&self, _done: usize, _all: usize) {}
    /// This tensor comes next.
    fn tensor(&self, _name: &str) {}
    /// So many bytes more are written.
    fn advance(&self, _bytes: u64) {}
}

/// No one listens.
impl Progress for () {}

/// A finished conversion.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// Tensors written.
    pub tensors: usize,
    /// Weights of the model, without the zeros of padding.
    pub weights: u64,
    /// Size of the file.
    pub bytes: u64,
    /// All bits of tensors (the zeros of padding too) over [`Self::weights`]; vocabulary and other metadata not counted.
    pub bits_per_weight: f64,
    /// Hidden widths that were padded with zeros.
    pub paddings: Vec<Padding>,
    /// Tensors that are not in the format that was asked for, apart from norms, biases and routers.
    pub substitutions: Vec<Substitution>,
    /// Every tensor with its format.
    pub plan: Vec<Planned>,
    /// Block formats of a GGUF source that are written in others: what their rounding lost stays lost.
    pub requantized: Vec<String>,
    /// Tensors that are rounded without importance although a file of it was given.
    pub unweighed: Vec<String>,
    /// Tensors with numbers that are none, or that the format cannot hold.
    pub suspicious: Vec<Suspicious>,
    /// Experts that calibration had too little text for.
    pub fallbacks: Vec<Fallback>,
    /// Tensors of the source that hold nothing to convert.
    pub dropped: Vec<String>,
    /// What is odd about the source and was decided: files that were not read, keys that nothing knows. A line each.
    pub remarks: Vec<String>,
}

/// A hidden width that was widened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Padding {
    /// The key that holds it, e.g. `llama.feed_forward_length`.
    pub key: String,
    /// Hidden units of the source.
    pub from: u64,
    /// Hidden units in the file, those beyond `from` zero.
    pub to: u64,
}

impl std::fmt::Display for Padding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} padded to {} with zeros", self.key, self.from, self.to)
    }
}

/// A tensor and what it is written in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planned {
    /// GGUF's name.
    pub tensor: String,
    /// What it is written in.
    pub format: &'static str,
    /// Its size in the file.
    pub bytes: u64,
}

/// A tensor in another format than was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Substitution {
    /// GGUF's name.
    pub tensor: String,
    /// What was asked for.
    pub wanted: String,
    /// What it is.
    pub used: String,
    /// Why.
    pub because: String,
}

impl std::fmt::Display for Substitution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, wanted, used, because } = self;
        write!(f, "{tensor}: {used} instead of {wanted} ({because})")
    }
}

/// A tensor with weights that no model should have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspicious {
    /// GGUF's name.
    pub tensor: String,
    /// Weights that are NaN or infinite in the source.
    pub not_finite: u64,
    /// Finite weights beyond 65504, where F16 ends, in a format that holds no more (or scales of no more), and weights
    /// of blocks whose bits were to be kept, but whose scale F16 does not hold exactly.
    pub out_of_range: u64,
}

/// An expert whose errors were weighed by importance only, because too few tokens of the text reached it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fallback {
    /// GGUF's name.
    pub tensor: String,
    /// Which of its experts.
    pub expert: usize,
    /// Tokens that did.
    pub rows: usize,
}
