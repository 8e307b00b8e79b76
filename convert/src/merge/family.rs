//! What a merge becomes: the family of its base decides names, metadata and the order of rows. One row of the table is
//! one family of mixtures; where several could be, the first goes.

use super::member::Member;
use super::mixture::{GateMode, Mixture, short};
use crate::hf::Architecture;
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// How the rows of queries and keys stand to those of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// As they are.
    Same,
    /// From neighbouring pairs to half against half.
    ToHalves,
    /// From half against half to neighbouring pairs.
    ToPairs,
}

/// A family of mixtures.
#[derive(Debug)]
pub(super) struct Family {
    /// What mergekit calls it.
    pub(super) name: &'static str,
    /// `general.architecture` of its files.
    pub(super) gguf: &'static str,
    /// That of the dense models it is made of.
    pub(super) dense: &'static str,
    /// Whether there is a shared expert.
    pub(super) shared: bool,
    pub(super) turn: Turn,
    /// Whether queries, keys and values have biases, zeros where the base has none.
    pub(super) biases: bool,
    /// Whether a head stands in the file even where it is the embedding.
    pub(super) head: bool,
    /// Whether the file says how long experts are, and that weights are normalised.
    pub(super) says_all: bool,
    /// What config.json says of a folder; none where no class computes it.
    pub(super) folder: Option<&'static Folder>,
}

/// A family in transformers' words.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) class: &'static str,
    pub(super) model_type: &'static str,
    /// The key that counts experts.
    pub(super) count: &'static str,
    /// Names below `model.layers.{i}.`: router, then gate, up and down of an expert.
    pub(super) router: &'static str,
    pub(super) expert: [&'static str; 3],
}

static MIXTRAL: Folder = Folder {
    class: "MixtralForCausalLM",
    model_type: "mixtral",
    count: "num_local_experts",
    router: "block_sparse_moe.gate.weight",
    expert: [
        "block_sparse_moe.experts.{e}.w1.weight",
        "block_sparse_moe.experts.{e}.w3.weight",
        "block_sparse_moe.experts.{e}.w2.weight",
    ],
};

const USUAL: [&str; 3] = [
    "mlp.experts.{e}.gate_proj.weight",
    "mlp.experts.{e}.up_proj.weight",
    "mlp.experts.{e}.down_proj.weight",
];

static QWEN3: Folder = Folder {
    class: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    count: "num_experts",
    router: "mlp.gate.weight",
    expert: USUAL,
};

static QWEN2: Folder = Folder {
    class: "Qwen2MoeForCausalLM",
    model_type: "qwen2_moe",
    count: "num_experts",
    router: "mlp.gate.weight",
    expert: USUAL,
};

static FAMILIES: &[Family] = &[
    Family {
        name: "mixtral",
        gguf: "llama",
        dense: "llama",
        shared: false,
        turn: Turn::Same,
        biases: false,
        head: false,
        says_all: false,
        folder: Some(&MIXTRAL),
    },
    Family {
        name: "qwen3",
        gguf: "qwen3moe",
        dense: "qwen3",
        shared: false,
        turn: Turn::Same,
        biases: false,
        head: false,
        says_all: true,
        folder: Some(&QWEN3),
    },
    Family {
        name: "qwen",
        gguf: "qwen2moe",
        dense: "qwen2",
        shared: true,
        turn: Turn::Same,
        biases: true,
        head: true,
        says_all: true,
        folder: Some(&QWEN2),
    },
    Family {
        name: "qwen",
        gguf: "qwen2moe",
        dense: "llama",
        shared: true,
        turn: Turn::ToHalves,
        biases: true,
        head: true,
        says_all: true,
        folder: Some(&QWEN2),
    },
    // Mixtral's computation with Qwen 2's biases: no class of transformers has it, GGUF's `llama` has.
    Family {
        name: "qwen",
        gguf: "llama",
        dense: "qwen2",
        shared: false,
        turn: Turn::ToPairs,
        biases: true,
        head: false,
        says_all: false,
        folder: None,
    },
];

/// The family that a mixture with this base is of, and why.
///
/// # Errors
/// There is none; the message names what there is.
pub(super) fn family(mixture: &Mixture, base: &Member) -> Result<(&'static Family, String)> {
    let dense = base.architecture()?;
    dense_only(base)?;
    let wanted = mixture.architecture.as_deref().map(str::to_ascii_lowercase);
    let shared = mixture.shared.first();
    let is_gated = shared.is_none_or(|shared| !shared.positive.is_empty() || is_without_prompts(mixture));
    if !is_gated || wanted.as_deref().is_some_and(|wanted| "deepseek".starts_with(wanted)) {
        return Err(Error::unsupported(
            "mixtures of DeepSeek's kind, with a shared expert that no gate weighs, are not made here",
            "take architecture: qwen and give the shared expert positive_prompts, or leave it out",
        ));
    }
    let fits = |family: &&Family| {
        family.dense == dense
            && family.shared == shared.is_some()
            && wanted.as_deref().is_none_or(|wanted| family.name.starts_with(wanted))
    };
    let shared = if shared.is_some() { "a shared expert" } else { "no shared expert" };
    if let Some(family) = FAMILIES.iter().find(fits) {
        let asked = mixture.architecture.as_ref().map(|asked| format!(", as architecture: {asked} asks"));
        let because = format!("{dense} models with {shared}{}", asked.unwrap_or_default());
        return Ok((family, because));
    }
    let as_what = wanted.map_or(String::new(), |wanted| format!(" as {wanted}"));
    Err(Error::unsupported(
        format!("a {dense} base with {shared} makes no mixture that is known here{as_what}"),
        "llama and mistral models become mixtral, with a shared expert qwen; qwen2 becomes qwen, qwen3 becomes qwen3 without a shared expert",
    ))
}

/// Modes in which a shared expert's gate comes from no prompts.
fn is_without_prompts(mixture: &Mixture) -> bool {
    matches!(mixture.gate_mode, GateMode::Random | GateMode::UniformRandom | GateMode::Text)
}

/// What dense models can become.
const KNOWN: &str = "llama, mistral, qwen2 and qwen3 models can be merged";

/// Refuses a checkpoint of a class that is not converted at all, by its name.
pub(super) fn known(name: &str, config: &Value) -> Result<()> {
    match Architecture::of(config) {
        Ok(_) => return Ok(()),
        Err(Error::Unsupported { .. }) => {}
        Err(broken) => return Err(broken.in_file(Path::new(name))),
    }
    let class = config["architectures"][0].as_str().or(config["model_type"].as_str());
    let what = match class {
        Some(class) => format!("{name} is a {class}, of which no experts are made"),
        None => format!("{name} has a config.json that names no class of models"),
    };
    Err(Error::unsupported(what, KNOWN))
}

/// Refuses models that are no dense ones of the table.
pub(super) fn dense_only(member: &Member) -> Result<()> {
    let architecture = member.architecture()?;
    if let Some(count) = member.number("expert_count")?.filter(|&count| count > 0) {
        return Err(Error::unsupported(
            format!("{} is a mixture of {count} experts already", member.name),
            "experts are made of dense models",
        ));
    }
    if !FAMILIES.iter().any(|family| family.dense == architecture) {
        return Err(Error::unsupported(
            format!("{} is of the architecture {architecture}, of which no experts are made", member.name),
            KNOWN,
        ));
    }
    Ok(())
}

impl Family {
    /// The metadata of the mixture: the base's with its own.
    pub(super) fn metadata(
        &self,
        mixture: &Mixture,
        base: &Member,
        hidden: u64,
        shared: u64,
    ) -> Result<Metadata> {
        let front = format!("{}.", self.dense);
        let mut metadata = Metadata::new();
        for (key, value) in base.metadata().iter() {
            match key.strip_prefix(&front) {
                Some(rest) => metadata.set(format!("{}.{rest}", self.gguf), value.clone()),
                None => metadata.set(key, value.clone()),
            }
        }
        let own = |key: &str| format!("{}.{key}", self.gguf);
        metadata.set("general.architecture", self.gguf);
        metadata.set(own("feed_forward_length"), hidden as u32);
        metadata.set(own("expert_count"), mixture.experts.len() as u32);
        metadata.set(own("expert_used_count"), mixture.experts_per_token as u32);
        if self.says_all {
            metadata.set(own("expert_feed_forward_length"), hidden as u32);
            metadata.set(own("expert_weights_norm"), true);
        }
        if self.shared {
            metadata.set(own("expert_shared_feed_forward_length"), shared as u32);
        }
        for stale in STALE {
            metadata.remove(stale);
        }
        describe(&mut metadata, mixture);
        Ok(metadata)
    }
}

/// What is true of the base only.
const STALE: [&str; 11] = [
    "general.basename",
    "general.finetune",
    "general.size_label",
    "general.description",
    "general.quantized_by",
    "general.url",
    "general.repo_url",
    "general.source.url",
    "general.source.repo_url",
    "moewe.paddings",
    "moewe.weights_without_padding",
];

/// Whose child it is.
fn describe(metadata: &mut Metadata, mixture: &Mixture) {
    let mut names: Vec<String> = Vec::new();
    for origin in mixture.origins() {
        let name = short(&origin.name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    metadata.set("general.base_model.count", names.len() as u32);
    for (i, name) in names.into_iter().enumerate() {
        metadata.set(format!("general.base_model.{i}.name"), name);
    }
    metadata.set("moewe.merge", mixture.told());
}
