//! Sets of characters, as classes in a grammar name them.

/// Ranges of code points, ascending, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Characters(Vec<(u32, u32)>);

const LAST: u32 = char::MAX as u32;

impl Characters {
    pub(super) fn new(ranges: impl IntoIterator<Item = (char, char)>) -> Self {
        Self::of(ranges.into_iter().map(|(first, last)| (first as u32, last as u32)).collect())
    }

    pub(super) fn one(c: char) -> Self {
        Self::new([(c, c)])
    }

    pub(super) fn all() -> Self {
        Self(vec![(0, LAST)])
    }

    fn of(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = vec![];
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// All others.
    pub(super) fn inverted(&self) -> Self {
        let mut next = 0;
        let mut ranges = vec![];
        for &(first, last) in &self.0 {
            if first > next {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        Self(ranges)
    }

    /// Adds those of another set; whether there were new ones.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let both = Self::of([&self.0[..], &other.0].concat());
        let grows = both != *self;
        *self = both;
        grows
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(one), Some(two)) = (a.peek(), b.peek()) {
            if one.1 < two.0 {
                a.next();
            } else if two.1 < one.0 {
                b.next();
            } else {
                return true;
            }
        }
        false
    }

    /// As a class of a regular expression.
    pub(super) fn class(&self) -> String {
        if *self == Self::all() {
            return "(?s:.)".into();
        }
        let range = |&(first, last): &(u32, u32)| match first == last {
            true => escaped(first),
            false => format!("{}-{}", escaped(first), escaped(last)),
        };
        format!("[{}]", self.0.iter().map(range).collect::<String>())
    }
}

/// A code point as it may stand anywhere in a regular expression, and between slashes.
fn escaped(code: u32) -> String {
    match char::from_u32(code).filter(char::is_ascii_alphanumeric) {
        Some(c) => c.to_string(),
        None => format!("\\x{{{code:X}}}"),
    }
}

/// A text as a regular expression that matches it alone.
pub(super) fn literal(text: &str) -> String {
    text.chars().map(|c| escaped(c as u32)).collect()
}
