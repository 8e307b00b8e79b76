//! The inputs of a tensor: all that calibration sees of it.

use crate::tensor::Subject;

/// What a tensor is multiplied with.
pub(crate) struct Inputs<'a> {
    /// GGUF's name of the tensor.
    pub(super) name: &'a str,
    is_head: bool,
    pub(super) experts: usize,
    /// Columns of the model.
    pub(super) columns: usize,
    /// Columns in the file, those beyond the model's zero.
    pub(super) padded_columns: usize,
}

impl<'a> Inputs<'a> {
    pub(crate) fn of(subject: &'a Subject, head: &str) -> Self {
        let (name, padded_columns) = (subject.name.as_str(), subject.columns() as usize);
        let columns = padded_columns - subject.padding as usize;
        Self { name, is_head: name == head, experts: subject.experts(), columns, padded_columns }
    }

    /// The tensor whose inputs are observed: a head that shares the embedding's weights has a name of its own.
    pub(super) fn observed(&self) -> &'a str {
        if self.is_head { "output.weight" } else { self.name }
    }
}
