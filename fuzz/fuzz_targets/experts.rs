//! The head of a side file of packed experts: whatever the bytes, an error, or one that says what the file has and is written
//! again as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moewe_engine::experts::pack::Head;

fuzz_target!(|file: &[u8]| {
    let Ok(head) = Head::parse(file) else { return };
    let bytes = head.to_bytes();
    assert!(head.file_len() <= file.len() as u64 && bytes.len() <= file.len());
    assert_eq!(Head::parse(&[&bytes, &file[bytes.len()..]].concat()).unwrap(), head);
});
