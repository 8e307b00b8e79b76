//! A model's tokens as grammars see them, and the bounds of what a grammar may become.

use super::Mask;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use llguidance::ParserFactory;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokRxInfo, TokTrie};

/// Of the library's automata, 1 to 2 KB each, beyond which an answer fails.
const STATES: usize = 30_000;
const SYMBOLS: usize = 200_000;
/// Of a mask, about 20 to a microsecond: large vocabularies want many where words are single characters.
const ITEMS: usize = 200_000;
/// A longer token is never allowed; the library has 10 bits for it.
const LONGEST_TOKEN: usize = 512;

/// Made once per model; compiles grammars ([`Vocabulary::compile`]).
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    size: usize,
    ends: Vec<u32>,
    all_but_ends: Mask,
    white_space: Vec<(u32, usize)>, // tokens that are nothing else, with their lengths
    pub(super) late: AtomicUsize,   // grammars that took too long and are still at work
}

impl Vocabulary {
    /// That of `tokenizer`, for logits of `size` tokens; those that it does not have are never allowed.
    ///
    /// # Errors
    /// When the library cannot take it.
    pub fn new(tokenizer: &Tokenizer, size: usize) -> Result<Arc<Self>> {
        let ends: Vec<u32> = tokenizer.ends().iter().copied().filter(|&end| (end as usize) < size).collect();
        let mut words: Vec<Vec<u8>> = (0..size as u32).map(|token| word(tokenizer, &ends, token)).collect();
        let is_space = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_whitespace);
        let spaces = words.iter().enumerate().filter(|(_, word)| is_space(word));
        let white_space = spaces.map(|(token, word)| (token as u32, word.len())).collect();
        let mut all_but_ends = Mask::none(size);
        (0..size as u32).filter(|token| !ends.contains(token)).for_each(|token| all_but_ends.allow(token));
        // A token of each byte, by which a matcher takes parts of tokens.
        words.extend(
            (0..=u8::MAX).map(|byte| if byte == TokTrie::SPECIAL_TOKEN_MARKER { vec![] } else { vec![byte] }),
        );
        let made = catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, INVALID_TOKEN), &words);
            let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
            let environment: toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new_simple(&environment).map_err(|error| error.to_string())
        }));
        let mut factory = made.unwrap_or_else(|_| Err("it panicked".into())).map_err(|error| {
            Error::request(format!("grammars cannot work with this vocabulary: {}", reason(&error)))
        })?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = STATES;
        limits.max_grammar_size = SYMBOLS;
        limits.step_max_items = ITEMS;
        limits.verbose_errors = false;
        Ok(Arc::new(Self { factory, size, ends, all_but_ends, white_space, late: AtomicUsize::new(0) }))
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The tokens that end an answer.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// All tokens but those that end an answer.
    pub fn all_but_ends(&self) -> &Mask {
        &self.all_but_ends
    }

    /// The tokens of nothing but white space, with their lengths in bytes.
    pub fn white_space(&self) -> &[(u32, usize)] {
        &self.white_space
    }

    pub(super) fn of_byte(&self, byte: u8) -> u32 {
        self.size as u32 + u32::from(byte)
    }

    /// Takes the tokens of single bytes out of a mask.
    pub(super) fn forget_bytes(&self, mask: &mut Mask) {
        (0..=u8::MAX).for_each(|byte| mask.forbid(self.of_byte(byte)));
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("size", &self.size)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// The bytes of a token; those of control tokens stand behind a mark, so that no text is one.
fn word(tokenizer: &Tokenizer, ends: &[u32], token: u32) -> Vec<u8> {
    if tokenizer.is_control(token) || ends.contains(&token) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_text(token).as_bytes()].concat();
    }
    let bytes = tokenizer.piece_bytes(token);
    let is_text = bytes.len() <= LONGEST_TOKEN && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
    if is_text { bytes.to_vec() } else { vec![] }
}

/// What the library says, in one line and in our words where it speaks of its own settings.
pub(super) fn reason(error: &str) -> String {
    const LONGEST: usize = 300;
    let lines = error.lines().map(str::trim).take_while(|line| !line.starts_with('<'));
    let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return "it cannot be compiled".into();
    }
    if line.contains("oneOf constraints are not supported") {
        return "oneOf is supported where no two of its schemas hold at once, as with different constants; \
                anyOf is always"
            .into();
    }
    let line = line.replace("Unimplemented keys:", "keywords that are not supported:");
    // With a panic comes a long trace.
    if line.starts_with("panic") {
        return "it is too much for what compiles it".into();
    }
    line.chars().take(LONGEST).collect()
}
