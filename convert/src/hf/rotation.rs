//! The rotation of a configuration in both spellings, `rope_parameters` (transformers 5, per layer type where they
//! differ) and `rope_theta` with `rope_scaling` (transformers 4), read as transformers' `RotaryEmbeddingConfigMixin` and
//! `modeling_rope_utils` read them.

use super::params::{Dim, Params};
use moewe_engine::{Error, Result};
use serde_json::{Map, Value as Json};

/// Bases where no class says otherwise.
pub(super) const THETA: f64 = 10_000.0;
/// Fields that the rotations read, by type; the base and the type itself besides.
pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("default", &["partial_rotary_factor"]),
    ("linear", &["factor", "partial_rotary_factor"]),
    (PROPORTION, &["partial_rotary_factor"]),
    (
        "llama3",
        &[
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
            "partial_rotary_factor",
        ],
    ),
    (
        "yarn",
        &[
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            "original_max_position_embeddings",
            "partial_rotary_factor",
        ],
    ),
];

/// The classes that turn a part of each head; all others turn heads whole, whatever the configuration says.
const PARTIAL: &[&str] = &[
    "bailing_moe_v2",
    "deepseek_v4",
    "glm4_moe",
    "minimax_m2",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
];
/// What a class calls the rotation of layers with compressed positions.
pub(super) const COMPRESSED: &str = "compress";
/// The class whose layers that see everything turn a share of their pairs, and what it calls that.
const PROPORTIONAL: &str = "gemma4_text";
const PROPORTION: &str = "proportional";

/// Whether the architecture's files may hold a divisor per frequency, the tensor `rope_freqs`.
pub(super) fn has_factors(params: &Params) -> bool {
    ["llama", "mistral", "mixtral"].iter().any(|name| params.is(name))
}

fn turns_a_part(params: &Params) -> bool {
    PARTIAL.iter().any(|name| params.is(name))
}

/// Elements of a head that are rotated.
pub(super) fn rotated(params: &Params) -> Result<u64> {
    let rotated = match params.maybe(Dim::HeadRope)? {
        Some(rotated) => rotated,
        None if turns_a_part(params) => {
            let head = params.dim(Dim::Head)?;
            (head as f64 * Rotation::of(params)?.part(params)?) as u64
        }
        None => params.dim(Dim::Head)?,
    };
    if rotated % 2 != 0 {
        return Err(Error::malformed("config", "heads of an even width", rotated));
    }
    Ok(rotated)
}

/// The rotation of the layers that see everything, and the base of those that do not.
pub(super) struct Rotation {
    pub(super) fields: Map<String, Json>,
    pub(super) local: Option<f64>,
}

impl Rotation {
    pub(super) fn of(params: &Params) -> Result<Self> {
        let by_class = params.class().and_then(|class| class.rotation());
        let rotation = match by_class {
            Some(defaults) if params.is(PROPORTIONAL) => Self::proportional(params, defaults)?,
            Some(defaults) if defaults.contains_key("full_attention") => {
                Self::by_layer_type(params, defaults)?
            }
            Some(defaults) if defaults.contains_key(COMPRESSED) => Self::compressed(params, defaults)?,
            _ => Self::of_all_layers(params, by_class)?,
        };
        rotation.check(params)?;
        Ok(rotation)
    }

    fn of_all_layers(params: &Params, by_class: Option<&Map<String, Json>>) -> Result<Self> {
        let scaling = object(params, "rope_scaling")?.filter(|fields| !fields.is_empty());
        let given = scaling.or(object(params, "rope_parameters")?);
        let theta = by_class.and_then(|fields| fields.get("rope_theta").cloned());
        let theta = params.raw("rope_theta").cloned().or(theta).unwrap_or(THETA.into());
        let mut fields = given.cloned().unwrap_or_else(|| {
            let mut fields = by_class.cloned().unwrap_or_default();
            // What stands beside the rotation goes before what the class would take.
            fields.retain(|name, _| !matches!(name.as_str(), "rope_theta" | "partial_rotary_factor"));
            fields
        });
        if fields.values().any(Json::is_object) {
            return Err(Error::unsupported(
                "config: rope_parameters per layer type",
                "this architecture has one rotation for all layers",
            ));
        }
        fields.entry("rope_theta").or_insert(theta);
        Ok(Self { fields, local: None })
    }

    /// Gemma 3: a rotation for either type of layer.
    fn by_layer_type(params: &Params, defaults: &Map<String, Json>) -> Result<Self> {
        let given = object(params, "rope_parameters")?;
        let is_flat =
            given.is_some_and(|given| given.values().any(|field| !field.is_object() && !field.is_null()));
        params.refuse(is_flat, "rope_parameters without layer types")?;
        let of = |kind: &str| given.and_then(|given| given.get(kind)?.as_object());
        let mut fields = of("full_attention").cloned().unwrap_or_default();
        if let Some(scaling) = object(params, "rope_scaling")? {
            let renamed = scaling.contains_key("type") && !scaling.contains_key("rope_type");
            params.refuse(renamed, "rope_scaling with type where this class reads rope_type")?;
            fields.extend(scaling.clone());
        }
        let theta = |kind: &str, key: &str| params.raw(key).or(defaults[kind].get("rope_theta")).cloned();
        if let Some(theta) = theta("full_attention", "rope_theta") {
            fields.entry("rope_theta").or_insert(theta);
        }
        let mut sliding = of("sliding_attention").cloned().unwrap_or_default();
        if let Some(theta) = theta("sliding_attention", "rope_local_base_freq") {
            sliding.entry("rope_theta").or_insert(theta);
        }
        let sliding = Self { fields: sliding, local: None };
        params.refuse(sliding.kind()? != "default", "scaled rotation in sliding layers")?;
        Ok(Self { fields, local: Some(sliding.theta()?) })
    }

    /// Gemma 4, which knows no older spelling.
    fn proportional(params: &Params, defaults: &Map<String, Json>) -> Result<Self> {
        let given = object(params, "rope_parameters")?.unwrap_or(defaults);
        let of = |kind: &str| {
            let fields = given.get(kind).and_then(Json::as_object);
            let place = format!("config, rope_parameters, {kind}");
            fields.ok_or_else(|| Error::malformed(place, "the rotation of such layers", "none"))
        };
        let sliding = Self { fields: of("sliding_attention")?.clone(), local: None };
        let turns_whole = sliding.number("partial_rotary_factor")?.is_none_or(|part| part == 1.0);
        params.refuse(sliding.kind()? != "default" || !turns_whole, "scaled rotation in sliding layers")?;
        let full = Self { fields: of("full_attention")?.clone(), local: Some(sliding.theta()?) };
        let factor = full.number("factor")?.unwrap_or(1.0);
        let is_known = full.kind()? == PROPORTION && factor == 1.0;
        let what = format!("a {:?} rotation by {factor} in layers that see everything", full.kind()?);
        params.refuse(!is_known, &what)?;
        Ok(full)
    }

    /// DeepSeek V4: one rotation, which may be stretched, for layers with compressed positions, a plain one for the others.
    fn compressed(params: &Params, defaults: &Map<String, Json>) -> Result<Self> {
        let given = object(params, "rope_parameters")?;
        let of = |kind: &str| given.and_then(|given| given.get(kind)?.as_object()).cloned();
        let theta = |key: &str| params.raw(key).cloned();
        let (mut fields, plain) = match (of(COMPRESSED), of("main")) {
            (Some(fields), Some(plain)) => (fields, plain),
            _ => {
                let mut fields = object(params, "rope_scaling")?.or(given).cloned().unwrap_or_default();
                // transformers stretches these layers' own base, whatever stands there.
                fields.remove("rope_theta");
                fields.extend(theta("compress_rope_theta").map(|theta| ("rope_theta".to_owned(), theta)));
                (
                    fields,
                    theta("rope_theta").map(|theta| ("rope_theta".to_owned(), theta)).into_iter().collect(),
                )
            }
        };
        let plain = Self { fields: plain, local: None };
        params
            .refuse(plain.kind()? != "default", "scaled rotation in layers without compressed positions")?;
        if fields.get("rope_type").or(fields.get("type")).is_some_and(|kind| kind == "yarn") {
            fields.entry("attention_factor").or_insert(1.0.into());
        }
        if let Some(part) = defaults[COMPRESSED].get("partial_rotary_factor") {
            let beside = params.raw("partial_rotary_factor").filter(|part| !part.is_null());
            fields.entry("partial_rotary_factor").or_insert(beside.unwrap_or(part).clone());
        }
        Ok(Self { fields, local: Some(plain.theta()?) })
    }

    fn check(&self, params: &Params) -> Result<()> {
        let kind = self.kind()?;
        let is_known = FIELDS.iter().any(|row| row.0 == kind);
        if !is_known || (kind == PROPORTION && !params.is(PROPORTIONAL)) {
            let hint = "supported are default, linear, llama3 and yarn";
            return Err(Error::unsupported(format!("config: rotary scaling {kind:?}"), hint));
        }
        let part = self.part(params)?;
        let may_be_partial = turns_a_part(params) || params.is(PROPORTIONAL);
        if may_be_partial && !(part > 0.0 && part <= 1.0) {
            return Err(wrong("partial_rotary_factor", "above 0, at most 1", &part.into()));
        }
        // Most classes turn whole heads without scaling, whatever stands there.
        let is_unclear = kind != "default" && part != 1.0 && !may_be_partial;
        params.refuse(is_unclear, "partial_rotary_factor with a scaled rotation")?;
        params.refuse(params.is_latent() && part != 1.0, "partial_rotary_factor in latent attention")?;
        self.theta().map(drop)
    }

    /// The share of a head that turns.
    pub(super) fn part(&self, params: &Params) -> Result<f64> {
        let own = self.number("partial_rotary_factor")?;
        let beside = match params.raw("partial_rotary_factor").filter(|value| !value.is_null()) {
            Some(value) => {
                Some(value.as_f64().ok_or_else(|| wrong("partial_rotary_factor", "a number", value))?)
            }
            None => None,
        };
        // MiniMax counts the elements instead.
        let counted = match params.uint(&["rotary_dim"])? {
            Some(elements) if params.is("minimax_m2") => {
                Some(elements as f64 / params.dim(Dim::Head)? as f64)
            }
            _ => None,
        };
        let by_class =
            params.class().and_then(|class| class.rotation()?.get("partial_rotary_factor")?.as_f64());
        Ok(own.or(beside).or(counted).or(by_class).unwrap_or(1.0))
    }

    pub(super) fn kind(&self) -> Result<&str> {
        let named = ["rope_type", "type"].iter().find_map(|name| Some((name, self.fields.get(*name)?)));
        let Some((name, value)) = named else { return Ok("default") };
        value.as_str().ok_or_else(|| wrong(name, "a text", value))
    }

    /// A number of the rotation; null counts as absent.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| wrong(name, "a number", value))
    }

    pub(super) fn required(&self, name: &str) -> Result<f64> {
        let none = || wrong(name, "a positive number", &Json::Null);
        self.number(name)?.filter(|number| *number > 0.0).ok_or_else(none)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(name, "true or false", value))
    }

    pub(super) fn theta(&self) -> Result<f64> {
        self.required("rope_theta")
    }

    pub(super) fn factor(&self) -> Result<f64> {
        self.required("factor")
    }

    /// Positions that the model was trained on before its context was stretched.
    pub(super) fn original_context(&self, params: &Params) -> Result<f64> {
        // Beside the rotation it goes before the one within.
        if let Some(beside) = params.uint(&["original_max_position_embeddings"])?.filter(|&beside| beside > 0)
        {
            return Ok(beside as f64);
        }
        match self.fields.get("original_max_position_embeddings") {
            Some(_) => self.required("original_max_position_embeddings"),
            None => Ok(params.dim(Dim::Context)? as f64),
        }
    }
}

fn wrong(name: &str, expected: &str, found: &Json) -> Error {
    let found = if found.is_null() { "none".to_owned() } else { found.to_string() };
    Error::malformed(format!("config, {name} of the rotation"), expected, found)
}

/// A group of fields; null counts as absent.
fn object<'p>(params: &'p Params, name: &str) -> Result<Option<&'p Map<String, Json>>> {
    let Some(value) = params.raw(name).filter(|value| !value.is_null()) else { return Ok(None) };
    value.as_object().map(Some).ok_or_else(|| Error::malformed(format!("config, {name}"), "an object", value))
}
