//! Prompts as requests write them: texts, token ids, lists of either, and what stands before and behind a gap.

use crate::server::api::choosing::refuse_unless_neutral;
use crate::server::body::ids;
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use moewe_engine::tokenizer::Special;
use serde_json::Value;

const MOST_PROMPTS: usize = 128;

/// A prompt, as text and as tokens.
pub(super) struct Prompt {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
}

/// Texts get what the model's file puts before a text, ids are taken as they are; a list with ids and texts is one prompt,
/// and `{"prompt_string"}` is llama-server's way to write one.
///
/// # Errors
/// What is no prompt.
pub(super) fn read(prompt: Option<Value>, model: &Model) -> Result<Vec<Prompt>, Refusal> {
    match prompt {
        Some(Value::Array(list)) if list.iter().any(|entry| !entry.is_number()) && !is_mixed(&list) => {
            if list.len() > MOST_PROMPTS {
                return Err(Refusal::field("prompt", format!("expected at most {MOST_PROMPTS}")));
            }
            list.iter().map(|value| one(value, model)).collect()
        }
        Some(Value::Array(list)) if list.is_empty() => Err(wrong()),
        Some(value) => Ok(vec![one(&value, model)?]),
        None => Err(Refusal::field("prompt", "it is missing")),
    }
}

fn wrong() -> Refusal {
    Refusal::field("prompt", "expected a text, a list of texts, token ids, or a list of such")
}

/// Whether ids and texts stand side by side.
fn is_mixed(list: &[Value]) -> bool {
    let is_part = |entry: &Value| entry.is_u64() || entry.is_string();
    list.iter().any(Value::is_u64) && list.iter().all(is_part)
}

fn one(value: &Value, model: &Model) -> Result<Prompt, Refusal> {
    match (value, ids(value, model.engine.config().vocab_size)) {
        (Value::String(text), _) => {
            let tokens = model.tokenizer().encode_with_bos(text, Special::Parse);
            Ok(Prompt { text: text.clone(), tokens: tokens.map_err(refused)? })
        }
        (_, Some(Ok(tokens))) => Ok(Prompt { text: model.tokenizer().decode(&tokens), tokens }),
        (_, Some(Err(id))) => Err(Refusal::field("prompt", format!("the model has no token {id}"))),
        (Value::Array(list), None) if is_mixed(list) => mixed(list, model),
        (Value::Object(fields), _) => match fields.get("prompt_string") {
            Some(text @ (Value::String(_) | Value::Array(_))) => {
                let path = "prompt.multimodal_data";
                refuse_unless_neutral(path, fields.get("multimodal_data"))?;
                one(text, model)
            }
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

/// Ids and texts side by side; what the file puts before a text stands before one at the beginning only.
fn mixed(list: &[Value], model: &Model) -> Result<Prompt, Refusal> {
    let (tokenizer, vocabulary) = (model.tokenizer(), model.engine.config().vocab_size);
    let mut tokens = vec![];
    for (at, entry) in list.iter().enumerate() {
        match (entry, ids(&Value::Array(vec![entry.clone()]), vocabulary)) {
            (Value::String(text), _) if at == 0 => {
                tokens.extend(tokenizer.encode_with_bos(text, Special::Parse).map_err(refused)?);
            }
            (Value::String(text), _) => {
                tokens.extend(tokenizer.encode(text, Special::Parse).map_err(refused)?);
            }
            (_, Some(Ok(id))) => tokens.extend(id),
            _ => return Err(Refusal::field("prompt", format!("the model has no token {entry}"))),
        }
    }
    Ok(Prompt { text: tokenizer.decode(&tokens), tokens })
}

fn refused(error: moewe_engine::Error) -> Refusal {
    Refusal::field("prompt", error.to_string())
}

/// Tokens that a model was trained to find around a gap that it is to fill.
struct Gap {
    prefix: u32,
    suffix: u32,
    middle: u32,
}

impl Gap {
    /// As the file names them, if it does; the second names are older.
    fn of(model: &Model) -> Option<Self> {
        let metadata = model.engine.metadata();
        let id = |names: [&str; 2]| {
            let named = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}_token_id"))?.as_i64();
            let id = u32::try_from(names.into_iter().find_map(named)?).ok()?;
            ((id as usize) < model.engine.config().vocab_size).then_some(id)
        };
        Some(Self {
            prefix: id(["fim_pre", "prefix"])?,
            suffix: id(["fim_suf", "suffix"])?,
            middle: id(["fim_mid", "middle"])?,
        })
    }
}

/// Whether the model was trained to fill gaps.
pub(super) fn fills_gaps(model: &Model) -> bool {
    Gap::of(model).is_some()
}

/// A prompt for what stands between a prefix and a suffix, of which `begun` is the beginning. Nothing in these texts is
/// read as a control token. `None` where the model was not trained for it.
///
/// # Errors
/// What cannot be made tokens of.
pub(super) fn around_gap(
    model: &Model,
    prefix: &str,
    suffix: &str,
    begun: &str,
) -> Result<Option<Prompt>, Refusal> {
    let Some(gap) = Gap::of(model) else { return Ok(None) };
    let tokenizer = model.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.add_bos()).into_iter().collect();
    for (mark, text) in [(gap.prefix, prefix), (gap.suffix, suffix), (gap.middle, begun)] {
        tokens.push(mark);
        tokens.extend(tokenizer.encode(text, Special::Plain).map_err(refused)?);
    }
    Ok(Some(Prompt { text: prefix.to_owned(), tokens }))
}
