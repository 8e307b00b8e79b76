//! Split models: siblings are found, strangers and gaps are refused.

use super::*;
use std::path::{Path, PathBuf};

/// Writes part `number` (from 0) of `count` with one tensor, under llama.cpp's name.
fn write_part(folder: &Path, number: u16, count: u16, tensor: &str, tensors: i32) -> PathBuf {
    let path = folder.join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
    let metadata: Metadata = [
        ("split.no", Value::U16(number)),
        ("split.count", Value::U16(count)),
        ("split.tensors.count", Value::I32(tensors)),
    ]
    .into_iter()
    .collect();
    let mut writer =
        Writer::new(metadata, vec![(tensor, format("F32"), vec![1])]).unwrap().create(&path).unwrap();
    writer.write_tensor(&(number as f32).to_le_bytes()).unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn the_first_part_opens_them_all() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|i| write_part(folder.path(), i, 3, &format!("t{i}"), 3)).collect();
    let gguf = Gguf::open(&paths[0]).unwrap();
    assert_eq!((gguf.part_count(), gguf.path()), (3, Some(&*paths[0])));
    for i in 0..3u16 {
        let bytes = gguf.bytes(gguf.tensor(&format!("t{i}")).unwrap());
        assert_eq!(bytes[..], (i as f32).to_le_bytes());
        assert_eq!(bytes.file_position().unwrap().0.path(), paths[i as usize]);
    }
    let message = Gguf::open(&paths[1]).unwrap_err().to_string();
    assert!(message.contains("part 2 of 3") && message.contains("m-00001-of-00003.gguf"), "{message}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("m-00002-of-00003.gguf: cannot open", |folder| {
            std::fs::remove_file(folder.join("m-00002-of-00003.gguf")).unwrap()
        }),
        ("tensor `t0`: expected unique names", |folder| drop(write_part(folder, 1, 3, "t0", 3))),
        ("split.tensors.count`: expected 3 tensors in 3 files, found 4", |folder| {
            drop(write_part(folder, 0, 3, "t0", 4))
        }),
        ("m-00002-of-00003.gguf: key `split.count`: expected 3, found 4", |folder| {
            std::fs::rename(write_part(folder, 1, 4, "t1", 3), folder.join("m-00002-of-00003.gguf")).unwrap();
        }),
        ("m-00002-of-00003.gguf: key `split.no`: expected 1, found 2", |folder| {
            std::fs::copy(folder.join("m-00003-of-00003.gguf"), folder.join("m-00002-of-00003.gguf"))
                .unwrap();
        }),
        ("m-00003-of-00003.gguf: header: expected the letters GGUF", |folder| {
            std::fs::write(folder.join("m-00003-of-00003.gguf"), b"nonsense").unwrap();
        }),
    ];
    for (expected, damage) in cases {
        let folder = tempfile::tempdir().unwrap();
        (0..3).for_each(|i| drop(write_part(folder.path(), i, 3, &format!("t{i}"), 3)));
        damage(folder.path());
        let message = Gguf::open(folder.path().join("m-00001-of-00003.gguf")).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_part_needs_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let part = write_part(folder.path(), 0, 2, "t", 1);
    let renamed = folder.path().join("model.gguf");
    std::fs::rename(part, &renamed).unwrap();
    let message = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(message.contains("-00001-of-00002.gguf"), "{message}");
    let message = parse(std::fs::read(&renamed).unwrap()).unwrap_err().to_string();
    assert!(message.contains("in memory"), "{message}");
}
