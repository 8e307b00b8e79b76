//! Merges as scores: SentencePiece joins by the score of the result, Hugging Face by the rank of the pair. The two agree
//! where every way to make a token of two others is a merge, and these merges stand together; else the runtime needs them.

use super::tokens::Tokens;
use std::collections::{HashMap, HashSet};

/// Gives every token the score that its merges stand for, and keeps the merges where scores cannot tell their order.
pub(super) fn set(merges: &[(&str, &str)], tokens: &mut Tokens) {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut stand_together = true;
    let mut last = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        let made = [*left, *right].concat();
        stand_together &= made == last || !ranks.contains_key(&made);
        ranks.entry(made.clone()).or_insert(rank);
        last = made;
    }
    if !(stand_together && all_ways_are_merges(merges, &ranks, tokens)) {
        tokens.merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    }
    for token in tokens.tokens.iter_mut().flatten() {
        // What no merge makes comes last; single characters are never asked for their score.
        token.score = ranks.get(&token.text).map_or(-1e9, |&rank| -(rank as f32));
    }
}

/// Whether any two tokens that make a token which merges make are a merge themselves.
fn all_ways_are_merges(merges: &[(&str, &str)], ranks: &HashMap<String, usize>, tokens: &Tokens) -> bool {
    let pairs: HashSet<(&str, &str)> = merges.iter().copied().collect();
    let is_token = |text: &str| tokens.id_of(text).is_some();
    let texts = tokens.tokens.iter().flatten().map(|token| token.text.as_str());
    texts.filter(|text| ranks.contains_key(*text)).all(|text| {
        let mut ways = text.char_indices().skip(1).map(|(cut, _)| text.split_at(cut));
        ways.all(|way| !is_token(way.0) || !is_token(way.1) || pairs.contains(&way))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tokens::{Kind, Token};
    use super::*;

    fn tokens(texts: &[&str]) -> Tokens {
        let mut tokens = Tokens::default();
        for (id, text) in (0..).zip(texts) {
            tokens.set(id, Token { text: (*text).to_owned(), score: 0.0, kind: Kind::Normal }, 99).unwrap();
        }
        tokens
    }

    #[test]
    fn merges_that_scores_can_tell() {
        let mut all = tokens(&["a", "b", "ab", "ba", "aba", "x"]);
        set(&[("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba")], &mut all);
        let scores: Vec<f32> = all.tokens.iter().flatten().map(|token| token.score).collect();
        assert_eq!((scores, all.merges.len()), (vec![-1e9, -1e9, 0.0, -1.0, -2.0, -1e9], 0));
    }

    #[test]
    fn merges_that_they_cannot_tell_are_kept() {
        for merges in [
            &[("a", "b"), ("b", "a"), ("ab", "a")][..],          // not (a, ba)
            &[("ab", "a"), ("a", "b"), ("b", "a"), ("a", "ba")], // others between two ways to aba
        ] {
            let mut all = tokens(&["a", "b", "ab", "ba", "aba"]);
            set(merges, &mut all);
            assert_eq!(all.merges.len(), merges.len());
        }
    }
}
