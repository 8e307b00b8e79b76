//! What happens to text before anything is looked for in it: the steps of a tokenizer's normalizer, as the file lists
//! them, and the space that goes before text which brings none.
//!
//! Other programs do not know these keys and read the text as it is; `moewe convert` says so when it writes them. Where
//! special tokens end and text begins is `special.rs`' business.

use super::SPACE;
use super::charsmap::CharsMap;
use crate::{Error, Result};
use regex::{NoExpand, Regex};
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The key of the steps: an array of strings, each step's name followed by its operands.
pub const STEPS: &str = "moewe.tokenizer.normalizer";

/// Longest operand. Real ones are a character or a word; a stranger's could make any text fill the memory.
const LONGEST_OPERAND: usize = 256;

/// What all steps together may make of a text: so many times its bytes, and some.
const MOST_GROWTH: usize = 32;

/// One step.
enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    StripLeft,
    StripRight,
    SqueezeSpaces, // none at the ends, one between words: SentencePiece's remove_extra_whitespaces
    CharsMap(CharsMap),
    Prepend(String),
    Replace(String, String),
    ReplaceRegex(Regex, String),
}

/// Steps in their order.
pub struct Normalizer {
    steps: Vec<Step>,
}

impl Normalizer {
    /// Reads the list of steps; `charsmap` is `tokenizer.ggml.precompiled_charsmap`, which the step `charsmap` applies.
    ///
    /// # Errors
    /// Steps that are not known, lack an operand, or cannot be compiled.
    pub fn new(words: &[&str], charsmap: &[u8]) -> Result<Self> {
        let mut words = words.iter().copied();
        let mut steps = Vec::new();
        while let Some(name) = words.next() {
            let mut operand = || {
                let operand = words.next().filter(|operand| operand.len() <= LONGEST_OPERAND);
                operand.map(str::to_owned).ok_or_else(|| lacks_operand(name))
            };
            steps.push(match name {
                "nfc" => Step::Nfc,
                "nfd" => Step::Nfd,
                "nfkc" => Step::Nfkc,
                "nfkd" => Step::Nfkd,
                "lowercase" => Step::Lowercase,
                "strip_accents" => Step::StripAccents,
                "strip_left" => Step::StripLeft,
                "strip_right" => Step::StripRight,
                "squeeze_spaces" => Step::SqueezeSpaces,
                "charsmap" => Step::CharsMap(CharsMap::new(charsmap)?),
                "prepend" => Step::Prepend(operand()?),
                "replace" => Step::Replace(operand()?, operand()?),
                "replace_regex" => Step::ReplaceRegex(compiled(&operand()?)?, operand()?),
                _ => return Err(unknown(name)),
            });
        }
        Ok(Self { steps })
    }

    /// `text` after all steps.
    ///
    /// # Errors
    /// Steps that make a text many times as long.
    pub fn apply<'a>(&self, text: &'a str) -> Result<Cow<'a, str>> {
        let most = text.len().saturating_mul(MOST_GROWTH).saturating_add(1 << 16);
        let mut changed = Cow::Borrowed(text);
        for step in &self.steps {
            if let Some(next) = step.apply(&changed) {
                changed = Cow::Owned(next);
            }
            if changed.len() > most {
                let expected = format!("steps that make {} bytes at most {most}", text.len());
                return Err(Error::malformed(format!("key `{STEPS}`"), expected, changed.len()));
            }
        }
        Ok(changed)
    }
}

impl Step {
    /// The changed text; `None` where it certainly stays as it is.
    fn apply(&self, text: &str) -> Option<String> {
        if text.is_ascii()
            && matches!(self, Self::Nfc | Self::Nfd | Self::Nfkc | Self::Nfkd | Self::StripAccents)
        {
            return None;
        }
        Some(match self {
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
            // Character by character, as Hugging Face does: no final sigma.
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::StripAccents => text.chars().filter(|&c| !is_combining_mark(c)).collect(),
            Self::StripLeft => text.trim_start().to_owned(),
            Self::StripRight => text.trim_end().to_owned(),
            Self::SqueezeSpaces => {
                text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
            }
            Self::CharsMap(map) => map.apply(text),
            Self::Prepend(_) if text.is_empty() => return None,
            Self::Prepend(before) => before.clone() + text,
            Self::Replace(from, to) => text.replace(from, to),
            Self::ReplaceRegex(pattern, to) => pattern.replace_all(text, NoExpand(to)).into_owned(),
        })
    }
}

fn lacks_operand(name: &str) -> Error {
    Error::malformed(
        format!("key `{STEPS}`"),
        format!("an operand of at most {LONGEST_OPERAND} bytes after {name:?}"),
        "none",
    )
}

fn unknown(name: &str) -> Error {
    Error::unsupported(
        format!("the step {name:?} in `{STEPS}` is not known here"),
        "a newer version of Möwe may know it",
    )
}

fn compiled(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        Error::malformed(
            format!("key `{STEPS}`"),
            "a regular expression",
            error.to_string().replace('\n', " "),
        )
    })
}

/// Where a space goes before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Nowhere.
    Never,
    /// Before every stretch of text, also after special tokens: SentencePiece.
    Every,
    /// Likewise, where the stretch does not begin with a space: Hugging Face's `always`.
    EveryMissing,
    /// Before a text that does not begin with a special token.
    First,
    /// Likewise, where it does not begin with a space: Hugging Face's `first`.
    FirstMissing,
}

impl SpacePrefix {
    /// The key.
    pub const KEY: &str = "moewe.tokenizer.space_prefix";
    const NAMES: [(&str, Self); 5] = [
        ("never", Self::Never),
        ("every", Self::Every),
        ("every-missing", Self::EveryMissing),
        ("first", Self::First),
        ("first-missing", Self::FirstMissing),
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, prefix)| *prefix == self).map_or("never", |(name, _)| name)
    }

    /// The prefix of that name.
    ///
    /// # Errors
    /// For names that are not known.
    pub fn by_name(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, prefix)| *prefix).ok_or_else(|| {
            let known = Self::NAMES.map(|(name, _)| name).join(", ");
            Error::malformed(format!("key `{}`", Self::KEY), format!("one of {known}"), format!("{name:?}"))
        })
    }

    /// Whether a whole stretch of text between special tokens gets one.
    pub(super) fn goes_before_stretch(self, is_first: IsFirst) -> bool {
        self == Self::Every || (self == Self::First && is_first == IsFirst::Yes)
    }

    /// Whether what is left of it, once normalized tokens are found, gets one where it has none.
    pub(super) fn goes_before_missing(self, is_first: IsFirst) -> bool {
        self == Self::EveryMissing || (self == Self::FirstMissing && is_first == IsFirst::Yes)
    }
}

/// How text is spelled before normalized tokens are looked for and words are merged.
pub(super) struct Spelling {
    pub(super) normalizer: Normalizer,
    pub(super) escapes_spaces: bool, // spaces are written `▁`
}

impl Spelling {
    pub(super) fn of<'a>(&self, text: &'a str) -> Result<Cow<'a, str>> {
        let text = self.normalizer.apply(text)?;
        Ok(if self.escapes_spaces { Cow::Owned(text.replace(' ', SPACE)) } else { text })
    }

    pub(super) fn space(&self) -> &'static str {
        if self.escapes_spaces { SPACE } else { " " }
    }
}

/// Whether a stretch of text stands at the beginning of what is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsFirst {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_do_what_hugging_face_does() {
        // Expected values from the Python package `tokenizers` 0.23.3.
        let cases: &[(&[&str], &str, &str)] = &[
            (&["nfc"], "e\u{301} \u{212b}", "é Å"),
            (&["nfd"], "é", "e\u{301}"),
            (&["nfkc", "lowercase"], "ﬁ① ΑΣ İ", "fi1 ασ i\u{307}"),
            (&["nfkd", "strip_accents"], "Größe ﬁ é", "Große fi e"),
            (&["strip_left"], " \t a ", "a "),
            (&["strip_right"], " a\u{a0} ", " a"),
            (&["squeeze_spaces"], "  a  b\n c ", "a b\n c"),
            (&["squeeze_spaces"], "   ", ""),
            (&["prepend", "▁", "replace", " ", "▁"], "a b", "▁a▁b"),
            (&["prepend", "▁"], "", ""),
            (&["replace_regex", "[0-9]+", "$0"], "a12b", "a$0b"),
        ];
        for (steps, text, expected) in cases {
            assert_eq!(Normalizer::new(steps, &[]).unwrap().apply(text).unwrap(), *expected, "{steps:?}");
        }
    }

    #[test]
    fn steps_that_cannot_be_done_are_errors() {
        let cases: &[(&[&str], &str)] = &[
            (&["nfc", "rot13"], "rot13"),
            (&["replace", "a"], "after \"replace\""),
            (&["replace_regex", "(", ""], "a regular expression"),
            (&["charsmap"], "precompiled_charsmap"),
        ];
        for (steps, expected) in cases {
            let message =
                Normalizer::new(steps, &[]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(expected), "{steps:?}: {message}");
        }
    }

    #[test]
    fn a_text_does_not_grow_without_end() {
        let eight = ["replace", "a", "aaaaaaaa"];
        let normalizer = Normalizer::new(&eight.repeat(30), &[]).unwrap();
        assert!(normalizer.apply("b").is_ok());
        assert!(normalizer.apply("a").unwrap_err().to_string().contains(STEPS));
        let long = "a".repeat(LONGEST_OPERAND + 1);
        assert!(Normalizer::new(&["prepend", &long], &[]).is_err());
    }

    #[test]
    fn prefixes_have_names() {
        for (name, prefix) in SpacePrefix::NAMES {
            assert_eq!((SpacePrefix::by_name(name).unwrap(), prefix.name()), (prefix, name));
        }
        assert!(SpacePrefix::by_name("last").unwrap_err().to_string().contains("first-missing"));
    }
}
