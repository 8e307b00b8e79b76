//! Holds the tokenizer that is written to the one it was made from: Hugging Face's own library encodes a few hundred
//! texts from the same tokenizer.json, and every id must be the same.

use moewe_engine::tokenizer::bytes::byte_named;
use moewe_engine::tokenizer::{Special, Tokenizer};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// Added tokens that are tried in text, from each end of the list.
const ADDED: usize = 40;

/// What tokenizers tell apart: scripts, digits, white space, contractions, code, compositions.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "a", " a", "  a", "a ", "a  ", " ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "\t\tx", "a\r\n\r\nb", "\r", "x\u{a0}y",
    "Hello world", "Hello, world!", "HELLO WORLD", "hElLo", "the gull's egg", "they'VE I'M we'll 'tis don’t", "O'Neill's",
    "Die Möwe fliegt über das Meer.", "Größe, Äpfel, Öl und Übermut!", "Straße STRASSE ß ẞ", "naïve café résumé",
    "nai\u{308}ve cafe\u{301}", "\u{212b}ngström \u{2126}", "ﬁne ﬂow ①②③ ½ x²", "Ｆｕｌｌ　ｗｉｄｔｈ", "İstanbul ΑΣ σς",
    "0", "1", "12", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "2026-11-29T22:01:48Z", "0x1F", "v1.2.3",
    "x=1;y=22;z=333", "٣٤٥ ۶۷ ४५", "a1b2c3", "10%", "$5.00", "€7,50", "#hashtag @name", "mail@example.org",
    "https://example.org/a/b?c=d&e=f#g", "C:\\dir\\file.txt", "../up/./here", "_snake_case", "camelCase", "kebab-case",
    "if x > 10:\n    return 'low'\n\n\n", "fn main() {\n\tprintln!(\"{:?}\", x);\n}\n", "<div class=\"a\">b</div>",
    "{\"k\": [1, 2.5, null]}", "a+b-c*d/e^f", "!=", "...", "!!!???", "—–-", "“quoted” ‘single’ «guillemets»", "(a) [b] {c}",
    "日本語のテキスト", "中文字符测试。", "한국어 텍스트", "Русский текст", "Ελληνικά", "עברית", "العربية", "हिन्दी पाठ", "ภาษาไทย",
    "Tiếng Việt", "нещо на Български", "ქართული", "🐦", "a🐦‍⬛b", "👩‍👩‍👧‍👦 👍🏽", "🇩🇪🇯🇵", "e\u{301}a\u{308}o\u{302}\u{323}",
    "\u{200b}zero\u{200d}width", "x\u{2003}y\u{3000}z", "a\u{85}b\u{2028}c", "\u{feff}bom", "tab\tand  two  spaces",
    "    four", "        eight", "                sixteen", "a b c d e f g", "antidisestablishmentarianism",
    "Donaudampfschifffahrtsgesellschaft", "aaaaaaaaaaaaaaaaaaaa", "ababababab", "Meer Meer Meer", "\\n \\t \\\\",
    "I'm sure it's what they've said, and we'll see.", "A. B. C.", "e.g., i.e., etc.", "U.S.A.", "1st 2nd 3rd",
    "ſ'S ǅ'll", "ĠĊ", "▁", "x ▁ y", "▁▁a", "<0x41>", "[PAD]", "</w>", "##ing", "null", "~`|", "a_b", "a__b", "\u{1}\u{7f}",
];

/// Compares.
///
/// # Errors
/// The first text with other ids, or a tokenizer.json that the library itself cannot read.
pub(super) fn compare(json: &Json, tokenizer: &Tokenizer) -> Result<()> {
    let mut original: tokenizers::Tokenizer = json
        .to_string()
        .parse()
        .map_err(|error| Error::malformed("content", "a file that `tokenizers` reads", error))?;
    original.with_padding(None);
    let untruncated = original.with_truncation(None).map(|_| ());
    untruncated.map_err(|error| Error::malformed("truncation", "one that can be switched off", error))?;
    original.set_encode_special_tokens(true);
    texts().iter().try_for_each(|text| same_ids(&original, tokenizer, text, Special::Plain))?;
    original.set_encode_special_tokens(false);
    around_added(json).iter().try_for_each(|text| same_ids(&original, tokenizer, text, Special::Parse))
}

fn same_ids(
    original: &tokenizers::Tokenizer,
    tokenizer: &Tokenizer,
    text: &str,
    special: Special,
) -> Result<()> {
    let expected = original
        .encode(text, false)
        .map_err(|error| Error::malformed(format!("the text {text:?}"), "one that it encodes", error))?;
    let found = tokenizer.encode(text, special)?;
    if found == expected.get_ids() {
        return Ok(());
    }
    Err(Error::unsupported(
        format!(
            "this tokenizer: {text:?} has the tokens {:?} in the original and would have {found:?}",
            expected.get_ids()
        ),
        "nothing is written, because a model that reads other tokens answers something else; \
         without tokenizer files it is converted to run from token ids",
    ))
}

/// Every text alone, and behind and below another.
fn texts() -> Vec<String> {
    let other = |i: usize| TEXTS[(i * 7 + 3) % TEXTS.len()];
    let each = |(i, text): (usize, &&str)| {
        [(*text).to_owned(), format!("{}{text}", other(i)), format!("{text} {}", other(i + 1))]
    };
    TEXTS.iter().enumerate().flat_map(each).collect()
}

/// Texts with tokens that are matched as a whole.
fn around_added(json: &Json) -> Vec<String> {
    let added = json["added_tokens"].as_array().into_iter().flatten().filter_map(|a| a["content"].as_str());
    // Their names in a text stay text here: a file that talks about bytes means no bytes.
    let (bytes, added): (Vec<&str>, Vec<&str>) = added.partition(|text| byte_named(text).is_some());
    if let Some(first) = bytes.first() {
        tracing::warn!(
            "{} byte tokens such as {first} are matched in no text, unlike in the original",
            bytes.len()
        );
    }
    let ends = added.iter().take(ADDED).chain(added.iter().skip(ADDED).rev().take(ADDED));
    let first = added.first().copied().unwrap_or_default();
    ends.flat_map(|token| {
        [
            (*token).to_owned(),
            format!("{token}Hello"),
            format!("a{token}b"),
            format!("a {token} b"),
            format!("{token} \n x {token}{token}"),
            format!("{first}{token} ä{first}\t"),
        ]
    })
    .collect()
}
