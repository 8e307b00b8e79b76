//! Rows: nothing is lost, nothing is longer than the context, few rows are enough, and their order is a function.

use super::super::pack::{Row, pack};
use super::*;
use proptest::prelude::*;

fn singles(lengths: &[usize]) -> Vec<Row> {
    let mut next = 0;
    let single = |&length: &usize| {
        let tokens: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        let trained = tokens.iter().map(|token| token % 3 == 1).collect();
        Row::single(tokens, trained)
    };
    lengths.iter().map(single).collect()
}

/// The conversations in rows.
fn segments(rows: &[Row]) -> Vec<(Vec<u32>, Vec<bool>)> {
    let mut all = Vec::new();
    for row in rows {
        let mut start = 0;
        for length in &row.segments {
            let range = start..start + length;
            all.push((row.tokens[range.clone()].to_vec(), row.trained[range].to_vec()));
            start += length;
        }
        assert_eq!((start, start), (row.tokens.len(), row.trained.len()));
    }
    all
}

proptest! {
    #[test]
    fn rows_hold_every_conversation_once(
        (context, lengths) in (2usize..40).prop_flat_map(|context| {
            (Just(context), proptest::collection::vec(1..=context, 0..200))
        })
    ) {
        let before = singles(&lengths);
        let rows = pack(before.clone(), context);
        prop_assert!(rows.iter().all(|row| row.tokens.len() <= context));
        // Two rows that are at most half full would have become one.
        let tokens: usize = lengths.iter().sum();
        prop_assert!(rows.len() <= 2 * tokens / context + 1, "{} rows of {context} for {tokens}", rows.len());
        let (mut expected, mut found) = (segments(&before), segments(&rows));
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(expected, found);
        prop_assert_eq!(rows, pack(before, context));
    }
}

#[test]
fn the_best_fit_is_taken() {
    let rows = pack(singles(&[3, 6, 2, 7, 4, 5, 3]), 10);
    let segments: Vec<_> = rows.iter().map(|row| row.segments.clone()).collect();
    assert_eq!(segments, [vec![7, 3], vec![6, 4], vec![5, 3, 2]]);
    assert_eq!(pack(singles(&[10, 10]), 10).len(), 2);
    assert_eq!(pack(vec![], 10), []);
}

#[test]
fn every_epoch_has_all_rows_in_an_order_of_its_own() {
    let rows = ChatRows { train: singles(&[1; 50]), ..ChatRows::default() };
    let epoch =
        |seed, epoch: u64| (0..50).map(|at| rows.row(seed, 50 * epoch + at).tokens[0]).collect::<Vec<_>>();
    for (seed, number) in [(1, 0), (1, 1), (2, 0)] {
        let mut order = epoch(seed, number);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
    assert_eq!(epoch(1, 0), epoch(1, 0));
    assert_ne!(epoch(1, 0), epoch(1, 1));
    assert_ne!(epoch(1, 0), epoch(2, 0));
}

#[test]
fn the_digest_tells_rows_apart() {
    let rows = |lengths: &[usize]| ChatRows { train: singles(lengths), ..ChatRows::default() };
    let first = rows(&[3, 4]);
    assert_eq!(first.digest(), rows(&[3, 4]).digest());
    let mut others = vec![rows(&[4, 3]), rows(&[7])];
    others.push(ChatRows { train: vec![], validation: first.train.clone(), ..ChatRows::default() });
    let mut masked = rows(&[3, 4]);
    masked.train[1].trained[0] ^= true;
    others.push(masked);
    for other in others {
        assert_ne!(first.digest(), other.digest());
    }
}

/// Lines with as many words as numbers say.
fn chats(lengths: impl IntoIterator<Item = usize>) -> Vec<String> {
    let chat = |(at, length): (usize, usize)| {
        let answer = format!("{at} {}", "und ".repeat(length));
        serde_json::json!({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    lengths.into_iter().enumerate().map(chat).collect()
}

#[test]
fn a_share_of_whole_conversations_is_held_out() {
    let folder = Folder::new(Some(CHATML));
    let lines = chats((0..400).map(|at| 1 + at % 37));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let data = [folder.write("data.jsonl", &lines)];
    let all = folder.prepared(&settings(&data, 128)).unwrap();
    let tokens = |rows: &[Row]| rows.iter().map(|row| row.tokens.len()).sum::<usize>();
    assert!(all.validation.is_empty());
    let parted = folder.prepared(&Settings { holdout: 0.1, ..settings(&data, 128) }).unwrap();
    assert_eq!(tokens(&parted.train) + tokens(&parted.validation), tokens(&all.train));
    let share = tokens(&parted.validation) as f64 / tokens(&all.train) as f64;
    assert!((0.08..0.12).contains(&share), "{share}");
    let (train, held_out) = (segments(&parted.train), segments(&parted.validation));
    assert_eq!(train.len() + held_out.len(), 400);
    // The same conversations under other numbers of rows stay on their side.
    let longer = folder.prepared(&Settings { holdout: 0.1, packing: false, ..settings(&data, 200) }).unwrap();
    assert_eq!(segments(&longer.validation).len(), held_out.len());
    assert!(segments(&longer.validation).iter().all(|segment| held_out.contains(segment)));
    // Of one conversation nothing can be held out.
    let one = [folder.write("one.jsonl", &lines[..1])];
    let one = folder.prepared(&Settings { holdout: 0.5, ..settings(&one, 128) }).unwrap();
    assert_eq!((one.train.len(), one.validation.len()), (1, 0));
    // A file of its own takes the place of a share, and is packed as well.
    let validation = vec![folder.write("valid.jsonl", &lines[..10])];
    let own = folder.prepared(&Settings { validation, ..settings(&data, 128) }).unwrap();
    assert_eq!(own.train, all.train);
    assert_eq!(segments(&own.validation).len(), 10);
}

#[test]
fn without_packing_a_row_has_one_conversation() {
    let folder = Folder::new(Some(CHATML));
    let lines = chats([3, 5, 4]);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let data = [folder.write("data.jsonl", &lines)];
    let rows = folder.prepared(&Settings { packing: false, ..settings(&data, 128) }).unwrap().train;
    let lengths: Vec<_> = rows.iter().map(|row| row.tokens.len()).collect();
    assert!(rows.iter().all(|row| row.segments.len() == 1));
    assert!(lengths[0] < lengths[2] && lengths[2] < lengths[1], "in the order of the file: {lengths:?}");
    // Batches and threads change nothing.
    let again = || folder.prepared(&settings(&data, 128)).unwrap();
    assert_eq!(again(), again());
}
