//! The stream's promises: weights in every prefix, each row once an epoch, nothing but seed and index.

use super::super::manifest;
use super::super::npy::Dtype;
use super::super::shards::tests::write;
use super::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// One folder per source with so many rows of two tokens; source s begins at the id 1000 s.
fn folders(rows: &[u64]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, &rows) in rows.iter().enumerate() {
        let train = folder.path().join(format!("s{number}/train"));
        std::fs::create_dir_all(&train).unwrap();
        write(&train, 0, Dtype::U16, rows, 2, 1000 * number as i64);
    }
    folder
}

fn specs(folder: &TempDir, weights: &[Option<f64>]) -> Vec<SourceSpec> {
    let spec = |(number, &weight): (usize, &Option<f64>)| {
        let name = format!("s{number}");
        SourceSpec { folder: folder.path().join(&name), name, weight }
    };
    weights.iter().enumerate().map(spec).collect()
}

fn open(folder: &TempDir, weights: &[Option<f64>]) -> Dataset {
    Dataset::open(&specs(folder, weights), Split::Train, 2, 60_000).unwrap()
}

/// The first id of a row tells the row.
fn first(dataset: &Dataset, seed: u64, index: u64) -> u32 {
    let mut row = [0; 2];
    dataset.row(seed, index, &mut row).unwrap();
    row[0]
}

#[test]
fn each_row_comes_once_an_epoch_in_a_new_order() {
    let folder = folders(&[7, 1, 30, 12]);
    let dataset = open(&folder, &[None; 4]);
    assert_eq!(
        (dataset.rows(), dataset.tokens(), dataset.epoch_of(99), dataset.epoch_of(100)),
        (50, 100, 1, 2)
    );
    let epoch = |seed: u64, number: u64| -> Vec<u32> {
        (number * 50..number * 50 + 50).map(|index| first(&dataset, seed, index)).collect()
    };
    let mut row = [0; 2];
    let mut expected = vec![];
    for index in 0..50 {
        dataset.sequential(index, &mut row).unwrap();
        expected.push(row[0]);
    }
    assert!(dataset.sequential(50, &mut row).is_err());
    for number in 0..3 {
        let mut seen = epoch(1, number);
        assert_ne!(seen, epoch(1, number + 1));
        assert_ne!(seen, epoch(2, number));
        seen.sort_unstable();
        assert_eq!(seen, expected, "epoch {number}");
    }
}

#[test]
fn every_prefix_keeps_the_weights() {
    let folder = folders(&[5, 5, 5, 5, 5]);
    let weights = [0.64, 0.24, 0.1, 0.01, 0.01];
    let dataset = open(&folder, &weights.map(Some));
    let mut counts = [0f64; 5];
    for index in 0..3000u64 {
        counts[first(&dataset, 0, index) as usize / 1000] += 1.0;
        for (count, weight) in counts.iter().zip(weights) {
            let off = (count - weight * (index + 1) as f64).abs();
            assert!(off <= 1.5, "{count} of {} at a weight of {weight}", index + 1);
        }
    }
    let shares: Vec<f64> = dataset.sources().map(|(_, _, share)| share).collect();
    assert!(shares.iter().zip(weights).all(|(share, weight)| (share - weight).abs() < 1e-6), "{shares:?}");
}

#[test]
fn a_weighted_source_passes_over_its_rows_before_repeating() {
    let folder = folders(&[3, 40]);
    let dataset = open(&folder, &[Some(1.0), Some(1.0)]);
    let mut counts = BTreeMap::<u32, u64>::new();
    (0..60).map(|index| first(&dataset, 5, index)).for_each(|id| *counts.entry(id).or_default() += 1);
    let small: Vec<u64> = counts.range(..1000).map(|(_, &count)| count).collect();
    assert_eq!(small, [10, 10, 10]);
    assert!(counts.range(1000..).count() == 30 && counts.range(1000..).all(|(_, &count)| count == 1));
}

#[test]
fn far_ends_of_the_stream_are_reached() {
    let starts = [0, 1 << 31, u64::from(u32::MAX)];
    for index in [u64::MAX / 4, u64::MAX / 2] {
        let (source, before) = locate(&starts, index);
        assert!(source < 2 && before.abs_diff(index / 2) <= 1 << 34);
    }
}

#[test]
fn shards_without_a_split_are_split_by_shard() {
    let shards = |ends: &[u64]| (share(ends, Split::Train), share(ends, Split::Valid));
    assert_eq!(shards(&[100]), (0..98, 98..100));
    assert_eq!(shards(&[1]), (0..1, 1..1));
    assert_eq!(shards(&[2]), (0..1, 1..2));
    assert_eq!(shards(&[10, 25]), (0..10, 10..25));
    let hundred: Vec<u64> = (1..=100).collect();
    assert_eq!(shards(&hundred), (0..98, 98..100));
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, Dtype::I32, 10, 2, 0);
    write(folder.path(), 1, Dtype::I32, 4, 2, 500);
    let spec = SourceSpec { name: "x".to_owned(), folder: folder.path().to_owned(), weight: None };
    let valid = Dataset::open(&[spec], Split::Valid, 2, 1000).unwrap();
    let mut row = [0; 2];
    valid.sequential(0, &mut row).unwrap();
    assert_eq!((valid.rows(), row), (4, [500, 501]));
}

#[test]
fn a_dataset_gives_all_its_sources() {
    let folder = folders(&[4, 6]);
    let entry = |name: &str| manifest::Entry { name: name.to_owned(), ..manifest::Entry::default() };
    let manifest = Manifest {
        tokenizer_blake3: String::new(),
        vocabulary_size: 3000,
        eos_id: 0,
        context: 2,
        dtype: "<u2".to_owned(),
        holdout: 0.0,
        deduplicated: true,
        sources: vec![entry("s0"), entry("s1")],
    };
    manifest.write(folder.path()).unwrap();
    let spec = SourceSpec { name: "all".to_owned(), folder: folder.path().to_owned(), weight: Some(2.0) };
    let open = |split, vocabulary| Dataset::open(std::slice::from_ref(&spec), split, 2, vocabulary);
    let dataset = open(Split::Train, 3000).unwrap();
    let sources: Vec<(&str, u64)> = dataset.sources().map(|(name, rows, _)| (name, rows)).collect();
    assert_eq!(sources, [("all/s0", 4), ("all/s1", 6)]);
    let message = open(Split::Train, 2999).unwrap_err().to_string();
    assert!(message.contains("at most 2999"), "{message}");
    let message = open(Split::Valid, 3000).unwrap_err().to_string();
    assert!(message.contains("no rows in the valid split"), "{message}");
}

#[test]
fn weights_are_checked() {
    let folder = folders(&[1, 1]);
    for (weights, expected) in [
        ([None, Some(1.0)], "some sources only"),
        ([Some(0.0), Some(1.0)], "above 0"),
        ([Some(f64::NAN); 2], "above 0"),
    ] {
        let message =
            Dataset::open(&specs(&folder, &weights), Split::Train, 2, 9999).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn rows_of_one_token_teach_nothing() {
    let folder = folders(&[3]);
    let message = Dataset::open(&specs(&folder, &[None]), Split::Train, 1, 9999).unwrap_err().to_string();
    assert!(message.contains("the context is 2 or more"), "{message}");
}

#[test]
fn long_rows_are_used_whole_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let train = folder.path().join("train");
    std::fs::create_dir_all(&train).unwrap();
    write(&train, 0, Dtype::U16, 3, 2048, 0);
    write(&train, 1, Dtype::U16, 1, 2048, 10_000);
    let spec = SourceSpec { name: "x".to_owned(), folder: folder.path().to_owned(), weight: None };
    let open = |context| Dataset::open(std::slice::from_ref(&spec), Split::Train, context, 60_000).unwrap();
    let whole = open(2048);
    assert_eq!((whole.rows(), whole.tokens(), whole.cut()), (4, 8192, None));
    let cut = open(64);
    assert_eq!((cut.rows(), cut.tokens()), (128, 8192));
    assert_eq!(cut.cut().unwrap(), "rows of 2048 tokens are cut into pieces of 64");
    let mut seen = std::collections::BTreeSet::new();
    let mut row = [0; 64];
    for index in 0..128 {
        cut.row(3, index, &mut row).unwrap();
        seen.extend(row);
    }
    assert_eq!(seen.len(), 8192, "every token once in an epoch");
    let uneven = open(1000);
    assert_eq!(uneven.tokens(), 8000);
    assert!(uneven.cut().unwrap().ends_with("; 192 tokens at the ends of shards fill no piece"));
}
