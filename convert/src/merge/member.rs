//! The models that a merge is made of, opened once each, and what can be asked of them by GGUF's names.

use super::mixture::{Mixture, Origin};
use crate::open::Opened;
use crate::options::Options;
use crate::source::Source;
use crate::tensor::Tensor;
use moewe_engine::gguf::Metadata;
use moewe_engine::tokenizer::Tokenizer;
use moewe_engine::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Files of all sources, each opened once.
pub(super) struct Files(HashMap<PathBuf, Opened>);

impl Files {
    pub(super) fn open(mixture: &Mixture) -> Result<Self> {
        let mut files = HashMap::new();
        for origin in mixture.origins() {
            if !files.contains_key(&origin.path) {
                files.insert(origin.path.clone(), Opened::new(&origin.path)?);
            }
        }
        Ok(Self(files))
    }

    pub(super) fn get(&self, path: &Path) -> &Opened {
        &self.0[path]
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }
}

/// A source of a merge.
pub(super) struct Member<'o> {
    pub(super) name: String,
    pub(super) source: Box<dyn Source + 'o>,
    places: HashMap<String, usize>,
}

/// All members; a model with an adapter is another one than without.
pub(super) struct Members<'o>(Vec<(Origin, Member<'o>)>);

impl<'o> Members<'o> {
    pub(super) fn of(files: &'o Files, mixture: &Mixture, options: &Options) -> Result<Self> {
        let mut members = Self(vec![]);
        for origin in mixture.origins() {
            if members.find(origin).is_none() {
                let member = Member::new(origin, files.get(&origin.path), options);
                members.0.push((origin.clone(), member.map_err(|e| e.in_file(&origin.path))?));
            }
        }
        Ok(members)
    }

    fn find(&self, origin: &Origin) -> Option<&Member<'o>> {
        let same = |known: &Origin| (&known.path, &known.adapters) == (&origin.path, &origin.adapters);
        self.0.iter().find(|(known, _)| same(known)).map(|(_, member)| member)
    }

    /// # Panics
    /// When the mixture does not name it.
    pub(super) fn get(&self, origin: &Origin) -> &Member<'o> {
        self.find(origin).expect("a source of the mixture")
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Member<'o>> {
        self.0.iter().map(|(_, member)| member)
    }
}

impl<'o> Member<'o> {
    pub(super) fn new(origin: &Origin, opened: &'o Opened, options: &Options) -> Result<Self> {
        let options = Options { adapters: origin.adapters.clone(), ..options.clone() };
        let source = opened.source(&options)?;
        let names = source.tensors().iter().enumerate();
        let places = names.map(|(i, tensor)| (tensor.subject.name.clone(), i)).collect();
        Ok(Self { name: origin.name.clone(), places, source })
    }

    pub(super) fn metadata(&self) -> &Metadata {
        self.source.metadata()
    }

    pub(super) fn architecture(&self) -> Result<&str> {
        self.metadata().require_str("general.architecture")
    }

    /// A number of the architecture.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.metadata().u64(&format!("{}.{key}", self.architecture()?))
    }

    /// A number that every model has.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn length(&self, key: &str) -> Result<u64> {
        let missing = || Error::malformed(format!("key {key} of {}", self.name), "a number", "none");
        self.number(key)?.ok_or_else(missing)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Tensor<'_>> {
        self.places.get(name).map(|&i| &self.source.tensors()[i])
    }

    /// A tensor that has to be there.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor<'_>> {
        let missing = || Error::malformed(format!("tensors of {}", self.name), name.to_owned(), "none");
        self.find(name).ok_or_else(missing)
    }

    /// The tokenizer that comes with it.
    ///
    /// # Errors
    /// There is none, or it is broken.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let none = format!("{} has no tokenizer, so its gates cannot be made of words", self.name);
        let hint = "put tokenizer.json beside it, or take gate_mode random or uniform_random";
        Tokenizer::from_metadata(self.metadata())?.ok_or_else(|| Error::unsupported(none, hint))
    }
}
