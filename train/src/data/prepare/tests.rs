//! Datasets made from small corpora, and what must hold for each of them.

use super::super::mixture::{Dataset, SourceSpec, Split};
use super::super::tokenizer;
use super::*;
use std::collections::BTreeSet;
use tempfile::TempDir;

/// A folder with the texts `name.txt` and a tokenizer of the bytes alone: id 0 ends, byte b has an id of its own.
fn folder(texts: &[(&str, &[String])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, documents) in texts {
        std::fs::write(folder.path().join(name).with_extension("txt"), documents.join("\n\n")).unwrap();
    }
    let settings = tokenizer::Settings {
        sources: sources(&folder, &texts.iter().map(|(name, _)| *name).collect::<Vec<_>>()),
        separator: Separator::BlankLine,
        vocabulary_size: 257,
        rules: &tokenizer::PRE_TOKENIZERS[0],
        special: vec![],
        stop: Arc::default(),
    };
    let (trained, _) = tokenizer::train(&settings, &mut |_| ()).unwrap();
    tokenizer::save(&trained, &folder.path().join("tokenizer.json"), false).unwrap();
    folder
}

fn sources(folder: &TempDir, names: &[&str]) -> Vec<Source> {
    let path = |name: &&str| folder.path().join(name).with_extension("txt").display().to_string();
    names.iter().map(|name| Source::parse(&path(name)).unwrap()).collect()
}

fn settings(folder: &TempDir, names: &[&str]) -> Settings {
    Settings {
        sources: sources(folder, names),
        separator: Separator::BlankLine,
        tokenizer: folder.path().join("tokenizer.json"),
        eos: None,
        context: 16,
        rows_per_shard: 7,
        holdout: 0.2,
        deduplicate: true,
        dtype: None,
        force: false,
        stop: Arc::default(),
    }
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("document {number} says {}", number * number)).collect()
}

/// All documents in a split of the dataset `out`, read back from its rows; the last may be cut.
fn read_back(folder: &TempDir, out: &str, source: &str, split: Split) -> Vec<String> {
    let path = folder.path().join(out);
    let spec = SourceSpec { name: source.to_owned(), folder: path.join(source), weight: None };
    let Ok(dataset) = Dataset::open(&[spec], split, 16, 257) else { return vec![] };
    let mut ids = vec![];
    let mut row = vec![0; 16];
    for index in 0..dataset.rows() {
        dataset.sequential(index, &mut row).unwrap();
        ids.extend_from_slice(&row);
    }
    let tokenizer = tokenizers::Tokenizer::from_file(path.join("tokenizer.json")).unwrap();
    ids.split(|&id| id == 0).map(|ids| tokenizer.decode(ids, false).unwrap()).collect()
}

#[test]
fn rows_hold_the_documents_in_order() {
    let all = texts(0..50);
    let folder = folder(&[("a", &all)]);
    let settings = Settings { holdout: 0.0, ..settings(&folder, &["a"]) };
    let manifest = prepare(&settings, &folder.path().join("out"), &mut |_| ()).unwrap();
    let read = read_back(&folder, "out", "a", Split::Train);
    assert_eq!(read[..45], all[..45]);
    let train = manifest.sources[0].train;
    let bytes: usize = all.iter().map(String::len).sum();
    assert_eq!((train.documents, train.bytes, train.tokens), (50, bytes as u64, bytes as u64 + 50));
    assert_eq!((train.rows, train.shards), (train.tokens / 16, (train.tokens / 16).div_ceil(7)));
    assert_eq!((manifest.dtype.as_str(), manifest.eos_id, manifest.vocabulary_size), ("<u2", 0, 257));
    assert_eq!(Manifest::read(&folder.path().join("out")).unwrap(), Some(manifest));
    assert!(folder.path().join("out/tokenizer_config.json").is_file());
    let file = std::fs::read(folder.path().join("out/a/train/shard_00001.npy")).unwrap();
    let independent = npyz::NpyFile::new(&file[..]).unwrap();
    assert_eq!(independent.shape(), [7, 16]);
}

#[test]
fn the_held_out_documents_do_not_depend_on_order_and_spacing() {
    let all = texts(0..400);
    let shuffled: Vec<String> = all.iter().rev().map(|text| text.replace(' ', "  ")).collect();
    let folder = folder(&[("a", &all), ("b", &shuffled)]);
    let mut splits = vec![];
    for name in ["a", "b"] {
        prepare(&settings(&folder, &[name]), &folder.path().join(format!("of_{name}")), &mut |_| ()).unwrap();
        let words = |split| -> BTreeSet<String> {
            let mut read = read_back(&folder, &format!("of_{name}"), name, split);
            read.pop(); // perhaps cut
            read.iter().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        let (train, valid) = (words(Split::Train), words(Split::Valid));
        assert!(train.is_disjoint(&valid));
        assert!((50..110).contains(&valid.len()) && train.len() > 280, "{} {}", train.len(), valid.len());
        splits.push((train, valid));
    }
    assert!(splits[0].1.is_disjoint(&splits[1].0) && splits[1].1.is_disjoint(&splits[0].0));
}

/// One long document and many short ones: shares of documents would be far from those of tokens.
#[test]
fn the_held_out_share_is_one_of_tokens() {
    let long = |seed: usize| (0..900).map(|i| format!("{} ", i * seed % 997)).collect::<String>();
    let corpora = [vec![long(3)], [vec![long(5)], texts(0..20)].concat(), (1..9).map(long).collect()];
    for (number, all) in corpora.iter().enumerate() {
        let folder = folder(&[("a", all)]);
        for holdout in [0.05, 0.3] {
            let out = folder.path().join(format!("out{holdout}"));
            let settings = Settings { holdout, ..settings(&folder, &["a"]) };
            let total = prepare(&settings, &out, &mut |_| ()).unwrap().total();
            let share = total.valid.tokens as f64 / (total.train.tokens + total.valid.tokens) as f64;
            assert!((share - holdout).abs() < 0.1 * holdout, "corpus {number}: {share} instead of {holdout}");
            assert!(total.valid.rows > 0);
            assert_eq!(total.train.documents + total.valid.documents, all.len() as u64);
            let train = read_back(&folder, &format!("out{holdout}"), "a", Split::Train).concat();
            let valid = read_back(&folder, &format!("out{holdout}"), "a", Split::Valid);
            assert!(valid.iter().filter(|text| text.len() > 60).all(|text| !train.contains(text)));
        }
    }
}

#[test]
fn duplicates_are_left_out_across_sources() {
    let first = [texts(0..60), texts(10..20)].concat();
    let second: Vec<String> = texts(50..100).iter().map(|text| text.replace(' ', "\t ")).collect();
    let folder = folder(&[("a", &first), ("b", &second)]);
    let strict = settings(&folder, &["a", "b"]);
    let manifest = prepare(&strict, &folder.path().join("out"), &mut |_| ()).unwrap();
    assert_eq!(manifest.sources.iter().map(|source| source.duplicates).collect::<Vec<_>>(), [10, 10]);
    let total = manifest.total();
    assert_eq!(total.train.documents + total.valid.documents, 100);
    let kept = Settings { deduplicate: false, ..strict };
    let total = prepare(&kept, &folder.path().join("kept"), &mut |_| ()).unwrap().total();
    assert_eq!((total.duplicates, total.train.documents + total.valid.documents), (0, 120));
}

#[test]
fn nothing_is_left_of_a_dataset_that_fails() {
    let folder = folder(&[("a", &texts(0..30))]);
    let out = folder.path().join("out");
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let good = || settings(&folder, &["a"]);
    std::fs::write(folder.path().join("bad.txt"), b"\xFF").unwrap();
    let bad = sources(&folder, &["a", "bad"]);
    let stopped = Settings { stop: Arc::new(AtomicBool::new(true)), ..good() };
    let cases = [
        (Settings { sources: bad, ..good() }, "bad.txt"),
        (stopped, "stopped"),
        (Settings { context: 100_000, ..good() }, "do not fill a row"),
        (Settings { context: 1, ..good() }, "a context of 2"),
        (Settings { holdout: 1.5, ..good() }, "a holdout from 0 to 1"),
    ];
    for (settings, expected) in cases {
        let message = prepare(&settings, &out, &mut |_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before + 1, "{expected}");
    }
    prepare(&good(), &out, &mut |_| ()).unwrap();
    let message = prepare(&good(), &out, &mut |_| ()).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    prepare(&Settings { force: true, dtype: Some(Dtype::U32), ..good() }, &out, &mut |_| ()).unwrap();
    assert_eq!(Manifest::read(&out).unwrap().unwrap().dtype, "<u4");
}
