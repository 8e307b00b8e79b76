//! Finds special tokens in text before anything else looks at it: leftmost first, the longest where several begin.
//!
//! User-defined tokens count always, control tokens only on request, so that what a person types can never pass for
//! the end of a turn. Which tokens are special is the vocabulary's word.

use super::vocabulary::{TokenType, Vocabulary};
use crate::{Error, Result};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// How control tokens that stand in the text are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// As ordinary text: what people and files say.
    Plain,
    /// As the tokens they name: what a chat template wrote.
    Parse,
}

/// A stretch of text, or a special token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// One set of texts to look for.
struct Matcher {
    automaton: AhoCorasick,
    ids: Vec<u32>, // token of each pattern
}

impl Matcher {
    fn new(vocabulary: &Vocabulary, kinds: &[TokenType]) -> Result<Option<Self>> {
        let tokens = kinds.iter().flat_map(|&kind| vocabulary.of_kind(kind));
        let (ids, texts): (Vec<u32>, Vec<&str>) = tokens.filter(|(_, text)| !text.is_empty()).unzip();
        if ids.is_empty() {
            return Ok(None);
        }
        // The compact automaton: the faster one would take 1 KiB for every byte of a stranger's token texts.
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .dense_depth(1)
            .build(&texts)
            .map_err(|error| Error::malformed("tokenizer.ggml.tokens", "fewer special tokens", error))?;
        Ok(Some(Self { automaton, ids }))
    }
}

/// The special tokens of a vocabulary.
pub(super) struct SpecialTokens {
    plain: Option<Matcher>,
    parse: Option<Matcher>,
}

impl SpecialTokens {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self> {
        use TokenType::{Control, Unknown, UserDefined};
        let plain = Matcher::new(vocabulary, &[UserDefined])?;
        Ok(Self { plain, parse: Matcher::new(vocabulary, &[UserDefined, Control, Unknown])? })
    }

    /// Calls `each` with the fragments of `text` in order; stretches of text are never empty.
    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        special: Special,
        mut each: impl FnMut(Fragment<'a>) -> Result<()>,
    ) -> Result<()> {
        let matcher = if special == Special::Plain { &self.plain } else { &self.parse };
        let mut done = 0;
        for found in matcher.iter().flat_map(|matcher| matcher.automaton.find_iter(text)) {
            if done < found.start() {
                each(Fragment::Text(&text[done..found.start()]))?;
            }
            let ids = matcher.as_ref().map(|matcher| matcher.ids[found.pattern().as_usize()]);
            ids.map_or(Ok(()), |id| each(Fragment::Token(id)))?;
            done = found.end();
        }
        if done < text.len() { each(Fragment::Text(&text[done..])) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::VocabularySpec;
    use super::*;
    use Fragment::{Text, Token};

    #[test]
    fn control_tokens_only_on_request_longest_first() {
        let tokens = vec!["<unk>", "<s>", "<s><t>", "  ", "x", ""];
        let spec = VocabularySpec { tokens, types: vec![2, 3, 3, 4, 1, 3], ..Default::default() };
        let special = SpecialTokens::new(&Vocabulary::new(&spec).unwrap()).unwrap();
        let parse = |text, mode| {
            let mut fragments = Vec::new();
            let mut push = |fragment| {
                fragments.push(fragment);
                Ok(())
            };
            special.split(text, mode, &mut push).unwrap();
            fragments
        };
        use Special::{Parse, Plain};
        assert_eq!(parse("", Parse), []);
        assert_eq!(parse("x<s>  ü", Plain), [Text("x<s>"), Token(3), Text("ü")]);
        assert_eq!(parse("<s><s><t>x<unk>", Parse), [Token(1), Token(2), Text("x"), Token(0)]);
        assert_eq!(parse("<s><t>   ", Parse), [Token(2), Token(3), Text(" ")]);
    }
}
