//! The loader gives what direct reads give, wherever it starts and however many share the stream.

use super::super::mixture::{SourceSpec, Split};
use super::super::npy::Dtype;
use super::super::shards::tests::write;
use super::*;
use tempfile::TempDir;

const SETTINGS: LoaderSettings = LoaderSettings { seed: 7, first: 0, rows: 4, rank: 0, ranks: 1, depth: 3 };

fn dataset(vocabulary: usize) -> (TempDir, Arc<Dataset>) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, Dtype::U16, 20, 3, 0);
    write(folder.path(), 1, Dtype::U16, 5, 3, 60);
    let spec = SourceSpec { name: "x".to_owned(), folder: folder.path().to_owned(), weight: None };
    let dataset = Dataset::open(&[spec], Split::Train, 3, vocabulary).unwrap();
    (folder, Arc::new(dataset))
}

fn take(dataset: &Arc<Dataset>, settings: LoaderSettings, batches: usize) -> (Vec<Batch>, u64) {
    let mut loader = Loader::start(dataset.clone(), settings).unwrap();
    let batches = (0..batches).map(|_| loader.next().unwrap()).collect();
    (batches, loader.position())
}

#[test]
fn batches_are_the_rows_of_the_stream() {
    let (_folder, dataset) = dataset(100);
    let (batches, position) = take(&dataset, SETTINGS, 20);
    assert_eq!(position, 80);
    let mut row = [0; 3];
    for (number, batch) in batches.iter().enumerate() {
        assert_eq!((batch.rows, batch.context, batch.first_index), (4, 3, number as u64 * 4));
        for (index, read) in batch.tokens.chunks(3).enumerate() {
            dataset.row(7, batch.first_index + index as u64, &mut row).unwrap();
            assert_eq!(read, row);
        }
    }
}

#[test]
fn a_new_loader_goes_on_where_the_old_one_was() {
    let (_folder, dataset) = dataset(100);
    let (whole, _) = take(&dataset, SETTINGS, 12);
    for taken in 0..12 {
        let (_, position) = take(&dataset, SETTINGS, taken);
        let (rest, _) = take(&dataset, LoaderSettings { first: position, ..SETTINGS }, 12 - taken);
        assert_eq!(rest, whole[taken..]);
    }
}

#[test]
fn two_ranks_share_the_stream_of_one() {
    let (_folder, dataset) = dataset(100);
    let (whole, end) = take(&dataset, SETTINGS, 10);
    let ranks = [0, 1].map(|rank| take(&dataset, LoaderSettings { rank, ranks: 2, ..SETTINGS }, 5));
    for (number, batch) in whole.iter().enumerate() {
        assert_eq!(&ranks[number % 2].0[number / 2], batch);
    }
    assert!(ranks.iter().all(|(_, position)| *position == end));
}

#[test]
fn errors_arrive_and_dropping_ends_the_thread() {
    let (_folder, dataset) = dataset(30);
    let mut loader = Loader::start(dataset.clone(), SETTINGS).unwrap();
    let error = (0..20).find_map(|_| loader.next().err()).unwrap().to_string();
    assert!(error.contains("vocabulary of 30"), "{error}");
    assert!(loader.next().unwrap_err().to_string().contains("has ended"));
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1);
    for wrong in [LoaderSettings { rows: 0, ..SETTINGS }, LoaderSettings { rank: 1, ..SETTINGS }] {
        assert!(Loader::start(dataset.clone(), wrong).is_err());
    }
}
