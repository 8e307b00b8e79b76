//! Chat templates beside a checkpoint: chat_template.jinja and additional_chat_templates/, chat_template.json, and
//! `chat_template` of tokenizer_config.json (a text, a list of names and texts, or an object of them). Each is compiled
//! before it is written, so that a broken one is found here and not by the person who chats.

use crate::json;
use moewe_engine::gguf::{Metadata, mistaken};
use moewe_engine::tokenizer::{ChatTemplate, Message};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KEY: &str = "tokenizer.chat_template";
/// Name of the template that is used when none is asked for.
const DEFAULT: &str = "default";
/// Largest template file that is read.
const LARGEST: u64 = 1 << 20;

/// Templates by name, each with the file that holds it.
type Templates = BTreeMap<String, (PathBuf, String)>;

/// Writes the chat template, and further ones by their names; returns what to say about those that are left out.
///
/// # Errors
/// Files that cannot be read; a template for ordinary conversations that is broken.
pub fn set_chat_templates(folder: &Path, metadata: &mut Metadata) -> Result<Vec<String>> {
    let mut templates = in_json(folder)?;
    for (name, path) in files(folder)? {
        let text = read(&path)?;
        templates.insert(name, (path, text));
    }
    templates.retain(|_, (_, text)| !text.trim().is_empty());
    let mut remarks = Vec::new();
    let mut named = Vec::new();
    for (name, (path, text)) in &templates {
        match (compile(text), name == DEFAULT) {
            (Err(error), true) => return Err(error.in_file(path)),
            (Err(error), false) => {
                remarks.push(format!("template {name:?} is left out: {}", error.in_file(path)))
            }
            (Ok(template), true) => {
                remarks.extend(trial(&template).err().map(|error| {
                    format!("{}: the chat template refuses a single question: {error}", path.display())
                }));
                metadata.set(KEY, text.as_str());
            }
            (Ok(_), false) => {
                metadata.set(format!("{KEY}.{name}"), text.as_str());
                named.push(name.clone());
            }
        }
    }
    if !named.is_empty() && !templates.contains_key(DEFAULT) {
        remarks.push(format!("no chat template is the default one; there are {}", named.join(", ")));
    }
    if !named.is_empty() {
        metadata.set(format!("{KEY}s"), named);
    }
    Ok(remarks)
}

fn compile(text: &str) -> Result<ChatTemplate> {
    ChatTemplate::new(text, "", "")
}

/// What only shows when a template is used: filters and functions that do not exist.
fn trial(template: &ChatTemplate) -> Result<()> {
    template.render(&[Message::new("user", "?")], true).map(drop)
}

/// Templates of the JSON file that has some; that of the processor goes first.
fn in_json(folder: &Path) -> Result<Templates> {
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        let found = entries(&json::read(&path)?["chat_template"]).map_err(|error| error.in_file(&path))?;
        if !found.is_empty() {
            return Ok(found.into_iter().map(|(name, text)| (name, (path.clone(), text))).collect());
        }
    }
    Ok(Templates::new())
}

/// Names and texts, in whatever form they stand there.
fn entries(value: &Json) -> Result<Vec<(String, String)>> {
    let wrong = |found: &Json| {
        let found = found.to_string().chars().take(80).collect::<String>();
        Error::malformed("chat_template", "a text, or names with texts", found)
    };
    let pair = |name: Option<&str>, text: &Json, all: &Json| {
        let name = name.filter(|name| is_plain(name)).ok_or_else(|| wrong(all))?;
        Ok((name.to_owned(), text.as_str().ok_or_else(|| wrong(all))?.to_owned()))
    };
    match value {
        Json::Null => Ok(vec![]),
        Json::String(text) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Json::Array(list) => {
            list.iter().map(|entry| pair(entry["name"].as_str(), &entry["template"], entry)).collect()
        }
        Json::Object(map) => map.iter().map(|(name, text)| pair(Some(name), text, value)).collect(),
        other => Err(wrong(other)),
    }
}

/// Whether a name may become part of a key.
fn is_plain(name: &str) -> bool {
    (1..=100).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c.is_whitespace())
}

/// Template files with the names that they go by.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let main = folder.join("chat_template.jinja");
    if main.is_file() {
        found.push((DEFAULT.to_owned(), main));
    }
    let more = folder.join("additional_chat_templates");
    if !more.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(&more).map_err(|error| Error::io(&more, "list", error))? {
        let path = entry.map_err(|error| Error::io(&more, "list", error))?.path();
        let is_template = path.extension().is_some_and(|ending| ending == "jinja") && path.is_file();
        let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_plain(name));
        if let Some(name) = name.filter(|_| is_template) {
            found.push((name.to_owned(), path));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    let length = std::fs::metadata(path).map_err(|error| Error::io(path, "look at", error))?.len();
    if length > LARGEST {
        return Err(Error::malformed("size", "a template of at most 1 MiB", length).in_file(path));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    if let Some(error) = mistaken(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(error.in_file(path));
    }
    String::from_utf8(bytes).map_err(|error| Error::malformed("content", "UTF-8", error).in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Templates of a folder with these files, and what is said about them.
    fn set(files: &[(&str, String)]) -> Result<(Metadata, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let mut metadata = Metadata::new();
        let remarks = set_chat_templates(folder.path(), &mut metadata)?;
        Ok((metadata, remarks))
    }

    fn config(template: &Json) -> (&'static str, String) {
        ("tokenizer_config.json", json!({ "chat_template": template }).to_string())
    }

    #[test]
    fn every_form_is_read() {
        let forms = [
            json!([{ "name": "tools", "template": "T" }, { "name": "default", "template": "D" }]),
            json!({ "tools": "T", "default": "D" }),
        ];
        for form in forms {
            let (metadata, remarks) = set(&[config(&form)]).unwrap();
            assert_eq!(metadata.str(KEY).unwrap(), Some("D"), "{form}");
            assert_eq!(metadata.str("tokenizer.chat_template.tools").unwrap(), Some("T"), "{form}");
            assert_eq!(metadata.require_array("tokenizer.chat_templates").unwrap().string(0), Some("tools"));
            assert!(remarks.is_empty(), "{remarks:?}");
        }
        let files = [
            config(&json!("C")),
            ("chat_template.json", json!({ "chat_template": "P" }).to_string()),
            ("chat_template.jinja", "J".to_owned()),
            ("additional_chat_templates/rag.jinja", "R".to_owned()),
        ];
        for (count, expected) in [(1, "C"), (2, "P"), (3, "J"), (4, "J")] {
            let (metadata, _) = set(&files[..count]).unwrap();
            assert_eq!(metadata.str(KEY).unwrap(), Some(expected));
            let more = metadata.str("tokenizer.chat_template.rag").unwrap();
            assert_eq!(more, (count == 4).then_some("R"));
        }
    }

    #[test]
    fn broken_ones_are_found() {
        let broken = "{% for m in messages %}{{ m.content }}".to_owned();
        for (files, expected) in [
            (vec![("chat_template.jinja", broken.clone())], "chat_template.jinja"),
            (vec![config(&json!(broken))], "tokenizer_config.json"),
            (vec![config(&json!(7))], "names with texts"),
            (vec![config(&json!([{ "name": "default" }]))], "names with texts"),
            (
                vec![("chat_template.jinja", "version https://git-lfs.github.com/spec/v1\n".into())],
                "git lfs pull",
            ),
        ] {
            let message = set(&files).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let (metadata, remarks) = set(&[config(&json!({ "default": "D", "tools": broken }))]).unwrap();
        assert_eq!(metadata.str(KEY).unwrap(), Some("D"));
        assert!(metadata.get("tokenizer.chat_template.tools").is_none());
        assert!(remarks[0].contains("\"tools\" is left out"), "{remarks:?}");
        let (_, remarks) = set(&[config(&json!("{{ messages | nonsense }}"))]).unwrap();
        assert!(remarks[0].contains("nonsense"), "{remarks:?}");
    }
}
