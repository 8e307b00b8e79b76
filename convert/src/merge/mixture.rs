//! What a person wants to merge: the keys of mergekit's MoE files and our own, and what can be refused from them alone.

use crate::adapter::Named;
use moewe_engine::quant::Format;
use moewe_engine::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One model of several experts, made of dense ones.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// Gives all but the experts. Of several, attention is the weighted mean, and the first gives the rest.
    pub base: Vec<(Origin, f64)>,
    /// The experts in their order.
    pub experts: Vec<Expert>,
    /// Experts that every token uses: none or one.
    pub shared: Vec<Expert>,
    /// Experts that a token uses.
    pub experts_per_token: usize,
    /// What the router is made of.
    pub gate_mode: GateMode,
    /// What a folder is written in; that of the base unless it says so.
    pub dtype: Option<&'static Format>,
    /// The family that is wanted, as mergekit calls it.
    pub architecture: Option<String>,
    /// Of all random numbers.
    pub seed: u64,
}

/// A model that something is taken from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// What the person calls it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is added to it.
    pub adapters: Vec<Named>,
}

impl Origin {
    /// What `SOURCE` or `SOURCE+ADAPTER` means, as mergekit writes it; further adapters may follow.
    ///
    /// # Errors
    /// There is no such model, or no such adapter.
    pub fn of(name: &str, places: &dyn Places) -> Result<Self> {
        let whole = places.model(name);
        let parts = name.rsplit_once('+').filter(|_| whole.is_err());
        let Some((source, adapter)) = parts else {
            return Ok(Self { name: name.to_owned(), path: whole?, adapters: vec![] });
        };
        let mut origin = Self::of(source, places)?;
        origin.adapters.push(Named { path: places.model(adapter)?, scale: 1.0 });
        Ok(Self { name: name.to_owned(), ..origin })
    }
}

/// An expert.
#[derive(Clone, Debug)]
pub struct Expert {
    /// The dense model whose feed-forward networks it has.
    pub source: Origin,
    /// What it is for.
    pub positive: Vec<String>,
    /// What it is not for.
    pub negative: Vec<String>,
    /// Normal noise on all matrices, by this factor.
    pub noise_scale: Option<f64>,
    /// A factor of its output.
    pub residual_scale: Option<f64>,
    /// Texts that are its business.
    pub texts: Vec<PathBuf>,
}

/// What the rows of a router are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateMode {
    /// The residual stream before a layer, at the last token of each prompt.
    #[serde(alias = "hidden_last")]
    Hidden,
    /// The same, the mean over all tokens.
    HiddenAvg,
    /// The embeddings of the prompts' tokens.
    CheapEmbed,
    /// Normal numbers.
    Random,
    /// Small uniform numbers, with which training begins well.
    UniformRandom,
    /// What a router will see of the prompts: the norm's output before the feed-forward network.
    Router,
    /// Least squares over what a router will see of each expert's texts.
    Text,
}

impl GateMode {
    /// Whether it needs prompts.
    pub fn wants_prompts(self) -> bool {
        matches!(self, Self::Hidden | Self::HiddenAvg | Self::CheapEmbed | Self::Router)
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::HiddenAvg => "hidden_avg",
            Self::CheapEmbed => "cheap_embed",
            Self::Random => "random",
            Self::UniformRandom => "uniform_random",
            Self::Router => "router",
            Self::Text => "text",
        }
    }
}

/// The file as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    base_model: Base,
    experts: Vec<FileExpert>,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts_per_token: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate_mode: Option<GateMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_experts: Option<Vec<FileExpert>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "base_model: expected the name of a model, or a list of {source: NAME, weight: NUMBER}"
)]
enum Base {
    One(String),
    Mean(Vec<Part>),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Part {
    source: String,
    weight: f64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileExpert {
    source_model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    positive_prompts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_prompts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    residual_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<PathBuf>>,
}

/// From what a file calls a model or a text to its place.
pub trait Places {
    /// A model.
    ///
    /// # Errors
    /// There is none of this name.
    fn model(&self, name: &str) -> Result<PathBuf>;
    /// A text.
    fn text(&self, path: PathBuf) -> PathBuf;
}

impl Mixture {
    /// Reads mergekit's YAML.
    ///
    /// # Errors
    /// No YAML, keys that nothing knows, values that cannot be, models that are not there.
    pub fn from_yaml(words: &str, places: &dyn Places) -> Result<Self> {
        let file = file_of(words)?;
        let dtype = file.dtype.as_deref().map(dtype).transpose()?;
        let origin = |name: String| Origin::of(&name, places);
        let base = match file.base_model {
            Base::One(name) => vec![(origin(name)?, 1.0)],
            Base::Mean(parts) => parts
                .into_iter()
                .map(|part| Ok((origin(part.source)?, part.weight)))
                .collect::<Result<_>>()?,
        };
        let expert = |file: FileExpert| {
            Ok(Expert {
                source: origin(file.source_model)?,
                positive: file.positive_prompts.unwrap_or_default(),
                negative: file.negative_prompts.unwrap_or_default(),
                noise_scale: file.noise_scale,
                residual_scale: file.residual_scale,
                texts: file.texts.unwrap_or_default().into_iter().map(|path| places.text(path)).collect(),
            })
        };
        let experts: Vec<Expert> = file.experts.into_iter().map(expert).collect::<Result<_>>()?;
        let shared = file.shared_experts.unwrap_or_default();
        let used = file.experts_per_token.unwrap_or(if experts.len() == 1 { 1 } else { 2 });
        let experts_per_token = usize::try_from(used)
            .map_err(|_| Error::request(format!("experts_per_token: {used} is no number of experts")))?;
        let mixture = Self {
            base,
            experts,
            shared: shared.into_iter().map(expert).collect::<Result<_>>()?,
            experts_per_token,
            gate_mode: file.gate_mode.unwrap_or(GateMode::Hidden),
            dtype,
            architecture: file.architecture,
            seed: file.seed.unwrap_or_default(),
        };
        mixture.check()?;
        Ok(mixture)
    }

    /// What no sources are needed to see.
    ///
    /// # Errors
    /// Numbers that contradict each other, prompts that are missing or all the same.
    pub fn check(&self) -> Result<()> {
        let (count, used) = (self.experts.len(), self.experts_per_token);
        if count == 0 {
            return refuse("experts: name one or more models");
        }
        if !(1..=count).contains(&used) {
            return refuse(format!("experts_per_token: {used} of {count} experts; say 1 to {count}"));
        }
        if self.shared.len() > 1 {
            let found = self.shared.len();
            return refuse(format!("shared_experts: {found} models; there is one shared expert or none"));
        }
        self.check_base()?;
        self.check_architecture()?;
        for (place, expert) in self.named() {
            for (key, value) in
                [("noise_scale", expert.noise_scale), ("residual_scale", expert.residual_scale)]
            {
                if value.is_some_and(|value| !value.is_finite()) {
                    return refuse(format!("{place}: {key} is no finite number"));
                }
            }
        }
        self.check_prompts()
    }

    fn check_base(&self) -> Result<()> {
        if self.base.is_empty() {
            return refuse("base_model: name a model");
        }
        let total: f64 = self.base.iter().map(|(_, weight)| weight).sum();
        match total.is_finite() && total.abs() > 1e-6 {
            true => Ok(()),
            false => refuse("base_model: the weights add up to nothing that a mean can be made of"),
        }
    }

    fn check_architecture(&self) -> Result<()> {
        let known = ["mixtral", "qwen", "qwen3", "deepseek"];
        let Some(wanted) = &self.architecture else { return Ok(()) };
        let plain = wanted.to_ascii_lowercase();
        match !plain.is_empty() && known.iter().any(|known| known.starts_with(&plain)) {
            true => Ok(()),
            false => refuse(format!("architecture: {wanted:?}; there are {}", known.join(", "))),
        }
    }

    fn check_prompts(&self) -> Result<()> {
        let mode = self.gate_mode;
        for (i, expert) in self.experts.iter().enumerate() {
            let name = &expert.source.name;
            if mode.wants_prompts() && expert.positive.is_empty() {
                return refuse(format!(
                    "expert {i} ({name}) has no positive_prompts, of which gate_mode {} makes its gates: write what it is for, such as a question that it answers best, or take gate_mode uniform_random and train the router",
                    mode.name()
                ));
            }
            if mode == GateMode::Text && expert.texts.is_empty() {
                return refuse(format!(
                    "expert {i} ({name}) has no texts, of which gate_mode text makes its gates: name files of what it is for (texts: [FILE])"
                ));
            }
        }
        let first = &self.experts[0];
        let all = |same: fn(&Expert, &Expert) -> bool| {
            self.experts.len() > 1 && self.experts.iter().all(|expert| same(expert, first))
        };
        if mode.wants_prompts() && all(|a, b| (&a.positive, &a.negative) == (&b.positive, &b.negative)) {
            return refuse(
                "all experts have the same prompts, so no router could tell them apart: say for each what it is for",
            );
        }
        if mode == GateMode::Text && all(|a, b| a.texts == b.texts) {
            return refuse(
                "all experts have the same texts, so no router could tell them apart: name texts of each one's own",
            );
        }
        Ok(())
    }

    /// The YAML that asks for the same, with names in the place of paths.
    pub(crate) fn told(&self) -> String {
        let some = |prompts: &Vec<String>| (!prompts.is_empty()).then(|| prompts.clone());
        let expert = |expert: &Expert| {
            let texts: Vec<PathBuf> =
                expert.texts.iter().map(|path| short(&path.to_string_lossy()).into()).collect();
            FileExpert {
                source_model: short(&expert.source.name),
                positive_prompts: some(&expert.positive),
                negative_prompts: some(&expert.negative),
                noise_scale: expert.noise_scale,
                residual_scale: expert.residual_scale,
                texts: (!texts.is_empty()).then_some(texts),
            }
        };
        let part = |(origin, weight): &(Origin, f64)| Part { source: short(&origin.name), weight: *weight };
        let file = File {
            base_model: match &self.base[..] {
                [(origin, _)] => Base::One(short(&origin.name)),
                parts => Base::Mean(parts.iter().map(part).collect()),
            },
            experts_per_token: Some(self.experts_per_token as i64),
            gate_mode: Some(self.gate_mode),
            dtype: self.dtype.map(|format| name_of(format).to_owned()),
            experts: self.experts.iter().map(expert).collect(),
            shared_experts: (!self.shared.is_empty()).then(|| self.shared.iter().map(expert).collect()),
            architecture: self.architecture.clone(),
            seed: (self.seed != 0).then_some(self.seed),
        };
        yaml_serde::to_string(&file).unwrap_or_default()
    }

    /// All models, one as often as it is named.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &Origin> {
        let bases = self.base.iter().map(|(origin, _)| origin);
        bases.chain(self.named().map(|(_, expert)| &expert.source))
    }

    /// All experts, with what to call them in messages.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &Expert)> {
        let routed = self.experts.iter().enumerate();
        let routed = routed.map(|(i, expert)| (format!("expert {i} ({})", expert.source.name), expert));
        let shared = self.shared.iter();
        routed.chain(shared.map(|expert| (format!("the shared expert ({})", expert.source.name), expert)))
    }
}

/// Reads the file. Merge keys (`<<`) are resolved as mergekit's reader does; errors lose their line with that.
fn file_of(words: &str) -> Result<File> {
    let read = match words.contains("<<:") {
        false => yaml_serde::from_str(words),
        true => yaml_serde::from_str(words).and_then(|mut value: yaml_serde::Value| {
            value.apply_merge()?;
            yaml_serde::from_value(value)
        }),
    };
    read.map_err(|error| {
        let said = error.to_string();
        // A prompt such as 42 or yes.
        let is_text =
            said.contains("expected a string") && !said.contains("sequence") && !said.contains("map");
        let hint = if is_text { "; text that YAML takes for something else stands in quotes" } else { "" };
        Error::request(format!("{said}{hint}"))
    })
}

/// The last part of a path.
pub(crate) fn short(name: &str) -> String {
    let name = name.trim_end_matches(['/', '\\']);
    name.rsplit(['/', '\\']).next().unwrap_or(name).to_owned()
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::request(why.into()))
}

/// Floats, as mergekit calls them first.
const DTYPES: [(&str, [&str; 2]); 3] =
    [("F32", ["float32", "f32"]), ("F16", ["float16", "f16"]), ("BF16", ["bfloat16", "bf16"])];

/// The floats that a file calls so.
fn dtype(name: &str) -> Result<&'static Format> {
    let plain = name.to_ascii_lowercase();
    let plain = plain.trim_start_matches("torch.");
    match DTYPES.iter().find(|(_, names)| names.contains(&plain)) {
        Some((known, _)) => Ok(crate::recipe::by_name(known)),
        None => refuse(format!("dtype: {name:?}; there are float32, float16 and bfloat16")),
    }
}

fn name_of(format: &Format) -> &'static str {
    DTYPES.iter().find(|(known, _)| *known == format.name).map_or("float32", |(_, names)| names[0])
}
