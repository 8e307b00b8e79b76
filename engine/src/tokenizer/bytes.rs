//! The two spellings of raw bytes in token texts: GPT-2's printable alphabet and SentencePiece's `<0xAB>`.

use std::sync::LazyLock;

/// The character that stands for each byte in GPT-2's vocabulary: printable Latin-1 stays, the rest moves to U+0100…
/// (Radford et al. 2019, `bytes_to_unicode`).
pub static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut moved = 0x100..;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte as u8),
        _ => moved.next().and_then(char::from_u32).unwrap_or_default(),
    })
});

/// Highest character of the alphabet plus one.
const ALPHABET_END: usize = 0x144;

static BYTES: LazyLock<[Option<u8>; ALPHABET_END]> = LazyLock::new(|| {
    let mut bytes = [None; ALPHABET_END];
    (0..=255u8).for_each(|byte| bytes[CHARACTERS[usize::from(byte)] as usize] = Some(byte));
    bytes
});

/// The bytes that a text in GPT-2's spelling stands for; a text with any other character stands for itself.
pub(super) fn spelled_out(text: &str) -> Vec<u8> {
    let byte = |character: char| BYTES.get(character as usize).copied().flatten();
    text.chars().map(byte).collect::<Option<_>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

/// `bytes` in GPT-2's spelling.
pub(super) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARACTERS[usize::from(byte)]).collect()
}

/// The byte named by `<0xAB>`: exactly two upper-case digits.
pub fn byte_named(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = digits.len() == 2 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    if valid { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The name of `byte`.
pub fn name_of(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_both_spellings() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(spelled_out(&spell(&all)), all);
        assert!(all.iter().all(|&byte| byte_named(&name_of(byte)) == Some(byte)));
        assert_eq!(spell(b" a\n\x80\xff"), "ĠaĊĢÿ");
        assert_eq!(spelled_out("a b"), b"a b", "a space is not in the alphabet");
    }

    #[test]
    fn byte_names_are_strict() {
        for text in
            ["<0xab>", "<0x1>", "<0x+1>", "<0x123>", "<0xG0>", "0x41", "<0x41", "<0x41>>", "", "<0x é>"]
        {
            assert_eq!(byte_named(text), None, "{text}");
        }
    }
}
