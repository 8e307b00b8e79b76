//! Finds the tensors of a checkpoint under the names that the tables use, whatever a wrapper put in front of them:
//! models with several towers, the bare model without its head, adapters' and trainers' shells.

use crate::checkpoint::{Checkpoint, Tensor};
use moewe_engine::{Error, Result};

/// What the tables' names of a decoder begin with.
const USUAL: &str = "model.";
/// The tensors that tell how a checkpoint's names begin; the second is Nemotron's.
const ANCHORS: [&str; 2] = ["embed_tokens.weight", "embeddings.weight"];

/// A checkpoint's way of naming.
#[derive(Debug)]
pub(super) struct Names<'c> {
    checkpoint: &'c Checkpoint,
    prefix: Option<String>, // in the place of `model.`
}

impl<'c> Names<'c> {
    /// Looks at how names begin.
    ///
    /// # Errors
    /// An adapter's tensors, which change a model that is not here.
    pub(super) fn of(checkpoint: &'c Checkpoint) -> Result<Self> {
        let tensors = checkpoint.tensors();
        if let Some(adapter) = tensors.iter().find(|tensor| is_adapter(&tensor.name)) {
            return Err(Error::unsupported(
                format!("tensor {} belongs to an adapter", adapter.name),
                "merge it into its base first (PEFT: merge_and_unload, then save_pretrained)",
            ));
        }
        let prefixes = |anchor: &'static str| {
            tensors.iter().filter_map(move |tensor| {
                let prefix = tensor.name.strip_suffix(anchor)?;
                (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
            })
        };
        let anchor = ANCHORS.into_iter().find(|anchor| prefixes(anchor).next().is_some());
        let is_usual = anchor.is_none_or(|anchor| checkpoint.get(&format!("{USUAL}{anchor}")).is_some());
        let mut others = anchor.into_iter().flat_map(prefixes);
        let prefix = match (is_usual, others.next(), others.next()) {
            (false, Some(prefix), None) => Some(prefix.to_owned()),
            _ => None,
        };
        Ok(Self { checkpoint, prefix })
    }

    /// A tensor by the name that the tables use.
    pub(super) fn find(&self, name: &str) -> Option<&'c Tensor> {
        let Some(prefix) = &self.prefix else { return self.checkpoint.get(name) };
        if let Some(rest) = name.strip_prefix(USUAL) {
            return self.checkpoint.get(&format!("{prefix}{rest}"));
        }
        // The head stands beside the decoder, within whatever is around both.
        self.checkpoint.get(&format!("{}{name}", self.around())).or_else(|| self.checkpoint.get(name))
    }

    /// What the tables would call a tensor of the checkpoint.
    pub(super) fn usual(&self, name: &str) -> String {
        let Some(prefix) = &self.prefix else { return name.to_owned() };
        let inner = name.strip_prefix(prefix.as_str()).map(|rest| format!("{USUAL}{rest}"));
        inner
            .or_else(|| Some(name.strip_prefix(self.around())?.to_owned()))
            .unwrap_or_else(|| name.to_owned())
    }

    /// What stands around decoder and head.
    fn around(&self) -> &str {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let ends = ["model.language_model.", USUAL];
        ends.iter().find_map(|end| prefix.strip_suffix(end)).unwrap_or_default()
    }

    /// What to say about names that begin in a way of their own.
    pub(super) fn remark(&self) -> Option<String> {
        const KNOWN: [&str; 3] = ["language_model.model.", "model.language_model.", "backbone."];
        let prefix = self.prefix.as_ref().filter(|prefix| !KNOWN.contains(&prefix.as_str()))?;
        Some(format!("names of tensors begin with {prefix:?} where \"{USUAL}\" is usual"))
    }
}

fn is_adapter(name: &str) -> bool {
    ["lora_A", "lora_B", "lora_embedding_", "lora_magnitude_vector"].iter().any(|part| name.contains(part))
}
