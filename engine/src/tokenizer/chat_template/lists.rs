//! Lists that change in place: Python's do, minijinja's do not. What templates do to a list of a namespace is written as
//! another value for it; what they do to other lists stays an error, since their scopes would not be the same.

use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// The two ways: `{% set _ = ns.list.append(value) %}` and `{% set first = ns.list.pop(0) %}`.
static WAYS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let all = [
        (
            r"\{%(?<l>-?)\s*set\s+\w+\s*=\s*(?<list>\w+\.\w+)\.append\((?<value>(?:[^%]|%[^}])*?)\)\s*(?<r>-?)%\}",
            "{%$l set $list = $list + [$value] $r%}",
        ),
        (
            r"\{%(?<l>-?)\s*set\s+(?<name>\w+)\s*=\s*(?<list>\w+\.\w+)\.pop\(0\)\s*(?<r>-?)%\}",
            "{%$l set $name = $list[0] -%}{%- set $list = $list[1:] $r%}",
        ),
    ];
    let compiled = all.into_iter().filter_map(|(regex, new)| Some((Regex::new(regex).ok()?, new)));
    compiled.collect()
});

/// The source with such statements written otherwise.
pub(super) fn replaced(source: &str) -> Cow<'_, str> {
    WAYS.iter().fold(source.into(), |source, (regex, new)| match regex.replace_all(&source, *new) {
        Cow::Borrowed(_) => source,
        Cow::Owned(changed) => changed.into(),
    })
}

#[cfg(test)]
mod tests {
    use crate::tokenizer::{ChatTemplate, Message};

    #[test]
    fn lists_of_namespaces_change() {
        let source = "{% set ns = namespace(ids=['a']) %}{% macro add(id) %}{%- set _ = ns.ids.append(id | replace('%', (id)[:0])) -%}{% endmacro %}\
            {% for m in messages %}{{ add(m.content) }}{% endfor %}  {%- set first = ns.ids.pop(0) %} {{ first }}:{{ ns.ids | join('+') }}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let messages = ["b%", "c"].map(|text| Message::new("user", text));
        assert_eq!(template.render(&messages, false).unwrap().text(), " a:b+c");
        // Another list would be one of its scope only.
        let other = ChatTemplate::new("{% set l = [] %}{% set _ = l.append(1) %}", "", "").unwrap();
        assert!(other.render(&messages, false).unwrap_err().to_string().contains("append"));
        let plain = "{% set x = a.b.append %}{{ '.pop(0)' }}";
        assert_eq!(super::replaced(plain), plain);
    }
}
