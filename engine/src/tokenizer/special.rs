//! Finds special tokens in text before anything else looks at it: leftmost first, the longest where several begin.
//!
//! User-defined tokens count always, control tokens only on request, so that what a person types can never pass for
//! the end of a turn. Which tokens are special is the vocabulary's word.

use super::normalizer::Spelling;
use super::spec::Matching;
use super::stand_ins;
use super::vocabulary::{TokenType, Vocabulary};
use crate::{Error, Result};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

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

/// [`Matching`] for look-ups.
struct Flags {
    lstrip: HashSet<u32>,
    rstrip: HashSet<u32>,
    single_word: HashSet<u32>,
    normalized: HashSet<u32>,
}

impl Flags {
    fn new(matching: &Matching) -> Self {
        let set = |ids: &[u32]| ids.iter().copied().collect();
        Self {
            lstrip: set(&matching.lstrip),
            rstrip: set(&matching.rstrip),
            single_word: set(&matching.single_word),
            normalized: set(&matching.normalized),
        }
    }
}

/// One token to look for.
struct Pattern {
    id: u32,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

impl Pattern {
    fn new(id: u32, flags: &Flags) -> Self {
        let [lstrip, rstrip, single_word] =
            [&flags.lstrip, &flags.rstrip, &flags.single_word].map(|ids| ids.contains(&id));
        Self { id, lstrip, rstrip, single_word }
    }

    /// What the match `start..end` takes of `text`; `None` where it does not count.
    fn extent(&self, text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
        let (before, after) = (&text[..start], &text[end..]);
        let touches = |character: Option<char>| character.is_some_and(is_word);
        if self.single_word && (touches(before.chars().next_back()) || touches(after.chars().next())) {
            return None;
        }
        let start = if self.lstrip { before.trim_end().len() } else { start };
        let end = if self.rstrip { text.len() - after.trim_start().len() } else { end };
        Some((start, end))
    }
}

/// Whether `character` belongs to a word as regular expressions understand it (`\w`).
fn is_word(character: char) -> bool {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w$").ok());
    WORD.as_ref().is_some_and(|word| word.is_match(character.encode_utf8(&mut [0; 4])))
}

/// One set of texts to look for.
struct Matcher {
    automaton: AhoCorasick,
    patterns: Vec<Pattern>,
}

impl Matcher {
    fn new(tokens: &[(u32, Cow<str>)], flags: &Flags) -> Result<Option<Self>> {
        let tokens = tokens.iter().filter(|(_, text)| !text.is_empty());
        let (ids, texts): (Vec<u32>, Vec<&str>) = tokens.map(|(id, text)| (*id, &**text)).unzip();
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
        let patterns = ids.into_iter().map(|id| Pattern::new(id, flags)).collect();
        Ok(Some(Self { automaton, patterns }))
    }

    /// The tokens in `text` with what they take of it, from left to right.
    fn find<'m>(&'m self, text: &'m str) -> impl Iterator<Item = (u32, usize, usize)> + 'm {
        self.automaton.find_iter(text).filter_map(|found| {
            let pattern = &self.patterns[found.pattern().as_usize()];
            let (start, end) = pattern.extent(text, found.start(), found.end())?;
            Some((pattern.id, start, end))
        })
    }
}

/// The texts looked for in one pass, without and with control tokens.
struct Matchers {
    plain: Option<Matcher>,
    parse: Option<Matcher>,
}

impl Matchers {
    fn new<'v>(
        vocabulary: &'v Vocabulary,
        flags: &Flags,
        spell: impl Fn(u32, &'v str) -> Option<Result<Cow<'v, str>>>,
    ) -> Result<Self> {
        use TokenType::{Control, Unknown, UserDefined};
        let spell = |(id, text)| Some(spell(id, text)?.map(|text| (id, text)));
        let mut tokens =
            vocabulary.of_kind(UserDefined).filter_map(spell).collect::<Result<Vec<(u32, Cow<str>)>>>()?;
        let plain = Matcher::new(&tokens, flags)?;
        for kind in [Control, Unknown] {
            let more = vocabulary.of_kind(kind).filter_map(spell).collect::<Result<Vec<_>>>()?;
            tokens.extend(more);
        }
        Ok(Self { plain, parse: Matcher::new(&tokens, flags)? })
    }

    fn split<'a>(
        &self,
        text: &'a str,
        special: Special,
        mut each: impl FnMut(Fragment<'a>) -> Result<()>,
    ) -> Result<()> {
        let matcher = if special == Special::Plain { &self.plain } else { &self.parse };
        let mut done = 0;
        for (id, start, end) in matcher.iter().flat_map(|matcher| matcher.find(text)) {
            if done < start {
                each(Fragment::Text(&text[done..start]))?;
            }
            each(Fragment::Token(id))?;
            done = done.max(end);
        }
        if done < text.len() { each(Fragment::Text(&text[done..])) } else { Ok(()) }
    }
}

/// One character at least of every control token, and of its normalized spelling.
fn guards(vocabulary: &Vocabulary, spelling: &Spelling, looks_twice: bool) -> Result<Vec<char>> {
    let control = || [TokenType::Control, TokenType::Unknown].into_iter().flat_map(|k| vocabulary.of_kind(k));
    let mut texts: Vec<Cow<str>> = control().map(|(_, text)| Cow::Borrowed(text)).collect();
    if looks_twice {
        let spelled = control().map(|(_, text)| spelling.of(text)).collect::<Result<Vec<_>>>()?;
        texts.extend(spelled);
    }
    let mut guards = stand_ins::guards(texts.iter().map(|text| &**text));
    if looks_twice {
        let wide = WIDE_FORMS.iter().filter(|(narrow, _)| guards.contains(narrow));
        let wide: Vec<char> = wide.flat_map(|(_, wide)| *wide).collect();
        guards.extend(wide);
    }
    Ok(guards)
}

/// The special tokens of a vocabulary.
pub(super) struct SpecialTokens {
    raw: Matchers,
    normalized: Matchers,
    guards: Vec<char>, // no control token is without one of these
    looks_twice: bool, // there are tokens that are looked for after the normalizer
}

/// What compatibility forms make into the characters that most control tokens begin with.
const WIDE_FORMS: &[(char, [char; 2])] = &[('<', ['\u{fe64}', '\u{ff1c}']), ('[', ['\u{fe47}', '\u{ff3b}'])];

impl SpecialTokens {
    pub(super) fn new(vocabulary: &Vocabulary, matching: &Matching, spelling: &Spelling) -> Result<Self> {
        let flags = &Flags::new(matching);
        let comes_later = |id: u32| flags.normalized.contains(&id);
        let looks_twice = !flags.normalized.is_empty();
        Ok(Self {
            guards: guards(vocabulary, spelling, looks_twice)?,
            looks_twice,
            raw: Matchers::new(vocabulary, flags, |id, text| {
                (!comes_later(id)).then_some(Ok(Cow::Borrowed(text)))
            })?,
            normalized: Matchers::new(vocabulary, flags, |id, text| {
                comes_later(id).then(|| spelling.of(text))
            })?,
        })
    }

    /// Characters without which no control token can be written.
    pub(super) fn guards(&self) -> &[char] {
        &self.guards
    }

    /// Whether tokens are looked for after the normalizer, too.
    pub(super) fn looks_twice(&self) -> bool {
        self.looks_twice
    }

    /// Calls `each` with the fragments of `text` in order; stretches of text are never empty.
    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        special: Special,
        each: impl FnMut(Fragment<'a>) -> Result<()>,
    ) -> Result<()> {
        self.raw.split(text, special, each)
    }

    /// Likewise for a stretch of text that has been normalized.
    pub(super) fn split_normalized<'a>(
        &self,
        text: &'a str,
        special: Special,
        each: impl FnMut(Fragment<'a>) -> Result<()>,
    ) -> Result<()> {
        self.normalized.split(text, special, each)
    }
}

#[cfg(test)]
mod tests {
    use super::super::normalizer::Normalizer;
    use super::super::spec::VocabularySpec;
    use super::*;
    use Fragment::{Text, Token};

    #[test]
    fn control_tokens_only_on_request_longest_first() {
        let tokens = vec!["<unk>", "<s>", "<s><t>", "  ", "x", ""];
        let spec = VocabularySpec { tokens, types: vec![2, 3, 3, 4, 1, 3], ..Default::default() };
        let vocabulary = Vocabulary::new(&spec).unwrap();
        let special = SpecialTokens::new(&vocabulary, &Matching::default(), &plain()).unwrap();
        let parse = |text, mode| fragments(&special, text, mode);
        use Special::{Parse, Plain};
        assert_eq!(parse("", Parse), []);
        assert_eq!(parse("x<s>  ü", Plain), [Text("x<s>"), Token(3), Text("ü")]);
        assert_eq!(parse("<s><s><t>x<unk>", Parse), [Token(1), Token(2), Text("x"), Token(0)]);
        assert_eq!(parse("<s><t>   ", Parse), [Token(2), Token(3), Text(" ")]);
    }
    fn plain() -> Spelling {
        Spelling { normalizer: Normalizer::new(&[], &[]).unwrap(), escapes_spaces: false }
    }

    fn fragments<'a>(special: &SpecialTokens, text: &'a str, mode: Special) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut push = |fragment| {
            fragments.push(fragment);
            Ok(())
        };
        special.split(text, mode, &mut push).unwrap();
        fragments
    }

    /// As `AddedVocabulary::find_matches` of Hugging Face's `tokenizers` 0.23 does it.
    #[test]
    fn flags_widen_and_forbid_matches() {
        let tokens = vec!["<l>", "<r>", "<w>", "<lr>"];
        let spec = VocabularySpec { tokens, types: vec![3; 4], ..Default::default() };
        let matching =
            Matching { lstrip: vec![0, 3], rstrip: vec![1, 3], single_word: vec![2], normalized: vec![] };
        let vocabulary = Vocabulary::new(&spec).unwrap();
        let special = SpecialTokens::new(&vocabulary, &matching, &plain()).unwrap();
        let parse = |text| fragments(&special, text, Special::Parse);
        assert_eq!(parse("a \n<l> b"), [Text("a"), Token(0), Text(" b")]);
        assert_eq!(parse("a <r> \t b"), [Text("a "), Token(1), Text("b")]);
        assert_eq!(parse("<r>  <l> x"), [Token(1), Token(0), Text(" x")]);
        assert_eq!(parse("a <lr> b"), [Text("a"), Token(3), Text("b")]);
        assert_eq!(parse("a<w> <w> ä<w>_ -<w>"), [Text("a<w> "), Token(2), Text(" ä<w>_ -"), Token(2)]);
    }
}
