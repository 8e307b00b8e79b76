//! Finds the weight files of a folder and the configuration beside them.

use super::{Checkpoint, memory::Bytes, safetensors, torch};
use moewe_engine::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Largest JSON file that is read: the index of a thousand shards stays far below.
const MAX_JSON: u64 = 64 << 20;

/// Files that trainers (and reference runs) leave beside the weights and that hold none.
const NOT_WEIGHTS: [&str; 6] = [
    "training_args.bin",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scheduler.bin",
    "expected.safetensors",
];

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let files = if path.is_dir() { weight_files(path)? } else { vec![path.to_owned()] };
    let mut checkpoint = Checkpoint::new(folder.to_owned());
    for file in &files {
        add_file(&mut checkpoint, file)?;
    }
    let config = folder.join("config.json");
    if config.is_file() {
        checkpoint.config = read_json(&config)?;
    }
    if !checkpoint.config.is_object() {
        return Err(Error::unsupported(
            format!("{}: no configuration (a config.json with an object in it)", folder.display()),
            "put the model's config.json beside the weights",
        ));
    }
    Ok(checkpoint)
}

/// Reads one weight file, whatever its name says it is.
fn add_file(checkpoint: &mut Checkpoint, path: &Path) -> Result<()> {
    add_bytes(checkpoint, path, Bytes::open(path)?)
}

pub(super) fn add_bytes(checkpoint: &mut Checkpoint, path: &Path, bytes: Bytes) -> Result<()> {
    if bytes.starts_with(b"PK\x03\x04") {
        torch::add(checkpoint, path, bytes)
    } else if bytes.len() > 8 && bytes[8] == b'{' {
        safetensors::add(checkpoint, path, bytes)
    } else {
        Err(Error::unsupported(
            format!("{}: neither safetensors nor a PyTorch zip file", path.display()),
            "files written by torch before version 1.6: load and save them again with a newer torch",
        ))
    }
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for (index, single) in [
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ] {
        if folder.join(index).is_file() {
            return shards(folder, &folder.join(index));
        }
        if folder.join(single).is_file() {
            return Ok(vec![folder.join(single)]);
        }
    }
    let mut found = listed(folder)?;
    match found.len() {
        1 => Ok(vec![found.remove(0)]),
        0 => Err(Error::unsupported(
            format!("{}: no weights (*.safetensors, *.pt, *.pth, *.bin)", folder.display()),
            "give the folder of a Hugging Face checkpoint or a weight file",
        )),
        _ => {
            let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).take(8).collect();
            let hint = format!("name one of them: {}", names.join(", "));
            Err(Error::unsupported(format!("{}: several weight files", folder.display()), hint))
        }
    }
}

/// Weight files by their endings, sorted; safetensors win over pickles.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    let mut by_ending = [Vec::new(), Vec::new()];
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "list", e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if NOT_WEIGHTS.contains(&name) || name.starts_with("rng_state") {
            continue;
        }
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => by_ending[0].push(path),
            Some("pt" | "pth" | "bin") => by_ending[1].push(path),
            _ => {}
        }
    }
    let [safetensors, pickles] = by_ending;
    let mut found = if safetensors.is_empty() { pickles } else { safetensors };
    found.sort();
    Ok(found)
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
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
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a name stays in the folder that it is joined to.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\'])
}

/// A JSON file of bounded size.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?.len();
    if size > MAX_JSON {
        return Err(Error::malformed("size", format!("at most {MAX_JSON} bytes"), size).in_file(path));
    }
    let text = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    // Older exports hold NaN or Infinity in unused fields; JSON does not, so such files fail here.
    serde_json::from_slice(&text).map_err(|e| Error::malformed("contents", "JSON", e).in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_stay_in_the_folder() {
        for name in ["model-00001-of-00002.safetensors", "a.bin"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "a/"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
