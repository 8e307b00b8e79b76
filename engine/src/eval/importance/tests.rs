//! Importance files against what llama.cpp writes and what strangers may; priors.

use super::*;
use crate::gguf::{Existing, Writer};

fn example() -> Importance {
    let entry = |sums: &[f32], counts: &[f64]| Entry { sums: sums.to_vec(), counts: counts.to_vec() };
    let entries = [
        ("blk.0.attn_q.weight".to_owned(), entry(&[2.0, 4.0], &[2.0])),
        (
            "blk.0.ffn_up_exps.weight".to_owned(),
            entry(&[400.0, 0.0, 0.0, 0.0, 0.0, 800.0], &[100.0, 0.0, 300.0]),
        ),
    ];
    Importance {
        entries: entries.into(),
        datasets: vec!["a.txt".into()],
        chunks: 3,
        chunk_size: 512,
        file: None,
    }
}

#[test]
fn a_written_file_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    example().write(&path, Existing::Keep).unwrap();
    let read = Importance::open(&path).unwrap();
    assert_eq!(read, Importance { file: Some(path), ..example() });
}

#[test]
fn experts_without_tokens_lean_on_their_layer() {
    let importance = example();
    let of = importance.of("blk.0.ffn_up_exps.weight", 3, 2).unwrap();
    // All experts: 400 tokens, means 1 and 2.
    assert_eq!(of[2..4], [1.0, 2.0]);
    let leaning = |sum: f64, count: f64, prior: f64| ((sum + 4.0 * prior) / (count + 4.0)) as f32;
    assert_eq!(of[..2], [leaning(400.0, 100.0, 1.0), leaning(0.0, 100.0, 2.0)]);
    assert_eq!(importance.unseen().collect::<Vec<_>>(), [("blk.0.ffn_up_exps.weight", vec![1])]);
    assert_eq!(importance.of("blk.0.ffn_up_exps.weight", 4, 2), None);
    assert_eq!(importance.of("blk.0.attn_q.weight", 1, 2), Some(vec![1.0, 2.0]));
}

/// As tools/imatrix/imatrix.cpp writes the older kind.
fn dat(name: &str, calls: i32, values: &[f32]) -> Vec<u8> {
    let mut bytes = 1i32.to_le_bytes().to_vec();
    bytes.extend((name.len() as i32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(calls.to_le_bytes());
    bytes.extend((values.len() as i32).to_le_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

#[test]
fn reads_the_older_kind_with_and_without_its_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.dat");
    let mut bytes = dat("blk.0.ffn_up_exps.weight", 2, &[2.0, 4.0, 6.0, 8.0]);
    std::fs::write(&path, &bytes).unwrap();
    let read = Importance::open(&path).unwrap();
    let of = read.of("blk.0.ffn_up_exps.weight", 2, 2).unwrap();
    // Mean rows are (2 + 6) / 4 and (4 + 8) / 4; each expert counts for two calls.
    assert_eq!(of, [(2.0 + 4.0 * 2.0) / 6.0, (4.0 + 4.0 * 3.0) / 6.0, (6.0 + 8.0) / 6.0, (8.0 + 12.0) / 6.0]);
    bytes.extend(7i32.to_le_bytes());
    bytes.extend(4i32.to_le_bytes());
    bytes.extend(b"text");
    std::fs::write(&path, &bytes).unwrap();
    let read = Importance::open(&path).unwrap();
    assert_eq!((read.chunks, &read.datasets[..]), (7, &["text".to_owned()][..]));
}

#[test]
fn refuses_what_is_no_importance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let whole = dat("a", 2, &[2.0, 4.0]);
    let mut cases: Vec<(Vec<u8>, &str)> =
        (1..whole.len()).map(|len| (whole[..len].to_vec(), "expected")).collect();
    cases.push((0i32.to_le_bytes().to_vec(), "at least one tensor"));
    cases.push((dat("a", 1, &[f32::NAN]), "sums of squares"));
    cases.push((dat("a", 1, &[-1.0]), "sums of squares"));
    cases.push(([(-1i32).to_le_bytes(), i32::MAX.to_le_bytes()].concat(), "number of entries"));
    cases.push(([1i32.to_le_bytes(), i32::MAX.to_le_bytes()].concat(), "more bytes"));
    let model = Writer::new(Default::default(), Vec::<(String, _, _)>::new()).unwrap().over(vec![]).unwrap();
    cases.push((model.into_inner().unwrap(), "imatrix"));
    for (bytes, expected) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let message = Importance::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("x: "), "{bytes:?}: {message}");
    }
}
