//! PyTorch files: a zip whose `data.pkl` describes tensors as views (offset, shape, strides) of storages, which lie
//! uncompressed beside it. Finds the state dict and, where a trainer stored one, the configuration.

use super::contents::{Checkpoint, Dtype, Found, MAX_AXES};
use super::memory::Bytes;
use super::pickle::{Id, Node, Pickle};
use moewe_engine::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

/// Largest description; that of a model with 100,000 tensors and its optimizer is smaller.
const MAX_PICKLE: usize = 64 << 20;
/// Most values that a configuration may have.
const MAX_CONFIG_VALUES: usize = 10_000;
/// Keys under which trainers put the state dict, most telling first.
const WRAPPERS: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];
/// Keys under which trainers put the configuration.
const CONFIGS: [&str; 4] = ["config", "model_args", "hparams", "args"];

/// Adds every tensor of one file, and its configuration where it has one.
pub(super) fn add(checkpoint: &mut Checkpoint, path: &Path, bytes: Bytes) -> Result<()> {
    let archive = Archive::open(&bytes).map_err(|e| e.in_file(path))?;
    let pickle = Pickle::read(&bytes[archive.description.clone()]).map_err(|e| e.in_file(path))?;
    let file = checkpoint.files.len();
    let found = state_dict(&pickle, pickle.root, 0)
        .ok_or_else(|| Error::malformed("data.pkl", "a dictionary of tensors", "none"))
        .and_then(|dict| tensors(&pickle, dict, &archive, file))
        .map_err(|e| e.in_file(path))?;
    if let Some(config) = config(&pickle) {
        checkpoint.config = config;
    }
    checkpoint.add_file(path, bytes);
    found.into_iter().try_for_each(|tensor| checkpoint.add_tensor(tensor)).map_err(|e| e.in_file(path))
}

/// Where the parts of the zip lie in the file.
struct Archive {
    description: Range<usize>,
    storages: HashMap<String, Range<usize>>,
}

impl Archive {
    fn open(bytes: &[u8]) -> Result<Self> {
        let broken = |e: zip::result::ZipError| Error::malformed("zip", "a readable archive", e);
        // The directory stands at the end, so that is what a download that broke off lacks.
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
            let whole = "a whole archive with its directory at the end";
            Error::malformed("zip", whole, format!("{error}: the file may be incomplete, download it again"))
        })?;
        let mut description = None;
        let mut storages = HashMap::new();
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(broken)?;
            let name = entry.name().to_owned();
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let range = start.zip(usize::try_from(entry.size()).ok()).and_then(|(start, size)| {
                let end = start.checked_add(size)?;
                (end <= bytes.len()).then_some(start..end)
            });
            let range = range.ok_or_else(|| {
                Error::malformed(format!("zip entry {name}"), "data within the file", "its end")
            })?;
            let is_description = name == "data.pkl" || name.ends_with("/data.pkl");
            let key = name.split_once("/data/").map(|(_, key)| key).or_else(|| name.strip_prefix("data/"));
            if (is_description || key.is_some()) && entry.compression() != zip::CompressionMethod::Stored {
                let hint = "torch stores its files uncompressed: pack it again without compression";
                return Err(Error::unsupported(format!("zip entry {name} is compressed"), hint));
            }
            if is_description {
                description = Some(range);
            } else if let Some(key) = key {
                storages.insert(key.to_owned(), range);
            } else if name.ends_with("byteorder") && &bytes[range] == b"big" {
                return Err(Error::unsupported(
                    "the file is big-endian",
                    "save it on a little-endian machine",
                ));
            }
        }
        let description = description.ok_or_else(|| Error::malformed("zip", "an entry data.pkl", "none"))?;
        if description.len() > MAX_PICKLE {
            return Err(Error::malformed(
                "data.pkl",
                format!("at most {MAX_PICKLE} bytes"),
                description.len(),
            ));
        }
        Ok(Self { description, storages })
    }
}

/// The dictionary that holds tensors, seen through at most three wrappers.
fn state_dict(pickle: &Pickle, id: Id, depth: usize) -> Option<Id> {
    let entries = pickle.entries(id)?;
    if entries.iter().any(|&(_, value)| tensor_args(pickle, value).is_some()) {
        return Some(id);
    }
    if depth == 3 {
        return None;
    }
    WRAPPERS.iter().find_map(|key| state_dict(pickle, pickle.get(id, key)?, depth + 1))
}

/// The arguments of the call that would make a tensor (or a parameter around one).
fn tensor_args<'p>(pickle: &'p Pickle, id: Id) -> Option<&'p [Id]> {
    let Node::Object { args, .. } = *pickle.node(id) else { return None };
    match pickle.class(id)? {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => pickle.items(args),
        "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
            let inner = *pickle.items(args)?.first()?;
            // One level only: parameters hold tensors, not parameters.
            let Node::Object { args, .. } = *pickle.node(inner) else { return None };
            pickle.class(inner)?.starts_with("_rebuild_tensor").then(|| pickle.items(args))?
        }
        _ => None,
    }
}

fn tensors(pickle: &Pickle, dict: Id, archive: &Archive, file: usize) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for &(key, value) in pickle.entries(dict).unwrap_or_default() {
        let (Some(name), Some(args)) = (pickle.text(key), tensor_args(pickle, value)) else { continue };
        found.push(tensor(pickle, name, args, archive, file)?);
    }
    Ok(found)
}

fn tensor(pickle: &Pickle, name: &str, args: &[Id], archive: &Archive, file: usize) -> Result<Found> {
    let broken = |expected: &str, found: &str| Error::malformed(format!("tensor {name}"), expected, found);
    let &[storage, offset, shape, strides, ..] = args else {
        return Err(broken("storage, offset, shape and strides", "fewer"));
    };
    let sizes = |id: Id| -> Option<Vec<u64>> {
        pickle.items(id)?.iter().take(MAX_AXES + 1).map(|&item| pickle.size(item)).collect()
    };
    let (dtype, range) = storage_of(pickle, storage, archive).map_err(|e| rename(e, name))?;
    let (shape, strides) =
        sizes(shape).zip(sizes(strides)).ok_or_else(|| broken("shape and strides", "other values"))?;
    let skip =
        pickle.size(offset).and_then(|offset| usize::try_from(offset.checked_mul(dtype.bytes())?).ok());
    let start = skip.and_then(|skip| range.start.checked_add(skip)).filter(|&start| start <= range.end);
    let start = start.ok_or_else(|| broken("an offset within the storage", "one beyond"))?;
    Ok(Found { name: name.to_owned(), dtype, shape, strides, file, start, end: range.end })
}

fn rename(error: Error, name: &str) -> Error {
    match error {
        Error::Malformed { expected, found, .. } => {
            Error::malformed(format!("tensor {name}"), expected, found)
        }
        Error::Unsupported { what, hint, .. } => Error::unsupported(format!("tensor {name}: {what}"), hint),
        other => other,
    }
}

/// Element type and place of `('storage', class, key, device, elements)`.
fn storage_of(pickle: &Pickle, id: Id, archive: &Archive) -> Result<(Dtype, Range<usize>)> {
    let broken = |found: &str| Error::malformed("", "a reference to a storage", found);
    let Node::Persistent(reference) = *pickle.node(id) else { return Err(broken("another value")) };
    let Some(&[_, class, key, ..]) = pickle.items(reference) else { return Err(broken("too few fields")) };
    let Node::Global(_, class) = *pickle.node(class) else { return Err(broken("no storage class")) };
    let dtype = match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        other => {
            let hint = "weights may be stored as float, half, bfloat16 or double";
            return Err(Error::unsupported(format!("storage class {other}"), hint));
        }
    };
    let key = pickle.text(key).ok_or_else(|| broken("no key"))?;
    let range = archive.storages.get(key).cloned();
    Ok((dtype, range.ok_or_else(|| broken("one that the file does not hold"))?))
}

/// The configuration that a trainer stored beside the state dict; an object's class stands under `architectures`.
fn config(pickle: &Pickle) -> Option<Value> {
    let id = CONFIGS.iter().find_map(|key| pickle.get(pickle.root, key))?;
    let mut budget = MAX_CONFIG_VALUES;
    let Some(Value::Object(mut map)) = to_json(pickle, id, 8, &mut budget) else { return None };
    if let Some(class) = pickle.class(id) {
        map.entry("architectures").or_insert_with(|| Value::from(vec![class]));
    }
    Some(Value::Object(map))
}

/// Plain values as JSON; `None` where the configuration is too large. Shared nodes are written out again, which is
/// why steps are counted.
fn to_json(pickle: &Pickle, id: Id, depth: usize, budget: &mut usize) -> Option<Value> {
    *budget = budget.checked_sub(1)?;
    if depth == 0 {
        return Some(Value::Null);
    }
    Some(match pickle.node(id) {
        Node::Bool(value) => Value::from(*value),
        Node::Int(value) => Value::from(*value),
        Node::Float(value) => Value::from(*value),
        Node::Text(text) => Value::from(*text),
        Node::List(items) | Node::Tuple(items) => {
            items.iter().map(|&item| to_json(pickle, item, depth - 1, budget)).collect::<Option<_>>()?
        }
        _ => {
            let Some(entries) = pickle.entries(id) else { return Some(Value::Null) };
            let mut map = Map::new();
            for &(key, value) in entries {
                if let Some(key) = pickle.text(key) {
                    map.insert(key.to_owned(), to_json(pickle, value, depth - 1, budget)?);
                }
            }
            Value::Object(map)
        }
    })
}
