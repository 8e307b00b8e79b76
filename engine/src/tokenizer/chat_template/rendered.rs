//! A rendered conversation: its text, and which of it stood in the messages.

use super::super::Origin;
use std::ops::Range;

/// The text that a template made of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    // What of the messages could pass for the template's: the other characters of a message are in no control token, so
    // nobody has to tell them apart.
    contents: Vec<Range<usize>>,
}

impl Rendered {
    pub(super) fn new(text: String, contents: Vec<Range<usize>>) -> Self {
        Self { text, contents }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parts in their order, for [`Tokenizer::encode_parts`](crate::tokenizer::Tokenizer::encode_parts): characters
    /// of messages that a control token could be made of are [`Origin::Content`].
    pub fn parts(&self) -> impl Iterator<Item = (&str, Origin)> {
        let starts = std::iter::once(0).chain(self.contents.iter().map(|range| range.end));
        let ends = self.contents.iter().cloned().chain(std::iter::once(self.text.len()..self.text.len()));
        let pairs = starts.zip(ends).flat_map(|(start, content)| {
            [(start..content.start, Origin::Template), (content, Origin::Content)]
        });
        pairs.filter(|(range, _)| !range.is_empty()).map(|(range, origin)| (&self.text[range], origin))
    }

    /// What follows where this begins with all of `known` and then `answer`; `None` where it does not.
    pub fn after(&self, known: &Self, answer: &str) -> Option<Self> {
        self.text.strip_prefix(&known.text)?.strip_prefix(answer)?;
        let (prompt, skipped) = (known.text.len(), known.text.len() + answer.len());
        let within = self.contents.partition_point(|range| range.end <= prompt);
        if self.contents[..within] != known.contents {
            return None;
        }
        let rest = self.contents.iter().filter(|range| range.end > skipped);
        let contents = rest.map(|range| range.start.saturating_sub(skipped)..range.end - skipped).collect();
        Some(Self { text: self.text[skipped..].to_owned(), contents })
    }

    /// What comes before the end of the last place where `content` stands: there a model goes on in the middle of a turn.
    /// Templates may have trimmed it. `None` where it stands nowhere.
    pub fn until(&self, content: &str) -> Option<Self> {
        let content = if self.text.contains(content) { content } else { content.trim() };
        let end = self.text.rfind(content)? + content.len();
        let within = self.contents.iter().filter(|range| range.start < end);
        let contents = within.map(|range| range.start..range.end.min(end)).collect();
        Some(Self { text: self.text[..end].to_owned(), contents })
    }
}

/// A text that is continued as it stands: control tokens in it count.
impl From<String> for Rendered {
    fn from(text: String) -> Self {
        Self { text, contents: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Origin::{Content, Template};

    fn rendered(text: &str, contents: &[(usize, usize)]) -> Rendered {
        Rendered::new(text.to_owned(), contents.iter().map(|&(start, end)| start..end).collect())
    }

    #[test]
    fn a_turn_is_left_open() {
        let whole = rendered("<u>a<x></u><m>b <y></m>", &[(4, 7), (16, 19)]);
        let open = rendered("<u>a<x></u><m>b <y>", &[(4, 7), (16, 19)]);
        assert_eq!(whole.until("b <y>  "), Some(open));
        assert_eq!(whole.until("a<"), Some(rendered("<u>a<", &[(4, 5)])));
        assert_eq!(whole.until("z"), None);
    }

    #[test]
    fn parts_cover_the_text() {
        let cases = [
            (Rendered::default(), vec![]),
            (rendered("ab", &[]), vec![("ab", Template)]),
            (rendered("abc", &[(0, 1), (2, 3)]), vec![("a", Content), ("b", Template), ("c", Content)]),
            (rendered("abc", &[(1, 2)]), vec![("a", Template), ("b", Content), ("c", Template)]),
        ];
        for (rendered, expected) in cases {
            assert_eq!(rendered.parts().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_is_known_is_taken_off() {
        let known = rendered("<q<>", &[(2, 3)]);
        let whole = rendered("<q<>a<b>c<", &[(2, 3), (5, 6), (9, 10)]);
        assert_eq!(whole.after(&known, "a<b"), Some(rendered(">c<", &[(2, 3)])));
        assert_eq!(whole.after(&known, "b"), None);
        // The same text, but there the message's and here the template's.
        assert_eq!(whole.after(&rendered("<q<>", &[]), "a"), None);
    }
}
