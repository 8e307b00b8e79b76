//! Merges as scores: SentencePiece joins by the score of the result, Hugging Face by the rank of the pair. The two agree
//! where every way to make a token of two others is a merge, and these merges stand together.

use super::Tokens;
use moewe_engine::{Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Gives every token the score that its merges stand for.
///
/// # Errors
/// Merges whose order no scores can tell.
pub(super) fn set(merges: &[(&str, &str)], tokens: &mut Tokens) -> Result<()> {
    let mut groups: HashMap<String, usize> = HashMap::new();
    let mut pairs = HashMap::new();
    let mut last = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        let made = [*left, *right].concat();
        match groups.entry(made.clone()) {
            Entry::Occupied(_) if made != last => return Err(no_score(left, right)),
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(rank);
            }
        }
        pairs.insert((*left, *right), rank);
        last = made;
    }
    let texts: Vec<String> = tokens.tokens.iter().flatten().map(|token| token.text.clone()).collect();
    let known: std::collections::HashSet<&str> = texts.iter().map(String::as_str).collect();
    for text in texts.iter().filter(|text| groups.contains_key(*text)) {
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if known.contains(left) && known.contains(right) && !pairs.contains_key(&(left, right)) {
                return Err(no_score(left, right));
            }
        }
    }
    for token in tokens.tokens.iter_mut().flatten() {
        // What no merge makes comes last; single characters are never asked for their score.
        token.score = groups.get(&token.text).map_or(-1e9, |&rank| -(rank as f32));
    }
    Ok(())
}

fn no_score(left: &str, right: &str) -> Error {
    Error::unsupported(
        format!("BPE over characters that treats {left:?} + {right:?} unlike other ways to the same token"),
        "GGUF's `llama` tokenizer merges by scores, which cannot tell; without tokenizer files the model is \
         converted to run from token ids",
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Token};
    use super::*;

    fn tokens(texts: &[&str]) -> Tokens {
        let token = |text: &&str| Some(Token { text: (*text).to_owned(), score: 0.0, kind: Kind::Normal });
        Tokens { tokens: texts.iter().map(token).collect(), ..Tokens::default() }
    }

    #[test]
    fn merges_that_scores_can_tell() {
        let mut all = tokens(&["a", "b", "ab", "ba", "aba", "x"]);
        set(&[("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba")], &mut all).unwrap();
        let scores: Vec<f32> = all.tokens.iter().flatten().map(|token| token.score).collect();
        assert_eq!(scores, [-1e9, -1e9, 0.0, -1.0, -2.0, -1e9]);
    }

    #[test]
    fn merges_that_they_cannot_tell_are_refused() {
        let texts = ["a", "b", "ab", "ba", "aba"];
        for merges in [
            &[("a", "b"), ("b", "a"), ("ab", "a")][..],          // not (a, ba)
            &[("ab", "a"), ("a", "b"), ("b", "a"), ("a", "ba")], // another between two ways to aba
        ] {
            let message = set(merges, &mut tokens(&texts)).unwrap_err().to_string();
            assert!(message.contains("\"a\" + \"ba\""), "{message}");
        }
    }
}
