//! `{% generation %}` blocks: around what a model is to be trained on, in the words of the template itself.
//!
//! Jinja knows no such tag. Each becomes a condition that holds, with a variable in it that is a mark where the text is
//! for training and undefined, so nothing, everywhere else. White space around a tag goes as it would around any other.

use regex::Regex;
use serde_json::{Map, Value as Json};
use std::sync::LazyLock;

/// The variables that hold the marks.
const BEGIN: &str = "moewe_generation_begins";
const END: &str = "moewe_generation_ends";

static TAG: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());

/// Whether `source` has such blocks.
pub(super) fn are_in(source: &str) -> bool {
    TAG.as_ref().is_some_and(|tag| tag.is_match(source))
}

/// `source` in Jinja's own words.
pub(super) fn with_marks(source: &str) -> String {
    let Some(tag) = &*TAG else { return source.to_owned() };
    // A block of its own holds the mark: the outer tags trim what is around them, the mark is never next to it.
    let replace = |found: &regex::Captures| {
        let (left, right) = (&found[1], &found[3]);
        if found.get(2).is_some() {
            format!("{{%{left} endif %}}{{% if true %}}{{{{ {END} }}}}{{% endif {right}%}}")
        } else {
            format!("{{%{left} if true %}}{{{{ {BEGIN} }}}}{{% endif %}}{{% if true {right}%}}")
        }
    };
    tag.replace_all(source, replace).into_owned()
}

/// The variables for a rendering with marks.
pub(super) fn variables((begin, end): (char, char)) -> Map<String, Json> {
    let entry = |(name, mark): (&str, char)| (name.to_owned(), Json::from(mark.to_string()));
    [(BEGIN, begin), (END, end)].into_iter().map(entry).collect()
}
