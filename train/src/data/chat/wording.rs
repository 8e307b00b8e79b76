//! How a model wants conversations worded: its tokenizer, and the template that it is given or brings along.

use super::example::Example;
use super::mask::{Masked, mask};
use super::template::{self, Markers, Template};
use super::vocabulary::Vocabulary;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What turns examples into tokens.
pub struct Wording {
    vocabulary: Vocabulary,
    template: Option<Template>,
    folder: PathBuf,
}

impl Wording {
    /// Reads the tokenizer in `folder`, and its chat template unless another one is `given`: the name of a built-in one,
    /// or a file. A model without a template still learns texts.
    ///
    /// # Errors
    /// Files that are missing or broken, and markers of the given template that are no tokens, as `markers` says.
    pub fn open(folder: &Path, given: Option<&str>, markers: Markers) -> Result<Self> {
        let mut vocabulary = Vocabulary::open(folder)?;
        let template = Template::find(folder, given, &mut vocabulary, markers)?;
        Ok(Self { vocabulary, template, folder: folder.to_owned() })
    }

    /// The tokenizer, with the tokens that were appended for the template.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What the template is called: the file that holds it, or the name of a built-in one.
    pub fn template_name(&self) -> Option<&str> {
        self.template.as_ref().map(Template::name)
    }

    /// The template's words: they belong beside a model that was trained with it.
    pub fn template_source(&self) -> Option<&str> {
        self.template.as_ref().map(Template::source)
    }

    /// Whether the template says itself, with `generation` blocks, what is trained.
    pub fn has_blocks(&self) -> bool {
        self.template.as_ref().is_some_and(Template::has_blocks)
    }

    /// The error where conversations find no template.
    pub(super) fn check_template(&self) -> Result<(), Error> {
        if self.template.is_some() { Ok(()) } else { Err(template::none(&self.folder)) }
    }

    pub(super) fn mask(&self, example: &Example) -> Result<Masked> {
        mask(example, &self.vocabulary, self.template.as_ref())
    }
}
