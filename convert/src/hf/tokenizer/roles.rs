//! Which tokens begin and end texts, and the chat template: tokenizer_config.json, special_tokens_map.json,
//! config.json and the template files beside them.

use super::{Tokens, read_file, read_json};
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;

/// GGUF's name of each role and Hugging Face's.
const ROLES: [(&str, &str); 4] =
    [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];

/// Adds special tokens and roles that only the configuration files name.
pub(super) fn assign(folder: &Path, tokens: &mut Tokens, rows: u64) -> Result<()> {
    let read = |name: &str| Ok::<_, Error>(read_json(&folder.join(name))?.unwrap_or_default());
    let (tokenizer, map, model) =
        (read("tokenizer_config.json")?, read("special_tokens_map.json")?, read("config.json")?);
    add_decoder(&tokenizer, tokens, rows)
        .map_err(|error| error.in_file(folder.join("tokenizer_config.json")))?;
    for (role, name) in ROLES {
        let text = [&tokenizer[name], &map[name]].into_iter().find_map(text);
        let id = text.and_then(|text| tokens.id_of(text)).or_else(|| id(&model[format!("{name}_id")], rows));
        if let Some(id) = id {
            tokens.ids.retain(|known| known.0 != role);
            tokens.ids.push((role, id));
        }
    }
    let flag = |name: &str| tokenizer[name].as_bool();
    tokens.add_bos = flag("add_bos_token").or(tokens.add_bos);
    tokens.add_eos = flag("add_eos_token").or(tokens.add_eos);
    Ok(())
}

/// `added_tokens_decoder`: special tokens by id, for tokenizers that have no tokenizer.json.
fn add_decoder(config: &Json, tokens: &mut Tokens, rows: u64) -> Result<()> {
    for (id, added) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let Some((id, text)) = id.parse().ok().zip(added["content"].as_str()) else {
            return Err(Error::malformed(
                "added_tokens_decoder",
                "ids with content",
                format!("{id:?}: {added}"),
            ));
        };
        tokens.add_special(id, text, added["special"] == true, rows)?;
    }
    Ok(())
}

/// A token's text, alone or in an object.
fn text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A token's id; of a list the first.
fn id(value: &Json, rows: u64) -> Option<u32> {
    value.as_u64().or_else(|| value[0].as_u64()).filter(|&id| id < rows).map(|id| id as u32)
}

/// Writes the chat template, and further ones by their names.
pub(super) fn set_chat_templates(folder: &Path, metadata: &mut Metadata) -> Result<()> {
    const KEY: &str = "tokenizer.chat_template";
    if let Some(template) = read_file(&folder.join("chat_template.jinja"))? {
        let template = String::from_utf8(template).map_err(|error| {
            Error::malformed("content", "UTF-8", error).in_file(folder.join("chat_template.jinja"))
        })?;
        metadata.set(KEY, template);
        return Ok(());
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let json = read_json(&folder.join(file))?.unwrap_or_default();
        match &json["chat_template"] {
            Json::String(template) => metadata.set(KEY, template.as_str()),
            Json::Array(templates) => set_named(KEY, templates, metadata),
            _ => continue,
        }
        break;
    }
    Ok(())
}

/// A list of `{"name": …, "template": …}`, of which `default` is the usual one.
fn set_named(key: &str, templates: &[Json], metadata: &mut Metadata) {
    let pairs = templates.iter().filter_map(|entry| entry["name"].as_str().zip(entry["template"].as_str()));
    let (default, named): (Vec<_>, Vec<_>) = pairs.partition(|(name, _)| *name == "default");
    default.iter().for_each(|(_, template)| metadata.set(key, *template));
    for (name, template) in &named {
        metadata.set(format!("{key}.{name}"), *template);
    }
    if !named.is_empty() {
        metadata.set(
            format!("{key}s"),
            named.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<String>>(),
        );
    }
}
