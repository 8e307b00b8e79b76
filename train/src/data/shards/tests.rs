//! Shards of all types, and broken ones.

use super::super::npy::HEADER;
use super::*;
use tempfile::TempDir;

/// Writes `shard_{number}.npy` with the ids `first, first + 1, …`.
pub(in crate::data) fn write(
    folder: &Path,
    number: usize,
    dtype: Dtype,
    rows: u64,
    columns: usize,
    first: i64,
) {
    let mut bytes = Header::write(dtype, rows, columns);
    for id in first..first + rows as i64 * columns as i64 {
        bytes.extend_from_slice(&id.to_le_bytes()[..dtype.bytes()]);
    }
    std::fs::write(folder.join(format!("shard_{number:05}.npy")), bytes).unwrap();
}

fn folder_with(dtype: Dtype, rows: u64, columns: usize, first: i64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, dtype, rows, columns, first);
    folder
}

fn row(shards: &Shards, index: u64, vocabulary: usize) -> Result<Vec<u32>> {
    let mut out = vec![0; shards.context];
    shards.row(index, vocabulary, &mut out).map(|()| out)
}

#[test]
fn all_types() {
    for dtype in [Dtype::U16, Dtype::U32, Dtype::I32, Dtype::I64] {
        let folder = folder_with(dtype, 3, 4, 100);
        write(folder.path(), 1, Dtype::I64, 2, 4, 0);
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let shards = Shards::open(folder.path(), 4).unwrap();
        assert_eq!((shards.rows(), shards.ends()), (5, &[3, 5][..]));
        assert_eq!(row(&shards, 2, 1000).unwrap(), [108, 109, 110, 111], "{dtype:?}");
        assert_eq!(row(&shards, 4, 1000).unwrap(), [4, 5, 6, 7]);
    }
}

/// Every token stands in one piece, but for less than a piece at the end of a shard.
#[test]
fn wider_rows_are_cut_into_pieces() {
    for (rows, columns, context) in [(3, 8, 4), (3, 5, 4), (2, 2048, 64), (5, 7, 3), (1, 9, 9), (4, 9, 8)] {
        let folder = folder_with(Dtype::U16, rows, columns, 0);
        write(folder.path(), 1, Dtype::U16, rows, columns, 10_000);
        let shards = Shards::open(folder.path(), context).unwrap();
        let pieces = rows * columns as u64 / context as u64;
        assert_eq!((shards.rows(), shards.ends()), (2 * pieces, &[pieces, 2 * pieces][..]));
        for (shard, first) in [(0, 0), (1, 10_000)] {
            let read: Vec<u32> =
                (0..pieces).flat_map(|piece| row(&shards, shard * pieces + piece, 60_000).unwrap()).collect();
            let expected: Vec<u32> = (first..).take(pieces as usize * context).collect();
            assert_eq!(read, expected, "{rows} rows of {columns} in pieces of {context}");
        }
        assert!(shards.tokens() - shards.rows() * (context as u64) < 2 * context as u64);
    }
}

#[test]
fn ids_of_pieces_are_named_by_their_row() {
    let folder = folder_with(Dtype::U16, 4, 6, 0);
    let shards = Shards::open(folder.path(), 4).unwrap();
    let message = row(&shards, 3, 15).unwrap_err().to_string();
    assert!(
        message.contains("shard_00000.npy: row 2, column 3") && message.contains("found 15"),
        "{message}"
    );
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    for (dtype, first, found) in [
        (Dtype::U16, 0, "found 6"),
        (Dtype::I32, -6, "found -2"),
        (Dtype::I64, -6, "found -2"),
        (Dtype::I64, (1 << 32) - 4, "found 4294967296"),
    ] {
        let shards = folder_with(dtype, 2, 4, first);
        let shards = Shards::open(shards.path(), 4).unwrap();
        let message = row(&shards, 1, 6).unwrap_err().to_string();
        assert!(message.contains("shard_00000.npy: row 1, column") && message.contains(found), "{message}");
    }
}

#[test]
fn unusable_shards_are_refused() {
    let short = folder_with(Dtype::U16, 2, 4, 0);
    let message = Shards::open(short.path(), 5).unwrap_err().to_string();
    assert!(message.contains("at least 5") && message.contains("found 4"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    let message = Shards::open(empty.path(), 4).unwrap_err().to_string();
    assert!(message.contains("shard_*.npy"), "{message}");
    let path = short.path().join("shard_00000.npy");
    let bytes = std::fs::read(&path).unwrap();
    for (content, expected) in
        [(&bytes[..bytes.len() - 1], "is the file complete"), (&bytes[..0], "empty"), (&bytes[1..], "NumPy")]
    {
        std::fs::write(&path, content).unwrap();
        let message = Shards::open(short.path(), 4).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("shard_00000.npy"), "{message}");
    }
}

#[test]
fn many_shards_are_opened_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..=MOST_OPEN {
        write(folder.path(), number, Dtype::U16, 1, 2, number as i64);
    }
    let shards = Shards::open(folder.path(), 2).unwrap();
    assert_eq!(row(&shards, 200, 1000).unwrap(), [200, 201]);
    std::fs::write(folder.path().join("shard_00200.npy"), vec![0; HEADER]).unwrap();
    let message = row(&shards, 200, 1000).unwrap_err().to_string();
    assert!(message.contains("the length it had"), "{message}");
}
