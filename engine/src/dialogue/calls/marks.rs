//! What stands around calls, as far as it is fixed: words with white space between them, which models write as they like.

/// Stands in a mark for what is another each time, such as the id of a call.
pub(super) const ANY: char = '\u{e000}';

/// Longer variable words are none.
const LONGEST_ANY: usize = 64;

/// Words that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(Vec<String>);

/// What a text is to a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its first so many bytes are the mark.
    Whole(usize),
    /// It may become the mark.
    Begun,
    No,
}

impl Mark {
    /// Tags are words of their own.
    pub(super) fn new(text: &str) -> Self {
        let mut words = vec![];
        let mut rest = text.trim();
        while let Some(first) = rest.chars().next() {
            let length = tag(rest).unwrap_or_else(|| {
                let ends = |c: char| c.is_whitespace() || "<[".contains(c) || (c == ANY) != (first == ANY);
                rest[first.len_utf8()..].find(ends).map_or(rest.len(), |at| at + first.len_utf8())
            });
            words.push(rest[..length].to_owned());
            rest = rest[length..].trim_start();
        }
        Self(words)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn words(&self) -> &[String] {
        &self.0
    }

    /// The mark without all words but the last.
    pub(super) fn last(&self) -> Self {
        Self(self.0.last().cloned().into_iter().collect())
    }

    /// Whether `text` begins with it. A text that begins with white space does not.
    pub(super) fn at(&self, text: &str) -> Found {
        let mut rest = text;
        for (number, word) in self.0.iter().enumerate() {
            if number > 0 {
                rest = rest.trim_start();
            }
            if word.starts_with(ANY) {
                let length = rest.find(|c: char| c.is_whitespace() || "<[".contains(c)).unwrap_or(rest.len());
                if length > LONGEST_ANY {
                    return Found::No;
                }
                rest = &rest[length..];
            } else if let Some(behind) = rest.strip_prefix(word.as_str()) {
                rest = behind;
                continue;
            } else if !word.starts_with(rest) {
                return Found::No;
            }
            if rest.is_empty() || !word.starts_with(ANY) {
                return Found::Begun;
            }
        }
        if self.is_empty() { Found::No } else { Found::Whole(text.len() - rest.len()) }
    }
}

/// The length of the tag that `text` begins with.
fn tag(text: &str) -> Option<usize> {
    let close = match text.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return None,
    };
    let end = text.find(|c: char| c == close || c.is_whitespace() || c == ANY)?;
    (text[end..].starts_with(close) && end > 1).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_stand_apart() {
        let words = |text: &str| Mark::new(text).0;
        assert_eq!(words("<tool_call>\n<function="), ["<tool_call>", "<function="]);
        assert_eq!(words("[TOOL_CALLS][ "), ["[TOOL_CALLS]", "["]);
        assert_eq!(words("<a>x<b>\n```json\n"), ["<a>", "x", "<b>", "```json"]);
        assert_eq!(words("<x:\u{e000}<y>"), ["<x:", "\u{e000}", "<y>"]);
        let mark = Mark::new("<tool_call><function=");
        for (text, found) in [
            ("<tool_call>\n <function=f", Found::Whole(23)),
            ("<tool_call><function=", Found::Whole(21)),
            ("<tool_call>\n", Found::Begun),
            ("<tool", Found::Begun),
            ("<tool_call>{", Found::No),
            ("x", Found::No),
            ("", Found::Begun),
        ] {
            assert_eq!(mark.at(text), found, "{text:?}");
        }
        let with_id = Mark::new("<begin>\u{e000}<name>");
        assert_eq!(with_id.at("<begin>c17<name>f"), Found::Whole(16));
        assert_eq!(with_id.at("<begin>c1"), Found::Begun);
        assert_eq!(with_id.at(&format!("<begin>{}", "c".repeat(65))), Found::No);
        assert_eq!(Mark::default().at("x"), Found::No);
    }
}
