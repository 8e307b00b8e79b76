//! What the writer writes, the reader reads, bit for bit.

use super::*;
use crate::quant::FORMATS;
use proptest::collection::vec;
use proptest::prelude::*;

fn any_array(depth: u32) -> BoxedStrategy<Array> {
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<u32>().prop_map(f32::from_bits), 0..9).prop_map(Array::F32),
        vec(any::<u64>().prop_map(f64::from_bits), 0..9).prop_map(Array::F64),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(".{0,5}", 0..9).prop_map(|strings| Array::Strings(Strings::new(strings))),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![5 => leaf, 1 => vec(any_array(depth - 1), 0..4).prop_map(Array::Arrays)].boxed()
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        ".{0,9}".prop_map(Value::String),
        any_array(2).prop_map(Value::Array),
    ]
}

fn any_tensor() -> impl Strategy<Value = (&'static Format, Vec<u64>)> {
    (0..FORMATS.len(), vec(1u64..4, 1..=4)).prop_map(|(i, mut shape)| {
        shape[0] *= FORMATS[i].block_len as u64;
        (&FORMATS[i], shape)
    })
}

/// Writes all of it, each tensor filled with its number.
fn write(metadata: Metadata, tensors: &[(&'static Format, Vec<u64>)]) -> Vec<u8> {
    let named =
        tensors.iter().enumerate().map(|(i, (format, shape))| (format!("t{i}"), *format, shape.clone()));
    let plan = Writer::new(metadata, named.collect()).unwrap();
    let file_len = plan.file_len();
    let mut writer = plan.over(Vec::new()).unwrap();
    let mut fill = 0u8;
    while let Some(tensor) = writer.next_tensor() {
        let bytes = vec![fill; tensor.byte_len() as usize];
        writer.begin(&format!("t{fill}")).unwrap();
        bytes.chunks(100).for_each(|chunk| writer.append(chunk).unwrap());
        writer.end().unwrap();
        fill += 1;
    }
    let bytes = writer.into_inner().unwrap();
    assert_eq!(bytes.len() as u64, file_len);
    bytes
}

proptest! {
    #[test]
    fn a_copy_equals_the_original(
        entries in vec((".{1,9}", any_value()), 0..12),
        alignment in prop_oneof![Just(None), (3u32..12).prop_map(|power| Some(1 << power))],
        tensors in vec(any_tensor(), 0..6),
    ) {
        let mut metadata: Metadata = entries.into_iter().collect();
        if let Some(alignment) = alignment {
            metadata.set(ALIGNMENT_KEY, Value::U32(alignment));
        }
        let original = write(metadata.clone(), &tensors);
        let gguf = parse(original.clone()).unwrap();
        let keys = |metadata: &Metadata| metadata.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(keys(gguf.metadata()), keys(&metadata));
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (i, (tensor, (format, shape))) in gguf.tensors().iter().zip(&tensors).enumerate() {
            prop_assert_eq!((tensor.format, &tensor.shape), (*format, shape));
            let bytes = gguf.bytes(tensor);
            prop_assert!(bytes.len() as u64 == tensor.byte_len() && bytes.iter().all(|&byte| byte == i as u8));
        }
        prop_assert_eq!(write(gguf.metadata().clone(), &tensors), original);
    }
}

#[test]
fn a_file_appears_when_finished_and_maps_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let plan = || Writer::new(Metadata::new(), vec![("a", format("F32"), vec![3, 2])]).unwrap();
    let mut writer = plan().create(&path).unwrap();
    writer.write_tensor(bytemuck::cast_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
    assert!(!path.exists());
    writer.finish().unwrap();
    assert_eq!(files(), 1);

    let gguf = Gguf::open(&path).unwrap();
    let tensor = gguf.tensor("a").unwrap();
    assert_eq!((tensor.row_len(), tensor.elements(), tensor.byte_len()), (3, 6, 24));
    let bytes = gguf.bytes(tensor);
    assert_eq!(bytemuck::cast_slice::<u8, f32>(&bytes), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let (mapping, position) = bytes.file_position().unwrap();
    assert_eq!((mapping.path(), gguf.path(), gguf.version()), (&*path, Some(&*path), 3));
    assert_eq!(&std::fs::read(&path).unwrap()[position as usize..][..24], &bytes[..]);
    assert_eq!(gguf.file_len(), std::fs::metadata(&path).unwrap().len());

    let mut unfinished = plan().create(&path).unwrap();
    unfinished.begin("a").unwrap();
    assert_eq!(files(), 2);
    drop(unfinished);
    assert_eq!(files(), 1);
    assert_eq!(bytes[4..8], 2f32.to_le_bytes());
}

#[test]
fn the_writer_refuses_wrong_order_and_length() {
    let start = || {
        let tensors = vec![("a", format("F32"), vec![2]), ("b", format("F32"), vec![1])];
        Writer::new(Metadata::new(), tensors).unwrap().over(Vec::new()).unwrap()
    };
    let refused = |outcome: crate::Result<()>, part: &str| {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(start().begin("b"), "`a` is next");
    refused(start().append(&[0]), "no tensor is open");
    refused(start().write_tensor(&[0; 9]), "tensor `a`: expected 8 bytes, found 9");
    refused(start().write_tensor(&[0; 7]), "tensor `a`: expected 8 bytes, found 7");
    refused(start().into_inner().map(|_| ()), "`a` was never written");
    let mut writer = start();
    writer.write_tensor(&[0; 8]).unwrap();
    writer.write_tensor(&[0; 4]).unwrap();
    refused(writer.write_tensor(&[]), "the end of the file");

    for (tensors, part) in [
        (vec![("a", format("F32"), vec![1]), ("a", format("F32"), vec![1])], "unique names"),
        (vec![("", format("F32"), vec![1])], "1 to 65535 bytes"),
        (vec![("a", format("F32"), vec![])], "1 to 4 dimensions"),
        (vec![("a", format("Q8_0"), vec![33])], "whole blocks of 32 (Q8_0)"),
        (vec![("a", format("F32"), vec![1 << 62, 1 << 62])], "2^63"),
    ] {
        refused(Writer::new(Metadata::new(), tensors).map(|_| ()), part);
    }
}

#[test]
fn a_full_disk_is_an_error_with_the_path() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let plan = Writer::new(Metadata::new(), Vec::<(&str, _, _)>::new()).unwrap();
    let message = plan.over(Full).map(|_| ()).unwrap_err().to_string();
    assert!(message.starts_with("output: cannot write: "), "{message}");
    let plan = Writer::new(Metadata::new(), Vec::<(&str, _, _)>::new()).unwrap();
    let message = plan.create("/no/such/folder/m.gguf").map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("/no/such/folder") && message.contains("cannot create"), "{message}");
}

#[test]
fn version_2_reads_like_version_3() {
    let mut bytes = sample();
    bytes[4] = 2;
    let gguf = parse(bytes).unwrap();
    assert_eq!((gguf.version(), gguf.tensors().len()), (2, 2));
    assert_eq!(gguf.metadata().require_array("tokenizer.ggml.tokens").unwrap().string(1), Some("ö"));
}

#[test]
fn a_model_may_be_part_of_the_program() {
    let bytes: &'static [u8] = sample().leak();
    let gguf = Gguf::from_static(bytes).unwrap();
    let tensor = gguf.bytes(gguf.tensor("norm").unwrap());
    assert!(bytes.as_ptr_range().contains(&tensor.as_ptr()) && tensor.file_position().is_none());
    assert!(Gguf::from_static(&bytes[1..]).unwrap_err().to_string().contains("aligned to 8"));
}
