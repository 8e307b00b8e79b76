//! Which of a repository's files are meant: by a format's name, by a path, or by what most people take.
//!
//! Whole words of names decide, so Q4_K is not Q4_K_M. What was chosen is always said.

use super::digest::Digest;
use super::name::is_safe;
use anyhow::{Result, bail};
use std::fmt::Write;

/// What is preferred where nothing is asked for: the first format that is there.
const PREFERRED: &[&str] = &["Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL"];
const SHOWN: usize = 24; // models in a list

/// A file of a repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) digest: Option<Digest>,
}

/// A model of a repository: a file, or all parts of a split one.
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// What its file is called, without the part's number.
    pub(super) stem: String,
    pub(super) parts: Vec<&'a Entry>,
    expected: usize,
}

impl Group<'_> {
    pub(super) fn size(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.size))
    }

    fn shown(&self) -> String {
        format!("{} ({})", self.stem.rsplit('/').next().unwrap_or(&self.stem), size(self.size()))
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// A model, and why it was taken.
pub(super) struct Chosen<'a> {
    pub(super) group: Group<'a>,
    pub(super) why: String,
    /// Whether it was taken because nothing was asked for and there are several.
    pub(super) is_guess: bool,
}

/// The last part of a path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether every part of a path may be one of ours.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.split('/').all(is_safe)
}

/// Number and count of `NAME-00001-of-00003.gguf`, and the stem.
fn split(path: &str) -> (&str, usize, usize) {
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    let number = |text: &str| {
        let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let parts = stem.rsplit_once("-of-").and_then(|(rest, count)| {
        let (name, part) = rest.rsplit_once('-')?;
        Some((name, number(part)?, number(count)?))
    });
    parts.unwrap_or((stem, 1, 1))
}

/// Whether a GGUF file is something else than a language model.
fn is_other(path: &str) -> bool {
    let name = base(path).to_lowercase();
    ["mmproj", "mtp-", "ggml-vocab"].iter().any(|start| name.starts_with(start))
        || ["imatrix", ".draft", "-vocab-only", "mmproj"].iter().any(|part| name.contains(part))
}

/// All models of a repository.
pub(super) fn groups(entries: &[Entry]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    let models = entries.iter().filter(|entry| entry.path.ends_with(".gguf") && !is_other(&entry.path));
    for entry in models.filter(|entry| is_safe_path(&entry.path)) {
        let (stem, _, expected) = split(&entry.path);
        match groups.iter_mut().find(|group| group.stem == stem && group.expected == expected) {
            Some(group) => group.parts.push(entry),
            None => groups.push(Group { stem: stem.to_owned(), parts: vec![entry], expected }),
        }
    }
    groups.iter_mut().for_each(|group| group.parts.sort_by_key(|part| split(&part.path).1));
    groups
}

/// Whether `word` stands in a name by itself.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_uppercase(), word.to_uppercase());
    let ends = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    name.match_indices(&word).any(|(at, found)| {
        ends(name[..at].chars().next_back()) && ends(name[at + found.len()..].chars().next())
    })
}

/// The model that is meant.
///
/// # Errors
/// None or several fit, or parts are missing; the message lists what there is.
pub(super) fn choose<'a>(entries: &'a [Entry], tag: Option<&str>, file: Option<&str>) -> Result<Chosen<'a>> {
    let groups = groups(entries);
    if groups.is_empty() {
        match entries.iter().find(|entry| entry.path.ends_with(".gguf") && !is_safe_path(&entry.path)) {
            Some(odd) => bail!("the file '{}' has a name that is not taken", odd.path.escape_debug()),
            None => bail!("there is no GGUF model"),
        }
    }
    let all = list(&groups);
    let (at, why) = match (file, tag) {
        (Some(file), _) => (by_file(&groups, file)?, "as named".to_owned()),
        (None, Some(tag)) => (by_tag(&groups, tag, &all)?, format!("by {tag}")),
        (None, None) => by_preference(&groups, &all)?,
    };
    let is_guess = file.is_none() && tag.is_none() && groups.len() > 1;
    let group = groups.into_iter().nth(at);
    let Some(group) = group else { bail!("there is no GGUF model") };
    let numbers = group.parts.iter().map(|part| split(&part.path).1);
    if !numbers.eq(1..=group.expected) {
        bail!("{}: {} of {} parts are there", group.stem, group.parts.len(), group.expected);
    }
    Ok(Chosen { group, why, is_guess })
}

fn list(groups: &[Group<'_>]) -> String {
    let shown: Vec<_> = groups.iter().take(SHOWN).map(Group::shown).collect();
    let mut text = shown.join(", ");
    if groups.len() > SHOWN {
        let _ = write!(text, " and {} more", groups.len() - SHOWN);
    }
    text
}

fn by_file(groups: &[Group<'_>], file: &str) -> Result<usize> {
    let (stem, _, count) = split(file);
    let fits = |group: &Group| group.stem == stem && group.expected == count;
    let found = groups.iter().position(fits);
    // A path may be given without its folders, as our own folder has it.
    let found = found.or_else(|| groups.iter().position(|group| base(&group.stem) == stem));
    if let Some(found) = found {
        return Ok(found);
    }
    let mut near: Vec<_> = groups.iter().flat_map(|group| group.parts.first()).collect();
    near.sort_by_key(|part| strsim::levenshtein(base(&part.path), base(file)));
    let near: Vec<_> = near.iter().take(5).map(|part| part.path.as_str()).collect();
    bail!("there is no {file}; near it are {}", near.join(", "))
}

fn by_tag(groups: &[Group<'_>], tag: &str, all: &str) -> Result<usize> {
    let fit: Vec<usize> = (0..groups.len()).filter(|&i| has_word(&groups[i].stem, tag)).collect();
    // Of several the plain one: UD-Q4_K_XL is meant only where it is said.
    let plain = fit.iter().copied().filter(|&i| !has_word(&groups[i].stem, &format!("UD-{tag}")));
    match (fit.as_slice(), plain.collect::<Vec<_>>().as_slice()) {
        ([one], _) | (_, [one]) => Ok(*one),
        ([], _) => bail!("nothing is called {tag}; there are {all}"),
        _ => {
            let some: Vec<_> = fit.iter().map(|&i| groups[i].parts[0].path.as_str()).collect();
            bail!("several models are called {tag}; name one: {}", some.join(", "))
        }
    }
}

fn by_preference(groups: &[Group<'_>], all: &str) -> Result<(usize, String)> {
    if groups.len() == 1 {
        return Ok((0, "the only model there".to_owned()));
    }
    for tag in PREFERRED {
        if let Ok(found) = by_tag(groups, tag, all) {
            return Ok((found, format!("{tag}, which is taken where none is named; there are {all}")));
        }
    }
    bail!("which one? name a format, such as :{}; there are {all}", tag_of(&groups[0].stem))
}

/// The format in a file's name, as far as it can be guessed.
fn tag_of(stem: &str) -> &str {
    stem.rsplit(['-', '.', '/']).next().unwrap_or(stem)
}

/// Files of a checkpoint: weights and all that describes them, from the repository's own folder.
pub(super) fn checkpoint(entries: &[Entry]) -> Vec<&Entry> {
    let top = entries.iter().filter(|entry| is_safe(&entry.path));
    let top: Vec<&Entry> = top.collect();
    let has_model = top.iter().any(|entry| entry.path.starts_with("model") && is_weights(&entry.path));
    let has_index = top.iter().any(|entry| entry.path == "model.safetensors.index.json");
    let wanted = |entry: &&&Entry| match entry.path.as_str() {
        // Beside the weights of one layout those of another may lie.
        path if is_weights(path) => {
            !has_model || path.starts_with(if has_index { "model-" } else { "model" })
        }
        path => [".json", ".jinja", ".model", ".txt", ".tiktoken"].iter().any(|end| path.ends_with(end)),
    };
    let files: Vec<&Entry> = top.iter().filter(wanted).copied().collect();
    let is_whole = files.iter().any(|entry| is_weights(&entry.path))
        && files.iter().any(|entry| entry.path == "config.json");
    if is_whole { files } else { vec![] }
}

fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(paths: &[&str]) -> Vec<Entry> {
        let entry = |path: &&str| Entry { path: (*path).to_owned(), size: 1 << 30, digest: None };
        paths.iter().map(entry).collect()
    }

    fn stem(paths: &[&str], tag: Option<&str>, file: Option<&str>) -> Result<String> {
        choose(&entries(paths), tag, file).map(|chosen| chosen.group.stem)
    }

    #[test]
    fn the_word_decides() {
        let files = ["m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ3_M.gguf"];
        for (tag, found) in [
            (None, "m-Q4_K_M"),
            (Some("q8_0"), "m-Q8_0"),
            (Some("Q4_K_M"), "m-Q4_K_M"),
            (Some("UD-Q4_K_M"), "m-UD-Q4_K_M"),
            (Some("IQ3_M"), "m-IQ3_M"),
        ] {
            assert_eq!(stem(&files, tag, None).unwrap(), found, "{tag:?}");
        }
        for (tag, part) in [("Q4_K", "nothing is called Q4_K; there are m-Q4_K_S (1.1 GB)"), ("K", "nothing")]
        {
            let message = stem(&files, Some(tag), None).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let message = stem(&["a-Q8_0.gguf", "b-Q8_0.gguf"], Some("Q8_0"), None).unwrap_err().to_string();
        assert!(message.contains("several models are called Q8_0"), "{message}");
        let message = stem(&["a-Q8_0.gguf", "a-F16.gguf"], None, None).unwrap_err().to_string();
        assert!(message.contains("which one? name a format, such as :Q8_0"), "{message}");
        assert_eq!(
            stem(&["m-MXFP4.gguf", "mmproj-F16.gguf", "imatrix.gguf"], None, None).unwrap(),
            "m-MXFP4"
        );
    }

    #[test]
    fn parts_are_one_model_or_none() {
        let parts = ["Q2_K/m-Q2_K-00002-of-00002.gguf", "Q2_K/m-Q2_K-00001-of-00002.gguf", "m-Q8_0.gguf"];
        let all = entries(&parts);
        let chosen = choose(&all, Some("Q2_K"), None).unwrap();
        let paths: Vec<_> = chosen.group.parts.iter().map(|part| part.path.as_str()).collect();
        assert_eq!((paths, chosen.group.size()), (vec![parts[1], parts[0]], 2 << 30));
        let message = stem(&parts[..1], None, None).unwrap_err().to_string();
        assert!(message.contains("1 of 2 parts"), "{message}");
        assert_eq!(stem(&parts, None, Some("m-Q8_0.gguf")).unwrap(), "m-Q8_0");
        let message = stem(&parts, None, Some("m-Q8.gguf")).unwrap_err().to_string();
        assert!(message.contains("near it are m-Q8_0.gguf"), "{message}");
    }

    #[test]
    fn odd_names_are_never_chosen() {
        let message = stem(&["../../x.gguf"], None, None).unwrap_err().to_string();
        assert!(message.contains("name that is not taken"), "{message}");
        assert_eq!(stem(&["../../x-Q4_K_M.gguf", "y-Q8_0.gguf"], None, None).unwrap(), "y-Q8_0");
        assert!(stem(&["a.bin"], None, None).unwrap_err().to_string().contains("no GGUF"));
    }

    #[test]
    fn a_checkpoint_is_config_and_one_layout_of_weights() {
        let files = [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "consolidated.safetensors",
            "model.safetensors",
            "tokenizer.json",
            "merges.txt",
            "original/params.json",
            "README.md",
            "pytorch_model.bin",
        ];
        let all = entries(&files);
        let paths: Vec<_> = checkpoint(&all).iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, [files[0], files[1], files[2], files[5], files[6]]);
        assert!(checkpoint(&entries(&["model.safetensors"])).is_empty());
    }
}
