//! Which tokens begin and end texts and answers: tokenizer_config.json, special_tokens_map.json, added_tokens.json,
//! config.json and generation_config.json.

use super::files::Files;
use super::tokens::Tokens;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// GGUF's name of each role and Hugging Face's.
const ROLES: [(&str, &str); 4] =
    [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];

/// Adds special tokens and roles that only the configuration files name.
pub(super) fn assign(files: &Files, tokens: &mut Tokens, rows: u64) -> Result<()> {
    let in_config = |error: Error| error.in_file(files.folder.join("tokenizer_config.json"));
    add_decoder(files, tokens, rows).map_err(in_config)?;
    if files.json.is_none() {
        let in_added = |error: Error| error.in_file(files.folder.join("added_tokens.json"));
        add_by_name(files, tokens, rows).map_err(in_added)?;
    }
    for (role, name) in ROLES {
        let text = [&files.config[name], &files.map[name]].into_iter().find_map(text);
        let own = text.map(|text| tokens.id_of(text).ok_or(text));
        if let Some(Err(text)) = own {
            report_missing(role, name, text).map_err(in_config)?;
        }
        // What goes before a text is BOS, whatever other files call so.
        let framed = tokens.frame.before.filter(|_| role == "bos");
        let configured = || id(&files.model_config[format!("{name}_id")], rows);
        if let Some(id) = framed.or(own.and_then(Result::ok)).or_else(configured) {
            tokens.ids.retain(|known| known.0 != role);
            tokens.ids.push((role, id));
        }
    }
    set_ends(files, tokens, rows);
    if tokens.frame.behind.is_some_and(|id| !tokens.ids.contains(&("eos", id))) {
        tracing::warn!("the token behind a text is not the end of text; it is not carried over");
        tokens.add_eos = Some(false);
    }
    let flag = |name: &str| files.config[name].as_bool();
    tokens.add_bos = flag("add_bos_token").or(tokens.add_bos);
    tokens.add_eos = flag("add_eos_token").or(tokens.add_eos);
    Ok(())
}

/// A role whose text is no token: answers would never end, texts never begin as the model knows it.
fn report_missing(role: &str, name: &str, text: &str) -> Result<()> {
    match role {
        "bos" | "eos" => Err(Error::malformed(name, "a token of the vocabulary", format!("{text:?}"))),
        _ => {
            tracing::warn!("{name} {text:?} is no token of the vocabulary; the model goes without one");
            Ok(())
        }
    }
}

/// All tokens that end an answer, by every file that names some; GGUF's roles for one or two further ones.
fn set_ends(files: &Files, tokens: &mut Tokens, rows: u64) {
    let eos = tokens.ids.iter().find(|(role, _)| *role == "eos").map(|&(_, id)| id);
    let mut ends: Vec<u32> = eos.into_iter().collect();
    for id in end_ids(&files.generation).chain(end_ids(&files.model_config)) {
        match u32::try_from(id) {
            Ok(id) if u64::from(id) < rows && !ends.contains(&id) => ends.push(id),
            Ok(id) if u64::from(id) < rows => {}
            _ => tracing::warn!("the end token {id} is beyond the {rows} rows of the embedding"),
        }
    }
    if let (None, Some(&first)) = (eos, ends.first()) {
        tokens.ids.push(("eos", first));
    }
    let further = ["eot", "eom"].into_iter().zip(ends.iter().skip(1).copied());
    tokens.ids.extend(further);
    if ends.len() > 1 {
        tokens.ends = ends;
    }
}

/// The ids under `eos_token_id`, one or a list, of a configuration and of what it says about text.
pub(crate) fn end_ids(config: &Json) -> impl Iterator<Item = u64> {
    let places = [&config["eos_token_id"], &config["text_config"]["eos_token_id"]];
    places.into_iter().flat_map(|value| match value.as_array() {
        Some(list) => list.iter().filter_map(Json::as_u64).collect::<Vec<_>>(),
        None => value.as_u64().into_iter().collect(),
    })
}

/// `added_tokens_decoder`: special tokens by id, with their flags where no tokenizer.json has them.
fn add_decoder(files: &Files, tokens: &mut Tokens, rows: u64) -> Result<()> {
    for (id, added) in files.config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let Some((id, text)) = id.parse().ok().zip(added["content"].as_str()) else {
            return Err(Error::malformed(
                "added_tokens_decoder",
                "ids with content",
                format!("{id:?}: {added}"),
            ));
        };
        if files.json.is_some() {
            refuse_renamed(tokens, id, text)?;
        }
        let id = tokens.add_special(id, text, added["special"] == true, rows)?;
        if files.json.is_none() {
            tokens.add_edges(id, added);
        }
    }
    Ok(())
}

/// A tokenizer.json keeps its names: transformers would give the new one a further id.
fn refuse_renamed(tokens: &Tokens, id: u64, text: &str) -> Result<()> {
    let known = tokens.tokens.get(id as usize).and_then(Option::as_ref);
    match known.filter(|known| tokens.id_of(text).is_none() && known.text != text.replace('▁', " ")) {
        Some(known) => {
            let place = format!("added_tokens_decoder, {id}");
            let expected = format!("{:?}, as tokenizer.json has it", known.text);
            Err(Error::malformed(place, expected, format!("{text:?}")))
        }
        None => Ok(()),
    }
}

/// added_tokens.json: ids by text. What a role or the list of special tokens names steers the model.
fn add_by_name(files: &Files, tokens: &mut Tokens, rows: u64) -> Result<()> {
    for (text, id) in files.added.as_object().into_iter().flatten() {
        let id = id.as_u64().ok_or_else(|| Error::malformed(format!("[{text:?}]"), "an id", id))?;
        let is_known =
            tokens.tokens.get(id as usize).is_some_and(|t| t.as_ref().is_some_and(|t| t.text == *text));
        if !is_known {
            tokens.add_special(id, text, is_special(files, text), rows)?;
        }
    }
    Ok(())
}

fn is_special(files: &Files, wanted: &str) -> bool {
    [&files.config, &files.map].into_iter().any(|names| {
        let roles = ["sep_token", "cls_token", "mask_token"].into_iter().chain(ROLES.map(|(_, name)| name));
        let lists = ["additional_special_tokens", "extra_special_tokens"];
        let listed = lists.into_iter().flat_map(|list| names[list].as_array().into_iter().flatten());
        roles.map(|name| &names[name]).chain(listed).any(|value| text(value) == Some(wanted))
    })
}

/// Makes `tokenizer.json` say what tokenizer_config.json says of the space before a text: transformers lets that win.
pub(super) fn settle_prefix(config: &Json, json: Option<&mut Json>) {
    let (Some(wanted), Some(json)) = (config["add_prefix_space"].as_bool(), json) else { return };
    let pre_tokenizer = &mut json["pre_tokenizer"];
    if pre_tokenizer["type"] == "ByteLevel" {
        pre_tokenizer["add_prefix_space"] = wanted.into();
    } else if !wanted && pre_tokenizer["type"] == "Metaspace" {
        pre_tokenizer["prepend_scheme"] = "never".into();
    } else if !wanted && let Some(steps) = json["normalizer"]["normalizers"].as_array_mut() {
        steps.retain(|step| step["type"] != "Prepend");
    }
}

/// A token's text, alone or in an object.
fn text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A token's id; of a list the first.
fn id(value: &Json, rows: u64) -> Option<u32> {
    value.as_u64().or_else(|| value[0].as_u64()).filter(|&id| id < rows).map(|id| id as u32)
}
