//! Which files of a folder hold the weights, in the order in which transformers looks for them: a whole file goes before
//! an index, which may be of an earlier save, and safetensors before pickles. What is passed over is named.

use crate::json;
use moewe_engine::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files that trainers (and reference runs) leave beside the weights and that hold none.
const NOT_WEIGHTS: [&str; 6] = [
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scheduler.bin",
    "expected.safetensors",
];

/// Where weights are looked for, and whether that is an index of shards.
const PLACES: [(&str, Kind); 4] = [
    ("model.safetensors", Kind::Weights),
    ("model.safetensors.index.json", Kind::Index),
    ("pytorch_model.bin", Kind::Weights),
    ("pytorch_model.bin.index.json", Kind::Index),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Weights,
    Index,
}

/// The weights of a folder.
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    /// What else looks like weights, and why it is not read.
    pub(super) leftovers: Vec<String>,
}

pub(super) fn weight_files(folder: &Path, config: &Value) -> Result<Found> {
    if folder.join("adapter_config.json").exists() {
        return Err(Error::unsupported(
            format!("{}: an adapter (adapter_config.json), not a model", folder.display()),
            "merge it into its base first (PEFT: merge_and_unload, then save_pretrained); if its weights are merged, remove adapter_config.json",
        ));
    }
    let places = match &config["transformers_weights"] {
        Value::Null => PLACES.to_vec(),
        name => vec![named(name)?],
    };
    let present = places.iter().copied().find(|(name, _)| folder.join(name).is_file());
    let files = match present {
        Some((name, Kind::Weights)) => vec![folder.join(name)],
        Some((name, Kind::Index)) => shards(folder, &folder.join(name))?,
        None => vec![only_one(folder)?],
    };
    let why = match present {
        Some((name, _)) => format!("{name} goes first"),
        None => "safetensors go first".to_owned(),
    };
    let read: BTreeSet<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let indices = PLACES.iter().filter(|(name, kind)| *kind == Kind::Index && folder.join(name).is_file());
    let indices =
        indices.map(|(name, _)| (*name).to_owned()).filter(|name| present.is_none_or(|p| p.0 != name));
    let [safetensors, pickles] = by_ending(folder)?;
    let names =
        safetensors.iter().chain(&pickles).filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let mut over: Vec<String> = names.filter(|name| !read.contains(name.as_str())).chain(indices).collect();
    over.sort();
    let line = format!("not read: {} ({why})", over.join(", "));
    Ok(Found { files, leftovers: if over.is_empty() { vec![] } else { vec![line] } })
}

/// The file that a configuration names.
fn named(name: &Value) -> Result<(&str, Kind)> {
    let place = "config, transformers_weights";
    let name = name.as_str().filter(|name| is_plain(name));
    let name =
        name.ok_or_else(|| Error::malformed(place, "the name of a file beside it", "another value"))?;
    Ok((name, if name.ends_with(".json") { Kind::Index } else { Kind::Weights }))
}

/// The weight file of a folder without any of the usual names.
fn only_one(folder: &Path) -> Result<PathBuf> {
    let [safetensors, pickles] = by_ending(folder)?;
    let mut found = if safetensors.is_empty() { pickles } else { safetensors };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::unsupported(
            format!("{}: no weights (*.safetensors, *.pt, *.pth, *.bin)", folder.display()),
            "give the folder of a Hugging Face checkpoint or a weight file",
        )),
        _ => {
            let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            let shards = names.iter().filter(|name| name.contains("-of-")).count();
            let shown = names[..names.len().min(8)].join(", ");
            let hint = match shards {
                0 => format!("name one of them: {shown}"),
                _ => format!("shards need their index (model.safetensors.index.json): {shown}"),
            };
            Err(Error::unsupported(format!("{}: several weight files", folder.display()), hint))
        }
    }
}

/// Weight files by their endings, sorted: safetensors and pickles.
fn by_ending(folder: &Path) -> Result<[Vec<PathBuf>; 2]> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    let mut found = [Vec::new(), Vec::new()];
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "list", e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if NOT_WEIGHTS.contains(&name) || name.starts_with("rng_state") {
            continue;
        }
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => found[0].push(path),
            Some("pt" | "pth" | "bin") => found[1].push(path),
            _ => {}
        }
    }
    found.iter_mut().for_each(|paths| paths.sort());
    Ok(found)
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = json::read(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::malformed("weight_map", "an object", "none").in_file(index))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain(name));
        let name = name.ok_or_else(|| {
            Error::malformed(format!("weight_map, {tensor}"), "the name of a file beside it", file)
                .in_file(index)
        })?;
        names.insert(name);
    }
    let missing: Vec<_> = names.iter().copied().filter(|name| !folder.join(name).exists()).collect();
    if !missing.is_empty() {
        let (count, all) = (missing.len(), names.len());
        let shown = missing[..count.min(8)].join(", ");
        return Err(Error::unsupported(
            format!("{count} of {all} shards are missing: {shown}"),
            "the download is incomplete; fetch them into the folder",
        )
        .in_file(index));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a name stays in the folder that it is joined to.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\'])
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
