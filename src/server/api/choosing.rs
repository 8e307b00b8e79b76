//! The fields that many requests share: how tokens are chosen, how many answers, and when they end.

use crate::server::body::{real, within};
use crate::server::format::Format;
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use moewe_engine::sampler::Sampling;
use moewe_engine::tokenizer::Special;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt::{Formatter, Result as Written};
use utoipa::ToSchema;

const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 512;
const MOST_BIASES: usize = 1024;
pub(super) const MOST_ODDS: usize = 20;

/// As they stand in a body. `null` is the same as nothing.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = Choosing)]
pub(super) struct Choosing {
    /// Any name is served, unless the server is strict about names.
    pub(super) model: Option<String>,
    /// Most tokens of an answer.
    pub(super) max_tokens: Option<u64>,
    /// 0 takes the likeliest token.
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// 0 and -1 keep all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    typical_p: Option<f32>,
    #[schema(exclusive_minimum = 0)]
    repeat_penalty: Option<f32>,
    /// Another name of `repeat_penalty`.
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f32>,
    /// How many of the latest tokens the penalties look at; -1 for all.
    #[schema(minimum = -1)]
    repeat_last_n: Option<i64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// A negative one is the clock's.
    seed: Option<i64>,
    /// Texts that end an answer and are no part of it.
    #[schema(value_type = Option<Value>)]
    stop: Option<Texts>,
    /// Answers to each prompt.
    #[schema(minimum = 1)]
    n: Option<usize>,
    /// Whether the answer comes as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Numbers from -100 to 100 by token ids or texts; -100 excludes.
    logit_bias: Option<Value>,
    /// Go on where the model would end.
    ignore_eos: Option<bool>,
    /// Whether what others have read is used, and this kept for them.
    cache_prompt: Option<bool>,
    /// Not supported.
    mirostat: Option<Value>,
    /// Not supported.
    dry_multiplier: Option<Value>,
    /// Not supported.
    xtc_probability: Option<Value>,
    /// Not supported.
    dynatemp_range: Option<Value>,
    /// Not supported.
    lora: Option<Value>,
    /// What an answer has to be, in GBNF.
    #[schema(value_type = Option<String>)]
    grammar: Option<Value>,
    /// A schema by which an answer is valid JSON.
    json_schema: Option<Value>,
}

#[derive(Default, Deserialize, ToSchema)]
struct StreamOptions {
    /// `usage` and `timings` in an event before the last.
    include_usage: Option<bool>,
}

/// One text, or several.
#[derive(Default)]
pub(super) struct Texts(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> Written {
                formatter.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = vec![];
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

impl Choosing {
    /// Whether the request is for this model. Other names are served as well, unless they were forbidden.
    pub(super) fn is_for(&self, model: &Model, strict: bool) -> Result<(), Refusal> {
        let name = self.model.as_deref().unwrap_or_default();
        if strict && !model.is_called(name) { Err(Refusal::no_model(name)) } else { Ok(()) }
    }

    pub(super) fn streams(&self) -> bool {
        self.streams_unless_told(false)
    }

    /// The same where answers stream by themselves, or do not.
    pub(super) fn streams_unless_told(&self, usually: bool) -> bool {
        self.stream.unwrap_or(usually)
    }

    pub(super) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }

    pub(super) fn reuses(&self) -> bool {
        self.cache_prompt.unwrap_or(true)
    }

    /// How many answers each prompt gets.
    pub(super) fn count(&self, most: usize) -> Result<usize, Refusal> {
        within("n", self.n.unwrap_or(1), 1, most)
    }

    pub(super) fn stops(&self) -> Result<Vec<String>, Refusal> {
        stops("stop", self.stop.as_ref().map_or(&[][..], |stops| &stops.0))
    }

    /// What each answer has to be, by these fields and OpenAI's own.
    pub(super) fn format(&self, response_format: Option<&Value>) -> Result<Format, Refusal> {
        Format::read(response_format, self.json_schema.as_ref(), self.grammar.as_ref())
    }

    /// The settings, where they are given, over those of the model.
    pub(super) fn sampling(&self, model: &Model) -> Result<Sampling, Refusal> {
        self.refuse_what_we_have_not()?;
        let mut sampling = model.sampling.clone();
        let (penalty, penalty_name) = match self.repeat_penalty {
            None => (self.repetition_penalty, "repetition_penalty"),
            given => (given, "repeat_penalty"),
        };
        for (name, given, field, (least, most)) in [
            ("temperature", self.temperature, &mut sampling.temperature, (0.0, f32::MAX)),
            ("top_p", self.top_p, &mut sampling.top_p, (f32::MIN_POSITIVE, 1.0)),
            ("min_p", self.min_p, &mut sampling.min_p, (0.0, 1.0)),
            ("typical_p", self.typical_p, &mut sampling.typical_p, (f32::MIN_POSITIVE, 1.0)),
            (penalty_name, penalty, &mut sampling.repetition_penalty, (f32::MIN_POSITIVE, f32::MAX)),
            ("presence_penalty", self.presence_penalty, &mut sampling.presence_penalty, (-2.0, 2.0)),
            ("frequency_penalty", self.frequency_penalty, &mut sampling.frequency_penalty, (-2.0, 2.0)),
        ] {
            if let Some(given) = given {
                *field = real(name, given, least, most)?;
            }
        }
        if let Some(top_k) = self.top_k {
            sampling.top_k = within("top_k", top_k, -1, i64::from(u32::MAX))?.max(0) as u32;
        }
        if let Some(window) = self.repeat_last_n {
            sampling.repeat_window = usize::try_from(within("repeat_last_n", window, -1, i64::MAX)?).ok();
        }
        if let Some(seed) = self.seed {
            sampling.seed = u64::try_from(seed).ok();
        }
        if let Some(bias) = &self.logit_bias {
            sampling.logit_bias.extend(biases(bias, model)?);
        }
        if self.ignore_eos == Some(true) {
            sampling.logit_bias.extend(model.ends.iter().map(|&end| (end, f32::NEG_INFINITY)));
        }
        Ok(sampling)
    }

    fn refuse_what_we_have_not(&self) -> Result<(), Refusal> {
        for (name, value) in [
            ("mirostat", &self.mirostat),
            ("dry_multiplier", &self.dry_multiplier),
            ("xtc_probability", &self.xtc_probability),
            ("dynatemp_range", &self.dynatemp_range),
            ("lora", &self.lora),
        ] {
            refuse_unless_neutral(name, value.as_ref())?;
        }
        Ok(())
    }
}

/// Texts that end an answer, in a field of this name.
pub(super) fn stops(name: &str, stops: &[String]) -> Result<Vec<String>, Refusal> {
    let is_good = |stop: &String| (1..=LONGEST_STOP).contains(&stop.len());
    if stops.len() > MOST_STOPS || !stops.iter().all(is_good) {
        let message = format!("expected at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes");
        return Err(Refusal::field(name, message));
    }
    Ok(stops.to_vec())
}

/// A field that we have not matters where it says something.
pub(super) fn refuse_unless_neutral(name: &str, value: Option<&Value>) -> Result<(), Refusal> {
    let is_neutral = match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Bool(true)) => false,
    };
    if is_neutral { Ok(()) } else { Err(Refusal::field(name, "this server does not support it")) }
}

/// `{"42": -1.5}`, or llama-server's `[[42, -1.5], ["text", false]]` and `{"text": -1.5}`; a text biases each of its tokens.
fn biases(value: &Value, model: &Model) -> Result<Vec<(u32, f32)>, Refusal> {
    let wrong = |what: &str| Refusal::field("logit_bias", what);
    let entries: Vec<(Value, &Value)> = match value {
        Value::Object(map) => {
            let token = |key: &String| key.parse::<i64>().map_or_else(|_| key.as_str().into(), Value::from);
            map.iter().map(|(key, bias)| (token(key), bias)).collect()
        }
        Value::Array(list) => {
            let pair = |pair: &'_ Value| pair.as_array().filter(|pair| pair.len() == 2).is_some();
            if !list.iter().all(pair) {
                return Err(wrong("expected pairs of a token and a number"));
            }
            list.iter().map(|pair| (pair[0].clone(), &pair[1])).collect()
        }
        _ => return Err(wrong("expected a map from token ids to numbers")),
    };
    if entries.len() > MOST_BIASES {
        return Err(wrong(&format!("expected at most {MOST_BIASES} tokens")));
    }
    let mut biases = vec![];
    for (token, bias) in entries {
        let bias = match bias {
            Value::Bool(false) => f32::NEG_INFINITY,
            bias => match bias.as_f64() {
                Some(bias) if bias <= -100.0 => f32::NEG_INFINITY,
                Some(bias) if bias <= 100.0 => bias as f32,
                _ => return Err(wrong("expected numbers from -100 to 100")),
            },
        };
        let tokens = match &token {
            Value::String(text) => {
                let tokens = model.tokenizer().encode(text, Special::Plain);
                let tokens = tokens.map_err(|error| wrong(&error.to_string()))?;
                if tokens.is_empty() {
                    return Err(wrong("expected texts of at least one token"));
                }
                tokens
            }
            token => {
                let id = token.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.filter(|id| (*id as usize) < model.engine.config().vocab_size);
                vec![id.ok_or_else(|| wrong("expected ids of the model's tokens"))?]
            }
        };
        biases.extend(tokens.into_iter().map(|token| (token, bias)));
    }
    Ok(biases)
}
