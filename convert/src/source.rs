//! Where a model comes from, as everything between the door and the file sees it. Recipes, padding, calibration and the
//! writer ask nothing else.

use crate::report::Report;
use crate::tensor::Tensor;
use moewe_engine::gguf::{Gguf, Metadata};
use moewe_engine::model::Model;
use moewe_engine::{Error, Result};
use std::path::Path;

/// A model that can become a GGUF file.
pub(crate) trait Source: Sync {
    /// The metadata of the file, but for what the choice of formats and widths adds.
    fn metadata(&self) -> &Metadata;

    /// Its tensors, in the order of the file.
    fn tensors(&self) -> &[Tensor<'_>];

    /// Puts something in front of its tensors.
    ///
    /// # Errors
    /// That of `change`.
    fn change(&mut self, change: &mut dyn Change) -> Result<()>;

    /// Lets go of memory that reading has filled; what is needed again is read again.
    fn release(&self);

    /// Adds what only the source knows of a conversion that is done.
    fn tell(&self, report: &mut Report);

    /// Looks at the file before it gets its name.
    ///
    /// # Errors
    /// Metadata that the source made up, and with which nothing can run.
    fn accept(&self, _file: &Path) -> Result<()> {
        Ok(())
    }
}

/// Puts rows of its own in front of a tensor's, or leaves it.
pub(crate) trait Change {
    /// The tensor as it is from now on.
    ///
    /// # Errors
    /// It cannot be changed so.
    fn change<'t>(&mut self, tensor: Tensor<'t>) -> Result<Tensor<'t>>;
}

/// Changes each tensor of a list.
pub(crate) fn change_all(tensors: &mut [Tensor<'_>], change: &mut dyn Change) -> Result<()> {
    for tensor in tensors {
        *tensor = change.change(tensor.clone())?;
    }
    Ok(())
}

/// Whether the runtime takes a file: what a source made up may be what nothing runs.
///
/// # Errors
/// It does not; the message says why.
pub(crate) fn accept(file: &Path) -> Result<()> {
    let gguf = Gguf::open(file)?;
    Model::bind(&gguf).map(drop).map_err(|error| {
        let what = format!("this configuration makes a file that cannot run: {error}");
        Error::unsupported(what, "mend config.json")
    })
}
