//! Where a model comes from, as everything between the door and the file sees it. Recipes, padding, calibration and the
//! writer ask nothing else.

use crate::report::Report;
use crate::tensor::Tensor;
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use std::path::Path;

/// A model that can become a GGUF file.
pub(crate) trait Source: Sync {
    /// The metadata of the file, but for what the choice of formats and widths adds.
    fn metadata(&self) -> &Metadata;

    /// Its tensors, in the order of the file.
    fn tensors(&self) -> &[Tensor<'_>];

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
