//! Masks against recognizers of other people, or so plain that they are right.

mod bombs;
mod calls;
mod gbnf;
mod masks;
mod schemas;
mod speed;

use super::*;
use crate::tokenizer::bytes::CHARACTERS;
use crate::tokenizer::{SpecialIds, Tokenizer, VocabularySpec};
use std::sync::{Arc, LazyLock};

/// Tokens of several bytes: some split characters, one comes twice.
const WORDS: &[&str] = &[
    "ab", "ba", "aa", "bb", "abc", "a,b", "12", "3.", "true", "tr", "ue", "null", "\"", "\":", "\",", "{\"",
    "\"}", "},", "[]", "  ", "\n\n", " \"", "ü", "öß", "🦙", "ab", "+1", "(1", "))", "=", "\\n", "\\u00",
    "<think>",
];
const CONTROLS: &[&str] = &["<|end|>", "<|begin|>", "</s>"];

/// The bytes, [`WORDS`], parts of characters, then [`CONTROLS`]; the first and the last of these end an answer.
fn tokenizer() -> Tokenizer {
    let spell = |bytes: &[u8]| bytes.iter().map(|&byte| CHARACTERS[usize::from(byte)]).collect::<String>();
    let parts: [&[u8]; 3] = [b"a\xC3", b"\xBC\xC3", b"\x9F\xA6"];
    let words = WORDS.iter().map(|word| spell(word.as_bytes()));
    let all: Vec<String> =
        (0..=255u8).map(|byte| spell(&[byte])).chain(words).chain(parts.map(spell)).collect();
    let tokens: Vec<&str> = all.iter().map(String::as_str).chain(CONTROLS.iter().copied()).collect();
    let mut types = vec![1; all.len()];
    types.extend([3; 3]);
    let ids = SpecialIds { eos: Some(tokens.len() as u32 - 1), ..Default::default() };
    let ends = vec![all.len() as u32];
    // A token that comes twice is only allowed where it is no text of the file's twice.
    let spec = VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ids, ends, ..Default::default() };
    Tokenizer::new(&spec).unwrap()
}

/// Some more logits than tokens.
const MORE: usize = 40;

static VOCABULARY: LazyLock<(Tokenizer, Arc<Vocabulary>)> = LazyLock::new(vocabulary);

fn vocabulary() -> (Tokenizer, Arc<Vocabulary>) {
    let tokenizer = tokenizer();
    let size = tokenizer.vocabulary_size() + MORE;
    let vocabulary = Vocabulary::new(&tokenizer, size).unwrap();
    (tokenizer, vocabulary)
}

fn compile(grammar: &Grammar) -> Result<Matcher> {
    VOCABULARY.1.compile(grammar)
}

/// A generator of its own, so that a seed tells a whole test.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// What a text of bytes is to somebody else: whether it can go on to be a text of the grammar, and whether it is one.
type Judge<'j> = dyn Fn(&[u8]) -> (bool, bool) + 'j;

/// Walks through a grammar at random and compares each mask with what another says of every token; the text at the end.
fn compare(matcher: &Matcher, judge: &Judge, random: &mut Random, steps: usize) -> Vec<u8> {
    let (tokenizer, vocabulary) = &*VOCABULARY;
    let (mut matcher, mut text) = (matcher.clone(), vec![]);
    for _ in 0..steps {
        let may_end = matcher.may_end().unwrap();
        assert_eq!(may_end, judge(&text).1, "after {:?}", String::from_utf8_lossy(&text));
        let mask = match matcher.allowed().unwrap() {
            Next::End => {
                let goes_on = (0..=255u8).any(|byte| judge(&[&text[..], &[byte]].concat()).0);
                assert!(!goes_on, "it ends after {:?}", String::from_utf8_lossy(&text));
                return text;
            }
            Next::Tokens(mask) => mask,
        };
        let mut allowed = vec![];
        // Of the bytes that only parts of characters have, some.
        let is_looked_at =
            |token: &u32| !(128..256).contains(token) || token % 16 == 4 || mask.allows(*token);
        for token in (0..vocabulary.size() as u32).filter(is_looked_at) {
            let expected = if tokenizer.is_end(token) {
                may_end
            } else if tokenizer.is_control(token) || token as usize >= tokenizer.vocabulary_size() {
                false
            } else {
                judge(&[&text[..], tokenizer.piece_bytes(token)].concat()).0
            };
            let found = mask.allows(token);
            let name = tokenizer.token_text(token);
            assert_eq!(found, expected, "{name:?} after {:?}", String::from_utf8_lossy(&text));
            allowed.extend((found && !tokenizer.is_end(token)).then_some(token));
        }
        assert_eq!(mask.tokens().filter(|token| !tokenizer.is_end(*token)).collect::<Vec<_>>(), allowed);
        // Whole words now and then, or the bytes would be all there is.
        let words: Vec<u32> = allowed.iter().copied().filter(|&token| token >= 256).collect();
        let among = if words.is_empty() || random.below(3) == 0 { &allowed } else { &words };
        let token = among[random.below(among.len())];
        matcher.advance(token).unwrap();
        text.extend_from_slice(tokenizer.piece_bytes(token));
    }
    text
}
