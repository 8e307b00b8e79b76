//! Files made by hand to break one rule each.

use super::*;

/// Builds a file field by field, right or wrong.
#[derive(Clone, Default)]
struct Forge(Vec<u8>);

impl Forge {
    fn header(tensors: u64, entries: u64) -> Self {
        Self::default().raw(b"GGUF").u32(3).u64(tensors).u64(entries)
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }
    fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }
    fn string(self, string: &[u8]) -> Self {
        self.u64(string.len() as u64).raw(string)
    }
    /// Key and type of an entry.
    fn key(self, key: &str, kind: u32) -> Self {
        self.string(key.as_bytes()).u32(kind)
    }
    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        self = self.string(name.as_bytes()).u32(shape.len() as u32);
        for &size in shape {
            self = self.u64(size);
        }
        self.u32(kind).u64(offset)
    }
    /// Pads to the data section and adds `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }
}

/// One file with tensor `t` alone, otherwise sound.
fn tensor(shape: &[u64], kind: u32, offset: u64) -> Forge {
    Forge::header(1, 0).tensor("t", shape, kind, offset).data(64)
}

fn alignment(kind: u32, bytes: &[u8]) -> Forge {
    Forge::header(0, 1).key(ALIGNMENT_KEY, kind).raw(bytes).data(0)
}

fn nested(depth: usize) -> Forge {
    let mut forge = Forge::header(0, 1).key("k", 9);
    for _ in 1..depth {
        forge = forge.u32(9).u64(1);
    }
    forge.u32(0).u64(0)
}

fn check(cases: Vec<(&str, Forge, &str)>) {
    let mut failures = Vec::new();
    for (name, forge, expected) in cases {
        match parse(forge.0) {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(error) if !error.to_string().contains(expected) => {
                failures.push(format!("{name}: {error}\n    lacks: {expected}"));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn headers() {
    let sized = |tensors, entries| Forge::header(tensors, entries).raw(&[0; 64]);
    check(vec![
        (
            "too short for the magic",
            Forge::default().raw(b"GG"),
            "header: expected the letters GGUF of 4 bytes",
        ),
        ("GGJT", Forge::default().raw(b"tjgg\x03\0\0\0"), "before GGUF"),
        ("a Git LFS pointer", Forge::default().raw(b"version https://git-lfs"), "git lfs pull"),
        ("control characters", Forge::default().raw(b"\x1b[2J"), r"\x1b[2J"),
        ("version 1", Forge::default().raw(b"GGUF").u32(1), "GGUF version 1; versions 2 and 3 are"),
        ("version 4", Forge::default().raw(b"GGUF").u32(4), "GGUF version 4"),
        ("big endian", Forge::default().raw(b"GGUF").u32(3u32.swap_bytes()), "gguf-convert-endian"),
        ("the counts are missing", Forge::default().raw(b"GGUF").u32(3), "a tensor count of 8 bytes"),
        ("CVE-2024-23496 n_tensors wraps an allocation", sized(u64::MAX / 4, 0), "no room for more"),
        ("CVE-2024-23605 n_kv wraps an allocation", sized(0, u64::MAX / 16), "no room for more"),
        ("a count that only just does not fit", sized(0, 6), "at most 4"),
    ]);
}

#[test]
fn entries() {
    let one = || Forge::header(0, 1);
    check(vec![
        (
            "CVE-2024-21825 key length",
            one().u64(u64::MAX).u64(0),
            "metadata entry 0: expected a key of at most 65535 bytes",
        ),
        (
            "a key that ends beyond the file",
            one().u64(60_000).u64(0),
            "metadata entry 0: expected a key of 60000 bytes",
        ),
        ("an empty key", one().string(b"").u32(0).raw(&[1]), "found an empty one"),
        (
            "a key that is not UTF-8",
            one().string(b"ab\xff").u32(0).raw(&[1]),
            "an invalid byte after 2 valid ones",
        ),
        (
            "a duplicate key",
            Forge::header(0, 2).key("k", 0).raw(&[1]).key("k", 0).raw(&[1]),
            "key `k`: expected unique",
        ),
        (
            "an unknown value type",
            one().key("k", 13).u64(0),
            "key `k`: expected a value type of 0 to 12, found 13",
        ),
        ("a bool of 2", one().key("k", 7).raw(&[2]), "key `k`: expected a bool of 0 or 1, found 2"),
        ("a number cut short", one().key("k", 10).u32(0), "key `k`: expected a u64 of 8 bytes"),
        ("#19003 unbounded string", one().key("k", 8).u64(1 << 40), "a string of 1099511627776 bytes"),
        ("CVE-2024-21836 string length wraps", one().key("k", 8).u64(u64::MAX), "key `k`"),
        (
            "a string that is not UTF-8",
            one().key("k", 8).string(b"\xc3"),
            "key `k`: expected a string in UTF-8",
        ),
    ]);
}

#[test]
fn arrays() {
    let array = |kind, count: u64| Forge::header(0, 1).key("k", 9).u32(kind).u64(count);
    check(vec![
        ("CVE-2024-21802 array count wraps", array(6, u64::MAX / 4 + 1).raw(&[0; 64]), "no room for more"),
        ("a count just too large", array(6, 17).raw(&[0; 64]), "a number of elements of at most"),
        ("a huge string array", array(8, 1 << 40).raw(&[0; 64]), "a number of strings of at most"),
        (
            "a string that leaves the file",
            array(8, 2).string(b"ok").u64(99).raw(&[0; 32]),
            "a string of 99 bytes",
        ),
        ("a token that is not UTF-8", array(8, 1).string(b"\xff"), "in UTF-8"),
        ("an unknown element type", array(99, 1).u64(0), "an element type of 0 to 12, found 99"),
        ("a bool of 255", array(7, 2).raw(&[1, 255]), "a bool of 0 or 1, found 255"),
        ("a huge nested array", array(9, 1 << 60), "a number of arrays of at most"),
        ("nested without end", nested(MAX_DEPTH + 1), "nested at most 8 deep"),
        ("nested a million deep", nested(1_000_000), "nested at most 8 deep"),
        ("#27188 a few bytes claim much", array(9, u64::MAX), "no room for more"),
    ]);
    assert!(parse(nested(MAX_DEPTH).data(0).0).is_ok());
}

#[test]
fn alignments() {
    let u32 = |number: u32| alignment(4, &number.to_le_bytes());
    check(vec![
        ("zero", u32(0), "a power of two from 8 to 1048576, found 0"),
        ("not a power of two", u32(48), "found 48"),
        ("too small for blocks", u32(4), "found 4"),
        ("#24997 alignment 2^31", u32(1 << 31), "found 2147483648"),
        (
            "a string",
            alignment(8, b"\x01\0\0\0\0\0\0\x00x"),
            "expected an unsigned integer, found the string `x`",
        ),
        ("negative", alignment(5, &(-32i32).to_le_bytes()), "expected an unsigned integer, found -32 (i32)"),
    ]);
    assert!(parse(u32(1 << 20).0).is_ok());
}

#[test]
fn tensors() {
    let two =
        |second: u64| Forge::header(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[16], 0, second).data(128);
    let twins = Forge::header(2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(128);
    let long = Forge::header(1, 0).string(&[b'a'; 65_536]).u32(1).u64(1).u32(0).u64(0).data(32);
    check(vec![
        ("no dimension", tensor(&[], 0, 0), "tensor `t`: expected 1 to 4 dimensions, found 0"),
        ("five dimensions", tensor(&[1; 5], 0, 0), "1 to 4 dimensions, found 5"),
        ("2^32 - 1 dimensions", Forge::header(1, 0).string(b"t").u32(u32::MAX).data(64), "1 to 4 dimensions"),
        ("CVE-2025-0317 a size of zero", tensor(&[32, 0], 0, 0), "sizes of at least 1"),
        ("CVE-2024-21802 sizes overflow", tensor(&[1 << 32, 1 << 32], 0, 0), "a size below 2^63 bytes"),
        ("CVE-2026-33298 bytes overflow", tensor(&[1 << 62], 0, 0), "a size below 2^63 bytes"),
        ("negative when signed", tensor(&[1 << 63], 1, 0), "a size below 2^63 bytes"),
        (
            "CVE-2025-53630 sizes that add up to little",
            tensor(&[(1 << 61) - 1], 0, 0),
            "tensor `t`: expected",
        ),
        (
            "part of a block",
            tensor(&[33], 8, 0),
            "tensor `t`: expected rows in whole blocks of 32 (Q8_0), found rows of 33",
        ),
        ("whole blocks, but not by row", tensor(&[16, 2], 8, 0), "found rows of 16"),
        (
            "a known type we do not read",
            tensor(&[256], 15, 0),
            "tensor `t` has type 15 (Q8_K); supported are F32",
        ),
        ("a removed type", tensor(&[32], 31, 0), "Q4_0_4_4, removed from ggml"),
        ("an unknown type", tensor(&[32], 4_000_000_000, 0), "the unknown type 4000000000"),
        ("an offset between multiples", tensor(&[8], 0, 4), "an offset in multiples of 32, found 4"),
        ("CVE-2026-7482 offset beyond the file", tensor(&[8], 0, 1 << 20), "the download may be incomplete"),
        ("CVE-2026-7482 shape beyond the file", tensor(&[17], 0, 0), "68 bytes at offset 0"),
        ("an offset that wraps", tensor(&[8], 0, u64::MAX - 31), "tensor `t`: expected 32 bytes"),
        ("CVE-2026-27940 padding wraps", tensor(&[8], 0, u64::MAX - 63), "tensor `t`: expected 32 bytes"),
        ("the same bytes", two(0), "tensor `b`: expected bytes of its own, found some shared with `a`"),
        ("some of the same bytes", two(32), "some shared with `a`"),
        ("the same name", twins, "tensor `a`: expected unique names"),
        ("an empty name", Forge::header(1, 0).tensor("", &[8], 0, 0).data(64), "1 to 65535 bytes"),
        ("an endless name", long, "a tensor name of at most 65535 bytes"),
        (
            "a name to fool the terminal",
            Forge::header(1, 0).tensor("\x1b]0;x\x07", &[0], 0, 0),
            r"`\u{1b}]0;x\u{7}`",
        ),
    ]);
    assert!(parse(two(64).0).is_ok());
    assert!(parse(tensor(&[16], 0, 0).0).is_ok());
}

#[test]
fn split_keys() {
    let count = |kind, bytes: &[u8]| Forge::header(0, 1).key("split.count", kind).raw(bytes);
    check(vec![
        ("more parts than names", count(10, &u64::MAX.to_le_bytes()), "at most 99999"),
        (
            "a negative number of parts",
            count(3, &[0xff, 0xff]),
            "key `split.count`: expected an unsigned integer",
        ),
    ]);
}

#[test]
fn every_truncation_is_an_error() {
    let whole = sample();
    let data_end = {
        let gguf = parse(whole.clone()).unwrap();
        let last = &gguf.tensors()[1];
        (last.offset + last.byte_len()) as usize
    };
    for len in 0..data_end {
        let outcome = parse(whole[..len].to_vec());
        assert!(outcome.is_err(), "{len} of {data_end} bytes were accepted");
    }
    assert!(parse(whole[..data_end].to_vec()).is_ok());
}
