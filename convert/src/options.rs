//! What a person may ask of a conversion.

use crate::adapter::Named;
use crate::recipe::{Override, Recipe};
use crate::report::Progress;
use moewe_engine::eval::Importance;
use moewe_engine::quant::Format;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How to convert.
#[derive(Clone, Debug)]
pub struct Options {
    /// How formats are chosen.
    pub recipe: Recipe,
    /// Tensors with a format of their own, the first pattern that fits.
    pub overrides: Vec<Override>,
    /// When hidden widths are padded.
    pub pad: Pad,
    /// How large the inputs of matrices are.
    pub importance: Option<Arc<Importance>>,
    /// Whether importance may be that of another model as far as it fits, or of some tensors only.
    pub allow_partial: bool,
    /// A text to calibrate with.
    pub calibrate: Option<Text>,
    /// Whether weights may be NaN or infinite; they are written as zeros and as the largest weights of their blocks.
    pub allow_nan: bool,
    /// Whether tokens beyond the embedding get rows, the mean of all others.
    pub add_vocabulary_rows: bool,
    /// Adapters to merge into the source.
    pub adapters: Vec<Named>,
    /// Only plan: the report says what would be written.
    pub dry_run: bool,
    /// Whether an existing file may be replaced.
    pub force: bool,
    /// Set by anyone to stop; nothing is left behind.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    /// A format for all matrices, and nothing is overwritten.
    pub fn new(format: &'static Format) -> Self {
        Self::with(Recipe::Uniform(format))
    }

    /// A recipe, and nothing is overwritten.
    pub fn with(recipe: Recipe) -> Self {
        Self {
            recipe,
            overrides: vec![],
            pad: Pad::default(),
            importance: None,
            allow_partial: false,
            calibrate: None,
            allow_nan: false,
            add_vocabulary_rows: false,
            adapters: vec![],
            dry_run: false,
            force: false,
            stop: Arc::default(),
        }
    }

    /// Whether someone wants it to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells `progress` how far a text is read, and whoever reads it whether to go on.
    pub(crate) fn heard(&self, progress: &dyn Progress) -> impl FnMut(usize, usize) -> bool {
        move |done, all| {
            progress.read(done, all);
            !self.is_stopped()
        }
    }
}

/// When hidden widths are padded with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pad {
    /// Where it pays.
    #[default]
    Auto,
    /// To a multiple of 256 wherever it is exact.
    Always,
    /// Not at all.
    Never,
}

/// A text to calibrate with.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its contents.
    pub text: String,
    /// Tokens that are computed together.
    pub context: usize,
}
