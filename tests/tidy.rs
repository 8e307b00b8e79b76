//! Keeps the house: layers, sizes, module docs, and where unsafe code may stand.
//!
//! A broken rule is named with its file; ARCHITECTURE.md says why each exists.

#[path = "tidy/golden.rs"]
mod golden;
#[path = "tidy/graph.rs"]
mod graph;

use graph::Graph;
use moewe_engine::model::ARCHITECTURES;
use regex::Regex;
use std::path::{Path, PathBuf};
use std::process::Command;

const LONGEST_FILE: usize = 500;
const LARGEST_TRACKED: u64 = 5_000_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files under version control, or all of the working tree where there is none.
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = output.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty());
            names.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned())).collect()
        }
        _ => walk(root()),
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && entry.file_name() != "target" {
            files.extend(walk(&path));
        } else if path.is_file() {
            files.push(path.strip_prefix(root()).unwrap_or(&path).to_owned());
        }
    }
    files
}

fn rust_files() -> Vec<(String, String)> {
    let files =
        tracked().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
        .filter_map(|path| {
            Some((
                path.to_string_lossy().replace('\\', "/"),
                std::fs::read_to_string(root().join(&path)).ok()?,
            ))
        })
        .collect()
}

#[track_caller]
fn expect_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_says_what_it_owns() {
    let broken = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path);
    expect_none("every Rust file opens with `//!`", broken.collect());
}

#[test]
fn files_stay_short() {
    let long = rust_files().into_iter().filter(|(_, text)| text.lines().count() > LONGEST_FILE);
    let long = long.map(|(path, text)| format!("{path}: {} lines", text.lines().count()));
    expect_none("no Rust file over 500 lines", long.collect());
}

/// A crate's name and where its code is.
const CRATES: [(&str, &str); 4] = [
    ("moewe", "src/"),
    ("moewe_engine", "engine/src/"),
    ("moewe_convert", "convert/src/"),
    ("moewe_train", "train/src/"),
];

fn graph((name, place): (&str, &str)) -> Graph {
    let files = rust_files().into_iter();
    let inside = files.filter_map(|(path, text)| Some((path.strip_prefix(place)?.to_owned(), text)));
    Graph::new(name, &inside.collect::<Vec<_>>())
}

/// The order of the layers is that of `lib.rs`.
#[test]
fn engine_modules_use_only_the_layers_above_them() {
    let lib = std::fs::read_to_string(root().join("engine/src/lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    let order: Vec<&str> = declared.collect();
    let layer = |name: &str| order.iter().position(|known| *known == name);
    assert!(order.len() > 15 && layer("error") == Some(0), "the layers of lib.rs: {order:?}");
    let mut broken = vec![];
    for (own, used) in graph(CRATES[1]).siblings(&[]) {
        let below = used.iter().filter(|used| layer(used) > layer(&own));
        broken.extend(below.map(|used| format!("`{own}` uses `{used}`, which stands below it")));
    }
    expect_none("a layer uses only those above it", broken);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut found = vec![];
    for of in CRATES {
        found.extend(graph(of).circles().into_iter().map(|circle| format!("{}::{circle}", of.0)));
    }
    expect_none("of files side by side, none uses one that uses it", found);
}

/// A folder's own file stands on top of the folder.
#[test]
fn kernels_use_nothing_of_the_file_around_them() {
    expect_none("what is used stands beside or below", graph(CRATES[1]).upward(&["kernels".to_owned()]));
}

/// What code would call an architecture: its name in both spellings, and the word that the name begins with, which is a
/// family's where it is long enough to be one.
fn spellings(name: &str) -> Vec<String> {
    let family: String = name.chars().take_while(char::is_ascii_alphabetic).collect();
    // Dots are products, too.
    let is_word = |family: &str| family == "dots" || name.starts_with("moe");
    let family = Some(family).filter(|family| family.len() >= 4 && !is_word(family));
    [name.to_owned(), name.replace('-', "_")].into_iter().chain(family).collect()
}

#[test]
fn only_the_door_names_an_architecture() {
    // Families whose checkpoints become files of another architecture.
    let others = ["mixtral", "mistral", "tachyon", "granite", "bailing"].map(str::to_owned);
    let names: Vec<String> =
        ARCHITECTURES.iter().flat_map(|known| spellings(known.name)).chain(others).collect();
    assert!(
        names.iter().any(|name| name == "qwen") && names.iter().any(|name| name == "gpt_oss"),
        "{names:?}"
    );
    let forward = [
        "engine/src/model/transformer.rs",
        "engine/src/model/backend/",
        "engine/src/kernels/",
        "engine/src/experts/",
    ];
    let mut broken = vec![];
    for (path, text) in
        rust_files().into_iter().filter(|(path, _)| forward.iter().any(|room| path.starts_with(room)))
    {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let named = code
            .flat_map(|line| names.iter().filter(move |name| line.to_lowercase().contains(name.as_str())));
        broken.extend(named.map(|name| format!("{path}: {name}")));
    }
    expect_none("the forward names no architecture", broken);
}

/// Where unsafe code may stand: the one list of it is a sentence of ARCHITECTURE.md.
fn unsafe_rooms() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let sentence = page
        .lines()
        .find_map(|line| line.split_once("`unsafe` stands in ")?.1.split_once(", and nowhere else"));
    let (sentence, _) = sentence.expect("ARCHITECTURE.md says where unsafe code stands");
    let name = Regex::new("`([^`]+)`").unwrap();
    let mut rooms = vec![];
    for part in sentence.split(", in ") {
        let (names, owner) = part.rsplit_once(" of the ").expect("whose rooms they are");
        let folder = match owner {
            "engine" => "engine/src/",
            "trainer" => "train/src/",
            other => panic!("ARCHITECTURE.md speaks of unsafe code of the {other}"),
        };
        rooms.extend(name.captures_iter(names).map(|found| format!("{folder}{}", &found[1])));
    }
    assert!(rooms.len() >= 6, "{rooms:?}");
    rooms
}

/// The compiler denies it elsewhere, so only rooms may allow it, and all of them have to.
#[test]
fn unsafe_code_stays_in_its_rooms() {
    let rooms = unsafe_rooms();
    let (allowed, block) =
        (concat!("allow(unsafe", "_code"), Regex::new(r"\bunsafe\s*(\{|fn|impl)").unwrap());
    let inside = |path: &str| rooms.iter().position(|room| path.starts_with(room.as_str()));
    let (mut broken, mut idle) = (vec![], rooms.clone());
    for (path, text) in rust_files().into_iter().filter(|(path, _)| path.contains("src/")) {
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let allows = code.contains(allowed);
        match inside(&path) {
            Some(room) if allows => idle.retain(|other| *other != rooms[room]),
            Some(_) => {}
            None if allows || block.is_match(&code) => broken.push(path),
            None => {}
        }
    }
    expect_none("unsafe code stands only where ARCHITECTURE.md says", broken);
    expect_none("a room without unsafe code leaves ARCHITECTURE.md", idle);
}

#[test]
fn golden_files_are_those_of_their_list() {
    expect_none("`tests/golden/SHA256SUMS` fits its folder", golden::differences(root(), &tracked()));
}

#[test]
fn no_large_file_outside_models_and_golden() {
    let large =
        tracked().into_iter().filter(|path| !path.starts_with("models") && !path.starts_with("tests/golden"));
    let large =
        large.filter(|path| root().join(path).metadata().is_ok_and(|data| data.len() > LARGEST_TRACKED));
    expect_none("no tracked file over 5 MB", large.map(|path| path.display().to_string()).collect());
}

/// The first line of each PTX file has the sum of the sources that it was made of (`kernels/ptx.sh`).
#[test]
fn kernels_for_cards_are_those_of_their_sources() {
    let folder = root().join("engine/src/cuda");
    let mut sources: Vec<_> =
        std::fs::read_dir(folder.join("kernels")).unwrap().map(|e| e.unwrap().path()).collect();
    let rank = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        (["h", "cuh", "cu"].iter().position(|known| *known == ending), path.clone())
    };
    sources.retain(|path| rank(path).0.is_some());
    sources.sort_by_key(rank);
    let bytes: Vec<u8> = sources.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    let expected = format!("// moewe kernels {} {}", cksum(&bytes), bytes.len());
    let stale =
        std::fs::read_dir(folder.join("ptx")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
            std::fs::read_to_string(path).unwrap().lines().next().is_none_or(|line| line != expected)
        });
    expect_none(
        &format!("kernels/ptx.sh has made all PTX of today's sources ({expected})"),
        stale.map(|path| path.display().to_string()).collect(),
    );
}

/// What POSIX' `cksum` prints first.
fn cksum(bytes: &[u8]) -> u32 {
    let mut length = bytes.len();
    let mut digits = vec![];
    while length > 0 {
        digits.push(length as u8);
        length >>= 8;
    }
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 }
        })
    };
    !bytes.iter().chain(&digits).fold(0, step)
}
