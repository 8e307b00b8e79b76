//! The GGUF reader: whatever the bytes, a container that can be used and copied, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moewe_engine::gguf::{Bytes, Gguf, Writer};

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Bytes::from(file.to_vec())) else { return };
    for (_, value) in gguf.metadata().iter() {
        if let Some(strings) = value.as_array().and_then(|array| array.as_strings()) {
            assert!(strings.map(str::len).sum::<usize>() < file.len());
        }
    }
    let plans = gguf.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.format, tensor.shape.clone()));
    let mut writer = Writer::new(gguf.metadata().clone(), plans.collect()).unwrap().over(Vec::new()).unwrap();
    gguf.tensors().iter().for_each(|tensor| writer.write_tensor(&gguf.bytes(tensor)).unwrap());
    let copy = Gguf::from_bytes(Bytes::from(writer.into_inner().unwrap())).unwrap();
    assert_eq!(copy.tensors().len(), gguf.tensors().len());
});
